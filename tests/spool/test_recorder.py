"""What was sent is kept in few files, and nothing is lost or shown twice by that."""

import itertools
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from otel_logging.spool import open_file, reading
from otel_logging.spool.directories import OPEN
from otel_logging.spool.queue import Spool
from otel_logging.spool.recorder import FILE_BYTES, PERIOD_S
from otel_logging.spool.segment import frame, header, parse_all
from tests.spools import (
    NOW,
    append,
    deliver,
    encoded,
    loaded,
    numbers,
    on_disk,
    run,
    sent,
    together,
    trace_id,
)

posix = pytest.mark.skipif(not hasattr(os, "fork"), reason="POSIX")


# ---------------------------------------------------------------- laws


segments = st.lists(
    st.tuples(
        st.integers(-3000, 1500),  # seconds later than the one before, or earlier
        st.sampled_from([b"scope", b"another"]),
        st.sampled_from([0, 0, 0, 5_000, 60_000, 600_000]),
    ),
    max_size=60,
)


@settings(max_examples=25, deadline=None)
@given(segments, st.booleans())
def test_what_is_kept_is_what_was_sent(
    tmp_path_factory: pytest.TempPathFactory, planted: list[tuple[int, bytes, int]], many: bool
) -> None:
    """Every span is read once, under its own resource and scope, and goes no later than before."""
    base = tmp_path_factory.mktemp("spool")
    resources = b"resource", b"another"
    spools = [Spool(base, "shop-1", r, bytes_bound=1 << 40, hours=24) for r in resources]
    at, written, expected = NOW, {}, set()
    for number, (later, scope, size) in enumerate(planted):
        at += later // 50 if many else later
        deliver(spools[number % 2], number, at, scope=scope, size=size)
        written[number] = at
        span = trace_id(number), encoded(number, size)
        expected.add((resources[number % 2], scope, *span))
    found = [(c.resource, c.scope, *span) for c in reading.read(base) for span in c.spans]
    assert len(found) == len(planted)
    assert set(found) == expected
    for path in sent(base):
        within = [written[number] for number in numbers(loaded(path))]
        assert path.stat().st_mtime == min(within) > max(within) - PERIOD_S
        assert len(within) == 1 or path.stat().st_size < FILE_BYTES + 65_000
    for spool in spools:
        spool.close()


