"""A WebSocket message is a trace of its own, whatever shape the application has."""

import asyncio
import json
import re
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from contextvars import copy_context
from functools import partial
from typing import Annotated, Any

import anyio
import pytest
import uvicorn
from fastapi import Depends, FastAPI, WebSocket
from starlette.applications import Starlette
from starlette.routing import WebSocketRoute
from starlette.websockets import WebSocketDisconnect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from otel_logging import (
    background_tasks,
    bind_context,
    bound_context,
    carry,
    detached,
    each,
    get_logger,
    handoff,
    setup_observability,
    taking,
    traced,
)
from otel_logging.integrations import asgi_message, connection
from otel_logging.integrations.asgi import ObservabilityMiddleware
from otel_logging.integrations.connection import HELD_S
from otel_logging.testing import capture
from tests.integrations.serving import SERVERS, WEBSOCKETS, Seen, running, serving

log: Any = get_logger("chat")
DELAY_S = 0.03


async def handle(websocket: WebSocket, text: str) -> None:
    """Do what a message asks for, and answer last."""
    log.info("arrived", of=text)
    bind_context(order=text)
    if text.startswith("each"):  # one of several users on one connection
        bind_context(user_id=text)
    log.info("handling")
    await asyncio.sleep(json.loads(text)[2] if text.startswith("[") else DELAY_S)
    with traced("work"):
        log.info("worked")
    await websocket.send_text(text)


async def serial(websocket: WebSocket) -> None:
    async for text in websocket.iter_text():
        await handle(websocket, text)


async def task_each(websocket: WebSocket) -> None:
    async with asyncio.TaskGroup() as tasks:
        async for text in websocket.iter_text():
            tasks.create_task(handle(websocket, text))


async def wait_for(websocket: WebSocket) -> None:
    with_time_out = 0
    while True:
        try:
            text = await asyncio.wait_for(websocket.receive_text(), 0.05)
        except TimeoutError:
            with_time_out += 1
            continue
        await handle(websocket, text)


async def channels(websocket: WebSocket) -> None:
    """As Django Channels does: the next receive is waiting while a message is handled."""
    receiving = asyncio.create_task(websocket._receive())  # type: ignore[arg-type]
    other = asyncio.create_task(asyncio.sleep(60))
    try:
        while True:
            await asyncio.wait({receiving, other}, return_when=asyncio.FIRST_COMPLETED)
            event = receiving.result()
            receiving = asyncio.create_task(websocket._receive())  # type: ignore[arg-type]
            if event["type"] == "websocket.disconnect":
                return
            await handle(websocket, event["text"])
    finally:
        for each in (receiving, other):
            each.cancel()


async def worker(websocket: WebSocket) -> None:
    """A reader and a worker, which takes what the reader carried."""
    queue: asyncio.Queue[tuple[Callable[..., Any], str]] = asyncio.Queue()

    async def work() -> None:
        while True:
            answer, text = await queue.get()
            await answer(websocket, text)

    working = asyncio.create_task(work())
    try:
        async for text in websocket.iter_text():
            queue.put_nowait((carry(handle), text))
    finally:
        working.cancel()


async def race(websocket: WebSocket) -> None:
    """Messages beside another source of events, each in a task of its own."""
    while True:
        receiving = asyncio.create_task(websocket.receive_text())
        await asyncio.wait({receiving}, timeout=0.05)
        await handle(websocket, await receiving)


async def hello(websocket: WebSocket) -> None:
    """The first message by itself, the others with a time-out."""
    await handle(websocket, await websocket.receive_text())
    await wait_for(websocket)


async def mixed(websocket: WebSocket) -> None:
    """One by itself, one with a time-out, in turn."""
    async for text in websocket.iter_text():
        await handle(websocket, text)
        await handle(websocket, await asyncio.wait_for(websocket.receive_text(), 10))


async def renewed(websocket: WebSocket) -> None:
    """The next receive is waiting, beside other news, while a message is handled."""
    news = asyncio.create_task(asyncio.sleep(60))
    receiving = asyncio.create_task(websocket.receive_text())
    try:
        while True:
            await asyncio.wait({receiving, news}, return_when=asyncio.FIRST_COMPLETED)
            text = receiving.result()
            receiving = asyncio.create_task(websocket.receive_text())
            await handle(websocket, text)
    finally:
        news.cancel()


async def prefetch(websocket: WebSocket) -> None:
    """The next one is received while one is handled."""
    text = await websocket.receive_text()
    while text:
        _, text = await asyncio.gather(handle(websocket, text), websocket.receive_text())


async def group(websocket: WebSocket) -> None:
    """In a task group, of asyncio and of anyio in turn."""
    texts: list[str] = []

    async def receive() -> None:
        texts.append(await websocket.receive_text())

    while True:
        async with anyio.create_task_group() as ours:
            ours.start_soon(receive)
        await handle(websocket, texts.pop())
        async with asyncio.TaskGroup() as theirs:
            received = theirs.create_task(websocket.receive_text())
        await handle(websocket, received.result())


async def sessions(websocket: WebSocket) -> None:
    """A task that receives with a time-out, in layers, beside one that sends."""
    sending = asyncio.create_task(asyncio.sleep(60))

    async def layered() -> str:
        return await asyncio.wait_for(asyncio.shield(asyncio.create_task(text())), 10)

    async def text() -> str:
        return await websocket.receive_text()

    async def session() -> None:
        while True:
            await handle(websocket, await asyncio.wait_for(layered(), 10))

    receiving = asyncio.create_task(session())
    await asyncio.wait({receiving, sending}, return_when=asyncio.FIRST_COMPLETED)
    sending.cancel()
    await receiving


