"""The middleware by itself: servers and frameworks that do what the usual ones do not."""

import asyncio
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from types import ModuleType
from typing import Any

import pytest
from django.http import UnreadablePostError
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.routing import Mount

from otel_logging import (
    bind_context,
    bound_context,
    get_logger,
    setup_observability,
    traced,
    unbind_context,
)
from otel_logging.context import bound
from otel_logging.integrations.asgi import ObservabilityMiddleware
from otel_logging.testing import Captured, capture

log: Any = get_logger("shop")
HTTP = {"type": "http", "method": "GET", "path": "/orders/7", "headers": []}
WS = {"type": "websocket", "path": "/ws", "headers": [(b"x-request-id", b"r-1")]}


@contextmanager
def seen() -> Iterator[Captured]:
    with capture(log_level="info") as captured, setup_observability("shop", instrument=()):
        yield captured


async def run(
    app: Any, scope: dict[str, Any], events: list[Any], sent: list[Any] | None = None, **given: Any
) -> list[Any]:
    """Serve one scope; the server has *events*, an exception among them is raised."""
    answers: list[Any] = [] if sent is None else sent
    waiting = list(events)

    async def receive() -> Any:
        if not waiting:
            await asyncio.sleep(3600)
        event = waiting.pop(0)
        if isinstance(event, Exception):
            raise event
        return event

    async def send(event: Any) -> None:
        answers.append(event)

    await ObservabilityMiddleware(app, **given)({**scope}, receive, send)
    return answers


def text(value: str) -> dict[str, Any]:
    return {"type": "websocket.receive", "text": value}


CONNECT = {"type": "websocket.connect"}
GONE = {"type": "websocket.disconnect", "code": 1006}


async def echo(scope: Any, receive: Any, send: Any) -> None:
    await receive()
    await send({"type": "websocket.accept", "headers": [(b"x-own", b"1")]})
    while (event := await receive())["type"] == "websocket.receive":
        bind_context(n=event["text"])
        log.info("message")
        await send({"type": "websocket.send", "text": event["text"]})


def attributes(span: dict[str, Any]) -> dict[str, Any]:
    return dict(span["attributes"])


@pytest.mark.parametrize("read_ahead", [0, 1, 2, 32])
def test_as_many_are_read_ahead_as_was_asked_for(read_ahead: int) -> None:
    with seen() as captured:
        events = [CONNECT, *map(text, "abcd"), GONE]
        sent = asyncio.run(run(echo, WS, events, read_ahead=read_ahead))
    assert [event["text"] for event in sent[1:]] == list("abcd")
    messages = [span for span in captured.spans if span["name"] == "message"]
    assert [attributes(span)["n"] for span in messages] == list("abcd")
    headers = dict(sent[0]["headers"])
    assert (headers[b"x-own"], headers[b"x-request-id"]) == (b"1", b"r-1")
    assert all(attributes(span)["request_id"] == "r-1" for span in messages)


def test_a_loop_that_is_not_asyncio_s_is_no_hindrance() -> None:
    """hypercorn's worker for trio: nothing is read ahead."""
    events = [CONNECT, text("a"), text("b"), GONE]

    async def receive() -> Any:
        return events.pop(0)

    async def send(event: Any) -> None:
        pass

    with seen() as captured:
        served = ObservabilityMiddleware(echo)({**WS}, receive, send)
        with pytest.raises(StopIteration):
            served.send(None)
    assert [span["name"] for span in captured.spans] == ["WS", "message", "message", "disconnect"]


def test_what_the_server_s_receive_raises_the_application_gets() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        await receive()
        with pytest.raises(ValueError, match="broken frame"):
            await receive()
        assert (await receive())["type"] == "websocket.disconnect"  # asks the server again

    with seen():
        asyncio.run(run(app, WS, [CONNECT, text("a"), ValueError("broken frame"), GONE]))


