"""A socket with a deadline and an allowance, also under gevent and eventlet; and TLS over it.

Those two replace the classes of ``socket`` and ``ssl``, before this file is imported or after. So
this is Python's own inner socket, which blocks its thread. TLS goes through memory buffers, since
``ssl`` cannot wrap such a socket. In: an address. Out: bytes.
Invariant: a descriptor that is another file's by now is never used. Deliberately absent: HTTP
(``_http``), and how certificates are checked (``_http.make_tls``).
"""

import _socket
import contextlib
import errno
import io
import math
import os
import time
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    import ssl

#: A collector that hangs up raises an error, also in programs that would die of SIGPIPE.
_NO_SIGNAL: Final = getattr(_socket, "MSG_NOSIGNAL", 0)
_AT_ONCE: Final = 64 << 10  # bytes of TLS read from the system, or encrypted, at once
_LONGEST_WAIT_S: Final = 3600.0  # the system refuses larger numbers


class Socket(_socket.socket):
    """A socket with a deadline and an allowance. Concurrency: one thread, but for ``shutdown``."""

    deadline = 0.0  # monotonic, s
    allowance = 0  # bytes that may still be received; then it counts as ended
    has_ended = False  # the other end has closed its side

    def __init__(self, family: int, kind: int, protocol: int) -> None:
        super().__init__(family, kind, protocol)
        self._identity = self._found()

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

    def _timed(self, act: Any, *arguments: Any, until: float = math.inf) -> Any:
        """Return the result of *act*. Failure: raises ``TimeoutError`` if no time is left for it,
        ``OSError`` if the descriptor is another file's.
        """
        if not self.is_ours():
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        left = min(self.deadline, until) - time.monotonic()
        try:
            if left > 0:
                self.settimeout(min(left, _LONGEST_WAIT_S))
                return act(*arguments)
        except TimeoutError:
            pass
        raise TimeoutError("not answered in time")

    def abandon(self) -> None:
        """Close this process's descriptor only: in a forked child, the parent's connection
        stays.
        """
        is_ours, fd = self.is_ours(), self.detach()
        if is_ours and fd >= 0:
            with contextlib.suppress(OSError):
                _socket.close(fd)

    def connect(self, address: Any, within_s: float = math.inf) -> None:
        """Connect to *address*, by the deadline and *within_s* seconds."""
        self._timed(super().connect, address, until=time.monotonic() + within_s)
        self.setsockopt(_socket.IPPROTO_TCP, _socket.TCP_NODELAY, 1)

    def is_idle(self) -> bool:
        """Whether the connection can take a request: nothing came on it, not even its end."""
        self.settimeout(0)
        try:
            self.recv(1, _socket.MSG_PEEK)
        except OSError as error:
            return isinstance(error, BlockingIOError)
        return False

    def receive_into(self, view: memoryview) -> int:
        """Receive into *view*; return how many bytes, 0 at the end."""
        received: int = self._timed(self.recv_into, view)
        return received

    def sendall(self, data: Any, flags: int = 0) -> None:  # noqa: ARG002
        """Send all of *data*."""
        rest = memoryview(data)
        while rest:
            rest = rest[self._timed(self.send, rest, _NO_SIGNAL) :]


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
        """Whether nothing came, below TLS: a record that came meanwhile is no answer."""
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
        """Return the result of *act*, once the bytes that it needs of the other end have come."""
        room = memoryview(bytearray(_AT_ONCE))
        while True:
            try:
                done = act(*arguments)
            except self._ssl.SSLWantReadError:
                self._flush()
            except self._ssl.SSLError:
                with contextlib.suppress(OSError):
                    self._flush()  # so that the other end knows what is wrong
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
