"""What was asked for: arguments, then the environment, then `.env`, then defaults.

In: arguments of ``setup_observability`` and ``configure_logging``, variables,
and a `.env` file in the working directory (read, never exported). Out: frozen
records. Invariant: the only reader of ``os.environ`` in the package; whatever
is wrong is a ``ConfigurationError`` here, and never appears later.
Deliberately absent: acting on any of it. ``docs/configuration.md`` has the table.
"""

import logging
import math
import os
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote, urlsplit

from otel_logging import _names, _spool

DEFAULT_SPOOL_BYTES: Final = 64 << 20
DEFAULT_SPOOL_HOURS: Final = 24.0
DEFAULT_TIMEOUT_S: Final = 10.0  # OpenTelemetry specification, OTLP exporter: default
#: POSIX: a write of at most PIPE_BUF bytes to a pipe is atomic; Linux has 4,096.
DEFAULT_LINE_BYTES: Final = 4096

SAMPLERS: Final = (
    "always_on",
    "always_off",
    "traceidratio",
    "parentbased_always_on",
    "parentbased_always_off",
    "parentbased_traceidratio",
)
DEFAULT_SAMPLER: Final = "parentbased_always_on"  # OpenTelemetry specification
_PORTS: Final = {"http/protobuf": 4318, "grpc": 4317}  # OpenTelemetry specification
_CONSOLE: Final = frozenset({"development", "dev", "local", "test"})
_LEVELS: Final = {
    "notset": logging.NOTSET,
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warn": logging.WARNING,
    "warning": logging.WARNING,
    "error": logging.ERROR,
    "critical": logging.CRITICAL,
    "fatal": logging.CRITICAL,
}


class ConfigurationError(ValueError):
    """Something that was asked for cannot be: names the variable, the value, what is allowed."""

    def __init__(self, variable: str, value: object, allowed: str) -> None:
        super().__init__(f"{variable}={value!r}: {allowed}")


@dataclass(frozen=True, slots=True)
class LogSettings:
    """How lines look and which are made. Levels are the numbers of ``logging``."""

    environment: str
    console: bool  # coloured lines rather than JSON
    color: bool
    level: int
    levels: Mapping[str, int]  # logger name, or a parent of it -> level
    line_bytes: int  # bound of a line on a pipe


@dataclass(frozen=True, slots=True)
class Limits:
    """OpenTelemetry's span limits; None is no limit beyond the package's own."""

    span_attributes: int | None = 128  # OpenTelemetry specification: default of all counts
    event_attributes: int | None = 128
    link_attributes: int | None = 128
    links: int | None = 128
    events: int | None = None  # size of a page of events; nothing is dropped
    span_value_length: int | None = None
    value_length: int | None = None


@dataclass(frozen=True, slots=True)
class Exporter:
    """Where spans go, and how. *endpoint* is complete: nothing is appended to it."""

    endpoint: str = "http://localhost:4318/v1/traces"
    protocol: str = "http/protobuf"
    headers: tuple[tuple[str, str], ...] = ()
    timeout_s: float = DEFAULT_TIMEOUT_S
    gzip: bool = False
    certificate: str | None = None
    client_key: str | None = None
    client_certificate: str | None = None
    network: bool = True  # False: spans wait in the spool


@dataclass(frozen=True, slots=True)
class Settings:
    """All that ``setup_observability`` acts on."""

    service_name: str
    resource: Mapping[str, str]
    logs: LogSettings
    traces: bool  # False: OTEL_SDK_DISABLED or OTEL_TRACES_EXPORTER=none
    log_records: bool  # OTEL_LOGS_EXPORTER=otlp: lines leave as log records, not as events
    exporter: Exporter
    sampler: str
    sampler_ratio: float
    limits: Limits
    propagators: tuple[str, ...] | None  # None: what OpenTelemetry has set
    who: tuple[str, ...]
    propagate: tuple[str, ...]
    budgets: Mapping[str, float]
    spool_dir: Path | None  # None: the user's own place, or the fallback
    spool_bytes: int
    spool_hours: float
    temporary: bool  # test: a spool for this process alone
    remarks: tuple[str, ...] = field(default=())  # what is to be said once


