"""The worker: what waits in the spool goes to the collector, and then into the local store.

In: sealed segments. Out: requests. Invariant: the application waits for the network only where it
asks to (``flush``, ``stop``), and no longer than it said. Delivery is at least once: after an
answer that was lost on its way a segment is sent again. Deliberately absent: what is sent, and in
which parts (``sender``).
"""

import contextlib
import math
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, Final

from opentelemetry import context as otel_context

from otel_logging import _diagnostics, _forks
from otel_logging._green import Lock, RLock, start_thread, wait_until
from otel_logging.export.outcome import Client, failed
from otel_logging.export.sender import ROUND_S, Sender
from otel_logging.spool.queue import SEAL_S, Spool

#: At exit, a collector that has never answered this process gets one try of this many seconds.
UNKNOWN_COLLECTOR_S: Final = 1.0
#: A forked child may end by ``os._exit`` while it delivers, and its parent would send the same
#: again. So in its first seconds a child sends only its own spans, and only while somebody waits
#: (``flush``, ``stop``).
CHILD_S: Final = 1.0
_END_S: Final = 0.5  # s for a worker with nothing left to do to end
_WAIT: Final = 0.9  # of ``stop``'s time; the rest is for interrupting a request

#: How long spans may be in memory after a disk stall before the disk is tried again.
_STALL_S: Final = 0.02


