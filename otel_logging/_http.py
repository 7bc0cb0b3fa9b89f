"""HTTP requests that are over by one deadline and read into bounded memory: the package's client.

In: a URL, requests, each with a deadline. Out: ``Response``. Invariant: no request lasts
longer than its deadline, however slowly the other end drips: the timeouts of the standard
library, urllib3 and requests are per socket operation, so that a byte now and then keeps a
request alive for ever. Nothing is followed (no redirects), nothing is asked but the URL (no
proxies, no `.netrc`). Deliberately absent: what a response means, and a second try.

gevent and eventlet replace the classes of ``socket`` and ``ssl``, before this
file is imported or after it. So these are the system's own sockets, which never
block: only the wait for the other end is the library's, looked up for each wait.
``http.client`` and ``ssl``, which take as long to import as half of the package, are
imported by who makes a client.
"""

import _socket
import contextlib
import errno
import io
import math
import os
import select
import socket
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from otel_logging import _forks
from otel_logging._green import is_green

if TYPE_CHECKING:
    import http.client
    import ssl

#: What a connection that is under way says, on POSIX and on Windows.
_UNDER_WAY: Final = frozenset({errno.EINPROGRESS, errno.EWOULDBLOCK, errno.EINTR})
#: A collector that hangs up is an error, in programs that die of SIGPIPE as well.
_NO_SIGNAL: Final = getattr(_socket, "MSG_NOSIGNAL", 0)
_AT_ONCE: Final = 64 << 10  # bytes read from the system, or encrypted, at once
_LONGEST_WAIT_S: Final = 3600.0  # poll() takes no number of any size


class Socket(_socket.socket):
    """A socket with a deadline and an allowance, over TLS after ``secure``."""

    deadline = 0.0  # monotonic, s
    allowance = 0  # bytes that may still be received; after that it is at its end
    has_ended = False  # the other end has said that nothing more comes

    def __init__(self, family: int, kind: int, protocol: int) -> None:
        super().__init__(family, kind, protocol)
        self.settimeout(0)
        self._identity = self._found()
        self._tls: ssl.SSLObject | None = None  # after ``secure``, as these two
        self._came: ssl.MemoryBIO
        self._to_go: ssl.MemoryBIO
        self._files = 0
        self._is_closed = self._is_polling = self._is_abandoned = False

    def _found(self) -> tuple[int, int] | None:
        with contextlib.suppress(OSError):  # on Windows a socket is no descriptor
            found = os.fstat(self.fileno())
            return found.st_dev, found.st_ino
        return None

    def is_ours(self) -> bool:
        """Say whether the descriptor still is this socket: something may close every descriptor
        of the process, and open another file, which gets its number.
        """
        return self._found() == self._identity

    def left(self, until: float = math.inf) -> float:
        """Return the seconds that are left. Failure: raises ``TimeoutError`` if none are,
        ``OSError`` if the descriptor is another file's.
        """
        if not self.is_ours():
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        left = min(self.deadline, until) - time.monotonic()
        if left <= 0:
            raise TimeoutError("not answered in time")
        return left

    def _wait(self, *, to_write: bool, until: float = math.inf) -> None:
        left = min(self.left(until), _LONGEST_WAIT_S)
        if hasattr(select, "poll"):
            poll = select.poll()
            poll.register(self.fileno(), select.POLLOUT if to_write else select.POLLIN)
            self._is_polling = True
            try:
                poll.poll(left * 1000)
            finally:
                self._is_polling = False
        else:  # Windows, and where eventlet has taken it away
            ours = [self.fileno()]
            select.select([] if to_write else ours, ours if to_write else [], ours, left)
        if self._is_abandoned:  # pragma: no cover - in a greenlet of a forked child alone
            self.abandon()
            raise ConnectionAbortedError("this connection is another process's")

    def abandon(self) -> None:
        """Close this process's descriptor of it, for an end that leaves the connection as it is.

        In a forked child of gevent's, the greenlet that waits there does: it is the
        parent's, and gevent aborts a process that closes the descriptor under it. In one
        of eventlet's it must not: parent and child wait by one epoll descriptor.
        """
        self._is_abandoned = True
        if not (self._is_polling and is_green()):  # pragma: no branch - as above
            self._let_go()

    def _let_go(self) -> None:
        is_ours, fd = self.is_ours(), self.detach()
        if is_ours and fd >= 0:
            with contextlib.suppress(OSError):
                _socket.close(fd)

    def connect(self, address: Any, within_s: float = math.inf) -> None:
        """Connect to *address*, by the deadline and *within_s* seconds."""
        until = time.monotonic() + within_s
        self.left(until)
        failure = self.connect_ex(address)
        if failure in _UNDER_WAY:
            self._wait(to_write=True, until=until)
            self.left(until)
            failure = self.getsockopt(_socket.SOL_SOCKET, _socket.SO_ERROR)
        if failure:
            raise OSError(failure, os.strerror(failure))

    def secure(self, context: "ssl.SSLContext", name: str) -> None:
        """Speak TLS from here on, with a server that is called *name*."""
        import ssl

        self._came, self._to_go = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._came, self._to_go, server_hostname=name)
        self._through_tls(self._tls.do_handshake)

    def is_idle(self) -> bool:
        """Whether a connection waits for a request: nothing came on it, not even its end."""
        try:
            # below TLS: a record that came meanwhile is none of an answer to us
            self.recv(1, _socket.MSG_PEEK)
        except BlockingIOError:
            return self._tls is None or not self._came.pending
        except OSError:
            pass
        return False

    # ---- what http.client asks for

    def makefile(self, *_: Any, **__: Any) -> io.BufferedReader:
        """Return what is received as a file, which may still be read after ``close``."""
        self._files += 1
        return io.BufferedReader(_Received(self))

    def close(self) -> None:
        """Close it, or let the last file do that."""
        self._is_closed = True
        if not self._files:
            self._let_go()

    def file_closed(self) -> None:
        """Do without one more file."""
        self._files -= 1
        if self._is_closed:
            self.close()

    def read_into(self, buffer: Any) -> int:
        """Receive into *buffer*; return how many bytes, 0 at the end."""
        with memoryview(buffer)[: self.allowance] as view:
            if not view.nbytes:
                return 0
            if self._tls is None:
                received = self._receive_into(view)
            else:
                received = self._read_tls(self._tls, view)
        self.has_ended = not received
        self.allowance -= received
        return received

    def sendall(self, data: Any, flags: int = 0) -> None:  # noqa: ARG002
        """Send all of *data*."""
        rest = memoryview(data)
        while rest:
            if self._tls is None:
                rest = rest[self._send(rest) :]
            else:
                rest = rest[self._through_tls(self._tls.write, rest[:_AT_ONCE]) :]

    # ---- what goes through the system

    def _send(self, data: memoryview) -> int:
        while True:
            self.left()
            try:
                return self.send(data, _NO_SIGNAL)
            except BlockingIOError:
                self._wait(to_write=True)

    def _receive_into(self, view: memoryview) -> int:
        while True:
            self.left()
            try:
                return self.recv_into(view)
            except BlockingIOError:
                self._wait(to_write=False)

    def _read_tls(self, tls: "ssl.SSLObject", view: memoryview) -> int:
        import ssl

        try:
            received: int = self._through_tls(tls.read, view.nbytes, view)
        except (ssl.SSLZeroReturnError, ssl.SSLEOFError):
            return 0
        return received

    def _through_tls(self, act: Any, *arguments: Any) -> Any:
        """Return what *act* does, once what it needs of the other end has come."""
        import ssl

        room = memoryview(bytearray(_AT_ONCE))
        while True:
            try:
                done = act(*arguments)
            except ssl.SSLWantReadError:
                self._flush()
            except ssl.SSLError:
                with contextlib.suppress(OSError):
                    self._flush()  # the other end is told what is wrong
                raise
            else:
                self._flush()
                return done
            received = self._receive_into(room)
            if received:
                self._came.write(room[:received])
            else:
                self._came.write_eof()

    def _flush(self) -> None:
        rest = memoryview(self._to_go.read())
        while rest:
            rest = rest[self._send(rest) :]


