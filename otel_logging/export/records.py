"""Lines as OpenTelemetry log records, by the SDK's own exporter: OTEL_LOGS_EXPORTER=otlp.

In: a line's time, message, fields and current span. Out: OTLP requests to a
collector's `/v1/logs`. Invariant: ``emit`` never raises and never waits for the
network, and a record that does not arrive is counted. Deliberately absent: the
disk. Records wait in memory, which a killed process takes with it; the lines of
those who need more are events of their spans, the default.
"""

import functools
import inspect
import logging
import queue
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from typing import Any, Final

from opentelemetry import trace
from opentelemetry._logs import SeverityNumber
from opentelemetry.context import Context
from opentelemetry.sdk import _logs as sdk_logs
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import BatchLogRecordProcessor
from opentelemetry.sdk.resources import Resource

from otel_logging import _forks, _names, _trouble
from otel_logging._values import plain
from otel_logging.export.delivery import UNKNOWN_COLLECTOR_S
from otel_logging.export.encode import bounded
from otel_logging.export.ids import make_resource
from otel_logging.export.outlet import QUEUE_RECORDS, Outlet, this_thread
from otel_logging.processors import for_foreign_span
from otel_logging.settings import Settings

# OpenTelemetry SDK specification, batching processor: defaults
_BATCH_RECORDS: Final = 512
_DELAY_MS: Final = 1000
#: The SDK's own limit; it would cut there with a Python warning.
_MOST_ATTRIBUTES: Final = 128

#: Calls of the SDK that may last, each with what is to come of it; None is the end.
_Errands = queue.SimpleQueue[tuple[Callable[[], object], Future[object]] | None]

#: What the record says in places of its own.
_NOT_ATTRIBUTES: Final = frozenset({_names.LEVEL, _names.LOGGER})

#: Levels that are not among Python's. OpenTelemetry log data model, appendix B: Syslog.
_OTHER_LEVELS: Final = {"TRACE": 1, "NOTICE": 10, "ALERT": 19, "EMERGENCY": 21}
#: Names that the data model's "displaying severity" has otherwise than Python.
_TEXTS: Final = {"WARNING": "WARN", "CRITICAL": "FATAL"}


class Records:
    """Takes lines, and brings them to the collector as log records.

    Arguments: *resource* is this process's, *child_resource* is asked for that
    of a forked child. Scope: this object; OpenTelemetry's global logger provider
    stays as it is. Failure: raises ``ConfigurationError``, and nothing later.
    Cost: two threads. Concurrency: any thread; follows a fork.
    """

    def __init__(
        self,
        settings: Settings,
        resource: Resource,
        *,
        child_resource: Callable[[], Resource] | None = None,
    ) -> None:
        most = settings.limits.event_attributes
        self._most = _MOST_ATTRIBUTES if most is None else min(most, _MOST_ATTRIBUTES)
        self._value_length = settings.limits.value_length
        self._child_resource = child_resource or functools.partial(make_resource, settings)
        self._is_open = True
        self._outlet = Outlet(settings.exporter)
        self._processor = self._make_processor()
        self._begin(resource)
        _forks.join(_forks.Step.RECORDS, self)

    def _make_processor(self) -> BatchLogRecordProcessor:
        return BatchLogRecordProcessor(
            self._outlet,  # type: ignore[arg-type]  # its base class has changed its name
            schedule_delay_millis=_DELAY_MS,
            max_export_batch_size=_BATCH_RECORDS,
            # the outlet refuses what would fill it, since the SDK says not how many it drops
            max_queue_size=2 * QUEUE_RECORDS,
        )

    def _begin(self, resource: Resource) -> None:
        provider = LoggerProvider(resource, shutdown_on_exit=False)
        provider.add_log_record_processor(self._processor)
        self._logger = functools.lru_cache(maxsize=1024)(provider.get_logger)
        self._emit = _emitter(resource)
        # made now: at exit, Python 3.12 and later start no threads
        self._errands: _Errands = queue.SimpleQueue()
        threading.Thread(
            target=_run_errands, args=(self._errands,), name="otel_logging records", daemon=True
        ).start()

    def emit(self, span: trace.Span, time_ns: int, name: str, fields: Mapping[str, Any]) -> None:
        """Hand a line over: *time_ns* since the epoch, *name* its message.

        Does nothing after ``shutdown``, and for what the delivery itself logs.
        Failure: never raises; a record that is lost is counted and reported.
        """
        _forks.check()
        if not self._is_open or this_thread.delivers:
            return
        later = this_thread.later
        # in a signal handler or a finaliser; and the SDK's locks are not re-entrant
        if this_thread.emits:
            later.append((span, time_ns, name, fields))
            return
        this_thread.emits = True
        try:
            self._hand_over(span, time_ns, name, fields)
            while later:
                self._hand_over(*later.popleft())
        finally:
            this_thread.emits = False

    def refuse(self, span: trace.Span, time_ns: int, name: str, fields: Mapping[str, Any]) -> None:  # noqa: ARG002 - the arguments of ``emit``
        """Count a line as lost that comes when the interpreter exits: no disk keeps records.

        Failure: never raises.
        """
        if not this_thread.delivers:
            _trouble.report("log records lost: they came at exit, after the last delivery")

    def _hand_over(
        self, span: trace.Span, time_ns: int, name: str, fields: Mapping[str, Any]
    ) -> None:
        try:
            if self._outlet.has_room():
                logger = self._logger(_text(fields.get(_names.LOGGER) or _names.SCOPE))
                self._emit(logger, span, self._record(time_ns, name, fields))
                self._outlet.count(1)
        except Exception as error:
            _trouble.report("log records lost: they could not be made", detail=error)

    def _record(self, time_ns: int, name: str, fields: Mapping[str, Any]) -> dict[str, Any]:
        given = for_foreign_span({k: v for k, v in fields.items() if k not in _NOT_ATTRIBUTES})
        attributes, dropped = bounded(given, self._most, self._value_length)
        if dropped:
            _trouble.report("fields of log records dropped: over the limit of attributes", dropped)
        number, text = severity(str(fields.get(_names.LEVEL, "")))
        return {
            "timestamp": time_ns,
            "observed_timestamp": time.time_ns(),
            "severity_number": number,
            "severity_text": text,
            "body": _text(name),
            "attributes": {_text(k) or "_": _strict(v) for k, v in attributes.items()},
        }

    def force_flush(self, timeout_s: float) -> bool:
        """Wait until what was emitted by now is at the collector; False if it is not.

        Blocks the calling thread, at most *timeout_s* seconds. Failure: never raises.
        """
        if not self._is_open:
            return True
        lost = self._outlet.lost
        flushed = self._within(timeout_s, lambda s: self._processor.force_flush(int(s * 1000)))
        return flushed and self._outlet.lost == lost

    def shutdown(self, timeout_s: float) -> bool:
        """Bring what is there to the collector, and end; False if something is lost.

        Waits at most *timeout_s* seconds, and at most one if no collector has
        answered this process. A second call does nothing. Failure: never raises.
        """
        _forks.check()
        if not self._is_open:
            return True
        self._is_open = False
        lost = self._outlet.lost
        patience = timeout_s if self._outlet.answered else min(timeout_s, UNKNOWN_COLLECTOR_S)
        end: Callable[[], object] = self._processor.shutdown
        self._within(patience, lambda _: end())
        self._errands.put(None)
        self._outlet.close()
        return self._outlet.lost == lost

    def _within(self, timeout_s: float, call: Callable[[float], object]) -> bool:
        """Let *call* be run, and wait for it: most of the SDK's take no time-out, or ignore it."""
        done: Future[object] = Future()
        timeout_s = min(timeout_s, threading.TIMEOUT_MAX)
        self._errands.put((functools.partial(call, timeout_s), done))
        try:
            return done.result(timeout_s) is not False
        except TimeoutError:
            return False

    def after_fork(self) -> None:
        """Be this process: its own resource, threads and connections, none of the records."""
        if self._is_open:
            self._outlet.reset()
            if _forks.is_in_c:  # else the SDK's processor follows by itself
                self._processor = self._make_processor()
            self._begin(self._child_resource())


