"""``otel-logging late`` and ``otel-logging show``, as they are typed."""

import errno
import json
import os
import re
import sys
import time
import tomllib
from collections.abc import Callable, Iterator
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

from otel_logging.__main__ import start
from otel_logging.cli import main
from otel_logging.spool import reading
from tests.commands import Runner
from tests.jaeger import FakeJaeger
from tests.lines import ROOT
from tests.programs import Done, child_environment, python
from tests.stored import TRACE, Planted, line, store

USER = {"user_id": "user-456"}
OTHER = "4bf9" + "0" * 28

Run = Callable[..., Result]


def strict(text: str) -> Any:
    """Parse JSON as strict as it is meant."""

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    return json.loads(text, parse_constant=refuse)


@pytest.fixture
def spool_dir(tmp_path: Path) -> Path:
    """A store with a late trace, a good one that ended later, and lines outside any stage."""
    return store(
        tmp_path / "spool",
        Planted(
            1,
            0,
            "message",
            0,
            1204,
            {**USER, "budget_s": 0.3, "ratio": float("nan")},
            [line(3, "utterance received", words=12, low=float("-inf"), high=[float("inf"), 1])],
            kind=2,
        ),
        Planted(2, 1, "transcribe", 5, 905, {"café": "\x1b"}, links=[("a" * 32, 77)], status=1),
        Planted(9, 2, "log", 700, 700, {"log.page": 1}, [line(700, "halfway")]),
        Planted(1, 0, "quick", 1000, 1300, {"budget_s": 1.0, "user_id": "user-1"}, trace=OTHER),
        Planted(1, 0, "process log", 0, 60_000, trace="c" * 32),
    )


@pytest.fixture
def run(spool_dir: Path) -> Run:
    def running(*arguments: str, place: Path = spool_dir, **options: Any) -> Result:
        return Runner().invoke(main, [*arguments, "--spool-dir", str(place)], **options)

    return running


def process(*arguments: str, **environment: str) -> Done:
    script = "from otel_logging.cli import main; main(prog_name='otel-logging')"
    return python("-c", script, *arguments, env={**os.environ, **environment}, text=False)


def heads_destroyed(base: Path) -> None:
    """Overwrite the head of each segment, of a store that was written before."""
    for segment in reading.segments(base):
        segment.write_bytes(bytes(40) + segment.read_bytes()[40:])


def test_what_cannot_be_read_is_in_the_place_of_the_answer(run: Run, spool_dir: Path) -> None:
    """And never passes ``--fail``; beside it, what can be read is shown as always."""
    heads_destroyed(spool_dir)
    nothing = run("late", "--fail", "--source", "local")
    assert nothing.stdout == f"Nothing can be read in {spool_dir}: what is there is damaged.\n"
    assert nothing.exit_code == 1
    assert run("late", "--source", "local").exit_code == 0

    store(spool_dir, Planted(1, 0, "quick", 0, 1, {"budget_s": 1.0}, trace="d" * 32))
    some = run("late", "--fail", "--source", "local")
    assert some.stdout.splitlines()[0].startswith("none late of 1 stage · ")
    assert "from the local store (some of it is damaged)" in some.stdout
    assert some.exit_code == 1


