"""Whose work it was: who is named had it most of the time; where it is not known, nobody is."""

import asyncio
import gc
import sys
import threading
import time
import types
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext, suppress
from contextvars import Context
from functools import partial
from typing import Any
from weakref import ref

import anyio.to_thread
import pytest
from asgiref.sync import sync_to_async
from opentelemetry.context import attach, set_value

from otel_logging import _runtime, bind_context, carry, detached, handoff, taking, traced, waiting
from otel_logging.handover import Handoff
from tests.conftest import Service
from tests.lateness.test_why import of_user, shares
from tests.receiver import Span

BUDGET_S = 0.1


async def turn(
    user: str, work: Callable[[], Awaitable[Any]], budget: float | None = 30.0, after: float = 0.0
) -> None:
    """A user's turn; *after* so many seconds."""
    await asyncio.sleep(after)
    with traced("turn", root=True, budget=budget):
        bind_context(user_id=user)
        await work()


def blamed(service: Service, user: str = "bob", name: str = "turn") -> Any:
    """Return the cause, the culprit, and whose it was, of the stage *name* of *user*."""
    found = of_user(service, user, name).attributes
    keys = ("late.cause", "late.culprit", "late.culprit.user_id")
    return tuple(found.get(key) for key in keys)


# ---------------------------------------------------------------- locks


def test_who_gives_up_at_once_has_got_nothing(service: Service) -> None:
    async def gives_up() -> None:
        with suppress(TimeoutError), waiting("lock", name="stock"):
            raise TimeoutError
        await asyncio.sleep(0.4)

    async def waits() -> None:
        with waiting("lock", name="stock"):
            await asyncio.sleep(0.3)

    async def main() -> None:
        await asyncio.gather(turn("alice", gives_up), turn("bob", waits, BUDGET_S, after=0.02))

    asyncio.run(main())
    assert blamed(service) == ("lock", None, None)


class Unprintable:
    """What has no text."""

    def __str__(self) -> str:
        raise ValueError

    __repr__ = __str__


class Inventory:
    """A lock that is waited for as the documentation says."""

    def __init__(self) -> None:
        self.lock = asyncio.Lock()

    async def get(self) -> None:
        with waiting("lock", name="inventory"):
            await self.lock.acquire()

    async def use(self, seconds: float) -> None:
        await self.get()
        await asyncio.sleep(seconds)
        self.lock.release()

    async def use_and_go_on(self, seconds: float = 0.005) -> None:
        """Have it for a moment, in a stage that is long."""
        await self.use(seconds)
        await asyncio.sleep(0.4)

    async def use_without_a_word(self) -> None:
        async with self.lock:
            await asyncio.sleep(0.3)


async def in_no_stage(work: Awaitable[Any]) -> None:
    await asyncio.sleep(0.02)
    await work


@pytest.mark.parametrize("holder", ["in no stage", "without a budget", "without a word"])
def test_who_had_a_lock_before_is_not_blamed_for_who_has_it(service: Service, holder: str) -> None:
    """Alice has given it back and goes on; somebody who is not known has it."""

    async def main() -> None:
        it = Inventory()
        somebody = {
            "in no stage": lambda: in_no_stage(it.use(0.3)),
            "without a budget": lambda: turn("carol", lambda: it.use(0.3), None, 0.02),
            "without a word": lambda: turn("carol", it.use_without_a_word, after=0.02),
        }[holder]
        await asyncio.gather(
            turn("alice", it.use_and_go_on),
            somebody(),
            turn("bob", lambda: it.use(0), BUDGET_S, 0.04),
        )

    asyncio.run(main())
    assert blamed(service) == ("lock", None, None)


def test_who_got_a_lock_last_is_blamed(service: Service) -> None:
    """Not who had it before, and goes on."""

    async def main() -> None:
        it = Inventory()
        await asyncio.gather(
            turn("alice", it.use_and_go_on),
            turn("carol", lambda: it.use(0.3), after=0.02),
            turn("bob", lambda: it.use(0), BUDGET_S, 0.04),
        )

    asyncio.run(main())
    assert blamed(service) == ("lock", "turn", "carol")


