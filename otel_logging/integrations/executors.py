"""Executors, pools and timers: work runs on behalf of the task or thread that handed it over.
Scheduled work (APScheduler) is nobody's.

The current span, what is bound and the job tag go along, and no other context variable: one of a
framework (Flask's application context) would be shared by two threads. If a stage is measured, the
time until a thread takes its work is a wait for the pool.
"""

import inspect
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from contextvars import Context
from functools import cache, partial
from typing import Any, Final

from otel_logging import _exceptions, _runtime, open_stage
from otel_logging import context as bindings
from otel_logging._values import plain
from otel_logging.context import CURRENT, SPAN
from otel_logging.integrations.replaced import Replaced
from otel_logging.jobs import tag_background_logger
from otel_logging.lateness.stage import Holder, watched_of
from otel_logging.lateness.verdict import POOL, Interval, Why
from otel_logging.lateness.waiting import blame
from otel_logging.propagation import extract, inject

_Work = Callable[..., Any]


def _name_of(work: Any) -> str:
    with suppress(Exception):  # it may have attribute methods of its own, that raise
        while isinstance(work, partial):
            is_in_context = isinstance(getattr(work.func, "__self__", None), Context)  # to_thread's
            work = work.args[0] if is_in_context else work.func
        if work.__name__ == "thread_handler":  # of asgiref, and of Channels
            work = work.__self__.func
        return str(work.__qualname__)
    return type(work).__qualname__


class _InThread:
    """Work for another thread of this process. That thread keeps nothing of it afterwards.

    If nothing is current here, the work runs with what is current in that thread.
    """

    __slots__ = ("_here", "_waits", "_work")

    def __init__(self, work: _Work) -> None:
        here = bindings.Here.now()
        self._work, self._here = work, here if here.is_any() else None
        self._waits = open_stage.Waits()

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        before, began = bindings.Here.now(), _exceptions.last
        hands = {} if (watch := _runtime.current.watch) is None else watch.hands
        if self._here is not None:
            self._here.put_back()
            hands[threading.get_ident()] = self._here.context.get(SPAN)
        try:
            return self._work(*args, **kwargs)
        except BaseException as error:
            if self._here is not None:
                _exceptions.remember_context(error, began)
            raise
        finally:
            hands.pop(threading.get_ident(), None)
            before.put_back()
            self._waits.end(threading.current_thread())


class _Timed(_InThread):
    """Work that waits for a thread of *pool* to take it; then, the work in that thread."""

    __slots__ = ("_key", "_since", "end", "name", "stage")

    def __init__(self, work: _Work, pool: Any) -> None:
        super().__init__(work)
        #: The stage whose work it is, if that is measured.
        self.stage = watched_of(CURRENT.get().get(SPAN))
        self._key, self._since = (POOL, id(pool)), time.perf_counter_ns()
        self.name, self.end = _name_of(work), 0
        if self.stage is not None:
            self.stage.is_known = True

    def who(self, _: int) -> tuple[tuple[str, str], ...]:
        """Return on whose behalf the work was handed over; empty if that has changed."""
        return () if self.stage is None else self.stage.who(self._since)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        pool, now = threading.current_thread().name.rpartition("_")[0], time.perf_counter_ns()
        since = now if self.stage is None else self._since  # nobody waits for it
        had_it = blame(self._key, Why(pool), Holder(self, now), since)
        try:
            return super().__call__(*args, **kwargs)
        finally:
            self.end = time.perf_counter_ns()
            del self._here, self._work  # otherwise whoever remembers this keeps a message open
            if self.stage is not None and not self.stage.end:  # else it did not wait for this
                self.stage.add_wait(Interval(POOL, self._since, now, Why(pool), had_it))

    def note(self, future: "Future[Any]") -> None:
        """Note that the stage has given up, before any thread took the work."""
        if self.stage is not None and future.cancelled():
            self.stage.add_wait(Interval(POOL, self._since, time.perf_counter_ns()))


class _InProcess:
    """Work for another process: the trace goes along as headers, what is bound as plain data."""

    __slots__ = ("_fields", "_headers", "_tag", "_work")

    def __init__(self, work: _Work, _: Any = None) -> None:
        self._work, self._headers, self._tag = work, inject(), bindings.current_job_tag()
        self._fields = {key: plain(value) for key, value in bindings.bound().items()}

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        work = self._work if self._tag is None else tag_background_logger(self._tag)(self._work)
        before = bindings.Here.now()
        try:
            with extract(self._headers), bindings.bound_context(**self._fields):
                return work(*args, **kwargs)
        finally:
            before.put_back()


def _for_pool(work: _Work, pool: Any) -> _Work:
    watch = _runtime.current.watch
    is_timed = watch is not None and watch.has_budgets
    return _Timed(work, pool) if is_timed else _InThread(work)


def _apart(original: Any, *args: Any, **kwargs: Any) -> Any:
    with bindings.detached():
        return original(*args, **kwargs)


def _submit(prepare: Any, submit: Any, self: Any, fn: _Work, /, *args: Any, **kwargs: Any) -> Any:
    work = prepare(fn, self)
    # so that a worker that is forked now keeps nothing of this request
    future = _apart(submit, self, work, *args, **kwargs)
    if type(work) is _Timed:
        future.add_done_callback(work.note)
    return future


def _in_pool(argument: str, method: Any, *args: Any, **kwargs: Any) -> Any:
    """Call *method* of multiprocessing's pools. What the worker calls (*argument*), and the
    callbacks, run on behalf of the caller.
    """
    call = _signature(method).bind(*args, **kwargs)
    given = call.arguments
    is_of_threads = isinstance(given["self"], sys.modules["multiprocessing.pool"].ThreadPool)
    given[argument] = (_InThread if is_of_threads else _InProcess)(given[argument])
    for name in ("callback", "error_callback"):
        if given.get(name) is not None:
            given[name] = _InThread(given[name])
    return method(*call.args, **call.kwargs)


def _start(original: Any, self: threading.Timer) -> None:
    self.function = _InThread(self.function)
    original(self)


_signature = cache(inspect.signature)
_POOL: Final = "multiprocessing.pool", "Pool"
_replaced = Replaced(
    ("threading", "Timer", "start", _start),
    ("concurrent.futures.thread", "ThreadPoolExecutor", "submit", partial(_submit, _for_pool)),
    ("concurrent.futures.process", "ProcessPoolExecutor", "submit", partial(_submit, _InProcess)),
    (*_POOL, "__init__", _apart),
    (*_POOL, "apply_async", partial(_in_pool, "func")),
    (*_POOL, "_map_async", partial(_in_pool, "mapper")),
    (*_POOL, "imap", partial(_in_pool, "func")),
    (*_POOL, "imap_unordered", partial(_in_pool, "func")),
    # otherwise a scheduler's timer would run on behalf of whoever added a job last
    ("apscheduler.schedulers.base", "BaseScheduler", "_process_jobs", _apart),
)
instrument, uninstrument = _replaced.instrument, _replaced.uninstrument
