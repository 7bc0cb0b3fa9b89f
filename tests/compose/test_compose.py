"""The shipped compose file, brought up on a real Docker engine."""

import shutil
import sys
from pathlib import Path

import pytest

from tests.backends.cases import DEMO, Cases, Service
from tests.backends.stack import ROOT
from tests.compose.engine import Compose
from tests.programs import child_environment, good, run
from tests.readme import blocks

LISTENING = "0A"  # in /proc/net/tcp


class TestCompose(Cases):
    """Everything that must be true, through the published ports."""


def test_the_files_are_what_compose_reads(compose: Compose) -> None:
    """Without a warning."""
    done = compose.engine.try_docker("compose", "config", "-q")
    assert (done.returncode, done.stderr) == (0, "")


def test_ports_are_published_on_loopback_only(compose: Compose) -> None:
    """As the engine has done it, and as the kernel sees it."""
    for program in ("collector", "jaeger"):
        bindings = compose.container(program)["NetworkSettings"]["Ports"]
        hosts = {binding["HostIp"] for of_port in bindings.values() for binding in of_port or ()}
        assert hosts == {"127.0.0.1"}
    if compose.engine.is_ours:  # else others listen beside it
        tables = [Path(f"/proc/thread-self/net/{name}").read_text() for name in ("tcp", "tcp6")]
        rows = [line.split() for table in tables for line in table.splitlines()[1:]]
        listening = {row[1].split(":")[0] for row in rows if row[3] == LISTENING}
        assert listening == {"0100007F"}  # 127.0.0.1


@pytest.mark.parametrize("program", ["collector", "jaeger"])
def test_the_process_may_do_nothing_but_its_work(compose: Compose, program: str) -> None:
    """As the kernel sees it: no root, no capability, none to be had."""
    container = compose.container(program)
    assert container["HostConfig"]["ReadonlyRootfs"]
    assert container["HostConfig"]["Memory"] > 0
    try:
        status = Path(f"/proc/{container['State']['Pid']}/status").read_text()
    except FileNotFoundError:
        pytest.skip("the engine's processes are not this machine's to look at")
    fields = dict(line.split(":\t", 1) for line in status.splitlines())
    assert set(fields["Uid"].split()) == set(fields["Gid"].split()) == {"10001"}
    assert {fields[name] for name in ("CapEff", "CapPrm", "CapBnd")} == {"0" * 16}
    assert fields["NoNewPrivs"] == "1"


def test_the_volume_owner_has_ended(compose: Compose) -> None:
    """Well, and with its work done."""
    state = compose.container("volumes")["State"]
    assert (state["Status"], state["ExitCode"]) == ("exited", 0)


def test_down_and_up_keeps_what_there_was(compose: Compose, service: Service) -> None:
    """The volumes outlive the containers."""
    service.handle(3)
    service.all_in_jaeger()
    compose.down()
    compose.up()
    service.all_in_jaeger()


def test_readmes_commands_bring_messages_to_jaeger(compose: Compose, tmp_path: Path) -> None:
    """Letter by letter, in a copy: up, the demo, and its messages are in Jaeger."""
    (block,) = (block for block in blocks("sh") if "docker compose" in block)
    copy = tmp_path / "copy"
    copy.mkdir()
    for name in ("docker-compose.yml", "collector-config.yaml"):
        shutil.copy(ROOT / name, copy)
    shutil.copytree(ROOT / "deploy", copy / "deploy")
    (copy / ".venv").symlink_to(sys.prefix)
    spool = tmp_path / "spool"
    variables = {
        k: v
        for k, v in compose.engine.environment.items()
        if k.startswith(("DOCKER_", "COMPOSE_")) or k == "PATH"
    }
    compose.down()
    env = child_environment(**variables, OTEL_LOGGING_SPOOL_DIR=str(spool))
    shell = ("bash", "-euo", "pipefail", "-c", block)
    done = good(run(*shell, cwd=copy, env=env, patience_s=300))
    assert "search history" in done.stdout
    service = Service(compose, spool, OTEL_SERVICE_NAME=DEMO)
    service.all_in_jaeger()
    assert len(service.messages()) == 34
    # as the compose file of this checkout has it, for the tests that come
    compose.up()
