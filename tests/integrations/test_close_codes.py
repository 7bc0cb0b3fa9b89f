"""A connection that its server closes for a failure has failed; closed for anything else, not."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import websockets
from aiohttp import web
from starlette.applications import Starlette
from starlette.routing import WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from otel_logging import get_logger, setup_observability
from otel_logging.testing import Captured, capture
from tests.integrations.serving import WEBSOCKETS, running

log: Any = get_logger("chat")
#: 1012: the service restarts; 1013: try again later; from 3000 on: of applications.
FAILED, NOT_FAILED = (1011,), (1000, 1001, 1012, 1013, 3000, 4000, 4001)


async def starlette(websocket: WebSocket) -> None:
    await websocket.accept()
    try:
        code = int(await websocket.receive_text())
        log.info("handled")
        await websocket.close(code)
    except WebSocketDisconnect:
        pass


async def aiohttp(request: web.Request) -> web.WebSocketResponse:
    answer = web.WebSocketResponse()
    await answer.prepare(request)
    async for message in answer:
        log.info("handled")
        await answer.close(code=int(message.data))
    return answer


async def library(connection: Any) -> None:
    async for text in connection:
        log.info("handled")
        await connection.close(int(text))


@contextmanager
def in_a_thread(start: Any) -> Iterator[int]:
    loop, ports, ended = asyncio.new_event_loop(), [], threading.Event()
    begun = threading.Event()

    async def main() -> None:
        async with start() as port:
            ports.append(port)
            begun.set()
            while not ended.is_set():
                await asyncio.sleep(0.01)

    thread = threading.Thread(target=loop.run_until_complete, args=(main(),))
    thread.start()
    assert begun.wait(8)
    try:
        yield ports[0]
    finally:
        ended.set()
        thread.join(8)
        loop.close()


class of_aiohttp:  # noqa: N801 - used as a function
    async def __aenter__(self) -> int:
        app = web.Application()
        app.router.add_get("/", aiohttp)
        self.runner = web.AppRunner(app, handle_signals=False)
        await self.runner.setup()
        site = web.TCPSite(self.runner, "127.0.0.1", 0)
        await site.start()
        return int(self.runner.addresses[0][1])

    async def __aexit__(self, *_: object) -> None:
        await self.runner.cleanup()


class of_the_library:  # noqa: N801 - used as a function
    async def __aenter__(self) -> int:
        self.server = await websockets.serve(library, "127.0.0.1", 0)
        return int(next(iter(self.server.sockets)).getsockname()[1])

    async def __aexit__(self, *_: object) -> None:
        self.server.close()
        await self.server.wait_closed()


SERVED: dict[str, Any] = {
    "starlette": lambda: running(Starlette(routes=[WebSocketRoute("/", starlette)]), WEBSOCKETS[0]),
    "aiohttp": lambda: in_a_thread(of_aiohttp),
    "websockets": lambda: in_a_thread(of_the_library),
}


def talked(served: str, code: int, *, by_client: bool = False) -> Captured:
    with capture(log_level="info") as captured, setup_observability("shop"):  # noqa: SIM117
        with SERVED[served]() as port, connect(f"ws://127.0.0.1:{port}/") as client:
            if by_client:
                client.close(code)
            else:
                client.send(str(code))
                with pytest.raises(ConnectionClosed):
                    client.recv(8)
    return captured


@pytest.mark.parametrize("code", [*FAILED, *NOT_FAILED])
@pytest.mark.parametrize("served", SERVED)
def test_a_server_that_closes_for_a_failure_has_failed(served: str, code: int) -> None:
    captured = talked(served, code)
    assert captured.span("disconnect")["attributes"]["websocket.close_code"] == code
    for name in ("message", "disconnect"):
        span = captured.span(name)
        assert span["status"] == ("error" if code in FAILED else "unset")
        assert span["attributes"].get("error.type") == ("1011" if code in FAILED else None)


@pytest.mark.parametrize("served", SERVED)
def test_a_client_that_closes_is_no_failure(served: str) -> None:
    """Whatever code it says."""
    captured = talked(served, 1011, by_client=True)
    assert captured.span("disconnect")["status"] == "unset"


def test_a_connection_that_is_closed_before_any_message_has_failed_alone() -> None:
    async def talk(websocket: WebSocket) -> None:
        await websocket.accept()
        await websocket.close(1011)

    app = Starlette(routes=[WebSocketRoute("/", talk)])
    with capture(log_level="info") as captured, setup_observability("shop"):  # noqa: SIM117
        with running(app, WEBSOCKETS[0]) as port, connect(f"ws://127.0.0.1:{port}/") as it:
            with pytest.raises(ConnectionClosed):
                it.recv(8)
    assert captured.span("disconnect")["status"] == "error"
    assert captured.span("WS /")["status"] == "unset"
