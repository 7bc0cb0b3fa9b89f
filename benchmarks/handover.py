"""Many users, shared workers, pools beside them: who worked for whom, and how long did it wait.

For each kind of queue, and ``each``: how many items were filed under another user or trace, and
by how much, at the median, the recorded wait differs from the real one. Beside them pools of
urllib3, requests, SQLAlchemy and redis, and queues of replies: how many changed a context.

    python benchmarks/handover.py [--users 50] [--items 10000] [--json]

Exits with 1 where something is wrong: an item, a context, or a median of more than 2 ms.
"""

import argparse
import asyncio
import http.server
import json
import os
import queue
import statistics
import sys
import threading
import time
from collections.abc import Callable
from contextlib import AsyncExitStack, redirect_stdout
from dataclasses import dataclass, field
from typing import Any

import anyio
import fakeredis
import requests
import urllib3
from opentelemetry import trace
from sqlalchemy import AsyncAdaptedQueuePool, text
from sqlalchemy.ext.asyncio import create_async_engine

from otel_logging import (
    bind_context,
    each,
    get_logger,
    handoff,
    inject,
    setup_observability,
    taking,
    traced,
)
from otel_logging.context import bound
from otel_logging.integrations import queues

WORKERS = 5
MOST_MS = 2.0  # of a median wait

report = os.fdopen(os.dup(1), "w")
os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
log = get_logger("shop")


def owner() -> tuple[int, Any]:
    """Return the trace and the user that this runs for."""
    return trace.get_current_span().get_span_context().trace_id, bound().get("user_id")


@dataclass(order=True)
class Item:
    """An item, whose it is, and when it was put."""

    number: int
    owner: tuple[int, Any] = field(compare=False)
    put_at: float = field(compare=False)
    headers: dict[str, str] = field(compare=False)


class Load:
    """One run: who puts what, and what the workers found."""

    def __init__(self, users: int, items: int) -> None:
        self.users, self.each = users, items // users
        self.wrong = 0
        self.errors_ms: list[float] = []

    def items_of(self, user: int, put: Callable[[Item], Any]) -> Any:
        """Put an item, in a request of *user*; return what *put* returns."""
        with traced("put", root=True):
            bind_context(user_id=f"u{user}")
            return put(Item(user, owner(), time.perf_counter(), inject()))

    def got(self, item: Item, *, waits: bool = True) -> None:
        """Check who this runs for, and what was recorded."""
        waited_s = time.perf_counter() - item.put_at
        self.wrong += owner() != item.owner
        log.info("delivered", number=item.number)
        if waits:
            span: Any = trace.get_current_span()
            recorded = span.attributes.get("queue.wait_s", -1)
            self.errors_ms.append(abs(recorded - waited_s) * 1e3)

    async def put_all(self, put: Callable[[Item], Any]) -> None:
        """Put all items, of all users at once."""

        async def one(user: int) -> None:
            for _ in range(self.each):
                waiting = self.items_of(user, put)
                if waiting is not None:
                    await waiting
                await asyncio.sleep(0)

        await asyncio.gather(*map(one, range(self.users)))


async def tasks(load: Load, items: Any, *, hands: bool) -> None:
    """Let tasks share an ``asyncio.Queue``."""

    async def work() -> None:
        while True:
            got = await items.get()
            if hands:
                with taking(got, name="deliver"):
                    load.got(got.item)
            else:
                load.got(got)
            items.task_done()
            load.wrong += owner() != (0, None)

    if not hands:
        queues.instrument(items, name="deliver")
    workers = [asyncio.create_task(work()) for _ in range(WORKERS)]
    await load.put_all(lambda item: items.put_nowait(handoff(item) if hands else item))
    await items.join()
    for worker in workers:
        worker.cancel()
    await asyncio.gather(*workers, return_exceptions=True)


async def threads(load: Load, items: Any, *, hands: bool) -> None:
    """Let threads share a ``queue.Queue``."""
    end = Item(1 << 30, (0, None), 0.0, {})

    def work() -> None:
        while (got := items.get()) is not end and getattr(got, "item", None) is not end:
            if hands:
                with taking(got, name="deliver"):
                    load.got(got.item)
            else:
                load.got(got)
                items.task_done()
            load.wrong += owner() != (0, None)

    if not hands:
        queues.instrument(items, name="deliver")
    workers = [threading.Thread(target=work) for _ in range(WORKERS)]
    for worker in workers:
        worker.start()
    await load.put_all(lambda item: items.put(handoff(item) if hands else item))
    while not items.empty():
        await asyncio.sleep(0.001)
    for _ in workers:
        items.put(handoff(end) if hands else end)
    for worker in workers:
        await asyncio.to_thread(worker.join)


async def streams(load: Load) -> None:
    """Let tasks share what comes in from another process, say: with headers, by ``each``."""
    sending, receiving = anyio.create_memory_object_stream[Item](100)

    async def work(items: Any) -> None:
        async with items:
            async for item in each(items, "deliver", context=lambda item: item.headers):
                load.got(item, waits=False)
        load.wrong += owner() != (0, None)

    async with receiving:
        workers = [asyncio.create_task(work(receiving.clone())) for _ in range(WORKERS)]
        async with sending:
            await load.put_all(sending.send)
        await asyncio.gather(*workers)


