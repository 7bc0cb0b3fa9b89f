"""Work that is handed over: by ``handoff``, by one queue that carries, and as items of ``each``."""

import asyncio
import contextlib
import gc
import inspect
import queue
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextvars import copy_context
from typing import Any

import pytest

from otel_logging import ConfigurationError, bind_context, bound_context, get_logger, traced
from otel_logging.context import bound
from otel_logging.handover import each, handoff, taking
from otel_logging.integrations import queues
from otel_logging.testing import Captured, capture

log = get_logger("shop")


def check_fifty_users(run: Captured) -> None:
    """Each line and stage is of the user that the item names, in that user's trace."""
    traces = {
        span["attributes"]["user_id"]: span["trace_id"]
        for span in run.spans
        if span["name"] == "put"
    }
    assert len(traces) == 50
    assert len(run.lines) == 500
    for line in run.lines:
        assert line["user_id"] == line["wanted"]
        assert line["trace_id"] == traces[line["wanted"]]
    stages = [span for span in run.spans if span["name"] == "deliver"]
    assert len(stages) == 500
    assert all(span["attributes"]["queue.wait_s"] >= 0 for span in stages)


ASYNC_QUEUES: list[Callable[[], asyncio.Queue[Any]]] = [
    asyncio.Queue,
    asyncio.LifoQueue,
    asyncio.PriorityQueue,
]
QUEUES: list[Callable[[], queue.Queue[Any]]] = [queue.Queue, queue.LifoQueue, queue.PriorityQueue]


@pytest.mark.parametrize(
    ("kind", "how"),
    [
        *((kind, "instrumented") for kind in ASYNC_QUEUES),
        *((asyncio.Queue, how) for how in ("handoff", "get_nowait")),
    ],
)
def test_shared_tasks_work_on_behalf_of_who_put_the_item(kind: Any, how: str) -> None:
    async def worker(items: asyncio.Queue[Any]) -> None:
        while True:
            if how == "handoff":
                handed = await items.get()
                with taking(handed, name="deliver"):
                    log.info("delivered", wanted=handed.item[1])
            elif how == "instrumented":
                _, user = await items.get()
                log.info("delivered", wanted=user)
            else:
                while items.empty():
                    await asyncio.sleep(0)
                _, user = items.get_nowait()
                log.info("delivered", wanted=user)
            items.task_done()
            assert not bound()

    async def main() -> None:
        items = kind()
        if how != "handoff":
            queues.instrument(items, name="deliver")
        workers = [asyncio.create_task(worker(items)) for _ in range(5)]

        async def user(name: str) -> None:
            with traced("put", root=True):
                bind_context(user_id=name)
                for number in range(10):
                    item = (number, name)
                    await items.put(handoff(item) if how == "handoff" else item)

        await asyncio.gather(*[user(f"u{number}") for number in range(50)])
        await items.join()
        for each_worker in workers:
            each_worker.cancel()

    with capture() as run:
        asyncio.run(main())
    check_fifty_users(run)


@pytest.mark.parametrize("kind", QUEUES)
def test_shared_threads_work_on_behalf_of_who_put_the_item(kind: Any) -> None:
    items = kind()
    queues.instrument(items, name="deliver")

    def worker() -> None:
        while (item := items.get())[1]:
            log.info("delivered", wanted=item[1])
            items.task_done()
            assert not bound()

    with capture() as run:
        threads = [threading.Thread(target=worker) for _ in range(5)]
        for thread in threads:
            thread.start()
        for number in range(50):
            with traced("put", root=True):
                bind_context(user_id=f"u{number}")
                for turn in range(10):
                    items.put((turn, f"u{number}"))
        items.join()
    for _ in threads:
        items.put((1000, ""))
    for thread in threads:
        thread.join()
    check_fifty_users(run)


