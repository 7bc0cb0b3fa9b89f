"""What becomes of one OTLP/gRPC request, at a real gRPC server."""

import contextlib
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent import futures
from pathlib import Path
from typing import Any

import grpc
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse

from otel_logging.assembly import make_client
from otel_logging.export.outcome import Answer, Client, Outcome
from otel_logging.settings import ConfigurationError, Exporter
from tests import rude
from tests.programs import good, python
from tests.receiver import decode_spans
from tests.rude import Certificates, Rude
from tests.test_transport import request

ROOT = Path(__file__).parent.parent
EXPORT = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"
CODES = grpc.StatusCode


class Collector:
    """A gRPC server that keeps what came; *answer* gets the call's context."""

    def __init__(self, *, credentials: Any = None, host: str = "127.0.0.1") -> None:
        self.answer: Callable[[Any], bytes] = lambda _: b""
        self.bodies: list[bytes] = []
        self.metadata: list[dict[str, str | bytes]] = []
        self._server = grpc.server(
            futures.ThreadPoolExecutor(4),
            options=(("grpc.max_receive_message_length", 100_000), ("grpc.so_reuseport", 0)),
        )
        handler = grpc.unary_unary_rpc_method_handler(self._export)
        service, method = EXPORT.strip("/").split("/")
        self._server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler(service, {method: handler}),)
        )
        if credentials is None:
            self.port = self._server.add_insecure_port(f"{host}:0")
        else:
            self.port = self._server.add_secure_port(f"{host}:0", credentials)
        self.endpoint = f"http{'s' if credentials else ''}://{host}:{self.port}"
        self._server.start()

    def __enter__(self) -> "Collector":
        return self

    def __exit__(self, *_: object) -> None:
        self._server.stop(None).wait()

    def _export(self, body: bytes, context: Any) -> bytes:
        self.bodies.append(body)
        self.metadata.append(dict(context.invocation_metadata()))
        return self.answer(context)

    def names(self) -> list[str]:
        return [span.name for body in self.bodies for span in decode_spans(body)]


@pytest.fixture
def collector() -> Iterator[Collector]:
    with Collector() as running:
        yield running


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return rude.make_certificates(tmp_path_factory.mktemp("certificates"))


def connect(endpoint: str, **settings: Any) -> Client:
    return make_client(Exporter(endpoint=endpoint, protocol="grpc", **settings))


def abort(code: grpc.StatusCode, details: str = "no") -> Callable[[Any], bytes]:
    def answer(context: Any) -> bytes:
        context.abort(code, details)
        raise AssertionError

    return answer


def test_a_request_arrives_as_it_was_made(collector: Collector) -> None:
    """The spans are there, and the headers asked for, their names in lower case."""
    client = connect(collector.endpoint, headers=(("X-Api-Key", "a b"),))
    assert client.send(request(1, 2), 5) == Answer(Outcome.DELIVERED)
    assert collector.names() == ["span 1", "span 2"]
    assert collector.metadata[0]["x-api-key"] == "a b"


def _pump(source: socket.socket, sink: socket.socket, sizes: list[int]) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            sizes.append(len(data))
            sink.sendall(data)
        sink.shutdown(socket.SHUT_WR)


@contextlib.contextmanager
def relayed(endpoint: str) -> Iterator[tuple[str, list[int]]]:
    """Give an endpoint that leads to *endpoint*, for one connection, and what is sent, in sizes."""
    sent: list[int] = []
    port = int(endpoint.rpartition(":")[2])
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def run() -> None:
            client, _ = listening.accept()
            with client, socket.create_connection(("127.0.0.1", port)) as server:
                back = threading.Thread(target=_pump, args=(server, client, []))
                back.start()
                _pump(client, server, sent)
                back.join()

        thread = threading.Thread(target=run)
        thread.start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}", sent
        thread.join(10)


@pytest.mark.parametrize("gzip", [True, False])
def test_gzip_packs_the_request(gzip: bool, collector: Collector) -> None:
    """It arrives whole, and is a small part of that on its way."""
    with relayed(collector.endpoint) as (endpoint, sent):
        client = connect(endpoint, gzip=gzip)
        assert client.send(request(1, size=90_000), 5).outcome is Outcome.DELIVERED
    assert collector.bodies == [request(1, size=90_000)]
    assert (sum(sent) < 10_000) == gzip


