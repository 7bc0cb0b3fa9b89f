"""A request has the name and the budget of its route while it is open, in every framework."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import aiohttp
import flask
import pytest
from aiohttp import web
from django.conf import settings  # type: ignore[import-untyped]
from django.http import HttpResponse  # type: ignore[import-untyped]
from django.urls import path  # type: ignore[import-untyped]
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.responses import PlainTextResponse, StreamingResponse
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.websockets import WebSocket
from werkzeug.test import Client

from otel_logging import bind_context, setup_observability, traced
from otel_logging.integrations.asgi import ObservabilityMiddleware
from otel_logging.lateness.budgets import Budgets
from tests.conftest import Lines
from tests.lateness.test_now import opened
from tests.receiver import Receiver

DEADLINE_S = 5.0
Hold = Callable[[], None]
#: What a view of Django does, which is found by the name of its module.
_held: list[Hold] = []


def _view(_: Any, user: str) -> HttpResponse:
    bind_context(user_id=user)
    _held[-1]()
    return HttpResponse("ok")


urlpatterns = [path("turn/<str:user>", _view)]


async def ask_asgi(app: Any, at: str) -> None:
    """Ask *app* for a path, without a server."""
    asked = [False]

    async def receive() -> Any:
        if asked:
            return {"type": "http.request", "body": b"", "more_body": asked.pop()}
        return await asyncio.get_running_loop().create_future()

    async def send(_: Any) -> None:
        pass

    scope = {"type": "http", "method": "GET", "path": at, "headers": [], "query_string": b""}
    await ObservabilityMiddleware(app)(scope, receive, send)


def of_starlette(hold: Hold) -> None:
    async def turn(request: Any) -> PlainTextResponse:
        bind_context(user_id=request.path_params["user"])
        await asyncio.to_thread(hold)
        return PlainTextResponse("ok")

    inner = Route("/{user}", turn)
    asyncio.run(ask_asgi(Starlette(routes=[Mount("/turn", routes=[inner])]), "/turn/ada"))


def of_websocket(hold: Hold) -> None:
    async def turn(socket: WebSocket) -> None:
        bind_context(user_id=socket.path_params["user"])
        await asyncio.to_thread(hold)
        await socket.accept()

    async def receive() -> Any:
        return {"type": "websocket.connect"}

    async def send(_: Any) -> None:
        pass

    app = Starlette(routes=[WebSocketRoute("/turn/{user}", turn)])
    scope = {"type": "websocket", "path": "/turn/ada", "headers": [], "query_string": b""}
    asyncio.run(ObservabilityMiddleware(app)(scope, receive, send))


def of_flask(hold: Hold) -> None:
    app = flask.Flask("shop")

    @app.get("/turn/<user>")
    def turn(user: str) -> str:
        bind_context(user_id=user)
        hold()
        return "ok"

    Client(app).get("/turn/ada", buffered=True)


def _django_app(name: str) -> Any:
    import django
    from django.core.asgi import get_asgi_application
    from django.core.wsgi import get_wsgi_application

    if not settings.configured:
        settings.configure(ROOT_URLCONF=__name__, ALLOWED_HOSTS=["*"], LOGGING_CONFIG=None)
        django.setup()
    return get_asgi_application() if name == "asgi" else get_wsgi_application()


def of_django(hold: Hold) -> None:
    from django.test import override_settings

    app = _django_app("wsgi")
    _held.append(hold)
    with override_settings(ROOT_URLCONF=__name__):
        Client(app).get("/turn/ada", buffered=True)


def of_django_asgi(hold: Hold) -> None:
    from django.test import override_settings

    app = _django_app("asgi")
    _held.append(hold)
    with override_settings(ROOT_URLCONF=__name__):
        asyncio.run(ask_asgi(app, "/turn/ada"))


def of_aiohttp(hold: Hold) -> None:
    async def turn(request: web.Request) -> web.Response:
        bind_context(user_id=request.match_info["user"])
        await asyncio.to_thread(hold)
        return web.Response(text="ok")

    async def main() -> None:
        app = web.Application()
        app.router.add_get("/turn/{user}", turn)
        runner = web.AppRunner(app)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        try:
            async with (
                aiohttp.ClientSession() as session,
                session.get(f"http://127.0.0.1:{runner.addresses[0][1]}/turn/ada") as answer,
            ):
                assert answer.status == 200
        finally:
            await runner.cleanup()

    asyncio.run(main())


@pytest.mark.parametrize(
    ("serve", "name", "ratio"),
    [
        (of_starlette, "GET /turn/{user}", "1"),
        (of_starlette, "GET /turn/{user}", "0"),  # it is not sampled
        (of_websocket, "WS /turn/{user}", "1"),
        (of_flask, "GET /turn/<user>", "1"),
        (of_flask, "GET /turn/<user>", "0"),
        (of_django, "GET /turn/<str:user>", "1"),
        (of_django_asgi, "GET /turn/<str:user>", "1"),
        (of_aiohttp, "GET /turn/{user}", "1"),
        (of_aiohttp, "GET /turn/{user}", "0"),
    ],
)
def test_a_hung_request_has_the_name_and_the_budget_of_its_route(
    serve: Callable[[Hold], None],
    name: str,
    ratio: str,
    receiver: Receiver,
    tmp_path: Path,
    lines: Lines,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In what is open now, in its line while it hangs, and in why it was late."""
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "parentbased_traceidratio")
    monkeypatch.setenv("OTEL_TRACES_SAMPLER_ARG", ratio)
    told: list[dict[str, Any]] = []

    def hold() -> None:
        until = time.monotonic() + DEADLINE_S
        while not any("is overdue" in line["event"] for line in told):
            assert time.monotonic() < until, told
            told.extend(lines())
            time.sleep(0.02)
        (row,) = opened(tmp_path)
        assert (row["stage"], row["budget_s"]) == (name, 0.1)
        assert row["late_by_s"] > 0.4

    with setup_observability(
        "shop",
        environment="production",
        endpoint=receiver.endpoint,
        spool_dir=tmp_path,
        budgets={"GET *": 50, name: 0.1, "POST *": 0.01},
    ) as running:
        serve(hold)
        assert running.force_flush(10)
    told += lines()
    overdue, late = [line for line in told if line["level"] == "warning"]
    assert overdue["stage"] == late["stage"] == name
    assert overdue["event"].startswith(f"ada's {name} is overdue")
    assert late["event"].startswith(f"ada's {name} of ")
    assert overdue["user_id"] == late["user_id"] == "ada"
    assert "test_requests.py" in overdue["late.where"]
    if ratio == "1":
        (span,) = [span for span in receiver.spans if span.name == name]
        assert (span.attributes["late"], span.attributes["budget_s"]) == (True, 0.1)
        assert span.attributes["http.route"] == name.partition(" ")[2]
        assert "late.where" in span.attributes


