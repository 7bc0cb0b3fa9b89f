"""What was delivered, lost and changed: as metrics of the meter provider that the application has
set, and of what was lost on the next span.
"""

import os
from pathlib import Path

import pytest

from otel_logging import _diagnostics, traced
from tests.conftest import Service
from tests.programs import child_environment, good, python, script
from tests.receiver import Receiver, accept, partial_success

OPEN = """
import json, sys
from pathlib import Path
from opentelemetry import metrics
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from otel_logging import get_logger, setup_observability, traced

reader = InMemoryMetricReader()

def counts():
    data = json.loads(reader.get_metrics_data().to_json())
    return {
        (metric["name"].removeprefix("otel.sdk."), point["attributes"].get("error.type", "")): (
            point["value"], metric["unit"]
        )
        for resource in data["resource_metrics"]
        for scope in resource["scope_metrics"]
        if scope["scope"]["name"] == "otel_logging"
        for metric in scope["metrics"]
        for point in metric["data"]["data_points"]
        if point["value"] or not metric["name"].startswith("otel_logging.")
    }
"""


def test_delivered_refused_and_dropped_are_counted(receiver: Receiver, tmp_path: Path) -> None:
    """Spans and log records, by why; the provider is set after us, and set-up comes twice."""
    receiver.answer = partial_success(1)
    code = """
for _ in range(2):
    observability = setup_observability("shop", environment="production", spool_dir=sys.argv[1])
metrics.set_meter_provider(MeterProvider([reader]))
for _ in range(3):
    with traced("message"):
        get_logger().info("hello")
assert observability.force_flush(10)
from otel_logging.spool.queue import Spool
full = Spool(None, "", b"", bytes_bound=0, hours=0)
for _ in range(10):
    full.append(b"scope", bytes(16), bytes(1 << 20))
small = Spool(Path(sys.argv[1]), "shop-1", b"", bytes_bound=1, hours=1)
for _ in range(4):
    small.append(b"scope", bytes(16), b"span")
small.seal()
small.prune()
span = traced("late")
span.__enter__()
observability.shutdown()
span.__exit__(None, None, None)
found = counts()
assert found == {
    ("exporter.span.exported", ""): (2, "{span}"),
    ("exporter.span.exported", "rejected"): (1, "{span}"),
    ("exporter.log.exported", ""): (2, "{log_record}"),
    ("exporter.log.exported", "rejected"): (1, "{log_record}"),
    ("processor.span.processed", "queue_full"): (3 + 4, "{span}"),
    ("processor.span.processed", "already_shutdown"): (1, "{span}"),
}, found
"""
    script(
        OPEN + code,
        tmp_path,
        OTEL_EXPORTER_OTLP_ENDPOINT=receiver.endpoint.removesuffix("/v1/traces"),
        OTEL_LOGS_EXPORTER="otlp",
    )


VALUES = """
setup_observability("shop", environment="production", spool_dir=sys.argv[1])
metrics.set_meter_provider(MeterProvider([reader]))
NAMES = [("otel_logging.value.redacted", ""), ("otel_logging.value.shortened", "")]

def changed():
    return [counts().get(name, (0, "{value}")) for name in NAMES]

def line(text, **fields):
    return lambda: get_logger().info(text, **fields)

def attribute(value, name="a"):
    return lambda: span.set_attribute(name, value)

with traced("message") as span:
    for number, (count, *expected) in enumerate(CASES):
        before = changed()
        count()
        grown = [after - known for (after, _), (known, _) in zip(changed(), before)]
        assert grown == expected, (number, grown)
assert {unit for _, unit in changed()} == {"{value}"}
"""


def test_values_that_were_redacted_or_shortened_are_counted(tmp_path: Path) -> None:
    """Under names of ours: the conventions have none. What is whole is not counted."""
    cases = """[
        (line("hello", n=1, note="a"), 0, 0),
        (line("hello", password="x1"), 1, 0),
        (line("the token=x1"), 1, 0),
        (line("the token=x1"), 1, 0),
        (line("the token=[redacted:token]", password=None), 0, 0),
        (attribute("x1", "password"), 1, 0),
        (attribute("x" * 9000), 0, 1),
        (attribute(b"x" * 9000), 0, 1),
        (attribute(list(range(2000))), 0, 1),
        (attribute(dict.fromkeys(range(2000))), 0, 1),
        (attribute([[[[[[[[1]]]]]]]]), 0, 1),
        (attribute(list(range(900))), 0, 0),
        (lambda: span.add_event("e", {f"k{n}": "x" * 8000 for n in range(40)}), 0, 1),
    ]"""
    script(OPEN + VALUES.replace("CASES", cases), tmp_path)
    cases = """[
        (attribute("x" * 99), 0, 1),
        (attribute(["x" * 99, "x" * 9]), 0, 1),
        (attribute("x" * 10), 0, 0),
    ]"""
    code = OPEN + VALUES.replace("CASES", cases)
    script(code, tmp_path, OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT="10")


