"""Jaeger's API, in both dialects, and whatever else may answer at its port."""

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from otel_logging.traces import jaeger
from otel_logging.traces.jaeger import (
    Jaeger,
    JaegerError,
    NotUnderstoodError,
    TooMuchError,
    UnreachableError,
    Window,
)
from tests import rude
from tests.conftest import NOWHERE
from tests.jaeger import FakeJaeger
from tests.rude import Rude, make_certificates
from tests.stored import MS, NOON, TRACE, Planted, line

ALL_DAY = Window(NOON, NOON + 86_400_000 * MS)


@pytest.fixture(params=["2.13", "2.19"])
def fake(request: pytest.FixtureRequest) -> Iterator[FakeJaeger]:
    with FakeJaeger(later=request.param == "2.19") as running:
        yield running


def plant(fake: FakeJaeger) -> None:
    """Plant a trace of two services, and one of another user, each a second after the last."""
    fake.plant(
        Planted(
            1, 0, "message", 0, 900, {"user_id": "u", "n": 7, "late": True}, [line(1, "hello")]
        ),
        origin=NOON,
    )
    fake.plant(Planted(2, 1, "charge", 10, 20, {"user_id": "u"}), origin=NOON, service="billing")
    fake.plant(Planted(1, 0, "message", 1000, 1100, {"user_id": "v"}, trace="a" * 32), origin=NOON)


def names(spans: list[jaeger.Span]) -> list[str]:
    return sorted(f"{span.name} {span.attributes.get('user_id')}" for span in spans)


def test_services_are_listed_in_order(fake: FakeJaeger) -> None:
    """In order; none where there is none."""
    assert Jaeger(fake.url).services() == []
    plant(fake)
    assert Jaeger(fake.url).services() == ["billing", "chat-gateway"]


def test_a_trace_is_read_whole(fake: FakeJaeger) -> None:
    """Of all its services, with its lines, as it was sent; nothing of one that is not there."""
    plant(fake)
    asked = Jaeger(fake.url)

    spans = asked.trace(TRACE)

    assert names(spans) == ["charge u", "message u"]
    assert [event.name for span in spans for event in span.events] == ["hello"]
    assert asked.trace("c" * 32) == []
    assert fake.asked[0][1] == {"raw_traces": "true"}  # without "corrected" clocks


@pytest.mark.parametrize(
    ("window", "tags", "found"),
    [
        (ALL_DAY, {}, ["charge u", "message u", "message v"]),
        (ALL_DAY, {"user_id": "v"}, ["message v"]),
        (ALL_DAY, {"user_id": "u", "n": "7"}, ["charge u", "message u"]),
        (ALL_DAY, {"late": "true"}, ["charge u", "message u"]),
        (ALL_DAY, {"user_id": "v", "n": "7"}, []),
        (replace(ALL_DAY, min_duration_s=0.5), {}, ["charge u", "message u"]),
        (Window(NOON + 1000 * MS, NOON + 1000 * MS), {}, ["message v"]),
        (Window(NOON + MS, NOON + 999 * MS), {}, []),
    ],
)
def test_a_search_finds_whole_traces(
    fake: FakeJaeger, window: Window, tags: dict[str, str], found: list[str]
) -> None:
    """By the start, the attributes and the duration of one of their spans of the service."""
    plant(fake)
    asked = Jaeger(fake.url)

    spans, is_full = asked.search("chat-gateway", window, tags, most=10)

    assert names(spans) == found
    assert not is_full
    assert asked.search("nobody", window, tags, most=10) == ([], False)


def test_a_full_answer_is_reported_as_incomplete(fake: FakeJaeger) -> None:
    """There may be more, with and without attributes."""
    plant(fake)
    asked = Jaeger(fake.url)

    for tags in ({}, {"level": "info"}):
        spans, is_full = asked.search("chat-gateway", ALL_DAY, tags, most=1)
        assert len({span.trace_id for span in spans}) == 1
        assert is_full


def test_the_dialect_is_found_out_once(fake: FakeJaeger) -> None:
    """The earlier one refuses the later one's names; then it is spoken to in its own."""
    plant(fake)
    asked = Jaeger(fake.url)
    for _ in range(2):
        asked.search("chat-gateway", ALL_DAY, {}, most=10)

    spoken = ["query.serviceName" in params for _, params in fake.asked]
    assert spoken == ([True, True] if fake.later else [True, False, False])


