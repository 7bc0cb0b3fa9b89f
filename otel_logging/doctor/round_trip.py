"""The way back: the probe is looked for in Jaeger, with its log line; and the clocks.

In: Jaeger, the probe's ids. Out: findings. Invariant: done within
*patience_s*, and two seconds for each question. Deliberately absent: how the probe got there.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Final
from urllib.parse import urlsplit

from otel_logging import _names
from otel_logging.doctor.finding import Finding, good, note, problem
from otel_logging.doctor.ports import Speech, reach, speech
from otel_logging.traces.draw.terminal import duration
from otel_logging.traces.jaeger import (
    Jaeger,
    JaegerError,
    NotLetInError,
    NotUnderstoodError,
    UnreachableError,
)
from otel_logging.traces.span import Span

_PAUSE_S: Final = 0.2
_SKEW_S: Final = 60.0  # issue: off by more than a minute
_OLDEST: Final = (2, 13)


@dataclass(frozen=True, slots=True)
class Probe:
    """*line*: the message of its log line."""

    service: str
    trace_id: str
    line: str


def reach_jaeger(jaeger: Jaeger, service: str | None) -> Iterator[Finding]:
    """Say whether Jaeger answers, which one it is, whether its clock is ours, and whether it has
    anything of *service*.
    """
    try:
        services = jaeger.services()
        version = jaeger.version()
    except JaegerError as error:
        yield _spoken_wrongly(jaeger.url, error) or _unasked(jaeger, error)
        return
    if version and _is_too_old(version):
        yield problem(
            f"Jaeger {version} at {jaeger.url} is too old.", "take 2.13 or later, best the newest"
        )
        return
    yield good(f"Jaeger {version} answers at {jaeger.url}.".replace("  ", " "))
    yield from _clock(jaeger.date)
    if service is not None and service not in services:
        yield note(f"Jaeger has nothing of the service {service!r} yet.")


def _spoken_wrongly(url: str, error: JaegerError) -> Finding | None:
    """Say what is spoken there, where it is nothing that pages come by."""
    if isinstance(error.__cause__, TimeoutError):  # it would say nothing to us either
        return None
    parts = urlsplit(url)
    is_secure = parts.scheme == "https"
    host, port = parts.hostname or "", parts.port or (443 if is_secure else 80)
    spoken = Speech.OTHER if reach(host, port) else speech(host, port)
    if spoken in (Speech.HTTP_2, Speech.TLS_HTTP_2):
        return problem(
            f"{url} is a port for gRPC, and not the one of Jaeger's pages.",
            f"set {_names.JAEGER_URL} to that, usually http://…:16686",
        )
    if spoken.is_tls and not is_secure:
        return problem(f"{url} expects TLS.", f"write https:// in {_names.JAEGER_URL}")
    if spoken is Speech.HTTP_1 and is_secure:
        return problem(f"{url} does not speak TLS.", f"write http:// in {_names.JAEGER_URL}")
    return None


def _unasked(jaeger: Jaeger, error: JaegerError) -> Finding:
    if isinstance(error, UnreachableError):
        return problem(
            f"Jaeger does not answer: {error}.",
            f"start it (docker compose up -d), or set {_names.JAEGER_URL} to where it is",
        )
    if isinstance(error, NotLetInError):
        return problem(
            f"Jaeger cannot be asked: {error}.",
            f"set {_names.JAEGER_URL} to where Jaeger itself answers, without a login",
        )
    if isinstance(error, NotUnderstoodError):
        return _too_old(jaeger, error)
    return problem(f"Jaeger is not well: {error}.", "look at its log")


def _too_old(jaeger: Jaeger, error: JaegerError) -> Finding:
    try:
        version = jaeger.version()
    except JaegerError:
        version = ""
    if version:
        said = f"Jaeger {version} at {jaeger.url} is too old."
        return problem(said, "take 2.13 or later, best the newest")
    return problem(
        f"There is no Jaeger that can be asked: {error}.",
        f"set {_names.JAEGER_URL} to the address of Jaeger's own pages, version 2.13 or later",
    )


def _is_too_old(version: str) -> bool:
    numbers = [int(part) for part in version.split(".")[:2] if part.isdecimal()]
    return tuple(numbers) < _OLDEST


def _clock(date: str) -> Iterator[Finding]:
    try:
        ahead_s = parsedate_to_datetime(date).timestamp() - time.time()
    except ValueError:  # none, or not of HTTP
        yield note("Jaeger does not say what time it is: the clocks are not compared.")
        return
    if abs(ahead_s) > _SKEW_S:
        direction = "ahead of" if ahead_s > 0 else "behind"
        yield problem(
            f"Jaeger's clock is {abs(ahead_s):.0f} s {direction} ours: traces are looked for at the"
            " wrong time.",
            "set both clocks by NTP (timedatectl set-ntp true)",
        )
    else:
        yield good("The clocks agree.")


def read_back(url: str, probe: Probe, *, patience_s: float) -> Iterator[Finding]:
    """Wait until *probe* is in the Jaeger at *url*, with its log line."""
    began = time.monotonic()
    try:
        # each time another, since one answers for a minute at most
        while not (spans := Jaeger(url).trace(probe.trace_id)):
            if time.monotonic() - began >= patience_s:
                yield _missing(Jaeger(url), probe, patience_s)
                return
            time.sleep(_PAUSE_S)
        yield _came_back(spans, probe, time.monotonic() - began)
    except JaegerError as error:
        yield problem(f"Jaeger does not answer any more: {error}.", "look at its log")


def _came_back(spans: list[Span], probe: Probe, after_s: float) -> Finding:
    if any(event.name == probe.line for span in spans for event in span.events):
        return good(f"The probe came back with its log line, after {duration(after_s)}.")
    return problem(
        "The probe came back without its log line: something on the way takes the events off"
        " spans.",
        "look for processors in the collector that remove span events",
    )


def _missing(jaeger: Jaeger, probe: Probe, patience_s: float) -> Finding:
    look = f"look at the collector's exporters, and whether {_names.JAEGER_URL} is the Jaeger"
    if probe.service not in jaeger.services():
        return problem(
            f"Jaeger has no service {probe.service!r}: the collector took the probe, and in"
            f" {duration(patience_s)} nothing of it came to {jaeger.url}.",
            f"{look} that it delivers to",
        )
    return problem(
        f"The probe did not come to {jaeger.url} in {duration(patience_s)}, though earlier ones"
        " did: the collector samples, or cannot deliver just now.",
        f"look at the collector's log and sampling; or wait longer (--wait); {look}",
    )
