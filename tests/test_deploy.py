"""Rules for the files that run a collector and Jaeger; the programs that read them have theirs.

Those are in ``tests/backends`` and ``tests/compose``, with the real programs.
"""

import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from otel_logging import _names
from tests.lines import ROOT
from tests.programs import run

COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text("utf-8"))
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
LASTING = ("collector", "jaeger")
CONFIGURATIONS = {
    "collector": ROOT / "collector-config.yaml",
    "jaeger": ROOT / "deploy" / "jaeger.yaml",
}
TEXTS = {name: path.read_text("utf-8") for name, path in CONFIGURATIONS.items()}
PARSED = {name: yaml.safe_load(text) for name, text in TEXTS.items()}
BUILDER = yaml.safe_load((ROOT / "deploy" / "otelcol-builder.yaml").read_text("utf-8"))
VARIABLE = re.compile(r"\$\{env:(\w+)(:-)?([^}]*)\}")


def test_two_services_and_a_volume_owner() -> None:
    """And nothing else."""
    assert set(SERVICES) == {*LASTING, "volumes"}
    assert {name for name, service in SERVICES.items() if service["restart"] != "no"} == {*LASTING}


@pytest.mark.parametrize("name", SERVICES)
def test_each_container_may_do_as_little_as_it_can(name: str) -> None:
    """No capabilities, nothing to write to but its volumes, bounds on memory, processes, output."""
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["pids_limit"] <= 256
    assert service["mem_limit"]
    assert set(service["logging"]["options"]) == {"max-size", "max-file"}
    assert not {"privileged", "devices", "pid", "ipc", "expose"} & set(service)
    if name in LASTING:
        assert service["user"] == "10001:10001"
        assert service["restart"] == "unless-stopped"
        assert "cap_add" not in service
    else:
        assert service["cap_add"] == ["CHOWN"]
        assert service["network_mode"] == "none"


def test_ports_are_published_on_loopback_only() -> None:
    """Each as itself, so that what the documentation names is where things are."""
    published = [port for service in SERVICES.values() for port in service.get("ports", ())]
    assert sorted(published) == [
        f"127.0.0.1:{port}:{port}" for port in (13133, 16686, 4317, 4318, 8888)
    ]


@pytest.mark.parametrize("name", SERVICES)
def test_what_is_mounted_exists(name: str) -> None:
    """Files of ours read-only, or volumes that are declared, and each volume has its owner."""
    for mount in SERVICES[name]["volumes"]:
        source, _, *mode = mount.split(":")
        if source.startswith("."):
            assert (ROOT / source).is_file()
            assert mode == ["ro"]
        else:
            assert source in COMPOSE["volumes"]
            assert f"{source}:/volumes/{source}" in SERVICES["volumes"]["volumes"]
            assert f"/volumes/{source}" in SERVICES["volumes"]["entrypoint"]


@pytest.mark.parametrize("name", LASTING)
def test_the_command_reads_the_mounted_file(name: str) -> None:
    """The one that is shipped for it."""
    (command,) = SERVICES[name]["command"]
    targets = dict(mount.split(":")[1::-1] for mount in SERVICES[name]["volumes"])
    source = targets[command.removeprefix("--config=")]
    assert ROOT / source == CONFIGURATIONS[name]


@pytest.mark.parametrize("name", LASTING)
def test_variables_have_defaults_and_are_set(name: str) -> None:
    """Whatever a configuration reads has a default, is set in compose, and nothing more is."""
    found = VARIABLE.findall(TEXTS[name])
    assert found
    assert all(default_follows and default for _, default_follows, default in found)
    assert len(VARIABLE.findall(TEXTS[name])) == TEXTS[name].count("${")
    variables = set(SERVICES[name]["environment"]) - {"GOMEMLIMIT"}
    assert variables == {variable for variable, _, _ in found}
    assert "${" not in (ROOT / "docker-compose.yml").read_text("utf-8")


@pytest.mark.parametrize("name", LASTING)
def test_every_listener_is_on_loopback_by_default(name: str) -> None:
    """Compose opens them inside a container; nothing else does."""
    listening = _listening(PARSED[name]) | _listening_metrics(PARSED[name])
    assert len(listening) >= 3
    for address in listening:
        host, _, _ = VARIABLE.sub(r"\3", address).rpartition(":")
        assert host == "127.0.0.1"


def _listening(configuration: dict[str, Any]) -> set[str]:
    """Return the ``endpoint`` of each receiver and extension."""
    found: set[str] = set()

    def walk(part: Any) -> None:
        if isinstance(part, dict):
            found.update(v for k, v in part.items() if k == "endpoint")
            for inner in part.values():
                walk(inner)

    walk(configuration["receivers"])
    walk(configuration["extensions"])
    return found


