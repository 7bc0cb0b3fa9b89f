"""``otel-logging mcp``: the commands' answers as tools of the Model Context Protocol, over stdio.

Read-only. Each call reads the sources anew; what keeps it from an answer is the tool's error.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from mcp.server.mcpserver import MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from mcp.types import ToolAnnotations
from typing_extensions import TypedDict  # pydantic wants this one before Python 3.12

from otel_logging.traces import failed as failures
from otel_logging.traces import late as stages
from otel_logging.traces.draw import waterfall
from otel_logging.traces.jaeger import JaegerError
from otel_logging.traces.search import WHOLE_ID
from otel_logging.traces.sources import Sources
from otel_logging.traces.span import Span
from otel_logging.traces.trace import by_trace

_ROWS = 20
_WIDTH = 120
_READ_ONLY = ToolAnnotations(read_only_hint=True, idempotent_hint=True, open_world_hint=False)


class Step(TypedDict):
    """A stage on the way that the time went; seconds."""

    stage: str
    span_id: str
    took_s: float
    count: int
    at_once: bool
    own_s: float
    between: list[str | None] | None


class Row(TypedDict):
    """What was it, when, and for whom."""

    trace_id: str
    service: str
    stage: str
    start: str
    latency_s: float
    who: dict[str, Any]
    link: str | None


class LateStage(Row):
    """A late stage: how late, and why (``reason``)."""

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
    """*found*: how many there are without the limit; *sources*: what was read; *there_is*: which
    services, users and causes there are, where nothing was of those that were asked for.
    """

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
    """A trace: *picture*, its stages and log lines as text; *spans*, the same as data."""

    trace_id: str
    picture: str
    spans: list[dict[str, Any]]


def serve(sources: Sources) -> None:
    """Answer on stdin and stdout until stdin ends. Blocks."""
    server = MCPServer(
        "otel-logging",
        instructions="Which user's message, at what moment, was handled late, and why?"
        " Ask late or failed first, then show with a trace_id of their rows.",
    )
    tools = _Tools(sources)
    for tool in (tools.late, tools.failed, tools.show):
        server.tool(annotations=_READ_ONLY)(tool)
    server.run("stdio")


class _Tools:
    """The tools; their docstrings are what an agent reads."""

    def __init__(self, sources: Sources) -> None:
        self._sources = sources

    def late(
        self,
        who: str | None = None,
        service: str | None = None,
        since_minutes: float | None = None,
        over_seconds: float | None = None,
        cause: str | None = None,
        limit: int = _ROWS,
    ) -> LateStages:
        """List the stages that were late, worst first: for whom, when, how late, and why.

        *cause*: gc, loop, lock, pool, queue, downstream, cpu, unknown, or one that the application
        names.
        """
        question = stages.Question(over_seconds, _since(since_minutes), who, (), service, cause)
        listed: LateStages = self._listed(question, partial(stages.late, limit=limit), LateStage)
        return listed

    def failed(
        self,
        who: str | None = None,
        service: str | None = None,
        since_minutes: float | None = None,
        limit: int = _ROWS,
    ) -> FailedTraces:
        """List the traces that failed, newest first: for whom, what was raised, and where."""
        question = stages.Question(None, _since(since_minutes), who, (), service)
        ask = partial(failures.failed, limit=limit)
        listed: FailedTraces = self._listed(question, ask, FailedTrace)
        return listed

    def show(self, trace_id: str) -> Shown:
        """Show one trace: its stages with their times, and the log lines inside them."""
        wanted = trace_id.strip().lower()
        with _in_words():
            found = self._sources.trace(wanted)
        traces = [
            trace
            for each, trace in by_trace(found.spans).items()
            if each.startswith(wanted) and len(wanted) >= WHOLE_ID // 8
        ]
        if len(traces) != 1:
            message = f"{len(traces)} traces begin with {trace_id!r}: say more digits of one"
            raise ToolError(f"{message}; {self._sources.read(found)}")
        (trace,) = found.whole(traces)
        return {
            "trace_id": trace.trace_id,
            "picture": "\n".join(
                line.plain.rstrip() for line in waterfall.draw(trace, width=_WIDTH)
            ),
            "spans": [span.as_json() for span in trace.in_order],
        }

    def _listed(
        self,
        question: stages.Question,
        ask: Callable[[list[Span], stages.Question], stages.Answer[Any]],
        kind: Any,
    ) -> Any:
        """Return an answer; of its rows what *kind* has."""
        with _in_words():
            found, answer = self._sources.answer(question, ask)
        rows = [row.as_json(found.link(*row.ids)) for row in answer.rows]
        return {
            "rows": [{key: row[key] for key in kind.__annotations__} for row in rows],
            "found": answer.found,
            "looked_at": answer.looked_at,
            "sources": self._sources.read(found),
            "there_is": [] if rows else list(stages.there_is(found.spans, question)),
        }


@contextmanager
def _in_words() -> Iterator[None]:
    try:
        yield
    except JaegerError as error:
        raise ToolError(str(error)) from None


def _since(minutes: float | None) -> int:
    return 0 if minutes is None else time.time_ns() - int(minutes * 60e9)
