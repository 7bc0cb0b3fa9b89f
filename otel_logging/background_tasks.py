"""Tasks and threads that go on after the request that started them.

In: each stage or line that begins where a request has ended. Out: work that serves others leaves
its request, and each kind of such work is reported once. Deliberately absent: what it keeps
(``context``), and how a loop without an end is recognised (``lateness.endless``).
"""

import asyncio
import sys
import threading
import time
from asyncio import _get_running_loop
from collections import Counter
from collections.abc import Callable
from contextvars import Context
from functools import partial
from inspect import CO_ASYNC_GENERATOR, CO_GENERATOR
from types import FrameType, MethodType
from typing import Any, Final
from weakref import WeakSet

from opentelemetry import context as otel_context
from opentelemetry import trace

from otel_logging import _diagnostics, _names, _runtime
from otel_logging.binding import has_ended, worker
from otel_logging.context import CURRENT, OUTER, SPAN, Standing, entry_of, is_local, leave_behind
from otel_logging.lateness import endless, everybodys, where
from otel_logging.lateness.application import is_application
from otel_logging.open_stage import come_back, going_on, renewed

#: Work that repeats a stage's name, or a line's place, this often is no step of the request.
_AGAIN: Final = 3
#: Seconds after its request in which a task may finish the request's work.
KEPT_S: Final = 60.0

#: Looks at all tasks may take one fiftieth of the time, and at most so many ns each.
_SHARE: Final = 50
_MOST_NS: Final = 200_000_000
#: Modules whose functions, beside those of ``contextlib``, pass on that a block ends.
_PASSING_ON: Final = {
    f"otel_logging.{each}" for each in ("tracing", "handover", "integrations.queues")
}
_OF_GENERATORS: Final = CO_GENERATOR | CO_ASYNC_GENERATOR
_LOGGERS: Final = "otel_logging", "logging", "structlog", "loguru"

_reported: set[object] = set()


def stays(stage: Any, around: Any) -> bool:
    """Say whether *stage* is part of *around*, which has ended. If it is, it is counted."""
    return come_back() is around and not note(stage.name or "stage", around)


def pass_over(span: Any, token: Any, frame: FrameType | None) -> None:
    """Pass over *span*, which ended while it was not current: whoever is in it comes back later, by
    *token*. If *frame* ends its block, that block leaves what was left in it.
    """
    own = renewed(token)
    span.otel_logging_passed, span.otel_logging_token = True, own or (frame and token)
    if own and frame and _was_left(span, frame):
        CURRENT.set(otel_context.Context({**span.otel_logging_outer, SPAN: span}))
        come_back()


def _was_left(span: Any, frame: FrameType) -> bool:
    """Say whether *span*, which *frame* ends, leaves the span that is current instead of it.

    The current span was begun in it and is still open, for one of two reasons.

    - It was left in a generator that is not closed yet. The ``with`` statement of a plain function
      or a coroutine can end around it in no other way; so the block leaves it.
    - It is at work. The ``with`` statement that ends is a generator's, whose consumer is at work,
      or no statement has ended it, but ``ExitStack.close()``. It stays.
    """
    in_generator = False
    for each in where.outwards(frame):  # pragma: no branch - a thread of C's has no other frame
        module = each.f_globals.get("__name__")
        if module == "contextlib":
            if each.f_code.co_name in ("close", "aclose"):
                break
            in_generator = False  # the generator was a ``@contextmanager``'s
        elif in_generator:
            break
        elif module not in _PASSING_ON:
            in_generator = bool(each.f_code.co_flags & _OF_GENERATORS)
            if not in_generator:
                return is_in(span)
    return False


def is_in(span: Any) -> bool:
    """Say whether what is current was begun in *span*, or in what was begun there."""
    current: Any = CURRENT.get().get(SPAN)
    while current is not span:
        around = getattr(current, OUTER, {}).get(SPAN, entry_of(current))
        if around is current:
            return False
        current = around
    return True


def note_line(around: Any) -> None:
    """Note that a line is logged inside *around*, a span that has ended. Never raises."""
    current: Any = come_back()
    if current is around or (type(current) is Standing and has_ended(current)):
        note(None, around)


def here() -> Any:
    """Return what is current for a line that is logged inside an ended stage. Never raises."""
    around: Any = come_back()
    _serves(worker(), around, _request_of(around))
    return CURRENT.get().get(SPAN, trace.INVALID_SPAN)


