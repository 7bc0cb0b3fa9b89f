"""The local store: the spans of every service and process with a spool on this machine.

What cannot be read is left out and reported on stderr; the rest is read.
A span may come twice (its segment was renamed meanwhile, or delivered again): ``trace.by_trace``
keeps one.
"""

from collections.abc import Iterable
from pathlib import Path

from google.protobuf.message import DecodeError

from otel_logging.spool import reading
from otel_logging.traces.span import Span, from_bytes, resource_from_bytes


def read(bases: Iterable[Path], *, of_others: bool = False) -> tuple[list[Span], bool]:
    """Return the spans below *bases*, waiting and delivered, in no order, and whether some were
    left out since they are damaged. *of_others*: also read directories of other users.

    Failure: never raises. Cost: 2 µs a span, its bytes in the disk cache.
    """
    found: list[Span] = []
    damaged, detail = list[int](), ""  # for each damaged segment, how many spans it lost at least
    for base in bases:
        for contents in reading.read(base, of_others=of_others):
            lost = contents.damaged
            for _, encoded in contents.spans:
                try:
                    found.append(from_bytes(encoded, resource_from_bytes(contents.resource)))
                except DecodeError as error:  # another program wrote it
                    lost, detail = lost + 1, str(error)
            damaged += [lost] if lost else []
    reading.report_damaged(damaged, "spans", detail)
    return found, bool(damaged)
