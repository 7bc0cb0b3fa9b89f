"""Collectors that misbehave below HTTP, on real loopback sockets; and certificates for TLS.

In: a function that treats one connection. Out: how many connections there were.
Deliberately absent: OTLP (``receiver``).
"""

import contextlib
import shutil
import socket
import ssl
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import pytest

from tests.programs import good, run

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"


class Rude:
    """Treats each connection with *behave*, in a thread of its own, until ``stop``."""

    def __init__(
        self,
        behave: "Callable[[Rude, socket.socket], None]",
        *,
        tls: ssl.SSLContext | None = None,
        host: str = "127.0.0.1",
    ) -> None:
        self.connections = 0
        self.stopping = threading.Event()
        self.changed = threading.Condition()
        self._behave = behave
        self._tls = tls
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._listening = socket.create_server((host, 0), family=family)
        self._open: list[socket.socket] = []
        self.port = self._listening.getsockname()[1]
        named = f"[{host}]" if ":" in host else host
        self.endpoint = f"{'https' if tls else 'http'}://{named}:{self.port}/v1/traces"
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Break every connection and wait for the threads. Idempotent."""
        self.stopping.set()
        accepting, *_ = self._threads
        _break(self._listening)
        accepting.join()
        for opened in self._open:
            _break(opened)
        for thread in self._threads:
            thread.join()
        self._listening.close()

    def wait_for_connections(self, count: int) -> None:
        with self.changed:
            assert self.changed.wait_for(lambda: self.connections >= count, 10)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listening.accept()
                if self.stopping.is_set():
                    connection.close()
                    return
                with self.changed:
                    self.connections += 1
                    self.changed.notify_all()
                self._open.append(connection)
                thread = threading.Thread(target=self._treat, args=(connection,))
                self._threads.append(thread)
                thread.start()

    def _treat(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError), connection:
            if self._tls is None:
                self._behave(self, connection)
                return
            secured = self._tls.wrap_socket(connection, server_side=True)
            self._open.append(secured)
            with secured:
                self._behave(self, secured)

    def drip(self, connection: socket.socket, data: bytes, *, pace_s: float = 0.02) -> None:
        """Send *data* again and again, a byte at a time, until the other end has enough."""
        while True:
            for byte in data:
                connection.sendall(bytes((byte,)))
                if self.stopping.wait(pace_s):
                    return


def _break(opened: socket.socket) -> None:
    with contextlib.suppress(OSError):  # the other end was quicker
        socket.socket.shutdown(opened, socket.SHUT_RDWR)


def read_request(connection: socket.socket) -> bytes:
    """Read one request; return its head. Failure: raises OSError at the connection's end."""
    head = b""
    while b"\r\n\r\n" not in head:
        chunk = connection.recv(65536)
        if not chunk:
            raise ConnectionResetError
        head += chunk
    head, _, body = head.partition(b"\r\n\r\n")
    lines = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:])
    missing = int(lines.get(b"content-length", 0)) - len(body)
    while missing > 0:
        chunk = connection.recv(65536)
        if not chunk:
            raise ConnectionResetError
        missing -= len(chunk)
    return head


def say_nothing(rude: Rude, connection: socket.socket) -> None:
    """Read the request, and never answer."""
    read_request(connection)
    rude.stopping.wait()


def read_nothing(rude: Rude, connection: socket.socket) -> None:
    """Accept, and neither read nor answer."""
    rude.stopping.wait()


def drip_head(rude: Rude, connection: socket.socket) -> None:
    """Answer with headers without end, a byte at a time."""
    read_request(connection)
    connection.sendall(b"HTTP/1.1 200 OK\r\n")
    rude.drip(connection, b"x-more: 1\r\n")


def drip_body(rude: Rude, connection: socket.socket) -> None:
    """Accept the request, with a body without end, a byte at a time."""
    read_request(connection)
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
    rude.drip(connection, b"x")


def hang_up(rude: Rude, connection: socket.socket) -> None:
    """Close the connection at once."""


def always(*answers: bytes) -> Callable[[Rude, socket.socket], None]:
    """Give *answers* to the requests of a connection in turn, and then close it."""

    def behave(rude: Rude, connection: socket.socket) -> None:
        for answer in answers:
            read_request(connection)
            connection.sendall(answer)

    return behave


# ---------------------------------------------------------------- certificates


@dataclass(frozen=True)
class Certificates:
    """PEM files: an authority of our own, and what it has signed. *both*: with the key."""

    authority: Path
    server: Path
    server_key: Path
    client: Path
    client_key: Path
    client_both: Path
    locked_key: Path

    def server_context(self, *, wants_client: bool = False) -> ssl.SSLContext:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=self.authority)
        context.load_cert_chain(self.server, self.server_key)
        if wants_client:
            context.verify_mode = ssl.CERT_REQUIRED
        return context


def make_certificates(directory: Path) -> Certificates:
    """Make certificates with the `openssl` command; skip the test where there is none."""
    if shutil.which("openssl") is None:
        pytest.skip("needs the openssl command")
    made = Certificates(
        **{name: directory / f"{name}.pem" for name in Certificates.__dataclass_fields__}
    )
    extensions = directory / "extensions"
    extensions.write_text(
        "subjectAltName=IP:127.0.0.1,IP:::1,DNS:localhost\nauthorityKeyIdentifier=keyid\n"
    )
    key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    authority_key = directory / "authority.key"

    def openssl(*arguments: object) -> None:
        good(run("openssl", *arguments))

    openssl(
        *("req", "-x509", *key, "-subj", "/CN=authority", "-days", 1),
        *("-addext", "keyUsage=critical,keyCertSign,cRLSign"),  # Python 3.13 insists on it
        *("-keyout", authority_key, "-out", made.authority),
    )
    for name, certificate, own_key in (
        ("server", made.server, made.server_key),
        ("client", made.client, made.client_key),
    ):
        request = directory / f"{name}.csr"
        openssl("req", "-new", *key, "-subj", f"/CN={name}", "-keyout", own_key, "-out", request)
        openssl(
            *("x509", "-req", "-in", request, "-CA", made.authority, "-CAkey", authority_key),
            *("-CAcreateserial", "-days", 1, "-extfile", extensions, "-out", certificate),
        )
    made.client_both.write_bytes(made.client.read_bytes() + made.client_key.read_bytes())
    openssl(
        *("pkey", "-in", made.client_key, "-aes256", "-passout", "pass:secret"),
        *("-out", made.locked_key),
    )
    return made
