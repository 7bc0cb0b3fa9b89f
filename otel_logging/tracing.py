"""A stage: ``traced`` as ``with`` block and as decorator.

In: a name, and whichever tracer is set up. Out: spans of that tracer, begun and ended.
Invariant: made of the OpenTelemetry API alone, so that a stage is a span of whichever SDK is set
up. Without a tracer, a stage only ends what is bound in a request. After its end a stage is current
only in tasks that were begun in it. Deliberately absent: what a span is (``export``), why it is
late (``lateness``).
"""

import copy
import sys
import time
from collections.abc import Iterable, Mapping
from functools import lru_cache
from types import MappingProxyType
from typing import Any, Final, NamedTuple, overload

from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.trace import Link, Span, SpanContext, SpanKind, StatusCode

from otel_logging import _diagnostics, _exceptions, _names, _parse, _runtime, tracers
from otel_logging import context as bindings
from otel_logging._errors import ConfigurationError
from otel_logging._failures import is_cancelled, is_failure, is_one_of, status_of
from otel_logging._values import Plain, plain
from otel_logging._wrap import F, wrap
from otel_logging.background_tasks import pass_over, stays
from otel_logging.binding import NOTHING, STRUCTLOGS, Bound, has_ended
from otel_logging.context import ENTRY, SPAN, get_current, reset_current, set_current
from otel_logging.lateness.stage import WATCHED
from otel_logging.lateness.verdict import late_by
from otel_logging.open_stage import OpenStage, come_back, going_on
from otel_logging.tracers import API

_KINDS: Final = {kind.name.lower(): kind for kind in SpanKind}

_Context: Final = otel_context.Context
#: The attribute of a stage with a budget; one object, since most have no other.
_given: Final = lru_cache(lambda budget: Plain({_names.BUDGET: budget}))


@overload
def traced(function: F, /) -> F: ...


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
    expected: type[Exception] | tuple[type[Exception], ...] = (),
    **fields: Any,
) -> "Stage": ...


def traced(name: Any = None, /, **options: Any) -> Any:
    """Open a stage: a span, for the length of a ``with`` block or of each call of a function.

    *name* of the span; a decorated function's own name where it is left out. *budget* in seconds: a
    stage that takes longer is late. *root*: begin a trace of its own, linked to the current span.
    *kind*: internal, server, client, producer or consumer. *links*: spans, span contexts or
    OpenTelemetry links. *fields* and *attributes* are attributes of the span; a field that is
    called like one of these options goes through *attributes*. ``with`` gives the OpenTelemetry
    span; ``.begin()`` opens the stage without a block, and ``.end()`` of what it returns ends it;
    ``@traced`` works bare, and on functions, coroutine functions, methods and generators of both
    kinds (these from their first step until they are closed).

    An exception that leaves the stage is recorded as an event of the innermost span it was raised
    in, once, and gives every stage it passes the status ERROR. Not so *expected* ones, and answers
    of a web framework below 400; those of 4xx are an event and no error. A cancelled stage has the
    attribute ``cancelled``.

    A task or a callback may go on after its request, and its stages are still the request's. Two
    kinds of stages say that something else begins: a *root*, and one of the *kind* server or
    consumer. They have nothing of what was bound in a request or a ``bound_context`` that has
    ended. If the current stage has ended, a server or consumer begins a trace of its own.

    In the body of a generator that is not itself decorated, the stage is current for the consumer
    between two yields: Python has it so.

    Scope: this task. Failure: raises ``ConfigurationError`` for an invalid argument, when it is
    made; entering and leaving never raise. Cost: see ``benchmarks/hot.py``; one write to the spool,
    never the network; without tracing nothing but that a *root*, a server or a consumer ends what
    is bound in it. Concurrency: one object may decorate anything, and be entered by any number of
    tasks at once.
    """
    if type(name) is str and not options and name.strip():  # nothing else can be wrong
        stage = Stage()
        stage.name, stage.asked, stage.spans = name, _NOTHING_ASKED, []
        return stage
    if callable(name) or isinstance(name, (classmethod, staticmethod)):
        return stage_of(None, **options)(name)
    return stage_of(name, **options)


