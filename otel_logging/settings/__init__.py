"""All settings: arguments, then the environment, then `.env`, then defaults.

In: arguments of ``setup_observability``, variables, a `.env` file. Out: frozen records,
each of whose fields says where it comes from. Invariant: an invalid one is a
``ConfigurationError`` here, and never appears later. Deliberately absent: acting on
any of it. ``docs/configuration.md`` has the table.
"""

import json
import logging
import sys
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Final

from otel_logging import _names, _parse
from otel_logging._errors import ConfigurationError
from otel_logging._redact import DEFAULT, OFF, Redaction
from otel_logging.settings.exporter import Exporter, load_exporter
from otel_logging.settings.logs import LogSettings, load_logs
from otel_logging.settings.variables import Record, Variables, asked
from otel_logging.spool import directories, memory

__all__ = ["ConfigurationError", "Exporter", "Limits", "LogSettings", "Settings", "load"]

SAMPLERS: Final = tuple(
    parent + kind
    for parent in ("", "parentbased_")
    for kind in ("always_on", "always_off", "traceidratio")
)
DEFAULT_SAMPLER: Final = "parentbased_always_on"  # OpenTelemetry specification


def nameless() -> str:
    """Return the name of a service without one, as OpenTelemetry's SDK does."""
    return ":".join(filter(None, ("unknown_service", Path(sys.executable or "").name)))


@dataclass(init=False, repr=False, eq=False)
class Limits(Record):
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

    @property
    def longest(self) -> int:
        """The longest text that one of them allows; 0, where none is set."""
        return max(
            self.span_value_length or 0, self.record_value_length or 0, self.value_length or 0
        )


_INTEGRATIONS: Final = _parse.integrations, tuple(_names.INTEGRATIONS), _names.INSTRUMENT


def load_integrations() -> tuple[str, ...]:
    """Return the integrations that are on. Failure: raises ``ConfigurationError``."""
    return Variables().read(*_INTEGRATIONS)


@dataclass(init=False, repr=False, eq=False, kw_only=True)
class Settings(Record):
    """All that ``setup_observability`` acts on."""

    service_name: str = asked(
        _parse.text, nameless, _names.OTEL_SERVICE_NAME, argument="service_name"
    )
    resource: Mapping[str, str] = asked(_parse.resource, dict, _names.OTEL_RESOURCE_ATTRIBUTES)
    logs: LogSettings
    disabled: bool = asked(_parse.true_or_false, False, _names.OTEL_SDK_DISABLED)
    traces_exporter: str = asked(_parse.one_of("otlp", "none"), "otlp", _names.OTEL_TRACES_EXPORTER)
    #: Where lines go beside stdout: to "otlp" as log records, to the "span" as events.
    lines_to: frozenset[str] = asked(
        _parse.line_exporters, frozenset({"span"}), _names.OTEL_LOGS_EXPORTER
    )
    exporter: Exporter
    log_exporter: Exporter | None  # lines leave as log records
    sampler: str = asked(_parse.one_of(*SAMPLERS), DEFAULT_SAMPLER, _names.OTEL_TRACES_SAMPLER)
    sampler_ratio: float = asked(_parse.ratio, 1.0, _names.OTEL_TRACES_SAMPLER_ARG)
    limits: Limits
    #: None: what OpenTelemetry has set.
    propagators: tuple[str, ...] | None = asked(_parse.propagators, None, _names.OTEL_PROPAGATORS)
    who: tuple[str, ...] = asked(_parse.names, ("user_id",), _names.WHO_KEYS, argument="who")
    propagate: tuple[str, ...] = asked(
        _parse.baggage_keys, (), _names.PROPAGATE, argument="propagate"
    )
    #: Integrations that are on.
    instrument: tuple[str, ...] = asked(*_INTEGRATIONS, argument="instrument")
    #: Whether a trace that comes in is continued; else it is linked to.
    trust_inbound: bool = asked(_parse.flag, True, _names.TRUST_INBOUND, argument="trust_inbound")
    budgets: Mapping[str, float] = asked(_parse.budgets, dict, _names.BUDGETS, argument="budgets")
    #: None: the user's own place, or the fallback.
    spool_dir: Path | None = asked(_parse.directory, None, _names.SPOOL_DIR, argument="spool_dir")
    spool_dir_named: str = field(compare=False)  # the argument or the variable
    spool_bytes: int = asked(_parse.count(memory.SEAL_BYTES), 64 << 20, _names.SPOOL_BYTES)
    spool_hours: float = asked(_parse.seconds, 24.0, _names.SPOOL_HOURS)
    remarks: tuple[str, ...]  # to be reported once

    @property
    def traces_off_by(self) -> str:
        """The variable that turns tracing off, as it was set; or empty."""
        if self.disabled:
            return f"{_names.OTEL_SDK_DISABLED}=true"
        return f"{_names.OTEL_TRACES_EXPORTER}=none" * (self.traces_exporter == "none")

    @property
    def traces(self) -> bool:
        """Whether there are spans."""
        return not self.traces_off_by

    @property
    def span_events(self) -> bool:
        """Whether lines are events of their spans."""
        return "span" in self.lines_to or self.log_exporter is None

    @property
    def temporary(self) -> bool:
        """Whether the spool is for this process alone: in tests."""
        return self.logs.environment == "test" and self.spool_dir is None


