"""Where the lines of a logger's name go, and how one is made: never raises, never for ever.

In: what a call was given, by whichever logger. Out: event dicts through the chain, each line one
way, whatever part of structlog's configuration the application replaces (processors, wrapper
class, logger factory). Invariant: loggers made before set-up, or kept through a second one, follow
what is configured now. Deliberately absent: what is in a line (``line``), how it looks
(``render``), the methods of a bound logger (``bound``).
"""

import logging
import threading
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, cast

import structlog

from otel_logging import _diagnostics, _names, _otlp, processors
from otel_logging._values import plain
from otel_logging.logs import caller, line, nesting
from otel_logging.logs.call import as_extra, event_of_call, event_of_wrapper
from otel_logging.logs.stdout import is_echo
from otel_logging.processors import EventDict

NAMES: Final = {10: "debug", 20: "info", 30: "warning", 40: "error", 50: "critical"}
#: The names that structlog's and the standard library's loggers have for their methods.
_LEVELS: Final = {
    **{name: level for level, name in NAMES.items()},
    **dict.fromkeys(("msg", "log"), 20),
    **dict.fromkeys(("err", "exception", "failure"), 40),
    "notset": 0,
    "warn": 30,
    "fatal": 50,
}

_LOST: Final = "log lines lost: a line could not be made"
_STEPS: Iterable[Callable[..., EventDict]] = line.STEPS


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
    straight: line.Straight = staticmethod(line.never_straight)
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
        self.straight: line.Straight = line.never_straight
        #: Says whether somebody but the line is to have it.
        self.hears: Callable[[Channel], bool] = _nobody_hears
        self._heads: dict[int, tuple[str, bytes] | None] = {}
        self.follow()

    def head(self, level: int) -> tuple[str, bytes] | None:
        """Return the name of *level*, and with this one's as attributes of an event."""
        try:
            return self._heads[level]
        except KeyError:
            name = NAMES.get(level)
            values = {_names.LEVEL: name, _names.LOGGER: self.name}
            encoded = _otlp.attributes(_otlp.EVENT_TAG, values)
            head = None if name is None else (name, encoded)
            self._heads[level] = head
            return head

    def follow(self) -> None:
        """Take over what is configured now."""
        configured = _configured
        if configured is None:
            self.threshold = self.lowest = self.floor = logging.NOTSET
            self.straight, self.hears = line.never_straight, _nobody_hears
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
            log(self, level, event_of_call, (args, fields), processors=ONLY_OURS)
        elif args:
            text = args[0]
            theirs = structlog.get_config()["processors"]
            has_event = any(each is processors.record_on_span for each in theirs)
            steps = line.TEXT_WITHOUT_EVENT if has_event else line.TEXT
            if isinstance(text, (bytes, bytearray)):
                text = text.decode(errors="backslashreplace")
            make = lambda: {_names.EVENT: text}  # noqa: E731
            log(self, level, make, (), processors=ONLY_OURS, steps=steps)

    def __reduce__(self) -> tuple[Any, ...]:
        return (channel, (self.name,))

    def __repr__(self) -> str:
        return f"<Channel {self.name}>"


def _add_channel_methods() -> None:
    def made(level: int) -> Callable[..., None]:
        return lambda self, /, *args, **fields: self.take(level, args, fields)

    for name, level in _LEVELS.items():
        setattr(Channel, name, made(level))


def add_parts(owner: type, logger_of: Callable[[Any], Any]) -> None:
    """Give *owner* the other attributes of a standard logger: ``__getattr__`` would slow all."""

    def made(name: str) -> property:
        return property(lambda self: getattr(logger_of(self), name))

    for name in dir(logging.Logger("")):
        if not name.startswith("_") and not hasattr(owner, name):
            setattr(owner, name, made(name))


_add_channel_methods()
add_parts(Channel, lambda lines: lines.standard)

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
        steps = line.UNWRITTEN
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
    depth = nesting.depths.get(me, 0)
    try:
        if depth:
            nesting.check(me, depth)
        nesting.depths[me] = depth + 1
        event_dict: Any = make(*args)
        if depth and is_echo(event_dict.get(_names.EVENT)):
            return None
        name = NAMES.get(level) or logging.getLevelName(level).lower()
        for processor in CHAIN if processors is None else processors:
            if processor is not finish:
                event_dict = caller.as_called(processor, logger, name, event_dict)
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
        _diagnostics.report(_LOST, detail=error)
        return None
    finally:
        nesting.leave(me, depth)


#: What our processor leaves to the wrapped logger: to be called without arguments.
DONE: Final[Any] = ((), {})


def finish(logger: Any, method_name: str, event_dict: EventDict) -> Any:
    """Make the line: structlog's last processor, for any wrapper class and any wrapped logger."""
    if type(logger) is Channel:
        level = _LEVELS.get(method_name, logging.INFO)
        log(logger, level, event_of_wrapper, (event_dict,), processors=ONLY_OURS)
        return DONE
    try:
        return _for_others(logger, method_name, event_of_wrapper(event_dict))
    except structlog.DropEvent:
        raise
    except Exception as error:
        _diagnostics.report(_LOST, detail=error)
        raise structlog.DropEvent from None


#: structlog keeps this very list in every logger, and its ``capture_logs`` changes it in place.
CHAIN: Final[list[Callable[..., Any]]] = [finish]
ONLY_OURS: Final = [finish]  # those of the application have been asked


# ---------------------------------------------------------------- parts of structlog replaced


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
    lines, level = lines_of(logger), _LEVELS.get(name, logging.INFO)
    if level < lines.threshold:
        raise structlog.DropEvent
    name = NAMES[level] if name in _LEVELS and level in NAMES else name
    for step in line.STEPS[:-1]:
        event_dict = step(lines, name, event_dict)
    rendered = cast(Callable[[EventDict], bytes], configured.render)(event_dict)
    return rendered if isinstance(logger, structlog.BytesLogger) else rendered.decode()


def lines_of(logger: Any) -> Channel:
    """Return the channel whose level holds for *logger*, the application's own perhaps."""
    if type(logger) is Channel:
        return logger
    name = getattr(logger, "name", None)
    return channel(name if type(name) is str else "root")


_OF_CALLS: Final = frozenset({"exc_info", "stack_info", "stacklevel"})


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
        fields["stacklevel"] = fields.get("stacklevel", 1) + caller.users_frame()[1]
        return logger.log(level, *args, **fields)
    known = max((number for number in NAMES if number <= level), default=logging.DEBUG)
    return getattr(logger, NAMES[known])(*args, **fields)
