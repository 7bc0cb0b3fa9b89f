"""Which task takes what another task brings: the one that waits for it.

In: a task that receives, and what it has received. Out: that task's end, seen before the task that
waits for it goes on. Invariant: nothing that an application sees of its tasks is changed.
Deliberately absent: what is brought (``connection``).
"""

import asyncio
import gc
from collections.abc import Callable
from typing import Any, Final, NamedTuple

from otel_logging.lateness.where import context_of

_HOPS: Final = 4  # a task, ``shield``, ``wait_for`` and the future of a group


def waiter_of(future: Any, likely: Any = None, hops: int = _HOPS) -> tuple[Any, Any] | None:
    """Return the task that stands still until *future* is done, and where it stands.

    By ``await``, ``wait``, ``wait_for``, ``gather``, ``shield``, or at the end of a task group.
    Only *likely* is found where it is to go on already, as when its time is up.
    """
    for callback, _ in getattr(future, "_callbacks", None) or ():
        owner = getattr(callback, "__self__", None)
        if isinstance(owner, asyncio.Task) and getattr(owner, "_fut_waiter", None) is future:
            return owner, future
        cells = getattr(callback, "__closure__", None) or ()
        for each in (owner, *getattr(callback, "args", ()), *gc.get_referents(*cells)):
            # of asyncio's and of anyio's
            is_group = type(each).__name__ == "TaskGroup"
            behind = getattr(each, "_on_completed_fut", None) if is_group else each
            if hops and isinstance(behind, asyncio.Future) and behind is not future:
                if behind.done() and getattr(likely, "_fut_waiter", None) is behind:
                    return likely, behind
                found = waiter_of(behind, likely, hops - 1)
                if found is not None:
                    return found
    return None


class Item(NamedTuple):
    """What one task has brought: the task that has *asked*, and the one that waits, and where."""

    held: Any
    asked: Any
    waits: tuple[Any, Any] | None
    #: Whether it was there for whoever started the task, and for nobody else.
    is_for_starter: bool

    def waiter(self) -> Any:
        """Return the task that waited when it came, and does so still."""
        task, future = self.waits or (None, None)
        return task if getattr(task, "_fut_waiter", None) is future else None


def first_at_end(task: Any, then: Callable[[Any], None]) -> None:
    """Call *then* at the end of *task*, before anybody else, in its context."""
    others = list(task._callbacks or ())  # noqa: SLF001 - asyncio has no other way
    for callback, _ in others:
        task.remove_done_callback(callback)
    task.add_done_callback(then, context=context_of(task))
    for callback, context in others:
        task.add_done_callback(callback, context=context)
