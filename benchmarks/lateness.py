"""Plant seven faults among healthy load, and count how often cause, culprit and user are named.

    python benchmarks/lateness.py [EACH]      all of it; EACH fault of each kind (100)
    python benchmarks/lateness.py --faults [EACH]  the confusion table
    python benchmarks/lateness.py --healthy   10,000 healthy stages: none may be late
    python benchmarks/lateness.py --overhead  what budgets, monitor and black box cost

A real uvicorn serves, real queues hand over; requests come from another process. All of it takes
some ten minutes, where the machine is free: 8 for the faults, which are planted one at a time, and
one for each of the rest.
"""

import asyncio
import dataclasses
import gc
import http.client
import json
import multiprocessing
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
TURN, PAIRS = 24, 120  # requests with all of it, then without; how often
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
    (on_gc,) = gc.callbacks
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
    ports: Any = multiprocessing.SimpleQueue()
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

    async def switched(request: Request) -> PlainTextResponse:
        """Go on with all of it, or without; say what this process has computed so far."""
        ended.clear()
        is_watched = request.query_params["to"] == "watched"
        gc.callbacks[:] = [on_gc] * is_watched
        _runtime.swap(watched if is_watched else unwatched)
        return PlainTextResponse(str(time.process_time_ns()))

    routes += [Route("/taken", taken), Route("/switched", switched)]

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


def load(port: int, turns: int, users: int = 8, query: str = "steps=2") -> float:
    """Make *turns* requests; return how many a second."""
    began = time.perf_counter()

    def user(name: str) -> Callable[[], None]:
        def call() -> None:
            for _ in range(turns // users):
                get(port, f"/turn?user={name}&{query}")

        return call

    later(*(user(f"user-{n}") for n in range(users)))
    return turns / (time.perf_counter() - began)


def healthy() -> int:
    service = Service(heap=0)
    try:
        load(service.port, 10_000)
        stages = service.taken()
    finally:
        service.stop()
    late = [each for each in stages if each.get("late")]
    print(f"{len(stages)} healthy stages, {len(late)} late")
    return 1 if late else 0


def overhead() -> int:
    """One service, which has all of it in one turn and none in the next: what else runs, and what
    the process is like, is the same for both. CPU time is that of all its threads. Nothing is late,
    also where much else runs.
    """
    service = Service(heap=0, budget_s=5.0)

    def turn_of(to: str, query: str, users: int) -> tuple[float, float]:
        switch, turns = f"/switched?to={to}", TURN * users // FEW
        before = int(get(service.port, switch))
        speed = load(service.port, turns, users=users, query=query)
        return (int(get(service.port, switch)) - before) / turns / 1e3, 1 / speed

    def measured(query: str, users: int = FEW) -> float:
        pairs = []
        for n in range(PAIRS + 1):
            order = ("watched", "unwatched")[:: 1 if n % 2 else -1]
            one = {to: turn_of(to, query, users) for to in order}
            pairs.append((*one["watched"], *one["unwatched"]))
        del pairs[0]  # it warms up
        ratios = [without / with_it for with_it, _, without, _ in pairs]
        low, middle, high = (100 * each for each in statistics.quantiles(ratios, n=4))
        more = statistics.median(with_it - without for with_it, _, without, _ in pairs)
        us = statistics.median(without for _, _, without, _ in pairs)
        wall = 100 * statistics.median(without / with_it for _, with_it, _, without in pairs)
        print(
            f"{users} users, of a request of {us:.0f} us: {more:+.0f} us; "
            f"throughput {middle:.1f} % by CPU time "
            f"(half of {PAIRS} pairs: {low:.1f} to {high:.1f}), {wall:.0f} % by wall time"
        )
        return middle

    try:
        measured("steps=1")
        measured("steps=1&works=1")
        return 0 if measured("steps=1&works=1", MANY) >= 98 else 1
    finally:
        service.stop()


if __name__ == "__main__":
    numbers = [int(each) for each in sys.argv[1:] if each.isdigit()]
    parts = {
        "--faults": lambda: faults(*numbers or [100]),
        "--healthy": healthy,
        "--overhead": overhead,
    }
    asked = [part for name, part in parts.items() if name in sys.argv] or parts.values()
    sys.exit(max([part() for part in asked]))
