"""The spool: every frame once, whatever happens to the disk, the threads and the processes."""

import contextlib
import errno
import gc
import io
import os
import shutil
import stat
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from otel_logging import _segment, _spool, _trouble
from otel_logging._spool import DROPPED_BOUND, DROPPED_FULL, DROPPED_LARGE, Spool, Waiting
from tests.spools import ROOT, append, command, encoded, make, numbers, on_disk, run, waiting

posix = pytest.mark.skipif(not hasattr(os, "fork"), reason="POSIX")


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return tmp_path / "spool"


@pytest.fixture
def spool(base: Path) -> Iterator[Spool]:
    made = make(base)
    yield made
    made.close()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """The clock of the module alone: ``clock.ticks`` are its next readings, then it stands."""
    clock = SimpleNamespace(now=1000.0, ticks=[])

    def monotonic() -> float:
        if clock.ticks:
            clock.now += clock.ticks.pop(0)
        return clock.now

    clock.monotonic = clock.time = monotonic
    clock.time_ns = lambda: int(clock.now * 1e9)
    monkeypatch.setattr(_spool, "time", clock)
    return clock


def places(base: Path) -> list[Path]:
    """Return the processes' directories, our own included."""
    return sorted(path.parent for path in base.glob("*/*/lock"))


def die(base: Path, *spans: int, size: int = 0) -> None:
    """Leave behind what a process killed after these spans leaves."""
    run(
        "import os, sys; from pathlib import Path; from tests.spools import *\n"
        "append(make(Path(sys.argv[1])), *map(int, sys.argv[3:]), size=int(sys.argv[2]))\n"
        "os._exit(0)",
        base,
        size,
        *spans,
    )


# ---------------------------------------------------------------- append, seal, deliver


def test_a_span_is_on_disk_when_append_returns(spool: Spool, base: Path) -> None:
    """The read side finds it at once, with resource and scope."""
    append(spool, 1, 2)
    (contents,) = _spool.read(base)
    assert numbers([contents]) == [1, 2]
    assert contents.spans[0][1] == encoded(1)
    assert (contents.resource, contents.scope) == (b"resource", b"scope")


def test_what_waits_is_delivered_into_the_flight_recorder(spool: Spool, base: Path) -> None:
    """Sealed, handed out, delivered: no longer waiting, still readable, each once."""
    append(spool, 1, 2)
    assert spool.waiting() == []
    spool.seal()
    (segment,) = spool.waiting()
    assert numbers([segment]) == [1, 2]
    append(spool, 3)
    spool.delivered(segment)
    assert waiting(spool) == [3]
    assert on_disk(base) == [1, 2, 3]
    assert spool.opened == 2


def test_scopes_have_segments_of_their_own(spool: Spool) -> None:
    """One header says one scope; frames find theirs."""
    append(spool, 1)
    append(spool, 2, scope=b"other")
    append(spool, 3)
    spool.seal()
    found = {w.contents().scope: numbers([w]) for w in spool.waiting()}  # type: ignore[union-attr]
    assert found == {b"scope": [1, 3], b"other": [2]}


def test_a_segment_is_sealed_at_a_mebibyte_or_half_a_second(
    spool: Spool, clock: SimpleNamespace
) -> None:
    """Without anyone asking, so that a busy process delivers too."""
    append(spool, *range(4), size=300_000)
    assert numbers(spool.waiting()) == [0, 1, 2, 3]
    append(spool, 4)
    clock.now += _spool.SEAL_S
    assert len(spool.waiting()) == 1
    append(spool, 5)
    assert numbers(spool.waiting()) == [0, 1, 2, 3, 4, 5]


def test_seal_leaves_young_segments_open(spool: Spool, clock: SimpleNamespace) -> None:
    """``older_than_s`` counts from the first frame."""
    append(spool, 1)
    clock.now += 0.2
    spool.seal(older_than_s=0.3)
    assert spool.waiting() == []
    clock.now += 0.2
    spool.seal(older_than_s=0.3)
    assert numbers(spool.waiting()) == [1]


