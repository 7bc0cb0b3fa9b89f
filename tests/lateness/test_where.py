"""Where a stage stood: the application's own line, through whatever it waits in."""

import asyncio
import copy
import json
import re
import socket
import sys
import threading
import time
import types
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import asynccontextmanager, suppress
from contextvars import copy_context
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
import anyio._backends._asyncio  # which takes long at first
import anyio.to_thread
import httpx
import pytest
import urllib3
from asgiref.sync import async_to_sync, sync_to_async
from opentelemetry import trace
from sqlalchemy import AsyncAdaptedQueuePool
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import create_async_engine
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route
from urllib3.exceptions import EmptyPoolError

from otel_logging import carry, handoff, taking, traced
from otel_logging.cli import main
from otel_logging.handover import Handoff
from otel_logging.lateness.stage import watched_of
from tests.commands import Runner
from tests.conftest import Service

BUDGET_S = 0.1
WAITED_S = 0.25


async def stands_here() -> None:
    await asyncio.sleep(WAITED_S)


async def in_a_task() -> None:
    await asyncio.create_task(stands_here())


async def in_a_group() -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(stands_here())


async def in_a_group_of_anyio() -> None:
    async with anyio.create_task_group() as group:
        group.start_soon(stands_here)


async def in_wait() -> None:
    await asyncio.wait([asyncio.ensure_future(stands_here())])


async def shielded() -> None:
    await asyncio.shield(stands_here())


async def with_a_timeout() -> None:
    await asyncio.wait_for(stands_here(), 5)


async def gathered() -> None:
    await asyncio.gather(asyncio.sleep(0), stands_here())


async def deep(levels: int = 150) -> None:
    await (deep(levels - 1) if levels else stands_here())


async def shielded_in_a_group_with_a_timeout() -> None:
    async def inner() -> None:
        await asyncio.shield(in_a_group())

    await asyncio.wait_for(inner(), 5)


async def for_several() -> None:
    await asyncio.wait([asyncio.ensure_future(stands_here()) for _ in range(3)])


async def as_they_are_completed() -> None:
    for each in asyncio.as_completed([stands_here() for _ in range(3)]):
        await each


async def for_the_first_of_several() -> None:
    tasks = [asyncio.ensure_future(stands_here()), asyncio.ensure_future(asyncio.sleep(WAITED_S))]
    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    await asyncio.gather(*tasks)


async def generating() -> AsyncIterator[None]:
    await stands_here()
    yield


async def for_each() -> None:
    async for _ in generating():
        pass


async def for_each_of_a_stage() -> None:
    async for _ in traced("stream")(generating)():
        pass


async def comprehended() -> None:
    assert await anext(generating(), 1) is None
    assert [each async for each in generating()] == [None]


async def in_a_context_manager() -> None:
    async with asynccontextmanager(generating)():
        pass


async def while_a_generator_closes() -> None:
    @asynccontextmanager
    async def closing() -> AsyncIterator[None]:
        try:
            yield
        finally:
            await stands_here()

    with suppress(ValueError):
        async with closing():
            raise ValueError


def where(service: Service, work: Callable[[], Awaitable[Any]]) -> str:
    """Return where a late stage stood that did *work*."""

    async def main() -> None:
        with traced("turn", budget=BUDGET_S):
            await work()

    asyncio.run(main())
    return str(service.one("turn").attributes["late.where"])


@pytest.mark.parametrize(
    "work",
    [
        *(in_a_task, in_a_group, in_a_group_of_anyio, in_wait, shielded, with_a_timeout, gathered),
        *(deep, shielded_in_a_group_with_a_timeout, for_each, comprehended, in_a_context_manager),
        *(while_a_generator_closes, for_each_of_a_stage, for_several, as_they_are_completed),
    ],
)
def test_a_task_stands_where_what_it_waits_for_stands(
    service: Service, work: Callable[[], Awaitable[Any]]
) -> None:
    assert where(service, work).startswith("100 % stands_here (test_where.py:")


def test_a_task_without_code_of_the_application_stands_in_a_librarys(service: Service) -> None:
    async def main() -> None:
        await asyncio.create_task(traced("turn", budget=BUDGET_S)(asyncio.sleep)(WAITED_S))

    asyncio.run(main())
    assert "100 % sleep (tasks.py:" in str(service.one("turn").attributes["late.where"])


