"""``plain``: whatever a user logs becomes bounded plain data, and never an exception."""

import math
import numbers
from array import array
from collections import UserString, deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum, IntFlag, StrEnum
from fractions import Fraction
from ipaddress import ip_address, ip_network
from pathlib import PurePosixPath
from types import MappingProxyType
from typing import Any
from uuid import UUID

import attrs
import msgspec
import numpy
import pandas
import pydantic
import pydantic.v1
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from otel_logging._values import MAX_CHARACTERS, MAX_NODES, MAX_TEXT, plain, shorten
from otel_logging._values import field as named


class Colour(Enum):
    RED = "red"
    PAIR = (1, 2)


class Size(StrEnum):
    BIG = "big"


class Mode(IntFlag):
    READ = 4


@dataclass
class Column:
    """No array, though it says what its values are."""

    dtype: str = "int"


class Series(list[int]):
    """As another library's: an array without a number of dimensions."""

    dtype = "int"

    def __init__(self) -> None:
        super().__init__([1, 2])

    def __array__(self) -> Any:
        raise NotImplementedError


class OpenOrder(pydantic.BaseModel, extra="allow"):
    id: int


class Hostile:
    """Raises wherever Python lets it."""

    def _no(self, *_: object) -> Any:
        raise RuntimeError("no")

    __repr__ = __str__ = __len__ = __iter__ = __bool__ = __hash__ = __eq__ = __getattr__ = _no


class HostileClass(Hostile):
    __class__ = property(Hostile._no)  # type: ignore[assignment]


class HostileName(type):
    __name__ = property(Hostile._no)  # type: ignore[assignment]


class HostileType(Hostile, metaclass=HostileName):
    pass


class HostileList(list[int]):
    __len__ = __iter__ = Hostile._no


class HostileDict(dict[str, int]):
    items = __len__ = Hostile._no


class Endless(Mapping[str, int]):
    """Says it is empty, and never ends."""

    def __getitem__(self, key: str) -> int:
        return 1

    def __iter__(self) -> Iterator[str]:
        number = 0
        while True:
            number += 1
            yield str(number)

    def __len__(self) -> int:
        return 0


class Proxy:
    """Says it is what it stands for, as werkzeug's LocalProxy does."""

    def __init__(self, target: Any) -> None:
        self._target = target

    __class__ = property(lambda self: type(self._target))  # type: ignore[assignment]

    def __str__(self) -> str:
        return str(self._target)

    def __int__(self) -> int:
        return int(self._target)

    def __bool__(self) -> bool:
        return bool(self._target)


class Loud(str):
    __slots__ = ()

    def __str__(self) -> str:
        return self.upper()


class NumpyLike:
    """A number that is none of Python's types, registered as numpy registers its own."""

    def __init__(self, value: Any) -> None:
        self._value = value

    def __int__(self) -> int:
        return int(self._value)

    def __float__(self) -> float:
        return float(self._value)


class NumpyFloat(NumpyLike):
    pass


@dataclass
class Account:
    id: int = 1
    password: str = field(default="hidden", repr=False)
    owner: "Account | None" = None


@dataclass
class Opening:
    """Not yet open: a field has no value."""

    id: int = 1
    balance: int = field(init=False)


@attrs.define
class AttrsAccount:
    id: int = 1
    password: str = attrs.field(default="hidden", repr=False)
    pin: str = attrs.field(default="1234", repr=lambda pin: "*" * len(pin))


class Order(pydantic.BaseModel):
    id: int = 1
    key: pydantic.SecretStr = pydantic.SecretStr("hidden")
    password: str = pydantic.Field("hidden", repr=False)


class OldOrder(pydantic.v1.BaseModel):
    id: int = 1
    password: str = pydantic.v1.Field("hidden", repr=False)


class Message(msgspec.Struct):
    id: int = 1
    text: str = "hello"


@dataclass
class RejectedError(Exception):
    number: int

    def __str__(self) -> str:
        return str(self.number)


numbers.Integral.register(NumpyLike)
numbers.Real.register(NumpyFloat)

