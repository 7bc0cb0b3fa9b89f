"""On whose behalf does this run? What is bound, and how it goes along.

In: fields of an application. Out: a mapping that every line and every span
begins with. Invariant: task-local (a ``ContextVar`` holds an immutable mapping),
and nothing of it leaves in outgoing headers unless ``propagate=`` names it.
Deliberately absent: spans (``tracing``), queues and threads of libraries.
"""

import time
from collections.abc import Callable, Iterable, Mapping, MutableMapping
from contextlib import suppress
from contextvars import Context, ContextVar, copy_context
from types import FrameType, MappingProxyType, TracebackType
from typing import Any, Final, NamedTuple, TypeVar

from opentelemetry import baggage, trace
from opentelemetry import context as otel_context

from otel_logging import _decorate, _json, _names, _trouble
from otel_logging._values import plain

_F = TypeVar("_F", bound=Callable[..., Any])

_NOTHING: Mapping[str, Any] = MappingProxyType({})
_bound: ContextVar[Mapping[str, Any]] = ContextVar("otel_logging.bound", default=_NOTHING)

#: The tag of the background job that this runs for (``jobs``): on every line and span, as a
#: bound field is, and not to be unbound.
job_tag: ContextVar[str | None] = ContextVar("otel_logging.job_tag", default=None)

#: Attribute of a span: its request's entry span, the outermost one in this process, or None
#: where it is that itself.
ENTRY = "otel_logging_entry"

#: Keys of the bound context that go out as baggage; set by set-up.
propagated: tuple[str, ...] = ()


def bound() -> Mapping[str, Any]:
    """Return what is bound in this task. Not to be changed."""
    return _bound.get()


def replace_bound(fields: Mapping[str, Any]) -> None:
    """Make *fields* all that is bound in this task."""
    _bound.set(fields)


def bound_attributes() -> dict[str, Any]:
    """Return what a new span begins with: what is bound, and the job tag.

    A ``trace_id`` bound by hand is ``request_id`` on a span.
    """
    attributes = _as_attributes(_bound.get())
    tag = job_tag.get()
    if tag is not None:
        attributes[_names.JOB_TAG] = tag
    return attributes


def _as_attributes(fields: Mapping[str, Any]) -> dict[str, Any]:
    attributes = dict(safe_names(fields))
    if _names.TRACE_ID in attributes:
        put_request_id(attributes, attributes.pop(_names.TRACE_ID))
    return attributes


def put_request_id(fields: MutableMapping[str, Any], given: Any) -> None:
    """Keep in *fields* a ``trace_id`` that was *given* by hand, where a span has the real one."""
    if _names.REQUEST_ID in fields:
        put_aside(fields, _names.TRACE_ID, given)
    else:
        fields[_names.REQUEST_ID] = given


def put_aside(fields: MutableMapping[str, Any], key: str, value: Any) -> None:
    """Keep *value* in *fields* under *key* and as many underscores as make it a new one."""
    key += "_"
    while key in fields:
        key += "_"
    fields[key] = value


#: Names that a bound field cannot have on a line; a ``trace_id`` may be given by hand.
_GUARDED: Final = (_names.RESERVED | {_names.TIME_NS}) - {_names.TRACE_ID}
_RENAMED: Final = _GUARDED | {_names.TRACE_ID, _names.REQUEST_ID}


