"""An event dict to one line: JSON for machines, aligned and coloured for people.

In: an event dict that every processor has seen. Out: bytes without a newline at
the end. Invariant: never raises for any value; the JSON is strict (no NaN, no
lone surrogate) and one line, the console obeys no control character. Both draw
from the same dict, so that they cannot drift. Deliberately absent: writing.
"""

import re
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

from otel_logging import _json, _links, _names
from otel_logging._values import MAX_CHARACTERS, plain, shorten

#: What stands first in a JSON line, in this order.
_HEAD: Final[Mapping[str, Any]] = dict.fromkeys(
    (_names.TIMESTAMP, _names.LEVEL, _names.EVENT, _names.LOGGER)
)

Renderer = Callable[[Mapping[str, Any]], bytes]


# ---------------------------------------------------------------- JSON


def json_renderer(limit_bytes: int | None) -> Renderer:
    """Return a renderer of JSON lines of at most *limit_bytes*; None: of any length."""

    def render(event_dict: Mapping[str, Any]) -> bytes:
        fields = {**_HEAD, **event_dict}
        fields.pop(_names.TIME_NS, None)
        for key, value in fields.items():
            if type(value) is not str or len(value) > MAX_CHARACTERS:
                fields[key] = plain(value)
        line = _json.dumps(fields)
        if limit_bytes is not None and len(line) >= limit_bytes:
            line = _fit(fields, limit_bytes)
        return line

    return render


#: Characters that a string keeps at least: as many as a trace id has.
_SHORTEST: Final = 32


