"""A server made with the ``websockets`` library: a trace a message, with no line of its code."""

import asyncio
import inspect
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from http import HTTPStatus
from socket import create_connection
from typing import Any
from urllib.parse import urlsplit

import pytest
from websockets import version
from websockets.asyncio.client import connect
from websockets.asyncio.server import broadcast, serve
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.server import ServerProtocol
from websockets.sync.client import connect as connect_sync
from websockets.sync.server import serve as serve_in_threads

from otel_logging import bind_context, get_logger, setup_observability
from otel_logging.integrations import websockets as integration
from otel_logging.testing import Captured, capture

log = get_logger("chat")
all_sent = threading.Event()
IS_OLD = int(version.version.partition(".")[0]) < 14
LOGS_ITS_ANSWER = "connection open" in inspect.getsource(ServerProtocol.send_response)
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


def blocking_by_iteration(socket: Any) -> None:
    for message in socket:
        answer_blocking(socket, message)


def blocking_by_recv(socket: Any) -> None:
    with suppress(ConnectionClosed):
        while True:
            answer_blocking(socket, socket.recv())


def blocking_with_a_time_out(socket: Any) -> None:
    with suppress(ConnectionClosed):
        while True:
            with suppress(TimeoutError):
                answer_blocking(socket, socket.recv(timeout=0.005))


def answer_blocking(socket: Any, message: str) -> None:
    bind_context(user_id=message)
    log.info("got", wanted=message)
    if message == "slow":
        all_sent.wait(PATIENCE_S)
    time.sleep(0.1 if message == "slow" else 0.01)
    socket.send(message)


@contextmanager
def in_threads(handler: Any, **options: Any) -> Iterator[str]:
    before = set(threading.enumerate())
    with serve_in_threads(handler, "127.0.0.1", 0, **options) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"ws://127.0.0.1:{server.socket.getsockname()[1]}/room?token=x"
    for each in set(threading.enumerate()) - before:  # an older one does not wait for its handlers
        each.join(PATIENCE_S)


def talk_to_threads(handler: Any, users: int, turns: int) -> None:
    def client(number: int) -> None:
        with connect_sync(url) as socket:
            for _ in range(turns):
                socket.send(f"u{number}")
                assert socket.recv() == f"u{number}"

    with in_threads(handler) as url, ThreadPoolExecutor(users) as pool:
        list(pool.map(client, range(users)))


def legacy(*args: Any) -> Any:
    from websockets.legacy.server import serve as serve_legacy

    return serve_legacy(*args)


@pytest.mark.parametrize("make_server", [serve, legacy])
@pytest.mark.parametrize(
    "handler", [by_iteration, by_recv, by_task, by_wait_for, by_wait, by_renewal]
)
def test_each_message_is_a_trace_of_its_user(run: Captured, make_server: Any, handler: Any) -> None:
    asyncio.run(talk(make_server, handler, 5, 8))
    check_five_users(run)


@pytest.mark.parametrize(
    "handler", [blocking_by_iteration, blocking_by_recv, blocking_with_a_time_out]
)
def test_each_message_of_a_thread_is_a_trace_of_its_user(run: Captured, handler: Any) -> None:
    talk_to_threads(handler, 5, 8)
    check_five_users(run)


def check_five_users(run: Captured) -> None:
    messages = [span for span in run.spans if span["name"] == "message"]
    handshakes = {span["span_id"] for span in run.spans if span["name"] == "WS"}
    assert (len(messages), len(handshakes)) == (40, 5)
    assert len({span["trace_id"] for span in messages}) == 40
    traces = {span["trace_id"]: span["attributes"]["user_id"] for span in messages}
    assert all(span["links"][0]["span_id"] in handshakes for span in messages)
    lines = [line for line in run.lines if line["event"] == "got"]
    assert all(line["user_id"] == line["wanted"] == traces[line["trace_id"]] for line in lines)
    assert messages[0]["attributes"]["url.path"] == "/room"
    assert all(span["duration_s"] >= 0.01 for span in messages)  # to what was sent last
    ends = [span for span in run.spans if span["name"] == "disconnect"]
    assert {span["parent_span_id"] for span in ends} == handshakes
    assert {span["attributes"]["websocket.close_code"] for span in ends} == {1000}


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
    with (
        setup_observability("shop", propagate=("tenant",)),
        in_threads(blocking_by_iteration) as url,
        connect_sync(url, additional_headers={"baggage": "tenant=acme,other=x"}) as socket,
    ):
        socket.send("u0")
        assert socket.recv() == "u0"
    assert run.line("got")["tenant"] == run.span("message")["attributes"]["tenant"] == "acme"


