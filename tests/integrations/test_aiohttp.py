"""A server of aiohttp, with no line of its code: each request and each message is a trace."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from opentelemetry import trace

from otel_logging import bind_context, get_logger
from otel_logging.context import bound
from otel_logging.integrations import aiohttp as integration
from otel_logging.testing import Captured, capture

log = get_logger("shop")


@pytest.fixture
def run() -> Iterator[Captured]:
    integration.instrument()
    integration.instrument()
    with capture() as captured:
        yield captured
    integration.uninstrument()


async def order(request: web.Request) -> web.Response:
    bind_context(user_id=f"u{request.match_info['number']}")
    log.info("paid")
    return web.Response(text="paid")


async def whose(_: web.Request) -> web.Response:
    return web.Response(text=str(bound()))


async def stream(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse()
    await response.prepare(request)
    for _ in range(3):
        await response.write(b"x")
        log.info("piece")
    return response


async def endless(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse()
    await response.prepare(request)
    log.info("begun")
    while True:
        await response.write(b"x")
        await asyncio.sleep(0.005)


async def read(request: web.Request) -> web.Response:
    log.info("begun")
    await request.read()
    raise AssertionError


async def broken(_: web.Request) -> web.Response:
    raise ValueError("no")


async def cancelled(_: web.Request) -> web.Response:
    raise asyncio.CancelledError


async def refused(_: web.Request) -> web.Response:
    raise web.HTTPFound("/orders/1")


async def torn(request: web.Request) -> web.StreamResponse:
    answer = web.StreamResponse()
    await answer.prepare(request)
    await answer.write(b"half")
    raise KeyError("the other half")


async def health(_: web.Request) -> web.Response:
    return web.Response()


async def answer(socket: web.WebSocketResponse, text: str) -> None:
    bind_context(user_id=text)
    log.info("got", wanted=text)
    await asyncio.sleep(0.1 if text == "slow" else 0.01)
    await socket.send_str(text)


async def serial(socket: web.WebSocketResponse) -> None:
    async for message in socket:
        await answer(socket, message.data)
    assert (await socket.receive()).type is aiohttp.WSMsgType.CLOSED


async def by_task(socket: web.WebSocketResponse) -> None:
    async with asyncio.TaskGroup() as tasks:
        async for message in socket:
            tasks.create_task(answer(socket, message.data))


async def by_wait_for(socket: web.WebSocketResponse) -> None:
    while True:
        with suppress(TimeoutError):
            message = await asyncio.wait_for(socket.receive(), 0.005)
            if message.type != aiohttp.WSMsgType.TEXT:
                return
            await answer(socket, message.data)


async def by_renewal(socket: web.WebSocketResponse) -> None:
    """The first by itself; then the next receive waits while one is handled."""
    await answer(socket, await socket.receive_str())
    receiving = asyncio.create_task(socket.receive())
    while (message := await receiving).type == aiohttp.WSMsgType.TEXT:
        receiving = asyncio.create_task(socket.receive())
        await answer(socket, message.data)


async def by_a_reader(socket: web.WebSocketResponse) -> None:
    async def read() -> None:
        async for message in socket:
            await answer(socket, message.data)

    await asyncio.create_task(read())


async def failing(socket: web.WebSocketResponse) -> None:
    await answer(socket, await socket.receive_str())
    raise ValueError("no such room")


SHAPES = {each.__name__: each for each in (serial, by_task, by_wait_for, by_renewal, by_a_reader)}
SHAPES["failing"] = failing


async def chat(request: web.Request) -> web.WebSocketResponse:
    socket = web.WebSocketResponse()
    bind_context(room=request.match_info["room"])  # before there is a connection
    await socket.prepare(request)
    log.info("joined")
    await SHAPES[request.match_info["room"]](socket)
    return socket


def ask(client: Callable[[aiohttp.ClientSession, str], Awaitable[Any]]) -> Any:
    """Serve, and return what *client* returns; it is given a session and the server's URL."""

    async def main() -> Any:
        app = web.Application()
        app.router.add_get("/orders/{number}", order)
        app.router.add_get("/whose", whose)
        app.router.add_get("/stream", stream)
        app.router.add_get("/endless", endless)
        app.router.add_post("/read", read)
        app.router.add_get("/broken", broken)
        app.router.add_get("/torn", torn)
        app.router.add_get("/refused", refused)
        app.router.add_get("/cancelled", cancelled)
        app.router.add_get("/health", health)
        app.router.add_get("/rooms/{room}", chat)
        runner = web.AppRunner(app, access_log=logging.getLogger("aiohttp.access"))
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        port = runner.addresses[0][1]
        try:
            async with aiohttp.ClientSession() as session:
                return await client(session, f"http://127.0.0.1:{port}")
        finally:
            await runner.cleanup()

    return asyncio.run(main())


