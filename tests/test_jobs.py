"""Job tags: on whose lines they are, and on whose not."""

import asyncio
import contextvars
import copy
import functools
import gc
import io
import json
import logging
import pickle
import sys
import types
import unittest
import warnings
import weakref
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from enum import Enum
from typing import Any

import pytest

from otel_logging import (
    BackgroundJobTag,
    ConfigurationError,
    TaggedLogger,
    _diagnostics,
    bind_context,
    bound_context,
    carry,
    configure_logging,
    current_job_tag,
    detached,
    format_background_log,
    get_logger,
    tag_background_logger,
    traced,
)
from otel_logging.context import bound
from otel_logging.processors import add_job_tag
from otel_logging.testing import capture
from tests.conftest import Service
from tests.lines import parsed
from tests.programs import script

log = get_logger("shop")


class JobTag(BackgroundJobTag):
    PRICE_CACHE = "PRICE_CACHE"
    AUTO_REBAL = "AUTO_REBAL"


def json_lines(capfd: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in capfd.readouterr().out.splitlines()]


# ---------------------------------------------------------------- the tag


def test_an_application_lists_its_tags_in_an_enum_of_its_own() -> None:
    """The base has no members; a member is its text."""
    assert list(BackgroundJobTag) == []
    assert f"{JobTag.PRICE_CACHE}" == "PRICE_CACHE"
    assert JobTag("AUTO_REBAL") is JobTag.AUTO_REBAL


@pytest.mark.parametrize("tag", ["", "  ", None, 3, "a\nb"])
def test_what_is_no_tag_is_refused_at_decoration(tag: Any) -> None:
    """Never in a log call."""
    with pytest.raises(ConfigurationError, match="job tag="):
        tag_background_logger(tag)


class Hostile:
    """Raises whatever it is asked."""

    def _no(self, *_: object) -> Any:
        raise RuntimeError("no")

    __str__ = __repr__ = __bool__ = __eq__ = __hash__ = __len__ = __format__ = _no  # type: ignore[assignment]
    __class__ = property(_no)  # type: ignore[assignment]


class Odd(BackgroundJobTag):
    """Members that no decorator takes."""

    EMPTY = ""
    BLANK = "  "
    LINES = "A\nB"
    OBEYED = "\x1b[31m\x7f\x9b\u2028\u202e\ud800"


class Pair(str, Enum):  # noqa: UP042 - as people have them
    """A string whose value is not the string."""

    TAG = ("T", "its description")

    def __new__(cls, text: str, description: str) -> "Pair":
        member = str.__new__(cls, text)
        member._value_ = (text, description)
        return member


class Number(Enum):
    ONE = 1


class Loud(str):
    """A string whose own code raises."""

    __slots__ = ()
    __str__ = __format__ = Hostile._no
    isprintable = strip = Hostile._no


ODD_TAGS: list[tuple[Any, str]] = [
    ("", ""),
    ("  ", "  "),
    (None, "None"),
    (3, "3"),
    (True, "True"),
    (b"T", "b'T'"),
    (["T"], "['T']"),
    (Hostile(), "<unprintable Hostile>"),
    (Hostile, repr(Hostile)),
    (Number.ONE, "1"),
    (Pair.TAG, "T"),
    (Loud("T"), "T"),
    ("a\nb\tc\r", r"a\nb\tc\r"),
    ("50% %s", "50% %s"),
    ("价格 é", "价格 é"),
    (Odd.EMPTY, ""),
    (Odd.BLANK, "  "),
    (Odd.LINES, r"A\nB"),
    (Odd.OBEYED, r"\x1b[31m\x7f\x9b\u2028\u202e\ud800"),
]


# by number: pytest would look at the values to name the tests
@pytest.mark.parametrize("number", range(len(ODD_TAGS)))
def test_any_tag_is_rendered_in_a_log_call(number: int, capfd: Any) -> None:
    """As it is, control characters shown; the same before set-up, in JSON, and on the console."""
    tag, shown = ODD_TAGS[number]
    assert format_background_log(tag, "done") == f"[{shown}] done"
    for environment in ("production", "development"):
        configure_logging(environment=environment)
        log.info(format_background_log(tag, "done"))
        logging.getLogger("plain").info(format_background_log(tag, "done"))
    *lines, first, second = capfd.readouterr().out.splitlines()
    found = [(json.loads(line)["event"], json.loads(line)["job_tag"]) for line in lines]
    assert found == [("done", shown)] * 2
    assert all(f"info     [{shown}] done " in line for line in (first, second))
    assert not _diagnostics.counts


