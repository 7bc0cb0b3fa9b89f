"""One queue that carries: who takes an item out of it runs on behalf of who put it in.

Of no other queue is anything changed: a library's pool or a queue of replies hands nothing over.
"""

import asyncio
from queue import Queue
from typing import Any

from otel_logging._errors import ConfigurationError
from otel_logging.handover import Handoff, Turns, handoff, taking
from otel_logging.tracing import stage_of


class _Carrying:
    """What takes the place of a queue's own methods."""

    def __init__(self, queue: Any, name: str, budget: float | None) -> None:
        self._name, self._budget = name, budget
        self._turns = Turns(name)
        # documented to be overridden: what inserts an item, once there is room
        self._put = queue._put  # noqa: SLF001
        self._get, self._get_nowait = queue.get, queue.get_nowait
        self._task_done = queue.task_done
        ours = {"_put": self.put, "task_done": self.task_done}
        if isinstance(queue, asyncio.Queue):
            ours |= {"get": self.get_later, "get_nowait": self.get_nowait}
        else:
            ours["get"] = self.get
        vars(queue).update(ours)

    def put(self, item: Any) -> None:
        """Insert *item*: from here on it waits."""
        self._put(handoff(item))

    def get(self, *args: Any, **options: Any) -> Any:
        """Return the next item, in a thread."""
        self._turns.ask()
        return self._taken(self._get(*args, **options))

    def get_later(self) -> Any:
        """Return a coroutine that returns the next item."""
        self._turns.ask()
        return self._get()

    def get_nowait(self) -> Any:
        """Return the next item of an ``asyncio.Queue``, which its ``get`` calls as well."""
        return self._taken(self._get_nowait())

    def task_done(self) -> None:
        """End the stage of the item."""
        self._turns.end()
        self._task_done()

    def _taken(self, item: Any) -> Any:
        if not isinstance(item, Handoff):  # put before the queue was instrumented
            return item
        self._turns.begin(taking(item, name=self._name, budget=self._budget))
        return item.item


def instrument(
    queue: "asyncio.Queue[Any] | Queue[Any]",
    *,
    name: str = "queue item",
    budget: float | None = None,
) -> None:
    """Make *queue* carry: an ``asyncio.Queue`` or a ``queue.Queue``, or a class made from them.

    Who gets an item has a stage *name* in the trace of who put it, with what was bound there, until
    the same worker asks for the next one or calls ``task_done``. ``queue.wait_s`` counts from
    the insertion, not from waiting for room. Failure: raises ``ConfigurationError`` for another
    kind of queue, or a budget as ``traced`` refuses it.
    """
    if not isinstance(queue, (asyncio.Queue, Queue)):
        raise ConfigurationError("queues.instrument", queue, "an asyncio.Queue or a queue.Queue")
    stage_of(name, "queues.instrument", budget=budget)
    if "_put" not in vars(queue):
        _Carrying(queue, name, budget)


def uninstrument(queue: "asyncio.Queue[Any] | Queue[Any]") -> None:
    """Hand nothing over with later items; those that are in *queue* keep what they have."""
    vars(queue).pop("_put", None)
