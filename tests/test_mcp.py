"""``otel-logging mcp``, asked by the official SDK's client over stdio."""

import asyncio
import os
import sys
from importlib.util import find_spec
from typing import Any

import pytest

from tests.programs import python
from tests.stored import TRACE, Planted, line, store

pytestmark = pytest.mark.skipif(
    find_spec("mcp") is None, reason="needs OpenTelemetry 1.28: the oldest set is without it"
)

MAIN = "from otel_logging.cli import main; main()"
CALLS: list[tuple[str, dict[str, Any]]] = [
    ("late", {"who": "grace", "over_seconds": 0.1, "since_minutes": 60 * 24 * 36500}),
    ("late", {"cause": "gc"}),
    ("failed", {}),
    ("failed", {"limit": 1, "service": "billing"}),
    ("show", {"trace_id": TRACE[:8].upper()}),
    ("show", {"trace_id": "ffff"}),
]


async def asked(*arguments: str) -> tuple[list[Any], list[Any]]:
    from mcp.client.session import ClientSession  # a second of each worker that collects this
    from mcp.client.stdio import StdioServerParameters, stdio_client

    parameters = StdioServerParameters(
        command=sys.executable, args=["-c", MAIN, "mcp", *arguments], env=dict(os.environ)
    )
    async with stdio_client(parameters) as streams, ClientSession(*streams) as session:
        await session.initialize()
        tools = (await session.list_tools()).tools
        return tools, [await session.call_tool(name, values) for name, values in CALLS]


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Any], list[Any]]:
    place = store(
        tmp_path_factory.mktemp("store"),
        Planted(
            1, 0, "message", 0, 900, {"user_id": "grace", "budget_s": 0.3}, [line(890, "done")]
        ),
        Planted(1, 0, "odd", 0, 9, {"user_id": "ben"}, status=2, message="502", trace="b" * 32),
    )
    return asyncio.run(asked("--source", "local", "--spool-dir", str(place)))


def test_three_tools_that_change_nothing(answers: tuple[list[Any], list[Any]]) -> None:
    """With typed results."""
    tools, _ = answers
    assert {tool.name for tool in tools} == {"late", "failed", "show"}
    assert all(tool.annotations.read_only_hint for tool in tools)
    assert all(tool.output_schema["properties"] for tool in tools)


def test_late_says_why(answers: tuple[list[Any], list[Any]]) -> None:
    """As ``late --json`` does."""
    (late, none, *_) = (answer.structured_content for answer in answers[1])
    (row,) = late["rows"]
    assert (row["who"], row["reason"]) == ({"user_id": "grace"}, 'itself 890 ms, before "done"')
    assert (late["found"], late["looked_at"], late["there_is"]) == (1, 1, [])
    assert late["sources"].startswith("from the local store · ")
    assert (none["rows"], none["there_is"]) == ([], ["causes there are: none"])


def test_failed_says_what(answers: tuple[list[Any], list[Any]]) -> None:
    """And of a service that has none, none."""
    failed, none = (answer.structured_content for answer in answers[1][2:4])
    assert [(row["who"], row["error"]) for row in failed["rows"]] == [({"user_id": "ben"}, "502")]
    assert (none["rows"], none["there_is"]) == ([], ["services there are: chat-gateway"])


def test_show_draws_one_and_says_what_it_cannot(answers: tuple[list[Any], list[Any]]) -> None:
    """A part of its id is enough."""
    shown, missing = answers[1][4:6]
    assert shown.structured_content["trace_id"] == TRACE
    assert "info    done" in shown.structured_content["picture"]
    assert len(shown.structured_content["spans"]) == 1
    assert missing.is_error
    assert "0 traces begin with 'ffff'" in missing.content[0].text
    assert "; from the local store · " in missing.content[0].text


def test_a_source_that_is_not_there_is_the_tools_error() -> None:
    """In words."""
    _, answers = asyncio.run(asked("--source", "jaeger"))
    assert all(answer.is_error for answer in answers)
    assert "nothing listens at" in answers[0].content[0].text


def test_without_the_sdk_it_names_the_extra() -> None:
    without = f"import sys; sys.modules['mcp.server'] = None; {MAIN}"
    result = python("-c", without, "mcp", env=dict(os.environ))
    assert result.returncode == 1
    assert "pip install 'otel-logging[mcp]'" in result.stderr
