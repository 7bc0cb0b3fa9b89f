"""Every block of the README is executed: here, by CI where it installs, by tests/compose."""

import json
import re
import shlex
import sys
from pathlib import Path

from otel_logging.cli import main
from tests.commands import Runner
from tests.programs import child_environment, good, python
from tests.readme import blocks
from tests.spools import ROOT

MAIN = "from otel_logging.cli import main; main()"
CI = (ROOT / ".ci" / "run").read_text("utf-8")


def test_the_example_does_what_it_says(tmp_path: Path) -> None:
    """Its lines are JSON with a trace, and its late stage is found by the command."""
    (example,) = blocks("python")
    env = child_environment(OTEL_LOGGING_SPOOL_DIR=str(tmp_path / "spool"))
    done = good(python("-c", example, cwd=tmp_path, env=env))
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    received, transcribed, late_line = (line["event"] for line in lines)
    assert (received, transcribed) == ("utterance received", "transcribed")
    assert late_line.startswith("user-456's transcribe of ")
    assert all(line["user_id"] == "user-456" and line["trace_id"] for line in lines)
    late = good(python("-c", MAIN, "late", "--json", cwd=tmp_path, env=env))
    (row,) = json.loads(late.stdout)
    assert (row["stage"], row["who"]) == ("transcribe", {"user_id": "user-456"})


def test_a_program_is_set_up_with_no_line_of_its_own(tmp_path: Path) -> None:
    (block,) = (block for block in blocks("sh") if "otel-logging run" in block)
    command, python_itself = ".venv/bin/otel-logging", ".venv/bin/python"
    first, *given = [sys.executable if w == python_itself else w for w in shlex.split(block)]
    assert first == command
    env = child_environment(OTEL_LOGGING_SPOOL_DIR=str(tmp_path / "spool"))
    done = good(python("-c", MAIN, *given, cwd=tmp_path, env=env))
    (line,) = map(json.loads, done.stdout.splitlines())
    assert (line["event"], line["level"]) == ("sold out", "warning")


def test_ci_runs_every_shell_block_letter_by_letter() -> None:
    """What installs is run by .ci/run in a clean copy; a new block needs its line there.

    The one that takes a Docker engine is run by tests/compose.
    """
    run = {int(number) for number in re.findall(r"tests/readme\.py sh (\d+)", CI)}
    compose = {n for n, block in enumerate(blocks("sh")) if "docker compose" in block}
    assert len(compose) == 1
    assert run | compose == set(range(len(blocks("sh"))))


def test_the_commands_of_the_shell_blocks_exist() -> None:
    """Each ``otel-logging`` command that is named answers to --help."""
    named = set(re.findall(r"otel-logging (\w+)", "\n".join(blocks("sh"))))
    assert named == {"demo", "failed", "late", "run", "show"}
    for command in sorted(named):
        assert Runner().invoke(main, [command, "--help"]).exit_code == 0
