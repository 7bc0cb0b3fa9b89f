"""Beside a tracer provider of another SDK, as ``opentelemetry-instrument`` sets it."""

import sys
from typing import Any

import pytest
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import (
    OTLPSpanExporter as GrpcSpanExporter,
)
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace import SynchronousMultiSpanProcessor
from opentelemetry.sdk.trace.export import (
    BatchSpanProcessor,
    ConsoleSpanExporter,
    SimpleSpanProcessor,
)

from otel_logging import redacted
from otel_logging.export.foreign import sends_to
from otel_logging.settings import Exporter
from tests.programs import child_environment, good, python
from tests.receiver import Receiver

PROGRAM = """
import sys
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SimpleSpanProcessor
from otel_logging import bind_context, get_logger, redacted, setup_observability, traced

class Own(SpanProcessor):
    def __init__(self, target):
        self.targets = [target]

    def on_end(self, span):
        self.targets[0].on_end(span)

    def shutdown(self):
        self.targets[0].shutdown()

theirs = TracerProvider()
make = {
    "batch": BatchSpanProcessor,
    "simple": SimpleSpanProcessor,
    "wrapped": lambda exporter: Own(BatchSpanProcessor(redacted(exporter))),
}
kind, _, when = sys.argv[1].partition(" ")
def add():
    theirs.add_span_processor(make[kind](OTLPSpanExporter(sys.argv[2])))
if kind != "none" and not when:
    add()
if "ours" not in when:
    trace.set_tracer_provider(theirs)
ours = setup_observability("shop", environment="production")
if "ours" in when:
    theirs = trace.get_tracer_provider()
if when:
    with traced("before"):
        pass
    add()
log = get_logger("shop")
with traced("order"):
    bind_context(user_id="alice")
    for number in range(600):
        log.info("placed", n=number)
with traced("silent"):
    pass
theirs.shutdown()
ours.shutdown()
"""


@pytest.mark.parametrize("kind", ["batch", "simple", "none", "batch after", "wrapped after"])
def test_spans_arrive_once_whoever_sends_them(kind: str, receiver: Receiver) -> None:
    """And every line once; that it is so is said. By an exporter that comes after set-up too."""
    env = child_environment(OTEL_EXPORTER_OTLP_ENDPOINT=receiver.endpoint)
    url = f"{receiver.endpoint}/v1/traces"
    done = good(python("-c", PROGRAM, kind, url, env=env))
    spans = receiver.spans
    names = ["before"] * kind.endswith("after") + ["order", "silent"]
    assert sorted(s.name for s in spans if s.name != "log") == names
    order = next(s for s in spans if s.name == "order")
    assert order.attributes == {"user_id": "alice"}
    logs = [s for s in spans if s.name == "log"]
    assert all(s.parent_span_id == order.span_id for s in logs)
    numbers = [e.attributes["n"] for s in (*logs, order) for e in s.events]
    assert sorted(numbers) == list(range(600))
    assert done.stderr.count("they are not sent again") == (kind != "none")


def test_an_exporter_added_to_our_provider_sends_a_second_time(receiver: Receiver) -> None:
    """Each span is sent already, which is said."""
    env = child_environment(OTEL_EXPORTER_OTLP_ENDPOINT=receiver.endpoint)
    done = good(python("-c", PROGRAM, "wrapped ours", f"{receiver.endpoint}/v1/traces", env=env))
    assert len([span for span in receiver.spans if span.name == "silent"]) == 2
    assert done.stderr.count("where it is sent already: it arrives twice") == 1


def test_spans_that_another_sdk_sends_elsewhere_are_sent_by_us(receiver: Receiver) -> None:
    with Receiver() as other:
        env = child_environment(OTEL_EXPORTER_OTLP_ENDPOINT=receiver.endpoint)
        good(python("-c", PROGRAM, "batch", f"{other.endpoint}/v1/traces", env=env))
        for each in (other, receiver):
            assert {"order", "silent"} <= {s.name for s in each.spans}


@pytest.mark.parametrize("logs", ["console", "console,otlp", "otlp_proto_http"])
def test_values_that_the_other_sdk_has_stop_nothing(logs: str, receiver: Receiver) -> None:
    """Lists of exporters, of which ours counts."""
    variables = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.endpoint,
        "OTEL_TRACES_EXPORTER": "console,otlp",
        "OTEL_LOGS_EXPORTER": logs,
        "OTEL_EXPORTER_OTLP_COMPRESSION": "deflate",
    }
    done = good(python("-c", PROGRAM, "none", "", env=child_environment(**variables)))
    assert {"order", "silent"} <= {s.name for s in receiver.spans}
    for name in ("OTEL_TRACES_EXPORTER", "OTEL_LOGS_EXPORTER", "OTEL_EXPORTER_OTLP_COMPRESSION"):
        assert done.stderr.count(f"otel_logging: {name}=") == 1
    assert bool(receiver.log_records) == ("otlp" in logs)


