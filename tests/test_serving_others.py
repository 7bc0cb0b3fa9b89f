"""Who serves everybody is nobody's; what a request has left to do is its own to the end."""

import asyncio
import logging
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from types import coroutine
from typing import Any

import anyio
import pytest
from fakeredis import FakeAsyncRedis
from websockets.asyncio.client import connect
from websockets.asyncio.server import serve

from otel_logging import background_tasks, bind_context, detached, get_logger, traced
from otel_logging.integrations.asgi import ObservabilityMiddleware
from otel_logging.lateness.endless import is_endless
from otel_logging.testing import Captured, capture
from tests.lines import parsed

log: Any = get_logger("shop")
Queue = asyncio.Queue[Any]
ITEMS = 5
STEP_S = 0.002
Program = Callable[[Queue], Awaitable[object]]


async def items(queue: Queue) -> AsyncIterator[Any]:
    while True:
        yield await queue.get()


@asynccontextmanager
async def connected(handler: Any) -> AsyncIterator[Any]:
    """Give a client's connection to a server of its own, where *handler* answers."""
    server = await serve(handler, "127.0.0.1", 0)
    async with server, connect(f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}") as client:
        yield client


# ---------------------------------------------------------------- who serves everybody


async def worker(queue: Queue) -> None:
    while True:
        log.info("step", item=await queue.get())


async def worker_with_stages(queue: Queue) -> None:
    try:
        while True:
            item = await queue.get()
            with traced("message"):
                log.info("step", item=item)
    except asyncio.CancelledError:
        log.info("stopped")


async def worker_with_tasks(queue: Queue) -> None:
    async def handle(item: Any) -> None:
        await asyncio.sleep(0)
        log.info("step", item=item)

    while True:
        item = await queue.get()
        log.info("taken")
        await asyncio.create_task(handle(item))


async def worker_whose_tasks_alone_log(queue: Queue) -> None:
    async def handle(item: Any) -> None:
        log.info("step", item=item)

    while True:
        item = await queue.get()
        asyncio.create_task(handle(item))  # noqa: RUF006 - as people do


async def gathers_who_hand_out(queue: Queue) -> None:
    """Each of their tasks logs once; who waits for them does not work on the request."""
    await asyncio.gather(*(worker_whose_tasks_alone_log(each) for each in (queue, Queue())))


async def groups_who_hand_out(queue: Queue) -> None:
    async with asyncio.TaskGroup() as group:
        for each in queue, Queue():
            group.create_task(worker_whose_tasks_alone_log(each))


async def worker_that_binds(queue: Queue) -> None:
    while True:
        item = await queue.get()
        with traced("message"):
            bind_context(user_id=None)
            log.info("step", item=item)


async def heartbeat(_: Queue) -> None:
    while True:
        await asyncio.sleep(STEP_S)
        log.info("step")


async def worker_with_time_outs(queue: Queue) -> None:
    while True:
        with suppress(TimeoutError):
            async with asyncio.timeout(STEP_S):
                log.info("step", item=await queue.get())


class Hub:
    queue: Queue
    is_running = True

    async def listen(self) -> None:
        while self.is_running:
            log.info("step", item=await self.queue.get())


hub = Hub()


async def listener_that_may_be_stopped(queue: Queue) -> None:
    hub.queue = queue
    await hub.listen()


@coroutine
def listener_of_old(queue: Queue) -> Any:
    """As before Python 3.5: a generator."""
    hub.queue = queue
    yield from hub.listen().__await__()


async def worker_with_a_client(queue: Queue) -> None:
    """Whose library pings as long as it is connected."""
    server = await serve(lambda server: server.wait_closed(), "127.0.0.1", 0)
    async with server, connect(f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}"):
        await worker(queue)


async def two_workers(queue: Queue) -> None:
    hub.queue = queue
    await asyncio.gather(hub.listen(), hub.listen())


