"""``capture``: what a test sees of its spans and lines, and that nothing stays behind."""

import asyncio
import json
import logging
import re
import unittest
import warnings
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import structlog
from opentelemetry import trace

from otel_logging import (
    ConfigurationError,
    bind_context,
    clear_context,
    configure_logging,
    get_logger,
    setup_observability,
    tag_background_logger,
    traced,
)
from otel_logging.context import bound
from otel_logging.processors import record_on_span
from otel_logging.testing import Captured, capture
from tests.conftest import Service
from tests.lines import parsed
from tests.programs import script

log: Any = get_logger("shop")


@pytest.fixture(autouse=True)
def at_info() -> None:
    """What an earlier test has configured is not what these go by."""
    configure_logging(environment="production", log_level="info")


def names(captured: Captured) -> list[str]:
    return [span["name"] for span in captured.spans]


def events(captured: Captured) -> list[str]:
    return [line["event"] for line in captured.lines]


# ---------------------------------------------------------------- one tree


def ids(span_id: int) -> dict[str, Any]:
    return {"trace_id": f"{1:032x}", "span_id": f"{span_id:016x}", "trace_flags": "01"}


def at(milliseconds: int) -> str:
    return f"2000-01-01T00:00:00.{milliseconds:03}000Z"


def test_a_whole_trace_is_compared_as_data() -> None:
    """With a fixed clock and counted ids: lines where they were said, in time order."""
    with capture(fixed=True) as captured:
        log.info("before")
        with traced("message", budget=0.3, kind="server"):
            bind_context(user_id="u-1")
            log.info("received", words=12)
            with traced("transcribe", model="small"):
                log.warning("model is cold")
            log.info("done")
    of_both = {"logger": "shop", "user_id": "u-1"}
    of_span = {"service": "unknown_service:python", "status": "unset", "links": []}
    expected = [
        {"timestamp": at(0), "level": "info", "event": "before", "logger": "shop"},
        {
            **of_span,
            "trace_id": f"{1:032x}",
            "span_id": f"{1:016x}",
            "parent_span_id": None,
            "name": "message",
            "kind": "server",
            "start": at(1),
            "duration_s": 0.006,
            "attributes": {"budget_s": 0.3, "user_id": "u-1"},
            "inside": [
                {
                    "timestamp": at(2),
                    "level": "info",
                    "event": "received",
                    "words": 12,
                    **of_both,
                    **ids(1),
                },
                {
                    **of_span,
                    "trace_id": f"{1:032x}",
                    "span_id": f"{2:016x}",
                    "parent_span_id": f"{1:016x}",
                    "name": "transcribe",
                    "kind": "internal",
                    "start": at(3),
                    "duration_s": 0.002,
                    "attributes": {"model": "small", "user_id": "u-1"},
                    "inside": [
                        {
                            "timestamp": at(4),
                            "level": "warning",
                            "event": "model is cold",
                            **of_both,
                            **ids(2),
                        }
                    ],
                },
                {"timestamp": at(6), "level": "info", "event": "done", **of_both, **ids(1)},
            ],
        },
    ]
    assert captured.tree == expected
    assert json.loads(json.dumps(captured.tree)) == captured.tree
    assert captured.lines == [
        expected[0],
        *(expected[1]["inside"][n] for n in (0,)),
        *expected[1]["inside"][1]["inside"],
        expected[1]["inside"][2],
    ]


def test_lines_of_every_origin_are_in_the_tree() -> None:
    """Of the standard library and of warnings as well; a tagged job's have its tag."""

    @tag_background_logger("PRICE_CACHE")
    def job() -> None:
        with traced("refresh"):
            logging.getLogger("prices").info("refreshing %s", "all")
            warnings.warn("soon", UserWarning, stacklevel=1)

    with capture() as captured, warnings.catch_warnings(action="default"):
        job()
    (refresh,) = captured.tree
    assert [(line["event"], line["job_tag"]) for line in refresh["inside"]] == [
        ("refreshing all", "PRICE_CACHE"),
        ("soon", "PRICE_CACHE"),
    ]


def test_an_event_that_is_no_line_is_an_event_in_the_tree() -> None:
    """An exception that left a stage, events of OpenTelemetry's API, somebody else's chain."""
    with capture(fixed=True) as captured:
        with suppress(KeyError), traced("lookup") as span:
            span.add_event("cache miss", {"key": "k"})
            raise KeyError("k")
        record_on_span(None, "info", {"event": "of no span", "n": 1})
    lookup, outside = captured.tree
    assert lookup["status"] == "error"
    miss, raised = lookup["inside"]
    assert miss == {"time": at(1), "name": "cache miss", "attributes": {"key": "k"}}
    assert raised["attributes"]["exception.type"] == "KeyError"
    assert outside == {"time": at(4), "name": "of no span", "attributes": {"n": 1}}


