"""OTLP in its JSON form, as Jaeger's API gives it, to the same records as the local store's.

In: ``TracesData`` as parsed JSON (OpenTelemetry protocol specification, JSON
Protobuf encoding: ids in hex, 64-bit numbers as strings, enums as numbers).
Out: ``Span``. Invariant: a span reads back as it would from the local store.
Deliberately absent: how it was asked for.
"""

import base64
import contextlib
import json
import reprlib
from collections.abc import Iterator, Mapping
from typing import Any, Final

from google.protobuf.message import DecodeError

from otel_logging import _names, _otlp
from otel_logging.traces.spans import Span, decode

#: What is raised by what is no OTLP, or nested deeper than protobuf reads.
_NOT_UNDERSTOOD: Final = (
    *(ValueError, AttributeError, KeyError, TypeError, IndexError, OverflowError),
    *(RecursionError, DecodeError),
)


def spans(traces_data: Mapping[str, Any], *, left_out: set[str]) -> Iterator[Span]:
    """Yield the spans of *traces_data*; the ids of those that are no OTLP are
    added to *left_out*.

    Failure: raises ``ValueError`` where there are no spans at all, but something else.
    Cost: 30 µs a span.
    """
    for resource, scope, messages in _batches(traces_data):
        try:
            found = _decoded(resource, scope, messages)
        except _NOT_UNDERSTOOD:
            # one span would hide all its neighbours
            found = [s for one in messages for s in _if_good(resource, scope, one, left_out)]
        yield from found


def _batches(traces_data: Mapping[str, Any]) -> Iterator[tuple[Any, Any, list[Any]]]:
    """Yield what belongs together: a resource, a scope, spans."""
    try:
        for group in traces_data.get("resourceSpans", ()):
            for scoped in group.get("scopeSpans", ()):
                spans = [dict(one) for one in scoped.get("spans", ())]
                yield group.get("resource", {}), scoped.get("scope", {}), spans
    except (AttributeError, TypeError, ValueError) as error:
        raise ValueError(f"no OTLP: {type(error).__name__}: {error}") from error


def _decoded(resource: Any, scope: Any, messages: list[Any]) -> list[Span]:
    name = _otlp.scope(str(scope.get("name", "")))
    return list(decode(_resource(resource), name, [_span(message) for message in messages]))


def _if_good(resource: Any, scope: Any, message: Any, left_out: set[str]) -> list[Span]:
    try:
        return _decoded(resource, scope, [message])
    except _NOT_UNDERSTOOD:
        ids = message.get("traceId"), message.get("spanId")
        left_out.add(reprlib.repr(ids))
        return []


def _resource(message: Mapping[str, Any]) -> bytes:
    values = _values(message.get("attributes", ()))
    # some of Jaeger's storages make a text of a list; somebody else's may only look like it
    who = values.get(_names.WHO)
    if isinstance(who, str) and who.startswith("["):
        with contextlib.suppress(ValueError, RecursionError):
            values[_names.WHO] = json.loads(who)
    return _otlp.resource(values)


def _span(message: Mapping[str, Any]) -> bytes:
    status = message.get("status", {})
    return _otlp.span(
        trace_id=_id(message["traceId"], 16),
        span_id=int(message["spanId"], 16),
        parent_span_id=int(message.get("parentSpanId") or "0", 16),
        trace_state=message.get("traceState", ""),
        flags=int(message.get("flags", 0)),
        name=message.get("name", ""),
        kind=_enum(message.get("kind", 0)),
        start_ns=int(message.get("startTimeUnixNano", 0)),
        end_ns=int(message.get("endTimeUnixNano", 0)),
        values=_values(message.get("attributes", ())),
        events=[
            _otlp.event(int(e.get("timeUnixNano", 0)), e.get("name", ""), _attributes(e))
            for e in message.get("events", ())
        ],
        links=[
            _otlp.link(int(k["traceId"], 16), int(k["spanId"], 16), "", 0, _attributes(k))
            for k in message.get("links", ())
        ],
        status=_enum(status.get("code", 0)),
        message=status.get("message", ""),
    )


def _id(text: str, size: int) -> bytes:
    given = bytes.fromhex(text)
    if len(given) != size:
        raise ValueError(f"no OTLP: an id of {len(given)} bytes")
    return given


def _enum(value: Any) -> int:
    """Return an enum's number; one of a name, or of a later version, is 0: unspecified."""
    return value if isinstance(value, int) and 0 <= value < 128 else 0


def _attributes(message: Mapping[str, Any]) -> dict[str, Any]:
    return _values(message.get("attributes", ()))


def _values(key_values: Any) -> dict[str, Any]:
    return {item["key"]: _value(item.get("value", {})) for item in key_values}


def _value(any_value: Mapping[str, Any]) -> Any:
    for which, value in any_value.items():
        if which == "intValue":
            return int(value)
        if which == "doubleValue":
            return float(value)  # of "NaN" and "Infinity" too
        if which == "arrayValue":
            return [_value(item) for item in value.get("values", ())]
        if which == "kvlistValue":
            return _values(value.get("values", ()))
        if which == "bytesValue":
            return base64.b64decode(value).hex()
        return value
    return None
