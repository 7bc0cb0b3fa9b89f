"""What ``otel_logging`` offers, and with it everything that a service needs."""

from otel_logging._errors import ConfigurationError as ConfigurationError
from otel_logging._redact import Redaction as Redaction
from otel_logging.context import bind_context as bind_context
from otel_logging.context import bound_context as bound_context
from otel_logging.context import clear_context as clear_context
from otel_logging.context import current_job_tag as current_job_tag
from otel_logging.context import detached as detached
from otel_logging.context import unbind_context as unbind_context
from otel_logging.export.redacted import redacted as redacted
from otel_logging.handover import each as each
from otel_logging.handover import handoff as handoff
from otel_logging.handover import taking as taking
from otel_logging.jobs import BackgroundJobTag as BackgroundJobTag
from otel_logging.jobs import TaggedLogger as TaggedLogger
from otel_logging.jobs import format_background_log as format_background_log
from otel_logging.jobs import tag_background_logger as tag_background_logger
from otel_logging.lateness.waiting import waiting as waiting
from otel_logging.logs.configure import get_logger as get_logger
from otel_logging.observability import Observability as Observability
from otel_logging.observability import configure_logging as configure_logging
from otel_logging.observability import setup_observability as setup_observability
from otel_logging.propagation import carry as carry
from otel_logging.propagation import extract as extract
from otel_logging.propagation import inject as inject
from otel_logging.tracing import traced as traced
