"""What is open now, in every process; what was open when one was killed."""

import asyncio
import json
import os
import re
import signal
import sys
import time
from collections.abc import Callable
from contextvars import Context, copy_context
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from opentelemetry import trace

from otel_logging import _otlp, bind_context, setup_observability, traced
from otel_logging.cli import main
from otel_logging.integrations.connection import HELD_S
from otel_logging.lateness import blackbox
from otel_logging.lateness.died import report_died
from otel_logging.traces.draw import now as draw_now
from tests.commands import Runner
from tests.conftest import NOWHERE, Service
from tests.lateness.websocket import serve
from tests.programs import MODULE, Program, script

HUNG = """
import asyncio, re, sys
from otel_logging import bind_context, setup_observability, traced
setup_observability("shop", environment="production", spool_dir=sys.argv[1],
                    endpoint="http://127.0.0.1:1")
async def waits_for_ever():
    await asyncio.sleep(1000)
async def request(number):
    with traced(f"request {number}", budget=0.2 if number % 2 else None):
        bind_context(user_id=f"Doe, {number}")
        await waits_for_ever()
async def batch():
    async def one(user):
        bind_context(user_id=user)
        await waits_for_ever()
    with traced("batch", budget=1000):
        await asyncio.gather(one("user-a"), one("user-b"))
async def main():
    tasks = [asyncio.create_task(request(n)) for n in range(12)] + [asyncio.create_task(batch())]
    await asyncio.sleep(0.3)
    print('{"all": "open"}', flush=True)
    if sys.argv[2:]:
        with traced("match", budget=0.1):
            bind_context(user_id="mallory")
            re.match("(a+)+$", "a" * 60 + "b")
    await asyncio.sleep(1000)
asyncio.run(main())
"""


def now(spool: Path, *options: str) -> Result:
    return Runner().invoke(main, ["now", "--spool-dir", str(spool), *options])


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no forks here")
def test_a_stage_that_ends_while_its_table_is_made_is_not_open(tmp_path: Path) -> None:
    """As in a forked child, whose watching thread makes the table when it sees the first stage."""
    code = """
import os, signal, sys, threading, warnings
from pathlib import Path
from otel_logging import setup_observability, traced
from otel_logging.lateness import blackbox
from otel_logging.lateness.blackbox import NAME, BlackBox
setup_observability("shop", environment="production", endpoint="http://127.0.0.1:1",
                    spool_dir=sys.argv[1])
warnings.simplefilter("ignore")  # fork beside threads, from Python 3.12 on
is_made, has_ended, begin = threading.Event(), threading.Event(), BlackBox.begin
def slow_begin(self, *given):
    is_made.set()
    assert has_ended.wait(20)
    begin(self, *given)
BlackBox.begin = slow_begin
if (pid := os.fork()):
    assert os.waitpid(pid, 0)[1] == 0
else:
    signal.alarm(60)  # it ends, whatever it waits for
    with traced("short"):
        assert is_made.wait(20)
    has_ended.set()
    with traced("long"):
        has_long = lambda box: b"long" in box.read_bytes()
        while not (mine := [*filter(has_long, Path(sys.argv[1]).rglob(NAME))]): pass
        print([stage.name for stage in blackbox.read(*mine).stages], flush=True)
        os._exit(0)
"""
    assert script(code, str(tmp_path)).stdout.splitlines() == [b"['long']"]


