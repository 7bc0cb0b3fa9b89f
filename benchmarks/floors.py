"""The floors: what somebody would write by hand who wants just this outcome, and nothing else.

- a line: the fields as a dict, orjson, one ``os.write``; and the line's OTLP bytes kept as an event
  of the current span;
- a stage: random ids, two clock readings, a context variable set and reset, its OTLP bytes, and
  those appended to a file so that a killed process loses none and a reader trusts them: length and
  crc32 before them, one write, under a lock;
- a request that is sent: four such stages with two such lines each; the file is read back, checked
  and sent as one OTLP request by ``http.client``.
"""

import contextvars
import http.client
import os
import random
import struct
import tempfile
import threading
import time
import zlib
from datetime import UTC, datetime

import orjson

current: contextvars.ContextVar["Span | None"] = contextvars.ContextVar("floor", default=None)
_lock = threading.Lock()
_spool = os.open(tempfile.mkstemp()[1], os.O_RDWR | os.O_APPEND)
_sent = 0  # bytes of the spool that are at the receiver
_FRAME = struct.Struct(">II16s")


class Span:
    __slots__ = ("attributes", "events", "span_hex", "span_id", "trace_hex", "trace_id")

    def __init__(self) -> None:
        self.trace_id = random.getrandbits(128)
        self.span_id = random.getrandbits(64)
        self.attributes = {"user_id": "user-42"}
        self.events: list[bytes] = []


def _length(size: int) -> bytes:
    out = bytearray()
    while size > 127:
        out.append(size & 127 | 128)
        size >>= 7
    out.append(size)
    return bytes(out)


def _text(tag: bytes, key: str, value: str) -> bytes:
    name, text = key.encode(), value.encode()
    body = b"\x0a%c%b\x12%c\x0a%c%b" % (len(name), name, len(text) + 2, len(text), text)
    return b"%b%c%b" % (tag, len(body), body)


def line() -> None:
    """Write a JSON line, and keep it as an event of the current span."""
    span = current.get()
    assert span is not None
    now = time.time_ns()
    event = {
        "timestamp": datetime.fromtimestamp(now / 1e9, UTC).isoformat(),
        "level": "info",
        "event": "message handled",
        "logger": "shop",
        "trace_id": span.trace_hex,
        "span_id": span.span_hex,
        "trace_flags": "01",
        "user_id": "user-42",
        "words": 12,
    }
    os.write(1, orjson.dumps(event) + b"\n")
    body = b"".join(
        (
            b"\x09" + struct.pack("<Q", now) + b"\x12\x0fmessage handled",
            _text(b"\x1a", "level", "info"),
            _text(b"\x1a", "logger", "shop"),
            _text(b"\x1a", "user_id", "user-42"),
            b"\x1a\x0b\x0a\x05words\x12\x02\x18\x0c",
        )
    )
    span.events.append(b"\x5a" + bytes((len(body),)) + body)


def start() -> tuple[Span, int, contextvars.Token[Span | None]]:
    """Begin a stage."""
    span = Span()
    return span, time.time_ns(), current.set(span)


def end(span: Span, began: int, token: contextvars.Token[Span | None]) -> None:
    """End a stage: it is on disk when this returns."""
    current.reset(token)
    ended = time.time_ns()
    trace_id = span.trace_id.to_bytes(16, "big")
    body = b"".join(
        (
            b"\x0a\x10",
            trace_id,
            b"\x12\x08",
            span.span_id.to_bytes(8, "big"),
            b"*\x05stage0\x01",
            struct.pack("<cQcQ", b"9", began, b"A", ended),
            *[_text(b"\x4a", k, v) for k, v in span.attributes.items()],
            *span.events,
        )
    )
    body = b"\x12" + _length(len(body)) + body
    crc = zlib.crc32(body, zlib.crc32(trace_id))
    frame = _FRAME.pack(len(body), crc, trace_id) + body
    with _lock:
        os.write(_spool, frame)


def stage() -> None:
    """Do what a stage does, written into the function."""
    end(*start())


def unsampled() -> None:
    """Do what a stage does of which nothing is kept: ids, two clock readings, the variable."""
    span = Span()
    time.time_ns()
    token = current.set(span)
    current.reset(token)
    time.time_ns()


async def coroutine() -> None:
    """Do what a stage does, written into a coroutine function."""
    end(*start())


def set_and_reset() -> None:
    """Set a context variable, and reset it, as a job tag has to be."""
    token = current.set(None)
    try:
        pass
    finally:
        current.reset(token)


def in_span(lines: int) -> None:
    """Make that many lines in one span, which is not ended."""
    span = Span()
    span.trace_hex, span.span_hex = f"{span.trace_id:032x}", f"{span.span_id:016x}"
    current.set(span)
    for _ in range(lines):
        line()


def line_and_stage(lines: int = 1) -> None:
    """Make that many lines in a stage."""
    began = start()
    span = began[0]
    span.trace_hex, span.span_hex = f"{span.trace_id:032x}", f"{span.span_id:016x}"
    for _ in range(lines):
        line()
    end(*began)


def request() -> None:
    """Four stages of two lines each."""
    for _ in range(4):
        line_and_stage(2)


class Sender:
    """Brings what is in the floor's spool to a receiver."""

    def __init__(self, port: int) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port)

    def send(self) -> None:
        """Read the frames since the last call, check them, and send them as one request."""
        global _sent
        data = os.pread(_spool, os.fstat(_spool).st_size - _sent, _sent)
        spans, at = [], 0
        while at < len(data):
            length, crc, trace_id = _FRAME.unpack_from(data, at)
            at += _FRAME.size
            body = data[at : at + length]
            assert zlib.crc32(body, zlib.crc32(trace_id)) == crc
            spans.append(body)
            at += length
        _sent += len(data)
        scope = b"".join((b"\x0a\x06\x0a\x04shop", *spans))
        resource = b"\x0a\x1a\x0a\x18\x0a\x0cservice.name\x12\x08\x0a\x06floors"
        body = resource + b"\x12" + _length(len(scope)) + scope
        body = b"\x0a" + _length(len(body)) + body
        kind = {"content-type": "application/x-protobuf"}
        self._connection.request("POST", "/v1/traces", body, kind)
        assert self._connection.getresponse().read() == b""
