"""``get_logger`` and ``configure_logging``: whatever a log call is given, wherever it is made."""

import asyncio
import copy
import gc
import io
import json
import logging
import pickle
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from otel_logging import (
    _diagnostics,
    _runtime,
    bind_context,
    bound_context,
    clear_context,
    configure_logging,
    get_logger,
    traced,
)
from otel_logging.logs import logger as loggers
from otel_logging.logs.bound import BoundLogger
from otel_logging.logs.configure import use
from otel_logging.processors import record_on_span
from tests.conftest import Service
from tests.lines import parsed
from tests.programs import script

Lines = Callable[[], list[dict[str, Any]]]


@pytest.fixture(autouse=True)
def in_production() -> Iterator[None]:
    levels = {"asyncio": "info"}  # it says at DEBUG which selector it uses
    configure_logging(environment="production", log_level="debug", log_levels=levels)
    clear_context()
    yield
    clear_context()
    structlog.contextvars.clear_contextvars()


@pytest.fixture
def lines(capsys: pytest.CaptureFixture[str]) -> Lines:
    """Return the lines since it was called last; nothing is counted as lost meanwhile."""

    def read() -> list[dict[str, Any]]:
        assert _diagnostics.counts == {}
        return parsed(capsys.readouterr().out)

    return read


log: Any = get_logger("shop")
LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40, "critical": 50}


def fields(line: dict[str, Any]) -> dict[str, Any]:
    """Return what is not on every line."""
    return {k: v for k, v in line.items() if k not in ("timestamp", "level", "logger")}


# ---------------------------------------------------------------- a line


def test_a_line_has_time_level_message_logger_and_then_the_fields(lines: Lines) -> None:
    """Time in UTC to the microsecond, level, message, logger; then the fields."""
    log.info("order placed", order_id="o-1", amount=3.5)
    (line,) = lines()
    assert line.pop("timestamp")[10:11] == "T"
    assert line == {
        "level": "info",
        "event": "order placed",
        "logger": "shop",
        "order_id": "o-1",
        "amount": 3.5,
    }


def test_the_time_is_rfc_3339(lines: Lines) -> None:
    """In every second anew."""
    import datetime

    before = datetime.datetime.now(datetime.UTC)
    log.info("e")
    after = datetime.datetime.now(datetime.UTC)
    (line,) = lines()
    assert len(line["timestamp"]) == len("2026-01-02T03:04:05.678901Z")
    assert line["timestamp"].endswith("Z")
    at = datetime.datetime.fromisoformat(line["timestamp"])
    assert before.replace(microsecond=0) <= at <= after


@pytest.mark.parametrize("name", LEVELS)
def test_a_line_has_its_level_by_method_number_or_name(name: str, lines: Lines) -> None:
    """Each by its method, by ``log`` with its number, and with its name."""
    getattr(log, name)("e")
    log.log(LEVELS[name], "e")
    log.log(name, "e")
    assert [line["level"] for line in lines()] == [name] * 3


def test_other_names_of_levels(lines: Lines) -> None:
    """As structlog and logging have them."""
    log.warn("e")
    log.fatal("e")
    log.msg("e")
    log.err("e")
    assert [line["level"] for line in lines()] == ["warning", "critical", "info", "error"]


def test_levels_of_ones_own(lines: Lines, monkeypatch: pytest.MonkeyPatch) -> None:
    """Numbers with and without a name; a name that nobody knows is info."""
    logging.addLevelName(25, "NOTICE")
    try:
        log.log(25, "e")
        log.log("notice", "e")
        log.log(26, "e")
        log.log("loud", "e")
        log.log(object(), "e")
    finally:
        logging._levelToName.pop(25)
        logging._nameToLevel.pop("NOTICE")
    assert [line["level"] for line in lines()] == ["notice", "notice", "level 26", "info", "info"]


def test_percent_arguments_are_put_into_the_message(lines: Lines) -> None:
    """As ``logging`` puts them in: one, several, a mapping."""
    log.info("%s of %d", "one", 2)
    log.info("%(a)s", {"a": 1})
    log.info("100%")
    log.info("%s", {})
    log.info("%s", ("a", "b"))
    assert [line["event"] for line in lines()] == ["one of 2", "1", "100%", "{}", "('a', 'b')"]


def test_percent_arguments_that_do_not_fit(lines: Lines) -> None:
    """The line has the message, the arguments, and what was wrong."""
    log.info("%s and %s", "one", key="value")
    log.info("no place", 1, 2)
    log.info(5, 6)
    log.info("%d", Rude())
    first, second, third, fourth = map(fields, lines())
    assert first == {
        "event": "%s and %s",
        "key": "value",
        "format_error": "TypeError: not enough arguments for format string",
        "format_args": ["one"],
    }
    assert (second["event"], second["format_args"]) == ("no place", [1, 2])
    assert (third["event"], third["format_args"]) == (5, [6])
    assert fourth["format_args"] == ["<unprintable Rude>"]