def test_what_is_open_is_drawn_in_columns(in_utc: None) -> None:
    """Nothing is cut; what has no budget is neither late nor on time; a day is named."""
    day_s, at = 86_400, time.time_ns() // 1_000_000_000 * 1_000_000_000
    where = "answer (chat/a_module_with_a_long_name.py:12)\nloop (server.py:1)"
    long_ago, before_ns = at - 3 * day_s * 1_000_000_000, at - 1_000_000_000
    grace = {"user_id": "grace"}
    stages = [
        blackbox.OpenStage(*("import", 1, 1, 0, long_ago, long_ago, None, {}, where)),
        blackbox.OpenStage(*("message", 2, 2, 0, before_ns, before_ns, 0.25), grace, ""),
        blackbox.OpenStage(*("message", 3, 3, 0, at, at, 0.25, {"user_id": "ben"}, "")),
    ]
    found = draw_now.rows([blackbox.Table(7, at, b"", stages)], at)

    drawn = [line.plain for line in draw_now.draw(found, stack=False, width=80)]
    today, before = (f"{datetime.fromtimestamp(at / 1e9 - n, UTC):%H:%M:%S}" for n in (0, 1))
    day = f"{datetime.fromtimestamp(at / 1e9, UTC).date() - timedelta(days=3)}"
    assert drawn == [
        f"{day} {today}  open       3 d               import  in answer",
        "    (chat/a_module_with_a_long_name.py:12)  process 7",
        f"{before}  open   1.000 s  late 750 ms  message  user_id=grace  process 7",
        f"{today}  open      0 µs  on time      message  user_id=ben  process 7",
    ]
    (first, *_) = draw_now.draw(found, stack=True, width=80)
    assert first.plain == f"{day} {today}  open       3 d               import  process 7"


def test_a_place_that_was_seen_long_ago_says_so() -> None:
    """The interpreter is kept by C: nothing looks, and nothing beats."""
    began, now_ns = 3_000_000_000, 9_000_000_000
    ids = (1, 1, 0, began, began, 0.5, {})
    stages = [blackbox.OpenStage("match", *ids, "match (shop.py:3)")]
    stages.append(blackbox.OpenStage("idle", *ids, ""))
    for alive_ns, ago in ((3_600_000_000, ", seen 5.400 s ago"), (now_ns - 50_000_000, "")):
        found = draw_now.rows([blackbox.Table(7, alive_ns, b"", stages)], now_ns)
        match, idle = (line.plain for line in draw_now.draw(found, stack=False, width=120))
        assert match.endswith(f"match  in match (shop.py:3)  process 7{ago}")
        assert idle.endswith("idle  process 7")
        assert draw_now.as_json(found[0])["seen_ago_s"] == (now_ns - alive_ns) / 1e9


