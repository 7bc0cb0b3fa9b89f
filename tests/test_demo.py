"""The demo as a stranger runs it: a child process, and what it left in its spool and sent."""

import asyncio
import json
import os
import re
import shlex
import signal
import sys
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from otel_logging import demo
from tests.programs import Done, end, python, start
from tests.receiver import Receiver, Span

MAIN = "from otel_logging.cli import main; main()"
#: Each user's, but that one asks once.
MESSAGES_OF = dict.fromkeys(demo.USERS, len(demo.MESSAGES)) | {demo.HOARDER: 1}
MESSAGES = sum(MESSAGES_OF.values())
LATE = {demo.HOARDER, demo.CAREFUL, demo.NEIGHBOUR}
ROOTS = MESSAGES + len(demo.USERS)  # and a handshake each
OURS = re.compile("OTEL_|LOG_|ENVIRONMENT$|NO_COLOR$|FORCE_COLOR$|COLUMNS$")


def environment(home: Path, **variables: str) -> dict[str, str]:
    """What this process has, but for what would change what the demo does."""
    inherited = {name: value for name, value in os.environ.items() if not OURS.match(name)}
    homes = dict.fromkeys(("HOME", "USERPROFILE", "LOCALAPPDATA", "XDG_STATE_HOME"), str(home))
    # should something go by a proxy, it does not arrive
    proxies = dict.fromkeys(("http_proxy", "ws_proxy", "all_proxy"), "http://127.0.0.1:9")
    return {**inherited, **homes, **proxies, **variables}


def otel_logging(*arguments: str, **variables: Any) -> Done:
    return python("-c", variables.pop("main", MAIN), *arguments, env=environment(**variables))


def lines_and_pictures(output: str) -> tuple[list[str], str]:
    lines, heading, rest = output.partition("\nmessage LATE · ")
    return lines.splitlines(), heading[1:] + rest


def table_of(pictures: str) -> str:
    """The table, which stands below the picture."""
    table = pictures[pictures.index("\nlate · ") + 1 :]
    return table.partition("\n\nLook further:")[0]


class Ran:
    """A demo that has ended, without a collector; its store is where the user's own would be.
    Beside it ran another with a *collector*, as in production, and a store of its own.
    """

    def __init__(self, home: Path, endpoint: str, collector: Receiver) -> None:
        self.home, self.endpoint, self.collector = home, endpoint, collector
        self.cli = cache(self._cli)  # it has ended: each question has one answer
        self.spool = home / "of one's own"
        variables = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.endpoint, "ENVIRONMENT": "production"}
        second = start(
            *(sys.executable, "-c", MAIN, "demo", "--spool-dir", self.spool),
            env=environment(home, **variables),
        )
        self.result = self.cli("demo")
        self.second = end(second)
        self.lines, self.pictures = lines_and_pictures(self.result.stdout)

    def _cli(self, *arguments: str) -> Done:
        return otel_logging(*arguments, home=self.home, OTEL_EXPORTER_OTLP_ENDPOINT=self.endpoint)

    def late(self, *arguments: str) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = json.loads(self.cli("late", "--json", *arguments).stdout)
        return rows


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ran]:
    with Receiver() as collector:
        with Receiver() as nobody:
            pass
        yield Ran(tmp_path_factory.mktemp("home"), nobody.endpoint, collector)


def test_ends_well_and_says_nothing_on_stderr(ran: Ran) -> None:
    assert (ran.result.returncode, ran.result.stderr) == (0, "")


def test_prints_each_step_of_each_message_as_a_plain_line(ran: Ran) -> None:
    told = [line for line in ran.lines if "'s message" in line]
    assert Counter(
        re.search(r"(\w+)'s message of ", line)[1] for line in told if "took" in line
    ) == (  # type: ignore[index]
        dict.fromkeys(LATE, 1)
    )
    own = [line for line in ran.lines if line not in told and line[0] != " "]  # stacks are below
    steps = Counter(line[22:54].strip() for line in own)
    assert steps == {
        "instrumented": 1,
        "connected": len(demo.USERS),
        "message received": MESSAGES,
        "history searched": MESSAGES - 1,  # a new password needs none
        "reply sent": MESSAGES,
    }
    assert "\x1b" not in ran.result.stdout


def test_the_lines_of_a_message_have_one_trace_id_and_one_user(ran: Ran) -> None:
    lines = [line for line in ran.lines if "connected" not in line]
    found = [re.search(r"user_id=(\w+) .*chat ·([0-9a-f]{8})$", line) for line in lines]
    lines_of = Counter(match.groups() for match in found if match)
    assert set(lines_of.values()) == {2, 3}
    assert Counter(user_id for user_id, _ in lines_of) == MESSAGES_OF


def test_the_late_table_names_the_user_and_the_stage(ran: Ran) -> None:
    table = table_of(ran.pictures)
    assert table.startswith(f"late · {len(LATE)} of {ROOTS} stages · ")
    rows = [row for row in table.splitlines()[3:] if not row.startswith(" ")]
    assert {row.split()[-3] for row in rows} == LATE
    reasons = {row["who"]["user_id"]: row for row in ran.late()}
    assert reasons[demo.NEIGHBOUR]["cause"] == "loop"
    assert reasons[demo.NEIGHBOUR]["culprit_who"] == {"user_id": demo.CAREFUL}
    assert "set_password" in reasons[demo.CAREFUL]["detail"]
    assert reasons[demo.HOARDER]["culprit_who"] in (None, {})


def test_its_answer_ends_on_a_screen_of_80_by_24(ran: Ran) -> None:
    ends = ran.result.stdout.splitlines()[-23:]
    assert any(line.startswith("late · ") for line in ends)
    assert all(len(line) <= 80 for line in ends)


