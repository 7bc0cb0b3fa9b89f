"""Who only stood there while a stage was late is not named, nor is what was not waited for."""

import asyncio
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest
import redis
import redis.asyncio
from greenlet import getcurrent, greenlet
from redis.backoff import ConstantBackoff

from otel_logging import bind_context, traced
from tests.conftest import Service
from tests.lateness.test_culprits import BUDGET_S, blamed, blocks, burn, holds, of_last, turn
from tests.lateness.test_why import of_user, shares

# ---------------------------------------------------------------- the interpreter


async def writes(until: threading.Event) -> None:
    """Let the interpreter go often, as who answers many users does."""
    with Path(os.devnull).open("wb", buffering=0) as file:
        while not until.is_set():
            for _ in range(20):
                file.write(b"token")
            await asyncio.sleep(0)


def test_who_only_writes_while_another_keeps_the_interpreter_blocks_no_loop(
    service: Service,
) -> None:
    """The task stands in the midst of a write, and its thread computes nothing."""
    over = threading.Event()

    def report() -> None:
        time.sleep(0.06)
        holds(threading.Event())
        over.set()

    async def main() -> None:
        await asyncio.gather(
            turn("carol", lambda: writes(over)),
            turn("alice", lambda: asyncio.to_thread(report)),
            turn("bob", lambda: asyncio.to_thread(over.wait), BUDGET_S),
        )

    asyncio.run(main())
    assert blamed(service)[2] in ("alice", None)


def test_who_sleeps_on_the_loop_blocks_it_also_while_another_computes(service: Service) -> None:

    async def main() -> None:
        await asyncio.gather(
            turn("alice", lambda: asyncio.to_thread(burn, 0.3)),
            turn("carol", lambda: blocks(0.4), after=0.02),
            turn("bob", lambda: asyncio.sleep(0.05), BUDGET_S),
        )

    asyncio.run(main())
    assert blamed(service)[::2] == ("loop", "carol")


def bobs_turn(work: Callable[[], object]) -> None:
    with traced("turn", root=True, budget=BUDGET_S):
        bind_context(user_id="bob")
        work()


def while_alice_computes(work: Callable[[], object], over: Callable[[], object]) -> None:
    """Have bob's thread do *work* while alice keeps the interpreter, and call *over* after it."""
    with ThreadPoolExecutor() as pool:
        bob = pool.submit(bobs_turn, work)
        time.sleep(0.2)
        with traced("upload", root=True, budget=30.0):
            bind_context(user_id="alice")
            holds(threading.Event())
            time.sleep(0.1)
        over()
        bob.result()


def test_a_thread_that_waits_for_something_else_does_not_wait_for_the_interpreter(
    service: Service,
) -> None:
    """It would have waited as long without her who kept that."""
    read, write = os.pipe()
    while_alice_computes(lambda: os.read(read, 1), lambda: os.write(write, b"x"))
    os.close(read)
    os.close(write)
    assert blamed(service) == ("unknown", None, None)


def test_a_thread_that_waits_for_one_that_is_kept_from_the_interpreter_waits_for_that(
    service: Service,
) -> None:
    over = threading.Event()

    def many_calls() -> None:
        while not over.is_set():
            time.sleep(0.001)

    with ThreadPoolExecutor() as pool:
        while_alice_computes(lambda: pool.submit(many_calls).result(), over.set)
    assert shares(of_user(service, "bob"))["cpu"] > 0.1


# ---------------------------------------------------------------- parts of a block


def test_who_blocked_the_loop_first_is_named_where_the_next_did_for_less(service: Service) -> None:
    """In one turn of the loop, which was blocked shortly before."""

    async def main() -> None:
        await turn("dave", lambda: blocks(0.15))
        for _ in range(8):
            await asyncio.gather(
                turn("bob", lambda: asyncio.sleep(0.005), 0.05),
                turn("alice", lambda: blocks(0.065)),
                turn("carol", lambda: blocks(0.045)),
            )
            await asyncio.sleep(0.06)
            if of_last(service, "bob").attributes["late.culprit.user_id"] == "alice":
                return  # else the machine had other things to do

    asyncio.run(main())
    assert of_last(service, "bob").attributes["late.culprit.user_id"] == "alice"


# ---------------------------------------------------------------- connections


@pytest.fixture
def silent() -> Iterator[int]:
    """Give the port of a server that greets nobody."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


@pytest.fixture
def gone() -> int:
    """Give the port of a server that is down."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


def asks(port: int, again: int) -> None:
    retry = redis.retry.Retry(ConstantBackoff(0.05), again)
    redis.Redis("localhost", port, socket_timeout=0.3, retry=retry).get("cart")


def asks_on_a_loop(port: int, again: int) -> None:
    retry = redis.asyncio.retry.Retry(ConstantBackoff(0.05), again)
    asyncio.run(redis.asyncio.Redis(port=port, socket_timeout=0.3, retry=retry).get("cart"))


@pytest.mark.parametrize("ask", [asks, asks_on_a_loop])
def test_a_pool_that_waits_for_a_new_connection_is_not_full(
    service: Service, silent: int, gone: int, ask: Callable[[int, int], None]
) -> None:
    """The server is slow, or down: also where each try waits for a thread for a moment."""
    for port, again in ((silent, 0), (gone, 8)):
        with suppress(redis.RedisError), traced("turn", root=True, budget=BUDGET_S):
            bind_context(user_id="bob")
            ask(port, again)
        found = of_last(service, "bob").attributes
        assert found["late.cause"] == "downstream"
        assert "connect" in str(found["late.detail"])


# ---------------------------------------------------------------- greenlets


def test_what_another_greenlet_of_its_thread_computes_is_not_a_stages_own_work(
    service: Service,
) -> None:
    outer = getcurrent()

    def bob() -> None:
        with traced("turn", root=True, budget=BUDGET_S):
            bind_context(user_id="bob")
            outer.switch()

    other = greenlet(bob)
    other.switch()
    burn(0.2)
    other.switch()
    found = of_user(service, "bob")
    assert shares(found).get("cpu", 0) < 0.01
    assert "burn" not in str(found.attributes["late.why"])
