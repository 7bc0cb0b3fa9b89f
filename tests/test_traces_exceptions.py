"""The first line one reads of a traceback."""

import pickle
import traceback
from multiprocessing.pool import ExceptionWithTraceback  # type: ignore[attr-defined]

import pytest

from otel_logging.traces.exceptions import Raised, kind_of, raised


def caught(error: BaseException) -> str:
    def thrower() -> None:
        raise error

    try:
        thrower()
    except BaseException:
        return traceback.format_exc()
    raise AssertionError


def where(text: str) -> str:
    return text.rsplit(":", 1)[0]


def test_a_log_line_has_its_exception_as_text() -> None:
    """Type, message and the innermost frame."""
    found = raised("failed", {"exception": caught(ValueError("boom"))})

    assert found is not None
    assert found.what == "ValueError: boom"
    assert where(found.where) == "at tests/test_traces_exceptions.py"


def test_a_head_with_nothing_below_it_is_no_traceback() -> None:
    """One that a note mentions, and one where the text is cut, within its first frame too."""
    error = ValueError("boom")
    error.add_note("Traceback (most recent call last): see above")
    found = raised("failed", {"exception": caught(error)})
    assert found is not None
    assert found.what == "ValueError: boom"
    assert where(found.where) == "at tests/test_traces_exceptions.py"
    whole = caught(ValueError("boom"))
    expected = raised("failed", {"exception": whole})
    text = (
        f"{whole}\nDuring handling of the above exception, another exception occurred:\n\n{whole}"
    )
    second = text.rindex("Traceback")
    for cut in range(second, text.index(" in ", second)):
        assert raised("failed", {"exception": text[:cut]}) == expected
    bare = raised("failed", {"exception": "Traceback (most recent call last):\nValueError: boom"})
    assert bare == Raised("ValueError: boom", "")


@pytest.mark.parametrize(
    ("name", "attributes"),
    [
        ("failed", {"exception": "ValueError: four"}),
        ("exception", {"exception.type": "ValueError", "exception.message": "four"}),
    ],
    ids=["line", "span"],
)
def test_without_a_traceback_the_place_is_what_was_noted(
    name: str, attributes: dict[str, str]
) -> None:
    """Each traceback is there once a trace; a server's own line about it has none."""
    place = {"exception.where": "/srv/core/connection.py:12 in Shop.<locals>.buy"}
    assert raised(name, {**attributes, **place}) == Raised(
        "ValueError: four", "at core/connection.py:12 Shop.<locals>.buy"
    )
    assert raised(name, {**attributes, "exception.where": "?"}) == Raised("ValueError: four", "")
    assert raised(name, attributes) == Raised("ValueError: four", "")


@pytest.mark.parametrize("cut", range(60, 210, 3))
def test_where_the_middle_is_left_out_no_place_is_made_of_two(cut: int) -> None:
    """Half a line before what says so, and half of another one after it, are no frame; what was
    noted when the traceback was whole is the application's own.
    """
    library = (
        '  File "/v/lib/python3.11/site-packages/db/engine.py", line {}, in execute\n    go()\n'
    )
    own = ("views.py", 21, "poll"), ("db.py", 51, "read")
    frames = [f'  File "/srv/shop/{f}", line {n}, in {name}\n    x\n' for f, n, name in own]
    whole = "Traceback (most recent call last):\n" + "".join(frames)
    whole += "".join(library.format(n) for n in range(60)) + "ValueError: four"
    text = f"{whole[:cut]}…[483 more]…{whole[-230 - cut % 7 :]}"
    noted = {"exception": text, "exception.where": "/srv/shop/db.py:51 in read"}
    inner = "(in db/engine.py:59 execute)"
    assert raised("failed", noted) == Raised("ValueError: four", f"at shop/db.py:51 read {inner}")
    found = raised("failed", {"exception": text})
    assert found
    places = ("at shop/views.py:21 poll", "at shop/db.py:51 read", "at db/engine.py:59 execute")
    assert found.where.removesuffix(f" {inner}") in places


@pytest.mark.parametrize("name", ["could not book", "exception"])
@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("2 validation errors\nprice: negative\n  sku", "2 validation errors price: negative sku"),
        ("\nno such order: 7", "no such order: 7"),
        ("one\rtwo", "one two"),
    ],
)
def test_a_message_of_several_lines_is_shown_whole(name: str, message: str, expected: str) -> None:
    """Of a line as of a stage that it has left."""
    values = {"exception.type": "ValueError", "exception.message": message}
    text = caught(ValueError(message))

    line = raised(name, {**values, "exception": text})
    left = raised("exception", {**values, "exception.stacktrace": text})

    assert line is not None
    assert line.what == f"ValueError: {expected}"
    assert line.is_traced
    assert line == left


def test_where_only_the_text_is_known_a_message_is_cut_to_its_first_line() -> None:
    """Its rest looks like anything."""
    found = raised("failed", {"exception": caught(ValueError("boom\nand more\n  and more"))})

    assert found is not None
    assert found.what == "ValueError: boom"


@pytest.mark.parametrize("is_thrown", [False, True])
def test_of_chained_exceptions_the_last_counts(*, is_thrown: bool) -> None:
    """It is the one that arrived; the first one, which it came from, is told too."""
    error, middle, first = ValueError("second"), OSError("between"), KeyError("first")
    error.__cause__, middle.__cause__ = middle, first
    if is_thrown:
        assert "KeyError: 'first'" in caught(first) + caught(middle)

    alone = caught(error)
    inside = caught(ExceptionGroup("all", [error])) if is_thrown else alone
    for text in (alone, inside):
        found = raised("failed", {"exception": text})

        assert found is not None
        assert found.what == "ValueError: second (from KeyError: 'first')"
        assert kind_of(found.what) == "ValueError"


