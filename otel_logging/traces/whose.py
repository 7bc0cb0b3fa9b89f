"""On whose behalf each stage of a trace ran. A trace is searched once for each key."""

from collections import defaultdict
from typing import Any, Final

from otel_logging.traces.span import Span
from otel_logging.traces.trace import Trace

_MANY: Final = 2  # different values: more need not be known


class Whose:
    """The values of *key*, which names the user, in a trace. A stage has its own value, else that
    of the nearest stage above, else those of the stages below.
    """

    def __init__(self, trace: Trace, key: str) -> None:
        own = ((span.span_id, span.get(key)) for span in trace.spans.values())
        self._own: dict[str, Any] = {span_id: value for span_id, value in own if value is not None}
        self._trace = trace
        self._nearest: dict[str, Any] = {}
        self._below: dict[str, list[Any]] = defaultdict(list)
        self._above: dict[str, set[str]] = {}
        downwards = trace.downwards() if self._own else []
        for span in downwards:
            above = self._nearest.get(span.parent_span_id)
            self._nearest[span.span_id] = self._own.get(span.span_id, above)
        for span in reversed(downwards):
            known = self._below[span.parent_span_id]
            for value in (self._own.get(span.span_id), *self._below.get(span.span_id, ())):
                if value is not None and value not in known and len(known) < _MANY:
                    known.append(value)

    def at_or_above(self, span: Span) -> Any:
        """Return the value of *span*, else of the nearest span above that has one, else None."""
        return self._nearest.get(span.span_id)

    def of(self, span: Span) -> Any:
        """Return the one value, or None: one user's work is never filed under another's name."""
        if (value := self.at_or_above(span)) is not None:
            return value
        values = self._below.get(span.span_id, ())
        return values[0] if len(values) == 1 else None

    def above(self, wanted: str) -> set[str]:
        """Return the ids of the stages that have *wanted*, and of all above them."""
        if wanted not in self._above:
            spans, own = self._trace.spans, self._own.items()
            of_them = (spans[span_id] for span_id, value in own if typed(value) == wanted)
            self._above[wanted] = self._trace.at_or_above(of_them)
        return self._above[wanted]


def typed(value: Any) -> str | None:
    """Return an attribute as somebody types it; booleans as Jaeger writes them."""
    if value is None:  # true of most
        return None
    return str(value).lower() if isinstance(value, bool) else str(value)


def whose(trace: Trace, key: str) -> Whose:
    """Return the values of *key* in *trace*, which keeps them."""
    known: dict[str, Whose] = vars(trace).setdefault("whose", {})
    return known.get(key) or known.setdefault(key, Whose(trace, key))