async def worker_in_a_librarys_task(queue: Queue) -> None:
    hub.queue = queue
    async with anyio.create_task_group() as group:
        group.start_soon(hub.listen)


async def listener(queue: Queue) -> None:
    async for item in items(queue):
        log.info("step", item=item)


async def subscriber(queue: Queue) -> None:
    redis = FakeAsyncRedis()

    async def publish() -> None:
        while True:
            await redis.publish("news", await queue.get())

    publishing = asyncio.create_task(publish())
    try:
        async with redis.pubsub() as pubsub:
            await pubsub.subscribe("news")
            async for message in pubsub.listen():
                if message["type"] == "message":
                    log.info("step", item=message["data"])
    finally:
        publishing.cancel()


# ---------------------------------------------------------------- what a request has left to do


async def report(_: Queue) -> None:
    for _ in range(ITEMS):
        await asyncio.sleep(STEP_S)
        log.info("step")


async def answer_that_streams(_: Queue) -> None:
    async def tokens() -> AsyncIterator[str]:
        for token in "token":
            await asyncio.sleep(STEP_S)
            yield token

    async for token in tokens():
        with traced("send"):
            log.info("step", token=token)


async def answer_of_a_model(_: Queue) -> None:
    """To the end of its connection."""

    async def model(websocket: Any) -> None:
        for token in range(ITEMS):
            await asyncio.sleep(STEP_S)
            await websocket.send(str(token))

    async with connected(model) as answer:
        async for token in answer:
            log.info("step", token=token)


async def report_until_it_fails(_: Queue) -> None:
    rows = iter(range(ITEMS))
    while True:
        try:
            row = next(rows)
            await asyncio.sleep(STEP_S)
            log.info("step", row=row)
        except Exception:
            break


async def polls_for_a_while(_: Queue) -> None:
    async with asyncio.timeout(STEP_S * 50):
        while True:
            await asyncio.sleep(STEP_S)
            log.info("step")


async def answer_by_a_subscription(queue: Queue) -> None:
    async for item in items(queue):
        log.info("step", item=item)
        if item == ITEMS - 1:
            break


async def answer_by_a_queue(queue: Queue) -> None:
    while (item := await queue.get()) is not None:
        log.info("step", item=item)
        if item == ITEMS - 1:
            queue.put_nowait(None)


async def retries(_: Queue) -> str:
    attempts = 0
    while True:
        try:
            attempts += 1
            log.info("step", attempt=attempts)
            if attempts < ITEMS:
                raise OSError
            return "done"
        except OSError:
            await asyncio.sleep(STEP_S)


async def polls(_: Queue) -> None:
    polled = 0
    while True:
        await asyncio.sleep(STEP_S)
        polled += 1
        log.info("step", polled=polled)
        if polled == ITEMS:
            return


async def warms_a_cache(_: Queue) -> None:
    async def fetch(number: int) -> None:
        await asyncio.sleep(STEP_S)
        with traced("fetch"):
            log.info("step", number=number)

    await asyncio.gather(*(fetch(number) for number in range(ITEMS)))


async def has_workers_of_its_own(_: Queue) -> None:
    """As asyncio's documentation has it."""
    queue: Queue = asyncio.Queue()
    workers = [asyncio.create_task(_works(queue)) for _ in range(2)]
    for number in range(ITEMS):
        queue.put_nowait(number)
    await queue.join()
    for each in workers:
        each.cancel()


async def _works(queue: Queue) -> None:
    while True:
        item = await queue.get()
        await asyncio.sleep(STEP_S)
        log.info("step", item=item)
        queue.task_done()


async def says_that_it_goes_on(_: Queue) -> None:
    beats: list[int] = []

    async def beat() -> None:
        while True:
            log.info("step", beat=len(beats))
            beats.append(1)
            await asyncio.sleep(STEP_S)

    beating = asyncio.create_task(beat())
    while len(beats) < ITEMS:
        await asyncio.sleep(STEP_S)
    beating.cancel()


