"""Text of other programs, made safe for a terminal; times and durations; patterns.

In: names, messages, values, answers of servers. Out: text in which no character
is a command to the terminal. Invariant: what was escaped once is not changed by
a second time. Deliberately absent: widths and colours.
"""

import re
import time
from collections.abc import Callable, Iterable
from typing import Any, Final, cast


class _Later:
    def __init__(self, pattern: str, flags: int = 0) -> None:
        self._given = pattern, flags

    def __getattr__(self, name: str) -> Any:
        compiled = re.compile(*self._given)
        for each in ("finditer", "fullmatch", "match", "search", "split", "sub"):
            setattr(self, each, getattr(compiled, each))
        return getattr(compiled, name)


#: As ``re.compile``, but compiles when the pattern is first used: a service uses few of them.
later: Final = cast("Callable[..., re.Pattern[str]]", _Later)


#: The beginning of a text inside another one: behind an escape, also of a byte, as in JSON.
ESCAPED: Final = r"(?:(?<=\\[nrtabfv])|(?<=\\x[0-9A-Fa-f]{2})|(?<=\\u[0-9A-Fa-f]{4}))"


class Begins:
    """A pattern that begins behind something; behind an escape, too, if a text has one, since that
    second search takes as long again.
    """

    def __init__(self, behind: str, pattern: str) -> None:
        self._pattern = later(f"{behind}{pattern}", re.ASCII)
        self._escaped = later(f"(?:{behind}|{ESCAPED}){pattern}", re.ASCII)

    def sub(self, put: Callable[[re.Match[str]], str], text: str) -> str:
        return (self._escaped if "\\" in text else self._pattern).sub(put, text)


def any_of(words: Iterable[str]) -> str:
    """Return a pattern of *words* that tries each beginning once: with many words the quickest."""
    ends: dict[str, list[str]] = {}
    for word in words:
        ends.setdefault(word[:1], []).append(word[1:])
    if "" in ends:
        return ""
    ways = [re.escape(first) + any_of(rest) for first, rest in ends.items()]
    # a group around one way takes as long to compile as the way itself
    return ways[0] if len(ways) == 1 else f"(?:{'|'.join(ways)})"


def has_one(signs: Iterable[str], text: str) -> bool:
    """Say whether one of *signs* is in *text*."""
    for sign in signs:  # noqa: SIM110 - ``any`` takes twice as long
        if sign in text:
            return True
    return False


#: What splits lines, or is obeyed by a terminal: C0 and C1 controls, line separators, the marks
#: that turn or hide text (Unicode's bidirectional controls; "Trojan Source", CVE-2021-42574). And
#: lone surrogates, which no output takes.
OBEYED: Final = later(
    r"[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]"
)
_MOST_CHARACTERS: Final = 300  # of a server's answer: four lines of a terminal


def visible(text: str) -> str:
    r"""Return *text* with unsafe characters escaped: ``\n``, ``\x1b``, ``\u202e``."""
    if text.isprintable():  # nearly every text; one with control characters is not
        return text
    return OBEYED.sub(lambda found: ascii(found.group())[1:-1], text)


def one_line(text: str | bytes, most: int = _MOST_CHARACTERS) -> str:
    """Return the beginning of what a server says as one line: unsafe characters are blanks."""
    if isinstance(text, bytes):
        text = text[: 4 * most].decode("utf-8", "ignore")
    printable = "".join(c if c.isprintable() else " " for c in text[:most])
    return " ".join(printable.split())


def volume(size: int) -> str:
    """Return a number of bytes as people write it."""
    return f"{size / 1e3:.1f} kB" if size < 100_000 else f"{size / 1e6:.1f} MB"


def duration(seconds: float) -> str:
    """Return a duration as people write it: 850 µs, 3.2 ms, 604 ms, 1.204 s, 17 min 3 s, 2 h."""
    if seconds < 0.0009995:
        return f"{seconds * 1e6:.0f} µs"
    if seconds < 0.9995:
        return f"{seconds * 1e3:.{1 if seconds < 0.00995 else 0}f} ms"
    if seconds < 59.9995:
        return f"{seconds:.3f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours = minutes // 60
    if minutes < 60:
        parts = (minutes, "min"), (rest, "s")
    elif hours < 48:
        parts = (hours, "h"), (minutes % 60, "min")
    else:
        parts = (hours // 24, "d"), (hours % 24, "h")
    return " ".join(f"{number} {unit}" for number, unit in parts if number)


#: The last second that was asked for, and its text: many lines and spans are of the same.
_second: tuple[int, str] = (0, "1970-01-01T00:00:00.")


def rfc3339(time_ns: int) -> str:
    """Return a time as RFC 3339 in UTC, with microseconds and ``Z``."""
    global _second
    seconds = time_ns // 1_000_000_000
    known, text = _second
    if known != seconds:
        text = time.strftime("%Y-%m-%dT%H:%M:%S.", time.gmtime(seconds))
        _second = (seconds, text)
    rest = time_ns // 1000 % 1_000_000 + 1_000_000  # with its zeros: a format takes twice the time
    return f"{text}{str(rest)[1:]}Z"
