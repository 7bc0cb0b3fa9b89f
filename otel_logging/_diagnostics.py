"""What went wrong inside the package: counted, and written to stderr at most once a minute.

When the interpreter exits, each is written at once: there is no later minute. In: a
short fixed sentence for each kind of trouble, and how many times. Out: the counts, and
lines on stderr, with the number where there is something to count. Invariant: never
raises, never waits for a lock, never goes through the logger that it serves.
Deliberately absent: levels, formats, destinations.
"""

import contextlib
import os
import sys
import threading
import time
from collections import Counter
from typing import Final

from otel_logging import _runtime

QUIET_S: Final = 60.0  # for each kind of trouble

counts: Counter[str] = Counter()
_quiet_s = QUIET_S
_said_at: dict[str, float] = {}
_said_count: Counter[str] = Counter()
_remarks: set[str] = set()
#: Tried, never waited for: its holder writes what others count. By process id: a thread of the
#: parent may have been writing when a child was forked.
_speaking = (os.getpid(), threading.Lock())


def report(kind: str, times: int = 1, *, detail: object = "") -> None:
    """Count *times* of *kind* and write that to stderr, unless it was written in the last minute
    (at exit: in any case).

    *kind* is a sentence without its number: "log lines lost on a closed stdout".
    Failure: never raises. Cost: two look-ups, a line a minute. Concurrency: any
    thread, signal handlers, and a stderr that logs; counts are exact under the GIL.
    """
    counts.setdefault(kind, 0)
    counts[kind] += times  # no call in between, so nothing else runs between its two halves
    _say(kind, detail)


def remark(sentence: str, *, detail: object = "") -> None:
    """Report something that is not countable: as ``report`` does, without a number."""
    _remarks.add(sentence)
    report(sentence, detail=detail)


def say_rest() -> None:
    """Write what was counted and kept quiet so far."""
    _said_at.clear()
    _say()


def at_exit() -> None:
    """Write what was kept quiet, and keep nothing quiet from here on: there may be no later."""
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
    # checked again after each release: a thread that found the lock taken left its report to us
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
        because = f" ({_runtime.current.redaction.text(str(detail))})" if detail else ""
        number = "" if kind in _remarks else f"{fresh} "
        if sys.stderr is not sys.__stderr__ or is_standard(2):
            sys.stderr.write(f"otel_logging: {number}{kind}{because}\n")


def is_standard(fd: int) -> bool:
    """Return whether descriptor *fd* (1, 2) is still a standard stream, redirected or not.

    Failure: raises OSError if it is closed. What Python opens is not inherited by
    other programs, unlike a standard stream: so a file that got the number of a closed
    one is recognised.
    """
    return os.name != "posix" or os.get_inheritable(fd)
