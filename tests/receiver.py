"""An OTLP/HTTP receiver on a real loopback socket: what really left the process, as plain data.

In: POST /v1/traces and /v1/logs, protobuf, plain or gzip. Out: ``requests``
(every one, refused or not) and ``spans``, ``events``, ``log_records`` (of the
requests answered with 2xx: what a client may believe was kept). Invariant:
decoded with opentelemetry-proto alone, never with the package under test.

    with Receiver() as receiver:
        # from now on; also: accept, partial_success(...), hang_up, receiver.hang, any callable
        receiver.answer = refuse(503)
        receiver.wait_for(lambda r: len(r.requests) >= 2)
        receiver.answer = accept
        receiver.wait_for(lambda r: {s.name for s in r.spans} == {"turn"})
"""

import contextlib
import gzip
import socket
import threading
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self, TypeVar

from google.protobuf.message import DecodeError
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)

_T = TypeVar("_T")
_KINDS = ("unspecified", "internal", "server", "client", "producer", "consumer")
_STATUS = ("unset", "ok", "error")


@dataclass(frozen=True)
class Event:
    time_ns: int
    name: str
    attributes: dict[str, Any]
    dropped_attributes: int = 0


@dataclass(frozen=True)
class Link:
    trace_id: str
    span_id: str
    attributes: dict[str, Any]
    trace_state: str = ""
    flags: int = 0


@dataclass(frozen=True)
class Span:
    """Ids in lower-case hex; *kind* and *status* are OTLP's names in lower case."""

    trace_id: str
    span_id: str
    parent_span_id: str | None
    name: str
    kind: str
    start_ns: int
    end_ns: int
    attributes: dict[str, Any]
    events: tuple[Event, ...]
    links: tuple[Link, ...]
    status: str
    message: str
    flags: int
    trace_state: str
    resource: dict[str, Any]
    scope: str
    scope_version: str
    dropped_attributes: int
    dropped_events: int
    dropped_links: int


@dataclass(frozen=True)
class LogRecord:
    time_ns: int
    observed_ns: int
    severity: int
    severity_text: str
    body: Any
    attributes: dict[str, Any]
    trace_id: str | None
    span_id: str | None
    flags: int
    resource: dict[str, Any]
    scope: str


@dataclass(frozen=True)
class Request:
    """One POST. *headers* have lower-case names, *body* is unpacked, *size* is as sent."""

    path: str
    headers: dict[str, str]
    size: int
    body: bytes
    spans: tuple[Span, ...] = ()
    log_records: tuple[LogRecord, ...] = ()
    error: str | None = None  # why it could not be decoded; answered with 400


#: Status, headers and body; None hangs up without a word.
Answer = tuple[int, Mapping[str, str], bytes] | None


def accept(request: Request) -> Answer:
    """Answer 200, nothing rejected."""
    return 200, {}, b""


def refuse(status: int, **headers: str) -> Callable[[Request], Answer]:
    """Answer *status* to everything: ``refuse(429, retry_after="2")``."""
    sent = {name.replace("_", "-").title(): value for name, value in headers.items()}
    return lambda _: (status, sent, b"")


def partial_success(rejected: int, message: str = "") -> Callable[[Request], Answer]:
    """Answer 200 to everything, with *rejected* spans rejected."""
    response = ExportTraceServiceResponse()
    response.partial_success.rejected_spans = rejected
    response.partial_success.error_message = message
    return lambda _: (200, {}, response.SerializeToString())


def hang_up(request: Request) -> Answer:
    """Close the connection without an answer."""
    return None


@dataclass
class _Kept:
    requests: list[Request] = field(default_factory=list)
    statuses: list[int | None] = field(default_factory=list)
    spans: list[Span] = field(default_factory=list)
    log_records: list[LogRecord] = field(default_factory=list)


