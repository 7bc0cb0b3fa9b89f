"""What outlives its block: a stage that is none, work that waits, a task after its request.

In: a span that has begun; each stage that begins where a request has ended. Out: a handle that ends
it anywhere; a remark once for each kind of task that serves others then. Deliberately absent: what
such a task keeps (``context``).
"""

import sys
import time
from collections import Counter
from collections.abc import Callable
from typing import Any, Final
from weakref import WeakKeyDictionary

from opentelemetry import trace

from otel_logging import _diagnostics, _names, _runtime
from otel_logging.binding import Shared, has_ended, worker
from otel_logging.context import CURRENT, SPAN, Standing, entry_of, leave_behind, restore, state
from otel_logging.lateness.where import label, of_frame

#: A stage of one name, or a line of one place, so many times is no step of the request's.
_AGAIN: Final = 3
#: Seconds after its request's end in which a task does what that has left to do.
KEPT_S: Final = 60.0

#: Tasks that do something where a request had ended: which one, and how often they do what.
tasks: "WeakKeyDictionary[Any, tuple[str, Counter[str]]]" = WeakKeyDictionary()
_reported: set[object] = set()


class Waits:
    """Work that was handed over: the message that it is for is not over before it is done."""

    __slots__ = ("_handed",)

    def __init__(self) -> None:
        held = CURRENT.get().get(_names.HELD)
        self._handed: list[None] = [] if held is None else held.message.handed
        self._handed.append(None)

    def end(self) -> None:
        """Note that it is done."""
        handed, self._handed = self._handed, []
        if handed:
            handed.pop()

    __del__ = end  # it was cancelled, or never called


class OpenStage:
    """A stage that ``begin()`` has opened. Concurrency: any task or thread."""

    def __init__(self, span: trace.Span, end: Callable[..., None]) -> None:
        self.span = span
        self._end, self._open, self._marks = end, [span], set[str]()
        self._context, self._worker = CURRENT.get(), worker()
        self._bound: Shared | None = None
        if getattr(span, "otel_logging_bound", None) is not None:  # what is bound is everybody's
            self._bound = Shared({}, span, state(), None)
            restore(self._bound)
        if (watch := _runtime.current.watch) is not None:
            watch.loosen(span)

    def mark(self, name: str, /, **fields: Any) -> None:
        """Say that *name* has happened: an event, with *fields*.

        The first time, its seconds from the start are the attribute ``mark.NAME_s``. After the end
        nothing happens. Never raises.
        """
        span: Any = self.span
        start_ns = getattr(span, "start_time", None)
        if not self._open or start_ns is None:
            return
        try:
            now_ns = getattr(span, "now_ns", time.time_ns)()
            if name not in self._marks:
                self._marks.add(name)
                key = f"{_names.MARK}{name.replace(' ', '_')}_s"
                span.set_attribute(key, round((now_ns - start_ns) / 1e9, 6))
            span.add_event(name, fields, now_ns)
        except Exception as error:
            _diagnostics.report("marks lost", detail=error)

    def end(self, error: BaseException | None = None) -> None:
        """End it, with *error* as a block that it leaves; a second call does nothing. Never raises.

        Ended by another task or thread than began it, it is current in none any more.
        """
        try:
            span: Any = self._open.pop()
        except IndexError:
            return
        self._end(span, error)
        if span is not trace.INVALID_SPAN and self._worker != worker():
            around = span.otel_logging_outer.get(SPAN, trace.INVALID_SPAN)
            dict.__setitem__(self._context, SPAN, around)  # there is no way into another's context
            if self._bound is not None:
                self._bound.replace({})

    def __del__(self) -> None:
        self.end()  # nobody else can: what was logged in it would be lost


def renewed(token: Any) -> Any:
    """Return another of *token*, as it is in this context; None in any other: it holds its own."""
    now = CURRENT.get()
    try:
        CURRENT.reset(token)
    except ValueError:
        return None
    return CURRENT.set(now)


def come_back() -> Any:
    """Leave blocks of this task that were closed from elsewhere: return what is current then.

    asyncio closes a generator that its consumer has left in a task of its own.
    """
    while True:
        span = CURRENT.get().get(SPAN, trace.INVALID_SPAN)
        token = getattr(span, "otel_logging_token", None)
        if token is None or not span.otel_logging_closed:
            return span
        try:
            CURRENT.reset(token)
        except ValueError:  # this task was begun in it
            return span
        span.otel_logging_token = None
        if span.otel_logging_bound is not None:
            restore(span.otel_logging_bound)


def stays(stage: Any, around: Any) -> bool:
    """Say whether *stage* begins where *around* is, which has ended; note it then."""
    return come_back() is around and not note(stage.name or "stage", around)


def note_line(around: Any) -> None:
    """Note that something is logged where *around*, a span, has ended. Never raises."""
    current: Any = come_back()
    if current is around or (type(current) is Standing and has_ended(current)):
        note(None, around)


def note(stage: str | None, around: Any) -> bool:
    """Note that this task begins *stage*, or logs, where *around* has ended: the third time it does
    the same it is reported. Return whether it is left, as it does so long after. Never raises.
    """
    task: Any = worker()
    around = around.now if type(around) is Standing else around
    entry: Any = entry_of(around)
    is_over = task in tasks if around is trace.INVALID_SPAN else has_ended(entry)
    if isinstance(task, int) or not is_over:
        return False
    request, count = tasks.setdefault(task, (getattr(entry, "name", "a request"), Counter()))
    does = stage or _place()  # a line is known by its own
    count[does] += 1
    if count[does] < _AGAIN:
        return False
    coroutine = task.get_coro()
    name = getattr(coroutine, "__qualname__", task.get_name())
    if (kind := getattr(coroutine, "cr_code", name)) not in _reported:
        _reported.add(kind)
        does, place = (f"begins {stage!r}", _place()) if stage else ("logs", does)
        _diagnostics.remark(
            f"{name}, a task that was started in {request!r}, goes on after it and {does} again "
            f"and again at {place}: {KEPT_S:g} s after it this is nobody's. If it serves others, "
            "start it in detached(); if not, open a stage around it"
        )
    now_ns = _runtime.current.now_ns()
    ended_ns = max(getattr(each, "end_time", None) or 0 for each in (entry, around)) or now_ns
    is_left = around is not trace.INVALID_SPAN and now_ns - ended_ns > KEPT_S * 1e9
    if is_left:
        leave_behind(around)
    return is_left


def _place() -> str:
    return label(of_frame(sys._getframe()))  # noqa: SLF001 - there is no other way
