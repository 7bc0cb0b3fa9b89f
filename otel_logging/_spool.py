"""Segments on disk: the one queue, and the local store that `late` and `show` read.

Invariants: a frame is on disk before ``append`` returns, or in the bounded
memory queue, or counted as lost. Nothing is pickled, no symbolic link is
followed, no other user's directory is used. Only processes of the same
destination adopt what a dead one left. There is no fsync: a power cut is not
promised. Deliberately absent: what the bytes mean, and the network.
"""

import contextlib
import errno
import itertools
import math
import os
import threading
import time
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from otel_logging import _forks, _places, _trouble
from otel_logging._places import (
    DROPPED_BOUND,
    LOGS,
    MAKING,
    OPEN,
    SEALED,
    Descriptor,
    UnsafeError,
    default_base,
    destination,
    fallback_base,
    load,
    read,
    remove,
    segments,
    temporary_base,
    try_to_write,
    waiting_bytes,
)
from otel_logging._segment import MAX_FRAME, Contents, frame, header, parse

__all__ = [  # the one door to the spool: _places and _segment are behind it
    "DAMAGED",
    "DROPPED_BOUND",
    "DROPPED_FULL",
    "DROPPED_LARGE",
    "LOGS",
    "LOST_LATE",
    "MEMORY_BYTES",
    "SEAL_BYTES",
    "SEAL_S",
    "SLOW_S",
    "Contents",
    "Spool",
    "UnsafeError",
    "Waiting",
    "default_base",
    "destination",
    "fallback_base",
    "load",
    "read",
    "remove",
    "segments",
    "temporary_base",
    "try_to_write",
    "waiting_bytes",
]

#: A request stays under 1 MiB, nginx's default limit, and the 4 MiB that gRPC servers accept.
SEAL_BYTES: Final = 900_000
SEAL_S: Final = 0.5  # how long a span may wait for company
SLOW_S: Final = 0.02  # an append longer than this is a disk stall: on to the memory queue
MEMORY_BYTES: Final = 8 << 20

# said of what the spool is for: spans, or log records
DROPPED_FULL: Final = "{} dropped: the memory queue is full while the disk takes none"
DROPPED_LARGE: Final = "{} dropped: larger than 64 MiB"
LOST_LATE: Final = "{} lost: they ended at exit, and no disk takes them"
LOST_REMOVED: Final = "spool segments lost: somebody closed and removed them"
CLOSED: Final = "descriptors of the spool closed by somebody else: it goes on with new ones"
DAMAGED: Final = "{} lost: a spool segment is damaged"


class _Open(Descriptor):
    """A segment being appended to; *since* when is monotonic, in s."""

    __slots__ = ("path", "since", "size")

    def __init__(self, path: Path, fd: int, since: float) -> None:
        super().__init__(fd)
        self.path = path
        self.size = 0
        self.since = since


@dataclass(slots=True)
class Waiting:
    """A sealed segment that waits for delivery: on disk (*path*), or in memory (*data*)."""

    name: str
    path: Path | None = None
    data: bytes = b""

    def contents(self) -> Contents | None:
        """Read it; None if it is no segment, or damaged at its head; nothing if it is gone.

        Failure: raises OSError where it is there and cannot be read now.
        """
        if self.path is None:
            return parse(self.data)
        try:
            return parse(_places.content(self.path))
        except FileNotFoundError:  # a neighbour was quicker, or kept the bound
            return Contents(b"", b"", [], 0)


def _count(kept: list[Waiting]) -> int:
    return sum(len(contents.spans) for segment in kept if (contents := segment.contents()))


class _Memory:
    """The bounded queue for the time in which the disk takes nothing.

    Its lock is its own and never held during I/O: who cannot have the spool's
    comes here. No statement both reads ``size`` and calls something, so that a
    signal handler in between finds and leaves it right.
    """

    def __init__(self) -> None:
        self.frames: deque[tuple[bytes, bytes]] = deque()  # scope, frame
        self.size = 0
        self._lock = threading.RLock()

    def put(self, scope: bytes, data: bytes) -> int:
        """Put a frame at the end; return how many at the beginning found no room any more."""
        length = len(data)
        dropped = 0
        with self._lock:
            self.frames.append((scope, data))
            self.size += length
            while self.size > MEMORY_BYTES and self._take() is not None:
                dropped += 1
        return dropped

    def take_all(self) -> list[tuple[bytes, bytes]]:
        with self._lock:
            return list(iter(self._take, None))

    def _take(self) -> tuple[bytes, bytes] | None:
        if not self.frames:
            return None
        taken = self.frames.popleft()
        length = len(taken[1])
        self.size -= length
        return taken


