"""The first line one reads of a traceback."""

import traceback

import pytest

from otel_logging.traces.exceptions import Raised, raised


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
    assert where(found.where) == "at thrower (test_traces_exceptions.py"


def test_a_message_of_several_lines_is_cut_to_its_first() -> None:
    """Its rest looks like anything."""
    found = raised("failed", {"exception": caught(ValueError("boom\nand more\n  and more"))})

    assert found is not None
    assert found.what == "ValueError: boom"


def test_of_chained_exceptions_the_last_counts() -> None:
    """It is the one that arrived."""
    error = ValueError("second")
    error.__cause__ = KeyError("first")

    found = raised("failed", {"exception": caught(error)})

    assert found is not None
    assert found.what == "ValueError: second"


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
    assert where(found.where) == "at inner (test_traces_exceptions.py"


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
            Raised("E", "at add (cart.py:7)"),
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
        ("first\n\n  last \n", Raised("last", "")),
        ('  File "x.py", line 1, in f', Raised('File "x.py", line 1, in f', "at f (x.py:1)")),
        (" \n", None),
        ("", None),
        (True, None),
    ],
)
def test_what_is_no_traceback_is_its_own_last_line(value: object, expected: Raised | None) -> None:
    """Anybody may call a field so."""
    assert raised("failed", {"exception": value}) == expected


def test_a_line_without_an_exception_has_none() -> None:
    """Most lines are so."""
    assert raised("answered", {"level": "info"}) is None
