"""One server in a child process: started, asked, ended, and everything that it said."""

import http.client
import re
import signal
import socket
import struct
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.programs import MODULE, PATIENCE_S, Program
from tests.receiver import Receiver
from tests.servers.page import LOGGING_JSON


@dataclass(frozen=True)
class Cell:
    """A server, how it is started, and what its lines are."""

    server: str
    started: str  # as the page calls it
    order: str
    command: str
    access: str  # name of the logger
    error: str
    #: Lines of a process that never imports the application, on stderr; None: there are none.
    supervisor: str | None = None
    variables: dict[str, str] = field(default_factory=dict, hash=False)
    files: dict[str, str] = field(default_factory=dict, hash=False)
    processes: int = 1
    end: signal.Signals = signal.SIGTERM
    #: Who tells of an exception in an endpoint; "": as *error*.
    teller: str = ""

    def __str__(self) -> str:
        steps = self.variables.get("STEPS", "")
        return " ".join(filter(None, (self.started, steps.replace(" ", ", then ")))).replace(
            "`", ""
        )

    @property
    def is_wsgi(self) -> bool:
        return "asgi" not in self.command

    @property
    def paths(self) -> list[str]:
        """What the server is asked for, each by another user, all at once."""
        paths = [*(f"/{n}" for n in range(8)), "/fail"]
        return [*paths, "/stream/0", "/stream/1", "/raise"] if self.is_wsgi else paths


@dataclass(frozen=True)
class Said:
    """What a server said from its start to its end."""

    lines: list[dict[str, Any]]
    stderr: str
    statuses: dict[str, int]

    def of(self, logger: str, pattern: str) -> list[dict[str, Any]]:
        """Return the lines of *logger* whose message or traceback *pattern* is found in."""
        return [
            line
            for line in self.lines
            if line["logger"] == logger
            and re.search(pattern, f"{line['event']}\n{line.get('exception', '')}")
        ]


def asked(path: str) -> str:
    """Return the pattern of an access line about *path*."""
    return rf'"GET {path} (HTTP/)?1\.1"'


#: Asks the server on a port; is given what waits for a pattern in what the server says.
Ask = Callable[[Cell, int, Callable[[str], Any]], dict[str, int]]


def ask_all(cell: Cell, port: int, wait_for: Callable[[str], Any]) -> dict[str, int]:
    """Ask for everything at once, and return what was answered."""
    with ThreadPoolExecutor() as users:
        got = users.map(lambda path: get(port, path), cell.paths)
        statuses = dict(zip(cell.paths, got, strict=True))
    for path, status in statuses.items():  # some say it after they have answered
        if cell.access:
            wait_for_access(wait_for, path)
        if status != 200:
            wait_for(f"cannot do {path}\\b")
    return statuses


def wait_for_access(wait_for: Callable[[str], Any], path: str) -> None:
    wait_for(asked(path).replace('"', r"\\\""))


def run(cell: Cell, directory: Path, ask: Ask = ask_all) -> Said:
    """Start the server of *cell*, *ask* it, end it, and read what it said."""
    for name, text in {"logging.json": LOGGING_JSON, **cell.files}.items():
        (directory / name).write_text(text, "utf-8")
    usual = {
        "ENVIRONMENT": "production",
        "HOME": str(directory),
        "OTEL_LOGGING_SPOOL_DIR": str(directory / "spool"),
        "OTEL_LOGGING_LINE_BYTES": "262144",  # whole tracebacks, also on a pipe
    }
    command = [*MODULE, *cell.command.split()]
    with (
        Receiver() as receiver,  # where nobody answers, uvicorn's end takes a second more
        Program(
            command,
            cwd=directory,
            **{"OTEL_EXPORTER_OTLP_ENDPOINT": receiver.endpoint, **usual, **cell.variables},
        ) as server,
    ):
        port = int(server.wait_for_text(r"127\.0\.0\.1:(\d+)\D")[1])
        statuses = ask(cell, port, server.wait_for_text)
        ended = server.stop(cell.end, group=cell.end == signal.SIGINT)
        assert ended in (0, -cell.end), server.said()
    return Said(server.lines(), b"".join(server.err).decode(), statuses)


def get(port: int, path: str) -> int:
    """Ask for *path*, and return the status of the answer."""
    until = time.monotonic() + PATIENCE_S
    while True:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE_S)
        try:
            connection.request("GET", path, headers={"Connection": "close"})
            response = connection.getresponse()
            response.read()
            return response.status
        except ConnectionRefusedError:  # bound, and not listening yet
            assert time.monotonic() < until, "nobody listens"
            time.sleep(0.02)
        finally:
            connection.close()


def hang_up(port: int, path: str) -> None:
    """Ask for *path*, and break the connection as soon as the answer begins."""
    with socket.create_connection(("127.0.0.1", port), PATIENCE_S) as connection:
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        connection.recv(1, socket.MSG_PEEK)
        reset = struct.pack("ii", 1, 0)  # SO_LINGER for no time: RST
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, reset)
