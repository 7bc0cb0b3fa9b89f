"""A socket with a deadline and an allowance, right under gevent and eventlet as well; TLS over it.

They replace the classes of ``socket`` and ``ssl``, before this file is imported or after it. So
this is the system's own socket, which never blocks: only the wait for the other end is the
library's, looked up for each wait; TLS goes through memory buffers. In: an address. Out: bytes.
Invariant: nothing is asked of a descriptor that is another file's by now. Deliberately absent: HTTP
(``_http``), and how certificates are checked (``_http.make_tls``).
"""

import _socket
import contextlib
import errno
import io
import math
import os
import select
import time
from typing import TYPE_CHECKING, Any, Final

from otel_logging._green import is_green

if TYPE_CHECKING:
    import ssl

#: What a connection that is under way says, on POSIX and on Windows.
_UNDER_WAY: Final = frozenset({errno.EINPROGRESS, errno.EWOULDBLOCK, errno.EINTR})
#: A collector that hangs up is an error, in programs that die of SIGPIPE as well.
_NO_SIGNAL: Final = getattr(_socket, "MSG_NOSIGNAL", 0)
_AT_ONCE: Final = 64 << 10  # bytes of TLS read from the system, or encrypted, at once
_LONGEST_WAIT_S: Final = 3600.0  # poll() takes no number of any size


class Socket(_socket.socket):
    """A socket with a deadline and an allowance. Concurrency: one thread, but for ``shutdown``."""

    deadline = 0.0  # monotonic, s
    allowance = 0  # bytes that may still be received; after that it is at its end
    has_ended = False  # the other end has said that nothing more comes

    def __init__(self, family: int, kind: int, protocol: int) -> None:
        super().__init__(family, kind, protocol)
        self.settimeout(0)
        self._identity = self._found()
        self._is_polling = self._is_abandoned = False

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

    def _left(self, until: float = math.inf) -> float:
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
        left = min(self._left(until), _LONGEST_WAIT_S)
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
        if self._is_polling and is_green():  # pragma: no cover - as above
            return
        is_ours, fd = self.is_ours(), self.detach()
        if is_ours and fd >= 0:
            with contextlib.suppress(OSError):
                _socket.close(fd)

    def connect(self, address: Any, within_s: float = math.inf) -> None:
        """Connect to *address*, by the deadline and *within_s* seconds."""
        until = time.monotonic() + within_s
        self._left(until)
        failure = self.connect_ex(address)
        if failure in _UNDER_WAY:
            self._wait(to_write=True, until=until)
            self._left(until)
            failure = self.getsockopt(_socket.SOL_SOCKET, _socket.SO_ERROR)
        if failure:
            raise OSError(failure, os.strerror(failure))
        self.setsockopt(_socket.IPPROTO_TCP, _socket.TCP_NODELAY, 1)

    def is_idle(self) -> bool:
        """Whether a connection waits for a request: nothing came on it, not even its end."""
        try:
            self.recv(1, _socket.MSG_PEEK)
        except OSError as error:
            return isinstance(error, BlockingIOError)
        return False

    def receive_into(self, view: memoryview) -> int:
        """Receive into *view*; return how many bytes, 0 at the end."""
        while True:
            self._left()
            try:
                return self.recv_into(view)
            except BlockingIOError:
                self._wait(to_write=False)

    def sendall(self, data: Any, flags: int = 0) -> None:  # noqa: ARG002
        """Send all of *data*."""
        rest = memoryview(data)
        while rest:
            self._left()
            try:
                rest = rest[self.send(rest, _NO_SIGNAL) :]
            except BlockingIOError:
                self._wait(to_write=True)


class TlsSocket(Socket):
    """A socket that speaks TLS with a server that is called *name*.

    ``ssl`` comes with the context: it takes as long to import as half of the package.
    """

    def __init__(
        self, context: "ssl.SSLContext", name: str, family: int, kind: int, protocol: int
    ) -> None:
        import ssl

        super().__init__(family, kind, protocol)
        self._ssl = ssl
        self._came, self._to_go = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._came, self._to_go, server_hostname=name)

    def connect(self, address: Any, within_s: float = math.inf) -> None:
        """Connect to *address* within *within_s* seconds; all by the deadline."""
        super().connect(address, within_s)
        self._through(self._tls.do_handshake)

    def is_idle(self) -> bool:
        """Whether nothing came: below TLS, a record that came meanwhile is no answer to us."""
        return super().is_idle() and not self._came.pending

    def receive_into(self, view: memoryview) -> int:
        """Receive into *view*; return how many bytes, 0 at the end."""
        try:
            received: int = self._through(self._tls.read, view.nbytes, view)
        except (self._ssl.SSLZeroReturnError, self._ssl.SSLEOFError):
            return 0
        return received

    def sendall(self, data: Any, flags: int = 0) -> None:  # noqa: ARG002
        """Send all of *data*."""
        rest = memoryview(data)
        while rest:
            rest = rest[self._through(self._tls.write, rest[:_AT_ONCE]) :]

    def _through(self, act: Any, *arguments: Any) -> Any:
        """Return what *act* does, once what it needs of the other end has come."""
        room = memoryview(bytearray(_AT_ONCE))
        while True:
            try:
                done = act(*arguments)
            except self._ssl.SSLWantReadError:
                self._flush()
            except self._ssl.SSLError:
                with contextlib.suppress(OSError):
                    self._flush()  # the other end is told what is wrong
                raise
            else:
                self._flush()
                return done
            received = super().receive_into(room)
            if received:
                self._came.write(room[:received])
            else:
                self._came.write_eof()

    def _flush(self) -> None:
        super().sendall(self._to_go.read())


class Received(io.RawIOBase):
    """What is received on a socket, as a file."""

    def __init__(self, of: Socket) -> None:
        self._of = of

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        of = self._of
        with memoryview(buffer)[: of.allowance] as view:
            if not view.nbytes:
                return 0
            received = of.receive_into(view)
        of.has_ended = not received
        of.allowance -= received
        return received