def test_the_table_is_what_the_command_says(ran: Ran) -> None:
    table = table_of(ran.pictures)
    said = ran.cli("late").stdout.split("\n\nfrom the local store")[0]
    assert said.splitlines()[1:] == table.splitlines()[1:]  # root's reads more directories
    assert said.startswith(table.splitlines()[0].partition(" · local store")[0])
    short = re.findall("(?m)  ([0-9a-f]{8})$", table)
    assert short == [row["trace_id"][:8] for row in ran.late()]


def test_one_message_each_of_these_users_is_late_and_no_other(ran: Ran) -> None:
    everything = ran.late("--over", "0.000001", "--service", demo.SERVICE)
    assert all(row["reason"] for row in everything)
    messages = [row for row in everything if row["stage"] == "message"]
    assert Counter(row["who"]["user_id"] for row in messages) == MESSAGES_OF
    over = [row["who"]["user_id"] for row in messages if row["latency_s"] > row["budget_s"]]
    assert sorted(over) == sorted(LATE)


def test_the_picture_is_that_of_the_worst_message(ran: Ran) -> None:
    worst = ran.late()[0]["trace_id"]
    picture = ran.cli("show", worst).stdout.split("\n\nfrom the local store")[0]
    assert ran.pictures.startswith(picture)
    for line in ("message received", "history searched", "reply sent"):
        assert f" info    {line}" in ran.pictures


def test_names_the_commands_and_the_collector_to_look_further(ran: Ran) -> None:
    said = ran.pictures.partition("Look further:")[2].splitlines()
    assert said[1] == "  otel-logging late"
    shown = ran.cli(*said[2].split()[1:])
    assert f"trace {ran.late()[0]['trace_id']}" in shown.stdout
    assert said[3] == f"A collector at {ran.endpoint}/v1/traces passes them on to Jaeger."


def test_once_more_with_a_collector_as_in_production(ran: Ran) -> None:
    """Beside the first one's store: each message's trace arrives, under its own user."""
    assert (ran.second.returncode, ran.second.stderr) == (0, "")
    lines, pictures = lines_and_pictures(ran.second.stdout)
    assert table_of(pictures).startswith(f"late · {len(LATE)} of {ROOTS} stages · ")
    assert f"  otel-logging late --spool-dir {shlex.quote(str(ran.spool))}\n" in pictures

    said = [json.loads(line) for line in lines]
    user_of = {line["trace_id"]: line["user_id"] for line in said if line["event"] == "reply sent"}
    arrived: dict[str, list[Span]] = {}
    for span in ran.collector.spans:
        arrived.setdefault(span.trace_id, []).append(span)
    assert len(user_of) == MESSAGES
    for trace_id, user_id in user_of.items():
        spans = arrived.pop(trace_id)
        assert {span.name for span in spans} in (
            {"message", "answer", "search history", "reply"},
            {"message", "event_loop.blocked", "reply"},
        )
        assert [span.attributes["user_id"] for span in spans] == [user_id] * len(spans)
    assert {span.name for rest in arrived.values() for span in rest} <= {
        *("process log", "log", "WS /chat/{user_id}", "disconnect")
    }


@pytest.mark.skipif(sys.platform == "win32", reason="a child cannot be sent Ctrl-C alone")
def test_ctrl_c_ends_it_also_in_the_middle_of_a_slow_search(tmp_path: Path) -> None:
    env = environment(tmp_path, OTEL_TRACES_EXPORTER="none")
    running = start(sys.executable, "-c", MAIN, "demo", env=env)
    assert running.stdout is not None
    any("message received" in line and demo.HOARDER in line for line in running.stdout)
    running.send_signal(signal.SIGINT)
    done = end(running)
    assert (done.returncode, done.stderr.split()) == (1, ["Aborted!"])
    assert "late" not in done.stdout


def test_a_search_that_fails_is_the_askers_error_and_the_worker_goes_on(tmp_path: Path) -> None:
    async def ask_three_times() -> list[str]:
        service = demo.ChatService(history := demo.History(tmp_path / "history.db"))
        worker = asyncio.create_task(service.work())
        with pytest.raises(Exception, match="no such table"):
            await service.ask("ada", "before there is anything")
        history.write("ada", 1)
        answers = [await service.ask("ada", text) for text in ("now?", "and now?")]
        worker.cancel()
        return answers

    first, second = asyncio.run(ask_three_times())
    assert re.fullmatch(r"now\? You wrote most about: please look at .* again", first)
    assert second == f"and {first}"


def test_with_nothing_recorded_the_demo_reports_no_stage(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    demo.show(0, tmp_path)
    assert capsys.readouterr().out.splitlines() == [
        "",
        "no stage found · local store",
        "Is a sampler at work, OTEL_SDK_DISABLED or ENVIRONMENT=test?",
    ]


def test_without_its_packages_the_demo_names_the_extra(tmp_path: Path) -> None:
    without = f"import sys; sys.modules['uvicorn'] = None; {MAIN}"
    result = otel_logging("demo", main=without, home=tmp_path)
    assert result.returncode == 1
    assert "pip install 'otel-logging[demo]'" in result.stderr
    assert "Traceback" not in result.stderr


def test_an_invalid_setting_ends_the_demo_with_its_name_and_value(tmp_path: Path) -> None:
    result = otel_logging("demo", home=tmp_path, LOG_LEVEL="loud")
    assert result.returncode == 1
    assert result.stderr.startswith("Error: LOG_LEVEL='loud': a level is one of ")
