"""On whose behalf does this run? What is bound, and how it goes along.

In: fields of an application. Out: a mapping that every line and every span
begins with. Invariant: task-local (a ``ContextVar`` holds an immutable mapping),
and nothing of it leaves in outgoing headers unless ``propagate=`` names it.
Deliberately absent: spans (``tracing``), queues and threads of libraries.
"""

from collections.abc import Callable, Iterable, Mapping, MutableMapping
from contextvars import ContextVar, copy_context
from types import MappingProxyType
from typing import Any, TypeVar

from opentelemetry import baggage, trace
from opentelemetry import context as otel_context

from otel_logging import _decorate, _names, _trouble
from otel_logging._values import plain

_F = TypeVar("_F", bound=Callable[..., Any])

_NOTHING: Mapping[str, Any] = MappingProxyType({})
_bound: ContextVar[Mapping[str, Any]] = ContextVar("otel_logging.bound", default=_NOTHING)

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
    """Return what is bound, as a span names it: a ``trace_id`` bound by hand is ``request_id``."""
    return _as_attributes(_bound.get())


def _as_attributes(fields: Mapping[str, Any]) -> dict[str, Any]:
    attributes = dict(fields)
    if _names.TRACE_ID in attributes:
        attributes.setdefault(_names.REQUEST_ID, attributes.pop(_names.TRACE_ID))
    return attributes


