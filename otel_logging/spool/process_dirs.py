"""Directories of processes: taken, held by a lock, emptied by others when their process is dead.

In: a destination's directory. Out: paths to write to, to read and to deliver from.
Invariant: nothing is done in a directory whose lock is not ours any more, since a neighbour may
have it; a directory with a segment in it is never removed. Deliberately absent: the lock around all
this, which is the spool's.
"""

import contextlib
import errno
import os
import time
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from otel_logging.spool import directories
from otel_logging.spool.directories import OPEN, SEALED
from otel_logging.spool.open_file import OpenFile, is_held, open_ours, try_lock
from otel_logging.spool.reading import content
from otel_logging.spool.segment import parse_all

_TRIES: Final = 5  # a neighbour may mistake our new directory for a dead process's
_all: Final = weakref.WeakSet["Held"]()


def in_use() -> set[Path | None]:
    """Return the directories of the destinations of this process."""
    return {each.destination_dir for each in _all}


class Held:
    """A process's directory of one destination; None: there is no disk.

    Concurrency: call it under the spool's lock, else two directories may be made.
    """

    def __init__(self, destination_dir: Path | None) -> None:
        self.destination_dir = destination_dir
        self._own: Path | None = None
        self.lock: OpenFile | None = None  # of our own
        self._lost: Path | None = None  # the last directory whose lock somebody has closed
        _all.add(self)

    def own(self) -> Path | None:
        """Return our directory; None without one, or if somebody has closed its lock: then a
        neighbour may have it by now.
        """
        own, lock = self._own, self.lock  # after ``close`` the spool's lock may not be held
        if lock is not None and not lock.is_ours():
            self._lost = own
            own = self._own = self.lock = None
        return own

    def is_lost(self, process_dir: Path) -> bool:
        """Say whether *process_dir* was ours, and a neighbour may have taken what was in it."""
        self.own()  # notes whether it is lost by now
        return process_dir == self._lost

    def own_dir(self) -> Path:
        """Return our directory. It is made at first, after a fork, and if somebody has removed it
        or closed its lock. Failure: raises OSError.
        """
        own = self.own()
        if own is None or not own.exists():
            if self.destination_dir is None:
                raise FileNotFoundError(errno.ENOENT, "no directory was given")
            own, lock = _take(self.destination_dir)
            self.let_go()
            self._own, self.lock = own, lock
        return own

    def leave(self) -> None:
        """Hold nothing any more; our directory goes if it is empty."""
        if (own := self.own()) is not None:
            remove_if_empty(own)
        self.let_go()

    def let_go(self) -> None:
        """Hold nothing, in a child: the directory is its parent's. The lock is closed and not
        unlocked, which would free the parent's.
        """
        lock, self._own, self.lock = self.lock, None, None
        if lock is not None:
            lock.close()


def _take(destination_dir: Path) -> tuple[Path, OpenFile]:
    """Make a directory for this process; return it and the descriptor that holds its lock.

    Failure: raises OSError, and leaves nothing half made.
    """
    directories.safe_base(destination_dir.parent)
    directories.private_directory(destination_dir)
    directories.private_directory(destination_dir / directories.SENT)
    for _ in range(_TRIES):
        taken = destination_dir / f"{os.getpid()}-{time.time_ns()}"
        # until it is locked, a neighbour may take it for a dead process's
        with contextlib.suppress(FileNotFoundError):
            directories.make_directory(taken)
            lock = _new_lock(taken)
            if try_lock(lock.fd) and taken.exists():
                return taken, lock
            lock.close()
    raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN), str(destination_dir))


def _new_lock(process_dir: Path) -> OpenFile:
    try:
        return OpenFile(directories.create(process_dir / "lock"))
    except OSError:
        with contextlib.suppress(OSError):
            process_dir.rmdir()
        raise


def abandoned(destination_dir: Path, ours: Path | None = None) -> Iterator[Path]:
    """Yield each directory whose process is dead, the oldest first. Its segments are sealed, and it
    is locked until the next one is asked for.

    Failure: never raises; if a directory cannot be locked, its process is alive, or a neighbour has
    it.
    """
    found = directories.listed(destination_dir)
    for process_dir in sorted(found, key=lambda path: path.name.rpartition("-")[2]):
        # ours is not even opened: where flock is fcntl's (NFS), to close it would free our lock
        if process_dir.name != directories.SENT and process_dir != ours:
            lock = _take_over(process_dir)
            if lock is not None:
                try:
                    yield process_dir
                finally:
                    lock.release()


def move_segments(process_dir: Path, own: Path) -> None:
    """Move what a dead process left to *own*, and remove its directory. Failure: OSError."""
    for left in directories.listed_now(process_dir, SEALED):
        left.rename(own / directories.sent(left).name)
    remove_if_empty(process_dir)


def _take_over(process_dir: Path) -> OpenFile | None:
    try:
        lock = OpenFile(open_ours(process_dir / "lock", os.O_WRONLY))
    except OSError:
        with contextlib.suppress(OSError):
            process_dir.rmdir()  # works only if it is empty: its process died before it had a lock
        return None
    opened = directories.listed(process_dir, OPEN)
    # two cases: its process lives, or another neighbour was quicker; or its lock was
    # closed by somebody, and its process has not noticed yet
    if not try_lock(lock.fd) or any(map(is_held, opened)):
        lock.close()
        return None
    for left in opened:
        with contextlib.suppress(OSError):
            if data := content(left):
                if torn := sum(each.torn for each in parse_all(data)):
                    os.truncate(left, len(data) - torn)  # a sealed segment is whole
                left.rename(left.with_suffix(SEALED))
            else:  # killed before the header was written: no append had returned
                left.unlink()
    return lock


def running(destination_dir: Path) -> int:
    """Return how many processes use a destination."""
    return sum(is_held(each / "lock") for each in directories.listed(destination_dir))


def remove_if_empty(process_dir: Path) -> None:
    """Remove a process's directory, if no segment is in it. Never raises."""
    with contextlib.suppress(OSError):  # too many open files to find that out, say
        if not any(directories.listed_now(process_dir, suffix) for suffix in (SEALED, OPEN)):
            files = directories.listed(process_dir)  # the lock, and any other file of ours
            for path in [path for path in files if path.suffix not in (SEALED, OPEN)]:
                path.unlink(missing_ok=True)
            process_dir.rmdir()  # not its whole tree: this fails rather than lose a span


def write_file(path: Path, data: bytes) -> None:
    """Write a whole file, or leave what was there and raise OSError."""
    filling = path.with_suffix(OPEN)
    try:
        fd = directories.create(filling)
        try:  # not open(), which is gone before the last finalisers are
            left = memoryview(data)
            while left:
                left = left[os.write(fd, left) :]
        finally:
            os.close(fd)
        filling.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            filling.unlink()
        raise
