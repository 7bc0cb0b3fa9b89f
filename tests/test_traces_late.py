"""Late stages."""

import itertools
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from otel_logging.traces.draw import table
from otel_logging.traces.groups import KEYS, grouped, reason_key
from otel_logging.traces.late import Answer, Question, late
from otel_logging.traces.path import NOTHING
from tests.stored import MS, NOON, TRACE, Planted, read_back

USER = {"user_id": "user-456"}


def asked(base: Path, *spans: Planted, limit: int | None = None, **question: Any) -> Answer:
    return late(read_back(base, *spans), Question(**question), limit=limit)


def stages(answer: Answer) -> list[str]:
    return [row.span.name for row in answer.rows]


def other(n: int) -> str:
    return f"{n:032x}"


def test_a_late_row_has_who_and_where_the_time_went(tmp_path: Path) -> None:
    """The whole row, as --json prints it."""
    answer = asked(
        tmp_path,
        Planted(1, 0, "message", 0, 1204, {**USER, "budget_s": 0.3}),
        Planted(2, 1, "transcribe", 5, 905),
        Planted(3, 2, "load model", 10, 650),
        Planted(4, 1, "answer", 906, 1200),
        Planted(1, 0, "message", 0, 200, {"budget_s": 0.3}, trace=other(1)),
    )

    assert [row.as_json() for row in answer.rows] == [
        {
            "trace_id": TRACE,
            "span_id": f"{1:016x}",
            "service": "chat-gateway",
            "stage": "message",
            "start": "2023-11-14T22:13:20.000000Z",
            "latency_s": 1.204,
            "budget_s": 0.3,
            "late_by_s": 0.904,
            "late": True,
            "error": False,
            "who": {"user_id": "user-456"},
            "path": [
                {
                    "stage": "message",
                    "span_id": f"{1:016x}",
                    "took_s": 1.204,
                    "count": 1,
                    "at_once": False,
                    "own_s": 0.01,
                    "between": None,
                },
                {
                    "stage": "transcribe",
                    "span_id": f"{2:016x}",
                    "took_s": 0.9,
                    "count": 1,
                    "at_once": False,
                    "own_s": 0.26,
                    "between": None,
                },
                {
                    "stage": "load model",
                    "span_id": f"{3:016x}",
                    "took_s": 0.64,
                    "count": 1,
                    "at_once": False,
                    "own_s": 0.64,
                    "between": [None, None],
                },
            ],
            "reason": "transcribe 900 ms → load model 640 ms",
            "cause": None,
            "detail": None,
            "culprit": None,
            "culprit_who": {},
            "why": None,
            "where": None,
            "shares": None,
            "link": None,
        }
    ]
    assert (answer.found, answer.looked_at, answer.judged) == (1, 2, True)


@pytest.mark.alone
@pytest.mark.parametrize(
    "question", [{}, {"who": "user-456"}, {"where": (("user_id", "user-456"),)}], ids=str
)
def test_a_trace_of_many_roots_takes_no_longer_than_many_traces(
    tmp_path: Path, question: dict[str, Any]
) -> None:
    """Its time grows as their number does, not as the square of it."""
    roots = [Planted(n, 0, "message", n, n + 9, USER) for n in range(1, 10_001)]
    spans = read_back(tmp_path, *roots)
    began = time.monotonic()

    assert late(spans, Question(**question)).found == len(roots)

    assert time.monotonic() - began < 5  # [run: 0.3 s; as the square, 12 s]


def calls(number: int) -> list[Planted]:
    """Answers to one job elsewhere: 19 queries each, of nobody."""
    return [
        Planted(n, 0 if n % 20 == 0 else n - n % 20, "x", n, n + 9, {"budget_s": 0.001})
        if n % 20
        else Planted(n, 10**12, "GET /item", n, n + 20, {"budget_s": 0.001}, flags=0x301)
        for n in range(20, number + 20)
    ]


def chain(number: int) -> list[Planted]:
    """Each stage in another, each with a budget, of nobody."""
    return [
        Planted(n, n - 1, "step", n, 2 * number - n, {"budget_s": 99.0})
        for n in range(1, number + 1)
    ]


def flat(number: int) -> list[Planted]:
    """The late items of one job; a user below every second one."""
    return [
        Planted(1, 0, "job", 0, number),
        *(
            Planted(n, n - 1 if n % 2 else 1, "item", n, n + 1, {} if n % 2 == 0 else {**USER})
            for n in range(2, number + 1)
        ),
    ]