def test_who_gave_up_has_no_lock(service: Service) -> None:
    """Alice has it all the time; carol waited as well, and went on without it."""

    async def main() -> None:
        it = Inventory()

        async def give_up() -> None:
            with suppress(TimeoutError):
                await asyncio.wait_for(it.get(), 0.05)
            await asyncio.sleep(0.5)

        await asyncio.gather(
            turn("alice", lambda: it.use(0.3)),
            turn("carol", give_up, after=0.01),
            turn("bob", lambda: it.use(0), BUDGET_S, 0.02),
        )

    asyncio.run(main())
    assert blamed(service) == ("lock", "turn", "alice")


class Large:
    """What a request has, and its context."""


def test_who_had_a_lock_last_keeps_nothing_else_of_its_request(service: Service) -> None:
    """Hundreds are known for a while, each with what it is asked for, its name and whose it was."""
    large = Large()
    gone = ref(large)

    async def get(kept: Large) -> None:
        attach(set_value("kept", kept))
        with traced("turn", budget=BUDGET_S), traced("step"), waiting("lock", name="inventory"):
            pass

    async def main(kept: Large) -> None:
        await asyncio.create_task(get(kept))

    asyncio.run(main(large))
    del large
    gc.collect()
    assert gone() is None


@pytest.mark.parametrize(
    ("fields", "detail"),
    [
        ({"name": "inventory", "shard": 3}, "inventory 3"),
        ({"name": Unprintable()}, "<unprintable Unprintable>"),
        ({"name": "redis", "password": "hunter2Xq"}, "redis [redacted:password]"),
    ],
    ids=["plain", "whose text fails", "secret"],
)
def test_what_is_waited_for_is_recorded_as_any_field_is(
    service: Service, fields: dict[str, Any], detail: str
) -> None:
    with traced("turn", budget=BUDGET_S), waiting("lock", **fields):
        time.sleep(BUDGET_S * 2)
    assert service.one("turn").attributes["late.detail"] == detail


def test_who_waits_in_vain_blames_who_stands_there_with_the_lock(service: Service) -> None:
    async def main() -> None:
        it = Inventory()

        async def give_up() -> None:
            with suppress(TimeoutError), waiting("lock", name="inventory"):
                await asyncio.wait_for(it.lock.acquire(), 0.2)

        await asyncio.gather(
            turn("alice", lambda: it.use(0.4)), turn("bob", give_up, BUDGET_S, 0.02)
        )

    asyncio.run(main())
    assert blamed(service) == ("lock", "turn", "alice")


@pytest.mark.parametrize(("users", "who"), [("abcd", None), ("aaabc", "a")])
def test_who_is_blamed_had_it_most_of_the_time(
    service: Service, users: str, who: str | None
) -> None:
    """Once, or again and again."""

    async def main() -> None:
        it = Inventory()
        before = [turn(each, lambda: it.use(0.06)) for each in users]
        await asyncio.gather(*before, turn("bob", lambda: it.use(0), BUDGET_S, 0.001))

    asyncio.run(main())
    assert blamed(service) == ("lock", who and "turn", who)


@pytest.mark.parametrize("cause", ["lock", "pool"])
@pytest.mark.parametrize("how", ["ends", "goes on", "begin"])
def test_who_is_bound_after_it_is_not_blamed_for_what_one_before_had(
    service: Service, cause: str, how: str
) -> None:
    """One stage works for user after user: bob waited while it was alice's."""

    async def for_each() -> None:
        stage = traced("rebalance", root=True, budget=30.0)
        opened = stage.begin() if how == "begin" else None
        with nullcontext() if opened else stage:
            for user in ("alice", "carol"):
                bind_context(user_id=user)
                await use(0.2 if user == "alice" else 0.0)
            await asyncio.sleep(0.0 if how == "ends" else 0.05)
        if opened:
            opened.end()

    async def use(seconds: float) -> None:
        with waiting(cause, name="portfolio"):
            await lock.acquire()
        await asyncio.sleep(seconds)
        lock.release()

    async def main() -> None:
        bob = turn("bob", lambda: use(0), BUDGET_S, after=0.01)
        await asyncio.gather(asyncio.create_task(for_each()), asyncio.create_task(bob))

    lock = asyncio.Lock()
    asyncio.run(main())
    assert blamed(service) == (cause, "rebalance", None)


