"""Rows and the picture of each as one page, for a ticket: no script, nothing from elsewhere.

Text of other programs is escaped. Nothing is said by colour or position alone, so a screen reader
reads all of it. The keyboard reaches everything, and nothing is wider than the window.
"""

from collections.abc import Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from string import Template
from typing import Any, Final

from rich.text import Text

from otel_logging._text import duration, visible
from otel_logging.traces import groups
from otel_logging.traces.draw import table, waterfall
from otel_logging.traces.draw.terminal import fields, local_time, moment, new_fields
from otel_logging.traces.draw.waterfall import Columns
from otel_logging.traces.failed import Failure
from otel_logging.traces.late import Answer
from otel_logging.traces.late import Row as Judged
from otel_logging.traces.span import Event
from otel_logging.traces.trace import Row, Trace

_LATE_BY: Final = "late_by_s"  # of a row of ``late``; those of ``failed`` have none
_STYLES: Final = {"dim": "dim", "yellow": "late", "red": "bad"}
_WAY: Final = ' class="way"'
_ERROR: Final = ' <span class="bad">ERROR</span>'
_ON_WAY: Final = ' <span class="dim">(critical path)</span>'


def draw(title: str, answer: Answer[Any], rows: Sequence[Mapping[str, Any]], origin: str) -> str:
    """Return the page: the answer of ``late`` or ``failed``, and a picture of each trace. *rows*:
    its rows, as ``--json`` has them.
    """
    is_late = not any(isinstance(row, Failure) for row in answer.rows)
    stages: list[Judged] = [row if is_late else row.row for row in answer.rows]
    tells, facts = groups.telling(stages), table.facts(answer) if is_late else lambda _: []
    shown = [" · ".join(filter(None, (fields(tells(s).items()).plain, *facts(s)))) for s in stages]
    traces = [stage.trace for stage in stages]
    once: dict[str, tuple[Trace, Mapping[str, Any]]] = {}
    for row, trace in zip(rows, traces, strict=True):
        once.setdefault(trace.trace_id, (trace, row))
    page = Template(Path(__file__).with_name("page.html").read_text("utf-8"))
    return page.substitute(
        title=escape(visible(title)),
        heading=_text(title),
        incidents="".join(
            f"<p><strong>one incident</strong>{_text(users)}</p>\n"
            for users in (table.incidents(answer) if is_late else ())
        ),
        rows="".join(_table(rows, shown, traces, answer.found)) if rows else "",
        pictures="".join(part for one in once.values() for part in _picture(*one)),
        origin=_text(origin),
    )


def _table(
    rows: Sequence[Mapping[str, Any]], shown: Sequence[str], traces: Sequence[Trace], found: int
) -> Iterator[str]:
    zone = f"{local_time(traces[0].in_order[0].start_ns):%z}"
    by = '<th scope="col" class="n">late by</th>' if _LATE_BY in rows[0] else ""
    yield (
        f'<table class="rows" id="rows"><caption>Times are {zone}. '
        "Each row leads to its picture below.</caption>\n<thead><tr>"
        f'<th scope="col" class="n">when</th><th scope="col" class="n">took</th>{by}'
        '<th scope="col" class="who">who</th><th scope="col" class="stage">stage</th>'
        '<th scope="col" class="why">why</th></tr></thead><tbody>\n'
    )
    for row, apart, trace in zip(rows, shown, traces, strict=True):
        yield _row(row, f'<br><code class="dim">{_text(apart)}</code>' if apart else "", trace)
    yield "</tbody></table>\n"
    if more := found - len(rows):
        yield f'<p class="dim">and {more} more: --limit {found}</p>\n'


def _row(row: Mapping[str, Any], apart: str, trace: Trace) -> str:
    span = trace.spans[row["span_id"]]
    late_by, bad = row.get(_LATE_BY), _ERROR if row["error"] is True else ""
    by = f'<td class="n by">{"" if late_by is None else duration(late_by)}</td>'
    cells = (
        f'<td class="n">{moment(span.start_ns)}</td>',
        f'<td class="n took">{duration(row["latency_s"])}</td>',
        by if _LATE_BY in row else "",
        f"<td>{_text(', '.join(map(str, row['who'].values())) or '-')}</td>",
        f'<th scope="row"><a href="#t{trace.trace_id}">{_text(row["stage"])}</a>{bad}{apart}</th>',
        f"<td>{_why(row)}</td>",
    )
    return f"<tr>{''.join(cells)}</tr>\n"


def _why(row: Mapping[str, Any]) -> str:
    frame = row.get("frame")
    return _text(str(row.get("reason") or row["error"])) + (
        f' <code class="dim">{_text(frame)}</code>' if frame else ""
    )


