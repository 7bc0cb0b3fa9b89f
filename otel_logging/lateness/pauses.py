"""What made everything wait: a blocked event loop, a garbage collection, a held interpreter.

In: heartbeats of loops on which a stage is open, the collector's callbacks. Out: pauses, the last
thousand, each with whose work it was. Invariant: never raises, holds no lock. Deliberately
absent: which stages they delayed.
"""

import asyncio
import gc
import sys
import threading
import time
from asyncio import _get_running_loop
from collections import Counter, deque
from contextvars import Context, copy_context
from itertools import groupby, pairwise
from math import inf
from typing import Any, Final, NamedTuple
from weakref import ref

from opentelemetry import context as otel_context
from opentelemetry import trace

from otel_logging import _names, _runtime
from otel_logging import context as bindings
from otel_logging.binding import NOTHING, has_ended, worker
from otel_logging.context import CURRENT, SPAN
from otel_logging.lateness import where
from otel_logging.lateness.cpu import computed, has_stood_still
from otel_logging.lateness.verdict import GC, LOOP, Who, Why

BEAT_NS: Final = 25_000_000
_EARLY_NS: Final = 10_000_000  # a stage that begins within this time before a beat gets it at once
BLOCKED_NS: Final = 50_000_000  # a loop that is late by that is looked at, if not before
_NOTED_NS: Final = 25_000_000  # and by that, it counts as blocked
_OTHERS_NS: Final = 2_000_000  # what the watching thread takes, and more
_LATELY_NS: Final = 10_000_000_000  # for so long after a block the next one is looked at sooner
_CAUGHT_UP_NS: Final = 100_000_000  # for so long after a block it reads what came during it
_LONG_GC_NS: Final = 200_000
KEPT: Final = 1024
_SEEN: Final = 1000  # looks at one block; every other look at a longer one is forgotten
#: Until Python 3.12 the collector may run in the midst of a context variable's reset. What a
#: finaliser's log call has read of that variable is freed next, and remembered as its value, until
#: this thread enters a context. No other thread is in this one: one collection runs at a time.
_FORGETS: Final = sys.version_info < (3, 12)
_NO_CONTEXT: Final = Context()


class Pause(NamedTuple):
    """A time in which others waited. *by*: what caused it, a request's entry span or, outside
    requests, a weak reference to the task. *loop*: what it blocked; None for everything except the
    threads in *spared*, which caused it or stood in a call that waits.
    """

    cause: str
    start: int
    end: int
    why: Why
    by: Any = None
    loop: Any = None
    spared: frozenset[int] = frozenset()
    #: Span context of the block's own span.
    span: Any = None


class Seen(NamedTuple):
    """What a thread was doing while it blocked."""

    at: int
    steps: list[where.Step]
    span: Any = trace.INVALID_SPAN
    who: Who = ()
    #: A weak reference.
    task: Any = None
    #: The loop waits for events: it is not its own work that keeps it.
    is_idle: bool = False
    #: What the thread had computed so far.
    computed: int = 0

    @property
    def by(self) -> Any:
        """The entry span of the request that it was for; the task where it was for none."""
        return self.task if self.span is trace.INVALID_SPAN else bindings.entry_of(self.span)

    @property
    def why(self) -> Why:
        """What it was, and on whose behalf."""
        label, name = where.label(self.steps), getattr(self.span, "name", None)
        return Why(label, f"{name}: {label}" if name else label, self.who)


_UNSEEN: Final = Seen(0, [])


