"""On whose behalf does this run? What is bound, and how it goes along.

In: fields of an application. Out: a mapping that every line and every span
begins with. Invariants: task-local (a ``ContextVar`` holds an immutable mapping);
a request that begins in a copy of the context of one that is over has nothing of
it; nothing leaves in outgoing headers unless ``propagate=`` names it. Deliberately
absent: making spans (``tracing``), queues and threads of libraries.
"""

import re
from collections.abc import Callable, Collection, Iterable, Mapping, MutableMapping
from contextvars import ContextVar, Token, copy_context
from typing import Any, Final, NamedTuple, TypeVar, cast

from opentelemetry import baggage, trace
from opentelemetry import context as otel_context
from opentelemetry.trace import SpanKind

from otel_logging import _diagnostics, _exceptions, _json, _names, _otlp, _runtime, _wrap
from otel_logging._values import plain

_F = TypeVar("_F", bound=Callable[..., Any])

#: Attribute of a span: its request's entry span, the outermost one in this process, or None
#: where it is that itself.
ENTRY: Final = "otel_logging_entry"
#: Attributes of a stage's span, whoever's it is: the context around it; that it has ended.
OUTER: Final = "otel_logging_outer"
CLOSED: Final = "otel_logging_closed"


class _Attached:
    """OpenTelemetry's current context, of a kind that has no context variable that we find."""

    @staticmethod
    def get() -> otel_context.Context:
        return otel_context.get_current()

    @staticmethod
    def set(context: otel_context.Context) -> object:
        return otel_context.attach(context)


def _find_current() -> Any:
    probe = otel_context.Context({"otel_logging": "probe"})
    token = otel_context.attach(probe)
    found = [variable for variable, value in copy_context().items() if value is probe]
    otel_context.detach(token)
    return found[0] if found else _Attached


#: OpenTelemetry's current context, by one look-up; to be set without a token.
CURRENT: Final[Any] = _find_current()
#: The key of the current span in it.
(SPAN,) = trace.set_span_in_context(trace.INVALID_SPAN, otel_context.Context())

_PLAIN: Final = frozenset({str, int, float, bool, type(None)})


_UNASKED: Final = b"unasked"
_NOT_USUAL: Final = _names.RESERVED | {_names.TIME_NS, *_names.OF_CALLS}