@pytest.mark.parametrize("version", ["2.13.0", "2.20.1-dev", ""])
def test_the_version_is_on_its_front_page(version: str) -> None:
    """Unless it was built without one."""
    with FakeJaeger(version=version) as fake:
        assert Jaeger(fake.url).version() == version


def test_a_base_path_goes_before_all_others() -> None:
    """Jaeger may be served below one."""
    with FakeJaeger() as fake:
        Jaeger(fake.url + "/jaeger").version()
        assert fake.asked[0][0] == "/jaeger/"


def test_it_is_spoken_to_over_tls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the URL says https; the system's authorities are trusted, and no others."""
    certificates = make_certificates(tmp_path)
    body = b'{"services":["shop"]}'
    head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body)

    def answer(_: Rude, connection: "rude.socket.socket") -> None:
        connection.recv(65536)
        connection.sendall(head + body)

    with Rude(answer, tls=certificates.server_context()) as server:
        url = f"https://127.0.0.1:{server.port}"
        with pytest.raises(UnreachableError, match="CERTIFICATE_VERIFY_FAILED"):
            Jaeger(url).services()
        monkeypatch.setenv("SSL_CERT_FILE", str(certificates.authority))
        assert Jaeger(url).services() == ["shop"]


# ---------------------------------------------------------------- what else answers


@pytest.mark.alone
def test_a_port_at_which_nothing_listens_costs_nothing() -> None:
    """A refusal is there at once."""
    began = time.monotonic()

    with pytest.raises(UnreachableError, match=f"nothing listens at {NOWHERE}"):
        Jaeger(NOWHERE).services()

    assert time.monotonic() - began < 0.5


def test_an_unknown_name_is_reported() -> None:
    """With what the system says of it."""
    with pytest.raises(UnreachableError, match="cannot be reached"):
        Jaeger("http://nowhere.invalid").services()


def say_nothing(server: Rude, _: "rude.socket.socket") -> None:
    server.stopping.wait()


def drip(server: Rude, connection: "rude.socket.socket") -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 9999\r\n\r\n")
    server.drip(connection, b" ")