def opened(spool: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(now(spool, "--json").stdout)
    assert {row["schema"] for row in found} <= {2}
    return found


def test_where_nothing_is_open_there_is_an_empty_array(tmp_path: Path) -> None:
    assert now(tmp_path, "--json").stdout == "[]\n"


def hung(tmp_path: Path, *options: str) -> Program:
    (tmp_path / "hung.py").write_text(HUNG)
    return Program([*MODULE, "hung", str(tmp_path / "spool"), *options], cwd=tmp_path)


def test_what_hangs_is_there_within_a_second_with_its_place(tmp_path: Path) -> None:
    """Whose, since when, how late, and where each stands."""
    with hung(tmp_path) as program:
        program.wait_for_text("is overdue")
        rows = {row["stage"]: row for row in opened(tmp_path / "spool")}
        assert set(rows) == {*(f"request {n}" for n in range(12)), "batch"}
        assert rows["batch"]["who"] == {}  # of two users
        for number in range(12):
            row = rows[f"request {number}"]
            assert row["who"] == {"user_id": f"Doe, {number}"}
            assert row["process"] == program.process.pid
            assert row["service"] == "shop"
            assert (
                (row["late_by_s"] is not None) is (row["budget_s"] is not None) is (number % 2 == 1)
            )
        assert any("waits_for_ever (" in place for place in rows["request 3"]["where"])
        table = now(tmp_path / "spool").stdout
        assert "user_id=Doe, 3" in table
        assert "waits_for_ever" in now(tmp_path / "spool", "--stack").stdout
        line = next(line for line in program.lines() if "is overdue" in line.get("event", ""))
        assert "waits_for_ever (" in line["late.where"]
        program.stop(signal.SIGKILL)
    assert opened(tmp_path / "spool") == []
    assert now(tmp_path / "spool").stdout == "Nothing is open.\n"


def test_what_a_killed_process_had_open_is_reported_by_the_next_start(tmp_path: Path) -> None:
    """Each once, with its user, though the interpreter was held for good."""
    with hung(tmp_path, "match") as program:
        program.wait_for_text("all")
        while not any(row["stage"] == "match" for row in opened(tmp_path / "spool")):
            assert program.process.poll() is None
        assert {row["stage"] for row in opened(tmp_path / "spool") if row["who"]} >= {"match"}
        program.stop(signal.SIGKILL)
    start = """
import sys
from otel_logging import setup_observability
with setup_observability("shop", environment="production", spool_dir=sys.argv[1],
                         endpoint="http://127.0.0.1:1") as running:
    running.force_flush(0.5)
"""
    over = ("--over", "0.0000000001")  # nobody knows when a process that hangs dies
    for _ in range(2):  # the second start finds nothing more
        script(start, str(tmp_path / "spool"))
        arguments = ["late", "--json", *over, "--source", "local", "--spool-dir"]
        shown = Runner().invoke(main, [*arguments, str(tmp_path / "spool")])
        rows = json.loads(shown.stdout)
        died = {row["stage"]: row["who"] for row in rows}
        assert died == {
            **{f"request {n}": {"user_id": f"Doe, {n}"} for n in range(12)},
            "match": {"user_id": "mallory"},
            "batch": {},
        }
        assert len(rows) == 14


@pytest.mark.parametrize("budgets", ["", "message=60"], ids=["no budget", "a budget"])
def test_a_message_that_only_a_timer_holds_is_not_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, budgets: str
) -> None:
    """One that a task works on is, after the next was asked for too; once a timer works, it is."""
    monkeypatch.setenv("OTEL_LOGGING_BUDGETS", budgets)
    timers: list[Context] = []
    tasks: list[asyncio.Task[None]] = []
    rings: list[Any] = []

    def take(text: str) -> None:
        if text == "timer":
            timers.append(copy_context())  # as call_later has it
        else:
            tasks.append(asyncio.create_task(asyncio.sleep(60)))

    def ring() -> None:
        rings.append(traced("ringing").begin())

    async def until(users: set[str]) -> None:
        """Wait, for less than a message is held, until messages of just these users are open."""
        end = time.monotonic() + HELD_S - 0.5
        while (
            there := {user for row in opened(tmp_path) for user in row["who"].values()}
        ) != users:
            assert time.monotonic() < end, there
            await asyncio.sleep(0.05)

    async def at_end() -> None:
        await until({"task"})
        asyncio.get_running_loop().call_soon(ring, context=timers[0])
        await until({"task", "timer"})
        rings[0].end()
        tasks[0].cancel()

    with setup_observability(
        "shop", environment="production", endpoint=NOWHERE, spool_dir=tmp_path
    ):
        serve("timer", "task", take=take, at_end=at_end)


def test_what_a_process_ends_with_by_itself_has_not_died(tmp_path: Path) -> None:
    """Neither by an exception, nor by a stage that nobody leaves."""
    code = """
import sys
from otel_logging import bind_context, setup_observability, traced
setup_observability("shop", environment="production", spool_dir=sys.argv[1],
                    endpoint="http://127.0.0.1:1")
stage = traced("abandoned", budget=3).__enter__()
"""
    script(code, str(tmp_path))
    assert list(tmp_path.rglob(blackbox.NAME)) == []


