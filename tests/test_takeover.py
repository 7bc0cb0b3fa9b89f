"""Everybody else's lines: whatever the application did to ``logging``, each record is one line."""

import asyncio
import contextlib
import copy
import importlib
import io
import json
import logging
import logging.config
import logging.handlers
import multiprocessing
import pickle
import queue
import sys
import threading
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import loguru
import pytest
import sqlalchemy
import structlog

from otel_logging import (
    TaggedLogger,
    _diagnostics,
    bind_context,
    bound_context,
    clear_context,
    configure_logging,
    format_background_log,
    get_logger,
    setup_observability,
    tag_background_logger,
    traced,
)
from otel_logging._values import shorten
from tests.conftest import Lines, Service, leave_alone
from tests.lines import ROOT, parsed
from tests.programs import python, script
from tests.readme import blocks


@pytest.fixture(autouse=True)
def _taken_over(_clean_slate: None) -> Iterator[None]:
    handlers, level = logging.root.handlers[:], logging.root.level
    logging.root.setLevel(logging.INFO)  # the application's own
    configure_logging(environment="production")
    clear_context()
    yield
    clear_context()
    leave_alone()
    logging.root.handlers[:] = handlers
    logging.root.setLevel(level)
    for name in [name for name in logging.root.manager.loggerDict if name.startswith("shop")]:
        left = logging.getLogger(name)  # another module of tests may keep it
        left.handlers, left.filters, left.propagate, left.disabled = [], [], True, False
        left.setLevel(logging.NOTSET)
        del logging.root.manager.loggerDict[name]


def logger(name: str = "shop") -> logging.Logger:
    return logging.getLogger(name)


# ---------------------------------------------------------------- what is in a line


def test_a_record_is_a_line_of_ours(lines: Lines) -> None:
    """Message with its arguments, level, logger, fields, and what is bound."""
    with bound_context(user_id="u1"):
        logger("shop.orders").warning("%s of %d", "one", 2, extra={"order": "o1"})
    (line,) = lines()
    assert line.pop("timestamp").endswith("Z")
    assert line == {
        "level": "warning",
        "event": "one of 2",
        "logger": "shop.orders",
        "user_id": "u1",
        "order": "o1",
    }


def test_fields_with_reserved_names_are_kept(lines: Lines) -> None:
    """With a trailing underscore, as on a structlog line."""
    given = {"event": 1, "level": 2, "logger": 3, "timestamp": 4, "job_tag": 5, "span_id": 6}
    logger().info("message", extra=given)
    (line,) = lines()
    assert {key: line[f"{key}_"] for key in given} == given
    assert (line["event"], line["level"]) == ("message", "info")


@pytest.mark.parametrize(
    ("message", "arguments", "event"),
    [
        ("plain", (), "plain"),
        ("100%", (), "100%"),
        ("%s%%", (5,), "5%"),
        ("%(a)s", ({"a": 1},), "1"),
        ("%s", ({},), "{}"),
        ("%s", ((1, 2),), "(1, 2)"),
        (ValueError("no price"), (), "no price"),
        ({"a": 1}, (), "{'a': 1}"),
        (7, (), "7"),
        (None, (), "None"),
        ("\x1b[31mred\x1b[0m", (), "red"),
        ("Exception in ASGI application\n", (), "Exception in ASGI application"),
    ],
)
def test_messages_are_what_logging_makes_of_them(
    message: Any, arguments: tuple[Any, ...], event: str, lines: Lines
) -> None:
    """A ``%`` format, an object's text; without a library's colours and the newline at its end."""
    logger().info(message, *arguments)
    assert [line["event"] for line in lines()] == [event]


class Broken:
    def __str__(self) -> str:
        raise RuntimeError("broken")

    __repr__ = __str__


