"""Plain data as strict JSON: one table and one law."""

import json
import math
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from otel_logging import _json
from otel_logging._values import plain
from tests.lines import parsed

TABLE: list[tuple[str, Any, bytes]] = [
    ("a string", "a", b'"a"'),
    ("not ASCII", "é日", '"é日"'.encode()),
    ("quotes and backslashes", '"\\', b'"\\"\\\\"'),
    ("newlines", "a\nb\r\tc", b'"a\\nb\\r\\tc"'),
    ("line separators", "\x85\u2028\u2029", b'"\\u0085\\u2028\\u2029"'),
    ("a mark that nobody sees", "\ufeff", b'"\\ufeff"'),
    ("what terminals obey", "a\x7f\x9b31m\u202eb", b'"a\\u007f\\u009b31m\\u202eb"'),
    ("the same beside text", "\x80é\x9f\xa0", '"\\u0080é\\u009f\xa0"'.encode()),
    (
        "the same in keys, inside",
        [{"\x7f": {"\u2028": "é"}}],
        '[{"\\u007f":{"\\u2028":"é"}}]'.encode(),
    ),
    ("the same beside a lone surrogate", "\ud800\x7f\x9b", b'"\\\\ud800\\u007f\\u009b"'),
    (
        "neighbours of what is obeyed",
        "~\xa0\u2027\u202f\u2065",
        '"~\xa0\u2027\u202f\u2065"'.encode(),
    ),
    ("a lone surrogate", "a\ud800", b'"a\\\\ud800"'),
    ("none", None, b"null"),
    ("booleans", [True, False], b"[true,false]"),
    ("integers", [0, -1, 2**63 - 1, -(2**63)], b"[0,-1,9223372036854775807,-9223372036854775808]"),
    ("more than 64 bits, as others write", {"a": [2**64]}, b'{"a":["18446744073709551616"]}'),
    ("a float", 0.5, b"0.5"),
    ("no number", math.nan, b"null"),
    ("infinite", [math.inf, -math.inf], b"[null,null]"),
    ("no number beside a lone surrogate", [math.nan, "\udfff"], b'[null,"\\\\udfff"]'),
    ("a mapping", {"b": 1, "a": {}}, b'{"b":1,"a":{}}'),
    ("a lone surrogate as a key", {"\ud800": [1]}, b'{"\\\\ud800":[1]}'),
]


@pytest.mark.parametrize(("explanation", "value", "written"), TABLE, ids=[t[0] for t in TABLE])
def test_each_value_is_these_bytes(explanation: str, value: Any, written: bytes) -> None:
    """These bytes, and no others."""
    assert _json.dumps(value) == written


@pytest.mark.parametrize(("explanation", "value", "written"), TABLE, ids=[t[0] for t in TABLE])
def test_for_any_terminal_the_same_is_written_in_ascii(
    explanation: str, value: Any, written: bytes
) -> None:
    """No terminal obeys any of it."""
    line = _json.strict(value)
    assert line.isascii()
    assert line.isprintable()
    assert json.loads(line) == json.loads(written)


plain_data = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,  # more takes half a minute to draw, and finds nothing else
)


#: What anything else means by a line or an instruction, beside ordinary text.
obeyed = st.text(alphabet="a\x00\n\x7f\x80\x85\x9b\x9f\u061c\u200f\u2028\u2029\u202e\u2069é日")


@given(st.dictionaries(st.text(alphabet=st.characters()) | obeyed, plain_data | obeyed))
def test_any_plain_data_is_one_line_of_strict_json(value: Any) -> None:
    """It means what the standard library reads in its own JSON of the same."""
    line = _json.dumps(value)
    assert len(line.decode().splitlines()) == 1
    assert not re.search(r"[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]", line.decode())
    assert parsed(line + b"\n") == [json.loads(json.dumps(meant(value)))]
    text = _json.strict(value)
    assert re.fullmatch("[ -~]*", text)
    assert json.loads(text) == json.loads(line)


def meant(value: Any) -> Any:
    """Return *value* without what JSON has no way to write."""
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {meant(key): meant(item) for key, item in value.items()}
    return [meant(item) for item in value] if isinstance(value, list) else value


@given(plain_data | st.binary() | st.complex_numbers() | st.dates())
def test_a_flat_value_is_what_any_sdk_takes(value: Any) -> None:
    """A scalar, a list of one kind of these, or JSON text of the rest."""
    kept = plain(value)
    (flat,) = _json.flat({"a": value}).values()
    kinds = {type(each) for each in (flat if type(flat) is list else [flat])}
    assert len(kinds) < 2
    assert kinds <= {str, bool, int, float}
    if type(flat) is type(kept):
        assert flat == kept or flat != flat
    else:
        assert flat == _json.dumps(kept).decode()
        json.loads(flat)
