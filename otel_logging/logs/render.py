"""An event dict to one line: JSON for machines, aligned and coloured for people.

Out: bytes without a newline at the end. Invariant: never raises for any value; the JSON is strict
(no NaN, no lone surrogate) and one line, the console obeys no control character but newlines of
messages and tracebacks, below which all is indented.
"""

import math
import sys
import time
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Final

from otel_logging import _json, _links, _names, _runtime
from otel_logging._text import later, visible
from otel_logging._values import MAX_RECORD_BYTES, field, plain
from otel_logging.logs.line import NAMES

#: The first fields of a JSON line, in this order.
_HEAD: Final[Mapping[str, Any]] = dict.fromkeys(
    (_names.TIMESTAMP, _names.LEVEL, _names.EVENT, _names.LOGGER)
)

Renderer = Callable[[Mapping[str, Any]], bytes]


def line_limit(limit_bytes: int | None) -> int:
    """Return the most bytes of a line without its newline; *limit_bytes* is with it."""
    return min(limit_bytes or MAX_RECORD_BYTES, MAX_RECORD_BYTES) - 1


def text_of(event_dict: Mapping[str, Any]) -> bytes:
    """Render a line whose message is what the application has rendered."""
    text = str(plain(event_dict[_names.EVENT])).rstrip("\n")
    return text.encode(errors="backslashreplace")


def json_renderer(limit_bytes: int | None) -> Renderer:
    """Return a renderer of JSON lines of at most *limit_bytes*, else ``MAX_RECORD_BYTES``."""
    limit = line_limit(limit_bytes)

    def render(event_dict: Mapping[str, Any]) -> bytes:
        fields = {**_HEAD, **event_dict}
        fields.pop(_names.TIME_NS, None)
        fields = {str(plain(key)): field(key, value) for key, value in fields.items()}
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
_INDENT: Final = 24  # of a line that goes on: right of the beginning of messages
_LEAST_INDENT: Final = 4  # of tracebacks, and of words too long for more
_TRACE_CHARACTERS: Final = 8
#: Flags that say "sampled" (W3C Trace Context: the lowest bit).
_IDS = later("[0-9a-f]{32}/[0-9a-f]{16}/[0-9a-f][13579bdf]")
_BARE = later(r"[^\s\"'=]+")
#: Fields that people do not read beside the message. The shares of a late stage are for programs,
#: and its place stands below.
_NOT_FIELDS: Final = _names.RESERVED | {
    *(_names.STACK, _names.TIME_NS, _names.LATE_SHARES, _names.LATE_WHERE, *_names.OF_EXCEPTIONS)
}
_TAB: Final = 4  # columns
#: Characters between which a line may be broken, as Chinese and Japanese have no blanks.
_CJK: Final = r"\u2e80-\u9fff\uf900-\ufaff\uff00-\uff60"
_SIGNS: Final = r"[\u3001\u3002\uff09\uff0c\uff0e\uff01\uff1f\u300d\u300f]*"  # begin no line
#: A number is not parted from its unit.
_WORDS: Final = later(rf"( *)([{_CJK}]{_SIGNS}|[^ {_CJK}]*\d [mµ]?s\b[^ {_CJK}]*|[^ {_CJK}]+)")
#: Parts of a path or an address that is too long for a line, or of a text without blanks.
_LONG: Final = later(f"()([{_CJK}]{_SIGNS}|[^/?&{_CJK}]+[/?&]*|[/?&]+)")
_PARTS: Final = later("( *)([^ ,]+,*|,+)")  # of a value that is too long for one line
_MARKS: Final = later(r"[ |]*[~^][ ~^]*")
_Paint = Callable[[str, str], str]
#: A part that is never broken: the columns before it, a field's name, the text, its colour.
_Token = tuple[int, str | None, str, str]


