"""A span as OTLP bytes: the whole, and its events, links and scope, within OpenTelemetry's limits.

In: spans of ours, events, links and scopes, whoever made them. Out: what ``_otlp`` makes of them,
and events read back for foreign processors. Deliberately absent: when that is (``pipeline``).
"""

# ruff: noqa: SLF001 - the fields of a span have the SDK's own names

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from opentelemetry.sdk.trace import Event
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, SpanKind, Status

from otel_logging import _diagnostics, _json, _otlp, _redact
from otel_logging._values import MAX_RECORD_BYTES, field, plain
from otel_logging.binding import Bound

if TYPE_CHECKING:
    from otel_logging.settings import Limits

# OTLP: SpanFlags, whether it is known if the parent is remote, and whether it is
HAS_IS_REMOTE, IS_REMOTE = 0x100, 0x200

#: Of the links of a span together: a fourth of the span.
LINKS_BYTES: Final = MAX_RECORD_BYTES // 4

#: Of an event: it may fill a span of its own, which has some bytes around it.
EVENT_BYTES: Final = MAX_RECORD_BYTES - 1024

#: W3C Trace Context level 2: the trace id is random. older SDKs (1.27) have no name for it.
RANDOM_TRACE_ID: Final = 0x02

#: What most spans have; to look a kind up in its enum costs as much as a function call.
UNSET: Final = Status()
_INTERNAL: Final = SpanKind.INTERNAL


def encode_span(span: Any, trace_id: bytes) -> bytes:
    """Return an ended *span* of ours (``span_state``) as whoever looked at it left it."""
    parent, outside, status = span._parent_span, span._parent_context, span._status
    events, flags = span._events_at_end, span.trace_flags | HAS_IS_REMOTE
    parent_span_id = 0
    if span._shown_events is not None:
        events = [encode_shown(event) for event in span._shown_events]
    if parent is not None:
        parent_span_id = parent.span_id
    elif outside is not None:
        parent_span_id = outside.span_id
        flags |= IS_REMOTE if outside.is_remote else 0
    dropped = None
    if span.dropped_attributes or span.lost_events or span.dropped_links:
        dropped = (span.dropped_attributes, span.lost_events, span.dropped_links)
    return _otlp.span(
        trace_id,
        span.span_id,
        parent_span_id,
        "" if span.trace_state is None else state_header(span.trace_state),
        flags,
        span._name,
        1 if span._kind is _INTERNAL else otlp_kind(span._kind),
        span._start_time,
        span._end_time or 0,
        _encoded_attributes(span),
        events,
        encode_links(span._links) if span._links else (),
        dropped=dropped,
        status=0 if status is UNSET else status.status_code.value,
        message="" if status is UNSET else status.description or "",
    )


def _encoded_attributes(span: Any) -> bytes:
    bound: Bound | None = span._bound
    own: dict[str, Any] = span._own
    if bound is None:
        return _otlp.attributes(b"\x4a", dict(own)) if own else b""
    if not own:
        return bound.span_bytes
    if bound.attributes.keys().isdisjoint(own):
        return bound.span_bytes + _otlp.attributes(b"\x4a", own)
    return _otlp.attributes(b"\x4a", {**bound.attributes, **own})


class DecodedEvent(Event):
    """An event read back from its bytes."""

    dropped_attributes = 0  # the SDK counts in its containers

    def __init__(self, message: Any) -> None:
        values = {k: frozen(v) for k, v in _otlp.values_of(message.attributes).items()}
        super().__init__(message.name, MappingProxyType(values), message.time_unix_nano)
        self.dropped_attributes = message.dropped_attributes_count


class _Link(Link):
    """A link within the limits."""

    dropped_attributes = 0  # the SDK counts in its containers
    #: Once it has been encoded, where it says nothing: all messages of a connection have the same.
    encoded: bytes | None = None


def events_of(encoded: Iterable[bytes]) -> Any:
    """Decode *encoded* events into messages."""
    from opentelemetry.proto.trace.v1.trace_pb2 import Span as Message

    return Message.FromString(b"".join(encoded)).events


def frozen(value: Any, length: int | None = None) -> Any:
    """Return a plain *value* with tuples for its lists, and its texts at most *length* long."""
    kind = type(value)
    if kind is str:
        if length is None or len(value) <= length:
            return value
        _redact.changed["shortened"] += 1
        return value[:length]
    if kind is list:
        return tuple([frozen(item, length) for item in value])
    if kind is dict:
        return {key: frozen(item, length) for key, item in value.items()}
    return value


def bounded(
    fields: Mapping[str, Any], most: int | None, length: int | None
) -> tuple[Mapping[str, Any], int]:
    """Return *fields* within the limits of their number and text length, and how many are not."""
    dropped = 0
    if most is not None and len(fields) > most:
        dropped = len(fields) - most
        fields = dict(list(fields.items())[:most])
    if length is not None:
        fields = {key: frozen(field(key, value), length) for key, value in fields.items()}
    return fields, dropped


