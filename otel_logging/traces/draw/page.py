"""Rows and the picture of each as one page, for a ticket: no script, nothing from elsewhere.

Text of other programs is escaped; nothing is said by colour or position alone, so that a screen
reader has it all, everything is reached by the keyboard, and nothing is wider than the window.
"""

from collections.abc import Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from string import Template
from typing import Any, Final

from otel_logging import _names
from otel_logging._text import duration, visible
from otel_logging.traces import exceptions, groups
from otel_logging.traces.draw import table, waterfall
from otel_logging.traces.draw.terminal import fields, local_time, moment, named, shown
from otel_logging.traces.failed import Failure
from otel_logging.traces.late import Answer, who
from otel_logging.traces.late import Row as Judged
from otel_logging.traces.path import critical, steps
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
    told = [" · ".join(filter(None, (fields(tells(s).items()).plain, *facts(s)))) for s in stages]
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
        rows="".join(_table(rows, told, traces, answer.found)) if rows else "",
        pictures="".join(part for one in once.values() for part in _picture(*one)),
        origin=_text(origin),
    )


def _table(
    rows: Sequence[Mapping[str, Any]], told: Sequence[str], traces: Sequence[Trace], found: int
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
    for row, apart, trace in zip(rows, told, traces, strict=True):
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
    first, start = trace.top, trace.in_order[0].start_ns
    users = who(trace, first)
    total = max(max(span.end_ns for span in trace.spans.values()) - start, 1)
    user = ", ".join(map(str, users.values())) or "-"
    took, whole = waterfall.lasted(first, total), duration(total / 1e9)
    yield (
        f'<section id="t{trace.trace_id}" aria-labelledby="h{trace.trace_id}">'
        f'<h2 id="h{trace.trace_id}">{_text(first.name)} · {_text(user)} · {took}</h2>\n'
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
    way = critical(trace, steps(trace, first))
    for number, each in enumerate(trace.rows(users, waterfall.Folding(trace))):
        if number == waterfall.MOST_ROWS:
            yield '<tr><td colspan="4">and more rows: otel-logging show --all</td></tr>\n'
            break
        yield _line(each, each.event, start) if each.event else _stage(each, trace, total, way)
    yield "</tbody></table></section>\n"


def _stage(row: Row, trace: Trace, total: int, way: set[str]) -> str:
    span, start = row.span, trace.in_order[0].start_ns
    name, facts = "not ended yet, or not recorded here", ""
    if span is not None:
        name = _text(span.name)
        if row.equal:
            name += f" \N{MULTIPLICATION SIGN}{len(row.equal)}"
        for word in waterfall.words_of(span):
            name += _ERROR if word == "ERROR" else f' <span class="late">{word}</span>'
        for said in waterfall.remarks(row, span, trace.spans.get(span.parent_span_id)):
            style = _STYLES[str(said.style)]
            facts += f'<br><span class="{style}">{_text(said.plain)}</span>'
        facts += _fields(waterfall.attributes_of(row, span), row.shown)
    left, length = (row.start_ns - start) / total, max(row.end_ns - row.start_ns, 0) / total
    is_way = waterfall.is_on(way, row)
    return (
        f'<tr{_WAY if is_way else ""}><th scope="row"{_depth(row)}>{name}'
        f"{_ON_WAY if is_way else ''}{facts}</th>"
        f'<td class="n at">{duration(max(row.start_ns - start, 0) / 1e9)}</td>'
        f'<td class="n took">{duration(waterfall.took_ns(row) / 1e9)}</td>'
        f'<td class="bar" aria-hidden="true"><span style="margin-left:{_percent(left)}%;'
        f'width:{_percent(length)}%"></span></td></tr>\n'
    )


def _line(row: Row, event: Event, start: int) -> str:
    raised = exceptions.raised(event.name, event.attributes)
    level = str(event.attributes.get(_names.LEVEL, "event"))
    said = _text(f"{raised.what}  {raised.where}") if raised else ""
    below = f'<br><code class="bad">{said}</code>' if raised else ""
    return (
        f'<tr><td{_depth(row)}><span class="dim">{_text(level)}</span>'
        f" {_text(event.name)}{_fields(event.attributes, row.shown)}{below}</td>"
        f'<td class="n at">{duration(max(event.time_ns - start, 0) / 1e9)}</td>'
        "<td></td><td></td></tr>\n"
    )


def _fields(values: Mapping[str, Any], above: Mapping[str, Any]) -> str:
    new = {k: v for k, v in values.items() if waterfall.is_shown(k, v) and above.get(k) != v}
    text = " ".join(_text(f"{named(key)}{shown(value, key)}") for key, value in new.items())
    return f'<br><code class="dim">{text}</code>' if text else ""


def _depth(row: Row) -> str:
    return f' style="--deep:{len(row.lead) / 2}rem"'


def _percent(part: float) -> str:
    return f"{100 * min(max(part, 0.0), 1.0):.2f}"


def _text(text: str) -> str:
    """Return *text* of others: no markup, and what is written from right to left turns nothing
    around it.
    """
    return f"<bdi>{escape(visible(text))}</bdi>"
