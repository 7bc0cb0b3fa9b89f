"""The span: what OpenTelemetry sees of a stage, of public names only.

In: attributes, events and lines while it is open. Out: OTLP bytes when it ends.
Invariant: nothing given to an open span is lost, whichever thread gives it and
whenever it ends: a full page of events leaves at once as a child span, and so
does what arrives after the end. There is no lock (a signal handler or
``__del__`` may log inside any of these methods): ``deque`` and ``list.pop``
are atomic, and who finds the span ended after appending takes the rest along.
Deliberately absent: where the bytes go (``pipeline``).
"""

import os
import time
import traceback
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from opentelemetry import trace
from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.trace import (
    Link,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    TraceState,
)

from otel_logging import _names, _otlp
from otel_logging._values import plain
from otel_logging.tracing import note_told, was_told

if TYPE_CHECKING:
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.util.instrumentation import InstrumentationScope

    from otel_logging.export.pipeline import Pipeline

PAGE_EVENTS: Final = 500
PAGE_BYTES: Final = 64 << 10  # Jaeger's default limits of a tag's and a UDP packet's size

# OTLP: SpanFlags, whether it is known if the parent is remote, and whether it is
HAS_IS_REMOTE, IS_REMOTE = 0x100, 0x200

_UNSET = Status()

_generation = 0  # of this process: one more in every forked child


def _after_fork() -> None:
    global _generation
    _generation += 1


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


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


