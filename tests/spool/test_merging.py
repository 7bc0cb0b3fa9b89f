"""Small sent segments become few files, and nothing is lost or shown twice by that."""

import itertools
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from otel_logging.spool import merging, reading
from otel_logging.spool.queue import Spool
from otel_logging.spool.segment import frame, header, parse_all
from tests.spools import (
    NOW,
    deliver,
    destination,
    encoded,
    loaded,
    make,
    merge,
    merged,
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
        st.integers(0, 1500),  # seconds later than the one before
        st.sampled_from([b"scope", b"another"]),
        st.sampled_from([0, 0, 0, 5_000, 200_000, 600_000]),
    ),
    max_size=60,
)


@settings(max_examples=25, deadline=None)
@given(segments, st.booleans())
def test_a_merge_changes_no_answer(
    tmp_path_factory: pytest.TempPathFactory, planted: list[tuple[int, bytes, int]], many: bool
) -> None:
    """Every span is read once, under its own resource and scope, and goes no later than before."""
    base = tmp_path_factory.mktemp("spool")
    spools = [make(base), Spool(base, "shop-1", b"another", bytes_bound=1 << 40, hours=24)]
    at, written = NOW, {}
    for number, (later, scope, size) in enumerate(planted):
        at += later // 50 if many else later
        deliver(spools[number % 2], number, at, scope=scope, size=size)
        written[number] = at
    before = {(c.resource, c.scope, *span) for c in reading.read(base) for span in c.spans}
    merged(base)
    after = [(c.resource, c.scope, *span) for c in reading.read(base) for span in c.spans]
    assert len(after) == len(planted)
    assert set(after) == before
    for path in sent(base):
        within = [written[number] for number in numbers(loaded(path))]
        assert path.stat().st_mtime == min(within) >= max(within) - 600
        assert len(within) == 1 or path.stat().st_size <= merging.MERGED_BYTES
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


def test_a_quiet_service_leaves_few_files(base: Path) -> None:
    """One message a second: some files of hundreds of kilobytes, hardly larger than what is in
    them.
    """
    spool = make(base, hours=1e6)
    for number in range(3000):
        deliver(spool, number, NOW + number, size=400)
        if number % 5 == 0:
            spool.prune()
            assert spool.merge(go_on=lambda: True)
    found = sent(base)
    assert len(found) < 5 + 64
    held = [path for path in found if path.name.startswith("merged")]
    assert min(path.stat().st_size for path in held) > 100_000
    assert sum(path.stat().st_blocks * 512 for path in held) < 3000 * 600
    assert on_disk(base) == list(range(3000))
    spool.close()


def test_files_that_are_far_apart_or_large_stay_as_they_are(spool: Spool, base: Path) -> None:
    """A message every two minutes makes no merge, nor does a busy service."""
    for number in range(70):
        deliver(spool, number, NOW + number * 120)
    for number in range(70, 80):
        deliver(spool, number, NOW, size=merging.MERGED_BYTES)
    before = sent(base)
    merged(base)
    assert sent(base) == before


def test_a_damaged_file_stays_as_it_is(spool: Spool, base: Path) -> None:
    """So that its damage is reported as before; the others are merged."""
    paths = [deliver(spool, number, NOW + number) for number in range(64)]
    paths[5].write_bytes(paths[5].read_bytes().replace(b"span 5", b"span X"))
    paths[6].write_bytes(b"")
    kept = paths[5].read_bytes()
    merged(base)
    assert len(sent(base)) == 3
    assert paths[5].read_bytes() == kept
    one = next(path for path in sent(base) if path.name.startswith("merged"))
    assert numbers(loaded(one)) == [n for n in range(64) if n not in (5, 6)]


def test_files_that_are_all_damaged_are_no_merge(spool: Spool, base: Path) -> None:
    """Nothing is written."""
    for number in range(64):
        deliver(spool, number, NOW + number).write_bytes(b"")
    merged(base)
    assert len(sent(base)) == 64


