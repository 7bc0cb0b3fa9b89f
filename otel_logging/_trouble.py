"""What went wrong inside the package: counted, and said on stderr at most once a minute.

When the interpreter exits, each is said at once: nobody comes later to say the
rest. In: a short fixed sentence a kind of trouble, and how many times. Out: the
counts, and lines on stderr. Invariant: never raises, never waits for a lock,
never goes through the logger that it serves. Deliberately absent: levels,
formats, destinations.
"""

import contextlib
import os
import sys
import threading
import time
from collections import Counter
from typing import Final

QUIET_S: Final = 60.0  # for each kind of trouble

counts: Counter[str] = Counter()
_quiet_s = QUIET_S
_said_at: dict[str, float] = {}
_said_count: Counter[str] = Counter()
#: Tried, never waited for: who holds it says what others count. By process id: a thread of the
#: parent may have been speaking when a child was forked.
_speaking = (os.getpid(), threading.Lock())


def report(kind: str, times: int = 1, *, detail: object = "") -> None:
    """Count *times* of *kind* and say so on stderr unless it was said in the last minute (at exit:
    in any case).

    *kind* is a sentence without its number: "log lines lost on a closed stdout".
    Failure: never raises. Cost: two look-ups, a line a minute. Concurrency: any
    thread, signal handlers, and a stderr that logs; counts are exact under the GIL.
    """
    counts.setdefault(kind, 0)
    counts[kind] += times  # no call in between, so nothing else runs between its two halves
    _say(kind, detail)


def say_rest() -> None:
    """Say what was counted and kept quiet so far."""
    _said_at.clear()
    _say()


def at_exit() -> None:
    """Say what was kept quiet, and keep nothing quiet from here on: there may be no later."""
    global _quiet_s
    _quiet_s = 0.0
    _say()


def forget() -> None:
    """Start counting anew: a new set-up begins with a clean slate."""
    global _quiet_s
    _quiet_s = QUIET_S
    counts.clear()
    _said_at.clear()
    _said_count.clear()


def _is_due(kind: str) -> bool:
    said = _said_at.get(kind)
    quiet = said is not None and time.monotonic() - said < _quiet_s
    return not quiet and counts[kind] > _said_count[kind]


def _say(reported: str = "", detail: object = "") -> None:
    # looked at again after each release: who found it taken has left the saying to us
    while any(map(_is_due, list(counts))) and (speaking := _turn()).acquire(blocking=False):
        try:
            for kind in filter(_is_due, list(counts)):
                _say_kind(kind, detail if kind == reported else "")
        finally:
            speaking.release()


def _turn() -> threading.Lock:
    global _speaking
    if _speaking[0] != os.getpid():
        _speaking = (os.getpid(), threading.Lock())
    return _speaking[1]


def _say_kind(kind: str, detail: object) -> None:
    _said_at[kind] = time.monotonic()
    fresh = counts[kind] - _said_count[kind]
    _said_count[kind] += fresh
    with contextlib.suppress(Exception):
        because = f" ({detail})" if detail else ""
        if sys.stderr is not sys.__stderr__ or is_standard(2):
            sys.stderr.write(f"otel_logging: {fresh} {kind}{because}\n")


def is_standard(fd: int) -> bool:
    """Say whether descriptor *fd* (1, 2) is still a standard stream, also one that was redirected.

    Failure: raises OSError if it is closed. What Python opens is not inherited by
    other programs, unlike a standard stream: so a file is known that got the
    number of one that was closed.
    """
    return os.name != "posix" or os.get_inheritable(fd)
