"""Clients that mean it ill, and a server in a process of its own: what they make it hold.

In: a server, and whether ours is in place. Out: for each abuse the most memory that the server had
meanwhile, and what the clients saw.
"""

import asyncio
import socket
import struct
import sys
import threading
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from otel_logging import get_logger, setup_observability
from tests.integrations.serving import SERVERS, WEBSOCKETS, running
from tests.lines import ROOT, parsed
from tests.programs import Program

PATIENCE_S = 30.0
STOPPED_S = 0.5  # who can send nothing for so long is stopped
TEXT, BINARY, PING, PONG = 1, 2, 9, 10

log: Any = get_logger("shop")


async def _application(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] != "websocket":
        raise RuntimeError("no lifespan")
    await receive()
    await send({"type": "websocket.accept"})
    if scope["path"] == "/deaf":
        await asyncio.sleep(3600)
    while (event := await receive())["type"] == "websocket.receive":
        if scope["path"] == "/echo":
            await send({"type": "websocket.send", "bytes": event["bytes"]})
        elif event.get("text"):
            await send({"type": "websocket.send", "text": event["text"]})
    log.info("gone", path=scope["path"], code=event["code"])


def serve() -> None:
    """Be the server, until one is ended."""
    server, instrument = sys.argv[1:]
    setup_observability("shop", instrument=instrument)
    options = {"ws_ping_interval": 1.5, "ws_ping_timeout": 1.5}
    with running(_application, server, **options) as port:
        log.info("listening", port=port)
        threading.Event().wait()


