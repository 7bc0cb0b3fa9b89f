"""How a line looks: strict JSON for machines, aligned and coloured for people."""

import json
import math
import re
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from otel_logging import _names
from otel_logging._values import MAX_CHARACTERS, MAX_RECORD_BYTES
from otel_logging.logs.render import console_renderer, json_renderer
from tests.lines import parsed

HEAD = {"timestamp": "2026-01-02T03:04:05.678901Z", "level": "info", "event": "e", "logger": "shop"}


def as_json(limit: int | None = None, /, **fields: Any) -> dict[str, Any]:
    (line,) = parsed(json_renderer(limit)({**fields, **HEAD}) + b"\n")
    return line


class Rude:
    """Everything that can raise does."""

    def __repr__(self) -> str:
        raise OSError("rude")

    __str__ = __bool__ = __len__ = __hash__ = __iter__ = __eq__ = __repr__  # type: ignore[assignment]


class RuderStill(Rude):
    def __getattribute__(self, name: str) -> Any:
        raise OSError("rude")


class RudeMapping(dict[str, Any]):
    def keys(self) -> Any:
        raise OSError("rude")

    items = __len__ = __iter__ = keys


# ---------------------------------------------------------------- JSON


def test_what_every_line_has_stands_first() -> None:
    """Time, level, message, logger: a person reads JSON too."""
    line = as_json(user_id="u", trace_id="t")
    assert list(line) == ["timestamp", "level", "event", "logger", "user_id", "trace_id"]


def test_what_processors_tell_each_other_is_not_on_the_line() -> None:
    """The time in nanoseconds is the timestamp."""
    assert "_time_ns" not in as_json(_time_ns=5)


VALUES: list[tuple[Any, Any]] = [
    (math.nan, "NaN"),
    (2**64, "18446744073709551616"),
    (b"\xff", "b'\\xff'"),
    ("\ud800", "\\ud800"),
    ("\x00\n\u2028", "\x00\n\u2028"),
    ({1: 2, "1": 3, None: {b"k": ()}}, {"1": 2, "1_2": 3, "None": {"b'k'": []}}),
    ({"deep": [{"er": {"a"}}]}, {"deep": [{"er": ["a"]}]}),
    (ValueError("v"), "ValueError: v"),
    (True, True),
    (0.5, 0.5),
]


@pytest.mark.parametrize(("value", "shown"), VALUES)
def test_any_value_is_rendered(value: Any, shown: Any) -> None:
    """As plain data."""
    assert as_json(value=value)["value"] == shown


@pytest.mark.parametrize("kind", [Rude, RuderStill, RudeMapping])
def test_values_whose_own_code_raises_are_rendered(kind: Any) -> None:
    """By the name of their type, alone and inside others."""
    shown = f"<unprintable {kind.__name__}>"
    assert as_json(a=kind(), b=[kind()]) == {**HEAD, "a": shown, "b": [shown]}
    assert f"a='{shown}'" in console(a=kind())


def test_a_value_that_holds_itself_ends() -> None:
    """At a bounded depth."""
    endless: list[Any] = []
    endless.append(endless)
    assert "[" in json.dumps(as_json(value=endless)["value"])


def test_a_long_text_is_cut_in_the_middle() -> None:
    """And says how much is left out."""
    text = "a" * 5000 + "b" * 5000
    found = as_json(value=text)["value"]
    assert MAX_CHARACTERS - 2 < len(found) <= MAX_CHARACTERS
    assert re.fullmatch(r"a+…\[\d+ more\]…b+", found)


def test_a_line_of_ten_thousand_fields_has_them_all() -> None:
    """In a file all of them are there."""
    fields = {f"field_{n}": n for n in range(10_000)}
    assert as_json(**fields) == {**fields, **HEAD}


anything = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.binary()
    # and what json.dumps would refuse
    | st.complex_numbers()
    | st.decimals()
    | st.builds(object),  # not Rude: hypothesis may want to print it
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text() | st.integers() | st.binary() | st.none(), inner, max_size=4)
    ),
    max_leaves=20,
)
keys = st.text() | st.text(alphabet=st.characters(categories=["Cs"])) | st.sampled_from(["e", "x"])


