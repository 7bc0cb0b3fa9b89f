"""Handlers of the application: which write where our lines are, and lines of ours for the rest.

In: a line of ours. Out: a record for each handler that is not the process's console. Invariant:
what a handler logs while it has one goes to none. Deliberately absent: other loggers' records
(``stdlib``).
"""

import copy
import logging
import os
import sys
import threading
from collections.abc import Iterator, Mapping
from typing import Any, Final

from structlog.stdlib import ProcessorFormatter

from otel_logging import _diagnostics, _names
from otel_logging._green import OfThread
from otel_logging._values import is_true, plain
from otel_logging.logs import call, caller, levels
from otel_logging.logs import logger as loggers
from otel_logging.processors import EventDict, exception_of, mark_done, redact_secrets

#: The threads in which a handler has a line of ours: what it logs meanwhile goes to none. Not a
#: context variable: tasks that a handler starts would copy it, and log to no handler ever.
_handing_on = OfThread()


def hand_on(
    channel: loggers.Channel,
    level: int,
    event_dict: EventDict,
    given: Mapping[str, Any],
    place: Mapping[str, Any] | None,
) -> None:
    """Give a line of ours to the application's handlers, as a record that is done.

    Its fields are the record's ``extra``. *given* is the event dict before the chain,
    which makes texts of exceptions and stacks. Failure: never raises.
    """
    logger = channel.standard
    me = threading.get_ident()
    if me in _handing_on or max(logger.manager.disable + 1, levels.for_handlers(logger)) > level:
        return
    _handing_on[me] = True
    try:
        event_dict = redact_secrets(channel, "", {**event_dict})
        fields = {key: value for key, value in event_dict.items() if key not in _NOT_EXTRA}
        error = exception_of(given.get("exc_info"))
        if error is not None:
            fields.pop(_names.EXCEPTION, None)
        stack = fields.pop(_names.STACK, None) if is_true(given.get("stack_info")) else None
        place = fields if _names.CODE_FILE in fields else place or caller.users_place()
        message = _Message(plain(event_dict[_names.EVENT]))
        record = logger.makeRecord(
            channel.name,
            level,
            place[_names.CODE_FILE],
            place[_names.CODE_LINE],
            message,
            (),
            None if error is None else (type(error), error, error.__traceback__),
            place.get(_names.CODE_FUNCTION),
            call.as_extra(fields),
            stack,
        )
        mark_done(record)
        if any(isinstance(each.formatter, ProcessorFormatter) for each in handlers_of(logger)):
            # by these two attributes it knows one of structlog's
            message.fields = event_dict
            record.__dict__.update(_logger=logger, _name=event_dict[_names.LEVEL])
        passed: Any = logger.filter(record)
        if passed:
            logger.callHandlers(record if passed is True else passed)
    except Exception as error:
        _diagnostics.report("errors of a logging handler", detail=error)
    finally:
        _handing_on.put(me, None)


class _Message(str):
    """The message of a line as a record, and the line's fields.

    structlog's ``ProcessorFormatter`` takes these, as a copy of what it takes for an
    event dict; everybody else sees the text.
    """

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


#: What a record says of itself in other words.
_NOT_EXTRA: Final = frozenset(
    {_names.EVENT, _names.TIMESTAMP, _names.LEVEL, _names.LOGGER, _names.TIME_NS, "exc_info"}
)


#: Set on a handler: the stream that was looked at last, and whether it is stdout or stderr.
_SEEN: Final = "_otel_logging_seen"


def is_console(handler: logging.Handler) -> bool:
    """Say whether *handler* writes to the process's own stdout or stderr."""
    stream = getattr(handler, "stream", None)
    if stream is None:
        stream = getattr(getattr(handler, "console", None), "file", None)  # rich's handler
        if stream is None:
            return False
    if stream is sys.stderr or stream is sys.stdout:
        return True
    seen: tuple[Any, bool] = getattr(handler, _SEEN, (None, False))
    if seen[0] is not stream:
        seen = (stream, _is_standard(stream) or handler is _flasks_handler())
        setattr(handler, _SEEN, seen)
    return seen[1]


def _is_standard(stream: Any) -> bool:
    """Say whether *stream* leads where the process's stdout or stderr does."""
    if stream is sys.__stderr__ or stream is sys.__stdout__:
        return True
    try:
        status = os.fstat(stream.fileno())
        return any(os.path.samestat(status, os.fstat(fd)) for fd in (1, 2))
    except Exception:  # without a descriptor, or closed
        return False


def _flasks_handler() -> Any:
    # it writes to the request's ``wsgi.errors``, an object of whichever server
    return getattr(sys.modules.get("flask.logging"), "default_handler", None)


# ---------------------------------------------------------------- who takes a record

#: By thread, of the record at hand, where that is asked: whether handlers took it, by their ids.
answers_of = OfThread()


def is_taken_by_one(
    logger: logging.Logger, record: logging.LogRecord, answers: dict[int, bool]
) -> bool:
    """Say whether a handler but the console takes *record*.

    *answers* are those of ``logging.Handler.handle``. A handler with a ``handle`` of its own
    that did not call it takes what its level and its filters let through.
    """
    try:
        return any(answers.values()) or any(
            record.levelno >= handler.level
            and type(handler).handle is not logging.NullHandler.handle
            and not (getattr(handler, "filters", ()) and not handler.filter(copy.copy(record)))
            for handler in handlers_of(logger)
            if id(handler) not in answers and not is_console(handler)
        )
    except Exception:  # its own code raises: it does not say that it refused the record
        return True


def noted(handle: Any, handler: logging.Handler, record: logging.LogRecord) -> Any:
    """Call *handle*, Python's own; note whether *handler* took *record*, where that is asked."""
    answers = answers_of.get(threading.get_ident())
    if answers is None:
        return handle(handler, record)
    answers[id(handler)] = True  # also of one that raises
    taken = handle(handler, record)
    answers[id(handler)] = bool(taken)
    return taken
