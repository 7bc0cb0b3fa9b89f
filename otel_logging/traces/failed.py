"""Which traces failed: a stage has the status ERROR, or an error line has an exception.

A trace is one row. A span whose bytes show no sign of a failure is not decoded.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from heapq import nlargest
from itertools import islice
from operator import attrgetter, itemgetter
from typing import Any

from otel_logging import _names
from otel_logging._failures import is_no_failure
from otel_logging._text import rfc3339
from otel_logging.traces import exceptions
from otel_logging.traces.late import Answer, Question, Row, matching, who
from otel_logging.traces.span import Span
from otel_logging.traces.trace import Trace, by_trace

_LOOKED_AT = 100  # of a trace's failed stages only the last ones are asked what was raised
_ERRORS = ("error", "critical")  # not a set: from Jaeger a level may be a list, which has no hash


@dataclass(frozen=True, slots=True)
class Failure:
    """A failed trace: its outermost stage (*row*), and the deepest stage that failed (*span*)."""

    row: Row
    span: Span
    what: str
    where: str

    @property
    def ids(self) -> tuple[str, ...]:
        """The ids of its trace, of the outermost stage and of the one that failed."""
        return self.row.span.trace_id, self.row.span.span_id, self.span.span_id

    @property
    def who(self) -> dict[str, Any]:
        """On whose behalf it ran."""
        return self.row.who or who(self.row.trace, self.span)

    def as_json(self, link: str | None = None) -> dict[str, Any]:
        """Return it as ``failed --json`` prints it; docs/commands.md is the contract."""
        stage, kind = self.row.span, exceptions.kind_of(self.what)
        return {
            "trace_id": stage.trace_id,
            "span_id": self.span.span_id,
            "service": self.span.resource.service,
            "stage": stage.name,
            "failed_stage": self.span.name,
            "start": rfc3339(stage.start_ns),
            "latency_s": stage.duration_s,
            "late": self.row.late_by_s is not None,
            "who": self.who,
            "type": kind if kind.replace(".", "").isidentifier() else None,
            "error": self.what,
            "frame": self.where.removeprefix("at ") or None,
            "link": link,
        }


def failed(
    spans: Iterable[Span], question: Question, *, limit: int | None = None
) -> Answer[Failure]:
    """Return the failures, the newest first; ``considered`` has one row of each trace.

    What was raised is worked out only for rows that are returned: of the others it is enough to
    know that they failed.
    """
    found, considered = list[tuple[int, Trace, list[Row], Failure | None]](), list[Row]()
    for trace in by_trace(spans).values():
        rows = matching(trace, question)
        considered += rows[:1]
        may_have_failed = any(map(attrgetter("may_have_failed"), trace.spans.values()))
        if not (rows and may_have_failed) or trace.trace_id in question.without:
            continue  # most of 100,000 traces
        failure = None if (is_bad := any(row.span.is_error for row in rows)) else _of(trace, rows)
        if is_bad or failure:
            found.append((min(row.span.start_ns for row in rows), trace, rows, failure))
    first = nlargest(len(found) if limit is None else limit, found, key=itemgetter(0))
    every = (failure or _of(trace, rows) for _, trace, rows, failure in first)
    rows = [rows[0] for _, _, rows, _ in found]
    return Answer(list(filter(None, every)), rows, considered, judged=True, name=_name)


def _name(row: Row) -> str:
    return row.trace.trace_id


def _of(trace: Trace, rows: list[Row]) -> Failure | None:
    """Return the failure of a trace: that of the deepest stage that says what was raised, else that
    of the deepest stage with status ERROR.
    """
    may_be = [span for span in trace.spans.values() if span.may_have_failed]
    own = {row.span.span_id: row for row in sorted(rows, key=lambda row: row.span.start_ns)}
    under = {span.span_id for span in trace.descendants(*(row.span for row in rows))}
    may_be.sort(key=attrgetter("may_have_raised", "start_ns", "span_id"), reverse=True)
    bad = (s for s in may_be if (s.span_id in own or s.span_id in under) and is_bad(s, trace))
    raised = [(_raised(span, trace), span) for span in islice(bad, _LOOKED_AT)]
    if not raised:
        return None
    # a line after the stage's end may report it again, without a traceback
    error, deepest = max(raised, key=lambda one: (bool(one[0]), bool(one[0] and one[0].is_traced)))
    above = trace.at_or_above([deepest])
    row = next(row for span_id, row in own.items() if span_id in above)
    if deepest.is_log_page:
        deepest = trace.spans.get(deepest.parent_span_id, row.span)
    if error is None:
        message = deepest.details.status_message or f"{deepest.name} has status ERROR"
        return Failure(row, deepest, message, "")
    known = (each.where for each, _ in raised if each and each.is_own)
    where = error.where if error.is_own else next(known, error.where)
    return Failure(row, deepest, error.what, where)


def is_bad(span: Span, trace: Trace) -> bool:
    """Return whether a stage failed, or one of its lines has an exception."""
    return span.is_error or (span.may_have_raised and _raised(span, trace) is not None)


def _raised(span: Span, trace: Trace) -> exceptions.Raised | None:
    """Return the last exception of a stage: that of a line of level error, or, if the stage failed,
    one that is recorded on it. A page of lines counts as a part of its stage.
    """
    stage = trace.spans.get(span.parent_span_id, span) if span.is_log_page else span
    for event in reversed(span.events):
        is_recorded = event.name == exceptions.EVENT and stage.is_error
        is_bad = is_recorded or event.attributes.get(_names.LEVEL) in _ERRORS
        error = exceptions.raised(event.name, event.attributes) if is_bad else None
        if error and not is_no_failure(exceptions.kind_of(error.what)):
            return error
    return None
