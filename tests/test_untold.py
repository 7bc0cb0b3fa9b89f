"""An exception that leaves an entry stage has one line: somebody's, else ours when it goes."""

import asyncio
import gc
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from threading import Thread

import pytest
from celery.exceptions import Retry
from starlette.exceptions import HTTPException

from otel_logging import bind_context, configure_logging, get_logger, setup_observability, traced
from otel_logging.testing import capture
from tests.conftest import Lines, Service
from tests.lines import parsed
from tests.programs import child_environment, good, python

OURS = "an exception left its entry stage"
log = get_logger("shop")


def checkout(error: BaseException | None = None) -> None:
    with traced("checkout"):
        bind_context(user_id="grace")
        with traced("pay"):
            raise error or ValueError("boom")


class RudeError(Exception):
    """It has attribute methods of its own, which raise."""

    def __getattr__(self, name: str) -> object:
        raise RuntimeError(name)

    def __setattr__(self, name: str, value: object) -> None:
        raise RuntimeError(name)


class FrozenError(Exception):
    """It takes no attributes."""

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(name)


def test_an_exception_that_nobody_logs_is_a_line(service: Service, lines: Lines) -> None:
    """On behalf of whom it failed for, in its trace, once; its span has it once as before."""
    with suppress(ValueError):
        checkout()
    (line,) = lines()
    stage = service.one("checkout")
    assert (line["level"], line["event"], line["stage"]) == ("error", OURS, "checkout")
    assert (line["trace_id"], line["span_id"]) == (stage.trace_id, stage.span_id)
    assert line["user_id"] == "grace"
    assert line["exception"].endswith("ValueError: boom")
    assert {span.name for span in service.spans()} == {"checkout", "pay"}
    assert [event.name for event in service.one("pay").events] == ["exception"]
    assert stage.events == ()


@pytest.mark.parametrize("make", [Retry, lambda: HTTPException(404), KeyError])
def test_an_exception_that_is_no_failure_has_no_line(
    service: Service, lines: Lines, make: Callable[[], Exception]
) -> None:
    """An answer, a retry, and what the stage expects."""
    with suppress(Retry, HTTPException, KeyError), traced("checkout", expected=KeyError):
        raise make()
    gc.collect()
    assert lines() == []
    assert service.one("checkout").status == "unset"


def _handled() -> None:
    try:
        checkout()
    except ValueError:
        log.exception("theirs")


def _inside() -> None:
    with traced("checkout"):
        try:
            checkout()
        except ValueError:
            log.warning("theirs", exc_info=True)
            raise


def _in_words() -> None:
    try:
        checkout()
    except ValueError as error:
        logging.getLogger("shop").error("theirs", extra={"why": str(error)})


def _in_words_inside() -> None:
    with traced("checkout"):
        try:
            raise ValueError("boom")
        except ValueError:
            log.warning("theirs")
            raise


def _wrapped() -> None:
    try:
        try:
            checkout()
        except ValueError as error:
            raise KeyError("k") from error
    except KeyError:
        log.exception("theirs")


def _in_the_midst_of_it() -> None:
    try:
        try:
            checkout()
        finally:
            raise KeyError("k")
    except KeyError:
        log.exception("theirs")


def _in_passing() -> None:
    try:
        checkout()
    finally:
        log.info("theirs")


def _of_a_group() -> None:
    found = []
    for _ in range(2):
        try:
            checkout()
        except ValueError as error:
            found.append(error)
    group = Exception("two")
    group.exceptions = found  # type: ignore[attr-defined]  # as an ExceptionGroup, from 3.11 on
    log.error("theirs", exc_info=group)


def _of_a_task() -> None:
    async def main() -> None:
        async def work() -> None:
            checkout()

        task = asyncio.create_task(work())
        await asyncio.wait([task])

    asyncio.run(main())
    gc.collect()


@pytest.mark.parametrize(
    ("fail", "events"),
    [
        (_handled, ["theirs"]),
        (_inside, ["theirs"]),
        (_in_words, ["theirs"]),
        (_in_words_inside, ["theirs"]),
        (_in_passing, ["theirs", OURS]),
        (_wrapped, ["theirs"]),
        (_in_the_midst_of_it, ["theirs"]),
        (_of_a_group, ["theirs"]),
    ],
)
def test_an_exception_that_somebody_logs_is_no_second_line(
    service: Service, lines: Lines, fail: Callable[[], None], events: list[str]
) -> None:
    """In the stage or after it, of it alone or with others: that line is the one."""
    with suppress(ValueError):
        fail()
    gc.collect()
    assert [line["event"] for line in lines()] == events


def _late() -> None:
    with traced("checkout", budget=0.000001):
        raise ValueError("boom")


def _late_inside() -> None:
    with traced("checkout"), traced("pay", budget=0.000001):
        raise ValueError("boom")


def _late_by_hand() -> None:
    stage = traced("checkout", budget=0.000001).begin()
    try:
        raise ValueError("boom")
    except ValueError as error:
        stage.end(error)


def _late_in_a_thread() -> None:
    def work() -> None:
        with suppress(ValueError):
            _late()

    thread = Thread(target=work)
    thread.start()
    thread.join()


def _late_in_an_executor() -> None:
    with ThreadPoolExecutor() as pool:
        pool.submit(_late)