@pytest.mark.parametrize(("then", "who"), [("carol", None), ("alice", "alice")])
def test_who_is_bound_after_it_is_not_blamed_for_a_thread_that_one_before_had(
    service: Service, then: str, who: str | None
) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        with ThreadPoolExecutor(1) as pool:

            async def for_each() -> None:
                with traced("rebalance", root=True, budget=30.0):
                    bind_context(user_id="alice")
                    work = loop.run_in_executor(pool, time.sleep, 0.2)
                    await asyncio.sleep(0.05)
                    bind_context(user_id=then)
                    await work

            async def waits() -> None:
                await loop.run_in_executor(pool, time.sleep, 0)

            await asyncio.gather(for_each(), turn("bob", waits, BUDGET_S, after=0.01))

    asyncio.run(main())
    cause, _, user = blamed(service)
    assert (cause, user) == ("pool", who)


async def slow() -> None:
    for _ in range(10):
        await asyncio.sleep(0.05)


async def beside_what_is_slower(wait: Callable[[], Awaitable[None]]) -> None:
    await asyncio.gather(slow(), wait())


async def before_what_is_slower(wait: Callable[[], Awaitable[None]]) -> None:
    await asyncio.gather(wait(), slow())


async def beside_what_comes_first(wait: Callable[[], Awaitable[None]]) -> None:
    tasks = [asyncio.create_task(each()) for each in (wait, partial(asyncio.sleep, 0.25))]
    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)


async def for_nothing_of_its_task(wait: Callable[[], Awaitable[None]]) -> None:
    task = asyncio.create_task(wait())
    await slow()
    await task


async def beside_what_is_quicker(wait: Callable[[], Awaitable[None]]) -> None:
    await asyncio.gather(wait(), asyncio.sleep(0.01), wait())


async def until_it_comes_first(wait: Callable[[], Awaitable[None]]) -> None:
    tasks = [asyncio.create_task(each()) for each in (wait, partial(asyncio.sleep, 9))]
    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    tasks[1].cancel()


async def below_a_stage(wait: Callable[[], Awaitable[None]]) -> None:
    with traced("load"):
        await asyncio.gather(wait(), asyncio.sleep(0.01))


async def in_time_or_not(wait: Callable[[], Awaitable[None]]) -> None:
    with suppress(TimeoutError):
        await asyncio.wait_for(wait(), 0.25)


def test_a_wait_of_the_task_that_works_on_a_turn_counts(service: Service) -> None:
    """Though another began it, and has ended."""

    async def begins(it: Inventory) -> "asyncio.Task[None]":
        begun = traced("turn", root=True, budget=BUDGET_S).begin()
        bind_context(user_id="bob")
        return asyncio.create_task(works(begun, it))

    async def works(begun: Any, it: Inventory) -> None:
        await it.use(0.0)
        begun.end()

    async def main() -> None:
        it = Inventory()
        alice = asyncio.create_task(turn("alice", lambda: it.use(0.3)))
        await asyncio.sleep(0.01)
        await (await asyncio.create_task(begins(it)))
        await alice

    asyncio.run(main())
    assert blamed(service) == ("lock", "turn", "alice")


@pytest.mark.parametrize(
    ("works", "cause", "who"),
    [
        *((beside_what_is_slower, "unknown", None), (beside_what_comes_first, "unknown", None)),
        *((for_nothing_of_its_task, "unknown", None), (before_what_is_slower, None, None)),
        *((beside_what_is_quicker, "lock", "alice"), (until_it_comes_first, "unknown", None)),
        *((below_a_stage, "lock", "alice"), (in_time_or_not, "lock", "alice")),
    ],
)
def test_a_wait_of_another_task_counts_if_the_stage_waited_for_that(
    service: Service, works: Callable[..., Awaitable[None]], cause: str | None, who: str | None
) -> None:
    """*cause* None: where it stood is where the first of several does, for as long as the other."""

    async def main() -> None:
        it = Inventory()
        await asyncio.gather(
            turn("alice", lambda: it.use(0.3)),
            turn("bob", lambda: works(lambda: it.use(0)), BUDGET_S, 0.01),
        )

    asyncio.run(main())
    found, _, user = blamed(service)
    assert (found, user) == (cause or found, who)


