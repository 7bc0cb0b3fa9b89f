"""The spool's directories: where they are, whether they are safe, and what is removed from them.

    <base>/<service>-<hash>/          0700, one per destination; of log records: ...-<hash>.logs
        <pid>-<start>/                0700, one per process, which holds it by flock
            lock
            000001.open               being appended to
            000002.segment            sealed, waits for delivery
            <pid>-<start>-000001.segment    of a dead process, moved here
        sent/                         delivered, kept within the bound (``recorder``)
        destination                   where it leads to (``destinations``)

In: paths. Out: paths. Invariant: no symbolic link is followed, no other user's
directory is used, and a directory with a segment in it is never removed.
Deliberately absent: who holds them (``process_dirs``), what is in a segment.
"""

import contextlib
import errno
import os
import re
import stat
import sys
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from otel_logging.spool.open_file import open_ours

OPEN: Final = ".open"
SEALED: Final = ".segment"
SENT: Final = "sent"
LOGS: Final = ".logs"  # at the end of a destination's name: log records are in it, never spans
#: What is sent, by signal.
NOUNS: Final = {"traces": "spans", "logs": "log records"}
_LINUX: Final = ".local/state/otel_logging"  # below a home, by default


class UnsafeError(PermissionError):
    """A directory is not used, since another user could make our files go elsewhere."""

    def __init__(self, reason: str, path: Path) -> None:
        super().__init__(errno.EPERM, reason, str(path))


# ---------------------------------------------------------------- where they are


def destination(service: str, endpoint: str, protocol: str) -> str:
    """Return the name of the directory for one destination; the same three give the same name."""
    whole = "\0".join((service, endpoint, protocol)).encode("utf-8", "backslashreplace")
    name = re.sub(r"[^A-Za-z0-9_.-]+", "-", service)[:48].strip(".-")
    # not hashlib, which takes a fiftieth of set-up to import: nobody plants a collision here
    return f"{name}-{zlib.crc32(whole) >> 8:06x}{zlib.crc32(whole[::-1]) >> 8:06x}"


def noun(destination_dir: Path) -> str:
    """Return what is in a destination, as reports say it."""
    return NOUNS["logs" if destination_dir.suffix == LOGS else "traces"]


def default_base() -> Path:
    """Return the user's own directory for state that outlives a process.

    Failure: raises ``OSError`` where the user has no home.
    """
    from platformdirs import user_state_path

    with contextlib.suppress(RuntimeError):  # old versions leave the ~ there
        path = user_state_path("otel_logging", appauthor=False)
        if path.parts[0] != "~":
            return path.absolute()
    raise FileNotFoundError(errno.ENOENT, "this user has no home", "~")


def fallback_base() -> Path:
    """Return where the spool goes when the user has no writable home directory."""
    import tempfile

    user = os.geteuid() if hasattr(os, "geteuid") else 0
    return Path(tempfile.gettempdir()).absolute() / f"otel_logging-{user}"


def bases_of_all() -> list[Path]:
    """Return the directories of ``default_base`` and ``fallback_base`` for every user."""
    if sys.platform == "win32":  # pragma: no cover - Windows
        return []
    import pwd
    import tempfile

    below = Path(_LINUX)
    with contextlib.suppress(OSError, RuntimeError, ValueError):  # no home, or not below it
        below = default_base().relative_to(Path.home())
    # a directory service may not list its users
    homes = [Path(each.pw_dir) for each in pwd.getpwall()] + listed(Path("/home"))
    temporary = Path(tempfile.gettempdir()).absolute().glob("otel_logging-*")
    found = [path for path in temporary if path.name.rpartition("-")[2].isdecimal()]
    return sorted({each / below for each in homes}) + sorted(found)


def is_missing(path: Path) -> bool:
    """Whether *path* is certainly missing: False if this user cannot tell. Never raises."""
    try:
        return not stat.S_ISDIR(path.stat().st_mode)
    except OSError as error:
        return error.errno in (errno.ENOENT, errno.ENOTDIR)


def temporary_base() -> Path:
    """Make a spool directory for this process alone; the caller removes it."""
    import tempfile

    return Path(tempfile.mkdtemp(prefix="otel_logging-")).absolute()


def make_directory(path: Path) -> None:
    """Make *path*, and those above it that are missing: 0700, whatever the umask."""
    for missing in reversed([each for each in (path, *path.parents) if not each.exists()]):
        with contextlib.suppress(FileExistsError):  # another process was quicker
            missing.mkdir(0o700)  # private at first, then with the bits that the umask removed
            missing.chmod(0o700)


def create(path: Path, only: int = os.O_EXCL) -> int:
    """Open a new file to write to, 0600 whatever the umask; with 0 for *only* one that is there,
    too. Failure: raises OSError.
    """
    fd = open_ours(path, os.O_WRONLY | os.O_CREAT | only)
    if hasattr(os, "fchmod"):  # pragma: no branch - not on Windows
        os.fchmod(fd, 0o600)
    return fd


