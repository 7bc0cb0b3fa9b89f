"""The flight recorder: delivered segments; small ones stand behind one another in one file.

A quiet service leaves a segment of some hundred bytes for each message. In: a delivered segment.
Invariant: a segment is whole in its new place before it is removed from the old one: a kill leaves
some spans twice, and never loses one. Deliberately absent: how long it is kept (``destinations``).
"""

import os
from contextlib import suppress
from pathlib import Path
from typing import Final

from otel_logging.spool.directories import OPEN, create, sent
from otel_logging.spool.open_file import OpenSegment
from otel_logging.spool.reading import content
from otel_logging.spool.segment import header, parse_all

FILE_BYTES: Final = 512 << 10
_SMALL_BYTES: Final = 64 << 10  # larger ones are few, and dear to write again
#: The segments in one file were written within these seconds: they grow old together.
PERIOD_S: Final = 600


class Recorder:
    """Files that one process fills, one for each ``PERIOD_S``. One thread at a time."""

    def __init__(self) -> None:
        self._part = 1  # rises when a file is full
        self._last = (Path(), b"")  # the last file, and the header of its last segment

    def keep(self, segment: Path) -> None:
        """Put *segment* among those that were sent. It is moved as it is if it is large or damaged,
        or if a full disk has no room for a copy. Failure: raises OSError, and leaves it in its
        place.
        """
        found = segment.stat()
        data = content(segment) if found.st_size < _SMALL_BYTES else b""
        parts = list(parse_all(data))
        if len(parts) == 1 and not parts[0].damaged:
            name = f"{segment.parent.name}-{int(found.st_mtime // PERIOD_S)}-{self._part}{OPEN}"
            file, head = sent(segment).with_name(name), header(parts[0].resource, parts[0].scope)
            with suppress(OSError):
                # no other process does; the header anew: a damaged magic would hide it
                self._append(file, head, data[len(head) :], found.st_mtime)
                segment.unlink()
                return
        segment.rename(sent(segment))

    def _append(self, path: Path, head: bytes, frames: bytes, written: float) -> None:
        """Append *frames* to a file, whose age is that of its oldest segment; *written*: theirs.

        Failure: raises OSError, and leaves the file as it was.
        """
        file = OpenSegment(path, create(path, only=0), 0.0)
        try:
            found = path.lstat()
            file.size = found.st_size
            is_behind_it = file.size and self._last == (path, head)
            file.write(frames if is_behind_it else head + frames)
            self._last = path, head
            oldest = min(written, found.st_mtime) if found.st_size else written
            os.utime(path, (oldest, oldest))
        finally:
            file.close()
        if file.size >= FILE_BYTES:
            self._part += 1
