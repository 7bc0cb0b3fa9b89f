"""Failed traces: which there are is cheap, and only those that are returned are worked out."""

import asyncio
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from celery.exceptions import Retry
from starlette.exceptions import HTTPException as StarletteException
from starlette.exceptions import WebSocketException

from otel_logging import traced
from otel_logging.traces import local
from otel_logging.traces.failed import Failure, failed
from otel_logging.traces.late import Question
from otel_logging.traces.span import Span
from tests.conftest import Service
from tests.stored import Planted, line, read_back

BOOM = 'Traceback (most recent call last):\n  File "/srv/shop.py", line 7, in pay\nValueError: '


def trace(n: int, *, status: int = 2, **planted: Any) -> list[Planted]:
    """A stage of second *n*, and one below it that raised; one in three is named."""
    told = line(n * 1000 + 2, "failed", "error", exception=f"{BOOM}no {n}")
    ids = {"trace": f"{n:032x}", "status": status}
    return [
        Planted(1, 0, "message", n * 1000, n * 1000 + 9, {"user_id": f"user-{n % 3}"}, **ids),
        Planted(2, 1, "pay", n * 1000 + 1, n * 1000 + 3, events=[told], **ids),
    ]


def asked(
    base: Path, *spans: Planted, limit: int | None = None, **question: Any
) -> tuple[list[Failure], int, int]:
    answer = failed(read_back(base, *spans), Question(**question), limit=limit)
    return answer.rows, answer.found, answer.looked_at


def is_worked_out(span: Span) -> bool:
    return span._details is not None


@pytest.mark.parametrize("status", [0, 2])
def test_the_newest_are_returned_and_all_are_counted(tmp_path: Path, status: int) -> None:
    """Whether a status says that they failed, or a line alone."""
    spans = [each for n in (2, 5, 1, 4, 3) for each in trace(n, status=status)]
    found, number, looked_at = asked(
        tmp_path, *spans, Planted(1, 0, "fine", 0, 1, trace=f"{9:032x}"), limit=2
    )
    assert [each.what for each in found] == ["ValueError: no 5", "ValueError: no 4"]
    assert [each.span.name for each in found] == ["pay", "pay"]
    assert (number, looked_at) == (5, 6)


def test_those_that_are_not_returned_are_not_worked_out(tmp_path: Path) -> None:
    """A hundred thousand are a matter of a second."""
    spans = read_back(tmp_path, *(each for n in range(5) for each in trace(n)))
    answer = failed(spans, Question(), limit=1)
    (first,) = answer.rows
    assert answer.found == 5
    assert {each.trace_id for each in spans if is_worked_out(each)} == {first.span.trace_id}


def test_of_one_user_and_without_those_that_were_seen(tmp_path: Path) -> None:
    spans = [each for n in range(6) for each in trace(n)]
    found, number, looked_at = asked(
        tmp_path, *spans, who="user-1", without=frozenset([f"{4:032x}"])
    )
    assert [each.what for each in found] == ["ValueError: no 1"]
    assert (number, looked_at) == (1, 2)


def test_what_failed_elsewhere_in_the_trace_is_not_of_this_stage(tmp_path: Path) -> None:
    """Of two outermost stages the one that was asked for failed, or it did not."""
    mine = Planted(1, 0, "mine", 0, 9, {"user_id": "grace"}, status=2)
    other = Planted(
        2, 0, "other", 1, 20, {"user_id": "alan"}, [line(5, "x", "error", exception=BOOM)]
    )
    (found,), number, _ = asked(tmp_path, mine, other, who="grace")
    assert (found.row.span.name, found.span.name, number) == ("mine", "mine", 1)
    assert found.what == "mine has status ERROR"


@pytest.mark.parametrize(
    ("raised", "is_row"),
    [
        ("starlette.websockets.WebSocketDisconnect: (1000, '')", False),
        ("celery.exceptions.Retry", True),  # below a class that is: its name does not say so
        ("django.http.response.Http404: no page", False),
        ("asyncio.exceptions.CancelledError", False),
        ("ValueError: boom", True),
    ],
)
def test_what_is_no_failure_is_no_row_though_a_server_logs_an_error(
    tmp_path: Path, raised: str, *, is_row: bool
) -> None:
    """Its stage has no status ERROR."""
    text = f'Traceback (most recent call last):\n  File "/srv/chat.py", line 7, in ws\n{raised}'
    told = line(5, "Exception in ASGI application", "error", exception=text)
    found, number, looked_at = asked(tmp_path, Planted(1, 0, "connection", 0, 9, {}, [told]))
    assert (len(found), number, looked_at) == (is_row, is_row, 1)


