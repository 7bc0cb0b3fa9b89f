"""The parts of a log call, as an event dict or as the ``extra`` of a record.

Invariant: every field is there, under its own name or with underscores behind it.
"""

import logging
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Final

from otel_logging import _fields, _names
from otel_logging._redact import changed
from otel_logging._values import plain
from otel_logging.processors import EventDict, hidden


def put_message(args: tuple[Any, ...], event_dict: EventDict) -> None:
    """Put the message with its arguments into *event_dict*, as ``logging`` formats them."""
    if _names.EVENT in event_dict:  # a field of that name is kept
        _fields.put_aside(event_dict, _names.EVENT, event_dict[_names.EVENT])
    event = args[0]
    if len(args) > 1:
        try:
            first = args[1]
            one = len(args) == 2 and isinstance(first, Mapping) and first
            event = event % (_Named(first) if one else args[1:])
        except Exception as error:  # reported on the line itself
            event_dict[_names.FORMAT_ERROR] = plain(error)
            event_dict[_names.FORMAT_ARGS] = plain(args[1:])
    event_dict[_names.EVENT] = event


class _Named:
    """A mapping as a message's arguments: a value whose name says that it is a secret is hidden."""

    def __init__(self, given: Mapping[Any, Any]) -> None:
        self._given = given

    def __getitem__(self, key: Any) -> Any:
        value = self._given[key]
        found = hidden(key, value)
        changed["redacted"] += found is not None
        return value if found is None else found[1]

    def __repr__(self) -> str:
        return repr(self._given)


def event_of_wrapper(event_dict: EventDict) -> EventDict:
    """Return the event dict of another wrapper class of structlog's, its arguments formatted."""
    arguments = event_dict.get("positional_args")  # structlog.stdlib.BoundLogger's
    if isinstance(arguments, tuple):
        del event_dict["positional_args"]
        put_message((event_dict.pop(_names.EVENT, ""), *arguments), event_dict)
    event_dict.setdefault(_names.EVENT, "")
    return event_dict


def event_of_call(args: tuple[Any, ...], fields: Mapping[str, Any]) -> EventDict:
    """Return the event dict of a call that a logger of the standard library would take."""
    event_dict = {**fields}
    if not args and "msg" in event_dict:
        args = (event_dict.pop("msg"), *event_dict.pop("args", ()))
    extra = event_dict.pop("extra", None)
    if issubclass(type(extra), Mapping):  # by type: its __class__ may raise
        event_dict.update(extra)
    if args:
        put_message(args, event_dict)
    event_dict.setdefault(_names.EVENT, "")
    return event_dict


#: Attributes of Python's own log records, which ``extra`` cannot set; not those of a factory.
_RECORD: Final = logging.LogRecord("", 0, "", 0, "", (), None)
OF_RECORDS: Final = frozenset({*vars(_RECORD), "message", "asctime"})


def as_extra(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return *fields* with a trailing underscore where a log record has such an attribute."""
    taken, factory = OF_RECORDS, logging.getLogRecordFactory()
    if fields and factory is not logging.LogRecord:  # the application's, which may set others
        with suppress(Exception):  # the call that makes the record will raise this again
            taken |= vars(factory("", logging.INFO, "", 0, "", (), None)).keys()
    return dict(_fields.safe_names(fields, taken))
