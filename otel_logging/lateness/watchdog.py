"""The thread that looks at what is open: at blocked loops, and at stages that are becoming late.

In: a ``Watch``. Out: samples of where slow stages stand, a line for those that are overdue, the
table of what is open. Invariant: it looks only while a stage is open, and never raises.
Deliberately absent: why a stage was late (``stage``).
"""

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from contextvars import Context
from functools import partial
from itertools import islice, takewhile
from math import inf
from sys import getswitchinterval
from threading import RLock, get_ident
from typing import Any, Final

from opentelemetry import trace

from otel_logging import _diagnostics, _names
from otel_logging import context as bindings
from otel_logging._text import duration
from otel_logging.binding import has_ended
from otel_logging.context import CURRENT, SPAN
from otel_logging.lateness import where
from otel_logging.lateness.cpu import computed, has_stood_still, queued
from otel_logging.lateness.pauses import BLOCKED_NS, Pause
from otel_logging.lateness.stage import Watched, began_ns, value_of
from otel_logging.lateness.verdict import CPU, Why

_NO_SPAN: Final = trace.INVALID_SPAN
_TICK_NS: Final = 25_000_000  # between looks while something is becoming late
_REST: Final = 4  # looks that find nothing late, before it waits to be woken
#: A look through the table takes no more of a tick than that for each stage.
_SCAN_NS: Final = 100_000
MOST: Final = 10_000  # open stages, beyond which no more are measured
_LOOKED_AT: Final = 64  # stages in one tick
#: After a look the thread rests this many times as long as that look has computed, or the one
#: before, if that was shorter: where everything is late, to look must not make it later.
_FREE: Final = 49
#: The longest rest: a stage that hangs is seen within a second.
_LONGEST_NS: Final = 500_000_000
_HOG_SHARE: Final = 0.4  # of what all threads have computed
_LEAST_SHARE: Final = 0.1  # of the time: less delays nobody
#: A thread that gets the interpreter for some 60 us of computing has waited for 6 ms behind a hog.
_TURN: Final = 100
#: The share of Python's switch interval, after which a thread has to release the interpreter, that
#: the watching thread waited before its last looks: less may be chance. Over so many looks.
_KEPT: Final = 0.1
_LOOKS: Final = 8
#: How often it looks which task works on a stage that its own task has left, and how much each
#: thread has computed.
_LEFT_NS: Final = 500_000_000
_NEEDED: Final = 1000  # tasks that a stage was seen to wait for: remembered
_HUNT_S: Final = 0.1  # how long a late stage's thread waits for a thread that looks already
_SLOW_S: Final = 1.0  # a stage without a budget is looked at from here on
_OVERDUE_S: Final = 0.5  # over its budget by that and still open: it is reported


