"""A span as it is read back: from the local store, or from any other source of OTLP bytes.

In: spans encoded as ``_otlp.span`` does it, with the resource that they came
with. Out: records of plain values. Invariant: what late stages are found by is
at hand; the rest stays encoded until it is asked for, because of 100,000 spans
read a screenful is shown, and messages cost four times the memory of their
bytes. Deliberately absent: where the bytes come from, and what is made of them.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import repeat
from typing import Any, Final

from opentelemetry.proto.trace.v1.trace_pb2 import ScopeSpans

from otel_logging import _names, _otlp

#: Span.kind and Status.code by OTLP's numbers.
_KINDS: Final = ("unspecified", "internal", "server", "client", "producer", "consumer")
_STATUSES: Final = ("unset", "ok", "error")
_REMOTE: Final = 0x300  # Span.flags: it is known whether the parent is remote, and it is
_BUDGET_KEY: Final = _names.BUDGET.encode()
_DEFAULT_WHO: Final = ("user_id",)  # setup_observability's own, for resources that do not say


@dataclass(frozen=True, slots=True)
class Resource:
    """The process a span came from. *who*: keys of the attributes that say on whose behalf."""

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
    """Another span that has to do with this one. Ids are lower-case hex."""

    trace_id: str
    span_id: str
    attributes: Mapping[str, Any]


# not frozen, though nobody changes one: that costs 1.2 µs a span of the 10 µs there are
@dataclass(slots=True, eq=False)
class Span:
    """A span that has ended. Ids are lower-case hex, times ns since the epoch."""

    trace_id: str
    span_id: str
    parent_span_id: str  # "" where it has none
    name: str
    start_ns: int
    end_ns: int
    resource: Resource
    budget_s: float | None  # how long it may take; None where nothing was said
    _encoded: bytes = field(repr=False)  # as field 2 of ScopeSpans, like _otlp.span
    _attributes: dict[str, Any] | None = field(default=None, repr=False)

    @property
    def _message(self) -> Any:
        return ScopeSpans.FromString(self._encoded).spans[0]

    def get(self, key: str) -> Any:
        """Return one attribute, or None; quicker than ``attributes`` for a look at many spans."""
        if self._attributes is not None:
            return self._attributes.get(key)
        return _value(self._message, key)

    def mentions(self, text: str) -> bool:
        """Whether *text* is anywhere in it: quick, and False only if no string in it has that."""
        return text.encode(errors="surrogatepass") in self._encoded

    @property
    def attributes(self) -> Mapping[str, Any]:
        """Its attributes as plain data."""
        if self._attributes is None:
            self._attributes = _otlp.values_of(self._message.attributes)
        return self._attributes

    @property
    def events(self) -> list[Event]:
        """Its events in the order in which they were recorded."""
        return [
            Event(e.time_unix_nano, e.name, _otlp.values_of(e.attributes))
            for e in self._message.events
        ]

    @property
    def links(self) -> list[Link]:
        """Its links in the order in which they were added."""
        return [
            Link(m.trace_id.hex(), m.span_id.hex(), _otlp.values_of(m.attributes))
            for m in self._message.links
        ]

    @property
    def duration_s(self) -> float:
        """From start to end; 0 where a clock was set back in between."""
        return max(self.end_ns - self.start_ns, 0) / 1e9

    @property
    def kind(self) -> str:
        """One of unspecified, internal, server, client, producer, consumer."""
        number = self._message.kind
        return _KINDS[number] if 0 <= number < len(_KINDS) else _KINDS[0]

    @property
    def status(self) -> str:
        """One of unset, ok, error."""
        number = self._message.status.code
        return _STATUSES[number] if 0 <= number < len(_STATUSES) else _STATUSES[0]

    @property
    def status_message(self) -> str:
        """What went wrong, where the status says; else empty."""
        return str(self._message.status.message)

    @property
    def remote_parent(self) -> bool:
        """Whether the parent is known to be a span of another process."""
        return bool(self._message.flags & _REMOTE == _REMOTE)

    @property
    def is_log_page(self) -> bool:
        """Whether it is no stage, but holds lines that its parent could not."""
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
        return {
            "span_id": self.span_id,
            "parent_span_id": self.parent_span_id or None,
            "service": self.resource.service,
            "name": self.name,
            "kind": self.kind,
            "start": rfc3339(self.start_ns),
            "duration_s": self.duration_s,
            "status": self.status,
            "attributes": self.attributes,
            "links": [
                {"trace_id": k.trace_id, "span_id": k.span_id, "attributes": k.attributes}
                for k in self.links
            ],
            "events": [event.as_json() for event in self.events],
        }


def decode(resource: bytes, scope: bytes, spans: Sequence[bytes]) -> Iterator[Span]:
    """Yield the records of *spans*; all three are what ``_otlp`` made of them.

    Failure: raises ``google.protobuf.message.DecodeError`` where one is no OTLP.
    """
    encoded = iter(spans)
    for group in _otlp.resource_spans(_otlp.request(resource, scope, spans)):
        origin = _resource(group.resource)
        for scope_spans in group.scope_spans:
            yield from map(_span, scope_spans.spans, encoded, repeat(origin))


def _resource(message: Any) -> Resource:
    values = _otlp.values_of(message.attributes)
    who = values.get(_names.WHO)
    keys = tuple(map(str, who)) if isinstance(who, list) else _DEFAULT_WHO
    return Resource(str(values.get("service.name") or "unknown_service"), keys)


def _span(message: Any, encoded: bytes, resource: Resource) -> Span:
    return Span(
        message.trace_id.hex(),
        message.span_id.hex(),
        message.parent_span_id.hex(),
        message.name,
        message.start_time_unix_nano,
        message.end_time_unix_nano,
        resource,
        _budget(message) if _BUDGET_KEY in encoded else None,
        encoded,
    )


def _budget(message: Any) -> float | None:
    value = _value(message, _names.BUDGET)
    is_budget = type(value) in (int, float) and math.isfinite(value) and value > 0
    return float(value) if is_budget else None


def _value(message: Any, key: str) -> Any:
    for item in message.attributes:
        if item.key == key:
            return _otlp.value_of(item.value)
    return None


def rfc3339(time_ns: int) -> str:
    """Return a time as RFC 3339 in UTC, with microseconds and ``Z``."""
    seconds, rest = divmod(time_ns, 1_000_000_000)
    moment = datetime.fromtimestamp(seconds, UTC).replace(microsecond=rest // 1000)
    return moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
