"""A stage: ``traced`` as ``with`` block and as decorator.

In: a name, and whichever tracer is set up. Out: spans of that tracer, begun and
ended. Invariant: made of the OpenTelemetry API alone, so that a stage is a span
of whoever's SDK is there, and nothing at all where there is none. After a stage
has ended it never becomes current again, but in tasks that were started in it and
go on. Deliberately absent: what a span is
(``export``), and why it was late (``lateness``).
"""

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from typing import Any, Final, TypeVar, cast, overload

from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.trace import Link, Span, SpanContext, SpanKind, StatusCode

from otel_logging import _decorate, _names, _parse, _trouble
from otel_logging import context as bindings
from otel_logging._errors import ConfigurationError
from otel_logging._values import plain
from otel_logging.lateness.verdict import late_by

_F = TypeVar("_F", bound=Callable[..., Any])

_KINDS: Final = {kind.name.lower(): kind for kind in SpanKind}

#: Set on an exception that an event tells of: the id of the trace that has it.
_RECORDED: Final = "_otel_logging_recorded"
#: Set on the span of a stage that was left while it was not what is current.
_PASSED: Final = "otel_logging_passed"

#: The tracer that set-up gave us; None: look for somebody else's.
tracer: trace.Tracer | None = None
#: Budgets by stage name, in seconds; set by set-up.
budgets: Mapping[str, float] = {}


#: Somebody else's provider, and the tracer that it gave us.
_found: tuple[trace.TracerProvider, trace.Tracer] | None = None


def _someones_tracer() -> trace.Tracer | None:
    global _found
    provider = trace.get_tracer_provider()
    # none is set; or it is ours, and shut down
    if isinstance(provider, trace.ProxyTracerProvider) or getattr(provider, "is_idle", False):
        return None
    if _found is None or _found[0] is not provider:
        _found = provider, provider.get_tracer(_names.SCOPE)
    return _found[1]


@overload
def traced(function: _F, /) -> _F: ...


@overload
def traced(
    name: str | None = None,
    /,
    *,
    budget: float | None = None,
    root: bool = False,
    kind: str = "internal",
    links: Iterable[Link | SpanContext | Span] = (),
    attributes: Mapping[str, Any] | None = None,
    **fields: Any,
) -> "Stage": ...


def traced(name: Any = None, /, **options: Any) -> Any:
    """Open a stage: a span, for the length of a ``with`` block or of each call of a function.

    *name* of the span; a decorated function's own name where it is left out.
    *budget* in seconds: a stage that takes longer is late. *root*: begin a trace
    of its own, linked to the current span. *kind*: internal, server, client,
    producer or consumer. *links*: spans, span contexts or OpenTelemetry links.
    *fields* and *attributes* are attributes of the span; a field that is called
    like one of these options goes through *attributes*. ``with`` gives the
    OpenTelemetry span; ``@traced`` works bare, and on functions, coroutine
    functions, methods and generators of both kinds (these from their first step
    until they are closed).

    An exception that leaves the stage is recorded as an event of the innermost
    span it was raised in, once, and gives every stage it passes the status
    ERROR. A cancelled stage has the attribute ``cancelled``.

    A task or a callback may go on after its request. Its stages are the request's
    still, but not those that say that something else begins: a *root*, or a stage of
    the *kind* server or consumer, has nothing of what was bound in a request that has
    ended, and the latter a trace of its own where the current stage has.

    In the body of a generator that is not itself decorated, the stage is current
    for the consumer between two yields: Python has it so.

    Scope: this task. Failure: raises ``ConfigurationError`` for an empty name, an
    unknown kind, a *root* that is not True or False, or a budget that is no positive
    number, when it is made; entering
    and leaving never raise. Cost: see ``benchmarks/hot.py``; one write to the
    spool, never the network; nothing where no tracing is set up. Concurrency: one
    object may decorate anything, and be entered by any number of tasks at once.
    """
    if callable(name) or isinstance(name, (classmethod, staticmethod)):
        return Stage(None, **options)(name)
    return Stage(name, **options)


class Stage:
    """What ``traced`` returns: the options of a stage, and the ``with`` blocks that are open."""

    __slots__ = ("_open", "attributes", "budget", "kind", "links", "name", "root")

    def __init__(
        self,
        name: str | None,
        /,
        *,
        budget: float | None = None,
        root: bool = False,
        kind: str = "internal",
        links: Iterable[Link | SpanContext | Span] = (),
        attributes: Mapping[str, Any] | None = None,
        **fields: Any,
    ) -> None:
        if name is not None and not (isinstance(name, str) and name.strip()):
            raise ConfigurationError("traced: name", name, "a text that is not empty")
        if not isinstance(kind, str) or kind not in _KINDS:
            raise ConfigurationError("traced: kind", kind, "one of " + ", ".join(_KINDS))
        self.name = name
        self.budget = None if budget is None else _parse.budget("traced: budget", budget)
        if root is not False and root is not True:
            raise ConfigurationError("traced: root", root, "True or False")
        self.root = root
        self.kind = _KINDS[kind]
        self.links = None if links == () else _as_links(links)
        if attributes is not None and not isinstance(attributes, Mapping):
            raise ConfigurationError("traced: attributes", attributes, "a mapping")
        self.attributes = {**fields, **attributes} if attributes else fields
        self._open: list[_Entered] = []

    def __call__(self, function: _F) -> _F:
        """Decorate *function*: each call is a stage."""
        name = self.name
        if name is None:
            qualified: str = getattr(function, "__qualname__", type(function).__qualname__)
            name = qualified.rpartition("<locals>.")[2]
        return _decorate.around(function, lambda: _Entered(self, name))

    def __enter__(self) -> Span:
        entered = _Entered(self, self.name or "stage")
        self._open.append(entered)
        return entered.__enter__()

    def __exit__(self, *error: Any) -> None:
        # several tasks may have entered this object: the one to leave is the current one
        current = otel_context.get_current()
        entered = self._open[-1]
        if entered.current is not current:
            entered = next((e for e in reversed(self._open) if e.current is current), entered)
        self._open.remove(entered)
        entered.__exit__(*error)