class Pauses:
    """The last pauses of this process."""

    def __init__(self, watch: Any) -> None:
        self._watch = watch
        self.recent: deque[Pause] = deque(maxlen=KEPT)
        #: What beats on each running loop.
        self.hearts: dict[Any, Heart] = {}
        self._gc_began = 0
        gc.callbacks.append(self.on_gc)

    def are_beating(self) -> bool:
        """Say whether a loop beats; one that is blocked when its last stage ends does so to the end
        of the block.
        """
        return any(heart.is_beating() for heart in list(self.hearts.values()))

    def look(self, now: int) -> int:
        """Look at the loops that are blocked, from another thread; return when to look again."""
        rest = BLOCKED_NS + BEAT_NS
        for loop, heart in list(self.hearts.items()):
            if loop.is_closed():
                self.hearts.pop(loop, None)
            else:
                late = now - heart.due if heart.is_beating() else -BEAT_NS
                looked_at = _NOTED_NS if now < heart.sooner_until else BLOCKED_NS
                rest = min(rest, looked_at - late if late < looked_at else BEAT_NS)
                if late > looked_at:
                    heart.seen.append(self.seen_in(heart.thread, loop))
                if len(heart.seen) > _SEEN:
                    del heart.seen[::2]
        return rest

    def seen_in(self, thread: int, loop: Any = None) -> Seen:
        """Return what *thread* does at this moment: for a task of *loop*, or a stage in it."""
        task = None if loop is None else asyncio.current_task(loop)
        with where.frames() as frames:
            frame = frames.get(thread)
            now, steps = time.perf_counter_ns(), where.of_frame(frame)
            is_shared = loop is None and where.is_shared(frame)
            inside = where.context_in(frame) if loop is not None and task is None else None
        if loop is None:
            span = trace.INVALID_SPAN if is_shared else self._watch.span_in(thread)
            return Seen(now, steps, span, self._watch.who_of(span))
        if asyncio.current_task(loop) is not task:  # pragma: no cover - it has just gone on
            return Seen(now, steps, is_idle=True)
        context = where.context_of(task) if inside is None else inside
        span, who = self._whose(context, is_callback=task is None)
        is_idle = task is None and where.is_idle(steps)
        spent = computed().get(thread, 0)
        return Seen(now, steps, span, who, task and ref(task), is_idle, spent)

    def _whose(self, context: Context, *, is_callback: bool) -> tuple[Any, Who]:
        """Return the span that is current in *context*, and on whose behalf that is. What a
        request has left behind in a callback, a connection's or a timer's, serves others.
        """
        span = context.get(CURRENT, {}).get(SPAN, trace.INVALID_SPAN)
        if is_callback and has_ended(bindings.entry_of(span)):
            return trace.INVALID_SPAN, ()
        return span, self._watch.who_of(span, context.get(bindings.BOUND, NOTHING).values)

    def on_gc(self, phase: str, info: dict[str, int]) -> None:
        """Note a collection; called by the collector, in whichever thread it runs."""
        now = time.perf_counter_ns()
        if phase == "start":
            self._gc_began = now
            return
        began, self._gc_began = self._gc_began, 0
        if began and now - began > _LONG_GC_NS:
            frame = sys._getframe().f_back  # noqa: SLF001 - what made the collector run
            is_callback = _get_running_loop() is not None and type(worker()) is int
            span, who = self._whose(copy_context(), is_callback=is_callback)
            why = Seen(now, where.of_frame(frame), span, who).why
            detail = f"generation {info['generation']}, {info['collected']} objects collected"
            self.recent.append(Pause(GC, began, now, why._replace(detail=detail)))
        if _FORGETS:  # pragma: no branch - by version
            _NO_CONTEXT.run(int)

    def stop(self) -> None:
        """Let go of the collector and of all loops."""
        if self.on_gc in gc.callbacks:  # pragma: no branch - once more in a forked child
            gc.callbacks.remove(self.on_gc)
        self.forget()

    def forget(self) -> None:
        """Know of no loop, and of no pause: in a forked child."""
        for heart in self.hearts.values():
            heart.open = 0
        self.hearts = {}
        self.recent.clear()


