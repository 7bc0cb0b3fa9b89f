"""What the OpenTelemetry SDK sees of us: a tracer provider, its tracers, a span processor.

In: calls of the OpenTelemetry API by anyone. Out: our spans; for an SDK provider
that somebody else has set, a processor that brings its spans to the same spool.
Invariant: foreign processors, exporters, samplers and limits work on it as on
the SDK's own provider. Deliberately absent: configuration from variables.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from os import getpid
from typing import Any, TypeVar, cast

from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor
from opentelemetry.sdk.trace import Span as SdkSpan
from opentelemetry.sdk.trace import Tracer as SdkTracer
from opentelemetry.sdk.trace import TracerProvider as SdkTracerProvider
from opentelemetry.sdk.trace.sampling import (
    ALWAYS_OFF,
    ALWAYS_ON,
    DEFAULT_OFF,
    DEFAULT_ON,
    ParentBased,
    Sampler,
    TraceIdRatioBased,
)
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, NonRecordingSpan, SpanContext, SpanKind, TraceFlags

from otel_logging import _decorate, _forks, _trouble
from otel_logging import context as bindings
from otel_logging.export.pipeline import (
    Pipeline,
    lines_of_ended,
    new_span_id,
    new_trace_id,
    watch,
)
from otel_logging.export.readable import RANDOM_TRACE_ID, Ids, make_scope
from otel_logging.export.span import Span, as_mapping

_F = TypeVar("_F", bound=Callable[..., Any])


def make_sampler(name: str, ratio: float) -> Sampler:
    """Return OpenTelemetry's sampler of that name (``OTEL_TRACES_SAMPLER``)."""
    return {
        "always_on": ALWAYS_ON,
        "always_off": ALWAYS_OFF,
        "traceidratio": TraceIdRatioBased(ratio),
        "parentbased_always_on": DEFAULT_ON,
        "parentbased_always_off": DEFAULT_OFF,
        "parentbased_traceidratio": ParentBased(TraceIdRatioBased(ratio)),
    }[name]


class Tracer(SdkTracer):
    """Starts spans for one instrumentation scope.

    Made by the SDK's provider, which keeps it: what others read of a tracer is there.
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
        record_exception: bool = True,  # noqa: ARG002, FBT001, FBT002 - OpenTelemetry's signature
        set_status_on_exception: bool = True,  # noqa: ARG002, FBT001, FBT002
    ) -> trace.Span:
        """Start a span; what is bound is on it. See OpenTelemetry's ``Tracer``."""
        if getpid() != _forks.pid:
            _forks.check()  # two children of one process would have the same ids
        around = trace.get_current_span(context)
        pipeline = self._provider.pipeline
        if self._is_off or not pipeline.is_open:
            return NonRecordingSpan(around.get_span_context())
        arrives = kind in bindings.ARRIVING
        if arrives and bindings.has_ended(around):
            bindings.begin(around, arrives=True)
            around = trace.INVALID_SPAN
            context = trace.set_span_in_context(around, context)
        of: Ids | None = getattr(around, "ids", None)  # isinstance costs ten times that: an ABC
        outside = None
        if of is not None:
            ids = Ids(of.trace_id, new_span_id(), of.flags, of.state, of.trace_bytes)
        else:
            outside = around.get_span_context()
            if outside.is_valid:
                flags = outside.trace_flags & (TraceFlags.SAMPLED | RANDOM_TRACE_ID)
                ids = Ids(outside.trace_id, new_span_id(), flags, outside.trace_state)
            else:
                outside = None
                ids = Ids(new_trace_id(), new_span_id())
            if (arrives or outside or bindings.state().has_requests) and not bindings.is_local(
                around
            ):
                bindings.begin(around, arrives=arrives)
        if bindings.bound() or bindings.job_tag() is not None:
            bound = bindings.bound_attributes()
            attributes = {**bound, **as_mapping(attributes)} if attributes else bound
        recording = bool(ids.flags & TraceFlags.SAMPLED)
        sampler = self._provider.sampler
        if sampler is not DEFAULT_ON:  # which would decide just this, at ten times the cost
            result = sampler.should_sample(
                context, ids.trace_id, name, kind, attributes, links or ()
            )
            decision: Any = result.decision  # its methods have no types
            ids.flags = ids.flags & RANDOM_TRACE_ID | decision.is_sampled()
            ids.state = result.trace_state
            recording, attributes = decision.is_recording(), result.attributes
        if not recording:
            return _Unrecorded(
                SpanContext(ids.trace_id, ids.span_id, False, TraceFlags(ids.flags), ids.state),  # noqa: FBT003
                bindings.entry_of(around) if bindings.is_local(around) else None,
            )
        span = pipeline.span_type(
            pipeline,
            self._scope,
            name,
            ids,
            None if of is None else cast(Span, around),
            parent_context=outside,
            kind=kind,
            attributes=attributes,
            links=links,
            start_ns=start_time,
        )
        if pipeline.processors:
            pipeline.started(span, context)
        return span

    # the SDK's is a context manager that also decorates coroutine functions
    def start_as_current_span(  # type: ignore[override]
        self,
        name: str,
        context: otel_context.Context | None = None,
        kind: SpanKind = SpanKind.INTERNAL,
        attributes: Mapping[str, Any] | None = None,
        links: Sequence[Link] | None = None,
        start_time: int | None = None,
        record_exception: bool = True,  # noqa: FBT001, FBT002 - OpenTelemetry's signature
        set_status_on_exception: bool = True,  # noqa: FBT001, FBT002
        end_on_exit: bool = True,  # noqa: FBT001, FBT002
    ) -> "_CurrentSpan":
        """Start a span and make it the current one. See OpenTelemetry's ``Tracer``."""

        @contextmanager
        def current() -> Iterator[trace.Span]:
            span = self.start_span(name, context, kind, attributes, links, start_time)
            with trace.use_span(
                span,
                end_on_exit=end_on_exit,
                record_exception=record_exception,
                set_status_on_exception=set_status_on_exception,
            ):
                yield span

        return _CurrentSpan(current)


