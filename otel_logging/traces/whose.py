"""On whose behalf each stage of a trace ran: a trace is looked through once for each key."""

from typing import Any, Final

from otel_logging.traces.span import Span
from otel_logging.traces.trace import Trace

_MANY: Final = 2  # values that differ: of more none is needed


class Whose:
    """The values of *key*, which names the user, in a trace: of each stage its own, else that of
    the nearest above, else those below it.
    """

    def __init__(self, trace: Trace, key: str) -> None:
        self._trace = trace
        own = ((span, span.get(key)) for span in trace.spans.values())
        self._own: dict[str, Any] = {s.span_id: value for s, value in own if value is not None}
        self._nearest = dict(self._own)  # None: neither it nor any above has one
        self._below: dict[str, list[Any]] = {}
        self._above: dict[str, set[str]] = {}
        for span_id, value in self._own.items():
            above = trace.spans.get(trace.spans[span_id].parent_span_id)
            while above:
                known = self._below.setdefault(above.span_id, [])
                if value in known or len(known) == _MANY:  # then all above know as much
                    break
                known.append(value)
                above = trace.spans.get(above.parent_span_id)

    def at_or_above(self, span: Span) -> Any:
        """Return the value of *span*, or of the nearest above that has one, or None."""
        way, each = list[str](), span.span_id
        while each in self._trace.spans and each not in self._nearest:
            way.append(each)
            self._nearest[each] = None  # in a circle of parents the walk ends here
            each = self._trace.spans[each].parent_span_id
        found = self._nearest.get(each)
        self._nearest.update(dict.fromkeys(way, found))
        return found

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
    """Return an attribute as somebody types it: booleans as Jaeger has them."""
    if value is None:  # of 100,000 most
        return None
    return str(value).lower() if isinstance(value, bool) else str(value)


def whose(trace: Trace, key: str) -> Whose:
    """Return what is known of *key* in *trace*; it is kept there."""
    known: dict[str, Whose] = vars(trace).setdefault("whose", {})
    return known.get(key) or known.setdefault(key, Whose(trace, key))
