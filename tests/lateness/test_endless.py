"""A loop that has no end is told from one that has, by its source; in doubt it has."""

import ast
import asyncio
import importlib
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from functools import cache, lru_cache, partial
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import anyio
import pytest
import websockets
from fakeredis import FakeAsyncRedis

from otel_logging import each
from otel_logging.lateness.endless import is_endless, is_everybodys, waits_for_ever

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


def fail_early() -> None:
    """Be named as what ends a block is."""


async def timeout_worker(queue: Queue) -> None:
    fail_early()
    while True:
        print(await queue.get())


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


async def forgives_in_its_loop(queue: Queue) -> None:
    while True:
        with suppress(ValueError):
            print(await queue.get())


async def has_a_limit_for_each(queue: Queue) -> None:
    while True:
        try:
            async with asyncio.timeout(60):
                print(await queue.get())
        except TimeoutError:
            print("nothing came")


async def stays_connected(_: Queue) -> None:
    async for websocket in websockets.connect("ws://127.0.0.1:1"):
        try:
            async for message in websocket:
                print(message)
        except ConnectionClosedError:
            continue


async def connect(queue: Queue) -> AsyncIterator[Any]:
    """As a database's sessions are given."""
    yield await queue.get()


async def has_a_session(queue: Queue) -> None:
    async for session in connect(queue):
        print(session)


async def subscribes_and_logs_what_ends_it(_: Queue) -> None:
    try:
        async with FakeAsyncRedis().pubsub() as pubsub:
            await pubsub.subscribe("news")
            async for message in pubsub.listen():
                print(message)
    except Exception:
        print("failed")


async def subscribes_for_a_while(_: Queue) -> None:
    async with FakeAsyncRedis().pubsub() as pubsub:
        await pubsub.subscribe("answer")
        with suppress(TimeoutError):
            async with asyncio.timeout(60):
                async for message in pubsub.listen():
                    print(message)


async def subscribes_until_it_raises(_: Queue) -> None:
    async with FakeAsyncRedis().pubsub() as pubsub:
        await pubsub.subscribe("answer")
        try:
            async for message in pubsub.listen():
                if message["data"] == b"done":
                    raise EOFError
        except EOFError:
            print("done")


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


async def has_a_scope(queue: Queue) -> None:
    with anyio.CancelScope() as scope:
        asyncio.get_running_loop().call_later(60, scope.cancel)
        while True:
            await queue.get()


async def may_be_stopped(queue: Queue) -> None:
    with suppress(asyncio.CancelledError):
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
    async def serves_by_parts(self, queue: Queue) -> None:
        while 1:
            item = await queue.get()
            for part in item:
                if part is None:
                    break


async def tells_of_its_end(queue: Queue) -> None:
    try:
        while True:
            await queue.get()
    except Exception:
        print("failed")
        raise


async def tells_of_some_ends(queue: Queue) -> None:
    try:
        while True:
            await queue.get()
    except ConnectionClosedError as error:
        if not error.args:
            return
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


def _made(body: str = "while True: await queue.get()") -> Any:
    there: dict[str, Any] = {"worker": worker}
    source = f"async def made(queue):\n    {body}\n"
    exec(compile(source, "<made>", "exec"), there)
    return there["made"]


class Ten:
    """Of what never ends, as an iterator of the application's own."""

    def __init__(self, source: AsyncIterator[Any]) -> None:
        self.source, self.left = source, 10

    def __aiter__(self) -> "Ten":
        return self

    async def __anext__(self) -> Any:
        self.left -= 1
        if self.left == 0:
            raise StopAsyncIteration
        return await anext(self.source)


async def takes_ten(queue: Queue) -> None:
    async for item in Ten(for_ever(queue)):
        print(item)


class DoneError(Exception):
    pass


class until_it_is_done:  # noqa: N801 - as a function
    async def __aenter__(self) -> None: ...

    async def __aexit__(self, kind: object, *_: object) -> bool:
        return kind is DoneError


@asynccontextmanager
async def at_most(seconds: float) -> AsyncIterator[None]:
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            yield