def test_segments_are_handed_out_oldest_first(spool: Spool) -> None:
    """By number also where that has a digit more."""
    spool._numbers = iter([999_999, 1_000_000])  # type: ignore[assignment]
    for number in (1, 2):
        append(spool, number)
        spool.seal()
    assert numbers(spool.waiting()) == [1, 2]


def test_a_span_beyond_all_measure_is_refused_and_counted(spool: Spool) -> None:
    """No receiver takes it: it is not kept."""
    spool.append(b"scope", bytes(16), bytes(_segment.MAX_FRAME + 1))
    assert waiting(spool) == []
    assert _trouble.counts == {DROPPED_LARGE: 1}


def test_without_a_directory_spans_wait_in_memory(capsys: pytest.CaptureFixture[str]) -> None:
    """The same queue, bounded; what is left at exit is counted."""
    spool = make(None)
    append(spool, 1)
    append(spool, 2, scope=b"other")
    spool.seal()
    first, second = spool.waiting()
    assert (numbers([first]), numbers([second])) == ([1], [2])
    spool.delivered(first)
    spool.adopt()
    spool.prune()
    assert numbers(spool.waiting()) == [2]
    spool.close()
    assert "1 spans lost at exit" in capsys.readouterr().err
    assert spool.waiting() == []


def test_the_memory_queue_is_bounded_and_what_it_drops_is_counted() -> None:
    """The oldest go: before they are made segments, and after."""
    spool = make(None)
    append(spool, *range(20), size=1 << 20)  # a frame is a little more than 1 MiB
    assert _trouble.counts == {DROPPED_FULL: 13}
    spool.seal()
    assert numbers(spool.waiting()) == list(range(13, 20))
    append(spool, *range(20, 24), size=1 << 20)
    assert waiting(spool) == list(range(17, 24))
    assert _trouble.counts == {DROPPED_FULL: 17}


def test_what_is_made_of_memory_is_cut_into_requests() -> None:
    """Segments of a mebibyte, as on disk: a receiver takes no request of eight."""
    spool = make(None)
    append(spool, *range(40), size=100_000)
    assert waiting(spool) == list(range(40))
    assert all(len(segment.data) < 1.2 * _spool.SEAL_BYTES for segment in spool.waiting())


def test_close_leaves_what_waits_and_delivers_nothing(base: Path) -> None:
    """The next process finds it; an empty place is removed; closing twice is fine."""
    spool, empty = make(base), make(base)
    append(spool, 1)
    spool.close()
    spool.close()
    assert len(places(base)) == 2
    empty.adopt()
    assert waiting(empty) == [1]
    empty.close()
    assert on_disk(base) == [1]
    last = make(base)
    last.adopt()
    (segment,) = last.waiting()
    last.delivered(segment)
    last.close()
    assert places(base) == []
    assert on_disk(base) == [1]


def test_after_close_a_late_span_still_waits_on_disk(base: Path) -> None:
    """A stage that ends after shutdown is delivered by the next process."""
    spool = make(base)
    spool.close()
    append(spool, 1)
    assert on_disk(base) == [1]
    spool.close()


# ---------------------------------------------------------------- the directory


def test_directories_and_files_are_the_user_s_alone(spool: Spool, base: Path) -> None:
    """0700 and 0600, whatever they were."""
    append(spool, 1)
    base.joinpath("open-1").mkdir(mode=0o777)
    base.joinpath("open-1").chmod(0o777)
    make(base, "open-1").close()
    for path in base.rglob("*"):
        assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path


