"""A small Jaeger on a real loopback socket: its query API, over spans that a test plants.

In: OTLP. Out: answers of the shape that Jaeger 2.13 gives [recorded], and of
the one that 2.19 and later are documented to give. Invariant: what it finds is
found as Jaeger's storages do: all that was asked on one and the same span, text
compared with text, whole traces, the newest first. Like its badger, it makes a
text of a list.

    with FakeJaeger() as jaeger:
        jaeger.plant(Planted(1, 0, "message", 0, 900), origin=...)
"""

import base64
import json
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from http.server import BaseHTTPRequestHandler
from typing import Any, Self
from urllib.parse import parse_qsl, urlsplit

from google.protobuf.json_format import MessageToDict
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from otel_logging import _names, _otlp
from tests.receiver import _Server
from tests.stored import SCOPE, Planted

Params = dict[str, str]
Answer = tuple[int, str, bytes]  # status, content type, body

_NOT_FOUND = {"error": {"httpCode": 404, "message": "No traces found"}}


class FakeJaeger:
    """Listens until ``stop()``. *later*: speaks the dialect of 2.19. Concurrency: any thread."""

    def __init__(self, *, later: bool = False, version: str = "2.13.0", port: int = 0) -> None:
        self.later = later
        self.version = version
        self.most_traces = 100_000  # more may not be asked for
        self.asked: list[tuple[str, Params]] = []
        #: Gives another answer: called with the path, returns one or None.
        self.instead: Callable[[str], Answer | None] = lambda _: None
        self._traces: dict[str, list[tuple[Any, Any, Any]]] = {}  # in order of arrival
        self._server = _Server(("127.0.0.1", port), _Handler, self)  # type: ignore[arg-type]
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        self._server.stop()

    # ---- what it holds

    def keep(self, request: bytes) -> None:
        """Take an ExportTraceServiceRequest."""
        for group in ExportTraceServiceRequest.FromString(request).resource_spans:
            for scoped in group.scope_spans:
                for span in scoped.spans:
                    held = self._traces.setdefault(span.trace_id.hex(), [])
                    held.append((group.resource, scoped.scope, span))

    def plant(
        self,
        *spans: Planted,
        origin: int,
        service: str = "chat-gateway",
        who: Sequence[str] | None = ("user_id",),
    ) -> None:
        """Take *spans* as a process of *service* sends them."""
        with_who = {} if who is None else {_names.WHO: list(who)}
        resource = _otlp.resource({"service.name": service, **with_who})
        self.keep(_otlp.request(resource, SCOPE, [span.encoded(origin) for span in spans]))

    # ---- what it answers

    def answer(self, path: str, params: Params) -> Answer:
        self.asked.append((path, params))
        other = self.instead(path)
        if other is not None:
            return other
        if path == "/api/v3/services":
            found = {_service(r) for held in self._traces.values() for r, _, _ in held}
            return _json(200, {"services": list(found)})
        if path.startswith("/api/v3/traces/"):
            return self._otlp([path.rpartition("/")[2]])
        if path == "/api/v3/traces":
            return self._search_later(params) if self.later else self._search_earlier(params)
        if path == "/api/traces":
            return self._search_oldest(params)
        told = json.dumps(
            {"gitVersion": self.version and f"v{self.version}"}, separators=(",", ":")
        )
        return 200, "text/html", f"<script>JAEGER_VERSION = {told};</script>".encode()

    def _search_later(self, params: Params) -> Answer:
        asked = {k.removeprefix("query."): v for k, v in params.items() if "_" not in k}
        if not {"startTimeMin", "startTimeMax"} <= set(asked):
            return _json(400, {"error": {"message": "a time range is required"}})
        return self._found(
            asked["serviceName"],
            _ns(asked["startTimeMin"]),
            _ns(asked["startTimeMax"]),
            asked.get("durationMin", "0s"),
            json.loads(asked.get("attributes", "{}")),
            int(asked["searchDepth"]),
        )

    def _search_earlier(self, params: Params) -> Answer:
        asked = {k.removeprefix("query."): v for k, v in params.items()}
        if not {"start_time_min", "start_time_max"} <= set(asked):
            message = "query.start_time_min and query.start_time_max are required"
            return _json(400, {"error": {"httpCode": 400, "message": message}})
        return self._found(
            asked["service_name"],
            _ns(asked["start_time_min"]),
            _ns(asked["start_time_max"]),
            asked.get("duration_min", "0s"),
            {},
            int(asked["num_traces"]),
        )

    def _search_oldest(self, params: Params) -> Answer:
        ids = self._ids(
            params["service"],
            int(params["start"]) * 1000,
            int(params["end"]) * 1000,
            0.0,
            json.loads(params.get("tags", "{}")),
        )
        data = [{"traceID": i, "spans": [], "processes": {}} for i in ids[: int(params["limit"])]]
        return _json(200, {"data": data, "total": 0, "limit": 0, "offset": 0, "errors": None})

    def _found(
        self, service: str, start: int, end: int, least: str, tags: Mapping[str, str], most: int
    ) -> Answer:
        if most > self.most_traces:
            message = "search depth must be greater than 0 and less than max traces"
            return _json(500, {"error": {"httpCode": 500, "message": message}})
        return self._otlp(self._ids(service, start, end, float(least[:-1]), tags)[:most])

    def _ids(
        self, service: str, start: int, end: int, least_s: float, tags: Mapping[str, str]
    ) -> list[str]:
        return [
            trace_id
            for trace_id, held in reversed(self._traces.items())
            if any(
                _service(resource) == service
                and start <= span.start_time_unix_nano <= end
                and span.end_time_unix_nano - span.start_time_unix_nano >= least_s * 1e9
                and all(_has(resource, span, key, value) for key, value in tags.items())
                for resource, _, span in held
            )
        ]

    def _otlp(self, ids: list[str]) -> Answer:
        groups = [
            {
                "resource": _plain(resource),
                "scopeSpans": [{"scope": _plain(scope), "spans": [_plain(span)]}],
            }
            for trace_id in ids
            for resource, scope, span in self._traces.get(trace_id, ())
        ]
        if not groups:
            return _json(404, _NOT_FOUND)
        return _json(200, {"result": {"resourceSpans": groups}})


