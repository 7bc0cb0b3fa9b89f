"""A rendered line to stdout: one write, which never raises and never blocks for ever.

In: one line, bytes, without its newline. Out: the line on stdout, or a counted loss. Invariant: no
lock, so that a signal handler or ``__del__`` may log while a line is written.
"""

import errno
import io
import logging
import math
import os
import stat
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

from otel_logging import _diagnostics
from otel_logging._green import OfThread, as_it_was

if sys.platform == "win32":  # pragma: no cover - Windows
    import os as _system
else:
    # Not os and select: gevent and eventlet replace their functions by ones that wait in their
    # hub, for ever or not at all, and that let other greenlets write in the midst of a line.
    import posix as _system

#: How long a reader may stop before lines are dropped rather than waited for: 100 ms with all that
#: a line costs besides, which nobody notices in a request. A reader that lives empties a pipe of
#: 64 KiB in less.
PATIENCE_S: Final = 0.09
LOST: Final = "log lines lost: stdout takes none"

#: Errors of the system where a way to write is missing: try the next one.
_MISSING: Final = frozenset(
    {errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL, errno.ENOENT, errno.ENXIO, errno.EACCES}
)
#: Of a ``TextIOWrapper``: its buffer, and the file below that.
_PYTHONS: Final = ((io.BufferedWriter, io.FileIO), (io.FileIO, io.FileIO))
_select: Final = as_it_was("select")


class _Print:
    """``write`` of a stream that lines go past: it remembers what was printed last."""

    __slots__ = ("__self__", "last", "print")

    def __init__(self, stream: Any) -> None:
        self.__self__, self.print = stream, stream.write
        self.last = "\n"  # there may be something from before

    def __call__(self, text: str) -> Any:
        written = self.print(text)
        self.last = text or self.last
        return written


