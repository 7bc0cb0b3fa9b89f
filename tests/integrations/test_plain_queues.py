"""A worker behind a queue that carries nothing is never under another message, or another user."""

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from contextvars import ContextVar
from typing import Any

import anyio
import pytest
from fakeredis import FakeAsyncRedis
from starlette.applications import Starlette
from starlette.routing import WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect
from werkzeug.local import LocalProxy

from otel_logging import background_tasks, bind_context, get_logger, traced
from tests.integrations.serving import serving

log: Any = get_logger("chat")
Queue = asyncio.Queue[Any]
ROUNDS = 3


class Shared:
    """What all connections have."""

    queue: Queue
    task: asyncio.Task[None] | None = None


shared = Shared()


async def work(queue: Queue) -> None:
    while True:
        websocket, user, text = await queue.get()
        log.info("worked", of=user, text=text)
        await asyncio.sleep(0)
        with traced("work"):
            log.info("worked", of=user, text=text)
        await websocket.send_text("done")


async def index() -> None:
    await asyncio.sleep(60)
    log.info("indexed")


class Session:
    """A connection with a loop of its own, which its first message begins."""

    def __init__(self, websocket: WebSocket) -> None:
        self.websocket = websocket
        self.queue: Queue = asyncio.Queue()
        #: Which fails outside a request, whatever it is asked.
        self.request = LocalProxy(ContextVar[Any]("request"))

    async def work(self) -> None:
        await work(self.queue)


def app_of(start: str, whose: str, binds: str) -> Starlette:
    @asynccontextmanager
    async def lifespan(_: Any) -> AsyncIterator[None]:
        shared.queue, shared.task = asyncio.Queue(), None
        if start == "application":
            shared.task = asyncio.create_task(work(shared.queue))
        yield

    def begin(websocket: WebSocket) -> tuple[Any, Queue]:
        if whose == "session's":
            session = Session(websocket)
            return asyncio.create_task(session.work()), session.queue
        if whose == "connection's":
            queue: Queue = asyncio.Queue()
            return asyncio.create_task(work(queue)), queue
        shared.task = shared.task or asyncio.create_task(work(shared.queue))
        return shared.task, shared.queue

    async def talk(websocket: WebSocket) -> None:
        await websocket.accept()
        user = websocket.query_params["user"]
        if binds == "connection":
            bind_context(user_id=user)
        begun = begin(websocket) if start == "connection" else None
        beside: list[asyncio.Task[None]] = []
        try:
            while True:
                text = await websocket.receive_text()
                if binds == "message":
                    bind_context(user_id=user)
                begun = begun or begin(websocket)
                if whose == "shared":  # what else is done for the message does not keep it
                    beside.append(asyncio.create_task(index()))
                log.info("got", of=user, text=text)
                begun[1].put_nowait((websocket, user, text))
        except WebSocketDisconnect:
            for task in beside:
                task.cancel()

    return Starlette(routes=[WebSocketRoute("/", talk)], lifespan=lifespan)


