"""One trace as a picture: stages with their bars, and their log lines in between.

Lateness and errors are words before they are colours; all numbers of a picture are in one unit,
from one zero.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from rich.cells import cell_len
from rich.text import Text

from otel_logging import _names
from otel_logging._text import visible
from otel_logging.lateness.verdict import late_by
from otel_logging.traces.draw import exceptions
from otel_logging.traces.draw.terminal import (
    NO_LINKS,
    Links,
    cell,
    duration,
    fields,
    local_time,
)
from otel_logging.traces.late import who
from otel_logging.traces.span import Event, Span
from otel_logging.traces.trace import Row, Trace

_LEAST_BAR, _MOST_BAR = 20, 60  # columns; less shows nothing, more shows no more
_LEAST_LABEL = 12
_GAP: Final = "  "

#: Attributes that the picture shows otherwise than as a field.
_OURS: Final = frozenset(
    {
        *(_names.BUDGET, _names.LATE, _names.LATE_BY, _names.CANCELLED),
        *(_names.LEVEL, _names.EXCEPTION, _names.STACK),
        *exceptions.ATTRIBUTES,
    }
)
_LEVEL_STYLES: Final = {"debug": "dim", "info": "cyan", "warning": "yellow"}
_LOUD: Final = frozenset({"error", "critical"})  # in capitals, for those who see no colour
_LEVEL_WIDTH = 7  # "warning"


def draw(trace: Trace, *, width: int, links: Links = NO_LINKS) -> Iterator[Text]:
    """Yield the picture of *trace* line by line, to be cut to *width* columns
    (``terminal.show``).

    Cost: everything of the trace is decoded, about 50 µs a line.
    """
    first = trace.in_order[0]
    users = who(trace, first)
    listed = list(trace.rows(users))
    columns = _columns(listed, first.resource.service, width)
    yield from _header(trace, columns, users, links)
    yield Text()
    yield columns.heading()
    for row in listed:
        yield from _stage(row, columns) if row.event is None else _line(row, row.event, columns)


# ---------------------------------------------------------------- columns


@dataclass(frozen=True, slots=True)
class _Columns:
    """Two numbers, the tree, the bars on their common axis; widths in columns."""

    start_ns: int
    total_ns: int
    service: str  # of the outermost stage; other stages are drawn with their own
    width: int
    number: int = 0
    label: int = 80
    bar: int = 0

    @property
    def unit(self) -> tuple[str, float, int]:
        """The unit of all numbers: its name, its length in ns, decimals."""
        if self.total_ns >= 1_000_000_000:
            return "seconds", 1e9, 3
        return "milliseconds", 1e6, 1 if self.total_ns >= 10_000_000 else 3

    def count(self, time_ns: int) -> str:
        _, length, decimals = self.unit
        return f"{time_ns / length:.{decimals}f}"

    def numbers(self, start_ns: int | None = None, took_ns: int | None = None) -> Text:
        """Return the columns on the left: since the start of the trace, and duration."""
        at = "" if start_ns is None else self.count(start_ns - self.start_ns)
        took = "" if took_ns is None else self.count(took_ns)
        return Text.assemble((f"{at:>{self.number}}{_GAP}", "dim"), f"{took:>{self.number}}{_GAP}")

    def tree(self, lead: str) -> Text:
        """Return the tree's lines; of a very deep tree the innermost ones."""
        most = self.label // 2
        return Text().append(lead if len(lead) <= most else "…" + lead[1 - most :], "dim")

    def heading(self) -> Text:
        line = Text(f"{'start':>{self.number}}{_GAP}{'took':>{self.number}}{_GAP}", "dim")
        line.append(cell(Text(self.unit[0]), self.label)).append(_GAP)
        return line.append("0" + self.count(self.total_ns).rjust(self.bar - 1))

    def bar_of(self, row: Row) -> str:
        """Return a bar from start to end, to half a column, at least half a column long."""
        halves = 2 * self.bar
        first = min((row.start_ns - self.start_ns) * halves // self.total_ns, halves - 1)
        last = -((self.start_ns - row.end_ns) * halves // self.total_ns)
        blanks, begins_half = divmod(first, 2)
        full, ends_half = divmod(max(last - first, 1) - begins_half, 2)
        return " " * blanks + "╺" * begins_half + "━" * full + "╸" * ends_half


def _columns(listed: list[Row], service: str, width: int) -> _Columns:
    drawn = [row for row in listed if row.event is None]
    start = min(row.start_ns for row in drawn)
    total = max(max(row.end_ns for row in drawn) - start, 1)
    rough = _Columns(start, total, service, width)
    number = max(len("start"), *(len(rough.count(row.end_ns - start)) for row in listed))
    room = width - 2 * number - 3 * len(_GAP)
    labels = (cell_len(_label(row, rough).plain) for row in drawn if row.span)
    longest = max([_LEAST_LABEL, *labels])
    bar = min(max(room - longest, room * 2 // 5, _LEAST_BAR), _MOST_BAR)
    label = max(min(longest, room - bar), _LEAST_LABEL)
    return replace(rough, number=number, label=label, bar=bar)


# ---------------------------------------------------------------- header, stages, lines


def _header(
    trace: Trace, columns: _Columns, users: Mapping[str, Any], links: Links
) -> Iterator[Text]:
    services = dict.fromkeys(span.resource.service for span in trace.in_order)
    started = local_time(columns.start_ns)
    line = Text().append(visible(", ".join(services)), "bold")
    for part in (fields(users.items()), Text(duration(columns.total_ns / 1e9))):
        if part:
            line.append(" · ", "dim").append(part)
    yield line
    moment = f"{started:%Y-%m-%d %H:%M:%S}.{started.microsecond // 1000:03} {started:%z}"
    ids = trace.trace_id, trace.in_order[0].span_id
    identity = links.mark(Text(trace.trace_id, "dim"), *ids)
    yield Text("trace ", "dim").append(identity).append(f" · {moment}", "dim")
    yield from links.below(*ids)


def _stage(row: Row, columns: _Columns) -> Iterator[Text]:
    span = row.span
    if span is None:
        yield columns.numbers(row.start_ns).append(_label(row, columns))
        return
    line = columns.numbers(row.start_ns, max(row.end_ns - row.start_ns, 0))
    line.append(cell(_label(row, columns), columns.label)).append(_GAP)
    yield line.append(columns.bar_of(row), _style(span) or "blue")
    for remark in _remarks(row, span):
        yield columns.numbers().append(columns.tree(row.inner)).append(remark)


def _label(row: Row, columns: _Columns) -> Text:
    line, span = columns.tree(row.lead), row.span
    if span is None:
        return line.append("… not ended yet, or not recorded here", "italic")
    line.append(visible(span.name), _style(span))
    if span.resource.service != columns.service:
        line.append(f" @{visible(span.resource.service)}", "dim")
    for word in _words(span):
        line.append(f" {word}", f"bold {_style(span)}")
    return line


def _words(span: Span) -> list[str]:
    facts = {
        "ERROR": span.details.status == "error",
        "LATE": late_by(span.duration_s, span.budget_s) is not None,
        "CANCELLED": span.get(_names.CANCELLED) is True,
    }
    return [word for word, holds in facts.items() if holds]


def _style(span: Span) -> str:
    words = _words(span)
    return "red" if "ERROR" in words else "yellow" if words else ""


def _remarks(row: Row, span: Span) -> Iterator[Text]:
    """Yield what there is to say of a stage besides its times."""
    over, message = late_by(span.duration_s, span.budget_s), span.details.status_message
    if over is not None and span.budget_s is not None:
        yield Text(f"budget {duration(span.budget_s)}, over it by {duration(over)}", "yellow")
    if message and not _is_shown_below(row, message):
        yield Text(visible(message), "red")
    if own := fields(_new(span.attributes, row.shown)):
        yield own
    for link in span.details.links:
        yield Text(f"linked to trace {link['trace_id']}, span {link['span_id']}", "dim")


def _is_shown_below(row: Row, message: str) -> bool:
    """Return whether the exception is shown below: by its event, or by a stage inside."""
    return any(event.name == exceptions.EVENT for event in row.events) or any(
        child.details.status_message == message for child in row.children
    )


def _new(values: Mapping[str, Any], shown: Mapping[str, Any]) -> Iterable[tuple[str, Any]]:
    """Return the fields that are new here, the logger's name last: it is cut first."""
    new = {k: v for k, v in values.items() if k not in _OURS and (k not in shown or shown[k] != v)}
    if _names.LOGGER in new:
        new[_names.LOGGER] = new.pop(_names.LOGGER)
    return new.items()


def _line(row: Row, event: Event, columns: _Columns) -> Iterator[Text]:
    """Yield a log line: its level, its message, its fields; below it the exception."""
    raised = exceptions.raised(event.name, event.attributes)
    level, message, below = event.attributes.get(_names.LEVEL, "event"), event.name, ""
    if raised is not None and event.name == exceptions.EVENT:
        level, message, below = "error", raised.what, raised.where
    elif raised is not None:
        below = _fitting(raised, columns, row)
    tree = columns.tree(row.lead)
    line = (
        columns.numbers(event.time_ns).append(tree).append(_level(level)).append(visible(message))
    )
    if own := fields(_new(event.attributes, row.shown)):
        line.append(_GAP).append(own)
    yield line
    if below:
        indent = " " * (_LEVEL_WIDTH + 1)
        yield columns.numbers().append(tree).append(indent + visible(below), "red")


def _level(level: Any) -> Text:
    word = visible(str(level).lower())
    if word in _LOUD:
        return Text(f"{word.upper():<{_LEVEL_WIDTH}} ", "bold red")
    return Text(f"{word:<{_LEVEL_WIDTH}} ", _LEVEL_STYLES.get(word, ""))


def _fitting(raised: exceptions.Raised, columns: _Columns, row: Row) -> str:
    """Return type and message, and the innermost frame if there is room for both."""
    both = f"{raised.what}{_GAP}{raised.where}"
    taken = 2 * (columns.number + len(_GAP)) + len(row.lead) + _LEVEL_WIDTH + 1
    return both if taken + cell_len(visible(both)) <= columns.width else raised.what
