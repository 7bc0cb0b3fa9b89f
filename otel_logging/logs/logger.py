"""The bound logger: structlog's own type, which never raises and follows what is configured.

In: log calls. Out: event dicts to the chain. Invariant: nothing a log call is
given makes it raise, nor can it call itself for ever; loggers made before
set-up, or kept through a second one, follow what is configured now.
Deliberately absent: what is in a line (``chain``) and how it looks (``render``).
"""

import logging
import threading
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, Self, cast

import structlog

from otel_logging import _names, _trouble
from otel_logging import context as bindings
from otel_logging._values import plain
from otel_logging.logs.chain import CHAIN
from otel_logging.logs.output import is_echo
from otel_logging.processors import EventDict

_NAMES: Final = {10: "debug", 20: "info", 30: "warning", 40: "error", 50: "critical"}

#: A signal handler or ``__del__`` may log inside a log call; a value whose ``__repr__`` logs
#: itself must not do so for ever.
DEEPEST: Final = 8


class _Nesting(threading.local):
    depth = 0


nesting = _Nesting()


class Configured:
    """What is configured: the level of each logger's name, and how a line is written."""

    def __init__(
        self, level: int, levels: Mapping[str, int], write: Callable[[EventDict], None]
    ) -> None:
        self.write = write
        self._level, self._levels = level, levels

    def level_of(self, name: str) -> int:
        """Return the level of the nearest parent that has one, as ``logging`` does."""
        while name:
            if name in self._levels:
                return self._levels[name]
            name = name.rpartition(".")[0]
        return self._level


#: None before set-up: structlog does with a line what it is configured to do.
_configured: Configured | None = None


class Channel:
    """Where the lines of one logger name go: structlog's "wrapped logger"."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.threshold = logging.NOTSET
        self.follow()

    def follow(self) -> None:
        """Take over what is configured now."""
        self.threshold = logging.NOTSET if _configured is None else _configured.level_of(self.name)

    def write(self, event_dict: EventDict) -> None:
        """Render and write a line."""
        if _configured is not None:  # pragma: no branch - the chain is ours after set-up alone
            _configured.write(event_dict)

    def __reduce__(self) -> tuple[Any, ...]:
        return (channel, (self.name,))

    def __repr__(self) -> str:
        return f"<Channel {self.name}>"


_channels: dict[str, Channel] = {}


def channel(name: Any = "root", *_: Any) -> Channel:
    """Return the channel of *name*, the same one every time: structlog's logger factory."""
    known = _channels.get(name) if type(name) is str else None
    if known is None:
        name = str(plain(name))
        known = _channels.setdefault(name, Channel(name))
        known.follow()  # set-up may have changed while it was made
    return known


def in_use() -> Configured | None:
    """Return what is configured; None before set-up."""
    return _configured


def use(configured: Configured | None) -> None:
    """Make every logger, of today and from now on, follow *configured*. Scope: process."""
    global _configured
    _configured = configured
    for existing in list(_channels.values()):
        existing.follow()


def make_line(
    logger: Channel,
    level: int,
    make: Callable[..., EventDict],
    /,
    *args: Any,
    processors: Iterable[Callable[..., EventDict]] = CHAIN,
) -> None:
    """Send what *make* returns for *args*, an event dict, through the chain: a line of *level*.

    Failure: never raises; a line that is lost is counted and reported. Cost: what
    the processors cost. Concurrency: any thread, signal handlers, finalisers.
    """
    depth = nesting.depth
    try:
        if depth >= DEEPEST:
            raise RecursionError("a value or an output logs while it is logged")
        nesting.depth = depth + 1
        event_dict = make(*args)
        if depth and is_echo(event_dict.get(_names.EVENT)):
            return
        name = _NAMES.get(level) or logging.getLevelName(level).lower()
        for processor in processors:
            event_dict = processor(logger, name, event_dict)
    except structlog.DropEvent:
        pass
    except Exception as error:
        _trouble.report("log lines lost: a line could not be made", detail=error)
    finally:
        nesting.depth = depth


# ---------------------------------------------------------------- the bound logger