def bounded_link(link: Any, limits: "Limits") -> Link | None:
    """Return *link* within the limits; None for one that leads nowhere and says nothing.

    As the SDK: without valid ids it is kept for its attributes or its trace state.
    """
    if (known := getattr(link, "otel_logging_kept", None)) is not None:
        return known  # type: ignore[no-any-return]
    context, given = link.context, link.attributes
    if not (context and (given or context.is_valid or context.trace_state)):
        return None
    values, dropped = bounded(given or {}, limits.link_attributes, limits.value_length)
    shown = {str(plain(key)): frozen(field(str(key), value)) for key, value in values.items()}
    kept = _Link(context, MappingProxyType(shown))
    kept.dropped_attributes = dropped
    with suppress(AttributeError):  # of one that takes none
        link.otel_logging_kept = kept if given is None else None  # attributes may change
    return kept


def make_scope(scope: InstrumentationScope) -> tuple[bytes, InstrumentationScope]:
    """Return *scope* with its OTLP bytes."""
    name, version, url = (
        part if isinstance(part, str) else str(plain(part))
        for part in (scope.name, scope.version or "", scope.schema_url or "")
    )
    return _otlp.scope(name, version, scope.attributes or {}, url), scope


def otlp_kind(kind: Any) -> int:
    """Return OTLP's number of *kind*, that of an internal span for what is not one."""
    return kind.value + 1 if isinstance(kind, SpanKind) else 1  # OTLP counts from "unspecified"


def encode_event(time_ns: int, name: str, values: Mapping[str, Any], dropped: int = 0) -> bytes:
    """Return what ``_otlp.event`` does, shortened to ``EVENT_BYTES``."""
    return _within(EVENT_BYTES, values, partial(_otlp.event, time_ns, name, dropped=dropped))


def _within(most: int, values: Mapping[str, Any], encode: Callable[..., bytes]) -> bytes:
    encoded = encode(values)
    fits = len(encoded) <= most or not values
    return encoded if fits else encode(_json.fitted(values, most, encode))


def encode_line(limits: "Limits", time_ns: int, name: str, fields: Mapping[str, Any]) -> bytes:
    """Return a line as an event within *limits*."""
    values, dropped = bounded(fields, limits.event_attributes, limits.value_length)
    return encode_event(time_ns, name, values, dropped)


def encode_shown(event: Event, length: int | None = None) -> bytes:
    """Return an event that others have made, or may have changed; its texts at most *length*."""
    dropped = getattr(event, "dropped_attributes", 0)
    values, _ = bounded(event.attributes or {}, None, length)
    return encode_event(event.timestamp, event.name, values, dropped)


def encode_links(links: Sequence[Link]) -> list[bytes]:
    """Return *links* as ``_otlp.link`` encodes them, with their attributes in ``LINKS_BYTES``."""
    encoded = [getattr(e, "encoded", None) or _encode_link(e, e.attributes or {}) for e in links]
    if sum(map(len, encoded)) <= LINKS_BYTES:
        return encoded
    most = LINKS_BYTES // len(links)
    return [_within(most, link.attributes or {}, partial(_encode_link, link)) for link in links]


def _encode_link(link: Link, values: Mapping[str, Any]) -> bytes:
    context = link.context
    try:
        ids = int(context.trace_id), int(context.span_id)
        flags = int(context.trace_flags) | HAS_IS_REMOTE | (IS_REMOTE if context.is_remote else 0)
    except Exception as error:  # it leads nowhere then, and says what it says
        _diagnostics.report("ids of links lost: they are invalid", detail=error)
        ids, flags = (0, 0), 0
    dropped = getattr(link, "dropped_attributes", 0)
    encoded = _otlp.link(*ids, state_header(context.trace_state), flags, values, dropped=dropped)
    if type(link) is _Link and not values:
        link.encoded = encoded
    return encoded


def state_header(state: Any) -> str:
    """Return a trace state as a header has it. Never raises: an invalid one is reported."""
    try:
        return str(state.to_header()) if state else ""
    except Exception as error:
        _diagnostics.report("trace states lost: they are invalid", detail=error)
        return ""


def fitted_attributes(values: Mapping[str, Any], span_bytes: int) -> Mapping[str, Any]:
    """Return *values* with which a span of *span_bytes* has ``MAX_RECORD_BYTES``; they keep a
    fourth of it, whatever else is there.
    """
    encode = partial(_otlp.attributes, b"\x4a")
    size = len(encode(values))
    room = max(MAX_RECORD_BYTES - (span_bytes - size), MAX_RECORD_BYTES // 4)
    return _json.fitted(values, room, encode) if size > room else values
