"""The console as a person sees it: no word is broken at any width, and nothing is missing.

The captures are in tests/golden. After a change that is meant:
``GOLDEN=1 pytest tests/test_console.py``, and look at each difference.
"""

import os
import re
import struct
import sys
import unicodedata
from collections.abc import Mapping
from pathlib import Path
from subprocess import PIPE
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from otel_logging import _runtime
from otel_logging._values import MAX_RECORD_BYTES
from otel_logging.logs.render import console_renderer
from tests.programs import child_environment, end, start
from tests.test_render import OBEYED, plain_text

GOLDEN = Path(__file__).parent / "golden"
NOON_NS = 1_700_000_000_123_456_789
DAY_NS = 86_400 * 1_000_000_000
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
MEETING = "f81d4fae-7dec-11d0-a765-00a0c91e6bf6"
TRACEBACK = """Traceback (most recent call last):
  File "/srv/chat/services/transcription/worker.py", line 1067, in transcribe
    return service.call(utterance, 2)
           ^^^^^^^^^^^^^^^^^^^^^^^^^^
ValueError: the service answered with something that cannot be understood at all: no"""
FLASK = """WARNING: This is a development server. Do not use it in a production deployment.
 * Running on http://127.0.0.1:5000"""

LINES: list[dict[str, Any]] = [
    {"event": "order placed", "order": "o-1", "user_id": "grace"},
    {
        "event": "utterance received",
        "words": 12,
        "meeting": MEETING,
        "user_id": "grace",
        "logger": "chat.services.transcription",
        "trace_id": TRACE,
    },
    {"event": "answered", "user_id": "grace", "trace_id": TRACE, "logger": "chat.services.answer"},
    {
        "event": "the transcription service of this region is not there within the time that was "
        "asked for, the next one is tried",
        "level": "warning",
        "url": "https://transcribe.eu-west-1.example.com/v1/recognize?lang=en",
        "user_id": "ben",
        "trace_id": TRACE,
    },
    {"event": FLASK, "logger": "werkzeug"},
    {"event": "cart", "items": [{"sku": f"sku-{n}", "count": n} for n in range(9)]},
    {"event": "日本語のメッセージ", "city": "東京"},
    {"event": "failed", "level": "error", "exception": TRACEBACK, "tenant": "acme"},
    {"event": "note", "text": "a text of many words, too long for one line of eighty columns " * 2},
    {"event": "x" * 100, "level": "critical"},
    {
        "event": "ben's message of 22:13:19.220 took 900 ms (budget 500 ms): 824 ms behind "
        "resize_image (worker.py:88) for alice, which blocked the event loop",
        "level": "warning",
        "logger": "otel_logging",
        "stage": "message",
        "user_id": "ben",
        "late.by_s": 0.4,
        "late.cause": "loop",
        "late.culprit": "resize_image (worker.py:88)",
        "late.culprit.user_id": "alice",
        "late.shares": '{"loop": 0.824, "unknown": 0.076}',  # data of programs: in JSON alone
        "trace_id": TRACE,
    },
    {
        "event": "grace's message is overdue: open for 1.010 s (budget 500 ms), "
        "in ask (chat.py:121)",
        "level": "warning",
        "logger": "otel_logging",
        "user_id": "grace",
        "late.where": "Service.ask (/srv/chat/chat.py:121)\nService.chat (/srv/chat/chat.py:9)",
    },
    {"event": "run 7", "job_tag": "PRICE_CACHE", "prices": 412, "_time_ns": NOON_NS + DAY_NS},
]


