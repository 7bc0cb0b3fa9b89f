"""The public processors, alone in somebody else's chain, with OpenTelemetry as it comes."""

import io
import json
import logging
from dataclasses import replace
from typing import Any
from unittest.mock import Mock

import pytest
import structlog
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from otel_logging import (
    _diagnostics,
    _runtime,
    bind_context,
    bound_context,
    clear_context,
    processors,
    traced,
)
from otel_logging.processors import (
    add_bound_context,
    add_job_tag,
    add_trace_context,
    record_on_span,
)
from tests.conftest import Service
from tests.lines import ROOT
from tests.programs import script
from tests.readme import blocks


class Stock:
    """OpenTelemetry's own SDK, and what it exported."""

    def __init__(self) -> None:
        self.exporter = InMemorySpanExporter()
        provider = TracerProvider()
        provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.tracer = provider.get_tracer("stock")

    def events(self) -> list[tuple[str, dict[str, Any]]]:
        spans = self.exporter.get_finished_spans()
        return [(e.name, dict(e.attributes or {})) for s in spans for e in s.events]


@pytest.fixture
def stock() -> Stock:
    return Stock()


@pytest.fixture(autouse=True)
def nothing_bound() -> None:
    clear_context()


def line(processor: Any, **fields: Any) -> dict[str, Any]:
    return dict(processor(None, "info", dict(fields)))


# ---------------------------------------------------------------- add_bound_context


def test_bound_fields_are_added_and_the_calls_own_win() -> None:
    """What is bound is the background."""
    assert line(add_bound_context, event="e") == {"event": "e"}
    bind_context(user_id="u", step=1)
    assert line(add_bound_context, event="e", step=2) == {"event": "e", "step": 2, "user_id": "u"}


def test_bound_fields_with_reserved_names_get_an_underscore() -> None:
    """In anyone's chain: whatever comes after would overwrite them."""
    bind_context(level="mine", event="mine", timestamp=1, level_="also mine", trace_id="req-1")
    assert line(add_bound_context, event="e") == {
        "event": "e",
        "level_": "also mine",
        "level__": "mine",
        "event_": "mine",
        "timestamp_": 1,
        "trace_id": "req-1",
    }


# ---------------------------------------------------------------- add_trace_context


def test_without_a_span_nothing_is_added() -> None:
    """And a trace id given by hand stays."""
    assert line(add_trace_context, trace_id="req-1", span_id=5) == {
        "trace_id": "req-1",
        "span_id": 5,
    }


def test_the_current_spans_ids_are_added(stock: Stock) -> None:
    """In OpenTelemetry's format for other logs: lower-case hex of fixed width."""
    with stock.tracer.start_as_current_span("s") as span:
        context = span.get_span_context()
        assert line(add_trace_context) == {
            "trace_id": f"{context.trace_id:032x}",
            "span_id": f"{context.span_id:016x}",
            "trace_flags": f"{context.trace_flags:02x}",
        }


def test_inside_a_span_what_was_given_by_hand_is_kept_under_another_name(stock: Stock) -> None:
    """``request_id``; ``trace_id_`` where that is taken; underscores for the rest."""
    with stock.tracer.start_as_current_span("s"):
        assert line(add_trace_context, trace_id="r")["request_id"] == "r"
        both = line(add_trace_context, trace_id="r", request_id="q", span_id=1, trace_flags=2)
        assert (both["request_id"], both["trace_id_"]) == ("q", "r")
        assert (both["span_id_"], both["trace_flags_"]) == (1, 2)
        assert "request_id" not in line(add_trace_context, trace_id=None)


def test_a_span_that_is_not_recorded_has_ids_too() -> None:
    """An inbound trace that is not sampled still tells lines where they belong."""
    context = trace.SpanContext(1, 2, is_remote=True, trace_flags=trace.TraceFlags(0))
    with trace.use_span(trace.NonRecordingSpan(context)):
        assert line(add_trace_context)["trace_flags"] == "00"
        assert line(record_on_span, event="e") == {"event": "e"}


def test_a_span_that_does_not_say_its_ids_costs_no_line() -> None:
    """A broken SDK's, or a test's mock; the line says all the rest."""

    class Failing(trace.NonRecordingSpan):
        def get_span_context(self) -> Any:
            raise OSError("broken")

    for span in (
        Failing(trace.INVALID_SPAN_CONTEXT),
        trace.NonRecordingSpan(None),
        Mock(trace.Span),
    ):  # type: ignore[arg-type]
        with trace.use_span(span):
            assert line(add_trace_context, event="e", trace_id="r") == {
                "event": "e",
                "trace_id": "r",
            }
    assert _diagnostics.counts["lines without their trace: a span did not say its ids"] == 3


# ---------------------------------------------------------------- record_on_span


