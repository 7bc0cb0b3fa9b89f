"""Attributes of an encoded span, found without decoding the rest of it: of 100,000 spans a few
attributes are asked for, and text in one may look like another.
"""

import math
import struct
from functools import lru_cache
from typing import Any, Final

from google.protobuf.message import DecodeError
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue

from otel_logging import _otlp

_TAG: Final = 0x4A
_DOUBLE: Final = struct.Struct("<d")


@lru_cache(64)
def key_of(key: str) -> bytes:
    """Return an attribute's key as it is encoded."""
    return KeyValue(key=key.encode(errors="replace").decode()).SerializeToString()


def value_at(one: bytes, at: int, key: bytes) -> Any:
    """Return the value of the attribute with that encoded *key*, of the fields of a span that
    begin at *at*, or None.
    """
    end = len(one)
    try:
        while at < end:
            tag, size, at, shift = one[at], one[at + 1], at + 2, 7
            while size >> shift:  # its last digit (of 128) says that there are more
                size, at, shift = size + (one[at] - 1 << shift), at + 1, shift + 7
            if tag == _TAG and one.startswith(key, at):
                return _plain(one[_after(one, at + len(key) + 1) : at + size])
            at += size if tag & 7 == 2 else 4 if tag & 7 == 5 else 0
    except (IndexError, DecodeError, struct.error):  # of another program
        pass
    return None


def _plain(any_value: bytes) -> Any:
    kind = any_value[:1]
    if kind == b"\n":
        return any_value[_after(any_value, 1) :].decode(errors="replace")
    if kind == b"!" and math.isfinite(number := _DOUBLE.unpack(any_value[1:])[0]):
        return number
    return _otlp.value_of(AnyValue.FromString(any_value))


def _after(encoded: bytes, at: int) -> int:
    """Return where the number (varint) that begins at *at* ends."""
    while encoded[at] > 127:
        at += 1
    return at + 1
