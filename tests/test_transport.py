"""What becomes of one OTLP/HTTP request, with collectors of every temper."""

import base64
import contextlib
import errno
import io
import math
import os
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from opentelemetry import context as otel_context

from otel_logging import _otlp
from otel_logging._sockets import Received, Socket
from otel_logging.assembly import make_client
from otel_logging.export.delivery import unobserved
from otel_logging.export.outcome import Answer, Client, Outcome, failed, lasting
from otel_logging.settings import ConfigurationError, Exporter
from tests import rude
from tests.programs import good, python
from tests.receiver import Receiver, partial_success, refuse
from tests.rude import OK, Certificates, Rude, always
from tests.spools import encoded

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return rude.make_certificates(tmp_path_factory.mktemp("certificates"))


def request(*numbers: int, size: int = 0) -> bytes:
    return _otlp.request(
        _otlp.resource({"service.name": "shop"}),
        _otlp.scope("scope"),
        [encoded(number, size) for number in numbers],
    )


def connect(endpoint: str, **settings: object) -> Client:
    if endpoint.count("/") == 2:
        endpoint += "/v1/traces"
    return make_client(Exporter(endpoint=endpoint, **settings))  # type: ignore[arg-type]


@contextlib.contextmanager
def connected(endpoint: str, **settings: object) -> Iterator[Client]:
    client = connect(endpoint, **settings)
    try:
        yield client
    finally:
        client.reset()


def ask(endpoint: str, body: bytes = b"", timeout_s: float = 5, **settings: object) -> Answer:
    with connected(endpoint, **settings) as client:
        return client.send(body, timeout_s)


# ---------------------------------------------------------------- what is sent


def test_a_request_arrives_as_it_was_made(receiver: Receiver) -> None:
    """The spans, the resource and the headers asked for are at the collector."""
    answer = ask(
        receiver.endpoint,
        request(1, 2),
        headers=(("X-Api-Key", "a b"), ("Content-Type", "text/plain")),
    )
    assert answer == Answer(Outcome.DELIVERED)
    assert [span.name for span in receiver.spans] == ["span 1", "span 2"]
    assert receiver.spans[0].resource == {"service.name": "shop"}
    (came,) = receiver.requests
    assert came.headers["x-api-key"] == "a b"
    assert came.headers["content-type"] == "application/x-protobuf"
    assert came.headers["user-agent"] == "otel-logging"
    assert came.headers["host"] == f"127.0.0.1:{receiver.port}"


def test_gzip_packs_the_body(receiver: Receiver) -> None:
    """With compression asked for, the request is small and arrives whole."""
    assert ask(receiver.endpoint, request(1, size=10_000), gzip=True).outcome is Outcome.DELIVERED
    (came,) = receiver.requests
    assert came.headers["content-encoding"] == "gzip"
    assert came.size < 1000 < len(came.body)
    assert len(receiver.spans) == 1


def test_the_endpoint_is_taken_as_it_is() -> None:
    """Path and query are sent; no path is the root."""
    with Rude(lambda r, c: heads.append(rude.read_request(c))) as collector:
        heads: list[bytes] = []
        here = f"http://127.0.0.1:{collector.port}"
        for endpoint in (f"{here}/a/b?token=1", f"{here}/", here):
            make_client(Exporter(endpoint=endpoint)).send(b"", 5)
    assert [head.split()[1] for head in heads] == [b"/a/b?token=1", b"/", b"/"]


@pytest.mark.skipif(not socket.has_ipv6, reason="no IPv6")
def test_an_ipv6_address_is_an_endpoint() -> None:
    """Brackets are for the URL and the Host header, not for the socket."""
    try:
        collector = Rude(always(OK), host="::1")
    except OSError:
        pytest.skip("no IPv6 on this machine")
    with collector:
        assert ask(collector.endpoint).outcome is Outcome.DELIVERED


