"""Child processes: run to their end (``run``, ``python``, ``script``), started beside a test
(``start``, ``end``), or listened to while they serve (``Program``). No other file starts any.

They are given no variable that would configure the package, but what a test sets.
"""

import atexit
import http.client
import json
import os
import pickle
import re
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import IO, Any, ClassVar, Self, TypeVar

from tests.lines import ROOT, parsed

_T = TypeVar("_T")
Done = subprocess.CompletedProcess[Any]
GUARDED = ("OTEL_LOGGING_JAEGER_URL",)
MODULE = (sys.executable, "-m")
PATIENCE_S = 180.0  # for a busy machine; nothing takes so long
PIPE_BYTES = 1 << 19  # a user who is not root may have 128 of them

_WARNINGS = "PYTHONWARNINGS"
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
    anew: bool | None = None,
    **popen: Any,
) -> subprocess.Popen[Any]:
    """Start *command* beside the test, stdout and stderr in pipes; ``end`` waits for it.

    Python that runs a script or a module is forked from one that has imported the package, unless
    *anew*: where it matters what is imported when, what a process has cost, or what it has open.
    Of a command that names gevent or eventlet a test says itself that it is not *anew*: it may
    import the package before they replace Python's own threads and locks.
    On Linux a pipe takes what is printed until a busy machine reads it: of one that is full,
    lines are lost after 100 ms.
    """
    parts = [str(part) for part in command]
    env = child_environment() if env is None else env
    popen = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | popen
    if anew is None:
        said = " ".join(parts).lower()
        anew = "gevent" in said or "eventlet" in said
    make = subprocess.Popen if anew or not _can_be_forked(parts, env, popen) else _Forked
    encoding = "utf-8" if text else None
    child = make(parts, env=env, encoding=encoding, pipesize=PIPE_BYTES, **popen)
    if not outlives_test:
        _started.append(child)
    return child


def _of_python(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that Python, or a library of ours, reads when it is imported, but those
    which each process that forks has as its children.
    """
    read = ("PYTHON", "COVERAGE_", "LC_", "LANG", "LD_", "OTEL_PYTHON_", "OTEL_PROPAGATORS")
    return {
        key: value
        for key, value in environment.items()
        if value and key.startswith(read) and key != _WARNINGS
    }


def _options(command: list[str]) -> list[str]:
    """Return Python's own options of *command*."""
    end = 1
    while command[end : end + 1] in (["-W"], ["-X"]):
        end += 2
    return command[1:end]


def _can_be_forked(
    command: list[str], environment: Mapping[str, str], popen: dict[str, Any]
) -> bool:
    """Say whether a fork of ``tests/forking.py`` is the same as a start of *command*."""
    if not hasattr(os, "pidfd_open") or command[0] != sys.executable:  # Linux has it
        return False
    return (
        command[(at := 1 + len(_options(command))) : at + 1] in (["-c"], ["-m"])
        and popen.keys() <= {"stdin", "stdout", "stderr", "cwd", "start_new_session", "bufsize"}
        and all(
            _is_no_terminal(popen[name], number) for number, name in ((1, "stdout"), (2, "stderr"))
        )
        # the package is installed from there
        and _of_python({"PYTHONPATH": str(ROOT), **environment}) == _of_python(child_environment())
    )


def _is_no_terminal(stream: Any, inherited: int) -> bool:
    """Say so of what is given, else of what is *inherited*: Python's streams are others on one."""
    if stream in (subprocess.PIPE, subprocess.STDOUT, subprocess.DEVNULL):
        return True
    stream = inherited if stream is None else stream
    return not os.isatty(stream if isinstance(stream, int) else stream.fileno())


class _Forked(subprocess.Popen[Any]):
    """A child that ``tests/forking.py`` has forked; it tells of its end over a pipe."""

    _starting = threading.Lock()
    #: By the process that runs tests, its thread's network, what Python ignores, and its options.
    _forking: ClassVar[dict[tuple[object, ...], socket.socket]] = {}

    @classmethod
    def _asks(cls, options: list[str], warnings: str) -> socket.socket:
        """Return the socket to the process that forks, with *options* and that PYTHONWARNINGS."""
        key = os.getpid(), Path("/proc/thread-self/ns/net").readlink(), warnings, *options
        with cls._starting:
            if key not in cls._forking:
                cls._forking[key], theirs = socket.socketpair(type=socket.SOCK_SEQPACKET)
                code = "from tests.forking import serve; serve()"
                command = sys.executable, *options, "-c", code
                with theirs:
                    env = child_environment(**{_WARNINGS: warnings})
                    child = start(*command, env=env, anew=True, outlives_test=True, stdin=theirs)
                atexit.register(cls._end, os.getpid(), cls._forking[key], child)
            return cls._forking[key]

    @staticmethod
    def _end(starter: int, asks: socket.socket, child: subprocess.Popen[Any]) -> None:
        """Let the process that forks end, and write what it has of coverage."""
        if os.getpid() == starter:
            asks.close()
            end(child)

    def _execute_child(self, args: Any, *rest: Any) -> None:
        cwd, env, pipes, session = rest[4], rest[5], rest[9:15], rest[-2]
        options = _options(args)
        request = {
            "command": args[1 + len(options) :],
            "environment": dict(env),
            "directory": str(cwd or Path.cwd()),
            "leads_session": session,
        }
        self._told, teller = os.pipe()
        # what is not piped is inherited
        ends = pipes[0], pipes[3], pipes[5]
        streams = [number if end == -1 else end for number, end in enumerate(ends)]
        asks = self._asks(options, env.get(_WARNINGS, ""))
        socket.send_fds(asks, [pickle.dumps(request)], [*streams, teller])
        os.close(teller)
        self._close_pipe_fds(*pipes)
        self.pid = self._read()
        self._child_created = True

    def _read(self) -> int:
        told = os.read(self._told, 4)
        assert told, "tests/forking.py has ended"
        return int.from_bytes(told, "big")

    def _try_wait(self, wait_flags: int) -> tuple[int, int]:
        if wait_flags and not select.select([self._told], [], [], 0)[0]:
            return 0, 0
        status = self._read()
        os.close(self._told)
        return self.pid, status

    def _internal_poll(self, _deadstate: Any = None) -> int | None:
        if self.returncode is None and self._waitpid_lock.acquire(False):
            try:
                if self.returncode is None and (ended := self._try_wait(os.WNOHANG))[0]:
                    self._handle_exitstatus(ended[1])
            finally:
                self._waitpid_lock.release()
        return self.returncode


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