def test_a_request_without_a_budget_has_its_name_while_it_is_open(
    receiver: Receiver, tmp_path: Path
) -> None:
    """A quick one is never asked for it."""

    def hold() -> None:
        until = time.monotonic() + DEADLINE_S
        while [row["stage"] for row in opened(tmp_path)] != ["GET /turn/{user}"]:
            assert time.monotonic() < until
            time.sleep(0.02)
        assert [row["budget_s"] for row in opened(tmp_path)] == [None]

    with setup_observability(
        "shop", environment="production", endpoint=receiver.endpoint, spool_dir=tmp_path
    ) as running:
        of_starlette(lambda: None)
        of_starlette(hold)
        assert running.force_flush(10)
    assert [span.name for span in receiver.spans] == ["GET /turn/{user}"] * 2


def test_a_response_that_is_streamed_stands_where_its_body_does(
    receiver: Receiver, tmp_path: Path
) -> None:
    """The request's own task waits for the client to go away."""

    async def chunks() -> AsyncIterator[str]:
        yield "first"
        await asyncio.sleep(0.3)

    async def endpoint(_: Any) -> StreamingResponse:
        return StreamingResponse(chunks())

    async def main() -> None:
        scope = {"type": "http", "method": "GET", "headers": [], "query_string": b""}
        app = ObservabilityMiddleware(Starlette(routes=[Route("/stream", endpoint)]))
        calls = asyncio.Queue[Any](), asyncio.Queue[Any]()
        at = {"path": "/stream", **scope}
        await asyncio.create_task(app(at, calls[0].get, calls[1].put))  # type: ignore[arg-type]

    with setup_observability(
        "shop",
        environment="production",
        endpoint=receiver.endpoint,
        spool_dir=tmp_path,
        budgets={"GET /*": 0.1},
    ) as running:
        asyncio.run(main())
        assert running.force_flush(10)
    (span,) = [span for span in receiver.spans if span.name == "GET /stream"]
    assert " chunks (test_requests.py:" in str(span.attributes["late.where"])


