"""A wait for a full pool of a library counts from the beginning of the call that waits for it."""

import asyncio
import threading
import time
import types
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from opentelemetry import trace
from opentelemetry.trace import SpanKind
from sqlalchemy import AsyncAdaptedQueuePool, QueuePool, create_engine
from sqlalchemy.ext.asyncio import create_async_engine

from otel_logging import traced
from tests.conftest import Service
from tests.lateness.test_why import shares

BUDGET_S = 0.4  # so half of it is before the first look
HELD_S = 0.4


@asynccontextmanager
async def client_of(**limits: int) -> AsyncIterator[Callable[[float], Awaitable[Any]]]:
    """Give what asks a server, which answers after as many seconds as it is asked for."""
    connected: list[Any] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connected.append(asyncio.current_task())
        while head := await reader.readline():
            while await reader.readline() != b"\r\n":
                pass
            await asyncio.sleep(float(head.split()[1].strip(b"/")))
            writer.write(b"HTTP/1.1 204 No Content\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    base = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
    async with httpx.AsyncClient(trust_env=False, limits=httpx.Limits(**limits)) as client:
        await client.get(f"{base}0")
        yield lambda seconds: client.get(f"{base}{seconds}")
    await asyncio.gather(*connected)
    server.close()


async def with_httpx(_: Path) -> None:
    async with client_of(max_connections=1) as ask:
        first = asyncio.ensure_future(ask(HELD_S))
        await asyncio.sleep(0)
        with traced("turn", budget=BUDGET_S), traced("ask"):
            await ask(0.1)
        await first


async def with_sqlalchemy(at: Path) -> None:
    engine = create_async_engine(
        f"sqlite+aiosqlite:///{at}/shop.db", pool_size=1, max_overflow=0,
        poolclass=AsyncAdaptedQueuePool,
    )  # fmt: skip
    first = await engine.connect()

    async def turn() -> None:
        with traced("turn", budget=BUDGET_S):
            async with engine.connect():
                await asyncio.sleep(0.1)

    waiting = asyncio.create_task(turn())
    await asyncio.sleep(HELD_S)
    await first.close()
    await waiting
    await engine.dispose()


async def with_sqlalchemy_in_a_thread(at: Path) -> None:
    engine = create_engine(
        f"sqlite:///{at}/shop.db", pool_size=1, max_overflow=0, poolclass=QueuePool,
        connect_args={"check_same_thread": False},
    )  # fmt: skip

    def work() -> None:
        first = engine.connect()
        timer = threading.Timer(HELD_S, first.close)
        timer.start()
        with traced("turn", budget=BUDGET_S), engine.connect():
            time.sleep(0.1)
        timer.join()

    await asyncio.to_thread(work)
    engine.dispose()


@pytest.mark.parametrize("work", [with_httpx, with_sqlalchemy, with_sqlalchemy_in_a_thread])
def test_a_wait_for_a_full_pool_counts_from_the_beginning_of_the_call(
    service: Service, tmp_path: Path, work: Callable[[Path], Coroutine[Any, Any, None]]
) -> None:
    """Though the first look is at half of the budget: its connection is the first that it needs."""
    asyncio.run(work(tmp_path))
    turn = service.one("turn")
    assert turn.attributes["late.cause"] == "pool"
    assert shares(turn)["pool"] > HELD_S - 0.1


def test_a_slow_answer_is_no_pool(service: Service) -> None:
    """Where the only connection was free."""

    async def main() -> None:
        async with client_of(max_connections=1) as ask:
            with traced("turn", budget=BUDGET_S):
                await ask(HELD_S + 0.1)

    asyncio.run(main())
    turn = service.one("turn")
    assert turn.attributes["late.cause"] == "downstream"
    assert "pool" not in shares(turn)


async def inside(call: Any, acquire: Callable[[], Awaitable[None]]) -> None:
    with call:
        await asyncio.sleep(0.15)
        await acquire()


async def after(call: Any, acquire: Callable[[], Awaitable[None]]) -> None:
    with call:
        await asyncio.sleep(0.15)
    await acquire()


@pytest.mark.parametrize(
    ("scope", "work"), [("shop", inside), ("opentelemetry.instrumentation.shop", after)]
)
def test_a_wait_for_a_pool_after_other_work_counts_from_where_it_was_seen(
    service: Service, scope: str, work: Callable[..., Awaitable[None]]
) -> None:
    """In a span of the application's own anything may come first; a call that is over is over."""
    module = types.ModuleType("library")
    text = "async def acquire(wait):\n    await wait()\n"
    exec(compile(text, "/srv/site-packages/client/connection_pool.py", "exec"), vars(module))

    async def main() -> None:
        tracer = trace.get_tracer(scope)
        with traced("turn", budget=BUDGET_S):
            call = tracer.start_as_current_span("call", kind=SpanKind.CLIENT)
            await work(call, lambda: module.acquire(lambda: asyncio.sleep(0.3)))

    asyncio.run(main())
    assert 0.1 < shares(service.one("turn"))["pool"] < 0.3