def _picture(trace: Trace, row: Mapping[str, Any]) -> Iterator[str]:
    columns, drawn = waterfall.begin(trace)
    start, whole = columns.start_ns, duration(columns.total_ns / 1e9)
    yield (
        f'<section id="t{trace.trace_id}" aria-labelledby="h{trace.trace_id}">'
        f'<h2 id="h{trace.trace_id}">{_markup(waterfall.heading(columns))}</h2>\n'
        f"<p>{_why(row)}</p>\n"
        f'<p class="dim">trace <code>{trace.trace_id}</code>'
        f" · {moment(start)} {local_time(start):%z}"
        + (f' · <a href="{escape(row["link"])}">in Jaeger</a>' if row["link"] else "")
        + ' · <a href="#rows">all rows</a></p>\n'
        f'<table class="picture" aria-labelledby="h{trace.trace_id}"><thead><tr>'
        '<th scope="col">stage or line</th><th scope="col" class="n">at</th>'
        '<th scope="col" class="n">took</th>'
        f'<th class="bar" aria-hidden="true">0 to {whole}</th></tr></thead><tbody>\n'
    )
    for number, each in enumerate(drawn):
        if number == waterfall.MOST_ROWS:
            yield '<tr><td colspan="4">and more rows: otel-logging show --all</td></tr>\n'
            break
        yield _line(each, each.event, start) if each.event else _stage(each, columns)
    yield "</tbody></table></section>\n"


def _stage(row: Row, columns: Columns) -> str:
    span, start, total = row.span, columns.start_ns, columns.total_ns
    name, facts, lost = "not ended yet, or not recorded here", "", ""
    if span is not None:
        name = _text(span.name) + _markup(waterfall.after_name(row, span, columns))
        facts = "".join(_below(said) for said in waterfall.remarks(row, span, columns))
    length = max(row.end_ns - row.start_ns, 0)
    if columns.is_lost_in(row):
        begin, end = columns.last.piece
        lost = f"<i{_placed((begin - row.start_ns) / length, (end - begin) / length)}></i>"
    is_way = waterfall.is_on(columns.way, row)
    return (
        f'<tr{_WAY if is_way else ""}><th scope="row"{_depth(row)}>{name}'
        f"{_ON_WAY if is_way else ''}{facts}</th>"
        f'<td class="n at">{duration(max(row.start_ns - start, 0) / 1e9)}</td>'
        f'<td class="n took">{duration(waterfall.took_ns(row) / 1e9)}</td>'
        f'<td class="bar" aria-hidden="true">'
        f"<span{_placed((row.start_ns - start) / total, length / total)}>{lost}</span></td></tr>\n"
    )


def _line(row: Row, event: Event, start: int) -> str:
    level, message, below = waterfall.line_of(row, event)
    fields = new_fields(event.attributes, row.shown)
    more = "".join(_below(said) for said in (fields, Text(below, "red")) if said)
    return (
        f'<tr><td{_depth(row)}><span class="dim">{_text(level)}</span>'
        f" {_markup(message)}{more}</td>"
        f'<td class="n at">{duration(max(event.time_ns - start, 0) / 1e9)}</td>'
        "<td></td><td></td></tr>\n"
    )


def _depth(row: Row) -> str:
    return f' style="--deep:{len(row.lead) / 2}rem"'


def _placed(left: float, width: float) -> str:
    parts = (f"{100 * min(max(part, 0.0), 1.0):.2f}%" for part in (left, width))
    return ' style="margin-left:{};width:{}"'.format(*parts)


def _markup(text: Text) -> str:
    """Return a line of ``show`` in its colours. Right-to-left text in a part turns no other
    part.
    """
    edges = {edge for each in text.spans for edge in (each.start, each.end)}
    return "".join(
        _styled(_text(part.plain), " ".join(str(each.style) for each in part.spans))
        for part in text.divide(sorted(edges - {0, len(text)}))
    )


def _below(said: Text) -> str:
    """Return *said* as a line of its own; a part without a colour is data."""
    style = str(said.style)
    text = _markup(said)
    return f"<br>{_styled(text, style)}" if style else f'<br><code class="dim">{text}</code>'


def _styled(text: str, style: str) -> str:
    names = [name for colour, name in _STYLES.items() if colour in style]
    return f'<span class="{names[0]}">{text}</span>' if names else text


def _text(text: str) -> str:
    """Return *text* of other programs without markup; right-to-left text turns nothing around
    it.
    """
    return f"<bdi>{escape(visible(text))}</bdi>"
