"""Loggers by name: where their lines go, and how a line is made. Never raises, never recurses.

In: the arguments of a call of any logger. Out: each line once, whatever part of structlog's
configuration the application replaces (processors, wrapper class, logger factory). Invariant:
loggers made before set-up follow what is configured now. Deliberately absent: what is on a line
(``line``), how it looks (``render``), the methods of a bound logger (``bound``).
"""

import logging
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from operator import attrgetter
from typing import Any, Final, NamedTuple

import structlog

from otel_logging import _diagnostics, _names, _runtime, processors
from otel_logging._values import plain
from otel_logging.logs import caller, handlers, levels, line
from otel_logging.logs.call import as_extra, event_of_call, event_of_wrapper
from otel_logging.logs.line import NAMES
from otel_logging.logs.nesting import inside
from otel_logging.logs.render import Renderer, text_of
from otel_logging.logs.stdout import is_echo
from otel_logging.processors import EventDict
from otel_logging.settings.logs import LogSettings

#: The names that structlog's and the standard library's loggers have for their methods.
_LEVELS: Final = {
    **{name: level for level, name in NAMES.items()},
    **dict.fromkeys(("msg", "log"), 20),
    **dict.fromkeys(("err", "exception", "failure"), 40),
    **dict(zip(("notset", "warn", "fatal"), (0, 30, 50), strict=True)),
}
LOST: Final = "log lines lost: a line could not be made"


class Configured(NamedTuple):
    """What is configured: the level of each logger's name, and how a line is written."""

    #: What was asked for; what holds are the two levels below.
    settings: LogSettings
    level: int | None
    levels: Mapping[str, int]
    write: Callable[[EventDict, Renderer], None]
    render: Renderer
    straight: line.Straight

    def level_of(self, name: str) -> int | None:
        """Return the level of the nearest parent that has one, as ``logging`` does."""
        while name:
            if name in self.levels:
                return self.levels[name]
            name = name.rpartition(".")[0]
        return self.level


class LineLogger:
    """Where the lines of one logger name go: structlog's "wrapped logger".

    ``BoundLogger`` calls none of its methods. They are for applications that replace a part of
    structlog's configuration. Its other attributes are those of the standard logger of its name.
    """

    name = ""  # each has its own
    #: Whether it is an installed library's: what handlers would not show is no line.
    is_quiet = False
    #: The file of its first record, by which its library may be known.
    logged_in = ""

    def __init__(self, name: str) -> None:
        self.name = name
        self.known: logging.Logger | None = None  # made on demand
        self.follow()

    def follow(self) -> None:
        """Take over what is configured now."""
        configured: Configured | None = _runtime.current.logs
        asked = logging.NOTSET if configured is None else configured.level_of(self.name)
        threshold = floor = lowest = levels.of_root() if asked is None else asked
        if _runtime.current.taken_over and configured is not None:
            self.known = standard = logging.getLogger(self.name)
            own, handlers_level = levels.nearest(standard)[1], levels.for_handlers(standard)
            self.is_quiet = asked is None and caller.is_library(self.name, self.logged_in)
            if own and asked is None and not self.is_quiet:
                lowest = min(lowest, own)
            threshold = max(lowest, own)
            floor = min(threshold, handlers_level)
            if self.is_quiet:
                lowest = max(lowest, handlers_level)
        #: The lowest level of a record that becomes a line, of our own lines, of what handlers get.
        self.lowest, self.threshold, self.floor = lowest, threshold, floor
        self.straight = line.never_straight if configured is None else configured.straight

    def isEnabledFor(self, level: int) -> bool:  # noqa: N802 - logging's name
        """Say whether a line of *level* would be made, or go to a handler."""
        return level >= self.floor

    @property
    def standard(self) -> logging.Logger:
        """The standard library's logger of this name."""
        return self.known or logging.getLogger(self.name)

    def is_heard(self) -> bool:
        """Say whether handlers of the application take its lines as well."""
        return bool(_runtime.current.taken_over) and handlers.hears(self.standard)

    def take(self, level: int, args: tuple[Any, ...], fields: Mapping[str, Any]) -> None:
        """Make a line of the result of processors that are not ours.

        There are three cases: nothing, if ours are among them; a text, which is
        written as it is; and arguments as for a logger of the standard library.
        """
        if fields or len(args) > 1:
            log(self, level, event_of_call, args, fields)
        elif args:
            if isinstance(text := args[0], (bytes, bytearray)):
                text = text.decode(errors="backslashreplace")
            theirs = structlog.get_config()["processors"]
            has_event = any(each is processors.record_on_span for each in theirs)
            emit(self, level, lambda: {_names.EVENT: text}, on_span=not has_event, render=text_of)

    def __reduce__(self) -> tuple[Any, ...]:
        return (logger_of, (self.name,))

    def __repr__(self) -> str:
        return f"<LineLogger {self.name}>"


def add_parts(owner: type, of: str) -> None:
    """Give *owner* the other attributes of a standard logger, which its attribute *of* is. With
    ``__getattr__`` all attributes would be slower.
    """
    for name in dir(logging.Logger("")):
        if not name.startswith("_") and not hasattr(owner, name):
            setattr(owner, name, property(attrgetter(f"{of}.{name}")))


def _method(level: int) -> Callable[..., None]:
    return lambda self, /, *args, **fields: self.take(level, args, fields)


for _name, _level in _LEVELS.items():
    setattr(LineLogger, _name, _method(_level))
add_parts(LineLogger, "standard")

_loggers: dict[str, LineLogger] = {}


