"""Find the attributes and the status of an encoded span without decoding the rest of it.

Of 100,000 spans only a few attributes are asked for. The text of one may look like another.
"""

from contextlib import suppress
from functools import lru_cache
from typing import Any, Final

from google.protobuf.message import DecodeError
from opentelemetry.proto.common.v1.common_pb2 import KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Status

from otel_logging import _otlp

ATTRIBUTE: Final = 0x4A  # a tag: the field's number and the kind of its value
_STATUS: Final = 0x7A


@lru_cache(64)
def key_of(key: str) -> bytes:
    """Return an attribute's key as it is encoded."""
    return KeyValue(key=key.encode(errors="replace").decode()).SerializeToString()


@lru_cache(1024)  # many spans have the same user and cause
def plain(attribute: bytes) -> Any:
    """Return the value of an encoded attribute; None if it is missing."""
    with suppress(DecodeError):  # another program's
        return _otlp.value_of(KeyValue.FromString(attribute).value)
    return None


def is_failed(one: bytes, at: int) -> bool:
    """Return whether the status is ERROR; the fields of the span *one* begin at *at*."""
    # a status begins with its message, or has none
    status = field_at(one, at, _STATUS, b"\x12") or field_at(one, at, _STATUS, b"\x18")
    try:
        return Status.FromString(status).code == Status.STATUS_CODE_ERROR
    except DecodeError:
        return False


def field_at(one: bytes, at: int, wanted: int, begins: bytes) -> bytes:
    """Return the first field with the tag *wanted* whose content begins with *begins*; nothing if
    it is missing. The fields of the span *one* begin at *at*.
    """
    there = one.find(begins, at)  # this may be text: the lengths say whether a field begins there
    try:
        while there >= 0:
            tag, size = one[at], one[at + 1]
            at, shift = at + 2, 7
            while size >> shift:  # a digit (base 128) says whether more follow
                size, at, shift = size + (one[at] - 1 << shift), at + 1, shift + 7
            there = there if at <= there else one.find(begins, at)
            if at == there and tag == wanted:
                return one[at : at + size]
            at += size if tag & 7 == 2 else 4 if tag & 7 == 5 else 0
    except IndexError:  # another program's
        pass
    return b""
