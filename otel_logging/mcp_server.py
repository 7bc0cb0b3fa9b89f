"""``otel-logging mcp``: the commands' answers as tools of the Model Context Protocol, over stdio.

Read-only. Each call reads the sources again. If there is no answer, the tool's error says why.
"""

import gc
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import accumulate
from typing import Annotated, Any, TypeAlias

from mcp.server.mcpserver import MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from mcp.server.mcpserver.tools import Tool
from mcp.types import ToolAnnotations
from pydantic import Field, create_model
from typing_extensions import TypedDict  # pydantic wants this one before Python 3.12

from otel_logging._json import dumps
from otel_logging.traces import failed as failures
from otel_logging.traces import late as stages
from otel_logging.traces.draw import table, waterfall
from otel_logging.traces.jaeger import JaegerError
from otel_logging.traces.path import critical
from otel_logging.traces.sources import Sources
from otel_logging.traces.span import Span
from otel_logging.traces.trace import Trace, by_trace

_ROWS, _MOST_ROWS = 20, 100
_MOST_STEPS = 20  # of a path
_MOST_SPANS = 200  # of a trace
_MOST_BYTES = 30_000  # of a picture, and of spans: an agent reads about 100 kB of an answer
_MOST_NAMED = 10  # traces with the same first digits
_WIDTH = 120
_READ_ONLY = ToolAnnotations(read_only_hint=True, idempotent_hint=True, open_world_hint=False)

_Who: TypeAlias = Annotated[
    str | None, Field(description="Only on behalf of this user, exactly as recorded: a user id.")
]
_Service: TypeAlias = Annotated[str | None, Field(description="Only this service's stages.")]
_SinceMinutes: TypeAlias = Annotated[
    float | None,
    Field(gt=0, le=1e9, description="Only what ended in the last so many minutes; all by default."),
]
_OverSeconds: TypeAlias = Annotated[
    float | None,
    Field(ge=0, le=1e9, description="Late is what took longer, whatever its budget; 0 lists all."),
]
_Cause: TypeAlias = Annotated[
    str | None,
    Field(
        description=f"Only what this made late: {', '.join(stages.CAUSES)}, or the application's."
    ),
]
_Limit: TypeAlias = Annotated[int, Field(ge=1, le=_MOST_ROWS, description="At most so many rows.")]
_TraceId: TypeAlias = Annotated[
    str,
    Field(
        pattern="^[0-9a-fA-F]{4,32}$", description="Of a row; its first digits, if no other has."
    ),
]


class Step(TypedDict):
    """A stage on the way that the time went: its *count* children of that name took *took_s*
    seconds, *own_s* of them with nothing open inside, between these two lines or stages.
    """

    stage: str
    span_id: str
    took_s: float
    count: int
    at_once: bool
    own_s: float
    between: list[str | None] | None


class Row(TypedDict):
    """What was it, when (UTC), for how long, and for whom."""

    trace_id: str
    service: str
    stage: str
    start: str
    latency_s: float
    who: dict[str, Any]
    link: str | None


class LateStage(Row):
    """A late stage: how late, and why (*reason*); both None where nothing has a budget. Of a long
    *path* the middle is left out.
    """

    budget_s: float | None
    late_by_s: float | None
    reason: str
    cause: str | None
    culprit: str | None
    culprit_who: dict[str, Any]
    path: list[Step]


class FailedTrace(Row):
    """A failed trace: what was raised, and where in the application."""

    failed_stage: str
    type: str | None
    error: str
    frame: str | None


class Found(TypedDict):
    """*summary*: what was found, in words. *found*: how many there are without the limit;
    *looked_at*: of how many; *sources*: what was read; *there_is*: which services, users and causes
    there are, where nothing was of those that were asked for.
    """

    summary: str
    found: int
    looked_at: int
    sources: str
    there_is: list[str]


class LateStages(Found):
    """The late stages."""

    rows: list[LateStage]


class FailedTraces(Found):
    """The failed traces."""

    rows: list[FailedTrace]


class Shown(TypedDict):
    """A trace: *picture*, its stages and log lines as text; *spans*, the same as data: of a large
    trace those of the critical path first. *left_out*: how many spans are not in *spans*.
    """

    trace_id: str
    picture: str
    spans: list[dict[str, Any]]
    left_out: int


def serve(sources: Sources) -> None:
    """Answer on stdin and stdout until stdin ends. Blocks."""
    tools = _Tools(sources)
    MCPServer(
        "otel-logging",
        instructions="Which user's message, at what moment, was handled late, and why?"
        " Ask late or failed first, then show with a trace_id of their rows.",
        tools=[_strict(each) for each in (tools.late, tools.failed, tools.show)],
    ).run("stdio")


def _strict(function: Callable[..., Any]) -> Tool:
    """Return *function* as a tool that refuses unknown arguments."""
    tool = Tool.from_function(function, annotations=_READ_ONLY)
    known = tool.fn_metadata.arg_model
    strict = create_model(known.__name__, __base__=known, __cls_kwargs__={"extra": "forbid"})
    tool.fn_metadata.arg_model = strict
    tool.parameters = strict.model_json_schema(by_alias=True)
    return tool


