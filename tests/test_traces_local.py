"""The local store, as it is read."""

from collections.abc import Callable
from pathlib import Path

import pytest

from otel_logging.spool import reading
from otel_logging.traces import local
from otel_logging.traces.trace import by_trace
from tests.stored import NOON, SCOPE, TRACE, Planted, open_spool, store

DAMAGED = "otel_logging: at least 1 span lost: a spool segment is damaged"


def test_every_segment_of_every_service_is_read(tmp_path: Path) -> None:
    """Open, waiting and delivered ones; of all processes; below all places."""
    one, other = tmp_path / "one", tmp_path / "other"
    store(one, Planted(1, 0, "waits", 0, 1))
    store(one, Planted(2, 0, "elsewhere", 0, 1), service="billing")
    spool = open_spool(other, "chat-gateway", {})
    spool.append(SCOPE, bytes(16), Planted(3, 0, "delivered", 0, 1).encoded(NOON))
    spool.seal()
    (waiting,) = spool.waiting()
    spool.delivered(waiting)
    spool.append(SCOPE, bytes(16), Planted(4, 0, "open", 0, 1).encoded(NOON))

    spans = local.read([one, other, tmp_path / "nowhere"])[0]
    spool.close()

    assert {(s.name, s.resource.service) for s in spans} == {
        ("waits", "chat-gateway"),
        ("elsewhere", "billing"),
        ("delivered", "chat-gateway"),
        ("open", "chat-gateway"),
    }


def test_a_span_that_is_read_twice_is_there_once(tmp_path: Path) -> None:
    """A segment may be met under both names while it is renamed."""
    planted = Planted(1, 0, "message", 0, 1)

    spans = local.read([store(tmp_path / "a", planted), store(tmp_path / "b", planted)])[0]

    assert len(spans) == 2
    assert list(by_trace(spans)[TRACE].spans) == [f"{1:016x}"]


def test_an_invalid_span_hides_no_neighbour(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is left out and said on stderr."""
    spool = open_spool(tmp_path, "chat-gateway", {})
    spool.append(SCOPE, bytes(16), Planted(1, 0, "before", 0, 1).encoded(NOON))
    spool.append(SCOPE, bytes(16), b"\x12\x02\x0a\x7f")
    spool.append(SCOPE, bytes(16), Planted(2, 0, "after", 0, 1).encoded(NOON))
    spool.close()

    assert [span.name for span in local.read([tmp_path])[0]] == ["before", "after"]
    assert capsys.readouterr().err.startswith(f"{DAMAGED} (")


def test_a_damaged_frame_costs_one_span_and_is_reported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The rest of its segment is read."""
    store(tmp_path, *(Planted(n, 0, f"stage {n}", 0, 1) for n in (1, 2, 3)))
    (segment,) = reading.segments(tmp_path)
    segment.write_bytes(segment.read_bytes().replace(b"stage 2", b"stage X"))

    assert [span.name for span in local.read([tmp_path])[0]] == ["stage 1", "stage 3"]
    assert capsys.readouterr().err == f"{DAMAGED}\n"


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[:12] + b"abcd" + data[16:],
        lambda data: data[:8] + bytes(len(data) - 8),
        lambda data: bytes(len(data)),
        lambda data: data[:10],
        lambda data: b"",
    ],
    ids=["lengths", "all but the magic", "zeroed", "cut", "empty"],
)
def test_a_segment_without_a_head_is_reported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], damage: Callable[[bytes], bytes]
) -> None:
    """No less than one that is damaged further behind; how many were in it nobody knows."""
    store(tmp_path, *(Planted(n, 0, "stage", 0, 1) for n in (1, 2, 3)))
    (segment,) = reading.segments(tmp_path)
    segment.write_bytes(damage(segment.read_bytes()))
    assert segment.suffix == ".segment"

    assert local.read([tmp_path])[0] == []
    assert capsys.readouterr().err == f"{DAMAGED}\n"


def test_what_is_damaged_is_counted_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """In all segments: a command has ended before a second one would be written."""
    for place in "abc":
        store(tmp_path / place, Planted(1, 0, "stage", 0, 1))
        (segment,) = reading.segments(tmp_path / place)
        segment.write_bytes(segment.read_bytes()[:-1] + b"?" if place == "a" else b"?")

    assert local.read([tmp_path / place for place in "abc"])[0] == []
    said = "otel_logging: at least 3 spans lost: 3 spool segments are damaged\n"
    assert capsys.readouterr().err == said


def test_a_segment_whose_magic_is_damaged_is_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The check of its head tells that it is one."""
    store(tmp_path, Planted(1, 0, "stage", 0, 1))
    (segment,) = reading.segments(tmp_path)
    segment.write_bytes(b"abcd" + segment.read_bytes()[4:])

    assert [span.name for span in local.read([tmp_path])[0]] == ["stage"]
    assert capsys.readouterr().err == ""


def test_a_segment_that_is_begun_at_this_moment_is_no_damage(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is open, and has nothing yet."""
    spool = open_spool(tmp_path, "chat-gateway", {})
    spool.append(SCOPE, bytes(16), Planted(1, 0, "stage", 0, 1).encoded(NOON))
    (segment,) = reading.segments(tmp_path)
    segment.with_stem("000002").write_bytes(b"")

    assert len(local.read([tmp_path])[0]) == 1
    assert capsys.readouterr().err == ""
    spool.close()
