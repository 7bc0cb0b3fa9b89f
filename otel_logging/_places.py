"""The spool's directories: where they are, who holds them, and which segments are in them.

    <base>/<service>-<hash of destination>/        0700, one per destination: a home
        <pid>-<start>/                             0700, one per process: a place, held by flock
            lock
            000001.open                            being appended to
            000002.segment                         sealed, waits for delivery
        sent/                                      delivered, kept within the bound

In: paths. Out: paths, and what ``_segment`` reads in them. Invariant: no
symbolic link is followed, no other user's directory is used, and a place
with a segment in it is never removed. Deliberately absent: writing segments.
"""

import contextlib
import errno
import hashlib
import os
import re
import shutil
import stat
import sys
import tempfile
import time
from collections.abc import Container, Iterator
from pathlib import Path
from typing import Final

from otel_logging import _trouble
from otel_logging._segment import Contents, parse

OPEN: Final = ".open"
SEALED: Final = ".segment"
MAKING: Final = ".making"  # unfinished: gone with its process
SENT: Final = "sent"
LOGS: Final = ".logs"  # at the end of a home's name: log records are in it, never spans
_MAKING_S: Final = 60.0  # a place that is still unnamed after that belongs to a dead process

DROPPED_BOUND: Final = "segments dropped undelivered: the spool is over its bound"


def destination(service: str, endpoint: str, protocol: str) -> str:
    """Return the name of the directory for one destination; the same three give the same name."""
    told = "\0".join((service, endpoint, protocol)).encode("utf-8", "backslashreplace")
    name = re.sub(r"[^A-Za-z0-9_.-]+", "-", service)[:48].strip(".-")
    return name + "-" + hashlib.sha256(told).hexdigest()[:12]


def default_base() -> Path:
    """Return the user's own place for state that outlives a process."""
    from platformdirs import user_state_path

    return user_state_path("otel_logging", appauthor=False)


def fallback_base() -> Path:
    """Return where the spool goes when the user has no writable home directory."""
    return Path(tempfile.gettempdir()) / f"otel_logging-{_user()}"


def temporary_base() -> Path:
    """Make a spool directory for this process alone; the caller removes it."""
    return Path(tempfile.mkdtemp(prefix="otel_logging-"))


def remove(base: Path) -> None:
    """Remove a temporary spool directory. Never raises."""
    shutil.rmtree(base, ignore_errors=True)


def _user() -> int:
    return os.geteuid() if hasattr(os, "geteuid") else 0


class UnsafeError(PermissionError):
    """A directory is not used, since another user could lead our files elsewhere by it."""

    def __init__(self, reason: str, path: Path) -> None:
        super().__init__(errno.EPERM, reason, str(path))


def _make_directory(path: Path) -> None:
    """Make *path*, and those above it that are missing: 0700, whatever the umask."""
    for missing in reversed([place for place in (path, *path.parents) if not place.exists()]):
        with contextlib.suppress(FileExistsError):  # another process was quicker
            missing.mkdir()
            missing.chmod(0o700)


def _safe_base(base: Path) -> None:
    """Make *base* if it is missing; raise OSError if others may rename what is in it."""
    _make_directory(base)
    mode = base.stat().st_mode
    if not stat.S_ISDIR(mode):
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(base))
    # on Windows the mode says nothing of others
    if hasattr(os, "geteuid") and mode & stat.S_IWOTH and not mode & stat.S_ISVTX:
        raise UnsafeError("others may write to it, and it has no sticky bit", base)


def _private_directory(path: Path) -> None:
    """Make *path* a directory of ours alone, or raise OSError."""
    _make_directory(path)
    found = path.lstat()
    if stat.S_ISLNK(found.st_mode):
        raise UnsafeError("a symbolic link", path)
    if not stat.S_ISDIR(found.st_mode):
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(path))
    if hasattr(os, "geteuid") and found.st_uid != os.geteuid():
        raise UnsafeError("belongs to another user", path)
    if found.st_mode & 0o777 != 0o700:
        path.chmod(0o700)


