"""Spans put together to traces, and the one tree of each.

Clock skew is corrected here: all times of a trace use the clock of its outermost stage. Every walk
ends: if a broken sender made spans each other's ancestors, the first of them is a root. Every span
and every line is in one row. The lines of log pages are lines of their stage.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from heapq import merge, nlargest
from operator import attrgetter
from typing import Any

from otel_logging._names import LATE_WHERE, LEVEL, LOG_SPAN
from otel_logging.traces.span import Event, Span

_COMPARED = 1_000  # siblings that are compared for common attributes: no more are drawn at once
#: Puts siblings, sorted by start, into groups; each group is one row, sorted by its first start.
Fold = Callable[[Sequence[Span]], Sequence[Sequence[Span]]]


@dataclass(frozen=True, slots=True)
class Row:
    """A row of the tree: a stage, or one of its lines.

    *lead*: the tree's lines left of the row; *inner*: those left of remarks below the row;
    *shown*: attributes that the rows above have shown; *event*: the line, None for a stage.
    *span*: the stage, or the stage of the line. It is None if the stage has not ended or was
    recorded elsewhere; then the row has the times of the stages below. *events*: those of the
    stage, lines or not; *children*: the stages right below, equal ones together. *equal*: all
    stages that are drawn as this one row; *common*: attributes that all children have.
    """

    lead: str
    inner: str
    shown: Mapping[str, Any]
    start_ns: int
    end_ns: int
    event: Event | None = None
    span: Span | None = None
    events: Sequence[Event] = ()
    children: Sequence[Sequence[Span]] = ()
    equal: Sequence[Span] = ()
    common: Mapping[str, Any] = field(default_factory=dict)


class Trace:
    """The spans of one trace, each once. *spans*: by span id."""

    __slots__ = ("__dict__", "spans", "trace_id")  # for 100,000 traces that saves 2 MiB

    def __init__(self, trace_id: str) -> None:
        self.trace_id = trace_id
        self.spans: dict[str, Span] = {}

    def __repr__(self) -> str:
        return f"<Trace {self.trace_id} [{len(self.spans)} spans]>"

    @cached_property
    def in_order(self) -> list[Span]:
        """Its spans by start; of those that start together the longest is first."""
        found = sorted(self.spans.values(), key=attrgetter("end_ns"), reverse=True)
        return sorted(found, key=attrgetter("start_ns"))  # quicker than once, by a pair

    @cached_property
    def _children(self) -> dict[str, list[Span]]:
        found: dict[str, list[Span]] = {}
        for span in self.in_order:
            found.setdefault(span.parent_span_id, []).append(span)
        return found

    @property
    def who_keys(self) -> tuple[str, ...]:
        """Keys of the attributes that name the user, of all processes that took part."""
        if len(self.spans) == 1:  # there may be 100,000 such traces: nothing is kept
            return next(iter(self.spans.values())).resource.who
        return self._who_keys

    @cached_property
    def _who_keys(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(key for s in self.spans.values() for key in s.resource.who))

    @property
    def top(self) -> Span:
        """The first of its outermost stages; of log lines alone, the span that holds them."""
        stages = [span for span in self.in_order if span.is_stage] or self.in_order
        return next(filter(self.is_root, stages), stages[0])

    @property
    def roots(self) -> list[Span]:
        """Its outermost stages."""
        return [span for span in self._tops if span.is_stage]

    @property
    def _tops(self) -> Iterator[Span]:
        return filter(self.is_root, self.spans.values())

    def downwards(self) -> list[Span]:
        """Return its spans, each after its parent."""
        return [*self._tops, *self.descendants(*self._tops)]

    def is_root(self, span: Span) -> bool:
        """Whether *span* has no parent, or its parent is not in the trace."""
        return span.parent_span_id not in self.spans

    def children(self, span: Span) -> list[Span]:
        """Return the spans right below *span*, by start."""
        return self._children.get(span.span_id, []) if len(self.spans) > 1 else []

    def has_inside(self, span: Span) -> bool:
        """Whether a span is right below *span*."""
        return span.span_id in self._children

    def at_or_above(self, spans: Iterable[Span]) -> set[str]:
        """Return the ids of *spans* and of all above them. Cost: each of these once."""
        found: set[str] = set()
        for span in spans:
            each: Span | None = span
            while each is not None and each.span_id not in found:  # else all above it are, too
                found.add(each.span_id)
                each = self.spans.get(each.parent_span_id)
        return found

    def descendants(self, *spans: Span) -> Iterator[Span]:
        """Yield all spans below *spans*, each once, and after its parent."""
        seen: set[str] = set()
        waiting = list(spans)
        while waiting:
            for child in self.children(waiting.pop()):
                if child.span_id not in seen:
                    seen.add(child.span_id)
                    waiting.append(child)
                    yield child

    def cut_circles(self) -> None:
        """Make a root of the first span of each circle of parents."""
        for span in self.spans.values():
            parent = self.spans.get(span.parent_span_id)
            # every circle has a span that its parent does not precede: to begin there is enough
            if parent is None or parent.start_ns < span.start_ns:
                continue
            above = self.at_or_above([parent])
            if span.span_id in above:
                first = min(map(self.spans.__getitem__, above), key=attrgetter("start_ns"))
                first.parent_span_id = ""

    def mend_clocks(self) -> None:
        """Move spans, with all below, that another service's clock puts outside their parent."""
        spans = self.spans
        pairs = ((spans.get(span.parent_span_id), span) for span in spans.values())
        if not any(_wrong(parent, span) for parent, span in pairs if parent):  # of most
            return
        below, waiting = self._children, [(span, 0) for span in self._tops]
        for parent, by_ns in waiting:  # the list grows meanwhile
            for span in below.get(parent.span_id, ()):
                if by_ns:
                    span.move(by_ns)
                if wrong_ns := _wrong(parent, span):
                    span.move(wrong_ns)
                if span.span_id in below:
                    waiting.append((span, by_ns + wrong_ns))
        del self.in_order, self._children  # these were sorted by time

    # ---- the tree as it is drawn

    def rows(self, shown: Mapping[str, Any], fold: Fold) -> Iterator[Row]:
        """Yield the rows from top to bottom; within a stage, lines and stages by time.

        *shown*: attributes shown above the first row; *fold*: puts siblings into rows. A loop, not
        a recursion: a recursive function that is traced makes a tree a thousand deep.
        """
        tops = [span for span in self.in_order if self.is_root(span)]
        missing = dict.fromkeys(  # stages that have not ended, or are recorded elsewhere
            span.parent_span_id
            for span in tops
            if span.parent_span_id and (span.is_log_page or not span.has_remote_parent)
        )
        roots = fold([span for span in tops if span.parent_span_id not in missing])
        parts = merge(roots, (self._children[each] for each in missing), key=_when)
        waiting: list[Iterator[Row]] = [
            (
                self._stage(
                    part, "", "", shown, fold, is_here=part[0].parent_span_id not in missing
                )
                for part in parts
            )
        ]
        while waiting:
            for row in waiting[-1]:
                yield row
                if row.event is None and not row.equal:
                    waiting.append(self._inside(row, fold))
                    break
            else:
                waiting.pop()

    def _stage(
        self,
        part: Sequence[Span],
        lead: str,
        below: str,
        shown: Mapping[str, Any],
        fold: Fold,
        *,
        is_here: bool = True,
    ) -> Row:
        """Return the row of equal stages; if not *is_here*, that of a missing one above them."""
        span, stages = (part[0], part) if is_here else (None, ())
        inside = self._children.get(part[0].span_id, []) if is_here else part
        start, end = part[0].start_ns, max(s.end_ns for s in part)
        if len(stages) > 1:
            return Row(lead, below + "  ", shown, start, end, None, span, equal=stages)
        pages = [s for s in inside if s.stored_name == LOG_SPAN and s.is_log_page]
        children = fold([s for s in inside if not s.is_log_page] if pages else inside)
        inner = below + ("│ " if children else "  ")
        events = [event for one in (*stages, *pages) for event in one.events]
        shared = common([each[0] for each in children])
        return Row(lead, inner, shown, start, end, None, span, events, children, common=shared)

    def _inside(self, row: Row, fold: Fold) -> Iterator[Row]:
        below, to_come = row.inner[:-2], len(row.children)
        lines = sorted((each for each in row.events if is_line(each)), key=_when)
        # there may be 100,000: only the first are drawn
        parts: Iterator[Event | Sequence[Span]] = merge(lines, row.children, key=_when)
        shown = {**row.shown, **(row.span.attributes if row.span else {}), **row.common}
        for part in parts:
            if isinstance(part, Event):
                lead = below + ("│ " if to_come else "  ")
                yield Row(lead, lead, shown, part.time_ns, part.time_ns, part, row.span)
                continue
            to_come -= 1
            lead, deeper = ("├ ", "│ ") if to_come else ("└ ", "  ")
            where = below + lead, below + deeper
            yield self._stage(part, *where, shown, fold)


