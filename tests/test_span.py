"""Spans of ours as OpenTelemetry's API and SDK see them, and where lines go."""

import gc
import json
import os
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import (
    SimpleSpanProcessor,
)
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_ON, Decision, Sampler, SamplingResult
from opentelemetry.trace import (
    Link,
    NonRecordingSpan,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
)
from opentelemetry.trace.span import TraceState

from otel_logging import _otlp, bind_context, get_logger, traced
from otel_logging._values import MAX_RECORD_BYTES
from tests.conftest import Lines, Service
from tests.lines import script
from tests.receiver import Event, Receiver
from tests.spools import ROOT

log = get_logger("shop")


@pytest.fixture
def tracer(service: Service) -> trace.Tracer:
    return trace.get_tracer("theirs", "1.2", attributes={"a": "b"})


# ---------------------------------------------------------------- the API


def test_spans_of_the_api_and_stages_nest_both_ways(service: Service, tracer: trace.Tracer) -> None:
    """OpenTelemetry's own way to open a span and ours are one tree, each in its scope."""
    with traced("a"), tracer.start_as_current_span("b", kind=SpanKind.CLIENT), traced("c"):
        log.info("hello")
    a, b, c = (service.one(name) for name in "abc")
    assert (b.parent_span_id, c.parent_span_id) == (a.span_id, b.span_id)
    assert (a.scope, b.scope, b.scope_version) == ("otel_logging", "theirs", "1.2")
    assert b.kind == "client"
    assert [e.name for e in c.events] == ["hello"]


def test_a_span_takes_all_that_the_api_gives(service: Service, tracer: trace.Tracer) -> None:
    """Attributes, events, links, name, status and times arrive as they were given."""
    span = tracer.start_span("old", start_time=1_000, attributes={"n": 1})
    span.set_attributes({"s": "x", "list": [1, 2], "": "nameless", 3: "three"})  # type: ignore[dict-item]
    span.add_event("first", {"k": "v"}, 1_500)
    span.add_event("second")
    span.add_link(SpanContext(5, 6, is_remote=True), {"why": "because"})
    span.add_link(trace.INVALID_SPAN_CONTEXT)
    span.update_name("new")
    span.set_status(Status(StatusCode.ERROR, "bad"))
    span.set_status(StatusCode.UNSET)
    span.end(2_000)
    span.end(3_000)
    sent = service.one("new")
    assert (sent.start_ns, sent.end_ns) == (1_000, 2_000)
    assert sent.attributes == {"n": 1, "s": "x", "list": [1, 2], "3": "three"}
    assert [(e.name, e.attributes) for e in sent.events] == [("first", {"k": "v"}), ("second", {})]
    assert sent.events[0].time_ns == 1_500
    assert [(int(x.span_id, 16), x.attributes) for x in sent.links] == [(6, {"why": "because"})]
    assert (sent.status, sent.message) == ("error", "bad")


def test_ok_is_final(service: Service, tracer: trace.Tracer) -> None:
    """As OpenTelemetry has it: after OK no other status counts."""
    with tracer.start_as_current_span("x") as span:
        span.set_status(StatusCode.OK, "ignored")
        span.set_status(StatusCode.ERROR, "late")
    assert (service.one("x").status, service.one("x").message) == ("ok", "")


def test_an_ended_span_changes_no_more(service: Service, tracer: trace.Tracer) -> None:
    """After the end nothing is set; an event leaves on a child, for none is lost."""
    span = tracer.start_span("x")
    span.end()
    span.set_attribute("a", 1)
    span.update_name("y")
    span.set_status(StatusCode.ERROR)
    span.add_link(SpanContext(5, 6, is_remote=True))
    span.record_exception(ValueError("late"))
    span.add_event("afterwards")
    sent = service.one("x")
    assert (sent.attributes, sent.status, sent.links, sent.events) == ({}, "unset", (), ())
    child = service.one("log")
    assert (child.parent_span_id, child.attributes) == (sent.span_id, {"log.page": 1})
    assert [e.name for e in child.events] == ["afterwards"]
    assert child.start_ns == child.end_ns - 1 == child.events[0].time_ns


