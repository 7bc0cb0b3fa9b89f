"""Lines as OpenTelemetry log records: OTEL_LOGS_EXPORTER=otlp.

In: a line. Out: OTLP log records in a spool of their own, with a worker of its own, for `/v1/logs`.
Invariant: ``emit`` never raises, never waits for the network; a record is on disk when it returns.
"""

import functools
import logging
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

from opentelemetry import trace
from opentelemetry.sdk.resources import Resource

from otel_logging import _diagnostics, _forks, _json, _names, _otlp
from otel_logging._values import MAX_RECORD_BYTES, plain
from otel_logging.export.ids import encode_resource
from otel_logging.export.span_bytes import bounded
from otel_logging.processors import LEVELS, described
from otel_logging.settings import Limits
from otel_logging.spool.queue import Spool

#: Fields of a line that have a place of their own in a record.
_NOT_ATTRIBUTES: Final = frozenset({_names.LEVEL, _names.LOGGER})

#: Levels that are not among Python's. OpenTelemetry log data model, appendix B: Syslog.
_OTHER_LEVELS: Final = {"TRACE": 1, "NOTICE": 10, "ALERT": 19, "EMERGENCY": 21}
#: Names that the data model ("displaying severity") spells in another way than Python.
_TEXTS: Final = {"WARNING": "WARN", "CRITICAL": "FATAL"}
_ATTRIBUTE: Final = b"\x32"  # field 6 of LogRecord
_ATTRIBUTES_BYTES: Final = MAX_RECORD_BYTES * 3 // 4  # of all; the rest is for the message

_DROPPED: Final = "fields of log records dropped: over the limit of attributes"


class Records:
    """Takes lines, and puts them into *spool* as log records.

    *child_resource* returns the resource of a forked child. OpenTelemetry's global logger provider
    stays as it is. Cost: one write to the spool a line. Concurrency: any thread.
    """

    def __init__(
        self, limits: Limits, spool: Spool, *, child_resource: Callable[[], Resource]
    ) -> None:
        self._limits = limits
        self.spool = spool
        self._child_resource = child_resource
        self.is_open = True
        _forks.join(_forks.Step.RECORDS, self)

    def emit(
        self,
        span: trace.Span,
        time_ns: int,
        name: str,
        fields: Mapping[str, Any],
        error: BaseException | None = None,
    ) -> None:
        """Put a line into the spool: *time_ns* since the epoch, *name* its message, *error* what
        its ``exc_info`` was.

        Does nothing after ``shutdown``: the line is on stdout. Failure: never raises;
        a record that is lost is counted and reported.
        """
        _forks.check()
        if not self.is_open:
            return
        try:
            context = span.get_span_context()
            trace_id = context.trace_id.to_bytes(16, "big") if context.is_valid else b""
            given = {
                _names.STACKTRACE if key == _names.EXCEPTION else key or "_": plain(value, key)
                for key, value in fields.items()
                if key not in _NOT_ATTRIBUTES
            }
            if error is not None:
                given = {**described(error), **given}
            values, dropped = self._bounded(given)
            times = time_ns, time.time_ns()
            of = severity(str(fields.get(_names.LEVEL, "")))
            ids: Any = {"trace_id": trace_id, "span_id": context.span_id}
            ids["flags"] = context.trace_flags
            record = _otlp.log_record(*times, *of, str(plain(name)), values, **ids, dropped=dropped)
            scope = _scope(str(plain(fields.get(_names.LOGGER) or _names.SCOPE)))
        except Exception as failure:
            _diagnostics.report("log records lost: they could not be made", detail=failure)
            return
        # with its scope around it: there are as many of these as loggers, and one segment for all
        self.spool.append(b"", trace_id or bytes(16), _otlp.scoped(scope, record))

    def _bounded(self, given: Mapping[str, Any]) -> tuple[Mapping[str, Any], int]:
        """Return the attributes of *given* that fit into a record, and how many are left out."""
        limits = self._limits
        values, dropped = bounded(given, limits.record_attributes, limits.record_value_length)
        if dropped:
            _diagnostics.report(_DROPPED, dropped)
        if len(_attributes(values)) > _ATTRIBUTES_BYTES:
            values = _json.fitted(values, _ATTRIBUTES_BYTES, _attributes)
        return values, dropped

    def after_fork(self) -> None:
        """Begin anew in a child: its own resource, without the parent's records."""
        self.spool.resource = encode_resource(self._child_resource())


# ---------------------------------------------------------------- one record


@functools.lru_cache(maxsize=256)
def severity(level: str) -> tuple[int, str]:
    """Return OpenTelemetry's number and short name of a *level*, a name or "level 25".

    Between Python's levels, as OpenTelemetry's SDK: 25 is INFO4. 0 (unspecified) for a
    name without a number.
    """
    text = level.upper()
    if text in _OTHER_LEVELS:
        return _OTHER_LEVELS[text], text
    number = logging.getLevelNamesMapping().get(text, LEVELS.get(text))
    if number is None:
        digits = text.rpartition(" ")[2]  # logging's name for a level that is only a number
        number = int(digits) if digits.isdecimal() else 0
    tens = min(number // 10, 5)
    if tens < 1:
        return int(number > 0), text
    return 1 + 4 * tens + min(number - 10 * tens, 3), _TEXTS.get(text, text)


_scope: Final = functools.lru_cache(maxsize=1024)(_otlp.scope)
_attributes: Final = functools.partial(_otlp.attributes, _ATTRIBUTE)
