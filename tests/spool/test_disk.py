"""A disk that takes nothing, or takes it slowly: memory, and back."""

import os
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest

from otel_logging.spool import open_file, queue
from otel_logging.spool.queue import Spool
from tests.spools import PATIENT_S, append, encoded, make, on_disk, places, run, waiting

posix = pytest.mark.skipif(not hasattr(os, "fork"), reason="POSIX")


@posix
def test_a_short_write_is_taken_back() -> None:
    """The file ends with a whole frame, the frame is in memory, and later all are on disk."""
    printed = run("""
import resource, sys, tempfile; from pathlib import Path; from tests.spools import *
from otel_logging.spool import directories, reading, segment
from otel_logging.spool.segment import frame, header
base = Path(tempfile.mkdtemp())
spool = make(base)
append(spool, 1)
unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, unlimited[1]))
append(spool, 2, 3, size=600)        # the second does not fit whole
append(spool, 4)                     # memory, though it would fit: order
(contents,), (path,) = reading.read(base), reading.segments(base)
parts = [header(RESOURCE, SCOPE), *(frame(*span) for span in contents.spans)]
print(numbers([contents]), path.stat().st_size - sum(map(len, parts)))
resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)
print(waiting(spool), sum(segment.path is None for segment in spool.waiting()))
append(spool, 5)
print(on_disk(base))
spool.remove()
""")
    assert printed.splitlines() == ["[1, 2] 0", "[1, 2, 3, 4] 0", "[1, 2, 3, 4, 5]"]


@posix
def test_a_full_disk_loses_what_comes_after_close(base: Path) -> None:
    """It is counted, and nothing of it is left behind."""
    printed = run(
        """
import os, resource, sys; from pathlib import Path; from tests.spools import *
from otel_logging import _diagnostics
spool = make(Path(sys.argv[1]))
spool.close()
unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (10, unlimited[1]))
append(spool, 1, 2)
resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)
append(spool, 3)
spool.close()
print(dict(_diagnostics.counts))
""",
        base,
    )
    assert printed == "{'spans lost: they ended at exit, and no disk takes them': 2}\n"
    assert on_disk(base) == [3]
    assert len(places(base)) == 1


@posix
@pytest.mark.parametrize("limit", [0, 10])
def test_a_full_disk_is_gone_around_in_memory(limit: int) -> None:
    """Not even a header fits: spans are delivered from memory, and later the disk is back."""
    printed = run(
        """
import os, resource, sys, tempfile; from pathlib import Path; from tests.spools import *
from otel_logging.spool import directories, segment
base = Path(tempfile.mkdtemp())
spool = make(base)
unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]), unlimited[1]))
open_files = len(os.listdir("/proc/self/fd"))
append(spool, 1, 2)
print(waiting(spool), sum(segment.path is None for segment in spool.waiting()))
append(spool, 3)
print(waiting(spool), [path.name for path in base.rglob("0*")])
for segment in spool.waiting():
    spool.delivered(segment)
append(spool, 4)
print(waiting(spool), len(os.listdir("/proc/self/fd")) - open_files)
resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)
append(spool, 5)
spool.seal()
append(spool, 6)
print(on_disk(base))
spool.close()
print(on_disk(base))
spool.remove()
""",
        limit,
    )
    assert printed.splitlines() == [
        "[1, 2] 1",
        "[1, 2, 3] []",
        "[4] 0",
        "[5, 6]",
        "[4, 5, 6]",  # close() tried again what was in memory
    ]


def test_a_stalled_disk_is_gone_around_until_it_is_quick_again(
    spool: Spool, base: Path, clock: SimpleNamespace
) -> None:
    """An append over 500 ms sends the next into memory; the worker finds the disk quick."""
    clock.ticks = [0, 2 * PATIENT_S]
    append(spool, 1)
    append(spool, 2)
    assert on_disk(base) == [1]
    clock.ticks = [0, 0, 2 * PATIENT_S]  # still slow
    assert waiting(spool) == [1, 2]
    append(spool, 3)
    assert on_disk(base) == [1, 2]
    assert waiting(spool) == [1, 2, 3]
    append(spool, 4)
    assert on_disk(base) == [1, 2, 3, 4]