def console_renderer(
    *, color: bool, links_to: str | None = None, width: Callable[[], float] = lambda: math.inf
) -> Renderer:
    """Return a renderer for people.

    ``HH:MM:SS.mmm level message   key=value …  logger  ·trace``, tracebacks below. *links_to*:
    Jaeger's address, to which the trace is a link on terminals that take them. *width*: the
    terminal's; what is wider goes on below. There the date is printed where a day begins; a
    pipe's or file's lines are left to who reads them.
    """
    if color:
        _obey_colors_on_windows()
    today = ""

    def paint(code: str, text: str) -> str:
        return f"{code}{text}{_RESET}" if color and code and text else text

    def draw(event_dict: Mapping[str, Any], columns: float = math.inf) -> bytes:
        level = _text_of(event_dict, _names.LEVEL)
        message, *more = _lines(event_dict.get(_names.EVENT))
        if event_dict.get(_names.JOB_TAG) is not None:
            message = f"[{_text_of(event_dict, _names.JOB_TAG)}] {message}"
        clock, level_text = _local(event_dict)[1], f"{level:<8}"
        at = len(clock) + len(level_text) + 1
        line = _flow(_tokens(event_dict, message, columns - at), columns, at, _INDENT, paint)
        if short := _text_of(event_dict, _names.TRACE_ID)[:_TRACE_CHARACTERS]:
            linked = _linked(paint(_DIM, f"·{short}"), event_dict, links_to)
            line = line.removesuffix(paint(_DIM, f"·{short}")) + linked
        head = f"{paint(_DIM, clock)} {paint(_LEVEL_COLORS.get(level, ''), level_text)}"
        widest = max(map(_columns, more), default=0)
        indent = _INDENT - 2 if _INDENT - 2 + widest <= columns else _LEAST_INDENT  # one for all
        below = [_below(each, indent, "", columns, paint) for each in more]
        for key in (_names.STACK, _names.EXCEPTION):
            if key in event_dict:
                below += _indented(str(plain(event_dict[key])), columns, paint)
        for place in filter(None, _lines(event_dict.get(_names.LATE_WHERE))):
            below.append(_below(place, _LEAST_INDENT, _DIM, columns, paint))
        return "\n".join([head + line, *below]).encode("utf-8", "backslashreplace")

    def render(event_dict: Mapping[str, Any]) -> bytes:
        nonlocal today
        head, columns = b"", width()
        if columns < math.inf and today != (today := _local(event_dict)[0]):
            head = paint(_DIM, today).encode() + b"\n"
        most = MAX_RECORD_BYTES - 1 - len(head)
        line = draw(event_dict, columns)
        return head + (line if len(line) <= most else draw(_json.fitted(event_dict, most, draw)))

    return render


def _tokens(event_dict: Mapping[str, Any], message: str, room: float) -> list[_Token]:
    """Return what is on a line that has *room*: the message, on whose behalf, the other fields.

    If it is too wide, the message's padding gives way, then the path of its logger. If it is still
    too wide, it is whole, in parts for several lines.
    """
    is_verdict = _names.LATE_CAUSE in event_dict  # its sentence says all of that
    keys = dict.fromkeys([*(key for key in _runtime.current.who if key in event_dict), *event_dict])
    fields: list[_Token] = [
        (1, visible(str(plain(key))), _value(key, event_dict[key]), _MAGENTA)
        for key in keys
        if key not in _NOT_FIELDS and not (is_verdict and key.startswith(_names.LATE))
    ]
    logger = _text_of(event_dict, _names.LOGGER)
    short = _text_of(event_dict, _names.TRACE_ID)[:_TRACE_CHARACTERS]
    trace: list[_Token] = [(1, None, f"·{short}", _DIM)] if short else []
    shortest = "…" + logger.rpartition(".")[2] if "." in logger else logger
    found: list[_Token] = []
    for padding, name in ((_EVENT_WIDTH, logger), (0, logger), (0, shortest), (0, logger)):
        tail = fields + ([(2, None, name, _DIM)] if name else []) + trace
        if tail:
            gap = max(padding - _columns(message) + tail[0][0], 2)
            tail[0] = (gap, *tail[0][1:])
        found = [(1, None, message, _BOLD), *tail]
        if sum(map(_size, found)) <= room:
            return found
    words = _split(found[0], 0, _WORDS)
    return [*words, *(part for each in tail for part in _split(each, room, _PARTS))]


def _split(token: _Token, room: float, pattern: Any) -> Iterator[_Token]:
    """Yield *token*, in parts where it is too wide."""
    gap, name, text, color = token
    if _size(token) <= room:
        yield token
        return
    for blanks, part in pattern.findall(text):
        yield gap + len(blanks), name, part, color
        gap, name = 0, None


