"""What becomes of one OTLP/HTTP request, with collectors of every temper."""

import contextlib
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import pytest
from opentelemetry import context as otel_context

from otel_logging import _otlp
from otel_logging.export.transport import Answer, Client, Verdict, make_client, unobserved
from otel_logging.settings import ConfigurationError, Exporter
from tests import rude
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
    assert answer == Answer(Verdict.DELIVERED)
    assert [span.name for span in receiver.spans] == ["span 1", "span 2"]
    assert receiver.spans[0].resource == {"service.name": "shop"}
    (came,) = receiver.requests
    assert came.headers["x-api-key"] == "a b"
    assert came.headers["content-type"] == "application/x-protobuf"
    assert came.headers["user-agent"] == "otel-logging"
    assert came.headers["host"] == f"127.0.0.1:{receiver.port}"


def test_gzip_packs_the_body(receiver: Receiver) -> None:
    """With compression asked for, the request is small and arrives whole."""
    assert ask(receiver.endpoint, request(1, size=10_000), gzip=True).verdict is Verdict.DELIVERED
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
        assert ask(collector.endpoint).verdict is Verdict.DELIVERED


def test_nothing_is_asked_but_the_endpoint(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Proxies and .netrc of the environment have no say."""
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    (Path(os.environ["HOME"]) / ".netrc").write_text("machine 127.0.0.1 login a password b")
    assert ask(receiver.endpoint, request(1)).verdict is Verdict.DELIVERED
    assert "authorization" not in receiver.requests[0].headers


def test_headers_that_cannot_be_sent_are_named_at_set_up() -> None:
    """A line break in a value would end the head; the value, which may be a key, is not shown."""
    for name, value in (("a", "secret\r\nx: y"), ("a", "secret-é"), ("a b", "secret"), ("", "")):
        with pytest.raises(ConfigurationError, match="OTEL_EXPORTER_OTLP_HEADERS") as raised:
            connect("http://127.0.0.1:1", headers=((name, value),))
        assert "secret" not in str(raised.value)


# ---------------------------------------------------------------- what is answered


@pytest.mark.parametrize(
    ("status", "verdict"),
    [
        (202, Verdict.DELIVERED),
        (301, Verdict.AGAIN),
        (400, Verdict.REFUSED),
        (401, Verdict.AGAIN),
        (404, Verdict.AGAIN),
        (413, Verdict.TOO_LARGE),
        (422, Verdict.REFUSED),
        (429, Verdict.AGAIN),
        (500, Verdict.AGAIN),
        (503, Verdict.AGAIN),
    ],
)
def test_a_status_has_a_meaning(receiver: Receiver, status: int, verdict: Verdict) -> None:
    """Bad data is refused, too much is halved, everything else that is no success comes again."""
    receiver.answer = refuse(status)
    answer = ask(receiver.endpoint, request(1))
    assert answer.verdict is verdict
    assert answer.answered
    assert verdict is Verdict.DELIVERED or f"HTTP {status}" in answer.detail


def test_a_redirect_is_not_followed(receiver: Receiver) -> None:
    """What is sent may hold keys: it goes where it was told to go."""
    with Receiver() as other:
        receiver.answer = refuse(307, location=other.endpoint + "/v1/traces")
        assert ask(receiver.endpoint, request(1)).verdict is Verdict.AGAIN
        assert not other.requests


def test_retry_after_is_read_as_seconds_and_as_a_date(receiver: Receiver) -> None:
    """Anything else is as if it were not there."""
    later = format_datetime(datetime.now(UTC) + timedelta(seconds=100), usegmt=True)
    for text, least, most in (
        ("7", 7, 7),
        (" 0 ", 0, 0),
        (later, 90, 100),
        ("Sun, 06 Nov 1994 08:49:37 GMT", 0, 0),
    ):
        receiver.answer = refuse(503, retry_after=text)
        after_s = ask(receiver.endpoint, request(1)).after_s
        assert after_s is not None
        assert least <= after_s <= most
    for text in ("soon", "-1", "1.5", "", "9" * 400, "Sun, 99 Nov 1994 08:49:37 GMT"):
        receiver.answer = refuse(429, retry_after=text)
        after_s = ask(receiver.endpoint, request(1)).after_s
        assert after_s is None or after_s == float("inf")


def test_a_partial_success_says_how_many_were_rejected(receiver: Receiver) -> None:
    """With the collector's words, which are made safe for a terminal; a negative count is none."""
    receiver.answer = partial_success(2, "no \x1b[31mroom\n" + "x" * 1000)
    answer = ask(receiver.endpoint, request(1, 2, 3))
    assert (answer.verdict, answer.rejected_spans) == (Verdict.DELIVERED, 2)
    assert answer.detail.startswith("no [31mroom xxx")
    assert len(answer.detail) <= 300
    receiver.answer = partial_success(-5)
    assert ask(receiver.endpoint, request(1)).rejected_spans == 0


def test_an_answer_that_is_no_protobuf_is_an_answer(receiver: Receiver) -> None:
    """Some gateways say "ok"."""
    receiver.answer = lambda _: (200, {}, b"\xff\xffok")
    assert ask(receiver.endpoint, request(1)) == Answer(Verdict.DELIVERED)


def test_a_server_of_pages_is_no_collector(receiver: Receiver) -> None:
    """Jaeger's own port, say: it answers everything with its page, and would have taken nothing."""
    page = b"<!doctype html><title>Jaeger UI</title>"
    receiver.answer = lambda _: (200, {"Content-Type": "text/html; charset=utf-8"}, page)
    answer = ask(receiver.endpoint, request(1))
    assert answer.verdict is Verdict.AGAIN
    assert answer.detail == "HTTP 200 with a page: no collector"


def test_what_a_collector_says_of_an_error_is_told(receiver: Receiver) -> None:
    """On one line, without control characters."""
    receiver.answer = lambda _: (404, {}, b"\x08\x05\x12\x0aunknown\r\ntenant\xff")
    assert ask(receiver.endpoint, request(1)).detail == "HTTP 404 Not Found unknown tenant"


def test_nobody_there_is_no_answer() -> None:
    """Refused, no such name, no HTTP: nothing raises, and there is no collector."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    answer = ask(f"http://127.0.0.1:{port}")
    assert (answer.verdict, answer.answered) == (Verdict.AGAIN, False)
    assert "ConnectionRefusedError" in answer.detail
    assert not ask("http://" + "a" * 70 + ":1").answered
    for said in (b"", b"220 mail.example ESMTP\r\n", b"HTTP/1.1 abc\r\n\r\n"):
        with Rude(always(said)) as collector:
            answer = ask(collector.endpoint)
        assert (answer.verdict, answer.answered) == (Verdict.AGAIN, False)


# ---------------------------------------------------------------- the deadline


@pytest.mark.parametrize(
    ("behave", "size", "verdict"),
    [
        (rude.say_nothing, 1, Verdict.AGAIN),
        (rude.read_nothing, 32 << 20, Verdict.AGAIN),  # more than the system keeps for it
        (rude.drip_head, 1, Verdict.AGAIN),
        (rude.drip_body, 1, Verdict.DELIVERED),  # the status was there
    ],
)
@pytest.mark.parametrize("tls", [False, True])
def test_a_request_is_done_by_its_deadline(
    behave: Callable[[Rude, socket.socket], None],
    size: int,
    verdict: Verdict,
    tls: bool,
    certificates: Certificates,
) -> None:
    """Also where every single operation on the socket succeeds soon."""
    with Rude(behave, tls=certificates.server_context() if tls else None) as collector:
        certificate = str(certificates.authority) if tls else None
        with connected(collector.endpoint, certificate=certificate) as client:
            began = time.monotonic()
            answer = client.send(bytes(size), 0.5)
            took = time.monotonic() - began
            assert answer.verdict is verdict
            assert 0.4 < took < 2


def test_a_connection_that_never_speaks_tls_is_given_up() -> None:
    """The handshake has the same deadline."""
    with Rude(rude.read_nothing) as collector:
        began = time.monotonic()
        answer = ask(collector.endpoint.replace("http:", "https:"), timeout_s=0.3)
        assert time.monotonic() - began < 2
    assert (answer.verdict, answer.answered) == (Verdict.AGAIN, False)


def test_no_time_is_no_request(receiver: Receiver) -> None:
    """Nothing is sent when the deadline is now."""
    assert ask(receiver.endpoint, request(1), timeout_s=0).verdict is Verdict.AGAIN
    assert not receiver.requests


def test_one_that_reads_slowly_is_given_up() -> None:
    """Each part of the request is taken soon, the whole too late."""

    def sip(collector: Rude, connection: socket.socket) -> None:
        while not collector.stopping.wait(0.02) and connection.recv(4096):
            pass

    with Rude(sip) as collector:
        began = time.monotonic()
        assert ask(collector.endpoint, bytes(32 << 20), 0.5).verdict is Verdict.AGAIN
        assert time.monotonic() - began < 2


def test_no_more_than_64_kib_of_an_answer_are_read() -> None:
    """Head or body without end: the rest stays unread, and the connection is not used again."""
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
    ):
        with Rude(flood(start)) as collector, connected(collector.endpoint) as client:
            assert client.send(b"", 20) == Answer(Verdict.DELIVERED)
            assert client.send(b"", 20) == Answer(Verdict.DELIVERED)
            assert collector.connections == 2
    assert sum(sent) < 100_000_000  # what the two sockets hold, and no more


# ---------------------------------------------------------------- the connection


def test_one_connection_is_kept() -> None:
    """Several requests, chunked answers as well, and a single connection."""
    chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n\x0a\x00\r\n0\r\n\r\n"
    with Rude(always(OK, chunked, OK)) as collector, connected(collector.endpoint) as client:
        for _ in range(3):
            assert client.send(b"x", 5).verdict is Verdict.DELIVERED
        assert collector.connections == 1


def test_a_connection_that_is_closed_meanwhile_costs_nothing() -> None:
    """Collectors close idle connections, announced or not: the next request is no failure."""
    said = OK.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
    with Rude(always(said)) as collector, connected(collector.endpoint) as client:
        for count in range(1, 4):
            assert client.send(b"x", 5).verdict is Verdict.DELIVERED
            assert collector.connections == count
    closed = threading.Event()

    def close_silently(collector: Rude, connection: socket.socket) -> None:
        always(OK)(collector, connection)
        connection.close()
        closed.set()

    with Rude(close_silently) as collector, connected(collector.endpoint) as client:
        for _ in range(3):
            closed.clear()
            assert client.send(b"x", 5).verdict is Verdict.DELIVERED
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
            assert client.send(b"x", 5).verdict is Verdict.DELIVERED
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
        assert [answer.verdict for answer in answers] == [Verdict.AGAIN]
        with connected(receiver.endpoint) as other:
            other.interrupt()
            assert other.send(request(1), 5).verdict is Verdict.AGAIN
            assert not receiver.requests
            other.reset()
            assert other.send(request(1), 5).verdict is Verdict.DELIVERED
            other.interrupt()  # nothing is under way, but a kept connection
            assert other.send(request(2), 5).verdict is Verdict.AGAIN
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
            assert client.send(request(1, size=200_000), 5).verdict is Verdict.DELIVERED
            assert client.send(request(2), 5).verdict is Verdict.DELIVERED
            assert collector.connections == 1
        for stranger in (None, str(certificates.client)):
            answer = ask(collector.endpoint, certificate=stranger)
            assert (answer.verdict, answer.answered) == (Verdict.AGAIN, False)
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
            assert answer.verdict is Verdict.DELIVERED
        answer = ask(collector.endpoint, certificate=authority)
        assert (answer.verdict, answer.answered) == (Verdict.AGAIN, False)


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
        "assert not {'http.client', 'grpc'} & {*sys.modules}\n"
        "otel_logging.setup_observability('shop', endpoint='http://127.0.0.1:1',"
        f" spool_dir={str(tmp_path / 'spool')!r}).shutdown()\n"
        "assert 'grpc' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True, timeout=60)