@pytest.mark.parametrize(
    "data", [b"", b"otelbox3", b"garbage" * 4000, b"otelbox2" + b"\xff" * 20000]
)
def test_an_unreadable_table_is_reported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], data: bytes
) -> None:
    """Never a traceback, and nothing is left behind."""
    directory = tmp_path / "shop-000000" / "1-1"
    directory.mkdir(parents=True)
    (directory / blackbox.NAME).write_bytes(data)
    assert now(tmp_path).exit_code == 0
    report_died(directory)
    said = capsys.readouterr().err
    assert "1 tables of a dead process's open stages lost ([Errno 22] damaged: " in said
    assert not (directory / blackbox.NAME).exists()


@pytest.mark.parametrize(
    ("at", "size", "least_s"),
    [(0, 64, 2), (0, 4096, 2), (0, 8192, 1), (16, 4, 2), (24, 4, 2), (8184, 8, 2)],
    ids=["head", "page", "all but the stages", "length", "resource", "when it was seen alive"],
)
def test_a_damaged_head_costs_no_stage(tmp_path: Path, at: int, size: int, least_s: float) -> None:
    """The names of its directories say whose table it is; it was alive when the last one began."""
    directory = tmp_path / "shop-000000" / f"{os.getpid()}-1"
    directory.mkdir(parents=True)
    box, now_ns = blackbox.BlackBox(), time.perf_counter_ns()
    box.begin(directory, _otlp.resource({"service.name": "shop"}))
    for n in (2, 1):
        began = time.time_ns() - n * 10**9, now_ns - n * 10**9, 0.1
        box.open(box.free.pop(), f"turn {n}", n, n, 0, *began, (("user_id", f"u{n}"),))
    box.let_go()
    data = bytearray((directory / blackbox.NAME).read_bytes())
    data[at : at + size] = b"\xff" * size
    (directory / blackbox.NAME).write_bytes(data)
    report_died(directory)
    options = ["--source", "local", "--spool-dir", str(tmp_path)]
    first, *_ = json.loads(Runner().invoke(main, ["late", "--json", *options]).stdout)
    assert (first["stage"], first["service"], first["who"]) == ("turn 2", "shop", {"user_id": "u2"})
    assert first["latency_s"] >= least_s
    shown = Runner().invoke(main, ["failed", *options]).stdout
    assert shown.count(f"process {os.getpid()} died while this was open") == 2


def test_a_table_of_another_version_is_not_read(tmp_path: Path) -> None:
    """Its stages may stand elsewhere in it."""
    box = blackbox.BlackBox()
    box.begin(tmp_path, b"")
    box.open(box.free.pop(), "turn", 7, 8, 0, 9, 10)
    box.let_go()
    data = (tmp_path / blackbox.NAME).read_bytes()
    (tmp_path / blackbox.NAME).write_bytes(b"otelbox0" + data[8:])
    with pytest.raises(OSError, match="damaged"):
        blackbox.read(tmp_path / blackbox.NAME)


