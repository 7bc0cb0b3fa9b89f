"""The local store: the spans of every service and process whose spool is on this machine.

In: spool directories. Out: spans, read once. Invariant: what cannot be read is
left out and said on stderr, and never keeps the rest from being read. A span
may come twice (its segment was renamed meanwhile, or delivered again):
``trees.by_trace`` keeps one. Deliberately absent: selection.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path

from google.protobuf.message import DecodeError

from otel_logging import _spool, _trouble
from otel_logging.traces.spans import Span, decode


def read(bases: Iterable[Path]) -> list[Span]:
    """Return the spans below *bases*, waiting and delivered ones, in no order.

    Failure: never raises. Cost: 3 µs a span, its bytes in the disk cache.
    """
    found: list[Span] = []
    for base in bases:
        for contents in _spool.read(base):
            if contents.damaged:
                _trouble.report(_spool.DAMAGED, contents.damaged)
            found.extend(_decode(contents))
    return found


def _decode(contents: _spool.Contents) -> Iterator[Span]:
    spans = [encoded for _, encoded in contents.spans]
    try:
        yield from decode(contents.resource, contents.scope, spans)
    except DecodeError:
        # one span that is no OTLP would hide a thousand neighbours
        for encoded in spans:
            try:
                yield from decode(contents.resource, contents.scope, [encoded])
            except DecodeError as error:
                _trouble.report(_spool.DAMAGED, detail=error)
