"""The rows of ``late`` and ``failed``: what it was, and below it why; in a wide terminal beside it.

It is called "late" only if a budget or ``--over`` defined what late is.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from rich.console import Console
from rich.table import Table
from rich.text import Text

from otel_logging._text import duration, visible
from otel_logging.traces import groups
from otel_logging.traces.draw.terminal import (
    NO_LINKS,
    Links,
    fields,
    local_time,
    moment,
    shown,
    wrapped,
)
from otel_logging.traces.failed import Failure
from otel_logging.traces.late import Answer, Row
from otel_logging.traces.span import Span

_GAP: Final = "  "
_INCIDENT: Final = "one incident"
_SEPARATED: Final = " · "
_BELOW: Final = "  └ "
_WHO_MOST: Final = 24  # columns
_ROOMY: Final = 120  # columns: enough for what tells rows apart, or a reason, beside the stage
_WIDE: Final = 160  # columns: enough for most reasons
_SERVICE: Final = 16  # characters
_TO_COME: Final = 8  # columns at least, where more rows may follow
_ID_DIGITS: Final = 8  # enough for `show`


def draw(
    answer: Answer[Row],
    *,
    width: int,
    links: Links = NO_LINKS,
    narrowed: bool = False,
    heads: list[int] | None = None,
) -> Iterator[Text]:
    """Yield the table of late stages line by line, to be cut to *width* columns
    (``terminal.show``).

    *narrowed*: not all stages that are not late were looked at, so they are not counted. *heads*:
    how wide the columns are whose names stand above already; what they are now is put there.
    """
    yield _title(answer, narrowed=narrowed)
    if not answer.rows:
        return
    for one in incidents(answer):
        yield from wrapped(Text.assemble((_INCIDENT, "bold"), one), width, 4)
    told = facts(answer)
    columns = _Columns(answer.rows, width, links)
    for row in answer.rows:
        late_by = "" if row.late_by_s is None else duration(row.late_by_s)
        by = [Text(late_by, "yellow")] if answer.judged else []
        below = _Below(Text(" → ".join(row.reason)), told(row), row.ids)
        columns.add(row, row.who, below, *by)
    yield from columns.lines(("took", "late by")[: 1 + answer.judged], answer.found, heads)


def incidents(answer: Answer[Row]) -> Iterator[str]:
    """Yield what is one incident, in words that go after that."""
    for one, many in groups.incidents(answer):
        at = f"{local_time(one.rows[0].span.start_ns):%H:%M:%S}"
        yield f" · {many} at {at}: {visible(one.key)}"


def facts(answer: Answer[Row]) -> Callable[[Row], list[str]]:
    """Return what says of a row how long its stage usually takes, and how many of its user's were
    late.
    """
    is_usual, of_user = groups.usual(answer), groups.of_the_same(answer)

    def of(row: Row) -> list[str]:
        said = []
        if found := is_usual(row):
            said.append(f"usually {duration(found[0])}, p95 {duration(found[1])}")
        if counts := of_user(row):
            said.append(f"{visible(groups.user_of(row))}: {counts[0]} of {counts[1]} late")
        return said

    return of


def draw_failed(
    answer: Answer[Failure],
    *,
    width: int,
    links: Links = NO_LINKS,
    heads: list[int] | None = None,
) -> Iterator[Text]:
    """Yield the table of failed traces, as ``draw`` does."""
    of_all = f" of {answer.looked_at} trace" + "s" * (answer.looked_at != 1)
    rows = [failure.row for failure in answer.rows]
    if not rows:
        yield Text(f"none failed{of_all}" if answer.looked_at else "no stage found")
        return
    scope = _scope([row.span for row in rows])
    yield Text.assemble(("failed", "bold"), f" · {answer.found}{of_all}", *scope, overflow="fold")
    columns = _Columns(rows, width, links)
    for failure in answer.rows:
        inner = "" if failure.span is failure.row.span else f" → {visible(failure.span.name)}"
        where = f"{_GAP}{visible(failure.where)}" if failure.where else ""
        why = Text(visible(failure.what), "red").append(where)
        columns.add(failure.row, failure.who, _Below(why, [], failure.ids), inner=inner)
    yield from columns.lines(("took",), answer.found, heads)


def draw_groups(
    answer: Answer[Row], parts: Sequence[groups.Group], *, by: str, width: int
) -> Iterator[Text]:
    """Yield what rows have in common: how many, by how much, and the worst one's trace."""
    yield _title(answer)
    table = _empty_table()
    names = (by, "rows", "late by" if answer.judged else "took", "users", "worst", "trace")
    for name in names:
        right = name not in (by, "trace")
        table.add_column(name, no_wrap=name != by, justify="right" if right else "left")
    for group in parts:
        worst = group.rows[0].span
        cells = (
            Text(visible(group.key), "bold", no_wrap=True, overflow="ellipsis"),
            str(len(group.rows)),
            duration(group.lost_s),
            str(len(group.users)),
            duration(worst.duration_s),
            Text(worst.trace_id[:_ID_DIGITS], "dim"),
        )
        table.add_row(*cells)
    yield Text()
    yield from _rendered(table, width)