# ---------------------------------------------------------------- on the next span

REFUSED = "spans lost: the collector refused them"


def test_the_next_span_tells_what_was_lost(service: Service) -> None:
    """How many, and why; once."""
    service.receiver.answer = partial_success(1)
    for name in ("refused", "after", "later"):
        with traced(name):
            pass
        assert service.observability.force_flush(10)
        service.receiver.answer = accept
    found = {span.name: span.attributes for span in service.spans()}
    assert found["after"] == {"otel_logging.lost": f"1 {REFUSED}"}
    assert found["later"] == {}


def test_the_next_span_tells_what_was_redacted_and_shortened(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """How many values, beside what was lost; once."""
    redacted, shortened = "otel_logging.value.redacted", "otel_logging.value.shortened"
    assert service.observability.force_flush(10)
    monkeypatch.setattr(_diagnostics, "_quiet_s", 0.0)  # no minute
    with traced("first", password="x1", note="token=x1", text="x" * 9000):
        pass
    for name in ("after", "later"):
        assert service.observability.force_flush(10)
        _diagnostics.report(f"spans lost before {name}")
        with traced(name):
            pass
    found = {span.name: span.attributes for span in service.spans()}
    lost = "otel_logging.lost"
    assert found["after"] == {lost: "1 spans lost before after", redacted: 2, shortened: 1}
    assert found["later"] == {lost: "1 spans lost before later"}


def test_a_span_of_lines_and_a_span_of_another_sdk_tell_it_too(receiver: Receiver) -> None:
    """Whichever leaves first."""
    code = """
import sys
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from otel_logging import _diagnostics, get_logger, setup_observability, traced

trace.set_tracer_provider(TracerProvider())
ours = setup_observability("shop", environment="production")
_diagnostics.report("spans lost in a test")
with traced("theirs"):
    pass
_diagnostics.report("lines lost in a test", 3)
get_logger("shop").info("outside any span")
ours.shutdown()
"""
    done = good(
        python("-c", code, env=child_environment(OTEL_EXPORTER_OTLP_ENDPOINT=receiver.endpoint))
    )
    found = {span.name: span.attributes.get("otel_logging.lost") for span in receiver.spans}
    assert found == {
        "theirs": "1 spans lost in a test",
        "process log": "3 lines lost in a test",
    }
    assert done.stderr.count("lost in a test") == 2


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_a_forked_child_tells_nothing_of_its_parent(receiver: Receiver) -> None:
    """Its parent does, on its own next span; and stderr has it once."""
    code = """
import os
from otel_logging import _diagnostics, processors, setup_observability, traced

ours = setup_observability("shop", environment="production", instrument=[])
processors.redact_secrets(None, "info", {"password": "x1"})
_diagnostics.report("spans lost in a test")
_diagnostics.report("spans lost in a test", 2)
child = os.fork()
_diagnostics._changed_at = float("-inf")  # as a minute later
_diagnostics.say_due()
with traced("parent" if child else "child"):
    pass
if child:
    os.waitpid(child, 0)
ours.shutdown()
"""
    done = good(
        python(
            "-W",
            "ignore",
            "-c",
            code,
            env=child_environment(OTEL_EXPORTER_OTLP_ENDPOINT=receiver.endpoint),
        )
    )
    found = {span.name: span.attributes for span in receiver.spans}
    told = {"otel_logging.lost": "1 spans lost in a test", "otel_logging.value.redacted": 1}
    assert found == {"parent": told, "child": {}}
    said = [line for line in done.stderr.splitlines() if "lost in a test" in line]
    assert said == [f"otel_logging: {times} spans lost in a test" for times in (1, 2)]
