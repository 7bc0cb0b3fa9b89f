"""The caller: the nearest frame outside this package, structlog and ``logging``.

Also which code is the application's: code that is not installed, the package that called set-up,
and packages that a setting names.
"""

import logging
import re
import sys
import traceback
from collections.abc import Callable, Iterable
from contextvars import ContextVar
from types import FrameType
from typing import Any, Final

import structlog

from otel_logging import _names, _runtime
from otel_logging.lateness.application import is_application

#: If set, structlog looks for the caller from this frame on.
_calling: Final[ContextVar[FrameType | None]] = getattr(
    structlog.contextvars, "_ASYNC_CALLING_STACK", ContextVar("calling")
)
#: How ``logging`` brings a record to its handlers.
_HANDLE: Final = getattr(logging.Logger.handle, "__code__", None)
_LOG: Final = getattr(logging.Logger._log, "__code__", None)  # noqa: SLF001
_INSIDE: Final = frozenset({"otel_logging", "structlog", "logging"})
#: Servers that show their lines by themselves, with two exceptions: uvicorn with log_config=None,
#: and werkzeug as long as the thread of its first request has not added its handler.
_SHOWN: Final = frozenset({"uvicorn", "werkzeug"})


def users_frame(frame: FrameType | None = None) -> tuple[FrameType, int]:
    """Return the frame that logs, and its distance from *frame* (by default the caller's)."""
    frame, above = frame or sys._getframe(1), 0  # noqa: SLF001 - documented
    while frame.f_back is not None and _is_inside(frame):
        frame, above = frame.f_back, above + 1
    return frame, above


def _is_inside(frame: FrameType) -> bool:
    return str(frame.f_globals.get("__name__")).partition(".")[0] in _INSIDE


def is_log_call() -> bool:
    """Say whether the caller's record is of a log call, which has checked its level.

    ``Logger.handle`` and SQLAlchemy's ``echo`` check none.
    """
    frame: FrameType | None = sys._getframe(2)  # noqa: SLF001 - documented
    while frame is not None and frame.f_code is not _HANDLE:  # somebody's before ours
        frame = frame.f_back
    while frame is not None and frame.f_code.co_name == "handle":  # of a logger's own class, too
        frame = frame.f_back
    is_logged = frame is not None and frame.f_code is _LOG
    while frame is not None and frame.f_code.co_name.startswith("_log"):  # ours around it, too
        frame = frame.f_back
    return is_logged and (frame is None or frame.f_globals.get("__name__") != "sqlalchemy.log")


def users_place() -> dict[str, Any]:
    """Return file, line and function of the log call."""
    frame = _calling.get(None) or users_frame()[0]
    return place_of(frame, frame.f_lineno)


def application_of(packages: Iterable[str]) -> frozenset[str]:
    """Return what is the application's code: the package that calls set-up, and *packages*."""
    calls = _package_of(users_frame()[0])
    return frozenset(each.partition(".")[0] for each in ("__main__", calls, *packages))


def _package_of(frame: FrameType) -> str:
    """Return the outermost package of *frame*; with ``python -m`` its name does not say it."""
    names = frame.f_globals
    return str(names.get("__package__") or names.get("__name__")).partition(".")[0]


def is_library(logger: str, logged_in: str) -> bool:
    """Say whether *logger* is an installed library's.

    There are two cases: the logger has the name of the library's module; or its letters are those
    of the path, from the package on, of the file that it first *logged_in*: ``google_genai`` for
    ``google/genai/…``.
    """
    name = logger.partition(".")[0]
    module = sys.modules.get(name)
    file = next(iter(getattr(module, "__path__", ())), None) or getattr(module, "__file__", None)
    if file is None:
        inside = logged_in.rpartition("-packages")[2]
        package = re.split(r"[\\/.]", f"{inside}//")[1]
        path, first, letters = (re.sub(r"[\W_]", "", e).lower() for e in (inside, package, name))
        if path.startswith(letters) and letters.startswith(first):
            name, file = package, logged_in
    is_known = name in _SHOWN or name in _runtime.current.application or type(file) is not str
    return not (is_known or is_application(f"{file}/"))


def where(error: BaseException) -> dict[str, str]:
    """Return the innermost place of *error* in the application's own code, as a field."""
    found = {}
    for frame, line in traceback.walk_tb(error.__traceback__):
        code = frame.f_code
        if is_application(code.co_filename):
            found = {_names.EXCEPTION_WHERE: f"{code.co_filename}:{line} in {code.co_qualname}"}
    return found


#: The fields that say where a line is logged.
PLACE: Final = _names.CODE_FILE, _names.CODE_LINE, _names.CODE_FUNCTION


def place_of(frame: FrameType, line: int) -> dict[str, Any]:
    """Return *line* of *frame* as fields."""
    return place(frame.f_code.co_filename, line, frame.f_code.co_name)


def place(file: Any, line: Any, function: Any) -> dict[str, Any]:
    """Return where a line is logged as fields."""
    return dict(zip(PLACE, (file, line, function), strict=True))


def as_called(function: Callable[..., Any], /, *args: Any, **fields: Any) -> Any:
    """Call *function* so that structlog finds the caller past this package's own frames."""
    if _calling.get(None) is not None:
        return function(*args, **fields)
    token = _calling.set(users_frame()[0])
    try:
        return function(*args, **fields)
    finally:
        _calling.reset(token)
