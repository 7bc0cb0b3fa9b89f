"""A Docker engine for the shipped compose file: the one that answers, or one of our own.

Ours is a ``dockerd`` with folder, network and mounts of its own: this thread
moves into a new network namespace first, and what it starts is born there, so
that published ports are reachable by the tests and by nobody else, and the
machine's own network and firewall are as before. No image can be pulled there:
the programs of tests/backends/install stand in, under the pinned names.
"""

import contextlib
import ctypes
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.backends.native import PROGRAMS
from tests.backends.stack import (
    ROOT,
    Addresses,
    MissingError,
    Program,
    answers,
    built,
    die_with_us,
    until,
)

PROJECT = "otel-logging-tests"  # not the user's: its volumes are deleted
_NEW_NETWORK = 0x40000000  # CLONE_NEWNET
_SBIN = ":/usr/sbin:/sbin"  # where Debian keeps dockerd


class Engine:
    """How to call an engine. *environment*: leads ``docker`` to it. *is_ours*: started here."""

    def __init__(self, environment: Mapping[str, str], *, is_ours: bool) -> None:
        self.environment = {**environment, "COMPOSE_PROJECT_NAME": PROJECT}
        self.is_ours = is_ours

    def docker(self, *words: str, cwd: Path = ROOT, timeout_s: float = 180) -> str:
        """Run ``docker``; return what it printed."""
        done = self.try_docker(*words, cwd=cwd, timeout_s=timeout_s)
        assert done.returncode == 0, f"docker {' '.join(words)}\n{done.stdout}{done.stderr}"
        return done.stdout

    def try_docker(
        self, *words: str, cwd: Path = ROOT, timeout_s: float = 180
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["docker", *words],
            cwd=cwd,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=timeout_s,
        )

    def need_compose(self, directory: Path) -> None:
        """Make sure that ``docker compose`` is a command."""
        if self.try_docker("compose", "version").returncode == 0:
            return
        plugins = directory / "config" / "cli-plugins"
        plugins.mkdir(parents=True)
        (plugins / "docker-compose").symlink_to(built("compose-*/docker-compose"))
        self.environment["DOCKER_CONFIG"] = str(plugins.parent)

    def inspect(self, container: str) -> Any:
        return json.loads(self.docker("inspect", container))[0]


@contextlib.contextmanager
def engine(directory: Path) -> Iterator[Engine]:
    """Yield an engine that has what the compose file needs. *directory*: a new one's."""
    if shutil.which("docker") is None:
        raise MissingError("no docker: run tests/backends/install")
    there = Engine(os.environ, is_ours=False)
    if there.try_docker("info").returncode == 0:
        there.need_compose(directory)
        if any(map(answers, (Compose.addresses.health, Compose.addresses.jaeger))):
            raise MissingError("the ports are taken: is the compose file up already?")
        pulled = there.try_docker("compose", "pull", "-q", timeout_s=600)
        if pulled.returncode:
            raise MissingError(f"this engine cannot get the images: {pulled.stderr}")
        yield there
        return
    _can_be_started()
    with _new_network(), _started(directory) as ours:
        ours.need_compose(directory)
        for image in set(ours.docker("compose", "config", "--images").split()):
            program: Program = "collector" if "collector" in image else "jaeger"
            _stand_in(ours, directory, image, program)
        yield ours


def _can_be_started() -> None:
    if sys.platform != "linux" or os.geteuid() != 0:
        raise MissingError("no Docker engine answers, and starting one takes root on Linux")
    for program in ("dockerd", "busybox", "unshare", "iptables"):
        if shutil.which(program, path=os.environ["PATH"] + _SBIN) is None:
            raise MissingError(
                f"no Docker engine answers, no {program}: run tests/backends/install"
            )
    for pattern in PROGRAMS.values():
        built(pattern)


@contextlib.contextmanager
def _new_network() -> Iterator[None]:
    """Move this thread, and what it starts, into a network of their own; then back.

    The network has no name: it is gone with the last process in it.
    """
    libc = ctypes.CDLL(None, use_errno=True)

    def call(function: Any, *arguments: int) -> None:
        if function(*arguments):
            raise OSError(ctypes.get_errno(), f"{function.__name__}: no network namespace")

    own = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    try:
        try:
            call(libc.unshare, _NEW_NETWORK)
        except OSError as error:
            raise MissingError(str(error)) from error
        try:
            subprocess.run(["busybox", "ip", "link", "set", "lo", "up"], check=True)
            yield
        finally:
            call(libc.setns, own, _NEW_NETWORK)
    finally:
        os.close(own)


