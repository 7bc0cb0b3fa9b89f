"""Notes on an exception: whether it is recorded or logged, and the context that it left.

In: an exception that passes a stage, a job or a carried function. Out: for a line that a server or
a scheduler logs about it later, the context in which it was raised.
Invariant: never raises; the frames that an exception went through live as long as it does.
Deliberately absent: making lines and spans.
"""

import asyncio
import itertools
import os
from asyncio import _get_running_loop
from collections.abc import Callable, Iterator
from contextlib import suppress
from contextvars import Context, copy_context
from dis import opname
from traceback import walk_stack
from types import FrameType, TracebackType
from typing import Any, Final
from weakref import ref

from opentelemetry import trace

#: Set on an exception that is recorded as an event: the id of that event's trace.
_RECORDED: Final = "_otel_logging_recorded"

#: The number of the context that was remembered last. Numbers only grow: whoever keeps one knows
#: what was remembered since, without a clock, which may be set back.
last = 0
_next: Final = itertools.count(1).__next__


def is_recorded(error: BaseException, trace_id: int) -> bool:
    """Return whether an event of this trace has *error* already."""
    with suppress(Exception):  # it may have attribute methods of its own, that raise
        return getattr(error, _RECORDED, None) == trace_id
    return False


def mark_recorded(error: BaseException, trace_id: int) -> None:
    """Remember that an event of this trace has *error*."""
    # not by its own __setattr__: that of a frozen dataclass refuses
    with suppress(Exception):
        BaseException.__setattr__(error, _RECORDED, trace_id)


def _steps(step: TracebackType | None) -> Iterator[TracebackType]:
    while step is not None:
        yield step
        step = step.tb_next


#: Code that runs work for others, catches what it raises, and keeps that for the one who waits.
_KEEPERS: Final = frozenset(
    """concurrent.futures.thread anyio._backends._asyncio starlette.middleware.base
    asgiref.sync asgiref.current_thread_executor trio._threads""".split()  # noqa: SIM905
)


class _Origin:
    """The context that an exception left, and where; a copy of the exception has none.

    *left*: the step of its traceback at which it left; *callers*: that frame and its callers, the
    innermost first. The frames are held: the address of a dead frame is soon another's. *base*:
    the outermost of them in its *task*, or the code that keeps it. *is_shared*: if it is raised
    again, that is for somebody else. *first*: the number of its first origin.
    """

    def __init__(self, context: Context, trace_id: int, step: TracebackType) -> None:
        global last
        self.context, self.trace_id = context, trace_id
        self.is_shared = False
        self.number = self.first = _next()
        last = max(last, self.number)
        self.left = step
        self.callers = [frame for frame, _ in walk_stack(step.tb_frame)]
        loop = _get_running_loop()
        task: Any = loop and asyncio.current_task(loop)
        top = getattr(task.get_coro(), "cr_frame", None) if task else None
        own = self.callers[: self.callers.index(top) + 1] if top in self.callers else self.callers
        keepers = (each for each in own if each.f_globals.get("__name__") in _KEEPERS)
        self.base = next(keepers, None)
        self.task = ref(task) if task and self.base is None else None
        self.base = self.base or top

    def _path(self, error: BaseException) -> list[FrameType]:
        """Return the frames of *error*, outermost first, down to where it left."""
        steps = {step: place for place, step in enumerate(_steps(error.__traceback__))}
        # contextlib removes its own steps, and those of a generator with the stage in it
        found = next((step for step in _steps(self.left) if step in steps), None)
        until = -1 if found is None else steps[found]
        return [step.tb_frame for step in itertools.islice(steps, until + 1)]

    def _has_called(self, path: list[FrameType]) -> bool:
        called = iter(self.callers)
        at: FrameType | None = None
        for frame in reversed(path):  # one that handled it and raised it again is there twice
            if frame is not at and frame not in called:
                return False
            at = frame
        return True

    def is_of(self, error: BaseException) -> bool:
        """Say whether *error* has come here from this origin and from nowhere else.

        An exception object may be raised again for somebody else: that of a future, by each
        task that awaits it, or one that is kept in a variable. Its traceback then leads
        back to the first raise too, but through frames that had no part in it.
        """
        path = self._path(error)
        is_again = len(path) > 1 and path[0] is path[1]  # raised again by the frame that logs it
        return bool(path) and not is_again and self._has_called(path)

    def is_over(self) -> bool:
        """Say whether it has ended its task, or work of a pool: nobody handled it there."""
        base = self.base
        if base is None:
            return False
        if self.task is None:  # a pool's code keeps it
            return base not in [frame for frame, _ in walk_stack(None)]
        task = self.task()
        is_done = task is None or task.done()
        return is_done and not opname[base.f_code.co_code[base.f_lasti]].startswith("RETURN")

    def has_ended_with(self, error: BaseException) -> bool:
        """Say whether *error* has ended its task, or work of a pool, and is raised again elsewhere.

        The task or the caller that waited raises it again. An exception that was caught and
        kept may be raised for anybody, so its owner is not known.
        """
        base, path = self.base, self._path(error)
        if base is None or self.is_shared or base not in path or not self.is_over():
            return False
        return self._has_called(path[path.index(base) :])

    def __reduce__(self) -> tuple[Any, ...]:
        return (type(None), ())


