"""Lines as log records: what a collector gets, through kills, outages and forks."""

import logging
import shutil
import socket
import ssl
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent import futures
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from opentelemetry import _logs, trace
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF

from otel_logging import (
    _diagnostics,
    _otlp,
    bind_context,
    get_logger,
    setup_observability,
    traced,
)
from otel_logging._values import MAX_RECORD_BYTES
from otel_logging.assembly import make_client
from otel_logging.export.delivery import Delivery
from otel_logging.export.ids import encode_resource
from otel_logging.export.records import Records, severity
from otel_logging.export.sender import NOT_DELIVERED, REFUSED
from otel_logging.settings import load
from otel_logging.spool import directories, queue, reading
from tests.programs import good, run
from tests.receiver import (
    Answer,
    LogRecord,
    Receiver,
    Request,
    accept,
    decode_logs,
    partial_success,
    refuse,
)
from tests.test_exit import SOON, Shop

NO_SPAN = trace.INVALID_SPAN
RESOURCE = Resource({"service.name": "shop"})
LOST = REFUSED.format("log records")


class Books:
    """Records with a spool and a worker, without a set-up. Leaving it shuts them down."""

    def __init__(self, endpoint: str | None, base: Path | None) -> None:
        settings = load("shop", environment="production", endpoint=endpoint)
        exporter = settings.log_exporter
        assert exporter is not None
        self.spool = queue.Spool(
            base,
            "shop-1" + directories.LOGS,
            encode_resource(RESOURCE),
            bytes_bound=64 << 20,
            hours=24,
        )
        self.delivery = Delivery(self.spool, make_client(exporter), timeout_s=exporter.timeout_s)
        self.records = Records(settings.limits, self.spool, child_resource=lambda: RESOURCE)
        self.spool.on_work = self.delivery.wake
        self.emit = self.records.emit

    def force_flush(self, timeout_s: float) -> bool:
        return self.delivery.flush(timeout_s)

    def shutdown(self, timeout_s: float) -> bool:
        done = self.delivery.stop(timeout_s)
        self.records.is_open = False
        self.spool.close()
        return done


Make = Callable[..., Books]


@pytest.fixture
def make(receiver: Receiver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Make]:
    """Records that go to *receiver*, or to the endpoint named; ended with the test."""
    made: list[Books] = []
    monkeypatch.setenv("OTEL_LOGS_EXPORTER", "otlp")

    def make(endpoint: str | None = receiver.endpoint) -> Books:
        made.append(Books(endpoint, tmp_path / "spool"))
        return made[-1]

    yield make
    for books in made:
        books.shutdown(0)


@pytest.fixture
def shop(receiver: Receiver, tmp_path: Path) -> Shop:
    return Shop(receiver, tmp_path / "spool")


def say(books: Books, name: str, span: trace.Span = NO_SPAN, /, **fields: Any) -> None:
    books.emit(span, 5_000, name, {"level": "info", "logger": "shop", **fields})


def bodies(receiver: Receiver) -> list[Any]:
    return [record.body for record in receiver.log_records]


# ---------------------------------------------------------------- what a record says


def test_a_line_in_a_span_is_a_record_with_its_ids(make: Make, receiver: Receiver) -> None:
    """Body, severity, scope, attributes, ids, resource: each in the place that OTLP has for it."""
    books = make()
    before = time.time_ns()
    with TracerProvider().get_tracer("t").start_as_current_span("checkout") as span:
        fields = {"level": "warning", "logger": "shop.pay", "user_id": "u-1", "words": 12}
        books.emit(span, 1_700_000_000_000_000_001, "slow answer", fields)
    assert books.force_flush(10)

    (record,) = receiver.log_records
    context = span.get_span_context()
    assert before <= record.observed_ns <= time.time_ns()
    assert record == LogRecord(
        time_ns=1_700_000_000_000_000_001,
        observed_ns=record.observed_ns,
        severity=13,
        severity_text="WARN",
        body="slow answer",
        attributes={"user_id": "u-1", "words": 12},
        trace_id=f"{context.trace_id:032x}",
        span_id=f"{context.span_id:016x}",
        flags=context.trace_flags,
        resource={"service.name": "shop"},
        scope="shop.pay",
    )


