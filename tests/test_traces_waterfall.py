"""A trace as a picture: whole pictures, as somebody reads them."""

from pathlib import Path
from typing import Any

import pytest
from rich.cells import cell_len

from otel_logging.traces.draw import waterfall
from otel_logging.traces.draw.terminal import Links
from otel_logging.traces.trace import Trace, by_trace
from tests.stored import MS, Planted, line, read_back, trace_of

USER = {"user_id": "user-456"}
TRACEBACK = """Traceback (most recent call last):
  File "/srv/shop/cart.py", line 12, in answer
    boom()
ValueError: no model
"""


pytestmark = pytest.mark.usefixtures("in_utc")


TIMES = "\N{MULTIPLICATION SIGN}"


def picture(trace: Trace, width: int = 80, **options: bool) -> list[str]:
    """The picture as it stands in a pipe, without its two lines of heading."""
    from rich.console import Console

    from otel_logging.traces.draw import terminal

    out = Console(width=width, force_terminal=False, color_system=None, highlight=False)
    with out.capture() as captured:
        terminal.show(out, waterfall.draw(trace, width=width, **options))
    lines = captured.get().splitlines()
    assert all(cell_len(text) <= width for text in lines)
    return lines


def below_heading(trace: Trace, width: int = 80, **options: bool) -> list[str]:
    lines = picture(trace, width, **options)
    return lines[lines.index("") + 2 :]


def test_a_trace_is_drawn_with_bars_lines_and_what_is_late(tmp_path: Path) -> None:
    """Stages with their bars, lines in time order inside theirs, what is late and what failed."""
    trace = trace_of(
        tmp_path,
        Planted(
            1,
            0,
            "websocket message",
            0,
            1200,
            {**USER, "budget_s": 1.0, "http.route": "/ws"},
            [line(3, "utterance received", words=12, **USER), line(1190, "answered")],
            kind=2,
        ),
        Planted(
            2,
            1,
            "transcribe",
            150,
            900,
            {**USER, "budget_s": 0.3, "late": True, "late.by_s": 0.45},
            [
                line(160, "model is cold", "warning", why="evicted an hour ago"),
                line(890, "done", "debug"),
            ],
        ),
        Planted(3, 2, "load model", 200, 650, USER, [(300, "weights", {})]),
        Planted(9, 2, "log", 700, 700, {"log.page": 1}, [line(700, "halfway")]),
        Planted(
            4,
            1,
            "answer",
            900,
            1175,
            USER,
            [line(1100, "could not answer", "error", exception=TRACEBACK)],
            [("a" * 32, 77)],
            status=2,
            message="gave up",
        ),
        Planted(5, 4, "retry", 1110, 1112, {**USER, "cancelled": True}),
    )

    assert picture(trace) == [
        "websocket message LATE · user_id=user-456 · chat-gateway · 1.200 s",
        "trace 4bf92f3577b34da6a3ce929d0e0e4736 · 2023-11-14 22:13:20.000 +0000",
        "└ transcribe 750 ms → load model 450 ms → itself 450 ms, 350 ms of it after",
        '  "weights"',
        "",
        "start   took  seconds                 0                                    1.200",
        "0.000  1.200  websocket message LATE  ━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━",
        "              │ budget 1.000 s, over it by 200 ms",
        "              │ http.route=/ws",
        "0.003         │ info    utterance received  words=12 logger=chat",
        "0.150  0.750  ├ transcribe LATE            ━━━━━━━━━━━━━━━━━━━━━━━━━━╸",
        "              │ │ budget 300 ms, over it by 450 ms",
        '0.160         │ │ warning model is cold  why="evicted an hour ago" logger=chat',
        "0.200  0.450  │ └ load model                 ━━━━┅┅┅┅┅┅┅┅┅┅┅━",
        '              │     ┅ itself 450 ms, 350 ms of it after "weights"',
        "0.300         │     event   weights",
        "0.700         │   info    halfway  logger=chat",
        "0.890         │   debug   done  logger=chat",
        "0.900  0.275  └ answer ERROR                                         ╺━━━━━━━━━╸",
        "                │ gave up",
        "                │ linked to trace aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
        "1.100           │ ERROR   could not answer  logger=chat",
        "                │         ValueError: no model  at shop/cart.py:12 answer",
        "1.110  0.002    └ retry CANCELLED                                           ╺",
        "1.190           info    answered  logger=chat",
    ]


