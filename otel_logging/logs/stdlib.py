"""Everybody else's lines: log records of any logger of the standard library, as lines of ours.

In: log records. Out: one line each. Invariant: the line is made where a logger calls its
handlers, so existing handlers, and when they were added, make no difference. A handler that writes
to the process's own stdout or stderr writes no more: the line stands there. Every other one goes on
as it did. Deliberately absent: what is in a line (``line``); warnings, exceptions (``uncaught``).
"""

import copy
import functools
import logging
import re
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from types import FunctionType
from typing import Any, Final, cast

from otel_logging import _diagnostics, _names
from otel_logging._values import is_true, plain
from otel_logging.jobs import TaggedText, tagged_text
from otel_logging.logs import call, caller, handlers, levels, line, nesting, uncaught
from otel_logging.logs import logger as loggers
from otel_logging.processors import EventDict, exception_of, is_done, mark_done
from otel_logging.settings import LogSettings

_python: Any = logging  # whose methods we replace
#: What was there before us: Python's own, or that of somebody who came first.
_call_handlers: Callable[[logging.Logger, logging.LogRecord], None] | None = None
_handle: Callable[[logging.Handler, logging.LogRecord], Any] = logging.Handler.handle
_has_handlers: Callable[[logging.Logger], bool] = logging.Logger.hasHandlers
_log: Any = logging.Logger._log  # noqa: SLF001
_is_pythons = True
#: What a record goes through, as it is after us.
_ways: tuple[Any, ...] = ()
_is_taken = False
_with_caller = False


def take_over(settings: LogSettings) -> None:
    """Make a line of every record, warning and uncaught exception.

    Scope: process; again, it takes over anew. Failure: never raises.
    """
    global _call_handlers, _is_pythons, _handle, _has_handlers, _is_taken, _with_caller
    global _ways
    _is_taken, _with_caller = True, settings.caller
    if _call_handlers is None:  # once: somebody may put theirs before it, and lead back to ours
        _call_handlers, _handle = logging.Logger.callHandlers, logging.Handler.handle
        _is_pythons = type(_call_handlers) is FunctionType and _call_handlers.__globals__ is vars(
            logging
        )
        _has_handlers = logging.Logger.hasHandlers
        _python.Logger.callHandlers = _to_line_and_handlers
        _python.Handler.handle = _unless_console
        _python.Logger.hasHandlers = _has_handlers_or_line
        log = _python.Logger._log  # noqa: SLF001 - what all of a logger's methods call
        if _is_pythons and getattr(log, "__globals__", None) is vars(logging):
            _python.Logger._log = _as_loggings(_log_or_line, log)  # noqa: SLF001
            kind = logging.Logger
            _ways = (kind.makeRecord, kind.handle, kind.filter, kind.callHandlers)
    levels.hold(levels.of(settings))
    uncaught.take_over()
    if not settings.console:
        _silence_flask()


def _silence_flask() -> None:
    # its banner is printed, not logged, and has no option; nothing where flask is not imported yet
    cli: Any = sys.modules.get("flask.cli")
    if hasattr(cli, "show_server_banner"):
        cli.show_server_banner = lambda *_, **__: None


def release() -> None:
    """Let everything be as it was before."""
    global _is_taken
    _is_taken = False
    levels.hold({})
    uncaught.release()


@contextmanager
def given_back() -> Iterator[None]:
    """Let everything be as it was after a ``with`` block, whatever is taken over inside."""
    global _is_taken, _with_caller
    taken, caller, held = _is_taken, _with_caller, dict(levels.ours)
    try:
        yield
    finally:
        release()
        if taken:
            _is_taken, _with_caller = True, caller
            levels.hold(held)
            uncaught.take_over()


# ---------------------------------------------------------------- a record

_PLAIN: Final = vars(logging.LogRecord("", 0, "", 0, "", (), None)).keys()  # not of a factory
#: What is no ``extra=`` field: what every record has, what formatters add, and copies of what a
#: line has anyway, from OpenTelemetry's logging instrumentation.
_NO_FIELDS: Final = _PLAIN | {
    *("message", "asctime", "otelSpanID", "otelTraceID"),
    *("otelTraceSampled", "otelServiceName"),
}
#: ECMA-48 SGR: colours that a library puts into its message.
_COLORS: Final = re.compile(r"\x1b\[[0-9;]*m")


#: Types whose ``%s`` runs no code of an application's.
_SCALARS: Final = frozenset({str, int, float, bool, type(None)})
#: Names of which a record needs a closer look.
_APART: Final = frozenset({uncaught.WARNINGS, "asyncio"})
_NO_FIELDS_AT_ALL: Final[dict[str, Any]] = {}
_last_resort: Final = logging.lastResort


