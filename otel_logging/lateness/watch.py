"""What is open now: the table of stages.

In: stages that open and end. Out: the black box, what held a stage up, whose it was. Invariants:
nothing here raises into a stage or makes it wait; there is no thread where threads are green, and
none in a process that uWSGI forks. Deliberately absent: looking at what is open (``watchdog``).
"""

import threading
import time
from asyncio import _get_running_loop
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures.thread import _WorkItem
from contextlib import suppress
from functools import lru_cache
from itertools import chain
from math import inf
from pathlib import Path
from threading import Thread, get_ident
from typing import Any, Final

from opentelemetry import trace

from otel_logging import _diagnostics, _forks, _green, _names, _runtime
from otel_logging import context as bindings
from otel_logging._values import field
from otel_logging.binding import task_in, weakly, worker
from otel_logging.context import CURRENT, SPAN
from otel_logging.lateness import where
from otel_logging.lateness.blackbox import BlackBox
from otel_logging.lateness.budgets import Budgets
from otel_logging.lateness.pauses import Heart, Pause, Pauses
from otel_logging.lateness.stage import WATCHED, WHO, Watched, value_of, watched_of
from otel_logging.lateness.verdict import Who, Why, most
from otel_logging.lateness.watchdog import MOST, Watchdog

_NO_SPAN: Final = trace.INVALID_SPAN
_NOTHING: Final[Mapping[Any, Any]] = {}
_DID: Final = 2048  # stages that have ended are remembered; the garbage collector visits each
_REMEMBERED: Final = 1024  # users
_STOP_S: Final = 1.0
_JOBS: Final = "WorkerThread.run"
_WORKING: Final = _WorkItem.run.__code__
#: Functions that wait for a thread, and which of their variables holds it or its future. The last
#: one is asgiref's.
_WAITING: Final = {
    "Thread.join": "self",
    "Future.result": "self",
    "wait": "fs",
    "as_completed": "fs",
    "Future.exception": "self",
    "CurrentThreadExecutor.run_until_future": "future",
}