def test_a_line_is_an_event_of_the_recording_span(stock: Stock) -> None:
    """Its name is the message; what the span says itself is not said again."""
    with stock.tracer.start_as_current_span("s"):
        before = {"event": "hello", "timestamp": "t", "level": "info", "trace_id": "x", "n": 1}
        assert line(record_on_span, **before, _record=object()).items() >= before.items()
    assert stock.events() == [("hello", {"level": "info", "n": 1})]


def test_any_value_becomes_an_attribute_that_the_sdk_takes(stock: Stock) -> None:
    """No dict, no None, no exception: none of them would arrive."""
    with stock.tracer.start_as_current_span("s"):
        line(record_on_span, event=["not", "text"], a={"b": None}, c=None, d=ValueError("x"))
    ((name, attributes),) = stock.events()
    assert name == "['not', 'text']"
    assert attributes == {"a": '{"b":null}', "c": "null", "d": "ValueError: x"}


def test_without_a_span_there_is_no_event(stock: Stock) -> None:
    """Nor with one that has ended."""
    line(record_on_span, event="outside")
    with stock.tracer.start_as_current_span("s") as span:
        span.end()
        line(record_on_span, event="too late")
    assert stock.events() == []


def test_a_span_that_another_thread_holds_is_waited_for_a_moment(
    stock: Stock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That thread may be about to log, and wait for the handler that makes this line."""
    monkeypatch.setattr(processors, "_BUSY_S", 0.01)
    with stock.tracer.start_as_current_span("s") as span:
        held: Any = span
        with held._lock:
            line(record_on_span, event="lost")
        line(record_on_span, event="kept")
    assert [name for name, _ in stock.events()] == ["kept"]
    assert _diagnostics.counts == {
        "log lines without an event: another thread holds the span's lock": 1
    }


def test_a_span_of_another_kind_takes_lines_too() -> None:
    """One without a lock that is known."""

    class Plain(trace.NonRecordingSpan):
        told: list[str] = []  # noqa: RUF012 - one test's

        def is_recording(self) -> bool:
            return True

        def add_event(self, name: str, attributes: Any = None, timestamp: Any = None) -> None:
            self.told.append(name)

    with trace.use_span(Plain(trace.SpanContext(1, 2, is_remote=False))):
        line(record_on_span, event="hello")
    assert Plain.told == ["hello"]


def test_a_span_that_fails_is_a_counted_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    """A log call never raises, whoever's span it is."""

    class Failing(trace.NonRecordingSpan):
        def is_recording(self) -> bool:
            raise OSError("broken")

    context = trace.SpanContext(1, 2, is_remote=False)
    with trace.use_span(Failing(context)):
        assert line(record_on_span, event="e") == {"event": "e"}
        bind_context(user_id="u")
    assert _diagnostics.counts["log lines lost on their way to a span"] == 1
    assert _diagnostics.counts["fields lost: a span did not take them"] == 1


def test_after_set_up_every_other_line_goes_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Outside any span too: with its time, or that of now."""
    taken: list[Any] = []
    changed = replace(_runtime.current, line_sink=lambda *line: taken.append(line))
    monkeypatch.setattr(_runtime, "current", changed)
    line(record_on_span, event="e", _time_ns=5, n=1)
    line(record_on_span, event="f")
    assert taken[0] == (trace.INVALID_SPAN, 5, "e", {"n": 1})
    assert taken[1][1] > 1e18


def test_lines_that_leave_as_records_are_no_events(
    stock: Stock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """OTEL_LOGS_EXPORTER=otlp: instead, never as well."""
    taken: list[Any] = []

    def take(*line: Any) -> None:
        taken.append(line)

    changed = replace(_runtime.current, record_sink=take, on_spans=False)
    monkeypatch.setattr(_runtime, "current", changed)
    error = KeyError("k")
    with stock.tracer.start_as_current_span("s") as span:
        line(record_on_span, event="e", _time_ns=5, n=1)
        line(record_on_span, event="f", _time_ns=6, exc_info=error)
    assert taken == [
        (span, 5, "e", {"n": 1}, None),
        (span, 6, "f", {"exception": "KeyError: 'k'"}, error),
    ]
    assert stock.events() == []


def test_a_span_of_ours_takes_its_lines_itself(service: Service) -> None:
    """Also from a chain of somebody else's."""
    with traced("s"):
        line(record_on_span, event="e", n=1)
    (event,) = service.one("s").events
    assert (event.name, event.attributes) == ("e", {"n": 1})


# ---------------------------------------------------------------- in a formatter


def formatting(stream: io.StringIO) -> logging.Handler:
    handler = logging.StreamHandler(stream)
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=[add_job_tag, record_on_span],
        processors=[
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            structlog.processors.KeyValueRenderer(),
        ],
    )
    handler.setFormatter(formatter)
    return handler