def _log_or_line(  # pragma: no cover - its frames are in logging's file
    self: logging.Logger,
    level: int,
    msg: object,
    args: Any,
    exc_info: Any = None,
    extra: Any = None,
    stack_info: bool = False,  # noqa: FBT001, FBT002 - logging's signature
    stacklevel: int = 1,
) -> None:
    if not (exc_info is None and extra is None and stack_info is False):
        exc_info, stack_info = _with_truth(exc_info), is_true(stack_info)
        _log(self, level, msg, args, exc_info, extra, stack_info, stacklevel)
    elif not _is_straight(self, level, msg, args):
        _log(self, level, msg, args, stacklevel=stacklevel)


def _as_loggings(function: Any, log: Any) -> Any:
    """Return *function* as one of logging's own, for whoever looks for the frame that logs."""
    code = function.__code__.replace(co_filename=log.__code__.co_filename)
    known = {"__name__": "logging", "_log": log, "_is_straight": _is_straight}
    known |= {"_with_truth": _with_truth, "is_true": is_true}
    return FunctionType(code, known, function.__name__, function.__defaults__)


def _with_truth(exc_info: Any) -> Any:
    """Return *exc_info* so that ``logging`` may ask for its truth and its class."""
    try:
        _ = isinstance(exc_info, BaseException), bool(exc_info)
    except Exception:
        error = exception_of(exc_info)
        return None if error is None else (type(error), error, error.__traceback__)
    return exc_info


def _is_straight(logger: logging.Logger, level: int, message: Any, arguments: Any) -> bool:
    """Make the line of a usual call of *logger*; say whether it is one.

    Usual: nobody but our line would see the record (no handler, filter, factory, patch or
    class of the application's), and it is a text with plain scalars in it.
    """
    at: logging.Logger | None = logger
    while at is not None:
        if at.handlers:
            return False
        at = at.parent if at.propagate else None
    kind, channel = type(logger), loggers.channel(logger.name)
    if (
        not _is_taken
        or type(message) is not str
        or level < channel.lowest
        or logger.name in _APART
        or logger.filters
        or logger.disabled
        or logging.getLogRecordFactory() is not logging.LogRecord
        or (kind.makeRecord, kind.handle, kind.filter, kind.callHandlers) != _ways
        or logging.lastResort is not _last_resort
    ):
        return False
    if arguments:
        if type(arguments) is not tuple:
            return False
        for argument in arguments:
            if type(argument) not in _SCALARS:
                return False
        try:
            message = message % arguments
        except Exception:  # the line says so
            return False
    return "\x1b" not in message and channel.straight(
        channel, level, message.rstrip("\n"), _NO_FIELDS_AT_ALL
    )


def _to_line_and_handlers(self: logging.Logger, record: logging.LogRecord) -> None:
    call_handlers = cast(Any, _call_handlers)
    if not _is_taken:
        call_handlers(self, record)
        return
    passed: logging.LogRecord | None = record
    try:
        passed = _through_filters(self, record)
    except Exception as error:
        _diagnostics.report("errors of a logging handler's filter", detail=error)
    if passed is not None:
        _to_line(passed)
    is_new = not is_done(record)
    mark_done(record)
    if record.levelno < levels.for_handlers(self):
        return
    if "_logger" in record.__dict__:  # structlog's: its formatter looks for who logged
        call_handlers = functools.partial(caller.as_called, call_handlers)
    answers: dict[int, bool] | None = {} if passed is None and is_new else None
    _call(call_handlers, self, record, answers)
    if answers is not None and handlers.is_taken_by_one(self, record, answers):
        _make_line(record, line.ON_SPAN)


def _call(
    call_handlers: Any,
    logger: logging.Logger,
    record: logging.LogRecord,
    answers: dict[int, bool] | None,
) -> None:
    me = threading.get_ident()
    depth = nesting.depths.get(me, 0)
    outer = handlers.answers_of.get(me)
    handlers.answers_of.put(me, answers)
    try:
        if depth:
            nesting.check(me, depth)
        nesting.depths[me] = depth + 1
        call_handlers(logger, record)
    except Exception as error:
        _diagnostics.report("errors of a logging handler", detail=error)
    finally:
        handlers.answers_of.put(me, outer)
        nesting.leave(me, depth)


def _through_filters(logger: logging.Logger, record: logging.LogRecord) -> logging.LogRecord | None:
    """Return *record* as the filters of the handlers leave it whose place our line takes.

    None where each of them refuses it. A filter may add fields, or hide secrets.
    """
    refused = False
    for handler in handlers.handlers_of(logger):
        if handlers.is_console(handler):
            # what it does to the record is done to the line, not to other handlers' records
            seen = copy.copy(record) if handler.filters else record
            passed: Any = handler.filter(seen)
            if passed:  # from Python 3.12 on the record itself, or another one
                return seen if passed is True else cast(logging.LogRecord, passed)
            refused = True
    return None if refused else record


def _to_line(record: logging.LogRecord) -> None:
    if is_done(record):
        return
    mark_done(record)
    _make_line(record, line.STEPS)


