"""The one line of a traceback that is read first: what was raised, and where.

In: attributes of an event. Out: a ``Raised``. Invariant: never raises; text that is
not a traceback is its own last line. Deliberately absent: the rest of the traceback,
which ``show --json`` has.
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


@dataclass(frozen=True, slots=True)
class Raised:
    """*what*: type and message; *where*: the innermost frame, or empty."""

    what: str
    where: str


def raised(event_name: str, attributes: Mapping[str, Any]) -> Raised | None:
    """Return the exception that an event holds: of a log line, or by OpenTelemetry's convention."""
    if event_name == EVENT and _TYPE in attributes:
        what = f"{attributes[_TYPE]}: {attributes.get(_MESSAGE, '')}".removesuffix(": ")
        return Raised(what, _last(str(attributes.get(_TRACEBACK, ""))).where)
    text = attributes.get(_names.EXCEPTION)
    return _last(text) if isinstance(text, str) and text.strip() else None


def _last(traceback: str) -> Raised:
    """Find the last frame, and below it what is indented less: the exception.

    Of chained exceptions that is the last one raised, which Python prints last.
    """
    lines = [line for line in traceback.splitlines() if line.strip()]
    for at in range(len(lines) - 1, -1, -1):
        frame = _FRAME.match(lines[at])
        if frame is not None:
            below = (s for s in lines[at + 1 :] if _indent(s) < len(frame["indent"]))
            file = PureWindowsPath(frame["file"]).name  # takes both kinds of slashes
            return Raised(
                next(below, lines[-1]).lstrip(" |+"),
                f"at {frame['name']} ({file}:{frame['line']})",
            )
    return Raised(lines[-1].strip() if lines else "", "")


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip(" |+"))