SHAPES: dict[str, Callable[[WebSocket], Any]] = {
    each.__name__: each
    for each in (
        *(serial, task_each, wait_for, channels, worker, race),
        *(hello, mixed, renewed, prefetch, group, sessions),
    )
}


def bind_user(user: str) -> None:
    bind_context(plan="free")  # in a thread of FastAPI's
    if user != "each":
        bind_context(user_id=user)


def app_of(kind: type) -> Any:
    async def endpoint(websocket: WebSocket) -> None:
        await websocket.accept()
        log.info("joined")
        with suppress(WebSocketDisconnect, BaseExceptionGroup):
            await SHAPES[websocket.path_params["shape"]](websocket)
        log.info("left")

    if kind is FastAPI:
        app = FastAPI()

        @app.websocket("/ws/{shape}")
        async def ws(websocket: WebSocket, user: Annotated[Any, Depends(bind_user)]) -> None:
            await endpoint(websocket)

        return app

    async def with_user(websocket: WebSocket) -> None:
        bind_user(websocket.query_params["user"])
        await endpoint(websocket)

    return Starlette(routes=[WebSocketRoute("/ws/{shape}", with_user)])


@pytest.fixture
def held_briefly(monkeypatch: pytest.MonkeyPatch) -> None:
    """For how long nothing of a message that somebody holds may go on."""
    monkeypatch.setattr(connection, "HELD_S", 0.6)
    monkeypatch.setattr(connection, "_SWEEP_S", 0.1)


def attributes(span: dict[str, Any]) -> dict[str, Any]:
    return dict(span["attributes"])


@pytest.mark.parametrize(
    ("server", "shape", "kind"),
    [
        (server, shape, kind)
        for n, shape in enumerate(SHAPES)
        for server, kind in (
            (WEBSOCKETS[n % len(WEBSOCKETS)], (FastAPI, Starlette)[n % 2]),
            ("hypercorn", (Starlette, FastAPI)[n % 2]),
        )
    ],
)
def test_each_message_is_a_trace_of_its_user(
    server: str, shape: str, kind: type, held_briefly: None
) -> None:
    """Two connections at once, one of one user; three messages each, sent together."""
    clients = 2
    with serving(app_of(kind), server) as seen:

        def talk(user: str) -> None:
            with seen.connect(f"/ws/{shape}?user={user}") as client:
                sent = [f"{user}-{n}" for n in range(3)]
                for text in sent:
                    client.send(text)
                assert sorted(client.recv() for _ in sent) == sent
                seen.wait_for("message", 2)  # while the socket is open

        threads = [threading.Thread(target=talk, args=(user,)) for user in ("each", "u1")]
        began_s = time.monotonic()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        messages = seen.wait_for("message", 3 * clients)
        took_s = time.monotonic() - began_s
        seen.wait_for("disconnect", clients)
    late_s = took_s - DELAY_S * (1 if shape == "task_each" else 3)  # all that is no delay of ours
    assert len({span["trace_id"] for span in messages}) == 3 * clients
    handshakes = {span["trace_id"]: attributes(span) for span in seen.named("WS /ws/{shape}")}
    assert len(handshakes) == clients
    for span in messages:
        found = attributes(span)
        user, order = found["user_id"], found["order"]
        assert order == user if user.startswith("each") else order.startswith(user)
        assert (found["http.route"], found["plan"]) == ("/ws/{shape}", "free")
        (link,) = span["links"]
        assert handshakes[link["trace_id"]].get("user_id", user) == user
        own = [line for line in seen.lines if line.get("trace_id") == span["trace_id"]]
        assert [line["event"] for line in own] == ["arrived", "handling", "worked"]
        arrived, *rest = own
        assert (arrived["of"], arrived.get("order")) == (order, None)
        assert arrived.get("user_id") == (None if order == user else user)
        assert {(line["user_id"], line["order"]) for line in rest} == {(user, order)}
        serially = 1 if shape == "task_each" else int(order[-1]) + 1
        least = DELAY_S * serially
        assert max(least - late_s, DELAY_S) - 0.02 <= span["duration_s"] < least + late_s
        if shape != "worker":  # its queue is the application's; and one shape reads one ahead
            assert found["queue.wait_s"] == pytest.approx(least - DELAY_S, abs=late_s + DELAY_S)
    for event in ("joined", "left"):
        lines = [line for line in seen.lines if line["event"] == event]
        assert len(lines) == clients
        assert {line["trace_id"] for line in lines} == set(handshakes)
        assert all("order" not in line for line in lines)


@pytest.mark.parametrize("server", SERVERS)
def test_a_message_lasts_until_the_next_one_is_asked_for(server: str) -> None:
    """Also where its handler works on after its answer, and says nothing."""

    async def talk(receive: Any, send: Any) -> None:
        await send({"type": "websocket.accept"})
        for _ in range(2):
            await receive()
            await send({"type": "websocket.send", "text": "answer"})
            await asyncio.sleep(0.05)
        await receive()

    with serving(asgi_app(talk), server) as seen, seen.connect("/") as client:
        client.send("a")
        client.send("b")
        assert [client.recv(), client.recv()] == ["answer", "answer"]
        first, second = seen.wait_for("message", 2)  # while the socket is open
    assert min(first["duration_s"], second["duration_s"]) >= 0.05
    assert attributes(second)["queue.wait_s"] >= 0.03


