"""Lines as log records: what a collector gets, and what is counted where it gets nothing."""

import logging
import os
import shutil
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent import futures
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from opentelemetry import _logs, trace
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF

from otel_logging import _otlp, _trouble
from otel_logging._values import MAX_RECORD_BYTES
from otel_logging.export.outlet import QUEUE_RECORDS, this_thread
from otel_logging.export.records import Records, severity
from otel_logging.settings import ConfigurationError, Settings, load
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

ROOT = Path(__file__).parent.parent
NO_SPAN = trace.INVALID_SPAN
RESOURCE = Resource({"service.name": "shop"})
NOT_TAKEN = "log records lost: the collector did not take them"

Make = Callable[..., Records]


def settings_for(endpoint: str) -> Settings:
    return load("shop", environment="production", endpoint=endpoint)


@pytest.fixture
def make(receiver: Receiver) -> Iterator[Make]:
    """Records that go to *receiver*, or to the endpoint named; ended with the test."""
    made: list[Records] = []

    def make(endpoint: str = receiver.endpoint) -> Records:
        made.append(Records(settings_for(endpoint), RESOURCE))
        return made[-1]

    yield make
    for records in made:
        records.shutdown(0)


def say(records: Records, name: str, span: trace.Span = NO_SPAN, /, **fields: Any) -> None:
    records.emit(span, 5_000, name, {"level": "info", "logger": "shop", **fields})


def bodies(receiver: Receiver) -> list[Any]:
    return [record.body for record in receiver.log_records]


# ---------------------------------------------------------------- what a record says


def test_a_line_in_a_span_is_a_record_with_its_ids(make: Make, receiver: Receiver) -> None:
    """Body, severity, scope, attributes, ids, resource: each in the place that OTLP has for it."""
    records = make()
    before = time.time_ns()
    with TracerProvider().get_tracer("t").start_as_current_span("checkout") as span:
        fields = {"level": "warning", "logger": "shop.pay", "user_id": "u-1", "words": 12}
        records.emit(span, 1_700_000_000_000_000_001, "slow answer", fields)
    assert records.force_flush(10)

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
    records = make()
    tracer = TracerProvider().get_tracer("t")
    unsampled = TracerProvider(sampler=ALWAYS_OFF).get_tracer("t").start_span("unsampled")
    with tracer.start_as_current_span("current"):
        say(records, "outside")
        say(records, "unsampled", unsampled)
    assert records.force_flush(10)

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
    found, name = severity(level)
    assert (found.value, name) == (number, text)


def test_a_level_with_a_name_of_its_own_has_its_number() -> None:
    """What an application has told ``logging`` counts."""
    logging.addLevelName(35, "PAGE_SOMEONE")
    assert severity("page_someone")[0].value == 16


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
    records = make()
    say(records, "lone \ud83d", cart={"a": [1, None]}, none=None, broken=Broken(), big=2**70)
    say(records, "keys", **{"": 1, "lone \ud83d": "lone \ud83d"})
    say(records, "x" * 100_000, logger="lone \ud83d", level=None)
    assert records.force_flush(10)

    first, keys, long = receiver.log_records
    assert first.body == keys.attributes["lone \\ud83d"] == long.scope == "lone \\ud83d"
    assert first.attributes == {
        "cart": '{"a":[1,null]}',
        "none": "null",
        "broken": "<unprintable Broken>",
        "big": f"{2**70:#x}",
    }
    assert keys.attributes["_"] == 1
    assert len(long.body) < 10_000
    assert (long.severity, long.severity_text) == (0, "NONE")


def test_a_line_without_a_logger_has_our_scope(make: Make, receiver: Receiver) -> None:
    """Somebody's own structlog chain may name no logger and no level."""
    records = make()
    records.emit(NO_SPAN, 1, "bare", {})
    assert records.force_flush(10)
    (record,) = receiver.log_records
    assert (record.scope, record.severity, record.attributes) == ("otel_logging", 0, {})


