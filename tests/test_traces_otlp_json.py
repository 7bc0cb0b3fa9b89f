"""OTLP's JSON, as Jaeger gives it."""

from typing import Any

import pytest

from otel_logging.traces import otlp_json
from otel_logging.traces.spans import Event, Link, Resource
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
                            "links": [{"traceId": "a" * 32, "spanId": "b" * 16}],
                            "status": {"code": 2, "message": "ValueError: boom"},
                        }
                    ],
                }
            ],
        }
    ]
}


def test_a_span_reads_back_as_from_the_local_store() -> None:
    """To the nanosecond; the list that Jaeger's storage made a text of is one again."""
    (span,) = otlp_json.spans(RECORDED)

    assert (span.trace_id, span.span_id, span.parent_span_id) == (
        TRACE,
        "3555940964d64190",
        "00000000000000ff",
    )
    assert (span.name, span.kind, span.status) == ("message", "server", "error")
    assert (span.start_ns, span.end_ns) == (NOON + 1, NOON + 1_987_755_211)
    assert (span.budget_s, span.status_message) == (0.5, "ValueError: boom")
    assert span.resource == Resource("chat-gateway", ("tenant",))
    assert span.attributes == {"budget_s": 0.5, "late": True, "user_id": "grace"}
    assert span.events == [Event(NOON + 7, "message received", {"chars": 33})]
    assert span.links == [Link("a" * 32, "b" * 16, {})]


def with_attribute(value: object) -> dict[str, Any]:
    span = {"traceId": TRACE, "spanId": "1", "attributes": [{"key": "k", "value": value}]}
    return {"resourceSpans": [{"scopeSpans": [{"spans": [span]}]}]}


@pytest.mark.parametrize(
    ("json", "value"),
    [
        ({"stringValue": "x"}, "x"),
        ({"boolValue": False}, False),
        ({"intValue": "-3"}, -3),
        ({"intValue": 3}, 3),
        ({"doubleValue": "Infinity"}, "Infinity"),
        ({"arrayValue": {"values": [{"intValue": "1"}, {}]}}, [1, None]),
        ({"arrayValue": {}}, []),
        ({"kvlistValue": {"values": [{"key": "a", "value": {"stringValue": "b"}}]}}, {"a": "b"}),
        ({"bytesValue": "AP8="}, "00ff"),
        ({}, None),
    ],
)
def test_every_kind_of_value_is_read(json: object, value: object) -> None:
    """As ``show`` prints it from the local store."""
    (span,) = otlp_json.spans(with_attribute(json))

    assert span.attributes == {"k": value}


def test_what_is_left_out_has_its_default() -> None:
    """OTLP's JSON leaves out zeros; a later version's enums may be names."""
    span = {"traceId": TRACE, "spanId": "1", "kind": "SPAN_KIND_NEW"}
    (read,) = otlp_json.spans({"resourceSpans": [{"scopeSpans": [{"spans": [span]}]}]})

    assert (read.kind, read.status, read.parent_span_id) == ("unspecified", "unset", "")
    assert read.resource == Resource("unknown_service", ("user_id",))
    assert list(otlp_json.spans({})) == []


@pytest.mark.parametrize(
    "data",
    [
        {"resourceSpans": 3},
        {"resourceSpans": [3]},
        {"resourceSpans": [{"scopeSpans": [{"spans": [{"spanId": "1"}]}]}]},
        {"resourceSpans": [{"scopeSpans": [{"spans": [{"traceId": "ab", "spanId": "1"}]}]}]},
        {"resourceSpans": [{"scopeSpans": [{"spans": [{"traceId": "xy", "spanId": "1"}]}]}]},
        with_attribute(3),
        with_attribute({"intValue": "three"}),
        with_attribute({"bytesValue": "a"}),
    ],
)
def test_what_is_no_otlp_is_a_value_error(data: dict[str, Any]) -> None:
    """Whatever is wrong with it."""
    with pytest.raises(ValueError):  # noqa: PT011 - any
        list(otlp_json.spans(data))