def test_the_span_is_the_one_given_whatever_is_current(make: Make, receiver: Receiver) -> None:
    """A line outside any span has no ids, and one of a span that is not sampled is a record."""
    books = make()
    tracer = TracerProvider().get_tracer("t")
    unsampled = TracerProvider(sampler=ALWAYS_OFF).get_tracer("t").start_span("unsampled")
    with tracer.start_as_current_span("current"):
        say(books, "outside")
        say(books, "unsampled", unsampled)
    assert books.force_flush(10)

    outside, inside = receiver.log_records
    assert (outside.trace_id, outside.span_id, outside.flags) == (None, None, 0)
    context = unsampled.get_span_context()
    assert inside.trace_id == f"{context.trace_id:032x}"
    assert inside.flags == context.trace_flags
    assert not inside.flags & trace.TraceFlags.SAMPLED


@pytest.mark.parametrize(
    ("level", "number", "text"),
    [
        ("debug", 5, "DEBUG"),
        ("info", 9, "INFO"),
        ("warning", 13, "WARN"),
        ("warn", 13, "WARN"),
        ("error", 17, "ERROR"),
        ("critical", 21, "FATAL"),
        ("fatal", 21, "FATAL"),
        ("trace", 1, "TRACE"),
        ("notice", 10, "NOTICE"),
        ("level 5", 1, "LEVEL 5"),
        ("level 12", 7, "LEVEL 12"),
        ("level 25", 12, "LEVEL 25"),
        ("level 51", 22, "LEVEL 51"),
        ("level 900", 24, "LEVEL 900"),
        ("level 0", 0, "LEVEL 0"),
        ("whisper", 0, "WHISPER"),
        ("", 0, ""),
    ],
)
def test_levels_have_the_numbers_of_the_data_model(level: str, number: int, text: str) -> None:
    """Python's levels and Syslog's by name, those in between by their number."""
    assert severity(level) == (number, text)


def test_a_level_with_a_name_of_its_own_has_its_number() -> None:
    """What an application has told ``logging`` counts."""
    logging.addLevelName(33, "PAGE_SOMEONE")
    assert severity("page_someone")[0] == 16


class Broken:
    def __repr__(self) -> str:
        raise ValueError("no repr")


class BrokenMapping(Mapping[str, Any]):
    def __iter__(self) -> Iterator[str]:
        raise ValueError("no keys")

    def __len__(self) -> int:
        return 1

    def __getitem__(self, key: str) -> Any:
        raise KeyError(key)


def test_any_value_is_plain_data(make: Make, receiver: Receiver) -> None:
    """What OTLP cannot hold does not cost the line, nor the other lines of its batch."""
    books = make()
    say(books, "lone \ud83d", cart={"a": [1, None]}, none=None, broken=Broken(), big=2**70)
    say(books, "keys", **{"": 1, "lone \ud83d": "lone \ud83d"})
    say(books, "x" * 100_000, logger="lone \ud83d", level=None)
    assert books.force_flush(10)

    first, keys, long = receiver.log_records
    assert first.body == keys.attributes["lone \\ud83d"] == long.scope == "lone \\ud83d"
    assert first.attributes == {
        "cart": {"a": [1, None]},
        "none": None,
        "broken": "<unprintable Broken>",
        "big": str(2**70),
    }
    assert keys.attributes["_"] == 1
    assert len(long.body) < 10_000
    assert (long.severity, long.severity_text) == (0, "NONE")


def test_a_line_without_a_logger_has_our_scope(make: Make, receiver: Receiver) -> None:
    """Somebody's own structlog chain may name no logger and no level."""
    books = make()
    books.emit(NO_SPAN, 1, "bare", {})
    assert books.force_flush(10)
    (record,) = receiver.log_records
    assert (record.scope, record.severity, record.attributes) == ("otel_logging", 0, {})


