"""The table of values in docs/logging.md, row by row: on stdout, on the span, in a log record."""

import math
import re
from array import array
from collections import deque, namedtuple
from dataclasses import dataclass, field
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum, Flag
from fractions import Fraction
from ipaddress import ip_address, ip_network
from pathlib import PurePosixPath
from typing import Any, NamedTuple, TypedDict
from uuid import UUID
from zoneinfo import ZoneInfo

import attrs
import httpx
import msgspec
import numpy
import pandas
import pydantic
import pydantic.v1
import pytest
import sqlalchemy
import yarl
from django.utils.functional import SimpleLazyObject, lazystr
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from werkzeug.local import LocalProxy

from otel_logging import configure_logging, get_logger, setup_observability, traced
from tests.conftest import Lines
from tests.lines import ROOT
from tests.receiver import Receiver
from tests.test_conformance import on_console


class Colour(Enum):
    RED = "red"


class Access(Flag):
    READ = 1
    WRITE = 2


class Point(NamedTuple):
    x: int = 1
    password: str = "hunter2"


Twin = namedtuple("Twin", "a b")


class Cart(TypedDict):
    items: int


@dataclass(slots=True)
class Slotted:
    id: int = 1
    password: str = field(default="hunter2", repr=False)


@attrs.define
class Attrs:
    id: int = 1


class Model(pydantic.BaseModel):
    link: pydantic.AnyUrl = pydantic.AnyUrl("http://x/y")
    key: pydantic.SecretStr = pydantic.SecretStr("hunter2")


class OldModel(pydantic.v1.BaseModel):
    id: int = 1


class Struct(msgspec.Struct):
    unset: int | msgspec.UnsetType = msgspec.UNSET
    id: int = 1


class Base(DeclarativeBase):
    pass


class Order(Base):
    __tablename__ = "orders"
    id: Mapped[int] = mapped_column(primary_key=True)

    def __repr__(self) -> str:
        return f"Order({self.id})"


class Own:
    def __structlog__(self) -> Any:
        return {"of its own": (1,)}


class Broken:
    def __str__(self) -> str:
        raise RuntimeError("broken")


def row(statement: str) -> Any:
    engine = sqlalchemy.create_engine("sqlite://")
    try:
        with engine.connect() as connection:
            return connection.execute(sqlalchemy.text(statement)).one()
    finally:
        engine.dispose()


#: The first cell of a row of the table: values, and what they become.
EXAMPLES: dict[str, list[tuple[Any, Any]]] = {
    "`str`, `bool`, `int`, `float`, `None`": [
        *(("text", "text"), (True, True), (3, 3), (1.5, 1.5), (None, None)),
        *((2**70, str(2**70)), (math.nan, "NaN"), (-math.inf, "-Infinity")),
    ],
    "numpy's scalars, an array without dimensions, `Fraction`, pandas' `NA`": [
        *((numpy.int64(3), 3), (numpy.float32("nan"), "NaN"), (numpy.bool_(True), True)),
        *((numpy.str_("a"), "a"), (numpy.array(5), 5), (numpy.ma.masked, None)),
        *((Fraction(1, 4), 0.25), (pandas.NA, None)),
    ],
    "`datetime`, `date`, `time`, numpy's `datetime64`, pandas' `Timestamp`": [
        (datetime(2026, 7, 1, tzinfo=ZoneInfo("Europe/Berlin")), "2026-07-01T00:00:00+02:00"),
        (datetime(2026, 1, 2, 3, 4), "2026-01-02T03:04:00"),
        *((date(2026, 1, 2), "2026-01-02"), (time(3, 4), "03:04:00")),
        (numpy.datetime64("2026-01-01T10:00"), "2026-01-01T10:00"),
        *((numpy.datetime64("0001-01-01"), "0001-01-01"), (numpy.datetime64("NaT", "s"), "NaT")),
        (
            [pandas.NaT, pandas.Timestamp("2026-01-01", tz="UTC")],
            ["NaT", "2026-01-01T00:00:00+00:00"],
        ),
    ],
    "`Enum`, a flag": [(Colour.RED, "red"), (Access.READ | Access.WRITE, 3)],
    (
        "`list`, `tuple`, `set`, `range`, `deque`, `array`, a dict's views, an array of numpy or a"
        " series of pandas"
    ): [
        *(([1, [None]], [1, [None]]), ((1, "a"), [1, "a"]), ({1}, [1]), (range(2), [0, 1])),
        *((deque([1]), [1]), (array("i", [1]), [1]), ({"a": 1}.items(), [["a", 1]])),
        (numpy.array([[1.5], [math.nan]]), [[1.5], ["NaN"]]),
        (pandas.Series([1, 2]), [1, 2]),
    ],
    "a mapping": [({1: {"a": (2,)}}, {"1": {"a": [2]}}), (Cart(items=1), {"items": 1})],
    "a named tuple, a row of SQLAlchemy": [
        (Point(), {"x": 1, "password": "[redacted:password]"}),
        *((Twin(1, 2), {"a": 1, "b": 2}), (row("select 1 as a, 'x' as b"), {"a": 1, "b": "x"})),
        (row("select 1 as id, 2 as id"), [1, 2]),
        (row("select 1 as a")._mapping, {"a": 1}),
    ],
    "an instance of a dataclass, an attrs, pydantic or msgspec class": [
        *((Slotted(), {"id": 1}), (Attrs(), {"id": 1}), (OldModel(), {"id": 1})),
        (Model(), {"link": "http://x/y", "key": "**********"}),
        (Struct(), {"id": 1}),
    ],
    "an exception": [(ValueError("no stock"), "ValueError: no stock")],
    "an object with `__structlog__`": [(Own(), {"of its own": [1]})],
    "`bytes`, `bytearray`, `memoryview`": [
        *((b"\xff", r"b'\xff'"), (bytearray(b"a"), "b'a'"), (memoryview(b"a"), "b'a'")),
    ],
    (
        "any other: `timedelta`, `timedelta64`, `Decimal`, `UUID`, `complex`, a path, an IP address"
        " or network, a URL of pydantic, yarl or httpx, a lazy text of Django, a zone, a pattern, a"
        " class, a function, an ORM's instance"
    ): [
        *((timedelta(seconds=90), "0:01:30"), (numpy.timedelta64(90, "s"), "0:01:30")),
        *((Decimal("1.10"), "1.10"), (Decimal("NaN"), "NaN"), (UUID(int=1), str(UUID(int=1)))),
        *((1 + 2j, "(1+2j)"), (PurePosixPath("/a"), "/a"), (ip_address("::1"), "::1")),
        *((ip_network("10.0.0.0/8"), "10.0.0.0/8"), (pydantic.AnyUrl("http://x/"), "http://x/")),
        *((yarl.URL("http://x/y"), "http://x/y"), (httpx.URL("http://x/y"), "http://x/y")),
        *((lazystr("hello"), "hello"), (ZoneInfo("Europe/Berlin"), "Europe/Berlin")),
        *((re.compile("a+"), "re.compile('a+')"), (int, "<class 'int'>")),
        *((len, "<built-in function len>"), (Order(id=2), "Order(2)")),
        (Broken(), "<unprintable Broken>"),
        (pandas.Period("2026-01"), "2026-01"),
    ],
}