class Rude:
    def __repr__(self) -> str:
        raise OSError("rude")

    __str__ = __bool__ = __len__ = __hash__ = __eq__ = __iter__ = __repr__  # type: ignore[assignment]


@pytest.mark.parametrize(
    ("message", "event"),
    [
        (None, None),
        (5, 5),
        (b"bytes", "b'bytes'"),
        (["a", 1], ["a", 1]),
        (ValueError("v"), "ValueError: v"),
        (Rude(), "<unprintable Rude>"),
        ("\ud800", "\\ud800"),
        ("a\nb", "a\nb"),
    ],
)
def test_a_message_that_is_not_text(message: Any, event: Any, lines: Lines) -> None:
    """Is plain data too."""
    log.info(message)
    assert lines()[0]["event"] == event


def test_a_line_without_a_message_is_written(lines: Lines) -> None:
    """Or one given by name."""
    log.info()
    log.info(user_id="u")
    log.info(event="named")
    assert [fields(line) for line in lines()] == [
        {"event": ""},
        {"event": "", "user_id": "u"},
        {"event": "named"},
    ]


# ---------------------------------------------------------------- names that are taken

RESERVED = ["timestamp", "level", "logger", "span_id", "trace_flags", "job_tag", "exception"]


@pytest.mark.parametrize("name", [*RESERVED, "event", "_time_ns"])
@pytest.mark.parametrize("how", ["call", "bind", "bind_context", "initial", "structlog"])
def test_a_field_with_a_reserved_name_is_never_lost(how: str, name: str, lines: Lines) -> None:
    """It gets a trailing underscore; two where that is taken too."""
    both = {name: "mine", f"{name}_": "also mine"}
    if how == "call":
        log.info("message", **both)
    elif how == "bind":
        log.bind(**both).info("message")
    elif how == "initial":
        get_logger("shop", **both).info("message")
    elif how == "bind_context":
        bind_context(**both)
        log.info("message")
    elif name == "event":  # structlog itself lets the message win
        return
    else:
        structlog.contextvars.bind_contextvars(**both)
        log.info("message")
    (line,) = lines()
    assert (line["event"], line["logger"]) == ("message", "shop")
    assert (line[f"{name}_"], line[f"{name}__"]) == ("also mine", "mine")


def test_fields_may_be_called_as_python_calls_things(lines: Lines) -> None:
    """``self``, ``level`` of ``log``, ``args``: everywhere."""
    names = {"self": 1, "args": 2, "fields": 3, "method_name": 4, "name": 5, "processors": 6}
    log.info("e", **names)
    log.log(20, "e", **names)
    log.bind(**names).info("e")
    log.new(**names).info("e")
    get_logger("shop", **names).info("e")
    try:
        raise ValueError
    except ValueError:
        log.exception("e", **names)
    assert all(line.items() >= names.items() for line in lines())


def test_a_trace_id_by_hand(lines: Lines, service: Service) -> None:
    """Is the line's where there is no span, and ``request_id`` where there is one."""
    bind_context(trace_id="req-123")
    log.info("outside")
    with traced("turn") as span:
        log.info("inside")
        log.info("by call", trace_id="req-456")
        log.info("both", request_id="q")
    outside, inside, by_call, both = lines()
    real = f"{span.get_span_context().trace_id:032x}"
    assert outside["trace_id"] == "req-123"
    assert (inside["trace_id"], inside["request_id"]) == (real, "req-123")
    assert (by_call["trace_id"], by_call["request_id"]) == (real, "req-456")
    assert (both["request_id"], both["trace_id_"]) == ("q", "req-123")


def test_a_line_and_its_event_tell_the_same(lines: Lines, service: Service) -> None:
    """The time too, and every field."""
    with traced("turn"), bound_context(user_id="u"):
        log.info("said", words=12, level="mine")
    (line,) = lines()
    (event,) = service.one("turn").events
    assert event.name == line["event"]
    assert event.attributes == {
        key: line[key] for key in ("level", "logger", "user_id", "words", "level_")
    }
    assert f"{event.time_ns // 1000 % 1_000_000:06d}" == line["timestamp"][-7:-1]


def test_a_long_line_is_whole_in_its_event(service: Service) -> None:
    """What a pipe has no room for, the span has."""
    with traced("turn"):
        log.info("said", text="x" * 8000)
    (event,) = service.one("turn").events
    assert event.attributes["text"] == "x" * 8000


@given(st.dictionaries(st.text(), st.text() | st.integers() | st.builds(Rude), max_size=8))
def test_no_field_is_ever_lost(values: dict[str, Any]) -> None:
    """Whatever it is called."""
    written: list[dict[str, Any]] = []
    before, listener = _runtime.current, lambda event_dict: written.append(dict(event_dict))
    _runtime.swap(replace(before, listener=listener, listens_from=0))
    try:
        configure_logging()
        log.info("message", **values)
    finally:
        use(before)
    given = {"exc_info", "stack_info"}
    (line,) = written
    assert line["event"] == "message"
    for key, value in values.items():
        if key not in given:
            kept = [k for k in line if k.rstrip("_") == key.rstrip("_")]
            assert any(line[k] is value for k in kept)