def load(service_name: str | None = None, *, beside: bool = False, **given: Any) -> Settings:
    """Return all settings; *given* are arguments of ``setup_observability``.

    *beside*: the tracer provider is another SDK's; what is no value here may be one there.
    Failure: raises ``ConfigurationError`` for the first invalid one.
    """
    variables = Variables(beside=beside)
    logs = load_logs(variables, **given)
    values = variables.values(Settings, {"service_name": service_name, **given})
    logs = replace(logs, redaction=logs.redaction.for_who(values["who"]))
    resource, name = values["resource"], values["service_name"]
    if name == nameless() and resource.get("service.name"):
        name = _parse.text(
            f"{_names.OTEL_RESOURCE_ATTRIBUTES}: service.name", resource["service.name"]
        )
    kept = values["sampler_ratio"]
    if not values["sampler"].endswith("traceidratio"):
        values["sampler_ratio"] = 1.0
    elif not 0.0 <= kept <= 1.0:  # as OpenTelemetry's SDK does
        values["sampler_ratio"] = 1.0
        named = _names.OTEL_TRACES_SAMPLER_ARG
        variables.ignored.append(f"{named}={kept} is ignored: it is not from 0 to 1")
    endpoint, test = given.get("endpoint"), logs.environment == "test"
    log_exporter = None
    if "otlp" in values["lines_to"] and not values["disabled"]:
        log_exporter = load_exporter(variables, endpoint, test=test, signal="logs")
    values |= {"service_name": name, "resource": {**resource, "service.name": name}}
    settings = Settings(
        **values,
        logs=logs,
        exporter=load_exporter(variables, endpoint, test=test),
        log_exporter=log_exporter,
        limits=_limits(variables),
        spool_dir_named=_names.SPOOL_DIR if given.get("spool_dir") is None else "spool_dir",
        remarks=_remarks(variables),
    )
    if settings.exporter.network and settings.traces:
        return settings
    return replace(settings, logs=replace(logs, links_to=None))  # a link would lead nowhere


def _limits(variables: Variables) -> Limits:
    found = {
        limit: variables.read(_parse.count(1 if limit == "events" else 0), -1, *names)
        for limit, names in _names.LIMITS.items()
    }
    return Limits(**{limit: value for limit, value in found.items() if value >= 0})


def _remarks(variables: Variables) -> tuple[str, ...]:
    unused = sorted(n for n in variables.names() if n.startswith(_names.OTEL_BSP_PREFIX))
    said = dict.fromkeys(variables.ignored)  # once, though two signals read it
    if not unused:
        return tuple(said)
    verb = "is" if len(unused) == 1 else "are"
    return (*said, f"{', '.join(unused)} {verb} ignored: spans are queued on disk")


def differences(one: Settings, other: Settings, given: Collection[str]) -> Iterator[str]:
    """Yield which of the arguments *given* for *one* is ignored where *other* is set up."""
    parts: list[tuple[Any, Any]] = [(one, other), (one.logs, other.logs)]
    values = [
        (each.metadata["argument"], *values)
        for part in parts
        for each in fields(part[0])
        if each.metadata
        for values in [[getattr(of, each.name) for of in part]]
    ]
    values.append(("endpoint", one.exporter.shown, other.exporter.shown))
    for name, ignored, known in values:
        if name in given and ignored != known:
            yield f"{name}={_shown(name, ignored)} ignored: set up as {_shown(name, known)}"


def _shown(name: str, value: Any) -> str:
    if name == "log_level":
        value = logging.getLevelName(value).lower()
    if isinstance(value, Redaction):
        parts = ("keys", "patterns", "allow", "personal")  # the salt is a secret
        said = [f"{part}={getattr(value, part)!r}" for part in parts if getattr(value, part)]
        usual = {DEFAULT: "True", OFF: "False"}
        return usual.get(value, f"Redaction({', '.join(said)})")
    return json.dumps(value, ensure_ascii=False) if isinstance(value, str) else str(value)


def destination(service: str, exporter: Exporter) -> str:
    """Return the name of the directory for what *service* sends to one exporter."""
    name = directories.destination(service, exporter.shown, exporter.protocol)
    return name + directories.LOGS if exporter.signal == "logs" else name


def spool_base() -> list[Path]:
    """Return the directories in which the local store may be, for the read side: one if a variable
    names it.
    """
    given = Variables().read(_parse.directory, None, _names.SPOOL_DIR)
    if given is not None:
        return [given]
    with suppress(OSError):
        return [directories.default_base(), directories.fallback_base()]
    return [directories.fallback_base()]
