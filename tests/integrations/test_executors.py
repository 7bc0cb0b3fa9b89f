"""What is handed to an executor or a timer runs on behalf of whoever handed it over."""

import asyncio
import contextvars
import multiprocessing
import multiprocessing.pool
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing.pool import Pool, ThreadPool
from typing import Any

import pytest

from otel_logging import (
    bind_context,
    bound_context,
    current_job_tag,
    detached,
    get_logger,
    tag_background_logger,
    traced,
)
from otel_logging.context import bound
from otel_logging.integrations import executors, registry
from otel_logging.propagation import inject
from otel_logging.testing import capture

FRAMEWORK: contextvars.ContextVar[str] = contextvars.ContextVar("framework", default="nothing")


@pytest.fixture(autouse=True)
def instrumented() -> Iterator[None]:
    executors.instrument()
    yield
    executors.uninstrument()
    FRAMEWORK.set("nothing")


def seen(*given: Any, **named: Any) -> dict[str, Any]:
    """Return what this thread or process runs on behalf of."""
    return {
        "trace": inject().get("traceparent", "")[3:35],
        "bound": dict(bound()),
        "tag": current_job_tag(),
        "framework": FRAMEWORK.get(),
        "given": given,
        "named": named,
    }


def put_seen(results: Any) -> None:
    results.put(seen())


NOBODY = {"trace": "", "bound": {}, "tag": None, "framework": "nothing", "given": (), "named": {}}


def failing() -> None:
    raise ValueError("no")


@pytest.mark.parametrize("kind", ["thread", "spawned process", "forked process"])
def test_work_has_the_trace_the_bound_fields_and_the_tag_of_its_submitter(kind: str) -> None:
    """And the worker has nothing of them afterwards."""
    executor: Executor = ThreadPoolExecutor(1)
    if kind != "thread":
        start = multiprocessing.get_context({"spawned": "spawn", "forked": "fork"}[kind.split()[0]])
        executor = ProcessPoolExecutor(1, mp_context=start)
    with executor, capture():
        if kind != "forked process":  # a fork copies all that there is
            FRAMEWORK.set("request")
        for user in ("alice", "bob"):
            with traced("request", root=True), bound_context(user_id=user, sizes=(1, 2)):
                submit = tag_background_logger("CACHE")(executor.submit)
                work = submit(seen, 1, key=2).result()
                assert work["trace"] == seen()["trace"]
            assert work["bound"] == {
                "user_id": user,
                "sizes": (1, 2) if kind == "thread" else [1, 2],
            }
            assert (work["tag"], work["framework"]) == ("CACHE", "nothing")
            assert (work["given"], work["named"]) == ((1,), {"key": 2})
            assert executor.submit(seen).result() == NOBODY
            assert list(executor.map(seen, [1])) == [NOBODY | {"given": (1,)}]


def test_one_worker_for_fifty_users_mixes_none_of_them() -> None:
    with capture() as run, ThreadPoolExecutor(2) as executor:
        log = get_logger("pool")

        def work(user: str) -> None:
            with traced("work"):
                log.info("done", wanted=user)

        for number in range(50):
            with traced("request", root=True):
                bind_context(user_id=f"u{number}")
                executor.submit(work, f"u{number}")
    assert len(run.lines) == 50
    assert all(line["user_id"] == line["wanted"] for line in run.lines)


def binding(user: str) -> None:
    bind_context(user_id=user)


@pytest.mark.parametrize("kind", ["thread", "spawned process"])
def test_what_work_binds_ends_with_it(kind: str) -> None:
    """The worker's next work is somebody else's, whether anything was bound where it came from."""
    executor: Executor = ThreadPoolExecutor(1)
    if kind != "thread":
        executor = ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn"))
    with executor, capture():
        executor.submit(binding, "alice").result()
        assert executor.submit(seen).result() == NOBODY
        with bound_context(order_id=1):
            executor.submit(binding, "alice").result()
            assert executor.submit(seen).result()["bound"] == {"order_id": 1}
        assert executor.submit(seen).result() == NOBODY


