"""What is bound in a task, and until when: one immutable object, or one that a request shares.

In: fields, and the owner that they end with. Out: their values, and these encoded, once for all
spans and lines that have them. Deliberately absent: where it is kept (``context``).
"""

from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import suppress
from typing import Any, Final, NamedTuple
from weakref import ref

from otel_logging import _json, _names, _otlp, _runtime
from otel_logging._fields import as_attributes
from otel_logging._redact import Redaction
from otel_logging._values import bounded, field

#: Attribute of a stage's span, whoever's it is: that it has ended.
CLOSED: Final = "otel_logging_closed"


def has_ended(owner: Any) -> bool:
    """Say whether a span, whoever's, or another owner has ended."""
    return getattr(owner, CLOSED, False) or getattr(owner, "end_time", None) is not None


class Block:
    """One time that a scope is entered."""

    otel_logging_closed = False
    end_time = None  # as a span's


class _Field(NamedTuple):
    """A value that is bound until its *owner* ends: the entry span of a request, the block of a
    ``bound_context``; None: nothing. *around*: what is bound again then.
    """

    value: Any
    owner: Any
    around: "_Field | None"


#: In the place of a value that a request has none of, as two have been bound.
_DIFFERS: Final = object()
_NO_REQUEST: Final = frozenset({type(None), Block})
_PLAIN: Final = frozenset({str, int, float, bool, type(None)})
_REMEMBERED: Final = 4096  # forgotten together
_REMEMBERED_CHARACTERS: Final = 128
_SMALL: Final = 128  # counts and flags, which come again
#: A field of such a name makes a line unusual.
_NOT_USUAL: Final = _names.RESERVED | {_names.TIME_NS, *_names.OF_CALLS}


def on_lines(fields: Mapping[str, Any]) -> tuple[bytes, bytes] | None:
    """Return *fields*, encoded, as usual lines have them: in JSON, and as attributes of an event.

    None where one is no plain scalar of ordinary size, or has a name that lines have themselves.
    """
    redaction, text, attributes = _runtime.current.redaction, b"", b""
    known = redaction.encoded
    for each in fields.items():
        name, value = each
        kind = type(value)
        if kind not in _PLAIN:
            return None
        key = each if kind is str or kind is int else (each, kind)  # 1, 1.0 and True are equal
        found = known.get(key)
        if found is None:
            if name in _NOT_USUAL or bounded(value, name) is not value:
                return None
            shown = redaction.field(name, value)
            found = json_of({name: shown}), _otlp.attribute_of(_otlp.EVENT_TAG, name, shown)
            if kind is not float and (kind is not int or -_SMALL < value < _SMALL):
                remember(redaction, key, len(name) + (len(value) if kind is str else 0), found)
        text += found[0]
        attributes += found[1]
    return text, attributes


def json_of(fields: Mapping[str, Any]) -> bytes:
    """Return plain *fields* as they stand in a line of JSON, behind others."""
    return b"," + _json.dumps(fields)[1:-1]


def remember(redaction: Redaction, of: Any, characters: int, encoded: tuple[bytes, bytes]) -> None:
    """Remember what lines hold *of* a message or a field that has so many *characters*."""
    if characters <= _REMEMBERED_CHARACTERS:
        if len(redaction.encoded) >= _REMEMBERED:
            redaction.encoded.clear()
        redaction.encoded[of] = encoded