def test_nothing_is_asked_but_the_endpoint(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Proxies and .netrc of the environment have no say."""
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    Path.home().mkdir()
    (Path.home() / ".netrc").write_text("machine 127.0.0.1 login a password b")
    assert ask(receiver.endpoint, request(1)).outcome is Outcome.DELIVERED
    assert "authorization" not in receiver.requests[0].headers


def test_headers_that_cannot_be_sent_are_named_at_set_up() -> None:
    """A line break in a value would end the head; the value, which may be a key, is not shown."""
    for name, value in (("a", "secret\r\nx: y"), ("a", "secret-é"), ("a b", "secret"), ("", "")):
        with pytest.raises(ConfigurationError, match="OTEL_EXPORTER_OTLP_HEADERS") as raised:
            connect("http://127.0.0.1:1", headers=((name, value),))
        assert "secret" not in str(raised.value)


# ---------------------------------------------------------------- what is answered


@pytest.mark.parametrize(
    ("status", "outcome"),
    [
        (202, Outcome.DELIVERED),
        (301, Outcome.AGAIN),
        (400, Outcome.REFUSED),
        (401, Outcome.AGAIN),
        (404, Outcome.AGAIN),
        (413, Outcome.REFUSED),
        (422, Outcome.REFUSED),
        (429, Outcome.AGAIN),
        (500, Outcome.AGAIN),
        (503, Outcome.AGAIN),
    ],
)
def test_a_status_has_a_meaning(receiver: Receiver, status: int, outcome: Outcome) -> None:
    """Bad data is refused, too much is halved, everything else that is no success comes again."""
    receiver.answer = refuse(status)
    answer = ask(receiver.endpoint, request(1))
    assert answer.outcome is outcome
    assert answer.answered
    assert outcome is Outcome.DELIVERED or f"HTTP {status}" in answer.detail


def test_a_redirect_is_not_followed(receiver: Receiver) -> None:
    """What is sent may hold keys: it goes where it was told to go."""
    with Receiver() as other:
        receiver.answer = refuse(307, location=other.endpoint + "/v1/traces")
        assert ask(receiver.endpoint, request(1)).outcome is Outcome.AGAIN
        assert not other.requests


@pytest.mark.parametrize(
    ("text", "after_s"),
    [("7", 7), (" 0 ", 0), ("9" * 400, math.inf), ("-1", None), ("1.5", None), ("", None)],
)
def test_retry_after_is_read_as_seconds(
    receiver: Receiver, text: str, after_s: float | None
) -> None:
    """Anything else is as if it were not there."""
    receiver.answer = refuse(503, retry_after=text)
    assert ask(receiver.endpoint, request(1)).after_s == after_s


def test_a_partial_success_says_how_many_were_rejected(receiver: Receiver) -> None:
    """With the collector's words, which are made safe for a terminal; a negative count is none."""
    receiver.answer = partial_success(2, "no \x1b[31mroom\n" + "x" * 1000)
    answer = ask(receiver.endpoint, request(1, 2, 3))
    assert (answer.outcome, answer.rejected_spans) == (Outcome.DELIVERED, 2)
    assert answer.detail.startswith("no [31mroom xxx")
    assert len(answer.detail) <= 300
    receiver.answer = partial_success(-5)
    assert ask(receiver.endpoint, request(1)).rejected_spans == 0


def test_an_answer_that_is_no_protobuf_is_an_answer(receiver: Receiver) -> None:
    """Some gateways say "ok"."""
    receiver.answer = lambda _: (200, {}, b"\xff\xffok")
    assert ask(receiver.endpoint, request(1)) == Answer(Outcome.DELIVERED)


def test_a_server_of_pages_is_no_collector(receiver: Receiver) -> None:
    """Jaeger's own port, say: it answers everything with its page, and would have taken nothing."""
    page = b"<!doctype html><title>Jaeger UI</title>"
    receiver.answer = lambda _: (200, {"Content-Type": "text/html; charset=utf-8"}, page)
    answer = ask(receiver.endpoint, request(1))
    assert answer.outcome is Outcome.AGAIN
    assert answer.detail == "HTTP 200 with a page: no collector"


JSON = "application/json"


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("application/xhtml+xml", b'<?xml version="1.0"?><html/>'),
        ("text/xml", b'<?xml version="1.0"?><html/>'),
        ("", b'<?xml version="1.0"?><html/>'),
        ("", b"\xef\xbb\xbf<!doctype html><p>hello"),
        ("", b"<!-- login --><html>"),
        ("", "<html>".encode("utf-16")),
        ("", b"\n\n<p>Please log in</p>"),
        ("text/plain", b"ok"),
        (JSON, b'{"error": "no"}'),
        (JSON, b'{"partialSuccess": {"rejectedSpans": "many"}}'),
        (JSON, b'["partialSuccess"]'),
        (JSON, b"[" * 10_000),
        ("", b"\x00\xff"),
    ],
)
@pytest.mark.parametrize("signal", ["traces", "logs"])
def test_a_yes_that_is_not_of_otlp_acknowledges_nothing(
    kind: str, body: bytes, signal: str
) -> None:
    """A captive portal, a proxy: it has thrown away what it was sent."""
    said = f"Content-Type: {kind}\r\n" if kind else ""
    head = f"HTTP/1.1 200 OK\r\n{said}Content-Length: {len(body)}\r\n\r\n"
    with Rude(always(head.encode() + body)) as server:
        answer = ask(server.endpoint, request(1), signal=signal)
    assert answer.outcome is Outcome.AGAIN
    assert answer.mistake.startswith("there is no OTLP at ")
    assert answer.detail.startswith("HTTP 200 with ")


