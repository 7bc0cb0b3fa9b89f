"""What is remembered on an exception: who has recorded it, the context that it left, and whether
a line tells of it.

In: an exception that passes a stage, a job or a carried function. Out: for a line that is
logged about it later, by a server or a scheduler, the context of whom it was raised for.
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

#: Set on an exception that an event has: the id of the trace of that.
_RECORDED: Final = "_otel_logging_recorded"

#: The number of the context that was remembered last. Numbers only grow: who keeps it at the start
#: knows what was remembered since, without a clock that may be set back.
last = 0
_next: Final = itertools.count(1).__next__


def is_recorded(error: BaseException, trace_id: int) -> bool:
    """Return whether an event of this trace has *error* already."""
    with suppress(Exception):  # it may have attribute methods of its own, that raise
        return getattr(error, _RECORDED, None) == trace_id
    return False


def mark_recorded(error: BaseException, trace_id: int) -> None:
    """Remember that an event of this trace has *error*."""
    # past its own __setattr__: that of a frozen dataclass, say, refuses
    with suppress(Exception):
        BaseException.__setattr__(error, _RECORDED, trace_id)


def _steps(step: TracebackType | None) -> Iterator[TracebackType]:
    while step is not None:
        yield step
        step = step.tb_next


#: Whose frames handle whatever work they run for others raises, and keep it for who waits for that.
_KEEPERS: Final = frozenset(
    """concurrent.futures.thread anyio._backends._asyncio starlette.middleware.base
    asgiref.sync asgiref.current_thread_executor trio._threads""".split()  # noqa: SIM905
)


class _Origin:
    """The context that an exception left, and where; a copy of the exception has none.

    *left*: the step of its traceback at which it did; *callers*: that frame and who called it,
    innermost first. They are held: the address of a frame that has gone is soon another's.
    *base*: the outermost of them in its *task*, or its keeper. *is_shared*: whoever raises it
    anew does so for somebody else. *first*: the number of its first origin.
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
        # contextlib takes its own steps, and those of a generator with the stage in it, off again
        found = next((step for step in _steps(self.left) if step in steps), None)
        until = -1 if found is None else steps[found]
        return [step.tb_frame for step in itertools.islice(steps, until + 1)]

    def _has_called(self, path: list[FrameType]) -> bool:
        called = iter(self.callers)
        at: FrameType | None = None
        for frame in reversed(path):  # one that raised it again while it handled it is there twice
            if frame is not at and frame not in called:
                return False
            at = frame
        return True

    def is_of(self, error: BaseException) -> bool:
        """Say whether *error* has come here from there and nowhere else.

        An exception object may be raised again, for somebody else: a future's, by each
        who awaits it, or one that is kept in a variable. Its traceback then leads
        back to the first time too, but through frames that had no part in it.
        """
        path = self._path(error)
        is_again = len(path) > 1 and path[0] is path[1]  # raised again where it is told of
        return bool(path) and not is_again and self._has_called(path)

    def is_over(self) -> bool:
        """Say whether it has ended its task, or work of a pool: none handled it there."""
        base = self.base
        if base is None:
            return False
        if self.task is None:  # a keeper has it
            return base not in [frame for frame, _ in walk_stack(None)]
        task = self.task()
        is_done = task is None or task.done()
        return is_done and not opname[base.f_code.co_code[base.f_lasti]].startswith("RETURN")

    def has_ended_with(self, error: BaseException) -> bool:
        """Say whether *error* has ended its task, or work of a pool, and is raised anew elsewhere.

        The task or the caller that waited for it raises it again. An exception that was caught and
        kept may be raised for anybody, so it is not known whose it is.
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

    *began*: what ``last`` was when the stage, job or carried function was entered. If *error* has
    left a stage inside it since then, that one's context stays, in two cases: *error* has come from
    there directly, or it was raised anew on its way in the same trace (by a task that awaited
    another, a future). Any other note is of an earlier raise of the same exception object. From
    here on *error* has to go on directly, or to end its task. Never raises.
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
    """Return a copy of the context that *error* has come from, None where that is not known.

    It is for a line that nobody owns: from there on *error* has to go on directly, or to end
    another task. A group with one exception in it has come from where that has.
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


class _Untold:
    """On an exception: makes the line about it when it goes, if none has told of it."""

    __slots__ = ("pid", "tell")

    def __init__(self, tell: Callable[[], None] | None) -> None:
        self.tell, self.pid = tell, os.getpid()

    def __del__(self) -> None:
        if self.tell is not None and self.pid == os.getpid():  # a forked child's are its parent's
            with suppress(Exception):
                self.tell()

    def __reduce__(self) -> tuple[Any, ...]:
        return (type(None), ())


_UNTOLD: Final = "_otel_logging_untold"


def mark_told(error: BaseException) -> None:
    """Remember that a line tells of *error*, and of the exceptions that its traceback shows."""
    left, seen = [error], set()
    with suppress(Exception):
        for each in left:
            if id(each) not in seen:
                seen.add(id(each))
                if isinstance(known := getattr(each, _UNTOLD, None), _Untold):
                    known.tell = None
                else:
                    BaseException.__setattr__(each, _UNTOLD, _Untold(None))
                inner = each.__cause__, each.__context__, *getattr(each, "exceptions", ())
                left += [found for found in inner if isinstance(found, BaseException)]


def tell_later(error: BaseException, make: Callable[..., Any] | None, span: Any) -> None:
    """Have one line tell of *error*: if none has when its last reference goes, what *make* returns
    writes one.

    *span*: of the stage that it leaves; only one that leaves an entry stage gets such a line.
    """
    with suppress(Exception):
        is_new = getattr(error, _UNTOLD, None) is None
        if make is not None and is_new and span.otel_logging_bound is not None:
            tell = make(getattr(span, "name", ""), error)
            mark_told(error)
            getattr(error, _UNTOLD).tell = tell