@pytest.mark.parametrize(
    "fail", [_late, _late_inside, _late_by_hand, _late_in_a_thread, _late_in_an_executor]
)
def test_the_line_about_a_late_stage_has_no_exception(
    service: Service, lines: Lines, fail: Callable[[], None]
) -> None:
    """Our own warning is made while the exception passes; a line of the application tells."""
    with suppress(ValueError):
        fail()
    gc.collect()
    late, failed = lines()
    assert (late["logger"], late["level"]) == ("otel_logging", "warning")
    assert "(budget 1 µs)" in late["event"]
    assert (failed["event"], failed["stage"]) == (OURS, "checkout")
    assert failed["exception"].endswith("ValueError: boom")


def test_an_exception_that_asyncio_logs_is_no_second_line(service: Service, lines: Lines) -> None:
    """Nobody awaited the task."""
    _of_a_task()
    (line,) = lines()
    assert line["event"].startswith("Task exception was never retrieved")


def test_one_that_is_raised_from_another_is_one_line(service: Service, lines: Lines) -> None:
    """Both leave an entry stage: the traceback of the last has the first."""

    def outer() -> None:
        with traced("retry"):
            try:
                checkout()
            except ValueError as error:
                raise KeyError("k") from error

    def apart() -> None:
        try:
            checkout()
        except ValueError as error:
            with traced("report"):
                raise KeyError("k") from error

    for fail, stage in ((outer, "retry"), (apart, "report")):
        with suppress(KeyError):
            fail()
        (line,) = lines()
        assert line["stage"] == stage
        assert "ValueError: boom" in line["exception"]


def test_one_that_leaves_two_entry_stages_is_one_line(service: Service, lines: Lines) -> None:
    """The first one's."""
    error = ValueError("boom")
    for _ in range(2):
        with suppress(ValueError):
            checkout(error)
    assert lines() == []
    del error
    gc.collect()
    assert [line["stage"] for line in lines()] == ["checkout"]


@pytest.mark.parametrize("error", [KeyboardInterrupt(), asyncio.CancelledError(), GeneratorExit()])
def test_what_is_no_failure_is_no_line(
    service: Service, lines: Lines, error: BaseException
) -> None:
    """An end that somebody wanted."""
    with suppress(BaseException):
        checkout(error)
    del error
    gc.collect()
    assert lines() == []


def test_what_is_handled_in_the_request_is_no_line(service: Service, lines: Lines) -> None:
    """It left a stage, and not the outermost one."""
    with traced("request"), suppress(ValueError):
        checkout()
    gc.collect()
    assert lines() == []


def test_any_exception_is_a_line_and_ends_its_stage(service: Service, lines: Lines) -> None:
    """Also one that takes no attribute; one whose own methods raise has none of ours."""
    with suppress(FrozenError):
        checkout(FrozenError("cold"))
    gc.collect()
    (line,) = lines()
    assert line["exception"].endswith("FrozenError: cold")
    with suppress(RudeError):
        checkout(RudeError("rude"))
    assert len([span for span in service.spans() if span.name == "checkout"]) == 2


@pytest.mark.parametrize("options", [{"takeover": False}, {"log_level": "critical"}])
def test_where_it_is_not_asked_for(lines: Lines, options: dict[str, object]) -> None:
    """Other loggers' lines are left to the application; or only worse ones are wanted."""
    endpoint = "http://127.0.0.1:9"
    observability = setup_observability(
        "shop",
        environment="production",
        endpoint=endpoint,
        **options,  # type: ignore[arg-type]
    )
    with suppress(ValueError):
        checkout()
    observability.shutdown()
    assert lines() == []


def test_an_exception_from_before_another_set_up_is_no_line(service: Service, lines: Lines) -> None:
    """An exception that is kept for so long has no line among the new ones."""
    error = ValueError("boom")
    with suppress(ValueError):
        checkout(error)
    service.observability.shutdown()
    configure_logging(environment="production")
    del error
    gc.collect()
    assert lines() == []


def test_in_a_test_there_is_none() -> None:
    """The tree has the exception already; a line would come whenever the test lets it go."""
    with capture() as captured, suppress(ValueError):
        checkout()
    gc.collect()
    assert captured.lines == []


def test_in_a_forked_child_it_is_the_parents() -> None:
    """Both have the object; and pickled it goes without."""
    script = """
import copy, gc, os, pickle
from contextlib import suppress
from otel_logging import setup_observability, traced
setup_observability("shop", environment="production", endpoint="http://127.0.0.1:9")
error = ValueError("boom")
with suppress(ValueError), traced("checkout"):
    raise error
copy.copy(error), pickle.loads(pickle.dumps(error))
gc.collect()
child = os.fork()
del error
if not child:
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
"""
    done = good(python("-c", script, env=child_environment()))
    assert done.stdout.count(OURS) == 1


def test_to_the_process_own_stdout() -> None:
    """The usual line is made in another way there, and tells of an exception as well."""
    script = """
from contextlib import suppress
from otel_logging import get_logger, setup_observability, traced
setup_observability("shop", environment="production", endpoint="http://127.0.0.1:9")
with suppress(ValueError), traced("checkout"):
    try:
        raise ValueError("boom")
    except ValueError:
        get_logger("shop").warning("theirs")
        raise
with suppress(ValueError), traced("checkout"):
    get_logger("shop").warning("before")
    raise ValueError("boom")
"""
    done = good(python("-c", script, env=child_environment()))
    assert [line["event"] for line in parsed(done.stdout)] == ["theirs", "before", OURS]
