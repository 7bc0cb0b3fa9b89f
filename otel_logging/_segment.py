"""A segment's bytes: frames of encoded spans behind one header.

    segment = magic "otspool1", u32 crc32 of the rest of the header,
              u32 resource length, u32 scope length, resource bytes, scope bytes,
              then frames: u32 span length, u32 crc32, 16 bytes trace id, span bytes

Big endian; a frame's crc covers length, trace id and span; the bytes are those
of ``_otlp``. In: bytes. Out: bytes. Invariant: one flipped bit costs one span,
and never gives a wrong one. Deliberately absent: files.
"""

import struct
import zlib
from dataclasses import dataclass
from typing import Final

MAX_FRAME: Final = 64 << 20  # three times the request a collector takes over HTTP by default

_MAGIC = b"otspool1"
_HEADER = struct.Struct(">8sIII")
_FRAME = struct.Struct(">II16s")
_SPAN_TAG = b"\x12"  # field 2 of ScopeSpans: what each span's bytes begin with
_LENGTH = struct.Struct(">I")
_PREFIX = 6  # bytes of that tag and its length, at most: 2**32 takes five


@dataclass(frozen=True, slots=True)
class Contents:
    """What a segment holds. *spans* are pairs of trace id (16 bytes) and span bytes."""

    resource: bytes
    scope: bytes
    spans: list[tuple[bytes, bytes]]
    damaged: int  # stretches of bytes that were no frame, a torn tail not counted


def header(resource: bytes, scope: bytes) -> bytes:
    """Return the bytes that a segment begins with."""
    lengths = struct.pack(">II", len(resource), len(scope))
    body = resource + scope
    return _HEADER.pack(_MAGIC, zlib.crc32(lengths + body), len(resource), len(scope)) + body


def frame(trace_id: bytes, span: bytes) -> bytes:
    """Return the bytes that hold one span of at most ``MAX_FRAME`` bytes."""
    length = len(span)
    return _FRAME.pack(length, _crc(length, trace_id, span), trace_id) + span


def _crc(length: int, trace_id: bytes, span: bytes) -> int:
    return zlib.crc32(span, zlib.crc32(trace_id, length))


def parse(data: bytes) -> Contents | None:
    """Read a segment's bytes; None if its header is damaged or it is none.

    A frame whose check fails is left out and the next good one is looked for,
    so that one flipped bit costs one span. A torn tail, which a killed process
    leaves, is left out silently: that append had not returned. Failure: never
    raises. Cost: linear in what a broken disk can leave, not only in what we write.
    """
    if len(data) < _HEADER.size:
        return None
    magic, crc, resource_length, scope_length = _HEADER.unpack_from(data)
    start = _HEADER.size + resource_length + scope_length
    if magic != _MAGIC or len(data) < start or zlib.crc32(data[12:start]) != crc:
        return None
    middle = _HEADER.size + resource_length
    spans: list[tuple[bytes, bytes]] = []
    damaged, position = 0, start
    while (found := _next_frame(data, position)) is not None:
        at, trace_id, span = found
        damaged += at != position
        spans.append((trace_id, span))
        position = at + _FRAME.size + len(span)
    damaged += position < len(data) and not _is_torn(data, position)
    return Contents(data[_HEADER.size : middle], data[middle:start], spans, damaged)


def _next_frame(data: bytes, position: int) -> tuple[int, bytes, bytes] | None:
    """Return the frame at *position*, or else the first good one after it."""
    if (found := _frame_at(data, position)) is not None:
        return found
    # A crc at every byte would take quadratic time. So it is computed only where
    # a span's first bytes are, and tell the length that the frame tells.
    begin = data.find(_SPAN_TAG, position + _FRAME.size + 1)
    while begin >= 0:
        if _is_span(data, begin) and (found := _frame_at(data, begin - _FRAME.size)) is not None:
            return found
        begin = data.find(_SPAN_TAG, begin + 1)
    return None


def _frame_at(data: bytes, at: int) -> tuple[int, bytes, bytes] | None:
    begin = at + _FRAME.size
    if begin > len(data):
        return None
    length, crc, trace_id = _FRAME.unpack_from(data, at)
    if begin + length > len(data):
        return None
    span = data[begin : begin + length]
    return (at, trace_id, span) if _crc(length, trace_id, span) == crc else None


def _is_span(data: bytes, begin: int) -> bool:
    """Whether the span field at *begin* is as long as the frame before it says."""
    (told,) = _LENGTH.unpack_from(data, begin - _FRAME.size)
    length = 0
    for place, byte in enumerate(data[begin + 1 : begin + _PREFIX]):
        length |= (byte & 127) << (7 * place)
        if byte < 128:
            return bool(length + place + 2 == told)
    return False


def _is_torn(data: bytes, position: int) -> bool:
    """Whether what is left is the beginning of one frame, as far as can be told."""
    begin = position + _FRAME.size
    if begin + _PREFIX > len(data):
        return True
    (told,) = _LENGTH.unpack_from(data, position)
    return bool(begin + told > len(data)) and _is_span(data, begin)