def test_the_end_is_never_before_the_start(service: Service, tracer: trace.Tracer) -> None:
    """A clock that somebody else read wrong gives a span of a nanosecond: Jaeger warns of none."""
    tracer.start_span("x", start_time=2_000).end(1_000)
    assert (service.one("x").start_ns, service.one("x").end_ns) == (2_000, 2_001)


def test_a_span_as_context_manager_tells_of_an_exception(
    service: Service, tracer: trace.Tracer
) -> None:
    """``with tracer.start_span()`` records and ends; so does the decorator of a coroutine."""
    with pytest.raises(ValueError, match="a"), tracer.start_span("x"):
        raise ValueError("a")
    assert [e.name for e in service.one("x").events] == ["exception"]

    @tracer.start_as_current_span("y")
    async def decorated() -> str:
        return trace.get_current_span().name  # type: ignore[attr-defined]

    import asyncio

    assert asyncio.run(decorated()) == "y"
    with pytest.raises(SystemExit), tracer.start_span("z"):
        raise SystemExit
    assert service.one("z").status == "unset"


def test_nested_spans_of_the_api_tell_of_an_exception_once(
    service: Service, tracer: trace.Tracer
) -> None:
    """OpenTelemetry's ``use_span`` records at each level; one event is enough."""
    with pytest.raises(ValueError, match="a"):  # noqa: SIM117
        with tracer.start_as_current_span("outer"), tracer.start_as_current_span("inner"):
            raise ValueError("a")
    assert [len(service.one(n).events) for n in ("outer", "inner")] == [0, 1]
    assert [service.one(n).status for n in ("outer", "inner")] == ["error", "error"]


def test_a_span_shows_itself(service: Service, tracer: trace.Tracer) -> None:
    """What a debugger, an exporter and ``to_json`` ask for is answered, open and ended."""
    parent = SpanContext(7, 8, is_remote=True, trace_flags=TraceFlags(1))
    context = trace.set_span_in_context(NonRecordingSpan(parent))
    with tracer.start_as_current_span("x", context) as span:
        assert isinstance(span, ReadableSpan)
        assert repr(span).endswith("[open]>")
        assert span.end_time is None
        span.add_event("e", {"a": [1]})
        assert [e.name for e in span.events] == ["e"]
    assert span.parent == parent
    assert span.is_recording() is False
    assert repr(span).endswith("[ended]>")
    shown = json.loads(span.to_json())
    assert (shown["name"], shown["kind"], shown["parent_id"]) == (
        "x",
        "SpanKind.INTERNAL",
        "0x0000000000000008",
    )
    assert span.instrumentation_scope is not None
    assert span.instrumentation_scope.name == "theirs"
    assert span.resource.attributes["service.name"] == "shop"
    assert span.dropped_events == 0
    # 0x100: whether the parent is remote is known; 0x200: it is
    assert service.one("x").flags == 0x301


# ---------------------------------------------------------------- limits


