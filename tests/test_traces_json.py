"""OTLP's JSON, as Jaeger gives it."""

import json
from typing import Any

import pytest

from otel_logging.traces.jaeger import Jaeger, NotUnderstoodError
from otel_logging.traces.span import INVALID, Event, Resource, Span, from_json
from tests.jaeger import FakeJaeger
from tests.stored import NOON, TRACE

#: As Jaeger 2.13 answered for a span of this package, shortened.
RECORDED: dict[str, Any] = {
    "resourceSpans": [
        {
            "resource": {
                "attributes": [
                    {"key": "otel_logging.who", "value": {"stringValue": '["tenant"]'}},
                    {"key": "process.pid", "value": {"intValue": "18677"}},
                    {"key": "service.name", "value": {"stringValue": "chat-gateway"}},
                ]
            },
            "scopeSpans": [
                {
                    "scope": {"name": "otel_logging"},
                    "spans": [
                        {
                            "traceId": TRACE,
                            "spanId": "3555940964d64190",
                            "parentSpanId": "00000000000000ff",
                            "name": "message",
                            "kind": 2,
                            "ofALaterVersion": {"x": 1},
                            "startTimeUnixNano": str(NOON + 1),
                            "endTimeUnixNano": str(NOON + 1_987_755_211),
                            "attributes": [
                                {"key": "budget_s", "value": {"doubleValue": 0.5}},
                                {"key": "late", "value": {"boolValue": True}},
                                {"key": "user_id", "value": {"stringValue": "grace"}},
                            ],
                            "events": [
                                {
                                    "timeUnixNano": str(NOON + 7),
                                    "name": "message received",
                                    "attributes": [{"key": "chars", "value": {"intValue": "33"}}],
                                }
                            ],
                            "links": [
                                {
                                    "traceId": "a" * 32,
                                    "spanId": "b" * 16,
                                    "attributes": [
                                        {
                                            "key": "opentracing.ref_type",
                                            "value": {"stringValue": "follows_from"},
                                        }
                                    ],
                                }
                            ],
                            "status": {"code": 2, "message": "ValueError: boom"},
                        }
                    ],
                }
            ],
        }
    ]
}


def read(data: Any, *, left_out: int = 0) -> list[Span]:
    """Read *data* as Jaeger's answer for one trace."""
    with FakeJaeger() as fake:
        body = json.dumps({"result": data}).encode()
        fake.instead = lambda _: (200, "application/json", body)
        asked = Jaeger(fake.url)
        spans = asked.trace(TRACE)
    assert len(asked.left_out) == left_out
    return spans


def test_a_span_reads_back_as_from_the_local_store() -> None:
    """To the nanosecond; the list that Jaeger's storage made a text of is one again."""
    (span,) = read(RECORDED)

    assert (span.trace_id, span.span_id, span.parent_span_id) == (
        TRACE,
        "3555940964d64190",
        "00000000000000ff",
    )
    assert (span.name, span.details.kind, span.details.status) == ("message", "server", "error")
    assert (span.start_ns, span.end_ns) == (NOON + 1, NOON + 1_987_755_211)
    assert (span.budget_s, span.details.status_message) == (0.5, "ValueError: boom")
    assert span.resource == Resource("chat-gateway", ("tenant",))
    assert span.attributes == {"budget_s": 0.5, "late": True, "user_id": "grace"}
    assert span.events == [Event(NOON + 7, "message received", {"chars": 33})]
    assert span.details.links == [{"trace_id": "a" * 32, "span_id": "b" * 16, "attributes": {}}]


def with_attribute(value: object) -> dict[str, Any]:
    span = {"traceId": TRACE, "spanId": "1", "attributes": [{"key": "k", "value": value}]}
    return {"resourceSpans": [{"scopeSpans": [{"spans": [span]}]}]}


@pytest.mark.parametrize(
    ("given", "value"),
    [
        ({"stringValue": "x"}, "x"),
        ({"boolValue": False}, False),
        ({"intValue": "-3"}, -3),
        ({"intValue": 3}, 3),
        ({"doubleValue": 0.5}, 0.5),
        ({"doubleValue": "Infinity"}, "Infinity"),
        ({"doubleValue": float("nan")}, "NaN"),
        ({"arrayValue": {"values": [{"intValue": "1"}, {}]}}, [1, None]),
        ({"arrayValue": {}}, []),
        ({"kvlistValue": {"values": [{"key": "a", "value": {"stringValue": "b"}}]}}, {"a": "b"}),
        ({"bytesValue": "AP8="}, "00ff"),
        ({}, None),
    ],
)
def test_every_kind_of_value_is_read(given: object, value: object) -> None:
    """As ``show`` prints it from the local store."""
    (span,) = read(with_attribute(given))

    assert span.attributes == {"k": value}


