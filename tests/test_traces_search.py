"""What Jaeger is asked: enough to answer as the local store would, and not all there is."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from otel_logging.traces import jaeger, search
from otel_logging.traces.jaeger import Jaeger, JaegerError, UnknownServiceError, UnreachableError
from otel_logging.traces.late import Question, late
from otel_logging.traces.search import Found
from tests.jaeger import FakeJaeger
from tests.rude import Rude
from tests.stored import MS, Planted, line, read_back

S = 1000  # ms
HOUR = 3600 * S


@pytest.fixture(params=["2.13", "2.19"])
def fake(request: pytest.FixtureRequest) -> Iterator[FakeJaeger]:
    with FakeJaeger(later=request.param == "2.19") as running:
        yield running


def now() -> int:
    return time.time_ns() // MS * MS


def read(fake: FakeJaeger, **question: Any) -> Found:
    return search.read(Jaeger(fake.url), Question(**question))


def traces(found: Found) -> set[str]:
    return {span.trace_id for span in found.spans}


def trace(n: int) -> str:
    return f"{n:032x}"


SOME = (
    Planted(1, 0, "message", -9000, -8000, {"user_id": "u", "room": "a", "budget_s": 0.5}),
    Planted(2, 1, "answer", -9000, -8100, {"n": 7, "ok": True, "ratio": 0.5, "tags": ["a"]}),
    Planted(1, 0, "message", -7000, -6900, {"user_id": "v", "budget_s": 0.5}, trace=trace(2)),
    Planted(2, 1, "for u", -7000, -6950, {"user_id": "u", "error": "yes"}, trace=trace(2)),
    Planted(1, 0, "job", -6000, -2000, {"room": "a", "n": "7"}, trace=trace(3)),
    Planted(1, 0, "quick", -1000, -999, {"budget_s": 0.5, "n": 7.0}, trace=trace(4)),
    Planted(1, 0, "process log", -900, -1, {}, [line(-800, "hi", user_id="u")], trace=trace(5)),
)


@pytest.mark.parametrize(
    "question",
    [
        {},
        {"over_s": 0.9},
        {"over_s": 0.05, "who": "u"},
        {"who": "v"},
        {"who": "nobody"},
        {"who": "u", "where": (("room", "a"),)},
        {"where": (("room", "a"),)},
        {"where": (("n", "7"),)},
        {"where": (("ok", "true"),)},
        {"where": (("ratio", "0.5"),)},
        {"where": (("budget_s", "0.5"),)},
        {"where": (("n", "7"), ("ok", "true"))},
        {"where": (("room", "a"), ("n", "7"))},
        {"where": (("error", "yes"),)},
        {"where": (("n", "7"), ("ratio", "0.5")), "over_s": 0.1},
        {"service": "chat-gateway"},
        {"service": "chat-gateway", "over_s": 0.05, "who": "u"},
    ],
)
def test_the_rows_are_those_of_the_local_store(
    fake: FakeJaeger, tmp_path: Path, question: dict[str, Any]
) -> None:
    """Whatever of the question Jaeger has answered itself."""
    origin = now()
    by_trace: dict[str, list[Planted]] = {}
    for planted in SOME:
        by_trace.setdefault(planted.trace, []).append(planted)
    for planted in by_trace.values():
        fake.plant(*planted, origin=origin)
    fake.plant(
        Planted(3, 1, "charge", -8900, -8800, {"card": "x"}), origin=origin, service="billing"
    )
    local = read_back(tmp_path / "a", *SOME, origin=origin)
    local += read_back(
        tmp_path / "b",
        Planted(3, 1, "charge", -8900, -8800, {"card": "x"}),
        origin=origin,
        service="billing",
    )

    here = late(local, Question(**question))
    there = late(read(fake, **question).spans, Question(**question))

    assert [row.as_json() for row in there.rows] == [row.as_json() for row in here.rows]
    assert there.judged == here.judged


@pytest.mark.parametrize(
    ("question", "found", "is_part"),
    [
        ({"over_s": 0.9}, {1, 3}, True),
        ({"over_s": 0.9, "service": "chat-gateway"}, {1, 3}, True),
        ({"who": "v"}, {2}, True),
        ({"who": "v", "over_s": 0.9}, {2}, True),
        ({"where": (("room", "a"),)}, {1, 3}, True),
        ({"where": (("ratio", "0.5"),)}, {1, 2, 3, 4, 5}, False),  # written differently there
    ],
)
def test_jaeger_selects_what_it_can(
    fake: FakeJaeger, question: dict[str, Any], found: set[int], is_part: bool
) -> None:
    """By one of who, attributes and duration: they need not be on one and the same span."""
    origin = now()
    for planted in SOME:
        number = 1 if planted.trace not in map(trace, range(9)) else int(planted.trace, 16)
        fake.plant(
            Planted(**{**vars_of(planted), "trace": trace(number)}),
            origin=origin,
        )

    answer = read(fake, **question)

    assert traces(answer) >= {trace(n) for n in found}
    # the newest trace of each service tells which attributes say on whose behalf
    told = {trace(5)} if "who" in question else set()
    assert traces(answer) - told == {trace(n) for n in found} - told
    assert (answer.is_part, answer.incomplete) == (is_part, "")


def vars_of(planted: Planted) -> dict[str, Any]:
    return {name: getattr(planted, name) for name in Planted.__dataclass_fields__}


def test_attributes_that_name_the_user_are_learned(fake: FakeJaeger) -> None:
    """From each service's newest trace."""
    origin = now()
    fake.plant(
        Planted(1, 0, "old", -HOUR, -HOUR + 9, {"account": "x"}),
        origin=origin,
        who=["account"],
    )
    fake.plant(
        Planted(1, 0, "new", -99, -9, {"tenant": "x"}, trace="a" * 32),
        origin=origin,
        who=["tenant"],
    )

    assert traces(read(fake, who="x")) == {"a" * 32}


