"""A stage over its budget says why, whose work it was, and where it stood."""

import asyncio
import gc
import json
import re
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from contextvars import Context, copy_context
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import SpanProcessor
from opentelemetry.trace import SpanKind

from otel_logging import (
    ConfigurationError,
    _runtime,
    bind_context,
    bound_context,
    get_logger,
    handoff,
    setup_observability,
    taking,
    traced,
    waiting,
)
from otel_logging._text import duration
from otel_logging.handover import Handoff
from otel_logging.integrations import queues
from otel_logging.lateness import watchdog
from otel_logging.lateness.budgets import Budgets
from tests.conftest import Lines, Service
from tests.lateness.test_now import opened
from tests.lateness.websocket import serve
from tests.programs import script
from tests.receiver import Receiver, Span

BUDGET_S = 0.15


def burn(seconds: float) -> None:
    until = time.perf_counter() + seconds
    while time.perf_counter() < until:
        sum(range(500))


def until_a_processor_is_free() -> Iterator[None]:
    """Try again what waited for one, as the machine had other things to do, which it does better
    when half of the time is left to it.
    """
    began = before = time.monotonic()
    while before - began < 20:
        yield
        time.sleep(min(time.monotonic() - before, 1.0))
        before = time.monotonic()
    pytest.skip("no processor was free within 20 s")


async def turn(user: str, work: Callable[[], Any], **options: Any) -> None:
    """One user's turn, with a budget."""
    with traced("turn", budget=BUDGET_S, **options):
        bind_context(user_id=user)
        await work()


def shares(span: Span) -> dict[str, float]:
    """Return its shares, which sum to its latency."""
    found: dict[str, float] = json.loads(str(span.attributes["late.shares"]))
    took = (span.end_ns - span.start_ns) / 1e9 + float(str(span.attributes.get("queue.wait_s", 0)))
    assert sum(found.values()) == pytest.approx(took, abs=1e-4)
    return found


def of_user(service: Service, user: str, name: str = "turn") -> Span:
    (span,) = [span for span in service.named(name) if span.attributes["user_id"] == user]
    return span


# ---------------------------------------------------------------- event loops


def test_fourteen_users_name_the_one_whose_work_blocked_them(service: Service) -> None:
    """Function, line, user and stage; for that one itself it is its own computing."""

    async def resize() -> None:
        await asyncio.sleep(0.02)
        burn(0.4)

    async def main() -> None:
        others = [turn(f"user-{n}", lambda: asyncio.sleep(0.1)) for n in range(14)]
        await asyncio.gather(*others, turn("alice", resize))

    asyncio.run(main())
    for number in range(14):
        span = of_user(service, f"user-{number}")
        assert span.attributes["late.cause"] == "loop"
        assert span.attributes["late.culprit.user_id"] == "alice"
        assert str(span.attributes["late.culprit"]).startswith("turn: ")
        assert "burn (test_why.py:" in str(span.attributes["late.detail"])
        assert shares(span)["loop"] > 0.3
        why = str(span.attributes["late.why"])
        assert why.startswith(f"user-{number}'s turn of ")
        assert why.endswith("for alice, which blocked the event loop")
    alice = of_user(service, "alice")
    assert alice.attributes["late.cause"] == "cpu"
    assert "late.culprit" not in alice.attributes
    blocks = service.named("event_loop.blocked")  # a busy machine's are shorter
    (blocked,) = [each for each in blocks if each.end_ns - each.start_ns > 300e6]
    assert blocked.trace_id == alice.trace_id
    assert "burn" in str(blocked.attributes["blocked.stack"])
    (link,) = of_user(service, "user-3").links
    assert link.span_id == bytes.fromhex(blocked.span_id) or link.span_id == blocked.span_id


def test_a_block_by_work_that_is_in_no_stage_is_named_by_its_line(service: Service) -> None:
    """It was asked for outside of any stage; the loop is blocked all the same."""

    async def main() -> None:
        asyncio.get_running_loop().call_later(0.02, burn, 0.3)
        await turn("bob", lambda: asyncio.sleep(0.1))

    asyncio.run(main())
    span = of_user(service, "bob")
    assert span.attributes["late.cause"] == "loop"
    assert "burn" in str(span.attributes["late.detail"])
    assert "late.culprit.user_id" not in span.attributes


def test_a_block_is_of_the_user_who_is_bound_after_it(service: Service) -> None:
    """A login hashes a password first."""

    async def log_in() -> None:
        with traced("login", root=True, budget=30.0):
            await asyncio.sleep(0.02)
            burn(0.3)
            await asyncio.sleep(0)
            bind_context(user_id="alice")

    async def main() -> None:
        await asyncio.gather(turn("bob", lambda: asyncio.sleep(0.4)), log_in())

    asyncio.run(main())
    bob = of_user(service, "bob")
    assert bob.attributes["late.cause"] == "loop"
    assert bob.attributes["late.culprit.user_id"] == "alice"


def by_timer(loop: asyncio.AbstractEventLoop) -> None:
    loop.call_later(0.02, burn, 0.3)


def when_done(loop: asyncio.AbstractEventLoop) -> None:
    future = loop.create_future()
    future.add_done_callback(lambda _: burn(0.3))
    loop.call_later(0.02, future.set_result, None, context=Context())


@pytest.mark.parametrize("ask", [by_timer, when_done])
def test_a_block_by_a_callback_is_of_the_stage_that_asked_for_it(
    service: Service, ask: Callable[[asyncio.AbstractEventLoop], None]
) -> None:
    """As its log lines are: no task, but a context."""

    async def asks() -> None:
        ask(asyncio.get_running_loop())
        await asyncio.sleep(0.1)

    async def main() -> None:
        await asyncio.gather(turn("bob", lambda: asyncio.sleep(0.1)), turn("alice", asks))

    asyncio.run(main())
    bob, alice = of_user(service, "bob"), of_user(service, "alice")
    assert bob.attributes["late.culprit.user_id"] == "alice"
    assert str(bob.attributes["late.culprit"]).startswith("turn: burn (test_why.py:")
    assert alice.attributes["late.cause"] == "cpu"
    assert service.one("event_loop.blocked").trace_id == alice.trace_id
    assert len(bob.links) == 1
    assert not alice.links


def test_uvloop_is_watched_as_well(service: Service) -> None:
    """It has no frames of its own, but tasks."""
    import uvloop

    async def block() -> None:
        await asyncio.sleep(0.02)
        burn(0.3)

    async def main() -> None:
        await asyncio.gather(turn("bob", lambda: asyncio.sleep(0.1)), turn("alice", block))

    uvloop.run(main())
    span = of_user(service, "bob")
    assert span.attributes["late.cause"] == "loop"
    assert span.attributes["late.culprit.user_id"] == "alice"


