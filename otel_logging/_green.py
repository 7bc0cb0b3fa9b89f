"""Python's own threads and functions, also if gevent or eventlet has replaced them.

They may be replaced before the package is imported, after that, or after a set-up. Invariant: it
makes no difference when. Deliberately absent: both libraries.
"""

import _thread
import importlib.util
import os
import sys
import threading
import time
import types
from collections.abc import Callable
from typing import Any, Final

_LOOK_S: Final = 0.002  # between the first two looks of a thread that waits


def as_it_was(name: str) -> Any:
    """Import one of Python's modules again: a copy in which nothing is replaced."""
    spec: Any = importlib.util.find_spec(name)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


#: Python's own ``sleep``: theirs switches to other greenlets, and makes a hub in each thread.
sleep: Final = as_it_was("time").sleep


def is_busy() -> bool:
    """Say whether threads here have to wait for a processor, or for the interpreter."""
    began = time.monotonic()
    for _ in range(3):  # beside threads that compute, for 5 ms each, one in 25 waits for less
        sleep(0.001)
    return time.monotonic() - began > 0.008  # 3.2 without


#: A lock and a re-entrant one for threads of the system, also beside greenlets: whoever waits for
#: one stops all greenlets of its thread. Not from ``threading``: eventlet replaces even its
#: existing locks.
_threads: Final = as_it_was("_thread")
Lock: Final = _threads.allocate_lock
RLock: Final = _threads.RLock


def is_green() -> bool:
    """Say whether threads are greenlets."""
    return not isinstance(_thread.start_new_thread, types.BuiltinFunctionType)


def own_thread() -> int:
    """Return the number of this thread; 0 in a greenlet that shares it with others."""
    greenlet = sys.modules.get("greenlet")
    is_own = greenlet is None or greenlet.getcurrent().parent is None
    return threading.get_ident() if is_own else 0


def start_thread(run: Callable[[], None], name: str) -> threading.Thread | None:
    """Start a daemon thread of the system, also if threads are greenlets: then it has no
    ``Thread``. Failure: raises ``RuntimeError`` if none can be started.
    """
    if is_green():
        _threads.start_new_thread(run, ())
        return None
    thread = threading.Thread(target=run, name=name, daemon=True)
    thread.start()
    return thread


def wait_until(is_so: Callable[[], object], until: float) -> bool | None:
    """Wait until *is_so* returns true, or until *until* (monotonic); return what it returned. Other
    greenlets go on. In their hub nothing may wait: there it returns None at once.
    """
    is_it: object = False
    look_s = _LOOK_S
    try:
        while not (is_it := is_so()) and (left_s := until - time.monotonic()) > 0:
            time.sleep(min(look_s, left_s))
            look_s *= 1.05  # so the end of a long wait is seen late by a twentieth of it
    except Exception:  # of gevent and eventlet
        return None
    return bool(is_it)


class OfThread(dict[int, Any]):
    """What each thread is doing, by ``threading.get_ident()``; a forked child knows only its
    thread.

    Not a ``threading.local``: all greenlets would share one that was made before
    threads were replaced.
    """

    def __init__(self) -> None:
        _of_threads.append(self)

    def put(self, thread: int, value: Any) -> None:
        """Let *value* be what *thread* is doing; None is nothing."""
        if value is None:
            self.pop(thread, None)
        else:
            self[thread] = value

    def mine(self) -> Any:
        """Return what this thread is doing; None is nothing."""
        return self.get(threading.get_ident())

    def doing(self, value: Any) -> "_Doing":
        """Return a ``with`` block in which this thread is doing *value*."""
        return _Doing(self, value)


class _Doing:
    __slots__ = ("_of", "_outer", "_thread", "_value")

    def __init__(self, of: OfThread, value: Any) -> None:
        self._of, self._value = of, value

    def __enter__(self) -> None:
        self._thread = threading.get_ident()
        self._outer = self._of.get(self._thread)
        self._of.put(self._thread, self._value)

    def __exit__(self, *_: object) -> None:
        self._of.put(self._thread, self._outer)


_of_threads: list[OfThread] = []


def _after_fork() -> None:
    me = threading.get_ident()
    for table in _of_threads:
        mine = table.get(me)
        table.clear()
        table.put(me, mine)


if hasattr(os, "register_at_fork"):  # pragma: no branch - Windows has no fork
    os.register_at_fork(after_in_child=_after_fork)
