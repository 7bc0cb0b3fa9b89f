"""A segment's bytes: frames of encoded spans, or log records, behind one header.

    segment = magic "otspool1", u32 crc32 of the rest of the header,
              u32 resource length, u32 scope length, resource bytes, scope bytes,
              then frames: u32 span length, the same again, u32 crc32, 16 bytes trace id,
              span bytes

A file of sent ones may hold several, one behind another. Big endian; a frame's
crc covers length, trace id and span; the bytes are those of ``_otlp``. In: bytes. Out:
bytes. Invariant: one flipped bit costs at most one span; in a header, the spans of that segment. It
never yields a wrong span. Deliberately absent: files.
"""

import struct
import zlib
from collections.abc import Iterator
from typing import Final, NamedTuple

_MAGIC: Final = b"otspool1"
_HEADER: Final = struct.Struct(">8sIII")
_FRAME: Final = struct.Struct(">III16s")
_pack_frame: Final = _FRAME.pack
_crc32: Final = zlib.crc32


class Contents(NamedTuple):
    """What a segment holds. *spans* are pairs of trace id (16 bytes) and span bytes."""

    resource: bytes
    scope: bytes
    spans: list[tuple[bytes, bytes]]
    damaged: int  # frames that were left out; 1 if their number is unknown
    torn: int = 0  # bytes of the last frame, if it is not whole


#: The contents of a segment whose header cannot be read.
UNREADABLE: Final = Contents(b"", b"", [], 1)


def header(resource: bytes, scope: bytes) -> bytes:
    """Return the bytes that a segment begins with."""
    lengths = struct.pack(">II", len(resource), len(scope))
    body = resource + scope
    return _HEADER.pack(_MAGIC, zlib.crc32(lengths + body), len(resource), len(scope)) + body


def frame(trace_id: bytes, span: bytes) -> bytes:
    """Return the bytes that hold one span."""
    length = len(span)
    return _pack_frame(length, length, _crc32(span, _crc32(trace_id, length)), trace_id) + span


def parse_all(data: bytes, *, is_open: bool = False) -> Iterator[Contents]:
    """Yield each segment of a file. One with a damaged header is ``UNREADABLE``, and reading goes
    on at the next one, which is found by its magic. The first segment's magic is not checked.

    A frame whose check fails is left out; its length says where the next one begins. If neither
    of its two lengths is valid, the rest is left out. A torn tail is damage, except in a file that
    *is_open*: a killed process leaves one, and that append had not returned. Failure: never raises.
    """
    position = 0 if data else -1
    while position >= 0:
        found, end = _parse_at(data, position)
        yield found._replace(damaged=found.damaged - 1) if is_open and found.torn else found
        position = data.find(_MAGIC, end)


def _parse_at(data: bytes, start: int) -> tuple[Contents, int]:
    """Read the segment at *start*; also return where the next one may begin."""
    if len(data) - start < _HEADER.size:
        return UNREADABLE, len(data)
    _, crc, resource_length, scope_length = _HEADER.unpack_from(data, start)
    begin = start + _HEADER.size
    middle = begin + resource_length
    position = middle + scope_length
    if len(data) < position or zlib.crc32(data[start + 12 : position]) != crc:
        return UNREADABLE, start + 1
    resource, scope = data[begin:middle], data[middle:position]
    spans: list[tuple[bytes, bytes]] = []
    damaged = torn = 0
    while position < len(data) and not data.startswith(_MAGIC, position):
        torn = len(data) - position  # 0 if the last frame is whole or damaged
        if (begin := position + _FRAME.size) > len(data):
            break
        first, second, crc, trace_id = _FRAME.unpack_from(data, position)
        for length in (first, second):
            span = data[begin : begin + length]
            if len(span) == length and _crc32(span, _crc32(trace_id, length)) == crc:
                spans.append((trace_id, span))
                torn = 0
                break
        else:
            if first != second or begin + first <= len(data):
                damaged, torn = damaged + 1, 0
            if first != second:
                break
        position = begin + length
    return Contents(resource, scope, spans, damaged + bool(torn), torn), position
