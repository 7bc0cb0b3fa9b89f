"""A segment: what a broken disk does to it costs one span, and never gives a wrong one."""

from hypothesis import given, settings
from hypothesis import strategies as st

from otel_logging.spool.segment import UNREADABLE, Contents, frame, header, parse_all
from tests.spools import encoded, trace_id

_SPANS = st.lists(st.integers(0, 300), min_size=1, max_size=5)


def parse(data: bytes) -> Contents | None:
    return next(parse_all(data), None)


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


@settings(max_examples=settings().max_examples * 4)
@given(_SPANS, st.data())
def test_one_flipped_bit_costs_at_most_one_span(sizes: list[int], data: st.DataObject) -> None:
    """In the header the segment is unreadable, in a frame it is missing, and that is counted; in
    the eight bytes of the magic nothing is.
    """
    whole, spans = _segment(sizes)
    bit = data.draw(st.integers(0, len(whole) * 8 - 1))
    broken = bytearray(whole)
    broken[bit // 8] ^= 1 << bit % 8
    contents = parse(bytes(broken))
    if 8 <= bit // 8 < len(header(b"resource", b"scope")):
        assert contents == UNREADABLE
        return
    assert contents is not None
    left_out = [spans[:n] + spans[n + 1 :] for n in range(len(spans))]
    assert contents.spans == spans or contents.spans in left_out
    assert contents.damaged == len(spans) - len(contents.spans)


@settings(deadline=None)
@given(_SPANS, st.integers(0, 4), st.binary(min_size=32))
def test_frames_after_garbage_are_left_out_and_that_is_counted(
    sizes: list[int], at: int, garbage: bytes
) -> None:
    """What stands where a frame should begin says not where the next one does."""
    _, spans = _segment(sizes)
    frames = [frame(*span) for span in spans]
    first = bytes((garbage[0] ^ 1, *garbage[1:4], garbage[0], *garbage[5:]))  # two lengths
    contents = parse(header(b"", b"") + b"".join([*frames[:at], first, *frames[at:]]))
    assert contents is not None
    assert contents.spans == spans[:at]
    assert contents.damaged == 1


@settings(deadline=None)
@given(_SPANS, st.data())
def test_a_torn_tail_is_left_out(sizes: list[int], data: st.DataObject) -> None:
    """It is damage, but for an open file's: a killed process' last append had not returned. A
    header is not torn so: with half of one all is lost, which is counted.
    """
    whole, spans = _segment(sizes)
    length = data.draw(st.integers(0, len(whole)))
    contents, is_open = parse(whole[:length]), next(parse_all(whole[:length], is_open=True), None)
    if length < len(header(b"resource", b"scope")):
        assert contents == is_open == (UNREADABLE if length else None)
        return
    assert contents is not None is not is_open
    ends = [len(_segment(sizes[:n])[0]) for n in range(1, len(sizes) + 1)]
    assert contents.spans == spans[: sum(end <= length for end in ends)]
    torn = length - max([len(header(b"resource", b"scope")), *(e for e in ends if e <= length)])
    assert (contents.damaged, contents.torn) == (bool(torn), torn)
    assert is_open == contents._replace(damaged=0)


@settings(deadline=None)
@given(st.binary() | st.binary().map(header(b"r", b"s").__add__))
def test_anything_can_be_read(data: bytes) -> None:
    """Never raises, finds nothing where nothing is."""
    contents = parse(data)
    assert contents is None or not contents.spans
