"""Fixtures of all tests, and a guard that keeps them out of the user's own directories."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from otel_logging import _trouble
from tests.receiver import Receiver


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    """An OTLP/HTTP receiver that accepts everything until told otherwise."""
    with Receiver() as running:
        yield running


@pytest.fixture(autouse=True)
def _no_place_of_the_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The user's spool directory is a temporary one, for child processes as well."""
    home = tmp_path / "home"
    home.mkdir()
    for name in ("HOME", "USERPROFILE", "LOCALAPPDATA"):
        monkeypatch.setenv(name, str(home))
    monkeypatch.setenv("XDG_STATE_HOME", str(home / "state"))


@pytest.fixture(autouse=True)
def _clean_slate() -> Iterator[None]:
    """Trouble that one test caused is not counted in the next."""
    _trouble.forget()
    yield
    _trouble.forget()