# ---------------------------------------------------------------- pools


def hold(seconds: float) -> None:
    time.sleep(seconds)


def in_thread(pool: ThreadPoolExecutor, seconds: float) -> Callable[[], Awaitable[None]]:
    async def work() -> None:
        await asyncio.get_running_loop().run_in_executor(pool, hold, seconds)

    return work


def test_another_pool_of_the_same_name_has_nothing_to_do_with_it(service: Service) -> None:
    async def main() -> None:
        with ThreadPoolExecutor(1, "session") as one, ThreadPoolExecutor(1, "session") as other:
            await asyncio.gather(
                turn("alice", in_thread(other, 0.5)),
                turn("carol", in_thread(one, 0.3)),
                turn("bob", in_thread(one, 0), BUDGET_S, 0.02),
            )

    asyncio.run(main())
    assert blamed(service) == ("pool", "hold", "carol")
    assert of_user(service, "bob").attributes["late.detail"] == "session"


@pytest.mark.parametrize(("alices", "who"), [(1, "carol"), (3, None)])
@pytest.mark.parametrize("kind", ["executor", "waiting"])
def test_who_is_blamed_had_most_of_the_pool(
    service: Service, kind: str, alices: int, who: str | None
) -> None:
    """Not who had one of many for longer; where two had as much of it, nobody is."""

    async def main() -> None:
        connections = asyncio.Semaphore(3 + alices)

        async def connected(seconds: float) -> None:
            with waiting("pool", name="shop"):
                await connections.acquire()
            await asyncio.sleep(seconds)
            connections.release()

        with ThreadPoolExecutor(3 + alices) as pool:

            async def use(number: int, seconds: float) -> None:
                one = (
                    in_thread(pool, seconds) if kind == "executor" else partial(connected, seconds)
                )
                await asyncio.gather(*[one() for _ in range(number)])

            await asyncio.gather(
                turn("alice", partial(use, alices, 0.4)),
                turn("carol", partial(use, 3, 0.3), after=0.02),
                turn("bob", partial(use, 1, 0.0), BUDGET_S, after=0.04),
            )

    asyncio.run(main())
    cause, _, user = blamed(service)
    assert (cause, user) == ("pool", who)


@pytest.mark.parametrize("report", ["in no stage", "without a budget"])
def test_who_gave_a_connection_back_is_not_blamed_for_who_has_it(
    service: Service, report: str
) -> None:
    """Alice goes on in her stage; somebody who is not known has the only one."""

    async def main() -> None:
        connection = asyncio.Semaphore(1)

        async def connected(seconds: float, after: float = 0.0) -> None:
            with waiting("pool", name="database"):
                await connection.acquire()
            await asyncio.sleep(seconds)
            connection.release()
            await asyncio.sleep(after)

        use = partial(connected, 0.3)
        await asyncio.gather(
            turn("alice", partial(connected, 0.0, 0.5)),
            in_no_stage(use()) if report == "in no stage" else turn("carol", use, None, 0.02),
            turn("bob", partial(connected, 0.0), BUDGET_S, 0.04),
        )

    asyncio.run(main())
    assert blamed(service) == ("pool", None, None)


def test_work_of_no_stage_is_named_by_its_function(service: Service) -> None:
    """Not whose work had the thread for a moment."""

    async def main() -> None:
        with ThreadPoolExecutor(1) as pool:

            async def sweep() -> None:
                await asyncio.get_running_loop().run_in_executor(pool, time.sleep, 0.3)

            await asyncio.gather(
                turn("alice", in_thread(pool, 0.05)),
                in_no_stage(sweep()),
                turn("bob", in_thread(pool, 0), BUDGET_S, 0.04),
            )

    asyncio.run(main())
    assert blamed(service) == ("pool", "sleep", None)


