"""Quart, by itself: a route for each request and handshake, and a trace for each message."""

import asyncio
import time
from collections.abc import AsyncGenerator
from contextvars import Context, copy_context
from typing import Any

import pytest
from quart import Quart, websocket
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from otel_logging import bind_context, get_logger, setup_observability
from otel_logging.integrations import quart as integration
from otel_logging.testing import capture
from tests.integrations.serving import SERVERS, Seen, running, serving

log: Any = get_logger("chat")


def app_of_quart() -> Quart:
    app = Quart(__name__)

    @app.get("/orders/<int:number>")
    async def order(number: int) -> str:
        log.info("read", number=number)
        return "read"

    @app.websocket("/rooms/<room>")
    async def room(room: str) -> None:
        bind_context(user_id=room)
        log.info("joined")
        while True:
            text = await websocket.receive()
            log.info("got", text=text)
            await asyncio.sleep(0.03)
            await websocket.send(f"echo {text}")

    return app


@pytest.mark.parametrize("server", SERVERS)
def test_each_message_is_a_trace_as_long_as_its_work(server: str) -> None:
    with serving(app_of_quart(), server) as seen:
        began_s = time.monotonic()
        with seen.connect("/rooms/ann") as client:
            for text in ("a", "b", "c"):
                client.send(text)
            assert [client.recv() for _ in range(3)] == ["echo a", "echo b", "echo c"]
            seen.wait_for("message", 2)  # while the socket is open
        messages = seen.wait_for("message", 3)
        late_s = time.monotonic() - began_s - 0.09  # of all that is not the work
        (handshake,) = seen.wait_for("WS /rooms/<room>")
        (end,) = seen.wait_for("disconnect")
    assert seen.line("joined")["trace_id"] == handshake["trace_id"] == end["trace_id"]
    lines = [line for line in seen.lines if line["event"] == "got"]
    assert [line["user_id"] for line in lines] == ["ann"] * 3
    assert [line["trace_id"] for line in lines] == [span["trace_id"] for span in messages]
    assert len({span["trace_id"] for span in messages}) == 3
    for number, span in enumerate(messages, 1):
        assert span["attributes"]["http.route"] == "/rooms/<room>"
        assert span["links"][0]["trace_id"] == handshake["trace_id"]
        least = 0.03 * number
        assert max(least - late_s, 0.03) - 0.01 < span["duration_s"] < least + late_s


def two_messages(*, is_held: bool = False, **settings: Any) -> list[dict[str, Any]]:
    """Return the spans of two messages that come together, the first one first."""
    app, kept = app_of_quart(), list[Context]()

    @app.websocket("/works")
    async def works() -> None:
        bind_context(user_id="ann")
        while True:
            await websocket.receive()
            if is_held and not kept:
                kept.append(copy_context())
            await asyncio.sleep(0.2)

    with (
        setup_observability("shop", **settings),
        capture() as captured,
        running(app, SERVERS[0]) as port,
        Seen(captured, port).connect("/works") as client,
    ):
        client.send("a")
        client.send("b")
        Seen(captured, port).wait_for("message")
        kept.clear()
        found = Seen(captured, port).wait_for("message", 2)
    return sorted(found, key=lambda each: float(each["duration_s"]))


@pytest.mark.parametrize("is_held", [False, True])
def test_a_message_waits_behind_the_one_before_that_is_worked_on(*, is_held: bool) -> None:
    """Also where its handler says nothing: it ends when the next one is asked for. And where
    something holds it that was made for it, as a connection of a pool does.
    """
    first, second = two_messages(is_held=is_held, budgets={"message": 0.3})
    assert 0.2 <= first["duration_s"] < 0.4 <= second["duration_s"]
    found = second["attributes"]
    assert (found["late.cause"], found["late.culprit"]) == ("queue", "message")
    assert (found["late.culprit.user_id"], found["queue.wait_s"] > 0.15) == ("ann", True)


def test_a_message_without_a_budget_waits_as_well() -> None:
    first, second = two_messages()
    assert first["attributes"]["queue.wait_s"] < 0.15 < second["attributes"]["queue.wait_s"]


def test_a_request_is_named_by_its_route() -> None:
    with serving(app_of_quart()) as seen:
        assert seen.ask("/orders/7")[0] == 200
        assert seen.ask("/nowhere")[0] == 404
        (span,) = seen.wait_for("GET /orders/<int:number>")
        seen.wait_for("GET")
    assert seen.line("read")["trace_id"] == span["trace_id"]


def test_a_handler_that_fails_is_an_error() -> None:
    app = app_of_quart()

    @app.websocket("/broken")
    async def broken() -> None:
        await websocket.receive()
        raise ValueError("no such room")

    with serving(app) as seen:
        with seen.connect("/broken") as client:
            client.send("x")
            with pytest.raises(ConnectionClosed):
                client.recv()
        (message,) = seen.wait_for("message")
    (line,) = [line for line in seen.lines if "ValueError" in line.get("exception", "")]
    assert line["trace_id"] == message["trace_id"]
    assert (message["status"], message["events"][0]["name"]) == ("error", "exception")


def test_before_set_up_messages_are_as_they_were() -> None:
    integration.instrument()
    with (
        running(app_of_quart(), SERVERS[0]) as port,
        connect(f"ws://127.0.0.1:{port}/rooms/ann") as client,
    ):
        client.send("a")
        assert client.recv() == "echo a"
    integration.uninstrument()


def test_uninstrumented_connections_are_as_they_were() -> None:
    integration.instrument()
    integration.instrument()
    integration.uninstrument()
    integration.uninstrument()
    assert integration._owner.__init__.__module__.startswith("quart.")


class Broker:
    """As the chat of Quart's own tutorial has it, with a line: a queue for each connection."""

    def __init__(self) -> None:
        self.connections: set[asyncio.Queue[str]] = set()

    async def publish(self, message: str) -> None:
        log.info("published", text=message)
        for connection in self.connections:
            await connection.put(message)

    async def subscribe(self) -> AsyncGenerator[str, None]:
        connection: asyncio.Queue[str] = asyncio.Queue()
        self.connections.add(connection)
        try:
            while True:
                yield await connection.get()
        finally:
            self.connections.remove(connection)


def test_the_chat_of_quarts_tutorial_has_a_trace_for_each_message() -> None:
    """A task of each connection receives, and what it publishes is sent by all connections."""
    app, broker = Quart(__name__), Broker()

    async def receive() -> None:
        while True:
            await broker.publish(await websocket.receive())

    @app.websocket("/ws")
    async def ws() -> None:
        task = asyncio.ensure_future(receive())
        try:
            async for message in broker.subscribe():
                await websocket.send(message)
        finally:
            task.cancel()
            await task

    with serving(app) as seen:
        with seen.connect("/ws") as one, seen.connect("/ws") as other:
            for client, text in ((one, "a"), (other, "b"), (one, "c")):
                client.send(text)
                assert [one.recv(), other.recv()] == [text, text]
        seen.wait_for("disconnect", 2)
    traces = [line["trace_id"] for line in seen.lines if line["event"] == "published"]
    assert sorted(traces) == sorted({span["trace_id"] for span in seen.named("message")})
    assert len(traces) == 3
    assert sorted(
        span["attributes"]["websocket.messages"] for span in seen.named("disconnect")
    ) == [1, 2]