@pytest.mark.parametrize("server", SERVERS)
def test_an_event_of_another_source_is_none_of_the_message_before(
    server: str, held_briefly: None
) -> None:
    """As in a chat of Django Channels, which asks for both at once: nor does it hold that open."""

    async def talk(receive: Any, send: Any) -> None:
        await send({"type": "websocket.accept"})
        bind_context(user_id="ada")
        receiving = asyncio.create_task(receive())
        event = await receiving
        assert event["type"] == "websocket.receive"
        bind_context(order=event["text"])
        await send({"type": "websocket.send", "text": "answer"})
        other = asyncio.create_task(asyncio.sleep(0.01))
        receiving = asyncio.create_task(receive())
        await asyncio.wait({receiving, other}, return_when=asyncio.FIRST_COMPLETED)
        log.info("delivering")
        await send({"type": "websocket.send", "text": "another's"})
        assert (await receiving)["type"] == "websocket.disconnect"

    with serving(asgi_app(talk), server) as seen, seen.connect("/") as client:
        client.send("a")
        assert [client.recv(), client.recv()] == ["answer", "another's"]
        (message,) = seen.wait_for("message")  # while the socket is open
    assert attributes(message)["order"] == "a"
    line = seen.line("delivering")
    assert (line["trace_id"], line["user_id"]) == (seen.named("WS")[0]["trace_id"], "ada")
    assert "order" not in line


def test_what_may_be_of_one_message_or_another_is_nobodys() -> None:
    """A renewed receive is a function of the application's: when it is looked at is not seen."""

    async def talk(receive: Any, send: Any) -> None:
        await send({"type": "websocket.accept"})

        async def text() -> Any:
            return (await receive()).get("text")

        receiving = asyncio.create_task(text())
        while (user := await receiving) is not None:
            receiving = asyncio.create_task(text())
            log.info("arrived", of=user)
            bind_context(user_id=user)
            await asyncio.sleep(0.03)  # the next one comes meanwhile
            log.info("worked", of=user)
            await send({"type": "websocket.send", "text": user})
        log.info("left")

    with serving(asgi_app(talk)) as seen:
        with seen.connect("/") as client:
            for user in ("ann", "bob", "cy"):
                client.send(user)
            assert [client.recv() for _ in range(3)] == ["ann", "bob", "cy"]
        (end,) = seen.wait_for("disconnect")
    lines = [line for line in seen.lines if "of" in line]
    assert {line.get("user_id", line["of"]) == line["of"] for line in lines} == {True}
    users = {span["trace_id"]: attributes(span).get("user_id") for span in seen.named("message")}
    for line in lines:
        assert users.get(line["trace_id"]) in (None, line["of"])
    left = seen.line("left")
    assert (left["trace_id"], left.get("user_id")) == (end["trace_id"], None)


@pytest.mark.parametrize("first", [False, True])
def test_what_is_taken_in_a_way_that_is_not_known_is_nobodys(first: bool) -> None:
    async def talk(receive: Any, send: Any) -> None:
        await send({"type": "websocket.accept"})

        async def answer(user: str) -> None:
            log.info("arrived", of=user)
            bind_context(user_id=user)
            await asyncio.sleep(0.01)
            log.info("worked", of=user)
            await send({"type": "websocket.send", "text": user})

        if first:
            await answer((await receive())["text"])
        while True:
            (taken,) = asyncio.as_completed([asyncio.create_task(receive())])
            event = await taken
            if event["type"] == "websocket.disconnect":
                break
            await answer(event["text"])
        log.info("left")

    with serving(asgi_app(talk)) as seen:
        with seen.connect("/") as client:
            for user in ("ann", "bob", "cy"):
                client.send(user)
            assert [client.recv() for _ in range(3)] == ["ann", "bob", "cy"]
        seen.wait_for("disconnect")
    lines = [line for line in seen.lines if "of" in line]
    wrong = [line for line in lines if line.get("user_id") not in (None, line["of"])]
    assert (len(lines), wrong) == (6, [])
    assert "user_id" not in seen.line("left")


def test_a_message_that_comes_while_the_application_prepares_leaves_its_user_to_all() -> None:
    async def talk(receive: Any, send: Any) -> None:
        await send({"type": "websocket.accept"})

        async def text() -> Any:
            return (await receive()).get("text")

        receiving = asyncio.create_task(text())
        while not receiving.done():
            await asyncio.sleep(0.001)  # asks a database, say
        bind_context(user_id="ada")
        while (text_ := await receiving) is not None:
            await send({"type": "websocket.send", "text": text_})
            receiving = asyncio.create_task(text())

    with serving(asgi_app(talk)) as seen:
        with seen.connect("/") as client:
            for each_ in "abc":
                client.send(each_)
                assert client.recv() == each_
        seen.wait_for("disconnect")
    (_, *others) = seen.named("message")
    assert [attributes(span)["user_id"] for span in others] == ["ada"] * len(others)
    assert others


def test_a_task_in_the_context_of_another_receives_for_it() -> None:
    async def talk(receive: Any, send: Any) -> None:
        await send({"type": "websocket.accept"})
        context = copy_context()

        async def session() -> None:
            for _ in range(2):
                event = await asyncio.create_task(receive(), context=context)
                log.info("got", text=event["text"])
                await send({"type": "websocket.send", "text": event["text"]})

        await asyncio.create_task(session(), context=context)

    with serving(asgi_app(talk)) as seen:
        with seen.connect("/") as client:
            for text in "ab":
                client.send(text)
                assert client.recv() == text
        seen.wait_for("disconnect")
    lines = [line for line in seen.lines if line["event"] == "got"]
    assert [line["trace_id"] for line in lines] == [s["trace_id"] for s in seen.named("message")]