def safe_base(base: Path) -> None:
    """Make *base* if it is missing; raise OSError if others may rename it or what is in it."""
    check_base(base)
    make_directory(base)
    if not base.is_dir():
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(base))
    # in the system's temporary directory anyone may have made this name first
    if base.name.startswith("otel_logging-") and base == fallback_base():
        private_directory(base)


def check_base(base: Path, *, of_others: bool = False) -> None:
    """Raise OSError if others may rename *base*, the target of that link, or what is in it.
    *of_others*: *base* may be another user's; then it must be safe for that user.
    """
    if not hasattr(os, "geteuid"):  # pragma: no cover - Windows: the mode says nothing of others
        return
    users, groups = {0, os.geteuid()}, {0, os.getegid(), *os.getgroups()}
    if of_others:
        with contextlib.suppress(FileNotFoundError):
            found = base.stat()
            users.add(found.st_uid)
            groups.add(found.st_gid)
    named, real = base.absolute(), Path(os.path.realpath(base))  # Path.resolve() raises for a loop
    for each in dict.fromkeys((named, *named.parents, real, *real.parents)):
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            found = each.stat()
            others = stat.S_IWOTH | (stat.S_IWGRP if found.st_gid not in groups else 0)
            if found.st_mode & others and not found.st_mode & stat.S_ISVTX:
                raise UnsafeError("others may write to it, and it has no sticky bit", each)
            # users whom the sticky bit does not hinder
            if found.st_mode & others and found.st_uid not in users:
                raise UnsafeError("others may write to it, and it belongs to another user", each)


def check_private(path: Path, *, of_others: bool = False) -> None:
    """Raise OSError if *path* is not a directory of ours, or, with *of_others*, of any user."""
    found = path.lstat()
    if stat.S_ISLNK(found.st_mode):
        raise UnsafeError("a symbolic link", path)
    if not stat.S_ISDIR(found.st_mode):
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(path))
    if not of_others and hasattr(os, "geteuid") and found.st_uid != os.geteuid():
        raise UnsafeError("belongs to another user", path)


def private_directory(path: Path) -> None:
    """Make *path* a directory of ours alone, or raise OSError."""
    make_directory(path)
    check_private(path)
    if path.lstat().st_mode & 0o777 != 0o700:
        path.chmod(0o700)


def try_to_write(base: Path, size: int, destinations: Iterable[str] = ()) -> None:
    """Write *size* bytes into *base*, and leave neither a file nor a new directory behind. Also
    check the directories of *destinations*, names in *base*, that are there.

    Failure: raises OSError.
    """
    import tempfile

    missing = [each for each in (base, *base.parents) if not each.exists()]
    try:
        safe_base(base)
        for name in destinations:
            for path in (base / name, base / name / SENT):
                with contextlib.suppress(FileNotFoundError):
                    check_private(path)
        with tempfile.TemporaryFile(dir=base, buffering=0) as file:
            if file.write(bytes(size)) < size:  # a further write would say why
                raise OSError(errno.ENOSPC, "not all bytes could be written", str(base))
    finally:
        for each in missing:
            with contextlib.suppress(OSError):  # it was never made, or a service uses it by now
                each.rmdir()


# ---------------------------------------------------------------- what is in them


def listed(directory: Path, suffix: str = "") -> list[Path]:
    """Return what is in *directory*, as ``listed_now``; nothing if it cannot be read."""
    with contextlib.suppress(OSError):
        return listed_now(directory, suffix)
    return []


def listed_now(directory: Path, suffix: str = "") -> list[Path]:
    """Return what is in *directory*, by name, segments oldest first; nothing if it is gone.

    Failure: raises OSError if it is there and cannot be read now, with too many open files, say.
    """
    try:
        # not scandir, whose descriptor lives for long enough to be closed by somebody, and reused
        names = sorted(name for name in os.listdir(directory) if name.endswith(suffix))  # noqa: PTH208
    except (FileNotFoundError, NotADirectoryError):
        return []
    if suffix:
        names.sort(key=len)  # so that 1000000 comes after 999999
    return [directory / name for name in names]


def sent(path: Path) -> Path:
    """Return where a segment is once it is delivered."""
    if path.parent.name == SENT:
        return path
    # an adopted segment has its process's name already
    name = path.stem if "-" in path.stem else f"{path.parent.name}-{path.stem}"
    return path.parent.parent / SENT / f"{name}{SEALED}"


def sizes(destination_dir: Path) -> Iterator[tuple[bool, float, int, Path]]:
    """Yield for each segment whether it waits, when it was written (s since the epoch), and the
    bytes of its blocks on disk.
    """
    for each in listed(destination_dir):
        for path in (*listed(each, SEALED), *listed(each, OPEN)):
            with contextlib.suppress(OSError):
                found = path.lstat()
                size = max(found.st_size, getattr(found, "st_blocks", 0) * 512)
                yield each.name != SENT, found.st_mtime, size, path
