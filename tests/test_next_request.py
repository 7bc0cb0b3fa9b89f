"""A context that was copied while a request went on: nothing of that is the next request's."""

import asyncio
import contextvars
import json
import socket
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.trace import SpanKind
from structlog.contextvars import bind_contextvars, clear_contextvars

from otel_logging import (
    _runtime,
    bind_context,
    bound_context,
    carry,
    clear_context,
    configure_logging,
    context,
    detached,
    each,
    extract,
    get_logger,
    inject,
    traced,
    unbind_context,
)
from otel_logging.testing import Captured, capture
from tests.lines import parsed
from tests.programs import script

log: Any = get_logger("shop")
TRACE = "0af7651916cd43dd8448eb211c80319c"
HEADERS = {"traceparent": f"00-{TRACE}-b7ad6b7169203331-01"}

Work = Callable[[], None]


@pytest.fixture(autouse=True)
def at_info() -> None:
    configure_logging(environment="production", log_level="info")
    clear_context()


def copied(inner: str | None = None, *, root: bool = True) -> contextvars.Context:
    """Return a copy of the context of Alice's request, which is over."""
    with traced("alice's", root=root):
        bind_context(user_id="alice")
        if inner is None:
            return contextvars.copy_context()
        with traced(inner):
            return contextvars.copy_context()


def fields(captured: Captured, event: str) -> dict[str, Any]:
    """Return what a line has that is bound, and the name of the span that it is in."""
    line = captured.line(event)
    own = {"timestamp", "level", "event", "logger", "trace_id", "span_id", "trace_flags"}
    spans = {span["span_id"]: span["name"] for span in captured.spans}
    found = {key: value for key, value in line.items() if key not in own}
    return {"span": spans.get(line.get("span_id")), **found}


def is_of_its_own(captured: Captured, name: str) -> bool:
    """Say whether a span has a trace of its own, and on it nothing of Alice's."""
    span, alices = captured.span(name), captured.span("alice's")
    return (
        span["trace_id"] != alices["trace_id"]
        and not span["parent_span_id"]
        and "user_id" not in span["attributes"]
    )


# ---------------------------------------------------------------- what begins then


@contextmanager
def api_span(name: str, kind: SpanKind) -> Iterator[None]:
    with trace.get_tracer("instrumentation").start_as_current_span(name, kind=kind):
        yield


@contextmanager
def api_span_by_hand(name: str, kind: SpanKind) -> Iterator[None]:
    """As instrumentations of servers do."""
    span = trace.get_tracer("instrumentation").start_span(name, kind=kind)
    token = otel_context.attach(trace.set_span_in_context(span))
    try:
        yield
    finally:
        span.end()
        otel_context.detach(token)


ARRIVALS: dict[str, Callable[[], Any]] = {
    "root": lambda: traced("next", root=True),
    "root server": lambda: traced("next", root=True, kind="server"),
    "server": lambda: traced("next", kind="server"),
    "consumer": lambda: traced("next", kind="consumer"),
    "the API's server": lambda: api_span("next", SpanKind.SERVER),
    "the API's consumer": lambda: api_span("next", SpanKind.CONSUMER),
    "the API's, by hand": lambda: api_span_by_hand("next", SpanKind.SERVER),
    "the API's root": lambda: trace.get_tracer("theirs").start_as_current_span(
        "next", context=otel_context.Context()
    ),
}


@pytest.mark.parametrize("arrival", ARRIVALS)
def test_the_next_request_begins_with_nothing_bound(arrival: str) -> None:
    """And in a trace of its own, whatever opens it; bindings around the first one stay."""

    def next_request() -> None:
        with ARRIVALS[arrival]():
            log.info("served")

    with capture() as captured:
        bind_context(worker=1)
        copied().run(next_request)
    assert fields(captured, "served") == {"span": "next", "worker": 1}
    assert is_of_its_own(captured, "next")
    assert captured.span("next")["attributes"]["worker"] == 1


@pytest.mark.parametrize("arrival", ["server", "consumer", "the API's server"])
def test_a_message_arriving_after_an_inner_stage_ended_inherits_nothing(
    arrival: str,
) -> None:
    """A connection that was opened in a request, and is kept: the request may still go on."""

    def message() -> None:
        with ARRIVALS[arrival]():
            log.info("handled")

    with capture() as captured, traced("alice's"):
        bind_context(user_id="alice")
        with traced("connect"):
            keeper = contextvars.copy_context()
        keeper.run(message)
        log.info("goes on")
    assert fields(captured, "handled") == {"span": "next"}
    assert is_of_its_own(captured, "next")
    assert fields(captured, "goes on") == {"span": "alice's", "user_id": "alice"}


def test_a_message_of_a_connection_that_is_open_is_of_its_user() -> None:
    """Whatever opens it: the connection's stage, and what is bound in it, go on."""
    with capture() as captured, traced("connection"):
        bind_context(user_id="bob")
        for n, options in enumerate(({"root": True, "kind": "server"}, {"root": True}, {})):
            with traced("message", **options):  # type: ignore[arg-type]
                log.info(f"line {n}")
    assert [line["user_id"] for line in captured.lines] == ["bob"] * 3


