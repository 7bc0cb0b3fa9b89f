"""Socket.IO: each event is a trace, on behalf of the user that its connection was made for."""

import asyncio
from typing import Any

import flask_socketio
import pytest
import socketio
from flask import Flask

from otel_logging import bind_context, get_logger, setup_observability
from otel_logging.testing import capture
from tests.integrations.serving import SERVERS, serving

log: Any = get_logger("chat")


def app_of_flask(**options: Any) -> tuple[Flask, Any]:
    app = Flask(__name__)
    sockets = flask_socketio.SocketIO(app, async_mode="threading", **options)

    @sockets.on("connect")
    def connect(auth: dict[str, str] | None) -> None:
        if auth is None:
            raise flask_socketio.ConnectionRefusedError("who?")
        bind_context(user_id=auth["user"])

    @sockets.on("say")
    def say(text: str) -> str:
        bind_context(room="r")
        log.info("said", text=text)
        if text == "boom":
            raise ValueError(text)
        return text

    @sockets.on("disconnect")
    def disconnect() -> None:
        log.info("left")

    class Game(flask_socketio.Namespace):
        def on_connect(self, auth: dict[str, str]) -> None:
            connect(auth)

        def on_move(self, to: str) -> None:
            log.info("moved", to=to)

    sockets.on_namespace(Game("/game"))
    return app, sockets


def test_each_event_of_flask_socketio_is_a_trace_of_the_connections_user() -> None:
    app, sockets = app_of_flask()
    with capture() as run, setup_observability("chat"):
        alice, bob = (
            sockets.test_client(app, auth={"user": user}, namespace=None)
            for user in ("alice", "bob")
        )
        assert alice.emit("say", "a", callback=True) == "a"
        bob.emit("say", "b")
        with pytest.raises(ValueError, match="boom"):
            alice.emit("say", "boom")
        alice.emit("never heard of")
        bob.connect(namespace="/game", auth={"user": "bob"})
        bob.emit("move", "e4", namespace="/game")
        alice.disconnect()
    events = [(span["name"], span["attributes"].get("user_id")) for span in run.spans]
    assert events == [
        *(("connect", "alice"), ("connect", "bob"), ("say", "alice"), ("say", "bob")),
        *(("say", "alice"), ("event", "alice"), ("connect", "bob"), ("move", "bob")),
        ("disconnect", "alice"),
    ]
    assert len({span["trace_id"] for span in run.spans}) == len(events)
    failed = [span["attributes"].get("user_id") for span in run.spans if span["status"] == "error"]
    assert failed == ["alice"]
    assert [line["user_id"] for line in run.lines if line["event"] == "said"] == [
        *("alice", "bob", "alice")
    ]
    assert run.line("left")["user_id"] == "alice"
    assert "room" not in run.line("left")  # what one event binds ends with it
    assert run.span("move")["attributes"]["socketio.namespace"] == "/game"


def test_a_refused_connection_is_no_failure() -> None:
    app, sockets = app_of_flask()
    with capture() as run, setup_observability("chat"):
        client = sockets.test_client(app)
    assert not client.is_connected()
    assert run.span("connect")["status"] != "error"


@pytest.mark.parametrize("server", [SERVERS[0], SERVERS[-1]])
def test_each_event_of_asyncio_is_one_too(server: str) -> None:
    """Inside the message that brought it; also with a handler of old, that takes no credentials."""
    sio = socketio.AsyncServer(async_mode="asgi")

    @sio.event
    async def connect(sid: str, environ: dict[str, Any]) -> None:
        bind_context(user_id=environ["HTTP_USER"])

    @sio.event
    async def say(sid: str, text: str) -> str:
        log.info("said", text=text)
        return text

    async def talk(port: int) -> None:
        async def one(user: str) -> None:
            async with socketio.AsyncSimpleClient() as client:
                url = f"http://127.0.0.1:{port}"
                await client.connect(url, headers={"user": user}, transports=["websocket"])
                for number in range(3):
                    assert await client.call("say", f"{user}{number}") == f"{user}{number}"

        await asyncio.gather(one("alice"), one("bob"))

    with serving(socketio.ASGIApp(sio), server) as seen:
        asyncio.run(talk(seen.port))
        spans = seen.wait_for("say", 6)
        connects = seen.wait_for("connect", 2)
    messages = {span["span_id"] for span in seen.named("message")}
    assert all(span["status"] != "error" for span in connects)
    assert len({span["trace_id"] for span in spans + connects}) == 8
    assert {span["parent_span_id"] for span in spans + connects} <= messages
    lines = [line for line in seen.lines if line["event"] == "said"]
    assert all(line["text"][:-1] == line["user_id"] for line in lines)
    assert {line["trace_id"] for line in lines} == {span["trace_id"] for span in spans}
