"""A standard stream's descriptor: writes that never block for long, even if its reader stops.

In: a stream, bytes. Out: the bytes on its descriptor, or an error. Invariant: no lock but one that
its thread may take again, so that a signal handler or ``__del__`` may write while a line is
written; nobody waits for it for long. Deliberately absent: what is lost.
"""

import errno
import io
import os
import stat
import sys
import time
from collections.abc import Callable
from typing import Any, Final, cast

from otel_logging._green import OfThread, as_it_was

if sys.platform == "win32":  # pragma: no cover - Windows
    import os as _system
else:
    # Not os and select: gevent and eventlet replace their functions by ones that wait in their
    # hub, for ever or not at all, and that let other greenlets write in the midst of a line.
    import posix as _system

#: After this long, lines are dropped if the reader has stopped. With the rest of a line's cost that
#: is 100 ms, which nobody notices in a request. A reader at work empties a pipe of 64 KiB in less.
PATIENCE_S: Final = 0.09
#: Errors of a system that lacks a way to write: try the next way.
_MISSING: Final = frozenset(
    {errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL, errno.ENOENT, errno.ENXIO, errno.EACCES}
)
#: The types of a ``TextIOWrapper``'s buffer, and of the file below that.
_PYTHONS: Final = ((io.BufferedWriter, io.FileIO), (io.FileIO, io.FileIO))
_SLOW: Final = "its reader has stopped reading, or is too slow"
_select: Final = as_it_was("select")
_RLock: Final = as_it_was("_thread").RLock
#: How many times its patience a line waits for its turn while the reader reads.
_TURNS: Final = 11
#: Held while a line is written, by descriptor: a terminal, a socket or a full pipe may take it in
#: parts, and another thread's line must not stand between them.
_turns: Final = dict[int, Any]()
if hasattr(os, "register_at_fork"):  # pragma: no branch - Windows has no fork
    os.register_at_fork(after_in_child=_turns.clear)
#: By thread: the function by which it empties one of Python's buffers.
_emptying: Final = OfThread()