def test_what_is_no_line_is_an_event_beside_a_line_of_the_same_moment() -> None:
    """As all are of one moment where a test has stopped the clock."""
    with capture(fixed=True) as captured, traced("pay"):
        log.info("asked")
        moment = datetime.fromisoformat(captured.line("asked")["timestamp"])
        at_ns = int(moment.timestamp() * 1_000) * 1_000_000
        trace.get_current_span().add_event("rows read", {"n": 1}, timestamp=at_ns)
    inside = captured.tree[0]["inside"]
    assert [each.get("event") or each["name"] for each in inside] == ["asked", "rows read"]


def test_where_a_late_stage_stood_is_no_line_of_the_tree() -> None:
    """It is another each time; a line of that name is one."""
    with capture() as captured, traced("turn"):
        trace.get_current_span().add_event("late.where", {"late.where": "100 %\n  f (a.py:1)"})
        log.info("late.where")
    (turn,) = captured.tree
    assert [each["event"] for each in turn["inside"]] == ["late.where"]


def test_a_line_is_under_its_own_span_once_however_many_there_are() -> None:
    """Also where it would have left on a page, or after the end; pages are no spans."""
    with capture(fixed=True) as captured:
        with traced("long"):
            context = trace.set_span_in_context(trace.get_current_span())
            for number in range(1200):
                log.info("line", n=number)
        with trace.use_span(trace.get_current_span(context)):
            log.info("too late")
        log.info("outside any")
        with traced("next"):
            pass
    assert names(captured) == ["long", "next"]
    assert captured.span("next")["trace_id"] == f"{2:032x}"  # none was taken by a `process log`
    long, outside, _ = captured.tree
    assert [line.get("n") for line in long["inside"]] == [*range(1200), None]
    assert outside["event"] == "outside any"
    assert [e["name"] for e in captured.span("long")["events"]] == ["line"] * 1200 + ["too late"]


def test_spans_are_as_they_leave() -> None:
    """Any value is bounded plain data, and links and limits are what a collector would get."""
    with capture() as captured:
        with traced("first") as first:
            pass
        with traced("second", links=[first], value={"deep": {1, 2}}, error=ValueError("x")) as span:
            span.set_attribute("text", "x" * 20_000)
    second = captured.span("second")
    assert second["attributes"]["value"] == {"deep": [1, 2]}
    assert second["attributes"]["error"] == "ValueError: x"
    assert len(second["attributes"]["text"]) < 10_000
    one = captured.span("first")
    assert second["links"] == [
        {"trace_id": one["trace_id"], "span_id": one["span_id"], "attributes": {}}
    ]


def test_a_span_that_has_not_ended_is_not_captured_yet() -> None:
    """Its lines are, at the top; a span that ends after the block is found all the same."""
    with capture() as captured:
        with traced("outer"):
            log.info("in it")
            assert (captured.spans, captured.tree) == ([], captured.lines)
        (outer,) = captured.tree
        assert outer["inside"] == captured.lines
        late = trace.get_tracer("somebody").start_span("ends later")
    late.end()
    assert names(captured) == ["outer", "ends later"]


def test_one_is_found_by_its_name() -> None:
    """Where there is none, or more than one, the error lists what is there."""
    with capture() as captured:
        for name in ("a", "b", "b"):
            with traced(name):
                log.info(f"in {name}")
    assert captured.span("a")["name"] == "a"
    assert captured.line("in a")["level"] == "info"
    with pytest.raises(LookupError, match=r"0 with name 'c'; there are: 'a' \(1\), 'b' \(2\)"):
        captured.span("c")
    with pytest.raises(LookupError, match="2 with event 'in b'"):
        captured.line("in b")
    with capture() as empty, pytest.raises(LookupError, match="there are: none"):
        empty.span("a")


def test_what_is_given_out_is_a_copy() -> None:
    """A test that changes it changes nothing."""
    with capture() as captured:
        log.info("hello", deep={"n": 1})
    captured.lines[0]["deep"]["n"] = 2
    captured.tree[0]["deep"]["n"] = 2
    assert captured.lines[0]["deep"] == {"n": 1}


# ---------------------------------------------------------------- as text