# ---------------------------------------------------------------- exceptions


def raised() -> ValueError:
    try:
        raise ValueError("no price")
    except ValueError as error:
        return error


def test_all_forms_of_exc_info(lines: Lines) -> None:
    """An exception, ``sys.exc_info()``, true while one is handled; a traceback each time."""
    error = raised()
    log.info("e", exc_info=error)
    try:
        raise error
    except ValueError:
        log.info("e", exc_info=True)
        log.info("e", exc_info=1)
        log.info("e", exc_info=sys.exc_info())
        log.info("e", exc_info=ValueError)
        log.exception("e")
        log.exception("e", exc_info=KeyError("another"))
    *same, another = (line["exception"] for line in lines())
    for text in same:
        assert text.startswith("Traceback (most recent call last):\n")
        assert text.endswith("\nValueError: no price")
    assert another == "KeyError: 'another'"


@pytest.mark.parametrize("given", [None, False, 0, "", (None, None, None), (1, 2, 3), True, ()])
def test_exc_info_without_an_exception(given: Any, lines: Lines) -> None:
    """There is nothing to tell."""
    log.info("e", exc_info=given)
    assert fields(lines()[0]) == {"event": "e"}


class RudeError(Exception):
    def __str__(self) -> str:
        raise OSError("rude")

    def __bool__(self) -> bool:
        raise OSError("rude")

    __repr__ = __str__


class RuderError(Exception):
    @property
    def __notes__(self) -> Any:
        raise OSError("rude")

    @property  # type: ignore[misc]
    def __cause__(self) -> Any:  # type: ignore[override]
        raise OSError("rude")


def test_exceptions_whose_own_code_raises(lines: Lines) -> None:
    """Are told all the same."""
    log.info("e", exc_info=RudeError())
    log.info("e", exc_info=RuderError("because"))
    first, second = lines()
    assert "RudeError" in first["exception"]
    assert "RuderError" in second["exception"]


def test_exception_groups_and_chains(lines: Lines) -> None:
    """Whole."""
    try:
        try:
            raise raised()
        except ValueError as error:
            raise ExceptionGroup("two", [error, KeyError("k")]) from error
    except ExceptionGroup:
        log.exception("e")
    text = lines()[0]["exception"]
    assert "ExceptionGroup: two (2 sub-exceptions)" in text
    assert "KeyError: 'k'" in text
    assert "direct cause" in text


def test_an_exception_is_recorded_once(service: Service) -> None:
    """By the line that tells of it, or by the stage it leaves; not by both."""

    @traced("turn")
    def turn() -> None:
        try:
            raise raised()
        except ValueError:
            log.exception("failed")
            raise

    with pytest.raises(ValueError, match="no price"):
        turn()
    (event,) = service.one("turn").events
    assert event.name == "failed"
    assert "no price" in event.attributes["exception"]


def test_stack_info_gives_the_stack_of_the_call(lines: Lines) -> None:
    """It has none of this package's frames; a field of that name is kept."""
    log.info("e", stack_info=True, stack="mine")
    log.info("e", stack_info=False, stack="mine")
    first, second = lines()
    assert first["stack"].splitlines()[-1].strip().startswith("log.info(")
    assert first["stack_"] == "mine"
    assert fields(second) == {"event": "e", "stack": "mine"}


# ---------------------------------------------------------------- levels by logger


def test_levels_by_name_of_the_logger(lines: Lines) -> None:
    """The nearest parent that has one counts; and names that only look alike are none."""
    configure_logging(
        environment="production",
        log_level="warning",
        log_levels={"shop": "debug", "shop.db": "error", "shop.db.slow": "info"},
    )
    wanted = {"shop": 10, "shop.cart": 10, "shop.db": 40, "shop.db.x": 40, "shop.db.slow": 20}
    wanted |= {"shopping": 30, "root": 30, "": 30}
    for name, level in wanted.items():
        logger: Any = get_logger(name)
        assert logger.get_effective_level() == level
        for number in (10, 20, 30, 40):
            assert logger.is_enabled_for(number) == (number >= level)
            logger.log(number, "e")
    found = [(line["logger"], line["level"]) for line in lines()]
    assert found == [
        (name, method)
        for name, level in wanted.items()
        for method, number in LEVELS.items()
        if level <= number < 50
    ]


def test_a_logger_without_a_name_has_that_of_its_module(lines: Lines) -> None:
    """As people write ``__name__``."""
    get_logger().info("e")
    get_logger(5).info("e")  # type: ignore[arg-type]
    structlog.get_logger().info("e")
    structlog.get_logger("third").info("e")
    assert [line["logger"] for line in lines()] == [__name__, "5", "root", "third"]


