"""What is bound in a task, and until when: one immutable object, or one that a request shares.

In: fields, and the owner that they end with. Out: their values, and these encoded, once for all
spans and lines that have them. Deliberately absent: where it is kept (``context``).
"""

import asyncio
import sys
import threading
import time
from asyncio import _get_running_loop
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import suppress
from contextvars import ContextVar
from types import MappingProxyType
from typing import Any, Final, NamedTuple
from weakref import ref

import structlog

from otel_logging import _json, _names, _otlp, _runtime
from otel_logging._fields import as_attributes
from otel_logging._redact import Redaction
from otel_logging._values import bounded, field

#: Attribute of a stage's span, whichever SDK made it: that it has ended.
CLOSED: Final = "otel_logging_closed"


def has_ended(owner: Any) -> bool:
    """Say whether an owner has ended: a span of any SDK, or a block."""
    return getattr(owner, CLOSED, False) or getattr(owner, "end_time", None) is not None


#: Returns the task that runs in a loop: ``current_task``, which is in Python until 3.12.
_IN_C: Final = sys.version_info >= (3, 12)
task_in: Final[Any] = asyncio.current_task if _IN_C else vars(asyncio.tasks)["_current_tasks"].get


def worker() -> object:
    """Return the task, or the thread, that runs this."""
    loop = _get_running_loop()  # ``current_task`` raises where none runs
    return (None if loop is None else task_in(loop)) or threading.get_ident()


def weakly(runner: Any) -> Any:
    """Return a weak reference to a task; a thread's number as it is. A task must not be kept."""
    return runner if type(runner) is int else ref(runner)


class Block:
    """One time that a scope is entered."""

    otel_logging_closed = False
    end_time = None  # as a span's
    #: What structlog's functions had bound around it.
    structlogs: Mapping[Any, Any] = MappingProxyType({})


def _is_nobody(value: Any) -> bool:
    return value is None or (type(value) is str and not value)


class _Field(NamedTuple):
    """A value that is bound until its *owner* ends: the entry span of a request, or the block of a
    ``bound_context``; None: it never ends. *around*: what is bound again then.
    """

    value: Any
    owner: Any
    around: "_Field | None"

    def is_nobody(self) -> bool:
        """Say whether its value is None or "" that no ``bound_context`` has set on purpose."""
        return _is_nobody(self.value) and type(self.owner) is not Block


#: Stands for the user of a request in which two users have been bound: its user is not known.
_DIFFERS: Final = object()
_NO_REQUEST: Final = frozenset({type(None), Block})
#: Types of which no instance runs code of an application's.
PLAIN: Final = frozenset({str, int, float, bool, type(None)})
_REMEMBERED: Final = 4096  # forgotten together
_REMEMBERED_CHARACTERS: Final = 128
_MANY: Final = 256  # fields: each one more copies those before it
_SMALL: Final = 128  # counts and flags, which come again
#: A field of such a name makes a line unusual.
_NOT_USUAL: Final = _names.RESERVED | {_names.TIME_NS, *_names.OF_CALLS}


def on_lines(fields: Mapping[str, Any]) -> tuple[bytes, bytes] | None:
    """Return *fields*, encoded, as usual lines have them: in JSON, and as attributes of an event.

    None where one is no plain scalar of ordinary size, or has a name that lines have themselves.
    """
    if len(fields) > _MANY:
        return None
    redaction, text, attributes = _runtime.current.redaction, b"", b""
    known = redaction.encoded
    for each in fields.items():
        name, value = each
        kind = type(value)
        if kind not in PLAIN:
            return None
        key = each if kind is str or kind is int else (each, kind)  # 1, 1.0 and True are equal
        found = known.get(key)
        if found is None:
            if name in _NOT_USUAL or bounded(value, name) is not value:
                return None
            if redaction.kind(name) and redaction.is_hidden(name, value):
                return None  # the message may have it as well
            is_usual = kind is not float and (kind is not int or -_SMALL < value < _SMALL)
            found = encode_field(redaction, name, value, key if is_usual else None)
        text += found[0]
        attributes += found[1]
    return text, attributes


def encode_field(redaction: Redaction, name: str, value: Any, key: Any) -> tuple[bytes, bytes]:
    """Return a field as usual lines have it, and remember that as *key*; None: it comes once."""
    shown = redaction.field(name, value)
    said = name if name in redaction.seen else redaction.text(name)
    found = json_of({said: shown}), _otlp.attribute_of(_otlp.EVENT_TAG, said, shown)
    if key is not None and shown == value and said == name:  # each redaction counts
        remember(redaction, key, len(name) + len(str(value)), found)
    return found


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
        self.is_plain = PLAIN.issuperset(map(type, self.values.values()))

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
        if self.is_plain or made is None:  # otherwise a list's items may change
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