@pytest.mark.alone
@pytest.mark.parametrize("behave", [say_nothing, drip])
def test_a_port_that_hangs_costs_so_much_and_no_more(
    behave: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """However it hangs."""
    monkeypatch.setattr(jaeger, "HELLO_S", 0.3)
    with Rude(behave) as server:
        began = time.monotonic()
        with pytest.raises(UnreachableError, match="does not answer in time"):
            Jaeger(f"http://127.0.0.1:{server.port}").services()
        assert 0.2 < time.monotonic() - began < 2.0


def test_a_port_that_hangs_up_is_reported() -> None:
    """It is nothing that could be asked."""
    with Rude(rude.hang_up) as server, pytest.raises(JaegerError):
        Jaeger(f"http://127.0.0.1:{server.port}").services()


def test_other_than_http_is_reported() -> None:
    """A gRPC port, say."""

    def greet(_: Rude, connection: "rude.socket.socket") -> None:
        connection.recv(65536)
        connection.sendall(b"220 mail.example ESMTP\r\n")

    with Rude(greet) as server, pytest.raises(NotUnderstoodError, match="does not speak HTTP"):
        Jaeger(f"http://127.0.0.1:{server.port}").services()


@pytest.mark.parametrize(
    "answer",
    [
        (200, "text/html", b"<html>Jaeger, before it had this API</html>"),
        (404, "text/plain", b"404 page not found"),
        (200, "application/json", b"[]"),
        (200, "application/json", b'{"services": ' + b"[" * 100_000),
    ],
)
def test_other_than_jaeger_or_too_old_is_reported(answer: tuple[int, str, bytes]) -> None:
    """It answers a page, or nothing of that name."""
    with FakeJaeger() as fake:
        fake.instead = lambda _: answer
        with pytest.raises(NotUnderstoodError, match=r"not Jaeger, or older than 2\.13"):
            Jaeger(fake.url).services()


@pytest.mark.parametrize("body", [b'{"services": 3}', b'{"status": "Server available"}'])
def test_services_of_another_shape_are_not_jaegers(body: bytes) -> None:
    """A server of something else: the collector's health check."""
    with FakeJaeger() as fake:
        fake.instead = lambda _: (200, "application/json", body)
        with pytest.raises(NotUnderstoodError, match="is not Jaeger"):
            Jaeger(fake.url).services()


def test_a_jaeger_may_be_empty() -> None:
    """Its memory storage then leaves the key out."""
    with FakeJaeger() as fake:
        fake.instead = lambda _: (200, "application/json", b"{}")
        assert Jaeger(fake.url).services() == []


def test_an_error_of_its_own_is_reported_in_its_words() -> None:
    """On one line, safe on a terminal."""
    with FakeJaeger() as fake:
        fake.instead = lambda _: (500, "text/plain", b"the disk\n\x1b[31mis gone")
        with pytest.raises(JaegerError, match=r"HTTP 500: the disk \[31mis gone$"):
            Jaeger(fake.url).trace(TRACE)


@pytest.mark.parametrize("body", [b"{}", b'{"result": {"resourceSpans": [3]}}'])
def test_a_trace_of_another_shape_is_reported(body: bytes) -> None:
    """It is no OTLP."""
    with FakeJaeger() as fake:
        fake.instead = lambda _: (200, "application/json", body)
        with pytest.raises(NotUnderstoodError, match="something other than OTLP"):
            Jaeger(fake.url).trace(TRACE)


def test_an_answer_may_come_in_several_objects() -> None:
    """As gRPC's gateways stream it."""
    with FakeJaeger() as fake:
        plant(fake)
        one = fake.answer(f"/api/v3/traces/{TRACE}", {})[2]
        other = fake.answer("/api/v3/traces/" + "a" * 32, {})[2]
        fake.instead = lambda _: (200, "application/json", one + b"\n" + other + b"\n")

        assert names(Jaeger(fake.url).trace(TRACE)) == ["charge u", "message u", "message v"]


def test_an_answer_in_many_objects_takes_linear_time() -> None:
    with FakeJaeger() as fake:
        body = (b'{"result": {}, "more": "%b"}\n' % (b"x" * 12_000)) * 2000
        fake.instead = lambda _: (200, "application/json", body)
        began = time.process_time()
        assert Jaeger(fake.url).trace(TRACE) == []
        assert time.process_time() - began < 2.0


def test_an_answer_in_many_chunks_takes_linear_time() -> None:
    """A proxy may send half a KiB at a time."""

    def answer(_: Rude, connection: "rude.socket.socket") -> None:
        rude.read_request(connection)
        head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
        chunks = (b"200\r\n" + b" " * 512 + b"\r\n") * 20_000
        connection.sendall(head + chunks + b'e\r\n{"result": {}}\r\n0\r\n\r\n')

    with Rude(answer) as server:
        began = time.process_time()
        assert Jaeger(server.endpoint.removesuffix("/v1/traces")).trace(TRACE) == []
        assert time.process_time() - began < 1.0


@pytest.mark.parametrize(
    "traces",
    [
        *(b"[3]", b"[{}]", b"7", b'[{"traceID": 12}]'),
        *(b'[{"traceID": "%b"}]' % i for i in ("é".encode(), b"../../x", b"", b"a" * 33)),
    ],
)
def test_ids_of_another_shape_are_reported(traces: bytes) -> None:
    """It is another API."""
    with FakeJaeger() as fake:

        def instead(path: str) -> tuple[int, str, bytes] | None:
            return (
                (200, "application/json", b'{"data": %b}' % traces)
                if path == "/api/traces"
                else None
            )

        fake.instead = instead
        with pytest.raises(NotUnderstoodError, match="something other than traces"):
            Jaeger(fake.url).search("chat-gateway", ALL_DAY, {"a": "b"}, most=6)


@pytest.mark.parametrize("head", [b"Content-Length: 9000", b"Transfer-Encoding: chunked", b"x: y"])
def test_an_answer_is_read_up_to_a_bound(head: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """However its length is said."""
    monkeypatch.setattr(jaeger, "REPLY_BYTES", 5000)

    def answer(_: Rude, connection: "rude.socket.socket") -> None:
        connection.recv(65536)
        sent = b"HTTP/1.1 200 OK\r\n" + head + b"\r\n\r\n"
        connection.sendall(sent + (b"2328\r\n" if b"chunked" in head else b"") + b" " * 9000)

    with Rude(answer) as server, pytest.raises(TooMuchError):
        Jaeger(f"http://127.0.0.1:{server.port}").services()
