"""A stage that is open beyond a block: from ``begin()`` to ``end()``, or until its work is done.

In: a span that has begun; work that is handed over. Out: a handle that ends the span anywhere; and
what is current after another task has closed a block of this one. Deliberately absent: what goes on
after its request (``background_tasks``).
"""

import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary

from opentelemetry import trace

from otel_logging import _diagnostics, _names, _runtime
from otel_logging.binding import Shared, worker
from otel_logging.context import SPAN, get_current, reset_current, restore, set_current, state

#: Tasks, and threads until their work is done, that go on after their request: which request, and
#: how often they did what.
going_on: "WeakKeyDictionary[Any, tuple[Any, Counter[str]]]" = WeakKeyDictionary()


class Waits:
    """Work that was handed over: its message is not over before the work is done."""

    __slots__ = ("_handed",)

    def __init__(self) -> None:
        held = get_current().get(_names.HELD)
        self._handed: list[None] = [] if held is None else held.message.handed
        self._handed.append(None)

    def end(self, thread: threading.Thread | None = None) -> None:
        """Note that the work is done, in *thread*; None if it was cancelled or never called."""
        if going_on and thread is threading.current_thread():  # the garbage collector runs in any
            going_on.pop(thread, None)
        handed, self._handed = self._handed, []
        if handed:
            handed.pop()

    __del__ = end


class OpenStage:
    """A stage that ``begin()`` has opened. Concurrency: any task or thread."""

    def __init__(self, span: trace.Span, end: Callable[..., None]) -> None:
        self.span = span
        self._end, self._open, self._marks = end, [span], set[str]()
        self._context, self._worker = get_current(), worker()
        self._bound: Shared | None = None
        if getattr(span, "otel_logging_bound", None) is not None:  # shared by all its tasks
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
        self._end(span, error, is_block=False)
        if span is not trace.INVALID_SPAN and self._worker != worker():
            around = span.otel_logging_outer.get(SPAN, trace.INVALID_SPAN)
            dict.__setitem__(self._context, SPAN, around)  # no way into another's context
            if self._bound is not None:
                self._bound.replace({})

    def __del__(self) -> None:
        self.end()  # nobody else can end it: its lines would be lost


def renewed(token: Any) -> Any:
    """Return a new token like *token*, which holds this context; None if it holds another one."""
    now = get_current()
    try:
        reset_current(token)
    except ValueError:
        return None
    return set_current(now)


def come_back() -> Any:
    """Leave blocks of this task that another task has closed; return what is current then.

    When a consumer leaves a generator, asyncio closes that in a task of its own.
    """
    while True:
        span = get_current().get(SPAN, trace.INVALID_SPAN)
        token = getattr(span, "otel_logging_token", None)
        if token is None or not span.otel_logging_closed:
            return span
        try:
            reset_current(token)
        except ValueError:  # the block was entered before this task began
            return span
        span.otel_logging_token = None
        if span.otel_logging_bound is not None:
            restore(span.otel_logging_bound)