@pytest.mark.parametrize("work", [in_a_task, for_each])
def test_a_stage_around_a_loop_stands_where_its_task_does(
    service: Service, work: Callable[[], Coroutine[Any, Any, None]]
) -> None:
    """The thread itself stands in the loop, and waits for events."""
    with traced("turn", budget=BUDGET_S):
        asyncio.run(work())
    most = str(service.one("turn").attributes["late.where"])
    assert most.startswith("100 % stands_here (test_where.py:")


def test_of_several_that_it_waits_for_it_may_be_any(service: Service) -> None:
    """Where the first is enough, it stands where it waits itself."""
    place = where(service, for_the_first_of_several)
    assert re.match(r"\d+ % for_the_first_of_several \(test_where.py:", place)


@pytest.mark.parametrize(
    ("file", "cause"),
    [
        ("site-packages/sqlthing/pool.py", "pool"),
        ("site-packages/driver/locks.py", "lock"),
        ("site-packages/limits/core.py", "unknown"),
    ],
)
def test_what_a_library_waits_for_is_named_by_its_module(
    service: Service, file: str, cause: str
) -> None:
    """Not by a folder that it happens to be installed in."""
    module = types.ModuleType("library")
    text = "async def acquire(wait):\n    await wait()\n"
    exec(compile(text, f"/srv/carpool/{file}", "exec"), vars(module))
    where(service, lambda: module.acquire(lambda: asyncio.sleep(WAITED_S)))
    assert service.one("turn").attributes["late.cause"] == cause


def test_our_own_functions_are_no_place(service: Service) -> None:
    """They stand between the application and what it does."""
    with traced("turn", budget=BUDGET_S):
        traced("sleeps")(time.sleep)(WAITED_S)
    place = service.one("turn").attributes["late.where"]
    assert re.fullmatch(r"100 % test_our_own\w+ \(test_where.py:\d+\)", str(place))


def test_every_place_is_on_the_span_and_three_in_the_sentence(service: Service) -> None:
    places = [f"place_{n} (places.py:2)" for n in range(5)]
    with traced("turn", budget=0.01):
        watched, until = watched_of(trace.get_current_span()), time.monotonic() + 30
        for n, place in enumerate(places):
            found: dict[str, Any] = {"watched": watched, "until": until, "time": time}
            stands = f"{place!r} not in (watched.places or ()) and time.monotonic() < until"
            text = f"def place_{n}():\n    while {stands}: time.sleep(0.01)\n"
            exec(compile(text, "/srv/places.py", "exec"), found)
            found[f"place_{n}"]()
    attributes = service.one("turn").attributes
    assert all(place in str(attributes["late.where"]) for place in places)
    assert str(attributes["late.why"]).count(" · ") == 2


def test_a_quick_stage_is_looked_at_in_time_beside_one_that_may_take_long(
    service: Service,
) -> None:
    """The thread knows when the first may be slow; another that may be so earlier says so."""
    with traced("patient", budget=600.0):
        time.sleep(0.1)  # a look finds nothing to do
        with traced("turn", budget=0.06):
            time.sleep(WAITED_S)
    assert "late.where" in service.one("turn").attributes


async def for_ever() -> None:
    await anyio.sleep_forever()


def test_a_task_that_sleeps_for_ever_has_a_place(service: Service) -> None:
    """Until a time-out ends it."""

    async def work() -> None:
        with anyio.move_on_after(WAITED_S):
            await for_ever()

    assert re.match(r"\d+ % for_ever \(test_where.py:", where(service, work))


async def with_sqlalchemy(at: Path) -> None:
    engine = create_async_engine(
        f"sqlite+aiosqlite:///{at}/shop.db", pool_size=1, max_overflow=0, pool_timeout=WAITED_S,
        poolclass=AsyncAdaptedQueuePool,
    )  # fmt: skip
    async with engine.connect():
        with traced("turn", budget=BUDGET_S), pytest.raises(SQLAlchemyError):
            await engine.connect()
    await engine.dispose()