def test_it_is_drawn_for_people() -> None:
    """Words before fields, what went wrong below, nothing said twice."""
    with capture(fixed=True) as captured:
        with traced("message", budget=0.001):
            bind_context(user_id="u-1")
            log.info("received\x1b[2J", words=12)
            try:
                with traced("answer"):
                    raise ValueError("no model")
            except ValueError:
                log.exception("could not answer", inside="of nothing")
        log.info("after", attributes=1)
    where = r"at tests/test_testing.py:\d+ test_it_is_drawn_for_people"
    shown = str(captured).splitlines()
    assert shown[:4] == [
        "message 6.0 ms LATE  user_id=u-1",
        r"  info received\x1b[2J  words=12 logger=shop",
        "  answer 2.0 ms ERROR",
        "    event exception",
    ]
    assert len(shown) == 8
    assert re.fullmatch(rf"      ValueError: no model  {where}", shown[4])
    assert shown[5] == '  error could not answer  inside="of nothing" logger=shop'
    assert shown[6].startswith("    ValueError: no model")
    assert shown[7] == "info after  attributes=1 logger=shop"
    assert repr(captured) == "<Captured [2 spans, 3 lines]>"
    with capture() as empty:
        pass
    assert str(empty) == ""


def test_a_deep_tree_is_drawn() -> None:
    """A recursive function that is traced makes one."""

    @traced("again")
    def again(left: int) -> None:
        if left:
            again(left - 1)

    with capture() as captured:
        again(200)
    assert len(str(captured).splitlines()) == 201


# ---------------------------------------------------------------- levels and outputs


def test_the_level_is_what_is_configured_or_what_is_asked_for() -> None:
    """For every origin; whatever is configured inside."""
    stdlib = logging.getLogger("shop.db")
    with capture() as captured:
        log.debug("no")
        stdlib.debug("no")
        stdlib.info("yes")
    assert events(captured) == ["yes"]
    with capture(log_level="debug") as captured:
        log.debug("a")
        stdlib.debug("b")
        configure_logging(log_level="error", log_levels={"shop.db": "critical"})
        log.debug("c")
        stdlib.debug("d")
    assert events(captured) == ["a", "b", "c", "d"]
    assert not stdlib.isEnabledFor(logging.DEBUG)
    with pytest.raises(ConfigurationError, match="log_level"), capture(log_level="loud"):
        pass


