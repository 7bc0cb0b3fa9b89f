"""The worker: what waits in the spool goes to the collector, and then into the flight recorder.

In: sealed segments. Out: requests. Invariant: the application never waits for
the network, except where it asks to (``flush``, ``stop``), and then no longer
than it said; a segment leaves the queue only when the collector has taken all
of it, or refused it for good, which is counted and said. After an answer that
was lost on its way a segment is sent again: delivery is at least once.
Deliberately absent: encoding, and how a request is made (``transport``).
"""

import os
import queue
import random
import threading
import time
import weakref
from collections.abc import Iterable
from typing import Final

from opentelemetry import context as otel_context

from otel_logging import _otlp, _trouble
from otel_logging._spool import DAMAGED, SEAL_S, Contents, Spool, Waiting
from otel_logging.export.pipeline import PROCESS_LOG_S, Pipeline
from otel_logging.export.transport import Answer, Client, Verdict, unobserved

#: How long a dead neighbour's spans, or a bound that is passed, may go unnoticed.
ROUND_S: Final = 5.0
_FIRST_PAUSE_S: Final = 0.5
_LONGEST_PAUSE_S: Final = 30.0
_FLUSH_PAUSE_S: Final = 0.1
#: At exit, for a collector that has never answered this process: a try, not a wait.
UNKNOWN_COLLECTOR_S: Final = 1.0

REFUSED: Final = "spans lost: the collector refused them"


