"""Where spans are read from: the local store, Jaeger, or both together.

A source that does not answer never keeps the other from being read, unless it alone was asked
for. A span that is in both comes twice, the local one first: ``trace.by_trace`` keeps that.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Concatenate, Final, ParamSpec

from otel_logging import _links
from otel_logging.traces import local, search
from otel_logging.traces.jaeger import READ_S, Jaeger, JaegerError, UnknownServiceError
from otel_logging.traces.late import Question
from otel_logging.traces.search import Found
from otel_logging.traces.span import Span

BOTH: Final = "both"
LOCAL: Final = "local"
JAEGER: Final = "jaeger"
_BESIDE_S: Final = 10.0  # for Jaeger, where the local store has answered and somebody is waiting

_P = ParamSpec("_P")


@dataclass(slots=True)
class Answered:
    """*origin*: which sources answered, in one line. *narrowed*: whether Jaeger left out stages
    that were not slow enough.
    """

    spans: list[Span]
    origin: str
    narrowed: bool = False
    jaeger_url: str = ""
    _in_jaeger: frozenset[str] = field(default=frozenset(), repr=False)

    def link(self, trace_id: str, *span_ids: str) -> str | None:
        """Return where Jaeger shows those spans; None if it has nothing of their trace."""
        if trace_id not in self._in_jaeger:
            return None
        return _links.trace_url(self.jaeger_url, trace_id, *span_ids)


@dataclass(frozen=True, slots=True)
class Sources:
    """*which*: one of BOTH, LOCAL, JAEGER. *places*: the local store's directories; *of_others*:
    also what belongs to other users there.

    Failure: with JAEGER, all methods raise ``JaegerError``; otherwise none raises.
    """

    which: str
    places: tuple[Path, ...]
    jaeger_url: str
    of_others: bool = False

    def late(self, question: Question) -> Answered:
        """Return the spans in which *question* finds its answer."""
        here = self._local()
        resources = {id(span.resource): span.resource for span in here}  # one for many spans
        keys = {key for resource in resources.values() for key in resource.who}
        return self._with_jaeger(here, search.read, question, keys)

    def trace(self, prefix: str) -> Answered:
        """Return the spans of the traces whose id begins with *prefix*, and others."""
        return self._with_jaeger(self._local(), search.trace, prefix)

    def last(self, service: str | None) -> Answered:
        """Return the spans among which the trace is that ended last, and others."""
        return self._with_jaeger(self._local(), search.last, service)

    def _local(self) -> list[Span]:
        if self.which == JAEGER:
            return []
        return local.read(self.places, of_others=self.of_others)

    def _with_jaeger(
        self,
        here: list[Span],
        ask: Callable[Concatenate[Jaeger, _P], Found],
        *arguments: _P.args,
        **options: _P.kwargs,
    ) -> Answered:
        if self.which == LOCAL:
            return Answered(here, "from the local store")
        jaeger = Jaeger(self.jaeger_url, read_s=READ_S if self.which == JAEGER else _BESIDE_S)
        try:
            found = ask(jaeger, *arguments, **options)
        except JaegerError as error:
            if self.which == JAEGER:
                raise
            is_empty = isinstance(error, UnknownServiceError)
            why = "Jaeger has nothing of this service" if is_empty else f"no Jaeger: {error}"
            return Answered(here, f"from the local store; {why}")
        number = len(jaeger.left_out)
        left_out = f"{number} invalid span{'s' * (number > 1)} left out" if number else ""
        incomplete = ", ".join(filter(None, (found.incomplete, left_out)))
        stores = "" if self.which == JAEGER else "the local store and "
        return Answered(
            here + found.spans,
            f"from {stores}Jaeger at {self.jaeger_url}"
            + (f", incomplete: {incomplete}" if incomplete else ""),
            found.narrowed,
            self.jaeger_url,
            frozenset(span.trace_id for span in found.spans),
        )