#: Of the paragraph below the table.
PROXIES: list[tuple[Any, Any]] = [
    (each(lambda value=value: value), said)
    for each in (LocalProxy, SimpleLazyObject)
    for value, said in (
        *(("text", "text"), ([1], [1]), ({"a": 1}, {"a": 1}), (Colour.RED, "red")),
        *((date(2026, 1, 2), "2026-01-02"), (UUID(int=1), str(UUID(int=1))), (True, True)),
        *((Order(id=2), "Order(2)"), (None, "None")),
    )
] + [(LocalProxy(lambda: 5), 5), (SimpleLazyObject(lambda: 5), "5")]


def test_the_table_is_what_is_tested() -> None:
    page = (ROOT / "docs" / "logging.md").read_text("utf-8")
    table = page.partition("| a value of type | becomes |\n|---|---|\n")[2].partition("\n\n")[0]
    assert [line.split(" | ")[0].removeprefix("| ") for line in table.splitlines()] == [*EXAMPLES]


def test_a_value_says_the_same_everywhere(
    receiver: Receiver, lines: Lines, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On stdout, as attribute of a span, on its event, in a log record."""
    monkeypatch.setenv("OTEL_LOGS_EXPORTER", "otlp,span")
    cases = [*(case for cases in EXAMPLES.values() for case in cases), *PROXIES]
    with setup_observability("shop", environment="production", endpoint=receiver.endpoint):
        for number, (value, _) in enumerate(cases):
            with traced(f"{number}", value=value):
                get_logger("shop").info("said", value=value)
    spans = {span.name: span for span in receiver.spans}
    records = {each.span_id: each for each in receiver.log_records if each.body == "said"}
    said = [line for line in lines() if line["event"] == "said"]
    assert len(said) == len(records) == len(cases)
    for number, (line, (_, expected)) in enumerate(zip(said, cases, strict=True)):
        span = spans[f"{number}"]
        record = records[span.span_id]
        (event,) = span.events
        found = [each["value"] for each in (line, span.attributes, event.attributes)]
        assert list(map(repr, [*found, record.attributes["value"]])) == [repr(expected)] * 4


def test_a_value_says_the_same_on_the_console(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging(environment="development")
    for value, expected in (case for cases in EXAMPLES.values() for case in cases):
        get_logger("shop").info("said", value=value)
        assert f" value={on_console(expected)}  shop\n" in capsys.readouterr().out
