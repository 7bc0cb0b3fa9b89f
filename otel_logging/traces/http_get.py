"""GET over HTTP, by one deadline and into bounded memory.

In: a base URL, paths and parameters. Out: a ``Reply``. Invariant: what is asked
for is there by the deadline, or an error is. Nothing is followed (no redirects),
nothing is asked but the URL (no proxies, no `.netrc`). Deliberately absent: what
the reply means.
"""

import contextlib
import http.client
import socket
import ssl
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlencode, urlsplit

from otel_logging._sockets import Socket

#: Of one reply. 1,500 traces of twenty spans and as many lines are half of it.
REPLY_BYTES: Final = 64 << 20


class TooLargeError(Exception):
    """A reply is larger than ``REPLY_BYTES``."""


@dataclass(frozen=True, slots=True)
class Reply:
    """*date*: the server's clock, as the header ``Date`` has it; *location*: where it sends us
    instead. Empty where it says neither.
    """

    status: int
    body: bytes
    date: str
    location: str = ""


class Getter:
    """Asks one server, over a new connection each time: Jaeger keeps none open.

    Concurrency: any thread.
    """

    def __init__(self, base_url: str) -> None:
        parts = urlsplit(base_url)
        self._tls = ssl.create_default_context() if parts.scheme == "https" else None
        self._host = parts.hostname or ""
        self._port = parts.port or (80 if self._tls is None else 443)
        self._base_path = parts.path.rstrip("/")

    def get(self, path: str, params: Mapping[str, str], *, deadline: float) -> Reply:
        """Ask for *path*. *deadline*: monotonic, s.

        Failure: raises ``OSError`` (``TimeoutError`` at the deadline), for what is no HTTP
        ``http.client.HTTPException``, ``TooLargeError``.
        """
        target = self._base_path + path + (f"?{urlencode(params)}" if params else "")
        connected = self._connect(deadline)
        connection = http.client.HTTPConnection(self._host, self._port)
        connection.default_port = 80 if self._tls is None else 443
        connection.sock = connected
        with contextlib.closing(connection):
            headers = {"user-agent": "otel-logging", "connection": "close"}
            connection.request("GET", target, headers=headers)
            response = connection.getresponse()
            try:
                body = response.read()
            finally:
                if connected.allowance == 0:  # it was cut there, and may look whole
                    raise TooLargeError(target)
        told = response.headers
        return Reply(response.status, body, told.get("Date", ""), told.get("Location", ""))

    def _connect(self, deadline: float) -> Socket:
        """Connect to the first address of the name that takes us."""
        failure = OSError("the name has no address")
        addresses = socket.getaddrinfo(self._host, self._port, type=socket.SOCK_STREAM)
        for family, kind, protocol, _, address in addresses:
            opened = Socket(family, kind, protocol)
            try:
                opened.deadline = deadline
                opened.connect(address)
                if self._tls is not None:
                    opened.secure(self._tls, self._host)
            except OSError as error:
                failure = error
                opened.close()
                continue
            opened.deadline, opened.allowance = deadline, REPLY_BYTES
            return opened
        raise failure


def in_seconds(seconds: float) -> float:
    """Return the deadline that is so many seconds away."""
    return time.monotonic() + seconds
