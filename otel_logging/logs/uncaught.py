"""Uncaught exceptions of threads, tasks and finalisers, and warnings, as lines.

Invariant: each is one line, on behalf of the thread or task it came from wherever Python lets that
be known, else unowned; never on behalf of whatever runs when a finaliser does. Deliberately absent:
log records (``stdlib``).
"""

import asyncio
import gc
import logging
import os
import signal
import sys
import threading
import traceback
import warnings
from collections.abc import Callable
from contextlib import suppress
from contextvars import Context, ContextVar, copy_context
from functools import partial
from operator import attrgetter
from types import FunctionType
from typing import Any, Final

from opentelemetry import trace

from otel_logging import _names, _runtime, processors
from otel_logging._green import OfThread
from otel_logging._text import later
from otel_logging._values import plain, without_addresses
from otel_logging.logs import caller, line
from otel_logging.logs import logger as loggers
from otel_logging.processors import EventDict

#: The standard library's name for their logger.
WARNINGS: Final = "py.warnings"
#: Loggers of the standard library that report a failed task by its ``repr``.
LOOPS: Final = frozenset({"asyncio", "concurrent.futures"})
_AGAIN_S: Final = 0.01  # after so long a signal comes again
#: Python's own hooks. A proxy, or ``functools.wraps``, may claim to be one.
_PYTHONS: Final = (
    *(sys.__excepthook__, threading.__excepthook__, sys.__unraisablehook__),
    getattr(warnings, "_showwarning_orig", None),
)
#: Set while asyncio reports a task: the current context is the task's already, or unowned.
_placed: ContextVar[bool] = ContextVar("otel_logging.placed", default=False)
_PARTS: Final = later(r"\n(?=\w+: )")
_asyncio: Any = asyncio.BaseEventLoop  # whose method we replace
_asyncios: Final = _asyncio.default_exception_handler


def take_over(*, is_taken: bool) -> None:
    """Put our hooks before those that are there, or take ours off. Scope: process.

    If somebody has put a hook before ours, ours stays and only calls the next one.
    """
    for owner, name, report in _HOOKS:
        there = getattr(owner, name)
        if isinstance(there, _Hook) is not is_taken:
            setattr(owner, name, _Hook(report, there) if is_taken else there.before)
    if is_taken or _asyncio.default_exception_handler is _on_asyncio:
        _asyncio.default_exception_handler = _on_asyncio if is_taken else _asyncios


def context_for(record: logging.LogRecord) -> Context | None:
    """Return the context in which *record* is to become a line; None: the current one.

    asyncio reports a task that failed when it is collected, in the middle of whatever runs then.
    """
    accidental = record.name == "asyncio" and record.levelno >= logging.ERROR
    return Context() if accidental and not _placed.get() else None


def with_parts(event: str, event_dict: EventDict) -> str:
    """Put asyncio's parts of *event*, a line ``name: repr`` each, into *event_dict*.

    Return the rest, which is the same for each task and its arguments.
    """
    event, *parts = _PARTS.split(without_addresses(event))
    for part in parts:
        name, _, value = part.partition(": ")
        event_dict[name] = value
    return event.partition("(")[0] if event.startswith("Exception in callback ") else event


_passing = OfThread()  # our hook's function, while earlier hooks see what is a line already


class _Hook:
    """A hook of ours, and the one that it was put before.

    There are three cases: the other one is Python's own and only prints, which our
    line has done; it is somebody's (an error tracker's), who sees it too; it leads
    to an older hook of ours, which passes on.
    """

    def __init__(self, report: Callable[..., bool], before: Any) -> None:
        self._report, self.before = report, before

    def __call__(self, *args: Any, **options: Any) -> None:
        report = self._report
        is_line = _passing.mine() is report or (
            bool(_runtime.current.taken_over) and report(*args, **options)
        )
        if is_line and any(self.before is each for each in _PYTHONS):
            # what ``catch_warnings(record=True)`` replaces, and has no public name for
            show = getattr(warnings, "_showwarnmsg_impl", None)
            if report is not _of_warning or type(show) is FunctionType:
                return
        with _passing.doing(report if is_line else None):
            self.before(*args, **options)


# ---------------------------------------------------------------- each hook: was it a line?


def _of_main(_: Any, error: Any, __: Any) -> bool:
    if not isinstance(error, Exception):  # Python ends by itself at Ctrl-C
        return False
    return _line("sys.excepthook", logging.CRITICAL, f"uncaught {plain(error)}", exc_info=error)


def _of_thread(args: Any) -> bool:
    if args.exc_type is SystemExit:
        return False
    fields = {"exc_info": args.exc_value, "thread": getattr(args.thread, "name", None)}
    event = f"uncaught {plain(args.exc_value)}"
    return _line("threading.excepthook", logging.ERROR, event, **fields)


