"""Where the time went: stored traces, each with the sentence that ``late`` gives."""

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from otel_logging.traces.groups import reason_key
from otel_logging.traces.late import Question, late
from otel_logging.traces.path import NOTHING, steps, words
from otel_logging.traces.span import Resource, Span, from_bytes
from otel_logging.traces.trace import by_trace
from tests.stored import MS, NOON, TRACE, Planted, line, read_back, trace_of

HOUR = 3_600_000


def p(
    span: int, parent: int, name: str, start: float, end: float, *lines: Any, **more: Any
) -> Planted:
    """A stage with lines in it: ms."""
    return Planted(span, parent, name, start, end, events=lines, **more)


def scans(
    number: int, each: float, *, apart: float = 0.0, first: int = 2, name: str = "SCAN"
) -> list:
    step = each + apart
    return [p(first + n, 1, name, n * step, n * step + each) for n in range(number)]


ROOT = "message"

#: What was stored, by what it shows; and what is said of its first stage.
SENTENCES: dict[str, tuple[list[Planted], str]] = {
    # nothing inside
    "one span": ([p(1, 0, ROOT, 0, 900)], NOTHING),
    "one span without length": ([p(1, 0, ROOT, 5, 5)], NOTHING),
    "a clock set back": ([p(1, 0, ROOT, 900, 0)], NOTHING),
    "where it stood": (
        [p(1, 0, ROOT, 0, 900, (450, "late.where", {"late.where": "100 %\n  f (a.py:1)"}))],
        NOTHING,
    ),
    "a line that is called so": (
        [p(1, 0, ROOT, 0, 900, line(300, "late.where"))],
        'itself 900 ms, 600 ms of it after "late.where"',
    ),
    "children outside": ([p(1, 0, ROOT, 0, 900), p(2, 1, "after", 950, 990)], NOTHING),
    "lines before its start and after its end": (
        [p(1, 0, ROOT, 0, 900, line(-100, "before"), line(950, "after"))],
        NOTHING,
    ),
    "a span id that comes twice": (
        [p(1, 0, ROOT, 0, 800), p(2, 1, "first", 10, 700), p(2, 1, "second", 10, 790)],
        "first 690 ms",
    ),
    "stages without length": (
        [p(1, 0, ROOT, 0, 900), p(2, 1, "nothing", 100, 100), p(3, 1, "nada", 500, 500)],
        "itself 900 ms, 400 ms of it between nothing and nada",
    ),
    "a stage that ends before it begins": (
        [p(1, 0, ROOT, 0, 900), p(2, 1, "back", 600, 300), p(3, 1, "forth", 650, 880)],
        "itself 670 ms, 600 ms of it before back (and forth 230 ms)",
    ),
    "work that goes on long after the answer": (
        [p(1, 0, ROOT, 0, 600), p(2, 1, "background", 610, 5000), p(3, 1, "work", 10, 590)],
        "work 580 ms",
    ),
    "a name of many characters, controls, right to left": (
        [p(1, 0, ROOT, 0, 900), p(2, 1, "שלום \x1b[2J\u202e \U0001f600" + "x" * 200, 10, 890)],
        "שלום \\x1b[2J\\u202e \U0001f600" + "x" * 200 + " 880 ms",
    ),
    # lines alone
    "two lines": (
        [p(1, 0, ROOT, 0, 900, line(20, "session state"), line(844, "password accepted"))],
        'itself 824 ms, between "session state" and "password accepted"',
    ),
    "most of it between two lines": (
        [p(1, 0, ROOT, 0, 900, line(2, "session state"), line(806, "password accepted"))],
        'itself 900 ms, 804 ms of it between "session state" and "password accepted"',
    ),
    "an exception that was recorded": (
        [p(1, 0, ROOT, 0, 900, (20, "exception", {"exception.type": "ssl.SSLError"}))],
        "itself 880 ms, after ssl.SSLError",
    ),
    "one without its type": (
        [p(1, 0, ROOT, 0, 900, (20, "exception", {}))],
        "itself 880 ms, after exception",
    ),
    "a gap before the first line": (
        [
            p(1, 0, ROOT, 0, 900, line(880, "begin")),
        ],
        'itself 880 ms, before "begin"',
    ),
    "a gap after the last line": (
        [p(1, 0, ROOT, 0, 900, line(5, "received"))],
        'itself 895 ms, after "received"',
    ),
    "many lines, evenly": (
        [p(1, 0, ROOT, 0, 1000, *(line(n * 100, f"step {n}") for n in range(1, 10)))],
        'itself 1.000 s, 100 ms of it before "step 1"',
    ),
    "a line twice": (
        [p(1, 0, ROOT, 0, 900, line(10, "retry"), line(890, "retry"))],
        'itself 880 ms, between "retry" and "retry"',
    ),
    "lines out of order": (
        [p(1, 0, ROOT, 0, 900, line(880, "b"), line(10, "a"))],
        'itself 870 ms, between "a" and "b"',
    ),
    "a server's line about the whole of it": (
        [p(1, 0, ROOT, 0, 900, line(880, '"GET /" 200', logger="uvicorn.access"))],
        NOTHING,
    ),
    "a line beside a server's": (
        [
            p(
                *(1, 0, ROOT, 0, 900),
                line(10, "a"),
                line(450, '"GET /" 200', logger="werkzeug"),
                line(880, "b"),
            )
        ],
        'itself 870 ms, between "a" and "b"',
    ),
    "a line outside the stage": (
        [p(1, 0, ROOT, 0, 900, line(-50, "early"), line(2000, "late"))],
        NOTHING,
    ),
    "lines on a page of their own": (
        [
            p(1, 0, ROOT, 0, 900, line(10, "a")),
            p(2, 1, "log", 890, 890.000001, line(880, "b"), attributes={"log.page": 1}),
        ],
        'itself 870 ms, between "a" and "b"',
    ),
    "a control character in a line": (
        [p(1, 0, ROOT, 0, 900, line(890, "a\x1b[2J"))],
        'itself 890 ms, before "a\\x1b[2J"',
    ),
    "a long line": (
        [p(1, 0, ROOT, 0, 900, line(890, "a" * 500))],
        f'itself 890 ms, before "{"a" * 79}…"',
    ),
    # one child
    "one child": ([p(1, 0, ROOT, 0, 900), p(2, 1, "query", 10, 890)], "query 880 ms"),
    "a short child": (
        [p(1, 0, ROOT, 0, 900), p(2, 1, "query", 10, 110)],
        "itself 790 ms, after query",
    ),
    "a gap before the first child": (
        [p(1, 0, ROOT, 0, 900), p(2, 1, "query", 800, 890)],
        "itself 800 ms, before query",
    ),
    "a gap between line and child": (
        [p(1, 0, ROOT, 0, 900, line(5, "received")), p(2, 1, "query", 800, 890)],
        'itself 795 ms, between "received" and query',
    ),
    "repeats that took less than the stage itself": (
        [p(1, 0, ROOT, 0, 1000), *scans(20, 20, apart=30)],
        (
            "itself 600 ms, 30 ms of it between SCAN and SCAN (and SCAN "
            "\N{MULTIPLICATION SIGN}20 · 400 ms)"
        ),
    ),
    "a little less than the stage itself": (
        [p(1, 0, ROOT, 0, 1000), p(2, 1, "SELECT", 0, 490)],
        "itself 510 ms, after SELECT (and SELECT 490 ms)",
    ),
    "two that took less than the stage itself": (
        [p(1, 0, ROOT, 0, 1000), p(2, 1, "a", 0, 200), p(3, 1, "b", 200, 400)],
        "itself 600 ms, after b (and 2 stages 400 ms)",
    ),
    "repeats inside repeats that took less than these themselves": (
        [
            *(p(1, 0, ROOT, 0, 1000), p(2, 1, "order", 0, 500), p(3, 1, "order", 500, 1000)),
            *(p(4, 2, "SELECT", 0, 200), p(5, 3, "SELECT", 500, 700)),
        ],
        (
            "order \N{MULTIPLICATION SIGN}2 · 1.000 s → themselves 600 ms (and SELECT "
            "\N{MULTIPLICATION SIGN}2 · 400 ms)"
        ),
    ),
    "our own line about the stage": (
        [
            p(
                *(1, 0, ROOT, 0, 900),
                line(450, "message is overdue", "warning", logger="otel_logging"),
                line(10, "a"),
            )
        ],
        'itself 890 ms, after "a"',
    ),
    "a line where a child ends": (
        [p(1, 0, ROOT, 0, 1000, line(400, "x")), p(2, 1, "query", 0, 400)],
        "itself 600 ms, after query (and query 400 ms)",
    ),
    "a line where a child begins": (
        [p(1, 0, ROOT, 0, 1000, line(600, "x")), p(2, 1, "query", 600, 1000)],
        'itself 600 ms, before "x" (and query 400 ms)',
    ),
    "a child without length in a gap": (
        [p(1, 0, ROOT, 0, 1000), p(2, 1, "query", 700, 700)],
        "itself 1.000 s, 700 ms of it before query",
    ),
    "a child that outlives its parent": (
        [p(1, 0, ROOT, 0, 500), p(2, 1, "cleanup", 100, 5000)],
        "cleanup 400 ms",
    ),
    "a child that began before its parent": (
        [p(1, 0, ROOT, 100, 500), p(2, 1, "early", 0, 480)],
        "early 380 ms",
    ),
    "a child with lines": (
        [
            p(1, 0, ROOT, 0, 900),
            p(2, 1, "query", 10, 890, line(20, "sent"), line(880, "rows")),
        ],
        'query 880 ms → itself 860 ms, between "sent" and "rows"',
    ),
    # nested
    "nested": (
        [
            p(1, 0, ROOT, 0, 1204),
            p(2, 1, "transcribe", 5, 905),
            p(3, 2, "load model", 10, 650),
            p(4, 1, "answer", 906, 1200),
        ],
        "transcribe 900 ms → load model 640 ms",
    ),
    "nested, the time in the middle": (
        [
            p(1, 0, ROOT, 0, 1000),
            p(2, 1, "handle", 0, 1000, line(1, "in")),
            p(3, 2, "query", 900, 990),
        ],
        'handle 1.000 s → itself 899 ms, between "in" and query',
    ),
    "nested under itself": (
        [p(n, n - 1, "fib", n, 1000 - n) for n in range(1, 5)],
        "fib 996 ms → fib 994 ms → fib 992 ms",
    ),
    # sequential
    "twenty in sequence": (
        [p(1, 0, ROOT, 0, 620), *scans(20, 30)],
        "SCAN \u00d720 · 600 ms",
    ),
    "many in sequence beside one longer": (
        [p(1, 0, ROOT, 0, 700), *scans(20, 25), p(50, 1, "render", 500, 700)],
        "SCAN \u00d720 · 500 ms (and render 200 ms)",
    ),
    "one long one beside many short ones": (
        [p(1, 0, ROOT, 0, 700), *scans(20, 10), p(50, 1, "render", 200, 700)],
        "render 500 ms (and SCAN \u00d720 · 200 ms)",
    ),
    "three, one after the other": (
        [
            p(1, 0, ROOT, 0, 923),
            p(2, 1, "load orders", 0, 311),
            p(3, 1, "load items", 311, 612),
            p(4, 1, "load prices", 612, 914),
        ],
        "load orders 311 ms (and 2 other stages 603 ms)",
    ),
    "two at once, and one after them": (
        [
            p(1, 0, ROOT, 0, 752),
            p(2, 1, "weather", 0, 300),
            p(3, 1, "news", 0, 401),
            p(4, 1, "merge", 401, 752),
        ],
        "news 401 ms (and merge 351 ms)",
    ),
    "many with gaps between them": (
        [p(1, 0, ROOT, 0, 1000), *scans(10, 20, apart=80)],
        "itself 800 ms, 80 ms of it between SCAN and SCAN",
    ),
    "many, each with a child": (
        [
            p(1, 0, ROOT, 0, 600),
            *scans(6, 100, name="item"),
            *(p(20 + n, 2 + n, "SELECT", n * 100 + 5, n * 100 + 95) for n in range(6)),
        ],
        "item \u00d76 · 600 ms → SELECT \u00d76 · 540 ms",
    ),
    "N+1 below a view": (
        [
            p(1, 0, "GET /orders", 0, 820),
            p(2, 1, "view", 5, 815),
            *(p(10 + n, 2, "SELECT", 10 + n * 8, 17 + n * 8) for n in range(100)),
        ],
        "view 810 ms → SELECT \u00d7100 · 700 ms",
    ),
    "deeper than is looked": (
        [p(1 + n, n, f"level {n}" if n else ROOT, n / 2000, 1000) for n in range(1100)],
        "level 1 1.000 s → level 2 1.000 s → … 993 more → "
        + "".join(f"level {n} 1.000 s → " for n in range(996, 1001))
        + "what is deeper is not looked at",
    ),
    "two retries": (
        [p(1, 0, ROOT, 0, 950), p(2, 1, "call", 0, 450), p(3, 1, "call", 500, 950)],
        "call \u00d72 · 900 ms",
    ),
    "many of five names": (
        [
            p(1, 0, ROOT, 0, 1000),
            *(p(2 + n, 1, f"SELECT t{n % 5}", n * 5, n * 5 + 4) for n in range(200)),
        ],
        "200 stages of 5 names · 800 ms, most in SELECT t4 \u00d740 · 160 ms",
    ),
    "thirty of different names": (
        [p(1, 0, ROOT, 0, 900), *(p(2 + n, 1, f"q{n}", n * 30, n * 30 + 29) for n in range(30))],
        "30 different stages · 870 ms, most in q29 29 ms",
    ),
    # at once
    "twenty at once": (
        [p(1, 0, ROOT, 0, 620), *(p(2 + n, 1, "fetch", n, 600 + n) for n in range(20))],
        "fetch \u00d720 at once · 619 ms",
    ),
    "fan-out, one slow": (
        [p(1, 0, ROOT, 0, 620), p(2, 1, "fetch a", 0, 100), p(3, 1, "fetch b", 0, 610)],
        "fetch b 610 ms",
    ),
    "fan-out, the last one begins late": (
        [p(1, 0, ROOT, 0, 900), p(2, 1, "a", 0, 500), p(3, 1, "b", 450, 890)],
        "a 450 ms (and b 440 ms)",
    ),
    "at once, with overlap": (
        [p(1, 0, ROOT, 0, 900), p(2, 1, "a", 0, 400), p(3, 1, "b", 300, 890)],
        "b 590 ms (and a 300 ms)",
    ),
    "at once, one inside the other": (
        [p(1, 0, ROOT, 0, 900), p(2, 1, "outer", 0, 880), p(3, 1, "inner", 100, 800)],
        "outer 880 ms",
    ),
    "a background stage beside the work": (
        [p(1, 0, ROOT, 0, 500), p(2, 1, "heartbeat", 0, 9000), p(3, 1, "work", 0, 500)],
        "work 500 ms",
    ),
    # broken senders, odd sizes
    "a missing parent": ([p(2, 77, "orphan", 0, 900), p(3, 2, "query", 0, 880)], "query 880 ms"),
    "its own parent": ([p(1, 0, ROOT, 0, 900), p(2, 2, "loop", 0, 900)], NOTHING),
    "a child without length": (
        [p(1, 0, ROOT, 0, 900), p(2, 1, "ping", 450, 450)],
        "itself 900 ms, 450 ms of it before ping",
    ),
    "a child that ends before it begins": (
        [p(1, 0, ROOT, 0, 900), p(2, 1, "odd", 800, 100), p(3, 1, "query", 0, 700)],
        "query 700 ms",
    ),
    "three days": (
        [
            p(1, 0, "import", 0, 72 * HOUR),
            p(2, 1, "read", 0, 2 * HOUR),
            p(3, 1, "index", 2 * HOUR, 71 * HOUR),
        ],
        "index 2 d 21 h",
    ),
    "microseconds": (
        [p(1, 0, ROOT, 0, 0.9), p(2, 1, "cache", 0.1, 0.8)],
        "cache 700 µs",
    ),
    "ten thousand in sequence": (
        [p(1, 0, ROOT, 0, 10_000), *scans(9_999, 1)],
        "SCAN \u00d79999 · 9.999 s",
    ),
    "a thousand deep": (
        [p(n, n - 1, f"level {n}", n, 9_000 - n) for n in range(1, 1_001)],
        (
            "level 2 8.996 s → level 3 8.994 s → … 991 more → level 995 7.010 s → level 996 7.008 s"
            " → level 997 7.006 s → level 998 7.004 s → level 999 7.002 s → level 1000 7.000 s"
        ),
    ),
}


