"""The bound logger: structlog's own type, which never raises and follows what is configured.

Invariant: a call below its level costs a look at one number. Deliberately absent: how a line is
made (``logger``).
"""

import logging
from typing import Any, Final, Self

import structlog

from otel_logging import _diagnostics, _names, _runtime
from otel_logging.logs import logger as loggers
from otel_logging.logs.call import put_message
from otel_logging.logs.caller import as_called, users_frame
from otel_logging.logs.handlers import hears
from otel_logging.logs.line import NAMES
from otel_logging.logs.logger import CHAIN, LOST, ONLY_OURS, LineLogger, finish, level_of, lines_of
from otel_logging.logs.nesting import inside
from otel_logging.processors import EventDict

#: Means: a wrapped logger of the application gets each line.
_OTHERS: Final = LineLogger("")
#: structlog's configuration itself; ``get_config`` would copy it for each line.
_config: Final = structlog._config._CONFIG  # noqa: SLF001 - there is no other way


class BoundLogger(structlog.make_filtering_bound_logger(logging.NOTSET)):  # type: ignore[misc]
    """structlog's filtering bound logger. It has the level of its name, and never raises.

    ``await log.ainfo(...)`` and the like make their line at once, in the calling
    task: a line never waits for the network, so there is no thread to wait for.
    """

    def __init__(self, logger: Any, processors: Any, context: Any) -> None:
        super().__init__(logger, processors, context)
        self._lines = logger if type(logger) is LineLogger else _OTHERS

    def _emit(self, level: int, args: tuple[Any, ...], fields: dict[str, Any]) -> Any:
        lines, theirs = self._lines, _config.default_processors
        if theirs is not CHAIN and self._processors is CHAIN and finish in theirs:
            theirs_too = type(self)(self._logger, theirs, self._context)
            return theirs_too._emit(level, args, fields)  # noqa: SLF001 - this class's
        is_ours = self._processors == ONLY_OURS
        if is_ours and level >= lines.threshold and len(args) == 1:
            own = {**self._context, **fields} if self._context else fields
            is_heard = _runtime.current.taken_over and hears(lines.known or lines.standard)
            if not is_heard and lines.straight(lines.name, level, args[0], own):
                return None
        if is_ours and lines is not _OTHERS and _runtime.current.logs is not None:
            return loggers.log(lines, level, self._event_of, args, fields)
        if level < lines.floor or (level < lines.threshold and not lines.is_heard()):
            return None
        try:
            with inside():
                return self._through_structlog(level, self._event_of(args, fields))
        except structlog.DropEvent:
            return None
        except Exception as error:
            _diagnostics.report(LOST, detail=error)
            return None

    def _event_of(self, args: tuple[Any, ...], fields: dict[str, Any]) -> EventDict:
        event_dict: dict[str, Any] = {**self._context, **fields}
        if args:
            put_message(args, event_dict)
        return event_dict if args else {_names.EVENT: "", **event_dict}

    def _through_structlog(self, level: int, event_dict: EventDict) -> Any:
        """Log by processors or a wrapped logger of the application; before set-up, by structlog."""
        logger, event = self._logger, event_dict.pop(_names.EVENT)
        if _runtime.current.logs is None and finish in self._processors:
            is_ours = type(logger) is LineLogger
            log = structlog.get_logger(logger.name) if is_ours else structlog.wrap_logger(logger)
            return as_called(getattr(log, NAMES.get(level, "info")), event, **event_dict)
        name = loggers.name_of(level)
        args, fields = as_called(self._process_event, name, event, event_dict)
        if type(logger) is LineLogger:
            return logger.take(level, args, fields)
        if isinstance(logger, logging.Logger):
            fields["stacklevel"] = fields.get("stacklevel", 1) + users_frame()[1]
            return logger.log(level, *args, **fields)
        known = max((number for number in NAMES if number <= level), default=logging.DEBUG)
        return getattr(logger, NAMES[known])(*args, **fields)

    def log(self, level: int | str, /, *args: Any, **fields: Any) -> Any:
        """Log at *level*, a number or a name."""
        return self._emit(level if isinstance(level, int) else level_of(level), args, fields)

    async def alog(self, level: int | str, /, *args: Any, **fields: Any) -> Any:
        """Log at *level*."""
        return self.log(level, *args, **fields)

    def exception(self, /, *args: Any, **fields: Any) -> Any:
        """Log an error with the exception that is being handled."""
        return self._emit(logging.ERROR, args, {"exc_info": True, **fields})

    async def aexception(self, /, *args: Any, **fields: Any) -> Any:
        """Log an error with the exception that is being handled."""
        return self.exception(*args, **fields)

    def bind(self, /, **fields: Any) -> Self:
        """Return a logger with *fields* bound to it as well."""
        return self.new(**{**self._context, **fields})

    def new(self, /, **fields: Any) -> Self:
        """Return a logger with just *fields* bound to it; this one keeps its own."""
        return type(self)(self._logger, self._processors, fields)

    def is_enabled_for(self, level: int) -> bool:
        """Say whether a line of *level* would be made."""
        return bool(level >= lines_of(self._logger).threshold)

    def get_effective_level(self) -> int:
        """Return the level from which lines are made."""
        return lines_of(self._logger).threshold

    def __reduce__(self) -> tuple[Any, ...]:
        if type(self._logger) is LineLogger and self._processors is CHAIN:
            return (logger_of, (self._logger.name, self._context))
        return (type(self), (self._logger, self._processors, self._context))


def logger_of(name: Any, initial: dict[str, Any]) -> BoundLogger:
    """Return the bound logger of *name* with *initial* fields."""
    return BoundLogger(loggers.logger_of(name), CHAIN, initial)


def _add_methods(level: int, *names: str) -> None:
    def method(self: BoundLogger, /, *args: Any, **fields: Any) -> Any:
        if level < self._lines.floor:  # the quick way for a line below its level
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
loggers.add_parts(BoundLogger, "_logger")
