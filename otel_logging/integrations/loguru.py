"""loguru: its records are lines, and its console sinks are silent meanwhile.

In: records of any of its loggers. Invariant: it makes no difference which sinks the application
adds and removes, before set-up or after; sinks that are no console go on. Where other loggers are
left alone (``takeover=False``), loguru is too. Deliberately absent: records that its sinks give to
``logging``, which ``logs.nesting`` recognises.
"""

# What loguru has no public names for is read from 0.5 to 0.7.
# ruff: noqa: SLF001

import gc
import sys
from typing import Any, Final

import loguru

from otel_logging import _diagnostics, _fields, _names, _runtime
from otel_logging._values import plain
from otel_logging.integrations.replaced import Replaced
from otel_logging.logs import call, caller, handlers
from otel_logging.logs import logger as loggers
from otel_logging.logs.nesting import handed, is_handed_on
from otel_logging.processors import EventDict


class _Sink:
    """Our sink in one of loguru's cores; a copied logger has a copy of core and sink."""

    def __init__(self, core: Any) -> None:
        self._core = core

    def __call__(self, message: Any) -> None:
        record = message.record
        lines = loggers.logger_of(record["name"] or "root")
        if (
            _runtime.current.taken_over
            and not is_handed_on(record["message"])
            and _is_shown(record, lines, self._core)
        ):
            level = record["level"]
            place = caller.place(record["file"].path, record["line"], record["function"])
            name = loggers.name_of(level.no, level.name)
            loggers.emit(lines, level.no, _event_of, record, place=place, level_name=name)


def instrument() -> None:
    """Make lines of loguru's records."""
    if not _replaced:
        _replaced.instrument()
        for logger in _loggers():
            _add(logger)


def uninstrument() -> None:
    """Leave loguru alone again."""
    _replaced.uninstrument()
    for logger in _loggers():
        if (ours := _ours(logger)) is not None:
            logger.remove(ours)


def _loggers() -> list[Any]:
    """Return a logger of each of loguru's cores: copies that the application has made, too."""
    core = _main._core
    copies = (each for each in gc.get_referrers(type(core)) if type(each) is type(core))
    return [_Logger(each, *_main._options) for each in {core, *copies}]


def _add(logger: Any) -> None:
    ways: Any = {"colorize": False, "backtrace": False, "diagnose": False}
    logger.add(_Sink(logger._core), level=0, format="{message}", **ways)


def _ours(logger: Any) -> int | None:
    """Return *logger*'s number of our sink."""
    known = logger._core.handlers.items()
    return next((number for number, each in known if _is_ours(each._sink)), None)


def _is_ours(sink: Any) -> bool:
    return type(getattr(sink, "_function", None)) is _Sink


def _remove(original: Any, self: Any, handler_id: int | None = None) -> None:
    original(self, handler_id)
    if _ours(self) is None:
        _add(self)


def _frame(original: Any, depth: int) -> Any:
    """Return the frame that logs, past ours, to a handler of the application that counts frames."""
    return caller.users_frame(original(depth + 1))[0]  # this one


def _write(original: Any, self: Any, message: Any) -> None:
    if not _runtime.current.taken_over or _is_ours(self):
        original(self, message)
    elif not _is_console(self):
        with handed.doing((str(message).strip(), message.record["message"].strip())):
            original(self, message)


def _is_console(sink: Any) -> bool:
    """Say whether *sink* is a stream, or its ``write``, that leads to the process's console."""
    function = getattr(sink, "_function", None)
    if function is print:
        return handlers.is_console_stream(sys.stdout)
    return handlers.is_console_stream(
        getattr(sink, "_stream", None) or getattr(function, "__self__", None)
    )


def _is_shown(record: Any, lines: loggers.LineLogger, core: Any) -> bool:
    """Say whether *record* is a line: by set-up's levels, or else by those of the console sinks
    that our line replaces; and by these sinks' filters.
    """
    found = [each for each in core.handlers.values() if _is_console(each._sink)]
    level = record["level"].no
    is_asked = _runtime.current.logs.level_of(lines.name) is not None
    if level < lines.threshold and (is_asked or not found):
        return False
    try:
        return not found or any(
            (is_asked or level >= each._levelno) and (each._filter is None or each._filter(record))
            for each in found
        )
    except Exception as error:
        _diagnostics.report("errors of a logging handler's filter", detail=error)
        return True


def _event_of(record: Any) -> EventDict:
    given = {str(plain(key)): value for key, value in record["extra"].items()}
    event_dict: EventDict = dict(_fields.safe_names(given, _names.OF_CALLS))
    call.put_message((record["message"].rstrip("\n"),), event_dict)
    if record["exception"] is not None:
        event_dict["exc_info"] = record["exception"].value
    return event_dict


_SINKS: Final = "loguru._simple_sinks"
_replaced = Replaced(
    ("loguru._logger", "Logger", "remove", _remove),
    *((_SINKS, each, "write", _write) for each in ("StreamSink", "StandardSink", "CallableSink")),
    ("loguru._logger", "", "get_frame", _frame),
)
_main: Final[Any] = loguru.logger
_Logger: Final[Any] = type(_main)