class BoundLogger(structlog.make_filtering_bound_logger(logging.NOTSET)):  # type: ignore[misc]
    """structlog's filtering bound logger; the level is its channel's, and it never raises.

    ``await log.ainfo(...)`` and the like make their line at once, in the calling
    task: a line never waits for the network, so there is no thread to wait for.
    """

    def _emit(self, level: int, args: tuple[Any, ...], fields: dict[str, Any]) -> None:
        if level >= self._logger.threshold:
            chain = self._processors
            make_line(self._logger, level, self._event_of, args, fields, level, processors=chain)

    def _event_of(self, args: tuple[Any, ...], fields: dict[str, Any], level: int) -> EventDict:
        event_dict: dict[str, Any] = {**self._context, **fields}
        if _configured is None:
            _as_structlog_is_configured(self._logger.name, level, args, event_dict)
            raise structlog.DropEvent
        if args:
            put_message(args, event_dict)
        else:
            event_dict.setdefault(_names.EVENT, "")
        return event_dict

    def log(self, level: int | str, /, *args: Any, **fields: Any) -> None:
        """Log at *level*, a number or a name."""
        self._emit(_number_of(level), args, fields)

    async def alog(self, level: int | str, /, *args: Any, **fields: Any) -> None:
        """Log at *level*."""
        self._emit(_number_of(level), args, fields)

    def exception(self, /, *args: Any, **fields: Any) -> None:
        """Log an error with the exception that is being handled."""
        self._emit(logging.ERROR, args, {"exc_info": True, **fields})

    async def aexception(self, /, *args: Any, **fields: Any) -> None:
        """Log an error with the exception that is being handled."""
        self._emit(logging.ERROR, args, {"exc_info": True, **fields})

    def bind(self, /, **fields: Any) -> Self:
        """Return a logger with *fields* bound to it as well."""
        return type(self)(self._logger, self._processors, {**self._context, **fields})

    def new(self, /, **fields: Any) -> Self:
        """Return a logger with just *fields* bound to it; this one keeps its own."""
        return type(self)(self._logger, self._processors, fields)

    def is_enabled_for(self, level: int) -> bool:
        """Say whether a line of *level* would be made."""
        return bool(level >= self._logger.threshold)

    def get_effective_level(self) -> int:
        """Return the level from which lines are made."""
        return cast(int, self._logger.threshold)

    def __reduce__(self) -> tuple[Any, ...]:
        return (logger_of, (self._logger.name, self._context))


def logger_of(name: Any, initial: dict[str, Any]) -> BoundLogger:
    """Return the bound logger of *name* with *initial* fields."""
    return BoundLogger(channel(name), CHAIN, initial)


def _add_methods(level: int, *names: str) -> None:
    def method(self: BoundLogger, /, *args: Any, **fields: Any) -> None:
        self._emit(level, args, fields)

    async def amethod(self: BoundLogger, /, *args: Any, **fields: Any) -> None:
        self._emit(level, args, fields)

    for name in names:
        setattr(BoundLogger, name, method)
        setattr(BoundLogger, f"a{name}", amethod)


_add_methods(logging.DEBUG, "debug")
_add_methods(logging.INFO, "info", "msg")
_add_methods(logging.WARNING, "warning", "warn")
_add_methods(logging.ERROR, "error", "err")
_add_methods(logging.CRITICAL, "critical", "fatal")


# ---------------------------------------------------------------- parts of a call


def _number_of(level: Any) -> int:
    if isinstance(level, int):
        return level
    number = logging.getLevelName(str(plain(level)).upper())
    return number if isinstance(number, int) else logging.INFO


def put_message(args: tuple[Any, ...], event_dict: EventDict) -> None:
    """Put the message into *event_dict*, with its arguments in it, as ``logging`` does."""
    if _names.EVENT in event_dict:  # a field of that name is none less
        bindings.put_aside(event_dict, _names.EVENT, event_dict[_names.EVENT])
    event = args[0]
    if len(args) > 1:
        try:
            first = args[1]
            one = len(args) == 2 and isinstance(first, Mapping) and first
            event = event % (first if one else args[1:])
        except Exception as error:  # the line says so, and has both
            event_dict[_names.FORMAT_ERROR] = plain(error)
            event_dict[_names.FORMAT_ARGS] = plain(args[1:])
    event_dict[_names.EVENT] = event


def _as_structlog_is_configured(
    name: str, level: int, args: tuple[Any, ...], fields: dict[str, Any]
) -> None:
    event = fields.pop(_names.EVENT, "")
    if args and event:
        bindings.put_aside(fields, _names.EVENT, event)
    method = getattr(structlog.get_logger(name), _NAMES.get(level, "info"))
    method(*(args or (event,)), **fields)
