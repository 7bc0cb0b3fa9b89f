"""How a context goes along: carried to another thread or task, or in headers to another process.

In: the current context, or a carrier that came in. Out: a function, headers, or a block on behalf
of who sent them. Invariant: nothing that is bound leaves in headers unless ``propagate=`` names it.
Deliberately absent: what a propagator writes (OpenTelemetry's, by OTEL_PROPAGATORS).
"""

import threading
from asyncio import _get_running_loop
from collections.abc import Iterable, Mapping, MutableMapping
from contextvars import copy_context
from typing import Any, Final

from opentelemetry import baggage, trace
from opentelemetry import context as otel_context
from opentelemetry.propagators.textmap import TextMapPropagator, default_getter, default_setter

from otel_logging import _diagnostics, _exceptions, _names, _runtime, open_stage
from otel_logging._errors import ConfigurationError
from otel_logging._text import later
from otel_logging._values import plain
from otel_logging._wrap import F, wrap_in_context
from otel_logging.binding import Block, has_ended
from otel_logging.context import BOUND, CURRENT, SPAN, Scoped, bound, entry_of, leave_behind
from otel_logging.settings import variables


def carry(function: F, /) -> F:
    """Return *function* so that, wherever it is called, it runs on behalf of whoever carried it.

    All context variables of this moment go along, each call in a copy of its
    own: into a thread, an executor, a callback. Works for functions, coroutine
    functions and generators of both kinds. Failure: never raises of itself.
    Concurrency: the result may be called from many threads and tasks at once.
    """
    captured, waits, thread = copy_context(), open_stage.Waits(), threading.get_ident()

    def enter(_: object) -> tuple[int, int, dict[int, Any]]:
        here = threading.get_ident()
        hands = {} if (watch := _runtime.current.watch) is None else watch.hands
        # what is in a loop, or in the midst of a thread's other work, is found by that
        if here == thread or here in hands or _get_running_loop() is not None:
            hands = {}
        hands[here] = CURRENT.get().get(SPAN)
        return _exceptions.last, here, hands

    def leave(entered: tuple[int, int, dict[int, Any]], error: BaseException | None) -> None:
        began, here, hands = entered
        _exceptions.remember_context(error, began)
        hands.pop(here, None)
        waits.end(threading.current_thread() if here == threading.get_ident() else None)

    return wrap_in_context(function, captured.copy, enter, leave)


def inject(carrier: MutableMapping[str, str] | None = None) -> dict[str, str]:
    """Write the current trace into *carrier* as headers, and return them as a dict.

    W3C ``traceparent`` and ``tracestate`` (or what OTEL_PROPAGATORS says), and
    as ``baggage`` the bound keys named in ``setup_observability(propagate=)``;
    nothing else of what is bound, and no other baggage. Failure: never raises.
    """
    headers: dict[str, str] = {}
    try:
        from opentelemetry import propagate  # raises if OTEL_PROPAGATORS is invalid

        propagate.inject(headers, _outgoing(CURRENT.get()))
        if carrier is not None:
            carrier.update(headers)
    except Exception as error:
        _diagnostics.report("headers lost: a propagator or a carrier failed", detail=error)
    return headers


def _outgoing(context: otel_context.Context) -> otel_context.Context:
    """Return *context* with the bound keys that ``propagate=`` names as baggage, and no other."""
    fields = bound()
    context = baggage.clear(context)
    for key in _runtime.current.propagate:
        if key in fields:
            context = baggage.set_baggage(key, str(plain(fields[key])), context)
    return context


class _Named(TextMapPropagator):
    """The propagators *others*, for all who inject, with no baggage but what is named."""

    def __init__(self, others: TextMapPropagator) -> None:
        self.others = others

    def extract(self, carrier: Any, context: Any = None, getter: Any = default_getter) -> Any:
        """Read what *others* read."""
        return self.others.extract(carrier, context, getter)

    def inject(self, carrier: Any, context: Any = None, setter: Any = default_setter) -> None:
        """Write the trace of *context*, the current one where it is left out."""
        context = CURRENT.get() if context is None else context
        if _runtime.current.tracer is not None:
            context = _outgoing(context)
        self.others.inject(carrier, context, setter)

    @property
    def fields(self) -> set[str]:
        """The headers that are written."""
        return self.others.fields


