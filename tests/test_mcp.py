"""``otel-logging mcp``, asked by the official SDK's client over stdio."""

import asyncio
import os
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from tests.programs import python
from tests.stored import TRACE, Planted, line, store

pytestmark = pytest.mark.skipif(
    find_spec("mcp") is None, reason="needs OpenTelemetry 1.28: the oldest set is without it"
)

MAIN = "from otel_logging.cli import main; main()"
TWINS = "cafecafe" + "0" * 23
CALLS: list[tuple[str, dict[str, Any]]] = [
    ("late", {"who": "grace", "over_seconds": 0.1, "since_minutes": 60 * 24 * 36500}),
    ("late", {"cause": "gc"}),
    ("failed", {}),
    ("failed", {"limit": 1, "service": "billing"}),
    ("show", {"trace_id": TRACE[:8].upper()}),
    ("show", {"trace_id": "ffff"}),
    ("show", {"trace_id": TWINS[:8]}),
    ("show", {"trace_id": "c" * 32}),
    ("late", {"who": "ada"}),
    ("late", {"who": "ben", "over_seconds": 5}),
    ("failed", {"who": "ben", "since_minutes": 1}),
]
#: What is asked wrongly, and what the tool's error says of it.
WRONG: list[tuple[str, dict[str, Any], str]] = [
    ("late", {"limit": -3}, "greater than or equal to 1"),
    ("late", {"limit": 101}, "less than or equal to 100"),
    ("late", {"since_minutes": 0}, "greater than 0"),
    ("late", {"since_minutes": 1e300}, "less than or equal to"),
    ("late", {"over_seconds": -0.1}, "greater than or equal to 0"),
    ("late", {"over_seconds": "NaN"}, "less than or equal to"),
    ("late", {"cause": "gcc"}, "'gcc' is no known cause; known causes: "),
    ("late", {"user": "grace"}, "user\n  Extra inputs are not permitted"),
    ("failed", {"limit": 0}, "greater than or equal to 1"),
    ("failed", {"over_seconds": 1}, "over_seconds\n  Extra inputs are not permitted"),
    ("show", {"trace_id": "grace"}, "match pattern"),
    ("show", {}, "trace_id\n  Field required"),
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
        calls = [*CALLS, *(wrong[:2] for wrong in WRONG)]
        return tools, [await session.call_tool(name, values) for name, values in calls]


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Any], list[Any]]:
    place = store(
        tmp_path_factory.mktemp("store"),
        Planted(
            1, 0, "message", 0, 900, {"user_id": "grace", "budget_s": 0.3}, [line(890, "done")]
        ),
        Planted(1, 0, "odd", 0, 9, {"user_id": "ben"}, status=2, message="502", trace="b" * 32),
        *(Planted(1, 0, "twin", 0, 9, {"user_id": "eve"}, trace=f"{TWINS}{n}") for n in range(2)),
        *(
            Planted(
                n,
                n - 1,
                f"step {n}",
                n,
                9000 - n,
                {"text": "x" * 400, "user_id": "ada", "budget_s": 0.3},
                [line(n, "here")],
                trace="c" * 32,
            )
            for n in range(1, 301)
        ),
    )
    return asyncio.run(asked("--source", "local", "--spool-dir", str(place)))


def test_three_tools_that_change_nothing(answers: tuple[list[Any], list[Any]]) -> None:
    """With typed results."""
    tools, _ = answers
    assert {tool.name for tool in tools} == {"late", "failed", "show"}
    assert all(tool.annotations.read_only_hint for tool in tools)
    assert all(tool.output_schema["properties"] for tool in tools)


def test_late_returns_rows_and_reasons(answers: tuple[list[Any], list[Any]]) -> None:
    """As ``late --json`` does."""
    (late, none, *_) = (answer.structured_content for answer in answers[1])
    (row,) = late["rows"]
    assert (row["who"], row["reason"]) == ({"user_id": "grace"}, 'itself 890 ms, before "done"')
    assert (late["found"], late["looked_at"], late["there_is"]) == (1, 1, [])
    assert late["summary"] == "late · 1 of 1 stage · 2023-11-14 22:13 +0000 · chat-gateway"
    assert late["sources"].startswith("from the local store · ")
    assert (none["rows"], none["there_is"]) == ([], ["known causes: none"])


def test_failed_returns_who_and_the_error(answers: tuple[list[Any], list[Any]]) -> None:
    """For a service without failures it returns no row, and the known services."""
    failed, none = (answer.structured_content for answer in answers[1][2:4])
    assert [(row["who"], row["error"]) for row in failed["rows"]] == [({"user_id": "ben"}, "502")]
    assert (none["rows"], none["there_is"]) == ([], ["known services: chat-gateway"])


def test_show_draws_one_and_says_what_it_cannot(answers: tuple[list[Any], list[Any]]) -> None:
    """A part of its id is enough."""
    shown, missing = answers[1][4:6]
    assert shown.structured_content["trace_id"] == TRACE
    assert "info    done" in shown.structured_content["picture"]
    assert len(shown.structured_content["spans"]) == 1
    assert missing.is_error
    assert "0 of 5 traces begin with 'ffff'" in missing.content[0].text
    assert "; from the local store · " in missing.content[0].text


def test_what_is_large_is_bounded_and_says_so(answers: tuple[list[Any], list[Any]]) -> None:
    """A path of 300 stages, and their picture."""
    shown, late = (answer.structured_content for answer in answers[1][7:9])
    names = [span["name"] for span in shown["spans"]]
    assert names[:2] == ["step 1", "step 2"]
    assert shown["left_out"] == 300 - len(names) > 0
    assert len(str(shown)) < 80_000
    assert shown["picture"].endswith(f" more lines: otel-logging show --all {'c' * 32}")
    path = [step["stage"] for step in late["rows"][0]["path"]]
    assert (path[0], path[9], path[10], path[-1]) == ("step 1", "step 10", "step 291", "step 300")


def test_nothing_has_a_reason(answers: tuple[list[Any], list[Any]]) -> None:
    """Nobody was late, nothing is so new, or it is not clear which is meant."""
    *_, twins, _, _, late, failed = answers[1][: len(CALLS)]
    assert late.structured_content["summary"].startswith("none late of 1 stage")
    (said,) = failed.structured_content["there_is"]
    assert said == "the last stage ended 2023-11-14 22:13:28 +0000"
    assert twins.is_error
    assert f"say more digits of one: {TWINS}0, {TWINS}1; from" in twins.content[0].text


@pytest.mark.parametrize("number", range(len(WRONG)), ids=[f"{wrong[:2]}" for wrong in WRONG])
def test_what_is_asked_wrongly_is_said(answers: tuple[list[Any], list[Any]], number: int) -> None:
    """An argument that is unknown as well: it would change the question."""
    answer = answers[1][len(CALLS) + number]
    assert answer.is_error
    assert WRONG[number][2] in answer.content[0].text


def test_arguments_have_bounds_and_say_what_they_are(answers: tuple[list[Any], list[Any]]) -> None:
    for tool in answers[0]:
        schema = tool.input_schema
        assert schema["additionalProperties"] is False
        assert all(each["description"] for each in schema["properties"].values())


def test_an_empty_store_says_where_it_looked(tmp_path: Path) -> None:
    """And what has to be done."""
    _, (late, *_) = asyncio.run(asked("--source", "local", "--spool-dir", str(tmp_path)))
    said = f"Nothing is recorded in {tmp_path} yet: a stage appears here when it ends"
    assert late.structured_content["summary"].startswith(said)


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