_HANDSHAKE = (
    "GET {} HTTP/1.1\r\nHost: shop\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)


class Server:
    """A server that runs, and what it has said."""

    def __init__(self, name: str, program: Program, port: int) -> None:
        self.name, self.program, self.port = name, program, port
        self._pid = program.process.pid
        self._clients: list[socket.socket] = []

    def peak_mib(self) -> float:
        """Return the most memory that it has had since it was asked last, in MiB."""
        process = Path(f"/proc/{self._pid}")
        (line,) = [
            line for line in (process / "status").read_text().splitlines() if "VmHWM" in line
        ]
        (process / "clear_refs").write_text("5")  # the most from here on
        return int(line.split()[1]) / 1024

    def open(self, path: str) -> socket.socket:
        """Return a socket with a WebSocket on it, whose client does nothing by itself."""
        client = self.connect()
        client.sendall(_HANDSHAKE.format(path).encode())
        answer = b""
        while not answer.endswith(b"\r\n\r\n"):
            answer += client.recv(1)
        assert answer.startswith(b"HTTP/1.1 101"), answer
        return client

    def connect(self) -> socket.socket:
        """Return a socket, which stays open."""
        self._clients.append(socket.create_connection(("127.0.0.1", self.port), PATIENCE_S))
        return self._clients[-1]

    def leave(self) -> None:
        """Close what is open still."""
        while self._clients:
            self._clients.pop().close()


def frame(kind: int, data: bytes) -> bytes:
    """Return one frame of a client; its mask is zeros, so *data* stands in it as it is."""
    length = struct.pack("!BQ", 255, len(data)) if len(data) > 125 else bytes([128 + len(data)])
    return bytes([128 + kind]) + length + bytes(4) + data


def read(client: socket.socket, *, answers: bool = False) -> tuple[int, bytes]:
    """Return the next frame of the server that is no ping; *answers*: answer those."""
    while True:
        kind, length = exactly(client, 2)
        if length > 125:
            size = {126: 2, 127: 8}[length]
            length = int.from_bytes(exactly(client, size), "big")
        data = exactly(client, length)
        if kind & 15 != PING:
            return kind & 15, data
        if answers:
            client.sendall(frame(PONG, data))


def exactly(client: socket.socket, number: int) -> bytes:
    data = bytearray()
    while len(data) < number:
        part = client.recv(min(number - len(data), 1 << 20))
        assert part, "the server has hung up"
        data += part
    return bytes(data)


@contextmanager
def serving(server: str, directory: Path, instrument: str) -> Iterator[Server]:
    """Run *server*, one of uvicorn's implementations or hypercorn, with *instrument*."""
    code = "from tests.integrations.hostile import serve; serve()"
    command = [sys.executable, "-W", "ignore", "-c", code, server, instrument]
    variables = {
        "ENVIRONMENT": "production",
        "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9",
        "OTEL_LOGGING_SPOOL_DIR": str(directory / f"spool-{instrument}"),
    }
    with Program(command, cwd=ROOT, **variables) as program:
        port = int(program.wait_for_text(r'"port":(\d+)')[1])
        asked = Server(server, program, port)
        try:
            yield asked
        finally:
            program.process.kill()  # some of its connections never end
            asked.leave()


# ---------------------------------------------------------------- what they do


def pings(server: Server, number: int) -> Any:
    """Ping, and read what is answered only now and then. The application sees nothing of it."""
    client = server.open("/")
    answered = 0
    for first in range(0, number, 1000):
        data = [f"{n}".encode() for n in range(first, min(first + 1000, number))]
        client.sendall(b"".join(frame(PING, each) for each in data))
        answered += sum(read(client, answers=True) == (PONG, each) for each in data)
    return answered == number


def large_messages(server: Server) -> Any:
    """Send six messages of 10 MB as fast as they are taken: more than may be held."""
    client = server.open("/")
    for _ in range(6):
        client.sendall(frame(BINARY, bytes(10_000_000)))
    client.sendall(frame(TEXT, b"the last"))
    return read(client)


def _send_until_stopped(client: socket.socket, size: int) -> int:
    """Send messages of *size*, of half a megabyte at once, until the server takes no more.

    Return how often.
    """
    message, sent = frame(BINARY, bytes(size)) * (500_000 // size), 0
    client.settimeout(STOPPED_S)
    with suppress(TimeoutError):
        while sent < 1 << 28:
            sent += client.send(message[sent % len(message) :])
    client.settimeout(PATIENCE_S)
    assert sent < 60_000_000, "nobody stops it"  # beside the buffers of the two sockets
    return sent // len(message)


def unread_by_the_application(server: Server) -> Any:
    """Send to an application that does not ask for messages, large ones and small ones."""
    for size in (500_000, 10):
        assert _send_until_stopped(server.open("/deaf"), size)


def unread_by_the_client(server: Server) -> Any:
    """Have all answered, read no answer until the server takes no more; then read them all."""
    client = server.open("/echo")
    number = _send_until_stopped(client, 500_000)
    return {read(client) for _ in range(number)} == {(BINARY, bytes(500_000))}


def half_open(server: Server) -> Any:
    """Go away in the middle of a handshake, without a word, and by a reset."""
    for _ in range(100):
        server.connect().sendall(b"GET / HTTP/1.1\r\nHost: shop\r\nUpgrade: webso")
    silent = [server.open("/silent") for _ in range(10)]
    reset = [server.open("/reset") for _ in range(10)]
    for client in reset:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.close()
    # hypercorn does not mind that a ping is not answered, uvicorn's oldest waits ten seconds more;
    # uvicorn that lacks the newest has no pings in the other
    is_new = "websockets-sansio" in WEBSOCKETS
    is_prompt = is_new and server.name in ("websockets-sansio", "wsproto")
    expected = len(reset) + len(silent) * is_prompt

    def gone(program: Program) -> list[tuple[str, int]] | None:
        lines = parsed(b"".join(program.out))
        found = [(line["path"], line["code"]) for line in lines if line["event"] == "gone"]
        found = [each for each in found if each[0] in ("/silent", "/reset")]
        return sorted(found) if len(found) == expected else None

    return server.program.wait_for(gone)


def abuses(number_of_pings: int) -> dict[str, Callable[[Server], Any]]:
    """Return what clients do, by name."""
    return {
        f"{number_of_pings:,} pings": lambda server: pings(server, number_of_pings),
        "6 messages of 10 MB": large_messages,
        "the application does not read": unread_by_the_application,
        "the client does not read": unread_by_the_client,
        "half-open sockets": half_open,
    }


def abused(
    server: str, directory: Path, instrument: str, number_of_pings: int
) -> Generator[tuple[str, float, Any], None, None]:
    """Yield for each abuse its name, the memory in MiB beyond the first, and what clients saw."""
    with serving(server, directory, instrument) as asked:
        first = asked.peak_mib()
        for name, abuse in abuses(number_of_pings).items():
            found = abuse(asked)
            yield name, asked.peak_mib() - first, found
            asked.leave()


__all__ = ["SERVERS", "abused"]
