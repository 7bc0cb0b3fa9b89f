"""Jaeger, asked over HTTP as its UI and its API's users ask; knows nothing of the package.

In: ids and what to search for. Out: spans as plain data, in the shape of ``told``.
"""

import json
import urllib.error
import urllib.parse
import urllib.request
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from otel_logging.traces import local
from otel_logging.traces.span import Span

_KINDS = ("unspecified", "internal", "server", "client", "producer", "consumer")
_STATUSES = ("unset", "ok", "error")

#: trace id -> its spans, by start and id
Traces = dict[str, list[dict[str, Any]]]


def stored(spool_dir: Path) -> Traces:
    """Return every trace of the local store: what Jaeger has to have, exactly."""
    found: dict[tuple[str, str], Span] = {}
    for span in local.read([spool_dir])[0]:
        found[span.trace_id, span.span_id] = span
    traces: Traces = {}
    for span in found.values():
        traces.setdefault(span.trace_id, []).append(
            {
                "span_id": span.span_id,
                "parent_span_id": span.parent_span_id,
                "service": span.resource.service,
                "name": span.name,
                "kind": span.details.kind,
                "status": span.details.status,
                "start_ns": span.start_ns,
                "end_ns": span.end_ns,
                "attributes": _as_there(span.attributes),
                "events": [(e.time_ns, e.name, _as_there(e.attributes)) for e in span.events],
            }
        )
    return {trace_id: _sorted(spans) for trace_id, spans in traces.items()}


def _as_there(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return *fields* as Jaeger has them: of a list it makes JSON in a text."""
    return {
        key: json.dumps(value, separators=(",", ":")) if isinstance(value, list) else value
        for key, value in fields.items()
    }


class Jaeger:
    """The query API at *url*."""

    def __init__(self, url: str) -> None:
        self.url = url

    def _get(self, path: str, **query: str) -> Any:
        """Return the answer's JSON, or None where there is nothing (yet)."""
        url = f"{self.url}{path}?{urllib.parse.urlencode(query)}"
        try:
            with urllib.request.urlopen(url, timeout=30) as response:
                return json.load(response)
        except urllib.error.HTTPError as error:
            with error:
                if error.code == 404:
                    return None
                raise AssertionError(f"{url}: {error.code} {error.read()!r}") from error

    def trace(self, trace_id: str) -> list[dict[str, Any]]:
        """Return the trace as ``/api/v3/traces/{id}`` has it; empty where there is none."""
        answer = self._get(f"/api/v3/traces/{trace_id}") or {"result": {}}
        return _sorted(
            _told(span, resource)
            for resource in answer["result"].get("resourceSpans", ())
            for scope in resource["scopeSpans"]
            for span in scope["spans"]
        )

    def services(self) -> set[str]:
        return set(self._get("/api/services")["data"])

    def missing(self, wanted: Traces) -> dict[str, list[dict[str, Any]]]:
        """Return those of *wanted* that are not, or not whole, in Jaeger."""
        return {
            trace_id: spans
            for trace_id, spans in wanted.items()
            if Counter(s["span_id"] for s in self.trace(trace_id))
            != Counter(s["span_id"] for s in spans)
        }

    def shown(self, trace_id: str) -> dict[str, Any]:
        """Return what the UI draws a trace from."""
        (trace,) = self._get(f"/api/traces/{trace_id}")["data"]
        return dict(trace)

    def search(
        self,
        service: str,
        tags: Mapping[str, str],
        *,
        operation: str | None = None,
        min_duration_s: float | None = None,
    ) -> set[str]:
        """Return the ids of the traces that the UI's search finds."""
        query = {"service": service, "tags": json.dumps(tags), "limit": "1500", "lookback": "1h"}
        if operation is not None:
            query["operation"] = operation
        if min_duration_s is not None:
            query["minDuration"] = f"{min_duration_s * 1000:.0f}ms"
        answer = self._get("/api/traces", **query)
        return {trace["traceID"] for trace in answer["data"]}


def _sorted(spans: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    return sorted(spans, key=lambda span: (span["start_ns"], span["span_id"]))


def _told(span: Mapping[str, Any], resource: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "span_id": span["spanId"],
        "parent_span_id": span.get("parentSpanId", ""),
        "service": values(resource["resource"]["attributes"])["service.name"],
        "name": span["name"],
        "kind": _KINDS[span.get("kind", 0)],
        "status": _STATUSES[span.get("status", {}).get("code", 0)],
        "start_ns": int(span["startTimeUnixNano"]),
        "end_ns": int(span["endTimeUnixNano"]),
        "attributes": values(span.get("attributes", ())),
        "events": sorted(  # it has them by their names
            [
                (int(e["timeUnixNano"]), e.get("name", ""), values(e.get("attributes", ())))
                for e in span.get("events", ())
            ],
            key=lambda event: event[0],
        ),
    }


def values(attributes: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Return OTLP JSON's key-value pairs as a dictionary; a key that comes twice fails."""
    pairs = [(item["key"], value(item["value"])) for item in attributes]
    assert len(dict(pairs)) == len(pairs), pairs
    return dict(pairs)


def value(wrapped: Mapping[str, Any]) -> Any:
    """Return what OTLP's JSON has wrapped in the name of its type."""
    ((kind, inner),) = wrapped.items() or (("stringValue", ""),)
    match kind:
        case "intValue":
            return int(inner)
        case "arrayValue":
            return [value(item) for item in inner.get("values", ())]
        case "kvlistValue":
            return values(inner.get("values", ()))
    return inner
