"""What was delivered and lost, as metrics of the meter provider that the application has set."""

from pathlib import Path

from tests.programs import script
from tests.receiver import Receiver, partial_success

OPEN = """
import json, sys
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
from otel_logging import _runtime
spool = _runtime.current.pipeline.spool
spool.append(b"scope", bytes(16), bytes(65 << 20))
found = counts()
assert found == {
    ("exporter.span.exported", ""): (2, "{span}"),
    ("exporter.span.exported", "rejected"): (1, "{span}"),
    ("exporter.log.exported", ""): (2, "{log_record}"),
    ("exporter.log.exported", "rejected"): (1, "{log_record}"),
    ("processor.span.processed", "too_large"): (1, "{span}"),
}, found
observability.shutdown()
"""
    script(
        OPEN + code,
        tmp_path,
        OTEL_EXPORTER_OTLP_ENDPOINT=receiver.endpoint.removesuffix("/v1/traces"),
        OTEL_LOGS_EXPORTER="otlp",
    )
