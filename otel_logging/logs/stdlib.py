"""Log records of any logger of the standard library, as lines of ours.

Invariant: the line is made where a logger calls its handlers, so existing handlers, and when they
were added, make no difference. A handler that writes to the process's own stdout or stderr stops
writing; every other one goes on as before. Deliberately absent: what is on a line (``line``);
warnings, exceptions (``uncaught``).
"""

import functools
import logging
import sys
from collections.abc import Callable
from types import FunctionType
from typing import Any, Final, cast

from otel_logging import _names, _runtime, processors
from otel_logging._values import as_text, is_true, plain
from otel_logging.binding import PLAIN
from otel_logging.jobs import TaggedText, tagged_text
from otel_logging.logs import call, caller, handlers, levels, uncaught
from otel_logging.logs import logger as loggers
from otel_logging.logs.line import TRACEBACK
from otel_logging.logs.nesting import is_handed_on
from otel_logging.processors import EventDict, TracebackText, is_handled, mark_handled

_python: Any = logging  # whose methods we replace
#: The methods before us: Python's own, or those of somebody who came first.
_call_handlers: Callable[[logging.Logger, logging.LogRecord], Any] | None = None
_handle: Callable[[logging.Handler, logging.LogRecord], Any] = logging.Handler.handle
_has_handlers: Callable[[logging.Logger], bool] = logging.Logger.hasHandlers
_set_level: Callable[[logging.Logger, Any], None] = logging.Logger.setLevel
_log: Any = logging.Logger._log  # noqa: SLF001
#: The methods that a usual record goes through, with ours.
_ways: tuple[Any, ...] = ()


def take_over() -> None:
    """Make a line of every record, warning and uncaught exception, if that is set up.

    Otherwise everything is put back. Scope: process. Failure: never raises.
    """
    wanted = _runtime.current.taken_over
    if wanted and _call_handlers is None:
        _replace_methods()
    for name in wanted:
        logging.getLogger(name)  # so that the loggers below find their level at this one
    _python.Logger.setLevel, _python.Logger.getEffectiveLevel = _set_and_follow, levels.lowest
    if not wanted:
        levels.note_root(logging.NOTSET, logging.NOTSET)
    _set_level(logging.root, logging.root.level)  # empties the loggers' caches of levels
    loggers.follow()
    uncaught.take_over(is_taken=bool(wanted))


def _replace_methods() -> None:
    # once: somebody may replace ours by a method that calls ours
    global _call_handlers, _handle, _has_handlers, _ways
    kind = _python.Logger
    _call_handlers, _handle = kind.callHandlers, logging.Handler.handle
    _has_handlers = kind.hasHandlers
    kind.callHandlers, kind.hasHandlers = _to_line_and_handlers, _has_handlers_or_line
    _python.Handler.handle = _unless_console
    if _is_pythons(_call_handlers):
        handlers.only_handlers.append(_to_line_and_handlers)
    log = kind._log  # noqa: SLF001 - what all of a logger's methods call
    before = log, kind.makeRecord, kind.handle, kind.filter, _call_handlers
    if all(map(_is_pythons, before)):
        kind._log = _as_loggings(_log_or_line, log)  # noqa: SLF001
        _ways = (kind.makeRecord, kind.handle, kind.filter, kind.callHandlers)


def _is_pythons(method: Any) -> bool:
    """Say whether nobody has replaced *method* of a logger. By type: a proxy may claim to be it."""
    return type(method) is FunctionType and method.__globals__ is vars(logging)


def _set_and_follow(self: logging.Logger, level: Any) -> None:
    before = self.level
    _set_level(self, level)  # raises what it always does
    if self is logging.root:
        levels.note_root(before, self.level)
    loggers.follow()


# ---------------------------------------------------------------- a record

#: Attributes that are no ``extra=`` fields: those of records and formatters, and copies of a line's
#: trace by OpenTelemetry's logging instrumentation.
_NO_FIELDS: Final = call.OF_RECORDS | {
    *("otelSpanID", "otelTraceID", "otelTraceSampled", "otelServiceName")
}
#: By library: fields that repeat parts of its message, or that nobody can read.
_REPEATED: Final = {
    "celery": {"data"},  # with arguments and traceback
    "django": {"server_time"},
    "uvicorn": {"color_message"},
    "websockets": {"websocket"},
    "aiohttp": {
        *("remote_address", "request_start_time", "first_request_line", "response_status"),
        *("response_size", "request_header", "response_header", "process_id"),
        *("request_time", "request_time_frac", "request_time_micro"),
    },
}
#: Loggers of which a record needs a closer look.
_APART: Final = uncaught.LOOPS | {uncaught.WARNINGS}


