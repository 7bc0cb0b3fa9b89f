"""How long each thread has computed, by the clock that Linux has for it, and has waited for a
processor. Elsewhere: nothing.

Out: ns by thread. Deliberately absent: ``pthread_getcpuclockid``, which ends the process for a
thread that has just gone.
"""

import os
import threading
import time
from contextlib import suppress
from typing import Final

_WAITS: Final = "/proc/thread-self/schedstat"
_CLOCK: Final = 6  # Linux's number of a thread's scheduler clock is its id's complement, and this


def computed() -> dict[int, int]:
    """Return what each thread has computed so far. Cost: a microsecond for each."""
    found = {}
    for thread in threading.enumerate():
        native = getattr(thread, "native_id", None)  # eventlet's threads are without
        if thread.ident is not None and native is not None:  # pragma: no branch - begins
            with suppress(OSError, AttributeError):  # it has just gone; not on Windows
                found[thread.ident] = time.clock_gettime_ns(~native << 3 | _CLOCK)
    return found


def has_stood_still(spent: int, took: int) -> bool:
    """Say whether a thread that computed *spent* in a time stood in a call that waits. Who waits
    for the interpreter instead is awake each 5 ms, for 5 microseconds or more.
    """
    return spent * 10_000 < took


def queued() -> int:
    """Return how long this thread has waited for a processor so far. Cost: 5 microseconds, and 0.1
    ms where another thread computes: each call of the system gives the interpreter away.
    """
    with suppress(OSError, IndexError):
        fd = os.open(_WAITS, os.O_RDONLY)
        try:
            return int(os.read(fd, 64).split()[1])
        finally:
            os.close(fd)
    return 0  # pragma: no cover - not on Linux
