"""How structlog is set up: one chain, one bound logger, one output.

In: ``LogSettings``. Out: lines on stdout, events on spans. Invariant: nothing a
log call is given makes it raise; loggers made before set-up, or kept through
a second one, follow what is configured now. Deliberately absent: tracing, and
other libraries' loggers.
"""

import asyncio
import functools
import logging
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from contextvars import copy_context
from typing import Any, Final, cast

import structlog
from opentelemetry import trace
from structlog.contextvars import merge_contextvars
from structlog.processors import StackInfoRenderer

from otel_logging import _names, _trouble
from otel_logging._values import plain
from otel_logging.logs.output import Stdout
from otel_logging.logs.render import Renderer, console_renderer, json_renderer
from otel_logging.processors import (
    EventDict,
    add_bound_context,
    add_trace_context,
    record_on_span,
)
from otel_logging.settings import LogSettings, load_logs
from otel_logging.tracing import note_told

#: Fields that a line says of itself; ``trace_id`` may be given by hand, ``event`` cannot.
_GUARDED: Final = _names.RESERVED - {_names.TRACE_ID, _names.EVENT}


# ---------------------------------------------------------------- our own processors


def _guard_names(logger: "Channel", method_name: str, event_dict: EventDict) -> EventDict:
    if not _GUARDED.isdisjoint(event_dict):
        for key in _GUARDED.intersection(event_dict):
            event_dict[key + "_"] = event_dict.pop(key)
    return event_dict


_second: tuple[int, str] = (0, "")


def _stamp(logger: "Channel", method_name: str, event_dict: EventDict) -> EventDict:
    """Add level, logger and time: of the span's own clock inside one of ours."""
    global _second
    now_ns = getattr(trace.get_current_span(), "now_ns", time.time_ns)()
    seconds, rest = divmod(now_ns, 1_000_000_000)
    known, text = _second
    if known != seconds:
        text = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))
        _second = (seconds, text)
    event_dict[_names.TIME_NS] = now_ns
    event_dict[_names.TIMESTAMP] = f"{text}.{rest // 1000:06d}Z"
    event_dict[_names.LEVEL] = method_name
    event_dict[_names.LOGGER] = logger.name
    return event_dict


def _format_exception(logger: "Channel", method_name: str, event_dict: EventDict) -> EventDict:
    """Make ``exc_info`` a traceback, and note that this line tells of the exception."""
    if "exc_info" not in event_dict:
        return event_dict
    given = event_dict.pop("exc_info")
    error = given[1] if isinstance(given, tuple) and len(given) == 3 else given
    if error and not isinstance(error, BaseException):
        error = sys.exc_info()[1]
    if not isinstance(error, BaseException):
        return event_dict
    try:
        event_dict[_names.EXCEPTION] = "".join(traceback.format_exception(error)).rstrip("\n")
    except Exception:  # its __str__ raises
        event_dict[_names.EXCEPTION] = plain(error)
    span = trace.get_current_span()
    if span.is_recording():
        note_told(error, span.get_span_context().trace_id)
    return event_dict


def _write(logger: "Channel", method_name: str, event_dict: EventDict) -> EventDict:
    logger.stdout.write(logger.render(event_dict))
    return event_dict


#: The chain; structlog keeps this very list in every logger.
_CHAIN: Final[list[Callable[..., EventDict]]] = [
    merge_contextvars,  # for those who bind with structlog's own functions
    add_bound_context,
    _guard_names,
    add_trace_context,
    _format_exception,
    cast(Callable[..., EventDict], StackInfoRenderer(additional_ignores=["otel_logging"])),
    _stamp,
    record_on_span,
    _write,
]


# ---------------------------------------------------------------- the bound logger


class Channel:
    """Where the lines of one logger name go: structlog's "wrapped logger"."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.threshold: int = logging.NOTSET
        self.render: Renderer = _current.render
        self.stdout = _current.stdout
        self.follow(_current)

    def follow(self, current: "_Current") -> None:
        """Take over what is configured now."""
        self.threshold = current.level_of(self.name)
        self.render = current.render
        self.stdout = current.stdout

    def __reduce__(self) -> tuple[Any, ...]:
        return (channel, (self.name,))

    def __repr__(self) -> str:
        return f"<Channel {self.name}>"


class _Current:
    """What is configured now."""

    def __init__(self, settings: LogSettings | None = None) -> None:
        self.stdout = Stdout()
        self.level = logging.INFO if settings is None else settings.level
        self.levels: Mapping[str, int] = {} if settings is None else settings.levels
        if settings is not None and settings.console:
            self.render = console_renderer(color=settings.color)
        else:
            bound = settings.line_bytes if settings and self.stdout.is_pipe else None
            self.render = json_renderer(bound)

    def level_of(self, name: str) -> int:
        """Return the level of the nearest parent that has one, as ``logging`` does."""
        while name:
            if name in self.levels:
                return self.levels[name]
            name = name.rpartition(".")[0]
        return self.level


_current = _Current()
_channels: dict[str, Channel] = {}


def channel(name: str = "root", *_: Any) -> Channel:
    """Return the channel of *name*, the same one every time: structlog's logger factory."""
    name = str(name)
    return _channels.get(name) or _channels.setdefault(name, Channel(name))


def _interpolate(event: Any, args: tuple[Any, ...], event_dict: EventDict) -> Any:
    """Put *args* into the message as ``logging`` does; say so where they do not fit."""
    try:
        first = args[0]
        return event % (first if len(args) == 1 and isinstance(first, Mapping) and first else args)
    except Exception as error:
        event_dict[_names.FORMAT_ERROR] = plain(error)
        event_dict[_names.FORMAT_ARGS] = plain(args)
        return event