@pytest.mark.parametrize("headers", [HEADERS, {}], ids=["a trace", "no trace"])
@pytest.mark.parametrize("kind", ["internal", "server"])
def test_extract_leaves_the_request_before(headers: dict[str, str], kind: str) -> None:
    """With a trace in the headers and without; what fails after the stage is not Alice's."""

    def next_request() -> None:
        with extract(headers):
            log.info("arrived")
            with traced("next", kind=kind):
                log.info("served")
        log.info("afterwards")

    with capture() as captured:
        copied("inner").run(next_request)
    assert fields(captured, "served") == {"span": "next"}
    assert "user_id" not in captured.line("arrived")
    assert "user_id" not in captured.line("afterwards")
    assert "trace_id" not in captured.line("afterwards")
    trace_id = captured.span("next")["trace_id"]
    assert trace_id == TRACE if headers else trace_id != captured.span("alice's")["trace_id"]


def _each() -> None:
    for _ in each([{}], "next", context=lambda headers: headers):
        log.info("served")


def _in_a_stage(*around: Any, **options: Any) -> None:
    with ExitStack() as stack:
        for scope in around:
            stack.enter_context(scope)
        with traced("next", **options):
            log.info("served")


NEXT: dict[str, Callable[[], None]] = {
    "extract, server": lambda: _in_a_stage(extract({}), kind="server"),
    "extract, consumer": lambda: _in_a_stage(extract({}), kind="consumer"),
    "extract, plain": lambda: _in_a_stage(extract({})),
    "extract, root": lambda: _in_a_stage(extract({}), root=True),
    "server": lambda: _in_a_stage(kind="server"),
    "each": _each,
}


@pytest.mark.parametrize("stage", ["a stage", "no stage"])
@pytest.mark.parametrize("around", ["nothing", "a connection"])
@pytest.mark.parametrize("way", NEXT)
def test_who_sent_the_request_before_has_not_sent_the_next(
    way: str, around: str, stage: str
) -> None:
    """Its trace had come with it: that ends with the block that it came in."""

    def next_request() -> None:
        NEXT[way]()
        log.info("afterwards")

    with capture() as captured, ExitStack() as connection:
        if around == "a connection":
            connection.enter_context(traced("connection"))
        with extract(HEADERS):
            is_staged = stage == "a stage"
            context = copied(root=False) if is_staged else contextvars.copy_context()
        context.run(next_request)
    span, line = captured.span("next"), captured.line("afterwards")
    outer = captured.span("connection") if around == "a connection" else {}
    is_inside = way in ("extract, server", "extract, consumer", "extract, plain")
    expected = outer.get("span_id") if is_inside else None
    assert (span["trace_id"] == TRACE, span["parent_span_id"]) == (False, expected)
    assert TRACE not in [link["trace_id"] for link in span["links"]]
    assert line.get("trace_id") == outer.get("trace_id")
    assert "user_id" not in line.keys() | span["attributes"].keys()


def test_a_task_goes_on_in_the_trace_that_came_in() -> None:
    """Started without a stage, and with none that says that something else begins."""
    with capture() as captured:
        with extract(HEADERS):
            with extract({}):
                pass  # is not the end of the other
            with traced("request", kind="server"):
                pass
            context = contextvars.copy_context()
        context.run(_in_a_stage)
    for name in ("request", "next"):
        assert captured.span(name)["trace_id"] == TRACE


def test_a_trace_that_the_api_has_attached_hides_no_request_before() -> None:
    """An instrumentation's own ``extract``: the ended span is current no more, its user bound."""
    remote = trace.SpanContext(7, 8, is_remote=True, trace_flags=trace.TraceFlags(1))

    def next_request() -> None:
        with trace.use_span(trace.NonRecordingSpan(remote)):
            with traced("next"):
                log.info("staged")
            with trace.get_tracer("theirs").start_as_current_span("theirs"):
                log.info("theirs")

    with capture() as captured:
        copied().run(next_request)
    assert fields(captured, "staged") == {"span": "next"}
    assert fields(captured, "theirs") == {"span": "theirs"}


def test_an_entry_span_of_the_api_owns_what_is_bound_in_it() -> None:
    """A worker whose messages are the API's spans: never the last one's user on the next."""
    tracer = trace.get_tracer("theirs")
    with capture() as captured:
        with tracer.start_as_current_span("first"), tracer.start_as_current_span("inner"):
            bind_context(user_id="alice")
        with tracer.start_as_current_span("second"):
            log.info("second")
    assert "user_id" in captured.span("first")["attributes"]
    assert fields(captured, "second") == {"span": "second"}


