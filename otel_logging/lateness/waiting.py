"""A wait that the application names: for a lock, a pool, a turn.

In: a ``with`` block around the wait. Out: an interval on the stage that waits, with who had what
it waited for. Deliberately absent: touching a lock or a pool.
"""

import time
from collections import deque
from collections.abc import Callable
from typing import Any, Final, TypeVar

from otel_logging import _wrap
from otel_logging._errors import ConfigurationError
from otel_logging.context import CURRENT, SPAN
from otel_logging.lateness.stage import Holder, watched_of
from otel_logging.lateness.verdict import LOCK, MEASURED, Interval, Why

_F = TypeVar("_F", bound=Callable[..., Any])

_KEPT: Final = 64  # who got one thing last
_KEYS: Final = 1024
_MOMENT_NS: Final = 100_000  # what a free lock takes, on a busy machine too

#: Who got what, last.
_holders: Final[dict[tuple[Any, ...], deque[Holder]]] = {}


class waiting:  # noqa: N801 - reads as a participle, like structlog's
    """Say that a ``with`` block, or a function, waits for something: the stage that is late by it
    names *cause*.

    *cause*: "lock", "pool", "queue", "downstream", or a name of your own. *fields* tell which one
    (``name="inventory"``): with them, the stage that had it meanwhile is named as the culprit. The
    block is the wait alone, not the work after it. Scope: the current stage, where it or one around
    it has a budget. Failure: raises ``ConfigurationError`` for an empty cause, or one that the
    package measures itself, when it is made. Cost: a microsecond. Concurrency: an object is entered
    by one task at a time; one that decorates serves any number.
    """

    def __init__(self, cause: str, /, **fields: Any) -> None:
        if not isinstance(cause, str) or cause.strip().lower() in ("", *MEASURED):
            raise ConfigurationError(
                "waiting: cause", cause, "lock, pool, queue, downstream, or a name of your own"
            )
        self._cause = cause
        self._detail = " ".join([str(value) for value in fields.values()])
        self._key = (cause, *[f"{key}={value}" for key, value in sorted(fields.items())])
        self._began: list[int] = []

    def __call__(self, function: _F) -> _F:
        """Decorate *function*: each call is a wait."""
        return _wrap.wrap_in(function, self._again)

    def _again(self) -> "waiting":
        again = object.__new__(waiting)
        again._cause, again._detail, again._key = self._cause, self._detail, self._key
        again._began = []
        return again

    def __enter__(self) -> None:
        self._began.append(time.perf_counter_ns())

    def __exit__(self, *error: object) -> None:
        began, now = self._began.pop(), time.perf_counter_ns()
        watched = watched_of(CURRENT.get().get(SPAN))
        if watched is None:
            return
        why = Why(self._detail)
        if len(self._key) > 1:
            why = blame(self._key, self._detail, Holder(watched, now), began)
        watched.add_wait(Interval(self._cause, began, now, why))


def blame(key: tuple[str, ...], detail: str, holder: Holder, began: int) -> Why:
    """Return who had longest what *key* names since *began*; note that *holder* has it now."""
    holders = _holders.get(key)
    if holders is None:
        holders = _holders.setdefault(key, deque(maxlen=_KEPT))
        if len(_holders) > _KEYS:  # pragma: no cover - a bound
            _holders.pop(next(iter(_holders)))
    worst, longest = None, 0
    until = holder.since
    # nobody has held it up for a moment, and most have it at once
    for other in reversed(list(holders)) if holder.since - began > _MOMENT_NS else ():
        ended = min(other.stage.end or holder.since, until)
        held = ended - max(other.since, began)
        if held > longest and other.stage is not holder.stage:
            worst, longest = other, held
        if key[0] == LOCK:  # one has it at a time
            until = other.since
    holders.append(holder)
    return Why(detail) if worst is None else Why(detail, worst.stage.name, worst.stage.who())
