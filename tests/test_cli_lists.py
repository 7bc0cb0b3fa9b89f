"""``late`` and ``failed``: order, groups, causes, following, and the page."""

import json
import re
import sys
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from rich.console import Console

from otel_logging.cli import listing, main
from otel_logging.traces.draw import terminal
from tests.commands import Runner
from tests.programs import child_environment, end, start
from tests.stored import Planted, line, store

TRACEBACK = 'Traceback (most recent call last):\n  File "/srv/cart.py", line 12, in f\n    x\n'
Run = Callable[..., Result]


def user(name: str, **more: Any) -> dict[str, Any]:
    return {"user_id": name, "budget_s": 0.1, **{k.replace("__", "."): v for k, v in more.items()}}


def other(number: int) -> str:
    return f"{number:08x}" + "0" * 23 + "1"


@pytest.fixture
def place(tmp_path: Path) -> Path:
    blamed = {"late__cause": "loop", "late__culprit": "resize", "late__culprit__user_id": "alice"}
    failing = TRACEBACK + "ValueError: <no & model>"
    return store(
        tmp_path / "spool",
        Planted(1, 0, "message", 0, 400, user("ben", **blamed), trace=other(1)),
        Planted(1, 0, "message", 10, 910, user("carla", **blamed), trace=other(2)),
        Planted(1, 0, "message", 5000, 5600, user("ben", late__cause="lock"), trace=other(3)),
        Planted(1, 0, "upload", 9000, 9300, user("dmitri"), trace=other(4), status=2),
        Planted(
            2,
            1,
            "parse",
            9010,
            9290,
            {},
            [line(9280, "<b>failed</b>", "error", exception=failing)],
            trace=other(4),
            status=2,
        ),
        Planted(1, 0, "quick", 100, 105, user("elif"), trace=other(5)),
        Planted(1, 0, "quiet", 200, 205, user("elif"), trace=other(6), status=2, message="502"),
        Planted(
            1,
            0,
            "handled",
            300,
            305,
            user("elif"),
            [
                line(301, "odd", "warning", exception="KeyError: 'tried again'"),
                (302, "exception", {"exception.type": "OSError"}),
                line(303, "after"),
            ],
            trace=other(7),
            status=2,
        ),
        Planted(1, 0, "fine", 400, 405, user("elif", note="exception"), trace=other(8)),
    )


@pytest.fixture
def run(place: Path) -> Run:
    def running(*arguments: str) -> Result:
        return Runner().invoke(main, [*arguments, "--source", "local", "--spool-dir", str(place)])

    return running


def rows(result: Result) -> Any:
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


@pytest.mark.parametrize(
    ("sort", "traces"),
    [("late-by", [2, 3, 1, 4]), ("latency", [2, 3, 1, 4]), ("when", [4, 3, 2, 1])],
)
def test_rows_are_in_the_order_asked_for(run: Run, sort: str, traces: list[int]) -> None:
    """The largest, or the newest, first."""
    found = rows(run("late", "--json", "--sort", sort))
    assert [row["trace_id"] for row in found] == [other(number) for number in traces]


def test_a_late_row_that_failed_says_so(run: Run) -> None:
    """As a word, and as data."""
    assert "dmitri  ERROR upload  " in run("late").output
    found = rows(run("late", "--json"))
    assert [row["stage"] for row in found if row["error"]] == ["upload"]


def test_a_cause_selects_rows(run: Run) -> None:
    """Only those that it made late; where there is none, it names what there is. One that neither
    the package nor the application knows is no question.
    """
    assert [row["who"] for row in rows(run("late", "--json", "--cause", "lock"))] == [
        {"user_id": "ben"}
    ]
    result = run("late", "--cause", "gc", "--fail")
    assert "none late of 8 stages" in result.output
    assert "known causes: loop, lock" in result.output
    assert result.exit_code == 0
    assert "known causes: " in run("late", "--cause", "gc", "--json").stderr
    for more in ([], ["--fail"], ["--json"], ["--summary"]):
        result = run("late", "--cause", "magic", *more)
        assert result.exit_code == 2
        assert result.stdout == ""
        assert "'magic' is no known cause" in result.stderr
        assert "known causes: loop, lock" in " ".join(result.stderr.split())


def test_a_cause_that_the_application_named_selects_rows(tmp_path: Path) -> None:
    """As long as it made something late."""
    late = {"budget_s": 0.1, "late.cause": "own"}
    base = store(tmp_path, Planted(1, 0, "turn", 0, 500, late))
    arguments = ["late", "--source", "local", "--spool-dir", str(base), "--fail", "--cause"]
    assert Runner().invoke(main, [*arguments, "own"]).exit_code == 1
    assert Runner().invoke(main, [*arguments, "owner"]).exit_code == 2
    nowhere = ["late", "--source", "local", "--spool-dir", str(tmp_path / "no"), "--cause", "own"]
    assert Runner().invoke(main, nowhere).exit_code == 0