@pytest.mark.parametrize(("stored", "sentence"), SENTENCES.values(), ids=SENTENCES)
def test_a_stored_trace_has_its_sentence(
    tmp_path: Path, stored: list[Planted], sentence: str
) -> None:
    """Of a deep one, its beginning and its innermost part."""
    trace = trace_of(tmp_path, *stored)
    assert " → ".join(words(steps(trace, trace.spans[f"{stored[0].span:016x}"]))) == sentence


def test_many_stages_of_several_names_are_not_the_stage_itself(tmp_path: Path) -> None:
    """Neither where rows are put together, nor where it is known where it stood."""
    stood = {"late.where": "100 % main (feed.py:3)", "budget_s": 0.5}
    spans, _ = SENTENCES["many of five names"]
    first = replace(spans[0], attributes=stood)
    (row,) = late(read_back(tmp_path, first, *spans[1:]), Question()).rows

    assert reason_key(row) == f"many stages in {ROOT}"
    assert row.reason[0].startswith("200 stages of 5 names · 800 ms")
    assert row.reason[1:] == ["it stood: 100 % main (feed.py:3)"]


def test_no_row_is_without_a_reason(tmp_path: Path) -> None:
    """Whatever was stored; and the same one where all of a span has been read, as Jaeger's are."""
    for number, (stored, _) in enumerate(SENTENCES.values()):
        spans = read_back(tmp_path / str(number), *stored)
        reasons = [row.reason for row in late(spans, Question()).rows]
        assert all(all(reason) and reason for reason in reasons)
        assert all(span.details for span in spans)
        assert [row.reason for row in late(spans, Question()).rows] == reasons


