"""What nobody caught is a line, once, on behalf of whom it was raised for."""

import asyncio
import copy
import functools
import gc
import importlib
import logging
import pickle
import sys
import threading
import warnings
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import (
    AbstractAsyncContextManager,
    AsyncExitStack,
    ExitStack,
    asynccontextmanager,
    contextmanager,
    suppress,
)
from pathlib import Path
from typing import Any, cast

import pytest
import wrapt
from asgiref.sync import async_to_sync, sync_to_async
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.routing import Route

from otel_logging import (
    bind_context,
    bound_context,
    carry,
    clear_context,
    configure_logging,
    get_logger,
    setup_observability,
    tag_background_logger,
    traced,
)
from otel_logging.testing import capture
from tests.conftest import Lines, Service, leave_alone
from tests.lines import parsed
from tests.programs import Done, child_environment, python
from tests.receiver import Receiver

log: Any = get_logger("shop")
Failing = Callable[[], Awaitable[None]]


@pytest.fixture(autouse=True)
def _hooks(_clean_slate: None) -> Iterator[None]:
    """Python's own hooks, not pytest's, which would fail the test; ours before them."""
    kept = sys.unraisablehook, threading.excepthook
    sys.unraisablehook, threading.excepthook = sys.__unraisablehook__, threading.__excepthook__
    configure_logging(environment="production")
    clear_context()
    yield
    leave_alone()
    sys.unraisablehook, threading.excepthook = kept
    clear_context()


def run_in_thread(function: Callable[[], object]) -> None:
    thread = threading.Thread(target=function, name="worker")
    thread.start()
    thread.join()


def boom() -> None:
    raise ValueError("boom")


def dying(code: str, **variables: str) -> Done:
    """Run *code* in a child process that ends by an exception."""
    begin = "import otel_logging as o, sys, threading, logging, warnings, asyncio\n"
    env = child_environment(ENVIRONMENT="production", **variables)
    return python("-c", begin + code, env=env, text=False)


# ---------------------------------------------------------------- each hook


def test_an_exception_that_ends_the_main_thread_is_a_line(receiver: Receiver) -> None:
    """The last line of the process, in the trace that it left, at the collector before the end."""
    code = (
        f"o.setup_observability('shop', endpoint={receiver.endpoint!r})\n"
        "with o.traced('turn'):\n"
        "    o.bind_context(user_id='u1')\n"
        "    raise ValueError('no price')\n"
    )
    done = dying(code)
    assert (done.returncode, done.stderr) == (1, b"")
    (line,) = parsed(done.stdout)
    assert (line["level"], line["event"]) == ("critical", "uncaught ValueError: no price")
    assert line["exception"].endswith("ValueError: no price")
    assert line["user_id"] == "u1"
    turn = next(span for span in receiver.spans if span.name == "turn")
    assert (line["trace_id"], line["span_id"]) == (turn.trace_id, turn.span_id)
    (child,) = (span for span in receiver.spans if span.name == "log")
    (event,) = child.events
    assert (child.parent_span_id, event.name) == (turn.span_id, "uncaught ValueError: no price")
    # the traceback stands once in the trace, where the exception left its stage
    assert event.attributes["exception"] == "ValueError: no price"
    assert "Traceback" in turn.events[0].attributes["exception.stacktrace"]


@pytest.mark.parametrize(
    ("ending", "code", "stderr"),
    [
        ("sys.exit(3)", 3, b""),
        ("raise KeyboardInterrupt", -2, b"KeyboardInterrupt"),
        ("raise SystemExit('bye')", 1, b"bye"),
    ],
)
def test_a_wanted_end_is_no_line(ending: str, code: int, stderr: bytes) -> None:
    """``sys.exit`` and Ctrl-C have Python's own endings."""
    done = dying(f"o.configure_logging()\n{ending}\n")
    assert (done.returncode, done.stdout) == (code, b"")
    assert stderr in done.stderr


def test_an_exception_that_ends_a_thread_is_a_line_with_its_name_and_trace(lines: Lines) -> None:
    """The line has the stage's trace, though the stage is over by then."""

    def work() -> None:
        with traced("work"):
            bind_context(user_id="u2")
            boom()

    run_in_thread(work)
    (line,) = lines()
    assert (line["level"], line["event"]) == ("error", "uncaught ValueError: boom")
    assert line["thread"] == "worker"
    assert line["exception"].endswith("ValueError: boom")


def test_of_a_thread_in_its_own_trace(service: Service, lines: Lines) -> None:
    """A stage's, or whoever's its function was carried for."""

    def work() -> None:
        with traced("work"):
            bind_context(user_id="u2")
            boom()

    run_in_thread(work)
    with traced("request"):
        bind_context(user_id="u3")
        run_in_thread(carry(boom))
    first, second = lines()
    work_span, request = service.one("work"), service.one("request")
    assert (first["trace_id"], first["user_id"]) == (work_span.trace_id, "u2")
    assert (second["span_id"], second["user_id"]) == (request.span_id, "u3")


def test_a_thread_that_exits_is_no_line(lines: Lines) -> None:
    """``sys.exit`` in a thread ends it quietly."""
    run_in_thread(sys.exit)
    assert lines() == []


def test_a_signal_that_comes_while_garbage_is_collected_is_not_lost(tmp_path: Path) -> None:
    """Python runs its handler in the collector's callback, and ignores what that raises."""
    code = """
import gc, signal, time, weakref
from _thread import interrupt_main
from collections import defaultdict
from functools import partial
class Worker:
    def too_long(self, number, frame):
        raise TimeoutError(number)
class Stopping:
    def __call__(self, number, frame):
        raise SystemExit(number)
def stop(how, number, frame):
    raise SystemExit(f"{how}{number}")
signal.signal(signal.SIGALRM, Worker().too_long)
signal.signal(signal.SIGTERM, Stopping())
signal.signal(signal.SIGUSR1, partial(stop, "soon"))
o.setup_observability("shop", endpoint="http://127.0.0.1:1", spool_dir=sys.argv[0])
for number in (signal.SIGINT, signal.SIGALRM, signal.SIGTERM, signal.SIGUSR1):
    garbage = Worker()
    garbage.itself = garbage
    # it comes in the midst of a collection, and no function of Python's runs before its end
    come = weakref.ref(garbage, defaultdict(partial(interrupt_main, number)).__missing__)
    hash(come)
    try:
        del garbage
        gc.collect()
        time.sleep(20)
    except BaseException as error:
        print(repr(error))
"""
    done = dying(code.replace("sys.argv[0]", repr(str(tmp_path))))
    assert done.stdout.decode().split() == [
        "KeyboardInterrupt()",
        "TimeoutError(14)",
        "SystemExit(15)",
        "SystemExit('soon10')",
    ]