def test_fail_is_for_builds(run: Run) -> None:
    """1 where something is late, in every form; 0 where nothing is."""
    assert run("late", "--fail").exit_code == 1
    assert run("late", "--fail", "--json").exit_code == 1
    assert run("late", "--fail", "--over", "9").exit_code == 0


@pytest.mark.parametrize(
    ("by", "expected"),
    [
        ("stage", [("message", 3, ["carla", "ben"]), ("upload", 1, ["dmitri"])]),
        (
            "who",
            [("carla", 1, ["carla"]), ("ben", 2, ["ben"]), ("dmitri", 1, ["dmitri"])],
        ),
        (
            "reason",
            [
                ("resize for alice (loop)", 2, ["carla", "ben"]),
                ("lock", 1, ["ben"]),
                ("parse", 1, ["dmitri"]),
            ],
        ),
    ],
)
def test_rows_that_share_something_are_one(
    run: Run, by: str, expected: list[tuple[str, int, list[str]]]
) -> None:
    """Those that lost most are first."""
    found = rows(run("late", "--json", "--group", by))
    assert [(group["key"], group["count"], group["users"]) for group in found] == expected
    assert {group["schema"] for group in found} == {2}
    assert found[0]["lost_s"] == {"stage": 1.6, "who": 0.8, "reason": 1.1}[by]
    assert expected[0][0] in run("late", "--group", by).output


def test_the_summary_says_whose_work_made_whom_late(run: Run) -> None:
    """A sentence for each cause."""
    lines = run("late", "--summary").output.splitlines()
    assert lines[2:5] == [
        "resize for alice (loop) made 2 users late by 1.100 s in all",
        "lock made ben late by 500 ms",
        "parse: dmitri late by 200 ms",
    ]


@pytest.mark.parametrize("how", [("--group", "who"), ("--group", "reason"), ("--summary",)])
def test_what_is_beyond_the_limit_of_groups_is_counted(run: Run, how: tuple[str, ...]) -> None:
    """As rows are: no cause is left out in silence."""
    said = run("late", *how, "--limit", "1").output
    assert "\nand 2 more: --limit 3\n\n" in said
    assert "more" not in run("late", *how, "--limit", "3").output


@pytest.mark.parametrize("how", [("--group", "who"), ("--summary",)])
def test_groups_of_nothing_have_no_heads(run: Run, how: tuple[str, ...]) -> None:
    """The answer is the title, as without groups."""
    assert run("late", *how, "--over", "9").output == run("late", "--over", "9").output
    assert rows(run("late", *how, "--over", "9", "--json")) == []


def test_the_summary_calls_nothing_late_that_nothing_said_is(tmp_path: Path) -> None:
    """Without budgets it says how long the stages took together."""
    spans = [
        *(Planted(1, 0, "a", n, n + 200, trace=other(n + 1)) for n in range(3)),
        Planted(1, 0, "b", 0, 150, {}, [line(1, "x")], trace=other(9)),
    ]
    arguments = ["late", "--summary", "--spool-dir", str(store(tmp_path / "s", *spans))]
    title, _, *lines = Runner().invoke(main, arguments).output.splitlines()[:4]
    assert title.startswith("slowest · 4 stages, none with a budget")
    assert lines == ["a, nothing recorded inside: 600 ms in all, 3 times", "b itself: 150 ms"]


def test_a_long_reason_of_a_group_goes_on_below(tmp_path: Path) -> None:
    """Nothing of it is cut: who made them late is at its end."""
    measured = {"late.cause": "loop", "late.culprit": "resize " * 20 + "at the end"}
    spans = [Planted(1, 0, "a", 0, 200, user("ben") | measured)]
    arguments = ["late", "--group", "reason", "--spool-dir", str(store(tmp_path / "s", *spans))]
    lines = Runner().invoke(main, arguments).output.splitlines()
    assert lines[2].split() == ["rows", "late", "by", "users", "worst", "trace", "reason"]
    assert lines[-4].endswith("the end (loop)")


