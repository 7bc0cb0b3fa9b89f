"""Frames of OTLP bytes on disk: the one queue, and the local store that `late` and `show` read.

    <base>/<service>-<hash of destination>/        0700, one per destination
        <pid>-<start>/                             0700, one per process, held by flock
            lock
            000001.open                            being appended to
            000002.segment                         sealed, waits for delivery
        sent/                                      delivered, kept within the bound

    segment = magic "otspool1", u32 crc32 of the rest of the header,
              u32 resource length, u32 scope length, resource bytes, scope bytes,
              then frames: u32 span length, u32 crc32, 16 bytes trace id, span bytes
    (big endian; the crc covers length, trace id and span; the bytes are those of ``_otlp``)

Invariants: a frame is on disk before ``append`` returns, or in the bounded
memory queue, or counted as lost. Nothing is pickled, no symbolic link is
followed, no other user's directory is used. Only processes of the same
destination adopt what a dead one left. There is no fsync: a power cut is not
promised. Deliberately absent: what the bytes mean, and the network.
"""

import contextlib
import errno
import hashlib
import os
import re
import shutil
import stat
import struct
import tempfile
import threading
import time
import weakref
import zlib
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from otel_logging import _trouble

try:
    import fcntl
except ImportError:  # pragma: no cover - Windows
    fcntl = None

SEAL_BYTES: Final = 1 << 20  # a request of 1 MiB: well under the 4 MiB that gRPC servers accept
SEAL_S: Final = 0.5  # how long a span may wait for company
SLOW_S: Final = 0.02  # an append longer than this is a disk stall: on to the memory queue
MEMORY_BYTES: Final = 8 << 20
MAX_FRAME: Final = 64 << 20
_MAKING_S: Final = 60.0  # a place that is still unnamed after that belongs to a dead process

_MAGIC = b"otspool1"
_HEADER = struct.Struct(">8sIII")
_FRAME = struct.Struct(">II16s")
_OPEN, _SEALED, SENT = ".open", ".segment", "sent"

DROPPED_FULL: Final = "spans dropped: the memory queue is full while the disk takes none"
DROPPED_BOUND: Final = "segments dropped undelivered: the spool is over its bound"
DAMAGED: Final = "spans lost: a spool segment is damaged"


@dataclass(frozen=True, slots=True)
class Contents:
    """What a segment holds. *spans* are pairs of trace id (16 bytes) and span bytes."""

    resource: bytes
    scope: bytes
    spans: list[tuple[bytes, bytes]]
    damaged: int  # stretches of bytes that were no frame, a torn tail not counted


def _header(resource: bytes, scope: bytes) -> bytes:
    lengths = struct.pack(">II", len(resource), len(scope))
    body = resource + scope
    return _HEADER.pack(_MAGIC, zlib.crc32(lengths + body), len(resource), len(scope)) + body


def _frame(trace_id: bytes, span: bytes) -> bytes:
    length = len(span)
    crc = zlib.crc32(span, zlib.crc32(trace_id, length))
    return _FRAME.pack(length, crc, trace_id) + span


def parse(data: bytes) -> Contents | None:
    """Read a segment's bytes; None if its header is damaged or it is none.

    A frame whose check fails is left out and the next good one is looked for,
    so that one flipped bit costs one span. A torn tail, which a killed process
    leaves, is left out silently: that append had not returned.
    """
    if len(data) < _HEADER.size:
        return None
    magic, crc, resource_length, scope_length = _HEADER.unpack_from(data)
    start = _HEADER.size + resource_length + scope_length
    if magic != _MAGIC or len(data) < start or zlib.crc32(data[12:start]) != crc:
        return None
    middle = _HEADER.size + resource_length
    spans: list[tuple[bytes, bytes]] = []
    damaged, position = 0, start
    while (found := _next_frame(data, position)) is not None:
        at, trace_id, span = found
        damaged += at != position
        spans.append((trace_id, span))
        position = at + _FRAME.size + len(span)
    # bytes left over: a torn tail if they may be the beginning of one frame, else damage
    damaged += position < len(data) and not _torn(data, position)
    return Contents(data[_HEADER.size : middle], data[middle:start], spans, damaged)


def _next_frame(data: bytes, position: int) -> tuple[int, bytes, bytes] | None:
    last = len(data) - _FRAME.size
    while position <= last:
        length, crc, trace_id = _FRAME.unpack_from(data, position)
        begin = position + _FRAME.size
        if begin + length <= len(data):
            span = data[begin : begin + length]
            if zlib.crc32(span, zlib.crc32(trace_id, length)) == crc:
                return position, trace_id, span
        position += 1
    return None


def _torn(data: bytes, position: int) -> bool:
    if position > len(data) - _FRAME.size:
        return True
    length = _FRAME.unpack_from(data, position)[0]
    return position + _FRAME.size + int(length) > len(data) and length <= MAX_FRAME