class Spool:
    """One process's place in the queue of one destination.

    Scope: process. Failure: the constructor raises OSError where *base* is not
    writable and nothing else does. Cost: ``append`` is one ``os.write``; it
    never waits for the network. Concurrency: any thread, signal handlers and
    ``__del__`` included; a forked child goes on in a directory of its own.
    """

    def __init__(
        self,
        base: Path | None,
        destination: str,
        resource: bytes,
        *,
        bytes_bound: int,
        hours: float,
        noun: str = "spans",
    ) -> None:
        """Take a place below *base*; with None, frames are kept in memory alone.

        *noun*: what it is for, as reports say it.
        """
        self.base = base
        self._noun = noun
        self.resource = resource
        #: Seconds after its first span at which a segment is sealed; the worker makes it longer
        #: while nothing can be delivered, for a store of some large files rather than many small.
        self.seal_after_s = SEAL_S
        self.opened = 0  # segments opened so far: the worker looks at it to know of new work
        self._home = None if base is None else base / destination
        self._bytes_bound = bytes_bound
        self._max_age_s = hours * 3600
        self._made_by = os.getpid()
        self._is_closed = False  # and stays so in a child: nobody empties the memory queue
        self._begin()
        if self._home is not None:
            self._take_place(self._home)
        _forks.join(_forks.Step.SPOOL, self)

    def _begin(self) -> None:
        # One re-entrant lock covers append and rotation; _busy and _deferred are
        # for a signal handler or a __del__ that logs while this thread is inside.
        self._lock = threading.RLock()
        self._busy = False
        self._deferred: deque[tuple[bytes, bytes]] = deque()
        self._segments: dict[bytes, _Open] = {}
        self._memory = _Memory()
        self._in_memory: list[Waiting] = []
        self._stalled = self._home is None
        #: Our place, and what holds its lock.
        self._place: tuple[Path, Descriptor] | None = None
        self._adopted: dict[Path, Descriptor] = {}
        self._undeletable: set[Path] = set()  # delivered, and still where it was
        self._numbers = itertools.count(1)

    def report(self, kind: str, times: int = 1, *, detail: object = "") -> None:
        """Report trouble with what is in the spool; *kind* has a place for its noun."""
        _trouble.report(kind.format(self._noun), times, detail=detail)

    # ---- places

    def _take_place(self, home: Path) -> Path:
        taken = _places.take(home)
        if self._place is not None:  # somebody removed it
            self._place[1].close()
        self._place = taken
        return taken[0]

    def _our_place(self) -> Path:
        """Return our place, under the lock; a new one after a fork, or if somebody removed it
        or closed what holds it.
        """
        self._let_go()
        if self._place is not None and self._place[0].exists():
            return self._place[0]
        if self._home is None:
            raise FileNotFoundError(errno.ENOENT, "no directory was given")
        return self._take_place(self._home)

    def _let_go(self) -> None:
        """Give up, under the lock, the places whose own lock somebody has closed: a neighbour may
        have it by now. What is in them is adopted, by it or by us.
        """
        lost = [place for place, lock in self._adopted.items() if not lock.is_ours()]
        for place in lost:
            del self._adopted[place]
        if self._place is not None and not self._place[1].is_ours():
            self._place = None
            _trouble.report(CLOSED)

    # ---- append

    def append(self, scope: bytes, trace_id: bytes, span: bytes) -> None:
        """Put one span at the end of the queue. Never raises."""
        if len(span) > MAX_FRAME:
            self.report(DROPPED_LARGE)
            return
        data = frame(trace_id, span)
        lock = self._lock  # a fork in a signal handler replaces it
        # is_stalled, without a call: this is the way of every span
        is_stalled = self._stalled and not self._is_closed
        if is_stalled or not lock.acquire(timeout=SLOW_S):  # another thread's append stalls
            self._stalled = True
            self._remember(scope, data)
            return
        try:
            self._deferred.append((scope, data))
            self._settle()
        finally:
            lock.release()

    def _settle(self) -> None:
        """Write what is deferred, under the lock; re-entered, leave it to the outer call."""
        while self._deferred and not self._busy:
            self._busy = True
            try:
                while self._deferred:
                    scope, data = self._deferred.popleft()
                    is_stalled = self._stalled and not self._is_closed
                    if is_stalled or not self._write(scope, data):
                        self._remember(scope, data)
            finally:
                self._busy = False

    def _remember(self, scope: bytes, data: bytes) -> None:
        if self._is_closed:
            self._set_apart(scope, data)
            return
        if not self._memory.frames:
            self.opened += 1
        if dropped := self._memory.put(scope, data):
            self.report(DROPPED_FULL, dropped)

    def _set_apart(self, scope: bytes, data: bytes) -> None:
        """Give a frame that comes after ``close`` a place of its own, without our lock.

        A daemon thread that the interpreter's exit has stopped for good may hold it.
        """
        if self._home is None:
            self.report(LOST_LATE)
            return
        try:
            place, lock = _places.take(self._home)
            try:
                _write_segment(place / f"000001{SEALED}", header(self.resource, scope) + data)
            except OSError:
                _places.remove_place(place)
                raise
            finally:
                lock.close()
        except OSError as error:
            self.report(LOST_LATE, detail=error)

    def _write(self, scope: bytes, data: bytes) -> bool:
        """Append a frame to its segment; False if the disk did not take it whole."""
        began = time.monotonic()
        try:
            segment = self._segments.get(scope)
            if segment is None or not segment.is_ours():
                segment = self._open_segment(scope, began)
            _write_whole(segment, data)
        except OSError as error:
            self._stalled = True
            if not self._is_closed:
                self.report("disk writes failed, {} wait in memory", detail=error)
            return False
        now = time.monotonic()
        if now - began > SLOW_S:
            self._stalled = True
        if segment.size >= SEAL_BYTES or now - segment.since >= self.seal_after_s:
            self._seal(scope)
        return True

    def _open_segment(self, scope: bytes, now: float) -> _Open:
        if scope in self._segments:  # what was closed by somebody
            self._seal(scope)
        path = self._our_place() / f"{self._next_name()}{OPEN}"
        # read as well, for the case that the file is removed; see _seal
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0)
        segment = _Open(path, os.open(path, flags | getattr(os, "O_BINARY", 0), 0o600), now)
        _places.hold(segment.fd)
        try:
            _write_whole(segment, header(self.resource, scope))
        except OSError:
            segment.close()
            path.unlink(missing_ok=True)
            raise
        self._segments[scope] = segment
        self.opened += 1
        return segment

    def _next_name(self) -> str:
        return f"{next(self._numbers):06d}"

    def _seal(self, scope: bytes) -> None:
        segment = self._segments.pop(scope)
        rescued, is_ours = b"", segment.is_ours()
        with contextlib.suppress(OSError):
            if is_ours and os.fstat(segment.fd).st_nlink == 0:  # removed, but not from us
                rescued = os.pread(segment.fd, segment.size, 0)
        segment.close()
        if rescued:
            self._in_memory.append(Waiting(segment.path.stem, data=rescued))
            return
        sealed = segment.path.with_suffix(SEALED)
        with contextlib.suppress(OSError):
            segment.path.rename(sealed)
        if not is_ours:
            _trouble.report(CLOSED)
            # a neighbour that had our lock meanwhile has it, or has delivered it
            if not (sealed.exists() or _places.sent(sealed).exists()):
                _trouble.report(LOST_REMOVED)

    # ---- the worker's side

    @property
    def is_stalled(self) -> bool:
        """Say whether spans go to memory because the disk was slow or took none.

        After ``close`` none do: nobody would bring them out of there.
        """
        return self._stalled and not self._is_closed

    def seal(self, *, older_than_s: float = 0.0) -> None:
        """Close the segments whose first frame is older than that, and make segments of
        the memory queue: on disk, or, where that takes nothing, in memory.
        """
        with self._lock:
            self._settle()
            if not self._busy:
                self._seal_old(time.monotonic() - older_than_s)
            self._settle()
        # outside the lock: a stalled disk may hold the worker, never the application
        kept = [segment for segment in self._from_memory() if not self._store(segment)]
        with self._lock:
            self._in_memory += kept
            lost = []
            while sum(len(segment.data) for segment in self._in_memory) > MEMORY_BYTES:
                lost.append(self._in_memory.pop(0))
        if lost:
            self.report(DROPPED_FULL, _count(lost))

    def _seal_old(self, since: float) -> None:
        self._busy = True
        try:
            for scope, segment in list(self._segments.items()):
                if segment.since <= since:
                    self._seal(scope)
        finally:
            self._busy = False

    def _from_memory(self) -> list[Waiting]:
        made: list[bytearray] = []
        filling: dict[bytes, bytearray] = {}
        for scope, data in self._memory.take_all():
            if scope not in filling or len(filling[scope]) >= SEAL_BYTES:
                filling[scope] = bytearray(header(self.resource, scope))
                made.append(filling[scope])
            filling[scope] += data
        return [Waiting(self._next_name(), data=bytes(data)) for data in made]

    def _store(self, segment: Waiting) -> bool:
        """Write a segment that was made in memory to the disk; appends go there again if
        that was quick.
        """
        began = time.monotonic()
        try:
            with self._lock:
                path = self._our_place() / f"{segment.name}{SEALED}"
            _write_segment(path, segment.data)
        except OSError:
            return False
        # what is in memory counts for nothing here: it was there because of the stall
        self._stalled = time.monotonic() - began > SLOW_S
        return True

    def backlog(self) -> int:
        """Return how many segments are to be delivered, those that still fill included.

        Those of a directory that cannot be read now are not. Never raises.
        """
        count = len(self._segments) + bool(self._memory.frames)
        with contextlib.suppress(OSError):
            count += len(self.waiting())
        return count

    def waiting(self) -> list[Waiting]:
        """Return the sealed segments to deliver: those in memory, adopted ones, our own, each
        kind oldest first. Failure: raises OSError where a directory cannot be read now.
        """
        with self._lock:
            self._let_go()
            found = list(self._in_memory)
            places = [*self._adopted, *([self._place[0]] if self._place else [])]
        paths = [path for place in places for path in _places.waiting(place)]
        return found + [Waiting(str(p), p) for p in paths if p not in self._undeletable]

    def delivered(self, segment: Waiting) -> None:
        """Take *segment* out of the queue and into the flight recorder."""
        if segment.path is None:
            with self._lock:
                self._in_memory = [w for w in self._in_memory if w.name != segment.name]
            return
        with contextlib.suppress(OSError):
            segment.path.rename(_places.sent(segment.path))
            return
        # better out of the recorder than delivered twice
        try:
            segment.path.unlink(missing_ok=True)
        except OSError:
            self._undeletable.add(segment.path)

    def adopt(self) -> None:
        """Take over the places of dead processes, and give back those that are empty now."""
        self._give_back()
        if self._home is None:
            return
        ours = {*self._adopted, *([self._place[0]] if self._place else [])}
        for place, lock in _places.abandoned(self._home, ours):
            with self._lock:
                self._adopted[place] = lock

    def _give_back(self) -> None:
        with self._lock:
            self._let_go()
            adopted = list(self._adopted.items())
        for place, lock in adopted:
            if _places.is_empty(place):
                with self._lock:
                    self._adopted.pop(place, None)
                _places.remove_place(place)
                lock.close()

    def prune(self) -> None:
        """Keep the destination within its bound: sent segments go first, then waiting ones,
        oldest first, and of these it is said.
        """
        if self._home is not None:
            oldest = time.time() - self._max_age_s
            _places.prune(self._home, bytes_bound=self._bytes_bound, oldest=oldest)

    def close(self) -> None:
        """Seal what is open and leave the place; what waits is delivered by the next process.

        Idempotent. What is appended afterwards is on disk at once, in another place, and
        waits there; where there is no disk, it is lost, which is counted and said.
        """
        with self._lock:  # busy: a signal handler's, within an append, which is still to end
            self._is_closed = self._is_closed or not self._busy
        self.seal()
        self._give_back()
        lost = _count([segment for segment in list(self._in_memory) if not self._store(segment)])
        if lost:
            self.report("{} lost at exit: they waited in memory alone", lost)
        with self._lock:
            self._in_memory.clear()
            if self._busy:  # a signal handler's, within an append: the lock goes with the process
                return
            self._seal_old(math.inf)
            self._let_go()
            place, self._place = self._place, None
            adopted, self._adopted = self._adopted, {}
        for other in adopted.values():
            other.close()
        if place is not None:
            if _places.is_empty(place[0]):
                _places.remove_place(place[0])
            place[1].close()

    def remove(self) -> None:
        """Close, and delete everything below the base: the end of a temporary spool.

        A forked child only closes: the base is its parent's.
        """
        self._home = None
        self.close()
        if self.base is not None and self._made_by == os.getpid():
            remove(self.base)

    def after_fork(self) -> None:
        """Begin anew in a child, in a place of its own; what there was is the parent's."""
        # an unlock here would free the parent's lock, a close does not
        # and an append that forked midway must not write to another's file
        place = [self._place[1]] if self._place else []
        for inherited in (*self._adopted.values(), *place, *self._segments.values()):
            inherited.close()
        self._begin()


def _write_segment(path: Path, data: bytes) -> None:
    """Write a whole segment, or leave nothing and raise OSError."""
    making = path.with_suffix(MAKING)
    try:
        making.write_bytes(data)
        making.rename(path)
    except OSError:
        with contextlib.suppress(OSError):
            making.unlink()
        raise


def _write_whole(segment: _Open, data: bytes) -> None:
    """Append *data*, or leave the file as it was and raise OSError."""
    # the descriptor is looked up with no call before the write: a fork in a signal
    # handler takes it away, and its number may be another file's by then
    written = _places.pwrite(segment.fd, data, segment.size)
    if written != len(data):
        os.ftruncate(segment.fd, segment.size)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    segment.size += written
