"""What went wrong inside the package: counted, and said on stderr at most once a minute.

In: a short fixed sentence a kind of trouble, and how many times. Out: the
counts, and lines on stderr. Invariant: never raises, never goes through the
logger that it serves. Deliberately absent: levels, formats, destinations.
"""

import contextlib
import sys
import time
from collections import Counter

_QUIET_S = 60.0  # style: "at most once a minute", for each kind of trouble

counts: Counter[str] = Counter()
_said_at: dict[str, float] = {}
_said_count: Counter[str] = Counter()


def report(kind: str, times: int = 1, *, detail: object = "") -> None:
    """Count *times* of *kind* and say so on stderr unless it was said in the last minute.

    *kind* is a sentence without its number: "log lines lost on a closed stdout".
    Failure: never raises. Concurrency: any thread; a count may be off by a race,
    never by a lock.
    """
    counts[kind] += times
    now = time.monotonic()
    said = _said_at.get(kind)
    if said is not None and now - said < _QUIET_S:
        return
    _said_at[kind] = now
    fresh = counts[kind] - _said_count[kind]
    _said_count[kind] = counts[kind]
    with contextlib.suppress(Exception):
        because = f" ({detail})" if detail else ""
        sys.stderr.write(f"otel_logging: {fresh} {kind}{because}\n")


def say_rest() -> None:
    """Say what was counted and kept quiet so far: at exit, nothing stays unsaid."""
    for kind, count in list(counts.items()):
        if count > _said_count[kind]:
            _said_at.pop(kind, None)
            report(kind, 0)


def forget() -> None:
    """Start counting anew: a new set-up begins with a clean slate."""
    counts.clear()
    _said_at.clear()
    _said_count.clear()
