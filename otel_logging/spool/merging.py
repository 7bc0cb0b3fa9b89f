"""Sent segments made few: a quiet service leaves one of some hundred bytes for each message.

In: a destination's directory. Invariant: what is merged is whole on disk, under its new name,
before the files that it was made of go: a kill leaves some spans twice, and none nowhere.
Deliberately absent: what still waits for delivery.
"""

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from otel_logging.spool.directories import OPEN, SEALED, SENT, listed
from otel_logging.spool.open_file import OpenFile, check, try_lock
from otel_logging.spool.process_dirs import write_file
from otel_logging.spool.reading import content
from otel_logging.spool.segment import frame, header, parse_all

MERGED_BYTES: Final = 512 << 10
#: What is in one file was written within these seconds: all of it goes together, at its age.
_SPAN_S: Final = 600.0
_MANY: Final = 64  # files that are worth a merge while others may join them
_FEW: Final = 8  # and when none will


def merge(destination_dir: Path, *, go_on: Callable[[], bool]) -> bool:
    """Merge the small sent segments of *destination_dir*, one file after another while *go_on*
    says so; return whether all are. Never raises.

    Cost: some 0.1 s for a file. Concurrency: any process of the destination; one at a time does it.
    """
    sent_dir = destination_dir / SENT
    groups = list(_groups(sent_dir))
    if groups:
        with contextlib.suppress(OSError), _alone(sent_dir / "merging"):
            for left in listed(sent_dir, OPEN):  # of a process that was killed
                left.unlink()
            for group in groups:
                if not go_on():
                    return False
                _merge(group)
    return True


@contextlib.contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Hold the lock at *path*. Failure: raises OSError where another process does."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o600)
    lock = OpenFile(check(fd, path))
    try:
        if not try_lock(lock.fd):
            raise BlockingIOError
        yield
    finally:
        lock.release()


def _groups(sent_dir: Path) -> Iterator[list[Path]]:
    """Yield the files that are to be one, in the order in which they were written."""
    rows = []
    for path in listed(sent_dir, SEALED):
        with contextlib.suppress(OSError):  # a neighbour removed it
            found = path.lstat()
            rows.append((found.st_mtime, found.st_size, path))
    group: list[Path] = []
    began = total = 0.0
    for written, size, path in sorted(row for row in rows if row[1] < MERGED_BYTES):
        if group and (written > began + _SPAN_S or total + size > MERGED_BYTES):
            if len(group) >= _FEW:
                yield group
            group, total = [], 0.0
        began = began if group else written
        group.append(path)
        total += size
    if len(group) >= _MANY:
        yield group


def _merge(group: list[Path]) -> None:
    """Put what is in *group* into one file, and remove them; a damaged one stays as it is."""
    spans: dict[tuple[bytes, bytes], dict[tuple[bytes, bytes], None]] = {}
    merged = []
    for path in group:
        found = []
        with contextlib.suppress(OSError):  # a neighbour was quicker
            found = list(parse_all(content(path)))
        if found and not any(each.damaged for each in found):
            merged.append(path)
            for each in found:
                # once: a merge that was killed has left them twice
                spans.setdefault((each.resource, each.scope), {}).update(dict.fromkeys(each.spans))
    if len(merged) < 2:
        return
    data = b"".join(
        header(*head) + b"".join(frame(*span) for span in those) for head, those in spans.items()
    )
    target = merged[0].with_name(f"merged-{os.getpid()}-{time.time_ns()}{SEALED}")
    written = merged[0].lstat().st_mtime  # the oldest of them
    write_file(target, data)
    os.utime(target, (written, written))
    # a fork in a signal handler has two processes write the same
    if content(target) == data:
        for path in merged:
            path.unlink(missing_ok=True)
