"""OTLP over gRPC (extra ``grpc``): a raw unary call, since the bytes are there already.

Invariant: between two requests nothing of gRPC runs: each has a channel of its own. Its core does
not survive a fork while it runs [seen with 1.85: calls of the child never return, its own fork
support ends a child that was forked during a call]. Deliberately absent: a second try.
"""

import os
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from otel_logging import _forks, _names
from otel_logging._green import sleep
from otel_logging.export import outcome
from otel_logging.export.outcome import Answer, Outcome
from otel_logging.settings import ConfigurationError, Exporter

_METHODS: Final = {
    "traces": "/opentelemetry.proto.collector.trace.v1.TraceService/Export",
    "logs": "/opentelemetry.proto.collector.logs.v1.LogsService/Export",
}
_PORT: Final = 4317  # OpenTelemetry specification
#: How long the core's threads take to end [run: 11 ms at most; of children forked at once, on a
#: busy machine, one in thirty hung, of those forked 20 ms later none in 150].
_SETTLE_S: Final = 0.05
_OPTIONS: Final = (
    ("grpc.enable_http_proxy", 0),
    ("grpc.enable_retries", 0),
    ("grpc.use_local_subchannel_pool", 1),  # else a new channel inherits an old one's pauses
    ("grpc.max_receive_message_length", outcome.ANSWER_BYTES),
)


class OtlpGrpc:
    """OTLP/gRPC."""

    def __init__(self, exporter: Exporter) -> None:
        try:
            import grpc
        except ImportError as error:
            needs = "needs grpcio: pip install 'otel-logging[grpc]'"
            raise ConfigurationError(_names.OTLP_PREFIX + "PROTOCOL", "grpc", needs) from error
        self._grpc = grpc
        self._exporter = exporter
        self._metadata = tuple(outcome.checked_headers(exporter).items())
        self._is_secure = outcome.checked_tls(exporter) is not None
        parts = urlsplit(exporter.endpoint)
        host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
        self._target = f"{host}:{parts.port or _PORT}"
        self._compression = grpc.Compression.Gzip if exporter.gzip else None
        #: A fork during a call leaves the child without gRPC: this stays set there, and must not be
        #: touched.
        self._channel: Any = None
        self._opened_by = 0  # the process that opened it
        self._interrupted = False

    def reset(self) -> None:
        """Begin anew. See ``Client``."""
        self._interrupted = False

    def interrupt(self) -> None:
        """End the request that is under way. See ``Client``."""
        self._interrupted = True
        channel = self._channel
        if channel is not None and self._opened_by == os.getpid():
            channel.close()

    def _open(self) -> Any:
        if not self._is_secure:
            return self._grpc.insecure_channel(self._target, _OPTIONS)
        exporter = self._exporter
        credentials = self._grpc.ssl_channel_credentials(
            _content(exporter.certificate),
            # a client's certificate may have its key in the same file
            _content(exporter.client_key or exporter.client_certificate),
            _content(exporter.client_certificate),
        )
        return self._grpc.secure_channel(self._target, credentials, _OPTIONS)

    def send(self, body: bytes, timeout_s: float) -> Answer:
        """Send *body*. See ``Client``."""
        return outcome.explained(self._send(body, timeout_s), self._exporter)

    def _send(self, body: bytes, timeout_s: float) -> Answer:
        if self._channel is not None:
            return outcome.failed(RuntimeError("this process was forked during a gRPC call"))
        try:
            with _forks.importing:  # gRPC imports more of itself with the first channel
                self._opened_by = os.getpid()
                self._channel = self._open()
            if self._interrupted:
                raise InterruptedError("shut down")
            call = self._channel.unary_unary(_METHODS[self._exporter.signal])
            options = {"metadata": self._metadata, "compression": self._compression}
            answer = call(body, timeout=timeout_s, **options)
            return outcome.accepted(answer) or Answer(Outcome.DELIVERED)
        except self._grpc.RpcError as error:
            return _judge(error, self._grpc.StatusCode)
        except Exception as error:
            return outcome.failed(error)
        finally:
            # a signal handler may have forked during the call: the channel is the parent's then
            if self._channel is not None and self._opened_by == os.getpid():
                self._channel.close()
                sleep(_SETTLE_S)
                self._channel = None


def _content(path: str | None) -> bytes | None:
    return None if path is None else Path(path).read_bytes()


def _judge(error: Any, codes: Any) -> Answer:
    """Say what a gRPC status means (OpenTelemetry protocol specification, OTLP/gRPC response).

    As for HTTP, what is neither bad data nor too large is tried again.
    """
    code, details = error.code(), str(error.details())
    text = outcome.one_line(f"gRPC {code.name}: {details}")
    if code is codes.INVALID_ARGUMENT:
        return Answer(Outcome.REFUSED, text, code=code.name)
    if code is codes.RESOURCE_EXHAUSTED and "larger than max" in details:
        # gRPC says this of our request, or of its answer after it was accepted
        answer_was = "CLIENT: Received" in details
        taken = Outcome.DELIVERED if answer_was else Outcome.REFUSED
        return Answer(taken, text, code=code.name)
    unheard = code in (codes.UNAVAILABLE, codes.DEADLINE_EXCEEDED, codes.CANCELLED)
    return Answer(Outcome.AGAIN, text, answered=not unheard, code=code.name)