def test_loggers_follow_every_configuration(lines: Lines, capsys: Any) -> None:
    """Those that exist too, with what is bound to them."""
    kept: Any = get_logger("shop").bind(part="cart")
    theirs = structlog.get_logger("theirs").bind(part="theirs")
    kept.debug("e")
    theirs.debug("e")
    assert [line["part"] for line in lines()] == ["cart", "theirs"]
    configure_logging(environment="development", log_level="error")
    kept.info("e")
    theirs.info("e")
    kept.error("on the console")
    assert " error    on the console " in capsys.readouterr().out
    configure_logging(environment="production", log_level="debug")
    kept.debug("e")
    theirs.debug("e")
    assert [line["part"] for line in lines()] == ["cart", "theirs"]


BEFORE = """
import structlog
from otel_logging import configure_logging, get_logger
log = get_logger("shop", part="cart")
bound = log.bind(more=1)
assert log.is_enabled_for(10)
log.info("before set-up", n=1)
log.info("%s fields", "two", n=1, event="mine")
log.info(user_id="u")
log.info(event="named")
print("---", flush=True)
with structlog.testing.capture_logs() as captured:
    bound.warning("captured")
assert captured == [{"event": "captured", "log_level": "warning", "part": "cart", "more": 1}]
for _ in range(2):
    configure_logging(environment="production")
    log.info("after")
    bound.info("after", n=2)
"""


def test_loggers_made_before_set_up() -> None:
    """Before it structlog does what it is configured to do; from then on it is ours."""
    before, after = script(BEFORE).stdout.split(b"---\n")
    said = before.decode().splitlines()
    assert len(said) == 4
    assert "before set-up" in said[0]
    assert "part=cart" in said[0]
    assert "two fields" in said[1]
    assert "event_=mine" in said[1]
    assert "named" in said[3]
    assert [(line["part"], line.get("more"), line.get("n")) for line in parsed(after)] == [
        ("cart", None, None),
        ("cart", 1, 2),
    ] * 2


def test_structlogs_own_capture_works(lines: Lines) -> None:
    """People's tests use it."""
    with structlog.testing.capture_logs() as captured:
        log.bind(part="cart").info("hello", n=1)
        structlog.get_logger("shop").info("hello")
    assert captured[0] == {"event": "hello", "log_level": "info", "part": "cart", "n": 1}
    assert len(captured) == 2
    log.info("again")
    assert [line["event"] for line in lines()] == ["again"]


# ---------------------------------------------------------------- the bound logger


def test_bind_new_and_unbind_return_a_logger_and_change_none(lines: Lines) -> None:
    """Each returns a logger of its own; the one it was called on stays as it is."""
    first: Any = get_logger("shop", a=1)
    second = first.bind(b=2)
    second.new(c=3).info("new")
    second.unbind("a").info("unbound")
    second.try_unbind("b", "x").info("tried")
    with pytest.raises(KeyError):
        second.unbind("x")
    second.info("second")
    first.info("first")
    assert [fields(line) for line in lines()] == [
        {"event": "new", "c": 3},
        {"event": "unbound", "b": 2},
        {"event": "tried", "a": 1},
        {"event": "second", "a": 1, "b": 2},
        {"event": "first", "a": 1},
    ]


def test_it_is_structlogs_bound_logger() -> None:
    """For those who look."""
    assert isinstance(log, structlog.BoundLoggerBase)
    assert structlog.get_context(log.bind(a=1)) == {"a": 1}
    assert repr(log).startswith("<BoundLogger(context={}")
    assert "<LineLogger shop>" in repr(log._logger)


@pytest.mark.parametrize(
    "copied", [copy.copy, copy.deepcopy, lambda o: pickle.loads(pickle.dumps(o))]
)
def test_a_logger_can_be_copied_and_sent(copied: Any, lines: Lines) -> None:
    """It logs as before; what is bound to it is a copy where that is asked for."""
    original = log.bind(ids=["a"])
    twin = copied(original)
    twin.info("e")
    assert fields(lines()[0]) == {"event": "e", "ids": ["a"]}
    assert pickle.loads(pickle.dumps(log._logger)) is log._logger


def test_structlogs_and_our_context_in_one_line(lines: Lines) -> None:
    """The call wins over the logger, that over structlog's own context variables, over ours."""
    bind_context(a="ours", b="ours", c="ours", d="ours")
    with structlog.contextvars.bound_contextvars(a="structlog's", b="structlog's", c="structlog's"):
        log.bind(a="logger's", b="logger's").info("e", a="call's")
    assert fields(lines()[0]) == {
        "event": "e",
        "a": "call's",
        "b": "logger's",
        "c": "structlog's",
        "d": "ours",
    }


# ---------------------------------------------------------------- asynchronous methods


