"""One queue that carries: the task that takes an item works on behalf of the task that put it in.

No other queue is changed: a library's pool, or a queue of replies, hands nothing over.
"""

import asyncio
import threading
from collections.abc import Callable
from contextlib import ExitStack
from contextvars import ContextVar
from functools import partial
from queue import Queue
from typing import Any, Final

from opentelemetry.trace import INVALID_SPAN

from otel_logging import _diagnostics, _runtime
from otel_logging._errors import ConfigurationError
from otel_logging.background_tasks import is_in
from otel_logging.binding import worker
from otel_logging.context import SPAN, Here, entry_of, get_current
from otel_logging.handover import Handoff, handoff, taking
from otel_logging.tracing import stage_of

_APART: Final = "it is received in a task of its own, as asyncio.wait_for does before Python 3.12"


def _runner() -> object:
    """Return the task, or the thread as an object: a number is given again once its thread has
    ended.
    """
    return threading.current_thread() if type(by := worker()) is int else by


class _Turn:
    """The item that a worker has taken last: its stage is open until the next item is asked for."""

    is_asked = True
    span: Any = INVALID_SPAN
    #: The worker's own entry stage, which it has begun with the item before.
    batch: Any = None

    def __init__(self) -> None:
        self.worker, self.stage = _runner(), ExitStack()

    def __del__(self) -> None:
        here = Here.now()
        self.stage.close()
        if self.worker is not _runner():  # the garbage collector may run in anybody's context
            here.put_back()


class _Later(partial[Any]):
    """The ``get`` of an ``asyncio.Queue``: a coroutine function that *asks* when called."""

    asks: Callable[[], object]

    def __call__(self) -> Any:
        self.asks()
        return super().__call__()


class _Carrying:
    """The methods that replace a queue's own."""

    def __init__(self, queue: Any, name: str, budget: float | None) -> None:
        self._name, self._budget = name, budget
        self._turn: ContextVar[_Turn | None] = ContextVar(f"otel_logging.{name}", default=None)
        # documented to be overridden: what inserts an item, once there is room
        self._put = queue._put  # noqa: SLF001
        self._get, self._get_nowait = queue.get, queue.get_nowait
        self._task_done = queue.task_done
        vars(queue).update(_put=self.put, task_done=self.task_done)
        if isinstance(queue, asyncio.Queue):
            later = _Later(queue.get)
            later.asks = self._ask
            vars(queue).update(get=later, get_nowait=self.get_nowait)
        else:
            queue.get = self.get

    def put(self, item: Any) -> None:
        """Insert *item*: from here on it waits."""
        self._put(handoff(item))

    def get(self, *args: Any, **options: Any) -> Any:
        """Return the next item, in a thread."""
        self._ask()
        return self._taken(self._get(*args, **options))

    def get_nowait(self) -> Any:
        """Return the next item of an ``asyncio.Queue``, which its ``get`` calls as well."""
        return self._taken(self._get_nowait())

    def task_done(self) -> None:
        """End the stage of the item."""
        self._end()
        self._task_done()

    def _end(self) -> _Turn | None:
        """End what this worker has taken last, and return it."""
        turn = self._turn.get()
        if turn is None or turn.worker is not _runner():  # that of the task which started this one
            return None
        turn.stage.close()
        return turn

    def _ask(self) -> _Turn:
        last, turn = self._end(), _Turn()
        if last is not None:
            entry: Any = entry_of(get_current().get(SPAN, INVALID_SPAN))
            is_own = entry is not entry_of(last.span) and is_in(last.span)
            turn.batch = entry if is_own or entry is last.batch else None
        self._turn.set(turn)
        return turn

    def _taken(self, item: Any) -> Any:
        if not isinstance(item, Handoff):  # put before the queue was instrumented
            return item
        turn = self._turn.get()
        if turn is None or not turn.is_asked:
            turn = self._ask()
        turn.is_asked = False
        if turn.worker is _runner():
            here = Here.now()
            taken = taking(item, name=self._name, budget=self._budget)
            turn.span = turn.stage.enter_context(taken)
            if turn.batch is not None:
                users = map(here.bound.fields.get, _runtime.current.who)
                if any(user and user.owner is turn.batch for user in users):
                    here.put_back()  # a batch of a user's own
        else:  # before Python 3.12: a task does not see a context that another has changed
            _diagnostics.remark(f"the stage {self._name} is not opened: {_APART}")
        return item.item


def instrument(
    queue: "asyncio.Queue[Any] | Queue[Any]",
    *,
    name: str = "queue item",
    budget: float | None = None,
) -> None:
    """Make *queue* carry: an ``asyncio.Queue`` or a ``queue.Queue``, or a class made from them.

    The worker that gets an item has a stage *name* in the trace of the task that put it there, with
    what was bound there, until it asks for the next item or calls ``task_done``. ``queue.wait_s``
    counts from the insertion, not from waiting for room. Failure: raises ``ConfigurationError`` for
    another kind of queue, or a budget as ``traced`` refuses it.
    """
    if not isinstance(queue, (asyncio.Queue, Queue)):
        raise ConfigurationError("queues.instrument", queue, "an asyncio.Queue or a queue.Queue")
    stage_of(name, "queues.instrument", budget=budget)
    if "_put" not in vars(queue):
        _Carrying(queue, name, budget)