@pytest.fixture(autouse=True)
def _in_london(in_utc: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """The person is there in winter, and wants to know users and tenants."""
    monkeypatch.setattr(_runtime, "current", _runtime.Runtime(who=("user_id", "tenant")))


def columns(text: str) -> int:
    """Return how many columns a terminal needs for *text*, by Unicode's own tables."""
    return sum(1 + (unicodedata.east_asian_width(each) in "WF") for each in text)


def drawn(width: float, *lines: Mapping[str, Any], color: bool = False) -> str:
    render = console_renderer(color=color, width=lambda: width)
    head = {"level": "info", "logger": "shop", "_time_ns": NOON_NS}
    return "".join(render({**head, **each}).decode() + "\n" for each in lines)


@pytest.mark.parametrize("color", [False, True])
@pytest.mark.parametrize("width", [80, 120, 200])
def test_console_lines_look_as_in_the_golden_capture(width: int, color: bool) -> None:
    """At each width, with and without colours."""
    path = GOLDEN / f"console-{width}{'-colour' if color else ''}.txt"
    seen = drawn(width, *LINES, color=color)
    if "GOLDEN" in os.environ:  # pragma: no cover - by hand
        path.write_text(seen, "utf-8")
    assert seen == path.read_text("utf-8")


@pytest.mark.parametrize("width", [80, 120, 200])
def test_colours_change_no_width(width: int) -> None:
    """Without them it is the same text."""
    assert plain_text(drawn(width, *LINES, color=True)) == drawn(width, *LINES)


# ---------------------------------------------------------------- laws

words = st.lists(st.text("abcdefgh=/.-é漢", min_size=1, max_size=50), max_size=12).map(" ".join)
values = (
    words | st.integers() | st.lists(st.integers(), max_size=20) | st.dictionaries(words, words)
)


@example("=", "", {"f_aaaaaa": "= = ==== ==漢漢 ===== ======"}, 63)  # a column too wide
@given(
    words,
    words,
    st.dictionaries(st.from_regex("f_[a-z]{1,8}", fullmatch=True), values, max_size=8),
    st.integers(60, 200),
)
def test_nothing_is_broken_and_nothing_is_missing(
    message: str, exception: str, fields: dict[str, Any], width: int
) -> None:
    """The words of a wide terminal's line are those of a narrow one's, in order; each of its lines
    fits, or is one long word, and all but the first are indented.
    """
    line = {"event": message, "logger": "a", "trace_id": TRACE, **fields}
    if exception:
        line["exception"] = exception
    wide, narrow = drawn(10**6, line), drawn(width, line)
    assert re.sub(r"\s", "", narrow) == re.sub(r"\s", "", wide)
    _, first, *below = narrow.rstrip("\n").split("\n")
    assert first.startswith("22:13:20.123 info     ".rstrip())
    for each in below:
        assert each.startswith("    ")
    parts = "漢|[^,/?&漢]+[,/?&]*|[,/?&]+"  # of a long one
    ends = {word for text in wide.split() for word in re.findall(parts, text)}
    for each in (first, *below):
        assert columns(each) <= width or len(each.split()) == 1
        assert set(each.split()[-1:]) <= ends | set(wide.split()) or set(each) & set(",/?&漢")


@given(st.text(st.characters(categories=["Cc", "Cf", "Zl", "Zp", "L"])), st.integers(20, 100))
def test_a_terminal_obeys_nothing_in_a_message_of_several_lines(event: str, width: int) -> None:
    """And a line that somebody writes into one is indented: it cannot be taken for one of ours."""
    _, first, *below = drawn(width, {"event": event}).rstrip("\n").split("\n")
    assert not re.search(OBEYED, first + "".join(below))
    assert all(not each or each.startswith("    ") for each in below)


@pytest.mark.parametrize("width", [1, 10**6])
@pytest.mark.parametrize(
    "fields", [{f"{'name_' * 20}{n}": n for n in range(3000)}, {"event": "\n" * 9000}]
)
def test_what_is_below_counts_for_the_bound(width: int, fields: dict[str, Any]) -> None:
    """A record stays within 256 KiB, however narrow the terminal is."""
    assert len(drawn(width, {**fields, "exception": "e\n" * 8000}).encode()) <= MAX_RECORD_BYTES


# ---------------------------------------------------------------- what gives way, and when


def test_the_padding_gives_way_first_then_the_loggers_path() -> None:
    """One line as long as that is enough."""
    line = {"event": "answered", "user_id": "grace", "logger": "chat.services.answer"}
    widths = {
        90: "answered                         user_id=grace  chat.services.answer",
        89: "answered  user_id=grace  chat.services.answer",
        67: "answered  user_id=grace  chat.services.answer",
        66: "answered  user_id=grace  …answer",
        54: "answered  user_id=grace  …answer",
        53: "answered  user_id=grace\n                        chat.services.answer",
    }
    for width, expected in widths.items():
        shown = drawn(width, line).split("\n", 1)[1]
        assert shown == f"22:13:20.123 info     {expected}\n", width


def test_a_long_address_goes_on_below_its_beginning() -> None:
    """Broken after a slash; of several lines of a message all begin in one column."""
    url = "https://shop.example/" + "orders/" * 12
    shown = drawn(80, {"event": "sent", "url": url, "logger": "a.b"}).splitlines()[2:]
    assert shown == [" " * 24 + "orders/" * 8, " " * 24 + "orders/  a.b"]
    shown = drawn(80, {"event": f"one\n{'two ' * 19}\nthree", "logger": "a"}).splitlines()[2:]
    assert [line.index("t") for line in shown] == [4, 4]


def test_fields_are_set_apart_from_any_message() -> None:
    """By two blanks at least, however long it is: also where it looks like a field itself."""
    for length in range(60):
        assert re.search("m=1 {2,}n=2 ", drawn(200, {"event": "m" * length + "m=1", "n": 2}))


def test_fields_that_say_who_come_first_in_the_order_of_the_settings() -> None:
    """In the order in which the settings name them."""
    assert "a  user_id=u tenant=t a=1 z=2" in drawn(
        60, {"event": "a", "a": 1, "tenant": "t", "z": 2, "user_id": "u"}
    )


def test_a_message_of_several_lines() -> None:
    """Is several lines, below where it begins; what is around them is not there."""
    seen = drawn(80, {"event": "\r\n\none\r\n  two\n\nthree\n", "n": 1}).split("\n")[1:-1]
    pad = " " * 22
    assert seen == [
        "22:13:20.123 info     one                              n=1  shop",
        *(pad + "  two", pad, pad + "three"),
    ]


def test_a_text_without_blanks_goes_on_below() -> None:
    """Chinese and Japanese are broken between any two characters, but not in front of a sign."""
    text = "これはとても長いメッセージです。" * 4
    first, second, *more = drawn(60, {"level": "info", "event": text}).splitlines()[1:]
    assert first == f"22:13:20.123 info     {text[:19]}"
    assert second == f"{' ' * 24}{text[19:37]}"
    assert "".join(line.strip() for line in more) == f"{text[37:]}  shop"
    assert not any(line.lstrip().startswith("。") for line in (second, *more))
    field = drawn(40, {"level": "info", "event": "x", "name": text}).splitlines()[1:]
    assert "".join("".join(field).split()).endswith(f"name={text}shop")
    assert all(line.startswith("    ") for line in field[1:])


def test_a_tab_is_blanks() -> None:
    """In a message, in its further lines, and in a traceback."""
    lines = drawn(100, {"event": "a\tb\n\tc", "exception": "E:\n\tat x"}).splitlines()[1:]
    assert [line[22:27] for line in lines[:2]] == ["a   b", "    c"]
    assert lines[3] == "        at x"


def test_the_marks_of_a_traceback_give_way_with_the_line_above_them() -> None:
    """Where that is broken they would stand below another place."""
    error = "Traceback (most recent call last):\n    price(of, it)\n    ^^^^^\nValueError: x"
    assert "^^^^^" in drawn(40, {"event": "x", "exception": error})
    long = error.replace("of, it", "of, it, and, of, much, else")
    assert "^" not in drawn(40, {"event": "x", "exception": long})


def test_the_date_stands_where_a_day_begins() -> None:
    """In local time; once, on a terminal alone."""
    at = [NOON_NS, NOON_NS + 1, NOON_NS + DAY_NS, NOON_NS + DAY_NS + 1]
    lines = [{"event": "e", "_time_ns": each} for each in at]
    dates = [each for each in drawn(80, *lines).split("\n") if each.startswith("2023")]
    assert dates == ["2023-11-14", "2023-11-15"]
    assert "2023" not in drawn(float("inf"), *lines)


# ---------------------------------------------------------------- a real terminal


@pytest.mark.skipif(sys.platform == "win32", reason="no pseudo-terminal")
@pytest.mark.parametrize("no_color", [False, True])
def test_on_a_real_terminal(no_color: bool, tmp_path: Path) -> None:
    """It has 60 columns when it starts, and 100 later."""
    import fcntl
    import pty
    import termios

    script = """
import logging, sys
from otel_logging import bind_context, setup_observability, traced
setup_observability("shop", who=["tenant"])
with traced("checkout"):
    bind_context(tenant="acme")
    logging.getLogger("shop.cart.checkout").warning("one\\ntwo", extra={"meeting": sys.argv[1]})
    input()
    logging.getLogger("shop.cart.checkout").warning("three", extra={"meeting": sys.argv[1]})
"""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 60, 0, 0))
    variables = {"TERM": "xterm", "ENVIRONMENT": "development", "TZ": "UTC"}
    variables |= {
        "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9",
        "OTEL_LOGGING_SPOOL_DIR": str(tmp_path),
    }
    env = child_environment(**variables, **({"NO_COLOR": "1"} if no_color else {}))
    child = start(sys.executable, "-c", script, MEETING, env=env, stdin=PIPE, stdout=slave)
    seen = b""
    while b"two" not in seen:
        seen += os.read(master, 10_000)
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 100, 0, 0))
    done = end(child, "\n")
    while b"three" not in seen or not seen.endswith(b"\n"):
        seen += os.read(master, 10_000)
    os.close(slave)
    os.close(master)
    assert done.returncode == 0, done.stderr
    text = seen.decode().replace("\r\n", "\n")
    assert ("\x1b[" in text) is not no_color
    clock = r"\d\d:\d\d:\d\d\.\d{3}"
    assert re.fullmatch(
        rf"\d{{4}}-\d\d-\d\d\n{clock} warning  one  tenant=acme\n"
        rf"    meeting={MEETING}\n +shop\.cart\.checkout ·\w{{8}}\n"
        rf" {{22}}two\n"
        rf"{clock} warning  three  tenant=acme meeting={MEETING}\n"
        rf" +shop\.cart\.checkout ·\w{{8}}\n",
        re.sub(r"\x1b\]8;;[^\x1b]*\x1b\\", "", plain_text(text)),
    ), text