def test_lines_are_printed_as_ever(
    capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    """``capsys`` and ``caplog`` have what they would have."""
    with capture() as captured:
        log.info("ours")
        logging.getLogger("theirs").warning("theirs")
    assert parsed(capsys.readouterr().out) == captured.lines
    assert caplog.messages == ["theirs"]


# ---------------------------------------------------------------- set-ups


def test_a_set_up_inside_is_checked_and_takes_effect_and_starts_nothing(tmp_path: Path) -> None:
    """Its name, budgets and levels hold; there is no spool, and its end is not the block's."""
    spool = tmp_path / "spool"
    with capture() as captured:
        observability = setup_observability(
            "cart",
            environment="production",
            log_level="debug",
            endpoint="http://127.0.0.1:1",
            spool_dir=spool,
            budgets={"slow": 1e-9},
            takeover=False,
        )
        assert setup_observability("cart", spool_dir=spool) is observability
        with traced("slow"):
            log.debug("from the library")
        assert observability.force_flush(0.1)
        assert repr(observability) == "<Observability cart [open, no tracing]>"
        assert observability.shutdown()
        with traced("slow"):
            pass
        with pytest.raises(ConfigurationError):
            setup_observability("cart", log_level="loud")
    assert [span["service"] for span in captured.spans] == ["cart", "cart"]
    assert [span["attributes"].get("late") for span in captured.spans] == [True, None]
    assert events(captured) == ["from the library"]
    assert not spool.exists()


def test_one_that_is_left_open_ends_with_the_block() -> None:
    """What is called on it afterwards does nothing to anyone."""
    with capture() as captured:
        observability = setup_observability("cart")
    assert repr(observability) == "<Observability cart [shut down, no tracing]>"
    with capture() as captured:
        observability.shutdown()
        with traced("still captured"):
            pass
    assert names(captured) == ["still captured"]


def test_the_set_up_outside_is_as_it_was(
    service: Service, capsys: pytest.CaptureFixture[str]
) -> None:
    """What is captured does not leave; what came before and comes after does."""
    with traced("before"):
        bind_context(user_id="outside")
        with capture() as captured, traced("inside"):
            log.info("captured", deep=1)
            setup_observability("shop", environment="development", log_level="error")
            logging.getLogger("x").setLevel(logging.ERROR)
        log.info("not captured")
    with traced("after"):
        logging.getLogger("stdlib").info("of the standard library")
    assert names(captured) == ["inside"]
    assert captured.span("inside")["service"] == "shop"
    assert captured.span("inside")["parent_span_id"] is None
    assert "user_id" not in captured.line("captured")
    before, after = service.spans()
    assert (before.name, after.name) == ("before", "after")
    assert [e.name for e in before.events] == ["not captured"]
    assert [e.name for e in after.events] == ["of the standard library"]
    lines = parsed(capsys.readouterr().out)
    assert [line["event"] for line in lines] == [
        *("captured", "not captured", "of the standard library"),
    ]


def test_what_logging_alone_has_put_in_place_stays() -> None:
    """Also where a set-up inside the block has ended with it."""
    with capture():
        setup_observability("cart")
    bind_context(user_id="u-1")
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(bound).result() == {"user_id": "u-1"}


def test_a_secret_that_is_not_taken_out_inside_is_taken_out_afterwards(service: Service) -> None:
    """What was encoded inside is not remembered."""
    with capture(), traced("inside", password="hunter22") as span:
        configure_logging(redact=False)
        span.set_attribute("password", "hunter23")
    with traced("after", password="hunter23"):
        pass
    assert service.one("after").attributes["password"] == "[redacted:password]"


def test_the_set_up_outside_may_end_inside(service: Service) -> None:
    """Nothing leads to it afterwards."""
    with capture() as captured:
        with traced("one"):
            pass
        service.observability.shutdown()
        with traced("two"):
            pass
    with traced("three") as span:
        assert not span.is_recording()
    assert names(captured) == ["one", "two"]


def test_nested_the_innermost_has_it_all() -> None:
    """And the outer one goes on afterwards, with its own clock."""
    with capture(fixed=True) as outer:
        with traced("first"):
            pass
        with capture() as inner, traced("second"):
            log.info("second")
            configure_logging(environment="development")
            log.info("second again")
        with traced("third"):
            log.info("third")
    assert (names(inner), events(inner)) == (["second"], ["second", "second again"])
    assert (names(outer), events(outer)) == (["first", "third"], ["third"])
    assert outer.span("third")["start"] == at(2)


def test_a_span_from_before_keeps_its_own_clock(service: Service) -> None:
    """A worker that ends one meanwhile takes no reading from the test."""
    outside = trace.get_tracer("worker").start_span("outside")
    with capture(fixed=True) as captured:
        with traced("first"):
            outside.end()
        with traced("second"):
            pass
    assert captured.span("second")["start"] == at(2)
    (span,) = service.spans()
    assert 0 <= span.end_ns - span.start_ns < 60e9


def test_what_is_bound_outside_is_not_inside() -> None:
    """Nor the other way round; whoever's functions bound it."""
    bind_context(of_ours=1)
    structlog.contextvars.bind_contextvars(of_theirs=1)
    try:
        with capture() as captured:
            structlog.contextvars.bind_contextvars(inside=1)
            log.info("inside")
        assert captured.line("inside").keys() == {
            *("timestamp", "level", "event", "logger", "inside")
        }
        assert structlog.contextvars.get_contextvars() == {"of_theirs": 1}
    finally:
        clear_context()
        structlog.contextvars.clear_contextvars()


@pytest.mark.parametrize(
    "variables",
    [
        {"OTEL_TRACES_EXPORTER": "none"},
        {"OTEL_SDK_DISABLED": "true"},
        {"OTEL_TRACES_SAMPLER": "always_off"},
        {"OTEL_LOGS_EXPORTER": "otlp"},
    ],
)
def test_variables_of_production_take_nothing_from_a_test(
    variables: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever is sampled or exported elsewhere: a test sees all."""
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with capture() as captured:
        setup_observability("cart")
        with traced("stage"):
            log.info("line")
    assert [e["name"] for e in captured.span("stage")["events"]] == ["line"]


def test_the_process_is_as_it_was() -> None:
    """Where nothing was set up: structlog, hooks, levels, propagators; no directory, no socket."""
    code = """
import asyncio, logging, os, socket, sys, threading, warnings
import structlog
from opentelemetry import propagate, trace
from otel_logging import get_logger, setup_observability, traced
from otel_logging.testing import capture

def no_socket(*_):
    raise AssertionError("a socket")

def state():
    return (
        structlog.is_configured(), sys.excepthook, threading.excepthook, sys.unraisablehook,
        warnings.showwarning, logging.root.level, logging.getLogger("a").level,
        propagate.get_global_textmap(), asyncio.BaseEventLoop.default_exception_handler,
        os.path.exists(os.environ["HOME"]),
    )

propagate.get_global_textmap()
socket.socket.connect = no_socket
before = state()
with capture() as captured:
    with setup_observability("cart", environment="production", log_level="debug"), traced("a"):
        get_logger("shop").debug("hello")
        logging.getLogger("a").info("hello")
assert state() == before, (state(), before)
assert threading.active_count() == 1
assert [e["name"] for e in captured.span("a")["events"]] == ["hello", "hello"]
with traced("after") as span:
    assert not span.is_recording()
get_logger("shop").debug("as structlog has it")
logging.getLogger("a").info("nowhere")
with capture() as captured, traced("again"):
    pass
assert captured.span("again")
"""
    out = script(code, OTEL_PROPAGATORS="tracecontext").stdout.decode().splitlines()
    assert len(out) == 3
    assert "as structlog has it" in out[2]


def test_lines_of_loguru_are_captured_without_a_set_up() -> None:
    """As with one; afterwards loguru is as it was. Not where the variable leaves it out."""
    code = """
import os, sys
from loguru import logger
from otel_logging.testing import capture
before = dict(logger._core.handlers), [*sys.meta_path]
with capture() as outer:
    logger.warning("outside")
    with capture() as inner:
        logger.warning("inside")
    logger.warning("outside again")
assert [line["event"] for line in inner.lines] == ["inside"]
assert [line["event"] for line in outer.lines] == ["outside", "outside again"]
assert (logger._core.handlers, sys.meta_path) == before
os.environ["OTEL_LOGGING_INSTRUMENT"] = "asgi"
with capture() as without:
    logger.warning("left alone")
assert without.lines == []
"""
    script(code)


def test_spans_of_another_sdk_are_captured_too() -> None:
    """Its provider stays, and hears nothing of us afterwards; a later set-up finds it. Variables
    may have values that are its own.
    """
    code = """
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from otel_logging import get_logger, traced
from otel_logging.testing import capture
provider = TracerProvider()
trace.set_tracer_provider(provider)
log = get_logger("shop")
for _ in range(2):
    with capture() as captured:
        with trace.get_tracer("theirs").start_as_current_span("theirs"):
            for n in range(130):
                log.info("line", n=n)
            with traced("ours"):
                log.info("inside")
    with trace.get_tracer("theirs").start_as_current_span("not captured"):
        pass
    assert trace.get_tracer_provider() is provider
    (theirs,) = captured.tree
    assert [part.get("n") for part in theirs["inside"][:-1]] == list(range(130))
    assert theirs["inside"][-1]["name"] == "ours", theirs["inside"][-1]
    assert [line["event"] for line in theirs["inside"][-1]["inside"]] == ["inside"]
    assert len(captured.spans) == 2
"""
    script(code, OTEL_TRACES_EXPORTER="console")


def test_bytes_on_spans_of_another_sdk_are_within_the_limits() -> None:
    """As texts, which they become; the SDK itself does not look at them."""
    code = """
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from otel_logging.testing import capture
trace.set_tracer_provider(TracerProvider())
given = {"text": "x" * 9, "bytes": b"x" * 9, "many": ["x" * 9]}
with capture() as captured, trace.get_tracer("theirs").start_as_current_span("s") as span:
    span.set_attributes(given)
    span.add_event("e", given)
span = captured.span("s")
(event,) = [each for each in span["events"] if each["name"] == "e"]  # others are its warnings
for kept in (span["attributes"], event["attributes"]):
    assert [len(each) for each in (kept["text"], kept["bytes"], *kept["many"])] == [3, 3, 3], kept
"""
    script(code, OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT="3")


# ---------------------------------------------------------------- who uses it


def test_tasks_that_interleave_have_each_their_own_lines() -> None:
    """Asynchronous code is captured as it runs."""

    async def handle(user: str, turn: asyncio.Event, next_turn: asyncio.Event) -> None:
        with traced(user):
            bind_context(user_id=user)
            await turn.wait()
            log.info("handled")
            next_turn.set()

    async def both() -> None:
        one, two = asyncio.Event(), asyncio.Event()
        tasks = [handle("u-1", two, one), handle("u-2", one, asyncio.Event())]
        two.set()
        await asyncio.gather(*tasks)

    with capture() as captured:
        asyncio.run(both())
    assert {
        span["name"]: [line["user_id"] for line in span["inside"]] for span in captured.tree
    } == {
        "u-1": ["u-1"],
        "u-2": ["u-2"],
    }


class OfUnittest(unittest.TestCase):
    """As a user of the standard library's test cases has it."""

    def setUp(self) -> None:
        self.captured = self.enterContext(capture())

    def test_it_is_a_context_like_any_other(self) -> None:
        """``enterContext`` ends it."""
        with traced("stage"):
            log.info("line")
        assert self.captured.line("line")["span_id"] == self.captured.span("stage")["span_id"]
