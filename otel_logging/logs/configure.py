"""The door to the log half, ``get_logger``, and what is configured.

Invariant: one renderer and one output in a process. Deliberately absent: tracing.
"""

import atexit
import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, cast

import structlog

from otel_logging import _diagnostics, _otlp, _runtime
from otel_logging._redact import Redaction
from otel_logging.logs import bound, caller, levels, line, logger, stdlib
from otel_logging.logs.render import Renderer, console_renderer, json_renderer, line_limit
from otel_logging.logs.stdout import Stdout
from otel_logging.processors import EventDict
from otel_logging.settings.logs import LogSettings, load_logs

Listener = Callable[[EventDict], None]

#: What was configured last; None before set-up.
_applied: LogSettings | None = None
#: While a test captures: the function that sees every line, and the level.
_listening: tuple[Listener | None, int | None] = (None, None)


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


def use_redaction(redaction: Redaction) -> None:
    """Take out what *redaction* says from here on; forget what is cached. Scope: process."""
    if redaction != _runtime.current.redaction:
        _runtime.swap(replace(_runtime.current, redaction=redaction))
        _otlp.forget()


def apply(settings: LogSettings) -> None:
    """Configure structlog and logging as *settings* say. Scope: process."""
    global _applied
    _applied = settings
    use_redaction(settings.redaction)
    caller.note_application(settings.application)
    listen, level = _listening
    if level is not None:
        settings = replace(settings, level=level, levels={})
    stdout, links = Stdout(), settings.links_to
    line_bytes = settings.line_bytes if stdout.is_pipe else None
    straight: line.Straight = line.never_straight
    if settings.console:
        render = console_renderer(color=settings.color, links_to=links, width=stdout.columns)
    else:
        render = json_renderer(line_bytes)
        if not settings.caller and listen is None:
            straight = line.straight_to(stdout.write, line_limit(line_bytes))

    def write(event_dict: EventDict, render: Renderer) -> None:
        if listen is not None:
            listen(event_dict)
        stdout.write(render(event_dict))

    level = logging.INFO if settings.level is None else settings.level
    held = {logging.root.name: level, **settings.levels} if settings.takeover else {}
    by_name = settings.level, settings.levels
    logger.use(logger.Configured(*by_name, write, render, straight, settings.caller))
    stdlib.take_over(held)
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
    is_hidden = _applied is not None and _applied.takeover and not _applied.console
    if is_hidden and hasattr(cli, "show_server_banner"):
        cli.show_server_banner = lambda *_, **__: None


@contextmanager
def listening(listen: Listener, *, level: int | None) -> Iterator[None]:
    """Show *listen* every line of a ``with`` block before it is written.

    Lines are made as configured, else as the variables say. *level* holds, if given, even if
    somebody configures logging inside. What structlog's functions had bound is not on
    them. Afterwards all is as before. Scope: process. Failure:
    raises ``ConfigurationError``.
    """
    global _applied, _listening
    before, configured, held = (_applied, _listening), logger.in_use(), dict(levels.ours)
    is_theirs, structlogs = structlog.is_configured(), structlog.get_config()
    bound = structlog.contextvars.get_contextvars()
    settings = _applied or load_logs()
    structlog.contextvars.clear_contextvars()
    _listening = (listen, level)
    try:
        apply(settings)
        yield
    finally:
        _applied, _listening = before
        structlog.contextvars.clear_contextvars()
        structlog.contextvars.bind_contextvars(**bound)
        logger.use(configured)
        stdlib.take_over(held)
        structlog.configure(**structlogs)
        if not is_theirs:
            structlog.reset_defaults()
