"""The table of late stages: whole tables."""

import time
from dataclasses import replace
from pathlib import Path

import pytest
from rich.cells import cell_len
from rich.console import Console

from otel_logging.traces.draw import table, terminal
from otel_logging.traces.draw.terminal import Links
from otel_logging.traces.late import Question, late
from otel_logging.traces.span import Span
from tests.stored import Planted, read_back

pytestmark = pytest.mark.usefixtures("in_utc")


def drawn(spans: list[Span], *, limit: int | None = None, width: int = 80) -> list[str]:
    answer = late(spans, Question(), limit=limit)
    out = Console(width=width, force_terminal=False, color_system=None, highlight=False)
    with out.capture() as captured:
        terminal.show(out, table.draw(answer, width=width))
    lines = captured.get().splitlines()
    assert all(cell_len(text) <= width for text in lines)
    return lines


def parts(lines: list[str]) -> tuple[str, list[str]]:
    """The title, however many lines it has, and what is below."""
    at = lines.index("")
    return " ".join(map(str.strip, lines[:at])), lines[at + 1 :]


def test_the_table_has_when_how_late_whose_and_where_the_time_went(tmp_path: Path) -> None:
    """When, how long, how late, whose, which stage; where the time went, and the trace."""
    spans = read_back(
        tmp_path,
        Planted(1, 0, "message", 0, 1204, {"user_id": "user-456", "budget_s": 0.3}),
        Planted(2, 1, "transcribe", 5, 905),
        Planted(3, 2, "load model", 10, 650),
        Planted(1, 0, "message", 70, 500, {"budget_s": 0.3}, trace="a" * 32),
    )

    assert drawn(spans) == [
        "late · 2 of 2 stages · 2023-11-14 22:13 +0000 · chat-gateway",
        "",
        "when                        took  late by  who       stage    trace",
        "2023-11-14 22:13:20.000  1.204 s   904 ms  user-456  message  4bf92f35",
        "  └ transcribe 900 ms → load model 640 ms",
        "2023-11-14 22:13:20.070   430 ms   130 ms  -         message  aaaaaaaa",
        "  └ nothing recorded inside: open stages in it, or install the instrumentation",
        "    of your database",
    ]


def test_without_budgets_the_title_is_slowest(tmp_path: Path) -> None:
    """Nothing is called late that nothing said is."""
    spans = read_back(tmp_path, Planted(1, 0, "message", 0, 1204))

    assert drawn(spans)[:4] == [
        "slowest · 1 stage, none with a budget · 2023-11-14 22:13 +0000 · chat-gateway",
        "",
        "when                        took  who  stage    trace",
        "2023-11-14 22:13:20.000  1.204 s  -    message  4bf92f35",
    ]


def test_none_late_is_one_line(tmp_path: Path) -> None:
    """With how many were looked at."""
    spans = read_back(tmp_path, Planted(1, 0, "message", 0, 1, {"budget_s": 9.0}))

    assert drawn(spans) == ["none late of 1 stage · 2023-11-14 22:13 +0000 · chat-gateway"]


def test_nothing_to_look_at_is_one_line() -> None:
    """The question was too narrow."""
    assert drawn([]) == ["no stage found"]
    asked = table.draw(late([], Question(over_s=1.0)), width=80, links=terminal.NO_LINKS)
    assert [line.plain for line in asked] == ["none late of 0 stages"]


def test_what_the_limit_leaves_out_is_reported(tmp_path: Path) -> None:
    """With what to type to see it."""
    spans = read_back(
        tmp_path, *(Planted(1, 0, "message", 0, n, trace=f"{n:032x}") for n in (1, 2, 3))
    )

    advice = "a stage with a budget says where it stood: OTEL_LOGGING_BUDGETS='*=0.5'"
    assert drawn(spans, limit=1)[-2:] == ["and 2 more: --limit 3", advice]
    assert len(drawn(spans, limit=3)) == 13


@pytest.mark.parametrize("width", [40, 80, 120])
def test_a_way_that_is_too_long_goes_on_below(tmp_path: Path, width: int) -> None:
    """Whole, and so does what is beside it."""
    spans = read_back(
        tmp_path, *(Planted(n + 1, n, f"stage number {n}", n, 1000 - n) for n in range(8))
    )
    title, (_, _, *lines) = parts(drawn(spans, width=width))

    assert " ".join(title.split()).endswith(" 2023-11-14 22:13 +0000 · chat-gateway")
    way = " → ".join(f"stage number {n} {1000 - 2 * n} ms" for n in range(1, 8))
    assert " ".join(" ".join(lines).split()) == f"└ {way}"


def test_long_names_of_services_are_told_apart(tmp_path: Path) -> None:
    """By how they begin and how they end."""
    spans = []
    for n in range(2):
        message = Planted(1, 0, "message", 0, 900, trace=f"{n + 1:032x}")
        name = f"chat-service-number-{n}"
        spans += read_back(tmp_path / name, message, service=name)
    rows = [row for row in drawn(spans) if "message @" in row]
    assert [row.split("@")[1].split()[0] for row in rows] == [
        "chat-s…-number-0",
        "chat-s…-number-1",
    ]


