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
    """All that ``configure_logging`` acts on. Levels are the numbers of ``logging``."""

    environment: str = asked(_parse.environment, _usual_environment, _names.ENVIRONMENT)
    color: bool
    #: None: the root logger's level, if the application set one; else INFO.
    level: int | None = asked(_parse.level, None, "LOG_LEVEL", argument="log_level")
    #: Logger name, or a parent of it -> level.
    levels: Mapping[str, int] = asked(_parse.levels, dict, "LOG_LEVELS", argument="log_levels")
    #: Jaeger's address, if the terminal takes hyperlinks and spans are delivered.
    links_to: str | None
    #: Bound of a line on a pipe. POSIX: a write of at most PIPE_BUF bytes is atomic there;
    #: Linux has 4,096.
    line_bytes: int = asked(_parse.count(512), 4096, "OTEL_LOGGING_LINE_BYTES")
    #: Each line says which file and line of code it comes from.
    caller: bool = asked(_parse.true_or_false, False, "OTEL_LOGGING_CALLER")
    #: Packages whose code is the application's, though they are installed.
    application: tuple[str, ...] = asked(_parse.comma_list, (), _names.APPLICATION)
    #: What is taken out before anything leaves.
    redaction: Redaction = asked(_parse.redaction, DEFAULT, argument="redact")
    #: Other loggers' lines, warnings and uncaught exceptions are ours too.
    takeover: bool = asked(_parse.flag, True)
    #: The bound keys that say on whose behalf something runs; redaction leaves them.
    who: tuple[str, ...] = asked(_parse.names, ("user_id",), "OTEL_LOGGING_WHO")
    #: Integrations that are on.
    instrument: tuple[str, ...] = asked(
        _parse.integrations, tuple(_names.INTEGRATIONS), "OTEL_LOGGING_INSTRUMENT"
    )

    @property
    def console(self) -> bool:
        """Coloured lines rather than JSON."""
        return self.environment in _CONSOLE


def load_logs(**given: Any) -> LogSettings:
    """Return how lines are made; *given* are arguments. Failure: raises ``ConfigurationError``."""
    return LogSettings(**log_values(Variables(), LogSettings, given))


def log_values(
    variables: Variables, kind: type[LogSettings], given: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the values of the fields of *kind*, a class of ``LogSettings``."""
    forced = variables.get("FORCE_COLOR") not in (None, "0")
    terminal = is_terminal() and variables.get("TERM") != "dumb"
    url = jaeger_url(variables)  # if invalid, an error on every terminal
    values = variables.values(kind, given)
    redaction = values["redaction"] if given.get("redact") is not None else _redaction(variables)
    return {
        **values,
        "redaction": redaction.for_who(values["who"]),
        "color": (forced or terminal) and variables.get("NO_COLOR") is None,
        "links_to": url if takes_links(variables) else None,
    }


def _redaction(variables: Variables) -> Redaction:
    read = variables.read
    if not read(_parse.true_or_false, True, "OTEL_LOGGING_REDACT"):
        return OFF
    return Redaction(
        read(_parse.comma_list, (), "OTEL_LOGGING_REDACT_KEYS"),
        read(_parse.pattern, (), "OTEL_LOGGING_REDACT_PATTERN"),
        read(_parse.comma_list, (), "OTEL_LOGGING_REDACT_ALLOW"),
        personal=read(_parse.true_or_false, False, "OTEL_LOGGING_REDACT_PERSONAL"),
        salt=variables.get("OTEL_LOGGING_REDACT_SALT") or "",
    )