def test_nothing_of_ours_stays_on_a_loop_without_a_stage(service: Service) -> None:
    """The heart beats while a stage is open, and no longer."""

    async def main() -> int:
        await turn("bob", lambda: asyncio.sleep(0.05))
        await asyncio.sleep(0.1)
        loop: Any = asyncio.get_running_loop()
        return len([each for each in loop._scheduled if "Heart" in repr(each)])

    assert asyncio.run(main()) == 0
    assert "late" not in service.one("turn").attributes


@pytest.mark.parametrize("kind", ["asyncio", "uvloop"])
def test_a_loop_that_is_awake_is_not_woken_to_beat(service: Service, kind: str) -> None:
    """While stages begin all the time it beats in turns that it makes anyway; a block is seen."""
    loops: Any = asyncio.SelectorEventLoop if kind == "asyncio" else pytest.importorskip(kind).Loop
    timers: list[Any] = []

    class Loop(loops):  # type: ignore[misc]
        def call_later(self, delay: float, callback: Any, *args: Any, **options: Any) -> Any:
            made = super().call_later(delay, callback, *args, **options)
            timers.extend([made] * ("Heart" in repr(callback)))
            return made

    async def main() -> None:
        until = time.monotonic() + 10
        while sum(each.cancelled() for each in timers) < 3:
            assert time.monotonic() < until
            with traced("short", budget=1.0):
                await asyncio.sleep(0)
        beside = asyncio.create_task(turn("bob", lambda: asyncio.sleep(0.1)))
        await asyncio.sleep(0)
        with traced("short", budget=1.0):
            burn(0.3)
        await beside

    with asyncio.Runner(loop_factory=Loop) as runner:
        runner.run(main())
    assert of_user(service, "bob").attributes["late.cause"] == "loop"


# ---------------------------------------------------------------- executors


def resize(seconds: float) -> None:
    time.sleep(seconds)


def in_the_loops_own(pool: ThreadPoolExecutor, work: Callable[..., None], seconds: float) -> Any:
    asyncio.get_running_loop().set_default_executor(pool)
    return asyncio.get_running_loop().run_in_executor(None, work, seconds)


def in_to_thread(pool: ThreadPoolExecutor, work: Callable[..., None], seconds: float) -> Any:
    asyncio.get_running_loop().set_default_executor(pool)
    return asyncio.to_thread(partial(work, seconds=seconds))


def by_submit(pool: ThreadPoolExecutor, work: Callable[..., None], seconds: float) -> Any:
    return asyncio.wrap_future(pool.submit(work, seconds))


@pytest.mark.parametrize("hand", [in_the_loops_own, in_to_thread, by_submit])
def test_waiting_for_a_free_thread_is_the_pool_and_whose_work_had_it(
    service: Service, hand: Callable[..., Any]
) -> None:
    """Whichever way the work goes to the executor."""

    async def main() -> None:
        pool = ThreadPoolExecutor(1, thread_name_prefix="images")
        with pool:
            first = asyncio.create_task(turn("alice", lambda: hand(pool, resize, 0.4)))
            await asyncio.sleep(0.01)
            await asyncio.gather(first, turn("bob", lambda: hand(pool, resize, 0.01)))

    asyncio.run(main())
    span = of_user(service, "bob")
    assert (span.attributes["late.cause"], span.attributes["late.detail"]) == ("pool", "images")
    assert span.attributes["late.culprit"] == "resize"
    assert span.attributes["late.culprit.user_id"] == "alice"
    assert shares(span)["pool"] == pytest.approx(0.4, abs=0.1)
    assert "for the pool images, held by resize for alice" in str(span.attributes["late.why"])
    alice = of_user(service, "alice")
    assert alice.attributes["late.cause"] == "unknown"
    assert shares(alice).get("pool", 0) < 0.05


def test_a_stage_that_gives_up_before_a_thread_takes_its_work_waited_for_the_pool(
    service: Service,
) -> None:
    async def main() -> None:
        free = threading.Event()
        with ThreadPoolExecutor(1) as pool:
            pool.submit(free.wait)

            async def impatient() -> None:
                with pytest.raises(TimeoutError):
                    await asyncio.wait_for(by_submit(pool, resize, 0.0), 0.3)

            await turn("bob", impatient)
            free.set()

    asyncio.run(main())
    span = of_user(service, "bob")
    assert span.attributes["late.cause"] == "pool"
    assert shares(span)["pool"] == pytest.approx(0.3, abs=0.1)


def test_work_that_goes_on_after_its_stage_was_not_waited_for(service: Service) -> None:
    async def main() -> None:
        taken, free = threading.Event(), threading.Event()
        with ThreadPoolExecutor(1) as pool:
            pool.submit(time.sleep, 0.2)

            def outlives() -> None:
                taken.set()
                free.wait()

            async def hands_over() -> None:
                pool.submit(outlives)
                while not taken.is_set():
                    await asyncio.sleep(0.01)

            await turn("bob", hands_over)
            free.set()

    asyncio.run(main())
    assert "pool" not in shares(of_user(service, "bob"))


class Nameless:
    def __call__(self) -> str:
        return "done"

    def __getattr__(self, name: str) -> Any:
        raise RuntimeError(name)


def test_work_without_a_name_is_taken_by_a_pool_as_any_other(service: Service) -> None:
    with ThreadPoolExecutor(1) as pool, traced("turn", budget=BUDGET_S):
        assert pool.submit(Nameless()).result() == "done"
        assert pool.submit(partial(Nameless())).result() == "done"
        assert pool.submit(partial(copy_context().run), Nameless()).result() == "done"
    assert service.one("turn")


def test_a_frameworks_own_threads_are_a_pool(service: Service) -> None:
    """anyio's, in which Starlette and FastAPI run plain functions."""
    import anyio.to_thread

    async def main() -> None:
        limiter = anyio.CapacityLimiter(1)

        async def work(seconds: float) -> None:
            await anyio.to_thread.run_sync(resize, seconds, limiter=limiter)

        first = asyncio.create_task(turn("alice", lambda: work(0.5)))
        await asyncio.sleep(0.01)
        await asyncio.gather(first, turn("bob", lambda: work(0.01)))

    asyncio.run(main())
    assert of_user(service, "bob").attributes["late.cause"] == "pool"
    assert of_user(service, "alice").attributes["late.cause"] == "unknown"


# ---------------------------------------------------------------- other causes