@contextlib.contextmanager
def _started(directory: Path) -> Iterator[Engine]:
    socket = f"unix://{directory}/docker.sock"
    environment = {
        **os.environ,
        "PATH": os.environ["PATH"] + _SBIN,
        "DOCKER_HOST": socket,
    }
    environment.pop("DOCKER_CONTEXT", None)
    ours = Engine(environment, is_ours=True)
    log = directory / "dockerd.log"
    with log.open("wb") as output:
        daemon = subprocess.Popen(
            [
                # its mounts are its own as well: none is left behind
                *("unshare", "--mount", "--propagation", "private"),
                *die_with_us("TERM"),
                *("dockerd", "--host", socket, "--pidfile", f"{directory}/pid"),
                *("--data-root", f"{directory}/data", "--exec-root", f"{directory}/exec"),
            ],
            env=environment,
            stdout=output,
            stderr=output,
        )
    try:

        def is_up() -> bool:
            assert daemon.poll() is None, log.read_text()[-3000:]
            return ours.try_docker("info").returncode == 0

        until(is_up)
        yield ours
    finally:
        daemon.send_signal(signal.SIGTERM)
        try:
            daemon.wait(60)
        except subprocess.TimeoutExpired:
            daemon.kill()
            daemon.wait()
        for large in ("data", "exec"):
            shutil.rmtree(directory / large, ignore_errors=True)


def _stand_in(ours: Engine, directory: Path, image: str, program: Program) -> None:
    """Make a local image under the name of the pinned one, with its paths and its user."""
    archive = directory / f"{program}.tar"
    inside = {"collector": "otelcol-contrib", "jaeger": "cmd/jaeger/jaeger-linux"}[program]
    with tarfile.open(archive, "w") as tar:
        tar.add(built(PROGRAMS[program]), inside, filter=_of_root)
        if (
            program == "jaeger"
        ):  # the official one is an Alpine, with busybox; the collector's is bare
            busybox = shutil.which("busybox")
            assert busybox
            tar.add(os.path.realpath(busybox), "bin/busybox", filter=_of_root)
            for applet in ("chown", "wget"):
                link = tarfile.TarInfo(f"bin/{applet}")
                link.type, link.linkname = tarfile.SYMTYPE, "busybox"
                tar.addfile(link)
    changes = [f'ENTRYPOINT ["/{inside}"]', "USER 10001", "ENV PATH=/bin"]
    if program == "jaeger":
        changes.append('VOLUME ["/tmp"]')
    words = [word for change in changes for word in ("--change", change)]
    ours.docker("import", *words, str(archive), image)
    archive.unlink()


def _of_root(member: tarfile.TarInfo) -> tarfile.TarInfo:
    member.uid = member.gid = 0
    member.mode = 0o755
    return member


class Compose:
    """The shipped compose file, brought up."""

    addresses = Addresses(
        otlp_http="http://127.0.0.1:4318",
        otlp_grpc="http://127.0.0.1:4317",
        jaeger="http://127.0.0.1:16686",
        health="http://127.0.0.1:13133",
        metrics="http://127.0.0.1:8888/metrics",
    )

    def __init__(self, engine: Engine, directory: Path) -> None:
        self.engine = engine
        self.directory = directory

    def compose(self, *words: str) -> str:
        """Run ``docker compose`` on the shipped file."""
        return self.engine.docker("compose", *words)

    def up(self) -> None:
        self.compose("up", "-d")
        self._until_ready("jaeger")
        self._until_ready("collector")

    def down(self, *options: str) -> None:
        self.compose("down", "--timeout", "10", *options)

    def container(self, service: str) -> Any:
        """Return what the engine knows of the container of *service*."""
        return self.engine.inspect(self.compose("ps", "--all", "-q", service).strip())

    def _until_ready(self, program: Program) -> None:
        if program == "collector":
            until(lambda: answers(self.addresses.health))
        else:
            until(lambda: self.container("jaeger")["State"]["Health"]["Status"] == "healthy")

    def start(self, program: Program) -> None:
        self.compose("start", program)
        self._until_ready(program)

    def stop(self, program: Program) -> None:
        self.compose("stop", program)

    def kill(self, program: Program) -> None:
        """Kill its process, not the container: that is what the engine restarts."""
        before = self.container(program)
        pid = before["State"]["Pid"]
        try:
            os.kill(pid, signal.SIGKILL)
        except (PermissionError, ProcessLookupError):
            pytest.skip("the engine's processes are not this machine's to kill")
        until(
            lambda: self.container(program),
            lambda now: now["State"]["Running"] and now["RestartCount"] > before["RestartCount"],
        )
        self._until_ready(program)

    def log_files(self) -> list[str]:
        target = self.directory / "logs"
        shutil.rmtree(target, ignore_errors=True)
        self.compose("cp", "collector:/var/lib/otelcol/logs", str(target))
        return [path.read_text() for path in target.glob("*.jsonl")]
