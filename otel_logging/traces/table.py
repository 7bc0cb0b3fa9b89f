"""The rows of ``late`` as a table: two lines each, what it was and where the time went.

In: an ``Answer`` and a width. Out: lines of text. Invariant: it is called
"late" only where a budget or ``--over`` said what late is. Deliberately
absent: the question.
"""

from collections.abc import Iterator
from datetime import datetime
from typing import Final

from rich.cells import cell_len
from rich.text import Text

from otel_logging.traces.late import Answer, Row, Step
from otel_logging.traces.terminal import (
    NO_LINKS,
    Links,
    cell,
    duration,
    local_time,
    shown,
    visible,
)

_GAP: Final = "  "
_WHO_MOST: Final = 24  # columns
_LEAST_PATH: Final = 40  # columns: in less there is hardly one stage and its time


def draw(
    answer: Answer, *, width: int, links: Links = NO_LINKS, narrowed: bool = False
) -> Iterator[Text]:
    """Yield the table line by line, to be cut to *width* columns (``terminal.show``).

    *narrowed*: not all stages that are not late were looked at, so how many there are is not said.
    """
    yield _title(answer, narrowed=narrowed)
    if not answer.rows:
        return
    yield Text()
    columns = _Columns(answer, width)
    yield columns.heading()
    for row in answer.rows:
        yield columns.what(row)
        yield from columns.where(row, links)
        yield from links.below(row.trace_id, row.span_id, _GAP)
    left_out = answer.found - len(answer.rows)
    if left_out:
        yield Text(f"and {left_out} more: --limit {answer.found}", "dim")


def _title(answer: Answer, *, narrowed: bool) -> Text:
    looked_at = f"{answer.looked_at} stage" + "s" * (answer.looked_at != 1)
    if narrowed:
        return (
            Text.assemble(("late", "bold"), f" · {answer.found}")
            if answer.found
            else Text("none late")
        )
    if answer.judged and not answer.found:
        return Text(f"none late of {looked_at}")
    if answer.judged:
        return Text.assemble(("late", "bold"), f" · {answer.found} of {looked_at}")
    if answer.looked_at:
        return Text.assemble(("slowest", "bold"), f" · {looked_at}, none with a budget")
    return Text("no stage matches")


class _Columns:
    """Widths, in columns, and what stands in them."""

    def __init__(self, answer: Answer, width: int) -> None:
        self.judged = answer.judged
        today = datetime.now().astimezone().date()
        days = {local_time(row.start_ns).date() for row in answer.rows}
        self.format = "%H:%M:%S" if days <= {today} else "%Y-%m-%d %H:%M:%S"
        self.one_service = len({row.service for row in answer.rows}) == 1
        self.when = len(_when(answer.rows[0], self.format))
        self.took = max(len("took"), *(len(duration(row.latency_s)) for row in answer.rows))
        self.over = max(len("late by"), *(len(_over(row)) for row in answer.rows))
        longest = max(cell_len(_who(row)) for row in answer.rows)
        self.who = max(len("who"), min(longest, _WHO_MOST))
        self.width = width

    def heading(self) -> Text:
        line = self._line("when", "took", "late by", "who", Text("stage"))
        return Text(line.plain, "dim")

    def what(self, row: Row) -> Text:
        stage = Text(visible(row.stage), "bold")
        if not self.one_service:
            stage.append(f" @{visible(row.service)}", "not bold dim")
        when = _when(row, self.format)
        return self._line(when, duration(row.latency_s), _over(row), _who(row), stage)

    def where(self, row: Row, links: Links) -> Iterator[Text]:
        """Yield the chain below the stage, and the trace's id at the right end, or below it."""
        room = self.width - 2 * len(_GAP) - len(row.trace_id)
        trace = links.mark(Text(row.trace_id, "dim"), row.trace_id, row.span_id)
        inner = row.path[1:]
        if inner and room < _LEAST_PATH:
            room = self.width - len(_GAP)
            yield Text(_GAP).append(cell(_path(inner, room), room))
            yield Text(_GAP).append(trace)
        else:
            path = cell(_path(inner, room - len(_GAP)), max(room, 0))
            yield Text(_GAP).append(path).append(_GAP).append(trace)

    def _line(self, when: str, took: str, over: str, who: str, stage: Text) -> Text:
        line = cell(when, self.when).append(_GAP).append(cell(took, self.took, right=True))
        if self.judged:
            line.append(_GAP).append(cell(Text(over, "yellow"), self.over, right=True))
        return line.append(_GAP).append(cell(who, self.who)).append(_GAP).append(stage)


def _when(row: Row, pattern: str) -> str:
    moment = local_time(row.start_ns)
    return f"{moment.strftime(pattern)}.{moment.microsecond // 1000:03}"


def _over(row: Row) -> str:
    return "" if row.late_by_s is None else duration(row.late_by_s)


def _who(row: Row) -> str:
    return ", ".join(shown(value) for value in row.who.values()) or "-"


def _path(steps: tuple[Step, ...], room: int) -> str:
    """Return the chain; where it is too long, without those in the middle: the innermost counts."""
    parts = [f"{visible(step.stage)} {duration(step.took_s)}" for step in steps]
    kept = list(parts)
    while len(kept) > 1 and cell_len(_chain(kept)) > room:
        kept = ["…", *kept[2 if kept[0] == "…" else 1 :]]
    return _chain(kept)


def _chain(parts: list[str]) -> str:
    return f"└ {' → '.join(parts)}" if parts else ""
