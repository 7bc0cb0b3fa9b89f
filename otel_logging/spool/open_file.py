"""Open files of ours: recognised by their position, locked, written at an offset.

In: descriptors. Invariant: before we write to a descriptor, or close it, we check that it still is
our file. Deliberately absent: paths.
"""

import contextlib
import errno
import os
import sys
from pathlib import Path
from typing import Final


def open_ours(path: Path, flags: int) -> int:
    """Open a file of ours, new ones for us alone; no link is followed, and no pipe waited for.

    Failure: raises OSError, also where its number is another file's by now.
    """
    special = sum(getattr(os, name, 0) for name in ("O_NOFOLLOW", "O_NONBLOCK", "O_BINARY"))
    return check(_open(path, flags | special, 0o600), path)


def check(fd: int, path: Path) -> int:
    """Return *fd*, just opened, if it is the file at *path*.

    While this thread waited to go on, another one may have closed every descriptor, and
    opened a file of its own. Failure: raises OSError, and leaves that file alone.
    """
    if os.path.samestat(os.fstat(fd), path.lstat()):
        return fd
    raise OSError(errno.EBADF, os.strerror(errno.EBADF), str(path))


if sys.platform == "win32":  # pragma: no cover - Windows
    import msvcrt
    from os import open as _open

    def try_lock(fd: int) -> bool:
        """Lock the file, if no other process has; say whether."""
        try:
            msvcrt.locking(fd, msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True

    def pwrite(fd: int, data: bytes, position: int) -> int:
        """Do what ``os.pwrite`` does on POSIX."""
        mark = os.lseek(fd, 0, os.SEEK_CUR)
        os.lseek(fd, position, os.SEEK_SET)
        try:
            return os.write(fd, data)
        finally:
            os.lseek(fd, mark, os.SEEK_SET)
else:
    import fcntl

    # not that of os: eventlet's makes a hub, with descriptors, in each thread
    from posix import open as _open

    def try_lock(fd: int) -> bool:
        """Lock the file, if no other process has; say whether."""
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
        return True

    pwrite = os.pwrite


def is_held(path: Path) -> bool:
    """Say whether a process holds the file at *path*."""
    try:
        opened = OpenFile(open_ours(path, os.O_RDONLY))
    except OSError:
        return False
    try:
        return not try_lock(opened.fd)
    finally:
        opened.close()


#: From here to twice as far no application reads or writes a file.
_FAR: Final = 1 << 30
_seek: Final = os.lseek


class OpenFile:
    """An open file of ours, recognised by its position, which no other open file has.

    Something may close every descriptor of the process, as a daemon does, and
    give our number to a file of its own. Then nothing may be written to that
    number, nor may it be closed. What is written is written with ``pwrite``, which
    leaves the position alone. Cost of ``is_ours``: one ``lseek``, a fifth of an
    ``fstat``. There is no lock around it and what follows: a number that changes
    hands in that microsecond is not noticed.
    """

    __slots__ = ("_mark", "fd")

    def __init__(self, fd: int) -> None:
        # not by ``random``: the application may have seeded it
        far = _FAR + int.from_bytes(os.urandom(4), "big") % _FAR
        self._mark = os.lseek(fd, far, os.SEEK_SET)
        self.fd = fd

    def is_ours(self) -> bool:
        """Say whether the descriptor still is our file. Never raises."""
        try:
            return _seek(self.fd, 0, 1) == self._mark  # os.SEEK_CUR
        except OSError:
            return False

    def close(self) -> None:
        """Close it, if it is ours. Never raises."""
        if self.is_ours():
            with contextlib.suppress(OSError):
                os.close(self.fd)
        self.fd = -1

    def release(self) -> None:
        """Unlock it, also for a forked child, which has the same lock, and close it."""
        if self.is_ours() and sys.platform != "win32":
            fcntl.flock(self.fd, fcntl.LOCK_UN)
        self.close()


class OpenSegment(OpenFile):
    """A segment being appended to; *since* when is monotonic, in s."""

    __slots__ = ("path", "since", "size")

    def __init__(self, path: Path, fd: int, since: float) -> None:
        super().__init__(fd)
        self.path = path
        self.size = 0
        self.since = since

    def write(self, data: bytes) -> None:
        """Append *data*, or leave the file as it was and raise OSError."""
        # the descriptor is looked up with no call before the write: a fork in a signal
        # handler takes it away, and its number may be another file's by then
        written = pwrite(self.fd, data, self.size)
        if written != len(data):
            os.ftruncate(self.fd, self.size)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self.size += written
