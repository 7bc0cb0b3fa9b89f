"""A task that was started in a request and serves others after it is reported, once."""

import asyncio
import gc
import logging
import queue as threads
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from pathlib import Path
from typing import Any

import pytest
from opentelemetry import trace

from otel_logging import (
    _runtime,
    background_tasks,
    bind_context,
    carry,
    detached,
    each,
    get_logger,
    handoff,
    taking,
    traced,
)
from otel_logging.integrations import executors, queues
from otel_logging.testing import Captured, capture
from tests.conftest import Service

log: Any = get_logger("shop")
Queue = asyncio.Queue[Any]


async def inner_stages(queue: Queue) -> None:
    while (item := await queue.get()) is not None:
        with traced("message"):
            log.info("got", item=item)


async def root_stages(queue: Queue) -> None:
    while (item := await queue.get()) is not None:
        log.info("idle", item=item)
        with traced("message", root=True):
            log.info("got", item=item)


async def items(queue: Queue) -> None:
    async def source() -> AsyncIterator[Any]:
        while (item := await queue.get()) is not None:
            log.info("idle", item=item)
            yield item

    async for item in each(source(), "message"):
        log.info("got", item=item)


async def taken(queue: Queue) -> None:
    while (handed := await queue.get()) is not None:
        log.info("idle")
        with taking(handed, name="message"):
            log.info("got", item=handed.item)


async def from_a_carrying_queue(queue: Queue) -> None:
    queues.instrument(queue, name="message")
    while (item := await queue.get()) is not None:
        log.info("got", item=item)
        queue.task_done()
        log.info("idle")


async def in_a_request(
    listener: Callable[[Queue], Awaitable[None]], items: list[Any], *, apart: bool = False
) -> None:
    queue: Queue = asyncio.Queue()
    with traced("GET /ws", kind="server"):
        bind_context(user_id="alice")
        if apart:
            with detached():
                task = asyncio.ensure_future(listener(queue))
        else:
            task = asyncio.ensure_future(listener(queue))
        await asyncio.sleep(0)
    for item in items:
        queue.put_nowait(item)
    await task


def listened(listener: Any, items: list[Any], **options: Any) -> Captured:
    with capture() as captured:
        asyncio.run(in_a_request(listener, [*items, None], **options))
    return captured