def test_limits_hold_and_what_they_cut_is_counted(
    make: Make, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """OTEL_ATTRIBUTE_COUNT_LIMIT and OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT are for records too."""
    monkeypatch.setenv("OTEL_ATTRIBUTE_COUNT_LIMIT", "2")
    monkeypatch.setenv("OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT", "3")
    books = make()
    say(books, "cut", a="abcdef", b=1, c=2, d=3)
    assert books.force_flush(10)
    assert receiver.log_records[0].attributes == {"a": "abc", "b": 1}
    assert _diagnostics.counts["fields of log records dropped: over the limit of attributes"] == 2


def test_records_have_limits_of_their_own(
    make: Make, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """OTEL_LOGRECORD_ATTRIBUTE_*; those of events do not hold for them, and 128 is usual."""
    monkeypatch.setenv("OTEL_EVENT_ATTRIBUTE_COUNT_LIMIT", "1000")
    wide = {f"f{n}": "wide" for n in range(130)}
    books = make()
    say(books, "wide", **wide)
    monkeypatch.setenv("OTEL_LOGRECORD_ATTRIBUTE_COUNT_LIMIT", "129")
    monkeypatch.setenv("OTEL_LOGRECORD_ATTRIBUTE_VALUE_LENGTH_LIMIT", "2")
    say(make(), "wider", **wide)
    assert books.force_flush(10)
    receiver.wait_for(lambda r: len(r.log_records) == 2)
    first, second = sorted(receiver.log_records, key=lambda record: len(record.attributes))
    assert (len(first.attributes), len(second.attributes)) == (128, 129)
    assert (first.attributes["f0"], second.attributes["f0"]) == ("wide", "wi")
    assert _diagnostics.counts["fields of log records dropped: over the limit of attributes"] == 3


class UnspeakableError(Exception):
    def __str__(self) -> str:
        raise ValueError("no words")


def test_an_exception_has_the_names_of_the_semantic_conventions(
    make: Make, receiver: Receiver
) -> None:
    """Its type with its module, unless it is Python's own; its message; its traceback."""
    books = make()
    fields = {"level": "error", "exception": "Traceback: ..."}
    books.emit(NO_SPAN, 1, "builtin", fields, KeyError("k"))
    books.emit(NO_SPAN, 1, "ours", fields, UnspeakableError())
    books.emit(NO_SPAN, 1, "rendered", fields)
    assert books.force_flush(10)
    builtin, ours, rendered = (record.attributes for record in receiver.log_records)
    assert builtin == {
        "exception.type": "KeyError",
        "exception.message": "'k'",
        "exception.stacktrace": "Traceback: ...",
    }
    assert ours["exception.type"] == "tests.test_records.UnspeakableError"
    assert ours["exception.message"] == "<unprintable UnspeakableError>"
    assert rendered == {"exception.stacktrace": "Traceback: ..."}


def test_a_record_that_is_too_much_in_all_is_shortened(make: Make, receiver: Receiver) -> None:
    """To 256 KiB, its message included; it says so."""
    books = make()
    say(books, "é" * 9_000, **{f"f{n}": "é" * 8_000 for n in range(60)})
    say(books, "wide", **{"n" * 1_000 + str(n): n for n in range(1_000)})
    assert books.force_flush(10)
    long, wide = receiver.log_records
    for record in (long, wide):
        encoded = _otlp.event(record.time_ns, record.body, record.attributes)
        assert len(encoded) <= MAX_RECORD_BYTES
    assert len(long.attributes) == 60
    assert all("more]" in value for value in [long.body, *long.attributes.values()])
    assert len(wide.attributes) == 128
    assert _diagnostics.counts["fields of log records dropped: over the limit of attributes"] > 50


# ---------------------------------------------------------------- how it gets there


def test_records_go_where_their_own_variables_say(
    make: Make, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """OTEL_EXPORTER_OTLP_LOGS_*, each before the one for all signals; no .netrc, no proxy."""
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_LOGS_ENDPOINT", receiver.endpoint + "/v1/logs?x=1")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "x-tenant=6")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_LOGS_HEADERS", "authorization=Bearer%20s,x-tenant=7")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_COMPRESSION", "none")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_LOGS_COMPRESSION", "gzip")
    books = make(None)
    say(books, "hello")
    assert books.force_flush(10)

    (request,) = receiver.requests
    assert request.path == "/v1/logs?x=1"
    assert request.headers["authorization"] == "Bearer s"
    assert request.headers["x-tenant"] == "7"
    assert request.headers["content-encoding"] == "gzip"
    assert bodies(receiver) == ["hello"]


def test_without_variables_of_their_own_they_go_beside_the_spans(
    make: Make, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """OTEL_EXPORTER_OTLP_*: with its user, query, headers and compression."""
    endpoint = receiver.endpoint.replace("//", "//me:pw@") + "/base/?x=1"
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://127.0.0.1:9/ingest")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_HEADERS", "x-tenant=6")
    receiver.answer = refuse(200)
    books = make(None)
    say(books, "hello")
    receiver.wait_for(lambda r: r.requests)
    request = receiver.requests[0]
    assert request.path == "/base/v1/logs?x=1"
    assert request.headers["authorization"] == "Basic bWU6cHc="
    assert "x-tenant" not in request.headers


def test_no_global_logger_provider_is_set(make: Make) -> None:
    """OpenTelemetry's own logs of somebody else go where they went before."""
    before = _logs.get_logger_provider()
    say(make(), "hello")
    assert _logs.get_logger_provider() is before


def test_lines_of_many_threads_arrive_once(make: Make, receiver: Receiver) -> None:
    """Each line, whoever logs at the same time; all loggers in one request."""
    books = make()

    def work(worker: int) -> None:
        for number in range(300):
            say(books, f"{worker}-{number}", logger=f"shop.{worker}")

    with futures.ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))
    assert books.force_flush(20)
    expected = Counter({f"{worker}-{n}": 1 for worker in range(8) for n in range(300)})
    assert Counter(bodies(receiver)) == expected
    assert {record.scope for record in receiver.log_records} == {f"shop.{n}" for n in range(8)}
    assert not _diagnostics.counts
    assert len(receiver.requests) < 40  # not one a logger and half a second