class Bound:
    """What is bound in a task, in layers. Immutable.

    *fields* are those of this layer; they end with its *owner*: the entry span of a request,
    the block of a ``bound_context``; None: nothing. *around*: what is bound outside of it, and
    again once the owner has ended. Every copy of the context that is made meanwhile has this
    object for ever. Its encodings are made once, and shared by all spans and lines that have it.
    """

    __slots__ = (
        *("_attributes", "_event_bytes", "_span_bytes", "around", "fields", "has_requests"),
        *("_line_bytes", "is_plain", "owner", "values"),
    )

    def __init__(
        self, fields: Mapping[str, Any], owner: Any = None, around: "Bound | None" = None
    ) -> None:
        self.fields = fields
        self.owner = owner
        self.around = around
        self.values: Mapping[str, Any] = fields if around is None else {**around.values, **fields}
        #: Whether some owner is a span, for stages that begin a trace and must not be slow.
        self.has_requests: bool = (around is not None and around.has_requests) or not (
            owner is None or type(owner) is _Block
        )
        #: Whether no value can change from here on.
        self.is_plain = _PLAIN.issuperset(map(type, self.values.values()))
        self._attributes: dict[str, Any] | None = None
        self._span_bytes: bytes | None = None
        self._event_bytes: bytes | None = None
        self._line_bytes: bytes | None = _UNASKED

    @property
    def line_bytes(self) -> bytes | None:
        """What is bound as attributes of an event, encoded once.

        None where each line has to look anew: at values that are more than plain scalars and
        may change, at names that give way to a line's own.
        """
        if self._line_bytes is _UNASKED:
            usual = _NOT_USUAL.isdisjoint(self.values)
            self._line_bytes = _otlp.scalars(_otlp.EVENT_TAG, self.values) if usual else None
        return self._line_bytes

    def put(self, values: Mapping[str, Any], owner: Any) -> "Bound":
        """Return this with *values*, which end with *owner*."""
        if self.owner is owner:
            return Bound({**self.fields, **values}, owner, self.around)
        # what is never seen again goes: layers of what has ended would become ever more
        return Bound(values, owner, self.without(values, None if owner is None else has_ended))

    def without(
        self, keys: Iterable[str], is_over: "Callable[[Any], bool] | None" = None
    ) -> "Bound":
        """Return this without the fields *keys*, of the owners alone that are over."""
        around = self.around and self.around.without(keys, is_over)
        fields = self.fields
        if not fields.keys().isdisjoint(keys) and (is_over is None or is_over(self.owner)):
            fields = {key: value for key, value in fields.items() if key not in keys}
        elif around is self.around:
            return self
        return _layer(fields, self.owner, around)

    def lasting(self, is_over: Callable[[Any], bool]) -> "Bound":
        """Return this without the layers with an owner that is over."""
        around = self.around and self.around.lasting(is_over)
        if is_over(self.owner):
            return around or NOTHING
        return self if around is self.around else _layer(self.fields, self.owner, around)

    def with_fields_of(self, before: "Bound", keys: Collection[str]) -> "Bound":
        """Return this with the fields *keys* as they are in *before*."""
        found = self.without(keys)
        layers = [before]
        while (around := layers[-1].around) is not None:
            layers.append(around)
        for layer in reversed(layers):
            fields = {key: value for key, value in layer.fields.items() if key in keys}
            found = _layer(fields, layer.owner, found)
        return found

    @property
    def attributes(self) -> dict[str, Any]:
        """The values as attributes of a span. Not to be changed."""
        known = self._attributes
        if known is None:
            known = {key: plain(value) for key, value in _as_attributes(self.values).items()}
            if self.is_plain:
                self._attributes = known
        return known

    @property
    def span_bytes(self) -> bytes:
        """The same as a span has them, encoded."""
        known = self._span_bytes
        if known is None:
            known = _otlp.attributes(b"\x4a", self.attributes)
            if self.is_plain:
                self._span_bytes = known
        return known

    @property
    def event_bytes(self) -> bytes:
        """The same as an event has them, encoded."""
        known = self._event_bytes
        if known is None:
            known = _otlp.attributes(b"\x1a", self.attributes)
            if self.is_plain:
                self._event_bytes = known
        return known


def _layer(fields: Mapping[str, Any], owner: Any, around: Bound | None) -> Bound:
    if around is not None:
        if not fields:
            return around
        if around.owner is owner:
            return Bound({**around.fields, **fields}, owner, around.around)
    return Bound(fields, owner, around)


#: Nothing is bound.
NOTHING: Final = Bound({})
_bound: ContextVar[Bound] = ContextVar("otel_logging.bound", default=NOTHING)


class Job:
    """One run of a tagged job (``jobs``); *around*: the job that it runs in."""

    __slots__ = ("around", "began", "has_ended", "tag", "token")

    tag: str | None
    around: "Job | None"
    has_ended: bool
    began: int
    token: "Token[Job]"


#: The background job that this runs for: its tag is on every line and span, as a bound field
#: is, and not to be unbound.
_NO_JOB: Final = Job()
_NO_JOB.tag, _NO_JOB.around, _NO_JOB.has_ended = None, None, False
job: Final[ContextVar[Job]] = ContextVar("otel_logging.job", default=_NO_JOB)


def job_tag() -> str | None:
    """Return the tag of the job that this runs for."""
    return job.get().tag


def going_on(run: Job) -> Job:
    """Return *run*, or what is around it, where it has ended."""
    while run.has_ended and run.around is not None:
        run = run.around
    return run


def bound() -> Mapping[str, Any]:
    """Return what is bound in this task. Not to be changed."""
    return _bound.get().values


