"""Servers in a thread, with clients beside them, while everything is captured."""

import asyncio
import http.client
import socket
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn.server
from hypercorn.asyncio import serve
from hypercorn.config import Config
from uvicorn.config import WS_PROTOCOLS
from websockets.sync.client import ClientConnection, connect

from otel_logging import setup_observability
from otel_logging.testing import Captured, capture

# its implementations of WebSockets; the oldest version that we support lacks one
WEBSOCKETS = tuple(
    each for each in ("websockets", "websockets-sansio", "wsproto") if each in WS_PROTOCOLS
)
SERVERS = (*WEBSOCKETS, "hypercorn")
PATIENCE_S = 8.0


class _Prompt:
    """asyncio as uvicorn's server sees it, which sleeps 0.1 s before each look whether it is to end
    and whether it is done: most of many a test.
    """

    @staticmethod
    async def sleep(delay: float) -> None:
        await asyncio.sleep(min(delay, 0.01))

    def __getattr__(self, name: str) -> Any:
        return getattr(asyncio, name)


uvicorn.server.asyncio = _Prompt()  # type: ignore[assignment]


class Seen:
    """What was captured, and where the server is."""

    def __init__(self, captured: Captured, port: int) -> None:
        self.captured = captured
        self.port = port

    @property
    def lines(self) -> list[dict[str, Any]]:
        return self.captured.lines

    def named(self, name: str) -> list[dict[str, Any]]:
        return [span for span in self.captured.spans if span["name"] == name]

    def line(self, event: str) -> dict[str, Any]:
        return self.captured.line(event)

    def access(self, path: str) -> dict[str, Any]:
        (line,) = [line for line in self.lines if f" {path} " in line["event"]]
        return line

    def wait_for(self, name: str, number: int = 1) -> list[dict[str, Any]]:
        """Return the spans of that name, once so many have ended."""
        deadline = time.monotonic() + PATIENCE_S
        while len(found := self.named(name)) < number:
            assert time.monotonic() < deadline, f"{name}: {len(found)}\n{self.captured}"
            time.sleep(0.02)  # each look decodes all that is there
        return found

    def ask(
        self, path: str, method: str = "GET", **headers: str
    ) -> tuple[int, dict[str, str], bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE_S)
        try:
            connection.request(
                method, path, headers={k.replace("_", "-"): v for k, v in headers.items()}
            )
            response = connection.getresponse()
            body = response.read()
            return response.status, {k.lower(): v for k, v in response.headers.items()}, body
        finally:
            connection.close()

    def connect(self, path: str, **options: Any) -> ClientConnection:
        sock = socket.create_connection(("127.0.0.1", self.port), PATIENCE_S)
        sock.settimeout(None)
        return connect(f"ws://127.0.0.1:{self.port}{path}", sock=sock, **options)


@contextmanager
def serving(
    app: Any, server: str = WEBSOCKETS[-2], options: dict[str, Any] | None = None, **settings: Any
) -> Iterator[Seen]:
    """Serve *app*, by uvicorn with that implementation of WebSockets or by hypercorn."""
    with (
        capture(log_level="info") as captured,
        setup_observability("shop", **settings),
        running(app, server, **(options or {})) as port,
    ):
        yield Seen(captured, port)


@contextmanager
def running(app: Any, server: str, **options: Any) -> Iterator[int]:
    """Run *server* with *app* in a thread, with *options* of uvicorn; yield its port."""
    listening = socket.create_server(("127.0.0.1", 0))
    port = listening.getsockname()[1]
    with (_hypercorn if server == "hypercorn" else _uvicorn)(app, server, listening, **options):
        yield port


@contextmanager
def _uvicorn(app: Any, ws: str, listening: socket.socket, **options: Any) -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its oldest implementation
        config = uvicorn.Config(
            app,
            ws=ws,
            loop="asyncio",
            **{"timeout_graceful_shutdown": 5, **options},
        )
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, args=([listening],))
        thread.start()
        try:
            yield
        finally:
            server.should_exit = True
            thread.join(PATIENCE_S)
            assert not thread.is_alive()


@contextmanager
def _hypercorn(app: Any, _: str, listening: socket.socket, **__: Any) -> Iterator[None]:
    ended = threading.Event()
    config = Config.from_mapping(
        bind=f"fd://{listening.detach()}", accesslog="-", graceful_timeout=5
    )

    async def main() -> None:
        async def until_ended() -> None:
            while not ended.is_set():
                await asyncio.sleep(0.02)

        await serve(app, config, shutdown_trigger=until_ended)

    thread = threading.Thread(target=lambda: asyncio.run(main()))
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join(PATIENCE_S)
        assert not thread.is_alive()