def _safe_names(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Give a field that would hide a reserved name a trailing underscore; ``trace_id`` may stay."""
    return {
        key + "_" if key in _names.RESERVED and key != _names.TRACE_ID else key: value
        for key, value in fields.items()
    }


def bind_context(**fields: Any) -> None:
    """Put *fields* on every line and span from here on, on the current span and the request's.

    They stay until ``unbind_context``, ``clear_context``, or the end of the
    request's entry stage, whichever is first: what a worker bound for one
    message is never on the next one's lines. ``trace_id="req-123"`` is the
    line's trace id where no span is active, and ``request_id`` where one is.

    Scope: this task, and tasks it starts from here on. Failure: never raises.
    Cost: two dict copies and two span attributes a field; never blocks.
    """
    safe = _safe_names(fields)
    _bound.set({**_bound.get(), **safe})
    span = trace.get_current_span()
    entry = getattr(span, ENTRY, None) or span
    for target in (span,) if entry is span else (span, entry):
        set_attributes(target, _as_attributes(safe))


def set_attributes(span: trace.Span, fields: Mapping[str, Any]) -> None:
    """Set *fields* on *span* if it is recording, whoever made it. Never raises."""
    try:
        if span.is_recording():
            for key, value in fields.items():
                span.set_attribute(key, plain(value))
    except Exception as error:
        _trouble.report("fields lost: a span did not take them", detail=error)


def unbind_context(*keys: str) -> None:
    """Take *keys* off later lines and spans; an unknown key is no error.

    Spans that have them keep them. Scope: this task. Failure: never raises.
    """
    gone = _safe_names(dict.fromkeys(keys))
    _bound.set({key: value for key, value in _bound.get().items() if key not in gone})


def clear_context() -> None:
    """Take everything that is bound off later lines and spans. Scope: this task."""
    _bound.set(_NOTHING)


class _Scoped:
    """A ``with`` block that is also a decorator of any callable."""

    def __enter__(self) -> None:
        raise NotImplementedError  # pragma: no cover - each subclass has its own

    def __exit__(self, *error: object) -> None:
        raise NotImplementedError  # pragma: no cover - each subclass has its own

    def _again(self) -> "_Scoped":
        raise NotImplementedError  # pragma: no cover - each subclass has its own

    def __call__(self, function: _F) -> _F:
        return _decorate.around(function, self._again)


class bound_context(_Scoped):  # noqa: N801 - reads as a verb, like structlog's
    """Put *fields* on every line, and every span opened, inside a ``with`` block or a function.

    Unlike ``bind_context`` it leaves the spans that are already open alone: a
    loop over orders would leave its last order on the request. At the end the
    keys are what they were before; other bindings made inside stay.

    Scope: this task. Failure: never raises. Concurrency: one object may serve as
    decorator everywhere, as a ``with`` block one at a time.
    """

    def __init__(self, **fields: Any) -> None:
        self._fields = _safe_names(fields)
        self._before: list[dict[str, Any]] = []

    def _again(self) -> "bound_context":
        return bound_context(**self._fields)

    def __enter__(self) -> None:
        now = _bound.get()
        self._before.append({key: now[key] for key in self._fields if key in now})
        _bound.set({**now, **self._fields})

    def __exit__(self, *error: object) -> None:
        others = {k: v for k, v in _bound.get().items() if k not in self._fields}
        _bound.set({**others, **self._before.pop()})


class detached(_Scoped):  # noqa: N801 - reads as a participle, like structlog's
    """Run a ``with`` block or a function on nobody's behalf: no span, nothing bound.

    For work that outlives the request it was started in. At the end all is as
    before. Scope: this task. Failure: never raises.
    """

    def __init__(self) -> None:
        self._before: list[tuple[otel_context.Context, Mapping[str, Any]]] = []

    def _again(self) -> "detached":
        return detached()

    def __enter__(self) -> None:
        self._before.append((otel_context.get_current(), _bound.get()))
        otel_context.attach(otel_context.Context())
        _bound.set(_NOTHING)

    def __exit__(self, *error: object) -> None:
        context, fields = self._before.pop()
        otel_context.attach(context)
        _bound.set(fields)


def carry(function: _F, /) -> _F:
    """Return *function* so that, wherever it is called, it runs on behalf of whoever carried it.

    All context variables of this moment go along, each call in a copy of its
    own: into a thread, an executor, a callback. Works for functions, coroutine
    functions and generators of both kinds. Failure: never raises of itself.
    Concurrency: the result may be called from many threads and tasks at once.
    """
    captured = copy_context()
    return _decorate.inside(function, captured.copy)


# ---------------------------------------------------------------- across a border


def inject(carrier: MutableMapping[str, str] | None = None) -> dict[str, str]:
    """Write the current trace into *carrier* as headers, and return them as a dict.

    W3C ``traceparent`` and ``tracestate`` (or what OTEL_PROPAGATORS says), and
    as ``baggage`` the bound keys named in ``setup_observability(propagate=)``;
    nothing else of what is bound, and no other baggage. Failure: never raises.
    """
    from opentelemetry import propagate

    headers: dict[str, str] = {}
    try:
        context = baggage.clear(otel_context.get_current())
        fields = _bound.get()
        for key in propagated:
            if key in fields:
                context = baggage.set_baggage(key, str(plain(fields[key])), context)
        propagate.inject(headers, context)
    except Exception as error:
        _trouble.report("headers lost: a propagator failed", detail=error)
    if carrier is not None:
        carrier.update(headers)
    return headers


class extract(_Scoped):  # noqa: N801 - reads as a verb
    """Run a ``with`` block as part of the trace that came in with *carrier*.

    *carrier* is a mapping of headers or an iterable of pairs, strings or bytes,
    names in any case. Of its baggage the keys named in ``propagate=`` are bound
    inside the block, the rest is left out. Without a trace in it, the current
    one stays. Scope: this task. Failure: never raises; malformed headers count
    as none.
    """

    def __init__(
        self,
        carrier: Mapping[str, str] | Mapping[bytes, bytes] | Iterable[tuple[Any, Any]],
        /,
    ) -> None:
        self._carrier = carrier
        self._before: list[tuple[otel_context.Context, Mapping[str, Any]]] = []

    def _again(self) -> "extract":
        return extract(self._carrier)

    def __enter__(self) -> None:
        before = otel_context.get_current()
        self._before.append((before, _bound.get()))
        try:
            context, arrived = _read(self._carrier, before)
        except Exception as error:
            _trouble.report("incoming headers not understood", detail=error)
            return
        otel_context.attach(context)
        if arrived:
            _bound.set({**_bound.get(), **_safe_names(arrived)})

    def __exit__(self, *error: object) -> None:
        context, fields = self._before.pop()
        otel_context.attach(context)
        _bound.set(fields)


def _read(
    carrier: Any, before: otel_context.Context
) -> tuple[otel_context.Context, dict[str, str]]:
    from opentelemetry import propagate

    pairs = carrier.items() if isinstance(carrier, Mapping) else carrier
    headers = {_text(name).lower(): _text(value) for name, value in pairs}
    context = propagate.extract(headers, baggage.clear(before))
    items = baggage.get_all(context)
    arrived = {key: str(items[key]) for key in propagated if key in items}
    return baggage.clear(context), arrived


def _text(value: Any) -> str:
    return value.decode("latin-1") if isinstance(value, bytes) else str(value)