class Heart:
    """What beats on a loop while a stage is open on it."""

    def __init__(self, loop: Any, pauses: Pauses) -> None:
        self.loop = loop
        self.thread = threading.get_ident()
        self.open = 0
        self.due = 0
        #: From when until when it was blocked last.
        self.blocked_from = self.blocked_to = -_CAUGHT_UP_NS
        #: Until when it is looked at sooner.
        self.sooner_until = 0
        #: From when on a stage that begins has it beat.
        self.early: float = -1
        #: What this thread and all of them had computed at the last beat, ns.
        self._computed = 0, 0
        #: What the watchdog has seen since the last beat.
        self.seen: list[Seen] = []
        #: Of its next beat, while it beats.
        self.timer: Any = None
        self._pauses, self._context = pauses, Context()
        pauses.hearts[loop] = self

    def is_beating(self) -> bool:
        """Say whether a beat is due, on a loop that runs: one that has stopped is not blocked."""
        return self.timer is not None and self.loop.is_running()

    def beat_early(self) -> None:
        """Beat when the loop turns next. It is awake: to wake it costs ten times a beat."""
        if self.timer is None:
            self._beat_after(time.perf_counter_ns())
        else:
            self.timer.cancel()
            self.early = inf
            self.timer = self.loop.call_soon(self._beat, context=self._context)

    def _beat_after(self, now: int) -> None:
        self.due, self.early = now + BEAT_NS, now + BEAT_NS - _EARLY_NS
        self._computed = time.thread_time_ns(), time.process_time_ns()
        self.timer = self.loop.call_later(BEAT_NS / 1e9, self._beat, context=self._context)

    def _beat(self) -> None:
        now = time.perf_counter_ns()
        self.check(now)
        if self.open > 0 and not self.loop.is_closed():
            self._beat_after(now)
        else:
            self.early, self.timer = -1, None

    def blocked_ns(self) -> int:
        """Return how long ago the block began that the loop is in, or has just left; 0 without
        one.
        """
        now = time.perf_counter_ns()
        is_late = self.timer is not None and now - self.due > _NOTED_NS
        began = self.due if is_late else now
        return now - (self.blocked_from if began - self.blocked_to < _CAUGHT_UP_NS else began)

    def check(self, now: int) -> None:
        """Note that the loop was blocked, if it was, by each part of what was seen. In the loop's
        own thread.
        """
        began, self.due = self.due, max(now, self.due)
        seen, self.seen = self.seen, []
        if self.timer is None or now - began < _NOTED_NS:
            return
        if began - self.blocked_to > _CAUGHT_UP_NS:
            self.blocked_from = began
        self.blocked_to = now
        if self._was_kept(now - began, seen):
            return
        if now - began > BLOCKED_NS:
            self.sooner_until = now + _LATELY_NS
        began -= BEAT_NS // 2  # since some time between the beats
        parts = [list(part) for _, part in groupby(seen, key=lambda each: (each.by, each.is_idle))]
        ends = [(one[-1].at + other[0].at) // 2 for one, other in pairwise(parts)]
        for part, start, end in zip(parts or [[]], [began, *ends], [*ends, now], strict=True):
            self._note(part, start, end, now)

    def _note(self, part: list[Seen], start: int, end: int, now: int) -> None:
        labels = Counter(where.label(each.steps) for each in part)
        worst = max(part, key=lambda each: labels[where.label(each.steps)], default=_UNSEEN)
        if not worst.is_idle:  # pragma: no branch - a busy machine
            span = _span_of(worst, start, end, now) if end - start >= BLOCKED_NS else None
            pause = Pause(LOOP, start, end, worst.why, worst.by, self.loop, span=span)
            self._pauses.recent.append(pause)

    def _was_kept(self, late: int, seen: list[Seen]) -> bool:
        """Say whether this thread had no chance to beat: others have computed, and it has not, nor
        stood in a call that waits; or, of a loop that stands idle, not even the watching thread
        was let in, for long.
        """
        mine = time.thread_time_ns() - self._computed[0]
        all_of_us = time.process_time_ns() - self._computed[1]
        is_starved = all_of_us - mine > 2 * mine + _OTHERS_NS
        if all(each.is_idle for each in seen):
            return is_starved or (late > 2 * BLOCKED_NS and mine * 2 < late)
        looks = ((b.at - a.at, b.computed - a.computed) for a, b in pairwise(seen))
        stood = sum(took for took, spent in looks if has_stood_still(spent, took))
        return is_starved and stood * 2 <= seen[-1].at - seen[0].at


def _span_of(seen: Seen, start: int, end: int, now: int) -> Any:
    """Make the span of a block, in the trace of whose work it was; return its context. Work that
    is in no trace has none.
    """
    tracer = _runtime.current.tracer
    if tracer is None or seen.span is trace.INVALID_SPAN:
        return None
    ended_ns = time.time_ns() - (now - end)
    attributes = {_names.BLOCKED_STACK: where.stack(seen.steps), **dict(seen.who)}
    span = tracer.start_span(
        _names.LOOP_BLOCKED,
        trace.set_span_in_context(seen.span, otel_context.Context()),
        attributes=attributes,
        start_time=ended_ns - (end - start),
    )
    span.end(ended_ns)
    context = span.get_span_context()
    return context if context.is_valid else None
