"""OTLP bytes: a span or a log record to bytes, many to a request, and back.

In: ids as integers, times as ns since the epoch, values as ``_values.plain`` returns them.
Out: the wire format of ``trace.proto`` and ``logs.proto`` (v1.x, field numbers beside each writer).
Invariant: what is written reads back the same through ``opentelemetry-proto``, but for numbers that
are not finite, which are texts. Deliberately absent: disks, sockets, protobuf.
"""

import math
import struct
from collections.abc import Iterable, Mapping
from typing import Any

from otel_logging import _runtime
from otel_logging._values import field, plain

_TAG_AND_TIME = struct.Struct("<BQ").pack
_FIXED32 = struct.Struct("<I").pack
_TIMES = struct.Struct("<BQBQ").pack
_IDS = struct.Struct(">2s16s2sQ").pack
_DOUBLE = struct.Struct("<d").pack
_UINT32 = (1 << 32) - 1
_UINT64 = (1 << 64) - 1
_UINT128 = (1 << 128) - 1
#: Infinities as in OTLP's JSON; any other number that is not finite is "NaN".
_NOT_FINITE = {math.inf: "Infinity", -math.inf: "-Infinity"}
_ONE_BYTE = [bytes((n,)) for n in range(128)]
#: The tags of an attribute in a span, and in an event.
SPAN_TAG, EVENT_TAG = b"\x4a", b"\x1a"

#: Encoded attributes with a short key and a short string, a small whole number or a boolean: levels
#: and user ids, which recur. A key here has the value's type, since 1 and True are equal. A number
#: with a fraction rarely recurs: only the bytes before it are kept, and the key has no value.
#: Emptied when full, as the others.
_remembered: dict[tuple[Any, ...], bytes] = {}
#: Encoded keys, up to the tag of their value; emptied when full.
_names: dict[str, bytes] = {}
#: Names of spans with their kind, encoded; emptied when full.
_named: dict[tuple[str, int], bytes] = {}
#: The flags of most spans, encoded.
_flags = {flags: b"\x85\x01" + _FIXED32(flags) for flags in (0x101, 0x103, 0x301, 0x303)}
_REMEMBERED = 4096
_REMEMBERED_CHARACTERS = 64
_KINDS = (str, int, bool)


def _varint(number: int) -> bytes:
    if number < 128:
        return _ONE_BYTE[number]
    if number < 16384:
        return bytes((number & 127 | 128, number >> 7))
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    out.append(number)
    return bytes(out)


def _field(tag: bytes, payload: bytes) -> bytes:
    size = len(payload)
    return tag + (_ONE_BYTE[size] if size < 128 else _varint(size)) + payload


def _text(value: str) -> bytes:
    try:
        return value.encode()
    except UnicodeEncodeError:  # OTLP strings are UTF-8, which has no place for a lone surrogate
        return value.encode("utf-8", "backslashreplace")
    except AttributeError:  # OpenTelemetry takes any object for a name
        return str(plain(value)).encode("utf-8", "backslashreplace")


def _any_value(value: Any) -> bytes:
    """AnyValue: 1 string, 2 bool, 3 int, 4 double, 5 array, 6 kvlist; none of them for None."""
    kind = type(value)
    if kind is str:
        return _field(b"\x0a", _text(value))
    if kind is bool:
        return b"\x10\x01" if value else b"\x10\x00"
    if kind is int:
        return b"\x18" + _varint(value & _UINT64)
    if kind is float:
        return b"\x21" + _DOUBLE(value)
    if kind is list:
        return _field(b"\x2a", b"".join([_field(b"\x0a", _any_value(v)) for v in value]))
    if kind is dict:
        return _field(
            b"\x32", b"".join([_field(b"\x0a", _key_value(k, v)) for k, v in value.items()])
        )
    return b""


def _key_value(key: str, value: Any) -> bytes:
    """KeyValue: 1 key, 2 value."""
    return _field(b"\x0a", _text(key)) + _field(b"\x12", _any_value(value))


def attribute(tag: bytes, key: str, value: Any) -> bytes:
    """Encode one attribute as the field *tag* of its message. Never raises."""
    is_finite = type(value) is float and value - value == 0.0
    if is_finite and (before := _remembered.get((tag, key, float))) is not None:
        return before + _DOUBLE(value)
    shown = value if type(value) is bool else field(key, value)
    # a cached key has been checked
    known = type(key) is str and key in _names
    encoded = attribute_of(tag, key if known else str(plain(key)), shown)
    if known and is_finite and not _runtime.current.redaction.may_hide((key,)):
        _remember(_remembered, (tag, key, float), encoded[:-8])
    return encoded


def is_known(key: str, value: Any) -> bool:
    """Say whether an attribute of spans is cached: then its *value* is plain, without a secret."""
    kind = type(value)
    if kind is float:
        return value - value == 0.0 and (SPAN_TAG, key, kind) in _remembered
    return kind in _KINDS and (SPAN_TAG, key, value, kind) in _remembered


