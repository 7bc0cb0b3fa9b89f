"""A span as it is read back: from the bytes of the local store, or from Jaeger's JSON.

Of bytes, only what finds late stages is kept decoded: of 100,000 spans that are read a screenful
is shown, and messages take four times the memory of their bytes.
"""

import base64
import contextlib
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import lru_cache
from operator import attrgetter
from sys import intern
from typing import Any, Final

from google.protobuf.message import DecodeError
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, ScopeSpans

from otel_logging import _names, _otlp, _runtime
from otel_logging.traces.attributes import key_of, value_at

#: Span.kind and Status.code by OTLP's numbers.
_KINDS: Final = ("unspecified", "internal", "server", "client", "producer", "consumer")
_STATUSES: Final = ("unset", "ok", "error")
#: A span as ``_otlp.span`` begins it: ids, parent, the length of its name; what comes after that.
_HEAD: Final = re.compile(
    rb"\x12[\x80-\xff]*[\0-\x7f]\n\x10(.{16})\x12\x08(.{8})(?:\"\x08(.{8}))?\*([\0-\x7f])",
    re.DOTALL,
)
_TIMES: Final = re.compile(rb"0.9(.{8})A(.{8})", re.DOTALL)  # after its name; its kind first
_BUDGET: Final = key_of(_names.BUDGET)
_REMOTE: Final = 0x300  # Span.flags: it is known whether the parent is remote, and it is
_DEFAULT_WHO: Final = ("user_id",)  # setup_observability's own, for resources without the attribute
_FAILED: Final = b"\x18\x02"  # Status.code, ERROR, as it is encoded
_EXCEPTION: Final = _names.EXCEPTION.encode()

#: How loggers of servers' lines about a request as a whole end: each has one, and it tells nothing.
_ACCESS: Final = (".access", "werkzeug")


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
class Details:
    """What is needed of a span only where it is shown. *kind* and *status* are words."""

    kind: str
    status: str
    status_message: str
    remote_parent: bool  # whether the parent is known to be a span of another process
    attributes: Mapping[str, Any]
    events: list[Event]  # in the order in which they were recorded
    links: list[dict[str, Any]]  # trace_id, span_id, attributes


# not frozen, though no one changes one: that costs 1.2 µs a span
@dataclass(slots=True, eq=False)
class Span:
    """A span that has ended. Ids are lower-case hex, times ns since the epoch."""

    trace_id: str
    span_id: str
    parent_span_id: str  # "" for a root
    stored_name: str  # to compare, not to show
    start_ns: int
    end_ns: int
    resource: Resource
    budget_s: float | None  # how long it may take; None without a budget
    _details: Details | bytes = field(repr=False)  # as field 2 of ScopeSpans until they are used
    _begin: int = field(default=0, repr=False)  # of its attributes in these bytes

    @property
    def name(self) -> str:
        """Its name without secrets. Cost: 2 µs for a new one."""
        return text_of(self.stored_name)

    def get(self, key: str) -> Any:
        """Return one attribute, or None. Cost: 1 µs; nothing is kept, unlike with ``details``."""
        one, encoded = self._details, key_of(key)
        if not isinstance(one, bytes):
            return one.attributes.get(key)
        if encoded not in one:
            return None
        return _runtime.current.redaction.field(key, value_at(one, self._begin, encoded))

    def may_have(self, encoded: bytes) -> bool:
        """Whether it is worth a look: False where *encoded* is not in its bytes."""
        one = self._details
        return not isinstance(one, bytes) or encoded in one

    @property
    def is_error(self) -> bool:
        """Whether its status is ERROR."""
        one = self._details
        if not isinstance(one, bytes):
            return one.status == "error"
        return _FAILED in one and bool(_message(one).status.code == 2)

    @property
    def moments(self) -> list[tuple[int, Any]]:
        """When its events were, in the order in which they were recorded, each with what has its
        name; without servers' lines about a whole request.
        """
        one, log = self._details, _names.LOGGER
        if not isinstance(one, bytes):
            times = [(e.time_ns, e, e.attributes.get(log)) for e in one.events]
        else:
            look, events = any(name.encode() in one for name in _ACCESS), _message(one).events
            times = [(e.time_unix_nano, e, look and value_in(e, log)) for e in events]
        return [(at, each) for at, each, name in times if not f"{name}".endswith(_ACCESS)]

    @property
    def details(self) -> Details:
        """Everything else. Cost: 10 µs and more, the first time."""
        if isinstance(self._details, bytes):
            self._details = _decoded(_message(self._details))
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
        duration_ns = self.end_ns - self.start_ns
        return duration_ns / 1e9 if duration_ns > 0 else 0.0

    @property
    def is_log_page(self) -> bool:
        """Whether it only holds lines that did not fit on its parent."""
        return self.stored_name == _names.LOG_SPAN and self.get(_names.LOG_PAGE) is not None

    @property
    def is_stage(self) -> bool:
        """Whether it is work that took time, rather than a holder of log lines or a probe."""
        name = self.stored_name
        if self.resource.service == _names.DOCTOR:
            return False
        if name == _names.PROCESS_LOG:
            return bool(self.parent_span_id)
        return name != _names.LOG_SPAN or not self.is_log_page

    @property
    def may_have_failed(self) -> bool:
        """Whether it is worth a look: False where its bytes have neither error nor exception."""
        one = self._details
        return not isinstance(one, bytes) or _FAILED in one or _EXCEPTION in one

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
            "links": details.links,
            "events": [event.as_json() for event in details.events],
        }


