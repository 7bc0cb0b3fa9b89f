"""What Jaeger is asked, so that ``late`` finds there what it would find in a local store.

Unless ``incomplete`` says otherwise, every trace that could make a row is among them, whole;
others may be. What Jaeger can select it does, and ``late`` selects again.
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
_INDEXED_CHARACTERS: Final = 256  # longer values Jaeger's Elasticsearch does not find
_ASK_FOR_LESS: Final = "(--since, --service, --who or --over ask for less)"


@dataclass(slots=True)
class Found:
    """*incomplete*: why some may be missing, or empty. *is_part*: whether Jaeger may have more of a
    trace of which another source has a part; with ``over_s`` what is not over it was left out.
    """

    spans: list[Span] = field(default_factory=list)
    incomplete: str = ""
    is_part: bool = False


def trace(jaeger: Jaeger, prefix: str) -> Found:
    """Return the spans of the traces whose id begins with *prefix*, and others."""
    if len(prefix) < WHOLE_ID:  # Jaeger finds whole ids only
        return read(jaeger, Question())
    jaeger.services()  # raises unless it is one
    return Found(jaeger.trace(prefix))


def last(jaeger: Jaeger, service: str | None) -> Found:
    """Return the spans among which the trace is that ended last, and others."""
    for back_s in _LOOK_BACK_S:
        found = read(jaeger, Question(since_ns=time.time_ns() - back_s * _S))
        if last_of(by_trace(found.spans).values(), service=service):
            return found
    return read(jaeger, Question())


def read(jaeger: Jaeger, question: Question) -> Found:
    """Return the spans of the traces in which *question* could find a row, and of others.

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
    # Jaeger looks for tags and durations on one and the same span, and the tags may stand on
    # another one than the late stage, of another service even: so it is one or the other.
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
    for most in (
        MOST_TRACES,
        MOST_TRACES // 10,
    ):  # of traces of many spans some are better than none
        with suppress(TooMuchError):
            spans, is_full = jaeger.search(service, window, tags, most=most)
            break
    found.spans += spans
    if is_full:
        found.incomplete = f"Jaeger holds more of {service!r} than it gives at once {_ASK_FOR_LESS}"


def _choices(
    jaeger: Jaeger, question: Question, known: list[str], near: tuple[int, int]
) -> list[dict[str, str]]:
    """Return the tags of which one set or another has to be on some span of a trace. Which
    attributes name the user, each service's newest trace says.
    """
    if question.who is not None and finds_the_same("", question.who):
        newest = [jaeger.search(service, Window(*near), {}, most=1)[0] for service in known]
        named = {key for spans in newest for span in spans for key in span.resource.who}
        return [{key: question.who} for key in sorted(named)]
    pairs = {key: value for key, value in question.where if finds_the_same(key, value)}
    return [pairs] if pairs else []


def finds_the_same(key: str, wanted: str) -> bool:
    """Return whether Jaeger, which compares attributes as text of its own, finds all that
    ``late`` finds. Lists and floats it formats differently, integers it does not; its
    ``error`` is the span's status.
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
    """Yield when the spans began that ended since then, the newest last.

    Jaeger searches by when a span began. Those that began shortly before are
    looked for as all others are; what began long before, and ended since, took long.
    """
    start, end = since_ns or now_ns - _DAY_S * _S, now_ns + _AHEAD_S * _S
    if since_ns:
        near = since_ns - int(_LONG_S) * _S
        yield since_ns // US * US - _DAY_S * _S, near // US * US
        start = near
    yield start // US * US, end // US * US