def test_a_record_that_is_a_line_of_ours_is_no_second_event(service: Service) -> None:
    """With a set-up of ours beside somebody's formatter."""
    logger = logging.getLogger("others.of.ours")
    stream = io.StringIO()
    logger.addHandler(handler := formatting(stream))
    try:
        with traced("s"):
            logger.warning("hello")
    finally:
        logger.removeHandler(handler)
    assert [event.name for event in service.one("s").events] == ["hello"]
    assert stream.getvalue() == "event='hello'\n"


def test_a_field_that_is_called_as_the_formatters_own_is_no_record(stock: Stock) -> None:
    """A line is a line, whatever it has."""
    with stock.tracer.start_as_current_span("s"):
        line(record_on_span, event="e", _record="mine")
        line(record_on_span, event="e", _record="mine")
    assert [name for name, _ in stock.events()] == ["e", "e"]


def test_an_exception_that_is_not_rendered_yet_is_on_the_span(stock: Stock) -> None:
    """The line keeps it as it is: a console renderer draws it itself."""
    error = ValueError("no stock")
    with stock.tracer.start_as_current_span("s"):
        assert line(record_on_span, event="e", exc_info=error)["exc_info"] is error
        line(record_on_span, event="f", exc_info=None)
        for odd in (5, (1, 2, 3), Odd(), (Odd(), Odd(), Odd())):
            line(record_on_span, event="g", exc_info=odd)
    (_, fields), *others = stock.events()
    assert fields == {"exception": "ValueError: no stock"}
    assert [fields for _, fields in others] == [{}] * 5


class Odd:
    """Has neither a truth nor a class."""

    def __bool__(self) -> bool:
        raise ValueError("which of them")

    @property
    def __class__(self) -> Any:
        raise ValueError("none")


# ---------------------------------------------------------------- all, in a chain


def test_in_a_chain_of_somebody_elses(stock: Stock) -> None:
    """``structlog.configure`` with just these: the README's third way."""
    output = structlog.testing.LogCapture()
    logger: Any = structlog.wrap_logger(
        None, processors=[add_bound_context, add_trace_context, record_on_span, output]
    )
    with stock.tracer.start_as_current_span("s"), bound_context(user_id="u"):
        logger.info("hello", n=1)
    (entry,) = output.entries
    assert entry["user_id"] == "u"
    assert len(entry["trace_id"]) == 32
    assert stock.events() == [("hello", {"n": 1, "user_id": "u"})]


def test_all_of_them_are_public() -> None:
    """What a module says it offers is there, and sorted."""
    assert processors.__all__ == sorted(processors.__all__)
    offered = {name for name in dir(processors) if name.startswith(("add_", "record_on_span"))}
    assert offered - {"add_ids"} <= set(processors.__all__)


# ---------------------------------------------------------------- docs/processors.md

IN_STRUCTLOG, IN_FORMATTER = blocks("python", ROOT / "docs" / "processors.md")


def printed(code: str) -> tuple[list[Any], list[Any], str]:
    """Run *code*; return its lines and its spans, both JSON on stdout, and stderr."""
    done = script(code)
    text, found = done.stdout.decode().strip(), []
    while text:
        value, end = json.JSONDecoder().raw_decode(text)
        found.append(value)
        text = text[end:].lstrip()
    spans = [value for value in found if "context" in value]
    return [value for value in found if value not in spans], spans, done.stderr.decode()


def without_ids(line: dict[str, Any], span: dict[str, Any]) -> dict[str, Any]:
    """Check that *line* has the ids of *span*, and return the rest of it."""
    assert f"0x{line.pop('trace_id')}" == span["context"]["trace_id"]
    assert f"0x{line.pop('span_id')}" == span["context"]["span_id"]
    assert int(line.pop("trace_flags"), 16) & 1  # sampled; newer SDKs say more
    assert line.pop("timestamp").startswith("20")
    return line


def test_the_example_of_a_chain() -> None:
    """Letter by letter, with stock OpenTelemetry: the line, and the same as an event, once."""
    (line,), (span,), _ = printed(IN_STRUCTLOG)
    fields = {"count": 12, "level": "info", "market": "EU", "job_tag": "PRICE_CACHE"}
    assert without_ids(line, span) == {"event": "prices refreshed", **fields}
    (event,) = span["events"]
    assert (event["name"], event["attributes"]) == ("prices refreshed", fields)


def test_the_example_of_a_formatter() -> None:
    """Two origins, two handlers: each line on both, and once on the span."""
    lines, (span,), errors = printed(IN_FORMATTER)
    of_ours = {"items": 3, "level": "info", "logger": "shop", "user_id": "user-456"}
    of_theirs = {"level": "warning", "logger": "library", "user_id": "user-456"}
    assert [without_ids(line, span) for line in lines] == [
        {"event": "order placed", **of_ours},
        {"event": "stock of tea is low", **of_theirs},
    ]
    assert [(event["name"], event["attributes"]) for event in span["events"]] == [
        ("order placed", of_ours),
        ("stock of tea is low", of_theirs),
    ]
    assert [errors.count(text) for text in ("order placed", "stock of tea is low")] == [1, 1]