def test_the_script_runs_the_commands(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What pyproject.toml names is there."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    module, start = project["scripts"]["otel-logging"].split(":")
    monkeypatch.setattr(sys, "argv", ["otel-logging", "--version"])
    with pytest.raises(SystemExit) as ended:
        getattr(import_module(module), start)()
    assert ended.value.code == 0
    assert version("otel-logging") in capsys.readouterr().out


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux has it")
@pytest.mark.parametrize("arguments", [("late", "--json"), ("show",)])
def test_a_full_disk_is_one_line(spool_dir: Path, arguments: tuple[str, ...]) -> None:
    """Also where what was printed is written at the end; and nothing is tried again at exit."""
    command = ("-m", "otel_logging", *arguments, "--source", "local", "--spool-dir", spool_dir)
    with Path("/dev/full").open("wb") as full:
        done = python(*command, stdout=full, env=child_environment(PYTHONUNBUFFERED=""), anew=True)
    said = "Error: standard output cannot be written: No space left on device\n"
    assert done.returncode == 1
    assert done.stderr.endswith(said)
    assert set(done.stderr.removesuffix(said).splitlines()) <= {
        f"from the local store · {spool_dir}"
    }


def test_a_reader_that_has_gone_is_no_error_message() -> None:
    """``otel-logging late | head`` ends so."""
    reader, writer = os.pipe()
    os.close(reader)
    command = ("-m", "otel_logging", "spool", "--json")
    env = child_environment(PYTHONUNBUFFERED="")
    done = python(*command, stdout=writer, env=env, anew=True)
    os.close(writer)
    assert (done.returncode, done.stderr) == (1, "")


def test_an_error_of_the_system_that_nobody_expects_has_its_traceback(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It is for a report, and no full disk."""

    def denied() -> None:
        raise PermissionError(errno.EACCES, "denied")

    monkeypatch.setattr("otel_logging.cli.main", denied)
    with pytest.raises(PermissionError, match="denied"):
        start()


def test_ctrl_c_while_a_command_is_imported_is_no_traceback(tmp_path: Path) -> None:
    """It ends as one that runs."""
    (tmp_path / "click.py").write_text("raise KeyboardInterrupt")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = python("-m", "otel_logging", "late", env=environment, cwd=tmp_path.parent, anew=True)
    assert (done.returncode, done.stdout, done.stderr) == (1, "", "\nAborted!\n")


# ---------------------------------------------------------------- late


def test_late_prints_a_table(run: Run) -> None:
    """Without colours where there is no terminal."""
    result = run("late")

    assert result.exit_code == 0
    lines = result.output.splitlines()
    assert lines[0] == "late · 1 of 2 stages · 2023-11-14 22:13 +0000 · chat-gateway · local store"
    assert "1.204 s   904 ms  user-456  message" in lines[3]
    assert lines[3].endswith(f"  {TRACE[:8]}")
    assert lines[4].startswith("  └ transcribe 900 ms → itself")
    assert "\x1b" not in result.output


def test_late_as_json_is_the_documented_array(run: Run) -> None:
    """Strict JSON."""
    result = run("late", "--json")

    assert result.exit_code == 0
    (row,) = strict(result.stdout)
    assert [(step["stage"], step["took_s"]) for step in row.pop("path")] == [
        ("message", 1.204),
        ("transcribe", 0.9),
    ]
    assert row.pop("reason").startswith("transcribe 900 ms → itself")
    nothing = ("cause", "detail", "culprit", "why", "where", "shares", "link")
    assert row == {
        "schema": 2,
        "trace_id": TRACE,
        "span_id": f"{1:016x}",
        "service": "chat-gateway",
        "stage": "message",
        "start": "2023-11-14T22:13:20.000000Z",
        "latency_s": 1.204,
        "budget_s": 0.3,
        "late_by_s": 0.904,
        "late": True,
        "error": False,
        "who": USER,
        "culprit_who": {},
        **dict.fromkeys(nothing),
    }


def found(result: Result) -> list[str]:
    assert result.exit_code == 0, result.output
    return [row["stage"] for row in strict(result.stdout)]


@pytest.mark.parametrize(
    ("arguments", "stages"),
    [
        (("--over", "0.1"), ["message", "quick"]),
        (("--over", ".1"), ["message", "quick"]),
        (("--over", "500ms"), ["message"]),
        (("--over", "2s"), []),
        (("--over", "0.1", "--who", "user-1"), ["quick"]),
        (("--over", "0.1", "--where", "budget_s=1.0"), ["quick"]),
        (("--over", "0.1", "--where", "budget_s=1.0", "--where", "user_id=user-456"), []),
        (("--over", "0.1", "--where", "user_id=user-1", "--where", "budget_s=1.0"), ["quick"]),
        (("--over", "0.1", "--limit", "1"), ["message"]),
        (("--service", "chat-gateway"), ["message"]),
        (("--service", "billing"), []),
        (("--since", "1d"), []),
    ],
)
def test_late_answers_what_was_asked(
    run: Run, arguments: tuple[str, ...], stages: list[str]
) -> None:
    """Each option by itself and together."""
    assert found(run("late", "--json", *arguments)) == stages


@pytest.mark.parametrize("since", ["90s", "1.5m", "2h", "1d", "90000ms"])
def test_since_counts_back_from_now(run: Run, tmp_path: Path, since: str) -> None:
    """In seconds, minutes, hours or days."""
    minute_ago = time.time_ns() - 60 * 10**9
    place = store(tmp_path / "now", Planted(1, 0, "recent", -1000, 0), origin=minute_ago)

    assert found(run("late", "--json", "--since", since, place=place)) == ["recent"]
    assert found(run("late", "--json", "--since", "59s", place=place)) == []


def test_a_table_has_a_screenful_of_rows_and_json_has_all(run: Run, tmp_path: Path) -> None:
    """Unless a limit is given."""
    spans = [Planted(1, 0, "m", 0, n, trace=f"{n:032x}") for n in range(1, 26)]
    place = store(tmp_path / "many", *spans)

    assert len(found(run("late", "--json", place=place))) == 25
    assert "and 5 more: --limit 25" in run("late", place=place).output
    assert "more" not in run("late", "--limit", "25", place=place).output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--since", "90"), "'90' is not a duration: say 90s, 15m, 2h or 1d"),
        (("--since", "yesterday"), "'yesterday' is not a duration"),
        (("--over", "nan"), "'nan' is not a duration: 0.3 is 0.3 seconds"),
        (("--over", "-1"), "'-1' is not a duration"),
        (("--since", f"{'9' * 400}d"), "99d' is not a duration"),
        (("--where", "room"), "'room' is not an attribute: say key=value"),
        (("--where", "=x"), "'=x' is not an attribute"),
        (("--limit", "0"), "0 is not in the range x>=1"),
    ],
)
def test_a_wrong_option_is_reported(run: Run, arguments: tuple[str, ...], message: str) -> None:
    """With what would have been right; exit code 2."""
    result = run("late", *arguments)

    assert result.exit_code == 2
    assert message in result.output


def test_a_file_in_place_of_the_store_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a variable names it too; exit code 1, as of any variable that is invalid."""
    file = tmp_path / "file"
    file.touch()
    monkeypatch.setenv("OTEL_LOGGING_SPOOL_DIR", str(file))
    for command in ("late", "show", "now", "spool"):
        result = Runner().invoke(main, [command])
        assert result.exit_code == 1
        assert result.output == f"Error: {file} is a file, not a directory\n"


# ---------------------------------------------------------------- show


def test_show_draws_the_trace_that_ended_last(run: Run) -> None:
    """With and without --last."""
    result = run("show")

    assert result.exit_code == 0
    assert result.output == run("show", "--last").output
    assert f"trace {OTHER} · " in result.output
    assert "\x1b" not in result.output


def test_show_draws_the_trace_asked_for(run: Run) -> None:
    """By its id or the first digits of it, in any case."""
    result = run("show", TRACE)

    assert "utterance received" in result.output
    assert run("show", TRACE[:8].upper()).output == result.output


@pytest.mark.parametrize(
    ("arguments", "exit_code", "message"),
    [
        (("abcd",), 1, "Error: No trace abcd among the 3 read.\nfrom the local store; no Jaeger"),
        (("4bf9",), 1, f"2 traces begin with 4bf9:\n  {TRACE}\n  {OTHER}\n"),
        (("4bf", "--json"), 2, "'4bf' is not a trace id: say 4 to 32 hexadecimal digits"),
        (("message",), 2, "'message' is not a trace id"),
        ((TRACE, "--last"), 2, "say TRACE_ID, or --last and --who"),
        ((TRACE, "--service", "billing"), 1, "Nothing of billing; known services: chat-"),
        (("--service", "billing"), 1, "Error: Nothing of billing; known services: "),
        (("--who", "\u202egnp"), 1, r"Error: Nothing of \u202egnp; known users (user_id): "),
    ],
)
def test_show_reports_why_it_has_nothing_to_show(
    run: Run, spool_dir: Path, arguments: tuple[str, ...], exit_code: int, message: str
) -> None:
    """Clearly; nothing else is shown in its place; what is not there names what was read."""
    result = run("show", *arguments)

    assert result.exit_code == exit_code
    assert message in result.output
    assert ("from the local store" in result.output) == ("No" in message)
    assert (f" · {spool_dir}" in result.output) == ("No" in message)


def test_a_user_or_service_that_is_not_there(run: Run, tmp_path: Path) -> None:
    """Those that are there are named, ten of them at most; where they are, nothing is added."""
    result = run("late", "--who", "u8", "--service", "nope")
    assert "known services: chat-gateway" in result.output
    assert "known users (user_id): user-456, user-1" in result.output
    result = run("late", "--who", "user-1", "--service", "chat-gateway")
    assert "there are" not in result.output
    result = run("failed", "--where", "user_id=user-1", "--where", "user_id=x", "--where", "no=1")
    assert "known values of user_id: user-456, user-1\n" in result.output
    assert "known values of no: none\n" in result.output
    users = [
        Planted(n, 0, "m", 0, 1, {"user_id": f"u{n}"}, trace=f"{n:032x}") for n in range(1, 13)
    ]
    result = run("late", "--who", "x", place=store(tmp_path / "many", *users))
    assert result.output.count(", u") == 9
    assert "u10, and 2 more" in " ".join(result.output.split())
    result = run("late", "--who", "x", place=store(tmp_path / "one", Planted(1, 0, "m", 0, 1)))
    assert "known users (user_id): none" in result.output


@pytest.mark.parametrize(
    "command",
    [
        ("late", "--json"),
        ("late", "--summary"),
        ("late", "--group", "stage"),
        ("late", "--html", "page"),
        ("failed",),
        ("failed", "--json"),
        ("spool",),
        ("spool", "--json"),
        ("spool", "--export", "page"),
        ("spool", "--export", "page", "--json"),
        ("spool", "--resend"),
        ("spool", "--purge", "--yes"),
    ],
)
def test_each_command_names_what_there_is(
    run: Run, command: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Programs read it on stderr."""
    monkeypatch.chdir(tmp_path)
    result = run(*command, "--service", "nope")
    assert result.exit_code == 0
    assert "known services: chat-gateway" in result.output
    is_aside = "--json" in command or "page" in command
    assert is_aside is ("known services" not in result.stdout)
    result = run(*command, "--service", "chat-gateway")
    assert "there are" not in result.output


def test_the_package_is_a_program_as_well(tmp_path: Path) -> None:
    """Whose usage says how it was started."""
    env = child_environment(OTEL_LOGGING_SPOOL_DIR=str(tmp_path))
    done = python("-m", "otel_logging", "late", "--source", "local", env=env)
    assert (done.returncode, done.stderr) == (0, "")
    assert "Nothing is recorded in" in done.stdout
    done = python("-m", "otel_logging", "late", "--nope", env=env)
    assert done.returncode == 2
    assert "Usage: python -m otel_logging late [OPTIONS]\n" in done.stderr


def test_a_module_that_no_extra_brings_is_no_advice(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is a fault of the installation, with its traceback."""
    monkeypatch.setitem(sys.modules, "otel_logging.doctor", None)
    assert isinstance(run("doctor").exception, ModuleNotFoundError)


def test_the_commands_fit_80_columns() -> None:
    """No sentence about a command is cut, as click cuts long ones."""
    shown = Runner().invoke(main, ["--help"], terminal_width=80, max_content_width=80).stdout
    for name in main.commands:
        (line,) = re.findall(rf"^  {name} .*$", shown, re.MULTILINE)
        assert line.endswith(".")
        assert not line.endswith("...")


def test_the_version_is_the_packages() -> None:
    done = Runner().invoke(main, ["--version"])
    assert done.output == f"otel-logging, version {version('otel-logging')}\n"


def test_an_ambiguous_trace_id_lists_the_candidates(run: Run, tmp_path: Path) -> None:
    """All of them."""
    place = store(
        tmp_path / "many", *(Planted(1, 0, "m", 0, 1, trace=f"{n:032x}") for n in range(1, 8))
    )

    result = run("show", "0000", place=place)

    assert result.exit_code == 1
    assert result.output.startswith("Error: 7 traces begin with 0000:")
    assert result.output.count("\n  0000") == 7


def test_lines_alone_are_not_a_last_trace(run: Run, tmp_path: Path) -> None:
    """There is nothing that took time."""
    place = store(tmp_path / "lines", Planted(1, 0, "process log", 0, 9, {}, [line(1, "ready")]))

    result = run("show", place=place)

    assert result.exit_code == 1
    assert "No stage has ended yet; only log lines are there." in result.output


def test_show_as_json_is_the_documented_object(run: Run) -> None:
    """Every span as it was recorded, by start; strict JSON, whatever the values."""
    result = run("show", TRACE, "--json")

    assert result.exit_code == 0
    assert strict(result.stdout) == {
        "schema": 2,
        "trace_id": TRACE,
        "spans": [
            {
                "span_id": f"{1:016x}",
                "parent_span_id": None,
                "service": "chat-gateway",
                "name": "message",
                "kind": "server",
                "start": "2023-11-14T22:13:20.000000Z",
                "duration_s": 1.204,
                "status": "unset",
                "attributes": {**USER, "budget_s": 0.3, "ratio": "NaN"},
                "links": [],
                "events": [
                    {
                        "time": "2023-11-14T22:13:20.003000Z",
                        "name": "utterance received",
                        "attributes": {
                            "level": "info",
                            "logger": "chat",
                            "words": 12,
                            "low": "-Infinity",
                            "high": ["Infinity", 1],
                        },
                    }
                ],
            },
            {
                "span_id": f"{2:016x}",
                "parent_span_id": f"{1:016x}",
                "service": "chat-gateway",
                "name": "transcribe",
                "kind": "internal",
                "start": "2023-11-14T22:13:20.005000Z",
                "duration_s": 0.9,
                "status": "ok",
                "attributes": {"café": "\x1b"},
                "links": [
                    {
                        "trace_id": "a" * 32,
                        "span_id": f"{77:016x}",
                        "attributes": {"why": "asked"},
                    }
                ],
                "events": [],
            },
            {
                "span_id": f"{9:016x}",
                "parent_span_id": f"{2:016x}",
                "service": "chat-gateway",
                "name": "log",
                "kind": "internal",
                "start": "2023-11-14T22:13:20.700000Z",
                "duration_s": 0.0,
                "status": "unset",
                "attributes": {"log.page": 1},
                "links": [],
                "events": [
                    {
                        "time": "2023-11-14T22:13:20.700000Z",
                        "name": "halfway",
                        "attributes": {"level": "info", "logger": "chat"},
                    }
                ],
            },
        ],
    }
    assert result.stdout.isascii()


# ---------------------------------------------------------------- an empty store


def test_an_empty_store_is_no_error_for_late(run: Run, tmp_path: Path) -> None:
    """A sentence that says where was looked, or an empty array."""
    result = run("late", place=tmp_path / "nowhere")

    assert result.exit_code == 0
    assert result.output.startswith(f"Nothing is recorded in {tmp_path / 'nowhere'} yet: ")
    assert result.output.count("\n") == 1
    assert run("late", "--json", place=tmp_path / "nowhere").stdout == "[]\n"


def test_an_empty_store_has_nothing_to_show(tmp_path: Path) -> None:
    """Exit code 1, and nothing on standard output."""
    result = process("show", "--json", "--spool-dir", str(tmp_path / "nowhere"))

    assert result.returncode == 1
    assert result.stdout == b""
    assert result.stderr.startswith(b"Error: Nothing is recorded in ")


# ---------------------------------------------------------------- Jaeger


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeJaeger]:
    """A Jaeger that has the late trace, of now, and another."""
    with FakeJaeger() as running:
        monkeypatch.setenv("OTEL_LOGGING_JAEGER_URL", running.url)
        late = Planted(1, 0, "message", -1204, 0, {**USER, "budget_s": 0.3})
        running.plant(late, origin=time.time_ns())
        good = Planted(1, 0, "charge", -900, -700, {"budget_s": 0.5}, trace="b" * 32)
        running.plant(good, origin=time.time_ns(), service="billing")
        yield running


def test_late_reads_store_and_jaeger_and_names_both_sources(
    run: Run, fake: FakeJaeger, spool_dir: Path
) -> None:
    """Below the table; each row has its link where Jaeger has its trace, whole in any width."""
    lines = run("late").output.splitlines()

    assert lines[0].startswith("late · 1 of 3 stages · ")
    assert f"  {fake.url}/trace/{TRACE}?uiFind={1:016x}%20{2:016x}" in lines
    assert lines[-2:] == [f"from the local store and Jaeger at {fake.url}", str(spool_dir)]


def test_json_has_the_link_and_stderr_the_sources(
    run: Run, fake: FakeJaeger, spool_dir: Path
) -> None:
    """Programs get nothing but JSON."""
    result = run("late", "--json")

    assert (
        strict(result.stdout)[0]["link"] == f"{fake.url}/trace/{TRACE}?uiFind={1:016x}%20{2:016x}"
    )
    assert result.stderr == f"from the local store and Jaeger at {fake.url} · {spool_dir}\n"


def test_late_from_one_source_names_it(run: Run, fake: FakeJaeger, spool_dir: Path) -> None:
    """The same trace, read from Jaeger."""
    local = run("late", "--source", "local")
    jaeger = run("late", "--source", "jaeger")

    assert "late · 1 of 2 stages" in local.output
    assert local.output.endswith(f"\nfrom the local store\n{spool_dir}\n")
    assert "late · 1 of 2 stages" in jaeger.output
    assert jaeger.output.endswith(f"\nfrom Jaeger at {fake.url}\n")
    assert run("late", "--source", "nobody").exit_code == 2


def test_what_was_not_counted_is_not_shown(run: Run, fake: FakeJaeger) -> None:
    """With --over Jaeger looks for those over it alone."""
    assert run("late", "--over", "1").output.startswith("late · 1 · 2023-")
    assert run("late", "--over", "9").output.startswith("none late · 2023-")


def test_show_reads_both_and_has_the_link(run: Run, fake: FakeJaeger, spool_dir: Path) -> None:
    """Of the outermost span; also in JSON the sources are said, on stderr."""
    lines = run("show", TRACE).output.splitlines()

    assert lines[2] == f"{fake.url}/trace/{TRACE}?uiFind={1:016x}%20{2:016x}"
    assert lines[-2:] == [f"from the local store and Jaeger at {fake.url}", str(spool_dir)]
    assert run("show", "--source", "jaeger").exit_code == 0
    as_json = run("show", "b" * 32, "--source", "jaeger", "--json")
    assert [span["name"] for span in strict(as_json.stdout)["spans"]] == ["charge"]
    assert as_json.stderr == f"from Jaeger at {fake.url}\n"


@pytest.mark.parametrize("command", ["late", "show"])
def test_a_jaeger_that_was_asked_for_and_is_not_there_is_an_error(run: Run, command: str) -> None:
    """Exit code 1, and nothing on standard output."""
    result = run(command, "--source", "jaeger")

    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == "Error: nothing listens at http://127.0.0.1:1\n"


def test_an_empty_jaeger_is_no_error_for_late(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """As an empty store."""
    with FakeJaeger() as empty:
        monkeypatch.setenv("OTEL_LOGGING_JAEGER_URL", empty.url)
        result = run("late", "--source", "jaeger")
        assert result.exit_code == 0
        assert result.output.startswith(
            "Nothing of the last 24 hours matches: read from Jaeger at "
        )
        assert run("show", "--source", "jaeger").exit_code == 1


@pytest.mark.parametrize(
    ("command", "beginning"),
    [
        (["late", "--since", "30s"], "Nothing matches: read from Jaeger at "),
        (["show", "c" * 32], "Error: Nothing matches: read from Jaeger at "),
        (["show", "c" * 6], "Error: Nothing of the last 24 hours matches: read from Jaeger at "),
        (["show"], "Error: Nothing of the last 24 hours matches: read from Jaeger at "),
    ],
    ids=str,
)
def test_how_far_back_was_looked_is_reported(
    run: Run, monkeypatch: pytest.MonkeyPatch, command: list[str], beginning: str
) -> None:
    """Of a whole id Jaeger has all there is, and --since says itself how far."""
    with FakeJaeger() as empty:
        monkeypatch.setenv("OTEL_LOGGING_JAEGER_URL", empty.url)
        assert run(*command, "--source", "jaeger").output.startswith(beginning)


def test_a_bad_address_is_reported(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """With what is allowed."""
    monkeypatch.setenv("OTEL_LOGGING_JAEGER_URL", "localhost:16686")

    result = run("late")

    assert result.exit_code == 1
    assert "Error: OTEL_LOGGING_JAEGER_URL='localhost:16686': a URL like" in result.output


# ---------------------------------------------------------------- as a process


def test_the_store_is_where_the_settings_say(spool_dir: Path) -> None:
    """Without --spool-dir: the variable, or else the user's own place."""
    given = process("late", "--json", OTEL_LOGGING_SPOOL_DIR=str(spool_dir))
    own = process("late", OTEL_LOGGING_SPOOL_DIR="")

    assert [row["stage"] for row in strict(given.stdout.decode())] == ["message"]
    assert own.returncode == 0
    assert b"otel_logging" in own.stdout


def test_an_encoding_without_the_signs_is_no_error(spool_dir: Path) -> None:
    """They become question marks."""
    result = process("show", TRACE, "--spool-dir", str(spool_dir), PYTHONIOENCODING="ascii")

    assert result.returncode == 0
    assert b"transcribe" in result.stdout
    assert result.stderr == b""


def test_colour_is_asked_for_and_taken_away(spool_dir: Path) -> None:
    """FORCE_COLOR paints in a pipe, NO_COLOR leaves weight alone."""
    colours = b"\x1b[33m"  # yellow: what is late
    place = ("--spool-dir", str(spool_dir))

    assert colours in process("show", TRACE, *place, FORCE_COLOR="1", TERM="xterm").stdout
    bare = process("show", TRACE, *place, FORCE_COLOR="1", TERM="xterm", NO_COLOR="1").stdout
    assert colours not in bare
    assert b"LATE" in bare
