"""A span as it is read back: from the bytes of the local store, or from Jaeger's JSON, which is
made into the same bytes.

Only what is needed to find late stages is kept decoded. Of 100,000 spans a screenful is shown, and
decoded messages take four times the memory of their bytes.
"""

import base64
import contextlib
import json
import math
import re
import struct
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from operator import attrgetter
from typing import Any, Final

from google.protobuf.message import DecodeError, Error
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, ScopeSpans
from opentelemetry.proto.trace.v1.trace_pb2 import Span as OtlpSpan

from otel_logging import _names, _otlp, _runtime
from otel_logging._text import rfc3339
from otel_logging.traces.attributes import ATTRIBUTE, field_at, is_failed, key_of, plain

#: Words for Span.kind and Status.code by OTLP's numbers; an unknown number is the first word.
_KINDS: Final = dict(
    enumerate(("unspecified", "internal", "server", "client", "producer", "consumer"))
)
_STATUSES: Final = dict(enumerate(("unset", "ok", "error")))
#: A span as ``_otlp.span`` begins it: ids, parent, the length of its name, that; its kind, times.
_HEAD: Final = re.compile(
    rb"\x12[\x80-\xff]*[\0-\x7f]\n\x10(.{16})\x12\x08(.{8})(?:\"\x08(.{8}))?"
    rb"\*(.)(.{0,127}?)0.9(.{8}A.{8})",
    re.DOTALL,
)
_KIND: Final = re.compile(rb"0(.)9.{8}A.{8}", re.DOTALL)  # before its attributes
_TIMES: Final = struct.Struct("<QxQ").unpack
_BEFORE: Final = tuple(f.name for f in OtlpSpan.DESCRIPTOR.fields if f.number < 9)  # attributes
_BUDGET: Final = key_of(_names.BUDGET)
OF_LINES: Final = (_names.LOG_SPAN, _names.PROCESS_LOG)  # spans that hold lines, and are no stages
_REMOTE: Final = 0x300  # Span.flags: the parent is known to be remote
#: The flags that spans have, as they are encoded.
_FLAGS: Final = {
    b"\x85\x01" + flags.to_bytes(4, "little"): flags & _REMOTE == _REMOTE
    for flags in (0x100, 0x101, 0x103, 0x300, 0x301, 0x303)
}
_DEFAULT_WHO: Final = ("user_id",)  # set-up's default, for resources that do not say
_FAILED: Final = b"\x18\x02"  # Status.code, ERROR, as it is encoded
_REF_TYPE: Final = "opentracing.ref_type"  # Jaeger says this of each link
_EXCEPTION: Final = b"\t" + _names.EXCEPTION.encode()  # a key or an event's name, with its length
#: Ends of loggers' names whose lines are about a whole stage, not a moment in it: servers', ours.
_ACCESS: Final = (".access", "werkzeug", _names.SCOPE)


@dataclass(frozen=True, slots=True)
class Resource:
    """The process a span came from. *who*: keys of the attributes that name the user; *host*: the
    machine, whose processes have one clock; "" where it is not known.
    """

    service: str
    who: tuple[str, ...]
    host: str = ""


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
    attributes: Mapping[str, Any]
    events: list[Event]  # in the order in which they were recorded
    links: list[dict[str, Any]]  # trace_id, span_id, attributes


