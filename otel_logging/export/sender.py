"""Sends what waits in a spool: which segment when, in which parts, and what an answer means for it.

In: sealed segments. Out: requests; delivered segments. Invariant: a segment leaves the queue
only when the collector has taken all of it, or has refused it for good, which is counted and
reported. A span that was taken is not sent again. Deliberately absent: threads
(``delivery``), and how a request is made (``http``, ``grpc``).
"""

import math
import random
import time
from collections import Counter, deque
from collections.abc import Collection, Iterator
from typing import Final

from otel_logging import _diagnostics, _otlp
from otel_logging.export.outcome import Answer, Client, Outcome, failed, lasting
from otel_logging.spool.queue import DAMAGED, SEAL_S, Spool
from otel_logging.spool.reading import Waiting
from otel_logging.spool.segment import Contents

#: How often to look for a dead neighbour's spans, and for a spool over its bound.
ROUND_S: Final = 5.0
_FIRST_PAUSE_S: Final = 0.5  # doubled with each failure
_LONGEST_PAUSE_S: Final = 10.0  # the longest delay after a collector has come up
_FLUSH_PAUSE_S: Final = 0.2  # while somebody waits
LASTS_S: Final = 60.0  # refusals for longer are not just a collector's restart
_LONGEST_RETRY_AFTER_S: Final = 300.0  # even if a collector asks for more

NOT_DELIVERED: Final = "deliveries failed, the {} wait"
UNREADABLE: Final = "spool segments cannot be read now and are tried again"
REFUSED: Final = "{} lost: the collector refused them"

#: How many spans, and log records, this process has delivered.
delivered: Final = Counter[str]()