_NAMES: Final = {10: "debug", 20: "info", 30: "warning", 40: "error", 50: "critical"}


class BoundLogger(structlog.make_filtering_bound_logger(logging.NOTSET)):  # type: ignore[misc]
    """structlog's filtering bound logger; the level is its channel's, and it never raises."""

    def _emit(self, level: int, args: tuple[Any, ...], fields: dict[str, Any]) -> None:
        logger: Channel = self._logger
        if level < logger.threshold:
            return
        try:
            event_dict: EventDict = {**self._context, **fields}
            if args:
                if _names.EVENT in event_dict:
                    event_dict[_names.EVENT + "_"] = event_dict[_names.EVENT]
                event = args[0]
                if len(args) > 1:
                    event = _interpolate(event, args[1:], event_dict)
                event_dict[_names.EVENT] = event
            else:
                event_dict.setdefault(_names.EVENT, "")
            name = _NAMES.get(level) or logging.getLevelName(level).lower()
            for processor in self._processors:
                event_dict = processor(logger, name, event_dict)
        except Exception as error:
            _trouble.report("log lines lost: a line could not be made", detail=error)

    def log(self, level: int | str, /, *args: Any, **fields: Any) -> None:
        """Log at *level*, a number or a name."""
        number = level if isinstance(level, int) else logging.getLevelName(str(level).upper())
        self._emit(number if isinstance(number, int) else logging.INFO, args, fields)

    async def alog(self, level: int | str, /, *args: Any, **fields: Any) -> None:
        """Log at *level*, in the loop's executor."""
        await _in_executor(functools.partial(self.log, level, *args, **fields), fields)

    def exception(self, *args: Any, **fields: Any) -> None:
        """Log an error with the exception that is being handled."""
        self._emit(logging.ERROR, args, {"exc_info": True, **fields})

    async def aexception(self, *args: Any, **fields: Any) -> None:
        """Log an error with the exception that is being handled, in the loop's executor."""
        fields = {"exc_info": sys.exc_info(), **fields}
        await _in_executor(functools.partial(self.error, *args, **fields), fields)

    def is_enabled_for(self, level: int) -> bool:
        """Say whether a line of *level* would be made."""
        return bool(level >= self._logger.threshold)

    def get_effective_level(self) -> int:
        """Return the level from which lines are made."""
        return cast(int, self._logger.threshold)


async def _in_executor(call: Callable[[], None], fields: dict[str, Any]) -> None:
    # who is being handled is known here alone; the executor's thread cannot see it
    if fields.get("exc_info") is True:
        fields["exc_info"] = sys.exc_info()
    context = copy_context()
    await asyncio.get_running_loop().run_in_executor(None, context.run, call)


def _add_methods(level: int, *names: str) -> None:
    def method(self: BoundLogger, *args: Any, **fields: Any) -> None:
        self._emit(level, args, fields)

    async def amethod(self: BoundLogger, *args: Any, **fields: Any) -> None:
        if fields.get("exc_info") is True:
            fields["exc_info"] = sys.exc_info()
        await _in_executor(functools.partial(self._emit, level, args, fields), fields)

    for name in names:
        setattr(BoundLogger, name, method)
        setattr(BoundLogger, f"a{name}", amethod)


_add_methods(logging.DEBUG, "debug")
_add_methods(logging.INFO, "info", "msg")
_add_methods(logging.WARNING, "warning", "warn")
_add_methods(logging.ERROR, "error", "err")
_add_methods(logging.CRITICAL, "critical", "fatal")


# ---------------------------------------------------------------- doors


def get_logger(name: str | None = None, /, **initial: Any) -> structlog.typing.FilteringBoundLogger:
    """Return structlog's bound logger for *name*, with *initial* fields bound to it.

    Without a name it is that of the calling module. Works at import, before any
    set-up: what is configured at the time of the call counts. Scope: nothing is
    changed. Failure: never raises. Concurrency: any thread and task.
    """
    if name is None:
        name = sys._getframe(1).f_globals.get("__name__", "root")  # noqa: SLF001 - documented
    return cast(structlog.typing.FilteringBoundLogger, structlog.get_logger(name, **initial))


def configure_logging(
    *,
    environment: str | None = None,
    log_level: str | int | None = None,
    log_levels: str | Mapping[str, str | int] | None = None,
) -> None:
    """Set logging up, without tracing: coloured lines in development, JSON in production.

    *environment* (variable ENVIRONMENT): development, test, or anything else, which
    is JSON; unset it is development on a terminal and production otherwise.
    *log_level* (LOG_LEVEL): a name in any case or a number; info. *log_levels*
    (LOG_LEVELS, ``shop=debug,shop.db=warning``): levels by logger name, which hold
    for the names below it too. Variables are read from the environment, then from
    `.env` in the working directory.

    Scope: process; calling it again configures anew, for loggers that exist too.
    Failure: raises ``ConfigurationError``.
    """
    apply(load_logs(environment=environment, log_level=log_level, log_levels=log_levels))


def apply(settings: LogSettings) -> None:
    """Configure structlog as *settings* say. Scope: process."""
    global _current
    _current = _Current(settings)
    for existing in list(_channels.values()):
        existing.follow(_current)
    structlog.configure(
        processors=_CHAIN,
        wrapper_class=BoundLogger,
        logger_factory=channel,
        context_class=dict,
        cache_logger_on_first_use=True,
    )
