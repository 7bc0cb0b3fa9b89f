"""What is remembered on an exception: who has recorded it, the context that it left, and whether
a line tells of it.

In: an exception that passes a stage, a job or a carried function. Out: for a line that is
logged about it later, by a server or a scheduler, the context of whom it was raised for.
Invariant: never raises; the frames that an exception went through live as long as it does.
Deliberately absent: making lines and spans.
"""

import itertools
import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from contextvars import Context, copy_context
from traceback import walk_stack
from types import FrameType, TracebackType
from typing import Any, Final

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


class _Origin:
    """The context that an exception left, and where; a copy of the exception has none.

    *left*: the step of its traceback at which it did; *callers*: that frame and who called it,
    innermost first. They are held: the address of a frame that has gone is soon another's.
    """

    __slots__ = ("callers", "context", "left", "number", "trace_id")

    def __init__(self, context: Context, trace_id: int, step: TracebackType) -> None:
        global last
        self.context = context
        self.trace_id = trace_id
        self.number = _next()
        last = max(last, self.number)
        self.left = step
        self.callers = [frame for frame, _ in walk_stack(step.tb_frame)]

    def is_of(self, error: BaseException) -> bool:
        """Say whether *error* has come here from there and nowhere else.

        An exception object may be raised again, for somebody else: a future's, by each
        who awaits it, or one that is kept in a variable. Its traceback then leads
        back to the first time too, but through frames that had no part in it.
        """
        steps = {step: place for place, step in enumerate(_steps(error.__traceback__))}
        # contextlib takes its own steps, and those of a generator with the stage in it, off again
        found = next((step for step in _steps(self.left) if step in steps), None)
        if found is None:
            return False
        path = [step.tb_frame for step in itertools.islice(steps, steps[found] + 1)]
        if len(path) > 1 and path[0] is path[1]:  # raised again where it is told of
            return False
        called = iter(self.callers)
        at: FrameType | None = None
        for frame in reversed(path):  # one that raised it again while it handled it is there twice
            if frame is not at and frame not in called:
                return False
            at = frame
        return True

    def __reduce__(self) -> tuple[Any, ...]:
        return (type(None), ())


#: Attribute of an exception: the ``_Origin`` it has left.
_ORIGIN: Final = "_otel_logging_origin"


def remember_context(error: BaseException | None, began: int) -> None:
    """Remember on *error* the context that it leaves, for a later line about it.

    *began*: what ``last`` was when the stage, job or carried function was entered. A stage
    inside it knows more, and its context stays: where *error* has been noted there since then, and
    has come from there directly, or in the same trace, raised anew on its way (by a task that
    awaited another, a future). What was noted otherwise is an earlier raise of the same
    exception object. From here on it has to go on directly. Never raises.
    """
    if isinstance(error, Exception) and (step := error.__traceback__):
        with suppress(Exception):  # it may have attribute methods of its own, that raise
            known = getattr(error, _ORIGIN, None)
            context, trace_id = copy_context(), trace.get_current_span().get_span_context().trace_id
            if (
                isinstance(known, _Origin)
                and known.number > began
                and (known.trace_id == trace_id != 0 or known.is_of(error))
            ):
                context, trace_id = known.context, known.trace_id
            BaseException.__setattr__(error, _ORIGIN, _Origin(context, trace_id, step))


def context_of(error: BaseException) -> Context | None:
    """Return a copy of the context that *error* has come from, None where that is not known."""
    with suppress(Exception):
        origin = getattr(error, _ORIGIN, None)
        if isinstance(origin, _Origin) and origin.is_of(error):
            return origin.context.copy()
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
    """Remember that a line tells of *error*, and of what its traceback has beside it."""
    left, seen = [error], set()
    with suppress(Exception):
        for each in left:
            if id(each) not in seen:
                seen.add(id(each))
                known = getattr(each, _UNTOLD, None)
                if isinstance(known, _Untold):
                    known.tell = None
                else:
                    BaseException.__setattr__(each, _UNTOLD, _Untold(None))
                inner = each.__cause__, each.__context__, *getattr(each, "exceptions", ())
                left += [found for found in inner if isinstance(found, BaseException)]


def tell_later(error: BaseException, make: Callable[..., Any] | None, span: Any) -> None:
    """Have one line tell of *error*: *make* says how, if none has until its last reference goes.

    *span*: of the stage that it leaves; of one that is not an entry stage there is none.
    """
    with suppress(Exception):
        is_new = getattr(error, _UNTOLD, None) is None
        if make is not None and is_new and span.otel_logging_bound is not None:
            tell = make(getattr(span, "name", ""), error)
            mark_told(error)
            getattr(error, _UNTOLD).tell = tell