@pytest.mark.parametrize("outer", [(), (Planted(999, 0, "message", 0, 1000),)])
def test_time_of_many_stages_breaks_no_bar(tmp_path: Path, outer: tuple[Planted, ...]) -> None:
    """So no sign of that stands before what is said of them, in the heading or below a row."""
    many = (Planted(n + 2, 1, f"SELECT t{n % 5}", n * 5, n * 5 + 4) for n in range(200))
    parent = outer[0].span if outer else 0
    top = Planted(1, parent, "wide", 0, 1000, {"budget_s": 5.0} if parent else {})
    trace = trace_of(tmp_path, *outer, top, *many)

    said = " ".join(picture(trace))

    assert said.count("200 stages of 5 names · 800 ms") == 1 + bool(outer)
    assert "┅" not in said


def test_its_link_stands_in_the_heading(tmp_path: Path) -> None:
    """Of the outermost stage, of the deepest of its path, and, where that is the same one, of the
    longest inside: else Jaeger shows nothing of what is inside.
    """
    links = Links(lambda *ids: "http://jaeger/" + "/".join(ids), are_taken=False)
    trace = trace_of(tmp_path, Planted(1, 0, "message", 0, 9), Planted(2, 1, "answer", 1, 2))

    lines = [line.plain for line in waterfall.draw(trace, width=80, links=links)]

    assert lines[2] == f"http://jaeger/{trace.trace_id}/{1:016x}/{1:016x}/{2:016x}"
    assert lines[lines.index("") - 1] == "└ ┅ itself 8.0 ms, 7.0 ms of it after answer"


def test_a_short_trace_counts_in_milliseconds(tmp_path: Path) -> None:
    """Down to microseconds where it is very short."""
    short = trace_of(tmp_path / "a", Planted(1, 0, "x", 0, 204.125))
    assert picture(short)[-2:] == [
        "start   took  milliseconds  0                                              204.1",
        "  0.0  204.1  x             ━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━",
    ]
    shorter = trace_of(tmp_path / "b", Planted(1, 0, "x", 0, 0.85))
    assert picture(shorter)[-1].startswith("0.000  0.850  x ")
    nothing = trace_of(tmp_path / "c", Planted(1, 0, "x", 5, 5))
    assert picture(nothing)[-1] == "0.000  0.000  x             ╸"


def test_an_exception_by_convention_is_an_error_with_its_frame(tmp_path: Path) -> None:
    """The status that says the same, here and further up, is not said again."""
    values = {
        "exception.type": "ValueError",
        "exception.message": "boom",
        "exception.stacktrace": TRACEBACK,
    }
    trace = trace_of(
        tmp_path,
        Planted(1, 0, "message", 0, 100, status=2, message="ValueError: boom"),
        Planted(
            2,
            1,
            "answer",
            0,
            90,
            {},
            [(50, "exception", values)],
            status=2,
            message="ValueError: boom",
        ),
    )

    assert [text[14:] for text in below_heading(trace)] == [
        "message ERROR   ━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━",
        "└ answer ERROR  ━┅┅┅┅┅┅┅┅┅┅┅┅┅┅┅┅┅┅┅┅┅┅┅┅━━━━━━━━━━━━━━━━━━━━",
        "    ┅ itself 90 ms, 50 ms of it before ValueError",
        "    ERROR   ValueError: boom",
        "            at shop/cart.py:12 answer",
    ]


def test_an_exception_that_was_handled_is_no_error(tmp_path: Path) -> None:
    values = {"exception.type": "ValueError", "exception.message": "boom"}
    trace = trace_of(tmp_path, Planted(1, 0, "message", 0, 100, {}, [(50, "exception", values)]))
    assert below_heading(trace)[-1].split() == ["50.0", "event", "ValueError:", "boom"]


def test_an_exception_is_never_cut(tmp_path: Path) -> None:
    """Where it does not fit it goes on below, indented."""
    text = TRACEBACK.replace("no model", "no model " * 6)
    trace = trace_of(
        tmp_path,
        Planted(1, 0, "message", 0, 1000, {}, [line(1, "failed", "error", exception=text)]),
    )

    assert [text[24:] for text in below_heading(trace)[2:]] == [
        "ValueError: no model no model no model no model no",
        "  model no model   at shop/cart.py:12 answer",
    ]
    assert below_heading(trace, 120)[-1].endswith("no model   at shop/cart.py:12 answer")


