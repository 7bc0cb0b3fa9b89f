"""What is open now: the table of stages, and the thread that looks at those that are becoming late.

In: stages that open and end. Out: the black box, samples of where slow stages stand, a line for those that are
overdue. Invariants: nothing here raises into a stage or makes it wait; the thread runs only while a stage is open,
and not at all where threads are green. Deliberately absent: why a stage was late (``stage``).
"""

import asyncio
import sys
import threading
import time
from asyncio import current_task
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from contextvars import Context
from pathlib import Path
from typing import Any, Final

from opentelemetry import context as otel_context
from opentelemetry import trace

from otel_logging import _diagnostics, _forks, _green, _names
from otel_logging import context as bindings
from otel_logging.context import CURRENT, SPAN
from otel_logging.lateness import where
from otel_logging.lateness.blackbox import BlackBox
from otel_logging.lateness.cpu import HOG_SHARE, Processors
from otel_logging.lateness.pauses import BLOCKED_NS, Pause, Pauses, Who
from otel_logging.lateness.sentence import seconds
from otel_logging.lateness.stage import Watched, began_ns, value_of, watched_of
from otel_logging.lateness.verdict import CPU, Why

_NO_SPAN: Final = trace.INVALID_SPAN
_TICK_S: Final = 0.025
_SLOW_TICK_S: Final = 0.05  # while only stages without a budget are open
_SCAN_NS: Final = (
    100_000  # a look through the table takes no more of a tick than that for each stage
)
_LOOKED_AT: Final = 64  # stages in one tick
_LEAST_SHARE: Final = 0.1  # of the time: less holds nobody up
_SLOW_S: Final = 1.0  # a stage without a budget is looked at from here on
_OVERDUE_S: Final = 0.5  # over its budget by that and still open: it is told
_ENDED: Final = 256
_MOST: Final = 10_000  # open stages, beyond which no more are measured
_STOP_S: Final = 1.0


#: An entry stage without a budget: its thread and loop, and its slot, once it has one.
_Noted = tuple[Any, ...]