class Bound:
    """What is bound in a task. Immutable; whoever copies the context has this object for ever.

    Encodings are made once, and shared by all spans and lines that have it.
    """

    __slots__ = (
        *("attributes", "fields", "has_requests", "is_plain", "on_lines", "span_bytes", "values"),
    )

    #: Attributes of a span; encoded; what ``on_lines`` returns.
    attributes: dict[str, Any]
    span_bytes: bytes
    on_lines: tuple[bytes, bytes] | None

    def __init__(self, fields: Mapping[str, _Field]) -> None:
        self.fields = fields
        self.values: Mapping[str, Any] = {key: each.value for key, each in fields.items()}
        #: Whether some owner is a span, for stages that begin a trace and must not be slow.
        self.has_requests = not _NO_REQUEST.issuperset(
            [type(each.owner) for each in fields.values()]
        )
        self.is_plain = _PLAIN.issuperset(map(type, self.values.values()))

    def __getattr__(self, name: str) -> Any:
        made: Any
        if name == "attributes":
            made = {key: field(key, value) for key, value in as_attributes(self.values).items()}
        elif name == "span_bytes":
            made = _otlp.attributes(b"\x4a", self.attributes)
        elif name == "on_lines":
            made = on_lines(self.values)
        else:
            raise AttributeError(name)
        if self.is_plain or made is None:  # else what is in a list may be another the next time
            setattr(self, name, made)
        return made

    def put(self, values: Mapping[str, Any], owner: Any) -> "Bound":
        """Return this with *values*, which end with *owner*."""
        return Bound(self.fields_with(values, owner))

    def fields_with(self, values: Mapping[str, Any], owner: Any) -> dict[str, _Field]:
        """Return the fields with *values*, which end with *owner*."""
        fields = dict(self.fields)
        for key, value in values.items():
            around = None if owner is None else fields.get(key)
            while around is not None and (around.owner is owner or has_ended(around.owner)):
                around = around.around  # never to be seen again
            fields[key] = tuple.__new__(_Field, (value, owner, around))  # a third of the time
        return fields

    def without(self, keys: Iterable[str]) -> "Bound":
        """Return this without the fields *keys*."""
        return Bound({key: each for key, each in self.fields.items() if key not in keys})

    def lasting(self, is_over: Callable[[Any], bool]) -> "Bound":
        """Return this without what has an owner that is over."""
        if not any(is_over(each.owner) for each in self.fields.values()):
            return self
        fields = {}
        for key, each in self.fields.items():
            left: _Field | None = each
            while left is not None and is_over(left.owner):
                left = left.around
            if left is not None:
                fields[key] = left
        return Bound(fields)

    def with_fields_of(self, before: "Bound", keys: Collection[str]) -> "Bound":
        """Return this with the fields *keys* as they are in *before*."""
        kept = {key: each for key, each in before.fields.items() if key in keys}
        return Bound({**self.without(keys).fields, **kept})


class Shared(Bound):
    """What is bound in a request, or a connection, its *owner*; changed in place.

    Every copy of the context that was made since has it as it is now, a thread's as well. *keys*
    are lent to those that it was made from as long as there is none, and until another value is
    bound: a request has one user, or none. None: every key is put in place, always.
    """

    __slots__ = ("__weakref__", "around", "keys", "lenders", "lent", "own", "owner")

    def __init__(
        self, own: Mapping[str, Any], owner: Any, around: Bound, keys: Collection[str] | None
    ) -> None:
        self.around, self.owner, self.keys = around, owner, keys
        self.lent: Mapping[str, Any] = {}
        self.lenders: tuple[ref[Shared], ...] = ()
        self._have(own)

    def replace(self, own: Mapping[str, Any]) -> None:
        """Have the values *own* from here on, over what is lent, and that over what is around."""
        self._have(own)
        for name in ("attributes", "on_lines", "span_bytes"):
            with suppress(AttributeError):
                delattr(self, name)

    def _have(self, own: Mapping[str, Any]) -> None:
        self.own, around = own, self.around
        if own or self.lent:
            lent = {key: value for key, value in self.lent.items() if value is not _DIFFERS}
            Bound.__init__(self, around.fields_with({**lent, **own}, self.owner))
        else:  # as each request begins
            self.fields, self.values, self.is_plain = around.fields, around.values, around.is_plain
        self.has_requests = True
        self.is_plain = self.is_plain and self.keys is not None  # spans have what was, else

    def put(self, values: Mapping[str, Any], owner: Any) -> Bound:
        """Put *values* in place, as far as that is for all."""
        if owner is not self.owner:
            return super().put(values, owner)
        own = {**self.own, **values}
        if self.keys is None:
            self.replace(own)
            return self
        new = Shared.__new__(Shared)
        new.around, new.owner, new.keys, new.lent = self.around, owner, self.keys, self.lent
        alive = [self, *(lender for each in self.lenders if (lender := each()) is not None)]
        new.lenders = tuple(map(ref, alive))  # who has gone would be kept for ever
        new._have(own)  # noqa: SLF001 - one of this class
        for key in values:
            if key in self.keys:
                for lender in alive:
                    lender.lend(key, values[key])
        return new

    def lend(self, key: str, value: Any) -> None:
        """Have *value* where nothing else is bound, and none where another one was lent."""
        if key in self.own or key in self.around.values:
            return
        if key in self.lent:
            if field(key, self.lent[key]) == field(key, value):
                return
            value = _DIFFERS
        self.lent = {**self.lent, key: value}
        self.replace(self.own)

    def lasting(self, is_over: Callable[[Any], bool]) -> Bound:
        """Return this without what has an owner that is over, and not to be changed by it."""
        kept = super().lasting(is_over)
        return Bound(kept.fields) if kept is self and is_over(self.owner) else kept


#: Nothing is bound.
NOTHING: Final = Bound({})
