"""The law of the spool, in any order of what can happen to it: real processes, real directories.

Nothing is lost but what a dying write had not finished, or the bound, which is reported; nothing is
sent twice but a segment whose answer was lost. More of it, 10,000 orders in half an hour on an
idle machine, in ten runs of which each counts for itself:
``for seed in $(seq 10); do nice -n 19 python -m pytest -n 0 --hypothesis-profile long
--hypothesis-seed $seed tests/spool/test_model.py; done``, with ``TMPDIR=/dev/shm``.
"""

import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from otel_logging.spool import directories, reading
from otel_logging.spool.destinations import DROPPED_BOUND
from otel_logging.spool.directories import OPEN
from otel_logging.spool.segment import frame
from tests.spool.processes import Process, Processes, processes
from tests.spools import encoded, loaded, numbers, on_disk, trace_id

BOUND = 1_000  # bytes: some ten spans
DROPPED = DROPPED_BOUND.format("spans")

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="pidfd is Linux's")


class SpoolMachine(RuleBasedStateMachine):
    """Processes of one destination, and the collector that they deliver to."""

    makes: Processes
    living = Bundle("living")

    @initialize(target=living)
    def begin(self) -> Process:
        self.base = Path(tempfile.mkdtemp(prefix="model-"))
        self.left = 0  # numbers of spans so far
        self.there: set[int] = set()  # appended, and not over the bound
        self.sent: Counter[int] = Counter()  # by the collector
        self.unheard: Counter[int] = Counter()  # of these, with a lost answer
        self.all: list[Process] = []
        return self.start()

    def _new(self, process: Process) -> Process:
        self.all.append(process)
        return process

    # ---- processes

    @rule(target=living)
    def start(self) -> Process:
        return self._new(self.makes.make(self.base, bytes_bound=BOUND))

    @rule(target=living, parent=living)
    def fork(self, parent: Process) -> Process:
        return self._new(self.makes.fork(parent))

    @rule(process=consumes(living))
    def is_killed(self, process: Process) -> None:
        process.kill()
        self.all.remove(process)

    @rule(process=consumes(living), keep=st.floats(0, 1, exclude_max=True))
    def is_killed_while_it_writes(self, process: Process, keep: float) -> None:
        """The tail of its last write, which had not returned, is torn."""
        mine = {*self.base.glob(f"*/{process.pid}-*/*{OPEN}")}
        self.is_killed(process)
        for path in mine:
            torn = frame(trace_id(0), encoded(0))
            with path.open("ab") as file:
                file.write(torn[: int(keep * len(torn))])

    @rule(process=consumes(living))
    def ends(self, process: Process) -> None:
        process.do("close")
        process.begin("exit")
        process.wait()
        self.all.remove(process)

    # ---- what they do

    @rule(process=living, count=st.integers(1, 6))
    def append(self, process: Process, count: int) -> None:
        fresh = range(self.left + 1, self.left + 1 + count)
        process.do("append", *fresh)
        self.there.update(fresh)
        self.left += count

    @rule(process=living)
    def close(self, process: Process) -> None:
        """What it appends from then on is on disk all the same."""
        process.do("close")

    @rule(process=living)
    def seal(self, process: Process) -> None:
        process.do("seal")

    @rule(process=living)
    def adopt(self, process: Process) -> None:
        process.do("adopt")

    @rule(
        process=living,
        answers=st.lists(st.sampled_from(["accepted", "refused", "lost"]), min_size=1),
    )
    def deliver(self, process: Process, answers: list[str]) -> None:
        process.do("seal")
        for (name, spans), answer in zip(process.do("waiting"), answers, strict=False):
            if answer == "refused":
                continue
            self.sent.update(spans)
            if answer == "lost":
                self.unheard.update(spans)
            else:
                process.do("delivered", name)
                assert name not in dict(process.do("waiting"))

    @rule(process=living)
    def prune(self, process: Process) -> None:
        """What goes over the bound is the oldest of what was sent, and only then what waits."""
        waiting, reported = self._waiting(), process.do("reported").get(DROPPED, 0)
        process.do("prune")
        dropped = process.do("reported").get(DROPPED, 0) - reported
        gone = self.there - set(on_disk(self.base))
        lost = [spans for path, spans in waiting.items() if not path.exists()]
        assert sum(map(len, lost)) == dropped
        if lost:
            assert not [*self.base.glob(f"*/{directories.SENT}/*")]
        assert not [path for path in waiting if path.suffix == OPEN and not path.exists()]
        sizes = {path: path.stat().st_size for path in reading.segments(self.base)}
        closed = [path for path in sizes if path.suffix != OPEN]
        assert sum(sizes.values()) <= BOUND or not closed
        self.there -= gone

    def _waiting(self) -> dict[Path, list[int]]:
        return {
            path: numbers(loaded(path))
            for path in reading.segments(self.base)
            if path.parent.name != directories.SENT and path.stat().st_size
        }

    # ---- the law

    @invariant()
    def everything_is_on_disk_once(self) -> None:
        assert on_disk(self.base) == sorted(self.there)

    @invariant()
    def nothing_is_sent_twice_but_where_an_answer_was_lost(self) -> None:
        assert all(times <= 1 + self.unheard[number] for number, times in self.sent.items())

    def teardown(self) -> None:
        """Whoever comes last brings what is left."""
        if not hasattr(self, "base"):
            return
        try:
            for process in self.all:
                process.kill()
            self.all = []
            last = self.start()
            last.do("adopt")
            self.deliver(last, ["accepted"] * len(last.do("waiting")))
            assert last.do("waiting") == []
            assert self.there <= set(self.sent)
            self.everything_is_on_disk_once()
            self.nothing_is_sent_twice_but_where_an_answer_was_lost()
        finally:
            for process in self.all:
                process.kill()
            shutil.rmtree(self.base)


@pytest.fixture(scope="module")
def making() -> Iterator[Processes]:
    with processes() as made:
        yield made


def test_the_law_holds_in_any_order(making: Processes) -> None:
    """Start, append, seal, fork, kill, adopt, deliver, prune, end."""
    SpoolMachine.makes = making
    given = settings().max_examples
    most = given if given > 100 else given // 2  # more: somebody asked for it
    run_state_machine_as_test(
        SpoolMachine, settings=settings(max_examples=most, stateful_step_count=30)
    )
