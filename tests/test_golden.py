"""What a person sees of ``late``, ``failed``, ``show``, ``doctor`` and ``demo``: whole captures,
with and without colour.

After a change that is meant: ``GOLDEN=1 pytest tests/test_golden.py``, and look at each difference.
"""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.console import Console

from otel_logging import demo
from otel_logging.cli import listing, main
from otel_logging.doctor import checks
from otel_logging.doctor.report import NOT_TRIED, good, note, problem
from otel_logging.traces.draw import terminal
from tests.commands import Runner
from tests.stored import Planted, line, store

pytestmark = pytest.mark.usefixtures("in_utc")

GOLDEN = Path(__file__).parent / "golden"
TRACEBACK = """Traceback (most recent call last):
  File "/srv/shop/core/connection.py", line 1067, in chat
    await self.answer(text)
  File "/srv/.venv/lib/python3.11/site-packages/sqlalchemy/engine/base.py", line 1900, in _execute
    raise
sqlalchemy.exc.TimeoutError: QueuePool limit of size 5 overflow 10 reached, connection timed out"""
SQL = (
    "SELECT orders.id, orders.total\n  FROM orders JOIN users ON users.id = orders.user_id WHERE x"
)


def other(number: int) -> str:
    return f"{number:08x}" + "0" * 23 + "1"


def user(name: str, **more: object) -> dict[str, object]:
    return {"user_id": name, "budget_s": 0.5, **more}


@pytest.fixture(scope="module")
def base() -> Iterator[Path]:
    """A directory with a short name: a long one has a line of its own."""
    with tempfile.TemporaryDirectory(dir="/tmp" if os.name == "posix" else None) as made:
        yield Path(made)


@pytest.fixture(scope="module")
def place(base: Path) -> Path:
    """A morning of two services: an incident, N+1 queries, a failure, a stage without anything."""
    spans: list[Planted] = []
    for number, name in enumerate(("ada", "ben", "carla", "dmitri", "elif", "farah")):
        at = 60_000 + number * 40
        trace = other(number + 1)
        root = user(name, **{"late.cause": "loop", "late.culprit": "resize_image (worker.py:88)"})
        root |= {"late.culprit.user_id": "alice", "room": f"room-{number}"}
        root["late.why"] = (
            f"{name}'s message of 22:14:20.{number * 40:03} took 900 ms (budget 500 ms): 824 ms"
            " behind resize_image (worker.py:88) for alice, which blocked the event loop"
        )
        spans += [
            Planted(1, 0, "message", at, at + 900, root, trace=trace),
            Planted(2, 1, "reply", at + 880, at + 890, {"user_id": name}, trace=trace),
        ]
    orders = user("grace", **{"http.route": "/orders/{id}", "url.path": "/orders/7"})
    spans += [
        Planted(
            1,
            0,
            "GET /orders/{id}",
            5_000,
            6_240,
            orders,
            [line(5_001, "received")],
            trace=other(9),
        ),
        *(
            Planted(
                2 + n,
                1,
                "SELECT",
                5_010 + n * 60,
                5_060 + n * 60,
                {"db.system": "postgresql", "db.query.text": SQL, "user_id": "grace"},
                trace=other(9),
                kind=3,
            )
            for n in range(20)
        ),
        Planted(
            50,
            1,
            "render",
            6_215,
            6_235,
            {"user_id": "grace"},
            [line(6_216, "rendered", template="orders.html")],
            trace=other(9),
        ),
    ]
    spans += [
        Planted(
            1,
            0,
            "POST /login",
            9_000,
            9_950,
            user("hugo", **{"url.path": "/login"}),
            [line(9_020, "session state"), line(9_844, "password accepted")],
            trace=other(10),
        ),
        Planted(1, 0, "cron", 0, 700, {"budget_s": 0.5, "job_tag": "PNL_CALC"}, trace=other(11)),
        Planted(
            1,
            0,
            "message",
            20_000,
            20_300,
            user("ines"),
            [line(20_001, "message received", chars=12)],
            trace=other(12),
            status=2,
        ),
        Planted(
            2,
            1,
            "answer",
            20_010,
            20_290,
            {"user_id": "ines"},
            [line(20_280, "could not answer", "error", exception=TRACEBACK)],
            trace=other(12),
            status=2,
        ),
        *(
            Planted(1, 0, "message", 30_000 + n, 30_080 + n, user("kira"), trace=other(20 + n))
            for n in range(10)
        ),
    ]
    store(base, *spans)
    call = Planted(3, 2, "POST /bill", 880, 900, {"user_id": "ada"}, trace=other(1), kind=2)
    store(base, call, service="billing", origin=1_700_000_060_000_000_000)
    return base


