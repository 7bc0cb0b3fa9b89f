"""loguru's records are lines, whichever sinks the application has, and go both ways once."""

import copy
import inspect
import logging
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog
from loguru import logger

from otel_logging import bind_context, get_logger, traced
from otel_logging.integrations import loguru as integration
from otel_logging.testing import capture
from tests.lines import parsed
from tests.programs import script


@pytest.fixture(autouse=True)
def _instrumented() -> Iterator[None]:
    integration.instrument()
    integration.instrument()  # a second time changes nothing
    yield
    integration.uninstrument()
    integration.uninstrument()
    logger.remove()


class Propagate(logging.Handler):
    """loguru's documentation has it: to the standard library's loggers."""

    def emit(self, record: logging.LogRecord) -> None:
        logging.getLogger(record.name).handle(record)


class Intercept(logging.Handler):
    """loguru's documentation has it: from the standard library's loggers."""

    def emit(self, record: logging.LogRecord) -> None:
        logger.opt(exception=record.exc_info).log(record.levelno, record.getMessage())


@pytest.fixture
def root_handlers() -> Iterator[list[logging.Handler]]:
    before, level = logging.root.handlers[:], logging.root.level
    yield logging.root.handlers
    logging.root.handlers[:] = before
    logging.root.setLevel(level)


SINKS = """
import sys
from otel_logging import configure_logging, get_logger
from otel_logging.integrations import loguru as integration
from loguru import logger

def theirs():
    logger.remove()
    logger.add(sys.stderr, level="DEBUG")
    logger.add(sys.stdout, serialize=True)
    logger.add(sys.stdout.write)
    logger.add("app.log", format="{level} {message}", level="TRACE")

if sys.argv[1] == "before":
    theirs()
configure_logging()
integration.instrument()
if sys.argv[1] == "after":
    theirs()
if sys.argv[1] == "configured":
    app_log = {"sink": "app.log", "format": "{level} {message}"}
    logger.configure(handlers=[{"sink": sys.stderr}, app_log])
logger.info("saved {}", 7)
logger.debug("too low for a line")
integration.uninstrument()
logger.info("its own again")
"""


