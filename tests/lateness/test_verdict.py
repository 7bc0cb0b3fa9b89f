"""The laws of a verdict: shares sum to the latency, precedence, the critical path."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from otel_logging.lateness.verdict import Facts, Interval, Why, judge, late_by, most

CAUSES = ("gc", "loop", "lock", "pool", "queue", "downstream", "cpu")  # in their precedence
END = 1000

times = st.tuples(st.integers(-50, END + 50), st.integers(-50, END + 50)).map(sorted)
#: Of nobody, or of others: computing of nobody is the stage's own.
intervals = st.builds(
    lambda cause, when, culprit: Interval(cause, *when, Why(cause, culprit)),
    st.sampled_from((*CAUSES, "rate limit")),
    times,
    st.sampled_from(("", "resize", "parse")),
)
pauses = st.lists(intervals, max_size=6)


def stages(children: st.SearchStrategy[list[Facts]]) -> st.SearchStrategy[Facts]:
    return st.builds(
        lambda name, when, downstream, waits, below, cpu: Facts(
            name, *when, is_downstream=downstream, waits=waits, children=below, cpu=cpu
        ),
        st.sampled_from("abc"),
        times,
        st.booleans(),
        st.lists(intervals, max_size=4),
        children,
        st.integers(0, END),
    )


trees = st.recursive(
    stages(st.just([])), lambda below: stages(st.lists(below, max_size=4)), max_leaves=8
)


@given(trees, pauses, st.integers(0, END))
def test_shares_sum_to_the_latency(stage: Facts, around: list[Interval], over: int) -> None:
    """Whatever overlaps, ends late or lies outside: each moment has one cause."""
    verdict = judge(stage, around, over)
    assert sum(verdict.shares.values()) == stage.end - stage.start
    assert all(took > 0 for took in verdict.shares.values())
    assert verdict.cause in verdict.shares or not verdict.shares
    assert list(verdict.shares.values()) == sorted(verdict.shares.values(), reverse=True)


@given(trees, pauses, intervals)
def test_one_more_pause_never_lowers_its_share(
    stage: Facts, around: list[Interval], more: Interval
) -> None:
    """Nor does it change the shares of what precedes it."""
    before, after = judge(stage, around).shares, judge(stage, [*around, more]).shares
    assert after.get(more.cause, 0) >= before.get(more.cause, 0)
    rank = CAUSES.index("pool" if more.cause == "rate limit" else more.cause)
    for cause in CAUSES[: min(rank, CAUSES.index("downstream"))]:
        assert after.get(cause, 0) == before.get(cause, 0)


def test_computing_of_others_makes_no_call_of_another_service_longer() -> None:
    other = Interval("cpu", 0, 600, Why("resize", "upload"))
    assert judge(Facts("GET", 0, END, is_downstream=True, waits=[other])).shares == {
        "downstream": END
    }


def test_what_it_computed_itself_is_not_counted_again_where_others_computed_too() -> None:
    """It has a clock for that: one more look at it lowers nothing."""
    other = Interval("cpu", 600, END, Why("resize", "upload"))
    stage = Facts("s", 0, END, cpu=600, waits=[other])
    for mine in ([], [Interval("cpu", 600, 800, Why("parse"))]):
        assert judge(stage, mine).shares == {"cpu": END}
        assert judge(stage, mine).why == Why("s")
    assert judge(stage._replace(cpu=0), [Interval("cpu", 0, END)]).shares == {"cpu": END}


@given(st.sets(st.sampled_from(CAUSES), min_size=1))
def test_of_all_that_holds_at_a_moment_the_first_counts(causes: set[str]) -> None:
    """gc > loop > lock > pool > queue > downstream > cpu > unknown."""
    held = [Interval(cause, 0, END) for cause in causes]
    first = min(causes, key=CAUSES.index)
    measured = [each for each in held if each.cause in ("gc", "loop", "cpu")]
    waits = [each for each in held if each not in measured]
    assert judge(Facts("s", 0, END, waits=waits), measured).shares == {first: END}


def test_a_wait_with_a_name_of_the_application_s_counts_as_a_pool() -> None:
    """After a lock, before a queue."""
    wait = Interval("rate limit", 0, 600)
    assert judge(Facts("s", 0, END, waits=[wait, Interval("queue", 0, END)])).shares == {
        "rate limit": 600,
        "queue": 400,
    }
    assert judge(Facts("s", 0, END, waits=[wait, Interval("lock", 0, END)])).shares == {"lock": END}


def test_a_stage_is_explained_by_its_critical_path() -> None:
    """Of children side by side, by the one that ended last; not by their sum."""
    waits = [Interval("lock", 0, 400, Why("inventory"))]
    short, long = Facts("short", 0, 400, waits=waits), Facts("long", 0, 900)
    found = judge(Facts("s", 0, END, children=[long, short]))
    assert found.shares == {"downstream": 900, "unknown": 100}
    assert found.why == Why("long")
    found = judge(Facts("s", 0, END, children=[short, Facts("next", 400, 900)]))
    assert found.shares == {"downstream": 500, "lock": 400, "unknown": 100}


def test_a_child_that_ends_while_the_next_one_runs_counts_until_that_one_began() -> None:
    inner = Facts("inner", 100, 890)
    model, log = Facts("model", 0, 900, children=[inner]), Facts("log", 850, END)
    found = judge(Facts("s", 0, END, children=[model, log]))
    assert found.shares == {"downstream": END}
    assert found.why == Why("inner")


@pytest.mark.parametrize("cause", ["lock", "pool"])
@pytest.mark.parametrize("is_deep", [False, True])
def test_a_wait_below_takes_away_only_its_moments(cause: str, *, is_deep: bool) -> None:
    """What was seen of the stage around it holds for the others."""
    seen, short = [Interval("pool", 100, 900, Why("db"))], [Interval(cause, 200, 202)]
    child = Facts("load", 50, 950, waits=short, seen=short)
    if is_deep:
        child = child._replace(children=[Facts("query", 60, 940, waits=short)])
    shares = judge(Facts("s", 0, END, seen=seen, children=[child])).shares
    assert sum(shares.get(each, 0) for each in {"pool", cause}) == 800
    assert shares.get(cause) == (800 if cause == "pool" else 2)


@given(trees, intervals, intervals, st.integers(0, END))
def test_a_wait_more_below_never_lowers_its_share(
    below: Facts, seen: Interval, more: Interval, at: int
) -> None:
    child = Facts("load", at, END, children=[below])
    stage = Facts("s", 0, END, seen=[seen], children=[child])
    before = judge(stage).shares
    after = judge(stage._replace(children=[child._replace(waits=[more])])).shares
    assert after.get(more.cause, 0) >= before.get(more.cause, 0)


def test_a_child_that_outlives_its_stage_explains_nothing() -> None:
    """The stage did not wait for it."""
    child = Facts("child", 0, END + 1, waits=[Interval("lock", 0, END)])
    assert judge(Facts("s", 0, END, children=[child])).shares == {"unknown": END}


def test_what_a_thread_computed_is_cpu_and_the_rest_is_not_known() -> None:
    """At most what is left; of a child it is the child's."""
    found = judge(Facts("s", 0, END, cpu=700, children=[Facts("child", 0, 500, cpu=600)]))
    assert found.shares == {"cpu": END}
    assert judge(Facts("s", 0, END, cpu=700)).shares == {"cpu": 700, "unknown": 300}
    seen = [Interval("cpu", 0, 400, Why("resize"))]  # the same
    assert judge(Facts("s", 0, END, cpu=700), seen).shares == {"cpu": 700, "unknown": 300}