def _listening_metrics(configuration: dict[str, Any]) -> set[str]:
    readers = configuration["service"]["telemetry"]["metrics"]["readers"]
    at = [reader["pull"]["exporter"]["prometheus"] for reader in readers]
    return {f"{prometheus['host']}:{prometheus['port']}" for prometheus in at}


def test_pins_are_the_manifests() -> None:
    """The image's version is the one that the manifest builds, of every component."""
    images = {name: service["image"] for name, service in SERVICES.items()}
    assert images["collector"] == (
        f"otel/opentelemetry-collector-contrib:{BUILDER['dist']['version']}"
    )
    assert images["jaeger"] == images["volumes"] == "jaegertracing/jaeger:2.20.0"
    for kind in ("extensions", "receivers", "processors", "exporters"):
        for component in BUILDER[kind]:
            assert component["gomod"].endswith(f" v{BUILDER['dist']['version']}")


def test_the_manifest_has_exactly_what_is_used() -> None:
    """A component more or less there is one more or less in the configuration."""
    used = {
        kind: sorted({name.split("/")[0].replace("_", "") for name in PARSED["collector"][kind]})
        for kind in ("extensions", "receivers", "processors", "exporters")
    }
    built = {
        kind: sorted(
            re.sub(rf"({kind[:-1]})$", "", c["gomod"].split()[0].rsplit("/", 1)[1])
            for c in BUILDER[kind]
        )
        for kind in used
    }
    assert used == built


def test_what_the_collector_has_accepted_is_kept() -> None:
    """Memory limiter first, the queue on disk, retried without end, batched behind the queue."""
    collector = PARSED["collector"]
    pipelines = collector["service"]["pipelines"]
    for pipeline in pipelines.values():
        assert pipeline["processors"][0] == "memory_limiter"
        assert "redaction" in pipeline["processors"]
        assert not any(name.startswith("batch") for name in pipeline["processors"])
    (exporter,) = pipelines["traces"]["exporters"]
    exporter = collector["exporters"][exporter]
    assert exporter["retry_on_failure"]["max_elapsed_time"] == 0
    assert exporter["sending_queue"]["storage"] == "file_storage"
    batch = exporter["sending_queue"]["batch"]
    assert batch["sizer"] == "bytes"
    assert batch["max_size"] < 20 << 20  # the default bound of what Jaeger takes at once
    # Jaeger acknowledges what it has stored
    assert "processors" not in PARSED["jaeger"]["service"]["pipelines"]["traces"]


def test_memory_bounds_are_below_the_containers() -> None:
    """The limiter's, then the garbage collector's, then the engine's."""
    limiter = PARSED["collector"]["processors"]["memory_limiter"]
    goal = int(SERVICES["collector"]["environment"]["GOMEMLIMIT"].removesuffix("MiB"))
    limit = int(SERVICES["collector"]["mem_limit"].removesuffix("m"))
    assert limiter["spike_limit_mib"] < limiter["limit_mib"] < goal < limit


def test_jaegers_page_speaks_of_spans_as_opentelemetry_does() -> None:
    """And looks no further back than anything is kept."""
    page = json.loads((ROOT / "deploy" / "jaeger-ui.json").read_text("utf-8"))
    assert page["useOpenTelemetryTerms"] is True
    assert page["topTagPrefixes"][0] == _names.LATE_WHY  # seen before the attributes are unfolded
    badger = PARSED["jaeger"]["extensions"]["jaeger_storage"]["backends"]["disk"]["badger"]
    assert badger["ttl"]["spans"] == "168h"
    assert page["search"]["maxLookback"]["value"] == "7d"
    assert "mcp" not in TEXTS["jaeger"]
    assert PARSED["jaeger"]["extensions"]["jaeger_query"]["enable_tracing"] is False


@pytest.mark.skipif(os.name != "posix", reason="a shell script")
def test_the_installer_says_what_it_cannot_do(tmp_path: Path) -> None:
    """Without Go it fails, and leaves nothing that looks like a program."""
    tools = tmp_path / "bin"
    tools.mkdir()
    for tool in ("dirname", "sed", "sha256sum", "cut"):
        (tools / tool).symlink_to(str(shutil.which(tool)))
    env = {"OTEL_LOGGING_BACKENDS": str(tmp_path / "cache"), "PATH": str(tools)}
    for part, said in (("jaeger", "no Go to build it with"), ("nothing", "what is nothing?")):
        done = run("/bin/bash", ROOT / "tests" / "backends" / "install", part, env=env)
        assert done.returncode == 1
        assert said in done.stderr
    assert not list(tmp_path.rglob("jaeger*"))