def test_what_a_threads_initializer_binds_is_on_work_of_nobody() -> None:
    with capture(), ThreadPoolExecutor(1, initializer=binding, initargs=("pool",)) as executor:
        executor.submit(binding, "alice").result()
        assert executor.submit(seen).result()["bound"] == {"user_id": "pool"}
        with bound_context(user_id="bob"):
            assert executor.submit(seen).result()["bound"] == {"user_id": "bob"}


def pool_of(kind: str, *initial: Any) -> Pool:
    if kind == "threads":
        return ThreadPool(1, *initial)
    return multiprocessing.get_context(kind).Pool(1, *initial)


POOLS = ("threads", "spawn", "fork")
CALLS: dict[str, Callable[[Pool], Any]] = {
    "apply": lambda pool: pool.apply(seen, (1,)),
    "apply_async": lambda pool: pool.apply_async(func=seen, args=(1,)).get(),
    "map": lambda pool: pool.map(seen, [1])[0],
    "map_async": lambda pool: pool.map_async(seen, [1]).get()[0],
    "starmap": lambda pool: pool.starmap(seen, [(1,)])[0],
    "imap": lambda pool: next(pool.imap(seen, [1])),
    "imap in chunks": lambda pool: next(pool.imap(seen, iter([1, 2]), 2)),
    "imap_unordered": lambda pool: next(pool.imap_unordered(seen, [1])),
}


@pytest.mark.parametrize("kind", POOLS)
def test_a_pool_s_work_is_of_who_called_and_its_workers_are_nobody_s(kind: str) -> None:
    """Whichever request has made the pool, and however the work is handed over."""
    with capture():
        with traced("first", root=True), bound_context(user_id="first"):
            pool = pool_of(kind)
        with pool:
            assert pool.apply(seen) == NOBODY
            for number, (name, call) in enumerate(CALLS.items()):
                with traced("request", root=True), bound_context(user_id=number):
                    work = tag_background_logger("CACHE")(call)(pool)
                    assert work["trace"] == seen()["trace"], name
                assert work["bound"] == {"user_id": number}, name
                assert (work["tag"], work["given"]) == ("CACHE", (1,)), name
                assert call(pool) == NOBODY | {"given": (1,)}, name


@pytest.mark.parametrize("kind", POOLS)
def test_what_a_pool_s_work_binds_ends_with_it(kind: str) -> None:
    """What its initializer binds is the worker's, as that of an executor's."""
    with capture(), pool_of(kind, binding, ("pool",)) as pool:
        pool.map(binding, ["alice"])
        pool.apply(binding, ("alice",))
        assert pool.apply(seen)["bound"] == {"user_id": "pool"}
        with bound_context(user_id="bob"):
            assert pool.apply(seen)["bound"] == {"user_id": "bob"}


@pytest.mark.parametrize("kind", ["threads", "fork"])
def test_a_pool_s_callbacks_are_of_who_called(kind: str) -> None:
    """And the thread that calls them for everybody has nothing of it."""
    found: list[Any] = []

    def note(_: object) -> None:
        found.append(seen()["bound"])
        bind_context(user_id="callback")

    with capture(), pool_of(kind) as pool:
        for user in ("alice", "bob"):
            with traced("request", root=True), bound_context(user_id=user):
                pool.apply_async(seen, (), {}, note).get()
                pool.map_async(seen, [1], callback=note).get()
                pool.apply_async(failing, error_callback=note).wait()
        pool.apply_async(seen, callback=note).get()
        pool.close()
        pool.join()
    assert found == [{"user_id": "alice"}] * 3 + [{"user_id": "bob"}] * 3 + [{}]


