"""OTLP bytes: what is written reads back the same, by OpenTelemetry's own classes and encoder."""

import math
from collections.abc import Iterator
from dataclasses import replace
from importlib.metadata import version
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.proto.trace.v1.trace_pb2 import ScopeSpans, Span, TracesData
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, SpanContext, SpanKind, Status, StatusCode, TraceState

from otel_logging import _otlp, _runtime
from otel_logging._redact import DEFAULT, OFF
from otel_logging.logs.configure import use


@pytest.fixture(autouse=True, scope="module")
def nothing_redacted() -> Iterator[None]:
    """These tests are about bytes: any text is a value like another."""
    use(replace(_runtime.current, redaction=OFF))
    yield
    use(replace(_runtime.current, redaction=DEFAULT))


_INT64 = st.integers(-(2**63), 2**63 - 1)
_FINITE = st.floats(allow_nan=False, allow_infinity=False)
_SCALARS = st.text(max_size=80) | st.booleans() | _INT64 | _FINITE | st.none()
_VALUES = st.recursive(
    _SCALARS,
    lambda items: (
        st.lists(items, max_size=3) | st.dictionaries(st.text(max_size=5), items, max_size=3)
    ),
    max_leaves=6,
)
_FIELDS = st.dictionaries(st.text(max_size=80), _VALUES, max_size=5)
_TIMES = st.integers(0, 2**64 - 1)
_COUNTS = st.integers(0, 2**32 - 1)
_TRACE_IDS = st.integers(1, 2**128 - 1)
_SPAN_IDS = st.integers(1, 2**64 - 1)
_STATES = st.dictionaries(st.sampled_from("abc"), st.sampled_from(["1", "x y"]), max_size=3).map(
    lambda entries: TraceState(list(entries.items()))
)
_CONTEXTS = st.builds(
    SpanContext, _TRACE_IDS, _SPAN_IDS, is_remote=st.booleans(), trace_state=_STATES
)
_EVENTS = st.builds(Event, st.text(), _FIELDS, _TIMES)
_LINKS = st.builds(Link, _CONTEXTS, _FIELDS)
_STATUS = st.builds(Status, st.just(StatusCode.ERROR), st.text() | st.none()) | st.sampled_from(
    [Status(StatusCode.UNSET), Status(StatusCode.OK)]
)
_HAS_REMOTE, _REMOTE = 0x100, 0x200  # trace.proto, SpanFlags


def _flags(context: SpanContext | None) -> int:
    return _HAS_REMOTE | (_REMOTE if context and context.is_remote else 0)


class _Readable(ReadableSpan):
    """The SDK's record, with counts of dropped parts as its own spans have them."""

    counts: tuple[int, int, int]
    dropped_attributes = property(lambda self: self.counts[0])
    dropped_events = property(lambda self: self.counts[1])
    dropped_links = property(lambda self: self.counts[2])


@st.composite
def _spans(draw: st.DrawFn) -> ReadableSpan:
    span = _Readable(
        name=draw(st.text()),
        context=draw(_CONTEXTS),
        parent=draw(st.none() | _CONTEXTS),
        resource=Resource(draw(_FIELDS_OF_RESOURCE), draw(st.sampled_from(["", "https://x"]))),
        attributes=draw(_FIELDS),
        events=draw(st.lists(_EVENTS, max_size=3)),
        links=draw(st.lists(_LINKS, max_size=2)),
        kind=draw(st.sampled_from(SpanKind)),
        instrumentation_scope=InstrumentationScope(
            draw(st.text()), draw(st.text()), draw(st.sampled_from(["", "https://y"])), {"k": 1}
        ),
        status=draw(_STATUS),
        start_time=draw(_TIMES),
        end_time=draw(_TIMES),
    )
    span.counts = draw(st.tuples(_COUNTS, _COUNTS, _COUNTS))
    return span


_FIELDS_OF_RESOURCE = st.dictionaries(st.text(min_size=1, max_size=9), st.text(), max_size=3)


def _state(context: SpanContext) -> str:
    # as the encoder puts it; W3C's own header form is another
    return ",".join(f"{key}={value}" for key, value in context.trace_state.items())


def _links(span: ReadableSpan) -> list[bytes]:
    # the official encoder leaves a link's state out
    return [
        _otlp.link(
            link.context.trace_id,
            link.context.span_id,
            "",
            _flags(link.context),
            link.attributes or {},
        )
        for link in span.links
    ]


def _encode(span: ReadableSpan) -> bytes:
    context = span.get_span_context()
    assert span.start_time is not None
    assert span.end_time is not None
    return _otlp.span(
        trace_id=context.trace_id.to_bytes(16, "big"),
        span_id=context.span_id,
        parent_span_id=span.parent.span_id if span.parent else 0,
        trace_state=_state(context),
        flags=_flags(span.parent),
        name=span.name,
        kind=span.kind.value + 1,
        start_ns=span.start_time,
        end_ns=span.end_time,
        values=span.attributes or {},
        dropped=(span.dropped_attributes, span.dropped_events, span.dropped_links),
        events=[_otlp.event(e.timestamp, e.name, e.attributes or {}) for e in span.events],
        links=_links(span),
        status=span.status.status_code.value,
        message=span.status.description or "",
    )