def test_the_summary_counts_who_was_late_more_than_once(tmp_path: Path) -> None:
    """And what nobody is named for."""
    spans = [
        *(Planted(1, 0, "a", n, n + 200, user("ben"), trace=other(n + 1)) for n in range(3)),
        Planted(1, 0, "b", 0, 150, {"budget_s": 0.1}, [line(1, "x")], trace=other(9)),
    ]
    arguments = ["late", "--summary", "--spool-dir", str(store(tmp_path / "s", *spans))]
    lines = Runner().invoke(main, arguments).output.splitlines()
    assert lines[2:4] == [
        "a, nothing recorded inside: ben late 3 times, by 300 ms in all",
        "b itself: late by 50 ms",
    ]
    busy = {"late.cause": "cpu", "late.detail": "parse (a.py:1)"}
    work = [Planted(1, 0, "a", 0, 200, user("ben") | busy)]
    arguments = ["late", "--summary", "--spool-dir", str(store(tmp_path / "t", *work))]
    assert "parse (a.py:1) (cpu) made ben late" in Runner().invoke(main, arguments).output


def test_an_incident_is_several_users_within_a_second(run: Run, tmp_path: Path) -> None:
    """For one reason; one user, another second, or each stage's own time, is none."""
    assert "one incident · 2 users at " in run("late").output
    apart = [
        Planted(1, 0, "a", n * 2000, n * 2000 + 200, user(f"u{n}"), trace=other(n + 1))
        for n in range(3)
    ]
    alone = Runner().invoke(main, ["late", "--spool-dir", str(store(tmp_path / "s", *apart))])
    assert "one incident" not in alone.output
    busy = {"late.cause": "cpu", "late.detail": "parse (a.py:1)"}
    for name, measured in (("t", {}), ("u", busy), ("v", {"late.cause": "unknown"})):
        own = [
            Planted(1, 0, "a", n, n + 200, user(f"u{n}") | measured, trace=other(n + 1))
            for n in range(3)
        ]
        beside = Runner().invoke(main, ["late", "--spool-dir", str(store(tmp_path / name, *own))])
        assert "3 of 3 stages" in beside.output
        assert "one incident" not in beside.output


def test_where_several_stood_is_their_reason(tmp_path: Path) -> None:
    """Where that is one place, most of the time."""
    places = ("86 % buy (shop.py:7) · 14 % sell (shop.py:9)",) * 2 + ("49 % sell (shop.py:9)",)
    spans = [
        Planted(1, 0, "a", n, n + 200, user(f"u{n}") | {"late.where": place}, trace=other(n + 1))
        for n, place in enumerate(places)
    ]
    where = ("late", "--source", "local", "--spool-dir", str(store(tmp_path, *spans)))
    incidents = re.findall("incident · (.*) at .*: (.*)", Runner().invoke(main, where).output)
    assert incidents == [("2 users", "buy (shop.py:7)")]
    assert Runner().invoke(main, [*where, "--summary"]).output.splitlines()[2:4] == [
        "buy (shop.py:7): 2 users late by 200 ms in all",
        "a itself: u2 late by 100 ms",
    ]


@pytest.mark.parametrize(
    ("number", "who", "options", "said"),
    [
        (50, "u{}", (), "50 users"),
        (50, "u{}", ("--limit", "1"), "50 users"),
        (50, "u{}", ("--limit", "60"), "50 users"),
        (6, "", (), "6 stages"),
        (6, "ada", (), None),
        (1100, "u{}", (), "1000 users or more"),
    ],
)
def test_an_incident_has_all_its_rows(
    tmp_path: Path, number: int, who: str, options: tuple[str, ...], said: str | None
) -> None:
    """Not those alone that are listed; of nobody the stages are counted."""
    spans = []
    for n in range(number):
        about = user(who.format(n)) if who else {"budget_s": 0.1}
        spans.append(Planted(1, 0, "m", n / 2, n / 2 + 900 - n / 9, about, trace=other(n + 1)))
        spans.append(Planted(2, 1, "load orders", n / 2, n / 2 + 700, trace=other(n + 1)))
    for n, at in enumerate((-5000, 9000)):  # others, for another reason
        spans.append(Planted(1, 0, "m", at, at + 300, user(f"x{n}"), trace=other(0xFFF0 + n)))
    place, page = store(tmp_path / "spool", *spans), tmp_path / "page.html"
    where = ("--source", "local", "--spool-dir", str(place))
    printed = Runner().invoke(main, ["late", *options, *where]).output
    assert Runner().invoke(main, ["late", *options, *where, "--html", str(page)]).exit_code == 0
    assert re.findall(r"one incident · (.*?) at ", printed) == [said] * bool(said)
    assert re.findall(r"one incident</strong>.*? · (.*?) at ", page.read_text()) == [said] * bool(
        said
    )