@pytest.mark.parametrize("make_server", [serve, legacy])
def test_a_header_may_be_of_any_bytes(run: Captured, make_server: Any) -> None:
    """The libraries decode them each in a way of its own."""

    def client(port: int) -> bytes:
        with create_connection(("127.0.0.1", port)) as connection:
            connection.settimeout(PATIENCE_S)
            connection.sendall(
                b"GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
                b"User-Agent: J\xf6rg\r\n\r\n"
            )
            return connection.recv(12)

    async def main() -> bytes:
        async with make_server(by_iteration, "127.0.0.1", 0) as server:
            port = next(iter(server.sockets)).getsockname()[1]
            return await asyncio.to_thread(client, port)

    assert asyncio.run(main()) == b"HTTP/1.1 101"
    assert run.span("WS")["attributes"]["user_agent.original"] == "J\xf6rg"


@pytest.mark.parametrize("kind", ["asyncio", "legacy", "threads"])
def test_a_wait_counts_from_when_a_message_came(run: Captured, kind: str) -> None:
    """Not from when its busy handler asked for it."""

    def client(url: str) -> None:
        with connect_sync(url, compression=None) as socket:
            for text in ("slow", "b", ["in ", "pieces"]):
                socket.send(text)
            all_sent.set()
            assert [socket.recv() for _ in range(3)] == ["slow", "b", "in pieces"]

    async def main(make_server: Any) -> None:
        async with make_server(by_iteration, "127.0.0.1", 0) as server:
            port = next(iter(server.sockets)).getsockname()[1]
            await asyncio.to_thread(client, f"ws://127.0.0.1:{port}/")

    all_sent.clear()
    if kind == "threads":
        with in_threads(blocking_by_iteration) as url:
            client(url)
    else:
        asyncio.run(main(serve if kind == "asyncio" else legacy))
    waits = [s["attributes"]["queue.wait_s"] for s in run.spans if s["name"] == "message"]
    assert waits[0] < 0.05 < waits[1]
    assert waits[2] > 0.05 or IS_OLD  # whose server in threads reads no more than one ahead


@pytest.mark.skipif(IS_OLD, reason="to refuse is an exception there")
@pytest.mark.parametrize("in_thread", [False, True])
def test_a_handshake_that_is_refused_has_its_status(run: Captured, in_thread: bool) -> None:
    """And no end: there was no connection. The library's documentation has a health check so."""

    def refuse(connection: Any, _: Any) -> Any:
        return connection.respond(HTTPStatus.OK, "OK")

    def client(url: str) -> None:
        netloc = urlsplit(url).netloc
        create_connection(netloc.split(":")).close()  # without a request
        for path in ("", "health"):
            with pytest.raises(InvalidStatus):
                connect_sync(f"ws://{netloc}/{path}")

    async def main() -> None:
        async with serve(by_iteration, "127.0.0.1", 0, process_request=refuse) as server:
            port = next(iter(server.sockets)).getsockname()[1]
            await asyncio.to_thread(client, f"ws://127.0.0.1:{port}/")

    if in_thread:
        with in_threads(by_iteration, process_request=refuse) as url:
            client(url)
    else:
        asyncio.run(main())
    assert run.span("WS")["attributes"]["http.response.status_code"] == 200
    assert len(run.spans) == 1


@pytest.mark.parametrize("kind", ["asyncio", "legacy", "threads"])
def test_a_handler_that_fails_is_an_error(
    run: Captured, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "websockets.server")

    async def handler(socket: Any) -> None:
        bind_context(tenant="acme")
        message = await socket.recv()
        bind_context(user_id=message)
        await socket.send(message)
        raise ValueError("no such room")

    def blocking(socket: Any) -> None:
        bind_context(tenant="acme")
        answer_blocking(socket, socket.recv())
        raise ValueError("no such room")

    if kind == "threads":
        talk_to_threads(blocking, 1, 1)
    else:
        asyncio.run(talk(serve if kind == "asyncio" else legacy, handler, 1, 1))
    message, end = run.span("message"), run.span("disconnect")
    assert (message["status"], end["status"]) == ("error", "error")
    (line,) = [line for line in run.lines if "ValueError" in line.get("exception", "")]
    assert (line["trace_id"], line["user_id"]) == (message["trace_id"], "u0")
    if kind != "legacy" and not LOGS_ITS_ANSWER:
        return  # there the client may close first, too
    assert end["attributes"]["websocket.close_code"] == 1011
    assert "exception" in [event["name"] for event in message["events"]]
    closed = run.line("connection closed")
    assert (closed.get("trace_id"), closed.get("tenant")) == (end["trace_id"], "acme")