class _Asked(NamedTuple):
    """The options of a stage; one tuple, which is quick to unpack: each stage reads all of them."""

    kind: SpanKind = SpanKind.INTERNAL
    links: list[Link] | None = None
    budget: float | None = None
    root: bool = False
    expected: Any = ()
    #: Whether it may begin a trace or a request inside another.
    is_special: bool = False
    #: Whether no span is made, whichever SDK is set up; what is bound in it still ends with it.
    is_untraced: bool = False
    attributes: Mapping[str, Any] = MappingProxyType({})
    #: When its work was handed over, ns since the epoch; None: when it begins.
    start_ns: int | None = None


_NOTHING_ASKED: Final = _Asked()


class Stage:
    """What ``traced`` returns: the options of a stage, and the ``with`` blocks that are open."""

    __slots__ = ("asked", "name", "spans")

    name: str | None
    asked: _Asked
    spans: list[Span]

    def __call__(self, function: F) -> F:
        """Decorate *function*: each call is a stage."""
        stage = copy.copy(self)
        if stage.name is None:
            qualified: str = getattr(function, "__qualname__", type(function).__qualname__)
            stage.name = qualified.rpartition("<locals>.")[2]
        return wrap(function, start, end, stage)

    def __enter__(self) -> Span:
        if (
            _runtime.current.tracer is None  # in line: nothing may be slower for us before set-up
            and API._TRACER_PROVIDER is tracers.nobodys  # noqa: SLF001 - see there
            and self.asked is _NOTHING_ASKED
        ):
            return _INVALID
        span: Span = start(self)
        if span is not _INVALID:
            self.spans.append(span)
        return span

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        if not (spans := self.spans):
            return
        span = spans.pop()
        # several tasks have entered this object: the current one is to leave
        if spans and (current := get_current().get(SPAN)) in spans:
            spans.append(span)
            spans.remove(span := current)
        end(span, error)

    def begin(self) -> OpenStage:
        """Open the stage without a block: it is current here, and in what starts here, until its
        ``end()``, or the end of a block around it. Never raises.
        """
        return OpenStage(start(self), end)


_INVALID: Final = trace.INVALID_SPAN


def stage_of(
    name: str | None,
    by: str = "traced",
    /,
    *,
    kind: str = "internal",
    budget: float | None = None,
    root: bool = False,
    expected: type[Exception] | tuple[type[Exception], ...] = (),
    attributes: Mapping[str, Any] | None = None,
    links: Iterable[Link | SpanContext | Span] = (),
    **fields: Any,
) -> Stage:
    """Return a stage of options given to *by*. Failure: raises ``ConfigurationError``."""
    if name is not None and not (isinstance(name, str) and name.strip()):
        raise ConfigurationError(f"{by}: name", name, "a text that is not empty")
    if not isinstance(kind, str) or kind not in _KINDS:
        raise ConfigurationError(f"{by}: kind", kind, "one of " + ", ".join(_KINDS))
    if budget is not None:
        budget = _parse.budget(f"{by}: budget", budget)
    if root is not False and root is not True:
        raise ConfigurationError(f"{by}: root", root, "True or False")
    kinds = expected if isinstance(expected, tuple) else (expected,)
    if kinds and not all(isinstance(e, type) and issubclass(e, Exception) for e in kinds):
        raise ConfigurationError(f"{by}: expected", expected, "classes of exceptions")
    of_kind = _KINDS[kind]
    linked = None if type(links) is tuple and not links else _as_links(links, by)
    if attributes is not None and not isinstance(attributes, Mapping):
        raise ConfigurationError(f"{by}: attributes", attributes, "a mapping")
    is_special = root or of_kind in bindings.ARRIVING
    given = {**fields, **attributes} if attributes else fields
    stage = Stage()
    stage.name, stage.spans = name, []
    stage.asked = _Asked(of_kind, linked, budget, root, kinds, is_special, attributes=given)
    return stage


def automatic(name: str, *, expected: Any = (), **options: Any) -> Stage:
    """Return what ``traced`` does, for an integration: a span only where we are set up."""
    stage, is_untraced = stage_of(name, **options), _runtime.current.tracer is None
    stage.asked = stage.asked._replace(expected=expected, is_untraced=is_untraced)
    return stage


