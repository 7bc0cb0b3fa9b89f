"""The way of an ended span to the spool; and a place for every line that no open span takes.

In: spans that end, lines. Out: frames in the spool, and calls of foreign span
processors. Invariant: a line of a recorded trace, or outside any, is an event
of exactly one span, unless lines are log records alone (``OTEL_LOGS_EXPORTER=otlp``).
Deliberately absent: the network (``delivery``).
"""

import math
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from queue import SimpleQueue
from typing import Any, Final

from opentelemetry import trace
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, sampling
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, TraceFlags

from otel_logging import _diagnostics, _forks, _names, _otlp, _runtime
from otel_logging._green import is_green, wait_until
from otel_logging._values import MAX_RECORD_BYTES
from otel_logging.export import foreign
from otel_logging.export.ids import encode_resource, in_this_process, new_span_id, new_trace_id
from otel_logging.export.span import PAGE_EVENTS, PROCESS_LOG_S, OfLines, ProcessLog, Span
from otel_logging.export.span_bytes import encode_line, encode_span, fitted_attributes, make_scope
from otel_logging.settings import Limits, Settings
from otel_logging.spool.queue import LOST_AFTER, Spool

_SAMPLED: Final = int(TraceFlags.SAMPLED)


def _most_unseen(most: int | None, length: int | None) -> float:
    """Return how many attributes need no check of their values; -1: none, their length is
    limited.
    """
    return -1 if length is not None else math.inf if most is None else most


