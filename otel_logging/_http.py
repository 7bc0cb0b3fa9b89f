"""HTTP requests that are over by one deadline and read into bounded memory: the package's client.

In: a URL, requests, each with a deadline. Out: ``Response``. Invariant: no request lasts
longer than its deadline, however slowly the other end drips: the timeouts of the standard
library, urllib3 and requests are per socket operation, so that a byte now and then keeps a
request alive for ever. Nothing is followed (no redirects), nothing is asked but the URL (no
proxies, no `.netrc`). ``http.client`` is imported by the first request: it takes as long as half
of the package. Deliberately absent: what a response means, and a second try.
"""

import contextlib
import functools
import math
import socket
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from otel_logging import _forks
from otel_logging._socket import Socket

if TYPE_CHECKING:
    import http.client
    import ssl


@dataclass(frozen=True, slots=True)
class Response:
    """*headers* have lower-case names. *error*: why *body* is not whole, or None; *is_too_large*:
    it was cut off here, at the client's bound.
    """

    status: int
    reason: str
    headers: Mapping[str, str]
    body: bytes
    error: Exception | None = None
    is_too_large: bool = False


class HttpClient:
    """Asks one server, over one connection, which is kept if the server keeps it.

    Concurrency: one thread at a time, but for ``interrupt``; after a fork, ``reset``.
    """

    def __init__(self, url: str, tls: "ssl.SSLContext | None", *, most_bytes: int) -> None:
        """Ask the server of *url*; at most *most_bytes* of a response are received."""
        parts = urlsplit(url)
        self._host, self._usual_port = parts.hostname or "", 80
        self._make: Callable[[int, int, int], Socket] = Socket
        if tls is not None:
            from otel_logging._tls import TlsSocket

            self._make, self._usual_port = functools.partial(TlsSocket, tls, self._host), 443
        self._port = parts.port or self._usual_port
        self._most_bytes = most_bytes
        self._socket: Socket | None = None
        self.reset()

    def reset(self) -> None:
        """Begin anew: drop the connection, which after a fork is the parent's."""
        # the lock keeps an interrupt from a descriptor that is another file's meanwhile
        self._lock = threading.Lock()
        #: None after an interrupt, and after a reset another one: a request that began before may
        #: go on then, for where threads are green a forked child has those of its parent as well.
        self._life: object | None = object()
        self._drop(self._life)

    def _drop(self, life: object) -> None:
        if self._life not in (life, None):  # pragma: no cover - a greenlet of the parent's
            return
        with self._lock:
            dropped, self._socket = self._socket, None
            if dropped is not None:
                dropped.abandon()
        self._connection: http.client.HTTPConnection | None = None

    def interrupt(self) -> None:
        """End the request that is under way, and every later one until ``reset``."""
        self._life = None
        with self._lock:
            kept = self._socket  # the worker's reset, at its end, has a lock of its own
            if kept is not None and kept.is_ours():
                with contextlib.suppress(OSError):
                    kept.shutdown(socket.SHUT_RDWR)

    def _publish(self, made: Socket, life: object) -> Socket:
        """Let ``interrupt`` find *made*, unless it, or a reset, was there already."""
        with self._lock:
            if self._life is life is not None:
                self._socket = made
                return made
        made.abandon()
        raise InterruptedError("shut down")

    def _connect(self, deadline: float, connect_s: float, life: object) -> Socket:
        """Return the kept connection, if it is still there, or one to the first address of the
        name that takes us.
        """
        kept = self._socket
        if kept is not None and kept.is_ours() and kept.is_idle():
            return self._publish(kept, life)
        self._drop(life)
        failure = OSError("the name has no address")
        with _forks.importing:  # which getaddrinfo() would import
            import encodings.idna  # noqa: F401
        addresses = socket.getaddrinfo(self._host, self._port, type=socket.SOCK_STREAM)
        for family, kind, protocol, _, address in addresses:
            made = self._publish(self._make(family, kind, protocol), life)
            try:
                made.deadline = deadline
                made.connect(address, connect_s)
                return self._publish(made, life)
            except OSError as error:
                failure = error
                self._drop(life)
        raise failure

    def request(
        self,
        method: str,
        target: str,
        headers: Mapping[str, str],
        body: bytes | None = None,
        *,
        deadline: float,
        connect_s: float = math.inf,
    ) -> Response:
        """Ask for *target*: a path, and a query. *deadline*: monotonic, s. *connect_s*: the most
        for each address of the name, since the next one may answer.

        Failure: raises ``OSError`` (``TimeoutError`` at the deadline), and
        ``http.client.HTTPException`` for what is not HTTP; once the head of the response has
        come it raises nothing. Looking the name up takes as long as the system's resolver.
        """
        life = self._life
        try:
            line = self._connect(deadline, connect_s, life)
            line.deadline, line.allowance = deadline, self._most_bytes
            connection = self._connection or self._make_connection()
            connection.sock = line
            connection.request(method, target, body, headers)
            response = connection.getresponse()
            if line.has_ended:  # which http.client takes for the end of the head
                raise ConnectionError("the answer was cut off")
        except BaseException:
            self._drop(life)
            raise
        text, failure = b"", None
        try:
            _find_end(response)
            text = response.read(self._most_bytes)
        except Exception as error:
            failure = error
        if line.has_ended and (response.chunked or response.length):
            failure = failure or ConnectionError("the answer was cut off")
        is_last = response.will_close or headers.get("connection") == "close"
        if is_last or not response.isclosed():
            self._drop(life)
        found = {name.lower(): value for name, value in response.headers.items()}
        is_too_large = not line.allowance
        return Response(response.status, response.reason, found, text, failure, is_too_large)

    def _make_connection(self) -> "http.client.HTTPConnection":
        with _forks.importing:
            import http.client

        connection = http.client.HTTPConnection(self._host, self._port)
        connection.default_port = self._usual_port
        self._connection = connection
        return connection


def _find_end(response: "http.client.HTTPResponse") -> None:
    """Know where *response* ends in what ``http.client`` takes for one that ends with the
    connection: a last coding that is ``chunked``, a length said twice. RFC 9112, 6.3.

    Failure: raises ``ValueError`` for a length that is invalid.
    """
    if response.chunked or response.status in (204, 304):
        return
    codings = ",".join(response.headers.get_all("transfer-encoding", []))
    lengths = ",".join(response.headers.get_all("content-length", []))
    if codings.rpartition(",")[2].strip().lower() == "chunked":
        response.chunked, response.chunk_left = True, None
    elif lengths and not codings:
        length, *others = {each.strip() for each in lengths.split(",")}
        if others or not (length.isascii() and length.isdecimal()):
            raise ValueError("the answer has an invalid length")
        response.length = int(length)


def make_tls(*, cafile: str | None = None) -> "ssl.SSLContext":
    """Return how TLS is spoken with a server whose certificate is checked."""
    with _forks.importing:
        import ssl

    return ssl.create_default_context(cafile=cafile)
