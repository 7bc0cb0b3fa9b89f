"""A rendered line to stdout: one write, which never raises and never blocks for ever.

In: one line, bytes, without its newline. Out: the line on stdout, or a counted
loss. Invariant: no lock, so that a signal handler or ``__del__`` may log while
a line is written. Deliberately absent: levels and formats.
"""

import contextlib
import os
import select
import stat
import sys
import time
from typing import Final

from otel_logging import _trouble

#: How long a reader of a pipe may stop before lines are dropped rather than waited for.
PATIENCE_S: Final = 1.0
LOST: Final = "log lines lost: stdout takes none"


class Stdout:
    """Writes lines to whatever ``sys.stdout`` is at the time.

    While it is the original with a descriptor on POSIX, a line is one
    ``os.write``; else (pytest's capture, Jupyter, Windows) ``sys.stdout.write``.
    """

    def __init__(self) -> None:
        self.is_pipe = False  # or a socket: there a long line may be torn by another process
        self._fd = -1
        self._may_block = False
        self._patient = True
        with contextlib.suppress(Exception):
            fd = sys.__stdout__.fileno() if sys.__stdout__ is not None else -1
            mode = os.fstat(fd).st_mode
            self.is_pipe = stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)
            self._may_block = not stat.S_ISREG(mode)
            self._fd = fd if os.name == "posix" else -1

    def write(self, line: bytes) -> None:
        """Write *line* and a newline. Never raises: a loss is counted and reported."""
        try:
            if self._fd >= 0 and sys.stdout is sys.__stdout__:
                self._write_whole(line + b"\n")
            else:
                _write_text(line)
        except Exception as error:
            _trouble.report(LOST, detail=error)

    def _write_whole(self, data: bytes) -> None:
        # a blocking write to a full pipe would hold the caller for as long as the
        # reader sleeps, so one that may block is asked first
        while data:
            if self._may_block and not self._is_ready():
                raise TimeoutError("its reader has stopped reading")
            with contextlib.suppress(BlockingIOError):
                data = data[os.write(self._fd, data) :]

    def _is_ready(self) -> bool:
        poll = select.poll()
        poll.register(self._fd, select.POLLOUT)
        if poll.poll(0):
            self._patient = True
            return True
        # waited once: the lines after that are dropped at once until it reads again
        patience, self._patient = (PATIENCE_S if self._patient else 0.0), False
        deadline = time.monotonic() + patience
        while (left := deadline - time.monotonic()) > 0:
            if poll.poll(left * 1000):
                self._patient = True
                return True
        return False


def _write_text(line: bytes) -> None:
    stream = sys.stdout
    if stream is None:
        raise OSError("there is no stdout")
    text = line.decode() + "\n"
    try:
        stream.write(text)
    except UnicodeEncodeError:
        encoding = getattr(stream, "encoding", None) or "ascii"
        stream.write(text.encode(encoding, "backslashreplace").decode(encoding))