class Stdout:
    """Writes lines to whatever ``sys.stdout`` is at the time.

    The original, and Python's own wrappers of its descriptor, get one write to the descriptor; any
    other gets ``sys.stdout.write``, unless it logs what it is given (as Celery's): then the
    original is written to. A line that finds no reader for ``PATIENCE_S`` is dropped, and the next
    ones without a wait, until the reader reads again.
    """

    def __init__(self) -> None:
        self.is_pipe = False  # or a socket: there a long line may be torn by another process
        self._fd = -1
        self._ways: tuple[Callable[[bytes], int], ...] = (self._write,)
        self._deadline = 0.0  # of the wait for a reader; 0: the last write went through
        self._torn = False  # the last line stands there without its end
        self._judged: tuple[Any, bool] = (None, False)  # the last ``sys.stdout``; is it passed by?
        try:
            fd = -1 if sys.__stdout__ is None else sys.__stdout__.fileno()
            mode = os.fstat(fd).st_mode
        except (OSError, ValueError):  # closed, or nothing with a descriptor
            return
        self._fd = fd if os.name == "posix" else -1
        with suppress(Exception):  # closed
            self._notice(sys.__stdout__)
            self._is_passed_by(sys.stdout)
        self.is_pipe = stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)
        if self.is_pipe or os.isatty(fd):
            self._ways = (self._write_reopened, self._write_if_ready)
            if hasattr(os, "RWF_NOWAIT"):
                self._ways = (self._write_nowait, *self._ways)

    def columns(self) -> float:
        """Return how wide the terminal is now; endless where there is none."""
        try:
            return os.get_terminal_size(self._fd).columns or math.inf
        except OSError:
            return math.inf

    def write(self, line: bytes) -> None:
        """Write *line* and a newline. Never raises: a loss is counted and reported."""
        try:
            stream = sys.stdout
            is_other = stream is not sys.__stdout__
            if is_other and not self._is_passed_by(stream):
                if _write_text(stream, line):
                    return
                self._judged = (stream, True)
            if self._fd < 0:
                _write_text(sys.__stdout__, line)
                return
            printed = stream.write
            if type(printed) is _Print and printed.last:  # in its buffer, perhaps
                is_whole, printed.last = printed.last[-1] == "\n", ""
                self._flush(stream)
                self._torn = self._torn or not is_whole
            self._write_whole(b"\n%b\n" % line if self._torn else line + b"\n")
        except Exception as error:
            _diagnostics.report(LOST, detail=error)

    def _is_passed_by(self, stream: Any) -> bool:
        """Say whether lines go past *stream*: it has a logger, or is the descriptor's."""
        seen, is_passed_by = self._judged
        if seen is not stream:
            parts = getattr(stream, "__dict__", {}).values()
            is_passed_by = self._is_same(stream) or any(
                isinstance(part, (logging.Logger, logging.LoggerAdapter)) for part in parts
            )
            self._judged = (stream, is_passed_by)
            if is_passed_by:
                self._notice(stream)
        return is_passed_by

    def _notice(self, stream: Any) -> None:
        if type(getattr(stream, "write", None)) is _Print:
            stream.write.last = "\n"
        elif self._is_same(stream):
            stream.write = _Print(stream)

    def _is_same(self, stream: Any) -> bool:
        """Say whether *stream* is Python's own wrapper of the original's descriptor.

        Its write would hold the caller for as long as the reader sleeps. By type: one of an
        application's may say that it has the descriptor, and do more than write to it.
        """
        if type(stream) is not io.TextIOWrapper or self._fd < 0:
            return False
        file: Any = getattr(stream.buffer, "raw", stream.buffer)
        return (type(stream.buffer), type(file)) in _PYTHONS and file.fileno() == self._fd

    def _flush(self, stream: Any) -> None:
        """Write what *stream* keeps before the line, where there is room for it."""
        try:
            if self._ways[0] == self._write or self._has_room(0):
                stream.flush()
        except Exception:  # closed, or in the midst of a write: what it keeps is not ours
            return

    def _write_whole(self, data: bytes) -> None:
        left, until = data, 0.0
        if not os.get_inheritable(self._fd):  # see _diagnostics.is_standard
            raise OSError("it was closed, and its number is another file's")
        try:
            while left:
                ways = self._ways  # another thread may find out the same meanwhile
                try:
                    left = left[ways[0](left) :]
                    self._deadline = 0.0
                except BlockingIOError:
                    until = self._wait(until)
                except OSError as error:
                    if error.errno not in _MISSING or len(ways) == 1:
                        raise
                    self._ways = ways[1:]
        finally:
            self._torn = bool(left) and (self._torn or len(left) < len(data))

    def _wait(self, until: float) -> float:
        """Wait for room, *until* then, a line's deadline (0: its first wait); return the deadline.

        All threads that wait for a reader that has stopped give up together.
        """
        until = until or self._deadline or time.monotonic() + PATIENCE_S
        self._deadline = together = self._deadline or until  # another thread may clear it
        patience_s = min(until, together) - time.monotonic()
        if patience_s <= 0:
            raise TimeoutError("its reader has stopped reading, or is too slow")
        self._has_room(patience_s)
        return until

    def _has_room(self, patience_s: float) -> bool:
        poll = _select.poll()
        poll.register(self._fd, _select.POLLOUT)
        return bool(poll.poll(patience_s * 1000))

    # ---- ways to write, the best one first: os.write alone would hold the caller for as
    # ---- long as the reader sleeps, and O_NONBLOCK on the descriptor would hold for every
    # ---- process that shares it

    def _write_nowait(self, data: bytes) -> int:
        """Linux from 6.4 on, pipes and sockets, no terminals: this one write does not block."""
        return os.pwritev(self._fd, (data,), -1, os.RWF_NOWAIT)

    def _write_reopened(self, data: bytes) -> int:
        """Linux, pipes and terminals: write through a description of our own.

        Not kept: an application that closes descriptors would give it to another file.
        """
        fd = _system.open(f"/proc/self/fd/{self._fd}", os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY)
        try:
            return _system.write(fd, data)
        finally:
            _system.close(fd)

    def _write_if_ready(self, data: bytes) -> int:
        """Elsewhere: ask, then write what fits, unless another takes the last room meanwhile."""
        if not self._has_room(0):
            raise BlockingIOError
        return _system.write(self._fd, data[: _select.PIPE_BUF])

    def _write(self, data: bytes) -> int:
        """Write to a file, or to a device like /dev/null: no reader that could stop."""
        return _system.write(self._fd, data)


#: By thread: the first line of what it gives to ``sys.stdout`` just now; True once that logged it.
_writing = OfThread()


def is_echo(event: Any) -> bool:
    """Say whether *event*, logged while a line is written, is that line: ``sys.stdout`` logs."""
    me = threading.get_ident()
    writing = _writing.get(me, False)
    if writing and writing is not True and issubclass(type(event), str) and writing in event:
        writing = _writing[me] = True
    return writing is True


def _write_text(stream: Any, line: bytes) -> bool:
    """Write *line* to *stream*; say whether it was one that does not log it."""
    if stream is None:
        raise OSError("there is none")
    me, text = threading.get_ident(), line.decode()
    outer = _writing.get(me)
    _writing[me] = text.partition("\n")[0]
    try:
        try:
            stream.write(text + "\n")
        except UnicodeEncodeError:
            encoding = getattr(stream, "encoding", None) or "ascii"
            stream.write((text + "\n").encode(encoding, "backslashreplace").decode(encoding))
        stream.flush()
        return _writing[me] is not True
    finally:
        _writing.put(me, outer)
