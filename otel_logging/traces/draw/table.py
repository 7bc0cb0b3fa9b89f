"""The rows of ``late`` and ``failed``, each with its reason below it, or beside it if there is
room.

The table is called "late" only if a budget or ``--over`` defined what late is.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

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
from otel_logging.traces.path import NOTHING
from otel_logging.traces.span import Span

_GAP: Final = "  "
_INCIDENT: Final = "one incident"
_SEPARATED: Final = " · "
_BELOW: Final = "  └ "
_WHO_MOST: Final = 24  # columns
_ROOMY: Final = 120  # columns: enough for what tells rows apart, or a reason, beside the stage
_WIDE: Final = 160  # columns: enough for most reasons
_SERVICE: Final = 16  # characters
_ID_DIGITS: Final = 8  # enough for `show`


def draw(answer: Answer[Row], *, width: int, links: Links = NO_LINKS) -> Iterator[Text]:
    """Yield the table of late stages line by line, to be cut to *width* columns
    (``terminal.show``).
    """
    yield _title(answer)
    if not answer.rows:
        return
    for one in incidents(answer):
        yield from wrapped(Text.assemble((_INCIDENT, "bold"), one), width, 4)
    facts_of = facts(answer)
    columns = _Columns(answer.rows, width, links)
    for row in answer.rows:
        late_by = "" if row.late_by_s is None else duration(row.late_by_s)
        by = [Text(late_by, "yellow")] if answer.judged else []
        below = _Below(Text(" → ".join(row.reason)), facts_of(row), row.ids)
        columns.add(row, row.who, below, *by)
    yield from columns.lines(("took", "late by")[: 1 + answer.judged], answer.found)
    if not answer.judged and any(row.reason == [NOTHING] for row in answer.rows):
        yield Text("a stage with a budget says where it stood: OTEL_LOGGING_BUDGETS='*=0.5'", "dim")


def incidents(answer: Answer[Row]) -> Iterator[str]:
    """Yield what stands behind the words "one incident"."""
    for one, many in groups.incidents(answer):
        at = f"{local_time(one.rows[0].span.start_ns):%H:%M:%S}"
        yield f" · {many} at {at}: {visible(one.key)}"


def facts(answer: Answer[Row]) -> Callable[[Row], list[str]]:
    """Return a function that says how long a row's stage usually takes, and how many stages of its
    user were late.
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


def draw_failed(answer: Answer[Failure], *, width: int, links: Links = NO_LINKS) -> Iterator[Text]:
    """Yield the table of failed traces, as ``draw`` does."""
    of_all = f" of {answer.looked_at} trace" + "s" * (answer.looked_at != 1)
    scope = _scope([row.span for row in answer.considered])
    if not answer.rows:
        said = f"none failed{of_all}" if answer.looked_at else "no stage found"
        yield Text.assemble(said, *scope, overflow="fold")
        return
    yield Text.assemble(("failed", "bold"), f" · {answer.found}{of_all}", *scope, overflow="fold")
    columns = _Columns([failure.row for failure in answer.rows], width, links)
    for failure in answer.rows:
        inner = "" if failure.span is failure.row.span else f" → {visible(failure.span.name)}"
        where = f"{_GAP}{visible(failure.where)}" if failure.where else ""
        why = Text(visible(failure.what), "red").append(where)
        columns.add(failure.row, failure.who, _Below(why, [], failure.ids), inner=inner)
    yield from columns.lines(("took",), answer.found)


def draw_groups(
    answer: Answer[Row], parts: Sequence[groups.Group], *, by: str, found: int, width: int
) -> Iterator[Text]:
    """Yield the groups of rows: how many rows, how late, and the trace of the worst; *found*: how
    many groups there are in all.
    """
    yield _title(answer)
    yield Text()
    rows = [_heading("rows", "late by" if answer.judged else "took", "users", "worst", "trace")]
    for group in parts:
        worst = group.rows[0].span
        numbers = len(group.rows), duration(group.lost_s), len(group.users)
        cells = [Text(str(each)) for each in (*numbers, duration(worst.duration_s))]
        rows.append([*cells, Text(worst.trace_id[:_ID_DIGITS], "dim")])
    lines = _side_by_side(rows, widths := _longest(rows), right=range(4))
    keys = [Text(by, "dim"), *(Text(visible(group.key), "bold") for group in parts)]
    beside = sum(widths) + len(_GAP) * len(widths)
    for line, key in zip(lines, keys, strict=True):
        yield from wrapped(key, width, beside, line.append(_GAP))
    yield from _more(len(parts), found)