@posix
def test_a_symbolic_link_is_not_followed(base: Path, tmp_path: Path) -> None:
    """In place of the destination or of ``sent/``: an error at set-up."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    base.mkdir()
    base.joinpath("shop-1").symlink_to(elsewhere)
    with pytest.raises(NotADirectoryError):
        make(base)
    base.joinpath("other-1").mkdir()
    base.joinpath("other-1", "sent").symlink_to(elsewhere)
    with pytest.raises(NotADirectoryError):
        make(base, "other-1")
    assert list(elsewhere.iterdir()) == []


@posix
def test_another_user_s_directory_is_not_used(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor is a name in /tmp that another user took first."""
    base.joinpath("shop-1").mkdir(parents=True)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    fallback = _spool.fallback_base()
    fallback.mkdir()
    if os.geteuid() == 0:
        os.chown(base / "shop-1", 65534, 65534)
        os.chown(fallback, 65534, 65534)
    else:
        monkeypatch.setattr(os, "geteuid", lambda: 65534)
        fallback = _spool.fallback_base()
        fallback.mkdir()
    with pytest.raises(PermissionError, match="another user"):
        make(base)
    with pytest.raises(PermissionError, match="another user"):
        make(fallback)
    assert list(fallback.iterdir()) == []


def test_an_unusable_base_raises_at_set_up(tmp_path: Path) -> None:
    """The one place where the spool raises."""
    tmp_path.joinpath("file").touch()
    with pytest.raises(OSError, match="file"):
        make(tmp_path / "file")


@contextlib.contextmanager
def no_descriptors() -> Iterator[None]:
    """No file can be opened meanwhile."""
    import resource

    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


@posix
def test_running_out_of_descriptors_leaves_nothing_half_made(spool: Spool, base: Path) -> None:
    """At set-up an error; later the spans wait in memory, and what waits on disk stays."""
    die(base, 1)
    spool.adopt()
    with no_descriptors():
        with pytest.raises(OSError, match="open files"):
            make(base, "other-1")
        append(spool, 2)
        spool.adopt()
        spool.prune()
        assert spool.waiting() == []
    assert [path.name for path in base.joinpath("other-1").iterdir()] == ["sent"]
    assert waiting(spool) == [1, 2]


@given(st.text(), st.text(), st.text())
def test_a_destination_is_a_safe_name_of_its_own(service: str, endpoint: str, other: str) -> None:
    """One path component, the same for the same three, different for others."""
    name = _spool.destination(service, endpoint, "http/protobuf")
    assert name == _spool.destination(service, endpoint, "http/protobuf")
    assert name.isascii()
    assert not set(name) & set('/\\:*?"<>|\0 ')
    assert not name.startswith(".")
    assert len(name) <= 61
    assert (name == _spool.destination(service, other, "http/protobuf")) == (endpoint == other)
    assert _spool.destination("\ud800", "", "")


def test_where_the_spool_is_without_being_told(tmp_path: Path) -> None:
    """The user's state directory; a temporary one that can be removed."""
    assert tmp_path in _spool.default_base().parents
    made = _spool.temporary_base()
    assert made.is_dir()
    _spool.remove(made)
    _spool.remove(made)
    assert not made.exists()
    assert _spool.fallback_base().parent == Path(tempfile.gettempdir())


def test_a_directory_removed_while_running_costs_nothing(spool: Spool, base: Path) -> None:
    """What was in the open file is rescued; what comes next has a new place."""
    append(spool, 1)
    append(spool, 2, scope=b"other")
    shutil.rmtree(base)
    append(spool, 3)
    append(spool, 4, scope=b"third")
    assert waiting(spool) == [1, 2, 3, 4]
    append(spool, 5)
    for segment in spool.waiting():
        spool.delivered(segment)
    assert waiting(spool) == [5]
    assert _trouble.counts == {}


def test_a_removed_flight_recorder_is_made_again(spool: Spool, base: Path) -> None:
    """A delivered segment leaves the queue, recorder or not; never delivered twice."""
    append(spool, 1)
    spool.seal()
    shutil.rmtree(base / "shop-1" / "sent")
    for segment in spool.waiting():
        spool.delivered(segment)
    assert spool.waiting() == []
    spool.prune()
    append(spool, 2)
    spool.seal()
    for segment in spool.waiting():
        spool.delivered(segment)
    assert on_disk(base) == [2]