@pytest.mark.parametrize(
    ("code", "outcome", "answered"),
    [
        (CODES.INVALID_ARGUMENT, Outcome.REFUSED, True),
        (CODES.UNAVAILABLE, Outcome.AGAIN, False),  # also what a call says when nobody is there
        (CODES.UNAUTHENTICATED, Outcome.AGAIN, True),
        (CODES.UNIMPLEMENTED, Outcome.AGAIN, True),
        (CODES.INTERNAL, Outcome.AGAIN, True),
        (CODES.RESOURCE_EXHAUSTED, Outcome.AGAIN, True),
    ],
)
def test_a_status_has_a_meaning(
    collector: Collector, code: grpc.StatusCode, outcome: Outcome, answered: bool
) -> None:
    """Bad data is refused, everything else that is no success comes again."""
    collector.answer = abort(code, "not\nlike this")
    answer = connect(collector.endpoint).send(request(1), 5)
    assert answer._replace(mistake="", to_do="") == Answer(
        outcome, f"gRPC {code.name}: not like this", answered=answered, code=code.name
    )


@pytest.mark.parametrize(
    ("code", "mistake"),
    [
        (CODES.UNAUTHENTICATED, "the collector does not let us in"),
        (CODES.PERMISSION_DENIED, "the collector does not let us in"),
        (CODES.UNIMPLEMENTED, "there is no OTLP at {endpoint}"),
        (CODES.INVALID_ARGUMENT, "the collector takes none of the spans"),
        (CODES.UNAVAILABLE, ""),
        (CODES.DEADLINE_EXCEEDED, ""),
        (CODES.RESOURCE_EXHAUSTED, ""),
        (CODES.ABORTED, ""),
        (CODES.OUT_OF_RANGE, ""),
        (CODES.DATA_LOSS, ""),
        (CODES.NOT_FOUND, "the collector takes none of the spans"),
        (CODES.FAILED_PRECONDITION, "the collector takes none of the spans"),
        (CODES.ALREADY_EXISTS, "the collector takes none of the spans"),
        (CODES.INTERNAL, "the collector takes none of the spans"),
        (CODES.UNKNOWN, "the collector takes none of the spans"),
    ],
)
def test_what_does_not_pass_by_itself_says_what_mends_it(
    collector: Collector, code: grpc.StatusCode, mistake: str
) -> None:
    """As over HTTP; a key that the server repeats is taken out."""
    collector.answer = abort(code, "not with Bearer tok3n")
    headers = (("authorization", "Bearer tok3n"),)
    answer = connect(collector.endpoint, headers=headers).send(request(1), 5)
    assert answer.mistake == mistake.format(endpoint=collector.endpoint)
    assert bool(answer.to_do) == bool(mistake)
    assert answer.detail == f"gRPC {code.name}: not with …"


