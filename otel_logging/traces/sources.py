"""Where spans are read from: the local store, Jaeger, or both together.

A source that does not answer never keeps the other from being read, unless it alone was asked
for. A span that is in both comes twice, the local one first: ``trace.by_trace`` keeps that.
"""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from otel_logging import _links
from otel_logging._text import visible
from otel_logging.traces import local, search
from otel_logging.traces.jaeger import (
    HELLO_S,
    Jaeger,
    JaegerError,
    UnknownServiceError,
    UnreachableError,
    in_seconds,
)
from otel_logging.traces.late import Question
from otel_logging.traces.search import Found
from otel_logging.traces.span import Span

BOTH: Final = "both"
LOCAL: Final = "local"
JAEGER: Final = "jaeger"
#: For Jaeger, where the local store answers as well and somebody is waiting: for its first answer
#: at least; for each later one, and for all.
_HELLO_S: Final = 0.5
_BESIDE_S: Final = 3.0, 10.0


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

    @property
    def directories(self) -> list[str]:
        """The directories of the local store that there are, safe for a terminal."""
        known = [] if self.which == JAEGER else filter(Path.is_dir, self.places)
        return [visible(str(place)) for place in known]

    def read(self, found: Answered) -> str:
        """Return which sources and directories *found* is from, in one line."""
        return " · ".join([found.origin, *self.directories])

    def late(self, question: Question) -> Answered:
        """Return the spans in which *question* finds its answer."""

        def ask(jaeger: Jaeger, here: list[Span]) -> Found:
            named = {span.resource.who for span in here}  # few: one for many spans
            return search.read(jaeger, question, {key for keys in named for key in keys})

        return self._answered(ask)

    def trace(self, prefix: str) -> Answered:
        """Return the spans of the traces whose id begins with *prefix*, and others."""
        return self._answered(lambda jaeger, _: search.trace(jaeger, prefix))

    def last(self, service: str | None) -> Answered:
        """Return the spans among which the trace is that ended last, and others."""
        return self._answered(lambda jaeger, _: search.last(jaeger, service))

    def _local(self) -> list[Span]:
        return local.read(self.places, of_others=self.of_others)

    def _answered(self, ask: Callable[[Jaeger, list[Span]], Found]) -> Answered:
        if self.which == LOCAL:
            return Answered(self._local(), "from the local store")
        here: list[Span] = []
        try:
            jaeger = Jaeger(self.jaeger_url)
            if self.which != JAEGER:
                greeted = _greet(jaeger)
                until = in_seconds(_HELLO_S)
                here = self._local()
                greeted(max(until - time.monotonic(), 0.0) if here else HELLO_S)
                if here:
                    jaeger.hurry(*_BESIDE_S)
            found = ask(jaeger, here)
        except JaegerError as error:
            if self.which == JAEGER:
                raise
            is_empty, is_slow = isinstance(error, UnknownServiceError), error.__cause__
            why = "Jaeger has nothing of this service" if is_empty else f"no Jaeger: {error}"
            more = " (--source jaeger waits longer)" if isinstance(is_slow, TimeoutError) else ""
            return Answered(here, f"from the local store; {why}{more}")
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


def _greet(jaeger: Jaeger) -> Callable[[float], None]:
    """Have a thread see whether there is a Jaeger; return what waits so many seconds for that, and
    raises ``JaegerError`` where there is none.
    """
    failed: list[JaegerError] = []

    def run() -> None:
        try:
            jaeger.services()
        except JaegerError as error:
            failed.append(error)

    def greeted(patience_s: float) -> None:
        asking.join(patience_s)
        if failed:
            raise failed[0]
        if asking.is_alive():
            raise UnreachableError(f"{jaeger.url} does not answer in time") from TimeoutError()

    asking = threading.Thread(target=run, name="otel_logging jaeger", daemon=True)
    asking.start()
    return greeted
