"""The bound logger: structlog's own type, which never raises and follows what is configured.

In: log calls. Out: event dicts to the chain. Invariant: nothing a log call is
given makes it raise, nor can it call itself for ever; loggers made before
set-up, or kept through a second one, follow what is configured now. Whatever
part of structlog's configuration the application replaces (processors, wrapper
class, logger factory), each line goes one way. Deliberately absent: what is in
a line (``chain``) and how it looks (``render``).
"""

import logging
import sys
import threading
from collections.abc import Callable, Iterable, Mapping
from contextvars import ContextVar
from functools import partial
from types import FrameType
from typing import Any, Final, Self, cast

import structlog

from otel_logging import _names, _trouble, processors
from otel_logging import context as bindings
from otel_logging._values import plain
from otel_logging.logs import chain
from otel_logging.logs.output import is_echo
from otel_logging.processors import EventDict

_NAMES: Final = {10: "debug", 20: "info", 30: "warning", 40: "error", 50: "critical"}
#: The names that structlog's and the standard library's loggers have for their methods.
_LEVELS: Final = {
    **{name: level for level, name in _NAMES.items()},
    **{"notset": 0, "msg": 20, "log": 20, "warn": 30, "err": 40, "exception": 40, "failure": 40},
    "fatal": 50,
}

#: A signal handler or ``__del__`` may log inside a log call; a value whose ``__repr__`` logs
#: itself must not do so for ever.
DEEPEST: Final = 8


class _Nesting(threading.local):
    depth = 0


nesting = _Nesting()