async def follows_its_own_progress(_: Queue) -> None:
    client = FakeAsyncRedis()

    async def follow(pubsub: Any) -> None:
        async for message in pubsub.listen():
            log.info("step", message=message["data"])

    async with client.pubsub() as pubsub:
        await pubsub.subscribe("progress")
        following = asyncio.create_task(follow(pubsub))
        for number in range(ITEMS):
            await asyncio.sleep(STEP_S)
            await client.publish("progress", number)
        await asyncio.sleep(STEP_S)
        following.cancel()


async def relays_its_own_progress(_: Queue) -> None:
    """By a task that subscribes for itself."""
    client = FakeAsyncRedis()

    async def relay(channel: str) -> None:
        async with client.pubsub() as pubsub:
            await pubsub.subscribe(channel)
            async for message in pubsub.listen():
                log.info("step", message=message["data"])

    relaying = asyncio.create_task(relay("progress"))
    for number in range(ITEMS):
        await asyncio.sleep(STEP_S)
        await client.publish("progress", number)
    await asyncio.sleep(STEP_S)
    relaying.cancel()


async def has_a_stage_of_its_own(queue: Queue) -> None:
    with traced("export"):
        await worker(queue)


async def has_a_stage_beside_who_serves(queue: Queue) -> None:
    """At whose lines all tasks are looked at."""

    async def beat() -> None:
        while True:
            await asyncio.sleep(STEP_S)
            log.info("beat")

    beating = asyncio.create_task(beat())
    try:
        with traced("export"):
            await worker(queue)
    finally:
        beating.cancel()


SERVES = [
    *(worker, worker_with_stages, worker_with_tasks, worker_that_binds, worker_with_a_client),
    *(heartbeat, two_workers, worker_with_time_outs, listener_that_may_be_stopped),
    *(listener_of_old, worker_in_a_librarys_task),
]
BY_ITERATION = [
    *(listener, subscriber, worker_whose_tasks_alone_log),
    *(gathers_who_hand_out, groups_who_hand_out),
]
LEFT = [
    *(report, answer_that_streams, answer_by_a_subscription, answer_by_a_queue, retries, polls),
    *(answer_of_a_model, report_until_it_fails, polls_for_a_while),
    *(warms_a_cache, has_workers_of_its_own, says_that_it_goes_on, follows_its_own_progress),
    relays_its_own_progress,
    *(has_a_stage_of_its_own, has_a_stage_beside_who_serves),
]


@pytest.fixture(autouse=True)
def _anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(background_tasks, "_reported", set())
    monkeypatch.setattr(background_tasks, "_looked", background_tasks._Looked())


def ran(program: Program) -> Captured:
    """Run *program* in a request of alice's that ends at once; others put items for it."""

    async def main() -> None:
        queue: Queue = asyncio.Queue()
        with traced("GET /", kind="server"):
            bind_context(user_id="alice")
            task = asyncio.ensure_future(program(queue))
            await asyncio.sleep(0)
        async with asyncio.timeout(10):
            for number in range(ITEMS):
                with traced("PUT /", kind="server"):
                    bind_context(user_id="bob")
                    queue.put_nowait(number)
                await asyncio.sleep(STEP_S)
            while not task.done() and len(steps(captured)) < ITEMS:
                await asyncio.sleep(STEP_S)
        task.cancel()
        await asyncio.wait([task])

    with capture(log_level="info") as captured:
        asyncio.run(main())
    return captured


def steps(captured: Captured) -> list[dict[str, Any]]:
    return [line for line in captured.lines if line["event"] == "step"]