def attribute_of(tag: bytes, key: str, value: Any) -> bytes:
    """Do what ``attribute`` does, for a plain *value* without secrets."""
    is_short = len(key) <= _REMEMBERED_CHARACTERS
    name = _names.get(key) if is_short else None
    if name is None:
        name = _field(b"\x0a", _text(key)) + b"\x12"
        if is_short:
            _remember(_names, key, name)
    kind = type(value)
    if kind is int and 0 <= value < 128:  # most numbers are so small: a count, a flag
        encoded_value = b"\x18" + _ONE_BYTE[value]
    else:  # a duration, without the call
        encoded_value = b"\x21" + _DOUBLE(value) if kind is float else _any_value(value)
    size = len(encoded_value)
    # as ``_field``, twice, without the calls
    body = name + (_ONE_BYTE[size] if size < 128 else _varint(size)) + encoded_value
    size = len(body)
    encoded: bytes = tag + (_ONE_BYTE[size] if size < 128 else _varint(size)) + body
    is_count = kind is bool or (kind is int and 0 <= value < 128)
    if is_short and (is_count or (kind is str and len(value) <= _REMEMBERED_CHARACTERS)):
        _remember(_remembered, (tag, key, value, kind), encoded)
    return encoded


def forget() -> None:
    """Empty the caches: from now on other secrets are taken out."""
    for memory in (_remembered, _names, _named):
        memory.clear()


def _remember(memory: dict[Any, bytes], key: Any, encoded: bytes) -> None:
    if len(memory) >= _REMEMBERED:
        memory.clear()
    memory[key] = encoded


def attributes(tag: bytes, values: Mapping[str, Any]) -> bytes:
    """Encode all of *values*, each as the field *tag*."""
    return b"".join(
        [
            ((kind := type(value)) in _KINDS and _remembered.get((tag, key, value, kind)))
            or attribute(tag, key, value)
            for key, value in values.items()
        ]
    )


def event(time_ns: int, name: str, values: Mapping[str, Any], *, dropped: int = 0) -> bytes:
    """Encode an event as field 11 of Span. Event: 1 time, 2 name, 3 attributes, 4 dropped."""
    more = b"\x20" + _varint(dropped & _UINT32) if dropped else b""
    return event_of(time_ns, name_of(plain(name)), attributes(EVENT_TAG, values), more)


def name_of(name: str) -> bytes:
    """Encode the *name* of an event, which has no secrets."""
    return _field(b"\x12", _text(name))


def event_of(time_ns: int, *encoded: bytes) -> bytes:
    """Encode an event of what ``name_of`` and ``attributes``, with ``EVENT_TAG``, returned."""
    body = _TAG_AND_TIME(0x09, time_ns) + b"".join(encoded)
    return b"\x5a" + _varint(len(body)) + body


def time_of(encoded: bytes) -> int:
    """Return the time of an event that ``event_of`` has encoded, ns since the epoch."""
    start = 1
    while encoded[start] & 0x80:
        start += 1
    return int.from_bytes(encoded[start + 2 : start + 10], "little")


def link(
    trace_id: int,
    span_id: int,
    trace_state: str,
    flags: int,
    values: Mapping[str, Any],
    *,
    dropped: int = 0,
) -> bytes:
    """Encode a link as field 13 of Span. Link: 1, 2 ids, 3 state, 4 attributes, 5 dropped,
    6 flags.
    """
    # ids and flags come from elsewhere; if one is too large, the link leads nowhere
    body = b"\x0a\x10" + (trace_id & _UINT128).to_bytes(16, "big")
    body += b"\x12\x08" + (span_id & _UINT64).to_bytes(8, "big")
    if trace_state:
        body += _field(b"\x1a", _text(trace_state))
    body += attributes(b"\x22", values)
    if dropped:
        body += b"\x28" + _varint(dropped & _UINT32)
    return _field(b"\x6a", body + b"\x35" + _FIXED32(flags & _UINT32))


# *values* may be encoded for the tag ``0x4a``; *dropped* counts attributes, events and links.
# Span: 1, 2 ids, 3 state, 4 parent, 5 name, 6 kind, 7 start, 8 end, 9 attributes, 10/12/14 dropped,
# 11 events, 13 links, 15 status (2 message, 3 code), 16 flags
def span(
    trace_id: bytes,
    span_id: int,
    parent_span_id: int,
    trace_state: str,
    flags: int,
    name: str,
    kind: int,
    start_ns: int,
    end_ns: int,
    values: Mapping[str, Any] | bytes,
    events: Iterable[bytes] = (),
    links: Iterable[bytes] = (),
    *,
    dropped: tuple[int, int, int] | None = None,
    status: int = 0,
    message: str = "",
) -> bytes:
    """Encode a span as field 2 of ScopeSpans. Failure: raises for ids and times that do not fit."""
    key = (name, kind)
    named = _named.get(key) if type(name) is str else None
    if named is None:
        named = _field(b"\x2a", _text(plain(name))) + b"\x30" + _ONE_BYTE[kind]
        if type(name) is str and len(name) <= _REMEMBERED_CHARACTERS:
            _remember(_named, key, named)
    head = _IDS(b"\x0a\x10", trace_id, b"\x12\x08", span_id)
    times = _TIMES(0x39, start_ns, 0x41, end_ns)
    if not isinstance(values, bytes):
        values = attributes(SPAN_TAG, values)
    if parent_span_id:
        head += b"\x22\x08" + parent_span_id.to_bytes(8, "big")
    more = b"".join((*events, *links)) if events or links else b""
    flag_bytes = _flags.get(flags) or b"\x85\x01" + _FIXED32(flags & _UINT32)
    body = b"".join((head, named, times, values, more, flag_bytes))
    if trace_state:
        body += _field(b"\x1a", _text(trace_state))
    if dropped is not None:
        for tag, count in zip((b"\x50", b"\x60", b"\x70"), dropped, strict=True):
            if count:
                body += tag + _varint(count & _UINT32)
    if status:
        described = _field(b"\x12", _text(plain(message))) if message else b""
        body += _field(b"\x7a", described + b"\x18" + _ONE_BYTE[status])
    return b"\x12" + _varint(len(body)) + body


