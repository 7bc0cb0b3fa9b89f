"""What is under what in the picture of a trace, and in which order it is told.

In: a ``Trace``. Out: stages, and rows from top to bottom. Invariant: every span
and every line of the trace is there once: log pages as lines of the stage that
they belong to, spans whose parent is not in the store under a stage without a
span. Deliberately absent: widths, colours.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from otel_logging.traces.spans import Event, Span
from otel_logging.traces.trees import Trace


@dataclass(slots=True, eq=False)
class Stage:
    """Work that took time. *span* is None where it is known from what is below it alone:
    not ended yet, or recorded elsewhere; its times are then those of what is below.
    """

    span: Span | None
    start_ns: int
    end_ns: int
    events: list[Event] = field(default_factory=list)
    children: list["Stage"] = field(default_factory=list)

    @property
    def attributes(self) -> Mapping[str, Any]:
        """The attributes of its span."""
        return {} if self.span is None else self.span.attributes


@dataclass(frozen=True, slots=True)
class Row:
    """A line of the picture, before it has a width.

    *lead*: the tree's lines left of it; *inner*: the same for remarks below it;
    *event*: a line of the stage, or None for the stage itself; *told*:
    attributes that the rows above have shown.
    """

    lead: str
    inner: str
    stage: Stage
    event: Event | None
    told: Mapping[str, Any]


def stages(trace: Trace) -> list[Stage]:
    """Return the outermost stages of *trace* by start, all others below them."""
    spans = trace.in_order
    made = {s.span_id: Stage(s, s.start_ns, s.end_ns, s.events) for s in spans if not s.is_log_page}
    outermost: list[Stage] = []
    for span in spans:
        known = span.parent_span_id in made
        if span.is_log_page or known or (span.parent_span_id and not span.remote_parent):
            if not known:
                outermost.append(_unknown(span))
                made[span.parent_span_id] = outermost[-1]
            _put(span, made[span.parent_span_id], made)
        else:
            outermost.append(made[span.span_id])
    _break_circles(made, outermost)
    return sorted(outermost, key=lambda stage: stage.start_ns)


def _unknown(below: Span) -> Stage:
    return Stage(None, below.start_ns, below.end_ns)


def _put(span: Span, above: Stage, made: Mapping[str, Stage]) -> None:
    if above.span is None:
        above.end_ns = max(above.end_ns, span.end_ns)
    if span.is_log_page:
        above.events += span.events
    else:
        above.children.append(made[span.span_id])


def _break_circles(made: Mapping[str, Stage], outermost: list[Stage]) -> None:
    """Make one outermost in every circle of parents, to which nothing else leads."""
    reached = {id(stage) for top in outermost for stage in _with_all_below(top)}
    for stage in made.values():
        if id(stage) not in reached:
            assert stage.span is not None  # a stage without one is outermost
            made[stage.span.parent_span_id].children.remove(stage)
            outermost.append(stage)
            reached.update(id(found) for found in _with_all_below(stage))


def _with_all_below(top: Stage) -> Iterator[Stage]:
    waiting = [top]
    while waiting:
        stage = waiting.pop()
        yield stage
        waiting += stage.children


def rows(outermost: list[Stage], told: Mapping[str, Any]) -> Iterator[Row]:
    """Yield the rows from top to bottom; within a stage, lines and stages by time.

    *told*: attributes that stand above the first row. A loop, not a recursion:
    a recursive function that is traced makes a tree a thousand stages deep.
    """
    waiting = [_of_stage(top, "", "", told) for top in reversed(outermost)]
    while waiting:
        row = waiting.pop()
        yield row
        if row.event is None:
            waiting += reversed(_inside(row))


def _of_stage(stage: Stage, lead: str, below: str, told: Mapping[str, Any]) -> Row:
    return Row(lead, below + ("│ " if stage.children else "  "), stage, None, told)


def _inside(row: Row) -> list[Row]:
    stage, below = row.stage, row.inner[:-2]
    parts: list[tuple[int, int, Event | Stage]] = [
        *((event.time_ns, 0, event) for event in stage.events),
        *((child.start_ns, 1, child) for child in stage.children),
    ]
    told = {**row.told, **stage.attributes}
    found, to_come = [], len(stage.children)
    for _, _, part in sorted(parts, key=lambda timed: timed[:2]):
        if isinstance(part, Event):
            lead = below + ("│ " if to_come else "  ")
            found.append(Row(lead, lead, stage, part, told))
            continue
        to_come -= 1
        lead, deeper = ("├ ", "│ ") if to_come else ("└ ", "  ")
        found.append(_of_stage(part, below + lead, below + deeper, told))
    return found
