"""The stages that are open, in a small file that other processes read while this one hangs, or has
died.

    open-stages    a header, then slots of 512 bytes, of which few are ever used

In: what opens and ends. Out: the same for whoever reads the file. Invariants: written without a
lock or a call of the system; a slot that is read while it changes is read again. Deliberately
absent: whose they are, when to look.
"""

import contextlib
import errno
import mmap
import os
import struct
import time
import zlib
from functools import lru_cache
from pathlib import Path
from typing import Final, NamedTuple

from otel_logging._values import field, plain
from otel_logging.lateness.verdict import Who
from otel_logging.spool.reading import content

NAME: Final = "open-stages"
SLOTS: Final = 1024
_MAGIC: Final = b"otelbox4"
SLOT_BYTES: Final = 512
#: Process id, length and checksum of the resource, which is encoded by ``_otlp``.
_HEADER: Final = struct.Struct("<8sQII")
_HEADER_BYTES: Final = 8192
#: When it was seen alive. Times of a clock that only goes forward are the machine's, the same in
#: each of its processes.
_ALIVE: Final = struct.Struct("<Q")
_ALIVE_AT: Final = _HEADER_BYTES - _ALIVE.size
#: Written in one call: a larger write makes a larger page, all of which stays in memory.
_PIECE_BYTES: Final = 16 << 10
#: State; trace, span and parent id; start by the wall's clock, and by that which only goes forward;
#: budget and name; whose it is; where it stands.
_SLOT: Final = struct.Struct("<B7x16sQQQQd64s96s288s")
#: The part that an opening stage writes: its place is empty, and ends a former stage's text.
_OPENED: Final = struct.Struct("<B7x16sQQQQd64s96sx")
_IS_OPEN: Final = b"\1" + bytes(7)
_NAMED: Final = struct.Struct("<d64s")
_WHO: Final = struct.Struct("<96s")
_NAMED_AT, _WHO_AT, _WHERE_AT = 56, 128, 224
_NAME_BYTES, _WHO_BYTES, _WHERE_BYTES = 64, 96, 288
_MORE: Final = "…".encode()
#: Between pairs of who it is.
_PAIRS: Final = "\0"


class Table(NamedTuple):
    """What a process had open when it was *alive_ns* last. *resource* is empty if it is unknown."""

    pid: int
    alive_ns: int
    resource: bytes
    stages: "list[OpenStage]"


class OpenStage(NamedTuple):
    """A stage of another process that is open, or was when that died."""

    name: str
    trace_id: int
    span_id: int
    parent_id: int
    start_ns: int
    began_ns: int
    budget_s: float | None
    who: dict[str, str]
    where: str


#: Maps that are never closed: that would close a descriptor that is another file's by now.
_kept: Final[list[mmap.mmap]] = []