def with_attributes(encoded: bytes, values: Mapping[str, Any]) -> bytes:
    """Return a span that ``span`` encoded with *values* as further attributes."""
    begin = next(at for at in range(1, len(encoded)) if encoded[at] < 0x80) + 1  # of its length
    return _field(b"\x12", encoded[begin:] + attributes(SPAN_TAG, values))


def log_record(
    time_ns: int,
    observed_ns: int,
    severity: int,
    severity_text: str,
    body: str,
    values: Mapping[str, Any],
    *,
    trace_id: bytes = b"",
    span_id: int = 0,
    flags: int = 0,
    dropped: int = 0,
) -> bytes:
    """Encode a log record as field 2 of ScopeLogs, its tag and length included.

    *trace_id* is empty outside any span. LogRecord: 1 time, 2 severity number, 3 its text,
    5 body, 6 attributes, 7 dropped, 8 flags, 9 trace id, 10 span id, 11 observed time. The
    messages around it have the field numbers of those around a span, so ``resource``,
    ``scope`` and ``request`` serve both.
    """
    encoded = _TAG_AND_TIME(0x09, time_ns) + b"\x10" + _varint(severity)
    encoded += _field(b"\x1a", _text(severity_text)) + _field(b"\x2a", _any_value(plain(body)))
    encoded += attributes(b"\x32", values)
    if dropped:
        encoded += b"\x38" + _varint(dropped & _UINT32)
    if flags:
        encoded += b"\x45" + _FIXED32(flags & _UINT32)
    if trace_id:
        encoded += _field(b"\x4a", trace_id)
        encoded += b"\x52\x08" + span_id.to_bytes(8, "big")
    return _field(b"\x12", encoded + _TAG_AND_TIME(0x59, observed_ns))


def resource(values: Mapping[str, Any], schema_url: str = "") -> bytes:
    """Encode what stands before the scope in ResourceSpans: 1 resource, 3 schema URL."""
    encoded = _field(b"\x0a", attributes(b"\x0a", values))
    return encoded + (_field(b"\x1a", _text(schema_url)) if schema_url else b"")


def scope(
    name: str, version: str = "", values: Mapping[str, Any] | None = None, schema_url: str = ""
) -> bytes:
    """Encode what stands before the spans in ScopeSpans: 1 scope (1 name, 2 version, 3 attributes),
    3 schema URL.
    """
    body = _field(b"\x0a", _text(name))
    body += _field(b"\x12", _text(version)) if version else b""
    encoded = _field(b"\x0a", body + attributes(b"\x1a", values or {}))
    return encoded + (_field(b"\x1a", _text(schema_url)) if schema_url else b"")


def scoped(scope_bytes: bytes, *spans: bytes) -> bytes:
    """Encode *spans*, or log records, with their scope as field 2 of ResourceSpans."""
    return _field(b"\x12", b"".join((scope_bytes, *spans)))


def request(resource_bytes: bytes, scope_bytes: bytes, spans: Iterable[bytes]) -> bytes:
    """Put the length prefixes of an ExportTraceServiceRequest before *spans*.

    Each is what ``resource``, ``scope`` and ``span`` (or ``log_record``) returned; without
    *scope_bytes*, what ``scoped`` returned. To append to the result loses the span silently: a
    decoder stops at the lengths.
    """
    in_scope = scoped(scope_bytes, *spans) if scope_bytes else b"".join(spans)
    return _field(b"\x0a", resource_bytes + in_scope)


# ---------------------------------------------------------------- and back


def value_of(any_value: Any) -> Any:
    """Return an AnyValue message as plain data; bytes as hex, as OTLP JSON has no bytes."""
    which = any_value.WhichOneof("value")
    if which is None:
        return None
    value = getattr(any_value, which)
    if which == "array_value":
        return [value_of(item) for item in value.values]
    if which == "kvlist_value":
        return values_of(value.values)
    if which == "double_value" and not math.isfinite(value):  # another writer's
        return _NOT_FINITE.get(value, "NaN")
    return value.hex() if which == "bytes_value" else value


def values_of(key_values: Iterable[Any]) -> dict[str, Any]:
    """Return repeated KeyValue messages as a dict."""
    return {item.key: value_of(item.value) for item in key_values}
