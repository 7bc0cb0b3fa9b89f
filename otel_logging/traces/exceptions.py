"""What one reads first in a traceback: what was raised, and where in the application.

Never raises. If a text is no traceback, its last line counts as what was raised.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import PureWindowsPath
from typing import Any, Final

from otel_logging import _names

#: OpenTelemetry semantic conventions, exceptions on spans.
EVENT: Final = "exception"
TYPE, _MESSAGE = "exception.type", "exception.message"
ATTRIBUTES: Final = frozenset({*_names.OF_EXCEPTIONS, _names.STACKTRACE, "exception.escaped"})

_FRAME: Final = re.compile(
    r'^(?P<indent>[ |+]*)File "(?P<file>[^…]*)", line (?P<line>\d+), in (?P<name>[^…]*)$'
)
#: A line by itself, with what has been called below it: a message or a note may name it, too.
_HEAD: Final = re.compile(
    r'^.*Traceback \(most recent call last\):\n(?=\w|[ |+]*File ".*", line \d+(?:\n|, in ))', re.M
)
_CAUSE: Final = "The above exception was the direct cause of the following exception:"
_FROM: Final = " (from "
_GROUP: Final = "ExceptionGroup"
#: ``exception.where`` of a line.
_PLACE: Final = re.compile(r"(?P<file>.+):(?P<line>\d+) in (?P<name>.+)")
#: Paths of installed packages, of the standard library and of this package; and no file at all.
_LIBRARY: Final = re.compile(
    r"[/\\](site|dist)-packages[/\\]|[/\\][Ll]ib[/\\]python\d|^<|[/\\]otel_logging[/\\](?!demo\.py)"
)
_PACKAGES: Final = re.compile(r".*[/\\](?:(?:site|dist)-packages|[Ll]ib[/\\]python[\d.]+)[/\\]")


@dataclass(frozen=True, slots=True)
class Raised:
    """*what*: type and message, in one line, and those of the exception that it was raised from.
    *where*: the innermost frame of the application, then in brackets that of a library that it
    called; may be empty. *is_own*: whether a frame of the application is known; *is_traced*:
    whether there is a traceback.
    """

    what: str
    where: str
    is_own: bool = field(default=False, compare=False)
    is_traced: bool = field(default=False, compare=False)


def raised(event_name: str, attributes: Mapping[str, Any]) -> Raised | None:
    """Return the exception that an event holds: of a log line, or by OpenTelemetry's convention."""
    # a second line of one exception has no traceback, and of a long one the middle is left out
    named = _PLACE.match(str(attributes.get(_names.EXCEPTION_WHERE)))
    is_recorded = event_name == EVENT and TYPE in attributes
    text = (is_recorded and attributes.get(_names.STACKTRACE)) or attributes.get(_names.EXCEPTION)
    text = text if isinstance(text, str) else ""
    if not (is_recorded or text.strip()):
        return None
    what, frames, cause = _last(text)
    if named and frames and " more]…" in text:  # between halves of two lines
        frames.insert(1, named)  # the first frame may be the library's
    # a group's traceback ends with an exception inside the group, which says more
    if TYPE in attributes and not (frames and str(attributes[TYPE]).endswith(_GROUP)):
        what = f"{attributes[TYPE]}: {_one_line(str(attributes.get(_MESSAGE, '')))}"
    return _raised(what.removesuffix(": ") + cause, frames, named)


def kind_of(what: str) -> str:
    """Return the type in ``Raised.what``."""
    return what.partition(_FROM)[0].partition(":")[0]


def _last(traceback: str) -> tuple[str, list[re.Match[str]], str]:
    """Return the exception, its frames (the innermost first), and the one it was raised from.

    Of chained exceptions it is the one that was raised last: Python prints that last.
    """
    *causes, last = traceback.split(_CAUSE)
    *above, below = _HEAD.split(last)
    what, frames = _one(below)
    first = what
    while causes and not "".join(above).strip(" |+\n"):
        *above, below = _HEAD.split(causes.pop())
        first, inner = _one(below)
        if first == what:  # a pool's process raised it, and the caller raised it again
            frames = [*inner, *frames]
    return what, frames, f"{_FROM}{first})" if first not in ("", what) else ""


def _one(text: str) -> tuple[str, list[re.Match[str]]]:
    """Return an exception and its frames. Its text is indented less than its last frame."""
    lines = [line for line in text.splitlines() if line.strip(" |+\t")]
    frames = [(at, frame) for at, line in enumerate(lines) if (frame := _FRAME.match(line))]
    if not frames:
        return _one_line(text), []
    at, inner = frames[-1]
    below = (line for line in lines[at + 1 :] if _indent(line) < len(inner["indent"]))
    return next(below, lines[-1]).lstrip(" |+"), [frame for _, frame in reversed(frames)]


def _one_line(text: str) -> str:
    return " ".join(filter(None, map(str.strip, text.splitlines())))


def _raised(what: str, frames: list[re.Match[str]], named: re.Match[str] | None) -> Raised:
    own = next((frame for frame in frames if not _LIBRARY.search(frame["file"])), named)
    inner = frames[0] if frames else own
    where = f"at {_place(own or inner)}" if inner else ""
    if inner and own not in (None, inner):
        where += f" (in {_place(inner)})"
    return Raised(what, where, own is not None, bool(frames))


def _place(frame: re.Match[str]) -> str:
    """Return ``core/connection.py:1067 chat``: a library's path from its package on."""
    file = _PACKAGES.sub("", frame["file"])
    parts = [p for p in PureWindowsPath(file).parts if p.strip("\\/")]  # both kinds of slashes
    short = "/".join(parts[-2:] if file == frame["file"] else parts[-3:])
    return f"{short}:{frame['line']} {frame['name']}"


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip(" |+"))