async def with_aiohttp(_: Path) -> None:
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=1)) as client:
        with socket.create_server(("127.0.0.1", 0)) as silent:
            url = f"http://127.0.0.1:{silent.getsockname()[1]}"
            first = asyncio.ensure_future(client.get(url))
            await asyncio.sleep(0)
            with traced("turn", budget=BUDGET_S), suppress(TimeoutError):
                await asyncio.wait_for(client.get(url), WAITED_S)
            first.cancel()


async def with_urllib3(_: Path) -> None:
    pool = urllib3.HTTPConnectionPool("127.0.0.1", maxsize=1, block=True)
    assert pool.pool is not None
    pool.pool.get()
    with traced("turn", budget=BUDGET_S), pytest.raises(EmptyPoolError):
        pool.request("GET", "/", pool_timeout=WAITED_S)


@pytest.mark.parametrize("work", [with_sqlalchemy, with_aiohttp, with_urllib3])
def test_the_pools_of_libraries_are_known(
    service: Service, tmp_path: Path, work: Callable[[Path], Coroutine[Any, Any, None]]
) -> None:
    """Wherever their stack hides it."""
    asyncio.run(work(tmp_path))
    assert '"pool": ' in str(service.one("turn").attributes["late.shares"])


# ---------------------------------------------------------------- threads


def sleeps_here() -> None:
    time.sleep(WAITED_S)


async def in_a_pool(work: Callable[[], object] = sleeps_here) -> None:
    await asyncio.get_running_loop().run_in_executor(None, work)


@pytest.mark.parametrize(
    "work",
    [
        partial(anyio.to_thread.run_sync, sleeps_here),
        partial(asyncio.to_thread, sleeps_here),
        in_a_pool,
        sync_to_async(sleeps_here),
        lambda: asyncio.gather(in_a_pool(), in_a_pool()),
    ],
    ids=["anyio", "to_thread", "executor", "asgiref", "two"],
)
def test_a_task_that_waits_for_a_thread_stands_where_that_does(
    service: Service, work: Callable[[], Awaitable[Any]]
) -> None:
    """As an endpoint of FastAPI's does that is no coroutine."""
    most = where(service, work).partition(" % ")[2]
    assert most.startswith("sleeps_here (test_where.py:")


def computes() -> None:
    until = time.thread_time() + 0.3
    while time.thread_time() < until:
        sum(range(500))


async def leaves_it_to_a_thread() -> None:
    """And is over before that."""
    turn = traced("turn", budget=BUDGET_S).begin()
    work = asyncio.get_running_loop().run_in_executor(None, computes)
    work.add_done_callback(lambda _: turn.end())


async def of_a_turn(work: Callable[[], Awaitable[Any]]) -> None:
    with traced("turn", budget=BUDGET_S):
        await work()


@pytest.mark.parametrize(
    "work",
    [
        partial(of_a_turn, partial(anyio.to_thread.run_sync, computes)),
        partial(of_a_turn, partial(asyncio.to_thread, computes)),
        partial(of_a_turn, lambda: asyncio.gather(*[in_a_pool(computes) for _ in range(2)])),
        leaves_it_to_a_thread,
    ],
    ids=["anyio", "to_thread", "two", "left"],
)
def test_what_a_thread_computes_for_a_stage_is_its_cpu(
    service: Service, work: Callable[[], Awaitable[Any]]
) -> None:
    """In no stage of its own: an endpoint of FastAPI's, say, that is no coroutine."""

    async def main() -> None:
        await asyncio.create_task(work())
        await asyncio.get_running_loop().shutdown_default_executor()

    asyncio.run(main())
    found = service.one("turn").attributes
    assert json.loads(str(found["late.shares"]))["cpu"] > 0.15
    assert "(test_where.py:" in str(found["late.detail"])


def beside_a_task(pool: ThreadPoolExecutor) -> None:
    async def works() -> None:
        asyncio.get_running_loop().run_in_executor(pool, computes)
        await asyncio.sleep(0.4)

    asyncio.run(works())


def until_an_event(pool: ThreadPoolExecutor) -> None:
    pool.submit(computes)
    threading.Event().wait(0.4)


def until_all_are_done(pool: ThreadPoolExecutor) -> None:
    wait([pool.submit(computes), pool.submit(time.sleep, 0.4)])


