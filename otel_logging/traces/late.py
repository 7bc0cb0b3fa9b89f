"""Which stages were late, on whose behalf, and where the time went.

A stage is judged by ``lateness.verdict`` alone, and a root and a stage under it are not both
listed for the same delay.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from heapq import nlargest
from typing import Any, Final, Generic, TypeVar

from otel_logging import _names
from otel_logging._text import duration, rfc3339, visible
from otel_logging.lateness.verdict import DOWNSTREAM, RANK, UNKNOWN, late_by
from otel_logging.traces.path import Step, below, steps, without_middle, words
from otel_logging.traces.span import Span
from otel_logging.traces.trace import Trace, by_trace
from otel_logging.traces.whose import typed, whose

#: What can be measured to have made a stage late, beside what the application names.
CAUSES: Final = tuple(RANK)
_KNOWN_CAUSES: Final = "known causes: "
_VERDICT: Final = _names.LATE + "."
_STRICT: Final = json.JSONDecoder(parse_constant=str)
TELL_LITTLE: Final = (None, UNKNOWN, DOWNSTREAM)  # causes: where the time went says more
THEN: Final = " · "  # between the places of ``late.where``, the first one most seen
_Each = TypeVar("_Each")  # a row
_MOMENT: Final = "%Y-%m-%d %H:%M:%S %z"
_NONE: Final = (None, "")
_MOST_NAMED: Final = 10  # known values, if none of those that were asked for is there


@dataclass(frozen=True, slots=True)
class Question:
    """Which stages to look at, and what is late. A field that is None or empty does not restrict.

    *over_s* replaces every stage's own budget; *since_ns*: only stages that ended since then, ns
    since the epoch; *who*: the value of any attribute that names the user;
    *where*: attributes that one span of the row must have together; *cause*: the measured cause;
    *without*: rows to leave out, by their ``Answer.name``.
    """

    over_s: float | None = None
    since_ns: int = 0
    who: str | None = None
    where: tuple[tuple[str, str], ...] = ()
    service: str | None = None
    cause: str | None = None
    without: frozenset[str] = frozenset()


@dataclass(slots=True, eq=False)  # one for every root stage: not frozen, as Span is not
class Row:
    """A stage that was late, slow, or failed. *late_by_s* is None if it was not late."""

    span: Span
    trace: Trace
    is_root: bool
    late_by_s: float | None
    user: str | None = None  # what ``groups.user_of`` returns, once it was called

    @property
    def who(self) -> dict[str, Any]:
        """On whose behalf it ran."""
        return who(self.trace, self.span)

    @property
    def path(self) -> list[Step]:
        """Where the time went, this stage first."""
        return _path(self.trace, self.span)

    @property
    def cause(self) -> str | None:
        """What was measured to have made it late; None if nothing was."""
        return _judged(self.trace, self.span)[1]

    @property
    def culprit(self) -> dict[str, Any]:
        """On whose behalf that work ran which made it late; may be empty."""
        found = {k: self._value(f"{_names.LATE_CULPRIT}.{k}") for k in self.trace.who_keys}
        return {key: value for key, value in found.items() if value is not None}

    @property
    def reason(self) -> list[str]:
        """Why it was late, in words, never empty, safe for a terminal: what was measured, else
        where the time went, down to the deepest stage of which something was measured. The user and
        the latency are not in it: the row has them.
        """
        trace, span, path = self.trace, self.span, self.path
        judged = _judged(trace, span)[0] or _first_with(_names.LATE_WHY, trace, span)[0]
        if judged is not None and (said := _measured(trace, judged)):
            return [said]
        for depth in range(len(path), 1, -1):
            last = path[depth - 1]
            if last.count == 1 and (said := _measured(trace, trace.spans[last.span_id])):
                return without_middle([*below(path[:depth]), said])
        return words(path, self.stood or self.waited)

    @property
    def stood(self) -> str:
        """The places of the last stage of its path. Those of a stage above count too, as long as
        both are one flow of work: work that is taken up elsewhere has places of its own.
        """
        for step in reversed(self.path):
            span = self.trace.spans[step.span_id]
            if step.count == 1 and (where := span.get(_names.LATE_WHERE)) not in _NONE:
                return f"it stood: {visible(str(where).split(THEN)[0])}"
            if span.kind in ("server", "consumer") or span.get(_names.QUEUE_WAIT) is not None:
                break
        return ""

    @property
    def waited(self) -> str:
        """How long the last stage of its path waited until it was taken up, if half of its time."""
        last = self.path[-1]
        wait_s = self.trace.spans[last.span_id].get(_names.QUEUE_WAIT)
        is_much = isinstance(wait_s, float) and last.took_s / 2 <= wait_s <= last.took_s + 1e-6
        return f"{duration(wait_s)} in a queue" if is_much else ""

    @property
    def ids(self) -> tuple[str, ...]:
        """The ids of its trace, of the stage, and of the deepest stage of its path. Jaeger folds
        away the stages inside that one: where they say most, the longest one's id comes too.
        """
        last = self.path[-1]
        inside = last.inside if last.spread or len(self.path) == 1 else ()
        longest = (p.span.span_id for p in nlargest(1, inside, lambda p: p.end - p.start))
        return self.span.trace_id, self.span.span_id, last.span_id, *longest

    def text(self, key: str) -> str | None:
        """Return what the write side found out as text, whatever another program wrote there."""
        value = self._value(key)
        return None if value is None else str(value)

    def _value(self, key: str) -> Any:
        """Return what was measured of one stage: this one if it has a cause, otherwise the deepest
        of its path that has one. Its place may be from another stage of the path.
        """
        judged = None if key == _names.LATE_WHERE else _judged(self.trace, self.span)[0]
        if judged is None:
            return _first_with(key, self.trace, self.span)[1]
        return judged.get(key)

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
            "error": self.span.is_error,
            "who": self.who,
            "path": [step.as_json() for step in self.path],
            "reason": " → ".join(self.reason),
            "cause": self.cause,
            "culprit_who": self.culprit,
            **{key: self.text(_VERDICT + key) for key in ("detail", "culprit", "why", "where")},
            "shares": _object(self.text(_names.LATE_SHARES)),
            "link": link,
        }


def _object(text: str | None) -> dict[str, Any] | None:
    with suppress(ValueError, RecursionError):
        value = _STRICT.decode(text) if text else None
        return value if isinstance(value, dict) else None
    return None


# Kept for a screenful of rows: each row is asked a few times, one row after the other.
_kept: Final = lru_cache(64)
_path: Final = _kept(steps)


def _first_with(key: str, trace: Trace, span: Span) -> tuple[Span | None, Any]:
    """Return the first of *span* and its path (the deepest first) that has *key*, and its value. An
    empty value, which other programs write, counts as missing.
    """
    if (value := span.get(key)) not in _NONE:  # true of most rows; to find the path is dear
        return span, value
    for step in _path(trace, span)[:0:-1] if len(trace.spans) > 1 else ():
        if (value := trace.spans[step.span_id].get(key)) not in _NONE:
            return trace.spans[step.span_id], value
    return None, None


@_kept
def _judged(trace: Trace, span: Span) -> tuple[Span | None, str | None]:
    """Return the span that has the cause of *span*'s lateness, and the cause."""
    found, cause = _first_with(_names.LATE_CAUSE, trace, span)
    return found, None if cause is None else str(cause)


