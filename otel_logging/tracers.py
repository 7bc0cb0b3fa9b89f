"""The tracer to use where ours is not set up: none, or another SDK's.

It uses only the OpenTelemetry API.
"""

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any, Final
from weakref import ref

from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.trace import Span, SpanKind

from otel_logging import _json, _names
from otel_logging import context as bindings

_INVALID: Final = trace.INVALID_SPAN
#: What an application does with the current span.
_SAID: Final = ("is_recording", "set_attribute", "set_attributes", "add_event", "update_name")
#: OpenTelemetry's own variable for the provider that was set. There is no cheaper way to know that
#: none was, and each stage before set-up asks.
API: Any = trace if hasattr(trace, "_TRACER_PROVIDER") else SimpleNamespace(_TRACER_PROVIDER=trace)
#: What that variable holds if nobody has set a provider: None, once OpenTelemetry was asked.
nobodys: Any = object()
#: Somebody else's provider, and the tracer that it gave us.
_found: "tuple[trace.TracerProvider, ForeignTracer] | None" = None


def other(asked: Any) -> Any:
    """Return the tracer of another SDK's provider, if ours is not set up.

    Without another provider: a tracer that records nothing, for a stage that *asked* for something
    special, since such a stage ends what is bound in it; else None. Looks at the environment once.
    """
    global nobodys, _found
    nothing = NOTHING if asked.is_special else None
    if asked.is_untraced or API._TRACER_PROVIDER is nobodys:  # noqa: SLF001
        return nothing
    nobodys = None  # the first time OpenTelemetry may load one that a variable names
    provider = trace.get_tracer_provider()
    # none is set, or ours is, and is shut down
    if isinstance(provider, trace.ProxyTracerProvider) or getattr(provider, "is_idle", False):
        return nothing
    if _found is None or _found[0] is not provider:
        _found = provider, ForeignTracer(provider.get_tracer(_names.SCOPE))
    return _found[1]


class ForeignTracer:
    """Another SDK's tracer: gives its spans what our spans have by their class."""

    def __init__(self, tracer: trace.Tracer) -> None:
        self._tracer = tracer

    def begin(
        self,
        name: str,
        context: otel_context.Context,
        around: Span,
        kind: SpanKind,
        attributes: Mapping[str, Any],
        links: Any,
        start_time: int | None = None,
    ) -> Any:
        """Start a span inside *around*."""
        given = _json.flat(attributes)
        span: Any = self._tracer.start_span(name, context, kind, given, links, start_time)
        if span is not around and span is not _INVALID:
            span.otel_logging_bound = span.otel_logging_budget = span.otel_logging_watched = None
            span.otel_logging_passed = span.otel_logging_closed = False
            _let_take_any_value(span)
            if not hasattr(span, bindings.ENTRY) and bindings.is_local(around):  # not sampled
                span.otel_logging_entry = bindings.entry_of(around)
        return span


def _let_take_any_value(span: Any) -> None:
    """Let *span*, which ``traced`` returns, take any value as an attribute, as our spans do."""
    kind, found, flat = type(span), ref(span), _json.flat

    def call(method: Any, *args: Any) -> None:
        if (this := found()) is not None:  # always, unless somebody kept the method alone
            method(this, *args)

    span.set_attributes = lambda attributes: call(kind.set_attributes, flat(attributes))
    span.set_attribute = lambda key, value: call(kind.set_attributes, flat({key: value}))
    span.add_event = lambda name, attributes=None, timestamp=None: call(
        kind.add_event, name, flat(attributes or {}), timestamp
    )


def _stand(_: str, __: otel_context.Context, around: Span, *___: Any) -> Span:
    """Stand for a request inside *around*: what is set on it is set on another SDK's span."""
    span = bindings.Unrecorded(around)
    if around.is_recording():
        vars(span).update((each, getattr(around, each)) for each in _SAID)
    return span


#: Where there is no tracing, or none for what an integration begins.
NOTHING: Final = SimpleNamespace(begin=_stand)