class Watchdog:
    """What the thread remembers between two looks."""

    def __init__(self, watch: Any) -> None:
        self.watch = watch
        self._slow: dict[Watched, None] = {}
        self._next_scan = self._next_left = 0
        #: When the next stage may be slow; whoever begins one that may be slow earlier sets it.
        self.next_slow: float = 0
        #: Stages that no task works on: a timer or a pool's thread has them in its context.
        self._idle: set[Any] = set()
        #: What each thread had computed so far, and when: at each look, while a stage is slow.
        self._computed, self._computed_at = dict[int, int](), 0
        #: For how much of Python's interval it waited for the interpreter lately, before a look.
        self._kept, self._queued = 0.0, 0
        #: When the thread will look next (0: when it is woken); and how long it rests until then.
        self._due, self._rest = 0, BLOCKED_NS
        self._hunting = RLock()
        #: The tasks of each loop, each with the span that it is in, during one look.
        self._tasks: dict[Any, list[tuple[Any, Any]]] = {}

    def catch_up(self, now: int) -> None:
        """Look who keeps the interpreter, in a thread that got it before ours and ends a stage."""
        is_held = self._due and now - self._due > BLOCKED_NS
        # what another thread finds is known afterwards. It may wait for a lock that this thread
        # has, since the garbage collector ends stages anywhere
        if is_held and self._hunting.acquire(timeout=_HUNT_S):
            try:
                self._hunt(now, self._due)
            finally:
                self._hunting.release()

    def run(self) -> None:
        """Look, until the watch has stopped, or is a forked child's."""
        watch, news, in_vain, before = self.watch, self.watch.news, 0, 0
        self._spent(time.perf_counter_ns())  # what was computed before is nobody's fault
        self._queued = queued()
        while not watch.is_stopped and news is watch.news:
            is_needed = watch.open or watch.measured or watch.pauses.are_beating()
            in_vain = 0 if is_needed else in_vain + 1
            if in_vain > _REST:
                watch.is_awake = False
                self._due = 0
                # whoever opens one from here on wakes us
                if not (watch.open or watch.measured):  # pragma: no branch - a race
                    news.acquire()
                watch.is_awake = True
                self._spent(time.perf_counter_ns())
                self._queued = queued()
            self._due = due = time.perf_counter_ns() + self._rest
            news.acquire(timeout=self._rest / 1e9)
            now, computed_ns = time.perf_counter_ns(), time.thread_time_ns()
            try:
                self._tick(now, due)
            except Exception as error:
                _diagnostics.report("errors while stages are watched", detail=error)
            self._tasks.clear()
            # one look may have to free what a stage has left behind, or write a line
            took, before = before, time.thread_time_ns() - computed_ns
            self._rest = max(self._rest, min(min(took, before) * _FREE, _LONGEST_NS))

    def _tick(self, now: int, due: int) -> None:
        self.watch.box.beat()
        rest = self.watch.pauses.look(now)
        # a copy: the garbage collector may end stages in the midst of making a list
        for span in list(self.watch.open.copy()):
            if now - began_ns(span) < _TICK_NS:
                break  # the rest are newer: most are over before anybody asks
            self.watch.show(span)
        if now >= max(self._next_scan, self.next_slow):
            self._next_scan = now + len(self.watch.measured) * _SCAN_NS
            self._scan(now)
        is_asked = self._slow or now - due > BLOCKED_NS or now - self._computed_at > _LEFT_NS
        if self.watch.measured and is_asked:
            before, self._queued = self._queued, queued()
            due = min(due + self._queued - before, now)  # until then it waited for a processor
            waited = min((now - due) / 1e9 / getswitchinterval(), 1)
            self._kept += (waited - self._kept) / _LOOKS
            with self._hunting:
                self._hunt(now, due)
        if self.watch.left and now >= self._next_left:
            self._next_left = now + _LEFT_NS
            self._look_at_left()
        self._rest = _TICK_NS if self._slow else rest
        if not self._slow:
            return
        overdue: list[Callable[[], object]] = []
        try:
            self._look_at_slow(now, overdue)
        finally:  # to write a line may block: meanwhile no frame is held, nor its variables
            for line in overdue:
                line()

    def _look_at_slow(self, now: int, overdue: list[Callable[[], object]]) -> None:
        """Take a sample of slow stages; add what makes a line to those that are *overdue*."""
        with where.frames() as frames:
            own = {each.thread for each in self.watch.measured.copy() if each.task is None}
            free = {t: ns for t, ns in self._computed.items() if t not in own}
            for watched in list(islice(self._slow, _LOOKED_AT)):
                self._slow[watched] = self._slow.pop(watched)  # the others first, from now on
                overdue += self._look_at(watched, now, frames, free)

    def _scan(self, now: int) -> None:
        """Find the stages that are becoming late; forget those that have ended."""
        self.next_slow = now + _LEFT_NS
        there = list(self.watch.measured.copy())
        too_many = len(there) - MOST  # the oldest of those are stages that nobody will ever end
        for number, each in enumerate(there):
            if has_ended(each.span) or number < too_many:
                self.watch.forget(each)
                continue
            if asked := getattr(each.span, "otel_logging_ask", None):
                self.watch.ask(each.span, *asked)
                self.next_slow = 0
            budget_s, is_idle = each.budget_s, each.worker is None and each.span in self._idle
            if budget_s == inf:  # no budget, or its route is not known yet
                budget_s = self.watch.least_s(each.name) or _SLOW_S * 2
            # half of its budget is used up
            half_at = each.origin + 5e8 * (inf if budget_s is None else budget_s)
            self.next_slow = min(self.next_slow, half_at)
            if now > half_at and not is_idle:
                self._slow[each] = None
            else:
                self._slow.pop(each, None)
        for each in self._slow.keys() - self.watch.measured.copy().keys():
            del self._slow[each]

    def _look_at_left(self) -> None:
        """Stop showing stages as open that no task works on."""
        # in place: others add to it meanwhile
        self.watch.left -= {span for span in self.watch.left.copy() if has_ended(span)}
        there = [each for each in self.watch.measured.copy() if each.loop is not None]
        left = [each for each in there if each.span in self.watch.left]
        loops = {each.loop for each in left}
        spans = [span for loop in loops for _, span in self._tasks_of(loop) if span is not None]
        at_work = {*map(bindings.entry_of, [*spans, *self.watch.hands.copy().values()])}
        no_stage = {e.span for e in left if not getattr(e.span, "otel_logging_stages", 0)}
        self._idle = no_stage - at_work
        for each in left:
            if each.slot > 0:  # pragma: no branch - thousands are open
                self.watch.box.show(each.slot, is_shown=each.span not in self._idle)

    def _look_at(
        self, watched: Watched, now: int, frames: Mapping[int, Any], free: Mapping[int, int]
    ) -> Iterator[Callable[[], object]]:
        """Take a sample of *watched*; yield the line that it is overdue, once.

        *free*: what threads that are in no stage have computed.
        """
        hands = self.watch.hands.copy().items()
        helping = [each for each, span in hands if _is_for(span, watched.span)]
        steps = self._steps_of(watched, frames, helping)
        before, watched.clocks = watched.clocks, {t: free[t] for t in helping if t in free}
        watched.seen_cpu += sum(ns - before[t] for t, ns in watched.clocks.items() if t in before)
        if watched.end or (not steps and watched.span in self.watch.left):
            return
        if steps:
            watched.saw(steps, now, watched.seen_at or now - _TICK_NS)
        is_boxed = watched.slot > 0 and watched in self.watch.measured
        if is_boxed:  # pragma: no branch - thousands are open
            self.watch.box.put_where(watched.slot, where.stack(steps))
        budget_s = watched.budget_s
        if budget_s is None or watched.is_overdue:
            return
        open_s = (now - watched.origin) / 1e9
        if open_s <= budget_s + _OVERDUE_S:
            return
        watched.is_overdue = True
        who = watched.who()
        whose = f"{who[0][1]}'s {watched.name}" if who else watched.name
        since = f"open for {duration(open_s)} (budget {duration(budget_s)})"
        place = f"in {where.label(steps)}" if steps else "and nothing is known to work on it"
        fields = {_names.LATE_WHERE: where.stack(steps)} if steps else {}
        yield watched.line_of(f"{whose} is overdue: {since}, {place}", fields)

    def _steps_of(
        self, watched: Watched, frames: Mapping[int, Any], helping: list[int]
    ) -> list[where.Step]:
        """Return where *watched* stands; of threads *helping* it, leave those that it waits for."""
        task, span, loop = watched.worker, watched.span, watched.loop
        if loop is not None and _has_left(task, watched):
            task = watched.worker = next(self._tasks_in(span, loop), None)
            takers = self._tasks_in(span, loop, have_taken=True)  # they go on to others' work
            if task is not None and span in self.watch.left and task not in takers:
                _note_end(task, span)
        top = frames.get(watched.thread)
        entry = bindings.entry_of(span)
        if task is None and not _is_within(self.watch.job_in(top) or entry, entry):
            top = None  # a generator was begun there, and the thread does something else now
        if task is None and (loop is not None or top is None):
            within = (e for e in self.watch.measured.copy() if e.loop is None and e.thread)
            threads = helping or [e.thread for e in within if bindings.entry_of(e.span) is span]
            return where.of_frame(frames.get(threads[0])) if threads else []
        if task is None:
            steps = [] if where.is_shared(top) else where.of_frame(top)
            if thread := self.watch.joined_by(top, {each: frames.get(each) for each in helping}):
                top = frames[thread]
                steps = where.of_frame(top) + steps
            else:
                helping.clear()
            loop = where.self_of(where.RUNNING, top)  # of ``asyncio.run``
            task = None if loop is None else next(self._tasks_in(span, loop), None)
            if task is None:
                return steps
        working = [each for each, span in self.watch.hands.copy().items() if _is_for(span, entry)]
        beside = partial(self._tasks_in, entry, task.get_loop(), have_taken=True)
        steps, helping[:], needed = where.of_task(task, frames, working, beside)
        watched.needed = dict(islice(watched.needed.items(), _NEEDED)) | needed
        return steps

    def _tasks_of(self, loop: Any) -> list[tuple[Any, Any]]:
        """Return the tasks of *loop*, each with the span that it is in: in one look the same."""
        if loop not in self._tasks:
            self._tasks[loop] = [(each, _span_of(each)) for each in asyncio.all_tasks(loop)]
        return self._tasks[loop]

    def _tasks_in(self, span: Any, loop: Any, *, have_taken: bool = False) -> Iterator[Any]:
        """Yield the tasks of *loop* that are within the stage of *span*; that *have_taken* what was
        handed over in it.
        """
        for task, current in self._tasks_of(loop):
            within = takewhile(lambda each: each is not span, _around(current))
            takes = have_taken and any(value_of(e, _names.QUEUE_WAIT) is not None for e in within)
            if _is_for(current, span) and takes is have_taken:
                yield task

    def _hunt(self, now: int, due: int) -> None:
        """Find who keeps the interpreter for itself; several threads may work for one."""
        is_held = now - due > BLOCKED_NS  # we wait for nothing else: we were kept from it
        since, spent = self._computed_at, self._spent(now)
        if not (spent and since < now and (is_held or self._slow)):
            return
        began = max(due, since) if is_held else since
        hogs = self._hogs(spent, now - began)
        # a thread that keeps releasing the interpreter keeps nobody from it
        is_kept = is_held or self._kept > _KEPT
        pause = self._pause_of(hogs, began, now) if is_kept else None
        if pause is not None and is_held:
            spared = self._still_in(spent, now - began) | pause.spared
            self.watch.pauses.recent.append(pause._replace(spared=spared))
        elif pause is not None:
            kept = sum(spent[t] for t in hogs)
            for each in list(self._slow):
                threads = [*each.clocks, *([each.thread] if each.task is None else [])]
                mine = {t: spent[t] for t in threads if t in spent}
                waited = min(sum(mine.values()) * _TURN, kept)
                is_own = each.is_own(pause) or mine.keys() & {*hogs}
                if waited and not is_own:  # pragma: no branch - which are slow by then is chance
                    each.add_guess(each.as_interval(pause._replace(start=now - waited)))

    def _spent(self, now: int) -> dict[int, int]:
        """Return what each other thread has computed since the last call."""
        before, me = self._computed, get_ident()
        self._computed, self._computed_at = computed(), now
        # a thread that is new began since then
        return {t: spent - before.get(t, 0) for t, spent in self._computed.items() if t != me}

    def _hogs(self, spent: Mapping[int, int], took: int) -> list[int]:
        """Return the threads that have computed most, all for one, the busiest first."""
        parties: dict[Any, list[int]] = {}
        for thread in sorted(spent, key=spent.__getitem__, reverse=True):
            work = self.watch.hands.get(thread)
            parties.setdefault(thread if work is None else work, []).append(thread)
        hogs = max(parties.values(), key=lambda threads: sum(spent[t] for t in threads))
        # others may have the processors: the hog has the most of what is left
        least = max(_HOG_SHARE * sum(spent.values()), _LEAST_SHARE * took)
        return hogs if sum(spent[t] for t in hogs) >= least else []

    def _still_in(self, spent: Mapping[int, int], took: int) -> frozenset[int]:
        """Return the threads that stood in a call that waits for as long as it *took*. A thread
        that waits for another one, which works for it, counts as that one.
        """
        still = frozenset(thread for thread, ns in spent.items() if has_stood_still(ns, took))
        hands = self.watch.hands.copy().items()
        working = {bindings.entry_of(span) for thread, span in hands if thread not in still}
        there = self.watch.measured.copy()
        return still - {each.thread for each in there if bindings.entry_of(each.span) in working}

    def _pause_of(self, hogs: list[int], began: int, now: int) -> Pause | None:
        """Return whose computing it was; None if unknown, or if it needed no interpreter."""
        if not hogs:
            return None
        after = Counter(computed())
        after.subtract(self._computed)
        if after[hogs[0]] * 2 > after[get_ident()]:  # beside this thread, which has it
            return None  # pragma: no cover - others have the processors
        hearts = list(self.watch.pauses.hearts.values())
        loop = next((heart.loop for heart in hearts if heart.thread == hogs[0]), None)
        seen = self.watch.pauses.seen_in(hogs[0], loop)
        why = seen.why
        if seen.span is _NO_SPAN:  # it may have gone on when we are let in
            why = self.watch.behind(hogs[0], began, now)
            if not why.culprit and where.own_step(seen.steps) and not seen.is_idle:
                label = where.label(seen.steps)
                why = Why(label, label)
        return Pause(CPU, began, now, why, seen.by, spared=frozenset(hogs)) if why.culprit else None