@pytest.mark.parametrize("name", [*LEVELS, "warn", "fatal"])
def test_asynchronous_methods_make_the_same_line(name: str, lines: Lines) -> None:
    """In the calling task: context, exception, stack and time are its own."""

    async def main() -> None:
        with bound_context(user_id="u"), traced("turn"):
            try:
                raise raised()
            except ValueError:
                await getattr(log, f"a{name}")("e", exc_info=True, stack_info=True)

    asyncio.run(main())
    (line,) = lines()
    assert line["user_id"] == "u"
    assert line["exception"].endswith("ValueError: no price")
    assert 'await getattr(log, f"a{name}")' in line["stack"]


def test_asynchronous_log_and_exception(lines: Lines) -> None:
    """With a level as number or name; with the exception that is handled."""

    async def main() -> None:
        await log.alog(30, "%s", "number")
        await log.alog("error", "name")
        try:
            raise raised()
        except ValueError:
            await log.aexception("exception", user_id="u")

    asyncio.run(main())
    number, name, exception = lines()
    assert (number["level"], number["event"]) == ("warning", "number")
    assert name["level"] == "error"
    assert (exception["level"], exception["user_id"]) == ("error", "u")
    assert exception["exception"].endswith("ValueError: no price")


def test_asynchronous_methods_need_no_event_loop(lines: Lines) -> None:
    """Nothing is waited for."""
    with pytest.raises(StopIteration):
        log.ainfo("e").send(None)
    assert len(lines()) == 1


# ---------------------------------------------------------------- from everywhere


