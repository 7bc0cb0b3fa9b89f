"""OpenTelemetry's instrumentations of clients are on where they are installed."""

import sys
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
import requests

from otel_logging import bind_context, traced
from otel_logging.integrations import clients
from otel_logging.testing import capture
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


def test_an_instrumentation_that_fails_is_reported_and_left_out(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def load() -> Any:
        raise ImportError("another version")

    monkeypatch.setattr(clients, "_installed", lambda: {"httpx": SimpleNamespace(load=load)})
    clients.instrument()
    assert "the instrumentation of httpx is left out (another version)" in capsys.readouterr().err


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