class Pipeline:
    """What an ended span goes through. Scope: process. Failure: nothing here raises
    into the application. Cost: one write to the spool a span, and whatever
    foreign processors do. Concurrency: any thread; follows a fork.
    """

    #: Whether each span must ask the sampler, the dearest step of all.
    asks_sampler: bool
    #: If not: new traces with an id up to this one are sampled; other spans follow their parent.
    root_bound: int

    def __init__(self, settings: Settings, resource: Resource, spool: Spool) -> None:
        self.follow(settings, resource)
        #: The class of its spans; ``testing`` has one with a clock of its own.
        self.span_type: type[Span] = Span
        #: Flags of a new trace: RANDOM_TRACE_ID if the installed SDK has it (1.45 does).
        self.root_flags = int(getattr(TraceFlags, "RANDOM_TRACE_ID", 0))
        self.spool = spool
        self.processors: tuple[SpanProcessor, ...] = ()
        self._last_calls = LastCalls()
        self.ended_spans = 0
        #: Delivers what has ended, within so many seconds; returns whether it did.
        self.on_flush: Callable[[float], bool] = lambda _: True
        self.is_open = True
        self._exporter = settings.exporter
        self._is_sent = False  # another SDK's provider sends its spans where ours go
        #: The interpreter exits: nothing will end a `process log` span later.
        self.is_exiting = False
        self._keeps_process_log = settings.sampler != "always_off"
        self._process_log: ProcessLog | None = None
        self._own_scope = make_scope(InstrumentationScope(_names.SCOPE))
        _runtime.ids.seed()  # it may be a child of a process that imported the package
        _forks.join(_forks.Step.PIPELINE, self)

    def follow(self, settings: Settings, resource: Resource) -> None:
        """Take over the parts of *settings* that are about spans."""
        self.limits: Limits = (limits := settings.limits)
        #: The most attributes of an event that is encoded without a check of its values.
        self.encoded_attributes = _most_unseen(limits.event_attributes, limits.value_length)
        #: The most bound fields that a span gets without a check of their values.
        self.shared_attributes = _most_unseen(limits.span_attributes, limits.span_value_length)
        name, of_roots = settings.sampler, sampling.TraceIdRatioBased(settings.sampler_ratio)
        samplers: dict[str, sampling.Sampler] = {
            "always_on": sampling.ALWAYS_ON,
            "always_off": sampling.ALWAYS_OFF,
            "traceidratio": of_roots,
            "parentbased_always_on": sampling.DEFAULT_ON,
            "parentbased_always_off": sampling.DEFAULT_OFF,
        }
        self.sampler = samplers.get(name) or sampling.ParentBased(of_roots)
        if name.startswith("parentbased"):
            self.asks_sampler = False
            self.root_bound = 0 if name == "parentbased_always_off" else of_roots.bound
        self.page_events = min(limits.events or PAGE_EVENTS, PAGE_EVENTS)
        self.resource = resource

    @property
    def sampler(self) -> sampling.Sampler:
        """OpenTelemetry's sampler, which may be replaced."""
        return self._sampler

    @sampler.setter
    def sampler(self, sampler: sampling.Sampler) -> None:
        self._sampler = sampler
        self.asks_sampler = True
        self.root_bound = 0

    # ---- spans

    def ended(self, span: Span) -> None:
        """Show an ended span to foreign processors, then put it into the spool: what they remove is
        never sent. Spans of lines are not shown: one may end inside a processor's log call.
        """
        try:
            for method in ("_on_ending", "on_end"):
                self._tell(self.processors, method, span)
        finally:  # a processor may raise KeyboardInterrupt
            self.keep(span)

    def keep(self, span: Span) -> None:
        """Put the bytes of an ended span into the spool."""
        if not span.trace_flags & _SAMPLED:
            return
        try:
            trace_id = span.trace_id.to_bytes(16, "big")
            encoded = encode_span(span, trace_id)
            if len(encoded) > MAX_RECORD_BYTES:
                span._attributes = {**fitted_attributes(span.attributes, len(encoded))}  # noqa: SLF001
                encoded = encode_span(span, trace_id)
        except Exception as error:  # a foreign processor may have assigned anything
            _diagnostics.report("spans lost: they cannot be encoded", detail=error)
            return
        self.append(span._scope[0], trace_id, encoded)  # noqa: SLF001

    def started(self, span: Span, parent_context: Any) -> None:
        """Show a span that has just started to foreign processors."""
        # by keyword, as the SDK does: some take it no other way
        self._tell(self.processors, "on_start", span, parent_context=parent_context)

    def add_processor(self, processor: SpanProcessor) -> None:
        """Show every span that starts and ends from here on to *processor* too."""
        if foreign.sends_to(self._exporter, (processor,), "SpanExporter"):
            _diagnostics.remark(
                "the span processor that was added sends each span to"
                f" {self._exporter.shown}, where it is sent already: it arrives twice"
            )
        try:
            self._last_calls.prepare()
        except RuntimeError as error:
            _diagnostics.report("failures to start a thread for the exit", detail=error)
        self.processors += (processor,)

    def shut_processors_down(self, until: float) -> None:
        """Shut foreign processors down, and show them no more spans. Returns by *until*, even if
        they do not return.
        """
        self.roll(is_flush=True)
        shut_down, self.processors = self.processors, ()
        for each in shut_down:
            self._last_calls.make(partial(self._tell, (each,), "shutdown"))
        self._last_calls.wait(until)

    def leave_processors(self, until: float) -> None:
        """Wait until then at most for foreign processors, and report those that still run."""
        if not self._last_calls.wait(until):
            _diagnostics.report("foreign span processors left behind: they do not return")

    def _tell(
        self, processors: Iterable[SpanProcessor], method: str, *args: Any, **kw: Any
    ) -> None:
        for processor in processors:
            try:
                # older SDKs (1.27) have no _on_ending
                if (tell := getattr(processor, method, None)) is not None:
                    tell(*args, **kw)
            except Exception as error:
                _diagnostics.report("errors of a foreign span processor", detail=error)

    def append(self, scope: bytes, trace_id: bytes, encoded: bytes) -> None:
        """Put an encoded span into the spool."""
        if not self.is_open:
            self.spool.report(LOST_AFTER)
            return
        self.ended_spans += 1
        if _diagnostics.unrecorded and (taken := _diagnostics.take_unrecorded()):
            encoded = _otlp.with_attributes(encoded, taken)
        self.spool.append(scope, trace_id, encoded)

    def is_sent_by(self, provider: Any) -> bool:
        """Say whether another SDK's *provider* now sends its spans where ours go."""
        exporter, was = self._exporter, self._is_sent
        self._is_sent = foreign.provider_sends_to(exporter, provider, "SpanExporter")
        if self._is_sent and not was:
            _diagnostics.remark(
                f"the tracer provider that is set sends its spans to {exporter.shown}"
                " itself: they are not sent again, and late and show read them from Jaeger"
            )
        return self._is_sent

    def ended_elsewhere(self, span: ReadableSpan, *, is_sent: bool) -> None:
        """Take an ended span of another SDK; only its lines, if its SDK sends the span."""
        _forks.check()
        context = span.context
        twin = foreign.twins.pop(context.span_id, None) or foreign.make_twin(context, self)
        twin.pipeline = self  # as for a line
        twin.become(span, () if is_sent else span.events)
        if not is_sent:
            self.keep(twin)
        elif lines := twin._events_at_end:  # noqa: SLF001
            self.overflow(twin, span.end_time or 0, lines)

    # ---- lines that no open span of ours takes

    def line_sink(
        self, span: trace.Span, time_ns: int, name: str, fields: Mapping[str, Any]
    ) -> None:
        """Find a place for a line whose current span is not one of ours.

        There are four cases: no span at all; one that is not recorded; one of
        another SDK that is open; one that has ended, or began before we knew of it.
        Another SDK's span is asked only for its context: that SDK may have logged the
        line, and hold the span's lock.
        """
        _forks.check()
        context = span.get_span_context()
        if not context.is_valid:
            self._to_process_log(time_ns, name, fields)
        elif context.trace_flags & TraceFlags.SAMPLED:
            if (twin := foreign.twins.get(context.span_id)) is not None:
                twin.pipeline = self  # the pipeline may be another one since then
                twin.add_line(time_ns, name, fields)
            else:
                event = encode_line(self.limits, time_ns, name, fields)
                self._log_span(context, time_ns, [event], 1)

    def _to_process_log(self, time_ns: int, name: str, fields: Mapping[str, Any]) -> None:
        if not (self._keeps_process_log and self.is_open):
            return
        span = self._process_log
        if span is None or not span.is_recording():
            ids = new_trace_id(), new_span_id()
            span = ProcessLog(self, self._own_scope, _names.PROCESS_LOG, *ids, start_ns=time_ns)
            self._process_log = span
        span.add_line(time_ns, name, fields)
        if self.is_exiting:
            self.end_process_log(span)

    def roll(self, is_flush: bool) -> None:  # noqa: FBT001 - a call-back
        """End the current `process log` span: for a flush, or when it is old enough."""
        span = self._process_log
        if span is not None:
            # by a monotonic clock: to set the wall clock back delays no line
            age_ns = span.now_ns() - (span.start_time or 0)
            if is_flush or age_ns >= PROCESS_LOG_S * 1e9:
                self.end_process_log(span)

    def end_process_log(self, span: ProcessLog) -> None:
        """End *span*; the next line outside any span begins another."""
        if span is self._process_log:
            self._process_log = None
        span.end(span.start_time)

    def overflow(self, span: Span, time_ns: int, events: Sequence[bytes]) -> None:
        """Let *events* that one of our spans cannot hold leave at once on a child span."""
        span._pages += 1  # noqa: SLF001 - of our own span
        span._paged_events += len(events)  # noqa: SLF001
        self._log_span(span.context, time_ns, events, span._pages)  # noqa: SLF001

    def _log_span(
        self, parent: SpanContext, time_ns: int, events: Sequence[bytes], number: int
    ) -> None:
        ids = parent.trace_id, new_span_id(), parent.trace_flags
        child = OfLines(self, self._own_scope, _names.LOG_SPAN, *ids, start_ns=time_ns)
        child.trace_state, child._parent = parent.trace_state, parent  # noqa: SLF001 - as the SDK's
        child.set_attribute(_names.LOG_PAGE, number)
        child._encoded_events = list(events)  # noqa: SLF001 - of a span that is made here
        child.end(time_ns)

    # ---- a forked child

    def after_fork(self) -> None:
        """Begin anew in a child: its own ids and resource, without the parent's lines."""
        _diagnostics.after_fork()
        _runtime.ids.seed()
        self._process_log = None
        self._last_calls = LastCalls()
        foreign.twins.clear()  # the parent has the lines of its open spans
        self.ended_spans = 0
        self.resource = in_this_process(self.resource)
        self.spool.resource = encode_resource(self.resource)


