"""What a line, a stage and a request cost, as multiples of the same thing written by hand.

Both sides run in this one process, in turns, so that a busy machine slows both
alike. What is measured is the CPU time of the whole process, threads included;
what is printed is the median of the ratios of neighbouring turns.

    python benchmarks/hot.py            the table
    python benchmarks/hot.py --json     {name: {floor_us, ours_us, ratio}}

The floors are in ``floors.py``.
"""

import argparse
import asyncio
import dataclasses
import http.server
import itertools
import json
import logging
import multiprocessing
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

import floors

import otel_logging
from otel_logging import _runtime
from otel_logging._redact import DEFAULT, OFF

TURNS = 40
TURN_US = 4000  # of each side's turn: long against the clock, short against what else runs
LINES = 20  # in each span
THREADS = 8

Rows = dict[str, dict[str, float]]

# stdout becomes a file, as it is for a service under a process manager; the report has the old one
report = os.fdopen(os.dup(1), "w")
_sink = tempfile.TemporaryFile()  # noqa: SIM115 - for the life of the process
os.dup2(_sink.fileno(), 1)
_log_file = tempfile.TemporaryFile("w")  # noqa: SIM115 - as well

log = otel_logging.get_logger("shop")
app_logger = logging.getLogger("shop.app")
in_job = otel_logging.tag_background_logger("PRICE_CACHE")


def our_line() -> None:
    log.info("message handled", words=12)


def plain_line() -> None:
    app_logger.info("message %d handled for %s", 12, "user-42")


def our_stage() -> None:
    with otel_logging.traced("stage"):
        pass


@otel_logging.traced("stage")
def our_function() -> None:
    pass


@otel_logging.traced("stage")
async def our_coroutine() -> None:
    pass


@in_job
def our_job() -> None:
    pass


def our_request() -> None:
    for _ in range(4):
        with otel_logging.traced("stage"):
            our_line()
            our_line()


def nothing(*args: Any, **fields: Any) -> None:
    pass


def empty() -> None:
    nothing("message handled", words=12)


def below_its_level() -> None:
    log.debug("message handled", words=12)


# ---------------------------------------------------------------- in turns


def timed(call: Callable[[], object], calls: int) -> float:
    began = time.process_time_ns()
    for _ in range(calls):
        call()
    return (time.process_time_ns() - began) / calls / 1000


def compare(
    floor: Callable[[], object], ours: Callable[[], object], of: int = 1, turns: int = TURNS
) -> dict[str, float]:
    """Time both in turns; *of*: how many of what is counted a call does."""
    floor(), ours()  # warm
    calls = max(1, int(TURN_US / max(timed(floor, 20), 0.05)))
    pairs = [(timed(floor, calls), timed(ours, calls)) for _ in range(turns)]
    return {
        "floor_us": statistics.median(a for a, _ in pairs) / of,
        "ours_us": statistics.median(b for _, b in pairs) / of,
        "ratio": statistics.median(b / a for a, b in pairs),
    }


def in_span(call: Callable[[], None]) -> Callable[[], None]:
    """Open one span for each turn's calls, so that pages are turned as they are in life."""

    def turn() -> None:
        with otel_logging.traced("request"):
            otel_logging.bind_context(user_id="user-42")
            for _ in range(LINES):
                call()

    return turn


def awaited(function: Callable[[], Coroutine[Any, Any, None]]) -> Callable[[], None]:
    loop = asyncio.new_event_loop()

    async def often() -> None:
        for _ in range(LINES):
            await function()

    return lambda: loop.run_until_complete(often())


def line_and_stage() -> None:
    with otel_logging.traced("stage"):
        our_line()


def times(call: Callable[[], None], calls: int) -> Callable[[], None]:
    def run() -> None:
        for _ in range(calls):
            call()

    return run


