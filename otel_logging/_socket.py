"""A socket with a deadline and an allowance, which is right under gevent and eventlet as well.

They replace the classes of ``socket`` and ``ssl``, before this file is imported or after it. So
this is the system's own socket, which never blocks: only the wait for the other end is the
library's, looked up for each wait. In: an address. Out: bytes. Invariant: nothing is asked of a
descriptor that is another file's by now. Deliberately absent: TLS (``_tls``), and HTTP (``_http``).
"""

import _socket
import contextlib
import errno
import io
import math
import os
import select
import time
from typing import Any, Final

from otel_logging._green import is_green

#: What a connection that is under way says, on POSIX and on Windows.
_UNDER_WAY: Final = frozenset({errno.EINPROGRESS, errno.EWOULDBLOCK, errno.EINTR})
#: A collector that hangs up is an error, in programs that die of SIGPIPE as well.
_NO_SIGNAL: Final = getattr(_socket, "MSG_NOSIGNAL", 0)
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

    def received(self) -> io.BufferedReader:
        """Return what is received as a file."""
        return io.BufferedReader(_Received(self))

    def sendall(self, data: Any, flags: int = 0) -> None:  # noqa: ARG002
        """Send all of *data*."""
        rest = memoryview(data)
        while rest:
            self._left()
            try:
                rest = rest[self.send(rest, _NO_SIGNAL) :]
            except BlockingIOError:
                self._wait(to_write=True)


class _Received(io.RawIOBase):
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
