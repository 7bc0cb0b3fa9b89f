"""Spans as they are read back."""

import math
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.message import DecodeError
from hypothesis import example, given, settings
from hypothesis import strategies as st
from opentelemetry.proto.trace.v1.trace_pb2 import ScopeSpans
from opentelemetry.proto.trace.v1.trace_pb2 import Span as OtlpSpan

from otel_logging import _otlp, _runtime
from otel_logging._text import rfc3339
from otel_logging.traces.span import Event, Resource, Span, from_bytes
from tests.stored import MS, NOON, TRACE, Planted, line, open_spool, read_back


def test_a_span_comes_back_as_it_was_written(tmp_path: Path) -> None:
    """Ids are hex, times are ns since the epoch, attributes are plain data."""
    planted = Planted(
        2,
        1,
        "transcribe",
        5,
        905,
        {"budget_s": 0.3, "words": ["a", "b"], "deep": {"n": 1}},
        [line(12, "model is cold", "warning", device="cpu")],
        [("a" * 32, 77)],
        status=2,
        message="ValueError: boom",
        kind=2,
    )

    (span,) = read_back(tmp_path, planted)

    assert (span.trace_id, span.span_id, span.parent_span_id) == (TRACE, f"{2:016x}", f"{1:016x}")
    assert (span.name, span.details.kind, span.details.status) == ("transcribe", "server", "error")
    assert span.details.status_message == "ValueError: boom"
    assert (span.start_ns, span.end_ns) == (NOON + 5 * MS, NOON + 905 * MS)
    assert (span.duration_s, span.budget_s) == (0.9, 0.3)
    assert span.resource == Resource("chat-gateway", ("user_id",))
    assert span.get("deep") == {"n": 1}
    assert span.attributes == {"budget_s": 0.3, "words": ["a", "b"], "deep": {"n": 1}}
    assert span.get("deep") == {"n": 1}
    assert span.get("nothing") is None
    assert not span.has_remote_parent
    assert span.events == [
        Event(
            NOON + 12 * MS,
            "model is cold",
            {"level": "warning", "logger": "chat", "device": "cpu"},
        )
    ]
    assert span.details.links == [
        {"trace_id": "a" * 32, "span_id": f"{77:016x}", "attributes": {"why": "asked"}}
    ]


@pytest.mark.parametrize(
    ("kind", "status", "words"),
    [
        (0, 0, ("unspecified", "unset")),
        (1, 1, ("internal", "ok")),
        (5, 2, ("consumer", "error")),
        (99, 99, ("unspecified", "unset")),
    ],
)
def test_kind_and_status_are_words(
    tmp_path: Path, kind: int, status: int, words: tuple[str, str]
) -> None:
    """Numbers that no version of OTLP has are unspecified and unset."""
    (span,) = read_back(tmp_path, Planted(1, 0, "x", 0, 1, kind=kind, status=status))

    assert (span.details.kind, span.details.status) == words


def test_a_clock_that_was_set_back_makes_no_negative_duration(tmp_path: Path) -> None:
    """The duration is 0."""
    (span,) = read_back(tmp_path, Planted(1, 0, "x", 5, 1))

    assert span.duration_s == 0.0


@pytest.mark.parametrize(
    ("value", "budget_s"),
    [(1, 1.0), (0.5, 0.5), ("0.5", None), (True, None), (None, None), (0, None), (-2.0, None)],
)
def test_a_budget_is_a_number(tmp_path: Path, value: object, budget_s: float | None) -> None:
    """What another program calls budget_s and is no number is no budget."""
    (span,) = read_back(tmp_path, Planted(1, 0, "x", 0, 1, {"budget_s": value}))

    assert span.budget_s == budget_s


def test_a_value_that_reads_like_the_budget_key_is_not_a_budget(tmp_path: Path) -> None:
    """Only an attribute of that name is one."""
    (span,) = read_back(tmp_path, Planted(1, 0, "x", 0, 1, {"note": "budget_s"}))

    assert span.budget_s is None