def _log_or_line(  # pragma: no cover - its frames are in logging's file
    self: logging.Logger,
    level: int,
    msg: object,
    args: Any,
    exc_info: Any = None,
    extra: Any = None,
    stack_info: Any = False,  # noqa: FBT002 - logging's signature
    stacklevel: int = 1,
) -> None:
    is_usual = exc_info is None and extra is None and stack_info is False
    if not (is_usual and _is_straight(self, level, msg, args)):
        _log(self, level, msg, args, exc_info, extra, stack_info, stacklevel)


def _as_loggings(function: Any, log: Any) -> Any:
    """Return *function* as one of logging's own, for code that looks for the frame that logs."""
    code = function.__code__.replace(co_filename=log.__code__.co_filename)
    known = {**globals(), "__name__": "logging", "_log": log}
    return FunctionType(code, known, function.__name__, function.__defaults__)


def _is_straight(logger: logging.Logger, level: int, message: Any, arguments: Any) -> bool:
    """Make the line of a usual call of *logger*; say whether it is one.

    Usual: nobody but our line would see the record (no handler, filter, factory, patch or
    class of the application's), and it is a text with plain scalars in it.
    """
    kind, lines = type(logger), loggers.logger_of(logger.name)
    if (
        _has_handlers(logger)
        or not _runtime.current.taken_over
        or type(message) is not str
        or level < lines.lowest
        or not lines.logged_in
        or logger.name in _APART
        or logger.filters
        or logger.disabled
        or logging.getLogRecordFactory() is not logging.LogRecord
        or (kind.makeRecord, kind.handle, kind.filter, kind.callHandlers) != _ways
        or logging.lastResort is not _python._defaultLastResort  # noqa: SLF001 - nobody else's
    ):
        return False
    if arguments:
        if type(arguments) is not tuple or not PLAIN.issuperset(map(type, arguments)):
            return False
        try:
            message = message % arguments
        except Exception:  # reported on the line
            return False
    return "\x1b" not in message and lines.straight(lines.name, level, message.rstrip("\n"), {})


def _to_line_and_handlers(self: logging.Logger, record: logging.LogRecord) -> Any:
    """Make a line of *record* and give it to handlers; return whether one took it, or may have."""
    call_handlers = cast(Any, _call_handlers)
    if not _runtime.current.taken_over:
        return call_handlers(self, record)
    is_refused = False
    if not is_handled(record):  # otherwise the filters have been asked already
        passed = handlers.through_filters(self, record)
        is_refused = passed is None
        if passed is not None:
            _make_line(passed)
    mark_handled(record)
    if record.levelno < levels.for_handlers(self) and caller.is_log_call():
        return False
    if handlers.only_handlers:
        call_handlers = handlers.taken_by
    is_taken = handlers.call_each(self, record, call_handlers)
    if is_taken and is_refused:
        _make_line(record, written=False)
    return is_taken


def _make_line(record: logging.LogRecord, *, written: bool = True) -> None:
    mark_handled(record)
    lines = loggers.logger_of(str(record.name))  # of a marked one, too
    if not lines.logged_in:
        lines.logged_in = str(plain(getattr(record, "pathname", None))) or "?"
        lines.follow()
    level = record.levelno
    is_hidden = level < lines.lowest or (lines.is_quiet and handlers.hides(lines.standard, level))
    is_hidden = is_hidden and (not lines.is_quiet or caller.is_log_call())
    if not (is_hidden or uncaught.is_line_already(record) or is_handed_on(record)):
        ways: Any = {"written": written, "level_name": loggers.name_of(level, record.levelname)}
        emit = functools.partial(loggers.emit, lines, level, _event_of, record, **ways)
        context = uncaught.context_for(record)
        emit() if context is None else context.run(emit)


