"""Each promise in docs/guarantees.md names tests; they are there."""

import re

import pytest

from tests.lines import ROOT

TEXT = (ROOT / "docs/guarantees.md").read_text("utf-8")


@pytest.mark.parametrize("name", re.findall(r"`(tests/[^`]+)`", TEXT))
def test_a_test_that_is_named_exists(name: str) -> None:
    """Under that very name: who renames it looks at the promise."""
    path, _, function = name.partition("::")
    assert re.search(
        rf"\ndef {function}\b" if function else "\ndef test_", (ROOT / path).read_text()
    )


def test_each_promise_names_a_test() -> None:
    """Each row of the tables."""
    rows = [line for line in TEXT.splitlines() if line.startswith("| ") and "held by" not in line]
    assert len(rows) >= 15
    assert [row for row in rows if "`tests/" not in row] == []
