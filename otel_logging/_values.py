"""Any Python value as bounded plain data, for a rendered line and for a span attribute.

In: whatever a user logged or bound. Out: ``str | int | float | bool | None``
and lists and string-keyed dicts of these. Invariant: ``plain`` never raises,
is idempotent, and what it returns has at most ``MAX_NODES`` values, of at most
``MAX_CHARACTERS`` each, or what the limits that are set allow. Deliberately absent:
rendering to text, so a lone surrogate in a string is still there.
"""

import math
import numbers
from collections import UserString
from collections.abc import Iterable, Mapping, Sequence, Set, ValuesView
from datetime import date, time
from enum import Enum
from itertools import count
from typing import Any, Final

from otel_logging import _redact, _runtime
from otel_logging._text import later

MAX_CHARACTERS = 8192  # a string; ten screens of text, more belongs elsewhere
MAX_DEPTH = 6
MAX_NODES = 1014  # values in one field, all depths together: a list of 1,000 and a reserve
MAX_TEXT = 65536  # characters in one field's values, all together: what a page of events may hold
#: Whole conversations, as JSON that is of no use in pieces. OpenTelemetry's and OpenInference's
#: semantic conventions for generative AI.
_LONG: Final = ("gen_ai.", "input.value", "output.value")
#: Of a line, an event, a log record, with all that is around them: Google Cloud Logging takes
#: entries of at most 256 KiB, and other stores about as much.
MAX_RECORD_BYTES = 256 << 10
_MIN_TEXT = 32  # of each string, even if MAX_TEXT is used up: enough to recognise it
_MAX_KEY = 256

_INT64 = 2**63
#: How ``object.__repr__`` and others write an object's address.
_ADDRESS: Final = later(r" at 0x[0-9a-fA-F]{6,}")

#: Ends a word that may be a secret.
_ENDS: Final = later(r"(?=[\s&\"'<])")