def test_what_holds_a_request_up_before_its_route_is_known_has_a_place(
    receiver: Receiver, tmp_path: Path
) -> None:
    """It may be late by a middleware alone; also where nothing else may be slow for long."""

    async def allows(request: Any, call_next: Any) -> Any:
        await asyncio.sleep(0.3)
        return await call_next(request)

    async def turn(_: Any) -> PlainTextResponse:
        return PlainTextResponse("ok")

    routes = [Route("/turn/{user}", turn)]
    guard = Middleware(BaseHTTPMiddleware, dispatch=allows)
    with setup_observability(
        "shop",
        environment="production",
        endpoint=receiver.endpoint,
        spool_dir=tmp_path,
        budgets={"GET /turn/*": 0.1, "GET /report": 5.0},
    ) as running:
        with traced("patient", budget=600.0):
            time.sleep(0.1)  # a look finds nothing to do
            asyncio.run(ask_asgi(Starlette(routes=routes, middleware=[guard]), "/turn/ada"))
        assert running.force_flush(10)
    span = next(each for each in receiver.spans if each.name != "patient")
    assert str(span.attributes["late.detail"]).startswith("allows (test_requests.py:")


def test_requests_behind_a_blocked_loop_name_whose_work_it_was(
    receiver: Receiver, tmp_path: Path
) -> None:
    """They were measured from their beginning, and so was the one that blocked."""

    async def turn(request: Any) -> PlainTextResponse:
        bind_context(user_id=request.path_params["user"])
        await asyncio.sleep(0.1)
        return PlainTextResponse("ok")

    async def upload(_: Any) -> PlainTextResponse:
        bind_context(user_id="alice")
        await asyncio.sleep(0.05)
        time.sleep(0.4)
        return PlainTextResponse("ok")

    app = Starlette(routes=[Route("/turn/{user}", turn), Route("/upload", upload)])

    async def main() -> None:
        await ask_asgi(app, "/turn/warm")
        await asyncio.gather(
            ask_asgi(app, "/upload"), *[ask_asgi(app, f"/turn/u{n}") for n in range(3)]
        )

    with setup_observability(
        "shop",
        environment="production",
        endpoint=receiver.endpoint,
        spool_dir=tmp_path,
        budgets={"GET /turn/*": 0.2},
    ) as running:
        asyncio.run(main())
        assert running.force_flush(10)
    late = [span for span in receiver.spans if span.attributes.get("late")]
    assert {span.attributes["user_id"] for span in late} == {"u0", "u1", "u2"}
    for span in late:
        assert span.attributes["late.cause"] == "loop"
        assert str(span.attributes["late.culprit"]).startswith("GET /upload: ")
        assert span.attributes["late.culprit.user_id"] == "alice"


def test_a_route_without_a_budget_keeps_that_of_its_method(
    receiver: Receiver, tmp_path: Path
) -> None:
    """Whichever is asked for first, where there are patterns as well."""
    for method in ("POST", "GET"):
        budgets = {method: 7.0, "chat *": 1.0, "GET /else": 2.0}

        def hold(expected: float | None = 7.0 if method == "GET" else None) -> None:
            until = time.monotonic() + DEADLINE_S
            while [row["stage"] for row in opened(tmp_path)] != ["GET /turn/{user}"]:
                assert time.monotonic() < until
                time.sleep(0.02)
            assert [row["budget_s"] for row in opened(tmp_path)] == [expected]

        with setup_observability(
            "shop",
            environment="production",
            endpoint=receiver.endpoint,
            spool_dir=tmp_path,
            budgets=budgets,
        ):
            of_starlette(hold)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("GET /orders", 1.0),
        ("GET*", 1.0),
        ("*", 1.0),
        ("?ET /x", 1.0),
        ("GET *", 1.0),
        ("GET /orders/*", 1.0),
        ("GET", 3.0),
        ("GETS /x", 3.0),
        ("POST /orders", 3.0),
        ("chat *", 3.0),
    ],
)
def test_a_budget_may_be_that_of_a_route_whose_method_it_begins_with(
    name: str, expected: float
) -> None:
    """Or a pattern that could fit one: the least of them."""
    budgets = Budgets({name: 1.0, "GET /late": 3.0, "turn": 0.5})
    assert [budgets.least("GET "), budgets.least("GET ")] == [expected, expected]
    assert budgets.least("PUT ") == (1.0 if name in ("*", "?ET /x") else None)
