"""What the drawings share: the terminal, and how values look in it.

No character of a value is a command to the terminal, no line is wider than it, and no fact is
shown by colour alone.
"""

import io
import json
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import chain, islice
from typing import Any, Final, TextIO

from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from otel_logging import _names
from otel_logging._text import duration, later, visible
from otel_logging.traces import exceptions

_PIPED_LEAST, _PIPED_MOST = 80, 120  # columns that fit into a file or a ticket
_MOST_SECONDS: Final = 1e9  # 30 years: a larger number is no duration
_BEFORE_UNIT: Final = later(r"(?<=\d) (?=(?:ms|s|µs|min|h|d)\b|%)")
_JOINED: Final = "\ue000"  # one column wide, and no blank
_AT_ONCE: Final = 50  # lines: printed alone, a line takes Rich 0.12 ms; in fifties 0.04 ms [run]
_NOTICED_S = 0.001
#: Attributes that are in the picture, but not as fields.
_HIDDEN: Final = exceptions.ATTRIBUTES | {
    *(_names.BUDGET, _names.LATE, _names.CANCELLED),
    *(_names.LEVEL, _names.EXCEPTION, _names.STACK),
}
_HTTP: Final = ("http.route", "url.path", "http.response.status_code")  # first of a stage


def console() -> Console:
    """Return standard output. A terminal gets colours and its own width; anything else is plain,
    and 80 to 120 columns wide (by ``COLUMNS``, or the terminal that errors go to).

    Scope: the process's standard output no longer raises for characters its encoding lacks.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")
    made = Console(highlight=False)
    if not made.is_terminal:
        made.width = min(max(made.width, _PIPED_LEAST), _PIPED_MOST)
    return made


@dataclass(frozen=True, slots=True)
class Links:
    """Links to spans in Jaeger. *of*: makes a URL of a trace's id and spans' ids, None if Jaeger
    has not got them; *are_taken*: whether the terminal supports hyperlinks.
    """

    of: Callable[..., str | None]
    are_taken: bool

    def mark(self, text: Text, *ids: str) -> Text:
        """Make *text* a hyperlink, if the terminal supports them."""
        url = self.of(*ids)
        if url is not None and self.are_taken:
            text.stylize(f"link {url}")
        return text

    def below(self, *ids: str, indent: str = "") -> Iterator[Text]:
        """Yield the whole URL as a line of its own, if the terminal supports no hyperlinks."""
        url = self.of(*ids)
        if url is not None and not self.are_taken:
            yield Text(indent + url, "dim", overflow="ignore")


NO_LINKS: Final = Links(lambda *_: None, are_taken=False)


def show(out: Console, lines: Iterable[Text]) -> None:
    """Print *lines*, each cut to the width of *out*. A URL is not cut, since a part of it is
    useless; a title goes on in the next line.
    """
    width = out.width
    parts = (wrapped(one, width, 2) if one.overflow == "fold" else [one] for one in lines)
    waiting = chain.from_iterable(parts)
    while some := [_fitting(line, width) for line in islice(waiting, _AT_ONCE)]:
        out.print(Text("\n").join(some), soft_wrap=True)


def _fitting(line: Text, width: int) -> Text:
    if line.overflow != "ignore":
        line.truncate(width, overflow="ellipsis")
    line.rstrip()
    return line


def shown(value: Any, key: str = "") -> str:
    """Return an attribute's value for one line: a word as it is, other strings in quotes, seconds
    as a duration.
    """
    if isinstance(value, str) and key == _names.LATE_WHERE:
        return visible(" · ".join(value.splitlines()))
    if isinstance(value, str):
        return visible(value) if value and " " not in value else f'"{visible(value)}"'
    if isinstance(value, float):
        is_time = key.endswith("_s") and 0 <= value < _MOST_SECONDS
        return duration(value) if is_time else f"{value:.6g}"
    return visible(json.dumps(value, ensure_ascii=False))


def named(key: str) -> str:
    """Return what stands before an attribute's value."""
    return "where it stood: " if key == _names.LATE_WHERE else f"{visible(key)}="


