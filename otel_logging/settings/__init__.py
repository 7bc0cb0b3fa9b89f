"""All settings: arguments, then the environment, then `.env`, then defaults.

In: arguments of ``setup_observability``, variables, a `.env` file. Out: frozen records,
each of whose fields says where it comes from. Invariant: an invalid value is a
``ConfigurationError`` here, and never appears later. Deliberately absent: acting on
any of it. ``docs/configuration.md`` has the table.
"""

import json
import logging
import sys
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Any, Final

from otel_logging import _names, _parse
from otel_logging._errors import ConfigurationError
from otel_logging._redact import DEFAULT, OFF, Redaction
from otel_logging.settings.exporter import Exporter, load_exporter
from otel_logging.settings.logs import LogSettings, log_values
from otel_logging.settings.variables import Record, Variables, asked
from otel_logging.spool import directories, memory

__all__ = ["ConfigurationError", "Exporter", "Limits", "LogSettings", "Settings", "load"]

_SAMPLERS: Final = "always_on", "always_off", "traceidratio"
SAMPLERS: Final = (*_SAMPLERS, *(f"parentbased_{kind}" for kind in _SAMPLERS))
DEFAULT_SAMPLER: Final = "parentbased_always_on"  # OpenTelemetry specification


def nameless() -> str:
    """Return the name of a service without one, as OpenTelemetry's SDK does."""
    return ":".join(filter(None, ("unknown_service", Path(sys.executable or "").name)))


_limit = partial(asked, _parse.count(0))
_COUNT: Final = "OTEL_ATTRIBUTE_COUNT_LIMIT"  # used where the signal's own limit is not set
_LENGTH: Final = "OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT"


@dataclass(init=False, repr=False, eq=False)
class Limits(Record):
    """OpenTelemetry's span limits; None is no limit beyond the package's own."""

    # OpenTelemetry specification: default of all counts
    span_attributes: int | None = _limit(128, "OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT", _COUNT)
    event_attributes: int | None = _limit(128, "OTEL_EVENT_ATTRIBUTE_COUNT_LIMIT", _COUNT)
    record_attributes: int | None = _limit(128, "OTEL_LOGRECORD_ATTRIBUTE_COUNT_LIMIT", _COUNT)
    link_attributes: int | None = _limit(128, "OTEL_LINK_ATTRIBUTE_COUNT_LIMIT", _COUNT)
    links: int | None = _limit(128, "OTEL_SPAN_LINK_COUNT_LIMIT")
    #: Size of a page of events; nothing is dropped.
    events: int | None = asked(_parse.count(1), None, "OTEL_SPAN_EVENT_COUNT_LIMIT")
    span_value_length: int | None = _limit(None, "OTEL_SPAN_ATTRIBUTE_VALUE_LENGTH_LIMIT", _LENGTH)
    record_value_length: int | None = _limit(
        None, "OTEL_LOGRECORD_ATTRIBUTE_VALUE_LENGTH_LIMIT", _LENGTH
    )
    value_length: int | None = _limit(None, _LENGTH)

    @property
    def longest(self) -> int:
        """The longest text that one of the limits allows; 0 if none is set."""
        lengths = self.span_value_length, self.record_value_length, self.value_length
        return max(length or 0 for length in lengths)


@dataclass(init=False, repr=False, eq=False, kw_only=True)
class Settings(LogSettings):
    """All that ``setup_observability`` acts on."""

    service_name: str = asked(_parse.text, nameless, _names.OTEL_SERVICE_NAME)
    resource: Mapping[str, str] = asked(_parse.resource, dict, "OTEL_RESOURCE_ATTRIBUTES")
    disabled: bool = asked(_parse.true_or_false, False, "OTEL_SDK_DISABLED")
    traces_exporter: str = asked(_parse.one_of("otlp", "none"), "otlp", "OTEL_TRACES_EXPORTER")
    #: Where lines go beside stdout: "otlp", as log records; "span", as events.
    lines_to: frozenset[str] = asked(
        _parse.line_exporters, frozenset({"span"}), _names.OTEL_LOGS_EXPORTER
    )
    exporter: Exporter
    log_exporter: Exporter | None  # lines leave as log records
    sampler: str = asked(_parse.one_of(*SAMPLERS), DEFAULT_SAMPLER, _names.OTEL_TRACES_SAMPLER)
    sampler_ratio: float = asked(_parse.ratio, 1.0, _names.OTEL_TRACES_SAMPLER_ARG)
    limits: Limits
    propagate: tuple[str, ...] = asked(_parse.baggage_keys, (), "OTEL_LOGGING_PROPAGATE")
    #: Whether an incoming trace is continued; else it is linked to.
    trust_inbound: bool = asked(_parse.flag, True, "OTEL_LOGGING_TRUST_INBOUND")
    budgets: Mapping[str, float] = asked(_parse.budgets, dict, "OTEL_LOGGING_BUDGETS")
    #: None: the user's own state directory, or the fallback.
    spool_dir: Path | None = asked(_parse.directory, None, _names.SPOOL_DIR)
    spool_dir_named: str  # the argument or the variable
    spool_bytes: int = asked(_parse.count(memory.SEAL_BYTES), 64 << 20, _names.SPOOL_BYTES)
    spool_hours: float = asked(_parse.seconds, 24.0, "OTEL_LOGGING_SPOOL_HOURS")
    remarks: tuple[str, ...]  # to be reported once

    @property
    def traces_off_by(self) -> str:
        """The variable that turns tracing off, as it was set; or empty."""
        if self.disabled:
            return "OTEL_SDK_DISABLED=true"
        return "OTEL_TRACES_EXPORTER=none" * (self.traces_exporter == "none")

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
        return self.environment == "test" and self.spool_dir is None


