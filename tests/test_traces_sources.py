"""The local store and Jaeger, together and each alone."""

import socket
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from otel_logging.cli import main
from otel_logging.traces import local, sources
from otel_logging.traces.jaeger import JaegerError, UnknownServiceError
from otel_logging.traces.late import Question, late
from otel_logging.traces.sources import BOTH, JAEGER, LOCAL, Answered, Sources
from otel_logging.traces.span import Span
from otel_logging.traces.trace import by_trace
from tests.commands import Runner
from tests.conftest import NOWHERE
from tests.jaeger import FakeJaeger
from tests.rude import Rude
from tests.stored import MS, TRACE, Planted, store

OTHER = "b" * 32
ROOT, BELOW = Planted(1, 0, "message", -900, -1), Planted(2, 1, "answer", -800, -2)
ELSEWHERE = Planted(1, 0, "charge", -700, -600, trace=OTHER)


@pytest.fixture
def fake() -> Iterator[FakeJaeger]:
    with FakeJaeger() as running:
        yield running


@pytest.fixture
def both(tmp_path: Path, fake: FakeJaeger) -> Sources:
    """A trace of which one span is in both; and one that is in Jaeger alone."""
    origin = time.time_ns() // MS * MS
    store(tmp_path, ROOT, BELOW, origin=origin)
    fake.plant(ROOT, origin=origin)
    fake.plant(ELSEWHERE, origin=origin, service="billing")
    return Sources(BOTH, (tmp_path,), fake.url)


def only(which: str, asked: Sources) -> Sources:
    return Sources(which, asked.places, asked.jaeger_url)


def names(answered: Answered) -> list[str]:
    traces = by_trace(answered.spans).values()
    return sorted(span.name for trace in traces for span in trace.spans.values())


def test_a_span_that_is_in_both_is_there_once(both: Sources) -> None:
    """What each has alone is there too."""
    answered = both.late(Question())

    assert names(answered) == ["answer", "charge", "message"]
    assert late(answered.spans, Question()).looked_at == 2
    assert answered.origin == f"from the local store and Jaeger at {both.jaeger_url}"


def test_each_can_be_asked_alone(both: Sources) -> None:
    """The other is not even asked."""
    local, jaeger = only(LOCAL, both).late(Question()), only(JAEGER, both).late(Question())

    assert (names(local), local.origin) == (["answer", "message"], "from the local store")
    assert names(jaeger) == ["charge", "message"]
    assert jaeger.origin == f"from Jaeger at {both.jaeger_url}"


def test_a_link_leads_to_what_jaeger_has(both: Sources) -> None:
    """It is there for every span of a trace of which Jaeger has one, and for no other."""
    answered = both.late(Question())
    assert answered.link(TRACE, "0" * 15 + "2") == (
        f"{both.jaeger_url}/trace/{TRACE}?uiFind=0000000000000002"
    )
    assert answered.link("c" * 32, "0" * 15 + "1") is None
    assert only(LOCAL, both).late(Question()).link(TRACE, "0" * 15 + "1") is None


@pytest.mark.parametrize(
    ("prefix", "found"),
    [(TRACE, ["answer", "message"]), (TRACE[:6], ["answer", "charge", "message"])],
)
def test_a_trace_is_put_together_from_both(both: Sources, prefix: str, found: list[str]) -> None:
    """Of a whole id that trace alone; Jaeger knows no others, so of a part all it has."""
    assert names(both.trace(prefix)) == found


def test_the_last_one_is_looked_for_in_both(both: Sources, fake: FakeJaeger) -> None:
    """As far back as it takes to find one, of the service asked for."""
    far = Planted(1, 0, "refund", -7_200_000, -7_199_000, trace="d" * 32)
    fake.plant(far, origin=time.time_ns(), service="refunds")

    assert names(both.last(None)) == ["answer", "charge", "message"]
    assert names(both.last("refunds")) == ["answer", "charge", "message", "refund"]
    assert names(both.last("nobody")) == ["answer", "charge", "message", "refund"]


def test_a_jaeger_that_is_not_there_does_not_hide_the_local_store(both: Sources) -> None:
    """That it is not is said; asked for alone it is an error."""
    alone = Sources(BOTH, both.places, NOWHERE).late(Question())

    assert names(alone) == ["answer", "message"]
    assert alone.origin == f"from the local store; no Jaeger: nothing listens at {NOWHERE}"
    with pytest.raises(JaegerError, match="nothing listens"):
        Sources(JAEGER, both.places, NOWHERE).trace(TRACE)


