"""Ask Jaeger so that ``late`` finds there what it would find in a local store.

Unless ``incomplete`` says otherwise, every trace that could make a row is returned, whole; other
traces may be returned too. Jaeger selects what it can, and ``late`` selects again.
"""

import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final

from otel_logging.traces.jaeger import (
    US,
    Jaeger,
    TooMuchError,
    UnknownServiceError,
    UnreachableError,
    Window,
)
from otel_logging.traces.late import Question, some
from otel_logging.traces.span import Span
from otel_logging.traces.trace import by_trace
from otel_logging.traces.trace import last as last_of

#: Most traces in one answer: what Jaeger's own user interface asks for at most.
MOST_TRACES: Final = 1500
WHOLE_ID: Final = 32  # hex digits of a trace id
_S: Final = 1_000_000_000
_DAY_S: Final = 86_400  # how far back by default: what the local store keeps
_AHEAD_S: Final = 3_600  # for clocks that are ahead of ours
_LONG_S: Final = 60.0  # stages that took longer are looked for by themselves
_LOOK_BACK_S: Final = (60, 600, 6_000, 60_000)
_INDEXED_CHARACTERS: Final = 256  # Jaeger's Elasticsearch does not find longer values
_ASK_FOR_LESS: Final = "(--since, --service, --who or --over ask for less)"


@dataclass(slots=True)
class Found:
    """*incomplete*: why some spans may be missing, or empty. *is_part*: whether Jaeger may have
    more of a trace of which another source has a part: with ``over_s`` quick traces were left out.
    """

    spans: list[Span] = field(default_factory=list)
    incomplete: str = ""
    is_part: bool = False


def trace(jaeger: Jaeger, prefix: str) -> Found:
    """Return spans; all traces whose id begins with *prefix* are among them."""
    if len(prefix) < WHOLE_ID:  # Jaeger finds whole ids only
        return read(jaeger, Question())
    jaeger.services()  # raises unless it is one
    return Found(jaeger.trace(prefix))


def last(jaeger: Jaeger, service: str | None) -> Found:
    """Return spans; the trace that ended last is among them."""
    for back_s in _LOOK_BACK_S:
        found = read(jaeger, Question(since_ns=time.time_ns() - back_s * _S))
        if last_of(by_trace(found.spans).values(), service=service):
            return found
    return read(jaeger, Question())


def read(jaeger: Jaeger, question: Question) -> Found:
    """Return spans; all traces in which *question* could find a row are among them.

    Failure: raises ``JaegerError``; what was read before Jaeger went silent is returned as
    incomplete.
    """
    known = jaeger.services()
    if question.service is not None and question.service not in known:
        there = some(Counter(map(repr, known)))
        message = f"{jaeger.url} has no service {question.service!r}; it has: {there}"
        raise UnknownServiceError(message)
    *far, near = _windows(question.since_ns, time.time_ns())
    choices = _choices(jaeger, question, known, near)
    # Jaeger wants tags and duration on one span. The tags may be on another span than the late
    # stage, even of another service: so it is asked for one or the other.
    over_s = 0.0 if choices else question.over_s or 0.0
    found = Found(is_part=bool(choices or over_s or question.service or question.since_ns))
    try:
        for service in [question.service] if question.service and not choices else known:
            searches = [(Window(*near, over_s), tags) for tags in choices or [{}]]
            searches += [(Window(*window, max(_LONG_S, over_s)), {}) for window in far]
            for window, tags in searches:
                _search(jaeger, service, window, tags, found)
    except UnreachableError as error:
        if not found.spans:
            raise
        found.incomplete = f"{error} {_ASK_FOR_LESS}"
    return found


def _search(
    jaeger: Jaeger, service: str, window: Window, tags: Mapping[str, str], found: Found
) -> None:
    spans, is_full = list[Span](), True
    for most in (MOST_TRACES, MOST_TRACES // 10):  # of large traces some are better than none
        with suppress(TooMuchError):
            spans, is_full = jaeger.search(service, window, tags, most=most)
            break
    found.spans += spans
    if is_full:
        found.incomplete = f"Jaeger holds more of {service!r} than it gives at once {_ASK_FOR_LESS}"


def _choices(
    jaeger: Jaeger, question: Question, known: list[str], near: tuple[int, int]
) -> list[dict[str, str]]:
    """Return sets of tags: some span of a trace must have one of the sets. Which attributes name
    the user is read off each service's newest trace.
    """
    if question.who is not None and finds_the_same("", question.who):
        newest = [jaeger.search(service, Window(*near), {}, most=1)[0] for service in known]
        named = {key for spans in newest for span in spans for key in span.resource.who}
        return [{key: question.who} for key in sorted(named)]
    pairs = {key: value for key, value in question.where if finds_the_same(key, value)}
    return [pairs] if pairs else []


def finds_the_same(key: str, wanted: str) -> bool:
    """Return whether Jaeger finds all spans that ``late`` finds by this attribute. Jaeger compares
    texts of its own: it formats lists and floats differently, and its ``error`` is the status.
    """
    if key == "error" or len(wanted) > _INDEXED_CHARACTERS or wanted[:1] in ("", "[", "{"):
        return False
    if wanted.removeprefix("-").isdigit():
        return True
    try:
        float(wanted)
    except ValueError:
        return True
    return False


def _windows(since_ns: int, now_ns: int) -> Iterator[tuple[int, int]]:
    """Yield the times in which a span may have begun that ended since then, the newest last.

    Jaeger searches by when a span began. A span that began shortly before then is found by the
    usual search. One that began long before, and ended since, is found by its long duration.
    """
    start, end = since_ns or now_ns - _DAY_S * _S, now_ns + _AHEAD_S * _S
    if since_ns:
        near = since_ns - int(_LONG_S) * _S
        yield since_ns // US * US - _DAY_S * _S, near // US * US
        start = near
    yield start // US * US, end // US * US