class _Variables:
    """The environment, and behind it `.env`. An empty value is an unset one."""

    def __init__(self) -> None:
        self._dotenv = _read_dotenv()

    def get(self, name: str) -> str | None:
        return os.environ.get(name, "").strip() or (self._dotenv.get(name) or "").strip() or None

    def first(self, *names: str) -> tuple[str, str | None]:
        """Return the first of *names* that is set, and its value."""
        for name in names:
            if (value := self.get(name)) is not None:
                return name, value
        return names[0], None

    def names(self) -> set[str]:
        return {*os.environ, *self._dotenv}


def _read_dotenv() -> Mapping[str, str | None]:
    path = Path(".env")
    if not path.is_file():
        return {}
    from dotenv import dotenv_values

    try:
        return dotenv_values(path)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(".env", str(path), f"cannot be read: {error}") from error


# ---------------------------------------------------------------- one value each


def parse_level(variable: str, value: str | int) -> int:
    """Return the number of a level: a name in any case, or a number."""
    text = str(value).strip()
    if isinstance(value, bool) or not (text.lower() in _LEVELS or text.isdecimal()):
        raise ConfigurationError(
            variable, value, "a level is one of " + ", ".join(_LEVELS) + ", or a number from 0"
        )
    return _LEVELS[text.lower()] if text.lower() in _LEVELS else int(text)


def parse_seconds(variable: str, value: object) -> float:
    """Return a positive, finite number of seconds."""
    try:
        if isinstance(value, bool):
            raise TypeError
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not (math.isfinite(number) and number > 0):
        raise ConfigurationError(variable, value, "a positive number of seconds")
    return number


def _parse_count(variable: str, value: str, *, least: int) -> int:
    if not (value.isdecimal() and int(value) >= least):
        raise ConfigurationError(variable, value, f"a whole number from {least}")
    return int(value)


def _parse_bool(variable: str, value: str | None) -> bool:
    text = (value or "false").lower()
    if text not in ("true", "false"):
        raise ConfigurationError(variable, value, "true or false")
    return text == "true"


def _parse_choice(variable: str, value: str, choices: Sequence[str]) -> str:
    if value.lower() not in choices:
        raise ConfigurationError(variable, value, "one of " + ", ".join(choices))
    return value.lower()


def _parse_pairs(variable: str, value: str | None) -> tuple[tuple[str, str], ...]:
    """Parse ``k=v,k2=v2``, percent-encoded, as W3C Baggage has it."""
    pairs = []
    for item in (value or "").split(","):
        if not item.strip():
            continue
        key, equals, text = item.partition("=")
        if not (equals and key.strip()):
            raise ConfigurationError(variable, value, "pairs like key=value,key2=value2")
        pairs.append((unquote(key.strip()), unquote(text.strip())))
    return tuple(pairs)


def _parse_levels(value: str | Mapping[str, str | int] | None) -> Mapping[str, int]:
    variable = _names.LOG_LEVELS
    pairs = value.items() if isinstance(value, Mapping) else _parse_pairs(variable, value)
    return {name: parse_level(f"{variable}: {name}", level) for name, level in pairs}


def _names_tuple(argument: str, value: Sequence[str]) -> tuple[str, ...]:
    if isinstance(value, str) or not all(isinstance(key, str) and key for key in value):
        raise ConfigurationError(argument, value, 'a sequence of names like ("user_id",)')
    return tuple(value)


def _parse_environment(argument: str | None, variables: _Variables) -> str:
    given = argument if argument is not None else variables.get(_names.ENVIRONMENT)
    if given is None:
        if "pytest" in sys.modules:
            return "test"
        return "development" if _is_terminal() else "production"
    if not isinstance(given, str) or not re.fullmatch(r"[\w.-]+", given):
        raise ConfigurationError(
            _names.ENVIRONMENT, given, "a name like development, production, test or staging"
        )
    return given.lower()


def _is_terminal() -> bool:
    try:
        return sys.stdout.isatty()
    except (AttributeError, ValueError, OSError):  # None, or closed
        return False


# ---------------------------------------------------------------- groups of values


def load_logs(
    *,
    environment: str | None = None,
    log_level: str | int | None = None,
    log_levels: str | Mapping[str, str | int] | None = None,
) -> LogSettings:
    """Return how lines are made. Failure: raises ``ConfigurationError``."""
    return _logs(_Variables(), environment, log_level, log_levels)


