"""Plant seven faults among healthy load, and count how often cause, culprit and user are named.

    python benchmarks/lateness.py [EACH]      all of it; EACH fault of each kind (100)
    python benchmarks/lateness.py --faults [EACH]  the confusion table
    python benchmarks/lateness.py --healthy   10,000 healthy stages: none may be late
    python benchmarks/lateness.py --overhead  what budgets, monitor and black box cost

A real uvicorn serves, real queues hand over; requests come from another process. All of it takes
some ten minutes, where the machine is free: 8 for the faults, which are planted one at a time, and
one or two for each of the rest. Exits with 1 where something asked for misses its goal.
"""

import argparse
import asyncio
import dataclasses
import gc
import http.client
import json
import multiprocessing
import queue
import random
import socket
import statistics
import sys
import tempfile
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from contextlib import asynccontextmanager
from typing import Any

import uvicorn
from opentelemetry import trace
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from otel_logging import _runtime, bind_context, setup_observability, traced, waiting

BUDGET_S = 0.25
SIZES_S = (0.35, 0.7)
KINDS = ("queue", "loop", "gc", "lock", "pool", "downstream", "cpu")
HEALTHY_USERS = 4
TURN_S, PAIRS = 0.1, 400  # with all of it, then without: looks and beats in each; how often
FEW, MANY = 2, 5  # users: half of the time it rests; it is busy, and its loop not yet late
PAGE_ROWS = 2000  # of a request that does some work: some milliseconds

# ---------------------------------------------------------------- the service


class Shop:
    """What requests share."""

    def __init__(self) -> None:
        self.queue: asyncio.Queue[Any] = asyncio.Queue()
        self.lock = asyncio.Lock()
        self.pool = asyncio.Semaphore(2)
        self.heap: list[Any] = []
        self.slow_port = 0

    async def serve_queue(self) -> None:
        while True:
            user, size, put_at, done = await self.queue.get()
            waited = time.perf_counter() - put_at
            with traced("utterance", **{"queue.wait_s": waited}):
                bind_context(user_id=user)
                await asyncio.sleep(size)
            done.set_result(None)

    async def through_queue(self, user: str, size: float) -> None:
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        await self.queue.put((user, size, time.perf_counter(), done))
        await done

    async def with_lock(self, size: float) -> None:
        with waiting("lock", name="inventory"):
            await self.lock.acquire()
        await asyncio.sleep(size)
        self.lock.release()

    async def with_connection(self, size: float) -> None:
        with waiting("pool", name="database"):
            await self.pool.acquire()
        await asyncio.sleep(size)
        self.pool.release()

    async def ask_inventory(self, size: float) -> None:
        tracer = trace.get_tracer("client")
        with tracer.start_as_current_span("GET inventory", kind=trace.SpanKind.CLIENT):
            reader, writer = await asyncio.open_connection("127.0.0.1", self.slow_port)
            writer.write(f"{size}\n".encode())
            await reader.read()
            writer.close()


shop = Shop()


def resize_image(size: float) -> None:
    until = time.perf_counter() + size
    while time.perf_counter() < until:
        sum(range(1000))


def collect_garbage(size: float) -> None:
    """Collect a heap that is known to take about that long."""
    until = time.perf_counter() + size
    while time.perf_counter() < until:
        gc.collect()


_page = json.dumps([{"id": n, "name": f"name {n}", "price": n / 7} for n in range(PAGE_ROWS)])


async def turn(request: Request) -> PlainTextResponse:
    user = request.query_params["user"]
    with traced("turn"):
        bind_context(user_id=user)
        if "works" in request.query_params:
            json.dumps(sorted(json.loads(_page), key=lambda row: row["name"]))
        for _ in range(int(request.query_params.get("steps", "2"))):
            await asyncio.sleep(0.01)
        await shop.with_connection(0.0)
        await shop.with_lock(0.0)
    return PlainTextResponse("done")