def _measured(trace: Trace, span: Span) -> str:
    """Return what made *span* late, in words, as text whatever another program wrote there; empty
    if nothing was measured, or the cause explains little.
    """

    def text(key: str) -> str:
        return str(span.get(key) or "")

    cause, why = text(_names.LATE_CAUSE), text(_names.LATE_WHY)
    if cause in TELL_LITTLE:
        return ""
    if why or not cause:
        return visible(why.partition(" (budget ")[2].partition("): ")[2] or why)
    whose = filter(None, (text(f"{_names.LATE_CULPRIT}.{key}") for key in trace.who_keys))
    by = text(_names.LATE_CULPRIT) or ", ".join(whose)
    said = ": ".join(filter(None, (cause, text(_names.LATE_DETAIL))))
    return visible(f"{said}, by {by}" if by else said)


#: By what rows are ordered; the largest comes first.
SORTS: Final[Mapping[str, Callable[[Row], Any]]] = {
    "late-by": lambda row: (row.late_by_s or 0.0, row.span.duration_s),
    "latency": lambda row: row.span.duration_s,
    "when": lambda row: row.span.start_ns,
}


@dataclass(frozen=True, slots=True)
class Answer(Generic[_Each]):
    """*rows*: in order, cut at the limit; *every*: all rows. *considered*: every stage that was
    looked at. *judged*: whether a budget or ``over_s`` defined what late is; if not, the slowest
    are listed. *name*: returns the same text for the same row, read again. *narrowed*: some stages
    that are not late were not looked at.
    """

    rows: list[_Each]
    every: list[Row]
    considered: list[Row]
    judged: bool
    name: Callable[[Row], str]
    narrowed: bool = False

    @property
    def found(self) -> int:
        """How many rows there are without the limit."""
        return len(self.every)

    @property
    def looked_at(self) -> int:
        """How many stages were looked at."""
        return len(self.considered)


def late(
    spans: Iterable[Span], question: Question, *, limit: int | None = None, sort: str = "late-by"
) -> Answer[Row]:
    """Answer *question* about *spans*; *sort* is one of ``SORTS``.

    Root stages are looked at, and stages within that have a budget of their own; these become
    rows only if no stage above them is late. Cost: 1 µs a span.
    """
    considered, rows = list[Row](), list[Row]()
    for trace in by_trace(spans).values():
        looked_at = matching(trace, question)
        considered += looked_at
        rows += _late(trace, looked_at)
    judged = question.over_s is not None or any(r.span.budget_s is not None for r in considered)
    rows = rows if judged else considered
    if question.cause is not None:
        rows = [row for row in rows if row.cause == question.cause]
    if question.without:
        rows = [row for row in rows if _name(row) not in question.without]
    first = nlargest(len(rows) if limit is None else limit, rows, SORTS[sort])
    return Answer(first, rows, considered, judged, _name)


