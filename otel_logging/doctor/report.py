"""Findings, and how they are drawn: a sign, a sentence, and below it what to do.

A sign is a word where the encoding lacks it, and nothing is said by colour alone.
"""

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from enum import Enum
from functools import partial
from typing import Final

from rich.text import Text

from otel_logging._text import visible
from otel_logging.traces.draw.terminal import wrapped

_TO_DO: Final = "do: "
_WIDEST: Final = 100  # columns: longer lines are hard to read


class Mark(Enum):
    """A severity: sign, its word in ASCII, style. Only PROBLEM makes the exit status 1."""

    GOOD = ("✓", "ok", "green")
    NOTE = ("!", "!", "yellow")  # worth knowing; not why nothing arrives
    PROBLEM = ("✗", "NO", "bold red")


@dataclass(frozen=True, slots=True)
class Finding:
    """*said*: a plain sentence; *to_do*: what mends it, empty where nothing has to be done."""

    mark: Mark
    said: str
    to_do: str = ""


NOT_TRIED: Final = "The round trip was not tried: collector and Jaeger must answer."
OFF: Final = "The collector and Jaeger were not asked: no span is sent."


good: Final = partial(Finding, Mark.GOOD)
note: Final = partial(Finding, Mark.NOTE)
problem: Final = partial(Finding, Mark.PROBLEM)


def problems(findings: Iterable[Finding]) -> int:
    """Return how many of *findings* keep log lines from Jaeger."""
    return sum(finding.mark is Mark.PROBLEM for finding in findings)


def draw(finding: Finding, *, width: int, encoding: str) -> Iterator[Text]:
    """Yield a finding, wrapped to *width* columns."""
    sign, word, style = finding.mark.value
    lead = f"{sign} " if encoding.lower().startswith("utf") else f"{word:<2} "
    said, to_do = (Text(visible(each), overflow="ignore") for each in (finding.said, finding.to_do))
    room = min(width, _WIDEST)
    yield from wrapped(said, room, len(lead), Text(lead, style))
    if to_do:
        below = Text(" " * len(lead)).append(_TO_DO, "bold")
        yield from wrapped(to_do, room, len(below), below)


def result(findings: Collection[Finding]) -> Iterator[Text]:
    """Yield the summary."""
    found, said = problems(findings), {finding.said for finding in findings}
    yield Text()
    if found:
        yield Text(f"{found} problem{'s' * (found > 1)} found.", "bold red")
    elif OFF in said:
        yield Text("No problem found: tracing is switched off.", "bold")
    elif NOT_TRIED in said:
        yield Text("No problem found: the local store has every span.", "bold")
    else:
        yield Text("All is well: a span and its log line came back from Jaeger.", "bold green")
