"""What of a traceback is read first: what was raised, and where in the application.

Never raises; text that is not a traceback is its own last line.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PureWindowsPath
from typing import Any, Final

from otel_logging import _names

#: OpenTelemetry semantic conventions, exceptions on spans.
EVENT: Final = "exception"
_TYPE, _MESSAGE = "exception.type", "exception.message"
_TRACEBACK = "exception.stacktrace"
ATTRIBUTES: Final = frozenset({*_names.OF_EXCEPTIONS, _TRACEBACK, "exception.escaped"})

_FRAME: Final = re.compile(
    r'^(?P<indent>[ |+]*)File "(?P<file>.*)", line (?P<line>\d+), in (?P<name>.*)'
)
#: ``exception.where`` of a line.
_PLACE: Final = re.compile(r"(?P<file>.+):(?P<line>\d+) in (?P<name>.+)")
#: Where installed packages and the standard library are, and what has no file.
_LIBRARY: Final = re.compile(r"[/\\](site|dist)-packages[/\\]|[/\\][Ll]ib[/\\]python\d|^<")
_PACKAGES: Final = re.compile(r".*[/\\](?:(?:site|dist)-packages|[Ll]ib[/\\]python[\d.]+)[/\\]")


@dataclass(frozen=True, slots=True)
class Raised:
    """*what*: type and message. *where*: the innermost frame of the application, and in brackets
    that of a library that it called; may be empty.
    """

    what: str
    where: str


def raised(event_name: str, attributes: Mapping[str, Any]) -> Raised | None:
    """Return the exception that an event holds: of a log line, or by OpenTelemetry's convention."""
    told = _PLACE.match(str(attributes.get(_names.EXCEPTION_WHERE)))
    where = f"at {_place(told)}" if told else ""  # a second line of one exception has no traceback
    if event_name == EVENT and _TYPE in attributes:
        what = f"{attributes[_TYPE]}: {attributes.get(_MESSAGE, '')}".removesuffix(": ")
        return Raised(what, _last(str(attributes.get(_TRACEBACK, ""))).where or where)
    text = attributes.get(_names.EXCEPTION)
    if not isinstance(text, str) or not text.strip():
        return None
    found = _last(text)
    return Raised(found.what, found.where or where)


def _last(traceback: str) -> Raised:
    """Find the last frame, and below it what is indented less: the exception.

    Of chained exceptions that is the last one raised, which Python prints last.
    """
    lines = [line for line in traceback.splitlines() if line.strip()]
    frames: list[re.Match[str]] = []  # innermost first, of the last exception
    what = lines[-1].strip() if lines else ""
    for at in range(len(lines) - 1, -1, -1):
        if (frame := _FRAME.match(lines[at])) is not None:
            if not frames:
                below = (s for s in lines[at + 1 :] if _indent(s) < len(frame["indent"]))
                what = next(below, lines[-1]).lstrip(" |+")
            frames.append(frame)
        elif frames and "Traceback (most recent call last)" in lines[at]:
            break
    return Raised(what, _where(frames))


def _where(frames: list[re.Match[str]]) -> str:
    if not frames:
        return ""
    own = next((frame for frame in frames if not _LIBRARY.search(frame["file"])), None)
    if own is None or own is frames[0]:
        return f"at {_place(frames[0])}"
    return f"at {_place(own)} (in {_place(frames[0])})"


def _place(frame: re.Match[str]) -> str:
    """Return ``core/connection.py:1067 chat``: a library's path from its package on."""
    file = _PACKAGES.sub("", frame["file"])
    parts = [p for p in PureWindowsPath(file).parts if p.strip("\\/")]  # both kinds of slashes
    short = "/".join(parts[-2:] if file == frame["file"] else parts[-3:])
    return f"{short}:{frame['line']} {frame['name']}"


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip(" |+"))