def test_requests_that_are_not_sampled_end_too(tmp_path: Path) -> None:
    """99 of 100 of them; the next one, which is, has none of their users."""
    code = """
import sys
from contextvars import copy_context
from opentelemetry import trace
from otel_logging import bind_context, get_logger, setup_observability, traced
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
setup_observability(
    "shop", environment="production", endpoint="http://127.0.0.1:1", spool_dir=sys.argv[1]
)
log = get_logger("shop")
trace.get_tracer_provider().sampler = ALWAYS_OFF
tracer = trace.get_tracer("theirs")
copies = []
with traced("request"):
    with traced("authenticate"):
        bind_context(user_id="alice")
    with traced("job", root=True):
        log.info("in the request")
    copies.append(copy_context())
with tracer.start_as_current_span("request"), tracer.start_as_current_span("inner"):
    bind_context(user_id="bob")
    copies.append(copy_context())
def again():
    with traced("next", kind="server") as span:
        assert span.get_span_context().trace_id != stale.get_span_context().trace_id
        log.info("next")
for copy in copies:
    stale = copy.run(trace.get_current_span)
    copy.run(again)
"""
    lines = parsed(script(code, str(tmp_path), LOG_LEVEL="info").stdout)
    users = [(line["event"], line.get("user_id")) for line in lines]
    assert users == [("in the request", "alice"), ("next", None), ("next", None)]


@pytest.mark.parametrize("way", ["attached", "alone"])
def test_spans_of_another_sdk_end_too(way: str, tmp_path: Path) -> None:
    """Sampled and not, attached to or by themselves: its entry spans own what is bound."""
    code = """
import sys
from contextvars import copy_context
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON
from opentelemetry.trace import SpanKind
from otel_logging import bind_context, configure_logging, get_logger, setup_observability, traced
provider = TracerProvider(sampler=ALWAYS_ON)
trace.set_tracer_provider(provider)
if sys.argv[1] == "attached":
    setup_observability(
        "shop", environment="production", endpoint="http://127.0.0.1:1", spool_dir=sys.argv[2]
    )
else:
    configure_logging(environment="production")
log = get_logger("shop")
tracer = trace.get_tracer("theirs")
def again(kind):
    with traced("next", kind=kind, root=kind == "internal") as span:
        assert span.get_span_context().trace_id != stale.get_span_context().trace_id
        log.info(kind)
def theirs():
    with tracer.start_as_current_span("next", kind=SpanKind.SERVER) as span:
        if sys.argv[1] == "attached":
            assert "user_id" not in span.attributes
            log.info("theirs")
for sampler in (ALWAYS_ON, ALWAYS_OFF):
    provider.sampler = sampler
    tracer = provider.get_tracer("theirs")
    with traced("request"):
        with traced("authenticate"):
            bind_context(user_id="alice")
        with traced("job", root=True):
            log.info("in the request")
        copies = [copy_context() for _ in range(4)]
    with tracer.start_as_current_span("request"):
        bind_context(user_id="bob")
        of_api = copy_context()
    for copy, kind in zip(copies, ("server", "consumer", "internal")):
        stale = copy.run(trace.get_current_span)
        copy.run(again, kind)
    if sampler is ALWAYS_ON:
        copies[-1].run(theirs)
        stale = of_api.run(trace.get_current_span)
        of_api.run(again, "server")
"""
    lines = parsed(script(code, way, str(tmp_path), LOG_LEVEL="info").stdout)
    assert {line["event"] for line in lines} >= {"server", "consumer", "internal"}
    for line in lines:
        expected = "alice" if line["event"] == "in the request" else None
        assert line.get("user_id") == expected, line


# ---------------------------------------------------------------- what goes on


def test_a_task_that_goes_on_keeps_its_user_and_its_trace() -> None:
    """Its stages are the request's still, one after the other, and so is what is between them."""

    def task() -> None:
        bind_context(step=1)
        for name in ("first", "second"):
            with traced(name):
                log.info(f"in {name}")
            log.info(f"after {name}")

    with capture() as captured:
        copied().run(task)
    request = captured.span("alice's")
    assert len(captured.lines) == 4
    for line in captured.lines:
        assert (line["trace_id"], line["user_id"]) == (request["trace_id"], "alice")
        assert line["step"] == 1
    for name in ("first", "second"):
        assert captured.span(name)["parent_span_id"] == request["span_id"]
        assert captured.span(name)["attributes"]["user_id"] == "alice"


def test_a_task_whose_request_ends_while_its_stage_is_open_keeps_them_too() -> None:
    """The stage began in the request, and ends after it."""

    async def task(is_over: asyncio.Event) -> None:
        with traced("long"):
            await is_over.wait()
        log.info("after")
        with traced("sub", root=True):
            log.info("root")

    async def main() -> None:
        is_over = asyncio.Event()
        with traced("alice's"):
            bind_context(user_id="alice")
            running = asyncio.create_task(task(is_over))
            await asyncio.sleep(0)
        is_over.set()
        await running

    with capture() as captured:
        asyncio.run(main())
    assert fields(captured, "after") == {"span": "alice's", "user_id": "alice"}
    assert fields(captured, "root") == {"span": "sub"}


def test_a_root_stage_inside_a_stage_that_goes_on_gives_its_user_back() -> None:
    """The task is Alice's before and after."""

    def task() -> None:
        with traced("long"):
            bind_context(step=1)
            with traced("sub", root=True):
                log.info("root")
            log.info("after")

    with capture() as captured:
        copied().run(task)
    assert fields(captured, "root") == {"span": "sub", "step": 1}
    assert fields(captured, "after") == {"span": "long", "user_id": "alice", "step": 1}


