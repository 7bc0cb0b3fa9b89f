"""How values look in a terminal."""

import contextlib
import io
import os
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from otel_logging._text import duration, visible
from otel_logging.traces.draw import terminal
from otel_logging.traces.draw.terminal import NO_LINKS, Links


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("word", "word"),
        ("two words", '"two words"'),
        ("", '""'),
        ("a\nb", r"a\nb"),
        (12, "12"),
        (0.123456789, "0.123457"),
        (float("nan"), "nan"),
        (True, "true"),
        (None, "null"),
        (["a", 1], '["a", 1]'),
        ({"k": "ü\x1b"}, '{"k": "ü\\u001b"}'),
    ],
)
def test_a_value_stands_in_one_line(value: object, expected: str) -> None:
    """Strings with blanks are quoted, so that one sees where they end."""
    assert terminal.shown(value) == expected


def test_where_a_stage_stood_is_one_line() -> None:
    """Step after step, without quotes."""
    assert terminal.fields([("late.where", "a (x.py:1)\nb (y.py:2)")]).plain == (
        "where it stood: a (x.py:1) · b (y.py:2)"
    )


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (0, "0 µs"),
        (0.00085, "850 µs"),
        (0.00099996, "1.0 ms"),
        (0.0032, "3.2 ms"),
        (0.00996, "10 ms"),
        (0.604, "604 ms"),
        (0.9996, "1.000 s"),
        (1.204, "1.204 s"),
        (59.9996, "1 min"),
        (1023, "17 min 3 s"),
        (3599.7, "1 h"),
        (172_800, "2 d"),
        (7500, "2 h 5 min"),
        (90_061, "25 h 1 min"),
    ],
)
def test_durations_are_in_the_unit_that_people_use(seconds: float, expected: str) -> None:
    """Rounded without a jump from one unit to the next."""
    assert duration(seconds) == expected


@given(st.text(), st.integers(1, 40))
def test_a_cell_is_exactly_as_wide_as_asked_for(text: str, width: int) -> None:
    """Wide characters count twice, as they do on the screen."""
    assert cell_len(terminal.cell(Text(visible(text)), width).plain) == width


def test_a_cell_that_is_too_narrow_says_that_there_was_more() -> None:
    """With an ellipsis."""
    assert terminal.cell(Text("transcribe"), 6).plain == "trans…"
    assert terminal.cell(Text("日本語"), 5).plain == "日本…"
    assert terminal.cell(Text("ab"), 4).plain == "ab  "


@pytest.mark.parametrize(("columns", "width"), [("40", 80), ("100", 100), ("500", 120)])
def test_without_a_terminal_it_is_80_to_120_columns_wide(
    monkeypatch: pytest.MonkeyPatch, columns: str, width: int
) -> None:
    """As COLUMNS says, within that."""
    monkeypatch.setenv("COLUMNS", columns)
    monkeypatch.delenv("FORCE_COLOR", raising=False)

    with contextlib.redirect_stdout(io.StringIO()):
        assert terminal.console().width == width


def test_a_terminal_is_as_wide_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """However narrow."""
    monkeypatch.setenv("COLUMNS", "44")
    monkeypatch.setenv("FORCE_COLOR", "1")

    assert terminal.console().width == 44


def of(trace_id: str, span_id: str) -> str | None:
    return f"http://jaeger/trace/{trace_id}?uiFind={span_id}" if trace_id == "a" else None


def printed(monkeypatch: pytest.MonkeyPatch, lines: list[Text]) -> str:
    monkeypatch.setenv("COLUMNS", "20")
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    with contextlib.redirect_stdout(io.StringIO()) as out:
        terminal.show(terminal.console(), lines)
    return out.getvalue()


def test_a_text_is_a_link_where_the_terminal_takes_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Then the URL is on no line of its own; what Jaeger has not is no link."""
    links = Links(of, are_taken=True)

    out = printed(monkeypatch, [links.mark(Text("text"), "a", "b")])

    assert re.fullmatch(
        r"\x1b\]8;id=\d+;http://jaeger/trace/a\?uiFind=b\x1b\\text\x1b\]8;;\x1b\\\n", out
    )
    assert list(links.below("a", "b")) == []
    assert printed(monkeypatch, [links.mark(Text("text"), "x", "b")]) == "text\n"


def test_elsewhere_the_whole_url_is_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    """However narrow the terminal; none where Jaeger has nothing of it."""
    links = Links(of, are_taken=False)

    assert printed(monkeypatch, [links.mark(Text("text"), "a", "b")]) == "text\n"
    (line,) = links.below("a", "b", indent="  ")
    assert line.plain == "  http://jaeger/trace/a?uiFind=b"
    assert "http://jaeger/trace/a?uiFind=b" in printed(monkeypatch, [line])
    assert list(links.below("x", "b")) == list(NO_LINKS.below("a", "b")) == []


def test_lines_are_cut_and_carry_no_blanks_at_their_end(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """And no markup of theirs is read."""
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.delenv("FORCE_COLOR", raising=False)

    lines = [Text("short   "), Text("x" * 100), Text("[red]:smile: http://x 12[/red]")]
    terminal.show(terminal.console(), lines)

    assert capsys.readouterr().out.splitlines() == [
        "short",
        "x" * 79 + "…",
        "[red]:smile: http://x 12[/red]",
    ]


def test_many_lines_are_the_same_lines() -> None:
    """However many are printed at once: in order, blank ones too."""
    out = Console(width=80, force_terminal=False, highlight=False)
    texts = ["" if n % 7 == 0 else f"line {n}" for n in range(200)]
    with out.capture() as captured:
        terminal.show(out, map(Text, texts))

    assert captured.get() == "".join(f"{text}\n" for text in texts)


@pytest.mark.parametrize("width", range(12, 40))
def test_a_number_stays_with_its_unit(width: int) -> None:
    """Where a line ends between words; the styles stay where they were."""
    text = Text.assemble(
        "late 2 times, by ", ("879 ms", "bold"), " in all, 17 min 3 s at 100 % of it"
    )
    lines = [*terminal.wrapped(text.copy(), width, 2)]
    assert " ".join(line.plain.strip() for line in lines) == text.plain
    assert all(line.cell_len <= width for line in lines)
    assert not [line.plain for line in lines if re.match(r" *(ms|min|s|%)( |$)", line.plain)]
    (bold,) = (line for line in lines if "879" in line.plain)
    assert [bold.plain[s.start : s.end] for s in bold.spans if s.style == "bold"] == ["879 ms"]


def test_a_sentence_is_broken_between_words_in_a_terminal_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What is piped is one line; a path stays whole: it is to be copied."""
    monkeypatch.setenv("COLUMNS", "40")
    path = f"/var/{'spool/' * 8}otel_logging"
    said = f"Nothing is recorded in {path} yet: a stage appears here when it ends.\nfrom here"
    assert terminal.broken(said, io.StringIO()) == said
    main, terminal_end = os.openpty()
    with os.fdopen(main, "rb"), os.fdopen(terminal_end, "w") as out:
        lines = terminal.broken(said, out).splitlines()
    assert path in lines
    assert lines[-1] == "from here"
    assert all(len(line) <= 40 - len("Error: ") for line in lines if line != path)
    assert " ".join(lines) == said.replace("\n", " ")
