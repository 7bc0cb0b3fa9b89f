"""``otel-logging spool --resend``: what waits for an endpoint that its service no longer has."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from otel_logging import Observability, cli, setup_observability
from otel_logging.spool import destinations
from tests.commands import Runner
from tests.conftest import NOWHERE
from tests.lines import ROOT
from tests.programs import good, python
from tests.receiver import Receiver
from tests.spools import append, make, numbers, on_disk

OLD = f"{NOWHERE}/v1/traces"


def spool(base: Path, *options: str) -> str:
    done = Runner().invoke(cli.main, ["spool", "--spool-dir", str(base), *options])
    assert done.exit_code == 0, done.output
    return str(done.output)


def elsewhere(base: Path) -> list[Any]:
    """Return for each destination where its service sends to now, if that is another."""
    return [one["service_sends_to"] for one in json.loads(spool(base, "--json"))]


def set_up(base: Path, endpoint: str, service: str = "shop") -> Observability:
    return setup_observability(service, environment="production", endpoint=endpoint, spool_dir=base)


def leave(base: Path, endpoint: str, service: str = "shop") -> None:
    """Be a service whose spans and lines wait for *endpoint* when it ends."""
    code = """
import sys; from pathlib import Path
from otel_logging import *; from tests.test_cli_resend import *
with set_up(Path(sys.argv[1]), *sys.argv[2:]), traced("early"):
    get_logger().info("an early line")
"""
    good(python("-c", code, base, endpoint, service, env=os.environ, cwd=ROOT))


@pytest.mark.parametrize("with_logs", [False, True])
def test_what_waits_for_the_endpoint_of_before_is_said_and_moved(
    receiver: Receiver,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    with_logs: bool,
) -> None:
    """By set-up, the list and the doctor; on request it goes where the service sends now."""
    monkeypatch.setenv("OTEL_LOGS_EXPORTER", "otlp" if with_logs else "span")
    leave(tmp_path, NOWHERE)
    assert elsewhere(tmp_path) == [None] * (1 + with_logs)  # that is where it sends
    capfd.readouterr()
    with set_up(tmp_path, receiver.endpoint) as observability:
        said = capfd.readouterr().err
        assert f"spans wait for {OLD}, to which this service sends no more" in said
        assert ("log records wait for" in said) is with_logs
        assert f"its service sends to {receiver.endpoint}/v1/traces now: --resend" in spool(
            tmp_path
        )
        assert len([each for each in elsewhere(tmp_path) if each]) == 1 + with_logs
        doctor = ["doctor", "--spool-dir", str(tmp_path), "--wait", "0.1"]
        environment = {"ENVIRONMENT": "production", "OTEL_EXPORTER_OTLP_ENDPOINT": NOWHERE}
        found = " ".join(Runner().invoke(cli.main, doctor, env=environment).output.split())
        assert f"4.1 kB wait for {OLD}, to which shop sends no more. do: otel-logging" in found
        moved = spool(tmp_path, "--resend")
        assert f"shop: 1 segment now waits for {receiver.endpoint}/v1/traces\n" in moved
        assert moved.count("\n") == 1 + with_logs
        assert observability.force_flush(10)
    assert [span.name for span in receiver.spans] == ["early"]
    assert any("/v1/logs" in request.path for request in receiver.requests) is with_logs
    assert spool(tmp_path, "--resend") == (
        "Nothing waits for an endpoint that its service no longer has.\n"
    )
    capfd.readouterr()
    set_up(tmp_path, receiver.endpoint).shutdown()
    assert capfd.readouterr().err == ""


def test_the_next_start_delivers_what_was_moved(receiver: Receiver, tmp_path: Path) -> None:
    """Where no process runs, the one that was set up last says where the service sends."""
    leave(tmp_path, NOWHERE)
    leave(tmp_path, "http://127.0.0.1:2")
    set_up(tmp_path, receiver.endpoint).shutdown()
    assert spool(tmp_path, "--resend").count("1 segment now waits for") == 2
    with set_up(tmp_path, receiver.endpoint) as observability:
        assert observability.force_flush(10)
    assert [span.name for span in receiver.spans] == ["early", "early"]


def test_of_other_services_and_other_options_nothing_is_moved(
    receiver: Receiver, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Nor what is not chosen, nor what a running process sends."""
    leave(tmp_path, NOWHERE)
    leave(tmp_path, NOWHERE, "billing")
    capfd.readouterr()
    with set_up(tmp_path, receiver.endpoint):
        assert capfd.readouterr().err.count("sends no more") == 1
        assert "Nothing waits" in spool(tmp_path, "--resend", "--service", "billing")
        for wrong in (["--purge"], ["--json"], ["--export", "file"]):
            done = Runner().invoke(cli.main, ["spool", "--resend", *wrong])
            assert done.exit_code == 2
            assert "--resend" in done.output
    living = make(tmp_path, "shop-0123456789ab")
    append(living, 1)
    living.seal()
    destinations.describe(tmp_path / "shop-0123456789ab", "http://first", 24)
    os.utime(tmp_path / "shop-0123456789ab" / "destination", (0, 0))
    with set_up(tmp_path, receiver.endpoint):
        spool(tmp_path, "--resend", "--service", "shop")
    assert numbers(living.waiting()) == [1]
    living.close()


def test_what_cannot_be_moved_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """The number says so; an endpoint that was not written down is no directory."""
    code = """
import sys; from pathlib import Path; from tests.spools import *
append(make(Path(sys.argv[1]), "shop-0123456789ab"), 1)
os._exit(0)
"""
    good(python("-c", code, tmp_path, env=os.environ, cwd=ROOT))
    set_up(tmp_path, NOWHERE).shutdown()
    place = tmp_path / "shop-0123456789ab"
    assert f"wait for an endpoint that {place} does not name, to which" in capfd.readouterr().err

    def refuse(*_: object) -> None:
        raise OSError

    with monkeypatch.context() as patched:
        patched.setattr(Path, "rename", refuse)
        assert "shop: 0 segments now wait for" in spool(tmp_path, "--resend")
    assert on_disk(tmp_path) == [1]
    assert "shop: 1 segment now waits for" in spool(tmp_path, "--resend")
    assert on_disk(tmp_path) == [1]
