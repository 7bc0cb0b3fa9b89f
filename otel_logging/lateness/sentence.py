"""A verdict as a sentence that a person reads.

In: what a stage was, and a ``Verdict``. Out: one line. Deliberately absent: colours, columns.
"""

from datetime import datetime

from otel_logging._text import duration
from otel_logging.lateness import verdict as causes
from otel_logging.lateness.verdict import Verdict


def sentence(
    name: str,
    who: tuple[tuple[str, str], ...],
    start: datetime,
    latency_s: float,
    budget_s: float,
    verdict: Verdict,
    where: str = "",
) -> str:
    """Return why a stage was late: whose, when, by how much, behind what."""
    whose = f"{who[0][1]}'s {name}" if who else name
    when = f"{start:%H:%M:%S}.{start.microsecond // 1000:03d}"
    took = f"took {duration(latency_s)} (budget {duration(budget_s)})"
    share = duration(verdict.took / 1e9)
    return f"{whose} of {when} {took}: {share} {_because(verdict, where)}"


def _because(verdict: Verdict, where: str) -> str:
    detail, culprit, blamed = verdict.why
    behind = f"behind {detail or culprit}" if detail or culprit else "behind other work"
    for_whom = f" for {blamed[0][1]}" if blamed else ""
    held = f", held by {culprit}{for_whom}" if culprit else ""
    named = f" {detail}" if detail else ""
    sentences = {
        causes.GC: f"in garbage collection ({detail or 'of unknown work'})",
        causes.LOOP: f"{behind}{for_whom}, which blocked the event loop",
        causes.LOCK: f"waiting for the lock{named}{held}",
        causes.POOL: f"waiting for the pool{named}{held}",
        causes.QUEUE: f"in a queue{f', behind {culprit}{for_whom}' if culprit else ''}",
        causes.DOWNSTREAM: f"in {detail or 'a call to elsewhere'}",
        causes.CPU: f"{behind}{for_whom}, which kept the interpreter busy"
        if culprit
        else f"of computing{f' in {detail}' if detail else ''}",
        causes.UNKNOWN: f"without a known cause{f': {where}' if where else ''}",
    }
    return sentences.get(verdict.cause, f"waiting for {verdict.cause}{named}{held}")
