"""The application's handlers: those that write where our lines go, and the others, which get them.

Invariant: what a handler logs while it has a line of ours goes to no handler. Deliberately absent:
other loggers' records (``stdlib``).
"""

import copy
import logging
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, Final

from structlog.stdlib import ProcessorFormatter

from otel_logging import _diagnostics, _names, _runtime
from otel_logging._green import OfThread
from otel_logging._values import is_true, plain
from otel_logging.logs import call, caller, levels
from otel_logging.logs.nesting import handed, inside
from otel_logging.processors import EventDict, exception_of, mark_handled, redact_secrets

#: The threads in which a handler handles a line of ours. Not a context variable: a task that a
#: handler starts would copy it, and never log to a handler.
_handing_on = OfThread()
#: The threads in which a filter looks at a line: it is not shown what it logs itself.
_filtering = OfThread()
_FILTER_ERRORS: Final = "errors of a logging handler's filter"
#: Our ``Logger.callHandlers``, if nobody has replaced it.
only_handlers: Final = list[Any]()


def hears(logger: logging.Logger) -> bool:
    """Say whether a handler of the application takes lines of *logger*.

    The lists are read for every line: they are changed in more ways than could be
    followed. Cost: 0.2 microseconds if there is no handler.
    """
    if type(logger).callHandlers not in only_handlers:
        return True  # an error tracker has replaced the method
    at: logging.Logger | None = logger
    while at is not None:
        for handler in at.handlers:
            if is_console(handler):
                if handler.filters:
                    return True
            elif type(handler) is not logging.NullHandler:
                return True
        at = at.parent if at.propagate else None
    return False


def hand_on(logger: logging.Logger, level: int, make: Callable[[], logging.LogRecord]) -> bool:
    """Give a line of ours to the application's handlers, as the record that *make* returns.

    Return whether one of them took it, or may have. Failure: never raises.
    """
    least = max(logger.manager.disable + 1, levels.for_handlers(logger))
    if _handing_on.mine() or level < least:
        return False
    try:
        with _handing_on.doing(logger):
            record = make()
            passed: Any = logger.filter(record)
            handle: Callable[[Any], Any] = logger.callHandlers
            return bool(passed) and handle(record if passed is True else passed) is not False
    except Exception as error:
        _diagnostics.report("errors of a logging handler", detail=error)
    return True


def call_each(
    logger: logging.Logger,
    record: logging.LogRecord,
    call_handlers: Callable[[logging.Logger, logging.LogRecord], Any],
) -> bool:
    """Give *record* to handlers by *call_handlers*; return whether one took it, or may have.

    If a handler gives it to another library, what that logs is no second line. Failure: never
    raises.
    """
    if "_logger" in record.__dict__:  # structlog's formatter looks for the logger there
        call_handlers = partial(caller.as_called, call_handlers)
    try:
        with inside(), handed.doing(record):
            return call_handlers(logger, record) is not False
    except Exception as error:
        _diagnostics.report("errors of a logging handler", detail=error)
    return True


def taken_by(logger: logging.Logger, record: logging.LogRecord) -> bool:
    """Call the handlers of *logger*; without any, Python's last resort. Return whether one of them
    took *record*, or may have.
    """
    is_taken = False
    for handler in list(handlers_of(logger)) or filter(None, [logging.lastResort]):
        if record.levelno >= handler.level:
            taken = handler.handle(record)
            is_taken = is_taken or bool(taken) or (taken is None and not is_null(handler))
    return is_taken


def record_of(
    logger: logging.Logger,
    level: int,
    event_dict: EventDict,
    given: Mapping[str, Any],
    place: Mapping[str, Any] | None,
) -> logging.LogRecord:
    """Return a line of ours as a record, with its fields as ``extra``.

    *given* is the event dict before exceptions and stacks were text.
    """
    event_dict = redact_secrets(logger, "", {**event_dict})
    fields = {key: value for key, value in event_dict.items() if key not in _NOT_EXTRA}
    if (error := exception_of(given.get("exc_info"))) is not None:
        for key in (_names.EXCEPTION, *_names.OF_EXCEPTIONS):
            fields.pop(key, None)
    stack = fields.pop(_names.STACK, None) if is_true(given.get("stack_info")) else None
    place = fields if _names.CODE_FILE in fields else place or caller.users_place()
    file, line, function = map(place.get, caller.PLACE)
    message, extra = _Message(plain(event_dict[_names.EVENT])), call.as_extra(fields)
    raised = None if error is None else (type(error), error, error.__traceback__)
    make: Callable[..., logging.LogRecord] = logger.makeRecord
    record = make(logger.name, level, file, line, message, (), raised, function, extra, stack)
    mark_handled(record)
    if any(isinstance(each.formatter, ProcessorFormatter) for each in handlers_of(logger)):
        # structlog's formatter knows its own records by these two attributes
        message.fields = event_dict
        record.__dict__.update(_logger=logger, _name=record.levelname.lower())
    return record