class Users:
    """The user of a request: for each key of ``who`` the value that a task of it has bound.

    None, once two tasks have bound different ones: neither's work may be under the other's name.
    """

    __slots__ = ("changed_ns", "found", "shared")

    def __init__(self) -> None:
        #: Values, and the tasks or threads that have bound them.
        self.found: dict[str, tuple[Any, Any]] = {}
        #: Who shows them, each until it goes.
        self.shared: set[ref[Shared]] = set()
        #: When one user may have replaced another, by the clock of waits.
        self.changed_ns = 0

    def values(self) -> dict[str, Any]:
        """Return what the request has."""
        return {k: value for k, (value, _) in self.found.items() if value is not _DIFFERS}

    def change(self) -> None:
        """Note that one user may have replaced another now."""
        self.changed_ns = time.perf_counter_ns()

    def bind(self, key: str, value: Any, before: Bound, owner: Any) -> None:
        """Take *value*, which a task binds in the request *owner*; *before* is bound there so far.

        A task that has bound a user may bind another for the request. A task that was started since
        binds one for itself alone. No user (None, "") replaces a user only where the task has bound
        that one itself: somebody logs out.
        """
        own = (before.own if type(before) is Shared else before.fields).get(key)
        while own is not None and (own.owner is not owner or own.is_nobody()):
            own = own.around
        if own is None and _is_nobody(value):
            return
        mine = (value, weakly(worker()))
        if _is_nobody(self.found.get(key, mine)[0]):
            self.found.pop(key, None)
        there = self.found.setdefault(key, mine)
        if there is not mine:
            if there[0] is _DIFFERS or (own is not None and mine[1] != there[1]):
                return
            is_same = field(key, there[0]) == field(key, value)
            # of several that bind the same user the last one counts as the one that has bound it
            self.found[key] = mine if is_same or own is not None else (_DIFFERS, None)
            if is_same:
                return
            self.change()
        for shared in filter(None, [each() for each in list(self.shared)]):
            shared.replace(shared.own)


class Shared(Bound):
    """What is bound in a request, or a connection, its *owner*; changed in place.

    Every copy of the context that was made since has it as it is now, a thread's as well: the
    request's *users*, where nothing else is bound. Without *users* that is every key.
    """

    __slots__ = ("__weakref__", "around", "own", "owner", "users")

    def __init__(
        self, own: Mapping[str, _Field], owner: Any, around: Bound, users: Users | None
    ) -> None:
        self.around, self.owner, self.users = around, owner, users
        self._make(own)
        if users is not None:
            users.shared.add(ref(self, users.shared.discard))

    def _make(self, own: Mapping[str, _Field]) -> None:
        self.own, around = own, self.around
        if self.users is not None and self.users.found:
            users, found = self.users.values(), self.users.found
            lent = {k: v for k, v in users.items() if k not in own or own[k].is_nobody()}
            own = {key: each for key, each in own.items() if key not in lent}
            has = around.fields_with(lent, self.owner).items()  # a caller's baggage gives way
            kept = {key: each for key, each in has if key in lent or key not in found}
            Bound.__init__(self, {**kept, **own})
        else:
            Bound.__init__(self, {**around.fields, **own})
        self.has_requests = True
        self.is_plain = self.is_plain and self.users is not None  # spans have what was, else

    def replace(self, own: Mapping[str, _Field]) -> None:
        """Have the fields *own* from here on; they win over the request's users."""
        self._make(own)
        for name in ("attributes", "on_lines", "span_bytes"):
            with suppress(AttributeError):
                delattr(self, name)

    def _with(self, own: Mapping[str, _Field]) -> "Shared":
        return Shared(own, self.owner, self.around, self.users)

    def put(self, values: Mapping[str, Any], owner: Any) -> Bound:
        """Put *values* in place, as far as that is for all."""
        if self.users is None and owner is not self.owner:
            return super().put(values, owner)
        fields = self.fields_with(values, owner)
        own = {**self.own, **{key: fields[key] for key in values}}
        if self.users is not None:
            return self._with(own)
        self.replace(own)
        return self

    def without(self, keys: Iterable[str]) -> Bound:
        """Return this without the fields *keys*, which are not shown again."""
        hidden = {*self.around.values, *(() if self.users is None else self.users.values())}
        if self.users is None or not hidden.isdisjoint(keys):
            return super().without(keys)
        return self._with({key: each for key, each in self.own.items() if key not in keys})

    def lasting(self, is_over: Callable[[Any], bool]) -> Bound:
        """Return this without what has an owner that is over; a copy, which no owner changes."""
        kept = super().lasting(is_over)
        return Bound(kept.fields) if kept is self and is_over(self.owner) else kept

    def with_fields_of(self, before: Bound, keys: Collection[str]) -> Bound:
        """Return this with the fields *keys* as they are in *before*."""
        if type(before) is not Shared or before.users is not self.users or self.users is None:
            return super().with_fields_of(before, keys)
        kept = {key: each for key, each in before.own.items() if key in keys}
        return self._with({**{k: e for k, e in self.own.items() if k not in keys}, **kept})


#: Nothing is bound.
NOTHING: Final = Bound({})


# ---------------------------------------------------------------- by structlog's own functions

#: structlog's register of what they bind: empty until one is called. For a structlog without a
#: register this stands in, and is never empty.
STRUCTLOGS: Final[Mapping[str, ContextVar[Any]]] = getattr(
    structlog.contextvars, "_CONTEXT_VARS", {"unknown": ContextVar("unknown", default=...)}
)


def structlogs() -> dict[ContextVar[Any], Any]:
    """Return what they have bound."""
    return {each: each.get() for each in list(STRUCTLOGS.values())}


def restore_structlogs(values: Mapping[ContextVar[Any], Any]) -> None:
    """Bind what ``structlogs`` has returned."""
    for variable, value in values.items():
        variable.set(value)


def leave_structlogs(entry: Any) -> dict[ContextVar[Any], Any]:
    """Bind again what they had bound before the span *entry* began; return what that replaces."""
    if not STRUCTLOGS or getattr(entry, "otel_logging_bound", None) is None:
        return {}
    before = structlogs()
    # nothing had been bound before a span without this attribute
    restore_structlogs(dict.fromkeys(before, ...) | getattr(entry, "otel_logging_structlogs", {}))
    return before
