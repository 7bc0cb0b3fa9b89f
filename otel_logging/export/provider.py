"""What OpenTelemetry sees of us: a tracer provider, its tracers, a span processor.

In: calls of the OpenTelemetry API by anyone. Out: our spans; for an SDK provider
that somebody else has set, a processor that brings its spans to the same spool.
Invariant: foreign processors, exporters, samplers and limits work on it as on
the SDK's own provider. Deliberately absent: configuration from variables.
"""

import time
from collections.abc import Mapping, Sequence
from typing import Any, Final, cast

from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Span as SdkSpan
from opentelemetry.sdk.trace import SpanProcessor
from opentelemetry.sdk.trace import Tracer as SdkTracer
from opentelemetry.sdk.trace import TracerProvider as SdkTracerProvider
from opentelemetry.sdk.trace.sampling import Sampler, TraceIdRatioBased
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, NonRecordingSpan, SpanKind, TraceFlags

from otel_logging import _forks, _runtime
from otel_logging import context as bindings
from otel_logging.binding import has_ended
from otel_logging.export.ids import LocalSpan, new_span_id
from otel_logging.export.pipeline import Pipeline
from otel_logging.export.span import Span, as_mapping
from otel_logging.export.span_bytes import RANDOM_TRACE_ID, make_scope

_RATIO_MASK: Final = TraceIdRatioBased.TRACE_ID_LIMIT
_INVALID: Final = trace.INVALID_SPAN
_new: Final = object.__new__


class Tracer(SdkTracer):
    """Starts spans for one instrumentation scope.

    The SDK's provider makes and keeps this object, so it has all that others read of a tracer.
    """

    _provider: "TracerProvider"
    _scope: tuple[bytes, InstrumentationScope]
    _is_off = False

    @property
    def resource(self) -> Resource:  # type: ignore[override]  # the SDK keeps a copy
        """The resource of its spans."""
        return self._provider.resource

    def _set_tracer_config(self, tracer_config: Any) -> None:
        super()._set_tracer_config(tracer_config)
        self._is_off = not tracer_config.is_enabled

    def _set_resource(self, resource: Resource) -> None:
        """Do nothing: the resource is the pipeline's, in a forked child too."""

    def start_span(
        self,
        name: str,
        context: otel_context.Context | None = None,
        kind: SpanKind = SpanKind.INTERNAL,
        attributes: Mapping[str, Any] | None = None,
        links: Sequence[Link] | None = None,
        start_time: int | None = None,
        record_exception: bool = True,  # noqa: FBT001, FBT002 - OpenTelemetry's signature
        set_status_on_exception: bool = True,  # noqa: FBT001, FBT002
    ) -> trace.Span:
        """Start a span; what is bound is on it. See OpenTelemetry's ``Tracer``."""
        # an invalid value may raise when asked for its truth: an array does
        if not isinstance(kind, SpanKind):
            kind = SpanKind.INTERNAL
        if attributes is not None:
            attributes = as_mapping(attributes)
        around: Any = trace.get_current_span(context)
        if type(around) is bindings.Standing:
            around = around.now
            context = trace.set_span_in_context(around, context)
        arrives = kind in bindings.ARRIVING
        if not bindings.is_local(around):
            outside = around.get_span_context().is_valid
            if arrives or outside or bindings.state().has_requests:
                bindings.begin(around, arrives=arrives)
        elif arrives and has_ended(around):
            bindings.begin(around, arrives=True)
            around = trace.INVALID_SPAN
            context = trace.set_span_in_context(around, context)
        span: Any = self.begin(name, context, around, kind, attributes, links, start_time)
        if isinstance(span, Span) and not (record_exception and set_status_on_exception):
            span.on_exception = record_exception, set_status_on_exception
        return cast(trace.Span, span)

    def begin(
        self,
        name: str,
        context: otel_context.Context | None,
        around: trace.Span,
        kind: SpanKind,
        attributes: Mapping[str, Any] | None,
        links: Sequence[Link] | None,
        start_time: int | None = None,
    ) -> Any:
        """Start a span inside *around*, which is current in *context*; every stage comes here."""
        if not _forks.mark[0]:
            _forks.check()  # otherwise two children of one process would make the same ids
        pipeline = (runtime := _runtime.current).pipeline
        if pipeline is None or not pipeline.is_open or self._is_off:
            return bindings.Unrecorded(around)
        parent: Any = None
        outside: Any = None
        if around is not _INVALID and getattr(around, "otel_logging_is_ours", False):
            parent = around
            trace_id, flags, state = parent.trace_id, parent.trace_flags, parent.trace_state
        elif around is not _INVALID and (outside := around.get_span_context()).is_valid:
            trace_id, state = outside.trace_id, outside.trace_state
            flags = outside.trace_flags & (TraceFlags.SAMPLED | RANDOM_TRACE_ID)
        else:
            outside, state, trace_id = None, None, runtime.random_bits(128) or 1
            flags = pipeline.root_flags | (trace_id & _RATIO_MASK < pipeline.root_bound)
        recording = flags & 1
        if pipeline.asks_sampler:
            result = _ask(pipeline.sampler, context, trace_id, name, kind, attributes, links)
            flags, recording = flags & ~1 | result.decision.is_sampled(), result.decision.value
            state, attributes = result.trace_state, result.attributes
        if not recording:
            span: Any = _Unrecorded()
            span.trace_id, span.trace_flags, span.trace_state = trace_id, flags, state
            span.otel_logging_watched = False  # unless it has a budget
            if parent or (outside and bindings.is_local(around)):
                span.otel_logging_entry = bindings.entry_of(around)
            return span
        span_id = runtime.random_bits(64) or 1
        span = _new(pipeline.span_type)  # in two steps: a class that is called takes longer
        span.__init__(
            pipeline, self._scope, name, trace_id, span_id, flags, kind, parent, start_time
        )
        if state or outside:
            span.trace_state, span._parent_context = state, outside  # noqa: SLF001 - as the SDK's
        span.begin_with(attributes, links)
        if pipeline.processors:
            pipeline.started(span, context)
        return span


