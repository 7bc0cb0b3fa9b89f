"""A stage that is measured while it is open: its waits, its children, what it is for.

In: a span of a stage with a budget, or below one. Out: when it ends late, why, on its span and in
one line a trace. Invariant: never raises into the stage. Deliberately absent: pauses of the
process, and threads (``watch``).
"""

import json
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from contextvars import Context, copy_context
from datetime import UTC, datetime
from functools import partial
from itertools import islice
from math import inf
from sys import _getframe
from textwrap import indent
from threading import get_ident
from types import MappingProxyType
from typing import Any, Final, NamedTuple
from weakref import ref

from opentelemetry import context as otel_context
from opentelemetry.trace import INVALID_SPAN, SpanKind

from otel_logging import _diagnostics, _forks, _names, _wrap
from otel_logging import context as bindings
from otel_logging.context import CURRENT, SPAN
from otel_logging.lateness import verdict, where
from otel_logging.lateness.verdict import Facts, Interval, Who, Why

#: Attribute of a span: its ``Watched``.
WATCHED: Final = "otel_logging_watched"
#: Attribute of a span that is not recorded: what is bound in its request.
WHO: Final = "otel_logging_who"
_WARNED: Final = "otel_logging_warned"  # on the entry span, once a line is about the trace
_NO_LINE: Final = -1, None, None
_NOTHING: Final[Mapping[Any, Any]] = MappingProxyType({})
_NODES: Final = 20_000  # stages and calls below one that are remembered until that ends
_WAITS: Final = 1000
_PLACES: Final = 64
_PAUSES: Final = 200  # the longest that are looked at
_LINKS: Final = 8

_DOWNSTREAM: Final = (SpanKind.CLIENT, SpanKind.PRODUCER)
#: Whose spans are one call of a library each, which first of all gets a connection.
_INSTRUMENTED: Final = "opentelemetry.instrumentation."
#: Code that ends a generator's stage: between a generator's steps its thread may do anything.
_STEPS: Final = _wrap._Inside.__exit__.__code__  # noqa: SLF001 - to recognise it


class Holder(NamedTuple):
    """Who holds something that others wait for, and since when: a ``Watched``, or the like of it.
    *task*: a weak reference to the task that got it.
    """

    stage: Any
    since: int
    task: Any = None


def watched_of(span: Any) -> "Watched | None":
    """Return what is measured of *span* while it is open; None where nothing is."""
    found = getattr(span, WATCHED, None)
    return found if found and found.is_measured else None


def value_of(span: Any, key: str) -> Any:
    """Return an attribute of an open *span*, from any thread; None if it is missing."""
    own = getattr(span, "_own", None)  # ours: to read its ``attributes`` would change it
    if own is not None:
        bound = span._bound  # noqa: SLF001
        return own.get(key) or (None if bound is None else bound.values.get(key))
    return (getattr(span, "attributes", None) or getattr(span, WHO, None) or {}).get(key)


def began_ns(span: Any) -> int:
    """Return when *span* began, by the clock of all that is measured here."""
    start = getattr(span, "start_time", None)
    clock_ns = None if start is None else getattr(span, "clock_ns", None)
    return time.perf_counter_ns() if clock_ns is None else start - clock_ns


def ended_below(around: Any, span: Any) -> None:
    """Report *span*, which is no stage (a client's, say), to the stage of *around*."""
    outer = watched_of(around)
    if outer is not None and span.otel_logging_watched is None:
        start, end = span.start_time - span.clock_ns, span.end_time - span.clock_ns
        is_downstream = span.kind in _DOWNSTREAM
        outer.add_child(Facts(span.name, start, end, is_downstream))
        is_call = is_downstream and span.instrumentation_scope.name.startswith(_INSTRUMENTED)
        while is_call and outer is not None:
            if outer.entered is not None and start < outer.entered.end <= end:
                outer.call_began = max(outer.call_began, start)
            outer = outer.outer