@pytest.mark.parametrize(
    ("message", "arguments"), [("%d", ("x",)), ("%s %s", (1,)), ("none", (1,)), ("%s", (Broken(),))]
)
def test_arguments_that_do_not_fit_the_message_are_a_line_with_the_error(
    message: str, arguments: tuple[Any, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    """Where Python prints a traceback on stderr and loses the line."""
    logging.root.handlers.clear()  # pytest's own raises at such a record
    logger().info(message, *arguments)
    (line,) = parsed(capsys.readouterr().out)
    assert line["event"] == message
    assert "Error" in line["format_error"]
    assert len(line["format_args"]) == len(arguments)


def test_a_message_without_a_text_is_a_line(lines: Lines) -> None:
    """Its ``__str__`` raises."""
    logging.root.handlers.clear()  # pytest's own ask it too
    logger().info(Broken())
    assert [line["event"] for line in lines()] == ["<unprintable Broken>"]


def test_exceptions_and_stacks_are_fields_however_they_are_logged(lines: Lines) -> None:
    """In every way in which ``logging`` takes them."""
    try:
        raise ValueError("no price")
    except ValueError as error:
        logger().exception("handled")
        logger().error("given", exc_info=error)
        logger().error("tuple", exc_info=sys.exc_info())
    logger().error("nothing", exc_info=True)
    logger().info("stack", stack_info=True)
    handled, given, as_tuple, nothing, stack = lines()
    for line in (handled, given, as_tuple):
        assert line["exception"].endswith("ValueError: no price")
        assert line["level"] == "error"
    assert "exception" not in nothing
    assert "test_exceptions_and_stacks_are" in stack["stack"]


def test_an_added_level_has_its_name_and_any_other_its_number(lines: Lines) -> None:
    """A number between two levels, and a name that was added."""
    logging.addLevelName(25, "NOTICE")
    try:
        logger().log(25, "named")
        logger().log(26, "numbered")
    finally:
        logging._levelToName.pop(25), logging._nameToLevel.pop("NOTICE")
    assert [line["level"] for line in lines()] == ["notice", "level 26"]


def test_the_caller_is_named_on_request(lines: Lines, monkeypatch: pytest.MonkeyPatch) -> None:
    """The caller's own file and line, whichever of the three ways it logs."""
    monkeypatch.setenv("OTEL_LOGGING_CALLER", "true")
    configure_logging(environment="production")
    logger().info("plain")
    TaggedLogger(logger()).info("tagged")
    get_logger("shop").info("structlog")
    first = sys._getframe().f_lineno - 3
    found = lines()
    assert [line["code.file.path"] for line in found] == [__file__] * 3
    assert [line["code.line.number"] for line in found] == [first, first + 1, first + 2]
    name = "test_the_caller_is_named_on_request"
    assert [line["code.function.name"] for line in found] == [name] * 3
    monkeypatch.undo()
    configure_logging(environment="production")
    get_logger("shop").info("not asked for")
    assert "code.file.path" not in lines()[0]


def test_copies_of_what_a_line_has_are_left_out(lines: Lines) -> None:
    """Those of OpenTelemetry's logging instrumentation, and what libraries say a second time."""
    logger().warning("m", extra={"otelTraceID": "0", "otelSpanID": "0", "a": 1})
    repeated = {
        "uvicorn.error": {"color_message": "m"},
        "celery.app.trace": {"data": {"id": "x", "args": "('secret',)", "traceback": "Trace"}},
        "django.server": {"server_time": "27/Nov/2026"},
        "websockets.server": {"websocket": object()},
    }
    for name, extra in repeated.items():
        logger(name).warning("m", extra={**extra, "a": 1})
        logger().warning("m", extra=extra)  # an application's own
    first, *others = lines()
    for line in (first, *others[::2]):
        assert set(line) == {"timestamp", "level", "event", "logger", "a"}
    for line, extra in zip(others[1::2], repeated.values(), strict=True):
        assert extra.keys() <= line.keys()


@pytest.mark.parametrize("way", ["socket", "queue"])
@pytest.mark.parametrize("message", ["no price", "", "two\nlines: here"])
def test_a_record_that_came_from_another_process(way: str, message: str, lines: Lines) -> None:
    """With the traceback's text, as handlers send it, which says what was raised."""
    error = _raised(message)
    given = (type(error), error, error.__traceback__)
    record = logger().makeRecord("shop.child", 40, "f", 1, "failed %s", ("x",), given)
    if way == "queue":
        record = logging.handlers.QueueHandler(queue.Queue()).prepare(record)
        record = pickle.loads(pickle.dumps(record))
    else:
        sent = logging.handlers.SocketHandler("127.0.0.1", 9).makePickle(record)
        record = logging.makeLogRecord(pickle.loads(sent[4:]))
    logger("shop.child").handle(record)
    (line,) = lines()
    assert line["event"] == "failed x"
    assert line["exception"] == "".join(traceback.format_exception(error)).rstrip()
    assert (line["exception.type"], line["exception.message"]) == ("ValueError", message)


def _raised(message: str = "no price") -> BaseException:
    try:
        raise ValueError(message) if message else ValueError
    except ValueError as error:
        return error


TEXT = "".join(traceback.format_exception(_raised())).rstrip()
OTHER = TEXT.replace("ValueError", "KeyError")


@pytest.mark.parametrize(
    ("message", "error", "text", "event", "ending"),
    [
        (f"failed\n{TEXT}", _raised(), None, "failed", "ValueError: no price"),
        (f"failed\n{TEXT}\n", _raised(), "\n", "failed", "ValueError: no price"),
        (f"failed\n{TEXT} (more)", _raised(), "\n", "failed", "ValueError: no price"),
        (TEXT, _raised(), None, "ValueError: no price", "ValueError: no price"),
        ("failed\nKeyError: 'x'", KeyError("x"), None, "failed", "KeyError: 'x'"),
        (f"failed\n{TEXT}", None, TEXT, "failed", "ValueError: no price"),
        (f"seen: {TEXT} twice", _raised(), None, "seen: twice", "ValueError: no price"),
        (f"seen: {OTHER} too", _raised(), None, f"seen: {OTHER} too", "ValueError: no price"),
        ("failed", None, " \n", "failed", None),
        ("failed", (None, None, None), None, "failed", None),
    ],
)
def test_a_traceback_is_not_there_twice(
    message: str, error: Any, text: str | None, event: str, ending: str | None, lines: Lines
) -> None:
    """Whoever put it into the message; what is no traceback of this exception stays."""
    given = (type(error), error, error.__traceback__) if isinstance(error, Exception) else error
    record = logger().makeRecord("shop", 40, "f", 1, message, (), given)
    record.exc_text = text
    logger().handle(record)
    (line,) = lines()
    assert line["event"] == event
    assert str(line.get("exception")).endswith(str(ending))


@pytest.mark.parametrize(
    ("message", "event"),
    [
        ("failed: {}", "failed:"),
        ("failed {} (again)", "failed (again)"),
        ("failed\n{}", "failed"),
        ("{}", "no price"),
    ],
)
@pytest.mark.parametrize("way", ["logging", "get_logger", "structlog", "loguru"])
def test_a_traceback_given_to_the_message_is_not_there_twice(
    way: str, message: str, event: str, lines: Lines
) -> None:
    """As an argument or by whoever makes the text; the exception has it, with its causes."""
    try:
        try:
            raise KeyError("x")
        except KeyError as error:
            raise ValueError("two lines\nno price") from error
    except ValueError:
        text = traceback.format_exc()
        if way == "logging":
            logger().exception(message.replace("{}", "%s"), text)
        elif way == "loguru":
            loguru.logger.exception(message, text)
        else:
            log = structlog.get_logger("shop") if way == "structlog" else get_logger("shop")
            log.exception(message.format(text))
    (line,) = lines()
    assert line["event"] == event
    assert line["exception"] == text.rstrip()


def test_a_level_name_that_a_record_brings_along(lines: Lines) -> None:
    """Beyond the five, without its colours; loguru's fields are fields."""
    for number, name in ((22, "\x1b[32mAudit\x1b[0m"), (20, "ODD"), (27, ""), (28, object)):
        record = logger().makeRecord("shop", number, "f", 1, "m", (), None)
        record.levelname, record.extra = name, {"room": 3}  # type: ignore[assignment, attr-defined]
        logger().handle(record)
    found = lines()
    assert [line["level"] for line in found[:3]] == ["audit", "info", "level 27"]
    assert {line["room"] for line in found} == {3}


def test_a_traceback_that_structlog_has_made_is_the_exception(lines: Lines) -> None:
    """By ``format_exc_info`` before ``wrap_for_formatter``."""
    record = logger().makeRecord("shop", 40, "f", 1, {"event": "m", "exception": TEXT}, (), None)
    record.__dict__.update(_logger=logger(), _name="error")
    logger().handle(record)
    (line,) = lines()
    assert line["exception"] == TEXT
    assert "exception_" not in line


@pytest.mark.parametrize("order", ["before", "after"])
def test_a_structlog_of_the_applications_own(order: str, lines: Lines) -> None:
    """Through the standard library to a formatter: its fields are the line's."""

    def theirs() -> Any:
        structlog.configure(
            processors=[
                structlog.stdlib.add_log_level,
                structlog.processors.TimeStamper(),
                structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
            ],
            logger_factory=structlog.stdlib.LoggerFactory(),
            wrapper_class=structlog.stdlib.BoundLogger,
            cache_logger_on_first_use=True,
        )
        made = structlog.get_logger("shop")
        return made.bind()

    structlog.reset_defaults()
    log = theirs() if order == "before" else None
    configure_logging(environment="production")
    log = log or theirs()
    try:
        log.warning("order placed", items=3)
        log.warning(n=1)
    finally:
        configure_logging(environment="production")
    first, second = lines()
    first.pop("timestamp")
    assert first == {"level": "warning", "event": "order placed", "logger": "shop", "items": 3}
    assert (second["event"], second["n"]) == ("", 1)


def test_fields_of_a_record_factory_are_kept(lines: Lines) -> None:
    """One that was there before us, and one that is taken away again."""
    usual = logging.getLogRecordFactory()

    def factory(*args: Any, **options: Any) -> logging.LogRecord:
        record = usual(*args, **options)
        record.request = "r1"
        return record

    logging.setLogRecordFactory(factory)
    try:
        logger().info("a", extra={"b": 1})
    finally:
        logging.setLogRecordFactory(usual)
    logger().info("a", extra={404: "not found"})
    first, second = lines()
    assert (first["request"], first["b"]) == ("r1", 1)
    assert second["404"] == "not found"


def test_fields_of_a_record_factory_that_is_there_before_the_import_are_kept() -> None:
    code = """
import logging
usual = logging.getLogRecordFactory()
def factory(*args, **options):
    record = usual(*args, **options)
    record.request = "r1"
    return record
logging.setLogRecordFactory(factory)
from otel_logging import configure_logging
configure_logging(environment="production")
logging.getLogger("shop").info("a")
"""
    (line,) = parsed(python("-c", code, text=False, anew=True).stdout)
    assert (line["event"], line["request"]) == ("a", "r1")


@pytest.mark.parametrize("name", ["makeRecord", "handle", "filter", "callHandlers", "_log"])
@pytest.mark.parametrize("made_by", ["hand", "wrapt"])
def test_who_has_replaced_a_loggers_method_before_set_up_sees_each_record(
    name: str, made_by: str, tmp_path: Path
) -> None:
    """An error tracker's; a proxy of wrapt's says of itself what is true of Python's."""
    code = """
import logging, sys, wrapt
name, made_by, spool_dir = sys.argv[1:]
original = getattr(logging.Logger, name)
def by_hand(self, *args, **options):
    sys.stderr.write("seen\\n")
    return original(self, *args, **options)
def by_wrapt(wrapped, _, args, options):
    sys.stderr.write("seen\\n")
    return wrapped(*args, **options)
if made_by == "wrapt":
    wrapt.wrap_function_wrapper(logging.Logger, name, by_wrapt)
else:
    setattr(logging.Logger, name, by_hand)
from otel_logging import setup_observability, traced
setup_observability(
    "shop", environment="production", endpoint="http://127.0.0.1:9", spool_dir=spool_dir
)
with traced("stage"):
    for number in range(3):
        logging.getLogger("shop").warning("line %d", number)
"""
    done = script(code, name, made_by, tmp_path)
    assert done.stderr.decode().splitlines() == ["seen"] * 3
    assert len(parsed(done.stdout)) == 3


def test_a_last_resort_that_is_there_before_the_import_sees_each_record(tmp_path: Path) -> None:
    """Also those that become lines at once, where nobody else would see them."""
    code = """
import logging, sys
class Kept(logging.Handler):
    def emit(self, record):
        sys.stderr.write(f"{record.getMessage()}\\n")
logging.lastResort = Kept()
from otel_logging import setup_observability, traced
setup_observability(
    "shop", environment="production", endpoint="http://127.0.0.1:9", spool_dir=sys.argv[1]
)
with traced("stage"):
    for number in range(3):
        logging.getLogger("shop").warning("line %d", number)
"""
    done = python("-c", code, tmp_path, text=False, anew=True)
    assert done.stderr.decode().splitlines() == ["line 0", "line 1", "line 2"]
    assert len(parsed(done.stdout)) == 3


def test_a_key_that_is_no_text_is_on_the_console(capsys: pytest.CaptureFixture[str]) -> None:
    """As in JSON."""
    configure_logging(environment="development")
    logger().error("payment failed", extra={404: "not found"})
    assert "404='not found'" in capsys.readouterr().out


# ---------------------------------------------------------------- whoever set logging up, and when

CONSOLES = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"theirs": {"format": "THEIRS %(message)s"}},
    "handlers": {
        "out": {
            "class": "logging.StreamHandler",
            "stream": "ext://sys.stdout",
            "formatter": "theirs",
        },
        "err": {"class": "logging.StreamHandler", "formatter": "theirs"},
    },
    "root": {"handlers": ["out", "err"], "level": "INFO"},
    "loggers": {"shop.own": {"handlers": ["out"], "propagate": False, "level": "INFO"}},
}


def basic() -> None:
    logging.basicConfig(level=logging.INFO, force=True, format="THEIRS %(message)s")


def basic_stdout() -> None:
    logging.basicConfig(
        level=logging.INFO, force=True, stream=sys.stdout, format="THEIRS %(message)s"
    )


def from_dict() -> None:
    logging.config.dictConfig(CONSOLES)


def several() -> None:
    for stream in (sys.stdout, sys.stderr, None):
        logger().addHandler(logging.StreamHandler(stream))
        logging.root.addHandler(logging.StreamHandler(stream))


def no_handler_at_all() -> None:
    logging.root.handlers.clear()


def with_rich() -> None:
    from rich.logging import RichHandler

    logging.root.addHandler(RichHandler())


SETUPS = [basic, basic_stdout, from_dict, several, no_handler_at_all, with_rich]


@pytest.mark.parametrize("theirs", SETUPS)
@pytest.mark.parametrize("order", ["before", "after"])
def test_each_record_is_one_line(theirs: Callable[[], None], order: str, lines: Lines) -> None:
    """Whatever the application calls, before set-up or after it: none doubled, none missing."""
    if order == "before":
        leave_alone()
        theirs()
        configure_logging(environment="production")
    else:
        theirs()
    logger().info("a")
    logger("shop.own").warning("b")
    logging.warning("c")
    found = [(line["logger"], line["event"]) for line in lines()]
    assert found == [("shop", "a"), ("shop.own", "b"), ("root", "c")]


def test_a_logger_that_does_not_propagate_has_lines(lines: Lines) -> None:
    """With a handler of its own, or with none."""
    for name in ("shop.closed", "shop.muted"):
        logger(name).propagate = False
    logger("shop.closed").addHandler(logging.StreamHandler())
    logger("shop.closed").info("a")
    logger("shop.muted").info("b")
    assert [line["event"] for line in lines()] == ["a", "b"]