def test_a_refusal_in_the_application_s_own_words() -> None:
    """The extension ``websocket.http.response``."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.http.response.start", "status": 503, "headers": []})
        await send({"type": "websocket.http.response.body", "body": b"full"})

    with seen() as captured:
        asyncio.run(run(app, WS, [CONNECT]))
    (span,) = captured.spans
    assert attributes(span)["http.response.status_code"] == 503
    assert span["status"] == "error"


@pytest.mark.parametrize("error", [None, ValueError("no")])
def test_an_application_that_never_answers_is_a_failed_handshake(error: Any) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        if error is not None:
            raise error

    with seen() as captured, suppress(ValueError):
        asyncio.run(run(app, WS, []))
    (span,) = captured.spans
    assert (span["status"], attributes(span)["http.response.status_code"]) == ("error", 500)


def test_a_framework_s_word_for_a_client_that_has_gone_is_no_failure() -> None:
    class WebSocketDisconnect(Exception):  # noqa: N818 - as Starlette has it
        pass

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await echo(scope, receive, send)
        raise WebSocketDisconnect

    with seen() as captured, pytest.raises(WebSocketDisconnect):
        asyncio.run(run(app, WS, [CONNECT, text("a"), GONE]))
    assert all(span["status"] != "error" for span in captured.spans)


@pytest.mark.parametrize("is_raw", [True, False])
@pytest.mark.parametrize(
    "error",
    [ClientDisconnect(), UnreadablePostError(), ExceptionGroup("", [ClientDisconnect()])],
    ids=lambda error: type(error).__name__,
)
def test_a_request_whose_client_has_gone_is_no_failure(error: Exception, is_raw: bool) -> None:
    """Also where the framework answers 500, to nobody."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        with traced("read"):
            raise error

    served = app if is_raw else Starlette(routes=[Mount("/", app)])
    with seen() as captured, pytest.raises(type(error)):
        asyncio.run(run(served, HTTP, []))
    read = captured.span("read")
    (request,) = (span for span in captured.spans if span["parent_span_id"] is None)
    assert (read["status"], request["status"]) == ("unset", "unset")
    assert read["events"] == request["events"] == []
    assert attributes(request)["cancelled"] is True
    assert "http.response.status_code" not in attributes(request)
    assert captured.lines == []


def test_a_task_that_goes_on_ends_its_message_at_the_latest_at_shutdown() -> None:
    """What it still does is the message's."""
    kept: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        while (event := await receive())["type"] == "websocket.receive":
            kept.append(asyncio.create_task(later(event["text"])))
        await asyncio.gather(*kept)

    async def later(name: str) -> None:
        with traced("later"):
            await asyncio.sleep(0.05)
            log.info("done", name=name)

    with capture(log_level="info") as captured, setup_observability("shop"):
        asyncio.run(run(app, WS, [CONNECT, text("a"), text("b"), GONE]))
    messages = [span for span in captured.spans if span["name"] == "message"]
    assert len(messages) == 2  # the tasks, which are kept, hold them
    for span in messages:
        (line,) = [line for line in captured.lines if line["trace_id"] == span["trace_id"]]
        assert 0.05 <= span["duration_s"] < 1
        assert line["event"] == "done"


def test_what_is_unbound_on_a_connection_is_gone_from_its_messages() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        bind_context(user_id="ada", room="tea")
        unbind_context("room")
        with bound_context(step="handshake"):
            log.info("in a block")
        await echo(scope, receive, send)

    with seen() as captured:
        asyncio.run(run(app, WS, [CONNECT, text("a"), GONE]))
    message = captured.line("message")
    assert message["user_id"] == "ada"
    assert not message.keys() & {"room", "step"}
    assert captured.line("in a block")["step"] == "handshake"


def test_a_block_around_a_message_ends_as_it_would_without_us() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        with bound_context(part="all"), traced("session"):
            for _ in range(2):
                event = await receive()
                with bound_context(n=event["text"]):
                    bind_context(own=event["text"])
                    log.info("message")
        log.info("after")
        await receive()

    with seen() as captured:
        asyncio.run(run(app, WS, [CONNECT, text("a"), text("b"), GONE]))
    lines = [line for line in captured.lines if line["event"] == "message"]
    assert [(line["part"], line["n"], line["own"]) for line in lines] == [
        ("all", "a", "a"),
        ("all", "b", "b"),
    ]
    assert lines[0]["trace_id"] != lines[1]["trace_id"]
    assert not captured.line("after").keys() & {"part", "n"}