async def fault(request: Request) -> PlainTextResponse:
    """Do what makes others, or this request, late."""
    user, size = request.query_params["user"], float(request.query_params["size"])
    kind = request.query_params["kind"]
    with traced(f"fault {kind}"):
        bind_context(user_id=user)
        if kind == "queue":
            await shop.through_queue(user, size)
        elif kind == "loop":
            resize_image(size)
        elif kind == "gc":
            collect_garbage(size)
        elif kind == "lock":
            await shop.with_lock(size)
        elif kind == "pool":
            await asyncio.gather(shop.with_connection(size), shop.with_connection(size))
        elif kind == "downstream":
            await shop.ask_inventory(size)
        elif kind == "cpu":
            resize_image(size)
    return PlainTextResponse("done")


async def through_queue(request: Request) -> PlainTextResponse:
    await shop.through_queue(request.query_params["user"], 0.0)
    return PlainTextResponse("done")


async def slow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await asyncio.sleep(float(await reader.readline()))
    writer.write(b"done")
    writer.close()


def slow_server(started: Callable[[int], None]) -> None:
    async def serve() -> None:
        server = await asyncio.start_server(slow, "127.0.0.1", 0)
        started(server.sockets[0].getsockname()[1])
        await server.serve_forever()

    asyncio.run(serve())


def serve(ready: Any, results: Any, spool: str, heap: int, budget_s: float) -> None:
    """Run the service in this process until it is told to stop."""
    observability = setup_observability(
        "shop",
        environment="production",
        log_level="error",
        endpoint="http://127.0.0.1:9",
        spool_dir=spool,
        budgets=dict.fromkeys(("turn", "utterance", "fault *"), budget_s),
    )
    watched = _runtime.current
    unwatched = dataclasses.replace(watched, watch=None, budgets={})
    ended: list[dict[str, Any]] = []

    class Processor:
        def on_start(self, span: Any, parent_context: Any) -> None: ...

        def on_end(self, span: Any) -> None:
            if span.name in ("turn", "utterance") or span.name.startswith("fault"):
                ended.append({"name": span.name, **span.attributes})

        def shutdown(self) -> None: ...

        def force_flush(self, _: int = 0) -> bool:
            return True

    provider: Any = trace.get_tracer_provider()
    provider.add_span_processor(Processor())
    ports: queue.SimpleQueue[int] = queue.SimpleQueue()
    threading.Thread(target=slow_server, args=(ports.put,), daemon=True).start()
    shop.slow_port = ports.get()
    shop.heap = [[n] for n in range(heap)]
    listening = socket.create_server(("127.0.0.1", 0), backlog=512)
    routes = [Route("/turn", turn), Route("/fault", fault), Route("/queue", through_queue)]

    async def started() -> None:
        shop.worker = asyncio.create_task(shop.serve_queue())  # type: ignore[attr-defined]

    async def taken(_: Request) -> PlainTextResponse:
        results.put(list(ended))
        ended.clear()
        return PlainTextResponse("done")

    turns = Turns(watched, unwatched, ended)

    async def counted(request: Request) -> PlainTextResponse:
        answer = await turn(request)
        turns.count()
        return answer

    async def costs(_: Request) -> PlainTextResponse:
        return PlainTextResponse(json.dumps(turns.taken()))

    routes += [Route("/taken", taken), Route("/counted", counted), Route("/costs", costs)]

    @asynccontextmanager
    async def lifespan(_: Any) -> Any:
        await started()
        ready.put(listening.getsockname()[1])
        yield

    app = Starlette(routes=routes, lifespan=lifespan)
    config = uvicorn.Config(app, log_config=None, access_log=False)
    try:
        uvicorn.Server(config).run([listening])
    finally:
        observability.shutdown(0.1)


