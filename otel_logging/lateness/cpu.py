"""How long each thread has computed, by the clock that Linux has for it. Elsewhere: nothing.

In: the time. Out: ns by thread. Deliberately absent: ``pthread_getcpuclockid``, which ends the
process for a thread that has just gone.
"""

import threading
import time
from contextlib import suppress
from typing import Final

_EVERY_NS: Final = 500_000_000
HOG_SHARE: Final = 0.4  # of what all threads have computed
_CLOCK: Final = 6  # Linux's number of a thread's scheduler clock is its id's complement, and this


class Processors:
    """What threads have spent since they were asked for last."""

    def __init__(self) -> None:
        self._at = 0
        self._spent: dict[int, int] = {}

    def is_due(self, now: int) -> bool:
        """Say whether the last look is long ago."""
        return now - self._at > _EVERY_NS

    def spent(self, now: int) -> tuple[int, dict[int, int]]:
        """Return since when, and what each thread has spent since then, but for the calling one."""
        before, since = self._spent, self._at
        self._at, self._spent = now, _spent()
        me = threading.get_ident()
        # a thread that was not there has begun since then
        there = self._spent.items() if since else ()
        return since, {t: n - before.get(t, 0) for t, n in there if t != me}


def _spent() -> dict[int, int]:
    found = {}
    for thread in threading.enumerate():
        if thread.ident is not None and thread.native_id is not None:  # else it is just beginning
            with suppress(OSError, AttributeError):  # it has just gone; not on Windows
                found[thread.ident] = time.clock_gettime_ns(~thread.native_id << 3 | _CLOCK)
    return found
