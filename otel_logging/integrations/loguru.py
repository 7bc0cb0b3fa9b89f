"""loguru: its records are lines, and its console sinks are silent meanwhile.

In: what any of its loggers takes. Invariant: which sinks the application adds and removes, before
or after, makes no difference; those that are no console go on. Where other loggers are left alone
(``takeover=False``), loguru is. Deliberately absent: records that its sinks give to ``logging``,
which ``logs.nesting`` recognises.
"""

import sys
from contextlib import suppress
from typing import Any, Final

import loguru

from otel_logging import _diagnostics, _fields, _names
from otel_logging._values import plain
from otel_logging.integrations.replaced import Replaced
from otel_logging.logs import call, caller, handlers, levels
from otel_logging.logs import logger as loggers
from otel_logging.logs.nesting import handed, is_handed_on
from otel_logging.processors import EventDict

#: loguru's number of our sink.
_ours = -1


def instrument() -> None:
    """Make lines of loguru's records."""
    if not _replaced:
        _replaced.instrument()
        _add(loguru.logger)


def uninstrument() -> None:
    """Leave loguru alone again."""
    _replaced.uninstrument()
    with suppress(ValueError):  # it is not there any more
        loguru.logger.remove(_ours)


def _add(logger: Any) -> None:
    global _ours
    _ours = logger.add(
        _to_line, level=0, format="{message}", colorize=False, backtrace=False, diagnose=False
    )


def _removing(remove: Any) -> Any:
    def removing(self: Any, handler_id: int | None = None) -> None:
        remove(self, handler_id)
        if handler_id is None or handler_id == _ours:
            _add(self)

    return removing


def _framing(get_frame: Any) -> Any:
    """Find who logs past frames of ours, where a handler of the application counts its callers."""

    def framing(depth: int) -> Any:
        return caller.users_frame(get_frame(depth + 1))[0]

    return framing


def _writing(write: Any) -> Any:
    def writing(self: Any, message: Any) -> None:
        if not levels.ours or getattr(self, "_function", None) is _to_line:
            write(self, message)
        elif not _is_console(self):
            with handed.doing((str(message).strip(), message.record["message"].strip())):
                write(self, message)

    return writing


def _is_console(sink: Any) -> bool:
    """Say whether *sink* is a stream, or its ``write``, that leads to the process's console."""
    function = getattr(sink, "_function", None)
    if function is print:
        return handlers.is_console_stream(sys.stdout)
    return handlers.is_console_stream(
        getattr(sink, "_stream", None) or getattr(function, "__self__", None)
    )


def _to_line(message: Any) -> None:
    record = message.record
    level, lines = record["level"], loggers.logger_of(record["name"] or "root")
    if (
        levels.ours
        and level.no >= lines.threshold
        and not is_handed_on(record["message"])
        and not _is_refused(record)
    ):
        place = {
            _names.CODE_FILE: record["file"].path,
            _names.CODE_LINE: record["line"],
            _names.CODE_FUNCTION: record["function"],
        }
        name = loggers.name_of(level.no, level.name)
        loggers.emit(lines, level.no, _event_of, record, place=place, level_name=name)


def _is_refused(record: Any) -> bool:
    """Say whether the filter of each console sink, whose place our line takes, refuses *record*."""
    core: Any = getattr(loguru.logger, "_core", None)
    found = [each for each in core.handlers.values() if _is_console(getattr(each, "_sink", None))]
    try:
        return bool(found) and not any(
            each._filter is None or each._filter(record)  # noqa: SLF001 - it has no public name
            for each in found
        )
    except Exception as error:
        _diagnostics.report("errors of a logging handler's filter", detail=error)
        return False


def _event_of(record: Any) -> EventDict:
    event_dict: EventDict = {}
    for key, value in record["extra"].items():
        name = key if type(key) is str else str(plain(key))
        if name in _names.OF_CALLS:
            _fields.put_aside(event_dict, name, value)
        else:
            event_dict[name] = value
    call.put_message((record["message"].rstrip("\n"),), event_dict)
    if record["exception"] is not None:
        event_dict["exc_info"] = record["exception"].value
    return event_dict


_SINKS: Final = "loguru._simple_sinks"
_replaced = Replaced(
    ("loguru._logger", "Logger", "remove", _removing),
    *((_SINKS, each, "write", _writing) for each in ("StreamSink", "StandardSink", "CallableSink")),
    ("loguru._logger", "", "get_frame", _framing),
)