def test_what_is_not_in_the_store_yet_leaves_room_for_what_is(tmp_path: Path) -> None:
    """A stage that still runs is known by its children and its pages of lines."""
    trace = trace_of(
        tmp_path,
        Planted(2, 77, "child", 0, 300, USER, [line(1, "working")]),
        Planted(3, 77, "second child", 400, 1000, USER),
        Planted(9, 77, "log", 350, 350, {"log.page": 1}, [line(350, "page one")]),
    )

    assert [text[:51].rstrip(" ━┅─╶╴") for text in below_heading(trace)] == [
        "0.000         … not ended yet, or not recorded here",
        "0.000  0.300  ├ child",
        "0.001         │   info    working  logger=chat",
        "0.350         │ info    page one  logger=chat",
        "0.400  0.600  └ second child",
    ]


def test_a_page_alone_is_shown(tmp_path: Path) -> None:
    """Nothing else of its trace has ended."""
    trace = trace_of(
        tmp_path, Planted(9, 77, "log", 350, 350, {"log.page": 1}, [line(351, "page one")])
    )

    assert below_heading(trace) == [
        "0.000         … not ended yet, or not recorded here",
        "1.000           info    page one  logger=chat",
    ]


def test_a_caller_elsewhere_is_not_missed(tmp_path: Path) -> None:
    """A parent that is known to be another process's leaves no gap in the picture."""
    trace = trace_of(tmp_path, Planted(1, 77, "request", 0, 1000, flags=0x301))

    assert below_heading(trace)[0].startswith("0.000  1.000  request ")


@pytest.mark.parametrize("first", ["inner", "served"])
def test_what_one_that_has_not_ended_called_elsewhere_is_inside_it(
    tmp_path: Path, first: str
) -> None:
    """Once, whatever began first: a stage inside shows whose call it was."""
    inner = Planted(2, 7, "inner", 10 * (first != "inner"), 400)
    served = Planted(3, 7, "served", 10 * (first == "inner"), 300, flags=0x301)
    drawn = below_heading(trace_of(tmp_path, inner, served))
    assert [text[14:40].split("  ")[0] for text in drawn] == [
        "… not ended yet, or not re",
        *(["├ inner", "└ served"] if first == "inner" else ["├ served", "└ inner"]),
    ]


def test_stages_of_another_service_show_its_name(tmp_path: Path) -> None:
    """Beside their own names."""
    spans = read_back(tmp_path / "a", Planted(1, 0, "message", 0, 1000))
    spans += read_back(tmp_path / "b", Planted(2, 1, "bill", 500, 600), service="billing")
    (trace,) = by_trace(spans).values()

    lines = picture(trace)
    assert lines[0] == "message · chat-gateway, billing · 1.000 s"
    assert "└ bill @billing" in lines[6]


def test_a_tree_a_thousand_stages_deep_is_drawn(tmp_path: Path) -> None:
    """Of its lines on the left the innermost are left."""
    spans = (Planted(n + 1, n, f"depth {n}", n, 2000 - n) for n in range(1000))
    trace = trace_of(tmp_path, *spans)

    lines = below_heading(trace)
    assert len(lines) == 1000
    assert "└ depth 999" in lines[-1]
    assert lines[-1][14] == "…"


def test_long_names_leave_room_for_the_bars(tmp_path: Path) -> None:
    """And control characters are shown, not obeyed."""
    trace = trace_of(tmp_path, Planted(1, 0, "\x1b[2J" + "x" * 200, 0, 1000, status=2))

    (drawn,) = below_heading(trace)
    assert "\\x1b[2Jxxx" in drawn
    assert "…" in drawn
    assert drawn.endswith("━" * 20)


def test_a_message_is_never_obeyed_and_takes_few_lines(tmp_path: Path) -> None:
    """A message may hold anything that a user typed; fields are cut at the end of its last line."""
    values = {"text": "z" * 90}
    said = [line(1, "two\nlines \x1b[31m" + "y" * 400, "\x07odd"), line(2, "word " * 20, **values)]
    trace = trace_of(tmp_path, Planted(1, 0, "m", 0, 1000, {}, said))

    _, odd, *more, words, rest = below_heading(trace)
    assert odd == r"0.001           \x07odd two\nlines"
    assert "".join(map(str.strip, more)) == r"\x1b[31m" + "y" * 220 + "…  logger=chat"
    assert len(more) == 5
    assert all(len(each) <= 80 for each in more)
    assert words == "0.002           info    " + ("word " * 11).rstrip()
    assert rest.startswith(" " * 26 + "word " * 9 + " text=zz")
    assert (len(rest), rest[-1]) == (80, "…")


