"""Spans of ours as OpenTelemetry's API and SDK see them, and where lines go."""

import copy
import gc
import json
import logging
import os
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import pytest
from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.proto.trace.v1.trace_pb2 import Span as Message
from opentelemetry.proto.trace.v1.trace_pb2 import TracesData
from opentelemetry.sdk import trace as sdk
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace import Span as SdkSpan
from opentelemetry.sdk.trace import Tracer as SdkTracer
from opentelemetry.sdk.trace.export import (
    SimpleSpanProcessor,
)
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import (
    ALWAYS_OFF,
    ALWAYS_ON,
    Decision,
    Sampler,
    SamplingResult,
)
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
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

from otel_logging import (
    _diagnostics,
    _otlp,
    bind_context,
    bound_context,
    get_logger,
    tag_background_logger,
    traced,
)
from otel_logging._values import MAX_RECORD_BYTES
from otel_logging.export import foreign, span_bytes
from otel_logging.export.foreign import AttachedProcessor
from tests.conftest import Lines, Service
from tests.programs import good, python, script
from tests.receiver import Event as Received
from tests.receiver import Receiver

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


def test_a_status_after_ok_changes_nothing(service: Service, tracer: trace.Tracer) -> None:
    """As OpenTelemetry has it: after OK no other status counts."""
    with tracer.start_as_current_span("x") as span:
        span.set_status(StatusCode.OK, "ignored")
        span.set_status(StatusCode.ERROR, "late")
    assert (service.one("x").status, service.one("x").message) == ("ok", "")


def test_a_handler_that_uses_the_ended_span_is_warned_once(
    service: Service, tracer: trace.Tracer
) -> None:
    """A warning is a line, whose handlers may do what it warns about."""

    class Marking(logging.Handler):
        records = 0

        def emit(self, record: logging.LogRecord) -> None:
            self.records += 1
            span.set_attribute("last", record.getMessage())

    handler = Marking()
    logging.getLogger().addHandler(handler)
    span = tracer.start_span("x")
    span.end()
    try:
        span.set_attribute("late", 1)
    finally:
        logging.getLogger().removeHandler(handler)
    assert handler.records == 1
    assert service.one("x").attributes == {}


def test_a_description_beside_a_status_is_a_warning(
    service: Service, tracer: trace.Tracer, caplog: pytest.LogCaptureFixture
) -> None:
    """As the SDK's: a status has one of its own."""
    odd: Any = tracer.start_span("x")
    odd.set_status(trace.Status(StatusCode.ERROR, "kept"), "ignored")
    odd.end()
    (record,) = caplog.records
    assert record.getMessage() == "Description ignored: a `Status` has one of its own."
    assert service.one("x").message == "kept"


def test_an_ended_span_changes_no_more(
    service: Service, tracer: trace.Tracer, caplog: pytest.LogCaptureFixture
) -> None:
    """After the end nothing is set; an event leaves on a child, for none is lost. Each call is a
    warning, of the SDK's logger.
    """
    span = tracer.start_span("x")
    span.end()
    warned = logging.getLogger("opentelemetry.sdk.trace")
    warned.disabled = True
    span.add_event("afterwards")
    warned.disabled = False
    with caplog.at_level("WARNING"):
        span.end()
        span.set_attribute("a", 1)
        span.update_name("y")
        span.set_status(StatusCode.ERROR)
        span.add_link(SpanContext(5, 6, is_remote=True))
        span.record_exception(ValueError("late"))
    assert [record.getMessage() for record in caplog.records] == [
        "Calling end() on an ended span.",
        *(
            f"Tried calling {name} on an ended span."
            for name in ("set_attributes", "update_name", "set_status", "add_link")
        ),
    ]
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


