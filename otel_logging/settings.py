"""What was asked for: arguments, then the environment, then `.env`, then defaults.

In: arguments of ``setup_observability`` and ``configure_logging``, variables,
and a `.env` file in the working directory (read, never exported). Out: frozen
records. Invariant: the only reader of ``os.environ`` in the package; whatever
is wrong is a ``ConfigurationError`` here, and never appears later.
Deliberately absent: acting on any of it. ``docs/configuration.md`` has the table.
"""

import base64
import logging
import math
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, TypeVar
from urllib.parse import SplitResult, unquote, urlsplit

from otel_logging import _names
from otel_logging.spool import directories, memory

_T = TypeVar("_T")

SAMPLERS: Final = (
    "always_on",
    "always_off",
    "traceidratio",
    "parentbased_always_on",
    "parentbased_always_off",
    "parentbased_traceidratio",
)
DEFAULT_SAMPLER: Final = "parentbased_always_on"  # OpenTelemetry specification
NAMELESS: Final = "unknown_service:python"  # OpenTelemetry specification: a service without a name
_PORTS: Final = {"http/protobuf": 4318, "grpc": 4317}  # OpenTelemetry specification
_ENCODED: Final = (
    ", its user and password percent-encoded (/ is %2F, ? is %3F, @ is %40), without a colon in"
    " the user, control characters, or another @"
)
_CONTROLS: Final = re.compile("[\x00-\x1f\x7f-\x9f]")  # RFC 7617: in neither of them
#: A scheme, all to a query or fragment, the sign before that, and it.
_URL: Final = re.compile(r"((?:[A-Za-z][A-Za-z0-9+.-]*://)?)([^?#]*)([?#]?)(.*)", re.DOTALL)
_NO_PORT: Final = re.compile(r"^((?:\[[0-9A-Fa-f:.]*\])?+[^:/]*):(?![0-9]*(?:/|$)).*", re.DOTALL)
_CONSOLE: Final = frozenset({"development", "dev", "local", "test"})
#: Terminals whose documentation says that they take hyperlinks (OSC 8); see docs/jaeger.md.
_LINKING_PROGRAMS: Final = frozenset({"iTerm.app", "WezTerm", "vscode", "ghostty"})
_LINKING_TERMS: Final = re.compile(r"(xterm-)?(kitty|ghostty)|alacritty.*|foot(-.*)?|wezterm")
_LINKING_VTE: Final = 5001  # 0.50.1: the first without a crash on them
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
    """Something that was asked for cannot be: names the variable, the value, what is allowed.

    Headers, and the user and query of a URL, are not shown: they hold passwords.
    """

    def __init__(self, variable: str, value: object, allowed: str) -> None:
        shown = repr(value)
        if variable.lower().endswith(("endpoint", "url")) or "://" in shown:
            shown = repr(shown_url(value)) if isinstance(value, str) else shown_url(shown)
        shown = "…" if variable.endswith("HEADERS") else shown
        super().__init__(f"{variable}={shown}: {allowed}")


def shown_url(url: str) -> str:
    """Return *url* as it may be shown: without user, password and query, whatever its shape is."""
    scheme, rest, sign, query = _URL.match(url).groups()  # type: ignore[union-attr]  # all fits
    if "@" in query:  # perhaps of a password with such a sign in it
        return f"{scheme}…"
    _, at, address = rest.rpartition("@")
    # without an @ a password may stand where a port belongs
    rest = f"…@{address}" if at else _NO_PORT.sub(r"\1:…", rest)
    return scheme + rest + sign + "…" * bool(sign)


@contextmanager
def only_configuration_errors(doing: str) -> Iterator[None]:
    """Raise ``ConfigurationError`` for whatever else goes wrong while a program does that."""
    try:
        yield
    except ConfigurationError:
        raise
    except Exception as error:
        raise ConfigurationError(
            doing, type(error).__name__, f"set-up is not possible here ({error})"
        ) from error


@dataclass(frozen=True, slots=True, kw_only=True)
class LogSettings:
    """How lines look and which are made. Levels are the numbers of ``logging``."""

    environment: str
    console: bool  # coloured lines rather than JSON
    color: bool
    level: int
    levels: Mapping[str, int]  # logger name, or a parent of it -> level
    #: Jaeger's address, where the terminal takes hyperlinks to it and something is delivered.
    links_to: str | None
    #: Bound of a line on a pipe. POSIX: a write of at most PIPE_BUF bytes is atomic there;
    #: Linux has 4,096.
    line_bytes: int
    caller: bool  # each line says which file and line of code it comes from
    takeover: bool  # other loggers' lines, warnings and uncaught exceptions are ours too