@pytest.mark.parametrize(
    "value", ["cpu", "", "a cause with a name of its own: \u00fc", "x" * 150, 7, ["a", "b"]]
)
def test_what_was_measured_is_the_same_before_and_after_it_is_decoded(
    tmp_path: Path, value: object
) -> None:
    """It is read from the bytes first, where it is a short text; the line about it has it too."""
    told = line(1, "late", "warning", **{"late.cause": "of the line"})
    spans = read_back(
        tmp_path,
        Planted(1, 0, "message", 0, 9, {"late.cause": value}, [told]),
        Planted(2, 0, "message", 0, 9, {}, [told]),
    )
    assert [span.get("late.cause") for span in spans] == [value, None]
    assert [span.attributes.get("late.cause") for span in spans] == [value, None]


def test_no_text_stands_for_who_it_was(tmp_path: Path) -> None:
    """A text may look like an attribute as we write it."""
    forged = "J\x14\n\x07user_id\x12\t\n\x07mallory"
    (span,) = read_back(tmp_path, Planted(1, 0, "message", 0, 9, {"n": forged, "user_id": "grace"}))
    assert span.get("user_id") == "grace"


@pytest.mark.parametrize(
    ("planted", "is_stage"),
    [
        (Planted(1, 0, "message", 0, 1), True),
        (Planted(1, 0, "process log", 0, 1), False),
        (Planted(1, 7, "process log", 0, 1), True),
        (Planted(1, 7, "log", 0, 0, {"log.page": 1}), False),
        (Planted(1, 7, "log", 0, 1), True),
    ],
)
def test_holders_of_log_lines_are_not_stages(
    tmp_path: Path, planted: Planted, is_stage: bool
) -> None:
    """A user's own stage may be called the same: the page number and the missing parent tell."""
    (span,) = read_back(tmp_path, planted)

    assert span.is_stage is is_stage


def test_a_probe_of_the_doctor_is_not_a_stage(tmp_path: Path) -> None:
    """It is nobody's work, whatever it is called."""
    (span,) = read_back(tmp_path, Planted(1, 0, "probe", 0, 1), service="otel-logging-doctor")

    assert not span.is_stage


def test_a_resource_that_says_little_has_the_defaults(tmp_path: Path) -> None:
    """The default of who= holds where the process did not say, as with another SDK's resource."""
    (span,) = read_back(tmp_path, Planted(1, 0, "x", 0, 1), service="", who=None)

    assert span.resource == Resource("unknown_service", ("user_id",))


def test_keys_that_name_the_user_come_from_the_resource(tmp_path: Path) -> None:
    """They are what was given to who=."""
    (span,) = read_back(tmp_path, Planted(1, 0, "x", 0, 1), who=["tenant", "user_id"])

    assert span.resource.who == ("tenant", "user_id")


def test_a_who_that_is_not_a_list_is_ignored(tmp_path: Path) -> None:
    """It is somebody else's attribute."""
    from otel_logging.traces import local
    from tests.stored import SCOPE

    spool = open_spool(tmp_path, "x", {"otel_logging.who": "user_id"})
    spool.append(SCOPE, bytes(16), Planted(1, 0, "x", 0, 1).encoded(NOON))
    spool.close()

    assert local.read([tmp_path])[0][0].resource.who == ("user_id",)


@pytest.mark.parametrize(
    ("time_ns", "text"),
    [
        (0, "1970-01-01T00:00:00.000000Z"),
        (NOON + 1_999, "2023-11-14T22:13:20.000001Z"),
        (NOON + 999_999_999, "2023-11-14T22:13:20.999999Z"),
        (2**64 - 1, "2554-07-21T23:34:33.709551Z"),
    ],
)
def test_times_are_rfc3339_with_microseconds(time_ns: int, text: str) -> None:
    """They are cut, not rounded: no moment is said to be later than it was."""
    assert rfc3339(time_ns) == text


