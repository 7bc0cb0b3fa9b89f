"""A stage that is no block: begun here, marked and ended anywhere."""

import asyncio
import threading
from contextlib import ExitStack
from typing import Any

import pytest

from otel_logging import bind_context, bound_context, get_logger, traced
from otel_logging.testing import Captured, capture

log: Any = get_logger("shop")


def owners(captured: Captured) -> dict[str, tuple[Any, Any]]:
    """Return the span and the user of each line."""
    spans = {span["span_id"]: span["name"] for span in captured.spans}
    return {
        line["event"]: (spans.get(line.get("span_id")), line.get("user_id"))
        for line in captured.lines
    }


def test_it_is_current_until_it_is_ended() -> None:
    with capture() as captured, traced("request"):
        turn = traced("turn", budget=9, room=1).begin()
        log.info("in")
        with traced("inner"):
            pass
        turn.end()
        turn.end()
        log.info("after")
    assert owners(captured) == {"in": ("turn", None), "after": ("request", None)}
    span = captured.span("turn")
    assert captured.span("inner")["parent_span_id"] == span["span_id"]
    assert (span["attributes"]["budget_s"], span["attributes"]["room"]) == (9, 1)


def test_a_block_in_it_goes_on_after_its_end() -> None:
    with capture() as captured, traced("request"):
        turn = traced("turn").begin()
        with traced("speak"):
            turn.end()
            log.info("in it")
        log.info("after")
    assert owners(captured) == {"in it": ("speak", None), "after": ("request", None)}


def test_a_stage_may_be_ended_by_another_task() -> None:
    """Then it is current in no task, and what was bound in it is bound in none."""

    async def answer(turn: Any) -> None:
        log.info("answering")
        bind_context(user_id="bob")
        turn.mark("first sound", codec="opus")
        turn.mark("first sound", codec="opus")
        turn.end()
        log.info("answered")

    async def main() -> None:
        turn = traced("turn").begin()
        bind_context(lang="en")
        task = asyncio.create_task(answer(turn))
        log.info("begun")
        await task
        log.info("idle")
        with traced("next"):
            log.info("in the next")

    with capture() as captured:
        asyncio.run(main())
    span = captured.span("turn")
    assert owners(captured) == {
        "begun": ("turn", None),
        "answering": ("turn", None),
        "answered": (None, None),
        "idle": (None, None),
        "in the next": ("next", None),
    }
    assert "lang" not in captured.line("idle")
    assert captured.line("answering")["lang"] == "en"
    assert span["attributes"]["user_id"] == "bob"
    assert 0 <= span["attributes"]["mark.first_sound_s"] < 5
    marks = [event for event in span["events"] if event["name"] == "first sound"]
    assert [event["attributes"]["codec"] for event in marks] == ["opus", "opus"]
    assert captured.span("next")["trace_id"] != span["trace_id"]


def test_a_task_started_in_it_keeps_it_where_its_own_task_has_ended_it() -> None:
    async def go_on(is_over: asyncio.Event) -> None:
        await is_over.wait()
        log.info("going on")

    async def main() -> None:
        is_over = asyncio.Event()
        turn = traced("turn", root=True).begin()
        bind_context(user_id="bob")
        task = asyncio.create_task(go_on(is_over))
        await asyncio.sleep(0)
        turn.end()
        log.info("idle")
        is_over.set()
        await task

    with capture() as captured:
        asyncio.run(main())
    assert owners(captured) == {"idle": (None, None), "going on": ("turn", "bob")}


def test_another_thread_ends_a_stage_with_an_error() -> None:
    """Inside a request, whose stage and user are back; a second turn is not in the first."""
    with capture() as captured, traced("request"):
        bind_context(user_id="alice")
        first = traced("first").begin()
        thread = threading.Thread(target=first.end, args=(ValueError("no"),))
        thread.start()
        thread.join()
        log.info("between")
        second = traced("second", root=True, kind="consumer").begin()
        with bound_context(user_id="bob"):
            log.info("second's")
        second.end()
        log.info("after")
    request, span = captured.span("request"), captured.span("first")
    assert (span["status"], span["parent_span_id"]) == ("error", request["span_id"])
    assert [event["name"] for event in span["events"]] == ["exception"]
    assert owners(captured) == {
        "between": ("request", "alice"),
        "second's": ("second", "bob"),
        "after": ("request", "alice"),
    }


def test_one_that_nobody_can_end_any_more_ends() -> None:
    with capture() as run, traced("request"):
        turn = traced("turn").begin()
        log.info("in it")
        del turn
        log.info("after it")
    assert run.line("in it")["span_id"] == run.span("turn")["span_id"]
    assert run.line("after it")["span_id"] == run.span("request")["span_id"]


def test_many_are_open_at_once() -> None:
    """Each connection has its own, whichever ends first."""

    async def connection(number: int, turns: list[Any]) -> None:
        turns.append(traced("turn", number=number).begin())
        bind_context(user_id=f"u{number}")
        await asyncio.sleep(0)
        log.info(f"line {number}")

    async def main() -> None:
        turns: list[Any] = []
        await asyncio.gather(*(connection(number, turns) for number in range(20)))
        for turn in reversed(turns):
            turn.end()

    with capture() as captured:
        asyncio.run(main())
    spans = {span["attributes"]["number"]: span for span in captured.spans}
    for number, span in spans.items():
        line = captured.line(f"line {number}")
        assert (line["trace_id"], line["user_id"]) == (span["trace_id"], f"u{number}")
    assert len({span["trace_id"] for span in spans.values()}) == 20


def test_where_nothing_is_set_up_and_after_the_end_nothing_happens() -> None:
    turn = traced("turn").begin()
    turn.mark("first sound")
    turn.end()
    with capture() as captured:
        ended = traced("turn").begin()
        ended.end()
        ended.mark("too late")
    assert captured.span("turn")["events"] == []


def test_a_mark_that_fails_is_reported(capsys: pytest.CaptureFixture[str]) -> None:
    class Name(str):
        def replace(self, *_: Any) -> str:
            raise ValueError("no")

    with capture():
        turn = traced("turn").begin()
        turn.mark(Name("x"))
        turn.end()
    assert "marks lost (no)" in capsys.readouterr().err


@pytest.mark.parametrize("how", ["begun", "block", "two blocks"])
def test_what_is_left_after_its_request_has_ended_leaves_nobody_behind(how: str) -> None:
    """Neither there, where it is ended, nor behind another request in which it is."""

    def worker() -> None:
        kept = ExitStack()
        with traced("first", kind="server"):
            bind_context(user_id="ann")
            if how == "begun":
                kept.callback(traced("turn").begin().end)
            else:
                kept.enter_context(traced("turn"))
            if how == "two blocks":
                kept.enter_context(traced("step"))
        with traced("second", root=True):
            bind_context(user_id="bob")
            kept.close()
            log.info("in the second")
        log.info("between")
        with traced("third", root=True):
            log.info("in the third")

    with capture(log_level="info") as captured:
        worker()
    assert owners(captured) == {
        "in the second": ("second", "bob"),
        "between": (None, None),
        "in the third": ("third", None),
    }
    parents = {span["name"]: span["parent_span_id"] for span in captured.spans}
    assert (parents["turn"], parents["second"]) == (captured.span("first")["span_id"], None)