def test_a_busy_machine_is_no_stalled_disk(
    base: Path, clock: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thread that has to wait in its append is slow as well: only many in a row are a stall,
    since a kill takes what is in memory.
    """
    monkeypatch.setattr(queue, "SLOW_S", 0.02)
    monkeypatch.setattr(queue, "is_busy", lambda: False)  # of this machine, which may be
    spool = make(base)
    append(spool, 1)  # the first opens the segment
    for number, took in enumerate((0.2, 0.2, 0, 0.2, 0.2, 0, 0.2, 0.2, 0.2), 2):
        assert not spool.is_stalled
        clock.ticks = [0, took]
        append(spool, number)
    assert on_disk(base) == list(range(1, 11))
    append(spool, 11)
    assert on_disk(base) == list(range(1, 11))
    assert waiting(spool) == list(range(1, 12))


@contextmanager
def computing() -> Iterator[None]:
    """Have threads that keep the interpreter to themselves, as long as they may."""
    is_over = threading.Event()

    def compute() -> None:
        while not is_over.is_set():
            sum(range(10_000))

    threads = [threading.Thread(target=compute) for _ in range(2)]
    for each in threads:
        each.start()
    yield
    is_over.set()
    for each in threads:
        each.join(10)


@pytest.mark.parametrize(("took", "stalls"), [(0.6, False), (2.1, True)])
def test_threads_that_compute_are_no_stalled_disk(
    base: Path, clock: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, took: float, stalls: bool
) -> None:
    """Each append waits for the interpreter then, but never for as long as a disk that hangs."""
    monkeypatch.setattr(queue, "SLOW_S", 0.02)
    spool = make(base)
    append(spool, 1)
    with computing():
        clock.ticks = [0, took]
        append(spool, 2)
    assert spool.is_stalled is stalls


def test_nor_is_an_append_that_waits_for_them(
    spool: Spool, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another thread waits for it: what both have is on disk when they return."""
    monkeypatch.setattr(queue, "STALL_S", 0.05)
    write, is_inside = open_file.pwrite, threading.Event()

    def late(fd: int, data: bytes, position: int) -> int:
        is_inside.set()
        time.sleep(0.3)
        return write(fd, data, position)

    append(spool, 1)
    monkeypatch.setattr(open_file, "pwrite", late)
    with computing():
        other = threading.Thread(target=append, args=(spool, 2))
        other.start()
        assert is_inside.wait(10)
        append(spool, 3)
        assert on_disk(base) == [1, 2, 3]
        assert not spool.is_stalled
    other.join(10)


def test_a_thread_waits_for_an_append_that_is_slow_once(
    spool: Spool, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it has is on disk when its own append returns, though another holds the lock."""
    entered, write = threading.Event(), open_file.pwrite

    def slow(fd: int, data: bytes, position: int) -> int:
        if encoded(1) in data:
            entered.set()
            time.sleep(0.05)
        return write(fd, data, position)

    monkeypatch.setattr(queue, "SLOW_S", 0.02)
    monkeypatch.setattr(queue, "STALL_S", PATIENT_S)
    monkeypatch.setattr(open_file, "pwrite", slow)
    other = threading.Thread(target=append, args=(spool, 1))
    other.start()
    assert entered.wait(10)
    append(spool, 2)
    assert on_disk(base) == [1, 2]
    other.join(10)
    assert not spool.is_stalled


@pytest.mark.alone
def test_no_thread_waits_for_another_s_stalled_append(
    spool: Spool, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While a write hangs, the others' spans are in memory after 500 ms, once."""
    entered, go_on = threading.Event(), threading.Event()
    write = open_file.pwrite

    def hang(fd: int, data: bytes, position: int) -> int:
        if encoded(1) in data:
            entered.set()
            assert go_on.wait(10)
        return write(fd, data, position)

    monkeypatch.setattr(queue, "SLOW_S", 0.02)
    monkeypatch.setattr(open_file, "pwrite", hang)
    hung = threading.Thread(target=append, args=(spool, 1))
    hung.start()
    assert entered.wait(10)
    began = time.perf_counter()
    append(spool, *range(2, 200))
    assert time.perf_counter() - began < 4  # 99 s, if each waited for the lock
    go_on.set()
    hung.join(10)
    assert waiting(spool) == list(range(1, 200))
    append(spool, 200)
    assert on_disk(base) == list(range(1, 201))


def test_a_spool_base_that_becomes_unusable_is_reported_and_replaced(
    spool: Spool, base: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """No place can be taken any more: memory, and the disk again when it is there again."""
    shutil.rmtree(base)
    base.touch()
    append(spool, 1)
    assert "disk writes failed, spans wait in memory" in capsys.readouterr().err
    assert waiting(spool) == [1]
    spool.adopt()
    spool.prune()
    base.unlink()
    append(spool, 2)
    spool.seal()
    append(spool, 3)
    assert on_disk(base) == [2, 3]
