"""OpenTelemetry and structlog as one.

Which user's message, at what moment, was handled late, and why? One call,
``setup_observability(service_name)``, and every log line knows its trace, and
every trace shows its lines.
"""

from typing import TYPE_CHECKING, Any

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

if TYPE_CHECKING:
    from otel_logging._offered import *
else:

    def __getattr__(name: str) -> Any:
        """Import what a service needs when a name of it is first asked for: the commands need
        none of it, and it would be a third of what their start takes.
        """
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from otel_logging import _offered

        globals().update({each: getattr(_offered, each) for each in __all__})
        return globals()[name]

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})