def _size(token: _Token) -> int:
    gap, name, text, _ = token
    return gap + (0 if name is None else _columns(name) + 1) + _columns(text)


def _columns(text: str) -> int:
    """Return how many columns of a terminal *text* takes."""
    if text.isascii():
        return len(text)
    wide = sum(unicodedata.east_asian_width(each) in "WF" for each in text)
    return len(text) + wide - sum(map(bool, map(unicodedata.combining, text)))


def _flow(tokens: Iterable[_Token], columns: float, at: int, indent: int, paint: _Paint) -> str:
    """Set *tokens* one after another from the column *at* on; where the terminal ends, below."""
    written = []
    for token in (part for each in tokens for part in _split(each, columns - _LEAST_INDENT, _LONG)):
        (gap, name, text, color), size = token, _size(token)
        if at + size > columns:
            start = indent if indent + size - gap <= columns else _LEAST_INDENT
            if start < at + gap:
                written.append("\n" + " " * start)
                at, size, gap = start, size - gap, 0
        named = "" if name is None else paint(_CYAN, name) + "="
        written.append(" " * gap + named + paint(color, text))
        at += size
    return "".join(written)


def _below(line: str, indent: int, color: str, columns: float, paint: _Paint) -> str:
    """Return a line of a longer text, indented; where it is too wide, broken between words."""
    if indent + _columns(line) > columns:
        indent = _LEAST_INDENT
    tokens = _split((0, None, line, color), columns - indent, _WORDS)
    return " " * indent + _flow(tokens, columns, indent, 2 * _LEAST_INDENT, paint)


def _linked(text: str, event_dict: Mapping[str, Any], jaeger_url: str | None) -> str:
    """Make *text* a link to a recorded span; ids bound by hand lead nowhere."""
    ids = [event_dict.get(key) for key in (_names.TRACE_ID, _names.SPAN_ID, _names.TRACE_FLAGS)]
    if jaeger_url is None or not _IDS.fullmatch("/".join(map(str, ids))):
        return text
    return _links.hyperlink(text, _links.trace_url(jaeger_url, f"{ids[0]}", f"{ids[1]}"))


def _text_of(event_dict: Mapping[str, Any], key: str) -> str:
    value = event_dict.get(key)
    return "" if value is None else visible(str(plain(value)))


def _lines(event: Any) -> list[str]:
    """Return the lines of a message, without empty ones around it."""
    text = "" if event is None else str(plain(event)).replace("\r\n", "\n").strip("\n")
    text = text.expandtabs(_TAB)
    return [visible(each) for each in text.split("\n")]


def _local(event_dict: Mapping[str, Any]) -> tuple[str, str]:
    """Return day and time in the time zone of this machine."""
    time_ns = event_dict.get(_names.TIME_NS)
    seconds, rest = divmod(time.time_ns() if time_ns is None else time_ns, 1_000_000_000)
    day, clock = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds)).split(" ")
    return day, f"{clock}.{rest // 1_000_000:03d}"


def _value(key: str, value: Any) -> str:
    kept = field(key, value)
    if isinstance(kept, str):
        return visible(kept if _BARE.fullmatch(kept) else repr(kept))
    return visible(_json.dumps(kept).decode() if isinstance(kept, (dict, list)) else str(kept))


def _indented(traceback_text: str, columns: float, paint: _Paint) -> Iterator[str]:
    """Set a traceback off from the lines around it: places dim, what was raised in red."""
    above = ""
    for written in traceback_text.rstrip("\n").expandtabs(_TAB).split("\n"):
        line = visible(written)
        if _MARKS.fullmatch(line) and _LEAST_INDENT + _columns(above) > columns:
            continue  # they belong to a line that has been broken
        above = line
        if line.startswith(("  ", "Traceback ", "Stack ")) or not line:
            code = _DIM if line.lstrip().startswith(("File ", "Traceback ", "^", "~")) else ""
        else:
            code = _LEVEL_COLORS["error"]
        yield _below(line, _LEAST_INDENT, code, columns, paint)


def _obey_colors_on_windows() -> None:
    if sys.platform == "win32":  # pragma: no cover - Windows
        import colorama

        colorama.just_fix_windows_console()
