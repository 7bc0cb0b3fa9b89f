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
from types import FrameType
from typing import Any, Final, Self, cast

import structlog

from otel_logging import _names, _otlp, _trouble, processors
from otel_logging import context as bindings
from otel_logging._green import OfThread
from otel_logging._values import plain
from otel_logging.logs import chain
from otel_logging.logs.output import is_echo
from otel_logging.processors import EventDict

_NAMES: Final = {10: "debug", 20: "info", 30: "warning", 40: "error", 50: "critical"}
#: The names that structlog's and the standard library's loggers have for their methods.
_LEVELS: Final = {
    **{name: level for level, name in _NAMES.items()},
    **dict.fromkeys(("msg", "log"), 20),
    **dict.fromkeys(("err", "exception", "failure"), 40),
    "notset": 0,
    "warn": 30,
    "fatal": 50,
}

#: A signal handler or ``__del__`` may log inside a log call; a value whose ``__repr__`` logs
#: itself must not do so for ever.
DEEPEST: Final = 8


#: How deep: the log calls that a thread is in.
nesting = OfThread()
_LOST: Final = "log lines lost: a line could not be made"
_STEPS: Iterable[Callable[..., EventDict]] = chain.STEPS


def _nobody_hears(_: "Channel") -> bool:
    return False


class Configured:
    """What is configured: the level of each logger's name, and how a line is written.

    With the takeover there is more: *hears* says whether the application has handlers
    for a channel's lines, *hand_on* gives them one, *for_handlers* is the level of a
    logger as the application set it, and *stricter* what of that holds for lines.
    """

    hears: Callable[["Channel"], bool] = staticmethod(_nobody_hears)
    hand_on: Callable[..., None]
    straight: chain.Straight = staticmethod(chain.never_straight)
    stricter: Callable[[logging.Logger], int] | None = None
    for_handlers: Callable[[logging.Logger], int] | None = None

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

    name = ""  # each has its own

    def __init__(self, name: str) -> None:
        self.name = name
        #: The standard library's logger of this name; None where nobody has asked for it.
        self.known: logging.Logger | None = None
        #: Levels: of lines; the same without those set in code; of lines and handlers.
        self.threshold = self.lowest = self.floor = logging.NOTSET
        #: Makes the usual line.
        self.straight: chain.Straight = chain.never_straight
        #: Says whether somebody but the line is to have it.
        self.hears: Callable[[Channel], bool] = _nobody_hears
        self._heads: dict[int, tuple[str, bytes] | None] = {}
        self.follow()

    def head(self, level: int) -> tuple[str, bytes] | None:
        """Return the name of *level*, and with this one's as attributes of an event."""
        try:
            return self._heads[level]
        except KeyError:
            name = _NAMES.get(level)
            values = {_names.LEVEL: name, _names.LOGGER: self.name}
            encoded = _otlp.scalars(_otlp.EVENT_TAG, values)
            head = None if name is None or encoded is None else (name, encoded)
            self._heads[level] = head
            return head

    def follow(self) -> None:
        """Take over what is configured now."""
        configured = _configured
        if configured is None:
            self.threshold = self.lowest = self.floor = logging.NOTSET
            self.straight, self.hears = chain.never_straight, _nobody_hears
            return
        self.straight, self.hears = configured.straight, configured.hears
        threshold = floor = self.lowest = configured.level_of(self.name)
        if configured.stricter is not None and configured.for_handlers is not None:
            self.known = logging.getLogger(self.name)
            threshold = max(threshold, configured.stricter(self.known))
            floor = min(threshold, configured.for_handlers(self.known))
        self.threshold, self.floor = threshold, floor

    def isEnabledFor(self, level: int) -> bool:  # noqa: N802 - logging's name
        """Say whether a line of *level* would be made, or go to a handler."""
        return level >= self.floor

    @property
    def standard(self) -> logging.Logger:
        """The standard library's logger of this name."""
        return self.known or logging.getLogger(self.name)

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
            log(self, level, _event_of_call, (args, fields), processors=_ONLY_OURS)
        elif args:
            text = args[0]
            theirs = structlog.get_config()["processors"]
            has_event = any(each is processors.record_on_span for each in theirs)
            steps = chain.TEXT_WITHOUT_EVENT if has_event else chain.TEXT
            if isinstance(text, (bytes, bytearray)):
                text = text.decode(errors="backslashreplace")
            make = lambda: {_names.EVENT: text}  # noqa: E731
            log(self, level, make, (), processors=_ONLY_OURS, steps=steps)

    def __reduce__(self) -> tuple[Any, ...]:
        return (channel, (self.name,))

    def __repr__(self) -> str:
        return f"<Channel {self.name}>"


def _add_channel_methods() -> None:
    def made(level: int) -> Callable[..., None]:
        return lambda self, /, *args, **fields: self.take(level, args, fields)

    for name, level in _LEVELS.items():
        setattr(Channel, name, made(level))


def _add_parts(owner: type, logger_of: Callable[[Any], Any]) -> None:
    """Give *owner* the other attributes of a standard logger: ``__getattr__`` would slow all."""

    def made(name: str) -> property:
        return property(lambda self: getattr(logger_of(self), name))

    for name in dir(logging.Logger("")):
        if not name.startswith("_") and not hasattr(owner, name):
            setattr(owner, name, made(name))