class _Received(io.RawIOBase):
    """What is received on a socket, as the file that ``http.client`` reads."""

    def __init__(self, of: Socket) -> None:
        self._of = of

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        return self._of.read_into(buffer)

    def close(self) -> None:
        if not self.closed:
            super().close()
            self._of.file_closed()


# ---------------------------------------------------------------- requests


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
        self._tls = tls
        self._host = parts.hostname or ""
        self._port = parts.port or (80 if tls is None else 443)
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
                # not close(), which waits for readers: after a fork these are the parent's
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
        made.close()
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
            made = self._publish(Socket(family, kind, protocol), life)
            try:
                made.deadline = deadline
                made.connect(address, connect_s)
                made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                if self._tls is not None:
                    made.secure(self._tls, self._host)
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
        connection.default_port = 80 if self._tls is None else 443
        self._connection = connection
        return connection


def _find_end(response: "http.client.HTTPResponse") -> None:
    """Know where *response* ends in what ``http.client`` takes for one that ends with the
    connection: a last coding that is ``chunked``, a length said twice. RFC 9112, 6.3.

    Failure: raises ``ValueError`` for a length that is invalid.
    """
    if response.chunked or response.length is not None:
        return
    codings = ",".join(response.headers.get_all("transfer-encoding", []))
    lengths = {each.strip() for each in response.headers.get("content-length", "").split(",")}
    if codings.rpartition(",")[2].strip().lower() == "chunked":
        response.chunked, response.chunk_left = True, None
    elif not codings and lengths != {""}:
        (length,) = lengths
        if not (length.isascii() and length.isdecimal()):
            raise ValueError("the answer has an invalid length")
        response.length = int(length)


def make_tls(*, cafile: str | None = None) -> "ssl.SSLContext":
    """Return how TLS is spoken with a server whose certificate is checked."""
    with _forks.importing:
        import ssl

    return ssl.create_default_context(cafile=cafile)