@pytest.mark.parametrize(
    ("kind", "body", "rejected"),
    [
        ("", b"", 0),
        ("text/plain", b"\r\n", 0),
        ("", b"\n\x02\x08\x03", 3),
        ("application/octet-stream", b"\n\x02\x08\x03", 3),
        ("application/x-protobuf; charset=utf-8", b"\xff\xff", 0),
        (JSON, b"{}", 0),
        (JSON, b'{"partialSuccess": {}}', 0),
        (JSON, b'{"partialSuccess": null}', 0),
        (JSON, b'{"partialSuccess": {"rejectedSpans": "3"}}', 3),
        (JSON, b'{"partialSuccess": {"rejectedLogRecords": 3}}', 3),
    ],
)
def test_a_yes_of_otlp_acknowledges(kind: str, body: bytes, rejected: int) -> None:
    """Also where it does not say what it is, or says it in JSON."""
    said = f"Content-Type: {kind}\r\n" if kind else ""
    head = f"HTTP/1.1 200 OK\r\n{said}Content-Length: {len(body)}\r\n\r\n"
    with Rude(always(head.encode() + body)) as server:
        answer = ask(server.endpoint, request(1))
    assert answer == Answer(Outcome.DELIVERED, rejected_spans=rejected)


@pytest.mark.parametrize("status", [101, 600, 999])
def test_a_status_of_no_server_is_a_mistake(status: int) -> None:
    """No collector answers so."""
    said = f"HTTP/1.1 {status} X\r\nContent-Length: 0\r\n\r\n".encode()
    with Rude(always(said)) as server:
        answer = ask(server.endpoint, request(1))
    assert (answer.outcome, answer.code) == (Outcome.AGAIN, str(status))
    assert answer.mistake == f"there is no OTLP at {server.endpoint}"


def test_the_collectors_error_text_is_in_the_detail_on_one_line(receiver: Receiver) -> None:
    """On one line, without control characters."""
    receiver.answer = lambda _: (404, {}, b"\x08\x05\x12\x0aunknown\r\ntenant\xff")
    assert ask(receiver.endpoint, request(1)).detail == "HTTP 404 Not Found unknown tenant"