def test_what_a_callback_of_the_collector_raises_itself_is_a_line(lines: Lines) -> None:
    def callback(*_: object) -> None:
        raise failures.pop()

    failures: list[BaseException] = [ValueError("mine"), SystemExit()] * 2  # at start, at the end
    gc.callbacks.append(callback)
    try:
        gc.collect()
    finally:
        gc.callbacks.remove(callback)
    assert [line["exception.type"] for line in lines()] == ["SystemExit", "ValueError"]


def test_an_exception_of_a_finaliser_is_unowned(service: Service, lines: Lines) -> None:
    """Whoever happens to run when an object is collected has nothing to do with it."""

    class Finalised:
        def __init__(self) -> None:
            self.itself = self

        def __del__(self) -> None:
            boom()

    with traced("request"):
        bind_context(user_id="u4")
        Finalised()
        gc.collect()
    (line,) = lines()
    assert line["event"] == "exception ignored"
    assert "Finalised.__del__>" in line["object"]
    assert "user_id" not in line
    assert "trace_id" not in line
    assert service.one("request").events == ()


def test_a_warning_is_a_line_with_category_file_and_line(lines: Lines) -> None:
    """Category, file and line as fields; where a file is given, there and nowhere else."""
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        leave_alone()
        configure_logging(environment="production")
        with bound_context(user_id="u5"):
            warnings.warn_explicit("old way", DeprecationWarning, "shop.py", 7)
        with warnings.catch_warnings(record=True) as caught:
            warnings.warn("kept", stacklevel=1)
        warnings.showwarning("a", UserWarning, "a.py", 1, line="text")
        names = {"message": "b", "category": UserWarning, "filename": "b.py", "lineno": 2}
        warnings.showwarning(**names)  # type: ignore[arg-type]
    line, *called = lines()
    assert [(each["event"], each["code.line.number"]) for each in called] == [("a", 1), ("b", 2)]
    assert (line["level"], line["logger"], line["event"]) == ("warning", "py.warnings", "old way")
    assert (line["category"], line["user_id"]) == ("DeprecationWarning", "u5")
    assert (line["code.file.path"], line["code.line.number"]) == ("shop.py", 7)
    assert [str(warning.message) for warning in caught] == ["kept"]


def test_a_warning_below_the_level_is_no_line() -> None:
    """LOG_LEVELS=py.warnings=error keeps them off, and Python's own line with them."""
    done = dying("o.configure_logging()\nwarnings.warn('old')\n", LOG_LEVELS="py.warnings=error")
    assert (done.stdout, done.stderr) == (b"", b"")


def test_a_warning_into_a_file_of_ones_own() -> None:
    """``showwarning(file=)`` writes there."""
    call = "warnings.showwarning('old', UserWarning, 'shop.py', 7, file=sys.stderr)"
    done = dying(f"o.configure_logging()\n{call}\n")
    assert (done.stdout, done.stderr) == (b"", b"shop.py:7: UserWarning: old\n")


@pytest.mark.parametrize("order", ["before", "after"])
def test_captured_warnings_are_one_line(order: str, tmp_path: Path) -> None:
    """``logging.captureWarnings``: in our form, after set-up in Python's; a file has them too."""
    capture = "logging.captureWarnings(True)\n"
    setup = "o.configure_logging()\n"
    code = (
        f"logging.getLogger().addHandler(logging.FileHandler({str(tmp_path / 'log')!r}))\n"
        f"{capture + setup if order == 'before' else setup + capture}"
        "warnings.warn_explicit('old\\nway', UserWarning, 'shop.py', 7)\n"
        "logging.getLogger('py.warnings').warning('no warning')\n"
    )
    done = dying(code)
    assert done.stderr == b""
    line, other = parsed(done.stdout)
    if order == "before":
        assert (line["event"], line["category"]) == ("old\nway", "UserWarning")
        assert (line["code.file.path"], line["code.line.number"]) == ("shop.py", 7)
    else:
        assert line["event"] == "shop.py:7: UserWarning: old\nway"
    assert other["event"] == "no warning"
    assert "shop.py:7: UserWarning: old" in (tmp_path / "log").read_text()


def test_a_tracker_of_warnings_sees_them_too() -> None:
    """Its own ``showwarning``, there before set-up."""
    code = (
        "warnings.showwarning = lambda message, *_, **__: sys.stderr.write(f'saw {message}')\n"
        "o.configure_logging()\n"
        "warnings.warn('old')\n"
    )
    done = dying(code)
    assert done.stderr == b"saw old"
    assert [line["event"] for line in parsed(done.stdout)] == ["old"]


def test_a_test_that_expects_a_warning_of_what_sets_up(lines: Lines) -> None:
    """``pytest.warns`` around it: recorded there, and a line."""
    leave_alone()
    with pytest.warns(UserWarning, match="old"):  # noqa: PT031 - set-up inside it is the case
        configure_logging(environment="production")
        warnings.warn("old", stacklevel=1)
    assert [line["event"] for line in lines()] == ["old"]