def test_work_of_asgiref_is_named_by_its_function(service: Service) -> None:
    """As every query of Django's is, in an asynchronous view or a consumer of Channels."""

    async def main() -> None:
        await asyncio.gather(
            turn("alice", lambda: sync_to_async(hold)(0.3)),
            turn("bob", lambda: sync_to_async(hold)(0), BUDGET_S, 0.02),
        )

    asyncio.run(main())
    assert blamed(service) == ("pool", "hold", "alice")


# ---------------------------------------------------------------- queues


@pytest.mark.parametrize("way", ["taking", "stage", "in no stage"])
def test_who_is_blamed_for_a_queue_is_whom_its_worker_worked_for(
    service: Service, way: str
) -> None:
    """Longest; with a budget or without. Where that is not known, nobody is."""
    work = {"zed": (0.02, 30.0), "alice": (0.3, None), "bob": (0.0, BUDGET_S)}

    async def main() -> None:
        queue: asyncio.Queue[Handoff[str]] = asyncio.Queue()

        async def one(got: Handoff[str]) -> None:
            seconds, budget = work[got.item]
            stage: Any = taking(got, name="deliver", budget=budget)
            if got.item == "alice" and way != "taking":
                root = traced("deliver", root=True, user_id="alice")
                stage = root if way == "stage" else nullcontext()
            with stage:
                await asyncio.sleep(seconds)

        async def worker() -> None:
            while True:
                await one(await queue.get())

        for user in work:
            with traced("post", root=True):
                bind_context(user_id=user)
                await queue.put(handoff(user))
        running = asyncio.create_task(worker())
        await asyncio.sleep(0.5)
        running.cancel()

    asyncio.run(main())
    known = (None, None) if way == "in no stage" else ("deliver", "alice")
    assert blamed(service, "bob", "deliver") == ("queue", *known)


def test_a_wait_for_a_worker_names_whom_it_worked_for(service: Service) -> None:
    """Each of their turns has a budget, and a thousand turns of others end meanwhile."""

    async def main() -> None:
        queue: asyncio.Queue[Handoff[Any]] = asyncio.Queue()

        async def asks(user: str) -> None:
            answer = asyncio.get_running_loop().create_future()
            await queue.put(handoff((user, answer)))
            await answer

        async def worker() -> None:
            while True:
                handed = await queue.get()
                with taking(handed, name="answer"):
                    user, answer = handed.item
                    if user == "bob":
                        for _ in range(11):
                            await asyncio.gather(*[other() for _ in range(100)])
                    await asyncio.sleep(0.3 if user == "alice" else 0.0)
                    answer.set_result(None)

        async def other() -> None:
            with traced("other", root=True, budget=30.0):
                pass

        running = asyncio.create_task(worker())
        await asyncio.gather(
            turn("alice", partial(asks, "alice")), turn("bob", partial(asks, "bob"), BUDGET_S, 0.01)
        )
        running.cancel()

    for _ in range(5):
        asyncio.run(main())
        found = of_last(service, "bob").attributes
        if found["late.cause"] == "queue":  # else the machine had other things to do
            break
    assert (found["late.culprit"], found["late.culprit.user_id"]) == ("answer", "alice")


# ---------------------------------------------------------------- event loops


async def blocks(seconds: float) -> None:
    time.sleep(seconds)


