"""``each`` around what real libraries bring: a trace an item, its user, and nothing between."""

import asyncio
import socket
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import aiohttp
import anyio
import fakeredis
import pytest
import websockets
from aiohttp import web
from aiokafka import AIOKafkaConsumer, ConsumerRecord
from aiokafka.errors import ConsumerStoppedError
from fakeredis import FakeAsyncRedis
from websockets.sync.client import connect
from websockets.sync.server import serve as serve_in_thread

from otel_logging import bind_context, each, get_logger, inject, setup_observability, traced
from otel_logging.testing import Captured, capture

USERS = [f"u{number}" for number in range(5)]
log: Any = get_logger("shop")


def handle(user: str) -> None:
    log.info("begun")
    bind_context(user_id=user)
    log.info("handled", of=user)


def check(captured: Captured, *, notes: int = 0) -> None:
    """Each item is a trace of its own with its user; outside of them is nobody.

    *notes*: items that a library adds, in which nothing is done.
    """
    found = [span for span in captured.spans if span["name"] == "item"]
    spans = [span for span in found if span["events"]]
    assert len(found) == len(spans) + notes
    assert [span["attributes"]["user_id"] for span in spans] == USERS
    assert [span["kind"] for span in spans] == ["consumer"] * len(USERS)
    lines = [line for line in captured.lines if line["event"] == "handled"]
    assert [line["of"] for line in lines] == [line["user_id"] for line in lines] == USERS
    traces = [span["trace_id"] for span in spans]
    assert [line["trace_id"] for line in lines] == traces
    assert len(set(traces)) == len(USERS)
    assert not [line for line in captured.lines if line["event"] == "begun" and "user_id" in line]
    assert not captured.line("left").keys() & {"user_id", "trace_id"}


# ---------------------------------------------------------------- asynchronous ones


