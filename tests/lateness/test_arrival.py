"""What comes while its event loop is blocked waits from then on, not from when it is read."""

import asyncio
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from aiohttp import web
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket
from websockets.asyncio.server import serve
from websockets.sync.client import connect

from otel_logging import bind_context, setup_observability
from otel_logging.testing import Captured, capture
from tests.integrations.serving import SERVERS, Seen, running

BLOCKED_S = 0.5
PATIENCE_S = 8.0
Talk = Callable[[int], None]

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="no other system says it")
_is_blocked = threading.Event()


@pytest.fixture
def run() -> Iterator[Captured]:
    _is_blocked.clear()
    budgets = {"message": 0.1, "GET /": 0.1}
    with setup_observability("shop", budgets=budgets), capture() as captured:
        yield captured


def handle(user: str) -> None:
    """Ann's work blocks the loop."""
    bind_context(user_id=user)
    if user == "ann":
        _is_blocked.set()
        time.sleep(BLOCKED_S)


def of_uvicorn(talk: Talk) -> None:
    async def room(socket: WebSocket) -> None:
        await socket.accept()
        async for text in socket.iter_text():
            handle(text)
            await socket.send_text(text)

    async def page(request: Request) -> PlainTextResponse:
        handle(request.query_params["user"])
        return PlainTextResponse("ok")

    app = Starlette(routes=[WebSocketRoute("/", room), Route("/", page)])
    with running(app, SERVERS[0]) as port:
        talk(port)


def of_aiohttp(talk: Talk) -> None:
    async def room(request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        async for message in socket:
            handle(message.data)
            await socket.send_str(message.data)
        return socket

    async def page(request: web.Request) -> web.StreamResponse:
        if "user" not in request.query:
            return await room(request)
        handle(request.query["user"])
        return web.Response()

    async def main() -> None:
        app = web.Application()
        app.router.add_get("/", page)
        runner = web.AppRunner(app)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        await asyncio.to_thread(talk, runner.addresses[0][1])
        await runner.cleanup()

    asyncio.run(main())


def of_websockets(talk: Talk) -> None:
    async def room(socket: Any) -> None:
        async for text in socket:
            handle(text)
            await socket.send(text)

    async def main() -> None:
        async with serve(room, "127.0.0.1", 0) as server:
            await asyncio.to_thread(talk, next(iter(server.sockets)).getsockname()[1])

    asyncio.run(main())


def check(run: Captured, stage: str) -> None:
    (late,) = [s for s in Seen(run, 0).wait_for(stage, 2) if s["attributes"]["user_id"] == "bob"]
    found = late["attributes"]
    assert BLOCKED_S / 2 < late["duration_s"] < BLOCKED_S * 2
    assert (found["late.cause"], found["late.culprit.user_id"]) == ("loop", "ann")
    assert "handle (test_arrival.py:" in found["late.detail"]


@pytest.mark.parametrize("server", [of_uvicorn, of_aiohttp, of_websockets])
def test_a_message_waits_from_when_its_server_had_it(
    run: Captured, server: Callable[[Talk], None]
) -> None:
    def talk(port: int) -> None:
        url = f"ws://127.0.0.1:{port}/"
        with connect(url) as ann, connect(url) as bob:
            ann.send("ann")
            assert _is_blocked.wait(PATIENCE_S)
            bob.send("bob")
            assert (ann.recv(), bob.recv()) == ("ann", "bob")

    server(talk)
    check(run, "message")


@pytest.mark.parametrize("server", [of_uvicorn, of_aiohttp])
def test_a_request_waits_from_when_its_server_had_it(
    run: Captured, server: Callable[[Talk], None]
) -> None:
    def talk(port: int) -> None:
        def ask(user: str) -> None:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/?user={user}").read()

        ann = threading.Thread(target=ask, args=("ann",))
        ann.start()
        assert _is_blocked.wait(PATIENCE_S)
        ask("bob")
        ann.join(PATIENCE_S)

    server(talk)
    check(run, "GET /")