def draw_summary(
    answer: Answer[Row], parts: Sequence[groups.Group], *, width: int
) -> Iterator[Text]:
    """Yield a sentence for each cause and culprit: whom it made late, and by how much."""
    yield _title(answer)
    yield Text()
    for group in parts:
        yield from wrapped(Text(visible(groups.sentence(group, duration(group.lost_s)))), width, 2)


# ---------------------------------------------------------------- what they share


@dataclass(frozen=True, slots=True)
class _Below:
    """What stands below a row, or beside it."""

    why: Text
    facts: list[str]
    ids: tuple[str, ...]


class _Columns:
    """Rows to be drawn: when, took, …, who, stage, trace; below or beside each why."""

    def __init__(self, rows: Sequence[Row], width: int, links: Links) -> None:
        days = {local_time(row.span.start_ns).date() for row in rows}
        self._date = days != {datetime.now().astimezone().date()}
        self._one_service = len({row.span.resource.service for row in rows}) == 1
        self._tells, self._width, self._links = groups.telling(rows), width, links
        self._rows: list[tuple[list[Text], _Below]] = []

    def add(
        self, row: Row, who: Mapping[str, Any], below: _Below, *numbers: Text, inner: str = ""
    ) -> None:
        """Add a row; *numbers*: after how long it took; *inner*: beside the stage."""
        span = row.span
        when = moment(span.start_ns)[0 if self._date else len("2026-01-14 ") :]
        user = ", ".join(shown(value) for value in who.values() if value != "") or "-"
        told = fields(self._tells(row).items()).plain
        stage = Text(no_wrap=True, overflow="ellipsis")
        if span.is_error:  # first: the end may be cut
            stage.append("ERROR ", "bold red")
        stage.append(visible(span.name), "bold")
        if not self._one_service:
            service = visible(span.resource.service)  # of a long one the ends tell it apart
            short = service if len(service) <= _SERVICE else f"{service[:6]}…{service[-9:]}"
            stage.append(f" @{short}", "dim")
        if told and self._width >= _ROOMY:
            stage.append(_GAP).append(told, "dim")
        elif told:
            below.facts.insert(0, told)
        cells = [
            Text(when),
            Text(duration(span.duration_s)),
            *numbers,
            Text(user, no_wrap=True, overflow="ellipsis"),
            stage.append(inner),
        ]
        self._rows.append((cells, below))

    def lines(self, numbers: Sequence[str], found: int, heads: list[int] | None) -> Iterator[Text]:
        """Yield the table; *numbers*: names of columns; *found*: how many rows there are in all."""
        roomy, wide = self._width >= _ROOMY, self._width >= _WIDE
        table, names = _empty_table(), ("when", *numbers, "who", "stage", "trace")
        least = [0 if heads is None else _TO_COME] * len(names)
        widths = self._widths(names, heads or least)
        for name, width in zip(names[:-1], widths, strict=False):
            right = name in numbers
            table.add_column(name, width=width, no_wrap=True, justify="right" if right else "left")
        table.add_column(names[-1], no_wrap=True)  # rich 13.7 puts blanks behind a given width
        for cells, below in self._rows:
            text = Text(below.ids[0][:_ID_DIGITS], "dim")
            table.add_row(*cells, self._links.mark(text, *below.ids))
        # where that is too wide, the end is cut
        heading, *rows = _rendered(table, max(self._width, sum(widths) + len(_GAP) * len(names)))
        yield from () if widths == heads else (Text(), heading)
        if heads is not None:
            heads[:] = widths
        for line, (_, below) in zip(rows, self._rows, strict=True):
            facts = Text(_GAP + _SEPARATED.join(below.facts) if below.facts else "", "dim")
            beside = Text.assemble(line, _GAP, below.why)
            if roomy and beside.cell_len + facts.cell_len <= self._width:
                yield beside.append(facts)
            elif wide and beside.cell_len <= self._width:
                yield from (beside, facts)
            else:
                yield line
                *lines, last = wrapped(below.why, self._width, len(_BELOW), _BELOW)
                if last.cell_len + facts.cell_len > self._width:
                    lines, last = [*lines, last], Text(_GAP)
                yield from [*lines, last.append(facts)]
            yield from self._links.below(*below.ids, indent=_GAP)
        if left_out := found - len(self._rows):
            yield Text(f"and {left_out} more: --limit {found}", "dim")

    def _widths(self, names: Sequence[str], above: Sequence[int]) -> list[int]:
        """Return how wide the columns are: as *above*, if that is enough, else what the longest
        text takes; where there is no room for it, the longer one of who and stage gives way.
        """
        cells = [[cell.cell_len for cell in row] for row, _ in self._rows]
        longest = [max(each) for each in zip(*cells, strict=True)]
        widths = [max(n, len(name)) for n, name in zip([*longest, _ID_DIGITS], names, strict=True)]
        widths = [max(each) for each in zip(widths, above, strict=True)]
        who, stage = len(names) - 3, len(names) - 2
        widths[who] = min(widths[who], _WHO_MOST)
        if self._width >= _WIDE:
            widths[stage] = min(widths[stage], self._width // 4)
        too_many = sum(widths) + len(_GAP) * len(names) - self._width
        for _ in range(too_many):
            longer = max(stage, who, key=widths.__getitem__)
            widths[longer] = max(widths[longer] - 1, len("stage"))
        return widths


def _title(answer: Answer[Row], *, narrowed: bool = False) -> Text:
    looked_at = f"{answer.looked_at} stage" + "s" * (answer.looked_at != 1)
    of_all = "" if narrowed else f" of {looked_at}"
    scope = _scope([row.span for row in answer.considered])
    if answer.judged:
        said = (("late", "bold"), f" · {answer.found}") if answer.found else ("none late",)
        return Text.assemble(*said, of_all, *scope, overflow="fold")
    if answer.looked_at:
        slowest = ("slowest", "bold"), f" · {looked_at}, none with a budget"
        return Text.assemble(*slowest, *scope, overflow="fold")
    return Text("no stage found")


def _scope(spans: Sequence[Span]) -> Iterator[str]:
    """Yield which hours and which services *spans* are of."""
    if not spans:
        return
    first = local_time(min(span.start_ns for span in spans))
    last = local_time(max(span.end_ns for span in spans))
    today = datetime.now().astimezone().date()
    starts, ends = (
        f"{at:%H:%M}" if same else f"{at:%Y-%m-%d %H:%M}"
        for at, same in ((first, first.date() == today), (last, last.date() == first.date()))
    )
    hours = f"{starts} to {ends}" if starts[-5:] != ends else starts
    yield f" · {hours} {last:%z}"
    services = sorted({span.resource.service for span in spans})
    more = f" and {len(services) - 2} more" if len(services) > 3 else ""
    yield f" · {visible(', '.join(services[: 2 if more else 3]))}{more}"


def _empty_table() -> Table:
    return Table(box=None, padding=(0, len(_GAP), 0, 0), header_style="dim", pad_edge=False)


def _rendered(table: Table, width: int) -> Iterator[Text]:
    """Yield a table's lines; the longest texts are cut until they fit."""
    for line in Console(width=width).render_lines(table, pad=False):
        yield Text.assemble(*((part.text, part.style or "") for part in line))
