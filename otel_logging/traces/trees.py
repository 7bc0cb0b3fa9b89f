"""Spans put together to traces, and who is under whom in one.

In: spans in any order, some of them twice. Out: a ``Trace`` each. Invariant:
every walk ends, also where broken senders made a span its own ancestor.
Deliberately absent: what a walk is for.
"""

from collections.abc import Iterable, Iterator
from functools import cached_property

from otel_logging.traces.spans import Span


class Trace:
    """The spans of one trace, each once. *spans*: by span id."""

    def __init__(self, trace_id: str) -> None:
        self.trace_id = trace_id
        self.spans: dict[str, Span] = {}

    def __repr__(self) -> str:
        return f"<Trace {self.trace_id} [{len(self.spans)} spans]>"

    @property
    def in_order(self) -> list[Span]:
        """Its spans by start, of those that started together the longest first."""
        return sorted(self.spans.values(), key=lambda s: (s.start_ns, -s.end_ns, s.span_id))

    @cached_property
    def _children(self) -> dict[str, list[Span]]:
        found: dict[str, list[Span]] = {}
        for span in self.in_order:
            found.setdefault(span.parent_span_id, []).append(span)
        return found

    @cached_property
    def who_keys(self) -> tuple[str, ...]:
        """Keys that say on whose behalf, of all processes that took part: the outermost may be
        somebody else's.
        """
        return tuple(dict.fromkeys(key for s in self.spans.values() for key in s.resource.who))

    def is_root(self, span: Span) -> bool:
        """Whether *span* has no parent, or one that is not here."""
        return span.parent_span_id not in self.spans

    def children(self, span: Span) -> list[Span]:
        """Return the spans right below *span*, by start."""
        return self._children.get(span.span_id, [])

    def ancestors(self, span: Span) -> Iterator[Span]:
        """Yield the parent of *span*, its parent, and so on up to the root."""
        seen = {span.span_id}
        while (parent := self.spans.get(span.parent_span_id)) and parent.span_id not in seen:
            seen.add(parent.span_id)
            yield parent
            span = parent

    def descendants(self, span: Span) -> Iterator[Span]:
        """Yield all spans below *span*."""
        seen = {span.span_id}
        waiting = [span]
        while waiting:
            for child in self.children(waiting.pop()):
                if child.span_id not in seen:
                    seen.add(child.span_id)
                    waiting.append(child)
                    yield child

    def root(self, span: Span) -> Span:
        """Return the outermost ancestor of *span*, which may be itself."""
        top = span
        for top in self.ancestors(span):  # noqa: B007 - the last one is wanted
            pass
        return top


def by_trace(spans: Iterable[Span]) -> dict[str, Trace]:
    """Put *spans* together by trace id. Of a span that comes twice the first is kept."""
    traces: dict[str, Trace] = {}
    for span in spans:
        trace = traces.get(span.trace_id)
        if trace is None:
            trace = traces[span.trace_id] = Trace(span.trace_id)
        trace.spans.setdefault(span.span_id, span)
    return traces


def last(traces: Iterable[Trace], *, service: str | None = None) -> Trace | None:
    """Return the trace whose root stage ended latest; None where there is no stage at all."""
    ended = [
        (span.end_ns, trace)
        for trace in traces
        for span in trace.spans.values()
        if trace.is_root(span) and span.is_stage and service in (None, span.resource.service)
    ]
    return max(ended, key=lambda pair: pair[0])[1] if ended else None