def test_a_damaged_table_is_read_as_far_as_it_goes(tmp_path: Path) -> None:
    """A slot that is no slot, and the half of the file that is gone, cost the others nothing."""
    box = blackbox.BlackBox()
    box.begin(tmp_path, b"")
    slots = [box.free.pop() for _ in range(3)]
    for slot in slots:
        box.open(slot, f"turn {slot}", 7, 8, 0, 9, 10)
    box.let_go()
    at = slots[1] * blackbox.SLOT_BYTES
    data = bytearray((tmp_path / blackbox.NAME).read_bytes()[: at + 3 * blackbox.SLOT_BYTES // 2])
    data[at : at + blackbox.SLOT_BYTES] = b"\xff" * blackbox.SLOT_BYTES
    (tmp_path / blackbox.NAME).write_bytes(data)
    stages = blackbox.read(tmp_path / blackbox.NAME).stages
    assert [stage.name for stage in stages] == [f"turn {slots[0]}"]


def test_a_stage_does_not_stand_where_the_one_before_it_in_its_slot_did(tmp_path: Path) -> None:
    """What is written where one opens ends before the place, which most never have."""
    box = blackbox.BlackBox()
    box.begin(tmp_path, b"")
    slot = box.free.pop()
    for name in ("before", "turn"):
        box.open(slot, name, 7, 8, 0, 9, 10)
        (stage,) = blackbox.read(tmp_path / blackbox.NAME).stages
        assert (stage.name, stage.where) == (name, "")
        box.put_where(slot, "resize (/srv/worker.py:88)")
        box.close(slot)
    box.let_go()


def test_where_a_stage_stood_when_its_process_died_is_a_place_and_its_steps(
    tmp_path: Path,
) -> None:
    """As of any late stage: a line has no path of a file, and nothing that is escaped."""
    directory = tmp_path / "shop-000000" / "1-1"
    directory.mkdir(parents=True)
    box, began = blackbox.BlackBox(), time.perf_counter_ns() - 10**9
    box.begin(directory, b"")
    slots = [box.free.pop() for _ in range(2)]
    for slot in slots:
        box.open(slot, f"turn {slot}", 7 + slot, 8, 0, time.time_ns(), began, 0.1)
    steps = ["Turn.run.<locals>.resize (/srv/a (b)/worker.py:88)", "Turn.run (/srv/turn.py:9)"]
    box.put_where(slots[0], "\n".join(steps))
    box.beat()
    box.let_go()
    report_died(directory)
    options = ["--source", "local", "--spool-dir", str(tmp_path)]
    rows = json.loads(Runner().invoke(main, ["late", "--json", *options]).stdout)
    stood = {row["stage"]: (row["where"], row["reason"]) for row in rows}
    place = "resize (worker.py:88)"
    assert stood[f"turn {slots[0]}"] == (place, f"it stood: {place}")
    assert stood[f"turn {slots[1]}"][0] is None
    shown = ["show", f"{7 + slots[0]:032x}", *options]
    assert steps[0] not in Runner().invoke(main, shown).stdout
    lines = Runner().invoke(main, [*shown, "--stack"]).stdout.splitlines()
    assert [line.strip() for line in lines if "/srv" in line] == steps


def test_what_is_too_long_says_that_it_is_cut(tmp_path: Path) -> None:
    """At a character's border; of several users' fields each has its part."""
    with (
        setup_observability(
            "shop",
            environment="production",
            endpoint=NOWHERE,
            spool_dir=tmp_path,
            who=("user_id", "tenant"),
        ),
        traced("ü" * 40, budget=9),
    ):
        bind_context(user_id="Jöhn=" * 20, tenant="a=b\0c, d")
        (row,) = opened(tmp_path)
    assert row["stage"] == "ü" * 30 + "…"
    assert row["who"]["user_id"].startswith("Jöhn=Jöhn=")
    assert row["who"]["user_id"].endswith("…")
    assert row["who"]["tenant"] == "a=b c, d"


def test_a_user_is_known_of_each_stage_around_where_it_is_bound(tmp_path: Path) -> None:
    """And of no stage beside these."""
    with setup_observability(
        "shop", environment="production", endpoint=NOWHERE, spool_dir=tmp_path
    ):
        with (
            traced("request", budget=9),
            traced("turn", budget=8),
            traced("step"),
            traced("inner", budget=7),
        ):
            bind_context(user_id="ada")
            found = {row["stage"]: row["who"] for row in opened(tmp_path)}
            assert found == {key: {"user_id": "ada"} for key in ("request", "turn", "inner")}
        with traced("next", budget=9), trace.get_tracer("t").start_as_current_span("call"):
            assert [row["who"] for row in opened(tmp_path)] == [{}]
            bind_context(user_id="bob")
            assert [row["who"] for row in opened(tmp_path)] == [{"user_id": "bob"}]


@pytest.mark.parametrize("is_handed", [True, False])
def test_what_waited_in_a_queue_is_open_since_it_was_handed_over(
    tmp_path: Path, *, is_handed: bool
) -> None:
    """Also where that process dies."""
    with setup_observability(
        "shop", environment="production", endpoint=NOWHERE, spool_dir=tmp_path / "living"
    ):
        stage: Any = traced("turn", budget=1, **{"queue.wait_s": 5.0})  # type: ignore[arg-type]
        if is_handed:  # as ``taking`` begins it
            stage.asked = stage.asked._replace(start_ns=time.time_ns() - 5 * 10**9)
        with stage:
            (row,) = opened(tmp_path / "living")
            (table,) = (tmp_path / "living").rglob(blackbox.NAME)
            died = tmp_path / "dead" / "shop-000000" / "1-1"
            died.mkdir(parents=True)
            (died / blackbox.NAME).write_bytes(table.read_bytes())
    assert 5 <= row["open_s"] < 6
    assert row["late_by_s"] == pytest.approx(row["open_s"] - 1)
    report_died(died)
    arguments = ["late", "--json", "--source", "local", "--spool-dir", str(tmp_path / "dead")]
    (row,) = json.loads(Runner().invoke(main, arguments).stdout)
    assert row["latency_s"] < 6


def test_a_clock_that_is_set_back_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """How long a stage is open, and how long it was when its process died."""
    real = time.time_ns
    with setup_observability(
        "shop", environment="production", endpoint=NOWHERE, spool_dir=tmp_path / "living"
    ):
        monkeypatch.setattr(time, "time_ns", lambda: real() + 3600 * 10**9)
        with traced("turn", budget=0.02):
            monkeypatch.undo()
            (table,) = (tmp_path / "living").rglob(blackbox.NAME)

            def is_seen() -> bool:
                """Whether the process was seen alive after the budget, which the table says."""
                seen = blackbox.read(table)
                return seen.alive_ns - seen.stages[0].began_ns > 50e6

            asyncio.run(until(is_seen))
            (row,) = opened(tmp_path / "living")
            assert 0.05 < row["open_s"] < 60
            assert row["late_by_s"] > 0.03
            died = tmp_path / "dead" / "shop-000000" / "1-1"
            died.mkdir(parents=True)
            (died / blackbox.NAME).write_bytes(table.read_bytes())
    report_died(died)
    arguments = ["late", "--json", "--source", "local", "--spool-dir", str(tmp_path / "dead")]
    (row,) = json.loads(Runner().invoke(main, arguments).stdout)
    assert (row["stage"], row["late"]) == ("turn", True)
    assert 0.02 < row["latency_s"] < 60


def test_a_table_cannot_be_made_and_stages_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is reported, and takes no place on the disk; everything else is as ever."""
    from otel_logging import traced

    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(blackbox.mmap, "mmap", full)
    with setup_observability(
        "shop", environment="production", endpoint=NOWHERE, spool_dir=tmp_path
    ):
        with traced("turn", budget=1):
            pass
        with traced("request"):
            pass
        assert not [*tmp_path.rglob(blackbox.NAME)]
    assert "open stages are not readable from outside" in capsys.readouterr().err


def test_where_there_is_no_disk_there_is_no_table_and_stages_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The spool has said so; what is late is late all the same."""
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "file"))
    with setup_observability("shop", environment="production", endpoint=NOWHERE):
        with traced("turn", budget=0.001) as span:
            time.sleep(0.01)
        assert dict(span.attributes or {})["late"] is True  # type: ignore[attr-defined]
    assert "open stages are not readable" not in capsys.readouterr().err


