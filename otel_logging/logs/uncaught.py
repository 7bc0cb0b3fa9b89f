"""What nobody caught: exceptions of threads, tasks and finalisers, and warnings, as lines.

In: Python's own hooks for them. Out: lines of ours, each once, on behalf of the
thread or task it came from wherever Python lets that be known, else of nobody.
Invariant: never on behalf of whoever happens to run when a finaliser does.
Deliberately absent: log records (``takeover``); where an exception came from is
kept by ``context``.
"""

import asyncio
import logging
import sys
import threading
import warnings
from contextvars import Context, ContextVar
from typing import Any, Final, TextIO

from otel_logging import _names
from otel_logging.logs import logger as loggers

_before: Final[dict[str, Any]] = {}
#: Set while asyncio tells of a task: the current context is the task's already, or nobody's.
_placed: ContextVar[bool] = ContextVar("otel_logging.placed", default=False)


def take_over() -> None:
    """Put our hooks before those that are there. Scope: process."""
    for key, (owner, name, hook) in _HOOKS.items():
        there = getattr(owner, name)
        if there is not hook:
            _before[key] = there
            setattr(owner, name, hook)


def release() -> None:
    """Give the hooks back, where nobody has put another one before them."""
    for key, (owner, name, hook) in _HOOKS.items():
        if getattr(owner, name) is hook:
            setattr(owner, name, _before.pop(key))


def place_of(record: logging.LogRecord) -> Context | None:
    """Return the context in which *record* is to become a line; None: the current one.

    asyncio tells of a task that failed when the task is collected, in the middle
    of whatever runs then.
    """
    accidental = record.name == "asyncio" and record.levelno >= logging.ERROR
    return Context() if accidental and not _placed.get() else None


def _run_here(function: Any, *args: Any, **fields: Any) -> None:
    function(*args, **fields)


def _line(name: str, level: int, event: str, **fields: Any) -> None:
    channel = loggers.channel(name)
    if level >= channel.threshold:
        loggers.make_line(channel, level, lambda: {_names.EVENT: event, **fields})


def _go_on(key: str, usual: Any, *args: Any) -> None:
    """Let the hook that was there before ours see it too, unless it only prints."""
    there = _before.get(key)
    if there is not None and there is not usual:
        there(*args)


def _on_exception(kind: Any, error: Any, traceback: Any) -> None:
    if not isinstance(error, Exception):  # Ctrl-C: Python's own ending
        _before.get("main", sys.__excepthook__)(kind, error, traceback)
        return
    _line("sys.excepthook", logging.CRITICAL, "uncaught exception", exc_info=error)
    _go_on("main", sys.__excepthook__, kind, error, traceback)


def _on_thread_exception(args: Any) -> None:
    if args.exc_type is not SystemExit:
        name = getattr(args.thread, "name", None)
        event = "uncaught exception in a thread"
        _line("threading.excepthook", logging.ERROR, event, exc_info=args.exc_value, thread=name)
    _go_on("thread", threading.__excepthook__, args)


def _on_unraisable(args: Any) -> None:
    event = (args.err_msg or "exception ignored").removesuffix(" in")
    fields = {"exc_info": args.exc_value, "object": args.object}
    Context().run(_line, "sys.unraisablehook", logging.ERROR, event, **fields)
    _go_on("unraisable", sys.__unraisablehook__, args)


def _on_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    if file is not None:
        _before["warning"](message, category, filename, lineno, file, line)
        return
    fields = {_names.CODE_FILE: filename, _names.CODE_LINE: lineno}
    fields["category"] = category.__name__
    # of what was not closed, a finaliser warns
    run = Context().run if issubclass(category, ResourceWarning) else _run_here
    run(_line, "py.warnings", logging.WARNING, str(message), **fields)  # logging's name for them


def _on_asyncio(loop: asyncio.BaseEventLoop, context: dict[str, Any]) -> None:
    """Tell of what a task did on the task's own behalf: Python 3.12 and later know it."""
    owner = context.get("task") or context.get("future") or context.get("handle")
    known = getattr(owner, "get_context", None)
    where = Context() if known is None else known().copy()
    where.run(_placed.set, True)  # noqa: FBT003 - a variable's value
    where.run(_before["asyncio"], loop, context)


#: What Python asks when nobody caught something: where, by which name, our answer.
_HOOKS: Final[dict[str, tuple[Any, str, Any]]] = {
    "main": (sys, "excepthook", _on_exception),
    "thread": (threading, "excepthook", _on_thread_exception),
    "unraisable": (sys, "unraisablehook", _on_unraisable),
    "warning": (warnings, "showwarning", _on_warning),
    "asyncio": (asyncio.BaseEventLoop, "default_exception_handler", _on_asyncio),
}