@pytest.mark.parametrize(
    ("work", "is_its"),
    [(beside_a_task, False), (until_an_event, False), (until_all_are_done, True)],
)
def test_what_a_thread_computes_counts_while_a_stage_waits_for_it(
    service: Service, work: Callable[[ThreadPoolExecutor], None], is_its: bool
) -> None:
    with ThreadPoolExecutor(2) as pool, traced("turn", budget=BUDGET_S):
        work(pool)
    found = json.loads(str(service.one("turn").attributes["late.shares"]))
    assert (found.get("cpu", 0) > 0.1) is is_its


def in_a_pool_of_its_own() -> None:
    with ThreadPoolExecutor(1) as pool:
        pool.submit(sleeps_here).result()


def in_a_loop_of_another_thread() -> None:
    """As an asynchronous view of Flask's does."""
    async_to_sync(stands_here)()


def in_a_thread_that_it_joins() -> None:
    worker = threading.Thread(target=carry(sleeps_here))
    worker.start()
    worker.join()


def for_an_event() -> None:
    """As a client's own thread sets it, with an answer."""
    with ThreadPoolExecutor(1) as pool:
        pool.submit(sleeps_here)
        answered = threading.Event()
        threading.Timer(WAITED_S * 0.9, answered.set).start()
        answered.wait(5)


def for_a_future() -> None:
    with ThreadPoolExecutor(1) as pool:
        pool.submit(sleeps_here)
        answer = Future[None]()
        threading.Timer(WAITED_S * 0.9, answer.set_result, [None]).start()
        answer.result(5)


@pytest.mark.parametrize(
    ("work", "place"),
    [
        *((in_a_pool_of_its_own, "sleeps_here"), (in_a_thread_that_it_joins, "sleeps_here")),
        (in_a_loop_of_another_thread, "stands_here"),
        *((for_an_event, "for_an_event"), (for_a_future, "for_a_future")),
    ],
)
def test_a_thread_that_waits_for_another_stands_where_that_does(
    service: Service, work: Callable[[], None], place: str
) -> None:
    """Not where other work stands that it does not wait for."""
    with traced("turn", budget=BUDGET_S):
        work()
    found = str(service.one("turn").attributes["late.where"])
    assert re.match(rf"\d+ % {place} \(test_where.py:", found)


def sleeps_there() -> None:
    time.sleep(WAITED_S)


async def in_two_threads() -> None:
    await asyncio.gather(in_a_pool(), in_a_pool(sleeps_there))


async def for_nothing_of_its_thread() -> None:
    loop = asyncio.get_running_loop()
    loop.run_in_executor(None, sleeps_there)
    answer = loop.create_future()
    loop.call_later(WAITED_S, answer.set_result, None)
    await answer


@pytest.mark.parametrize(
    ("work", "place"),
    [
        (in_two_threads, "in_a_pool"),
        (partial(in_a_pool, partial(time.sleep, 0.25)), "in_a_pool"),
        (for_nothing_of_its_thread, "for_nothing_of_its_thread"),
    ],
)
def test_where_no_one_thread_says_more_a_task_stands_at_its_own_line(
    service: Service, work: Callable[[], Awaitable[Any]], place: str
) -> None:
    """Of two it may be any; one without code of the application says nothing; nor does one that
    it does not wait for.
    """
    most = where(service, work).partition(" % ")[2]  # one may end a little later
    assert most.startswith(f"{place} (test_where.py:")


class Job:
    def __init__(self) -> None:
        self.answer: asyncio.Future[None] = asyncio.get_running_loop().create_future()


Jobs = asyncio.Queue[Handoff[Any]]


async def for_an_answer(jobs: Jobs) -> None:
    job = Job()
    jobs.put_nowait(handoff(("a question", job.answer)))
    await job.answer


async def for_a_jobs_answer(jobs: Jobs) -> None:
    jobs.put_nowait(handoff(job := Job()))
    await job.answer


async def for_an_answer_in_time(jobs: Jobs) -> None:
    jobs.put_nowait(handoff(job := Job()))
    await asyncio.wait_for(job.answer, 5)


async def for_one_answer_in_two_tasks(jobs: Jobs) -> None:
    jobs.put_nowait(handoff(job := Job()))
    other = asyncio.create_task(asyncio.wait_for(job.answer, 5))
    await job.answer
    await other