class _Unrecorded(NonRecordingSpan):
    """A span that is not recorded, and yet has its place in its request, and an end."""

    otel_logging_closed = False

    def __init__(self, context: SpanContext, entry: trace.Span | None) -> None:
        super().__init__(context)
        self.otel_logging_entry = entry

    def end(self, end_time: int | None = None) -> None:  # noqa: ARG002
        """End it."""
        self.otel_logging_closed = True


# libraries ask whether a span is the SDK's before they look at it; ours can be read as one
SdkSpan.register(Span)


class _CurrentSpan:
    """A context manager, and a decorator of any callable."""

    def __init__(self, make: Callable[[], Any]) -> None:
        self._make = make
        self._entered: list[Any] = []

    def __enter__(self) -> trace.Span:
        entered = self._make()
        self._entered.append(entered)
        span: trace.Span = entered.__enter__()
        return span

    def __exit__(self, *error: Any) -> bool | None:
        result: bool | None = self._entered.pop().__exit__(*error)
        return result

    def __call__(self, function: _F) -> _F:
        return _decorate.around(function, self._make)


class TracerProvider(SdkTracerProvider):
    """The SDK's provider with our tracers: ``isinstance`` checks and ``sampler`` hold.

    Scope: process. OpenTelemetry lets a provider be set once, so this one stays
    through ``shutdown`` and another set-up: its tracers follow ``pipeline``.
    """

    def __init__(self, sampler: Sampler, pipeline: Pipeline) -> None:
        self.pipeline = pipeline
        super().__init__(sampler=sampler, resource=pipeline.resource, shutdown_on_exit=False)
        self._disabled = False  # set-up has read OTEL_SDK_DISABLED; a test captures all the same

    @property
    def is_idle(self) -> bool:
        """Say whether nothing is set up any more."""
        return not self.pipeline.is_open

    @property
    def resource(self) -> Resource:
        """The resource of this process."""
        return self.pipeline.resource

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
        self.pipeline.processors += (span_processor,)

    def force_flush(self, timeout_millis: int = 30000) -> bool:
        """Bring what has ended to the collector, and let foreign processors do the same."""
        began = time.monotonic()
        self.pipeline.show_lines()
        flushed = super().force_flush(timeout_millis)
        left_s = max(timeout_millis / 1000 - (time.monotonic() - began), 0.0)
        return self.pipeline.on_flush(left_s) and flushed


class AttachedProcessor(SpanProcessor):
    """Brings the spans of somebody else's SDK provider into our pipeline.

    An SDK cannot take a processor off again: without a pipeline it does nothing.
    """

    def __init__(self) -> None:
        self.pipeline: Pipeline | None = None

    def on_start(self, span: SdkSpan, parent_context: otel_context.Context | None = None) -> None:
        """Give it what is bound, and its place in its request. Never raises."""
        if self.pipeline is None:
            return
        try:
            watch(span)
            parent = trace.get_current_span(parent_context)
            around = parent.get_span_context()
            if around.is_valid and not around.is_remote:
                setattr(span, bindings.ENTRY, getattr(parent, bindings.ENTRY, None) or parent)
            arrives = span.kind in bindings.ARRIVING
            if not bindings.is_local(parent) or (arrives and bindings.has_ended(parent)):
                bindings.begin(parent, arrives=arrives)
            bindings.set_attributes(span, bindings.bound_attributes())
        except Exception as error:
            _trouble.report("spans without what is bound: their SDK is unknown", detail=error)

    def on_end(self, span: ReadableSpan) -> None:
        """Bring it to the spool. Never raises."""
        try:
            if self.pipeline is None:
                lost = lines_of_ended(span.context)
                if lost:
                    _trouble.report("log lines lost: their span ended after shutdown", len(lost))
            elif span.context.trace_flags & TraceFlags.SAMPLED:
                self.pipeline.ended_elsewhere(span)
        except Exception as error:
            _trouble.report("spans lost: they cannot be encoded", detail=error)

    def force_flush(self, timeout_millis: int = 30000) -> bool:  # noqa: ARG002
        """Do nothing: what has ended is in the spool."""
        return True