def test_a_line_logged_while_another_is_made_is_a_record_too(
    make: Make, receiver: Receiver
) -> None:
    """A finaliser, a signal handler or a __repr__ that logs."""
    books = make()

    class Chatty:
        def __repr__(self) -> str:
            say(books, "inner")
            return "chatty"

    say(books, "outer", value=Chatty())
    assert books.force_flush(10)
    assert sorted(bodies(receiver)) == ["inner", "outer"]


def test_a_burst_is_delivered_whole(make: Make, receiver: Receiver) -> None:
    """However many lines at once."""
    books = make()
    for number in range(10_000):
        say(books, f"{number}")
    assert books.force_flush(30)
    assert Counter(bodies(receiver)) == Counter(map(str, range(10_000)))


# ---------------------------------------------------------------- both ways


def test_lines_leave_as_records_and_as_events(
    receiver: Receiver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """OTEL_LOGS_EXPORTER=otlp,span: each line once as either, its traceback in each record."""
    monkeypatch.setenv("OTEL_LOGS_EXPORTER", "otlp, span")
    with setup_observability(
        "shop", environment="production", endpoint=receiver.endpoint, spool_dir=tmp_path
    ) as observability:
        tracer, log = trace.get_tracer("t"), get_logger("shop")
        log.info("outside")
        with tracer.start_as_current_span("stage") as span:
            try:
                raise KeyError("k")
            except KeyError:
                log.exception("first")
                log.exception("second", n=1)
        assert observability.force_flush(10)
        assert "delivered to" in repr(observability)
    assert sorted(bodies(receiver)) == ["first", "outside", "second"]
    assert sorted(event.name for _, event in receiver.events) == ["first", "outside", "second"]
    for record in receiver.log_records:
        if record.body != "outside":
            assert record.span_id == f"{span.get_span_context().span_id:016x}"
            assert record.attributes["exception.type"] == "KeyError"
            assert "Traceback" in record.attributes["exception.stacktrace"]
    told = {e.name: e.attributes["exception"] for _, e in receiver.events if e.name != "outside"}
    assert "Traceback" in told["first"]
    assert told["second"] == "KeyError: 'k'"


@pytest.mark.parametrize("exporters", ["otlp", "otlp,span"])
def test_an_exception_that_nobody_logged_is_a_record_and_no_event(
    exporters: str, receiver: Receiver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same line as on stdout, with the ids of the stage that it left."""
    monkeypatch.setenv("OTEL_LOGS_EXPORTER", exporters)
    with setup_observability(
        "shop", environment="production", endpoint=receiver.endpoint, spool_dir=tmp_path
    ) as observability:
        with suppress(ValueError), traced("checkout"):
            bind_context(user_id="grace")
            raise ValueError("boom")
        assert observability.force_flush(10)
    (record,) = receiver.log_records
    (span,) = receiver.spans
    assert (record.body, record.severity) == ("an exception left its entry stage", 17)
    assert (record.trace_id, record.span_id) == (span.trace_id, span.span_id)
    told = {key: record.attributes[key] for key in ("user_id", "stage", "exception.message")}
    assert told == {"user_id": "grace", "stage": "checkout", "exception.message": "boom"}
    assert record.attributes["exception.stacktrace"].endswith("ValueError: boom")
    assert [event.name for _, event in receiver.events] == ["exception"]


def test_records_wait_where_no_reader_takes_them_for_spans(make: Make, tmp_path: Path) -> None:
    """`late`, `show` and the doctor look for spans; what waits is counted."""
    books = make("http://127.0.0.1:1")
    say(books, "hello")
    assert reading.segments(tmp_path / "spool") == []
    assert list(reading.read(tmp_path / "spool")) == []
    assert len(list((tmp_path / "spool").glob("*.logs/*/0*"))) == 1
    assert [waits for waits, *_ in directories.sizes(tmp_path / "spool/shop-1.logs")] == [True]


# ---------------------------------------------------------------- collectors that do not take it


def test_a_busy_collector_is_asked_again(make: Make, receiver: Receiver) -> None:
    """After 503, and as long as it takes."""
    refused: list[Request] = []

    def answer(request: Request) -> Answer:
        if len(refused) == 2:
            return 200, {}, b""
        refused.append(request)
        return 503, {}, b""

    receiver.answer = answer
    books = make()
    say(books, "hello")
    assert books.force_flush(20)
    assert bodies(receiver) == ["hello"]
    assert not _diagnostics.counts


@pytest.mark.parametrize("status", [401, 302])
def test_a_mistake_of_the_set_up_is_reported_and_the_records_wait(
    make: Make, receiver: Receiver, status: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """A redirect is one too: following it would make a GET of it."""
    receiver.answer = refuse(status, location=receiver.endpoint + "/v1/logs")
    books = make()
    say(books, "one")
    assert not books.force_flush(0.5)
    err = capsys.readouterr().err
    assert NOT_DELIVERED.format("log records") in err
    assert f"HTTP {status}" in err
    assert "/v1/traces" not in err
    receiver.answer = accept
    assert books.force_flush(10)
    assert bodies(receiver) == ["one"]


def test_what_a_collector_refuses_is_counted(
    make: Make, receiver: Receiver, capsys: pytest.CaptureFixture[str]
) -> None:
    """The bad record alone, once the collector has taken others."""

    def answer(request: Request) -> Answer:
        bad = any(record.body == "bad" for record in request.log_records)
        return (400, {}, b"bad record") if bad else (200, {}, b"")

    receiver.answer = answer
    books = make()
    for name in ("one", "bad", "two"):
        say(books, name)
    assert books.force_flush(10)
    assert sorted(bodies(receiver)) == ["one", "two"]
    assert _diagnostics.counts == {LOST: 1}
    assert "HTTP 400 Bad Request bad record" in capsys.readouterr().err


def test_what_a_collector_takes_in_part_is_counted(
    make: Make, receiver: Receiver, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its partial success says how many it rejected, and why."""
    books = make()
    say(books, "zero")
    assert books.force_flush(10)
    receiver.answer = partial_success(2, "too old")
    for name in ("one", "two", "three"):
        say(books, name)
    assert books.force_flush(10)
    assert _diagnostics.counts == {LOST: 2}
    assert "too old" in capsys.readouterr().err


def test_an_answer_that_is_no_protobuf_is_an_answer(make: Make, receiver: Receiver) -> None:
    """A proxy that answers "ok" has taken it."""
    receiver.answer = lambda _: (200, {}, b"\xff\xff")
    books = make()
    say(books, "one")
    assert books.force_flush(10)
    assert not _diagnostics.counts


def test_a_line_that_cannot_be_made_is_counted(make: Make) -> None:
    """``emit`` never raises."""
    make().emit(NO_SPAN, 1, "broken", BrokenMapping())
    assert _diagnostics.counts == {"log records lost: they could not be made": 1}


def test_no_thread_waits_for_a_collector_that_hangs(make: Make, receiver: Receiver) -> None:
    """Neither ``emit``, nor flush and shutdown beyond their time; the next start delivers."""
    books = make()
    say(books, "taken")
    assert books.force_flush(10)
    receiver.answer = receiver.hang
    say(books, "waits")
    before = time.monotonic()
    assert not books.force_flush(0.2)
    say(books, "waits too")
    assert not books.shutdown(0.3)
    assert time.monotonic() - before < 2  # 0.5 s asked for
    assert not _diagnostics.counts
    receiver.stop()
    assert bodies(receiver) == ["taken"]
    with Receiver() as second:
        after = make(second.endpoint)
        assert after.force_flush(10)
        assert sorted(bodies(second)) == ["waits", "waits too"]


def test_without_a_collector_shutdown_takes_a_second(make: Make) -> None:
    """One that has never answered is not waited for; nothing is lost."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and does not listen
        books = make(f"http://127.0.0.1:{taken.getsockname()[1]}")
        say(books, "waits")
        before = time.monotonic()
        assert not books.shutdown(30)
        assert time.monotonic() - before < 3
    assert not _diagnostics.counts


def test_without_a_disk_what_is_left_at_the_end_is_counted(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They wait in memory, within a bound."""
    monkeypatch.setenv("OTEL_LOGS_EXPORTER", "otlp")
    receiver.answer = refuse(503)
    books = Books(receiver.endpoint, None)
    for number in range(3):
        say(books, f"{number}")
    assert not books.shutdown(0.3)
    assert _diagnostics.counts["log records lost at exit: they waited in memory alone"] == 3


# ---------------------------------------------------------------- the end, kills, and forks


def test_shutdown_delivers_and_ends(make: Make, receiver: Receiver) -> None:
    """Afterwards nothing is taken, and flush and shutdown have nothing to do."""
    books = make()
    say(books, "last words")
    assert books.shutdown(10)
    assert bodies(receiver) == ["last words"]
    say(books, "afterwards")
    assert books.shutdown(10)
    assert bodies(receiver) == ["last words"]
    assert not _diagnostics.counts


RECORDS = {"OTEL_LOGS_EXPORTER": "otlp"}
ALONE = {**RECORDS, "OTEL_TRACES_EXPORTER": "none"}
START = """
import logging, os, sys, time
from otel_logging import get_logger, setup_observability, traced
observability, log = setup_observability("shop"), get_logger("shop")
"""


@pytest.mark.parametrize("environment", [RECORDS, ALONE], ids=["spans too", "alone"])
def test_a_killed_process_loses_no_line_that_had_been_logged(
    shop: Shop, environment: dict[str, str]
) -> None:
    """Signal 9 right after the last line, during an outage; the next start delivers each once."""
    shop.receiver.answer = refuse(503)
    script = (
        START
        + """
for number in range(2000):
    log.info(str(number))
os.kill(os.getpid(), 9)
"""
    )
    with pytest.raises(AssertionError):
        shop.run(script, **environment)
    shop.receiver.answer = accept
    shop.run(START + "assert observability.force_flush(40)", **environment)
    assert Counter(bodies(shop.receiver)) == Counter(map(str, range(2000)))


def test_an_outage_costs_nothing(make: Make, receiver: Receiver) -> None:
    """A collector that dies and comes back gets everything, in order of nothing but once."""
    books = make()
    say(books, "before")
    assert books.force_flush(10)
    port = receiver.port
    receiver.stop()
    for number in range(500):
        say(books, f"{number}")
    assert not books.force_flush(0.5)
    with Receiver(port) as second:
        assert books.force_flush(20)
        assert Counter(bodies(second)) == Counter(map(str, range(500)))
    assert not _diagnostics.counts


def test_lines_at_exit_are_delivered_by_the_next_start(shop: Shop) -> None:
    """Those before our exit handler at once; those after it wait on disk."""
    shop.run(
        "import atexit\natexit.register(lambda: [log.info('late'), log.info('later')])\n"
        + START
        + "log.info('normal')",
        **RECORDS,
    )
    assert bodies(shop.receiver) == ["normal"]
    assert shop.err == ""
    shop.run(START + "assert observability.force_flush(10)", **RECORDS)
    assert sorted(bodies(shop.receiver)) == ["late", "later", "normal"]


@pytest.mark.alone
@pytest.mark.parametrize("answer", [Receiver.hang, refuse(503)], ids=["hangs", "refuses"])
def test_exit_is_in_time_whatever_the_collector_does(
    shop: Shop, answer: Callable[..., Answer], tmp_path: Path
) -> None:
    """5 s at most, which are one here, and nothing is lost."""

    def answer_second(request: Request) -> Answer:
        if len(shop.receiver.requests) == 1:
            return 200, {}, b""
        return answer(shop.receiver, request) if answer is Receiver.hang else answer(request)

    shop.receiver.answer = answer_second
    end = tmp_path / "end"
    script = "log.info('taken')\nassert observability.force_flush(10)\nlog.info('waits')\n"
    shop.run(f"{SOON}{START}{script}open({str(end)!r}, 'w').close()", **RECORDS)
    assert time.time() - end.stat().st_mtime < 6  # the interpreter's own end included
    assert bodies(shop.receiver) == ["taken"]
    shop.receiver.answer = accept
    shop.run(START + "assert observability.force_flush(10)", **RECORDS)
    assert sorted(bodies(shop.receiver)) == ["taken", "waits"]


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no fork")
@pytest.mark.parametrize("environment", [RECORDS, ALONE], ids=["spans too", "alone"])
def test_a_forked_child_sends_its_own_records_under_its_own_resource(
    shop: Shop, environment: dict[str, str]
) -> None:
    """The parent's waiting records are not sent twice; the resource is that of the spans."""
    script = (
        START
        + """
import warnings
warnings.simplefilter("ignore", DeprecationWarning)  # fork beside threads, from Python 3.12 on
log.info("parent, delivered")
assert observability.force_flush(10)
log.info("parent, waiting")
if (child := os.fork()) == 0:
    with traced("stage"):
        log.info("child")
    assert observability.shutdown(10)
    sys.exit()
assert os.waitpid(child, 0)[1] == 0
log.info("parent, afterwards")
"""
    )
    shop.run(script, **environment)
    found = {record.body: record.resource for record in shop.receiver.log_records}
    assert sorted(bodies(shop.receiver)) == [
        "child",
        "parent, afterwards",
        "parent, delivered",
        "parent, waiting",
    ]
    parents = {found[body]["process.pid"] for body in found if body != "child"}
    assert len(parents) == 1
    assert found["child"]["process.pid"] not in parents
    assert found["child"]["service.name"] == "shop"
    ids = {span.resource["service.instance.id"] for span in shop.receiver.spans}
    assert ids == (set() if environment is ALONE else {found["child"]["service.instance.id"]})


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no fork")
def test_a_killed_child_s_lines_outside_any_span_are_records_and_no_events(shop: Shop) -> None:
    """A limit: the open `process log` span ends with the child. A line in a stage is both."""
    script = (
        START
        + """
import warnings
warnings.simplefilter("ignore", DeprecationWarning)  # fork beside threads, from Python 3.12 on
if (child := os.fork()) == 0:
    with traced("stage"):
        log.info("inside")
    log.info("outside")
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
"""
    )
    assert shop.run(script, OTEL_LOGS_EXPORTER="otlp,span") == ["inside", "outside"]
    shop.run(START + "assert observability.force_flush(10)", OTEL_LOGS_EXPORTER="otlp,span")
    assert sorted(bodies(shop.receiver)) == ["inside", "outside"]
    assert shop.delivered() == ["inside"]


def test_sigterm_handlers_may_log(shop: Shop) -> None:
    """In the middle of a log call: each line once."""
    script = (
        START
        + """
import signal
signal.signal(signal.SIGALRM, lambda *_: log.info("from the handler"))
signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
for number in range(3000):
    log.info("line")
signal.setitimer(signal.ITIMER_REAL, 0)
"""
    )
    lines = Counter(shop.run(script, **ALONE))
    assert lines["line"] == 3000
    assert Counter(bodies(shop.receiver)) == lines


# ---------------------------------------------------------------- TLS and gRPC


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A key, and a certificate of it for 127.0.0.1, signed with itself."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("no openssl to make a certificate with")
    where = tmp_path_factory.mktemp("tls")
    key, signed = where / "key.pem", where / "certificate.pem"
    command = [openssl, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"]
    command += ["-keyout", str(key), "-out", str(signed), "-subj", "/CN=127.0.0.1"]
    command += ["-addext", "subjectAltName=IP:127.0.0.1"]
    good(run(*command))
    return key, signed


def use(certificate: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    key, signed = map(str, certificate)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_CERTIFICATE", signed)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_CLIENT_KEY", key)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE", signed)


def test_certificates_are_those_of_the_settings(
    make: Make,
    receiver: Receiver,
    certificate: tuple[Path, Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The collector's is checked, and it may ask for ours."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate[1], certificate[0])
    context.load_verify_locations(certificate[1])
    context.verify_mode = ssl.CERT_REQUIRED
    receiver._server.socket = context.wrap_socket(receiver._server.socket, server_side=True)
    use(certificate, monkeypatch)
    books = make(receiver.endpoint.replace("http:", "https:"))
    say(books, "sealed")
    assert books.force_flush(10)
    assert bodies(receiver) == ["sealed"]


class GrpcReceiver:
    """OTLP/gRPC for logs, with TLS if it has a certificate; keeps what comes."""

    def __init__(self, certificate: tuple[Path, Path] | None = None) -> None:
        grpc = pytest.importorskip("grpc")
        self.log_records: list[LogRecord] = []
        self.metadata: dict[str, Any] = {}
        self._server = grpc.server(futures.ThreadPoolExecutor(1))
        self._server.add_generic_rpc_handlers(
            [
                grpc.method_handlers_generic_handler(
                    "opentelemetry.proto.collector.logs.v1.LogsService",
                    {"Export": grpc.unary_unary_rpc_method_handler(self._export)},
                )
            ]
        )
        if certificate is None:
            port, scheme = self._server.add_insecure_port("127.0.0.1:0"), "http"
        else:
            key, signed = (path.read_bytes() for path in certificate)
            credentials = grpc.ssl_server_credentials(
                [(key, signed)], signed, require_client_auth=True
            )
            port, scheme = self._server.add_secure_port("127.0.0.1:0", credentials), "https"
        self.endpoint = f"{scheme}://127.0.0.1:{port}"
        self._server.start()

    def _export(self, body: bytes, context: Any) -> bytes:
        self.metadata = dict(context.invocation_metadata())
        self.log_records += decode_logs(body)
        return b""

    def stop(self) -> None:
        self._server.stop(None).wait(10)


@pytest.mark.parametrize("secure", [False, True])
def test_grpc_is_spoken_where_the_protocol_is_grpc(
    make: Make, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest, secure: bool
) -> None:
    """With the same headers, compression and certificates; for records alone, too."""
    certificate = request.getfixturevalue("certificate") if secure else None
    collector = GrpcReceiver(certificate)
    if certificate:
        use(certificate, monkeypatch)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_LOGS_PROTOCOL", "grpc")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "X-Tenant=7")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip")
    books = make(collector.endpoint)
    try:
        say(books, "hello", words=3)
        assert books.force_flush(10)
        assert books.shutdown(10)
    finally:
        collector.stop()
    (record,) = collector.log_records
    assert (record.body, record.severity) == ("hello", 9)
    assert record.attributes == {"words": 3}
    assert collector.metadata["x-tenant"] == "7"
