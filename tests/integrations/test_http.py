"""An HTTP request of an ASGI application is a trace, from its arrival to its last byte."""

import asyncio
import re
import threading
import time
from collections.abc import AsyncIterator
from contextlib import closing, suppress
from datetime import datetime, timedelta
from http.client import HTTPConnection, IncompleteRead
from typing import Any

import pytest
from a2wsgi import WSGIMiddleware
from fastapi import APIRouter, BackgroundTasks, Depends, FastAPI, HTTPException, WebSocket
from flask import Flask
from hypercorn.middleware import ProxyFixMiddleware
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, StreamingResponse
from starlette.routing import Mount, Route

from otel_logging import bind_context, get_logger, setup_observability
from otel_logging.integrations import asgi
from otel_logging.integrations.asgi import ObservabilityMiddleware, instrument
from otel_logging.testing import capture
from tests.integrations.serving import PATIENCE_S, WEBSOCKETS, Seen, running, serving

log: Any = get_logger("shop")
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = f"00-{TRACE}-00f067aa0ba902b7-01"


def current_user(user: str = "nobody") -> str:
    """Bind in a thread of FastAPI's."""
    bind_context(user_id=user, seen=True)
    return user


def fastapi_app() -> FastAPI:
    app = FastAPI()

    @app.get("/orders/{number}")
    async def order(number: int, tasks: BackgroundTasks, user: str = Depends(current_user)) -> str:
        log.info("order read")
        if number == 404:
            raise HTTPException(404)
        if number == 500:
            raise ValueError("no such order")
        tasks.add_task(note, number)
        return user

    async def note(number: int) -> None:
        await asyncio.sleep(0.1)
        log.info("noted")

    @app.get("/busy")
    async def busy(tasks: BackgroundTasks) -> JSONResponse:
        tasks.add_task(note, 0)
        return JSONResponse({}, 503, background=tasks)

    @app.get("/health")
    def health(fail: bool = False) -> str:
        log.info("healthy")
        if fail:
            raise ValueError("ill")
        return "ok"

    @app.get("/stream")
    async def stream() -> StreamingResponse:
        async def pieces() -> AsyncIterator[bytes]:
            for _ in range(4):
                await asyncio.sleep(0.05)
                log.info("piece")
                yield b"x"

        return StreamingResponse(pieces())

    return app


def attributes(span: dict[str, Any]) -> dict[str, Any]:
    return dict(span["attributes"])


@pytest.mark.parametrize("server", [WEBSOCKETS[-2], "hypercorn"])
def test_a_request_is_one_server_span_by_the_semantic_conventions(server: str) -> None:
    """FastAPI's own spans do not double it; its lines and its access line are its user's."""
    with serving(fastapi_app(), server) as seen:
        status, headers, _ = seen.ask("/orders/7?user=ada", user_agent="test/1", x_request_id="r-7")
        seen.wait_for("background note")
    (span,) = seen.named("GET /orders/{number}")
    assert status == 200
    assert [s["name"] for s in seen.captured.spans] == ["GET /orders/{number}", "background note"]
    found = attributes(span)
    client_port = found.pop("client.port")
    assert client_port == found.pop("network.peer.port")
    assert found == {
        "http.request.method": "GET",
        "http.route": "/orders/{number}",
        "http.response.status_code": 200,
        "url.path": "/orders/7",
        "url.scheme": "http",
        "server.address": "127.0.0.1",
        "server.port": seen.port,
        "client.address": "127.0.0.1",
        "network.peer.address": "127.0.0.1",
        "network.protocol.version": "1.1",
        "user_agent.original": "test/1",
        "request_id": "r-7",
        "user_id": "ada",
        "seen": True,
    }
    assert span["kind"] == "server"
    trace_id = span["trace_id"]
    assert headers["x-trace-id"] == trace_id
    assert headers["traceresponse"][:-1] == f"00-{trace_id}-{span['span_id']}-0"
    assert headers["x-request-id"] == "r-7"
    own = [line for line in seen.lines if line["logger"] in ("shop", *_ACCESS)]
    assert len(own) == 3
    for line in own:
        assert (line["trace_id"], line["user_id"], line["request_id"]) == (trace_id, "ada", "r-7")