def responds(*events: dict[str, Any], **scope: Any) -> Callable[..., Any]:
    async def app(given: Any, receive: Any, send: Any) -> None:
        given.update(scope)
        for event in events:
            await send(event)
        log.info("after the answer")

    return app


START = {"type": "http.response.start", "status": 200}


@pytest.mark.parametrize(
    "events",
    [
        [START, {"type": "http.response.body"}],
        [START, {"type": "http.response.body", "more_body": True}, {"type": "http.response.body"}],
        [START, {"type": "http.response.pathsend", "path": "/tmp/x"}],
        [START, {"type": "http.response.zerocopysend", "file": 0}],
        [
            {**START, "trailers": True},
            {"type": "http.response.body"},
            {"type": "http.response.trailers", "headers": []},
        ],
    ],
)
def test_each_way_to_end_an_answer_ends_the_span(events: list[dict[str, Any]]) -> None:
    with seen() as captured:
        sent = asyncio.run(run(responds(*events), HTTP, []))
    (span,) = captured.spans
    assert "cancelled" not in attributes(span)
    assert len(sent) == len(events)


@pytest.mark.parametrize(
    ("scope", "route"),
    [
        ({"path_template": "/orders/{id:int}"}, "/orders/{id:int}"),  # Litestar
        ({"endpoint": print, "path_params": {"id": 7}}, "/orders/{id}"),  # an older Starlette
        ({"endpoint": print}, "/orders/7"),
        (
            {"endpoint": object(), "root_path": "/orders"},
            "/orders",
        ),  # a mounted application
        ({"endpoint": partial(print), "root_path": "/orders"}, "/orders/7"),
        ({"path_params": {"id": 7}}, None),  # nothing has served it
    ],
)
def test_the_route_is_found_wherever_a_framework_says_it(
    scope: dict[str, Any], route: str | None
) -> None:
    app = responds(START, {"type": "http.response.body"}, **scope)
    with seen() as captured:
        asyncio.run(run(app, HTTP, []))
    (span,) = captured.spans
    assert span["name"] == ("GET" if route is None else f"GET {route}")
    assert attributes(span).get("http.route") == route


@pytest.mark.parametrize(
    ("host", "address", "port"),
    [
        (b"shop.example:8080", "shop.example", 8080),
        (b"shop.example", "shop.example", None),
        (b"[::1]:80", "::1", 80),
        (b"[::1]", "::1", None),
        (None, "10.0.0.1", 8000),
    ],
)
def test_the_server_is_the_one_that_the_client_asked(
    host: bytes | None, address: str, port: int | None
) -> None:
    headers = [] if host is None else [(b"Host", host)]
    scope = {**HTTP, "headers": headers, "server": ("10.0.0.1", 8000)}
    with seen() as captured:
        asyncio.run(run(responds(START, {"type": "http.response.body"}), scope, []))
    found = attributes(captured.spans[0])
    assert (found["server.address"], found.get("server.port")) == (address, port)


def test_a_request_begins_clean_whatever_calls_it() -> None:
    """In the midst of another request, of ours or not."""
    app = responds(START, {"type": "http.response.body"})
    with seen() as captured, traced("other", kind="server"):
        bind_context(user_id="bob")
        asyncio.run(run(app, HTTP, []))
        log.info("still here")
    (span,) = [span for span in captured.spans if span["name"] == "GET"]
    assert "user_id" not in attributes(span)
    assert not span["parent_span_id"]
    assert "user_id" not in captured.line("after the answer")
    assert captured.line("still here")["user_id"] == "bob"


def test_an_answer_of_200_that_fails_later_is_one_failed_span() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({**START, "status": 200})
        raise ValueError("in the midst")

    with seen() as captured, pytest.raises(ValueError, match="midst"):
        asyncio.run(run(app, HTTP, []))
    (span,) = captured.spans
    assert (span["status"], attributes(span)["http.response.status_code"]) == ("error", 200)
    assert attributes(span)["error.type"] == "ValueError"


