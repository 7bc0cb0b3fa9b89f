"""Where the time of a stage went: along its critical path, down to what a stage did itself.

Pure.
"""

from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Container, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice, pairwise
from operator import attrgetter, itemgetter
from typing import Any, Final

from otel_logging._text import duration, visible
from otel_logging.traces.exceptions import EVENT, TYPE
from otel_logging.traces.span import OF_LINES, Span, text_of, value_in
from otel_logging.traces.trace import Trace

NOTHING: Final = (
    "nothing recorded inside: open stages in it, or install the instrumentation of your database"
)
_AT_ONCE = 1.5  # sum of durations by the time from first to last: less overlaps by chance
_NEARLY_ALL = 0.9
_SPREAD = 4  # the time went where at least a quarter of it is
_SAID = 80  # characters of a line that a reason quotes
_FIRST_SAID, _LAST_SAID = 2, 6  # stages of a reason
_MOST_STEPS = 1_000  # Python's own limit of calls within calls
_END: Final = attrgetter("end")
_MOST_DRAWN = 10_000  # stages with children; beyond that the critical path is not marked
_Gaps = list[tuple[int, int]]  # start and end
_GOES_ON = 20  # a child went on if it ended a twentieth of its parent's time after the parent


@dataclass(slots=True)  # one for every late stage: not frozen, as Span is not
class Step:
    """A stage on the critical path, or *count* stages of one name below the same stage.

    *took_s*: their part of the critical path; *at_once*: they ran beside each other. *own_s*: the
    part of it in which no stage below was open. Only the last step has these two: *piece*, the
    longest piece of that part (start and end, ns since the epoch), and *between*, the line or
    stage before and after the piece (None: the stage's start or end).
    """

    stage: str
    span_id: str  # of the longest
    took_s: float
    count: int = 1
    at_once: bool = False
    own_s: float = 0.0
    piece: tuple[int, int] = (0, 0)
    between: tuple[str | None, str | None] | None = None
    spread: str = ""  # in words: over how many names, if none took a quarter
    rest: str = ""  # in words: what else than the next step took a quarter or more
    inside: "Sequence[Part]" = field(default=(), repr=False, compare=False)  # right below it

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
        return _times(self.stage, self.count, self.took_s, " at once" * self.at_once)

    @property
    def itself(self) -> str:
        """What the stage, or many stages in it, did, in words; empty if nothing was recorded."""
        if self.spread:
            return self.spread
        before, after = (each and _short(visible(each)) for each in self.between or (None, None))
        if before and after:
            where = f"between {before} and {after}"
        elif before or after:
            where = f"after {before}" if before else f"before {after}"
        else:
            return ""
        piece_s = (self.piece[1] - self.piece[0]) / 1e9
        if piece_s >= _NEARLY_ALL * self.own_s:
            return self.beside(f"itself {duration(piece_s)}, {where}")
        return self.beside(f"itself {duration(self.own_s)}, {duration(piece_s)} of it {where}")

    def beside(self, said: str) -> str:
        """Return *said*, which is about the stage's own time, and what else took a quarter."""
        if not self.rest:
            return said
        if not said and self.count > 1:
            said = f"themselves {duration(self.own_s)}"
        return f"{said} (and {self.rest})" if said else self.rest


def _times(name: str, count: int, took_s: float, how: str = "") -> str:
    times = f" \N{MULTIPLICATION SIGN}{count}{how} ·" if count > 1 else ""
    return f"{visible(text_of(name))}{times} {duration(took_s)}"


def _short(text: str) -> str:
    """Return the beginning of a long line, which still says where it is."""
    return text if len(text) <= _SAID else f"{text[:_SAID].rstrip()}…" + '"' * (text[0] == '"')


def words(steps: list[Step], stood: str = "") -> list[str]:
    """Return the path in words, one part for each stage below the first; never empty. The middle of
    a long path is only counted. *stood*: where the last stage stood, if known: it says more.
    """
    last = steps[-1]
    own = [last.spread, last.beside(stood)] if stood else [last.itself or last.beside("")]
    return without_middle([*below(steps), *filter(None, own)]) or [NOTHING]