def test_attributes_may_stand_on_a_span_of_another_service(fake: FakeJaeger) -> None:
    """The trace is found, though only one service is asked for."""
    origin = now()
    fake.plant(Planted(1, 0, "message", -900, -1), origin=origin)
    fake.plant(
        Planted(2, 1, "charge", -800, -700, {"user_id": "u"}), origin=origin, service="billing"
    )

    for question in ({"who": "u"}, {"where": (("user_id", "u"),)}):
        spans = read(fake, service="chat-gateway", **question).spans
        rows = late(spans, Question(service="chat-gateway", **question)).rows
        assert [row.span.name for row in rows] == ["message"]


@pytest.mark.parametrize(
    ("key", "wanted", "same"),
    [
        ("user_id", "user-456", True),
        ("user_id", "123e4567-e89b-12d3-a456-426614174000", True),
        ("user_id", "42af", True),
        ("n", "7", True),
        ("n", "-12", True),
        ("n", "0", True),
        ("late", "true", True),
        ("n", "7.0", False),
        ("n", "1e-07", False),
        ("n", "nan", False),
        ("n", "-inf", False),
        ("tags", "['a']", False),
        ("tags", "{'a': 1}", False),
        ("empty", "", False),
        ("long", "x" * 257, False),
        ("error", "true", False),
    ],
)
def test_jaeger_is_asked_for_attributes_that_it_writes_as_text_alike(
    key: str, wanted: str, same: bool
) -> None:
    """Floats and lists are formatted differently there; long values are not in its index."""
    assert search.finds_the_same(key, wanted) is same


# ---------------------------------------------------------------- since


def test_what_ended_since_then_is_found_however_long_it_took(fake: FakeJaeger) -> None:
    """Jaeger searches by the start alone."""
    origin = now()
    fake.plant(Planted(1, 0, "before", -HOUR, -HOUR + S), origin=origin)
    for n, (name, start, end) in enumerate(
        [
            ("within", -9 * S, 0),
            ("long", -HOUR, -S),
            ("across", -50 * S, -S),
            ("old", -HOUR, -61 * S),
        ]
    ):
        fake.plant(Planted(1, 0, name, start, end, trace=trace(n + 1)), origin=origin)
    since_ns = origin - 10 * S * MS

    for over_s in (None, 1.0):
        spans = read(fake, since_ns=since_ns, over_s=over_s).spans
        rows = late(spans, Question(since_ns=since_ns, over_s=over_s)).rows
        assert {row.span.name for row in rows} == {"within", "long", "across"}
        assert "before" not in {span.name for span in spans}


def test_without_it_the_last_day_is_looked_at(fake: FakeJaeger) -> None:
    """As long as the local store keeps what it holds."""
    fake.plant(Planted(1, 0, "yesterday", -23 * HOUR, -23 * HOUR + S), origin=now())
    fake.plant(Planted(1, 0, "ahead", S, 2 * S, trace=trace(1)), origin=now())
    fake.plant(Planted(1, 0, "long ago", -25 * HOUR, -25 * HOUR + S, trace=trace(2)), origin=now())

    assert {span.name for span in read(fake).spans} == {"yesterday", "ahead"}