def test_other_handlers_go_on(lines: Lines, tmp_path: Path) -> None:
    """A file, a stream of one's own, one that is added later: in their own form."""
    stream = io.StringIO()
    logger().addHandler(file := logging.FileHandler(tmp_path / "shop.log"))
    logger().addHandler(logging.StreamHandler(stream))
    logger().warning("a %s", 1)
    assert [line["event"] for line in lines()] == ["a 1"]
    file.close()
    assert (tmp_path / "shop.log").read_text() == stream.getvalue() == "a 1\n"


def test_a_handler_may_change_where_it_writes(lines: Lines) -> None:
    """From the console to a stream of one's own, and back."""
    handler = logging.StreamHandler()
    logger().addHandler(handler)
    logger().info("console")
    handler.setStream(stream := io.StringIO())
    logger().info("stream")
    handler.setStream(sys.stderr)
    logger().info("console again")
    assert stream.getvalue() == "stream\n"
    assert len(lines()) == 3


def test_filters_of_a_handler_whose_place_a_line_takes_hold(lines: Lines) -> None:
    """They refuse records, add fields, hide secrets."""

    def health(record: logging.LogRecord) -> bool:
        record.msg = str(record.msg).replace("hunter2", "***")
        record.request = "r1"
        return "/health" not in record.getMessage()

    handler = logging.StreamHandler()
    handler.addFilter(health)
    logger().addHandler(handler)
    logger().info("GET /health")
    logger().info("password hunter2")
    (line,) = lines()
    assert (line["event"], line["request"]) == ("password ***", "r1")
    logging.root.addHandler(logging.StreamHandler())  # which takes them all
    logger().info("GET /health")
    assert [line["event"] for line in lines()] == ["GET /health"]


def test_filters_of_a_console_hold_for_our_lines_too(service: Service, lines: Lines) -> None:
    """In the output and on the span, asked once for each line; what a filter logs is a line."""
    logging.root.handlers.clear()  # pytest's own take everything
    asked: list[str] = []

    def mask(record: logging.LogRecord) -> bool:
        asked.append(record.getMessage())
        get_logger("shop.filter").debug("asked")
        record.msg = str(record.msg).replace("zanzibar", "***")
        record.city = "***"
        record.request = "r1"
        return "/health" not in record.getMessage()

    handler = logging.StreamHandler()
    handler.addFilter(mask)
    logger().addHandler(handler)
    log = get_logger("shop")
    with traced("request"):
        log.info("to zanzibar", city="zanzibar", order={"n": 1})
        log.info("%d items", "zanzibar")
        log.info("GET /health")
        structlog.stdlib.get_logger("shop").info("plain")
        get_logger("other").info("to zanzibar")
        logger().addHandler(kept := Kept(logging.WARNING))
        log.info("GET /health")
        log.warning("GET /health")
    assert asked[:4] == ["to zanzibar", "%d items", "GET /health", "plain"]
    assert asked[4:] == ["GET /health"] * 2
    assert kept.messages == ["GET /health"]
    found = lines()
    assert [line["event"] for line in found] == ["to ***", "%d items", "plain", "to zanzibar"]
    assert (found[0]["city"], found[0]["request"], found[0]["order"]) == ("***", "r1", {"n": 1})
    assert "zanzibar" not in str(found[:3])
    events = [event.name for event in service.one("request").events]
    assert events == ["to ***", "%d items", "plain", "to zanzibar", "GET /health"]