class Watch:
    """What is watched in this process. Concurrency: any thread."""

    def __init__(
        self,
        who: tuple[str, ...],
        warn: Callable[..., object],
        place: Callable[[], tuple[Path | None, bytes]],
    ) -> None:
        """*warn* makes a line. *place* says where the black box may be, and whose it is: a
        directory and a resource.
        """
        self.warn = warn
        self._who = who
        self._place = place
        self._known = lru_cache(_REMEMBERED)(_shown)  # what is redacted changes with the set-up
        self.pauses = Pauses(self)
        self.is_stopped = False
        #: Whether there was a stage with a budget: until then none below it is measured.
        self.has_budgets = False
        self._begin()
        self.open_box()
        _forks.join(_forks.Step.WATCH, self)

    def _begin(self) -> None:
        self.box = BlackBox()
        self.is_boxed = False
        #: New entry stages without a budget, by span: the loop, or the thread, that each began in.
        #: Stages write it themselves, in line.
        self.open: dict[Any, Any] = {}
        #: Stages whose task has gone on to something else.
        self.left: set[Any] = set()
        #: Threads that work on behalf of a stage that another task or thread began, by their ids.
        self.hands: dict[int, Any] = {}
        self.is_awake = False
        self.measured: dict[Watched, None] = {}
        #: What tasks (weakly) and threads did last: from when to when, what, for whom.
        self._did: deque[tuple[Any, int, int, str, Who]] = deque(maxlen=_DID)
        self.watchdog = Watchdog(self)
        run, name = self.watchdog.run, "otel_logging watch"
        self._thread = threading.Thread(target=run, name=name, daemon=True)
        self._may_start = [self._thread]  # popped by the one thread that starts ours
        #: A lock that is held; its release wakes the thread. Cheaper than an event or a queue.
        self.news = threading.Lock()
        self.news.acquire()

    def open_box(self) -> None:
        """Make the black box of this process. Never raises."""
        self.is_boxed = True
        try:
            directory, resource = self._place()
            if directory is not None:  # otherwise no other process can read it
                self.box.begin(directory, resource)
        except (OSError, ValueError) as error:
            self.box.remove()  # what was made of it takes up the disk
            _diagnostics.report("open stages are not readable from outside", detail=error)

    def after_fork(self) -> None:
        """Watch nothing yet: what is open is the parent's."""
        self.pauses.forget()
        self.box.let_go()
        self._begin()

    def stop(self) -> None:
        """Watch nothing any more; leave no thread and no file. Waits a second at most."""
        self.is_stopped = True
        self.pauses.stop()
        self.box.remove()
        with suppress(RuntimeError):
            self.news.release()
        if self._thread.is_alive() and self._thread is not threading.current_thread():
            self._thread.join(_STOP_S)

    # ---- stages

    def measure(
        self, span: Any, name: str, budget_s: float | None, around: Any, kind: Any,
        attributes: Mapping[str, Any], handed_ns: int | None = None,
    ) -> None:  # fmt: skip
        """Measure a stage with a budget, and all below such. Never raises.

        *handed_ns*: when its work was handed over, if its span begins there.
        """
        try:
            outer = watched_of(around)
            if (budget_s is None and outer is None) or len(self.measured) > MOST:
                return
            self.has_budgets = True
            if span.otel_logging_watched is False:  # it is not recorded
                setattr(span, WHO, bindings.state().values)
            watched = Watched(self, span, name, budget_s, outer, kind)
            watched.thread, loop = get_ident(), _get_running_loop()
            if loop is not None:
                watched.loop, watched.task, watched.worker = loop, (task := task_in(loop)), task
                watched.heart = heart = self.pauses.hearts.get(loop) or Heart(loop, self.pauses)
                heart.open += 1
                if watched.began > heart.early:
                    heart.beat_early()
            elif not _green.is_green():  # pragma: no branch - greenlets are watched by nobody
                watched.thread, watched.cpu_began = _green.own_thread(), time.thread_time_ns()
            if _names.QUEUE_WAIT in attributes:
                watched.wait_before(attributes[_names.QUEUE_WAIT], is_handed=handed_ns is not None)
            if budget_s is not None:
                self.put(watched, budget_s)
            self.measured[watched], span.otel_logging_watched = None, watched
            if budget_s is not None and watched.origin + budget_s * 5e8 < self.watchdog.next_slow:
                self.watchdog.next_slow = watched.origin + budget_s * 5e8
            if not self.is_awake:
                self.wake()
        except Exception as error:  # pragma: no cover - a foreign span, of whatever kind
            _diagnostics.report("stages not watched", detail=error)

    def enter(self, span: Any) -> None:
        """Note an entry stage without a budget: if it lasts, it is shown."""
        self.open[span] = _get_running_loop() or _green.own_thread()
        if not self.is_awake:
            self.wake()

    def expect(self, span: Any, start: str, ask: Callable[[], str | None] | None) -> None:
        """Ask for the route of a request, whose name begins with *start*, until its end; measure it
        from here on, where such a name may have a budget.
        """
        span.otel_logging_ask = ask and (start, ask)
        if not span.otel_logging_watched and self.least_s(start) is not None:
            self.open.pop(span, None)
            self.measure(span, start, inf, None, trace.SpanKind.SERVER, {})
            self.watchdog.next_slow = 0  # it is asked for its route at each look

    def ask(self, span: Any, start: str, ask: Callable[[], str | None]) -> None:
        """Name a request after its route, once the framework has found that."""
        with suppress(Exception):  # another thread, the framework's, may change it now
            name = start if (route := ask()) is None else f"{start} {route}"
            if name != getattr(span, "name", ""):
                span.update_name(name)
                self.name(span, name)

    def least_s(self, start: str) -> float | None:
        """Return the least budget of the stages of which *start* is the first word, or words."""
        budgets = _runtime.current.budgets
        return budgets.least(f"{start} ") if isinstance(budgets, Budgets) else None

    def name(self, span: Any, name: str) -> None:
        """Take over a request's name, which is known now, and the budget for that name."""
        known = _runtime.current.budgets.get(name)
        budget = span.otel_logging_budget if known is None else known
        if watched := getattr(span, WATCHED, None):
            watched.name = name
            watched.budget_s = inf if budget is None else budget
            self.watchdog.next_slow = 0
            if watched.slot > 0:  # pragma: no branch - thousands are open
                self.box.name(watched.slot, name, budget or 0.0)

    def show(self, span: Any) -> None:
        """Show an entry stage without a budget, which is not new any more. In another thread."""
        if (place := self.open.pop(span, None)) is None:
            return  # pragma: no cover - it has just ended
        watched = Watched(self, span, getattr(span, "name", ""), inf)
        watched.is_measured = False
        watched.thread, watched.loop = (place, None) if type(place) is int else (0, place)
        self.put(watched, 0.0)
        # not before: whoever ends it meanwhile empties its slot
        self.measured[watched], span.otel_logging_watched = None, watched

    def put(self, watched: Watched, budget_s: float) -> None:
        """Put a stage into the black box, if that has room."""
        if not self.is_boxed:  # in a forked child
            self.open_box()
        try:
            watched.slot = slot = self.box.free.pop()
        except IndexError:
            return
        span, began, clock = watched.span, watched.origin, watched.clock_ns
        ids = span if hasattr(span, "trace_id") else span.get_span_context()
        parent = getattr(span, "_parent_span", None) or getattr(span, "parent", None)
        above, who = parent.span_id if parent else 0, self.who_of(span)
        start = time.time_ns() if clock is None else began + clock
        self.box.open(
            slot, watched.name, ids.trace_id, ids.span_id, above, start, began, budget_s, who
        )

    def bind(self, span: Any, fields: Mapping[str, Any]) -> None:
        """Take over on whose behalf the request of the entry span *span* runs. Never raises."""
        span = span.now if type(span) is bindings.Standing else span
        is_entry = hasattr(span, bindings.ENTRY)
        if is_entry and not hasattr(span, "_own") and not span.is_recording():
            setattr(span, WHO, {**getattr(span, WHO, {}), **fields})
        inner = CURRENT.get().get(SPAN)
        while getattr(inner, bindings.ENTRY, None) is span:
            self._put_who(inner)
            inner = getattr(inner, bindings.OUTER, _NOTHING).get(SPAN)
        self._put_who(span, fields)

    def _put_who(self, span: Any, fields: Mapping[str, Any] = _NOTHING) -> None:
        if (watched := getattr(span, WATCHED, None)) and watched.slot > 0:
            self.box.put_who(watched.slot, self.who_of(span, fields))

    def loosen(self, span: Any) -> None:
        """Note that ``begin()`` has opened the stage. Where no loop runs its thread may do anything
        else meanwhile, and another may work on it: the thread is forgotten.
        """
        if (watched := getattr(span, WATCHED, None)) and watched.task is None:
            watched.thread = 0
        elif type(self.open.get(span)) is int:
            self.open[span] = 0

    def take(self, span: Any, taker: Any) -> None:
        """Note that *taker* works on *span* from here on: until now it waited in a queue."""
        self.left.discard(span)
        if watched := getattr(span, WATCHED, None):
            watched.began, watched.task, watched.worker = time.perf_counter_ns(), taker, taker

    def leave(self, span: Any) -> None:
        """Note that the task of *span* goes on to something else; another may work for it."""
        if (watched := getattr(span, WATCHED, None)) and span not in self.left:
            by = watched.task or watched.thread or worker()
            self._note(by, watched.began, watched.name, watched.who())
            watched.worker = None
        self.left.add(span)

    def did(self, span: Any, began: int) -> None:
        """Note that this task or thread has worked on *span*, which is not measured, since
        *began*.
        """
        self._note(worker(), began, getattr(span, "name", ""), self.who_of(span))

    def _note(self, runner: Any, began: int, name: str, who: Who, ended: int = 0) -> None:
        ended = ended or time.perf_counter_ns()
        self._did.append((weakly(runner), began, ended, name, who))

    def forget(self, watched: Watched) -> None:
        """Take a stage out of the table that was measured."""
        if self.measured.pop(watched, watched) is watched:
            return
        if watched.slot > 0:
            self.box.close(watched.slot)
        if watched.heart is not None:
            watched.heart.open -= 1
        outer, by = watched.outer, watched.task or watched.thread
        if watched.span in self.left or (outer and by == (outer.task or outer.thread)):
            return
        here = worker()  # a stage that ends elsewhere was worked on elsewhere
        if here == by or (watched.loop is not None and not watched.is_measured):
            self._note(here, watched.began, watched.name, watched.who(), watched.end)

    # ---- whose

    def who_of(self, span: Any, values: Mapping[str, Any] = _NOTHING) -> Who:
        """Return on whose behalf *span* runs, from it and from what is bound; no secrets."""
        found = []
        for key in self._who:
            if (value := values.get(key)) is None and (value := value_of(span, key)) is None:
                value = value_of(getattr(span, bindings.ENTRY, None), key)
            if value is not None:
                found.append((key, (self._known if type(value) is str else _shown)(key, value)))
        return tuple(found)

    def span_in(self, thread: int) -> Any:
        """Return the span of the innermost stage that *thread* is in."""
        with where.frames() as frames:
            job = self.job_in(frames.get(thread))
        if job is not None:
            return job
        mine = [each.span for each in list(self.measured.copy()) if each.thread == thread]
        mine += [span for span, place in self.open.copy().items() if place == thread]
        return mine[-1] if mine else self.hands.get(thread) or _NO_SPAN

    def job_in(self, frame: Any) -> Any:
        """Return the span that is current in the job of a thread of anyio's with this stack, which
        are those of Starlette and FastAPI; None for any other thread.
        """
        of_jobs = (each for each in where.outwards(frame) if each.f_code.co_qualname == _JOBS)
        if (run := next(of_jobs, None)) is None or "anyio" not in run.f_code.co_filename:
            return None
        context = where.variable(run, "context") or _NOTHING  # an empty one counts as missing
        return context.get(CURRENT, _NOTHING).get(SPAN, _NO_SPAN)

    def joined_by(self, frame: Any, threads: Mapping[int, Any]) -> int:
        """Return that of *threads*, each with its stack, for which the thread with this *frame*
        waits: for its end, or for the future of what it works on; else 0.
        """
        if frame is None or frame.f_code.co_filename != threading.__file__:
            return 0
        there = [each for each in where.outwards(frame) if each.f_code.co_qualname in _WAITING]
        found = [where.variable(each, _WAITING[each.f_code.co_qualname]) for each in there[:2]]
        waited = [*found, *chain(*(each for each in found if type(each) is set))]
        for thread, top in threads.items():
            future = getattr(where.self_of(_WORKING, top), "future", _NOTHING)
            if any(e is future or (isinstance(e, Thread) and e.ident == thread) for e in waited):
                return thread
        return 0

    def behind(self, runner: Any, start: int, end: int) -> Why:
        """Return what *runner*, a task or a thread, did for most of the time between two."""
        by = weakly(runner)
        did = [
            (began, ended, Why("", name, who))
            for one, began, ended, name, who in self._did.copy()
            if one == by and ended > start and began < end
        ]
        return most(did, start, end) or Why()

    def pauses_of(self, watched: Watched) -> list[Pause]:
        """Return the pauses that held *watched* up, the longest last."""
        found = [
            pause
            for pause in list(self.pauses.recent)
            if pause.end > watched.origin
            and pause.start < watched.end
            and (pause.loop is None or pause.loop is watched.loop)
            and watched.thread not in pause.spared
        ]
        return sorted(found, key=lambda pause: pause.end - pause.start)

    # ---- the thread

    def wake(self) -> None:
        """Have the thread look. Never raises, never waits."""
        if self.is_stopped or _green.is_green() or _forks.is_before_fork():
            return
        self.is_awake = True
        try:
            self._may_start.pop().start()
        except IndexError:
            with suppress(RuntimeError):  # it is woken already
                self.news.release()
        except RuntimeError:  # pragma: no cover - no more threads, or the interpreter exits
            self._may_start.append(self._thread)


def _shown(key: str, value: Any) -> str:
    return str(field(key, value))
