"""The rows of ``late`` as a table: two lines each, what it was and where the time went.

In: an ``Answer`` and a width. Out: lines of text. Invariant: it is called
"late" only if a budget or ``--over`` defined what late is. Deliberately
absent: the question.
"""

from collections.abc import Iterator
from datetime import datetime
from typing import Final

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from otel_logging._text import visible
from otel_logging.traces.draw.terminal import (
    NO_LINKS,
    Links,
    cell,
    duration,
    local_time,
    shown,
)
from otel_logging.traces.late import Answer, Row, Step

_GAP: Final = "  "
_WHO_MOST: Final = 24  # columns
_LEAST_PATH: Final = 40  # columns: in less there is hardly one stage and its time
_NARROW: Final = 72  # columns: in less the year and milliseconds leave no room for the stage


def draw(
    answer: Answer, *, width: int, links: Links = NO_LINKS, narrowed: bool = False
) -> Iterator[Text]:
    """Yield the table line by line, to be cut to *width* columns (``terminal.show``).

    *narrowed*: not all stages that are not late were looked at, so they are not counted.
    """
    yield _title(answer, narrowed=narrowed)
    if not answer.rows:
        return
    yield Text()
    heading, *stages = Console(width=width).render_lines(_stages(answer, width), pad=False)
    for row, line in zip((None, *answer.rows), (heading, *stages), strict=True):
        yield Text.assemble(*((part.text, part.style or "") for part in line))
        if row is not None:
            yield from _path_and_trace(row, width, links)
            yield from links.below(row.span.trace_id, row.span.span_id, _GAP)
    left_out = answer.found - len(answer.rows)
    if left_out:
        yield Text(f"and {left_out} more: --limit {answer.found}", "dim")


def _title(answer: Answer, *, narrowed: bool) -> Text:
    looked_at = f"{answer.looked_at} stage" + "s" * (answer.looked_at != 1)
    of_all = "" if narrowed else f" of {looked_at}"
    if answer.judged and answer.found:
        return Text.assemble(("late", "bold"), f" · {answer.found}{of_all}")
    if answer.judged:
        return Text(f"none late{of_all}")
    if answer.looked_at:
        return Text.assemble(("slowest", "bold"), f" · {looked_at}, none with a budget")
    return Text("no stage matches")


def _stages(answer: Answer, width: int) -> Table:
    """Return the first line of each row; the longest texts are cut until they fit."""
    table = Table(box=None, padding=(0, len(_GAP), 0, 0), header_style="dim", pad_edge=False)
    table.add_column("when", no_wrap=True)
    table.add_column("took", no_wrap=True, justify="right")
    if answer.judged:
        table.add_column("late by", no_wrap=True, justify="right")
    table.add_column("who", max_width=_WHO_MOST)
    table.add_column("stage")
    days = {local_time(row.span.start_ns).date() for row in answer.rows}
    date = "%m-%d " if width < _NARROW else "%Y-%m-%d "
    pattern = ("" if days <= {datetime.now().astimezone().date()} else date) + "%H:%M:%S.%f"
    dropped = len(".123456" if width < _NARROW else "456")
    one_service = len({row.span.resource.service for row in answer.rows}) == 1
    for row in answer.rows:
        stage = Text(visible(row.span.name), "bold", no_wrap=True, overflow="ellipsis")
        if not one_service:
            stage.append(f" @{visible(row.span.resource.service)}", "not bold dim")
        late_by = "" if row.late_by_s is None else duration(row.late_by_s)
        who = ", ".join(shown(value) for value in row.who.values()) or "-"
        table.add_row(
            local_time(row.span.start_ns).strftime(pattern)[:-dropped],
            duration(row.span.duration_s),
            *([Text(late_by, "yellow")] if answer.judged else ()),
            Text(who, no_wrap=True, overflow="ellipsis"),
            stage,
        )
    return table


def _path_and_trace(row: Row, width: int, links: Links) -> Iterator[Text]:
    """Yield the path below the stage, and the trace's id at the right end, or below it."""
    trace_id = row.span.trace_id
    room = width - 2 * len(_GAP) - len(trace_id)
    trace = links.mark(Text(trace_id, "dim"), trace_id, row.span.span_id)
    inner = row.path[1:]
    if inner and room < _LEAST_PATH:
        yield Text(_GAP + _path(inner, width - len(_GAP)))
        yield Text(_GAP).append(trace)
    else:
        path = cell(Text(_path(inner, room - len(_GAP))), max(room, 0))
        yield Text.assemble(_GAP, path, _GAP, trace)


def _path(steps: list[Step], room: int) -> str:
    """Return the path; if it is too long, without those in the middle: the innermost counts."""
    parts = [f"{visible(step.stage)} {duration(step.took_s)}" for step in steps]
    kept = list(parts)
    while len(kept) > 1 and cell_len(_chain(kept)) > room:
        kept = ["…", *kept[2 if kept[0] == "…" else 1 :]]
    return _chain(kept)


def _chain(parts: list[str]) -> str:
    return f"└ {' → '.join(parts)}" if parts else ""
