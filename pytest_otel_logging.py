"""pytest's fixture ``captured``, found by pytest's entry point wherever the package is installed.

In: a test. Out: ``otel_logging.testing.capture()`` around it, and the tree in
the report of a test that fails. Invariant: a test run that does not use it does
not import the package: this module stands beside it, since a module inside
would bring all of it along at pytest's start, before coverage is measured.
Deliberately absent: everything else. ``-p no:otel_logging`` leaves it out.
"""

from collections.abc import Generator, Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from otel_logging.testing import Captured

_captured = pytest.StashKey["Captured"]()


def pytest_configure(config: pytest.Config) -> None:
    """Make the mark known to ``--strict-markers``."""
    config.addinivalue_line(
        "markers",
        "captured(fixed=False, log_level=None): how the fixture `captured` captures (otel-logging)",
    )


@pytest.fixture
def captured(request: pytest.FixtureRequest) -> "Iterator[Captured]":
    """Spans and log lines of the test as plain data, in one tree.

    ``@pytest.mark.captured(fixed=True)`` hands options on to ``capture``.
    """
    from otel_logging.testing import capture

    mark = request.node.get_closest_marker("captured")
    with capture(**(mark.kwargs if mark else {})) as seen:
        request.node.stash[_captured] = seen
        yield seen


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, Any, None]:
    """Show the tree where a test failed."""
    report = (yield).get_result()
    seen = item.stash.get(_captured, None)
    if report.failed and seen is not None and (drawn := str(seen)):
        report.sections.append(("captured spans and lines", drawn))
