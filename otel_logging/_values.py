"""Any Python value as bounded plain data, for a rendered line and for a span attribute.

In: whatever a user logged or bound. Out: ``str | int | float | bool | None``
and lists and string-keyed dicts of these. Invariant: ``plain`` never raises,
is idempotent, and what it returns has at most ``MAX_NODES`` values of at most
``MAX_CHARACTERS`` each. Deliberately absent: rendering to text.
"""

import numbers
from collections.abc import Mapping, Set
from datetime import date, time, timedelta
from decimal import Decimal
from enum import Enum
from pathlib import PurePath
from typing import Any
from uuid import UUID

MAX_CHARACTERS = 8192  # a string; ten screens of text, more belongs elsewhere
MAX_DEPTH = 6
MAX_NODES = 1000  # values in one field, all depths together
_MAX_KEY = 256

_INT64 = 2**63
_AS_TEXT = (Decimal, UUID, PurePath, timedelta)


def shorten(text: str, limit: int) -> str:
    """Cut *text* in the middle to at most *limit* characters, saying how many are left out."""
    if len(text) <= limit:
        return text
    mark = f"…[{len(text) - limit} more]…"
    keep = max(limit - len(mark), 0)
    return (text[: keep - keep // 2] + mark + (text[-(keep // 2) :] if keep > 1 else ""))[:limit]


def plain(value: Any) -> Any:
    """Return *value* as bounded plain data.

    Failure: never raises; a value whose own code raises becomes
    ``<unprintable TypeName>``. Cost: one look at the type for plain scalars.
    """
    kind = type(value)
    if kind is str:
        return value if len(value) <= MAX_CHARACTERS else shorten(value, MAX_CHARACTERS)
    if value is None or kind is bool or kind is float:
        return value
    if kind is int and -_INT64 <= value < _INT64:
        return value
    return _walk(value, MAX_DEPTH, [MAX_NODES])


def _walk(value: Any, depth: int, left: list[int]) -> Any:
    left[0] -= 1
    try:
        return _convert(value, depth, left)
    except Exception:
        return f"<unprintable {type(value).__name__}>"


def _convert(value: Any, depth: int, left: list[int]) -> Any:
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, Enum):
        return _convert(value.value, depth, left)
    if isinstance(value, str):
        return shorten(str.__str__(value), MAX_CHARACTERS)
    if isinstance(value, numbers.Integral):  # numpy's are registered there too
        number = int(value)
        # f"{n:x}" has no limit on digits, str(n) has one of 4,300
        return number if -_INT64 <= number < _INT64 else shorten(f"{number:#x}", MAX_CHARACTERS)
    if isinstance(value, numbers.Real) and not isinstance(value, Decimal):
        return float(value)
    if isinstance(value, (bytes, bytearray, memoryview)):
        return shorten(repr(bytes(value[:MAX_CHARACTERS])), MAX_CHARACTERS)
    if isinstance(value, Mapping):
        return _mapping(value, depth - 1, left)
    if isinstance(value, (list, tuple, Set)):
        return _sequence(value, depth - 1, left)
    if isinstance(value, BaseException):
        return shorten(f"{type(value).__name__}: {value}", MAX_CHARACTERS)
    if isinstance(value, (date, time)):
        return value.isoformat()
    text = str(value) if isinstance(value, _AS_TEXT) else repr(value)
    return shorten(str.__str__(text), MAX_CHARACTERS)


def _mapping(value: Mapping[Any, Any], depth: int, left: list[int]) -> Any:
    if depth < 0:
        return f"<{type(value).__name__} of {len(value)}>"
    result: dict[str, Any] = {}
    for key, item in value.items():
        remaining = len(value) - len(result)
        if left[0] <= 1 and remaining > 1:
            result["…"] = f"{remaining} more"
            break
        name = key if type(key) is str else str(_walk(key, 0, left))
        result[shorten(name, _MAX_KEY)] = _walk(item, depth, left)
    return result


def _sequence(value: Any, depth: int, left: list[int]) -> Any:
    if depth < 0:
        return f"<{type(value).__name__} of {len(value)}>"
    result: list[Any] = []
    for item in value:
        remaining = len(value) - len(result)
        if left[0] <= 1 and remaining > 1:
            result.append(f"… {remaining} more")
            break
        result.append(_walk(item, depth, left))
    return result
