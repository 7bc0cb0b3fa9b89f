"""The stack of ``tests/compose``: the shipped compose file on a Docker engine."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.backends.cases import service
from tests.backends.stack import MissingError
from tests.compose.engine import Compose, engine

__all__ = ["service"]


@pytest.fixture(scope="package")
def compose(asked: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Compose]:
    try:
        # a short path: sockets are in it
        with (
            tempfile.TemporaryDirectory(prefix="otel-", ignore_cleanup_errors=True) as place,
            engine(Path(place)) as running,
        ):
            stack = Compose(running, tmp_path_factory.mktemp("compose"))
            try:
                stack.up()
                yield stack
            finally:
                stack.down("-v")
    except MissingError as missing:
        pytest.skip(str(missing))


@pytest.fixture
def stack(compose: Compose) -> Compose:
    return compose
