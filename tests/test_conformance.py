"""One table: what a call says is the same on the console, in JSON, and on the span.

A row is an explanation, one call inside a span, and the fields that it gives.
``level`` is info and ``logger`` is shop, unless the row says otherwise; time and
trace ids are every line's, and not of the table.
"""

import enum
import json
import logging
import math
import re
import sys
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import PurePosixPath
from typing import Any
from unittest.mock import Mock
from uuid import UUID

import numpy
import pytest
import structlog
from opentelemetry import trace

from otel_logging import (
    TaggedLogger,
    bind_context,
    bound_context,
    configure_logging,
    format_background_log,
    get_logger,
    tag_background_logger,
    traced,
)
from otel_logging.testing import capture
from tests.conftest import Service
from tests.lines import parsed

log: Any = get_logger("shop")
stdlib = logging.getLogger("shop")
tagged = TaggedLogger(stdlib)
NOT_OF_THE_TABLE = ("timestamp", "trace_id", "span_id", "trace_flags")


@dataclass
class Account:
    id: int = 1
    password: str = field(default="hidden", repr=False)


class Ending(str):
    """A text of which the end is known: of a traceback."""

    __slots__ = ()
    __hash__ = str.__hash__

    def __eq__(self, other: object) -> bool:
        return isinstance(other, str) and other.endswith(str(self))


class Shortened(str):
    """A text that is too long for any output: its ends are there, and it is 8 KiB."""

    __slots__ = ()
    __hash__ = str.__hash__

    def __eq__(self, other: object) -> bool:
        same_ends = isinstance(other, str) and (other[:99], other[-99:]) == (self[:99], self[-99:])
        return same_ends and len(str(other)) <= 8192 < len(self)


@dataclass(frozen=True)
class Row:
    explanation: str
    call: Callable[[], Any]
    fields: Mapping[str, Any]
    on_span: Mapping[str, Any] = field(default_factory=dict)  # what differs there
    on_console: tuple[str, ...] | None = None  # what is shown, where it is not key=value


class Color(enum.Enum):
    RED = "red"


class Broken:
    def __repr__(self) -> str:
        raise RuntimeError("broken")


class UnspeakableError(Exception):
    def __str__(self) -> str:
        raise RuntimeError("broken")


def bound(call: Callable[[], Any], **given: Any) -> Callable[[], None]:
    def bind_and_call() -> None:
        bind_context(**given)
        call()

    return bind_and_call


def raising(call: Callable[[], Any], error: Exception | None = None) -> Callable[[], None]:
    def raise_and_call() -> None:
        try:
            raise error or ValueError("no stock")
        except Exception:
            call()

    return raise_and_call


def job(call: Callable[[], Any], tag: str = "PRICE_CACHE") -> Callable[[], None]:
    return tag_background_logger(tag)(lambda: call())


RAISED_AT = Ending(" in raising.<locals>.raise_and_call")
NO_STOCK_UNRAISED = {
    "exception": Ending("ValueError: no stock"),
    "exception.type": "ValueError",
    "exception.message": "no stock",
}
NO_STOCK = {**NO_STOCK_UNRAISED, "exception.where": RAISED_AT}
NOT_FITTING = {
    "event": "%d items",
    "format_error": "TypeError: %d format: a real number is required, not str",
    "format_args": ["three"],
}