class Delivery:
    """Brings segments to the collector in a thread of its own.

    Scope: process. Failure: nothing here raises into the application. Cost: one
    daemon thread of the system, started with the first ``wake``. Concurrency: any
    thread; a forked child has a worker of its own. Only the worker makes requests, so
    that a wait for it can be given up. If no thread can be started, the thread that
    waits makes them.
    """

    def __init__(self, spool: Spool, client: Client | None, *, timeout_s: float) -> None:
        """Deliver what is in *spool*; without a *client* it only waits there."""
        self.spool = spool
        #: The worker calls it before it looks into the spool, with whether somebody waits for all
        #: spans; it may put something in.
        self.before_round: Callable[[bool], None] = lambda _: None
        self._client = client
        self._timeout_s = timeout_s
        #: It stays true in a forked child: after the interpreter's exit has begun, a child must
        #: not start a worker.
        self._stopping = False
        #: If threads stand still, only ``flush``, ``stop`` and ``start`` send anything.
        self.has_threads = _threads_run()
        self._is_child = False
        #: Monotonic: until then a child sends only while somebody waits.
        self._alone_until = -math.inf
        self._begin()
        _forks.join(_forks.Step.DELIVERY, self)

    def _begin(self) -> None:
        self._is_behind = False  # the last try left something
        #: Sends, and has the results of its tries.
        self.sender = Sender(self.spool, self._client, timeout_s=self._timeout_s)
        # numbers of the last flush that was asked for (under a lock), tried, done
        self._asks = RLock()
        self._asked = self._tried = self._done = 0
        self._asked_until = -math.inf  # monotonic: nobody waits any more after that
        self._thread: threading.Thread | None = None
        #: Held while there is nothing new. A lock, because a signal handler that releases it may
        #: interrupt another release.
        self._news = Lock()
        self._news.acquire()
        self._works = Lock()  # held for the worker, until its end
        self._sending = Lock()  # one round at a time

    def after_fork(self) -> None:
        """Begin anew: the parent's worker goes on in the parent."""
        self._is_child = True
        self._begin()
        self._alone_until = time.monotonic() + CHILD_S
        self.sender.next_try = self.sender.next_housekeeping = self._alone_until
        if self._client is not None:
            self._client.reset()

    # ---- the application's side

    def start(self) -> None:
        """Deliver what a dead process left: by the worker, or now in at most a second."""
        self.wake()
        if not self.has_threads:
            self.flush(UNKNOWN_COLLECTOR_S, gives_up=lambda: True)

    def wake(self) -> None:
        """Say that there may be work. Never blocks, never raises."""
        try:
            may_run = self.has_threads and (self._is_child or not _forks.is_before_fork())
            if may_run and not self._stopping:
                self._start()
            self._tell()
        except Exception as error:  # no thread can be started: the spans wait on disk
            _diagnostics.report("failures to start the delivery thread", detail=error)

    def _tell(self) -> None:
        with contextlib.suppress(RuntimeError):  # released already
            self._news.release()

    def _start(self) -> None:
        if not self._works.locked():
            works = Lock()
            works.acquire()
            try:
                self._works = works
                self._thread = start_thread(lambda: self._run(works), "otel_logging delivery")
            except BaseException:  # no thread; or Ctrl-C, and it may have started
                self._works = Lock()
                raise

    def flush(self, timeout_s: float, gives_up: Callable[[], bool] = lambda: False) -> bool:
        """Wait until all spans that have ended by now are delivered; False if the time ran out, or
        if a try failed and *gives_up* returns true.
        """
        _forks.check()
        if time.monotonic() >= self._alone_until:
            self.sender.next_housekeeping = -math.inf  # also send what dead children left
        deadline = time.monotonic() + max(0.0, timeout_s)  # NaN counts as 0
        with self._asks:
            self._asked += 1
            mine = self._asked
            self._asked_until = max(self._asked_until, deadline)
        self.wake()
        if not self._works.locked():
            return self._flush_here(deadline, gives_up)

        def is_over() -> bool:
            return self._done >= mine or (self._tried >= mine and gives_up())

        if wait_until(is_over, deadline) is None:
            # reported at exit, or when due: to write it now would give the worker more time
            _diagnostics.counts["waits for delivery that are not possible here"] += 1
        return self._done >= mine

    def _flush_here(self, deadline: float, gives_up: Callable[[], bool]) -> bool:
        # at the interpreter's exit no thread can be started any more
        token = otel_context.attach(unobserved())
        try:
            while True:
                done = False
                # with a deadline: a signal handler may have come into this very thread's round
                if wait_until(lambda: self._sending.acquire(blocking=False), deadline):
                    try:
                        done = self._round(deadline)
                    finally:
                        self._sending.release()
                pause = max(self.sender.next_flush_try - time.monotonic(), 0.0)
                if done or gives_up() or time.monotonic() + pause >= deadline:
                    return done
                time.sleep(pause)
        finally:
            otel_context.detach(token)

    def stop(self, timeout_s: float) -> bool:
        """Deliver what is there and end the worker; False if something is left in the spool.

        Waits only for a collector that has answered this process before, and not for
        one that says no; these get one short try.
        """
        _forks.check()
        sender, timeout_s = self.sender, max(0.0, timeout_s)
        deadline = time.monotonic() + timeout_s
        give_up = time.monotonic() + timeout_s * _WAIT
        done = False
        if sender.refusal or not sender.answered:
            sender.next_flush_try = -math.inf  # now, whatever the collector asked for
            done = self.flush(min(timeout_s * _WAIT, UNKNOWN_COLLECTOR_S), gives_up=lambda: True)
        if not done and sender.answered and not sender.refusal:
            done = self.flush(give_up - time.monotonic(), gives_up=lambda: bool(sender.refusal))
        if sender.unsaid:
            sender.report_refusal(sender.unsaid)
        self._stopping = True
        self._tell()
        if self._client is not None:
            self._client.interrupt()
        if wait_until(lambda: not self._works.locked(), deadline):
            if self._thread is not None:
                self._thread.join(_END_S)
            if self._client is not None:
                self._client.reset()
        return done

    # ---- the worker's side

    def _run(self, works: Any) -> None:
        try:
            otel_context.attach(unobserved())
            while not self._stopping and self._works is works:
                self._try_once()
                self._wait()
            if self._client is not None:
                self._client.reset()
        finally:
            works.release()
            self._tell()  # the one that replaced it: the news is for that one

    def _try_once(self) -> None:
        try:
            with self._sending:
                self._round(math.inf)
        except Exception as error:
            _diagnostics.report("errors of the delivery thread", detail=error)
            self.sender.failed(failed(error))
            self.sender.next_housekeeping = time.monotonic() + ROUND_S

    def _wait(self) -> None:
        """Sleep until there is work: a flush, a try that is due, a segment to seal."""
        flushing = self._is_flushing()
        due = self.sender.next_housekeeping
        if flushing or self._is_behind:
            due = min(due, self.sender.next_flush_try if flushing else self.sender.next_try)
        news = self._news
        if not news.acquire(timeout=max(due - time.monotonic(), 0.0)):
            return
        # until then the new segment may fill; but a kill would take what is in memory
        seal_at = time.monotonic() + (_STALL_S if self.spool.is_stalled else SEAL_S)
        while not (self._stopping or self._is_flushing()):
            if not news.acquire(timeout=max(seal_at - time.monotonic(), 0.0)):
                return

    def _is_flushing(self) -> bool:
        return self._done < self._asked and time.monotonic() < self._asked_until

    def _round(self, deadline: float) -> bool:
        """Deliver what waits if a try is due; return whether nothing is left."""
        asked, flushing = self._asked, self._is_flushing()
        if time.monotonic() < self._alone_until:
            deadline = min(deadline, self._asked_until)
        due = time.monotonic() >= (self.sender.next_flush_try if flushing else self.sender.next_try)
        self.before_round(flushing and due)
        sends = due and self._client is not None
        self.sender.gather(older_than_s=0.0 if sends else self.spool.seal_after_s)
        if not due:
            return False
        done = self.sender.send_waiting(deadline)
        self._is_behind = not done
        if done:
            self._done = asked
        self._tried = asked
        return done


def unobserved() -> otel_context.Context:
    """Return a context in which OpenTelemetry's instrumentations make no spans of our requests."""
    # the keys that instrumentations look for, oldest first
    names = ("_SUPPRESS_INSTRUMENTATION_KEY", "_SUPPRESS_HTTP_INSTRUMENTATION_KEY")
    keys = ["suppress_instrumentation", *(getattr(otel_context, name, name) for name in names)]
    return otel_context.Context({**otel_context.get_current(), **dict.fromkeys(keys, True)})


def _threads_run() -> bool:
    """Say whether threads run by themselves. Older versions of uWSGI without ``--enable-threads``
    let none go on between two requests; but where a loop of Python's waits for these, they do.
    """
    uwsgi: Any = sys.modules.get("uwsgi")
    loops = {"gevent", "asyncio"}
    return bool(getattr(uwsgi, "has_threads", True)) or not loops.isdisjoint(uwsgi.opt)
