"""Where spans are read from: the local store, Jaeger, or both together.

If one source does not answer, the other is still read, unless only the first was asked for. A span
that is in both comes twice, the local one first: ``trace.by_trace`` keeps that one.
"""

import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

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
from otel_logging.traces.late import Answer, Question
from otel_logging.traces.search import Found
from otel_logging.traces.span import Span
from otel_logging.traces.trace import Trace, by_trace

BOTH: Final = "both"
LOCAL: Final = "local"
JAEGER: Final = "jaeger"
#: Jaeger's time if the local store answers too, since somebody waits: for its first answer (at
#: least); for each later one, and for all.
_HELLO_S: Final = 0.5
_BESIDE_S: Final = 3.0, 10.0
_MOST_TRACES: Final = 100  # that are asked for one by one
_INCOMPLETE: Final = ", incomplete: "


@dataclass(slots=True)
class Answered:
    """*origin*: which sources answered, in one line. *jaeger*: if it did. *is_part*: whether Jaeger
    may have more of the local store's traces. *is_damaged*: whether some local spans are lost.
    """

    spans: list[Span]
    origin: str
    jaeger: Jaeger | None = None
    is_part: bool = False
    is_damaged: bool = False
    _in_jaeger: set[str] = field(default_factory=set, repr=False)

    def link(self, trace_id: str, *span_ids: str) -> str | None:
        """Return the URL of those spans in Jaeger; None if Jaeger has nothing of their trace."""
        if self.jaeger is None or trace_id not in self._in_jaeger:
            return None
        return _links.trace_url(self.jaeger.url, trace_id, *span_ids)

    def add(self, spans: list[Span]) -> None:
        """Add spans that Jaeger has."""
        self.spans += spans
        self._in_jaeger.update(span.trace_id for span in spans)

    def complete(self, trace_ids: Iterable[str]) -> bool:
        """Add what Jaeger has of these traces, if the search did not find it: a trace may go on in
        another service's store. Return whether Jaeger had anything.
        """
        if self.jaeger is None:
            return False
        missing = [each for each in dict.fromkeys(trace_ids) if each not in self._in_jaeger]
        more, why = list[Span](), ""
        if (number := len(missing) - _MOST_TRACES) > 0:
            why = f"not looked for in Jaeger: {number} of the local store's traces"
        try:
            for each in missing[:_MOST_TRACES]:
                more += self.jaeger.trace(each)
        except JaegerError as error:
            why = str(error)
        self.add(more)
        if why:
            self.origin += f", {why}" if _INCOMPLETE in self.origin else f"{_INCOMPLETE}{why}"
        return bool(more)

    def whole(self, traces: list[Trace]) -> list[Trace]:
        """Return these traces with what Jaeger has of them."""
        if not self.complete(trace.trace_id for trace in traces):
            return traces
        every = by_trace(self.spans)
        return [every[trace.trace_id] for trace in traces]


@dataclass(frozen=True, slots=True)
class Sources:
    """*which*: one of BOTH, LOCAL, JAEGER. *places*: the local store's directories; *of_others*:
    also what belongs to other users there.

    Failure: with JAEGER, all methods raise ``JaegerError``; otherwise none raises.
    """

    which: str
    places: tuple[Path, ...]
    jaeger_url: str = ""
    of_others: bool = False

    @property
    def directories(self) -> list[str]:
        """The directories of the local store that there are, safe for a terminal."""
        known = [] if self.which == JAEGER else filter(Path.is_dir, self.places)
        return [visible(str(place)) for place in known]

    def read(self, found: Answered) -> str:
        """Return which sources and directories *found* is from, in one line."""
        return " · ".join([found.origin, *self.directories])

    def nothing(self, found: Answered, when: str = "") -> str:
        """Return the sentence that nothing is there, with the places that were looked at."""
        if self.which == JAEGER:
            return f"Nothing{when} matches: read {found.origin}."
        if not self.places:
            return "Nothing was read."
        if found.is_damaged:
            return f"Nothing can be read in {named(self.places)}: what is there is damaged."
        return (
            f"Nothing is recorded in {named(self.places)} yet: a stage appears here when it ends, "
            "once setup_observability() was called in its process."
        )

    def late(self, question: Question) -> Answered:
        """Return the spans in which *question* finds its answer."""
        return self._answered(lambda jaeger: search.read(jaeger, question))

    def answer(
        self, question: Question, ask: Callable[[list[Span], Question], Answer[Any]]
    ) -> tuple[Answered, Answer[Any]]:
        """Return what *ask* answers, of whole traces."""
        found = self.late(question)
        answer = ask(found.spans, question)
        if found.is_part:
            ids = [row.ids[0] for row in answer.rows[: _MOST_TRACES + 1]]
            reported = {name[: search.WHOLE_ID] for name in question.without}
            if question.who is not None or question.where or question.service:
                # only the local store may have the attribute, and only Jaeger the late stage
                considered = (row.span.trace_id for row in answer.considered)
                ids += (each for each in considered if each not in reported)
            if found.complete(ids):
                answer = ask(found.spans, question)
        # with it, Jaeger leaves out quick traces
        narrowed = question.over_s is not None and found.jaeger is not None
        return found, replace(answer, narrowed=narrowed)

    def trace(self, prefix: str) -> Answered:
        """Return spans; all traces whose id begins with *prefix* are among them."""
        return self._answered(lambda jaeger: search.trace(jaeger, prefix))

    def last(self, service: str | None) -> Answered:
        """Return spans; the trace that ended last is among them."""
        return self._answered(lambda jaeger: search.last(jaeger, service))

    def _local(self) -> Answered:
        spans, is_damaged = local.read(self.places, of_others=self.of_others)
        said = "from the local store" + " (some of it is damaged)" * is_damaged
        return Answered(spans, said, is_damaged=is_damaged)

    def _answered(self, ask: Callable[[Jaeger], Found]) -> Answered:
        if self.which == LOCAL:
            return self._local()
        answered, nothing = Answered([], "from"), ""
        try:
            jaeger = Jaeger(self.jaeger_url)
            if self.which != JAEGER:
                greeted = _greet(jaeger)
                until = in_seconds(_HELLO_S)
                answered = self._local()
                greeted(max(until - time.monotonic(), 0.0) if answered.spans else HELLO_S)
                if answered.spans:
                    jaeger.hurry(*_BESIDE_S)
            found = ask(jaeger)
        except JaegerError as error:
            if self.which == JAEGER:
                raise
            if not isinstance(error, UnknownServiceError):
                more = " (--source jaeger waits longer)" * isinstance(error.__cause__, TimeoutError)
                answered.origin += f"; no Jaeger: {error}{more}"
                return answered
            found, nothing = Found(is_part=True), ", which has nothing of this service"
        number = len(jaeger.left_out)
        left_out = f"{number} invalid span{'s' * (number > 1)} left out" if number else ""
        incomplete = ", ".join(filter(None, (found.incomplete, left_out)))
        also = "" if self.which == JAEGER else " and"
        answered.origin += f"{also} Jaeger at {jaeger.url}{nothing}"
        if incomplete:
            answered.origin += _INCOMPLETE + incomplete
        answered.jaeger, answered.is_part = jaeger, found.is_part or bool(incomplete)
        answered.add(found.spans)
        return answered


def named(places: Iterable[Path]) -> str:
    """Return directories in a sentence."""
    return " or ".join(visible(str(each)) for each in places)


def _greet(jaeger: Jaeger) -> Callable[[float], None]:
    """Let a thread find out whether there is a Jaeger. Return a function that waits so many seconds
    for the answer, and raises ``JaegerError`` without one.
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