def test_what_the_next_request_binds_itself_is_its_own() -> None:
    """Also what is bound before its stage begins: by a middleware, say, in a block or without."""

    def next_request() -> None:
        bind_context(plan="gold")
        with bound_context(request_id="r-2"):
            with traced("next", kind="server"):
                log.info("begun")
                bind_context(user_id="bob")
                log.info("known")
            log.info("answered")
        log.info("over")

    with capture() as captured:
        bind_context(worker=1)
        copied().run(next_request)
    around = {"worker": 1, "plan": "gold"}
    assert fields(captured, "begun") == {"span": "next", **around, "request_id": "r-2"}
    assert captured.line("known")["user_id"] == "bob"
    assert fields(captured, "answered") == {"span": None, **around, "request_id": "r-2"}
    assert fields(captured, "over") == {"span": None, **around}


def test_blocks_around_the_request_before_have_ended_too() -> None:
    """A user that was bound around the stage, by a block, is not the next one's either."""
    with capture() as captured:
        with bound_context(user_id="alice", step=0), traced("alice's", root=True):
            bind_context(step=1)
            context = contextvars.copy_context()
        with bound_context(worker=1):
            with traced("other"):
                bind_context(worker=2)
                still_in_a_block = contextvars.copy_context()
            still_in_a_block.run(traced("last", root=True)(lambda: log.info("last")))
        context.run(traced("next", root=True)(lambda: log.info("next")))
    assert fields(captured, "next") == {"span": "next"}
    assert fields(captured, "last") == {"span": "last", "worker": 1}


def test_a_root_stage_has_nothing_of_a_block_that_has_ended() -> None:
    """A kept connection's reader that was resumed in the block; its own lines keep the fields."""

    def reader() -> None:
        log.info("before")
        with traced("next", root=True):
            log.info("next")
        with traced("step"):
            log.info("step")
        log.info("after")

    with capture() as captured:
        bind_context(worker=1)
        with bound_context(user_id="alice"):
            context = contextvars.copy_context()
            with traced("alice's", root=True):
                log.info("alice's")
            context.copy().run(traced("open", root=True)(lambda: log.info("open")))
        context.run(reader)
    assert fields(captured, "alice's") == {"span": "alice's", "worker": 1, "user_id": "alice"}
    assert fields(captured, "open") == {"span": "open", "worker": 1, "user_id": "alice"}
    assert fields(captured, "next") == {"span": "next", "worker": 1}
    assert "user_id" not in captured.span("next")["attributes"]
    assert fields(captured, "step") == {"span": "step", "worker": 1, "user_id": "alice"}
    for event in ("before", "after"):
        assert fields(captured, event) == {"span": None, "worker": 1, "user_id": "alice"}


def test_a_root_stage_inside_an_open_request_has_nothing_of_a_block_that_has_ended() -> None:
    """A task of the request, started in a block of it."""
    with capture() as captured, traced("request", root=True):
        bind_context(user_id="alice")
        with bound_context(order=1):
            context = contextvars.copy_context()
        context.run(traced("sub", root=True)(lambda: log.info("sub")))
        context.run(lambda: log.info("plain"))
    assert fields(captured, "sub") == {"span": "sub", "user_id": "alice"}
    assert fields(captured, "plain") == {"span": "request", "user_id": "alice", "order": 1}


def test_what_a_nested_request_hid_comes_back() -> None:
    """Falling back goes outwards: to what is around the last request that has ended."""
    with capture() as captured:
        with traced("outer"):
            bind_context(user_id="outer's", order="outer's", unbound=1)
            with traced("inner", root=True):
                bind_context(user_id="inner's", order="inner's")
                bind_context(order="inner's last")
                unbind_context("unbound")
                context = contextvars.copy_context()
            context.run(traced("first", root=True)(lambda: log.info("first")))
        context.run(traced("second", root=True)(lambda: log.info("second")))
    outers = {"user_id": "outer's", "order": "outer's"}
    assert fields(captured, "first") == {"span": "first", **outers}
    assert fields(captured, "second") == {"span": "second"}


def test_detached_in_such_a_context_is_unowned_and_restores_it() -> None:
    """A task that goes on."""

    def task() -> None:
        with detached(), traced("sweep", root=True):
            log.info("sweep")
        log.info("after")

    with capture() as captured:
        copied().run(task)
    assert fields(captured, "sweep") == {"span": "sweep"}
    assert captured.line("after")["user_id"] == "alice"


@pytest.mark.parametrize("first", [{"root": True}, {"kind": "server"}, {}])
@pytest.mark.parametrize(
    "way", ["server", "root", "consumer", "extract", "detached", "a stage", "by itself"]
)
def test_what_structlogs_own_functions_bind_is_not_the_next_requests(
    way: str, first: dict[str, Any]
) -> None:
    """What was bound before the request is; and a task that goes on keeps all."""

    def goes_on() -> None:
        scopes = {"extract": lambda: extract({}), "detached": detached}
        scopes |= {"a stage": lambda: traced("step"), "by itself": ExitStack}
        with (scopes | ARRIVALS)[way]():
            log.info("next")
        log.info("after")

    with capture() as captured:
        bind_contextvars(service="chat", version=1)
        with traced("request", **first):
            bind_contextvars(user="alice", version=2)
            context = contextvars.copy_context()
        context.run(goes_on)
        clear_contextvars()
    was, new = ("chat", 1, None), ("chat", 2, "alice")
    said = [tuple(map(line.get, ("service", "version", "user"))) for line in captured.lines]
    is_kept = way in ("a stage", "by itself")
    assert said == [new if is_kept else was, new if is_kept or way == "detached" else was]


