"""The fixture ``captured``, by a real pytest in a child process, as a user runs it."""

import os
import re
from importlib.metadata import entry_points
from pathlib import Path
from textwrap import indent

import pytest

from tests.lines import ROOT
from tests.programs import python
from tests.readme import blocks

#: Of a user's test directory, which has no configuration.
_LEFT_OUT = ("cacheprovider", "faker", "hypothesispytest", "xdist", "xdist.looponfail")
ALONE = (*(f"-pno:{name}" for name in _LEFT_OUT), "--rootdir", ".", "-c", os.devnull)


def run(directory: Path, *codes: str, options: tuple[str, ...] = ()) -> str:
    """Run each of *codes* as a file of tests and return what pytest printed."""
    names = [f"test_of_a_user_{number}.py" for number in range(len(codes))]
    for name, code in zip(names, codes, strict=True):
        (directory / name).write_text(code, "utf-8")
    done = python("-m", "pytest", *ALONE, *options, *names, cwd=directory, anew=True)
    assert done.returncode in (0, 1), done.stdout + done.stderr
    return str(done.stdout)


def test_the_entry_point_is_there() -> None:
    """Installed as the README says; else: ``pip install -e .`` again."""
    (found,) = [p for p in entry_points(group="pytest11") if p.name == "otel_logging"]
    assert found.value == "pytest_otel_logging"


def test_a_user_has_the_fixture_without_an_import(tmp_path: Path) -> None:
    """Synchronous tests, coroutines, threads; options by a mark; each test anew."""
    code = """
import asyncio, threading
import pytest
from otel_logging import bind_context, get_logger, setup_observability, traced
log = get_logger("shop")

def work(user):
    with traced("work"):
        bind_context(user_id=user)
        log.info("worked")

def test_synchronous(captured):
    setup_observability("cart")
    work("u-1")
    assert captured.line("worked")["user_id"] == "u-1"
    assert captured.span("work")["service"] == "cart"

def test_each_anew(captured):
    assert captured.tree == []
    bind_context(user_id="stays with this test")

def test_asynchronous(captured):
    async def many():
        await asyncio.gather(*(asyncio.to_thread(work, f"u-{n}") for n in range(20)))
    asyncio.run(many())
    assert sorted(line["user_id"] for line in captured.lines) == sorted(f"u-{n}" for n in range(20))

@pytest.fixture
def anyio_backend():
    return "asyncio"

@pytest.mark.anyio
async def test_by_a_plugin_that_runs_coroutines(anyio_backend, captured):
    work("u-1")
    await asyncio.to_thread(work, "u-2")
    assert [span["attributes"]["user_id"] for span in captured.spans] == ["u-1", "u-2"]

@pytest.mark.captured(fixed=True, log_level="debug")
def test_with_a_fixed_clock(captured):
    with traced("work"):
        log.debug("worked")
    (work,) = captured.tree
    assert (work["span_id"], work["duration_s"]) == ("0000000000000001", 0.002)
    assert "user_id" not in work["attributes"]

class TestInAClass:
    def test_it(self, captured):
        work("u-1")
        assert len(captured.spans) == 1

def test_without_it():
    with traced("work") as span:
        assert not span.is_recording()
"""
    out = run(tmp_path, code, options=("-q", "-W", "error", "--strict-markers"))
    assert "7 passed" in out, out


def test_the_tree_of_a_failed_test_is_in_its_report(tmp_path: Path) -> None:
    """Where there is something to show; not of those that pass."""
    code = """
import pytest
from otel_logging import get_logger, traced

@pytest.fixture
def client(captured):
    yield
    assert "torn down" == "badly"

def test_fails(captured):
    with traced("checkout", order_id="o-1"):
        get_logger("shop").info("paid", amount=3)
    assert False

def test_fails_with_nothing_to_show(captured):
    assert False

def test_passes(captured):
    with traced("passed"):
        pass

def test_fails_later(client):
    with traced("of the client"):
        pass

def test_without_it():
    assert False
"""
    out = run(tmp_path, code)
    assert "3 failed, 2 passed, 1 error" in out, out
    assert out.count("captured spans and lines") == 2
    assert re.search(r"^of the client .*s$", out, re.M)
    assert re.search(r"^checkout .*s  order_id=o-1\n  info paid  amount=3 logger=shop$", out, re.M)
    assert not re.search(r"^passed ", out, re.M)


def test_a_run_that_does_not_use_it_does_not_import_the_package(tmp_path: Path) -> None:
    """pytest starts as quickly as without, and coverage of the package is whole."""
    code = "import sys\ndef test_it():\n    assert 'otel_logging' not in sys.modules\n"
    assert "1 passed" in run(tmp_path, code)


def test_it_can_be_left_out_by_name(tmp_path: Path) -> None:
    """``-p no:otel_logging``."""
    code = "def test_it(captured):\n    pass\n"
    out = run(tmp_path, code, options=("-p", "no:otel_logging"))
    assert "fixture 'captured' not found" in out


@pytest.mark.captured(fixed=True)
def test_in_this_very_process(request: pytest.FixtureRequest) -> None:
    """The plugin is loaded here too."""
    captured = request.getfixturevalue("captured")
    assert repr(captured) == "<Captured [0 spans, 0 lines]>"


def test_the_example_of_the_documentation(tmp_path: Path) -> None:
    """docs/testing.md, letter by letter; and what it says a report looks like."""
    page = ROOT / "docs" / "testing.md"
    (example,) = blocks("python", page)
    failing = example.replace('"order_id": "o-1",\n', "")
    out = run(tmp_path, example, failing)
    assert "1 failed, 3 passed" in out
    assert "FAILED test_of_a_user_1.py" in out
    report = "checkout 2.0 ms  order_id=o-1\n  info order placed  items=3 logger=shop\n"
    assert report in out
    assert indent(report, "    ") in page.read_text("utf-8")
