"""The real programs as processes of this machine: the shipped files, free loopback ports."""

import json
import os
import shutil
import signal
import socket
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from subprocess import Popen
from typing import Any

from tests.backends.stack import ROOT, Addresses, Program, answers, built, die_with_us, until
from tests.programs import start

CONFIGURATIONS: dict[Program, Path] = {
    "collector": ROOT / "collector-config.yaml",
    "jaeger": ROOT / "deploy" / "jaeger.yaml",
}
# as tests/backends/install names folders: another list of components is another collector
_MANIFEST = sha256((ROOT / "deploy" / "otelcol-builder.yaml").read_bytes()).hexdigest()[:8]
PROGRAMS: dict[Program, str] = {
    "collector": f"otelcol-*-{_MANIFEST}/otelcol",
    "jaeger": "jaeger-*/jaeger",
}


class Native:
    """Both programs. *directory*: theirs, for data, overlays and output.

    *queue*: what to change of the collector's sending queue, for a small one.
    """

    def __init__(self, directory: Path, queue: Mapping[str, Any] | None = None) -> None:
        self.directory = directory
        self._queue = queue
        self.processes: dict[Program, Popen[str]] = {}
        names = ("grpc", "http", "health", "metrics", "to_jaeger", "ui", "query", "own", "ready")
        self._at = dict(zip(names, _free_ports(len(names)), strict=True))
        url = {name: f"http://{address}" for name, address in self._at.items()}
        self.addresses = Addresses(
            url["http"], url["grpc"], url["ui"], url["health"], url["metrics"] + "/metrics"
        )
        self._ready = {"collector": url["health"], "jaeger": url["ready"] + "/status"}
        (directory / "data" / "jaeger").mkdir(parents=True)
        for program, overlay in self._overlays().items():
            (directory / f"{program}.json").write_text(json.dumps(overlay))

    def _overlays(self) -> dict[str, Any]:
        """Return what is laid over the shipped files: the ports, nothing else."""
        at = self._at
        receivers = {"protocols": {name: {"endpoint": at[name]} for name in ("grpc", "http")}}
        queue = {"sending_queue": self._queue} if self._queue else {}
        return {
            "collector": {
                "receivers": {"otlp": receivers},
                "exporters": {"otlp_http/jaeger": queue},
                "extensions": {"health_check": {"endpoint": at["health"]}},
                "service": _metrics(at["metrics"]),
            },
            "jaeger": {
                "receivers": {"otlp": {"protocols": {"http": {"endpoint": at["to_jaeger"]}}}},
                "extensions": {
                    "jaeger_query": {
                        "http": {"endpoint": at["ui"]},
                        "grpc": {"endpoint": at["query"]},
                    },
                    "healthcheckv2": {"http": {"endpoint": at["ready"]}},
                },
                "service": _metrics(at["own"]),
            },
        }

    def command(self, program: Program, *words: str) -> list[str]:
        """Return how *program* is called with the shipped file and its ports."""
        overlay = self.directory / f"{program}.json"
        files = [f"--config={CONFIGURATIONS[program]}", f"--config={overlay}"]
        return [str(built(PROGRAMS[program])), *words, *files]

    def environment(self) -> dict[str, str]:
        """Return the variables that the shipped files read."""
        data = self.directory / "data"
        return {
            "PATH": os.environ["PATH"],
            "OTELCOL_DATA": str(data / "collector"),
            "JAEGER_OTLP": self._at["to_jaeger"],
            "JAEGER_DATA": str(data / "jaeger"),
            "JAEGER_UI": str(ROOT / "deploy" / "jaeger-ui.json"),
        }

    def start(self, program: Program) -> None:
        assert program not in self.processes
        (self.directory / "data" / "collector").mkdir(exist_ok=True)
        with (self.directory / f"{program}.log").open("ab") as output:
            command = [*die_with_us("KILL"), *self.command(program)]
            env = self.environment()
            self.processes[program] = start(
                *command, env=env, outlives_test=True, stdout=output, stderr=output
            )
        until(lambda: self._is_ready(program))

    def _is_ready(self, program: Program) -> bool:
        code = self.processes[program].poll()
        assert code is None, f"{program} ended with {code}:\n{self.output(program)[-3000:]}"
        return answers(self._ready[program])

    def stop(self, program: Program) -> None:
        self._end(program, signal.SIGTERM)

    def kill(self, program: Program) -> None:
        self._end(program, signal.SIGKILL)
        self.start(program)

    def _end(self, program: Program, how: signal.Signals) -> None:
        process = self.processes.pop(program)
        process.send_signal(how)
        process.wait(30)

    def close(self) -> None:
        """End what runs."""
        for process in self.processes.values():
            process.kill()
            process.wait(30)
        shutil.rmtree(self.directory / "data", ignore_errors=True)

    def output(self, program: Program) -> str:
        """Return what *program* has said."""
        return (self.directory / f"{program}.log").read_text()

    def log_files(self) -> list[str]:
        folder = self.directory / "data" / "collector" / "logs"
        return [path.read_text() for path in folder.glob("*.jsonl")]


def _metrics(address: str) -> dict[str, Any]:
    host, port = address.split(":")
    reader = {"pull": {"exporter": {"prometheus": {"host": host, "port": int(port)}}}}
    return {"telemetry": {"metrics": {"readers": [reader]}}}


def _free_ports(count: int) -> list[str]:
    """Return so many loopback addresses that nobody listened on just now."""
    listening = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    try:
        return [f"127.0.0.1:{one.getsockname()[1]}" for one in listening]
    finally:
        for one in listening:
            one.close()