OF_GET_LOGGER = [
    Row("a message", lambda: log.info("order placed"), {"event": "order placed"}),
    Row("no message at all", lambda: log.info(), {"event": ""}),
    Row(
        "fields of every plain kind",
        lambda: log.info("e", text="word", words="two words", n=1, x=1.5, yes=True, none=None),
        {"event": "e", "text": "word", "words": "two words", "n": 1, "x": 1.5, "yes": True}
        | {"none": None},
    ),
    *[
        Row(f"level {level}", getattr(log, level), {"event": "", "level": level})
        for level in ("debug", "info", "warning", "error", "critical")
    ],
    Row("a level by name", lambda: log.log("warning", "e"), {"event": "e", "level": "warning"}),
    Row("a level of one's own", lambda: log.log(25, "e"), {"event": "e", "level": "level 25"}),
    Row(
        "%-arguments",
        lambda: log.info("%s of %d", "one", 3, n=1),
        {"event": "one of 3", "n": 1},
    ),
    Row("a % without arguments", lambda: log.info("50%d"), {"event": "50%d"}),
    Row(
        "%-arguments that do not fit",
        lambda: log.info("%d items", "three"),
        NOT_FITTING,
    ),
    Row(
        "a logger with fields of its own, and more bound to it",
        lambda: get_logger("shop", shelf=1).bind(row=2).info("e"),
        {"event": "e", "shelf": 1, "row": 2},
    ),
    Row("bound context", bound(lambda: log.info("e"), user="u"), {"event": "e", "user": "u"}),
    Row("the call's own wins", bound(lambda: log.info("e", n=2), n=1), {"event": "e", "n": 2}),
    Row(
        "bound for a block",
        lambda: bound_context(n=1)(log.info)("e"),
        {"event": "e", "n": 1},
    ),
    Row(
        "reserved names are kept, with an underscore",
        lambda: log.info("e", level="l", logger="x", timestamp="t", span_id="s", exception="no"),
        {"event": "e", "level_": "l", "logger_": "x", "timestamp_": "t", "span_id_": "s"}
        | {"exception_": "no"},
    ),
    Row("a field called event", lambda: log.info("e", event="f"), {"event": "e", "event_": "f"}),
    Row(
        "reserved names that are bound",
        bound(lambda: log.info("e"), level="l", job_tag="j"),
        {"event": "e", "level_": "l", "job_tag_": "j"},
    ),
    Row(
        "a trace id given by hand",
        lambda: log.info("e", trace_id="req-1"),
        {"event": "e", "request_id": "req-1"},
    ),
    Row("a job tag", job(lambda: log.info("e")), {"event": "e", "job_tag": "PRICE_CACHE"}),
    Row(
        "the inner tag",
        job(job(lambda: log.info("e")), "X"),
        {"event": "e", "job_tag": "PRICE_CACHE"},
    ),
    Row(
        "format_background_log",
        lambda: log.info(format_background_log("PNL_CALC", "done")),
        {"event": "done", "job_tag": "PNL_CALC"},
    ),
    Row(
        "an exception that is handled",
        raising(lambda: log.exception("failed")),
        {"event": "failed", "level": "error", **NO_STOCK},
    ),
    Row(
        "an exception that is given",
        lambda: log.warning("failed", exc_info=ValueError("no stock")),
        {"event": "failed", "level": "warning", **NO_STOCK_UNRAISED},
    ),
    Row(
        "an exception that cannot be told",
        raising(lambda: log.error("failed", exc_info=True), UnspeakableError()),
        {
            "event": "failed",
            "level": "error",
            "exception": Ending("UnspeakableError: <exception str() failed>"),
            "exception.type": "tests.test_conformance.UnspeakableError",
            "exception.message": "<unprintable UnspeakableError>",
            "exception.where": RAISED_AT,
        },
    ),
    Row("exc_info without one", lambda: log.info("e", exc_info=True), {"event": "e"}),
    Row(
        "a stack",
        lambda: log.info("e", stack_info=True),
        {"event": "e", "stack": Ending('log.info("e", stack_info=True),')},
    ),
    Row("bytes", lambda: log.info("e", b=b"\x00a"), {"event": "e", "b": r"b'\x00a'"}),
    Row(
        "NaN and infinity, which JSON has not",
        lambda: log.info("e", nan=math.nan, inf=math.inf),
        {"event": "e", "nan": "NaN", "inf": "Infinity"},
    ),
    Row(
        "nested values",
        lambda: log.info("e", cart={"items": [1, (2,), {3}], 4: None}),
        {"event": "e", "cart": {"items": [1, [2], [3]], "4": None}},
    ),
    Row(
        "numpy's scalars and arrays",
        lambda: log.info("e", yes=numpy.bool_(True), row=numpy.array([1.5, 2])),
        {"event": "e", "yes": True, "row": [1.5, 2.0]},
    ),
    Row(
        "a dataclass, without what its repr hides",
        lambda: log.info("e", account=Account()),
        {"event": "e", "account": {"id": 1}},
    ),
    Row("an enum", lambda: log.info("e", c=Color.RED), {"event": "e", "c": "red"}),
    Row(
        "values with a text of their own",
        lambda: log.info(
            "e",
            at=datetime(2026, 1, 2, tzinfo=UTC),
            id=UUID(int=1),
            price=Decimal("1.10"),
            path=PurePosixPath("/tmp/x"),
            error=KeyError("k"),
        ),
        {
            "event": "e",
            "at": "2026-01-02T00:00:00+00:00",
            "id": "00000000-0000-0000-0000-000000000001",
            "price": "1.10",
            "path": "/tmp/x",
            "error": "KeyError: 'k'",
        },
    ),
    Row(
        "a whole number of any size",
        lambda: log.info("e", n=1 << 70),
        {"event": "e", "n": str(1 << 70)},
    ),
    Row(
        "a value that cannot be shown",
        lambda: log.info("e", b=Broken()),
        {"event": "e", "b": "<unprintable Broken>"},
    ),
    Row(
        "a very long text",
        lambda: log.info("e", t="x" * 20_000),
        {"event": "e", "t": Shortened("x" * 20_000)},
        on_console=("t='" + "x" * 99,),
    ),
    Row(
        "a message that is no text",
        lambda: log.info(404),
        {"event": 404},
        on_span={"event": "404"},
    ),
    Row(
        "control characters, which a terminal would obey",
        lambda: log.info("a\x1b[2Jb", t="c\nd"),
        {"event": "a\x1b[2Jb", "t": "c\nd"},
        on_console=(r"a\x1b[2Jb", r"t='c\nd'"),
    ),
    Row(
        "half a character",
        lambda: log.info("\ud800", t="\ud800"),
        {"event": r"\ud800", "t": r"\ud800"},
    ),
    Row("characters of any script", lambda: log.info("заказ 🛒"), {"event": "заказ 🛒"}),
]