def test_a_field_that_json_leaves_out_has_its_default() -> None:
    """OTLP's JSON leaves out zeros; a later version's enums may be names."""
    span = {"traceId": TRACE, "spanId": "1", "kind": "SPAN_KIND_NEW"}
    (got,) = read({"resourceSpans": [{"scopeSpans": [{"spans": [span]}]}]})

    assert (got.details.kind, got.details.status, got.parent_span_id) == (
        "unspecified",
        "unset",
        "",
    )
    assert got.resource == Resource("unknown_service", ("user_id",))
    assert read({}) == []


@pytest.mark.parametrize(
    "data",
    [
        {"resourceSpans": 3},
        {"resourceSpans": [3]},
        {"resourceSpans": [{"scopeSpans": [{"spans": [3]}]}]},
        {"resourceSpans": [{"scopeSpans": [{"spans": ["x"]}]}]},
    ],
)
def test_json_that_is_not_otlp_is_an_error(data: dict[str, Any]) -> None:
    """There are no spans at all."""
    with pytest.raises(NotUnderstoodError, match="something other than OTLP"):
        read(data)


def deep(levels: int) -> dict[str, Any]:
    value: dict[str, Any] = {}
    for _ in range(levels):
        value = {"arrayValue": {"values": [value]}}
    return value


@pytest.mark.parametrize(
    "bad",
    [
        {"spanId": "1"},
        {"traceId": "ab" * 17, "spanId": "1"},
        {"traceId": "xy", "spanId": "1"},
        {"traceId": TRACE, "spanId": "1", "name": 3},
        {"traceId": TRACE, "spanId": "f" * 17},
        {"traceId": TRACE, "spanId": "1", "startTimeUnixNano": str(2**64)},
        {"traceId": TRACE, "spanId": "1", "endTimeUnixNano": -1},
        {"traceId": TRACE, "spanId": "1", "attributes": [{"key": 3}]},
        {"traceId": TRACE, "spanId": "1", "events": [{"name": 3}]},
        {"traceId": TRACE, "spanId": "1", "links": [{"traceId": "xy", "spanId": "1"}]},
        *(
            {"traceId": TRACE, "spanId": "1", "attributes": [{"key": "k", "value": value}]}
            for value in (3, {"intValue": "three"}, {"bytesValue": "a"})
        ),
    ],
    ids=str,
)
def test_an_invalid_span_hides_no_other(bad: Any) -> None:
    """It is left out, and counted once."""
    good = {"traceId": TRACE, "spanId": "2"}
    group = {"scopeSpans": [{"spans": [bad, good, bad]}]}

    (got,) = read({"resourceSpans": [group]}, left_out=1)

    assert got.span_id == "0000000000000002"


def test_a_value_that_is_nested_too_deep_is_invalid() -> None:
    """What Python's own limit does not let through."""
    span = {"traceId": TRACE, "spanId": "1", "attributes": [{"key": "k", "value": deep(5000)}]}

    with pytest.raises(INVALID):
        from_json(span, Resource("x", ()))


def test_spans_of_an_invalid_resource_are_left_out() -> None:
    """Which service they come from is not known."""
    scoped = [{"spans": [{"traceId": TRACE, "spanId": n} for n in "12"]}]

    assert read({"resourceSpans": [{"resource": 3, "scopeSpans": scoped}]}, left_out=2) == []


@pytest.mark.parametrize("who", ["[broken", "[" * 100_000], ids=["broken", "deep"])
def test_a_who_that_only_looks_like_a_list_is_a_text(who: str) -> None:
    """Somebody else wrote it: the default holds."""
    resource = {"attributes": [{"key": "otel_logging.who", "value": {"stringValue": who}}]}
    scoped = [{"spans": [{"traceId": TRACE, "spanId": "1"}]}]

    (got,) = read({"resourceSpans": [{"resource": resource, "scopeSpans": scoped}]})

    assert got.resource.who == ("user_id",)