@pytest.mark.parametrize("when", ["before", "after", "configured"])
def test_console_sinks_are_silent_and_files_go_on(
    when: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whenever the application removes and adds sinks; afterwards all is as before."""
    monkeypatch.chdir(tmp_path)
    done = script(SINKS, when, ENVIRONMENT="production", LOG_LEVEL="info")
    line, *rest = done.stdout.decode().splitlines(keepends=True)
    assert [each["event"] for each in parsed(line)] == ["saved 7"]
    assert all("its own again" in each for each in rest)
    assert "its own again" in done.stderr.decode()
    assert "saved" not in done.stderr.decode() + "".join(rest)
    written = (tmp_path / "app.log").read_text().splitlines()
    assert written == ["INFO saved 7", "DEBUG too low for a line", "INFO its own again"]


@pytest.mark.parametrize("setup", ["setup_observability('shop').shutdown()", "configure_logging()"])
def test_lines_go_on_after_shutdown(setup: str) -> None:
    """As those of every logger, though no sink of the application is left."""
    code = f"from loguru import logger\nfrom otel_logging import *\nlogger.remove()\n{setup}\n"
    done = script(code + "logger.info('ended')", ENVIRONMENT="production")
    assert [line["event"] for line in parsed(done.stdout)] == ["ended"]
    assert done.stderr == b""


def test_a_record_is_a_line_with_its_fields() -> None:
    """Bound, of a context, and of the call; those with a name that a line has are kept aside."""
    with capture(log_level=0) as seen, traced("request"):
        bind_context(user_id="alice")
        with logger.contextualize(room=3):
            logger.bind(exc_info=1, event="e", level="l").success("saved {n}\n", n=2)
        logger.trace("seen")
        logger.log(33, "odd")
    first, second, third = seen.lines
    kept = ("room", "exc_info_", "event_", "level_", "n", "user_id")
    assert {key: first[key] for key in kept} == {
        "room": 3,
        "exc_info_": 1,
        "event_": "e",
        "level_": "l",
        "n": 2,
        "user_id": "alice",
    }
    assert (first["event"], first["level"], first["logger"]) == ("saved 2", "success", __name__)
    assert "extra" not in first
    assert (second["level"], third["level"]) == ("trace", "level 33")
    assert [each["name"] for each in seen.span("request")["events"]] == ["saved 2", "seen", "odd"]


def test_no_field_has_an_address() -> None:
    """As of a record of ``logging``."""
    with capture() as seen:
        logger.bind(bound=[object()]).info("opened", socket=object(), other=ValueError("x"))
    (line,) = seen.lines
    fields = line["bound"], line["socket"], line["other"]
    assert fields == (["<object object>"], "<object object>", "ValueError: x")


def test_a_sink_that_prints_is_a_console(capsys: pytest.CaptureFixture[str]) -> None:
    with capture() as seen:
        number = logger.add(print, format="printed {message}")
        logger.info("once")
        logger.remove(number)
    assert [line["event"] for line in seen.lines] == ["once"]
    assert "printed" not in capsys.readouterr().out


def test_an_exception_is_on_its_line_once() -> None:
    with capture() as seen:
        try:
            1 / 0  # noqa: B018
        except ZeroDivisionError:
            logger.exception("failed")
    (line,) = seen.lines
    assert line["event"] == "failed"
    assert line["exception"].count("Traceback") == 1


def test_log_level_and_not_a_sinks_decides_which_lines_are_written() -> None:
    """Lower lines are not written, whatever the sinks' levels."""
    with capture(log_level="warning") as seen:
        logger.info("low")
        logger.warning("high")
    assert [line["event"] for line in seen.lines] == ["high"]


def test_a_console_sinks_level_holds_where_log_level_is_unset() -> None:
    """What the application would have shown stays shown, and nothing begins to be."""
    logger.remove()
    with capture() as seen:
        logger.debug("without a console")
        logger.info("without a console, too")
        number = logger.add(sys.stderr, level="WARNING")
        logger.info("below its level")
        logger.warning("shown")
        logger.add(
            sys.stdout, level="TRACE", filter=lambda record: "secret" not in record["message"]
        )
        logger.trace("shown by another")
        logger.trace("a secret")
        logger.remove(number)
    events = ["without a console, too", "shown", "shown by another"]
    assert [line["event"] for line in seen.lines] == events
    with capture(log_level="info") as seen:
        logger.debug("below what was asked for")
        logger.info("shown")
        logger.info("a secret")
    assert [line["event"] for line in seen.lines] == ["shown"]


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_copied_logger_has_lines_and_sinks_of_its_own(
    when: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """As loguru's documentation makes separate loggers."""
    logger.remove()
    if when == "before":
        integration.uninstrument()
    mine, another = copy.deepcopy(logger), copy.deepcopy(logger)
    got: list[str] = []
    mine.add(sys.stderr, format="theirs {message}", level="ERROR")
    another.add(lambda text: got.append(text.record["message"]))
    integration.instrument()
    with capture() as seen:
        mine.info("low")
        mine.error("mine")
        another.info("another's")
        mine.remove()
        logger.remove()
        mine.info("mine again")
        logger.info("the first one's")
    expected = ["mine", "another's", "mine again", "the first one's"]
    assert [line["event"] for line in seen.lines] == expected
    assert got == ["another's"]
    integration.uninstrument()
    mine.add(sys.stderr, format="theirs {message}")
    mine.info("left alone")
    assert capsys.readouterr().err == "theirs left alone\n"


@pytest.mark.parametrize("sink", [Propagate, lambda: lambda text: logging.info(text.rstrip())])
@pytest.mark.parametrize("form", ["{message}", "{time} {level} {message}"])
def test_records_that_go_to_logging_are_one_line(
    sink: Any, form: str, root_handlers: list[logging.Handler]
) -> None:
    """They go to its handlers all the same; what such a handler itself logs is a line."""
    got: list[str] = []

    class Tracker(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            got.append(record.getMessage().splitlines()[0])
            if len(got) == 1:
                get_logger("tracker").info("sent")

    root_handlers[:] = [Tracker()]
    logger.add(sink(), format=form)
    with capture() as seen:
        logging.root.setLevel(logging.INFO)
        logger.info("saved")
        try:
            1 / 0  # noqa: B018
        except ZeroDivisionError:
            logger.exception("failed")
    assert sorted(line["event"] for line in seen.lines) == ["failed", "saved", "sent"]
    assert [each.split()[-1] for each in got] == ["saved", "sent", "failed"]


def test_records_that_come_from_logging_are_one_line(
    root_handlers: list[logging.Handler],
) -> None:
    """Of the standard library's loggers and of ours; what loguru says beside it is another."""
    root_handlers[:] = [Intercept()]
    with capture() as seen:
        logging.root.setLevel(logging.INFO)
        logging.getLogger("shop").info("by %s", "logging")
        get_logger("shop").info("by get_logger", n=1)
        logger.info("by loguru")
        try:
            1 / 0  # noqa: B018
        except ZeroDivisionError:
            logging.getLogger("shop").exception("failed")
    events = [line["event"] for line in seen.lines]
    assert events == ["by logging", "by get_logger", "by loguru", "failed"]


def _newest(frame: Any) -> int:
    """Count the callers as loguru's README has it."""
    depth = 0
    while frame:
        name = frame.f_code.co_filename
        is_frozen = "importlib" in name and "_bootstrap" in name
        if depth > 0 and not (name == logging.__file__ or is_frozen):
            break
        frame, depth = frame.f_back, depth + 1
    return depth


def _new(frame: Any) -> int:
    depth = 0
    while frame and (depth == 0 or frame.f_code.co_filename == logging.__file__):
        frame, depth = frame.f_back, depth + 1
    return depth


def _six(frame: Any) -> int:
    frame, depth = sys._getframe(7), 6  # from one frame further in
    while frame and frame.f_code.co_filename == logging.__file__:
        frame, depth = frame.f_back, depth + 1
    return depth


def _two(frame: Any) -> int:
    depth = 2  # of ``logging.currentframe()``, which is the handler's own from Python 3.11 on
    while frame.f_code.co_filename == logging.__file__:  # before
        frame, depth = frame.f_back, depth + 1
    return depth


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("depth_of", [_newest, _new, _six, _two])
def test_who_logged_is_named_past_frames_of_ours(
    depth_of: Any, when: str, root_handlers: list[logging.Handler]
) -> None:
    """By the handlers of loguru's README, of every version; of our loggers and structlog's too."""
    integration.uninstrument()

    class Counting(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            depth = depth_of(inspect.currentframe())
            options = logger.opt(depth=depth, exception=record.exc_info)
            options.log(record.levelname, record.getMessage())

    found: list[tuple[str, str]] = []

    def place() -> None:
        logger.add(lambda text: found.append((text.record["name"], text.record["function"])))
        root_handlers[:] = [Counting()]

    def work() -> None:
        logging.getLogger("shop").info("by %s", "logging")
        logging.LoggerAdapter(logging.getLogger("shop"), {"n": 1}).info("by an adapter")
        logging.warning("by the root logger", extra={"n": object()})
        get_logger("shop").info("by get_logger", n=1)
        structlog.get_logger("shop").warning("by structlog")
        logger.info("by loguru")
        try:
            1 / 0  # noqa: B018
        except ZeroDivisionError:
            logging.getLogger("shop").exception("failed")
            get_logger("shop").exception("failed")

    if when == "before":
        place()
    with capture() as seen:
        logging.root.setLevel(logging.INFO)
        integration.instrument()
        if when == "after":
            place()
        work()
    assert found == [(__name__, "work")] * 8
    assert len(seen.lines) == 8


@pytest.mark.parametrize("level", ["debug", "error"])
def test_what_goes_to_logging_obeys_no_level_of_loggers(
    level: str, root_handlers: list[logging.Handler]
) -> None:
    """``Logger.handle`` asks for none."""
    got: list[str] = []

    class Kept(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            got.append(record.getMessage())

    root_handlers[:] = [Kept()]
    logger.add(Propagate(), format="{message}", level=0)
    with capture(log_level=level) as seen:
        logging.root.setLevel(logging.WARNING)
        logger.debug("low")
        logger.error("high")
    assert got == ["low", "high"]
    assert [line["event"] for line in seen.lines] == ["low", "high"][level == "error" :]


def test_filters_of_console_sinks_hold(capsys: pytest.CaptureFixture[str]) -> None:
    """A line is made unless all of them refuse it; one that raises is reported."""
    logger.add(sys.stderr, filter=lambda record: "secret" not in record["message"])
    with capture() as seen:
        logger.info("a secret")
        logger.info("else")
        number = logger.add(sys.stderr)
        logger.info("another secret")
        logger.remove(number)
        logger.add(sys.stderr, filter=lambda record: bool(1 / 0))
        logger.info("third secret")
    assert [line["event"] for line in seen.lines] == ["else", "another secret", "third secret"]
    assert "filter" in capsys.readouterr().err


def test_it_is_left_alone_where_other_loggers_are(capsys: pytest.CaptureFixture[str]) -> None:
    """As ``takeover=False`` has it."""
    logger.add(sys.stderr, format="theirs {message}")
    logger.info("one")
    assert "theirs one" in capsys.readouterr().err