def _make_line(record: logging.LogRecord, steps: Iterable[Callable[..., EventDict]]) -> None:
    if uncaught.has_told(record):
        return
    channel = loggers.channel(str(record.name))  # of a marked one, too
    if record.levelno >= channel.lowest:
        where = uncaught.place_of(record)
        made = (channel, record.levelno, _event_of, (record,), None, steps)
        if where is None:
            loggers.make_line(*made)
        else:
            where.run(loggers.make_line, *made)


def _event_of(record: logging.LogRecord) -> EventDict:
    """Return the event dict of a record, with every field that it was given."""
    given = record.__dict__
    event_dict: EventDict = {}
    if not given.keys() <= _PLAIN:
        event_dict = {str(plain(k)): v for k, v in given.items() if k not in _NO_FIELDS}
        if record.name.startswith("uvicorn"):  # its message once more, in colours
            event_dict.pop("color_message", None)
    if _with_caller:
        event_dict[_names.CODE_FILE] = record.pathname
        event_dict[_names.CODE_LINE] = record.lineno
        event_dict[_names.CODE_FUNCTION] = record.funcName
    if issubclass(type(record.msg), dict) and "_logger" in event_dict:
        return _of_structlog(record, event_dict)
    call.put_message((_text_of(record), *_arguments_of(record)), event_dict)
    event = event_dict[_names.EVENT] = event_dict[_names.EVENT].rstrip("\n")
    if "\x1b" in event:
        event = event_dict[_names.EVENT] = _COLORS.sub("", event)
    if type(record.msg) is TaggedText:
        event_dict[_names.EVENT] = tagged_text(record.msg.tag, event)
    elif record.name == uncaught.WARNINGS:
        event_dict.update(uncaught.parts_of_warning(event))
    if is_true(record.exc_info):
        event_dict["exc_info"] = record.exc_info
    elif is_true(record.exc_text):  # of another process, which could not send the exception itself
        event_dict[_names.EVENT] = f"{event}\n{record.exc_text}"
    if is_true(record.stack_info):
        event_dict[_names.STACK] = record.stack_info
    return event_dict


def _of_structlog(record: logging.LogRecord, event_dict: EventDict) -> EventDict:
    """Return the event dict that a structlog of the application's own handed to a formatter.

    ``ProcessorFormatter.wrap_for_formatter`` makes it the record's message.
    """
    for key in ("_logger", "_name", "_from_structlog", "_record"):
        event_dict.pop(key, None)
    event_dict.update(cast(dict[str, Any], record.msg))
    for key in (_names.TIMESTAMP, _names.LEVEL, _names.LOGGER):  # the line has its own
        event_dict.pop(key, None)
    event_dict.setdefault(_names.EVENT, "")
    return event_dict


def _text_of(record: logging.LogRecord) -> str:
    message = record.msg
    if type(message) is TaggedText:
        return message.message
    if type(message) is str:
        return message
    try:
        return str(message)  # as logging does
    except Exception:
        return str(plain(message))


def _arguments_of(record: logging.LogRecord) -> tuple[Any, ...]:
    arguments = record.args
    if isinstance(arguments, tuple):
        return arguments
    return (arguments,) if is_true(arguments) else ()


# ---------------------------------------------------------------- handlers


def _unless_console(self: logging.Handler, record: logging.LogRecord) -> Any:
    """Handle *record*, unless that would write it where its line is.

    Of a record that has none, brought by a queue from a process without us, the
    line is made here.
    """
    if not (_is_taken and handlers.is_console(self)):
        return handlers.noted(_handle, self, record)
    if not is_done(record):
        passed: Any = self.filter(record)
        if passed:
            _to_line(record if passed is True else passed)
    return False


# ---------------------------------------------------------------- our lines, as records


def hears(channel: loggers.Channel) -> bool:
    """Say whether somebody but our line takes what *channel*'s logger logs.

    Asked for every line, of the lists themselves: they are changed in more ways
    than could be followed. Cost: 0.2 microseconds where there is no handler.
    """
    logger = channel.standard
    if type(logger).callHandlers is not _to_line_and_handlers or not _is_pythons:
        return True  # an error tracker's stands there
    at: logging.Logger | None = logger
    while at is not None and not at.handlers:
        at = at.parent
    if at is None:
        return False
    at = logger
    while at is not None:
        for handler in at.handlers:
            if not handlers.is_console(handler) and type(handler) is not logging.NullHandler:
                return True
        at = at.parent if at.propagate else None
    return False


def _has_handlers_or_line(self: logging.Logger) -> bool:
    """Say that the root logger has a handler: our line is as good as one.

    uvicorn makes access lines only where there is one, and ``--no-access-log``
    takes that logger's handlers and its way to the root.
    """
    if _is_taken:
        at = self
        while at.parent is not None and at.propagate:
            at = at.parent
        if at.parent is None:
            return True
    return _has_handlers(self)