def _event_of(record: logging.LogRecord) -> EventDict:
    """Return the event dict of a record, with every field that it was given."""
    given = record.__dict__
    event_dict: EventDict = {}
    if not given.keys() <= call.OF_RECORDS:
        if type(bound := given.get("extra")) is dict and "loguru" in sys.modules:
            given = {**bound, **given}  # of a ``logging`` handler that is a sink of loguru
            del given["extra"]
        without = _NO_FIELDS | _REPEATED.get(record.name.partition(".")[0], frozenset())
        event_dict = {str(plain(k)): v for k, v in given.items() if k not in without}
    if _runtime.current.logs.settings.caller:
        event_dict.update(caller.place(record.pathname, record.lineno, record.funcName))
    if issubclass(type(record.msg), dict) and "_logger" in event_dict:
        return _of_structlog(record, event_dict)
    arguments = record.args if isinstance(record.args, tuple) else (record.args,)
    if not is_true(record.args):
        arguments = ()
    tagged = record.msg if type(record.msg) is TaggedText else None
    message = as_text(record.msg) if tagged is None else tagged.message
    call.put_message((message, *arguments), event_dict)
    if _names.FORMAT_ARGS in event_dict and _is_filtered(record):
        del event_dict[_names.FORMAT_ARGS]
    event = processors.without_colors(event_dict[_names.EVENT].rstrip("\n"))
    if record.name in uncaught.LOOPS:
        event = uncaught.with_parts(event, event_dict)
    if tagged is not None:
        event = tagged_text(tagged.tag, event)
    if is_true(record.exc_info) or is_true(record.exc_text) or record.args is None:
        event = _put_exception(record, event, event_dict)
    if is_true(record.stack_info):
        event_dict[_names.STACK] = record.stack_info
    event_dict[_names.EVENT] = event
    return event_dict


def _is_filtered(record: logging.LogRecord) -> bool:
    """Say whether a filter of the application, which may hide something, sees *record*."""
    logger = logging.getLogger(str(record.name))
    own = (logger, *handlers.handlers_of(logger), *handlers.consoles_of(logger))
    return any(each.filters or type(each).filter is not logging.Filterer.filter for each in own)


def _put_exception(record: logging.LogRecord, event: str, event_dict: EventDict) -> str:
    """Put the exception of *record* into *event_dict*; return *event* without loguru's traceback.

    loguru's records have it in their message, and a line break for ``exc_text``. A ``QueueHandler``
    puts all into the message, and leaves no arguments.
    """
    text = str(plain(record.exc_text)).strip() if is_true(record.exc_text) else ""
    found = TRACEBACK.search(event)
    if not text and found and record.args is None:
        text = event[found.start() :].strip()
    if is_true(record.exc_info):
        event_dict["exc_info"] = record.exc_info
    elif text:  # of another process, which could not send the exception itself
        event_dict["exc_info"] = TracebackText(text)
    return event[: found.start()] if found and record.exc_text == "\n" else event


def _of_structlog(record: logging.LogRecord, event_dict: EventDict) -> EventDict:
    """Return the event dict that ``ProcessorFormatter.wrap_for_formatter`` made the message."""
    event_dict.update(cast(dict[str, Any], record.msg))
    ours = (_names.TIMESTAMP, _names.LEVEL, _names.LOGGER)  # the line has its own
    for key in ("_logger", "_name", "_from_structlog", "_record", *ours):
        event_dict.pop(key, None)
    event_dict.setdefault(_names.EVENT, "")
    if type(event_dict.get(_names.EXCEPTION)) is str and "exc_info" not in event_dict:
        event_dict["exc_info"] = TracebackText(event_dict.pop(_names.EXCEPTION))
    return event_dict


# ---------------------------------------------------------------- handlers


def _unless_console(self: logging.Handler, record: logging.LogRecord) -> Any:
    """Handle *record*, unless that would write it where its line is.

    A record without a line, which a queue brings from a process without us, gets one here.
    """
    is_taken_over = bool(_runtime.current.taken_over)
    if not (is_taken_over and handlers.is_console(self)):
        # a log record of ours may be where it would send this once more
        is_line = is_taken_over and is_handled(record) and handlers.is_doubled(self)
        is_sent = is_line and record.levelno >= loggers.logger_of(str(record.name)).lowest
        return is_sent or _handle(self, record)
    if not is_handled(record) and (passed := cast(Any, self.filter(record))):
        _make_line(record if passed is True else passed)
    return False


def _has_handlers_or_line(self: logging.Logger) -> bool:
    """Say that the root logger has a handler: our line is one.

    uvicorn makes access lines only where there is one, and ``--no-access-log``
    takes that logger's handlers and its way to the root.
    """
    at = self
    while at.parent is not None and at.propagate:
        at = at.parent
    return (bool(_runtime.current.taken_over) and at.parent is None) or _has_handlers(self)
