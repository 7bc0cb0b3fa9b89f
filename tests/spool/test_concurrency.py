"""Threads, signal handlers and finalisers in the middle of an append: every frame once."""

import gc
import io
import os
import sys
import threading
from pathlib import Path

import pytest

from otel_logging import _diagnostics
from otel_logging.spool import open_file, queue
from otel_logging.spool.queue import Spool
from tests.spools import append, make, numbers, on_disk, run, waiting

posix = pytest.mark.skipif(not hasattr(os, "fork"), reason="POSIX")


def test_everything_can_be_called_from_inside_an_append(
    spool: Spool, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As from a signal handler; here from the stderr that an append's trouble is said on."""

    class Reentrant(io.StringIO):
        def write(self, text: str) -> int:
            sys.stderr = self.__class__.__base__()
            append(spool, 2)
            spool.seal()
            spool.close()
            return super().write(text)

    append(spool, 0, scope=b"other")
    kept = base.rename(base.with_name("kept"))
    base.touch()
    monkeypatch.setattr(sys, "stderr", Reentrant())
    append(spool, 1)
    monkeypatch.undo()
    base.unlink()
    kept.rename(base)
    spool.close()
    assert on_disk(base) == [0, 1]
    assert _diagnostics.counts["spans lost at exit: they waited in memory alone"] == 1


@posix
def test_signal_handlers_append_in_the_middle_of_an_append(base: Path) -> None:
    """Every frame once, those of the handler and those it interrupts."""
    printed = run(
        """
import signal, sys; from pathlib import Path; from tests.spools import *
base = Path(sys.argv[1])
spool = make(base)
fired = appended = 0
def handler(*_):
    global fired
    fired += 1
    append(spool, 1_000_000 + fired, size=20_000)
    if fired % 10 == 0:
        spool.seal()
signal.signal(signal.SIGALRM, handler)
signal.setitimer(signal.ITIMER_REAL, 5e-4, 5e-4)
while fired < 1000:
    appended += 1
    append(spool, appended, size=5_000, scope=b"%d" % (appended % 3))
    if appended % 50 == 0:
        spool.seal()
signal.setitimer(signal.ITIMER_REAL, 0)
spool.close()
print(appended, fired)
""",
        base,
    )
    appended, fired = map(int, printed.split())
    expected = [*range(1, appended + 1), *range(1_000_001, 1_000_001 + fired)]
    assert on_disk(base) == expected


def test_a_finaliser_appends_in_the_middle_of_an_append(spool: Spool, base: Path) -> None:
    """The collector of garbage runs anywhere, and what it finds may end a span."""
    appended: list[int] = []

    class Ending:
        def __init__(self) -> None:
            self.cycle = self

        def __del__(self) -> None:
            appended.append(1_000_000 + len(appended))
            append(spool, appended[-1], size=3000)

    threshold = gc.get_threshold()
    gc.set_threshold(7)
    try:
        for number in range(1000):
            Ending()
            append(spool, number, size=5000)
    finally:
        gc.set_threshold(*threshold)
    gc.collect()
    assert len(appended) == 1000
    spool.seal()
    assert on_disk(base) == [*range(1000), *appended]


def test_threads_append_while_segments_are_sealed_and_delivered(spool: Spool, base: Path) -> None:
    """Eight of them, a worker beside: every frame once on disk, and there at every look, where one
    that is delivered meanwhile may be seen twice.
    """
    done = threading.Event()
    appended: list[int] = []
    delivered: list[int] = []

    def work() -> None:
        while not done.is_set():
            spool.seal(older_than_s=0.001)
            for segment in spool.waiting():
                delivered.extend(numbers([segment]))
                spool.delivered(segment)
            spool.adopt()
            spool.prune()

    def appending(first: int) -> None:
        for number in range(first, first + 2000):
            append(spool, number, size=200, scope=b"%d" % (first % 3))
            appended.append(number)

    worker = threading.Thread(target=work)
    threads = [threading.Thread(target=appending, args=(n * 2000,)) for n in range(8)]
    for thread in (worker, *threads):
        thread.start()
    while any(thread.is_alive() for thread in threads):
        before = set(appended)
        assert before <= set(on_disk(base))
    for thread in threads:
        thread.join()
    done.set()
    worker.join()
    assert sorted(delivered + waiting(spool)) == list(range(16_000))
    assert on_disk(base) == list(range(16_000))
    assert _diagnostics.counts == {}


def test_threads_append_to_memory_while_segments_are_made_of_it() -> None:
    """Without a disk: every frame once, and what was taken out does not count any more."""
    spool = make(None)
    found: list[int] = []
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        threads = [
            threading.Thread(target=append, args=(spool, *range(first, first + 1000)))
            for first in range(0, 8000, 1000)
        ]
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            found += _deliver(spool)
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert sorted(found + _deliver(spool)) == list(range(8000))
    append(spool, *range(7), size=1 << 20)  # fits, if nothing else is counted
    assert waiting(spool) == list(range(7))
    assert _diagnostics.counts == {}


def _deliver(spool: Spool) -> list[int]:
    spool.seal()
    segments = spool.waiting()
    for segment in segments:
        spool.delivered(segment)
    return numbers(segments)


def test_a_signal_handler_closes_in_the_middle_of_an_append(base: Path) -> None:
    """As a handler of SIGTERM does: the descriptor is not taken from under the write."""
    printed = run(
        """
import sys; from pathlib import Path; from tests.spools import *
from otel_logging import _diagnostics
spool = make(Path(sys.argv[1]))
append(spool, 1)
at_call("write", spool.close)
append(spool, 2)
append(spool, 3)
print(_diagnostics.counts)
""",
        base,
        traced=False,
    )
    assert printed == "Counter()\n"
    assert on_disk(base) == [1, 2, 3]


def test_after_close_an_append_that_never_ends_holds_up_no_other(base: Path) -> None:
    """The interpreter's exit stops daemon threads wherever they are, within a write as well."""
    printed = run(
        """
import os, sys, threading; from pathlib import Path; from tests.spools import *
from otel_logging import _diagnostics
from otel_logging.spool import queue
queue.SLOW_S = 0.02
spool = make(Path(sys.argv[1]))
spool.close()
append(spool, 1)
inside = threading.Event()
def never_ends():
    at_call("write", lambda: (inside.set(), threading.Event().wait()))
    append(spool, 4)
threading.Thread(target=never_ends, daemon=True).start()
inside.wait()
append(spool, 2, 3)
print(_diagnostics.counts, flush=True)
os._exit(0)
""",
        base,
        traced=False,
    )
    assert printed == "Counter()\n"
    assert on_disk(base) == [1, 2, 3]
    neighbour = make(base)
    neighbour.adopt()
    assert waiting(neighbour) == [1, 2, 3]
    neighbour.close()


def test_an_append_in_the_middle_of_close_is_kept(base: Path) -> None:
    """Sealed with the rest: a neighbour may take the place over from then on."""
    run(
        """
import sys; from pathlib import Path; from tests.spools import *
spool = make(Path(sys.argv[1]))
at_call("count", lambda: append(spool, 1))
spool.close()
append(spool, 2)
""",
        base,
        traced=False,
    )
    assert on_disk(base) == [1, 2]
    assert len(list(base.glob("*/*/*.segment"))) == 1


def test_after_close_an_append_inside_another_is_kept(
    base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As from a signal handler: it waits in a segment of its own."""
    spool = make(base)
    spool.close()
    write = open_file.pwrite

    def interrupted(fd: int, data: bytes, position: int) -> int:
        monkeypatch.setattr(open_file, "pwrite", write)
        append(spool, 2)
        return write(fd, data, position)

    monkeypatch.setattr(open_file, "pwrite", interrupted)
    append(spool, 1)
    assert on_disk(base) == [1, 2]
    assert _diagnostics.counts == {}


def test_after_close_an_append_does_not_wait_for_another(
    base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thread that the interpreter's exit has stopped may never return from its own."""
    spool = make(base)
    spool.close()
    entered, go_on = threading.Event(), threading.Event()
    write = open_file.pwrite

    def hang(fd: int, data: bytes, position: int) -> int:
        entered.set()
        assert go_on.wait(10)
        return write(fd, data, position)

    monkeypatch.setattr(queue, "SLOW_S", 0.02)
    monkeypatch.setattr(open_file, "pwrite", hang)
    hung = threading.Thread(target=append, args=(spool, 1))
    hung.start()
    assert entered.wait(10)
    append(spool, 2)
    assert on_disk(base) == [2]
    go_on.set()
    hung.join(10)
    assert on_disk(base) == [1, 2]