class Watched:
    """What is measured of one open stage. What few stages ever have is the class's."""

    end = seen_at = 0
    is_overdue = False
    #: Its slot of the black box; below 1 without one.
    slot = -1
    #: Whether it has a budget, or is below one that has; else it is only shown as open.
    is_measured = True
    #: Who began it: a thread; a task of *loop*, on which *heart* beats.
    thread = 0
    task: Any = None
    loop: Any = None
    heart: Any = None
    #: The task that works on it now; None once that has left it, and no other is found that does.
    worker: Any = None
    #: Of a synchronous stage: what its thread had computed when it began, and since then in stages
    #: below it.
    cpu_began = -1
    inner_cpu = 0
    #: What threads that work for it were seen to compute, and by their clocks at the last look.
    seen_cpu = 0
    clocks: Mapping[int, int] = _NOTHING
    #: Waits that were measured, and that were seen.
    waits: tuple[Interval, ...] = ()
    guesses: tuple[Interval, ...] = ()
    #: How many stages and calls are below it, if none is around it.
    below = 0
    places: "Counter[str] | None" = None
    stacks: "Counter[str] | None" = None
    #: Waits of other tasks than its own, each with that, weakly.
    beside: tuple[tuple[Any, Interval], ...] = ()
    #: What it was seen to wait for, each with the task that it stood at there last, weakly.
    needed: Mapping[Any, Any] = _NOTHING
    #: The wait for a pool that the first look found it in.
    entered: Interval | None = None
    #: When the call began that the first look found it in. A library's call begins with this wait.
    call_began = 0
    #: Of the deepest stage below it that was late: its depth, its entry span, what makes its line.
    line: tuple[int, Any, Any] = _NO_LINE
    #: Whether others may ask for it once it has ended.
    is_known = False
    #: Whose it was, once it has ended, and when that changed last.
    _whose: tuple[Who, int] | None = None

    def __init__(
        self, watch: Any, span: Any, name: str, budget_s: float | None,
        outer: "Watched | None" = None, kind: SpanKind = SpanKind.INTERNAL,
    ) -> None:  # fmt: skip
        self.watch, self.span, self.name, self.budget_s = watch, span, name, budget_s
        self.outer, self._kind, self._pid = outer, kind, _forks.pid
        #: From its span's clock to that of all that is measured here; None: another SDK's span.
        start = getattr(span, "_start_time", None)
        self.clock_ns = clock = None if start is None else getattr(span, "clock_ns", None)
        self.origin = self.began = time.perf_counter_ns() if clock is None else start - clock
        self.children: list[Facts] = []

    def add_wait(self, wait: Interval, task: Any = None) -> None:
        """Take a wait that was measured, in a *task* or in none."""
        if len(self.waits) + len(self.beside) >= _WAITS:
            return  # pragma: no cover - a bound
        if task is None or task in (self.task, self.worker) or self.loop is not task.get_loop():
            self.waits += (wait,)
        else:
            self.beside += ((ref(task), wait),)

    def add_guess(self, wait: Interval) -> None:
        """Take a wait that was seen; those in one place that follow each other become one."""
        *before, last = self.guesses or (None,)
        if last is not None and last.why == wait.why and wait.start <= last.end:
            self.guesses = (*before, wait._replace(start=last.start))
        elif len(self.guesses) < _WAITS:  # pragma: no branch - a bound
            self.guesses += (wait,)

    def add_child(self, facts: Facts) -> None:
        """Take a child that has ended."""
        top = self
        while top.outer is not None:
            top = top.outer
        if top.below < _NODES and not self.end:
            top.below += 1
            self.children.append(facts)

    def saw(self, steps: list[where.Step], now: int, since: int) -> None:
        """Take a sample of where it stands: the same since *since*, as far as one knows."""
        places = self.places = self.places or Counter()
        stacks = self.stacks = self.stacks or Counter()
        place = where.label(steps)
        for seen, one in ((places, place), (stacks, where.stack(steps))):
            if one in seen or len(seen) < _PLACES:  # pragma: no branch - a bound
                seen[one] += 1
        cause, _ = where.waits_for(steps)
        if cause is not None:
            guess = Interval(cause, max(since, self.began), now, Why(place))
            self.add_guess(guess)
            if cause == verdict.POOL and not self.seen_at:
                self.entered = guess
        self.seen_at = now

    def wait_before(self, waited_s: Any, *, is_handed: bool) -> None:
        """Note that it waited before it began, where *waited_s* is such a time; *is_handed*: its
        span begins when it was handed over.
        """
        if type(waited_s) in (float, int) and 0 < waited_s < inf:
            waited = int(waited_s * 1e9)
            # the span of another SDK may begin now all the same
            if is_handed and time.perf_counter_ns() - self.origin >= waited:
                self.began += waited
            else:
                self.origin -= waited

    def _needed(self) -> Iterator[Any]:
        """Yield the tasks that it, or a stage around it, was seen to need."""
        yield from self.needed.values()
        if self.outer is not None:
            yield from self.outer._needed()  # noqa: SLF001

    def who(self, since: float = inf) -> Who:
        """Return on whose behalf it runs, or ran; nobody's, if that has changed after *since*."""
        found, changed = self._whose or self._whose_now()
        return found if changed <= since else ()

    def _whose_now(self) -> tuple[Who, int]:
        return self.watch.who_of(self.span), bindings.user_changed_ns(self.span)

    # ---- the end

    def finish(self, end_ns: int | None = None) -> int | None:
        """Say why it was late, if it was; return the end of its span, None for now."""
        try:
            span = self.span
            # by somebody, and not by the end of the stage; or it is the parent process's
            is_over = getattr(span, "_end_time", None) is not None or span.otel_logging_closed
            if is_over or self._pid != _forks.pid:
                return end_ns
            if (clock := self.clock_ns) is None or end_ns is None:
                self.end = time.perf_counter_ns()
                end_ns = end_ns if clock is None else self.end + clock
            else:
                self.end = end_ns - clock
            if self.is_known:
                self._whose = self._whose_now()
            latency_s = (self.end - self.origin) / 1e9
            if self.places or self.outer or latency_s > (self.budget_s or 0.0):
                self._finish(latency_s)
            if self.line is not _NO_LINE:
                self.tell()
        except Exception as error:
            _diagnostics.report("reasons lost: a stage could not be explained", detail=error)
        finally:
            # a circle would wait for the collector; not None: the stage around it knows of it
            self.span.otel_logging_watched = False
            self.watch.forget(self)
            if self.is_known:  # hundreds are kept for what others may ask: with nothing large
                self.span, self.task, self.worker, self.outer = INVALID_SPAN, None, None, None
                self.places = self.stacks = None
                self.waits = self.guesses = self.beside = ()
                self.children, self.needed = [], _NOTHING
        return end_ns

    def _finish(self, latency_s: float) -> None:
        outer, cpu = self.outer, self.seen_cpu
        if self.places:
            self.span.set_attribute(_names.LATE_WHERE, _summary(self.places, None))
        over_s = verdict.late_by(latency_s, self.budget_s)
        if outer is None and over_s is None:
            return
        is_here = self.cpu_began >= 0 and self.thread == get_ident()
        if is_here and CURRENT.get().get(SPAN) is self.span:
            near = islice(where.outwards(frame := _getframe()), 4)
            if not (where.is_shared(frame) or any(each.f_code is _STEPS for each in near)):
                cpu += time.thread_time_ns() - self.cpu_began
        if self.beside:
            needed = [*self._needed()]
            self.waits += tuple(wait for task, wait in self.beside if task in needed)
        if self.began > self.origin:
            runner = self.task or self.thread
            behind = partial(self.watch.behind, runner, self.origin, self.began)
            self.waits += (Interval(verdict.QUEUE, self.origin, self.began, Why(), behind),)
        if self.call_began and self.entered:
            self.guesses += (self.entered._replace(start=self.call_began),)
        waits = self.waits
        for guess in self.guesses:  # what was measured, by its middle, is not guessed as well
            if not any(w.start * 2 < guess.start + guess.end < w.end * 2 for w in self.waits):
                waits += (guess,)
        own_cpu, is_call = max(cpu - self.inner_cpu, 0), self._kind in _DOWNSTREAM
        of_time = self.name, self.origin, self.end, is_call, waits, self.children, own_cpu
        facts = tuple.__new__(Facts, (*of_time, self.guesses))  # a third of what the class takes
        if outer is not None:
            outer.add_child(facts)
            if outer.thread == self.thread:
                outer.inner_cpu += cpu
        if over_s is not None:
            self._explain(facts, latency_s, over_s, cpu)

    def _explain(self, facts: Facts, latency_s: float, over_s: float, cpu: int) -> None:
        """Put onto the span why it was late. *cpu*: ns that its own thread computed in it."""
        self.watch.watchdog.catch_up(self.end)
        if self.heart is not None and self.thread == get_ident():
            self.heart.check(self.end)
        pauses = self.watch.pauses_of(self)[-_PAUSES:]
        held_up = [self.as_interval(pause) for pause in pauses]
        found = verdict.judge(facts, held_up, int(over_s * 1e9))
        # where it stood is where it computed, if its own thread did that
        is_here = cpu * 2 > found.shares.get(verdict.CPU, 0)
        is_better = found.cause == verdict.UNKNOWN or (found.cause == verdict.CPU and is_here)
        if self.places and is_better:
            place = self.places.most_common(1)[0][0]
            found = found._replace(why=found.why._replace(detail=place))
        detail, culprit, blamed = found.why
        # with the microseconds that a clock's resolution leaves, the shares are the latency
        shares = {cause: round(took / 1e9, 6) for cause, took in found.shares.items()}
        clock = self.clock_ns
        start_ns = self.origin + (
            time.time_ns() - time.perf_counter_ns() if clock is None else clock
        )
        why = verdict.sentence(
            *(self.name, self.who(), datetime.fromtimestamp(start_ns / 1e9, UTC), latency_s),
            *(self.budget_s or 0.0, found, _summary(self.places) if self.places else ""),
        )
        attributes: dict[str, Any] = {
            _names.LATE: True,
            _names.LATE_BY: round(over_s, 6),
            _names.LATE_CAUSE: found.cause,
            **({_names.LATE_DETAIL: detail} if detail else {}),
            **({_names.LATE_CULPRIT: culprit} if culprit else {}),
            **{f"{_names.LATE_CULPRIT}.{key}": value for key, value in blamed},
            _names.LATE_SHARES: json.dumps(shares),
            _names.LATE_WHY: why,
        }
        self.span.set_attributes(attributes)
        if self.stacks:
            ended_ns = None if self.clock_ns is None else self.end + self.clock_ns
            labels = {_names.LATE_WHERE: _steps_of(self.stacks)}
            self.span.add_event(_names.LATE_WHERE, labels, ended_ns)
        linked = [p.span for p in reversed(pauses) if p.span is not None and not self.is_own(p)]
        for pause in linked[:_LINKS]:
            self.span.add_link(pause)
        self._warn(why, attributes)

    def _warn(self, why: str, attributes: dict[str, Any]) -> None:
        fields = {k: v for k, v in attributes.items() if k not in (_names.LATE, _names.LATE_WHY)}
        depth, top = 0, self
        while top.outer is not None:
            depth, top = depth + 1, top.outer
        if depth > top.line[0]:
            top.line = depth, bindings.entry_of(self.span), self.line_of(why, fields)
        if top.end:
            top.tell()

    def tell(self) -> None:
        """Make the line of the deepest stage within this one that was late, if the trace has
        none.
        """
        (_, entry, line), self.line = self.line, _NO_LINE
        if line is not None and not getattr(entry, _WARNED, False):
            with suppress(Exception):  # somebody else's span, with slots
                setattr(entry, _WARNED, True)
            line()

    def line_of(self, event: str, fields: dict[str, Any]) -> Callable[[], object]:
        """Return what makes a line of its trace and user, also where something else is current."""
        there = copy_context()
        if CURRENT.get().get(SPAN) is not self.span:
            there, fields = Context(), dict(self.who()) | fields
            there.run(CURRENT.set, otel_context.Context({SPAN: self.span}))
        return partial(there.run, partial(self.watch.warn, event, stage=self.name, **fields))

    def as_interval(self, pause: Any) -> Interval:
        """Return *pause* as it was for this stage: work of its own is ``cpu``."""
        cause, why = pause.cause, pause.why
        if not why.who:  # it may have been bound since
            why = why._replace(who=self.watch.who_of(pause.by))
        if cause in (verdict.LOOP, verdict.CPU) and self.is_own(pause):
            cause, why = verdict.CPU, Why(why.detail)
        return Interval(cause, pause.start, pause.end, why)

    def is_own(self, pause: Any) -> bool:
        """Say whether *pause* was work of the same request."""
        is_its_task = self.task is not None and pause.by == ref(self.task)
        return is_its_task or pause.by is bindings.entry_of(self.span)


def _summary(places: "Counter[str]", most: int | None = where.SHOWN) -> str:
    """Return shares of what was seen: ``71 % resize (worker.py:88) · 22 % get (db.py:12)``."""
    seen = places.total()
    return " · ".join(f"{100 * n / seen:.0f} % {place}" for place, n in places.most_common(most))


def _steps_of(stacks: "Counter[str]") -> str:
    """Return the stacks that were seen most: the share of each, and below it its steps."""
    seen = stacks.total()
    return "\n".join(
        f"{100 * n / seen:.0f} %\n{indent(stack, '  ')}"
        for stack, n in stacks.most_common(where.SHOWN)
    )
