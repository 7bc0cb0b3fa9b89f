"""Attributes of an encoded span and its status, found without decoding the rest of it: of 100,000
spans a few are asked for, and text in an attribute may look like another.
"""

from functools import lru_cache
from typing import Any, Final

from google.protobuf.message import DecodeError
from opentelemetry.proto.common.v1.common_pb2 import KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Status

from otel_logging import _otlp

_ATTRIBUTE: Final = 0x4A  # a tag: the field's number and the kind of its value
_STATUS: Final = 0x7A
_INVALID: Final = (IndexError, DecodeError)  # what another program may have written


@lru_cache(64)
def key_of(key: str) -> bytes:
    """Return an attribute's key as it is encoded."""
    return KeyValue(key=key.encode(errors="replace").decode()).SerializeToString()


def value_at(one: bytes, at: int, key: bytes) -> Any:
    """Return the value of the attribute with that encoded *key*, of the fields of a span that
    begin at *at*, or None.
    """
    try:
        return _plain(_field(one, at, _ATTRIBUTE, key))
    except _INVALID:
        return None


def is_failed(one: bytes, at: int) -> bool:
    """Return whether the status is ERROR, of the fields of a span that begin at *at*."""
    try:
        # it begins with its message, or has none
        status = _field(one, at, _STATUS, b"\x12") or _field(one, at, _STATUS, b"\x18")
        return Status.FromString(status).code == Status.STATUS_CODE_ERROR
    except _INVALID:
        return False


def _field(one: bytes, at: int, wanted: int, begins: bytes) -> bytes:
    """Return the first field with the tag *wanted* that begins so; nothing where there is none."""
    there = one.find(begins, at)  # or in a text: whether a field begins there, the lengths say
    while at < there:
        tag, size = one[at], one[at + 1]
        at, shift = at + 2, 7
        while size >> shift:  # its last digit (of 128) says that there are more
            size, at, shift = size + (one[at] - 1 << shift), at + 1, shift + 7
        if at == there and tag == wanted:
            return one[at : at + size]
        at += size if tag & 7 == 2 else 4 if tag & 7 == 5 else 0
        if at > there:
            there = one.find(begins, at)
    return b""


@lru_cache(1024)  # many spans have the same budget, user and cause
def _plain(field: bytes) -> Any:
    return _otlp.value_of(KeyValue.FromString(field).value)