def test_grpc_to_an_http_port_names_the_protocol() -> None:
    """gRPC's own words for it are found."""

    def behave(_: Rude, connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
        connection.recv(65536)

    with Rude(behave) as http:
        endpoint = http.endpoint.removesuffix("/v1/traces")
        answer = connect(endpoint).send(request(1), 5)
    assert answer.mistake == f"there is no OTLP at {endpoint}"
    assert answer.to_do.endswith("port for gRPC, usually 4317")


def answer_with(*frames: bytes, hangs: bool = False) -> Callable[[Rude, socket.socket], None]:
    """Answer a call by frames of HTTP/2 (RFC 9113, RFC 7541) of the stream 1."""

    def behave(collector: Rude, connection: socket.socket) -> None:
        connection.sendall(bytes((0, 0, 0, 4, 0, 0, 0, 0, 0)))  # SETTINGS
        received = b""
        while b"application/grpc" not in received and (more := connection.recv(65536)):
            received += more
        connection.sendall(b"".join(frames))
        if hangs:
            collector.stopping.wait(10)

    return behave


def headers(block: bytes, *, last: bool) -> bytes:
    return bytes((0, 0, len(block), 1, 5 if last else 4, 0, 0, 0, 1)) + block


#: ":status 200" and a content type; an empty message of gRPC. The trailers with its status are
#: missing.
BEGUN = (
    headers(b"\x88\x0f\x10\x10application/grpc", last=False),
    bytes((0, 0, 5, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0)),
)
TRAILERS = headers(b"\x00\x0bgrpc-status\x010", last=True)


@pytest.mark.parametrize("hangs", [False, True])
def test_an_answer_that_is_cut_off_acknowledges_nothing(hangs: bool) -> None:
    """The message alone is not the whole answer: its status comes last."""
    with Rude(answer_with(*BEGUN, hangs=hangs)) as collector:
        client = connect(collector.endpoint.removesuffix("/v1/traces"))
        answer = client.send(request(1), 1 if hangs else 10)
    assert answer.outcome is Outcome.AGAIN
    assert answer.code == ("DEADLINE_EXCEEDED" if hangs else "UNAVAILABLE")
    assert not answer.mistake
    with Rude(answer_with(*BEGUN, TRAILERS, hangs=True)) as collector:
        client = connect(collector.endpoint.removesuffix("/v1/traces"))
        assert client.send(request(1), 10) == Answer(Outcome.DELIVERED)


@pytest.mark.parametrize(
    ("block", "passes"),
    [
        (b"\x08\x03301", False),
        (b"\x08\x03405", False),
        (b"\x8c", False),  # 400
        (b"\x8d", False),  # 404
        (b"\x88\x0f\x10\x09text/html", False),  # 200
        (b"\x08\x03503", True),
        (b"\x8e", True),  # 500
    ],
)
def test_a_server_of_pages_is_no_collector(block: bytes, passes: bool) -> None:
    """It speaks HTTP/2 as gRPC does: a redirect, a wrong port, a page."""
    with Rude(answer_with(headers(block, last=True), hangs=True)) as server:
        endpoint = server.endpoint.removesuffix("/v1/traces")
        answer = connect(endpoint).send(request(1), 10)
    assert answer.outcome is Outcome.AGAIN
    assert answer.mistake == ("" if passes else f"there is no OTLP at {endpoint}")


def test_a_request_over_the_servers_limit_is_too_large(collector: Collector) -> None:
    """To be sent in halves."""
    answer = connect(collector.endpoint).send(request(1, 2, size=60_000), 5)
    assert answer.outcome is Outcome.REFUSED
    assert not collector.bodies


def test_no_more_than_64_kib_of_an_answer_are_read(collector: Collector) -> None:
    """An answer that long was given to spans that were taken."""
    collector.answer = lambda _: bytes(100_000)
    assert connect(collector.endpoint).send(request(1), 5).outcome is Outcome.DELIVERED


def test_a_partial_success_says_how_many_were_rejected(collector: Collector) -> None:
    """As over HTTP."""
    response = ExportTraceServiceResponse()
    response.partial_success.rejected_spans = 2
    response.partial_success.error_message = "no room"
    collector.answer = lambda _: response.SerializeToString()
    assert connect(collector.endpoint).send(request(1, 2), 5) == Answer(
        Outcome.DELIVERED, "no room", rejected_spans=2
    )


def test_a_call_that_is_reset_passes_by_itself() -> None:
    """The library calls it INTERNAL, as a server calls its own errors."""
    reset = bytes((0, 0, 4, 3, 0, 0, 0, 0, 1, 0, 0, 0, 2))  # RST_STREAM: INTERNAL_ERROR
    with Rude(answer_with(reset, hangs=True)) as server:
        answer = connect(server.endpoint.removesuffix("/v1/traces")).send(request(1), 10)
    assert (answer.outcome, answer.code, answer.mistake) == (Outcome.AGAIN, "INTERNAL", "")


@pytest.mark.parametrize("behave", [rude.read_nothing, rude.hang_up])
def test_a_request_is_done_by_its_deadline(
    behave: Callable[[Rude, Any], None], collector: Collector
) -> None:
    """Whether the server is slow, or no gRPC server at all."""
    with Rude(behave) as no_grpc:
        began = time.monotonic()
        answer = connect(no_grpc.endpoint).send(request(1), 0.5)
        assert (answer.outcome, answer.answered) == (Outcome.AGAIN, False)
        assert time.monotonic() - began < 3
    release = threading.Event()
    collector.answer = lambda _: bytes(not release.wait(10))
    began = time.monotonic()
    assert connect(collector.endpoint).send(request(1), 0.5).outcome is Outcome.AGAIN
    assert time.monotonic() - began < 3
    release.set()


def test_an_interrupt_ends_a_request_at_once() -> None:
    """From another thread; later requests do not begin, until the client begins anew."""
    with Rude(rude.read_nothing) as silent:
        client = connect(silent.endpoint)
        client.interrupt()
        assert client.send(request(1), 30).outcome is Outcome.AGAIN
        assert not silent.connections
        client.reset()
        answers: list[Answer] = []
        thread = threading.Thread(target=lambda: answers.append(client.send(request(1), 30)))
        thread.start()
        silent.wait_for_connections(1)
        client.interrupt()
        thread.join(10)
        assert [answer.outcome for answer in answers] == [Outcome.AGAIN]


def test_tls_with_an_authority_and_a_certificate_of_our_own(certificates: Certificates) -> None:
    """Key and certificate in two files or in one; strangers of either side do not speak."""
    credentials = grpc.ssl_server_credentials(
        [(certificates.server_key.read_bytes(), certificates.server.read_bytes())],
        certificates.authority.read_bytes(),
        require_client_auth=True,
    )
    authority = {"certificate": str(certificates.authority)}
    known: list[dict[str, str]] = [
        {
            "client_certificate": str(certificates.client),
            "client_key": str(certificates.client_key),
        },
        {"client_certificate": str(certificates.client_both)},
    ]
    with Collector(credentials=credentials) as collector:
        for number, client in enumerate(known, 1):
            answer = connect(collector.endpoint, **authority, **client).send(request(number), 5)
            assert answer.outcome is Outcome.DELIVERED
        assert collector.names() == ["span 1", "span 2"]
        for settings in (authority, known[0]):
            answer = connect(collector.endpoint, **settings).send(request(3), 5)
            assert (answer.outcome, answer.answered) == (Outcome.AGAIN, False)


def test_an_ipv6_address_is_an_endpoint() -> None:
    """Its brackets stay, as gRPC wants them."""
    try:
        collector = Collector(host="[::1]")
    except RuntimeError:
        pytest.skip("no IPv6 on this machine")
    with collector:
        assert connect(collector.endpoint).send(request(1), 5).outcome is Outcome.DELIVERED


def test_proxies_have_no_say(collector: Collector, monkeypatch: pytest.MonkeyPatch) -> None:
    """gRPC would obey these variables."""
    for name in ("grpc_proxy", "http_proxy", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    assert connect(collector.endpoint).send(request(1), 5).outcome is Outcome.DELIVERED


def test_what_cannot_be_sent_is_named_at_set_up(tmp_path: Path) -> None:
    """Headers and certificates, as over HTTP."""
    with pytest.raises(ConfigurationError, match="OTEL_EXPORTER_OTLP_HEADERS"):
        connect("http://127.0.0.1:1", headers=(("a b", "c"),))
    garbage = tmp_path / "garbage.pem"
    garbage.write_text("no certificate")
    with pytest.raises(ConfigurationError, match="OTEL_EXPORTER_OTLP_CERTIFICATE"):
        connect("https://127.0.0.1:1", certificate=str(garbage))


def test_certificates_that_are_gone_are_no_answer(
    certificates: Certificates, tmp_path: Path
) -> None:
    """They are read for each connection, so that renewed ones are used; nothing raises."""
    moved = tmp_path / "authority.pem"
    moved.write_bytes(certificates.authority.read_bytes())
    client = connect("https://127.0.0.1:1", certificate=str(moved))
    moved.unlink()
    answer = client.send(request(1), 5)
    assert (answer.outcome, answer.answered) == (Outcome.AGAIN, False)
    assert "FileNotFoundError" in answer.detail


def test_without_grpcio_the_error_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is an extra."""
    monkeypatch.setitem(sys.modules, "grpc", None)
    with pytest.raises(ConfigurationError, match=r"pip install 'otel-logging\[grpc\]'"):
        connect("http://127.0.0.1:4317")


FORK = """
import os, sys, threading
from otel_logging.assembly import make_client
from otel_logging.settings import Exporter
from tests.test_transport import request
client = make_client(Exporter(endpoint=sys.argv[1], protocol="grpc"))
print(client.send(request(1), 5).outcome.name, flush=True)
{before}
pid = os.fork()
if pid == 0:
    client.interrupt()  # as at the child's end
    client.reset()
    print(client.send(request(2), 5), flush=True)
    sys.exit()  # not _exit: the coverage of the child counts
os.waitpid(pid, 0)
{after}
print(client.send(request(3), 5).outcome.name, flush=True)
"""


def forked(endpoint: str, *, before: str = "", after: str = "") -> list[str]:
    program = FORK.format(before=before, after=after)
    done = good(python("-W", "ignore", "-c", program, endpoint))
    return [str(line) for line in done.stdout.splitlines()]


def test_parent_and_child_of_a_fork_both_send(collector: Collector) -> None:
    """gRPC's core does not survive a fork in use: between two requests it is not."""
    first, child, parent = forked(collector.endpoint)
    assert (first, parent) == ("DELIVERED", "DELIVERED")
    assert "DELIVERED" in child
    assert collector.names() == ["span 1", "span 2", "span 3"]


def test_a_child_forked_during_a_request_reports_that_it_cannot_send(
    collector: Collector, tmp_path: Path
) -> None:
    """It does not touch the parent's call, and hangs in none of its own; its spans wait on disk."""
    arrived, release = tmp_path / "arrived", threading.Event()

    def answer(_: Any) -> bytes:
        if len(collector.bodies) == 2:
            arrived.touch()
            release.wait(30)
        return b""

    collector.answer = answer
    first, child, parent = forked(
        collector.endpoint,
        before=(
            "thread = threading.Thread(target=client.send, args=(request(4), 2))\n"
            "thread.start()\n"
            f"while not os.path.exists({str(arrived)!r}): pass"
        ),
        after="thread.join()",
    )
    release.set()
    assert (first, parent) == ("DELIVERED", "DELIVERED")
    assert "forked during a gRPC call" in child