def _fit(fields: dict[str, Any], limit_bytes: int) -> bytes:
    """Shorten long values in the middle, tracebacks first, until the line fits."""
    tracebacks = [key for key in (_names.EXCEPTION, _names.STACK) if key in fields]
    room = limit_bytes
    while room > _SHORTEST:
        room = max(room // 2, _SHORTEST)
        for keys in (tracebacks, list(fields)):
            for key in keys:
                fields[key] = _shortened(fields[key], room)
            line = _json.dumps(fields)
            if len(line) < limit_bytes:
                return line
    return _first_that_fit(fields, limit_bytes)


def _shortened(value: Any, room: int) -> Any:
    if isinstance(value, str):
        return shorten(value, room)
    if isinstance(value, (dict, list)) and len(text := _json.dumps(value).decode()) > room:
        return shorten(text, room)
    return value


def _first_that_fit(fields: dict[str, Any], limit_bytes: int) -> bytes:
    """Leave out fields that find no room, the application's before ours, and say how many."""
    room = limit_bytes - len(_json.dumps({_names.FIELDS_LEFT_OUT: len(fields)})) - 1
    kept: dict[str, Any] = {}
    for key in sorted(fields, key=lambda key: key not in _names.RESERVED):
        taken = len(_json.dumps({key: fields[key]})) - 1  # a comma for two braces
        if taken <= room:
            kept[key] = fields[key]
            room -= taken
    return _json.dumps({**kept, _names.FIELDS_LEFT_OUT: len(fields) - len(kept)})


# ---------------------------------------------------------------- console

_RESET, _BOLD, _DIM = "\x1b[0m", "\x1b[1m", "\x1b[2m"
_CYAN, _MAGENTA = "\x1b[36m", "\x1b[35m"
_LEVEL_COLORS: Final = {
    "debug": "\x1b[34m",
    "info": "\x1b[32m",
    "warning": "\x1b[33m",
    "error": "\x1b[31m",
    "critical": "\x1b[1;31m",
}
_EVENT_WIDTH: Final = 32
_TRACE_CHARACTERS: Final = 8
#: C0 and C1 controls, line separators, and what changes the direction of writing.
_CONTROL = re.compile(
    r"[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069]"
)
_CONTROL_BUT_LINES = re.compile(r"(?![\n\t])" + _CONTROL.pattern)
#: With flags that say "sampled" (W3C Trace Context: the lowest bit).
_IDS = re.compile("[0-9a-f]{32}/[0-9a-f]{16}/[0-9a-f][13579bdf]")
_BARE = re.compile(r"[^\s\"'=]+")
_NOT_FIELDS: Final = frozenset(
    {
        *_HEAD,
        _names.TRACE_ID,
        _names.SPAN_ID,
        _names.TRACE_FLAGS,
        _names.JOB_TAG,
        _names.EXCEPTION,
        _names.STACK,
        _names.TIME_NS,
    }
)


def _shown(text: str) -> str:
    """Return *text* with its control characters shown, so that a terminal obeys none."""
    return _CONTROL.sub(lambda found: ascii(found.group())[1:-1], text)


def _shown_lines(text: str) -> str:
    return _CONTROL_BUT_LINES.sub(lambda found: ascii(found.group())[1:-1], text)


def console_renderer(*, color: bool, links_to: str | None = None) -> Renderer:
    """Return a renderer for people.

    ``HH:MM:SS.mmm level message   key=value …  logger  ·trace``, tracebacks below.
    *links_to*: Jaeger's address, to which the trace is a link on terminals that take them.
    """
    if color:
        _obey_colors_on_windows()

    def paint(code: str, text: str) -> str:
        return f"{code}{text}{_RESET}" if color and code and text else text

    def render(event_dict: Mapping[str, Any]) -> bytes:
        level = _text_of(event_dict, _names.LEVEL)
        tag = _text_of(event_dict, _names.JOB_TAG)
        message = _text_of(event_dict, _names.EVENT)
        message = f"[{tag}] {message}" if tag else message
        short = _text_of(event_dict, _names.TRACE_ID)[:_TRACE_CHARACTERS]
        parts = [
            paint(_DIM, _clock(event_dict.get(_names.TIME_NS))),
            paint(_LEVEL_COLORS.get(level, ""), f"{level:<8}"),
            paint(_BOLD, message) + " " * (_EVENT_WIDTH - len(message)),
            *[
                f"{paint(_CYAN, _shown(key))}={paint(_MAGENTA, _value(value))}"
                for key, value in event_dict.items()
                if key not in _NOT_FIELDS
            ],
            " " + paint(_DIM, _text_of(event_dict, _names.LOGGER)),
            *([_linked(paint(_DIM, f"·{short}"), event_dict, links_to)] if short else []),
        ]
        below = [
            _indented(str(plain(event_dict[key])), paint)
            for key in (_names.STACK, _names.EXCEPTION)
            if key in event_dict
        ]
        return "\n".join([" ".join(parts), *below]).encode("utf-8", "backslashreplace")

    return render


def _linked(text: str, event_dict: Mapping[str, Any], jaeger_url: str | None) -> str:
    """Make *text* a link, where the ids are OpenTelemetry's and not bound by hand, and their span
    is recorded: of no other is anything in Jaeger.
    """
    ids = [event_dict.get(key) for key in (_names.TRACE_ID, _names.SPAN_ID, _names.TRACE_FLAGS)]
    if jaeger_url is None or not _IDS.fullmatch("/".join(map(str, ids))):
        return text
    return _links.hyperlink(text, _links.trace_url(jaeger_url, f"{ids[0]}", f"{ids[1]}"))


def _text_of(event_dict: Mapping[str, Any], key: str) -> str:
    value = event_dict.get(key)
    return "" if value is None else _shown(str(plain(value)))


def _clock(time_ns: int | None) -> str:
    """Return local time, which is what a person at the terminal has on the wrist."""
    seconds, rest = divmod(time.time_ns() if time_ns is None else time_ns, 1_000_000_000)
    return f"{time.strftime('%H:%M:%S', time.localtime(seconds))}.{rest // 1_000_000:03d}"


def _value(value: Any) -> str:
    kept = plain(value)
    if isinstance(kept, str):
        text = kept if _BARE.fullmatch(kept) else repr(kept)
    elif isinstance(kept, (dict, list)):
        text = _json.dumps(kept).decode()
    else:
        text = str(kept)
    return _shown(text)


def _indented(traceback_text: str, paint: Callable[[str, str], str]) -> str:
    """Set a traceback off from the lines around it: places dim, what was raised in red."""
    lines = []
    for line in _shown_lines(traceback_text).rstrip("\n").split("\n"):
        if line.startswith(("  ", "Traceback ", "Stack ")) or not line:
            code = _DIM if line.lstrip().startswith(("File ", "Traceback ", "^", "~")) else ""
        else:
            code = _LEVEL_COLORS["error"]
        lines.append("    " + paint(code, line))
    return "\n".join(lines)


def _obey_colors_on_windows() -> None:
    if sys.platform == "win32":  # pragma: no cover - Windows
        import colorama

        colorama.just_fix_windows_console()