@pytest.mark.parametrize("run", ["asyncio", "uvloop"])
def test_who_blocks_longest_is_named_where_no_stage_is_open_meanwhile(
    service: Service, run: str
) -> None:
    """Two tasks go on after their requests; bob's work waits in a queue."""

    async def later(ready: asyncio.Event, seconds: float) -> None:
        await ready.wait()
        time.sleep(seconds)

    async def takes(queue: asyncio.Queue[Handoff[str]]) -> None:
        with taking(await queue.get(), name="deliver", budget=BUDGET_S):
            await asyncio.sleep(0)

    async def main() -> None:
        ready, queue, tasks = asyncio.Event(), asyncio.Queue[Handoff[str]](), []
        for user, seconds in (("carol", 0.25), ("dave", 0.8)):
            with traced("upload", root=True):
                bind_context(user_id=user)
                tasks.append(asyncio.create_task(later(ready, seconds)))
        tasks.append(asyncio.create_task(takes(queue)))
        await asyncio.sleep(0.1)
        with traced("order", root=True, budget=30.0):
            bind_context(user_id="bob")
            ready.set()
            queue.put_nowait(handoff("an order"))
        await asyncio.gather(*tasks)

    asyncio.run(main()) if run == "asyncio" else pytest.importorskip("uvloop").run(main())
    assert blamed(service, name="deliver")[::2] == ("loop", "dave")


def test_a_block_without_an_end_takes_no_more_memory(service: Service) -> None:

    async def main() -> None:
        with traced("turn", budget=30.0):
            await asyncio.sleep(0)
            time.sleep(0.08)
            pauses = _runtime.current.watch.pauses
            for _ in range(2500):
                pauses.look(time.perf_counter_ns())
            (heart,) = pauses.hearts.values()
            assert 500 <= len(heart.seen) <= 1000

    asyncio.run(main())


def collects() -> None:
    heap, until = [[n] for n in range(1_000_000)], time.perf_counter() + 0.3
    while time.perf_counter() < until:
        gc.collect()
    heap.clear()


def test_a_task_that_has_the_memory_of_another_has_not_its_work(service: Service) -> None:
    """Of one that nobody had started, and that has ended."""

    async def main() -> None:
        loop = asyncio.get_running_loop()

        async def ends() -> int:
            task = loop.create_task(blocks(0.3), context=Context())
            await task
            return id(task)

        async def delivers(handed: Handoff[str]) -> None:
            with taking(handed, name="turn", budget=BUDGET_S):
                bind_context(user_id="bob")

        handed = handoff("order")
        deliveries = [delivers(handed) for _ in range(100)]
        with traced("report", budget=30.0):  # the loop is watched
            address = await ends()
            await asyncio.sleep(0)  # the loop had it still
            tasks = [loop.create_task(each, context=Context()) for each in deliveries]
            at = [id(task) for task in tasks].index(address)
            for task in tasks[:at] + tasks[at + 1 :]:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    asyncio.run(main())
    cause, culprit, user = blamed(service)
    assert (cause, culprit[:8], user) == ("loop", "blocks (", None)


async def asks_of_a_timer(works: Callable[[], object]) -> None:
    asyncio.get_running_loop().call_later(0.1, works)


@pytest.mark.parametrize(
    ("works", "cause"), [(partial(time.sleep, 0.3), "loop"), (collects, "gc")], ids=["loop", "gc"]
)
def test_a_callback_of_a_request_that_has_ended_is_nobodys(
    service: Service, works: Callable[[], object], cause: str
) -> None:
    """It serves others: whoever was the first to use a timer, or a connection, began it."""

    async def main() -> None:
        await asyncio.create_task(turn("alice", partial(asks_of_a_timer, works)))
        await asyncio.create_task(turn("bob", partial(asyncio.sleep, 0.15), BUDGET_S))

    asyncio.run(main())
    found, _, user = blamed(service)
    assert (found, user) == (cause, None)


def test_of_a_block_each_has_its_own_part(service: Service) -> None:
    """Two block the loop in one turn of it; a third one does so itself, after another."""

    async def itself() -> None:
        await asyncio.sleep(0.01)
        time.sleep(0.2)
        await asyncio.sleep(0.01)

    async def later() -> None:
        await asyncio.sleep(0.01)
        await turn("erin", lambda: blocks(0.3), None)

    async def main() -> None:
        await asyncio.gather(
            turn("bob", lambda: asyncio.sleep(0.02), BUDGET_S),
            turn("alice", lambda: blocks(0.3), None),
            turn("dave", lambda: blocks(0.2), None),
        )
        await asyncio.sleep(0.05)
        await asyncio.gather(later(), turn("carol", itself, 0.3))

    asyncio.run(main())
    assert blamed(service)[::2] == ("loop", "alice")
    assert shares(of_user(service, "bob"))["loop"] > 0.45
    told = str(of_user(service, "bob").attributes["late.why"])
    assert 240 < int(told.split(": ")[1].split(" ms behind")[0]) < 400
    assert blamed(service, "carol")[::2] == ("loop", "erin")
    found = shares(of_user(service, "carol"))
    assert 0.24 < found["loop"] < 0.4
    assert found["cpu"] > 0.12