class Turns:
    """Requests by turns with all of it and without, in one process under one load: what else runs,
    and what the process is like, is the same for both.
    """

    def __init__(self, watched: Any, unwatched: Any, ended: list[Any]) -> None:
        self.runtimes, self.ended, self.on_gc = (unwatched, watched), ended, gc.callbacks[:]
        self.costs: list[tuple[float, float]] = []
        self.begin(is_watched=True)

    def begin(self, *, is_watched: bool) -> None:
        self.is_watched, self.requests = is_watched, 0
        gc.callbacks[:] = self.on_gc * is_watched
        _runtime.swap(self.runtimes[is_watched])
        self.ended.clear()
        self.began, self.computed = time.perf_counter(), time.process_time()

    def count(self) -> None:
        """Count a request; in microseconds, what one has cost in CPU time of all threads, and how
        long it took.
        """
        self.requests += 1
        if (took := time.perf_counter() - self.began) > TURN_S:
            computed = time.process_time() - self.computed
            self.costs.append((computed / self.requests * 1e6, took / self.requests * 1e6))
            self.begin(is_watched=not self.is_watched)

    def taken(self) -> list[list[tuple[float, float]]]:
        """Return what was found with all of it, and without; begin anew."""
        costs, self.costs = self.costs[2:], []  # the first ones warm up
        self.begin(is_watched=True)
        return [costs[::2], costs[1::2]]


# ---------------------------------------------------------------- the clients


def get(port: int, path: str) -> bytes:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request("GET", path)
    answer = connection.getresponse().read()
    connection.close()
    return answer


class Service:
    """The service in a process of its own, and healthy load on it."""

    def __init__(self, *, heap: int = 3_000_000, budget_s: float = BUDGET_S) -> None:
        context = multiprocessing.get_context("spawn")
        self.spool = tempfile.TemporaryDirectory()
        ready, self.results = context.SimpleQueue(), context.SimpleQueue()
        self.process = context.Process(
            target=serve, args=(ready, self.results, self.spool.name, heap, budget_s)
        )
        self.process.start()
        self.port = ready.get()

    def taken(self) -> list[dict[str, Any]]:
        asking = threading.Thread(target=get, args=(self.port, "/taken"))
        asking.start()  # it is answered once the pipe is read
        found: list[dict[str, Any]] = self.results.get()
        asking.join()
        return found

    def stop(self) -> None:
        self.process.terminate()
        self.process.join()
        self.spool.cleanup()


