"""Who is under whom."""

from pathlib import Path

from otel_logging.traces.draw.waterfall import draw
from otel_logging.traces.failed import failed
from otel_logging.traces.late import Question, late, who
from otel_logging.traces.path import steps, words
from otel_logging.traces.trace import Trace, by_trace, last
from tests.stored import Planted, read_back, trace_of


def names(spans: object) -> list[str]:
    return [span.name for span in spans]  # type: ignore[attr-defined]


def tree(base: Path) -> Trace:
    return trace_of(
        base,
        Planted(3, 2, "leaf", 2, 3),
        Planted(1, 0, "root", 0, 9),
        Planted(4, 1, "later", 5, 6),
        Planted(2, 1, "branch", 1, 4),
    )


def test_a_trace_knows_what_is_above_and_below(tmp_path: Path) -> None:
    """Children are in the order in which they started."""
    trace = tree(tmp_path)
    root, branch, leaf, later = trace.in_order

    assert names((root, branch, leaf, later)) == ["root", "branch", "leaf", "later"]
    assert names(trace.children(root)) == ["branch", "later"]
    assert trace.at_or_above([leaf]) == {one.span_id for one in (leaf, branch, root)}
    assert set(names(trace.descendants(root))) == {"branch", "leaf", "later"}
    assert [s.name for s in trace.in_order if trace.is_root(s)] == ["root"]
    assert repr(trace) == f"<Trace {trace.trace_id} [4 spans]>"


def test_the_first_of_a_circle_of_parents_is_a_root(tmp_path: Path) -> None:
    """No SDK makes spans that are their own ancestors; nothing hangs, and nothing is lost."""
    trace = trace_of(
        tmp_path,
        Planted(1, 2, "one", 1, 900, {"budget_s": 0.1}, status=2),
        Planted(2, 1, "two", 0, 901, {"user_id": "ada"}),
        Planted(3, 3, "self", 0, 900, {"budget_s": 0.1, "late": True}),
        Planted(4, 3, "below", 0, 900, {"budget_s": 0.1}),
        Planted(5, 2, "beside, and before", -1, 900, {"budget_s": 0.1}),
    )
    one, two, alone, below = (trace.spans[f"{n:016x}"] for n in (1, 2, 3, 4))

    assert names(trace.roots) == ["two", "self"]
    assert trace.at_or_above([one]) == {one.span_id, two.span_id}
    assert set(names(trace.descendants(two))) == {"one", "beside, and before"}
    assert names(trace.descendants(alone)) == ["below"]
    assert who(trace, below) == {}
    assert last([trace]) == [trace]
    assert words(steps(trace, alone)) == ["below 900 ms"]
    spans = trace.spans.values()
    found = late(spans, Question(who="ada")).rows
    assert sorted(row.span.name for row in found) == ["beside, and before", "one"]
    assert {row.span.name for row in late(spans, Question()).rows} > {"self"}
    assert [found.span.name for found in failed(spans, Question()).rows] == ["one"]
    drawn = "\n".join(text.plain for text in draw(trace, width=80, unfolded=True))
    assert all(f" {name} " in f" {drawn}" for name in ("one", "two", "self", "below"))


def test_clocks_in_a_circle_of_parents_are_those_of_the_first(tmp_path: Path) -> None:
    spans = read_back(tmp_path, Planted(1, 2, "one", 5, 9))
    spans += read_back(tmp_path / "x", Planted(2, 1, "two", 0, 3), service="billing")
    (trace,) = by_trace(spans).values()

    assert names(trace.in_order) == ["two", "one"]
    assert [span.moved_ns for span in spans] == [0, 0]


def test_the_last_trace_is_the_one_whose_root_stage_ended_last(tmp_path: Path) -> None:
    """A later child, a log page, and lines outside any stage do not count."""
    spans = read_back(
        tmp_path,
        Planted(1, 0, "early", 0, 5, trace="a" * 32),
        Planted(2, 1, "child that outlives it", 0, 90, trace="a" * 32),
        Planted(1, 0, "late", 1, 6, trace="b" * 32),
        Planted(1, 0, "process log", 0, 95, trace="c" * 32),
        Planted(1, 7, "log", 96, 96, {"log.page": 1}, trace="d" * 32),
    )
    spans += read_back(tmp_path / "x", Planted(1, 0, "x", 0, 9, trace="e" * 32), service="billing")
    traces = by_trace(spans).values()

    assert [trace.trace_id[0] for trace in last(traces, 2)][:1] == ["e"]
    assert last(traces, service="chat-gateway")[0].trace_id == "b" * 32
    assert last(traces, service="nobody") == []
    assert last([]) == []