KINDS: dict[str, Callable[[Load], Any]] = {
    **{
        f"asyncio.{kind.__name__}, {how}": lambda load, kind=kind, hands=how == "handoff": tasks(
            load, kind(), hands=hands
        )
        for kind in (asyncio.Queue, asyncio.LifoQueue, asyncio.PriorityQueue)
        for how in ("instrumented", "handoff")
    },
    **{
        f"queue.{kind.__name__}, {how}": lambda load, kind=kind, hands=how == "handoff": threads(
            load, kind(), hands=hands
        )
        for kind in (queue.Queue, queue.LifoQueue, queue.PriorityQueue)
        for how in ("instrumented", "handoff")
    },
    "queue.SimpleQueue, handoff": lambda load: threads(load, queue.SimpleQueue(), hands=True),
    "each, with headers": streams,
}

# ---------------------------------------------------------------- beside them


class Beside:
    """Pools and queues of replies, used by many at once: none may change whose work this is."""

    def __init__(self) -> None:
        self.checked = self.changed = 0
        self._requests: queue.Queue[Any] = queue.Queue()

    async def run(self, turns: int) -> None:
        """Use each so many times, by ten users."""
        async with AsyncExitStack() as stack:
            server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Quiet)
            # the default of 0.5 s until it ends would be most of a small run
            running = threading.Thread(target=server.serve_forever, args=(0.01,))
            running.start()
            stack.callback(server.server_close)
            stack.callback(running.join)
            stack.callback(server.shutdown)
            url = f"http://127.0.0.1:{server.server_port}/"
            pool = urllib3.PoolManager(maxsize=2, block=True)
            stack.callback(pool.clear)
            session = stack.enter_context(requests.Session())
            engine = create_async_engine(
                "sqlite+aiosqlite://", poolclass=AsyncAdaptedQueuePool, pool_size=2, max_overflow=0
            )
            stack.push_async_callback(engine.dispose)
            redis = fakeredis.FakeAsyncRedis(max_connections=20)
            stack.push_async_callback(redis.aclose)
            answering = threading.Thread(target=self._answer)
            answering.start()
            stack.callback(answering.join)
            stack.callback(self._requests.put, None)

            async def ask_database() -> None:
                async with engine.connect() as connection:
                    await connection.execute(text("select 1"))

            async def user(number: int) -> None:
                with traced("beside", root=True):
                    bind_context(user_id=f"beside {number}")
                    for _ in range(turns):
                        await self._as_before(ask_database())
                        await self._as_before(redis.set("key", number))
                        await asyncio.to_thread(self._in_thread, pool, session, url)

            await asyncio.gather(*map(user, range(10)))

    async def _as_before(self, using: Any) -> None:
        before = owner()
        await using
        self._check(before)

    def _check(self, before: tuple[int, Any]) -> None:
        self.checked += 1
        self.changed += owner() != before

    def _in_thread(self, pool: Any, session: Any, url: str) -> None:
        before = owner()
        pool.request("GET", url)
        self._check(before)
        session.get(url)
        self._check(before)
        replies: queue.Queue[Any] = queue.Queue()
        self._requests.put(replies)
        self.changed += replies.get() != (0, None)  # who answers is nobody's
        self._check(before)

    def _answer(self) -> None:
        while (replies := self._requests.get()) is not None:
            replies.put(owner())


class _Quiet(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        pass


# ---------------------------------------------------------------- the table


async def measure(kind: Callable[[Load], Any], users: int, items: int) -> dict[str, Any]:
    """Return what one kind comes to."""
    load, beside = Load(users, items), Beside()
    await asyncio.gather(kind(load), beside.run(max(2, items // 1_000)))
    median = statistics.median(load.errors_ms) if load.errors_ms else 0.0
    return {
        "items": users * load.each,
        "wrong": load.wrong,
        "wait_error_ms": round(median, 3),
        "used_beside": beside.checked,
        "contexts_changed": beside.changed,
    }


def main() -> int:
    """Run every kind, and print a row for each."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--users", type=int, default=50)
    parser.add_argument("--items", type=int, default=10_000)
    parser.add_argument("--json", action="store_true")
    with redirect_stdout(report):
        given = parser.parse_args()
    rows = {}
    with setup_observability("load", environment="test", takeover=False, propagate=("user_id",)):
        for name, kind in KINDS.items():
            rows[name] = asyncio.run(measure(kind, given.users, given.items))
    if given.json:
        print(json.dumps(rows, indent=1), file=report)
    else:
        columns = list(next(iter(rows.values())))
        print(f"{'':40}", *(f"{column:>17}" for column in columns), file=report)
        for name, row in rows.items():
            print(f"{name:40}", *(f"{value:>17}" for value in row.values()), file=report)
    report.flush()
    bad = [
        name
        for name, row in rows.items()
        if row["wrong"] or row["contexts_changed"] or row["wait_error_ms"] > MOST_MS
    ]
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
