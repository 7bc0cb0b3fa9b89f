"""Sockets whose operations are all done by one deadline, and that read so much together.

In: a deadline and an allowance, set by whoever begins a request. Out: what
``http.client`` needs of a socket. Invariant: no operation lasts longer than the
deadline, however slowly the other end drips; the timeouts of the standard library, urllib3
and requests are per operation, so that a byte now and then keeps a request alive
for ever. Deliberately absent: what is spoken.
"""

import contextlib
import errno
import os
import socket
import ssl
import time
from typing import Any


class Socket(socket.socket):
    """A socket with a deadline and an allowance."""

    deadline = 0.0  # monotonic, s
    allowance = 0  # bytes that may still be received; after that it is at its end
    has_ended = False  # the other end has said that nothing more comes
    _identity: tuple[int, int] | None = None

    def remember(self) -> None:
        """Know the descriptor again from now on: something may close it, and open another file."""
        self._identity = self._found()

    def _found(self) -> tuple[int, int] | None:
        with contextlib.suppress(OSError):  # on Windows a socket is no descriptor
            found = os.fstat(self.fileno())
            return found.st_dev, found.st_ino
        return None

    def is_ours(self) -> bool:
        """Say whether the descriptor still is the one that is remembered, if any is."""
        return self._identity is None or self._found() == self._identity

    def drop(self) -> None:
        """Close the descriptor, if it is ours, whoever reads from it."""
        is_ours, fd = self.is_ours(), self.detach()
        if is_ours:
            # not close(), which waits for readers: after a fork these are the parent's
            with contextlib.suppress(OSError):
                socket.close(fd)

    def left(self) -> float:
        """Return the seconds that are left. Failure: raises ``TimeoutError`` if none are,
        ``OSError`` if the descriptor is another file's.
        """
        if not self.is_ours():
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError("not answered in time")
        return left

    def recv_into(self, buffer: Any, nbytes: int | None = None, flags: int = 0) -> int:  # noqa: ARG002
        """Receive as ``socket.makefile`` asks for it."""
        with memoryview(buffer)[: self.allowance] as view:
            if not view.nbytes:
                return 0
            self.settimeout(self.left())
            received = super().recv_into(view)
        self.has_ended = not received
        self.allowance -= received
        return received

    def sendall(self, data: Any, flags: int = 0) -> None:  # noqa: ARG002
        """Send all of *data*; that of ``ssl`` has the whole time for each of its parts."""
        rest = memoryview(data)
        while rest:
            self.settimeout(self.left())
            rest = rest[self.send(rest) :]


class TlsSocket(Socket, ssl.SSLSocket):
    """The same over TLS: what ``ssl.SSLContext.sslsocket_class`` is set to."""