@pytest.mark.parametrize(
    ("shifts", "kind", "inner", "is_waited_for"),
    [
        (0, 1, 2, True),
        (-300_000, 1, 2, True),
        (300_000, 3, 2, True),
        (300_000, 1, 2, True),
        (300_000, 1, 1, False),  # tasks that are waited for by nobody
        (300_000, 1, 5, False),
        (300_000, 4, 2, False),
        (500, 1, 2, False),  # what goes on after the answer
    ],
)
def test_the_way_goes_on_in_another_service(
    tmp_path: Path, shifts: float, kind: int, inner: int, *, is_waited_for: bool
) -> None:
    """Also where its clock is wrong: it is put into the middle of the call."""
    spans = read_back(
        tmp_path / "a", p(1, 0, ROOT, 0, 900), p(2, 1, "call billing", 10, 890, kind=kind)
    )
    spans += read_back(
        tmp_path / "b",
        p(3, 2, "POST /bill", 50 + shifts, 850 + shifts, kind=inner),
        p(4, 3, "query", 55 + shifts, 845 + shifts),
        service="billing",
    )
    (row,) = late(spans, Question()).rows

    sentence = "call billing 880 ms → POST /bill 800 ms → query 790 ms"
    assert (" → ".join(row.reason) == sentence) is is_waited_for
    assert {bool(s.moved_ns) for s in spans[2:]} == {is_waited_for and shifts != 0}


