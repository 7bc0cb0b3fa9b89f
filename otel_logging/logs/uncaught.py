"""What nobody caught: exceptions of threads, tasks and finalisers, and warnings, as lines.

In: Python's own hooks for them. Out: lines of ours, each once, on behalf of the
thread or task it came from wherever Python lets that be known, else of nobody.
Invariant: never on behalf of whoever happens to run when a finaliser does.
Deliberately absent: log records (``stdlib``); where an exception came from is
kept by ``context``.
"""

import asyncio
import logging
import re
import sys
import threading
import traceback
import warnings
from collections.abc import Callable
from contextvars import Context, ContextVar
from typing import Any, Final, TextIO

from otel_logging import _names
from otel_logging._green import OfThread
from otel_logging.logs import logger as loggers
from otel_logging.logs.line import STEPS, add_caller

#: The standard library's name for them.
WARNINGS: Final = "py.warnings"

_is_taken = False
#: Set while asyncio tells of a task: the current context is the task's already, or nobody's.
_placed: ContextVar[bool] = ContextVar("otel_logging.placed", default=False)
_asyncios: Final = asyncio.BaseEventLoop.default_exception_handler


def take_over() -> None:
    """Put our hooks before those that are there. Scope: process."""
    global _is_taken
    _is_taken = True
    for owner, name, tell in _HOOKS:
        there = getattr(owner, name)
        if not isinstance(there, _Hook):
            setattr(owner, name, _Hook(tell, there))
    _asyncio.BaseEventLoop.default_exception_handler = _on_asyncio


def release() -> None:
    """Give the hooks back; one that somebody has put another before only passes on."""
    global _is_taken
    _is_taken = False
    for owner, name, _ in _HOOKS:
        there = getattr(owner, name)
        if isinstance(there, _Hook):
            setattr(owner, name, there.before)
    if _asyncio.BaseEventLoop.default_exception_handler is _on_asyncio:
        _asyncio.BaseEventLoop.default_exception_handler = _asyncios


def place_of(record: logging.LogRecord) -> Context | None:
    """Return the context in which *record* is to become a line; None: the current one.

    asyncio tells of a task that failed when the task is collected, in the middle
    of whatever runs then.
    """
    accidental = record.name == "asyncio" and record.levelno >= logging.ERROR
    return Context() if accidental and not _placed.get() else None


#: Modules of Python's own hooks.
_PYTHONS: Final = frozenset({"sys", "threading", "_thread", "warnings", "_py_warnings"})


_passing = OfThread()  # our hook's function, while it lets those before it see what it has told


class _Hook:
    """A hook of ours, and the one that it was put before.

    There are three cases: the other one is Python's own and only prints, which our
    line has done; it is somebody's (an error tracker's), who sees it too; it leads
    to an older hook of ours, which passes on.
    """

    def __init__(self, tell: Callable[..., bool], before: Any) -> None:
        self._tell, self.before = tell, before

    def __call__(self, *args: Any, **options: Any) -> None:
        me = threading.get_ident()
        outer = _passing.get(me)
        told = outer is self._tell or (_is_taken and self._tell(*args, **options))
        if told and self._before_prints():
            return
        _passing.put(me, self._tell if told else None)
        try:
            self.before(*args, **options)
        finally:
            _passing.put(me, outer)

    def _before_prints(self) -> bool:
        if getattr(self.before, "__module__", None) not in _PYTHONS:
            return False
        return self._tell is not _of_warning or not _is_recorded()


# ---------------------------------------------------------------- what each tells: was it ours?


def _of_main(_: Any, error: Any, __: Any) -> bool:
    if not isinstance(error, Exception):  # Ctrl-C has Python's own ending
        return False
    _line("sys.excepthook", logging.CRITICAL, "uncaught exception", exc_info=error)
    return True


def _of_thread(args: Any) -> bool:
    if args.exc_type is SystemExit:
        return False
    fields = {"exc_info": args.exc_value, "thread": getattr(args.thread, "name", None)}
    _line("threading.excepthook", logging.ERROR, "uncaught exception in a thread", **fields)
    return True