async def for_one_beside_it(_: Jobs) -> None:
    async def works() -> None:
        await asyncio.to_thread(sleeps_here)
        job.answer.set_result(None)

    job = Job()
    task = asyncio.create_task(works())
    await job.answer
    await task


async def for_another_answer(jobs: Jobs) -> None:
    jobs.put_nowait(handoff(Job()))
    await for_nothing_of_its_thread()


@pytest.mark.parametrize(
    ("ask", "place"),
    [
        *((for_an_answer, "sleeps_here"), (for_a_jobs_answer, "sleeps_here")),
        *((for_an_answer_in_time, "sleeps_here"), (for_one_answer_in_two_tasks, "sleeps_here")),
        *(
            (for_one_beside_it, "for_one_beside_it"),
            (for_another_answer, "for_nothing_of_its_thread"),
        ),
    ],
)
def test_a_task_that_waits_for_an_answer_stands_where_the_worker_does(
    service: Service, ask: Callable[[Jobs], Awaitable[None]], place: str
) -> None:
    """Which has taken the work over, and has the future: not where other work stands that was
    handed over, nor another task of its own.
    """

    async def works(jobs: Jobs) -> None:
        while True:
            handed = await jobs.get()
            with taking(handed, name="answer"):
                await asyncio.to_thread(sleeps_here)
                is_job = type(handed.item) is Job
                (handed.item.answer if is_job else handed.item[1]).set_result(None)

    async def main() -> None:
        worker = asyncio.create_task(works(jobs := asyncio.Queue()))
        await asyncio.create_task(of_a_turn(partial(ask, jobs)))
        worker.cancel()

    asyncio.run(main())
    most = str(service.one("turn").attributes["late.where"]).partition(" % ")[2]
    assert most.startswith(f"{place} (test_where.py:")


def test_the_line_of_the_application_is_found_below_any_depth_of_a_library(
    service: Service,
) -> None:
    nested: list[Any] = list(range(150_000))
    for _ in range(60):
        nested = [nested]
    until = time.perf_counter() + WAITED_S
    with traced("turn", budget=BUDGET_S):
        while time.perf_counter() < until:
            copy.deepcopy(nested)
    place = str(service.one("turn").attributes["late.where"])
    assert "test_the_line_of_the_application" in place
    assert "(copy.py:" in place


def burn(seconds: float) -> None:
    until = time.perf_counter() + seconds
    while time.perf_counter() < until:
        sum(range(500))


async def computing() -> None:
    burn(WAITED_S)


def test_a_task_stands_where_another_computes_that_it_waits_for(service: Service) -> None:
    place = where(service, lambda: asyncio.create_task(computing()))
    assert re.match(r"\d+ % burn \(test_where.py:", place)


def test_a_turn_that_another_thread_works_on_stands_where_that_does(
    service: Service,
) -> None:
    def work(turn: Any) -> None:
        time.sleep(WAITED_S)
        turn.end()

    turn = traced("turn", root=True, budget=BUDGET_S).begin()
    worker = threading.Thread(target=carry(work), args=(turn,))
    worker.start()
    burn(WAITED_S)
    worker.join()
    place = service.one("turn").attributes["late.where"]
    assert place.startswith("100 % work (test_where.py:")


def test_a_turn_without_a_budget_is_begun_in_a_loop_or_in_none(service: Service) -> None:
    async def begin() -> None:
        traced("turn", root=True).begin().end()

    traced("turn", root=True).begin().end()
    asyncio.run(begin())
    assert len(service.named("turn")) == 2


def test_a_turn_has_not_computed_what_its_thread_did_meanwhile(service: Service) -> None:
    """One thread that changes between turns, in contexts of their own."""
    one, other = copy_context(), copy_context()
    turn = one.run(lambda: traced("turn", root=True, budget=BUDGET_S).begin())
    another = other.run(lambda: traced("another", root=True).begin())
    other.run(burn, WAITED_S)
    other.run(another.end)
    one.run(turn.end)
    found = service.one("turn").attributes
    assert "late.where" not in found
    assert found["late.cause"] == "unknown" or "late.culprit" in found  # never its own