@pytest.mark.parametrize(
    ("host", "other", "is_moved"),
    [("pc", "pc", False), ("pc", "vm", True), ("pc", None, True), (None, None, True)],
)
def test_services_of_one_machine_have_one_clock(
    tmp_path: Path, host: str | None, other: str | None, *, is_moved: bool
) -> None:
    """The client gave up before the server, whose loop was blocked, took its request up."""
    call = p(2, 1, "POST", 5, 995, kind=3)
    serve = p(3, 2, "GET /work", 900, 1400, kind=2, flags=0x301)
    spans = read_back(tmp_path / "a", p(1, 0, ROOT, 0, 1000), call, service="shop", host=host)
    spans += read_back(tmp_path / "b", serve, service="billing", host=other)
    (row,) = late(spans, Question()).rows

    assert bool(spans[2].moved_ns) is is_moved
    if not is_moved:
        assert row.reason == ["POST 990 ms", "itself 895 ms, before GET /work"]


def test_the_critical_path_as_json_has_each_step(tmp_path: Path) -> None:
    """Own times of all, what is around the longest own piece of the last one."""
    trace = trace_of(
        tmp_path,
        p(1, 0, ROOT, 0, 1000),
        *(p(2 + n, 1, "item", n * 300, n * 300 + 300) for n in range(3)),
        p(9, 2, "SELECT", 100, 290),
    )
    found = [step.as_json() for step in steps(trace, trace.in_order[0])]

    assert found == [
        {
            "stage": ROOT,
            "span_id": f"{1:016x}",
            "took_s": 1.0,
            "count": 1,
            "at_once": False,
            "own_s": 0.1,
            "between": None,
        },
        {
            "stage": "item",
            "span_id": f"{2:016x}",
            "took_s": 0.9,
            "count": 3,
            "at_once": False,
            "own_s": 0.71,
            "between": None,
        },
    ]