async def has_a_block_of_its_own(queue: Queue) -> None:
    async with until_it_is_done():
        await worker(queue)


async def has_a_limit_of_its_own(queue: Queue) -> None:
    async with at_most(60):
        while True:
            await queue.get()


async def checks_what_it_takes(queue: Queue) -> None:
    while True:
        try:
            if await queue.get() is None:
                raise ValueError
        except ValueError:
            print("that is nothing")


async def subscribes_on_one_line(_: Queue) -> None:
    async with FakeAsyncRedis().pubsub() as pubsub:
        await pubsub.subscribe("news")
        # fmt: off
        async for message in pubsub.listen(): print(message)  # noqa: E701
        # fmt: on


async def in_a_case(queue: Queue) -> None:
    match queue.maxsize:
        case 1:
            print("full")
        case _:
            try:
                await worker(queue)
            except ConnectionClosedError:
                print("done")


async def raises_at_its_end(queue: Queue) -> None:
    while True:
        if await queue.get() is None:
            raise DoneError


async def leaves_its_scope(queue: Queue) -> None:
    async with anyio.create_task_group() as group:
        while True:
            if await queue.get() is None:
                group.cancel_scope.cancel()


async def subscribes_until_another_raises(_: Queue) -> None:
    async with FakeAsyncRedis().pubsub() as pubsub:
        await pubsub.subscribe("answer")
        try:
            async for message in pubsub.listen():
                print(message)
        except DoneError:
            print("done")


async def subscribes_until_it_unsubscribes(_: Queue) -> None:
    async with FakeAsyncRedis().pubsub() as pubsub:
        await pubsub.subscribe("answer")
        async for message in pubsub.listen():
            if message["data"] == b"done":
                await pubsub.unsubscribe()


async def has_a_limit_in_a_variable(queue: Queue) -> None:
    limit = asyncio.timeout(60)
    async with limit:
        await worker(queue)


class Answer:
    async def has_a_scope(self, queue: Queue) -> None:
        self.scope = anyio.CancelScope()
        with self.scope:
            await worker(queue)

    def at_most(self, seconds: float) -> Any:
        return at_most(seconds)

    async def has_a_limit_of_its_own(self, queue: Queue) -> None:
        async with self.at_most(60):
            await worker(queue)


async def has_a_limit_in_a_stack(queue: Queue) -> None:
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(asyncio.timeout(60))
        await worker(queue)


SERVES = [
    timeout_worker,
    *(subscribes_on_one_line, checks_what_it_takes, may_be_stopped, _made("await worker(queue)")),
    *(Reader().serves_by_parts, tells_of_its_end, has_a_function_that_returns),
    leaves_a_worker_that_yields,  # which never yields
    *(worker, worker_that_says_goodbye, worker_within, heartbeat, bare),
    *(forgives_in_its_loop, has_a_limit_for_each, subscribes_and_logs_what_ends_it),
    stays_connected,
    *(iterates_over_a_source, iterates_by_each, connects_anew, subscribes),
]


ENDS = [
    *(in_a_case, raises_at_its_end, leaves_its_scope, subscribes_until_another_raises),
    *(subscribes_until_it_unsubscribes, takes_ten, stops_searching, _made()),
    *(gathers_workers, in_a_task_group, has_a_block_of_its_own, has_a_limit_of_its_own),
    *(has_a_scope, tells_of_some_ends, has_a_limit_in_a_variable, has_a_limit_in_a_stack),
    *(Answer().has_a_scope, Answer().has_a_limit_of_its_own),
    *(streams_an_answer, receives_an_answer, reports_until_it_fails, tokens),
    *(leaves_a_source, leaves_a_subscription, until_empty, until_idle, until_a_sentinel),
    *(retries, polls, has_a_limit, may_be_left, in_a_group_of_errors, steps, gathers),
    *(subscribes_for_a_while, subscribes_until_it_raises, has_a_session),
    *(lets_a_worker_work_for_a_while, has_a_limit_for_a_worker, waits_for_workers),
    worker_after_a_start,  # not yet
]


