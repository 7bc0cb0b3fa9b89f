"""What Jaeger is asked, so that ``late`` finds there what it would find in a local store.

In: a ``Jaeger``, a ``Question``. Out: spans, and whether they are all. Invariant:
every trace that could make a row is among them, whole; others may be. What
Jaeger can select it does, and ``late`` selects again. Deliberately absent: judging;
merging (``sources``).
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from otel_logging.traces.jaeger import (
    Jaeger,
    TooDeepError,
    TooMuchError,
    UnknownServiceError,
    UnreachableError,
    Window,
)
from otel_logging.traces.late import Question, finds_the_same
from otel_logging.traces.spans import Span

#: Most traces in one answer: what Jaeger's own user interface asks for at most.
MOST_TRACES: Final = 1500
_US: Final = 1_000  # ns; Jaeger's storages compare microseconds
_S: Final = 1_000_000_000
_DAY_NS: Final = 86_400 * _S  # how far back, where nobody said: what the local store keeps
_AHEAD_NS: Final = 3_600 * _S  # for clocks that are ahead of ours
_LONG_S: Final = 60.0  # stages that took longer are looked for by themselves
_MOST_PARTS: Final = 16
_NAMED: Final = 10  # services, where another one was asked for

Tags = dict[str, str]


@dataclass(slots=True)
class Found:
    """*incomplete*: why some may be missing, or empty. *narrowed*: whether stages that are not
    over ``Question.over_s`` were left out.
    """

    spans: list[Span] = field(default_factory=list)
    incomplete: str = ""
    narrowed: bool = False


def read(jaeger: Jaeger, question: Question, keys: frozenset[str] = frozenset()) -> Found:
    """Return the spans of all traces in which *question* could find a row, and of others.

    *keys*: attributes that are known to say on whose behalf; those that each
    service's newest trace names are added. Failure: raises ``JaegerError``; what
    was read before Jaeger went silent is returned as incomplete.
    """
    known = jaeger.services()
    if question.service is not None and question.service not in known:
        named = [repr(name) for name in known[:_NAMED]]  # anyone's: no character is obeyed
        more = [f"{len(known) - _NAMED} more"] if len(known) > _NAMED else []
        there = ", ".join(named + more) or "none yet"
        message = f"{jaeger.url} has no service {question.service!r}; it has: {there}"
        raise UnknownServiceError(message)
    reading = _Reading(jaeger, question, known)
    try:
        reading.everything(keys)
    except UnreachableError as error:
        if not reading.found.spans:
            raise
        reading.found.incomplete = f"{error} (--since, --service, --who or --over ask for less)"
    return reading.found


def newest(jaeger: Jaeger, back_s: float) -> Iterator[Found]:
    """Yield what ended within *back_s*, within ten times that, and so on up to a day."""
    now = time.time_ns()
    back = int(back_s * _S)
    while back < _DAY_NS:
        yield read(jaeger, Question(since_ns=now - back))
        back *= 10
    yield read(jaeger, Question())


class _Reading:
    """One question on its way. *found* grows."""

    def __init__(self, jaeger: Jaeger, question: Question, known: list[str]) -> None:
        self.found = Found()
        self._jaeger = jaeger
        self._question = question
        self._known = known
        self._most = MOST_TRACES

    def everything(self, keys: frozenset[str]) -> None:
        question = self._question
        *far, near = _windows(question.since_ns, time.time_ns())
        choices = self._choices(near, keys)
        # Jaeger looks for tags and durations on one and the same span, and the tags may stand on
        # another one than the late stage, of another service even: so it is one or the other.
        over_s = 0.0 if choices else question.over_s or 0.0
        self.found.narrowed = over_s > 0
        asked = [question.service] if question.service and not choices else self._known
        for service in asked:
            for tags in choices or [{}]:
                self._all(service, near.at_least(over_s), tags)
            for window in far:
                self._all(service, window.at_least(max(_LONG_S, over_s)), {})

    def _choices(self, near: Window, keys: frozenset[str]) -> list[Tags]:
        """Return the tags of which one set or another has to be on some span of a trace."""
        question = self._question
        if question.who is not None and finds_the_same("", question.who):
            newest = [self._search(service, near, {}, most=1)[0] for service in self._known]
            told = {key for spans in newest for span in spans for key in span.resource.who}
            return [{key: question.who} for key in sorted(keys | told)]
        pairs = {key: value for key, value in question.where if finds_the_same(key, value)}
        return [pairs] if pairs else []

    def _all(self, service: str, window: Window, tags: Tags) -> None:
        """Search *window*, and where it holds more than one answer can, its parts."""
        waiting = [window]
        while waiting:
            window = waiting.pop()
            try:
                spans, is_full = self._search(service, window, tags, most=self._most)
            except TooMuchError:
                spans, is_full = [], True
            self.found.spans += spans
            if is_full and window.end_ns - window.start_ns > _US:
                waiting += window.parts(_parts(window, spans))
            elif is_full:
                self.found.incomplete = "one microsecond holds more than Jaeger gives at once"

    def _search(
        self, service: str, window: Window, tags: Tags, *, most: int
    ) -> tuple[list[Span], bool]:
        while True:
            try:
                return self._jaeger.search(service, window, tags, most=most)
            except TooDeepError:
                if most == 1:
                    raise
                most = self._most = most // 2


def _windows(since_ns: int, now_ns: int) -> list[Window]:
    """Return when the spans began that ended since then, the newest last.

    Jaeger searches by when a span began. Those that began shortly before are
    looked for as all others are; what began long before, and ended since, took long.
    """
    end = (now_ns + _AHEAD_NS) // _US * _US
    if not since_ns:
        return [Window((now_ns - _DAY_NS) // _US * _US, end)]
    near = int(since_ns - _LONG_S * _S) // _US * _US
    far = (since_ns - _DAY_NS) // _US * _US
    return [Window(far, near), Window(near, end)]


def _parts(window: Window, spans: list[Span]) -> int:
    """Return in how many parts to go on, by how much of the window one answer covered.

    A guess: Jaeger gives the newest first, as a rule. If it is wrong that costs time alone.
    """
    starts = [span.start_ns for span in spans]
    covered = max(starts) - min(starts) if starts else 0
    wanted = 2 * (window.end_ns - window.start_ns) // covered if covered else 2
    return min(max(wanted, 2), _MOST_PARTS)
