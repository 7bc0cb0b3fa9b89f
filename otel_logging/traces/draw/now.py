"""The stages that are open now, a line each: since when, how late, whose, where it stands.

In: tables of running processes. Out: lines, or plain data. Deliberately absent: reading.
"""

from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import Any

from rich.text import Text

from otel_logging._text import duration, rfc3339, visible
from otel_logging.lateness.blackbox import OpenStage, Table
from otel_logging.lateness.verdict import late_by
from otel_logging.traces.draw.terminal import local_time, wrapped
from otel_logging.traces.span import resource_from_bytes

_OLD_S = 1.0  # a process that runs is seen many times a second

Row = tuple[Table, OpenStage, float, float | None]


def rows(tables: Iterable[Table], now_ns: int) -> list[Row]:
    """Return the open stages, how long they are open and how late; the oldest first."""
    found = []
    for table in tables:
        for stage in table.stages:
            open_s = max(now_ns - stage.began_ns, 0) / 1e9
            found.append((table, stage, open_s, late_by(open_s, stage.budget_s)))
    return sorted(found, key=lambda row: row[2], reverse=True)


def draw(found: list[Row], *, stack: bool, width: int) -> Iterator[Text]:
    """Yield the lines for a terminal; with *stack*, each step down to where a stage stands."""
    today = datetime.now().astimezone().date()
    states = [
        "" if stage.budget_s is None else f"late {duration(over_s)}" if over_s else "on time"
        for _, stage, _, over_s in found
    ]
    longest = max(map(len, states), default=0)
    for (table, stage, open_s, over_s), state in zip(found, states, strict=True):
        places, since = stage.where.splitlines(), local_time(stage.start_ns)
        date = "" if since.date() == today else f"{since:%Y-%m-%d} "
        line = Text(f"{date}{since:%H:%M:%S}  open {duration(open_s):>9}  ")
        line.append(f"{state:<{longest}}  ", "yellow" if over_s else "dim")
        line.append(visible(stage.name), "bold")
        whose = ", ".join(f"{key}={value}" for key, value in stage.who.items())
        line.append(f"  {visible(whose)}" if whose else "")
        line.append(f"  in {visible(places[0])}" if places and not stack else "")
        ago_s = _ago_s(table, stage, open_s)
        old = f", seen {duration(ago_s)} ago" if places and ago_s > _OLD_S else ""
        line.append(f"  process {table.pid}{old}", "dim")
        yield from wrapped(line, width, 4)
        yield from (Text(f"    {visible(place)}", overflow="ignore") for place in places if stack)


def _ago_s(table: Table, stage: OpenStage, open_s: float) -> float:
    """Return how old a process's table is: it stands still while a call into C keeps Python."""
    return max(open_s - (table.alive_ns - stage.began_ns) / 1e9, 0)


def as_json(row: Row) -> dict[str, Any]:
    """Return it as ``otel-logging now --json`` prints it; docs/commands.md is the contract."""
    table, stage, open_s, over_s = row
    return {
        "service": resource_from_bytes(table.resource).service,
        "process": table.pid,
        "trace_id": f"{stage.trace_id:032x}",
        "span_id": f"{stage.span_id:016x}",
        "stage": stage.name,
        "start": rfc3339(stage.start_ns),
        "open_s": round(open_s, 6),
        "budget_s": stage.budget_s,
        "late_by_s": None if over_s is None else round(over_s, 6),
        "who": stage.who,
        "where": stage.where.splitlines(),
        "seen_ago_s": round(_ago_s(table, stage, open_s), 6),
    }
