"""Job tags: on whose lines they are, and on whose not."""

import asyncio
import copy
import functools
import io
import json
import logging
import pickle
import warnings
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from otel_logging import (
    BackgroundJobTag,
    ConfigurationError,
    TaggedLogger,
    bind_context,
    carry,
    configure_logging,
    current_job_tag,
    detached,
    format_background_log,
    get_logger,
    tag_background_logger,
    traced,
)
from otel_logging.processors import add_job_tag
from tests.conftest import Service
from tests.lines import parsed, script

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
    with pytest.raises(ConfigurationError, match="job tag="):
        format_background_log(tag, "x")


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


def test_the_processor_alone() -> None:
    """Outside a job nothing is added."""
    assert add_job_tag(None, "info", {"event": "x"}) == {"event": "x"}
    tagged = tag_background_logger("T")(lambda: add_job_tag(None, "info", {"event": "x"}))
    assert tagged() == {"event": "x", "job_tag": "T"}
    mine = tag_background_logger("T")(lambda: add_job_tag(None, "info", {"job_tag": "mine"}))
    assert mine() == {"job_tag": "T", "job_tag_": "mine"}


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

    job()
    lines = [line.split(" job ")[1].partition(" at ")[0] for line in stream.getvalue().splitlines()]
    assert lines == ["[50%] one", "[OTHER] two", "[50%] three", "[50%] four"]


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
    assert type(child) is TaggedLogger
    assert child.logger is logging.getLogger("shop.jobs")


def test_a_copy_is_around_the_same_logger() -> None:
    """Copied, pickled, or on its way to another process."""
    wrapped = TaggedLogger(logging.getLogger("shop.copied"))
    for copied in (copy.copy(wrapped), copy.deepcopy(wrapped), pickle.loads(pickle.dumps(wrapped))):
        assert type(copied) is TaggedLogger
        assert copied.logger is wrapped.logger


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
