"""A local store with what a test says, written by the package's own spool.

Span ids are small numbers, so that whole traces can be written down as data.
Times are milliseconds after ``NOON``.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from otel_logging import _names, _otlp
from otel_logging.spool import directories, queue
from otel_logging.traces import local
from otel_logging.traces.span import Span
from otel_logging.traces.trace import Trace, by_trace

NOON = 1_700_000_000_000_000_000  # 2023-11-14T22:13:20Z, ns since the epoch
MS = 1_000_000
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
SCOPE = _otlp.scope(_names.SCOPE)


def line(at: float, message: str, level: str = "info", **values: Any) -> tuple[float, str, dict]:
    """A log line: *at* in ms."""
    return at, message, {"level": level, "logger": "chat", **values}


@dataclass(frozen=True)
class Planted:
    """A span to be. *start*, *end* and the first of each of *events*: ms after NOON."""

    span: int
    parent: int
    name: str
    start: float
    end: float
    attributes: Mapping[str, Any] = field(default_factory=dict)
    events: Sequence[tuple[float, str, Mapping[str, Any]]] = ()
    links: Sequence[tuple[str, int]] = ()
    status: int = 0
    message: str = ""
    kind: int = 1
    flags: int = 0x101  # sampled, the parent is local
    trace: str = TRACE

    def encoded(self, origin: int) -> bytes:
        return _otlp.span(
            trace_id=bytes.fromhex(self.trace),
            span_id=self.span,
            parent_span_id=self.parent,
            trace_state="",
            flags=self.flags,
            name=self.name,
            kind=self.kind,
            start_ns=origin + round(self.start * MS),
            end_ns=origin + round(self.end * MS),
            values=self.attributes,
            dropped=(0, 0, 0),
            events=[_otlp.event(origin + round(t * MS), n, v) for t, n, v in self.events],
            links=[_otlp.link(int(t, 16), s, "", 1, {"why": "asked"}) for t, s in self.links],
            status=self.status,
            message=self.message,
        )


def store(
    base: Path,
    *spans: Planted,
    service: str = "chat-gateway",
    who: Sequence[str] | None = ("user_id",),
    origin: int = NOON,
    host: str | None = None,
) -> Path:
    """Write *spans* as one process of *service* on *host* does, and return *base*."""
    with_who = {} if who is None else {_names.WHO: list(who)}
    spool = open_spool(base, service, with_who if host is None else {**with_who, "host.name": host})
    for span in spans:
        spool.append(SCOPE, bytes.fromhex(span.trace), span.encoded(origin))
    spool.close()
    return base


def read_back(base: Path, *spans: Planted, **options: Any) -> list[Span]:
    """Write *spans* and read what the store holds now."""
    return local.read([store(base, *spans, **options)])[0]


def trace_of(base: Path, *spans: Planted, **options: Any) -> Trace:
    """Write *spans* and return the one trace that the store holds now."""
    (trace,) = by_trace(read_back(base, *spans, **options)).values()
    return trace


def open_spool(base: Path, service: str, values: Mapping[str, Any]) -> queue.Spool:
    """Return the spool of a process of *service*."""
    resource = _otlp.resource({"service.name": service, **values})
    destination = directories.destination(service, "http://127.0.0.1:1", "http/protobuf")
    return queue.Spool(base, destination, resource, bytes_bound=64 << 20, hours=24.0)