def test_a_dead_process_whose_table_finds_no_room_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """On a full disk; the table goes all the same."""
    box = blackbox.BlackBox()
    box.begin(tmp_path, b"")
    box.open(box.free.pop(), "turn", 1, 2, 0, 3, 4, 0.5)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("otel_logging.lateness.died.write_file", full)
    report_died(tmp_path)
    assert "tables of a dead process's open stages lost" in capsys.readouterr().err
    assert not (tmp_path / blackbox.NAME).exists()


@pytest.mark.parametrize("is_used_again", [True, False])
def test_a_table_whose_descriptor_was_closed_closes_none(
    tmp_path: Path, *, is_used_again: bool
) -> None:
    """A daemon closes all; the number may be a file of its own by then."""
    box = blackbox.BlackBox()
    box.begin(tmp_path, b"")
    inode = (tmp_path / blackbox.NAME).stat().st_ino
    (fd,) = [number for number in range(1024) if inode_of(number) == inode]
    os.close(fd)
    if is_used_again:
        with (tmp_path / "other").open("wb") as other:
            os.dup2(other.fileno(), fd)
    box.remove()
    if is_used_again:
        assert os.write(fd, b"!") == 1
        os.close(fd)


def inode_of(fd: int) -> int:
    """Return which file *fd* is; 0: none."""
    try:
        return os.fstat(fd).st_ino
    except OSError:
        return 0


