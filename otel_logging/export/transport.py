"""One OTLP request to a collector, by HTTP or gRPC, and what its answer means.

In: an encoded request and a deadline. Out: an ``Answer``. Invariant: ``send``
never raises and is done by its deadline, whatever the collector does; nothing
is followed (no redirects), nothing is asked but the endpoint (no proxies, no
`.netrc`), and at most 64 KiB of an answer are read. Deliberately absent: when
to try again (``delivery``).
"""

import contextlib
import gzip
import time
from collections.abc import Callable
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from enum import Enum
from pathlib import Path
from typing import Any, Final, Protocol
from urllib.parse import urlsplit

from opentelemetry import context as otel_context

from otel_logging.settings import ConfigurationError, Exporter

ANSWER_BYTES: Final = 64 << 10
_GZIP_LEVEL: Final = 1  # OTLP shrinks to a sixth at level 1, and little more above
_CONNECT_S: Final = 3.0

_GRPC_METHOD: Final = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"


class Verdict(Enum):
    """What to do with the spans of a request."""

    DELIVERED = "delivered"
    AGAIN = "again"  # the collector cannot take them now
    TOO_LARGE = "too large"  # in two halves
    REFUSED = "refused"  # something in it is bad: look for it in the halves


@dataclass(frozen=True, slots=True)
class Answer:
    """*answered*: there is a collector. *after_s*: when it wants to be asked again."""

    verdict: Verdict
    detail: str = ""
    answered: bool = True
    after_s: float | None = None
    rejected_spans: int = 0


class Client(Protocol):
    """Sends requests, one at a time, from the worker's thread alone."""

    def send(self, body: bytes, timeout_s: float) -> Answer:
        """Send an encoded ExportTraceServiceRequest. Never raises."""
        ...

    def reset(self) -> None:
        """Forget connections: they belong to the parent process, or are to be closed."""
        ...


def make_client(exporter: Exporter) -> Client:
    """Return the client for the protocol. Failure: raises ``ConfigurationError``."""
    return GrpcClient(exporter) if exporter.protocol == "grpc" else HttpClient(exporter)


def unobserved() -> otel_context.Context:
    """Return a context in which OpenTelemetry's instrumentations make no span of what is sent."""
    context = otel_context.Context()
    for name in ("_SUPPRESS_INSTRUMENTATION_KEY", "_SUPPRESS_HTTP_INSTRUMENTATION_KEY"):
        key = getattr(otel_context, name, "suppress_instrumentation")
        context = otel_context.set_value(key, True, context)  # noqa: FBT003 - a value
    return otel_context.set_value("suppress_instrumentation", True, context)  # noqa: FBT003


# ---------------------------------------------------------------- HTTP


class HttpClient:
    """OTLP/HTTP with protobuf, on one kept connection."""

    def __init__(self, exporter: Exporter) -> None:
        import urllib3

        self._urllib3 = urllib3
        self._exporter = exporter
        self._headers = {
            "Content-Type": "application/x-protobuf",
            "User-Agent": "otel-logging",
            **dict(exporter.headers),
        }
        if exporter.gzip:
            self._headers["Content-Encoding"] = "gzip"
        self._pool = self._make_pool()

    def _make_pool(self) -> Any:
        exporter = self._exporter
        certificates = {
            "ca_certs": exporter.certificate,
            "key_file": exporter.client_key,
            "cert_file": exporter.client_certificate,
        }
        given: dict[str, Any] = {k: v for k, v in certificates.items() if v is not None}
        return self._urllib3.PoolManager(num_pools=1, maxsize=1, **given)

    def reset(self) -> None:
        """Begin with a new connection."""
        self._pool = self._make_pool()

    def send(self, body: bytes, timeout_s: float) -> Answer:
        """Send *body*; see ``Client``."""
        deadline = time.monotonic() + timeout_s
        if self._exporter.gzip:
            body = gzip.compress(body, _GZIP_LEVEL)
        response = None
        try:
            response = self._pool.urlopen(
                "POST",
                self._exporter.endpoint,
                body=body,
                headers=self._headers,
                redirect=False,
                retries=False,
                preload_content=False,
                timeout=self._urllib3.Timeout(
                    connect=min(_CONNECT_S, timeout_s), read=timeout_s, total=timeout_s
                ),
            )
            return _judge(response.status, response.headers, _read(response, deadline))
        except Exception as error:
            self._pool.clear()
            return Answer(Verdict.AGAIN, _cause(error), answered=response is not None)


def _cause(error: BaseException) -> str:
    reason = getattr(error, "reason", None) or error
    return f"{type(reason).__name__}: {reason}"[:300]


