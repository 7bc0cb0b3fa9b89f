"""Spans of another SDK's provider: their lines, their bytes, and the processor that takes them.

In: spans of a provider that somebody else has set. Out: the same spans in our spool. Invariant: a
line calls no method of such a span, since its SDK may hold the span's lock. Deliberately absent:
their sampling.
"""

import weakref
from collections import deque
from collections.abc import Iterable
from contextlib import suppress
from types import ModuleType
from typing import Any, Final, cast
from urllib.parse import urlsplit

from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor
from opentelemetry.sdk.trace import Span as SdkSpan
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, TraceFlags

from otel_logging import _diagnostics, _runtime
from otel_logging import context as bindings
from otel_logging.binding import has_ended
from otel_logging.export.span import Span
from otel_logging.export.span_bytes import make_scope
from otel_logging.settings import Exporter

#: By provider: its processors, where our spans go, and whether the processors send there too.
_known: Final["weakref.WeakKeyDictionary[Any, tuple[Any, Exporter, bool]]"] = (
    weakref.WeakKeyDictionary()
)
_MOST_LOOKED_AT: Final = 1000  # objects: an exporter is near the processor
_OF_EXPORTERS: Final = {"user-agent", "content-type", "content-encoding"}  # any exporter's


#: By span id: twins. A twin is a span of ours that collects the lines of another SDK's open span:
#: to call a method of that span for a line might deadlock, since an SDK logs while it holds the
#: span's lock. The other SDK's span keeps its twin alive. A twin is found by id, because an SDK
#: shows us a copy of a span that has ended.
twins: "weakref.WeakValueDictionary[int, Span]" = weakref.WeakValueDictionary()
_NO_SCOPE: Final = make_scope(InstrumentationScope(""))


def make_twin(context: SpanContext, pipeline: Any) -> Span:
    """Return a span of ours for another SDK's with that *context*; it is never current."""
    ids = context.trace_id, context.span_id, context.trace_flags
    twin = Span(pipeline, _NO_SCOPE, "", *ids)
    twin.trace_state = context.trace_state  # its pages have it, too
    return twin


class AttachedProcessor(SpanProcessor):
    """Takes the spans of somebody else's SDK provider into our pipeline.

    A processor cannot be taken off again: after ``shutdown`` it does nothing.
    """

    def __init__(self, provider: Any) -> None:
        self._provider = provider

    def on_start(self, span: SdkSpan, parent_context: otel_context.Context | None = None) -> None:
        """Give the span what is bound, and its place in its request. Never raises."""
        pipeline = _runtime.current.pipeline
        if pipeline is None:
            return
        try:
            context = span.get_span_context()
            twins[context.span_id] = twin = make_twin(context, pipeline)
            cast(Any, span).otel_logging_twin = twin
            parent = trace.get_current_span(parent_context)
            around = parent.get_span_context()
            if around.is_valid and not around.is_remote:
                setattr(span, bindings.ENTRY, bindings.entry_of(parent))
            arrives = span.kind in bindings.ARRIVING
            if not bindings.is_local(parent) or (arrives and has_ended(parent)):
                bindings.begin(parent, arrives=arrives)
            bindings.set_attributes(span, bindings.bound_attributes())
        except Exception as error:
            _diagnostics.report("spans without what is bound: their SDK is unknown", detail=error)

    def on_end(self, span: ReadableSpan) -> None:
        """Take the ended span to the spool. Never raises."""
        pipeline = _runtime.current.pipeline
        try:
            if pipeline is None:
                if (twin := twins.pop(span.context.span_id, None)) and twin.events:
                    lost = "log lines lost: their span ended after shutdown"
                    _diagnostics.report(lost, len(twin.events))
            elif span.context.trace_flags & TraceFlags.SAMPLED:
                pipeline.ended_elsewhere(span, is_sent=pipeline.is_sent_by(self._provider))
        except Exception as error:
            _diagnostics.report("spans lost: they cannot be encoded", detail=error)

    def force_flush(self, timeout_millis: int = 30000) -> bool:  # noqa: ARG002
        """Do nothing: what has ended is in the spool."""
        return True


def provider_sends_to(ours: Exporter, provider: Any, kind: str = "object") -> bool:
    """Say whether *provider*, of another SDK, sends to where *ours* does.

    Asked for every record and span: the answer is kept, until the provider has other processors.
    """
    many = getattr(provider, "_active_span_processor", None)
    many = many or getattr(provider, "_multi_log_record_processor", None)
    processors = getattr(many, "_span_processors", ()) or getattr(
        many, "_log_record_processors", ()
    )
    if not processors:  # it is another tuple once there is another processor
        return False
    known = _known.get(provider)
    if known is None or known[:2] != (processors, ours):
        known = _known[provider] = processors, ours, sends_to(ours, processors, kind)
    return known[2]


def sends_to(ours: Exporter, processors: Iterable[Any], kind: str) -> bool:
    """Say whether *processors* have an OTLP exporter of that *kind* to the collector of *ours*. It
    is known by its class's name, since few services import the class.

    Searches each processor's attributes and containers, recursively; not closures. Failure: never
    raises. Cost: a millisecond.
    """
    waiting, seen = deque[Any](processors if ours.network else ()), set[int]()
    while waiting and len(seen) < _MOST_LOOKED_AT:
        each = waiting.popleft()
        if id(each) in seen or isinstance(each, (type, ModuleType)):
            continue
        seen.add(id(each))
        with suppress(Exception):  # a proxy may raise
            holds = each if isinstance(each, (list, tuple, dict)) else each.__dict__
            if kind in [of.__name__ for of in each.__class__.__mro__]:
                theirs = getattr(each, "_endpoint", None)
                if type(theirs) is str and _is_at(theirs, ours) and _has_headers_of(ours, each):
                    return True
            waiting.extend(holds.values() if isinstance(holds, dict) else holds)
    return False


def _is_at(url: str, ours: Exporter) -> bool:
    """Say whether *url* leads where *ours* does; gRPC's has no path to compare."""
    (*theirs, path), (*door, own) = _address(url), _address(ours.endpoint)
    return theirs == door and (path == own or not (path and own))


def _address(url: str) -> tuple[str, int, str]:
    """Return host, port and path of *url*; 4317 and 4318 are ports of one collector."""
    try:
        parts = urlsplit(url if "//" in url else f"//{url}")
        port = parts.port or (443 if parts.scheme == "https" else 80)
    except ValueError:
        return url, 0, ""
    host, path = parts.hostname or "", parts._replace(scheme="", netloc="").geturl()
    return "127.0.0.1" if host == "localhost" else host, 4318 if port == 4317 else port, path


def _has_headers_of(ours: Exporter, exporter: Any) -> bool:
    """Say whether *exporter* sends the headers of *ours*: another key or tenant is elsewhere."""
    holder: Any = exporter if hasattr(exporter, "_headers") else getattr(exporter, "_client", None)
    if not hasattr(holder, "_headers"):  # its headers are unknown
        return True
    sent = {name.lower(): value for name, value in dict(holder._headers or ()).items()}  # noqa: SLF001
    own = {name.lower(): value for name, value in ours.headers}
    kept = own.keys() | (sent.keys() - _OF_EXPORTERS)
    if "authorization" not in sent:  # it may be in its URL
        kept -= {"authorization"}
    return all(own.get(name) == sent.get(name) for name in kept)