#: What the encoder of older releases leaves out: None inside a value (until 1.41), and a
#: scope's attributes and schema URL (until 1.30).
_ORACLE = tuple(int(part) for part in version("opentelemetry-sdk").split(".")[:2])


@pytest.mark.skipif(_ORACLE < (1, 42), reason="the oracle leaves out what OTLP has a place for")
@given(_spans())
def test_a_span_is_what_the_official_encoder_makes_of_it(span: ReadableSpan) -> None:
    """The same message, field by field, for any span the SDK can hold."""
    scope = span.instrumentation_scope
    assert scope is not None
    ours = _otlp.request(
        _otlp.resource(span.resource.attributes, span.resource.schema_url),
        _otlp.scope(scope.name, scope.version or "", scope.attributes, scope.schema_url or ""),
        [_encode(span)] * 2,
    )
    official = encode_spans([span, span]).SerializeToString()
    assert _normal(ours) == _normal(official)


@pytest.mark.skipif(_ORACLE < (1, 42), reason="the oracle's classes had other names")
@given(
    times=st.tuples(_TIMES, _TIMES),
    severity=st.sampled_from([(1, "TRACE"), (9, "INFO"), (24, "FATAL4")]),
    body=st.text(),
    fields=st.dictionaries(st.text(max_size=80), _SCALARS.filter(lambda v: v is not None)),
    ids=st.none() | st.tuples(_TRACE_IDS, _SPAN_IDS, st.sampled_from([0, 1])),
)
def test_a_log_record_is_what_the_official_encoder_makes_of_it(
    times: tuple[int, int],
    severity: tuple[int, str],
    body: str,
    fields: dict[str, Any],
    ids: tuple[int, int, int] | None,
) -> None:
    """The same message, field by field, inside a span and outside any."""
    from opentelemetry._logs import LogRecord, SeverityNumber
    from opentelemetry.exporter.otlp.proto.common._log_encoder import encode_logs
    from opentelemetry.proto.logs.v1.logs_pb2 import LogsData
    from opentelemetry.sdk._logs import ReadableLogRecord
    from opentelemetry.trace import TraceFlags

    trace_id, span_id, flags = ids or (0, 0, 0)
    record = LogRecord(
        timestamp=times[0],
        observed_timestamp=times[1],
        trace_id=trace_id,
        span_id=span_id,
        trace_flags=TraceFlags(flags),
        severity_number=SeverityNumber(severity[0]),
        severity_text=severity[1],
        body=body,
        attributes=fields,
    )
    official = encode_logs(
        [ReadableLogRecord(record, Resource({"a": "b"}), InstrumentationScope("shop"))]
    ).SerializeToString()
    encoded = _otlp.log_record(
        *times,
        *severity,
        body,
        fields,
        trace_id=trace_id.to_bytes(16, "big") if trace_id else b"",
        span_id=span_id,
        flags=flags,
    )
    ours = _otlp.request(_otlp.resource({"a": "b"}), _otlp.scope("shop"), [encoded])
    read, expected = LogsData.FromString(ours), LogsData.FromString(official)
    assert read.SerializeToString(deterministic=True) == expected.SerializeToString(
        deterministic=True
    )


def test_a_log_record_counts_the_fields_that_were_dropped() -> None:
    """A log store shows that something was left out."""
    from opentelemetry.proto.logs.v1.logs_pb2 import ScopeLogs

    encoded = _otlp.log_record(1, 2, 9, "INFO", "said", {}, dropped=2**32 + 3)
    assert ScopeLogs.FromString(encoded).log_records[0].dropped_attributes_count == 3


def _normal(request: bytes) -> bytes:
    """In the order of field numbers; an unset status says nothing, whether there or not."""
    data = TracesData.FromString(request)
    for span in data.resource_spans[0].scope_spans[0].spans:
        if span.status.code == 0:
            span.ClearField("status")
    return data.SerializeToString(deterministic=True)


@settings(deadline=None)
@given(_FIELDS, st.integers(-(2**70), 2**70))
def test_values_read_back_as_they_were_written(fields: dict[str, Any], number: int) -> None:
    """``values_of`` undoes ``attributes``, types and all."""
    read = _read({"fields": fields, "list": [fields], "n": number})
    assert repr(read["fields"]) == repr(fields)
    assert repr(read["list"]) == repr([fields])
    fits = -(2**63) <= number < 2**63
    assert read["n"] == (number if fits else str(number))


def _read(fields: dict[Any, Any]) -> dict[str, Any]:
    return _otlp.values_of(Span.FromString(_otlp.attributes(b"\x4a", fields)).attributes)


@given(_FIELDS, st.integers(0, 300))
def test_an_encoded_span_takes_further_attributes(fields: dict[str, Any], length: int) -> None:
    """Whatever its length is; the rest stays."""
    encoded = _otlp.span(b"t" * 16, 1, 0, "", 1, "n" * length, 1, 1, 2, fields)
    more = _otlp.with_attributes(encoded, {"more": ["a"]})
    (before,), (after,) = (ScopeSpans.FromString(each).spans for each in (encoded, more))
    assert after.attributes.pop().key == "more"
    assert after == before


