"""Processes with a spool each, that do what a test says: forked of one that has the package loaded.

In: a method of ``Spool``, with what it takes. Out: what it returned. Each is a real process,
killed by a real signal; where Linux is, for the end of another's child is waited for.
"""

import os
import select
import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Client, Connection, Listener
from pathlib import Path
from typing import Any

from otel_logging import _diagnostics
from otel_logging.spool.queue import Spool
from otel_logging.spool.reading import Waiting
from tests.spools import ROOT as ROOT
from tests.spools import append, command, make, numbers, start


class Process:
    """One of them, seen from the test."""

    def __init__(self, listener: Listener) -> None:
        self._line = listener.accept()
        self.pid: int = self._line.recv()
        self._end = os.pidfd_open(self.pid)

    def do(self, what: str, *given: Any) -> Any:
        """Let it do *what*; return what that returned."""
        self.begin(what, *given)
        return self.result()

    def begin(self, what: str, *given: Any) -> None:
        self._line.send((what, given))

    def result(self) -> Any:
        """Return what was returned. Failure: raises what was raised."""
        found = self._line.recv()
        if isinstance(found, BaseException):
            raise found
        return found

    def kill(self) -> None:
        """Kill it; what it held is free when this returns."""
        signal.pidfd_send_signal(self._end, signal.SIGKILL)
        self.wait()

    def wait(self) -> None:
        select.select([self._end], [], [])
        os.close(self._end)
        self._line.close()


class Processes:
    """Makes them."""

    def __init__(self, listener: Listener) -> None:
        self.listener = listener
        self._first = Process(listener)

    def make(self, base: Path, **bounds: Any) -> Process:
        """Start one with a spool below *base*."""
        self._first.begin("fork", base, bounds)
        made = Process(self.listener)
        self._first.result()
        return made

    def fork(self, parent: Process) -> Process:
        """Let *parent* fork."""
        parent.begin("fork")
        made = Process(self.listener)
        parent.result()
        return made


@contextmanager
def processes() -> Iterator[Processes]:
    """Yield who makes them; all of them end with it."""
    with (
        tempfile.TemporaryDirectory() as place,
        Listener(str(Path(place, "line")), "AF_UNIX") as listener,
    ):
        script = "import sys; from tests.spool.processes import serve; serve(sys.argv[1])"
        first = start(*command(script, listener.address), cwd=ROOT, stdout=None, stderr=None)
        try:
            yield Processes(listener)
        finally:
            first.kill()
            first.wait()


# ---------------------------------------------------------------- inside of them


def serve(address: str) -> None:
    """Do what is asked for at *address*, until whoever asks is gone."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    spool: Spool | None = None
    line = _connected(address)
    while True:
        try:
            what, given = line.recv()
        except EOFError:
            os._exit(0)
        if what == "fork":
            if os.fork() == 0:
                line.close()
                if given:
                    spool = make(given[0], **given[1])
                line = _connected(address)
                continue
            found: Any = None
        elif what == "exit":
            os._exit(0)
        else:
            assert spool is not None
            try:
                found = _done(spool, what, *given)
            except Exception as error:
                found = error
        line.send(found)


def _connected(address: str) -> Connection:
    line = Client(address, "AF_UNIX")
    line.send(os.getpid())
    return line


def _done(spool: Spool, what: str, *given: Any) -> Any:
    if what == "append":
        return append(spool, *given)
    if what == "waiting":
        return [(each.name, numbers([each])) for each in spool.waiting()]
    if what == "delivered":
        return spool.delivered(Waiting(given[0], Path(given[0])))
    if what == "reported":
        return dict(_diagnostics.counts)
    return getattr(spool, what)(*given)
