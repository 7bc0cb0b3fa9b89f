"""One trace as a picture: stages with their bars, and their log lines in between.

Lateness and errors are words before they are colours; all numbers of a picture are in one unit,
from one zero.
"""

from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, Final

from rich.cells import cell_len
from rich.text import Text

from otel_logging import _names
from otel_logging._text import duration, visible
from otel_logging.lateness.verdict import late_by
from otel_logging.traces import exceptions
from otel_logging.traces.draw import terminal
from otel_logging.traces.draw.terminal import NO_LINKS, Links
from otel_logging.traces.groups import Folding, one_by_one
from otel_logging.traces.late import Row as Judged
from otel_logging.traces.path import Step, critical
from otel_logging.traces.span import Event, Span
from otel_logging.traces.trace import Row, Trace, common, is_line

_LEAST_BAR = 20  # columns; a narrower bar shows nothing
MOST_ROWS = 1_000  # of a picture; ``--all`` draws more
_MOST_CELLS = 240  # of a line's message: three lines of a terminal
_HOURS_NS = 10 * 3600 * 1_000_000_000  # below ten hours one can still read seconds
_LOST = 0.1  # a tenth of the whole: a shorter piece is not marked
_BROKEN: Final = "┅"
_LEAST_LABEL = 12
_GAP: Final = "  "

_LEVEL_STYLES: Final = {"debug": "dim", "info": "cyan", "warning": "yellow"}
_LOUD: Final = frozenset({"error", "critical"})  # levels in capitals, for those who see no colour
_LEVEL_WIDTH = 7  # "warning"
#: Attributes that stand below a stage, uncut.
_WHOLE: Final = (_names.LATE_WHERE, "db.query.text", "db.statement")


def draw(
    trace: Trace,
    *,
    width: int,
    links: Links = NO_LINKS,
    unfolded: bool = False,
    stacks: bool = False,
) -> Iterator[Text]:
    """Yield the picture of *trace* line by line, to be cut to *width* columns (``terminal.show``).

    *unfolded*: equal stages are drawn one by one, however many; *stacks*: below each late stage its
    stacks. Cost: what is drawn is decoded, about 50 µs a line.
    """
    columns, rows = begin(trace, width, unfolded=unfolded, stacks=stacks)
    listed = list(islice(rows, None if unfolded else MOST_ROWS))
    columns = columns.fitting(listed)
    yield from _header(columns, links)
    yield Text()
    yield columns.axis()
    for row in listed:
        yield from _stage(row, columns) if row.event is None else _line(row, row.event, columns)
    if next(rows, None) is not None:
        yield Text(f"and more: the first {MOST_ROWS:,} rows are drawn, all with --all", "dim")


def lasted(top: Span, total_ns: int) -> str:
    """Return how long the outermost stage was open, and the whole trace if that took longer."""
    took, total = duration(top.duration_s), duration(total_ns / 1e9)
    return took if took == total or total_ns == 1 else f"{took}, {total} in all"


# ---------------------------------------------------------------- columns


