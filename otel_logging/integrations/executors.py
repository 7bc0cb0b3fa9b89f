"""Executors and timers: what is handed to one runs on behalf of whoever handed it over.

The current span, what is bound and the job tag go along; no other context variable does: a
framework's own (Flask's application context, say) would be shared by two threads. Of a stage that
is measured, the time until a thread took its work is a wait for the pool.
"""

import functools
import sys
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from contextlib import suppress
from contextvars import Context
from typing import Any

from opentelemetry.trace import INVALID_SPAN

from otel_logging import _exceptions, _runtime
from otel_logging import context as bindings
from otel_logging._values import plain
from otel_logging.context import SPAN
from otel_logging.jobs import tag_background_logger
from otel_logging.lateness.stage import Holder, watched_of
from otel_logging.lateness.verdict import POOL, Interval, Why
from otel_logging.lateness.waiting import blame
from otel_logging.propagation import extract, inject

_Work = Callable[..., Any]


class _Waiting:
    """Work that waits for a thread of *pool* to take it; then, the work in that thread. *stage*:
    whose work it is, if that is measured. *span*: the same, until it ends.
    """

    __slots__ = ("_key", "_since", "_wait", "_watch", "end", "name", "span", "stage")

    def __init__(self, watch: Any, pool: Any, work: _Work, span: Any) -> None:
        self._watch, self._key = watch, (POOL, id(pool))
        self.span, self.stage = span, watched_of(span)
        self.name, self.end, self._since = _name_of(work), 0, time.perf_counter_ns()

    def who(self) -> tuple[tuple[str, str], ...]:
        """Return on whose behalf the work is."""
        return () if self.stage is None else self.stage.who()

    def take(self) -> None:
        """Note that this thread begins the work."""
        pool, now = threading.current_thread().name.rpartition("_")[0], time.perf_counter_ns()
        since = now if self.stage is None else self._since  # it waits for itself alone
        had_it = blame(self._key, Why(pool), Holder(self, now), since)
        self._wait = Interval(POOL, self._since, now, had_it)
        self._watch.at_work[threading.get_ident()] = self

    def finish(self) -> None:
        """Note that the work has ended: a stage that has ended before did not wait for it."""
        self.end, self.span = time.perf_counter_ns(), None
        self._watch.at_work.pop(threading.get_ident(), None)
        if self.stage is not None and not self.stage.end:
            self.stage.add_wait(self._wait)

    def note(self, future: "Future[Any]") -> None:
        """Note that the stage has given up, before any thread took the work."""
        if self.stage is not None and future.cancelled():
            self.stage.add_wait(Interval(POOL, self._since, time.perf_counter_ns()))


def _name_of(work: Any) -> str:
    with suppress(Exception):  # it may have attribute methods of its own, that raise
        while isinstance(work, functools.partial):
            is_in_context = isinstance(getattr(work.func, "__self__", None), Context)  # to_thread's
            work = work.args[0] if is_in_context else work.func
        return str(work.__qualname__)
    return type(work).__qualname__


class _InThread:
    """Work for another thread of this process, which has nothing of it afterwards.

    Without *here*, on whose behalf it is, it runs on behalf of the thread.
    """

    __slots__ = ("_here", "_work", "waiting")

    def __init__(
        self, work: _Work, here: bindings.Here | None, waiting: _Waiting | None = None
    ) -> None:
        self._work, self._here, self.waiting = work, here, waiting

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        before, began = bindings.Here.now(), _exceptions.last
        if self._here is not None:
            self._here.put_back()
        if self.waiting is not None:
            self.waiting.take()
        try:
            return self._work(*args, **kwargs)
        except BaseException as error:
            _exceptions.remember_context(error, began)
            raise
        finally:
            if self.waiting is not None:
                self.waiting.finish()
            before.put_back()


class _InProcess:
    """Work for another process, as above: the trace as headers, what is bound as plain data."""

    __slots__ = ("_fields", "_headers", "_tag", "_work")

    def __init__(self, work: _Work, fields: Mapping[str, Any], tag: str | None) -> None:
        self._work, self._headers, self._tag = work, inject(), tag
        self._fields = {key: plain(value) for key, value in fields.items()}

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        work = self._work if self._tag is None else tag_background_logger(self._tag)(self._work)
        before = bindings.Here.now()
        try:
            with extract(self._headers), bindings.bound_context(**self._fields):
                return work(*args, **kwargs)
        finally:
            before.put_back()


def _for_thread(work: _Work) -> _Work:
    here = bindings.Here.now()
    return _InThread(work, here if here.is_any() else None)


def _for_pool(work: _Work, pool: Any) -> _Work:
    here, watch, waiting = bindings.Here.now(), _runtime.current.watch, None
    if watch is not None and watch.has_budgets:
        waiting = _Waiting(watch, pool, work, here.context.get(SPAN, INVALID_SPAN))
    return _InThread(work, here if here.is_any() else None, waiting)


def _for_process(work: _Work, _: Any) -> _Work:
    return _InProcess(work, bindings.bound(), bindings.job_tag())


def _submitting(prepare: Callable[[_Work, Any], _Work], submit: Any) -> Any:
    @functools.wraps(submit)
    def carrying(self: Any, fn: _Work, /, *args: Any, **kwargs: Any) -> Any:
        work = prepare(fn, self)
        with bindings.detached():  # a worker that is forked now has nothing of this request
            future = submit(self, work, *args, **kwargs)
        if (waiting := getattr(work, "waiting", None)) is not None:
            future.add_done_callback(waiting.note)
        return future

    return carrying


def _start_timer(self: threading.Timer) -> None:
    self.function = _for_thread(self.function)
    threading.Thread.start(self)


_KINDS = (
    ("concurrent.futures.thread", "ThreadPoolExecutor", _for_pool),
    ("concurrent.futures.process", "ProcessPoolExecutor", _for_process),
)
_submit: dict[Any, Any] = {}


def instrument() -> None:
    """Make executors and timers carry, from here on. Cost: some microseconds a call."""
    for module, name, prepare in _KINDS:
        kind: Any = getattr(sys.modules.get(module), name, None)
        if kind is not None and kind not in _submit:
            _submit[kind] = kind.submit
            kind.submit = _submitting(prepare, kind.submit)
    threading.Timer.start = _start_timer  # type: ignore[method-assign,assignment]


def uninstrument() -> None:
    """Leave executors and timers as Python has them."""
    while _submit:
        kind, submit = _submit.popitem()
        kind.submit = submit
    if "start" in vars(threading.Timer):
        del threading.Timer.start
