"""Child processes: run to their end (``python``, ``script``), or running beside (``Program``).

They are given no variable that would configure the package, but what a test sets.
"""

import http.client
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self, TypeVar

from tests.lines import ROOT, parsed

_T = TypeVar("_T")
PATIENCE_S = 60.0  # for a busy machine; nothing takes so long


def child_environment(**variables: str) -> dict[str, str]:
    """Return the environment without what would configure the package, but with *variables*."""
    ours = ("OTEL_", "LOG_LEVEL", "ENVIRONMENT", "NO_COLOR", "FORCE_COLOR")
    kept = {k: v for k, v in os.environ.items() if not k.startswith(ours)}
    return {**kept, "PYTHONPATH": str(ROOT), **variables}


def python(
    *arguments: object, env: Mapping[str, str], text: bool = True, cwd: Path | None = None
) -> subprocess.CompletedProcess[Any]:
    """Run Python with *arguments* to its end, whatever that is, and return what it printed."""
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=cwd,
        env=env,
        capture_output=True,
        encoding="utf-8" if text else None,
        timeout=PATIENCE_S,
        check=False,
    )


def script(code: str, *arguments: str, **variables: str) -> subprocess.CompletedProcess[bytes]:
    """Run *code* to its end, which must be a good one."""
    done = python("-c", code, *arguments, env=child_environment(**variables), text=False)
    assert done.returncode == 0, done.stderr.decode()
    return done


class Program:
    """A child process, with pipes as a log collector has them.

    ``with Program(["flask", "run"], cwd=...) as server:``; at the end it is
    stopped by its pid, as Ctrl-C or a supervisor does, and waited for.
    """

    def __init__(self, module: Sequence[str], *, cwd: Path, **variables: str) -> None:
        self._news = threading.Condition()
        self.out: list[bytes] = []
        self.err: list[bytes] = []
        self.process = subprocess.Popen(
            [sys.executable, "-m", *module],
            cwd=cwd,
            env=child_environment(**variables),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        self._readers = [
            threading.Thread(target=self._read, args=(stream, kept))
            for stream, kept in ((self.process.stdout, self.out), (self.process.stderr, self.err))
        ]
        for reader in self._readers:
            reader.start()

    def _read(self, stream: IO[bytes], kept: list[bytes]) -> None:
        for line in stream:
            with self._news:
                kept.append(line)
                self._news.notify_all()
        with self._news:
            self._news.notify_all()

    def wait_for(self, condition: Callable[["Program"], _T]) -> _T:
        """Return what *condition* is, once it is true."""
        until = time.monotonic() + PATIENCE_S
        with self._news:
            while not (found := condition(self)):
                left = until - time.monotonic()
                ended = not any(reader.is_alive() for reader in self._readers)
                assert left > 0, f"waited in vain\n{self.said()}"
                assert not ended, f"ended with {self.process.wait(10)}\n{self.said()}"
                self._news.wait(min(left, 1.0))
        return found

    def wait_for_text(self, pattern: str) -> re.Match[str]:
        """Return the first place on stdout or stderr that matches *pattern*."""
        return self.wait_for(lambda program: re.search(pattern, program.said()))

    def said(self) -> str:
        return b"".join([*self.out, *self.err]).decode()

    def lines(self) -> list[dict[str, Any]]:
        """Return stdout as lines; there is nothing else on it."""
        return parsed(b"".join(self.out))

    def stop(self, number: int = signal.SIGINT) -> int:
        """Ask it to end, wait until it has, and return its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        try:
            return self.process.wait(PATIENCE_S)
        finally:
            self.process.kill()
            self.process.wait()
            for reader in self._readers:
                reader.join(PATIENCE_S)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: object, where: TracebackType | None
    ) -> None:
        self.stop()
        for stream in (self.process.stdout, self.process.stderr):
            assert stream is not None
            stream.close()


def ask(
    port: int, method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None
) -> tuple[int, Any]:
    """Make one HTTP request to loopback; return its status, and its JSON if it is that."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE_S)
    try:
        sent = None if body is None else json.dumps(body)
        kinds = {"Content-Type": "application/json", **(headers or {})}
        connection.request(method, path, sent, kinds)
        answer = connection.getresponse()
        read = answer.read()
        is_json = "json" in (answer.headers["Content-Type"] or "")
        return answer.status, json.loads(read) if is_json else read
    finally:
        connection.close()