def test_a_wait_counts_from_the_insertion() -> None:
    """Not from waiting for room in a full queue."""

    async def main() -> None:
        items: asyncio.Queue[int] = asyncio.Queue(1)
        queues.instrument(items)
        await items.put(1)
        waiting = asyncio.create_task(items.put(2))
        await asyncio.sleep(0.05)
        await items.get()
        await waiting
        await items.get()
        items.task_done()

    with capture() as run:
        asyncio.run(main())
    first, second = run.spans
    assert first["attributes"]["queue.wait_s"] >= 0.05 > second["attributes"]["queue.wait_s"]
    assert first["duration_s"] >= first["attributes"]["queue.wait_s"]


def test_several_items_are_one_stage_with_a_link_to_each() -> None:
    with capture() as run:
        handed = []
        for user in ("alice", "bob"):
            with traced("put", root=True):
                bind_context(user_id=user)
                handed.append(handoff(user))
        with taking(*handed, name="flush", budget=10):
            log.info("flushed")
    flush = run.span("flush")
    puts = [span for span in run.spans if span["name"] == "put"]
    assert {link["trace_id"] for link in flush["links"]} == {span["trace_id"] for span in puts}
    assert all(link["attributes"]["queue.wait_s"] >= 0 for link in flush["links"])
    assert flush["trace_id"] not in {span["trace_id"] for span in puts}
    assert "user_id" not in run.lines[0]


def test_what_was_around_a_taken_item_is_there_again() -> None:
    with capture(), traced("put"):
        bind_context(user_id="alice")
        handed = handoff(1)
    with capture(), traced("worker"):
        bind_context(worker=1)
        with taking(handed, name="deliver"):
            assert dict(bound()) == {"user_id": "alice"}
        assert dict(bound()) == {"worker": 1}


def test_a_get_in_a_task_of_its_own_mixes_nothing() -> None:
    """``asyncio.wait_for`` makes one on Python 3.11: no stage then, and never the one before."""

    async def main() -> None:
        items: asyncio.Queue[str] = asyncio.Queue()
        queues.instrument(items, name="deliver")
        for user in ("alice", "bob"):
            with traced("put", root=True):
                bind_context(user_id=user)
                items.put_nowait(user)
        for _ in range(2):
            user = await asyncio.create_task(items.get())
            log.info("delivered", wanted=user)
        items.task_done()

    with capture() as run:
        asyncio.run(main())
    assert all("user_id" not in line for line in run.lines)
    assert len(run.lines) == 2


@pytest.mark.parametrize("ask", [inspect.iscoroutinefunction, asyncio.iscoroutinefunction])
def test_its_methods_are_of_the_kinds_that_they_were(ask: Any) -> None:
    items: asyncio.Queue[int] = asyncio.Queue()
    names = ("get", "get_nowait", "put", "put_nowait", "task_done", "join")
    before = {name: ask(getattr(items, name)) for name in names}
    queues.instrument(items)
    assert {name: ask(getattr(items, name)) for name in names} == before


def test_items_from_before_instrumentation_are_as_they_were_put() -> None:
    items: queue.Queue[int] = queue.Queue()
    items.put(1)
    queues.instrument(items)
    queues.instrument(items)
    items.put(2)
    assert [items.get(), items.get_nowait()] == [1, 2]
    with pytest.raises(queue.Empty):
        items.get_nowait()


async def a_source(count: int = 3) -> AsyncIterator[int]:
    for number in range(count):
        yield number


@pytest.mark.parametrize("is_async", [True, False])
def test_each_item_is_a_trace_and_what_it_binds_ends_with_it(is_async: bool) -> None:
    async def loop() -> None:
        if is_async:
            async for number in each(a_source(), "message", room="a"):
                handle(number)
        else:
            for number in each(range(3), "message", room="a"):
                handle(number)
        log.info("after")

    def handle(number: int) -> None:
        assert dict(bound()) == {}
        bind_context(user_id=f"u{number}")
        log.info("handled", number=number)

    with capture() as run:
        asyncio.run(loop())
    spans = [span for span in run.spans if span["name"] == "message"]
    assert len({span["trace_id"] for span in spans}) == 3
    assert [span["attributes"]["user_id"] for span in spans] == ["u0", "u1", "u2"]
    assert all(span["attributes"]["room"] == "a" for span in spans)
    assert "user_id" not in run.lines[-1]
    assert "trace_id" not in run.lines[-1]