@pytest.mark.parametrize("binds", ["connection", "message"])
@pytest.mark.parametrize(
    ("start", "whose"),
    [
        *(("connection", "connection's"), ("connection", "session's"), ("connection", "shared")),
        *(("message", "connection's"), ("message", "session's"), ("message", "shared")),
        ("application", "shared"),
    ],
)
def test_a_worker_is_under_no_other_message_and_no_other_user(
    start: str, whose: str, binds: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is known to work for one connection has its user, where that is bound on it."""
    monkeypatch.setattr(background_tasks, "_reported", set())
    with serving(app_of(start, whose, binds)) as seen:
        clients = [seen.connect(f"/?user=u{number}") for number in range(3)]
        for number in range(ROUNDS):
            for client in clients:
                client.send(f"text {number}")
            for client in clients:
                assert client.recv() == "done"
        for client in clients:
            client.close()
    of_messages = {(e["of"], e["text"]): e["trace_id"] for e in seen.lines if e["event"] == "got"}
    worked = [line for line in seen.lines if line["event"] == "worked"]
    assert len(worked) == 2 * len(clients) * ROUNDS
    for line in worked:
        others = set(of_messages.values()) - {of_messages[line["of"], line["text"]]}
        assert line.get("trace_id") not in others
        assert line.get("user_id") in (None, line["of"])
    is_known = whose == "session's" or (start == "connection" and whose == "connection's")
    if is_known and binds == "connection":
        assert all(line["user_id"] == line["of"] for line in worked)


def test_a_handler_that_takes_from_a_queue_of_everybodys_is_its_connections() -> None:
    """It is given no other's work but that."""

    async def talk(websocket: WebSocket) -> None:
        await websocket.accept()
        bind_context(user_id=websocket.query_params["user"])
        shared.queue = asyncio.Queue()

        async def read() -> None:
            async for text in websocket.iter_text():
                shared.queue.put_nowait(text)

        reading = asyncio.create_task(read())
        try:
            while True:
                log.info("worked", of="ann", text=await shared.queue.get())
                await websocket.send_text("done")
        finally:
            reading.cancel()

    app = Starlette(routes=[WebSocketRoute("/", talk)])
    # it does not return by itself
    with serving(app, options={"timeout_graceful_shutdown": 0}) as seen:
        with seen.connect("/?user=ann") as client:
            for _ in range(ROUNDS):
                client.send("text")
                assert client.recv() == "done"
        found = [line.get("user_id") for line in seen.lines if line["event"] == "worked"]
    assert found == ["ann"] * ROUNDS


def test_a_task_that_a_stage_of_the_connection_has_started_is_the_connections(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Though that stage and the handshake have ended."""

    async def talk(websocket: WebSocket) -> None:
        await websocket.accept()
        bind_context(user_id="ann")
        queue: Queue = asyncio.Queue()
        with traced("set up"):
            working = asyncio.create_task(work(queue))
            await asyncio.sleep(0)
        async for text in websocket.iter_text():
            queue.put_nowait((websocket, "ann", text))
        working.cancel()

    with serving(Starlette(routes=[WebSocketRoute("/", talk)])) as seen:
        with seen.connect("/") as client:
            for _ in range(ROUNDS):
                client.send("text")
                assert client.recv() == "done"
        (handshake,) = seen.wait_for("WS /")
    worked = [line for line in seen.lines if line["event"] == "worked"]
    assert [line["user_id"] for line in worked] == ["ann"] * 2 * ROUNDS
    assert {line["trace_id"] for line in worked} == {handshake["trace_id"]}
    assert not capsys.readouterr().err


class Room:
    def __init__(self) -> None:
        self.redis = FakeAsyncRedis()
        self.members: set[WebSocket] = set()
        self.is_open = threading.Event()
        self.task: asyncio.Task[None] | None = None

    async def deliver(self) -> None:
        await subscribed(self, self.members)


async def subscribed(room: Room, to: set[WebSocket]) -> None:
    async with room.redis.pubsub(ignore_subscribe_messages=True) as pubsub:
        await pubsub.subscribe("room")
        room.is_open.set()
        async for message in pubsub.listen():
            log.info("worked", text=message["data"])
            for each in list(to):
                await each.send_text("done")


async def pump(websocket: WebSocket, room: Room) -> None:
    await subscribed(room, {websocket})


async def pump_in_a_group(websocket: WebSocket, room: Room) -> None:
    async with anyio.create_task_group() as group:
        group.start_soon(pump, websocket, room)


@pytest.mark.parametrize("given", [None, pump, pump_in_a_group])
def test_a_subscription_is_everybodys_but_for_who_was_given_the_connection(
    given: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """While that is open; a room has each of its members, and is given none."""
    monkeypatch.setattr(background_tasks, "_reported", set())
    room, is_shared = Room(), given is None

    async def talk(websocket: WebSocket) -> None:
        await websocket.accept()
        user = websocket.query_params["user"]
        bind_context(user_id=user)
        if is_shared:
            room.members.add(websocket)
        if user == "ann":
            work = room.deliver() if is_shared else given(websocket, room)
            room.task = asyncio.create_task(work)
        async for text in websocket.iter_text():
            await room.redis.publish("room", text)
            await websocket.send_text("sent")

    with serving(Starlette(routes=[WebSocketRoute("/", talk)])) as seen:
        with ExitStack() as clients:
            ann = clients.enter_context(seen.connect("/?user=ann"))
            assert room.is_open.wait(10)
            bob = clients.enter_context(seen.connect("/?user=bob"))
            for _ in range(ROUNDS):
                bob.send("text")
                assert ann.recv() == "done"
            assert room.task is not None
            room.task.get_loop().call_soon_threadsafe(room.task.cancel)
        seen.wait_for("disconnect", 2)
        found = [line.get("user_id") for line in seen.lines if line["event"] == "worked"]
    assert found == [None if is_shared else "ann"] * ROUNDS
    said = capsys.readouterr().err
    start = "Room.deliver, a task that was started on a connection, goes on after it"
    assert (start in said) is is_shared