def test_a_refused_connection_is_no_answer() -> None:
    """Refused, no such name, no HTTP: nothing raises, and there is no collector."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    answer = ask(f"http://127.0.0.1:{port}")
    assert (answer.outcome, answer.answered) == (Outcome.AGAIN, False)
    assert "ConnectionRefusedError" in answer.detail
    assert not ask("http://" + "a" * 70 + ":1").answered
    for said in (b"", b"220 mail.example ESMTP\r\n", b"HTTP/1.1 abc\r\n\r\n"):
        with Rude(always(said)) as collector:
            answer = ask(collector.endpoint)
        assert (answer.outcome, answer.answered) == (Outcome.AGAIN, False)


# ---------------------------------------------------------------- the deadline


@pytest.mark.parametrize(
    ("behave", "size"),
    [
        (rude.say_nothing, 1),
        (rude.read_nothing, 32 << 20),  # more than the system keeps for it
        (rude.drip_head, 1),
        (rude.drip_body, 1),  # a status is not the whole answer
    ],
)
@pytest.mark.parametrize("tls", [False, True])
def test_a_request_is_done_by_its_deadline(
    behave: Callable[[Rude, socket.socket], None],
    size: int,
    tls: bool,
    certificates: Certificates,
) -> None:
    """Also where every single operation on the socket succeeds soon."""
    with Rude(behave, tls=certificates.server_context() if tls else None) as collector:
        certificate = str(certificates.authority) if tls else None
        with connected(collector.endpoint, certificate=certificate) as client:
            began = time.monotonic()
            answer = client.send(bytes(size), 0.3)
            took = time.monotonic() - began
            assert answer.outcome is Outcome.AGAIN
            assert 0.25 < took < 2


def test_a_connection_that_never_speaks_tls_is_given_up() -> None:
    """The handshake has the same deadline."""
    with Rude(rude.read_nothing) as collector:
        began = time.monotonic()
        answer = ask(collector.endpoint.replace("http:", "https:"), timeout_s=0.3)
        assert time.monotonic() - began < 2
    assert (answer.outcome, answer.answered) == (Outcome.AGAIN, False)


def test_no_time_is_no_request(receiver: Receiver) -> None:
    """Nothing is sent when the deadline is now."""
    assert ask(receiver.endpoint, request(1), timeout_s=0).outcome is Outcome.AGAIN
    assert not receiver.requests


def test_one_that_reads_slowly_is_given_up() -> None:
    """Each part of the request is taken soon, the whole too late."""

    def sip(collector: Rude, connection: socket.socket) -> None:
        while not collector.stopping.wait(0.02) and connection.recv(4096):
            pass

    with Rude(sip) as collector:
        began = time.monotonic()
        assert ask(collector.endpoint, bytes(32 << 20), 0.3).outcome is Outcome.AGAIN
        assert time.monotonic() - began < 2


def test_no_more_than_64_kib_of_an_answer_are_read() -> None:
    """Head or body without end: the rest stays unread, and the connection is not used again.

    It is taken for what its status says: we cut it off, and the next one would be as long.
    """
    sent: list[int] = []

    def flood(start: bytes) -> Callable[[Rude, socket.socket], None]:
        def behave(collector: Rude, connection: socket.socket) -> None:
            rude.read_request(connection)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 16)
            connection.sendall(start)
            with contextlib.suppress(OSError):
                while True:
                    connection.sendall(b"x: %s\r\n" % (b"y" * 2000))
                    sent.append(2000)

        return behave

    for start in (
        b"HTTP/1.1 200 OK\r\n",
        b"HTTP/1.1 200 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 100000000\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5f5e100\r\n",
    ):
        with Rude(flood(start)) as collector, connected(collector.endpoint) as client:
            assert client.send(b"", 20) == Answer(Outcome.DELIVERED)
            assert client.send(b"", 20) == Answer(Outcome.DELIVERED)
            assert collector.connections == 2
    assert sum(sent) < 100_000_000  # what the two sockets hold, and no more


# ---------------------------------------------------------------- answers that are cut off

CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
CUT_OFF = [
    b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n\x0a",
    b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\nConnection: close\r\n\r\n\x0a\x00",
    b"HTTP/1.0 200 OK\r\nContent-Length: 10\r\n\r\n\x0a\x00",
    CHUNKED,
    CHUNKED + b"2",
    CHUNKED + b"2\r\n\x0a",
    CHUNKED + b"2\r\n\x0a\x00",
    CHUNKED + b"2\r\n\x0a\x00\r\n",
    CHUNKED + b"2\r\n\x0a\x00\r\n0",
    CHUNKED + b"2\r\n\x0a\x00\r\n0\r\n",
    CHUNKED + b"rubbish\r\n",
    CHUNKED + b"0x2\r\n\x0a\x00\r\n0\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Length: 2, 2\r\n\r\n\x0a",
    b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\n\x0a",
    b"HTTP/1.1 200 OK\r\nContent-Length: 0, 2\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nContent-Length: 7\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 7, 2\r\n\r\n\x0a\x00",
    b"HTTP/1.1 200 OK\r\nContent-Length: two\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Length: -2\r\n\r\n",
    CHUNKED.replace(b": ", b": gzip, "),
    CHUNKED.replace(b": ", b": gzip\r\nTransfer-Encoding: ") + b"2\r\n\x0a\x00\r\n",
    CHUNKED.replace(b"chunked", b"gzip ,CHUNKED ") + b"2\r\n\x0a",
    OK.replace(b"200 OK", b"400 Bad Request").replace(b"h: 0", b"h: 9"),
    OK.replace(b"200 OK", b"413 Too Large").replace(b"h: 0", b"h: 9"),
]
CUT_OFF_IN_THE_HEAD = [
    b"HTTP/1.1 200",
    b"HTTP/1.1 200 OK",
    b"HTTP/1.1 200 OK\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Length: 1",
    b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Type: application/x-protobuf\r\n",
]


@pytest.mark.parametrize("tls", [False, True])
@pytest.mark.parametrize("said", CUT_OFF + CUT_OFF_IN_THE_HEAD)
def test_an_answer_that_is_cut_off_acknowledges_nothing(
    said: bytes, tls: bool, certificates: Certificates
) -> None:
    """Whatever its status says: fewer bytes came than were announced, and nobody knows why."""
    with Rude(always(said), tls=certificates.server_context() if tls else None) as collector:
        answer = ask(collector.endpoint, request(1), certificate=str(certificates.authority))
    assert answer.outcome is Outcome.AGAIN
    assert answer.answered == (said in CUT_OFF)
    assert "the answer was cut off" in answer.detail
    assert not answer.mistake


@pytest.mark.parametrize(
    "said",
    [
        b"HTTP/1.1 200 OK\r\n\r\n",  # ends with the connection, as HTTP/1.0 has it
        b"HTTP/1.0 200 OK\r\n\r\n\x0a\x00",
        b"HTTP/1.1 204 No Content\r\nContent-Length: 10\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\n\x0a\x00",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2, 2\r\n\r\n\x0a\x00",
        b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nContent-Length: 0\r\n\r\n",
        CHUNKED.replace(b": ", b": identity, ") + b"2\r\n\x0a\x00\r\n0\r\n\r\n",
        CHUNKED.replace(b"chunked", b"identity") + b"\x0a\x00",
        CHUNKED + b"1\r\n\x0a\r\n1;x=y\r\n\x00\r\n0\r\nX-Trailer: x\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\nX: y\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 103 Early Hints\r\nX: y\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
    ],
)
def test_an_answer_that_is_whole_acknowledges(said: bytes) -> None:
    """In each form in which HTTP announces its end."""
    with Rude(always(said)) as collector:
        assert ask(collector.endpoint, request(1)) == Answer(Outcome.DELIVERED)


def test_a_truncated_refusal_is_a_refusal() -> None:
    """Nothing is lost by believing it, and it says what has to be mended."""
    said = OK.replace(b"200 OK", b"401 Unauthorized").replace(b"h: 0", b"h: 9")
    with Rude(always(said)) as collector:
        answer = ask(collector.endpoint, request(1))
    assert (answer.outcome, answer.code) == (Outcome.AGAIN, "401")
    assert answer.mistake


def test_a_connection_that_is_reset_in_the_answer_acknowledges_nothing() -> None:
    """As when the collector is killed while it answers."""

    def behave(collector: Rude, connection: socket.socket) -> None:
        always(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n\x0a")(collector, connection)
        linger = b"\1\0\0\0\0\0\0\0"  # on, 0 s: close() sends a reset
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)

    with Rude(behave) as collector:
        assert ask(collector.endpoint, request(1)).outcome is Outcome.AGAIN


# ---------------------------------------------------------------- mistakes of the set-up

NOT_LET_IN = "the collector does not let us in"
NO_OTLP = "there is no OTLP at {endpoint}"
REDIRECTS = "the collector redirects what it is sent"
PATH = "correct the path: OTEL_EXPORTER_OTLP_ENDPOINT gets /v1/traces appended"
PAGE = {"Content-Type": "text/html"}


@pytest.mark.parametrize(
    ("status", "mistake", "to_do"),
    [
        (401, NOT_LET_IN, "set OTEL_EXPORTER_OTLP_HEADERS to what it wants"),
        (403, NOT_LET_IN, "set OTEL_EXPORTER_OTLP_HEADERS to what it wants"),
        (402, NOT_LET_IN, "set OTEL_EXPORTER_OTLP_HEADERS to what it wants"),  # over its quota
        (407, NOT_LET_IN, "set OTEL_EXPORTER_OTLP_HEADERS to what it wants"),
        (404, NO_OTLP, PATH),
        (405, NO_OTLP, PATH),
        (410, NO_OTLP, PATH),
        (415, NO_OTLP, PATH),
        (501, NO_OTLP, PATH),
        (301, REDIRECTS, "set OTEL_EXPORTER_OTLP_ENDPOINT to where it leads"),
        (308, REDIRECTS, "set OTEL_EXPORTER_OTLP_ENDPOINT to where it leads"),
        (400, "the collector takes none of the spans", "look at the collector's log"),
        (408, "", ""),
        (429, "", ""),
        (500, "", ""),
        (502, "", ""),
        (503, "", ""),
        (504, "", ""),
        (200, "", ""),
    ],
)
@pytest.mark.parametrize("page", [False, True])
def test_what_does_not_pass_by_itself_says_what_mends_it(
    receiver: Receiver, status: int, mistake: str, to_do: str, page: bool
) -> None:
    """A key, an address; what a restart or a pause of the collector mends says nothing."""
    receiver.answer = lambda _: (status, PAGE if page else {}, b"<html>" if page else b"")
    if page and status in (200, 500):  # gateways alone have pages that pass
        mistake, to_do = NO_OTLP, PATH
    answer = ask(receiver.endpoint, request(1))
    assert answer.mistake == mistake.format(endpoint=f"{receiver.endpoint}/v1/traces")
    assert answer.to_do.startswith(to_do)
    assert "<" not in answer.detail
    assert not mistake or f"{answer.mistake} (HTTP {status}" in answer.said
    assert mistake or answer.said == answer.detail


NO_NAME = "set OTEL_EXPORTER_OTLP_ENDPOINT to where it is"


@pytest.mark.parametrize(
    ("answer", "to_do"),
    [
        (Answer(Outcome.AGAIN, "HTTP 503"), "look at the collector's log"),
        (failed(socket.gaierror(-2, "Name or service not known")), NO_NAME),
        (Answer(Outcome.AGAIN, "gRPC UNAVAILABLE: errors resolving x:1", answered=False), NO_NAME),
        (failed(ConnectionRefusedError("nobody there")), ""),
        (failed(TimeoutError("not answered in time")), ""),
        (Answer(Outcome.AGAIN, "HTTP 401", mistake="known", to_do="this"), "this"),
    ],
)
def test_what_may_pass_and_lasts_is_a_mistake(answer: Answer, to_do: str) -> None:
    """Not that no collector answers: it is down, and nothing is lost."""
    lasts = lasting(answer, "spans")
    assert lasts.to_do == to_do
    assert bool(lasts.mistake) is bool(to_do)
    assert lasts.detail == answer.detail


@pytest.mark.parametrize("start", [b"<!DOCTYPE html>", b"\r\n <html lang='en'>", b"<HTML>"])
def test_a_page_is_known_by_how_it_begins(receiver: Receiver, start: bytes) -> None:
    """Some servers do not say what they send, or say something else."""
    receiver.answer = lambda _: (200, {"Content-Type": "text/plain"}, start + b"<p>hello")
    answer = ask(receiver.endpoint, request(1))
    assert answer.outcome is Outcome.AGAIN
    assert answer.detail == "HTTP 200 with a page: no collector"


@pytest.mark.parametrize(
    ("location", "shown"),
    [
        ("https://there:1/v1/traces", "https://there:1/v1/traces"),
        ("/login", "{endpoint}/login"),
        ("https://me:s3cret@there/x?key=s3cret", "https://…@there/x?…"),
        ("http://[::1/\x1b[31m", "http://[:…"),
    ],
)
def test_a_redirect_says_where_it_leads(receiver: Receiver, location: str, shown: str) -> None:
    """In whole, whatever form it has, but for passwords."""
    receiver.answer = refuse(302, location=location)
    answer = ask(receiver.endpoint, request(1))
    assert answer.detail == f"HTTP 302 Found to {shown.format(endpoint=receiver.endpoint)}"


def test_a_key_of_ours_is_in_nothing_that_is_shown(receiver: Receiver) -> None:
    """A collector that repeats what it was sent, in any of its forms, has it taken out."""
    basic = "Basic " + base64.b64encode(b"me:pass/w\xc3\xb6rd").decode()
    echo = f"{basic} pass/wörd pass%2Fw%C3%B6rd Bearer tok3n tok3n a%20key a key s3cret"
    headers = (("authorization", basic), ("x-auth", "Bearer tok3n"), ("x-key", "a key"))
    endpoint = receiver.endpoint + "/v1/traces?key=s3cret&x="
    for said in (echo, "x" * 290 + " tok3n tok3n"):
        for status in (401, 400, 503):
            receiver.answer = lambda _, status=status, said=said: (status, {}, said.encode())  # type: ignore[misc]
            answer = ask(endpoint, request(1), headers=headers)
            receiver.answer = partial_success(1, said)
            for shown in (answer, ask(endpoint, request(1), headers=headers)):
                assert re.search("x{100}|… …", shown.detail)
                for key in ("pass", "w%C3", "tok3n", "tok", "key", "s3cret", basic.split()[1]):
                    assert key not in shown.said
                assert len(shown.detail) <= 300


def test_a_basic_header_that_is_not_base64_is_sent_all_the_same(receiver: Receiver) -> None:
    """It is the collector's to judge."""
    receiver.answer = lambda _: (401, {}, b"no abcde")
    answer = ask(receiver.endpoint, request(1), headers=(("authorization", "Basic abcde"),))
    assert answer.detail == "HTTP 401 Unauthorized no …"