def test_the_caller_of_an_uncaught_exception_is_who_raised_it(
    lines: Lines, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On request, as of every line; an exception without a traceback has none."""
    monkeypatch.setenv("OTEL_LOGGING_CALLER", "true")
    configure_logging(environment="production")
    run_in_thread(boom)
    sys.excepthook(ValueError, ValueError("never raised"), None)
    first, _ = lines()
    assert first["code.function.name"] == "boom"
    monkeypatch.undo()


def test_a_resource_warning_is_unowned(service: Service, lines: Lines) -> None:
    """A ResourceWarning comes from a finaliser, in the middle of anything."""
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        configure_logging(environment="production")
        with traced("request"):
            bind_context(user_id="u6")
            warnings.warn("unclosed file", ResourceWarning, stacklevel=1)
    (line,) = lines()
    assert line["event"] == "unclosed file"
    assert "user_id" not in line
    assert service.one("request").events == ()


# ---------------------------------------------------------------- asyncio


def test_of_a_task_in_its_own_trace(service: Service, lines: Lines) -> None:
    """asyncio tells of it when the task is collected, in the middle of another request."""

    async def work() -> None:
        with traced("work", root=True):
            bind_context(user_id="u7")
            boom()

    async def main() -> None:
        task = asyncio.create_task(work())
        await asyncio.wait([task])
        with traced("another"):
            bind_context(user_id="u8")
            del task
            gc.collect()
            log.info("another")

    asyncio.run(main())
    lost, another = lines()
    assert lost["event"].startswith("Task exception was never retrieved")
    assert (lost["user_id"], another["user_id"]) == ("u7", "u8")
    assert lost["trace_id"] == service.one("work").trace_id
    assert [event.name for event in service.one("another").events] == ["another"]


def test_of_a_task_without_a_stage_of_its_own(service: Service, lines: Lines) -> None:
    """Filed under who started it from Python 3.12 on; before, under nobody, never another."""

    async def work() -> None:
        boom()

    async def main() -> None:
        with traced("request"):
            bind_context(user_id="u9")
            task = asyncio.create_task(work())
        await asyncio.wait([task])
        with traced("another"):
            bind_context(user_id="u10")
            del task
            gc.collect()

    asyncio.run(main())
    (lost,) = lines()
    expected = "u9" if sys.version_info >= (3, 12) else None
    assert lost.get("user_id") == expected
    assert service.one("another").events == ()


class Clock:
    """Whose methods a loop calls."""

    def tick(self, *_: object) -> None:
        boom()

    def __call__(self) -> None:
        boom()


@pytest.mark.parametrize("library", ["asyncio", "uvloop"])
def test_failures_of_a_loop_can_be_grouped(library: str, lines: Lines, tmp_path: Path) -> None:
    """What differs from one to another is in fields; handlers get asyncio's own text."""
    theirs = logging.FileHandler(tmp_path / "app.log")
    logging.root.addHandler(theirs)

    async def main() -> None:
        loop = asyncio.get_running_loop()
        for name in ("one", "two"):
            task = asyncio.create_task(asyncio.to_thread(boom), name=name)
            await asyncio.wait([task])
            del task
            gc.collect()
        for value in (object(), 7):
            loop.call_soon(Clock().tick, value)
            loop.call_later(0, Clock())
        future = loop.create_future()
        loop.call_exception_handler({"message": "lost (one)", "future": future, "why": Clock()})
        loop.call_later(0.01, future.set_result, None)
        await future

    loop = importlib.import_module(library).new_event_loop()
    loop.run_until_complete(main())
    loop.close()
    for _ in range(2):
        future: Future[None] = Future()
        future.add_done_callback(Clock().tick)
        future.set_result(None)
    logging.root.removeHandler(theirs)
    theirs.close()
    found = lines()
    kept = Counter(line["event"] for line in found)
    assert kept.pop("Task exception was never retrieved") == 2
    assert kept.pop("lost (one)") == 1
    assert kept.pop("exception calling callback for <Future state=finished returned NoneType>") == 2
    assert sorted(kept.values()) == [2, 2]
    assert all(event.startswith("Exception in callback") for event in kept)
    assert any("Clock.tick" in event for event in kept)
    assert ["name='one'" in found[0]["future"], "name='two'" in found[1]["future"]] == [True, True]
    other = next(line for line in found if line["event"] == "lost (one)")
    assert (other["why"], other["future"]) == (f"<{__name__}.Clock object>", "<Future pending>")
    assert sum("handle" in line for line in found) == 4
    assert "lost (one)\nfuture: <Future pending>\nwhy: <" in (tmp_path / "app.log").read_text()


def test_an_exception_without_a_text_is_its_class(lines: Lines) -> None:
    """On the line about it, and as a field."""

    def empty() -> None:
        raise LookupError

    run_in_thread(empty)
    sys.excepthook(ValueError, ValueError(""), None)
    log.info("field", error=KeyError(), errors=[OSError(), TypeError(": ")])
    first, second, third = lines()
    assert (first["event"], second["event"]) == ("uncaught LookupError", "uncaught ValueError")
    assert (third["error"], third["errors"]) == ("KeyError", ["OSError", "TypeError: : "])


def test_a_loop_that_tells_by_itself(service: Service, lines: Lines) -> None:
    """Another event loop's own line about a failure is not whoever's runs then."""
    with traced("request"):
        bind_context(user_id="u11")
        logging.getLogger("asyncio").error("Unclosed connection")
    (line,) = lines()
    assert "user_id" not in line
    assert service.one("request").events == ()


# ---------------------------------------------------------------- others' hooks


def test_hooks_of_others_see_it_too(lines: Lines, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error tracker that came first: told once, and so is our line."""
    leave_alone()
    seen: list[str] = []
    monkeypatch.setattr(sys, "excepthook", lambda *a: seen.append("main"))
    monkeypatch.setattr(threading, "excepthook", lambda a: seen.append("thread"))
    monkeypatch.setattr(sys, "unraisablehook", lambda a: seen.append("unraisable"))
    configure_logging(environment="production")
    configure_logging(environment="production")
    run_in_thread(boom)
    error = ValueError("x")
    sys.excepthook(ValueError, error, None)
    leave_alone()
    assert seen == ["thread", "main"]
    assert len(lines()) == 2


@pytest.mark.parametrize("made_by", ["wraps", "a proxy"])
def test_a_hook_that_claims_to_be_pythons_sees_the_exception_too(
    made_by: str, lines: Lines, monkeypatch: pytest.MonkeyPatch
) -> None:
    leave_alone()
    seen: list[str] = []
    for module, name in ((sys, "excepthook"), (threading, "excepthook"), (warnings, "showwarning")):
        if made_by == "wraps":
            original = getattr(module, name)
            hook = functools.wraps(original)(lambda *_, of=name, **__: seen.append(of))
        else:
            hook = wrapt.FunctionWrapper(
                getattr(module, name), lambda *_, of=name, **__: seen.append(of)
            )
        monkeypatch.setattr(module, name, hook)
    configure_logging(environment="production")
    run_in_thread(boom)
    sys.excepthook(ValueError, ValueError("x"), None)
    warnings.showwarning("old", UserWarning, "a.py", 1)
    assert seen == ["excepthook", "excepthook", "showwarning"]
    assert len(lines()) == 3


def test_a_hook_put_before_ours_is_no_second_line(
    lines: Lines, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may lead to ours: a later set-up stands before both, and one line is made."""
    first, seen = threading.excepthook, []

    def theirs(args: Any) -> None:
        seen.append("theirs")
        first(args)

    monkeypatch.setattr(threading, "excepthook", theirs)
    run_in_thread(boom)
    configure_logging(environment="production")
    run_in_thread(boom)
    assert seen == ["theirs"] * 2
    assert len(lines()) == 2


def test_given_back_though_somebody_has_put_theirs_before_ours(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Theirs leads to ours, which only passes on: Python's own tells of it, on stderr."""
    thread, loop = threading.excepthook, asyncio.BaseEventLoop.default_exception_handler
    monkeypatch.setattr(threading, "excepthook", lambda args: thread(args))
    wrapped = lambda *args: loop(*args)  # noqa: E731
    monkeypatch.setattr(asyncio.BaseEventLoop, "default_exception_handler", wrapped)
    leave_alone()
    run_in_thread(boom)

    async def main() -> None:
        asyncio.get_running_loop().call_exception_handler({"message": "told as ever"})

    asyncio.run(main())
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "ValueError: boom" in captured.err


def test_an_exception_inside_an_error_tracker_is_a_line(
    lines: Lines, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An exception inside its hook, of a finaliser there, is no part of what it was shown."""

    class Finalised:
        def __del__(self) -> None:
            boom()

    leave_alone()
    monkeypatch.setattr(threading, "excepthook", lambda _: Finalised() and None)
    configure_logging(environment="production")
    run_in_thread(boom)
    assert [line["logger"] for line in lines()] == ["threading.excepthook", "sys.unraisablehook"]


def test_each_set_up_takes_the_hooks_over_again(
    lines: Lines, monkeypatch: pytest.MonkeyPatch
) -> None:
    """pytest puts hooks of its own before each test: a set-up in it takes over again."""
    for _ in range(3):
        monkeypatch.setattr(threading, "excepthook", lambda _: None)
        configure_logging(environment="production")
        run_in_thread(boom)
        leave_alone()
    assert len(lines()) == 3


# ---------------------------------------------------------------- where an exception came from


def test_a_servers_line_about_a_request_that_is_over(service: Service, lines: Lines) -> None:
    """Whatever logs it, outside of everything, it is the request's: trace, user, job."""

    @tag_background_logger("PRICE_CACHE")
    @traced("request", root=True)
    def handle() -> None:
        bind_context(user_id="u12")
        boom()

    try:
        handle()
    except ValueError as error:
        logging.getLogger("server").exception("Exception on /prices")
        log.error("structlog's", exc_info=error)
    first, second = lines()
    span = service.one("request")
    for line in (first, second):
        assert (line["span_id"], line["user_id"]) == (span.span_id, "u12")
        assert line["job_tag"] == "PRICE_CACHE"


def test_a_schedulers_line_about_its_job_has_the_tag(lines: Lines) -> None:
    """With no tracing at all."""

    @tag_background_logger("PRICE_CACHE")
    def job() -> None:
        boom()

    def run_job() -> None:
        try:
            job()
        except ValueError:
            logging.getLogger("scheduler").exception("job raised an exception")

    with ThreadPoolExecutor(1) as pool:
        pool.submit(run_job).result()
    (line,) = lines()
    assert line["job_tag"] == "PRICE_CACHE"


def test_an_exception_raised_again_outside_any_stage_is_unowned(lines: Lines) -> None:
    """One that is kept in a variable; a future's, which two await."""
    kept = ValueError("no connection")

    @tag_background_logger("PRICE_CACHE")
    def job() -> None:
        raise kept

    def elsewhere() -> None:
        raise kept

    for again in (job, elsewhere, None):
        try:
            if again is None:
                raise kept
            again()
        except ValueError:
            log.exception("failed")

    async def main() -> None:
        shared = asyncio.get_running_loop().create_future()

        async def turn() -> None:
            with bound_context(user_id="u1"), traced("turn"):
                await shared

        async def nobody() -> None:
            try:
                await shared
            except ValueError:
                log.exception("failed")

        tasks = [asyncio.create_task(turn()), asyncio.create_task(nobody())]
        await asyncio.sleep(0)
        shared.set_exception(kept)
        await asyncio.gather(*tasks, return_exceptions=True)

    asyncio.run(main())
    first, *rest = lines()
    assert first["job_tag"] == "PRICE_CACHE"
    assert len(rest) == 3
    assert not any({"job_tag", "user_id", "trace_id"} & set(line) for line in rest)


def test_through_frameworks_that_raise_it_again(lines: Lines) -> None:
    """Middleware does, while it handles it: that is no other raise."""

    @tag_background_logger("PRICE_CACHE")
    def job() -> None:
        boom()

    def middleware() -> None:
        try:
            job()
        except ValueError as error:
            raise error

    try:
        middleware()
    except ValueError:
        log.exception("failed")
    (line,) = lines()
    assert line["job_tag"] == "PRICE_CACHE"


async def in_a_task(failing: Failing) -> None:
    await asyncio.create_task(failing())


async def in_gather(failing: Failing) -> None:
    await asyncio.gather(asyncio.sleep(0), failing())


async def in_wait_for(failing: Failing) -> None:
    await asyncio.wait_for(failing(), 20)


async def in_shield(failing: Failing) -> None:
    await asyncio.shield(failing())


async def in_to_thread(failing: Failing) -> None:
    await asyncio.to_thread(lambda: asyncio.run(failing()))


async def in_an_executor(failing: Failing) -> None:
    with ThreadPoolExecutor(1) as pool:
        pool.submit(carry(lambda: asyncio.run(failing()))).result()


async def in_a_future(failing: Failing) -> None:
    future = asyncio.get_running_loop().create_future()
    try:
        await failing()
    except ValueError as error:
        future.set_exception(error)
    await future


async def in_a_queue(failing: Failing) -> None:
    results: asyncio.Queue[Exception] = asyncio.Queue()

    async def worker() -> None:
        try:
            await failing()
        except ValueError as error:
            results.put_nowait(error)

    task = asyncio.create_task(worker())
    error = await results.get()
    await task
    raise error


async def in_a_task_group(failing: Failing) -> None:
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(failing())
    except* ValueError as errors:
        raise errors.exceptions[0] from None


async def in_a_group_that_goes_on(failing: Failing) -> None:
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(failing())
    except* KeyError:
        raise AssertionError from None


async def in_base_http_middleware(failing: Failing) -> None:
    async def endpoint(_: Any) -> None:
        await failing()

    class Timing(BaseHTTPMiddleware):
        async def dispatch(self, request: Any, call_next: Any) -> Any:
            return await call_next(request)

    async def nothing(*_: Any) -> Any:
        return {"type": "http.request", "body": b"", "more_body": False}

    application = Starlette(routes=[Route("/", endpoint)], middleware=[Middleware(Timing)] * 2)
    scope = {"type": "http", "method": "GET", "path": "/", "headers": [], "query_string": b""}
    await application(scope, nothing, nothing)


async def in_a_def_endpoint(failing: Failing) -> None:
    await run_in_threadpool(lambda: asyncio.run(failing()))


CROSSINGS = [
    in_a_task,
    in_gather,
    in_wait_for,
    in_shield,
    in_to_thread,
    in_an_executor,
    in_a_future,
    in_a_queue,
    in_a_task_group,
    in_a_group_that_goes_on,
    in_base_http_middleware,
    in_a_def_endpoint,
]


@pytest.mark.parametrize("stage", ["inner stage", "no inner stage"])
@pytest.mark.parametrize("crossing", CROSSINGS)
def test_an_exception_that_crosses_tasks_and_threads_is_its_requests(
    crossing: Callable[[Failing], Any], stage: str, service: Service, lines: Lines
) -> None:
    """The server's line has the trace of the request whose stage it left, and the user."""

    async def failing() -> None:
        bind_context(user_id="inner")
        if stage == "no inner stage":
            boom()
        with traced("look up"):
            boom()

    async def handle(user: str) -> None:
        with traced("request", root=True):
            bind_context(user_id=user)
            await crossing(failing)

    async def serve() -> None:
        try:
            await handle("outer")
        except Exception:
            logging.getLogger("server").exception("Exception in ASGI application")

    asyncio.run(serve())
    (line,) = lines()
    # Starlette's application is a request of its own
    request = service.one("GET /" if crossing is in_base_http_middleware else "request")
    assert line["trace_id"] == request.trace_id
    if stage == "inner stage" and crossing is not in_a_group_that_goes_on:
        assert line["span_id"] == service.one("look up").span_id
        assert line["user_id"] == "inner"
    else:
        assert line["span_id"] == request.span_id


async def in_a_group_of_its_own(failing: Failing) -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(failing())


async def in_two_at_once(failing: Failing) -> None:
    await asyncio.wait_for(in_to_thread(failing), 20)


async def in_the_result_of_gather(failing: Failing) -> None:
    (error,) = await asyncio.gather(failing(), return_exceptions=True)
    assert isinstance(error, ValueError)
    raise error


async def in_asgirefs_ways(failing: Failing) -> None:
    """A view of Django, that awaits, and calls what is not asynchronous, and so on."""

    async def view() -> None:
        await failing()

    inner = sync_to_async(async_to_sync(view))
    await sync_to_async(async_to_sync(inner), thread_sensitive=False)()


async def where_it_is_told_on_its_way(failing: Failing) -> None:
    async def run() -> None:
        try:
            await failing()
        except ValueError:
            log.exception("failed")
            raise

    await asyncio.create_task(run())


#: Ways to the line of a worker, with the stage inside: the task, or the thread's work, is over.
OUTWARD = [
    in_a_task,
    in_gather,
    in_wait_for,
    in_shield,
    in_to_thread,
    in_an_executor,
    in_a_def_endpoint,
    in_a_task_group,
    in_a_group_that_goes_on,
    in_a_group_of_its_own,
    in_two_at_once,
    in_the_result_of_gather,
    in_asgirefs_ways,
    where_it_is_told_on_its_way,
]


@pytest.mark.parametrize("body", ["plain", "crosses too"])
@pytest.mark.parametrize("crossing", OUTWARD)
def test_an_exception_that_crosses_after_its_stage_is_its_requests(
    crossing: Callable[[Failing], Any], body: str, service: Service, lines: Lines
) -> None:
    """A worker's loop awaits its handler in another task: both of its lines are the message's."""

    async def handle(user: str) -> None:
        with traced("message", root=True):
            bind_context(user_id=user)
            if body == "plain":
                boom()
            with ThreadPoolExecutor(1) as pool:
                pool.submit(boom).result()

    async def work() -> None:
        for user in ("alice", "bob"):
            try:
                await crossing(lambda user=user: handle(user))  # type: ignore[misc]
            except Exception as error:
                log.exception("message failed")
                logging.getLogger("worker").error("again", exc_info=error)

    asyncio.run(work())
    traces = {span.attributes["user_id"]: span.trace_id for span in service.named("message")}
    found = lines()
    size = len(found) // 2
    assert size == (3 if "told" in crossing.__name__ else 2)
    assert [line.get("user_id") for line in found] == ["alice"] * size + ["bob"] * size
    assert [line["trace_id"] for line in found] == [traces[line["user_id"]] for line in found]


@pytest.mark.parametrize("way", ["a nursery", "a thread"])
def test_an_exception_that_crosses_in_trio_is_its_requests(
    way: str, service: Service, lines: Lines
) -> None:
    """Where it is installed: it is not for these tests, since eventlet imports badly beside it."""
    trio = pytest.importorskip("trio")

    def handle() -> None:
        with traced("message", root=True):
            bind_context(user_id="alice")
            boom()

    async def task() -> None:
        handle()

    async def main() -> None:
        if way == "a thread":
            await trio.to_thread.run_sync(handle)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(task)

    try:
        trio.run(main)
    except Exception:
        log.exception("failed")
    (line,) = lines()
    assert (line["user_id"], line["trace_id"]) == ("alice", service.one("message").trace_id)


async def _handled_where_it_ends(_: ValueError, failing: Failing) -> None:
    async def handle() -> None:
        with suppress(ValueError):
            await failing()

    await asyncio.create_task(handle())


async def _handled_by_a_worker_that_goes_on(_: ValueError, failing: Failing) -> None:
    is_over = asyncio.Event()

    async def handle() -> None:
        with suppress(ValueError):
            await failing()
        await is_over.wait()

    task = asyncio.create_task(handle())
    await asyncio.sleep(0)
    asyncio.get_running_loop().call_later(0.01, is_over.set)
    _kept_alive.append(task)


async def _handled_on_its_way(kept: ValueError, failing: Failing) -> None:
    async def run() -> None:
        await _handled_where_it_ends(kept, failing)

    await asyncio.create_task(run())


async def _told_after_its_task(_: ValueError, failing: Failing) -> None:
    try:
        await asyncio.wait_for(failing(), 20)
    except ValueError:
        log.exception("failed")


async def _told_as_a_result(_: ValueError, failing: Failing) -> None:
    (result,) = await asyncio.gather(failing(), return_exceptions=True)
    log.error("failed", exc_info=result)


async def _of_two_requests(_: ValueError, failing: Failing) -> None:
    for _ in range(2):
        await asyncio.gather(failing(), return_exceptions=True)


async def _in_a_pool(_: ValueError, failing: Failing) -> None:
    def work() -> None:
        with suppress(ValueError):
            cast("Coroutine[Any, Any, None]", failing()).send(None)

    await asyncio.to_thread(work)


async def _raised_anew_before_its_task_ended(kept: ValueError, failing: Failing) -> None:
    def again() -> None:
        raise kept

    async def run() -> None:
        with suppress(ValueError):
            await failing()
        again()

    await asyncio.gather(asyncio.create_task(run()), return_exceptions=True)


_kept_alive: list[Any] = []


@pytest.mark.parametrize(
    "before",
    [
        _handled_where_it_ends,
        _handled_by_a_worker_that_goes_on,
        _handled_on_its_way,
        _told_after_its_task,
        _told_as_a_result,
        _of_two_requests,
        _in_a_pool,
        _raised_anew_before_its_task_ended,
    ],
)
@pytest.mark.parametrize("where", ["the same task", "another task", "a pool"])
def test_a_kept_exception_is_not_of_the_request_that_it_failed_before(
    where: str, before: Callable[[ValueError, Failing], Any], service: Service, lines: Lines
) -> None:
    """A connection that is lost: whoever uses it is told so with the same object."""
    kept = ValueError("connection lost")

    async def request() -> None:
        with traced("request", root=True):
            bind_context(user_id="alice")
            with traced("connect"):
                raise kept

    def again() -> None:
        raise kept

    async def nobody() -> None:
        try:
            await (asyncio.to_thread(again) if where == "a pool" else _later(again))
        except ValueError:
            log.exception("nobody's")

    async def main() -> None:
        await before(kept, request)
        await (asyncio.create_task(nobody()) if where == "another task" else nobody())
        await asyncio.gather(*_kept_alive)
        _kept_alive.clear()

    asyncio.run(main())
    *told, line = lines()
    assert all(each["user_id"] == "alice" for each in told)
    assert line["event"] == "nobody's"
    assert line.keys().isdisjoint({"user_id", "trace_id"})


async def _later(work: Callable[[], None]) -> None:
    await asyncio.sleep(0)
    work()


def test_a_pools_exception_is_of_each_who_waits_for_it(service: Service, lines: Lines) -> None:
    """A request, and then nobody, for a result that has failed."""
    shared: Future[None] = Future()
    shared.set_exception(ValueError("no connection"))

    def request() -> None:
        with traced("request", root=True):
            bind_context(user_id="alice")
            shared.result()

    def serve(work: Callable[[], object]) -> None:
        try:
            work()
        except ValueError:
            log.exception("failed")

    with ThreadPoolExecutor(1) as pool:
        for work in (request, shared.result):
            pool.submit(serve, work).result()
    assert [line.get("user_id") for line in lines()] == ["alice", None]


@pytest.mark.parametrize("how", ["in its request", "awaited by her", "after it", "awaited twice"])
def test_what_is_put_into_futures_is_nobodys(how: str, service: Service, lines: Lines) -> None:
    """A connection is lost in a request: so are the others' answers."""
    pending: Future[None] = Future()
    is_over = how in {"after it", "awaited twice"}

    def fail() -> None:
        try:
            with traced("send", root=is_over):
                bind_context(user_id="alice")
                boom()
        except ValueError as error:
            pending.set_exception(error)

    if is_over:
        fail()
        if how == "awaited twice":
            with suppress(ValueError):
                pending.result()
    else:
        with traced("request", root=True), suppress(ValueError):
            fail()
            if how == "awaited by her":
                pending.result()
    try:
        pending.result()
    except ValueError:
        log.exception("nobody's")
    (line,) = lines()
    assert line.keys().isdisjoint({"user_id", "trace_id"})


def test_what_is_logged_in_a_pool_reaches_who_waits_for_it() -> None:
    """With no integration that would know of the pool."""

    def work() -> None:
        try:
            tag_background_logger("PRICE_CACHE")(boom)()
        except ValueError:
            log.exception("failed")
            raise

    with capture() as captured:
        setup_observability("shop", instrument=())
        with ThreadPoolExecutor(1) as pool:
            future = pool.submit(work)
        for _ in range(2):
            try:
                future.result()
            except ValueError:
                log.exception("again")
    tags = [line.get("job_tag") for line in captured.lines]
    assert tags == ["PRICE_CACHE", "PRICE_CACHE", None]


def test_a_middlewares_task_keeps_it_for_who_waits_for_it() -> None:
    """Starlette's, with no integration: it handles what the endpoint raises, and raises it anew."""

    async def endpoint() -> None:
        with traced("endpoint", kind="server"):
            bind_context(user_id="alice")
            boom()

    async def serve() -> None:
        try:
            await in_base_http_middleware(endpoint)
        except ValueError:
            log.exception("failed")

    with capture() as captured:
        setup_observability("shop", instrument=())
        asyncio.run(serve())
    line = captured.line("failed")
    assert (line["user_id"], line["trace_id"]) == ("alice", captured.span("endpoint")["trace_id"])


def test_a_group_of_two_messages_is_no_ones(service: Service, lines: Lines) -> None:
    """Neither has all that is told."""

    async def handle(user: str) -> None:
        with traced("message", root=True):
            bind_context(user_id=user)
            boom()

    async def work() -> None:
        try:
            async with asyncio.TaskGroup() as group:
                for user in ("alice", "bob"):
                    group.create_task(handle(user))
        except* ValueError:
            log.exception("failed")

    asyncio.run(work())
    (line,) = lines()
    assert line.keys().isdisjoint({"user_id", "trace_id"})


def test_two_requests_that_fail_of_one_exception_have_a_line_each(
    service: Service, lines: Lines
) -> None:
    """A connection that both wait for; and who waits for it on nobody's behalf has none."""

    async def handle(user: str, shared: asyncio.Future[None]) -> None:
        with traced(user, root=True), traced("wait"):
            bind_context(user_id=user)
            await shared

    async def serve(user: str, shared: asyncio.Future[None]) -> None:
        try:
            await (handle(user, shared) if user else shared)
        except ValueError:
            logging.getLogger("server").exception("failed", extra={"for": user})

    async def main() -> None:
        shared = asyncio.get_running_loop().create_future()
        tasks = [asyncio.create_task(serve(user, shared)) for user in ("a", "b", "", "c")]
        await asyncio.sleep(0)
        shared.set_exception(ValueError("no connection"))
        await asyncio.gather(*tasks)

    asyncio.run(main())
    found = lines()
    assert [(line["for"], line.get("user_id", "")) for line in found] == [
        (user, user) for user in ("a", "b", "", "c")
    ]
    for line in found:
        expected = service.one(line["for"]).trace_id if line["for"] else None
        assert line.get("trace_id") == expected


def test_two_jobs_that_fail_of_one_exception_have_a_tag_each(lines: Lines) -> None:
    """With no tracing at all: one that is tagged is never told of under another tag."""
    shared: Future[None] = Future()

    def job() -> None:
        carry(shared.result)()

    def run_job(tag: str) -> None:
        try:
            tag_background_logger(tag)(job)()
        except ValueError:
            logging.getLogger("scheduler").exception("job failed", extra={"for": tag})

    shared.set_exception(ValueError("no connection"))
    for tag in ("A", "B"):
        run_in_thread(lambda tag=tag: run_job(tag))  # type: ignore[misc]
    assert [(line["for"], line["job_tag"]) for line in lines()] == [("A", "A"), ("B", "B")]


def test_a_request_of_another_trace_that_a_crossing_lies_before(
    service: Service, lines: Lines
) -> None:
    """The server's line is of the request that the exception left last; without one, the inner."""

    async def inner() -> None:
        with traced("inner", root=True):
            boom()

    async def serve(crossing: Callable[[Failing], Any] | None) -> None:
        try:
            with traced("outer", root=True):
                await (inner() if crossing is None else crossing(inner))
        except ValueError:
            log.exception("failed")

    asyncio.run(serve(in_a_task))
    asyncio.run(serve(None))
    across, directly = lines()
    assert across["trace_id"] == service.named("outer")[0].trace_id
    assert directly["trace_id"] == service.named("inner")[1].trace_id


def test_a_line_with_bound_fields_and_no_span_gets_the_trace(
    service: Service, lines: Lines
) -> None:
    """And keeps its own fields: a server that binds who it is, a scheduler's tag."""

    def handle() -> None:
        with traced("request", root=True):
            bind_context(user_id="u13")
            boom()

    def serve() -> None:
        try:
            handle()
        except ValueError:
            log.exception("failed", order=5)
        log.info("next")

    with bound_context(worker=1):
        serve()
    tag_background_logger("SCHEDULER")(serve)()
    bound, after, tagged, _ = lines()
    first, second = service.named("request")
    assert (bound["trace_id"], bound["span_id"]) == (first.trace_id, first.span_id)
    assert (bound["worker"], bound["order"], bound.get("user_id")) == (1, 5, None)
    assert "trace_id" not in after
    assert (tagged["trace_id"], tagged["job_tag"]) == (second.trace_id, "SCHEDULER")
    children = [span for span in service.named("log") if span.trace_id == first.trace_id]
    assert [event.name for child in children for event in child.events] == ["failed"]


def test_a_line_with_bound_fields_about_a_job_without_a_trace(lines: Lines) -> None:
    """There is no trace to be given."""

    def serve() -> None:
        try:
            tag_background_logger("PRICE_CACHE")(boom)()
        except ValueError:
            log.exception("failed")

    with bound_context(worker=1):
        serve()
    (line,) = lines()
    assert (line["worker"], line.get("trace_id"), line.get("job_tag")) == (1, None, None)


def test_who_runs_on_somebodys_behalf_keeps_it(service: Service, lines: Lines) -> None:
    """An exception that came from another request does not take its line there."""

    def failing() -> None:
        with traced("theirs", root=True):
            bind_context(user_id="theirs")
            boom()

    with traced("ours", root=True):
        bind_context(user_id="ours")
        try:
            failing()
        except ValueError:
            log.exception("failed")
    (line,) = lines()
    assert (line["user_id"], line["span_id"]) == ("ours", service.one("ours").span_id)


def test_an_exception_object_raised_again_is_the_last_ones(lines: Lines) -> None:
    """One object, raised for one user and then for another."""
    shared = ValueError("shared")

    def failing(user: str) -> None:
        with bound_context(user_id=user), traced("stage"):
            raise shared

    for user in ("a", "b"):
        try:
            carry(failing)(user)
        except ValueError:
            log.exception("failed")
    assert [line.get("user_id") for line in lines()] == [None, None]


GONE = ConnectionError("connection is gone")


@pytest.mark.parametrize("bare", ["every other time", "never"])
def test_a_kept_exception_belongs_to_the_stage_that_it_left_last(
    bare: str, service: Service, lines: Lines
) -> None:
    """Its old traceback and frames are gone, and new ones have their addresses."""

    def work(user: str | None) -> None:
        if user is not None:
            with traced("request", root=True):
                bind_context(user_id=user)
                raise GONE.with_traceback(None)
        raise GONE.with_traceback(None)

    def serve(user: str | None) -> None:
        try:
            work(user)
        except ConnectionError:
            logging.getLogger("server").exception("failed", extra={"for": user})

    for number in range(100):
        serve(f"user-{number}")
        if bare != "never":
            serve(None)
    traces = {span.attributes["user_id"]: span.trace_id for span in service.named("request")}
    said = lines()
    assert len(traces) == 100 <= len(said)
    for line in said:
        assert line.get("user_id") == line["for"]
        assert line.get("trace_id") == (traces[line["for"]] if line["for"] else None)
    assert traces.keys() == {line["for"] for line in said} - {None}


@pytest.mark.parametrize("is_shielded", [False, True])
def test_a_failed_future_that_is_kept_is_of_each_who_awaits_it(
    is_shielded: bool, lines: Lines, service: Service
) -> None:
    """A cache of connections: each request awaits the same future, one after the other."""

    async def app(user: str, kept: asyncio.Future[None]) -> None:
        with traced("request", root=True):
            bind_context(user_id=user)
            await (asyncio.shield(kept) if is_shielded else kept)

    async def serve(user: str | None, kept: asyncio.Future[None]) -> None:
        try:
            await (kept if user is None else app(user, kept))
        except ConnectionError:
            logging.getLogger("server").exception("failed", extra={"for": user})

    async def main() -> None:
        kept = asyncio.get_running_loop().create_future()
        kept.set_exception(ConnectionError("no"))
        for number in range(100):
            await asyncio.create_task(serve(f"user-{number}", kept))
        for number in range(100):
            await asyncio.create_task(serve(f"user-{number}", kept))
            await asyncio.create_task(serve(None, kept))

    asyncio.run(main())
    found = lines()
    assert len(found) == 300
    assert len(service.named("request")) == 200
    for line in found:
        assert line.get("user_id") == line["for"]


def test_a_stage_entered_later_is_no_part_of_the_raise_before(
    service: Service, lines: Lines
) -> None:
    """One stage handles what another has raised, and raises the same object."""

    def first() -> None:
        with traced("first", root=True):
            bind_context(user_id="alice")
            boom()

    def second() -> None:
        try:
            first()
        except ValueError as error:
            with traced("second", root=True):
                bind_context(user_id="bob")
                raise error

    try:
        second()
    except ValueError:
        log.exception("failed")
    (line,) = lines()
    assert (line["user_id"], line["trace_id"]) == ("bob", service.one("second").trace_id)


@contextmanager
def request() -> Iterator[None]:
    with traced("request", root=True):
        bind_context(user_id="alice")
        yield


@asynccontextmanager
async def async_request() -> AsyncIterator[None]:
    with request():
        yield


def managed() -> None:
    with request():
        boom()


def managed_in_a_stack() -> None:
    with ExitStack() as stack:
        stack.enter_context(request())
        boom()


async def managed_async() -> None:
    async with async_request():
        await asyncio.sleep(0)
        boom()


async def managed_in_an_async_stack() -> None:
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(async_request())
        boom()


async def managed_by_a_stage_in_an_async_stack() -> None:
    async with AsyncExitStack() as stack:
        stack.enter_context(traced("request", root=True))
        bind_context(user_id="alice")
        boom()


async def managed_in_a_dependency() -> None:
    """As FastAPI does it: the stack is left around the endpoint."""

    async def solve(make: Callable[[], AbstractAsyncContextManager[None]]) -> None:
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(make())
            await endpoint()

    async def endpoint() -> None:
        boom()

    await solve(async_request)


@pytest.mark.parametrize(
    "manage",
    [
        managed,
        managed_in_a_stack,
        managed_async,
        managed_in_an_async_stack,
        managed_by_a_stage_in_an_async_stack,
        managed_in_a_dependency,
    ],
)
@pytest.mark.parametrize("runner", ["inside the loop", "around the loop"])
def test_a_stage_in_a_context_manager_made_of_a_generator(
    manage: Callable[[], Any], runner: str, service: Service, lines: Lines
) -> None:
    """contextlib puts the traceback back that it was given, without the generator's step."""

    def logged() -> None:
        logging.getLogger("server").exception("failed")

    async def serve() -> None:
        try:
            if (running := manage()) is not None:
                await running
        except ValueError:
            logged()

    if runner == "inside the loop":
        asyncio.run(serve())
    else:
        try:
            if (running := manage()) is not None:
                asyncio.run(running)
        except ValueError:
            logged()
    (line,) = lines()
    assert (line["user_id"], line["trace_id"]) == ("alice", service.one("request").trace_id)


def test_an_exception_travels_as_before(service: Service) -> None:
    """It can be pickled and copied, as it leaves a process pool; there it has no origin."""
    with pytest.raises(ValueError, match="boom") as caught, traced("stage"):
        boom()
    for twin in (pickle.loads(pickle.dumps(caught.value)), copy.deepcopy(caught.value)):
        assert twin.args == ("boom",)


def failing_stage() -> None:
    """Run in a process of a pool."""
    configure_logging(environment="production")
    carry(boom)()


def test_out_of_a_process_pool() -> None:
    """A carried function's exception comes back whole."""
    import multiprocessing

    with (
        ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool,
        pytest.raises(ValueError, match="boom"),
    ):
        pool.submit(failing_stage).result(60)


@pytest.mark.parametrize("users", [["alice"], ["alice", "bob"]])
@pytest.mark.parametrize("way", [asyncio.gather, asyncio.shield])
@pytest.mark.parametrize("thread", ["none", "own", "pool"])
def test_one_exception_out_of_two_open_requests_is_nobodys_behind_their_tasks(
    thread: str, way: Any, users: list[str]
) -> None:
    """Who waits for one of them does not learn which one it was.

    It comes from a plain future, or a stage of a thread that has nothing of a request; of one
    request alone it is that one's.
    """
    waiting, begun = list(users), threading.Event()

    def work() -> None:
        begun.wait(60)
        with traced("outer"), traced("query"):
            raise ConnectionError("down")

    def run(made: Future[None]) -> None:
        try:
            work()
        except ConnectionError as error:
            made.set_exception(error)

    def begin(pool: ThreadPoolExecutor) -> Any:
        loop, made = asyncio.get_running_loop(), Future[None]()
        if thread == "pool":
            return loop.run_in_executor(pool, work)
        if thread == "own":
            threading.Thread(target=run, args=(made,)).start()
            return asyncio.wrap_future(made)
        shared = loop.create_future()
        loop.call_later(0.01, shared.set_exception, ConnectionError("down"))
        return shared

    async def request(user: str, shared: Any) -> None:
        with traced("request", kind="server"):
            bind_context(user_id=user)
            waiting.remove(user)
            if not waiting:
                begun.set()
            await shared

    async def server(user: str, shared: Any) -> None:
        try:
            await way(request(user, shared))
        except ConnectionError:
            get_logger("server").exception("failed")

    async def main() -> None:
        with ThreadPoolExecutor(1) as pool:
            shared = begin(pool)
            await asyncio.gather(*[server(user, shared) for user in users])

    with capture() as captured:
        asyncio.run(main())
    told = [line for line in captured.lines if line["event"] == "failed"]
    assert [line.get("user_id") for line in told] == (users if len(users) == 1 else [None, None])
