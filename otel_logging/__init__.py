"""OpenTelemetry and structlog as one.

Which user's message, at what moment, was handled late, and why? One call,
``setup_observability(service_name)``, and every log line knows its trace, and
every trace shows its lines.
"""

from otel_logging._errors import ConfigurationError
from otel_logging._redact import Redaction
from otel_logging.context import (
    bind_context,
    bound_context,
    clear_context,
    current_job_tag,
    detached,
    unbind_context,
)
from otel_logging.export.redacted import redacted
from otel_logging.handover import each, handoff, taking
from otel_logging.jobs import (
    BackgroundJobTag,
    TaggedLogger,
    format_background_log,
    tag_background_logger,
)
from otel_logging.lateness.waiting import waiting
from otel_logging.logs.configure import get_logger
from otel_logging.observability import Observability, configure_logging, setup_observability
from otel_logging.propagation import carry, extract, inject
from otel_logging.tracing import traced

__all__ = [
    "BackgroundJobTag",
    "ConfigurationError",
    "Observability",
    "Redaction",
    "TaggedLogger",
    "bind_context",
    "bound_context",
    "carry",
    "clear_context",
    "configure_logging",
    "current_job_tag",
    "detached",
    "each",
    "extract",
    "format_background_log",
    "get_logger",
    "handoff",
    "inject",
    "redacted",
    "setup_observability",
    "tag_background_logger",
    "taking",
    "traced",
    "unbind_context",
    "waiting",
]