@given(st.dictionaries(keys.filter(lambda k: k not in HEAD and k != "_time_ns"), anything))
def test_any_fields_are_one_line_of_strict_json(fields: dict[str, Any]) -> None:
    """With what every line has, and every field."""
    line = as_json(**fields)
    assert {key: line[key] for key in HEAD} == HEAD
    assert len(line) == len(HEAD) + len({k.encode("utf-8", "backslashreplace") for k in fields})


# ---------------------------------------------------------------- JSON on a pipe


def on_pipe(limit: int = 4096, /, **fields: Any) -> dict[str, Any]:
    """Return the line that fits, with its newline."""
    rendered = json_renderer(limit)({**fields, **HEAD})
    assert len(rendered) < limit
    (line,) = parsed(rendered + b"\n")
    return line


def test_what_is_cut_off_is_counted_from_the_whole() -> None:
    """However often it had to be made shorter."""
    text = on_pipe(512, text="a" * 4000 + "b" * 4000)["text"]
    (left,) = re.findall(r"^a+…\[(\d+) more\]…b+$", text)
    assert int(left) + text.count("a") + text.count("b") == 8000


def test_a_line_that_fits_is_left_alone() -> None:
    """To the byte."""
    room = 4095 - len(json_renderer(None)({**HEAD, "text": ""}))
    assert on_pipe(text="x" * room)["text"] == "x" * room
    assert "more]" in on_pipe(text="x" * (room + 1))["text"]


def test_tracebacks_give_way_first() -> None:
    """To the message and the fields."""
    line = on_pipe(exception="t" * 8000, stack="s" * 8000, text="x" * 1000, ids=["a"] * 50)
    assert "more]" in line["exception"]
    assert "more]" in line["stack"]
    assert line["text"] == "x" * 1000
    assert line["ids"] == ["a"] * 50


def test_a_traceback_that_is_a_list_gives_way_too() -> None:
    """As somebody may log one."""
    for limit, text in ((4096, "x" * 1000), (300, "x" * 100)):
        line = on_pipe(limit, stack=["frame"] * 900, text=text)
        *frames, note = line["stack"]
        assert set(frames) == {"frame"}
        assert note == f"… {900 - len(frames)} more"
        assert "more]" in line["text"] or line["text"] == text


def test_then_long_values_of_all_kinds() -> None:
    """Each to its own type; short fields stay."""
    line = on_pipe(many=list(range(900)), text="é" * 4000, words=12, ok=None, trace_id="f" * 32)
    assert line["many"] == list(range(len(line["many"])))
    assert "more]" in line["text"]
    assert (line["words"], line["ok"], line["trace_id"]) == (12, None, "f" * 32)


LONG: dict[str, tuple[Any, Any]] = {
    "numbers": ([n / 7 for n in range(300)], None),
    "more than a field holds": (list(range(2000)), None),
    "rows of a matrix": ([[n, n / 7] for n in range(300)], None),
    "texts": ([f"name {n}" for n in range(900)], "… {} more"),
    "texts that were left out before": ([f"name {n}" for n in range(2000)], "… {} more"),
    "mappings": ([{"a": n, "b": "text"} for n in range(300)], {"…": "{} more"}),
    "a mapping": ({f"key {n}": n for n in range(900)}, "{} more"),
    "one that was cut before": ({f"key {n}": n for n in range(2000)}, "{} more"),
}


@pytest.mark.parametrize(("value", "note"), LONG.values(), ids=LONG)
def test_a_list_or_mapping_that_is_too_long_keeps_its_type(value: Any, note: Any) -> None:
    """It is its own beginning, with the number of what is left out; and the room is used."""
    rendered = json_renderer(4096)({**HEAD, "value": value})
    assert 3600 < len(rendered) < 4096
    found = json.loads(rendered)["value"]
    last: Any = None
    if isinstance(value, dict):
        last = found.pop("…")
        assert found.items() <= value.items()
    elif note:
        last = found.pop()
    assert list(found) == list(value)[: len(found)]
    assert str(last) == str(note).replace("{}", str(len(value) - len(found)))


def test_what_is_long_in_a_list_or_mapping_gives_way_to_what_is_short() -> None:
    """So that it keeps all of its items while there is room for them."""
    value = {"text": "x" * 8000, "one": 1, "texts": ["y" * 8000, "two"], "q": ["\ud800" * 40]}
    found = on_pipe(value=value)["value"]
    assert (found["one"], found["texts"][1:]) == (1, ["two"])
    for text in (found["text"], found["texts"][0]):
        assert "more]" in text
        assert len(text) > 1500


