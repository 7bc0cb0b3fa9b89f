"""What the pictures share: the terminal, and how values look in it.

In: values of other people's programs. Out: text of a known width. Invariant:
no character of a value is ever obeyed by the terminal, no line is wider than
it, and nothing is said by colour alone. Deliberately absent: what is drawn.
"""

import io
import json
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from typing import Any, Final

from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

_PIPED_LEAST, _PIPED_MOST = 80, 120  # what a reader of a file or a ticket can bear

_AT_ONCE: Final = 50  # lines: Rich takes 0.12 ms for one alone, 0.04 ms for one of these [run]

#: Control characters, line separators, and the marks that turn or hide text (Unicode's
#: bidirectional controls; "Trojan Source", CVE-2021-42574).
_OBEYED: Final = re.compile(
    r"[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]"
)
_SHORT: Final = {"\n": r"\n", "\r": r"\r", "\t": r"\t"}


def console() -> Console:
    """Return standard output: in colour and as wide as it is where it is a terminal, else
    plain and 80 to 120 columns wide (``COLUMNS``, or the terminal that errors go to).

    Scope: the process's standard output no longer raises for what its encoding lacks.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")
    made = Console(highlight=False)
    if not made.is_terminal:
        made.width = min(max(made.width, _PIPED_LEAST), _PIPED_MOST)
    return made


@dataclass(frozen=True, slots=True)
class Links:
    """Where spans are seen in Jaeger. *of*: trace id and span id to a URL, None where it is not
    there; *are_taken*: whether the terminal makes a link of any text.
    """

    of: Callable[[str, str], str | None]
    are_taken: bool

    def mark(self, text: Text, trace_id: str, span_id: str) -> Text:
        """Make *text* a link, where the terminal takes it."""
        url = self.of(trace_id, span_id)
        if url is not None and self.are_taken:
            text.stylize(f"link {url}")
        return text

    def below(self, trace_id: str, span_id: str, indent: str = "") -> Iterator[Text]:
        """Yield the URL as a line of its own, whole, where no text can be made a link."""
        url = self.of(trace_id, span_id)
        if url is not None and not self.are_taken:
            yield Text(indent + url, "dim", overflow="ignore")


NO_LINKS: Final = Links(lambda *_: None, are_taken=False)


def show(out: Console, lines: Iterable[Text]) -> None:
    """Print *lines*, each cut to the width of *out*, but for URLs: a part of one is nothing."""
    waiting, width = iter(lines), out.width
    while some := [_fitting(line, width) for line in islice(waiting, _AT_ONCE)]:
        out.print(Text("\n").join(some), soft_wrap=True)


def _fitting(line: Text, width: int) -> Text:
    if line.overflow != "ignore":
        line.truncate(width, overflow="ellipsis")
    line.rstrip()
    return line


def visible(text: str) -> str:
    r"""Return *text* with what a terminal would obey written out: ``\n``, ``\x1b``, ``\u202e``."""
    return _OBEYED.sub(_written_out, text)


def _written_out(found: re.Match[str]) -> str:
    code = ord(found[0])
    return _SHORT.get(found[0]) or (f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}")


def shown(value: Any) -> str:
    """Return an attribute's value for one line: a word as it is, other strings quoted."""
    if isinstance(value, str):
        return visible(value) if value and " " not in value else f'"{visible(value)}"'
    if isinstance(value, float):
        return f"{value:.6g}"
    return visible(json.dumps(value, ensure_ascii=False))


def fields(values: Iterable[tuple[str, Any]]) -> Text:
    """Return ``key=value`` pairs, the keys dim."""
    line = Text()
    for key, value in values:
        line.append(" " if line else "").append(f"{visible(key)}=", "dim").append(shown(value))
    return line


def cell(text: str | Text, width: int, *, right: bool = False) -> Text:
    """Return *text* in exactly *width* columns: cut with an ellipsis, or filled with blanks."""
    made = Text(text) if isinstance(text, str) else text.copy()
    made.truncate(width, overflow="ellipsis")
    blanks = width - cell_len(made.plain)
    if right:
        made.pad_left(blanks)
    else:
        made.pad_right(blanks)
    return made


def duration(seconds: float) -> str:
    """Return a duration as people say it: 850 µs, 3.2 ms, 604 ms, 1.204 s, 17 min 3 s."""
    if seconds < 0.001:
        return f"{seconds * 1e6:.0f} µs"
    if seconds < 0.9995:
        return f"{seconds * 1e3:.{1 if seconds < 0.00995 else 0}f} ms"
    if seconds < 59.9995:
        return f"{seconds:.3f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def local_time(time_ns: int) -> datetime:
    """Return a time since the epoch in the zone of whoever reads it."""
    return datetime.fromtimestamp(time_ns / 1e9).astimezone()
