"""Where the time of a stage went: down its critical path, to what it did itself.

Pure, and every walk ends, also where broken senders made a span its own ancestor.
"""

from collections.abc import Iterator
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
        before, after = self.between or (None, None)
        if before is None and after is None:
            return ""
        where = (
            f"between {visible(before)} and {visible(after)}"
            if before and after
            else f"after {visible(before)}"
            if before
            else f"before {visible(str(after))}"
        )
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
        below: dict[str, _Siblings] = {}
        for part in parts:
            for kind in _split(trace, part, seen, gaps):
                below.setdefault(kind.span.name, _Siblings()).add(kind)
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
    """Stages of one name below one step."""

    __slots__ = ("count", "parts", "together", "took")

    def __init__(self) -> None:
        self.parts: list[Part] = []  # on the critical path
        self.count = self.took = self.together = 0

    def add(self, inside: "_Inside") -> None:
        self.count += 1
        self.together += inside.end - inside.start
        if inside.part is not None:
            self.parts.append(inside.part)
            self.took += inside.part.end - inside.part.start

    @property
    def at_once(self) -> bool:
        return self.count > 1 and self.together > _AT_ONCE * self.took


@dataclass(slots=True)
class _Inside:
    """A child inside its parent's part; *part*: what of it is on the critical path."""

    span: Span
    start: int
    end: int
    shift: int
    part: Part | None = None


def _split(
    trace: Trace, whole: Part, seen: set[str], gaps: list[tuple[int, int]]
) -> Iterator[_Inside]:
    """Yield the stages right below; add to *gaps* when none was open. From the end backwards, the
    stage that ended last is what was waited for.
    """
    inside = [
        _Inside(child, max(start, whole.start), min(end, whole.end), shift)
        for child in trace.children(whole.span)
        if child.span_id not in seen and child.is_stage
        for start, end, shift in [_in_time(whole, child)]
        if start <= whole.end and end >= whole.start
    ]
    most = whole.end + (whole.end - whole.start) // _GOES_ON
    # what goes on long after the end was not waited for: it explains only what nothing else does
    inside.sort(
        key=lambda child: (
            _end(child.span) + child.shift <= most,
            child.end,
            -child.start,
        ),
        reverse=True,
    )
    reached = whole.end
    for child in inside:
        if child.start < reached:
            if child.end < reached:
                gaps.append((child.end, reached))
            child.part = Part(child.span, child.start, min(child.end, reached), child.shift)
            reached = child.start
        yield child
    if whole.start < reached:
        gaps.append((whole.start, reached))


def _in_time(whole: Part, child: Span) -> tuple[int, int, int]:
    """Return start, end and shift of *child* by the clock of *whole*.

    A child in another service that began before its parent, or ended after the call that waits
    for it, has another clock: it is put into the middle of its parent, as Jaeger does.
    """
    start, end, shift = child.start_ns + whole.shift, _end(child) + whole.shift, whole.shift
    if child.resource is not whole.span.resource and child.resource != whole.span.resource:
        own_start, own_end = whole.span.start_ns + whole.shift, _end(whole.span) + whole.shift
        room = (own_end - own_start) - (end - start)
        is_waited_for = end > own_end and whole.span.details.kind == "client"
        if room >= 0 and (start < own_start or is_waited_for):
            more = own_start + room // 2 - start
            return start + more, end + more, shift + more
    return start, end, shift


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
    marks = [(p.start, p.span.name) for kind in below.values() for p in kind.parts]
    marks += [(p.end, p.span.name) for kind in below.values() for p in kind.parts]
    holders = [whole.span, *(s for s in trace.children(whole.span) if s.is_log_page)]
    marks += [
        (event.time_ns + whole.shift, f'"{event.name}"')
        for holder in holders
        for event in holder.events
    ]
    marks = sorted((at, name) for at, name in marks if whole.start <= at <= whole.end)
    around: list[tuple[int, str | None]] = [(whole.start, None), *marks, (whole.end, None)]
    gaps.sort()
    pieces, at = [], 0  # the gap that began last
    for (begin, before), (end, after) in pairwise(around):
        while at + 1 < len(gaps) and gaps[at + 1][0] <= begin:
            at += 1
        if gaps[at][0] <= begin and end <= gaps[at][1]:
            pieces.append((end - begin, before, after))
    length, before, after = max(pieces, key=lambda piece: piece[0])
    return length / 1e9, (before, after)


def _end(span: Span) -> int:
    return max(span.end_ns, span.start_ns)