def test_the_cause_is_that_without_which_it_had_been_in_time() -> None:
    """A part that is not known is what the stage takes anyway; else the largest share is it."""
    waits = [Interval("lock", 0, 300, Why("inventory"))]
    assert judge(Facts("s", 0, END, waits=waits), over=200).cause == "lock"
    assert judge(Facts("s", 0, END, waits=waits), over=200).why == Why("inventory")
    assert judge(Facts("s", 0, END, waits=waits), over=400).cause == "lock"
    assert judge(Facts("s", 0, END, waits=waits), over=800).cause == "unknown"
    assert judge(Facts("s", 0, 0)).cause == "unknown"


def test_of_several_reasons_for_a_cause_the_longest_is_named() -> None:
    """Two blocks by two tasks, say."""
    alice, bob = Why("resize", "upload", (("user_id", "alice"),)), Why("parse")
    blocks = [Interval("loop", 0, 300, bob), Interval("loop", 300, 800, alice)]
    assert judge(Facts("s", 0, END), blocks).why == alice


def test_of_several_children_one_is_named_with_its_own_time() -> None:
    """Those of one name are one."""
    steps = [("load", 0, 310), ("ask", 310, 610), ("load", 610, 700), ("render", 700, END)]
    verdict = judge(Facts("report", 0, END, children=[Facts(*step) for step in steps]))
    assert (verdict.why.detail, verdict.took) == ("load", 400)
    assert verdict.shares == {"downstream": END}


def test_stages_of_any_depth_are_explained() -> None:
    """Beyond a hundred within one another, as one; a thousand break nothing."""
    stage = Facts("leaf", 0, END)
    for _ in range(2000):
        stage = Facts("s", 0, END, children=[stage])
    assert judge(stage).shares == {"downstream": END}


@pytest.mark.parametrize(
    ("latency", "budget", "over"), [(1.0, 1.0, None), (1.5, 1.0, 0.5), (1.0, None, None)]
)
def test_late_is_what_is_over_its_budget(
    latency: float, budget: float | None, over: float | None
) -> None:
    """Exactly its budget is in time."""
    assert late_by(latency, budget) == over


def test_who_had_something_twice_at_once_had_it_once() -> None:
    """As of a stage and one inside it."""
    ada, bob = Why(culprit="ada"), Why(culprit="bob")
    assert most([(0, 40, ada), (10, 30, ada), (40, 90, bob)], 0, 90) == bob
    assert most([(0, 40, ada), (10, 30, ada), (40, 75, bob)], 0, 75) == ada