if sys.platform == "win32":  # pragma: no cover - Windows
    import msvcrt

    def _try_lock(fd: int) -> bool:
        try:
            msvcrt.locking(fd, msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True

    def hold(fd: int) -> None:
        """Do nothing: a lock would keep readers out, and an open file cannot be renamed."""

    def _is_held(segment: Path) -> bool:  # noqa: ARG001 - as elsewhere
        return False

    def pwrite(fd: int, data: bytes, position: int) -> int:
        """Do what ``os.pwrite`` does elsewhere."""
        mark = os.lseek(fd, 0, os.SEEK_CUR)
        os.lseek(fd, position, os.SEEK_SET)
        try:
            return os.write(fd, data)
        finally:
            os.lseek(fd, mark, os.SEEK_SET)
else:
    import fcntl

    def _try_lock(fd: int) -> bool:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
        return True

    def hold(fd: int) -> None:
        """Lock an open segment too: who has closed our place's lock leaves us this one."""
        _try_lock(fd)

    def _is_held(segment: Path) -> bool:
        try:
            fd = os.open(segment, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        except OSError:
            return False
        opened = Descriptor(fd)
        try:
            return not _try_lock(fd)
        finally:
            opened.close()

    pwrite = os.pwrite


#: Positions from here to twice as far are where no file of an application is read or written.
_FAR: Final = 1 << 30


class Descriptor:
    """An open file of ours, known again by a position in it that no other open file has.

    Something may close every descriptor of the process, as a daemon does, and
    give our number to a file of its own. Then nothing may be written to that
    number, nor may it be closed. What is written is written with ``pwrite``, which
    leaves the position alone. Cost of ``is_ours``: one ``lseek``, a fifth of an
    ``fstat``. There is no lock around it and what follows: a number that changes
    hands in that microsecond is not noticed.
    """

    __slots__ = ("_mark", "fd")

    def __init__(self, fd: int) -> None:
        # not of ``random``, whose numbers the application may have chosen
        far = _FAR + int.from_bytes(os.urandom(4), "big") % _FAR
        self._mark = os.lseek(fd, far, os.SEEK_SET)
        self.fd = fd

    def is_ours(self) -> bool:
        """Say whether the number still is that of our file. Never raises."""
        try:
            return os.lseek(self.fd, 0, 1) == self._mark  # os.SEEK_CUR
        except OSError:
            return False

    def close(self) -> None:
        """Close it, if it is ours. Never raises."""
        if self.is_ours():
            with contextlib.suppress(OSError):
                os.close(self.fd)
        self.fd = -1


# ---------------------------------------------------------------- places


def take(home: Path) -> tuple[Path, Descriptor]:
    """Make a place for this process; return it and the descriptor that holds its lock.

    Failure: raises OSError, and leaves nothing half made.
    """
    _safe_base(home.parent)
    if home.parent == fallback_base():  # a name in /tmp that anyone may have taken first
        _private_directory(home.parent)
    _private_directory(home)
    _private_directory(home / SENT)
    name = f"{os.getpid()}-{time.time_ns()}"
    # locked before it has its name, so that no neighbour takes it for a dead one's
    making, place = home / f".{name}", home / name
    lock = None
    try:
        _make_directory(making)
        lock = Descriptor(os.open(making / "lock", os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        _try_lock(lock.fd)
        making.rename(place)
    except Exception:
        remove_place(making)
        if lock is not None:
            lock.close()
        raise
    return place, lock


def abandoned(home: Path, ours: Container[Path | None]) -> Iterator[tuple[Path, Descriptor]]:
    """Take the lock of each place whose process is dead, oldest first, and seal what it left.

    Failure: never raises; a place that cannot be had is alive, or a neighbour's.
    """
    for place in sorted(_listed(home), key=_started):
        # not even tried on ours: where flock is made of fcntl's (NFS), we would lose it
        if place.name != SENT and place not in ours and not _is_new(place):
            lock = _take_over(place)
            if lock is not None:
                yield place, lock


def _take_over(place: Path) -> Descriptor | None:
    try:
        lock = Descriptor(os.open(place / "lock", os.O_WRONLY | getattr(os, "O_NOFOLLOW", 0)))
    except OSError:
        with contextlib.suppress(OSError):
            place.rmdir()  # if it is empty: its maker died before it had a lock
        return None
    opened = files(place, OPEN)
    # there are two cases: it is alive, or another neighbour was quicker; its lock was closed by
    # somebody, and it has not noticed yet
    if not _try_lock(lock.fd) or any(map(_is_held, opened)):
        lock.close()
        return None
    for left in opened:
        with contextlib.suppress(OSError):
            left.rename(left.with_suffix(SEALED))
    return lock


def _started(place: Path) -> str:
    return place.name.rpartition("-")[2]


def _is_new(place: Path) -> bool:
    """Whether *place* may still be on its way to a lock and a name."""
    started = _started(place)
    made = started.isdecimal() and time.time_ns() - int(started) > _MAKING_S * 1e9
    return place.name.startswith(".") and not made


def is_empty(place: Path) -> bool:
    """Whether no segment is in *place*; False where that cannot be told."""
    try:
        return not any(path.suffix in (SEALED, OPEN) for path in place.iterdir())
    except FileNotFoundError:
        return True
    except OSError:  # too many open files, say
        return False


def remove_place(place: Path) -> None:
    """Remove a place that is empty but for its lock, and what was never finished."""
    with contextlib.suppress(OSError):
        for path in (place / "lock", *files(place, MAKING)):
            path.unlink(missing_ok=True)
        place.rmdir()  # and not its whole tree: this fails rather than lose a span


def _sizes(home: Path) -> Iterator[tuple[bool, float, int, Path]]:
    """Yield whether it waits, when it was written (s since the epoch), its bytes: each segment."""
    for place in _listed(home):
        for path in (*files(place, SEALED), *files(place, OPEN)):
            with contextlib.suppress(OSError):
                found = path.lstat()
                yield place.name != SENT, found.st_mtime, found.st_size, path


def waiting_bytes(base: Path) -> dict[str, int]:
    """Return how much waits for delivery in each home below *base*, by its name. Never raises."""
    return {
        home.name: sum(size for waits, _, size, _ in _sizes(home) if waits)
        for home in _listed(base)
    }


def try_to_write(base: Path, size: int) -> None:
    """Write *size* bytes into *base*, and leave nothing, nor directories that were not there.

    Failure: raises OSError.
    """
    missing = [place for place in (base, *base.parents) if not place.exists()]
    try:
        _safe_base(base)
        with tempfile.TemporaryFile(dir=base, buffering=0) as file:
            if file.write(bytes(size)) < size:  # the next one would say why
                raise OSError(errno.ENOSPC, "not all bytes could be written", str(base))
    finally:
        for place in missing:
            with contextlib.suppress(OSError):  # it was not made; a service has begun to use it
                place.rmdir()


def prune(home: Path, *, bytes_bound: int, oldest: float) -> None:
    """Keep *home* within its bounds: sent segments go first, then waiting ones, oldest first,
    and of these it is said. *oldest* is in seconds since the epoch. Never raises.
    """
    with contextlib.suppress(OSError):
        _private_directory(home / SENT)  # somebody may have cleared it away
    rows = list(_sizes(home))
    total = sum(size for _, _, size, _ in rows)
    for waits, modified, size, path in sorted(rows):
        if path.suffix == OPEN or (total <= bytes_bound and modified >= oldest):
            continue
        with contextlib.suppress(OSError):
            # a neighbour that prunes too may have been quicker: no less room for that
            total -= size
            path.unlink()
            if waits:
                _trouble.report(DROPPED_BOUND)


# ---------------------------------------------------------------- reading


def segments(base: Path) -> list[Path]:
    """Return the segments of spans of every service and process below *base*: open, waiting, sent.

    Each once, though it may be sealed or delivered meanwhile. Failure: never
    raises; what cannot be read is not there.
    """
    homes = [home for home in _listed(base) if home.suffix != LOGS]
    places = [place for home in homes for place in _listed(home) if place.name != SENT]
    found = [path for place in places for path in files(place, OPEN)]
    # in this order: what moves on while we look is met twice rather than never
    found += [path for place in places for path in files(place, SEALED)]
    found += [path for home in homes for path in files(home / SENT, SEALED)]
    return list({sent(path): path for path in found}.values())


def load(path: Path) -> Contents | None:
    """Read one segment; None if it is gone or no segment.

    A segment that is being renamed meanwhile (sealed, delivered) is found under its new name.
    """
    for candidate in (path, path.with_suffix(SEALED), sent(path)):
        with contextlib.suppress(OSError):
            return parse(content(candidate))
    return None


def read(base: Path) -> Iterator[Contents]:
    """Yield the contents of every readable segment below *base*."""
    for path in segments(base):
        contents = load(path)
        if contents is not None:
            yield contents


def _listed(directory: Path) -> list[Path]:
    """Return what is in *directory*, by name; nothing if it is none, gone or cannot be read."""
    with contextlib.suppress(OSError):
        return _listed_now(directory)
    return []


def _listed_now(directory: Path) -> list[Path]:
    """Return what is in *directory*; nothing if it is gone. Failure: raises OSError."""
    try:
        # not scandir, whose descriptor lives for long enough to be closed by somebody, and reused
        return [directory / name for name in sorted(os.listdir(directory))]  # noqa: PTH208
    except (FileNotFoundError, NotADirectoryError):
        return []


def files(place: Path, suffix: str) -> list[Path]:
    """Return the segments in *place*, oldest first; nothing if it cannot be read."""
    return _of_suffix(_listed(place), suffix)


def waiting(place: Path) -> list[Path]:
    """Return the sealed segments in *place*, oldest first. Failure: raises OSError if it is there
    and cannot be read now, with too many open files, say.
    """
    return _of_suffix(_listed_now(place), SEALED)


def _of_suffix(listed: list[Path], suffix: str) -> list[Path]:
    found = [path for path in listed if path.suffix == suffix]
    return sorted(found, key=lambda path: len(path.name))  # rising numbers: 1000000 after 999999


def sent(path: Path) -> Path:
    """Return where a segment is once it is delivered."""
    if path.parent.name == SENT:
        return path
    return path.parent.parent / SENT / f"{path.parent.name}-{path.stem}{SEALED}"


def content(path: Path) -> bytes:
    """Return what is in a regular file; nothing for anything else. Failure: raises OSError."""
    if not stat.S_ISREG(path.lstat().st_mode):
        return b""
    special = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)  # a pipe would block
    fd = os.open(path, os.O_RDONLY | special | getattr(os, "O_BINARY", 0))
    try:
        return whole(fd)
    finally:
        os.close(fd)


def whole(fd: int) -> bytes:
    """Return what is in the file that *fd* is, from its beginning. Failure: raises OSError."""
    # not os.fdopen: eventlet's closes the descriptor, whatever it is told
    os.lseek(fd, 0, os.SEEK_SET)
    parts = iter(lambda: os.read(fd, 1 << 20), b"")
    return b"".join(parts)