def test_values_that_the_other_sdk_has_are_an_error_without_it() -> None:
    """So is a bad value of ours beside it."""
    ours = "from otel_logging import setup_observability; setup_observability('shop')"
    alone = python("-c", ours, env=child_environment(OTEL_TRACES_EXPORTER="console,otlp"))
    assert "ConfigurationError: OTEL_TRACES_EXPORTER='console,otlp'" in alone.stderr
    strict = child_environment(OTEL_LOGGING_SPOOL_HOURS="long")
    assert "ConfigurationError" in python("-c", PROGRAM, "none", "", env=strict).stderr


RECORDS = """
import logging, sys
from opentelemetry._logs import set_logger_provider
from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter
from opentelemetry.sdk import _logs
from opentelemetry.sdk._logs.export import BatchLogRecordProcessor, SimpleLogRecordProcessor
from otel_logging import get_logger, setup_observability, traced

order, kind, url = sys.argv[1:]
kind = {"batch": BatchLogRecordProcessor, "simple": SimpleLogRecordProcessor}[kind]
logging.root.setLevel(logging.INFO)
logging.getLogger("shop").setLevel(logging.DEBUG)

def set_up_theirs():
    provider = _logs.LoggerProvider()
    set_logger_provider(provider)
    provider.add_log_record_processor(kind(OTLPLogExporter(url)))
    logging.root.addHandler(_logs.LoggingHandler(logger_provider=provider))
    return provider

if order == "before":
    theirs = set_up_theirs()
ours = setup_observability("shop", log_level="info")
if order == "after":
    theirs = set_up_theirs()
with traced("order"):
    get_logger("shop").info("by get_logger")
    logging.getLogger("shop").info("by logging")
    logging.getLogger("shop").debug("too low for a line")
    console = logging.StreamHandler()
    console.addFilter(lambda record: "filtered" not in record.msg)
    logging.root.addHandler(console)
    logging.getLogger("shop").warning("filtered from the console")
    logging.root.removeHandler(console)
ours.shutdown()
logging.getLogger("shop").info("after ours")
theirs.shutdown()
"""
SCRIPT = ("-W", "ignore", "-c", RECORDS)
ONCE = ["by get_logger", "by logging", "filtered from the console"]


@pytest.mark.parametrize("order", ["before", "after"])
@pytest.mark.parametrize("kind", ["batch", "simple"])
def test_log_records_arrive_once_whoever_has_a_handler(
    order: str, kind: str, receiver: Receiver
) -> None:
    """OpenTelemetry's sends what no record of ours is, and what comes after ours; in a test, where
    ours stay on the disk, all.
    """
    for environment in ("production", "test"):
        env = child_environment(
            OTEL_EXPORTER_OTLP_ENDPOINT=receiver.endpoint,
            OTEL_LOGS_EXPORTER="otlp",
            ENVIRONMENT=environment,
        )
        before = len(receiver.log_records)
        good(python(*SCRIPT, order, kind, f"{receiver.endpoint}/v1/logs", env=env))
        bodies = sorted(str(record.body) for record in receiver.log_records[before:])
        assert bodies == sorted([*ONCE, "too low for a line", "after ours"])


def test_a_handler_that_sends_log_records_elsewhere_goes_on(receiver: Receiver) -> None:
    with Receiver() as other:
        env = child_environment(
            OTEL_EXPORTER_OTLP_ENDPOINT=receiver.endpoint,
            OTEL_LOGS_EXPORTER="otlp",
        )
        good(python(*SCRIPT, "before", "batch", f"{other.endpoint}/v1/logs", env=env))
        for each in (other, receiver):
            assert {*ONCE} <= {record.body for record in each.log_records}


HERE = Exporter(endpoint="http://localhost:4318/v1/traces")


@pytest.mark.parametrize(
    ("endpoint", "is_same"),
    [
        ("localhost:4317", True),
        ("http://127.0.0.1:4318/v1/traces", True),
        ("http://localhost:4318/v1/traces?", True),
        ("http://localhost:4318/api/llm/v1/traces", False),
        ("http://localhost:4318/v1/traces?tenant=llm", False),
        ("127.0.0.1:4319", False),
        ("collector:4317", False),
        ("http://localhost:x", False),
        (None, False),
    ],
)
def test_a_collector_is_its_host_port_and_path(endpoint: str | None, is_same: bool) -> None:
    """4317 and 4318 are doors of the same one, and gRPC has no path."""
    exporter: Any = ConsoleSpanExporter()
    exporter._endpoint = endpoint
    assert sends_to(HERE, [SimpleSpanProcessor(exporter)], "SpanExporter") is is_same