class BlackBox:
    """The table of this process. Concurrency: each slot is written by one thread at a time."""

    def __init__(self) -> None:
        self.path: Path | None = None
        self.data: mmap.mmap | bytearray = bytearray(SLOTS * SLOT_BYTES)
        #: A stage's name as it stands there, and whose it is: without secrets.
        self.shown = lru_cache(SLOTS)(lambda name: _cut(str(plain(name)), _NAME_BYTES))
        self.joined = lru_cache(SLOTS)(_joined)
        #: Numbers of free slots; the header takes the place of the first ones.
        self.free = list(range(SLOTS - 1, _HEADER_BYTES // SLOT_BYTES - 1, -1))

    def begin(self, directory: Path, resource: bytes) -> None:
        """Make the file in *directory*. Failure: OSError."""
        size = len(self.data)
        path = directory / NAME
        fd = os.open(
            path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | getattr(os, "O_NOFOLLOW", 0), 0o600
        )
        self.path = path
        try:
            # no holes: on a full disk, a write to a hole in a mapped file kills the process
            for _ in range(0, size, _PIECE_BYTES):
                if os.write(fd, bytes(_PIECE_BYTES)) < _PIECE_BYTES:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
            self.data = mmap.mmap(fd, size)
        finally:
            os.close(fd)
        kept = resource if len(resource) <= _ALIVE_AT - _HEADER.size else b""
        head = _HEADER.pack(_MAGIC, os.getpid(), len(kept), zlib.crc32(kept)) + kept
        self.beat()
        self.data[: len(head)] = head

    def open(
        self, slot: int, name: str, trace_id: int, span_id: int, parent_id: int, start_ns: int,
        began_ns: int, budget_s: float = 0.0, who: Who = (),
    ) -> None:  # fmt: skip
        """Put a stage into *slot*."""
        at, ids = slot * SLOT_BYTES, (trace_id.to_bytes(16, "big"), span_id, parent_id)
        facts = start_ns, began_ns, budget_s, self.shown(name), self.joined(who)
        _OPENED.pack_into(self.data, at, 1, *ids, *facts)

    def name(self, slot: int, name: str, budget_s: float) -> None:
        """Give the stage in *slot* its name, known by now, and the budget of that."""
        _NAMED.pack_into(self.data, slot * SLOT_BYTES + _NAMED_AT, budget_s, self.shown(name))

    def put_who(self, slot: int, who: Who) -> None:
        """Say on whose behalf the stage in *slot* runs."""
        _WHO.pack_into(self.data, slot * SLOT_BYTES + _WHO_AT, self.joined(who))

    def put_where(self, slot: int, where: str) -> None:
        """Say where it stands."""
        at = slot * SLOT_BYTES + _WHERE_AT
        struct.pack_into(f"<{_WHERE_BYTES}s", self.data, at, _cut(where, _WHERE_BYTES))

    def show(self, slot: int, *, is_shown: bool) -> None:
        """Let others see the stage in *slot*, or not."""
        self.data[slot * SLOT_BYTES] = is_shown

    def beat(self) -> None:
        """Say that the process is alive."""
        _ALIVE.pack_into(self.data, _ALIVE_AT, time.perf_counter_ns())

    def close(self, slot: int) -> None:
        """Empty *slot*."""
        self.data[slot * SLOT_BYTES] = 0
        self.free.append(slot)

    def remove(self) -> None:
        """Leave no file: the process ends by itself, and nothing that was open has died."""
        if self.path is not None:
            with contextlib.suppress(OSError):
                self.path.unlink()
            self.path = None
        self.let_go()

    def let_go(self) -> None:
        """Write to the file no more."""
        data, self.data = self.data, bytearray(SLOTS * SLOT_BYTES)
        if isinstance(data, bytearray):
            return
        try:
            is_ours = data.size() == len(data)
        except OSError:
            is_ours = False
        if not is_ours:  # somebody has closed its descriptor: the number is another file's
            _kept.append(data)
            return
        with contextlib.suppress(BufferError):  # a thread writes to it at this moment
            data.close()


def read(path: Path) -> Table:
    """Return the table in *path*; what can be read of a damaged one. Failure: raises OSError, also
    if nothing can be read.
    """
    data, again, last = (content(path) for _ in range(3))
    stages = []
    for at in range(_HEADER_BYTES, len(last) - SLOT_BYTES + 1, SLOT_BYTES):
        first, second, third = (each[at : at + SLOT_BYTES] for each in (data, again, last))
        # a slot that differs in all three reads is of stages that are too short to be shown
        found = second if second in (first, third) else b"\0"
        if found.startswith(_IS_OPEN):
            stages.append(_slot(found))
    head = last[:_HEADER_BYTES].ljust(_HEADER_BYTES, b"\0")
    magic, pid, length, crc = _HEADER.unpack_from(head)
    resource, (alive_ns,) = head[_HEADER.size :][:length], _ALIVE.unpack_from(head, _ALIVE_AT)
    if magic == _MAGIC and zlib.crc32(resource) == crc:
        return Table(pid, alive_ns, resource, stages)
    if not stages or (magic != _MAGIC and magic.startswith(_MAGIC[:-1])):  # another version's
        raise OSError(errno.EINVAL, "damaged", str(path))
    began_ns, digits = max(each.began_ns for each in stages), path.parent.name.partition("-")[0]
    is_known = began_ns <= alive_ns <= time.perf_counter_ns()
    pid = int(digits) if digits.isdecimal() else 0
    return Table(pid, alive_ns if is_known else began_ns, b"", stages)


def _slot(data: bytes) -> OpenStage:
    _, trace_id, span_id, parent_id, start_ns, began_ns, budget_s, *texts = _SLOT.unpack(data)
    name, who, where = (text.rstrip(b"\0").decode("utf-8", "ignore") for text in texts)
    pairs = (pair.partition("=")[::2] for pair in who.split(_PAIRS) if pair)
    return OpenStage(  # with secrets, where its process runs with redact=False
        *(plain(name), int.from_bytes(trace_id, "big"), span_id, parent_id, start_ns, began_ns),
        budget_s if 0 < budget_s < float("inf") else None,
        {key: field(key, value) for key, value in pairs},
        where.partition("\0")[0],
    )


def _joined(who: Who) -> bytes:
    if not who:
        return b""
    pairs = [f"{key}={value.replace(_PAIRS, ' ')}" for key, value in who]
    text = _PAIRS.join(pairs).encode("utf-8", "replace")
    if len(text) > _WHO_BYTES:
        text = _PAIRS.encode().join([_cut(p, _WHO_BYTES // len(pairs) - 1) for p in pairs])
    return text


def _cut(text: str, most: int) -> bytes:
    """Return *text* in so many bytes at most; what is cut says so."""
    data = text.encode("utf-8", "replace")
    if len(data) <= most:
        return data
    return data[: most - len(_MORE)].decode("utf-8", "ignore").encode() + _MORE