def test_a_middleware_of_the_applications_own_may_receive_for_it() -> None:
    inner = app_of(Starlette)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        async def passing() -> Any:
            return await receive()

        await inner(scope, passing, send)

    with serving(app) as seen:
        with seen.connect("/ws/renewed?user=each") as client:
            for text in ("each-1", "each-2"):
                client.send(text)
                assert client.recv() == text
        messages = seen.wait_for("message", 2)
    assert [attributes(span)["user_id"] for span in messages] == ["each-1", "each-2"]


def test_a_time_out_does_not_hold_what_is_answered() -> None:
    async def talk(receive: Any, send: Any) -> None:
        await send({"type": "websocket.accept"})
        text: str | None = ""
        while text is not None:
            receiving = asyncio.create_task(receive())
            await asyncio.wait({receiving}, timeout=60)
            text = receiving.result().get("text")
            await send({"type": "websocket.send", "text": text or ""})

    with serving(asgi_app(talk)) as seen, seen.connect("/") as client:
        for text in "ab":
            client.send(text)
            assert client.recv() == text
        began_s = time.monotonic()
        seen.wait_for("message", 2)  # while the socket is open
        assert time.monotonic() - began_s < HELD_S


def test_what_was_handed_over_and_is_done_holds_no_message() -> None:
    """Though a worker still has it, until the next one comes."""

    async def talk(receive: Any, send: Any) -> None:
        queue: asyncio.Queue[Any] = asyncio.Queue()

        async def work() -> None:
            while True:
                handed = await queue.get()
                with taking(handed, name="take"):
                    await send({"type": "websocket.send", "text": "done"})

        with detached():
            working = asyncio.create_task(work())
        await send({"type": "websocket.accept"})
        while "text" in (event := await receive()):
            queue.put_nowait(handoff(event))
        working.cancel()

    with serving(asgi_app(talk)) as seen, seen.connect("/") as client:
        began_s = time.monotonic()
        client.send("work")
        assert client.recv() == "done"
        seen.wait_for("message", 1)  # while the socket is open
        assert time.monotonic() - began_s < HELD_S


