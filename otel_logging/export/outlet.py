"""The way of log records out of the process: the OTLP exporter of the OpenTelemetry SDK, watched.

In: batches of the SDK's log records. Out: requests to the collector, by HTTP or
gRPC. Invariant: every record handed over is taken by the collector, waits, or
is counted as lost. Deliberately absent: retries and connections, which are the
SDK's own; the disk.
"""

import contextlib
import functools
import threading
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from otel_logging import _names, _trouble
from otel_logging.settings import ConfigurationError, Exporter

if TYPE_CHECKING:
    import requests

#: How many records wait at most: a burst of this size is not lost, and at 1.3 KB each
#: (measured: six fields, OpenTelemetry 1.45) a collector that hangs costs some 45 MB.
QUEUE_RECORDS: Final = 32_768

_NOT_TAKEN: Final = "log records lost: the collector did not take them"


class _ThisThread(threading.local):
    """*delivers*: it is one of the SDK's or ours, and what it logs is about delivery.
    *emits*: it is inside ``Records.emit``; *later*: the lines logged in there.
    """

    def __init__(self) -> None:
        self.delivers = False
        self.emits = False
        self.later: deque[tuple[Any, ...]] = deque()


this_thread = _ThisThread()


class Outlet:
    """What the SDK's batch processor takes for its exporter: the real one, watched."""

    def __init__(self, exporter: Exporter) -> None:
        self.waiting = 0  # handed to the SDK, and neither taken by the collector nor lost
        self.lost = 0
        self.answered = False  # there is a collector
        self._is_closed = False
        self._answer = ""  # to the request under way
        self._settings = exporter
        self._lock = threading.Lock()
        _ = self._exporter  # what is wrong with the settings is said now

    @functools.cached_property
    def _exporter(self) -> Any:
        if self._settings.protocol == "grpc":
            return _grpc_exporter(self._settings)
        return _http_exporter(self._settings, self._judge)

    def reset(self) -> None:
        """Forget the parent process's records and connections."""
        self._lock = threading.Lock()
        self.waiting = 0
        self.__dict__.pop("_exporter", None)  # the next batch makes one

    def has_room(self) -> bool:
        """Say whether one more record may wait; count it as lost if not."""
        if self.waiting < QUEUE_RECORDS:
            return True
        self._lose("log records lost: too many wait for the collector", 1)
        return False

    def count(self, records: int) -> None:
        """Count *records* as waiting."""
        with self._lock:
            self.waiting += records

    def export(self, batch: Sequence[Any]) -> Any:
        """Send *batch*. Called by the SDK, in one thread at a time. Never raises."""
        this_thread.delivers = True
        if self._is_closed:
            return None
        result, self._answer = None, ""
        try:
            result = self._exporter.export(batch)
        except Exception as error:
            self._answer = f"{type(error).__name__}: {error}"[:300]
        is_taken = getattr(result, "name", "") == "SUCCESS"  # its type has changed its name
        self.answered |= is_taken
        with self._lock:
            if self._is_closed:  # counted as lost already
                return result
            self.waiting -= len(batch)
        if not is_taken:
            self._lose(_NOT_TAKEN, len(batch), self._answer)
        return result

    def shutdown(self) -> None:
        """Close the connection. Called by the SDK."""
        self._exporter.shutdown()

    def close(self) -> None:
        """Send no more: what still waits is lost."""
        with self._lock:
            self._is_closed = True
            left = self.waiting
        if left > 0:
            self._lose("log records lost: not delivered by shutdown", left)

    def _lose(self, kind: str, records: int, detail: object = "") -> None:
        self.lost += records
        _trouble.report(kind, records, detail=detail)

    def _judge(self, response: "requests.Response", *_: object, **__: object) -> None:
        """Look at an answer before the SDK does, which takes a redirect for a success or follows
        it, and does not look for what the collector has rejected.
        """
        from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import (
            ExportLogsServiceResponse,
        )

        self.answered = True
        self._answer = f"HTTP {response.status_code}"
        if 300 <= response.status_code < 400:
            response.close()
            raise OSError(self._answer)
        if response.ok:
            with contextlib.suppress(Exception):  # an answer that is no protobuf is an answer
                partial = ExportLogsServiceResponse.FromString(response.content).partial_success
                if partial.rejected_log_records:
                    self._lose(_NOT_TAKEN, partial.rejected_log_records, partial.error_message)


def _http_exporter(exporter: Exporter, judge: Callable[..., None]) -> Any:
    import requests
    from opentelemetry.exporter.otlp.proto.http import Compression
    from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter

    session = requests.Session()
    session.trust_env = False  # no proxies, and no .netrc in place of the headers
    session.hooks["response"].append(judge)
    return OTLPLogExporter(
        endpoint=_logs_endpoint(exporter.endpoint),
        certificate_file=exporter.certificate,
        client_key_file=exporter.client_key,
        client_certificate_file=exporter.client_certificate,
        headers=dict(exporter.headers),
        timeout=exporter.timeout_s,
        compression=Compression.Gzip if exporter.gzip else Compression.NoCompression,
        session=session,
    )


def _logs_endpoint(endpoint: str) -> str:
    parts = urlsplit(endpoint)
    base, traces, rest = parts.path.rstrip("/").rpartition("/v1/traces")
    if rest or not traces:
        raise ConfigurationError(
            _names.OTLP_TRACES_PREFIX + "ENDPOINT",
            endpoint,
            "a URL that ends in /v1/traces, for log records to go to /v1/logs beside it",
        )
    return parts._replace(path=base + "/v1/logs").geturl()


def _grpc_exporter(exporter: Exporter) -> Any:
    try:
        import grpc
        from opentelemetry.exporter.otlp.proto.grpc._log_exporter import OTLPLogExporter
    except ImportError as error:
        raise ConfigurationError(
            _names.OTLP_PREFIX + "PROTOCOL",
            "grpc",
            "log records need an exporter: pip install opentelemetry-exporter-otlp-proto-grpc",
        ) from error
    files = (exporter.certificate, exporter.client_key, exporter.client_certificate)
    is_secure = exporter.endpoint.startswith("https:")
    read = [Path(name).read_bytes() if name else None for name in files]
    return OTLPLogExporter(
        endpoint=exporter.endpoint,
        insecure=not is_secure,
        credentials=grpc.ssl_channel_credentials(*read) if is_secure else None,
        headers=tuple((key.lower(), value) for key, value in exporter.headers),
        timeout=exporter.timeout_s,
        compression=grpc.Compression.Gzip if exporter.gzip else grpc.Compression.NoCompression,
    )