#: What is bound in this task, with its owners; to get it, and to bind that again.
state: Final = _bound.get
#: The variable itself, for who looks into another task's context.
BOUND: Final = _bound
restore: Final = _bound.set


def bound_attributes() -> dict[str, Any]:
    """Return what a new span begins with: what is bound, and the job tag.

    A ``trace_id`` bound by hand is ``request_id`` on a span.
    """
    attributes = _as_attributes(bound())
    tag = job_tag()
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
    message is never on the next one's lines. A task that goes on after its request
    keeps them; a stage in it that begins a request of its own (``traced``) does not.
    ``trace_id="req-123"`` is the
    line's trace id where no span is active, and ``request_id`` where one is.

    Scope: this task, and tasks it starts from here on. Failure: never raises.
    Cost: three dict copies and two span attributes a field; never blocks.
    """
    span = trace.get_current_span()
    entry = entry_of(span)
    # after the end of its request a task may have stages of its own
    open_stages = [each for each in (entry, span) if is_local(each) and not has_ended(each)]
    _bound.set(_bound.get().put(fields, open_stages[0] if open_stages else None))
    now = bound()
    if not _RENAMED.isdisjoint(now):  # those that are renamed may give way to one another
        fields = {k: v for k, v in now.items() if k in fields or k.rstrip("_") in _RENAMED}
        fields = _as_attributes(fields)
    for target in (span,) if entry is span else (span, entry):
        set_attributes(target, fields)
    if _runtime.current.watch is not None:
        _runtime.current.watch.bind(entry, fields)


def set_attributes(span: trace.Span, fields: Mapping[str, Any]) -> None:
    """Set *fields* on *span* if it is recording, whoever made it. Never raises."""
    try:
        if span.is_recording():
            take = plain if hasattr(span, "add_line") else _json.flat
            for key, value in fields.items():
                span.set_attribute(key, take(value))
    except Exception as error:
        _diagnostics.report("fields lost: a span did not take them", detail=error)


def unbind_context(*keys: str) -> None:
    """Take *keys* off later lines and spans; an unknown key is no error.

    Spans that have them keep them. Scope: this task. Failure: never raises.
    """
    _bound.set(_bound.get().without(keys))


def clear_context() -> None:
    """Take everything that is bound off later lines and spans. Scope: this task."""
    _bound.set(NOTHING)


class _Block:
    """One time that a scope is entered."""

    otel_logging_closed = False
    end_time = None  # as a span's


class _Here(NamedTuple):
    """What is current and bound in a context."""

    bound: Bound
    context: otel_context.Context
    job: Job

    @classmethod
    def now(cls) -> "_Here":
        return cls(_bound.get(), CURRENT.get(), job.get())

    def put_back(self) -> None:
        CURRENT.set(self.context)
        _bound.set(self.bound)
        job.set(self.job)


#: The scopes that this task is in: each with what was current and bound before it.
_open: ContextVar[tuple[tuple["_Scoped", _Block, _Here], ...]] = ContextVar(
    "otel_logging.open", default=()
)


class _Scoped:
    """A ``with`` block that is also a decorator of any callable.

    What it has to restore is kept in the task, not in the object: one object may
    be entered by any number of tasks at once, and a block that is left in
    another task than it was entered in (a generator that is closed from
    elsewhere) changes nothing there.
    """

    def _begin(self, block: _Block) -> None:
        raise NotImplementedError  # pragma: no cover - each subclass has its own

    def _end(self, before: _Here) -> None:
        before.put_back()

    def __enter__(self) -> None:
        block = _Block()
        _open.set((*_open.get(), (self, block, _Here.now())))
        self._begin(block)

    def __exit__(self, *error: object) -> None:
        scopes = _open.get()
        for at in reversed(range(len(scopes))):
            scope, block, before = scopes[at]
            if scope is self:
                block.otel_logging_closed = True
                _open.set(scopes[:at] + scopes[at + 1 :])
                self._end(before)
                return

    def __call__(self, function: _F) -> _F:
        return _wrap.wrap_in(function, lambda: self)


class bound_context(_Scoped):  # noqa: N801 - reads as a verb, like structlog's
    """Put *fields* on every line, and every span opened, inside a ``with`` block or a function.

    Unlike ``bind_context`` it leaves the spans that are already open alone: a
    loop over orders would leave its last order on the request. At the end the
    keys are what they were before; other bindings made inside stay. A task or a callback
    that was started inside keeps them; a stage in it that begins a request of its own
    (``traced``) has them only until the block has ended.

    Scope: this task. Failure: never raises. Concurrency: one object may serve
    everywhere, and be nested in itself.
    """

    def __init__(self, /, **fields: Any) -> None:
        self._fields = fields

    def _begin(self, block: _Block) -> None:
        _bound.set(_bound.get().put(self._fields, block))

    def _end(self, before: _Here) -> None:
        now = _bound.get()
        is_alone = now.around is before.bound and now.fields is self._fields  # the usual case
        _bound.set(before.bound if is_alone else now.with_fields_of(before.bound, self._fields))


class detached(_Scoped):  # noqa: N801 - reads as a participle, like structlog's
    """Run a ``with`` block or a function on nobody's behalf: no span, no job tag, nothing bound.

    For work that outlives the request it was started in. At the end all is as
    before. Scope: this task. Failure: never raises.
    """

    def _begin(self, block: _Block) -> None:  # noqa: ARG002 - nothing is bound for it
        _Here(NOTHING, otel_context.Context(), _NO_JOB).put_back()


# ---------------------------------------------------------------- requests that are over

#: What begins when something arrives from outside.
ARRIVING: Final = (SpanKind.SERVER, SpanKind.CONSUMER)


def entry_of(span: trace.Span) -> trace.Span:
    """Return the entry span of the request that *span* is of."""
    entry: trace.Span | None = getattr(span, ENTRY, None)
    return entry or span


def is_local(span: trace.Span) -> bool:
    """Say whether *span* is a stage of this process, rather than none or one come from outside."""
    if hasattr(span, ENTRY):
        return True
    context = span.get_span_context()
    return context.is_valid and not context.is_remote


def has_ended(owner: Any) -> bool:
    """Say whether a span, whoever's, or another owner has ended."""
    return getattr(owner, CLOSED, False) or getattr(owner, "end_time", None) is not None


