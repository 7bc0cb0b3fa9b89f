"""A segment: what a broken disk does to it costs one span, and never gives a wrong one."""

import sys
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from otel_logging._segment import frame, header, parse
from tests.spools import encoded, trace_id

_SPANS = st.lists(st.integers(0, 300), min_size=1, max_size=5)


def _segment(sizes: list[int]) -> tuple[bytes, list[tuple[bytes, bytes]]]:
    spans = [(trace_id(number), encoded(number, size)) for number, size in enumerate(sizes)]
    return header(b"resource", b"scope") + b"".join(frame(*span) for span in spans), spans


@settings(deadline=None)
@given(
    st.binary(), st.binary(), st.lists(st.tuples(st.binary(min_size=16, max_size=16), st.binary()))
)
def test_what_is_written_is_read(
    resource: bytes, scope: bytes, spans: list[tuple[bytes, bytes]]
) -> None:
    """Any bytes, none included."""
    contents = parse(header(resource, scope) + b"".join(frame(*span) for span in spans))
    assert contents is not None
    assert (contents.resource, contents.scope) == (resource, scope)
    assert (contents.spans, contents.damaged) == (spans, 0)


@settings(max_examples=400, deadline=None)
@given(_SPANS, st.data())
def test_one_flipped_bit_costs_at_most_one_span(sizes: list[int], data: st.DataObject) -> None:
    """In the header the segment is unreadable; in a frame it is missing, and that is told."""
    whole, spans = _segment(sizes)
    bit = data.draw(st.integers(0, len(whole) * 8 - 1))
    broken = bytearray(whole)
    broken[bit // 8] ^= 1 << bit % 8
    contents = parse(bytes(broken))
    if bit // 8 < len(header(b"resource", b"scope")):
        assert contents is None
        return
    assert contents is not None
    (lost,) = [n for n in range(len(spans)) if spans[:n] + spans[n + 1 :] == contents.spans]
    assert contents.damaged == 1
    assert lost < len(spans)


@settings(deadline=None)
@given(_SPANS, st.data())
def test_a_torn_tail_is_left_out_silently(sizes: list[int], data: st.DataObject) -> None:
    """A killed process' last append had not returned: nothing is lost by that."""
    whole, spans = _segment(sizes)
    length = data.draw(st.integers(0, len(whole)))
    contents = parse(whole[:length])
    if length < len(header(b"resource", b"scope")):
        assert contents is None
        return
    assert contents is not None
    ends = [len(_segment(sizes[:n])[0]) for n in range(1, len(sizes) + 1)]
    assert contents.spans == spans[: sum(end <= length for end in ends)]
    assert contents.damaged == 0


@settings(deadline=None)
@given(st.binary(min_size=1), st.binary())
def test_good_frames_are_found_after_any_garbage(garbage: bytes, tail: bytes) -> None:
    """Whatever stands between two frames, the second is found."""
    good = frame(trace_id(1), encoded(1))
    contents = parse(header(b"", b"") + good + garbage + good + tail)
    assert contents is not None
    assert contents.spans == [(trace_id(1), encoded(1))] * 2
    assert contents.damaged >= 1


@settings(deadline=None)
@given(st.binary() | st.binary().map(header(b"r", b"s").__add__))
def test_anything_can_be_read(data: bytes) -> None:
    """Never raises, finds nothing where nothing is."""
    contents = parse(data)
    assert contents is None or not contents.spans


_MIB = 1 << 20
_LONG = frame(trace_id(1), encoded(1, 8000))


@pytest.mark.alone
@pytest.mark.parametrize(
    "garbage",
    [
        b"\x12" * _MIB,
        bytes(_MIB),
        b"\xff" * _MIB,
        bytes(range(256)) * (_MIB // 256),
        (b"\x12" + b"\xff" * 15) * (_MIB // 16),
        (_LONG[:50] + b"!" + _LONG[51:]) * (_MIB // len(_LONG)),
    ],
    ids=["tags", "zeros", "ones", "counting", "endless lengths", "damaged frames"],
)
def test_a_mebibyte_of_garbage_is_read_in_seconds(garbage: bytes) -> None:
    """A check of every length at every byte would take minutes."""
    assert parse(header(b"", b"") + garbage[:4096] + _LONG) is not None
    tracer = sys.gettrace()
    sys.settrace(None)  # what coverage costs is not what is timed
    try:
        began = time.perf_counter()
        contents = parse(header(b"", b"") + garbage + _LONG)
        took = time.perf_counter() - began
    finally:
        sys.settrace(tracer)
    assert took < 5  # 0.6 s at worst on two cores
    assert contents is not None
    assert len(contents.spans) == 1
