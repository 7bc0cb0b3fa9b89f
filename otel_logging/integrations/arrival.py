"""When the data came that is read from a socket now: earlier than now, if the loop was blocked.

In: what reads the data. Out: a time, no earlier than the beginning of the block, and no earlier
than when the last data came, which Linux knows of a TCP socket. Elsewhere data came when it is
read.
"""

import socket
import struct
import sys
from asyncio import _get_running_loop
from contextlib import suppress
from typing import Any, Final

from otel_logging import _runtime

#: Of ``struct tcp_info`` in linux/tcp.h: milliseconds since data came.
_LAST_DATA_RECV: Final = struct.Struct("52xI")


def arrived_ns(reader: Any) -> int:
    """Return when the data came that *reader* reads now. *reader* is an object with a
    ``transport``, or a method of such an object.
    """
    now_ns, watch = (runtime := _runtime.current).now_ns(), runtime.watch
    hearts = watch and watch.pauses.hearts  # empty if nothing has a budget
    heart = hearts and hearts.get(_get_running_loop())
    blocked_ns: int = heart.blocked_ns() if heart else 0
    if blocked_ns and sys.platform == "linux":
        with suppress(AttributeError, OSError):  # no transport, no TCP, or it is closed
            of = getattr(reader, "__self__", reader).transport.get_extra_info("socket")
            info = of.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _LAST_DATA_RECV.size)
            ago_ms: int = _LAST_DATA_RECV.unpack(info)[0]
            return now_ns - min(ago_ms * 1_000_000, blocked_ns)
    return now_ns