def shorten(text: str, limit: int) -> str:
    """Cut *text* in the middle to at most *limit* characters, saying how many are left out."""
    if len(text) <= limit:
        return text
    keep = max(limit - len(f"…[{len(text)} more]…"), 0)
    mark = f"…[{len(text) - keep} more]…"
    return (text[: keep - keep // 2] + mark + text[len(text) - keep // 2 :])[:limit]


def without_addresses(text: str) -> str:
    """Return *text* without addresses of objects, which differ from run to run."""
    return _ADDRESS.sub("", text)


def is_true(value: Any) -> bool:
    """Return ``bool(value)``; True if that raises, as an array's does. Never raises."""
    try:
        return bool(value)
    except Exception:
        return True


class Plain(dict[str, Any]):
    """Attributes that are plain data without secrets already."""


class _Left:
    """What one field may still hold.

    A truncated container gets one extra item: its last, or "… n more". It may be a mapping, and
    *nodes* reserves room for it.
    """

    nodes = MAX_NODES - 2 * MAX_DEPTH - 1  # values
    most = MAX_CHARACTERS  # of one text
    characters = MAX_TEXT  # of all

    def __init__(self, **limits: int) -> None:
        vars(self).update(limits)


def plain(value: Any, key: Any = "") -> Any:
    """Return *value*, of the field *key*, as bounded plain data without secrets.

    Failure: never raises; a value whose own code raises becomes
    ``<unprintable TypeName>``. Cost: one look at the type for plain scalars.
    """
    return _runtime.current.redaction.value(bounded(value, key))


def as_text(value: Any) -> str:
    """Return ``str(value)``, or, if its own code raises, what ``plain`` makes of it."""
    try:
        return str(value)
    except Exception:
        return str(plain(value))


def field(name: str, value: Any) -> Any:
    """Return *value* as ``plain`` does, also without what its field's *name* says is a secret."""
    if type(name) is not str:
        name = str(plain(name))
    return _runtime.current.redaction.field(name, bounded(value, name))


def bounded(value: Any, key: Any = "") -> Any:
    """Return *value*, of the field *key*, as bounded plain data, with its secrets. Never raises."""
    kind = type(value)
    if kind is str:
        return value if len(value) <= MAX_CHARACTERS else _cut(value, _most_of(key))
    if value is None or kind is bool or (kind is float and value - value == 0.0):  # finite
        return value
    if kind is int and -_INT64 <= value < _INT64:
        return value
    most = _most_of(key)
    return _walk(value, MAX_DEPTH, _Left(most=most, characters=max(MAX_TEXT, most)))


def _most_of(key: Any) -> int:
    """Return the most characters that a text of the field *key* may have."""
    is_long = type(key) is str and key.startswith(_LONG)
    return max(_runtime.current.characters, MAX_TEXT if is_long else MAX_CHARACTERS)


def _cut(text: str, limit: int) -> str:
    """Shorten *text*. Its secrets are taken out first: half of a secret cannot be recognised.

    A text that is too long to be examined whole is cut first. A secret that the cut breaks is
    recognised by its beginning, before the cut; its rest, behind the cut, goes with the middle.
    """
    if len(text) > limit:
        half = max(MAX_TEXT // 2, limit)
        if is_cut := len(text) > 2 * half:
            tail = "".join(_ENDS.split(text[-half:], maxsplit=1)[1:])
            left_out = len(text) - half - len(tail)
            text = f"{text[:half]} …[{left_out} more]… {tail}"
        text = _runtime.current.redaction.text(text)
        _redact.changed["shortened"] += is_cut or len(text) > limit
    return shorten(text, limit)


def _walk(value: Any, depth: int, left: _Left) -> Any:
    left.nodes -= 1
    try:
        found = _convert(value, depth, left)
    except Exception:
        found = f"<unprintable {_type_name(value)}>"
    if type(found) is str:
        found = _cut(found, min(left.most, max(left.characters, _MIN_TEXT)))
        left.characters -= len(found)
    return found


def _type_name(value: Any) -> str:
    # by type's own: a metaclass's __name__ may raise
    return str(type.__dict__["__name__"].__get__(type(value)))


def _convert(value: Any, depth: int, left: _Left) -> Any:
    if value is None or isinstance(value, bool):
        return value if value is None else bool(value)  # a proxy says that it is one
    if isinstance(value, Enum):
        return _convert(value.value, depth, left)
    if isinstance(value, (str, UserString)):
        # the text itself: a subclass's own __str__ is not called
        return str.__str__(value if issubclass(type(value), str) else str(value))
    if hasattr(type(value), "dtype") and hasattr(type(value), "__array__"):  # numpy, pandas, torch
        return _array(value, depth, left)
    if isinstance(value, numbers.Real) and hasattr(type(value), "__int__"):  # a proxy has none
        return _number(value)
    if isinstance(value, (bytes, bytearray, memoryview)):
        more = len(value) - left.most  # their repr is over the limit too, and is counted there
        return repr(bytes(value[: left.most])) + (f"…[{more} more]" if more > 0 else "")
    if isinstance(value, Mapping):
        return _mapping(value, depth - 1, left, value)
    if hasattr(type(value), "_asdict"):  # a named tuple, a database's row
        fields = value._asdict()
        if len(fields) == len(value):  # else two columns have the same name
            return _mapping(fields, depth - 1, left, value)
    if isinstance(value, (Sequence, Set, ValuesView)):
        return _sequence(value, depth - 1, left)
    own = getattr(type(value), "__structlog__", None)  # what an object wants to be logged
    if own is not None and depth > 0:
        return _convert(own(value), depth - 1, left)
    names = None if isinstance(value, (BaseException, type)) else _field_names(type(value))
    if names is not None:
        extra = getattr(value, "__pydantic_extra__", None)
        return _mapping(_fields_of(value, (*names, *(extra or ()))), depth - 1, left, value)
    return _described(value)


def _number(value: Any) -> int | float | str:
    if isinstance(value, numbers.Integral):
        number = int(value)
        return number if -_INT64 <= number < _INT64 else str(number)
    if math.isfinite(real := float(value)):
        return real
    # JSON has no such numbers: the words are those of protobuf's JSON
    return "NaN" if math.isnan(real) else "Infinity" if real > 0 else "-Infinity"


def _array(value: Any, depth: int, left: _Left) -> Any:
    if getattr(value, "ndim", 1):
        return _sequence(value, depth - 1, left)
    kind = getattr(value.dtype, "kind", "")
    if kind == "m":  # in nanoseconds ``item()`` would be a bare number
        rounded = value.astype("m8[us]")
        return str(rounded.item() if rounded == value else value)
    if kind == "M":
        return str(value)
    if is_true(getattr(value, "mask", False)):
        return None
    is_number = isinstance(value, numbers.Real)
    return _number(value) if is_number else _walk(value.item(), depth - 1, left)


def _fields_of(value: Any, names: Iterable[str]) -> dict[str, Any]:
    """Return the fields *names* of *value*, without those that are not set."""
    found = {name: getattr(value, name) for name in names if hasattr(value, name)}
    found = {name: each for name, each in found.items() if _type_name(each) != "UnsetType"}
    for each in getattr(type(value), "__attrs_attrs__", ()):
        if callable(each.repr) and each.name in found:  # it may hide a secret
            found[each.name] = each.repr(found[each.name])
    return found


def _field_names(kind: type) -> tuple[str, ...] | None:
    """Return the fields of a dataclass, an attrs, pydantic or msgspec class; None for another.

    A field that its author keeps out of the class's ``repr`` is left out here too.
    """
    for source in ("__dataclass_fields__", "__pydantic_fields__"):
        if (fields := getattr(kind, source, None)) is not None:
            return tuple(name for name, field in fields.items() if field.repr)
    if (fields := getattr(kind, "__attrs_attrs__", None)) is not None:
        return tuple(field.name for field in fields if field.repr)
    if hasattr(kind, "__get_validators__") and hasattr(kind, "__fields__"):  # pydantic 1
        return tuple(name for name, f in kind.__fields__.items() if f.field_info.repr)
    fields = getattr(kind, "__struct_fields__", None)
    return fields if isinstance(fields, tuple) else None


def _described(value: Any) -> str | None:
    if isinstance(value, BaseException):
        text = str(value)
        return f"{_type_name(value)}: {text}" if text else _type_name(value)
    if isinstance(value, (date, time)):
        return str.__str__(value.isoformat())
    if _type_name(value) == "NAType":  # pandas' own
        return None
    return without_addresses(str.__str__(str(value)))


def _without_items(value: Any, size: int) -> str:
    _redact.changed["shortened"] += 1
    return f"<{_type_name(value)} of {size}>"


def _mapping(value: Mapping[Any, Any], depth: int, left: _Left, of: Any) -> Any:
    if depth < 0 or (left.nodes < 0 and "…" not in value):  # a note always has room
        return _without_items(of, len(value))
    result: dict[str, Any] = {}
    for key, item in value.items():
        if left.nodes <= 0 and (more := len(value) - len(result)) != 1:
            _redact.changed["shortened"] += 1
            result[_key("…", result)] = _walk(f"{more} more", depth, left)
            break
        result[_key(key, result)] = _walk(item, depth, left)
    return result


def _key(key: Any, taken: dict[str, Any]) -> str:
    """Return *key* as a string that is not among *taken*: 1 and "1" are two keys."""
    text = key if type(key) is str else str(_walk(key, 1, _Left(nodes=8)))
    text = _cut(text, _MAX_KEY)
    if text not in taken:
        return text
    others = (f"{text[: _MAX_KEY - 8]}_{number}" for number in count(len(taken) + 1))
    return next(each for each in others if each not in taken)


def _sequence(value: Any, depth: int, left: _Left) -> Any:
    if depth < 0 or left.nodes < 0:
        return _without_items(value, len(value))
    result: list[Any] = []
    for item in value:
        if left.nodes <= 1 and (more := len(value) - len(result)) != 1:
            _redact.changed["shortened"] += 1
            notes = more_items(more, result[-1] if result else item)
            return result + [_walk(note, depth, left) for note in notes]
        result.append(_walk(item, depth, left))
    return result


def more_items(more: int, like: Any) -> list[Any]:
    """Return the note that *more* items are left out, for a list that has items *like* this one.

    A list of numbers or of lists gets no note: its items stay of one type.
    """
    if isinstance(like, dict):
        return [{"…": f"{more} more"}]
    return [f"… {more} more"] if isinstance(like, str) else []