def test_a_garbage_collection_is_named_with_what_made_it_run(service: Service) -> None:
    """It holds everything up, whoever's it is."""
    heap = [[n] for n in range(1_500_000)]

    def collect_all() -> None:
        until = time.perf_counter() + 0.3
        while time.perf_counter() < until:
            gc.collect()

    with traced("turn", budget=BUDGET_S):
        bind_context(user_id="alice")
        collect_all()
    del heap
    span = service.one("turn")
    assert span.attributes["late.cause"] == "gc"
    assert "collect_all" in str(span.attributes["late.culprit"])
    assert span.attributes["late.culprit.user_id"] == "alice"
    assert shares(span)["gc"] > 0.15


COLLECTED_EVERYWHERE = """
import gc, time
from otel_logging import bind_context, setup_observability, traced

setup_observability("shop")
gc.callbacks.append(lambda phase, _: time.sleep(0.0003 * (phase == "start")))  # a long collection
gc.set_threshold(1)
for _ in range(60):
    with traced("request"):
        bind_context(user_id="user-42")
gc.set_threshold(700)
print("done")
"""


def test_a_collection_anywhere_in_a_stage_does_no_harm(tmp_path: Path) -> None:
    """Also in the midst of its end, where Python 3.11 takes its context off."""
    done = script(COLLECTED_EVERYWHERE, OTEL_LOGGING_SPOOL_DIR=str(tmp_path), ENVIRONMENT="test")
    assert done.stdout.endswith(b"done\n")


READ_BY_A_FINALISER = """
import gc
from contextvars import Context, ContextVar

from otel_logging import setup_observability

setup_observability("shop")
user, room = ContextVar("user", default="nobody"), ContextVar("room")


class Connection:
    def __del__(self):
        user.get()  # as a log call does


def request(later):
    room.set("kitchen")
    token = user.set(f"user-{later}")
    connection = Connection()
    connection.me = connection
    del connection
    gc.set_threshold(gc.get_count()[0] + later)  # the collector runs so many objects later
    gc.enable()
    user.reset(token)
    gc.disable()
    return user.get()


gc.disable()
print({Context().run(request, later) for later in range(10)})
"""


def test_a_finaliser_reads_a_context_variable_in_the_midst_of_its_reset(tmp_path: Path) -> None:
    """Python 3.11 alone goes on with the value that was freed, and crashes."""
    done = script(READ_BY_A_FINALISER, OTEL_LOGGING_SPOOL_DIR=str(tmp_path), ENVIRONMENT="test")
    assert done.stdout == b"{'nobody'}\n"


@pytest.mark.parametrize("cause", ["lock", "pool", "rate limit"])
def test_a_wait_names_who_had_it(service: Service, cause: str) -> None:
    """What the application waits for, and the stage that had got it before."""

    async def main() -> None:
        lock = asyncio.Lock()

        async def work() -> None:
            with waiting(cause, name="inventory"):
                await lock.acquire()
            await asyncio.sleep(0.3)
            lock.release()

        await asyncio.gather(turn("alice", work), turn("bob", work))

    asyncio.run(main())
    span = of_user(service, "bob")
    assert span.attributes["late.cause"] == cause
    assert span.attributes["late.detail"] == "inventory"
    assert span.attributes["late.culprit"] == "turn"
    assert span.attributes["late.culprit.user_id"] == "alice"
    assert "late.culprit" not in of_user(service, "alice").attributes


def test_a_lock_of_each_user_blames_nobody_else(service: Service) -> None:
    """Which one it is stands in the fields; without them nobody is blamed."""

    async def main() -> None:
        async def work(user: str) -> None:
            with waiting("lock", user=user):
                await asyncio.sleep(0.2)

        async def nameless() -> None:
            with waiting("lock"):
                await asyncio.sleep(0.2)

        await asyncio.gather(
            turn("alice", lambda: work("alice")),
            turn("bob", lambda: work("bob")),
            turn("c", nameless),
        )

    asyncio.run(main())
    for user in ("alice", "bob", "c"):
        span = of_user(service, user)
        assert span.attributes["late.cause"] == "lock"
        assert "late.culprit" not in span.attributes


@waiting("pool", name="connections")
async def get_connection(seconds: float) -> None:
    """Wait for a connection."""
    await asyncio.sleep(seconds)


def test_a_function_that_waits_is_a_wait_each_call(service: Service) -> None:
    """``waiting`` decorates as well."""
    asyncio.run(turn("bob", lambda: get_connection(0.2)))
    assert service.one("turn").attributes["late.cause"] == "pool"


@pytest.mark.parametrize("cause", ["", " ", None, 3, "gc", "cpu", "unknown", "GC", " loop "])
def test_a_cause_that_cannot_be_is_an_error(cause: Any) -> None:
    """What the package measures itself is not for an application to say."""
    with pytest.raises(ConfigurationError, match="waiting: cause"):
        waiting(cause)


def test_a_wait_outside_any_stage_is_nothing(service: Service) -> None:
    """Nor is one in a stage that nothing measures."""
    with waiting("lock", name="a"), traced("unmeasured"), waiting("lock"):
        pass
    assert "late" not in service.one("unmeasured").attributes


def test_time_in_a_queue_is_part_of_the_latency(service: Service) -> None:
    """What the worker did meanwhile is the culprit."""

    async def main() -> None:
        with traced("turn", budget=0.1):
            bind_context(user_id="alice")
            await asyncio.sleep(0.3)
        with traced("turn", budget=0.25, **{"queue.wait_s": 0.3}):  # type: ignore[arg-type]
            bind_context(user_id="bob")

    asyncio.run(main())
    span = of_user(service, "bob")
    assert span.attributes["late.cause"] == "queue"
    assert span.attributes["late.culprit.user_id"] == "alice"
    assert float(str(span.attributes["late.by_s"])) >= 0.05
    found = shares(span)
    # on a busy machine the loop was late meanwhile, which is no waiting
    assert found["queue"] >= 0.29 - sum(found.get(pause, 0) for pause in ("loop", "gc"))


class _Slow(SpanProcessor):
    def on_start(self, span: Any, parent_context: Any = None) -> None:
        time.sleep(0.03)  # longer than it had waited

    def force_flush(self, timeout_millis: int = 0) -> bool:
        return True  # the oldest SDK's says nothing, for every later test as well


@pytest.mark.parametrize("way", ["attribute", "handoff"])
def test_a_stage_that_waited_begins_with_its_span(service: Service, way: str) -> None:
    """Whatever takes time in between: the shares are the latency, to the microsecond."""
    provider: Any = trace.get_tracer_provider()
    provider.add_span_processor(_Slow())
    handed = handoff(1)
    stage: Any = traced("turn", budget=0.01, attributes={"queue.wait_s": 0.02})
    with stage if way == "attribute" else taking(handed, name="turn", budget=0.001):
        pass
    span = service.one("turn")
    latency_s = sum(json.loads(str(span.attributes["late.shares"])).values())
    took_s = (span.end_ns - span.start_ns) / 1e9 + (0.02 if way == "attribute" else 0)
    assert latency_s == pytest.approx(took_s, abs=3e-6)