_ACCESS = ("uvicorn.access", "hypercorn.access")


def end_of(span: dict[str, Any]) -> datetime:
    return datetime.fromisoformat(span["start"]) + timedelta(seconds=span["duration_s"])


def ended_before_its(task: dict[str, Any], span: dict[str, Any]) -> bool:
    """Say whether *span* has nothing of the 0.1 s that *task* takes at least."""
    return end_of(task) - end_of(span) > timedelta(seconds=0.09)


def test_a_background_task_is_a_stage_of_its_own_and_not_the_latency() -> None:
    with serving(fastapi_app()) as seen:
        seen.ask("/orders/1")
        (task,) = seen.wait_for("background note")
    (span,) = seen.named("GET /orders/{number}")
    assert task["duration_s"] > 0.09
    assert ended_before_its(task, span)
    assert (task["trace_id"], task["parent_span_id"]) == (span["trace_id"], span["span_id"])
    assert seen.line("noted")["span_id"] == task["span_id"]
    assert seen.line("noted")["user_id"] == "nobody"


def test_a_background_task_is_not_the_latency_of_an_error_either() -> None:
    with serving(fastapi_app()) as seen:
        assert seen.ask("/busy")[0] == 503
        (task,) = seen.wait_for("background note")
        (span,) = seen.wait_for("GET /busy")
    assert task["duration_s"] > 0.09
    assert ended_before_its(task, span)
    assert (span["status"], task["parent_span_id"]) == ("error", span["span_id"])


@pytest.mark.parametrize(
    ("module", "kind"),
    [("starlette.responses", "StreamingResponse"), ("sse_starlette", "EventSourceResponse")],
)
@pytest.mark.parametrize("server", [WEBSOCKETS[-1], "hypercorn"])
def test_a_stream_that_fails_inside_a_middleware_is_an_error(
    server: str, module: str, kind: str
) -> None:
    answer = getattr(pytest.importorskip(module), kind)

    async def pieces() -> AsyncIterator[bytes]:
        yield b"x"
        raise KeyError("the rest")

    async def torn(_: Request) -> Any:
        return answer(pieces())

    async def pass_on(request: Request, call_next: Any) -> Any:
        return await call_next(request)

    around = Middleware(BaseHTTPMiddleware, dispatch=pass_on)
    app = Starlette(routes=[Route("/torn", torn)], middleware=[around])
    with serving(app, server) as seen:
        with suppress(IncompleteRead):  # which newer versions of Starlette hide
            seen.ask("/torn")
        (span,) = seen.wait_for("GET /torn")
    attributes = span["attributes"]
    assert (span["status"], attributes["error.type"]) == ("error", "KeyError")
    assert attributes["http.response.status_code"] == 200
    (told,) = [each["attributes"] for each in span["events"] if each["name"] == "exception"]
    assert told["exception.type"] == "KeyError"


