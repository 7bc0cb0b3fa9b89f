"""Work that one task hands to another: ``handoff`` and ``taking``, and ``each`` for what comes in.

In: items. Out: a stage for each item, on behalf of whoever handed it over, or unowned. The time
that an item waited is part of the stage's latency. Deliberately absent: queues and connections
(``integrations``).
"""

import threading
import time
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Iterator
from contextlib import ExitStack
from typing import Any, Generic, Self, TypeVar

from opentelemetry.context import Context
from opentelemetry.trace import Link, Span, get_current_span

from otel_logging import _diagnostics, _names, _runtime, background_tasks, open_stage
from otel_logging import context as bindings
from otel_logging._errors import ConfigurationError
from otel_logging.binding import has_ended
from otel_logging.propagation import extract
from otel_logging.tracing import stage_of

_T = TypeVar("_T")


class Handoff(Generic[_T]):
    """An *item*, the context of whoever handed it over, and when. It is sorted by its item."""

    __slots__ = ("_here", "_span", "_waits", "item", "since_ns")

    def __init__(self, item: _T) -> None:
        self.item = item
        self.since_ns = _runtime.current.now_ns()
        self._here = bindings.Here.now()
        self._span = get_current_span()
        self._waits = open_stage.Waits()

    def waited_s(self) -> float:
        """Return for how long the item has waited, in seconds."""
        return max(_runtime.current.now_ns() - self.since_ns, 0) / 1e9

    def put_back(self) -> None:
        """From here on, run on behalf of the task that handed the item over."""
        self._here.put_back()

    def link(self) -> Link:
        """Return a link to the span that handed the item over, with how long the item waited."""
        waited = round(self.waited_s(), 6)
        return Link(self._span.get_span_context(), {_names.QUEUE_WAIT: waited})

    def end(self, thread: threading.Thread) -> None:
        """Let go of the message, on which *thread* has worked: a worker's variable keeps this
        object until the next item.
        """
        self._waits.end(thread)
        context = {k: v for k, v in self._here.context.items() if k != _names.HELD}
        self._here = self._here._replace(context=Context(context))

    def __lt__(self, other: "Handoff[Any]") -> bool:
        return self.item < other.item  # type: ignore[no-any-return]


def handoff(item: _T, /) -> Handoff[_T]:
    """Return *item* to be put into a queue, with the trace and what is bound here: see ``taking``.

    Failure: never raises. Concurrency: may be taken by any task or thread, more than once.
    """
    return Handoff(item)


class taking:  # noqa: N801 - reads as a verb
    """Open the stage *name* for what was handed over: ``with taking(handed, name="deliver"):``.

    One of *handoffs*: the stage is in the trace of who handed it over, with what was bound there.
    Several: it is in a trace of its own with a link to each. It begins when the first of them was
    handed over; how long each waited is ``queue.wait_s``, in seconds. *budget* as in ``traced``.

    Scope: this task; afterwards all is as before. Failure: raises ``ConfigurationError`` where it
    is made, as ``traced`` does; entering never raises.
    """

    def __init__(self, *handoffs: Handoff[Any], name: str, budget: float | None = None) -> None:
        if not handoffs or not all(isinstance(each, Handoff) for each in handoffs):
            raise ConfigurationError("taking", handoffs, "what handoff() returned, at least one")
        self._handoffs = handoffs
        stage_of(name, "taking", budget=budget)
        self._name, self._budget = name, budget
        self._open = ExitStack()

    def __enter__(self) -> Span:
        first = min(self._handoffs, key=lambda each: each.since_ns)
        waited = {_names.QUEUE_WAIT: round(first.waited_s(), 6)}
        options: dict[str, Any] = {"budget": self._budget, "attributes": waited}
        self._before = bindings.Here.now()
        self._thread = threading.current_thread()
        if has_ended(around := get_current_span()):
            background_tasks.note(self._name, around)
        if len(self._handoffs) == 1:
            first.put_back()
        else:
            self._open.enter_context(bindings.detached())
            options |= {"root": True, "links": [each.link() for each in self._handoffs]}
        stage = stage_of(self._name, **options)
        stage.asked = stage.asked._replace(start_ns=first.since_ns)
        self._span, self._began = self._open.enter_context(stage), time.perf_counter_ns()
        return self._span

    def __exit__(self, *error: Any) -> None:
        watch = _runtime.current.watch
        if watch is not None and not getattr(self._span, "otel_logging_watched", True):
            watch.did(self._span, self._began)  # the next item may be late because of this one
        self._open.__exit__(*error)
        self._leave()
        for handed in self._handoffs:
            handed.end(self._thread)

    def _leave(self) -> None:
        """Restore what was current before: at once, or at the end of a stage that is open in it."""
        span: Any = self._span
        is_passed = getattr(span, "otel_logging_passed", False) and span.otel_logging_token
        before, at_work = self._before, bindings.get_current()
        if not is_passed or not open_stage.renewed(span.otel_logging_token):
            before.put_back()
            return
        bindings.set_current(before.context)
        span.otel_logging_token = bindings.set_current(at_work)
        span.otel_logging_outer, span.otel_logging_bound = before.context, before.bound
        bindings.job.set(before.job)


