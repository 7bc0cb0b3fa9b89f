"""A rendered line to stdout: one write, which never raises and never blocks for ever.

In: one line, bytes, without its newline. Out: the line on stdout, or a counted loss. Invariant: no
lock, so that a signal handler or ``__del__`` may log while a line is written.
Deliberately absent: the write itself (``_descriptor``).
"""

import logging
import math
import os
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final, cast

from otel_logging import _diagnostics
from otel_logging._descriptor import Descriptor, encoder_of, fd_of
from otel_logging._green import OfThread

LOST: Final = "log lines lost: stdout takes none"


class _Print:
    """``write`` of a stream that lines go past, or of somebody's wrapper that they go through: it
    remembers what was printed last.
    """

    __slots__ = ("__self__", "last", "print")

    def __init__(self, stream: Any) -> None:
        self.__self__, self.print = stream, stream.write
        self.last = "\n"  # there may be something from before

    def __call__(self, text: str) -> Any:
        written = self.print(text)
        self.last = text or self.last
        return written


class _PrintBytes:
    """``write`` of the binary stream below a ``_Print``, which it reminds of its last byte."""

    __slots__ = ("__self__", "print", "text")

    def __init__(self, stream: Any, text: _Print) -> None:
        self.__self__, self.print, self.text = stream, stream.write, text

    def __call__(self, data: Any) -> Any:
        written = self.print(data)
        if last := bytes(memoryview(data).cast("B")[-1:]):
            self.text.last = last.decode("latin-1")
        return written


class Stdout:
    """Writes lines to whatever ``sys.stdout`` is at the time.

    The original, and Python's own wrappers of its descriptor or of another with a reader, get one
    write to the descriptor; any other gets ``sys.stdout.write``, unless it logs what it is given
    (as Celery's): then the original is written to.
    """

    def __init__(self) -> None:
        self._original = Descriptor(sys.__stdout__)
        self.is_pipe = self._original.is_pipe
        #: The last ``sys.stdout``, what lines past it are written to, and in which bytes; or what
        #: knows the last text that was printed through it.
        self._judged: _Judged = (None, None, None, None)
        with suppress(Exception):  # closed
            self._notice(sys.__stdout__)
            self._judge(sys.stdout)

    def columns(self) -> float:
        """Return how wide the terminal is now; endless where there is none."""
        try:
            return os.get_terminal_size(self._original.fd).columns or math.inf
        except OSError:
            return math.inf

    def write(self, line: bytes) -> None:
        """Write *line* and a newline. Never raises: a loss is counted and reported."""
        try:
            stream, descriptor = sys.stdout, self._original
            if stream is not sys.__stdout__:
                judged = self._judged
                _, past, encode, through = judged if judged[0] is stream else self._judge(stream)
                if past is None:
                    if _write_text(stream, line, through):
                        return
                    self._judged = (stream, descriptor, None, None)
                else:
                    descriptor = past
                    if fd_of(stream) >= 0:
                        descriptor.flush(stream)
                    if encode is not None:
                        line = encode(line.decode())
            if descriptor.fd < 0:
                _write_text(sys.__stdout__, line)
                return
            printed = stream.write
            # in its buffer, perhaps; one that logs has made a line of it
            if type(printed) is _Print and printed.last and fd_of(stream) >= 0:
                descriptor.flush(stream)
                last, printed.last = printed.last, ""  # none: another thread was quicker
                descriptor.is_torn = descriptor.is_torn or last[-1:] not in ("", "\n")
            descriptor.write(line)
        except Exception as error:
            _diagnostics.report(LOST, detail=error)

    def _notice(self, stream: Any) -> None:
        """Remember from here on what is printed to *stream*, a wrapper of Python's own."""
        if type(getattr(stream, "write", None)) is _Print:
            stream.write.last = "\n"
        elif fd_of(stream) >= 0:
            stream.write = _Print(stream)
            binary = getattr(stream, "buffer", None) or stream.stream
            if type(binary.write) is _PrintBytes:  # of another wrapper of it
                stream.write.last = binary.write.text.last
                binary.write.text = stream.write
            else:
                binary.write = _PrintBytes(binary, stream.write)

    def _judge(self, stream: Any) -> "_Judged":
        """Say where lines go past *stream*: it has a logger, or would hold the caller for as long
        as a reader sleeps.
        """
        past, encode, fd = None, None, fd_of(stream)
        parts = getattr(stream, "__dict__", {}).values()
        if fd == self._original.fd >= 0 or any(
            isinstance(part, (logging.Logger, logging.LoggerAdapter)) for part in parts
        ):
            past = self._original
        elif fd >= 0:
            past, encode = Descriptor(stream), encoder_of(stream)
        if past is not None:
            self._notice(stream)
        self._judged = (stream, past, encode, None if past else _noticed(stream))
        return self._judged


_Judged = tuple[Any, Descriptor | None, Callable[[str], bytes] | None, _Print | None]


def _noticed(stream: Any) -> _Print | None:
    """Remember what is printed to *stream*, a wrapper of somebody's own, or else to what it wraps:
    return what does.
    """
    if type(getattr(stream, "write", None)) is _Print:
        return cast("_Print", stream.write)
    below = None
    with suppress(Exception):  # it takes no attribute, or is anything
        parts = [getattr(stream, "buffer", None)]
        for part in getattr(stream, "__dict__", {}).values():
            parts += part if isinstance(part, (list, tuple)) else (part,)
        for part in parts:
            write = getattr(part, "write", None)
            write = write.text if type(write) is _PrintBytes else write
            below = write if type(write) is _Print else below
        through = _Print(stream)
        if below:
            below.__self__.flush()
            through.last = below.last
        object.__setattr__(stream, "write", through)  # its own may set what it wraps
        return through
    return below


#: By thread: the first line of what it gives to ``sys.stdout`` just now; True once that logged it.
_writing = OfThread()


def is_echo(event: Any) -> bool:
    """Say whether *event*, logged while a line is written, is that line: ``sys.stdout`` logs."""
    writing = _writing.mine()
    if writing and writing is not True and issubclass(type(event), str) and writing in event:
        writing = _writing[threading.get_ident()] = True
    return writing is True


def _write_text(stream: Any, line: bytes, through: _Print | None = None) -> bool:
    """Write *line* to *stream*; say whether it was one that does not log it. *through* knows the
    last text that was printed there.
    """
    if stream is None:
        raise OSError("there is none")
    text = line.decode()
    with _writing.doing(text.partition("\n")[0]):
        if through is not None:
            last, through.last = through.last, ""  # none: another thread was quicker
            text = text if last[-1:] in ("", "\n") else f"\n{text}"
        try:
            stream.write(text + "\n")
        except UnicodeEncodeError:
            encoding = getattr(stream, "encoding", None) or "ascii"
            stream.write((text + "\n").encode(encoding, "backslashreplace").decode(encoding))
        stream.flush()
        return _writing.mine() is not True