def test_lines_outside_any_stage_can_be_drawn_by_their_trace_id(tmp_path: Path) -> None:
    """Their holder is the only stage then."""
    trace = trace_of(tmp_path, Planted(1, 0, "process log", 0, 1000, {}, [line(5, "ready")]))

    assert below_heading(trace)[1] == "0.005           info    ready  logger=chat"


def test_what_all_children_have_stands_once(tmp_path: Path) -> None:
    """At their parent; what one of them has otherwise stays with each."""
    values = {"db.system": "postgresql", "peer": "db-1"}
    trace = trace_of(
        tmp_path,
        Planted(1, 0, "view", 0, 1000, {"peer": "web"}),
        Planted(2, 1, "BEGIN", 0, 10, {**values, "rows": 0}),
        Planted(3, 1, "SELECT", 10, 990, {**values, "rows": 7}),
    )

    assert [text[14:].rstrip() for text in below_heading(trace) if "=" in text] == [
        "│ peer=web",
        "│ each inside: db.system=postgresql peer=db-1",
        "│   rows=0",
        "    rows=7",
    ]


def test_sql_is_never_cut(tmp_path: Path) -> None:
    """It goes on below, on as many lines as it needs; nor is where a stage stood."""
    sql = "SELECT a FROM b WHERE " + " AND ".join(f"column_{n} = %s" for n in range(12))
    where = "71 % resize_image (worker.py:88) \u00b7 " * 3
    trace = trace_of(
        tmp_path,
        Planted(1, 0, "query", 0, 1000, {"db.statement": sql, "late.where": where, "k": 1}),
    )

    lines = [text[16:] for text in below_heading(trace, 60)[1:]]
    assert lines[0] == "k=1"
    assert " ".join(" ".join(lines[1:]).split()) == f"where it stood: {where.strip()} {sql}"


STOOD = "71 %\n  resize_image (/srv/worker.py:88)\n  take (/srv/a.py:9)\n29 %\n  a\x1b (b.py:1)"


def test_where_a_stage_stood_is_shown_step_by_step_on_request_alone(tmp_path: Path) -> None:
    """Below the stage, also from a page of many lines; it is no line, unless somebody logs it."""
    stood, page = ("late.where", {"late.where": STOOD}), {"log.page": 1}
    trace = trace_of(
        tmp_path,
        Planted(1, 0, "turn", 0, 1000, {"k": 1}, [line(1, "late.where")]),
        Planted(2, 1, "resize", 0, 1000, {}, [(1000, *stood)]),
        Planted(3, 1, "log", 1000, 1000, page, [(1000, *stood)]),
    )
    plain, asked = below_heading(trace), below_heading(trace, stacks=True)
    told = [text for text in plain if "resize_image" in text or "late.where" in text]
    assert [text.split()[1:] for text in told] == [["info", "late.where", "logger=chat"]]
    steps = [step.strip() for step in STOOD.replace("\x1b", "\\x1b").splitlines()]
    assert [text.strip("│ ") for text in asked if text not in plain] == [*steps, *steps]
    assert [text for text in asked if text in plain] == plain


@pytest.mark.parametrize(
    ("off", "took", "said"),
    [
        (-5_000, 800, "drawn 5.100 s later: its clock is behind that of chat-gateway"),
        (5_000, 800, "drawn 4.900 s earlier: its clock is ahead of that of chat-gateway"),
        (3_600_000, 800, "drawn 1 h earlier: its clock is ahead of that of chat-gateway"),
        (-5_000, 1_500, "drawn 5.000 s later: its clock is behind that of chat-gateway"),
    ],
    ids=["behind", "ahead", "an hour", "behind, and it goes on"],
)
@pytest.mark.parametrize("often", [1, 5], ids=["one", "as one row"])
def test_a_wrong_clock_is_mended_and_named(
    tmp_path: Path, off: float, took: float, said: str, often: int
) -> None:
    """With all that is below it, lines too; whoever asks how often."""
    call = Planted(1, 0, "call", 0, 1000, {"budget_s": 0.1}, kind=3)
    spans = read_back(tmp_path / "a", call)
    lines = [line(off + 10, "begun")]
    for n in range(often):
        ask = Planted(20 + n, 10 + n, "ask", off + 100, off + 200)
        serve = Planted(10 + n, 1, "serve", off, off + took, {}, lines, kind=2, flags=0x301)
        spans += read_back(tmp_path / f"{n}", serve, ask, service="words")

    for _ in range(2):
        (trace,) = by_trace(spans).values()
        drawn = picture(trace, width=100)
        assert said in [row.strip(" │") for row in drawn]
        first, ask, begun = (trace.spans[f"{n:016x}"] for n in (1, 20, 10))
        assert ask.start_ns - begun.start_ns == 100 * MS
        assert begun.events[0].time_ns - begun.start_ns == 10 * MS
        assert begun.start_ns - first.start_ns == max((1000 - took) / 2, 0) * MS
        assert begun.as_json()["clock_moved_s"] == ask.moved_ns / 1e9 != 0
        shown = drawn[0].removeprefix("call LATE · chat-gateway, words · 1.000 s")
        assert shown == ("" if took < 1_000 else ", 1.500 s in all")


