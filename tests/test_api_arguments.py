"""Every argument of OpenTelemetry's API does what it says, and the limits of values hold."""

import json
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.trace import Link, Span, SpanKind, Status, StatusCode

from otel_logging import get_logger, traced
from otel_logging.testing import Captured, capture


@pytest.fixture
def seen() -> Iterator[Captured]:
    with capture() as captured:
        yield captured


def _by_start_span(name: str, **options: bool) -> Any:
    return trace.get_tracer("library").start_span(name, **options)


def _by_start_as_current_span(name: str, **options: bool) -> Any:
    return trace.get_tracer("library").start_as_current_span(name, **options)


def _by_use_span(name: str, **options: bool) -> Any:
    span = trace.get_tracer("library").start_span(name)
    return trace.use_span(span, end_on_exit=True, **options)


@pytest.mark.parametrize("begin", [_by_start_span, _by_start_as_current_span, _by_use_span])
@pytest.mark.parametrize("record", [True, False])
@pytest.mark.parametrize("status", [True, False])
def test_an_exception_that_is_an_answer(
    begin: Any, record: bool, status: bool, seen: Captured
) -> None:
    """``record_exception`` and ``set_status_on_exception``, together and alone."""
    with (
        pytest.raises(ValueError, match="answer"),
        begin("s", record_exception=record, set_status_on_exception=status),
    ):
        raise ValueError("an answer")
    span = seen.span("s")
    assert (len(span["events"]), span["status"] == "error") == (int(record), status)
    escaped = [event["attributes"]["exception.escaped"] for event in span["events"]]
    assert escaped == [str(begin is _by_start_span)] * record  # as the SDK's own


def test_a_span_begins_and_ends_as_it_is_asked_to(seen: Captured) -> None:
    """Parent, kind, attributes, links, both times, and whether a block ends it."""
    tracer = trace.get_tracer("library")
    with traced("outer") as outer, traced("beside"):
        made = tracer.start_span(
            "made",
            trace.set_span_in_context(outer),
            SpanKind.CLIENT,
            {"a": 1},
            [Link(outer.get_span_context(), {"n": 1})],
            1_000_000_000,
        )
        assert isinstance(made, Span)
        made.add_link(outer.get_span_context(), {"n": 2})
        made.update_name("renamed")
        made.end(3_000_000_000)
        with tracer.start_as_current_span("open", end_on_exit=False) as kept:
            pass
        assert kept.is_recording()
        kept.end()
    span = seen.span("renamed")
    assert span["parent_span_id"] == seen.span("outer")["span_id"]
    assert (span["kind"], span["attributes"]) == ("client", {"a": 1})
    assert [link["attributes"] for link in span["links"]] == [{"n": 1}, {"n": 2}]
    assert span["duration_s"] == 2


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ((Status(StatusCode.ERROR, "full"),), ("error", "full")),
        ((StatusCode.ERROR, "full"), ("error", "full")),
        ((StatusCode.ERROR,), ("error", None)),
        ((StatusCode.OK,), ("ok", None)),
        ((StatusCode.UNSET,), ("unset", None)),
    ],
)
def test_a_status_is_set(given: Any, expected: Any, seen: Captured) -> None:
    with traced("s") as span:
        span.set_status(*given)
    assert (seen.span("s")["status"], span.status.description) == expected  # type: ignore[attr-defined]


def test_an_exception_that_is_recorded_by_hand(seen: Captured) -> None:
    """With its attributes, its time, and its whole traceback, unless the trace has that."""
    with suppress(ValueError), traced("outer"), traced("inner") as span:
        try:
            raise ValueError("no price")
        except ValueError as error:
            span.record_exception(error, {"attempt": 1, "exception.type": "Own"}, 5, escaped=True)
            get_logger("shop").exception("failed")
            span.record_exception(error, {"attempt": 2})
            raise
    first, line, second = seen.span("inner")["events"]
    assert first["attributes"]["exception.stacktrace"].startswith("Traceback")
    assert first["attributes"]["exception.type"] == "Own"
    assert (first["attributes"]["attempt"], first["attributes"]["exception.escaped"]) == (1, "True")
    assert line["attributes"]["exception"] == "ValueError: no price"
    assert second["attributes"]["attempt"] == 2
    assert second["attributes"]["exception.stacktrace"] == "ValueError: no price"
    assert seen.span("outer")["events"] == []


# ---------------------------------------------------------------- long values

CONVERSATION = json.dumps([{"role": "user", "content": "x" * 20_000}])


@pytest.mark.parametrize("key", ["gen_ai.input.messages", "input.value", "output.value"])
def test_a_conversation_stays_whole(key: str, seen: Captured) -> None:
    """On the span, on a line, on an event of the API; any other text is shortened."""
    with traced("s", attributes={key: CONVERSATION, "other": CONVERSATION}) as span:
        span.add_event("e", {key: [CONVERSATION]})
        get_logger("shop").info("asked", **{key: CONVERSATION})
    found, (line,) = seen.span("s"), seen.lines
    event, asked = found["events"]
    assert found["attributes"][key] == line[key] == asked["attributes"][key] == CONVERSATION
    assert event["attributes"][key] == [CONVERSATION]
    assert len(found["attributes"]["other"]) == 8192


@pytest.mark.parametrize("limit", [100, 9_000, 100_000])
def test_a_limit_holds_above_and_below_the_packages_own(
    limit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT", str(limit))
    with capture() as seen, traced("s", a=CONVERSATION, b=[CONVERSATION]) as span:
        span.set_attribute("gen_ai.input.messages", CONVERSATION)
        get_logger("shop").info("asked", a=CONVERSATION)
    most = min(limit, len(CONVERSATION))
    kept = seen.span("s")["attributes"]
    assert [len(kept["a"]), len(kept["b"][0]), len(kept["gen_ai.input.messages"])] == [most] * 3
    assert len(seen.span("s")["events"][0]["attributes"]["a"]) == most


@pytest.mark.parametrize("item", [0.1, 7, True])
def test_a_long_list_of_numbers_is_shortened_to_numbers(item: Any, seen: Captured) -> None:
    """An embedding, say; other lists say how much is missing."""
    with traced("s", a=[item] * 3072, b=["x"] * 3072, c=[[item] * 3072]):
        pass
    kept = seen.span("s")["attributes"]
    assert {type(each) for each in kept["a"]} == {type(item)}
    assert {type(each) for each in kept["c"][0]} == {type(item)}
    assert len(kept["a"]) > 900
    assert kept["b"][-1].endswith("more")