def _logs(
    variables: _Variables,
    environment: str | None,
    log_level: str | int | None,
    log_levels: str | Mapping[str, str | int] | None,
) -> LogSettings:
    name = _parse_environment(environment, variables)
    level = log_level if log_level is not None else variables.get(_names.LOG_LEVEL)
    levels = log_levels if log_levels is not None else variables.get(_names.LOG_LEVELS)
    forced = variables.get(_names.FORCE_COLOR) not in (None, "0")
    terminal = _is_terminal() and variables.get("TERM") != "dumb"
    line_bytes = variables.get(_names.LINE_BYTES)
    return LogSettings(
        environment=name,
        console=name in _CONSOLE,
        color=(forced or terminal) and variables.get(_names.NO_COLOR) is None,
        level=parse_level(_names.LOG_LEVEL, level if level is not None else logging.INFO),
        levels=_parse_levels(levels),
        line_bytes=_parse_count(_names.LINE_BYTES, line_bytes, least=512)
        if line_bytes
        else DEFAULT_LINE_BYTES,
    )


def _otlp(variables: _Variables, option: str) -> tuple[str, str | None]:
    """Look up an exporter variable: the one for traces wins."""
    return variables.first(_names.OTLP_TRACES_PREFIX + option, _names.OTLP_PREFIX + option)


def _exporter(variables: _Variables, endpoint: str | None, *, test: bool) -> Exporter:
    protocol_name, protocol = _otlp(variables, "PROTOCOL")
    protocol = _parse_choice(protocol_name, protocol or "http/protobuf", tuple(_PORTS))
    headers_name, headers = _otlp(variables, "HEADERS")
    timeout_name, timeout = _otlp(variables, "TIMEOUT")
    compression_name, compression = _otlp(variables, "COMPRESSION")
    return Exporter(
        endpoint=_endpoint(variables, endpoint, protocol),
        protocol=protocol,
        headers=_parse_pairs(headers_name, headers),
        timeout_s=parse_seconds(timeout_name, timeout or DEFAULT_TIMEOUT_S),
        gzip=_parse_choice(compression_name, compression or "none", ("none", "gzip")) == "gzip",
        certificate=_file(variables, "CERTIFICATE"),
        client_key=_file(variables, "CLIENT_KEY"),
        client_certificate=_file(variables, "CLIENT_CERTIFICATE"),
        network=endpoint is not None or not test,
    )


def _endpoint(variables: _Variables, argument: str | None, protocol: str) -> str:
    traces = _names.OTLP_TRACES_PREFIX + "ENDPOINT"
    name, value = _otlp(variables, "ENDPOINT")
    if argument is not None:
        name, value = "endpoint", argument
    value = value if value is not None else f"http://localhost:{_PORTS[protocol]}"
    try:
        parts = urlsplit(value)
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except (ValueError, AttributeError, TypeError):
        good = False
    if not good:
        raise ConfigurationError(name, value, "a URL like http://localhost:4318")
    # OpenTelemetry specification: the variable for traces is taken as it is
    if protocol == "grpc" or name == traces or value.rstrip("/").endswith("/v1/traces"):
        return value
    return value.rstrip("/") + "/v1/traces"


def _file(variables: _Variables, option: str) -> str | None:
    name, value = _otlp(variables, option)
    if value is not None and not Path(value).is_file():
        raise ConfigurationError(name, value, "a file that exists")
    return value


def _sampler(variables: _Variables) -> tuple[str, float]:
    given = variables.get(_names.OTEL_TRACES_SAMPLER) or DEFAULT_SAMPLER
    name = _parse_choice(_names.OTEL_TRACES_SAMPLER, given, SAMPLERS)
    argument = variables.get(_names.OTEL_TRACES_SAMPLER_ARG)
    if not name.endswith("traceidratio") or argument is None:
        return name, 1.0
    try:
        ratio = float(argument)
    except ValueError:
        ratio = math.nan
    if not 0.0 <= ratio <= 1.0:
        raise ConfigurationError(
            _names.OTEL_TRACES_SAMPLER_ARG, argument, "a number from 0 to 1, the ratio to keep"
        )
    return name, ratio