@dataclass(frozen=True, slots=True)
class Limits:
    """OpenTelemetry's span limits; None is no limit beyond the package's own."""

    span_attributes: int | None = 128  # OpenTelemetry specification: default of all counts
    event_attributes: int | None = 128
    record_attributes: int | None = 128
    link_attributes: int | None = 128
    links: int | None = 128
    events: int | None = None  # size of a page of events; nothing is dropped
    span_value_length: int | None = None
    record_value_length: int | None = None
    value_length: int | None = None


@dataclass(frozen=True, slots=True)
class Exporter:
    """Where the spans or the log records go, and how. *endpoint* is complete: nothing is appended
    to it. Its user and password are a header.
    """

    signal: str = "traces"  # or "logs"
    endpoint: str = field(default="http://localhost:4318/v1/traces", repr=False)
    protocol: str = "http/protobuf"
    headers: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    timeout_s: float = 10.0  # OpenTelemetry specification, OTLP exporter: default
    gzip: bool = False
    certificate: str | None = None
    client_key: str | None = None
    client_certificate: str | None = None
    network: bool = True  # False: they wait in the spool

    @property
    def shown(self) -> str:
        """The endpoint as it may be shown: its query may hold a key."""
        return shown_url(self.endpoint)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """All that ``setup_observability`` acts on."""

    service_name: str
    resource: Mapping[str, str]
    logs: LogSettings
    traces: bool  # False: OTEL_SDK_DISABLED or OTEL_TRACES_EXPORTER=none
    traces_off_by: str = field(compare=False)  # which of them, as it was set; or empty
    exporter: Exporter
    log_exporter: Exporter | None  # OTEL_LOGS_EXPORTER=otlp: lines leave as log records
    span_events: bool  # lines are events of their spans
    sampler: str
    sampler_ratio: float
    limits: Limits
    propagators: tuple[str, ...] | None  # None: what OpenTelemetry has set
    who: tuple[str, ...]
    propagate: tuple[str, ...]
    budgets: Mapping[str, float]
    spool_dir: Path | None  # None: the user's own place, or the fallback
    spool_dir_named: str = field(compare=False)  # who asked for it: the argument or the variable
    spool_bytes: int
    spool_hours: float
    temporary: bool  # test: a spool for this process alone
    remarks: tuple[str, ...]  # what is to be said once


class _Variables:
    """The environment, and behind it `.env`. An empty value is an unset one."""

    def __init__(self) -> None:
        self._dotenv = _read_dotenv()

    def get(self, name: str) -> str | None:
        return os.environ.get(name, "").strip() or (self._dotenv.get(name) or "").strip() or None

    def read(self, parse: Callable[[str, str], _T], default: _T, *names: str) -> _T:
        """Parse the first of *names* that is set: *parse* gets the name and the value."""
        for name in names:
            if (value := self.get(name)) is not None:
                return parse(name, value)
        return default

    def names(self) -> set[str]:
        return {*os.environ, *self._dotenv}


def _read_dotenv() -> Mapping[str, str | None]:
    path = Path(".env")
    with suppress(OSError):  # a working directory that is gone, or that we may not enter
        if path.is_file():
            return _parse_dotenv(path)
    return {}


def _parse_dotenv(path: Path) -> Mapping[str, str | None]:
    from dotenv import dotenv_values

    try:
        return dotenv_values(path, encoding="utf-8-sig")  # Windows' editors put a BOM first
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(".env", str(path), f"cannot be read: {error}") from error


# ---------------------------------------------------------------- one value each
# A parser takes the name to blame and the value: of a variable a string, of an argument
# whatever was given.


def parse_level(name: str, value: object) -> int:
    """Return the number of a level: a name in any case, or a number."""
    text = str(value).strip().lower()
    if isinstance(value, (str, int)) and not isinstance(value, bool):
        if text in _LEVELS:
            return _LEVELS[text]
        if re.fullmatch(r"[0-9]{1,9}", text):
            return int(text)
    raise ConfigurationError(
        name, value, f"a level is one of {', '.join(_LEVELS)}, or a number from 0"
    )


def parse_seconds(name: str, value: object) -> float:
    """Return a positive, finite number of seconds."""
    number = _number(value)
    if not (math.isfinite(number) and number > 0):
        raise ConfigurationError(name, value, "a positive number of seconds")
    return number