@pytest.mark.parametrize("program", [*SERVES, *BY_ITERATION])
def test_who_serves_everybody_is_nobodys_and_is_reported_once(
    program: Program, capsys: pytest.CaptureFixture[str]
) -> None:
    """From its first line after its request on; who iterates over what comes, from the second."""
    captured = ran(program)
    request = captured.span("GET /")["trace_id"]
    found = steps(captured)[1 if program in BY_ITERATION else 0 :]
    assert len(found) >= ITEMS - 1
    assert not [line for line in found if line.get("user_id") or line.get("trace_id") == request]
    said = [line for line in capsys.readouterr().err.splitlines() if "publish" not in line]
    assert len(said) == 1
    assert "a task that was started in 'GET /', goes on after it without an end, at " in said[0]
    assert "(test_serving_others.py:" in said[0]


def test_the_usual_line_of_who_serves_everybody_is_nobodys(
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> None:
    """From the first one on."""
    monkeypatch.setattr(sys, "stdout", sys.__stdout__)  # the usual line's way, from set-up on
    monkeypatch.setattr(logging.root, "handlers", [])  # pytest's
    request.getfixturevalue("service")

    async def main() -> None:
        queue: Queue = asyncio.Queue()
        with traced("GET /", kind="server"):
            bind_context(user_id="alice")
            task = asyncio.create_task(worker(queue))
            await asyncio.sleep(0)
        for number in range(2):
            queue.put_nowait(number)
        while not queue.empty():
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])

    asyncio.run(main())
    found = [line for line in parsed(capfd.readouterr().out) if line["event"] == "step"]
    assert [line["item"] for line in found] == [0, 1]
    assert not [line for line in found if line.keys() & {"user_id", "trace_id"}]


async def worker_that_waits_with_a_limit(queue: Queue) -> None:
    while True:
        with suppress(TimeoutError):
            log.info("step", item=await asyncio.wait_for(queue.get(), 60))


async def worker_beside_one_with_a_limit(queue: Queue) -> None:
    waiting = asyncio.create_task(worker_that_waits_with_a_limit(asyncio.Queue()))
    try:
        await worker(queue)
    finally:
        waiting.cancel()