@pytest.mark.parametrize("make", [OTLPSpanExporter, GrpcSpanExporter])
@pytest.mark.parametrize(
    ("ours", "theirs", "is_same"),
    [
        ((("X-Tenant", "shop"),), {"x-tenant": "shop"}, True),
        ((), {"x-tenant": "llm"}, False),
        ((("x-tenant", "shop"),), {}, False),
        ((("x-tenant", "shop"),), {"x-other": "1"}, False),
        ((("authorization", "Bearer a"),), {"authorization": "Bearer b"}, False),
        ((("x-tenant", "shop"), ("authorization", "Basic a")), {"x-tenant": "shop"}, True),
    ],
)
def test_another_key_or_tenant_is_another_place(
    make: Any, ours: tuple[tuple[str, str], ...], theirs: dict[str, str], is_same: bool
) -> None:
    """Who authorises by the URL has no header of it."""
    here = Exporter(endpoint=HERE.endpoint, headers=ours)
    processor = SimpleSpanProcessor(make(HERE.endpoint, headers=theirs))
    assert sends_to(here, [processor], "SpanExporter") is is_same
    processor.shutdown()


class Wrapped:
    """Holds what it wraps as somebody's own class does."""

    def __init__(self, *targets: Any) -> None:
        self.targets = {"first": targets}, [self]


class Hostile:
    __dict__ = property(lambda _: 1 / 0)  # type: ignore[assignment]


def test_an_exporter_is_found_behind_whatever_wraps_it() -> None:
    """Not one of metrics, nor in a module or a class, and where it is not the search ends."""
    exporter = OTLPSpanExporter(HERE.endpoint)
    several = SynchronousMultiSpanProcessor()
    several.add_span_processor(BatchSpanProcessor(redacted(exporter)))
    assert sends_to(HERE, [Hostile(), Wrapped(sys, Wrapped(several))], "SpanExporter")
    several.shutdown()
    metrics = OTLPMetricExporter("http://localhost:4318/v1/metrics")
    holder = type("Holder", (), {"exporter": exporter})
    others = [Wrapped(metrics, holder, sys, None, [[0.5 + n] for n in range(2000)])]
    assert not sends_to(HERE, others, "SpanExporter")


VALUES = """
from datetime import UTC, datetime
from decimal import Decimal
import math, numpy
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from otel_logging import bind_context, get_logger, setup_observability, traced

trace.set_tracer_provider(TracerProvider())
ours = setup_observability("shop", environment="production")
values = {
    "large": 2**70, "scalar": numpy.int64(3), "array": numpy.array([1.5, 2]), "set": {1},
    "mapping": {"a": {"b": [1]}}, "nan": math.nan, "nans": [1.5, math.nan], "none": None,
    "price": Decimal("1.10"), "at": datetime(2026, 1, 2, tzinfo=UTC), "words": ("a", "b"),
    "mixed": [1, "a"], "password": "hunter2",
}
with traced("begun", **values):
    pass
with traced("set") as span:
    for key, value in values.items():
        span.set_attribute(key, value)
with traced("set together") as span:
    span.set_attributes(values)
with traced("bound"):
    bind_context(**values)
    with traced("below") as span:
        span.add_event("by hand", values, timestamp=7)
        span.add_event("bare")
        get_logger("shop").info("placed", **values)
kept = span.set_attributes
del span
kept({"late": 1})
ours.shutdown()
"""


def test_values_arrive_as_on_our_own_spans(receiver: Receiver) -> None:
    """What not every SDK takes (a mapping, null, a list of several kinds) is JSON, as a text."""
    env = child_environment(OTEL_EXPORTER_OTLP_ENDPOINT=receiver.endpoint)
    done = good(python("-c", VALUES, env=env))
    whole = {
        "large": str(2**70),
        "scalar": 3,
        "array": [1.5, 2.0],
        "set": [1],
        "mapping": '{"a":{"b":[1]}}',
        "nan": "NaN",
        "nans": '[1.5,"NaN"]',
        "none": "null",
        "price": "1.10",
        "at": "2026-01-02T00:00:00+00:00",
        "words": ["a", "b"],
        "mixed": '[1,"a"]',
        "password": "[redacted:password]",
    }
    spans = {span.name: span for span in receiver.spans}
    for name in ("begun", "set", "set together", "bound", "below"):
        assert spans[name].attributes == whole, name
    by_hand, bare, event = spans["below"].events
    assert (by_hand.attributes, by_hand.time_ns, bare.attributes) == (whole, 7, {})
    as_ours = {"mapping": {"a": {"b": [1]}}, "nans": [1.5, "NaN"], "none": None, "mixed": [1, "a"]}
    assert event.attributes == {"level": "info", "logger": "shop", **whole, **as_ours}
    assert "Invalid type" not in done.stdout + done.stderr
    assert "mixes types" not in done.stdout + done.stderr  # as older SDKs say it