def test_a_tag_of_any_string_type_is_taken_by_the_decorator() -> None:
    """As the text that it is, whatever its own code does; what is no string is refused."""
    for odd in (Hostile(), Number.ONE, Odd.LINES):
        with pytest.raises(ConfigurationError, match="job tag="):
            tag_background_logger(odd)  # type: ignore[arg-type]
    assert tag_background_logger(Pair.TAG)(current_job_tag)() == "T"
    assert tag_background_logger(Loud("T"))(current_job_tag)() == "T"


def test_a_message_of_any_kind_is_rendered() -> None:
    """Also one whose own code raises."""
    assert format_background_log("T", None) == "[T] None"  # type: ignore[arg-type]
    assert format_background_log("T", Hostile()) == "[T] <unprintable Hostile>"  # type: ignore[arg-type]
    assert format_background_log("T", ValueError("x")) == "[T] x"  # type: ignore[arg-type]
    assert format_background_log("T", "two\nlines") == "[T] two\nlines"


def test_a_tagged_loggers_message_of_any_kind_is_the_handlers(
    plain: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In a job and outside one, the call itself never raises."""
    logger, stream = plain
    wrapped = TaggedLogger(logger)
    for call in (wrapped.info, tag_background_logger("T")(wrapped.info)):
        call(Hostile())
    assert stream.getvalue() == ""
    assert capsys.readouterr().err.count("RuntimeError: no") >= 2


def test_a_tag_is_current_inside_the_function_and_nowhere_else() -> None:
    """Nested: the inner one, then the outer again; restored after an exception."""

    @tag_background_logger("INNER")
    def inner() -> str | None:
        if current_job_tag() == "INNER":
            raise ValueError("inside")
        return None

    @tag_background_logger(JobTag.PRICE_CACHE)
    def outer(a: int, *, b: int = 2) -> tuple[Any, ...]:
        """Documented."""
        before = current_job_tag()
        with pytest.raises(ValueError, match="inside"):
            inner()
        return a, b, before, current_job_tag()

    assert outer(1, b=3) == (1, 3, "PRICE_CACHE", "PRICE_CACHE")
    assert (outer.__name__, outer.__doc__) == ("outer", "Documented.")
    assert current_job_tag() is None


def test_every_kind_of_callable_can_be_tagged() -> None:
    """Coroutines, generators half-way closed, methods of all kinds, callable objects."""
    tag = tag_background_logger("T")

    class Jobs:
        @tag
        def method(self) -> str | None:
            return current_job_tag()

        @tag
        @classmethod
        def of_class(cls) -> str | None:
            return current_job_tag()

        @tag
        @staticmethod
        def static() -> str | None:
            return current_job_tag()

        @classmethod
        @tag
        def inside_out(cls) -> str | None:
            return current_job_tag()

        async def __call__(self) -> str | None:
            await asyncio.sleep(0)
            return current_job_tag()

    @tag
    def generator() -> Iterator[str | None]:
        yield current_job_tag()
        yield current_job_tag()

    @tag
    async def stream() -> AsyncIterator[str | None]:
        await asyncio.sleep(0)
        yield current_job_tag()
        yield current_job_tag()

    def sends_back(value: Any) -> tuple[Any, str | None]:
        return value, current_job_tag()

    async def main() -> None:
        assert await tag(Jobs())() == "T"
        steps = stream()
        assert (await anext(steps), current_job_tag()) == ("T", None)
        await steps.aclose()  # type: ignore[attr-defined]
        async for seen in stream():
            assert (seen, current_job_tag()) == ("T", None)
        task = asyncio.create_task(tag(asyncio.Event().wait)())
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert current_job_tag() is None

    jobs = Jobs()
    assert [jobs.method(), jobs.of_class(), jobs.static(), jobs.inside_out()] == ["T"] * 4
    assert tag(functools.partial(sends_back, 1))() == (1, "T")
    steps = generator()
    assert (next(steps), current_job_tag()) == ("T", None)
    steps.close()  # type: ignore[attr-defined]
    asyncio.run(main())
    assert current_job_tag() is None


def test_a_string_of_any_enum_is_its_value() -> None:
    """Not ``Tag.PRICE``, as ``str()`` of a ``(str, Enum)`` member has it."""

    class Tag(str, Enum):  # noqa: UP042 - which is what applications have
        PRICE = "PRICE_CACHE"

    assert tag_background_logger(Tag.PRICE)(current_job_tag)() == "PRICE_CACHE"
    assert format_background_log(Tag.PRICE, "x") == "[PRICE_CACHE] x"


def test_a_dropped_coroutine_leaves_its_tag_nowhere() -> None:
    """Whoever collects it, in a job or not, in whatever context."""

    @types.coroutine
    def pause() -> Any:
        yield

    @tag_background_logger("INNER")
    async def inner() -> None:
        await pause()

    dropped: list[Any] = []

    @tag_background_logger("OUTER")
    def start() -> None:
        dropped.append(inner())
        contextvars.copy_context().run(dropped[0].send, None)

    @tag_background_logger("OTHER")
    def other() -> str | None:
        dropped.clear()
        return current_job_tag()

    start()
    dropped.clear()
    assert current_job_tag() is None
    start()
    assert (other(), current_job_tag()) == ("OTHER", None)


def test_a_task_that_is_collected_leaves_its_tag_nowhere() -> None:
    """One that nobody kept: its coroutine ends in the task that runs the collection."""

    @tag_background_logger("LOST")
    async def lost() -> None:
        await asyncio.get_running_loop().create_future()

    @tag_background_logger("OUTER")
    async def start() -> None:
        asyncio.create_task(lost())  # noqa: RUF006 - the very thing
        await asyncio.sleep(0)

    @tag_background_logger("OTHER")
    async def other() -> str | None:
        gc.collect()
        return current_job_tag()

    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: ended.append(context))
        await asyncio.create_task(start())
        assert await asyncio.create_task(other()) == "OTHER"
        await asyncio.create_task(start())
        gc.collect()
        assert current_job_tag() is None

    ended: list[Any] = []
    gc.collect()
    asyncio.run(main())
    assert len(ended) == 2


def test_tags_go_with_the_context() -> None:
    """``carry`` takes the tag into a thread, ``detached`` leaves it behind."""

    @tag_background_logger("T")
    def job() -> tuple[Any, ...]:
        with ThreadPoolExecutor(1) as pool:
            plain = pool.submit(current_job_tag).result()
            carried = pool.submit(carry(current_job_tag)).result()
        with detached():
            alone = current_job_tag()
        return plain, carried, alone, current_job_tag()

    assert job() == (None, "T", None, "T")


def test_what_a_job_binds_ends_with_it() -> None:
    """A scheduler's thread runs one job after the other; a task that goes on keeps it."""

    @tag_background_logger("FIRST")
    def first() -> contextvars.Context:
        bind_context(user_id="alice")
        assert bound()["user_id"] == "alice"
        return contextvars.copy_context()

    @tag_background_logger("SECOND")
    def second() -> None:
        assert bound() == {"host": "a"}
        with traced("request", root=True):
            assert bound() == {"host": "a"}

    @tag_background_logger("OUTER")
    def outer() -> None:
        bind_context(outer=1)
        first()
        assert bound() == {"host": "a", "outer": 1}

    with capture(), bound_context(host="a"):
        goes_on = first()
        assert goes_on.run(bound) == {"user_id": "alice", "host": "a"}
        second()
        outer()
        assert bound() == {"host": "a"}
        assert goes_on.run(traced("request", root=True)(lambda: dict(bound()))) == {"host": "a"}


def test_a_reader_that_a_job_has_started_keeps_its_tag_and_nothing_that_it_bound() -> None:
    """Until it is detached: messages that come when the job has ended are not its user's."""
    contexts: list[contextvars.Context] = []

    @tag_background_logger("WS_HEALTH")
    def job(user_id: str) -> None:
        bind_context(user_id=user_id)
        bind_context(order=1)
        contexts.append(contextvars.copy_context())

    @traced("message", kind="consumer")
    def message() -> tuple[str | None, dict[str, Any]]:
        return current_job_tag(), dict(bound())

    with capture():
        job("alice")
        job("bob")
        for context in contexts:
            assert context.run(message) == ("WS_HEALTH", {})
            assert context.run(detached()(message)) == (None, {})


def test_what_is_bound_in_a_task_that_a_job_has_started_ends_with_the_job() -> None:
    """Whether the job itself has bound something or not, and of that run alone."""

    @traced("message", root=True)
    def message() -> dict[str, Any]:
        return dict(bound())

    async def reader(user_id: str, job_goes_on: asyncio.Event, job_ended: asyncio.Event) -> Any:
        bind_context(user_id=user_id)
        job_goes_on.set()
        within = dict(bound())
        await job_ended.wait()
        return within, message()

    @tag_background_logger("START")
    async def job(user_id: str, ended: asyncio.Event, **own: Any) -> asyncio.Task[Any]:
        if own:
            bind_context(**own)
        task = asyncio.create_task(reader(user_id, goes_on := asyncio.Event(), ended))
        await goes_on.wait()
        return task

    async def main() -> None:
        ended, of_another = asyncio.Event(), asyncio.Event()
        tasks = [await job("alice", ended), await job("bob", ended, batch=1)]
        assert (bound(), current_job_tag()) == ({}, None)
        tasks.append(await job("carol", of_another))
        ended.set()
        of_alice, of_bob = [await task for task in tasks[:2]]
        assert of_alice == ({"user_id": "alice"}, {})
        assert of_bob == ({"user_id": "bob", "batch": 1}, {})
        of_another.set()
        await tasks[2]

    with capture():
        asyncio.run(main())


def test_what_a_task_binds_after_its_job_is_its_own() -> None:
    """As outside any: it ends with nothing."""

    @tag_background_logger("START")
    def job() -> contextvars.Context:
        return contextvars.copy_context()

    with capture():
        context = job()
        context.run(bind_context, connection=1)
        job()
        assert context.run(traced("message", root=True)(lambda: dict(bound()))) == {"connection": 1}


def test_a_job_inside_another_ends_what_is_bound_in_itself_alone() -> None:
    """Also one of the same function."""

    @tag_background_logger("OUTER")
    def outer(depth: int) -> None:
        bind_context(**{f"depth_{depth}": depth})
        before = dict(bound())
        if depth:
            outer(depth - 1)
        assert bound() == before

    outer(3)
    assert (bound(), current_job_tag()) == ({}, None)


def test_what_a_coroutine_a_generator_and_a_failed_job_bind_ends_with_them() -> None:
    """However it is left; the tag does, too."""

    @tag_background_logger("COROUTINE")
    async def coroutine() -> None:
        bind_context(user_id="alice")

    @tag_background_logger("GENERATOR")
    def generator() -> Iterator[Any]:
        bind_context(user_id="bob")
        yield bound()["user_id"]

    @tag_background_logger("FAILED")
    def failed() -> None:
        bind_context(user_id="carol")
        raise ZeroDivisionError

    @tag_background_logger("OUTER")
    def outer() -> None:
        with pytest.raises(ZeroDivisionError):
            failed()
        assert list(generator()) == ["bob"]
        assert (bound(), current_job_tag()) == ({}, "OUTER")

    async def one_after_the_other() -> None:
        await coroutine()
        assert (bound(), current_job_tag()) == ({}, None)

    outer()
    asyncio.run(one_after_the_other())
    assert (bound(), current_job_tag()) == ({}, None)


def test_a_job_that_starts_its_next_run_keeps_nothing_of_the_ones_before() -> None:
    """Each run begins in a copy of the context of the last one."""
    variable: contextvars.ContextVar[Any] = contextvars.ContextVar("of the run")
    runs: list[weakref.ref[Any]] = []

    @tag_background_logger("TICK")
    def tick() -> contextvars.Context:
        run = type("Run", (), {})()
        variable.set(run)
        runs.append(weakref.ref(run))
        return contextvars.copy_context()

    context = contextvars.copy_context()
    for _ in range(4):
        context = context.run(tick)
    gc.collect()
    assert [run() is None for run in runs] == [True, True, True, False]


# ---------------------------------------------------------------- lines and spans


def test_lines_and_spans_of_a_job_carry_its_tag(service: Service, capfd: Any) -> None:
    """Whoever logs them, on stdout and in the trace; a user's own field of that name is kept."""

    @tag_background_logger(JobTag.AUTO_REBAL)
    def job() -> None:
        log.info("outside any span")
        bind_context(user_id="u1")
        with traced("rebalance"):
            log.info("progress", percent=50, job_tag="mine")

    job()
    span = service.one("rebalance")
    assert span.attributes == {"user_id": "u1", "job_tag": "AUTO_REBAL"}
    assert span.events[0].attributes["job_tag"] == "AUTO_REBAL"
    assert service.one("process log").events[0].attributes["job_tag"] == "AUTO_REBAL"
    lines = json_lines(capfd)
    assert [line["job_tag"] for line in lines] == ["AUTO_REBAL"] * 2
    assert lines[1]["job_tag_"] == "mine"


def test_a_formatted_message_is_two_fields_after_set_up(capfd: Any) -> None:
    """The tag stands once in front of a console line, and is no part of ``event`` in JSON."""

    @tag_background_logger("PNL_CALC")
    def job() -> None:
        log.info(format_background_log("PNL_CALC", "done 50%"))
        log.info("done")

    for environment in ("production", "development"):
        configure_logging(environment=environment)
        job()
        log.info(format_background_log(JobTag.PRICE_CACHE, "by hand"))
    out = capfd.readouterr().out.splitlines()
    found = [(json.loads(line)["event"], json.loads(line)["job_tag"]) for line in out[:3]]
    assert found == [("done 50%", "PNL_CALC"), ("done", "PNL_CALC"), ("by hand", "PRICE_CACHE")]
    for line, shown in zip(
        out[3:], ("[PNL_CALC] done 50% ", "[PNL_CALC] done ", "[PRICE_CACHE] by hand "), strict=True
    ):
        assert shown in line
        assert line.count("[") == 1


def test_add_job_tag_adds_the_tag_inside_a_job_only() -> None:
    """Outside a job nothing is added."""
    assert add_job_tag(None, "info", {"event": "x"}) == {"event": "x"}
    tagged = tag_background_logger("T")(lambda: add_job_tag(None, "info", {"event": "x"}))
    assert tagged() == {"event": "x", "job_tag": "T"}
    mine = tag_background_logger("T")(lambda: add_job_tag(None, "info", {"job_tag": "mine"}))
    assert mine() == {"job_tag": "T", "job_tag_": "mine"}
    member = JobTag.AUTO_REBAL
    same = tag_background_logger(member)(lambda: add_job_tag(None, "info", {"job_tag": member}))
    assert same() == {"job_tag": "AUTO_REBAL"}


def test_the_processor_takes_any_event_and_field() -> None:
    """A field that has no truth, or whose own code raises, is kept beside the tag."""

    class Array:  # as numpy's
        def __ne__(self, other: object) -> Any:
            return self

        __bool__ = Hostile._no

    for odd in (Array(), Hostile(), [Hostile()], 5):
        tagged = tag_background_logger("T")(
            lambda odd=odd: add_job_tag(None, "info", {"event": odd, "job_tag": odd})
        )
        fields = tagged()
        assert fields["job_tag"] == "T"
        assert fields["event"] is fields["job_tag_"] is odd


# ---------------------------------------------------------------- TaggedLogger, with no set-up


@pytest.fixture
def plain() -> tuple[logging.Logger, io.StringIO]:
    """A standard library logger with a handler of its own, and what that wrote."""
    stream = io.StringIO()
    logger = logging.Logger("shop.jobs", logging.DEBUG)
    handler = logging.StreamHandler(stream)
    form = "%(levelname)s %(filename)s %(funcName)s %(message)s at %(lineno)d, %(order)s"
    handler.setFormatter(logging.Formatter(form, defaults={"order": "no order"}))
    logger.addHandler(handler)
    return logger, stream


def everything(logger: Any) -> None:
    """Log through every method of a logger."""
    logger.debug("a %s", 1)
    logger.info("b")
    logger.warning("100%")
    logger.error("c %(x)s", {"x": 2})
    logger.critical("d")
    logger.log(35, "e")
    logger.log(5, "never")
    try:
        raise KeyError("k")
    except KeyError:
        logger.exception("f")
        logger.info("g", exc_info=True)
    logger.info("h", stack_info=True, extra={"order": 7}, stacklevel=1)
    logger.info({"not": "text"})
    logger.fatal("i %s", 1, exc_info=ValueError("given"))


def test_without_a_tag_the_output_is_the_plain_loggers(plain: Any) -> None:
    """Byte for byte, file and function the caller's."""
    logger, stream = plain
    for given in (logger, TaggedLogger(logger)):
        everything(given)
    output = stream.getvalue()
    expected = output[: len(output) // 2]
    assert output == expected * 2
    assert "test_jobs.py everything h at" in expected
    assert ", 7\nStack (most recent call last):" in expected


def test_inside_a_job_every_message_has_the_tag_before_it(plain: Any) -> None:
    """Also with %-arguments and a "%" in the tag; the caller stays the caller."""
    logger, stream = plain
    wrapped = TaggedLogger(TaggedLogger(logger))
    tag_background_logger("50%")(everything)(wrapped)
    lines = [line for line in stream.getvalue().splitlines() if "test_jobs.py everything" in line]
    assert [line.split(" everything ")[1].partition(" at ")[0] for line in lines] == [
        "[50%] a 1",
        "[50%] b",
        "[50%] 100%",
        "[50%] c 2",
        "[50%] d",
        "[50%] e",
        "[50%] f",
        "[50%] g",
        "[50%] h",
        "[50%] {'not': 'text'}",
        "[50%] i 1",
    ]


def test_stacklevel_counts_from_the_caller(plain: Any) -> None:
    """A helper that asks for its caller gets it, as with the plain logger."""
    logger, stream = plain

    def helper() -> None:
        TaggedLogger(logger).info("x", stacklevel=2)

    helper()
    assert "test_stacklevel_counts_from_the_caller x" in stream.getvalue()
    for given in (logger, TaggedLogger(logger)):
        given.info("0", stacklevel=0)
    lines = stream.getvalue().splitlines()
    assert lines[-1] == lines[-2]


def test_the_rest_of_the_logger_is_the_loggers(plain: Any) -> None:
    """Handlers, level, name, filters, propagate, children: read and set."""
    logger, _ = plain
    wrapped = TaggedLogger(logger)
    assert (wrapped.handlers, wrapped.name) == (logger.handlers, "shop.jobs")
    assert wrapped.isEnabledFor(logging.DEBUG)
    wrapped.propagate = False
    wrapped.setLevel("ERROR")
    assert (logger.propagate, logger.level, wrapped.getEffectiveLevel()) == (False, 40, 40)
    assert not wrapped.isEnabledFor(logging.INFO)
    with pytest.raises(AttributeError):
        _ = wrapped.nonsense


def test_a_tag_is_never_there_twice(plain: Any) -> None:
    """Put there by the function for single calls, or by hand, it is not put there again."""
    logger, stream = plain

    @tag_background_logger("50%")
    def job() -> None:
        wrapped = TaggedLogger(logger)
        wrapped.info(format_background_log("50%", "one"))
        wrapped.info(format_background_log("OTHER", "two"))
        wrapped.info("[50%] three")
        wrapped.info("[50%%] %s", "four")
        wrapped.info(format_background_log("OTHER", "%s"), "five")

    job()
    lines = [line.split(" job ")[1].partition(" at ")[0] for line in stream.getvalue().splitlines()]
    assert lines == [
        *("[50%] one", "[OTHER] two", "[50%] three", "[50%] four", "[OTHER] five"),
    ]


def test_a_message_that_cannot_be_text_is_the_handler_s_to_find_out(
    plain: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As without a tag: the log call never raises, and logging says what is wrong."""

    class Wordless:
        def __str__(self) -> str:
            raise ValueError("no words")

    logger, stream = plain
    tag_background_logger("T")(TaggedLogger(logger).info)(Wordless())
    assert stream.getvalue() == ""
    assert "ValueError: no words" in capsys.readouterr().err


def test_a_child_is_wrapped_too() -> None:
    """As the line that is logged through it has to be tagged."""
    child = TaggedLogger(logging.getLogger("shop")).getChild("jobs")
    assert isinstance(child, TaggedLogger)
    assert child.logger is logging.getLogger("shop.jobs")
    assert child.getChild("x").logger is logging.getLogger("shop.jobs.x")


def test_a_copy_is_around_the_same_logger() -> None:
    """Copied, pickled, or on its way to another process."""
    wrapped = TaggedLogger(logging.getLogger("shop.copied"))
    for copied in (copy.copy(wrapped), copy.deepcopy(wrapped), pickle.loads(pickle.dumps(wrapped))):
        assert isinstance(copied, TaggedLogger)
        assert copied.logger is wrapped.logger
        assert type(copied) is type(wrapped)


def test_a_tagged_logger_is_a_logger() -> None:
    """``isinstance``, the tests of other people, an adapter around it; the two share all."""
    logger = logging.getLogger("shop.real")
    wrapped = TaggedLogger(logger)
    assert isinstance(wrapped, logging.Logger)
    assert vars(wrapped) is vars(logger)
    assert repr(wrapped) == "<TaggedLogger shop.real (WARNING)>"
    with unittest.TestCase().assertLogs(wrapped, "INFO") as caught:
        tag_background_logger("T")(wrapped.info)("x %s", 1)
        logger.info("plain")
        tag_background_logger("T")(logging.LoggerAdapter(wrapped, {}).info)("adapted")
    assert [record.getMessage() for record in caught.records] == ["[T] x 1", "plain", "[T] adapted"]


@pytest.mark.parametrize("other", [logging.LoggerAdapter(logging.root, {}), log, None, "shop"])
def test_what_is_no_logger_is_refused(other: Any) -> None:
    """With a word on what it may be."""
    with pytest.raises(ConfigurationError, match=r"a logging\.Logger; adapters go around it"):
        TaggedLogger(other)


class Own(logging.Logger):
    """A logger as applications have them."""

    def info(self, msg: object, *args: Any, user: str = "", **kwargs: Any) -> None:
        super().info(f"{msg} of {user}", *args, **kwargs)

    def success(self, msg: str, *args: Any) -> None:
        self._log(25, msg, args)

    def _log(self, level: int, msg: object, args: Any, exc_info: Any = None) -> None:  # type: ignore[override]
        super()._log(level, msg, args, exc_info=exc_info)


def test_a_logger_class_of_one_s_own_stays_what_it_is(plain: Any) -> None:
    """Its methods, with whatever signatures, are there, and what they log is tagged."""
    logger, stream = plain
    own = Own("shop.own")
    own.handlers = logger.handlers
    own.handlers[0].setFormatter(None)
    wrapped = TaggedLogger(own)
    assert isinstance(wrapped, Own)

    @tag_background_logger("50%")
    def job() -> None:
        wrapped.info("by %s", "name", user="u")
        wrapped.success("done")

    for given in (own, wrapped):
        given.info("a", user="u")
        given.success("b")
    job()
    assert stream.getvalue().splitlines() == ["a of u", "b"] * 2 + [
        "[50%] by name of u",
        "[50%] done",
    ]


def test_what_a_plain_logger_refuses_it_refuses_in_the_same_words(
    plain: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a job as well; with ``raiseExceptions`` off, nothing, and no line."""
    logger, stream = plain
    wrapped = TaggedLogger(logger)
    calls: list[Callable[[Any], Any]] = [
        lambda given: given.info(),
        lambda given: given.info("x", nonsense=1),
        lambda given: given.log("INFO", "x"),
        lambda given: given.info("x", extra={"message": "taken"}),
    ]
    said = []
    for given in (logger, wrapped):
        for call in calls:
            with pytest.raises((TypeError, KeyError)) as caught:
                tag_background_logger("T")(call)(given)
            said.append(str(caught.value))
    assert said[:4] == said[4:]
    monkeypatch.setattr(logging, "raiseExceptions", False)
    tag_background_logger("T")(wrapped.log)("INFO", "x")
    assert stream.getvalue() == ""


def test_a_record_that_somebody_else_made_is_left_alone(plain: Any) -> None:
    """One forwarded to it is as its maker left it, tagged once or not at all."""
    logger, stream = plain
    wrapped = TaggedLogger(logger)
    wrapped.handlers[0].setFormatter(None)

    @tag_background_logger("T")
    def job() -> None:
        foreign = logging.makeLogRecord({"msg": "foreign %s", "args": (1,), "levelno": 20})
        wrapped.handle(foreign)
        assert foreign.msg == "foreign %s"
        mine = wrapped.makeRecord("shop", 20, "f.py", 1, "mine %s", (2,), None)
        wrapped.handle(mine)
        TaggedLogger(logger).handle(mine)

    job()
    assert stream.getvalue().splitlines() == ["foreign 1", "[T] mine 2", "[T] mine 2"]


@pytest.mark.parametrize("tag", ["SYNC ghp_16C7e42F292c6912E7710c838347Ae178B4a", "SYNC plain"])
def test_a_tag_has_no_secret_wherever_it_stands(
    tag: str, capfd: Any, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    """Inside a span and outside, with each kind of logger, remembered or not."""
    monkeypatch.setattr(sys, "stdout", sys.__stdout__)  # the usual line's way, from set-up on
    monkeypatch.setattr(logging.root, "handlers", [])  # pytest's
    service: Service = request.getfixturevalue("service")

    @tag_background_logger(tag)
    def job() -> None:
        for _ in range(2):
            logging.getLogger("shop.tagged").warning("a")
            log.info(f"[{tag}] a")

    job()
    with traced("sync"):
        job()
    shown = tag.replace("ghp_16C7e42F292c6912E7710c838347Ae178B4a", "[redacted:github]")
    lines = [line for line in json_lines(capfd) if line["event"] == "a"]
    assert [line["job_tag"] for line in lines] == [shown] * 8
    events = service.one("sync").events
    assert [event.attributes["job_tag"] for event in events] == [shown] * 4


# ---------------------------------------------------------------- TaggedLogger, after set-up


@pytest.mark.parametrize("tag", [None, "50%"])
def test_after_set_up_its_lines_are_the_plain_loggers(
    tag: str | None, capfd: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a job both have the field, no prefix, and the same caller, fields and tracebacks."""
    monkeypatch.setenv("OTEL_LOGGING_CALLER", "true")
    configure_logging(environment="production", log_level="debug")
    logger = logging.getLogger("shop.after")
    job = tag_background_logger(tag)(everything) if tag else everything
    for given in (logger, TaggedLogger(logger)):
        job(given)
    lines = json_lines(capfd)
    for line in lines:
        del line["timestamp"]
        assert line["code.function.name"] == "everything"
        assert line.get("job_tag") == tag
    half = len(lines) // 2
    assert lines[:half] == lines[half:]
    events = [line["event"] for line in lines[:half]]
    assert events == [
        *("a 1", "b", "100%", "c 2", "d", "e", "f", "g", "h"),
        "{'not': 'text'}",
        "i 1",
    ]
    assert lines[8]["order"] == 7
    assert "in everything" in lines[8]["stack"]


@pytest.mark.parametrize("environment", ["production", "development"])
def test_the_tag_is_there_once_whoever_put_it_there(environment: str, capfd: Any) -> None:
    """Decorator, wrapper, function for single calls, or hand, in any combination."""
    logger = logging.getLogger("shop.once")
    message = format_background_log("PNL_CALC", "done 50%")

    @tag_background_logger("PNL_CALC")
    def job() -> None:
        for each in (log, logger, TaggedLogger(logger)):
            each.info("done 50%")
            each.info("done %s%%", 50)
            each.info(message)
            each.info(str(message))
            each.info(format_background_log("PNL_CALC", "done %s%%"), 50)
        warnings.warn("done 50%", stacklevel=1)

    with warnings.catch_warnings():
        warnings.simplefilter("always")
        configure_logging(environment=environment)
        job()
    lines = capfd.readouterr().out.splitlines()
    assert len(lines) == 16
    for line in lines:
        if environment == "production":
            found = json.loads(line)
            assert (found["event"], found["job_tag"]) == ("done 50%", "PNL_CALC")
        else:
            assert " [PNL_CALC] done 50% " in line
            assert line.count("PNL_CALC") == 1


# ---------------------------------------------------------------- a Flask application

FLASK = """
import logging, sys
from flask import Flask, current_app
from flask.logging import default_handler
from otel_logging import TaggedLogger, configure_logging, tag_background_logger

app = Flask("shop")
if "set-up" in sys.argv:
    configure_logging()
app.logger.setLevel(logging.INFO)
default_handler.setFormatter(logging.Formatter("%(levelname)s %(funcName)s: %(message)s"))

@app.get("/fail")
def fail():
    current_app.logger.warning("about to %s", "fail")
    raise ValueError("planted")

@app.get("/work")
def work():
    job_in_context()
    current_app.logger.info("after the %s", "job")
    return {}

@tag_background_logger("PNL_CALC")
def job_in_context():
    current_app.logger.info("pnl: %+.2f", 7)

@tag_background_logger("PRICE_CACHE")
def job_with_app(app, *, depth=1):
    app.logger.info("price cache: %s symbols", depth)
    with app.app_context():
        job_in_context()

client = app.test_client()
assert client.get("/fail").status_code == 500
if "wrapped" in sys.argv:
    app.logger = TaggedLogger(app.logger)
job_with_app(app, depth=6)
assert client.get("/work").status_code == 200
assert client.get("/fail").status_code == 500
"""


def test_flask_s_own_logger_can_be_wrapped() -> None:
    """Its jobs' lines get the tag, with and without ``current_app``; a request's are as before."""
    printed = script(FLASK, "wrapped").stderr.decode()
    failure, *jobs = printed.partition("INFO job_with_app")
    assert "ERROR log_exception: Exception on /fail [GET]\nTraceback" in failure
    assert printed.endswith(failure)
    assert "".join(jobs).removesuffix(failure).splitlines() == [
        "INFO job_with_app: [PRICE_CACHE] price cache: 6 symbols",
        "INFO job_in_context: [PNL_CALC] pnl: +7.00",
        "INFO job_in_context: [PNL_CALC] pnl: +7.00",
        "INFO work: after the job",
    ]


@pytest.mark.parametrize("arguments", [("set-up",), ("set-up", "wrapped")])
def test_after_set_up_flask_s_lines_are_tagged_wrapped_or_not(arguments: tuple[str, ...]) -> None:
    """Each once, in the same form."""
    done = script(FLASK, *arguments, ENVIRONMENT="production")
    assert done.stderr == b""
    found = [(line["event"], line.get("job_tag")) for line in parsed(done.stdout)]
    failure = [("about to fail", None), ("Exception on /fail [GET]", None)]
    assert found == [
        *failure,
        ("price cache: 6 symbols", "PRICE_CACHE"),
        ("pnl: +7.00", "PNL_CALC"),
        ("pnl: +7.00", "PNL_CALC"),
        ("after the job", None),
        *failure,
    ]
