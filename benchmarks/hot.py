"""What a line and a stage cost, as multiples of the same thing written by hand.

Both sides run in this one process, in turns, so that a busy machine slows both
alike; what is printed is the median of the ratios of neighbouring turns.

    python benchmarks/hot.py            the table
    python benchmarks/hot.py --json     {name: {floor_us, ours_us, ratio}}

The floors are what somebody would write who wants just this outcome, for these
very fields, and nothing else:

- a line: the fields as a dict, orjson, one ``os.write``; and the line's OTLP
  bytes kept as an event of the current span;
- a stage: random ids, two clock readings, a context variable set and reset, its
  OTLP bytes, and those appended to a file so that a killed process loses none
  and a reader trusts them: length and crc32 before them, one write, under a lock.
"""

import contextvars
import json
import logging
import os
import random
import statistics
import struct
import sys
import tempfile
import threading
import time
import zlib
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import orjson

import otel_logging

TURNS = 40
CALLS = 500  # in each turn
LINES = 20  # in each span

# stdout becomes a file, as it is for a service under a process manager; the report has the old one
report = os.fdopen(os.dup(1), "w")
_sink = tempfile.TemporaryFile()  # noqa: SIM115 - for the life of the process
os.dup2(_sink.fileno(), 1)
_log_file = tempfile.TemporaryFile("w")  # noqa: SIM115 - as well


# ---------------------------------------------------------------- floors

_current: contextvars.ContextVar["FloorSpan | None"] = contextvars.ContextVar("floor", default=None)
_lock = threading.Lock()
_spool = os.open(tempfile.mkstemp()[1], os.O_WRONLY | os.O_APPEND)


class FloorSpan:
    __slots__ = ("attributes", "events", "span_hex", "span_id", "trace_hex", "trace_id")

    def __init__(self) -> None:
        self.trace_id = random.getrandbits(128)
        self.span_id = random.getrandbits(64)
        self.attributes = {"user_id": "user-42"}
        self.events: list[bytes] = []


def text_attribute(tag: bytes, key: str, value: str) -> bytes:
    name, text = key.encode(), value.encode()
    body = b"\x0a%c%b\x12%c\x0a%c%b" % (len(name), name, len(text) + 2, len(text), text)
    return b"%b%c%b" % (tag, len(body), body)


def floor_line() -> None:
    span = _current.get()
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
            text_attribute(b"\x1a", "level", "info"),
            text_attribute(b"\x1a", "logger", "shop"),
            text_attribute(b"\x1a", "user_id", "user-42"),
            b"\x1a\x0b\x0a\x05words\x12\x02\x18\x0c",
        )
    )
    span.events.append(b"\x5a" + bytes((len(body),)) + body)


def floor_stage() -> None:
    span = FloorSpan()
    start = time.time_ns()
    token = _current.set(span)
    _current.reset(token)
    end = time.time_ns()
    trace_id = span.trace_id.to_bytes(16, "big")
    body = b"".join(
        (
            b"\x0a\x10",
            trace_id,
            b"\x12\x08",
            span.span_id.to_bytes(8, "big"),
            b"*\x05stage0\x01",
            struct.pack("<cQcQ", b"9", start, b"A", end),
            *[text_attribute(b"\x4a", k, v) for k, v in span.attributes.items()],
            *span.events,
        )
    )
    body = b"\x12" + bytes((len(body),)) + body
    crc = zlib.crc32(body, zlib.crc32(trace_id))
    frame = struct.pack(">II16s", len(body), crc, trace_id) + body
    with _lock:
        os.write(_spool, frame)


# ---------------------------------------------------------------- ours

log = otel_logging.get_logger("shop")
app_logger = logging.getLogger("shop.app")


def our_line() -> None:
    log.info("message handled", words=12)


def plain_line() -> None:
    app_logger.info("message %d handled for %s", 12, "user-42")


