"""A rendered line to stdout: one write, which never raises and never blocks for ever.

In: one line, bytes, without its newline. Out: the line on stdout, or a counted loss. Invariant: a
signal handler or ``__del__`` may log while a line is written.
Deliberately absent: the write itself (``_stream``).
"""

import logging
import math
import os
import sys
import threading
import time
from contextlib import suppress
from typing import Any, Final

from otel_logging import _diagnostics
from otel_logging._green import OfThread
from otel_logging._stream import PATIENCE_S, Descriptor, fd_of, write_below

LOST: Final = "log lines lost: stdout takes none"


#: Ends of printed text behind which a line may begin; empty: nothing was printed.
_ENDS: Final = frozenset({"", "\n"})
#: By thread: the list that takes what a stream would have put into its buffer.
_taking: Final = OfThread()


class _Print:
    """Replaces ``write`` of a stream beside which lines are written: remembers the last text."""

    __slots__ = ("__self__", "beside", "last", "of_stdout", "print")

    def __init__(self, stream: Any) -> None:
        self.__self__, self.print = stream, stream.write
        self.last = "\n"  # there may be something from before
        #: The same for stderr, where both lead to the same place.
        self.beside: _Print | None = None
        #: Of stderr: the one of stdout, whose ``beside`` it is.
        self.of_stdout: _Print | None = None

    def __call__(self, text: str) -> Any:
        # noted before and after the write: a signal handler may log at either moment
        self.note(text)
        written = self.print(text)
        self.last = text or self.last
        return written

    def note(self, text: str) -> None:
        """Remember that *text* is the last."""
        self.last = text or self.last
        if text and self.beside is not None:
            self.beside.last = ""
        if text and self.of_stdout is not None:
            self.of_stdout.last = self.of_stdout.last or "\n"

    def put_out(self, descriptor: Descriptor) -> float:
        """Write to *descriptor* what was printed before a line, and note how it ends; return the
        deadline of that. Failure: raises ``TimeoutError`` where its reader has stopped.
        """
        until = time.monotonic() + PATIENCE_S
        for each in filter(None, (self, self.beside)):
            with suppress(RuntimeError, ValueError):  # by a signal in the midst of it; closed
                _empty(each.__self__, descriptor, until)
            last, each.last = each.last, ""  # empty: another thread has taken it
            descriptor.is_torn = descriptor.is_torn or last[-1:] not in _ENDS
        return until


def _empty(stream: Any, descriptor: Descriptor, until: float) -> None:
    """Write to *descriptor* what *stream*, a wrapper of Python's own, and its buffer hold."""
    descriptor.flush(stream.buffer, until)
    taken: list[bytes] = []
    with _taking.doing(taken):
        stream.flush()
    left = b"".join(taken)
    try:
        while left:
            left = left[descriptor.put(left, until)[0] :]
    finally:
        if left:  # it goes back
            stream.write.print(left.decode(stream.encoding, "replace"))


class _PrintBytes:
    """``write`` of the binary stream below a ``_Print``, which it reminds of its last byte."""

    __slots__ = ("__self__", "print", "text")

    def __init__(self, stream: Any, text: _Print) -> None:
        self.__self__, self.print, self.text = stream, stream.write, text

    def __call__(self, data: Any) -> Any:
        # before anything of the thread's: at the interpreter's exit there is nothing else
        taken = _taking.mine() if _taking else None
        written = self.print(data) if taken is None else taken.append(data) or len(data)
        self.text.note(bytes(memoryview(data).cast("B")[-1:]).decode("latin-1"))
        return written


class Stdout:
    """Writes lines to whatever ``sys.stdout`` is at the time.

    - The original, or a wrapper of Python's own around its descriptor or around another that has a
      reader: one write to the descriptor.
    - A stream that logs what it is given (as Celery's): the original is written to.
    - Any other: ``sys.stdout.write``.
    """

    def __init__(self) -> None:
        self._original = Descriptor(sys.__stdout__)
        self.is_pipe = self._original.is_pipe
        #: The last ``sys.stdout`` seen; where lines go instead of it; in which encoding.
        self._judged: _Judged = (None, None, None)
        with suppress(Exception):  # closed
            printed = _notice(sys.__stdout__)
            self._judge(sys.stdout)
            if os.path.sameopenfile(1, 2):
                printed.beside = _notice(sys.__stderr__)
                printed.beside.of_stdout = printed

    def columns(self) -> float:
        """Return how wide the terminal is now; infinite without a terminal."""
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
                _, past, encoding = judged if judged[0] is stream else self._judge(stream)
                if past is None:
                    if _write_text(stream, line):
                        return
                    self._judged = (stream, descriptor, None)
                else:
                    descriptor = past
                    if encoding is not None:
                        line = line.decode().encode(encoding, "backslashreplace")
            if descriptor.fd < 0:
                _write_text(sys.__stdout__, line)
                return
            printed, until = stream.write, 0.0
            # perhaps only into its buffer; a stream that logs has made a line of it
            if type(printed) is _Print and printed.last and fd_of(stream) >= 0:
                until = printed.put_out(descriptor)
            descriptor.write(line, until)
        except Exception as error:
            _diagnostics.report(LOST, detail=error)

    def _judge(self, stream: Any) -> "_Judged":
        """Return where lines go instead of *stream*, if it logs what it is given, or if its reader
        could block the caller.
        """
        past, encoding, fd = None, None, fd_of(stream)
        parts = getattr(stream, "__dict__", {}).values()
        if fd == self._original.fd >= 0 or any(
            isinstance(part, (logging.Logger, logging.LoggerAdapter)) for part in parts
        ):
            past = self._original
        elif fd >= 0:
            past, encoding = Descriptor(stream), stream.encoding
        if past is not None:
            _notice(stream)
        self._judged = (stream, past, encoding)
        return self._judged


_Judged = tuple[Any, Descriptor | None, str | None]


def _notice(stream: Any) -> Any:
    """Remember from here on what is printed to *stream*, a wrapper of Python's own. Return the
    object that does; None for any other stream.
    """
    if type(getattr(stream, "write", None)) is _Print:
        stream.write.last = "\n"
    elif fd_of(stream) >= 0:
        stream.write = _Print(stream)
        binary = stream.buffer
        if type(binary.write) is _PrintBytes:  # of another wrapper of it
            stream.write.last = binary.write.text.last or "\n"
            binary.write.text = stream.write
        else:
            binary.write = _PrintBytes(binary, stream.write)
            write_below(binary)
    else:
        return None
    return stream.write


#: By thread: the first line of what it gives to ``sys.stdout`` just now; True once that logged it.
_writing = OfThread()


def is_echo(event: Any) -> bool:
    """Say whether *event*, logged while a line is written, is that line: some stdouts log."""
    writing = _writing.mine()
    if writing and writing is not True and issubclass(type(event), str) and writing in event:
        writing = _writing[threading.get_ident()] = True
    return writing is True


def _write_text(stream: Any, line: bytes) -> bool:
    """Write *line* to *stream*; say whether it was one that does not log it."""
    if stream is None:
        raise OSError("there is none")
    text = line.decode()
    with _writing.doing(text.partition("\n")[0]):
        try:
            stream.write(text + "\n")
        except UnicodeEncodeError:
            encoding = getattr(stream, "encoding", None) or "ascii"
            stream.write((text + "\n").encode(encoding, "backslashreplace").decode(encoding))
        stream.flush()
        return _writing.mine() is not True
