"""What a span is: its identity and state, as OTLP bytes and as the SDK's ReadableSpan.

In: what a span is begun with. Out: its properties, for foreign processors and
exporters, and its bytes. Invariant: of public names only; what most spans are
never asked for (a ``SpanContext``, decoded events) is made when somebody asks.
Deliberately absent: how it changes while it is open (``span``).
"""

import time
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.trace import (
    Link,
    SpanContext,
    SpanKind,
    Status,
    TraceFlags,
    TraceState,
)

from otel_logging import _forks, _names, _otlp

if TYPE_CHECKING:
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.util.instrumentation import InstrumentationScope

    from otel_logging.export.pipeline import Pipeline

# OTLP: SpanFlags, whether it is known if the parent is remote, and whether it is
HAS_IS_REMOTE, IS_REMOTE = 0x100, 0x200

_UNSET = Status()


class Ids:
    """A span's identity, in the forms in which it is used: numbers, and the trace id's bytes."""

    __slots__ = ("flags", "span_id", "state", "trace_bytes", "trace_id")

    def __init__(
        self,
        trace_id: int,
        span_id: int,
        flags: int = TraceFlags.SAMPLED,
        state: TraceState | None = None,
        trace_bytes: bytes | None = None,
    ) -> None:
        self.trace_id = trace_id
        self.span_id = span_id
        self.flags = flags
        self.state = state
        self.trace_bytes = trace_bytes or trace_id.to_bytes(16, "big")