def _of_finaliser(args: Any) -> bool:
    event = (args.err_msg or "exception ignored").removesuffix(" in")
    fields = {"exc_info": args.exc_value, "object": args.object}
    Context().run(_line, "sys.unraisablehook", logging.ERROR, event, **fields)
    return True


def _of_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,  # noqa: ARG001 - the signature of ``warnings.showwarning``
) -> bool:
    if file is not None:
        return False
    fields = {_names.CODE_FILE: filename, _names.CODE_LINE: lineno}
    fields["category"] = category.__name__
    # of what was not closed, a finaliser warns
    run = Context().run if issubclass(category, ResourceWarning) else _run_here
    run(_line, WARNINGS, logging.WARNING, str(message), **fields)
    return True


def _is_recorded() -> bool:
    """Say whether Python's own hook for warnings keeps them: ``catch_warnings(record=True)``."""
    show = getattr(warnings, "_showwarnmsg_impl", None)  # what it replaces, and has no name for
    return show is not None and getattr(show, "__module__", None) not in _PYTHONS


def has_told(record: logging.LogRecord) -> bool:
    """Say whether *record* is a warning that is a line already: ``captureWarnings`` before us."""
    return record.name == WARNINGS and _passing.get(threading.get_ident()) is _of_warning


#: ``warnings.formatwarning``: the place, the category, the message, the line of code.
_FORMATTED: Final = re.compile(r"(.+?):(\d+): (\w+): (.*?)(?:\n  [^\n]*)?", re.DOTALL)


def parts_of_warning(text: str) -> dict[str, Any]:
    """Return the fields of a warning that ``captureWarnings``, called after us, made a text of."""
    found = _FORMATTED.fullmatch(text.rstrip("\n"))
    if found is None:
        return {}
    path, line, category, message = found.groups()
    place = {_names.CODE_FILE: path, _names.CODE_LINE: int(line)}
    return {_names.EVENT: message, "category": category, **place}


def _run_here(function: Any, *args: Any, **fields: Any) -> None:
    function(*args, **fields)


def _line(name: str, level: int, event: str, **fields: Any) -> None:
    place = _place_of(fields.get("exc_info"))
    if add_caller in STEPS:
        fields = {**place, **fields}
    # captureWarnings, there before us, makes a record of it that handlers get
    is_record = name == WARNINGS and getattr(logging, "_warnings_showwarning", None) is not None
    loggers.log(
        loggers.channel(name),
        level,
        lambda: {_names.EVENT: event, **fields},
        (),
        place=place,
        handed_on=not is_record,
    )


def _place_of(error: BaseException | None) -> dict[str, Any]:
    """Return where *error* was raised: the caller of a line that a hook makes."""
    steps = list(traceback.walk_tb(None if error is None else error.__traceback__))
    if not steps:
        return {}
    frame, line = steps[-1]
    code = frame.f_code
    place = {_names.CODE_FILE: code.co_filename, _names.CODE_LINE: line}
    return {**place, _names.CODE_FUNCTION: code.co_name}


#: What Python asks when nobody caught something: where, by which name, and what tells of it.
_HOOKS: Final[list[tuple[Any, str, Callable[..., bool]]]] = [
    (sys, "excepthook", _of_main),
    (threading, "excepthook", _of_thread),
    (sys, "unraisablehook", _of_finaliser),
    (warnings, "showwarning", _of_warning),
]


# ---------------------------------------------------------------- asyncio

_asyncio: Any = asyncio  # whose method we replace


def _on_asyncio(loop: asyncio.BaseEventLoop, context: dict[str, Any]) -> None:
    """Tell of what a task did on the task's own behalf: Python 3.12 and later know it."""
    if not _is_taken:
        _asyncios(loop, context)
        return
    owner = context.get("task") or context.get("future") or context.get("handle")
    known = getattr(owner, "get_context", None)
    where = Context() if known is None else known().copy()
    where.run(_placed.set, True)  # noqa: FBT003 - a variable's value
    where.run(_asyncios, loop, context)