def with_a_handler_of_its_own() -> None:
    logger = logging.getLogger("flask.app")
    handler = logging.StreamHandler()
    logger.addHandler(handler)
    logger.propagate = False
    try:
        logger.info("price of %s is %.2f", "X", 1.5)
    finally:
        logger.propagate = True
        logger.removeHandler(handler)


def warned() -> None:
    with warnings.catch_warnings(action="default"):
        warnings.warn_explicit("soon", DeprecationWarning, "cart.py", 12)


OF_OTHERS = [
    Row("the standard library", lambda: stdlib.info("x %s", "y"), {"event": "x y"}),
    Row("with a mapping", lambda: stdlib.info("x %(a)s", {"a": 1}), {"event": "x 1"}),
    Row(
        "a logger with a handler of its own, like Flask's",
        with_a_handler_of_its_own,
        {"event": "price of X is 1.50", "logger": "flask.app"},
    ),
    Row("extra fields", lambda: stdlib.info("e", extra={"n": 1}), {"event": "e", "n": 1}),
    Row(
        "extra fields with reserved names",
        lambda: stdlib.info("e", extra={"level": "l", "event": "f", "trace_id": "r"}),
        {"event": "e", "level_": "l", "event_": "f", "request_id": "r"},
    ),
    Row(
        "%-arguments of the standard library that do not fit",
        lambda: stdlib.info("%d items", "three"),
        NOT_FITTING,
    ),
    Row(
        "an exception of the standard library",
        raising(lambda: stdlib.exception("failed")),
        {"event": "failed", "level": "error", **NO_STOCK},
    ),
    Row(
        "a level of the standard library's",
        lambda: stdlib.log(25, "e"),
        {"event": "e", "level": "level 25"},
    ),
    Row("bound context, elsewhere", bound(lambda: stdlib.info("e"), n=1), {"event": "e", "n": 1}),
    Row(
        "a line nobody edited, in a job",
        job(lambda: stdlib.info("e %s", 1)),
        {"event": "e 1", "job_tag": "PRICE_CACHE"},
    ),
    Row("TaggedLogger without a tag", lambda: tagged.info("e %s", 1), {"event": "e 1"}),
    Row(
        "TaggedLogger in a job",
        job(lambda: tagged.info("50%%")),
        {"event": "50%%", "job_tag": "PRICE_CACHE"},
    ),
    Row(
        "TaggedLogger with arguments",
        job(lambda: tagged.warning("%s%%", 50)),
        {"event": "50%", "job_tag": "PRICE_CACHE", "level": "warning"},
    ),
    Row(
        "TaggedLogger with an exception",
        job(raising(lambda: tagged.exception("failed"))),
        {"event": "failed", "job_tag": "PRICE_CACHE", "level": "error"} | NO_STOCK,
    ),
    Row(
        "format_background_log, elsewhere",
        lambda: stdlib.info(format_background_log("PNL_CALC", "done")),
        {"event": "done", "job_tag": "PNL_CALC"},
    ),
    Row(
        "a warning",
        warned,
        {
            "event": "soon",
            "level": "warning",
            "logger": "py.warnings",
            "category": "DeprecationWarning",
        }
        | {"code.file.path": "cart.py", "code.line.number": 12},
    ),
]