def load(service_name: str | None = None, *, beside: bool = False, **given: Any) -> Settings:
    """Return all settings; *given* are arguments of ``setup_observability``.

    *beside*: the tracer provider is another SDK's, for which values may be valid that are not here.
    Failure: raises ``ConfigurationError`` for the first invalid one.
    """
    variables = Variables(beside=beside)
    values = log_values(variables, Settings, {"service_name": service_name, **given})
    resource, name = values["resource"], values["service_name"]
    if name == nameless() and resource.get("service.name"):
        named = "OTEL_RESOURCE_ATTRIBUTES: service.name"
        name = _parse.text(named, resource["service.name"])
    ratio = values["sampler_ratio"] if values["sampler"].endswith("traceidratio") else 1.0
    if not 0.0 <= ratio <= 1.0:  # as OpenTelemetry's SDK does
        named = _names.OTEL_TRACES_SAMPLER_ARG
        variables.ignored.append(f"{named}={ratio} is ignored: it is not from 0 to 1")
        ratio = 1.0
    values |= {"service_name": name, "resource": {**resource, "service.name": name}}
    values["sampler_ratio"] = ratio
    endpoint, test = given.get("endpoint"), values["environment"] == "test"
    sends_lines = "otlp" in values["lines_to"] and not values["disabled"]
    logs = load_exporter(variables, endpoint, test=test, signal="logs") if sends_lines else None
    settings = Settings(
        **values,
        exporter=load_exporter(variables, endpoint, test=test),
        log_exporter=logs,
        limits=Limits(**variables.values(Limits, {})),
        spool_dir_named=_names.SPOOL_DIR if given.get("spool_dir") is None else "spool_dir",
        remarks=tuple(dict.fromkeys(variables.ignored)),  # once, though two signals read it
    )
    if settings.exporter.network and settings.traces:
        return settings
    return replace(settings, links_to=None)  # a link would lead nowhere


def differences(one: Settings, other: Settings, given: Collection[str]) -> Iterator[str]:
    """Yield those of the arguments *given* for *one* that are ignored, since *other* is set up."""
    values = {
        each.metadata.get("argument") or each.name: [getattr(of, each.name) for of in (one, other)]
        for each in fields(one)
    }
    values["endpoint"] = [one.exporter.shown, other.exporter.shown]
    for name in given:
        ignored, known = values[name]
        if ignored != known:
            yield f"{name}={_shown(name, ignored)} ignored: set up as {_shown(name, known)}"


def _shown(name: str, value: Any) -> str:
    if name == "log_level":
        value = logging.getLevelName(value).lower()
    if isinstance(value, Redaction):
        return {DEFAULT: "True", OFF: "False"}.get(value, "Redaction(...)")  # its salt is a secret
    return json.dumps(value, ensure_ascii=False) if isinstance(value, str) else str(value)


def destination(service: str, exporter: Exporter) -> str:
    """Return the name of the directory for what *service* sends to one exporter."""
    name = directories.destination(service, exporter.shown, exporter.protocol)
    return name + directories.LOGS if exporter.signal == "logs" else name


def spool_base() -> list[Path]:
    """Return the directories in which the local store may be, for the read side: one if a variable
    names it.
    """
    if (given := Variables().read(_parse.directory, None, _names.SPOOL_DIR)) is not None:
        return [given]
    with suppress(OSError):
        return [directories.default_base(), directories.fallback_base()]
    return [directories.fallback_base()]
