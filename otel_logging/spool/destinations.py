"""Destinations: where each leads to, what is in its directory, and the end of unused ones.

In: the base of a spool. Out: ``Destination``. Invariant: nothing is removed from a directory that
is not a destination of ours, and no segment that a living process still fills. Deliberately absent:
what is in a segment.
"""

import contextlib
import json
import math
import os
import re
import time
from collections.abc import Container, Iterable, Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

from otel_logging import _diagnostics
from otel_logging._text import later
from otel_logging.spool import directories, process_dirs
from otel_logging.spool.directories import LOGS, OPEN, SENT, listed
from otel_logging.spool.process_dirs import write_file
from otel_logging.spool.reading import content, contents

DROPPED_BOUND: Final = "{} dropped undelivered: the spool is over its bound"
_ABOUT: Final = "destination"  # a file beside the processes' directories
_MOST_HOURS: Final = 1e6
_NAME: Final = later(rf"(.*)-[0-9a-f]{{12}}({re.escape(LOGS)})?")


class Pile(NamedTuple):
    """Segments; *oldest_s*: when the oldest was written last, s since the epoch; None: no
    segment.
    """

    segments: int
    size_bytes: int
    oldest_s: float | None


class Destination(NamedTuple):
    """One service's spool for one collector. *to*, *hours*: as its last process was set up."""

    path: Path
    service: str
    to: str
    hours: float | None
    waiting: Pile
    sent: Pile
    processes: int  # that are alive
    since: float  # when its last process began, s since the epoch; 0.0 where that is unknown
    is_ours: bool  # rather than another user's

    @property
    def endpoint(self) -> str:
        """Where it leads to; in words if no process has written that down."""
        return self.to or f"an endpoint that {self.path} does not name"

    @property
    def is_of_logs(self) -> bool:
        """Whether log records are in it, rather than spans."""
        return self.path.suffix == LOGS


def describe(destination_dir: Path, to: str, hours: float) -> None:
    """Write down where *destination_dir* leads to, and how long its segments are kept.

    Failure: never raises; the destination then is shown by its name only.
    """
    own = destination_dir / f"{_ABOUT}-{os.getpid()}-{time.time_ns()}"  # others may begin too
    with contextlib.suppress(OSError):
        write_file(own, json.dumps({"to": to, "hours": hours}).encode())
        own.replace(destination_dir / _ABOUT)


def found(
    base: Path,
    without: Container[Path | None] = (),
    *,
    service: str | None = None,
    of_others: bool = False,
) -> Iterator[Destination]:
    """Yield the destinations below *base*, by name. *without*: their files are not even opened,
    since a process would lose its own locks where flock is fcntl's (NFS). *of_others*: also those
    of other users. Failure: never raises; a directory that is not safe is left out.
    """
    for path in listed(base):
        name = _NAME.fullmatch(path.name)
        if name is not None and path not in without and service in (None, name[1]):
            with contextlib.suppress(OSError):
                directories.check_private(path, of_others=of_others)
                directories.check_private(path / SENT, of_others=of_others)
                yield _look(path, name[1])


def left_behind(every: Iterable[Destination]) -> Iterator[tuple[Destination, Destination]]:
    """Yield each destination whose waiting segments no process sends any more, and the one to which
    its service sends now: a running process's, otherwise the last one's.
    """

    def signal(one: Destination) -> tuple[Path, str, bool]:
        return one.path.parent, one.service, one.is_of_logs

    known = sorted(every, key=lambda one: (one.processes > 0, one.since))
    latest = {signal(each): each for each in known}
    for each in known:
        now = latest[signal(each)]
        is_left = not each.processes and (now.processes or now.since > each.since)
        if each.waiting.segments and is_left:
            yield each, now


def resend(one: Destination, to: Destination) -> int:
    """Move what waits in *one* to *to*, whose present or next process delivers it. Return the
    number of segments. Failure: never raises; what cannot be moved stays.
    """
    count = 0
    for process_dir in process_dirs.abandoned(one.path):
        with contextlib.suppress(OSError):
            segments = len(listed(process_dir, directories.SEALED))
            process_dir.rename(to.path / process_dir.name)
            count += segments
    return count


