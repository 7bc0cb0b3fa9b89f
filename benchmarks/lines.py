"""Make a hundred stages late by one line each, and count the lines that are named.

python benchmarks/lines.py        how many of a hundred, by kind
"""

import asyncio
import json
import random
import re
import socket
import sqlite3
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

from opentelemetry import trace

from otel_logging import setup_observability, traced

BUDGET_S = 0.1
EACH = 10


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


KINDS: tuple[Callable[[float], Any], ...] = (
    *(sleeps_in_a_loop, waits_for_a_lock, waits_for_a_full_pool, reads_a_slow_socket),
    *(blocks_by_sleeping, matches_an_expression, parses_50_megabytes, waits_for_a_thread),
    *(sync_sleep, sync_database),
)


def main() -> int:
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
    for each in ended:
        if each.get("late"):
            # the line stands in what explains it: where it stood, or what it was
            told = f"{each.get('late.where', '')} {each.get('late.detail', '')}"
            found = re.search(rf"{each['name']} \(lines.py:\d+\)", told)
            named[each["name"]] += found is not None
    for kind in KINDS:
        print(f"{named[kind.__name__]:3} of {EACH}  {kind.__name__}")
    print(f"{named.total()} of {EACH * len(KINDS)} lines named")
    return 0 if named.total() >= 0.9 * EACH * len(KINDS) else 1


if __name__ == "__main__":
    sys.exit(main())
