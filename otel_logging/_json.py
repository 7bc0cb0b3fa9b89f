"""Plain data to strict JSON bytes.

In: what ``_values.plain`` returns. Out: UTF-8 on one line, no NaN, no lone
surrogate. Invariant: never raises for plain data; both writers below give the
same JSON values, and one conformance table runs against both. Deliberately
absent: any other type.
"""

import json
import math
import sysconfig
from collections.abc import Callable, Mapping
from typing import Any

from otel_logging._values import plain


def dumps_stdlib(value: Any) -> bytes:
    """Write *value* by the standard library."""
    return json.dumps(_strict(value), ensure_ascii=False, separators=(",", ":")).encode()


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
    if sysconfig.get_config_var("Py_GIL_DISABLED"):  # pragma: no cover - free-threaded builds
        return dumps_stdlib
    import orjson

    def dumps_orjson(value: Any) -> bytes:
        try:
            return orjson.dumps(value)
        except TypeError:  # a lone surrogate: orjson takes valid UTF-8 alone
            return dumps_stdlib(value)

    return dumps_orjson


dumps = _choose()


def flat(value: Any) -> str | bool | int | float:
    """Return any value as what every OpenTelemetry SDK takes: no dicts, no lists, no None."""
    kept = plain(value)
    return kept if isinstance(kept, (str, bool, int, float)) else dumps(kept).decode()