def _limits(variables: _Variables) -> Limits:
    values: dict[str, int] = {}
    for limit, names in _names.LIMITS.items():
        name, value = variables.first(*names)
        if value is not None:
            values[limit] = _parse_count(name, value, least=1 if limit == "events" else 0)
    return Limits(**values)


def _service(variables: _Variables, service_name: str | None) -> tuple[str, Mapping[str, str]]:
    resource = dict(
        _parse_pairs(
            _names.OTEL_RESOURCE_ATTRIBUTES, variables.get(_names.OTEL_RESOURCE_ATTRIBUTES)
        )
    )
    if service_name is not None and not (isinstance(service_name, str) and service_name.strip()):
        raise ConfigurationError("service_name", service_name, "a name that is not empty")
    name = (
        service_name
        or variables.get(_names.OTEL_SERVICE_NAME)
        or resource.get("service.name")
        or "unknown_service:python"  # OpenTelemetry specification
    )
    return name, resource | {"service.name": name}


def _spool_settings(
    variables: _Variables, argument: str | os.PathLike[str] | None
) -> dict[str, Any]:
    directory = argument if argument is not None else variables.get(_names.SPOOL_DIR)
    size, hours = variables.get(_names.SPOOL_BYTES), variables.get(_names.SPOOL_HOURS)
    return {
        "spool_dir": None if directory is None else Path(directory).expanduser(),
        "spool_bytes": _parse_count(_names.SPOOL_BYTES, size, least=_spool.SEAL_BYTES)
        if size
        else DEFAULT_SPOOL_BYTES,
        "spool_hours": parse_seconds(_names.SPOOL_HOURS, hours) if hours else DEFAULT_SPOOL_HOURS,
    }


def load(
    service_name: str | None = None,
    *,
    environment: str | None = None,
    log_level: str | int | None = None,
    endpoint: str | None = None,
    budgets: Mapping[str, float] | None = None,
    who: Sequence[str] = ("user_id",),
    propagate: Sequence[str] = (),
    spool_dir: str | os.PathLike[str] | None = None,
) -> Settings:
    """Return all settings. Failure: raises ``ConfigurationError`` for the first bad one."""
    variables = _Variables()
    logs = _logs(variables, environment, log_level, None)
    name, resource = _service(variables, service_name)
    sampler, ratio = _sampler(variables)
    exporters = ("otlp", "none")
    traces = variables.get(_names.OTEL_TRACES_EXPORTER) or "otlp"
    records = variables.get(_names.OTEL_LOGS_EXPORTER) or "none"
    propagators = variables.get(_names.OTEL_PROPAGATORS)
    test = logs.environment == "test"
    spool = _spool_settings(variables, spool_dir)
    return Settings(
        service_name=name,
        resource=resource,
        logs=logs,
        traces=_parse_choice(_names.OTEL_TRACES_EXPORTER, traces, exporters) == "otlp"
        and not _parse_bool(_names.OTEL_SDK_DISABLED, variables.get(_names.OTEL_SDK_DISABLED)),
        log_records=_parse_choice(_names.OTEL_LOGS_EXPORTER, records, exporters) == "otlp",
        exporter=_exporter(variables, endpoint, test=test),
        sampler=sampler,
        sampler_ratio=ratio,
        limits=_limits(variables),
        propagators=None
        if propagators is None
        else tuple(part.strip() for part in propagators.split(",") if part.strip()),
        who=_names_tuple("who", who),
        propagate=_names_tuple("propagate", propagate),
        budgets={
            stage: parse_seconds(f"budgets: {stage}", budget)
            for stage, budget in (budgets or {}).items()
        },
        temporary=test and spool["spool_dir"] is None,
        remarks=_remarks(variables),
        **spool,
    )


def _remarks(variables: _Variables) -> tuple[str, ...]:
    unused = sorted(n for n in variables.names() if n.startswith(_names.OTEL_BSP_PREFIX))
    if not unused:
        return ()
    return (f"{', '.join(unused)} set, without a meaning here: the disk is the queue",)


def spool_base() -> list[Path]:
    """Return the directories in which the local store may be, for the read side."""
    given = _Variables().get(_names.SPOOL_DIR)
    if given is not None:
        return [Path(given).expanduser()]
    return [_spool.default_base(), _spool.fallback_base()]