COMMANDS = {
    "late": ["late"],
    "group": ["late", "--group", "reason"],
    "summary": ["late", "--summary"],
    "failed": ["failed"],
    "show-queries": ["show", other(9)],
    "show-failed": ["show", other(12)],
    "show-services": ["show", other(1)],
    "show-itself": ["show", other(10)],
}


#: What the doctor found, once with all it can say, once where all is well.
DOCTOR = {
    "doctor-problems": [
        good("The settings are sound: http/protobuf to http://collector:4318/v1/traces."),
        problem(
            "The spool is full: 63.1 MB of at most 67.1 MB wait in"
            " /var/spool/otel_logging/shop-4f1c0d9a77e2, and the oldest are dropped.",
            "get the collector to take them; until then raise OTEL_LOGGING_SPOOL_BYTES",
        ),
        problem(
            "The collector at http://collector:4318/v1/traces does not answer:"
            " ConnectionRefusedError: [Errno 111] Connection refused.",
            "start it (docker compose up -d), or set OTEL_EXPORTER_OTLP_ENDPOINT to where it is:"
            " port 4318 for HTTP, 4317 for gRPC (this service uses http/protobuf); https:// if it"
            " expects TLS; no proxy is used",
        ),
        note("No Jaeger answers at http://localhost:16686, the default."),
        note(NOT_TRIED),
    ],
    "doctor-well": [
        good("The collector takes spans at http://localhost:4318/v1/traces."),
        good("Jaeger 2.13.0 answers at http://localhost:16686."),
        good("The probe came back with its log line, after 1.204 s."),
    ],
    "doctor-local": [note(NOT_TRIED)],
}
CAPTURES = pytest.mark.parametrize(
    ("width", "colour"),
    [(width, colour) for width in (80, 120, 200) for colour in (False, True)],
)


@CAPTURES
@pytest.mark.parametrize("name", DOCTOR)
def test_a_capture_of_the_doctor(
    monkeypatch: pytest.MonkeyPatch, name: str, width: int, colour: bool
) -> None:
    """A sentence is at most 100 columns wide; what mends it stands below it."""
    monkeypatch.setattr(checks, "examine", lambda **_: iter(DOCTOR[name]))
    output = captured(monkeypatch, name, width, colour, ["doctor"], exits=name.endswith("problems"))
    assert all(len(text) <= 100 + colour * 20 for text in output.splitlines())


@pytest.fixture(scope="module")
def talked(base: Path) -> Path:
    """What the demo records, of a machine on which each run takes as long: who hashes a new
    password on the loop, who is held up by that, who has a long history, and somebody in time.
    """
    hash_of = "History.set_password (demo.py:143)"
    blocked = {"late.cause": "loop", "late.culprit": hash_of}
    blocked |= {"late.culprit.user_id": "hugo", "late.where": "100 % ChatService.ask (demo.py:109)"}
    computed = {"late.cause": "cpu", "late.detail": hash_of}
    took = "message took {} (budget 500 ms): {}"
    held = f"988 ms behind {hash_of} for hugo, which blocked the event loop"
    why = {"ines": took.format("1.004 s", held)}
    why["hugo"] = took.format("995 ms", f"991 ms of its own work in {hash_of}")
    why["grace"] = took.format("1.021 s", "1.013 s in search history")
    found = {"ines": blocked, "hugo": computed, "grace": {"late.cause": "unknown"}}
    whys = {name: {**found[name], "late.why": f"{name}'s {why[name]}"} for name in why}
    stood = {"late.where": "99 % History.favourite (demo.py:184)"}
    spans: list[Planted] = []
    for number, (name, at, lasts, search) in enumerate(
        [("ines", 0, 1_004, 12), ("hugo", 6, 995, 0), ("grace", 5_000, 1_021, 1_013)]
        + [(name, 7_000 + 9 * n, 11, 5) for n, name in enumerate(("ada", "ben", "carla"))]
    ):
        own, end = {"user_id": name}, at + lasts
        url = {"http.route": "/chat/{user_id}", "url.path": f"/chat/{name}"}
        trace = {"trace": other(number + 40)}
        lines = [line(at, "message received", chars=31, **own), line(end, "reply sent", **own)]
        if name in whys:
            lines.append(line(end + 1, str(whys[name]["late.why"]), "warning", stage="message"))
        root = user(name, **url, **whys.get(name, {}))
        spans += [
            Planted(1, 0, "message", at, end, root, lines, **trace),
            Planted(4, 1, "reply", end - 0.4, end - 0.1, own, **trace),
        ]
        if search:
            said = [line(at + 1 + search, "history searched", messages=330, compared=108_900)]
            inner = own | (stood if name == "grace" else {})
            spans += [
                Planted(2, 1, "answer", at + 0.5, end - 0.5, own, **trace),
                Planted(3, 2, "search history", at + 1, at + 1 + search, inner, said, **trace),
            ]
    return store(base / "talked", *spans)