def start(stage: Stage, before: Bound | None = None) -> Any:
    """Begin a stage, in any task or thread; return its span, an invalid one without tracing.
    *before*: what is bound around it, if nothing is current and none of that binding has ended.
    """
    tracer = (runtime := _runtime.current).tracer or tracers.other(stage.asked)
    if tracer is None:
        return _INVALID
    try:
        kind, links, budget, _, expected, is_special, _, attributes, start_ns = stage.asked
        outer = context = get_current()
        around = inside = outer.get(SPAN, _INVALID)
        if before is None:  # else it is a message of a connection
            if is_special or (around is not _INVALID and not hasattr(around, ENTRY)):
                outer, context, before, links = _entry(stage, outer, around)
                inside = context.get(SPAN, _INVALID)
            elif around is _INVALID:  # what is bound in it ends with it
                before = bindings.state()
                if before.has_requests:
                    before = bindings.begin(around, arrives=False)
                    outer = context = get_current()
            elif around.otel_logging_closed and not (start_ns or stays(stage, around)):
                return start(stage)
        name = stage.name or "stage"
        if budget is None and runtime.budgets:
            budget = runtime.budgets.get(name)
        if budget is not None:
            attributes = {**attributes, **_given(budget)} if attributes else _given(budget)
        span: Any = tracer.begin(name, context, inside, kind, attributes, links, start_ns)
        if span is around or span is _INVALID:  # an SDK that records nothing
            if not is_special:
                return _INVALID
            span = bindings.Unrecorded(inside)
        span.otel_logging_outer, span.otel_logging_began = outer, _exceptions.last
        if before is not None:
            span.otel_logging_bound = before
            if is_special or STRUCTLOGS:
                bindings.share(span, with_users=is_special)
        if budget is not None or expected:  # else they are the class's
            span.otel_logging_budget, span.otel_logging_expected = budget, expected
        if (watch := runtime.watch) is not None:
            if budget is not None or (watch.has_budgets and getattr(inside, WATCHED, None)):
                watch.measure(span, name, budget, inside, kind, attributes, start_ns)
            if before is not None and span.otel_logging_watched is None:
                watch.enter(span)
        here = {**outer, SPAN: span} if outer else {SPAN: span}  # the quicker one for a root
        span.otel_logging_token = set_current(_Context(here))
    except Exception as error:  # a foreign sampler or processor
        _diagnostics.report("stages lost: a span could not be started", detail=error)
        return _INVALID
    return span


def _entry(
    stage: Stage, outer: otel_context.Context, around: Any
) -> tuple[otel_context.Context, otel_context.Context, "Bound | None", Any]:
    """Leave what is over, for a stage that may begin a trace or a request.

    Return the outer context; the context to begin in; what to bind again at its end (None if it is
    no entry stage); its links.
    """
    # what arrives where a stage has ended has nothing to do with it
    kind, links, _, root, *_, is_untraced, _, start_ns = stage.asked
    is_over = going_on if around is _INVALID else has_ended(around)
    if not start_ns and is_over and not stays(stage, around):  # with a start it was handed over
        outer = get_current()
        around = outer.get(SPAN, _INVALID)
    arrives = kind in bindings.ARRIVING
    is_standing = type(around) is bindings.Standing
    around = around.now if is_standing else around
    is_apart = arrives and has_ended(around)
    before: Bound | None = None
    if around is _INVALID or root or is_apart or not bindings.is_local(around):
        before = bindings.state()
        if arrives or before is not NOTHING or around is not _INVALID:
            before = bindings.begin(around, arrives=arrives, root=root)
            outer = get_current()
    if not (is_apart or (root and not is_untraced)):
        inside = trace.set_span_in_context(around, outer) if is_standing else outer
        return outer, inside, before, links
    if around is _INVALID:
        return outer, outer, before, links
    context = trace.set_span_in_context(_INVALID, outer)
    if not is_apart and around.get_span_context().is_valid:
        links = [*(links or ()), Link(around.get_span_context())]
    return outer, context, before, links


