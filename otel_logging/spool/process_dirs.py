"""Directories of processes: taken, held by their locks, adopted when their process is dead.

In: a destination's directory. Out: paths to write to, to read and to deliver from.
Invariant: nothing is done in a directory whose lock is not ours any more: a neighbour may
have it; one with a segment in it is never removed. Deliberately absent: the lock around all
this, which is the spool's.
"""

import contextlib
import errno
import itertools
import os
import time
import weakref
from collections.abc import Callable, Container, Iterator
from pathlib import Path
from typing import Final

from otel_logging.spool import directories
from otel_logging.spool.directories import OPEN, SEALED
from otel_logging.spool.open_file import OpenFile, check, is_held, pwrite, try_lock

#: Directories at once: each has a descriptor, of which the application may have but 256.
MOST_HELD: Final = 32
_TRIES: Final = 5  # to take a directory that a neighbour takes for a dead process's
_all: Final[weakref.WeakSet["Held"]] = weakref.WeakSet()


def in_use() -> set[Path | None]:
    """Return the directories of the destinations of this process."""
    return {each.destination_dir for each in _all}


class Held:
    """A process's directories of one destination; with None, there is no disk.

    Concurrency: called under the spool's lock, but for ``adopt`` and ``give_back``, which one
    thread calls at a time.
    """

    def __init__(self, destination_dir: Path | None) -> None:
        self.destination_dir = destination_dir
        self.own: Path | None = None
        #: What holds the lock of each: of our own, and of those adopted.
        self.locks: dict[Path, OpenFile] = {}
        _all.add(self)

    def own_dir(self) -> Path:
        """Return our directory; a new one at first, after a fork, or if somebody removed it or
        closed what holds it. Failure: raises OSError.
        """
        self.let_go()
        if self.own is None or not self.own.exists():
            if self.destination_dir is None:
                raise FileNotFoundError(errno.ENOENT, "no directory was given")
            own, lock = _take(self.destination_dir)
            if self.own is not None:
                self.locks.pop(self.own).close()
            self.own, self.locks[own] = own, lock
        return self.own

    def let_go(self) -> None:
        """Give up the directories whose own lock somebody has closed: a neighbour may have it by
        now. What is in them is adopted, by it or by us.
        """
        for each, lock in list(self.locks.items()):
            if not lock.is_ours():
                self.locks.pop(each, None)
        if self.own not in self.locks:
            self.own = None

    def all(self) -> list[Path]:
        """Return the adopted ones, and then our own."""
        return sorted(self.locks, key=lambda each: each == self.own)

    def adopt(self, on_adopt: Callable[[Path], None]) -> bool:
        """Take over directories of dead processes; *on_adopt* is called with each. Return whether
        that was as many as are held at once, and there may be more.
        """
        if self.destination_dir is None:
            return False
        found, room = abandoned(self.destination_dir, self.all()), MOST_HELD - len(self.locks)
        taken = list(itertools.islice(found, max(room, 0)))
        for each, lock in taken:
            self.locks[each] = lock
            with contextlib.suppress(OSError):
                pwrite(lock.fd, b"adopted", 0)  # for ``running``
            on_adopt(each)
        return 0 < room == len(taken)

    def give_back(self) -> None:
        """Remove the adopted directories that are empty now, and keep the locks of all young."""
        for each, lock in list(self.locks.items()):
            with contextlib.suppress(OSError):  # what cleans /tmp removes old files, and it is none
                os.utime(each / "lock")
            if each != self.own and lock.is_ours() and remove_if_empty(each):
                self.locks.pop(each, None)
                lock.close()

    def leave(self) -> None:
        """Hold nothing any more; our own directory goes if it is empty."""
        self.let_go()
        if self.own is not None:
            remove_if_empty(self.own)
        self.after_fork()

    def after_fork(self) -> None:
        """Hold nothing, as in a child: its parent does. An unlock would free the parent's lock, a
        close does not.
        """
        locks, self.own, self.locks = self.locks, None, {}
        for lock in locks.values():
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
        return OpenFile(directories.create(process_dir / "lock", os.O_WRONLY))
    except OSError:
        with contextlib.suppress(OSError):
            process_dir.rmdir()
        raise


def abandoned(
    destination_dir: Path, ours: Container[Path | None]
) -> Iterator[tuple[Path, OpenFile]]:
    """Take the lock of each directory whose process is dead, oldest first, and seal what is in it.

    Failure: never raises; one that cannot be had belongs to a process that lives, or to a
    neighbour.
    """
    found = directories.listed(destination_dir)
    for process_dir in sorted(found, key=lambda path: path.name.rpartition("-")[2]):
        # not even tried on ours: where flock is made of fcntl's (NFS), we would lose it
        if process_dir.name != directories.SENT and process_dir not in ours:
            lock = _take_over(process_dir)
            if lock is not None:
                yield process_dir, lock


def _take_over(process_dir: Path) -> OpenFile | None:
    try:
        path = process_dir / "lock"
        fd = os.open(path, os.O_WRONLY | getattr(os, "O_NOFOLLOW", 0))
        lock = OpenFile(check(fd, path))
    except OSError:
        with contextlib.suppress(OSError):
            process_dir.rmdir()  # if it is empty: its maker died before it had a lock
        return None
    opened = directories.listed(process_dir, OPEN)
    # there are two cases: its process lives, or another neighbour was quicker; its lock was
    # closed by somebody, and its process has not noticed yet
    if not try_lock(lock.fd) or any(map(is_held, opened)):
        lock.close()
        return None
    for left in opened:
        with contextlib.suppress(OSError):
            if left.lstat().st_size:
                left.rename(left.with_suffix(SEALED))
            else:  # its process was killed before the header: no append had returned
                left.unlink()
    return lock


def running(destination_dir: Path) -> int:
    """Return how many processes use a destination; what they adopted of dead ones is none."""
    count = 0
    for each in directories.listed(destination_dir):
        if is_held(lock := each / "lock"):
            with contextlib.suppress(OSError):  # it ended meanwhile
                count += not lock.lstat().st_size
    return count


def remove_if_empty(process_dir: Path) -> bool:
    """Remove a process's directory, if no segment is in it; return whether it is gone."""
    with contextlib.suppress(OSError):  # too many open files to find that out, say
        if any(directories.listed_now(process_dir, suffix) for suffix in (SEALED, OPEN)):
            return False
        files = directories.listed(process_dir)  # the lock; what other files of ours there are
        for path in [path for path in files if path.suffix not in (SEALED, OPEN)]:
            path.unlink(missing_ok=True)
        process_dir.rmdir()  # and not its whole tree: this fails rather than lose a span
        return True
    return False


def write_file(path: Path, data: bytes) -> None:
    """Write a whole file, or leave what was there and raise OSError."""
    filling = path.with_suffix(OPEN)
    try:
        fd = directories.create(filling, os.O_WRONLY | getattr(os, "O_BINARY", 0))
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