class _Tools:
    """The tools; their docstrings are what an agent reads."""

    def __init__(self, sources: Sources) -> None:
        self._sources = sources

    def late(
        self,
        who: _Who = None,
        service: _Service = None,
        since_minutes: _SinceMinutes = None,
        over_seconds: _OverSeconds = None,
        cause: _Cause = None,
        limit: _Limit = _ROWS,
    ) -> LateStages:
        """List the stages that were late, worst first: for whom, when, how late, and why. Late is
        what took longer than its budget; where nothing has one, the slowest are listed.
        """
        question = stages.Question(over_seconds, _since(since_minutes), who, (), service, cause)
        ask = partial(stages.late, limit=limit)
        listed: LateStages = self._listed(question, ask, table.draw, LateStage)
        for row in listed["rows"]:
            path, half = row["path"], _MOST_STEPS // 2
            row["path"] = path[:half] + path[half:][-half:]
        return listed

    def failed(
        self,
        who: _Who = None,
        service: _Service = None,
        since_minutes: _SinceMinutes = None,
        limit: _Limit = _ROWS,
    ) -> FailedTraces:
        """List the traces that failed, newest first: for whom, what was raised, and where."""
        question = stages.Question(None, _since(since_minutes), who, (), service)
        ask = partial(failures.failed, limit=limit)
        listed: FailedTraces = self._listed(question, ask, table.draw_failed, FailedTrace)
        return listed

    def show(self, trace_id: _TraceId) -> Shown:
        """Show one trace: its stages with their times, and the log lines inside them."""
        prefix = trace_id.lower()
        with _reading():
            found = self._sources.trace(prefix)
        every = by_trace(found.spans)
        traces = [trace for each, trace in every.items() if each.startswith(prefix)]
        if len(traces) != 1:
            ids = ", ".join(trace.trace_id for trace in traces[:_MOST_NAMED])
            message = f"{len(traces)} of {len(every)} traces begin with {prefix!r}"
            advice = f"say more digits of one: {ids}" if ids else "take one of late or failed"
            said = f"{message}: {advice}" if every else self._sources.nothing(found)
            raise ToolError(f"{said}; {self._sources.read(found)}")
        (trace,) = found.whole(traces)
        spans = _most(trace)
        return {
            "trace_id": trace.trace_id,
            "picture": _picture(trace),
            "spans": spans,
            "left_out": len(trace.spans) - len(spans),
        }

    def _listed(
        self,
        question: stages.Question,
        ask: Callable[[list[Span], stages.Question], stages.Answer[Any]],
        draw: Callable[..., Iterator[Any]],
        kind: Any,
    ) -> Any:
        """Return an answer, its rows with the fields of *kind*."""
        with _reading():
            found, answer = self._sources.answer(question, ask)
        rows = [row.as_json(found.link(*row.ids)) for row in answer.rows]
        there = [] if rows else list(stages.there_is(found.spans, question))
        if found.spans and (unknown := stages.unknown_cause(question, there)):
            raise ToolError(unknown)
        title = next(draw(answer, width=_WIDTH)).plain
        return {
            "summary": title if found.spans else self._sources.nothing(found),
            "rows": [{key: row[key] for key in kind.__annotations__} for row in rows],
            "found": answer.found,
            "looked_at": answer.looked_at,
            "sources": self._sources.read(found),
            "there_is": there,
        }


def _picture(trace: Trace) -> str:
    """Return the trace as text; if it is long, its first lines."""
    lines = [line.plain.rstrip() for line in waterfall.draw(trace, width=_WIDTH)]
    number = sum(
        size <= _MOST_BYTES for size in accumulate(len(line.encode()) + 1 for line in lines)
    )
    if more := len(lines) - number:
        lines[number:] = [f"and {more} more lines: otel-logging show --all {trace.trace_id}"]
    return "\n".join(lines)


def _most(trace: Trace) -> list[dict[str, Any]]:
    """Return as many spans as an answer has room for, those of the critical path first."""
    way, chosen, size = critical(trace, trace.top), dict[str, dict[str, Any]](), 0
    for span in sorted(trace.in_order, key=lambda span: span.span_id not in way)[:_MOST_SPANS]:
        shown = span.as_json()
        if size + (added := len(dumps(shown))) <= _MOST_BYTES:
            size += added
            chosen[span.span_id] = shown
    return [chosen[each.span_id] for each in trace.in_order if each.span_id in chosen]


@contextmanager
def _reading() -> Iterator[None]:
    """Raise in words what goes wrong. Python's garbage collector is off meanwhile: it would search
    100,000 spans again and again.
    """
    gc.disable()
    try:
        yield
    except JaegerError as error:
        raise ToolError(str(error)) from None
    finally:
        gc.enable()


def _since(minutes: float | None) -> int:
    return 0 if minutes is None else time.time_ns() - int(minutes * 60e9)