def safe_names(fields: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return *fields* with a trailing underscore where one would hide a reserved name."""
    if _GUARDED.isdisjoint(fields):
        return fields
    safe = {key: value for key, value in fields.items() if key not in _GUARDED}
    for key, value in fields.items():
        if key in _GUARDED:
            put_aside(safe, key, value)
    return safe


def bind_context(**fields: Any) -> None:
    """Put *fields* on every line and span from here on, on the current span and the request's.

    They stay until ``unbind_context``, ``clear_context``, or the end of the
    request's entry stage, whichever is first: what a worker bound for one
    message is never on the next one's lines. ``trace_id="req-123"`` is the
    line's trace id where no span is active, and ``request_id`` where one is.

    Scope: this task, and tasks it starts from here on. Failure: never raises.
    Cost: two dict copies and two span attributes a field; never blocks.
    """
    now = {**_bound.get(), **fields}
    _bound.set(now)
    if not _RENAMED.isdisjoint(now):  # those that are renamed may give way to one another
        fields = {k: v for k, v in now.items() if k in fields or k.rstrip("_") in _RENAMED}
        fields = _as_attributes(fields)
    span = trace.get_current_span()
    entry = getattr(span, ENTRY, None) or span
    for target in (span,) if entry is span else (span, entry):
        set_attributes(target, fields)


def set_attributes(span: trace.Span, fields: Mapping[str, Any]) -> None:
    """Set *fields* on *span* if it is recording, whoever made it. Never raises."""
    try:
        if span.is_recording():
            take = plain if hasattr(span, "add_line") else _json.flat
            for key, value in fields.items():
                span.set_attribute(key, take(value))
    except Exception as error:
        _trouble.report("fields lost: a span did not take them", detail=error)


def unbind_context(*keys: str) -> None:
    """Take *keys* off later lines and spans; an unknown key is no error.

    Spans that have them keep them. Scope: this task. Failure: never raises.
    """
    _bound.set({key: value for key, value in _bound.get().items() if key not in keys})


def clear_context() -> None:
    """Take everything that is bound off later lines and spans. Scope: this task."""
    _bound.set(_NOTHING)


#: The scopes that this task is in: each with what was current and bound before it.
_open: ContextVar[tuple[tuple["_Scoped", "_Before"], ...]] = ContextVar(
    "otel_logging.open", default=()
)


class _Before(NamedTuple):
    bound: Mapping[str, Any]
    context: otel_context.Context
    job_tag: str | None


class _Scoped:
    """A ``with`` block that is also a decorator of any callable.

    What it has to restore is kept in the task, not in the object: one object may
    be entered by any number of tasks at once, and a block that is left in
    another task than it was entered in (a generator that is closed from
    elsewhere) changes nothing there.
    """

    def _begin(self) -> None:
        raise NotImplementedError  # pragma: no cover - each subclass has its own

    def _end(self, before: _Before) -> None:
        otel_context.attach(before.context)
        _bound.set(before.bound)
        job_tag.set(before.job_tag)

    def __enter__(self) -> None:
        before = _Before(_bound.get(), otel_context.get_current(), job_tag.get())
        _open.set((*_open.get(), (self, before)))
        self._begin()

    def __exit__(self, *error: object) -> None:
        scopes = _open.get()
        for at in reversed(range(len(scopes))):
            scope, before = scopes[at]
            if scope is self:
                _open.set(scopes[:at] + scopes[at + 1 :])
                self._end(before)
                return

    def __call__(self, function: _F) -> _F:
        return _decorate.around(function, lambda: self)


class bound_context(_Scoped):  # noqa: N801 - reads as a verb, like structlog's
    """Put *fields* on every line, and every span opened, inside a ``with`` block or a function.

    Unlike ``bind_context`` it leaves the spans that are already open alone: a
    loop over orders would leave its last order on the request. At the end the
    keys are what they were before; other bindings made inside stay.

    Scope: this task. Failure: never raises. Concurrency: one object may serve
    everywhere, and be nested in itself.
    """

    def __init__(self, /, **fields: Any) -> None:
        self._fields = fields

    def _begin(self) -> None:
        _bound.set({**_bound.get(), **self._fields})

    def _end(self, before: _Before) -> None:
        fields = {k: v for k, v in _bound.get().items() if k not in self._fields}
        fields.update({k: before.bound[k] for k in self._fields if k in before.bound})
        _bound.set(fields)


class detached(_Scoped):  # noqa: N801 - reads as a participle, like structlog's
    """Run a ``with`` block or a function on nobody's behalf: no span, no job tag, nothing bound.

    For work that outlives the request it was started in. At the end all is as
    before. Scope: this task. Failure: never raises.
    """

    def _begin(self) -> None:
        otel_context.attach(otel_context.Context())
        _bound.set(_NOTHING)
        job_tag.set(None)


# ---------------------------------------------------------------- where an exception came from


class _Origin:
    """The context that an exception left, and where; a copy of the exception has none.

    *left*: the step of its traceback at which it did; *callers*: who called that
    frame, innermost first. By id, so that no frame is kept alive.
    """

    __slots__ = ("callers", "context", "left", "noted_ns")

    def __init__(self, context: Context, step: TracebackType) -> None:
        self.context = context
        self.noted_ns = time.time_ns()
        self.left = id(step)
        callers = []
        frame: FrameType | None = step.tb_frame
        while frame is not None:
            callers.append(id(frame))
            frame = frame.f_back
        self.callers = callers

    def is_of(self, error: BaseException) -> bool:
        """Say whether *error* has come here from there and nowhere else.

        An exception object may be raised again, for somebody else: a future's, by each
        who awaits it, or one that is kept in a variable. Its traceback then leads
        back to the first time too, but through frames that had no part in it.
        """
        path: list[FrameType] = []
        step = error.__traceback__
        while step is not None and id(step) != self.left:
            path.append(step.tb_frame)
            step = step.tb_next
        if step is None:
            return False
        path.append(step.tb_frame)
        if len(path) > 1 and path[0] is path[1]:  # raised again where it is told of
            return False
        called = iter(self.callers)
        at: FrameType | None = None
        for frame in reversed(path):  # one that raised it again while it handled it is there twice
            if frame is not at and id(frame) != next(called, 0):
                return False
            at = frame
        return True

    def __reduce__(self) -> tuple[Any, ...]:
        return (type(None), ())


class _Noting:
    """A ``with`` block that notes itself on an exception that leaves it."""

    __slots__ = ("_entered_ns",)

    def __enter__(self) -> None:
        self._entered_ns = time.time_ns()

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        note_origin(error, self._entered_ns)


#: Attribute of an exception: the ``_Origin`` it has left.
_ORIGIN: Final = "_otel_logging_origin"


def note_origin(error: BaseException | None, entered_ns: int) -> None:
    """Note that *error* leaves this context, so that a later line about it knows whose it was.

    A stage, a job or a carried function says when it was entered: what was noted
    since then is the context of one inside it, which knows more; what was noted
    before is an earlier raise of the same exception object. Never raises.
    """
    if isinstance(error, Exception):
        with suppress(Exception):  # it may have attribute methods of its own, that raise
            known, step = getattr(error, _ORIGIN, None), error.__traceback__
            is_known = isinstance(known, _Origin) and known.noted_ns >= entered_ns
            if step is not None and not is_known:
                BaseException.__setattr__(error, _ORIGIN, _Origin(copy_context(), step))


def origin_of(error: BaseException) -> Context | None:
    """Return a copy of the context that *error* has come from, None where that is not known."""
    with suppress(Exception):
        origin = getattr(error, _ORIGIN, None)
        if isinstance(origin, _Origin) and origin.is_of(error):
            return origin.context.copy()
    return None


def is_nobodys() -> bool:
    """Say whether this runs on nobody's behalf: no span, no job, nothing bound."""
    context = trace.get_current_span().get_span_context()
    return not (context.is_valid or _bound.get() or job_tag.get())


def carry(function: _F, /) -> _F:
    """Return *function* so that, wherever it is called, it runs on behalf of whoever carried it.

    All context variables of this moment go along, each call in a copy of its
    own: into a thread, an executor, a callback. Works for functions, coroutine
    functions and generators of both kinds. Failure: never raises of itself.
    Concurrency: the result may be called from many threads and tasks at once.
    """
    captured = copy_context()
    return _decorate.inside(_decorate.around(function, _Noting), captured.copy)


# ---------------------------------------------------------------- across a border


def inject(carrier: MutableMapping[str, str] | None = None) -> dict[str, str]:
    """Write the current trace into *carrier* as headers, and return them as a dict.

    W3C ``traceparent`` and ``tracestate`` (or what OTEL_PROPAGATORS says), and
    as ``baggage`` the bound keys named in ``setup_observability(propagate=)``;
    nothing else of what is bound, and no other baggage. Failure: never raises.
    """
    headers: dict[str, str] = {}
    try:
        from opentelemetry import propagate  # which raises, where OTEL_PROPAGATORS is wrong

        context = baggage.clear(otel_context.get_current())
        fields = _bound.get()
        for key in propagated:
            if key in fields:
                context = baggage.set_baggage(key, str(plain(fields[key])), context)
        propagate.inject(headers, context)
        if carrier is not None:
            carrier.update(headers)
    except Exception as error:
        _trouble.report("headers lost: a propagator or a carrier failed", detail=error)
    return headers


class extract(_Scoped):  # noqa: N801 - reads as a verb
    """Run a ``with`` block as part of the trace that came in with *carrier*.

    *carrier* is a mapping of headers or an iterable of pairs, strings or bytes,
    names in any case; a name that comes twice is one list, as in HTTP. Of its
    baggage the keys named in ``propagate=`` are bound inside the block, the rest
    is left out. Without a trace in it, the current one stays. Scope: this task.
    Failure: never raises; malformed headers count as none.
    """

    def __init__(
        self,
        carrier: Mapping[str, str] | Mapping[bytes, bytes] | Iterable[tuple[Any, Any]],
        /,
    ) -> None:
        self._carrier = carrier

    def _begin(self) -> None:
        try:
            context, arrived = _read(self._carrier, otel_context.get_current())
        except Exception as error:
            _trouble.report("incoming headers not understood", detail=error)
            return
        otel_context.attach(context)
        if arrived:
            _bound.set({**_bound.get(), **arrived})


def _read(
    carrier: Any, before: otel_context.Context
) -> tuple[otel_context.Context, dict[str, str]]:
    from opentelemetry import propagate

    headers: dict[str, str] = {}
    for name, value in carrier.items() if isinstance(carrier, Mapping) else carrier:
        key, text = _text(name).lower(), _text(value)
        headers[key] = f"{headers[key]},{text}" if key in headers else text
    context = propagate.extract(headers, baggage.clear(before))
    items = baggage.get_all(context)
    arrived = {key: str(items[key]) for key in propagated if key in items}
    return baggage.clear(context), arrived


def _text(value: Any) -> str:
    return value.decode("latin-1") if isinstance(value, bytes) else str(value)