def parse_budget(name: str, value: object) -> float:
    """Return a budget in seconds: a number, where a variable's would be a text."""
    if isinstance(value, str):
        raise ConfigurationError(name, value, "a positive number of seconds")
    return parse_seconds(name, value)


def _number(value: Any) -> float:
    try:
        return math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        return math.nan


def _ratio(name: str, value: str) -> float:
    number = _number(value)
    if not 0.0 <= number <= 1.0:
        raise ConfigurationError(name, value, "a number from 0 to 1, the ratio to keep")
    return number


def _count(least: int) -> Callable[[str, str], int]:
    def parse(name: str, value: str) -> int:
        if not (re.fullmatch(r"[0-9]{1,18}", value) and int(value) >= least):
            raise ConfigurationError(name, value, f"a whole number from {least}")
        return int(value)

    return parse


def _boolean(name: str, value: object) -> bool:
    if not isinstance(value, bool):
        raise ConfigurationError(name, value, "True or False")
    return value


def _one_of(*choices: str) -> Callable[[str, str], str]:
    def parse(name: str, value: str) -> str:
        if value.lower() not in choices:
            raise ConfigurationError(name, value, "one of " + ", ".join(choices))
        return value.lower()

    return parse


def _pairs(name: str, value: str) -> tuple[tuple[str, str], ...]:
    """Parse ``k=v,k2=v2``, percent-encoded, as W3C Baggage has it."""
    pairs = []
    for item in filter(str.strip, value.split(",")):
        key, equals, text = item.partition("=")
        if not (equals and key.strip()):
            raise ConfigurationError(name, value, "pairs like key=value,key2=value2")
        decoded = _decoded(key.strip()), _decoded(text.strip())
        if decoded[0] is None or decoded[1] is None:
            raise ConfigurationError(name, value, "percent-encoded UTF-8, as in key=a%20b")
        pairs.append((decoded[0], decoded[1]))
    return tuple(pairs)


def _decoded(text: str) -> str | None:
    """Decode percent-encoded UTF-8; return None where it is not."""
    with suppress(UnicodeDecodeError):
        if not re.search("%(?![0-9A-Fa-f]{2})", text):
            return unquote(text, errors="strict")
    return None


def _resource(name: str, value: str) -> Mapping[str, str]:
    return dict(_pairs(name, value))


def _levels(name: str, value: object) -> Mapping[str, int]:
    if not isinstance(value, (str, Mapping)):
        raise ConfigurationError(name, value, "levels by logger name, like shop=debug")
    pairs = value.items() if isinstance(value, Mapping) else _pairs(name, value)
    return {_text(name, logger): parse_level(f"{name}: {logger}", lvl) for logger, lvl in pairs}


def _strings(name: str, value: object) -> tuple[str, ...]:
    if isinstance(value, (Sequence, set, frozenset)) and not isinstance(value, str):
        names = tuple(value)
        if all(isinstance(each, str) and each for each in names):
            return names
    raise ConfigurationError(name, value, 'a sequence of names like ("user_id",)')