def test_a_task_of_the_applications_that_is_silent_for_long_works_on_its_message(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As one that waits for a model's answer; a keeper of a library's works on none."""
    monkeypatch.setattr(connection, "HELD_S", 0.1)
    with serving(app_of(Starlette)) as seen, seen.connect("/ws/task_each?user=ann") as client:
        client.send(json.dumps(["ann", 1, 1.2]))
        client.send(json.dumps(["ann", 2, 0]))
        assert [json.loads(client.recv())[1] for _ in range(2)] == [2, 1]
        spans = {attributes(s)["order"]: s["duration_s"] for s in seen.wait_for("message", 2)}
    assert max(spans.values()) >= 1.2
    assert len(spans) == 2


def _by_carry(work: Any) -> tuple[Any, Any]:
    queue: asyncio.Queue[Any] = asyncio.Queue()

    async def take() -> None:
        await (await queue.get())()

    return lambda n: queue.put_nowait(partial(carry(work), n)), take


def _by_handoff(work: Any) -> tuple[Any, Any]:
    queue: asyncio.Queue[Any] = asyncio.Queue()

    async def take() -> None:
        handed = await queue.get()
        with taking(handed, name="take"):
            await work(handed.item)

    return lambda n: queue.put_nowait(handoff(n)), take


def _by_a_pool(work: Any) -> tuple[Any, Any]:
    pool = ThreadPoolExecutor(1)
    return lambda n: pool.submit(asyncio.run, work(n)), lambda: asyncio.sleep(60)


@pytest.mark.parametrize("by", [_by_carry, _by_handoff, _by_a_pool])
def test_a_message_whose_work_waits_in_a_queue_of_the_applications_is_not_over(
    by: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is late when the work before it took long. Its end is seen when its work is done."""
    monkeypatch.setattr(connection, "HELD_S", 0.05)
    monkeypatch.setattr(connection, "_SWEEP_S", 0.02)

    async def work(n: int) -> None:
        await asyncio.sleep(0.4 if n == 0 else 0)
        log.info("worked", n=n)

    async def talk(receive: Any, send: Any) -> None:
        put, take = by(work)
        await send({"type": "websocket.accept"})

        async def work_for_ever() -> None:
            while True:
                await take()

        working = asyncio.create_task(work_for_ever())
        for n in range(3):
            await receive()
            put(n)
        await send({"type": "websocket.send", "text": "taken"})
        await receive()
        working.cancel()

    with serving(asgi_app(talk)) as seen, seen.connect("/") as client:
        for _ in range(3):
            client.send("work")
        messages = {each["trace_id"]: each for each in seen.wait_for("message", 3)}
        worked = {line["n"]: line for line in seen.lines if line["event"] == "worked"}
    assert {line["trace_id"] for line in worked.values()} == set(messages)
    assert all(each["duration_s"] >= 0.35 for each in messages.values())


def test_news_between_two_messages_are_of_none_though_the_next_receive_waits() -> None:
    async def talk(receive: Any, send: Any) -> None:
        await send({"type": "websocket.accept"})
        receiving = asyncio.create_task(receive())
        assert (await receiving)["type"] == "websocket.receive"
        receiving = asyncio.create_task(receive())
        bind_context(user_id="ann")
        await asyncio.sleep(0.01)
        await send({"type": "websocket.send", "text": "answer"})
        await asyncio.wait({receiving}, timeout=0.05)
        log.info("delivering")
        await send({"type": "websocket.send", "text": "news"})
        await receiving

    with serving(asgi_app(talk)) as seen, seen.connect("/") as client:
        client.send("a")
        assert [client.recv(), client.recv()] == ["answer", "news"]
        (message,) = seen.wait_for("message")  # while the socket is open
    assert attributes(message)["user_id"] == "ann"
    line = seen.line("delivering")
    assert (line["trace_id"], line.get("user_id")) == (seen.named("WS")[0]["trace_id"], None)


@pytest.mark.parametrize("server", WEBSOCKETS)
def test_a_chat_of_fastapis_documentation(server: str) -> None:
    """Whoever leaves tells those that have left as well: the server logs the failure."""
    app, connections = FastAPI(), list[WebSocket]()

    @app.websocket("/ws/{client_id}")
    async def endpoint(websocket: WebSocket, client_id: int) -> None:
        await websocket.accept()
        connections.append(websocket)
        try:
            while True:
                text = await websocket.receive_text()
                log.info("got", text=text)
                for each in connections:
                    await each.send_text(f"Client #{client_id} says: {text}")
        except WebSocketDisconnect:
            for each in connections:  # itself among them
                await each.send_text(f"Client #{client_id} left the chat")

    with serving(app, server) as seen:
        with seen.connect("/ws/7") as client:
            client.send("hello")
            assert client.recv() == "Client #7 says: hello"
        (end,) = seen.wait_for("disconnect")
    (failure,) = [line for line in seen.lines if "exception" in line]
    assert failure["trace_id"] == end["trace_id"] != seen.line("got")["trace_id"]


def asgi_app(talk: Callable[[Any, Any], Any]) -> Any:
    """Return a plain application, with no framework."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            while (await receive())["type"] != "lifespan.shutdown":
                await send({"type": "lifespan.startup.complete"})
            await send({"type": "lifespan.shutdown.complete"})
        elif scope["type"] == "websocket":
            assert (await receive())["type"] == "websocket.connect"
            await talk(receive, send)

    return app


@pytest.mark.parametrize("server", SERVERS)
def test_a_message_that_did_nothing_is_counted_and_leaves_no_span(
    server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In thirty times as long as usual, for a busy machine's sake."""
    monkeypatch.setattr(asgi_message, "SILENT_NS", 30 * asgi_message.SILENT_NS)

    async def talk(receive: Any, send: Any) -> None:
        await send({"type": "websocket.accept"})
        while (event := await receive())["type"] == "websocket.receive":
            if event.get("text") == "log":
                log.info("logged")
            elif event.get("text") == "stage":
                with traced("stage"):
                    pass
            elif event.get("text") == "send":
                await send({"type": "websocket.send", "text": "answer"})
            elif event.get("text") == "slow":
                await asyncio.sleep(0.31)

    with serving(asgi_app(talk), server) as seen:
        with seen.connect("/") as client:
            for text in ("nothing", "log", "nothing", "stage", "send", "slow", "nothing"):
                client.send(text)
            assert client.recv() == "answer"
            client.close(4001, "enough")
        (end,) = seen.wait_for("disconnect")
    assert len(seen.named("message")) == 4
    found = attributes(end)
    assert (found["websocket.messages"], found["websocket.messages_quiet"]) == (7, 3)
    if server != "hypercorn":  # which may say 1006, and no reason
        assert found["websocket.close_code"] == 4001
        told = (
            None if uvicorn.__version__.startswith("0.29.") else "enough"
        )  # the oldest: no reason
        assert found.get("websocket.close_reason") == told


@pytest.mark.parametrize("apart", [False, True], ids=["itself", "in a task"])
@pytest.mark.parametrize("server", SERVERS)
def test_a_failing_message_fails_and_so_does_its_connection(server: str, apart: bool) -> None:
    """The server's line about it is the message's, and its user's."""

    async def talk(receive: Any, send: Any) -> None:
        await send({"type": "websocket.accept"})

        async def text() -> Any:
            return (await receive())["text"]

        assert await (asyncio.create_task(text()) if apart else text()) == "x"
        bind_context(user_id="alice")
        log.info("handled")
        raise ValueError("no such room")

    with serving(asgi_app(talk), server) as seen:
        with seen.connect("/") as client:
            client.send("x")
            with pytest.raises(ConnectionClosed):
                client.recv()
        (end,) = seen.wait_for("disconnect")
        (message,) = seen.wait_for("message")
    assert (message["status"], end["status"]) == ("error", "error")
    assert end["parent_span_id"] == seen.named("WS")[0]["span_id"]
    assert "exception" in [event["name"] for event in message["events"]]
    (line,) = [line for line in seen.lines if "ValueError" in line.get("exception", "")]
    assert (line["trace_id"], line["user_id"]) == (message["trace_id"], "alice")


@pytest.mark.parametrize("server", SERVERS)
def test_a_reader_that_asks_before_the_connection_is_accepted_has_each_message_in_order(
    server: str,
) -> None:
    async def talk(receive: Any, send: Any) -> None:
        events: asyncio.Queue[Any] = asyncio.Queue()

        async def read() -> None:
            while True:
                event = await receive()
                is_last = event["type"] == "websocket.disconnect"
                events.put_nowait((event, carry(log.info)))
                if is_last:
                    return

        reading = asyncio.create_task(read())
        await asyncio.sleep(0.01)  # it waits, before
        await send({"type": "websocket.accept"})
        while (got := await events.get())[0]["type"] == "websocket.receive":
            got[1]("got", text=got[0]["text"])
            await send({"type": "websocket.send", "text": got[0]["text"]})
        await reading

    with serving(asgi_app(talk), server) as seen:
        with seen.connect("/") as client:
            for text in ("a", "b", "c"):
                client.send(text)
            assert [client.recv() for _ in range(3)] == ["a", "b", "c"]
        messages = seen.wait_for("message", 3)
    traces = [line["trace_id"] for line in seen.lines if line["event"] == "got"]
    assert traces == [span["trace_id"] for span in messages]


@pytest.mark.parametrize("server", [each for each in SERVERS if each != "websockets"])
def test_of_two_that_ask_at_once_the_first_has_the_first_message(server: str) -> None:
    async def talk(receive: Any, send: Any) -> None:
        await send({"type": "websocket.accept"})
        first, second = await asyncio.gather(receive(), receive())
        await send({"type": "websocket.send", "text": first["text"] + second["text"]})

    with serving(asgi_app(talk), server) as seen, seen.connect("/") as client:
        client.send("1")
        client.send("2")
        assert client.recv() == "12"


def test_a_client_that_goes_before_it_is_accepted_leaves_a_handshake_alone() -> None:
    async def talk(receive: Any, _: Any) -> None:
        assert (await receive())["type"] == "websocket.disconnect"

    with serving(asgi_app(talk)) as seen:
        with socket.create_connection(("127.0.0.1", seen.port)) as client:
            headers = "Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Version: 13"
            key = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="
            asked = ("GET / HTTP/1.1", "Host: shop", *headers, key, "", "")
            client.sendall("\r\n".join(asked).encode())
            time.sleep(0.05)  # the application asks
        seen.wait_for("WS")
    assert [span["name"] for span in seen.captured.spans] == ["WS"]


def test_what_is_sent_before_any_message_is_of_the_handshake() -> None:
    async def talk(receive: Any, send: Any) -> None:
        await send({"type": "websocket.accept"})
        await send({"type": "websocket.send", "text": "welcome"})
        log.info("welcomed")
        await receive()

    with serving(asgi_app(talk)) as seen:
        with seen.connect("/") as client:
            assert client.recv() == "welcome"
        (span,) = seen.wait_for("WS")
    assert seen.line("welcomed")["trace_id"] == span["trace_id"]
    assert seen.named("message") == []


@pytest.mark.parametrize("server", SERVERS)
def test_a_refused_handshake_is_one_span(server: str) -> None:
    async def talk(receive: Any, send: Any) -> None:
        log.info("refused")
        await send({"type": "websocket.close", "code": 1008})

    with serving(asgi_app(talk), server) as seen:
        with pytest.raises(InvalidStatus), seen.connect("/"):
            pass
        (span,) = seen.wait_for("WS")
    assert attributes(span)["http.response.status_code"] == 403
    assert [s["name"] for s in seen.captured.spans] == ["WS"]
    assert seen.line("refused")["trace_id"] == span["trace_id"]


@pytest.mark.parametrize("server", SERVERS)
@pytest.mark.parametrize("error", [ValueError("no such room"), None])
def test_what_a_server_says_of_a_handshake_that_has_failed_is_of_it(
    server: str, error: Exception | None
) -> None:
    """The application has raised, or returned, before it accepted: its server answers with 500."""

    async def talk(_: Any, __: Any) -> None:
        if error is not None:
            raise error

    with serving(asgi_app(talk), server) as seen:
        # the oldest uvicorn closes
        refused = pytest.raises((InvalidStatus, ConnectionError), match=r"500|closed")
        with refused, seen.connect("/"):
            pass
        (span,) = seen.wait_for("WS")
    about = re.compile("ASGI|rejected|GET /|^connection ")  # else of the server
    told = [line for line in seen.lines if about.search(line["event"])]
    assert {line.get("trace_id") for line in told if "lifespan" not in line["event"]} == {
        span["trace_id"]
    }


@pytest.mark.parametrize("server", SERVERS)
def test_a_send_to_a_client_that_has_gone_fails_as_it_does_without_us(server: str) -> None:
    """The reading ahead has seen the end, of which the application was not told yet."""
    seen_errors: list[str] = []
    gone = threading.Event()

    async def talk(receive: Any, send: Any) -> None:
        await send({"type": "websocket.accept"})
        await receive()
        while not gone.is_set():
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.2)
        try:
            for _ in range(3):
                await send({"type": "websocket.send", "text": "x"})
        except Exception as error:
            seen_errors.append(type(error).__name__ if isinstance(error, OSError) else repr(error))
        event = await receive()
        seen_errors.append(event["type"])

    def errors(**settings: Any) -> list[str]:
        seen_errors.clear()
        gone.clear()
        with serving(asgi_app(talk), server, **settings) as seen:
            with seen.connect("/") as client:
                client.send("x")
            gone.set()
            deadline = time.monotonic() + 20
            while "websocket.disconnect" not in seen_errors and time.monotonic() < deadline:
                time.sleep(0.01)
        return list(seen_errors)

    assert errors() == errors(instrument=())


