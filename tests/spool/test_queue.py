"""Append, seal, deliver: every frame once."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from otel_logging import _diagnostics
from otel_logging.spool import memory, queue, reading
from otel_logging.spool.queue import DROPPED_FULL, LOST_LATE, Spool
from tests.spools import PATIENT_S, append, encoded, make, numbers, on_disk, places, waiting


def test_a_span_is_on_disk_when_append_returns(spool: Spool, base: Path) -> None:
    """The read side finds it at once, with resource and scope."""
    append(spool, 1, 2)
    (contents,) = reading.read(base)
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


def test_a_segment_is_sealed_when_it_is_full_or_after_half_a_second(
    spool: Spool, clock: SimpleNamespace
) -> None:
    """Without anyone asking, so that a busy process delivers too."""
    append(spool, *range(4), size=memory.SEAL_BYTES // 4)
    assert numbers(spool.waiting()) == [0, 1, 2, 3]
    append(spool, 4)
    clock.now += queue.SEAL_S
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
    assert _diagnostics.counts == {DROPPED_FULL.format("spans"): 13}
    spool.seal()
    assert numbers(spool.waiting()) == list(range(13, 20))
    append(spool, *range(20, 24), size=1 << 20)
    assert waiting(spool) == list(range(17, 24))
    assert _diagnostics.counts == {DROPPED_FULL.format("spans"): 17}


def test_what_is_made_of_memory_is_cut_into_requests() -> None:
    """Segments of a mebibyte, as on disk: a receiver takes no request of eight."""
    spool = make(None)
    append(spool, *range(40), size=100_000)
    assert waiting(spool) == list(range(40))
    assert all(len(segment.data) < 1.2 * memory.SEAL_BYTES for segment in spool.waiting())


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
    assert not spool.is_stalled
    spool.close()


def test_after_close_there_is_no_memory_queue(
    base: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nobody would empty it: where the disk takes nothing, a late span is counted as lost."""
    spool, memory = make(base), make(None)
    for closed in (spool, memory):
        closed.close()
    base.rename(base.with_name("kept"))
    base.touch()
    append(spool, 1)
    append(memory, 2)
    assert _diagnostics.counts == {LOST_LATE.format("spans"): 2}
    assert "1 spans lost: they ended at exit, and no disk takes them (" in capsys.readouterr().err
    base.unlink()
    append(spool, 3)
    assert on_disk(base) == [3]


def test_after_close_a_slow_disk_is_waited_for(base: Path, clock: SimpleNamespace) -> None:
    """Each late span goes straight to it, however long that takes."""
    spool = make(base)
    spool.close()
    for number in (1, 2, 3):
        clock.ticks = [0.0, PATIENT_S + 1]
        append(spool, number)
        assert on_disk(base) == list(range(1, number + 1))


def test_a_temporary_spool_is_removed_with_its_end(tmp_path: Path) -> None:
    """Its directory does not come back with a late span; one in memory has none."""
    base = tmp_path / "temporary"
    for spool in (make(base), make(None)):
        append(spool, 1)
        spool.remove()
        append(spool, 2)
    assert not base.exists()