def test_a_port_of_another_protocol_is_named_in_the_detail(certificates: Certificates) -> None:
    """Not HTTP; no TLS; TLS of a stranger: none of them passes by itself."""
    http2 = bytes((0, 0, 0, 4, 0, 0, 0, 0, 0))  # what a gRPC server begins with
    for said in (http2, b"220 mail.example ESMTP\r\n", b"HTTP/1.1 OK\r\n\r\n"):
        with Rude(always(said)) as other:
            answer = ask(other.endpoint, request(1))
        assert answer.mistake == f"there is no OTLP at {other.endpoint}"
        assert answer.to_do.endswith("port for HTTP, usually 4318")
    with Rude(lambda _, c: c.sendall(said)) as plain:
        answer = ask(plain.endpoint.replace("http:", "https:"))
    assert answer.mistake == f"there is no TLS at https:{plain.endpoint[5:]}"
    assert answer.to_do == "write http:// in OTEL_EXPORTER_OTLP_ENDPOINT"
    with Rude(always(OK), tls=certificates.server_context()) as stranger:
        answer = ask(stranger.endpoint)
    assert answer.mistake == "the collector's certificate is not trusted"
    assert answer.to_do.startswith("set OTEL_EXPORTER_OTLP_CERTIFICATE")
    with Rude(rude.hang_up) as gone:
        assert not ask(gone.endpoint).mistake
    assert not ask(gone.endpoint).mistake