@pytest.mark.parametrize("on_page", [False, True])
@pytest.mark.parametrize("status", [0, 2])
def test_what_is_recorded_on_a_stage_without_error_is_no_failure(
    tmp_path: Path, status: int, *, on_page: bool
) -> None:
    """An answer of 4xx, one that was handled: on the stage itself, or on a page of it."""
    told = [(5, "exception", {"exception.type": "shop.Gone", "exception.message": "no order"})]
    page = Planted(3, 2, "log", 5, 5, {"log.page": 1}, told if on_page else [])
    stage = Planted(2, 1, "load", 1, 9, {}, [] if on_page else told, status=status)
    found, _, _ = asked(tmp_path, Planted(1, 0, "GET /", 0, 10, {}), stage, page)
    assert [each.what for each in found] == ["shop.Gone: no order"] * (status == 2)


def test_a_line_may_have_any_level(tmp_path: Path) -> None:
    """Whoever writes into Jaeger may give a list."""
    told = line(5, "x", ["error"], exception=BOOM)
    (found,), _, _ = asked(tmp_path, Planted(1, 0, "pay", 0, 9, {}, [told], status=2))
    assert found.what == "pay has status ERROR"


def test_of_very_many_in_one_trace_the_last_ones_are_looked_at(tmp_path: Path) -> None:
    """Those that raised first, until one says where in the application."""
    told = line(5, "failed", "error", exception=f"{BOOM}no 1")
    library = line(7, "failed", "error", exception=f"{BOOM}lib".replace("/srv/", "/site-packages/"))
    spans = [
        Planted(1, 0, "message", 0, 900, {"user_id": "ada"}),
        Planted(2, 1, "pay", 1, 3, events=[told], status=2),
        *(Planted(3 + n, 1, "ping", 10 + n, 11 + n, status=2) for n in range(200)),
    ]
    ((found,), _, _) = asked(tmp_path / "a", *spans)
    assert (found.what, found.where, found.span.name) == (
        "ValueError: no 1",
        "at srv/shop.py:7 pay",
        "pay",
    )
    many = [
        Planted(300 + n, 1, "lib", 300 + n, 301 + n, events=[library], status=2) for n in range(200)
    ]
    read = read_back(tmp_path / "b", *spans, *many)
    (found,) = failed(read, Question()).rows
    assert (found.what, found.where) == ("ValueError: lib", "at shop.py:7 pay")
    assert sum(map(is_worked_out, read)) == 100


#: A row of the table in docs/logging.md by a word that only it has, and what is raised.
TABLE = {
    "an answer below 400": StarletteException(307),
    "an answer of 4xx": StarletteException(404),
    "a group of answers alone": ExceptionGroup("all", [StarletteException(404)]),
    "Celery's `Retry`": Retry(),
    "of `traced(expected=": LookupError("sold out"),
    "the end of a task or greenlet": asyncio.CancelledError(),
    "`KeyboardInterrupt`, `SystemExit`": SystemExit(3),
}


def test_no_row_of_the_table_of_no_failures_is_listed(service: Service) -> None:
    """Each row is raised through a stage; what is in none is listed."""
    text = Path(__file__).parents[1].joinpath("docs", "logging.md").read_text("utf-8")
    table = text.partition("| exception | event | status |\n|---|---|---|\n")[2].partition("\n\n")[
        0
    ]
    rows = table.splitlines()
    for row, (begin, error) in zip(rows, TABLE.items(), strict=True):
        assert row.startswith(f"| {begin}")
        with suppress(BaseException), traced(begin, root=True, expected=LookupError):
            raise error
    for other in (StarletteException(503), WebSocketException(1011), ValueError("boom")):
        with suppress(Exception), traced(type(other).__name__, root=True):
            raise other
    spans = service.spans()
    stages = {each.name: each for each in spans}
    for row, begin in zip(rows, TABLE, strict=True):
        has_event = row.endswith(("| yes | unset |", "highest answer | |"))
        assert any(e.name == "exception" for e in stages[begin].events) == has_event, row
        assert stages[begin].status == "unset"
    found = failed(local.read([service.spool_dir])[0], Question()).rows
    assert {each.row.span.name for each in found} == {
        *("HTTPException", "WebSocketException", "ValueError")
    }
