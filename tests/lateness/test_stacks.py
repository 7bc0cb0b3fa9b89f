"""Stacks of other threads are read while those go on: nothing of that may harm the process."""

import gc
import os
import sys
import threading
import time
import traceback
from collections.abc import Iterator

import pytest

from otel_logging import traced
from tests.conftest import Service

WORKING_S = 0.6


@pytest.fixture
def collecting() -> Iterator[list[str]]:
    """Collect garbage all the time; give the functions of ours in which that was begun."""
    seen: list[str] = []

    def note(phase: str, _: object) -> None:
        stack = traceback.extract_stack() if phase == "start" else []
        if any(each.filename.endswith(("watchdog.py", "pauses.py")) for each in stack):
            ours = {each.name for each in stack if each.filename.endswith("where.py")}
            seen.extend(ours - {"frames"})  # it says from when on nothing is collected

    before = gc.get_threshold()
    gc.callbacks.append(note)
    gc.set_threshold(2, 2, 2)
    try:
        yield seen
    finally:
        gc.set_threshold(*before)
        gc.callbacks.remove(note)


def _stand(depth: int) -> None:
    if depth:
        return _stand(depth - 1)
    return time.sleep(0.001)


def _work() -> None:
    with traced("slow", budget=0.01):
        ends = time.monotonic() + WORKING_S
        while time.monotonic() < ends:
            _stand(20)


def _work_in_threads() -> None:
    threads = [threading.Thread(target=_work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


@pytest.mark.skipif(sys.version_info >= (3, 12), reason="it collects garbage between steps alone")
def test_no_garbage_is_collected_while_stacks_of_others_are_read(
    service: Service, collecting: list[str]
) -> None:
    """Python 3.11 lets other threads go on in the middle of ``frame.f_back`` then, and crashes."""
    _work_in_threads()
    late = [span for span in service.spans() if span.name == "slow"]
    assert all("_stand" in span.attributes["late.where"] for span in late)
    assert len(late) == 4
    assert collecting == []
    assert gc.isenabled()


def test_a_collector_that_the_application_has_switched_off_stays_off(service: Service) -> None:
    gc.disable()
    try:
        _work_in_threads()
        assert not gc.isenabled()
    finally:
        gc.enable()
    assert any("late.where" in span.attributes for span in service.spans())


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no forks here")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_child_has_the_collector_as_its_parent(service: Service) -> None:
    working = threading.Thread(target=_work_in_threads)
    working.start()
    codes = []
    while working.is_alive():
        if (child := os.fork()) == 0:
            os._exit(0 if gc.isenabled() else 1)
        codes.append(os.waitpid(child, 0)[1])
        time.sleep(0.005)
    working.join()
    assert codes
    assert not any(codes)
    assert service.spans()
