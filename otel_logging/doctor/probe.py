"""A probe, a span with one log line: to the collector, and back from Jaeger.

The request is the one that delivery makes, by the same client. A failure is explained in the words
that a service uses. All is over within *patience_s* and a bounded time for each question.
"""

import time
from collections.abc import Iterator, Mapping
from typing import Final

from otel_logging import _names, _otlp
from otel_logging._errors import ConfigurationError
from otel_logging._text import duration
from otel_logging.assembly import make_client
from otel_logging.doctor.report import Finding, good, note, problem
from otel_logging.export.ids import new_span_id, new_trace_id
from otel_logging.export.outcome import Answer, Outcome, lasting
from otel_logging.settings import Exporter, variables
from otel_logging.spool.directories import NOUNS
from otel_logging.traces.jaeger import Jaeger, JaegerError, NotUnderstoodError, UnreachableError

_LINE: Final = "the doctor was here"
_MOST_S: Final = 10.0  # for the request, even if more is allowed: somebody waits
_PAUSE_S: Final = 0.2
_OLDEST: Final = (2, 13)
_ENDPOINT: Final = _names.OTLP_PREFIX + "ENDPOINT"
_SERVERS: Final = (_ENDPOINT, _names.OTLP_PREFIXES["traces"] + "ENDPOINT", _names.JAEGER_URL)
_SET_TO: Final = f"set {_names.JAEGER_URL} to"
#: What is wrong with a Jaeger that cannot be asked, and what to do; the first that fits.
_ADVICE: Final[Mapping[type[BaseException], tuple[str, str]]] = {
    UnreachableError: (
        "Jaeger does not answer",
        f"start it (docker compose up -d), or {_SET_TO} where it is; https:// only if it has TLS",
    ),
    NotUnderstoodError: (
        "There is no Jaeger that can be asked",
        (
            f"{_SET_TO} the address of its own pages, without a login, of version 2.13 or later:"
            " usually http://…:16686 (4317 and 4318 are the collector's); https:// if it has TLS"
        ),
    ),
    JaegerError: ("Jaeger is not well", "look at its log"),
}


def _is_wanted() -> bool:
    """Say whether a collector or Jaeger is named anywhere."""
    return any(map(variables.Variables().get, _SERVERS))


def make() -> tuple[str, bytes]:
    """Return a new probe: its trace id and the ExportTraceServiceRequest."""
    now, trace_id = time.time_ns(), f"{new_trace_id():032x}"
    fields = {_names.LEVEL: "info", _names.LOGGER: _names.DOCTOR}
    ids = bytes.fromhex(trace_id), new_span_id(), 0, "", 1  # without a parent and a state; sampled
    events = [_otlp.event(now, _LINE, fields)]
    # a nanosecond: Jaeger warns of spans without length
    span = _otlp.span(*ids, "probe", 1, now, now + 1, {}, events)
    resource = _otlp.resource({"service.name": _names.DOCTOR})
    return trace_id, _otlp.request(resource, _otlp.scope(_names.SCOPE), [span])


# ---------------------------------------------------------------- to the collector


def deliver(exporter: Exporter, request: bytes) -> Iterator[Finding]:
    """Send *request*; say whether the collector took it."""
    try:
        client = make_client(exporter)
    except ConfigurationError as error:
        yield invalid(error)
        return
    answer = client.send(request, min(exporter.timeout_s, _MOST_S))
    client.reset()
    if answer.outcome is not Outcome.DELIVERED:
        yield _not_delivered(answer, exporter)
    elif answer.rejected_spans:
        yield problem(f"The collector rejects the probe: {answer.detail}.", "look at its log")
    else:
        yield good(f"The collector takes spans at {exporter.shown}.")
        if answer.detail:
            yield note(f"It warns: {answer.detail}.")


def invalid(error: ConfigurationError) -> Finding:
    """Return the finding about an invalid setting."""
    return problem(f"{error}.", "correct it; docs/configuration.md says what is allowed")


def _not_delivered(answer: Answer, exporter: Exporter) -> Finding:
    """Say why the probe was not taken, and what to do.

    There are three cases: a mistake of the set-up that the client's answer names; a
    collector that gave no answer; and one that says no, which a service reports when it lasts.
    """
    if not answer.mistake and not answer.answered:
        if not _is_wanted():
            return note(
                f"No collector answers at {exporter.shown}, the default: spans stay in the local"
                " store, which late and show read."
            )
        return problem(
            f"The collector at {exporter.shown} does not answer: {answer.detail}.",
            f"start it (docker compose up -d), or set {_ENDPOINT} to where it is: port 4318"
            f" for HTTP, 4317 for gRPC (this service uses {exporter.protocol}); https:// if it"
            " expects TLS; no proxy is used",
        )
    answer = lasting(answer, NOUNS[exporter.signal])
    said = f"{answer.mistake[0].upper()}{answer.mistake[1:]}: {answer.detail}."
    return problem(said, answer.to_do)


# ---------------------------------------------------------------- Jaeger


def reach_jaeger(jaeger: Jaeger, service: str) -> Iterator[Finding]:
    """Say whether Jaeger answers, its version, and whether it has anything of *service*; empty is
    any.
    """
    try:
        services, version = jaeger.services(), jaeger.version()
    except JaegerError as error:
        yield _not_asked(jaeger, error)
        return
    numbers = [int(part) for part in version.split(".")[:2] if part.isdecimal()]
    if version and tuple(numbers) < _OLDEST:
        yield problem(f"Jaeger {version} at {jaeger.url} is too old.", "take 2.13 or later")
        return
    yield good(f"Jaeger {version} answers at {jaeger.url}.".replace("  ", " "))
    if service and service not in services:
        yield note(f"Jaeger has nothing of the service {service!r} yet.")


def _not_asked(jaeger: Jaeger, error: JaegerError) -> Finding:
    """Say why Jaeger cannot be asked: by what the error is."""
    if isinstance(error, UnreachableError) and not _is_wanted():
        return note(f"No Jaeger answers at {jaeger.url}, the default.")
    said, to_do = next(advice for kind, advice in _ADVICE.items() if isinstance(error, kind))
    return problem(f"{said}: {error}.", to_do)


def read_back(url: str, trace_id: str, *, patience_s: float) -> Iterator[Finding]:
    """Wait until the probe is in the Jaeger at *url*, with its log line."""
    began = time.monotonic()
    try:
        # a new client each time: one gives up after a minute
        while not (spans := Jaeger(url).trace(trace_id)):
            if time.monotonic() - began >= patience_s:
                yield problem(
                    f"The collector took the probe, which did not come to {url} in"
                    f" {duration(patience_s)}.",
                    "look at the collector's log, sampling and exporters, and whether it delivers"
                    f" to the Jaeger of {_names.JAEGER_URL}; or wait longer (--wait)",
                )
                return
            time.sleep(_PAUSE_S)
    except JaegerError as error:
        yield problem(f"Jaeger does not answer any more: {error}.", "look at its log")
        return
    if any(event.name == _LINE for span in spans for event in span.events):
        after = duration(time.monotonic() - began)
        yield good(f"The probe came back with its log line, after {after}.")
    else:
        yield problem(
            "The probe came back without its log line: something on the way takes the events off"
            " spans.",
            "look for processors in the collector that remove span events",
        )
