"""One OTLP request to a collector, and what its answer means.

In: an encoded request and how long it may take. Out: an ``Answer``. Here is what
both protocols share; each has its file: ``http_client``, ``grpc_client``.
Deliberately absent: when to try again (``delivery``).
"""

import contextlib
import re
import ssl
from dataclasses import dataclass
from enum import Enum
from typing import Final, Protocol
from urllib.parse import urlsplit

from opentelemetry import context as otel_context

from otel_logging import _names
from otel_logging.settings import ConfigurationError, Exporter

#: How much of an answer is read: a partial success, with its message, has a few hundred bytes.
ANSWER_BYTES: Final = 64 << 10
_TOLD_CHARACTERS: Final = 300
_HEADER_NAME: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # RFC 9110: token
_HEADER_VALUE: Final = re.compile(r"[\x20-\x7e]*")  # what HTTP and gRPC both take


class Verdict(Enum):
    """What to do with the spans of a request."""

    DELIVERED = "delivered"
    AGAIN = "again"  # not now, or not until somebody has mended the set-up
    TOO_LARGE = "too large"  # in two halves
    REFUSED = "refused"  # something in it is bad: look for it in the halves


@dataclass(frozen=True, slots=True)
class Answer:
    """*answered*: there is a collector. *after_s*: when it wants to be asked again. *code*: the
    protocol's own: HTTP's number, gRPC's name.
    """

    verdict: Verdict
    detail: str = ""
    answered: bool = True
    after_s: float | None = None
    rejected_spans: int = 0
    code: str = ""


class Client(Protocol):
    """Sends requests, one at a time; by one thread, but for ``interrupt``."""

    def send(self, body: bytes, timeout_s: float) -> Answer:
        """Send an encoded ExportTraceServiceRequest. Never raises.

        Takes no longer than *timeout_s*, whatever the collector does; looking up
        its name alone takes as long as the system's resolver.
        """
        ...

    def interrupt(self) -> None:
        """End the request that is under way, and every later one, until ``reset``.

        From any thread.
        """
        ...

    def reset(self) -> None:
        """Begin anew: drop the connection, which after a fork is the parent's."""
        ...


def make_client(exporter: Exporter) -> Client:
    """Return the client for the protocol. Failure: raises ``ConfigurationError``."""
    # each where it is asked for: gRPC is an extra, and heavy
    if exporter.protocol == "grpc":
        from otel_logging.export.grpc_client import GrpcClient

        return GrpcClient(exporter)
    from otel_logging.export.http_client import HttpClient

    return HttpClient(exporter)


def unobserved() -> otel_context.Context:
    """Return a context in which OpenTelemetry's instrumentations make no span of what is sent."""
    context = otel_context.set_value("suppress_instrumentation", True)  # noqa: FBT003 - a value
    # the names under which instrumentations look, by their age
    for name in ("_SUPPRESS_INSTRUMENTATION_KEY", "_SUPPRESS_HTTP_INSTRUMENTATION_KEY"):
        key = getattr(otel_context, name, name)
        context = otel_context.set_value(key, True, context)  # noqa: FBT003
    return context


# ---------------------------------------------------------------- what was asked for


def checked_headers(exporter: Exporter) -> dict[str, str]:
    """Return the headers to send, names in lower case.

    Failure: raises ``ConfigurationError``, which does not show the value: it may be a key.
    """
    for name, value in exporter.headers:
        if not (_HEADER_NAME.fullmatch(name) and _HEADER_VALUE.fullmatch(value)):
            raise ConfigurationError(
                _names.OTLP_PREFIX + "HEADERS", name, "names and values of headers, in ASCII"
            )
    return {name.lower(): value for name, value in exporter.headers}


def checked_tls(exporter: Exporter) -> ssl.SSLContext | None:
    """Return how TLS is spoken, None where it is not. Failure: raises ``ConfigurationError``."""
    if urlsplit(exporter.endpoint).scheme != "https":
        return None
    prefix, names = _names.OTLP_PREFIX, ("CERTIFICATE", exporter.certificate)
    try:
        context = ssl.create_default_context(cafile=exporter.certificate)
        names = ("CLIENT_CERTIFICATE", exporter.client_certificate)
        if exporter.client_certificate is not None:
            # without a password OpenSSL would ask for it on the terminal, and wait
            context.load_cert_chain(
                exporter.client_certificate, exporter.client_key, password=lambda: b""
            )
    except OSError as error:  # ssl.SSLError is one
        raise ConfigurationError(
            prefix + names[0],
            names[1],
            f"a file in PEM format, its key without a password ({error})",
        ) from error
    if exporter.client_key is not None and exporter.client_certificate is None:
        raise ConfigurationError(
            prefix + "CLIENT_KEY", exporter.client_key, f"needs {prefix}CLIENT_CERTIFICATE"
        )
    return context


# ---------------------------------------------------------------- what was answered


def accepted(body: bytes) -> Answer:
    """Return what an ExportTraceServiceResponse says."""
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
        ExportTraceServiceResponse,
    )

    with contextlib.suppress(Exception):  # an answer that is no protobuf is an answer
        partial = ExportTraceServiceResponse.FromString(body).partial_success
        return Answer(
            Verdict.DELIVERED,
            told(partial.error_message),
            rejected_spans=max(partial.rejected_spans, 0),
        )
    return Answer(Verdict.DELIVERED)


def failed(error: BaseException) -> Answer:
    """Return the answer of a collector that gave none."""
    return Answer(Verdict.AGAIN, told(f"{type(error).__name__}: {error}"), answered=False)


def told(text: str | bytes) -> str:
    """Return what a collector says as one short line that is safe on a terminal."""
    if isinstance(text, bytes):
        text = text[: 4 * _TOLD_CHARACTERS].decode("utf-8", "ignore")
    printable = "".join(c if c.isprintable() else " " for c in text[:_TOLD_CHARACTERS])
    return " ".join(printable.split())