class Delivery:
    """Brings segments to the collector in a thread of its own.

    Scope: process. Failure: nothing here raises into the application. Cost: one
    daemon thread, started with the first span. Concurrency: any thread; a
    forked child has a worker of its own.
    """

    def __init__(self, pipeline: Pipeline, client: Client | None, *, timeout_s: float) -> None:
        """Deliver what *pipeline* puts into its spool; without a *client* it only waits there."""
        self._pipeline = pipeline
        self._spool: Spool = pipeline.spool
        self._client = client
        self._timeout_s = timeout_s
        self.delivered_segments = 0
        #: Whether a collector has ever answered this process.
        self.answered = False
        self.last_failure = ""
        self._begin()
        _all.add(self)

    def _begin(self) -> None:
        # SimpleQueue: its put may be interrupted by a signal handler that puts
        self._signals: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._may_start = [True]  # popped by the one thread that starts the worker
        self._stopping = False
        self._round = threading.Lock()  # one round at a time: the worker's, or that of a stop
        self._not_before = 0.0  # monotonic: the next try, after a failure
        self._pause_s = _FIRST_PAUSE_S
        self._next_housekeeping = 0.0
        self._begun: dict[str, int] = {}  # segment name -> how many of its spans are delivered
        self._flush_asked = 0
        self._flush_done = 0
        self._flush_until = 0.0  # monotonic: nobody waits for a flush any more after that
        self._flushed = threading.Condition()

    # ---- the application's side

    def wake(self) -> None:
        """Say that there may be work. Never blocks, never raises."""
        try:
            if self._may_start and not self._stopping:
                self._start()
            self._signals.put(None)
        except Exception as error:  # no more threads to be had: the spans wait on disk
            _trouble.report("failures to start the delivery thread", detail=error)

    def _start(self) -> None:
        try:
            self._may_start.pop()
        except IndexError:
            return
        thread = threading.Thread(target=self._run, name="otel_logging delivery", daemon=True)
        self._thread = thread
        thread.start()

    def flush(self, timeout_s: float) -> bool:
        """Wait until all that has ended by now is delivered; False if the time ran out."""
        deadline = time.monotonic() + timeout_s
        with self._flushed:
            self._flush_asked += 1
            mine = self._flush_asked
            self._flush_until = max(self._flush_until, deadline)
        self.wake()
        if self._thread is None or not self._thread.is_alive():
            return self._flush_here(deadline)
        with self._flushed:
            return self._flushed.wait_for(
                lambda: self._flush_done >= mine, max(deadline - time.monotonic(), 0)
            )

    def _flush_here(self, deadline: float) -> bool:
        # at the interpreter's exit no thread can be started any more
        while True:
            if self._deliver_all(deadline):
                return True
            if time.monotonic() + _FLUSH_PAUSE_S >= deadline:
                return False
            time.sleep(_FLUSH_PAUSE_S)

    def stop(self, timeout_s: float) -> bool:
        """Deliver what is there and end the worker; False if something is left in the spool.

        Waits only for a collector that has answered this process before; one
        that has not gets one short try.
        """
        deadline = time.monotonic() + timeout_s
        patience = timeout_s if self.answered else min(timeout_s, UNKNOWN_COLLECTOR_S)
        self._stopping = True
        self._signals.put(None)
        if self._thread is not None and self._thread.is_alive():
            self._thread.join(patience)
        done = self._deliver_all(min(deadline, time.monotonic() + patience))
        if self.answered and not done and time.monotonic() < deadline:
            done = self._flush_here(deadline)
        if self._client is not None:
            self._client.reset()
        return done

    # ---- the worker's side

    def _run(self) -> None:
        otel_context.attach(unobserved())
        while not self._stopping:
            try:
                self._one_round()
            except Exception as error:
                _trouble.report("errors of the delivery thread", detail=error)
                self._not_before = time.monotonic() + _LONGEST_PAUSE_S
            self._wait()

    def _wait(self) -> None:
        """Sleep until there is work: a flush, a segment to seal, a try that is due."""
        if self._is_flushing():
            time.sleep(_FLUSH_PAUSE_S)
            return
        try:
            self._signals.get(timeout=ROUND_S)
            if not (self._is_flushing() or self._stopping):
                # let the segment fill: it is sealed half a second after its first span
                self._signals.get(timeout=SEAL_S)
        except queue.Empty:
            pass

    def _is_flushing(self) -> bool:
        return self._flush_done < self._flush_asked and time.monotonic() < self._flush_until

    def _one_round(self) -> None:
        asked = self._flush_asked
        flushing = self._is_flushing()
        if flushing:
            self._pipeline.roll()
            self._spool.seal()
        else:
            self._pipeline.roll(older_than_s=PROCESS_LOG_S)
            self._spool.seal(older_than_s=SEAL_S * 0.9)
        now = time.monotonic()
        if now >= self._next_housekeeping:
            self._next_housekeeping = now + ROUND_S
            self._spool.adopt()
            self._spool.prune()
        if flushing or now >= self._not_before:
            done = self._deliver_waiting(now + 3600)
            if flushing and done:
                with self._flushed:
                    self._flush_done = asked
                    self._flushed.notify_all()

    def _deliver_all(self, deadline: float) -> bool:
        """Deliver everything from the calling thread."""
        token = otel_context.attach(unobserved())
        try:
            self._pipeline.roll()
            self._spool.seal()
            return self._deliver_waiting(deadline)
        finally:
            otel_context.detach(token)

    def _deliver_waiting(self, deadline: float) -> bool:
        """Deliver the segments that wait now; False if one has to be tried again."""
        if self._client is None:
            return True
        left = deadline - time.monotonic()
        if not self._round.acquire(timeout=min(max(left, 0), threading.TIMEOUT_MAX)):
            return False
        try:
            for segment in _both_ends(self._spool.waiting()):
                if time.monotonic() >= deadline or not self._deliver(segment, deadline):
                    return False
            return True
        finally:
            self._round.release()

    def _deliver(self, segment: Waiting, deadline: float) -> bool:
        contents = segment.contents()
        if contents is None:
            _trouble.report(DAMAGED, detail=segment.name)
        else:
            if contents.damaged and segment.name not in self._begun:
                _trouble.report(DAMAGED, contents.damaged, detail=segment.name)
            if not self._send(segment.name, contents, deadline):
                return False
        self._begun.pop(segment.name, None)
        self._spool.delivered(segment)
        self.delivered_segments += 1
        return True

    def _send(self, name: str, contents: Contents, deadline: float) -> bool:
        """Send the spans of a segment that are not delivered yet, in halves where it has to be.

        How far it came is kept, so that a failure in the middle sends no span twice.
        """
        spans = [span for _, span in contents.spans]
        done = self._begun.get(name, 0)
        size = len(spans) - done
        while done < len(spans):
            batch = spans[done : done + size]
            answer = self._ask(_otlp.request(contents.resource, contents.scope, batch), deadline)
            if answer.verdict is Verdict.AGAIN:
                self._begun[name] = done
                return False
            if answer.verdict is not Verdict.DELIVERED and len(batch) > 1:
                size = len(batch) // 2
                continue
            if answer.verdict is not Verdict.DELIVERED:
                _trouble.report(REFUSED, detail=answer.detail)
            elif answer.rejected_spans:
                _trouble.report(REFUSED, answer.rejected_spans, detail=answer.detail)
            done += len(batch)
            size = len(spans) - done
        return True

    def _ask(self, body: bytes, deadline: float) -> Answer:
        assert self._client is not None
        timeout_s = min(self._timeout_s, max(deadline - time.monotonic(), 0.01))
        answer = self._client.send(body, timeout_s)
        self.answered = self.answered or answer.answered
        if answer.verdict is Verdict.AGAIN:
            self.last_failure = answer.detail
            self._pause_s = min(self._pause_s * 2, _LONGEST_PAUSE_S)
            jitter = random.uniform(0.5, 1.0)  # noqa: S311 - many processes, one collector
            pause = answer.after_s if answer.after_s is not None else self._pause_s * jitter
            self._not_before = time.monotonic() + pause
        else:
            self.last_failure = ""
            self._pause_s = _FIRST_PAUSE_S
        return answer

    def after_fork(self) -> None:
        """Be a worker that has not begun: the parent's goes on in the parent."""
        self._begin()
        self.answered = False
        self.delivered_segments = 0
        if self._client is not None:
            self._client.reset()


def _both_ends(segments: list[Waiting]) -> Iterable[Waiting]:
    """Yield the newest and the oldest in turn: after an outage, now matters as much as then."""
    while segments:
        yield segments.pop()
        if segments:
            yield segments.pop(0)


_all: "weakref.WeakSet[Delivery]" = weakref.WeakSet()


def _after_fork() -> None:
    for delivery in list(_all):
        delivery.after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
