"""What other processes have open, and what those that have died had open: each of these becomes a
span.

In: directories of the spool. Out: tables, and a segment of spans in the place of a dead process's
table. Deliberately absent: adopting (``spool``), drawing.
"""

import contextlib
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final

from otel_logging import _diagnostics, _names, _otlp
from otel_logging.lateness.blackbox import NAME, OpenStage, Table, read
from otel_logging.lateness.verdict import late_by
from otel_logging.spool import directories
from otel_logging.spool.open_file import is_held
from otel_logging.spool.process_dirs import write_file
from otel_logging.spool.segment import frame, header

_ERROR = 2  # OTLP's number of the status
_LAST_NS: Final = (1 << 64) - 1
_PATH: Final = re.compile(r"\(.*[\\/]")  # before the name of a step's file


def tables(bases: Iterable[Path]) -> Iterator[Table]:
    """Yield the table of each process below *bases* that runs.

    Failure: never raises; what cannot be read is left out.
    """
    for base in bases:
        for destination in directories.listed(base):
            for process_dir in directories.listed(destination):
                path = process_dir / NAME
                with contextlib.suppress(OSError):
                    table = read(path)
                    if os.name != "posix" or is_held(process_dir / "lock"):
                        yield table


def report_died(process_dir: Path) -> None:
    """Make spans of what a dead process had open, for delivery with what else it left.

    Never raises. What cannot be written is reported.
    """
    path = process_dir / NAME
    try:
        if not path.exists():
            return
        table = read(path)
        frames = [frame(*_span(stage, table)) for stage in table.stages]
        if frames:
            service = process_dir.parent.name.rpartition("-")[0]
            resource = table.resource or _otlp.resource({"service.name": service})
            segment = header(resource, _otlp.scope(_names.SCOPE)) + b"".join(frames)
            write_file(process_dir / f"000000{directories.SEALED}", segment)
    except OSError as error:
        _diagnostics.report("tables of a dead process's open stages lost", detail=error)
    finally:
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)


def _span(stage: OpenStage, table: Table) -> tuple[bytes, bytes]:
    open_ns = max(table.alive_ns - stage.began_ns, 1)
    end_ns = min(stage.start_ns + open_ns, _LAST_NS)  # of a damaged table it may be any number
    attributes: dict[str, Any] = {_names.PROCESS_DIED: True, **stage.who}
    over_s = late_by(open_ns / 1e9, stage.budget_s)
    if stage.budget_s is not None:
        attributes[_names.BUDGET] = stage.budget_s
    if over_s is not None:
        attributes |= {_names.LATE: True, _names.LATE_BY: round(over_s, 6)}
    events = []
    if stage.where:
        step, _, _ = stage.where.partition("\n")
        attributes[_names.LATE_WHERE] = _PATH.sub("(", step.rpartition("<locals>.")[2])
        events = [_otlp.event(end_ns, _names.LATE_WHERE, {_names.LATE_WHERE: stage.where})]
    trace_id = stage.trace_id.to_bytes(16, "big")
    encoded = _otlp.span(
        *(trace_id, stage.span_id, stage.parent_id, "", 1, stage.name, 1, stage.start_ns, end_ns),
        _otlp.attributes(b"\x4a", attributes),
        events,
        status=_ERROR,
        message=f"process {table.pid} died while this was open",
    )
    return trace_id, encoded