def test_what_stands_around_the_own_time_is_data(tmp_path: Path) -> None:
    """A line in quotes, a stage by its name; None is the start, or the end."""
    trace = trace_of(tmp_path, p(1, 0, ROOT, 0, 9, line(1, "a")))
    assert steps(trace, trace.top)[0].between == ('"a"', None)


@pytest.mark.alone
def test_a_wide_and_a_deep_trace_take_no_square_of_their_size(tmp_path: Path) -> None:
    """10,000 children with gaps and lines; 10,000 levels, each with a budget."""
    wide = [p(1, 0, ROOT, 0, 20_000, *(line(n * 10, f"{n}") for n in range(400)))]
    wide += [p(2 + n, 1, f"{n}", n * 2, n * 2 + 1) for n in range(10_000)]
    deep = [
        Planted(n, n - 1, "fn", n / 10, 9_000 - n / 10, {"budget_s": 99.0})
        for n in range(1, 10_001)
    ]
    began = time.monotonic()
    for place, stored in (("wide", wide), ("deep", deep)):
        spans = read_back(tmp_path / place, *stored)
        assert late(spans, Question(over_s=0.01)).rows[0].reason
    assert time.monotonic() - began < 10  # [run: 0.6 s]


def verdict(**values: Any) -> dict[str, Any]:
    return {"late." + key.replace("__", "."): value for key, value in values.items()}