@pytest.mark.parametrize("server", WEBSOCKETS)
def test_no_more_is_read_ahead_than_the_bound(server: str) -> None:
    """A client that is not read from is stopped by its own buffers, as without us."""
    proceed = threading.Event()
    got: list[int] = []

    async def talk(receive: Any, send: Any) -> None:
        await send({"type": "websocket.accept"})
        while not proceed.is_set():
            await asyncio.sleep(0.01)
        while (event := await receive())["type"] == "websocket.receive":
            got.append(len(event["bytes"]))

    with serving(asgi_app(talk), server) as seen:
        with seen.connect("/", compression=None) as client:
            client.socket.settimeout(0.5)
            sent = 0
            try:
                for _ in range(100):
                    client.send(b"x" * 500_000)
                    sent += 1
            except (TimeoutError, ConnectionClosed):
                pass
            assert sent < 60  # beside the buffers of the two sockets
            proceed.set()
        seen.wait_for("disconnect")


@pytest.mark.parametrize("server", WEBSOCKETS)
def test_a_message_that_the_end_of_uvicorn_cuts_off_is_there_when_it_has_ended(server: str) -> None:
    """Its process may be ended by a signal then."""
    is_cut_off = False

    async def talk(receive: Any, send: Any) -> None:
        nonlocal is_cut_off
        await send({"type": "websocket.accept"})
        await receive()
        log.info("begun")
        try:
            await asyncio.sleep(60)
        finally:
            for _ in range(10):  # it has something left to do
                await asyncio.sleep(0)
            is_cut_off = True

    with capture(log_level="info") as captured, setup_observability("shop"):
        app = asgi_app(talk)
        with running(app, server, timeout_graceful_shutdown=0) as port:
            seen = Seen(captured, port)
            with seen.connect("/") as client:
                client.send("hello")
                while "begun" not in [line["event"] for line in seen.lines]:
                    time.sleep(0.01)
        assert is_cut_off
    assert captured.span("message")["attributes"]["cancelled"] is True


