"""The stack of ``tests/backends``: two processes, for all tests of the folder."""

from collections.abc import Iterator

import pytest

from tests.backends.cases import service
from tests.backends.native import PROGRAMS, Native
from tests.backends.stack import MissingError, built

__all__ = ["service"]


@pytest.fixture(scope="package")
def native(asked: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Native]:
    try:
        for pattern in PROGRAMS.values():
            built(pattern)
    except MissingError as missing:
        pytest.skip(str(missing))
    running = Native(tmp_path_factory.mktemp("native"))
    try:
        running.start("jaeger")
        running.start("collector")
        yield running
    finally:
        running.close()


@pytest.fixture
def stack(native: Native) -> Native:
    return native