def test_bytes_that_are_not_one_span_each_are_an_error() -> None:
    """Two in one, none, or what is no message at all."""
    one = ScopeSpans(spans=[OtlpSpan(name="a")]).SerializeToString()
    resource = Resource("shop", ())
    assert from_bytes(one, resource).name == "a"
    for other in (one + one, b"", b"\x12\x02\x0a\x7f"):
        with pytest.raises(DecodeError):
            from_bytes(other, resource)
    assert Span("", "", "", "a", 0, 0, resource, None, b"\xff").details.attributes == {}


@pytest.mark.parametrize("status", [0, 2])
@pytest.mark.parametrize("flags", [0x100, 0x103, 0x1FF, 0x300, 0x301, 0x303, 0x3FF])
def test_whether_the_parent_is_remote_is_read_off_the_flags(flags: int, status: int) -> None:
    """Those that spans usually have, and others; last in the span, or before its status."""
    ids_and_flags = bytes.fromhex(TRACE), 2, 1, "", flags
    one = _otlp.span(*ids_and_flags, "GET", 2, NOON, NOON + 5, {}, status=status)
    assert from_bytes(one, Resource("shop", ())).has_remote_parent is (flags >= 0x300)


@pytest.mark.parametrize(
    "changed",
    [
        {},
        {"trace_state": "a=b"},
        {"kind": 0},
        {"name": "n" * 127},
        {"name": "n" * 128},
        {"name": "n" * 300},
        {"name": "n" * 20_000},
        {"parent_span_id": b""},
        {"flags": 0x101},
    ],
    ids=lambda changed: "-".join(changed) or "as ours",
)
def test_another_writers_span_is_read_as_ours(changed: dict[str, Any]) -> None:
    """In the same format, fields in another order, or more of them."""
    message = OtlpSpan(
        **{
            "trace_id": bytes.fromhex(TRACE),
            "span_id": bytes(7) + b"\x02",
            "parent_span_id": bytes(7) + b"\x01",
            "name": "GET",
            "kind": 2,
            "start_time_unix_nano": NOON,
            "end_time_unix_nano": NOON + 5,
            "dropped_attributes_count": 300,
            **changed,
        }
    )
    message.events.add(name="said").attributes.add(key="user_id").value.string_value = "mallory"
    for key, value in {"k" * 200: "long", "budget_s": "0.5", "x": "v" * 20_000}.items():
        message.attributes.add(key=key).value.string_value = value
    message.attributes.add(key="user_id").value.string_value = "grace"
    message.attributes.add(key="bytes").value.bytes_value = b"\x01"
    message.attributes.add(key="nan").value.double_value = math.nan
    message.attributes.add(key="nothing")
    message.status.code = 2

    span = from_bytes(ScopeSpans(spans=[message]).SerializeToString(), Resource("shop", ()))

    def said() -> list[Any]:
        keys = ("k" * 200, "user_id", "bytes", "nan", "nothing", "other", "\ud800")
        return [span.get(key) for key in keys]

    assert (span.trace_id, span.span_id, span.name) == (TRACE, f"{2:016x}", message.name)
    assert (span.start_ns, span.end_ns, span.budget_s) == (NOON, NOON + 5, None)
    assert span.parent_span_id == message.parent_span_id.hex()
    assert said() == ["long", "grace", "01", "NaN", None, None, None]
    assert span.is_error
    assert span.kind == span.details.kind
    assert span.may_have_failed
    assert len(span.attributes["x"]) == 20_000
    assert said() == ["long", "grace", "01", "NaN", None, None, None]


@pytest.mark.parametrize(
    "tail",
    [
        b"\xff",
        b"\x4a",
        b"\x4a\x0b\n\x07user_id\x12",
        b"\x4a\xff",
        b"\x4a\x0f\n\x07user_id\x12\x03!12",
        b"\x4a\x40\n\x01x\x12\x0c\n\x09\n\x07user_id",
        b"\x7a\x02\x12\xff",
    ],
)
def test_an_attribute_of_another_program_that_is_none_is_not_there(tail: bytes) -> None:
    """What stands before it is; what looks like the status ERROR is none."""
    head = Planted(1, 0, "x", 0, 1, {"n": 1, "text": "\x18\x02"}, flags=0).encoded(NOON)
    span = from_bytes(head + tail, Resource("shop", ("user_id",)))
    assert (span.name, span.get("n"), span.get("user_id")) == ("x", 1, None)
    assert not span.is_error


