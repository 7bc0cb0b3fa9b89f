"""``otel-logging doctor``: every fault is named rightly, with what mends it."""

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import Result

from otel_logging import setup_observability, traced
from otel_logging.cli import main
from otel_logging.settings import destination, load
from tests import rude
from tests.commands import Runner
from tests.conftest import NOWHERE
from tests.jaeger import FakeJaeger
from tests.programs import child_environment, python
from tests.receiver import Answer, Receiver, Request, accept, partial_success, refuse
from tests.rude import Rude
from tests.spools import make
from tests.stored import Planted
from tests.test_transport_grpc import Collector

Run = Callable[..., Result]

NOT_TRIED = "! The round trip was not tried: collector and Jaeger must answer."


class Way:
    """A collector that delivers to a Jaeger, both on loopback."""

    def __init__(self, receiver: Receiver, jaeger: FakeJaeger) -> None:
        self.receiver, self.jaeger = receiver, jaeger
        receiver.answer = self.forward

    def forward(self, request: Request) -> Answer:
        self.jaeger.keep(request.body)
        return accept(request)


@pytest.fixture
def way(receiver: Receiver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Way]:
    """All is as it should be, by the variables."""
    with FakeJaeger() as jaeger:
        monkeypatch.setenv("ENVIRONMENT", "production")
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.endpoint)
        monkeypatch.setenv("OTEL_LOGGING_JAEGER_URL", jaeger.url)
        monkeypatch.setenv("OTEL_LOGGING_SPOOL_DIR", str(tmp_path / "spool"))
        monkeypatch.setenv("COLUMNS", "120")
        yield Way(receiver, jaeger)