@pytest.mark.parametrize("waited", [-1.0, float("nan"), float("inf"), "3", None, True])
def test_a_wait_that_is_no_positive_number_counts_for_nothing(
    service: Service, waited: Any
) -> None:
    """A clock that steps back gives such."""
    with traced("turn", budget=10.0, attributes={"queue.wait_s": waited}):
        pass
    assert "late" not in service.one("turn").attributes


def test_a_call_to_elsewhere_is_named(service: Service) -> None:
    """A client's span, whoever made it; a stage below; of both, what ended last."""
    tracer = trace.get_tracer("httpx")

    async def work() -> None:
        with tracer.start_as_current_span("GET /stock", kind=SpanKind.CLIENT):
            await asyncio.sleep(0.2)
        with traced("parse"):
            await asyncio.sleep(0.02)

    asyncio.run(turn("bob", work))
    span = service.one("turn")
    assert span.attributes["late.cause"] == "downstream"
    assert span.attributes["late.detail"] == "GET /stock"
    assert shares(span)["downstream"] > 0.19


def test_computing_in_a_thread_is_its_own(service: Service) -> None:
    """By the thread's own clock, in the stage itself and in one below it."""
    with traced("turn", budget=0.05), traced("resize"):
        began = time.thread_time()
        while time.thread_time() - began < 0.3:
            sum(range(500))
    # where the machine is busy, waiting for a processor may be even more
    assert shares(service.one("turn"))["cpu"] >= 0.29


def test_the_children_that_matter_are_the_critical_path(service: Service) -> None:
    """Two side by side: the one that the stage waited for last."""

    async def child(name: str, seconds: float) -> None:
        with traced(name):
            await asyncio.sleep(seconds)

    async def work() -> None:
        await asyncio.gather(child("short", 0.1), child("long", 0.25))

    asyncio.run(turn("bob", work))
    span = service.one("turn")
    assert (span.attributes["late.cause"], span.attributes["late.detail"]) == ("downstream", "long")
    assert shares(span)["downstream"] < 0.3


# ---------------------------------------------------------------- where it stood


def sleep_in_a_loop() -> None:
    for _ in range(4):
        time.sleep(0.1)


def test_what_no_cause_is_known_of_says_where_it_stood(service: Service) -> None:
    """The application's own line first, and a library's in brackets."""

    async def polls() -> None:
        for _ in range(4):
            await asyncio.sleep(0.1)

    asyncio.run(turn("bob", polls))
    span = service.one("turn")
    assert span.attributes["late.cause"] == "unknown"
    assert "polls (test_why.py:" in str(span.attributes["late.where"])
    assert "[in sleep (tasks.py:" in str(span.attributes["late.where"])
    assert "polls" in str(span.attributes["late.why"])
    with traced("sync", budget=0.1):
        sleep_in_a_loop()
    assert "100 % sleep_in_a_loop (test_why.py:" in str(
        service.one("sync").attributes["late.where"]
    )


def test_a_lock_that_nobody_named_is_seen(service: Service) -> None:
    """Waiting in asyncio's locks is a lock; through gather, a task and a coroutine's wrapper."""

    class Awaitable:
        def __init__(self, lock: asyncio.Lock) -> None:
            self.lock = lock

        def __await__(self) -> Any:
            return self.lock.acquire().__await__()

    async def main() -> None:
        lock = asyncio.Lock()
        await lock.acquire()
        asyncio.get_running_loop().call_later(0.8, lock.release)

        async def update_stock() -> None:
            await Awaitable(lock)

        await turn("bob", lambda: asyncio.gather(asyncio.create_task(update_stock())))

    asyncio.run(main())
    span = service.one("turn")
    assert span.attributes["late.cause"] == "lock"
    assert "update_stock" in str(span.attributes["late.detail"])


@pytest.mark.parametrize(
    ("way", "slow_s"), [("awaits", 1.0), ("blocks", 0.3), ("blocks uvloop", 0.3), ("a thread", 0.3)]
)
def test_a_slow_stage_without_a_budget_says_where_it_stood(
    service: Service, monkeypatch: pytest.MonkeyPatch, way: str, slow_s: float
) -> None:
    """From one second on; it is not late."""
    if way != "awaits":
        monkeypatch.setattr(watchdog, "_SLOW_S", slow_s)
    took_s = slow_s + 0.2

    async def main() -> None:
        with traced("job"):
            await asyncio.sleep(0.01)
            await asyncio.sleep(took_s) if way == "awaits" else time.sleep(took_s)

    def works() -> None:
        with traced("job"):
            time.sleep(took_s)

    if way == "a thread":
        works()
    elif way == "blocks uvloop":
        pytest.importorskip("uvloop").run(main())
    else:
        asyncio.run(main())
    job = service.one("job")
    assert "(test_why.py:" in str(job.attributes["late.where"])
    assert "late" not in job.attributes


# ---------------------------------------------------------------- lines


@pytest.mark.parametrize("before", ["a thread", "a loop that has stopped"])
def test_a_stage_that_begins_after_a_rest_is_looked_at(service: Service, before: str) -> None:
    """Where nothing is open, the thread waits until it is woken."""

    async def first() -> None:
        with traced("first", budget=9):
            await asyncio.sleep(0)

    loop = asyncio.new_event_loop()
    if before == "a thread":
        with traced("first"):
            pass
    else:
        loop.run_until_complete(first())
    deadline = time.monotonic() + 30
    while _runtime.current.watch.is_awake:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    with traced("turn", budget=0.1):
        time.sleep(0.4)
    loop.close()
    assert "test_a_stage_that_begins_after" in str(service.one("turn").attributes["late.where"])