def found_endless(program: Any, is_endless: Any = is_endless) -> bool:
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

    return asyncio.run(main())


@pytest.mark.parametrize("program", [*SERVES, *ENDS])
def test_what_can_return_is_not_endless(program: Any) -> None:
    assert found_endless(program) is (program in SERVES)


# ---------------------------------------------------------------- who waits for tasks


async def awaits_a_worker(queue: Queue) -> None:
    await asyncio.create_task(worker(queue))


async def shields_a_worker(queue: Queue) -> None:
    await asyncio.shield(worker(queue))


async def waits_for_any_worker(queue: Queue) -> None:
    workers = {asyncio.ensure_future(worker(queue)) for _ in range(2)}
    await asyncio.wait(workers, return_when=asyncio.FIRST_COMPLETED)


async def gathers_who_gathers(queue: Queue) -> None:
    await asyncio.gather(gathers_workers(queue), in_a_task_group(queue))


async def gathers_what_has_an_end(queue: Queue) -> None:
    await asyncio.gather(worker(queue), steps(queue))


async def waits_for_a_worker_or_an_answer(queue: Queue) -> None:
    either = {asyncio.ensure_future(each(queue)) for each in (worker, steps)}
    await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)


async def goes_on_behind_an_error(queue: Queue) -> None:
    try:
        await asyncio.gather(worker(queue), worker(queue))
    except DoneError:
        print("done")


async def has_a_limit_around_workers(queue: Queue) -> None:
    async with asyncio.timeout(60):
        await gathers_workers(queue)


async def until_a_scope_is_cancelled(queue: Queue) -> None:
    async with anyio.create_task_group() as group:

        async def run() -> None:
            await worker(queue)
            group.cancel_scope.cancel()

        group.start_soon(run)


async def in_a_group_of_anyios(queue: Queue) -> None:
    async with anyio.create_task_group() as group:
        group.start_soon(worker, queue)


async def stops_slowly(queue: Queue) -> None:
    try:
        await worker(queue)
    finally:
        while True:
            await queue.get()


async def waits_for_who_is_told_to_stop(queue: Queue) -> None:
    stopping = asyncio.create_task(stops_slowly(queue))
    await asyncio.sleep(0)
    stopping.cancel()
    await stopping


FOR_EVER = [
    *(gathers_workers, in_a_task_group, awaits_a_worker, shields_a_worker, waits_for_any_worker),
    *(gathers_who_gathers, in_a_group_of_anyios),
]
FOR_A_WHILE = [
    *(gathers, gathers_what_has_an_end, waits_for_a_worker_or_an_answer, goes_on_behind_an_error),
    *(lets_a_worker_work_for_a_while, waits_for_workers, has_a_limit_around_workers),
    *(waits_for_who_is_told_to_stop, until_a_scope_is_cancelled, steps),
]


@pytest.mark.parametrize("program", [*FOR_EVER, *FOR_A_WHILE])
def test_who_waits_for_tasks_without_an_end_alone_waits_for_ever(program: Any) -> None:
    assert found_endless(program, waits_for_ever) is (program in FOR_EVER)


def test_who_waits_for_the_first_of_several_is_about_to_go_on_when_one_is_done() -> None:
    async def main() -> bool:
        queue: Queue = asyncio.Queue()
        working, answering = (asyncio.ensure_future(each(queue)) for each in (worker, no_steps))
        either = asyncio.wait({working, answering}, return_when=asyncio.FIRST_COMPLETED)
        waiting = asyncio.ensure_future(either)
        while not answering.done():
            await asyncio.sleep(0)
        assert not waiting.done()
        found = waits_for_ever(waiting)
        working.cancel()
        return found

    async def no_steps(_: Queue) -> None:
        await asyncio.sleep(0)

    assert not asyncio.run(main())


# ---------------------------------------------------------------- what everybody has