# ---------------------------------------------------------------- the connection


def test_one_connection_is_kept() -> None:
    """Several requests, chunked answers as well, and a single connection."""
    chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n\x0a\x00\r\n0\r\n\r\n"
    with Rude(always(OK, chunked, OK)) as collector, connected(collector.endpoint) as client:
        for _ in range(3):
            assert client.send(b"x", 5).outcome is Outcome.DELIVERED
        assert collector.connections == 1


def test_a_connection_that_is_closed_meanwhile_costs_nothing() -> None:
    """Collectors close idle connections, announced or not: the next request is no failure."""
    said = OK.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
    with Rude(always(said)) as collector, connected(collector.endpoint) as client:
        for count in range(1, 4):
            assert client.send(b"x", 5).outcome is Outcome.DELIVERED
            assert collector.connections == count
    closed = threading.Event()

    def close_silently(collector: Rude, connection: socket.socket) -> None:
        always(OK)(collector, connection)
        connection.close()
        closed.set()

    with Rude(close_silently) as collector, connected(collector.endpoint) as client:
        for _ in range(3):
            closed.clear()
            assert client.send(b"x", 5).outcome is Outcome.DELIVERED
            assert closed.wait(5)
        assert collector.connections == 3


def test_a_connection_that_was_reset_meanwhile_costs_nothing() -> None:
    """As when the collector's machine has started anew."""
    reset = threading.Event()

    def behave(collector: Rude, connection: socket.socket) -> None:
        always(OK)(collector, connection)
        linger = b"\1\0\0\0\0\0\0\0"  # on, 0 s: close() sends a reset
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        connection.close()
        reset.set()

    with Rude(behave) as collector, connected(collector.endpoint) as client:
        for _ in range(2):
            reset.clear()
            assert client.send(b"x", 5).outcome is Outcome.DELIVERED
            assert reset.wait(5)