def test_an_incident_without_a_row_in_the_list_is_not_said(tmp_path: Path) -> None:
    """Though it was in the same second as one that has."""
    spans = []
    for n, what in enumerate(("orders", "carts", "orders", "carts")):
        took = 900 if what == "orders" else 300
        spans.append(Planted(1, 0, "m", n, n + took, user(f"u{n}"), trace=other(n + 1)))
        spans.append(Planted(2, 1, f"load {what}", n, n + took - 9, trace=other(n + 1)))
    where = ("--source", "local", "--spool-dir", str(store(tmp_path, *spans)))
    said = [Runner().invoke(main, ["late", *where, "--limit", n]).output for n in ("2", "4")]
    assert [re.findall("users at .*: (.*)", text) for text in said] == [
        ["load orders"],
        ["load orders", "load carts"],
    ]


def test_failed_lists_what_was_raised_and_where(run: Run) -> None:
    """The newest first: by status, by an error line, by an event; what a line warns of is none."""
    found = rows(run("failed", "--json"))
    assert [(row["stage"], row["failed_stage"], row["error"]) for row in found] == [
        ("upload", "parse", "ValueError: <no & model>"),
        ("handled", "handled", "OSError"),
        ("quiet", "quiet", "502"),
    ]
    assert {key: found[0][key] for key in ("who", "type", "frame", "late", "link", "schema")} == {
        "who": {"user_id": "dmitri"},
        "type": "ValueError",
        "frame": "srv/cart.py:12 f",
        "late": True,
        "link": None,
        "schema": 2,
    }
    assert [row["type"] for row in found[1:]] == ["OSError", None]


def test_failed_as_a_table(run: Run) -> None:
    """Cut at the limit."""
    text = run("failed", "--limit", "1").output
    assert text.startswith("failed · 3 of 8 traces · ")
    assert "dmitri  ERROR upload → parse" in text
    assert "  └ ValueError: <no & model>  at srv/cart.py:12 f" in text
    assert "and 2 more: --limit 3" in text
    assert "elif    ERROR handled" in run("failed").output
    assert "none failed of 2 traces · 2023-11-14 22:13" in run("failed", "--who", "ben").output
    assert "no stage found" in run("failed", "--who", "nobody").output
    assert run("failed", "--who", "nobody").exit_code == 0


def test_failed_of_lines_on_a_page_and_of_other_services(tmp_path: Path) -> None:
    """The page's stage failed; a failure above or beside what was asked for is none of it."""
    error = line(880, "bad", "error", exception="KeyError: 1")
    place = store(
        tmp_path / "s",
        Planted(1, 0, "a", 0, 900),
        Planted(2, 1, "log", 890, 890, {"log.page": 1}, [error]),
        Planted(3, 0, "odd", 0, 900, status=2, trace=other(1)),
    )
    beside = Planted(4, 3, "below", 0, 100, {"budget_s": 9.0}, trace=other(1))
    store(place, beside, service="billing")
    base = ["failed", "--json", "--source", "local", "--spool-dir", str(place)]
    found = json.loads(Runner().invoke(main, base).stdout)
    assert {row["failed_stage"]: row["error"] for row in found} == {
        "a": "KeyError: 1",
        "odd": "odd has status ERROR",
    }
    assert Runner().invoke(main, [*base, "--service", "billing"]).stdout == "[]\n"


def test_failed_tells_what_the_line_with_the_traceback_does(tmp_path: Path) -> None:
    """A server's own line comes last. Where the middle of the traceback is left out, with the
    application's frames in it, that line knows them; a message of several lines is whole.
    """
    message = "(sqlite3.IntegrityError) NOT NULL\n[SQL: INSERT]"
    kind = {"exception.type": "sqlalchemy.exc.IntegrityError", "exception.message": message}
    stack = 'File "/venv/lib/python3/site-packages/sqlalchemy/orm/base.py", line 7, in f\nE'
    own = {"exception": f"IntegrityError: {message}", "exception.where": "/srv/app.py:9 in add"}
    place = store(
        tmp_path / "s",
        Planted(
            *(1, 0, "POST /", 0, 900, {}),
            [(10, "exception", {**kind, "exception.stacktrace": stack})],
            status=2,
        ),
        Planted(2, 1, "log", 990, 990, {"log.page": 1}, [line(990, "Exception", "error", **own)]),
    )
    base = ["failed", "--json", "--source", "local", "--spool-dir", str(place)]
    (found,) = json.loads(Runner().invoke(main, base).stdout)
    told = "sqlalchemy.exc.IntegrityError: (sqlite3.IntegrityError) NOT NULL [SQL: INSERT]"
    assert (found["error"], found["frame"]) == (told, "srv/app.py:9 add")


# ---------------------------------------------------------------- show