class Receiver:
    """Listens from construction until ``stop()``; its connections then break, as a dead one's do.

    Concurrency: one thread a connection; everything public may be used from any
    thread. A second one can be started on the same *port* after the first's ``stop()``.
    """

    def __init__(self, port: int = 0) -> None:
        self.answer: Callable[[Request], Answer] = accept
        self._changed = threading.Condition()
        self._kept = _Kept()
        self._stopping = threading.Event()
        self._server = _Server(("127.0.0.1", port), _Handler, self)
        self.port: int = self._server.server_address[1]
        self.endpoint = f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Stop listening and break the connections there are. Idempotent; what was kept stays."""
        if self._stopping.is_set():
            return
        self._stopping.set()
        self._server.stop()

    # ---- what came

    @property
    def requests(self) -> list[Request]:
        """Every request that was decoded, refused ones too, in order of arrival."""
        with self._changed:
            return list(self._kept.requests)

    @property
    def statuses(self) -> list[int | None]:
        """What was answered, in order of answering; None where it was hung up."""
        with self._changed:
            return list(self._kept.statuses)

    @property
    def spans(self) -> list[Span]:
        """The spans of accepted requests."""
        with self._changed:
            return list(self._kept.spans)

    @property
    def events(self) -> list[tuple[Span, Event]]:
        """The events of ``spans``, each with its span."""
        return [(span, event) for span in self.spans for event in span.events]

    @property
    def log_records(self) -> list[LogRecord]:
        """The log records of accepted requests."""
        with self._changed:
            return list(self._kept.log_records)

    def clear(self) -> None:
        """Forget what came so far."""
        with self._changed:
            self._kept = _Kept()

    def wait_for(self, predicate: "Callable[[Receiver], _T]", timeout: float = 10) -> _T:
        """Wait until ``predicate(self)`` is true and return it.

        It is looked at after each arrival and each answer. Failure:
        AssertionError that tells what there is, after *timeout* seconds.
        """
        with self._changed:
            found = self._changed.wait_for(lambda: predicate(self), timeout)
            assert found, f"not within {timeout} s; there is {self!r}"
            return found

    def hang(self, request: Request) -> Answer:
        """Say nothing until the receiver is stopped: an ``answer``."""
        self._stopping.wait()
        return None

    def __repr__(self) -> str:
        with self._changed:
            kept = self._kept
            names = [span.name for span in kept.spans]
            errors = [request.error for request in kept.requests if request.error]
            return (
                f"<Receiver :{self.port} [{len(kept.requests)} requests, answers {kept.statuses},"
                f" {len(names)} spans {names[:50]}, {len(kept.log_records)} log records"
                + (f", undecodable: {errors}" if errors else "")
                + "]>"
            )

    # ---- the handler's side

    def _receive(self, request: Request, answer: Callable[[Request], Answer]) -> Answer:
        with self._changed:
            self._kept.requests.append(request)
            self._changed.notify_all()
        if request.error:
            return 400, {"Content-Type": "text/plain"}, request.error.encode()
        return answer(request)  # outside the lock: it may wait

    def _answered(self, request: Request, status: int | None) -> None:
        with self._changed:
            self._kept.statuses.append(status)
            if status is not None and 200 <= status < 300:
                self._kept.spans += request.spans
                self._kept.log_records += request.log_records
            self._changed.notify_all()


class _Server(ThreadingHTTPServer):
    request_queue_size = 128  # the default of 5 refuses a burst of clients
    daemon_threads = False  # server_close() waits for them: nothing runs on after a test

    def __init__(self, address: tuple[str, int], handler: type, receiver: Receiver) -> None:
        self.receiver = receiver
        self._lock = threading.Lock()
        self._connections: set[socket.socket] = set()
        self._is_stopping = False
        super().__init__(address, handler)
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        """Serve without a look at a clock in between, which ``serve_forever`` has."""
        while not self._is_stopping:
            self.handle_request()

    def verify_request(self, request: Any, client_address: Any) -> bool:
        return not self._is_stopping

    def stop(self) -> None:
        """Stop listening, break the connections there are, and wait for their threads."""
        self._is_stopping = True
        with contextlib.suppress(OSError):  # somebody else's was the last that it looked at
            socket.create_connection(self.server_address).close()
        self._thread.join()
        self._break_connections()
        self.server_close()

    def server_bind(self) -> None:
        # HTTPServer's looks up the host's name, which takes seconds where no DNS answers
        socket.socket.setsockopt(self.socket, socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._lock:
            self._connections.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        with self._lock:
            self._connections.discard(request)
        super().shutdown_request(request)

    def _break_connections(self) -> None:
        with self._lock:
            for connection in self._connections:
                with contextlib.suppress(OSError):  # the client was quicker
                    connection.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass  # a client that hangs up is what some tests are about


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = (
        True  # else a kept connection waits 40 ms for each answer's second packet
    )
    server: _Server

    def do_POST(self) -> None:
        receiver = self.server.receiver
        # as it is when a request begins: a busy machine decodes one of a killed process for long
        chosen = receiver.answer
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        request = decode(self.path, {k.lower(): v for k, v in self.headers.items()}, body)
        answer = receiver._receive(request, chosen)
        # kept before it is sent, as a collector does: who has the answer can count on it
        receiver._answered(request, answer and answer[0])
        if answer is None:
            self.close_connection = True
        else:
            self._send(*answer)

    def _send(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": "application/x-protobuf", **headers}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
        self.wfile.flush()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass  # http.server prints each request


# ---------------------------------------------------------------- decoding


def decode(path: str, headers: dict[str, str], sent: bytes) -> Request:
    """Decode one request; what is wrong with it is its ``error``."""
    body = sent
    try:
        if headers.get("content-type") != "application/x-protobuf":
            raise ValueError(f"content-type {headers.get('content-type')!r}")
        encoding = headers.get("content-encoding", "identity")
        if encoding == "gzip":
            body = gzip.decompress(sent)
        elif encoding != "identity":
            raise ValueError(f"content-encoding {encoding!r}")
        place = path.partition("?")[0]
        if place == "/v1/traces":
            return Request(path, headers, len(sent), body, spans=decode_spans(body))
        if place == "/v1/logs":
            return Request(path, headers, len(sent), body, log_records=decode_logs(body))
        raise ValueError(f"path {path!r}")
    except (ValueError, OSError, EOFError, zlib.error, DecodeError) as error:
        return Request(path, headers, len(sent), body, error=f"{type(error).__name__}: {error}")


def decode_spans(body: bytes) -> tuple[Span, ...]:
    """Decode an ExportTraceServiceRequest (the same bytes as TracesData)."""
    return tuple(
        _span(span, _dict(resource_spans.resource.attributes), scope_spans.scope)
        for resource_spans in ExportTraceServiceRequest.FromString(body).resource_spans
        for scope_spans in resource_spans.scope_spans
        for span in scope_spans.spans
    )


def decode_logs(body: bytes) -> tuple[LogRecord, ...]:
    """Decode an ExportLogsServiceRequest."""
    return tuple(
        _log_record(record, _dict(resource_logs.resource.attributes), scope_logs.scope)
        for resource_logs in ExportLogsServiceRequest.FromString(body).resource_logs
        for scope_logs in resource_logs.scope_logs
        for record in scope_logs.log_records
    )


def _span(span: Any, resource: dict[str, Any], scope: Any) -> Span:
    _check_ids(span.trace_id, span.span_id)
    return Span(
        trace_id=span.trace_id.hex(),
        span_id=span.span_id.hex(),
        parent_span_id=span.parent_span_id.hex() or None,
        name=span.name,
        kind=_KINDS[span.kind],
        start_ns=span.start_time_unix_nano,
        end_ns=span.end_time_unix_nano,
        attributes=_dict(span.attributes),
        events=tuple(
            Event(e.time_unix_nano, e.name, _dict(e.attributes), e.dropped_attributes_count)
            for e in span.events
        ),
        links=tuple(
            Link(
                link.trace_id.hex(),
                link.span_id.hex(),
                _dict(link.attributes),
                link.trace_state,
                link.flags,
            )
            for link in span.links
        ),
        status=_STATUS[span.status.code],
        message=span.status.message,
        flags=span.flags,
        trace_state=span.trace_state,
        resource=resource,
        scope=scope.name,
        scope_version=scope.version,
        dropped_attributes=span.dropped_attributes_count,
        dropped_events=span.dropped_events_count,
        dropped_links=span.dropped_links_count,
    )


def _log_record(record: Any, resource: dict[str, Any], scope: Any) -> LogRecord:
    return LogRecord(
        time_ns=record.time_unix_nano,
        observed_ns=record.observed_time_unix_nano,
        severity=record.severity_number,
        severity_text=record.severity_text,
        body=_value(record.body),
        attributes=_dict(record.attributes),
        trace_id=record.trace_id.hex() or None,
        span_id=record.span_id.hex() or None,
        flags=record.flags,
        resource=resource,
        scope=scope.name,
    )


def _check_ids(trace_id: bytes, span_id: bytes) -> None:
    # a collector refuses these; so does this one
    if len(trace_id) != 16 or len(span_id) != 8 or not any(trace_id) or not any(span_id):
        raise ValueError(f"invalid ids {trace_id.hex()} {span_id.hex()}")


def _dict(key_values: Any) -> dict[str, Any]:
    found = {item.key: _value(item.value) for item in key_values}
    if len(found) != len(key_values):
        raise ValueError(f"attribute keys doubled: {[item.key for item in key_values]}")
    return found


def _value(any_value: Any) -> Any:
    which = any_value.WhichOneof("value")
    if which is None:
        return None
    if which == "array_value":
        return [_value(item) for item in any_value.array_value.values]
    if which == "kvlist_value":
        return _dict(any_value.kvlist_value.values)
    return getattr(any_value, which)