def test_headers_that_leave_have_no_trace_of_the_request_before() -> None:
    """Nor is anything linked to it."""
    found: list[dict[str, str]] = []

    def next_request() -> None:
        with traced("next", root=True, kind="server"):
            found.append(inject())

    with capture() as captured:
        copied().run(next_request)
    span = captured.span("next")
    assert found[0]["traceparent"].split("-")[1] == span["trace_id"]
    assert span["links"] == []


def test_the_servers_error_line_is_the_next_requests() -> None:
    """What the stage leaves is its own request's: the context has nothing of the first one."""

    def next_request() -> None:
        try:
            with extract({}), traced("next", kind="server"):
                bind_context(user_id="bob")
                raise ValueError("boom")
        except ValueError:
            log.exception("failed")

    with capture() as captured:
        copied().run(next_request)
    line = captured.line("failed")
    assert (line["user_id"], line["span_id"]) == ("bob", captured.span("next")["span_id"])


# ---------------------------------------------------------------- without tracing


def _bound() -> dict[str, Any]:
    return dict(context.bound())


@pytest.mark.parametrize("options", [{"root": True}, {"kind": "server"}, {"kind": "consumer"}])
def test_without_tracing_too_a_request_ends_what_is_bound_in_it(options: dict[str, Any]) -> None:
    """Before set-up, after shutdown, with the SDK disabled: on its thread and a kept connection."""
    contexts: list[contextvars.Context] = []

    def first() -> None:
        with traced("stage"):
            bind_context(user_id="alice")
        contexts.append(contextvars.copy_context())
        with traced("part", kind="server"):
            bind_context(order=1)
        assert _bound() == {"worker": 1, "user_id": "alice", "order": 1}

    bind_context(worker=1)
    stage = traced("request", **options)
    stage(first)()
    assert _bound() == {"worker": 1}
    assert stage(_bound)() == {"worker": 1}
    assert contexts[0].run(_bound) == {"worker": 1, "user_id": "alice"}
    assert contexts[0].run(stage(_bound)) == {"worker": 1}
    assert trace.get_current_span() is trace.INVALID_SPAN
    for _ in each([1], "item"):
        bind_context(user_id="bob")
    assert _bound() == {"worker": 1}


def test_without_tracing_an_incoming_trace_goes_on_through_a_request() -> None:
    """As it does without the stage; not through one that begins a trace."""
    with extract(HEADERS):
        with traced("request", kind="server"):
            assert TRACE in inject()["traceparent"]
        with traced("own", root=True):
            assert "traceparent" not in inject()
        assert TRACE in inject()["traceparent"]


def test_without_tracing_an_error_line_is_its_requests(capsys: Any) -> None:
    """What left the request has its user."""
    try:
        with traced("request", kind="server", budget=1.0):
            bind_context(user_id="alice")
            raise ValueError("boom")
    except ValueError:
        log.exception("failed")
    (line,) = parsed(capsys.readouterr().out)
    assert line["user_id"] == "alice"
    assert "trace_id" not in line


@pytest.mark.parametrize(
    ("set_up", "variable"),
    [
        ("setup_observability('shop')", {"OTEL_SDK_DISABLED": "true"}),
        ("setup_observability('shop')", {"OTEL_TRACES_EXPORTER": "none"}),
        ("configure_logging()", {}),
        ("configure_logging(); configure_logging()", {"OTEL_LOGGING_INSTRUMENT": "flask"}),
    ],
)
def test_without_tracing_the_integrations_begin_each_request_clean(
    set_up: str,
    variable: dict[str, str],
) -> None:
    """With no line of an application's code."""
    done = script(f"{_IMPORTS}{set_up}{_FLASK}", ENVIRONMENT="production", **variable)
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [line.get("user_id") for line in lines] == ["alice", None]


def test_a_set_up_has_the_integrations_that_it_asks_for() -> None:
    """And leaves none of those that logging alone has put in place before."""
    set_up = "configure_logging(); setup_observability('shop', endpoint='http://127.0.0.1:9', "
    for asked, has_trace in (("instrument='flask')", True), ("instrument=())", False)):
        done = script(f"{_IMPORTS}{set_up}{asked}{_FLASK}", ENVIRONMENT="production")
        first, _ = parsed(done.stdout)
        assert ("trace_id" in first) is has_trace


_IMPORTS = """
import flask
from otel_logging import bind_context, configure_logging, get_logger, setup_observability
"""
_FLASK = """
app = flask.Flask("shop")

@app.get("/")
@app.get("/<user>")
def view(user=None):
    if user:
        bind_context(user_id=user)
    get_logger("shop").info("served")
    return ""

for path in ("/alice", "/"):
    app.test_client().get(path)
"""


# ---------------------------------------------------------------- a request has one user, or none