class _Entered:
    """One time that a stage is entered and left."""

    __slots__ = ("bound", "budget", "current", "name", "span", "stage")

    span: Span
    current: otel_context.Context | None  # the one in which the span is the current one
    budget: float | None
    bound: bindings.Bound | None  # what to bind again at the end, for an entry stage

    def __init__(self, stage: Stage, name: str) -> None:
        self.stage = stage
        self.name = name
        self.span = trace.INVALID_SPAN
        self.current = None

    def __enter__(self) -> Span:
        try:
            self._start()
        except Exception as error:  # a foreign sampler or processor
            _trouble.report("stages lost: a span could not be started", detail=error)
        return self.span

    def _start(self) -> None:
        using = tracer or _someones_tracer()
        if using is None:
            return
        stage = self.stage
        outer = context = otel_context.get_current()
        around = trace.get_current_span(outer)
        # what arrives where a stage has ended has nothing to do with it
        arrives = stage.kind in bindings.ARRIVING
        is_apart = arrives and bindings.has_ended(around)
        is_entry = stage.root or is_apart or not bindings.is_local(around)
        self.bound = None
        if is_entry:  # what is bound in it ends with it
            self.bound = bindings.state()
            if arrives or self.bound.requests or around is not trace.INVALID_SPAN:
                self.bound = bindings.begin(around, arrives=arrives)
                outer = context = otel_context.get_current()
        links = stage.links
        if stage.root or is_apart:
            context = trace.set_span_in_context(trace.INVALID_SPAN, outer)
            if not is_apart and around.get_span_context().is_valid:
                links = [*(links or ()), Link(around.get_span_context())]
        budget = self.budget = stage.budget or budgets.get(self.name)
        attributes = stage.attributes
        if budget is not None:
            attributes = {**attributes, _names.BUDGET: budget}
        span: Any = using.start_span(self.name, context, stage.kind, attributes, links)
        if span is around or span is trace.INVALID_SPAN:  # an SDK that records nothing
            return
        span.otel_logging_outer = outer
        if not is_entry and not hasattr(span, bindings.ENTRY):  # another SDK's that is not sampled
            span.otel_logging_entry = bindings.entry_of(around)
        self.current = current = trace.set_span_in_context(span, outer)
        otel_context.attach(current)
        self.span = span

    def __exit__(self, kind: Any, error: BaseException | None, traceback: Any) -> None:
        if self.span is trace.INVALID_SPAN:
            return
        try:
            if error is not None:
                _record(self.span, error)
                started_ns: int | None = getattr(self.span, "start_time", None)
                bindings.note_origin(error, started_ns or time.time_ns())
            _end(self.span, self.budget)
        except Exception as failure:
            _trouble.report("stages lost: a span could not be ended", detail=failure)
        finally:
            self._leave()

    def _leave(self) -> None:
        """Make what was around the stage current again, if the stage is what is current.

        It is not where a generator was closed from elsewhere. What was around it may
        have been passed over like that meanwhile; then it is what was around that.
        """
        span: Any = self.span
        span.otel_logging_closed = True
        if otel_context.get_current() is not self.current:
            span.otel_logging_passed = True
            return
        outer = span.otel_logging_outer
        while outer and getattr(around := trace.get_current_span(outer), _PASSED, False):
            outer = cast(Any, around).otel_logging_outer
        otel_context.attach(outer)
        if self.bound is not None:
            bindings.restore(self.bound)


def _as_links(links: Any) -> list[Link]:
    if not isinstance(links, Iterable):
        raise ConfigurationError("traced: links", links, "spans, span contexts or links")
    return [_as_link(link) for link in links]


def _as_link(link: Link | SpanContext | Span) -> Link:
    if isinstance(link, Link):
        return link
    context = link.get_span_context() if isinstance(link, Span) else link
    if not isinstance(context, SpanContext):
        raise ConfigurationError("traced: links", link, "spans, span contexts or links")
    return Link(context)


def _end(span: Span, budget: float | None) -> None:
    start_ns: int | None = getattr(span, "start_time", None) if budget is not None else None
    if budget is None or start_ns is None:
        span.end()
        return
    end_ns = getattr(span, "now_ns", time.time_ns)()
    over = late_by((end_ns - start_ns) / 1e9, budget)
    if over is not None:
        span.set_attribute(_names.LATE, True)  # noqa: FBT003 - an attribute's value
        span.set_attribute(_names.LATE_BY, round(over, 6))
    span.end(end_ns)


def _record(span: Span, error: BaseException) -> None:
    if isinstance(error, Exception):
        trace_id = span.get_span_context().trace_id
        if not was_told(error, trace_id):
            span.record_exception(error)
            note_told(error, trace_id)
        span.set_status(StatusCode.ERROR, plain(error))
    elif isinstance(error, asyncio.CancelledError):
        span.set_attribute(_names.CANCELLED, True)  # noqa: FBT003 - an attribute's value


def was_told(error: BaseException, trace_id: int) -> bool:
    """Say whether an event of this trace tells of *error* already."""
    return getattr(error, _RECORDED, None) == trace_id


def note_told(error: BaseException, trace_id: int) -> None:
    """Note that an event of this trace tells of *error*."""
    # past its own __setattr__: that of a frozen dataclass, say, refuses
    with suppress(Exception):
        BaseException.__setattr__(error, _RECORDED, trace_id)