def test_a_clock_that_is_set_back_moves_no_sentence(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has the time of the span."""
    wall = time.time_ns
    with monkeypatch.context() as patched, traced("turn", budget=0.02):
        patched.setattr(time, "time_ns", lambda: wall() - 3600 * 10**9)
        time.sleep(0.05)
    span = service.one("turn")
    began = datetime.fromtimestamp(span.start_ns // 10**6 / 1e3, UTC).time()
    told = f"turn of {began.isoformat('milliseconds')} took"
    assert str(span.attributes["late.why"]).startswith(told)


def test_a_late_trace_is_one_line_of_its_deepest_stage(service: Service, lines: Lines) -> None:
    """The stages around it have the tags."""
    with traced("request", budget=0.05), traced("turn", budget=0.05):
        bind_context(user_id="bob")
        time.sleep(0.1)
    (line,) = lines()
    turned, request = service.one("turn"), service.one("request")
    assert line["level"] == "warning"
    assert line["event"] == turned.attributes["late.why"]
    assert (line["stage"], line["span_id"], line["user_id"]) == ("turn", turned.span_id, "bob")
    assert line["late.cause"] == turned.attributes["late.cause"]
    assert request.attributes["late"] is True


def test_the_deepest_late_stage_is_reported_whichever_was_late_first(
    service: Service, lines: Lines
) -> None:
    """Once all are over; its line is in its trace all the same, with what was bound there."""
    with traced("order", budget=9, root=True):
        with traced("first", budget=0.01):
            time.sleep(0.02)
        with traced("second"), bound_context(step="pay"), traced("deepest", budget=0.01):
            time.sleep(0.02)
        with traced("last", budget=0.01):
            time.sleep(0.02)
        assert lines() == []
    (line,) = lines()
    deepest = service.one("deepest")
    assert (line["stage"], line["span_id"], line["step"]) == ("deepest", deepest.span_id, "pay")
    assert line["event"] == deepest.attributes["late.why"]
    assert line["event"] in [event.name for span in service.spans() for event in span.events]


def test_a_stage_that_outlives_its_outer_one_is_reported(service: Service, lines: Lines) -> None:
    """At its own end; of two that do, the first is."""

    async def outlives() -> None:
        for name in ("below", "after it"):
            with traced(name, budget=0.01):
                await asyncio.sleep(0.05)

    async def main() -> None:
        with traced("request", budget=9):
            task = asyncio.create_task(outlives())
            await asyncio.sleep(0)
        assert lines() == []
        await task

    asyncio.run(main())
    assert [line["stage"] for line in lines()] == ["below"]


@pytest.mark.parametrize("bound", ["in the stage", "in the request", "around it"])
def test_a_request_that_is_not_sampled_has_its_line_all_the_same(
    receiver: Receiver,
    tmp_path: Path,
    lines: Lines,
    monkeypatch: pytest.MonkeyPatch,
    bound: str,
) -> None:
    """With its cause and its user; no span leaves."""
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "always_off")
    with setup_observability(
        "shop", environment="production", endpoint=receiver.endpoint, spool_dir=tmp_path / "spool"
    ) as running:
        lines()

        async def work() -> None:
            with traced("turn", budget=BUDGET_S):
                if bound == "in the stage":
                    bind_context(user_id="alice")
                await get_connection(0.2)

        async def main() -> None:
            if bound == "in the stage":
                await work()
            elif bound == "in the request":
                with traced("request", root=True):
                    bind_context(user_id="alice")
                    await work()
            else:
                with bound_context(user_id="alice"):
                    await work()

        asyncio.run(main())
        (line,) = [line for line in lines() if line["logger"] == "otel_logging"]
        assert (line["late.cause"], line["user_id"]) == ("pool", "alice")
        assert line["event"].startswith("alice's turn of ")
        assert running.force_flush(60)
    assert receiver.spans == []


def test_a_hung_stage_is_reported_while_it_hangs(service: Service, lines: Lines) -> None:
    """Once, with its stack."""

    async def hangs() -> None:
        await asyncio.sleep(1.5)

    asyncio.run(turn("bob", hangs))
    overdue, late = lines()
    assert overdue["event"].startswith("bob's turn is overdue: open for ")
    assert f" (budget {duration(BUDGET_S)}), in " in overdue["event"]
    assert "hangs (" in overdue["late.where"]
    assert overdue["span_id"] == late["span_id"] == service.one("turn").span_id


def test_each_of_many_hung_stages_is_reported(service: Service, lines: Lines) -> None:
    """Though those that hang for good were there before: not so many are looked at at once."""
    told: set[str] = set()

    async def main() -> None:
        hung = [asyncio.create_task(turn(f"u{n}", lambda: asyncio.sleep(60))) for n in range(150)]
        until = time.monotonic() + 20
        while len(told) < len(hung):
            assert time.monotonic() < until, len(told)
            await asyncio.sleep(0.05)
            told.update(line["user_id"] for line in lines() if "is overdue" in line["event"])
        for task in hung:
            task.cancel()
        await asyncio.gather(*hung, return_exceptions=True)

    asyncio.run(main())
    assert len(service.named("turn")) == 150


@pytest.mark.parametrize("holder", ["a pool", "a timer of the loop", "a thread that has ended"])
def test_a_late_turn_that_outlives_whoever_began_it_is_reported(
    service: Service, lines: Lines, holder: str
) -> None:
    """With the place of the thread that works on it, where a pool's does."""
    told: list[dict[str, Any]] = []
    release = threading.Event()
    open_turns: list[Any] = []

    def answers() -> None:
        release.wait(5)
        open_turns[0].end()

    def begin() -> None:
        open_turns.append(traced("turn", root=True, budget=BUDGET_S).begin())
        bind_context(user_id="bob")

    async def on_speech() -> None:
        begin()
        loop = asyncio.get_running_loop()
        if holder == "a pool":
            loop.run_in_executor(None, answers)
        else:
            loop.call_later(60, print)

    async def main() -> None:
        if holder == "a thread that has ended":
            await asyncio.get_running_loop().run_in_executor(pool, begin)
            pool.shutdown()
        else:
            await asyncio.create_task(on_speech())
        until = time.monotonic() + 5
        while not told:
            assert time.monotonic() < until
            await asyncio.sleep(0.02)
            told.extend(line for line in lines() if "is overdue" in line["event"])
        release.set()

    pool = ThreadPoolExecutor(1)
    asyncio.run(main())
    open_turns[0].end()
    (line,) = told
    assert re.match("bob's turn is overdue: open for [0-9.]+ m?s ", line["event"])
    assert line["user_id"] == "bob"
    if holder == "a pool":
        assert "answers (" in line["late.where"]
        assert "answers (" in str(service.one("turn").attributes["late.where"])
    else:
        assert line["event"].endswith(", and nothing is known to work on it")
        assert "late.where" not in line


def test_what_a_thread_had_goes_with_it_while_a_stage_is_looked_at(service: Service) -> None:
    """No stack that was looked at is kept until the garbage is collected."""

    class Thing:
        pass

    kept: list[weakref.ref[Thing]] = []

    def works() -> None:
        thing = Thing()
        kept.append(weakref.ref(thing))
        time.sleep(0.4)

    gc.disable()
    try:
        with traced("turn", budget=BUDGET_S):
            thread = threading.Thread(target=works)
            thread.start()
            thread.join()
            assert kept[0]() is None
    finally:
        gc.enable()
    assert service.one("turn").attributes["late.where"]


def test_what_a_stage_had_goes_with_it_while_its_line_is_written(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To free it is its own thread's work: ours could look at nothing meanwhile."""
    freed_in: list[int] = []
    is_over, has_been_told = threading.Event(), threading.Event()

    class Large:
        def __del__(self) -> None:
            freed_in.append(threading.get_ident())

    def tells(event: str, **_: Any) -> None:
        if "is overdue" in event:
            has_been_told.set()
            is_over.wait(20)

    def works() -> None:
        large = Large()
        assert has_been_told.wait(20), large

    monkeypatch.setattr(_runtime.current.watch, "warn", tells)
    with traced("turn", budget=0.01):
        works()
        assert freed_in == [threading.get_ident()]
        is_over.set()


@pytest.mark.parametrize(("lines", "blocked_s"), [(1, 0.3), (3, 0.7)])
def test_what_a_look_has_cost_makes_nothing_invisible(
    service: Service, monkeypatch: pytest.MonkeyPatch, lines: int, blocked_s: float
) -> None:
    """A line may be written slowly: the stages and the blocks after it are seen all the same."""
    monkeypatch.setattr(_runtime.current.watch, "warn", lambda *_, **__: burn(0.1))

    async def late(number: int) -> None:
        await asyncio.sleep(number / 25)  # so it is overdue in a look of its own
        await turn("carol", lambda: asyncio.sleep(0.8))

    async def resize() -> None:
        await asyncio.sleep(0.02)
        burn(blocked_s)

    async def main() -> None:
        await asyncio.gather(*map(late, range(lines)))
        await asyncio.gather(turn("bob", lambda: asyncio.sleep(0.1)), turn("alice", resize))

    asyncio.run(main())
    assert of_user(service, "bob").attributes["late.culprit.user_id"] == "alice"


def test_a_late_message_is_reported_as_soon_as_a_worker_has_done_it(
    lines: Lines, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    """Whatever the worker still has of it until its next item comes."""
    monkeypatch.setenv("OTEL_LOGGING_BUDGETS", f"message={BUDGET_S}")
    request.getfixturevalue("service")
    workers: list[asyncio.Task[None]] = []
    told = [False]

    async def work(handed: Handoff[str]) -> None:
        with taking(handed, name="work"):
            await asyncio.to_thread(time.sleep, 0.3)
        await asyncio.sleep(60)  # for the next

    def take(text: str) -> None:
        work_on = work(handoff(text))
        workers.append(asyncio.get_running_loop().create_task(work_on, context=Context()))

    async def at_end() -> None:
        until = time.monotonic() + 3  # long before a message that is held is taken for idle
        while not told[-1] and time.monotonic() < until:
            await asyncio.sleep(0.01)
            told.extend(line["event"].startswith("ada's message of ") for line in lines())
        workers[0].cancel()

    serve("ada", take=take, at_end=at_end)
    assert told[-1]


@pytest.mark.parametrize("way", ["taking", "an instrumented queue"])
def test_a_message_stands_where_its_taker_does_until_that_takes_the_next(
    lines: Lines, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest, way: str,
    tmp_path: Path,
) -> None:  # fmt: skip
    """Also one that has waited until then; what is done is not overdue, whatever its taker does."""
    monkeypatch.setenv("OTEL_LOGGING_BUDGETS", f"message={BUDGET_S}")
    service: Service = request.getfixturevalue("service")
    queue, over, workers = asyncio.Queue[Any](), asyncio.Event(), set[asyncio.Task[None]]()
    if way != "taking":
        queues.instrument(queue, name="post")

    async def resizes() -> None:
        await asyncio.sleep(0.4)

    async def transcodes() -> None:
        await over.wait()

    async def works() -> None:
        while True:
            item = await queue.get()
            with taking(item, name="post") if way == "taking" else nullcontext():
                await (resizes if "ada" in (item, getattr(item, "item", "")) else transcodes)()

    def take(text: str) -> None:
        if not workers:
            workers.add(asyncio.get_running_loop().create_task(works(), context=Context()))
        queue.put_nowait(handoff(text) if way == "taking" else text)

    async def at_end() -> None:
        until, stood = time.monotonic() + 20, dict[str, str]()
        while "bob's" not in stood:
            assert time.monotonic() < until
            await asyncio.sleep(0.02)
            overdue = [each for each in lines() if "is overdue" in each["event"]]
            stood |= {each["event"].split()[0]: each["late.where"] for each in overdue}
        assert "transcodes (" in stood["bob's"]
        assert "resizes (" in stood.get("ada's", "resizes (")  # on a busy machine she is late, too
        (row,) = [row for row in opened(tmp_path / "spool") if row["who"] == {"user_id": "bob"}]
        assert "transcodes (" in row["where"][0]
        over.set()
        while not queue._getters:  # type: ignore[attr-defined]
            await asyncio.sleep(0)
        (worker,) = workers
        # nothing of a message is kept as long as the worker lives
        assert not worker._callbacks  # type: ignore[attr-defined]
        worker.cancel()

    serve("ada", "bob", take=take, at_end=at_end)
    for user, place, others in (
        ("ada", "resizes (", "transcodes ("),
        ("bob", "transcodes (", "resizes ("),
    ):
        where = str(of_user(service, user, "message").attributes["late.where"])
        assert place in where
        assert others not in where
        assert "Queue.get" not in where


@pytest.mark.parametrize("way", ["of a pool", "that takes it from a queue"])
def test_a_message_that_a_thread_works_on_is_overdue(
    lines: Lines, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest, tmp_path: Path,
    way: str,
) -> None:  # fmt: skip
    """After the next was asked for too: it is open, and its line says where it is."""
    monkeypatch.setenv("OTEL_LOGGING_BUDGETS", f"message={BUDGET_S}")
    request.getfixturevalue("service")
    told: list[dict[str, Any]] = []
    release = threading.Event()

    inbox = SimpleQueue[Handoff[str]]()

    def works() -> None:
        release.wait(5)

    def takes() -> None:
        with taking(inbox.get(timeout=5), name="post"):
            works()

    async def at_end() -> None:
        until = time.monotonic() + 3
        while not told:
            assert time.monotonic() < until
            await asyncio.sleep(0.02)
            told.extend(line for line in lines() if "is overdue" in line["event"])
        assert [row["who"] for row in opened(tmp_path / "spool")] == [{"user_id": "ada"}]
        release.set()

    with ThreadPoolExecutor(1) as pool:
        if way == "of a pool":
            serve("ada", take=lambda _: pool.submit(works), at_end=at_end)
        else:
            pool.submit(takes)
            serve("ada", take=lambda text: inbox.put(handoff(text)), at_end=at_end)
    assert told[0]["event"].startswith("ada's message is overdue")
    assert "works (" in told[0]["late.where"]


@pytest.mark.parametrize("way", ["with a line", "silently"])
def test_a_message_that_only_a_timer_holds_is_not_overdue(
    lines: Lines, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest, way: str
) -> None:
    """One that a task works on is, after the next was asked for too, until the end of the task;
    its line says where it is.
    """
    monkeypatch.setenv("OTEL_LOGGING_BUDGETS", f"message={BUDGET_S}")
    request.getfixturevalue("service")
    timers: list[asyncio.TimerHandle] = []
    tasks: set[asyncio.Task[None]] = set()

    async def works() -> None:
        await asyncio.sleep(1.0)
        if way == "with a line":
            get_logger("chat").info("worked")

    def take(text: str) -> None:
        if text == "timer":
            timers.append(asyncio.get_running_loop().call_later(60, print))
        else:
            tasks.add(task := asyncio.create_task(works()))
            task.add_done_callback(tasks.discard)

    async def at_end() -> None:
        await asyncio.sleep(1.3)
        timers[0].cancel()

    serve("timer", "task", take=take, at_end=at_end)
    overdue, *worked, late = lines()
    assert [line["event"] for line in worked] == ["worked"] * (way == "with a line")
    assert late["late.by_s"] > 0.8
    assert overdue["event"].startswith("task's message is overdue")
    assert "works (" in overdue["late.where"]
    assert late["event"].startswith("task's message of ")
    for key in ("trace_id", "span_id", "user_id"):  # its last task has ended it
        assert overdue[key] == late[key] != ""


# ---------------------------------------------------------------- budgets


@pytest.fixture
def budgets(
    receiver: Receiver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[str], Any]]:
    monkeypatch.setenv(
        "OTEL_LOGGING_BUDGETS", "chat *=0.4, chat get *=0.3,chat get one=0.2,a=b=0.1,GET /[x]?=0.6"
    )
    running = setup_observability(
        "shop", environment="production", endpoint=receiver.endpoint, spool_dir=tmp_path / "spool"
    )

    def budget_of(name: str) -> Any:
        with traced(name) as span:
            pass
        span_id = f"{span.get_span_context().span_id:016x}"
        assert running.force_flush(60)
        (found,) = [each for each in receiver.spans if each.span_id == span_id]
        return found.attributes.get("budget_s")

    yield budget_of
    running.shutdown()


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("chat x", 0.4),
        ("chat get x", 0.3),
        ("chat get one", 0.2),
        ("chat", None),
        ("a=b", 0.1),
        ("GET /[x]1", 0.6),
        ("GET /x1", None),
    ],
)
def test_the_most_exact_name_gives_the_budget(
    budgets: Callable[[str], Any], name: str, expected: float | None
) -> None:
    """Asked twice: it is remembered."""
    assert [budgets(name), budgets(name)] == [expected, expected]


