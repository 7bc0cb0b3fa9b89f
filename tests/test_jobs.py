"""Job tags: on whose lines they are, and on whose not."""

import asyncio
import contextlib
import io
import json
import logging
import threading
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

    async def main() -> None:
        assert await tag(Jobs())() == "T"
        async for seen in stream():
            assert (seen, current_job_tag()) == ("T", None)
        task = asyncio.create_task(tag(asyncio.Event().wait)())
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert current_job_tag() is None

    jobs = Jobs()
    assert [jobs.method(), jobs.of_class(), jobs.static()] == ["T"] * 3
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
    handler.setFormatter(logging.Formatter("%(levelname)s %(filename)s %(funcName)s %(message)s"))
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
    logger.info("h", stack_info=False, extra={"order": 7}, stacklevel=1)
    logger.info({"not": "text"})


def test_without_a_tag_the_output_is_the_plain_loggers(plain: Any) -> None:
    """Byte for byte, file and function the caller's."""
    logger, stream = plain
    everything(logger)
    expected = stream.getvalue()
    stream.seek(0)
    stream.truncate()
    everything(TaggedLogger(logger))
    assert stream.getvalue() == expected
    assert "test_jobs.py everything" in expected


def test_inside_a_job_every_message_has_the_tag_before_it(plain: Any) -> None:
    """Also with %-arguments and a "%" in the tag; the caller stays the caller."""
    logger, stream = plain
    wrapped = TaggedLogger(TaggedLogger(logger))
    tag_background_logger("50%")(everything)(wrapped)
    lines = [line for line in stream.getvalue().splitlines() if "test_jobs.py everything" in line]
    assert [line.split(" everything ")[1] for line in lines] == [
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
