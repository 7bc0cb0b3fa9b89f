"""The package's HTTP client: each request has one deadline, and its response is bounded.

In: a URL, requests, each with a deadline. Out: ``Response``. Invariant: no request lasts longer
than its deadline, however slowly the other end sends. (The timeouts of the standard library,
urllib3 and requests are for each socket operation, so a byte now and then keeps a request alive for
ever.) No redirect is followed, and no proxy or `.netrc` is used. ``http.client`` is not used: with
its ``email`` it takes a tenth of set-up to import. Deliberately absent: what a response means, and
a second try.
"""

import _socket
import contextlib
import functools
import io
import math
import re
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Final, NamedTuple
from urllib.parse import urlsplit

from otel_logging import _forks
from otel_logging._green import Lock
from otel_logging._sockets import Received, Socket, TlsSocket

if TYPE_CHECKING:
    import ssl

#: A valid length, by its base; ``int`` would take signs, underscores and "0x" as well.
_LENGTHS: Final = {10: "[0-9]{1,18}", 16: "[0-9A-Fa-f]{1,16}"}


class NotHttpError(OSError):
    """The other end does not speak HTTP."""


class Response(NamedTuple):
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
            self._make, self._usual_port = functools.partial(TlsSocket, tls, self._host), 443
        self._port = parts.port or self._usual_port
        #: For the ``Host`` header: without user and default port.
        self._netloc = parts.netloc.rpartition("@")[2].removesuffix(f":{self._usual_port}")
        self._most_bytes = most_bytes
        self._socket: Socket | None = None
        self.reset()

    def reset(self) -> None:
        """Begin anew: drop the connection, which after a fork is the parent's."""
        # the lock keeps ``interrupt`` from a descriptor that is another file's by then
        self._lock = Lock()
        self._is_interrupted = False
        self._drop()

    def _drop(self) -> None:
        with self._lock:
            dropped, self._socket = self._socket, None
            if dropped is not None:
                dropped.abandon()

    def interrupt(self) -> None:
        """End the request that is under way, and every later one until ``reset``."""
        self._is_interrupted = True
        with self._lock:
            kept = self._socket  # the worker's ``reset``, at its end, makes a new lock
            if kept is not None and kept.is_ours():
                with contextlib.suppress(OSError):
                    kept.shutdown(_socket.SHUT_RDWR)

    def _publish(self, made: Socket) -> Socket:
        """Let ``interrupt`` find *made*, unless it was there already."""
        with self._lock:
            if not self._is_interrupted:
                self._socket = made
                return made
        made.abandon()
        raise InterruptedError("shut down")

    def _connect(self, deadline: float, connect_s: float) -> Socket:
        """Return the kept connection if it is still open, or a new one to the first address of the
        name that accepts it.
        """
        kept = self._socket
        if kept is not None and kept.is_ours() and kept.is_idle():
            return self._publish(kept)
        self._drop()
        failure = OSError("the name has no address")
        # as bytes: for a text getaddrinfo() imports a codec
        addresses = _socket.getaddrinfo(self._host.encode(), self._port, type=_socket.SOCK_STREAM)
        for family, kind, protocol, _, address in addresses:
            made = self._publish(self._make(family, kind, protocol))
            try:
                made.deadline = deadline
                made.connect(address, connect_s)
                return self._publish(made)
            except OSError as error:
                failure = error
                self._drop()
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

        Failure: raises ``OSError``: ``TimeoutError`` at the deadline, ``NotHttpError`` for what
        speaks something else; once the head of the response has come it raises nothing. Looking
        the name up takes as long as the system's resolver.
        """
        length = {} if body is None else {"content-length": str(len(body))}
        fields = {"host": self._netloc, "accept-encoding": "identity", **length, **headers}
        head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
        try:
            line = self._connect(deadline, connect_s)
            line.deadline, line.allowance = deadline, self._most_bytes
            line.sendall(f"{method} {target} HTTP/1.1\r\n{head}\r\n".encode() + (body or b""))
            answer = _Answer(line)
            version, status, reason, found = answer.head()
        except BaseException:
            self._drop()
            raise
        text, failure = io.BytesIO(), None
        try:
            text.writelines(answer.body(status, found))
        except Exception as error:
            failure = error
        said = "".join(each.get("connection", "") for each in (headers, found)).lower()
        has_ended = line.has_ended or not line.allowance or version == "HTTP/1.0"
        if has_ended or failure is not None or "close" in said:
            self._drop()
        return Response(status, reason, found, text.getvalue(), failure, not line.allowance)


class _Answer:
    """A response as it comes: RFC 9112. What is cut off at the bound counts as whole."""

    def __init__(self, line: Socket) -> None:
        self._line, self._file = line, io.BufferedReader(Received(line))

    def _text(self, *, is_first: bool = False) -> str:
        line = self._file.readline()
        if is_first and not b"HTTP/".startswith(line[:5]):
            raise NotHttpError(ascii(line[:40])[2:-1])
        if not line.endswith(b"\n"):
            self._check_whole()
            return ""
        return line.decode("latin-1").rstrip("\r\n")

    def _check_whole(self) -> None:
        if self._line.has_ended:
            raise ConnectionError("the answer was cut off")

    def head(self) -> tuple[str, int, str, dict[str, str]]:
        """Return the version, the status and its reason, and the headers.

        Failure: raises ``NotHttpError``, and ``ConnectionError`` where the head does not end.
        """
        status = "100"
        while status in ("100", "102", "103"):  # informational: the answer follows
            version, rest = self._text(is_first=True).partition(" ")[::2]
            status, reason = rest.strip().partition(" ")[::2]
            if not (len(status) == 3 and status.isdecimal()):
                raise NotHttpError(f"{version} {rest}")
            headers: dict[str, str] = {}
            while line := self._text():
                name, value = line.partition(":")[::2]
                before = headers.get(name.lower())
                headers[name.lower()] = value.strip() if before is None else f"{before},{value}"
        return version, int(status), reason, headers

    def body(self, status: int, headers: Mapping[str, str]) -> Iterator[bytes]:
        """Yield the parts of the body, to where it ends.

        Failure: raises ``ConnectionError`` where it is cut off, ``NotHttpError`` for an invalid
        length.
        """
        codings, lengths = (headers.get(n, "") for n in ("transfer-encoding", "content-length"))
        if status < 200 or status in (204, 304):
            return
        if codings.rpartition(",")[2].strip().lower() == "chunked":
            while size := _length(self._text().partition(";")[0], 16):
                yield from self._part(size)
                self._text()
            while self._text():  # trailers
                pass
        elif lengths and not codings:
            length, *others = {each.strip() for each in lengths.split(",")}
            yield from self._part(_length("" if others else length, 10))
        else:
            yield self._file.read()

    def _part(self, size: int) -> Iterator[bytes]:
        part = self._file.read(min(size, self._line.allowance + io.DEFAULT_BUFFER_SIZE))
        yield part
        if len(part) < size:
            self._check_whole()


def _length(text: str, base: int) -> int:
    if re.fullmatch(_LENGTHS[base], text.strip()):
        return int(text, base)
    raise NotHttpError("the answer has an invalid length")


def make_tls(*, cafile: str | None = None) -> "ssl.SSLContext":
    """Return a TLS context that checks the server's certificate."""
    with _forks.importing:
        import ssl

    return ssl.create_default_context(cafile=cafile)