def test_show_of_a_user_and_of_the_last_ones(run: Run) -> None:
    """The newest first; as an array where several were asked for."""
    several = run("show", "--last", "2", "--json")
    assert [trace["trace_id"] for trace in rows(several)] == [other(4), other(3)]
    (one,) = (rows(run("show", "--who", "ben", "--last", "1", "--json")),)
    assert one["trace_id"] == other(3)
    both = run("show", "--who", "ben", "--last", "3").output
    assert both.count("trace 0000000") == 2
    nobody = run("show", "--who", "nobody")
    assert (nobody.exit_code, "Nothing of nobody; known users" in nobody.output) == (1, True)


def test_show_folds_equal_stages_unless_all_are_asked_for(tmp_path: Path) -> None:
    """But not those that failed or were late, nor fewer than five."""
    spans = [Planted(1, 0, "m", 0, 1000)]
    spans += [Planted(n, 1, "item", n * 10, n * 10 + 5, {"k": 1}) for n in range(2, 12)]
    spans += [Planted(20, 1, "item", 200, 205, status=2), Planted(30, 2, "inner", 21, 22)]
    spans += [Planted(40 + n, 0, "root", 1000, 1001) for n in range(6)]
    base = [
        "show",
        "--last",
        "--source",
        "local",
        "--spool-dir",
        str(store(tmp_path / "s", *spans)),
    ]

    folded = Runner().invoke(main, base).output
    assert "item \u00d710 " in folded
    assert "root \u00d76" in folded
    assert "item ERROR" in folded
    assert "inner" not in folded
    every = Runner().invoke(main, [*base[:2], "--all", *base[2:]]).output
    assert len(re.findall(r"[├└] item ", every)) == 11
    assert "inner" in every


def test_show_of_very_many_rows_ends_early(tmp_path: Path) -> None:
    """And says what to type for all."""
    spans = [Planted(n, n - 1, f"{n}", n, 9000 - n) for n in range(1, 1_200)]
    base = ["show", "--source", "local", "--spool-dir", str(store(tmp_path / "s", *spans))]
    assert "the first 1,000 rows are drawn, all with --all" in Runner().invoke(main, base).output
    assert "--all" not in Runner().invoke(main, [*base, "--all"]).output


