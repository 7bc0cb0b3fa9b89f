"""Jaeger: the spans of every service that delivers to it, asked for over its query API.

In: the address of Jaeger, a trace id, or a service and a window of time. Out:
spans. Invariant: whatever Jaeger does, an answer or a ``JaegerError`` is there
within a bounded time. Deliberately absent: what to ask (``search``).

Two dialects are spoken [2.13 seen; the later one as documented], and told apart
by the answer: Jaeger up to 2.18 refuses the later one's names with 400. The
first searches by attributes in an older API alone, whose times are cut to
microseconds, so the ids are taken from there and the traces from the newer one.
"""

import contextlib
import http.client
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from otel_logging.traces import otlp_json
from otel_logging.traces.http_get import (
    REPLY_BYTES,
    Getter,
    Reply,
    TooLargeError,
    in_seconds,
)
from otel_logging.traces.spans import Span, rfc3339

HELLO_S: Final = 2.0  # for its first answer: who waits longer has no use for it at 3 a.m.
ANSWER_S: Final = 15.0  # for each later one
READ_S: Final = 60.0  # for all [run: 100,000 spans in 25 s, from one service, on two busy cores]
_US: Final = 1_000  # ns; Jaeger's storages compare microseconds
_TOLD_BYTES: Final = 300


class JaegerError(Exception):
    """What keeps Jaeger from answering, in plain words."""


class UnreachableError(JaegerError):
    """Nothing answers there."""


class NotUnderstoodError(JaegerError):
    """What answers is no Jaeger, or one that is too old."""


class NotLetInError(JaegerError):
    """Something before Jaeger sends us elsewhere, or wants to know who we are."""


class TooMuchError(JaegerError):
    """One answer is larger than what is read of one."""


class TooDeepError(JaegerError):
    """More traces were asked for than its memory storage could ever hold."""


class UnknownServiceError(JaegerError):
    """Jaeger has nothing of that service."""


@dataclass(frozen=True, slots=True)
class Window:
    """Spans that began in there, both ends included. ns since the epoch, whole microseconds."""

    start_ns: int
    end_ns: int
    min_duration_s: float = 0.0

    def at_least(self, min_duration_s: float) -> "Window":
        """Return it for spans that took at least so long."""
        return replace(self, min_duration_s=min_duration_s)

    def parts(self, number: int) -> "list[Window]":
        """Return it cut in *number* of the same length, as far as microseconds go."""
        step = max((self.end_ns - self.start_ns) // number // _US * _US, _US)
        cuts = [*range(self.start_ns, self.end_ns, step)][:number]
        ends = [*cuts[1:], self.end_ns]
        return [Window(s, e, self.min_duration_s) for s, e in zip(cuts, ends, strict=True)]


class Jaeger:
    """One Jaeger, for the time of one command, asked by one thread.

    *url*: its address, without a slash at the end. *read_s*: for all its answers.

    Failure: every method raises ``JaegerError`` and nothing else.
    """

    def __init__(self, url: str, *, read_s: float = READ_S) -> None:
        self.url = url
        self._read_s = read_s
        self._getter = Getter(url)
        self._is_later = True  # the dialect; until it refuses
        self._deadline: float | None = None
        self.date = ""  # of its last answer
        self.left_out: set[str] = set()  # ids of spans that are no OTLP

    # ---- asking

    def _get(self, path: str, params: Mapping[str, str]) -> Reply:
        if self._deadline is None:  # the first answer says whether there is a Jaeger at all
            deadline, self._deadline = in_seconds(HELLO_S), in_seconds(self._read_s)
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

    def _good(self, reply: Reply) -> list[dict[str, Any]]:
        """Return the objects that a good reply holds: one, or more where it was streamed."""
        if reply.status != 200:
            told = _on_a_line(reply.body[:_TOLD_BYTES].decode("utf-8", "replace"))
            if reply.status in (401, 403):
                raise NotLetInError(
                    f"{self.url} lets nobody in: HTTP {reply.status} {told}".rstrip()
                )
            if 300 <= reply.status < 400:
                elsewhere = _on_a_line(reply.location[:_TOLD_BYTES])
                raise NotLetInError(f"{self.url} sends us elsewhere: to {elsewhere or 'nowhere'}")
            kind = TooDeepError if "search depth" in told else JaegerError
            raise kind(f"{self.url} answers HTTP {reply.status}: {told}")
        with contextlib.suppress(ValueError, RecursionError):
            parsed = list(_documents(reply.body.decode()))
            if parsed and all(isinstance(one, dict) for one in parsed):
                return parsed
        raise NotUnderstoodError(f"what answers at {self.url} is no Jaeger, or older than 2.13")

    def services(self) -> list[str]:
        """Return the names of the services it knows, sorted."""
        reply = self._get("/api/v3/services", {})
        if reply.status == 404:  # servers of other things; and Jaeger before it had this API
            reply = Reply(200, b"", reply.date)
        told = self._good(reply)[0]
        named = told.get("services") if told else []  # {}: its memory storage, as long as empty
        if not isinstance(named, list):
            raise NotUnderstoodError(f"what answers at {self.url} is no Jaeger")
        return sorted(map(str, named))

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
            return [
                span
                for one in self._good(reply)
                for span in otlp_json.spans(one["result"], left_out=self.left_out)
            ]
        except (ValueError, KeyError) as error:
            raise NotUnderstoodError(f"{self.url} answers what is no OTLP: {error}") from error

    # ---- a search

    def search(
        self, service: str, window: Window, tags: dict[str, str], *, most: int
    ) -> tuple[list[Span], bool]:
        """Return the spans of at most so many traces that have a span of *service* in *window*
        with all *tags*; and whether there may be more traces.
        """
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
        traces = self._good(self._get("/api/traces", asked))[0].get("data") or []
        try:
            return [_hex_id(trace["traceID"]) for trace in traces]
        except (KeyError, TypeError, ValueError) as error:
            raise NotUnderstoodError(f"{self.url} answers what is no trace: {error}") from error


def _on_a_line(text: str) -> str:
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def _hex_id(given: str) -> str:
    """Return an id in full; it becomes a part of a path."""
    if not re.fullmatch("[0-9a-f]{1,32}", given):
        raise ValueError(f"the id {given[:40]!r}")
    return given.rjust(32, "0")


def _documents(text: str) -> Iterator[Any]:
    """Yield the JSON values of *text*, one after another."""
    decoder, at = json.JSONDecoder(), 0
    while text := text[at:].lstrip():
        value, at = decoder.raw_decode(text)
        yield value


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