def _ask(
    sampler: Sampler, context: Any, trace_id: int, name: str, kind: Any, given: Any, links: Any
) -> Any:
    """Ask OpenTelemetry's *sampler* about a span with what is bound and the attributes *given*."""
    values = {**bindings.bound_attributes(), **as_mapping(given)}
    return sampler.should_sample(
        context, trace_id, name, kind, values, () if links is None else links
    )


class _Unrecorded(LocalSpan, NonRecordingSpan):
    """A span that is not recorded, but has a place in its request, and an end."""

    __init__ = object.__init__  # NonRecordingSpan's takes a context: few are asked for one
    end_time = None

    @property
    def span_id(self) -> int:  # type: ignore[override]  # it can be set
        """Its id, made on demand, without a lock that a forked child could wait for."""
        known: dict[str, int] = self.__dict__
        return known.get("span_id") or known.setdefault("span_id", new_span_id())

    @property
    def clock_ns(self) -> int:
        """The clock of a recorded span below it."""
        return time.time_ns() - time.perf_counter_ns()

    def end(self, end_time: int | None = None) -> None:  # noqa: ARG002
        """End it."""
        self.otel_logging_closed = True


# libraries ask whether a span is the SDK's before they read it; ours can be read as one
SdkSpan.register(Span)


class TracerProvider(SdkTracerProvider):
    """The SDK's provider with our tracers: ``isinstance`` checks and ``sampler`` hold.

    Scope: process. OpenTelemetry lets a provider be set once, so this one stays
    through ``shutdown`` and another set-up: its tracers follow the runtime's pipeline.
    """

    def __init__(self, pipeline: Pipeline) -> None:
        self._first = pipeline
        super().__init__(
            sampler=pipeline.sampler, resource=pipeline.resource, shutdown_on_exit=False
        )
        self._disabled = False  # OTEL_SDK_DISABLED is read by set-up; a test captures nevertheless

    @property
    def _pipeline(self) -> Pipeline:
        return _runtime.current.pipeline or self._first

    @property
    def sampler(self) -> Sampler:
        """The sampler, which may be replaced."""
        return self._pipeline.sampler

    @sampler.setter
    def sampler(self, sampler: Sampler) -> None:
        if sampler is not self._pipeline.sampler:  # the SDK's constructor assigns it again
            self._pipeline.sampler = sampler

    @property
    def is_idle(self) -> bool:
        """Say whether nothing is set up any more."""
        return _runtime.current.pipeline is None or not _runtime.current.pipeline.is_open

    @property
    def resource(self) -> Resource:
        """The resource of this process."""
        return self._pipeline.resource

    def get_tracer(
        self,
        instrumenting_module_name: str,
        instrumenting_library_version: str | None = None,
        schema_url: str | None = None,
        attributes: Mapping[str, Any] | None = None,
    ) -> Tracer:
        """Return a tracer for an instrumentation scope."""
        made: Any = super().get_tracer(
            instrumenting_module_name, instrumenting_library_version, schema_url, attributes
        )
        if type(made) is SdkTracer:  # a new one; the provider keeps it, and may switch it off
            scope = made._instrumentation_scope  # noqa: SLF001 - it is to be ours
            vars(made).update(_provider=self, _scope=make_scope(scope))
            made.__class__ = Tracer
            if hasattr(made, "_tracer_config"):  # pragma: no branch - older SDKs (1.27) have none
                made._set_tracer_config(made._tracer_config)  # noqa: SLF001
        return cast(Tracer, made)

    def add_span_processor(self, span_processor: SpanProcessor) -> None:
        """Show every span that starts and ends from here on to *span_processor* too."""
        super().add_span_processor(span_processor)  # for its force_flush and shutdown
        if _runtime.current.pipeline is not None:
            _runtime.current.pipeline.add_processor(span_processor)

    def force_flush(self, timeout_millis: int = 30000) -> bool:
        """Deliver what has ended, and let foreign processors do the same."""
        began = time.monotonic()
        pipeline = _runtime.current.pipeline
        flushed = super().force_flush(timeout_millis)
        left_s = max(timeout_millis / 1000 - (time.monotonic() - began), 0.0)
        return (pipeline is None or pipeline.on_flush(left_s)) and flushed