@pytest.mark.parametrize("name", ["AsyncIOScheduler", "BackgroundScheduler"])
def test_a_scheduled_job_is_nobody_s(name: str) -> None:
    """The timer of a scheduler is set anew by each request that adds a job: it serves them all."""
    kind = name.removesuffix("Scheduler").lower()
    library = pytest.importorskip(f"apscheduler.schedulers.{kind}")
    found: list[dict[str, Any]] = []

    async def main() -> None:
        loop, enough = asyncio.get_running_loop(), asyncio.Event()

        async def job() -> None:
            note()

        def note() -> None:
            found.append(seen())
            if len(found) >= 4:
                loop.call_soon_threadsafe(enough.set)

        scheduler = getattr(library, name)()
        scheduler.start()
        for user in ("alice", "bob"):
            with traced("request", root=True), bound_context(user_id=user):
                scheduler.add_job(job if kind == "asyncio" else note)
                scheduler.add_job(note, "interval", seconds=0.01)
        await asyncio.wait_for(enough.wait(), 10)
        scheduler.shutdown()

    registry.instrument(["executors"])
    try:
        with capture():
            asyncio.run(main())
    finally:
        registry.uninstrument()
    assert found[:4] == [NOBODY] * 4


def test_a_process_is_of_who_forked_it_and_nobody_s_where_it_is_spawned() -> None:
    """A fork copies all that there is; ``detached`` leaves that behind."""
    with capture(), traced("request", root=True), bound_context(user_id="alice"):
        for kind, expected in (("spawn", {}), ("fork", {"user_id": "alice"})):
            context: Any = multiprocessing.get_context(kind)
            results = context.SimpleQueue()
            process = context.Process(target=put_seen, args=(results,))
            process.start()
            assert results.get()["bound"] == expected
            process.join()
        with detached():
            process = context.Process(target=put_seen, args=(results,))
            process.start()
        assert results.get() == NOBODY
        process.join()


def test_run_in_executor_and_to_thread_carry_once() -> None:
    async def main() -> None:
        with traced("request"), bound_context(user_id="alice"):
            mine = seen()["trace"]
            loop = asyncio.get_running_loop()
            for work in (await loop.run_in_executor(None, seen), await asyncio.to_thread(seen)):
                assert (work["trace"], work["bound"]) == (mine, {"user_id": "alice"})

    with capture():
        asyncio.run(main())


def test_a_timer_runs_on_behalf_of_who_started_it() -> None:
    found: list[dict[str, Any]] = []
    with capture(), traced("request"), bound_context(user_id="alice"):
        timer = threading.Timer(0.001, lambda: found.append(seen()))
        timer.start()
        timer.join()
        assert found[0]["bound"] == {"user_id": "alice"}
        assert found[0]["trace"] == seen()["trace"]


def test_an_exception_in_the_pool_is_of_the_request_that_handed_the_work_over() -> None:
    with capture() as run:
        try:
            with ThreadPoolExecutor(1) as executor, traced("request"):
                bind_context(user_id="alice")
                executor.submit(failing).result()
        except ValueError:
            get_logger("server").exception("failed")
    assert run.lines[-1]["user_id"] == "alice"


def test_uninstrumented_executors_are_as_python_has_them() -> None:
    executors.instrument()  # twice is once
    executors.uninstrument()
    assert ThreadPoolExecutor.submit.__module__ == "concurrent.futures.thread"
    assert not hasattr(ThreadPoolExecutor.submit, "__wrapped__")
    assert threading.Timer.start is threading.Thread.start
    assert not hasattr(ThreadPool.apply_async, "__wrapped__")
    executors.uninstrument()
    with capture(), ThreadPoolExecutor(1) as executor, traced("request"):
        assert executor.submit(seen).result() == NOBODY


def test_an_executor_that_is_shut_down_refuses_work_as_before() -> None:
    executor = ThreadPoolExecutor(1)
    executor.shutdown()
    with capture(), traced("request"), pytest.raises(RuntimeError, match="after shutdown"):
        executor.submit(seen)