@contextlib.contextmanager
def no_rights(place: Path) -> Iterator[None]:
    """Nothing in *place* can be renamed or removed meanwhile, by root neither."""
    if os.geteuid() == 0:
        os.seteuid(65534)
        try:
            yield
        finally:
            os.seteuid(0)
    else:
        place.chmod(0o500)
        yield
        place.chmod(0o700)


@posix
def test_a_delivered_segment_that_cannot_be_moved_is_not_delivered_again(
    spool: Spool, base: Path
) -> None:
    """On a disk that became read-only it stays where it is, out of the queue."""
    append(spool, 1)
    spool.seal()
    (segment,) = spool.waiting()
    with no_rights(places(base)[0]):
        spool.delivered(segment)
    assert segment.path is not None
    assert segment.path.exists()
    assert spool.waiting() == []


# ---------------------------------------------------------------- a disk that takes nothing


@posix
def test_a_short_write_is_taken_back() -> None:
    """The file ends with a whole frame, the frame is in memory, and later all are on disk."""
    printed = run("""
import resource, sys, tempfile; from pathlib import Path; from tests.spools import *
from otel_logging import _spool
base = Path(tempfile.mkdtemp())
spool = make(base)
append(spool, 1)
unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, unlimited[1]))
append(spool, 2, 3, size=600)        # the second does not fit whole
append(spool, 4)                     # memory, though it would fit: order
print(on_disk(base))                 # asserts that nothing is damaged
resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)
print(waiting(spool), sum(segment.path is None for segment in spool.waiting()))
append(spool, 5)
print(on_disk(base))
_spool.remove(base)
""")
    assert printed.splitlines() == ["[1, 2]", "[1, 2, 3, 4] 0", "[1, 2, 3, 4, 5]"]