def filter_line(
    logger: logging.Logger, level: int, event_dict: EventDict, place: Mapping[str, Any] | None
) -> bool:
    """Let the console handlers' filters change a line of ours, in place, before it is complete.

    Return whether it is written. Failure: never raises.
    """
    try:
        if _filtering.mine() or not any(each.filters for each in consoles_of(logger)):
            return True
        fields = {key: event_dict[key] for key in event_dict if key not in _names.OF_CALLS}
        record = record_of(logger, level, fields, event_dict, place)
        passed = through_filters(logger, record)
        if passed is None:
            return False
        event_dict.pop(_names.FORMAT_ARGS, None)  # a filter may hide what is in them
        if (message := passed.getMessage()) != record.getMessage():
            event_dict[_names.EVENT] = message
        for key, value in vars(passed).items():
            if key not in call.OF_RECORDS and record.__dict__.get(key, record) is not value:
                event_dict[key] = value
    except Exception as error:
        _diagnostics.report(_FILTER_ERRORS, detail=error)
    return True


def through_filters(logger: logging.Logger, record: logging.LogRecord) -> logging.LogRecord | None:
    """Return *record* as the filters of the console handlers leave it; None: all refuse it.

    Our line replaces the lines of these handlers, so their filters apply to it: they may add
    fields, or hide secrets.
    """
    refused = False
    for handler in consoles_of(logger):
        try:
            passed = _ask(handler, record) if handler.filters else handler.filter(record)
        except Exception as error:
            _diagnostics.report(_FILTER_ERRORS, detail=error)
            return record
        if passed:  # from Python 3.12 on the record itself, or another one
            return passed if isinstance(passed, logging.LogRecord) else record
        kinds = {type(each).__name__ for each in handler.filters}
        # Django's: these refuse everything in this environment
        refused = refused or kinds.isdisjoint(("RequireDebugTrue", "RequireDebugFalse"))
    return None if refused else record


def _ask(handler: logging.Handler, record: logging.LogRecord) -> Any:
    # a filter changes the line, not the records of other handlers
    seen = copy.copy(record)
    with _filtering.doing(handler):
        passed: Any = handler.filter(seen)
    return seen if passed is True else passed


class _Message(str):
    """A record's message, of which structlog's ``ProcessorFormatter`` reads the fields."""

    fields: EventDict

    def copy(self) -> EventDict:
        """Return the fields."""
        return {key: value for key, value in self.fields.items() if key != _names.TIME_NS}

    def __reduce__(self) -> tuple[Any, ...]:
        return (str, (str(self),))


def handlers_of(logger: logging.Logger) -> Iterator[logging.Handler]:
    """Yield the handlers that records of *logger* go to."""
    at: logging.Logger | None = logger
    while at is not None:
        yield from at.handlers
        at = at.parent if at.propagate else None


def consoles_of(logger: logging.Logger) -> Iterator[logging.Handler]:
    """Yield the console handlers that records of *logger* go to: also through a ``MemoryHandler``,
    or a queue whose listener ``dictConfig`` has made.
    """
    for handler in handlers_of(logger):
        own = vars(handler)  # a mock would say that it has anything
        listener = own.get("listener")  # from Python 3.12 on
        for each in (handler, own.get("target"), *getattr(listener, "handlers", ())):
            if is_console(each):
                yield each


def is_null(handler: logging.Handler) -> bool:
    """Say whether *handler* does nothing."""
    return type(handler).handle is logging.NullHandler.handle


def hides(logger: logging.Logger, level: int) -> bool:
    """Say whether *level* is below the levels of all of *logger*'s handlers; without any, below
    that of Python's last resort.
    """
    known = (each.level for each in handlers_of(logger) if not is_null(each))
    return level < min(known, default=logging.WARNING)


#: Fields that a record has under other names.
_NOT_EXTRA: Final = {*(_names.EVENT, _names.TIMESTAMP, _names.LEVEL, _names.LOGGER, _names.TIME_NS)}
#: Set on a handler: the stream seen last, and whether it is stdout or stderr.
_SEEN: Final = "_otel_logging_seen"


def is_console(handler: Any) -> bool:
    """Say whether *handler* writes to the process's own stdout or stderr."""
    stream = getattr(handler, "stream", None)
    if stream is None:  # rich's handler has the stream in its console
        stream = getattr(getattr(handler, "console", None), "file", None)
        if stream is None:
            return False
    if stream is sys.stderr or stream is sys.stdout:
        return True
    seen: tuple[Any, bool] = vars(handler).get(_SEEN, (None, False))
    if seen[0] is not stream:
        # Flask's writes to the request's ``wsgi.errors``, an object of whichever server
        flasks = getattr(sys.modules.get("flask.logging"), "default_handler", None)
        seen = (stream, handler is flasks or is_console_stream(stream))
        setattr(handler, _SEEN, seen)
    return seen[1]


def is_doubled(handler: logging.Handler) -> bool:
    """Say whether *handler* is OpenTelemetry's, and sends to the collector of our log records."""
    sends = _runtime.current.sends_records
    return sends is not None and sends(getattr(handler, "_logger_provider", None))


def is_console_stream(stream: Any) -> bool:
    """Say whether *stream* leads where the process's stdout or stderr does."""
    if stream is None:
        return False
    if any(stream is each for each in (sys.stderr, sys.stdout, sys.__stderr__, sys.__stdout__)):
        return True
    try:
        status = os.fstat(stream.fileno())
        return any(os.path.samestat(status, os.fstat(fd)) for fd in (1, 2))
    except Exception:  # without a descriptor, or closed
        return False
