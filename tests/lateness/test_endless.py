"""A task that cannot return, from where it stands, is told from one that can, by its bytecode."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from fakeredis import FakeAsyncRedis

from otel_logging import each
from otel_logging.lateness.endless import is_endless, is_everybodys

Queue = asyncio.Queue[Any]


class ConnectionClosedError(Exception):
    pass


async def for_ever(queue: Queue) -> AsyncIterator[Any]:
    while True:
        yield await queue.get()


async def ten(queue: Queue) -> AsyncIterator[Any]:
    for _ in range(10):
        yield await queue.get()


async def worker(queue: Queue) -> None:
    while True:
        item = await queue.get()
        try:
            print(item)
        except Exception:
            print("failed")
        finally:
            queue.task_done()


async def worker_that_says_goodbye(queue: Queue) -> None:
    try:
        while True:
            try:
                item = await asyncio.wait_for(queue.get(), 60)
            except TimeoutError:
                continue
            async with asyncio.Lock():
                print(item)
    except (asyncio.CancelledError, KeyboardInterrupt):
        print("stopped")


async def worker_within(queue: Queue) -> None:
    await worker(queue)
    print("never")


async def worker_after_a_start(queue: Queue) -> None:
    async with asyncio.Lock():
        await asyncio.sleep(60)
        await worker(queue)


async def heartbeat(_: Queue) -> None:
    while True:
        await asyncio.sleep(60)
        print("ping")


async def iterates_over_a_source(queue: Queue) -> None:
    async for item in for_ever(queue):
        print(item)


async def iterates_by_each(queue: Queue) -> None:
    async for item in each(for_ever(queue), "item"):
        print(item)


async def connects_anew(queue: Queue) -> None:
    while True:
        try:
            async for item in until_closed(queue):
                print(item)
        except Exception:
            await asyncio.sleep(1)


async def subscribes(_: Queue) -> None:
    async with FakeAsyncRedis().pubsub() as pubsub:
        await pubsub.subscribe("news")
        async for message in pubsub.listen():
            print(message)


async def bare(queue: Queue) -> None:
    while True:
        try:
            queue.get_nowait()
        except asyncio.CancelledError:
            break
        except:  # noqa: E722
            await asyncio.sleep(60)


async def until_closed(queue: Queue) -> AsyncIterator[Any]:
    try:
        while True:
            yield await queue.get()
    except ConnectionClosedError:
        return


async def streams_an_answer(queue: Queue) -> None:
    async for item in until_closed(queue):
        print(item)


async def receives_an_answer(queue: Queue) -> None:
    try:
        while True:
            await queue.get()
    except (ConnectionClosedError, ConnectionError):
        print("done")


async def reports_until_it_fails(queue: Queue) -> None:
    while True:
        try:
            await queue.get()
        except Exception:
            break


async def tokens(queue: Queue) -> None:
    async for item in ten(queue):
        print(item)


async def leaves_a_source(queue: Queue) -> None:
    async for item in for_ever(queue):
        if item == "done":
            break


async def leaves_a_subscription(_: Queue) -> None:
    async with FakeAsyncRedis().pubsub() as pubsub:
        await pubsub.subscribe("answer")
        async for message in pubsub.listen():
            if message["data"] == b"done":
                return


async def until_empty(queue: Queue) -> None:
    while True:
        try:
            await asyncio.sleep(60)
            queue.get_nowait()
        except asyncio.CancelledError:
            raise
        except asyncio.QueueEmpty:
            break


async def until_idle(queue: Queue) -> None:
    while True:
        try:
            await asyncio.wait_for(queue.get(), 60)
        except TimeoutError:
            return


async def until_a_sentinel(queue: Queue) -> None:
    while (item := await queue.get()) is not None:
        print(item)


async def retries(queue: Queue) -> Any:
    while True:
        try:
            return await queue.get()
        except OSError:
            await asyncio.sleep(1)


async def polls(queue: Queue) -> None:
    while True:
        if await queue.get() == "done":
            break
        await asyncio.sleep(1)


async def has_a_limit(queue: Queue) -> None:
    try:
        async with asyncio.timeout(60):
            while True:
                await queue.get()
    except TimeoutError:
        pass


async def may_be_left(queue: Queue) -> None:
    with suppress(ValueError):
        while True:
            await queue.get()


async def in_a_group_of_errors(queue: Queue) -> None:
    try:
        while True:
            await queue.get()
    except* ValueError:
        pass


async def steps(queue: Queue) -> None:
    for _ in range(3):
        await queue.get()


async def gathers(queue: Queue) -> None:
    await asyncio.gather(steps(queue))


async def gathers_workers(queue: Queue) -> None:
    await asyncio.gather(worker(queue), worker(queue))


async def in_a_task_group(queue: Queue) -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(worker(queue))
        group.create_task(worker(queue))


async def lets_a_worker_work_for_a_while(queue: Queue) -> None:
    with suppress(TimeoutError):
        await asyncio.wait_for(worker(queue), 60)


async def has_a_limit_for_a_worker(queue: Queue) -> None:
    try:
        async with asyncio.timeout(60):
            await worker(queue)
    except TimeoutError:
        print("done")


async def waits_for_workers(queue: Queue) -> None:
    await asyncio.wait({asyncio.ensure_future(worker(queue))}, timeout=60)


class Reader:
    async def serves_after_a_start(self, queue: Queue) -> None:
        await queue.get()
        while 1:
            item = await queue.get()
            for part in item:
                if part is None:
                    break


class Closes:
    async def ends_after_a_start(self, queue: Queue) -> None:
        try:
            await queue.get()
        except ConnectionClosedError:
            return
        while True:
            await queue.get()


async def tells_of_its_end(queue: Queue) -> None:
    try:
        while True:
            await queue.get()
    except Exception:
        print("failed")
        raise


async def has_a_function_that_returns(queue: Queue) -> None:
    while True:

        async def answer() -> int:
            return 42

        print(await queue.get(), answer)


async def for_ever_with_lines(queue: Queue) -> AsyncIterator[Any]:
    while True:
        await worker(queue)
        yield 1


async def leaves_a_worker_that_yields(queue: Queue) -> None:
    async for _ in for_ever_with_lines(queue):
        break


async def stops_searching(queue: Queue) -> None:
    while True:
        for item in await queue.get():
            print(item)
        else:
            break


def _made(queue: str = "queue") -> Any:
    there: dict[str, Any] = {}
    source = f"async def made({queue}):\n    while True:\n        await {queue}.get()\n"
    exec(compile(source, "<made>", "exec"), there)
    return there["made"]


SERVES = [
    *(Reader().serves_after_a_start, tells_of_its_end, has_a_function_that_returns),
    leaves_a_worker_that_yields,  # which never yields
    *(worker, worker_that_says_goodbye, worker_within, heartbeat, bare),
    *(gathers_workers, in_a_task_group),
    *(iterates_over_a_source, iterates_by_each, connects_anew, subscribes),
]


async def never_begins_to_loop(queue: Queue) -> None:
    await queue.get()
    while False:
        print("this is left out")
    while 0:
        print("and this")
    while None:
        print("and this")
    while "":
        print("and this")


ENDS = [
    never_begins_to_loop,
    *(Closes().ends_after_a_start, stops_searching, _made()),
    *(streams_an_answer, receives_an_answer, reports_until_it_fails, tokens),
    *(leaves_a_source, leaves_a_subscription, until_empty, until_idle, until_a_sentinel),
    *(retries, polls, has_a_limit, may_be_left, in_a_group_of_errors, steps, gathers),
    *(lets_a_worker_work_for_a_while, has_a_limit_for_a_worker, waits_for_workers),
    worker_after_a_start,  # not yet
]


@pytest.mark.parametrize("program", [*SERVES, *ENDS])
def test_what_can_return_is_not_endless(program: Any) -> None:
    async def main() -> bool:
        task = asyncio.ensure_future(program(asyncio.Queue()))
        for _ in range(20):  # to where it waits
            await asyncio.sleep(0)
        assert not task.done()
        found = is_endless(task)
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        return found

    assert asyncio.run(main()) is (program in SERVES)


class Hub:
    queue: Queue


hub = Hub()


async def takes_from_everybodys(_: Queue) -> None:
    names = {"a": 1}
    while True:
        print(names.get("a"))
        await hub.queue.get()


async def works_for_everybody(_: Queue) -> None:
    while True:
        print(await hub.queue.get())
        await asyncio.sleep(60)


async def takes_from_its_own(queue: Queue) -> None:
    while True:
        await queue.get()


@pytest.mark.parametrize(
    "program", [takes_from_everybodys, works_for_everybody, takes_from_its_own]
)
def test_a_queue_that_a_module_has_is_everybodys(program: Any) -> None:
    """Wherever its worker stands."""

    async def main() -> bool:
        hub.queue = asyncio.Queue()
        hub.queue.put_nowait(1)
        task = asyncio.ensure_future(program(asyncio.Queue()))
        for _ in range(5):
            await asyncio.sleep(0)
        found = is_everybodys(task)
        task.cancel()
        return found

    assert asyncio.run(main()) is (program is not takes_from_its_own)


def test_a_coroutine_of_cythons_has_no_line_and_hides_no_other() -> None:
    """As aiohttp's reader of a WebSocket, where it is compiled."""

    async def silent(request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        await socket.receive()
        return socket

    async def found() -> list[bool]:
        app = web.Application()
        app.router.add_get("/", silent)
        runner = web.AppRunner(app)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        url, endless = f"http://127.0.0.1:{runner.addresses[0][1]}/", []
        async with aiohttp.ClientSession() as session, session.ws_connect(url) as socket:

            async def listen() -> None:
                while True:
                    await socket.receive()

            for work in (listen, socket.receive):
                task: Any = asyncio.create_task(work())
                while not task.get_coro().cr_await:
                    await asyncio.sleep(0)
                try:
                    endless.append(is_endless(task))
                finally:
                    task.cancel()
                    with suppress(asyncio.CancelledError):
                        await task
        await runner.cleanup()
        return endless

    assert asyncio.run(found()) == [True, False]
