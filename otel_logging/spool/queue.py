"""The queue: spans, or log records, appended to segments on disk, and handed out for delivery.

Invariants: when ``append`` returns, a frame is on disk, or in the bounded memory queue, or counted
as lost. Nothing is pickled. Only processes of the same destination adopt what a dead process left.
There is no fsync: a power cut may lose spans. Deliberately absent: what the bytes mean, and the
network.
"""

import contextlib
import itertools
import math
import os
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Final

from otel_logging import _diagnostics, _forks
from otel_logging._green import RLock, is_busy
from otel_logging.spool import destinations, directories, open_file, process_dirs
from otel_logging.spool.directories import OPEN, SEALED
from otel_logging.spool.memory import SEAL_BYTES, Memory, count
from otel_logging.spool.open_file import OpenSegment
from otel_logging.spool.process_dirs import Held, in_use, write_file
from otel_logging.spool.reading import Waiting
from otel_logging.spool.recorder import Recorder
from otel_logging.spool.segment import frame, header

SEAL_S: Final = 0.5  # how long a segment waits for more spans
SLOW_S: Final = 0.02  # an append that took longer is slow: by the disk, or by a busy machine
STALL_S: Final = 0.5  # slow appends for so long, without a quick one: the disk stalls
HANG_S: Final = 2.0  # one append for so long: the disk stalls, however busy the process is
ADOPT_S: Final = 1.0  # for adopting what dead processes left, each time
VISIT_S: Final = 3600.0  # between looks at other destinations

# {} is "spans" or "log records"
DROPPED_FULL: Final = "{} dropped: the memory queue is full while the disk takes none"
LOST_LATE: Final = "{} lost: they ended at exit, and no disk takes them"
LOST_AFTER: Final = "{} lost: they ended after shutdown"
LOST_EXIT: Final = "{} lost at exit: they waited in memory alone"
STALLED: Final = "disk writes failed, {} wait in memory"
DAMAGED: Final = "{} or more lost: a spool segment is damaged"
LOST_REMOVED: Final = "spool segments lost: somebody removed them"