CYCLE: list[Any] = []
CYCLE.append(CYCLE)

ODD = [
    Hostile(),
    HostileClass(),
    HostileType(),
    HostileList(),
    HostileDict(),
    Endless(),
    CYCLE,
    Proxy("x"),
    Proxy(1),
    Proxy(True),
    Loud("quiet"),
    Colour.RED,
    Colour.PAIR,
    Size.BIG,
    Mode.READ,
    Fraction(10**400),
    Decimal("1.50"),
    10**5000,
    -(2**63) - 1,
    math.inf,
    object,
    ValueError("bad"),
    b"\xff\x00",
    memoryview(b"abc"),
    "\ud800",
    {1, 2},
    range(3),
]

# around the bound
_LENGTHS = st.sampled_from([MAX_CHARACTERS - 1, MAX_CHARACTERS, MAX_CHARACTERS + 1, 9000])
_SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters(), max_size=40)
    | st.binary(max_size=40)
    | st.decimals()
    | st.datetimes()
    | st.uuids()
    | _LENGTHS.map("ä".__mul__)
    | _LENGTHS.map(b"\n".__mul__)
    | st.integers(0, len(ODD) - 1).map(lambda n: ODD[n])  # a sampler would look at them
)
_KEYS = st.text(max_size=3) | st.integers(0, 3) | st.none() | st.just("k" * 300) | st.just((1, 2))