def later(*calls: Callable[[], None]) -> None:
    threads = [threading.Thread(target=call) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def plant(service: Service, kind: str, size: float) -> list[dict[str, Any]]:
    """Plant one fault among healthy turns; return the stages that it made late."""
    port = service.port
    # those that a block is to find in the midst of their work begin before it
    first = kind in ("loop", "gc", "cpu")
    victims = [f"/turn?user=user-{n}&steps={10 if first else 2}" for n in range(HEALTHY_USERS)]
    if kind == "queue":
        victims = ["/queue?user=user-0"]

    def culprit() -> None:
        time.sleep(0.05 if first else 0.0)
        get(port, f"/fault?user=alice&kind={kind}&size={size}")

    def victim(path: str) -> Callable[[], None]:
        def call() -> None:
            time.sleep(0.0 if first else 0.05)
            get(port, path)

        return call

    later(culprit, *map(victim, victims))
    late = [each for each in service.taken() if each.get("late")]
    if kind in ("downstream", "cpu"):
        return [each for each in late if each["name"].startswith("fault")]
    of = "utterance" if kind == "queue" else "turn"
    return [each for each in late if each["name"] == of and each["user_id"] != "alice"]


#: What names it: the attribute, and a part of its value.
NAMED = {
    "queue": ("late.culprit", "utterance"),
    "loop": ("late.culprit", "resize_image"),
    "gc": ("late.culprit", "collect_garbage"),
    "lock": ("late.culprit", "fault lock"),
    "pool": ("late.culprit", "fault pool"),
    "downstream": ("late.detail", "GET inventory"),
    "cpu": ("late.detail", "resize_image"),
}


def faults(each: int) -> int:
    service = Service()
    table: dict[str, Counter[str]] = defaultdict(Counter)
    culprits, whose, seen = Counter[str](), Counter[str](), Counter[str]()
    try:
        service.taken()
        order = [kind for kind in KINDS for _ in range(each)]
        random.shuffle(order)
        for kind in order:
            for stage in plant(service, kind, random.uniform(*SIZES_S)):
                seen[kind] += 1
                table[kind][stage.get("late.cause", "none")] += 1
                attribute, part = NAMED[kind]
                culprits[kind] += part in stage.get(attribute, "")
                own = kind in ("downstream", "cpu")  # nobody else's work
                whose[kind] += stage.get("late.culprit.user_id") == (None if own else "alice")
    finally:
        service.stop()
    causes = [*KINDS, "unknown"]
    print("| planted | stages | " + " | ".join(causes) + " | culprit | whose |")
    print("|---|---|" + "---|" * (len(causes) + 2))
    for kind in KINDS:
        row = [str(table[kind][cause] or "") for cause in causes]
        rates = [f"{100 * found[kind] / max(seen[kind], 1):.0f} %" for found in (culprits, whose)]
        print(f"| {kind} | {seen[kind]} | " + " | ".join([*row, *rates]) + " |")
    worst = min(table[kind][kind] / max(seen[kind], 1) for kind in KINDS)
    blamed = min(min(found[k] / max(seen[k], 1) for k in KINDS) for found in (culprits, whose))
    print(f"\nnamed right at least {100 * worst:.0f} %, culprit and whose {100 * blamed:.0f} %")
    return 0 if worst >= 0.95 and blamed >= 0.9 else 1


def load(port: int, query: str, users: int, more: Callable[[], bool]) -> None:
    """Have each of the *users* make requests, one after the other, for as long as there are *more*
    to make.
    """

    def user(name: str) -> Callable[[], None]:
        def call() -> None:
            while more():
                get(port, f"{query}&user={name}")

        return call

    later(*(user(f"user-{n}") for n in range(users)))


def healthy() -> int:
    service = Service(heap=0)
    try:
        left = iter(range(10_000))
        load(service.port, "/turn?steps=2", 8, lambda: next(left, None) is not None)
        stages = service.taken()
    finally:
        service.stop()
    late = [each for each in stages if each.get("late")]
    print(f"{len(stages)} healthy stages, {len(late)} late")
    return 1 if late else 0


def overhead() -> int:
    """One service, which has all of it in one turn and none in the next. Busy, its throughput is
    what CPU time a request costs; at rest it is not, and what comes by the clock is shared by few.
    Nothing is late, also where much else runs.
    """
    service = Service(heap=0, budget_s=5.0)

    def measured(what: str, query: str, users: int) -> float:
        until = time.monotonic() + 2 * TURN_S * (PAIRS + 1)
        load(service.port, f"/counted?{query}", users, lambda: time.monotonic() < until)
        turns = zip(*json.loads(get(service.port, "/costs")), strict=False)
        pairs = [(*with_it, *without) for with_it, without in turns]
        ratios = [100 * without / with_it for with_it, _, without, _ in pairs]
        found, parts = (
            statistics.median(ratios),
            [statistics.median(ratios[n::4]) for n in range(4)],
        )
        us = statistics.median(without for _, _, without, _ in pairs)
        wall = 100 * statistics.median(without / with_it for _, with_it, _, without in pairs)
        print(
            f"{what}, {users} users, {us:.0f} us: throughput {found:.2f} % by CPU time "
            f"(+- {statistics.stdev(parts) / 2:.2f}), {wall:.1f} % by wall time, {len(pairs)} pairs"
        )
        return found

    try:
        measured("a request that does nothing, busy", "steps=0", FEW)
        measured("one that works, at rest", "steps=1&works=1", FEW)
        return 0 if measured("one that works, busy", "steps=1&works=1", MANY) > 98 else 1
    finally:
        service.stop()


PARTS = {"faults": faults, "healthy": lambda _: healthy(), "overhead": lambda _: overhead()}


def main() -> int:
    """Do what is asked for, or all."""
    of_text = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=of_text)
    parser.add_argument("each", type=int, nargs="?", default=100)
    for name in PARTS:
        parser.add_argument(f"--{name}", action="store_true")
    given = parser.parse_args()
    asked = [part for name, part in PARTS.items() if getattr(given, name)] or PARTS.values()
    return max([part(given.each) for part in asked])


if __name__ == "__main__":
    sys.exit(main())