def begin(around: trace.Span, *, arrives: bool, root: bool = False) -> Bound:
    """Take off what is bound for requests that are over; return what to bind at the end.

    For a stage that does not continue *around*, the current span: it begins a trace
    of its own, or continues one from outside. *arrives*: it is of a kind in ``ARRIVING``;
    *root*: it says that something else begins, and has nothing of blocks that have ended either.

    A context that was copied while a request went on has its fields and its span for
    ever, and so have the callbacks of a connection that is kept and the tasks of a
    pool. There are two cases. Where the request around has ended, or something arrives,
    this context has nothing to do with it any more, and is left for good. Else it
    is a task that goes on, as it was, once the stage has ended.
    """
    if around is trace.INVALID_SPAN:
        is_over = arrives and _has_leftovers()
    elif is_local(around):
        is_over = has_ended(around) and (arrives or has_ended(entry_of(around)))
    else:
        is_over = around.get_span_context().is_valid or arrives
    if is_over:
        _leave_behind(around)
        return _bound.get()
    before = _bound.get()
    if root:
        _bound.set(before.lasting(has_ended))
    elif before.has_requests:
        _bound.set(before.lasting(lambda owner: type(owner) is not _Block and has_ended(owner)))
    return before


def _has_leftovers() -> bool:
    """Say whether something is bound here whose owner has ended."""
    now = _bound.get()
    return job.get().has_ended or now.lasting(has_ended) is not now


