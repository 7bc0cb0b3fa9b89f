"""How log lines look, and which are made.

In: arguments, variables. Out: ``LogSettings``. Deliberately absent: acting on them (``logs``).
"""

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from otel_logging import _names, _parse
from otel_logging._redact import DEFAULT, OFF, Redaction
from otel_logging.settings.links import is_terminal, jaeger_url, takes_links
from otel_logging.settings.variables import Record, Variables, asked

_CONSOLE: Final = frozenset({"development", "dev", "local", "test"})


def _usual_environment() -> str:
    if "pytest" in sys.modules:
        return "test"
    return "development" if is_terminal() else "production"


@dataclass(init=False, repr=False, eq=False, kw_only=True)
class LogSettings(Record):
    """How lines look and which are made. Levels are the numbers of ``logging``."""

    environment: str = asked(
        _parse.environment, _usual_environment, _names.ENVIRONMENT, argument="environment"
    )
    color: bool
    #: None: the root logger's, where the application gave it one; else INFO.
    level: int | None = asked(_parse.level, None, _names.LOG_LEVEL, argument="log_level")
    #: Logger name, or a parent of it -> level.
    levels: Mapping[str, int] = asked(_parse.levels, dict, _names.LOG_LEVELS, argument="log_levels")
    #: Jaeger's address, where the terminal takes hyperlinks to it and something is delivered.
    links_to: str | None
    #: Bound of a line on a pipe. POSIX: a write of at most PIPE_BUF bytes is atomic there;
    #: Linux has 4,096.
    line_bytes: int = asked(_parse.count(512), 4096, _names.LINE_BYTES)
    #: Each line says which file and line of code it comes from.
    caller: bool = asked(_parse.true_or_false, False, _names.CALLER)
    #: Packages whose code is the application's, though they are installed.
    application: tuple[str, ...] = asked(_parse.comma_list, (), _names.APPLICATION)
    #: What is taken out of what leaves.
    redaction: Redaction = asked(_parse.redaction, DEFAULT, argument="redact")
    #: Other loggers' lines, warnings and uncaught exceptions are ours too.
    takeover: bool = asked(_parse.flag, True, argument="takeover")

    @property
    def console(self) -> bool:
        """Coloured lines rather than JSON."""
        return self.environment in _CONSOLE


def load_logs(variables: Variables | None = None, /, **given: Any) -> LogSettings:
    """Return how lines are made; *given* are arguments. Failure: raises ``ConfigurationError``."""
    variables = variables or Variables()
    forced = variables.get(_names.FORCE_COLOR) not in (None, "0")
    terminal = is_terminal() and variables.get(_names.TERM) != "dumb"
    url = jaeger_url(variables)  # invalid is invalid, whatever the terminal takes
    values = variables.values(LogSettings, given)
    if given.get("redact") is None:
        values["redaction"] = _load_redaction(variables)
    return LogSettings(
        **values,
        color=(forced or terminal) and variables.get(_names.NO_COLOR) is None,
        links_to=url if takes_links(variables) else None,
    )


def _load_redaction(variables: Variables) -> Redaction:
    read = variables.read
    if not read(_parse.true_or_false, True, _names.REDACT):
        return OFF
    return Redaction(
        read(_parse.comma_list, (), _names.REDACT_KEYS),
        read(_parse.pattern, (), _names.REDACT_PATTERN),
        read(_parse.comma_list, (), _names.REDACT_ALLOW),
        personal=read(_parse.true_or_false, False, _names.REDACT_PERSONAL),
        salt=variables.get(_names.REDACT_SALT) or "",
    )