class Descriptor:
    """The descriptor that *stream*, a standard stream or one of Python's own, writes to.

    Each line is one write. A line waits for the reader for a bounded time; then it is given up.
    The next lines are given up without a wait, until the reader reads again. ``fd`` is -1 where the
    stream has no descriptor.
    """

    def __init__(self, stream: Any) -> None:
        self.fd = -1
        self.is_pipe = False  # pipe or socket: another process may tear a long line there
        self.has_reader = False  # a pipe, a socket or a terminal, whose reader may stop
        self._stream = stream
        self._ways: tuple[Callable[[bytes], int], ...] = (self._write,)
        self._deadline = 0.0  # of the wait for a reader; 0: the last write went through
        self.is_torn = False  # the last line stands there without its end
        try:
            fd = -1 if stream is None else stream.fileno()
            mode = os.fstat(fd).st_mode
        except (OSError, ValueError):  # closed, or nothing with a descriptor
            return
        self.fd = fd if os.name == "posix" else -1
        self.is_pipe = stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)
        self.has_reader = _has_reader(fd)
        if self.has_reader:
            self._ways = (self._write_reopened, self._write_if_ready)
            if hasattr(os, "RWF_NOWAIT"):
                self._ways = (self._write_nowait, *self._ways)

    def flush(self, stream: Any, until: float) -> None:
        """Write what *stream*, one of Python's to it, keeps before a line.

        Failure: raises ``TimeoutError`` where there is no room by *until*, by the monotonic clock;
        what is left stays there. And ``RuntimeError`` in a forked child where a thread of the
        parent had the buffer's lock: nobody releases it there.
        """
        write = write_below(stream)
        if write and not {os.getpid()}.issuperset(write.busy):
            raise RuntimeError("a thread wrote to it while the process was forked")
        # another thread that writes holds the buffer's lock, perhaps for ever
        while self.has_reader and ((write and write.busy) or not self.has_room(0)):
            self._wait(until)
        with _emptying.doing(lambda data: self.put(data, until)[0]):
            stream.flush()

    def write(self, line: bytes, until: float = 0.0) -> None:
        """Write *line* and a newline, by *until* (0: for a line's patience).

        Failure: raises ``OSError``, or what a closed stream raises.
        """
        if not is_standard(self.fd) and (self.fd < 3 or self._stream.fileno() != self.fd):
            raise OSError("it was closed, and its number is another file's")
        turn = self._turn() if self.has_reader else None
        left = data = b"\n%b\n" % line if self.is_torn else line + b"\n"
        try:
            while left:
                try:  # as ``put`` does, at less cost
                    written = self._ways[0](left)
                    self._deadline = 0.0
                except OSError:
                    written, until = self.put(left, until)
                left = left[written:]
        finally:
            self.is_torn = bool(left) and (self.is_torn or len(left) < len(data))
            if turn:
                turn.release()

    def _turn(self) -> Any:
        """Return this thread's turn, to be released; None if the thread that had it is gone.

        Failure: raises ``TimeoutError`` where others wait for a reader that is too slow.
        """
        turn = _turns.get(self.fd) or _turns.setdefault(self.fd, _RLock())
        for _ in range(_TURNS):
            if turn.acquire(1, PATIENCE_S):
                return turn
            if not self.has_room(0):
                raise TimeoutError(_SLOW)
        _turns.clear()  # forked in C while another thread had it
        return None

    def put(self, data: bytes, until: float) -> tuple[int, float]:
        """Write some of *data*; return how much, and until when there is patience for the rest."""
        while True:
            ways = self._ways  # another thread may find out the same meanwhile
            try:
                written = ways[0](data)
                self._deadline = 0.0
                return written, until
            except BlockingIOError:
                until = self._wait(until)
            except OSError as error:
                if error.errno not in _MISSING or len(ways) == 1:
                    raise
                # after dup2() it may be a file, which has no reader
                self._ways = ways[1:] if _has_reader(self.fd) else (self._write,)

    def _wait(self, until: float) -> float:
        """Wait for room, *until* then, a line's deadline (0: its first wait); return the deadline.

        All threads that wait for a reader that has stopped give up together.
        """
        now = time.monotonic()  # read once: on a busy machine two readings differ
        until = until or self._deadline or now + PATIENCE_S
        self._deadline = together = self._deadline or until  # another thread may clear it
        if (left_s := min(until, together) - now) <= 0:
            raise TimeoutError(_SLOW)
        self.has_room(left_s)
        return until

    def has_room(self, patience_s: float) -> bool:
        """Say whether something can be written now, or within *patience_s*."""
        poll = _select.poll()
        poll.register(self.fd, _select.POLLOUT)
        return bool(poll.poll(patience_s * 1000))

    # ---- ways to write, the best one first: os.write alone would hold the caller for as
    # ---- long as the reader sleeps, and O_NONBLOCK on the descriptor would hold for every
    # ---- process that shares it

    def _write_nowait(self, data: bytes) -> int:
        """Linux from 6.4 on, pipes and sockets, no terminals: this one write does not block."""
        return os.pwritev(self.fd, (data,), -1, os.RWF_NOWAIT)

    def _write_reopened(self, data: bytes) -> int:
        """Linux, pipes and terminals: write through a description of our own.

        Not kept: an application that closes descriptors would give it to another file.
        """
        fd = _system.open(f"/proc/self/fd/{self.fd}", os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY)
        try:
            if stat.S_ISREG(os.fstat(fd).st_mode):  # by dup2(): this would write at its beginning
                raise OSError(errno.EINVAL, "it is a file now")
            return _system.write(fd, data)
        finally:
            _system.close(fd)

    def _write_if_ready(self, data: bytes) -> int:
        """Elsewhere: ask, then write what fits, unless another takes the last room meanwhile."""
        if not self.has_room(0):
            raise BlockingIOError
        return _system.write(self.fd, data[: _select.PIPE_BUF])

    def _write(self, data: bytes) -> int:
        """Write to a file, or to a device like /dev/null: no reader that could stop."""
        return _system.write(self.fd, data)


def _has_reader(fd: int) -> bool:
    mode = os.fstat(fd).st_mode
    return stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode) or os.isatty(fd)


class _Write:
    """``write`` of the file below a buffer of Python's: before a line it does not wait for long."""

    __slots__ = ("_write", "busy")
    _pid = staticmethod(os.getpid)  # the module has no names at the interpreter's end

    def __init__(self, raw: Any) -> None:
        self._write = raw.write
        #: The process id of each thread that is writing now. A child has no thread of its parent's.
        self.busy: list[int] = []

    def __call__(self, data: Any) -> Any:
        if _emptying and (put := _emptying.mine()):  # None at the interpreter's end
            return put(data)
        self.busy.append(pid := self._pid())
        try:
            return self._write(data)
        finally:
            self.busy.remove(pid)


def write_below(binary: Any) -> _Write | None:
    """Replace ``write`` of the file below *binary* with ours and return it; None without a file."""
    raw = getattr(binary, "raw", None)
    if raw is not None and type(raw.write) is not _Write:
        raw.write = _Write(raw)
    return raw and cast("_Write", raw.write)


def fd_of(stream: Any) -> int:
    """Return the descriptor below one of Python's own wrappers; -1 for any other *stream*.

    By type: a class of the application's may have a ``fileno`` too, and do more than write to it.
    """
    try:
        if type(stream) is not io.TextIOWrapper:
            return -1
        binary: Any = stream.buffer
        file = getattr(binary, "raw", binary)
        return int(file.fileno()) if (type(binary), type(file)) in _PYTHONS else -1
    except (OSError, ValueError):  # detached, or closed
        return -1


#: Returns whether descriptor *fd* (1, 2) is still a standard stream, redirected or not.
#: Failure: raises OSError if it is closed. What Python opens is not inherited by
#: other programs, unlike a standard stream: so a file that got the number of a closed
#: one is recognised.
is_standard: Final[Callable[[int], bool]] = (
    os.get_inheritable if os.name == "posix" else lambda _: True
)
