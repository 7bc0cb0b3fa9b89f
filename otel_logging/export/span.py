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
from opentelemetry.trace import Link, SpanContext, SpanKind, Status, StatusCode

from otel_logging import _names, _otlp
from otel_logging import context as bindings
from otel_logging._values import plain
from otel_logging.tracing import note_told, was_told

if TYPE_CHECKING:
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.util.instrumentation import InstrumentationScope

    from otel_logging.export.pipeline import Pipeline

PAGE_EVENTS: Final = 500
PAGE_BYTES: Final = 64 << 10  # Jaeger's default limits of a tag's and a UDP packet's size

# OTLP: SpanFlags, whether the parent is known to be remote, and whether it is
_HAS_IS_REMOTE, _IS_REMOTE = 0x100, 0x200

_generation = 0  # of this process: one more in every forked child


def _after_fork() -> None:
    global _generation
    _generation += 1


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


class Span(trace.Span, ReadableSpan):
    """A recording span. Concurrency: any thread; a forked child never ends its parent's."""

    def __init__(
        self,
        pipeline: "Pipeline",
        scope: "tuple[bytes, InstrumentationScope]",
        name: str,
        context: SpanContext,
        parent: SpanContext | None,
        local_parent: "Span | None" = None,
        *,
        kind: SpanKind = SpanKind.INTERNAL,
        attributes: Mapping[str, Any] | None = None,
        links: Sequence[Link] = (),
        start_ns: int | None = None,
    ) -> None:
        # ReadableSpan's own constructor is left out: it would fill fields that
        # every property below answers from ours
        self._pipeline = pipeline
        self._scope = scope
        self._span_name = name
        self._span_context = context
        self._parent_context = parent
        self._span_kind = kind
        self._values: dict[str, Any] = {}
        self._links_given = list(links)
        self._encoded_events: deque[bytes] = deque()
        self._events_at_end: list[bytes] = []
        self._state = Status()
        self._page_bytes = 0
        self._pages = 0
        self._dropped_attributes = 0
        self._open = [True]  # popped once, by whoever ends it
        self._end_ns: int | None = None
        self._generation = _generation
        # the wall clock is read once a trace and process; after that time only goes forward
        if local_parent is None:
            self.clock_ns = time.time_ns() - time.perf_counter_ns()
            entry = self
        else:
            self.clock_ns = local_parent.clock_ns
            entry = getattr(local_parent, bindings.ENTRY)
        setattr(self, bindings.ENTRY, entry)
        self._start_ns = time.perf_counter_ns() + self.clock_ns if start_ns is None else start_ns
        if attributes:
            self.set_attributes(attributes)

    # ---- what a stage and a line of ours need

    @property
    def line_fields(self) -> dict[str, str]:
        """The three trace fields of a line inside this span."""
        fields: dict[str, str] | None = self.__dict__.get("_line_fields")
        if fields is None:
            context = self._span_context
            fields = self._line_fields = {
                _names.TRACE_ID: f"{context.trace_id:032x}",
                _names.SPAN_ID: f"{context.span_id:016x}",
                _names.TRACE_FLAGS: f"{context.trace_flags:02x}",
            }
        return fields

    def now_ns(self) -> int:
        """Return the time by this trace's clock, ns since the epoch."""
        return time.perf_counter_ns() + self.clock_ns

    def add_line(self, time_ns: int, name: str, fields: Mapping[str, Any]) -> None:
        """Add a log line, or any event, wherever it has to go."""
        limits = self._pipeline.limits
        values, dropped = bounded(fields, limits.event_attributes, limits.value_length)
        encoded = _otlp.event(time_ns, name, values, dropped=dropped)
        if not self.is_recording():
            self._pipeline.stray(self, time_ns, [encoded])
            return
        events = self._encoded_events
        events.append(encoded)
        self._page_bytes += len(encoded)
        if (
            self._page_bytes >= PAGE_BYTES
            or len(events) >= self._pipeline.page_events
            or self._end_ns is not None  # it ended meanwhile, perhaps without this event
        ):
            self.turn_page(time_ns)

    def turn_page(self, time_ns: int) -> None:
        """Let the events held so far leave on a child span."""
        page = self._take_events()
        if page:
            self._pipeline.stray(self, time_ns, page)

    def next_page(self) -> int:
        """Return the number of the next child span that holds lines, from 1."""
        self._pages += 1
        return self._pages

    def _take_events(self) -> list[bytes]:
        taken: list[bytes] = []
        events = self._encoded_events
        self._page_bytes = 0
        try:
            while True:
                taken.append(events.popleft())
        except IndexError:
            return taken

    # ---- trace.Span

    def get_span_context(self) -> SpanContext:
        """Return the context."""
        return self._span_context

    def is_recording(self) -> bool:
        """Say whether it is open, in this process."""
        return self._end_ns is None and self._generation == _generation

    def set_attribute(self, key: str, value: Any) -> None:
        """Set one attribute; after the end it is too late, and nothing happens."""
        self.set_attributes({key: value})

    def set_attributes(self, attributes: Mapping[str, Any]) -> None:
        """Set *attributes*; values are copied as plain data at once."""
        if not self.is_recording():
            return
        limits, values = self._pipeline.limits, self._values
        most, length = limits.span_attributes, limits.span_value_length
        for key, value in attributes.items():
            kept = plain(value)
            if length is not None and type(kept) is str:
                kept = kept[:length]
            if most is not None and len(values) >= most and key not in values:
                self._dropped_attributes += 1
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
            self._links_given.append(Link(context, dict(attributes or {})))

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
        trace_id = self._span_context.trace_id
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
        self._end_ns = max(end_ns, self._start_ns)
        self._pipeline.ended(self, self._encode())

    def __exit__(self, kind: Any, error: BaseException | None, trace_back: Any) -> None:
        """End it, and tell of *error*."""
        if isinstance(error, Exception):
            self.record_exception(error)
            self.set_status(StatusCode.ERROR, plain(error))
        self.end()

    def _encode(self) -> bytes:
        events = self._take_events()
        if self._pipeline.processors:
            self._events_at_end = events
        return encode(
            self,
            events,
            links=self._links_given,
            values=dict(self._values),
            link_limit=self._pipeline.limits.links,
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
        return self._span_context

    @property
    def kind(self) -> SpanKind:
        """The kind."""
        return self._span_kind

    @property
    def parent(self) -> SpanContext | None:
        """The parent's context; None for a root."""
        return self._parent_context

    @property
    def start_time(self) -> int:
        """Ns since the epoch."""
        return self._start_ns

    @property
    def end_time(self) -> int | None:
        """Ns since the epoch; None while it is open."""
        return self._end_ns

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
        return tuple(self._links_given)

    @property
    def resource(self) -> "Resource":
        """The resource."""
        return self._pipeline.resource

    @property
    def instrumentation_scope(self) -> "InstrumentationScope":
        """The instrumentation scope."""
        return self._scope[1]

    @property
    def dropped_attributes(self) -> int:
        """How many attributes were over the limit."""
        return self._dropped_attributes

    @property
    def dropped_events(self) -> int:
        """None are: what is too much for one span leaves on another."""
        return 0

    @property
    def dropped_links(self) -> int:
        """How many links are over the limit."""
        most = self._pipeline.limits.links
        return 0 if most is None else max(len(self._links_given) - most, 0)

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
        state = "open" if self._end_ns is None else "ended"
        return f"<Span {self._span_name!r} {self._span_context.span_id:016x} [{state}]>"


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


def encode(
    span: ReadableSpan,
    events: Iterable[bytes],
    *,
    links: Sequence[Link],
    values: Mapping[str, Any],
    link_limit: int | None,
) -> bytes:
    """Return an ended span as OTLP bytes: ours, or another SDK's."""
    context, parent = span.context, span.parent
    flags = int(context.trace_flags) | _HAS_IS_REMOTE
    if parent is not None and parent.is_remote:
        flags |= _IS_REMOTE
    return _otlp.span(
        trace_id=context.trace_id.to_bytes(16, "big"),
        span_id=context.span_id,
        parent_span_id=parent.span_id if parent is not None else 0,
        trace_state=context.trace_state.to_header() if context.trace_state else "",
        flags=flags,
        name=span.name,
        kind=span.kind.value + 1,  # OTLP counts from unspecified
        start_ns=span.start_time or 0,
        end_ns=span.end_time or 0,
        values=values,
        dropped=(span.dropped_attributes, span.dropped_events, span.dropped_links),
        events=events,
        links=[_encode_link(link) for link in links[:link_limit]],
        status=span.status.status_code.value,
        message=span.status.description or "",
    )


def _encode_link(link: Link) -> bytes:
    context = link.context
    flags = int(context.trace_flags) | _HAS_IS_REMOTE | (_IS_REMOTE if context.is_remote else 0)
    state = context.trace_state.to_header() if context.trace_state else ""
    return _otlp.link(context.trace_id, context.span_id, state, flags, link.attributes or {})
