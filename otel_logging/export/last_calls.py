"""Calls that may never return: foreign span processors are shown the rest, and told of the end.

In: what to call. Out: whether it has returned in time. Invariant: the exit waits no longer than it
said. Deliberately absent: what is called (``pipeline``).
"""

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from queue import SimpleQueue
from typing import Any, Final

from otel_logging import _forks
from otel_logging._green import is_green

_LOOK_S: Final = 0.005


class LastCalls:
    """Makes each call in a thread of its own.

    Python 3.12 starts none while the interpreter exits, so they wait for that from the beginning.
    A forked child does not have them: there, and in the process that uWSGI forks, that Python
    makes the call in the thread that waits.
    """

    def __init__(self) -> None:
        self._threads: list[SimpleQueue[Callable[[], None]]] = []
        self._open: list[Callable[[], None]] = []

    def prepare(self) -> None:
        """Have a thread for one more call. Failure: RuntimeError, where there are too many."""
        if not (is_green() or _forks.is_before_fork()):
            calls: SimpleQueue[Callable[[], None]] = SimpleQueue()
            self._start(lambda: self._make(calls.get()))
            self._threads.append(calls)

    def make(self, call: Callable[[], None]) -> None:
        """Make *call*, which must not raise, and do not wait for it if that can be helped."""
        self._open.append(call)
        if self._threads:
            self._threads.pop().put(call)
            return
        try:
            self._start(lambda: self._make(call))
        except RuntimeError:
            self._make(call)

    def wait(self, until: float) -> bool:
        """Wait for all calls, and until then at most; return whether they have returned."""
        with suppress(Exception):  # gevent and eventlet raise for a wait in their hub
            while self._open and time.monotonic() < until:
                time.sleep(_LOOK_S)
        return not self._open

    def _start(self, run: Callable[[], Any]) -> None:
        threading.Thread(target=run, name="otel_logging processors", daemon=True).start()

    def _make(self, call: Callable[[], None]) -> None:
        try:
            call()
        finally:
            self._open.remove(call)
