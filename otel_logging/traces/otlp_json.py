"""Segments as OTLP in JSON: what a collector's ``otlpjsonfile`` receiver and Jaeger's page take.

In: segments of spans, or of log records. Out: requests as plain data, one a segment. Invariant:
ids are hex, enums numbers, and no secret is in it, whoever wrote the segment.
"""

import base64
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import Any, Final

from google.protobuf.json_format import MessageToDict
from google.protobuf.message import DecodeError
from opentelemetry.proto.logs.v1.logs_pb2 import LogsData
from opentelemetry.proto.trace.v1.trace_pb2 import TracesData

from otel_logging import _otlp, _runtime
from otel_logging.spool import reading
from otel_logging.spool.segment import Contents

_IDS: Final = frozenset({"traceId", "spanId", "parentSpanId"})
_TEXTS: Final = frozenset({"name", "message", "stringValue", "traceState"})


def requests(segments: Iterable[Contents], *, of_logs: bool = False) -> Iterator[dict[str, Any]]:
    """Yield the requests in which *segments* would be sent. Failure: never raises; what is damaged
    is left out and reported.
    """
    kind: Any = LogsData if of_logs else TracesData
    noun = "log records" if of_logs else "spans"
    damaged = list[int]()
    for contents in segments:
        spans = [span for _, span in contents.spans]
        valid = [span for span in spans if _decoded(kind, contents, span)]  # it hides no other
        lost = contents.damaged + len(spans) - len(valid)
        damaged += [lost] if lost else []
        if valid:
            whole = _decoded(kind, contents, *valid)
            yield _plain(MessageToDict(whole, use_integers_for_enums=True))
    reading.report_damaged(damaged, noun)


def _decoded(kind: Any, contents: Contents, *spans: bytes) -> Any:
    """Return the decoded message; None if it is not valid."""
    with suppress(DecodeError):
        return kind.FromString(_otlp.request(contents.resource, contents.scope, spans))
    return None


def _plain(value: Any) -> Any:
    if isinstance(value, list):
        return [_plain(each) for each in value]
    if not isinstance(value, dict):
        return value
    redaction = _runtime.current.redaction
    made: dict[str, Any] = {}
    for key, each in value.items():
        if key in _IDS:
            made[key] = base64.b64decode(each).hex()
        elif key in _TEXTS:
            made[key] = redaction.text(each)
        else:
            made[key] = _plain(each)
    if "key" in made and "stringValue" in made.get("value", ()):  # an attribute
        name, value = made["key"], made["value"]
        value["stringValue"] = redaction.field(name, value["stringValue"])
    return made