def test_an_interrupt_ends_a_request_at_once() -> None:
    """From another thread; later requests do not begin, until the client begins anew."""
    with (
        Rude(rude.say_nothing) as collector,
        connected(collector.endpoint) as client,
        Receiver() as receiver,
    ):
        answers: list[Answer] = []
        thread = threading.Thread(target=lambda: answers.append(client.send(b"x", 30)))
        thread.start()
        collector.wait_for_connections(1)
        client.interrupt()
        thread.join(5)
        assert [answer.outcome for answer in answers] == [Outcome.AGAIN]
        with connected(receiver.endpoint) as other:
            other.interrupt()
            assert other.send(request(1), 5).outcome is Outcome.AGAIN
            assert not receiver.requests
            other.reset()
            assert other.send(request(1), 5).outcome is Outcome.DELIVERED
            other.interrupt()  # nothing is under way, but a kept connection
            assert other.send(request(2), 5).outcome is Outcome.AGAIN
        assert [span.name for span in receiver.spans] == ["span 1"]


def test_no_descriptor_is_left(receiver: Receiver) -> None:
    """Whichever way a request ended."""

    def count() -> int:
        return len(list(opened.iterdir()))

    opened = Path("/proc/self/fd")
    if not opened.is_dir():
        pytest.skip("no /proc")
    with Rude(rude.hang_up) as hangs_up:
        before = count()
        clients = [connect(receiver.endpoint), connect(hangs_up.endpoint)]
        for client in clients * 5:
            client.send(request(1), 5)
        for client in clients:
            client.reset()
        receiver.stop()
        hangs_up.stop()
        assert count() <= before


# ---------------------------------------------------------------- TLS


def test_a_collector_of_an_authority_of_our_own_is_known(certificates: Certificates) -> None:
    """Its certificate is checked against the file that was named, and nothing else."""
    with Rude(always(OK, OK), tls=certificates.server_context()) as collector:
        authority = str(certificates.authority)
        with connected(collector.endpoint, certificate=authority) as client:
            assert client.send(request(1, size=200_000), 5).outcome is Outcome.DELIVERED
            assert client.send(request(2), 5).outcome is Outcome.DELIVERED
            assert collector.connections == 1
        for stranger in (None, str(certificates.client)):
            answer = ask(collector.endpoint, certificate=stranger)
            assert (answer.outcome, answer.answered) == (Outcome.AGAIN, False)
            assert "certificate" in answer.detail.lower()


def test_a_client_certificate_is_shown(certificates: Certificates) -> None:
    """Certificate and key in two files or in one; without them the collector hangs up."""
    context = certificates.server_context(wants_client=True)
    with Rude(always(OK), tls=context) as collector:
        authority = str(certificates.authority)
        for settings in (
            {
                "client_certificate": str(certificates.client),
                "client_key": str(certificates.client_key),
            },
            {"client_certificate": str(certificates.client_both)},
        ):
            answer = ask(collector.endpoint, certificate=authority, **settings)
            assert answer.outcome is Outcome.DELIVERED
        answer = ask(collector.endpoint, certificate=authority)
        assert (answer.outcome, answer.answered) == (Outcome.AGAIN, False)


def test_certificates_that_cannot_be_used_are_named_at_set_up(
    certificates: Certificates, tmp_path: Path
) -> None:
    """Nothing asks for a password on the terminal."""
    garbage = tmp_path / "garbage.pem"
    garbage.write_text("no certificate")
    for name, settings in (
        ("OTLP_CERTIFICATE", {"certificate": str(garbage)}),
        ("OTLP_CLIENT_CERTIFICATE", {"client_certificate": str(garbage)}),
        ("OTLP_CLIENT_CERTIFICATE", {"client_certificate": str(certificates.client)}),
        (
            "OTLP_CLIENT_CERTIFICATE",
            {
                "client_certificate": str(certificates.client),
                "client_key": str(certificates.locked_key),
            },
        ),
        ("OTLP_CLIENT_KEY", {"client_key": str(certificates.client_key)}),
    ):
        with pytest.raises(ConfigurationError, match=name):
            connect("https://127.0.0.1:1", **settings)
        connect("http://127.0.0.1:1", **settings)  # has no meaning there


