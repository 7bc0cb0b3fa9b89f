"""Jaeger: the spans of every service that delivers to it, read over its query API.

Whatever Jaeger does, there is an answer or a ``JaegerError`` within a bounded time.

There are two dialects [2.13 was tried; the later one is as documented]. A Jaeger up to 2.18
refuses the later dialect's names with 400. In the earlier dialect only an older API searches by
attributes. That API cuts times to microseconds, so only ids are taken from it.
"""

import json
import re
import reprlib
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlencode, urlsplit

from otel_logging._http import HttpClient, NotHttpError, Response, make_tls
from otel_logging._text import one_line, rfc3339
from otel_logging.traces.span import INVALID, Resource, Span, from_json, id_of, resource_from_json

HELLO_S: Final = 2.0  # for its first answer: who waits longer has no use for it at 3 a.m.
ANSWER_S: Final = 15.0  # for each later one
READ_S: Final = 60.0  # for all
#: Of one answer. 1,500 traces, each of twenty spans and twenty lines, take half of it.
REPLY_BYTES: Final = 64 << 20
_START: Final = re.compile(r"\S")  # of the next value
US: Final = 1_000  # ns; Jaeger's storages compare microseconds

#: Parameters of a search: service, start, end, most traces, raw, least duration.
_EARLIER: Final = (
    *("service_name", "start_time_min", "start_time_max", "num_traces", "raw_traces"),
    "duration_min",
)
_LATER: Final = (
    *("serviceName", "startTimeMin", "startTimeMax", "searchDepth", "rawTraces"),
    "durationMin",
)


class JaegerError(Exception):
    """What keeps Jaeger from answering, in plain words."""


class UnreachableError(JaegerError):
    """Nothing answers there."""


class NotUnderstoodError(JaegerError):
    """The server is not Jaeger, or too old; or something before it wants a login."""


class TooMuchError(JaegerError):
    """One answer is larger than ``REPLY_BYTES``."""


class UnknownServiceError(JaegerError):
    """Jaeger has nothing of that service."""


@dataclass(frozen=True, slots=True)
class Window:
    """Spans that began in this time, both ends included. ns since the epoch, whole microseconds."""

    start_ns: int
    end_ns: int
    min_duration_s: float = 0.0


def in_seconds(seconds: float) -> float:
    """Return the time (monotonic) in so many seconds."""
    return time.monotonic() + seconds


