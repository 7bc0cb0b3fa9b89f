"""The door to the log half, ``get_logger``, and what is configured.

Invariant: one renderer and one output in a process. Deliberately absent: tracing.
"""

import atexit
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, cast

import structlog

from otel_logging import _diagnostics, _otlp, _runtime
from otel_logging.lateness.application import is_application
from otel_logging.logs import bound, caller, line, logger, stdlib
from otel_logging.logs.render import Renderer, console_renderer, json_renderer, line_limit
from otel_logging.logs.stdout import Stdout
from otel_logging.processors import EventDict
from otel_logging.settings.logs import LogSettings, load_logs


def get_logger(name: str | None = None, /, **initial: Any) -> structlog.typing.FilteringBoundLogger:
    """Return structlog's bound logger for *name*, with *initial* fields bound to it.

    Without a name it is that of the calling module. It may be called at import, before any
    set-up: each line goes by what is set up when it is logged. Before ``configure_logging`` or
    ``setup_observability`` that is structlog's own configuration. After them lines are ours;
    processors of a later ``structlog.configure`` see them only if ours is behind them. Scope:
    nothing is changed. Failure: never raises. Concurrency: any thread and task.
    """
    if name is None:
        name = sys._getframe(1).f_globals.get("__name__", "root")  # noqa: SLF001 - documented
    return cast(structlog.typing.FilteringBoundLogger, bound.logger_of(name, initial))


def use(runtime: _runtime.Runtime) -> None:
    """Swap in *runtime*; loggers that exist follow it, and caches do. Scope: process."""
    before = _runtime.swap(runtime)
    if before.redaction != runtime.redaction:
        _otlp.forget()
    if before.application != runtime.application:
        is_application.cache_clear()
    stdlib.take_over()


def apply(settings: LogSettings) -> None:
    """Configure structlog and logging as *settings* say. Scope: process."""
    asked, listener, level = settings, _runtime.current.listener, _runtime.current.listens_from
    if level is not None:
        settings = replace(settings, level=level, levels={})
    stdout, links = Stdout(), settings.links_to
    line_bytes = settings.line_bytes if stdout.is_pipe else None
    straight: line.Straight = line.never_straight
    if settings.console:
        render = console_renderer(color=settings.color, links_to=links, width=stdout.columns)
    else:
        render = json_renderer(line_bytes)
        if not settings.caller and listener is None:
            straight = line.straight_to(stdout.write, line_limit(line_bytes))

    def write(event_dict: EventDict, render: Renderer) -> None:
        if listener is not None:
            listener(event_dict)
        stdout.write(render(event_dict))

    level = logging.INFO if settings.level is None else settings.level
    by_name = settings.level, settings.levels
    runtime = replace(
        _runtime.current,
        redaction=settings.redaction,
        logs=logger.Configured(asked, *by_name, write, render, straight),
        taken_over={logging.root.name: level, **settings.levels} if settings.takeover else {},
        application=caller.application_of(settings.application),
    )
    use(runtime)
    hide_banners()
    atexit.unregister(_diagnostics.at_exit)
    atexit.register(_diagnostics.at_exit)  # lines that were lost in the last minute
    before: Any = structlog.get_config()["wrapper_class"]
    module = str(getattr(before, "__module__", ""))
    is_own = not module.startswith(("structlog.", "otel_logging."))
    # the application's code calls methods that its own class alone has, or awaits structlog's
    stays = is_own or before is structlog.stdlib.AsyncBoundLogger
    structlog.configure(
        processors=logger.CHAIN,
        wrapper_class=before if stays else bound.BoundLogger,
        logger_factory=logger.logger_of,
        context_class=dict,
        cache_logger_on_first_use=True,
    )


def hide_banners() -> None:
    """Hide what imported libraries print when they start: Flask's banner, which has no option."""
    cli: Any = sys.modules.get("flask.cli")
    is_hidden = _runtime.current.taken_over and not _runtime.current.logs.settings.console
    if is_hidden and hasattr(cli, "show_server_banner"):
        cli.show_server_banner = lambda *_, **__: None


@contextmanager
def while_captured() -> Iterator[None]:
    """Make lines in a ``with`` block as configured, else as the variables say.

    What structlog's functions had bound is not on them. Afterwards structlog is as before; the
    runtime record is the caller's. Scope: process. Failure: raises ``ConfigurationError``.
    """
    logs = _runtime.current.logs
    is_theirs, structlogs = structlog.is_configured(), structlog.get_config()
    bound = structlog.contextvars.get_contextvars()
    structlog.contextvars.clear_contextvars()
    try:
        apply(load_logs() if logs is None else logs.settings)
        yield
    finally:
        structlog.contextvars.clear_contextvars()
        structlog.contextvars.bind_contextvars(**bound)
        structlog.configure(**structlogs)
        if not is_theirs:
            structlog.reset_defaults()