class Configured:
    """What is configured: the level of each logger's name, and how a line is written.

    With the takeover there is more: *hears* says whether the application has handlers
    for a channel's lines, *hand_on* gives them one, and *stricter* is the level that
    the application set on a logger in code.
    """

    hears: Callable[["Channel"], bool] = staticmethod(lambda _: False)
    hand_on: Callable[..., None] | None = None
    stricter: Callable[[logging.Logger], int] | None = None

    def __init__(
        self,
        level: int,
        levels: Mapping[str, int],
        write: Callable[[EventDict], None],
        *,
        write_text: Callable[[EventDict], None] | None = None,
        render: Callable[[EventDict], bytes] | None = None,
    ) -> None:
        self.write, self.write_text, self.render = write, write_text or write, render
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
    """Where the lines of one logger name go: structlog's "wrapped logger".

    The chain leaves nothing to it. It has the methods of a logger for those who
    replace a part of structlog's configuration: what their processors make of a
    line comes in here. What else is looked for on it is that of the standard
    library's logger of this name.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.threshold = self.lowest = logging.NOTSET
        self.follow()

    def follow(self) -> None:
        """Take over what is configured now."""
        configured = _configured
        if configured is None:
            self.threshold = self.lowest = logging.NOTSET
            return
        self.lowest = self.threshold = configured.level_of(self.name)
        if configured.stricter is not None:
            self.logger = logging.getLogger(self.name)
            self.threshold = max(self.lowest, configured.stricter(self.logger))

    def isEnabledFor(self, level: int) -> bool:  # noqa: N802 - logging's name
        """Say whether a line of *level* would be made, or go to a handler."""
        return level >= self.threshold or self.logger.isEnabledFor(level)

    def __getattr__(self, name: str) -> Any:
        if name == "logger":
            self.logger = logging.getLogger(self.name)
            return self.logger
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self.logger, name)

    def wants(self, level: int) -> bool:
        """Say whether handlers of the application take lines below the level of lines."""
        return (
            _configured is not None
            and _configured.hand_on is not None
            and self.logger.isEnabledFor(level)
            and _configured.hears(self)
        )

    def write(self, event_dict: EventDict) -> None:
        """Render and write a line."""
        if _configured is not None:  # pragma: no branch - the chain is ours after set-up alone
            _configured.write(event_dict)

    def write_text(self, event_dict: EventDict) -> None:
        """Write a line whose message is what the application has rendered."""
        if _configured is not None:  # pragma: no branch - the chain is ours after set-up alone
            _configured.write_text(event_dict)

    def take(self, level: int, args: tuple[Any, ...], fields: Mapping[str, Any]) -> None:
        """Make a line of what other processors than ours have made of it.

        There are three cases: nothing, where ours are among them; a text, which is
        written as it is; and arguments as for a logger of the standard library.
        """
        if fields or len(args) > 1:
            log(self, level, _event_of_call, args, fields, processors=_ONLY_OURS)
        elif args:
            text = args[0]
            theirs = structlog.get_config()["processors"]
            has_event = any(each is processors.record_on_span for each in theirs)
            steps = chain.TEXT_WITHOUT_EVENT if has_event else chain.TEXT
            if isinstance(text, (bytes, bytearray)):
                text = text.decode(errors="backslashreplace")
            make = lambda: {_names.EVENT: text}  # noqa: E731
            log(self, level, make, processors=_ONLY_OURS, steps=steps)

    def __reduce__(self) -> tuple[Any, ...]:
        return (channel, (self.name,))

    def __repr__(self) -> str:
        return f"<Channel {self.name}>"


def _add_channel_methods() -> None:
    def made(level: int) -> Callable[..., None]:
        return lambda self, /, *args, **fields: self.take(level, args, fields)

    for name, level in _LEVELS.items():
        setattr(Channel, name, made(level))


_add_channel_methods()

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
    follow()


def follow() -> None:
    """Let every channel take over what is configured now, levels set in code included."""
    for existing in list(_channels.values()):
        existing.follow()


# ---------------------------------------------------------------- a line


def log(
    lines: Channel,
    level: int,
    make: Callable[..., EventDict],
    /,
    *args: Any,
    processors: Iterable[Callable[..., Any]] | None = None,
    steps: Iterable[Callable[..., EventDict]] = chain.STEPS,
    place: Mapping[str, Any] | None = None,
    handed_on: bool = True,
) -> None:
    """Make a line of *level*, if it is high enough, and give it to the application's handlers.

    *place*: where it was logged, if that is not the caller. Otherwise as ``make_line``.
    """
    if level < lines.threshold:
        if not (handed_on and lines.wants(level)):
            return
        steps = chain.UNWRITTEN
    made = {"steps": steps, "place": place, "handed_on": handed_on}
    make_line(lines, level, make, *args, processors=processors, **made)


def make_line(
    logger: Any,
    level: int,
    make: Callable[..., EventDict],
    /,
    *args: Any,
    processors: Iterable[Callable[..., Any]] | None = None,
    steps: Iterable[Callable[..., EventDict]] = chain.STEPS,
    place: Mapping[str, Any] | None = None,
    handed_on: bool = False,
) -> Any:
    """Send what *make* returns for *args*, an event dict, through the chain: a line of *level*.

    Failure: never raises; a line that is lost is counted and reported. Cost: what
    the processors cost. Concurrency: any thread, signal handlers, finalisers.
    """
    depth = nesting.depth
    try:
        if depth >= DEEPEST:
            raise RecursionError("a value or an output logs while it is logged")
        nesting.depth = depth + 1
        event_dict: Any = make(*args)
        if depth and is_echo(event_dict.get(_names.EVENT)):
            return None
        name = _NAMES.get(level) or logging.getLevelName(level).lower()
        for processor in CHAIN if processors is None else processors:
            if processor is not finish:
                event_dict = as_called(processor, logger, name, event_dict)
            elif type(logger) is not Channel:
                event_dict = _for_others(logger, name, event_dict)
            else:
                hand_on = _hand_on(logger, event_dict) if handed_on else None
                for step in steps:
                    event_dict = step(logger, name, event_dict)
                if hand_on is not None:
                    hand_on(logger, level, event_dict, place=place)
                event_dict = DONE
        return None if event_dict is DONE else _delivered(logger, level, event_dict)
    except structlog.DropEvent:
        return None
    except Exception as error:
        _trouble.report("log lines lost: a line could not be made", detail=error)
        return None
    finally:
        nesting.depth = depth


def _hand_on(lines: Channel, event_dict: EventDict) -> Callable[..., None] | None:
    """Return what gives this line to the application's handlers, where there are any."""
    configured = cast(Configured, _configured)
    if configured.hand_on is None or not configured.hears(lines):
        return None
    known = {key: event_dict.get(key) for key in ("exc_info", "stack_info")}
    return partial(configured.hand_on, **known)