# not frozen: that costs 1.2 µs a span
@dataclass(slots=True, eq=False)
class Span:
    """A span that has ended. Ids are lower-case hex, times ns since the epoch."""

    trace_id: str
    span_id: str
    parent_span_id: str  # "" for a root
    stored_name: str  # not redacted: compare it, never show it
    start_ns: int
    end_ns: int
    resource: Resource
    budget_s: float | None  # how long it may take; None without a budget
    _encoded: bytes = field(repr=False)  # as field 2 of ScopeSpans
    _begin: int = field(default=0, repr=False)  # of its attributes in these bytes
    _details: Details | None = field(default=None, repr=False)  # once they are used
    moved_ns: int = field(default=0, repr=False)  # of all its times, where its clock is wrong

    def move(self, by_ns: int) -> None:
        """Move all its times, by another service's clock."""
        self.start_ns, self.end_ns = self.start_ns + by_ns, self.end_ns + by_ns
        self.moved_ns, self._details = self.moved_ns + by_ns, None

    @property
    def name(self) -> str:
        """Its name without secrets. Cost: 2 µs for a new one."""
        return text_of(self.stored_name)

    def get(self, key: str) -> Any:
        """Return one attribute, or None. Cost: 1 µs. Keeps nothing, unlike ``details``."""
        value = plain(field_at(self._encoded, self._begin, ATTRIBUTE, key_of(key)))
        return None if value is None else _runtime.current.redaction.field(key, value)

    @property
    def kind(self) -> str:
        """Its kind as a word. Cost: 0.5 µs for the usual encoding."""
        found = _KIND.fullmatch(self._encoded, max(self._begin - 20, 0), self._begin)
        return _KINDS.get(found[1][0], _KINDS[0]) if found else self.details.kind

    @property
    def has_remote_parent(self) -> bool:
        """Whether its parent is known to be a span of another process."""
        known = _FLAGS.get(self._encoded[-6:])  # our spans end with the flags
        return bool(_message(self._encoded).flags & _REMOTE == _REMOTE) if known is None else known

    @property
    def is_error(self) -> bool:
        """Whether its status is ERROR."""
        return self._may_be_error and is_failed(self._encoded, self._begin)

    @property
    def moments(self) -> list[tuple[int, Any]]:
        """The times of its events, in the order in which they were recorded, each with its protobuf
        event. Servers' lines about a whole request are left out, and the event with its places.
        """
        return [
            (each.time_unix_nano + self.moved_ns, each)
            for each in _message(self._encoded).events
            if not str(value_in(each, _names.LOGGER)).endswith(_ACCESS)
            and (each.name != _names.LATE_WHERE or value_in(each, _names.LEVEL))
        ]

    @property
    def details(self) -> Details:
        """Everything else. Cost: 10 µs and more, the first time."""
        if self._details is None:
            self._details = _decoded(_message(self._encoded), self.moved_ns)
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
        """Whether it holds only lines that did not fit on its parent."""
        return self.stored_name == _names.LOG_SPAN and self.get(_names.LOG_PAGE) is not None

    @property
    def is_stage(self) -> bool:
        """Whether it is work that took time, rather than a holder of log lines or a probe."""
        if self.resource.service == _names.DOCTOR:
            return False
        name = self.stored_name
        if name not in OF_LINES:  # nearly all of 100,000
            return True
        return bool(self.parent_span_id) if name == _names.PROCESS_LOG else not self.is_log_page

    @property
    def may_have_failed(self) -> bool:
        """Whether to look at it: False if its bytes have neither an error nor an exception."""
        return self._may_be_error or _EXCEPTION in self._encoded

    @property
    def _may_be_error(self) -> bool:
        one = self._encoded  # our spans end with flags or status, other people's with both
        return one[-8:-6] == _FAILED if one[-6:] in _FLAGS else _FAILED in one

    @property
    def may_have_raised(self) -> bool:
        """Whether its bytes have an exception."""
        return _EXCEPTION in self._encoded

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
            **({"clock_moved_s": self.moved_ns / 1e9} if self.moved_ns else {}),
            "status": details.status,
            "attributes": details.attributes,
            "links": details.links,
            "events": [event.as_json() for event in details.events],
        }


# ---------------------------------------------------------------- from bytes


@lru_cache(64)  # each segment of a process has the same
def resource_from_bytes(encoded: bytes) -> Resource:
    """Return the resource that ``_otlp.resource`` encoded; equal bytes give the same object."""
    values = _otlp.values_of(ResourceSpans.FromString(encoded).resource.attributes)
    who = values.get(_names.WHO)
    if isinstance(who, str) and who.startswith("["):
        # some of Jaeger's storages turn a list into text; other programs' text may look like one
        with contextlib.suppress(ValueError, RecursionError):
            who = json.loads(who)
    keys = tuple(dict.fromkeys(map(str, who))) if isinstance(who, list) else _DEFAULT_WHO
    service, host = values.get("service.name") or "unknown_service", values.get("host.name") or ""
    return Resource(text_of(str(service)), keys, str(host))


def from_bytes(one: bytes, resource: Resource) -> Span:
    """Return the span that ``_otlp.span`` encoded, or another writer in the same format.

    Failure: raises ``google.protobuf.message.DecodeError`` if it is something else.
    Cost: 1.5 µs; 20 µs for another writer's span.
    """
    if (head := _HEAD.match(one)) is None:
        return _of_another(one, resource)
    trace_id, span_id, parent_span_id, size, name, times = head.groups(b"")
    if len(name) != size[0]:  # the name is long, or looks like what follows it
        return _of_another(one, resource)
    begin, (start, end) = head.end(), _TIMES(times)
    trace, span, parent = trace_id.hex(), span_id.hex(), parent_span_id.hex()
    budget_s = _budget(field_at(one, begin, ATTRIBUTE, _BUDGET) if _BUDGET in one else b"")
    return Span(trace, span, parent, _text(name), start, end, resource, budget_s, one, begin)


@lru_cache(1_000)  # as below
def _budget(attribute: bytes) -> float | None:
    value = plain(attribute)
    is_budget = type(value) in (int, float) and math.isfinite(value) and value > 0
    return float(value) if is_budget else None


@lru_cache(1_000)  # many spans have equal ones
def _text(name: bytes) -> str:
    return name.decode(errors="replace")


