"""A server made with the ``websockets`` library: a trace a message, with no line of its code."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import suppress
from http import HTTPStatus
from socket import create_connection
from typing import Any
from urllib.parse import urlsplit

import pytest
from websockets import version
from websockets.asyncio.client import connect
from websockets.asyncio.server import serve
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect as connect_sync

from otel_logging import bind_context, get_logger, setup_observability
from otel_logging.integrations import websockets as integration
from otel_logging.testing import Captured, capture

log = get_logger("chat")
all_sent = threading.Event()
IS_OLD = int(version.version.partition(".")[0]) < 14
PATIENCE_S = 8.0
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # the legacy one's


@pytest.fixture
def run() -> Iterator[Captured]:
    import websockets.legacy.server  # noqa: F401 - deprecated, and still used

    integration.instrument()
    integration.instrument()
    with capture() as captured:
        yield captured
    integration.uninstrument()


async def by_iteration(socket: Any) -> None:
    async for message in socket:
        await answer(socket, message)


async def by_recv(socket: Any) -> None:
    while True:
        await answer(socket, await socket.recv())


async def by_task(socket: Any) -> None:
    async with asyncio.TaskGroup() as tasks:
        async for message in socket:
            tasks.create_task(answer(socket, message))


async def by_wait_for(socket: Any) -> None:
    while True:
        with suppress(TimeoutError):
            await answer(socket, await asyncio.wait_for(socket.recv(), 0.005))


async def by_wait(socket: Any) -> None:
    other = asyncio.create_task(asyncio.sleep(60))
    while True:
        receiving = asyncio.create_task(socket.recv())
        await asyncio.wait({receiving, other}, return_when=asyncio.FIRST_COMPLETED)
        await answer(socket, receiving.result())


async def by_renewal(socket: Any) -> None:
    """The first by itself; then the next receive waits while one is handled."""
    await answer(socket, await socket.recv())
    receiving = asyncio.create_task(socket.recv())
    while True:
        message = await receiving
        receiving = asyncio.create_task(socket.recv())
        await answer(socket, message)


async def in_parts(socket: Any) -> None:
    while True:
        await answer(socket, "".join([part async for part in socket.recv_streaming()]))


async def answer(socket: Any, message: str) -> None:
    bind_context(user_id=message)
    log.info("got", wanted=message)
    if message == "slow":
        await asyncio.to_thread(all_sent.wait, PATIENCE_S)
    await asyncio.sleep(0.1 if message == "slow" else 0.01)
    await socket.send(message)


async def talk(make_server: Any, handler: Any, users: int, turns: int) -> None:
    async with make_server(handler, "127.0.0.1", 0) as server:
        port = next(iter(server.sockets)).getsockname()[1]

        async def client(number: int) -> None:
            async with connect(f"ws://127.0.0.1:{port}/room?token=x") as socket:
                for _ in range(turns):
                    await socket.send(f"u{number}")
                    assert await socket.recv() == f"u{number}"

        await asyncio.gather(*[client(number) for number in range(users)])


def with_client(make_server: Any, handler: Any, client: Any, **options: Any) -> None:
    """Call *client* with the URL, in a thread."""

    async def main() -> None:
        async with make_server(handler, "127.0.0.1", 0, **options) as server:
            port = next(iter(server.sockets)).getsockname()[1]
            await asyncio.to_thread(client, f"ws://127.0.0.1:{port}/room?token=x")

    asyncio.run(main())


def legacy(*args: Any) -> Any:
    from websockets.legacy.server import serve as serve_legacy

    return serve_legacy(*args)


@pytest.mark.parametrize("make_server", [serve, legacy])
@pytest.mark.parametrize(
    "handler", [by_iteration, by_recv, by_task, by_wait_for, by_wait, by_renewal, in_parts]
)
def test_each_message_is_a_trace_of_its_user(run: Captured, make_server: Any, handler: Any) -> None:
    if handler is in_parts and (make_server is legacy or IS_OLD):
        pytest.skip("it has no such method")
    asyncio.run(talk(make_server, handler, 5, 20))
    messages = [span for span in run.spans if span["name"] == "message"]
    handshakes = {span["span_id"] for span in run.spans if span["name"] == "WS"}
    assert (len(messages), len(handshakes)) == (100, 5)
    assert len({span["trace_id"] for span in messages}) == 100
    traces = {span["trace_id"]: span["attributes"]["user_id"] for span in messages}
    assert all(span["links"][0]["span_id"] in handshakes for span in messages)
    lines = [line for line in run.lines if line["event"] == "got"]
    assert all(line["user_id"] == line["wanted"] == traces[line["trace_id"]] for line in lines)
    assert messages[0]["attributes"]["url.path"] == "/room"
    assert all(span["duration_s"] >= 0.01 for span in messages)  # to what was sent last
    ends = [span for span in run.spans if span["name"] == "disconnect"]
    assert {span["parent_span_id"] for span in ends} == handshakes
    assert {span["attributes"]["websocket.close_code"] for span in ends} == {1000}


@pytest.mark.skipif(IS_OLD, reason="it has no such method")
def test_a_message_that_is_read_in_parts_lasts_from_its_first(run: Captured) -> None:
    def send(url: str) -> None:
        with connect_sync(url) as client:
            for _ in range(2):
                client.send(iter(["in ", "two ", "parts"]))
                assert client.recv() == "in two parts"

    with_client(serve, in_parts, send)
    messages = [span for span in run.spans if span["name"] == "message"]
    assert [span["attributes"]["user_id"] for span in messages] == ["in two parts"] * 2


@pytest.mark.parametrize("make_server", [serve, legacy])
def test_what_the_handler_does_around_its_messages_is_the_connections(
    run: Captured, make_server: Any
) -> None:
    """It leaves after one, and so does the message."""

    async def handler(socket: Any) -> None:
        log.info("joined")
        await answer(socket, await socket.recv())

    asyncio.run(talk(make_server, handler, 1, 1))
    handshake, message, end = run.span("WS"), run.span("message"), run.span("disconnect")
    assert run.line("joined")["trace_id"] == handshake["trace_id"] == end["trace_id"]
    assert run.line("got")["span_id"] == message["span_id"]
    assert message["duration_s"] < 1


def test_what_came_with_the_handshake_is_its_messages_too(run: Captured) -> None:
    def client(url: str) -> None:
        headers = {"baggage": "tenant=acme,other=x"}
        with connect_sync(url, additional_headers=headers) as socket:
            socket.send("u0")
            assert socket.recv() == "u0"

    with setup_observability("shop", propagate=("tenant",)):
        with_client(serve, by_iteration, client)
    assert run.line("got")["tenant"] == run.span("message")["attributes"]["tenant"] == "acme"


@pytest.mark.parametrize("make_server", [serve, legacy])
def test_a_wait_counts_from_when_a_message_came(run: Captured, make_server: Any) -> None:
    """Not from when its busy handler asked for it."""

    def client(url: str) -> None:
        with connect_sync(url, compression=None) as socket:
            for text in ("slow", "b", ["in ", "pieces"]):
                socket.send(text)
            all_sent.set()
            assert [socket.recv() for _ in range(3)] == ["slow", "b", "in pieces"]

    all_sent.clear()
    with_client(make_server, by_iteration, client)
    waits = [s["attributes"]["queue.wait_s"] for s in run.spans if s["name"] == "message"]
    assert waits[0] < 0.05 < min(waits[1:])


@pytest.mark.skipif(IS_OLD, reason="to refuse is an exception there")
def test_a_handshake_that_is_refused_has_its_status(run: Captured) -> None:
    """And no end: there was no connection. The library's documentation has a health check so."""

    def refuse(connection: Any, _: Any) -> Any:
        return connection.respond(HTTPStatus.OK, "OK")

    def client(url: str) -> None:
        netloc = urlsplit(url).netloc
        create_connection(netloc.split(":")).close()  # without a request
        for path in ("", "health"):
            with pytest.raises(InvalidStatus):
                connect_sync(f"ws://{netloc}/{path}")

    with_client(serve, by_iteration, client, process_request=refuse)
    assert run.span("WS")["attributes"]["http.response.status_code"] == 200
    assert len(run.spans) == 1


def test_a_handler_that_fails_is_an_error(run: Captured) -> None:
    async def handler(socket: Any) -> None:
        message = await socket.recv()
        bind_context(user_id=message)
        await socket.send(message)
        raise ValueError("no such room")

    asyncio.run(talk(serve, handler, 1, 1))
    message = run.span("message")
    assert (message["status"], run.span("disconnect")["status"]) == ("error", "error")
    (line,) = [line for line in run.lines if "ValueError" in line.get("exception", "")]
    assert (line["trace_id"], line["user_id"]) == (message["trace_id"], "u0")


def test_clients_are_left_alone(run: Captured) -> None:
    asyncio.run(talk(serve, by_iteration, 1, 1))
    assert sorted(span["name"] for span in run.spans) == ["WS", "disconnect", "message"]


def test_before_set_up_nothing_is_observed() -> None:
    integration.instrument()
    for make_server in (serve, legacy):
        asyncio.run(talk(make_server, by_iteration, 1, 1))
    integration.uninstrument()
    integration.uninstrument()