# ---------------------------------------------------------------- where


def destination(service: str, endpoint: str, protocol: str) -> str:
    """Return the name of the directory for one destination; the same three give the same name."""
    digest = hashlib.sha256("\0".join((service, endpoint, protocol)).encode()).hexdigest()[:12]
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", service)[:48].strip(".-") + "-" + digest


def default_base() -> Path:
    """Return the user's own place for state that outlives a process."""
    from platformdirs import user_state_path

    return user_state_path("otel_logging", appauthor=False)


def fallback_base() -> Path:
    """Return where the spool goes when the user has no writable home directory."""
    return Path(tempfile.gettempdir()) / f"otel_logging-{_user()}"


def _user() -> int:
    return os.geteuid() if hasattr(os, "geteuid") else 0


def _private_directory(path: Path) -> None:
    """Make *path* a directory of ours alone, or raise OSError."""
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = path.lstat()
    if not stat.S_ISDIR(found.st_mode):
        raise NotADirectoryError(errno.ENOTDIR, "not a directory, or a symbolic link", str(path))
    if hasattr(os, "geteuid") and found.st_uid != os.geteuid():
        raise PermissionError(errno.EPERM, "belongs to another user", str(path))
    if found.st_mode & 0o077:
        path.chmod(0o700)


def _try_lock(fd: int) -> bool:
    if fcntl is None:  # pragma: no cover - Windows
        import msvcrt

        try:
            msvcrt.locking(fd, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined]
        except OSError:
            return False
        return True
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


# ---------------------------------------------------------------- read side


def segments(base: Path) -> list[Path]:
    """Return the segments of every service and process below *base*: open, waiting and sent.

    Failure: never raises; what cannot be read is not there.
    """
    found: list[Path] = []
    for pattern in (f"*/*/*{_OPEN}", f"*/*/*{_SEALED}"):
        with contextlib.suppress(OSError):
            found.extend(base.glob(pattern))
    return found


def load(path: Path) -> Contents | None:
    """Read one segment; None if it is gone or no segment.

    A segment that is being renamed meanwhile (sealed, delivered) is found under its new name.
    """
    sent = path.parent.parent / SENT / (path.parent.name + "-" + path.stem + _SEALED)
    for candidate in (path, path.with_suffix(_SEALED), sent):
        with contextlib.suppress(OSError):
            return parse(candidate.read_bytes())
    return None


# ---------------------------------------------------------------- write side


@dataclass(slots=True)
class _Open:
    """A segment being appended to."""

    path: Path
    fd: int
    size: int
    since: float  # monotonic, s


@dataclass(slots=True)
class Waiting:
    """A sealed segment that waits for delivery: on disk (*path*), or in memory (*data*)."""

    name: str
    path: Path | None = None
    data: bytes = b""

    def contents(self) -> Contents | None:
        """Read it; None if it is gone or damaged at its head."""
        if self.path is None:
            return parse(self.data)
        try:
            return parse(self.path.read_bytes())
        except OSError:
            return None


@dataclass(slots=True)
class _Memory:
    """The bounded queue for the time in which the disk takes nothing."""

    frames: deque[tuple[bytes, bytes]] = field(default_factory=deque)  # scope, frame
    size: int = 0

    def put(self, scope: bytes, frame: bytes) -> None:
        self.frames.append((scope, frame))
        self.size += len(frame)
        while self.size > MEMORY_BYTES and self.frames:
            self.size -= len(self.frames.popleft()[1])
            _trouble.report(DROPPED_FULL)


