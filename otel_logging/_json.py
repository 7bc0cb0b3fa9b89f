"""Plain data to strict JSON bytes.

In: what ``_values.plain`` returns. Out: UTF-8 on one line, no NaN, no lone
surrogate, and no character that splits lines or that a terminal obeys: those
are escaped. Invariant: never raises for plain data; both writers below give the
same JSON values, and one conformance table runs against both. Deliberately
absent: any other type.

``fitted`` makes fields that are too much together fit, as JSON or as any other bytes.
"""

import json
import math
import sys
from collections.abc import Callable, Mapping
from typing import Any, Final

from otel_logging import _names, _redact
from otel_logging._text import OBEYED
from otel_logging._values import field, plain, shorten


def _escaped(line: bytes) -> bytes:  # JSON itself escapes what is below the space
    return OBEYED.sub(lambda found: f"\\u{ord(found.group()):04x}", line.decode()).encode()


def dumps_stdlib(value: Any) -> bytes:
    """Write *value* by the standard library."""
    text = json.dumps(_strict(value), ensure_ascii=False, separators=(",", ":"))
    return _escaped(text.encode())


def _strict(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {_strict(key): _strict(item) for key, item in value.items()}
    return [_strict(item) for item in value] if isinstance(value, list) else value


def _choose() -> Callable[[Any], bytes]:
    # on a free-threaded interpreter importing orjson would bring the GIL back
    if not getattr(sys, "_is_gil_enabled", lambda: True)():  # pragma: no cover - free-threaded
        return dumps_stdlib
    import orjson

    def dumps_orjson(value: Any) -> bytes:
        try:
            line = orjson.dumps(value)
        except TypeError:  # a lone surrogate: orjson takes valid UTF-8 alone
            return dumps_stdlib(value)
        plain_ascii = line.isascii() and 0x7F not in line  # nearly every line
        return line if plain_ascii else _escaped(line)

    return dumps_orjson


dumps = _choose()


def flat(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return *fields* with values that every SDK takes: scalars, lists of one kind of these, and
    JSON in a text for any other.
    """
    return {key: _flat(field(key, value)) for key, value in fields.items()}


def _flat(value: Any) -> Any:
    kinds = {type(each) for each in (value if type(value) is list else (value,))}
    return value if len(kinds) < 2 and kinds <= _SCALARS else dumps(value).decode()


# ---------------------------------------------------------------- fields that are too much together

#: Characters that a string keeps at least: as many as a trace id has.
_SHORTEST: Final = 32
_SCALARS: Final = frozenset({str, bool, int, float})
_KEPT_FIRST: Final = _names.RESERVED | {_names.TIME_NS}


def fitted(
    fields: Mapping[str, Any], limit_bytes: int, encode: Callable[[dict[str, Any]], bytes]
) -> dict[str, Any]:
    """Return *fields* of which *encode* makes at most *limit_bytes*.

    Long values are shortened in the middle, tracebacks first; of what then finds no
    room the number is in ``fields_left_out``. What *encode* returns for two fields
    has to be about as long as what it returns for each. Cost: up to some ten times
    that of *encode*. Failure: never raises, unless *encode* does.
    """
    _redact.changed["shortened"] += 1
    whole = {key: plain(value, key) for key, value in fields.items()}
    kept = dict(whole)
    tracebacks = [key for key in (_names.EXCEPTION, _names.STACK) if key in kept]
    room = limit_bytes
    while room > _SHORTEST:
        room = max(room // 2, _SHORTEST)
        for keys in (tracebacks, list(kept)):
            shorter = {key: _shortened(whole[key], room) for key in keys}
            if any(shorter[key] is not whole[key] for key in keys):
                kept.update(shorter)
                if len(encode(kept)) <= limit_bytes:
                    return kept
    return _first_that_fit(kept, limit_bytes, encode)


def _shortened(value: Any, room: int) -> Any:
    if isinstance(value, str):
        return shorten(value, room)
    if isinstance(value, (dict, list)) and len(text := dumps(value).decode()) > room:
        return shorten(text, room)
    return value


def _first_that_fit(
    fields: dict[str, Any], limit_bytes: int, encode: Callable[[dict[str, Any]], bytes]
) -> dict[str, Any]:
    """Leave out fields that find no room, the application's before ours, and say how many."""
    around = len(encode({}))
    room = limit_bytes - len(encode({_names.FIELDS_LEFT_OUT: len(fields)}))
    room -= limit_bytes >> 8  # what they take together and not alone: a longer length, a space
    kept: dict[str, Any] = {}
    for key in sorted(fields, key=lambda key: key not in _KEPT_FIRST):
        taken = len(encode({key: fields[key]})) - around + 1  # a comma
        if taken <= room:
            kept[key] = fields[key]
            room -= taken
    return {**kept, _names.FIELDS_LEFT_OUT: len(fields) - len(kept)}
