"""What rows have in common: how long such stages usually take, which rows are one incident, sums.

Pure. Only durations and names of what was looked at are read, unless the caller asks for more.
"""

from bisect import bisect_left, bisect_right
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from operator import attrgetter
from sys import intern
from typing import Any, Final

from otel_logging import _names
from otel_logging.lateness.verdict import late_by
from otel_logging.traces.failed import is_bad
from otel_logging.traces.late import TELL_LITTLE, THEN, Answer, Row
from otel_logging.traces.path import NOTHING, without_middle, words
from otel_logging.traces.span import Span
from otel_logging.traces.trace import Trace

_FOLDED = 5  # siblings of one name are one row from here on
_ENOUGH = 5  # stages of one name: with fewer there is no usual duration
_AT_ONCE_NS = 1_000_000_000
_START: Final = attrgetter("span.start_ns")
_COMPARED = 1_000  # rows near those listed: beyond this many, no more are counted
_COUNTED = 5_000  # stages: beyond this many, a user's are not counted: too slow

#: Attributes in which rows may differ, by rank; the application's own come after them.
_TELLING: Final[tuple[str, ...]] = (
    *("http.route", "url.path", "http.target", "url.full", "http.url", "room", "room_id"),
    *("job", "job_id", _names.JOB_TAG, "messaging.destination.name", "rpc.method"),
)
_MOST_TELLING = 2
_MOST = 50  # per cent of the samples of a stage
_MOST_CHARACTERS = 40


def usual(answer: Answer[Row]) -> Callable[[Row], tuple[float, float] | None]:
    """Return a function that says how long a row's stage usually takes: the seconds within which
    half, and 95 %, of all stored stages of its name and service end. None if there are too few.
    """
    took: dict[Any, list[float]] = {_kind(row.span): [] for row in answer.rows}
    for row in answer.considered:
        if (each := took.get(_kind(row.span))) is not None:
            each.append(row.span.duration_s)
    for each in took.values():
        each.sort()

    def of(row: Row) -> tuple[float, float] | None:
        each = took[_kind(row.span)]
        return (_percentile(each, 50), _percentile(each, 95)) if len(each) >= _ENOUGH else None

    return of


def _kind(span: Span) -> tuple[str, str]:
    return span.resource.service, span.stored_name


