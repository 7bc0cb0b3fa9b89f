"""Which stages were late, on whose behalf, and where the time went.

In: spans of any source. Out: rows, worst first. Invariant: a stage is judged
by ``lateness.verdict`` alone, and a root and a stage under it are not both
listed for the same delay. Deliberately absent: files, clocks, drawing.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Any, Final

from otel_logging.lateness.verdict import late_by
from otel_logging.traces.span import Span, rfc3339
from otel_logging.traces.trace import Trace, by_trace

_MOST_NAMED: Final = 10  # where none of those asked for is there


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


@dataclass(slots=True, eq=False)  # one for every root stage: not frozen, as Span is not
class Row:
    """A stage that was late, or slow. *late_by_s* is None if it was not late."""

    span: Span
    trace: Trace
    is_root: bool
    late_by_s: float | None

    @property
    def rank(self) -> tuple[float, float]:
        """How bad it is, to be compared."""
        return self.late_by_s or 0.0, self.span.duration_s

    @property
    def who(self) -> dict[str, Any]:
        """On whose behalf it ran."""
        return who(self.trace, self.span)

    @property
    def path(self) -> list[Step]:
        """Where the time went, this stage first."""
        return list(_path(self.trace, self.span))

    def as_json(self, link: str | None = None) -> dict[str, Any]:
        """Return it as ``otel-logging late --json`` prints it; docs/commands.md is the contract."""
        return {
            "trace_id": self.span.trace_id,
            "span_id": self.span.span_id,
            "service": self.span.resource.service,
            "stage": self.span.name,
            "start": rfc3339(self.span.start_ns),
            "latency_s": self.span.duration_s,
            "budget_s": self.span.budget_s,
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

    rows: list[Row]
    found: int
    looked_at: int
    judged: bool


def late(spans: Iterable[Span], question: Question, *, limit: int | None = None) -> Answer:
    """Answer *question* about *spans*.

    Root stages are looked at, and stages within that have a budget of their
    own; these become rows only if their root does not.
    Cost: 1 µs a span; 100,000 spans are read and judged in half a second.
    """
    considered = [row for trace in by_trace(spans).values() for row in _matching(trace, question)]
    judged = question.over_s is not None or any(r.span.budget_s is not None for r in considered)
    rows = _late(considered) if judged else considered
    rows.sort(key=lambda row: row.rank, reverse=True)
    return Answer(rows[:limit], len(rows), len(considered), judged)


def _matching(trace: Trace, question: Question) -> list[Row]:
    found = [row for row in _stages(trace, question) if row.span.end_ns >= question.since_ns]
    if question.service is not None:
        found = [row for row in found if row.span.resource.service == question.service]
    if found and question.where:
        found = _related(found, trace, question.where)
    if question.who is not None:
        found = [row for row in found if _is_for(row, question.who)]
    return found


def _stages(trace: Trace, question: Question) -> Iterator[Row]:
    for span in trace.spans.values():
        is_root = trace.is_root(span)
        if (is_root or span.budget_s is not None) and span.is_stage:
            allowed = span.budget_s if question.over_s is None else question.over_s
            over = late_by(span.duration_s, allowed)
            # to the ns, as all times are
            yield Row(span, trace, is_root, None if over is None else round(over, 9))


def _related(found: list[Row], trace: Trace, where: tuple[tuple[str, str], ...]) -> list[Row]:
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
    return [
        row
        for row in found
        if row.span.span_id in at_or_above or trace.root(row.span).span_id in own
    ]


def _late(considered: list[Row]) -> list[Row]:
    rows = [row for row in considered if row.late_by_s is not None]
    listed = {id(row.span) for row in rows if row.is_root}
    return [row for row in rows if row.is_root or id(row.trace.root(row.span)) not in listed]


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


def _is_for(row: Row, wanted: str) -> bool:
    trace = row.trace
    return any(_is(v, wanted) for key in trace.who_keys for v in _values(trace, row.span, key))


def _is(value: Any, wanted: str) -> bool:
    """Compare an attribute with what somebody typed: booleans as Jaeger has them."""
    text = str(value).lower() if isinstance(value, bool) else str(value)
    return value is not None and text == wanted


def there_is(spans: Iterable[Span], question: Question) -> Iterator[str]:
    """Yield which services and users there are, where that of *question* is not among them."""
    traces = by_trace(spans).values()
    here = [span for trace in traces for span in trace.spans.values()]
    services = Counter(span.resource.service for span in here)
    if question.service not in (None, *services):
        yield f"services there are: {_some(services)}"
    keys = {key for trace in traces for key in trace.who_keys}
    users = Counter(
        str(span.get(key)) for span in here for key in keys if span.get(key) is not None
    )
    if question.who not in (None, *users):
        yield f"users there are ({', '.join(sorted(keys))}): {_some(users)}"


def _some(names: Counter[str]) -> str:
    more = len(names) - _MOST_NAMED
    some = [name for name, _ in names.most_common(_MOST_NAMED)]
    return ", ".join([*some, *([f"and {more} more"] if more > 0 else [])]) or "none"


# ---------------------------------------------------------------- where the time went


def _path(trace: Trace, span: Span) -> Iterator[Step]:
    """Descend from *span*, each time into the stage that took most, as long as that took at
    least the time in which none was open.
    """
    start, end = span.start_ns, max(span.end_ns, span.start_ns)
    yield Step(span.name, (end - start) / 1e9)
    seen = {span.span_id}
    while inside := [
        (min(c.end_ns, end) - max(c.start_ns, start), max(c.start_ns, start), c)
        for c in trace.children(span)
        if c.is_stage and c.span_id not in seen
    ]:
        took, begin, span = max(inside, key=lambda part: part[0])
        alone = end - start - _covered([(s, s + length) for length, s, _ in inside])
        if took <= 0 or took < alone:
            return
        start, end = begin, begin + took
        seen.add(span.span_id)
        yield Step(span.name, took / 1e9)


def _covered(intervals: list[tuple[int, int]]) -> int:
    """Return the length of the union of *intervals*; those that end before they start count 0."""
    total, reached = 0, 0
    for start, end in sorted(intervals):
        total += max(end - max(start, reached), 0)
        reached = max(reached, end)
    return total
