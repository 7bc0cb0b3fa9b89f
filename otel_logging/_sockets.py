"""Sockets whose operations are all done by one deadline, and that read so much together.

In: a deadline and an allowance, set by whoever begins a request. Out: what
``http.client`` needs of a socket. Invariant: no operation lasts longer than the
deadline, however slowly the other end drips; the timeouts of the standard library, urllib3
and requests are per operation, so that a byte now and then keeps a request alive
for ever. Deliberately absent: what is spoken.

gevent and eventlet replace the classes of ``socket`` and ``ssl``, before this
file is imported or after it. So these are the system's own sockets, which never
block: only the wait for the other end is the library's, looked up for each wait.
"""

import _socket
import contextlib
import errno
import io
import math
import os
import select
import ssl
import time
from typing import Any, Final

from otel_logging._green import is_green

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
        self._tls: ssl.SSLObject | None = None
        self._came, self._to_go = ssl.MemoryBIO(), ssl.MemoryBIO()
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
        if self._is_abandoned:
            self.abandon()
            raise ConnectionAbortedError("this connection is another process's")

    def abandon(self) -> None:
        """Close this process's descriptor of it, for an end that leaves the connection as it is.

        In a forked child of gevent's, the greenlet that waits there does: it is the
        parent's, and gevent aborts a process that closes the descriptor under it. In one
        of eventlet's it must not: parent and child wait by one epoll descriptor.
        """
        self._is_abandoned = True
        if not (self._is_polling and is_green()):
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

    def secure(self, context: ssl.SSLContext, name: str) -> None:
        """Speak TLS from here on, with a server that is called *name*."""
        self._tls = context.wrap_bio(self._came, self._to_go, server_hostname=name)
        self._through_tls(self._tls.do_handshake)

    def is_idle(self) -> bool:
        """Whether a connection waits for a request: nothing came on it, not even its end."""
        try:
            # below TLS: a record that came meanwhile is none of an answer to us
            self.recv(1, _socket.MSG_PEEK)
        except BlockingIOError:
            return not self._came.pending
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
                try:
                    received = self._through_tls(self._tls.read, view.nbytes, view)
                except (ssl.SSLZeroReturnError, ssl.SSLEOFError):
                    received = 0
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

    def _through_tls(self, act: Any, *arguments: Any) -> Any:
        """Return what *act* does, once what it needs of the other end has come."""
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