def get(path: str, **headers: str) -> Any:
    async def client(session: aiohttp.ClientSession, url: str) -> Any:
        answer = await session.get(url + path, headers=headers, allow_redirects=False)
        await answer.read()
        return answer

    return ask(client)


def test_a_request_and_its_access_line_are_one_trace(
    run: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("aiohttp.access"), "level", logging.INFO)
    logging.getLogger("aiohttp.access").setLevel(logging.INFO)
    answer = get("/orders/7", **{"X-Request-ID": "r-1", "User-Agent": "test"})
    span = run.span("GET /orders/{number}")
    paid, access = run.lines
    assert (
        paid["trace_id"] == access["trace_id"] == span["trace_id"] == answer.headers["X-Trace-Id"]
    )
    assert paid["user_id"] == access["user_id"] == "u7"
    assert answer.headers["X-Request-ID"] == "r-1"
    attributes = span["attributes"]
    assert (attributes["url.path"], attributes["http.response.status_code"]) == ("/orders/7", 200)
    assert attributes["user_agent.original"] == "test"
    assert attributes["client.address"] == "127.0.0.1"


@web.middleware
async def theirs(request: web.Request, handler: Any) -> Any:
    tracer = trace.get_tracer(theirs.__module__)
    with tracer.start_as_current_span("theirs", kind=trace.SpanKind.SERVER):
        return await handler(request)


theirs.__module__ = "opentelemetry.instrumentation.aiohttp_server"  # by which it is known