@pytest.mark.parametrize("text", ["x" * 400_000, "\U0001f600" * 100_000])
def test_the_bound_of_what_is_read_ahead_is_one_of_bytes(text: str) -> None:
    """Four a character, at most."""
    asked: list[int] = []

    async def app(_: Any, __: Any, send: Any) -> None:
        await send({"type": "websocket.accept"})
        for _ in range(100):
            await asyncio.sleep(0)

    async def receive() -> Any:
        asked.append(1)
        return {"type": "websocket.receive", "text": text}

    async def send(_: Any) -> None:
        pass

    scope = {"type": "websocket", "path": "/", "headers": []}
    with capture(), setup_observability("shop"):
        asyncio.run(ObservabilityMiddleware(app)(scope, receive, send))
    assert len(asked) == 3


def test_messages_of_ten_megabytes_pass_as_they_are() -> None:
    async def talk(receive: Any, send: Any) -> None:
        await send({"type": "websocket.accept"})
        while (event := await receive())["type"] == "websocket.receive":
            await send({"type": "websocket.send", "text": str(len(event["bytes"]))})

    with serving(asgi_app(talk)) as seen, seen.connect("/", max_size=None) as client:
        for _ in range(3):
            client.send(b"x" * 10_000_000)
        assert [client.recv() for _ in range(3)] == ["10000000"] * 3


def test_what_is_bound_between_messages_is_the_connection_s() -> None:
    async def talk(receive: Any, send: Any) -> None:
        await send({"type": "websocket.accept"})
        bind_context(user_id="ada")
        while (event := await receive())["type"] == "websocket.receive":
            bind_context(n=event["text"], user_id=f"as-{event['text']}")
            log.info("message")
            await send({"type": "websocket.send", "text": event["text"]})
        log.info("left")

    with serving(asgi_app(talk)) as seen:
        with seen.connect("/") as client:
            for n in "12":
                client.send(n)
                client.recv()
        seen.wait_for("disconnect")
    of_messages = [line for line in seen.lines if line["event"] == "message"]
    assert [(line["n"], line["user_id"]) for line in of_messages] == [("1", "as-1"), ("2", "as-2")]
    left = seen.line("left")
    assert left["user_id"] == "ada"
    assert "n" not in left


def test_who_signs_in_by_a_message_is_the_user_of_the_others() -> None:
    """A block that is opened for one message is the connection's until it is left."""

    async def talk(receive: Any, send: Any) -> None:
        await send({"type": "websocket.accept"})
        user = (await receive())["text"]
        bind_context(user_id=user)
        log.info("message")
        with bound_context(user_id=user):
            while (await receive())["type"] == "websocket.receive":
                log.info("message")

    with serving(asgi_app(talk)) as seen:
        for user in ("ann", "bob"):
            with seen.connect("/") as client:
                for text in (user, "hello", "hello"):
                    client.send(text)
            seen.wait_for("disconnect", 1 if user == "ann" else 2)
    users = [line.get("user_id") for line in seen.lines if line["event"] == "message"]
    assert users == ["ann"] * 3 + ["bob"] * 3


@pytest.mark.parametrize("server", SERVERS)
@pytest.mark.parametrize(
    "block", [detached, partial(bound_context, user_id="eve"), partial(traced, "query", root=True)]
)
def test_what_a_message_has_left_open_in_a_generator_ends_with_it(block: Any, server: str) -> None:
    async def rows() -> AsyncIterator[int]:
        with block():
            yield 1
            yield 2

    async def first() -> None:
        async for _ in rows():
            return

    async def talk(receive: Any, send: Any) -> None:
        await send({"type": "websocket.accept"})
        bind_context(user_id="ada")
        while (event := await receive())["type"] == "websocket.receive":
            log.info("message", of=event["text"])
            if event["text"] in "13":
                await first()
                await asyncio.sleep(0.001)
            await send({"type": "websocket.send", "text": event["text"]})
        log.info("left")

    with serving(asgi_app(talk), server) as seen:
        with seen.connect("/") as client:
            for n in "123":
                client.send(n)
                client.recv()
        seen.wait_for("disconnect")
    lines = [line for line in seen.lines if line["event"] in ("message", "left")]
    assert [line.get("user_id") for line in lines] == ["ada"] * 4
    assert len({line["trace_id"] for line in lines}) == 4
    (of_connection,), (of_end,) = seen.named("WS"), seen.named("disconnect")
    assert of_connection["trace_id"] == of_end["trace_id"] == lines[-1]["trace_id"]


