"""The local store: segments read where they are, for the read side and for delivery.

In: paths. Out: ``Contents``. Invariant: nothing is changed, and nothing is waited for: neither a
lock, nor a pipe that has a segment's name. Deliberately absent: what the bytes mean.
"""

import contextlib
import os
import stat
from collections.abc import Container, Iterator
from pathlib import Path
from typing import Final, NamedTuple

from otel_logging import _diagnostics
from otel_logging.spool import directories
from otel_logging.spool.directories import LOGS, OPEN, SEALED, SENT, listed, sent
from otel_logging.spool.open_file import open_ours
from otel_logging.spool.segment import UNREADABLE, Contents, parse_all

UNSAFE: Final = "a spool directory is not read: it is not safe"


def segments(base: Path, *, of_logs: bool = False, of_others: bool = False) -> list[Path]:
    """Return the segments of spans, or of log records, of every service and process below *base*:
    open, waiting, sent. *of_others*: also what belongs to other users.

    Each comes once, though it may be sealed or delivered meanwhile. Failure: never
    raises; what cannot be read is left out, and a directory that no service would use is reported.
    """
    try:
        directories.check_base(base, of_others=of_others)
    except OSError as error:
        _diagnostics.remark(UNSAFE, detail=error)
        return []
    asked = [each for each in listed(base) if (each.suffix == LOGS) is of_logs]
    destinations = [each for each in asked if _is_safe(each, of_others)]
    processes = [path for each in destinations for path in listed(each) if path.name != SENT]
    found = [path for each in processes for path in listed(each, OPEN)]
    # in this order a segment that moves meanwhile is found twice rather than never
    found += [path for each in processes for path in listed(each, SEALED)]
    for each in destinations:
        found += [*listed(each / SENT, SEALED), *listed(each / SENT, OPEN)]
    return list({sent(path): path for path in found}.values())


def _is_safe(destination_dir: Path, of_others: bool) -> bool:  # noqa: FBT001
    for each in (destination_dir, destination_dir / SENT):
        try:
            directories.check_private(each, of_others=of_others)
        except directories.UnsafeError as error:
            _diagnostics.remark(UNSAFE, detail=error)
            return False
        except OSError:  # it may be a file: nothing is read from it
            pass
    return True


def read(
    base: Path,
    *,
    of_logs: bool = False,
    of_others: bool = False,
    only: Container[Path] | None = None,
) -> Iterator[Contents]:
    """Yield the contents of every readable segment below *base*, as ``segments``; *only*: of these
    destinations.

    What is delivered meanwhile may come twice, but is never missed: a segment that has gone is
    looked for again in its new place. The files that segments are put into come last.
    """

    def asked(*, recorded: bool) -> Iterator[Path]:
        for path in segments(base, of_logs=of_logs, of_others=of_others):
            is_recorded = path.suffix == OPEN and path.parent.name == SENT
            if is_recorded is recorded and (only is None or path.parent.parent in only):
                yield path

    seen: set[Path] = set()
    is_complete = False
    while not is_complete:
        is_complete = True
        for path in asked(recorded=False):
            if seen.isdisjoint((path, sent(path))):
                found = contents(path)
                seen.add(path if found is None else sent(path))
                is_complete = is_complete and found is not None
                yield from found or ()
    for path in asked(recorded=True):
        yield from contents(path) or ()


def contents(path: Path) -> Iterator[Contents] | None:
    """Return the segments in one file; None if it is gone or cannot be read."""
    data = load(path)
    if data == b"" and path.suffix == SEALED and path.is_file():  # no segment is sealed empty
        return iter([UNREADABLE])
    return None if data is None else parse_all(data, is_open=path.suffix == OPEN)


def load(path: Path) -> bytes | None:
    """Return what is in one segment; None if it is gone or cannot be read.

    A segment that is renamed meanwhile (sealed, delivered) is found under its new name.
    """
    for candidate in (path, path.with_suffix(SEALED), sent(path)):
        with contextlib.suppress(OSError):
            return content(candidate)
    return None


def content(path: Path) -> bytes:
    """Return what is in a regular file; nothing for anything else. Failure: raises OSError."""
    if not stat.S_ISREG(path.lstat().st_mode):
        return b""
    fd = open_ours(path, os.O_RDONLY)
    opened = os.fstat(fd)
    try:
        # not os.fdopen: eventlet's always closes the descriptor
        return b"".join(iter(lambda: os.read(fd, 1 << 20), b""))
    finally:
        # somebody may have closed it meanwhile, and opened another file
        with contextlib.suppress(OSError):
            if os.path.samestat(os.fstat(fd), opened):
                os.close(fd)


def report_damaged(lost: list[int], noun: str, detail: str = "") -> None:
    """Report in one line how many segments are damaged, and how many spans are lost at least.
    *lost*: that number for each damaged segment; none: no report.
    """
    if lost:
        number = sum(lost)
        what = f"{number} {noun if number > 1 else noun.removesuffix('s')}"
        which = f"{len(lost)} spool segments are" if len(lost) > 1 else "a spool segment is"
        _diagnostics.remark(f"at least {what} lost: {which} damaged", detail=detail)


class Waiting(NamedTuple):
    """A sealed segment that waits for delivery: on disk (*path*), or in memory (*data*)."""

    name: str
    path: Path | None = None
    data: bytearray = bytearray()  # stays empty for one on disk

    def contents(self) -> Contents:
        """Read it; ``UNREADABLE`` if it is not a segment; nothing if it is gone.

        Failure: raises OSError where it is there and cannot be read now.
        """
        try:
            data = bytes(self.data) if self.path is None else content(self.path)
        except FileNotFoundError:  # a neighbour has sent it, or pruned it
            return Contents(b"", b"", [], 0)
        return next(parse_all(data), UNREADABLE)