def _containers(items: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return (
        st.lists(items, max_size=5)
        | st.lists(items, max_size=5).map(tuple)
        | st.dictionaries(_KEYS, items, max_size=5)
        # many of the same: what the bound on all depths together is about
        | st.tuples(items, st.integers(0, 1200)).map(lambda pair: [pair[0]] * pair[1])
    )


VALUES = st.recursive(_SCALARS, _containers, max_leaves=12)


def _nodes(value: Any) -> Iterator[Any]:
    yield value
    if type(value) is list:
        for item in value:
            yield from _nodes(item)
    elif type(value) is dict:
        for key, item in value.items():
            assert type(key) is str
            assert len(key) <= 256
            yield from _nodes(item)


def _same(one: Any, other: Any) -> bool:
    return repr(one) == repr(other)  # NaN is NaN, 1 is not True


@given(VALUES)
def test_every_value_becomes_bounded_plain_data_and_stays_as_it_is_then(value: Any) -> None:
    """Total, of plain types alone, bounded, idempotent."""
    result = plain(value)
    nodes = list(_nodes(result))
    assert {type(node) for node in nodes} <= {str, int, float, bool, type(None), list, dict}
    assert len(nodes) <= MAX_NODES
    texts = [len(node) for node in nodes if type(node) is str]
    assert max(texts, default=0) <= MAX_CHARACTERS
    assert sum(texts) <= MAX_TEXT + 32 * MAX_NODES
    assert all(-(2**63) <= node < 2**63 for node in nodes if type(node) is int)
    assert _same(plain(result), result)


@settings(deadline=None)
@given(st.text(), st.integers(0, 60))
def test_a_shortened_text_says_how_much_is_missing(text: str, limit: int) -> None:
    """Never longer than the limit; beginning, number of missing characters and end add up."""
    result = shorten(text, limit)
    assert len(result) <= limit or result == text
    if len(text) <= limit:
        assert result == text
    elif limit >= 20:
        head, rest = result.split("…[", 1) if "…[" not in text else ("", "")
        if head or rest:
            missing, tail = rest.split(" more]…", 1)
            assert len(head) + int(missing) + len(tail) == len(text)
            assert text.startswith(head)
            assert text.endswith(tail)


CASES: list[tuple[Any, Any]] = [
    ("text", "text"),
    (None, None),
    (True, True),
    (1.5, 1.5),
    (2**63 - 1, 2**63 - 1),
    (2**63, "9223372036854775808"),
    (-(2**63), -(2**63)),
    (-(2**63) - 1, "-9223372036854775809"),
    (10**5000, "<unprintable int>"),  # more digits than Python writes
    (math.nan, "NaN"),
    ([math.inf, -math.inf], ["Infinity", "-Infinity"]),
    (Colour.RED, "red"),
    (Colour.PAIR, [1, 2]),
    (Size.BIG, "big"),
    (Mode.READ, 4),
    (NumpyLike(7), 7),
    (NumpyFloat(0.5), 0),  # both registered: an Integral first of all
    (Fraction(1, 4), 0.25),
    (Decimal("1.50"), "1.50"),
    (UUID(int=1), "00000000-0000-0000-0000-000000000001"),
    (PurePosixPath("/a/b"), "/a/b"),
    (timedelta(seconds=90), "0:01:30"),
    (datetime(2026, 1, 2, 3, 4, tzinfo=UTC), "2026-01-02T03:04:00+00:00"),
    (date(2026, 1, 2), "2026-01-02"),
    (time(3, 4), "03:04:00"),
    (b"\xff\x00a", r"b'\xff\x00a'"),
    (bytearray(b"a"), "b'a'"),
    (memoryview(b"a"), "b'a'"),
    (ValueError("bad"), "ValueError: bad"),
    ((1, [2, {"a": 3}]), [1, [2, {"a": 3}]]),
    (MappingProxyType({"a": (1,)}), {"a": [1]}),
    (frozenset({1}), [1]),
    ({1: "a", "1": "b", None: "c"}, {"1": "a", "1_2": "b", "None": "c"}),
    ({(1, 2): "a"}, {"[1, 2]": "a"}),
    (range(3), [0, 1, 2]),
    (deque([1]), [1]),
    (array("i", [1, 2]), [1, 2]),
    ({1: 2}.values(), [2]),
    ({1: 2}.items(), [[1, 2]]),
    (ip_address("10.0.0.1"), "10.0.0.1"),
    (ip_network("fe80::/64"), "fe80::/64"),
    (numpy.bool_(True), True),
    (numpy.float32("nan"), "NaN"),
    (numpy.longdouble(2.5), 2.5),
    (numpy.complex64(1j), "1j"),
    (numpy.array(5), 5),
    (numpy.array([[1.5, 2.0]]), [[1.5, 2.0]]),
    (numpy.array(["a"]), ["a"]),
    (numpy.datetime64("2026-01-01T10:00:00.000000001"), "2026-01-01T10:00:00.000000001"),
    (numpy.timedelta64(5_000_000_000, "ns"), "0:00:05"),
    (numpy.timedelta64(5, "ns"), "5 nanoseconds"),
    (numpy.timedelta64("NaT", "ns"), "NaT"),
    (numpy.ma.array([1, 2], mask=[0, 1]), [1, None]),
    (numpy.ma.masked, None),
    (UserString("text"), "text"),
    (Column(), {"dtype": "int"}),
    (Series(), [1, 2]),
    (OpenOrder(id=1, more=2), {"id": 1, "more": 2}),  # type: ignore[call-arg]
    (Account(), {"id": 1, "owner": None}),
    (Account, "<class 'tests.test_values.Account'>"),
    (AttrsAccount(), {"id": 1, "pin": "****"}),
    (Opening(), {"id": 1}),
    (Order.model_construct(id=1), {"id": 1, "key": "**********"}),
    (Order(), {"id": 1, "key": "**********"}),
    (OldOrder(), {"id": 1}),
    (Message(), {"id": 1, "text": "hello"}),
    (RejectedError(3), "RejectedError: 3"),
    (Loud("quiet"), "quiet"),
    (Proxy("x"), "x"),
    (Proxy(3), 3),
    (Proxy(True), True),
    ("\ud800", "\ud800"),
    (Hostile(), "<unprintable Hostile>"),
    (HostileClass(), "<unprintable HostileClass>"),
    (HostileType(), "<unprintable HostileType>"),
    ([HostileList()], ["<unprintable HostileList>"]),
    (HostileDict(), "<unprintable HostileDict>"),
    (Fraction(10**400), "<unprintable Fraction>"),
]


# by number: pytest would look at the values to name the tests
@pytest.mark.parametrize("number", range(len(CASES)))
def test_each_value_becomes_exactly_this_plain_value(number: int) -> None:
    """One value, one result."""
    value, expected = CASES[number]
    assert _same(plain(value), expected)


def test_pandas_own_values_are_texts_and_lists() -> None:
    assert plain(pandas.Period("2026-01")) == "2026-01"
    assert plain(pandas.Interval(0, 1)) == "(0, 1]"
    assert plain(pandas.Series(pandas.to_timedelta([90], unit="s"))) == ["0 days 00:01:30"]
    assert plain(pandas.array([1, None], dtype="Int64")) == [1, None]
    assert plain([pandas.NaT, pandas.Timestamp("2026-01-01", tz="UTC")]) == [
        "NaT",
        "2026-01-01T00:00:00+00:00",
    ]


def test_a_cycle_ends_at_the_depth_bound() -> None:
    """A container that holds itself is told by its size where the depth ends."""
    assert plain(CYCLE) == [[[[[["<list of 1>"]]]]]]
    deep: dict[str, Any] = {}
    deep["self"] = deep
    assert "<dict of 1>" in str(plain(deep))
    account = Account()
    account.owner = account
    assert "<Account of 2>" in str(plain(account))


def test_what_does_not_fit_is_counted() -> None:
    """A cut container says how many are missing; a value that lies about its size still ends."""
    result = plain([str(n) for n in range(5000)])
    assert result[-1] == f"… {5000 - len(result) + 1} more"
    result = plain({str(n): n for n in range(5000)})
    assert result["…"] == f"{5000 - len(result) + 1} more"
    assert MAX_NODES - 20 < len(plain(Endless())) < MAX_NODES
    nested = plain([list(map(str, range(5000))), [1, 2], {"a": 1}, 4])
    assert nested[0][-1].endswith(" more")
    assert nested[1:] == []
    assert plain([list(range(5000)), {"a": 1}])[1] == {"a": 1}
    assert plain({"a": list(range(5000)), "b": 1})["b"] == 1
    assert plain(bytes(9000)).endswith("…[808 more]")


@pytest.mark.parametrize(
    "item",
    [1, 1.5, True, None, "a", {"a": 1}, {"a": 1, "b": {"c": 2}}, [1, 2], [0.5] * 300, Account()],
    ids=str,
)
def test_a_long_list_is_shortened_to_its_own_type(item: Any) -> None:
    """Who reads it as a list of numbers, a matrix, a list of messages still can."""
    result = plain([item] * 5000)
    assert len(result) < 5000
    assert {type(each) for each in result} == {type(plain(item))}
    if isinstance(item, list):
        assert {type(each) for row in result for each in row} == {type(item[0])}


@pytest.mark.parametrize("many", [list, tuple, numpy.array])
def test_a_thousand_values_fit(many: Any) -> None:
    """As the documentation says: of one more, some are missing."""
    assert plain(many([0.5] * 1000)) == [0.5] * 1000
    assert len(plain(many([0.5] * 1001))) < 1001
    mapping = {str(n): n for n in range(1000)}
    assert plain(mapping) == mapping


def test_a_conversation_just_above_its_limit_loses_what_is_above_it() -> None:
    """And not the half behind the cut, where no word ends in it."""
    for size in (65_536, 65_537, 100_000, 140_000):
        kept = len(plain("x" * size, "gen_ai.input.messages"))
        assert min(size, MAX_TEXT) - 4 < kept <= MAX_TEXT


def test_long_texts_share_one_bound() -> None:
    """Many long strings in one field do not make megabytes of it."""
    result = plain(["x" * 5000] * 20)
    assert result[0] == "x" * 5000
    assert len(result[-1]) == 32
    assert sum(map(len, result)) < 2 * MAX_TEXT


def test_no_key_takes_the_place_of_another() -> None:
    """Nor does the new name of one whose own is taken."""
    given = {"1": "a", "1_3": "b", 1: "c"}
    assert list(plain(given).values()) == ["a", "b", "c"]


def test_a_name_that_is_no_text_is_one() -> None:
    assert named(5, "x") == "x"
    assert named(b"password", "x") == "[redacted:password]"
