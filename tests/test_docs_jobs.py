"""docs/jobs.md: each program is run, and prints what stands under it."""

import re
from pathlib import Path
from subprocess import STDOUT

import pytest

from tests.lines import ROOT
from tests.programs import child_environment, good, python
from tests.readme import blocks

PAGE = ROOT / "docs" / "jobs.md"
PROGRAMS = blocks("python", PAGE)
PRINTED = blocks("text", PAGE)


@pytest.mark.parametrize("number", range(len(PROGRAMS)))
def test_a_program_prints_what_stands_under_it(number: int, tmp_path: Path) -> None:
    """But for the time of day, and the places in a traceback."""
    env = child_environment(OTEL_TRACES_EXPORTER="none", ENVIRONMENT="development")
    done = good(python("-c", PROGRAMS[number], cwd=tmp_path, env=env, stderr=STDOUT))
    printed = re.sub(r"^\d\d:\d\d:\d\d\.\d{3}", "14:03:07.123", done.stdout, flags=re.M)
    printed = re.sub(r"(^ {6}.*\n)+", "      ...\n", printed, flags=re.M)
    assert printed == PRINTED[number]


def test_every_program_says_what_it_prints() -> None:
    """A new one needs its output."""
    assert len(PROGRAMS) == len(PRINTED)
