"""Log calls inside log calls: how deep a thread is in them, and an end to it.

In: each log call that runs code of the application's. Out: ``RecursionError`` for one too many.
Invariant: after the outermost one nothing is left. Deliberately absent: what is lost by that.
"""

from typing import Final

from otel_logging._green import OfThread

#: A signal handler or ``__del__`` may log inside a log call; a value whose ``__repr__`` logs
#: itself must not do so for ever.
DEEPEST: Final = 8
#: Several values may do so: of the log calls deeper than the second inside one, that many are made.
MOST_INSIDE: Final = 100


#: How deep: the log calls that a thread is in; and how many deep ones there were in the outermost.
depths, _inside = OfThread(), OfThread()


def check(thread: int, depth: int) -> None:
    """Raise ``RecursionError`` where log calls inside log calls are too deep, or too many."""
    count = _inside.get(thread, 0) + (depth > 1)
    if depth >= DEEPEST or count > MOST_INSIDE:
        raise RecursionError("a value, a handler or an output logs while it is logged")
    _inside[thread] = count


def leave(thread: int, depth: int) -> None:
    """Let *thread* be in *depth* log calls again."""
    if depth:
        depths[thread] = depth
    else:
        depths.pop(thread, None)
        _inside.pop(thread, None)
