"""Forks, kills and neighbours: every frame once."""

import os
from pathlib import Path

import pytest

from otel_logging import _diagnostics
from otel_logging.spool import destinations, directories, process_dirs, queue, reading
from otel_logging.spool.open_file import OpenFile
from otel_logging.spool.queue import Spool
from tests.programs import start
from tests.spools import (
    append,
    command,
    die,
    loaded,
    make,
    numbers,
    on_disk,
    places,
    run,
    sent,
    together,
    waiting,
)

posix = pytest.mark.skipif(not hasattr(os, "fork"), reason="POSIX")


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
def test_a_forked_child_does_not_remove_its_parents_temporary_spool(base: Path) -> None:
    """The directory is gone with who made it."""
    printed = run(
        """
import os, sys; from pathlib import Path; from tests.spools import *
spool = make(Path(sys.argv[1]))
append(spool, 1)
if (child := os.fork()) == 0:
    spool.remove()
    os._exit(0)
os.waitpid(child, 0)
print(waiting(spool))
spool.remove()
""",
        base,
    )
    assert printed == "[1]\n"
    assert not base.exists()


@posix
def test_a_forked_child_leaves_to_its_parent_what_was_there(base: Path) -> None:
    """Open segments, adopted places, memory: delivered once, by the parent."""
    die(base, 1)
    printed = run(
        """
import os, sys; from pathlib import Path; from tests.spools import *
spool, memory = make(Path(sys.argv[1])), make(None)
spool.adopt()
append(spool, 2)
append(memory, 3)
if not os.fork():
    print("child", waiting(spool), waiting(memory), flush=True)
    append(spool, 4)
    print("child", waiting(spool), flush=True)
    spool.close()
    sys.exit()
os.wait()
print("parent", waiting(spool), waiting(memory))
spool.adopt()
print("parent", waiting(spool))
""",
        base,
    )
    assert printed.splitlines() == [
        "child [] []",
        "child [4]",
        "parent [1, 2] [3]",
        "parent [1, 2, 4]",
    ]


@posix
@pytest.mark.parametrize("function", ["_put", "write"])
def test_an_append_that_forks_midway_writes_to_no_other_file(base: Path, function: str) -> None:
    """A signal handler that forks: the child's descriptors may be another file's by then."""
    printed = run(
        """
import os, signal, sys, time; from pathlib import Path; from tests.spools import *
base = Path(sys.argv[1])
spool = make(base)
append(spool, 1)
def fork():
    global child
    child = os.fork()
    if not child:
        # takes the numbers that were the segment's and the lock's
        sys.others = [os.open(base / f"other-{n}", os.O_CREAT | os.O_RDWR) for n in range(4)]
at_call(sys.argv[2], fork)
append(spool, 2)
append(spool, 3 + (child > 0))
if child:
    os.waitpid(child, 0)
    append(spool, 5)
    print([(base / f"other-{n}").read_bytes() for n in range(4)])
spool.close()
""",
        base,
        function,
        traced=False,
    )
    assert printed == "[b'', b'', b'', b'']\n"
    assert set(on_disk(base)) == {1, 2, 3, 4, 5}


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
    with start(*command(script, base)) as child:
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
    assert on_disk(base) == [1, 2]
    spool.adopt()
    assert waiting(spool) == on_disk(base) == [1, 2]
    assert _diagnostics.counts == {}


def test_a_sealed_segment_whose_end_is_cut_off_is_damaged(spool: Spool, base: Path) -> None:
    """Also once it is sent: a copy broke off, or a disk lost what it had."""
    append(spool, 1, 2)
    spool.seal()
    (sealed,) = spool.waiting()
    path = sealed.path
    assert path is not None
    os.truncate(path, path.stat().st_size - 5)
    assert [(len(each.spans), each.damaged) for each in reading.read(base)] == [(1, 1)]
    assert sealed.contents().damaged == 1
    spool.delivered(sealed)
    assert [(len(each.spans), each.damaged) for each in reading.read(base)] == [(1, 1)]


def test_a_segment_without_a_byte_of_a_killed_process_is_no_damage(
    spool: Spool, base: Path
) -> None:
    """It was killed between the file and its header: nothing had been put into it."""
    die(base, 1)
    (left,) = base.glob("*/*/*.open")
    left.with_name("000009.open").touch()
    spool.adopt()
    assert waiting(spool) == [1]
    assert _diagnostics.counts == {}


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


def test_what_is_adopted_moves_to_who_adopts_it(spool: Spool, base: Path) -> None:
    """The dead process's directory goes; the oldest is handed out first, with one name for good."""
    append(spool, 2)
    spool.seal()
    (living,) = places(base)
    die(base, 1)
    (dead,) = set(places(base)) - {living}
    spool.adopt()
    assert places(base) == [living]
    first, second = spool.waiting()
    assert [numbers([each]) for each in (first, second)] == [[1], [2]]
    assert first.path == living / f"{dead.name}-000001.segment"
    spool.delivered(first)
    assert numbers(each for path in sent(base) for each in loaded(path)) == [1]
    spool.close()
    heir = make(base)
    heir.adopt()
    assert waiting(heir) == [2]
    assert on_disk(base) == [1, 2]
    heir.close()