def end(
    span: Any, error: BaseException | None, end_ns: int | None = None, *, is_block: bool = True
) -> None:
    """End a stage, in any task or thread, as of *end_ns* where that is given. Never raises.

    *is_block*: whoever began the stage leaves it now, and the stages inside it are over.
    """
    if span is _INVALID:
        return
    bound, watched = span.otel_logging_bound, span.otel_logging_watched
    try:
        if error is not None:
            is_error = record(span, error)
            _exceptions.remember_context(error, span.otel_logging_began)
            if is_error:
                _exceptions.tell_later(error, _runtime.current.failed, span)
        if watched:
            end_ns = watched.finish(end_ns)
        # False: it is not recorded; else somebody may have ended it already
        if watched is not False and getattr(span, "end_time", None) is None:
            if not (watched or span.otel_logging_budget is None):
                end_ns = _measured(span, span.otel_logging_budget, end_ns)
            span.end(end_ns)
    except Exception as failure:
        _diagnostics.report("stages lost: a span could not be ended", detail=failure)
    finally:
        # If the stage is current, the context around it becomes current. It is not current if a
        # generator was left in it or closed elsewhere. If the stage around it was passed over in
        # the same way, the context around that one becomes current.
        span.otel_logging_closed = True
        # the token refers to the stage's context
        token, span.otel_logging_token = span.otel_logging_token, None
        if token is None:
            pass  # whoever began it leaves it by itself: a message
        elif get_current().get(SPAN) is span or come_back() is span:
            outer = span.otel_logging_outer
            while outer and getattr(around := outer.get(SPAN), "otel_logging_passed", False):
                outer, bound = around.otel_logging_outer, around.otel_logging_bound or bound
            try:
                reset_current(token)
            except ValueError:  # the task that began it is another
                span.otel_logging_token = token if is_block else None
            if get_current() is not outer:
                set_current(outer)
            if bound is not None and bindings.state() is not bound:
                bindings.restore(bound)
        else:
            pass_over(span, token, sys._getframe(1) if is_block else None)  # noqa: SLF001 - as there
        if bound is not None and watched is not False and (watch := _runtime.current.watch):
            watch.open.pop(span, None)


def _as_links(links: Any, by: str) -> list[Link]:
    if not isinstance(links, Iterable) or isinstance(links, (str, bytes, Mapping)):
        raise ConfigurationError(f"{by}: links", links, "spans, span contexts or links")
    found = []
    for link in links:
        context = link.get_span_context() if isinstance(link, Span) else link
        found.append(Link(context) if isinstance(context, SpanContext) else link)
        if not isinstance(found[-1], Link):
            raise ConfigurationError(f"{by}: links", link, "spans, span contexts or links")
    return found


def _measured(span: Span, budget: float, end_ns: int | None) -> int | None:
    """Say on *span* whether it is late, as of *end_ns*; return when it has ended."""
    if (start_ns := getattr(span, "start_time", None)) is None:
        return end_ns
    if end_ns is None:
        end_ns = int(getattr(span, "now_ns", time.time_ns)())
    if (over := late_by((end_ns - start_ns) / 1e9, budget)) is not None:
        span.set_attribute(_names.LATE, True)  # noqa: FBT003 - an attribute's value
        span.set_attribute(_names.LATE_BY, round(over, 6))
    return end_ns


def record(span: Span, error: BaseException) -> bool:
    """Put *error* on *span* as what it is; return whether that is a failure."""
    if not is_failure(error):
        if is_cancelled(error):
            span.set_attribute(_names.CANCELLED, True)  # noqa: FBT003 - an attribute's value
        return False
    status, expected = status_of(error), getattr(span, "otel_logging_expected", ())
    if is_one_of(error, expected) or (status and status < 400):
        return False
    trace_id = span.get_span_context().trace_id
    if not _exceptions.is_recorded(error, trace_id):
        span.record_exception(error)
        _exceptions.mark_recorded(error, trace_id)
    if status is not None and status < 500:
        return False
    span.set_status(StatusCode.ERROR, plain(error))
    return True