def _percentile(ordered: Sequence[float], percent: int) -> float:
    """Return the smallest of *ordered* that at least *percent* of them do not exceed."""
    return ordered[max(-(-len(ordered) * percent // 100) - 1, 0)]


def of_the_same(answer: Answer[Row]) -> Callable[[Row], tuple[int, int] | None]:
    """Return a function that says how many root stages of a row's user were late, and how many
    there are; None if the user is unknown, or this is the only one.
    """
    late: dict[str, int] = defaultdict(int)
    every: dict[str, int] = defaultdict(int)
    if answer.judged and len(answer.considered) <= _COUNTED:
        for row in answer.considered:
            if row.is_root and (user := user_of(row)):
                every[user] += 1
                late[user] += row.late_by_s is not None

    def of(row: Row) -> tuple[int, int] | None:
        user = user_of(row)
        return (late[user], every[user]) if every.get(user, 0) > 1 else None

    return of


def user_of(row: Row) -> str:
    """Return on whose behalf a row ran, as one text; empty if that is unknown."""
    if row.user is None:
        row.user = intern(", ".join(map(str, row.who.values())))
    return row.user


def telling(rows: Sequence[Row]) -> Callable[[Row], dict[str, Any]]:
    """Return a function that returns the attributes in which a row differs from the others."""
    seen: dict[str, set[str]] = defaultdict(set)
    for row in rows:
        for key, value in _short(row).items():
            seen[key].add(str(value))
    differing = [key for key, values in seen.items() if len(values) > 1]
    ranked = [key for key in _TELLING if key in seen and (len(rows) == 1 or key in differing)]
    ranked += [key for key in differing if key not in _TELLING and "." not in key]

    def of(row: Row) -> dict[str, Any]:
        name = row.span.name
        own = {k: v for k, v in _short(row).items() if k in ranked and str(v) not in name}
        return {key: own[key] for key in [key for key in ranked if key in own][:_MOST_TELLING]}

    return of


def _short(row: Row) -> dict[str, Any]:
    return {
        key: value
        for key, value in row.span.attributes.items()
        if isinstance(value, (str, int))
        and len(str(value)) <= _MOST_CHARACTERS
        and key not in row.trace.who_keys
        and not key.startswith(_names.LATE)
    }


# ---------------------------------------------------------------- several rows as one


@dataclass(frozen=True, slots=True)
class Group:
    """Rows that share *key*, the worst first. *lost_s*: the sum of their lateness, or,
    if none was late, of their durations.
    """

    key: str
    rows: list[Row]

    @property
    def lost_s(self) -> float:
        """Seconds lost by all of them."""
        late = [row.late_by_s for row in self.rows if row.late_by_s is not None]
        return sum(late) if late else sum(row.span.duration_s for row in self.rows)

    @property
    def users(self) -> list[str]:
        """On whose behalf they ran, each once."""
        return list(dict.fromkeys(filter(None, map(user_of, self.rows))))

    def as_json(self) -> dict[str, Any]:
        """Return it as ``--group`` and ``--summary`` print it with ``--json``."""
        worst = self.rows[0]
        return {
            "key": self.key,
            "count": len(self.rows),
            "users": self.users,
            "lost_s": round(self.lost_s, 9),
            "worst_trace_id": worst.span.trace_id,
            "worst_latency_s": worst.span.duration_s,
        }


def reason_key(row: Row) -> str:
    """Return why a row was late, without figures: rows with the same key had the same reason."""
    if (cause := row.cause) not in TELL_LITTLE:
        work, whose = row.text(_names.LATE_CULPRIT), ", ".join(map(str, row.culprit.values()))
        culprit = f"{work} for {whose}" if work and whose else work or whose
        culprit = culprit or row.text(_names.LATE_DETAIL) or ""
        return f"{culprit} ({cause})" if culprit else str(cause)
    path = row.path
    inner = [step.stage for step in path[1:]]
    if path[-1].spread:
        inner.append(f"many stages in {path[-1].stage}")
    if inner:
        return " → ".join(without_middle(inner))
    is_empty = words(path, row.waited) == [NOTHING] and row.text(_names.LATE_WHERE) is None
    how = ", nothing recorded inside" if is_empty else ", in a queue" if row.waited else " itself"
    return _place(row) or f"{row.span.name}{how}"


def _place(row: Row) -> str:
    """Return where a row stood most of the time; empty where that is not known."""
    share, _, place = (row.text(_names.LATE_WHERE) or "").split(THEN)[0].partition(" % ")
    return place if share.isdecimal() and int(share) >= _MOST else ""


def _is_shared(row: Row) -> bool:
    """Whether something other than the stage's own time made it late."""
    if row.cause in TELL_LITTLE:
        return len(row.path) > 1 or bool(_place(row))
    return row.cause != "cpu" or row.text(_names.LATE_CULPRIT) is not None


#: What ``--group`` takes.
KEYS: Final[Mapping[str, Callable[[Row], str]]] = {
    "stage": lambda row: row.span.name,
    "who": lambda row: user_of(row) or "-",
    "reason": reason_key,
}


def grouped(rows: Iterable[Row], key: Callable[[Row], str]) -> list[Group]:
    """Put *rows* into groups; the group that lost most comes first."""
    found: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        found[key(row)].append(row)
    groups = [Group(name, each) for name, each in found.items()]
    return sorted(groups, key=lambda group: group.lost_s, reverse=True)


def sentence(group: Group, lost: str) -> str:
    """Return what ``--summary`` says: "upload for alice (loop) made 14 users late by 31 s"."""
    if group.rows[0].late_by_s is None:  # nothing has a budget
        return f"{group.key}: {lost}" + f" in all, {len(group.rows)} times" * (len(group.rows) > 1)
    users = len(group.users)
    whom = f"{users} users " if users > 1 else "".join(f"{user} " for user in group.users)
    times = f"{len(group.rows)} times, " if len(group.rows) > max(users, 1) else ""
    late = f"late {times}by {lost}" + " in all" * (len(group.rows) > 1)
    if group.rows[0].cause not in TELL_LITTLE:
        return f"{group.key} made {whom or 'somebody '}{late}"
    return f"{group.key}: {whom}{late}"


def incidents(answer: Answer[Row]) -> Iterator[tuple[Group, str]]:
    """Yield each incident, and in words how many rows it has.

    An incident: rows of several users, or unowned ones, that start within a second and share one
    reason that is not their own time. At least one of them is listed.
    """
    listed = {row for row in answer.rows if _is_shared(row)}
    near = _near(listed, sorted(answer.every, key=_START)) if listed else []
    for group in grouped(filter(_is_shared, near[:_COMPARED]), reason_key):
        rows, end = sorted(group.rows, key=_START), 0
        while (begin := end) < len(rows):
            end = bisect_right(rows, _START(rows[begin]) + _AT_ONCE_NS, key=_START)
            one = Group(group.key, rows[begin:end])
            if listed.isdisjoint(one.rows):
                continue
            users, of_nobody = len(one.users), sum(not user_of(row) for row in one.rows)
            more = " or more" * (len(near) > _COMPARED)
            if users + of_nobody > 1:
                yield one, f"{users} users{more}" if users > 1 else f"{len(one.rows)} stages{more}"


def _near(listed: Iterable[Row], every: list[Row]) -> list[Row]:
    """Return *listed*, and then the others that are within a second of one of them."""
    found = dict.fromkeys(listed)
    reached = 0
    for start in sorted(map(_START, found)):
        begin = bisect_left(every, start - _AT_ONCE_NS, lo=reached, key=_START)
        reached = bisect_right(every, start + _AT_ONCE_NS, lo=begin, key=_START)
        found.update(dict.fromkeys(every[begin:reached]))
    return list(found)


# ---------------------------------------------------------------- several stages as one


class Folding:
    """Makes one row of five or more siblings of one name, except those that failed or were late, or
    have such a stage below.
    """

    def __init__(self, trace: Trace) -> None:
        self._trace = trace

    @cached_property
    def _apart(self) -> set[str]:
        trace = self._trace
        may_be = [s for s in trace.spans.values() if s.budget_s is not None or s.may_have_failed]
        return trace.at_or_above(
            s for s in may_be if late_by(s.duration_s, s.budget_s) or is_bad(s, trace)
        )

    def __call__(self, siblings: Sequence[Span]) -> list[list[Span]]:
        """Put *siblings* into the groups that are one row each."""
        if max(Counter([s.stored_name for s in siblings]).values(), default=0) < _FOLDED:
            return one_by_one(siblings)  # they may be 100,000 different ones
        apart = self._apart
        equal, parts = defaultdict[Any, list[Span]](list), list[list[Span]]()
        for span in siblings:
            if span.span_id in apart:
                parts.append([span])
            else:
                equal[_kind(span)].append(span)
        for some in equal.values():
            parts += [some] if len(some) >= _FOLDED else one_by_one(some)
        return sorted(parts, key=lambda part: part[0].start_ns)


def one_by_one(siblings: Sequence[Span]) -> list[list[Span]]:
    """Put each of *siblings* into a group of its own."""
    return [[span] for span in siblings]
