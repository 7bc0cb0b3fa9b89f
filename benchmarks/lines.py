"""Make a hundred stages late by one line each, and count the lines that are named.

python benchmarks/lines.py        how many of a hundred, by kind; a minute
"""

import argparse
import asyncio
import functools
import hashlib
import inspect
import json
import queue
import random
import re
import socket
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from opentelemetry import trace

from otel_logging import setup_observability, traced

BUDGET_S = 0.1
EACH = 5


def sizes() -> float:
    return random.uniform(0.3, 0.6)


async def sleeps_in_a_loop(size: float) -> None:
    for _ in range(int(size / 0.1)):
        await asyncio.sleep(0.1)


async def waits_for_a_lock(size: float) -> None:
    lock = asyncio.Lock()
    await lock.acquire()
    asyncio.get_running_loop().call_later(size, lock.release)
    await lock.acquire()


async def waits_for_a_full_pool(size: float) -> None:
    pool: asyncio.Queue[int] = asyncio.Queue()
    asyncio.get_running_loop().call_later(size, pool.put_nowait, 1)
    await pool.get()


async def reads_a_slow_socket(size: float) -> None:
    here, there = socket.socketpair()
    reader, writer = await asyncio.open_connection(sock=here)
    threading.Timer(size, there.close).start()
    await reader.read()
    writer.close()


async def blocks_by_sleeping(size: float) -> None:
    time.sleep(size)


_slow = "a" * 21 + "b"


async def matches_an_expression(size: float) -> None:
    until = time.perf_counter() + size
    while time.perf_counter() < until:
        re.match(r"(a+)+$", _slow)


_large = json.dumps([{"key": n, "text": "x" * 40} for n in range(800_000)])  # 50 MB


async def parses_50_megabytes(_: float) -> None:
    json.loads(_large)


async def waits_for_a_thread(size: float) -> None:
    await asyncio.to_thread(time.sleep, size)


def sync_sleep(size: float) -> None:
    time.sleep(size)


def sync_database(size: float) -> None:
    connection = sqlite3.connect(":memory:")
    rows = f"SELECT 1 UNION ALL SELECT n + 1 FROM c WHERE n < {int(size * 6e6)}"
    connection.execute(f"WITH RECURSIVE c(n) AS ({rows}) SELECT sum(n) FROM c").fetchall()


async def iterates_over_a_generator(size: float) -> None:
    async def pages() -> AsyncIterator[int]:
        for n in range(3):
            await asyncio.sleep(size / 3)
            yield n

    assert [n async for n in pages()]


async def enters_a_context(size: float) -> None:
    @asynccontextmanager
    async def connected() -> AsyncIterator[None]:
        await asyncio.sleep(size)
        yield

    async with connected():
        pass


async def waits_in_nested_groups(size: float) -> None:
    async def leaf() -> None:
        await asyncio.sleep(size)

    async def branch() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(leaf())

    async with asyncio.TaskGroup() as group:
        group.create_task(branch())
        group.create_task(asyncio.sleep(0.01))


def _again(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def called(*args: Any) -> Any:
        return function(*args)

    return called


async def calls_what_is_decorated(size: float) -> None:
    @_again
    def work() -> None:
        time.sleep(size)

    work()


async def blocks_in_a_callback(size: float) -> None:
    done = asyncio.get_running_loop().create_future()

    def callback() -> None:
        time.sleep(size)
        done.set_result(None)

    asyncio.get_running_loop().call_soon(callback)
    await done


async def gets_from_a_queue_in_a_thread(size: float) -> None:
    work: queue.Queue[int] = queue.Queue()
    threading.Timer(size, work.put, (1,)).start()

    def take() -> int:
        return work.get()

    await asyncio.to_thread(take)


async def computes_in_a_comprehension(size: float) -> None:
    until = time.perf_counter() + size
    while time.perf_counter() < until:
        assert [n * n for n in range(50_000)]


async def computes_in_an_extension(size: float) -> None:
    hashlib.pbkdf2_hmac("sha256", b"a", b"b", int(size * 2e6))


def waits_for_a_process(size: float) -> None:
    subprocess.run(["sleep", str(size)], check=True)


def fetches_an_address(size: float) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            there, _ = server.accept()
            there.recv(65536)
            time.sleep(size)
            there.sendall(b"HTTP/1.0 200 OK\r\n\r\ndone")
            there.close()

        threading.Thread(target=answer).start()
        urllib.request.urlopen(f"http://127.0.0.1:{server.getsockname()[1]}").read()


KINDS: tuple[Callable[[float], Any], ...] = (
    *(sleeps_in_a_loop, waits_for_a_lock, waits_for_a_full_pool, reads_a_slow_socket),
    *(blocks_by_sleeping, matches_an_expression, parses_50_megabytes, waits_for_a_thread),
    *(sync_sleep, sync_database, iterates_over_a_generator, enters_a_context),
    *(waits_in_nested_groups, calls_what_is_decorated, blocks_in_a_callback),
    *(gets_from_a_queue_in_a_thread, computes_in_a_comprehension, computes_in_an_extension),
    *(waits_for_a_process, fetches_an_address),
)


def main() -> int:
    argparse.ArgumentParser().parse_args()
    ended: list[dict[str, Any]] = []

    class Processor:
        def on_start(self, span: Any, parent_context: Any) -> None: ...

        def on_end(self, span: Any) -> None:
            ended.append({"name": span.name, **span.attributes})

        def shutdown(self) -> None: ...

        def force_flush(self, _: int = 0) -> bool:
            return True

    async def run(kind: Callable[[float], Any]) -> None:
        with traced(kind.__name__, budget=BUDGET_S):
            await kind(sizes())

    with tempfile.TemporaryDirectory() as spool:
        running = setup_observability(
            "lines", environment="production", log_level="error", spool_dir=spool,
            endpoint="http://127.0.0.1:9",
        )  # fmt: skip
        provider: Any = trace.get_tracer_provider()
        provider.add_span_processor(Processor())
        order = [kind for kind in KINDS for _ in range(EACH)]
        random.shuffle(order)
        for kind in order:
            if asyncio.iscoroutinefunction(kind):
                asyncio.run(run(kind))
            else:
                with traced(kind.__name__, budget=BUDGET_S):
                    kind(sizes())
        running.shutdown(0.1)
    named = Counter[str]()
    known = {kind.__name__: inspect.getsourcelines(kind) for kind in KINDS}
    for each in ended:
        if each.get("late"):
            # the line stands in what explains it: where it stood most, or what it was
            most = each.get("late.where", "").partition(" · ")[0]
            text, first = known[each["name"]]
            found = re.findall(r"\(lines.py:(\d+)\)", f"{most} {each.get('late.detail', '')}")
            named[each["name"]] += any(first < int(n) < first + len(text) for n in found)
    for kind in KINDS:
        print(f"{named[kind.__name__]:3} of {EACH}  {kind.__name__}")
    print(f"{named.total()} of {EACH * len(KINDS)} lines named")
    return 0 if named.total() >= 0.9 * EACH * len(KINDS) else 1


if __name__ == "__main__":
    sys.exit(main())
