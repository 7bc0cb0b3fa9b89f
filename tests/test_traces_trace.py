"""Who is under whom."""

from pathlib import Path

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


def test_a_circle_of_parents_is_cut(tmp_path: Path) -> None:
    """Broken senders make spans that are their own ancestors: one of them is an outermost one."""
    trace = trace_of(
        tmp_path,
        Planted(1, 2, "one", 0, 1),
        Planted(2, 1, "two", 0, 1),
        Planted(3, 3, "self", 0, 1),
    )
    one, two, alone = (trace.spans[f"{n:016x}"] for n in (1, 2, 3))

    assert trace.at_or_above([two]) == {one.span_id, two.span_id}
    assert names(trace.descendants(one)) == ["two"]
    assert trace.at_or_above([alone]) == {alone.span_id}
    assert list(trace.descendants(alone)) == []


def test_a_circle_is_cut_once_whatever_leads_to_it(tmp_path: Path) -> None:
    """What is below it began first, and is below it still; what began together is in no circle."""
    trace = trace_of(
        tmp_path,
        *(Planted(1, 0, "root", 0, 9), Planted(2, 1, "with it", 0, 8)),
        *(Planted(3, 4, "below", 1, 9), Planted(4, 5, "one", 2, 9), Planted(5, 4, "two", 3, 9)),
    )
    assert names(filter(trace.is_root, trace.in_order)) == ["root", "one"]
    assert names(trace.downwards()) == ["root", "one", "below", "two", "with it"]


def test_clocks_in_a_circle_of_parents_are_left_as_they_are(tmp_path: Path) -> None:
    """The one that began first is the outermost."""
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


def test_a_circle_of_parents_can_be_the_last_trace(tmp_path: Path) -> None:
    """It has no root; its first stage stands outside."""
    spans = read_back(tmp_path, Planted(1, 2, "one", 0, 9), Planted(2, 1, "two", 1, 8))
    (trace,) = by_trace(spans).values()

    assert last([trace]) == [trace]
    assert trace.top.name == "one"