class Hub:
    queue: Queue
    is_running = True

    def __init__(self) -> None:
        self.is_open = True
        self.stopped = threading.Event()

    async def serves_while_it_runs(self, _: Queue) -> None:
        while self.is_running:
            print(await self.queue.get())

    async def serves_until_it_is_stopped(self, _: Queue) -> None:
        queue = self.queue
        while not self.stopped.is_set():
            with suppress(TimeoutError):
                await asyncio.wait_for(queue.get(), 60)

    async def subscribes_while_it_is_open(self, _: Queue) -> None:
        async with FakeAsyncRedis().pubsub() as pubsub:
            await pubsub.subscribe("news")
            while self.is_open:
                await pubsub.get_message(timeout=60)

    async def logs_what_ends_it(self, _: Queue) -> None:
        try:
            while True:
                await self.queue.get()
        except (asyncio.CancelledError, Exception):
            print("it has failed")

    async def goes_when_its_client_does(self, _: Queue) -> None:
        while True:
            try:
                await self.queue.get()
            except ConnectionClosedError:
                break

    async def forgives_its_end(self, _: Queue) -> None:
        with suppress(Exception):
            while True:
                await self.queue.get()

    async def answers_until_a_sentinel(self, _: Queue) -> None:
        while (await self.queue.get()) is not None:
            print("token")

    async def answers_until_it_knows(self, _: Queue) -> None:
        self.is_open = True
        while self.is_open:
            self.is_open = await self.queue.get() is not None

    async def borrows_until_it_raises(self, _: Queue) -> None:
        try:
            while True:
                connection = await self.queue.get()
                try:
                    if self.is_open:
                        raise DoneError
                finally:
                    print("given back", connection)
        except DoneError:
            print("done")

    async def waits_for_the_end_of_something(self, _: Queue) -> None:
        while self.is_open:
            await asyncio.sleep(60)

    async def borrows_until_there_is_nothing_to_do(self, _: Queue) -> None:
        work = iter(range(10))
        while True:
            connection = await self.queue.get()
            try:
                print(next(work), connection)
            except StopIteration:
                break
            finally:
                self.queue.put_nowait(connection)

    async def receives_an_answer_of_its_own(self, queue: Queue) -> None:
        while self.is_open:
            await queue.get()


class Job(Hub):
    """One that a dictionary has, by its number."""

    def __init__(self) -> None:
        super().__init__()
        self.queue, self.pending = asyncio.Queue(), {1, 2, 3}

    async def works_until_nothing_is_left(self, _: Queue) -> None:
        while self.pending:
            await self.queue.get()


class Counted(Hub):
    is_open_count = 1

    async def serves_and_counts(self, _: Queue) -> None:
        while self.is_open:
            await hub.queue.get()
            self.is_open_count += 1

    async def serves_while_there_is_something(self, _: Queue) -> None:
        while self.is_open_count:
            await hub.queue.get()


class Lazy:
    """As Django's settings, which are read when they are asked for anything."""

    @property  # type: ignore[misc]
    def __class__(self) -> Any:
        raise RuntimeError("not configured")


hub, settings = Hub(), Lazy()  # which are looked at together
counted, jobs = Counted(), {number: Job() for number in range(3)}


async def serves_while_a_module_runs(_: Queue) -> None:
    while is_running:
        await hub.queue.get()


async def serves_while_it_says_so(_: Queue) -> None:
    while not nobodys.is_set():
        await hub.queue.get()


is_running, nobodys = True, asyncio.Event()
EVERYBODYS = [
    *(hub.serves_while_it_runs, hub.serves_until_it_is_stopped, hub.subscribes_while_it_is_open),
    *(hub.logs_what_ends_it, hub.forgives_its_end),
    *(serves_while_a_module_runs, serves_while_it_says_so, counted.serves_and_counts),
]
ITS_OWN = [
    *(jobs[0].works_until_nothing_is_left, jobs[1].serves_while_it_runs),
    *(jobs[2].subscribes_while_it_is_open, counted.serves_while_there_is_something),
    *(hub.answers_until_a_sentinel, hub.answers_until_it_knows),
    *(hub.waits_for_the_end_of_something, hub.borrows_until_there_is_nothing_to_do),
    *(
        hub.receives_an_answer_of_its_own,
        hub.borrows_until_it_raises,
        hub.goes_when_its_client_does,
        Hub().subscribes_while_it_is_open,
    ),
]


