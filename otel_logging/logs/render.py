"""An event dict to one line: JSON for machines, aligned and coloured for people.

Out: bytes without a newline at the end. Invariant: never raises for any value; the JSON is strict
(no NaN, no lone surrogate) and one line, the console obeys no control character.
"""

import re
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

from otel_logging import _json, _links, _names
from otel_logging._values import MAX_RECORD_BYTES, field, plain, shown
from otel_logging.logs.line import NAMES

#: What stands first in a JSON line, in this order.
_HEAD: Final[Mapping[str, Any]] = dict.fromkeys(
    (_names.TIMESTAMP, _names.LEVEL, _names.EVENT, _names.LOGGER)
)

Renderer = Callable[[Mapping[str, Any]], bytes]


def line_limit(limit_bytes: int | None) -> int:
    """Return the most bytes of a line without its newline; *limit_bytes* is with it."""
    return min(limit_bytes or MAX_RECORD_BYTES, MAX_RECORD_BYTES) - 1


def json_renderer(limit_bytes: int | None) -> Renderer:
    """Return a renderer of JSON lines of at most *limit_bytes*, else ``MAX_RECORD_BYTES``."""
    limit = line_limit(limit_bytes)

    def render(event_dict: Mapping[str, Any]) -> bytes:
        fields = {**_HEAD, **event_dict}
        fields.pop(_names.TIME_NS, None)
        for key, value in fields.items():
            fields[key] = field(key, value)
        line = _json.dumps(fields)
        return line if len(line) <= limit else _json.dumps(_json.fitted(fields, limit, _json.dumps))

    return render


# ---------------------------------------------------------------- console

_RESET, _BOLD, _DIM = "\x1b[0m", "\x1b[1m", "\x1b[2m"
_CYAN, _MAGENTA = "\x1b[36m", "\x1b[35m"
_LEVEL_COLORS: Final = {
    level: f"\x1b[{code}m"
    for level, code in zip(NAMES.values(), ("34", "32", "33", "31", "1;31"), strict=True)
}
_EVENT_WIDTH: Final = 32
_TRACE_CHARACTERS: Final = 8
#: With flags that say "sampled" (W3C Trace Context: the lowest bit).
_IDS = re.compile("[0-9a-f]{32}/[0-9a-f]{16}/[0-9a-f][13579bdf]")
_BARE = re.compile(r"[^\s\"'=]+")
_NOT_FIELDS: Final = _names.RESERVED | {_names.STACK, _names.TIME_NS, *_names.OF_EXCEPTIONS}


def console_renderer(*, color: bool, links_to: str | None = None) -> Renderer:
    """Return a renderer for people.

    ``HH:MM:SS.mmm level message   key=value …  logger  ·trace``, tracebacks below.
    *links_to*: Jaeger's address, to which the trace is a link on terminals that take them.
    """
    if color:
        _obey_colors_on_windows()

    def paint(code: str, text: str) -> str:
        return f"{code}{text}{_RESET}" if color and code and text else text

    def draw(event_dict: Mapping[str, Any]) -> bytes:
        level = _text_of(event_dict, _names.LEVEL)
        message = _text_of(event_dict, _names.EVENT)
        if event_dict.get(_names.JOB_TAG) is not None:
            message = f"[{_text_of(event_dict, _names.JOB_TAG)}] {message}"
        short = _text_of(event_dict, _names.TRACE_ID)[:_TRACE_CHARACTERS]
        parts = [
            paint(_DIM, _clock(event_dict.get(_names.TIME_NS))),
            paint(_LEVEL_COLORS.get(level, ""), f"{level:<8}"),
            paint(_BOLD, message) + " " * (_EVENT_WIDTH - len(message)),
            *[
                f"{paint(_CYAN, shown(key))}={paint(_MAGENTA, _value(key, value))}"
                for key, value in event_dict.items()
                if key not in _NOT_FIELDS
            ],
            " " + paint(_DIM, _text_of(event_dict, _names.LOGGER)),
        ]
        if short:
            parts.append(_linked(paint(_DIM, f"·{short}"), event_dict, links_to))
        below = [
            _indented(str(plain(event_dict[key])), paint)
            for key in (_names.STACK, _names.EXCEPTION)
            if key in event_dict
        ]
        return "\n".join([" ".join(parts), *below]).encode("utf-8", "backslashreplace")

    def render(event_dict: Mapping[str, Any]) -> bytes:
        line = draw(event_dict)
        fits = len(line) < MAX_RECORD_BYTES
        return line if fits else draw(_json.fitted(event_dict, MAX_RECORD_BYTES - 1, draw))

    return render


def _linked(text: str, event_dict: Mapping[str, Any], jaeger_url: str | None) -> str:
    """Make *text* a link to a recorded span; ids bound by hand lead nowhere."""
    ids = [event_dict.get(key) for key in (_names.TRACE_ID, _names.SPAN_ID, _names.TRACE_FLAGS)]
    if jaeger_url is None or not _IDS.fullmatch("/".join(map(str, ids))):
        return text
    return _links.hyperlink(text, _links.trace_url(jaeger_url, f"{ids[0]}", f"{ids[1]}"))


def _text_of(event_dict: Mapping[str, Any], key: str) -> str:
    value = event_dict.get(key)
    return "" if value is None else shown(str(plain(value)))


def _clock(time_ns: int | None) -> str:
    """Return local time, which is what a person at the terminal has on the wrist."""
    seconds, rest = divmod(time.time_ns() if time_ns is None else time_ns, 1_000_000_000)
    return f"{time.strftime('%H:%M:%S', time.localtime(seconds))}.{rest // 1_000_000:03d}"


def _value(key: str, value: Any) -> str:
    kept = field(key, value)
    if isinstance(kept, str):
        return shown(kept if _BARE.fullmatch(kept) else repr(kept))
    return shown(_json.dumps(kept).decode() if isinstance(kept, (dict, list)) else str(kept))


def _indented(traceback_text: str, paint: Callable[[str, str], str]) -> str:
    """Set a traceback off from the lines around it: places dim, what was raised in red."""
    lines = []
    for written in traceback_text.rstrip("\n").split("\n"):
        line = "\t".join(map(shown, written.split("\t")))
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
