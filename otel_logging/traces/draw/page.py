"""Rows and the picture of each as one page, for a ticket: no script, nothing from elsewhere.

Text of other programs is escaped; nothing is said by colour or position alone, so that a screen
reader has it all, and everything is reached by the keyboard.
"""

from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Any, Final

from otel_logging import _names
from otel_logging._text import duration, visible
from otel_logging.traces import exceptions
from otel_logging.traces.draw.terminal import local_time, shown
from otel_logging.traces.draw.waterfall import Folding, is_shown, words_of
from otel_logging.traces.late import who
from otel_logging.traces.path import steps
from otel_logging.traces.span import Event
from otel_logging.traces.trace import Row, Trace

_MOST_ROWS: Final = 1_000  # of a picture
_WAY: Final = ' class="way"'
_ON_WAY: Final = ' <span class="dim">(critical path)</span>'
_STYLE: Final = """
:root{color-scheme:light dark;--text:#1b1b1b;--dim:#595959;--line:#c8c8c8;--back:#fff;
--bar:#6a8fbf;--way:#0b4f9e;--bad:#b00020;--late:#7a4b00}
@media(prefers-color-scheme:dark){:root{--text:#eaeaea;--dim:#b0b0b0;--line:#4a4a4a;--back:#161616;
--bar:#5f7ea8;--way:#8ec1ff;--bad:#ff8a8a;--late:#ffc46b}}
body{font:15px/1.5 system-ui,sans-serif;color:var(--text);background:var(--back);margin:1.5rem}
table{border-collapse:collapse;width:100%}caption{text-align:left;color:var(--dim)}
th,td{text-align:left;vertical-align:top;padding:.2rem .7rem .2rem 0;
border-top:1px solid var(--line)}
td.n{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}
.scroll{overflow-x:auto}a{color:var(--way)}a:focus-visible,.scroll:focus-visible{outline:3px solid
var(--way)}.dim{color:var(--dim)}.bad{color:var(--bad);font-weight:600}.late{color:var(--late);
font-weight:600}td.bar{width:45%;min-width:12rem}
td.bar span{display:block;height:.7rem;margin-top:.4rem;
background:var(--bar);min-width:2px}
tr.way td.bar span{background:var(--way)}tr.way th{font-weight:700}
th{font-weight:400}thead th{font-weight:600}code{white-space:pre-wrap;overflow-wrap:anywhere}
"""


def draw(
    title: str, rows: Sequence[Mapping[str, Any]], traces: Sequence[Trace], origin: str
) -> Iterator[str]:
    """Yield the page. *rows*: as ``late --json`` or ``failed --json`` has them; *traces*: one of
    each, to be drawn below.
    """
    yield (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; style-src'
        " 'unsafe-inline'\">"
        f"<title>{_text(title)}</title><style>{_STYLE}</style></head><body><main>\n"
        f"<h1>{_text(title)}</h1>\n"
    )
    if rows:
        yield (
            '<div class="scroll" tabindex="0" role="region" aria-label="All rows"><table>'
            "<caption>Each row leads to its picture below</caption>\n<thead><tr>"
            + "".join(
                f'<th scope="col">{name}</th>'
                for name in ("when", "took", "late by", "who", "stage", "why")
            )
            + "</tr></thead><tbody>\n"
        )
        for row, trace in zip(rows, traces, strict=True):
            yield _row(row, trace)
        yield "</tbody></table></div>\n"
    for trace in {trace.trace_id: trace for trace in traces}.values():
        yield from _picture(trace, next(row for row in rows if row["trace_id"] == trace.trace_id))
    yield f'<p class="dim">{_text(origin)}</p>\n</main></body></html>\n'


def _row(row: Mapping[str, Any], trace: Trace) -> str:
    span = trace.spans[row["span_id"]]
    late_by, frame = row.get("late_by_s"), row.get("frame")
    why = _text(str(row.get("reason") or row["error"])) + (
        f' <code class="dim">{_text(frame)}</code>' if frame else ""
    )
    cells = (
        f'<td class="n">{local_time(span.start_ns):%Y-%m-%d %H:%M:%S}</td>',
        f'<td class="n">{duration(row["latency_s"])}</td>',
        f'<td class="n">{"" if late_by is None else duration(late_by)}</td>',
        f"<td>{_text(', '.join(map(str, row['who'].values())) or '-')}</td>",
        f'<th scope="row"><a href="#t{trace.trace_id}">{_text(row["stage"])}</a></th>',
        f"<td>{why}</td>",
    )
    return f"<tr>{''.join(cells)}</tr>\n"