#: What the write side measured, on the stage; and the reason that is given.
MEASURED: dict[str, tuple[dict[str, Any], str]] = {
    "why": (verdict(why="1.4 s behind resize for alice"), "1.4 s behind resize for alice"),
    "why before where": (
        verdict(why="behind a lock", where="71 % resize (w.py:8)"),
        "behind a lock",
    ),
    "where alone": (
        verdict(where="71 % resize (w.py:8) · 9 % x (y.py:1)"),
        "query 880 ms → it stood: 71 % resize (w.py:8)",
    ),
    "a sentence": (
        verdict(
            cause="loop", why="ada's a (b) of 12:00:00.000 took 1 s (budget 500 ms): 1 s (c): d"
        ),
        "1 s (c): d",
    ),
    "downstream, and where": (
        verdict(cause="downstream", why="0.9 s in query", where="71 % x"),
        "query 880 ms → it stood: 71 % x",
    ),
    "cause": (verdict(cause="lock", where="71 % x"), "lock"),
    "cause and detail": (verdict(cause="pool", detail="5 of 5 in use"), "pool: 5 of 5 in use"),
    "whose": (verdict(cause="loop", culprit__user_id="alice"), "loop, by alice"),
    "unknown": (verdict(cause="unknown"), "query 880 ms"),
    "unknown, and that it is": (
        verdict(cause="unknown", why="0.8 s without a known cause"),
        "query 880 ms",
    ),
    "unknown, and where in words": (
        verdict(cause="unknown", why="0.8 s without a known cause: 71 % x", where="71 % x"),
        "query 880 ms → it stood: 71 % x",
    ),
    "a control character": (verdict(why="for \x1b[2J"), "for \\x1b[2J"),
    "one in a cause": (verdict(cause="lock", culprit="\x07"), "lock, by \\x07"),
}


