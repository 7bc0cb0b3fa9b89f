"""What waits reaches the collector: everything, once, in time, whatever the collector does."""

import _socket
import errno
import itertools
import os
import queue
import signal
import socket
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from subprocess import PIPE, Popen
from typing import Any, Self

import pytest
from opentelemetry import context as otel_context
from opentelemetry import trace

from otel_logging import _diagnostics, _otlp
from otel_logging.assembly import make_client
from otel_logging.export import sender
from otel_logging.export.delivery import Delivery
from otel_logging.export.ids import encode_resource, make_resource
from otel_logging.export.pipeline import Pipeline
from otel_logging.settings import load
from otel_logging.spool import directories, reading
from otel_logging.spool import queue as spool_queue
from tests import programs, rude
from tests.programs import end, python
from tests.receiver import Answer, Receiver, Request, accept, partial_success, refuse
from tests.rude import Rude
from tests.spools import ROOT, encoded, trace_id

SCOPE = _otlp.scope("shop")
REFUSED = sender.REFUSED.format("spans")
NOT_DELIVERED = sender.NOT_DELIVERED.format("spans")


class Shop:
    """The trace half of a set-up, whose spans are numbers. Leaving it closes it, in a second."""

    def __init__(
        self, base: Path, endpoint: str | None, *, works: bool = True, timeout_s: float = 10
    ) -> None:
        settings = load("shop", environment="production", endpoint=endpoint, spool_dir=base)
        exporter = settings.exporter
        resource = make_resource(settings)
        self.spool = spool_queue.Spool(
            base,
            directories.destination("shop", "one destination", exporter.protocol),
            encode_resource(resource),
            bytes_bound=settings.spool_bytes,
            hours=settings.spool_hours,
        )
        client = None if endpoint is None else make_client(exporter)
        self.pipeline = Pipeline(settings, resource, self.spool)
        self.delivery = Delivery(self.spool, client, timeout_s=timeout_s)
        self.delivery.before_round = lambda _: self.pipeline.roll(True)
        self.began = time.monotonic()
        if works:
            self.work()

    def work(self) -> None:
        self.spool.on_work = self.delivery.wake
        self.delivery.wake()

    def end(self, *numbers: int, scope: bytes = SCOPE, size: int = 0) -> None:
        for number in numbers:
            self.pipeline.append(scope, trace_id(number), encoded(number, size))

    def end_segments(self, *numbers: int) -> None:
        """End spans each in a segment of its own."""
        for number in numbers:
            self.end(number)
            self.spool.seal()

    def flush(self, timeout_s: float = 10) -> bool:
        return self.delivery.flush(timeout_s)

    def close(self, timeout_s: float = 5) -> bool:
        done = self.delivery.stop(timeout_s)
        self.spool.close()
        return done

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close(1)


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return tmp_path / "spool"


def came(receiver: Receiver) -> list[int]:
    """Return the numbers of the spans that were accepted, in order of arrival."""
    return [int(span.trace_id, 16) for span in receiver.spans]


def numbers_of(request: Request) -> list[int]:
    return [int(span.trace_id, 16) for span in request.spans]


def in_turn(*answers: Callable[[Request], Answer]) -> Callable[[Request], Answer]:
    """Give each answer once, in turn, and accept from then on."""
    left = list(answers)
    return lambda request: (left.pop(0) if left else accept)(request)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])


# ---------------------------------------------------------------- the worker


def test_what_ends_is_delivered_and_then_kept(receiver: Receiver, base: Path) -> None:
    """Nobody asks for it; the spans of a half second come together."""
    with Shop(base, receiver.endpoint) as shop:
        shop.end(*range(1, 101))
        receiver.wait_for(lambda r: len(r.spans) == 100, 5)
        assert len(receiver.requests) <= 2
        assert came(receiver) == list(range(1, 101))
        assert shop.flush()
        assert shop.delivery.sender.delivered_segments == len(receiver.requests)
        (sent,) = base.glob("*/sent")
        assert len(list(sent.iterdir())) <= len(receiver.requests)


def test_delivered_segments_are_in_few_files(receiver: Receiver, base: Path) -> None:
    """All of it is there still."""
    with Shop(base, receiver.endpoint) as shop:
        shop.end_segments(*range(100))
        assert shop.flush()
    assert len(list(base.glob("*/sent/*"))) <= 2  # of ten minutes each
    kept = [int.from_bytes(trace, "big") for c in reading.read(base) for trace, _ in c.spans]
    assert sorted(kept) == list(range(100))


def test_a_segment_opened_beside_another_waits_no_longer(receiver: Receiver, base: Path) -> None:
    """Each scope has a segment: the second's first span comes within the time of the first's."""
    with Shop(base, receiver.endpoint) as shop:
        shop.end(1)
        shop.end(2, scope=_otlp.scope("another"))
        receiver.wait_for(lambda r: len(r.spans) == 2, sender.ROUND_S * 0.6)


def test_lines_outside_any_span_come_with_a_flush(receiver: Receiver, base: Path) -> None:
    """The process log is ended for it."""
    with Shop(base, receiver.endpoint) as shop:
        shop.pipeline.line_sink(trace.INVALID_SPAN, time.time_ns(), "hello", {})
        assert shop.flush()
        assert [event.name for _, event in receiver.events] == ["hello"]


def test_newest_and_oldest_come_in_turn(receiver: Receiver, base: Path) -> None:
    """After an outage, now matters as much as then."""
    with Shop(base, receiver.endpoint, works=False) as shop:
        shop.end_segments(1, 2, 3, 4, 5)
        shop.work()
        assert shop.flush()
    assert came(receiver) == [5, 1, 4, 2, 3]


def test_a_long_queue_does_not_hold_up_what_ends_now(receiver: Receiver, base: Path) -> None:
    """The queue is looked at anew while it is worked off, and a flush ends all the same."""
    numbers = itertools.count(100)
    never = threading.Event()

    def slow(request: Request) -> Answer:
        shop.end(next(numbers))  # load that never ends
        never.wait(0.05)
        return accept(request)

    receiver.answer = slow
    with Shop(base, receiver.endpoint, works=False) as shop:
        shop.end_segments(*range(1, 21))
        shop.work()
        assert shop.flush(20)
        order = came(receiver)
        receiver.answer = accept
    assert set(range(1, 21)) <= set(order)
    assert order.index(100) < 15
    assert max(Counter(came(receiver)).values()) == 1