def test_who_has_something_else_to_do_goes_on_later(spool: Spool, base: Path) -> None:
    """After each file that is made; the rest waits."""
    for number in range(20):
        deliver(spool, number, NOW + number // 10 * 1000 + number)
    deliver(spool, 20, NOW + 9999)
    once = [True]
    assert not spool.merge(go_on=lambda: bool(once and once.pop()))
    assert len(sent(base)) == 1 + 11
    assert spool.merge(go_on=lambda: True)
    assert len(sent(base)) == 3


def test_in_memory_nothing_is_merged() -> None:
    """There is no disk."""
    spool = make(None)
    assert spool.merge(go_on=lambda: True)
    spool.close()


# ---------------------------------------------------------------- others at the same time


@posix
def test_a_kill_at_any_moment_of_a_merge_loses_nothing(base: Path) -> None:
    """At each system call that Python audits; the next merge tidies up."""
    script = """
import os, shutil, signal, sys
from pathlib import Path
from tests.spools import *
base = Path(sys.argv[1])
spool = make(base)
for number in range(10):
    deliver(spool, number, NOW + number)
deliver(spool, 10, NOW + 5000)
died = 0
while True:
    copy = base.with_name(f"copy-{died}")
    shutil.copytree(base, copy)
    child = os.fork()
    if not child:
        left = died
        def hook(event, arguments):
            global left
            if event.startswith("os.") or event == "open":
                left -= 1
                if left == -1:
                    os.kill(os.getpid(), signal.SIGKILL)
        sys.addaudithook(hook)
        merged(copy)
        os._exit(0)
    ended = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert set(on_disk(copy)) == set(range(11)), died
    for number in range(11, 21):
        deliver(make(copy, "shop-1"), number, NOW + 300 + number)
    merged(copy)
    assert set(on_disk(copy)) == set(range(21)), died
    assert not list(copy.glob("shop-1/sent/*.open")), died
    shutil.rmtree(copy)
    if ended == 0:
        break
    assert ended == -signal.SIGKILL, ended
    died += 1
print(died)
"""
    assert int(run(script, base, traced=False)) > 20


def test_who_reads_while_files_are_merged_misses_nothing(
    spool: Spool, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The files that were listed are gone when they are to be read."""
    for number in range(64):
        deliver(spool, number, NOW + number)
    listed = reading.segments

    def then_merged(base: Path, **options: bool) -> list[Path]:
        found = listed(base, **options)
        merged(base)
        return found

    monkeypatch.setattr(reading, "segments", then_merged)
    assert on_disk(base) == list(range(64))


def test_who_has_read_half_when_files_are_merged_misses_nothing(spool: Spool, base: Path) -> None:
    """What comes twice by that is one span where traces are put together."""
    for number in range(64):
        deliver(spool, number, NOW + number)

    def half() -> Iterator[object]:
        for number, contents in enumerate(reading.read(base)):
            if number == 32:
                merged(base)
            yield contents

    assert set(numbers(half())) == set(range(64))  # type: ignore[arg-type]


def test_neighbours_merge_as_one_alone(spool: Spool, base: Path) -> None:
    """Four at the same time: each span is there once."""
    for number in range(200):
        deliver(spool, number, NOW + number)
    script = """
import sys; from pathlib import Path; from tests.spools import *
print("ready", flush=True)
input()
merged(Path(sys.argv[1]))
"""
    together(script, base)
    merged(base)
    assert len(sent(base)) == 1
    assert on_disk(base) == list(range(200))


@posix
def test_a_child_forked_in_a_merge_keeps_nobody_from_the_next(base: Path) -> None:
    """It has the lock's descriptor, and lives on."""
    script = """
import os, sys
from pathlib import Path
from tests.spools import *
base = Path(sys.argv[1])
spool = make(base)
for number in range(64):
    deliver(spool, number, NOW + number)
reads, writes = os.pipe()
child = None
def hook(event, arguments):
    global child
    if event == "os.rename" and child is None:
        child = 0
        child = os.fork()
        if not child:
            os.close(writes)
            os.read(reads, 1)
            os._exit(0)
sys.addaudithook(hook)
merged(base)
for number in range(64, 128):
    deliver(spool, number, NOW + number)
merged(base)
print(child > 0, len(sent(base)), on_disk(base) == list(range(128)))
os.close(writes)
os.waitpid(child, 0)
"""
    assert run(script, base, traced=False).split() == ["True", "1", "True"]


def test_no_lock_no_merge(spool: Spool, base: Path) -> None:
    """A link at its place is not followed; what there is stays."""
    for number in range(64):
        deliver(spool, number, NOW + number)
    (destination(base) / "sent" / "merging").symlink_to(base / "elsewhere")
    merge(base)
    assert len(list((destination(base) / "sent").glob("*.segment"))) == 64
    assert not (base / "elsewhere").exists()


def test_a_destination_that_is_gone_is_not_merged(base: Path) -> None:
    """Never raises."""
    assert merging.merge(base / "nowhere", go_on=lambda: True)
    assert not base.exists()


def test_the_time_of_a_merge_is_not_that_of_the_spans(spool: Spool, base: Path) -> None:
    """What is a day old goes, in a file of yesterday's too."""
    old = time.time() - 24 * 3600 - 5
    for number in range(64):
        deliver(spool, number, old + number / 10)
    merged(base)
    assert len(sent(base)) == 1
    spool.prune()
    assert sent(base) == []


def test_what_a_killed_process_left_goes(spool: Spool, base: Path) -> None:
    """It holds nothing that is not elsewhere."""
    for number in range(64):
        deliver(spool, number, NOW + number)
    left = destination(base) / "sent" / "merged-1-1.open"
    left.write_bytes(b"half")
    merged(base)
    assert not left.exists()


def test_a_file_that_is_not_what_was_written_replaces_nothing(
    spool: Spool, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A forked child may have written into it as well."""
    for number in range(64):
        deliver(spool, number, NOW + number)
    before, write = set(sent(base)), merging.write_file
    monkeypatch.setattr(merging, "write_file", lambda path, data: write(path, data[:-1]))
    merge(base)
    (written,) = set(sent(base)) - before
    written.unlink()
    assert set(sent(base)) == before
    assert set(on_disk(base)) == set(range(64))


def test_a_lock_that_somebody_closed_is_left_alone(
    spool: Spool, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its number may be another file's by then."""
    for number in range(64):
        deliver(spool, number, NOW + number)
    write, lock = merging.write_file, destination(base) / "sent" / "merging"

    def after_a_daemon(path: Path, data: bytes) -> None:
        for fd in range(3, 256):
            try:
                is_lock = os.path.samestat(os.fstat(fd), lock.stat())
            except OSError:
                continue
            if is_lock:
                os.close(fd)
        write(path, data)

    monkeypatch.setattr(merging, "write_file", after_a_daemon)
    merge(base)
    assert on_disk(base) == list(range(64))
    assert len(sent(base)) == 1
