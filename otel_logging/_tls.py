"""TLS through memory buffers, over a socket with a deadline.

In: a socket's bytes. Out: what they hold. Invariant: no wait but the socket's own. Imported by who
speaks TLS: ``ssl`` takes as long to import as half of the package. Deliberately absent: how
certificates are checked (``_http.make_tls``).
"""

import contextlib
import math
import ssl
from typing import Any, Final

from otel_logging._socket import Socket

_AT_ONCE: Final = 64 << 10  # bytes read from the system, or encrypted, at once


class TlsSocket(Socket):
    """A socket that speaks TLS with a server that is called *name*."""

    def __init__(
        self, context: ssl.SSLContext, name: str, family: int, kind: int, protocol: int
    ) -> None:
        super().__init__(family, kind, protocol)
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
        except (ssl.SSLZeroReturnError, ssl.SSLEOFError):
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
            except ssl.SSLWantReadError:
                self._flush()
            except ssl.SSLError:
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
