"""The bounded queue in memory, for the time in which the disk takes nothing.

In: frames. Out: segments that wait in memory. Invariant: no I/O, and no lock held during
any: who cannot have the spool's comes here. Deliberately absent: when the disk is back.
"""

import threading
from collections import deque
from collections.abc import Callable
from typing import Final

from otel_logging.spool.reading import Waiting
from otel_logging.spool.segment import header

#: A request stays under 1 MiB, nginx's default limit, and the 4 MiB that gRPC servers accept.
SEAL_BYTES: Final = 900_000
MEMORY_BYTES: Final = 8 << 20


class Memory:
    """Frames, the oldest first, and the segments made of them.

    Concurrency: any thread. No statement both reads ``size`` and calls something, so that a
    signal handler in between finds and leaves it right.
    """

    def __init__(self) -> None:
        self.frames: deque[tuple[bytes, bytes]] = deque()  # scope, frame
        self.size = 0
        self.segments: list[Waiting] = []  # made of frames, and not taken by the disk
        self._lock = threading.RLock()

    def put(self, scope: bytes, data: bytes) -> int:
        """Put a frame at the end; return how many at the beginning found no room any more."""
        length = len(data)
        dropped = 0
        with self._lock:
            self.frames.append((scope, data))
            self.size += length
            while self.size > MEMORY_BYTES and self._take() is not None:
                dropped += 1
        return dropped

    def _take(self) -> tuple[bytes, bytes] | None:
        if not self.frames:
            return None
        taken = self.frames.popleft()
        length = len(taken[1])
        self.size -= length
        return taken

    def make_segments(self, resource: bytes, next_name: Callable[[], str]) -> list[Waiting]:
        """Take all frames, and return segments of them."""
        with self._lock:
            taken = list(iter(self._take, None))
        made: list[bytearray] = []
        filling: dict[bytes, bytearray] = {}
        for scope, data in taken:
            if scope not in filling or len(filling[scope]) >= SEAL_BYTES:
                filling[scope] = bytearray(header(resource, scope))
                made.append(filling[scope])
            filling[scope] += data
        return [Waiting(next_name(), data=bytes(data)) for data in made]

    def keep(self, segments: list[Waiting]) -> int:
        """Keep *segments* for delivery; return how many spans of the oldest find no room."""
        lost: list[Waiting] = []
        with self._lock:
            self.segments += segments
            while sum(len(segment.data) for segment in self.segments) > MEMORY_BYTES:
                lost.append(self.segments.pop(0))
        return count(lost)

    def drop(self, segment: Waiting) -> None:
        """Forget a segment, which was delivered."""
        with self._lock:
            self.segments = [each for each in self.segments if each.name != segment.name]


def count(segments: list[Waiting]) -> int:
    """Return how many spans are in *segments*."""
    return sum(len(each.contents().spans) for each in segments)