# ---------------------------------------------------------------- instrumentations


def test_what_is_sent_is_not_observed() -> None:
    """OpenTelemetry's instrumentations find each key by which they can be told so."""
    context = unobserved()
    for key in (
        "suppress_instrumentation",
        otel_context._SUPPRESS_INSTRUMENTATION_KEY,
        getattr(otel_context, "_SUPPRESS_HTTP_INSTRUMENTATION_KEY", "suppress_instrumentation"),
    ):
        assert otel_context.get_value(key, context) is True


def test_neither_the_package_nor_http_imports_grpc(tmp_path: Path) -> None:
    """It takes its time, and starts threads."""
    script = (
        "import sys, otel_logging\n"
        "assert 'grpc' not in sys.modules\n"
        "otel_logging.setup_observability('shop', endpoint='http://127.0.0.1:1',"
        f" spool_dir={str(tmp_path / 'spool')!r}).shutdown()\n"
        "assert 'grpc' not in sys.modules\n"
    )
    good(python("-c", script))


# ---------------------------------------------------------------- descriptors of others

posix = pytest.mark.skipif(os.name != "posix", reason="POSIX: a socket is a descriptor")


@posix
@pytest.mark.parametrize("other", ["a file", "a socket", "nothing"])
@pytest.mark.parametrize("tls", [False, True])
def test_a_kept_connection_whose_number_is_another_s_is_left_alone(
    other: str, certificates: Certificates, tls: bool
) -> None:
    """Something has closed everything: no byte to that number, which stays as it is."""
    secured = {"certificate": str(certificates.authority)} if tls else {}
    server = certificates.server_context() if tls else None
    with Rude(always(OK), tls=server) as rude, connected(rude.endpoint, **secured) as client:
        assert client.send(b"first", 5).outcome is Outcome.DELIVERED
        fd = client._socket.fileno()  # type: ignore[attr-defined]
        near, far = socket.socketpair()
        if other == "a file":
            os.dup2(os.memfd_create("data"), fd)
        elif other == "a socket":
            os.dup2(near.fileno(), fd)
        else:
            os.close(fd)
        client.interrupt()
        assert client.send(b"interrupted", 5).outcome is Outcome.AGAIN
        client.reset()
        assert client.send(b"second", 5).outcome is Outcome.DELIVERED
        assert rude.connections == 2
        if other == "a socket":
            far.sendall(b"not read")
            far.setblocking(False)
            with pytest.raises(BlockingIOError):
                far.recv(1)
        if other != "nothing":
            assert os.get_blocking(fd)
            os.close(fd)
        near.close()
        far.close()


@posix
def test_a_kept_connection_is_looked_at_before_each_request(tmp_path: Path) -> None:
    """Without a reset in between."""
    with Rude(always(OK)) as rude, connected(rude.endpoint) as client:
        assert client.send(b"first", 5).outcome is Outcome.DELIVERED
        fd = client._socket.fileno()  # type: ignore[attr-defined]
        with (tmp_path / "data").open("wb") as other:
            os.dup2(other.fileno(), fd)
        assert client.send(b"second", 5).outcome is Outcome.DELIVERED
        os.close(fd)
        assert (tmp_path / "data").read_bytes() == b""
        assert rude.connections == 2


def test_a_connection_that_fails_at_once_is_an_error() -> None:
    """Some failures are known without a wait."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        line = Socket(socket.AF_INET, socket.SOCK_STREAM, 0)
        line.deadline = time.monotonic() + 5
        line.connect(server.getsockname())
        line.connect(server.getsockname())  # Linux says once that it is done
        with pytest.raises(OSError, match=os.strerror(errno.EISCONN)):
            line.connect(server.getsockname())
        line.abandon()
        assert line.fileno() == -1


@posix
def test_a_number_that_changes_hands_within_a_request_ends_it(tmp_path: Path) -> None:
    """Each part of it is for the connection that it began on; over TLS it would be a file's."""
    line = Socket(socket.AF_INET, socket.SOCK_STREAM, 0)
    with (tmp_path / "data").open("wb") as other:
        line.deadline, line.allowance = time.monotonic() + 5, 10
        fd = line.fileno()
        os.dup2(other.fileno(), fd)
        with pytest.raises(OSError, match=os.strerror(errno.EBADF)):
            line.sendall(b"span")
        with pytest.raises(OSError, match=os.strerror(errno.EBADF)):
            io.BufferedReader(Received(line)).read(10)
        line.abandon()
        os.close(fd)
    assert (tmp_path / "data").read_bytes() == b""