# ---------------------------------------------------------------- the interpreter


def burn(seconds: float) -> None:
    until = time.perf_counter() + seconds
    while time.perf_counter() < until:
        sum(range(50))


def test_a_loop_that_waits_for_the_interpreter_is_not_blocked(service: Service) -> None:
    """By threads that compute for somebody: who that is, is named."""

    async def many() -> None:
        await asyncio.gather(*[asyncio.to_thread(burn, 0.8) for _ in range(4)])

    async def sleeps() -> None:
        for _ in range(20):
            await asyncio.sleep(0.001)

    async def main() -> None:
        await turn("alice", lambda: asyncio.to_thread(burn, 0.3), BUDGET_S)
        await asyncio.gather(turn("carol", many), turn("bob", sleeps, BUDGET_S, 0.1))

    for _ in range(5):
        asyncio.run(main())
        alice, bob = (of_last(service, user) for user in ("alice", "bob"))
        if shares(bob).get("loop", 0) < 0.05:  # else the machine had other things to do
            break
    assert shares(bob).get("loop", 0) < 0.05
    assert bob.attributes.get("late.culprit.user_id", "carol") == "carol"
    assert alice.attributes["late.cause"] != "loop"
    assert alice.attributes.get("late.culprit.user_id", "alice") == "alice"


def of_last(service: Service, user: str) -> Span:
    return [each for each in service.named("turn") if each.attributes["user_id"] == user][-1]


def holds(begun: threading.Event) -> None:
    begun.set()
    sum(range(15_000_000))  # in one call, which never lets the interpreter go


@pytest.mark.parametrize("budget", [30.0, None])
def test_a_thread_that_once_began_a_turn_does_not_compute_for_it(
    service: Service, budget: float | None
) -> None:
    """What it did is named, and nobody for it."""
    begun = threading.Event()

    def dispatch() -> None:
        opened = traced("zed's", root=True, budget=budget).begin()
        bind_context(user_id="zed")
        with detached():
            holds(begun)
        opened.end()

    dispatcher = threading.Thread(target=dispatch)
    with traced("turn", root=True, budget=BUDGET_S):
        bind_context(user_id="bob")
        time.sleep(0.06)  # the watching thread has looked
        dispatcher.start()
        begun.wait()
        time.sleep(0.01)
    dispatcher.join()
    cause, culprit, who = blamed(service)
    assert who is None
    assert (cause, culprit) == ("unknown", None) or "(test_culprits.py:" in str(culprit)


def test_who_carried_work_into_a_thread_is_named_for_what_it_computes(service: Service) -> None:
    def work(begun: threading.Event, late: threading.Event) -> None:
        nothing()  # it ends, and the thread still works for her
        holds(begun)
        late.wait(5)

    for i in range(5):
        begun, late = threading.Event(), threading.Event()
        with traced("turn", root=True):
            bind_context(user_id="alice")
            nothing = carry(bool)
            worker = threading.Thread(target=carry(work), args=(begun, late))
            with traced("turn", root=True, budget=BUDGET_S):
                bind_context(user_id=f"bob{i}")
                time.sleep(0.06)
                worker.start()
                begun.wait()
                time.sleep(0.01)
            late.set()
            worker.join()
        if blamed(service, f"bob{i}")[0] == "cpu":  # else the machine had other things to do
            break
    assert blamed(service, f"bob{i}")[::2] == ("cpu", "alice")


@contextmanager
def connects() -> Iterator[None]:
    with traced("database", budget=BUDGET_S):
        yield


@traced("database", budget=BUDGET_S)
def reads() -> Iterator[None]:
    yield
    yield