@pytest.mark.parametrize(
    "given",
    [
        *("turn", "turn=", "turn=x", "turn=-1", "turn=0", "=1", "turn=inf", ","),
        *("turn=1;word=2", "turn=1 ; word=2", "turn=1,turn=2", "turn=1,,word=2", "turn=1, turn =1"),
    ],
)
def test_a_budget_that_is_no_positive_number_is_an_error(
    given: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the variable as in code."""
    monkeypatch.setenv("OTEL_LOGGING_BUDGETS", given)
    with pytest.raises(ConfigurationError, match="OTEL_LOGGING_BUDGETS"):
        setup_observability("shop")


# ---------------------------------------------------------------- processes


@pytest.mark.skipif(sys.version_info < (3, 13), reason="before it, there is no way to ask")
def test_an_interpreter_beside_ours_costs_the_process_nothing(tmp_path: Path) -> None:
    """To look at stacks would end it; an interpreter that shares its lock is no such one."""
    code = """
import _interpreters, sys, time
from otel_logging import setup_observability, traced
setup_observability("shop", environment="production", spool_dir=sys.argv[1],
                    endpoint="http://127.0.0.1:1")
other = _interpreters.create(sys.argv[2])
busy = "import time; until = time.time() + 0.9\\nwhile time.time() < until: pass"
with traced("turn", budget=0.1):
    _interpreters.exec(other, busy)
_interpreters.destroy(other)
"""
    assert b"nothing is known to work on it" in script(code, str(tmp_path), "isolated").stdout
    assert b"is overdue" in script(code, str(tmp_path), "legacy").stdout


def test_a_forked_child_explains_its_own_stages(tmp_path: Path) -> None:
    """With a table and a thread of its own; both exit at once."""
    code = """
import os, sys, time
from otel_logging import setup_observability, traced
setup_observability("shop", environment="production", endpoint="http://127.0.0.1:1",
                    spool_dir=sys.argv[1], budgets={"turn": 0.05})
def slow_line(): time.sleep(0.2)
with traced("turn"): slow_line()
pid = os.fork()
with traced("turn"): slow_line()
if pid: assert os.waitpid(pid, 0)[1] == 0
"""
    began = time.monotonic()
    done = script(code, str(tmp_path))
    lines = map(json.loads, done.stdout.splitlines())
    found = [line for line in lines if line["logger"] == "otel_logging"]  # Python warns of forks
    assert [each["late.cause"] for each in found] == ["unknown"] * 3
    assert all("slow_line" in each["late.detail"] for each in found)
    assert time.monotonic() - began < 20


def test_threads_and_tasks_that_end_elsewhere_break_nothing(service: Service) -> None:
    """A stage that is entered in one thread and left in another; one that is never left."""
    stage = traced("moved", budget=0.01)
    threads = [threading.Thread(target=stage.__enter__), threading.Thread(target=lambda: None)]
    for thread in threads:
        thread.start()
        thread.join()
    time.sleep(0.05)
    stage.__exit__(None, None, None)
    abandoned = traced("abandoned", budget=0.01).__enter__()
    abandoned.end()
    assert service.one("moved").attributes["late"] is True
    assert "late" not in service.one("abandoned").attributes


def test_computing_in_a_stage_of_another_thread_names_that_stage(
    service: Service, lines: Lines
) -> None:
    """And not the place where the request waits for it."""
    share = 0.0

    @traced("search")
    def search() -> None:
        nonlocal share
        began_s, began_cpu_s = time.perf_counter(), time.thread_time()
        burn(0.25)
        share = (time.thread_time() - began_cpu_s) / (time.perf_counter() - began_s)

    def turns() -> None:
        asyncio.run(turn("alice", lambda: asyncio.to_thread(search)))

    def waits() -> None:
        with traced("job", budget=BUDGET_S), ThreadPoolExecutor() as pool:
            pool.submit(search).result()

    for attempt in (turns, waits):
        for _ in until_a_processor_is_free():
            attempt()
            (line,) = lines()
            if share > 0.8 or line["late.cause"] == "cpu":
                break
        assert line["late.cause"] == "cpu"
        assert str(line["late.detail"]).startswith(("search", "burn ("))
        assert f"s of its own work in {line['late.detail']}" in line["event"]
    of_turn, of_job = ([s for s in service.spans() if s.name == n][-1] for n in ("turn", "job"))
    assert "alice" in str(of_turn.attributes["late.why"])
    assert str(of_job.attributes["late.detail"]).startswith(("search", "burn ("))


@pytest.mark.parametrize("keep", [lambda: sum(range(10_000_000)), lambda: burn(0.3)])
def test_a_thread_behind_anothers_computing_names_it(
    service: Service, keep: Callable[[], object]
) -> None:
    """Where one thread keeps the interpreter for itself: in one call that never lets go, or
    whenever the other has something to do.
    """
    begun, held = threading.Event(), threading.Event()
    share = 0.0

    def hold() -> None:
        nonlocal share
        with traced("report", budget=60):
            bind_context(user_id="alice")
            held.set()
            began_s, began_cpu_s = time.perf_counter(), time.thread_time()
            keep()
            share = (time.thread_time() - began_cpu_s) / (time.perf_counter() - began_s)
            held.clear()

    def small() -> None:
        with traced("turn", budget=BUDGET_S):
            bind_context(user_id="bob")
            begun.set()
            held.wait(2)
            while held.is_set():
                time.sleep(0.001)
                sum(range(5000))

    for _ in until_a_processor_is_free():
        with ThreadPoolExecutor(2) as pool:
            small_one = pool.submit(small)
            begun.wait(5)
            time.sleep(0.1)  # the watching thread knows both
            begun.clear()
            pool.submit(hold).result()
            small_one.result()
        span = service.named("turn")[-1]
        if share > 0.8 or str(span.attributes.get("late.culprit")).startswith("report"):
            break
    assert span.attributes["late.cause"] == "cpu"
    assert str(span.attributes["late.culprit"]).startswith("report")
    assert span.attributes["late.culprit.user_id"] == "alice"
    assert str(span.attributes["late.why"]).endswith("for alice, which kept the interpreter busy")


# ---------------------------------------------------------------- what cannot be


def test_another_sdks_stages_are_explained_as_well(tmp_path: Path) -> None:
    """Their spans have no clock of ours."""
    code = """
import json, sys, time
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
provider = TracerProvider()
trace.set_tracer_provider(provider)
from otel_logging import setup_observability, traced, waiting
setup_observability("shop", environment="production", endpoint="http://127.0.0.1:1",
                    spool_dir=sys.argv[1])
with traced("turn", budget=0.05) as span, waiting("lock", name="a"): time.sleep(0.1)
attributes = dict(span.attributes)
assert attributes["late.cause"] == "lock", attributes
with traced("no budget"): time.sleep(1.3)
"""
    script(code, str(tmp_path))


def test_many_names_and_many_stages_are_bounded(service: Service) -> None:
    """More than there are slots, and names that are never seen again."""
    names = [f"stage {number}" for number in range(1500)]
    stages = [traced(name, budget=100.0, root=True) for name in names]
    for stage in stages:
        stage.__enter__()
    for stage in reversed(stages):
        stage.__exit__(None, None, None)
    assert len(service.spans()) == 1500
    assert not [span for span in service.spans() if "late" in span.attributes]


def test_names_that_fit_a_pattern_are_remembered_within_a_bound() -> None:
    """Five thousand of them."""
    found = Budgets({"chat *": 0.4})
    assert {found.get(f"chat {number}") for number in range(5000)} == {0.4}
    assert Budgets({"chat": 0.4}).get("turn") is None


def test_a_line_that_cannot_be_made_costs_the_stage_nothing(
    service: Service, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is counted and reported; the span has ended."""

    def fails(*_: Any, **__: Any) -> None:
        raise RuntimeError("no line today")

    monkeypatch.setattr(_runtime.current.watch, "warn", fails)
    with traced("turn", budget=0.01):
        time.sleep(0.7)
    assert service.one("turn").attributes["late"] is True
    told = capsys.readouterr().err
    assert "a stage could not be explained (no line today)" in told
    assert "errors while stages are watched (no line today)" in told


def test_a_stage_that_is_open_at_exit_is_reported_with_its_cause(tmp_path: Path) -> None:
    """The end of the interpreter ends it, where nothing can be imported any more."""
    code = """
import sys
from otel_logging import setup_observability, traced
setup_observability("left", spool_dir=sys.argv[1])
import time
left = traced("left open", budget=0.001).begin()
time.sleep(0.01)
"""
    done = script(code, str(tmp_path))
    assert b"left open of " in done.stdout
    assert b"late.cause" in done.stdout
    assert done.stderr == b""


def test_a_stage_that_somebody_has_ended_is_not_late_at_its_exit(
    service: Service, lines: Lines
) -> None:
    """Nor is there a line."""
    with traced("turn", budget=0.01) as span:
        span.end()
        time.sleep(0.05)
    assert "late" not in service.one("turn").attributes
    assert lines() == []


def test_a_short_block_names_nobody(service: Service) -> None:
    """It is too short for a look at the stack; the loop was blocked all the same."""

    async def main() -> None:
        loop = asyncio.get_running_loop()

        def block() -> None:
            watched = _runtime.current.watch
            heart = watched.pauses.hearts[loop]
            burn(0.04)
            heart.seen.clear()

        loop.call_later(0.02, block)
        with traced("turn", budget=0.01):
            await asyncio.sleep(0.04)

    asyncio.run(main())
    assert shares(service.one("turn"))["loop"] > 0.01


def test_a_wait_for_what_is_free_costs_the_same_however_many_have_had_it(service: Service) -> None:
    """Who had it is looked for where it was not free: else nobody has held anybody up."""

    def calls() -> int:
        made: list[str] = []
        sys.setprofile(lambda _, event, __: made.append(event))
        try:
            with waiting("pool", name="connections"):
                pass
        finally:
            sys.setprofile(None)
        return len(made)

    with traced("turn", budget=BUDGET_S):
        # the least of many: on a busy machine it may take a moment all the same
        first = min(calls() for _ in range(5))
        later = min(calls() for _ in range(60))
    assert first == later