def _users(*steps: tuple[str, str | None], around: Any = None) -> Captured:
    """Run a request; each step is of a task of it, which binds a user, or only logs.

    Inside the block *around*, where it is given; that has a line after the request.
    """

    def step(task: str, user: str | None) -> None:
        if user:
            bind_context(user_id=user, **{f"of_{task}": 1})
        log.info(f"{task}:{user or ''}")

    with capture() as captured, around or nullcontext():
        with traced("batch", root=True):
            contexts = {task: contextvars.copy_context() for task, _ in steps}
            for task, user in steps:
                if task == "itself":
                    step(task, user)
                else:
                    contexts[task].run(step, task, user)
            log.info("done")
        if around:
            log.info("after")
    return captured


def test_what_a_task_binds_is_the_requests() -> None:
    """Also where the request has logged before, and that two bind the same changes nothing."""
    captured = _users(("itself", None), ("a", "alice"), ("b", None), ("c", "alice"), ("d", None))
    users = [line.get("user_id") for line in captured.lines]
    assert users == [None, "alice", "alice", "alice", "alice", "alice"]
    assert "of_a" not in captured.line("done")


def test_a_line_before_the_user_is_known_does_not_hide_it(capsys: Any) -> None:
    """What was made for the first line is made anew."""
    with traced("request", root=True):
        log.info("first")
        contextvars.copy_context().run(bind_context, user_id="alice")
        log.info("second")
    lines = parsed(capsys.readouterr().out)
    assert [line.get("user_id") for line in lines] == [None, "alice"]


def test_two_users_of_one_request_are_not_each_others() -> None:
    """Each task keeps its own; the request, and who has bound none, is nobody's from then on."""
    captured = _users(
        *(("a", "alice"), ("b", "bob"), ("a", None), ("b", None), ("other", None)),
        *(("c", "alice"), ("itself", None)),
    )
    users = [line.get("user_id") for line in captured.lines]
    assert users == ["alice", "bob", "alice", "bob", None, "alice", None, None]


@pytest.mark.parametrize("is_baggage", [True, False])
def test_a_user_who_came_from_outside_gives_way_to_the_requests(
    is_baggage: bool, monkeypatch: Any
) -> None:
    """Bound in a thread or a task, as in a dependency that is no coroutine; or to two of them."""
    monkeypatch.setattr(_runtime, "current", replace(_runtime.current, propagate=("user_id",)))
    sent = extract({"baggage": "user_id=sent"}) if is_baggage else bound_context(user_id="sent")
    one = _users(("itself", None), ("a", "alice"), ("itself", None), ("b", None), around=sent)
    two = _users(("a", "alice"), ("b", "bob"), ("a", None), ("itself", None), around=sent)
    users = [[line.get("user_id") for line in captured.lines] for captured in (one, two)]
    assert users[0] == ["sent", "alice", "alice", "alice", "alice", "sent"]
    assert users[1] == ["alice", "bob", "alice", None, None, "sent"]


def test_a_request_that_has_bound_its_user_itself_keeps_it() -> None:
    """A task that works for somebody else is another's only in its own lines."""
    captured = _users(("itself", "alice"), ("b", "bob"), ("b", None), ("other", None))
    users = [line.get("user_id") for line in captured.lines]
    assert users == ["alice", "bob", "bob", None, "alice"]


def _entry_user(captured: Captured) -> Any:
    return captured.span("request")["attributes"].get("user_id")


@pytest.mark.parametrize("kind", ["root", "server", "plain"])
def test_two_users_of_one_request_are_not_its_spans_either(kind: str) -> None:
    """Its span has none, so a stage that binds nothing is nobody's; with one it has that one."""
    options: dict[str, Any] = {"root": {"root": True}, "server": {"kind": "server"}}.get(kind, {})

    def step(user: str | None) -> None:
        with traced(f"of {user}"):
            if user:
                bind_context(user_id=user)

    for users, of_request in ((("a", None, "a"), "a"), (("a", None, "b", "c", None), None)):
        with capture() as captured, traced("request", **options):
            for context, user in [(contextvars.copy_context(), user) for user in users]:
                context.run(step, user)
        assert _entry_user(captured) == of_request
        seen = {s["name"]: s["attributes"].get("user_id") for s in captured.spans}
        assert {seen[f"of {user}"] for user in users if user} == {*users} - {None}


def test_who_has_bound_a_user_may_bind_another() -> None:
    """A guest logs in: the request is of who it is now, everywhere."""
    with capture() as captured, traced("request", root=True):
        other = contextvars.copy_context()
        bind_context(user_id="guest")
        bind_context(user_id="alice")
        other.run(log.info, "other")
    assert captured.line("other")["user_id"] == _entry_user(captured) == "alice"


def test_a_task_that_works_for_somebody_else_leaves_the_requests_user() -> None:
    """Tasks that a request starts for each of a message's recipients."""

    async def deliver(to: str) -> None:
        bind_context(user_id=to)
        log.info(to)

    async def main() -> None:
        other = contextvars.copy_context()
        bind_context(user_id="alice")
        await asyncio.gather(*(deliver(to) for to in ("bob", "carol")))
        log.info("itself")
        other.run(log.info, "other")

    with capture() as captured, traced("request", root=True):
        asyncio.run(main())
    users = [line["user_id"] for line in captured.lines]
    assert users == ["bob", "carol", "alice", "alice"]
    assert _entry_user(captured) == "alice"