def test_tasks_of_trio_share_a_thread(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where it stands is nobody's. The library itself is not here, since eventlet cannot be
    imported beside it: what runs its tasks is in a file of that name.
    """
    monkeypatch.setitem(sys.modules, "trio", types.ModuleType("trio"))
    runner = types.ModuleType("runner")
    file = str(Path("/lib", "trio", "_core", "_run.py"))
    exec(compile("def run(work):\n    work()\n", file, "exec"), vars(runner))

    def turn() -> None:
        with traced("turn", root=True, budget=BUDGET_S):
            burn(WAITED_S)

    runner.run(turn)
    found = service.one("turn").attributes
    assert found["late"] is True
    assert "late.where" not in found


async def answers(_: Any) -> Response:
    await stands_here()
    return Response()


async def streams(_: Any) -> Response:
    async def parts() -> AsyncIterator[bytes]:
        await stands_here()
        yield b""

    return StreamingResponse(parts())


async def passes_on(request: Any, call_next: Callable[[Any], Awaitable[Response]]) -> Response:
    return await call_next(request)


@pytest.mark.parametrize("middleware", [[], [Middleware(BaseHTTPMiddleware, dispatch=passes_on)]])
@pytest.mark.parametrize("endpoint", [answers, streams])
def test_a_request_stands_where_the_task_does_that_answers(
    service: Service, endpoint: Any, middleware: list[Middleware]
) -> None:
    app = Starlette(routes=[Route("/", endpoint)], middleware=middleware)

    async def asks() -> None:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://here") as client:
            await client.get("/")

    _, _, place = where(service, asks).partition(" % ")  # the rest: to make a client
    assert place.startswith("stands_here (test_where.py:")


def inner() -> None:
    time.sleep(0.04)


def often() -> None:
    inner()


def rarely() -> None:
    inner()


def test_the_stacks_that_were_seen_most_are_an_event_of_a_late_stage(service: Service) -> None:
    """Each with its share and its steps, at the stage's end; no line, wherever lines are shown."""
    with traced("turn", root=True, budget=BUDGET_S):
        for work in [*[often] * 8, *[rarely] * 4]:
            work()
    with traced("slow", root=True, budget=1.0):
        time.sleep(0.7)
    assert service.one("slow").attributes["late.where"]

    def asked(*arguments: str) -> str:
        options = ["--source", "local", "--spool-dir", str(service.spool_dir)]
        return str(Runner().invoke(main, [*arguments, *options]).stdout)

    shown = [each["spans"] for each in json.loads(asked("show", "--json", "--last", "2"))]
    assert [one[0]["name"] for one in shown] == ["slow", "turn"]
    events = [[e for e in one[0]["events"] if e["name"] == "late.where"] for one in shown]
    assert not events[0]
    ((event,), *_) = events[1:]
    stacks = re.split(r"^(\d+) %$", event["attributes"]["late.where"], flags=re.MULTILINE)
    shares = list(map(int, stacks[1::2]))
    assert sum(shares) in (99, 100, 101)
    assert shares == sorted(shares, reverse=True)
    for work in (often, rarely):
        steps = [rf"inner \(.*{re.escape(__file__)}:\d+\)", rf"{work.__name__} \(.*\)"]
        assert [one for one in stacks[2::2] if re.match(r"\n  " + r"\n  ".join(steps), one)]
    plain, whole = asked("show", "--last", "2"), asked("show", "--last", "2", "--stack")
    assert re.search(r"^( *)rarely(?: |\n\1  )\(", whole, re.MULTILINE), whole  # or further in
    assert "rarely" not in plain
    assert "event   late.where" not in plain + whole
    (row,) = json.loads(asked("late", "--json"))
    assert "late.where" not in row["reason"]
    assert json.loads(asked("failed", "--json")) == []


def test_a_stage_below_a_request_without_a_budget_is_not_measured(service: Service) -> None:
    """Though that is shown as open, and other stages have budgets."""
    with traced("turn", budget=30.0):
        pass
    with traced("GET /", kind="server") as request:
        until = time.monotonic() + 10
        while not getattr(request, "otel_logging_watched", None):
            assert time.monotonic() < until
            time.sleep(0.01)
        with traced("inner") as inner:
            assert watched_of(inner) is None
    assert "late" not in service.one("inner").attributes
