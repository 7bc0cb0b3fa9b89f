"""GET over HTTP, on one kept connection, by one deadline and into bounded memory.

In: a base URL, paths and parameters. Out: a ``Reply``. Invariant: what is asked
for is there by the deadline, or an error is. Nothing is followed (no redirects),
nothing is asked but the URL (no proxies, no `.netrc`). Deliberately absent: what
the reply means.
"""

import http.client
import socket
import ssl
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlencode, urlsplit

from otel_logging._sockets import Socket, TlsSocket

#: Of one reply. 1,500 traces of twenty spans and as many lines are half of it.
REPLY_BYTES: Final = 64 << 20


class TooLargeError(Exception):
    """A reply is larger than ``REPLY_BYTES``."""


@dataclass(frozen=True, slots=True)
class Reply:
    """*date*: the server's clock, as the header ``Date`` has it; empty where it has none."""

    status: int
    body: bytes
    date: str


class Getter:
    """Asks one server. Concurrency: one request at a time."""

    def __init__(self, base_url: str) -> None:
        parts = urlsplit(base_url)
        self._tls = _tls_context() if parts.scheme == "https" else None
        self._host = parts.hostname or ""
        self._port = parts.port or (80 if self._tls is None else 443)
        self._base_path = parts.path.rstrip("/")
        self._connection = http.client.HTTPConnection(self._host, self._port)
        self._connection.default_port = 80 if self._tls is None else 443

    def close(self) -> None:
        """Drop the connection."""
        self._connection.close()

    def get(self, path: str, params: Mapping[str, str], *, deadline: float) -> Reply:
        """Ask for *path*. *deadline*: monotonic, s.

        Failure: raises ``OSError`` (``TimeoutError`` at the deadline), for what is no HTTP
        ``http.client.HTTPException``, ``TooLargeError``.
        """
        target = self._base_path + path + (f"?{urlencode(params)}" if params else "")
        kept = self._connection.sock is not None
        try:
            return self._ask(target, deadline)
        except BaseException as error:
            self.close()
            # a kept connection may have been closed by the server meanwhile: ask again
            if not (kept and isinstance(error, ConnectionError)):
                raise
        return self._ask(target, deadline)

    def _ask(self, target: str, deadline: float) -> Reply:
        connected = self._connection.sock or self._connect(deadline)
        assert isinstance(connected, Socket)  # http.client takes any
        self._connection.sock = connected
        connected.deadline, connected.allowance = deadline, REPLY_BYTES
        self._connection.request("GET", target, headers={"user-agent": "otel-logging"})
        response = self._connection.getresponse()
        try:
            body = response.read()
        finally:
            if connected.allowance == 0:  # it was cut there, and may look whole
                raise TooLargeError(target)
        return Reply(response.status, body, response.headers.get("Date", ""))

    def _connect(self, deadline: float) -> Socket:
        """Connect to the first address of the name that takes us, each within the deadline."""
        failure = OSError("the name has no address")
        addresses = socket.getaddrinfo(self._host, self._port, type=socket.SOCK_STREAM)
        for family, kind, protocol, _, address in addresses:
            opened = Socket(family, kind, protocol)
            try:
                opened.deadline = deadline
                opened.settimeout(opened.left())
                opened.connect(address)
                return opened if self._tls is None else self._secured(opened)
            except OSError as error:
                failure = error
                opened.close()
        raise failure

    def _secured(self, opened: Socket) -> Socket:
        assert self._tls is not None
        opened.settimeout(opened.left())
        secured = self._tls.wrap_socket(opened, server_hostname=self._host)
        assert isinstance(secured, TlsSocket)
        return secured


def _tls_context() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.sslsocket_class = TlsSocket
    return context


def in_seconds(seconds: float) -> float:
    """Return the deadline that is so many seconds away."""
    return time.monotonic() + seconds