def _when(part: Event | Sequence[Span]) -> int:
    return part.time_ns if isinstance(part, Event) else part[0].start_ns


def is_line(event: Event) -> bool:
    """Whether it is a line rather than the event with its stage's places."""
    return event.name != LATE_WHERE or LEVEL in event.attributes


def common(children: Sequence[Span]) -> dict[str, Any]:
    """Return the attributes that two or more siblings all have."""
    if len(children) < 2:
        return {}
    first, *others = children[:_COMPARED]
    return {
        key: value
        for key, value in first.attributes.items()
        if all(other.get(key) == value for other in others)
    }


def by_trace(spans: Iterable[Span]) -> dict[str, Trace]:
    """Put *spans* together by trace id. If a span comes twice, the first is kept."""
    traces: dict[str, Trace] = {}
    for span in spans:
        trace = traces.get(span.trace_id)
        if trace is None:
            trace = traces[span.trace_id] = Trace(span.trace_id)
        trace.spans.setdefault(span.span_id, span)
    for trace in traces.values():
        trace.cut_circles()
        if len(trace.spans) > 1 and len({id(span.resource) for span in trace.spans.values()}) > 1:
            trace.mend_clocks()
    return traces


def _wrong(parent: Span, child: Span) -> int:
    """Return the ns that have to be added to the times of *child* for the clock of *parent*.

    A child in another service has a wrong clock in three cases:

    - it began before its parent;
    - it ended after the client's call that waits for it;
    - it is a server's span, and began after its caller had ended.

    It is put into the middle of its parent, as Jaeger does. One machine has one clock.
    """
    one, other = child.resource, parent.resource
    if one is other or one == other or one.host == other.host != "":
        return 0
    start, end = child.start_ns, max(child.end_ns, child.start_ns)
    until = max(parent.end_ns, parent.start_ns)
    room = (until - parent.start_ns) - (end - start)
    is_waited_for = room >= 0 and end > until and _is_answer(parent, child)
    is_wrong = start < parent.start_ns or is_waited_for
    return parent.start_ns + max(room, 0) // 2 - start if is_wrong else 0


def _is_answer(parent: Span, child: Span) -> bool:
    """Whether *parent* waited for *child*, which ended after it."""
    kind = parent.kind
    is_apart = child.start_ns >= parent.end_ns and child.kind == "server"
    return kind == "client" or (is_apart and kind != "producer")


def last(
    traces: Iterable[Trace], number: int = 1, *, service: str | None = None, who: str | None = None
) -> list[Trace]:
    """Return the traces whose root stages ended last, the last one first. *who*: only traces in
    which a span has this value of a key that names the user.
    """
    ended = [
        (max(ends), trace)
        for trace in traces
        if who is None
        or any(str(s.get(key)) == who for s in trace.spans.values() for key in trace.who_keys)
        if (ends := [s.end_ns for s in trace.roots if service in (None, s.resource.service)])
    ]
    return [trace for _, trace in nlargest(number, ended, key=lambda each: each[0])]
