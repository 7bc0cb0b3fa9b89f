"""The tests' own receiver tells the truth: it is what all other counts rest on."""

import gzip
import socket
import threading

import pytest
import urllib3
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.trace import Link, SpanKind, Status, StatusCode

from tests.receiver import Event, Receiver, hang_up, partial_success, refuse

PROTOBUF = {"Content-Type": "application/x-protobuf"}


def _post(receiver: Receiver, body: bytes, **headers: str) -> urllib3.BaseHTTPResponse:
    return _post_to(receiver.endpoint + "/v1/traces", body, **headers)


def _post_to(url: str, body: bytes, **headers: str) -> urllib3.BaseHTTPResponse:
    with urllib3.PoolManager(retries=False, timeout=5) as http:
        return http.request("POST", url, body=body, headers=PROTOBUF | headers)


def test_what_the_official_exporter_sends_is_decoded_whole(receiver: Receiver) -> None:
    """A span of the SDK arrives with all its parts, packed by gzip as well."""
    provider = TracerProvider(resource=Resource({"service.name": "shop"}))
    for compression in (None, "gzip"):
        from opentelemetry.exporter.otlp.proto.http import Compression

        exporter = OTLPSpanExporter(
            receiver.endpoint + "/v1/traces", compression=Compression(compression or "none")
        )
        provider.add_span_processor(SimpleSpanProcessor(exporter))
    tracer = provider.get_tracer("scope", "1.0")
    with (
        tracer.start_as_current_span("parent", start_time=1) as parent,
        tracer.start_as_current_span(
            "child",
            kind=SpanKind.SERVER,
            attributes={"a": 1, "b": [True, False]},
            links=[Link(parent.get_span_context(), {"why": "test"})],
            start_time=2,
            end_on_exit=False,
        ) as child,
    ):
        child.add_event("said", {"x": 0.5}, timestamp=3)
        child.set_status(Status(StatusCode.ERROR, "no"))
        child.end(4)
    provider.shutdown()

    receiver.wait_for(lambda r: len(r.spans) == 4)
    assert [r.headers.get("content-encoding") for r in receiver.requests] == [None, "gzip"] * 2
    plain, packed, *_ = receiver.spans
    assert plain == packed
    assert (plain.name, plain.kind, plain.start_ns, plain.end_ns) == ("child", "server", 2, 4)
    assert plain.attributes == {"a": 1, "b": [True, False]}
    assert plain.parent_span_id == receiver.spans[2].span_id
    assert receiver.spans[2].parent_span_id is None
    assert plain.links[0].span_id == plain.parent_span_id
    assert plain.links[0].attributes == {"why": "test"}
    assert (plain.status, plain.message) == ("error", "no")
    assert (plain.resource, plain.scope) == ({"service.name": "shop"}, "scope")
    assert receiver.events == [(plain, Event(3, "said", {"x": 0.5}))] * 2


def test_log_records_are_decoded(receiver: Receiver) -> None:
    """A record that is posted to /v1/logs is kept as plain data."""
    sent = ExportLogsServiceRequest()
    resource = sent.resource_logs.add()
    resource.resource.attributes.add(key="service.name").value.string_value = "shop"
    scope = resource.scope_logs.add()
    scope.scope.name = "shop"
    record = scope.log_records.add(time_unix_nano=5)
    record.body.string_value = "hello"
    record.attributes.add(key="n").value.int_value = 1
    _post_to(receiver.endpoint + "/v1/logs", sent.SerializeToString())
    (kept,) = receiver.log_records
    assert (kept.time_ns, kept.body, kept.attributes) == (5, "hello", {"n": 1})
    assert (kept.trace_id, kept.scope) == (None, "shop")
    assert kept.resource == {"service.name": "shop"}


def test_refusals_keep_the_request_and_not_its_spans(receiver: Receiver) -> None:
    """A refused request is seen, but its spans do not count as received."""
    receiver.answer = refuse(429, retry_after="2")
    response = _post(receiver, b"")
    assert (response.status, response.headers["Retry-After"]) == (429, "2")
    receiver.answer = partial_success(3, "too old")
    assert b"too old" in _post(receiver, b"").data
    receiver.answer = hang_up
    with pytest.raises(urllib3.exceptions.ProtocolError):
        _post(receiver, b"")
    receiver.wait_for(lambda r: r.statuses == [429, 200, None])


def test_a_request_that_is_not_otlp_gets_400_and_is_reported(receiver: Receiver) -> None:
    """Bytes that cannot be decoded get 400, and ``wait_for`` says why."""
    assert _post(receiver, b"\xff").status == 400
    assert _post(receiver, b"", **{"Content-Encoding": "br"}).status == 400
    assert _post(receiver, gzip.compress(b"x" * 99)[:-4], **{"Content-Encoding": "gzip"}).status
    with pytest.raises(AssertionError, match=r"3 requests.*DecodeError"):
        receiver.wait_for(lambda r: r.spans, timeout=0)


def test_hanging_ends_when_the_receiver_stops_and_the_port_is_free_again() -> None:
    """A client of a hanging receiver loses its connection at ``stop()``; a new one takes over."""
    with Receiver() as first:
        first.answer = first.hang
        failed: list[Exception] = []

        def send() -> None:
            try:
                _post(first, b"")
            except urllib3.exceptions.HTTPError as error:
                failed.append(error)

        client = threading.Thread(target=send)
        client.start()
        first.wait_for(lambda r: r.requests)
    client.join(5)
    assert len(failed) == 1
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.1", first.port), timeout=1)
    with Receiver(first.port) as second:
        assert _post(second, b"").status == 200
