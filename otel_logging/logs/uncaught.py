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

#: The hooks that were there before ours.
_before: Final[dict[str, Any]] = {}
_is_taken = False
#: Set while asyncio tells of a task: the current context is the task's already, or nobody's.
_placed: ContextVar[bool] = ContextVar("otel_logging.placed", default=False)


def take_over() -> None:
    """Put our hooks before those that are there. Scope: process.

    Where somebody has put another one before ours since, that stays: it may lead to ours.
    """
    global _is_taken
    _is_taken = True
    for key, (owner, name, hook) in _HOOKS.items():
        there = getattr(owner, name)
        if there is not hook and _before.setdefault(key, there) is there:
            setattr(owner, name, hook)


def release() -> None:
    """Give the hooks back; one that somebody has put another before only passes on."""
    global _is_taken
    _is_taken = False
    for key, (owner, name, hook) in _HOOKS.items():
        if getattr(owner, name) is hook:
            setattr(owner, name, _before[key])  # kept: ``catch_warnings`` may bring ours back


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


# ---------------------------------------------------------------- the hooks
# Each lets the one that was there before see it too, unless that is Python's own, which prints.


def _on_exception(kind: Any, error: Any, traceback: Any) -> None:
    before = _before["main"]
    is_ours = _is_taken and isinstance(error, Exception)  # Ctrl-C has Python's own ending
    if is_ours:
        _line("sys.excepthook", logging.CRITICAL, "uncaught exception", exc_info=error)
    if not is_ours or before is not sys.__excepthook__:
        before(kind, error, traceback)


def _on_thread_exception(args: Any) -> None:
    before = _before["thread"]
    if _is_taken and args.exc_type is not SystemExit:
        fields = {"exc_info": args.exc_value, "thread": getattr(args.thread, "name", None)}
        _line("threading.excepthook", logging.ERROR, "uncaught exception in a thread", **fields)
    if not _is_taken or before is not threading.__excepthook__:
        before(args)


def _on_unraisable(args: Any) -> None:
    before = _before["unraisable"]
    if _is_taken:
        event = (args.err_msg or "exception ignored").removesuffix(" in")
        fields = {"exc_info": args.exc_value, "object": args.object}
        Context().run(_line, "sys.unraisablehook", logging.ERROR, event, **fields)
    if not _is_taken or before is not sys.__unraisablehook__:
        before(args)


def _on_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    if file is not None or not _is_taken:
        _before["warning"](message, category, filename, lineno, file, line)
        return
    fields = {_names.CODE_FILE: filename, _names.CODE_LINE: lineno}
    fields["category"] = category.__name__
    # of what was not closed, a finaliser warns
    run = Context().run if issubclass(category, ResourceWarning) else _run_here
    run(_line, "py.warnings", logging.WARNING, str(message), **fields)  # logging's name for them


def _on_asyncio(loop: asyncio.BaseEventLoop, context: dict[str, Any]) -> None:
    """Tell of what a task did on the task's own behalf: Python 3.12 and later know it."""
    if not _is_taken:
        _before["asyncio"](loop, context)
        return
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