def test_what_was_only_raised_meanwhile_is_no_cause() -> None:
    """Python prints it too, in other words."""
    error = ValueError("second")
    error.__context__ = KeyError("first")

    found = raised("failed", {"exception": caught(error)})

    assert found is not None
    assert found.what == "ValueError: second"
    assert kind_of("KeyboardInterrupt (from KeyError: 'first')") == "KeyboardInterrupt"


def _divide(number: int) -> float:
    return number / 0


def test_of_a_process_pool_the_text_is_shown_once_with_the_workers_place() -> None:
    """Python prints what was raised there as the cause of what is raised here."""
    try:
        _divide(7)
    except ZeroDivisionError as in_worker:
        sent = pickle.dumps(ExceptionWithTraceback(in_worker, in_worker.__traceback__))
    error = pickle.loads(sent)

    found = raised("failed", {"exception": caught(error)})

    assert found is not None
    assert found.what == "ZeroDivisionError: division by zero"
    assert found.where.endswith(" _divide")


def test_of_a_group_on_a_span_the_last_one_inside_counts() -> None:
    """Its own message says only how many there are."""
    refused = ValueError("card 7 refused")
    assert "card 7" in caught(refused)
    group = ExceptionGroup("unhandled errors in a TaskGroup", [refused])
    values = {"exception.type": "ExceptionGroup", "exception.message": str(group)}

    found = raised("exception", {**values, "exception.stacktrace": caught(group)})
    alone = raised("exception", values)

    assert found is not None
    assert found.what == "ValueError: card 7 refused"
    assert alone is not None
    assert alone.what.startswith("ExceptionGroup: unhandled errors in a TaskGroup (1 sub-")


def test_of_a_group_the_last_one_inside_counts() -> None:
    """Without the lines that Python draws beside it."""

    def inner() -> ValueError:
        try:
            raise ValueError("inside")
        except ValueError as error:
            return error

    found = raised("failed", {"exception": caught(ExceptionGroup("all", [inner()]))})

    assert found is not None
    assert found.what == "ValueError: inside"
    assert where(found.where) == "at tests/test_traces_exceptions.py"


@pytest.mark.parametrize(
    ("attributes", "expected"),
    [
        ({"exception.type": "E", "exception.message": "boom"}, Raised("E: boom", "")),
        ({"exception.type": "E"}, Raised("E", "")),
        (
            {
                "exception.type": "E",
                "exception.stacktrace": '  File "C:\\shop\\cart.py", line 7, in add\n    x\nE',
            },
            Raised("E", "at shop/cart.py:7 add"),
        ),
        ({"level": "info"}, None),
    ],
)
def test_an_event_by_opentelemetrys_convention(
    attributes: dict[str, str], expected: Raised | None
) -> None:
    """The type makes it one; message and traceback may be missing."""
    assert raised("exception", attributes) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("ValueError: boom", Raised("ValueError: boom", "")),
        ("first\n\n  last \n", Raised("first last", "")),
        ("Traceback (most recent call last):\nE: x", Raised("E: x", "")),
        ('  File "x.py", line 1, in f', Raised('File "x.py", line 1, in f', "at x.py:1 f")),
        (" \n", None),
        ("", None),
        (True, None),
    ],
)
def test_the_last_line_of_a_text_without_a_traceback_counts(
    value: object, expected: Raised | None
) -> None:
    """Anybody may call a field so."""
    assert raised("failed", {"exception": value}) == expected


def test_a_line_without_an_exception_has_no_exception() -> None:
    """Most lines are so."""
    assert raised("answered", {"level": "info"}) is None


TRACEBACK = """Traceback (most recent call last):
  File "/srv/shop/core/old.py", line 1, in old
    x
KeyError: 'first'

The above exception was the direct cause of the following exception:

Traceback (most recent call last):
  File "{main}", line 9, in main
    x
  File "{chat}", line 1067, in chat
    x
  File "{library}", line 1900, in _execute
    x
E: boom
"""


@pytest.mark.parametrize(
    ("main", "chat", "library", "expected"),
    [
        (
            "/srv/app.py",
            "/srv/core/connection.py",
            "/srv/.venv/lib/python3.11/site-packages/sqlalchemy/engine/base.py",
            "at core/connection.py:1067 chat (in sqlalchemy/engine/base.py:1900 _execute)",
        ),
        (
            "/srv/app.py",
            "C:\\srv\\core\\connection.py",
            "C:\\Python\\Lib\\site-packages\\redis\\client.py",
            "at core/connection.py:1067 chat (in redis/client.py:1900 _execute)",
        ),
        (
            "/srv/app.py",
            "/usr/lib/python3.11/asyncio/runners.py",
            "<string>",
            "at srv/app.py:9 main (in <string>:1900 _execute)",
        ),
        (
            "/usr/lib/python3/dist-packages/a/b.py",
            "/usr/lib/python3.11/json/decoder.py",
            "<frozen x>",
            "at <frozen x>:1900 _execute",
        ),
    ],
)
def test_the_innermost_frame_of_the_application_comes_first(
    main: str, chat: str, library: str, expected: str
) -> None:
    """A library's is in brackets, from its package on; frames of an earlier exception are none."""
    text = TRACEBACK.format(main=main, chat=chat, library=library)
    found = Raised("E: boom (from KeyError: 'first')", expected)
    assert raised("failed", {"exception": text}) == found