def test_an_item_ends_where_the_loop_is_left() -> None:
    def by_break() -> None:
        for _ in each([1, 2], "message"):
            break

    def by_exception() -> None:
        for _ in each([1, 2], "message"):
            raise ValueError

    async def by_cancelling() -> None:
        async def wait() -> None:
            async for _ in each(a_source(), "message"):
                await asyncio.Event().wait()

        task = asyncio.create_task(wait())
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    for leave in (by_break, by_exception, lambda: asyncio.run(by_cancelling())):
        with capture() as run:
            with contextlib.suppress(ValueError):
                leave()
            log.info("after")
        gc.collect()
        assert [span["name"] for span in run.spans][:1] == ["message"]
        assert "trace_id" not in run.lines[0]


def test_an_item_with_headers_goes_on_with_their_trace() -> None:
    trace_id = "0af7651916cd43dd8448eb211c80319c"
    headers = {"traceparent": f"00-{trace_id}-b7ad6b7169203331-01"}

    def read(item: Any) -> Any:
        return item["headers"]

    with capture() as run, traced("around"):
        for _ in each([{"headers": headers}, {"headers": {}}, {}], "message", context=read):
            pass
    first, second, third = (span for span in run.spans if span["name"] == "message")
    assert first["trace_id"] == trace_id
    assert (
        len(
            {
                first["trace_id"],
                second["trace_id"],
                third["trace_id"],
                run.span("around")["trace_id"],
            }
        )
        == 4
    )


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (lambda: taking(name="a"), "taking="),
        (lambda: taking(1, name="a"), "taking="),  # type: ignore[arg-type]
        (lambda: taking(handoff(1), name=""), "taking: name="),
        (lambda: taking(handoff(1), name="a", budget=-1), "taking: budget="),
        (lambda: each(1, "a"), "each="),  # type: ignore[arg-type]
        (lambda: each([], ""), "each: name="),
        (lambda: each([], "a", budget=0), "each: budget="),
        (lambda: each([], "a", links=1), "each: links="),
        (lambda: each([], "a", context=1), "each: context="),  # type: ignore[arg-type]
        (lambda: queues.instrument(1), "queues.instrument="),  # type: ignore[arg-type]
        (lambda: queues.instrument(queue.Queue(), name=""), "queues.instrument: name="),
        (lambda: queues.instrument(queue.Queue(), budget=-1), "queues.instrument: budget="),
    ],
)
def test_wrong_arguments_raise_where_they_are_given(wrong: Callable[[], object], says: str) -> None:
    with pytest.raises(ConfigurationError) as raised:
        wrong()
    assert str(raised.value).startswith(says)


def test_an_iterator_of_each_may_be_begun_more_than_once() -> None:
    def source() -> Iterator[int]:
        return iter([1, 2])

    items = each([1, 2], "message")
    assert list(items) == list(iter(items)) == list(source())


def test_a_worker_that_is_collected_leaves_alone_who_runs_then() -> None:
    """The garbage collector ends its last item's stage in anybody's context."""
    items: queue.Queue[str] = queue.Queue()
    queues.instrument(items, name="deliver")
    items.put("item")
    context = copy_context()
    taker = threading.Thread(target=context.run, args=(items.get,))
    taker.start()
    taker.join()
    with capture(), traced("request", root=True), bound_context(user_id="bob"):
        del context, taker
        gc.collect()
        assert bound() == {"user_id": "bob"}