def test_limits_hold_and_what_they_cut_is_counted(
    make: Make, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """OTEL_ATTRIBUTE_COUNT_LIMIT and OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT are for records too."""
    monkeypatch.setenv("OTEL_ATTRIBUTE_COUNT_LIMIT", "2")
    monkeypatch.setenv("OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT", "3")
    records = make()
    say(records, "cut", a="abcdef", b=1, c=2, d=3)
    assert records.force_flush(10)
    assert receiver.log_records[0].attributes == {"a": "abc", "b": 1}
    assert _trouble.counts["fields of log records dropped: over the limit of attributes"] == 2


def test_more_attributes_than_the_sdk_keeps_are_counted(
    make: Make, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The SDK keeps 128, and warns at each line that has more; it gets no more."""
    monkeypatch.setenv("OTEL_EVENT_ATTRIBUTE_COUNT_LIMIT", "1000")
    records = make()
    say(records, "wide", **{f"f{n}": n for n in range(130)})
    assert records.force_flush(10)
    assert len(receiver.log_records[0].attributes) == 128
    assert _trouble.counts["fields of log records dropped: over the limit of attributes"] == 2


def test_a_record_that_is_too_much_in_all_is_shortened(make: Make, receiver: Receiver) -> None:
    """To 256 KiB, its message included; it says so."""
    records = make()
    say(records, "é" * 9_000, **{f"f{n}": "é" * 8_000 for n in range(60)})
    say(records, "wide", **{"n" * 1_000 + str(n): n for n in range(1_000)})
    assert records.force_flush(10)
    long, wide = receiver.log_records
    for record in (long, wide):
        encoded = _otlp.event(record.time_ns, record.body, record.attributes)
        assert len(encoded) <= MAX_RECORD_BYTES
    assert len(long.attributes) == 60
    assert all("more]" in value for value in [long.body, *long.attributes.values()])
    assert len(wide.attributes) == 128
    assert _trouble.counts["fields of log records dropped: over the limit of attributes"] > 50


# ---------------------------------------------------------------- how it gets there


def test_the_exporter_is_set_up_as_for_traces(
    make: Make, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beside the endpoint of traces, with its headers and compression; no .netrc, no proxy."""
    netrc = Path(os.environ["HOME"]) / ".netrc"
    netrc.write_text("machine 127.0.0.1 login someone password else\n")
    monkeypatch.setenv("NETRC", str(netrc))
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "authorization=Bearer%20secret,x-tenant=7")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip")
    records = make()
    say(records, "hello")
    assert records.force_flush(10)

    (request,) = receiver.requests
    assert request.path == "/v1/logs"
    assert request.headers["authorization"] == "Bearer secret"
    assert request.headers["x-tenant"] == "7"
    assert request.headers["content-encoding"] == "gzip"


def test_an_endpoint_of_traces_alone_does_not_say_where_records_go(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """OTEL_EXPORTER_OTLP_TRACES_ENDPOINT is taken as it is, so it need not end in /v1/traces."""
    variable = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"
    monkeypatch.setenv(variable, receiver.endpoint + "/ingest")
    with pytest.raises(ConfigurationError, match=f"{variable}='{receiver.endpoint}/ingest': a URL"):
        Records(load("shop", environment="production"), RESOURCE)

    monkeypatch.setenv(variable, receiver.endpoint + "/v1/traces/")
    records = Records(load("shop", environment="production"), RESOURCE)
    say(records, "hello")
    assert records.shutdown(10)
    assert receiver.requests[0].path == "/v1/logs"


def test_records_go_beside_an_endpoint_with_a_user_and_a_query(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both are sent with them."""
    endpoint = receiver.endpoint.replace("//", "//me:pw@") + "?x=1"
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint)
    records = Records(load("shop", environment="production"), RESOURCE)
    say(records, "hello")
    assert records.shutdown(10)
    (request,) = receiver.requests
    assert request.path == "/v1/logs?x=1"
    assert request.headers["authorization"] == "Basic bWU6cHc="
    assert bodies(receiver) == ["hello"]


def test_no_global_logger_provider_is_set(make: Make) -> None:
    """OpenTelemetry's own logs of somebody else go where they went before."""
    before = _logs.get_logger_provider()
    say(make(), "hello")
    assert _logs.get_logger_provider() is before


def test_lines_of_many_threads_arrive_once(make: Make, receiver: Receiver) -> None:
    """Each line, whoever logs at the same time."""
    records = make()

    def work(worker: int) -> None:
        for number in range(300):
            say(records, f"{worker}-{number}", logger=f"shop.{worker}")

    with futures.ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))
    assert records.force_flush(20)
    expected = Counter({f"{worker}-{n}": 1 for worker in range(8) for n in range(300)})
    assert Counter(bodies(receiver)) == expected
    assert {record.scope for record in receiver.log_records} == {f"shop.{n}" for n in range(8)}
    assert not _trouble.counts


def test_a_line_logged_while_another_is_made_is_a_record_too(
    make: Make, receiver: Receiver
) -> None:
    """A finaliser, a signal handler or a __repr__ that logs comes after the line it is in."""
    records = make()

    class Chatty:
        def __repr__(self) -> str:
            say(records, "inner")
            return "chatty"

    say(records, "outer", value=Chatty())
    assert records.force_flush(10)
    assert bodies(receiver) == ["outer", "inner"]


def test_what_delivery_itself_logs_is_no_record(make: Make, receiver: Receiver) -> None:
    """Else each request would be the cause of the next one."""
    receiver.answer = refuse(400)
    records = make()
    said: list[str] = []

    class Takeover(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            said.append(record.name)
            say(records, record.getMessage(), logger=record.name)

    handler, root = Takeover(), logging.getLogger()
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    try:
        say(records, "hello")
        assert not records.force_flush(10)
        assert records.force_flush(10)
        assert records.shutdown(10)
    finally:
        root.setLevel(level)
        root.removeHandler(handler)
    assert any(name.startswith("urllib3") for name in said)
    assert any(name.startswith("opentelemetry") for name in said)
    assert len(receiver.requests) == 1


# ---------------------------------------------------------------- collectors that do not take it


def test_a_busy_collector_is_asked_again(make: Make, receiver: Receiver) -> None:
    """The SDK's exporter tries again after 503."""
    refused: list[Request] = []

    def answer(request: Request) -> Answer:
        if refused:
            return 200, {}, b""
        refused.append(request)
        return 503, {}, b""

    receiver.answer = answer
    records = make()
    say(records, "hello")
    assert records.force_flush(20)
    assert bodies(receiver) == ["hello"]
    assert not _trouble.counts


@pytest.mark.parametrize("status", [400, 404, 302, 307])
def test_what_a_collector_refuses_is_counted(
    make: Make, receiver: Receiver, status: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """A redirect is a refusal too: following one would make a GET of it."""
    receiver.answer = refuse(status, location=receiver.endpoint + "/v1/logs")
    records = make()
    say(records, "one")
    say(records, "two")
    assert not records.force_flush(10)
    assert len(receiver.requests) == 1
    assert _trouble.counts == {NOT_TAKEN: 2}
    assert f"HTTP {status}" in capsys.readouterr().err


def test_what_a_collector_takes_in_part_is_counted(
    make: Make, receiver: Receiver, capsys: pytest.CaptureFixture[str]
) -> None:
    """The SDK's exporter does not look at partial success."""
    receiver.answer = partial_success(2, "too old")
    records = make()
    say(records, "one")
    assert not records.force_flush(10)
    assert _trouble.counts == {NOT_TAKEN: 2}
    assert "too old" in capsys.readouterr().err


def test_an_exporter_that_raises_costs_its_batch_and_no_more(
    make: Make,
    receiver: Receiver,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It does where a filter of the application's raises at what it logs."""
    receiver.answer = refuse(400)
    records = make()

    class BrokenFilter(logging.Filter):
        def filter(self, record: logging.LogRecord) -> bool:
            raise RuntimeError("no filter")

    exporter = logging.getLogger("opentelemetry.exporter.otlp.proto.http._log_exporter")
    with monkeypatch.context() as patch:
        # instead of the SDK's, which lets a message through once in 20 s
        patch.setattr(exporter, "filters", [BrokenFilter()])
        say(records, "one")
        assert not records.force_flush(10)
    assert _trouble.counts == {NOT_TAKEN: 1}
    assert "RuntimeError: no filter" in capsys.readouterr().err
    receiver.answer = accept
    say(records, "two")
    assert records.force_flush(10)
    assert bodies(receiver) == ["two"]


def test_an_answer_that_is_no_protobuf_is_an_answer(make: Make, receiver: Receiver) -> None:
    """A proxy that answers "ok" has taken it."""
    receiver.answer = lambda _: (200, {}, b"\xff\xff")
    records = make()
    say(records, "one")
    assert records.force_flush(10)
    assert not _trouble.counts


def test_a_line_that_cannot_be_made_is_counted(make: Make) -> None:
    """``emit`` never raises."""
    make().emit(NO_SPAN, 1, "broken", BrokenMapping())
    assert _trouble.counts == {"log records lost: they could not be made": 1}


def test_nobody_waits_for_a_collector_that_hangs(make: Make, receiver: Receiver) -> None:
    """Neither ``emit``, nor flush and shutdown beyond their time."""
    records = make()
    say(records, "taken")
    assert records.force_flush(10)
    receiver.answer = receiver.hang
    say(records, "lost")
    before = time.monotonic()
    assert not records.force_flush(0.2)
    say(records, "lost too")
    assert not records.shutdown(0.3)
    assert time.monotonic() - before < 2  # 0.5 s asked for; the SDK's exporter gives up after 10
    assert _trouble.counts == {"log records lost: not delivered by shutdown": 2}
    receiver.stop()
    assert bodies(receiver) == ["taken"]


def test_records_lost_at_shutdown_are_counted_once(make: Make, receiver: Receiver) -> None:
    """A request that comes to its end afterwards changes nothing."""
    release = threading.Event()

    def answer(request: Request) -> Answer:
        release.wait(10)
        return 400, {}, b""

    receiver.answer = answer
    others = set(threading.enumerate())
    records = make()
    for number in range(600):  # two batches, of which the second is not sent any more
        say(records, f"{number}")
    receiver.wait_for(lambda r: r.requests)
    assert not records.shutdown(0.1)
    release.set()
    receiver.wait_for(lambda r: r.statuses)
    for thread in set(threading.enumerate()) - others:
        if "ecord" in thread.name:  # the SDK's and ours; the receiver's are none of ours
            thread.join(10)
            assert not thread.is_alive()
    assert _trouble.counts == {"log records lost: not delivered by shutdown": 600}
    assert len(receiver.requests) == 1


def test_without_a_collector_shutdown_takes_a_second(make: Make) -> None:
    """One that has never answered is not waited for."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and does not listen
        records = make(f"http://127.0.0.1:{taken.getsockname()[1]}")
        say(records, "lost")
        before = time.monotonic()
        assert not records.shutdown(30)
        assert time.monotonic() - before < 3
    assert sum(_trouble.counts.values()) == 1


def test_the_queue_is_bounded_and_what_it_refuses_is_counted(
    make: Make, receiver: Receiver
) -> None:
    """While a collector hangs, so many wait and no more."""
    receiver.answer = receiver.hang
    records = make()
    for number in range(QUEUE_RECORDS + 7):
        say(records, f"{number}")
    assert _trouble.counts == {"log records lost: too many wait for the collector": 7}
    assert not records.shutdown(0.1)
    assert _trouble.counts["log records lost: not delivered by shutdown"] == QUEUE_RECORDS


def test_a_burst_is_delivered_whole(make: Make, receiver: Receiver) -> None:
    """More lines at once than the SDK's own queue would hold."""
    records = make()
    for number in range(10_000):
        say(records, f"{number}")
    assert records.force_flush(30)
    assert Counter(bodies(receiver)) == Counter(map(str, range(10_000)))


# ---------------------------------------------------------------- the end, and forks


def test_shutdown_delivers_and_ends(make: Make, receiver: Receiver) -> None:
    """Afterwards nothing is taken, and flush and shutdown have nothing to do."""
    records = make()
    say(records, "last words")
    assert records.shutdown(10)
    assert bodies(receiver) == ["last words"]
    say(records, "afterwards")
    assert records.force_flush(10)
    assert records.shutdown(10)
    records.after_fork()
    assert bodies(receiver) == ["last words"]
    assert not _trouble.counts


def test_any_time_out_is_taken(make: Make) -> None:
    """One that is infinite, over, or no number raises nothing."""
    records = make()
    assert records.force_flush(float("inf"))
    assert not records.force_flush(-1)
    assert not records.force_flush(float("nan"))
    assert records.force_flush(10)
    assert _trouble.counts == {"errors of the SDK's batch processor": 1}
    assert records.shutdown(float("nan"))


def test_a_refused_line_of_the_delivery_itself_is_no_loss(make: Make) -> None:
    """What its threads log at exit is about their own end."""
    records = make()
    records.refuse(trace.INVALID_SPAN, 1, "application", {})

    def deliver() -> None:
        this_thread.delivers = True
        records.refuse(trace.INVALID_SPAN, 1, "delivery", {})

    thread = threading.Thread(target=deliver)
    thread.start()
    thread.join()
    assert _trouble.counts == {"log records lost: they came at exit, after the last delivery": 1}


SCRIPT = """
import atexit, os, sys, time, warnings
from opentelemetry import trace
from opentelemetry.sdk.resources import Resource
from otel_logging.export.records import Records
from otel_logging.settings import load

warnings.simplefilter("ignore", DeprecationWarning)  # fork beside threads, from Python 3.12 on
settings = load("shop", environment="production", endpoint=sys.argv[1])
records = Records(settings, Resource({"process.pid": os.getpid()}))

def say(name):
    records.emit(trace.INVALID_SPAN, 1, name, {})
"""


def run(script: str, receiver: Receiver) -> str:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT + script, receiver.endpoint],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def test_records_are_delivered_at_exit(receiver: Receiver) -> None:
    """From an exit handler, where Python 3.12 and later start no thread."""
    run("atexit.register(lambda: print(records.shutdown(5)))\nsay('last words')", receiver)
    assert bodies(receiver) == ["last words"]


@pytest.mark.alone
@pytest.mark.parametrize("answer", [Receiver.hang, refuse(503)])
def test_exit_is_in_time_whatever_the_collector_does(
    receiver: Receiver, answer: Callable[..., Answer]
) -> None:
    """The SDK's exporter would wait, and try again, for a minute."""
    script = """
say("taken")
assert records.force_flush(10)
say("lost")
start = time.monotonic()
atexit.register(lambda: print("after", time.monotonic() - start))
atexit.register(records.shutdown, 0.5)
"""

    def answer_second(request: Request) -> Answer:
        if len(receiver.requests) == 1:
            return 200, {}, b""
        return answer(receiver, request) if answer is Receiver.hang else answer(request)

    receiver.answer = answer_second
    before = time.monotonic()
    said = run(script, receiver)
    assert 0.4 < float(said.partition("after ")[2].split()[0]) < 2
    assert time.monotonic() - before < 10  # and Python itself ended, threads or no threads
    assert "1 log records lost: not delivered by shutdown" in said


@pytest.mark.skipif(not hasattr(os, "fork"), reason="Windows has no fork")
def test_a_forked_child_sends_its_own_records_under_its_own_resource(receiver: Receiver) -> None:
    """The parent's connection is not used by the child, nor are its waiting records sent twice."""
    script = """
say("parent, delivered")
assert records.force_flush(10)
say("parent, waiting")
if (child := os.fork()) == 0:
    say("child")
    assert records.shutdown(10)
    sys.exit()
assert os.waitpid(child, 0)[1] == 0
say("parent, afterwards")
assert records.shutdown(10)
"""
    run(script, receiver)
    found = {record.body: record.resource for record in receiver.log_records}
    assert sorted(bodies(receiver)) == [
        "child",
        "parent, afterwards",
        "parent, delivered",
        "parent, waiting",
    ]
    parents = {found[body]["process.pid"] for body in found if body != "child"}
    assert len(parents) == 1
    assert found["child"]["process.pid"] not in parents
    assert found["child"]["service.name"] == "shop"


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
    subprocess.run(command, check=True, capture_output=True)
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
    records = make(receiver.endpoint.replace("http:", "https:"))
    say(records, "sealed")
    assert records.force_flush(10)
    assert bodies(receiver) == ["sealed"]


class GrpcReceiver:
    """OTLP/gRPC for logs, with TLS if it has a certificate; keeps what comes."""

    def __init__(self, certificate: tuple[Path, Path] | None = None) -> None:
        grpc = pytest.importorskip("grpc")
        pytest.importorskip("opentelemetry.exporter.otlp.proto.grpc")
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
    """With the same headers, compression and certificates."""
    certificate = request.getfixturevalue("certificate") if secure else None
    collector = GrpcReceiver(certificate)
    if certificate:
        use(certificate, monkeypatch)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "X-Tenant=7")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip")
    records = make(collector.endpoint)
    try:
        say(records, "hello", words=3)
        assert records.force_flush(10)
        assert records.shutdown(10)
    finally:
        collector.stop()
    (record,) = collector.log_records
    assert (record.body, record.severity) == ("hello", 9)
    assert asdict(record)["attributes"] == {"words": 3}
    assert collector.metadata["x-tenant"] == "7"


def test_without_the_grpc_exporter_set_up_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It is not a dependency of ours."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.grpc._log_exporter", None)
    with pytest.raises(
        ConfigurationError, match="pip install opentelemetry-exporter-otlp-proto-grpc"
    ):
        Records(settings_for("http://127.0.0.1:4317"), RESOURCE)
