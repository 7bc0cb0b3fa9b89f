"""Whose work it was: who is named had it most of the time; where it is not known, nobody is."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext, suppress
from typing import Any

import pytest

from otel_logging import bind_context, handoff, taking, traced, waiting
from otel_logging.handover import Handoff
from tests.conftest import Service
from tests.lateness.test_why import of_user

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