@pytest.mark.parametrize("make_server", [serve, legacy])
def test_what_is_sent_to_many_at_once_is_sent_for_its_message(
    run: Captured, make_server: Any
) -> None:
    """The library's own function writes by none of its methods that send."""
    from websockets.legacy.protocol import broadcast as broadcast_legacy

    async def handler(socket: Any) -> None:
        async for message in socket:
            (broadcast if make_server is serve else broadcast_legacy)({socket}, message)

    asyncio.run(talk(make_server, handler, 1, 3))
    assert [span["name"] for span in run.spans].count("message") == 3
    assert run.span("disconnect")["attributes"]["websocket.messages_quiet"] == 0


def greet(url: str) -> None:
    """Say hello and goodbye, then ask for a page."""
    with connect_sync(url) as socket:
        socket.send("ann")
        assert socket.recv() == "ann"
    with create_connection((urlsplit(url).hostname, urlsplit(url).port)) as connection:
        connection.sendall(b"GET /page HTTP/1.1\r\nHost: a\r\n\r\n")
        while connection.recv(1000):
            pass


@pytest.mark.parametrize("kind", ["asyncio", "legacy", "threads"])
def test_the_librarys_own_lines_are_their_connections(
    run: Captured, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    if kind != "legacy" and not LOGS_ITS_ANSWER:
        pytest.skip("it logs before it knows its answer, and nothing of a connection's end")
    caplog.set_level("INFO", "websockets.server")

    async def handler(socket: Any) -> None:
        bind_context(user_id="ann")
        await by_recv(socket)  # until the connection is closed, which raises

    def blocking(socket: Any) -> None:
        bind_context(user_id="ann")
        blocking_by_recv(socket)

    async def main(make_server: Any) -> None:
        async with make_server(handler, "127.0.0.1", 0) as server:
            port = next(iter(server.sockets)).getsockname()[1]
            await asyncio.to_thread(greet, f"ws://127.0.0.1:{port}/")

    if kind == "threads":
        with in_threads(blocking) as url:
            greet(url)
    else:
        asyncio.run(main(serve if kind == "asyncio" else legacy))
    spans = {
        span["attributes"]["http.response.status_code"]: span["trace_id"]
        for span in run.spans
        if span["name"] == "WS"
    }
    opened, refused = spans[101], spans[426]
    told = {
        (line["event"].partition(" (")[0], line.get("trace_id"), line.get("user_id"))
        for line in run.lines
        if line["event"].startswith("connection ")
    }
    assert told == {
        ("connection open", opened, None),
        ("connection closed", opened, "ann"),
        ("connection rejected", refused, None),
        ("connection closed", refused, None),
        *([] if kind == "threads" else [("connection handler failed", opened, "ann")]),
    }


def test_what_is_no_request_leaves_no_span(run: Captured) -> None:
    def client(port: int) -> bytes:
        with create_connection(("127.0.0.1", port)) as connection:
            connection.sendall(b"nonsense\r\n\r\n")
            return connection.recv(12)

    async def main() -> bytes:
        async with legacy(by_iteration, "127.0.0.1", 0) as server:
            port = next(iter(server.sockets)).getsockname()[1]
            return await asyncio.to_thread(client, port)

    assert asyncio.run(main()) == b"HTTP/1.1 400"
    assert run.spans == []


def test_clients_are_left_alone(run: Captured) -> None:
    asyncio.run(talk(serve, by_iteration, 1, 1))
    assert sorted(span["name"] for span in run.spans) == ["WS", "disconnect", "message"]


def test_before_set_up_nothing_is_observed() -> None:
    integration.instrument()
    for make_server in (serve, legacy):
        asyncio.run(talk(make_server, by_iteration, 1, 1))
    talk_to_threads(blocking_by_iteration, 1, 1)
    integration.uninstrument()
    integration.uninstrument()
