"""Spans of another SDK's provider: their lines, their bytes, and the processor that brings them.

In: spans of a provider that somebody else has set. Out: the same in our spool. Invariant: a line
calls nothing of its span, as the SDK may hold the span's lock. Deliberately absent: their sampling.
"""

import weakref
from collections import deque
from collections.abc import Iterable, Sequence
from contextlib import suppress
from functools import partial
from types import ModuleType
from typing import Any, Final, cast
from urllib.parse import urlsplit

from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor
from opentelemetry.sdk.trace import Span as SdkSpan
from opentelemetry.trace import TraceFlags

from otel_logging import _diagnostics, _otlp, _runtime
from otel_logging import context as bindings
from otel_logging._values import MAX_RECORD_BYTES
from otel_logging.binding import has_ended
from otel_logging.export import encode
from otel_logging.export.span import PAGE_BYTES, take_all
from otel_logging.settings import Exporter

#: By provider: its processors, where ours go, and whether they send there.
_known: Final["weakref.WeakKeyDictionary[Any, tuple[Any, Exporter, bool]]"] = (
    weakref.WeakKeyDictionary()
)
_MOST_LOOKED_AT: Final = 1000  # objects: the exporter is among the nearest


class ForeignLines:
    """The lines of another SDK's open span, which leave with it, or on a page.

    Nothing of the span is called for them: the SDK logs while it holds the span's lock.
    """

    __slots__ = ("__weakref__", "events", "has_ended", "page_bytes", "pages")

    def __init__(self, *, has_ended: bool = False) -> None:
        self.events: list[bytes] = []
        self.page_bytes = 0
        self.pages = 0
        self.has_ended = has_ended

    def add(self, event: bytes, page_events: float) -> list[bytes]:
        """Take a line; return a page that leaves now: it is full, or the span has ended."""
        page = [event]
        if len(event) < PAGE_BYTES:
            self.events.append(event)
            self.page_bytes += len(event)
            if (
                self.page_bytes < PAGE_BYTES
                and len(self.events) < page_events
                and not self.has_ended  # meanwhile, perhaps without this event
            ):
                return []
            page = self._take()
        self.pages += bool(page)
        return page

    def end(self) -> list[bytes]:
        """Return what is left, which leaves with the span: it has ended."""
        self.has_ended = True
        return self._take()

    def _take(self) -> list[bytes]:
        self.page_bytes = 0
        return take_all(self.events)


#: The lines of other SDKs' open spans by span id. The span holds them, so that they go when it
#: goes; found by id, since an SDK shows us the span when it starts and a copy when it ends.
open_lines: "weakref.WeakValueDictionary[int, ForeignLines]" = weakref.WeakValueDictionary()


def watch(span: trace.Span) -> None:
    """Keep the lines of *span*, another SDK's that begins, until it ends."""
    lines = ForeignLines()
    cast(Any, span).otel_logging_lines = lines
    open_lines[span.get_span_context().span_id] = lines


class AttachedProcessor(SpanProcessor):
    """Brings the spans of somebody else's SDK provider into our pipeline.

    An SDK cannot take a processor off again: where nothing is set up it does nothing.
    """

    def __init__(self, provider: Any) -> None:
        self._provider = provider

    def on_start(self, span: SdkSpan, parent_context: otel_context.Context | None = None) -> None:
        """Give it what is bound, and its place in its request. Never raises."""
        if _runtime.current.pipeline is None:
            return
        try:
            watch(span)
            parent = trace.get_current_span(parent_context)
            around = parent.get_span_context()
            if around.is_valid and not around.is_remote:
                setattr(span, bindings.ENTRY, getattr(parent, bindings.ENTRY, None) or parent)
            arrives = span.kind in bindings.ARRIVING
            if not bindings.is_local(parent) or (arrives and has_ended(parent)):
                bindings.begin(parent, arrives=arrives)
            bindings.set_attributes(span, bindings.bound_attributes())
        except Exception as error:
            _diagnostics.report("spans without what is bound: their SDK is unknown", detail=error)

    def on_end(self, span: ReadableSpan) -> None:
        """Bring it to the spool. Never raises."""
        pipeline = _runtime.current.pipeline
        try:
            if pipeline is None:
                if lines := open_lines.pop(span.context.span_id, None):
                    lost = len(lines.end())
                    _diagnostics.report("log lines lost: their span ended after shutdown", lost)
            elif span.context.trace_flags & TraceFlags.SAMPLED:
                pipeline.ended_elsewhere(span, is_sent=pipeline.is_sent_by(self._provider))
        except Exception as error:
            _diagnostics.report("spans lost: they cannot be encoded", detail=error)

    def force_flush(self, timeout_millis: int = 30000) -> bool:  # noqa: ARG002
        """Do nothing: what has ended is in the spool."""
        return True