def test_opentelemetrys_limits_hold(
    receiver: Receiver, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Counts and lengths of OTEL_*_LIMIT hold, what is left out is counted, no event is lost."""
    for name, value in {
        "OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT": "2",
        "OTEL_EVENT_ATTRIBUTE_COUNT_LIMIT": "1",
        "OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT": "3",
        "OTEL_SPAN_LINK_COUNT_LIMIT": "1",
        "OTEL_SPAN_EVENT_COUNT_LIMIT": "2",
    }.items():
        monkeypatch.setenv(name, value)
    service = Service(receiver, tmp_path)
    link = SpanContext(1, 2, is_remote=True)
    with traced("x", a="abcdef", b=1, c=2, links=[link, link]) as span:
        span.set_attribute("a", "uvwxyz")
        assert getattr(span, "dropped_attributes") == 1  # noqa: B009 - ReadableSpan's
        for n in range(3):
            span.add_event(f"e{n}", {"a": "abcdef", "b": 2})
    sent, page = service.one("x"), service.one("log")
    assert sent.attributes == {"a": "uvw", "b": 1}
    assert (sent.dropped_attributes, sent.dropped_links, len(sent.links)) == (1, 1, 1)
    assert [e.name for e in (*page.events, *sent.events)] == ["e0", "e1", "e2"]
    assert sent.events[0].attributes == {"a": "abc"}
    assert sent.events[0].dropped_attributes == 1
    service.observability.shutdown()


# ---------------------------------------------------------------- lines


def test_pages_of_lines_leave_at_once(service: Service) -> None:
    """Each 500 lines leave on a child span while the stage is still open; none is missing."""
    with traced("long"):
        for n in range(1_234):
            log.info("line", n=n)
        pages = service.named("log")
        assert [len(page.events) for page in pages] == [500, 500]
        assert service.named("long") == []
    spans = service.spans()
    assert [e.attributes["n"] for s in spans for e in s.events] == list(range(1_234))
    long = service.one("long")
    assert {page.parent_span_id for page in pages} == {long.span_id}
    assert [page.attributes["log.page"] for page in pages] == [1, 2]


def test_a_page_is_bounded_in_bytes_too(service: Service) -> None:
    """64 KiB of lines are a page."""
    with traced("wide"):
        for _ in range(20):
            log.info("line", text="x" * 8_000)
    pages = service.named("log")
    assert [len(page.events) for page in pages] == [9, 9]


def size_of(event: Event) -> int:
    return len(_otlp.event(event.time_ns, event.name, event.attributes))


def test_a_line_that_is_too_much_in_all_is_shortened(service: Service, lines: Lines) -> None:
    """To 256 KiB, with what is bound, the call's own, traceback and stack; on stdout and span."""
    bind_context(**{f"bound_{n}": "é" * 8_000 for n in range(60)})
    given = {f"given_{n}": ["x" * 600] * 100 for n in range(50)}
    with traced("wide"):
        try:
            raise ValueError("v" * 8_000)
        except ValueError:
            log.exception("m" * 9_000, **given, stack_info=True)
        log.info("next")
    (line, _), (wide, next_) = lines(), [e for s in service.spans() for e in s.events]
    assert size_of(wide) <= MAX_RECORD_BYTES
    assert len(json.dumps(line, ensure_ascii=False).encode()) < MAX_RECORD_BYTES
    assert wide.attributes.keys() >= {*given, "exception", "stack", "bound_0", "bound_59"}
    for fields in (line, wide.attributes):
        assert all("more]" in fields[key] for key in ("exception", "bound_0", "given_0"))
        assert fields["level"] == "error"
    assert len(line["event"]) <= len(wide.name) <= 8192
    assert next_.name == "next"


def test_fields_of_a_line_that_find_no_room_are_counted(
    receiver: Receiver, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the number of fields is not limited; those that every line has are kept."""
    monkeypatch.setenv("OTEL_EVENT_ATTRIBUTE_COUNT_LIMIT", "100000")
    service = Service(receiver, tmp_path)
    with traced("many"):
        log.info("m", **{f"field_{n}": n for n in range(30_000)})
    (event,) = service.one("log").events
    kept = event.attributes
    left = kept.pop("fields_left_out")
    assert size_of(event) <= MAX_RECORD_BYTES
    assert (kept.pop("level"), kept.pop("logger")) == ("info", "shop")
    assert list(kept)[:2] == ["field_0", "field_1"]
    assert len(kept) + left == 30_000
    assert left < 30_000 * 3 / 4
    service.observability.shutdown()


@pytest.mark.parametrize("where", ["ended", "outside", "of the API"])
def test_an_event_is_bounded_wherever_it_goes(service: Service, where: str) -> None:
    """A span that has ended, the process log, and ``add_event`` with a name without end."""
    fields = {f"given_{n}": "x" * 8_000 for n in range(100)}
    if where == "of the API":
        with traced("s") as span:
            span.add_event("n" * 1_000_000, fields)
    elif where == "ended":
        with traced("s"):
            context = otel_context.get_current()
        token = otel_context.attach(context)
        log.info("n", **fields)
        otel_context.detach(token)
    else:
        log.info("n", **fields)
    (event,) = [event for span in service.spans() for event in span.events]
    assert size_of(event) <= MAX_RECORD_BYTES
    assert event.name.startswith("n")
    assert fields.keys() <= event.attributes.keys()
    assert "more]" in event.attributes["given_99"]


def test_attributes_of_a_span_are_bounded_together(service: Service) -> None:
    """As those of a line; its events and links are its own, and it is shown as it is sent."""
    with traced("s", **{f"given_{n}": "x" * 8_000 for n in range(100)}) as span:
        bind_context(user_id="u1")
        log.info("line")
    sent = service.one("s")
    assert len(_otlp.attributes(b"J", sent.attributes)) <= MAX_RECORD_BYTES
    assert sent.attributes["user_id"] == "u1"
    assert "more]" in sent.attributes["given_0"]
    assert sent.attributes == getattr(span, "attributes")  # noqa: B009 - ReadableSpan's
    assert [event.name for event in sent.events] == ["line"]


def test_a_page_of_large_lines_does_not_shorten_its_span(service: Service) -> None:
    """What a span says of itself has a bound of its own."""
    with traced("s", text="x" * 8_000):
        log.info("small")
        log.info("large", **{f"given_{n}": "y" * 8_000 for n in range(100)})
    with traced("t", text="x" * 8_000) as span:
        for _ in range(7):
            log.info("line", text="z" * 8_000)
        span.add_event("large", {f"given_{n}": "y" * 2_000 for n in range(120)})
    assert service.one("s").attributes == service.one("t").attributes == {"text": "x" * 8_000}


THEIRS = """
import sys
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
trace.set_tracer_provider(TracerProvider())
from otel_logging import *
observability = setup_observability("shop", environment="production", endpoint=sys.argv[1],
                                    spool_dir=sys.argv[2])
with trace.get_tracer("theirs").start_as_current_span("theirs"):
    for n in range(130):
        get_logger("shop").info("n", **{f"given_{n}": "é" * 8_000 for n in range(n % 2 * 60)})
assert observability.shutdown()
"""


def test_an_event_of_another_sdks_span_is_bounded(receiver: Receiver, tmp_path: Any) -> None:
    """As one of ours, in its span and on the pages."""
    script(THEIRS, receiver.endpoint, str(tmp_path))
    events = [event for span in receiver.spans for event in span.events]
    assert len(events) == 130
    assert max(map(size_of, events)) <= MAX_RECORD_BYTES
    assert all("more]" in e.attributes.get("given_59", "more]") for e in events)
    assert len([e for e in events if "given_59" in e.attributes]) == 65


def test_a_line_after_the_span_ended_is_a_child_of_it(service: Service) -> None:
    """A task that outlives its request still logs into its trace."""
    with traced("request") as span:
        context = otel_context.get_current()
    token = otel_context.attach(context)
    log.info("one")
    log.info("two")
    otel_context.detach(token)
    request = service.one("request")
    children = service.named("log")
    assert [c.events[0].name for c in children] == ["one", "two"]
    assert {c.parent_span_id for c in children} == {request.span_id}
    assert [c.attributes["log.page"] for c in children] == [1, 2]
    assert span.is_recording() is False


def test_a_line_of_a_trace_from_outside_is_a_child_of_that(service: Service) -> None:
    """Between ``extract`` and the first stage a line belongs to the caller's span."""
    for flags in (1, 0):
        context = SpanContext(7, 8, is_remote=True, trace_flags=TraceFlags(flags))
        token = otel_context.attach(trace.set_span_in_context(NonRecordingSpan(context)))
        log.info("received", flags=flags)
        otel_context.detach(token)
    (child,) = service.named("log")
    assert (int(child.trace_id, 16), int(child.parent_span_id or "", 16)) == (7, 8)
    assert child.events[0].attributes["flags"] == 1


def test_lines_outside_any_span_are_on_a_process_log(service: Service) -> None:
    """They are collected on a root span, which a flush brings along."""
    bind_context(user_id="u1")
    log.info("one")
    log.info("two")
    span = service.one("process log")
    assert span.parent_span_id is None
    assert span.end_ns - span.start_ns == 1  # a search for long spans finds work, not this
    assert [(e.name, e.attributes["user_id"]) for e in span.events] == [
        ("one", "u1"),
        ("two", "u1"),
    ]
    log.info("three")
    assert [len(s.events) for s in service.named("process log")] == [2, 1]


def test_a_full_process_log_ends_and_the_next_begins(service: Service) -> None:
    """500 lines are one."""
    for n in range(1_100):
        log.info("line", n=n)
    spans = service.named("process log")
    assert [len(s.events) for s in spans] == [500, 500, 100]
    assert [e.attributes["n"] for s in spans for e in s.events] == list(range(1_100))


def test_threads_that_fill_one_span_while_it_ends_lose_nothing(service: Service) -> None:
    """Whoever comes first, every line is an event of exactly one span."""
    for turn in range(20):
        with traced("shared"):
            _fill_from_threads(turn)
    ids = [e.attributes["id"] for s in service.spans() for e in s.events]
    assert len(ids) == len(set(ids)) == 20 * 4 * 200


def _fill_from_threads(turn: int) -> None:
    """End the current span while four threads log 200 lines each into it."""
    context = otel_context.get_current()
    begin = threading.Barrier(5)

    def work(thread: int) -> None:
        begin.wait()
        otel_context.attach(context)
        for n in range(200):
            log.info("line", id=f"{turn}-{thread}-{n}")

    with ThreadPoolExecutor(4) as pool:
        running = [pool.submit(work, thread) for thread in range(4)]
        begin.wait()
        trace.get_current_span().end()
        for each in running:
            each.result()


def test_a_line_from_del_inside_a_span_is_not_lost(service: Service) -> None:
    """The garbage collector may log in the middle of anything."""

    class Logs:
        def __init__(self, n: int) -> None:
            self.n = n
            self.me = self

        def __del__(self) -> None:
            log.info("gone", n=self.n)

    with traced("busy"):
        for n in range(300):
            Logs(n)
            log.info("line", extra=[{} for _ in range(20)])
        gc.collect()
    gone = [e.attributes["n"] for s in service.spans() for e in s.events if e.name == "gone"]
    assert sorted(gone) == list(range(300))


class Racing(deque[bytes]):
    """A deque at which another thread acts at the worst moment."""

    def __init__(self, then: Callable[[], None]) -> None:
        super().__init__()
        self.then = then

    def append(self, item: bytes) -> None:
        super().append(item)
        self.then()


def test_an_event_that_is_taken_along_by_the_end_leaves_once(service: Service) -> None:
    """The span ends, in another thread, just after its last event was put to it."""
    with traced("x") as span:
        span._encoded_events = Racing(span.end)  # type: ignore[attr-defined]
        log.info("last")
    assert [e.name for e in service.one("x").events] == ["last"]
    assert service.named("log") == []


def test_an_event_that_the_end_has_missed_leaves_on_a_child(service: Service) -> None:
    """The span has ended, in another thread, just before."""

    class Late(Racing):
        def popleft(self) -> bytes:
            raise IndexError  # as if another thread had taken the last one

    with traced("x") as span:
        held = Late(span.end)
        span._encoded_events = held  # type: ignore[attr-defined]
        log.info("missed")
        span._encoded_events = deque(held)  # type: ignore[attr-defined]
        span.turn_page(1)  # type: ignore[attr-defined]
    assert service.one("x").events == ()
    assert [e.name for e in service.one("log").events] == ["missed"]


def test_a_process_log_that_ends_meanwhile_loses_nothing(service: Service) -> None:
    """Neither when it is rolled twice, nor when a line comes too late."""
    log.info("one")
    pipeline: Any = service.observability._pipeline
    held = pipeline._process_log
    pipeline.roll(held)
    pipeline.roll(held)
    held._encoded_events.append(_otlp.event(1, "late", {}))
    held.turn_page(1)
    assert [e.name for e in service.one("process log").events] == ["one"]
    assert [e.name for e in service.one("log").events] == ["late"]


def test_a_span_of_the_process_that_forked_is_not_ended_here(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The parent ends it; here it is as if it had ended."""
    with monkeypatch.context() as forked:
        with traced("parents") as span:
            forked.setattr(span, "_pid", 1)
            assert not span.is_recording()
        assert service.named("parents") == []


# ---------------------------------------------------------------- processors, samplers, exporters


def test_foreign_processors_and_exporters_work(service: Service, tracer: trace.Tracer) -> None:
    """The SDK's own exporters see our spans as they see the SDK's, lines and pages too."""
    exporter = InMemorySpanExporter()
    provider: Any = trace.get_tracer_provider()
    assert isinstance(provider, TracerProvider)
    processor = SimpleSpanProcessor(exporter)
    provider.add_span_processor(processor)
    with traced("x", user="u1", links=[SpanContext(1, 2, is_remote=True)]):
        log.info("hello", n=1)
    assert provider.resource.attributes["service.name"] == "shop"
    assert provider.force_flush(10_000) is True
    assert [s.name for s in service.receiver.spans] == ["x"]
    (span,) = exporter.get_finished_spans()
    assert (span.name, dict(span.attributes or {})) == ("x", {"user": "u1"})
    (event,) = span.events
    assert event.name == "hello"
    assert event.attributes == {"n": 1, "level": "info", "logger": "shop"}
    assert len(span.links) == 1
    assert service.one("x").events[0].name == "hello"


def test_a_processor_that_fails_is_contained(service: Service) -> None:
    """Nothing of a foreign processor reaches the application; it is counted."""

    class Broken(SpanProcessor):
        def on_start(self, span: Any, parent_context: Any = None) -> None:
            raise RuntimeError("start")

        def on_end(self, span: ReadableSpan) -> None:
            raise RuntimeError("end")

        def shutdown(self) -> None:
            raise RuntimeError("shutdown")

    provider: Any = trace.get_tracer_provider()
    provider.add_span_processor(Broken())
    with traced("x"):
        pass
    assert service.one("x")
    service.observability.shutdown()
    assert "'errors of a foreign span processor': 3" in repr(service.observability)


def test_a_foreign_sampler_decides(service: Service, tracer: trace.Tracer) -> None:
    """Drop, record only, and sample with attributes and state of its own."""

    class ByName(Sampler):
        def should_sample(  # type: ignore[no-untyped-def]
            self, parent_context, trace_id, name, kind=None, attributes=None, links=None, *rest
        ) -> SamplingResult:
            decision = {"drop": Decision.DROP, "record": Decision.RECORD_ONLY}.get(
                name, Decision.RECORD_AND_SAMPLE
            )
            return SamplingResult(
                decision, {**(attributes or {}), "why": "test"}, TraceState([("a", "b")])
            )

        def get_description(self) -> str:
            return "by name"

    provider: Any = trace.get_tracer_provider()
    provider.sampler = ByName()
    try:
        bind_context(user_id="u1")
        with traced("drop") as dropped:
            assert not dropped.is_recording()
            log.info("not in a trace")
        with traced("record") as recorded:
            assert recorded.is_recording()
        with traced("keep", n=1):
            pass
    finally:
        provider.sampler = ALWAYS_ON
    kept = service.one("keep")
    assert kept.attributes == {"user_id": "u1", "n": 1, "why": "test"}
    assert kept.trace_state == "a=b"
    assert [s.name for s in service.spans()] == ["keep"]


@pytest.mark.parametrize(
    ("sampler", "kept"),
    [
        ("always_on", {"root", "child of sampled", "child of unsampled"}),
        ("always_off", set()),
        ("parentbased_always_on", {"root", "child of sampled"}),
        ("parentbased_always_off", {"child of sampled"}),
        ("parentbased_traceidratio", {"child of sampled"}),
        ("traceidratio", set()),
    ],
)
def test_opentelemetrys_samplers_are_honoured(
    sampler: str, kept: set[str], receiver: Receiver, tmp_path: Any, monkeypatch: Any
) -> None:
    """OTEL_TRACES_SAMPLER decides for roots and for traces from outside."""
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", sampler)
    monkeypatch.setenv("OTEL_TRACES_SAMPLER_ARG", "0.0")
    service = Service(receiver, tmp_path)
    with traced("root"):
        pass
    for name, flags in (("child of sampled", 1), ("child of unsampled", 0)):
        parent = SpanContext(7, 8, is_remote=True, trace_flags=TraceFlags(flags))
        token = otel_context.attach(trace.set_span_in_context(NonRecordingSpan(parent)))
        with traced(name):
            log.info("line")
        otel_context.detach(token)
    spans = service.spans()
    assert {s.name for s in spans if s.name != "process log"} == kept
    service.observability.shutdown()


# ---------------------------------------------------------------- somebody else's provider


ATTACHED = """
import sys
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from otel_logging import *

theirs = TracerProvider()
exporter = InMemorySpanExporter()
theirs.add_span_processor(SimpleSpanProcessor(exporter))
trace.set_tracer_provider(theirs)
log = get_logger("shop")
for turn in range(2):
    with setup_observability("shop", environment="production", endpoint=sys.argv[1],
                             spool_dir=sys.argv[2]) as observability:
        assert trace.get_tracer_provider() is theirs
        with traced("request", budget=60) as span:
            with trace.get_tracer("theirs").start_as_current_span("inner"):
                bind_context(user_id="u1")
            for n in range(700):
                log.info("line", n=n, odd={"a": None})
            try:
                with traced("failing"):
                    log.info("line of few")
                    raise ValueError("bad")
            except ValueError:
                pass
        log.info("outside")
        with extract({"traceparent": f"00-{7:032x}-{8:016x}-01"}), traced("remote"):
            pass
        theirs.force_flush()
        from opentelemetry import context
        token = context.attach(trace.set_span_in_context(span))
        log.info("afterwards")
        context.detach(token)
        assert observability.force_flush(10)
    with traced("between"):
        pass
assert "lost" not in repr(observability), observability
names = [s.name for s in exporter.get_finished_spans()]
assert names == ["inner", "failing", "request", "remote", "between"] * 2, names
"""


def test_where_a_provider_is_set_already_we_attach_to_it(receiver: Receiver, tmp_path: Any) -> None:
    """It stays, its exporter works on, its spans come along, and no line of ours is lost to its
    limit of events; a second set-up attaches again, and nothing is doubled.
    """
    subprocess.run(
        [sys.executable, "-c", ATTACHED, receiver.endpoint, str(tmp_path)],
        check=True,
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
    )
    spans = receiver.spans
    requests = [s for s in spans if s.name == "request"]
    assert len(requests) == 2
    assert all(r.attributes["user_id"] == "u1" for r in requests)
    lines = [e for s in spans for e in s.events if e.name == "line"]
    assert sorted(e.attributes["n"] for e in lines) == sorted([*range(700)] * 2)
    assert [len(s.events) for s in spans if s.name == "failing"] == [2, 2]
    assert [s.flags for s in spans if s.name == "remote"] == [0x301] * 2
    assert len([s for s in spans if s.name == "inner"]) == 2
    pages = [s for s in spans if s.name == "log"]
    assert {p.parent_span_id for p in pages} == {r.span_id for r in requests}
    assert len([e for s in spans for e in s.events if e.name == "outside"]) == 2
    assert len([e for s in spans for e in s.events if e.name == "afterwards"]) == 2


# ---------------------------------------------------------------- a fork


FORKED = """
import os, sys
from otel_logging import *

observability = setup_observability("shop", environment="production", endpoint=sys.argv[1],
                                    spool_dir=sys.argv[2])
log = get_logger("shop")
log.info("outside", who="parent")
with traced("request") as span:
    log.info("before")
    child = os.fork()
    me = "child" if child == 0 else "parent"
    log.info("inside", who=me)
    with traced("work", who=me):
        pass
log.info("outside again", who=me)
assert observability.shutdown()
if child:
    os.waitpid(child, 0)
else:
    os._exit(0)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork on this platform")
def test_a_forked_child_goes_on_in_the_parents_trace(receiver: Receiver, tmp_path: Any) -> None:
    """Both deliver what they did, under their own process id; the parent's span ends once."""
    subprocess.run(
        [sys.executable, "-W", "ignore", "-c", FORKED, receiver.endpoint, str(tmp_path)],
        check=True,
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
    )
    spans = receiver.spans
    (request,) = [s for s in spans if s.name == "request"]
    work = {s.attributes["who"]: s for s in spans if s.name == "work"}
    assert {s.parent_span_id for s in work.values()} == {request.span_id}
    assert work["child"].resource["process.pid"] != work["parent"].resource["process.pid"]
    events = sorted((e.name, e.attributes.get("who", "")) for s in spans for e in s.events)
    assert events == [
        ("before", ""),
        ("inside", "child"),
        ("inside", "parent"),
        ("outside", "parent"),
        ("outside again", "child"),
        ("outside again", "parent"),
    ]


def test_links_and_status_of_the_api_are_ours_too(tracer: trace.Tracer, service: Service) -> None:
    """``start_span(links=)`` takes OpenTelemetry's links."""
    tracer.start_span("x", links=[Link(SpanContext(1, 2, is_remote=False))]).end()
    assert len(service.one("x").links) == 1