class _Sender(trace.NonRecordingSpan):
    """The *span* that came in. Like a stage, it ends with its *block* and has a context around."""

    otel_logging_token: Any

    def __init__(self, span: trace.Span, block: Block) -> None:
        super().__init__(span.get_span_context())
        self.otel_logging_outer, self.otel_logging_block = CURRENT.get(), block
        self.otel_logging_bound = BOUND.get()

    @property
    def otel_logging_closed(self) -> bool:
        return self.otel_logging_block.otel_logging_closed


class extract(Scoped):  # noqa: N801 - reads as a verb
    """Run a ``with`` block as part of the trace that came in with *carrier*.

    *carrier* is a mapping of headers or an iterable of pairs, strings or bytes,
    names in any case; a name that comes twice, or with a list, is one list, as in HTTP. Of its
    baggage the keys named in ``propagate=`` are bound inside the block, the rest
    is left out. Without a trace in it, the current one stays; where that one's
    request or block has ended it is left, with what was bound there. Scope: this task.
    Failure: never raises; malformed headers are ignored.
    """

    def __init__(
        self, carrier: Mapping[str, str] | Mapping[bytes, bytes] | Iterable[tuple[Any, Any]], /
    ) -> None:
        self._carrier = carrier

    def __enter__(self) -> None:
        around = trace.get_current_span()
        if has_ended(around) and has_ended(entry_of(around)):
            leave_behind(around)
        super().__enter__()

    def _begin(self, block: Block) -> None:
        try:
            context, arrived = _read(self._carrier, CURRENT.get())
        except Exception as error:
            _diagnostics.report("incoming headers not understood", detail=error)
            return
        span = trace.get_current_span(context)
        if span is trace.get_current_span():
            CURRENT.set(context)
        else:
            sender = _Sender(span, block)
            # with which this task comes back, where another one leaves the block
            sender.otel_logging_token = CURRENT.set(trace.set_span_in_context(sender, context))
        if arrived:
            BOUND.set(BOUND.get().put(arrived, block))


#: RFC 9110, field values: no control character but the tab.
_NOT_IN_HEADERS: Final = later(r"[\x00-\x08\x0a-\x1f\x7f]")


class _Headers(dict[str, str]):
    """Headers in lower case, found in any: a propagator asks for a name as it writes it."""

    def get(self, name: str, default: Any = None) -> Any:
        return super().get(name.lower(), default)


def _read(
    carrier: Any, before: otel_context.Context
) -> tuple[otel_context.Context, dict[str, str]]:
    from opentelemetry import propagate

    headers = _Headers()
    # a message of `email`, as of `http.server`, is no mapping and has items
    for name, value in carrier.items() if hasattr(carrier, "items") else carrier:
        key, text = _text(name).lower(), _text(value)
        if _NOT_IN_HEADERS.search(text):  # OpenTelemetry takes one with a newline at its end
            text = ""
        headers[key] = f"{headers[key]},{text}" if key in headers else text
    context = propagate.extract(headers, baggage.clear(before))
    items = baggage.get_all(context)
    arrived = {key: str(items[key]) for key in _runtime.current.propagate if key in items}
    return baggage.clear(context), arrived


def _text(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return ",".join(map(_text, value))
    return value.decode("latin-1") if isinstance(value, bytes) else str(value)


def wrap_propagators() -> None:
    """Make whoever injects by OpenTelemetry's global propagator leave out what is not named.

    Failure: raises ``ConfigurationError`` if OpenTelemetry's OTEL_PROPAGATORS is invalid.
    """
    try:
        from opentelemetry import propagate
    except ValueError as error:
        name = _names.OTEL_PROPAGATORS
        raise ConfigurationError(name, variables.value_of(name), str(error).rstrip(".")) from error
    if not isinstance(present := propagate.get_global_textmap(), _Named):
        propagate.set_global_textmap(_Named(present))