def test_idle_time_is_no_latency(held_briefly: None) -> None:
    with serving(app_of(Starlette)) as seen, ExitStack() as clients:
        connected = [
            clients.enter_context(seen.connect(f"/ws/{shape}?user={shape}")) for shape in SHAPES
        ]
        latency_s = 0.0
        for pause_s in (0.5, 0):
            for client in connected:
                sent_s = time.monotonic()
                client.send(json.dumps("x"))
                client.recv()
                latency_s = max(latency_s, time.monotonic() - sent_s)
            time.sleep(pause_s)
        messages = seen.wait_for("message", 2 * len(SHAPES))
    assert max(span["duration_s"] for span in messages) < latency_s + 0.15


@pytest.mark.parametrize("texts", [("first",), ("first", "second")], ids=len)
def test_a_message_that_a_timer_holds_is_over_all_the_same(
    texts: tuple[str, ...], held_briefly: None
) -> None:
    """A connection of a pool, or a timer, has the context in which it was made, while it lives.

    One that came a moment later is not over yet then.
    """

    async def talk(receive: Any, send: Any) -> None:
        await send({"type": "websocket.accept"})
        while (event := await receive())["type"] == "websocket.receive":
            asyncio.get_running_loop().call_later(60, print)
            log.info("message")
            await send({"type": "websocket.send", "text": event["text"]})

    with serving(asgi_app(talk)) as seen, seen.connect("/") as client:
        for text in texts:
            client.send(text)
            assert client.recv() == text
            time.sleep(0.3)
        (span,) = seen.wait_for("message")
        assert span["duration_s"] < 0.5
    assert len(seen.wait_for("message", len(texts))) == len(texts)


async def pushed(queue: asyncio.Queue[str]) -> AsyncIterator[str]:
    while True:
        yield await queue.get()


async def items(queue: asyncio.Queue[str]) -> None:
    async for text in each(pushed(queue), "push"):
        log.info("pushed", text=text)


async def stages(queue: asyncio.Queue[str]) -> None:
    while True:
        text = await queue.get()
        with traced("push"):
            log.info("pushed", text=text)


async def lines(queue: asyncio.Queue[str]) -> None:
    while True:
        log.info("pushed", text=await queue.get())


@pytest.mark.parametrize("where", ["connection", "message", "message of an open connection"])
@pytest.mark.parametrize("listener", [items, stages, lines])
def test_a_listener_that_serves_everybody_is_reported_and_nobodys(
    listener: Any,
    where: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Wherever it was started: once the connection has ended that may have needed it, or the next
    message of that is asked for.
    """
    monkeypatch.setattr(background_tasks, "_reported", set())
    listening: list[asyncio.Task[None]] = []
    queue: asyncio.Queue[str] = asyncio.Queue()
    users = iter(("ann", "bob"))

    async def talk(receive: Any, send: Any) -> None:
        await send({"type": "websocket.accept"})
        bind_context(user_id=next(users))
        if not listening and where == "connection":
            listening.append(asyncio.create_task(listener(queue)))
        while (event := await receive())["type"] == "websocket.receive":
            if not listening:
                listening.append(asyncio.create_task(listener(queue)))
            queue.put_nowait(event["text"])
            await send({"type": "websocket.send", "text": "done"})

    with serving(asgi_app(talk)) as seen, seen.connect("/") as ann, seen.connect("/") as bob:

        def ann_goes() -> None:
            ann.close()
            seen.wait_for("disconnect")

        def bob_sends(times: int) -> None:
            for _ in range(times):
                bob.send("bob")
                assert bob.recv() == "done"

        if where != "connection":
            ann.send("ann")
            assert ann.recv() == "done"
        if "open" not in where:
            ann_goes()
        if where != "connection":
            seen.wait_for("message")
        bob_sends(3)
        if "open" in where:
            ann_goes()
        bob_sends(4)
        listening[0].get_loop().call_soon_threadsafe(listening[0].cancel)
    found = [line.get("user_id") for line in seen.lines if line.get("text") == "bob"]
    assert found == [None] * 7
    (report,) = capsys.readouterr().err.splitlines()
    start = "on a connection" if where == "connection" else "in 'message'"
    assert f"otel_logging: {listener.__name__}, a task that was started {start}, goes" in report
    assert "goes on after it without an end, at " in report
    assert " (test_websocket.py:" in report


def test_what_a_connection_pushes_is_in_its_trace(capsys: pytest.CaptureFixture[str]) -> None:
    """However often: it has not ended."""

    async def talk(_: Any, send: Any) -> None:
        await send({"type": "websocket.accept"})
        for text in "abcd":
            with traced("push"):
                log.info("pushed")
            log.info("between")
            await send({"type": "websocket.send", "text": text})

    with serving(asgi_app(talk)) as seen, seen.connect("/") as client:
        assert [client.recv() for _ in range(4)] == list("abcd")
        (handshake,) = seen.wait_for("WS")
    ours = [line for line in seen.lines if line["event"] in ("pushed", "between")]
    assert [line["trace_id"] for line in ours] == [handshake["trace_id"]] * 8
    assert not capsys.readouterr().err


def test_the_handshake_has_a_budget_of_its_own_and_so_have_messages() -> None:
    with serving(app_of(Starlette), budgets={"message": 0.01}) as seen:
        with seen.connect("/ws/serial?user=a") as client:
            client.send("x")
            client.recv()
        (span,) = seen.wait_for("message")
    assert attributes(span)["late"] is True