#: What our processor leaves to the wrapped logger: to be called without arguments.
DONE: Final[Any] = ((), {})


def finish(logger: Any, method_name: str, event_dict: EventDict) -> Any:
    """Make the line: structlog's last processor, for any wrapper class and any wrapped logger."""
    if type(logger) is not Channel:
        return _for_others(logger, method_name, event_dict)
    level = _LEVELS.get(method_name, logging.INFO)
    log(logger, level, _event_of_wrapper, event_dict, processors=_ONLY_OURS)
    return DONE


#: structlog keeps this very list in every logger, and its ``capture_logs`` changes it in place.
CHAIN: Final[list[Callable[..., Any]]] = [finish]
_ONLY_OURS: Final = (finish,)  # those of the application have been asked


# ---------------------------------------------------------------- parts of structlog replaced


def _event_of_wrapper(event_dict: EventDict) -> EventDict:
    arguments = event_dict.pop("positional_args", ())  # structlog.stdlib.BoundLogger's
    if arguments:
        put_message((event_dict.pop(_names.EVENT, ""), *arguments), event_dict)
    event_dict.setdefault(_names.EVENT, "")
    return event_dict


def _event_of_call(args: tuple[Any, ...], fields: Mapping[str, Any]) -> EventDict:
    event_dict = {**fields}
    extra = event_dict.pop("extra", None)
    if isinstance(extra, Mapping):
        event_dict.update(extra)
    if args:
        put_message(args, event_dict)
    event_dict.setdefault(_names.EVENT, "")
    return event_dict


def _for_others(logger: Any, name: str, event_dict: EventDict) -> Any:
    """Return what a wrapped logger of the application is called with: a line that it writes.

    A logger of the standard library makes a record of it, and that is made a line
    where all records are. Any other gets the rendered line.
    """
    configured = cast(Configured, _configured)
    event_dict = _event_of_wrapper(event_dict)
    if isinstance(logger, logging.Logger) and configured.hand_on is not None:
        event = event_dict.pop(_names.EVENT)
        known = {key: event_dict.pop(key) for key in _OF_CALLS & event_dict.keys()}
        return (event,), {**known, "extra": as_extra(event_dict)}
    lines = channel(getattr(logger, "name", "root"))
    if _LEVELS.get(name, logging.INFO) < lines.threshold:
        raise structlog.DropEvent
    for step in chain.STEPS[:-1]:
        event_dict = step(lines, name, event_dict)
    line = cast(Callable[[EventDict], bytes], configured.render)(event_dict)
    return line if isinstance(logger, structlog.BytesLogger) else line.decode()


_OF_CALLS: Final = frozenset({"exc_info", "stack_info", "stacklevel"})
#: What a log record says of itself, so that ``extra`` cannot.
_OF_RECORDS: Final = vars(logging.makeLogRecord({})).keys() | {"message", "asctime"}


