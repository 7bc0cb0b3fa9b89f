"""The bound: what goes first, and what is said of it."""

import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

from otel_logging import _diagnostics
from otel_logging.spool import reading
from otel_logging.spool.destinations import DROPPED_BOUND
from otel_logging.spool.queue import Spool
from otel_logging.spool.recorder import PERIOD_S
from tests.spools import append, deliver, loaded, make, numbers, on_disk, together, waiting


def _deliver(spool: Spool, *spans: int, size: int = 0) -> None:
    """Of so different times that each has a file of its own."""
    for number in spans:
        deliver(spool, number, number * PERIOD_S, size=size)


def _age(base: Path, seconds: Callable[[int], float]) -> None:
    """Set how long ago each segment was written, by the number of its first span."""
    now = 1e9
    for path in reading.segments(base):
        written = now - seconds(numbers(loaded(path))[0])
        os.utime(path, (written, written))


def test_over_its_bound_sent_segments_go_first_then_the_oldest_waiting(
    base: Path, clock: SimpleNamespace
) -> None:
    """And of the undelivered ones it is said. What counts is what they take on disk."""
    clock.now = 1e9
    spool = make(base, bytes_bound=4 * 12_288 + 1)
    _deliver(spool, 7, 8, 9, size=10_000)
    for number in (1, 2, 3):
        append(spool, number, size=10_000)
        spool.seal()
    _age(base, lambda number: 100 - number)  # those delivered are the youngest
    spool.prune()
    assert on_disk(base) == [1, 2, 3, 9]
    assert _diagnostics.counts == {}
    for number in (4, 5):
        append(spool, number, size=10_000)
        spool.seal()
    append(spool, 6, size=10_000)
    _age(base, lambda number: 100 - number)
    spool.prune()
    assert on_disk(base) == [3, 4, 5, 6]
    assert _diagnostics.counts == {DROPPED_BOUND.format("spans"): 2}
    spool.close()


def test_segments_too_old_go(base: Path, clock: SimpleNamespace) -> None:
    """Sent or waiting; one that is appended to never."""
    clock.now = 1e9
    spool = make(base, hours=1)
    _deliver(spool, 1, 2)
    for number in (3, 4):
        append(spool, number)
        spool.seal()
    append(spool, 5)
    _age(base, lambda number: 3601 if number in (1, 3, 5) else 3599)
    spool.prune()
    assert on_disk(base) == [2, 4, 5]
    assert _diagnostics.counts == {DROPPED_BOUND.format("spans"): 1}
    spool.close()


def test_a_clock_that_is_set_makes_nothing_old(base: Path, clock: SimpleNamespace) -> None:
    """A device that has no clock of its own begins years ago, until it has a network."""
    clock.time = lambda: 1e9
    spool = make(base, hours=1)
    append(spool, 1)
    spool.seal()
    _age(base, lambda _: 60)
    for now in (2e9, 1e8):
        clock.time = lambda now=now: now
        spool.prune()
    assert on_disk(base) == [1]
    assert _diagnostics.counts == {}
    spool.close()


def test_neighbours_prune_no_more_than_one_alone(base: Path) -> None:
    """Four at the same time: what one removed, the others do not make up for."""
    spool = make(base)
    for number in range(200):
        append(spool, number, size=1000)
        spool.seal()
    size = reading.segments(base)[0].stat().st_blocks * 512
    script = """
import sys; from pathlib import Path; from tests.spools import *
from otel_logging import _diagnostics
from otel_logging.spool import destinations
spool = make(Path(sys.argv[1]), bytes_bound=int(sys.argv[2]))
print("ready", flush=True)
input()
spool.prune()
print(_diagnostics.counts[destinations.DROPPED_BOUND.format('spans')])
"""
    dropped = together(script, base, size * 100 + size // 2)
    assert sum(dropped) == 100
    assert len(waiting(spool)) == 100
    spool.close()