def test_a_server_other_than_jaeger_has_no_traces(both: Sources, fake: FakeJaeger) -> None:
    """A 404 of some other server is not taken for a trace that is not there."""
    fake.instead = lambda _: (404, "text/plain", b"not found")

    assert "not Jaeger, or older than 2.13" in both.trace(TRACE).origin


def test_a_service_may_be_in_the_local_store_alone(both: Sources) -> None:
    """That is no error, unless Jaeger alone was asked."""
    answered = both.late(Question(service="shop"))

    assert answered.origin.endswith(
        f"Jaeger at {both.jaeger_url}, which has nothing of this service"
    )
    with pytest.raises(UnknownServiceError):
        only(JAEGER, both).late(Question(service="shop"))


def test_what_is_missing_is_reported(
    both: Sources, fake: FakeJaeger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beside which sources answered."""
    monkeypatch.setattr(sources.search, "MOST_TRACES", 1)
    origin = time.time_ns() // MS * MS
    for trace_id in ("c" * 32, "d" * 32):
        fake.plant(Planted(1, 0, "at once", -1, 0, trace=trace_id), origin=origin)

    assert both.late(Question()).origin.endswith(
        ", incomplete: Jaeger holds more of 'chat-gateway' than it gives at once "
        "(--since, --service, --who or --over ask for less)"
    )


def test_an_invalid_span_is_reported(both: Sources, fake: FakeJaeger) -> None:
    """All others are read."""
    good, bad = (fake.answer(f"/api/v3/traces/{t}", {})[2] for t in (TRACE, OTHER))
    bad = bad.replace(OTHER.encode(), b"x")
    fake.instead = lambda path: (200, "application/json", good + bad) if "/traces" in path else None

    answered = both.trace(TRACE)

    assert names(answered) == ["answer", "message"]
    assert answered.origin.endswith(", incomplete: 1 invalid span left out")


def test_jaeger_is_asked_while_the_local_store_is_read(
    both: Sources, fake: FakeJaeger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However long that takes: its first answer has as much time."""
    asked, read = threading.Event(), local.read

    def instead(_: str) -> None:
        asked.set()

    def slow_read(places: Iterable[Path], **options: bool) -> list[Span]:
        assert asked.wait(30)
        time.sleep(sources._HELLO_S)
        return read(places, **options)

    fake.instead = instead
    monkeypatch.setattr(local, "read", slow_read)
    assert names(both.late(Question())) == ["answer", "charge", "message"]


def test_a_jaeger_that_hangs_is_not_waited_for(
    both: Sources, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who asks it alone waits longer."""
    monkeypatch.setattr("otel_logging.traces.jaeger.HELLO_S", 60.0)

    def hang(server: Rude, _: socket.socket) -> None:
        server.stopping.wait()

    with Rude(hang) as server:
        url = f"http://127.0.0.1:{server.port}"
        began = time.monotonic()
        for answered in (
            Sources(BOTH, both.places, url).late(Question()),
            Sources(BOTH, both.places, url).trace(TRACE),
            Sources(BOTH, both.places, url).last(None),
        ):
            assert names(answered) == ["answer", "message"]
            assert answered.origin == (
                f"from the local store; no Jaeger: {url} does not answer in time"
                " (--source jaeger waits longer)"
            )
        assert time.monotonic() - began < 30  # [run: 1.5 s]


@pytest.mark.parametrize("begin", [b"", b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 200 OK\r\n\r\n{"])
def test_one_that_hangs_later_is_not_waited_for_either(
    both: Sources, fake: FakeJaeger, monkeypatch: pytest.MonkeyPatch, begin: bytes
) -> None:
    """It has said which services it has; then nothing, a head, or half of what it found."""
    monkeypatch.setattr(sources, "_BESIDE_S", (0.2, 30.0))
    services = fake.answer("/api/v3/services", {})[2]

    def hang(server: Rude, client: socket.socket) -> None:
        is_first = b"/services" in client.recv(1 << 16)
        client.sendall(b"HTTP/1.1 200 OK\r\n\r\n" + services if is_first else begin)
        if not is_first:
            server.stopping.wait()

    with Rude(hang) as server:
        url = f"http://127.0.0.1:{server.port}"
        began = time.monotonic()
        answered = Sources(BOTH, both.places, url).late(Question())
        assert time.monotonic() - began < 10  # [run: 0.3 s]
    assert names(answered) == ["answer", "message"]
    assert answered.origin.endswith(f"{url} does not answer in time (--source jaeger waits longer)")


@pytest.mark.parametrize(
    ("which", "is_empty", "seconds"),
    [(BOTH, False, [10.0, 3.0]), (BOTH, True, [15.0]), (JAEGER, False, [15.0])],
)
def test_beside_the_local_store_jaeger_has_less_time(
    both: Sources,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    which: str,
    is_empty: bool,
    seconds: list[float],
) -> None:
    """Whoever asks both has an answer already, unless that is empty."""
    given: list[float] = []

    def in_seconds(seconds: float) -> float:
        given.append(seconds)
        return time.monotonic() + 5

    monkeypatch.setattr("otel_logging.traces.jaeger.in_seconds", in_seconds)
    places = (tmp_path / "nothing",) if is_empty else both.places

    Sources(which, places, both.jaeger_url).trace(TRACE)

    assert given == [2.0, 60.0, *seconds]


# ---------------------------------------------------------------- a trace that goes on in Jaeger


@pytest.fixture
def halves(tmp_path: Path, fake: FakeJaeger, monkeypatch: pytest.MonkeyPatch) -> Sources:
    """Three charges of a failed order; whose it was, and that it was late, is known here alone."""
    origin = time.time_ns() // MS * MS
    values = {"user_id": "greta", "budget_s": 0.3, "http.route": "/order"}
    store(tmp_path, Planted(1, 0, "order", -900, -1, values, kind=3), origin=origin)
    charges = [
        Planted(2 + n, 1, "charge", -890 + n * 290, -600 + n * 290, status=2, message="refused")
        for n in range(3)
    ]
    fake.plant(*charges, origin=origin, service="billing")
    monkeypatch.setenv("OTEL_LOGGING_JAEGER_URL", fake.url)
    return Sources(BOTH, (tmp_path,), fake.url)


@pytest.mark.parametrize(
    "command",
    [
        *(f"show {which}" for which in (TRACE, TRACE[:8], "", "--last 2", "--who greta")),
        *("show --who greta --last 3 --json", "show --service chat-gateway", "late", "failed"),
        *("late --who greta", "late --service chat-gateway", "late --where http.route=/order"),
        *("late --over 0.5 --json", "late --since 5m", "late --group reason --since 5m"),
        *("late --who greta --summary", "failed --who greta", "failed --service chat-gateway"),
    ],
)
def test_a_trace_is_one_whatever_was_asked(halves: Sources, command: str) -> None:
    """Also where a search in Jaeger cannot find its half: by user, service or length."""
    done = Runner().invoke(main, [*command.split(), "--spool-dir", str(halves.places[0])])
    assert done.exit_code == 0, done.output
    assert "charge" in done.output
    assert f"from the local store and Jaeger at {halves.jaeger_url}" in done.output or (
        "· local store and Jaeger ·" in done.output
    )


def test_reported_rows_are_not_looked_for_again(halves: Sources, fake: FakeJaeger) -> None:
    """Who follows asks once a second."""
    _, told = halves.answer(Question(service="chat-gateway"), late)
    asked = [path for path, _ in fake.asked]
    assert asked[-1].endswith(TRACE)
    halves.answer(
        Question(service="chat-gateway", without=frozenset(map(told.name, told.every))), late
    )
    assert [path for path, _ in fake.asked] == [*asked, *asked[:-1]]


def test_of_very_many_traces_the_first_are_looked_for(
    halves: Sources, fake: FakeJaeger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That others were not is said; so is what Jaeger answers no more."""
    who = Question(who="greta")
    monkeypatch.setattr(sources, "_MOST_TRACES", 0)
    answered, _ = halves.answer(who, late)
    assert names(answered) == ["order"]
    assert answered.origin.endswith(
        ", incomplete: not looked for in Jaeger: 1 of the local store's traces"
    )
    monkeypatch.setattr(sources, "_MOST_TRACES", 9)
    answered = halves.late(who)
    assert answered.complete([TRACE])
    assert not answered.complete([TRACE])
    fake.instead = lambda path: (500, "text/plain", b"no") if path.endswith(TRACE) else None
    for question in (who, Question(service="chat-gateway")):
        answered = halves.late(question)
        answered.origin += ", incomplete: x" * (question is who)
        assert not answered.complete([OTHER, TRACE, OTHER])
        assert answered.origin.count("incomplete") == 1
        assert answered.origin.endswith("answers HTTP 500: no")