class _Handler(BaseHTTPRequestHandler):
    server: Any

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        jaeger: FakeJaeger = self.server.receiver
        status, kind, body = jaeger.answer(parts.path, dict(parse_qsl(parts.query)))
        self.send_response_only(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass


def _json(status: int, value: object) -> Answer:
    return status, "application/json", json.dumps(value).encode()


def _ns(text: str) -> int:
    moment = datetime.fromisoformat(text)
    return int(moment.replace(microsecond=0).timestamp()) * 10**9 + moment.microsecond * 1000


def _service(resource: Any) -> str:
    return str(_otlp.values_of(resource.attributes).get("service.name", ""))


def _has(resource: Any, span: Any, key: str, wanted: str) -> bool:
    places = [resource.attributes, span.attributes, *(e.attributes for e in span.events)]
    return any(
        item.key == key and _as_text(_otlp.value_of(item.value)) == wanted
        for place in places
        for item in place
    )


def _as_text(value: Any) -> str:
    """As Go writes it."""
    if isinstance(value, (bool, list, dict)):
        return json.dumps(value, separators=(",", ":"))
    return f"{value:g}" if isinstance(value, float) else str(value)


def _plain(message: Any) -> Any:
    """Return OTLP's JSON of *message*, which is not protobuf's: ids in hex."""
    return _hex_ids(MessageToDict(message, use_integers_for_enums=True))


def _hex_ids(value: Any) -> Any:
    if isinstance(value, list):
        return [_hex_ids(item) for item in value]
    if not isinstance(value, dict):
        return value
    if "arrayValue" in value:
        items = [_any(item) for item in value["arrayValue"].get("values", [])]
        return {"stringValue": json.dumps(items, separators=(",", ":"))}
    ids = ("traceId", "spanId", "parentSpanId")
    return {k: base64.b64decode(v).hex() if k in ids else _hex_ids(v) for k, v in value.items()}


def _any(value: dict[str, Any]) -> Any:
    return next(iter(value.values()))
