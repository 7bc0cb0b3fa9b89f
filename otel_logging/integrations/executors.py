"""Executors and timers: what is handed to one runs on behalf of whoever handed it over.

The current span, what is bound and the job tag go along; no other context variable does: a
framework's own (Flask's application context, say) would be shared by two threads.
"""

import functools
import sys
import threading
from collections.abc import Callable, Mapping
from typing import Any

from otel_logging import _exceptions
from otel_logging import context as bindings
from otel_logging._values import plain
from otel_logging.jobs import tag_background_logger
from otel_logging.propagation import extract, inject

_Work = Callable[..., Any]


class _InThread:
    """Work for another thread of this process."""

    __slots__ = ("_here", "_work")

    def __init__(self, work: _Work, here: bindings.Here) -> None:
        self._work, self._here = work, here

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        before, began = bindings.Here.now(), _exceptions.last
        self._here.put_back()
        try:
            return self._work(*args, **kwargs)
        except BaseException as error:
            _exceptions.remember_context(error, began)
            raise
        finally:
            before.put_back()


class _InProcess:
    """Work for another process: the trace as headers, what is bound as plain data."""

    __slots__ = ("_fields", "_headers", "_tag", "_work")

    def __init__(self, work: _Work, fields: Mapping[str, Any], tag: str | None) -> None:
        self._work, self._headers, self._tag = work, inject(), tag
        self._fields = {key: plain(value) for key, value in fields.items()}

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        work = self._work if self._tag is None else tag_background_logger(self._tag)(self._work)
        with extract(self._headers), bindings.bound_context(**self._fields):
            return work(*args, **kwargs)


def _for_thread(work: _Work) -> _Work:
    here = bindings.Here.now()
    return _InThread(work, here) if here.is_any() else work


def _for_process(work: _Work) -> _Work:
    here = bindings.Here.now()
    return _InProcess(work, bindings.bound(), here.job.tag) if here.is_any() else work


def _submitting(prepare: Callable[[_Work], _Work], submit: Any) -> Any:
    @functools.wraps(submit)
    def carrying(self: Any, fn: _Work, /, *args: Any, **kwargs: Any) -> Any:
        work = prepare(fn)
        if work is fn:
            return submit(self, fn, *args, **kwargs)
        with bindings.detached():  # a worker that is forked now has nothing of this request
            return submit(self, work, *args, **kwargs)

    return carrying


def _start_timer(self: threading.Timer) -> None:
    self.function = _for_thread(self.function)
    threading.Thread.start(self)


_KINDS = (
    ("concurrent.futures.thread", "ThreadPoolExecutor", _for_thread),
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