@dataclass(frozen=True, slots=True)
class Columns:
    """Two numbers, the tree, the bars on their common axis; widths in columns."""

    top: Judged  # the outermost stage: a stage of another service has that name beside it
    start_ns: int
    total_ns: int
    width: int
    way: Set[str]  # ids of the stages on the critical path
    lost: str  # what the last stage of that path did itself, if it took long
    last: Step
    reason: list[str]  # why the outermost stage took so long, for the heading
    number: int = 0
    label: int = 0
    bar: int = 0
    stacks: bool = False

    def fitting(self, listed: list[Row]) -> "Columns":
        """Return columns as wide as the rows *listed* need."""
        ends = (max(row.end_ns - self.start_ns, took_ns(row)) for row in listed)
        number = max([len("start"), *map(len, map(self._count, ends))])
        room = self.width - 2 * number - 3 * len(_GAP)
        labels = (cell_len(_label(row, self).plain) for row in listed if row.span and not row.event)
        longest = max([_LEAST_LABEL, *labels])
        bar = max(room - longest, room * 2 // 5, _LEAST_BAR)
        label = max(min(longest, room - bar), _LEAST_LABEL)
        return replace(self, number=number, label=label, bar=bar)

    @property
    def unit(self) -> tuple[str, float, int]:
        """The unit of all numbers: its name, its length in ns, decimals."""
        if self.total_ns >= _HOURS_NS:
            return "hours", 3600e9, 3
        if self.total_ns >= 1_000_000_000:
            return "seconds", 1e9, 3
        return "milliseconds", 1e6, 1 if self.total_ns >= 10_000_000 else 3

    def _count(self, time_ns: int) -> str:
        _, length, decimals = self.unit
        return f"{time_ns / length:.{decimals}f}"

    def numbers(self, start_ns: int | None = None, took_ns: int | None = None) -> Text:
        """Return the columns on the left: since the start of the trace, and duration."""
        at = "" if start_ns is None else self._count(start_ns - self.start_ns)
        took = "" if took_ns is None else self._count(took_ns)
        return Text.assemble((f"{at:>{self.number}}{_GAP}", "dim"), f"{took:>{self.number}}{_GAP}")

    def tree(self, lead: str) -> Text:
        """Return the lines that draw the tree; of a very deep tree the innermost ones."""
        most = self.label // 2
        return Text().append(lead if len(lead) <= most else "…" + lead[1 - most :], "dim")

    def axis(self) -> Text:
        """Return the line above the numbers and bars."""
        line = Text(f"{'start':>{self.number}}{_GAP}{'took':>{self.number}}{_GAP}", "dim")
        line.append(terminal.cell(Text(self.unit[0]), self.label)).append(_GAP)
        return line.append("0" + self._count(self.total_ns).rjust(self.bar - 1))

    def bar_of(self, row: Row) -> str:
        """Return a bar from start to end, in steps of half a column. It is heavy on the critical
        path, and broken where the stage itself lost the time. The bar of equal stages has those
        columns in which one of them was open.
        """
        begins, whole, ends = "╺━╸" if is_on(self.way, row) else "╶─╴"
        halves, cells = 2 * self.bar, [0] * self.bar  # 1: the left half, 2: the right one, 3: both
        start, total = self.start_ns, self.total_ns
        # most of 100,000 stages cover the same few columns
        for begin, end in {
            ((span.start_ns - start) * halves // total, -((start - span.end_ns) * halves // total))
            for span in row.equal or (row,)
        }:
            first = min(max(begin, 0), halves - 1)
            last = max(end, first + 1)
            for half in (first, min(last, halves) - 1):
                cells[half // 2] |= 1 << half % 2
            for cell_ in range((first + 1) // 2, min(last, halves) // 2):
                cells[cell_] = 3
        for cell_ in self.broken if self.is_lost_in(row) else ():
            cells[cell_] = 4
        return "".join((" ", ends, begins, whole, _BROKEN)[each] for each in cells).rstrip()

    @property
    def broken(self) -> range:
        """The columns in which the stage itself lost the time; none if the time was spread."""
        begin, end = ((at - self.start_ns) * self.bar // self.total_ns for at in self.last.piece)
        return range(begin + 1, end)

    def is_lost_in(self, row: Row) -> bool:
        """Return whether a row's stage itself lost much of the time."""
        one = None if row.equal else row.span
        return bool(self.lost and one and one.span_id == self.last.span_id)


def is_on(way: Set[str], row: Row) -> bool:
    """Return whether one of a row's stages is on the critical path; *way* has the path's ids."""
    return any(span.span_id in way for span in row.equal or filter(None, [row.span]))


def begin(
    trace: Trace, width: int = 0, *, unfolded: bool = False, stacks: bool = False
) -> tuple[Columns, Iterator[Row]]:
    """Return the columns of the picture of *trace*, and its rows; *width*: of a terminal, 0 for a
    page.
    """
    first = trace.top
    top = Judged(first, trace, is_root=True, late_by_s=late_by(first.duration_s, first.budget_s))
    way = critical(trace, first)  # first: both at once take too much memory
    start, last = trace.in_order[0].start_ns, top.path[-1]
    total = max(max(span.end_ns for span in trace.spans.values()) - start, 1)
    # lines alone lose no time
    lost = last.itself if first.is_stage and last.own_s * 1e9 >= _LOST * total else ""
    has_reason = first.is_stage and (top.late_by_s is not None or first.budget_s is None)
    reason = top.reason if has_reason else []
    columns = Columns(top, start, total, width, way, lost, last, reason, label=width, stacks=stacks)
    return columns, trace.rows(top.who, one_by_one if unfolded else Folding(trace))


def took_ns(row: Row) -> int:
    """Return how long a row's stage was open, or the sum of its equal stages."""
    spans: Sequence[Any] = row.equal or (row,)
    return sum(max(span.end_ns - span.start_ns, 0) for span in spans)


# ---------------------------------------------------------------- header, stages, lines


def heading(columns: Columns) -> Text:
    """Return the heading: the stage, what is wrong with it, user, service, and duration."""
    top = columns.top
    services = dict.fromkeys(s.resource.service for s in (top.span, *top.trace.in_order))
    line = Text(visible(top.span.name), "bold")
    for word in words_of(top.span):
        line.append(f" {word}", f"bold {_style(top.span)}")
    named = Text(visible(", ".join(services)))
    took = Text(lasted(top.span, columns.total_ns))
    for part in filter(None, (terminal.fields(top.who.items()), named, took)):
        line.append(" · ", "dim").append(part)
    return line


def _header(columns: Columns, links: Links) -> Iterator[Text]:
    top = columns.top
    yield from terminal.wrapped(heading(columns), columns.width, 2)
    started = f"{terminal.moment(columns.start_ns)} {terminal.local_time(columns.start_ns):%z}"
    identity = links.mark(Text(top.trace.trace_id, "dim"), *top.ids)
    yield Text("trace ", "dim").append(identity).append(f" · {started}", "dim")
    yield from links.below(*top.ids)
    if parts := columns.reason:
        sign = f"{_BROKEN} " if columns.broken and parts == [columns.lost] else ""
        why, reason = visible(top.text(_names.LATE_WHY) or ""), sign + " → ".join(parts)
        for said in filter(None, (why, "" if why.endswith(reason) else reason)):
            text = Text(said, "yellow" if top.late_by_s is not None else "")
            yield from terminal.wrapped(text, columns.width, 2, "└ ")


def _stage(row: Row, columns: Columns) -> Iterator[Text]:
    span = row.span
    if span is None:
        yield columns.numbers(row.start_ns).append(_label(row, columns))
        return
    line = columns.numbers(row.start_ns, took_ns(row))
    line.append(terminal.cell(_label(row, columns), columns.label)).append(_GAP)
    style = (_style(span) or "blue") + " bold" * is_on(columns.way, row)
    yield line.append(columns.bar_of(row), style)
    beside = [
        part
        for one in remarks(row, span, columns)
        for part in ([one] if one.no_wrap else _below(one, row.inner, columns))
    ]
    for remark in (*beside, *(_steps(row, columns) if columns.stacks else ())):
        yield columns.numbers().append(columns.tree(row.inner)).append(remark)


def _label(row: Row, columns: Columns) -> Text:
    line, span = columns.tree(row.lead), row.span
    if span is None:
        return line.append("… not ended yet, or not recorded here", "italic")
    name = Text(visible(span.name), f"{_style(span)}{' bold' * is_on(columns.way, row)}")
    more = after_name(row, span, columns)  # never cut: the name gives way
    name.truncate(max(columns.label - line.cell_len - more.cell_len, 1), overflow="ellipsis")
    return line.append(name).append(more)


def after_name(row: Row, span: Span, columns: Columns) -> Text:
    """Return how many stages a row is, which service's, and what is wrong with it."""
    more = Text()
    if row.equal:
        more.append(f" \N{MULTIPLICATION SIGN}{len(row.equal)}", "bold")
    if span.resource.service != columns.top.span.resource.service:
        more.append(f" @{visible(span.resource.service)}", "dim")
    for word in words_of(span):
        more.append(f" {word}", f"bold {_style(span)}")
    return more


def words_of(span: Span) -> list[str]:
    """Return what is wrong with a stage, in words."""
    facts = {
        "ERROR": span.is_error,
        "LATE": late_by(span.duration_s, span.budget_s) is not None,
        "CANCELLED": span.get(_names.CANCELLED) is True,
    }
    return [word for word, holds in facts.items() if holds]


def _style(span: Span) -> str:
    words = words_of(span)
    return "red" if "ERROR" in words else "yellow" if words else ""


def remarks(row: Row, span: Span, columns: Columns) -> Iterator[Text]:
    """Yield what there is to say about a row's stage besides its times; *no_wrap* text may be
    cut.
    """
    parent = columns.top.trace.spans.get(span.parent_span_id)
    if parent is not None and (by_ns := span.moved_ns - parent.moved_ns):
        later, word = ("later", "behind") if by_ns > 0 else ("earlier", "ahead of")
        by, other = duration(abs(by_ns) / 1e9), visible(parent.resource.service)
        yield Text(f"drawn {by} {later}: its clock is {word} that of {other}", "dim")
    if row.equal:
        longest = max(max(one.end_ns - one.start_ns, 0) for one in row.equal)
        unfold = "; --all draws each" * (columns.width > 0)
        yield Text(f"the longest took {duration(longest / 1e9)}{unfold}", "dim")
        yield from _facts(common(row.equal), row)
        return
    over, message = late_by(span.duration_s, span.budget_s), span.details.status_message
    if over is not None and span.budget_s is not None:
        yield Text(f"budget {duration(span.budget_s)}, over it by {duration(over)}", "yellow")
    if message and not _is_shown_below(row, message):
        yield Text(visible(message), "red")
    if columns.is_lost_in(row) and (columns.reason != [columns.lost] or not columns.width):
        yield Text(f"{_BROKEN} {columns.lost}" if columns.broken else columns.lost, "yellow")
    yield from _facts(span.attributes, row)
    if each := terminal.new_fields(row.common, {**row.shown, **span.attributes}):
        inside = Text("each inside: ", "dim", no_wrap=True)
        yield inside.append(each)
    for link in span.details.links:
        yield Text(f"linked to trace {link['trace_id']}", "dim")


def _facts(values: Mapping[str, Any], row: Row) -> Iterator[Text]:
    rest = {key: value for key, value in values.items() if key not in _WHOLE}
    if own := terminal.new_fields(rest, row.shown):
        yield own
    for key in _WHOLE:
        if (value := values.get(key)) and row.shown.get(key) != value:
            label = terminal.named(key) if key == _names.LATE_WHERE else ""
            yield Text(label + visible(" ".join(str(value).split())))


def _steps(row: Row, columns: Columns) -> Iterator[Text]:
    """Yield the steps of each stack that was seen, below its share."""
    for event in row.events:
        stood = "" if is_line(event) else str(event.attributes.get(_names.LATE_WHERE, ""))
        for step in stood.splitlines():
            words = step.lstrip()
            lead = " " * (2 + len(step) - len(words))
            parts = _below(Text(visible(words)), row.inner, columns, len(lead))
            yield from (Text(lead).append(part) for part in parts)


def _below(text: Text, lead: str, columns: Columns, indent: int = 0) -> Iterator[Text]:
    """Yield *text*, which must never be cut, in as many lines as it needs beside the tree."""
    taken = 2 * (columns.number + len(_GAP)) + len(columns.tree(lead)) + indent
    yield from terminal.wrapped(text, max(columns.width - taken, _LEAST_LABEL), 2)


def _is_shown_below(row: Row, message: str) -> bool:
    """Return whether the exception is shown below: by its event, or by a stage inside."""
    return any(event.name == exceptions.EVENT for event in row.events) or any(
        child[0].details.status_message == message for child in row.children
    )


def line_of(row: Row, event: Event) -> tuple[str, Text, str]:
    """Return a log line's level, its message, and the exception for below it."""
    raised = exceptions.raised(event.name, event.attributes)
    level, message, below = event.attributes.get(_names.LEVEL, "event"), event.name, ""
    if raised is not None:
        below = f"{raised.what}{_GAP}{raised.where}".rstrip()
        if event.name == exceptions.EVENT:
            message, below = raised.what, raised.where
            level = "error" if row.span and row.span.is_error else level
    return visible(str(level).lower()), Text(visible(message)), visible(below)


def _line(row: Row, event: Event, columns: Columns) -> Iterator[Text]:
    """Yield a log line: its level, its message, its fields; below it the exception."""
    level, text, below = line_of(row, event)
    if not below and event.name != exceptions.EVENT:
        text.truncate(_MOST_CELLS, overflow="ellipsis")
    tree, indent = columns.tree(row.lead), _LEVEL_WIDTH + 1
    parts = [*_below(text, row.lead, columns, indent)]
    if own := terminal.new_fields(event.attributes, row.shown):
        parts[-1].append(_GAP).append(own)
    if below:
        parts += _below(Text(below, "red"), row.lead, columns, indent)
    yield columns.numbers(event.time_ns).append(tree).append(_level(level)).append(parts[0])
    for part in parts[1:]:
        yield columns.numbers().append(tree).append(" " * indent).append(part)


def _level(word: str) -> Text:
    if word in _LOUD:
        return Text(f"{word.upper():<{_LEVEL_WIDTH}} ", "bold red")
    return Text(f"{word:<{_LEVEL_WIDTH}} ", _LEVEL_STYLES.get(word, ""))