def _picture(trace: Trace, row: Mapping[str, Any]) -> Iterator[str]:
    first, start = trace.top, trace.in_order[0].start_ns
    users = who(trace, first)
    total = max(max(span.end_ns for span in trace.spans.values()) - start, 1)
    name = f"{first.name} · {', '.join(map(str, users.values())) or '-'} · {duration(total / 1e9)}"
    yield (
        f'<section id="t{trace.trace_id}" aria-labelledby="h{trace.trace_id}">'
        f'<h2 id="h{trace.trace_id}">{_text(name)}</h2>\n'
        f'<p class="dim">trace <code>{trace.trace_id}</code>'
        + (f' · <a href="{escape(row["link"])}">in Jaeger</a>' if row["link"] else "")
        + '</p>\n<div class="scroll" tabindex="0" role="region" aria-label="Stages and lines">'
        '<table><thead><tr><th scope="col">stage or line</th><th scope="col">at</th>'
        '<th scope="col">took</th><th scope="col">bar</th></tr></thead><tbody>\n'
    )
    way = {step.span_id for step in steps(trace, first)}
    for number, each in enumerate(trace.rows(users, Folding(trace))):
        if number == _MOST_ROWS:
            yield '<tr><td colspan="4">and more rows: otel-logging show --all</td></tr>\n'
            break
        yield _line(each, each.event, start) if each.event else _stage(each, start, total, way)
    yield "</tbody></table></div></section>\n"


def _stage(row: Row, start: int, total: int, way: set[str]) -> str:
    span = row.span
    name = "not ended yet, or not recorded here" if span is None else span.name
    words, facts = "", ""
    if span is not None:
        words = "".join(
            f' <span class="{"bad" if word == "ERROR" else "late"}">{word}</span>'
            for word in words_of(span)
        )
        facts = _fields(span.attributes, row.shown)
        if len(row.equal) > 1:
            name += f" \N{MULTIPLICATION SIGN}{len(row.equal)}"
    left, took = (row.start_ns - start) / total, max(row.end_ns - row.start_ns, 0)
    is_way = span is not None and span.span_id in way
    return (
        f"<tr{_WAY if is_way else ''}>"
        f'<th scope="row" style="padding-left:{_depth(row)}rem">{_text(name)}{words}'
        f"{_ON_WAY if is_way else ''}{facts}</th>"
        f'<td class="n">{duration(max(row.start_ns - start, 0) / 1e9)}</td>'
        f'<td class="n">{duration(took / 1e9)}</td>'
        f'<td class="bar" aria-hidden="true"><span style="margin-left:{_percent(left)}%;'
        f'width:{_percent(took / total)}%"></span></td></tr>\n'
    )


def _line(row: Row, event: Event, start: int) -> str:
    raised = exceptions.raised(event.name, event.attributes)
    level = str(event.attributes.get(_names.LEVEL, "event"))
    below = (
        f'<br><code class="bad">{_text(raised.what)}  {_text(raised.where)}</code>'
        if raised
        else ""
    )
    return (
        f'<tr><td style="padding-left:{_depth(row)}rem"><span class="dim">{_text(level)}</span>'
        f" {_text(event.name)}{_fields(event.attributes, row.shown)}{below}</td>"
        f'<td class="n">{duration(max(event.time_ns - start, 0) / 1e9)}</td>'
        "<td></td><td></td></tr>\n"
    )


def _fields(values: Mapping[str, Any], above: Mapping[str, Any]) -> str:
    new = {k: v for k, v in values.items() if is_shown(k) and above.get(k) != v}
    text = " ".join(f"{_text(key)}={_text(shown(value))}" for key, value in new.items())
    return f'<br><code class="dim">{text}</code>' if text else ""


def _depth(row: Row) -> float:
    return min(len(row.lead) / 2, 20.0)


def _percent(part: float) -> str:
    return f"{100 * min(max(part, 0.0), 1.0):.2f}"


def _text(text: str) -> str:
    return escape(visible(text))
