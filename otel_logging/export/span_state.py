"""What a span is: its identity and state, as the SDK's ReadableSpan.

In: what a span is begun with. Out: its properties. Invariant: its fields have the
SDK's own names, so that what others assign there (``span._attributes = redacted``) is what leaves.
Deliberately absent: how it changes while it is open (``span``), its bytes (``span_bytes``).
"""

import copy
import time
import warnings
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.sdk.util.instrumentation import InstrumentationInfo, InstrumentationScope
from opentelemetry.trace import Link, SpanContext, SpanKind, Status, TraceFlags

from otel_logging import _diagnostics, _forks, _json, _otlp
from otel_logging.binding import Bound
from otel_logging.export import span_bytes
from otel_logging.export.ids import LocalSpan
from otel_logging.processors import fields_of

if TYPE_CHECKING:
    from opentelemetry.sdk.resources import Resource


_UNSET = span_bytes.UNSET
_LAST_NS = (1 << 64) - 2  # the end comes after the start


class Readable(LocalSpan, ReadableSpan):  # type: ignore[misc]  # the SDK keeps a context
    """The state of a span, and everything that can be read of it.

    What is a field of the SDK's ``ReadableSpan`` is one here, or a property that
    can be assigned: its own properties (``name``, ``status``...) read them.
    """

    # every stage reads these: a slot is read in a tenth of the time of a class attribute, or of a
    # ``__dict__`` that somebody has looked at
    __slots__ = (
        *("_bound", "_encoded_events", "_end_time", "_events_at_end", "_kind", "_line_end"),
        *("_name", "_open", "_own", "_page_bytes", "_parent_context", "_parent_span", "_pid"),
        *("_scope", "_shown_events", "_start_time", "_status", "clock_ns", "otel_logging_entry"),
        *("otel_logging_token", "otel_logging_watched", "pipeline", "span_id", "trace_flags"),
        *("trace_id", "trace_state"),
    )

    _end_time: int | None
    _status: Status
    _parent_context: SpanContext | None
    #: What was bound where it began; its bytes are shared, until somebody looks at the attributes.
    _bound: Bound | None
    _events_at_end: Sequence[bytes]
    #: The events of an ended span, once they were read: the reader may have changed them.
    _shown_events: list[Event] | None
    # what most spans never have is the class's
    dropped_attributes = 0  # the SDK counts in its containers
    lost_events = 0  # of another SDK's span
    dropped_links = 0
    _links: Sequence[Link] = ()
    _line_end: bytes | None
    _pages = _paged_events = 0
    _own_resource: "Resource | None" = None

    def __init__(
        self,
        pipeline: Any,
        scope: tuple[bytes, InstrumentationScope],
        name: str,
        trace_id: int,
        span_id: int,
        flags: int = TraceFlags.SAMPLED,
        kind: SpanKind = SpanKind.INTERNAL,
        parent: "Readable | None" = None,
        start_ns: int | None = None,
    ) -> None:
        """Begin it. *pipeline*: a ``Pipeline``. *parent* is a span of ours; another SDK's parent is
        known by its context alone.

        ReadableSpan's own constructor is left out: it would make what most spans
        are never asked for.
        """
        self.pipeline = pipeline
        self._scope = scope
        self._name = name
        self.trace_id = trace_id
        self.span_id = span_id
        self.trace_flags = flags
        self._kind = kind
        self._parent_span = parent
        self._own: dict[str, Any] = {}
        self._end_time = self._parent_context = self._bound = self._shown_events = None
        self.otel_logging_watched = self.otel_logging_entry = self.trace_state = None
        self._status, self._events_at_end = _UNSET, ()
        self._line_end, self._page_bytes = None, 0
        self._encoded_events: list[bytes] = []
        self._open = [True]  # popped once, by whoever ends it
        self._pid = _forks.pid
        # the wall clock is read once a trace and process; after that time only goes forward
        if parent is None:
            now_ns = time.time_ns()
            self.clock_ns: int = now_ns - time.perf_counter_ns()
        else:
            self.clock_ns = parent.clock_ns
            self.otel_logging_entry = entry = parent.otel_logging_entry or parent
            entry.otel_logging_stages += 1
            now_ns = time.perf_counter_ns() + parent.clock_ns
        self._start_time: int = now_ns if start_ns is None else self.as_ns(start_ns)

    def add_links(self, links: Iterable[Link]) -> None:
        """Add *links* within the limits; what is not a link is counted and reported."""
        try:
            for link in links:
                self._add_link(link)
        except Exception as error:
            _diagnostics.report("links lost: they are invalid", detail=error)

    def _add_link(self, link: Any) -> None:
        limits = self.pipeline.limits
        try:
            added = span_bytes.bounded_link(link, limits)
        except Exception as error:
            _diagnostics.report("links lost: they are invalid", detail=error)
            return
        if added is not None:
            if limits.links is not None and len(self._links) >= limits.links:
                self.dropped_links += 1
            else:
                self._links = [*self._links, added]

    @property
    def dropped_events(self) -> int:
        """How many are not on it: for other exporters, those that have left on pages, too."""
        return self.lost_events + self._paged_events

    @property
    def is_silent(self) -> bool:
        """Whether nothing was logged or opened in it, and no foreign processor has seen it."""
        used = self._encoded_events or self._pages or self.otel_logging_last
        return not (used or self.otel_logging_stages or self.pipeline.processors)

    @property
    def last_ns(self) -> int:
        """When the last stage in it ended or its last line was logged, ns; 0: nothing was."""
        return max(self.otel_logging_last, *map(_otlp.time_of, self._encoded_events[-1:]), 0)

    @property
    def line_fields(self) -> dict[str, str]:
        """The three trace fields of a line inside this span."""
        return fields_of(self)

    @property
    def line_end(self) -> bytes:
        """What a line of JSON inside this span ends with: the three."""
        end = self._line_end
        if end is None:
            end = self._line_end = b"," + _json.dumps(self.line_fields)[1:]
        return end

    def now_ns(self) -> int:
        """Return the time by this trace's clock, ns since the epoch."""
        return time.perf_counter_ns() + self.clock_ns

    def as_ns(self, given: Any) -> int:
        """Return a time that somebody gave as ns since the epoch: the nearest that spans can have;
        now, where it is not a number.
        """
        try:
            is_one = type(given) is int and 0 < given < _LAST_NS
            return given if is_one else min(max(0, int(given)), _LAST_NS)
        except Exception:
            return self.now_ns()

    # ---- what ReadableSpan's properties read

    @property
    def attributes(self) -> Mapping[str, Any]:
        """A copy of the attributes, not to be changed."""
        return MappingProxyType(dict(self._attributes or ()))

    @property
    def _attributes(self) -> dict[str, Any]:
        bound, own = self._bound, self._own
        if bound is not None:  # in place: another thread may set one meanwhile
            for key, value in bound.attributes.items():
                own.setdefault(key, value)
            self._bound = None
        return own

    @_attributes.setter
    def _attributes(self, attributes: dict[str, Any]) -> None:
        self._own, self._bound = attributes, None

    @property
    def _parent(self) -> SpanContext | None:
        parent = self._parent_span
        return self._parent_context if parent is None else parent.get_span_context()

    @_parent.setter
    def _parent(self, context: SpanContext | None) -> None:
        self._parent_span, self._parent_context = None, context

    @property
    def _events(self) -> Sequence[Event]:
        # for foreign processors: ours are bytes from the start
        if self._shown_events is not None:
            return self._shown_events
        encoded = [*self._events_at_end, *self._encoded_events]
        events: list[Event] = list(map(span_bytes.DecodedEvent, span_bytes.events_of(encoded)))
        if self._end_time is not None:
            self._shown_events = events
        return events

    @_events.setter
    def _events(self, events: Iterable[Event]) -> None:
        if self._end_time is None:
            self._encoded_events = [span_bytes.encode_shown(event) for event in events]
        else:
            self._shown_events = list(events)

    @property
    def _resource(self) -> "Resource":
        return self._own_resource or self.pipeline.resource

    @_resource.setter
    def _resource(self, resource: "Resource") -> None:
        self._own_resource = resource  # for other exporters: the spool has the process's

    @property
    def _instrumentation_scope(self) -> InstrumentationScope:
        return self._scope[1]

    @_instrumentation_scope.setter
    def _instrumentation_scope(self, scope: InstrumentationScope) -> None:
        self._scope = span_bytes.make_scope(scope)

    @property  # what a scope was called before OpenTelemetry 1.11: some exporters still read it
    def _instrumentation_info(self) -> InstrumentationInfo:  # type: ignore[override]
        # as the SDK does, whose class warns. ``catch_warnings`` would change other threads' filters
        warnings.filterwarnings(
            "ignore", ".*You should use InstrumentationScope", DeprecationWarning, "otel_logging"
        )
        scope = self._scope[1]
        return InstrumentationInfo(scope.name, scope.version or "", scope.schema_url)

    def __deepcopy__(self, memo: dict[int, Any]) -> ReadableSpan:
        """Return an ended span as a ``ReadableSpan`` of its own; an open one is itself."""
        if self._end_time is None:
            return self
        same = ("name", "context", "parent", "resource", "kind", "status", "start_time", "end_time")
        return ReadableSpan(
            **{field: getattr(self, field) for field in same},
            attributes=copy.deepcopy(dict(self.attributes), memo),
            events=[Event(e.name, dict(e.attributes or {}), e.timestamp) for e in self.events],
            links=[Link(link.context, dict(link.attributes or {})) for link in self.links],
            instrumentation_info=self._instrumentation_info,
            instrumentation_scope=self.instrumentation_scope,
        )