@pytest.mark.parametrize("shape", [calls, chain, flat])
@pytest.mark.parametrize(
    "question", [{}, {"who": "user-7"}, {"who": "user-456"}, {"over_s": 0.0001}], ids=str
)
def test_the_work_grows_as_the_number_of_stages(
    tmp_path: Path, shape: Callable[[int], list[Planted]], question: dict[str, Any]
) -> None:
    """Not as its square: the calls of functions are counted."""

    def work(number: int) -> int:
        spans, counted = read_back(tmp_path / str(number), *shape(number)), itertools.count()

        def count(*_: object) -> None:
            next(counted)

        sys.setprofile(count)
        try:
            answer = late(spans, Question(**question))
            list(map(table.facts(answer), answer.rows[:20]))
            grouped(answer.rows, KEYS["who"])
        finally:
            sys.setprofile(None)
        return next(counted)

    assert work(2000) < 2.5 * work(1000)


def test_who_is_below_several(tmp_path: Path) -> None:
    """Of three users below a stage none is its own, and each is found."""
    users = ("ada", "ben", "cid")
    answer = asked(
        tmp_path,
        Planted(1, 0, "outer", 0, 900, {"budget_s": 0.1}),
        *(Planted(n, 1, "inner", n, n + 9, {"user_id": u}) for n, u in enumerate(users, 2)),
    )
    assert [(row.span.name, row.who) for row in answer.rows] == [("outer", {})]
    for user in users:
        assert stages(asked(tmp_path, who=user)) == ["outer"]
    assert stages(asked(tmp_path, who="dan")) == []