def test_a_disk_that_takes_half_a_table_has_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A write to what has no place on the disk would end the process."""
    monkeypatch.setattr(blackbox.os, "write", lambda _, data: len(data) // 2)
    with pytest.raises(OSError, match="No space"):
        blackbox.BlackBox().begin(tmp_path, b"")


@pytest.mark.skipif(sys.platform != "linux", reason="/proc")
def test_a_table_of_which_nothing_is_used_takes_no_memory(tmp_path: Path) -> None:
    """But for what the system maps around its head."""
    box = blackbox.BlackBox()
    box.begin(tmp_path, b"")
    maps = Path("/proc/self/smaps").read_text().partition(str(tmp_path / blackbox.NAME))[2]
    (resident,) = re.findall(r"Rss: +(\d+) kB", maps)[:1]
    box.remove()
    assert int(resident) <= 64


@pytest.mark.parametrize("budget", [None, 60], ids=["no budget", "a budget"])
@pytest.mark.parametrize("way", ["inside", "in a task", "in a task that goes on"])
@pytest.mark.parametrize("options", [{"root": True}, {"kind": "consumer", "root": True}])
def test_a_request_that_begins_within_a_stage_with_a_budget_is_open(
    service: Service, way: str, budget: float | None, options: Any
) -> None:
    """It is a request of its own: it has a place of its own, and its own user."""

    async def request() -> None:
        with traced("request", budget=budget, **options):
            bind_context(user_id="ada")
            await until(lambda: {"request"} <= stages())

    def stages() -> set[str]:
        found = {row["stage"]: row["who"] for row in opened(service.spool_dir)}
        assert found.get("request", {"user_id": "ada"}) in ({}, {"user_id": "ada"})
        return set(found)

    async def main() -> None:
        with traced("start", budget=60, root=True):
            if way == "inside":
                await request()
                return
            task = asyncio.create_task(request())
            await (task if way == "in a task" else asyncio.sleep(0))
        await task

    asyncio.run(main())


@pytest.mark.parametrize("kind", ["server", "consumer"])
def test_what_arrives_after_a_stage_with_a_budget_is_open(service: Service, kind: str) -> None:
    """In a task of it that goes on."""

    async def arrive(ended: asyncio.Event) -> None:
        await ended.wait()
        with traced("arrived", kind=kind):
            await until(lambda: {"arrived"} == {row["stage"] for row in opened(service.spool_dir)})

    async def main() -> None:
        ended = asyncio.Event()
        with traced("start", budget=60, root=True):
            task = asyncio.create_task(arrive(ended))
            await asyncio.sleep(0)
        ended.set()
        await task

    asyncio.run(main())


async def until(is_so: Callable[[], bool]) -> None:
    """Wait until it is so."""
    end = time.monotonic() + 5
    while not is_so():
        assert time.monotonic() < end
        await asyncio.sleep(0.02)