@CAPTURES
def test_a_capture_of_the_demo(
    talked: Path, monkeypatch: pytest.MonkeyPatch, width: int, colour: bool
) -> None:
    """Its last screen: the picture of the worst message, the table, what to ask further."""
    monkeypatch.setattr(demo, "run", lambda **_: demo.show(0, talked))
    captured(monkeypatch, "demo", width, colour, ["demo"], hidden=str(talked))


@pytest.fixture(scope="module")
def unbudgeted(base: Path) -> Path:
    """What an application that was not changed records: requests, a message that waited, and one
    that was late, with where it stood.
    """
    stacks = "71 %\n  scale (/srv/image.py:88)\n  thumbnail (/srv/image.py:40)\n29 %\n"
    stood = {"late.where": stacks + "  scale (/srv/image.py:88)\n  preview (/srv/image.py:61)"}
    where = {"late.where": "100 % scale (image.py:88)", "http.route": "/resize"}
    path = {"http.route": "/ws/{client_id}", "url.path": "/ws/5", "queue.wait_s": 0.0268}
    accepted = line(517, '127.0.0.1:36406 - "WebSocket /ws/5" [accepted]')
    return store(
        base / "unbudgeted",
        Planted(1, 0, "GET /", 0, 49, {"http.route": "/"}, trace=other(60)),
        Planted(1, 0, "message", 300, 327, path, trace=other(61)),
        Planted(1, 0, "WS /ws/{client_id}", 500, 518, {}, [accepted], trace=other(62)),
        Planted(
            1, 0, "GET /resize", 700, 1904, where, [(1904, "late.where", stood)], trace=other(63)
        ),
        service="main",
    )


@CAPTURES
@pytest.mark.parametrize(
    ("name", "command"), [("slowest", ["late"]), ("stack", ["show", other(63), "--stack"])]
)
def test_a_capture_without_budgets(
    unbudgeted: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    command: list[str],
    width: int,
    colour: bool,
) -> None:
    """What is known all the same, and what to do for more."""
    options = ["--source", "local", "--spool-dir", str(unbudgeted)]
    captured(monkeypatch, name, width, colour, [*command, *options], hidden=str(unbudgeted))


@CAPTURES
@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_prints_its_golden_capture(
    place: Path, monkeypatch: pytest.MonkeyPatch, name: str, width: int, colour: bool
) -> None:
    """From the local store."""
    options = ["--source", "local", "--spool-dir", str(place)]
    captured(monkeypatch, name, width, colour, [*COMMANDS[name], *options], hidden=str(place))


def captured(
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    width: int,
    colour: bool,
    arguments: list[str],
    *,
    hidden: str = "nowhere",
    exits: int = 0,
) -> str:
    """Not a line is wider than the terminal; without colour every fact is still there."""
    system = "standard" if colour else None

    def console() -> Console:
        return Console(
            width=width,
            force_terminal=colour,
            color_system=system,  # type: ignore[arg-type]
            no_color=not colour,
            highlight=False,
            legacy_windows=False,
        )

    monkeypatch.setattr(terminal, "console", console)
    monkeypatch.setattr(listing.links, "takes_links", lambda: False)
    result = Runner().invoke(main, arguments, color=colour)
    assert result.exit_code == exits, result.output
    shown = result.output.replace(hidden, "/var/spool")
    if not colour:
        assert all(len(text) <= width for text in shown.splitlines())
        assert "\x1b" not in shown
    golden = GOLDEN / f"{name}-{width}{'-colour' if colour else ''}.txt"
    if os.environ.get("GOLDEN"):
        golden.write_text(shown, "utf-8")
    assert shown == golden.read_text("utf-8")
    return shown