_all: "weakref.WeakSet[Spool]" = weakref.WeakSet()


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
    ) -> None:
        """Take a place below *base*; with None, frames are kept in memory alone."""
        self.base = base
        self.resource = resource
        self.opened = 0  # segments opened so far: the worker looks at it to know of new work
        self._home = None if base is None else base / destination
        self._bytes_bound = bytes_bound
        self._max_age_s = hours * 3600
        self._begin()
        if self._home is not None:
            self._take_place()
        _all.add(self)

    def _begin(self) -> None:
        # one re-entrant lock covers append and rotation; _busy and _deferred are
        # for a signal handler or a __del__ that logs while this thread is inside
        self._lock = threading.RLock()
        self._busy = False
        self._deferred: deque[tuple[bytes, bytes]] = deque()
        self._segments: dict[bytes, _Open] = {}
        self._memory = _Memory()
        self._in_memory: list[Waiting] = []
        self._stalled = self._home is None
        self._place: Path | None = None
        self._place_fd = -1
        self._adopted: dict[Path, int] = {}
        self._count = 0

    def _take_place(self) -> None:
        assert self._home is not None
        _private_directory(self._home)
        _private_directory(self._home / SENT)
        name = f"{os.getpid()}-{time.time_ns()}"
        # locked before it has its name, so that no neighbour takes it for a dead one's
        making = self._home / f".{name}"
        making.mkdir(mode=0o700)
        fd = os.open(making / "lock", os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
        _try_lock(fd)
        self._place = self._home / name
        making.rename(self._place)
        self._place_fd = fd

    # ---- append

    def append(self, scope: bytes, trace_id: bytes, span: bytes) -> None:
        """Put one span at the end of the queue. Never raises."""
        frame = _frame(trace_id, span)
        if not self._lock.acquire(timeout=SLOW_S):  # another thread's append has stalled
            self._remember(scope, frame)
            return
        try:
            self._deferred.append((scope, frame))
            self._settle()
        finally:
            self._lock.release()

    def _settle(self) -> None:
        """Write what is deferred, under the lock; re-entered, leave it to the outer call."""
        if self._busy:
            return
        self._busy = True
        try:
            while self._deferred:
                scope, frame = self._deferred.popleft()
                if self._stalled or not self._write(scope, frame):
                    self._remember(scope, frame)
        finally:
            self._busy = False

    def _remember(self, scope: bytes, frame: bytes) -> None:
        if not self._memory.frames:
            self.opened += 1
        self._memory.put(scope, frame)

    def _write(self, scope: bytes, frame: bytes) -> bool:
        """Append *frame* to its segment; False if the disk did not take it whole."""
        began = time.monotonic()
        segment = None
        try:
            segment = self._segments.get(scope) or self._open_segment(scope, began)
            written = os.write(segment.fd, frame)
            if written != len(frame):
                raise OSError(errno.ENOSPC, "short write")
        except OSError as error:
            self._stalled = True
            _trouble.report("disk writes failed, spans wait in memory", detail=error)
            if segment is not None:
                # a torn frame in the middle would hide what is appended after it
                with contextlib.suppress(OSError):
                    os.ftruncate(segment.fd, segment.size)
            return False
        segment.size += written
        now = time.monotonic()
        if now - began > SLOW_S:
            self._stalled = True
        if segment.size >= SEAL_BYTES or now - segment.since >= SEAL_S:
            self._seal(scope)
        return True

    def _open_segment(self, scope: bytes, now: float) -> _Open:
        if self._place is None or not self._place.exists():  # forked; or somebody removed it
            self._take_place()
            assert self._place is not None
        self._count += 1
        path = self._place / f"{self._count:06d}{_OPEN}"
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | getattr(os, "O_NOFOLLOW", 0)
        fd = os.open(path, flags | getattr(os, "O_BINARY", 0), 0o600)
        header = _header(self.resource, scope)
        segment = self._segments[scope] = _Open(path, fd, 0, now)
        if os.write(fd, header) != len(header):
            self._segments.pop(scope)
            os.close(fd)
            path.unlink()
            raise OSError(errno.ENOSPC, "short write")
        segment.size = len(header)
        self.opened += 1
        return segment

    def _seal(self, scope: bytes) -> None:
        segment = self._segments.pop(scope)
        with contextlib.suppress(OSError):
            os.close(segment.fd)
        with contextlib.suppress(OSError):
            segment.path.rename(segment.path.with_suffix(_SEALED))

    # ---- the worker's side

    def seal(self, *, older_than_s: float = 0.0) -> None:
        """Close the segments whose first frame is older than that, and make segments of
        the memory queue: on disk, or, where that takes nothing, in memory.
        """
        with self._lock:
            self._settle()
            if not self._busy:
                now = time.monotonic()
                for scope, segment in list(self._segments.items()):
                    if now - segment.since >= older_than_s:
                        self._seal(scope)
            made = self._from_memory()
        # outside the lock: a stalled disk may hold the worker, never the application
        for kept in made:
            if not self._store(kept):
                with self._lock:
                    self._in_memory.append(kept)
        while sum(len(w.data) for w in self._in_memory) > MEMORY_BYTES:
            lost = parse(self._in_memory.pop(0).data)
            _trouble.report(DROPPED_FULL, len(lost.spans) if lost else 1)

    def _from_memory(self) -> list[Waiting]:
        by_scope: dict[bytes, list[bytes]] = {}
        while self._memory.frames:
            scope, frame = self._memory.frames.popleft()
            by_scope.setdefault(scope, [_header(self.resource, scope)]).append(frame)
        self._memory.size = 0
        made = []
        for parts in by_scope.values():
            self._count += 1
            made.append(Waiting(f"{self._count:06d}", data=b"".join(parts)))
        return made

    def _store(self, segment: Waiting) -> bool:
        """Write a segment that was made in memory to the disk; appends go there again if
        that was quick.
        """
        if self._place is None:
            self._stalled = self._home is None
            return False
        path = self._place / f"{segment.name}{_SEALED}"
        making = path.with_suffix(".making")
        began = time.monotonic()
        try:
            making.write_bytes(segment.data)
            making.rename(path)
        except OSError:
            with contextlib.suppress(OSError):
                making.unlink()
            return False
        # what is in memory counts for nothing here: it was there because of the stall
        self._stalled = time.monotonic() - began > SLOW_S
        return True

    def waiting(self) -> list[Waiting]:
        """Return the sealed segments to deliver, oldest first: our own, and adopted ones."""
        with self._lock:
            found = list(self._in_memory)
            places = [p for p in (*self._adopted, self._place) if p is not None]
        for place in places:
            with contextlib.suppress(OSError):
                found += [Waiting(str(p), p) for p in sorted(place.glob(f"*{_SEALED}"))]
        return found

    def delivered(self, segment: Waiting) -> None:
        """Take *segment* out of the queue and into the flight recorder."""
        with self._lock:
            if segment.path is None:
                self._in_memory = [w for w in self._in_memory if w.name != segment.name]
                return
        assert self._home is not None
        kept = self._home / SENT / f"{segment.path.parent.name}-{segment.path.name}"
        with contextlib.suppress(OSError):
            segment.path.rename(kept)

    def adopt(self) -> None:
        """Take over the places of dead processes, and give back those that are empty now."""
        if self._home is None:
            return
        for place, fd in list(self._adopted.items()):
            if not any(place.glob(f"*{_SEALED}")):
                shutil.rmtree(place, ignore_errors=True)
                os.close(fd)
                del self._adopted[place]
        with contextlib.suppress(OSError):
            for lock in self._home.glob("*/lock"):
                making = lock.parent.name.startswith(".")
                if lock.parent in (*self._adopted, self._place) or (
                    making and time.time() - lock.stat().st_mtime < _MAKING_S
                ):
                    continue
                self._adopt(lock)

    def _adopt(self, lock: Path) -> None:
        try:
            fd = os.open(lock, os.O_WRONLY | getattr(os, "O_NOFOLLOW", 0))
        except OSError:
            return
        if not _try_lock(fd) or not lock.exists():  # alive, or another neighbour was quicker
            os.close(fd)
            return
        with self._lock:
            self._adopted[lock.parent] = fd
        for left in lock.parent.glob(f"*{_OPEN}"):
            left.rename(left.with_suffix(_SEALED))

    def prune(self) -> None:
        """Keep the destination within its bound: sent segments go first, then waiting ones,
        oldest first, and of these it is said.
        """
        if self._home is None:
            return
        oldest = time.time() - self._max_age_s
        total, rows = 0, []
        for path in (*self._home.glob(f"*/*{_SEALED}"), *self._home.glob(f"*/*{_OPEN}")):
            with contextlib.suppress(OSError):
                found = path.stat()
                total += found.st_size
                rows.append((path.parent.name != SENT, found.st_mtime, found.st_size, path))
        for waits, modified, size, path in sorted(rows):
            if path.suffix == _OPEN or (total <= self._bytes_bound and modified >= oldest):
                continue
            with contextlib.suppress(OSError):
                path.unlink()
                total -= size
                if waits:
                    _trouble.report(DROPPED_BOUND)

    def close(self) -> None:
        """Seal what is open and leave the place; what waits is delivered by the next process."""
        self.seal()
        with self._lock:
            place, self._place = self._place, None
            fds = [*self._adopted.values(), self._place_fd]
            self._adopted.clear()
            self._place_fd = -1
            left = sum(len(c.spans) for w in self._in_memory if (c := w.contents()))
            self._in_memory.clear()
        if left:
            _trouble.report("spans lost at exit: they waited in memory alone", left)
        if place is not None and not any(place.glob(f"*{_SEALED}")):
            shutil.rmtree(place, ignore_errors=True)
        for fd in fds:
            if fd >= 0:
                os.close(fd)

    def after_fork(self) -> None:
        # the parent goes on with its lock, its segments and what it has in memory;
        # an unlock here would free the parent's lock, a close does not
        inherited = [s.fd for s in self._segments.values()]
        for fd in (*inherited, *self._adopted.values(), self._place_fd):
            if fd >= 0:
                with contextlib.suppress(OSError):
                    os.close(fd)
        self._begin()


def temporary_base() -> Path:
    """Make a spool directory for this process alone; the caller removes it."""
    return Path(tempfile.mkdtemp(prefix="otel_logging-"))


def remove(base: Path) -> None:
    """Remove a temporary spool directory. Never raises."""
    shutil.rmtree(base, ignore_errors=True)


def read(base: Path) -> Iterator[Contents]:
    """Yield the contents of every readable segment below *base*."""
    for path in segments(base):
        contents = load(path)
        if contents is not None:
            yield contents


def _reset_all_after_fork() -> None:
    for spool in list(_all):
        spool.after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_reset_all_after_fork)
