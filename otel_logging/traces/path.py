"""Where the time of a stage went: down its critical path, to what it did itself.

Pure, and every walk ends, also where broken senders made a span its own ancestor.
"""

from bisect import bisect_left, bisect_right
from collections import defaultdict
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final

from otel_logging._text import duration, visible
from otel_logging.traces.span import Span
from otel_logging.traces.trace import Trace

NOTHING: Final = (
    "nothing recorded inside: open stages in it, or install the instrumentation of your database"
)
_AT_ONCE = 1.5  # times the time they took together: less is an overlap by chance
_NEARLY_ALL = 0.9
_SPREAD = 4  # less than a quarter of the time is not where it went
_FIRST_SAID, _LAST_SAID = 2, 6  # stages of a reason
_MOST_STEPS = 1_000  # Python's own limit of calls within calls
_GOES_ON = 20  # a twentieth of its parent's time after its end


@dataclass(frozen=True, slots=True)
class Step:
    """A stage on the way that the time went, or *count* of one name below the same stage.

    *took_s*: their part of the critical path; *at_once*: they ran beside each other. *own_s*: the
    part of it in which no stage below was open, *piece_s* the longest piece of that, *between* the
    line or stage before and after the piece (None: the stage's start or end); of the last step.
    """

    stage: str
    span_id: str  # of the longest
    took_s: float
    count: int = 1
    at_once: bool = False
    own_s: float = 0.0
    piece_s: float = 0.0
    between: tuple[str | None, str | None] | None = None
    spread: str = ""  # in words: over how many names, where none has a quarter of it

    def as_json(self) -> dict[str, Any]:
        """Return it as ``late --json`` prints it."""
        return {
            "stage": self.stage,
            "span_id": self.span_id,
            "took_s": self.took_s,
            "count": self.count,
            "at_once": self.at_once,
            "own_s": self.own_s,
            "between": self.between and list(self.between),
        }

    def __str__(self) -> str:
        if self.count == 1:
            return f"{visible(self.stage)} {duration(self.took_s)}"
        times = f"\N{MULTIPLICATION SIGN}{self.count}" + " at once" * self.at_once
        return f"{visible(self.stage)} {times} · {duration(self.took_s)}"

    @property
    def itself(self) -> str:
        """What the stage did itself, or many in it, in words; empty where nothing was recorded."""
        if self.spread:
            return self.spread
        before, after = (each and visible(each) for each in self.between or (None, None))
        if before and after:
            where = f"between {before} and {after}"
        elif before or after:
            where = f"after {before}" if before else f"before {after}"
        else:
            return ""
        if self.piece_s >= _NEARLY_ALL * self.own_s:
            return f"itself {duration(self.piece_s)}, {where}"
        return f"itself {duration(self.own_s)}, {duration(self.piece_s)} of it {where}"


def words(steps: list[Step]) -> list[str]:
    """Return the way in words, one for each stage below the first; never none. Of a deep one its
    middle is counted.
    """
    found = [str(step) for step in steps[1:]]
    if itself := steps[-1].itself:
        found.append(itself)
    if (left_out := len(found) - _FIRST_SAID - _LAST_SAID) > 1:
        found[_FIRST_SAID:-_LAST_SAID] = [f"… {left_out} more"]
    return found or [NOTHING]


# ---------------------------------------------------------------- the critical path


@dataclass(slots=True)
class Part:
    """The part of *span* on the critical path. Times are ns by the first stage's clock, which
    *shift* makes of the span's own.
    """

    span: Span
    start: int
    end: int
    shift: int = 0


def steps(trace: Trace, span: Span) -> list[Step]:
    """Descend from *span*, each time into the children of one name that took most, as long as
    they took at least what the stage took itself. Cost: the children of those on the way.
    """
    parts, count, at_once, found = [Part(span, span.start_ns, _end(span))], 1, False, list[Step]()
    seen = {span.span_id}
    while len(found) <= _MOST_STEPS:
        gaps: list[tuple[int, int]] = []
        below: dict[str, _Siblings] = defaultdict(_Siblings)
        for part in parts:
            _split(trace, part, seen, gaps, below)
        took, own = sum(p.end - p.start for p in parts), sum(end - start for start, end in gaps)
        longest = max(reversed(parts), key=lambda p: p.end - p.start)
        step = (parts[0].span.name, longest.span.span_id, took / 1e9, count, at_once, own / 1e9)
        most = max(below.values(), key=lambda kind: kind.took, default=_Siblings())
        if max(own, most.took) * _SPREAD < took and most.took > 0:
            found.append(Step(*step, spread=_spread(below, most)))
            break
        if most.took <= 0 or most.took < own:
            found.append(Step(*step, *_between(trace, parts, gaps, below)))
            break
        found.append(Step(*step))
        parts, count, at_once = most.parts, most.count, most.at_once
        seen.update(part.span.span_id for part in parts)
    return found


