"""When something came that is read from a socket now: before that, where its loop was blocked.

In: what reads it. Out: a time; no earlier than the block, and no earlier than what came last, which
the system knows of TCP on Linux. Elsewhere it came when it was read.
"""

import socket
import struct
import sys
from contextlib import suppress
from typing import Any, Final

from otel_logging import _runtime

#: Of ``struct tcp_info`` in linux/tcp.h: milliseconds since data came.
_LAST_DATA_RECV: Final = struct.Struct("52xI")


def arrived_ns(reader: Any) -> int:
    """Return when that came which *reader*, an object with a ``transport``, reads now."""
    now_ns = _runtime.current.now_ns()
    watch = _runtime.current.watch
    blocked_ns = 0 if watch is None else watch.pauses.blocked_ns()
    with suppress(AttributeError, OSError):  # no transport, no TCP, or it is closed
        if blocked_ns and sys.platform == "linux":
            asked = socket.IPPROTO_TCP, socket.TCP_INFO, _LAST_DATA_RECV.size
            info = reader.transport.get_extra_info("socket").getsockopt(*asked)
            ago_ms: int = _LAST_DATA_RECV.unpack(info)[0]
            return now_ns - min(ago_ms * 1_000_000, blocked_ns)
    return now_ns