@pytest.mark.parametrize(("values", "reason"), MEASURED.values(), ids=MEASURED)
@pytest.mark.parametrize("at", [1, 2], ids=["on the stage", "on the deepest"])
def test_what_was_measured_is_the_reason(
    tmp_path: Path, values: dict[str, Any], reason: str, at: int
) -> None:
    """Before what the tree says."""
    stored = [
        Planted(1, 0, ROOT, 0, 900, {"budget_s": 0.1, **(values if at == 1 else {})}),
        Planted(2, 1, "query", 10, 890, values if at == 2 else {}),
    ]
    (row,) = late(read_back(tmp_path, *stored), Question()).rows

    assert " → ".join(row.reason) == reason
    shown = row.as_json()
    assert (shown["cause"], shown["why"]) == (values.get("late.cause"), values.get("late.why"))


CALLER = verdict(cause="downstream", why="0.9 s in GET", where="90 % buy (shop.py:3)")
HELD = verdict(
    cause="lock",
    why="ada's GET /stock of 12:00:00.000 took 1 s (budget 0.5): 1 s waiting for the lock stock",
    where="99 % stock (stock.py:7) [in Lock.acquire (locks.py:114)]",
)
SLOW = verdict(cause="unknown", why="1 s without a known cause", where="99 % stock (stock.py:8)")
BUY = "it stood: 90 % buy (shop.py:3)"
STOCK = "GET 880 ms → GET /stock 860 ms"

#: What a stage called, as spans; and the reason of the stage, of which the caller's place is known.
CALLED: dict[str, tuple[list[Planted], str]] = {
    "a cause": (
        [p(3, 2, "GET /stock", 20, 880, attributes=HELD, kind=2)],
        f"{STOCK} → 1 s waiting for the lock stock",
    ),
    "a cause without a sentence": (
        [p(3, 2, "GET /stock", 20, 880, attributes=verdict(cause="pool", detail="db"), kind=2)],
        f"{STOCK} → pool: db",
    ),
    "a cause, and a query in it": (
        [
            p(3, 2, "GET /stock", 20, 880, attributes=HELD, kind=2),
            p(4, 3, "SELECT", 30, 870),
        ],
        f"{STOCK} → 1 s waiting for the lock stock",
    ),
    "its place": (
        [p(3, 2, "GET /stock", 20, 880, attributes=SLOW, kind=2)],
        f"{STOCK} → it stood: 99 % stock (stock.py:8)",
    ),
    "its place, and a query in it": (
        [
            p(3, 2, "GET /stock", 20, 880, attributes=SLOW, kind=2),
            p(4, 3, "SELECT", 30, 870),
        ],
        f"{STOCK} → SELECT 840 ms → it stood: 99 % stock (stock.py:8)",
    ),
    "a request of which nothing is known": ([p(3, 2, "GET /stock", 20, 880, kind=2)], STOCK),
    "a job of which nothing is known": (
        [p(3, 2, "job", 20, 880, kind=5)],
        "GET 880 ms → job 860 ms",
    ),
    "what a worker took": (
        [p(3, 2, "render", 20, 880, attributes={"queue.wait_s": 0.001})],
        "GET 880 ms → render 860 ms",
    ),
    "a function": (
        [p(3, 2, "parse", 20, 880)],
        f"GET 880 ms → parse 860 ms → {BUY}",
    ),
    "two of one name, each with a cause": (
        [p(3 + n, 2, "parse", 20 + n, 879 + n, attributes=HELD) for n in range(2)],
        f"GET 880 ms → parse \N{MULTIPLICATION SIGN}2 at once · 860 ms → {BUY}",
    ),
}


@pytest.mark.parametrize(("called", "reason"), CALLED.values(), ids=CALLED)
def test_what_is_said_is_of_the_last_stage_that_is_named(
    tmp_path: Path, called: list[Planted], reason: str
) -> None:
    """A caller's place is not where another's work stood, for which it waited."""
    stored = [
        Planted(1, 0, ROOT, 0, 900, {"budget_s": 0.1, **CALLER}),
        Planted(2, 1, "GET", 10, 890, kind=3),
        *called,
    ]
    (row,) = late(read_back(tmp_path, *stored), Question()).rows

    assert " → ".join(row.reason) == reason
    assert row.cause == "downstream"


