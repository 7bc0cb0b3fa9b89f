"""Where spans are read from: the local store, Jaeger, or both together.

In: what is asked. Out: spans of all sources that answered, and which these
were. Invariant: a source that does not answer never keeps the other from being
read, unless it alone was asked for. A span that is in both comes twice, the
local one first: ``trees.by_trace`` keeps that. Deliberately absent: judging, drawing.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from otel_logging import _links
from otel_logging.traces import local, search
from otel_logging.traces.jaeger import READ_S, Jaeger, JaegerError, UnknownServiceError
from otel_logging.traces.late import Question
from otel_logging.traces.search import Found
from otel_logging.traces.spans import Span
from otel_logging.traces.trees import by_trace, last

BOTH: Final = "both"
LOCAL: Final = "local"
JAEGER: Final = "jaeger"
_FIRST_LOOK_BACK_S: Final = 60.0
_BESIDE_S: Final = 10.0  # for Jaeger, where the local store has answered and somebody is waiting
WHOLE_ID: Final = 32  # hex digits of a trace id


@dataclass(slots=True)
class Answered:
    """*said*: which sources answered, in one line. *narrowed*: whether Jaeger left out stages
    that were not slow enough to be asked for.
    """

    spans: list[Span]
    said: str
    narrowed: bool = False
    jaeger_url: str = ""
    _in_jaeger: frozenset[str] = field(default=frozenset(), repr=False)

    def link(self, trace_id: str, span_id: str) -> str | None:
        """Return where Jaeger shows that span; None where it has nothing of its trace."""
        if trace_id not in self._in_jaeger:
            return None
        return _links.trace_url(self.jaeger_url, trace_id, span_id)


@dataclass(frozen=True, slots=True)
class Sources:
    """*which*: one of BOTH, LOCAL, JAEGER. *places*: the local store's directories.

    Failure: with JAEGER, all methods raise ``JaegerError``; otherwise none raises.
    """

    which: str
    places: tuple[Path, ...]
    jaeger_url: str

    def late(self, question: Question) -> Answered:
        """Return the spans in which *question* finds its answer."""
        here = self._local()

        def ask(jaeger: Jaeger) -> Found:
            origins = {id(span.resource): span.resource for span in here}  # one for many spans
            keys = frozenset(key for origin in origins.values() for key in origin.who)
            return search.read(jaeger, question, keys)

        return self._with_jaeger(here, ask)

    def trace(self, prefix: str) -> Answered:
        """Return the spans of the traces whose id begins with *prefix*, and others."""

        def ask(jaeger: Jaeger) -> Found:
            if len(prefix) < WHOLE_ID:  # Jaeger looks for whole ids alone
                return search.read(jaeger, Question())
            jaeger.services()  # is it one?
            return Found(jaeger.trace(prefix))

        return self._with_jaeger(self._local(), ask)

    def last(self, service: str | None) -> Answered:
        """Return the spans among which the trace is that ended last, and others."""

        def ask(jaeger: Jaeger) -> Found:
            found = Found()
            for found in search.newest(jaeger, _FIRST_LOOK_BACK_S):
                if last(by_trace(found.spans).values(), service=service) is not None:
                    break
            return found

        return self._with_jaeger(self._local(), ask)

    def _local(self) -> list[Span]:
        return [] if self.which == JAEGER else local.read(self.places)

    def _with_jaeger(self, here: list[Span], ask: Callable[[Jaeger], Found]) -> Answered:
        if self.which == LOCAL:
            return Answered(here, "from the local store")
        jaeger = Jaeger(self.jaeger_url, read_s=READ_S if self.which == JAEGER else _BESIDE_S)
        try:
            found = ask(jaeger)
        except JaegerError as error:
            if self.which == JAEGER:
                raise
            return Answered(here, f"from the local store{_why_not(error)}")
        stores = "" if self.which == JAEGER else "the local store and "
        incomplete = ", ".join(filter(None, (found.incomplete, _left_out(jaeger))))
        missing = f", incomplete: {incomplete}" if incomplete else ""
        return Answered(
            here + found.spans,
            f"from {stores}Jaeger at {self.jaeger_url}{missing}",
            found.narrowed,
            self.jaeger_url,
            frozenset(_ids(found.spans)),
        )


def _ids(spans: Iterable[Span]) -> set[str]:
    return {span.trace_id for span in spans}


def _left_out(jaeger: Jaeger) -> str:
    number = len(jaeger.left_out)
    return f"{number} span{'s' * (number > 1)} not understood" if number else ""


def _why_not(error: JaegerError) -> str:
    if isinstance(error, UnknownServiceError):
        return "; Jaeger has nothing of this service"
    return f"; no Jaeger: {error}"