def _leave_behind(around: trace.Span) -> None:
    """Leave the request of *around*, and whatever has ended; scopes no longer give it back."""
    request = entry_of(around)

    def is_over(owner: Any) -> bool:
        return owner is request or has_ended(owner)

    def left(here: _Here) -> _Here:
        context = here.context
        while is_local(span := trace.get_current_span(context)) and (
            entry_of(span) is request or has_ended(span)
        ):
            context = cast(otel_context.Context, getattr(span, OUTER, otel_context.Context()))
        return _Here(here.bound.lasting(is_over), context, going_on(here.job))

    left(_Here.now()).put_back()
    _open.set(tuple((scope, block, left(before)) for scope, block, before in _open.get()))


# ---------------------------------------------------------------- carried elsewhere


def is_unbound() -> bool:
    """Say whether nothing is bound here, and there is no job."""
    return not (bound() or job_tag())


def carry(function: _F, /) -> _F:
    """Return *function* so that, wherever it is called, it runs on behalf of whoever carried it.

    All context variables of this moment go along, each call in a copy of its
    own: into a thread, an executor, a callback. Works for functions, coroutine
    functions and generators of both kinds. Failure: never raises of itself.
    Concurrency: the result may be called from many threads and tasks at once.
    """
    captured = copy_context()
    return _wrap.run_in_context(_wrap.wrap_in(function, _exceptions.Remembering), captured.copy)


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

        context = baggage.clear(CURRENT.get())
        fields = bound()
        for key in _runtime.current.propagate:
            if key in fields:
                context = baggage.set_baggage(key, str(plain(fields[key])), context)
        propagate.inject(headers, context)
        if carrier is not None:
            carrier.update(headers)
    except Exception as error:
        _diagnostics.report("headers lost: a propagator or a carrier failed", detail=error)
    return headers


class extract(_Scoped):  # noqa: N801 - reads as a verb
    """Run a ``with`` block as part of the trace that came in with *carrier*.

    *carrier* is a mapping of headers or an iterable of pairs, strings or bytes,
    names in any case; a name that comes twice is one list, as in HTTP. Of its
    baggage the keys named in ``propagate=`` are bound inside the block, the rest
    is left out. Without a trace in it, the current one stays; where that one's
    request has ended it is left, with what was bound there. Scope: this task.
    Failure: never raises; malformed headers count as none.
    """

    def __init__(
        self,
        carrier: Mapping[str, str] | Mapping[bytes, bytes] | Iterable[tuple[Any, Any]],
        /,
    ) -> None:
        self._carrier = carrier

    def __enter__(self) -> None:
        around = trace.get_current_span()
        if has_ended(around) and has_ended(entry_of(around)):
            _leave_behind(around)
        super().__enter__()

    def _begin(self, block: _Block) -> None:
        try:
            context, arrived = _read(self._carrier, CURRENT.get())
        except Exception as error:
            _diagnostics.report("incoming headers not understood", detail=error)
            return
        CURRENT.set(context)
        if arrived:
            _bound.set(_bound.get().put(arrived, block))


#: RFC 9110, field values: no control character but the tab.
_NOT_IN_HEADERS: Final = re.compile(r"[^\t -~\x80-\U0010ffff]")


def _read(
    carrier: Any, before: otel_context.Context
) -> tuple[otel_context.Context, dict[str, str]]:
    from opentelemetry import propagate

    headers: dict[str, str] = {}
    for name, value in carrier.items() if isinstance(carrier, Mapping) else carrier:
        key, text = _text(name).lower(), _text(value)
        if _NOT_IN_HEADERS.search(text):  # OpenTelemetry takes one with a newline at its end
            text = ""
        headers[key] = f"{headers[key]},{text}" if key in headers else text
    context = propagate.extract(headers, baggage.clear(before))
    items = baggage.get_all(context)
    arrived = {key: str(items[key]) for key in _runtime.current.propagate if key in items}
    return baggage.clear(context), arrived


def _text(value: Any) -> str:
    return value.decode("latin-1") if isinstance(value, bytes) else str(value)