def test_the_measured_shares_are_data(tmp_path: Path) -> None:
    """As the JSON that they are; anything else is none."""

    def shares(text: Any) -> Any:
        spans: list[Span] = read_back(
            tmp_path / str(abs(hash(str(text)))), Planted(1, 0, ROOT, 0, 900, {"late.shares": text})
        )
        return late(spans, Question()).rows[0].as_json()["shares"]

    assert shares('{"lock": 0.9}') == {"lock": 0.9}
    assert shares("{") is None
    assert shares('{"gc": NaN}') == {"gc": "NaN"}
    assert shares("[" * 4_000) is None
    assert shares(3) is None


def test_only_what_a_cause_made_late_is_listed(tmp_path: Path) -> None:
    """The cause may stand on the deepest stage."""
    spans = read_back(
        tmp_path,
        Planted(1, 0, "a", 0, 900, {"budget_s": 0.1, "late.cause": "lock"}),
        Planted(2, 0, "b", 0, 900, {"budget_s": 0.1, "late.cause": "gc"}, trace="b" * 32),
        Planted(3, 0, "c", 0, 900, {"budget_s": 0.1}, trace="c" * 32),
    )

    assert [row.span.name for row in late(spans, Question(cause="lock")).rows] == ["a"]
    assert TRACE in {row.span.trace_id for row in late(spans, Question()).rows}


def test_what_made_a_stage_late_is_read_from_one_stage(tmp_path: Path) -> None:
    """By that itself, where it knows; what a stage below it waited for is no part of it."""
    below = {"budget_s": 0.1, **verdict(cause="lock", detail="inv", culprit="work", where="70 % b")}
    below |= verdict(culprit__user_id="bob", shares="{}")
    for own, expected in (
        (verdict(cause="unknown"), ("unknown", None, None, {}, None, "70 % b")),
        (verdict(cause="cpu", where="9 % a"), ("cpu", None, None, {}, None, "9 % a")),
        ({}, ("lock", "inv", "work", {"user_id": "bob"}, {}, "70 % b")),
    ):
        spans = read_back(
            tmp_path / str(expected[0]),
            Planted(1, 0, "request", 0, 900, {"budget_s": 0.3, "user_id": "ada", **own}),
            Planted(2, 1, "reserve", 0, 880, below),
        )
        (row,) = [row.as_json() for row in late(spans, Question()).rows]
        keys = ("cause", "detail", "culprit", "culprit_who", "shares", "where")
        assert tuple(row[key] for key in keys) == expected


@given(
    stages=st.lists(st.tuples(st.integers(0, 12), st.integers(0, 12)), max_size=4),
    lines=st.lists(st.integers(1, 11), max_size=4),
)
@settings(max_examples=300, deadline=None)
def test_the_own_time_is_what_no_stage_covers(
    stages: list[tuple[int, int]], lines: list[int]
) -> None:
    """Counted by the millisecond, and its longest piece between lines, of equal ones the first."""
    root = p(1, 0, ROOT, 0, 12, *(line(at, f"line {at}") for at in lines))
    inside = [p(2 + n, 1, f"stage {n}", *sorted(each)) for n, each in enumerate(stages)]
    spans = [from_bytes(each.encoded(NOON), Resource("chat", ())) for each in (root, *inside)]
    (trace,) = by_trace(spans).values()

    free = [not any(a.start <= at < a.end for a in inside) for at in range(12)]
    cuts = {*lines, *(at for each in inside for at in (each.start, each.end))}
    pieces, begin = [(0, 0)], 0
    for at in range(13):
        if at == 12 or not free[at] or at in cuts:
            pieces.append((begin, at))
            begin = at + (at < 12 and not free[at])
    longest = max(pieces, key=lambda each: each[1] - each[0])
    step = steps(trace, trace.top)[0]
    assert step.own_s == pytest.approx(sum(free) / 1000)
    if step.between not in (None, (None, None)):
        assert tuple((at - NOON) // MS for at in step.piece) == longest
