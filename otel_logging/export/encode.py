"""Parts of a span as bytes: events, links, scopes, within OpenTelemetry's limits.

In: events, links and scopes, whoever made them. Out: what ``_otlp`` makes of them, and events read
back for foreign processors. Deliberately absent: the span itself (``readable``).
"""

import warnings
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from opentelemetry.sdk.trace import Event
from opentelemetry.sdk.util.instrumentation import InstrumentationInfo, InstrumentationScope
from opentelemetry.trace import Link, SpanKind

from otel_logging import _json, _otlp
from otel_logging._values import MAX_RECORD_BYTES, plain

if TYPE_CHECKING:
    from otel_logging.settings import Limits

# OTLP: SpanFlags, whether it is known if the parent is remote, and whether it is
HAS_IS_REMOTE, IS_REMOTE = 0x100, 0x200

#: Of the links of a span together: a fourth of the span.
LINKS_BYTES: Final = MAX_RECORD_BYTES // 4

#: W3C Trace Context level 2: the trace id is random. older SDKs (1.27) have no name for it.
RANDOM_TRACE_ID: Final = 0x02


class DecodedEvent(Event):
    """An event read back from its bytes."""

    dropped_attributes = 0  # the SDK counts in its containers

    def __init__(self, message: Any) -> None:
        values = {k: frozen(v) for k, v in _otlp.values_of(message.attributes).items()}
        super().__init__(message.name, MappingProxyType(values), message.time_unix_nano)
        if message.dropped_attributes_count:
            self.dropped_attributes = message.dropped_attributes_count


class _Link(Link):
    """A link within the limits."""

    dropped_attributes = 0  # the SDK counts in its containers


def events_of(encoded: Iterable[bytes]) -> Any:
    """Decode *encoded* events into messages."""
    from opentelemetry.proto.trace.v1.trace_pb2 import Span as Message

    return Message.FromString(b"".join(encoded)).events


def frozen(value: Any, length: int | None = None) -> Any:
    """Return a plain *value* with tuples for its lists, and its texts at most *length* long."""
    kind = type(value)
    if kind is str:
        return value if length is None else value[:length]
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
        fields = {key: frozen(plain(value), length) for key, value in fields.items()}
    return fields, dropped


_NOTHING: Final[Mapping[str, Any]] = MappingProxyType({})


def bounded_link(link: Any, limits: "Limits") -> Link | None:
    """Return *link* within the limits; None for one that leads nowhere and says nothing.

    As the SDK: without valid ids it is kept for its attributes or its trace state.
    """
    context, given = link.context, link.attributes
    if not (context and (context.is_valid or given or context.trace_state)):
        return None
    if not given:  # the usual case
        return _Link(context, _NOTHING)
    values, dropped = bounded(given, limits.link_attributes, limits.value_length)
    kept = _Link(
        context, MappingProxyType({str(plain(k)): frozen(plain(v)) for k, v in values.items()})
    )
    if dropped:
        kept.dropped_attributes = dropped
    return kept


def make_scope(scope: InstrumentationScope) -> tuple[bytes, InstrumentationScope]:
    """Return *scope* with its OTLP bytes."""
    name, version, url = (
        part if isinstance(part, str) else str(plain(part))
        for part in (scope.name, scope.version or "", scope.schema_url or "")
    )
    return _otlp.scope(name, version, scope.attributes or {}, url), scope


def instrumentation_info(scope: InstrumentationScope) -> InstrumentationInfo:
    """Return *scope* as it was called before OpenTelemetry 1.11."""
    # as the SDK does, whose class warns; ``catch_warnings`` would take other threads' filters along
    warnings.filterwarnings(
        "ignore", ".*You should use InstrumentationScope", DeprecationWarning, "otel_logging"
    )
    return InstrumentationInfo(scope.name, scope.version or "", scope.schema_url)


def otlp_kind(kind: Any) -> int:
    """Return OTLP's number of *kind*, that of an internal span for what is not one."""
    if kind is SpanKind.INTERNAL or not isinstance(kind, SpanKind):
        return 1
    return kind.value + 1  # OTLP counts from "unspecified"


def encode_event(event: Event) -> bytes:
    """Return *event*, whoever's it is, as ``_otlp.event`` encodes it, in ``MAX_RECORD_BYTES``."""
    dropped, values = getattr(event, "dropped_attributes", 0), event.attributes or {}
    encoded = _otlp.event(event.timestamp, event.name, values, dropped=dropped)
    if len(encoded) <= MAX_RECORD_BYTES:
        return encoded
    return shorter_event(event.timestamp, event.name, values, dropped)


def encode_links(links: Sequence[Link]) -> list[bytes]:
    """Return *links* as ``_otlp.link`` encodes them, with their attributes in ``LINKS_BYTES``."""
    encoded = [encode_link(link, link.attributes or {}) for link in links]
    if sum(map(len, encoded)) <= LINKS_BYTES:
        return encoded
    room = LINKS_BYTES // len(links)
    for place, link in enumerate(links):
        if len(encoded[place]) > room and link.attributes:
            encode = partial(encode_link, link)
            encoded[place] = encode(_json.fitted(link.attributes, room, encode))
    return encoded


def shorter_attributes(values: Mapping[str, Any], span_bytes: int) -> dict[str, Any] | None:
    """Return *values* with which a span of *span_bytes* has ``MAX_RECORD_BYTES`` at most.

    None where that is not for them: they keep a fourth of it, whatever else is there.
    """

    def encode(kept: Mapping[str, Any]) -> bytes:
        return _otlp.attributes(b"\x4a", kept)

    size = len(encode(values))
    room = max(MAX_RECORD_BYTES - (span_bytes - size), MAX_RECORD_BYTES // 4)
    return _json.fitted(values, room, encode) if size > room else None


def encode_link(link: Link, values: Mapping[str, Any]) -> bytes:
    """Return *link* with the attributes *values* as ``_otlp.link`` encodes it."""
    context = link.context
    flags = int(context.trace_flags) | HAS_IS_REMOTE | (IS_REMOTE if context.is_remote else 0)
    state = context.trace_state.to_header() if context.trace_state else ""
    return _otlp.link(
        context.trace_id,
        context.span_id,
        state,
        flags,
        values,
        dropped=getattr(link, "dropped_attributes", 0),
    )


def shorter_event(time_ns: int, name: str, values: Mapping[str, Any], dropped: int) -> bytes:
    """Return what ``_otlp.event`` does, shortened to ``MAX_RECORD_BYTES``."""
    name = plain(name)

    def encode(kept: Mapping[str, Any]) -> bytes:
        return _otlp.event(time_ns, name, kept, dropped=dropped)

    return encode(_json.fitted(values, MAX_RECORD_BYTES, encode))