def logger_of(name: Any = "root", *_: Any) -> LineLogger:
    """Return the logger of *name*, the same one every time: structlog's logger factory."""
    known = _loggers.get(name) if type(name) is str else None
    if known is None:
        name = str(plain(name))
        known = _loggers.setdefault(name, LineLogger(name))
        known.follow()  # set-up may have changed while it was made
    return known


def follow() -> None:
    """Let every logger take over what is configured now, levels set in code included."""
    for existing in list(_loggers.values()):
        existing.follow()


# ---------------------------------------------------------------- a line


def log(
    lines: LineLogger,
    level: int,
    make: Callable[..., EventDict],
    *args: Any,
    is_heard: bool = True,
    place: Mapping[str, Any] | None = None,
) -> None:
    """Make a line of *level*, if it is high enough, and give it to the application's handlers.

    *place*: where it was logged, if that is not the caller. Otherwise as ``emit``.
    """
    is_line = level >= lines.threshold  # otherwise it is on no output and no span
    is_heard = is_heard and level >= lines.floor and lines.is_heard()
    ways: Any = {"written": is_line, "on_span": is_line, "is_heard": is_heard, "place": place}
    if is_line or is_heard:
        emit(lines, level, make, *args, **ways)


def emit(
    lines: LineLogger,
    level: int,
    make: Callable[..., EventDict],
    *args: Any,
    written: bool = True,
    on_span: bool = True,
    render: Renderer | None = None,
    is_heard: bool = False,
    place: Mapping[str, Any] | None = None,
    level_name: str | None = None,
) -> None:
    """Make a line of *level* of the event dict that *make* returns for *args*.

    Failure: never raises; a line that is lost is counted and reported. Concurrency: any thread,
    signal handlers, finalisers.
    """
    configured: Configured | None = _runtime.current.logs
    try:
        with inside():
            event_dict = make(*args)
            if configured is None or is_echo(event_dict.get(_names.EVENT)):
                return  # shut down meanwhile, or an output that logs its lines
            of = lines.standard, level
            refused = is_heard and written and not handlers.filter_line(*of, event_dict, place)
            if configured.settings.caller and _names.CODE_FILE not in event_dict:
                event_dict.update(place or caller.users_place())
            given = {**event_dict} if is_heard else event_dict
            complete = partial(line.complete, lines.name, level_name or name_of(level))
            event_dict = complete(event_dict, on_span=on_span and not refused)
            if written and not refused:
                configured.write(event_dict, render or configured.render)
            if is_heard:
                record = partial(handlers.record_of, *of, event_dict, given, place)
                if handlers.hand_on(*of, record) and refused:
                    complete(given, on_span=on_span)  # another handler shows it
    except Exception as error:
        _diagnostics.report(LOST, detail=error)


def name_of(level: int, own: Any = None) -> str:
    """Return a line's name of *level*; if it is not one of the five, the record's *own* name."""
    known = NAMES.get(level)
    if known is None and own is not None and (text := processors.without_colors(own).strip()):
        known = text.lower()
        processors.LEVELS.setdefault(text.upper(), level)
    return known or logging.getLevelName(level).lower()


def level_of(name: Any) -> int:
    """Return the number of a level's *name*, or of a method's; info, if it is unknown."""
    text = str(plain(name)).lower()
    number = _LEVELS.get(text, logging.getLevelName(text.upper()))
    if not isinstance(number, int):
        digits = text.removeprefix("level ")  # logging's name for a level without a name
        number = int(digits) if digits.isdecimal() else logging.INFO
    return number


# ---------------------------------------------------------------- parts of structlog replaced

#: The result of our processor for a ``LineLogger``: its method is called without arguments.
_DONE: Final[Any] = ((), {})


def finish(logger: Any, method_name: str, event_dict: EventDict) -> Any:
    """Make the line: structlog's last processor, for any wrapper class and any wrapped logger."""
    if type(logger) is LineLogger:
        log(logger, level_of(method_name), event_of_wrapper, event_dict)
        return _DONE
    try:
        return _for_others(logger, method_name, event_of_wrapper(event_dict))
    except structlog.DropEvent:
        raise
    except Exception as error:
        _diagnostics.report(LOST, detail=error)
        raise structlog.DropEvent from None


#: structlog keeps this very list in every logger, and its ``capture_logs`` changes it in place.
CHAIN: Final[list[Callable[..., Any]]] = [finish]
ONLY_OURS: Final[Iterable[Any]] = [finish]
_OF_CALLS: Final = frozenset({"exc_info", "stack_info", "stacklevel"})


def _for_others(logger: Any, name: str, event_dict: EventDict) -> Any:
    """Return the arguments for a wrapped logger of the application, which writes the line.

    A logger of the standard library makes a record, which is made a line where all
    records are. Any other gets the rendered line.
    """
    if isinstance(logger, logging.Logger) and _runtime.current.taken_over:
        event = event_dict.pop(_names.EVENT)
        known = {key: event_dict.pop(key) for key in _OF_CALLS & event_dict.keys()}
        return (event,), {**known, "extra": as_extra(event_dict)}
    level, lines = level_of(name), lines_of(logger)
    if level < lines.threshold:
        raise structlog.DropEvent
    event_dict = line.complete(lines.name, name_of(level), event_dict, on_span=True)
    rendered = _runtime.current.logs.render(event_dict)
    return rendered if isinstance(logger, structlog.BytesLogger) else rendered.decode()


def lines_of(logger: Any) -> LineLogger:
    """Return the logger of ours whose level holds for *logger*, which may be the application's."""
    if type(logger) is LineLogger:
        return logger
    name = getattr(logger, "name", None)
    return logger_of(name if type(name) is str else "root")