def note(stage: str | None, around: Any) -> bool:
    """Note that this task, or thread, begins *stage*, or logs, inside *around*, which has ended.

    It is reported if it stands in a loop without an end, or does the same for the third time.
    Return whether it leaves *around*. Never raises. A thread is reported only when it leaves: it
    may have a long list to work through. A callback runs once, and is not counted.
    """
    at, request = worker(), _request_of(around)
    task: Any = None if isinstance(at, int) else at
    here = task or threading.current_thread()
    is_over = here in going_on if around is trace.INVALID_SPAN else has_ended(request)
    if not is_over or (task is None and _get_running_loop() is not None):
        return False
    if task is not None:
        if _serves(task, around, request):
            return True
        if task not in going_on:  # what it iterates over is seen once it waits
            task.get_loop().call_soon(_look_at, task, context=Context())
    entry: Any = entry_of(getattr(request, "now", request))
    if here not in going_on or (task is None and going_on[here][0] is not request):
        going_on[here] = request, Counter()
    started_in, count = going_on[here]
    does = stage or _place()  # a line is known by its place
    count[does] += 1
    if count[does] < _AGAIN:
        return False
    now_ns = _runtime.current.now_ns()
    ended_ns = max(getattr(each, "end_time", None) or 0 for each in (entry, around)) or now_ns
    is_left = around is not trace.INVALID_SPAN and now_ns - ended_ns > KEPT_S * 1e9
    if is_left or task is not None:
        does, place = (f"begins {stage!r}", _place()) if stage else ("logs", does)
        after = f"and {does} again and again at {place}: {KEPT_S:g} s after it this is nobody's"
        _report(here, started_in, after)
    if is_left:
        leave_behind(around)
        if (watch := _runtime.current.watch) is not None:
            watch.hands.pop(at, None)
    return is_left


def _place() -> str:
    """Return the place where this task, or thread, logs or opens a stage, past loggers' frames."""
    frames = where.outwards(sys._getframe())  # noqa: SLF001 - there is no other way
    packages = ((str(each.f_globals.get("__name__")).partition(".")[0], each) for each in frames)
    outside = (each for name, each in packages if name not in _LOGGERS)
    return where.label(where.of_frame(next(outside, None)))


def _request_of(around: Any) -> Any:
    """Return the entry span of the request of *around*; on a connection its ``Standing``, which
    lasts longer than the handshake.
    """
    entry = entry_of(around)
    while around is not entry and type(around) is not Standing:
        around = getattr(around, OUTER, {}).get(SPAN, entry)
    return around


def _report(task: Any, request: Any, after: str) -> None:
    """Report what *task*, or a thread, does *after* its *request*; each kind of task once."""
    start = f"in {getattr(request, 'name', 'a request')!r}"
    start = "on a connection" if type(request) is Standing else start
    is_thread = isinstance(task, threading.Thread)
    coroutine = None if is_thread else task.get_coro()
    name = getattr(coroutine, "__qualname__", task.name if is_thread else task.get_name())
    if (kind := after if is_thread else getattr(coroutine, "cr_code", name)) not in _reported:
        _reported.add(kind)
        _diagnostics.remark(
            f"{name}, a {'thread' if is_thread else 'task'} that was started {start}, goes "
            f"on after it {after}. If it serves others, start it in detached(); if not, open a "
            "stage around it"
        )


# ---------------------------------------------------------------- tasks that have no end


class _Looked(threading.local):
    """The last look at the tasks of a thread's loop: the requests that they worked on, when that
    was, and how much time is left for the next look.
    """

    at_ns, left_ns = 0, _MOST_NS
    requests: frozenset[Any] = frozenset()


_looked = _Looked()
#: Tasks without an end that were looked at while their request, or connection, was open.
_known: "WeakSet[Any]" = WeakSet()


def _serves(task: Any, around: Any, request: Any) -> bool:
    """Leave *around*, which is of *request*, if *task*, the current one, has no end and serves
    others. Return whether it has left.
    """
    if isinstance(task, int) or not has_ended(request) or not endless.is_endless(task):
        return False
    look(is_now=task not in going_on)
    return CURRENT.get().get(SPAN) is not around


def _look_at(task: Any) -> None:
    look(is_now=not task.done() and endless.is_endless(task))


