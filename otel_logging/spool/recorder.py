"""The flight recorder: what was delivered, small segments behind one another in one file.

A quiet service leaves a segment of some hundred bytes for each message. In: a delivered segment.
Invariant: it is whole in its new place before it goes from the old one: a kill leaves some spans
twice, and none nowhere. Deliberately absent: how long it is kept (``destinations``).
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
_SMALL_BYTES: Final = 64 << 10  # larger ones are few: to write them again costs more
#: What is in one file was written within these seconds: all of it goes together, at its age.
PERIOD_S: Final = 600


class Recorder:
    """Files that one process fills, by when what is in them was written. One thread at a time."""

    def __init__(self) -> None:
        self._part = 1  # rises when a file is full
        self._last = (Path(), b"")  # what was appended to last, and behind which header

    def keep(self, segment: Path) -> None:
        """Put *segment* among those that were sent; a large or a damaged one as it is, and each
        one that a full disk has no room for. Failure: raises OSError; it is where it was then.
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
        """Append *frames*, which were *written* then, to a file that is as old as the oldest in it.

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