def _baggage_keys(name: str, value: object) -> tuple[str, ...]:
    keys = _strings(name, value)
    # W3C Baggage: a key is a token
    if not all(re.fullmatch(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", key) for key in keys):
        raise ConfigurationError(name, value, "names without spaces, commas or the like")
    return keys


def _budgets(name: str, value: object) -> Mapping[str, float]:
    if not isinstance(value, Mapping):
        raise ConfigurationError(name, value, "seconds by stage name")
    return {_text(name, stage): parse_budget(f"{name}: {stage}", s) for stage, s in value.items()}


def _text(name: str, value: object) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ConfigurationError(name, value, "a name that is not empty")
    return value


def _environment(name: str, value: object) -> str:
    if not isinstance(value, str) or not re.fullmatch(r"[\w.-]+", value):
        allowed = "a name like development, production, test or staging"
        raise ConfigurationError(name, value, allowed)
    return value.lower()


def _url(name: str, value: object, like: str = "a URL like http://localhost:4318") -> str:
    # spaces, control characters and what is not ASCII cannot be sent
    text = value if isinstance(value, str) and re.fullmatch("[!-~]+", value) else ""
    try:
        parts = urlsplit(text)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        host, port = "", None
    if not host or "%" in host or parts.scheme not in ("http", "https") or port == 0:
        raise ConfigurationError(name, value, like + _ENCODED * ("@" in text))
    if "#" in text:
        raise ConfigurationError(name, value, f"{like}, without a fragment (#)")
    if "@" in parts.path + parts.query or _credentials(parts) is None:
        raise ConfigurationError(name, value, like + _ENCODED)
    return parts.geturl()


def _credentials(parts: SplitResult) -> str | None:
    """Return user and password with a colon between them (RFC 7617), None where they cannot be."""
    encoded, _, encoded_password = parts.netloc.rpartition("@")[0].partition(":")
    user, password = _decoded(encoded), _decoded(encoded_password)
    if user is None or password is None or ":" in user or _CONTROLS.search(user + password):
        return None
    return f"{user}:{password}"


def _url_with_path(signal: str) -> Callable[[str, object], str]:
    def parse(name: str, value: object) -> str:
        parts = urlsplit(_url(name, value))
        path = parts.path.rstrip("/")
        for known in _names.OTLP_PREFIXES:
            path = path.removesuffix(f"/v1/{known}")
        return parts._replace(path=f"{path}/v1/{signal}").geturl()

    return parse


def _url_beside_traces(name: str, value: str) -> str:
    if not urlsplit(_url(name, value)).path.rstrip("/").endswith("/v1/traces"):
        allowed = (
            "a URL that ends in /v1/traces, for log records to go to /v1/logs beside it; or set"
            f" {_names.OTLP_PREFIXES['logs']}ENDPOINT"
        )
        raise ConfigurationError(name, value, allowed)
    return _url_with_path("logs")(name, value)


def _url_of_grpc(name: str, value: object) -> str:
    url = _url(name, value, "a URL like http://localhost:4317")
    parts = urlsplit(url)
    if parts.path.strip("/") or parts.query:
        raise ConfigurationError(
            name, value, "a URL like http://localhost:4317: gRPC has no path and no query"
        )
    return url


def _file(name: str, value: str) -> str:
    if not Path(value).is_file():
        raise ConfigurationError(name, value, "a file that exists")
    return value


def _directory(name: str, value: Any) -> Path:
    try:
        if os.fspath(value):
            return Path(value).expanduser()
    except (TypeError, RuntimeError):  # no path; nobody's home
        pass
    raise ConfigurationError(name, value, "a directory")


# ---------------------------------------------------------------- groups of values


def load_logs(
    *,
    environment: str | None = None,
    log_level: str | int | None = None,
    log_levels: str | Mapping[str, str | int] | None = None,
) -> LogSettings:
    """Return how lines are made. Failure: raises ``ConfigurationError``."""
    return _logs(_Variables(), environment, log_level, log_levels, takeover=True)


def _logs(
    variables: _Variables,
    environment: str | None,
    log_level: str | int | None,
    log_levels: str | Mapping[str, str | int] | None,
    *,
    takeover: bool,
) -> LogSettings:
    read = variables.read
    if environment is None:
        name = read(_environment, _usual_environment(), _names.ENVIRONMENT)
    else:
        name = _environment("environment", environment)
    level = None if log_level is None else parse_level("log_level", log_level)
    levels = None if log_levels is None else _levels("log_levels", log_levels)
    forced = variables.get(_names.FORCE_COLOR) not in (None, "0")
    jaeger_url = _jaeger_url(variables)  # wrong is wrong, whatever the terminal takes
    terminal = _is_terminal() and variables.get(_names.TERM) != "dumb"
    return LogSettings(
        environment=name,
        console=name in _CONSOLE,
        color=(forced or terminal) and variables.get(_names.NO_COLOR) is None,
        level=read(parse_level, logging.INFO, _names.LOG_LEVEL) if level is None else level,
        levels=read(_levels, {}, _names.LOG_LEVELS) if levels is None else levels,
        links_to=jaeger_url if _takes_links(variables) else None,
        line_bytes=read(_count(512), 4096, _names.LINE_BYTES),
        caller=read(_one_of("true", "false"), "false", _names.CALLER) == "true",
        takeover=_boolean("takeover", takeover),
    )


def _usual_environment() -> str:
    if "pytest" in sys.modules:
        return "test"
    return "development" if _is_terminal() else "production"


def _is_terminal() -> bool:
    try:
        return sys.stdout.isatty()
    except (AttributeError, ValueError, OSError):  # None, or closed
        return False


def _takes_links(variables: _Variables) -> bool:
    """Whether stdout is a terminal that is known to take hyperlinks, by what it says of itself."""
    get = variables.get
    term = get(_names.TERM) or ""
    if not _is_terminal() or term == "dumb":
        return False
    if (forced := get(_names.FORCE_HYPERLINK)) is not None:
        return forced != "0"
    # inside of these the variables are those of the terminal outside
    if any(map(get, _names.MULTIPLEXERS)) or term.startswith(("tmux", "screen")):
        return False
    vte = get(_names.VTE_VERSION) or ""
    return (
        any(map(get, _names.WITH_HYPERLINKS))
        or get(_names.TERM_PROGRAM) in _LINKING_PROGRAMS
        or _LINKING_TERMS.fullmatch(term) is not None
        or (vte.isdecimal() and int(vte) >= _LINKING_VTE)
    )


def _jaeger_url(variables: _Variables) -> str:
    def parse(name: str, value: str) -> str:
        like = "a URL like http://localhost:16686, without a password or a query"
        if re.search("[?@]", value):
            raise ConfigurationError(name, value, like)
        return _url(name, value, like).rstrip("/")

    return variables.read(parse, "http://localhost:16686", _names.JAEGER_URL)


def _exporter(
    variables: _Variables, endpoint: str | None, *, test: bool, signal: str = "traces"
) -> Exporter:
    own, shared = _names.OTLP_PREFIXES[signal], _names.OTLP_PREFIX
    prefixes, traces = [own, shared], _names.OTLP_PREFIXES["traces"]
    found = endpoint or variables.get(own + "ENDPOINT") or variables.get(shared + "ENDPOINT")
    if (
        own != traces and not found and variables.get(traces + "ENDPOINT")
    ):  # it alone says where the collector is
        prefixes.append(traces)

    def read(parse: Callable[[str, str], _T], default: _T, option: str) -> _T:
        # the signal's own variable wins
        return variables.read(parse, default, *(prefix + option for prefix in prefixes))

    usual = Exporter()
    protocol = read(_one_of(*_PORTS), usual.protocol, "PROTOCOL")
    whole: Callable[[str, Any], str] = _url_with_path(signal)
    # OpenTelemetry specification: the signal's own variable is taken as it is
    taken: Callable[[str, Any], str] = _url
    beside: Callable[[str, Any], str] = _url_beside_traces
    if protocol == "grpc":
        whole = taken = beside = _url_of_grpc
    if endpoint is not None:
        url = whole("endpoint", endpoint)
    else:
        url = whole("", f"http://localhost:{_PORTS[protocol]}")
        if prefixes[-1] == traces != own:
            url = variables.read(beside, url, traces + "ENDPOINT")
        url = variables.read(whole, url, shared + "ENDPOINT")
        url = variables.read(taken, url, own + "ENDPOINT")
    headers = read(_pairs, usual.headers, "HEADERS")
    parts = urlsplit(url)
    credentials = _credentials(parts)
    if credentials != ":" and "authorization" not in {key.lower() for key, _ in headers}:
        encoded = base64.b64encode(f"{credentials}".encode()).decode()
        headers = (*headers, ("authorization", f"Basic {encoded}"))
    return Exporter(
        signal=signal,
        endpoint=parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl(),
        protocol=protocol,
        headers=headers,
        timeout_s=read(parse_seconds, usual.timeout_s, "TIMEOUT"),
        gzip=read(_one_of("none", "gzip"), "none", "COMPRESSION") == "gzip",
        certificate=read(_file, None, "CERTIFICATE"),
        client_key=read(_file, None, "CLIENT_KEY"),
        client_certificate=read(_file, None, "CLIENT_CERTIFICATE"),
        network=endpoint is not None or not test,
    )


def load(
    service_name: str | None = None,
    *,
    environment: str | None = None,
    log_level: str | int | None = None,
    endpoint: str | None = None,
    budgets: Mapping[str, float] | None = None,
    who: Sequence[str] = ("user_id",),
    propagate: Sequence[str] = (),
    takeover: bool = True,
    spool_dir: str | os.PathLike[str] | None = None,
) -> Settings:
    """Return all settings. Failure: raises ``ConfigurationError`` for the first bad one."""
    variables = _Variables()
    read = variables.read
    logs = _logs(variables, environment, log_level, None, takeover=takeover)
    test = logs.environment == "test"
    resource: Mapping[str, str] = read(_resource, {}, _names.OTEL_RESOURCE_ATTRIBUTES)
    if service_name is None:
        usual = resource.get("service.name") or NAMELESS
        service_name = read(_text, usual, _names.OTEL_SERVICE_NAME)
    exporter = _exporter(variables, endpoint, test=test)
    sampler = read(_one_of(*SAMPLERS), DEFAULT_SAMPLER, _names.OTEL_TRACES_SAMPLER)
    disabled = read(_one_of("true", "false"), "false", _names.OTEL_SDK_DISABLED) == "true"
    ratio = read(_ratio, 1.0, _names.OTEL_TRACES_SAMPLER_ARG)
    named = _names.SPOOL_DIR if spool_dir is None else "spool_dir"
    spool = None if spool_dir is None else _directory("spool_dir", spool_dir)
    spool = spool or read(_directory, None, _names.SPOOL_DIR)
    traced = read(_one_of("otlp", "none"), "otlp", _names.OTEL_TRACES_EXPORTER) == "otlp"
    lines = read(_line_exporters, frozenset({"span"}), _names.OTEL_LOGS_EXPORTER)
    log_exporter = None
    if "otlp" in lines and not disabled:
        log_exporter = _exporter(variables, endpoint, test=test, signal="logs")
    off_by = f"{_names.OTEL_TRACES_EXPORTER}=none" * (not traced)
    off_by = f"{_names.OTEL_SDK_DISABLED}=true" if disabled else off_by
    return Settings(
        service_name=_text("service_name", service_name),
        resource={**resource, "service.name": service_name},
        logs=logs if exporter.network and not off_by else replace(logs, links_to=None),
        traces=not off_by,
        traces_off_by=off_by,
        exporter=exporter,
        log_exporter=log_exporter,
        span_events="span" in lines or log_exporter is None,
        sampler=sampler,
        sampler_ratio=ratio if sampler.endswith("traceidratio") else 1.0,
        limits=_limits(variables),
        propagators=read(_comma_list, None, _names.OTEL_PROPAGATORS),
        who=_strings("who", who),
        propagate=_baggage_keys("propagate", propagate),
        budgets={} if budgets is None else _budgets("budgets", budgets),
        spool_dir=spool,
        spool_dir_named=named,
        spool_bytes=read(_count(memory.SEAL_BYTES), 64 << 20, _names.SPOOL_BYTES),
        spool_hours=read(parse_seconds, 24.0, _names.SPOOL_HOURS),
        temporary=test and spool is None,
        remarks=_remarks(variables),
    )


def _line_exporters(name: str, value: str) -> frozenset[str]:
    """Return where lines go beside stdout: to "otlp" as log records, to the "span" as events."""
    names = frozenset(part.lower() for part in _comma_list(name, value))
    if names == {"none"}:  # of the exporters of log records, that is
        return frozenset({"span"})
    if not names or not names <= {"otlp", "span"}:
        raise ConfigurationError(name, value, "one of otlp, none, or otlp,span for both ways")
    return names


def _comma_list(_: str, value: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in value.split(",") if part.strip())


def _limits(variables: _Variables) -> Limits:
    found = {
        limit: variables.read(_count(1 if limit == "events" else 0), -1, *names)
        for limit, names in _names.LIMITS.items()
    }
    return Limits(**{limit: value for limit, value in found.items() if value >= 0})


def _remarks(variables: _Variables) -> tuple[str, ...]:
    unused = sorted(n for n in variables.names() if n.startswith(_names.OTEL_BSP_PREFIX))
    if not unused:
        return ()
    return (f"{', '.join(unused)} set, without a meaning here: the disk is the queue",)


def spool_base() -> list[Path]:
    """Return the directories in which the local store may be, for the read side."""
    given = _Variables().read(_directory, None, _names.SPOOL_DIR)
    return [directories.default_base(), directories.fallback_base()] if given is None else [given]


def jaeger_url() -> str:
    """Return where Jaeger is asked, for the read side. Failure: raises ``ConfigurationError``."""
    return _jaeger_url(_Variables())


def takes_links() -> bool:
    """Whether stdout is a terminal that is known to take hyperlinks."""
    return _takes_links(_Variables())


def value_of(name: str) -> str:
    """Return a variable of somebody else's, of the environment alone; empty where it is unset."""
    return os.environ.get(name, "").strip()


def set_in(name: str) -> str:
    """Return where a variable gets its value from: "environment", ".env", or "" for nowhere."""
    if value_of(name):
        return "environment"
    return ".env" if _Variables().get(name) is not None else ""


def proxies() -> tuple[str, ...]:
    """Return the variables that are set and name a proxy, which neither delivery nor Jaeger use."""
    variables = _Variables()
    return tuple(
        name
        for proxy in _names.PROXIES
        for name in (proxy, proxy.lower())
        if variables.get(name) is not None
    )