ROWS = OF_GET_LOGGER + OF_OTHERS
each_row = pytest.mark.parametrize("row", ROWS, ids=lambda row: row.explanation)


def whole(row: Row) -> dict[str, Any]:
    return {"level": "info", "logger": "shop", **row.fields}


def said_by(row: Row, environment: str) -> dict[str, Any]:
    """Make the row's call in a span of its own, and return the one event that it left there."""
    with capture(log_level="debug") as captured:
        configure_logging(environment=environment)
        with traced("request"):
            row.call()
    (event,) = captured.span("request")["events"]
    return {"event": event["name"], **event["attributes"]}


@each_row
def test_a_call_is_one_json_object(row: Row, capsys: pytest.CaptureFixture[str]) -> None:
    """One object on one line, with these fields and no other."""
    said_by(row, "production")
    (text,) = capsys.readouterr().out.splitlines()
    line = json.loads(text)
    assert {key: value for key, value in line.items() if key not in NOT_OF_THE_TABLE} == whole(row)
    assert line.keys() >= set(NOT_OF_THE_TABLE)


@each_row
def test_a_call_with_the_process_stdout_is_the_same_line(
    row: Row,
    service: Service,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Where ``sys.stdout`` is the process's own, as in a service: the same line and event."""
    monkeypatch.setattr(sys, "stdout", sys.__stdout__)
    monkeypatch.setattr(logging.root, "handlers", [])  # pytest's
    configure_logging(environment="production", log_level="debug")
    with traced("request"):
        row.call()
    (line,) = parsed(capfd.readouterr().out)
    (event,) = service.one("request").events
    assert {key: value for key, value in line.items() if key not in NOT_OF_THE_TABLE} == whole(row)
    assert line.keys() >= set(NOT_OF_THE_TABLE)
    assert list(line)[:4] == ["timestamp", "level", "event", "logger"]
    assert {"event": event.name, **event.attributes} == {**whole(row), **row.on_span}


@each_row
def test_a_call_is_one_event_of_its_span(row: Row) -> None:
    """One event, with the same fields."""
    assert said_by(row, "production") == {**whole(row), **row.on_span}


@each_row
def test_a_call_is_one_console_line(row: Row, capsys: pytest.CaptureFixture[str]) -> None:
    """One line, with the same fields, and a traceback below."""
    said_by(row, "development")
    line, _, below = capsys.readouterr().out.partition("\n")
    fields = whole(row)
    tag = f"[{fields['job_tag']}] " if "job_tag" in fields else ""
    shown = row.on_console or (
        f"{tag}{fields['event']}",
        *[f"{key}={on_console(fields[key])}" for key in fields if key not in SHOWN_OTHERWISE],
    )
    start = re.match(rf"\d\d:\d\d:\d\d\.\d\d\d {fields['level']} +", line)
    assert start is not None
    assert line[start.end() :].startswith(tag)
    assert [part for part in shown if part not in line] == []
    assert re.search(rf"  {fields['logger']} ·[0-9a-f]{{8}}$", line)
    endings = [fields[key] for key in ("stack", "exception") if key in fields]
    assert [ending for ending in endings if ending not in below] == []
    assert bool(below) == bool(endings)


SHOWN_OTHERWISE = {
    *("event", "level", "logger", "job_tag", "stack", "exception"),
    *("exception.type", "exception.message", "exception.where"),  # of the traceback below
}


def on_console(value: Any) -> str:
    """Return a value as it is written in docs/logging.md."""
    if isinstance(value, str):
        return value if re.fullmatch(r"[^\s\"'=]+", value) else repr(value)
    return (
        json.dumps(value, separators=(",", ":")) if isinstance(value, (dict, list)) else str(value)
    )


#: Calls of which the line needs a closer look, or has a part that others have not.
STRAIGHT_OR_NOT: dict[str, tuple[Callable[[], object], dict[str, Any]]] = {
    "structlog's own binding": (
        lambda: structlog.contextvars.bind_contextvars(of_structlog=1),
        {"of_structlog": 1},
    ),
    "a bound value that may change": (lambda: bind_context(bound=[1]), {"bound": [1]}),
    "a bound field with a reserved name": (lambda: bind_context(level="x"), {"level_": "x"}),
    "a bound trace_id": (lambda: bind_context(trace_id="r"), {"request_id": "r"}),
    "a bound field that the call has too": (lambda: bind_context(n="bound"), {"n": 7}),
}


@pytest.mark.parametrize("case", STRAIGHT_OR_NOT)
def test_what_is_bound_is_on_the_straight_line(
    case: str,
    service: Service,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whatever it is, and whoever has bound it."""
    bind, fields = STRAIGHT_OR_NOT[case]
    monkeypatch.setattr(sys, "stdout", sys.__stdout__)
    monkeypatch.setattr(logging.root, "handlers", [])  # pytest's
    with traced("request"), bound_context(around=0.5):
        bind()
        log.info("first", n=7, large=2**70, wide=True)
        log.info("second", n=7)
        structlog.contextvars.clear_contextvars()
    first, second = parsed(capfd.readouterr().out)
    events = service.one("request").events
    assert [event.name for event in events] == ["first", "second"]
    wanted = {"around": 0.5, "n": 7, **fields}
    assert {**first, **wanted} == first
    assert {**second, **wanted} == second
    assert first["wide"] is True
    assert first["large"] == str(2**70)
    for event in events:
        assert {**event.attributes, **wanted} == event.attributes


def test_a_line_that_is_too_much_is_shortened(
    service: Service, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each value is of an ordinary length, and they are too many."""
    monkeypatch.setattr(sys, "stdout", sys.__stdout__)
    monkeypatch.setattr(logging.root, "handlers", [])  # pytest's
    with traced("request"):
        log.info("many", **{f"field_{number}": "x" * 8000 for number in range(50)})
        log.info("very " * 5000)
        log.info("more than 128 attributes", **{f"n{number}": number for number in range(200)})
    many, long, more = capfd.readouterr().out.splitlines(keepends=True)
    assert len(many) <= 256 << 10
    assert len(json.loads(long)["event"]) == 8192
    assert len(json.loads(more)) > 200
    *_, event = service.one("request").events
    assert len(event.attributes) == 128


def test_a_straight_line_of_a_job_or_in_a_span_that_is_no_span(
    service: Service, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A tag that the message begins with is the field; what fails has its line all the same."""
    monkeypatch.setattr(sys, "stdout", sys.__stdout__)
    monkeypatch.setattr(logging.root, "handlers", [])  # pytest's
    with traced("request"):
        job(lambda: log.info("[PRICE_CACHE] refreshed"))()
        log.info("long", value="y" * 9000)
    with trace.use_span(Mock(otel_logging_closed=False), end_on_exit=False):
        log.info("in a mock")
    tagged_line, long, mocked = parsed(capfd.readouterr().out)
    assert (tagged_line["event"], tagged_line["job_tag"]) == ("refreshed", "PRICE_CACHE")
    assert len(long["value"]) <= 8192
    assert "more]…" in long["value"]
    assert mocked["event"] == "in a mock"
    first, second = service.one("request").events
    assert (first.name, first.attributes["job_tag"]) == ("refreshed", "PRICE_CACHE")
    assert second.attributes["value"] == long["value"]