def rfc3339(time_ns: int) -> str:
    """Return a time as RFC 3339 in UTC, with microseconds and ``Z``."""
    seconds, rest = divmod(time_ns, 1_000_000_000)
    moment = datetime.fromtimestamp(seconds, UTC).replace(microsecond=rest // 1000, tzinfo=None)
    return f"{moment.isoformat(timespec='microseconds')}Z"


def _word(words: tuple[str, ...], number: Any) -> str:
    """Return an enum's word; names and numbers of later versions are the first word."""
    return words[number] if isinstance(number, int) and 0 <= number < len(words) else words[0]


def _link(trace_id: str, span_id: str, attributes: Mapping[str, Any]) -> dict[str, Any]:
    return {"trace_id": trace_id, "span_id": span_id, "attributes": attributes}


def _budget(value: Any) -> float | None:
    is_budget = type(value) in (int, float) and math.isfinite(value) and value > 0
    return float(value) if is_budget else None


def _resource(values: Mapping[str, Any]) -> Resource:
    who = values.get(_names.WHO)
    if isinstance(who, str) and who.startswith("["):
        # some of Jaeger's storages turn a list into text; other programs' text may look like one
        with contextlib.suppress(ValueError, RecursionError):
            who = json.loads(who)
    keys = tuple(dict.fromkeys(map(str, who))) if isinstance(who, list) else _DEFAULT_WHO
    return Resource(text_of(str(values.get("service.name") or "unknown_service")), keys)


# ---------------------------------------------------------------- from bytes


@lru_cache(64)  # that of a process, in each of its segments
def resource_from_bytes(encoded: bytes) -> Resource:
    """Return the resource that ``_otlp.resource`` encoded, of equal bytes the same one."""
    return _resource(_otlp.values_of(ResourceSpans.FromString(encoded).resource.attributes))


def from_bytes(one: bytes, resource: Resource) -> Span:
    """Return the span that ``_otlp.span`` encoded, or another writer in the same format.

    Failure: raises ``google.protobuf.message.DecodeError`` if it is something else.
    Cost: 2 µs; 20 µs where it is another writer's.
    """
    head = _HEAD.match(one)
    times = None if head is None else _TIMES.match(one, head.end() + head[4][0])
    if head is None or times is None:
        return _of_another(one, resource)
    trace_id, span_id, parent_span_id, _ = head.groups(b"")
    start, end = times.groups()
    return Span(
        trace_id.hex(),
        span_id.hex(),
        parent_span_id.hex(),
        intern(one[head.end() : times.start()].decode(errors="replace")),  # many have the same
        int.from_bytes(start, "little"),
        int.from_bytes(end, "little"),
        resource,
        _budget(value_at(one, times.end(), _BUDGET)) if _BUDGET in one else None,
        one,
        times.end(),
    )


def _of_another(one: bytes, resource: Resource) -> Span:
    message, *more = ScopeSpans.FromString(one).spans or [None]
    if message is None or more:
        raise DecodeError("not one span")
    ids = (message.trace_id.hex(), message.span_id.hex(), message.parent_span_id.hex())
    times = (message.start_time_unix_nano, message.end_time_unix_nano)
    budget_s = _budget(value_in(message, _names.BUDGET))
    return Span(*ids, message.name, *times, resource, budget_s, _decoded(message))


@lru_cache(1)  # several things of one span are asked for, one after the other
def _message(encoded: bytes) -> Any:
    with contextlib.suppress(DecodeError, IndexError):  # another program's
        return ScopeSpans.FromString(encoded).spans[0]
    return ScopeSpans().spans.add()


def value_in(message: Any, key: str) -> Any:
    """Return an attribute of a span or an event as it is encoded, or None."""
    for item in message.attributes:
        if item.key == key:
            return _runtime.current.redaction.field(key, _otlp.value_of(item.value))
    return None


def _decoded(message: Any) -> Details:
    return Details(
        _word(_KINDS, message.kind),
        _word(_STATUSES, message.status.code),
        text_of(message.status.message),
        message.flags & _REMOTE == _REMOTE,
        _fields(message.attributes),
        [Event(e.time_unix_nano, text_of(e.name), _fields(e.attributes)) for e in message.events],
        [_link(k.trace_id.hex(), k.span_id.hex(), _fields(k.attributes)) for k in message.links],
    )


def _fields(attributes: Any) -> dict[str, Any]:
    # others write into our store, and earlier versions of us
    return _runtime.current.redaction.fields(_otlp.values_of(attributes))


# ---------------------------------------------------------------- from JSON

#: What the functions below raise for a message that is not OTLP.
INVALID: Final = (ValueError, AttributeError, KeyError, TypeError, RecursionError)


def resource_from_json(message: Mapping[str, Any]) -> Resource:
    """Return an OTLP resource. Failure: raises one of ``INVALID``."""
    return _resource(_attributes(message))


def from_json(message: Mapping[str, Any], resource: Resource) -> Span:
    """Return an OTLP span, decoded as a whole. Failure: raises one of ``INVALID``. Cost: 15 µs."""
    status, attributes = message.get("status", {}), _attributes(message)
    events, links = message.get("events", ()), message.get("links", ())
    parent_span_id = id_of(message.get("parentSpanId") or "0", 16)
    return Span(
        id_of(message["traceId"], 32),
        id_of(message["spanId"], 16),
        parent_span_id if parent_span_id.strip("0") else "",
        text_of(message.get("name", "")),
        _time(message.get("startTimeUnixNano", 0)),
        _time(message.get("endTimeUnixNano", 0)),
        resource,
        _budget(attributes.get(_names.BUDGET)),
        Details(
            _word(_KINDS, message.get("kind")),
            _word(_STATUSES, status.get("code")),
            text_of(status.get("message", "")),
            int(message.get("flags", 0)) & _REMOTE == _REMOTE,
            attributes,
            sorted(map(_event, events), key=attrgetter("time_ns")),  # Jaeger: by their names
            [_link_from_json(each) for each in links],
        ),
    )


def _event(message: Mapping[str, Any]) -> Event:
    name = text_of(message.get("name", ""))
    return Event(_time(message.get("timeUnixNano", 0)), name, _attributes(message))


def _link_from_json(message: Mapping[str, Any]) -> Any:
    attributes = _attributes(message)
    attributes.pop("opentracing.ref_type", None)  # Jaeger says this of each
    return _link(id_of(message["traceId"], 32), id_of(message["spanId"], 16), attributes)


def id_of(text: str, digits: int) -> str:
    """Return an id in full: some writers leave zeros out."""
    given = bytes.fromhex(text.rjust(digits, "0")).hex()
    if not text or len(given) != digits:
        raise ValueError(f"an id of {len(given)} digits")
    return given


def _time(given: Any) -> int:
    time_ns = int(given)
    if not 0 <= time_ns < 1 << 64:
        raise ValueError("a time that OTLP has not")
    return time_ns


def text_of(given: Any) -> str:
    """Return a name or a message without secrets. Failure: raises TypeError if it is no text."""
    if not isinstance(given, str):
        raise TypeError("not a string")
    return _runtime.current.redaction.text(given)


def _attributes(message: Mapping[str, Any], key: str = "attributes") -> dict[str, Any]:
    values = {text_of(item["key"]): _value(item.get("value", {})) for item in message.get(key, ())}
    return _runtime.current.redaction.fields(values)


def _value(any_value: Mapping[str, Any]) -> Any:
    for which, value in any_value.items():
        match which:
            case "intValue":
                return int(value)
            case "doubleValue":
                number = float(value)
                return number if math.isfinite(number) else str(value)  # "NaN", as the store has it
            case "arrayValue":
                return [_value(item) for item in value.get("values", ())]
            case "kvlistValue":
                return _attributes(value, "values")
            case "bytesValue":
                return base64.b64decode(value).hex()
        return value
    return None