def test_who_waits_with_a_limit_is_reported_before_anything_has_come(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Though a task of ``wait_for`` may wait for it."""
    ran(worker_beside_one_with_a_limit)
    said = capsys.readouterr().err
    for name in ("worker_beside_one_with_a_limit", "worker_that_waits_with_a_limit"):
        assert said.count(f"{name}, a task that was started in 'GET /', goes on after it") == 1


@pytest.mark.parametrize("program", LEFT)
def test_what_a_request_has_left_to_do_keeps_its_trace_and_user(program: Program) -> None:
    captured = ran(program)
    request = captured.span("GET /")["trace_id"]
    found = [(line.get("trace_id"), line.get("user_id")) for line in steps(captured)]
    assert found == [(request, "alice")] * len(found)
    assert len(found) >= ITEMS


# ---------------------------------------------------------------- while its request is open


class Room(Hub):
    async def serve(self) -> None:
        while True:
            log.info("step", item=await self.queue.get())

    async def subscribe(self) -> None:
        async with redis.pubsub() as pubsub:
            await pubsub.subscribe("news")
            async for message in pubsub.listen():
                if message["type"] == "message":
                    log.info("step", item=message["data"])


redis, room = FakeAsyncRedis(), Room()
rooms = {"lobby": Room()}


async def for_its_own_client(queue: Queue) -> None:
    """Whose queue is nobody else's."""
    async with redis.pubsub() as pubsub:
        await pubsub.subscribe("news")
        async for message in pubsub.listen():
            log.info("step", item=message["data"])
            queue.put_nowait(message)


def streamed(program: Program, *headers: tuple[bytes, bytes]) -> Captured:
    """Run *program* in a request of alice's, which is a stream; others write meanwhile."""
    redis.connection_pool.reset()
    room.queue, rooms["lobby"].queue = asyncio.Queue(), asyncio.Queue()

    async def stream(_: Any, __: Any, send: Any) -> None:
        bind_context(user_id="alice")
        task = asyncio.ensure_future(program(asyncio.Queue()))
        async with asyncio.timeout(10):
            while not is_endless(task):  # it comes to its loop
                await asyncio.sleep(STEP_S)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for _ in range(ITEMS):
            await send({"type": "http.response.body", "body": b"data", "more_body": True})
            with detached():
                room.queue.put_nowait("news")
                rooms["lobby"].queue.put_nowait("news")
                await redis.publish("news", "news")
            await asyncio.sleep(STEP_S * 5)
        await send({"type": "http.response.body", "body": b""})
        task.cancel()

    async def receive() -> Any:
        return {"type": "http.request"}

    async def send(_: Any) -> None: ...

    async def main() -> None:
        scope = {"type": "http", "method": "GET", "path": "/events", "headers": [*headers]}
        await ObservabilityMiddleware(stream)(scope, receive, send)

    with capture(log_level="info") as captured:
        asyncio.run(main())
    return captured


@pytest.mark.parametrize("headers", [(), ((b"traceparent", b"00-%032x-%016x-01" % (1, 1)),)])
@pytest.mark.parametrize("program", [room.listen, rooms["lobby"].serve, room.subscribe])
def test_who_serves_everybody_is_nobodys_while_a_stream_is_open(
    program: Any, headers: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nor is it of the trace that who asked has sent."""
    found = steps(streamed(lambda _: program(), *headers))
    assert len(found) == ITEMS
    assert not [line for line in found if line.keys() & {"user_id", "trace_id"}]
    (said,) = capsys.readouterr().err.splitlines()
    assert "a task that was started in 'GET', goes on after it without an end" in said


def test_a_stream_in_a_loop_that_is_not_asyncios_looks_at_no_tasks(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """As trio's, which steps coroutines too."""

    async def stream(_: Any, __: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"data", "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    async def pass_on(*_: Any) -> None: ...

    scope = {"type": "http", "method": "GET", "path": "/events", "headers": []}
    with capture() as captured:
        served = ObservabilityMiddleware(stream)(scope, pass_on, pass_on)
        with pytest.raises(StopIteration):  # it is done at once
            served.send(None)  # type: ignore[attr-defined]
    assert captured.span("GET")
    assert not capsys.readouterr().err


@pytest.mark.parametrize("program", [heartbeat, for_its_own_client])
def test_what_a_stream_has_for_itself_is_its_own(
    program: Program, capsys: pytest.CaptureFixture[str]
) -> None:
    captured = streamed(program)
    found = [line.get("user_id") for line in steps(captured)]
    assert len(found) >= ITEMS
    assert found == ["alice"] * len(found)
    assert not capsys.readouterr().err


class Steps(Coroutine[Any, Any, None]):
    """A coroutine that is none of Python's, and answers no question."""

    def __init__(self, inner: Any) -> None:
        self.send, self.throw = inner.send, inner.throw

    def send(self, _: Any) -> Any: ...
    def throw(self, *_: Any) -> Any: ...
    def __await__(self) -> Any: ...
    def __getattr__(self, name: str) -> Any:
        raise RuntimeError(name)


def test_a_coroutine_that_cannot_be_looked_at_is_reported(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """And nothing else fails."""

    async def main() -> None:
        queue: Queue = asyncio.Queue()
        with traced("GET /", kind="server"):
            odd = asyncio.Task(Steps(asyncio.sleep(60)))
            task = asyncio.create_task(worker(queue))
            await asyncio.sleep(0)
        queue.put_nowait(1)
        await asyncio.sleep(STEP_S)
        for each in (odd, task):
            each.cancel()
        await asyncio.wait([odd, task])

    with capture(log_level="info") as captured:
        asyncio.run(main())
    assert captured.line("step")["item"] == 1
    assert "tasks were not looked at" in capsys.readouterr().err