def test_a_user_from_a_thread_is_bound_again_before_work_for_others() -> None:
    """Also where the same thread does that work."""

    def of(user: str) -> None:
        pool.submit(contextvars.copy_context().run, bind_context, user_id=user).result(60)

    with ThreadPoolExecutor(1) as pool, capture() as captured, traced("request", root=True):
        of("alice")
        bind_context(user_id="alice")
        of("bob")
        log.info("itself")
    assert captured.line("itself")["user_id"] == _entry_user(captured) == "alice"


def test_in_a_block_too_the_requests_user_is_as_it_is_now() -> None:
    """Of a ``bound_context``, of what was unbound, of what a block has bound beside its own."""
    with capture() as captured, traced("request", root=True):
        alice, bob = contextvars.copy_context(), contextvars.copy_context()

        def in_block() -> None:
            with bound_context(order_id=1):
                alice.run(bind_context, user_id="alice")
                log.info("block")
                bind_context(step=1)
                log.info("step")
                bob.run(bind_context, user_id="bob")
                log.info("block, two")
            log.info("after")
            unbind_context("step")
            log.info("unbound")

        contextvars.copy_context().run(in_block)
    fields = ("user_id", "order_id", "step")
    assert [tuple(line.get(key) for key in fields) for line in captured.lines] == [
        ("alice", 1, None),
        ("alice", 1, 1),
        (None, 1, 1),
        (None, None, 1),
        (None, None, None),
    ]


def test_a_block_that_ends_inside_a_stage_begun_in_it_takes_its_own_along() -> None:
    with capture() as captured:
        block = bound_context(order_id=1)
        with block, traced("request", root=True):
            bind_context(user_id="alice")
            block.__exit__()
            log.info("after")
    assert captured.line("after").keys() & {"user_id", "order_id"} == {"user_id"}


def test_a_user_who_is_unbound_is_not_shown_again() -> None:
    with capture() as captured, traced("request", root=True):
        contextvars.copy_context().run(bind_context, user_id="alice")
        unbind_context("user_id")
        contextvars.copy_context().run(bind_context, user_id="alice", step=1)
        log.info("unbound")
    assert "user_id" not in captured.line("unbound")


def test_what_is_bound_in_a_block_is_the_requests() -> None:
    """The block's own user is not: it ends with the block."""
    with capture() as captured, traced("request", root=True):
        request = contextvars.copy_context()

        def in_block() -> None:
            with bound_context(user_id="carol"):
                request.run(log.info, "block")
            with bound_context(order_id=1):
                contextvars.copy_context().run(bind_context, user_id="alice")

        contextvars.copy_context().run(in_block)
        log.info("request")
    assert "user_id" not in captured.line("block")
    assert captured.line("request")["user_id"] == _entry_user(captured) == "alice"


def test_a_task_that_a_task_starts_lends_to_both() -> None:
    """What is bound on the way down is no hindrance, and who has gone is forgotten."""
    with capture() as captured, traced("request", root=True):

        def outer() -> None:
            bind_context(step=1)
            bind_context(step=2)
            contextvars.copy_context().run(bind_context, user_id="alice")
            log.info("outer")

        contextvars.copy_context().run(outer)
        log.info("request")
    assert captured.line("outer")["user_id"] == captured.line("request")["user_id"] == "alice"
    assert "step" not in captured.line("request")


# ---------------------------------------------------------------- every way that copies a context


def test_every_way_of_asyncio_that_copies_a_context() -> None:
    """Callbacks, timers, done callbacks, readers, tasks of a pool, protocols, threads."""
    ways: list[str] = []

    def arrive(way: str) -> None:
        with traced(way, root=True):
            log.info(way)
        ways.append(way)

    async def main() -> None:
        loop = asyncio.get_running_loop()
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        queue: asyncio.Queue[str] = asyncio.Queue()
        done = asyncio.Event()
        future = loop.create_future()

        async def keeper() -> None:
            arrive(await queue.get())

        def readable() -> None:
            arrive(ours.recv(99).decode())
            loop.remove_reader(ours)
            done.set()

        with traced("alice's", root=True):
            bind_context(user_id="alice")
            loop.call_soon(arrive, "call_soon")
            loop.call_later(0.001, arrive, "call_later")
            loop.call_soon_threadsafe(arrive, "call_soon_threadsafe")
            future.add_done_callback(lambda _: arrive("done callback"))
            loop.add_reader(ours, readable)
            task = asyncio.create_task(keeper())
            in_thread = asyncio.create_task(_later(lambda: asyncio.to_thread(arrive, "to_thread")))
            context = contextvars.copy_context()
        with ThreadPoolExecutor(1) as pool:
            pool.submit(context.run, arrive, "copy_context")
        theirs.send(b"reader")
        queue.put_nowait("pool task")
        future.set_result(None)
        await asyncio.gather(task, in_thread, done.wait())
        while len(ways) < 8:
            await asyncio.sleep(0.001)
        ours.close()
        theirs.close()

    with capture() as captured:
        asyncio.run(main())
    assert sorted(ways) == sorted(line["event"] for line in captured.lines)
    for way in ways:
        assert fields(captured, way) == {"span": way}
        assert is_of_its_own(captured, way)