def test_a_filter_that_raises_or_logs_loses_no_line_of_ours(
    lines: Lines, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is counted; by a filter that logs by our logger no line is made for ever."""
    handler = logging.StreamHandler()
    logger().addHandler(handler)
    handler.addFilter(by_ours := lambda _: get_logger("shop").info("inside") is None)
    get_logger("shop").info("a")
    logger().info("b")
    assert [line["event"] for line in lines()] == ["inside", "a", "inside", "b"]
    handler.removeFilter(by_ours)
    handler.addFilter(lambda record: setattr(record, "args", (1,)) is None)  # fits no message
    get_logger("shop").info("c")
    assert '"event":"c"' in capsys.readouterr().out
    assert _diagnostics.counts == {"errors of a logging handler's filter": 1}


def test_a_mock_is_a_handler_too(lines: Lines) -> None:
    """It says that it has whatever it is asked for: a stream, a listener, a target."""
    logger, mock = logging.getLogger("shop"), Mock(level=logging.DEBUG)
    logger.addHandler(mock)
    try:
        logger.warning("theirs")
        get_logger("shop").warning("ours")
    finally:
        logger.removeHandler(mock)
    assert [line["event"] for line in lines()] == ["theirs", "ours"]
    assert [call.args[0].getMessage() for call in mock.handle.call_args_list] == ["theirs", "ours"]


def test_a_filter_that_raises_loses_no_line(lines: Lines) -> None:
    """It is counted, and the line is there."""
    handler = logging.StreamHandler()
    handler.addFilter(lambda _: 1 / 0 > 1)
    logger().addHandler(handler)
    logger().info("a")
    assert _diagnostics.counts == {"errors of a logging handler's filter": 1}


def test_a_handler_that_raises_is_contained(capsys: pytest.CaptureFixture[str]) -> None:
    """Counted and said: never an exception from a log call, nor a line less."""

    class Raising(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            raise RuntimeError("no disk")

    logger().addHandler(Raising())
    logger().info("a")
    captured = capsys.readouterr()
    assert [line["event"] for line in parsed(captured.out)] == ["a"]
    assert captured.err == "otel_logging: 1 errors of a logging handler (no disk)\n"


def test_records_through_a_queue_are_lines_once(lines: Lines) -> None:
    """One that a listener writes to the console: once, also from a process without us."""
    records: queue.Queue[logging.LogRecord] = queue.Queue()
    logger().addHandler(logging.handlers.QueueHandler(records))
    listener = logging.handlers.QueueListener(records, logging.StreamHandler())
    listener.start()
    logger().info("ours")
    foreign = logging.makeLogRecord({"name": "shop.child", "msg": "theirs", "levelno": 20})
    records.put(foreign)
    listener.stop()
    assert [line["event"] for line in lines()] == ["ours", "theirs"]


@pytest.mark.parametrize("way", ["dictConfig's queue", "buffer", "the logger's too"])
def test_filters_of_a_console_behind_another_handler(lines: Lines, way: str) -> None:
    """The line is made before that has the record; where Python does not say who listens to a
    queue, its handler's filters hold once the logger has it as well.
    """
    records: queue.Queue[logging.LogRecord] = queue.Queue()
    console = logging.StreamHandler()
    console.addFilter(lambda record: "health" not in record.getMessage())
    listener = logging.handlers.QueueListener(records, console)
    first: Any = logging.handlers.QueueHandler(records)
    if way == "buffer":
        first = logging.handlers.MemoryHandler(10, target=console)
    elif way == "dictConfig's queue":
        first.listener = listener  # as it does from Python 3.12 on
    else:
        logger().addHandler(console)
    logger().addHandler(first)
    for log in (logger(), get_logger("shop")):
        log.info("health")
        log.info("order")
    listener.start()
    first.flush()
    listener.stop()
    assert [line["event"] for line in lines()] == ["order", "order"]


def test_memory_handlers_flush_into_no_second_line(lines: Lines) -> None:
    """Their target is not among a logger's handlers."""
    memory = logging.handlers.MemoryHandler(10, target=logging.StreamHandler())
    logger().addHandler(memory)
    logger().info("a")
    memory.flush()
    assert len(lines()) == 1


def test_the_original_streams_are_the_console_too(lines: Lines) -> None:
    """Also while ``sys.stdout`` is another."""
    logger().addHandler(logging.StreamHandler(sys.__stdout__))
    logger().addHandler(logging.StreamHandler(sys.__stderr__))
    with contextlib.redirect_stdout(io.StringIO()) as elsewhere:
        logger().info("a")
    assert len(parsed(elsewhere.getvalue())) == 1
    assert lines() == []


def test_nothing_is_seen_on_the_record(lines: Lines) -> None:
    """Not by a handler that takes all that is there, nor by whom it is sent to."""
    records: list[logging.LogRecord] = []

    class Keeping(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            records.append(record)

    logger().addHandler(Keeping())
    logger().info("a")
    plain = vars(logging.makeLogRecord({})).keys() | {"message"}  # pytest's formatter's
    (record,) = records
    assert vars(record).keys() <= plain
    assert record.name == "shop"
    sent = logging.makeLogRecord(pickle.loads(pickle.dumps(record.__dict__)))
    logger("shop").handle(sent)  # of a log server: its line
    logger("shop").handle(copy.deepcopy(record))
    there, here = multiprocessing.Pipe()
    there.send(record)  # a worker's, which has made its line: none of who collects its records
    logger("shop").handle(here.recv())
    assert len(lines()) == 2
    assert len(records) == 4


def test_caplog_goes_on_working(caplog: pytest.LogCaptureFixture, lines: Lines) -> None:
    """At its own level, which may be lower than ours."""
    configure_logging(environment="production", log_level="info")
    with caplog.at_level(logging.DEBUG):
        logger().debug("below")
        logger().info("above %s", 1)
    assert caplog.messages == ["below", "above 1"]
    assert [line["event"] for line in lines()] == ["above 1"]


def test_without_takeover_other_loggers_are_left_alone(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Handlers, levels, warnings and hooks are as they were."""
    leave_alone()
    hooks = (sys.excepthook, threading.excepthook, sys.unraisablehook, warnings.showwarning)
    basic_stdout()
    with setup_observability("shop", environment="production", takeover=False):
        logger().info("a")
        get_logger("shop").info("b")
        now = (sys.excepthook, threading.excepthook, sys.unraisablehook, warnings.showwarning)
        assert now == hooks
    theirs, ours = capsys.readouterr().out.splitlines()
    assert theirs == "THEIRS a"
    assert json.loads(ours)["event"] == "b"


def test_a_later_set_up_gives_loggers_back(capsys: pytest.CaptureFixture[str]) -> None:
    """Levels too; and takes them again."""
    configure_logging(environment="production", log_level="debug", log_levels="shop.db=error")
    assert logging.root.getEffectiveLevel() == logging.DEBUG
    assert logging.root.level == logging.INFO  # the application's own
    setup_observability("shop", environment="production", takeover=False).shutdown()
    assert logging.root.getEffectiveLevel() == logging.INFO
    assert logger("shop.db").getEffectiveLevel() == logging.INFO
    basic()
    logger().info("a")
    assert capsys.readouterr() == ("", "THEIRS a\n")
    configure_logging(environment="production")
    logger().info("a")
    assert len(parsed(capsys.readouterr().out)) == 1


def test_takeover_is_true_or_false() -> None:
    """Else an error at set-up."""
    with pytest.raises(ValueError, match="takeover='yes'"):
        setup_observability("shop", takeover="yes")  # type: ignore[arg-type]


# ---------------------------------------------------------------- levels


def test_levels_are_the_same_for_every_way_to_log(lines: Lines) -> None:
    """LOG_LEVEL, and LOG_LEVELS by name; of another logger, its own may be stricter, not looser."""
    levels = {"shop": "warning", "shop.db": "debug"}
    configure_logging(environment="production", log_level="info", log_levels=levels)
    logger("shop.db").setLevel(logging.INFO)  # as uvicorn does, whenever it is configured
    logging.config.dictConfig({**CONSOLES, "root": {"handlers": ["out"], "level": "ERROR"}})
    for name in ("other", "shop", "shop.db"):
        for log in (logger(name), get_logger(name)):
            log.debug("debug")
            log.info("info")
            log.warning("warning")
    found = Counter((line["logger"], line["level"]) for line in lines())
    assert found == {
        ("other", "info"): 2,
        ("other", "warning"): 2,
        ("shop", "warning"): 2,
        ("shop.db", "debug"): 2,
        ("shop.db", "info"): 2,
        ("shop.db", "warning"): 2,
    }
    logger("shop.db.pool").setLevel(logging.ERROR)
    logger("shop").setLevel(logging.DEBUG)
    logger("shop.db.pool").warning("stricter")
    logger("shop").info("looser")
    assert lines() == []


@pytest.mark.parametrize("order", ["before", "after"])
def test_other_handlers_have_the_levels_that_the_application_gave(order: str, lines: Lines) -> None:
    """Higher or lower than ours, before set-up or after it; a filter of a console is not theirs."""
    leave_alone()
    for name, theirs, ours in (("shop.a", "DEBUG", "info"), ("shop.b", "ERROR", "info")):
        stream = io.StringIO()
        handler = logging.StreamHandler(stream)
        console = logging.StreamHandler()
        console.addFilter(lambda record: setattr(record, "msg", f"<{record.msg}>") or True)

        def setup(levels: dict[str, str]) -> None:
            configure_logging(environment="production", log_levels=levels)

        if order == "after":
            setup({name: ours})
        logger(name).setLevel(theirs)
        logger(name).addHandler(handler)
        logger(name).addHandler(console)
        if order == "before":
            setup({name: ours})
        for level in ("DEBUG", "INFO", "ERROR"):
            logger(name).log(getattr(logging, level), level)
        assert [line["event"] for line in lines()] == ["<INFO>", "<ERROR>"]
        wanted = ["DEBUG", "INFO", "ERROR"] if theirs == "DEBUG" else ["ERROR"]
        assert stream.getvalue().split() == wanted
        assert logger(name).getEffectiveLevel() <= logging.INFO
        assert logger(name).level == getattr(logging, theirs)


class Own(logging.Logger):
    """A logger class of the application, which does what others do and a little more."""

    def _log(self, *args: Any, **fields: Any) -> None:
        super()._log(*args, **fields)

    def handle(self, record: logging.LogRecord) -> None:
        super().handle(record)


class Giving(logging.Handler):
    """Gives records to their own loggers, as loguru's documentation and servers of sockets do."""

    def emit(self, record: logging.LogRecord) -> None:
        logging.getLogger(record.name).handle(record)


@pytest.mark.parametrize("ours", ["debug", "error"])
def test_a_record_that_a_logger_is_given_obeys_no_level(ours: str, lines: Lines) -> None:
    """As ``Logger.handle`` has it, whoever gives it; calls obey theirs, also in the midst of it."""
    configure_logging(environment="production", log_level=ours)
    logging.root.setLevel(logging.WARNING)
    stream = io.StringIO()
    logging.root.handlers[:] = [logging.StreamHandler(stream)]
    own = Own("shop.own")
    own.parent = logging.root

    def given(message: str) -> logging.LogRecord:
        values = {"name": "shop", "levelno": 10, "levelname": "DEBUG", "msg": message}
        return logging.makeLogRecord(values)

    class Asks(logging.Filter):
        def filter(self, record: logging.LogRecord) -> bool:
            logger("shop.inner").handle(given("in a filter"))
            logger("shop.inner").debug("called in a filter")
            return True

    logger().handle(given("handled"))
    logger().handle(pickle.loads(pickle.dumps(given("of another process"))))
    records: queue.Queue[Any] = queue.Queue()
    listener = logging.handlers.QueueListener(records, Giving())
    listener.start()
    records.put(given("of a queue"))
    listener.stop()
    own.handle(given("of a class"))
    logger().callHandlers(given("without a logger's handle"))
    logger("shop.asks").addFilter(Asks())
    logger("shop.asks").error("filtered")
    logger("shop.giving").addHandler(Giving())
    logger("shop.giving").propagate = False
    logger("shop.giving").handle(given("by a handler"))
    for each in (logger(), own, logger("shop.asks")):
        each.debug("called")
    taken = [
        *("handled", "of another process", "of a queue", "of a class"),
        *("without a logger's handle", "in a filter", "filtered", "by a handler"),
    ]
    more = ["in a filter"] * (ours == "debug")  # of the last call, whose line asks the filter
    assert stream.getvalue().splitlines() == [*taken, *more]
    assert sum(line["event"].startswith("called") for line in lines()) == 5 * (ours == "debug")


def test_a_root_logger_without_a_level_keeps_nothing_from_handlers(lines: Lines) -> None:
    """Ours is for lines alone."""
    configure_logging(environment="production", log_level="info")
    logging.root.setLevel(logging.NOTSET)
    stream = io.StringIO()
    logger().addHandler(logging.StreamHandler(stream))
    logger().debug("a")
    assert (lines(), stream.getvalue()) == ([], "a\n")


def test_an_invalid_level_is_refused_as_python_does(lines: Lines) -> None:
    """``setLevel`` raises what it always does; what pytest puts back is the application's."""
    with pytest.raises(ValueError, match="NONE"):
        logging.root.setLevel("NONE")
    kept = logging.root.level
    logging.root.setLevel(logging.CRITICAL)
    logging.root.setLevel(kept)
    leave_alone()
    assert logging.root.level == logging.INFO


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> logging.Logger:
    """The logger of an installed library."""
    (tmp_path / "site-packages" / "shoplib").mkdir(parents=True)
    (tmp_path / "site-packages" / "shoplib" / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path / "site-packages")
    importlib.import_module("shoplib")
    return logger("shoplib.client")


def levels_shown(lines: Lines, *names: str) -> list[list[str]]:
    """Return the lowest level of which each of *names* has a line."""
    for name in names:
        for level in (10, 20, 30, 40):
            logging.getLogger(name).log(level, "e")
    found = lines()
    return [[line["level"] for line in found if line["logger"] == name][:1] for name in names]


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize(
    ("root", "expected"),
    [
        (logging.DEBUG, ["debug", "debug"]),
        (logging.INFO, ["info", "info"]),
        (logging.ERROR, ["error", "error"]),
        (logging.WARNING, ["info", "warning"]),  # Python's own
    ],
)
def test_without_log_level_the_root_loggers_counts(
    when: str, root: int, expected: list[str], library: logging.Logger, lines: Lines
) -> None:
    """And a library that was silent stays so, until it is asked for."""
    leave_alone()
    logging.root.setLevel(root if when == "before" else logging.WARNING)
    configure_logging(environment="production")
    if when == "after" and root != logging.WARNING:
        logging.root.setLevel(root)
    assert levels_shown(lines, "shop", library.name) == [[level] for level in expected]
    get_logger(library.name).info("by get_logger")
    assert len(lines()) == (root <= logging.WARNING)
    configure_logging(environment="production", log_levels={"shoplib": "debug"})
    assert levels_shown(lines, library.name) == [["debug"]]
    configure_logging(environment="production", log_level="info")
    assert levels_shown(lines, "shop", library.name) == [["info"], ["info"]]


def test_the_root_loggers_warning_counts_where_it_is_set_after_set_up(lines: Lines) -> None:
    """By ``dictConfig``, Celery, alembic; not where it is put back."""
    logging.root.setLevel(logging.WARNING)
    assert levels_shown(lines, "shop") == [["info"]]
    logging.root.setLevel("WARNING")
    assert levels_shown(lines, "shop") == [["warning"]]
    logging.root.setLevel(logging.DEBUG)
    logging.root.setLevel(logging.WARNING)
    assert levels_shown(lines, "shop") == [["info"]]


@pytest.mark.parametrize("log_level", [None, "info"])
def test_without_log_level_a_looser_level_counts_too(log_level: str | None, lines: Lines) -> None:
    """By whichever way to log, and for the names below; what is asked for by name is that."""
    configure_logging(environment="production", log_level=log_level)
    logging.root.setLevel(logging.ERROR)
    logger().setLevel(logging.DEBUG)
    expected = "info" if log_level else "debug"
    assert levels_shown(lines, "shop", "shop.db", "shopping")[:2] == [[expected], [expected]]
    get_logger("shop.db").debug("by get_logger")
    assert len(lines()) == (log_level is None)


def test_a_library_with_a_level_of_its_own_keeps_it(library: logging.Logger, lines: Lines) -> None:
    """As uvicorn's and werkzeug's have."""
    logging.root.setLevel(logging.WARNING)
    library.setLevel(logging.INFO)
    assert levels_shown(lines, library.name) == [["info"]]


@pytest.mark.parametrize("name", ["uvicorn", "werkzeug"])
def test_a_server_that_shows_its_lines_needs_no_handler(name: str, lines: Lines) -> None:
    """Nor a level: werkzeug adds both in its first request, while others log already."""
    importlib.import_module(name)
    logging.root.setLevel(logging.WARNING)
    assert levels_shown(lines, f"{name}.of_a_test") == [["info"]]


@pytest.mark.parametrize(
    ("name", "package", "expected"),
    [
        ("google_genai.models", "google/genai", "warning"),
        ("LiteLLM Router", "litellm/router", "warning"),
        ("shop", "tenacity", "info"),  # the application's, which a library was given
        ("sho", "shopping/till", "info"),  # a part of a word
        ("-", "shopping", "info"),
        ("Shop-App", "shop_app/till", "info"),  # the application's, which is installed
    ],
)
def test_a_library_whose_loggers_name_is_no_modules_is_known_by_its_files(
    name: str,
    package: str,
    expected: str,
    lines: Lines,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """From its first record on."""
    monkeypatch.setenv("OTEL_LOGGING_APPLICATION", "shop_app")
    configure_logging(environment="production")
    logging.root.setLevel(logging.WARNING)
    file = tmp_path / "site-packages" / f"{package}.py"
    code = compile("for level in (20, 20, 30):\n    logger.log(level, 'e')", file, "exec")
    exec(code, {"logger": logging.getLogger(name), "__name__": package})
    assert [line["level"] for line in lines()][:1] == [expected]


def test_sqlalchemys_echo_shows_its_statements(
    lines: Lines, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It asks for no level, so a file has them, too; an engine without it is silent."""
    handler = logging.FileHandler(tmp_path / "log")
    above = logging.getLogger("sqlalchemy")
    monkeypatch.setattr(above, "handlers", [handler])
    configure_logging(environment="production")
    logging.root.setLevel(logging.WARNING)
    with closing(handler):
        for echo in (True, False):
            engine = sqlalchemy.create_engine("sqlite://", echo=echo)
            with engine.connect() as connection:
                connection.execute(sqlalchemy.text(f"select '{echo}'"))
            engine.dispose()
    events = [line["event"] for line in lines()]
    assert ("select 'True'" in events, "select 'False'" in events) == (True, False)
    assert (tmp_path / "log").read_text("utf-8").splitlines() == events


@pytest.mark.parametrize(
    ("levels", "expected"),
    [
        ([], "warning"),  # Python's own last resort
        ([logging.WARNING], "warning"),
        ([logging.WARNING, logging.INFO], "info"),
        ([logging.ERROR, logging.WARNING], "warning"),
    ],
)
def test_a_library_that_no_handler_would_show_stays_silent(
    levels: list[int],
    expected: str,
    library: logging.Logger,
    lines: Lines,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whatever the root logger's level; a handler that does nothing shows nothing."""
    logging.root.setLevel(logging.INFO)
    added = [logging.StreamHandler(sys.stderr) for _ in levels]
    for handler, level in zip(added, levels, strict=True):
        handler.setLevel(level)
    above = logging.getLogger("shoplib")
    monkeypatch.setattr(above, "handlers", [logging.NullHandler(), *added])
    monkeypatch.setattr(above, "propagate", False)  # pytest's handlers show all
    assert levels_shown(lines, "shop", library.name) == [["info"], [expected]]
    configure_logging(environment="production", log_levels={"shoplib": "info"})
    assert levels_shown(lines, library.name) == [["info"]]


@pytest.mark.parametrize("name", ["aiohttp.access", "waitress", "websockets.server", "asyncio"])
def test_a_server_that_was_silent_stays_so(name: str, lines: Lines) -> None:
    """One whose lines are seen without us sets its level itself."""
    importlib.import_module(name.partition(".")[0])
    logging.root.setLevel(logging.WARNING)
    assert levels_shown(lines, name) == [["warning"]]


@pytest.mark.parametrize("name", ["uvicorn.error", "uvicorn.access"])
def test_uvicorns_lines_are_there_without_its_own_configuration(name: str, lines: Lines) -> None:
    """``log_config=None`` is for us to show them."""
    logging.root.setLevel(logging.WARNING)
    assert levels_shown(lines, name) == [["info"]]


def test_the_package_that_calls_set_up_is_the_applications(
    library: logging.Logger, lines: Lines
) -> None:
    """Also where it is installed as a library is, in a container say."""
    logging.root.setLevel(logging.WARNING)
    code = "from otel_logging import configure_logging\nconfigure_logging(environment='production')"
    exec(code, {"__name__": "shoplib.main", "__package__": "shoplib"})
    assert levels_shown(lines, library.name) == [["info"]]


# ---------------------------------------------------------------- job tags


@pytest.mark.parametrize("environment", ["production", "development"])
def test_a_tag_stands_once_whoever_puts_it_there(
    environment: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A decorated function, a TaggedLogger in it, and a formatted message, alone and in another."""
    configure_logging(environment=environment)
    tagged = TaggedLogger(logger())

    @tag_background_logger("AUTO_REBAL")
    def job() -> None:
        logger().info("progress %d%%", 50)
        tagged.info("progress %d%%", 50)
        tagged.info("progress 50%")
        logger().info(format_background_log("AUTO_REBAL", "progress 50%"))
        tagged.info(format_background_log("AUTO_REBAL", "progress 50%"))
        logger().info(f"{format_background_log('AUTO_REBAL', 'progress')} 50%")
        get_logger("shop").info("progress 50%")
        get_logger("shop").info(format_background_log("AUTO_REBAL", "progress 50%"))

    job()
    logger().info(format_background_log("AUTO_REBAL", "progress 50%"))
    out = capsys.readouterr().out
    if environment == "development":
        assert [line[22:].split("  ")[0] for line in out.splitlines()] == [
            "[AUTO_REBAL] progress 50%"
        ] * 9
    else:
        found = {(line["event"], line["job_tag"]) for line in parsed(out)}
        assert found == {("progress 50%", "AUTO_REBAL")}
        assert out.count("\n") == 9


def test_a_plain_line_in_a_job_is_tagged_in_its_span(service: Service) -> None:
    """``job_tag`` is on the line, the event and the span."""
    log = logger()

    @tag_background_logger("PRICE_CACHE")
    @traced("refresh")
    def job() -> None:
        log.info("refreshed %d prices", 3)

    job()
    span = service.one("refresh")
    (event,) = span.events
    assert event.name == "refreshed 3 prices"
    assert event.attributes["job_tag"] == span.attributes["job_tag"] == "PRICE_CACHE"


# ---------------------------------------------------------------- lines in spans


def test_ten_thousand_lines_of_every_origin(
    service: Service, capfd: pytest.CaptureFixture[str]
) -> None:
    """Mixed, in tasks and threads, inside spans, after them and outside any: each once."""
    structlog_line, plain = get_logger("shop"), logger()
    tagged = TaggedLogger(plain)

    def line(way: int, number: int) -> None:
        match way:
            case 0:
                structlog_line.info("n", id=number)
            case 1:
                plain.info("n", extra={"id": number})
            case 2:
                tagged.info("n", extra={"id": number})
            case 3:
                warnings.warn_explicit(f"n {number}", UserWarning, "f.py", number)
            case _:
                try:
                    raise ValueError(number)
                except ValueError:
                    plain.exception("n", extra={"id": number})

    async def task(first: int) -> None:
        for number in range(first, first + 50):
            await asyncio.sleep(0)
            if number % 3:
                with traced("stage"):
                    line(number % 5, number)
            else:
                line(number % 5, number)

    async def tasks(first: int) -> None:
        await asyncio.gather(*(task(first + 50 * n) for n in range(50)))

    def thread(first: int) -> None:
        with traced("long"):
            for number in range(first, first + 1250):
                line(number % 5, number)

    leave_alone()
    with warnings.catch_warnings(record=True):  # else pytest lists them all
        warnings.simplefilter("always")
        configure_logging(environment="production")
        threads = [threading.Thread(target=thread, args=(5000 + 1250 * n,)) for n in range(4)]
        for each in threads:
            each.start()
        asyncio.run(tasks(0))
        asyncio.run(tasks(2500))
        for each in threads:
            each.join()
    events = [event for span in service.spans() for event in span.events]
    ids = Counter(e.attributes.get("id", e.attributes.get("code.line.number")) for e in events)
    assert ids == dict.fromkeys(range(10_000), 1)
    assert len(parsed(capfd.readouterr().out)) == 10_000


# ---------------------------------------------------------------- values without a truth or a class


class NoTruthError(Exception):
    """As an array of more than one number."""

    def __bool__(self) -> bool:
        raise ValueError("the truth is ambiguous")


class NoClass:
    @property
    def __class__(self) -> type:  # type: ignore[override]
        raise ValueError("no class")


@pytest.mark.parametrize(
    ("of", "name"),
    [
        *(("get_logger", each) for each in ("stack_info", "exc_info", "message")),
        ("logging", "message"),
    ],
)
@pytest.mark.parametrize("is_heard", [True, False])
@pytest.mark.parametrize("kind", [NoTruthError, NoClass])
def test_what_has_no_truth_or_no_class_loses_no_line(
    name: str, kind: type, is_heard: bool, of: str, lines: Lines
) -> None:
    """In place of a flag, an exception or a message; a handler has its record too."""
    logging.root.handlers.clear()  # pytest's own ask it too
    if is_heard:
        logger().addHandler(kept := Kept())
    log: Any = get_logger("shop") if of == "get_logger" else logger()
    if name == "message":
        log.info(kind())
    else:
        log.info("there", **{name: kind()})
    (line,) = lines()
    assert line["event"] == "there" or name == "message"
    assert ("stack" in line) == (name == "stack_info")
    assert ("exception" in line) == (name == "exc_info" and kind is NoTruthError)
    if is_heard:
        (record,) = kept.records
        assert (record.stack_info is not None) == (name == "stack_info")


def test_a_record_without_truths_is_a_line(lines: Lines) -> None:
    """Made by hand: each of its parts may be anything."""
    logging.root.handlers.clear()  # pytest's own ask it too
    no_truth = NoTruthError("no truth")
    parts = {"exc_info": no_truth, "exc_text": no_truth, "stack_info": no_truth, "args": no_truth}
    logger().handle(logging.makeLogRecord({"name": "shop", "levelno": 20, "msg": "a"}))
    logger().handle(logging.makeLogRecord({"name": "shop", "levelno": 20, "msg": "%s", **parts}))
    assert [line["event"] for line in lines()] == ["a", "no truth"]


# ---------------------------------------------------------------- nothing recurses


def test_a_value_that_logs_while_it_is_logged(lines: Lines) -> None:
    """It has its line, and there is an end to it."""
    logging.root.handlers.clear()  # pytest's own ask it too

    class Chatty:
        def __str__(self) -> str:
            logger("shop.chatty").info("I am asked")
            return "chatty"

    logger().info("%s", Chatty())
    assert [line["event"] for line in lines()] == ["I am asked", "chatty"]


def test_a_value_that_logs_itself(capsys: pytest.CaptureFixture[str]) -> None:
    """Is counted as lost: there is no end to it."""

    class Endless:
        def __str__(self) -> str:
            logger().info("%s", self)
            return "endless"

    logger().info("%s", Endless())
    assert _diagnostics.counts["log lines lost: a line could not be made"] > 0
    capsys.readouterr()


def test_what_a_handler_logs_about_a_line_is_one_line(lines: Lines) -> None:
    """Through its own logger: contained."""

    class Logging(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.name != "shop.handler":
                logger("shop.handler").info("wrote %s", record.getMessage())

    logger().addHandler(Logging())
    logger().info("a")
    assert [line["event"] for line in lines()] == ["a", "wrote a"]


def test_a_warning_while_a_line_is_made(lines: Lines) -> None:
    """Becomes a line of its own, every time."""
    logging.root.handlers.clear()  # pytest's own make it again

    class Deprecated:
        def __str__(self) -> str:
            warnings.warn("do not ask", DeprecationWarning, stacklevel=1)
            return "deprecated"

    with warnings.catch_warnings():
        warnings.simplefilter("always")
        configure_logging(environment="production")
        logger().info("%s", Deprecated())
    assert [line["event"] for line in lines()] == ["do not ask", "deprecated"]


def test_libraries_at_debug_do_not_feed_on_delivery(tmp_path: Path) -> None:
    """Delivery of lines makes no lines that are delivered: over HTTP, gRPC and as log records."""
    code = """if True:
        import logging, sys, time, warnings
        warnings.simplefilter("always")
        import otel_logging, urllib3
        from tests.receiver import Receiver
        with Receiver() as receiver:
            with otel_logging.setup_observability(
                "shop", environment="production", log_level="debug",
                endpoint=receiver.endpoint, spool_dir=sys.argv[1],
            ) as observability:
                for _ in range(5):
                    logging.getLogger("shop").debug("line")
                    assert observability.force_flush(10)
            events = len([e for s in receiver.spans for e in s.events])
            sys.stderr.write(f"{events} {len(receiver.log_records)}")
    """
    for exporter in ("none", "otlp"):
        spool = str(tmp_path / exporter)
        done = script(code, spool, OTEL_LOGS_EXPORTER=exporter)
        events = [line["event"] for line in parsed(done.stdout)]
        assert events.count("line") == 5
        spans, records = (int(n) for n in done.stderr.split())
        assert spans + records <= len(events) < 60
        assert (records if exporter == "otlp" else spans) >= 5


# ---------------------------------------------------------------- what is said of it


def test_the_example_of_the_documentation(tmp_path: Path) -> None:
    """docs/logging.md: three lines, in one trace."""
    (example,) = blocks("python", ROOT / "docs" / "logging.md")
    done = script(example, ENVIRONMENT="production", OTEL_LOGGING_SPOOL_DIR=str(tmp_path))
    first, second, third = parsed(done.stdout)
    assert (first["event"], first["amount"]) == ("order o-17 placed", 12)
    assert "format_error" in second
    assert (third["event"], third["category"]) == ("old prices", "UserWarning")
    assert first["trace_id"] == second["trace_id"] == third["trace_id"]
    assert done.stderr == b""


# ---------------------------------------------------------------- costs nothing it should not


def test_copies_of_a_record_are_no_second_line(lines: Lines) -> None:
    """``logger.handle`` of a copy that a handler forwards to another logger's handlers."""

    class Forwarding(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            logger("shop.sink").handle(copy.copy(record))

    logger("shop.source").propagate = False
    logger("shop.source").addHandler(Forwarding())
    logger("shop.source").info("a")
    assert len(lines()) == 1


def test_a_hidden_stdout_loses_no_line(lines: Lines) -> None:
    """``redirect_stdout``: lines go where stdout goes, and so do not the handlers' ones."""
    with contextlib.redirect_stdout(io.StringIO()) as elsewhere:
        logging.root.addHandler(logging.StreamHandler(sys.stdout))
        logger().info("a")
    assert len(parsed(elsewhere.getvalue())) == 1
    assert lines() == []


def test_bound_fields_are_the_tasks_own(lines: Lines) -> None:
    """Plain lines of two tasks, interleaved."""

    async def task(user: str) -> None:
        bind_context(user_id=user)
        for _ in range(20):
            await asyncio.sleep(0)
            logger().info("%s", user)

    async def main() -> None:
        await asyncio.gather(*(task(f"u{n}") for n in range(10)))

    asyncio.run(main())
    found = lines()
    assert len(found) == 200
    assert all(line["user_id"] == line["event"] for line in found)


# ---------------------------------------------------------------- a console that refuses, others


def refusing() -> logging.Handler:
    """Return a console as Django configures it, where DEBUG is false."""
    console = logging.StreamHandler()
    console.addFilter(lambda _: False)
    return console


class Kept(logging.Handler):
    """A handler of the application's: an error tracker, mail to the admins."""

    def __init__(self, level: int = 0) -> None:
        super().__init__(level)
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)

    @property
    def messages(self) -> list[str]:
        return [record.getMessage() for record in self.records]


def test_what_another_handler_takes_is_on_the_span(service: Service, lines: Lines) -> None:
    """Though the console's filter keeps it off stdout; not what is below that one's level."""
    logger().addHandler(refusing())
    logger().addHandler(mail := Kept(logging.ERROR))
    logging.root.handlers.clear()  # pytest's own take everything
    with traced("request"):
        logger().info("refused by all")
        try:
            raise ValueError("no stock")
        except ValueError:
            logger().exception("Internal Server Error: %s", "/boom")
    assert lines() == []
    assert mail.messages == ["Internal Server Error: /boom"]
    (event,) = service.one("request").events
    assert event.name == "Internal Server Error: /boom"
    assert "no stock" in event.attributes["exception"]


class OwnHandle(Kept):
    def handle(self, record: logging.LogRecord) -> Any:
        self.emit(record)


class Filtering(Kept):
    def handle(self, record: logging.LogRecord) -> Any:
        return self.filter(record) and super().handle(record)


class Duck:
    """What ``callHandlers`` asks of a handler, and no more."""

    level = 0
    messages: Sequence[str] = ()

    def handle(self, record: logging.LogRecord) -> None:
        self.messages = [*self.messages, record.getMessage()]


class Rude(Duck):
    filters = (1,)

    def filter(self, record: logging.LogRecord) -> bool:
        raise RuntimeError("not asked")


@pytest.mark.parametrize("kind", [OwnHandle, Filtering, Duck, Rude])
def test_a_handler_with_a_way_of_its_own_takes_a_record(
    kind: Callable[[], Any], service: Service, lines: Lines
) -> None:
    """``handle()`` of its own, whatever it returns: one event on the span."""
    logger().handlers = [refusing(), kind()]
    logger().propagate = False
    with traced("request"):
        logger().error("no stock")
    assert logger().handlers[1].messages == ["no stock"]  # type: ignore[attr-defined]
    assert lines() == []
    assert [event.name for event in service.one("request").events] == ["no stock"]


@pytest.mark.parametrize("kind", [OwnHandle, Filtering])
@pytest.mark.parametrize("get", [logging.getLogger, get_logger])
def test_a_handler_with_a_way_of_its_own_refuses_a_record(
    get: Any, kind: Callable[[], Any], service: Service, lines: Lines
) -> None:
    """By its level or its filters."""
    ours, other = kind(), kind()
    ours.setLevel(logging.ERROR)
    other.addFilter(lambda record: record.levelno >= logging.ERROR)
    if kind is OwnHandle:
        other.handle = lambda record: other.filter(record) and other.emit(record)
    logger().handlers = [refusing(), ours, other]
    logger().propagate = False
    with traced("request"):
        get("shop").warning("refused by all")
    assert lines() == ours.messages == other.messages == []
    assert service.one("request").events == ()


@pytest.mark.parametrize("get", [logging.getLogger, get_logger])
def test_what_every_handler_refuses_is_nowhere(get: Any, service: Service, lines: Lines) -> None:
    """By its filter, by doing nothing, or by the logger's level for handlers."""
    logger().addHandler(refusing())
    logger().addHandler(logging.NullHandler())
    logger().addHandler(picky := Kept())
    logging.root.handlers.clear()  # pytest's own take everything
    picky.addFilter(lambda record: "health" not in record.getMessage())
    with traced("request"):
        get("shop").info("GET /health")
        get("shop").info("GET /prices")
        logger().setLevel(logging.WARNING)
        get("shop").info("below the level")
    assert lines() == []
    assert picky.messages == ["GET /prices"]
    assert [event.name for event in service.one("request").events] == ["GET /prices"]


@pytest.mark.parametrize("get", [logging.getLogger, get_logger])
def test_a_handler_that_fails_at_it_loses_no_event(
    get: Any, service: Service, capsys: pytest.CaptureFixture[str]
) -> None:
    """Mail to the admins that cannot be sent."""

    class Failing(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            raise OSError("no mail server")

    logger().addHandler(refusing())
    logger().addHandler(Failing())
    with traced("request"):
        get("shop").error("failed")
    assert capsys.readouterr().out == ""
    assert [event.name for event in service.one("request").events] == ["failed"]


def test_a_record_without_us_obeys_the_filter_of_the_console_it_is_brought_to(lines: Lines) -> None:
    """A listener's, which is among no logger's handlers."""
    console = logging.StreamHandler()
    console.addFilter(lambda record: "health" not in record.getMessage())
    for text in ("GET /health", "GET /prices"):
        console.handle(logging.makeLogRecord({"name": "web", "levelno": 20, "msg": text}))
    assert [line["event"] for line in lines()] == ["GET /prices"]


# ---------------------------------------------------------------- our own lines, and handlers


def test_our_lines_go_to_other_handlers_as_records(lines: Lines, tmp_path: Path) -> None:
    """Once, with the fields as attributes and the exception; the console writes nothing."""
    logger().addHandler(kept := Kept())
    logger().addHandler(logging.StreamHandler())
    logging.root.addHandler(file := logging.FileHandler(tmp_path / "log"))
    with bound_context(user_id="u1"), traced("request"):
        get_logger("shop").warning("%s of %d", "one", 2, order="o1")
        try:
            raise ValueError("no price")
        except ValueError:
            get_logger("shop").exception("failed")
    place = sys._getframe().f_lineno - 5
    file.close()
    first, second = kept.records
    assert (first.name, first.levelname, first.getMessage()) == ("shop", "WARNING", "one of 2")
    assert (first.order, first.user_id) == ("o1", "u1")  # type: ignore[attr-defined]
    assert (first.pathname, first.lineno) == (__file__, place)
    assert first.funcName == "test_our_lines_go_to_other_handlers_as_records"
    assert first.exc_info is None
    assert isinstance(second.exc_info, tuple)
    assert str(second.exc_info[1]) == "no price"
    assert not hasattr(second, "exception")
    assert (tmp_path / "log").read_text().startswith("one of 2\nfailed\nTraceback")
    assert [line["event"] for line in lines()] == ["one of 2", "failed"]


def test_a_field_may_be_called_like_an_attribute_of_a_record(lines: Lines) -> None:
    """It is there with an underscore; ``stack`` is a field unless a stack was asked for."""
    logger().addHandler(kept := Kept())
    given = {"name": 1, "msg": 2, "args": 3, "message": 4, "asctime": 5, "levelno": 6, "process": 7}
    get_logger("shop").info("clash", name_="taken", stack="mine", **given)
    get_logger("shop").info("stack", stack_info=True, exception="mine")
    first, second = kept.records
    assert first.name == "shop"
    assert first.name__ == 1  # type: ignore[attr-defined]
    assert [getattr(first, f"{key}_") for key in list(given)[1:]] == [2, 3, 4, 5, 6, 7]
    assert (first.stack, first.stack_info) == ("mine", None)  # type: ignore[attr-defined]
    assert "test_a_field_may_be_called" in str(second.stack_info)
    assert second.exception_ == "mine"  # type: ignore[attr-defined]
    assert len(lines()) == 2


@pytest.mark.parametrize("through", ["get_logger", "structlog"])
def test_a_field_may_be_called_like_what_a_record_factory_sets(
    through: str, lines: Lines, capsys: pytest.CaptureFixture[str]
) -> None:
    """As Python's cookbook puts a request's id on records; one that raises loses no line."""
    usual = logging.getLogRecordFactory()
    fails = False

    def factory(*args: Any, **options: Any) -> logging.LogRecord:
        record = usual(*args, **options)
        record.request_id = "r1"
        assert not fails
        return record

    logger().addHandler(kept := Kept())
    log = get_logger("shop")
    if through == "structlog":
        log = structlog.wrap_logger(logger(), wrapper_class=structlog.stdlib.BoundLogger)
    logging.setLogRecordFactory(factory)
    try:
        log.info("a", request_id="r2")
        log.info("b", order=1)
        assert [line["event"] for line in lines()] == ["a", "b"]
        fails = True
        with contextlib.suppress(AssertionError if through == "structlog" else ()):
            log.info("c", order=1)  # logging itself raises what its factory raises
    finally:
        logging.setLogRecordFactory(usual)
    assert [each.request_id for each in kept.records] == ["r1", "r1"]  # type: ignore[attr-defined]
    assert kept.records[0].request_id_ == "r2"  # type: ignore[attr-defined]
    assert ('"event":"c"' in capsys.readouterr().out) == (through == "get_logger")


@pytest.mark.parametrize("event", [None, 7, {"a": 1}, Broken()])
def test_a_message_that_is_no_text_reaches_handlers_as_one(event: Any, lines: Lines) -> None:
    """So that none of them raises."""
    logger().addHandler(kept := Kept())
    get_logger("shop").info(event)
    assert len(kept.messages) == len(lines()) == 1


def test_levels_filters_and_propagate_are_the_applications(lines: Lines) -> None:
    """Of its loggers and handlers, ``logging.disable`` too; a line is made all the same."""
    logging.root.addHandler(root := Kept())
    logger("shop.a").addHandler(near := Kept(logging.WARNING))
    log = get_logger("shop.a")
    log.info("1")
    logger("shop.a").propagate = False
    log.error("2")
    near.addFilter(lambda _: False)
    log.error("3")
    logger("shop.a").propagate = True
    logger("shop.a").addFilter(lambda record: record.getMessage() != "4")
    log.info("4")
    logging.disable(logging.INFO)
    try:
        log.info("5")
    finally:
        logging.disable(logging.NOTSET)
    logging.root.setLevel(logging.WARNING)
    log.info("6")
    log.warning("7")
    logging.root.removeHandler(root)
    log.warning("8")
    assert root.messages == ["1", "7"]
    assert near.messages == ["2"]
    assert [line["event"] for line in lines()] == [str(n) for n in range(1, 9)]


def test_handlers_are_known_however_they_come_and_go(lines: Lines) -> None:
    """Methods, assignments, ``dictConfig``, a logger made later between two."""
    log, made = get_logger("shop.b.c"), []

    def line(message: str) -> list[str]:
        log.warning(message)
        return [text for kept in made for text in kept.messages if text == message]

    made.append(Kept())
    logging.root.handlers = [made[0]]
    assert line("1") == ["1"]
    logging.root.handlers[:] = [logging.StreamHandler()]
    assert line("2") == []
    made.append(Kept())
    logger("shop.b").handlers.append(made[1])
    assert line("3") == ["3"]
    logging.config.dictConfig(CONSOLES)
    assert line("4") == ["4"]
    logger("shop.b").handlers.clear()
    assert line("5") == []
    assert len(lines()) == 5


def test_a_logger_that_dictconfig_disabled_still_has_our_lines_handled(tmp_path: Path) -> None:
    """The application has never asked for the standard one of that name."""
    code = """if True:
        import logging.config, sys, otel_logging
        otel_logging.configure_logging(environment="production")
        log = otel_logging.get_logger("shop.early")
        log.warning("before")
        file = {"class": "logging.FileHandler", "filename": sys.argv[1]}
        root = {"level": "INFO", "handlers": ["file"]}
        logging.config.dictConfig({"version": 1, "handlers": {"file": file}, "root": root})
        log.warning("after")
    """
    done = script(code, str(tmp_path / "log"))
    assert (tmp_path / "log").read_text() == "after\n"
    assert len(parsed(done.stdout)) == 2


def test_a_line_below_the_level_goes_to_handlers_that_want_it(
    caplog: pytest.LogCaptureFixture, service: Service, lines: Lines
) -> None:
    """``caplog.at_level``: neither on stdout nor on the span."""
    configure_logging(environment="production", log_level="info")
    with caplog.at_level(logging.DEBUG), bound_context(user_id="u1"), traced("request"):
        get_logger("shop").debug("below", stack_info=True)
        get_logger("shop").info("above")
        raised = ValueError("x")
        get_logger("shop").debug("failed", exc_info=raised)
    get_logger("shop").debug("no longer")
    assert caplog.messages == ["below", "above", "failed"]
    first, _, third = caplog.records
    assert first.user_id == "u1"  # type: ignore[attr-defined]
    assert "test_a_line_below" in str(first.stack_info)
    assert third.exc_info is not None
    assert third.exc_info[1] is raised
    assert [line["event"] for line in lines()] == ["above"]
    assert [event.name for event in service.one("request").events] == ["above"]


def test_queues_and_memory_have_our_lines_once(lines: Lines) -> None:
    """A listener's file has them, and its console is silent."""
    records: queue.Queue[Any] = queue.Queue()
    memory = logging.handlers.MemoryHandler(10, target=(late := Kept()))
    logger().addHandler(logging.handlers.QueueHandler(records))
    logger().addHandler(memory)
    listener = logging.handlers.QueueListener(records, logging.StreamHandler(), kept := Kept())
    listener.start()
    get_logger("shop").info("ours", items=3)
    listener.stop()
    memory.flush()
    assert kept.messages == late.messages == ["ours"]
    assert kept.records[0].items == 3  # type: ignore[attr-defined]
    assert len(lines()) == 1
    sent = pickle.loads(pickle.dumps(late.records[0].__dict__))
    assert type(sent["msg"]) is type(sent["name"]) is str


def test_a_handler_that_logs_by_our_logger(lines: Lines) -> None:
    """What it says meanwhile is a line, and goes to no handler: there is an end to it."""

    class Logging(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            get_logger("shop.handler").warning(f"wrote {record.getMessage()}")

    logger().addHandler(Logging())
    get_logger("shop").info("a")
    assert [line["event"] for line in lines()] == ["a", "wrote a"]


def test_a_task_that_a_handler_starts_logs_to_handlers(lines: Lines) -> None:
    """It copies the context of the line that is handed on, and runs when that one is done."""
    tasks: list[asyncio.Task[None]] = []

    class Delivering(Kept):
        def emit(self, record: logging.LogRecord) -> None:
            super().emit(record)
            if not tasks:
                tasks.append(asyncio.get_running_loop().create_task(deliver()))

    async def deliver() -> None:
        get_logger("shop").error("not delivered")
        await asyncio.create_task(child())

    async def child() -> None:
        get_logger("shop").error("nor by its child")

    async def main() -> None:
        get_logger("shop").info("first")
        await tasks[0]
        get_logger("shop").info("last")

    logger().addHandler(kept := Delivering())
    asyncio.run(main())
    assert kept.messages == ["first", "not delivered", "nor by its child", "last"]
    assert [line["event"] for line in lines()] == kept.messages


def test_handlers_and_filters_that_raise_are_contained_for_our_lines(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Counted; the line is there."""

    class Raising(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            raise RuntimeError("no disk")

    logger().addHandler(Raising())
    get_logger("shop").info("a")
    logger().addFilter(lambda _: 1 / 0 > 1)
    get_logger("shop").info("b")
    assert [line["event"] for line in parsed(capsys.readouterr().out)] == ["a", "b"]
    assert _diagnostics.counts == {"errors of a logging handler": 2}


@pytest.mark.parametrize("order", ["before", "after"])
def test_a_tracker_in_place_of_handlers_has_our_lines(order: str, tmp_path: Path) -> None:
    """Sentry replaces ``Logger.callHandlers``, before set-up or after it."""
    code = """if True:
        import logging, sys, otel_logging, threading
        got = []
        def track():
            call = logging.Logger.callHandlers
            def tracked(self, record):
                call(self, record)
                got.append((record.name, record.getMessage(), bool(record.exc_info)))
            logging.Logger.callHandlers = tracked
        def ours():
            otel_logging.configure_logging(environment="production")
        for step in (track, ours) if sys.argv[1] == "before" else (ours, track):
            step()
        otel_logging.get_logger("shop").error("ours")
        logging.getLogger("shop").error("theirs")
        def boom():
            raise ValueError("boom")
        thread = threading.Thread(target=boom)
        thread.start()
        thread.join()
        sys.stderr.write(repr(got))
    """
    done = script(code, order)
    uncaught = ("threading.excepthook", "uncaught ValueError: boom", True)
    expected = [("shop", "ours", False), ("shop", "theirs", False), uncaught]
    assert done.stderr.decode() == repr(expected)
    assert len(parsed(done.stdout)) == 3


def test_uncaught_exceptions_and_warnings_reach_handlers(tmp_path: Path) -> None:
    """As records of where they were raised; a captured warning's record is its own."""
    code = """if True:
        import logging, sys, threading, warnings, otel_logging
        logging.basicConfig(filename=sys.argv[1], format="%(funcName)s:%(lineno)d %(message)s")
        otel_logging.configure_logging(environment="production")
        def boom():
            raise ValueError("boom")
        thread = threading.Thread(target=boom)
        thread.start()
        thread.join()
        warnings.warn_explicit("old", UserWarning, "shop.py", 7)
        logging.captureWarnings(True)
        otel_logging.configure_logging(environment="production")
        warnings.warn_explicit("older", UserWarning, "shop.py", 8)
        logging.captureWarnings(False)
        otel_logging.configure_logging(environment="production", log_levels="py.warnings=error")
        warnings.warn_explicit("below the level", UserWarning, "shop.py", 9)
    """
    done = script(code, str(tmp_path / "log"))
    text = (tmp_path / "log").read_text()
    assert "boom:6 uncaught ValueError: boom\nTraceback" in text
    assert ":7 old\n" in text
    assert text.count("older") == text.count("below the level") == 1
    assert len(parsed(done.stdout)) == 3


def test_without_takeover_handlers_are_left_alone(lines: Lines) -> None:
    """Our lines go to none."""
    leave_alone()
    logger().addHandler(kept := Kept())
    with setup_observability("shop", environment="production", takeover=False):
        get_logger("shop").warning("a")
    assert kept.messages == []
    assert len(lines()) == 1


def test_structlogs_formatter_on_a_file_has_the_fields_of_our_lines(
    lines: Lines, tmp_path: Path
) -> None:
    """A set-up of the application's before ours, through ``LoggerFactory``, keeps its handlers."""
    formatter = structlog.stdlib.ProcessorFormatter(
        processors=[
            structlog.processors.CallsiteParameterAdder(
                {structlog.processors.CallsiteParameter.FUNC_NAME}
            ),
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            structlog.processors.JSONRenderer(),
        ]
    )
    structlog.configure(
        processors=[structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    log = structlog.get_logger("shop")
    file = logging.FileHandler(tmp_path / "log")
    file.setFormatter(formatter)
    logger().addHandler(file)
    cached = structlog.get_logger("shop")
    cached.info("before")
    configure_logging(environment="production")
    log.info("order placed", items=3)
    cached.info("cached", items=4)

    async def awaits() -> None:
        await cached.ainfo("awaited")

    asyncio.run(awaits())
    file.close()
    _, first, second, third = [
        json.loads(line) for line in (tmp_path / "log").read_text().splitlines()
    ]
    assert (first["event"], first["items"], first["level"]) == ("order placed", 3, "info")
    assert (second["event"], second["items"]) == ("cached", 4)
    name = "test_structlogs_formatter_on_a_file_has_the_fields_of_our_lines"
    assert first["func_name"] == second["func_name"] == name
    # structlog's own wrapper, in the thread that makes the record: known from 25 on
    known = int(structlog.__version__.partition(".")[0]) >= 25
    assert third["func_name"] == ("awaits" if known else "run")
    events = [line["event"] for line in lines()]
    assert events == ["before", "order placed", "cached", "awaited"]


# ---------------------------------------------------------------- without a record


class _Refusing(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        return record.msg != "message"


class _Spoken:
    def __str__(self) -> str:
        logger("shop.spoken").info("asked")
        return "spoken"


class _Logger(logging.Logger):
    def makeRecord(self, *args: Any, **options: Any) -> logging.LogRecord:  # noqa: N802 - logging's
        record = super().makeRecord(*args, **options)
        record.msg += " made"
        return record


def _factory(*args: Any, **options: Any) -> logging.LogRecord:
    record = logging.LogRecord(*args, **options)
    record.request = "r1"
    return record


def _patched(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    before = getattr(logging.Logger, name)

    def tracked(self: logging.Logger, record: logging.LogRecord) -> None:
        record.msg += f" {name}"
        before(self, record)

    monkeypatch.setattr(logging.Logger, name, tracked)


#: What an application does beforehand, its call, and the messages of the lines.
def _below_ours() -> None:
    configure_logging(environment="production", log_level="info")
    logger().setLevel(1)


USUAL_AND_NOT: dict[str, tuple[Callable[[Any], object], Callable[[], object], list[str]]] = {
    "usual": (
        bool,
        lambda: logger().info("a %s %d %s %.1f", "b", 1, None, 0.5),
        ["a b 1 None 0.5"],
    ),
    "no arguments": (bool, lambda: logger().info("100%\n"), ["100%"]),
    "arguments that do not fit": (bool, lambda: logger().info("%d", "a"), ["%d"]),
    "a mapping": (bool, lambda: logger().info("%(a)s", {"a": 1}), ["1"]),
    "a list": (bool, lambda: logger()._log(20, "%s", [1]), ["[1]"]),
    "colours": (bool, lambda: logger().info("\x1b[1ma\x1b[0m"), ["a"]),
    "a value that logs": (bool, lambda: logger().info("%s", _Spoken()), ["asked", "spoken"]),
    "no text": (bool, lambda: logger().info(7), ["7"]),
    "below the level": (lambda _: _below_ours(), lambda: logger().debug("a"), []),
    "a level of its own": (bool, lambda: logger().log(25, "a"), ["a"]),
    "very long": (bool, lambda: logger().info("a" * 9000), [shorten("a" * 9000, 8192)]),
    "a filter": (lambda _: logger().addFilter(_Refusing()), lambda: logger().info("message"), []),
    "disabled": (lambda _: setattr(logger(), "disabled", True), lambda: logger().info("a"), []),
    "a class": (
        lambda m: m.setattr(logging.root.manager, "loggerClass", _Logger),
        lambda: logger("shop.made").info("a"),
        ["a made"],
    ),
    "a patch of handle": (
        lambda m: _patched("handle", m),
        lambda: logger().info("a"),
        ["a handle"],
    ),
    "a patch of callHandlers": (
        lambda m: _patched("callHandlers", m),
        lambda: logger().info("a"),
        ["a callHandlers"],
    ),
}


@pytest.mark.parametrize("case", USUAL_AND_NOT)
def test_a_call_that_becomes_a_line_at_once(
    case: str,
    service: Service,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whatever an application does with records is done all the same."""
    before, call, messages = USUAL_AND_NOT[case]
    monkeypatch.setattr(sys, "stdout", sys.__stdout__)
    monkeypatch.setattr(logging.root, "handlers", [])  # pytest's
    before(monkeypatch)
    with traced("request"):
        call()
    assert [line["event"] for line in parsed(capfd.readouterr().out)] == messages
    assert [event.name for event in service.one("request").events] == messages


def test_a_record_factory_and_the_last_resort_see_their_records(
    service: Service, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where there is no handler either."""
    monkeypatch.setattr(sys, "stdout", sys.__stdout__)
    monkeypatch.setattr(logging.root, "handlers", [])
    monkeypatch.setattr(logging, "_logRecordFactory", _factory)
    logger().info("of a factory")
    monkeypatch.undo()
    monkeypatch.setattr(logging.root, "handlers", [])
    stream = io.StringIO()
    monkeypatch.setattr(logging, "lastResort", logging.StreamHandler(stream))
    logger().warning("at last")
    assert stream.getvalue() == "at last\n"
    assert service.observability is not None
    assert parsed(capfd.readouterr().out)[0]["request"] == "r1"
