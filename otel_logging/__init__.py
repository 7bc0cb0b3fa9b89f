"""OpenTelemetry and structlog as one.

Which user's message, at what moment, was handled late, and why? One call,
``setup_observability(service_name)``, and every log line knows its trace, and
every trace shows its lines.
"""

from otel_logging.context import (
    bind_context,
    bound_context,
    carry,
    clear_context,
    detached,
    extract,
    inject,
    unbind_context,
)
from otel_logging.logs.configure import configure_logging, get_logger
from otel_logging.observability import Observability, setup_observability
from otel_logging.settings import ConfigurationError
from otel_logging.tracing import traced

__all__ = [
    "ConfigurationError",
    "Observability",
    "bind_context",
    "bound_context",
    "carry",
    "clear_context",
    "configure_logging",
    "detached",
    "extract",
    "get_logger",
    "inject",
    "setup_observability",
    "traced",
    "unbind_context",
]