def _note_end(task: Any, span: Any) -> None:
    """Make the request of *span*, a message, last until the end of *task*, which works for it and
    may log nothing: its end is not known otherwise.
    """

    def note(_: object) -> None:
        span.otel_logging_last = getattr(span, "now_ns", time.time_ns)()

    with suppress(RuntimeError):  # its loop has been closed
        add = partial(task.add_done_callback, note, context=Context())
        task.get_loop().call_soon_threadsafe(add, context=Context())


def _is_for(current: Any, span: Any) -> bool:
    """Say whether what has *current* works in the stage of *span*, or in its request."""
    return current is span or (current is not None and bindings.entry_of(current) is span)


def _is_within(current: Any, span: Any) -> bool:
    """Say whether what has *current* works in the stage of *span*, or in one that began there."""
    return any(_is_for(each, span) for each in _around(current))


def _has_left(task: Any, watched: Watched) -> bool:
    """Say whether *task*, which began *watched* or was found to work on it, no longer does so."""
    is_over = task is None or task.done()
    return is_over or (task is not watched.task and not _is_within(_span_of(task), watched.span))


def _around(span: Any) -> Iterator[Any]:
    """Yield *span*, and those around it."""
    while span is not None:
        yield span
        span = getattr(span, bindings.OUTER, {}).get(SPAN)


def _span_of(task: Any) -> Any:
    """Return the span of the stage that *task* is in; None outside stages."""
    return where.context_of(task).get(CURRENT, {}).get(SPAN)
