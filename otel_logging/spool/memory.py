"""The bounded queue in memory, for the time in which the disk takes nothing.

In: frames. Out: segments that wait in memory. Invariant: no I/O, and its lock is held for none:
whoever cannot get the spool's lock comes here. Deliberately absent: when the disk is back.
"""

from collections.abc import Callable
from typing import Final

from otel_logging._green import RLock
from otel_logging.spool.reading import Waiting

#: A request stays under 1 MiB, nginx's default limit, and the 4 MiB that gRPC servers accept.
SEAL_BYTES: Final = 900_000
MEMORY_BYTES: Final = 8 << 20


class Memory:
    """Segments, the oldest first: those that are being filled, and those that wait.

    Concurrency: any thread, and a signal handler within any of these.
    """

    def __init__(self) -> None:
        self.filling: list[tuple[bytes, Waiting]] = []  # with their scope
        self.segments: list[Waiting] = []
        self._lock = RLock()

    def put(self, scope: bytes, data: bytes, begin: Callable[[], Waiting]) -> int:
        """Put frames into a segment; if none has room for them, into a new one, which *begin*
        returns.

        Return how many spans were dropped, with the oldest segments, to make room.
        """
        lost: list[Waiting] = []
        with self._lock:
            for of, segment in self.filling:
                if of == scope and len(segment.data) < SEAL_BYTES:
                    break
            else:
                self.filling.append((scope, segment := begin()))
            segment.data.extend(data)
            while sum(len(each.data) for each in self._all()) > MEMORY_BYTES:
                lost.append(self.segments.pop(0) if self.segments else self.filling.pop(0)[1])
        return count(lost)

    def _all(self) -> list[Waiting]:
        return [*self.segments, *(segment for _, segment in self.filling)]

    def seal(self) -> list[Waiting]:
        """Let the segments that are being filled wait; return them."""
        with self._lock:
            sealed = [segment for _, segment in self.filling]
            self.segments, self.filling = self._all(), []
        return sealed

    def drop(self, segment: Waiting) -> None:
        """Forget a segment, which is elsewhere now."""
        with self._lock:
            self.segments = [each for each in self.segments if each.name != segment.name]


def count(segments: list[Waiting]) -> int:
    """Return how many spans are in *segments*."""
    return sum(len(each.contents().spans) for each in segments)