@posix
@pytest.mark.parametrize("limit", [0, 10])
def test_a_full_disk_is_gone_around_in_memory(limit: int) -> None:
    """Not even a header fits: spans are delivered from memory, and later the disk is back."""
    printed = run(
        """
import os, resource, sys, tempfile; from pathlib import Path; from tests.spools import *
from otel_logging import _spool
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
_spool.remove(base)
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
    """An append over 20 ms sends the next into memory; the worker finds the disk quick."""
    clock.ticks = [0, 1.0]
    append(spool, 1)
    append(spool, 2)
    assert on_disk(base) == [1]
    clock.ticks = [0, 0, 1.0]  # still slow
    assert waiting(spool) == [1, 2]
    append(spool, 3)
    assert on_disk(base) == [1, 2]
    assert waiting(spool) == [1, 2, 3]
    append(spool, 4)
    assert on_disk(base) == [1, 2, 3, 4]


def test_no_thread_waits_for_another_s_stalled_append(
    spool: Spool, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While a write hangs, the others' spans are in memory after 20 ms, once."""
    entered, go_on = threading.Event(), threading.Event()
    write = os.write

    def hang(fd: int, data: bytes) -> int:
        if encoded(1) in data:
            entered.set()
            assert go_on.wait(10)
        return write(fd, data)

    monkeypatch.setattr(os, "write", hang)
    hung = threading.Thread(target=append, args=(spool, 1))
    hung.start()
    assert entered.wait(10)
    append(spool, *range(2, 200))  # 4 s, if each waited for the lock
    go_on.set()
    hung.join(10)
    assert waiting(spool) == list(range(1, 200))
    append(spool, 200)
    assert on_disk(base) == list(range(1, 201))


def test_a_base_that_becomes_unusable_is_said_and_gone_around(
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


# ---------------------------------------------------------------- inside an append


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
    assert _trouble.counts["spans lost at exit: they waited in memory alone"] == 1


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
    """Eight of them, a worker beside: every frame once, on disk and at every look."""
    done = threading.Event()
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
        append(spool, *range(first, first + 2000), size=200, scope=b"%d" % (first % 3))

    worker = threading.Thread(target=work)
    threads = [threading.Thread(target=appending, args=(n * 2000,)) for n in range(8)]
    for thread in (worker, *threads):
        thread.start()
    while any(thread.is_alive() for thread in threads):
        seen = on_disk(base)
        assert len(seen) == len(set(seen))
    for thread in threads:
        thread.join()
    done.set()
    worker.join()
    assert sorted(delivered + waiting(spool)) == list(range(16_000))
    assert on_disk(base) == list(range(16_000))
    assert _trouble.counts == {}


# ---------------------------------------------------------------- processes


@posix
def test_a_forked_child_has_a_place_of_its_own(base: Path) -> None:
    """Forked while another thread appends: both go on, the parent's lock stays its own."""
    printed = run(
        """
import os, sys, threading; from pathlib import Path; from tests.spools import *
base = Path(sys.argv[1])
spool = make(base)
stop = threading.Event()
def work():
    number = 0
    while not stop.is_set():
        append(spool, number, size=1000)
        number += 1
        if number % 100 == 0:
            spool.seal()
    print(number, flush=True)
append(spool, 9_000_000, scope=b"other")
thread = threading.Thread(target=work, daemon=True)
thread.start()
children = []
for number in range(8):
    child = os.fork()
    if not child:
        neighbour = make(base)
        neighbour.adopt()                        # other children's perhaps; the parent lives
        append(spool, *range((number + 1) * 1_000_000, (number + 1) * 1_000_000 + 10))
        assert all(1_000_000 <= found < 9_000_000 for found in waiting(neighbour))
        neighbour.close()
        if number % 2:
            spool.close()
        sys.exit()
    children.append(child)
assert [os.waitpid(child, 0)[1] for child in children] == [0] * 8
stop.set()
thread.join()
spool.close()
""",
        base,
        traced=False,
    )
    spans = [*range(int(printed)), 9_000_000]
    for number in range(8):
        spans += range((number + 1) * 1_000_000, (number + 1) * 1_000_000 + 10)
    assert on_disk(base) == sorted(spans)
    last = make(base)
    last.adopt()
    assert waiting(last) == sorted(spans)
    last.close()


@posix
def test_an_append_that_forks_midway_writes_to_no_other_file(base: Path) -> None:
    """A signal handler that forks: the child's descriptors may be another file's by then."""
    printed = run(
        """
import os, signal, sys, time; from pathlib import Path; from tests.spools import *
base = Path(sys.argv[1])
spool = make(base)
append(spool, 1)
child = None
def handler(*_):
    global child
    child = os.fork()
    if not child:
        # takes the numbers that were the segment's and the lock's
        sys.others = [os.open(base / f"other-{n}", os.O_CREAT | os.O_RDWR) for n in range(4)]
monotonic = time.monotonic
def raising():
    if child is None:
        signal.raise_signal(signal.SIGALRM)
    return monotonic()
signal.signal(signal.SIGALRM, handler)
time.monotonic = raising
append(spool, 2)
if child:
    os.waitpid(child, 0)
    spool.close()
    print([(base / f"other-{n}").read_bytes() for n in range(4)])
""",
        base,
    )
    assert printed == "[b'', b'', b'', b'']\n"


@posix
def test_a_killed_process_loses_nothing_that_had_ended(spool: Spool, base: Path) -> None:
    """Signal 9 in the middle: a neighbour adopts every append that had returned."""
    script = """
import itertools, sys; from pathlib import Path; from tests.spools import *
spool = make(Path(sys.argv[1]))
for number in itertools.count():
    append(spool, number, size=1000)
    sys.stdout.write(f"{number}\\n")
    sys.stdout.flush()
"""
    with subprocess.Popen(
        command(script, base), cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None
        lines = [child.stdout.readline() for _ in range(2000)]
        spool.adopt()
        assert waiting(spool) == []  # alive
        child.kill()
        lines += child.stdout.read().splitlines()
    spool.adopt()
    found = waiting(spool)
    assert found == list(range(len(found)))
    assert len(found) >= len(lines)


def test_a_torn_tail_of_a_killed_process_costs_that_append_alone(spool: Spool, base: Path) -> None:
    """And is not said: it had not returned."""
    die(base, 1, 2, 3)
    (left,) = base.glob("*/*/*.open")
    os.truncate(left, left.stat().st_size - 5)
    spool.adopt()
    assert waiting(spool) == [1, 2]
    assert _trouble.counts == {}


def test_only_the_same_destination_adopts(spool: Spool, base: Path) -> None:
    """Spans for one collector never reach another."""
    die(base, 1)
    other = make(base, "shop-2")
    other.adopt()
    assert waiting(other) == []
    other.close()
    spool.adopt()
    spool.adopt()
    assert waiting(spool) == [1]


def test_an_adopted_place_is_given_back_when_it_is_empty(spool: Spool, base: Path) -> None:
    """Delivered, its directory goes; what is in it still, stays."""
    die(base, 1)
    spool.adopt()
    assert len(places(base)) == 2
    spool.seal()
    for segment in spool.waiting():
        spool.delivered(segment)
    spool.adopt()
    assert len(places(base)) == 1
    assert on_disk(base) == [1]


def test_places_in_the_making_are_left_alone(base: Path, clock: SimpleNamespace) -> None:
    """For a minute; then their maker is dead, and what it left is tidied up."""
    clock.now = 2e9
    spool = make(base)
    home = base / "shop-1"
    made = home / f".1-{clock.time_ns()}"
    half_made = home / f".2-{clock.time_ns()}"
    for place in (made, half_made, home / ".not-ours"):
        place.mkdir()
    made.joinpath("lock").touch()
    spool.adopt()
    assert made.exists()
    assert half_made.exists()
    clock.now += 61
    spool.adopt()
    spool.adopt()
    assert not made.exists()
    assert not half_made.exists()
    assert home.joinpath(".not-ours").exists()
    spool.close()


def test_neighbours_adopt_each_place_once(base: Path) -> None:
    """Four at the same time: every span is delivered by exactly one."""
    for number in range(5):
        die(base, *range(number * 10, number * 10 + 10))
    script = """
import sys; from pathlib import Path; from tests.spools import *
spool = make(Path(sys.argv[1]))
print("ready", flush=True)
input()
spool.adopt()
for segment in spool.waiting():
    print(*numbers([segment]))
    spool.delivered(segment)
spool.adopt()
spool.close()
"""
    assert _together(script, base) == list(range(50))
    assert places(base) == []
    assert on_disk(base) == list(range(50))


def _together(script: str, *arguments: object) -> list[int]:
    """Run four of *script*, which waits for a line, and return the numbers they print."""
    children = [
        subprocess.Popen(
            command(script, *arguments),
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(4)
    ]
    for child in children:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
    for child in children:
        assert child.stdin is not None
        child.stdin.write("\n")
        child.stdin.flush()
    printed = [child.communicate(timeout=30)[0] for child in children]
    assert [child.returncode for child in children] == [0] * 4
    return sorted(int(number) for text in printed for number in text.split())


# ---------------------------------------------------------------- the bound


def _deliver(spool: Spool, *spans: int, size: int = 0) -> None:
    for number in spans:
        append(spool, number, size=size)
        spool.seal()
        for segment in spool.waiting():
            spool.delivered(segment)


def _age(base: Path, seconds: Callable[[int], float]) -> None:
    """Set how long ago each segment was written, by the number of its first span."""
    now = 1e9
    for path in _spool.segments(base):
        written = now - seconds(numbers([_spool.load(path)])[0])
        os.utime(path, (written, written))


def test_over_its_bound_sent_segments_go_first_then_the_oldest_waiting(
    base: Path, clock: SimpleNamespace
) -> None:
    """And of the undelivered ones it is said."""
    clock.now = 1e9
    spool = make(base, bytes_bound=45_000)
    _deliver(spool, 7, 8, 9, size=10_000)
    for number in (1, 2, 3):
        append(spool, number, size=10_000)
        spool.seal()
    _age(base, lambda number: 100 - number)  # those delivered are the youngest
    spool.prune()
    assert on_disk(base) == [1, 2, 3, 9]
    assert _trouble.counts == {}
    for number in (4, 5):
        append(spool, number, size=10_000)
        spool.seal()
    append(spool, 6, size=10_000)
    _age(base, lambda number: 100 - number)
    spool.prune()
    assert on_disk(base) == [3, 4, 5, 6]
    assert _trouble.counts == {DROPPED_BOUND: 2}
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
    assert _trouble.counts == {DROPPED_BOUND: 1}
    spool.close()


def test_neighbours_prune_no_more_than_one_alone(base: Path) -> None:
    """Four at the same time: what one removed, the others do not make up for."""
    spool = make(base)
    for number in range(200):
        append(spool, number, size=1000)
        spool.seal()
    size = _spool.segments(base)[0].stat().st_size
    script = """
import sys; from pathlib import Path; from tests.spools import *
from otel_logging import _spool, _trouble
spool = make(Path(sys.argv[1]), bytes_bound=int(sys.argv[2]))
print("ready", flush=True)
input()
spool.prune()
print(_trouble.counts[_spool.DROPPED_BOUND])
"""
    dropped = _together(script, base, size * 100 + size // 2)
    assert sum(dropped) == 100
    assert len(waiting(spool)) == 100
    spool.close()


# ---------------------------------------------------------------- reading


def test_what_is_no_segment_is_not_read(spool: Spool, base: Path, tmp_path: Path) -> None:
    """Gone, a directory, a link, a pipe that nobody writes to, garbage: None, at once."""
    place = places(base)[0]
    (place / "1.segment").mkdir()
    (place / "2.segment").symlink_to(tmp_path / "elsewhere")
    (place / "3.segment").write_bytes(b"garbage")
    if hasattr(os, "mkfifo"):
        os.mkfifo(place / "4.segment")
    assert list(_spool.read(base)) == []
    assert len(spool.waiting()) >= 3
    assert all(segment.contents() is None for segment in spool.waiting())
    assert _spool.load(place / "9.open") is None
    assert Waiting("x", place / "9.segment").contents() is None
    assert list(_spool.read(tmp_path / "nowhere")) == []


def test_a_segment_that_moves_on_is_found_where_it_went(spool: Spool, base: Path) -> None:
    """Listed while open: read when sealed, read when delivered."""
    append(spool, 1)
    (listed,) = _spool.segments(base)
    spool.seal()
    assert numbers([_spool.load(listed)]) == [1]
    (sealed,) = _spool.segments(base)
    spool.delivered(spool.waiting()[0])
    assert numbers([_spool.load(listed)]) == numbers([_spool.load(sealed)]) == [1]
    (sent,) = _spool.segments(base)
    assert numbers([_spool.load(sent)]) == [1]


def _open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_no_descriptor_leaks(base: Path) -> None:
    """Rotation, removal, adoption, close: as many are open as before."""
    if not Path("/proc/self/fd").exists():
        pytest.skip("needs /proc")
    before = _open_files()
    for number in range(3):
        die(base, number)
        spool = make(base)
        spool.adopt()
        append(spool, 10 + number)
        append(spool, 20 + number, scope=b"other")
        shutil.rmtree(places(base)[-1], ignore_errors=True)
        append(spool, 30 + number, scope=b"third")
        spool.seal()
        for segment in spool.waiting():
            spool.delivered(segment)
        spool.close()
    with pytest.raises(OSError, match=os.strerror(errno.ENAMETOOLONG)):
        make(base, "x" * 300)
    assert _open_files() == before
