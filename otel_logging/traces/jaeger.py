"""Jaeger: the spans of every service that delivers to it, asked for over its query API.

In: the address of Jaeger, a ``Question`` or a trace id. Out: spans, and whether
they are all. Invariant: whatever Jaeger does, an answer or a ``JaegerError`` is
there within a bounded time; every trace that ``late`` could make a row of is
among the spans. Deliberately absent: judging; merging (``sources``).

Two dialects are spoken [2.13 seen; the later one as documented], and told apart
by the answer: Jaeger up to 2.18 refuses the later one's names with 400. The
first searches by attributes in an older API alone, whose times are cut to
microseconds, so the ids are taken from there and the traces from the newer one.
"""

import contextlib
import http.client
import json
import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from otel_logging.traces import otlp_json
from otel_logging.traces.http_get import (
    REPLY_BYTES,
    Getter,
    Reply,
    TooLargeError,
    in_seconds,
)
from otel_logging.traces.late import Question, finds_the_same
from otel_logging.traces.spans import Span, rfc3339

#: Most traces in one answer: what Jaeger's own user interface asks for at most.
MOST_TRACES: Final = 1500
HELLO_S: Final = 2.0  # for its first answer: who waits longer has no use for it at 3 a.m.
ANSWER_S: Final = 15.0  # for each later one
READ_S: Final = 60.0  # for all [run: 100,000 spans in 25 s, from one service, on two busy cores]
_US: Final = 1_000  # ns; Jaeger's storages compare microseconds
_S: Final = 1_000_000_000
_DAY_NS: Final = 86_400 * _S  # how far back, where nobody said: what the local store keeps
_AHEAD_NS: Final = 3_600 * _S  # for clocks that are ahead of ours
_LONG_NS: Final = 60 * _S  # stages that took longer are looked for by themselves
_MOST_PARTS: Final = 16
_TOLD_BYTES: Final = 300


class JaegerError(Exception):
    """What keeps Jaeger from answering, in plain words."""


class UnreachableError(JaegerError):
    """Nothing answers there."""


class NotUnderstoodError(JaegerError):
    """What answers is no Jaeger, or one that is too old."""


class TooMuchError(JaegerError):
    """One answer is larger than what is read of one."""


class UnknownServiceError(JaegerError):
    """Jaeger has nothing of that service."""


