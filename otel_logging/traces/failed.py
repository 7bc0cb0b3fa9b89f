"""Which traces failed: a stage with status ERROR, or an exception that an error line has.

A trace is one row. Of spans without a sign of it in their bytes nothing is decoded.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from otel_logging import _names
from otel_logging.traces import exceptions
from otel_logging.traces.late import SCHEMA, Question, Row, matching, who
from otel_logging.traces.span import Span, rfc3339
from otel_logging.traces.trace import Trace, by_trace

_ERRORS = frozenset({"error", "critical"})


@dataclass(frozen=True, slots=True)
class Failure:
    """A failed trace: its outermost stage (*row*), and what failed deepest in it (*span*)."""

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
        stage, kind = self.row.span, self.what.partition(":")[0]
        return {
            "schema": SCHEMA,
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


def failed(spans: Iterable[Span], question: Question) -> tuple[list[Failure], int]:
    """Return the failures, the newest first, and how many traces were looked at."""
    found: list[Failure] = []
    looked_at = 0
    for trace in by_trace(spans).values():
        rows = matching(trace, question)
        looked_at += bool(rows)
        if rows and (failure := _of(trace, rows)):
            found.append(failure)
    found.sort(key=lambda failure: failure.row.span.start_ns, reverse=True)
    return found, looked_at


def _of(trace: Trace, rows: list[Row]) -> Failure | None:
    """Return the failure of a trace: the deepest stage that says what was raised, else the
    deepest with status ERROR.
    """
    bad = [span for span in trace.spans.values() if is_bad(span)]
    # a line after the end may tell of it again, without a traceback
    told = [(e := _raised(span), bool(e), bool(e and e.is_traced), span) for span in bad]
    told.sort(key=lambda one: (*one[1:3], one[3].start_ns, one[3].span_id))
    if not told:
        return None
    error, *_, deepest = told[-1]
    above = {deepest.span_id, *(span.span_id for span in trace.ancestors(deepest))}
    own = [row for row in rows if row.span.span_id in above]
    if not own:
        return None
    row = min(own, key=lambda row: row.span.start_ns)
    if deepest.is_log_page:
        deepest = trace.spans.get(deepest.parent_span_id, row.span)
    if error is None:
        message = deepest.details.status_message or f"{deepest.name} has status ERROR"
        return Failure(row, deepest, message, "")
    known = [each.where for each, *_ in told if each and each.is_own]
    return Failure(row, deepest, error.what, error.where if error.is_own or not known else known[0])


def is_bad(span: Span) -> bool:
    """Return whether a stage failed, or one of its lines has an exception."""
    return span.may_have_failed and (span.is_error or _raised(span) is not None)


def _raised(span: Span) -> exceptions.Raised | None:
    """Return the last exception of a stage: of a line of level error, or recorded on it."""
    for event in reversed(span.events):
        is_bad = event.name == exceptions.EVENT or event.attributes.get(_names.LEVEL) in _ERRORS
        if is_bad and (error := exceptions.raised(event.name, event.attributes)):
            return error
    return None