class _Siblings:
    """Stages of one name below one step; *parts*: what of them is on the critical path."""

    __slots__ = ("count", "parts", "together", "took")

    def __init__(self) -> None:
        self.parts: list[Part] = []
        self.count = self.took = self.together = 0

    @property
    def at_once(self) -> bool:
        return self.count > 1 and self.together > _AT_ONCE * self.took


def _split(
    trace: Trace,
    whole: Part,
    seen: set[str],
    gaps: list[tuple[int, int]],
    below: dict[str, _Siblings],
) -> None:
    """Add the stages right below to *below*; add to *gaps* when none was open. From the end
    backwards, the stage that ended last is what was waited for.
    """
    inside: list[tuple[bool, int, int, int, int, Span]] = []
    most = whole.end + (whole.end - whole.start) // _GOES_ON
    for child in trace.children(whole.span):
        if child.span_id in seen or not child.is_stage:
            continue
        shift = whole.shift
        if child.resource is not whole.span.resource:
            shift += clock(whole.span, child)
        start, end = child.start_ns + shift, _end(child) + shift
        if start <= whole.end and end >= whole.start:
            start, end, goes_on = max(start, whole.start), min(end, whole.end), end > most
            # what goes on long after the end was not waited for: it explains only what nothing
            # else does
            inside.append((goes_on, -end, start, len(inside), shift, child))
    inside.sort()
    reached = whole.end
    for _, minus_end, start, _, shift, child in inside:
        siblings, end = below[child.name], -minus_end
        siblings.count += 1
        siblings.together += end - start
        if start < reached:
            if end < reached:
                gaps.append((end, reached))
            part = Part(child, start, min(end, reached), shift)
            siblings.parts.append(part)
            siblings.took += part.end - start
            reached = start
    if whole.start < reached:
        gaps.append((whole.start, reached))


def clock(parent: Span, child: Span) -> int:
    """Return the ns that have to be added to the times of *child* for the clock of *parent*.

    A child in another service that began before its parent, or ended after the call that waits
    for it, has another clock: it is put into the middle of its parent, as Jaeger does.
    """
    start, end = child.start_ns, _end(child)
    room = (_end(parent) - parent.start_ns) - (end - start)
    is_waited_for = end > _end(parent) and parent.details.kind == "client"
    if child.resource == parent.resource or room < 0:
        return 0
    return parent.start_ns + room // 2 - start if start < parent.start_ns or is_waited_for else 0


def _spread(below: dict[str, _Siblings], most: _Siblings) -> str:
    together, longest = sum(kind.took for kind in below.values()), most.parts[0].span
    parts = f"{duration(together / 1e9)}, most in {visible(longest.name)}"
    return f"{len(below)} different stages · {parts} {duration(most.took / 1e9)}"


def _between(
    trace: Trace, parts: list[Part], gaps: list[tuple[int, int]], below: dict[str, _Siblings]
) -> tuple[float, tuple[str | None, str | None] | None]:
    """Return the longest piece of the gaps in one stage, and what stands around it."""
    if len(parts) > 1 or not gaps:
        return 0.0, None
    (whole,) = parts
    lines = [
        (time_ns + whole.shift, f'"{name}"')
        for holder in (whole.span, *(s for s in trace.children(whole.span) if s.is_log_page))
        for time_ns, name in holder.moments
    ]
    lines = sorted(line for line in lines if whole.start <= line[0] <= whole.end)
    begin, end = _longest_piece(gaps, [at for at, _ in lines])
    stages = [part for kind in below.values() for part in kind.parts]
    before = [name for at, name in lines if at == begin]
    before += sorted(p.span.name for p in stages if begin in (p.start, p.end))
    after = sorted(p.span.name for p in stages if end in (p.start, p.end))
    after = [name for at, name in lines if at == end] + after
    return (end - begin) / 1e9, (before[-1] if before else None, after[0] if after else None)


def _longest_piece(gaps: list[tuple[int, int]], cuts: list[int]) -> tuple[int, int]:
    """Return the longest piece of the gaps between two of *cuts*, the first of equal ones."""
    longest = (0, 0)
    for begin, end in sorted(gaps, key=lambda gap: (gap[0] - gap[1], gap[0])):
        if end - begin <= longest[1] - longest[0]:
            break
        inner = cuts[bisect_right(cuts, begin) : bisect_left(cuts, end)]
        pieces = pairwise([begin, *inner, end])
        longest = max(longest, *pieces, key=lambda piece: piece[1] - piece[0])
    return longest


def _end(span: Span) -> int:
    return max(span.end_ns, span.start_ns)
