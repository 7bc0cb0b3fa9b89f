"""Plain data to strict JSON bytes.

In: what ``_values.plain`` returns. Out: UTF-8 on one line, no NaN, no lone
surrogate, and no character that splits lines or that a terminal obeys: those
are escaped. Invariant: never raises for plain data. Deliberately absent: any other type.

``fitted`` shortens fields that are too large together, as JSON or as any other bytes.
"""

import codecs
import math
from collections.abc import Callable, Mapping
from itertools import islice
from json.encoder import encode_basestring_ascii
from typing import Any, Final

import orjson

from otel_logging import _names, _redact
from otel_logging._text import OBEYED, later
from otel_logging._values import field, more_items, plain, shorten


def dumps(value: Any) -> bytes:
    """Write *value*."""
    try:
        line = orjson.dumps(value)
    except TypeError:  # orjson takes no lone surrogate, and no integer of more than 64 bits
        line = orjson.dumps(_valid(value))
    if line.isascii() and 0x7F not in line:  # nearly every line
        return line
    # JSON itself escapes what is below the space
    return OBEYED.sub(lambda found: f"\\u{ord(found.group()):04x}", line.decode()).encode()


def strict(value: Any) -> str:
    """Write *value* in ASCII: any terminal's encoding can print it, and none obeys it."""
    try:
        line = orjson.dumps(value)
    except TypeError:
        line = dumps(value)
    return line.replace(b"\x7f", b"\\u007f").decode().encode("ascii", "otel_logging").decode()


def _escaped(found: Any) -> tuple[str, int]:
    """Return what JSON has for characters that are not ASCII, and where they end."""
    return encode_basestring_ascii(found.object[found.start : found.end])[1:-1], found.end


codecs.register_error("otel_logging", _escaped)


def _valid(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    if isinstance(value, Mapping):
        return {_valid(key): _valid(item) for key, item in value.items()}
    if type(value) is int:
        return value if -(1 << 63) <= value < 1 << 64 else str(value)
    return [_valid(item) for item in value] if isinstance(value, list) else value


def flat(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return *fields* with values that every SDK takes: scalars, lists of one kind of these, and
    JSON in a text for any other.
    """
    return {key: _flat(field(key, value)) for key, value in fields.items()}


def _flat(value: Any) -> Any:
    kinds = {type(each) for each in (value if type(value) is list else (value,))}
    return value if len(kinds) < 2 and kinds <= _SCALARS else dumps(value).decode()


# ---------------------------------------------------------------- too large together

#: The fewest characters that a string keeps: as many as a trace id has.
_SHORTEST: Final = 32
_SCALARS: Final = frozenset({str, bool, int, float})
_KEPT_FIRST: Final = _names.RESERVED | {_names.TIME_NS}
_TRACEBACKS: Final = frozenset({_names.EXCEPTION, _names.STACK, _names.STACKTRACE})
#: A list loses one item where a text loses so many characters.
_ITEM: Final = 8
_MORE: Final = later(r"(?:… )?(\d+) more")


def fitted(
    fields: Mapping[str, Any], limit_bytes: int, encode: Callable[[dict[str, Any]], bytes]
) -> dict[str, Any]:
    """Return *fields*, shortened so that *encode* makes at most *limit_bytes* of them.

    Long values are shortened, tracebacks first; each keeps its type. Fields that still find no room
    are left out, and ``fields_left_out`` says how many. Two fields encoded together
    have to be about as long as the two encoded alone. Cost: about eight times that of *encode*, at
    most. Failure: never raises, unless *encode* does.
    """
    _redact.changed["shortened"] += 1
    whole = {key: plain(value, key) for key, value in fields.items()}
    kept: dict[str, Any] = {}
    low, room, high = 0, _SHORTEST, limit_bytes
    while low * 1.05 < room:
        shorter = {
            key: _shortened(value, max(room // 2, _SHORTEST) if key in _TRACEBACKS else room)
            for key, value in whole.items()
        }
        if len(encode(shorter)) <= limit_bytes:
            low, kept = room, shorter
        elif not low:
            return _first_that_fit(shorter, limit_bytes, encode)
        else:
            high = room
        room = math.isqrt(low * high)
    return kept


def _shortened(value: Any, room: int) -> Any:
    """Return *value* with at most *room* characters of each text, which loses its middle, and one
    item for each ``_ITEM`` of these in a list or mapping, which loses those at its end.
    """
    if isinstance(value, str):
        return shorten(value, room)
    if not isinstance(value, (dict, list)):
        return value
    most = 1 + (room - _SHORTEST) // _ITEM
    more = len(value) - most
    if isinstance(value, dict):
        fields = {key: _shortened(each, room) for key, each in islice(value.items(), most)}
        return fields if more <= 0 else {**fields, "…": f"{more + _left_out(value)} more"}
    items = [_shortened(each, room) for each in value[:most]]
    return items if more <= 0 else items + more_items(more + _left_out(value[-1]), value[-1])


def _left_out(noted: Any) -> int:
    """Return how many items the note in *noted* says are left out already, without itself."""
    found = _MORE.fullmatch(str(noted.get("…") if isinstance(noted, dict) else noted))
    return int(found[1]) - 1 if found else 0


def _first_that_fit(
    fields: dict[str, Any], limit_bytes: int, encode: Callable[[dict[str, Any]], bytes]
) -> dict[str, Any]:
    """Leave out fields that find no room, the application's before ours, and say how many."""
    around = len(encode({}))
    room = limit_bytes - len(encode({_names.FIELDS_LEFT_OUT: len(fields)}))
    room -= limit_bytes >> 8  # what they take together and not alone: a longer length, a space
    kept: dict[str, Any] = {}
    for key in sorted(fields, key=lambda key: key not in _KEPT_FIRST):
        if (taken := len(encode({key: fields[key]})) - around + 1) <= room:  # with a comma
            kept[key] = fields[key]
            room -= taken
    return {**kept, _names.FIELDS_LEFT_OUT: len(fields) - len(kept)}