def test_a_span_as_context_manager_records_an_exception(
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


def test_a_budget_takes_no_room_that_is_not_left(
    receiver: Receiver, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is an attribute like any, though nobody looks at its value."""
    monkeypatch.setenv("OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT", "2")
    service = Service(receiver, tmp_path)
    for bound in ({"a": 1}, {"a": 1, "b": 2}):
        with bound_context(**bound), traced(f"{len(bound)} bound", budget=600.0):
            pass
    first, second = service.one("1 bound"), service.one("2 bound")
    assert (first.attributes, first.dropped_attributes) == ({"a": 1, "budget_s": 600.0}, 0)
    assert (second.attributes, second.dropped_attributes) == ({"a": 1, "b": 2}, 1)
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


def size_of(event: Received) -> int:
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
        assert all("more]" in fields[key] for key in ("exception", "bound_0"))
        *kept, note = fields["given_0"]
        assert note == f"… {100 - len(kept)} more"
        assert fields["level"] == "error"
    assert len(line["event"]) <= len(wide.name) <= 8192
    assert next_.name == "next"


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
        wide = 60 if n % 129 == 0 else 0
        get_logger("shop").info("n", **{f"given_{n}": "é" * 8_000 for n in range(wide)})
assert observability.shutdown()
"""


def test_an_event_of_another_sdks_span_is_bounded(receiver: Receiver, tmp_path: Any) -> None:
    """As one of ours, in its span and on the pages."""
    script(THEIRS, receiver.endpoint, str(tmp_path))
    events = [event for span in receiver.spans for event in span.events]
    assert len(events) == 130
    assert max(map(size_of, events)) <= MAX_RECORD_BYTES
    assert all("more]" in e.attributes.get("given_59", "more]") for e in events)
    assert len([e for e in events if "given_59" in e.attributes]) == 2  # the last on a page


def test_fields_of_a_line_that_find_no_room_are_counted(
    receiver: Receiver, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the number of fields is not limited; those that every line has are kept."""
    monkeypatch.setenv("OTEL_EVENT_ATTRIBUTE_COUNT_LIMIT", "100000")
    names = ["field_" * 15 + str(n) for n in range(4_000)]
    service = Service(receiver, tmp_path)
    with traced("many"):
        log.info("m", **dict.fromkeys(names, 1))
    (event,) = service.one("log").events
    kept = event.attributes
    left = kept.pop("fields_left_out")
    assert size_of(event) <= MAX_RECORD_BYTES
    assert (kept.pop("level"), kept.pop("logger")) == ("info", "shop")
    assert list(kept)[:2] == names[:2]
    assert len(kept) + left == len(names)
    assert left < len(names) * 3 / 4
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
    for name in ("s", "t"):
        assert service.one(name).attributes["text"] == "x" * 8_000


WIDE = """
from opentelemetry.trace import Link, SpanContext, StatusCode
def wide(n, length):
    return {f"given_{number}": "x " * (length // 2) for number in range(n)}
def link(values):
    return Link(SpanContext(7, 8, is_remote=False), values)
def spans(tracer):
    tracer.start_span("n" * 300_000).end()
    span = tracer.start_span("status")
    span.set_status(StatusCode.ERROR, "d" * 300_000)
    span.end()
    tracer.start_span("attributes", attributes=wide(120, 8_000)).end()
    tracer.start_span("links", links=[link(wide(1, 8_000))] * 127 + [link(None)]).end()
    span = tracer.start_span("all", attributes=wide(120, 8_000), links=[link(wide(120, 8_000))])
    span.set_status(StatusCode.ERROR, "\N{ROCKET}" * 1_000_000)
    for number in range(7):
        span.add_event("event", wide(1, 8_000))
    span.end()
    span = tracer.start_span("events", attributes={"a": 1})
    for number in range(100):
        span.add_event(f"event {number}", wide(1, 8_000))
    span.end()
"""


@pytest.mark.parametrize("whose", ["ours", "theirs"])
def test_a_span_is_bounded_as_a_whole(whose: str, receiver: Receiver, tmp_path: Any) -> None:
    """Name, description, attributes and links; events that are too much leave on child spans."""
    code = (
        "import sys\nfrom opentelemetry import trace\n"
        "from opentelemetry.sdk.trace import TracerProvider\n"
        f"if {whose == 'theirs'}:\n    trace.set_tracer_provider(TracerProvider())\n"
        "from otel_logging import setup_observability\n"
        "observability = setup_observability('shop', environment='production',"
        " endpoint=sys.argv[1], spool_dir=sys.argv[2])\n"
        f"{WIDE}\nspans(trace.get_tracer('theirs'))\nassert observability.shutdown()\n"
    )
    script(code, receiver.endpoint, str(tmp_path))
    for request in receiver.requests:
        for message in TracesData.FromString(request.body).resource_spans:
            for sent in (span for scope in message.scope_spans for span in scope.spans):
                assert sent.ByteSize() <= MAX_RECORD_BYTES, sent.name
    found = {span.name: span for span in receiver.spans}
    (long,) = (name for name in found if name.startswith("nnn"))
    assert 8_100 < len(long) <= 8192
    assert 8_100 < len(found["status"].message) <= 8192
    assert "more]" in long
    assert found["attributes"].attributes.keys() == {f"given_{n}" for n in range(120)}
    assert "more]" in found["attributes"].attributes["given_0"]
    *links, last = found["links"].links
    assert len(links) == 127
    assert all("more]" in link.attributes["given_0"] for link in links)
    assert last.attributes == {}
    assert len(found["all"].attributes) == 120
    (link,) = found["all"].links
    assert len(link.attributes) == 120
    assert len(found["all"].events) == 7
    events = [e for span in receiver.spans for e in span.events if e.name.startswith("event ")]
    assert {e.name for e in events} == {f"event {number}" for number in range(100)}
    assert {e.attributes["given_0"] for e in events} == {"x " * 4_000}
    assert found["events"].attributes == {"a": 1}
    pages = [span for span in receiver.spans if span.name == "log"]
    assert {page.parent_span_id for page in pages} == {found["events"].span_id}
    numbers = [page.attributes["log.page"] for page in pages]
    assert sorted(numbers) == list(range(1, len(pages) + 1))


@pytest.mark.parametrize("whose", ["ours", "theirs"])
def test_a_page_is_bounded_with_a_large_line_on_it(whose: str, service: Service) -> None:
    """An event that would fill a page alone has a page of its own."""
    tracer = attached() if whose == "theirs" else trace.get_tracer("ours")
    wide = {f"given_{n}": "y" * 8_000 for n in range(60)}
    with tracer.start_as_current_span("s", attributes={"text": "x" * 8_000}) as span:
        for _ in range(7):
            log.info("small", text="z" * 8_000)
        log.info("large", **wide)
        span.add_event("large event", wide)
    service.spans()
    for request in service.receiver.requests:
        for message in TracesData.FromString(request.body).resource_spans:
            for sent in (span for scope in message.scope_spans for span in scope.spans):
                assert sent.ByteSize() <= MAX_RECORD_BYTES, sent.name
    assert len(service.one("s").events) == 7
    pages = [[e.name for e in page.events] for page in service.named("log")]
    assert sorted(pages) == [["large"], ["large event"]]
    assert sorted(page.attributes["log.page"] for page in service.named("log")) == [1, 2]


def attached() -> trace.Tracer:
    """Return a tracer of another SDK's provider that we are attached to."""
    provider = TracerProvider()
    provider.add_span_processor(AttachedProcessor(None))
    return provider.get_tracer("theirs")


def test_events_of_another_sdk_are_bounded_each(receiver: Receiver, tmp_path: Any) -> None:
    """A single event that its SDK let through."""
    service = Service(receiver, tmp_path)
    tracer = attached()
    span = tracer.start_span("theirs")
    span.add_event("e", {f"given_{n}": "x" * 8_000 for n in range(100)})
    span.end()
    (event,) = [event for span in service.spans() for event in span.events]
    assert size_of(event) <= MAX_RECORD_BYTES
    assert len(event.attributes) == 100
    service.observability.shutdown()


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


def test_a_clock_that_is_set_back_keeps_no_process_log(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It leaves when it is old enough by a clock that nobody sets."""
    log.info("one")
    pipeline: Any = service.observability._pipeline
    back = time.time_ns() - 86_400 * 10**9
    monkeypatch.setattr(time, "time_ns", lambda: back)
    pipeline.roll(False)
    assert pipeline._process_log is not None
    later = time.perf_counter_ns() + 61 * 10**9
    monkeypatch.setattr(time, "perf_counter_ns", lambda: later)
    pipeline.roll(False)
    assert pipeline._process_log is None


def test_threads_that_fill_one_span_while_it_ends_lose_nothing(service: Service) -> None:
    """Whoever comes first, every line is an event of exactly one span."""
    for turn in range(10):
        with traced("shared"):
            _fill_from_threads(turn)
    ids = [e.attributes["id"] for s in service.spans() for e in s.events if e.name == "line"]
    assert len(ids) == len(set(ids)) == 10 * 4 * 200


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
    assert service.named("log") == []  # the stage does not end it again


def test_an_event_that_the_end_has_missed_leaves_on_a_child(service: Service) -> None:
    """The span has ended, in another thread, just before."""

    class Late(Racing):
        def pop(self) -> bytes:
            raise IndexError  # as if another thread had taken the last one

    with traced("x") as span:
        held = Late(span.end)
        span._encoded_events = held  # type: ignore[attr-defined]
        log.info("missed")
        span._encoded_events = deque(held)  # type: ignore[attr-defined]
        span.flush_events(1)  # type: ignore[attr-defined]
    assert service.one("x").events == ()
    (missed,) = service.named("log")
    assert [e.name for e in missed.events] == ["missed"]


def test_a_process_log_that_ends_meanwhile_loses_nothing(service: Service) -> None:
    """Neither when it is ended twice, nor when a line comes too late."""
    log.info("one")
    pipeline: Any = service.observability._pipeline
    held = pipeline._process_log
    pipeline.end_process_log(held)
    pipeline.end_process_log(held)
    held._encoded_events.append(_otlp.event(1, "late", {}))
    held.flush_events(1)
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
    """The SDK's own exporters see our spans as they see the SDK's."""
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


class Noting(SpanProcessor):
    """Keeps what it is shown; as many are written, it takes the context by keyword alone."""

    def __init__(self) -> None:
        self.heard: list[tuple[str, str]] = []
        self.ended: list[Any] = []

    def on_start(self, span: Any, *, parent_context: Any = None) -> None:
        self.heard.append(("start", span.name))

    def _on_ending(self, span: Any) -> None:
        self.heard.append(("ending", span.name))

    def on_end(self, span: Any) -> None:
        self.heard.append(("end", span.name))
        self.ended.append(span)


@pytest.fixture
def noting(service: Service) -> Noting:
    provider: Any = trace.get_tracer_provider()
    processor = Noting()
    provider.add_span_processor(processor)
    return processor


def test_a_span_is_read_as_the_sdks(noting: Noting, tracer: trace.Tracer) -> None:
    """Sequences are tuples, and the fields that everybody reads are there, also after the end."""
    link = Link(SpanContext(1, 2, is_remote=True), {"l": [1]})
    with tracer.start_as_current_span("s", links=[link], kind=SpanKind.CLIENT) as span:
        span.set_attributes({"k": ["v", ["w"]], "m": {"n": [1]}})
        span.add_event("e", {"list": [1, 2]}, 5)
        assert isinstance(span, SdkSpan)
        during: Any = span
        assert [e.attributes for e in during.events] == [{"list": (1, 2)}]
    (ended,) = noting.ended
    assert noting.heard == [("start", "s"), ("ending", "s"), ("end", "s")]
    for read in (ended, copy.deepcopy(ended), copy.copy(ended)):
        assert read.attributes == {"k": ("v", ("w",)), "m": {"n": (1,)}}
        assert read._attributes["k"] == read.attributes["k"]
        assert [(e.name, dict(e.attributes), e.timestamp) for e in read._events] == [
            ("e", {"list": (1, 2)}, 5)
        ]
        assert (read.links[0].attributes, read._links[0].context) == ({"l": (1,)}, link.context)
        assert (read._name, read._kind) == ("s", SpanKind.CLIENT)
        assert (read._context, read._parent) == (span.get_span_context(), None)
        assert (read._start_time, read._end_time) == (ended.start_time, ended.end_time)
        assert (read._status, read._resource) == (ended.status, ended.resource)
        assert read._instrumentation_scope == ended.instrumentation_scope
        with pytest.warns(DeprecationWarning, match="instrumentation_scope"):
            assert read.instrumentation_info.name == "theirs"
        assert json.loads(read.to_json())["attributes"]["k"] == ["v", ["w"]]
    with pytest.raises(TypeError):
        ended.attributes["k"] = 1
    with pytest.raises(TypeError):
        ended.events[0].attributes["list"] = 1
    with tracer.start_as_current_span("open") as span:
        assert copy.deepcopy(span) is span
    either: Any = tracer
    assert either.resource is ended.resource


def test_what_a_processor_takes_off_a_span_does_not_leave(
    service: Service, noting: Noting, tracer: trace.Tracer
) -> None:
    """Redacting processors assign the SDK's fields, or those of events; whichever comes first."""

    class Redacting(SpanProcessor):
        def on_start(self, span: Any, parent_context: Any = None) -> None:
            span._events = [Event("begun", {"by": "redactor"}, 1)]

        def on_end(self, span: Any) -> None:
            span._name = "hidden"
            span._attributes = {**span._attributes, "password": "***"}
            span._kind = SpanKind.SERVER
            span._status = Status(StatusCode.ERROR, "***")
            span._links = [Link(link.context, {}) for link in span._links]
            span._parent = SpanContext(1, 9, is_remote=True)
            span._resource = Resource({"mine": "yes"})
            span._instrumentation_scope = InstrumentationScope("redacted", "2")
            span._start_time, span._end_time = 10, 20
            context = span.context
            span._context = SpanContext(context.trace_id, 7, is_remote=False, trace_flags=1)
            for event in span._events:
                event._attributes = {"token": "***"}
            span._events = span._events[:2]

    provider: Any = trace.get_tracer_provider()
    provider.add_span_processor(Redacting())
    link = Link(SpanContext(1, 2, is_remote=True), {"secret": "s"})
    with tracer.start_as_current_span("secret", links=[link]) as span:
        span.set_attribute("password", "s")
        span.add_event("first", {"token": "s"})
        span.add_event("second", {"token": "s"})
    hidden = service.one("hidden")
    assert (hidden.attributes, hidden.kind) == ({"password": "***"}, "server")
    assert [(e.name, e.attributes) for e in hidden.events] == [
        ("begun", {"token": "***"}),
        ("first", {"token": "***"}),
    ]
    assert (hidden.parent_span_id, hidden.span_id) == (f"{9:016x}", f"{7:016x}")
    assert (hidden.scope, hidden.start_ns, hidden.end_ns) == ("redacted", 10, 20)
    assert noting.ended[0].resource.attributes == {"mine": "yes"}


def test_a_processor_that_spoils_a_span_is_a_counted_loss(service: Service) -> None:
    """And one that stops the program still lets the span leave."""

    class Spoiling(SpanProcessor):
        def on_end(self, span: Any) -> None:
            if span.name == "spoilt":
                span._links = [5]
            elif span.name == "interrupted":
                raise KeyboardInterrupt

    provider: Any = trace.get_tracer_provider()
    provider.add_span_processor(Spoiling())
    with traced("spoilt"):
        pass
    tracer = provider.get_tracer("theirs")
    with pytest.raises(KeyboardInterrupt):
        tracer.start_span("interrupted").end()
    assert [s.name for s in service.spans()] == ["interrupted"]
    assert "'spans lost: they cannot be encoded': 1" in repr(service.observability)


def test_a_processor_of_an_older_sdk_works(service: Service) -> None:
    """That of 1.27 has no ``_on_ending``."""
    ended = []

    class Older:
        def on_start(self, span: Any, parent_context: Any) -> None:
            pass

        def on_end(self, span: Any) -> None:
            ended.append((span.name, span._instrumentation_info.name))

        def shutdown(self) -> None:
            pass

        def force_flush(self, timeout_millis: int) -> bool:
            return True

    provider: Any = trace.get_tracer_provider()
    provider.add_span_processor(Older())
    with traced("x"):
        pass
    assert ended == [("x", "otel_logging")]
    assert "errors" not in repr(service.observability)


def test_a_foreign_span_that_ends_while_a_line_is_made(service: Service) -> None:
    """The line leaves on a page."""
    theirs = TracerProvider()
    attached = AttachedProcessor(None)
    theirs.add_span_processor(attached)

    with theirs.get_tracer("t").start_as_current_span("s") as span:
        foreign.twins[span.get_span_context().span_id]._end_time = 1
        log.info("late")
    lines = [(s.name, e.name) for s in service.spans() for e in s.events]
    assert lines == [("log", "late")]


def test_a_foreign_span_that_is_not_sampled_stays_where_it_is(service: Service) -> None:
    """And so do its lines."""

    class RecordOnly(Sampler):
        def should_sample(self, *_: Any, **__: Any) -> SamplingResult:
            return SamplingResult(Decision.RECORD_ONLY)

        def get_description(self) -> str:
            return "record only"

    theirs = TracerProvider(sampler=RecordOnly())
    attached = AttachedProcessor(None)
    theirs.add_span_processor(attached)
    with theirs.get_tracer("t").start_as_current_span("s"):
        log.info("line")
    service.observability.shutdown()
    theirs.get_tracer("t").start_span("after shutdown").end()
    assert service.spans() == []


def test_a_processor_that_logs_while_it_holds_its_lock(service: Service) -> None:
    """A line never calls a processor: it is not shown spans of lines, nor what it logs itself."""
    ended: list[str] = []
    lock = threading.Lock()

    class Locked(SpanProcessor):
        def on_start(self, span: Any, parent_context: Any = None) -> None:
            self.on_end(span)

        def on_end(self, span: Any) -> None:
            ended.append(span.name)
            with lock:
                logging.getLogger("theirs").warning("seen")

    provider: Any = trace.get_tracer_provider()
    provider.add_span_processor(Locked())
    with traced("x") as span:
        for _ in range(600):
            log.info("line")
    with trace.use_span(span):
        log.info("afterwards")
    for _ in range(600):
        log.info("outside")
    provider.force_flush()
    names = Counter(e.name for s in service.spans() for e in s.events)
    assert names == {"line": 600, "afterwards": 1, "outside": 600, "seen": 2}
    assert ended == ["x", "x"]
    assert "errors" not in repr(service.observability)


@pytest.mark.parametrize(("texts", "left"), [(0, 0), (2, 2), (600, 500)])
def test_events_that_left_on_pages_are_dropped_ones_to_other_exporters(
    service: Service, tracer: trace.Tracer, texts: int, left: int
) -> None:
    """By their size or their number; ours has lost none."""
    exporter, provider = InMemorySpanExporter(), trace.get_tracer_provider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))  # type: ignore[attr-defined]
    with tracer.start_as_current_span("x") as span:
        for _ in range(texts):
            span.add_event("text", {"gen_ai.prompt": "p" * (40_000 if texts == 2 else 1)})
        span.add_event("done")
    (shown,) = exporter.get_finished_spans()
    assert (len(shown.events), shown.dropped_events) == (texts + 1 - left, left)
    assert service.one("x").dropped_events == 0
    assert sum(len(each.events) for each in service.spans()) == texts + 1


class Raising:
    """An object of which nothing can be asked."""

    def __str__(self) -> str:
        raise RuntimeError("no text")

    __repr__ = __str__


@pytest.mark.parametrize("name", [123, None, b"x", object, Raising(), "\ud800"])
def test_odd_arguments_never_raise(name: Any, service: Service, tracer: trace.Tracer) -> None:
    """Neither when a span begins nor when it ends; what can be kept is kept."""
    odd: Any = tracer
    odd.start_span(name, kind=name, links=[None], attributes=name, start_time=name).end(name)
    odd.start_span("links", links=5).end()
    with bound_context(user_id="u"):
        odd.start_span("bound", attributes=[("a", 1)]).end()
    span: Any = odd.start_span("s", kind="server", start_time=1.5)
    span.set_attributes(name)
    span.set_attributes({name: 1, 5: 2, "": 3})
    span.add_event(name, name, name)
    span.add_link(name)
    span.add_link(None, {"a": 1})
    span.set_status(name)
    span.update_name(name)
    span.end(float("nan"))
    spans = service.spans()
    assert len(spans) == 4
    assert all(s.kind == "internal" for s in spans)
    bound = service.one("bound").attributes
    assert {**bound, "otel_logging.lost": 0} == {"user_id": "u", "otel_logging.lost": 0}
    last = max(spans, key=lambda s: len(s.events))
    assert last.attributes["5"] == 2
    assert len(last.events) == 1


@pytest.mark.parametrize(("given", "kept"), [(-1, 0), (-(2**80), 0), (2**80, 2**64 - 2), (1.5, 1)])
def test_a_time_that_does_not_fit_is_moved_to_the_nearest(
    given: Any, kept: int, service: Service, tracer: trace.Tracer
) -> None:
    """Times that no clock shows do not cost the span, nor the event."""
    span = tracer.start_span("s", start_time=given)
    span.add_event("e", timestamp=given)
    span.end(given)
    found = service.one("s")
    assert (found.start_ns, found.end_ns, found.events[0].time_ns) == (kept, kept + 1, kept)


class Truthless:
    """As an array: whether it is true, or equal to something, is not to be asked."""

    def __bool__(self) -> bool:
        raise ValueError("ambiguous")

    def __eq__(self, _: object) -> bool:
        raise ValueError("ambiguous")

    def __hash__(self) -> int:
        return 7

    def __repr__(self) -> str:
        return "truthless"

    def __iter__(self) -> Iterator[int]:
        return iter((1, 2))


@pytest.mark.parametrize("sampler", ["ours", "theirs"])
def test_arguments_that_cannot_be_compared_never_raise(
    sampler: str, service: Service, tracer: trace.Tracer
) -> None:
    """What is valid beside them is kept, of links too; a key is the text of what was given."""
    odd: Any = tracer
    no: Any = Truthless()
    if sampler == "theirs":
        provider: Any = trace.get_tracer_provider()
        provider.sampler = ALWAYS_ON
    good = Link(SpanContext(1 << 100, 5, is_remote=False))
    odd.start_span("kind", kind=no).end()
    odd.start_span("links", links=no).end()
    odd.start_span("attributes", attributes=no).end()
    odd.start_span("good link", links=[None, good, no, 5]).end()
    span = odd.start_span("keys", attributes={no: 1})
    span.set_attribute(["a"], 2)
    span.set_attributes({("b",): 3})
    span.set_status(trace.StatusCode.ERROR, no)
    span.end()
    assert service.one("kind").kind == "internal"
    assert service.one("links").links == ()
    lost = "1 attributes lost: they are not a mapping"
    assert service.one("attributes").attributes == {"otel_logging.lost": lost}
    assert [link.span_id for link in service.one("good link").links] == [f"{5:016x}"]
    assert service.one("keys").attributes == {"truthless": 1, "['a']": 2, "['b']": 3}
    assert service.one("keys").message == "truthless"


def test_links_over_a_limit_are_left_out_and_counted(
    receiver: Receiver, tmp_path: Any, monkeypatch: Any
) -> None:
    """The limits are of number, attributes and length, as OTEL_SPAN_LINK_COUNT_LIMIT and its like
    say.
    """
    monkeypatch.setenv("OTEL_SPAN_LINK_COUNT_LIMIT", "2")
    monkeypatch.setenv("OTEL_LINK_ATTRIBUTE_COUNT_LIMIT", "1")
    monkeypatch.setenv("OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT", "3")
    service = Service(receiver, tmp_path)
    given = {"a": ["xxxxx"], "b": 2}
    links = [Link(SpanContext(1, n, is_remote=False), given) for n in (1, 2, 3)]
    invalid = [Link(SpanContext(0, 0, is_remote=False), values) for values in ({}, {"a": "b"})]
    span: Any = trace.get_tracer("t").start_span("s", links=[*invalid, *links])
    other: Any = trace.get_tracer("t").start_span("other")
    other.add_event("e", {f"k{n}": n for n in range(129)})
    assert other.events[0].dropped_attributes == 1
    span.set_attributes({"k": ["xxxxx", {"y": "yyyyy"}]})
    span.add_event("e", {"k": ["xxxxx"]})
    assert (len(span.links), span.dropped_links) == (2, 2)
    assert (span.links[1].attributes, span.links[1].dropped_attributes) == ({"a": ("xxx",)}, 1)
    span.end()
    (kept,) = service.spans()
    assert kept.attributes == {"k": ["xxx", {"y": "yyy"}]}
    assert kept.events[0].attributes == {"k": ["xxx"]}
    assert kept.dropped_links == 2
    (link,) = Message.FromString(span_bytes.encode_links(span.links)[1]).links
    assert link.dropped_attributes_count == 1
    service.observability.shutdown()


def test_an_odd_part_of_a_link_is_lost_and_its_span_is_not(service: Service) -> None:
    """Ids and flags that are not numbers, a trace state that is not one."""
    odd: Any = [
        SpanContext(7.5, 8, is_remote=False),  # type: ignore[arg-type]
        SimpleNamespace(trace_id="7", span_id=8, is_remote=False, trace_flags=1, trace_state={}),
        SimpleNamespace(trace_id="x", span_id=8, is_remote=False, trace_flags=1, trace_state={}),
        SpanContext(7, 8, is_remote=False, trace_state="a=b"),  # type: ignore[arg-type]
    ]
    tracer = trace.get_tracer("ours")
    tracer.start_span("s", links=[Link(span, {"n": n}) for n, span in enumerate(odd)]).end()
    links = service.one("s").links
    assert [link.attributes for link in links] == [{"n": n} for n in range(4)]
    assert [int(link.trace_id, 16) for link in links] == [7, 7, 0, 7]


#: What the SDK sets on new traces: since 1.45 that their ids are random.
RANDOM = getattr(TraceFlags, "RANDOM_TRACE_ID", 0)


def test_the_random_flag_of_a_trace_is_kept(service: Service) -> None:
    """W3C Trace Context level 2: whoever began the trace says that its id is random."""
    parent = SpanContext(7, 8, is_remote=True, trace_flags=TraceFlags(0x03))
    with trace.use_span(NonRecordingSpan(parent)), traced("outer"), traced("inner") as inner:
        assert inner.get_span_context().trace_flags == 0x03
    assert {s.flags & 0xFF for s in service.spans()} == {0x03}
    provider: Any = trace.get_tracer_provider()
    provider.sampler = ALWAYS_ON
    with trace.use_span(NonRecordingSpan(parent)), traced("sampled") as span:
        assert span.get_span_context().trace_flags == 0x03
    with traced("root") as span:
        assert span.get_span_context().trace_flags == 0x01 | RANDOM
    provider.sampler = ALWAYS_OFF
    with traced("root") as span:
        assert span.get_span_context().trace_flags == RANDOM


def test_what_a_line_reads_of_a_span_is_in_slots(service: Service) -> None:
    """To look at its ``__dict__``, as others do, makes no later line slower."""
    with traced("request") as span:
        bind_context(user_id="user-42")
        before = {**vars(span)}
        get_logger().info("handled")
        assert vars(span) == before
    assert [event.name for event in service.spans()[0].events] == ["handled"]


def test_tracers_are_the_providers(service: Service) -> None:
    """One for a scope, the SDK's by class, which the SDK's provider can switch off."""
    provider: Any = trace.get_tracer_provider()
    tracer = provider.get_tracer("a", "1")
    assert isinstance(tracer, SdkTracer)
    if not hasattr(provider, "_set_tracer_configurator"):
        return  # an older SDK (1.27)
    assert provider.get_tracer("a", "1") is tracer
    provider._set_tracer_configurator(tracer_configurator=sdk._disable_tracer_configurator)
    try:
        assert not tracer.start_span("off").is_recording()
        with traced("off") as stage, traced("inside"):
            assert not stage.is_recording()
        assert not _diagnostics.counts
    finally:
        provider._set_tracer_configurator(tracer_configurator=sdk._default_tracer_configurator)
    tracer.start_span("on").end()
    provider._update_resource(Resource({"a": "b"}))
    assert tracer.resource is provider.resource
    assert [s.name for s in service.spans()] == ["on"]


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
    good(python("-c", ATTACHED, receiver.endpoint, tmp_path))
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


#: What a program does while its SDK holds its span's lock, or somebody else a lock of their own.
INSIDE_THEIR_LOCK = {
    "an attribute of an odd type": "span.set_attribute('amount', Decimal('1.10'))",
    "the 129th attribute": "[span.set_attribute(f'k{n}', n) for n in range(300)]",
    "None": "span.set_attribute('k', None)",
    "mixed types": "span.set_attributes({'k': [1, 'a', object()]})",
    "a key that is not a text": "span.set_attribute(5, 1)",
    "a status described twice": "span.set_status(Status(StatusCode.ERROR, 'a'), 'b')",
    "a text over the limit": "span.set_attribute('k', 'x' * 5000)",
    "events and links over the limits": (
        "[span.add_event('e', {'k': Decimal(n)}) for n in range(300)];"
        "[span.add_link(SpanContext(1, n, False), {'k': Decimal(n)}) for n in range(1, 300)]"
    ),
    "a call after the end": "span.end(); span.set_attribute('k', 1); span.end()",
    "a value whose own code logs": "span.set_attribute('k', Logs())",
    "a value whose own code logs with structlog": "span.set_attribute('k', LogsHere())",
    "a signal handler that logs": (
        "signal.signal(signal.SIGALRM, lambda *_: logging.warning('in a handler'));"
        "span._lock.acquire(); signal.raise_signal(signal.SIGALRM); span._lock.release()"
    ),
    "a handler that logs": "logging.getLogger('h').error('first')",
}

INSIDE = """
import faulthandler, logging, os, signal, sys
os.environ["OTEL_SPAN_ATTRIBUTE_VALUE_LENGTH_LIMIT"] = "100"
from decimal import Decimal
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.trace import SpanContext, Status, StatusCode
trace.set_tracer_provider(TracerProvider())
from otel_logging import *

class Logs:
    def __str__(self):
        logging.warning("in __str__")
        return "x"

class LogsHere:
    def __str__(self):
        get_logger("here").warning("in __str__")
        return "x"

class Handler(logging.Handler):
    def emit(self, record):
        if record.name == "h":
            get_logger("here").info("in emit")

def work():
    logging.getLogger("h").addHandler(Handler())
    for name, inside in INSIDE.items():
        with trace.get_tracer("t").start_as_current_span(name) as span:
            logging.warning("before")
            exec(inside, globals() | {"span": span})
            logging.warning("after")
"""

SET_UP = """
with setup_observability("x", spool_dir=sys.argv[2], endpoint=sys.argv[1],
                         environment="production") as observability:
    work()
    assert observability.force_flush(10)
"""
CAPTURED = """
from otel_logging.testing import capture
with capture() as seen:
    work()
for name in INSIDE:
    told = [e["name"] for e in seen.span(name)["events"]]
    assert told.count("before") == 1, (name, told)
"""
LINES_ALONE = """
configure_logging()
work()
"""
FORMATTER = """
import structlog
from otel_logging.processors import record_on_span
handler = logging.StreamHandler(sys.stdout)
handler.setFormatter(structlog.stdlib.ProcessorFormatter(
    foreign_pre_chain=[record_on_span], processors=[structlog.dev.ConsoleRenderer()]))
logging.basicConfig(handlers=[handler])
work()
"""
#: Each in a process as it is before any set-up.
EACH_USE = f"""
for use in {(SET_UP, CAPTURED, LINES_ALONE, FORMATTER)!r}:
    if not (child := os.fork()):
        faulthandler.dump_traceback_later(30, exit=True)
        exec(use)
        sys.exit()
    assert os.waitpid(child, 0)[1] == 0, use
"""


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGALRM")
def test_a_line_made_inside_anothers_lock_returns(receiver: Receiver, tmp_path: Any) -> None:
    """The SDK warns while it holds its span's lock, which our line must not want; and nothing of
    it is lost: each line is at the collector once.
    """
    program = f"INSIDE = {INSIDE_THEIR_LOCK!r}" + INSIDE + EACH_USE
    good(python("-W", "ignore", "-c", program, receiver.endpoint, tmp_path))
    traces = {s.name: s.trace_id for s in receiver.spans if s.name in INSIDE_THEIR_LOCK}
    assert len(set(traces.values())) == len(INSIDE_THEIR_LOCK)
    found = Counter((s.trace_id, e.name) for s, e in receiver.events)
    assert [
        (name, said)
        for name, trace_id in traces.items()
        for said in ("before", "after")
        if found[trace_id, said] != 1
    ] == []
    of_theirs = {s.trace_id for s in receiver.spans if s.name != "process log"}
    assert of_theirs == set(traces.values())


def test_a_foreign_span_that_never_ends_here_loses_no_line(
    receiver: Receiver, tmp_path: Any
) -> None:
    """Begun before set-up, another provider's, a child's copy after a fork: each line leaves on a
    page; and one that ends after ``shutdown`` has lines that are counted.
    """
    program = """
import os, sys
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from otel_logging import *
trace.set_tracer_provider(TracerProvider())
log = get_logger("shop")
with trace.get_tracer("t").start_as_current_span("early"):
    observability = setup_observability("shop", endpoint=sys.argv[1], spool_dir=sys.argv[2],
                                        environment="production")
    log.info("early")
with TracerProvider().get_tracer("other").start_as_current_span("others"):
    log.info("others")
with trace.get_tracer("t").start_as_current_span("forked"):
    log.info("parents")
    child = os.fork()
    if not child:
        log.info("childs")
        observability.shutdown()
        os._exit(0)
    os.waitpid(child, 0)
with trace.get_tracer("t").start_as_current_span("late"):
    log.info("lost")
    observability.shutdown()
"""
    done = good(python("-W", "ignore", "-c", program, receiver.endpoint, tmp_path))
    where = sorted((e.name, s.name) for s in receiver.spans for e in s.events)
    assert where == [("childs", "log"), ("early", "log"), ("others", "log"), ("parents", "forked")]
    assert "1 log lines lost: their span ended after shutdown" in done.stderr


def test_a_foreign_span_that_outlives_a_set_up_loses_no_page(
    receiver: Receiver, tmp_path: Any
) -> None:
    """What fills it goes where the next set-up sends, with the trace state of the span."""
    program = """
import sys
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, TraceState
from otel_logging import *
trace.set_tracer_provider(TracerProvider())
log = get_logger("shop")
def set_up():
    return setup_observability("shop", endpoint=sys.argv[1], spool_dir=sys.argv[2],
                               environment="production")
first = set_up()
caller = SpanContext(1, 2, True, TraceFlags(1), TraceState([("vendor", "a")]))
around = trace.set_span_in_context(NonRecordingSpan(caller))
with trace.get_tracer("t").start_as_current_span("long", around):
    log.info("line", number=0)
    first.shutdown()
    set_up()
    for number in range(1, 502):
        log.info("line", number=number)
"""
    good(python("-W", "ignore", "-c", program, receiver.endpoint, tmp_path))
    lines = {s.name: (len(s.events), s.trace_state) for s in receiver.spans if s.events}
    assert lines == {"long": (2, "vendor=a"), "log": (500, "vendor=a")}


def test_odd_spans_of_a_foreign_provider_end_in_peace(receiver: Receiver, tmp_path: Any) -> None:
    """Its SDK lets our errors through to the application: there are none."""
    program = """
import sys
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from otel_logging import *
trace.set_tracer_provider(TracerProvider())
with setup_observability("shop", endpoint=sys.argv[1], spool_dir=sys.argv[2],
                         environment="production") as observability:
    tracer = trace.get_tracer("t")
    tracer.start_span(123).end()
    tracer.start_span(None, kind=None, links=[None]).end()
    span = tracer.start_span("events")
    span.add_event(None)
    span.end()
    tracer.start_span("times").end("never")
    from otel_logging.export.foreign import AttachedProcessor
    attached = AttachedProcessor(None)
    attached.on_start(object())
"""
    done = good(python("-c", program, receiver.endpoint, tmp_path))
    assert sorted(s.name for s in receiver.spans) == ["123", "None", "events"]
    assert "1 spans lost: they cannot be encoded" in done.stderr
    assert "spans without what is bound" in done.stderr


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
    good(python("-W", "ignore", "-c", FORKED, receiver.endpoint, tmp_path))
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


# ---------------------------------------------------------------- what is bound, and what is set


def test_attributes_of_a_span_that_has_bound_fields(service: Service) -> None:
    """Its own come beside them, and win; whoever reads them while it is open sees both."""
    with bound_context(user_id="u", cart=[1, 2]), traced("list", a=1):
        pass
    with bound_context(user_id="u", a=0):
        with traced("beside", b=1):
            pass
        with traced("same", a=1):
            pass
        with traced("read", b=1) as span:
            assert dict(span.attributes) == {"b": 1, "user_id": "u", "a": 0}  # type: ignore[attr-defined]
            span.set_attribute("a", 2)
    assert service.one("list").attributes == {"user_id": "u", "cart": [1, 2], "a": 1}
    assert service.one("beside").attributes == {"user_id": "u", "a": 0, "b": 1}
    assert service.one("same").attributes == {"user_id": "u", "a": 1}
    assert service.one("read").attributes == {"user_id": "u", "a": 2, "b": 1}


def test_bound_fields_count_among_the_attributes(receiver: Receiver, tmp_path: Any) -> None:
    """A field set again is no other one."""
    program = """
import os, sys
os.environ["OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT"] = "2"
from otel_logging import *
with setup_observability("shop", endpoint=sys.argv[1], spool_dir=sys.argv[2],
                         environment="production"):
    with bound_context(a=1), traced("s") as span:
        span.set_attributes({"b": 2, "a": 3, "c": 4})
"""
    script(program, receiver.endpoint, str(tmp_path))
    (span,) = receiver.spans
    assert span.attributes == {"a": 3, "b": 2}


def test_a_recorded_span_below_one_that_is_not(service: Service, tracer: trace.Tracer) -> None:
    """A sampler may say so; ids and clock are right, and a budget of the other means nothing."""

    class ByName(Sampler):
        def should_sample(self, *args: Any, **_: Any) -> SamplingResult:
            kept = Decision.RECORD_AND_SAMPLE if args[2] == "kept" else Decision.DROP
            return SamplingResult(kept, args[4])

        def get_description(self) -> str:
            return "by name"

    provider: Any = trace.get_tracer_provider()
    before, provider.sampler = provider.sampler, ByName()
    try:
        with traced("dropped", budget=1e-9) as outer:
            tag_background_logger("JOB")(traced("kept")(int))()
    finally:
        provider.sampler = before
    context = outer.get_span_context()
    assert str(context.span_id) in repr(outer) or f"{context.span_id:016x}" in repr(outer)
    assert [s.name for s in service.spans()] == ["kept"]
    assert service.one("kept").parent_span_id == f"{context.span_id:016x}"
    assert service.one("kept").trace_id == f"{context.trace_id:032x}"
    assert service.one("kept").attributes == {"job_tag": "JOB"}


def test_a_provider_after_shutdown(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes processors and flushes as before, with nothing to do."""
    provider: Any = trace.get_tracer_provider()
    # those of other tests; in older SDKs a plain SpanProcessor does not say that it has flushed
    monkeypatch.setattr(provider._active_span_processor, "_span_processors", ())
    kept = provider.sampler
    service.observability.shutdown()
    provider.add_span_processor(SimpleSpanProcessor(InMemorySpanExporter()))
    assert provider.force_flush() is True
    assert provider.sampler is kept
    assert provider.is_idle
    assert provider.resource.attributes


def test_another_runtime_context_than_opentelemetrys_own(receiver: Receiver, tmp_path: Any) -> None:
    """OTEL_PYTHON_CONTEXT may name one that has no context variable."""
    program = """
import sys
from opentelemetry import context

class Kept:
    now = context.Context()
    def attach(self, given):
        before, Kept.now = Kept.now, given
        return before
    def get_current(self):
        return Kept.now
    def detach(self, before):
        Kept.now = before

context._RUNTIME_CONTEXT = Kept()
from otel_logging import *
with setup_observability("shop", endpoint=sys.argv[1], spool_dir=sys.argv[2],
                         environment="production"):
    with traced("outer"):
        with traced("inner"):
            get_logger("shop").info("hello")
    with traced("next"):
        pass
"""
    script(program, receiver.endpoint, str(tmp_path))
    spans = {span.name: span for span in receiver.spans}
    assert spans["inner"].parent_span_id == spans["outer"].span_id
    assert [event.name for event in spans["inner"].events] == ["hello"]
    assert spans["next"].parent_span_id is None


@pytest.mark.parametrize(
    ("bound", "expected"), [({}, 5), ({"user_id": "u-1"}, 5), ({"budget_s": 7}, 5)]
)
def test_a_budget_is_on_its_span_once(
    service: Service, bound: dict[str, Any], expected: float
) -> None:
    """Whatever is bound or set beside it; and what somebody sets afterwards counts."""
    with bound_context(**bound), traced("order", budget=5, words=12):
        pass
    with bound_context(**bound), traced("other", budget=5) as span:
        span.set_attribute("budget_s", 9)
    order, other = (service.named(name)[0] for name in ("order", "other"))
    assert order.attributes == {**bound, "budget_s": expected, "words": 12}
    assert other.attributes == {**bound, "budget_s": 9}
    stored = [path.read_bytes() for path in service.spool_dir.rglob("*") if path.is_file()]
    assert b"".join(stored).count(b"budget_s") == 2