@dataclass(frozen=True, slots=True)
class Window:
    """Spans that began in there, both ends included. ns since the epoch, whole microseconds."""

    start_ns: int
    end_ns: int
    min_duration_s: float = 0.0

    def parts(self, number: int) -> "list[Window]":
        """Return it cut in *number* of the same length, as far as microseconds go."""
        step = max((self.end_ns - self.start_ns) // number // _US * _US, _US)
        cuts = [*range(self.start_ns, self.end_ns, step)][:number]
        ends = [*cuts[1:], self.end_ns]
        return [Window(s, e, self.min_duration_s) for s, e in zip(cuts, ends, strict=True)]


@dataclass(slots=True)
class Found:
    """*incomplete*: why some may be missing, or empty. *narrowed*: whether stages that are not
    over ``Question.over_s`` were left out.
    """

    spans: list[Span] = field(default_factory=list)
    incomplete: str = ""
    narrowed: bool = False


class Jaeger:
    """One Jaeger, for the time of one command, asked by one thread.

    *url*: its address, without a slash at the end.

    Failure: every method raises ``JaegerError`` and nothing else.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self._getter = Getter(url)
        self._is_later = True  # the dialect; until it refuses
        self._most = MOST_TRACES
        self._deadline: float | None = None
        self.date = ""  # of its last answer

    # ---- asking

    def _get(self, path: str, params: Mapping[str, str]) -> Reply:
        if self._deadline is None:  # the first answer says whether there is a Jaeger at all
            deadline, self._deadline = in_seconds(HELLO_S), in_seconds(READ_S)
        else:
            deadline = min(in_seconds(ANSWER_S), self._deadline)
        try:
            reply = self._getter.get(path, params, deadline=deadline)
        except TimeoutError as error:
            raise UnreachableError(f"{self.url} does not answer in time") from error
        except ConnectionRefusedError as error:
            raise UnreachableError(f"nothing listens at {self.url}") from error
        except OSError as error:
            raise UnreachableError(f"{self.url} cannot be reached: {error}") from error
        except http.client.HTTPException as error:
            message = f"{self.url} does not speak HTTP ({type(error).__name__})"
            raise NotUnderstoodError(message) from error
        except TooLargeError as error:
            message = f"{self.url} answers with more than {REPLY_BYTES >> 20} MiB"
            raise TooMuchError(message) from error
        self.date = reply.date
        return reply

    def _good(self, reply: Reply) -> dict[str, Any]:
        """Return the object that a good reply holds."""
        if reply.status != 200:
            text = reply.body[:_TOLD_BYTES].decode("utf-8", "replace")
            told = " ".join("".join(c if c.isprintable() else " " for c in text).split())
            raise JaegerError(f"{self.url} answers HTTP {reply.status}: {told}")
        with contextlib.suppress(ValueError, RecursionError):
            parsed = json.loads(reply.body)
            if isinstance(parsed, dict):
                return parsed
        raise NotUnderstoodError(f"what answers at {self.url} is no Jaeger, or older than 2.13")

    def services(self) -> list[str]:
        """Return the names of the services it knows, sorted."""
        reply = self._get("/api/v3/services", {})
        if reply.status == 404:  # servers of other things; and Jaeger before it had this API
            reply = Reply(200, b"", reply.date)
        named = self._good(reply).get("services", [])
        return sorted(map(str, named)) if isinstance(named, list) else []

    def version(self) -> str:
        """Return its version where its front page says so, like ``2.13.0``; else empty."""
        found = re.search(rb'"gitVersion":"v?(\d[^"]*)"', self._get("/", {}).body)
        return "" if found is None else found[1].decode("ascii", "replace")

    def trace(self, trace_id: str) -> list[Span]:
        """Return the spans of one trace; none where it has none of it."""
        # raw: as they were sent, without Jaeger's "corrections" of clocks
        asked = {"raw_traces": "true"}
        return self._spans(self._get(f"/api/v3/traces/{trace_id}", asked))

    def _spans(self, reply: Reply) -> list[Span]:
        if reply.status == 404:
            return []
        try:
            return list(otlp_json.spans(self._good(reply)["result"]))
        except (ValueError, KeyError) as error:
            raise NotUnderstoodError(f"{self.url} answers what is no OTLP: {error}") from error

    # ---- a search

    def read(self, question: Question, *, keys: frozenset[str] = frozenset()) -> Found:
        """Return the spans of all traces in which *question* could find a row.

        What Jaeger can, it selects itself; what it cannot, ``late`` does. *keys*:
        attributes that are known to say on whose behalf; those that each service's
        newest trace names are added.
        """
        known = self.services()
        if question.service is not None and question.service not in known:
            there = ", ".join(known) or "none yet"
            message = f"{self.url} has no service {question.service!r}; it has: {there}"
            raise UnknownServiceError(message)
        found = Found()
        try:
            self._read(question, known, keys, found)
        except UnreachableError as error:
            if not found.spans:
                raise
            found.incomplete = str(error)
        return found

    def _read(
        self, question: Question, known: list[str], keys: frozenset[str], found: Found
    ) -> None:
        windows = _windows(question.since_ns, time.time_ns())
        pairs = {key: value for key, value in question.where if finds_the_same(key, value)}
        choices = [pairs] if pairs else []
        if question.who is not None and finds_the_same("", question.who):
            newest = [self._search(s, windows[-1], {}, most=1)[0] for s in known]
            told = {key for spans in newest for s in spans for key in s.resource.who}
            choices = [{key: question.who} for key in sorted(keys | told)]
        # Pairs stand on one span, which may be another one than the late stage: with pairs the
        # search is over all services and durations, and without them over those asked for.
        asked = [question.service] if question.service and not choices else known
        if question.over_s is not None and not choices:
            found.narrowed = True
        for window in windows:
            is_long = window.min_duration_s > 0
            for tags in choices if choices and not is_long else [{}]:
                over_s = (question.over_s or 0.0) if not choices else 0.0
                wanted = Window(window.start_ns, window.end_ns, max(window.min_duration_s, over_s))
                for service in known if is_long else asked:
                    self._all(service, wanted, tags, found)

    def _all(self, service: str, window: Window, tags: dict[str, str], found: Found) -> None:
        """Search *window*, and where it holds more than one answer can, its parts."""
        waiting = [window]
        while waiting:
            window = waiting.pop()
            try:
                spans, is_full = self._search(service, window, tags, most=self._most)
                found.spans += spans
            except TooMuchError:
                spans, is_full = [], True
            except JaegerError as error:
                # its memory storage refuses to be asked for more than it could hold
                if "search depth" not in str(error) or self._most == 1:
                    raise
                self._most //= 2
                waiting.append(window)
                continue
            if is_full and window.end_ns - window.start_ns > _US:
                waiting += window.parts(_parts(window, spans))
            elif is_full:
                found.incomplete = "more traces began in one microsecond than Jaeger gives at once"

    def _search(
        self, service: str, window: Window, tags: dict[str, str], *, most: int
    ) -> tuple[list[Span], bool]:
        """Return spans, and whether there may be more."""
        if self._is_later:
            reply = self._get("/api/v3/traces", _later(service, window, tags, most))
            if reply.status != 400:
                return _counted(self._spans(reply), most)
            self._is_later = False
        if not tags:
            reply = self._get("/api/v3/traces", _earlier(service, window, most))
            return _counted(self._spans(reply), most)
        ids = self._ids(service, window, tags, most)
        return [span for trace_id in ids for span in self.trace(trace_id)], len(ids) >= most

    def _ids(self, service: str, window: Window, tags: dict[str, str], most: int) -> list[str]:
        asked = {
            "service": service,
            "start": str(window.start_ns // _US),
            "end": str(window.end_ns // _US),
            "limit": str(most),
            "tags": json.dumps(tags),
        }
        traces = self._good(self._get("/api/traces", asked)).get("data") or []
        return [str(trace["traceID"]).rjust(32, "0") for trace in traces]


def _later(service: str, window: Window, tags: dict[str, str], most: int) -> dict[str, str]:
    asked = {
        "query.serviceName": service,
        "query.startTimeMin": _time(window.start_ns),
        "query.startTimeMax": _time(window.end_ns),
        "query.searchDepth": str(most),
        "query.rawTraces": "true",
    }
    if tags:
        asked["query.attributes"] = json.dumps(tags)
    if window.min_duration_s:
        asked["query.durationMin"] = _duration(window.min_duration_s)
    return asked


def _earlier(service: str, window: Window, most: int) -> dict[str, str]:
    asked = {
        "query.service_name": service,
        "query.start_time_min": _time(window.start_ns),
        "query.start_time_max": _time(window.end_ns),
        "query.num_traces": str(most),
        "query.raw_traces": "true",
    }
    if window.min_duration_s:
        asked["query.duration_min"] = _duration(window.min_duration_s)
    return asked


def _time(time_ns: int) -> str:
    return rfc3339(time_ns)  # whole microseconds: nothing is cut


def _duration(seconds: float) -> str:
    """Write a least duration as Go and protobuf's JSON both read it; cut, so that it finds more."""
    return f"{int(seconds * 1e6) / 1e6:.6f}s"


def _counted(spans: list[Span], most: int) -> tuple[list[Span], bool]:
    return spans, len({span.trace_id for span in spans}) >= most


def _windows(since_ns: int, now_ns: int) -> list[Window]:
    """Return when the spans began that ended since then.

    Jaeger searches by when a span began. Those that began shortly before are
    looked for as all others are; what began long before, and ended since, took long.
    """
    end = (now_ns + _AHEAD_NS) // _US * _US
    if not since_ns:
        return [Window((now_ns - _DAY_NS) // _US * _US, end)]
    near = (since_ns - _LONG_NS) // _US * _US
    far = (since_ns - _DAY_NS) // _US * _US
    return [Window(far, near, _LONG_NS / _S), Window(near, end)]


def _parts(window: Window, spans: list[Span]) -> int:
    """Return in how many parts to go on, by how much of the window one answer covered.

    A guess: Jaeger gives the newest first, as a rule. If it is wrong that costs time alone.
    """
    starts = [span.start_ns for span in spans]
    covered = max(max(starts) - min(starts), 1) if starts else 0
    wanted = 2 * (window.end_ns - window.start_ns) // covered if covered else 2
    return int(min(max(wanted, 2), _MOST_PARTS))


def newest(jaeger: Jaeger, back_s: float) -> Iterator[Found]:
    """Yield what ended within *back_s*, within ten times that, and so on up to a day."""
    now = time.time_ns()
    back = int(back_s * _S)
    while back < _DAY_NS:
        yield jaeger.read(Question(since_ns=now - back))
        back *= 10
    yield jaeger.read(Question())
