"""A span as it is read back: from the bytes of the local store, or from Jaeger's JSON.

In: spans as ``_otlp.span`` encodes them; OTLP as parsed JSON (OpenTelemetry
protocol specification, JSON Protobuf encoding: ids in hex, 64-bit numbers as
strings, enums as numbers). Out: ``Span``, the same from both. Invariant: of bytes,
only what finds late stages is decoded at once; of 100,000 spans that are read a
screenful is shown. Deliberately absent: where spans come from, and what is made of them.
"""

import base64
import contextlib
import json
import math
import re
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

from opentelemetry.proto.common.v1.common_pb2 import KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, ScopeSpans

from otel_logging import _names, _otlp

#: Span.kind and Status.code by OTLP's numbers.
_KINDS: Final = ("unspecified", "internal", "server", "client", "producer", "consumer")
_STATUSES: Final = ("unset", "ok", "error")
_REMOTE: Final = 0x300  # Span.flags: it is known whether the parent is remote, and it is
_DEFAULT_WHO: Final = ("user_id",)  # setup_observability's own, for resources without the attribute

#: What ``_otlp.span`` writes first: its tag and length, trace id, span id, parent, length of the
#: name. After the name come kind and times, then the attributes, then all else.
_IDS: Final = re.compile(
    rb"\x12[\x80-\xff]*[\x00-\x7f]\x0a\x10(.{16})\x12\x08(.{8})(?:\x22\x08(.{8}))?\x2a", re.DOTALL
)
_KIND_AND_TIMES: Final = struct.Struct("<xxxQxQ")
_ATTRIBUTE: Final = 0x4A


@dataclass(frozen=True, slots=True)
class Resource:
    """The process a span came from. *who*: keys of the attributes that name the user."""

    service: str
    who: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Event:
    """Something at one moment of a span: a log line, an exception. *time_ns*: since the epoch."""

    time_ns: int
    name: str
    attributes: Mapping[str, Any]

    def as_json(self) -> dict[str, Any]:
        """Return it as ``Span.as_json`` has it."""
        return {"time": rfc3339(self.time_ns), "name": self.name, "attributes": self.attributes}


@dataclass(frozen=True, slots=True)
class Link:
    """A reference to another span. Ids are lower-case hex."""

    trace_id: str
    span_id: str
    attributes: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Details:
    """What is needed of a span only where it is shown. *kind* and *status* are words."""

    kind: str
    status: str
    status_message: str
    remote_parent: bool  # whether the parent is known to be a span of another process
    attributes: Mapping[str, Any]
    events: list[Event]  # in the order in which they were recorded
    links: list[Link]


# not frozen, though no one changes one: that costs 1.2 µs a span
@dataclass(slots=True, eq=False)
class Span:
    """A span that has ended. Ids are lower-case hex, times ns since the epoch."""

    trace_id: str
    span_id: str
    parent_span_id: str  # "" for a root
    name: str
    start_ns: int
    end_ns: int
    resource: Resource
    budget_s: float | None  # how long it may take; None without a budget
    _details: Details | bytes = field(repr=False)  # bytes until somebody asks
    _attributes_at: int = field(default=0, repr=False)  # where these begin in the bytes

    def get(self, key: str) -> Any:
        """Return one attribute, or None. Cost: 1 µs; the rest of the span is not decoded."""
        if isinstance(self._details, bytes):
            return _attribute(self._details, self._attributes_at, key)
        return self._details.attributes.get(key)

    @property
    def details(self) -> Details:
        """Everything else. Cost: 10 µs and more, the first time."""
        if isinstance(self._details, bytes):
            self._details = _decoded(self._details)
        return self._details

    @property
    def attributes(self) -> Mapping[str, Any]:
        """Its attributes as plain data."""
        return self.details.attributes

    @property
    def events(self) -> list[Event]:
        """Its events in the order in which they were recorded."""
        return self.details.events

    @property
    def duration_s(self) -> float:
        """From start to end; 0 where a clock was set back in between."""
        return max(self.end_ns - self.start_ns, 0) / 1e9

    @property
    def is_log_page(self) -> bool:
        """Whether it only holds lines that did not fit on its parent."""
        return self.name == _names.LOG_SPAN and self.get(_names.LOG_PAGE) is not None

    @property
    def is_stage(self) -> bool:
        """Whether it is work that took time, rather than a holder of log lines or a probe."""
        if self.resource.service == _names.DOCTOR:
            return False
        if self.name == _names.PROCESS_LOG:
            return bool(self.parent_span_id)
        return not self.is_log_page

    def as_json(self) -> dict[str, Any]:
        """Return it as ``otel-logging show --json`` prints it; docs/commands.md is the contract."""
        details = self.details
        return {
            "span_id": self.span_id,
            "parent_span_id": self.parent_span_id or None,
            "service": self.resource.service,
            "name": self.name,
            "kind": details.kind,
            "start": rfc3339(self.start_ns),
            "duration_s": self.duration_s,
            "status": details.status,
            "attributes": details.attributes,
            "links": [
                {"trace_id": k.trace_id, "span_id": k.span_id, "attributes": k.attributes}
                for k in details.links
            ],
            "events": [event.as_json() for event in details.events],
        }


