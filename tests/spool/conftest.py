"""What the spool's tests share: a spool, its clock, and patience."""

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from otel_logging.spool import process_dirs, queue
from otel_logging.spool.queue import Spool
from tests.spools import PATIENT_S, make


@pytest.fixture(autouse=True)
def _busy_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """A busy test machine is no stalled disk, and adopts all that there is."""
    monkeypatch.setattr(queue, "SLOW_S", PATIENT_S)
    monkeypatch.setattr(queue, "ADOPT_S", PATIENT_S)


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """Where spools are made; not there yet."""
    return tmp_path / "spool"


@pytest.fixture
def spool(base: Path) -> Iterator[Spool]:
    """One process' place for the destination "shop-1"."""
    made = make(base)
    yield made
    made.close()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """The clock of the spool alone: ``clock.ticks`` pass before its next readings."""
    clock = SimpleNamespace(now=1000.0, ticks=[])

    def monotonic() -> float:
        if clock.ticks:
            clock.now += clock.ticks.pop(0)
        return clock.now

    clock.monotonic = clock.time = monotonic
    clock.time_ns = lambda: int(clock.now * 1e9)
    for module in (queue, process_dirs):
        monkeypatch.setattr(module, "time", clock)
    return clock