def draw_summary(
    answer: Answer[Row], parts: Sequence[groups.Group], *, found: int, width: int
) -> Iterator[Text]:
    """Yield a sentence for each cause and culprit: whom it made late, and by how much; *found*:
    how many sentences there would be in all.
    """
    yield _title(answer)
    yield Text()
    for group in parts:
        yield from wrapped(Text(visible(groups.sentence(group, duration(group.lost_s)))), width, 2)
    yield from _more(len(parts), found)


# ---------------------------------------------------------------- what they share


@dataclass(frozen=True, slots=True)
class _Below:
    """What stands below a row, or beside it."""

    why: Text
    facts: list[str]
    ids: tuple[str, ...]


class _Columns:
    """Rows to be drawn: when, took, …, who, stage, trace; the reason is below or beside each."""

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
        differing = fields(self._tells(row).items()).plain
        stage = Text()
        if span.is_error:  # it stands first: the end may be cut
            stage.append("ERROR ", "bold red")
        stage.append(visible(span.name), "bold")
        if not self._one_service:
            service = visible(span.resource.service)  # the ends tell names apart
            short = service if len(service) <= _SERVICE else f"{service[:6]}…{service[-9:]}"
            stage.append(f" @{short}", "dim")
        if differing and self._width >= _ROOMY:
            stage.append(_GAP).append(differing, "dim")
        elif differing:
            below.facts.insert(0, differing)
        trace = self._links.mark(Text(span.trace_id[:_ID_DIGITS], "dim"), *below.ids)
        took = Text(duration(span.duration_s))
        cells = [Text(when), took, *numbers, Text(user), stage.append(inner), trace]
        self._rows.append((cells, below))

    def lines(self, numbers: Sequence[str], found: int) -> Iterator[Text]:
        """Yield the table; *numbers*: names of columns; *found*: how many rows there are in all."""
        roomy, wide = self._width >= _ROOMY, self._width >= _WIDE
        cells = [_heading("when", *numbers, "who", "stage", "trace")]
        cells += [each for each, _ in self._rows]
        widths = self._widths(_longest(cells))
        heading, *rows = _side_by_side(cells, widths, right=range(1, 1 + len(numbers)))
        yield from (Text(), heading)
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
        yield from _more(len(self._rows), found)

    def _widths(self, longest: Sequence[int]) -> list[int]:
        """Return the widths of the columns: each as wide as its longest text. If there is no room,
        the longer one of who and stage gives way.
        """
        widths = list(longest)
        who, stage = len(widths) - 3, len(widths) - 2
        widths[who] = min(widths[who], _WHO_MOST)
        if self._width >= _WIDE:
            widths[stage] = min(widths[stage], self._width // 4)
        too_many = sum(widths) + len(_GAP) * len(widths) - self._width
        for _ in range(too_many):
            longer = max(stage, who, key=widths.__getitem__)
            widths[longer] = max(widths[longer] - 1, len("stage"))
        return widths


def _more(listed: int, found: int) -> Iterator[Text]:
    if listed < found:
        yield Text(f"and {found - listed} more: --limit {found}", "dim")


def _title(answer: Answer[Row]) -> Text:
    looked_at = f"{answer.looked_at} stage" + "s" * (answer.looked_at != 1)
    of_all = "" if answer.narrowed else f" of {looked_at}"
    scope = _scope([row.span for row in answer.considered])
    if answer.judged:
        said = (("late", "bold"), f" · {answer.found}") if answer.found else ("none late",)
        return Text.assemble(*said, of_all, *scope, overflow="fold")
    if answer.looked_at:
        slowest = ("slowest", "bold"), f" · {looked_at}, none with a budget"
        return Text.assemble(*slowest, *scope, overflow="fold")
    return Text("no stage found")


def _scope(spans: Sequence[Span]) -> Iterator[str]:
    """Yield the hours of *spans*, and their services."""
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


def _heading(*names: str) -> list[Text]:
    return [Text(name, "dim") for name in names]


def _longest(rows: Sequence[Sequence[Text]]) -> list[int]:
    return [max(cell.cell_len for cell in column) for column in zip(*rows, strict=True)]


def _side_by_side(
    rows: Sequence[Sequence[Text]], widths: Sequence[int], *, right: range
) -> Iterator[Text]:
    """Yield rows as lines, each cell as wide as its column; *right*: columns of numbers."""
    for cells in rows:
        for number, (text, width) in enumerate(zip(cells, widths, strict=True)):
            text.truncate(width, overflow="ellipsis")
            text.align("right" if number in right else "left", width)
        yield Text(_GAP).join(cells)
