"""Which stages were late, on whose behalf, and where the time went.

In: spans of any source. Out: rows, worst first. Invariant: a stage is judged
by ``lateness.verdict`` alone, and a root and a stage under it are not both
listed for the same delay. Deliberately absent: files, clocks, drawing.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Any

from otel_logging.lateness.verdict import late_by
from otel_logging.traces.span import Span, rfc3339
from otel_logging.traces.trace import Trace, by_trace


@dataclass(frozen=True, slots=True)
class Question:
    """Which stages to look at, and what is late. What is None or empty does not restrict.

    *over_s* replaces every stage's own budget; *since_ns*: ended since then, ns
    since the epoch; *who*: the value of any attribute that names the user;
    *where*: attributes that stand together on one span of the row.
    """

    over_s: float | None = None
    since_ns: int = 0
    who: str | None = None
    where: tuple[tuple[str, str], ...] = ()
    service: str | None = None


@dataclass(frozen=True, slots=True)
class Step:
    """A stage on the way that the time went. *took_s*: the part of it inside the stage above."""

    stage: str
    took_s: float


@dataclass(frozen=True, slots=True)
class Row:
    """A stage that was late, or slow. *late_by_s* is None if it was not late."""

    trace_id: str
    span_id: str
    service: str
    stage: str
    start_ns: int
    latency_s: float
    budget_s: float | None
    late_by_s: float | None
    who: dict[str, Any]
    path: tuple[Step, ...]

    def as_json(self, link: str | None = None) -> dict[str, Any]:
        """Return it as ``otel-logging late --json`` prints it; docs/commands.md is the contract."""
        return {
            "trace_id": self.trace_id,
            "span_id": self.span_id,
            "service": self.service,
            "stage": self.stage,
            "start": rfc3339(self.start_ns),
            "latency_s": self.latency_s,
            "budget_s": self.budget_s,
            "late_by_s": self.late_by_s,
            "late": self.late_by_s is not None,
            "who": self.who,
            "path": [{"stage": step.stage, "took_s": step.took_s} for step in self.path],
            "cause": None,
            "link": link,
        }


@dataclass(frozen=True, slots=True)
class Answer:
    """*rows*: worst first, cut at the limit. *found*: how many rows there are without the limit.
    *judged*: whether a budget or ``over_s`` defined what late is; if not, the slowest are listed.
    """

    rows: tuple[Row, ...]
    found: int
    looked_at: int
    judged: bool


@dataclass(slots=True)  # one for every root stage: not frozen, as Span is not
class _Candidate:
    """A stage that may become a row."""

    span: Span
    trace: Trace
    is_root: bool
    late_by_s: float | None

    @property
    def rank(self) -> tuple[float, float]:
        return self.late_by_s or 0.0, self.span.duration_s


def late(spans: Iterable[Span], question: Question, *, limit: int | None = None) -> Answer:
    """Answer *question* about *spans*.

    Root stages are looked at, and stages within that have a budget of their
    own; these become rows only if their root does not.
    Cost: 1 µs a span; 100,000 spans are read and judged in half a second.
    """
    considered = [c for trace in by_trace(spans).values() for c in _matching(trace, question)]
    judged = question.over_s is not None or any(c.span.budget_s is not None for c in considered)
    rows = _late(considered) if judged else considered
    rows.sort(key=lambda c: c.rank, reverse=True)
    shown = tuple(_row(candidate) for candidate in rows[:limit])
    return Answer(shown, len(rows), len(considered), judged)


def _matching(trace: Trace, question: Question) -> list[_Candidate]:
    found = [c for c in _candidates(trace, question) if c.span.end_ns >= question.since_ns]
    if question.service is not None:
        found = [c for c in found if c.span.resource.service == question.service]
    if found and question.where:
        found = _related(found, trace, question.where)
    if question.who is not None:
        found = [c for c in found if _is_for(c, question.who)]
    return found


def _candidates(trace: Trace, question: Question) -> Iterator[_Candidate]:
    for span in trace.spans.values():
        is_root = trace.is_root(span)
        if (is_root or span.budget_s is not None) and span.is_stage:
            allowed = span.budget_s if question.over_s is None else question.over_s
            yield _Candidate(span, trace, is_root, late_by(span.duration_s, allowed))


def _related(
    found: list[_Candidate], trace: Trace, where: tuple[tuple[str, str], ...]
) -> list[_Candidate]:
    """Return those of which the span itself, one below it, or its root has all attributes."""
    own: set[str] = set()
    at_or_above: set[str] = set()
    for span in trace.spans.values():
        if all(_is(span.get(key), value) for key, value in where):
            own.add(span.span_id)
            for above in chain([span], trace.ancestors(span)):
                if above.span_id in at_or_above:  # so are all above that
                    break
                at_or_above.add(above.span_id)
    return [c for c in found if c.span.span_id in at_or_above or trace.root(c.span).span_id in own]


def _late(considered: list[_Candidate]) -> list[_Candidate]:
    rows = [c for c in considered if c.late_by_s is not None]
    listed = {(c.trace.trace_id, c.span.span_id) for c in rows if c.is_root}
    return [
        c
        for c in rows
        if c.is_root or (c.trace.trace_id, c.trace.root(c.span).span_id) not in listed
    ]


def _row(candidate: _Candidate) -> Row:
    span, over = candidate.span, candidate.late_by_s
    return Row(
        span.trace_id,
        span.span_id,
        span.resource.service,
        span.name,
        span.start_ns,
        span.duration_s,
        span.budget_s,
        None if over is None else round(over, 9),  # ns, as all times are
        who(candidate.trace, span),
        _path(candidate.trace, span),
    )


# ---------------------------------------------------------------- on whose behalf


def who(trace: Trace, span: Span) -> dict[str, Any]:
    """Return on whose behalf *span* ran: the keys found, and their values.

    A value stands on the span, else on its nearest ancestor, else on all of
    its descendants that have one. Where these disagree it is left out: one
    user's work is never filed under another's name.
    """
    found = {key: _values(trace, span, key) for key in trace.who_keys}
    return {key: values[0] for key, values in found.items() if len(values) == 1}


def _values(trace: Trace, span: Span, key: str) -> list[Any]:
    for above in chain([span], trace.ancestors(span)):
        if (value := above.get(key)) is not None:
            return [value]
    values: list[Any] = []
    for below in trace.descendants(span):
        if (value := below.get(key)) is not None and value not in values:
            values.append(value)
    return values


def _is_for(candidate: _Candidate, wanted: str) -> bool:
    trace, span = candidate.trace, candidate.span
    return any(_is(value, wanted) for key in trace.who_keys for value in _values(trace, span, key))


def _is(value: Any, wanted: str) -> bool:
    """Compare an attribute with what somebody typed: booleans as Jaeger has them."""
    text = str(value).lower() if isinstance(value, bool) else str(value)
    return value is not None and text == wanted


# ---------------------------------------------------------------- where the time went


def _path(trace: Trace, span: Span) -> tuple[Step, ...]:
    """Descend from *span*, each time into the stage that took most, as long as one took at
    least the time in which none was open.
    """
    start, end = span.start_ns, max(span.end_ns, span.start_ns)
    steps = [Step(span.name, (end - start) / 1e9)]
    seen = {span.span_id}
    while True:
        inside = [
            (max(c.start_ns, start), min(c.end_ns, end), c)
            for c in trace.children(span)
            if c.is_stage and c.span_id not in seen
        ]
        longest = max(inside, key=lambda part: part[1] - part[0], default=None)
        if longest is None or longest[1] <= longest[0]:
            return tuple(steps)
        alone = end - start - _covered([(s, e) for s, e, _ in inside])
        start, end, span = longest
        if end - start < alone:
            return tuple(steps)
        seen.add(span.span_id)
        steps.append(Step(span.name, (end - start) / 1e9))


def _covered(intervals: list[tuple[int, int]]) -> int:
    """Return the length of the union of *intervals*; those that end before they start are none."""
    total, reached = 0, 0
    for start, end in sorted(intervals):
        total += max(end - max(start, reached), 0)
        reached = max(reached, end)
    return total