@pytest.mark.parametrize("width", [40, 80, 200])
def test_what_is_wrong_with_a_stage_is_a_word_at_any_width(tmp_path: Path, width: int) -> None:
    """And so is how many there are; the name gives way."""
    trace = trace_of(
        tmp_path,
        Planted(1, 0, "message" * 40, 0, 1000, {"budget_s": 0.1}, status=2),
        *(Planted(2 + n, 1, "ask" * 80, n, n + 9) for n in range(5)),
    )

    rows = picture(trace, width=width)
    assert any("… ERROR LATE  ━" in row for row in rows)
    assert any(f"… {TIMES}5" in row for row in rows)


def test_a_trace_of_days_counts_in_hours(tmp_path: Path) -> None:
    """Nobody reads 259200 seconds."""
    day = 86_400_000
    trace = trace_of(
        tmp_path, Planted(1, 0, "import", 0, 3 * day), Planted(2, 1, "chunk", day, 2 * day)
    )

    assert picture(trace)[0] == "import · chat-gateway · 3 d"
    assert [text.split()[:3] for text in picture(trace)[4:]] == [
        ["start", "took", "hours"],
        ["0.000", "72.000", "import"],
        ["24.000", "24.000", "└"],
    ]


def test_a_heading_is_never_cut(tmp_path: Path) -> None:
    """How long it took stands at its end."""
    trace = trace_of(tmp_path, Planted(1, 0, "to tell " * 12, 0, 1000))

    heading = picture(trace)[:3]
    assert " ".join(text.strip() for text in heading[:2]).endswith("· chat-gateway · 1.000 s")


def test_seconds_are_durations_and_a_wait_of_nothing_is_nothing(tmp_path: Path) -> None:
    """A number that only looks like one stays."""
    values = {"queue.wait_s": 6.4e-05, "mark.first_s": 0.25, "tries_s": 3, "far_s": 1e12, "n": 0.5}
    short = trace_of(tmp_path / "a", Planted(1, 0, "x", 0, 1, values))
    long = trace_of(tmp_path / "b", Planted(1, 0, "x", 0, 1, {"queue.wait_s": 0.0064}))

    assert picture(short)[-1].strip() == "mark.first_s=250 ms tries_s=3 far_s=1e+12 n=0.5"
    assert picture(long)[-1].strip() == "queue.wait_s=6.4 ms"


@pytest.mark.parametrize(
    ("more", "heading", "bar", "below"),
    [
        ({}, "└ ┅ itself 800 ms, before answer", "━┅┅┅┅┅┅┅┅┅┅", ""),
        ({"budget_s": 2.0}, "", "━┅┅┅┅┅┅┅┅┅┅", "┅ itself 800 ms, before answer"),
        ({"late.cause": "gc"}, "└ gc", "━┅┅┅┅┅┅┅┅┅┅", "┅ itself 800 ms, before answer"),
    ],
    ids=["in words above", "in time", "measured"],
)
def test_what_the_outermost_stage_lost_itself_is_broken_in_its_bar(
    tmp_path: Path, more: dict[str, Any], heading: str, bar: str, below: str
) -> None:
    """And said once: in the heading, or below its row."""
    trace = trace_of(
        tmp_path,
        Planted(1, 0, "message", 0, 1000, more),
        Planted(2, 1, "answer", 800, 990),
    )
    lines = [line.plain for line in waterfall.draw(trace, width=80)]
    assert lines[2] == heading
    drawn = next(line for line in lines if "message" in line[10:])
    assert bar in drawn
    assert drawn.count("┅") == pytest.approx(0.8 * 52, abs=4)
    assert [line[16:] for line in lines if "┅ itself" in line[10:]] == [below] * bool(below)