@asynccontextmanager
async def websockets_client() -> AsyncIterator[Any]:
    async def send(connection: Any) -> None:
        for user in USERS:
            await connection.send(user)

    async with websockets.serve(send, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        async with websockets.connect(f"ws://127.0.0.1:{port}") as connection:
            yield connection


@asynccontextmanager
async def aiohttp_client() -> AsyncIterator[Any]:
    async def send(request: web.Request) -> web.WebSocketResponse:
        answer = web.WebSocketResponse()
        await answer.prepare(request)
        for user in USERS:
            await answer.send_str(user)
        await answer.close()
        return answer

    app = web.Application()
    app.router.add_get("/", send)
    runner = web.AppRunner(app)
    await runner.setup()
    listening = socket.create_server(("127.0.0.1", 0))
    await web.SockSite(runner, listening).start()
    async with aiohttp.ClientSession() as session:
        port = listening.getsockname()[1]
        async with session.ws_connect(f"http://127.0.0.1:{port}/") as messages:
            yield messages
    await runner.cleanup()


@asynccontextmanager
async def redis_subscription() -> AsyncIterator[Any]:
    redis = FakeAsyncRedis()
    async with redis.pubsub() as subscription:
        await subscription.subscribe("chat")
        for user in USERS:
            await redis.publish("chat", user)
        yield subscription.listen()
    await redis.aclose()


@asynccontextmanager
async def redis_stream() -> AsyncIterator[Any]:
    """No iterator of the library's: a generator of the application's."""
    redis = FakeAsyncRedis()
    for user in USERS:
        await redis.xadd("orders", {"user": user})

    async def entries() -> AsyncIterator[str]:
        last: Any = "0"
        while found := await redis.xread({"orders": last}, count=2):
            for name, fields in found[0][1]:
                last = name
                yield fields[b"user"].decode()

    yield entries()
    await redis.aclose()


@asynccontextmanager
async def anyio_stream() -> AsyncIterator[Any]:
    sending, receiving = anyio.create_memory_object_stream[str](1)

    async def send() -> None:
        async with sending:
            for user in USERS:
                await sending.send(user)

    async with anyio.create_task_group() as tasks, receiving:
        tasks.start_soon(send)
        yield receiving


@asynccontextmanager
async def lines_of_a_stream() -> AsyncIterator[Any]:
    """asyncio's StreamReader is an iterator of lines."""
    reader = asyncio.StreamReader()
    reader.feed_data("".join(f"{user}\n" for user in USERS).encode())
    reader.feed_eof()
    yield reader


class Consumer(AIOKafkaConsumer):  # type: ignore[misc]  # it has no types
    """aiokafka's own, with its loop and its records, but for the broker that they come from."""

    records: list[ConsumerRecord]

    async def getone(self, *partitions: Any) -> ConsumerRecord:
        await asyncio.sleep(0)
        if not self.records:
            raise ConsumerStoppedError
        return self.records.pop(0)


def record_of(user: str, headers: dict[str, str]) -> ConsumerRecord:
    value = user.encode()
    of_kafka = [(name, text.encode()) for name, text in headers.items()]
    return ConsumerRecord("orders", 0, 7, 0, 0, None, value, None, 0, len(value), of_kafka)


@asynccontextmanager
async def kafka_consumer() -> AsyncIterator[Any]:
    consumer = Consumer("orders")
    consumer.records = [record_of(user, {}) for user in USERS]
    yield consumer
    await consumer.stop()


def test_the_trace_of_a_kafka_record_goes_on() -> None:
    """With the bound keys that are named; a record without headers is a trace of its own."""

    async def main() -> None:
        consumer = Consumer("orders")
        consumer.records = []
        for user in USERS[:2]:
            with traced("checkout", root=True):
                bind_context(user_id=user)
                consumer.records.append(record_of(user, inject()))
        consumer.records.append(record_of("u9", {}))
        async for record in each(consumer, "order", context=lambda each: each.headers):
            log.info("handled", of=record.value.decode())
        await consumer.stop()

    with capture() as captured, setup_observability("shop", propagate="user_id"):
        asyncio.run(main())
    sent = [span["trace_id"] for span in captured.spans if span["name"] == "checkout"]
    orders = [span for span in captured.spans if span["name"] == "order"]
    assert [span["trace_id"] for span in orders[:2]] == sent
    assert orders[2]["trace_id"] not in sent
    assert orders[2]["parent_span_id"] is None
    handled = [line for line in captured.lines if line["event"] == "handled"]
    assert [line["trace_id"] for line in handled] == [span["trace_id"] for span in orders]
    assert [line.get("user_id") for line in handled] == ["u0", "u1", None]
    assert [line["of"] for line in handled] == ["u0", "u1", "u9"]


def user_in(item: Any) -> str | None:
    """Return the user of an item; None: it is none, but a library's note."""
    if isinstance(item, dict):  # of redis
        return item["data"].decode() if item["type"] == "message" else None
    if isinstance(item, ConsumerRecord):
        return str(item.value.decode())
    text = item.data if isinstance(item, aiohttp.WSMessage) else item
    return str(text.decode().strip() if isinstance(text, bytes) else text)


@pytest.mark.parametrize(
    "source",
    [
        websockets_client,
        aiohttp_client,
        redis_subscription,
        redis_stream,
        anyio_stream,
        lines_of_a_stream,
        kafka_consumer,
    ],
)
def test_each_item_of_an_asynchronous_source_is_a_trace(source: Any) -> None:
    async def main() -> None:
        handled = 0
        async with source() as items:
            async for item in each(items, "item"):
                user = user_in(item)
                if user is not None:
                    handle(user)
                    handled += 1
                if handled == len(USERS):
                    break
            log.info("left")

    with capture() as captured:
        asyncio.run(main())
    check(captured, notes=int(source is redis_subscription))


# ---------------------------------------------------------------- in a thread


@contextmanager
def websockets_in_a_thread() -> Iterator[Any]:
    def send(connection: Any) -> None:
        connection.recv()  # websockets 13 loses what arrives before its own handshake has returned
        for user in USERS:
            connection.send(user)

    with serve_in_thread(send, "127.0.0.1", 0) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        with connect(f"ws://127.0.0.1:{server.socket.getsockname()[1]}") as connection:
            connection.send("ready")
            yield connection
        server.shutdown()
        thread.join()


@contextmanager
def redis_in_a_thread() -> Iterator[Any]:
    redis = fakeredis.FakeRedis()
    subscription = redis.pubsub(ignore_subscribe_messages=True)
    subscription.subscribe("chat")
    for user in USERS:
        redis.publish("chat", user)
    yield filter(None, iter(lambda: subscription.get_message(timeout=0.1), 0))


@contextmanager
def a_list() -> Iterator[Any]:
    yield USERS


@contextmanager
def a_generator() -> Iterator[Any]:
    yield (user for user in USERS)


@pytest.mark.parametrize("source", [websockets_in_a_thread, redis_in_a_thread, a_list, a_generator])
def test_a_source_in_a_thread(source: Any) -> None:
    def work() -> None:
        handled = 0
        with source() as items:
            for item in each(items, "item"):
                handle(user_in(item) or "")
                handled += 1
                if handled == len(USERS):
                    break
            log.info("left")

    with capture() as captured:
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    check(captured)
