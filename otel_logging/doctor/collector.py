"""The way to the collector: a probe is sent as every span is, and what was answered is explained.

In: the settings, a probe. Out: findings. Invariant: the request is the one that
delivery makes, by the same client. Deliberately absent: what becomes of it there.
"""

from collections.abc import Iterator
from typing import Final
from urllib.parse import urlsplit

from otel_logging import _names
from otel_logging.doctor.finding import Finding, Mark, good, note, problem
from otel_logging.doctor.ports import Speech, reach, speech
from otel_logging.export.outcome import Answer, Outcome
from otel_logging.observability import make_client
from otel_logging.settings import ConfigurationError, Exporter

_MOST_S: Final = 10.0  # for the request, where more was allowed: somebody is waiting
_PORTS: Final = {"https": 443, "http": 80, "grpc": 4317}
_ENDPOINT: Final = _names.OTLP_PREFIX + "ENDPOINT"
_PROTOCOL: Final = _names.OTLP_PREFIX + "PROTOCOL"
_NOT_THERE: Final = frozenset({"404", "405", "UNIMPLEMENTED"})


def deliver(exporter: Exporter, probe: bytes) -> Iterator[Finding]:
    """Send *probe*, an ExportTraceServiceRequest; say whether the collector took it."""
    try:
        client = make_client(exporter)
    except ConfigurationError as error:
        yield problem(f"{error}.", "correct it; docs/configuration.md says what is allowed")
        return
    host, port = _address(exporter)
    if unreachable := reach(host, port):
        yield problem(
            f"The collector cannot be reached. {unreachable}",
            f"start it (docker compose up -d), or set {_ENDPOINT} to where it is",
        )
        return
    answer = client.send(probe, min(exporter.timeout_s, _MOST_S))
    client.reset()
    if answer.outcome is not Outcome.DELIVERED:
        yield _explained(answer, exporter, speech(host, port))
    elif answer.rejected_spans:
        yield problem(f"The collector rejects the probe: {answer.detail}.", "look at its log")
    else:
        yield good(f"The collector takes spans at {exporter.shown}.")
        if answer.detail:
            yield note(f"It warns: {answer.detail}.")


def is_delivered(findings: list[Finding]) -> bool:
    """Whether *findings* say that the probe arrived."""
    return all(finding.mark is not Mark.PROBLEM for finding in findings)


def _address(exporter: Exporter) -> tuple[str, int]:
    parts = urlsplit(exporter.endpoint)
    usual = _PORTS["grpc" if exporter.protocol == "grpc" else parts.scheme]
    return parts.hostname or "", parts.port or usual


def _explained(answer: Answer, exporter: Exporter, spoken: Speech) -> Finding:
    """Say why the probe was not taken, and what to do.

    There are three cases: the two ends do not speak the same, which the port is asked
    for; a mistake of the set-up that the answer tells; and all others, in the collector's words.
    """
    if finding := _spoken_wrongly(answer, exporter, spoken):
        return finding
    # bad data is its word on this probe alone
    said = answer.mistake if answer.outcome is Outcome.AGAIN else ""
    said = said or "the collector did not take the probe"
    return problem(
        f"{said[0].upper()}{said[1:]}: {answer.detail}.",
        answer.to_do or "look at the collector's log",
    )


def _spoken_wrongly(answer: Answer, exporter: Exporter, spoken: Speech) -> Finding | None:
    where, is_grpc = exporter.shown, exporter.protocol == "grpc"
    is_secure = exporter.endpoint.startswith("https:")
    if spoken.is_tls and not is_secure:
        return problem(f"{where} expects TLS.", f"write https:// in {_ENDPOINT}")
    if spoken in (Speech.HTTP_1, Speech.HTTP_2) and is_secure:
        return problem(f"{where} does not speak TLS.", f"write http:// in {_ENDPOINT}")
    # what speaks both may take gRPC; that it does not it says itself
    takes_none = spoken is Speech.TLS_BOTH and answer.code in _NOT_THERE
    if is_grpc and (takes_none or spoken in (Speech.HTTP_1, Speech.TLS_HTTP_1)):
        return problem(
            f"{where} is a port for HTTP, and gRPC is spoken to it.",
            f"set {_PROTOCOL}=http/protobuf, or take the port for gRPC, usually 4317",
        )
    if not is_grpc and spoken in (Speech.HTTP_2, Speech.TLS_HTTP_2):
        return problem(
            f"{where} is a port for gRPC, and HTTP is spoken to it.",
            f"set {_PROTOCOL}=grpc, or take the port for HTTP, usually 4318",
        )
    return None