def processors_of(provider: Any) -> Any:
    """Return the processors of another SDK's *provider*, of tracers or loggers: another tuple, once
    it has one more.
    """
    many = getattr(provider, "_active_span_processor", None)
    many = many or getattr(provider, "_multi_log_record_processor", None)
    return getattr(many, "_span_processors", ()) or getattr(many, "_log_record_processors", ())


def provider_sends_to(ours: Exporter, provider: Any, kind: type = object) -> bool:
    """Say what ``sends_to`` says of another SDK's *provider*: asked for every record and span."""
    if not (processors := processors_of(provider)):
        return False
    known = _known.get(provider)
    if known is None or known[:2] != (processors, ours):
        known = _known[provider] = processors, ours, sends_to(ours, processors, kind)
    return known[2]


def sends_to(ours: Exporter, processors: Iterable[Any], kind: type) -> bool:
    """Say whether *processors* have an OTLP exporter of that *kind* to the collector of *ours*.

    It is looked for in what they hold, and what that holds: in attributes and lists, not in
    closures. Failure: never raises. Cost: a millisecond.
    """
    waiting, seen = deque[Any](processors if ours.network else ()), set[int]()
    while waiting and len(seen) < _MOST_LOOKED_AT:
        each = waiting.popleft()
        if id(each) in seen or isinstance(each, (type, ModuleType)):
            continue
        seen.add(id(each))
        with suppress(Exception):  # of a proxy
            holds = each if isinstance(each, (list, tuple, dict)) else each.__dict__
            if isinstance(each, kind):
                theirs = getattr(each, "_endpoint", None)
                if type(theirs) is str and _collector(theirs) == _collector(ours.endpoint):
                    return True
            waiting.extend(holds.values() if isinstance(holds, dict) else holds)
    return False


def _collector(url: str) -> tuple[str, int]:
    """Return host and port of *url*; 4317 and 4318 are doors of the same collector."""
    try:
        parts = urlsplit(url if "//" in url else f"//{url}")
        port = parts.port or (443 if parts.scheme == "https" else 80)
    except ValueError:
        return url, 0
    host = parts.hostname or ""
    return "127.0.0.1" if host == "localhost" else host, 4318 if port == 4317 else port


def encode_foreign(span: ReadableSpan, trace_id: bytes, events: Sequence[bytes]) -> bytes:
    """Return an ended span of another SDK as ``_otlp.span`` encodes it."""
    context, parent = span.context, span.parent
    flags = int(context.trace_flags) | encode.HAS_IS_REMOTE
    if parent is not None and parent.is_remote:
        flags |= encode.IS_REMOTE
    encoding = partial(
        _otlp.span,
        trace_id,
        context.span_id,
        parent.span_id if parent is not None else 0,
        encode.state_header(context.trace_state),
        flags,
        span.name,
        encode.otlp_kind(span.kind),
        span.start_time or 0,
        max(span.end_time or 0, (span.start_time or 0) + 1),  # as our own
        events=events,
        links=encode.encode_links(span.links),
        dropped=(span.dropped_attributes, span.dropped_events, span.dropped_links),
        status=span.status.status_code.value,
        message=span.status.description or "",
    )
    values = span.attributes or {}
    encoded = encoding(values=values)
    if len(encoded) > MAX_RECORD_BYTES:
        return encoding(values=encode.fitted_attributes(values, len(encoded)))
    return encoded
