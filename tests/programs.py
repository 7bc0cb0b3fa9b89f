"""Child processes: run to their end (``run``, ``python``, ``script``), started beside a test
(``start``, ``end``), or listened to while they serve (``Program``). No other file starts any.

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
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self, TypeVar

from tests.lines import ROOT, parsed

_T = TypeVar("_T")
Done = subprocess.CompletedProcess[Any]
GUARDED = ("OTEL_LOGGING_JAEGER_URL",)
MODULE = (sys.executable, "-m")
PATIENCE_S = 180.0  # for a busy machine; nothing takes so long
PIPE_BYTES = 1 << 19  # a user who is not root may have 128 of them

_started: list[subprocess.Popen[Any]] = []


def child_environment(**variables: str) -> dict[str, str]:
    """Return the environment without what configures the package or pytest, but with *variables*.

    What keeps tests out of the user's own places (``conftest.py``) stays.
    """
    ours = ("OTEL_", "LOG_LEVEL", "ENVIRONMENT", "NO_COLOR", "FORCE_COLOR", "PYTEST_ADDOPTS")
    kept = {k: v for k, v in os.environ.items() if k in GUARDED or not k.startswith(ours)}
    # eventlet's own DNS imports httpx and trio, where they are installed, and fails in both
    return {**kept, "PYTHONPATH": str(ROOT), "EVENTLET_NO_GREENDNS": "yes", **variables}


def start(
    *command: object,
    env: Mapping[str, str] | None = None,
    text: bool = True,
    outlives_test: bool = False,
    **popen: Any,
) -> subprocess.Popen[Any]:
    """Start *command* beside the test, stdout and stderr in pipes; ``end`` waits for it.

    On Linux a pipe takes what is printed until a busy machine reads it: of one that is full,
    lines are lost after 100 ms.
    """
    child = subprocess.Popen(
        [str(part) for part in command],
        env=child_environment() if env is None else env,
        encoding="utf-8" if text else None,
        pipesize=PIPE_BYTES,
        **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | popen,
    )
    if not outlives_test:
        _started.append(child)
    return child


@contextmanager
def none_left() -> Iterator[None]:
    """End what was started within and still runs, and close its pipes: a test that fails in the
    midst of it is the only one that fails.
    """
    before = len(_started)
    yield
    for child in _started[before:]:
        if child.poll() is None:
            child.kill()
            child.wait()
        for stream in (child.stdin, child.stdout, child.stderr):
            if stream is not None:
                with suppress(OSError):  # what it never read
                    stream.close()
    del _started[before:]


def end(child: subprocess.Popen[Any], given: Any = None, *, patience_s: float = PATIENCE_S) -> Done:
    """Wait until *child*, *given* that on stdin, has ended; return what it printed."""
    with child:
        try:
            out, err = child.communicate(given, patience_s)
        finally:
            child.kill()
    return Done(child.args, child.returncode, out, err)


def run(*command: object, patience_s: float = PATIENCE_S, **popen: Any) -> Done:
    """Run *command* to its end, whatever that is, and return what it printed."""
    return end(start(*command, **popen), patience_s=patience_s)


def python(*arguments: object, **popen: Any) -> Done:
    """Run Python with *arguments* to its end, whatever that is, and return what it printed."""
    return run(sys.executable, *arguments, **popen)


def good(done: Done) -> Done:
    """Return *done*, which must have ended well."""
    assert done.returncode == 0, done.stderr
    return done


def script(code: str, *arguments: object, **variables: str) -> Done:
    """Run *code* to its end, which must be a good one."""
    return good(python("-c", code, *arguments, env=child_environment(**variables), text=False))


class Program:
    """A child process, with pipes as a log collector has them.

    ``with Program([*MODULE, "flask", "run"], cwd=...) as server:``; at the end it is stopped by
    its pid, as a supervisor does, or its whole group, as Ctrl-C does, and waited for.
    """

    def __init__(self, command: Sequence[object], *, cwd: Path, **variables: str) -> None:
        self._news = threading.Condition()
        self.out: list[bytes] = []
        self.err: list[bytes] = []
        env = child_environment(**variables)
        self.process = start(*command, cwd=cwd, env=env, text=False, start_new_session=True)
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

    def wait_for(self, condition: Callable[["Program"], _T], patience_s: float = PATIENCE_S) -> _T:
        """Return what *condition* is, once it is true."""
        until = time.monotonic() + patience_s
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

    def stop(self, number: int = signal.SIGINT, *, group: bool = False) -> int:
        """Ask it, or it and its children, to end, wait until it has, and return its exit code."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, number) if group else self.process.send_signal(number)
        try:
            return self.process.wait(PATIENCE_S)
        finally:
            if os.name == "posix":
                with suppress(ProcessLookupError):  # what it left behind
                    os.killpg(self.process.pid, signal.SIGKILL)
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
