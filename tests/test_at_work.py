"""A stage ends while another, begun in it, is at work: that stays current until its own end."""

import _thread
import asyncio
import contextlib
import gc
import operator
import queue
import threading
from collections.abc import AsyncIterator, Iterator
from contextvars import copy_context
from functools import partial
from typing import Any

import pytest

from otel_logging import bind_context, each, get_logger, handoff, taking, traced
from otel_logging.integrations import queues
from otel_logging.testing import capture

log: Any = get_logger("shop")


def _rows() -> Iterator[int]:
    with traced("query"):
        yield 1
        yield 2


def _of_its_own() -> Iterator[int]:
    with traced("query", root=True):
        yield 1
        yield 2


async def _later() -> AsyncIterator[int]:
    with traced("query"):
        yield 1
        yield 2


@contextlib.contextmanager
def _managed() -> Iterator[None]:
    with traced("query"):
        yield


async def read_to_its_end() -> AsyncIterator[None]:
    rows = _rows()
    next(rows)
    yield
    list(rows)


async def a_root_read_to_its_end() -> AsyncIterator[None]:
    rows = _of_its_own()
    next(rows)
    yield
    list(rows)


async def an_asynchronous_one_read_to_its_end() -> AsyncIterator[None]:
    rows = _later()
    await anext(rows)
    yield
    async for _ in rows:
        pass


async def closed() -> AsyncIterator[None]:
    rows = _rows()
    next(rows)
    yield
    rows.close()  # type: ignore[attr-defined]


async def collected() -> AsyncIterator[None]:
    def peek() -> None:
        kept: list[Any] = [_rows()]
        next(kept[0])
        kept.append(kept)

    gc.disable()
    try:
        peek()
        yield
    finally:
        gc.enable()
    gc.collect()


async def a_stack() -> AsyncIterator[None]:
    stack = contextlib.ExitStack()
    stack.enter_context(traced("query"))
    yield
    stack.close()


async def a_stack_of_managers() -> AsyncIterator[None]:
    stack = contextlib.ExitStack()
    stack.enter_context(_managed())
    yield
    stack.close()


async def a_block_in_a_task_begun_there() -> AsyncIterator[None]:
    held = traced("query")
    held.__enter__()
    yield

    async def leave() -> None:
        with traced("cleanup", root=True):
            bind_context(user_id="carol")
            held.__exit__(None, None, None)
            log.info("cleaned for carol")

    await asyncio.create_task(leave())


async def an_item_of_each() -> AsyncIterator[None]:
    items = iter(each(["dora"], "query"))
    bind_context(user_id=next(items))
    yield
    next(items, None)


async def an_item_of_a_queue() -> AsyncIterator[None]:
    items: queue.Queue[int] = queue.Queue()
    queues.instrument(items, name="query")
    with traced("put", root=True):
        bind_context(user_id="dora")
        items.put(1)
    items.get()
    yield
    items.task_done()


def _in_a_bare_thread(act: Any) -> None:
    """Call *act* in this context, in a thread with no frame of Python's below it."""
    done = threading.Event()
    calls = map(operator.call, [act, done.set])
    _thread.start_new_thread(copy_context().run, (list, calls))
    assert done.wait(10)


async def closed_in_a_bare_thread() -> AsyncIterator[None]:
    rows = _rows()
    next(rows)
    yield
    _in_a_bare_thread(rows.close)  # type: ignore[attr-defined]


async def taken_and_left_in_a_task_begun_there() -> AsyncIterator[None]:
    held = taking(handoff(1), name="query")
    held.__enter__()
    yield

    async def leave() -> None:
        with traced("cleanup", root=True):
            held.__exit__(None, None, None)

    await asyncio.create_task(leave())


_ENDS: list[Any] = [
    *(read_to_its_end, a_root_read_to_its_end, an_asynchronous_one_read_to_its_end, closed),
    *(collected, a_stack, a_stack_of_managers, a_block_in_a_task_begun_there, an_item_of_each),
    *(an_item_of_a_queue, closed_in_a_bare_thread, taken_and_left_in_a_task_begun_there),
]