def test_a_reader_finds_what_is_adopted_meanwhile(
    spool: Spool, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has another place by then; what was read before that is not read again."""
    append(spool, 2)
    gone = make(base)
    append(gone, 1)
    gone.close()
    load = reading.load

    def adopted(path: Path) -> bytes | None:
        monkeypatch.setattr(reading, "load", load)
        spool.adopt()
        return load(path)

    monkeypatch.setattr(reading, "load", adopted)
    assert on_disk(base) == [1, 2]


def test_a_kill_in_the_midst_of_an_adoption_loses_nothing(spool: Spool, base: Path) -> None:
    """What has moved is adopted from there, what has not from where it was."""
    gone = make(base)
    for number in (1, 2):
        append(gone, number)
        gone.seal()
    gone.close()
    run(
        """
import os, sys; from pathlib import Path; from tests.spools import *
move = Path.rename
def die(path, target):
    move(path, target)
    os._exit(0)
Path.rename = die
make(Path(sys.argv[1])).adopt()
""",
        base,
    )
    assert len(places(base)) == 3
    spool.adopt()
    assert len(places(base)) == 1
    assert waiting(spool) == on_disk(base) == [1, 2]


def test_of_many_dead_processes_some_are_adopted_at_a_time(
    spool: Spool, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What ends now does not wait for all of them, which come oldest first."""
    for number in (1, 2, 3):
        gone = make(base)
        append(gone, number)
        gone.close()
    monkeypatch.setattr(queue, "ADOPT_S", -1.0)
    for number in (1, 2, 3):
        spool.adopt()
        assert waiting(spool) == list(range(1, number + 1))


def test_a_lock_stays_young(spool: Spool, base: Path) -> None:
    """What cleans a temporary directory removes old files: without it nobody adopts the rest."""
    (place,) = places(base)
    os.utime(place / "lock", (0, 0))
    spool.adopt()
    assert (place / "lock").stat().st_mtime > 0


@posix
def test_many_dead_processes_take_no_descriptor_of_the_application(base: Path) -> None:
    """Neither when they are adopted, nor when they are purged: one by one."""
    printed = run(
        """
import resource, sys; from pathlib import Path; from tests.spools import *
from otel_logging.spool import destinations
base, dead = Path(sys.argv[1]), 48
for name in ("shop-1", "other-1"):
    for number in range(dead):
        gone = make(base, name)
        append(gone, number)
        gone.close()
survivor = make(base)
resource.setrlimit(resource.RLIMIT_NOFILE, (32, 32))
survivor.adopt()
files = [open(os.devnull) for _ in range(16)]
print(waiting(survivor) == list(range(dead)), len(places(base)))
destinations.purge(base / "other-1", oldest=float("inf"))
print((base / "other-1").exists(), len(places(base)))
""",
        base,
    )
    assert printed.splitlines() == ["True 49", "False 1"]


def test_a_directory_without_a_lock_is_tidied_up(spool: Spool, base: Path) -> None:
    """Its maker was killed before it held anything; who is making it makes another."""
    half_made = base / "shop-1" / "1-1"
    half_made.mkdir()
    spool.adopt()
    assert not half_made.exists()


@pytest.mark.parametrize("what", ["removes it", "has it"])
def test_a_neighbour_that_is_quicker_than_a_new_process(
    base: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    """A directory is taken for a dead process's before its maker holds it: it makes another."""
    neighbour = make(base)
    interrupted: list[Path] = []
    make_lock, try_lock = process_dirs._new_lock, process_dirs.try_lock

    def new_lock(process_dir: Path) -> OpenFile:
        if not interrupted and what == "removes it":
            interrupted.append(process_dir)
            neighbour.adopt()
        return make_lock(process_dir)

    def late_lock(fd: int) -> bool:
        if not interrupted and what == "has it":
            interrupted.append(base)
            neighbour.adopt()
        return try_lock(fd)

    monkeypatch.setattr(process_dirs, "_new_lock", new_lock)
    monkeypatch.setattr(process_dirs, "try_lock", late_lock)
    spool = make(base)
    assert interrupted
    append(spool, 1)
    neighbour.adopt()
    assert waiting(neighbour) == []
    assert waiting(spool) == [1]
    assert len(places(base)) == 2
    spool.close()
    neighbour.close()


def test_a_neighbour_that_is_always_quicker_is_given_up_on(
    base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error at set-up, and nothing half made."""
    monkeypatch.setattr(process_dirs, "try_lock", lambda _: False)
    with pytest.raises(BlockingIOError):
        make(base)


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
    assert together(script, base) == list(range(50))
    assert places(base) == []
    assert on_disk(base) == list(range(50))


def test_neighbours_that_begin_at_once_say_where_it_leads(
    base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither takes away what the other writes."""
    create = directories.create

    def create_while_another_begins(path: Path) -> int:
        fd = create(path)
        monkeypatch.undo()
        destinations.describe(base, "http://other", 1.0)
        return fd

    monkeypatch.setattr(directories, "create", create_while_another_begins)
    base.mkdir(exist_ok=True)
    destinations.describe(base, "http://one", 1.0)
    assert (base / "destination").read_text() == '{"to": "http://one", "hours": 1.0}'
    assert directories.listed(base) == [base / "destination"]