def look(*, is_now: bool = False) -> frozenset[Any]:
    """Return the requests, and connections, that are over and that tasks still work on.

    A task without an end serves others, and leaves. If it takes what is not everybody's, it leaves
    only when no task that may end works on the same request.
    Cost: a fiftieth of the time, unless *is_now*. Never raises.
    """
    now_ns = time.perf_counter_ns()
    _looked.left_ns += (now_ns - _looked.at_ns) // _SHARE
    _looked.at_ns = now_ns
    if (_looked.left_ns <= 0 and not is_now) or _get_running_loop() is None:  # trio's
        return _looked.requests
    began_ns = time.thread_time_ns()
    try:
        with everybodys.one_look():
            _looked.requests = _sort_out()
    except Exception as error:  # a coroutine object of the application's own class
        _diagnostics.report("tasks were not looked at", detail=error)
    _looked.left_ns = min(_looked.left_ns, _MOST_NS) - (time.thread_time_ns() - began_ns)
    return _looked.requests


def _sort_out() -> frozenset[Any]:
    at_work, serving = set(), []
    for task in asyncio.all_tasks():
        current: Any = where.context_of(task).get(CURRENT, {})
        around, held = current.get(SPAN), current.get(_names.HELD)
        if around is None:
            continue
        request = _request_of(around)
        if held is not None and held.message in held.message.connection.held:
            request = held.message.span
        elif not has_ended(request):
            if around is request and task not in _known and _may_serve(task, request):
                _known.add(task)
                if not _is_given(task, request):
                    serving.append((task, around, request))
            continue
        is_taker = held is not None and _taker(current, held) is task
        if is_taker or not endless.is_endless(task):
            is_own = where.own_step(where.of_task(task, {})[0]) is not None
            if is_own and (is_taker or not endless.waits_for_ever(task)):
                at_work.add(request)
        elif around is request or has_ended(around):  # else in a stage of its own
            serving.append((task, around, request))
    for task, around, request in serving:
        if request in at_work and (
            not endless.is_everybodys(task, is_beside=True) or _is_given(task, request)
        ):
            continue
        is_this = task is worker()
        place = _place() if is_this else where.label(where.of_task(task, {})[0])
        run_in(task, partial(_leave, task, around, request, place))
    return frozenset(at_work)


def _may_serve(task: Any, request: Any) -> bool:
    """Say whether *task*, of *request*, which is open, takes for ever what is everybody's."""
    # not the connection's own task: its frames would be kept as long as it lives
    code = getattr(task.get_coro(), "cr_code", None)
    is_servers = code is None or not is_application(code.co_filename)
    is_own = request.task is task if type(request) is Standing else is_servers
    return not is_own and endless.is_endless(task) and endless.is_everybodys(task)


def run_in(task: Any, act: Callable[[], object]) -> None:
    """Call *act* in the context of *task*."""
    try:
        where.context_of(task).run(act)
    except RuntimeError:  # it is the current context, which tasks may share
        act()


def _taker(current: Any, held: Any) -> Any:
    """Return the task that has taken the message of *held*, and works on it until it is done."""
    taken_by = current.get(_names.TAKER)
    return held.message.connection.task if taken_by is None else taken_by()


def _leave(task: Any, around: Any, request: Any, place: str) -> None:
    """Leave *around* in this context, which is that of *task*; a task keeps a connection that it
    was given.
    """
    leave_behind(around)
    now: Any = CURRENT.get().get(SPAN)
    is_open = type(now) is Standing
    if is_open and _is_given(task, now):
        return
    if is_open:
        leave_behind(now)
    elif now is not None and not is_local(now):  # the caller has sent a trace
        CURRENT.set(otel_context.Context())
    _report(task, request, f"without an end, at {place}: it is nobody's from here on")


def _is_given(task: Any, request: Any) -> bool:
    """Say whether *task* was given something of *request*: an argument or enclosed variable of its
    first function has the connection or, without a connection, is not shared by everybody.
    """
    frames = endless.frames(task)
    own = (each for each in reversed(frames) if is_application(each.f_code.co_filename))
    frame = next(own, frames[-1])  # a library's function may have called it
    code = frame.f_code
    named = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount] + code.co_freevars
    given = [frame.f_locals.get(name) for name in named]
    if type(request) is not Standing:
        objects = (
            each for each in given if where.attributes(each) or type(each) in everybodys.HOLDING
        )
        return not everybodys.found_from(frame).issuperset(map(id, objects))
    near = everybodys.reachable(given, everybodys.DEEP)
    methods = (each for each in near if type(each) is MethodType)
    return any(where.attributes(each.__self__).get("standing") is request for each in methods)