@pytest.mark.parametrize("listener", [root_stages, items])
def test_a_reader_that_serves_everybody_is_reported_and_is_nobodys(
    listener: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """From its first message after the request on."""
    captured = listened(listener, list(range(5)))
    request = captured.span("GET /ws")
    for line in captured.lines:
        if line["event"] == "got":
            assert "user_id" not in line
            assert line["trace_id"] != request["trace_id"]
        elif line["item"] > 0:
            assert not line.keys() & {"trace_id", "user_id"}
    (report,) = capsys.readouterr().err.splitlines()
    assert f"{listener.__name__}, a task that was started in 'GET /ws', goes on" in report
    assert f"again and again at {listener.__name__} (test_background_tasks.py:" in report
    listened(listener, list(range(5)))
    assert not capsys.readouterr().err  # once for each kind of task


async def lines_alone(queue: Queue) -> None:
    while (item := await queue.get()) is not None:
        log.info("got", item=item)


async def a_stage_of_its_own(queue: Queue) -> None:
    with traced("export"):
        await lines_alone(queue)


@pytest.mark.parametrize("kept_s", [0.0, 60.0])
@pytest.mark.parametrize(
    ("listener", "kept"), [(lines_alone, 3), (inner_stages, 2), (a_stage_of_its_own, 6)]
)
def test_a_listener_is_nobodys_long_after_its_request(
    listener: Any,
    kept: int,
    kept_s: float,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """From the third time on that it does the same. What has a stage around it is a request's."""
    monkeypatch.setattr(background_tasks, "KEPT_S", kept_s)
    monkeypatch.setattr(background_tasks, "_reported", set())
    captured = listened(listener, list(range(6)))
    users = [line.get("user_id") for line in captured.lines]
    kept = len(users) if kept_s else kept
    assert users == ["alice"] * kept + [None] * (len(users) - kept)
    request = captured.span("GET /ws")["trace_id"]
    assert [line.get("trace_id") == request for line in captured.lines] == list(map(bool, users))
    said = capsys.readouterr().err
    assert (listener is a_stage_of_its_own) == (said == "")
    does = "logs" if listener is lines_alone else "begins 'message'"
    assert not said or f"'GET /ws', goes on after it and {does} again and again" in said


def test_a_worker_that_takes_what_others_hand_over_is_reported(
    capsys: pytest.CaptureFixture[str],
) -> None:
    def handed() -> list[Any]:
        return [handoff(number) for number in range(3)]

    captured = listened(taken, handed())
    assert "user_id" not in captured.lines[1]  # of who handed it over
    listened(from_a_carrying_queue, list(range(3)))
    first, second = capsys.readouterr().err.splitlines()
    assert "at taken (" in first
    assert "at from_a_carrying_queue (" in second


async def steps(queue: Queue) -> None:
    assert await queue.get() is not None
    for name in ("store", "notify", "store", "log"):
        with traced(name):
            log.info(name)
    log.info("stored")
    log.info("notified")
    log.info("stored")


async def detached_reader(queue: Queue) -> None:
    await inner_stages(queue)


def test_what_a_request_has_left_to_do_and_a_detached_reader_are_not_reported(
    capsys: pytest.CaptureFixture[str],
) -> None:
    listened(steps, [1])
    captured = listened(detached_reader, list(range(5)), apart=True)
    assert not [line for line in captured.lines if "user_id" in line]
    assert not capsys.readouterr().err


@pytest.mark.parametrize("logs", [log, logging.getLogger("lib")])
def test_lines_of_a_library_at_three_places_are_not_the_same(
    logs: Any, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """The application's innermost place is one for all of them: where it runs the loop."""
    lines = "\n    ".join(f"log.warning('step {number}')" for number in range(5))
    text = f"async def steps(queue):\n    await queue.get()\n    {lines}"
    library: dict[str, Any] = {"log": logs}
    exec(compile(text, tmp_path / "site-packages" / "lib.py", "exec"), library)
    captured = listened(library["steps"], [1])
    assert [line["user_id"] for line in captured.lines] == ["alice"] * 5
    assert not capsys.readouterr().err


def test_callbacks_and_threads_are_not_reported(capsys: pytest.CaptureFixture[str]) -> None:
    """They run once."""

    def called() -> None:
        with traced("message"):
            pass

    async def main() -> None:
        loop = asyncio.get_running_loop()
        with traced("GET /ws", kind="server"):
            for _ in range(5):
                loop.call_soon(called)
            thread = asyncio.to_thread(lambda: [called() for _ in range(5)])
            task = asyncio.create_task(thread)
            await asyncio.sleep(0)
        await task

    with capture() as captured:
        asyncio.run(main())
    assert len([span for span in captured.spans if span["name"] == "message"]) == 10
    assert not capsys.readouterr().err


def work_of_threads(queue: "threads.Queue[Any]") -> None:
    while (item := queue.get()) is not None:
        log.info("got", item=item)
        with traced("message"):
            log.info("handled", item=item)


def by_a_thread(work: Any, *args: Any) -> Any:
    thread = threading.Thread(target=carry(work), args=args, name="listening")
    thread.start()
    return thread.join


def by_a_pool(work: Any, *args: Any) -> Any:
    pool = ThreadPoolExecutor(1, "listening")
    pool.submit(work, *args)
    return pool.shutdown


@pytest.mark.parametrize("kept_s", [0.0, 60.0])
@pytest.mark.parametrize("start", [by_a_thread, by_a_pool])
def test_a_thread_that_listens_is_nobodys_long_after_its_request(
    start: Any, kept_s: float, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the third time on that it does the same; only then it is reported."""
    monkeypatch.setattr(background_tasks, "KEPT_S", kept_s)
    monkeypatch.setattr(background_tasks, "_reported", set())
    queue: threads.Queue[Any] = threads.Queue()
    executors.instrument()
    try:
        with capture() as captured:
            with traced("GET /ws", kind="server"):
                bind_context(user_id="alice")
                join = start(work_of_threads, queue)
            for item in [*range(6), None]:
                queue.put(item)
            join()
    finally:
        executors.uninstrument()
    users = [line.get("user_id") for line in captured.lines]
    kept = 12 if kept_s else 5
    assert users == ["alice"] * kept + [None] * (12 - kept)
    said = capsys.readouterr().err
    assert bool(said) == (kept_s == 0.0)
    assert not said or "listening" in said
    assert not said or ", a thread that was started in 'GET /ws', goes on after it and logs" in said
    assert not said or "at work_of_threads (test_background_tasks.py:" in said


def test_what_is_collected_in_a_thread_does_not_end_what_that_works_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The garbage collector ends a worker's last item in anybody's thread."""
    monkeypatch.setattr(background_tasks, "KEPT_S", 0.0)
    items: threads.Queue[str] = threads.Queue()
    queues.instrument(items, name="deliver")
    items.put("item")
    context = copy_context()
    taker = threading.Thread(target=context.run, args=(items.get,))
    taker.start()
    taker.join()
    left, begin = [context], threading.Event()
    del context, taker

    def work() -> None:
        assert begin.wait(20)
        for _ in range(5):
            log.info("got")
            left.clear()
            gc.collect()

    with capture() as captured:
        with traced("GET /ws", kind="server"):
            bind_context(user_id="alice")
            join = by_a_thread(work)
        begin.set()
        join()
    users = [line.get("user_id") for line in captured.lines]
    assert users == ["alice"] * 3 + [None] * 2


def test_what_a_thread_that_was_left_does_is_nobodys(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its request is blamed for nothing any more."""
    monkeypatch.setattr(background_tasks, "KEPT_S", 0.0)
    watch: Any = _runtime.current.watch
    spans: list[Any] = []

    def listen() -> None:
        for number in range(4):
            log.info("got", item=number)
            spans.append(watch.span_in(threading.get_ident()))

    with ThreadPoolExecutor(1) as pool:
        go_on = threading.Event()
        with traced("GET /", kind="server") as span:
            pool.submit(go_on.wait)
            pool.submit(listen)
        go_on.set()
    assert spans[0] is span
    assert spans[-1] is trace.INVALID_SPAN


def test_each_piece_of_work_of_a_pool_is_its_requests(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many a request has left, and how long one thread takes for all."""
    monkeypatch.setattr(background_tasks, "KEPT_S", 0.0)
    executors.instrument()
    try:
        with capture() as captured, ThreadPoolExecutor(1) as pool:
            go_on = threading.Event()
            with traced("GET /", kind="server"):
                bind_context(user_id="alice")
                pool.submit(go_on.wait)
                for number in range(6):
                    pool.submit(log.info, "got", item=number)
            go_on.set()
    finally:
        executors.uninstrument()
    assert [line.get("user_id") for line in captured.lines] == ["alice"] * 6
    assert not capsys.readouterr().err


def test_a_coroutine_that_is_no_function_has_its_tasks_name(
    capsys: pytest.CaptureFixture[str],
) -> None:
    class Steps:
        def __init__(self, inner: Any) -> None:
            self.send, self.throw, self.close = inner.send, inner.throw, inner.close

        def __await__(self) -> Any:
            return self

        __iter__ = __await__

        def __next__(self) -> Any:
            return self.send(None)

    from collections.abc import Coroutine

    Coroutine.register(Steps)

    async def main() -> None:
        queue: Queue = asyncio.Queue()
        with traced("GET /ws", kind="server"):
            task = asyncio.Task(Steps(inner_stages(queue)), name="mine")  # type: ignore[arg-type]
            await asyncio.sleep(0)
        for item in (1, 2, 3, None):
            queue.put_nowait(item)
        await task

    with capture():
        asyncio.run(main())
    assert "mine, a task that" in capsys.readouterr().err


async def _tokens(begun: list[Any]) -> AsyncIterator[int]:
    async def goes_on() -> None:
        for _ in range(4):
            await asyncio.sleep(0.001)
            with traced("begun in it"):
                pass

    with traced("llm"):
        begun.append(asyncio.ensure_future(goes_on()))
        for number in range(3):
            await asyncio.sleep(0)
            yield number


@pytest.mark.parametrize("first", ["line", "stage", "root", "end"])
def test_a_generator_that_is_left_leaves_its_consumer_where_it_was(
    first: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Asyncio closes it in a task of its own. What was begun in its stage stays there."""
    steps: dict[str, list[Any]] = {"stage": [traced("save")] * 4, "root": [traced("x", root=True)]}

    async def serve(user: str) -> None:
        begun: list[Any] = []
        with traced("request", root=True):
            bind_context(user_id=user)
            async for _ in _tokens(begun):
                break
            if first != "end":
                await begun[0]
            if first == "line":
                log.info("closed")  # where it is found that the stage has ended
                log.info("saved")
            for step in steps.get(first, ()):
                with step:
                    log.info("saved")
        await begun[0]

    async def worker() -> None:
        for user in ("alice", "bob"):
            await serve(user)
            with traced("between"):
                log.info("between")

    with capture(log_level="info") as captured:
        asyncio.run(worker())
    names = {span["span_id"]: span["name"] for span in captured.spans}
    parents = {(span["name"], names.get(span["parent_span_id"])) for span in captured.spans}
    expected = {("request", None), ("llm", "request"), ("begun in it", "llm"), ("between", None)}
    own = {"stage": ("save", "request"), "root": ("x", None)}
    assert parents == expected | ({own[first]} if first in own else set())
    found = {
        (line["event"], names[line["span_id"]], line.get("user_id")) for line in captured.lines
    }
    where = {"line": "request", "stage": "save", "root": "x"}
    for user in ("alice", "bob") if first in where else ():
        assert ("saved", where[first], user) in found
    assert ("between", "between", None) in found
    said = capsys.readouterr().err
    assert ("_tokens.<locals>.goes_on" in said) is (first == "end")  # what does go on after it
    assert "worker" not in said