def _read(response: Any, deadline: float) -> bytes:
    """Read at most 64 KiB, by the deadline; a connection with more on it is not kept."""
    data = bytearray()
    while chunk := response.read(8192):
        data += chunk
        if len(data) > ANSWER_BYTES or time.monotonic() > deadline:
            response.close()
            break
    response.release_conn()
    return bytes(data[:ANSWER_BYTES])


def _judge(status: int, headers: Any, body: bytes) -> Answer:
    """Say what an HTTP answer means (OpenTelemetry protocol specification, OTLP/HTTP response).

    There are five cases: taken, perhaps in part; too large; bad data, which it
    never will take; not now; and everything that is a mistake of the set-up (a
    redirect, a wrong path, no permission), which somebody may mend.
    """
    text = f"HTTP {status}"
    if 200 <= status < 300:
        return _accepted(body)
    if status == 413:
        return Answer(Verdict.TOO_LARGE, text)
    if status in (400, 422):
        return Answer(Verdict.REFUSED, text)
    after = headers.get("Retry-After") if status in (429, 503) else None
    return Answer(Verdict.AGAIN, text, after_s=_seconds(after))


def _accepted(body: bytes) -> Answer:
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
        ExportTraceServiceResponse,
    )

    with contextlib.suppress(Exception):  # an answer that is no protobuf is an answer
        partial = ExportTraceServiceResponse.FromString(body).partial_success
        return Answer(
            Verdict.DELIVERED, partial.error_message, rejected_spans=partial.rejected_spans
        )
    return Answer(Verdict.DELIVERED)


def _seconds(retry_after: str | None) -> float | None:
    """Parse Retry-After: seconds, or a date."""
    if not retry_after:
        return None
    with contextlib.suppress(ValueError, TypeError, OverflowError):
        if retry_after.strip().isdecimal():
            return float(retry_after)
        return max(parsedate_to_datetime(retry_after).timestamp() - time.time(), 0.0)
    return None


# ---------------------------------------------------------------- gRPC


class GrpcClient:
    """OTLP/gRPC: a raw unary call, since the bytes are there already."""

    def __init__(self, exporter: Exporter) -> None:
        try:
            import grpc
        except ImportError as error:
            raise ConfigurationError(
                "OTEL_EXPORTER_OTLP_PROTOCOL",
                "grpc",
                "needs grpcio: pip install 'otel-logging[grpc]'",
            ) from error
        self._grpc = grpc
        self._exporter = exporter
        self._metadata = tuple((key.lower(), value) for key, value in exporter.headers)
        self._call: Callable[..., Any] | None = None

    def reset(self) -> None:
        """Begin with a new channel."""
        self._call = None

    def _connect(self) -> Callable[..., Any]:
        parts = urlsplit(self._exporter.endpoint)
        target = f"{parts.hostname}:{parts.port or 4317}"
        if parts.scheme == "https":
            exporter = self._exporter
            credentials = self._grpc.ssl_channel_credentials(
                _bytes_of(exporter.certificate),
                _bytes_of(exporter.client_key),
                _bytes_of(exporter.client_certificate),
            )
            channel = self._grpc.secure_channel(target, credentials)
        else:
            channel = self._grpc.insecure_channel(target)
        call: Callable[..., Any] = channel.unary_unary(_GRPC_METHOD)
        return call

    def send(self, body: bytes, timeout_s: float) -> Answer:
        """Send *body*; see ``Client``."""
        grpc = self._grpc
        try:
            if self._call is None:
                self._call = self._connect()
            compression = grpc.Compression.Gzip if self._exporter.gzip else None
            answer = self._call(
                body, timeout=timeout_s, metadata=self._metadata, compression=compression
            )
            return _accepted(answer)
        except grpc.RpcError as error:
            return self._judge(error)
        except Exception as error:
            self._call = None
            return Answer(Verdict.AGAIN, _cause(error), answered=False)

    def _judge(self, error: Any) -> Answer:
        codes = self._grpc.StatusCode
        code, details = error.code(), str(error.details())
        text = f"gRPC {code.name}: {details}"[:300]
        if code is codes.INVALID_ARGUMENT:
            return Answer(Verdict.REFUSED, text)
        if code is codes.RESOURCE_EXHAUSTED and "larger than max" in details:
            return Answer(Verdict.TOO_LARGE, text)
        unheard = code in (codes.UNAVAILABLE, codes.DEADLINE_EXCEEDED)
        return Answer(Verdict.AGAIN, text, answered=not unheard)


def _bytes_of(path: str | None) -> bytes | None:
    if path is None:
        return None
    return Path(path).read_bytes()
