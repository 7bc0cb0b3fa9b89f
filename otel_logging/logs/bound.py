"""The bound logger: structlog's own type, which never raises and follows what is configured.

In: log calls. Out: the usual line at once, an event dict to the chain for any other. Invariant: a
call below its level costs a look at one number. Deliberately absent: what becomes of an event dict
(``logger``).
"""

import logging
from collections.abc import Callable, Iterable
from typing import Any, Final, Self

import structlog

from otel_logging import _fields, _names
from otel_logging._values import plain
from otel_logging.logs import line
from otel_logging.logs.call import put_message
from otel_logging.logs.caller import as_called
from otel_logging.logs.logger import (
    CHAIN,
    NAMES,
    ONLY_OURS,
    Channel,
    add_parts,
    channel,
    finish,
    in_use,
    lines_of,
    make_line,
)
from otel_logging.processors import EventDict

#: Stands for a wrapped logger of the application: each line goes to it.
_OTHERS: Final = Channel("")


class BoundLogger(structlog.make_filtering_bound_logger(logging.NOTSET)):  # type: ignore[misc]
    """structlog's filtering bound logger; the level is its channel's, and it never raises.

    ``await log.ainfo(...)`` and the like make their line at once, in the calling
    task: a line never waits for the network, so there is no thread to wait for.
    """

    def __init__(self, logger: Any, processors: Any, context: Any) -> None:
        super().__init__(logger, processors, context)
        #: Whether a line of it is made at all is asked of this one.
        self._lines = logger if type(logger) is Channel else _OTHERS

    def _emit(self, level: int, args: tuple[Any, ...], fields: dict[str, Any]) -> Any:
        channel = self._lines
        if (
            level >= channel.threshold
            and len(args) == 1
            and self._processors == ONLY_OURS
            and not channel.hears(channel)
            and channel.straight(channel, level, args[0], {**self._context, **fields})
        ):
            return None
        lines = self._logger
        steps: Iterable[Callable[..., EventDict]] = line.STEPS
        if type(lines) is Channel and level < lines.threshold:
            if level < lines.floor or not lines.hears(lines):
                return None
            steps = line.UNWRITTEN
        given = (args, fields, level)
        return make_line(lines, level, self._event_of, given, self._processors, steps, True)  # noqa: FBT003

    def _event_of(self, args: tuple[Any, ...], fields: dict[str, Any], level: int) -> EventDict:
        event_dict: dict[str, Any] = {**self._context, **fields}
        if in_use() is None and finish in self._processors:
            as_called(_as_structlog_is_configured, self._logger, level, args, event_dict)
            raise structlog.DropEvent
        if args:
            put_message(args, event_dict)
        else:
            event_dict.setdefault(_names.EVENT, "")
        return event_dict

    def log(self, level: int | str, /, *args: Any, **fields: Any) -> Any:
        """Log at *level*, a number or a name."""
        return self._emit(_number_of(level), args, fields)

    async def alog(self, level: int | str, /, *args: Any, **fields: Any) -> Any:
        """Log at *level*."""
        return self._emit(_number_of(level), args, fields)

    def exception(self, /, *args: Any, **fields: Any) -> Any:
        """Log an error with the exception that is being handled."""
        return self._emit(logging.ERROR, args, {"exc_info": True, **fields})

    async def aexception(self, /, *args: Any, **fields: Any) -> Any:
        """Log an error with the exception that is being handled."""
        return self._emit(logging.ERROR, args, {"exc_info": True, **fields})

    def bind(self, /, **fields: Any) -> Self:
        """Return a logger with *fields* bound to it as well."""
        return self._with({**self._context, **fields})

    def new(self, /, **fields: Any) -> Self:
        """Return a logger with just *fields* bound to it; this one keeps its own."""
        return self._with(fields)

    def _with(self, fields: dict[str, Any]) -> Self:
        kind = type(self._context)
        context = fields if kind is dict else kind(fields)
        return type(self)(self._logger, self._processors, context)

    def is_enabled_for(self, level: int) -> bool:
        """Say whether a line of *level* would be made."""
        return bool(level >= lines_of(self._logger).threshold)

    def get_effective_level(self) -> int:
        """Return the level from which lines are made."""
        return lines_of(self._logger).threshold

    def __reduce__(self) -> tuple[Any, ...]:
        if type(self._logger) is Channel and self._processors is CHAIN:
            return (logger_of, (self._logger.name, self._context))
        return (type(self), (self._logger, self._processors, self._context))


def logger_of(name: Any, initial: dict[str, Any]) -> BoundLogger:
    """Return the bound logger of *name* with *initial* fields."""
    return BoundLogger(channel(name), CHAIN, initial)


def _add_methods(level: int, *names: str) -> None:
    def method(self: BoundLogger, /, *args: Any, **fields: Any) -> Any:
        if level < self._lines.floor:  # the usual case of a line that is none
            return None
        return self._emit(level, args, fields)

    async def amethod(self: BoundLogger, /, *args: Any, **fields: Any) -> Any:
        return self._emit(level, args, fields)

    for name in names:
        setattr(BoundLogger, name, method)
        setattr(BoundLogger, f"a{name}", amethod)


_add_methods(logging.DEBUG, "debug")
_add_methods(logging.INFO, "info", "msg")
_add_methods(logging.WARNING, "warning", "warn")
_add_methods(logging.ERROR, "error", "err")
_add_methods(logging.CRITICAL, "critical", "fatal")
add_parts(BoundLogger, lambda bound: bound._logger)  # noqa: SLF001 - this module's own class


def _number_of(level: Any) -> int:
    if isinstance(level, int):
        return level
    number = logging.getLevelName(str(plain(level)).upper())
    return number if isinstance(number, int) else logging.INFO


def _as_structlog_is_configured(
    logger: Any, level: int, args: tuple[Any, ...], fields: dict[str, Any]
) -> None:
    event = fields.pop(_names.EVENT, "")
    if args and event:
        _fields.put_aside(fields, _names.EVENT, event)
    if type(logger) is Channel:
        theirs = structlog.get_logger(logger.name)
    else:
        theirs = structlog.wrap_logger(logger)
    getattr(theirs, NAMES.get(level, "info"))(*(args or (event,)), **fields)