def test_what_is_marked_below_a_deep_stage_is_found_once(tmp_path: Path) -> None:
    """All above it have it, each; of what the root has, all below it."""
    deep = [Planted(n, n - 1, f"{n}", 0, 9, {"budget_s": 9.0, "k": n // 3}) for n in range(1, 9)]

    for value, found in (("0", 8), ("1", 5), ("2", 8), ("3", 0)):
        assert asked(tmp_path / value, *deep, where=(("k", value),)).looked_at == found


def test_a_link_finds_what_is_inside_where_that_says_most(tmp_path: Path) -> None:
    """Of many stages that share the time the longest; none where the path says where it went."""
    at = {"trace": "b" * 32}
    spans = [
        *(Planted(n, 1, f"step {n}", n * 10, n * 11, **at) for n in range(2, 30)),
        Planted(1, 0, "import", 0, 320, **at),
        Planted(1, 0, "message", 0, 300),
        Planted(2, 1, "answer", 0, 290),
        Planted(3, 2, "search", 0, 90),
    ]
    spread, path = asked(tmp_path, *spans).rows
    assert spread.reason[0].startswith("28 different stages")
    assert spread.ids[1:] == (f"{1:016x}", f"{1:016x}", f"{29:016x}")
    assert path.ids == (TRACE, f"{1:016x}", f"{2:016x}")


@pytest.mark.parametrize("measured", [{}, {"late.cause": "unknown"}])
def test_a_stage_that_waited_to_be_taken_says_so(
    tmp_path: Path, measured: dict[str, object]
) -> None:
    """Also where nothing was measured, if that was half of its time; not where it was less, or
    where the time went elsewhere.
    """
    waits, quick = {"queue.wait_s": 0.6, **measured}, {"queue.wait_s": 0.4, **measured}
    spans = [
        Planted(1, 0, "message", 0, 1000, waits, trace="a" * 32),
        Planted(1, 0, "message", 0, 900, quick, trace="b" * 32),
        Planted(1, 0, "message", 0, 800, quick, trace="c" * 32),
        Planted(2, 1, "answer", 400, 800, trace="c" * 32),
        Planted(1, 0, "message", 0, 700, {}, trace="d" * 32),
        Planted(2, 1, "answer", 0, 700, waits, trace="d" * 32),
        Planted(1, 0, "message", 0, 599, waits, trace="e" * 32),
    ]
    rows = asked(tmp_path, *spans).rows
    said = ["600 ms in a queue", NOTHING, "answer 400 ms", "answer 700 ms → 600 ms in a queue"]
    assert [" → ".join(row.reason) for row in rows] == [*said, NOTHING]  # the wait was before it
    assert reason_key(rows[0]) == "message, in a queue"


@pytest.mark.parametrize("key", ["late.cause", "late.where", "late.why"])
def test_what_another_program_left_empty_is_not_there(tmp_path: Path, key: str) -> None:
    """Where the time went is said, on the stage or below it."""
    spans = [
        Planted(1, 0, "message", 0, 1000, {key: ""}, trace="a" * 32),
        Planted(1, 0, "message", 0, 900, {}, trace="b" * 32),
        Planted(2, 1, "answer", 0, 900, {key: ""}, trace="b" * 32),
    ]
    rows = asked(tmp_path, *spans).rows
    assert [" → ".join(row.reason) for row in rows] == [NOTHING, "answer 900 ms"]
    assert [row.cause for row in rows] == [None, None]


def test_without_budgets_the_slowest_come_first_and_none_is_late(tmp_path: Path) -> None:
    """Nothing said what late is, so nothing is called late."""
    answer = asked(
        tmp_path,
        Planted(1, 0, "quick", 0, 10),
        Planted(1, 0, "slow", 0, 900, trace=other(1)),
    )

    assert stages(answer) == ["slow", "quick"]
    assert not answer.judged
    row = answer.rows[0].as_json()
    assert (row["late"], row["late_by_s"], row["budget_s"], row["who"]) == (False, None, None, {})


def test_over_takes_the_place_of_every_budget(tmp_path: Path) -> None:
    """Both ways: what its budget forgives, and what it does not."""
    spans = (
        Planted(1, 0, "patient", 0, 500, {"budget_s": 9.0}),
        Planted(1, 0, "strict", 0, 100, {"budget_s": 0.05}, trace=other(1)),
        Planted(1, 0, "silent", 0, 300, trace=other(2)),
    )

    answer = asked(tmp_path, *spans, over_s=0.2)

    assert stages(answer) == ["patient", "silent"]
    assert [(r.span.budget_s, r.late_by_s) for r in answer.rows] == [(9.0, 0.3), (None, 0.1)]
    assert answer.judged


def test_exactly_the_budget_is_not_late(tmp_path: Path) -> None:
    """Late is more than the budget."""
    answer = asked(tmp_path, Planted(1, 0, "message", 0, 500, {"budget_s": 0.5}))

    assert (answer.rows, answer.found, answer.looked_at, answer.judged) == ([], 0, 1, True)


def test_the_worst_is_first_and_the_limit_cuts_the_rest(tmp_path: Path) -> None:
    """Worst is furthest over its budget, then longest."""
    spans = (
        Planted(1, 0, "long, little over", 0, 1000, {"budget_s": 0.9}),
        Planted(1, 0, "short, far over", 0, 500, {"budget_s": 0.1}, trace=other(1)),
        Planted(1, 0, "longer, little over", 0, 1100, {"budget_s": 1.0}, trace=other(2)),
    )

    assert stages(asked(tmp_path, *spans)) == [
        "short, far over",
        "longer, little over",
        "long, little over",
    ]
    limited = late(read_back(tmp_path), Question(), limit=1)
    assert (stages(limited), limited.found) == (["short, far over"], 3)


def test_a_stage_is_a_row_if_its_root_is_not(tmp_path: Path) -> None:
    """The delay of a stage under a late root is that root's row; who comes from above."""
    answer = asked(
        tmp_path,
        Planted(1, 0, "patient", 0, 1000, USER),
        Planted(2, 1, "strict", 0, 500, {"budget_s": 0.1}),
        Planted(1, 0, "late", 0, 1000, {"budget_s": 0.5}, trace=other(1)),
        Planted(2, 1, "late too", 0, 900, {"budget_s": 0.1}, trace=other(1)),
    )

    assert stages(answer) == ["late", "strict"]
    strict = answer.rows[1]
    assert (strict.span.span_id, strict.who) == (f"{2:016x}", USER)
    assert answer.looked_at == 4


def test_a_stage_with_a_missing_parent_counts_as_a_root(tmp_path: Path) -> None:
    """Its parent still runs, or was another process's."""
    assert stages(asked(tmp_path, Planted(2, 77, "orphan", 0, 9))) == ["orphan"]


def test_holders_of_log_lines_are_never_rows(tmp_path: Path) -> None:
    """Neither lines outside any stage, nor pages of lines."""
    answer = asked(
        tmp_path,
        Planted(1, 0, "process log", 0, 60_000),
        Planted(2, 77, "log", 0, 0, {"log.page": 1}, trace=other(1)),
    )

    assert (answer.rows, answer.looked_at) == ([], 0)


def test_only_what_ended_since_then_is_looked_at(tmp_path: Path) -> None:
    """A stage that began before and ended after counts."""
    answer = asked(
        tmp_path,
        Planted(1, 0, "before", 0, 99),
        Planted(1, 0, "across", 0, 101, trace=other(1)),
        since_ns=NOON + 100 * MS,
    )

    assert stages(answer) == ["across"]


def test_only_the_service_asked_for_is_looked_at(tmp_path: Path) -> None:
    """A stage of it under a late root of another service becomes a row then."""
    root = Planted(1, 0, "gateway", 0, 500, {"budget_s": 0.1})
    below = Planted(2, 1, "billing", 0, 400, {"budget_s": 0.1})
    spans = [
        *read_back(tmp_path / "a", root),
        *read_back(tmp_path / "b", below, service="billing"),
    ]

    assert stages(late(spans, Question())) == ["gateway"]
    assert stages(late(spans, Question(service="billing"))) == ["billing"]
    assert stages(late(spans, Question(service="nobody"))) == []


# ---------------------------------------------------------------- on whose behalf


def test_who_is_looked_for_on_the_stage_then_above_then_below(tmp_path: Path) -> None:
    """The nearest one above counts; a stage of a batch is its own user's."""
    answer = asked(
        tmp_path,
        Planted(1, 0, "batch", 0, 900, {"user_id": "system"}),
        Planted(2, 1, "item", 0, 400, {"user_id": "user-1"}),
        Planted(3, 2, "step", 0, 300, {"budget_s": 0.1}),
        Planted(1, 0, "message", 0, 200, {"budget_s": 0.1}, trace=other(1)),
        Planted(2, 1, "bound here", 0, 9, USER, trace=other(1)),
        Planted(3, 1, "here too", 10, 19, USER, trace=other(1)),
    )

    assert {row.span.name: row.who for row in answer.rows} == {
        "step": {"user_id": "user-1"},
        "message": USER,
    }


def test_with_two_users_below_a_stage_has_no_who(tmp_path: Path) -> None:
    """One user's work is never filed under another's name; but both can be asked for."""
    spans = (
        Planted(1, 0, "batch", 0, 900),
        Planted(2, 1, "item", 0, 400, {"user_id": "user-1"}),
        Planted(3, 1, "item", 0, 300, {"user_id": "user-2"}),
    )

    assert asked(tmp_path, *spans).rows[0].who == {}
    assert stages(late(read_back(tmp_path), Question(who="user-2"))) == ["batch"]


def test_who_selects_by_the_value_of_any_who_key(tmp_path: Path) -> None:
    """Which keys these are, the services of the trace have said."""
    spans = read_back(
        tmp_path,
        Planted(1, 0, "mine", 0, 9, {"user_id": "u", "tenant": 7}),
        Planted(1, 0, "yours", 0, 8, {"user_id": "v", "tenant": 7}, trace=other(1)),
        Planted(1, 0, "nobody's", 0, 7, {"note": "u"}, trace=other(2)),
        who=["user_id", "tenant"],
    )

    assert stages(late(spans, Question(who="u"))) == ["mine"]
    assert stages(late(spans, Question(who="7"))) == ["mine", "yours"]
    assert stages(late(spans, Question(who="w"))) == []
    assert late(spans, Question()).rows[0].who == {"user_id": "u", "tenant": 7}


def test_who_is_that_of_the_stage_where_another_one_is_below(tmp_path: Path) -> None:
    """Asked for the one below, the root is not a row: it ran for somebody else."""
    spans = (
        Planted(1, 0, "message", 0, 900, USER),
        Planted(2, 1, "on behalf", 0, 400, {"user_id": "user-1"}),
    )

    assert stages(asked(tmp_path, *spans, who="user-1")) == []


# ---------------------------------------------------------------- attributes


@pytest.mark.parametrize(
    ("value", "wanted"),
    [
        ("Berlin", "Berlin"),
        ("a=b", "a=b"),
        ("", ""),
        (True, "true"),
        (False, "false"),
        (12, "12"),
        (-0.5, "-0.5"),
        (1e-7, "1e-07"),
        (float("inf"), "Infinity"),  # as it is stored
        (["a"], "['a']"),
        ("[a]", "[a]"),
    ],
)
def test_where_compares_attributes_as_text(tmp_path: Path, value: object, wanted: str) -> None:
    """As Jaeger does: booleans are true and false."""
    span = Planted(1, 0, "message", 0, 1, {"key": value, "other": "x"})

    assert stages(asked(tmp_path, span, where=(("key", wanted),))) == ["message"]
    spans = read_back(tmp_path)
    assert stages(late(spans, Question(where=(("key", wanted + "x"),)))) == []
    assert stages(late(spans, Question(where=(("nothing", wanted),)))) == []
    assert stages(late(spans, Question(where=(("other", wanted),)))) == []


def test_an_attribute_that_is_missing_is_not_the_word_none(tmp_path: Path) -> None:
    """Even where that word stands elsewhere in the span."""
    span = Planted(1, 0, "None", 0, 1, {"empty": None})

    assert stages(asked(tmp_path, span, where=(("empty", "None"),))) == []


def test_all_pairs_stand_on_one_span_of_the_row(tmp_path: Path) -> None:
    """On the stage, its root, or below; not one here and one there."""
    spans = read_back(
        tmp_path,
        Planted(1, 0, "message", 0, 900, {"room": "a"}),
        Planted(2, 1, "stage", 0, 400, {"budget_s": 0.1, "shop": "b"}),
        Planted(3, 2, "below", 0, 300, {"city": "c", "country": "d"}),
        Planted(4, 1, "beside", 500, 600, {"city": "e"}),
    )

    def found(**pairs: str) -> list[str]:
        return stages(late(spans, Question(over_s=0.05, where=tuple(pairs.items()))))

    assert found(room="a") == ["message"]
    assert found(city="c", country="d") == ["message"]
    assert found(room="a", city="c") == []
    own_budgets = late(spans, Question(where=(("room", "a"),)))
    assert stages(own_budgets) == ["stage"]
    assert stages(late(spans, Question(where=(("city", "c"),)))) == ["stage"]
    beside = late(spans, Question(where=(("city", "e"),)))
    assert (stages(beside), beside.judged) == (["message"], False)


# ---------------------------------------------------------------- where the time went


def path(answer: Answer) -> list[tuple[str, float]]:
    return [(step.stage, step.took_s) for step in answer.rows[0].path]


def test_the_path_ends_where_a_stage_was_busy_itself(tmp_path: Path) -> None:
    """A child that took less than the time without any child open is not where it went."""
    answer = asked(
        tmp_path,
        Planted(1, 0, "message", 0, 1000),
        Planted(2, 1, "small", 0, 300),
        Planted(3, 1, "other", 300, 600),
    )

    assert path(answer) == [("message", 1.0)]


def test_time_in_which_children_overlap_counts_once(tmp_path: Path) -> None:
    """400 ms of the stage were its own: the longer of the two children took 500."""
    answer = asked(
        tmp_path,
        Planted(1, 0, "message", 0, 1000),
        Planted(2, 1, "one", 0, 500),
        Planted(3, 1, "other", 100, 600),
        Planted(4, 1, "backwards", 900, 800),
    )

    assert path(answer) == [("message", 1.0), ("other", 0.5)]


def test_a_child_counts_with_what_lies_inside_its_parent(tmp_path: Path) -> None:
    """One that goes on afterwards did not delay its parent with that."""
    answer = asked(
        tmp_path,
        Planted(1, 0, "message", 100, 300),
        Planted(2, 1, "background", 290, 5000),
        Planted(3, 1, "answer", 0, 280),
        Planted(4, 3, "deep", 0, 250),
    )

    assert path(answer) == [("message", 0.2), ("answer", 0.18), ("deep", 0.15)]


def test_the_path_ends_at_nothing(tmp_path: Path) -> None:
    """Stages of no length."""
    nothing = asked(
        tmp_path / "b",
        Planted(1, 0, "instant", 5, 5),
        Planted(2, 1, "instant too", 5, 5),
        Planted(3, 1, "log", 5, 5, {"log.page": 1}),
    )
    assert path(nothing) == [("instant", 0.0)]


def test_who_it_was_for_stands_on_any_stage_above(tmp_path: Path) -> None:
    """The nearest that has it; not each one has."""
    spans = read_back(
        tmp_path,
        Planted(1, 0, "message", 0, 200, {"user_id": "ada"}),
        Planted(2, 1, "answer", 0, 190),
        Planted(3, 2, "search", 0, 180, {"budget_s": 0.1}),
    )
    (row,) = late(spans, Question()).rows
    assert (row.span.name, row.who) == ("search", {"user_id": "ada"})