@pytest.mark.parametrize(("attributes", "status"), [({"n": 2, "m": 1}, 0), ({"n": 2}, 1), ({}, 2)])
def test_only_a_status_is_a_sign_of_failure(attributes: dict[str, Any], status: int) -> None:
    """A number 2 has the same bytes as the status ERROR: it is looked into where a status is."""
    one = Planted(1, 0, "x", 0, 1, attributes, status=status).encoded(NOON)
    span = from_bytes(one, Resource("shop", ()))
    assert span.may_have_failed is (status != 0)
    assert span.is_error is (status == 2)


def test_an_exception_is_looked_for_by_its_key_or_event() -> None:
    """A text that has the word is none."""

    def may_have_raised(name: str, **values: Any) -> bool:
        one = Planted(1, 0, "x", 0, 1, {}, [(0, name, values)]).encoded(NOON)
        return from_bytes(one, Resource("shop", ())).may_have_raised

    assert may_have_raised("failed", exception="ValueError: no")
    assert may_have_raised("exception")
    assert not may_have_raised("without an exception", text="no exception", exception_id=1)


def test_a_head_that_is_cut_is_no_span() -> None:
    """It is damaged, or another program's."""
    whole = Planted(1, 0, "xyz", 0, 1, flags=0).encoded(NOON)
    with pytest.raises(DecodeError):
        from_bytes(whole[:-12], Resource("shop", ()))


TEXT = st.text(alphabet="a0\x019AJ\n\x12\x18\x02z\u00e9\U0001f600", max_size=140)
VALUES = st.one_of(TEXT, st.booleans(), st.integers(-5, 1 << 40), st.floats(), st.none())


@given(
    name=TEXT,
    attributes=st.dictionaries(
        st.one_of(TEXT.filter(bool), st.just("budget_s")), VALUES, max_size=5
    ),
    lines=st.lists(TEXT, max_size=2),
    status=st.integers(0, 2),
    message=TEXT,
    parent=st.integers(0, 1),
)
@example("0x912345678A12345678", {}, [], 2, "z\x02\x18\x02", 1)  # as its times are encoded
@example("x", {"\n" * 10: "a" * 20}, [], 2, "m" * 14, 0)  # the length of a field as it begins
@settings(max_examples=200, deadline=None)
def test_the_quick_way_reads_what_protobuf_reads(
    name: str, attributes: dict[str, Any], lines: list[str], status: int, message: str, parent: int
) -> None:
    """Whatever is in a span, also text that looks like the bytes of another one's fields."""
    kind = len(name) % 6
    lines_, more = [line(0.5, text) for text in lines], {"kind": kind}
    planted = Planted(2, parent, name, 0, 1, attributes, lines_, (), status, message, **more)
    one = planted.encoded(NOON)
    (message_,) = ScopeSpans.FromString(one).spans
    span = from_bytes(one, Resource("chat", ()))
    assert (span.span_id, span.parent_span_id) == (
        message_.span_id.hex(),
        message_.parent_span_id.hex(),
    )
    assert (span.stored_name, span.start_ns, span.end_ns) == (
        message_.name,
        message_.start_time_unix_nano,
        message_.end_time_unix_nano,
    )
    assert span.kind == span.details.kind == OtlpSpan.SpanKind.Name(kind)[10:].lower()
    assert span.is_error is (message_.status.code == 2)
    for key in ("budget_s", *attributes):
        found = next((each for each in message_.attributes if each.key == key), None)
        plain = None if found is None else _otlp.value_of(found.value)
        assert span.get(key) == _runtime.current.redaction.field(key, plain)