async def _later(work: Callable[[], Any]) -> None:
    await asyncio.sleep(0)
    await work()


def test_carried_functions_and_generators() -> None:
    """Made in a request and run after it: a stage of theirs is the request's, a root one is not."""

    def rows() -> Iterator[None]:
        with traced("row", root=True):
            log.info("generator")
        yield
        with traced("child"):
            log.info("goes on")

    async def stream() -> AsyncIterator[None]:
        yield
        with traced("message", kind="consumer"):
            log.info("async generator")

    async def drain(steps: Any) -> None:
        async for _ in steps:
            pass

    with capture() as captured:
        with traced("alice's"):
            bind_context(user_id="alice")
            steps, messages = carry(rows)(), carry(stream)()
            work = carry(traced("work", root=True)(lambda: log.info("function")))
            child = carry(traced("child of")(lambda: log.info("child")))
        list(steps)
        asyncio.run(drain(messages))
        for function in (work, child):
            thread = threading.Thread(target=function)
            thread.start()
            thread.join()
    for event in ("generator", "async generator", "function"):
        assert "user_id" not in captured.line(event)
    assert fields(captured, "child") == {"span": "child of", "user_id": "alice"}
    # the generator's context has left the request with its root stage
    assert "user_id" not in captured.line("goes on")
    assert captured.line("child")["trace_id"] == captured.span("alice's")["trace_id"]


def test_a_scope_that_ends_out_of_order_in_such_a_context() -> None:
    """What it would give back has gone with the request."""

    def next_request() -> None:
        scope = bound_context(user_id="bob")
        with scope:
            with traced("next", kind="server"):
                log.info("inside")
            log.info("after")
        log.info("over")

    with capture() as captured:
        copied().run(next_request)
    assert fields(captured, "inside") == {"span": "next", "user_id": "bob"}
    assert fields(captured, "after") == {"span": None, "user_id": "bob"}
    assert fields(captured, "over") == {"span": None}


@pytest.mark.parametrize("nobody", [None, ""])
def test_a_user_who_is_bound_later_is_the_requests_though_none_was_bound_first(nobody: Any) -> None:
    """As by a middleware that begins each request with ``user_id=None``."""

    def step(event: str, user: str | None) -> None:
        bind_context(user_id=user)
        log.info(event)

    with capture() as captured, traced("request", root=True):
        step("before", nobody)
        thread, other, optional = (contextvars.copy_context() for _ in range(3))
        log.info("itself, before")
        with bound_context(user_id=nobody):
            thread.run(step, "thread", "alice")
            log.info("block")
        log.info("itself")
        other.run(log.info, "other")
        optional.run(step, "optional", nobody)
        log.info("after")
    users = {line["event"]: line["user_id"] for line in captured.lines}
    nobodies = dict.fromkeys(("before", "itself, before", "block"), nobody)
    names = ("thread", "itself", "other", "optional", "after")
    assert users == {**nobodies, **dict.fromkeys(names, "alice")}
    assert _entry_user(captured) == "alice"


def test_a_second_user_of_a_request_that_began_with_none_is_not_the_firsts() -> None:
    """Two that are someone differ, whatever was bound before them."""
    with capture() as captured, traced("request", root=True):
        bind_context(user_id=None)
        contextvars.copy_context().run(bind_context, user_id="alice")
        bind_context(user_id="bob")
        log.info("itself")
        contextvars.copy_context().run(log.info, "other")
    assert [line["user_id"] for line in captured.lines] == ["bob", "bob"]
    assert _entry_user(captured) is None


def test_who_logs_out_is_nobody_everywhere() -> None:
    """And who logs in then is the request's."""
    with capture() as captured, traced("request", root=True):
        other = contextvars.copy_context()
        bind_context(user_id="alice")
        bind_context(user_id=None)
        other.run(log.info, "out")
        bind_context(user_id="bob")
        other.run(log.info, "in")
    assert [line["user_id"] for line in captured.lines] == [None, "bob"]
    assert _entry_user(captured) == "bob"


@pytest.mark.parametrize("order", ["stage first", "headers first"])
@pytest.mark.parametrize("kind", ["server", "consumer"])
def test_what_is_bound_between_headers_and_stage_ends_with_the_headers(
    order: str, kind: str
) -> None:
    """As by who knows the user before the stage; the next request in a copy of it has none."""
    headers = {"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}
    kept: list[contextvars.Context] = []

    def request(name: str, arrived: dict[str, str], user: str | None) -> None:
        stage = traced(name, kind=kind)
        with ExitStack() as around:
            for each in (
                (stage, extract(arrived)) if order == "stage first" else (extract(arrived),)
            ):
                around.enter_context(each)
            if user:
                bind_context(user_id=user)
            if order == "headers first":
                around.enter_context(stage)
            kept.append(contextvars.copy_context())
            log.info(name)

    with capture() as captured:
        contextvars.Context().run(request, "first", headers, "alice")
        kept[0].run(request, "second", {}, None)
    assert captured.line("first")["user_id"] == "alice"
    assert "user_id" not in captured.line("second")