class LastCalls:
    """The last calls of foreign processors, which may never return: each in a thread of its own.

    Python 3.12 starts no thread while the interpreter exits, so the threads wait from the
    beginning. A forked child does not have them: there, and in the process that uWSGI forks, Python
    3.12 makes the call in the thread that waits.
    """

    def __init__(self) -> None:
        self._calls: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._waiting = 0  # threads
        self._open: list[Callable[[], None]] = []

    def prepare(self) -> None:
        """Start a thread for one more call. Failure: RuntimeError if there are too many threads."""
        if not (is_green() or _forks.is_before_fork()):
            self._start()
            self._waiting += 1

    def make(self, call: Callable[[], None]) -> None:
        """Let a waiting thread make *call*, which must not raise. Without one, and if no thread
        can start, it is made here.
        """
        self._open.append(call)
        self._calls.put(call)
        self._waiting -= 1
        if self._waiting < 0:
            try:
                self._start()
            except RuntimeError:
                self._serve()

    def wait(self, until: float) -> bool:
        """Wait for all calls, and until then at most; return whether they have returned."""
        return bool(wait_until(lambda: not self._open, until))

    def _start(self) -> None:
        name = "otel_logging processors"
        threading.Thread(target=self._serve, name=name, daemon=True).start()

    def _serve(self) -> None:
        call = self._calls.get()
        try:
            call()
        finally:
            self._open.remove(call)