class Jaeger:
    """One Jaeger, for the time of one command, asked by one thread.

    *url*: its address, without a slash at the end.

    Failure: every method raises ``JaegerError`` and nothing else.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self._answer_s = ANSWER_S
        parts = urlsplit(url)
        tls = make_tls() if parts.scheme == "https" else None
        self._base_path = parts.path
        self._client = HttpClient(url, tls, most_bytes=REPLY_BYTES)
        self._names = _LATER  # until Jaeger refuses these
        self._deadline: float | None = None
        self._services: list[str] | None = None
        self.left_out: set[str] = set()  # ids of spans that are not OTLP

    # ---- asking

    def hurry(self, answer_s: float, read_s: float) -> None:
        """Give Jaeger so many seconds from now on: for each answer, and for all together."""
        self._answer_s, self._deadline = answer_s, in_seconds(read_s)

    def _get(self, path: str, params: Mapping[str, str]) -> Response:
        if self._deadline is None:  # the first answer shows whether there is a Jaeger at all
            deadline, self._deadline = in_seconds(HELLO_S), in_seconds(READ_S)
        else:
            deadline = min(in_seconds(self._answer_s), self._deadline)
        target = self._base_path + path + (f"?{urlencode(params)}" if params else "")
        # Jaeger keeps no connection open
        headers = {"user-agent": "otel-logging", "connection": "close"}
        try:
            response = self._client.request("GET", target, headers, deadline=deadline)
            if response.is_too_large:  # what was read may look like a whole answer
                message = f"{self.url} answers with more than {REPLY_BYTES >> 20} MiB"
                raise TooMuchError(message)
            if response.error is not None:
                raise response.error
        except TimeoutError as error:
            raise UnreachableError(f"{self.url} does not answer in time") from error
        except ConnectionRefusedError as error:
            raise UnreachableError(f"nothing listens at {self.url}") from error
        except NotHttpError as error:
            raise NotUnderstoodError(f"{self.url} does not speak HTTP ({error})") from error
        except OSError as error:
            raise UnreachableError(f"{self.url} cannot be reached: {error}") from error
        return response

    def _objects(self, reply: Response) -> list[dict[str, Any]]:
        """Return the JSON objects of a good reply: one, or more where it was streamed."""
        status, text = reply.status, one_line(reply.body)
        if status in (401, 403):
            raise NotUnderstoodError(f"{self.url} lets nobody in: HTTP {status} {text}".rstrip())
        if 300 <= status < 400:
            elsewhere = one_line(reply.headers.get("location", "")) or "nowhere"
            raise NotUnderstoodError(f"{self.url} sends us elsewhere: to {elsewhere}")
        if status not in (200, 404):
            raise JaegerError(f"{self.url} answers HTTP {status}: {text}")
        try:  # 404: another server, or a Jaeger from before this API
            parsed = list(_documents(reply.body.decode())) if status == 200 else []
        except (ValueError, RecursionError):
            parsed = []
        if not parsed or not all(isinstance(one, dict) for one in parsed):
            raise NotUnderstoodError(f"{self.url} is not Jaeger, or older than 2.13")
        return parsed

    def services(self) -> list[str]:
        """Return the names of the services that Jaeger knows, sorted. Jaeger is asked once."""
        if self._services is not None:
            return self._services
        answer = self._objects(self._get("/api/v3/services", {}))[0]
        names = answer.get("services") or []  # an empty memory storage leaves the key out
        if set(answer) - {"services"} or not isinstance(names, list):
            raise NotUnderstoodError(f"{self.url} is not Jaeger")
        self._services = sorted(map(str, names))
        return self._services

    def version(self) -> str:
        """Return Jaeger's version, as ``2.13.0``, if its front page says it; else an empty text."""
        found = re.search(rb'"gitVersion":"v?(\d[^"]*)"', self._get("/", {}).body)
        return "" if found is None else found[1].decode("ascii", "replace")

    def trace(self, trace_id: str) -> list[Span]:
        """Return the spans of one trace; none if Jaeger has nothing of it."""
        # raw: spans as they were sent, without Jaeger's "corrections" of clocks
        return self._spans(self._get(f"/api/v3/traces/{trace_id}", {"raw_traces": "true"}))

    def search(
        self, service: str, window: Window, tags: Mapping[str, str], *, most: int
    ) -> tuple[list[Span], bool]:
        """Return the spans of at most so many traces that have a span of *service* in *window*
        with all *tags*; and whether there may be more traces.
        """
        if tags and self._names is _EARLIER:
            ids = self._ids(service, window, tags, most)
            return [span for trace_id in ids for span in self.trace(trace_id)], len(ids) >= most
        least = window.min_duration_s  # cut to microseconds: that finds more, never less
        values = (
            *(service, rfc3339(window.start_ns), rfc3339(window.end_ns), str(most), "true"),
            f"{int(least * 1e6) / 1e6:.6f}s" if least else "",
        )
        asked = {f"query.{k}": v for k, v in zip(self._names, values, strict=True) if v}
        if tags:
            asked["query.attributes"] = json.dumps(tags)
        reply = self._get("/api/v3/traces", asked)
        if reply.status == 400 and self._names is _LATER:
            self._names = _EARLIER
            return self.search(service, window, tags, most=most)
        spans = self._spans(reply)
        return spans, len({span.trace_id for span in spans}) >= most

    def _ids(self, service: str, window: Window, tags: Mapping[str, str], most: int) -> list[str]:
        asked = {
            "service": service,
            "start": str(window.start_ns // US),
            "end": str(window.end_ns // US),
            "limit": str(most),
            "tags": json.dumps(tags),
        }
        traces = self._objects(self._get("/api/traces", asked))[0].get("data") or []
        try:
            return [id_of(trace["traceID"], 32) for trace in traces]
        except INVALID as error:
            message = f"{self.url} answers with something other than traces"
            raise NotUnderstoodError(message) from error

    # ---- reading

    def _spans(self, reply: Response) -> list[Span]:
        if reply.status == 404:
            return []
        try:
            return [s for one in self._objects(reply) for s in self._valid(one["result"])]
        except INVALID as error:
            message = f"{self.url} answers with something other than OTLP"
            raise NotUnderstoodError(f"{message}: {type(error).__name__}") from error

    def _valid(self, traces_data: Mapping[str, Any]) -> Iterator[Span]:
        """Yield the spans. Those that are not OTLP are left out: one must not hide the others."""
        for group in traces_data.get("resourceSpans", ()):
            resource: Resource | None = None
            for span in (
                s for scope in group.get("scopeSpans", ()) for s in scope.get("spans", ())
            ):
                try:
                    resource = resource or resource_from_json(group.get("resource", {}))
                    yield from_json(span, resource)
                except INVALID:
                    self.left_out.add(reprlib.repr((span.get("traceId"), span.get("spanId"))))


def _documents(text: str) -> Iterator[Any]:
    """Yield the JSON values of *text*, one after another; ``NaN`` is text, as in OTLP."""
    decoder, at = json.JSONDecoder(parse_constant=str), 0
    while found := _START.search(text, at):
        value, at = decoder.raw_decode(text, found.start())
        yield value