@pytest.fixture
def run(way: Way, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run the doctor with more variables; it waits shortly."""

    def running(**variables: str) -> Result:
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        return Runner().invoke(main, ["doctor", "--wait", "300ms"])

    return running


def said(result: Result) -> str:
    """Return what it said, without its line breaks."""
    return " ".join(result.output.split())


def assert_problem(result: Result, sentence: str, to_do: str) -> None:
    """It is the only one, it says what to do, and the exit status is 1."""
    assert result.exit_code == 1
    assert f"✗ {sentence}" in said(result)
    assert f"do: {to_do}" in said(result)
    assert result.output.count("✗") == 1
    assert result.output.endswith("\n1 problem found.\n")


def test_a_probe_that_comes_back_is_no_problem(run: Run, way: Way, tmp_path: Path) -> None:
    """Sentence by sentence; the probe went to Jaeger, with its line, under a name of its own."""
    result = run()

    assert result.exit_code == 0, result.output
    assert said(result).startswith(
        f"✓ The settings are sound: http/protobuf to {way.receiver.endpoint}/v1/traces."
        f" ✓ Spans can wait in {tmp_path / 'spool'}: none do now, and there is room."
        f" ✓ The collector takes spans at {way.receiver.endpoint}/v1/traces."
        f" ✓ Jaeger 2.13.0 answers at {way.jaeger.url}."
        " ✓ The probe came back with its log line, after "
    )
    assert result.output.endswith(
        "\n\nAll is well: a span and its log line came back from Jaeger.\n"
    )
    ((span, event),) = way.receiver.events
    assert (span.name, span.resource["service.name"]) == ("probe", "otel-logging-doctor")
    assert (event.name, event.attributes["level"]) == ("the doctor was here", "info")
    assert span.end_ns > span.start_ns  # Jaeger warns of those without length


def test_a_probe_is_no_message_of_a_user(run: Run, way: Way) -> None:
    """It is no row, nor counted, nor the trace that ended last; by its id it is shown."""
    way.jaeger.plant(Planted(1, 0, "message", -900, -100), origin=time.time_ns())
    run()
    ask = ["--source", "jaeger"]

    assert "slowest · 1 stage," in Runner().invoke(main, ["late", *ask]).output
    assert "message" in Runner().invoke(main, ["show", *ask]).output
    ((span, _),) = way.receiver.events
    shown = Runner().invoke(main, ["show", span.trace_id, *ask]).output
    assert "the doctor was here" in shown


def test_it_waits_for_a_probe_that_is_slow(run: Run, way: Way) -> None:
    """A collector collects for a moment."""
    kept: list[bytes] = []

    def later(path: str) -> None:
        if kept and sum("/api/v3/traces/" in p for p, _ in way.jaeger.asked) > 1:
            way.jaeger.keep(kept.pop())

    def keep(request: Request) -> Answer:
        kept.append(request.body)
        return accept(request)

    way.receiver.answer, way.jaeger.instead = keep, later

    assert run().exit_code == 0


def test_it_speaks_grpc_where_delivery_does(run: Run, way: Way) -> None:
    """By the same client."""
    with Collector() as collector:

        def forward(_: object) -> bytes:
            way.jaeger.keep(collector.bodies[-1])
            return b""

        collector.answer = forward
        result = run(
            OTEL_EXPORTER_OTLP_PROTOCOL="grpc", OTEL_EXPORTER_OTLP_ENDPOINT=collector.endpoint
        )

    assert result.exit_code == 0, result.output
    assert f"✓ The settings are sound: grpc to {collector.endpoint}." in result.output


# ---------------------------------------------------------------- settings


def test_an_invalid_setting_ends_it(run: Run) -> None:
    """Nothing else can be said then."""
    result = run(OTEL_EXPORTER_OTLP_TIMEOUT="soon")

    assert_problem(
        result,
        "OTEL_EXPORTER_OTLP_TIMEOUT='soon': a positive number of seconds.",
        "correct it; docs/configuration.md says what is allowed",
    )
    assert len(result.output.splitlines()) == 4


def test_a_propagator_that_is_not_installed_ends_it() -> None:
    """OpenTelemetry's own variable; with it set-up ends too."""
    env = child_environment(OTEL_PROPAGATORS="tracecontext,nope", PYTHONIOENCODING="utf-8")
    done = python("-m", "otel_logging", "doctor", env=env)

    assert done.returncode == 1, done.stderr
    output = " ".join(done.stdout.split())
    assert output.startswith("✗ OTEL_PROPAGATORS='tracecontext,nope': Propagator nope not found.")
    assert "not installed. do: correct it" in output


def test_an_invalid_jaeger_address_ends_it(run: Run) -> None:
    """As any other setting."""
    assert "✗ OTEL_LOGGING_JAEGER_URL='jaeger': a URL" in said(
        run(OTEL_LOGGING_JAEGER_URL="jaeger")
    )


@pytest.mark.parametrize(
    ("name", "value"), [("OTEL_TRACES_EXPORTER", "none"), ("OTEL_SDK_DISABLED", "true")]
)
def test_tracing_switched_off_is_no_problem(run: Run, way: Way, name: str, value: str) -> None:
    """Somebody wants it so; with what switched it off, and what switches it on."""
    result = run(**{name: value})

    assert result.exit_code == 0
    assert f"! Tracing is switched off: {name}={value}.\n" in result.output
    assert f"  do: unset {name} to trace\n" in result.output
    assert "! The collector and Jaeger were not asked: no span is sent." in result.output
    assert result.output.endswith("\nNo problem found: tracing is switched off.\n")
    assert way.receiver.requests == []


def test_no_server_is_wanted(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where none is named and none answers, that is no problem."""
    for name in ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_LOGGING_JAEGER_URL"):
        monkeypatch.delenv(name)
    monkeypatch.setattr("otel_logging.settings.exporter._PORTS", {"http/protobuf": 1, "grpc": 1})
    monkeypatch.setattr("otel_logging.settings.links.jaeger_url", lambda: "http://127.0.0.1:1")
    result = run()
    assert result.exit_code == 0
    assert "No collector answers at http://localhost:1/v1/traces, the default" in said(result)
    assert "No Jaeger answers at http://127.0.0.1:1, the default." in said(result)
    assert "No problem found: the local store has every span." in said(result)


def test_the_test_environment_sends_nothing(run: Run, way: Way) -> None:
    """Which is right in tests alone; its spool is a temporary one."""
    result = run(ENVIRONMENT="test", OTEL_LOGGING_SPOOL_DIR="")

    assert result.exit_code == 0
    assert "! In the environment 'test' nothing is delivered. do: set ENVIRONMENT=" in said(result)
    assert "No problem found: " in said(result)
    assert "Spans wait" not in result.output


@pytest.mark.parametrize(
    "sampler",
    [
        {"OTEL_TRACES_SAMPLER": "always_off"},
        {"OTEL_TRACES_SAMPLER": "parentbased_always_off"},
        {"OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0"},
    ],
)
def test_a_sampler_that_drops_all_is_a_problem(run: Run, sampler: dict[str, str]) -> None:
    """The way is looked at all the same."""
    result = run(**sampler)

    name = sampler["OTEL_TRACES_SAMPLER"]
    assert_problem(result, f"The sampler {name} drops every trace.", "unset OTEL_TRACES_SAMPLER")
    assert "✓ The probe came back" in result.output


def test_a_sampler_that_drops_some_is_noted(run: Run) -> None:
    """That is no problem."""
    result = run(OTEL_TRACES_SAMPLER="traceidratio", OTEL_TRACES_SAMPLER_ARG="0.05")

    assert result.exit_code == 0
    assert "! The sampler keeps 5% of the traces." in result.output
    assert "keeps 0.0001% of" in run(OTEL_TRACES_SAMPLER_ARG="0.000001").output


def test_lines_as_log_records_are_noted(run: Run) -> None:
    """Jaeger keeps no log records."""
    result = run(OTEL_LOGS_EXPORTER="otlp")

    assert result.exit_code == 0
    assert "! OTEL_LOGS_EXPORTER=otlp: log lines leave as log records" in said(result)


# ---------------------------------------------------------------- the spool


def test_a_spool_that_cannot_be_written_is_a_problem(run: Run, tmp_path: Path) -> None:
    """With the place."""
    (tmp_path / "file").write_text("")

    assert_problem(
        run(OTEL_LOGGING_SPOOL_DIR=str(tmp_path / "file")),
        f"The spool cannot be written ({tmp_path / 'file'}: File exists)",
        "set OTEL_LOGGING_SPOOL_DIR to a directory that can be written",
    )


@pytest.mark.skipif(not hasattr(os, "fork"), reason="POSIX")
def test_a_destination_that_no_service_would_use_is_a_problem(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A link that somebody has put there, of the spans or of the log records."""
    monkeypatch.setenv("OTEL_LOGS_EXPORTER", "otlp")
    chosen = load()
    for exporter in (chosen.exporter, chosen.log_exporter):
        assert exporter is not None
        base = tmp_path / exporter.signal
        link = base / destination(chosen.service_name, exporter)
        base.mkdir()
        link.symlink_to(tmp_path)

        assert_problem(
            run(OTEL_LOGGING_SPOOL_DIR=str(base)),
            f"The spool cannot be written ({link}: a symbolic link)",
            "set OTEL_LOGGING_SPOOL_DIR to a directory that can be written",
        )


def test_no_writable_directory_at_all_is_a_problem(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither the user's own nor a temporary one."""
    Path.home().mkdir()
    (Path.home() / "state").write_text("")
    monkeypatch.setattr("tempfile.tempdir", str(Path.home() / "state"))

    assert_problem(
        run(OTEL_LOGGING_SPOOL_DIR=""),
        f"The spool cannot be written ({Path.home() / 'state' / 'otel_logging'}:",
        "set OTEL_LOGGING_SPOOL_DIR",
    )


def test_a_temporary_directory_as_the_spool_is_noted(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The user's own cannot be written: spans are in a temporary one."""
    Path.home().mkdir()
    (Path.home() / "state").write_text("")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))

    result = run(OTEL_LOGGING_SPOOL_DIR="")

    assert result.exit_code == 0
    assert "! The user's own place for the spool cannot be written" in said(result)
    assert f"✓ Spans can wait in {tmp_path / 'otel_logging-'}" in said(result)


def test_a_full_spool_is_a_problem(run: Run, tmp_path: Path) -> None:
    """Nearly: with the next spans the oldest that wait are dropped."""
    spool = make(tmp_path / "spool", "shop-0123456789ab")
    spool.append(b"scope", bytes(16), bytes(850_000))
    spool.close()

    assert_problem(
        run(OTEL_LOGGING_SPOOL_BYTES="900000"),
        "The spool is full: 0.9 MB of at most 0.9 MB wait in"
        f" {tmp_path / 'spool' / 'shop-0123456789ab'}, and the oldest are dropped.",
        "get the collector to take them",
    )
    result = run(OTEL_LOGGING_SPOOL_BYTES="1800000")
    assert result.exit_code == 0
    assert "0.9 MB wait, and there is room." in said(result)


def test_no_directory_is_left_behind(run: Run, tmp_path: Path) -> None:
    """Where the service has made none yet, and where it cannot."""
    before = sorted(tmp_path.iterdir())

    assert run(OTEL_LOGGING_SPOOL_DIR=str(tmp_path / "x" / "y" / "z")).exit_code == 0
    assert sorted(tmp_path.iterdir()) == before
    assert run(OTEL_LOGGING_SPOOL_DIR=f"{tmp_path}/new/{'n' * 300}").exit_code == 1
    assert sorted(tmp_path.iterdir()) == before


def test_a_little_that_waits_is_more_than_nothing(run: Run, tmp_path: Path) -> None:
    """In its own unit."""
    spool = make(tmp_path / "spool", "shop-0123456789ab")
    spool.append(b"scope", bytes(16), bytes(2000))
    spool.close()

    assert "4.1 kB wait, and there is room." in said(run())


def test_a_full_disk_is_a_problem(tmp_path: Path) -> None:
    """It is not the same as a directory that may not be written."""
    bytes_left = 800_000  # not enough for a segment, enough for what measures coverage
    full = f"import resource\nresource.setrlimit(resource.RLIMIT_FSIZE, ({bytes_left},) * 2)"

    (tmp_path / "sitecustomize.py").write_text(full)
    spool = tmp_path / "spool"
    environment = child_environment(
        ENVIRONMENT="production",
        OTEL_SDK_DISABLED="true",
        OTEL_LOGGING_SPOOL_DIR=str(spool),
        PYTHONIOENCODING="utf-8",
    )
    environment["PYTHONPATH"] = f"{tmp_path}:{environment['PYTHONPATH']}"
    done = python("-c", "from otel_logging.cli import main; main(['doctor'])", env=environment)

    assert done.returncode == 1, done.stderr
    output = " ".join(done.stdout.split())
    assert f"✗ The disk of the spool is full ({spool}). do: make room on it" in output


# ---------------------------------------------------------------- the collector


def test_a_collector_that_is_down_is_a_problem(run: Run) -> None:
    """With what starts it."""
    result = run(OTEL_EXPORTER_OTLP_ENDPOINT=NOWHERE)

    assert_problem(
        result,
        f"The collector at {NOWHERE}/v1/traces does not answer: ConnectionRefusedError",
        "start it (docker compose up -d), or set OTEL_EXPORTER_OTLP_ENDPOINT",
    )
    assert NOT_TRIED in result.output


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> rude.Certificates:
    return rude.make_certificates(tmp_path_factory.mktemp("certificates"))


@pytest.mark.parametrize("protocol", ["http/protobuf", "grpc"])
def test_plain_text_to_a_tls_port_is_a_problem(
    run: Run, certificates: rude.Certificates, protocol: str
) -> None:
    """Such a port hangs up, as others do: what to do names TLS."""
    with Rude(rude.hang_up, tls=certificates.server_context()) as server:
        plain = f"http://127.0.0.1:{server.port}"
        result = run(
            OTEL_EXPORTER_OTLP_ENDPOINT=plain,
            OTEL_EXPORTER_OTLP_PROTOCOL=protocol,
            OTEL_EXPORTER_OTLP_TIMEOUT="2",
        )

    assert_problem(result, f"The collector at {plain}", "start it")
    assert f"4317 for gRPC (this service uses {protocol}); https:// if it expects TLS" in said(
        result
    )


@pytest.mark.parametrize(
    "words",
    [
        b"Client sent an HTTP request to an HTTPS server.",  # Go
        b"<title>400 The plain HTTP request was sent to HTTPS port</title>",  # nginx
    ],
)
def test_a_server_that_asks_for_tls_is_a_problem(run: Run, way: Way, words: bytes) -> None:
    """Some answer plain HTTP with what they expect."""
    way.receiver.answer = lambda _: (400, {"Content-Type": "text/plain"}, words)

    assert_problem(
        run(),
        f"TLS is expected at {way.receiver.endpoint}/v1/traces: HTTP 400",
        "write https:// in OTEL_EXPORTER_OTLP_ENDPOINT",
    )


def test_an_invalid_certificate_file_is_a_problem(run: Run, tmp_path: Path) -> None:
    """Which only the client finds out."""
    (tmp_path / "bad.pem").write_text("no certificate")

    result = run(
        OTEL_EXPORTER_OTLP_ENDPOINT="https://127.0.0.1:1",
        OTEL_EXPORTER_OTLP_CERTIFICATE=str(tmp_path / "bad.pem"),
    )

    assert_problem(result, "OTEL_EXPORTER_OTLP_CERTIFICATE=", "correct it")


def not_found(_: Rude, connection: "rude.socket.socket") -> None:
    """Answer as a server of HTTP/2 that has nothing there (RFC 9113, RFC 7541)."""
    connection.sendall(bytes((0, 0, 0, 4, 0, 0, 0, 0, 0)))  # SETTINGS
    received = b""
    while b"grpc" not in received and (more := connection.recv(65536)):  # the content type
        received += more
    # HEADERS of stream 1, its end: ":status 404" of the static table
    connection.sendall(bytes((0, 0, 1, 1, 5, 0, 0, 0, 1, 0x8D)))
    connection.recv(65536)


@pytest.mark.parametrize("protocols", [["http/1.1"], ["h2", "http/1.1"]])
def test_grpc_to_an_http_port_over_tls_is_a_problem(
    run: Run, certificates: rude.Certificates, protocols: list[str]
) -> None:
    """It may speak HTTP/2, as gRPC does, and yet have nothing for it."""
    context = certificates.server_context()
    context.set_alpn_protocols(protocols)
    with Rude(not_found, tls=context) as server:
        result = run(
            OTEL_EXPORTER_OTLP_PROTOCOL="grpc",
            OTEL_EXPORTER_OTLP_ENDPOINT=f"https://127.0.0.1:{server.port}",
            OTEL_EXPORTER_OTLP_CERTIFICATE=str(certificates.authority),
            OTEL_EXPORTER_OTLP_TIMEOUT="2",
        )

    assert_problem(
        result,
        f"There is no OTLP at https://127.0.0.1:{server.port}: gRPC UN",
        "set OTEL_EXPORTER_OTLP_ENDPOINT to the collector's port for gRPC, usually 4317",
    )


PAGE = {"Content-Type": "text/html"}


@pytest.mark.parametrize(
    ("answer", "sentence", "to_do"),
    [
        (refuse(401), "The collector does not let us in: HTTP 401", "set OTEL_EXPORTER_OTLP_HEAD"),
        (refuse(403), "The collector does not let us in: HTTP 403", "set OTEL_EXPORTER_OTLP_HEAD"),
        (refuse(302, location="/in"), "The collector redirects what it is sent: HTTP 302", "set "),
        (lambda _: (200, PAGE, b"<html>"), "There is no OTLP at {}: HTTP 200 with a page", "corr"),
    ],
)
def test_a_refusal_is_explained_as_the_service_explains_it(
    run: Run,
    way: Way,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    answer: Callable[[Request], Answer],
    sentence: str,
    to_do: str,
) -> None:
    """On stderr and in its repr, with what mends it."""
    way.receiver.answer = answer
    result = run()
    assert_problem(result, sentence.format(f"{way.receiver.endpoint}/v1/traces"), to_do)
    problem, to_do = said(result).partition("✗ ")[2].partition(". do: ")[::2]
    to_do = to_do.partition(" ✓ ")[0]
    mistake, detail = problem.rsplit(": HTTP", 1)

    with setup_observability("shop", spool_dir=tmp_path / "spool") as running:
        with traced("turn"):
            pass
        assert not running.force_flush(0.3)
        words = f"{mistake[0].lower()}{mistake[1:]} (HTTP{detail}; {to_do})"
        assert f"last failure: {words}" in repr(running)
    assert words in capsys.readouterr().err


def test_another_refusal_is_in_the_collectors_words(run: Run, way: Way) -> None:
    """Its log knows more."""
    way.receiver.answer = lambda _: (503, {}, b"no room")

    assert_problem(
        run(),
        "The collector takes none of the spans: HTTP 503 Service Unavailable no room.",
        "look at the collector's log",
    )


def test_a_rejected_probe_is_a_problem(run: Run, way: Way) -> None:
    """It answered with success, and took nothing."""
    way.receiver.answer = partial_success(1, "too old")

    assert_problem(run(), "The collector rejects the probe: too old.", "look at its log")


def test_a_warning_of_the_collector_is_noted(run: Run, way: Way) -> None:
    """It took the probe all the same."""
    warn = partial_success(0, "deprecated")

    def forward(request: Request) -> Answer:
        way.forward(request)
        return warn(request)

    way.receiver.answer = forward

    result = run()
    assert result.exit_code == 0
    assert "! It warns: deprecated." in result.output


# ---------------------------------------------------------------- Jaeger


def test_a_jaeger_that_is_down_is_a_problem(run: Run) -> None:
    """With what starts it."""
    result = run(OTEL_LOGGING_JAEGER_URL=NOWHERE)

    assert_problem(
        result,
        f"Jaeger does not answer: nothing listens at {NOWHERE}.",
        "start it (docker compose up -d), or set OTEL_LOGGING_JAEGER_URL",
    )
    assert NOT_TRIED in result.output


@pytest.mark.parametrize("version", ["1.35.2", "2.12.0"])
def test_a_jaeger_that_is_too_old_is_a_problem(run: Run, way: Way, version: str) -> None:
    """By what it says of itself."""
    way.jaeger.version = version
    assert_problem(run(), f"Jaeger {version} at {way.jaeger.url} is too old.", "take 2.13 or later")


@pytest.mark.parametrize("version", ["2.13.0", "2.20.0", "3.0-rc1", ""])
def test_a_jaeger_that_is_new_enough_is_good(run: Run, way: Way, version: str) -> None:
    """Also one that was built without a version."""
    way.jaeger.version = version

    result = run()

    assert result.exit_code == 0
    assert f"✓ Jaeger {version} answers".replace("  ", " ") in result.output


@pytest.mark.parametrize("hangs_up", [True, False])
def test_another_server_as_jaeger_is_a_problem(run: Run, way: Way, hangs_up: bool) -> None:
    """Another server has the port; it may not even have a front page."""
    if hangs_up:

        def greet(server: Rude, connection: "rude.socket.socket") -> None:
            connection.recv(65536)
            connection.sendall(b"220 mail\r\n" if server.connections == 1 else b"")

        with Rude(greet) as server:
            result = run(OTEL_LOGGING_JAEGER_URL=f"http://127.0.0.1:{server.port}")
    else:
        way.jaeger.instead = lambda _: (404, "text/plain", b"not found")
        result = run()

    assert_problem(result, "There is no Jaeger that can be asked", "set OTEL_LOGGING_JAEGER_URL")


def test_a_jaeger_that_fails_is_a_problem(run: Run, way: Way) -> None:
    """In its own words."""
    way.jaeger.instead = lambda _: (500, "text/plain", b"disk gone")

    assert_problem(run(), "Jaeger is not well:", "look at its log")


def test_a_jaeger_that_hangs_is_asked_once(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is not asked what it speaks: it would say nothing to that either."""
    monkeypatch.setattr("otel_logging.traces.jaeger.HELLO_S", 0.3)

    def hang(server: Rude, _: "rude.socket.socket") -> None:
        server.stopping.wait()

    with Rude(hang) as server:
        result = run(OTEL_LOGGING_JAEGER_URL=f"http://127.0.0.1:{server.port}")
        assert server.connections == 1

    assert "does not answer in time. do: start it" in said(result)


def test_a_grpc_port_as_jaeger_is_a_problem(run: Run) -> None:
    """There is something, so that starting it would help nothing."""
    with Collector() as collector:
        result = run(OTEL_LOGGING_JAEGER_URL=collector.endpoint)

    assert_problem(
        result,
        f"There is no Jaeger that can be asked: {collector.endpoint} does not speak HTTP",
        "set OTEL_LOGGING_JAEGER_URL to the address of its own pages, without a login, of version"
        " 2.13 or later:"
        " usually http://…:16686 (4317 and 4318 are the collector's)",
    )


def test_tls_to_a_jaeger_without_it_is_a_problem(run: Run, way: Way) -> None:
    """It is up."""
    url = way.jaeger.url.replace("http:", "https:")

    assert_problem(
        run(OTEL_LOGGING_JAEGER_URL=url),
        f"Jaeger does not answer: {url} cannot be reached: [SSL: WRONG_VERSION_NUMBER]",
        "start it (docker compose up -d), or set OTEL_LOGGING_JAEGER_URL to where it is",
    )


def test_a_jaeger_behind_tls_asked_without_it_is_a_problem(
    run: Run, certificates: rude.Certificates
) -> None:
    """The other way round."""
    with Rude(rude.hang_up, tls=certificates.server_context()) as server:
        url = f"http://127.0.0.1:{server.port}"
        result = run(OTEL_LOGGING_JAEGER_URL=url)

    assert_problem(result, f"Jaeger does not answer: {url} cannot be reached", "start it")
    assert "https:// only if it has TLS" in said(result)


@pytest.mark.parametrize(
    ("head", "sentence"),
    [
        (
            b"302 Found\r\nLocation: https://login.example/\x1b[31m",
            "sends us elsewhere: to https://login.example/ [31m.",
        ),
        (b"307 Temporary Redirect", "sends us elsewhere: to nowhere."),
        (b"401 Unauthorized", "lets nobody in: HTTP 401."),
        (b"403 Forbidden", "lets nobody in: HTTP 403."),
    ],
)
def test_a_login_before_jaeger_is_a_problem(run: Run, head: bytes, sentence: str) -> None:
    """With where it leads; Jaeger itself is well."""

    def answer(_: Rude, connection: "rude.socket.socket") -> None:
        connection.recv(65536)
        connection.sendall(b"HTTP/1.1 " + head + b"\r\nContent-Length: 0\r\n\r\n")

    with Rude(answer) as server:
        url = f"http://127.0.0.1:{server.port}"
        result = run(OTEL_LOGGING_JAEGER_URL=url)

    assert_problem(
        result,
        f"There is no Jaeger that can be asked: {url} {sentence}",
        "set OTEL_LOGGING_JAEGER_URL to the address of its own pages, without a login",
    )


def test_a_jaeger_that_fails_later_is_a_problem(run: Run, way: Way) -> None:
    """While the probe is looked for."""

    def fails(path: str) -> tuple[int, str, bytes] | None:
        return (500, "text/plain", b"disk gone") if "/traces/" in path else None

    way.jaeger.instead = fails

    assert_problem(run(), "Jaeger does not answer any more:", "look at its log")


def test_a_probe_that_never_came_is_a_problem(run: Run, way: Way) -> None:
    """The collector takes everything, and delivers it to another."""
    way.receiver.answer = accept

    assert_problem(
        run(),
        f"The collector took the probe, which did not come to {way.jaeger.url} in 300 ms.",
        "look at the collector's log, sampling and exporters",
    )


def test_a_lost_log_line_is_a_problem(run: Run, way: Way) -> None:
    """The span came, the event did not."""

    def without_events(request: Request) -> Answer:
        way.jaeger.keep(request.body.replace(b"the doctor was here", b"the doctor is else."))
        return accept(request)

    way.receiver.answer = without_events

    assert_problem(
        run(), "The probe came back without its log line", "look for processors in the collector"
    )


def test_a_service_that_jaeger_lacks_is_noted(run: Run, way: Way) -> None:
    """It may not have run yet."""
    result = run(OTEL_SERVICE_NAME="shop")
    assert result.exit_code == 0
    assert "! Jaeger has nothing of the service 'shop' yet." in result.output
    assert "nothing of the service" not in run(OTEL_SERVICE_NAME="otel-logging-doctor").output


# ---------------------------------------------------------------- in a terminal


def test_signs_are_words_where_the_encoding_has_no_signs(way: Way) -> None:
    """And nothing is said by colour alone."""
    script = "from otel_logging.cli import main; main(['doctor', '--wait', '0.3'])"
    variables = {"OTEL_SDK_DISABLED": "true", "ENVIRONMENT": "x", "PYTHONIOENCODING": "ascii"}

    done = python("-c", script, env=child_environment(**variables))

    lines = done.stdout.splitlines()
    assert lines[0] == "!  Tracing is switched off: OTEL_SDK_DISABLED=true."
    assert lines[1] == "   do: unset OTEL_SDK_DISABLED to trace"
    assert lines[2].startswith("ok Spans can wait in")


def test_sentences_are_wrapped_below_their_beginning(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To the width of the terminal."""
    result = run(OTEL_EXPORTER_OTLP_ENDPOINT=NOWHERE, COLUMNS="80")

    lines = result.output.splitlines()
    at = next(n for n, line in enumerate(lines) if line.startswith("  do: start it"))
    assert lines[at + 1].startswith("      ")
    assert max(map(len, lines[at : at + 2])) <= 80


@pytest.mark.alone
def test_the_doctor_is_quick_without_a_problem(run: Run) -> None:
    """When all is well."""
    began = time.monotonic()
    run()
    assert time.monotonic() - began < 5.0