class Readable(ReadableSpan):
    """The state of a span, and everything that can be read of it."""

    # what most spans never have is the class's
    end_ns: int | None = None
    dropped_count = 0
    _state = _UNSET
    _span_context: SpanContext | None = None
    _parent_context: SpanContext | None = None
    #: The request's outermost span in this process; None: it is this one (no cycle for the GC).
    otel_logging_entry: "Readable | None" = None
    _line_fields: dict[str, str] | None = None
    _page_bytes = 0
    _pages = 0
    _events_at_end: Sequence[bytes] = ()

    def __init__(
        self,
        pipeline: "Pipeline",
        scope: "tuple[bytes, InstrumentationScope]",
        name: str,
        ids: "Ids",
        parent: "Readable | None" = None,
        *,
        parent_context: SpanContext | None = None,
        kind: SpanKind = SpanKind.INTERNAL,
        attributes: Mapping[str, Any] | None = None,
        links: Iterable[Link] | None = None,
        start_ns: int | None = None,
    ) -> None:
        """Begin it. *parent* is one of ours; of another's there is but *parent_context*.

        ReadableSpan's own constructor is left out: it would fill fields that
        every property below answers from ours.
        """
        self.pipeline = pipeline
        self.ids = ids
        self._scope = scope
        self._span_name = name
        self._parent_span = parent
        if parent_context is not None:
            self._parent_context = parent_context
        self._span_kind = kind
        self._given_links = list(links) if links else []
        self._encoded_events: deque[bytes] = deque()
        self._open = [True]  # popped once, by whoever ends it
        self._pid = _forks.pid
        # the wall clock is read once a trace and process; after that time only goes forward
        if parent is None:
            self.clock_ns: int = time.time_ns() - time.perf_counter_ns()
        else:
            self.clock_ns = parent.clock_ns
            self.otel_logging_entry = parent.otel_logging_entry or parent
        self.start_ns = time.perf_counter_ns() + self.clock_ns if start_ns is None else start_ns
        self._values: dict[str, Any] = {}
        if attributes:
            self.set_attributes(attributes)

    def set_attributes(self, attributes: Mapping[str, Any]) -> None:
        """Set *attributes*."""
        raise NotImplementedError  # pragma: no cover - Span's

    @property
    def line_fields(self) -> dict[str, str]:
        """The three trace fields of a line inside this span."""
        fields = self._line_fields
        if fields is None:
            ids = self.ids
            fields = self._line_fields = {
                _names.TRACE_ID: f"{ids.trace_id:032x}",
                _names.SPAN_ID: f"{ids.span_id:016x}",
                _names.TRACE_FLAGS: f"{ids.flags:02x}",
            }
        return fields

    def now_ns(self) -> int:
        """Return the time by this trace's clock, ns since the epoch."""
        return time.perf_counter_ns() + self.clock_ns

    def get_span_context(self) -> SpanContext:
        """Return the context; made when somebody asks, few spans are."""
        context = self._span_context
        if context is None:
            ids = self.ids
            context = self._span_context = SpanContext(
                ids.trace_id,
                ids.span_id,
                is_remote=False,
                trace_flags=TraceFlags(ids.flags),
                trace_state=ids.state,
            )
        return context

    @property
    def is_ours(self) -> bool:
        """Say whether it was begun in this process, and not in the one that forked it."""
        return self._pid == _forks.pid

    def encode(self, events: Iterable[bytes]) -> bytes:
        """Return the ended span, with its encoded *events*, as ``_otlp.span`` has it."""
        ids, parent, links, state = self.ids, self._parent_span, self._given_links, self._state
        outside = self._parent_context
        parent_span_id, remote = 0, 0
        if parent is not None:
            parent_span_id = parent.ids.span_id
        elif outside is not None:
            parent_span_id = outside.span_id
            remote = IS_REMOTE if outside.is_remote else 0
        dropped = None
        if self.dropped_count or links:
            dropped = (self.dropped_count, 0, self.dropped_links)
        return _otlp.span(
            ids.trace_bytes,
            ids.span_id,
            parent_span_id,
            ids.state.to_header() if ids.state else "",
            ids.flags | HAS_IS_REMOTE | remote,
            self._span_name,
            1 if self._span_kind is SpanKind.INTERNAL else self._span_kind.value + 1,
            self.start_ns,
            self.end_ns or 0,
            dict(self._values),
            events,
            [encode_link(link) for link in links[: self.pipeline.limits.links]] if links else (),
            dropped=dropped,
            status=0 if state is _UNSET else state.status_code.value,
            message=state.description or "",
        )

    def adopt_events(self, events: Iterable[bytes]) -> None:
        """Take over encoded *events*: how a page and a stray line become a span."""
        self._encoded_events.extend(events)

    @property
    def scope_bytes(self) -> bytes:
        """The instrumentation scope, as ``_otlp.scope`` encodes it."""
        return self._scope[0]

    # ---- ReadableSpan, for foreign processors and exporters

    @property
    def name(self) -> str:
        """The name."""
        return self._span_name

    @property
    def context(self) -> SpanContext:
        """The context."""
        return self.get_span_context()

    @property
    def kind(self) -> SpanKind:
        """The kind."""
        return self._span_kind

    @property
    def parent(self) -> SpanContext | None:
        """The parent's context; None for a root."""
        parent = self._parent_span
        return self._parent_context if parent is None else parent.get_span_context()

    @property
    def start_time(self) -> int:
        """Ns since the epoch."""
        return self.start_ns

    @property
    def end_time(self) -> int | None:
        """Ns since the epoch; None while it is open."""
        return self.end_ns

    @property
    def status(self) -> Status:
        """The status."""
        return self._state

    @property
    def attributes(self) -> dict[str, Any]:
        """A copy of the attributes."""
        return dict(self._values)

    @property
    def events(self) -> tuple[Event, ...]:
        """The events, decoded: for foreign processors; ours are bytes from the start."""
        return tuple(
            Event(event.name, _otlp.values_of(event.attributes), event.time_unix_nano)
            for event in _events_of([*self._events_at_end, *self._encoded_events])
        )

    @property
    def links(self) -> tuple[Link, ...]:
        """The links."""
        return tuple(self._given_links)

    @property
    def resource(self) -> "Resource":
        """The resource."""
        return self.pipeline.resource

    @property
    def instrumentation_scope(self) -> "InstrumentationScope":
        """The instrumentation scope."""
        return self._scope[1]

    @property
    def dropped_attributes(self) -> int:
        """How many attributes were over the limit."""
        return self.dropped_count

    @property
    def dropped_events(self) -> int:
        """None are: what is too much for one span leaves on another."""
        return 0

    @property
    def dropped_links(self) -> int:
        """How many links are over the limit."""
        most = self.pipeline.limits.links
        return 0 if most is None else max(len(self._given_links) - most, 0)

    def to_json(self, indent: int | None = 4) -> str:
        """Return it as the SDK prints a span."""
        copy = ReadableSpan(
            name=self.name,
            context=self.context,
            parent=self.parent,
            resource=self.resource,
            attributes=self.attributes,
            events=self.events,
            links=self.links,
            kind=self.kind,
            status=self.status,
            start_time=self.start_time,
            end_time=self.end_time,
            instrumentation_scope=self.instrumentation_scope,
        )
        return str(copy.to_json(indent))


def _events_of(encoded: Iterable[bytes]) -> Any:
    from opentelemetry.proto.trace.v1.trace_pb2 import Span as Message

    return Message.FromString(b"".join(encoded)).events


def encode_link(link: Link) -> bytes:
    """Return *link* as ``_otlp.link`` encodes it."""
    context = link.context
    flags = int(context.trace_flags) | HAS_IS_REMOTE | (IS_REMOTE if context.is_remote else 0)
    state = context.trace_state.to_header() if context.trace_state else ""
    return _otlp.link(context.trace_id, context.span_id, state, flags, link.attributes or {})