def to_a_file() -> logging.Logger:
    """Return a logger as a service has it that knows nothing of us."""
    handler = logging.StreamHandler(_log_file)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logger = logging.getLogger("shop.file")
    logger.setLevel(logging.INFO)
    logger.propagate = False
    logger.addHandler(handler)
    return logger


def lines_of(logger: logging.Logger) -> Callable[[], None]:
    def lines() -> None:
        for _ in range(LINES):
            logger.info("message %d handled for %s", 12, "user-42")

    return lines


def our_stage() -> None:
    with otel_logging.traced("stage"):
        pass


def stage_before_setup() -> None:
    with otel_logging.traced("stage"):
        pass


def nothing() -> None:
    pass


# ---------------------------------------------------------------- in turns


def timed(call: Callable[[], None]) -> float:
    began = time.perf_counter_ns()
    for _ in range(CALLS):
        call()
    return (time.perf_counter_ns() - began) / CALLS / 1000


def compare(floor: Callable[[], None], ours: Callable[[], None], of: int = 1) -> dict[str, float]:
    timed(floor), timed(ours)  # warm
    pairs = [(timed(floor), timed(ours)) for _ in range(TURNS)]
    return {
        "floor_us": statistics.median(a for a, _ in pairs) / of,
        "ours_us": statistics.median(b for _, b in pairs) / of,
        "ratio": statistics.median(b / a for a, b in pairs),
    }


in_job = otel_logging.tag_background_logger("PRICE_CACHE")


def in_span(call: Callable[[], None]) -> Callable[[], None]:
    """Open one span for each turn's calls, so that pages are turned as they are in life."""

    def turn() -> None:
        with otel_logging.traced("request"):
            otel_logging.bind_context(user_id="user-42")
            for _ in range(LINES):
                call()

    return turn


def in_floor_span(call: Callable[[], None]) -> Callable[[], None]:
    def turn() -> None:
        span = FloorSpan()
        span.trace_hex, span.span_hex = f"{span.trace_id:032x}", f"{span.span_id:016x}"
        _current.set(span)
        for _ in range(LINES):
            call()

    return turn


def main() -> None:
    """Measure, and print."""
    results = {
        "a stage before set-up, against an empty call": compare(nothing, stage_before_setup),
        "the job tag looked up, against an empty call": compare(
            nothing, otel_logging.current_job_tag
        ),
    }
    # before set-up, which makes a line of ours of it
    plain = to_a_file()
    lines, our_lines = lines_of(plain), lines_of(otel_logging.TaggedLogger(plain))
    results["a TaggedLogger's tagged line, without set-up, against a plain one"] = compare(
        lines, in_job(our_lines), LINES
    )
    results["a TaggedLogger's untagged line, without set-up, against a plain one"] = compare(
        lines, our_lines, LINES
    )
    with tempfile.TemporaryDirectory() as spool:
        observability = otel_logging.setup_observability(
            "benchmark",
            environment="production",
            endpoint="http://127.0.0.1:9",
            spool_dir=Path(spool),
        )
        with otel_logging.bound_context(user_id="user-42"):
            results["a sampled stage, to the spool"] = compare(floor_stage, our_stage)
        results["a JSON line inside a sampled span (20 a span, the span included)"] = compare(
            in_floor_span(floor_line), in_span(our_line), LINES
        )
        results["a tagged standard-library line, against an untagged one"] = compare(
            in_span(plain_line), in_job(in_span(plain_line)), LINES
        )
        observability.shutdown(0.1)
    if "--json" in sys.argv:
        report.write(json.dumps(results, indent=2) + "\n")
        return
    report.write(f"{'':68}{'floor':>9}{'ours':>10}{'ratio':>8}\n")
    for name, row in results.items():
        report.write(
            f"{name:68}{row['floor_us']:6.2f} µs{row['ours_us']:7.2f} µs{row['ratio']:7.2f}x\n"
        )


if __name__ == "__main__":
    main()