def test_where_opentelemetrys_instrumentation_is_active_the_span_is_its_own(
    run: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As there, it is in each application that is made from then on."""
    original = web.Application.__init__

    def made(self: Any, *args: Any, middlewares: Any = (), **options: Any) -> None:
        original(self, *args, middlewares=[theirs, *middlewares], **options)

    monkeypatch.setattr(web.Application, "__init__", made)
    get("/orders/7")
    assert [span["name"] for span in run.spans] == ["theirs"]
    assert run.line("paid")["trace_id"] == run.spans[0]["trace_id"]


def test_a_streamed_answer_is_in_the_request(run: Captured) -> None:
    get("/stream")
    span = run.span("GET /stream")
    assert {line["trace_id"] for line in run.lines} == {span["trace_id"]}
    assert "cancelled" not in span["attributes"]


@pytest.mark.parametrize(("request_line", "status"), [("GET /endless", 200), ("POST /read", None)])
def test_a_request_whose_client_has_gone_is_cancelled(
    run: Captured, request_line: str, status: int | None
) -> None:
    """Though its handler fails: it writes to nobody, or reads what never comes."""

    async def client(_: Any, url: str) -> None:
        _, writer = await asyncio.open_connection(*url.removeprefix("http://").split(":"))
        writer.write(f"{request_line} HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n".encode())
        while "begun" not in (line["event"] for line in run.lines):
            await asyncio.sleep(0.01)
        writer.transport.abort()

    ask(client)
    method, path = request_line.split()
    span = run.span(f"{method} {path}")
    assert (span["status"], span["attributes"]["cancelled"]) == ("unset", True)
    assert span["attributes"].get("http.response.status_code") == status


@pytest.mark.parametrize(
    ("path", "status", "outcome"), [("/broken", 500, "error"), ("/refused", 302, "unset")]
)
def test_an_answer_has_its_status(run: Captured, path: str, status: int, outcome: str) -> None:
    assert get(path).status == status
    span = run.span(f"GET {path}")
    assert (span["status"], span["attributes"]["http.response.status_code"]) == (outcome, status)


def test_an_answer_that_fails_when_it_has_begun_has_the_status_that_was_sent(run: Captured) -> None:
    with pytest.raises(aiohttp.ClientPayloadError):
        get("/torn")
    span = run.span("GET /torn")
    attributes = span["attributes"]
    assert (span["status"], attributes["error.type"]) == ("error", "KeyError")
    assert attributes["http.response.status_code"] == 200
    assert [each["attributes"]["exception.type"] for each in span["events"]] == ["KeyError"]


def test_a_quiet_path_leaves_no_span(run: Captured) -> None:
    get("/health")
    assert run.spans == []


def test_a_client_that_goes_away_leaves_a_span(run: Captured) -> None:
    async def client(session: aiohttp.ClientSession, url: str) -> None:
        host, port = url.removeprefix("http://").split(":")
        _, writer = await asyncio.open_connection(host, int(port))
        writer.write(b"no http\r\n\r\n")
        await writer.drain()
        writer.close()

    ask(client)
    assert run.spans == []


@pytest.mark.parametrize("shape", ["serial", "by_task", "by_wait_for", "by_renewal"])
def test_each_message_is_a_trace_of_its_user(run: Captured, shape: str) -> None:
    async def client(session: aiohttp.ClientSession, url: str) -> None:
        async def user(number: int) -> None:
            async with session.ws_connect(f"{url}/rooms/{shape}") as socket:
                for _ in range(20):
                    await socket.send_str(f"u{number}")
                    assert await socket.receive_str() == f"u{number}"

        await asyncio.gather(*[user(number) for number in range(5)])

    ask(client)
    messages = [span for span in run.spans if span["name"] == "message"]
    handshakes = {span["span_id"] for span in run.spans if span["name"] == "GET /rooms/{room}"}
    assert (len(messages), len(handshakes)) == (100, 5)
    traces = {span["trace_id"]: span["attributes"]["user_id"] for span in messages}
    assert len(traces) == 100
    assert all(span["links"][0]["span_id"] in handshakes for span in messages)
    lines = [line for line in run.lines if line["event"] == "got"]
    assert all(line["user_id"] == line["wanted"] == traces[line["trace_id"]] for line in lines)
    assert {each["room"] for each in lines} == {shape}
    assert all(span["duration_s"] >= 0.01 for span in messages)  # to what was sent last
    ends = [span for span in run.spans if span["name"] == "disconnect"]
    assert {span["parent_span_id"] for span in ends} == handshakes
    assert {span["attributes"]["websocket.close_code"] for span in ends} == {1000}
    joined = [line["span_id"] for line in run.lines if line["event"] == "joined"]
    assert set(joined) == handshakes
    assert not [line for line in run.lines if "detached" in line["event"]]


def test_a_wait_counts_from_when_a_message_came(run: Captured) -> None:
    """Not from when its busy handler asked for it; a ping has none."""

    async def client(session: aiohttp.ClientSession, url: str) -> None:
        async with session.ws_connect(f"{url}/rooms/serial") as socket:
            await socket.send_str("slow")
            await socket.ping()
            await socket.send_str("b")
            await socket.send_str("c")
            assert [await socket.receive_str() for _ in range(3)] == ["slow", "b", "c"]

    ask(client)
    waits = [s["attributes"]["queue.wait_s"] for s in run.spans if s["name"] == "message"]
    assert waits[0] < 0.05 < min(waits[1:])


def test_a_task_that_waits_in_aiohttps_compiled_reader_is_looked_at(
    run: Captured, capsys: pytest.CaptureFixture[str]
) -> None:
    async def client(session: aiohttp.ClientSession, url: str) -> None:
        async with session.ws_connect(f"{url}/rooms/by_a_reader") as socket:
            for user in ("u1", "u2"):
                await socket.send_str(user)
                assert await socket.receive_str() == user

    ask(client)
    assert [line["user_id"] for line in run.lines if line["event"] == "got"] == ["u1", "u2"]
    assert "tasks were not looked at" not in capsys.readouterr().err


def test_a_message_whose_handler_fails_is_an_error(run: Captured) -> None:
    async def client(session: aiohttp.ClientSession, url: str) -> None:
        async with session.ws_connect(f"{url}/rooms/failing") as socket:
            await socket.send_str("u1")
            assert await socket.receive_str() == "u1"
            await socket.receive()

    ask(client)
    message = run.span("message")
    assert (message["status"], run.span("disconnect")["status"]) == ("error", "error")
    assert message["events"][-1]["attributes"]["exception.type"] == "ValueError"
    (line,) = [line for line in run.lines if "ValueError" in line.get("exception", "")]
    assert (line["trace_id"], line["user_id"]) == (message["trace_id"], "u1")


def test_before_set_up_nothing_is_observed() -> None:
    """But what is bound in a request ends with it: a kept connection has one task for all."""
    integration.instrument()
    assert "X-Trace-Id" not in get("/orders/1").headers

    async def twice(session: aiohttp.ClientSession, url: str) -> str:
        await (await session.get(f"{url}/orders/1")).read()
        return await (await session.get(f"{url}/whose")).text()

    assert ask(twice) == "{}"

    async def chats(session: aiohttp.ClientSession, url: str) -> str:
        async with session.ws_connect(f"{url}/rooms/serial") as socket:
            await socket.send_str("u1")
            return await socket.receive_str()

    assert ask(chats) == "u1"
    integration.uninstrument()
    integration.uninstrument()


def test_a_handler_that_is_cancelled_leaves_a_span(run: Captured) -> None:
    with pytest.raises(aiohttp.ClientError):
        get("/cancelled")
    cancelled = [span for span in run.spans if span["name"] == "GET /cancelled"]
    assert all(span["attributes"]["cancelled"] is True for span in cancelled)
    assert cancelled  # the client tries again
