"""What is at the other end of a port."""

import socket
import struct
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from otel_logging.doctor import ports
from otel_logging.doctor.ports import Speech, reach, speech
from tests.jaeger import FakeJaeger
from tests.rude import Rude, hang_up, make_certificates
from tests.test_transport_grpc import Collector


def test_a_port_that_answers_is_reached() -> None:
    """Nothing is said of it."""
    with FakeJaeger() as server:
        assert reach("127.0.0.1", int(server.url.rpartition(":")[2])) == ""


@pytest.mark.parametrize(
    ("host", "port", "why"),
    [
        ("127.0.0.1", 1, "Nothing listens at 127.0.0.1:1."),
        ("nowhere.invalid", 1, "The name nowhere.invalid cannot be resolved here ("),
        ("255.255.255.255", 1, "255.255.255.255:1 cannot be reached ("),
    ],
)
def test_what_is_not_reached_is_said_in_a_sentence(host: str, port: int, why: str) -> None:
    """Each in its own."""
    assert reach(host, port).startswith(why)


def test_a_host_that_says_nothing_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """A firewall drops what is sent to it, as a queue does that is full."""
    monkeypatch.setattr(ports, "PATIENCE_S", 0.2)
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(0)
        host, port = listening.getsockname()
        waiting = [socket.socket() for _ in range(4)]
        for one in waiting:
            one.setblocking(False)
            one.connect_ex((host, port))
        began = time.monotonic()
        why = reach(host, port)
        assert time.monotonic() - began < 2
        for one in waiting:
            one.close()

    assert why == f"{host}:{port} does not answer: a firewall is in between, or the host is off."


def greets(*words: bytes) -> Callable[[Rude, socket.socket], None]:
    def behave(_: Rude, connection: socket.socket) -> None:
        connection.recv(65536)
        for word in words:
            connection.sendall(word)

    return behave


@pytest.mark.parametrize(
    ("words", "spoken"),
    [
        ((b"HTTP/1.1 505 no\r\n\r\n",), Speech.HTTP_1),
        ((b"HT", b"TP/1.0 400\r\n\r\n"), Speech.HTTP_1),
        ((bytes((0, 0, 6, 4, 0, 0, 0, 0, 0)),), Speech.HTTP_2),
        ((b"220 mail.example ESMTP\r\n",), Speech.OTHER),
        ((), Speech.OTHER),
    ],
)
def test_what_is_spoken_is_told_by_the_first_bytes(
    words: tuple[bytes, ...], spoken: Speech
) -> None:
    """Of the answer to a greeting."""
    with Rude(greets(*words)) as server:
        assert speech("127.0.0.1", server.port) is spoken


@pytest.mark.parametrize(
    ("protocols", "spoken"),
    [
        (["http/1.1"], Speech.TLS_HTTP_1),
        (["h2"], Speech.TLS_HTTP_2),
        (["h2", "http/1.1"], Speech.TLS_BOTH),
        ([], Speech.TLS),
    ],
)
def test_what_is_spoken_over_tls_is_told_by_what_is_taken(
    protocols: list[str], spoken: Speech, tmp_path: Path
) -> None:
    """Of the protocols that are offered (ALPN)."""
    context = make_certificates(tmp_path).server_context()
    context.set_alpn_protocols(protocols)
    with Rude(hang_up, tls=context) as server:
        assert speech("127.0.0.1", server.port) is spoken


def say_nothing(server: Rude, _: socket.socket) -> None:
    server.stopping.wait()


def test_a_server_that_says_nothing_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """It waits for more than is asked."""
    monkeypatch.setattr(ports, "PATIENCE_S", 0.1)
    with Rude(say_nothing) as server:
        assert speech("127.0.0.1", server.port) is Speech.OTHER


def test_a_server_that_hangs_up_over_the_wrong_protocol_is_known() -> None:
    """It breaks the connection rather than the handshake."""

    def behave(_: Rude, connection: socket.socket) -> None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        if connection.recv(3, socket.MSG_PEEK) == b"PRI":
            connection.sendall(bytes((0, 0, 6, 4, 0, 0, 0, 0, 0)))
            connection.recv(65536)

    with Rude(behave) as server:
        assert speech("127.0.0.1", server.port) is Speech.HTTP_2


def test_real_servers_are_known() -> None:
    """Python's own of HTTP, and gRPC's."""
    with FakeJaeger() as http, Collector() as grpc:
        assert speech("127.0.0.1", int(http.url.rpartition(":")[2])) is Speech.HTTP_1
        assert speech("127.0.0.1", grpc.port) is Speech.HTTP_2
    assert speech("127.0.0.1", 1) is Speech.OTHER