def test_an_error_in_the_worker_is_not_its_end(
    receiver: Receiver, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is said, and tried again after a pause."""
    with Shop(base, receiver.endpoint, works=False) as shop:

        def fail(**_: object) -> None:
            raise RuntimeError("planted")

        with monkeypatch.context() as planted:
            planted.setattr(shop.spool, "seal", fail)
            shop.work()
            shop.end(1)
            assert not shop.flush(1)
            assert 1 <= _diagnostics.counts["errors of the delivery thread"] <= 10
        assert shop.flush()
    assert came(receiver) == [1]


def test_without_a_network_segments_fill_longer(base: Path) -> None:
    """Nothing is to be sent: few files rather than one for each message, and all are read."""
    with Shop(base, None) as shop:
        shop.work()
        for number in range(5):
            shop.end(number)
            assert shop.flush()
        assert len(reading.segments(base)) == 1
        kept = [int.from_bytes(trace, "big") for c in reading.read(base) for trace, _ in c.spans]
        assert kept == list(range(5))


def test_without_a_network_spans_wait_in_the_spool(base: Path) -> None:
    """A flush has nothing to wait for; what waits is readable."""
    with Shop(base, None) as shop:
        shop.end(1)
        assert shop.flush()
        assert shop.close()
    (kept,) = reading.read(base)
    assert [trace for trace, _ in kept.spans] == [trace_id(1)]


# ---------------------------------------------------------------- what a collector answers


def test_a_poisoned_span_is_lost_alone(receiver: Receiver, base: Path) -> None:
    """It is looked for by halves, in few requests, wherever it stands; and counted."""
    poisoned = {1, 500, 501, 1000}
    receiver.answer = lambda request: (
        refuse(400)(request) if poisoned & {*numbers_of(request)} else accept(request)
    )
    with Shop(base, receiver.endpoint) as shop:
        shop.end(*range(1, 1001))
        assert shop.flush()
        assert _diagnostics.counts[REFUSED] == len(poisoned)
    assert sorted(came(receiver)) == [n for n in range(1, 1001) if n not in poisoned]
    assert len(receiver.requests) < 100


def test_a_server_that_refuses_everything_gets_nothing_lost(receiver: Receiver, base: Path) -> None:
    """Until it has taken something, its refusal may be a mistake of the set-up (plain HTTP to
    a TLS port is a 400): the spans wait, and are not torn into a request each.
    """
    receiver.answer = refuse(400)
    with Shop(base, receiver.endpoint) as shop:
        shop.end(*range(1, 1001))
        while not shop.delivery.sender.last_failure:
            assert not shop.flush(0.5)
        assert len(receiver.requests) < 50
        assert not _diagnostics.counts  # not yet: it may be the first spans that are bad
        assert "HTTP 400" in shop.delivery.sender.last_failure
        receiver.answer = accept
        assert shop.flush()
        assert not shop.delivery.sender.last_failure
    assert sorted(came(receiver)) == list(range(1, 1001))


PAGE = {"Content-Type": "text/html"}
REFUSALS: list[tuple[Callable[[Request], Answer], str, str]] = [
    (refuse(401), "the collector does not let us in (HTTP 401", "OTEL_EXPORTER_OTLP_HEADERS"),
    (refuse(404), "there is no OTLP at {endpoint}/v1/traces (HTTP 404", "correct the path"),
    (refuse(302, location="/in"), "what it is sent (HTTP 302 Found to {endpoint}/in", "where it"),
    (lambda _: (200, PAGE, b"<html>"), "no OTLP at {endpoint}/v1/traces (HTTP 200 with a", "path"),
    (lambda _: (404, PAGE, b"<html>"), "no OTLP at {endpoint}/v1/traces (HTTP 404 Not", "path"),
]


@pytest.mark.parametrize(("answer", "said", "to_do"), REFUSALS)
def test_a_collector_that_says_no_is_reported(
    receiver: Receiver,
    base: Path,
    answer: Callable[[Request], Answer],
    said: str,
    to_do: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """At once and then once a minute, with what mends it; when it is mended all is delivered."""
    monkeypatch.setattr(sender, "_FLUSH_PAUSE_S", 0.02)
    receiver.answer = answer
    with Shop(base, receiver.endpoint) as shop:
        shop.end(1)
        while len(receiver.requests) < 3:
            assert not shop.flush(0.1)
        (line,) = capsys.readouterr().err.splitlines()
        start = f"otel_logging: 1 {NOT_DELIVERED}: "
        assert line.startswith(start)
        assert said.format(endpoint=receiver.endpoint) in line
        assert to_do in line
        assert shop.delivery.sender.last_failure == line.removeprefix(start)
        (kind,) = _diagnostics.counts
        before = _diagnostics.counts[kind]
        assert before > 1
        monkeypatch.setattr(_diagnostics, "_quiet_s", 0)  # the minute is over
        assert not shop.flush(0.2)
        again = capsys.readouterr().err.splitlines()
        due = f" {NOT_DELIVERED}: "  # by the worker's round, or with the next one that fails
        assert again[0].startswith(tuple(f"otel_logging: {n}{due}" for n in (before - 1, before)))
        receiver.answer = accept
        assert shop.flush()
        assert not shop.delivery.sender.last_failure
    assert numbers_of(receiver.requests[-1]) == [1]
    for line in capsys.readouterr().err.splitlines():  # a round before the answer was changed
        assert due in line


def test_a_mistake_is_reported_while_the_collector_wants_not_to_be_asked(
    receiver: Receiver,
    base: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Once a minute, and it is asked no more often for that; but once more at the end, at once."""
    monkeypatch.setattr(_diagnostics, "QUIET_S", 0.2)  # the minute
    monkeypatch.setattr(_diagnostics, "_quiet_s", 0.2)
    monkeypatch.setattr(sender, "ROUND_S", 0.1)
    receiver.answer = refuse(401, retry_after="300")
    with Shop(base, receiver.endpoint) as shop:
        shop.end(1)
        err, until = "", time.monotonic() + 10
        while err.count("the collector does not let us in") < 3 and time.monotonic() < until:
            assert not shop.flush(0.2)
            err += capsys.readouterr().err
        assert err.count("does not let us in (HTTP 401") >= 3
        assert len(receiver.requests) == 1
        began = time.monotonic()
        assert not shop.close()
        assert time.monotonic() - began < 0.9
        assert len(receiver.requests) == 2


def test_a_collector_that_is_only_away_is_not_reported(
    receiver: Receiver, base: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A restart or too much work: the spans wait, and nothing has to be done."""
    receiver.answer = in_turn(
        refuse(503), refuse(429), lambda _: (502, PAGE, b"<html>"), lambda _: None
    )
    with Shop(base, receiver.endpoint) as shop:
        shop.end(1)
        assert shop.flush()
    with Shop(base / "other", f"http://127.0.0.1:{free_port()}") as shop:
        shop.end(1)
        assert not shop.flush(0.5)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("status", [500, 429])
def test_a_collector_that_says_no_for_a_minute_is_reported(
    receiver: Receiver,
    base: Path,
    status: int,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """That is no restart any more. Then ``repr`` says the same, and the end makes one try; it
    begins anew with what is taken.
    """
    monkeypatch.setattr(sender, "LASTS_S", 0.3)  # the minute
    receiver.answer = in_turn(refuse(status), accept, *[refuse(status)] * 99)
    with Shop(base, receiver.endpoint) as shop:
        shop.end(1)
        assert shop.flush()
        shop.end(2)
        assert not shop.flush(0.1)
        assert capsys.readouterr().err == ""
        assert not shop.flush(0.6)
        (line,) = capsys.readouterr().err.splitlines()
        start = f"otel_logging: 1 {NOT_DELIVERED}: "
        assert line.startswith(f"{start}the collector takes none of the spans (HTTP {status}")
        assert shop.delivery.sender.last_failure == line.removeprefix(start)
        asked = len(receiver.requests)
        assert not shop.close()
        assert len(receiver.requests) == asked + 1


@pytest.mark.parametrize("is_known", [True, False])
def test_a_collector_that_has_taken_nothing_by_the_end_is_reported(
    receiver: Receiver, base: Path, is_known: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    """A short job never sees a minute of it. A service that ends in its restart says nothing."""
    receiver.answer = in_turn(*[accept] * is_known, *[refuse(503)] * 99)
    with Shop(base, receiver.endpoint) as shop:
        shop.end(1)
        assert shop.flush(0.3) is is_known
        shop.end(2)
        assert not shop.delivery.stop(0.3)
    said = f"otel_logging: 1 {NOT_DELIVERED}: the collector takes none of the spans (HTTP 503"
    assert capsys.readouterr().err.startswith(said) is not is_known


@pytest.mark.parametrize("lasting", [True, False])
def test_one_that_takes_nothing_at_all_is_reported_when_that_lasts(
    receiver: Receiver,
    base: Path,
    lasting: bool,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As a port for TLS: once the pauses are at their longest, or at the end."""
    monkeypatch.setattr(sender, "_LONGEST_PAUSE_S", 0.5 if lasting else 1000)
    receiver.answer = lambda _: (400, {}, b"Client sent an HTTP request to an HTTPS server.")
    with Shop(base, receiver.endpoint) as shop:
        shop.end(1)
        assert not shop.flush(0.6)
        assert bool(capsys.readouterr().err) == lasting
    _diagnostics.say_rest()
    err = capsys.readouterr().err
    assert f"{NOT_DELIVERED}: TLS is expected at {receiver.endpoint}" in err
    assert lasting or "HTTP request to an HTTPS server.; write https:// in OTEL" in err


@pytest.mark.parametrize(
    "cut",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n\x0a",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n",
        b"HTTP/1.1 200 OK\r\nContent-",
    ],
)
def test_a_segment_whose_answer_is_cut_off_is_sent_again(base: Path, cut: bytes) -> None:
    """Until one is whole; then it is delivered, and not sent any more."""
    answers = [cut, cut, rude.OK]

    def behave(collector: Rude, connection: socket.socket) -> None:
        rude.read_request(connection)
        connection.sendall(answers.pop(0))

    with Rude(behave) as collector, Shop(base, collector.endpoint) as shop:
        shop.end(1)
        assert shop.flush()
        assert shop.flush()
        assert (collector.connections, shop.delivery.sender.delivered_segments) == (3, 1)


def test_an_answer_truncated_by_the_deadline_delivers_nothing(base: Path) -> None:
    """The collector may have stored nothing."""
    with Rude(rude.drip_body) as collector:
        with Shop(base, collector.endpoint, timeout_s=0.3) as shop:
            shop.end(1)
            assert not shop.flush(1)
            assert shop.delivery.sender.delivered_segments == 0
            assert "the answer was cut off" in shop.delivery.sender.last_failure
        assert collector.connections > 1
    assert len(list(reading.read(base))) == 1


def test_what_is_too_large_comes_in_halves(receiver: Receiver, base: Path) -> None:
    """And a span that is too large alone is lost, and counted."""
    receiver.answer = lambda request: (
        refuse(413)(request) if len(request.body) > 10_000 else accept(request)
    )
    with Shop(base, receiver.endpoint) as shop:
        shop.end(*range(1, 101), size=500)
        shop.end(101, size=20_000)
        assert shop.flush()
        assert _diagnostics.counts[REFUSED] == 1
    assert sorted(came(receiver)) == list(range(1, 101))


def test_a_failure_in_the_middle_sends_no_span_twice(receiver: Receiver, base: Path) -> None:
    """How far a split segment came is remembered."""
    receiver.answer = in_turn(refuse(413), accept, refuse(503), refuse(413), accept, lambda _: None)
    with Shop(base, receiver.endpoint) as shop:
        shop.end(*range(1, 9))
        assert shop.flush()
        assert shop.delivery.sender.delivered_segments == 1
    assert sorted(came(receiver)) == list(range(1, 9))


def test_spans_of_a_partial_success_are_counted(receiver: Receiver, base: Path) -> None:
    """Never more than were sent; a warning without rejected spans is said, too."""
    receiver.answer = in_turn(
        partial_success(2, "no room"), partial_success(1000), partial_success(0, "old version")
    )
    with Shop(base, receiver.endpoint) as shop:
        for number in (1, 11, 21):
            shop.end(*range(number, number + 10))
            assert shop.flush()
        assert _diagnostics.counts == {REFUSED: 12, "warnings of the collector": 1}
    assert len(receiver.requests) == 3


def test_a_segment_that_fails_holds_up_no_other(receiver: Receiver, base: Path) -> None:
    """It comes last, from then on."""
    receiver.answer = lambda request: (
        refuse(500)(request) if 1 in numbers_of(request) else accept(request)
    )
    with Shop(base, receiver.endpoint, works=False) as shop:
        shop.end_segments(1, 2, 3, 4)
        shop.work()
        assert not shop.flush(1)
        assert sorted(came(receiver)) == [2, 3, 4]
        receiver.answer = accept
        assert shop.flush()
    assert sorted(came(receiver)) == [1, 2, 3, 4]


def test_damaged_segments_are_counted_once(receiver: Receiver, base: Path) -> None:
    """What is whole in them is delivered; an empty one is no request."""
    with Shop(base, receiver.endpoint, works=False) as shop:
        for number in range(1, 13, 3):
            shop.end(number, number + 1, number + 2)
            shop.spool.seal()
        first, second, third, _ = (segment.path for segment in shop.spool.waiting())
        assert first is not None
        assert second is not None
        assert third is not None
        first.write_bytes(b"no segment")
        data = bytearray(second.read_bytes())
        data[-len(encoded(6)) - len(encoded(5)) - 24] ^= 1  # in the frame of 5
        second.write_bytes(data)
        head = third.read_bytes()
        third.write_bytes(head[: head.index(trace_id(7)) - 8])
        receiver.answer = in_turn(refuse(503), refuse(503), refuse(503))
        shop.work()
        assert shop.flush()
        # of an unreadable one nobody knows how many; a frame's check; an end that was cut off
        assert _diagnostics.counts[spool_queue.DAMAGED.format("spans")] == 3
    assert sorted(came(receiver)) == [4, 6, 10, 11, 12]
    assert all(request.spans for request in receiver.requests)


def test_a_segment_that_cannot_be_read_for_now_is_delivered_later(
    receiver: Receiver, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a descriptor to be had nothing is taken for damaged, and nothing is lost."""
    read = reading.content
    failures = iter((errno.EMFILE, errno.ENFILE))

    def content(path: Path) -> bytes:
        for number in failures:
            raise OSError(number, "too many open files")
        return read(path)

    monkeypatch.setattr(reading, "content", content)
    with Shop(base, receiver.endpoint, works=False) as shop:
        shop.end_segments(1, 2)
        shop.work()
        assert shop.flush()
    assert sorted(came(receiver)) == [1, 2]
    assert _diagnostics.counts == {}


@pytest.mark.parametrize(
    "error", [PermissionError("not allowed"), ValueError("a library's")], ids=["disk", "library"]
)
def test_a_segment_that_cannot_be_read_is_neither_damaged_nor_delivered(
    receiver: Receiver, base: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """It waits and is reported, holds up no other, and is delivered when it can be read."""
    read = reading.content
    unreadable: list[Path] = []

    def content(path: Path) -> bytes:
        if path in unreadable:
            raise error
        return read(path)

    monkeypatch.setattr(reading, "content", content)
    monkeypatch.setattr(sender, "ROUND_S", 0.1)
    with Shop(base, receiver.endpoint, works=False) as shop:
        shop.end_segments(1, 2, 3)
        unreadable += [segment.path for segment in shop.spool.waiting()[:1] if segment.path]
        shop.work()
        assert not shop.flush(0.2)
        shop.end(4)
        receiver.wait_for(lambda r: len(r.spans) == 3, 10)
        assert not shop.flush(0.2)
        assert shop.spool.backlog() == 1
        assert shop.delivery.sender.last_failure.endswith(str(error))
        unreadable.clear()
        assert shop.flush()
    assert sorted(came(receiver)) == [1, 2, 3, 4]
    assert set(_diagnostics.counts) == {sender.UNREADABLE}


def test_a_directory_that_cannot_be_read_is_not_empty(
    receiver: Receiver, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A flush that sees nothing for want of a descriptor has delivered nothing."""

    def listdir(path: Path) -> Any:
        raise OSError(errno.EMFILE, "too many open files")

    with Shop(base, receiver.endpoint, works=False) as shop:
        shop.end_segments(1)
        with monkeypatch.context() as patched:
            patched.setattr(os, "listdir", listdir)
            shop.work()
            assert not shop.flush(0.5)
            assert shop.spool.backlog() == 0  # as far as can be known
        assert shop.flush()
    assert came(receiver) == [1]
    assert _diagnostics.counts == {}


def test_in_an_outage_segments_fill_longer(base: Path) -> None:
    """Some large files rather than many small; after the first answer it is as before."""
    with Receiver() as gone:
        port, endpoint = gone.port, gone.endpoint
    with Shop(base, endpoint) as shop:
        shop.end(1)
        assert not shop.flush(1)
        assert shop.spool.seal_after_s > spool_queue.SEAL_S
        with Receiver(port) as receiver:
            assert shop.flush()
            assert came(receiver) == [1]
        assert shop.spool.seal_after_s == spool_queue.SEAL_S


@pytest.mark.alone
def test_what_a_stall_put_into_memory_is_on_disk_at_once(base: Path) -> None:
    """A kill would take it: the worker does not wait for company then."""
    with Shop(base, None) as shop:
        shop.spool._stalled = True
        began = time.monotonic()
        shop.end(1)
        while not reading.segments(base) or shop.spool.is_stalled:
            assert time.monotonic() - began < spool_queue.SEAL_S * 0.8


# ---------------------------------------------------------------- when to try again


@pytest.mark.alone
def test_a_dead_collector_is_not_hammered(base: Path) -> None:
    """Pauses grow, however much ends meanwhile."""
    with Rude(rude.hang_up) as dead, Shop(base, dead.endpoint) as shop:
        until = time.monotonic() + 1.7
        for number in itertools.count(1):
            shop.end_segments(number)
            if dead.stopping.wait(0.02) or time.monotonic() > until:
                break
        assert 2 <= dead.connections <= 4  # at 0, after 0.25 to 0.5 s, another 0.5 to 1, 1 to 2


def test_retry_after_is_obeyed_also_while_somebody_waits(receiver: Receiver, base: Path) -> None:
    """A collector that says when is not asked before."""
    asked_at: list[float] = []

    def answer(request: Request) -> Answer:
        asked_at.append(time.monotonic())
        return (refuse(429, retry_after="1") if len(asked_at) == 1 else accept)(request)

    receiver.answer = answer
    with Shop(base, receiver.endpoint) as shop:
        shop.end(1)
        assert shop.flush(5)
    first, second = asked_at
    assert 1 <= second - first < 3


def test_retry_after_is_obeyed_within_reason(
    receiver: Receiver, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A collector that asks for a year is asked again all the same."""
    monkeypatch.setattr(sender, "_LONGEST_RETRY_AFTER_S", 0.3)
    receiver.answer = in_turn(refuse(503, retry_after="31536000"))
    with Shop(base, receiver.endpoint) as shop:
        shop.end(1)
        receiver.wait_for(lambda r: r.spans)


def test_while_somebody_waits_tries_follow_at_once(receiver: Receiver, base: Path) -> None:
    """Not after the pauses that have grown until then."""
    failing = threading.Event()

    def answer(request: Request) -> Answer:
        failing.set()
        return (refuse(503) if len(receiver.requests) <= 4 else accept)(request)

    receiver.answer = answer
    with Shop(base, receiver.endpoint) as shop:
        shop.end(1)
        assert failing.wait(5)
        began = time.monotonic()
        assert shop.flush()
        assert time.monotonic() - began < 2


def test_a_collector_that_comes_up_later_gets_everything_once(base: Path) -> None:
    """What waited here, what ended meanwhile, and what an earlier process left."""
    port = free_port()
    endpoint = f"http://127.0.0.1:{port}"
    earlier = """
import os, sys
from pathlib import Path
from tests.test_delivery import Shop
shop = Shop(Path(sys.argv[1]), sys.argv[2])
shop.end(*range(1, 11))
os.kill(os.getpid(), 9)
"""
    assert python("-c", earlier, base, endpoint).returncode == -9
    with Shop(base, endpoint) as shop:
        shop.end(*range(11, 21))
        assert not shop.flush(0.5)
        assert not shop.delivery.sender.answered
        with Receiver(port) as receiver:
            shop.end(*range(21, 31))
            receiver.wait_for(lambda r: len(r.spans) >= 30, 15)
            assert shop.flush()
            assert shop.delivery.sender.answered
            assert sorted(came(receiver)) == list(range(1, 31))
    assert len(reading.segments(base)) == len(list(base.glob("*/sent/*")))


# ---------------------------------------------------------------- waiting for it


def test_a_flush_from_any_thread_means_it_is_there(receiver: Receiver, base: Path) -> None:
    """True is said only when everything that had ended before is at the collector."""
    with Shop(base, receiver.endpoint) as shop:
        missing: list[set[int]] = []

        def work(first: int) -> None:
            for number in range(first, first + 20):
                shop.end(number)
                done = shop.flush()
                missing.append(set() if done and number in came(receiver) else {number})

        threads = [threading.Thread(target=work, args=(first,)) for first in range(1, 161, 20)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert set().union(*missing) == set()
        assert len(missing) == 160
    assert sorted(came(receiver)) == list(range(1, 161))


@pytest.mark.alone
@pytest.mark.parametrize("behave", [rude.say_nothing, rude.drip_head, rude.hang_up, None])
def test_a_flush_that_cannot_be_ends_in_time(
    behave: Callable[[Rude, socket.socket], None] | None, base: Path
) -> None:
    """False, and nothing is lost."""
    with Rude(behave or rude.hang_up) as collector:
        if behave is None:
            collector.stop()
        with Shop(base, collector.endpoint) as shop:
            shop.end(1)
            began = time.monotonic()
            assert not shop.flush(0.4)
            assert 0.35 < time.monotonic() - began < 2
            assert not shop.flush(0)
            assert not shop.flush(-1)
            assert not shop.delivery.stop(0.1)
    assert len(list(reading.read(base))) == 1


def test_no_wait_is_too_long(receiver: Receiver, base: Path) -> None:
    """Infinity is a time-out, too; what is no number is none."""
    with Shop(base, receiver.endpoint) as shop:
        shop.end(1)
        assert shop.flush(float("inf"))
        assert came(receiver) == [1]
        shop.end(2)
        receiver.answer = refuse(503)
        assert not shop.flush(float("nan"))
        receiver.answer = accept
        assert shop.delivery.stop(float("inf"))


def test_a_stop_leaves_no_thread_and_no_request(base: Path) -> None:
    """Also in the middle of one, with a collector that never answers."""
    with Rude(rude.say_nothing) as collector:
        shop = Shop(base, collector.endpoint, timeout_s=30)
        shop.end(1)
        collector.wait_for_connections(1)
        began = time.monotonic()
        assert not shop.close()
        assert time.monotonic() - began < 3
        assert not [t for t in threading.enumerate() if t.name == "otel_logging delivery"]


def test_a_stop_waits_for_a_collector_that_is_there(receiver: Receiver, base: Path) -> None:
    """Up to its time-out where it has answered before, also when it does so just now."""
    receiver.answer = in_turn(refuse(503))
    with Shop(base, receiver.endpoint, works=False) as shop:
        shop.end(1)
        assert shop.close()
    assert came(receiver) == [1]


def test_a_stop_gives_an_unknown_collector_one_short_try(base: Path) -> None:
    """The most frequent case: there is no collector. What waits is the next start's."""
    with Rude(rude.hang_up) as collector:
        shop = Shop(base, collector.endpoint, works=False)
        shop.end(1)
        began = time.monotonic()
        assert not shop.close()
        assert time.monotonic() - began < 2
        assert collector.connections == 1
    assert len(list(reading.read(base))) == 1


# ---------------------------------------------------------------- real processes

SETUP = """
import atexit, os, sys, signal, threading, time
import otel_logging
from otel_logging import setup_observability, traced
observability = setup_observability("shop", environment="production", endpoint=sys.argv[1],
                                    spool_dir=sys.argv[2])
def end(name):
    with traced(name):
        pass
"""


def start(
    script: str, endpoint: str, base: Path, *, setup: str = SETUP, **environment: str
) -> Popen[str]:
    # from 3.12 on, a fork beside threads is deprecated: these tests are about that very thing
    strict = ("-X", "dev", "-W", "error", "-W", "ignore::DeprecationWarning")
    command = (sys.executable, *strict, "-c", setup + script, endpoint, base)
    return programs.start(*command, cwd=ROOT, stdin=PIPE, env=os.environ | environment)


def finish(child: Popen[str]) -> str:
    """Wait for the child's good end; return what it printed. It must not have complained."""
    done = end(child)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    return str(done.stdout)


def run(script: str, endpoint: str, base: Path, *, setup: str = SETUP, **environment: str) -> str:
    return finish(start(script, endpoint, base, setup=setup, **environment))


def names(receiver: Receiver) -> list[str]:
    return sorted(span.name for span in receiver.spans)


EXIT = """
{before}
end("last")
print("exits", flush=True)
"""


@pytest.mark.alone
def test_a_process_ends_within_5_s_whatever_the_collector_does(tmp_path: Path) -> None:
    """One that has answered before is waited for; one that never has is not."""
    closed = f"http://127.0.0.1:{free_port()}"
    tempers = [rude.say_nothing, rude.read_nothing, rude.drip_head, rude.hang_up]
    collectors = [Rude(temper) for temper in tempers]
    fickle = [Receiver(), Receiver(), Receiver()]
    fickle[0].answer = in_turn(accept, *[fickle[0].hang] * 9)
    fickle[1].answer = in_turn(accept, *[refuse(503)] * 99)
    fickle[2].answer = in_turn(accept, *[refuse(503, retry_after="60")] * 99)
    known = 'end("first"); assert observability.force_flush(10)'
    children = [
        (endpoint, start(EXIT.format(before=before), endpoint, tmp_path / str(number)), most)
        for number, (endpoint, before, most) in enumerate(
            [(collector.endpoint, "", 2.5) for collector in collectors]
            + [(closed, "", 2.5)]
            + [(receiver.endpoint, known, 6.5) for receiver in fickle]
        )
    ]
    ends: queue.Queue[tuple[str, float, float, str]] = queue.Queue()

    def time_exit(endpoint: str, child: Popen[str], most: float) -> None:
        assert child.stdout is not None
        assert child.stdout.readline() == "exits\n"
        began = time.monotonic()
        child.wait(60)
        took = time.monotonic() - began
        ends.put((endpoint, took, most, child.communicate()[1]))

    threads = [threading.Thread(target=time_exit, args=row) for row in children]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for one in (*collectors, *fickle):
        one.stop()
    results = [ends.get_nowait() for _ in children]
    assert [row for row in results if row[1] > row[2] or row[3]] == []
    for number in range(len(children)):  # nothing is lost
        assert list(reading.segments(tmp_path / str(number)))


@pytest.mark.alone
@pytest.mark.parametrize("before", ["nothing", "refused", "accepted"])
@pytest.mark.parametrize("status", [401, 307, 400])
def test_exit_asks_a_collector_that_says_no_once(
    receiver: Receiver, base: Path, before: str, status: int
) -> None:
    """Whether it said so before or not: nobody mends that in five seconds."""
    answers = [accept] if before == "accepted" else []
    receiver.answer = in_turn(*answers, *[refuse(status, location="/in")] * 99)
    flush = {"nothing": "", "refused": 'end("first"); observability.force_flush(0.5)'}
    known = 'end("first"); assert observability.force_flush(10)'
    child = start(EXIT.format(before=flush.get(before, known)), receiver.endpoint, base)
    assert child.stdout is not None
    assert child.stdout.readline() == "exits\n"
    began = time.monotonic()
    _, err = child.communicate(timeout=60)
    assert time.monotonic() - began < 4  # on a busy machine; one that is waited for costs 4.5 s
    if status != 400:
        # of each span once, once more by the worker where it was quick, and what the flush asked
        most = {"nothing": 2, "accepted": 3, "refused": 6}
        assert len(receiver.requests) <= most[before]
        assert f"(HTTP {status}" in err
        assert list(reading.segments(base))
    elif before == "accepted":  # one bad span, which is counted
        assert "1 spans lost: the collector refused them (HTTP 400" in err
    else:
        assert "the collector takes none of the spans" in err


@pytest.mark.parametrize(
    ("code", "said"),
    [
        (
            "UNAUTHENTICATED",
            "the collector does not let us in (gRPC UNAUTHENTICATED: no; set OTEL_",
        ),
        ("NOT_FOUND", "the collector takes none of the spans (gRPC NOT_FOUND: no; look at the"),
    ],
)
def test_exit_over_grpc_asks_once(base: Path, code: str, said: str) -> None:
    """By its own codes."""
    from tests.test_transport_grpc import CODES, Collector, abort

    with Collector() as collector:
        collector.answer = abort(CODES[code])
        child = start(
            EXIT.format(before=""), collector.endpoint, base, OTEL_EXPORTER_OTLP_PROTOCOL="grpc"
        )
        _, err = child.communicate(timeout=60)
        assert 1 <= len(collector.bodies) <= 2  # one by the worker, where it was quick
    assert said in err


def test_a_short_script_delivers_at_its_exit(receiver: Receiver, base: Path) -> None:
    """Its collector has never answered it, and answers soon."""
    run('end("only")', receiver.endpoint, base)
    assert names(receiver) == ["only"]


NO_THREADS = """
import signal, sys, threading, time
from pathlib import Path
from tests.test_delivery import Shop
shop = Shop(Path(sys.argv[2]), sys.argv[1], works=False)
threading.stack_size(1 << 47)  # bytes, which no machine has: "can't start new thread"
shop.work()
"""
NOT_STARTED = "failures to start the delivery thread (can't start new thread)"


def test_where_no_thread_can_be_started_the_caller_delivers(receiver: Receiver, base: Path) -> None:
    """As at the interpreter's exit; what is tried again is tried again, and no wait is too long."""
    receiver.answer = in_turn(refuse(503), accept, receiver.hang)
    child = start(
        """
shop.end(1)
assert shop.flush()
shop.end(2)
began = time.monotonic()
assert not shop.flush(0.5)
assert time.monotonic() - began < 3
shop.end(3)
assert shop.close()
print(threading.active_count())
""",
        receiver.endpoint,
        base,
        setup=NO_THREADS,
    )
    out, err = child.communicate(timeout=60)
    assert (child.returncode, out) == (0, "1\n"), err
    assert NOT_STARTED in err
    assert sorted(came(receiver)) == [1, 2, 3]


def test_a_thread_that_could_not_be_started_is_started_later(
    receiver: Receiver, base: Path
) -> None:
    """The machine had none left for a moment."""
    child = start(
        """
threading.stack_size(0)
shop.end(1)
assert shop.flush()
print(threading.active_count())
""",
        receiver.endpoint,
        base,
        setup=NO_THREADS,
    )
    out, err = child.communicate(timeout=60)
    assert (child.returncode, out) == (0, "2\n"), err
    assert NOT_STARTED in err
    assert came(receiver) == [1]


def test_ctrl_c_while_the_worker_starts_leaves_one_worker(receiver: Receiver, base: Path) -> None:
    """At each line of ours that starts it, and while Python waits for it: the next one delivers,
    and no two stay.
    """
    child = start(
        """
def interrupt(at):  # by what runs at a line, as a signal handler does
    def look(frame, event, _):
        nonlocal at
        if frame.f_globals["__name__"].startswith("otel_logging."):
            at -= event == "line"
        elif frame.f_code.co_qualname == "Event.wait":
            at -= event == "call"
        if at == 0:
            sys.settrace(None)
            raise KeyboardInterrupt
        return look
    sys.settrace(look)

def workers():
    return sum(t.is_alive() and t.name == "otel_logging delivery" for t in threading.enumerate())

shop.close()
threading.stack_size(0)
for number in range(1, 1000):
    shop = Shop(Path(sys.argv[2]), sys.argv[1], works=False)
    shop.end(number)
    interrupt(number)
    try:
        shop.delivery.wake()
        break
    except KeyboardInterrupt:
        assert shop.flush(), number
    finally:
        sys.settrace(None)
    until = time.monotonic() + 3
    while workers() != 1 and time.monotonic() < until:
        shop.delivery.wake()
        time.sleep(0.01)
    assert workers() == 1, number
    assert shop.close()
    assert workers() == 0, number
print(number)
""",
        receiver.endpoint,
        base,
        setup=NO_THREADS,
    )
    out, err = child.communicate(timeout=60)
    assert child.returncode == 0, err
    assert int(out) > 20
    assert set(came(receiver)) >= set(range(1, int(out)))


def test_a_signal_handler_may_flush_inside_a_flush(base: Path) -> None:
    """Where the caller delivers itself, the inner one gives up in time."""
    with Rude(rude.say_nothing) as collector:
        child = start(
            """
done = []
signal.signal(signal.SIGALRM, lambda *_: done.append(shop.flush(0.2)))
shop.end(1)
signal.setitimer(signal.ITIMER_REAL, 0.3)
assert not shop.flush(1)
assert done == [False]
""",
            collector.endpoint,
            base,
            setup=NO_THREADS,
        )
        _, err = child.communicate(timeout=60)
        assert child.returncode == 0, err


def test_what_ends_in_an_exit_handler_is_delivered(receiver: Receiver, base: Path) -> None:
    """Handlers that were registered after the set-up run before the package's own."""
    run('atexit.register(end, "at exit")', receiver.endpoint, base)
    assert names(receiver) == ["at exit"]


FORK = """
end("before")
assert {flush}
pid = os.fork()
end(f"after {{'child' if pid == 0 else 'parent'}}")
assert observability.force_flush(10)
os.write(1, b"parent delivered\\n" if pid else b"child delivered\\n")  # in one piece
if pid:
    assert os.waitpid(pid, 0)[1] == 0
"""


@pytest.mark.parametrize("flush", ["True", "observability.force_flush(10)"])
def test_both_sides_of_a_fork_deliver_exactly_once(
    receiver: Receiver, base: Path, flush: str
) -> None:
    """Each by a worker and a connection of its own, whether there was one before or not."""
    out = run(FORK.format(flush=flush), receiver.endpoint, base)
    assert sorted(out.split("\n")) == ["", "child delivered", "parent delivered"]
    assert names(receiver) == ["after child", "after parent", "before"]
    pids = {span.name: span.resource["process.pid"] for span in receiver.spans}
    assert pids["before"] == pids["after parent"] != pids["after child"]


def test_a_fork_during_a_request_shares_no_connection(receiver: Receiver, base: Path) -> None:
    """The child closes its copy of the socket, and nothing more."""
    release = threading.Event()

    def answer(request: Request) -> Answer:
        if request.spans[0].name == "before":
            release.wait(30)
        return accept(request)

    receiver.answer = answer
    child = start(
        """
end("before")
while not observability._deliveries[0]._client._socket: time.sleep(0.01)
sys.stdin.readline()
pid = os.fork()
if pid == 0:
    sockets = [os.readlink(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd")
               if os.path.lexists(f"/proc/self/fd/{fd}")]
    print(sum("socket:" in name for name in sockets), flush=True)
    end("child")
    assert observability.force_flush(10)
    print("child delivered", flush=True)
    sys.exit()
assert os.waitpid(pid, 0)[1] == 0
print("parent goes on", flush=True)
assert observability.force_flush(10)
""",
        receiver.endpoint,
        base,
    )
    assert child.stdin is not None
    assert child.stdout is not None
    receiver.wait_for(lambda r: r.requests)
    child.stdin.write("\n")
    child.stdin.flush()
    assert child.stdout.readline() == "0\n"
    assert child.stdout.readline() == "child delivered\n"
    release.set()
    assert finish(child) == "parent goes on\n"
    assert names(receiver) == ["before", "child"]


def test_a_fork_without_a_network_changes_nothing(base: Path) -> None:
    """Both sides' spans wait in the spool."""
    run(
        """
import os, sys
from pathlib import Path
from tests.test_delivery import Shop
shop = Shop(Path(sys.argv[2]), None)
pid = os.fork()
shop.end(1 if pid else 2)
assert shop.close()
if pid:
    assert os.waitpid(pid, 0)[1] == 0
""",
        "",
        base,
        setup="",
    )
    kept = [trace for contents in reading.read(base) for trace, _ in contents.spans]
    assert sorted(kept) == [trace_id(1), trace_id(2)]


def test_grpc_delivers_on_both_sides_of_a_fork(base: Path) -> None:
    """The same worker, over gRPC; halves and all."""
    from tests.test_transport_grpc import CODES, Collector, abort

    with Collector() as collector:
        answers = [abort(CODES.UNAVAILABLE), abort(CODES.INVALID_ARGUMENT)]
        refused: list[str] = []

        def answer(context: Any) -> bytes:
            if answers:
                refused.extend(collector.names()[-1:])
                collector.bodies.pop()
                return answers.pop(0)(context)
            return b""

        collector.answer = answer
        out = run(
            FORK.format(flush="observability.force_flush(10)"),
            collector.endpoint,
            base,
            OTEL_EXPORTER_OTLP_PROTOCOL="grpc",
        )
        assert sorted(out.split("\n")) == ["", "child delivered", "parent delivered"]
        assert sorted(collector.names()) == ["after child", "after parent", "before"]
        assert refused == ["before", "before"]


IMPORTS = """
import sys, threading
from otel_logging import _forks
unguarded = []
class Finder:
    def find_spec(self, name, path=None, target=None):
        is_worker = threading.current_thread().name == "otel_logging delivery"
        if is_worker and not _forks.importing._is_owned():
            unguarded.append(name)
sys.meta_path.insert(0, Finder())
"""


@pytest.mark.parametrize("protocol", ["http/protobuf", "grpc"])
def test_no_fork_comes_between_what_the_worker_imports(
    receiver: Receiver, base: Path, protocol: str
) -> None:
    """A child forked in the middle of an import would have half a module: so a fork waits."""
    from tests.test_transport_grpc import CODES, Collector, abort

    rejected = partial_success(-1)  # a message, and no complaint
    receiver.answer = in_turn(refuse(503), rejected)
    _, _, body = rejected(None)  # type: ignore[misc, arg-type]
    with Collector() as collector:
        answers = [abort(CODES.UNAVAILABLE)]
        collector.answer = lambda context: answers.pop()(context) if answers else body
        endpoint = collector.endpoint if protocol == "grpc" else receiver.endpoint
        script = """
end("first")
observability.force_flush(10)
print(unguarded)
"""
        out = run(
            script,
            endpoint.replace("127.0.0.1", "localhost"),
            base,
            setup=IMPORTS + SETUP,
            OTEL_EXPORTER_OTLP_PROTOCOL=protocol,
        )
        assert len(collector.bodies if protocol == "grpc" else receiver.requests) == 2
    assert out == "[]\n"


def test_nothing_is_left_after_shutdown(receiver: Receiver, base: Path) -> None:
    """No thread, no descriptor, no warning; and it works again."""
    out = run(
        """
def count():
    return len(os.listdir("/proc/self/fd")), threading.active_count()
observability.shutdown()
before = count()
for number in range(5):
    observability = setup_observability("shop", environment="production", endpoint=sys.argv[1],
                                        spool_dir=sys.argv[2])
    end(f"span {number}")
    assert observability.force_flush(10)
    assert observability.shutdown()
assert count() == before, (count(), before)
print(before[1])
""",
        receiver.endpoint,
        base,
    )
    assert out == "1\n"
    assert names(receiver) == [f"span {number}" for number in range(5)]


@pytest.mark.skipif(not hasattr(signal, "SIGPIPE"), reason="no SIGPIPE")
def test_a_program_that_dies_of_sigpipe_does_not_die_of_a_collector(base: Path) -> None:
    """Command-line programs set that, to end with what reads them."""

    def slam(collector: Rude, connection: socket.socket) -> None:
        connection.recv(1)
        linger = b"\1\0\0\0\0\0\0\0"  # on, 0 s: close() sends a reset
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)

    with Rude(slam) as collector:
        run(
            """
signal.signal(signal.SIGPIPE, signal.SIG_DFL)
for number in range(900):
    end("x" * 1000)
assert not observability.force_flush(1)
""",
            collector.endpoint,
            base,
        )
        assert collector.connections


def test_the_workers_requests_are_not_observed(
    receiver: Receiver, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An instrumented client asks this key before it makes a span; spans of spans never end."""
    keys: list[object] = []
    key = otel_context._SUPPRESS_INSTRUMENTATION_KEY
    look_up = _socket.getaddrinfo

    def instrumented(*arguments: Any, **options: Any) -> Any:
        keys.append(otel_context.get_value(key))
        return look_up(*arguments, **options)

    with Shop(base, receiver.endpoint) as shop:
        monkeypatch.setattr(_socket, "getaddrinfo", instrumented)
        shop.end(1)
        assert shop.flush()
    assert keys == [True]
    assert otel_context.get_value(key) is None