def in_threads(call: Callable[[], None], calls: int) -> Callable[[], None]:
    def run() -> None:
        threads = [threading.Thread(target=times(call, calls // THREADS)) for _ in range(THREADS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    return run


@contextmanager
def on(processors: set[int]) -> Iterator[None]:
    """Run this thread, and those that it starts, on *processors* alone."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, processors)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


# ---------------------------------------------------------------- set-ups


@contextmanager
def set_up(endpoint: str = "http://127.0.0.1:9", **variables: str) -> Iterator[Any]:
    os.environ.update(variables)
    with tempfile.TemporaryDirectory() as spool:
        observability = otel_logging.setup_observability(
            "benchmark", environment="production", endpoint=endpoint, spool_dir=Path(spool)
        )
        try:
            yield observability
        finally:
            observability.shutdown(0.1)
            for name in variables:
                del os.environ[name]


class Receiver(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


def receive(port: Any) -> None:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Receiver)
    port.send(server.server_port)
    server.serve_forever()


@contextmanager
def receiver() -> Iterator[int]:
    """Run an OTLP receiver in a process of its own; give its port."""
    here, there = multiprocessing.Pipe()
    child = multiprocessing.get_context("spawn").Process(target=receive, args=(there,), daemon=True)
    child.start()
    try:
        yield here.recv()
    finally:
        child.kill()
        child.join()


# ---------------------------------------------------------------- rows


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


def before_set_up(rows: Rows) -> None:
    rows["a stage before set-up, against an empty call"] = compare(nothing, our_stage)
    tag = otel_logging.current_job_tag
    rows["the job tag looked up, against an empty call"] = compare(nothing, tag)
    rows["a job tag set and reset, against a context variable"] = compare(
        floors.set_and_reset, our_job
    )
    plain = to_a_file()
    lines, our_lines = lines_of(plain), lines_of(otel_logging.TaggedLogger(plain))
    name = "a TaggedLogger's {} line, without set-up, against a plain one"
    rows[name.format("tagged")] = compare(lines, in_job(our_lines), LINES)
    rows[name.format("untagged")] = compare(lines, our_lines, LINES)


def sampled(rows: Rows) -> None:
    with otel_logging.bound_context(user_id="user-42"):
        rows["a sampled stage, on disk when it has ended"] = compare(floors.stage, our_stage)
        rows["a decorated function, a stage a call"] = compare(floors.stage, our_function)
        rows["a decorated coroutine function, a stage a call"] = compare(
            awaited(floors.coroutine), awaited(our_coroutine), LINES
        )
    rows["a JSON line inside a sampled stage, an event of it (20 a stage)"] = compare(
        lambda: floors.in_span(LINES), in_span(our_line), LINES
    )
    rows["a standard-library line, taken over, against our own line"] = compare(
        in_span(our_line), in_span(plain_line), LINES
    )
    rows["a tagged standard-library line, against an untagged one"] = compare(
        in_span(plain_line), in_job(in_span(plain_line)), LINES
    )
    rows["a line below its level, against calling an empty function"] = compare(
        empty, below_its_level
    )
    every = os.sched_getaffinity(0)
    for where, processors in {"on one processor": {min(every)}, "on all": every}.items():
        with on(processors):
            # on all: what it costs that each write lets go of the interpreter, by hand, too
            for whose, call in {"ours": line_and_stage, "by hand": floors.line_and_stage}.items():
                rows[f"{THREADS} threads, a line and a stage, against one, {where}, {whose}"] = (
                    compare(times(call, 800), in_threads(call, 800), 800, turns=20)
                )


def redacted(rows: Rows) -> None:
    """Compare lines with those of ``redact=False``: a new text each time, and ever the same one."""
    numbers = itertools.count()
    texts = {
        "a new text of 40 characters": lambda: f"order {next(numbers):012} was placed by the buyer",
        "the same text each time": lambda: "order 000000000000 was placed by the buyer",
    }

    def under(line: Callable[[], None], *, redact: bool) -> Callable[[], None]:
        lines = in_span(line)

        def turn() -> None:
            use_redaction(redact=redact)
            lines()

        return turn

    for name, text in texts.items():
        for place, line in {
            "message": lambda text=text: log.info(text(), words=12),
            "field": lambda text=text: log.info("message handled", note=text()),
        }.items():
            rows[f"a line with {name} as {place}, against redact=False"] = compare(
                under(line, redact=False), under(line, redact=True), LINES
            )


def use_redaction(*, redact: bool) -> None:
    """Change what is taken out, without a set-up of its own for each turn."""
    redaction = DEFAULT if redact else OFF
    _runtime.swap(dataclasses.replace(_runtime.current, redaction=redaction))


def unsampled(rows: Rows) -> None:
    rows["a stage that is not sampled, a root"] = compare(floors.unsampled, our_stage)
    with otel_logging.traced("request"):
        rows["a stage that is not sampled, in a request"] = compare(floors.unsampled, our_stage)


def sent(rows: Rows) -> None:
    requests = 200
    with receiver() as port, set_up(f"http://127.0.0.1:{port}") as observability:
        sender = floors.Sender(port)

        def floor() -> None:
            for _ in range(requests):
                floors.request()
            sender.send()

        def ours() -> None:
            for _ in range(requests):
                our_request()
            assert observability.force_flush(20)

        with otel_logging.bound_context(user_id="user-42"):
            rows["a request of 4 stages and 8 lines, at a real receiver"] = compare(
                floor, ours, requests, turns=10
            )


def encoded(rows: Rows) -> None:
    """Encode 512 spans with 5 attributes and 2 events: OpenTelemetry's encoder, and ours."""
    from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import Event, ReadableSpan
    from opentelemetry.trace import SpanContext, TraceFlags

    from otel_logging import _otlp

    fields = {"user_id": "user-42", "route": "/a", "words": 12, "ratio": 0.5, "cached": True}
    spans = []
    for number in range(512):
        fields["route"] = f"/orders/{number}"
        events = [Event("message handled", dict(fields), 10**18 + n) for n in range(2)]
        context = SpanContext(1 + number, 2 + number, is_remote=False, trace_flags=TraceFlags(1))
        given = {"attributes": dict(fields), "events": events, "resource": Resource({"a": "b"})}
        times = {"start_time": 10**18, "end_time": 10**18 + 5}
        spans.append(ReadableSpan(name="stage", context=context, **given, **times))

    def ours() -> bytes:
        return _otlp.request(
            _otlp.resource({"a": "b"}),
            _otlp.scope("shop"),
            [
                _otlp.span(
                    span.context.trace_id.to_bytes(16, "big"),
                    span.context.span_id,
                    0,
                    "",
                    1,
                    span.name,
                    1,
                    10**18,
                    10**18 + 5,
                    span.attributes or {},
                    [_otlp.event(e.timestamp, e.name, e.attributes or {}) for e in span.events],
                )
                for span in spans
            ],
        )

    rows["OTLP encoding of 512 spans, against OpenTelemetry's encoder"] = compare(
        lambda: encode_spans(spans).SerializeToString(), ours, 512, turns=10
    )


_SET_UP = (
    "import otel_logging, sys;"
    "otel_logging.setup_observability('x', environment='production', spool_dir=sys.argv[1],"
    " endpoint='http://127.0.0.1:9');"
)
_IMPORTS = "import structlog, orjson, opentelemetry.sdk.trace;"
#: Not ``ru_maxrss``, which begins at what the process had that started it.
_PRINT_OWN = (
    "import os, resource, sys, time; used = time.process_time();"
    "pages = open('/proc/self/statm').read().split()[1];"
    "sys.stderr.write(f'{used} {int(pages) * resource.getpagesize()}');"
    "sys.stderr.flush(); os._exit(0)"
)


def imported(rows: Rows) -> None:
    cache = tempfile.TemporaryDirectory()  # compiled once, as an installed package is
    variables = {**os.environ, "PYTHONPYCACHEPREFIX": cache.name}
    variables.pop("PYTHONDONTWRITEBYTECODE", None)

    def run(script: str) -> tuple[float, int]:
        command = [sys.executable, "-c", script + _PRINT_OWN, tempfile.mkdtemp(dir=cache.name)]
        done = subprocess.run(command, env=variables, capture_output=True, text=True, check=True)
        seconds, size = done.stderr.split()
        return float(seconds) * 1e6, int(size)

    run(_IMPORTS), run(_SET_UP)
    pairs = [(run(_IMPORTS), run(_SET_UP)) for _ in range(9)]
    rows["import and set-up, against importing structlog, the SDK and orjson"] = {
        "floor_us": statistics.median(a[0] for a, _ in pairs),
        "ours_us": statistics.median(b[0] for _, b in pairs),
        "ratio": statistics.median(b[0] / a[0] for a, b in pairs),
    }
    rows["  resident memory after that, MiB"] = {
        "floor_us": statistics.median(a[1] for a, _ in pairs) / 2**20,
        "ours_us": statistics.median(b[1] for _, b in pairs) / 2**20,
        "ratio": statistics.median(b[1] / a[1] for a, b in pairs),
    }
    cache.cleanup()


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--json", action="store_true")
    with redirect_stdout(report):
        given = parser.parse_args()
    rows: Rows = {}
    before_set_up(rows)
    with set_up():
        sampled(rows)
        redacted(rows)
    ratio = {"OTEL_TRACES_SAMPLER": "parentbased_traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0"}
    with set_up(**ratio):
        unsampled(rows)
    sent(rows)
    encoded(rows)
    imported(rows)
    if given.json:
        report.write(json.dumps(rows, indent=2) + "\n")
        return
    report.write(f"{'µs of CPU':72}{'floor':>11}{'ours':>11}{'ratio':>8}\n")
    for name, row in rows.items():
        report.write(
            f"{name:72}{row['floor_us']:11.2f}{row['ours_us']:11.2f}{row['ratio']:7.2f}x\n"
        )


if __name__ == "__main__":
    main()