class Watch:
    """What is watched in this process. Concurrency: any thread."""

    def __init__(
        self,
        who: tuple[str, ...],
        warn: Callable[..., object],
        place: Callable[[], tuple[Path | None, bytes]] = lambda: (None, b""),
    ) -> None:
        """*warn* makes a line. *place* says where the black box may be, and whose it is: a
        directory and a resource.
        """
        self.warn = warn
        self._who = who
        self._place = place
        self.pauses = Pauses(self)
        self._is_stopped = False
        #: Whether there was a stage with a budget: until then none below it is measured.
        self.has_budgets = False
        self._begin()
        self._open_box()
        self.pauses.start()
        _forks.join(_forks.Step.WATCH, self)

    def _begin(self) -> None:
        self._box = BlackBox()
        self._is_boxed = False
        #: Entry stages without a budget, by span. Stages write it themselves, in line.
        self.open: dict[Any, _Noted] = {}
        self.is_awake = False
        self._measured: dict[int, Watched] = {}
        self._slow: dict[int, Watched] = {}
        self._ended: deque[tuple[Any, int, int, str, Who]] = deque(maxlen=_ENDED)
        self._unboxed = -1  # the next key of a stage that found no slot
        self._next_scan = 0
        self._processors = Processors()
        self._may_start = [True]  # popped by the one thread that starts ours
        self._thread: threading.Thread | None = None
        self._news = threading.Event()

    def _open_box(self) -> None:
        self._is_boxed = True
        try:
            self._box.begin(*self._place())
        except (OSError, ValueError) as error:
            _diagnostics.report("open stages are not readable from outside", detail=error)
            self._box.begin(None, b"")

    def after_fork(self) -> None:
        """Watch nothing yet: what is open is the parent's."""
        self.pauses.forget()
        self._begin()

    def stop(self) -> None:
        """Watch nothing any more; leave no thread and no file. Waits a second at most."""
        self._is_stopped = True
        self.pauses.stop()
        self._box.remove()
        self._news.set()
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join(_STOP_S)

    # ---- stages

    def measure(
        self,
        span: Any,
        name: str,
        budget_s: float | None,
        around: Any,
        kind: Any,
        attributes: Mapping[str, Any],
    ) -> bool:
        """Measure a stage with a budget, and all below such; say whether it is. Never raises."""
        try:
            outer = watched_of(around)
            if outer is not None and outer.end:
                outer = None
            if (budget_s is None and outer is None) or len(self._measured) > _MOST:
                return False
            self._measure(span, name, budget_s, outer, kind, attributes)
        except Exception as error:
            _diagnostics.report("stages not watched", detail=error)
        return True

    def _measure(
        self,
        span: Any,
        name: str,
        budget_s: float | None,
        outer: Watched | None,
        kind: Any,
        attributes: Mapping[str, Any],
    ) -> None:
        self.has_budgets = True
        waited_s = attributes.get(_names.QUEUE_WAIT)
        is_downstream = kind in (trace.SpanKind.CLIENT, trace.SpanKind.PRODUCER)
        watched = Watched(self, span, name, budget_s, outer, waited_s, is_downstream=is_downstream)
        slot = -1 if budget_s is None else self._slot(span, name, budget_s)
        if slot < 0:
            slot = self._unboxed = self._unboxed - 1
        watched.slot = slot
        self._measured[slot] = watched
        span.otel_logging_watched = watched
        if not self.is_awake or len(self._measured) == 1:
            self.wake()

    def _slot(self, span: Any, name: str, budget_s: float) -> int:
        if not self._is_boxed:  # in a forked child
            self._open_box()
        try:
            slot = self._box.free.pop()
        except IndexError:
            return -1
        context, parent = span.get_span_context(), getattr(span, "parent", None)
        self._box.open(
            *(
                slot,
                name,
                context.trace_id,
                context.span_id,
                0 if parent is None else parent.span_id,
            ),
            *(getattr(span, "start_time", None) or time.time_ns(), budget_s),
        )
        self._put_who(slot, self.who_of(span, {}))
        return slot

    def _put_who(self, slot: int, who: Who) -> None:
        if who:
            self._box.put_who(slot, ", ".join(f"{key}={value}" for key, value in who))

    def bind(self, span: Any, fields: Mapping[str, Any]) -> None:
        """Take over what was bound for a request, whose entry span is *span*. Never raises."""
        if not fields.keys().isdisjoint(self._who):
            watched = watched_of(span)
            slot = self.open.get(span, (-1,))[-1] if watched is None else watched.slot
            if type(slot) is int and slot > 0:
                self._put_who(slot, self.who_of(span, fields))

    def close(self, noted: _Noted) -> None:
        """Empty the slot of a stage that has ended, and is in ``open`` no more."""
        self._box.close(noted[2])

    def forget(self, watched: Watched) -> None:
        """Take a stage out of the table that was measured."""
        if self._measured.get(watched.slot) is not watched:
            return
        del self._measured[watched.slot]
        self._slow.pop(watched.slot, None)
        if watched.slot > 0:
            self._box.close(watched.slot)
        if watched.heart is not None:
            watched.heart.open -= 1
        if watched.is_outermost:
            runner = watched.task or watched.thread
            self._ended.append((runner, watched.began, watched.end, watched.name, watched.who()))

    # ---- whose

    def who_of(self, span: Any, values: Mapping[str, Any]) -> Who:
        """Return on whose behalf *span* is, with what is bound beside it."""
        entry = bindings.entry_of(span)
        found = []
        for key in self._who:
            value = values.get(key)
            for each in (span, entry):
                value = value_of(each, key) if value is None else value
            if value is not None:
                found.append((key, str(value)))
        return tuple(found)

    def span_in(self, thread: int) -> Any:
        """Return the span of the innermost stage that is open in *thread*."""
        mine = [each.span for each in list(self._measured.values()) if each.thread == thread]
        mine += [span for span, noted in list(self.open.items()) if noted[0] == thread]
        return mine[-1] if mine else _NO_SPAN

    def behind(self, runner: Any, start: int, end: int) -> Why:
        """Return what *runner*, a task or a thread, did longest between two times."""
        did = [
            (min(end, ended) - max(start, began), name, who)
            for of, began, ended, name, who in list(self._ended)
            if of is runner or of == runner
        ]
        took, name, who = max(did, key=lambda each: each[0], default=(0, "", ()))
        return Why("", name, who) if took > 0 else Why()

    def pauses_of(self, watched: Watched) -> list[Pause]:
        """Return the pauses that held *watched* up, the longest last."""
        loop = None if watched.heart is None else watched.heart.loop
        found = [
            pause
            for pause in list(self.pauses.recent)
            if pause.end > watched.origin
            and pause.start < watched.end
            and (pause.loop is None or pause.loop is loop)
            and not (pause.by_thread and pause.by_thread == watched.thread)
        ]
        return sorted(found, key=lambda pause: pause.end - pause.start)

    # ---- the thread

    def wake(self) -> None:
        """Have the thread look. Never raises, never waits."""
        if self._is_stopped or _green.is_green() or _is_before_fork():
            return
        self.is_awake = True
        try:
            token = self._may_start.pop()
        except IndexError:
            self._news.set()
            return
        try:
            self._thread = threading.Thread(
                target=self._run, name="otel_logging watch", daemon=True
            )
            self._thread.start()
        except RuntimeError:  # no more threads to be had, or the interpreter exits
            self._may_start.append(token)

    def _run(self) -> None:
        news = self._news
        while not self._is_stopped and news is self._news:
            if not (self.open or self._measured):
                self.is_awake = False
                if not (self.open or self._measured):  # whoever opens one from here on wakes us
                    news.wait()
                self.is_awake = True
            news.clear()
            period_s = _TICK_S if self._measured else _SLOW_TICK_S
            asleep = time.perf_counter_ns()
            news.wait(period_s)
            now = time.perf_counter_ns()
            try:
                self._tick(now, asleep + int(period_s * 1e9))
            except Exception as error:
                _diagnostics.report("errors while stages are watched", detail=error)

    def _tick(self, now: int, due: int) -> None:
        self._box.beat()
        self.pauses.look(now)
        if self._measured:
            self._look_for_hogs(now, due)
        if now >= self._next_scan:
            self._next_scan = now + (len(self.open) + len(self._measured)) * _SCAN_NS
            self._scan(now)
        if self._slow:
            frames = sys._current_frames()  # noqa: SLF001 - there is no other
            for watched in list(self._slow.values())[:_LOOKED_AT]:
                self._look_at(watched, now, frames)

    def _scan(self, now: int) -> None:
        """Find the stages that are becoming late; those that have ended are no concern any more."""
        for span, noted in list(self.open.items()):
            if bindings.has_ended(span):
                self.open.pop(span, None)
                if len(noted) > 2:
                    self.close(noted)
            elif len(noted) == 2:
                slot = self._slot(span, getattr(span, "name", ""), 0.0)
                if slot > 0:
                    self.open[span] = (*noted, slot)
            elif now - began_ns(span) > _SLOW_S * 1e9:
                self._promote(span, *noted)
        for slot, each in list(self._measured.items()):
            if bindings.has_ended(each.span):
                self.forget(each)
            elif slot not in self._slow and each.budget_s is not None:
                if now - each.origin > each.budget_s * 5e8:
                    self._slow[slot] = each
        for slot in self._slow.keys() - self._measured.keys():  # it ended meanwhile
            self._slow.pop(slot, None)

    def _promote(self, span: Any, thread: int, loop: Any, slot: int) -> None:
        """Measure from here on where a stage without a budget stands."""
        task = None
        if loop is not None:
            task = next((each for each in asyncio.all_tasks(loop) if _is_in(each, span)), None)
            if task is None:
                return
        watched = Watched(self, span, getattr(span, "name", ""), None, at=(thread, task))
        watched.slot = slot
        self._measured[slot] = self._slow[slot] = watched
        span.otel_logging_watched = watched
        self.open.pop(span, None)

    def _look_at(self, watched: Watched, now: int, frames: Mapping[int, Any]) -> None:
        steps = self._steps_of(watched, frames)
        if not steps or watched.end:
            return
        watched.saw(steps, now, watched.seen_at or now - int(_TICK_S * 1e9))
        if watched.slot > 0 and self._measured.get(watched.slot) is watched:
            shown = [step for step in steps if where.is_application(step[0].co_filename)]
            self._box.put_where(watched.slot, where.stack((shown or steps)[:8]))
        budget_s = watched.budget_s
        if budget_s is None or watched.is_overdue:
            return
        open_s = (now - watched.origin) / 1e9
        if open_s > budget_s + _OVERDUE_S:
            watched.is_overdue = True
            who = watched.who()
            whose = f"{who[0][1]}'s {watched.name}" if who else watched.name
            told = f"{whose} is overdue: open for {seconds(open_s)} s (budget {seconds(budget_s)}), in "
            Context().run(self._tell, watched, told + where.label(steps), dict(who), steps)

    def _tell(
        self, watched: Watched, told: str, who: dict[str, str], steps: Iterable[where.Step]
    ) -> None:
        CURRENT.set(otel_context.Context({SPAN: watched.span}))
        self.warn(told, stage=watched.name, **{**who, "late.where": where.stack(steps)})

    def _steps_of(self, watched: Watched, frames: Mapping[int, Any]) -> list[where.Step]:
        task = watched.task
        if task is None or current_task(task.get_loop()) is task:
            return where.of_frame(frames.get(watched.thread))
        return where.of_task(task)

    def _look_for_hogs(self, now: int, due: int) -> None:
        """Find a thread that keeps the interpreter for itself."""
        is_held = now - due > BLOCKED_NS  # we, who wait for nothing else, were kept from it
        slow = {each.thread for each in self._slow.values() if each.task is None}
        if not (is_held or len(slow) > 0 or self._processors.is_due(now)):
            return
        since, spent = self._processors.spent(now)
        if not spent or now <= since:
            return
        hog = max(spent, key=spent.__getitem__)
        began = max(due, since) if is_held else since
        # others may have the processors: the hog has the most of what is left
        if spent[hog] < max(HOG_SHARE * sum(spent.values()), _LEAST_SHARE * (now - began)):
            return
        starved = {t for t in slow - {hog} if spent.get(t, 0) > 0.01 * (now - since)}
        if is_held or starved:
            loops = (h.loop for h in list(self.pauses.hearts.values()) if h.thread == hog)
            seen = self.pauses.seen_in(hog, next(loops, None))
            # it may have gone on when we are let in
            why = seen.why if seen.span is not _NO_SPAN else self.behind(hog, began, now)
            pause = Pause(CPU, began, now, why, seen.request, by_thread=hog)
            if is_held:
                self.pauses.recent.append(pause)
                return
            for each in list(self._slow.values()):
                if each.thread in starved and not each.is_own(pause):
                    each.add_guess(each.as_interval(pause))


def _is_in(task: Any, span: Any) -> bool:
    """Say whether *task* is within the stage of *span*, or one that was begun in it."""
    context = where.context_of(task)
    current = None if context is None else context.get(CURRENT, {}).get(SPAN)
    return current is not None and bindings.entry_of(current) is span


def _is_before_fork() -> bool:
    """Say whether uWSGI forks its workers from this process: no thread of ours runs in it."""
    worker_id = getattr(sys.modules.get("uwsgi"), "worker_id", None)
    return worker_id is not None and worker_id() == 0
