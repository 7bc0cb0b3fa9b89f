"""Findings as lines: a sign, a sentence, and below it what to do.

In: findings and a width. Out: lines of text. Invariant: a sign is a word where the
encoding lacks it, and nothing is said by colour alone. Deliberately absent: what is found.
"""

import textwrap
from collections.abc import Iterable, Iterator
from typing import Final

from rich.text import Text

from otel_logging._text import visible
from otel_logging.doctor.finding import Finding, Mark

_SIGNS: Final = {
    Mark.GOOD: ("✓", "ok", "green"),
    Mark.NOTE: ("!", "!", "yellow"),
    Mark.PROBLEM: ("✗", "NO", "bold red"),
}
_TO_DO: Final = "do: "
_WIDEST: Final = 100  # columns: longer lines are hard to read


def draw(finding: Finding, *, width: int, encoding: str) -> Iterator[Text]:
    """Yield a finding, wrapped to *width* columns."""
    sign, word, style = _SIGNS[finding.mark]
    lead = f"{sign} " if encoding.lower().startswith("utf") else f"{word:<2} "
    indent = " " * len(lead)
    yield from _wrapped(Text().append(lead, style), finding.said, indent, width)
    if finding.to_do:
        below = Text(indent).append(_TO_DO, "bold")
        yield from _wrapped(below, finding.to_do, indent + " " * len(_TO_DO), width)


def _wrapped(lead: Text, text: str, indent: str, width: int) -> Iterator[Text]:
    room = max(min(width, _WIDEST) - len(indent), 20)
    lines = textwrap.wrap(visible(text), room, break_long_words=False, break_on_hyphens=False)
    for number, line in enumerate(lines):
        # a path or an address is not cut: it is to be copied
        start = lead.copy() if number == 0 else Text(indent)
        whole = start.append(line)
        whole.overflow = "ignore"
        yield whole


def result(findings: Iterable[Finding]) -> Iterator[Text]:
    """Yield what it comes to."""
    found = problems(findings)
    yield Text()
    if found:
        yield Text(f"{found} problem{'s' * (found > 1)} found.", "bold red")
    else:
        yield Text("All is well: a span and its log line made the whole way.", "bold green")


def problems(findings: Iterable[Finding]) -> int:
    """Return how many of *findings* keep log lines from Jaeger."""
    return sum(finding.mark is Mark.PROBLEM for finding in findings)