@pytest.mark.parametrize("around", [True, False], ids=["in a request", "in none"])
@pytest.mark.parametrize("ends", _ENDS)
def test_a_stage_at_work_keeps_its_trace_and_its_user(ends: Any, around: bool) -> None:
    async def main() -> None:
        request = traced("request", root=True) if around else contextlib.nullcontext()
        with request:
            if around:
                bind_context(user_id="alice")
            steps = ends()
            await anext(steps)
            with traced("job", root=True):
                bind_context(user_id="bob")
                assert await anext(steps, "the end") == "the end"
                log.info("work for bob")
                with traced("write"):
                    log.info("write for bob")
            log.info("after it")
        log.info("outside")

    with capture(log_level="info") as captured:
        asyncio.run(main())
    job = captured.span("job")
    assert captured.span("write")["parent_span_id"] == job["span_id"]
    for event in ("work for bob", "write for bob"):
        line = captured.line(event)
        assert (line.get("user_id"), line.get("trace_id")) == ("bob", job["trace_id"])
    after, outside = captured.line("after it"), captured.line("outside")
    assert after.get("user_id") == ("alice" if around else None)
    assert after.get("span_id") == (captured.span("request")["span_id"] if around else None)
    assert outside.keys().isdisjoint({"user_id", "trace_id"})
    for line in captured.lines:
        if line["event"] == "cleaned for carol":
            assert line["user_id"] == "carol"


def test_the_stage_of_a_worker_outlives_its_item() -> None:
    """``task_done()`` within the worker's own stage, in whichever part of the block."""

    async def worker(items: asyncio.Queue[str]) -> None:
        while True:
            user = await items.get()
            with traced("work"):
                try:
                    log.info("begun", of=user)
                    if user == "bob":
                        raise ValueError
                except ValueError:
                    items.task_done()
                else:
                    items.task_done()
                log.info("receipt", of=user)
                with traced("mail"):
                    log.info("mail", of=user)
            log.info("between")

    @traced("work")
    async def decorated(items: asyncio.Queue[str], user: str) -> None:
        items.task_done()
        log.info("receipt", of=user)

    async def calling(items: asyncio.Queue[str]) -> None:
        while True:
            user = await items.get()
            await decorated(items, user)
            log.info("between")

    async def main(work: Any) -> None:
        items: asyncio.Queue[str] = asyncio.Queue()
        queues.instrument(items, name="deliver")
        for user in ("alice", "bob"):
            with traced("request", root=True):
                bind_context(user_id=user)
                await items.put(user)
        working = asyncio.create_task(work(items))
        await items.join()
        working.cancel()

    for work in (worker, calling):
        with capture(log_level="info") as captured:
            asyncio.run(main(work))
        spans = {span["span_id"]: span["trace_id"] for span in captured.spans}
        for line in captured.lines:
            assert line.get("user_id") == line.get("of"), line
            assert spans.get(line.get("span_id")) == line.get("trace_id")
        assert len([line for line in captured.lines if line["event"] == "receipt"]) == 2


@pytest.mark.parametrize("has_user", [True, False])
def test_a_batch_of_a_users_own_keeps_its_user(has_user: bool) -> None:
    """Without a user of its own it works for whoever put the item that it has taken last."""

    async def main() -> None:
        items: asyncio.Queue[str] = asyncio.Queue()
        queues.instrument(items, name="deliver")
        for user in ("alice", "bob", "carol"):
            with traced("request", root=True):
                bind_context(user_id=user)
                await items.put(user)
        for _ in range(3):
            items.put_nowait("nobody")
        bind_context(worker=7)
        await items.get()
        with traced("flush", root=True):
            if has_user:
                bind_context(user_id="flusher")
            items.get_nowait()
            log.info("flush")
            items.get_nowait()
            log.info("flush")
            with traced("write"):
                log.info("flush")
        items.get_nowait()
        log.info("next")
        items.task_done()

    with capture(log_level="info") as captured:
        asyncio.run(main())
    users = [line.get("user_id") for line in captured.lines if line["event"] == "flush"]
    assert users == (["flusher"] * 3 if has_user else ["bob", "carol", "carol"])
    assert len([span for span in captured.spans if span["name"] == "deliver"]) == 4
    assert captured.line("next").get("user_id") is None
    if has_user:
        flush = captured.span("flush")["span_id"]
        assert captured.span("write")["parent_span_id"] == flush


def test_an_item_may_be_asked_for_where_no_function_of_pythons_is() -> None:
    got: list[str] = []
    items = iter(each(["ann", "bob"], "item"))
    with capture() as captured:
        next(items)
        _in_a_bare_thread(map(got.append, items).__next__)
        assert "item" in [span["name"] for span in captured.spans]
    assert got == ["bob"]


def test_a_generator_may_be_closed_where_no_function_of_pythons_is() -> None:
    context, rows, job = copy_context(), _rows(), traced("job")

    def begin() -> None:
        next(rows)
        job.__enter__()

    with capture(log_level="info") as captured:
        context.run(begin)
        _in_a_bare_thread(partial(context.run, rows.close))  # type: ignore[attr-defined]
        context.run(log.info, "work")
        context.run(job.__exit__, None, None, None)
    assert captured.line("work")["span_id"] == captured.span("job")["span_id"]