@pytest.mark.parametrize("raised", [ValueError("boom"), HTTPException(503), None])
@pytest.mark.parametrize("scope", [HTTP, WS], ids=["http", "websocket"])
def test_what_a_framework_handles_and_tells_nobody_of_is_on_the_span(
    scope: dict[str, Any], raised: Exception | None
) -> None:
    """Litestar's, which answers and logs nothing."""
    is_http = scope is HTTP
    close = {"type": "websocket.close", "code": 1011}
    answer = [{**START, "status": 500}, {"type": "http.response.body"}] if is_http else [close]

    async def app(scope: Any, receive: Any, send: Any) -> None:
        async def respond() -> None:
            for event in answer:
                await send(event)

        if not is_http:
            await receive()
            await send({"type": "websocket.accept"})
            await receive()
        try:
            if raised is not None:
                raise raised
        except Exception:
            await respond()
        else:
            await respond()

    with seen() as captured:
        asyncio.run(run(app, scope, [CONNECT, text("x")]))
    assert isinstance(raised, ValueError) == any(
        event["name"] == "exception" for span in captured.spans for event in span["events"]
    )
    if is_http:
        (span,) = captured.spans
        kind = "ValueError" if isinstance(raised, ValueError) else "500"
        assert (span["status"], attributes(span)["error.type"]) == ("error", kind)


def test_nothing_is_done_before_set_up() -> None:
    with capture(log_level="info"):
        pass
    sent = asyncio.run(run(responds(START, {"type": "http.response.body"}), HTTP, []))
    assert sent == [START, {"type": "http.response.body"}]


@pytest.mark.parametrize("scope", [HTTP, WS], ids=["http", "websocket"])
def test_before_set_up_too_a_request_begins_and_ends_with_nothing_bound(
    scope: dict[str, Any],
) -> None:
    """A kept connection serves all its requests in one context; middleware may be there twice."""
    found: list[Any] = []

    async def app(_: Any, __: Any, ___: Any) -> None:
        found.append(dict(bound()))
        bind_context(user_id="alice")

    async def outer(*given: Any) -> None:
        bind_context(outer=1)
        await ObservabilityMiddleware(app)(*given)

    async def main() -> None:
        for _ in range(2):
            await run(outer, scope, [])
        found.append(dict(bound()))

    asyncio.run(main())
    assert found == [{"outer": 1}, {"outer": 1}, {}]


@pytest.mark.parametrize("path", ["/orders/7", "/health"])
def test_what_fails_after_its_answer_is_the_requests(path: str) -> None:
    """A background task, the end of a dependency: the server logs it when all is over."""

    async def app(_: Any, __: Any, send: Any) -> None:
        bind_context(user_id="alice")
        await send({**START, "status": 200})
        await send({"type": "http.response.body"})
        raise ValueError("after the end")

    with seen() as captured:
        try:
            asyncio.run(run(app, {**HTTP, "path": path}, []))
        except ValueError:
            log.exception("failed")
    line = captured.line("failed")
    assert line["user_id"] == "alice"
    assert [span["trace_id"] for span in captured.spans] == (
        [line["trace_id"]] if path != "/health" else []
    )


def test_opentelemetrys_middleware_is_found_before_starlette_has_made_its_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Where it is imported, and not around this application: ours goes on."""
    from starlette.applications import Starlette

    monkeypatch.setitem(sys.modules, "opentelemetry.instrumentation.asgi", ModuleType("asgi"))
    app = Starlette()
    sent: list[Any] = []

    async def send(event: Any) -> None:
        sent.append(event)

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b""}

    scope = {"type": "http", "method": "GET", "path": "/", "headers": [], "query_string": b""}
    with capture() as run:
        asyncio.run(ObservabilityMiddleware(app)(scope, receive, send))
    assert run.span("GET")["attributes"]["http.response.status_code"] == 404