_add_channel_methods()
_add_parts(Channel, lambda lines: lines.standard)

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
    args: tuple[Any, ...],
    *,
    processors: Iterable[Callable[..., Any]] | None = None,
    steps: Iterable[Callable[..., EventDict]] = _STEPS,
    place: Mapping[str, Any] | None = None,
    handed_on: bool = True,
) -> None:
    """Make a line of *level*, if it is high enough, and give it to the application's handlers.

    *place*: where it was logged, if that is not the caller. Otherwise as ``make_line``.
    """
    if level < lines.threshold:
        if level < lines.floor or not handed_on or not lines.hears(lines):
            return
        steps = chain.UNWRITTEN
    make_line(lines, level, make, args, processors, steps, handed_on, place)


def make_line(
    logger: Any,
    level: int,
    make: Callable[..., EventDict],
    args: tuple[Any, ...],
    processors: Iterable[Callable[..., Any]] | None = None,
    steps: Iterable[Callable[..., EventDict]] = _STEPS,
    handed_on: bool = False,  # noqa: FBT001, FBT002 - keywords cost time here
    place: Mapping[str, Any] | None = None,
) -> Any:
    """Send what *make* returns for *args*, an event dict, through the chain: a line of *level*.

    Failure: never raises; a line that is lost is counted and reported. Cost: what
    the processors cost. Concurrency: any thread, signal handlers, finalisers.
    """
    me = threading.get_ident()
    depth = nesting.get(me, 0)
    try:
        if depth >= DEEPEST:
            raise RecursionError("a value or an output logs while it is logged")
        nesting[me] = depth + 1
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
                configured: Any = _configured
                is_heard = handed_on and logger.hears(logger)
                given = {**event_dict} if is_heard else {}
                for step in steps:
                    event_dict = step(logger, name, event_dict)
                if is_heard:
                    configured.hand_on(logger, level, event_dict, given, place)
                event_dict = DONE
        return None if event_dict is DONE else _delivered(logger, level, event_dict)
    except structlog.DropEvent:
        return None
    except Exception as error:
        _trouble.report(_LOST, detail=error)
        return None
    finally:
        nesting.put(me, depth or None)


#: What our processor leaves to the wrapped logger: to be called without arguments.
DONE: Final[Any] = ((), {})


def finish(logger: Any, method_name: str, event_dict: EventDict) -> Any:
    """Make the line: structlog's last processor, for any wrapper class and any wrapped logger."""
    if type(logger) is Channel:
        level = _LEVELS.get(method_name, logging.INFO)
        log(logger, level, _event_of_wrapper, (event_dict,), processors=_ONLY_OURS)
        return DONE
    try:
        return _for_others(logger, method_name, _event_of_wrapper(event_dict))
    except structlog.DropEvent:
        raise
    except Exception as error:
        _trouble.report(_LOST, detail=error)
        raise structlog.DropEvent from None


#: structlog keeps this very list in every logger, and its ``capture_logs`` changes it in place.
CHAIN: Final[list[Callable[..., Any]]] = [finish]
_ONLY_OURS: Final = [finish]  # those of the application have been asked


# ---------------------------------------------------------------- parts of structlog replaced


def _event_of_wrapper(event_dict: EventDict) -> EventDict:
    arguments = event_dict.get("positional_args")  # structlog.stdlib.BoundLogger's
    if isinstance(arguments, tuple):
        del event_dict["positional_args"]
        put_message((event_dict.pop(_names.EVENT, ""), *arguments), event_dict)
    event_dict.setdefault(_names.EVENT, "")
    return event_dict


def _event_of_call(args: tuple[Any, ...], fields: Mapping[str, Any]) -> EventDict:
    event_dict = {**fields}
    if not args and "msg" in event_dict:
        args = (event_dict.pop("msg"), *event_dict.pop("args", ()))
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
    if isinstance(logger, logging.Logger) and configured.stricter is not None:
        event = event_dict.pop(_names.EVENT)
        known = {key: event_dict.pop(key) for key in _OF_CALLS & event_dict.keys()}
        return (event,), {**known, "extra": as_extra(event_dict)}
    lines, level = _lines_of(logger), _LEVELS.get(name, logging.INFO)
    if level < lines.threshold:
        raise structlog.DropEvent
    name = _NAMES[level] if name in _LEVELS and level in _NAMES else name
    for step in chain.STEPS[:-1]:
        event_dict = step(lines, name, event_dict)
    line = cast(Callable[[EventDict], bytes], configured.render)(event_dict)
    return line if isinstance(logger, structlog.BytesLogger) else line.decode()


def _lines_of(logger: Any) -> Channel:
    """Return the channel whose level holds for *logger*, the application's own perhaps."""
    if type(logger) is Channel:
        return logger
    name = getattr(logger, "name", None)
    return channel(name if type(name) is str else "root")


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
    if isinstance(logger, logging.Logger):
        fields["stacklevel"] = fields.get("stacklevel", 1) + _users_frame()[1]
        return logger.log(level, *args, **fields)
    known = max((number for number in _NAMES if number <= level), default=logging.DEBUG)
    return getattr(logger, _NAMES[known])(*args, **fields)


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
            and self._processors == _ONLY_OURS
            and not channel.hears(channel)
            and channel.straight(channel, level, args[0], {**self._context, **fields})
        ):
            return None
        lines, steps = self._logger, _STEPS
        if type(lines) is Channel and level < lines.threshold:
            if level < lines.floor or not lines.hears(lines):
                return None
            steps = chain.UNWRITTEN
        given = (args, fields, level)
        return make_line(lines, level, self._event_of, given, self._processors, steps, True)  # noqa: FBT003

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
        return bool(level >= _lines_of(self._logger).threshold)

    def get_effective_level(self) -> int:
        """Return the level from which lines are made."""
        return _lines_of(self._logger).threshold

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
_add_parts(BoundLogger, lambda bound: bound._logger)  # noqa: SLF001 - this module's own class


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