def test_late_with_json_draws_no_table(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """A table of 100,000 rows that nobody sees takes forty seconds and a gigabyte."""
    monkeypatch.delattr("rich.table.Table.add_row")
    assert [row["stage"] for row in rows(run("late", "--json"))][:2] == ["message", "message"]
    assert rows(run("late", "--json", "--who", "nobody")) == []
    assert rows(run("failed", "--json"))
    assert rows(run("late", "--json", "--summary"))


# ---------------------------------------------------------------- a page


class Page(HTMLParser):
    """Tags that were opened, those that were left open, and the text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.mark.parametrize("command", ["late", "failed"])
def test_a_page_has_all_and_needs_nothing(run: Run, tmp_path: Path, command: str) -> None:
    """No script, nothing from elsewhere; each row leads to its picture; what users typed is
    text.
    """
    file = tmp_path / "page.html"
    assert run(command, "--html", str(file)).output == f"written: {file}\n"

    text = file.read_text("utf-8")
    piped = run(command, "--html", "-")
    assert (piped.stdout, piped.stderr) == (text, "written: -\n")
    page = Page(text)
    assert page.open == []
    assert not re.search(r"<script|src=|@import|url\(|<b>", text)
    assert "prefers-color-scheme:dark" in text
    ids = {values["id"] for _, values in page.tags if "id" in values}
    targets = [values["href"] for tag, values in page.tags if tag == "a"]
    assert targets
    assert {str(target)[1:] for target in targets} <= ids
    hidden = {"aria-hidden": "true", "class": "bar"}  # the scale of the bars
    assert all("scope" in values or values == hidden for tag, values in page.tags if tag == "th")
    labels = [
        v.get("aria-label") or v.get("aria-labelledby") for t, v in page.tags if t == "section"
    ]
    assert all(label in ids for label in labels)
    assert "ValueError: <no & model>" in page.text
    assert "<b>failed</b>" in page.text
    assert ("html", {"lang": "en"}) in page.tags


@pytest.mark.parametrize("command", ["late", "failed"])
def test_the_rows_of_a_page_are_told_apart(tmp_path: Path, command: str) -> None:
    """By what the terminal has beside the stage; only by what differs."""
    spans = [
        Planted(
            *(n, 0, "GET /orders/{id}", n, 900),
            {"url.path": f"/orders/{n}", "room": "<a>"},
            trace=f"{n:032x}",
            status=2,
        )
        for n in (1, 2)
    ]
    place, file = store(tmp_path / "s", *spans), tmp_path / "page.html"
    asked = [command, "--source", "local", "--spool-dir", str(place), "--html", str(file)]
    assert Runner().invoke(main, asked).exit_code == 0
    text = Page(file.read_text("utf-8").partition("<section")[0]).text
    assert all(f"url.path=/orders/{n}" in text for n in (1, 2))
    assert "room=" not in text


def test_a_page_says_of_a_row_what_the_terminal_does(tmp_path: Path) -> None:
    """What is usual, how many of the user's were late, what was one incident, how many more there
    are; a moved clock, a budget, what went wrong.
    """
    blocked = {"late.cause": "loop", "late.culprit": "resize", "budget_s": 0.1}
    spans = [
        Planted(1, 0, "message", n, 900 + n, {**blocked, "user_id": f"u{n % 2}"}, trace=other(n))
        for n in range(1, 7)
    ]
    place, file = store(tmp_path / "s", *spans), tmp_path / "page.html"
    failed = {"status": 2, "message": "card <refused>"}
    store(place, Planted(2, 1, "charge", -50, 9, trace=other(1), **failed), service="billing")
    asked = ["late", "--source", "local", "--spool-dir", str(place), "--html", str(file)]
    assert Runner().invoke(main, asked).exit_code == 0
    text = Page(file.read_text("utf-8")).text
    assert "one incident · 2 users at " in text
    assert text.count("usually 900 ms, p95 900 ms · u1: 3 of 3 late") == 3
    assert "drawn 472 ms later: its clock is behind that of chat-gateway" in text
    assert text.count("budget 100 ms, over it by 800 ms") == 6
    assert text.count("card <refused>") == 1
    assert "more: --limit" not in text
    assert Runner().invoke(main, [*asked, "--limit", "2"]).exit_code == 0
    assert "and 4 more: --limit 6" in Page(file.read_text("utf-8")).text


def test_a_page_of_many_rows_and_of_none(tmp_path: Path) -> None:
    """A picture ends at a thousand rows; without rows it is the title alone."""
    spans = [Planted(n, n - 1, f"{n}", n, 9000 - n) for n in range(1, 1_200)]
    place, file = store(tmp_path / "s", *spans), tmp_path / "page.html"
    base = ["late", "--source", "local", "--spool-dir", str(place), "--html", str(file)]
    assert Runner().invoke(main, base).exit_code == 0
    assert "and more rows: otel-logging show --all" in file.read_text("utf-8")
    assert "not ended yet" not in file.read_text("utf-8")
    assert Runner().invoke(main, [*base, "--who", "nobody"]).exit_code == 0
    assert "no stage found" in file.read_text("utf-8")
    orphans = [Planted(n, 77, "item", n, 9000 - n, {"budget_s": 1.0}) for n in range(1, 7)]
    orphans += [Planted(20 + n, 1, "SELECT", 10, 20, {"n": n, "db": "pg"}) for n in range(5)]
    folded = ["late", "--spool-dir", str(store(tmp_path / "t", *orphans)), "--html", str(file)]
    assert Runner().invoke(main, folded).exit_code == 0
    assert "not ended yet" in file.read_text("utf-8")
    text = Page(file.read_text("utf-8")).text
    assert "SELECT \u00d75" in text
    assert ("db=pg" in text, "n=0" in text) == (True, False)  # what all of them have


def test_a_page_says_what_show_says(tmp_path: Path) -> None:
    """Services, lost time, fields in their order; not how a command unfolds rows."""
    facts = {"z": 1, "url.path": "/bill"}
    spans = [Planted(1, 0, "GET /o", 0, 900, user("grace")), Planted(2, 1, "POST", 10, 890, facts)]
    query, long = {"n": 7, "db.query.text": "SELECT  1"}, " ".join(["long"] * 99)
    bill = [Planted(3, 2, "POST /bill", 20, 880), Planted(4, 3, "SELECT", 30, 60, query)]
    bill.append(Planted(99, 3, "log", 60, 60, {"log.page": 1}, [line(60, long)]))
    bill += [Planted(5 + n, 3, "COMMIT", 70 + n, 71 + n) for n in range(6)]
    store(store(tmp_path / "s", *spans, service="shop"), *bill, service="billing")
    where = ["--source", "local", "--spool-dir", str(tmp_path / "s")]
    page = Runner().invoke(main, ["late", *where, "--html", "-"]).stdout
    show = Runner().invoke(main, ["show", *where], env={"COLUMNS": "120"}).stdout
    told, shown = Page(page).text, " ".join(show.replace("│", "").split())
    told = " ".join(told[told.index("all rows") :].split())

    heading = "GET /o LATE · user_id=grace · shop, billing · 900 ms"
    assert heading in Page(page).text
    assert heading in shown
    for said in ("POST /bill @billing", "url.path=/bill z=1", "itself 804 ms", "the longest took"):
        assert said in told
        assert said in shown
    assert "n=7SELECT 1" in told.replace("n=7 ", "n=7")
    assert "--all draws" not in told
    assert long in told  # whole, where there is room
    assert page.count("<i style=") == 1
    assert "<bdi>grace</bdi>" in page
    assert '<span class="dim"><bdi> · </bdi></span><bdi>shop, billing</bdi>' in page


@pytest.mark.parametrize(
    "more",
    [("--json",), ("--follow",), ("--group", "who"), ("--summary",)],
    ids=" ".join,
)
def test_a_page_is_of_rows_alone(run: Run, tmp_path: Path, more: tuple[str, ...]) -> None:
    """Anything else with it is an error, and writes nothing."""
    result = run("late", "--html", str(tmp_path / "page.html"), *more)
    assert result.exit_code == 2
    assert not (tmp_path / "page.html").exists()


def test_a_page_that_cannot_be_written_is_said(run: Run, tmp_path: Path) -> None:
    """With why."""
    result = run("late", "--html", str(tmp_path / "missing" / "page.html"))
    assert result.exit_code == 1
    assert "cannot be written" in result.output


# ---------------------------------------------------------------- following


def test_following_prints_nothing_twice(
    place: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither a row, nor the title; until somebody has had enough."""
    new, newer = (Planted(1, 0, "new", 0, 9000, user("new"), trace=n * 32) for n in "ef")
    rounds = iter([None, lambda: store(place, new), None, lambda: store(place, newer)])

    def sleep(_: float) -> None:
        action = next(rounds, KeyboardInterrupt)
        if action is KeyboardInterrupt:
            raise KeyboardInterrupt
        if action is not None:
            action()

    monkeypatch.setattr(listing.time, "sleep", sleep)
    result = run("late", "--who", "new", "--follow")
    titles = [line.partition(" · ")[0] for line in result.output.splitlines()]
    assert [t for t in titles if t in ("no stage found", "late")] == ["no stage found"]
    assert result.output.count("from the local store") == 1
    _, *rows = result.output.replace("eeeeeeee", "ffffffff").split("when ")
    (heads, *lines), (again, *more) = (row.splitlines() for row in rows)
    assert heads.split() == ["took", "late", "by", "who", "stage", "trace"]
    assert [line[:2] for line in lines] == ["20", "  ", "  ", ""]
    assert [heads, lines[0]] == [again, more[0]]
    rounds = iter([None])
    lines = run("late", "--who", "new", "--follow", "--json").stdout.splitlines()
    assert [json.loads(line)["who"] for line in lines if line != "Aborted!"] == [
        *({"user_id": "new"} for _ in range(2))
    ]


@pytest.mark.parametrize("command", ["late", "failed"])
def test_following_takes_no_row_beyond_the_limit_for_a_new_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    """What was there at the start is said to be so many more, and that is all."""
    old = (Planted(1, 0, "m", n, 900, user(f"old{n}"), status=2, trace=other(n)) for n in range(5))
    new = Planted(1, 0, "m", 0, 900, user("new"), status=2, trace="f" * 32)
    place = store(tmp_path, *old)
    rounds = iter([lambda: None, lambda: store(place, new), lambda: None])

    def sleep(_: float) -> None:
        action = next(rounds, None)
        if action is None:
            raise KeyboardInterrupt
        action()

    monkeypatch.setattr(listing.time, "sleep", sleep)
    options = ["--follow", "--limit", "1", "--source", "local", "--spool-dir", str(place)]
    said = Runner().invoke(main, [command, *options]).output
    assert [who for who in re.findall(r"old\d|new", said) if who == "new"] == ["new"]
    assert len(re.findall(r"old\d", said)) == 1
    assert said.count("and 4 more") == 1


@pytest.fixture
def follow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """What a command prints that follows, while spans come; the first ones are there."""

    def following(command: str, *batches: list[Planted], options: tuple[str, ...] = ()) -> str:
        rounds = iter(batches[1:])
        place = store(tmp_path / "followed", *batches[0])

        def sleep(_: float) -> None:
            if (batch := next(rounds, None)) is None:
                raise KeyboardInterrupt
            store(place, *batch)

        monkeypatch.setattr(listing.time, "sleep", sleep)
        where = ("--follow", "--source", "local", "--spool-dir", str(place))
        return Runner().invoke(main, [command, *where, *options]).output

    return following


def test_following_prints_each_late_step_of_one_trace(follow: Callable[..., str]) -> None:
    """Also where others of it were told of; and the job itself, when it ends."""
    steps = [Planted(n + 2, 1, f"step {n}", n * 900, n * 900 + 800, user("ada")) for n in range(4)]
    job = Planted(1, 0, "nightly job", 0, 9000, user("ada"))
    said = follow("late", *([step] for step in steps), [], [job], [])
    assert re.findall(r"step \d  |nightly job", said) == [
        *(f"step {n}  " for n in range(4)),
        "nightly job",
    ]
    assert said.count("when ") == len(steps) + 1


@pytest.mark.parametrize("command", ["late", "failed"])
def test_following_prints_every_row_of_a_burst(follow: Callable[..., str], command: str) -> None:
    """Each, unless it was asked for fewer; what was there at the start is a screenful."""

    def burst(first: int) -> list[Planted]:
        return [
            Planted(1, 0, "m", n, 900 + n, user(f"u{n:03}"), trace=other(n), status=2)
            for n in range(first, first + 30)
        ]

    said = follow(command, burst(100), burst(200))
    assert len(re.findall(r"\n20\d\d-.* u1\d\d", said)) == 20
    assert len(re.findall(r"\n20\d\d-.* u2\d\d", said)) == 30
    assert re.findall("and .* more.*", said) == ["and 10 more: --limit 30"]
    assert said.count("when ") == 2
    fewer = follow(command, burst(300), burst(400), options=("--limit", "5"))
    assert fewer.count("--limit 90") == 1
    assert fewer.count("--limit 30") == 1
    assert len(re.findall(r"\n20\d\d-.* u\d\d\d", fewer)) == 10


@pytest.mark.parametrize("command", ["late", "failed"])
@pytest.mark.parametrize("width", ["80", "120", "200"])
def test_what_follows_stands_below_its_heads(
    follow: Callable[..., str], monkeypatch: pytest.MonkeyPatch, command: str, width: str
) -> None:
    """What comes together has heads of its own; title and sources are there once."""
    monkeypatch.setenv("COLUMNS", width)
    people = [("quiet", 5), ("ada", 900), ("al", 150), ("augustina", 2000), ("bo", 30_000)]
    batches = [
        [Planted(1, 0, "m", 0, took, user(who), trace=other(n), status=2 * (n > 0))]
        for n, (who, took) in enumerate(people)
    ]
    said = follow(command, *batches)
    lines = said.splitlines()
    assert said.count("from the local store") == 1
    assert lines[0].startswith("none ")
    assert f"\n{command} · " not in said
    heads, seen = "", list[str]()
    for row in lines:
        heads = row if row.startswith("when ") else heads
        if who := next((who for who, _ in people if f"  {who}  " in row), None):
            seen.append(who)
            assert row.index(f" {who} ") == heads.index(" who ")
            assert re.fullmatch("[0-9a-f]{8}", row[heads.index("trace") :][:8])
            took = heads.index("took") + len("took")
            assert row[took - 1] == "s"
            assert row[took] == " "
    assert seen == ["ada", "al", "augustina", "bo"]
    assert said.count("when ") == len(seen)


@pytest.mark.parametrize("command", ["late", "failed"])
def test_following_prints_each_row_once_as_it_comes(place: Path, command: str) -> None:
    """A line of JSON each; it goes on until it is interrupted."""
    script = "from otel_logging.cli import main; main()"
    arguments = [command, "--json", "--follow", "--source", "local", "--spool-dir", str(place)]
    environment = child_environment(PYTHONUNBUFFERED="1")
    running = start(sys.executable, "-c", script, *arguments, env=environment)
    first = {json.loads(running.stdout.readline())["trace_id"] for _ in range(3)}
    assert len(first) == 3
    store(place, Planted(1, 0, "new", 0, 800, user("new"), trace="f" * 32, status=2))
    while json.loads(running.stdout.readline())["trace_id"] != "f" * 32:
        pass
    running.terminate()
    done = end(running)
    assert (done.stdout, done.stderr) == ("", "")


def test_groups_fit_a_narrow_terminal_and_a_long_path_is_shortened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of 30 stages within stages the middle is counted; what is grouped by is never gone."""
    store(
        tmp_path,
        Planted(1, 0, "level 1", 0, 900, {"budget_s": 0.1, "user_id": "ada"}),
        *(Planted(n, n - 1, f"level {n}", 0, 900 - n) for n in range(2, 32)),
    )

    def said(*arguments: str, width: int) -> str:
        made = Console(width=width, force_terminal=False, color_system=None, highlight=False)
        monkeypatch.setattr(terminal, "console", lambda: made)
        options = ("--source", "local", "--spool-dir", str(tmp_path))
        with made.capture() as captured:
            Runner().invoke(main, ["late", *arguments, *options])
        return captured.get()

    assert "level 2 → level 3 → … 22 more → level 26 → " in said("--summary", width=200)
    row = "\n   1   800 ms      1  900 ms  4bf92f35  ada\n"
    assert row in said("--group", "who", width=80)