def below(steps: list[Step]) -> list[str]:
    """Return the stages of a path below its first in words."""
    return [
        f"{step} (and {above.rest})" if above.rest else f"{step}" for above, step in pairwise(steps)
    ]


def without_middle(way: list[str]) -> list[str]:
    """Return *way*; if it is long, its beginning, how many are between, and its end."""
    left_out = len(way) - _FIRST_SAID - _LAST_SAID
    middle = [f"… {left_out} more"]
    return [*way[:_FIRST_SAID], *middle, *way[-_LAST_SAID:]] if left_out > 1 else way


# ---------------------------------------------------------------- the critical path


@dataclass(slots=True)
class Part:
    """The part of *span* on the critical path; empty if the span is not on it. *whole*: how long
    the span was open inside its parent.
    """

    span: Span
    start: int
    end: int
    whole: int = 0


def steps(trace: Trace, span: Span) -> list[Step]:
    """Descend from *span*, each time into the children of one name that took most, as long as
    they took at least what the stage took itself. Cost: the children of the stages on the path.
    """
    parts, count, at_once, found = [Part(span, span.start_ns, _end(span))], 1, False, list[Step]()
    if len(trace.spans) == 1 and (own_s := span.duration_s):  # there may be 100,000 of these
        inside = _between(trace, parts, [(span.start_ns, span.end_ns)], [])
        return [Step(span.name, span.span_id, own_s, 1, False, own_s, *inside)]  # noqa: FBT003
    has_inside = trace.has_inside
    while len(found) <= _MOST_STEPS:
        gaps, below, on_path = _Gaps(), list[Part](), list[Part]()
        for part in parts:
            if has_inside(part.span):
                below += _split(trace, part, gaps)
            elif part.start < part.end:  # true of most queries
                gaps.append((part.start, part.end))
        took_of: dict[str, int] = defaultdict(int)
        for part in below:
            if took := part.end - part.start:
                on_path.append(part)
                took_of[part.span.stored_name] += took
        most, most_took = max(took_of.items(), key=itemgetter(1), default=("", 0))
        took, own = sum([p.end - p.start for p in parts]), sum([end - at for at, end in gaps])
        longest = max(reversed(parts), key=lambda p: p.end - p.start)
        step = (parts[0].span.name, longest.span.span_id, took / 1e9, count, at_once, own / 1e9)
        if max(own, most_took) * _SPREAD < took and most_took > 0:
            spread = _spread(on_path, took_of, most)
            found.append(Step(*step, spread=spread, inside=on_path))
            break
        if most_took <= 0 or most_took < own:
            rest = _stages(on_path, took_of, took)
            inside = _between(trace, parts, gaps, below)
            found.append(Step(*step, *inside, rest=rest, inside=on_path))
            break
        del took_of[most]
        rest = _stages(on_path, took_of, took, "other ")
        found.append(Step(*step, rest=rest, inside=on_path))
        below = [part for part in below if part.span.stored_name == most]
        count, whole = len(below), sum([part.whole for part in below])
        at_once = count > 1 and whole > _AT_ONCE * most_took
        parts = [part for part in below if part.start < part.end]
    else:
        found[-1] = replace(found[-1], rest="what is deeper is not looked at")
    return found


def _split(trace: Trace, whole: Part, gaps: _Gaps) -> list[Part]:
    """Return the stages right below; add to *gaps* the times when none of them was open."""
    inside, after = list[Part](), list[Part]()
    start, end = whole.start, whole.end
    most = end + (end - start) // _GOES_ON
    for child in trace.children(whole.span):
        if child.stored_name in OF_LINES and not child.is_stage:
            continue
        began, ended = child.start_ns, child.end_ns
        if ended < began:
            ended = began
        if began <= end and ended >= start:
            begin, until = began if began > start else start, ended if ended < end else end
            part = Part(child, begin, until, until - begin)
            # a child that goes on long after the end was not waited for: it explains only what
            # no other child does
            (inside if ended <= most else after).append(part)
    inside.sort(key=_END, reverse=True)  # they come by start
    if after:
        after.sort(key=_END, reverse=True)
        inside += after
    gaps += _gaps(inside, start, end)
    return inside