class each(Generic[_T]):  # noqa: N801 - reads as a determiner: for item in each(source, "message")
    """Iterate over *source* so that the handling of each item is a trace of its own, called *name*.

    ``async for message in each(websocket, "message")``, and ``for`` where *source* is not
    asynchronous. A stage begins when an item has come and ends when the next one is asked for, or
    the loop is left: waiting for an item is not in it. What is bound while an item is handled ends
    with it.
    *context* returns the headers of an item, of which the trace goes on (``extract``);
    *budget* and *fields* as in ``traced``.

    Scope: the task with the loop. Failure: raises ``ConfigurationError`` as ``traced`` does; an
    exception of *source* goes through; a *context* that fails is reported, and that item begins a
    trace.
    An exception that leaves the loop leaves no mark on the item's span: Python does not
    pass it to an iterator.
    """

    def __init__(
        self,
        source: Iterable[_T] | AsyncIterable[_T],
        name: str,
        /,
        *,
        budget: float | None = None,
        context: Callable[[_T], Any] | None = None,
        **fields: Any,
    ) -> None:
        if not isinstance(source, (Iterable, AsyncIterable)):
            raise ConfigurationError("each", source, "an iterable, or an asynchronous one")
        if context is not None and not callable(context):
            raise ConfigurationError("each: context", context, "a function of an item")
        self._source = source
        self._options = name, context, {"budget": budget, "kind": "consumer", **fields}
        stage_of(name, "each", **self._options[2])  # raises if an option is wrong

    def __iter__(self) -> Iterator[_T]:
        return _Items(iter(self._source), *self._options)  # type: ignore[arg-type]

    def __aiter__(self) -> AsyncIterator[_T]:
        return _Items(aiter(self._source), *self._options)  # type: ignore[arg-type]


class _Items(Generic[_T]):
    """One loop over a source: the loop alone refers to it, so its end is the loop's end."""

    def __init__(
        self, items: Any, name: str, context: Callable[[_T], Any] | None, options: dict[str, Any]
    ) -> None:
        self._items, self._context = items, context
        self._begun = stage_of(name, root=True, **options)
        self._continued = stage_of(name, **options)
        self._open = ExitStack()

    def __iter__(self) -> Self:
        return self

    __aiter__ = __iter__

    def __next__(self) -> _T:
        self._end()
        return self._begin(next(self._items))

    async def __anext__(self) -> _T:
        self._end()
        return self._begin(await anext(self._items))

    def _end(self) -> None:
        """End the item, as a ``with`` statement ends its block."""
        self._open.__exit__(None, None, None)

    def _begin(self, item: _T) -> _T:
        stage = self._begun
        if self._context is not None:
            try:
                self._open.enter_context(extract(self._context(item)))
            except Exception as error:
                _diagnostics.report("incoming headers not understood", detail=error)
            if get_current_span().get_span_context().is_remote:
                stage = self._continued
        self._open.enter_context(stage)
        return item

    def __del__(self) -> None:
        self._open.close()