def _of_finaliser(args: Any) -> bool:
    if any(args.object is each for each in gc.callbacks) and (of := _signal_of(args.exc_value)):
        # a signal came while garbage was collected: Python has ignored what its handler raised
        send = signal.raise_signal if os.name == "nt" else partial(os.kill, os.getpid())
        threading.Timer(_AGAIN_S, send, (of,)).start()
        return True
    event = without_addresses(args.err_msg or "exception ignored").removesuffix(" in")
    fields = {"exc_info": args.exc_value, "object": args.object}
    return Context().run(_line, "sys.unraisablehook", logging.ERROR, event, **fields)


def _signal_of(error: BaseException) -> int:
    """Return the signal whose handler has raised *error* in a function that it interrupted."""
    step = error.__traceback__ and error.__traceback__.tb_next
    if step is None:  # Python's own handler has no frame
        return signal.SIGINT if isinstance(error, KeyboardInterrupt) else 0
    codes = {_code_of(signal.getsignal(each)): int(each) for each in signal.valid_signals()}
    return codes.get(step.tb_frame.f_code, 0)


def _code_of(handler: Any) -> Any:
    """Return the code of a function, a partial of one, or an object that can be called."""
    for path in ("__code__", "func.__code__", "__call__.__code__"):
        with suppress(AttributeError):
            return attrgetter(path)(handler)
    return None


def _of_warning(  # as ``warnings.showwarning``, whose arguments some give by their names
    message: Any, category: Any, filename: str, lineno: int, file: Any = None, *_: Any, **__: Any
) -> bool:
    if file is not None:
        return False
    fields = {_names.CODE_FILE: filename, _names.CODE_LINE: lineno, "category": category.__name__}
    # a ResourceWarning comes from a finaliser
    context = Context() if issubclass(category, ResourceWarning) else copy_context()
    return context.run(_line, WARNINGS, logging.WARNING, str(message), **fields)


def of_stage(stage: str, error: BaseException) -> Callable[[], None] | None:
    """Make the line about *error*, which leaves the entry stage *stage*; return what writes it.

    It is no event: the span has the exception already.
    """
    lines, span = loggers.logger_of("traced"), trace.get_current_span()
    configured: loggers.Configured = _runtime.current.logs
    if not _runtime.current.taken_over or lines.threshold > logging.ERROR:
        return None
    fields: dict[str, Any] = {_names.EVENT: "an exception left its entry stage", "stage": stage}
    line.identify(span, lines.name, loggers.name_of(logging.ERROR), fields, error)

    def write() -> None:
        # a later set-up is not asked for what came before it
        if _runtime.current.logs is configured:
            line.stamp(span, fields)
            configured.write(fields, configured.render)
            processors.record_on(span, fields, on_span=False)

    return write


def is_line_already(record: logging.LogRecord) -> bool:
    """Say whether *record* is of a warning that is a line: ``captureWarnings`` before us."""
    return record.name == WARNINGS and _passing.mine() is _of_warning


def _line(name: str, level: int, event: str, **fields: Any) -> bool:
    error = fields.get("exc_info")
    steps = list(traceback.walk_tb(None if error is None else error.__traceback__))
    raised_at = caller.place_of(*steps[-1]) if steps else None
    # captureWarnings, there before us, makes a record of it that handlers get
    is_record = name == WARNINGS and getattr(logging, "_warnings_showwarning", None) is not None
    lines, event_dict = loggers.logger_of(name), {_names.EVENT: event, **fields}
    loggers.log(lines, level, lambda: event_dict, is_heard=not is_record, place=raised_at)
    return True


#: Python's hooks: where, by which name, and what makes a line of it.
_HOOKS: Final[list[tuple[Any, str, Callable[..., bool]]]] = [
    (sys, "excepthook", _of_main),
    (threading, "excepthook", _of_thread),
    (sys, "unraisablehook", _of_finaliser),
    (warnings, "showwarning", _of_warning),
]


# ---------------------------------------------------------------- asyncio


def _on_asyncio(loop: asyncio.BaseEventLoop, context: dict[str, Any]) -> None:
    """Report what a task did on the task's own behalf: Python 3.12 and later know it."""
    if not _runtime.current.taken_over:
        _asyncios(loop, context)
        return
    owner = context.get("task") or context.get("future") or context.get("handle")
    known = getattr(owner, "get_context", None)
    where = Context() if known is None else known().copy()
    where.run(_placed.set, True)  # noqa: FBT003 - a variable's value
    where.run(_asyncios, loop, context)