def _look(path: Path, service: str) -> Destination:
    about: dict[str, Any] = {}
    since = 0.0
    with contextlib.suppress(OSError, ValueError, TypeError, RecursionError):
        since = (path / _ABOUT).lstat().st_mtime
        about = dict(json.loads(content(path / _ABOUT)))
    to, hours = about.get("to"), about.get("hours", 0)
    return Destination(
        path,
        service,
        to if isinstance(to, str) else "",
        hours if isinstance(hours, (int, float)) and 0 < hours < _MOST_HOURS else None,
        _pile(path, waits=True),
        _pile(path, waits=False),
        process_dirs.running(path),
        since,
        not hasattr(os, "geteuid") or path.lstat().st_uid == os.geteuid(),
    )


def _pile(path: Path, *, waits: bool) -> Pile:
    rows = [row for row in directories.sizes(path) if row[0] is waits]
    oldest = min((modified for _, modified, _, _ in rows), default=None)
    return Pile(len(rows), sum(size for _, _, size, _ in rows), oldest)


def prune_unused(base: Path, ours: Container[Path | None], hours: float) -> None:
    """Remove old segments of the destinations below *base* that no process uses, then those
    destinations that are empty. Spans that were not delivered are reported.

    *ours*: this process's destinations. *hours*: for one without hours. Failure: never raises.
    """
    for each in found(base, ours):
        oldest = time.time() - (each.hours or hours) * 3600
        with contextlib.suppress(OSError):
            piles = (each.waiting, each.sent)
            ages = [pile.oldest_s for pile in piles if pile.oldest_s is not None]
            if not each.processes and min(ages, default=each.path.stat().st_mtime) < oldest:
                purge(each.path, oldest=oldest, is_asked=False)


def prune(
    destination_dir: Path, *, oldest: float, bytes_bound: float = math.inf, is_asked: bool = False
) -> None:
    """Keep a destination within its bounds: sent segments go first, then waiting ones, oldest
    first. The loss of waiting spans is reported, unless a user asked for it. *oldest*: s since the
    epoch. Never raises.
    """
    with contextlib.suppress(OSError):
        directories.private_directory(destination_dir / SENT)  # somebody may have removed it
    rows = list(directories.sizes(destination_dir))
    total = sum(size for _, _, size, _ in rows)
    for waits, modified, size, path in sorted(rows):
        if (waits and path.suffix == OPEN) or (total <= bytes_bound and modified >= oldest):
            continue
        with contextlib.suppress(OSError):
            # a neighbour may have removed it first: there is room then, too
            total -= size
            found = contents(path) if waits and not is_asked else ()
            lost = sum(len(each.spans) + each.damaged for each in found or ())
            path.unlink()
            if lost:
                _diagnostics.report(DROPPED_BOUND.format(directories.noun(destination_dir)), lost)


def purge(destination_dir: Path, *, oldest: float, is_asked: bool = True) -> None:
    """Remove all older segments of a destination, those of dead processes too, except open ones;
    then what is empty. *oldest*, *is_asked*: as for ``prune``. Never raises.
    """
    list(process_dirs.abandoned(destination_dir))  # which seals what is in them
    prune(destination_dir, oldest=oldest, is_asked=is_asked)
    for process_dir in process_dirs.abandoned(destination_dir):
        process_dirs.remove_if_empty(process_dir)
    with contextlib.suppress(OSError):
        about = [path for path in listed(destination_dir) if path.name != SENT]
        if all(path.name.startswith(_ABOUT) for path in about):
            (destination_dir / SENT / "merging").unlink(missing_ok=True)  # of an earlier version
            (destination_dir / SENT).rmdir()
            for path in about:
                path.unlink(missing_ok=True)
            destination_dir.rmdir()
