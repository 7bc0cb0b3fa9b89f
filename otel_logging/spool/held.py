"""The directories that a process holds: its own, and those adopted of dead ones.

In: a destination's directory. Out: paths to write to, to read and to deliver from.
Invariant: nothing is done in a directory whose lock is not ours any more: a neighbour may
have it. Deliberately absent: the lock around all this, which is the spool's.
"""

import contextlib
import errno
import os
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Final

from otel_logging.spool import directories
from otel_logging.spool.descriptor import Descriptor
from otel_logging.spool.directories import OPEN, SEALED

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
        self.locks: dict[Path, Descriptor] = {}
        _all.add(self)

    def take(self) -> Path:
        """Make a directory of our own. Failure: raises OSError."""
        if self.destination_dir is None:
            raise FileNotFoundError(errno.ENOENT, "no directory was given")
        own, lock = directories.take(self.destination_dir)
        if self.own is not None:  # somebody removed it
            self.locks.pop(self.own).close()
        self.own, self.locks[own] = own, lock
        return own

    def own_dir(self) -> Path:
        """Return our directory; a new one after a fork, or if somebody removed it or closed what
        holds it. Failure: raises OSError.
        """
        self.let_go()
        return self.own if self.own is not None and self.own.exists() else self.take()

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

    def adopt(self, on_adopt: Callable[[Path], None]) -> None:
        """Take over the directories of dead processes; *on_adopt* is called with each."""
        if self.destination_dir is not None:
            for each, lock in directories.abandoned(self.destination_dir, self.all()):
                self.locks[each] = lock
                on_adopt(each)

    def give_back(self) -> None:
        """Remove the adopted directories that are empty now."""
        for each, lock in list(self.locks.items()):
            if each != self.own and lock.is_ours() and directories.is_empty(each):
                self.locks.pop(each, None)
                directories.remove_process_dir(each)
                lock.close()

    def leave(self) -> None:
        """Hold nothing any more; our own directory goes if it is empty."""
        self.let_go()
        if self.own is not None and directories.is_empty(self.own):
            directories.remove_process_dir(self.own)
        self.after_fork()

    def after_fork(self) -> None:
        """Hold nothing, as in a child: its parent does. An unlock would free the parent's lock, a
        close does not.
        """
        locks, self.own, self.locks = self.locks, None, {}
        for lock in locks.values():
            lock.close()


def set_apart(destination_dir: Path, segment: bytes) -> None:
    """Write *segment* into a directory of its own, and leave that. Failure: raises OSError."""
    own, lock = directories.take(destination_dir)
    try:
        write_file(own / f"000001{SEALED}", segment)
    except OSError:
        directories.remove_process_dir(own)
        raise
    finally:
        lock.close()


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
