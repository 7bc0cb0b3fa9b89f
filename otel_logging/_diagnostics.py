"""What went wrong inside the package: counted, and written to stderr at most once a minute.

When the interpreter exits, every report is written at once: there is no later minute. In: a
short fixed sentence for each kind of trouble, and how many times. Out: the counts, and
lines on stderr, with the number where there is something to count. Invariant: never
raises, never waits for a lock, never goes through the logger that it serves. What was lost is
in ``unrecorded`` too, for the next span.
Deliberately absent: levels, formats, destinations.
"""

import sys
import time
from collections import Counter
from contextlib import suppress
from typing import Any, Final

from otel_logging import _names, _redact, _runtime
from otel_logging._green import OfThread
from otel_logging._stream import PATIENCE_S, Descriptor, fd_of, is_standard
from otel_logging._text import later, visible

QUIET_S: Final = 60.0  # for each kind of trouble

counts: Counter[str] = Counter()
#: Losses that were written, and counts of redacted and shortened values, that no span has yet.
unrecorded: Counter[str] = Counter()
_changed_at = time.monotonic()  # when redacted and shortened values were last added to it
_known_changed: Counter[str] = Counter()  # how many values had been changed then
_LOSS: Final = later(r"\b(lost|dropped)\b")
_quiet_s = QUIET_S
_said_at: dict[str, float] = {}
_said_count: Counter[str] = Counter()
_recorded_count: Counter[str] = Counter()  # on spans, whether stderr took it or not
_remarks: set[str] = set()
#: The last ``sys.stderr``, and its descriptor; None: it is not Python's own, or has no reader.
_stderr: tuple[Any, Descriptor | None] = (None, None)
#: The thread with an item here writes what every thread has counted; no thread waits for it.
_speaking: Final = OfThread()


def report(kind: str, times: int = 1, *, detail: object = "") -> None:
    """Count *times* of *kind* and write that to stderr, unless it was written in the last minute
    (at exit: in any case).

    *kind* is a sentence without its number: "log lines lost on a closed stdout".
    Failure: never raises. Cost: two look-ups, a line a minute. Concurrency: any
    thread, signal handlers, and a stderr that logs; counts are exact under the GIL.
    """
    counts.setdefault(kind, 0)
    counts[kind] += times  # without a call in it: no other thread runs in the middle
    _say(kind, detail)


def remark(sentence: str, *, detail: object = "") -> None:
    """Report something that is not counted: as ``report`` does, without a number."""
    _remarks.add(sentence)
    report(sentence, detail=detail)


def say_due() -> None:
    """Write counts that were kept quiet, a minute after the last report of their kind. As often,
    record on the next span how many values were redacted and shortened.
    """
    global _changed_at
    _say()
    fresh = _redact.changed - _known_changed
    if fresh and time.monotonic() - _changed_at >= _quiet_s:
        _changed_at = time.monotonic()
        _known_changed.update(fresh)
        for kind, times in fresh.items():
            unrecorded.setdefault(kind, 0)
            unrecorded[kind] += times


def say_rest() -> None:
    """Write what was counted and kept quiet so far."""
    _said_at.clear()
    _say()


def at_exit() -> None:
    """Write all counts that were kept quiet, and write the next ones at once: the process ends."""
    global _quiet_s, _stderr
    _quiet_s, _stderr = 0.0, (None, None)
    _say()


def take_unrecorded() -> dict[str, Any]:
    """Return attributes that say what was lost, each kind with its number, and how many values
    were redacted and shortened. Nothing is returned a second time.
    """
    taken = {kind: times for kind in list(unrecorded) if (times := unrecorded.pop(kind, 0))}
    names = {kind: _names.VALUE_METRIC + kind for kind in _redact.changed if kind in taken}
    values = {name: taken.pop(kind) for kind, name in names.items()}
    # one text: Jaeger would make a JSON text of a list
    lost = "; ".join(f"{times} {kind}" for kind, times in taken.items())
    return {_names.LOST: lost, **values} if lost else values


def after_fork() -> None:
    """Leave what was lost before the fork to the parent: its stderr and its spans have that."""
    unrecorded.clear()
    _known_changed.update(_redact.changed - _known_changed)
    for said in (_said_count, _recorded_count):
        said.update(counts - said)


def forget() -> None:
    """Start counting anew: a new set-up begins with a clean slate."""
    global _quiet_s, _changed_at
    _quiet_s, _changed_at = QUIET_S, time.monotonic()
    _known_changed.update(_redact.changed - _known_changed)
    for each in (counts, unrecorded, _said_at, _said_count, _recorded_count):
        each.clear()


def _is_due(kind: str) -> bool:
    said = _said_at.get(kind)
    quiet = said is not None and time.monotonic() - said < _quiet_s
    return not quiet and counts[kind] > _said_count[kind]


def _say(reported: str = "", detail: object = "") -> None:
    # checked after each release: a thread that found the lock taken leaves its report to us
    turn = object()
    while any(map(_is_due, list(counts))) and _speaking.setdefault(0, turn) is turn:
        try:
            for kind in filter(_is_due, list(counts)):
                if not _say_kind(kind, detail if kind == reported else ""):
                    return
        finally:
            _speaking.pop(0, None)


def _say_kind(kind: str, detail: object) -> bool:
    """Write it; return whether that was possible. If not, it is said later."""
    _said_at[kind] = time.monotonic()
    fresh = counts[kind] - _said_count[kind]
    _said_count[kind] += fresh
    if _LOSS.search(kind):
        times = counts[kind] - _recorded_count[kind]
        _recorded_count[kind] += times
        unrecorded.setdefault(kind, 0)
        unrecorded[kind] += times
    try:
        because = f" ({detail})" if detail else ""
        number = "" if kind in _remarks else f"{fresh} "
        said = visible(_runtime.current.redaction.text(f"{kind}{because}"))  # on one line
        _write(f"otel_logging: {number}{said}")
    except Exception:
        _said_count[kind] -= fresh
        return False
    return True


def _write(text: str) -> None:
    global _stderr
    if _stderr[0] is not (stream := sys.stderr):
        there = Descriptor(stream) if fd_of(stream) >= 0 else None
        _stderr = (stream, there if there and there.has_reader else None)
    if (descriptor := _stderr[1]) is not None:
        # its reader may have stopped; at exit it gets longer, since there is no later report
        until = time.monotonic() + (0.01 if _quiet_s else PATIENCE_S)
        with suppress(RuntimeError):
            descriptor.flush(stream.buffer, until)
        descriptor.write(text.encode(errors="backslashreplace"), until)
    elif stream is sys.__stderr__ and not is_standard(2):
        raise OSError("stderr was closed, and its number is another file's")
    else:
        stream.write(text + "\n")
