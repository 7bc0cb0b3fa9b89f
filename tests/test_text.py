"""Text of other programs, safe for a terminal."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from otel_logging._text import one_line, visible


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain, ünïcode, 日本", "plain, ünïcode, 日本"),
        ("a\nb\r\tc", r"a\nb\r\tc"),
        ("\x1b[31mred\x07\x9b0m", r"\x1b[31mred\x07\x9b0m"),
        ("abc\u202edcba\u2028", r"abc\u202edcba\u2028"),
        ("[bold]not markup[/]", "[bold]not markup[/]"),
        ("\ud800", r"\ud800"),
    ],
)
def test_unsafe_characters_are_escaped(text: str, expected: str) -> None:
    """All others stay as they are."""
    assert visible(text) == expected


@given(st.text())
def test_no_control_character_is_left(text: str) -> None:
    """Whatever the text, and doing it again changes nothing."""
    shown = visible(text)

    assert not any(ord(c) < 32 or 127 <= ord(c) < 160 for c in shown)
    assert visible(shown) == shown
    shown.encode()


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (b"the disk\n\x1b[31mis  gone", "the disk [31mis gone"),
        ("\u202eabc\x00", "abc"),
        (b"\xff ok", "ok"),
        ("é" * 400, "é" * 300),
        (("é" * 4000).encode(), "é" * 300),
        ("", ""),
    ],
    ids=repr,
)
def test_a_servers_words_are_one_line(given: str | bytes, expected: str) -> None:
    """In which unsafe characters are blanks; only its beginning is kept."""
    assert one_line(given) == expected