def _of_another(one: bytes, resource: Resource) -> Span:
    message: Any
    message, *more = ScopeSpans.FromString(one).spans or [None]
    if message is None or more:
        raise DecodeError("not one span")
    one = ScopeSpans(spans=[message]).SerializeToString()  # in the order of its fields
    ids = message.trace_id.hex(), message.span_id.hex(), message.parent_span_id.hex(), message.name
    times = (message.start_time_unix_nano, message.end_time_unix_nano)
    for before in _BEFORE:
        message.ClearField(before)
    begin = len(one) - message.ByteSize()
    budget_s = _budget(field_at(one, begin, ATTRIBUTE, _BUDGET))
    return Span(*ids, *times, resource, budget_s, one, begin)


@lru_cache(1)  # several attributes of one span are asked for, one after the other
def _message(encoded: bytes) -> Any:
    with contextlib.suppress(DecodeError, IndexError):  # another program's
        return ScopeSpans.FromString(encoded).spans[0]
    return ScopeSpans().spans.add()


def value_in(message: Any, key: str) -> Any:
    """Return an attribute of a span or an event as it is encoded, or None."""
    for item in reversed(message.attributes):  # in our events the logger is the last attribute
        if item.key == key:
            return _runtime.current.redaction.field(key, _otlp.value_of(item.value))
    return None


def _decoded(message: Any, moved_ns: int) -> Details:
    return Details(
        _KINDS.get(message.kind, _KINDS[0]),
        _STATUSES.get(message.status.code, _STATUSES[0]),
        text_of(message.status.message),
        _fields(message.attributes),
        [
            Event(e.time_unix_nano + moved_ns, text_of(e.name), _fields(e.attributes))
            for e in message.events
        ],
        [
            {
                "trace_id": link.trace_id.hex(),
                "span_id": link.span_id.hex(),
                "attributes": _fields(a for a in link.attributes if a.key != _REF_TYPE),
            }
            for link in message.links
        ],
    )


def _fields(attributes: Any) -> dict[str, Any]:
    # other programs, and earlier versions of us, may have written it
    found: dict[str, Any] = _runtime.current.redaction.value(_otlp.values_of(attributes))
    return found


# ---------------------------------------------------------------- from JSON

#: What the functions below raise for a message that is not OTLP.
INVALID: Final = (ValueError, AttributeError, KeyError, TypeError, RecursionError, Error)


def resource_from_json(message: Mapping[str, Any]) -> Resource:
    """Return an OTLP resource. Failure: raises one of ``INVALID``."""
    given: Any = _otlp_of(message)
    return resource_from_bytes(ResourceSpans(resource=given).SerializeToString())


def from_json(message: Mapping[str, Any], resource: Resource) -> Span:
    """Return an OTLP span. Failure: raises one of ``INVALID``. Cost: 15 µs."""
    one = OtlpSpan(**_otlp_of(message))
    if not one.trace_id or not one.span_id:
        raise ValueError("no id")
    one.events.sort(key=attrgetter("time_unix_nano"))  # Jaeger: by their names
    return from_bytes(ScopeSpans(spans=[one]).SerializeToString(), resource)


def id_of(text: str, digits: int) -> str:
    """Return an id with all its digits: some writers leave zeros out."""
    given = bytes.fromhex(text.rjust(digits, "0")).hex()
    if not text or len(given) != digits:
        raise ValueError(f"an id of {len(given)} digits")
    return given


def text_of(given: Any) -> str:
    """Return a name or a message without secrets."""
    return _runtime.current.redaction.text(given)


def _otlp_of(message: Mapping[str, Any]) -> dict[str, Any]:
    """Return OTLP's JSON as protobuf's messages take it, without what a later version adds."""
    known = ((*_JSON[key], value) for key, value in message.items() if key in _JSON)
    return {name: read(value) for name, read, value in known}


def _all(messages: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    return [_otlp_of(each) for each in messages]


_READ: Final[Mapping[str, Callable[[Any], Any]]] = {
    "traceId": lambda given: bytes.fromhex(id_of(given, 32)),
    "spanId": lambda given: bytes.fromhex(id_of(given, 16)),
    "parentSpanId": lambda given: bytes.fromhex(id_of(given, 16)) if given.strip("0") else b"",
    **dict.fromkeys(("startTimeUnixNano", "endTimeUnixNano", "timeUnixNano", "flags"), int),
    # names are of later versions
    **dict.fromkeys(("kind", "code"), lambda given: given if isinstance(given, int) else 0),
    **dict.fromkeys(("status", "value", "arrayValue", "kvlistValue"), _otlp_of),
    **dict.fromkeys(("attributes", "events", "links", "values"), _all),
    **dict.fromkeys(("key", "name", "message", "stringValue", "boolValue"), lambda given: given),
    "intValue": int,
    "doubleValue": float,
    "bytesValue": base64.b64decode,
}
#: By OTLP's names in JSON: protobuf's name, and the function that makes the value.
_JSON: Final = {k: (re.sub("[A-Z]", r"_\g<0>", k).lower(), read) for k, read in _READ.items()}