class Span(trace.Span, ReadableSpan):
    """A recording span. Concurrency: any thread; a forked child never ends its parent's."""

    # what most spans never have is the class's
    end_ns: int | None = None
    dropped_count = 0
    _state = _UNSET
    _span_context: SpanContext | None = None
    _parent_context: SpanContext | None = None
    #: The request's outermost span in this process; None: it is this one (no cycle for the GC).
    otel_logging_entry: "Span | None" = None
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
        parent: "Span | None" = None,
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
        self._generation = _generation
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

    # ---- what a stage and a line of ours need

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

    def add_line(self, time_ns: int, name: str, fields: Mapping[str, Any]) -> None:
        """Add a log line, or any event, wherever it has to go."""
        limits = self.pipeline.limits
        values, dropped = bounded(fields, limits.event_attributes, limits.value_length)
        encoded = _otlp.event(time_ns, name, values, dropped=dropped)
        if not self.is_recording():
            self.pipeline.stray(self, time_ns, [encoded])
            return
        events = self._encoded_events
        events.append(encoded)
        self._page_bytes += len(encoded)
        if (
            self._page_bytes >= PAGE_BYTES
            or len(events) >= self.pipeline.page_events
            or self.end_ns is not None  # it ended meanwhile, perhaps without this event
        ):
            self.turn_page(time_ns)

    def turn_page(self, time_ns: int) -> None:
        """Let the events held so far leave on a child span."""
        page = self._take_events()
        if page:
            self.pipeline.stray(self, time_ns, page)

    def next_page(self) -> int:
        """Return the number of the next child span that holds lines, from 1."""
        self._pages += 1
        return self._pages

    def _take_events(self) -> list[bytes]:
        events = self._encoded_events
        taken: list[bytes] = []
        self._page_bytes = 0
        while events:
            try:
                taken.append(events.popleft())
            except IndexError:  # another thread took the last one
                break
        return taken

    # ---- trace.Span

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

    def is_recording(self) -> bool:
        """Say whether it is open, in this process."""
        return self.end_ns is None and self._generation == _generation

    def set_attribute(self, key: str, value: Any) -> None:
        """Set one attribute; after the end it is too late, and nothing happens."""
        self.set_attributes({key: value})

    def set_attributes(self, attributes: Mapping[str, Any]) -> None:
        """Set *attributes*; values are copied as plain data at once."""
        if not self.is_recording():
            return
        limits, values = self.pipeline.limits, self._values
        most, length = limits.span_attributes, limits.span_value_length
        for key, value in attributes.items():
            kept = plain(value)
            if length is not None and type(kept) is str:
                kept = kept[:length]
            if most is not None and len(values) >= most and key not in values:
                self.dropped_count += 1
            elif key:
                values[key if type(key) is str else str(key)] = kept

    def add_event(
        self, name: str, attributes: Mapping[str, Any] | None = None, timestamp: int | None = None
    ) -> None:
        """Add an event; *timestamp* in ns since the epoch."""
        time_ns = self.now_ns() if timestamp is None else timestamp
        self.add_line(time_ns, str(name), attributes or {})

    def add_link(self, context: SpanContext, attributes: Mapping[str, Any] | None = None) -> None:
        """Add a link while it is open."""
        if context is not None and context.is_valid and self.is_recording():
            self._given_links.append(Link(context, dict(attributes or {})))

    def update_name(self, name: str) -> None:
        """Change the name while it is open."""
        if self.is_recording():
            self._span_name = str(name)

    def set_status(self, status: Status | StatusCode, description: str | None = None) -> None:
        """Set the status; OK is final, and UNSET changes nothing."""
        if isinstance(status, StatusCode):
            status = Status(status, description if status is StatusCode.ERROR else None)
        if (
            self._state.status_code is not StatusCode.OK
            and status.status_code is not StatusCode.UNSET
            and self.is_recording()
        ):
            self._state = status

    def record_exception(
        self,
        exception: BaseException,
        attributes: Mapping[str, Any] | None = None,
        timestamp: int | None = None,
        escaped: bool = False,  # noqa: FBT001, FBT002 - OpenTelemetry's signature
    ) -> None:
        """Add an event that tells of *exception*, unless one of this trace does already."""
        trace_id = self.ids.trace_id
        if was_told(exception, trace_id) or not self.is_recording():
            return
        kind = type(exception)
        module = "" if kind.__module__ == "builtins" else kind.__module__ + "."
        try:
            text = "".join(traceback.format_exception(exception))
            message = str(exception)
        except Exception:  # its __str__ raises
            text = message = plain(exception)
        # OpenTelemetry semantic conventions: exceptions
        fields = {
            "exception.type": module + kind.__qualname__,
            "exception.message": message,
            "exception.stacktrace": text,
            "exception.escaped": str(escaped),
        }
        self.add_event("exception", {**fields, **(attributes or {})}, timestamp)
        note_told(exception, trace_id)

    def end(self, end_time: int | None = None) -> None:
        """End it: encoded and in the spool before this returns. A second call does nothing."""
        try:
            self._open.pop()
        except IndexError:
            return
        end_ns = self.now_ns() if end_time is None else end_time
        if self._generation != _generation:  # the parent process ends it
            return
        self.end_ns = max(end_ns, self.start_ns)
        pipeline = self.pipeline
        events = self._take_events()
        if pipeline.processors:
            self._events_at_end = events
        pipeline.ended(self, self._encode(events))

    def __exit__(self, kind: Any, error: BaseException | None, trace_back: Any) -> None:
        """End it, and tell of *error*."""
        if isinstance(error, Exception):
            self.record_exception(error)
            self.set_status(StatusCode.ERROR, plain(error))
        self.end()

    def _encode(self, events: list[bytes]) -> bytes:
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

    def __repr__(self) -> str:
        state = "open" if self.end_ns is None else "ended"
        return f"<Span {self._span_name!r} {self.ids.span_id:016x} [{state}]>"


def _events_of(encoded: Iterable[bytes]) -> Any:
    from opentelemetry.proto.trace.v1.trace_pb2 import Span as Message

    return Message.FromString(b"".join(encoded)).events


def bounded(
    fields: Mapping[str, Any], most: int | None, length: int | None
) -> tuple[Mapping[str, Any], int]:
    """Return *fields* within the limits of their number and text length, and how many are not."""
    dropped = 0
    if most is not None and len(fields) > most:
        dropped = len(fields) - most
        fields = dict(list(fields.items())[:most])
    if length is not None:
        fields = {k: v[:length] if type(v) is str else v for k, v in fields.items()}
    return fields, dropped


def encode_link(link: Link) -> bytes:
    """Return *link* as ``_otlp.link`` encodes it."""
    context = link.context
    flags = int(context.trace_flags) | HAS_IS_REMOTE | (IS_REMOTE if context.is_remote else 0)
    state = context.trace_state.to_header() if context.trace_state else ""
    return _otlp.link(context.trace_id, context.span_id, state, flags, link.attributes or {})