def test_in_a_wide_terminal_a_row_is_one_line(tmp_path: Path) -> None:
    """With why it was late beside it, where that has room; else below, and never cut."""
    long = "answer " * 30
    spans = read_back(
        tmp_path,
        Planted(1, 0, "message", 0, 1204),
        Planted(2, 1, "answer", 0, 1200),
        Planted(1, 0, "message", 0, 100, trace="a" * 32),
        Planted(2, 1, long, 0, 99, trace="a" * 32),
    )

    _, _, _, one, other, *below = drawn(spans, width=200)

    assert one == ("2023-11-14 22:13:20.000  1.204 s  -    message  4bf92f35  answer 1.200 s")
    assert other == "2023-11-14 22:13:20.000   100 ms  -    message  aaaaaaaa"
    assert " ".join(map(str.strip, below)).split() == ["└", *long.split(), "99", "ms"]


@pytest.mark.parametrize("width", [80, 120, 200])
def test_an_error_is_a_word_at_any_width(tmp_path: Path, width: int) -> None:
    """The name gives way."""
    name = "GET /api/v1/organisations/{organisation_id}/departments/{department_id}/employees"
    spans = read_back(tmp_path, Planted(1, 0, name, 0, 1204, {"budget_s": 0.1}, status=2))

    assert "  ERROR " in parts(drawn(spans, width=width))[1][1]


def test_one_stage_that_is_too_long_goes_on_below(tmp_path: Path) -> None:
    """It goes on in the next line."""
    spans = read_back(tmp_path, Planted(1, 0, "message", 0, 1000), Planted(2, 1, "x" * 99, 0, 1000))

    assert drawn(spans)[4:] == ["  └ " + "x" * 76, "    " + "x" * 23 + " 1.000 s"]


def test_services_are_named_where_there_are_several(tmp_path: Path) -> None:
    """And only then."""
    spans = read_back(tmp_path / "a", Planted(1, 0, "message", 0, 1000))
    spans += read_back(
        tmp_path / "b", Planted(1, 0, "job", 0, 9, trace="a" * 32), service="billing"
    )

    title, lines = parts(drawn(spans))
    assert title.endswith(" · billing, chat-gateway")
    assert "  message @chat-gateway  " in lines[1]
    assert any("  job @billing  " in text for text in lines[3:])


def test_todays_rows_have_no_date(tmp_path: Path) -> None:
    """It would be noise; yesterday's have one."""
    today = time.time_ns() // 10**9 * 10**9
    spans = read_back(tmp_path, Planted(1, 0, "message", 0, 1000), origin=today)

    expected = time.strftime("%H:%M:%S.000", time.gmtime(today // 10**9))
    assert drawn(spans)[3].startswith(f"{expected}  1.000 s")


def test_in_a_very_narrow_terminal_the_end_is_cut(tmp_path: Path) -> None:
    """Rather than everything."""
    user = {"user_id": "user-456", "budget_s": 0.3}
    spans = read_back(tmp_path, Planted(1, 0, "message", 0, 1204, user))
    lines = drawn(spans, width=50)
    assert any(text.startswith("2023-11-14 22:13:20.000  1.204 s") for text in lines)
    assert any(text.split()[:4] == ["when", "took", "late", "by"] for text in lines)


def test_long_names_of_people_are_cut(tmp_path: Path) -> None:
    """And what they typed is not obeyed."""
    values = {"user_id": "\x1b" + "u" * 50}
    spans = read_back(tmp_path, Planted(1, 0, "message", 0, 1000, values))

    assert drawn(spans)[3].split("  ")[2] == r"\x1b" + "u" * 19 + "…"


def test_each_row_has_its_link_below(tmp_path: Path) -> None:
    """Where Jaeger has its trace."""
    links = Links(
        lambda t, s, _: f"http://jaeger/{t[:2]}/{s}" if t != "a" * 32 else None, are_taken=False
    )
    spans = read_back(
        tmp_path,
        Planted(1, 0, "message", 0, 1000),
        Planted(1, 0, "other", 0, 900, trace="a" * 32),
    )

    lines = [line.plain for line in table.draw(late(spans, Question()), width=80, links=links)]

    assert [text for text in lines if "http" in text] == [f"  http://jaeger/4b/{1:016x}"]


def test_what_was_not_all_looked_at_is_not_counted(tmp_path: Path) -> None:
    """Jaeger left out what was quick."""
    spans = read_back(tmp_path, Planted(1, 0, "message", 0, 1000))

    for over_s, title in ((0.5, "late · 1 · 2023"), (2.0, "none late · 2023")):
        answer = replace(late(spans, Question(over_s=over_s)), narrowed=True)
        assert next(table.draw(answer, width=80)).plain.startswith(title)