#: Attribute of an exception: the ``_Origin`` it has left.
_ORIGIN: Final = "_otel_logging_origin"


def remember_context(error: BaseException | None, began: int) -> None:
    """Remember on *error* the context that it leaves, for a later line about it.

    *began*: ``last`` when the stage, job or carried function was entered. If *error* has left an
    inner stage since then, that stage's context stays in two cases: *error* has come from there
    directly, or it was raised again on its way in the same trace (by a task that awaited another,
    by a future). Any other note is from an earlier raise of the same object. From here on *error*
    must go on directly, or end its task. Never raises.
    """
    if isinstance(error, Exception) and (step := error.__traceback__):
        with suppress(Exception):  # it may have attribute methods of its own, that raise
            known = getattr(error, _ORIGIN, None)
            trace_id = trace.get_current_span().get_span_context().trace_id
            origin = _Origin(copy_context(), trace_id, step)
            if isinstance(known, _Origin):
                origin.first = known.first
                is_same = known.trace_id == trace_id != 0
                is_inside = known.number > began and (is_same or known.is_of(error))
                if is_inside:
                    origin.context, origin.trace_id = known.context, known.trace_id
                # it has left some other stage already, so whoever raises it again may do that for
                # that one; but where a thread's stage has ended, the task that waits for it does
                is_passed_on = known.task is None and origin.task is not None
                origin.is_shared = known.first <= began or not (is_inside or is_passed_on)
            BaseException.__setattr__(error, _ORIGIN, origin)


def context_of(error: BaseException) -> Context | None:
    """Return a copy of the context that *error* has come from; None if that is not known.

    It is for an unowned line: since then *error* must have gone on directly, or ended a task. A
    group with one exception has come from where that exception has.
    """
    with suppress(Exception):
        origin, step = getattr(error, _ORIGIN, None), error.__traceback__
        if isinstance(origin, _Origin) and step is not None:
            if not origin.is_of(error):
                if not origin.has_ended_with(error):
                    return None
                origin = _Origin(origin.context, origin.trace_id, step)
                BaseException.__setattr__(error, _ORIGIN, origin)
            elif origin.is_over():
                origin.is_shared = True
            return origin.context.copy()
        (only,) = error.exceptions  # type: ignore[attr-defined]
        return context_of(only)
    return None


class _Unlogged:
    """Is on an exception. When that is collected and no line was about it, makes one."""

    __slots__ = ("pid", "tell")

    def __init__(self, tell: Callable[[], None] | None) -> None:
        self.tell, self.pid = tell, os.getpid()

    def __del__(self) -> None:
        if self.tell is not None and self.pid == os.getpid():  # else the parent logs it
            with suppress(Exception):
                self.tell()

    def __reduce__(self) -> tuple[Any, ...]:
        return (type(None), ())


_UNLOGGED: Final = "_otel_logging_unlogged"


def mark_logged(error: BaseException) -> None:
    """Remember that a line is about *error*, and about the exceptions that its traceback shows."""
    left, seen = [error], set()
    with suppress(Exception):
        for each in left:
            if id(each) not in seen:
                seen.add(id(each))
                if isinstance(known := getattr(each, _UNLOGGED, None), _Unlogged):
                    known.tell = None
                else:
                    BaseException.__setattr__(each, _UNLOGGED, _Unlogged(None))
                inner = each.__cause__, each.__context__, *getattr(each, "exceptions", ())
                left += [found for found in inner if isinstance(found, BaseException)]


def tell_later(error: BaseException, make: Callable[..., Any] | None, span: Any) -> None:
    """Make sure that *error* is logged: if no line is about it when its last reference goes, the
    function that *make* returns writes one.

    *span*: of the stage that it leaves; only an entry stage leads to such a line.
    """
    with suppress(Exception):
        is_new = getattr(error, _UNLOGGED, None) is None
        if make is not None and is_new and span.otel_logging_bound is not None:
            tell = make(getattr(span, "name", ""), error)
            mark_logged(error)
            getattr(error, _UNLOGGED).tell = tell