def test_then_fields_are_left_out_and_counted() -> None:
    """The application's, never what every line has."""
    fields = {f"field_{n}": n for n in range(10_000)}
    line = on_pipe(**fields, trace_id="f" * 32)
    assert {**HEAD, "trace_id": "f" * 32}.items() <= line.items()
    left = line.pop("fields_left_out")
    kept = [key for key in line if key in fields]
    assert kept[:3] == ["field_0", "field_1", "field_2"]
    assert len(kept) > 100
    assert left == 10_000 - len(kept)


def test_ten_thousand_fields_on_a_pipe_are_fast() -> None:
    """Not a second of somebody's event loop, on a processor of its own."""
    fields = {f"field_{n}": "text " * 20 for n in range(10_000)}
    began = time.thread_time()
    on_pipe(**fields)
    assert time.thread_time() - began < 1


@given(
    st.dictionaries(
        keys.filter(lambda k: k not in {*HEAD, *_names.RESERVED, "stack"}),
        anything | st.text(min_size=300),
    ),
    st.sampled_from([512, 600, 4096]),
    st.text(alphabet='\x00\x7f\x85\u2028"é\U0001f600a', max_size=5000),
)
def test_any_fields_fit_into_the_limit_of_a_line(
    fields: dict[str, Any], limit: int, text: str
) -> None:
    """Whatever is on it, in strict JSON, with the time and the level."""
    line = on_pipe(limit, **fields, stack=text, trace_id=text, job_tag=text)
    assert (line["timestamp"], line["level"]) == (HEAD["timestamp"], HEAD["level"])


# ---------------------------------------------------------------- anywhere

#: Each part is within its own bound; together they are more than the record's, up to four times.
TOO_MUCH: dict[str, dict[str, Any]] = {
    "texts": {f"text_{n}": "x " * 4000 for n in range(130)},
    "of the longest characters": {f"text_{n}": "\U0001f600" * 8000 for n in range(14)},
    "that are all escaped": {f"text_{n}": "\x9b" * 8000 for n in range(14)},
    "lists": {f"list_{n}": ["y" * 60] * 900 for n in range(6)},
    "mappings": {f"map_{n}": {str(k): "z" * 60 for k in range(900)} for n in range(6)},
    "numbers": {f"{'name_of_a_number_' * 5}{n}": n for n in range(2_900)},
    "names": {f"{n}" + "n" * 8000: n for n in range(65)},
    "one name": {"n" * 300_000: 1},
    "tracebacks": {f"text_{n}": "x " * 4000 for n in range(33)}
    | {"exception": "Traceback\n" * 800, "stack": "\n" * 8000},
}


@pytest.mark.parametrize("fields", TOO_MUCH.values(), ids=TOO_MUCH)
def test_a_record_that_is_too_much_in_all_is_shortened(fields: dict[str, Any]) -> None:
    """To 256 KiB with its newline, wherever it goes; it says what was cut, or how many fields."""
    written = json_renderer(None)({**HEAD, **fields})
    assert len(written) < MAX_RECORD_BYTES
    (line,) = parsed(written + b"\n")
    assert line.items() >= HEAD.items()
    missing = len(HEAD) + len(fields) + ("fields_left_out" in line) - len(line)
    assert line.get("fields_left_out", 0) == missing
    assert missing or re.search(rb"\d more", written)


@pytest.mark.parametrize("fields", TOO_MUCH.values(), ids=TOO_MUCH)
def test_a_console_line_is_bounded_too(fields: dict[str, Any]) -> None:
    """By its own bytes: colours, what is shown of control characters, indented tracebacks."""
    line = console(color=True, event="e" * 8000, job_tag="T", trace_id=TRACE, **fields)
    assert len(line.encode()) < MAX_RECORD_BYTES
    first = plain_text(line).split("\n")[0]
    assert first.startswith(time.strftime("%H:%M:%S", time.localtime(1_700_000_000)))
    assert "info     [T] eee" in first
    assert "more]" in line or "fields_left_out=" in line