@pytest.mark.parametrize("way", ["connects", "reads"])
def test_a_thread_of_a_framework_works_for_whose_function_it_runs(
    service: Service, way: str
) -> None:
    """As FastAPI's does, whose dependency has left a stage open there; that has not done it."""

    async def main(user: str) -> None:
        begun, late, limiter = threading.Event(), threading.Event(), anyio.CapacityLimiter(1)
        in_it: Any = partial(anyio.to_thread.run_sync, limiter=limiter)

        def work() -> None:
            holds(begun)
            late.wait(5)

        async def depends() -> None:
            if way == "connects":
                database = connects()
                await in_it(database.__enter__)
                await asyncio.sleep(0.2)
                await in_it(database.__exit__, None, None, None)
            else:
                rows = reads()
                await in_it(next, rows)
                await asyncio.sleep(0.2)
                await in_it(list, rows)

        async def waits() -> None:
            await asyncio.sleep(0.12)
            late.set()

        await asyncio.gather(
            turn("zed", depends),
            turn("alice", lambda: in_it(work), after=0.07),
            turn(user, waits, BUDGET_S, 0.02),
        )

    for i in range(5):
        asyncio.run(main(f"bob{i}"))
        if blamed(service, f"bob{i}")[0] == "cpu":  # else the machine had other things to do
            break
    assert blamed(service, f"bob{i}")[::2] == ("cpu", "alice")
    left = service.named("database")[-1].attributes
    assert left.get("late.culprit.user_id", "alice") == "alice"
    assert "work" not in str(left.get("late.where"))
    assert left["late.cause"] != "cpu" or "late.culprit" in left


def test_a_thread_without_code_of_the_application_is_not_known(service: Service) -> None:
    other = threading.Thread(target=sum, args=(range(15_000_000),))
    with traced("turn", root=True, budget=BUDGET_S):
        bind_context(user_id="bob")
        time.sleep(0.06)
        other.start()
        time.sleep(0.01)
    other.join()
    assert blamed(service)[1:] == (None, None)


def test_who_keeps_the_interpreter_blames_nobody_for_it(service: Service) -> None:
    """It is let go of by the end alone."""
    interval = sys.getswitchinterval()
    with traced("turn", root=True, budget=BUDGET_S):
        bind_context(user_id="bob")
        time.sleep(0.06)
        sys.setswitchinterval(5)
        sum(range(15_000_000))
    sys.setswitchinterval(interval)
    assert blamed(service)[1:] == (None, None)


def test_a_stage_that_ends_where_a_lock_is_held_waits_for_no_look_that_wants_it(
    service: Service,
) -> None:
    """The garbage collector ends one in the midst of anything, of the start of a thread too."""
    opened = traced("turn", budget=BUDGET_S).begin()
    watch: Any = _runtime.current.watch
    hunting, until = watch.watchdog._hunting, time.monotonic() + 10
    with threading._active_limbo_lock:  # type: ignore[attr-defined]  # who lists threads wants it
        while hunting.acquire(blocking=False):
            hunting.release()
            assert time.monotonic() < until
            time.sleep(0.01)
        time.sleep(BUDGET_S)
        began = time.monotonic()
        opened.end()
        assert time.monotonic() - began < 5
    assert service.named("turn")[0].attributes["late"] is True


# ---------------------------------------------------------------- calls


def test_a_wait_for_a_pool_that_is_seen_in_a_clients_call_is_the_pool(service: Service) -> None:
    """As httpx's, below the span of its instrumentation."""
    module = types.ModuleType("library")
    text = "async def acquire(wait):\n    await wait()\n"
    exec(compile(text, "/srv/site-packages/client/connection_pool.py", "exec"), vars(module))

    async def call() -> None:
        with traced("GET", kind="client"):
            await module.acquire(lambda: asyncio.sleep(0.3))

    asyncio.run(turn("bob", call, BUDGET_S))
    assert blamed(service) == ("pool", None, None)
    found = of_user(service, "bob")
    assert shares(found)["pool"] > 0.15
    assert "[in acquire (connection_pool.py:2)]" in str(found.attributes["late.detail"])