def rfc3339(time_ns: int) -> str:
    """Return a time as RFC 3339 in UTC, with microseconds and ``Z``."""
    seconds, rest = divmod(time_ns, 1_000_000_000)
    moment = datetime.fromtimestamp(seconds, UTC).replace(microsecond=rest // 1000)
    return moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _word(words: tuple[str, ...], number: Any) -> str:
    """Return an enum's word; names and numbers of later versions are the first word."""
    return words[number] if isinstance(number, int) and 0 <= number < len(words) else words[0]


def _budget(value: Any) -> float | None:
    is_budget = type(value) in (int, float) and math.isfinite(value) and value > 0
    return float(value) if is_budget else None


def _resource(values: Mapping[str, Any]) -> Resource:
    who = values.get(_names.WHO)
    if isinstance(who, str) and who.startswith("["):
        # some of Jaeger's storages turn a list into text; other programs' text may look like one
        with contextlib.suppress(ValueError, RecursionError):
            who = json.loads(who)
    keys = tuple(map(str, who)) if isinstance(who, list) else _DEFAULT_WHO
    return Resource(str(values.get("service.name") or "unknown_service"), keys)


# ---------------------------------------------------------------- from bytes


def resource_from_bytes(encoded: bytes) -> Resource:
    """Return the resource that ``_otlp.resource`` encoded."""
    return _resource(_otlp.values_of(ResourceSpans.FromString(encoded).resource.attributes))


def from_bytes(encoded: bytes, resource: Resource) -> Span:
    """Return the span that ``_otlp.span`` encoded.

    Failure: raises ``ValueError`` if these bytes are none. Cost: 1.5 µs.
    """
    ids = _IDS.match(encoded)
    if ids is None:
        raise ValueError(f"not a span: {encoded[:40]!r}")
    trace_id, span_id, parent_span_id = ids.groups(b"")
    size, at = _varint(encoded, ids.end())
    name, at = encoded[at : at + size].decode(), at + size
    start_ns, end_ns = _KIND_AND_TIMES.unpack_from(encoded, at)
    at += _KIND_AND_TIMES.size
    return Span(
        trace_id.hex(),
        span_id.hex(),
        parent_span_id.hex(),
        name,
        start_ns,
        end_ns,
        resource,
        _budget(_attribute(encoded, at, _names.BUDGET)),
        encoded,
        at,
    )


def _varint(encoded: bytes, at: int) -> tuple[int, int]:
    """Return the number at *at*, and where it ends."""
    value = shift = 0
    while (byte := encoded[at]) > 127:
        value, shift, at = value | (byte & 127) << shift, shift + 7, at + 1
    return value | byte << shift, at + 1


def _attribute(encoded: bytes, at: int, key: str) -> Any:
    if key.encode(errors="surrogatepass") not in encoded:  # as a rule: this takes 0.1 µs
        return None
    while encoded[at] == _ATTRIBUTE:
        size, begin = _varint(encoded, at + 1)
        at = begin + size
        item = KeyValue.FromString(encoded[begin:at])
        if item.key == key:
            return _otlp.value_of(item.value)
    return None


def _decoded(encoded: bytes) -> Details:
    message = ScopeSpans.FromString(encoded).spans[0]
    return Details(
        _word(_KINDS, message.kind),
        _word(_STATUSES, message.status.code),
        message.status.message,
        message.flags & _REMOTE == _REMOTE,
        _otlp.values_of(message.attributes),
        [Event(e.time_unix_nano, e.name, _otlp.values_of(e.attributes)) for e in message.events],
        [
            Link(k.trace_id.hex(), k.span_id.hex(), _otlp.values_of(k.attributes))
            for k in message.links
        ],
    )


# ---------------------------------------------------------------- from JSON


def resource_from_json(message: Mapping[str, Any]) -> Resource:
    """Return an OTLP resource. Failure: as ``from_json``."""
    return _resource(_attributes(message))


def from_json(message: Mapping[str, Any], resource: Resource) -> Span:
    """Return an OTLP span.

    Failure: raises one of ``INVALID`` if it is none. Cost: 15 µs, all of it is decoded.
    """
    status, attributes = message.get("status", {}), _attributes(message)
    parent_span_id = _span_id(message.get("parentSpanId", ""))
    return Span(
        _id(message["traceId"], 16),
        _span_id(message["spanId"]),
        parent_span_id if parent_span_id.strip("0") else "",
        _text(message.get("name", "")),
        _time(message.get("startTimeUnixNano", 0)),
        _time(message.get("endTimeUnixNano", 0)),
        resource,
        _budget(attributes.get(_names.BUDGET)),
        Details(
            _word(_KINDS, message.get("kind")),
            _word(_STATUSES, status.get("code")),
            _text(status.get("message", "")),
            int(message.get("flags", 0)) & _REMOTE == _REMOTE,
            attributes,
            [
                Event(_time(e.get("timeUnixNano", 0)), _text(e.get("name", "")), _attributes(e))
                for e in message.get("events", ())
            ],
            [
                Link(_id(k["traceId"], 16), _span_id(k["spanId"]), _attributes(k))
                for k in message.get("links", ())
            ],
        ),
    )


#: What ``from_json`` raises for a message that is not OTLP.
INVALID: Final = (ValueError, AttributeError, KeyError, TypeError, RecursionError)


def _id(text: str, size: int) -> str:
    given = bytes.fromhex(text)
    if len(given) != size:
        raise ValueError(f"an id of {len(given)} bytes")
    return given.hex()


def _span_id(text: str) -> str:
    return _id(text.rjust(16, "0"), 8)


def _time(given: Any) -> int:
    time_ns = int(given)
    if not 0 <= time_ns < 1 << 64:
        raise ValueError(f"a time of {time_ns:.3g} ns")
    return time_ns


def _text(given: Any) -> str:
    if not isinstance(given, str):
        raise TypeError(f"not a string: {given!r:.40}")
    return given


def _attributes(message: Mapping[str, Any]) -> dict[str, Any]:
    return _values(message.get("attributes", ()))


def _values(key_values: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    return {_text(item["key"]): _value(item.get("value", {})) for item in key_values}


def _value(any_value: Mapping[str, Any]) -> Any:
    for which, value in any_value.items():
        if which == "intValue":
            return int(value)
        if which == "doubleValue":
            number = float(value)
            return number if math.isfinite(number) else str(value)  # "NaN", as the store has it
        if which == "arrayValue":
            return [_value(item) for item in value.get("values", ())]
        if which == "kvlistValue":
            return _values(value.get("values", ()))
        if which == "bytesValue":
            return base64.b64decode(value).hex()
        return value
    return None