def _gaps(parts: list[Part], start: int, end: int) -> _Gaps:
    """Return the times when none of *parts* was open; cut each to its part of the critical path.

    That is read from the end backwards: the one that ended last is what was waited for.
    """
    gaps, reached = _Gaps(), end
    for part in parts:
        if part.start >= reached:
            part.start = part.end
            continue
        if part.end < reached:
            gaps.append((part.end, reached))
        else:
            part.end = reached
        reached = part.start
    if start < reached:
        gaps.append((start, reached))
    return gaps


def critical(trace: Trace, span: Span) -> set[str]:
    """Return the ids of *span* and the stages on its critical path, down to ``_MOST_DRAWN``."""
    found, waiting = {span.span_id}, [Part(span, span.start_ns, _end(span))]
    for whole in islice(waiting, _MOST_DRAWN):  # the list grows meanwhile
        inside = [part for part in _split(trace, whole, []) if part.start < part.end]
        found.update(part.span.span_id for part in inside)
        waiting += [part for part in inside if trace.has_inside(part.span)]
    return found


def _spread(parts: list[Part], took_of: dict[str, int], most: str) -> str:
    took_s, names = sum(took_of.values()) / 1e9, len(took_of)
    of = "different stages" if len(parts) == names else f"stages of {names} names"
    longest = _times(most, _count(parts, [most]), took_of[most] / 1e9)
    return f"{len(parts)} {of} · {duration(took_s)}, most in {longest}"


def _stages(parts: list[Part], took_of: dict[str, int], of_ns: int, which: str = "") -> str:
    """Return the stages of these names in words, if they took a quarter of the time."""
    took = sum(took_of.values())
    if not took or took * _SPREAD < of_ns:
        return ""
    count = _count(parts, took_of)
    if len(took_of) > 1:
        return f"{count} {which}stages {duration(took / 1e9)}"
    return _times(next(iter(took_of)), count, took / 1e9)


def _count(parts: list[Part], names: Container[str]) -> int:
    return sum(part.span.stored_name in names for part in parts)


def _between(
    trace: Trace, parts: list[Part], gaps: _Gaps, stages: list[Part]
) -> tuple[tuple[int, int], tuple[str | None, str | None] | None]:
    """Return the longest piece of a stage's gaps, and what stands before and after it."""
    if len(parts) > 1 or not gaps:
        return (0, 0), None
    (whole,) = parts
    lines = [
        (time_ns, event)
        for holder in (whole.span, *(s for s in trace.children(whole.span) if s.is_log_page))
        for time_ns, event in holder.moments
        if whole.start <= time_ns <= whole.end
    ]
    if not lines and not stages:
        return gaps[0], (None, None)
    lines.sort(key=itemgetter(0))
    begin, end = _longest_piece(gaps, [at for at, _ in lines])

    def beside(at: int) -> list[str] | list[None]:
        names = [_said(event) for time_ns, event in lines if time_ns == at]
        return [*names, *sorted(p.span.name for p in stages if at in (p.start, p.end))] or [None]

    return (begin, end), (beside(begin)[-1], beside(end)[0])


def _said(moment: Any) -> str:
    """Return a line in quotes; for a recorded exception, its type."""
    if moment.name != EVENT:
        return f'"{text_of(moment.name)}"'
    return text_of(str(value_in(moment, TYPE) or EVENT))


def _longest_piece(gaps: _Gaps, cuts: list[int]) -> tuple[int, int]:
    """Return the longest piece of the gaps between two of *cuts*, the first of equal ones."""
    longest = (0, 0)
    for begin, end in reversed(gaps):  # the gaps come from the end backwards
        if end - begin > longest[1] - longest[0]:
            inner = cuts[bisect_right(cuts, begin) : bisect_left(cuts, end)]
            pieces = pairwise([begin, *inner, end])
            longest = max(longest, *pieces, key=lambda piece: piece[1] - piece[0])
    return longest


def _end(span: Span) -> int:
    return span.end_ns if span.end_ns > span.start_ns else span.start_ns  # ``max`` is slower
