"""OpenTelemetry's instrumentations of clients are on where they are installed."""

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
import requests
import sqlalchemy
from opentelemetry import baggage, propagate, trace
from opentelemetry import context as otel_context
from sqlalchemy import create_engine, text  # before a set-up, and by its name

from otel_logging import bind_context, extract, setup_observability, traced
from otel_logging.integrations import clients
from otel_logging.testing import capture
from tests.programs import script
from tests.receiver import Receiver


@pytest.fixture
def instrumented() -> Iterator[None]:
    clients.instrument()
    clients.instrument()
    yield
    clients.uninstrument()


@pytest.mark.parametrize("post", [httpx.post, requests.post])
def test_a_call_is_a_span_and_its_headers_hold_the_trace_alone(
    instrumented: None, receiver: Receiver, post: Any
) -> None:
    with capture() as run, traced("request"):
        bind_context(user_id="alice")
        post(receiver.endpoint)
    call = run.span("POST")
    assert call["parent_span_id"] == run.span("request")["span_id"]
    (request,) = receiver.requests
    assert request.headers["traceparent"][3:52] == f"{call['trace_id']}-{call['span_id']}"
    assert "alice" not in str(request.headers)


@pytest.mark.parametrize("how", ["early", "by name", "whole", "other options"])
def test_each_query_of_each_engine_is_one_span(how: str) -> None:
    """Whoever made it, and when; with its instrumentation off it makes none."""
    early = create_engine("sqlite://")
    clients.instrument()
    engine = early
    if how == "by name":
        engine = create_engine("sqlite://")
    elif how == "whole":
        engine = sqlalchemy.create_engine("sqlite://")
    try:
        with capture() as run, traced("request"):
            for options in ({}, {"logging_token": "x"}) if how == "other options" else ({}, {}):
                with engine.execution_options(**options).connect() as connection:
                    connection.execute(text("select 1"))
        spans = [span["name"] for span in run.spans]
        assert spans == ["request", *["connect", "select"] * 2]
        assert len({span["trace_id"] for span in run.spans}) == 1
    finally:
        clients.uninstrument()
    with capture() as run, engine.connect() as connection:
        connection.execute(text("select 1"))
    assert run.spans == []
    engine.dispose()


def sent(post: Any, receiver: Receiver) -> dict[str, str]:
    post(receiver.endpoint)
    headers = {key.lower(): value for key, value in receiver.requests[-1].headers.items()}
    return {key: headers[key] for key in ("traceparent", "tracestate", "baggage") if key in headers}


@pytest.mark.parametrize("post", [httpx.post, requests.post])
def test_the_bound_keys_that_are_named_leave_as_baggage_and_nothing_else(
    instrumented: None, receiver: Receiver, post: Any
) -> None:
    """Nor what came in as baggage, by ours and by others' propagators, or was set as that."""
    came_in = {
        "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        "tracestate": "vendor=1",
        "baggage": "secret=s,tenant=t1",
    }
    with (
        capture() as run,
        setup_observability("shop", propagate=("user_id", "tenant", "missing")),
        extract(came_in),
        traced("request"),
    ):
        bind_context(user_id="alice", card="4111")
        set_by_hand = baggage.set_baggage("own", "x", propagate.extract(came_in))
        token = otel_context.attach(
            trace.set_span_in_context(trace.get_current_span(), set_by_hand)
        )
        headers = sent(post, receiver)
        otel_context.detach(token)
    call = run.span("POST")
    assert headers == {
        "traceparent": f"00-{came_in['traceparent'][3:35]}-{call['span_id']}-01",
        "tracestate": "vendor=1",
        "baggage": headers["baggage"],
    }
    assert sorted(headers["baggage"].split(",")) == ["tenant=t1", "user_id=alice"]


def test_without_a_set_up_others_headers_are_theirs() -> None:
    """And the propagators of OTEL_PROPAGATORS are asked for their fields."""
    with capture(), setup_observability("shop"):
        textmap = propagate.get_global_textmap()
        assert {"traceparent", "baggage"} <= textmap.fields
        headers: dict[str, str] = {}
        context = baggage.set_baggage("own", "x")
        textmap.inject(headers, context)
        assert headers == {}
    textmap.inject(headers, context)
    assert headers == {"baggage": "own=x"}


def test_an_instrumentation_that_fails_is_reported_and_left_out(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def load() -> Any:
        raise ImportError("another version")

    monkeypatch.setattr(clients, "_installed", lambda: {"httpx": SimpleNamespace(load=load)})
    clients.instrument()
    assert "the instrumentation of httpx is left out (another version)" in capsys.readouterr().err


def test_an_instrumentation_that_does_not_take_the_version_is_not_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It says so itself; and it is not taken off, of which it would warn."""
    made = SimpleNamespace(is_instrumented_by_opentelemetry=False, instrument=list)
    entry = SimpleNamespace(load=lambda: lambda: made)
    monkeypatch.setattr(clients, "_installed", lambda: {"httpx": entry})
    clients.instrument()
    assert clients.on() == []
    clients.uninstrument()


def test_what_the_application_has_instrumented_is_left_to_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from opentelemetry.instrumentation.httpx import HTTPXClientInstrumentor

    theirs = HTTPXClientInstrumentor()
    theirs.instrument()
    try:
        clients.instrument()
        clients.uninstrument()
        assert theirs.is_instrumented_by_opentelemetry
    finally:
        theirs.uninstrument()


def test_without_opentelemetrys_instrumentations_nothing_is_looked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(clients, "find_spec", lambda _: None)
    clients._installed.cache_clear()
    clients.instrument()
    clients._installed.cache_clear()
    assert "httpx" in sys.modules


SET_UP = """
from otel_logging import setup_observability
def said(environment, **options):
    with setup_observability("shop", environment=environment, **options):
        pass
    print("--", flush=True)
said("dev")
import flask, httpx, redis
said("production")
said("development")
said("dev", instrument=("flask",))
"""


def test_set_up_names_what_is_on_and_what_could_be_in_development_alone(tmp_path: Path) -> None:
    """Of what is imported by then."""
    variables = {
        "OTEL_LOGGING_SPOOL_DIR": str(tmp_path),
        "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9",
    }
    done = script(SET_UP, **variables).stdout.decode()
    nothing, in_production, in_development, without, _ = done.split("--\n")
    assert nothing == in_production == ""
    assert "instrumented" in in_development
    assert 'on=["flask","wsgi","httpx"]' in in_development
    (more,) = re.findall(r"more='pip install (.*?)'", in_development)
    named = more.split()
    assert {"opentelemetry-sdk", "opentelemetry-instrumentation-redis"} <= set(named)
    assert "opentelemetry-instrumentation-httpx" in named  # whose version goes with the others'
    assert 'on=["flask"]' in without


def test_a_library_is_whole_before_it_is_instrumented(tmp_path: Path) -> None:
    """httpx imports another one that is."""
    done = script(
        "import sys\n"
        "from otel_logging import setup_observability\n"
        "setup_observability('shop', spool_dir=sys.argv[1], environment='test')\n"
        "assert not {'httpx', 'urllib.request'} & sys.modules.keys()\n"
        "import httpx\n"
        "from otel_logging.integrations import clients\n"
        "assert 'httpx' in clients.on()\n"
        "import aiohttp\n"
        "assert not sys.modules.keys() & {'opentelemetry.instrumentation.aiohttp_client'}"
        " or 'aiohttp-client' in clients.on()\n",
        tmp_path,
    )
    assert done.stderr == b""
