"""Blocks that were left: a generator that is not finished, a block that another task ends."""

import asyncio
import gc
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Any
from weakref import ref

import pytest
from opentelemetry import trace

from otel_logging import bind_context, bound_context, each, extract, get_logger, traced
from otel_logging.testing import capture

log: Any = get_logger("shop")


async def _rows() -> AsyncIterator[int]:
    with traced("query"):
        yield 1
        yield 2


async def _spans_of_the_api() -> AsyncIterator[int]:
    with trace.get_tracer("orm").start_as_current_span("query"):
        yield 1


async def _roots() -> AsyncIterator[int]:
    with traced("query", root=True):
        yield 1


def _finished(first: Any, user: str) -> Any:
    """Bind *user*, and begin what leaves a generator after its first step."""
    bind_context(user_id=user)
    return first()


async def in_a_block(first: Any, user: str) -> None:
    with traced("job"):
        await _finished(first, user)


@traced("job")
async def decorated(first: Any, user: str) -> None:
    await _finished(first, user)


@contextmanager
def _job() -> Iterator[None]:
    with traced("job"):
        yield


async def in_a_context_manager(first: Any, user: str) -> None:
    with _job():
        await _finished(first, user)


async def an_item(first: Any, user: str) -> None:
    for name in each([user], "job"):
        await _finished(first, name)


async def a_begun_one(first: Any, user: str) -> None:
    """What is begun in a block is current no longer than that."""
    with traced("job"):
        await _finished(first, user)
        _turns.append(traced("turn").begin())


_turns: list[Any] = []


@pytest.mark.parametrize("rows", [_rows, _roots, _spans_of_the_api])
@pytest.mark.parametrize(
    "job",
    [in_a_block, decorated, in_a_context_manager, an_item, a_begun_one],
)
@pytest.mark.filterwarnings("ignore")
def test_a_stage_ends_what_was_left_in_it_before_the_loop_turns(job: Any, rows: Any) -> None:
    """The next job of the same task is nobody's, and what is begun between two is so too."""

    async def first() -> int:
        async for row in rows():
            return row
        raise AssertionError

    async def between(user: str) -> None:
        log.info(f"begun after {user}")

    async def worker() -> None:
        begun = []
        for user in ("alice", "bob"):
            await job(first, user)
            log.info(f"after {user}")
            begun.append(asyncio.create_task(between(user)))
        await asyncio.gather(*begun)
        log.info("at the end")

    with capture(log_level="info") as captured:
        asyncio.run(worker())
    _turns.clear()
    jobs = [span for span in captured.spans if span["name"] == "job"]
    assert len({span["trace_id"] for span in jobs}) == 2
    told = {(line["event"], line.get("user_id"), line.get("trace_id")) for line in captured.lines}
    users = [f"{when} {user}" for when in ("after", "begun after") for user in ("alice", "bob")]
    theirs = {each for each in told if each[0] == "Failed to detach context"}  # the API's own
    assert told - theirs == {(event, None, None) for event in (*users, "at the end")}


@pytest.mark.parametrize("rows", [_rows, _roots])
def test_an_inner_stage_ends_what_was_left_in_it(rows: Any) -> None:
    async def main() -> None:
        with traced("request", root=True):
            bind_context(user_id="alice")
            with traced("inner"):
                async for _ in rows():
                    break
            log.info("behind it")
        log.info("outside")

    with capture(log_level="info") as captured:
        asyncio.run(main())
    line = captured.line("behind it")
    assert (line["span_id"], line["user_id"]) == (captured.span("request")["span_id"], "alice")
    assert captured.line("outside").keys().isdisjoint({"trace_id", "user_id"})


def _in_a_thread(leave: Any) -> Any:
    """Leave a block in a plain thread, whose context is empty."""
    thread = threading.Thread(target=leave)
    thread.start()
    thread.join()
    return asyncio.sleep(0)


async def _in_a_task(leave: Any) -> None:
    async def close() -> None:
        leave()

    await asyncio.create_task(close())


@pytest.mark.parametrize(
    ("what", "where"),
    [("stage", _in_a_thread), ("stage", _in_a_task), ("trace from outside", _in_a_task)],
)
def test_who_has_entered_a_block_that_another_leaves_comes_back(what: str, where: Any) -> None:
    headers = {"traceparent": f"00-{'7' * 32}-{'7' * 16}-01"}
    held = traced("held") if what == "stage" else extract(headers)

    async def worker() -> None:
        with traced("request", root=True):
            bind_context(user_id="alice")
            held.__enter__()
            await where(lambda: held.__exit__(None, None, None))
            log.info("back")
            with traced("next"):
                pass
        log.info("outside")

    with capture(log_level="info") as captured:
        asyncio.run(worker())
    request = captured.span("request")["span_id"]
    assert captured.span("next")["parent_span_id"] == request
    back, outside = captured.line("back"), captured.line("outside")
    assert (back["span_id"], back["user_id"]) == (request, "alice")
    assert outside.keys().isdisjoint({"trace_id", "user_id"})


def test_a_block_that_another_task_has_left_is_not_kept() -> None:
    async def left() -> Any:
        held = extract({"traceparent": f"00-{'7' * 32}-{'7' * 16}-01"})
        held.__enter__()
        await _in_a_task(lambda: held.__exit__(None, None, None))
        return ref(held)

    async def worker() -> None:
        blocks = [await left() for _ in range(3)]
        with bound_context(order_id=1):
            gc.collect()
            assert [block() for block in blocks] == [None] * 3

    with capture():
        asyncio.run(worker())