@pytest.mark.parametrize("server", [WEBSOCKETS[-1], "hypercorn"])
def test_what_a_server_says_of_a_request_that_it_answers_itself_is_of_that(server: str) -> None:
    """Its application has raised, or returned, before it answered; another may come behind it."""

    async def app(scope: Any, _: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        bind_context(user_id=scope["path"].strip("/"))
        if scope["path"] == "/ada":
            raise ValueError("no such user")
        if scope["path"] == "/bob":
            await send({"type": "http.response.start", "status": 204, "headers": []})
            await send({"type": "http.response.body"})

    with serving(app, server, {"lifespan": "off"}) as seen:
        with closing(HTTPConnection("127.0.0.1", seen.port)) as client:
            for path, status in (("/ada", 500), ("/bob", 204), ("/eve", 500), ("/bob", 204)):
                client.request("GET", path)
                answer = client.getresponse()
                answer.read()
                assert answer.status == status
        spans = seen.wait_for("GET", 4)
    traces = [(span["attributes"]["user_id"], span["trace_id"]) for span in spans]
    told = [line for line in seen.lines if re.search("GET /|ASGI|Error", line["event"])]
    assert {(line.get("user_id"), line.get("trace_id")) for line in told} == set(traces)
    assert len(told) >= 4


def test_an_access_line_of_a_request_whose_client_has_gone_is_of_that() -> None:
    """hypercorn logs it where it reads, before the application has ended."""
    has_begun = threading.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        bind_context(user_id="ada")
        has_begun.set()
        while (await receive())["type"] != "http.disconnect":
            pass
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body"})

    with serving(app, "hypercorn") as seen:
        with closing(HTTPConnection("127.0.0.1", seen.port)) as client:
            client.request("GET", "/slow")
            assert has_begun.wait(PATIENCE_S)
        (span,) = seen.wait_for("GET")
    told = [line for line in seen.lines if line["logger"] == "hypercorn.access"]
    assert len(told) == 2
    found = {(line.get("user_id"), line.get("trace_id")) for line in told}
    assert found == {("ada", span["trace_id"])}


@pytest.mark.parametrize("server", [WEBSOCKETS[-1], "hypercorn"])
def test_a_stream_whose_client_goes_is_cancelled_inside_a_middleware_too(server: str) -> None:
    """That ends the answer, as if it were whole."""

    async def pieces() -> AsyncIterator[bytes]:
        while True:
            yield b"x" * 1000
            await asyncio.sleep(0.01)

    async def endless(_: Request) -> StreamingResponse:
        return StreamingResponse(pieces())

    async def pass_on(request: Request, call_next: Any) -> Any:
        return await call_next(request)

    around = Middleware(BaseHTTPMiddleware, dispatch=pass_on)
    app = Starlette(routes=[Route("/endless", endless)], middleware=[around])
    with serving(app, server) as seen:
        with closing(HTTPConnection("127.0.0.1", seen.port)) as client:
            client.request("GET", "/endless")
            client.getresponse().read(1000)
        (span,) = seen.wait_for("GET /endless")
    assert (span["status"], attributes(span).get("cancelled")) == ("unset", True)


def test_a_stream_that_nobody_observes_fails_as_ever() -> None:
    async def pieces() -> AsyncIterator[bytes]:
        yield b"x"
        raise KeyError("the rest")

    async def pass_on(_: Any) -> None: ...

    asgi.instrument()
    scope = {"type": "http", "asgi": {"spec_version": "2.4"}}
    with pytest.raises((KeyError, ExceptionGroup)) as failed:  # a group of the oldest Starlette
        asyncio.run(StreamingResponse(pieces())(scope, pass_on, pass_on))  # type: ignore[arg-type]
    assert "KeyError('the rest')" in repr(failed.value)
    asgi.uninstrument()


def test_a_stream_is_measured_to_its_last_byte() -> None:
    with serving(fastapi_app()) as seen:
        began = time.perf_counter()
        assert seen.ask("/stream")[2] == b"xxxx"
        took = time.perf_counter() - began
        (span,) = seen.wait_for("GET /stream")
    assert 0.2 <= span["duration_s"] <= took
    assert len(span["events"]) == 5  # with the access line


def test_a_failure_is_on_the_span_and_its_lines_have_the_trace() -> None:
    """Starlette answers before the exception reaches us, uvicorn logs it after that."""
    with serving(fastapi_app()) as seen:
        assert seen.ask("/orders/500?user=ada")[0] == 500
        assert seen.ask("/orders/404")[0] == 404
        assert seen.ask("/nowhere")[0] == 404
        spans = seen.wait_for("GET /orders/{number}", 2)
        seen.wait_for("GET")
    failed, missing = spans
    assert failed["status"] == "error"
    assert attributes(failed)["error.type"] == "ValueError"
    assert attributes(failed)["http.response.status_code"] == 500
    assert [event["name"] for event in failed["events"]].count("exception") == 1
    error = seen.line("Exception in ASGI application")
    assert (error["trace_id"], error["user_id"]) == (failed["trace_id"], "ada")
    assert missing["status"] != "error"
    assert attributes(missing)["http.response.status_code"] == 404
    assert "http.route" not in attributes(seen.named("GET")[0])


def test_a_quiet_path_leaves_a_span_only_if_it_fails() -> None:
    with serving(fastapi_app()) as seen:
        assert seen.ask("/health")[0] == 200
        assert seen.captured.spans == []
        assert seen.ask("/health?fail=1")[0] == 500
        (span,) = seen.wait_for("GET /health")
    assert span["status"] == "error"
    assert attributes(span)["http.route"] == "/health"
    assert "exception" in [event["name"] for event in span["events"]]
    assert seen.line("Exception in ASGI application")["trace_id"] == span["trace_id"]
    failed = [line for line in seen.lines if line["event"].endswith('" 500')]
    assert [line["trace_id"] for line in failed] == [span["trace_id"]]


@pytest.mark.parametrize("way", ["given", "around", "added"])
def test_the_options_of_an_application_hold_also_where_its_server_has_a_middleware_around(
    way: str,
) -> None:
    """Uvicorn has one for the headers of proxies around each."""
    app, options = fastapi_app(), {"quiet": ["/orders/1"], "read_ahead": 0}

    @app.websocket("/ws")
    async def ws(socket: WebSocket) -> None:
        await socket.accept()
        for _ in range(2):
            await asyncio.sleep(0.05)
            log.info("got", text=await socket.receive_text())

    served: Any = app
    if way == "added":
        app.add_middleware(ObservabilityMiddleware, **options)
    else:
        served = (instrument if way == "given" else ObservabilityMiddleware)(app, **options)
    with serving(served, options={"root_path": "/shop"}) as seen:
        seen.ask("/orders/1")
        seen.ask("/health")
        with seen.connect("/ws") as client:
            client.send("1")
            client.send("2")
            messages = seen.wait_for("message", 2)
    gets = [span["name"] for span in seen.captured.spans if span["name"].startswith("GET")]
    assert gets == ["GET /shop/health"]
    assert all(attributes(span).get("queue.wait_s", 0.0) < 0.02 for span in messages)


def test_a_set_up_in_a_start_up_hook_has_the_server_too() -> None:
    """Which has loaded its application by then."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await receive()
            with setup_observability("shop"):
                await send({"type": "lifespan.startup.complete"})
                await receive()
            await send({"type": "lifespan.shutdown.complete"})
        else:
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body"})

    with capture(log_level="info") as captured, running(app, WEBSOCKETS[-2]) as port:
        seen = Seen(captured, port)
        seen.ask("/orders/1")
        seen.wait_for("GET")


def test_without_a_server_too_an_applications_options_hold() -> None:
    app = starlette_app()
    app.add_middleware(ObservabilityMiddleware, quiet=["/orders/1"])
    sent: list[Any] = []

    async def send(event: Any) -> None:
        sent.append(event)

    async def receive() -> Any:
        if not bodies:  # it listens for the client's end as well
            await asyncio.Event().wait()
        return {"type": "http.request", "body": bodies.pop()}

    scope = {"type": "http", "method": "GET", "headers": [], "query_string": b""}
    with capture() as captured, setup_observability("shop"):
        for number in (1, 2):
            bodies = [b""]
            asyncio.run(app({**scope, "path": f"/orders/{number}"}, receive, send))
    assert [attributes(span)["url.path"] for span in captured.spans] == ["/orders/2"]


@pytest.mark.parametrize("server", ["hypercorn", WEBSOCKETS[-2]])
def test_the_client_is_the_one_that_a_trusted_proxy_names(server: str) -> None:
    """The proxy is the peer; where a copy of the scope hides it, that is left out."""
    app: Any = fastapi_app()
    served = ProxyFixMiddleware(app) if server == "hypercorn" else app
    headers = {"X_Forwarded_For": "203.0.113.9", "X_Forwarded_Proto": "https"}
    with serving(served, server) as seen:
        seen.ask("/orders/1", **headers)
        (span,) = seen.wait_for("GET /orders/{number}")
    found = attributes(span)
    assert (found["client.address"], found["url.scheme"]) == ("203.0.113.9", "https")
    assert "client.port" not in found
    peer = None if server == "hypercorn" else "127.0.0.1"
    assert found.get("network.peer.address") == peer
    assert ("network.peer.port" in found) is (peer is not None)


def test_opentelemetrys_middleware_around_an_application_has_each_request_alone() -> None:
    """The first one as well, and FastAPI, which makes spans too, makes none beside it."""
    from opentelemetry.instrumentation.asgi import OpenTelemetryMiddleware

    with serving(OpenTelemetryMiddleware(fastapi_app())) as seen:
        for _ in range(2):
            seen.ask("/orders/1")
        seen.wait_for("GET /orders/1", 2)
    assert seen.named("GET /orders/{number}") == []  # as FastAPI's and ours would be called


def test_an_incoming_trace_is_continued_or_only_linked_to() -> None:
    with serving(fastapi_app()) as seen:
        seen.ask("/orders/1", traceparent=PARENT)
        (span,) = seen.wait_for("GET /orders/{number}")
    assert (span["trace_id"], span["parent_span_id"]) == (TRACE, "00f067aa0ba902b7")
    with serving(fastapi_app(), trust_inbound=False) as seen:
        seen.ask("/orders/1", traceparent=PARENT)
        seen.ask("/orders/1")
        linked, alone = seen.wait_for("GET /orders/{number}", 2)
    assert linked["trace_id"] != TRACE
    assert [link["trace_id"] for link in linked["links"]] == [TRACE]
    assert not alone.get("links")


@pytest.mark.parametrize("port", ["\xb2", "9" * 4301, "80x"])
def test_a_host_with_an_invalid_port_is_taken_as_it_is(port: str) -> None:
    with serving(fastapi_app()) as seen:
        status, _, _ = seen.ask("/orders/1", host=f"shop:{port}")
        (span,) = seen.wait_for("GET /orders/{number}")
    assert status == 200
    assert attributes(span)["server.address"] == f"shop:{port}"
    assert "server.port" not in attributes(span)


@pytest.mark.parametrize("given", ["", "a b", "ä", "x" * 129])
def test_a_request_id_that_could_not_be_sent_back_is_ignored(given: str) -> None:
    with serving(fastapi_app()) as seen:
        _, headers, _ = seen.ask("/orders/1", x_request_id=given)
        (span,) = seen.wait_for("GET /orders/{number}")
    assert "request_id" not in attributes(span)
    assert "x-request-id" not in headers


def starlette_app() -> Starlette:
    async def item(request: Request) -> PlainTextResponse:
        bind_context(user_id=request.query_params.get("user"))
        log.info("item", path=request.url.path)
        return PlainTextResponse("ok", background=BackgroundTask(later))

    def later() -> None:
        log.info("later")

    class Files:
        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"ok"})

    async def dispatch(request: Request, call_next: Any) -> Any:
        return await call_next(request)

    return Starlette(
        routes=[
            Route("/items/{name}", item),
            Mount("/shop", routes=[Route("/items/{name}", item)]),
            Mount("/files", app=Files()),
        ],
        middleware=[Middleware(BaseHTTPMiddleware, dispatch=dispatch)],
    )


@pytest.mark.parametrize(
    ("path", "route"),
    [
        ("/items/a", "/items/{name}"),
        ("/shop/items/a", "/shop/items/{name}"),
        ("/files/a/b", "/files"),
    ],
)
def test_the_name_is_the_whole_route(path: str, route: str) -> None:
    """Also through mounts, and where a middleware runs the application in a task of its own."""
    with serving(starlette_app()) as seen:
        seen.ask(path)
        (span,) = seen.wait_for(f"GET {route}")
    assert attributes(span)["http.route"] == route


def test_the_name_has_the_prefixes_of_the_routers_that_are_included() -> None:
    """FastAPI's own route has none, once an application includes without copying."""
    app, outer, inner = FastAPI(), APIRouter(prefix="/api"), APIRouter()

    @inner.get("/items/{name}")
    def item(name: str) -> str:
        return name

    @inner.websocket("/rooms/{name}")
    async def room(websocket: WebSocket, name: str) -> None:
        await websocket.accept()
        await websocket.close(reason=name)

    outer.include_router(inner, prefix="/v1")
    app.include_router(outer)
    with serving(app) as seen:
        seen.ask("/api/v1/items/a")
        seen.connect("/api/v1/rooms/a").close()
        (span,) = seen.wait_for("GET /api/v1/items/{name}")
        seen.wait_for("WS /api/v1/rooms/{name}")
    assert attributes(span)["http.route"] == "/api/v1/items/{name}"


def test_an_unknown_method_is_not_in_the_name() -> None:
    with serving(starlette_app()) as seen:
        assert seen.ask("/items/a", "PROPFIND")[0] == 405
        (span,) = seen.wait_for("HTTP /items/{name}")
    found = attributes(span)
    assert (found["http.request.method"], found["http.request.method_original"]) == (
        "_OTHER",
        "PROPFIND",
    )


def test_budgets_go_by_the_name_of_the_route() -> None:
    with serving(fastapi_app(), budgets={"GET /stream": 0.1}) as seen:
        seen.ask("/stream")
        (span,) = seen.wait_for("GET /stream")
    assert attributes(span)["late"] is True
    assert attributes(span)["budget_s"] == 0.1


def test_a_client_that_has_gone_is_no_failure() -> None:
    with serving(fastapi_app()) as seen:
        import socket

        with socket.create_connection(("127.0.0.1", seen.port)) as client:
            client.sendall(b"GET /stream HTTP/1.1\r\nhost: shop\r\n\r\n")
            client.recv(1)
        (span,) = seen.wait_for("GET /stream")
    assert attributes(span).get("cancelled") is True
    assert span["status"] != "error"


@pytest.mark.parametrize("root", ["/old", ""], ids=["mounted", "alone"])
def test_an_application_of_wsgi_in_one_of_asgi_is_in_the_same_request(root: str) -> None:
    """Mounted, or served by uvicorn's own adapter: with its own route, as long as it takes."""
    inner, app = Flask("shop"), FastAPI()

    @inner.get("/orders/<int:number>")
    def order(number: int) -> str:
        bind_context(user_id="ada")
        log.info("read")
        time.sleep(0.1)  # in which our watching asks for the route
        return str(number)

    app.mount("/old", WSGIMiddleware(inner))
    options = {"interface": "auto"} if root else {"interface": "wsgi"}
    with serving(app if root else inner, options=options) as seen:
        assert seen.ask(f"{root}/orders/7")[0] == 200
        (span,) = seen.wait_for(f"GET {root}/orders/<int:number>")
    assert [each["kind"] for each in seen.captured.spans].count("server") == 1
    assert attributes(span)["user_id"] == "ada"
    assert seen.line("read")["span_id"] == span["span_id"]
    assert seen.access(f"{root}/orders/7")["user_id"] == "ada"


def test_a_background_task_of_litestar_is_a_stage_of_its_own() -> None:
    litestar = pytest.importorskip("litestar")
    from litestar.background_tasks import BackgroundTask as Task

    def note() -> None:  # in a thread
        log.info("noted")

    @litestar.get("/orders")
    async def order() -> Any:
        return litestar.Response("paid", background=Task(note))

    # its own handlers would stay on the root logger
    app = litestar.Litestar([order], logging_config=None)
    with serving(app) as seen:
        seen.ask("/orders")
        (task,) = seen.wait_for("background note")
    (span,) = seen.named("GET /orders")
    assert task["parent_span_id"] == span["span_id"]
    assert seen.line("noted")["span_id"] == task["span_id"]