def _name(row: Row) -> str:
    return row.span.trace_id + row.span.span_id


def matching(trace: Trace, question: Question) -> list[Row]:
    """Return the stages of a trace that *question* looks at, late or not: roots, and those that
    have a budget.
    """
    over_s, service, found = question.over_s, question.service, list[Row]()
    above = trace.spans
    for span in above.values():
        is_root, budget_s = span.parent_span_id not in above, span.budget_s
        if (
            (is_root or budget_s is not None)
            and span.end_ns >= question.since_ns
            and (service is None or service == span.resource.service)
            and span.is_stage
        ):
            over = late_by(span.duration_s, budget_s if over_s is None else over_s)
            # to the ns, as all times are; ``round`` takes four times as long
            found.append(
                Row(span, trace, is_root, None if over is None else int(over * 1e9 + 0.5) / 1e9)
            )
    if found and question.where:
        found = _related(found, trace, question.where)
    if question.who is not None:
        found = [row for row in found if _is_for(row, question.who)]
    return found


def _related(found: list[Row], trace: Trace, where: tuple[tuple[str, str], ...]) -> list[Row]:
    """Return those stages whose span, root, or one span below has all attributes of *where*."""
    have = [
        span
        for span in trace.spans.values()
        if all(typed(span.get(key)) == value for key, value in where)
    ]
    related = trace.at_or_above(have)
    related.update(s.span_id for s in trace.descendants(*filter(trace.is_root, have)))
    return [row for row in found if row.span.span_id in related]


def _late(trace: Trace, rows: list[Row]) -> list[Row]:
    """Return the late rows that are not under another late one: a delay is listed once."""
    late = [row for row in rows if row.late_by_s is not None]
    if len(late) > 1:
        under = set(trace.descendants(*(row.span for row in late)))
        return [row for row in late if row.span not in under]
    return late


# ---------------------------------------------------------------- on whose behalf


def who(trace: Trace, span: Span) -> dict[str, Any]:
    """Return on whose behalf *span* ran: the keys found, and their values.

    A value stands on the span, else on its nearest ancestor, else on all of
    its descendants that have one. If these disagree it is left out: one
    user's work is never shown under another's name.
    """
    keys = trace.who_keys
    own = {key: value for key in keys if (value := span.get(key)) is not None}
    if len(own) == len(keys) or len(trace.spans) == 1:
        return own
    return {key: value for key in keys if (value := whose(trace, key).of(span)) is not None}


def _is_for(row: Row, wanted: str) -> bool:
    trace, span = row.trace, row.span
    for key in trace.who_keys:
        value = span.get(key)
        if value is None and len(trace.spans) > 1:
            one = whose(trace, key)
            value = one.at_or_above(span)
            if value is None and span.span_id in one.above(wanted):
                return True
        if typed(value) == wanted:
            return True
    return False


def there_is(spans: Sequence[Span], question: Question) -> Iterator[str]:
    """Yield what there is instead of what *question* asks for: the known services, users, values of
    an attribute, causes, or when the last stage ended.
    """

    def valued(*keys: str) -> Counter[str]:
        values = (typed(span.get(key)) for span in spans for key in keys)
        return Counter(value for value in values if value is not None)

    services = Counter(span.resource.service for span in spans)
    if question.service not in (None, *services):
        yield f"known services: {some(services)}"
    keys = {key for span in spans for key in span.resource.who}
    if question.who not in (None, *(users := valued(*keys))):
        yield f"known users ({', '.join(sorted(keys))}): {some(users)}"
    for key, wanted in question.where:
        if wanted not in (values := valued(key)):
            yield f"known values of {key}: {some(values)}"
    last_ns = max((span.end_ns for span in spans), default=0)
    if 0 < last_ns < question.since_ns:
        yield f"the last stage ended {datetime.fromtimestamp(last_ns / 1e9).astimezone():{_MOMENT}}"
    if question.cause not in (None, *(causes := valued(_names.LATE_CAUSE))):
        yield f"{_KNOWN_CAUSES}{some(causes)}"


def unknown_cause(question: Question, there: Iterable[str]) -> str:
    """Return what is wrong with the cause that *question* asks for, if it is unknown and made
    nothing late; else an empty text. *there*: what ``there_is`` returned.
    """
    known = next((each for each in there if each.startswith(_KNOWN_CAUSES)), "")
    is_unknown = known and question.cause not in CAUSES
    return f"{question.cause!r} is no known cause; {known}" if is_unknown else ""


def some(names: Counter[str]) -> str:
    """Return the most frequent names, and how many more there are."""
    more = len(names) - _MOST_NAMED
    some = [name for name, _ in names.most_common(_MOST_NAMED)]
    return ", ".join([*some, *([f"and {more} more"] if more > 0 else [])]) or "none"
