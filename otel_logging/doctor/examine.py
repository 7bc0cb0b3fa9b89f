"""In which order the doctor looks, and where it stops.

In: where the spool is, if not where the settings say. Out: findings, as they are
made. Invariant: without a problem among them the round trip works: a span with a
log line went to the collector as every span does, and came back from Jaeger.
Deliberately absent: the single checks.
"""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from otel_logging import _names, _otlp, settings
from otel_logging.doctor import collector, here, round_trip
from otel_logging.doctor.finding import Finding, Mark, note, problem
from otel_logging.doctor.round_trip import Probe
from otel_logging.export.ids import new_span_id, new_trace_id
from otel_logging.settings import ConfigurationError, Settings
from otel_logging.traces.jaeger import Jaeger

_LINE: Final = "the doctor was here"


def examine(*, spool_dir: Path | None = None, patience_s: float) -> Iterator[Finding]:
    """Yield what is found. Failure: never raises. Blocks for half a minute at most, and for
    *patience_s*, which a probe may take on its way.
    """
    try:
        chosen, jaeger_url = settings.load(spool_dir=spool_dir), settings.jaeger_url()
    except ConfigurationError as error:
        yield problem(f"{error}.", "correct it; docs/configuration.md says what is allowed")
        return
    yield from here.recording(chosen)
    yield from here.proxies()
    yield from here.provider()
    yield from here.spool(chosen)
    if not chosen.traces or not chosen.exporter.network:
        yield note("The collector and Jaeger were not asked: nothing is sent.")
        return
    yield from _round_trip(chosen, Jaeger(jaeger_url), patience_s)


def _round_trip(chosen: Settings, jaeger: Jaeger, patience_s: float) -> Iterator[Finding]:
    probe = Probe(_names.DOCTOR, f"{new_trace_id():032x}", _LINE)
    there = []
    for finding in collector.deliver(chosen.exporter, _encoded(probe)):
        there.append(finding)
        yield finding
    back = []
    is_named = chosen.service_name != settings.NAMELESS
    for finding in round_trip.reach_jaeger(jaeger, chosen.service_name if is_named else None):
        back.append(finding)
        yield finding
    if collector.is_delivered(there) and back[0].mark is Mark.GOOD:
        yield from round_trip.read_back(jaeger.url, probe, patience_s=patience_s)
    else:
        yield note("The round trip was not tried.")


def _encoded(probe: Probe) -> bytes:
    now = time.time_ns()
    fields = {_names.LEVEL: "info", _names.LOGGER: _names.DOCTOR}
    span = _otlp.span(
        trace_id=bytes.fromhex(probe.trace_id),
        span_id=new_span_id(),
        parent_span_id=0,
        trace_state="",
        flags=1,
        name="probe",
        kind=1,
        start_ns=now,
        end_ns=now + 1,  # Jaeger warns of spans without length
        values={},
        events=[_otlp.event(now, probe.line, fields)],
    )
    resource = _otlp.resource({"service.name": probe.service})
    return _otlp.request(resource, _otlp.scope(_names.SCOPE), [span])