class Spool:
    """One process's part of the queue of one destination.

    Scope: process. Failure: the constructor raises OSError where *base* is not
    writable and nothing else does. Cost: ``append`` is one ``pwrite``; it
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
    ) -> None:
        """Take a directory below *base*; with None, frames are kept in memory alone."""
        self.base = base
        self.resource = resource
        #: Age at which a segment is sealed; higher during an outage, which makes fewer files.
        self.seal_after_s = SEAL_S
        #: Called, outside the lock, when there is a new segment.
        self.on_work: Callable[[], None] = lambda: None
        self.on_adopt: Callable[[Path], None] = lambda _: None  # with a dead process's directory
        self.opened = 0  # segments opened so far, those in memory included
        self.noun = directories.noun(Path(destination))
        self._held = Held(None if base is None else base / destination)
        self._bytes_bound = bytes_bound
        self._max_age_s = hours * 3600
        #: Makes a monotonic time a time since the epoch, by the clock as it is now.
        self._clock_s = time.time() - time.monotonic()
        self._made_by = os.getpid()
        self._next_visit = -math.inf  # monotonic
        self._is_closed = False  # stays so in a child, whose memory queue nobody would empty
        self._begin()
        if base is not None:
            self._held.own_dir()
        _forks.join(_forks.Step.SPOOL, self)

    def _begin(self) -> None:
        # One re-entrant lock covers append and rotation. _busy is for a signal handler or a
        # __del__ that appends while this thread is inside.
        self._lock = RLock()
        self._busy = False
        #: Frames that other threads left while the lock was taken; its next holder writes them.
        self._deferred: deque[tuple[bytes, bytes]] = deque()
        self._segments: dict[bytes, OpenSegment] = {}
        self._memory = Memory()
        self._recorder = Recorder()
        self._stalled = self._held.destination_dir is None
        self._slow_s = 0.0  # s that slow appends took since the last quick one
        self._announced = self.opened
        self._undeletable: set[Path] = set()  # delivered, and still where it was
        self._numbers = itertools.count(1)

    def report(self, kind: str, times: int = 1, *, detail: object = "") -> None:
        """Report trouble with the spool; *kind* has a ``{}`` for "spans" or "log records"."""
        _diagnostics.report(kind.format(self.noun), times, detail=detail)

    # ---- append

    def append(self, scope: bytes, trace_id: bytes, span: bytes) -> None:
        """Put one span at the end of the queue. Never raises."""
        data = frame(trace_id, span)
        lock = self._lock  # a fork in a signal handler replaces it
        if self._stalled and not self._is_closed:
            self._remember(scope, data)
        # the usual case first; by keyword it takes longer
        elif lock.acquire(False) or (self._is_closed and lock.acquire(timeout=SLOW_S)):  # noqa: FBT003
            try:
                if self._busy and self._is_closed:  # nobody may ever write what is deferred now
                    self._set_apart(scope, data)
                elif self._busy:
                    self._deferred.append((scope, data))
                else:
                    self._busy = True
                    try:
                        self._put(scope, data)
                    finally:
                        self._busy = False
                    if self._deferred:
                        self._settle()
            finally:
                lock.release()
        elif self._is_closed:
            self._set_apart(scope, data)
        else:
            # one write, and one look at the descriptor, for all that wait for the lock
            self._deferred.append((scope, data))
            until = time.monotonic() + HANG_S
            while not lock.acquire(timeout=STALL_S):
                if self._stalled or time.monotonic() >= until or not is_busy():
                    self._stalled = True  # the frame is written when the append that stalls returns
                    break
            else:
                try:
                    self._settle()
                finally:
                    lock.release()
        if self.opened != self._announced:
            self._announced = self.opened
            self.on_work()

    def _settle(self) -> None:
        """Write the deferred frames, under the lock; if re-entered, leave them to the outer
        call.
        """
        deferred = self._deferred
        while deferred and not self._busy:
            self._busy = True
            try:
                frames = [deferred[n] for n in range(len(deferred))]
                for scope in dict(frames):
                    self._put(scope, b"".join([data for of, data in frames if of == scope]))
                for _ in frames:  # only now that they are written: a signal handler may raise
                    deferred.popleft()
            finally:
                self._busy = False

    def _remember(self, scope: bytes, data: bytes) -> None:
        def begin() -> Waiting:
            self.opened += 1
            return Waiting(self._next_name(), data=bytearray(header(self.resource, scope)))

        if dropped := self._memory.put(scope, data, begin):
            self.report(DROPPED_FULL, dropped)

    def _set_apart(self, scope: bytes, data: bytes) -> None:
        """Write frames that come after ``close`` to a segment of their own, without our lock: the
        interpreter's exit may have stopped a daemon thread that holds it.
        """
        for is_last in (False, True):  # ``close`` may be giving the first directory up
            try:
                path = self._held.own_dir() / f"{self._next_name()}{SEALED}"
                write_file(path, header(self.resource, scope) + data)
                return
            except OSError as error:
                if is_last:
                    self.report(LOST_LATE, detail=error)

    def _put(self, scope: bytes, data: bytes) -> None:
        """Append frames to their segment. If the disk does not take them whole, they go to memory,
        or, after ``close``, to a segment of their own.
        """
        if self._stalled and not self._is_closed:
            self._remember(scope, data)
            return
        began = time.monotonic()
        try:
            segment = self._segments.get(scope)
            if segment is None or not segment.is_ours():
                segment = self._open_segment(scope, began)
            segment.write(data)
        except OSError as error:
            self._stalled = True
            if self._is_closed:
                self._set_apart(scope, data)
            else:
                self.report(STALLED, detail=error)
                self._remember(scope, data)
            return
        now = time.monotonic()
        self._slow_s = self._slow_s + now - began if now - began > SLOW_S else 0.0
        if self._slow_s > STALL_S:
            self._stalled = now - began > HANG_S or not is_busy()
            self._slow_s = 0.0
        if segment.size >= SEAL_BYTES or now - segment.since >= self.seal_after_s:
            self._seal(scope)

    def _open_segment(self, scope: bytes, now: float) -> OpenSegment:
        if scope in self._segments:  # somebody has closed its file
            self._seal(scope)
        path = self._held.own_dir() / f"{self._next_name()}{OPEN}"
        fd = directories.create(path)
        segment = OpenSegment(path, fd, now)
        if os.name == "posix":  # pragma: no branch - on Windows it would keep readers out
            open_file.try_lock(fd)  # if our directory's lock is closed, this one holds
        try:
            segment.write(header(self.resource, scope))
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
        segment.close()
        sealed = segment.path.with_suffix(SEALED)
        try:
            segment.path.rename(sealed)
        except FileNotFoundError:
            if not self._held.is_lost(segment.path.parent):
                _diagnostics.report(LOST_REMOVED)
        except OSError:  # pragma: no cover - a disk that fails between two calls
            pass  # it is adopted as it is

    # ---- the worker's side

    @property
    def is_stalled(self) -> bool:
        """Whether spans go to memory, since the disk was slow or took none. Never after
        ``close``.
        """
        return self._stalled and not self._is_closed

    def seal(self, *, older_than_s: float = 0.0) -> None:
        """Close the segments whose first frame is older than that, and all those in memory. They go
        to the disk; if the disk takes nothing, they wait in memory.
        """
        with self._lock:
            self._settle()
            if not self._busy:
                self._seal_old(time.monotonic() - older_than_s)
            self._settle()
        # outside the lock: a stalled disk may hold the worker, never the application
        for segment in self._memory.seal():
            self._store(segment)

    def _seal_old(self, since: float) -> None:
        self._busy = True
        try:
            for scope, segment in list(self._segments.items()):
                if segment.since <= since:
                    self._seal(scope)
        finally:
            self._busy = False

    def _store(self, segment: Waiting) -> None:
        """Write a segment from memory to the disk; if that is quick, appends go there again."""
        began = time.monotonic()
        try:
            with self._lock:
                path = self._held.own_dir() / f"{segment.name}{SEALED}"
            write_file(path, bytes(segment.data))
        except OSError:
            return
        # segments in memory do not count: they are there because of the stall
        self._stalled = time.monotonic() - began > STALL_S
        self._memory.drop(segment)

    def backlog(self) -> int:
        """Return how many segments wait to be delivered, as far as is known. Never raises."""
        count = len(self._segments) + len(self._memory.filling)
        with contextlib.suppress(OSError):
            count += len(self.waiting())
        return count

    def waiting(self) -> list[Waiting]:
        """Return the sealed segments to deliver: those in memory, adopted ones, our own; each kind
        the oldest first. Failure: raises OSError if a directory cannot be read now.
        """
        with self._lock:
            found, own = list(self._memory.segments), self._held.own()
        paths = [] if own is None else directories.listed_now(own, SEALED)
        paths.sort(key=lambda path: ("-" not in path.stem, path.stem.partition("-")[2]))
        return found + [Waiting(str(p), p) for p in paths if p not in self._undeletable]

    def delivered(self, segment: Waiting) -> None:
        """Take *segment* out of the queue and into the flight recorder."""
        if segment.path is None:
            self._memory.drop(segment)
            return
        try:
            self._recorder.keep(segment.path)
        except OSError:  # better not in the recorder than delivered twice
            try:
                segment.path.unlink(missing_ok=True)
            except OSError:
                self._undeletable.add(segment.path)

    def adopt(self) -> None:
        """Move what dead processes left to our directory; of very many, only some each time."""
        until = time.monotonic() + ADOPT_S
        with self._lock:
            home, own = self._held.destination_dir, self._held.own()
        if own is not None:
            with contextlib.suppress(OSError):  # a cleaner of /tmp would remove what looks old
                os.utime(own / "lock")
        for each in () if home is None else process_dirs.abandoned(home, own):
            self.on_adopt(each)
            with contextlib.suppress(OSError):  # the disk is full, say: it is tried again
                with self._lock:
                    own = self._held.own_dir()
                process_dirs.move_segments(each, own)
            if time.monotonic() > until:
                break

    def directory(self) -> Path | None:
        """Return the process's own directory; None where there is no disk. Failure: OSError."""
        with self._lock:
            return None if self._held.destination_dir is None else self._held.own_dir()

    def prune(self) -> None:
        """Keep the destination within its bound: sent segments go first, then waiting ones, oldest
        first; waiting ones are reported. Once an hour, also remove by age what is left of
        destinations without a process.
        """
        if (home := self._held.destination_dir) is not None:
            # a clock that is set ahead (a device gets a network) makes no segment old
            now = min(time.time(), self._clock_s + time.monotonic())
            destinations.prune(home, bytes_bound=self._bytes_bound, oldest=now - self._max_age_s)
        if self.base is not None and time.monotonic() >= self._next_visit:
            self._next_visit = time.monotonic() + VISIT_S
            destinations.prune_unused(self.base, in_use(), self._max_age_s / 3600)

    def close(self) -> None:
        """Seal what is open and leave the directory; what waits is delivered by the next process.

        Idempotent. What is appended afterwards is on disk at once, in another directory, and
        waits there; where there is no disk, it is lost, which is counted and reported.
        """
        with self._lock:  # busy: this is a signal handler within an append
            self._is_closed = self._is_closed or not self._busy
        self.seal()
        for segment in [*self._memory.segments]:
            self._store(segment)
        if lost := count(self._memory.segments):
            self.report(LOST_EXIT, lost)
        with self._lock:
            self._memory.segments.clear()
            if self._busy:  # a signal handler within an append: the lock goes with the process
                return
            self._seal_old(math.inf)
            self._held.leave()

    def remove(self) -> None:
        """Close, and delete everything below the base: the end of a temporary spool.

        A forked child only closes: the base is its parent's.
        """
        self._held.destination_dir = None
        self.close()
        if self.base is not None and self._made_by == os.getpid():
            import shutil

            shutil.rmtree(self.base, ignore_errors=True)

    def after_fork(self) -> None:
        """Begin anew in a child, in a directory of its own; all before the fork is the parent's."""
        # an append that forked midway must not write to another's file
        for inherited in self._segments.values():
            inherited.close()
        self._held.let_go()
        self._begin()
