"""Other names for fields of the application that have the name of a line's own field.

In: fields. Out: the same fields under names that hide nothing. Invariant: no field is lost.
Deliberately absent: what the names are (``_names``), and values.
"""

from collections.abc import Mapping, MutableMapping
from typing import Any, Final

from otel_logging import _names

#: Names that a bound field cannot have on a line; a ``trace_id`` may be given by hand.
GUARDED: Final = (_names.RESERVED | {_names.TIME_NS}) - {_names.TRACE_ID}
#: Names that are replaced on a line or span.
RENAMED: Final = GUARDED | {_names.TRACE_ID, _names.REQUEST_ID}


def put_aside(fields: MutableMapping[str, Any], key: str, value: Any) -> None:
    """Put *value* into *fields* under *key*, with as many underscores as make it a new key."""
    key += "_"
    while key in fields:
        key += "_"
    fields[key] = value


def put_request_id(fields: MutableMapping[str, Any], given: Any) -> None:
    """Put a ``trace_id`` that was *given* by hand into *fields* under another name."""
    if _names.REQUEST_ID in fields:
        put_aside(fields, _names.TRACE_ID, given)
    else:
        fields[_names.REQUEST_ID] = given


def safe_names(fields: Mapping[str, Any], guarded: frozenset[str] = GUARDED) -> Mapping[str, Any]:
    """Return *fields*; a name that would hide a *guarded* one gets a trailing underscore."""
    if guarded.isdisjoint(fields):
        return fields
    safe = {key: value for key, value in fields.items() if key not in guarded}
    for key, value in fields.items():
        if key in guarded:
            put_aside(safe, key, value)
    return safe


def as_attributes(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return *fields* as attributes of a span: a ``trace_id`` is ``request_id`` there."""
    attributes = dict(safe_names(fields))
    if _names.TRACE_ID in attributes:
        put_request_id(attributes, attributes.pop(_names.TRACE_ID))
    return attributes