def test_a_record_of_just_the_bound_is_whole() -> None:
    """To the byte; and with one more it is not."""
    fields = {f"text_{n}": "x" * 8000 for n in range(32)}
    room = MAX_RECORD_BYTES - 1 - len(json_renderer(None)({**HEAD, **fields, "rest": ""}))
    whole = json_renderer(None)({**HEAD, **fields, "rest": "x" * room})
    assert len(whole) + 1 == MAX_RECORD_BYTES
    assert b"more]" not in whole
    for limit in (None, 1_000_000):
        assert b"more]" in json_renderer(limit)({**HEAD, **fields, "rest": "x" * (room + 1)})


def test_tracebacks_give_way_first_in_a_file_too() -> None:
    """The same order as on a pipe."""
    line = as_json(**{f"text_{n}": "x" * 8000 for n in range(32)}, exception="t" * 8000)
    assert "more]" in line["exception"]
    assert all(line[f"text_{n}"] == "x" * 8000 for n in range(32))


@given(
    st.dictionaries(keys.filter(lambda k: k not in HEAD), anything | st.text(min_size=300)),
    st.integers(20, 60),
    st.text(alphabet='\x00\x7f\x85\u2028\n"é\U0001f600a', min_size=1, max_size=8),
)
@settings(max_examples=max(settings().max_examples // 12, 3))  # half a second each
def test_any_line_is_bounded(fields: dict[str, Any], times: int, text: str) -> None:
    """Whatever is on it, many times over, in JSON and on the console."""
    many = {f"{key}_{n}": value for n in range(times) for key, value in fields.items()}
    many |= {f"text_{n}": text * 1000 for n in range(times)}
    assert len(json_renderer(None)({**HEAD, **many})) < MAX_RECORD_BYTES
    assert len(console(exception=text * 1000, job_tag=text, **many).encode()) < MAX_RECORD_BYTES


# ---------------------------------------------------------------- console

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
NOON = {**HEAD, "_time_ns": 1_700_000_000_123_456_789}


def console(*, color: bool = False, **fields: Any) -> str:
    return console_renderer(color=color)({**NOON, **fields}).decode()


def plain_text(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;]*m", "", text)


def test_a_console_line_has_time_level_message_fields_logger_and_trace() -> None:
    """Local time, level, message, fields, logger, and a short trace id at the very end."""
    clock = time.strftime("%H:%M:%S", time.localtime(1_700_000_000)) + ".123"
    assert console(event="order placed", order="o-1", n=3, trace_id="0af7651916cd43dd") == (
        f"{clock} info     order placed                     order=o-1 n=3  shop ·0af76519"
    )
    assert console() == f"{clock} info     e                                 shop"


def linked(**ids: object) -> str:
    render = console_renderer(color=False, links_to="http://localhost:16686")
    return render({**NOON, "trace_flags": "01", **ids}).decode()


def test_a_span_that_is_not_recorded_is_no_link() -> None:
    """The sampler left it out: it is nowhere."""
    for flags in ("00", "02", None):
        assert "\x1b" not in linked(trace_id=TRACE, span_id=SPAN, trace_flags=flags)
    assert "\x1b" in linked(trace_id=TRACE, span_id=SPAN, trace_flags="03")


def test_the_short_trace_id_is_a_link_to_its_span() -> None:
    """In the form of OSC 8, which shows nothing of it; the rest of the line is as ever."""
    url = f"http://localhost:16686/trace/{TRACE}?uiFind={SPAN}"

    line = linked(trace_id=TRACE, span_id=SPAN, trace_flags="01")

    assert line.endswith(f" \x1b]8;;{url}\x1b\\·{TRACE[:8]}\x1b]8;;\x1b\\")
    assert line.partition("\x1b")[0] == console(trace_id=TRACE, span_id=SPAN).partition("·")[0]


@pytest.mark.parametrize(
    "ids",
    [
        {},
        {"trace_id": "req-123"},
        {"trace_id": TRACE},
        {"trace_id": TRACE, "span_id": "\x1b]8;;"},
        {"trace_id": TRACE.upper(), "span_id": SPAN},
        {"trace_id": TRACE + "\n", "span_id": SPAN},
        {"trace_id": 7, "span_id": SPAN},
    ],
)
def test_what_is_no_span_of_ours_is_no_link(ids: dict[str, object]) -> None:
    """An id bound by hand leads nowhere, and nothing of it is obeyed."""
    assert linked(**ids) == console(**ids)
    assert "\x1b" not in linked(**ids)


def test_messages_and_fields_are_aligned() -> None:
    """Whatever the level; a long message moves its own line's fields alone."""
    lines = [
        console(level=level, event=event, key="value")
        for level in ("debug", "info", "warning", "error", "critical")
        for event in ("short", "a longer message")
    ]
    assert len({line.index("key=value") for line in lines}) == 1
    assert len({line.index("short") for line in lines if "short" in line}) == 1
    assert " x  key=value" in console(event="x" * 50 + " x", key="value")


def test_colours_change_nothing_else() -> None:
    """Without them it is the same text."""
    fields = {"a": 1, "trace_id": "0" * 32, "exception": "Traceback (most\n  File x\nE: e"}
    for level in ("debug", "info", "warning", "error", "critical", "level 25"):
        colored = console(color=True, level=level, **fields)
        assert colored != plain_text(colored) == console(level=level, **fields)


def test_values_that_are_not_one_word_are_quoted() -> None:
    """So that a field's end can be seen."""
    line = console(a="one", b="two words", c="", d="k=v", e=None, f=[1, "x"], g={"k": True}, h=1.5)
    assert "a=one b='two words' c='' d='k=v' e=None f=[1,\"x\"] g={\"k\":true} h=1.5" in line


def test_a_job_tag_stands_in_front_of_the_message() -> None:
    """Once, and not among the fields; also one that is empty."""
    assert "info     [] e " in console(job_tag="")
    assert "info     e " in console(job_tag=None)
    assert "info     [PRICE_CACHE] e " in console(job_tag="PRICE_CACHE")
    assert "job_tag" not in console(job_tag="PRICE_CACHE")


def test_tracebacks_are_set_off() -> None:
    """Below the line, indented; what was raised is in red, places are dim."""
    trace_back = 'Traceback (most recent call last):\n  File "a.py"\n    code\nValueError: no\nnote'
    first, *below = console(exception=trace_back, stack="Stack (most\n  File").split("\n")
    assert "exception" not in first
    assert below == ["    Stack (most", "      File"] + [f"    {t}" for t in trace_back.split("\n")]
    colored = console(color=True, exception=trace_back)
    assert "    \x1b[31mValueError: no\x1b[0m\n" in colored
    assert '    \x1b[2m  File "a.py"\x1b[0m\n' in colored
    assert "\n        code\n" in colored


def test_a_line_without_a_time_is_of_now() -> None:
    """From a chain of somebody else's."""
    assert re.match(r"\d\d:\d\d:\d\d\.\d\d\d info ", console_renderer(color=False)(HEAD).decode())


@pytest.mark.parametrize("place", [*HEAD, "trace_id", "job_tag", "field"])
@pytest.mark.parametrize("value", [5, None, "\x1b[31m", {"a": "\x07"}, "x" * 9000])
def test_any_value_in_any_place_is_shown(place: str, value: Any) -> None:
    """On one line, obeying nothing."""
    line = console(**{place: value})
    assert not re.search(r"[\x00-\x1f\x7f-\x9f]", line)


evil = st.text(alphabet=st.characters(categories=["Cc", "Cf", "Zl", "Zp", "Cs", "L"]))
OBEYED = r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\u200e\u200f\u061c]"


@given(st.dictionaries(evil, anything | evil), evil, evil, st.booleans())
def test_no_control_character_is_ever_obeyed(
    fields: dict[str, Any], event: str, exception: str, color: bool
) -> None:
    """None is there but colours of ours, and newlines (a traceback's tabs), all indented."""
    fields = {k: v for k, v in fields.items() if k not in NOON and k != "stack"}
    line = console(color=color, **{**fields, "event": event, "exception": exception})
    first, *rest = (plain_text(line) if color else line).split("\n")
    assert not re.search(OBEYED, first)
    assert not any(re.search(OBEYED, text.replace("\t", "")) for text in rest)
    assert all(text.startswith("    ") for text in rest)
    message = event.replace("\r\n", "\n").strip("\n")
    assert len(rest) == message.count("\n") + exception.rstrip("\n").count("\n") + 1


@given(st.dictionaries(st.from_regex(r"[a-z]{1,8}", fullmatch=True), anything))
def test_console_and_json_tell_the_same(fields: dict[str, Any]) -> None:
    """Every field is on both."""
    fields = {k: v for k, v in fields.items() if k not in _names.RESERVED and k != "stack"}
    line = console(**fields)
    assert all(f"{key}=" in line for key in as_json(**fields) if key not in HEAD)