class Sender:
    """Sends what is in *spool*; without a *client* it only waits there. One thread at a time."""

    def __init__(self, spool: Spool, client: Client | None, *, timeout_s: float) -> None:
        self._spool = spool
        self._client = client
        self._timeout_s = timeout_s
        if client is None:
            spool.seal_after_s = _LONGEST_PAUSE_S
        self.delivered_segments = 0
        #: Whether a collector has ever answered this process.
        self.answered = False
        self.last_failure = ""
        self.refusal: Answer | None = None  # of the last try, for a mistake of the set-up
        #: Also of the last try: trouble that may pass by itself, reported only at the end.
        self.unsaid: Answer | None = None
        #: Monotonic: when it is reported again, even if the next try is later.
        self._next_reminder = math.inf
        #: Monotonic: since when the collector takes nothing, in a way that may pass by itself.
        self._no_since = math.inf
        self._has_accepted = False
        # segments tried in vain, by name: the ranges of spans still to be sent; None if the segment
        # could not be read. Then: since when (monotonic) one could not be read
        self._unsent: dict[str, deque[range] | None] = {}
        self._unread_since = math.inf
        self._pause_s = 0.0
        #: Monotonic times; the last one is for a round that somebody waits for.
        self.next_housekeeping = self.next_try = self.next_flush_try = -math.inf

    def gather(self, *, older_than_s: float = SEAL_S) -> None:
        """Bring the queue up to date."""
        self._spool.seal(older_than_s=older_than_s)
        if self.refusal and time.monotonic() >= self._next_reminder:
            self.report_refusal(self.refusal)
        if time.monotonic() >= self.next_housekeeping:
            self.next_housekeeping = time.monotonic() + ROUND_S
            self._spool.adopt()
            self._spool.prune()
            _diagnostics.say_due()

    def send_waiting(self, deadline: float) -> bool:
        """Deliver what waits now, until the first failure; return whether nothing is left."""
        if (client := self._client) is None:
            return True
        try:
            waiting = self._spool.waiting()
            owed = {segment.name for segment in waiting}
            self._unsent = {name: kept for name, kept in self._unsent.items() if name in owed}
            # this may take long, and newer segments must not wait for all of it
            while not owed.isdisjoint(segment.name for segment in waiting):
                stale_at = time.monotonic() + SEAL_S
                for segment in _in_turn(waiting, {*self._unsent}):
                    if time.monotonic() >= deadline or not self._deliver(client, segment, deadline):
                        return False
                    if time.monotonic() >= stale_at:
                        break
                self.gather()
                waiting = self._spool.waiting()
        except (OSError, ValueError) as error:  # too many open files, say: it is tried again
            self.failed(failed(error))
            self._unread_since = min(self._unread_since, time.monotonic())
            if time.monotonic() - self._unread_since > ROUND_S:
                _diagnostics.report(UNREADABLE, detail=error)
            return False
        self._unread_since = math.inf
        return True

    def _deliver(self, client: Client, segment: Waiting, deadline: float) -> bool:
        self._unsent.setdefault(segment.name)
        if not self._send(client, segment.name, segment.contents(), deadline):
            return False
        del self._unsent[segment.name]
        self._spool.delivered(segment)
        self.delivered_segments += 1
        return True

    def _send(self, client: Client, name: str, contents: Contents, deadline: float) -> bool:
        """Send those spans of a segment that are not delivered yet; in halves if one is refused.

        After a failure in the middle it remembers what is left: no span is sent twice.
        """
        spans = [span for _, span in contents.spans]
        unsent = self._unsent[name]
        if unsent is None:
            unsent = self._unsent[name] = deque([range(len(spans))] if spans else [])
            if contents.damaged:
                self._spool.report(DAMAGED, contents.damaged, detail=name)
        while unsent:
            part = unsent[0]
            body = _otlp.request(contents.resource, contents.scope, spans[part.start : part.stop])
            timeout_s = min(self._timeout_s, max(deadline - time.monotonic(), 0.01))
            answer = client.send(body, timeout_s)
            self.answered = self.answered or answer.answered
            unsent.popleft()
            if not self._apply_outcome(unsent, part, answer):
                self.failed(answer)
                return False
        return True

    def _apply_outcome(self, unsent: deque[range], part: range, answer: Answer) -> bool:
        """Do what *answer* says with the spans of *part*; False if they have to be sent again.

        They then come last, and delay nothing. A single span is given up only if this collector
        has ever taken something: a server that speaks TLS answers 400 to all plain HTTP.
        """
        if answer.outcome is Outcome.DELIVERED:
            self._has_accepted = True
            self.last_failure, self._pause_s, self.refusal, self.unsaid = "", 0.0, None, None
            self._next_reminder = self._no_since = math.inf
            self._spool.seal_after_s = SEAL_S
            delivered[self._spool.noun] += max(len(part) - answer.rejected_spans, 0)
            if answer.rejected_spans:
                rejected = min(answer.rejected_spans, len(part))
                self._spool.report(REFUSED, rejected, detail=answer.detail)
            elif answer.detail:
                _diagnostics.report("warnings of the collector", detail=answer.detail)
        elif answer.outcome is not Outcome.AGAIN and len(part) > 1:
            half = len(part) // 2
            unsent.extendleft((part[half:], part[:half]))
        elif answer.outcome is Outcome.AGAIN or not self._has_accepted:
            unsent.append(part)
            return False
        else:
            self._spool.report(REFUSED, detail=answer.detail)
        return True

    def failed(self, answer: Answer) -> None:
        """Put off the next try: longer with each failure, and as the collector asks.

        Trouble that may pass by itself is reported only when it lasts: waiting loses nothing. A
        mistake in the set-up is reported at once: the spans would wait for ever.
        """
        now, self.unsaid = time.monotonic(), None
        if (final := lasting(answer, self._spool.noun)) is not answer:
            self._no_since = min(self._no_since, now)
            if now - self._no_since >= LASTS_S:
                answer = final
            elif not self._has_accepted:
                self.unsaid = final
        self.last_failure = answer.said
        self.refusal = answer if answer.mistake else None
        if answer.outcome is not Outcome.AGAIN and self._pause_s < _LONGEST_PAUSE_S:
            self.unsaid = answer  # it may be bad data in one span: the next spans will show
        elif answer.mistake:
            self.report_refusal(answer)
        self._pause_s = min(max(self._pause_s * 2, _FIRST_PAUSE_S), _LONGEST_PAUSE_S)
        self._spool.seal_after_s = max(SEAL_S, self._pause_s)
        asked_s = min(answer.after_s or 0.0, _LONGEST_RETRY_AFTER_S)
        jitter_s = self._pause_s * random.uniform(0.5, 1.0)  # noqa: S311 - many, one collector
        self.next_try = now + max(jitter_s, asked_s)
        self.next_flush_try = now + max(_FLUSH_PAUSE_S, asked_s)

    def report_refusal(self, answer: Answer) -> None:
        """Report a mistake in the set-up, and what mends it."""
        self._next_reminder = time.monotonic() + _diagnostics.QUIET_S
        detail = f"{answer.detail}; {answer.to_do}"
        self._spool.report(f"{NOT_DELIVERED}: {answer.mistake}", detail=detail)


def _in_turn(segments: list[Waiting], tried: Collection[str]) -> Iterator[Waiting]:
    """Yield the newest and the oldest in turn: after an outage, both matter.

    Those that were *tried* in vain come last.
    """
    fresh = deque(segment for segment in segments if segment.name not in tried)
    again = deque(segment for segment in segments if segment.name in tried)
    for left in (fresh, again):
        while left:
            yield left.pop()
            if left:
                yield left.popleft()
