"""A wait that the application names: for a lock, a pool, a turn.

In: a ``with`` block around the wait. Out: an interval on the stage that waits, with who had what
it waited for. Deliberately absent: touching a lock or a pool.
"""

import time
from asyncio import _get_running_loop
from collections import deque
from collections.abc import Callable
from functools import lru_cache
from itertools import pairwise
from types import SimpleNamespace
from typing import Any, Final, TypeVar
from weakref import ref

from otel_logging import _wrap
from otel_logging._errors import ConfigurationError
from otel_logging._values import field
from otel_logging.binding import task_in
from otel_logging.context import CURRENT, SPAN
from otel_logging.lateness.stage import Holder, watched_of
from otel_logging.lateness.verdict import LOCK, MEASURED, Interval, Why, most

_F = TypeVar("_F", bound=Callable[..., Any])

_KEPT: Final = 64  # the last ones who got one thing
_KEYS: Final = 1024
_MOMENT_NS: Final = 100_000  # what a free lock takes, even on a busy machine: not a wait


#: Who got what, last.
_holders: Final = lru_cache(_KEYS)(lambda _: deque[Holder](maxlen=_KEPT))


class waiting:  # noqa: N801 - reads as a participle, like structlog's
    """Mark a ``with`` block, or a function, as a wait: a stage that is late because of it names
    *cause*.

    *cause*: "lock", "pool", "queue", "downstream", or a name of your own. *fields* tell which one
    (``name="inventory"``): with them, the stage that had it meanwhile is named as the culprit. The
    block is the wait alone, not the work after it. Scope: the current stage, where it or one around
    it has a budget. Failure: raises ``ConfigurationError`` for an empty cause, or one that the
    package measures itself, when it is made. Cost: a microsecond. Concurrency: an object is entered
    by one task at a time; one that decorates serves any number.
    """

    def __init__(self, cause: str, /, **fields: Any) -> None:
        if not isinstance(cause, str) or cause.strip().lower() in ("", *MEASURED):
            allowed = "lock, pool, queue, downstream, or a name of your own"
            raise ConfigurationError("waiting: cause", cause, allowed)
        name = " ".join([str(field(key, value)) for key, value in fields.items()])
        self._key = cause, name
        self._began: list[tuple[int, Holder | None, Any]] = []

    def __call__(self, function: _F) -> _F:
        """Decorate *function*: each call is a wait."""
        return _wrap.wrap(function, self._again, waiting.__exit__, None)

    def _again(self, _: object) -> "waiting":
        again = object.__new__(waiting)
        again._key, again._began = self._key, []
        again.__enter__()
        return again

    def __enter__(self) -> None:
        holders, last, future = _holders(self._key), None, None
        if self._key[0] == LOCK and holders and not holders[-1].stage.end:  # or it waits no more
            future = _waits_for(last := holders[-1])
        self._began.append((time.perf_counter_ns(), last, future))

    def __exit__(self, error: object, *_: object) -> None:
        (began, last, future), now = self._began.pop(), time.perf_counter_ns()
        key, has_it = self._key, error is None
        watched = watched_of(CURRENT.get().get(SPAN))
        if watched is None:
            if has_it and (holders := _holders(key)):
                holders.append(Holder(_SOMEBODY, now))
            return
        is_wait, ask = now - began > _MOMENT_NS, None
        loop = _get_running_loop() if is_wait or key[1] else None
        task = loop and task_in(loop)
        if key[1]:
            watched.is_known = True
            # in a third of the time that the class takes
            holder = tuple.__new__(Holder, (watched, now, task and ref(task)))
            if is_wait:
                is_standing = has_it and future is not None and _waits_for(last) is future
                innocent = last if is_standing else None
                ask = blame(key, Why(key[1]), holder, began, has_it=has_it, innocent=innocent)
            elif has_it:
                _holders(key).append(holder)
        if is_wait:
            watched.add_wait(Interval(key[0], began, now, Why(key[1]), ask), task)


#: Stands for whoever is in no measured stage: unknown, and never named.
_SOMEBODY: Final = SimpleNamespace(name="", end=0, who=lambda _: ())


def _waits_for(holder: Holder | None) -> Any:
    task = None if holder is None or holder.task is None else holder.task()
    return getattr(task, "_fut_waiter", None)


def blame(
    key: tuple[Any, ...],
    unknown: Why,
    holder: Holder,
    began: int,
    *,
    has_it: bool = True,
    innocent: Holder | None = None,
) -> Callable[[], Why] | None:
    """Note that *holder* has what *key* names now, if it *has_it*. Return a function that returns
    who had it for most of the time since *began*, otherwise *unknown*; None if that was no time.

    A lock's holder has it until another gets it. *innocent*: a holder whose task has not moved
    since the wait began, so that it cannot have given the lock back.
    """
    holders, now = _holders(key), holder.since
    others = [*holders] if now - began > _MOMENT_NS else []  # most have it at once
    if has_it:
        holders.append(holder)

    def had_it() -> Why:
        held: dict[Any, tuple[int, int, Why]] = {}
        is_pool = key[0] != LOCK
        for other, after in pairwise([*others, holder]):
            until = min(other.stage.end or now, now if is_pool else after.since)
            if until > began and other.stage is not holder.stage and other is not innocent:
                why = Why(unknown.detail, other.stage.name, other.stage.who(other.since))
                # of a pool, a task has one at a time, as far as one knows
                one = (id(other.stage), id(other.task)) if is_pool else other.since
                held.setdefault(one, (other.since, until, why))
        return most(held.values(), began, now, is_shared=is_pool) or unknown

    return had_it if others else None