def as_extra(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return *fields* with a trailing underscore where a log record has such an attribute."""
    extra = {key: value for key, value in fields.items() if key not in _OF_RECORDS}
    for key in _OF_RECORDS & fields.keys():
        bindings.put_aside(extra, key, fields[key])
    return extra


def _delivered(logger: Any, level: int, result: Any) -> Any:
    """Call the wrapped logger with what the last processor returned, as structlog does."""
    args: tuple[Any, ...]
    if isinstance(result, (str, bytes, bytearray)):
        args, fields = (result,), {}
    elif isinstance(result, tuple):
        args, fields = result
    else:
        args, fields = (), result
    if type(logger) is Channel:
        return logger.take(level, args, fields)
    if isinstance(logger, logging.Logger) and args:
        fields["stacklevel"] = fields.get("stacklevel", 1) + _users_frame()[1] - 1
        return logger.log(level, *args, **fields)
    name = next((_NAMES[known] for known in sorted(_NAMES, reverse=True) if known <= level), "debug")
    return getattr(logger, name)(*args, **fields)


# ---------------------------------------------------------------- who called

#: structlog looks for the caller from this frame on, if it is set.
_calling: Final[ContextVar[FrameType]] = getattr(
    structlog.contextvars, "_ASYNC_CALLING_STACK", ContextVar("calling")
)
_INSIDE: Final = frozenset({"otel_logging", "structlog", "logging"})


def _users_frame() -> tuple[FrameType, int]:
    """Return the frame that logs, and how many frames above the caller's it is."""
    frame, above = sys._getframe(1), 0  # noqa: SLF001 - documented
    while frame.f_back is not None and _is_inside(frame):
        frame, above = frame.f_back, above + 1
    return frame, above


def _is_inside(frame: FrameType) -> bool:
    return str(frame.f_globals.get("__name__")).partition(".")[0] in _INSIDE


def users_place() -> dict[str, Any]:
    """Return where the line that is made just now was logged."""
    code, line = (frame := _users_frame()[0]).f_code, frame.f_lineno
    return {
        _names.CODE_FILE: code.co_filename,
        _names.CODE_LINE: line,
        _names.CODE_FUNCTION: code.co_name,
    }


def as_called(function: Callable[..., Any], /, *args: Any, **fields: Any) -> Any:
    """Call *function* so that structlog finds who logged, past this package's own frames."""
    if _calling.get(None) is not None:
        return function(*args, **fields)
    token = _calling.set(_users_frame()[0])
    try:
        return function(*args, **fields)
    finally:
        _calling.reset(token)


# ---------------------------------------------------------------- the bound logger


class BoundLogger(structlog.make_filtering_bound_logger(logging.NOTSET)):  # type: ignore[misc]
    """structlog's filtering bound logger; the level is its channel's, and it never raises.

    ``await log.ainfo(...)`` and the like make their line at once, in the calling
    task: a line never waits for the network, so there is no thread to wait for.
    """

    def _emit(self, level: int, args: tuple[Any, ...], fields: dict[str, Any]) -> Any:
        lines = self._logger
        steps: Iterable[Callable[..., EventDict]] = chain.STEPS
        if type(lines) is Channel and level < lines.threshold:
            if not lines.wants(level):
                return None
            steps = chain.UNWRITTEN
        return make_line(
            lines,
            level,
            self._event_of,
            args,
            fields,
            level,
            processors=self._processors,
            steps=steps,
            handed_on=True,
        )

    def _event_of(self, args: tuple[Any, ...], fields: dict[str, Any], level: int) -> EventDict:
        event_dict: dict[str, Any] = {**self._context, **fields}
        if _configured is None and finish in self._processors:
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
        return bool(level >= self._lines.threshold)

    def get_effective_level(self) -> int:
        """Return the level from which lines are made."""
        return self._lines.threshold

    @property
    def _lines(self) -> Channel:
        lines = self._logger
        return lines if type(lines) is Channel else channel(getattr(lines, "name", "root"))

    def __getattr__(self, name: str) -> Any:
        """Return what the standard library's logger of this name has: ``setLevel``, ``handlers``."""
        if name.startswith("_") or not isinstance(self._logger, (Channel, logging.Logger)):
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        return getattr(self._logger, name)

    def __reduce__(self) -> tuple[Any, ...]:
        if type(self._logger) is Channel and self._processors is CHAIN:
            return (logger_of, (self._logger.name, self._context))
        return (type(self), (self._logger, self._processors, self._context))


def logger_of(name: Any, initial: dict[str, Any]) -> BoundLogger:
    """Return the bound logger of *name* with *initial* fields."""
    return BoundLogger(channel(name), CHAIN, initial)


def _add_methods(level: int, *names: str) -> None:
    def method(self: BoundLogger, /, *args: Any, **fields: Any) -> Any:
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
    logger: Any, level: int, args: tuple[Any, ...], fields: dict[str, Any]
) -> None:
    event = fields.pop(_names.EVENT, "")
    if args and event:
        bindings.put_aside(fields, _names.EVENT, event)
    if type(logger) is Channel:
        theirs = structlog.get_logger(logger.name)
    else:
        theirs = structlog.wrap_logger(logger)
    getattr(theirs, _NAMES.get(level, "info"))(*(args or (event,)), **fields)
