"""The order of the doctor's checks, and those that need no network.

If none finds a problem, the round trip works: a span with a log line went to the collector as every
span does, and came back from Jaeger. Nothing is left behind on this machine.
"""

import errno
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from otel_logging import _names, settings
from otel_logging._errors import ConfigurationError
from otel_logging._text import volume
from otel_logging.doctor import probe
from otel_logging.doctor.report import NOT_TRIED, OFF, Finding, Mark, good, note, problem, problems
from otel_logging.propagation import wrap_propagators
from otel_logging.settings import Settings, links
from otel_logging.spool import destinations, directories
from otel_logging.traces.jaeger import Jaeger

_TRIED_BYTES: Final = 1 << 20  # a segment
_NEARLY: Final = 0.9  # of the spool's bound: at the next outage spans would be lost
#: Of the disk, of the user's quota (Windows has no number for it), of a process's files.
_FULL: Final = frozenset({errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC), errno.EFBIG})


def examine(*, spool_dir: Path | None = None, patience_s: float) -> Iterator[Finding]:
    """Yield the findings. Failure: never raises. Blocks for half a minute at most, plus
    *patience_s*, which the probe may take on its way.
    """
    try:
        chosen, jaeger_url = settings.load(spool_dir=spool_dir), links.jaeger_url()
        wrap_propagators()  # set-up calls this too, and fails where it raises
    except ConfigurationError as error:
        yield probe.invalid(error)
        return
    yield from _recording(chosen)
    yield from _spool_findings(chosen)
    if not chosen.traces or not chosen.exporter.network:
        yield note(OFF)
        return
    yield from _round_trip(chosen, Jaeger(jaeger_url), patience_s)


def _round_trip(chosen: Settings, jaeger: Jaeger, patience_s: float) -> Iterator[Finding]:
    trace_id, request = probe.make()
    yield from (there := [*probe.deliver(chosen.exporter, request)])
    service = chosen.service_name if chosen.service_name != settings.nameless() else ""
    yield from (back := [*probe.reach_jaeger(jaeger, service)])
    if there[0].mark is Mark.GOOD and not problems(there) and back[0].mark is Mark.GOOD:
        yield from probe.read_back(jaeger.url, trace_id, patience_s=patience_s)
    else:
        yield note(NOT_TRIED)


def _recording(chosen: Settings) -> Iterator[Finding]:
    """Say whether spans are made and sent at all."""
    exporter = chosen.exporter
    if chosen.traces_off_by:
        yield note(
            f"Tracing is switched off: {chosen.traces_off_by}.",
            f"unset {chosen.traces_off_by.partition('=')[0]} to trace",
        )
    elif not exporter.network:
        yield note(
            f"In the environment {chosen.environment!r} nothing is delivered.",
            f"set {_names.ENVIRONMENT}=development, say, or another name than test",
        )
    elif chosen.sampler.endswith("always_off") or chosen.sampler_ratio == 0.0:
        yield problem(
            f"The sampler {chosen.sampler} drops every trace.",
            f"unset {_names.OTEL_TRACES_SAMPLER} and {_names.OTEL_TRACES_SAMPLER_ARG}",
        )
    else:
        yield good(f"The settings are sound: {exporter.protocol} to {exporter.shown}.")
        if chosen.sampler_ratio < 1.0:
            yield note(f"The sampler keeps {chosen.sampler_ratio * 100:g}% of the traces.")
    if not chosen.span_events:
        yield note(
            f"{_names.OTEL_LOGS_EXPORTER}=otlp: log lines leave as log records, which Jaeger does"
            " not keep.",
            f"unset {_names.OTEL_LOGS_EXPORTER} to see them in their traces",
        )


# ---------------------------------------------------------------- the spool


def _spool_findings(chosen: Settings) -> Iterator[Finding]:
    """Say whether spans can wait on disk, and whether there is room."""
    if chosen.temporary:
        return
    bases = [directories.default_base, directories.fallback_base]
    given, failures = chosen.spool_dir, list[OSError]()
    exporters = filter(None, (chosen.exporter, chosen.log_exporter))
    names = [settings.destination(chosen.service_name, each) for each in exporters]
    for find in [given.absolute] if given else bases:
        try:
            base = find()
            directories.try_to_write(base, _TRIED_BYTES, names)
        except OSError as error:
            failures.append(error)
            continue
        if failures:
            yield note(
                f"The user's own place for the spool cannot be written ({failures[0]}): {base} is"
                " used, which may not outlive a restart.",
                f"set {_names.SPOOL_DIR}",
            )
        yield from _room(base, chosen.spool_bytes)
        return
    yield _unwritable(failures[0], chosen.spool_dir)


def _unwritable(error: OSError, given: Path | None) -> Finding:
    base = given or Path(error.filename)
    if error.errno in _FULL:
        return problem(f"The disk of the spool is full ({base}).", "make room on it")
    if isinstance(error, directories.UnsafeError):
        base = Path(error.filename)
    then = "spans wait in memory alone" if given is None else "set-up refuses that"
    return problem(
        f"The spool cannot be written ({base}: {error.strerror}): {then}.",
        f"set {_names.SPOOL_DIR} to a directory that can be written",
    )


def _room(base: Path, bound: int) -> Iterator[Finding]:
    found = list(destinations.found(base))
    full = [each for each in found if each.waiting.size_bytes >= _NEARLY * bound]
    for each in full:
        yield problem(
            f"The spool is full: {volume(each.waiting.size_bytes)} of at most {volume(bound)} wait"
            f" in {each.path}, and the oldest are dropped.",
            f"get the collector to take them; until then raise {_names.SPOOL_BYTES}",
        )
    if not full:
        size = sum(each.waiting.size_bytes for each in found)
        said = f"{volume(size)} wait" if size else "none do now"
        yield good(f"Spans can wait in {base}: {said}, and there is room.")
    for each, now in destinations.left_behind(found):
        yield note(
            f"{volume(each.waiting.size_bytes)} wait for {each.endpoint}, to which {each.service}"
            " sends no more.",
            f"otel-logging spool --resend sends them to {now.endpoint}",
        )