@settings(deadline=None)
@given(st.lists(st.lists(st.integers(0, 300), max_size=4), min_size=1, max_size=4), st.data())
def test_one_flipped_bit_in_a_file_of_several_costs_no_more_than_in_one(
    parts: list[list[int]], data: st.DataObject
) -> None:
    """One span in a frame, in a header those behind it up to the next one."""
    counter = itertools.count()
    groups = [[(n := next(counter), encoded(n, size)) for size in part] for part in parts]
    written = [header(b"r", b"s") + b"".join(frame(trace_id(n), e) for n, e in g) for g in groups]
    whole = b"".join(written)
    bit = data.draw(st.integers(0, len(whole) * 8 - 1))
    broken = bytearray(whole)
    broken[bit // 8] ^= 1 << bit % 8
    found = {span for each in parse_all(bytes(broken)) for span in each.spans}
    lost = {(trace_id(n), e) for group in groups for n, e in group} - found
    hit = sum(bit // 8 >= end for end in itertools.accumulate(map(len, written)))
    assert len(lost) <= 1 or lost == {(trace_id(n), e) for n, e in groups[hit]}
    assert found <= {(trace_id(n), e) for group in groups for n, e in group}


# ---------------------------------------------------------------- a day


def test_a_quiet_service_leaves_few_files(spool: Spool, base: Path) -> None:
    """One message a second: one of some hundred kilobytes for each ten minutes."""
    for number in range(3000):
        deliver(spool, number, NOW + number, size=400)
    found = sent(base)
    assert len(found) == 6
    bare = len(frame(trace_id(0), encoded(9999, 400)))
    assert sum(path.stat().st_size for path in found) <= 3000 * bare + 6 * 100  # of one header each
    assert on_disk(base) == list(range(3000))


def test_a_busy_service_leaves_no_file_of_any_size(spool: Spool, base: Path) -> None:
    """The next one begins when one is full."""
    for number in range(20):
        deliver(spool, number, NOW, size=FILE_BYTES // 9)
    assert len(sent(base)) == 3
    assert on_disk(base) == list(range(20))


def test_a_large_segment_stays_as_it_is(spool: Spool, base: Path) -> None:
    """It is not written a second time."""
    kept = deliver(spool, 1, NOW, size=FILE_BYTES)
    assert sent(base) == [kept]


def test_a_damaged_segment_stays_as_it_is(spool: Spool, base: Path) -> None:
    """So that its damage is reported, and costs no other."""
    for number in range(4):
        append(spool, number)
        spool.seal()
    waiting = [segment.path for segment in spool.waiting()]
    assert None not in waiting
    broken = [path for path in waiting[1:3] if path is not None]
    broken[0].write_bytes(broken[0].read_bytes().replace(b"span 1", b"span X"))
    broken[1].write_bytes(b"")
    for segment in spool.waiting():
        spool.delivered(segment)
    kept = [reading.sent(path) for path in broken]
    assert {path for path in sent(base) if path.suffix != OPEN} == set(kept)
    (file,) = {*sent(base)} - {*kept}
    assert numbers(loaded(file)) == [0, 3]


def test_a_segment_with_damaged_magic_is_found_behind_others(spool: Spool, base: Path) -> None:
    """It is not read by its magic before; then it is."""
    deliver(spool, 1, NOW, scope=b"another")
    append(spool, 2)
    spool.seal()
    (segment,) = spool.waiting()
    assert segment.path is not None
    segment.path.write_bytes(b"X" + segment.path.read_bytes()[1:])
    os.utime(segment.path, (NOW, NOW))
    spool.delivered(segment)
    assert len(sent(base)) == 1
    assert on_disk(base) == [1, 2]


def test_a_file_that_was_removed_begins_anew(spool: Spool, base: Path) -> None:
    """With a header of its own; the bound may have taken the one before."""
    deliver(spool, 1, NOW)
    sent(base)[0].unlink()
    deliver(spool, 2, NOW)
    assert on_disk(base) == [2]


@pytest.mark.parametrize("room", [0, 7], ids=["none", "a few bytes"])
def test_a_segment_that_a_full_disk_has_no_room_for_stays_as_it_is(
    spool: Spool, base: Path, monkeypatch: pytest.MonkeyPatch, room: int
) -> None:
    """And the file is whole as it was."""
    deliver(spool, 1, NOW)
    append(spool, 2)
    spool.seal()
    (segment,) = spool.waiting()
    assert segment.path is not None
    os.utime(segment.path, (NOW, NOW))
    write = open_file.pwrite

    def full(fd: int, data: bytes, position: int) -> int:
        return write(fd, data[:room], position)

    with monkeypatch.context() as patched:
        patched.setattr(open_file, "pwrite", full)
        spool.delivered(segment)
    assert reading.sent(segment.path).exists()
    assert on_disk(base) == [1, 2]
    deliver(spool, 3, NOW)
    assert on_disk(base) == [1, 2, 3]
    assert len(sent(base)) == 2


@posix
def test_a_file_is_for_its_user_whatever_the_umask(spool: Spool, base: Path) -> None:
    """Who may not read it cannot read what was sent, nor put anything behind it."""
    before = os.umask(0o777)
    try:
        deliver(spool, 1, NOW)
    finally:
        os.umask(before)
    assert [path.stat().st_mode & 0o777 for path in sent(base)] == [0o600]


def test_a_number_that_changes_hands_while_a_file_is_opened_is_left_alone(
    spool: Spool, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A daemon may close everything just then; the segment stays as it is."""
    deliver(spool, 1, NOW)
    check, taken = open_file.check, list[int]()
    with (tmp_path / "data").open("wb") as other:

        def changed(fd: int, path: Path) -> int:
            if path.suffix == OPEN and path in sent(base):
                taken.append(fd)
                os.dup2(other.fileno(), fd)
            return check(fd, path)

        with monkeypatch.context() as patched:
            patched.setattr(open_file, "check", changed)
            deliver(spool, 2, NOW)
        os.write(taken[0], b"mine")
        os.close(taken[0])
    assert (tmp_path / "data").read_bytes() == b"mine"
    assert on_disk(base) == [1, 2]


def test_a_link_at_the_place_of_a_file_is_not_followed(spool: Spool, base: Path) -> None:
    """The segment stays as it is."""
    deliver(spool, 1, NOW)
    (file,) = sent(base)
    file.unlink()
    file.symlink_to(base / "elsewhere")
    assert deliver(spool, 2, NOW).exists()
    assert not (base / "elsewhere").exists()


def test_the_time_of_a_file_is_that_of_the_oldest_in_it(spool: Spool, base: Path) -> None:
    """What is a day old goes, though it was sent today."""
    old = (time.time() - 24 * 3600) // PERIOD_S * PERIOD_S - PERIOD_S
    for number in range(64):
        deliver(spool, number, old + number)
    assert len(sent(base)) == 1
    spool.prune()
    assert sent(base) == []
    deliver(spool, 64, old)
    assert on_disk(base) == [64]


# ---------------------------------------------------------------- others at the same time


@posix
def test_a_kill_at_any_moment_loses_nothing(base: Path) -> None:
    """At each system call that Python audits: the segment waits still, or is kept."""
    script = """
import os, shutil, signal, sys
from pathlib import Path
from tests.spools import *
base = Path(sys.argv[1])
spool = make(base)
died = 0
while True:
    copy = base.with_name(f"copy-{died}")
    child = os.fork()
    if not child:
        spool = make(copy)
        deliver(spool, 1, NOW)
        append(spool, 2)
        spool.seal()
        (segment,) = spool.waiting()
        left = died
        def hook(event, arguments):
            global left
            if event.startswith("os.") or event == "open":
                left -= 1
                if left == -1:
                    os.kill(os.getpid(), signal.SIGKILL)
        sys.addaudithook(hook)
        spool.delivered(segment)
        os._exit(0)
    ended = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert set(on_disk(copy)) == {1, 2}, died
    shutil.rmtree(copy)
    if ended == 0:
        break
    assert ended == -signal.SIGKILL, ended
    died += 1
print(died)
"""
    assert int(run(script, base, traced=False)) > 3


def test_who_reads_while_segments_are_sent_misses_nothing(
    spool: Spool, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The segments that were listed are gone when they are to be read; nothing comes twice."""
    deliver(spool, 64, time.time())
    for number in range(64):
        append(spool, number)
        spool.seal()
    listed = reading.segments

    def then_sent(base: Path, **options: bool) -> list[Path]:
        found = listed(base, **options)
        for segment in spool.waiting():
            spool.delivered(segment)
        return found

    monkeypatch.setattr(reading, "segments", then_sent)
    assert on_disk(base) == list(range(65))


def test_a_file_that_cannot_be_read_holds_up_no_reader(
    spool: Spool, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is another user's, say; the others are read."""
    deliver(spool, 1, NOW)
    deliver(spool, 2, NOW, size=FILE_BYTES)
    (unreadable,) = [path for path in sent(base) if path.suffix == OPEN]
    content, tries = reading.content, itertools.count()

    def refused(path: Path) -> bytes:
        if path == unreadable:
            assert next(tries) < 10
            raise PermissionError
        return content(path)

    monkeypatch.setattr(reading, "content", refused)
    assert on_disk(base) == [2]


def test_who_has_read_half_when_the_rest_is_sent_misses_nothing(spool: Spool, base: Path) -> None:
    """Also what comes into a file that was read by then. What comes twice by that is one span where
    traces are put together.
    """
    for number in range(64):
        append(spool, number)
        spool.seal()

    def half() -> Iterator[object]:
        left = spool.waiting()
        for number, contents in enumerate(reading.read(base)):
            if number % 8 == 0:
                for segment in left[:8]:
                    spool.delivered(segment)
                del left[:8]
            yield contents

    assert set(numbers(half())) == set(range(64))  # type: ignore[arg-type]


def test_neighbours_keep_files_of_their_own(base: Path) -> None:
    """Four at the same time: each span is there once."""
    script = """
import os, sys; from pathlib import Path; from tests.spools import *
spool = make(Path(sys.argv[1]))
print("ready", flush=True)
input()
for number in range(50):
    deliver(spool, os.getpid() * 50 + number, NOW)
print(int(len(sent(Path(sys.argv[1]))) <= 4))
"""

    assert together(script, base) == [1] * 4
    assert len(sent(base)) == 4
    assert len(on_disk(base)) == len({*on_disk(base)}) == 200