@pytest.mark.parametrize("program", [*EVERYBODYS, *ITS_OWN])
def test_a_flag_of_everybodys_and_a_failure_that_is_logged_end_nothing(program: Any) -> None:
    """Where it takes what everybody has, and only then."""
    hub.queue = asyncio.Queue()
    assert found_endless(program) is (program in EVERYBODYS)


def test_the_source_of_what_an_archive_has_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = "async def archived(queue):\n    while True:\n        await queue.get()\n"
    with ZipFile(tmp_path / "app.zip", "w") as archive:
        archive.writestr("of_an_archive.py", source)
    monkeypatch.syspath_prepend(tmp_path / "app.zip")
    assert found_endless(importlib.import_module("of_an_archive").archived)


async def takes_from_everybodys(_: Queue) -> None:
    names = {"a": 1}
    while True:
        print(names.get("a"))
        await hub.queue.get()


async def works_for_everybody(_: Queue) -> None:
    while True:
        print(await hub.queue.get())
        await asyncio.sleep(60)


async def borrows_from_everybody(_: Queue) -> None:
    while True:
        connection = await hub.queue.get()
        hub.queue.put_nowait(connection)
        await asyncio.sleep(60)


class News:
    async def relays(self, _: Queue) -> None:
        self.pubsub = FakeAsyncRedis().pubsub()
        await self.pubsub.subscribe("news")
        async for message in self.pubsub.listen():
            print(message)


news = News()


@pytest.mark.parametrize("is_beside", [False, True])
@pytest.mark.parametrize("program", [news.relays, subscribes])
def test_a_subscription_that_no_module_has_is_part_of_the_work_beside(
    program: Any, *, is_beside: bool
) -> None:
    found = found_endless(program, lambda task: is_everybodys(task, is_beside=is_beside))
    assert found is (program != subscribes or not is_beside)


class Room:
    def __init__(self) -> None:
        self.queue: Queue = asyncio.Queue()

    async def listens(self, _: Queue) -> None:
        while True:
            await self.queue.get()


class Rooms:
    def __init__(self) -> None:
        self.open = {"lobby": Room()}


managed = Rooms()
rooms = {"garden": Room()}


@cache
def the_room() -> Room:
    return Room()


@lru_cache
def room_of(_: str) -> Room:
    return Room()


async def takes_from_its_own(queue: Queue) -> None:
    while True:
        await queue.get()


in_a_room = [
    *(Room().listens, rooms["garden"].listens, managed.open["lobby"].listens),
    *(the_room().listens, room_of("cellar").listens),
]


@pytest.mark.parametrize(
    "program",
    [
        *(takes_from_everybodys, works_for_everybody, takes_from_its_own, borrows_from_everybody),
        *in_a_room,
    ],
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

    its_own = takes_from_its_own, borrows_from_everybody, in_a_room[0]
    assert asyncio.run(main()) is (program not in its_own)


def test_what_has_no_loop_without_an_end_is_not_parsed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loop of whoever asks stands still meanwhile."""
    steps = "".join(f"    for each in [{n}, 'a', ()]:\n        print(each)\n" for n in range(1000))
    text = f"import asyncio\nasync def work(queue):\n    await asyncio.sleep(60)\n{steps}"
    (tmp_path / "of_2000_lines.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    work = importlib.import_module("of_2000_lines").work

    def took_ns(does: Callable[[], object]) -> int:
        began = time.thread_time_ns()
        does()
        return time.thread_time_ns() - began

    async def main() -> None:
        task = asyncio.create_task(work(Queue()))
        await asyncio.sleep(0)
        assert took_ns(partial(is_endless, task)) * 4 < took_ns(partial(ast.parse, text))
        assert not is_endless(task)
        task.cancel()

    asyncio.run(main())