def test_from_many_threads_and_tasks(lines: Lines) -> None:
    """Every line whole, once, with its own user."""

    async def task(who: int) -> None:
        bind_context(user_id=who)
        for number in range(20):
            await asyncio.sleep(0)
            log.info("line", number=number)

    async def main(first: int) -> None:
        await asyncio.gather(*(task(first + n) for n in range(25)))

    threads = [threading.Thread(target=asyncio.run, args=(main(n * 25),)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = sorted((line["user_id"], line["number"]) for line in lines())
    assert found == [(who, number) for who in range(200) for number in range(20)]


def test_a_line_of_a_finalizer_is_written(lines: Lines) -> None:
    """``__del__`` runs in the middle of anything."""

    class Finalized:
        def __init__(self) -> None:
            self.itself = self

        def __del__(self) -> None:
            log.info("finalized")

    class Collects:
        def __repr__(self) -> str:
            gc.collect()
            return "collects"

    Finalized()
    log.info("outer", value=Collects())
    assert sorted(line["event"] for line in lines()) == ["finalized", "outer"]


def test_a_value_that_logs_itself_ends(capsys: pytest.CaptureFixture[str]) -> None:
    """After a few levels, not when the stack is full."""

    class LogsItself:
        def __repr__(self) -> str:
            log.info("again", value=self)
            return "logs itself"

    log.info("outer", value=LogsItself())
    found = parsed(capsys.readouterr().out)
    assert 1 < len(found) < 50
    assert found[-1]["event"] == "outer"
    assert found[-1]["value"] == "logs itself"
    assert set(_diagnostics.counts) == {"log lines lost: a line could not be made"}
    _diagnostics.forget()
    log.info("as ever")
    assert _diagnostics.counts == {}


@pytest.mark.parametrize("way", ["ours", "standard"])
def test_many_bound_values_that_log_are_asked_a_bounded_number_of_times(
    way: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each line asks all of them: without a bound on their number a call would last for ever."""
    asked = 0

    class Chatty:
        def __repr__(self) -> str:
            nonlocal asked
            asked += 1
            if asked > 10_000:
                raise AssertionError("no end to it")
            (log if way == "ours" else logging.getLogger("shop")).info("inner")
            return "chatty"

    with bound_context(**{f"field{number}": Chatty() for number in range(10)}):
        log.info("outer")
        outer = parsed(capsys.readouterr().out)[-1]
        assert (outer["event"], outer["field9"]) == ("outer", "chatty")
        assert asked < 10_000
        first, asked = asked, 0
        log.info("again")
        assert asked == first
    assert set(_diagnostics.counts) <= {"log lines lost: a line could not be made"}
    _diagnostics.forget()


IN_A_SIGNAL_HANDLER = """
import signal, sys
from otel_logging import setup_observability, get_logger, traced
observability = setup_observability("shop", endpoint="http://127.0.0.1:9", spool_dir=sys.argv[1])
log = get_logger("shop")
fired = 0
def handler(*_):
    global fired
    log.info("handler", number=fired)
    fired += 1
    if fired < 1000:
        signal.setitimer(signal.ITIMER_REAL, 0.0001)
signal.signal(signal.SIGALRM, handler)
lines = 0
with traced("turn"):
    signal.setitimer(signal.ITIMER_REAL, 0.0001)
    while fired < 1000:
        log.info("line", number=lines, text="x" * 100, words=[1, 2])
        lines += 1
log.info("done", lines=lines, fired=fired)
observability.shutdown(0.1)
"""


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="there are no timers on this platform")
def test_from_a_signal_handler_in_the_middle_of_a_log_call(tmp_path: Any) -> None:
    """A thousand times: nothing waits for itself, no line is torn or lost."""
    done = script(IN_A_SIGNAL_HANDLER, str(tmp_path), ENVIRONMENT="production")
    found = parsed(done.stdout)
    (end,) = [line for line in found if line["event"] == "done"]
    for event, many in (("line", end["lines"]), ("handler", end["fired"])):
        numbers = [line["number"] for line in found if line["event"] == event]
        assert sorted(numbers) == list(range(many))
    assert b"lost" not in done.stderr


def test_a_processor_that_somebody_put_in_fails(lines: Lines) -> None:
    """A counted loss, never an exception from a log call."""

    def fails(*_: Any) -> Any:
        raise OSError("broken")

    def drops(*_: Any) -> Any:
        raise structlog.DropEvent

    broken = BoundLogger(loggers.logger_of("shop"), [fails], {})
    broken.info("e")
    broken.exception("e")
    assert _diagnostics.counts["log lines lost: a line could not be made"] == 2
    _diagnostics.forget()
    BoundLogger(loggers.logger_of("shop"), [drops], {}).info("e")
    assert lines() == []


def test_two_threads_that_ask_for_one_logger(lines: Lines) -> None:
    """Get the same channel, configured as things are now."""
    names = [f"new-{n}" for n in range(200)]
    barrier = threading.Barrier(4)
    found: list[list[Any]] = []

    def ask() -> None:
        barrier.wait()
        found.append([loggers.logger_of(name) for name in names])

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(other == found[0] for other in found)
    assert {logger.threshold for logger in found[0]} == {10}


# ---------------------------------------------------------------- structlog, replaced in part


@pytest.fixture
def theirs(in_production: None) -> Iterator[Any]:
    """Let a test call ``structlog.configure`` after set-up."""
    yield structlog.configure
    structlog.reset_defaults()
    configure_logging(environment="production")


def test_a_wrapped_logger_of_the_standard_library(lines: Lines, service: Service) -> None:
    """A line of ours, as of the logger itself; the record is the caller's."""
    records: list[logging.LogRecord] = []
    logging.setLoggerClass(logging.Logger)  # structlog's factory may have set one of its own
    standard = logging.getLogger("shop.wrapped")
    handler = logging.Handler()
    handler.emit = records.append  # type: ignore[method-assign, assignment]
    standard.addHandler(handler)
    try:
        with traced("turn"):
            log = structlog.wrap_logger(standard)
            log.warning("%s message", "the", n=1, name="mine")
            log.exception("failed", exc_info=raised())
            log.log(35, "of one's own")
    finally:
        standard.removeHandler(handler)
    first, second, third = lines()
    assert (first["event"], first["n"], first["name_"]) == ("the message", 1, "mine")
    assert second["exception"].endswith("no price")
    assert third["level"] == "level 35"
    assert {line["logger"] for line in (first, second, third)} == {"shop.wrapped"}
    assert [event.name for event in service.one("turn").events] == [
        "the message",
        "failed",
        "of one's own",
    ]
    assert {(r.pathname, r.funcName) for r in records} == {
        (__file__, "test_a_wrapped_logger_of_the_standard_library")
    }
    assert standard.name == log.name
    assert log.isEnabledFor(30)


def test_a_wrapped_logger_of_any_other_kind(service: Service, capsys: Any) -> None:
    """Gets the rendered line, and the span its event."""
    stream, binary = io.StringIO(), io.BytesIO()
    with traced("turn"):
        structlog.wrap_logger(structlog.PrintLogger(stream)).info("the message", n=1)  # type: ignore[arg-type]
        structlog.wrap_logger(structlog.BytesLogger(binary)).info("bytes")
    (line,) = parsed(stream.getvalue())
    assert (line["event"], line["n"], line["level"]) == ("the message", 1, "info")
    assert line["trace_id"] == parsed(binary.getvalue())[0]["trace_id"]
    assert len(service.one("turn").events) == 2
    assert capsys.readouterr().out == ""


def test_a_wrapped_logger_has_levels_and_return_values(lines: Lines) -> None:
    """LOG_LEVEL's; and what the logger returns is returned, asynchronously too."""
    log = structlog.wrap_logger(structlog.ReturnLogger())
    assert json.loads(log.info("message", n=1))["n"] == 1
    assert json.loads(log.log(35, "message"))["level"] == "level 35"
    assert json.loads(asyncio.run(log.ainfo("message")))["event"] == "message"
    configure_logging(environment="production", log_level="error")
    assert log.info("message") is None
    generic = structlog.wrap_logger(structlog.ReturnLogger(), wrapper_class=structlog.BoundLogger)
    assert generic.info("message") is None
    assert not log.is_enabled_for(30)
    assert log.get_effective_level() == 40
    with pytest.raises(AttributeError):
        log.handlers  # noqa: B018 - the look-up is the case
    twin = copy.copy(log.bind(a=1))
    assert json.loads(twin.error("message"))["a"] == 1
    assert lines() == []


def test_a_wrapped_logger_that_raises_is_contained() -> None:
    """By whichever wrapper class: a log call never raises."""

    class Raising:
        def info(self, _: str) -> None:
            raise OSError("full")

    structlog.wrap_logger(Raising()).info("a")
    assert _diagnostics.counts == {"log lines lost: a line could not be made": 1}


KEPT = """if True:
    import structlog
    from otel_logging.testing import capture
    with capture():
        ours = structlog.wrap_logger(structlog.PrintLogger()).bind(n=1)
        theirs = structlog.wrap_logger(structlog.PrintLogger(), wrapper_class=structlog.BoundLogger)
        theirs = theirs.bind(n=2)
    ours.warning("%s", "kept")
    theirs.info("lost, and counted")
"""


def test_a_wrapped_logger_that_is_kept_from_a_test_that_captured() -> None:
    """Does what structlog is configured to do; where it cannot, it is said."""
    done = script(KEPT)
    (line,) = done.stdout.decode().splitlines()
    assert "kept" in line
    assert "n=1" in line
    assert done.stderr.startswith(b"otel_logging: 1 log lines lost: a line could not be made (")


@pytest.mark.parametrize("wrapper", ["ours", "filtering", "stdlib", "generic"])
@pytest.mark.parametrize("factory", ["ours", "stdlib", "print", "bytes"])
def test_any_wrapper_class_with_any_factory(
    wrapper: str, factory: str, theirs: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    """Each call is one line, in our form, with what is bound."""
    wrappers = {
        "filtering": structlog.make_filtering_bound_logger(20),
        "stdlib": structlog.stdlib.BoundLogger,
        "generic": structlog.BoundLogger,
    }
    factories = {
        "stdlib": structlog.stdlib.LoggerFactory(),
        "print": structlog.PrintLoggerFactory(),
        "bytes": structlog.BytesLoggerFactory(),
    }
    theirs(wrapper_class=wrappers.get(wrapper), logger_factory=factories.get(factory))
    bind_context(user_id="u")
    log = structlog.get_logger("shop")
    log.info("the message", n=1)
    try:
        raise ValueError("no price")
    except ValueError:
        log.exception("failed", exc_info=True)
    first, second = parsed(capfd.readouterr().out)
    assert (first["event"], first["n"], first["user_id"]) == ("the message", 1, "u")
    assert (first["level"], second["level"]) == ("info", "error")
    assert "no price" in second["exception"]
    assert _diagnostics.counts == {}


class _Audited(structlog.stdlib.BoundLogger):
    def audit(self, event: str) -> Any:
        return self._proxy_to_logger("info", event, audit=True)


def test_a_wrapper_class_of_the_applications_own_stays_at_set_up(theirs: Any, lines: Lines) -> None:
    """Its code calls methods that ours does not have, or awaits them."""

    async def sell() -> None:
        await structlog.get_logger("shop").info("awaited")

    theirs(wrapper_class=_Audited)
    configure_logging(environment="production")
    structlog.get_logger("shop").audit("sold")
    theirs(wrapper_class=structlog.stdlib.AsyncBoundLogger)
    configure_logging(environment="production")
    asyncio.run(sell())
    get_logger("shop").info("ours")
    found = lines()
    assert [line["event"] for line in found] == ["sold", "awaited", "ours"]
    assert (found[0]["level"], found[0]["audit"]) == ("info", True)


def test_arguments_through_structlogs_standard_wrapper(theirs: Any, lines: Lines) -> None:
    """Are put into the message; a level below LOG_LEVELS' is none."""
    theirs(wrapper_class=structlog.stdlib.BoundLogger)
    configure = {"environment": "production", "log_levels": "shop.quiet=error"}
    log = structlog.stdlib.get_logger("shop.quiet")
    configure_logging(**configure)  # type: ignore[arg-type]
    theirs(wrapper_class=structlog.stdlib.BoundLogger)
    log.error("%s of %d", "one", 2)
    log.info("below")
    log.error(None, positional_args="mine")
    first, second = lines()
    assert first["event"] == "one of 2"
    assert (second["event"], second["positional_args"]) == ("", "mine")


def test_processors_of_their_own_render_the_line(
    theirs: Any, service: Service, capsys: pytest.CaptureFixture[str]
) -> None:
    """As they do it, to our stdout, and once on the span; fields that are not rendered are ours."""
    add, json_line = structlog.processors.add_log_level, structlog.processors.JSONRenderer()
    texts: list[Any] = [
        [add, json_line],
        [add, json_line, lambda *args: args[2].encode()],
        [record_on_span, json_line],
    ]
    with traced("turn"):
        for processors in texts:
            theirs(processors=processors)
            structlog.get_logger("shop").info("the message", n=1)
        theirs(processors=[add])
        structlog.get_logger("shop").info("fields", n=2)
        theirs(processors=[structlog.stdlib.render_to_log_kwargs])
        structlog.get_logger("shop").info("keywords", n=3)
        structlog.get_logger("shop").log(1, "below")
    lines = capsys.readouterr().out.splitlines()
    for line in lines[:3]:
        found = json.loads(line)
        assert (found["event"], found["n"]) == ("the message", 1)
        assert "trace_id" not in found
    fields, keywords = map(json.loads, lines[3:])
    assert (fields["event"], fields["n"]) == ("fields", 2)
    assert (keywords["event"], keywords["n"], "trace_id" in keywords) == ("keywords", 3, True)
    names = [event.name for event in service.one("turn").events]
    assert names == [lines[0], lines[1], "the message", "fields", "keywords"]
    assert _diagnostics.counts == {}


def test_a_processor_put_before_ours(theirs: Any, lines: Lines) -> None:
    """``[mine, *structlog.get_config()["processors"]]``; it may drop lines and name the caller.

    It is for lines of our ``get_logger`` too; processors without ours are not.
    """

    def drops(_: Any, __: str, event_dict: Any) -> Any:
        if event_dict["event"] == "health":
            raise structlog.DropEvent
        return event_dict

    adder = structlog.processors.CallsiteParameterAdder(
        {structlog.processors.CallsiteParameter.FUNC_NAME}
    )
    theirs(processors=[drops, adder, *structlog.get_config()["processors"]])
    log = structlog.get_logger("shop")
    log.info("health")
    module_log = get_logger("shop.ours", a=1)
    module_log.info("health")
    assert lines() == []
    module_log.info("mine")
    log.info("the message")
    asyncio.run(log.ainfo("awaited"))
    theirs(wrapper_class=structlog.stdlib.BoundLogger)
    structlog.get_logger("shop").info("standard")
    theirs(processors=[drops])
    module_log.info("health")
    ours, *found, stays = lines()
    assert (ours["logger"], ours["event"], ours["a"]) == ("shop.ours", "mine", 1)
    assert [line["event"] for line in (*found, stays)] == [
        *("the message", "awaited", "standard", "health"),
    ]
    name = "test_a_processor_put_before_ours"
    assert [each["func_name"] for each in (ours, found[0], found[2])] == [name] * 3


def test_the_caller_before_set_up() -> None:
    """Named by a processor of the application's as the user's function."""
    code = """if True:
        import structlog
        from otel_logging import get_logger
        kinds = structlog.processors.CallsiteParameter
        adder = structlog.processors.CallsiteParameterAdder({kinds.FUNC_NAME})
        structlog.configure(processors=[adder, structlog.processors.JSONRenderer()])
        def work():
            get_logger("shop").info("before")
        work()
    """
    assert parsed(script(code).stdout) == [{"event": "before", "func_name": "work"}]


def test_a_standard_loggers_parts(lines: Lines) -> None:
    """Of ``structlog.stdlib.get_logger`` and ours; a level set in code holds for lines."""
    for log in (structlog.stdlib.get_logger("parts"), get_logger("parts")):
        standard: Any = log
        assert standard.name == "parts"
        assert standard.handlers == []
        assert standard.propagate
        assert standard.parent is logging.root
        assert not standard.disabled
        assert standard.isEnabledFor(10)
        standard.setLevel(logging.ERROR)
        assert standard.level == standard.getEffectiveLevel() == logging.ERROR
        assert not standard.isEnabledFor(30)
        log.warning("below")
        get_logger("parts.child").warning("below")
        standard.setLevel(logging.NOTSET)
        log.warning("above")
    assert [line["event"] for line in lines()] == ["above", "above"]


def test_objects_say_how_they_are_logged(lines: Lines, service: Service) -> None:
    """``__structlog__``, bound or given, inside others; one that returns itself ends."""

    class Order:
        def __structlog__(self) -> Any:
            return {"order": "o1", "items": (1, 2)}

    class Endless:
        def __structlog__(self) -> Any:
            return self

        def __repr__(self) -> str:
            return "<endless>"

    class Rude:
        def __structlog__(self) -> Any:
            raise OSError

    with traced("turn"):
        log.bind(order=Order()).info("e", inner=[Order()], endless=Endless(), rude=Rude())
    (line,) = lines()
    expected = {"order": "o1", "items": [1, 2]}
    assert (line["order"], line["inner"]) == (expected, [expected])
    assert line["endless"] == "<endless>"
    assert line["rude"] == "<unprintable Rude>"
    (event,) = service.one("turn").events
    assert "o1" in str(event.attributes["order"])