def test_bytes_in_a_foreign_span_read_as_hex() -> None:
    """OTLP JSON has no bytes: what others sent is shown as hexadecimal digits."""
    span = Span()
    span.attributes.add(key="raw").value.bytes_value = b"\x00\xff"
    assert _otlp.values_of(span.attributes) == {"raw": "00ff"}


def test_a_lone_surrogate_is_written_as_its_escape() -> None:
    """OTLP strings are UTF-8, which has no place for one: in names, keys and values."""
    assert _read({"k\ud800": "v\udfff", "l": ["\ud800"], "d": {"\ud800": 1}}) == {
        "k\\ud800": "v\\udfff",
        "l": ["\\ud800"],
        "d": {"\\ud800": 1},
    }
    encoded = _otlp.event(1, "said \ud800", {})
    assert Span.FromString(encoded).events[0].name == "said \\ud800"


def _span(**changed: Any) -> Span:
    fields: dict[str, Any] = {
        "trace_id": bytes(15) + b"\1",
        "span_id": 1,
        "parent_span_id": 0,
        "trace_state": "",
        "flags": 1,
        "name": "n",
        "kind": 1,
        "start_ns": 1,
        "end_ns": 2,
        "values": {},
    }
    encoded = _otlp.span(**(fields | changed))
    request = _otlp.request(_otlp.resource({}), _otlp.scope("s"), [encoded])
    (resource_spans,) = TracesData.FromString(request).resource_spans
    return resource_spans.scope_spans[0].spans[0]


def test_numbers_of_any_size_do_not_raise() -> None:
    """Foreign ids, flags and counts are cut to the width of their field."""
    link = _otlp.link(2**130 + 5, 2**70 + 6, "a=1", 2**40 + 7, {})
    span = _span(
        flags=2**32 + 4,
        dropped=(2**32 + 1, -1, 2**40 + 9),
        links=[link],
        events=[_otlp.event(1, "e", {}, dropped=2**32 + 8)],
    )
    assert span.flags == 4
    assert (span.dropped_attributes_count, span.dropped_links_count) == (1, 9)
    assert span.dropped_events_count == 2**32 - 1
    assert (span.links[0].trace_id[-1], span.links[0].span_id[-1]) == (5, 6)
    assert (span.links[0].flags, span.links[0].trace_state) == (7, "a=1")
    assert span.events[0].dropped_attributes_count == 8


def test_any_key_and_value_can_be_an_attribute() -> None:
    """Keys that are no strings, and values that are no plain data, are made so."""

    class Key(str):
        __slots__ = ()
        __hash__ = None  # type: ignore[assignment]

    assert _read({1: "a", None: b"b"}) == {"1": "a", "None": "b'b'"}
    encoded = _otlp.attribute(b"\x4a", Key("k"), object)
    (read,) = Span.FromString(encoded).attributes
    assert (read.key, read.value.string_value) == ("k", "<class 'object'>")


def test_remembered_attributes_keep_their_types_apart() -> None:
    """A string and what prints like it are two values, however often they come."""
    same_looking = ["1", 1, True, "True", 1.0, "1.0", None, "None", "", "1"]
    for key in ("k", "k"):
        for value in same_looking:
            assert repr(_read({key: value})[key]) == repr(value)


def test_what_is_remembered_is_bounded() -> None:
    """Values that never come again, and long ones, do not fill the memory."""
    for number in range(3 * _otlp._REMEMBERED):
        assert _read({"user_id": f"user-{number}"}) == {"user_id": f"user-{number}"}
        assert len(_otlp._remembered) <= _otlp._REMEMBERED
    before = len(_otlp._remembered)
    assert _read({"k" * 65: "v", "k": "v" * 65}) == {"k" * 65: "v", "k": "v" * 65}
    assert len(_otlp._remembered) == before


def test_numbers_that_are_not_finite_are_texts() -> None:
    """Jaeger answers in JSON, which has none: one such value would fail a whole search."""
    given = {"a": math.nan, "b": math.inf, "c": -math.inf, "d": [math.nan], "e": -math.nan}
    for _ in range(2):  # its name is remembered, and then what is before its number
        _otlp.attributes(b"\x4a", dict.fromkeys("abc", 0.5))
    encoded = Span.FromString(_otlp.attributes(b"\x4a", given))
    kinds = {each.key: each.value.WhichOneof("value") for each in encoded.attributes}
    assert kinds == dict.fromkeys("abce", "string_value") | {"d": "array_value"}
    foreign = Span()
    foreign.attributes.add(key="f").value.double_value = -math.inf
    assert _otlp.values_of(foreign.attributes) == {"f": "-Infinity"}
    assert _otlp.values_of(encoded.attributes) == {
        "a": "NaN",
        "b": "Infinity",
        "c": "-Infinity",
        "d": ["NaN"],
        "e": "NaN",
    }