def test_the_last_trace_is_looked_for_further_and_further_back(fake: FakeJaeger) -> None:
    """A minute, ten, and so on up to a day."""
    fake.plant(Planted(1, 0, "earlier", -HOUR, -HOUR + S), origin=now())
    old = Planted(1, 0, "old", -20 * HOUR, -20 * HOUR + S, trace=trace(1))
    fake.plant(old, origin=now(), service="jobs")

    assert {span.name for span in search.last(Jaeger(fake.url), None).spans} == {"earlier"}
    assert "old" in {span.name for span in search.last(Jaeger(fake.url), "jobs").spans}
    assert "old" in {span.name for span in search.last(Jaeger(fake.url), "nobody").spans}


# ---------------------------------------------------------------- many


def test_more_than_one_answer_holds_is_incomplete(
    fake: FakeJaeger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The newest are there, and which service has more; the other services are read whole."""
    monkeypatch.setattr(search, "MOST_TRACES", 7)
    origin = now()
    for n in range(20):
        fake.plant(Planted(1, 0, "m", n, n + 1, {"k": "x"}, trace=trace(n + 1)), origin=origin)
    for n in range(20, 26):
        fake.plant(Planted(1, 0, "m", n, n + 1, trace=trace(n + 1)), origin=origin, service="zoo")

    found = read(fake)

    assert traces(found) == {trace(n + 1) for n in range(13, 26)}
    assert found.incomplete == (
        "Jaeger holds more of 'chat-gateway' than it gives at once "
        "(--since, --service, --who or --over ask for less)"
    )
    tagged = read(fake, where=(("k", "x"),))
    assert len(traces(tagged)) == 7
    assert "'chat-gateway'" in tagged.incomplete


@pytest.mark.parametrize(("most_bytes", "number"), [(20_000, 5), (2_000, 0)])
def test_an_answer_that_is_too_large_is_incomplete(
    fake: FakeJaeger, monkeypatch: pytest.MonkeyPatch, most_bytes: int, number: int
) -> None:
    """A tenth of the traces is asked for instead; if that is too large as well, there are none."""
    monkeypatch.setattr(search, "MOST_TRACES", 50)
    monkeypatch.setattr("otel_logging.traces.jaeger.REPLY_BYTES", most_bytes)
    origin = now()
    for n in range(49):
        fake.plant(Planted(1, 0, "m" * 500, n, n + 1, trace=trace(n + 1)), origin=origin)
    fake.plant(Planted(1, 0, "m", -S, 0), origin=origin, service="zoo")

    found = read(fake)

    services = [span.resource.service for span in found.spans]
    assert services == ["chat-gateway"] * number + ["zoo"]
    assert found.incomplete.startswith("Jaeger holds more of 'chat-gateway' than it gives at once")


def test_a_jaeger_that_refuses_to_give_so_many_is_an_error(fake: FakeJaeger) -> None:
    """Its memory storage may be set to hold fewer; it says so itself."""
    fake.most_traces = 20
    fake.plant(Planted(1, 0, "m", -S, 0), origin=now())

    with pytest.raises(JaegerError, match=r"HTTP 500: .*search depth must be"):
        read(fake)


# ---------------------------------------------------------------- errors


def test_a_service_that_it_does_not_have_is_reported(fake: FakeJaeger) -> None:
    """With those that it has."""
    with pytest.raises(UnknownServiceError, match="no service 'shop'; it has: none"):
        read(fake, service="shop")
    fake.plant(Planted(1, 0, "m", -S, 0), origin=now())
    with pytest.raises(UnknownServiceError, match=r"no service 'shop'; it has: 'chat-gateway'$"):
        read(fake, service="shop")
    for n in range(12):
        fake.plant(Planted(1, 0, "m", -S, 0), origin=now(), service=f"\x1b{n:02}")
    with pytest.raises(UnknownServiceError, match=r"'\\x1b00', '\\x1b01', .*, and 3 more$"):
        read(fake, service="shop")


def test_what_was_read_before_it_went_silent_is_kept(
    fake: FakeJaeger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And said to be incomplete; nothing at all is an error."""
    monkeypatch.setattr(jaeger, "ANSWER_S", 0.2)
    silent = Rude(lambda rude, _: rude.stopping.wait())
    fake.plant(Planted(1, 0, "m", -S, 0), origin=now(), service="a")
    fake.plant(Planted(2, 1, "m", -S, 0), origin=now(), service="b")
    asked = Jaeger(fake.url)
    original = asked.search
    good, silent_from = asked._client._port, "b"

    def failing(service: str, *arguments: Any, **options: Any) -> Any:
        asked._client._port = silent.port if service >= silent_from else good
        return original(service, *arguments, **options)

    monkeypatch.setattr(asked, "search", failing)
    with silent:
        found = search.read(asked, Question())
        assert len(found.spans) == 2
        assert "does not answer in time" in found.incomplete
        asked._client._port, silent_from = good, "a"
        with pytest.raises(UnreachableError):
            search.read(asked, Question())
