"""Was a stage late, by how much, and why? Pure, shared by the side that writes and the side that
reads.

In: the facts of a finished stage. Out: its latency, shared out among causes, and the cause; as a
sentence that a person reads.
Invariants: each moment has one cause, so the shares sum to the latency; a stage is explained by
its critical path. Deliberately absent: clocks, spans, files, colours.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from heapq import heappop, heappush
from itertools import pairwise
from typing import Any, Final, NamedTuple

from otel_logging._text import duration

GC, LOOP, LOCK, POOL, QUEUE = "gc", "loop", "lock", "pool", "queue"
DOWNSTREAM, CPU, UNKNOWN = "downstream", "cpu", "unknown"
#: Measured by the package alone; any other cause is a wait that the application names.
MEASURED: Final = frozenset({GC, LOOP, CPU, UNKNOWN})
#: If several causes hold in one moment, the first counts. An application's own ranks as a pool.
RANK: Final = {GC: 0, LOOP: 1, LOCK: 2, POOL: 3, QUEUE: 4, DOWNSTREAM: 5, CPU: 6, UNKNOWN: 7}
_DEPTH: Final = 100  # of children within children that are explained
_MOST_OF_IT: Final = 0.51  # a little more than a half, which may be chance


Who = tuple[tuple[str, str], ...]


class Why(NamedTuple):
    """What a moment went to: *detail* names it, *culprit* what did it, *who* on whose behalf."""

    detail: str = ""
    culprit: str = ""
    who: Who = ()

    @property
    def party(self) -> object:
        """Who did it, as far as that is known: whatever it was that they did."""
        return self.who or self.culprit


class Interval(NamedTuple):
    """A time with a known cause. All times are ns of one clock."""

    cause: str
    start: int
    end: int
    why: Why = Why()
    #: Called for the ``Why`` instead of *why*, when that is needed.
    ask: Callable[[], Why] | None = None


_Waits = Sequence[Interval]


class Facts(NamedTuple):
    """What was measured of a finished stage. *start*: when it was handed over, or began."""

    name: str
    start: int
    end: int
    #: A call that leaves the process, whose time is not ours to explain.
    is_downstream: bool = False
    waits: Sequence[Interval] = ()
    children: Sequence["Facts"] = ()
    #: What its thread, or threads for it, computed in it, without its children.
    cpu: int = 0
    #: Waits that were seen in its frames: also those in a child that took that time.
    seen: Sequence[Interval] = ()


class Verdict(NamedTuple):
    """Shares in ns by cause, largest first; the cause to name, what is known of it, and how much
    of its share was that one's.
    """

    shares: Mapping[str, int]
    cause: str
    why: Why
    took: int


def late_by(latency_s: float, budget_s: float | None) -> float | None:
    """Return by how many seconds *latency_s* is over *budget_s*; None where it is not,
    or where there is no budget.
    """
    return None if budget_s is None or latency_s <= budget_s else latency_s - budget_s


def judge(stage: Facts, pauses: Sequence[Interval] = (), over: int = 0) -> Verdict:
    """Share the latency of *stage* out among causes, and name the one that made it late by *over*.

    *pauses* hold for everything that the stage did. A known cause is named where without it the
    stage would have been in time, or where it is more than what is not known beyond the budget;
    else the largest share is.
    """
    spent: Counter[tuple[str, Why]] = Counter()
    unknown: dict[int, tuple[Facts, int]] = {}
    own: Counter[int] = Counter()  # computing that was seen, of each
    for owner, start, end, waits in _path(stage, stage.start, stage.end, stage.waits):
        for cause, why, took in _moments(owner, start, end, [*pauses, *waits]):
            if cause == UNKNOWN:
                unknown[id(owner)] = owner, unknown.get(id(owner), (owner, 0))[1] + took
            else:
                spent[cause, why] += took
                own[id(owner)] += took * _is_own(cause, why)
    for owner, took in unknown.values():
        computed = min(max(owner.cpu - own[id(owner)], 0), took)
        spent[CPU, Why(owner.name)] += computed
        rest = UNKNOWN if owner is stage else DOWNSTREAM
        spent[rest, Why() if owner is stage else Why(owner.name)] += took - computed
    shares: Counter[str] = Counter()
    for (cause, _), took in spent.items():
        shares[cause] += took
    ranked = {cause: took for cause, took in shares.most_common() if took}
    # unknown time up to the budget counts as what the stage takes anyway
    least = min(max(over, 1), ranked.get(UNKNOWN, 0) - (stage.end - stage.start - over) + 1)
    known = [cause for cause, took in ranked.items() if cause != UNKNOWN and took >= least]
    cause = next(iter(known or ranked), UNKNOWN)
    parties: dict[object, list[tuple[int, Why]]] = {}
    for (of, why), took in spent.items():
        if of == cause:
            parties.setdefault(why.party or why.detail, []).append((took, why))
    worst = max(parties.values(), key=lambda parts: sum(took for took, _ in parts), default=[])
    _, why = max(worst, default=(0, Why()))
    most_of_it = sum(took for took, _ in worst)
    return Verdict(ranked, cause, why, ranked.get(cause, 0) if cause == GC else most_of_it)


def sentence(
    name: str,
    who: Who,
    start: datetime,
    latency_s: float,
    budget_s: float,
    verdict: Verdict,
    where: str = "",
) -> str:
    """Return why a stage was late: whose, when, by how much, behind what."""
    whose = f"{who[0][1]}'s {name}" if who else name
    when = start.time().isoformat("milliseconds")  # ``strftime`` imports: not while Python exits
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
        GC: f"in garbage collection ({detail or 'of unknown work'})",
        LOOP: f"{behind}{for_whom}, which blocked the event loop",
        LOCK: f"waiting for the lock{named}{held}",
        POOL: f"waiting for the pool{named}{held}",
        QUEUE: f"in a queue{f', behind {culprit}{for_whom}' if culprit else ''}",
        DOWNSTREAM: f"in {detail or 'a call to elsewhere'}",
        CPU: f"{behind}{for_whom}, which kept the interpreter busy"
        if culprit
        else f"of its own work{f' in {detail}' if detail else ''}",
        UNKNOWN: f"without a known cause{f': {where}' if where else ''}",
    }
    return sentences.get(verdict.cause, f"waiting for {verdict.cause}{named}{held}")


def most(
    held: Iterable[tuple[int, int, Why]], start: int, end: int, *, is_shared: bool = False
) -> Why | None:
    """Return who had something for most of a time; None if nobody did, or if that is not known.

    *held*: since when, until when, in part within that time, and who: one whose *culprit* has no
    name is not known. *is_shared*: several have it at once: who is returned had most of it as well.
    """
    had: Counter[Any] = Counter()
    parts: Counter[Any] = Counter() if is_shared else had
    until: dict[Any, int] = {}
    longest: dict[Any, tuple[int, Why]] = {}
    for since, ended, why in sorted(held):
        one, since, ended = why.party, max(since, start), min(ended, end)
        if is_shared:
            parts[one] += ended - since
        had[one] += max(ended - max(since, until.get(one, start)), 0)
        until[one] = max(ended, until.get(one, start))
        longest[one] = max(longest.get(one, (0, why)), (ended - since, why))
    worst = max(parts, key=lambda one: (parts[one], bool(one)), default=None)
    most_of_all = parts.total() * _MOST_OF_IT if is_shared else 0
    is_most = had[worst] * 2 > end - start and parts[worst] > most_of_all
    return longest[worst][1] if worst and is_most else None


def _path(
    stage: Facts, start: int, end: int, waits: _Waits, depth: int = 0, seen: _Waits = ()
) -> Iterator[tuple[Facts, int, int, _Waits]]:
    """Yield who was on the critical path, when, and with which waits, backwards: each child that
    ended last, and before the next one began. One that outlives the stage was not waited for.
    *seen*: waits of a stage further up, which did nothing else meanwhile.
    """
    children = stage.children if depth < _DEPTH else ()
    there = sorted(children, key=lambda child: child.end, reverse=True)
    first = stage.end
    for child, before in zip(there, [*there[1:], None], strict=False):
        began, ended = max(child.start, start), min(child.end, end)
        is_alone = child.end <= first and (before is None or before.end <= child.start)
        first = min(first, child.start)
        if began < ended and child.end <= stage.end:
            yield stage, ended, end, waits
            of_all = _and(stage.seen, seen, began, ended) if is_alone else ()
            known = _and(child.waits, of_all, began, ended)
            yield from _path(child, began, ended, known, depth + 1, of_all)
            end = began
    yield stage, start, end, waits


def _and(known: _Waits, seen: _Waits, start: int, end: int) -> _Waits:
    """Return the *known* waits, and what was *seen* between two times, but for their moments."""
    left = [each for each in seen if each.start < end and each.end > start]
    for wait in known if left else ():
        parts = [(e, (e.start, min(e.end, wait.start))) for e in left]
        parts += [(e, (max(e.start, wait.end), e.end)) for e in left]
        left = [each._replace(start=a, end=b) for each, (a, b) in parts if a < b]
    return [*known, *left]


def _is_own(cause: str, why: Why) -> bool:
    """Say whether this is a stage's own computing."""
    return cause == CPU and not why.culprit


def _moments(
    owner: Facts, start: int, end: int, known: Sequence[Interval]
) -> Iterator[tuple[str, Why, int]]:
    """Yield cause, reason and length of each part of a time that *owner* had for itself."""
    there = [each for each in known if each.start < end and each.end > start]
    # another's computing before one's own: that has a clock, and is known without being seen
    there.sort(key=lambda each: (RANK.get(each.cause, RANK[POOL]), _is_own(each.cause, each.why)))
    cuts = {start, end, *(t for each in there for t in each[1:3] if start < t < end)}
    base = Interval(DOWNSTREAM if owner.is_downstream else UNKNOWN, start, end, Why(owner.name))
    coming = sorted(range(len(there)), key=lambda number: there[number].start, reverse=True)
    holding: list[int] = []  # of those that have begun, the first that counts before the others
    for left, right in pairwise(sorted(cuts)):
        while coming and there[coming[-1]].start <= left:
            heappush(holding, coming.pop())
        while holding and there[holding[0]].end <= left:
            heappop(holding)
        found = there[holding[0]] if holding else base
        if RANK.get(found.cause, 0) > RANK[base.cause]:
            found = base
        yield found.cause, found.why if found.ask is None else found.ask(), right - left