def titled(title: Text, sources: Sequence[str], places: Sequence[str], width: int) -> Text:
    """Return *title* with the sources that were read and the directories of the local store, as far
    as the line has room; two sources are always named.
    """
    source = f" · {' and '.join(sources)}"
    whole = "".join(f" · {place}" for place in places)
    if len(sources) > 1 or title.cell_len + cell_len(source) <= width:
        title.append(source, "dim")
    if title.cell_len + cell_len(whole) <= width:
        title.append(whole, "dim")
    return title


def fields(values: Iterable[tuple[str, Any]]) -> Text:
    """Return ``key=value`` pairs, the keys dim."""
    line = Text()
    for key, value in values:
        line.append(" " if line else "").append(named(key), "dim").append(shown(value, key))
    return line


def new_fields(values: Mapping[str, Any], shown: Mapping[str, Any]) -> Text:
    """Return the fields that no row above has shown. What was asked for comes first; the logger's
    name comes last, and is cut first.
    """
    new = {k: v for k, v in values.items() if _is_shown(k, v) and (k not in shown or shown[k] != v)}
    first = {key: new.pop(key) for key in _HTTP if key in new}
    if _names.LOGGER in new:
        new[_names.LOGGER] = new.pop(_names.LOGGER)
    line = fields([*first.items(), *new.items()])
    line.no_wrap = True
    return line


def _is_shown(key: str, value: Any) -> bool:
    """Return whether an attribute is shown as a field. The cause of lateness is in the heading; a
    wait that nobody notices is not shown.
    """
    if key == _names.QUEUE_WAIT and isinstance(value, float) and value < _NOTICED_S:
        return False
    is_verdict = key.startswith(f"{_names.LATE}.") and key != _names.LATE_WHERE
    return key not in _HIDDEN and not is_verdict


def wrapped(text: Text, width: int, indent: int, lead: str | Text = "") -> Iterator[Text]:
    """Yield *text* in lines of at most *width* columns, broken at blanks, but never before a unit.
    The first line stands after *lead*, the others are indented. If the text's overflow is "ignore",
    a longer word is not broken: a path or an address is to be copied.
    """
    first, lines = cell_len(str(lead)), [text]
    if first + text.cell_len > width:  # rare, and four times as dear
        whole, room = text.copy(), max(width - max(indent, first), 1)
        whole.plain = _BEFORE_UNIT.sub(_JOINED, text.plain)
        lines = [*whole.wrap(Console(width=room), room)]
        for line in lines:
            line.plain = line.plain.replace(_JOINED, " ")
    for number, line in enumerate(lines):
        line.rstrip()
        yield Text.assemble(" " * indent if number else lead, line, overflow=text.overflow)


def broken(text: str, stream: TextIO) -> str:
    """Return sentences for *stream*; for a terminal, in lines that are broken between words."""
    if not stream.isatty():
        return text
    room = shutil.get_terminal_size().columns - len("Error: ")
    lines = (Text(line, overflow="ignore") for line in text.split("\n"))
    return "\n".join(part.plain for line in lines for part in wrapped(line, room, 0))


def cell(text: Text, width: int) -> Text:
    """Return *text* in exactly *width* columns: cut with an ellipsis, or filled with blanks."""
    made = text.copy()
    made.truncate(width, overflow="ellipsis", pad=True)
    return made


def moment(time_ns: int) -> str:
    """Return a time since the epoch as date and time in the reader's time zone."""
    at = local_time(time_ns)
    return f"{at:%Y-%m-%d %H:%M:%S}.{at.microsecond // 1000:03}"


def local_time(time_ns: int) -> datetime:
    """Return a time since the epoch in the reader's time zone."""
    return datetime.fromtimestamp(time_ns / 1e9).astimezone()