# ---------------------------------------------------------------- one record


@functools.lru_cache(maxsize=256)
def severity(level: str) -> tuple[SeverityNumber, str]:
    """Return OpenTelemetry's number and short name of a *level*, a name or "level 25".

    Between Python's levels, as the SDK has it: 25 is INFO4. UNSPECIFIED for a
    name that nobody has given a number.
    """
    text = level.upper()
    if text in _OTHER_LEVELS:
        return SeverityNumber(_OTHER_LEVELS[text]), text
    number = logging.getLevelNamesMapping().get(text)
    if number is None:
        digits = text.rpartition(" ")[2]  # what logging.getLevelName says of a mere number
        number = int(digits) if digits.isdecimal() else 0
    tens = min(number // 10, 5)
    if tens < 1:
        return SeverityNumber.TRACE if number > 0 else SeverityNumber.UNSPECIFIED, text
    step = 1 + 4 * tens + min(number - 10 * tens, 3)
    return SeverityNumber(step), _TEXTS.get(text, text)


def _text(value: object) -> str:
    text = str(plain(value))
    # a lone surrogate would cost the whole batch
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode()


def _strict(value: Any) -> Any:
    return _text(value) if isinstance(value, str) else value


def _emitter(resource: Resource) -> Callable[[Any, trace.Span, dict[str, Any]], None]:
    """Return what emits a record of a span through a logger, in any version of the SDK.

    There are three cases: until 1.34 a logger takes a LogRecord with ids and a
    resource; until 1.37, one with a context and a resource; from then on, the
    record's parts.
    """

    def emit(logger: Any, span: trace.Span, given: dict[str, Any]) -> None:
        logger.emit(**given, context=trace.set_span_in_context(span, Context()))

    if "context" in inspect.signature(sdk_logs.Logger.emit).parameters:
        return emit
    return _old_emitter(resource)  # pragma: no cover - as said there


def _old_emitter(  # pragma: no cover - SDKs before 1.38, which the newest one excludes
    resource: Resource,
) -> Callable[[Any, trace.Span, dict[str, Any]], None]:
    kind: Any = vars(sdk_logs)["LogRecord"]
    takes_context = "context" in inspect.signature(kind).parameters

    def emit(logger: Any, span: trace.Span, given: dict[str, Any]) -> None:
        context = span.get_span_context()
        ids = {name: getattr(context, name) for name in ("trace_id", "span_id", "trace_flags")}
        if takes_context:
            ids = {"context": trace.set_span_in_context(span, Context())}
        logger.emit(kind(**given, **ids, resource=resource))

    return emit


# ---------------------------------------------------------------- threads and forks


def _run_errands(errands: _Errands) -> None:
    this_thread.delivers = True
    while (errand := errands.get()) is not None:
        call, done = errand
        try:
            done.set_result(call())
        except Exception as error:
            _trouble.report("errors of the SDK's batch processor", detail=error)
            done.set_result(False)
