"""Trouble is counted exactly and said seldom, whatever stderr does."""

import io
import os
import signal
import sys
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from otel_logging import _diagnostics, processors
from otel_logging.export.sender import Sender
from tests.spools import make, run

LOST = "spans lost in a test"


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """The clock of the module alone, at ``clock.now`` seconds."""
    clock = SimpleNamespace(now=0.0)
    clock.monotonic = lambda: clock.now
    monkeypatch.setattr(_diagnostics, "time", clock)
    return clock


def test_each_kind_is_reported_at_most_once_a_minute(
    clock: SimpleNamespace, capsys: pytest.CaptureFixture[str]
) -> None:
    """The first at once, the rest with their number a minute later; each kind by itself."""
    _diagnostics.report(LOST, 3, detail=OSError("disk full"))
    for _ in range(5):
        _diagnostics.report(LOST, 2, detail="again")
    _diagnostics.report("lines lost")
    assert capsys.readouterr().err == (
        f"otel_logging: 3 {LOST} (disk full)\notel_logging: 1 lines lost\n"
    )
    clock.now = 59.9
    _diagnostics.report(LOST)
    assert capsys.readouterr().err == ""
    clock.now = 60.0
    _diagnostics.report(LOST)
    assert capsys.readouterr().err == f"otel_logging: 12 {LOST}\n"
    assert _diagnostics.counts == {LOST: 15, "lines lost": 1}


def test_a_remark_has_no_number(clock: SimpleNamespace, capsys: pytest.CaptureFixture[str]) -> None:
    """Nor has one that was made again within the minute."""
    remark = "spans are kept for an hour"
    _diagnostics.remark(remark)
    _diagnostics.remark(remark, detail="again")
    _diagnostics.remark(remark)
    clock.now = 60.0
    _diagnostics.remark(remark, detail="later")
    assert capsys.readouterr().err == (f"otel_logging: {remark}\notel_logging: {remark} (later)\n")
    assert _diagnostics.counts == {remark: 4}


def test_no_terminal_obeys_a_report(capsys: pytest.CaptureFixture[str]) -> None:
    """It is one line, whatever others have put into a name or an error."""
    _diagnostics.report("lines lost", detail="\x1b[2J\nforged \u202e")
    (said,) = capsys.readouterr().err.splitlines()
    assert said == r"otel_logging: 1 lines lost (\x1b[2J\nforged \u202e)"


def test_at_exit_suppressed_reports_are_written(
    clock: SimpleNamespace, capsys: pytest.CaptureFixture[str]
) -> None:
    """What was kept quiet comes out by ``say_rest``, once."""
    _diagnostics.report(LOST)
    _diagnostics.report(LOST, 4)
    _diagnostics.report("lines lost")
    capsys.readouterr()
    _diagnostics.say_rest()
    _diagnostics.say_rest()
    assert capsys.readouterr().err == f"otel_logging: 4 {LOST}\n"


def test_once_the_interpreter_exits_nothing_is_kept_quiet(
    clock: SimpleNamespace, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nobody comes later to say the rest; a new set-up keeps quiet again."""
    _diagnostics.report(LOST)
    _diagnostics.report(LOST, 4)
    _diagnostics.at_exit()
    _diagnostics.report(LOST)
    _diagnostics.report(LOST, 2)
    assert capsys.readouterr().err == "".join(f"otel_logging: {n} {LOST}\n" for n in (1, 4, 1, 2))
    _diagnostics.forget()
    _diagnostics.report(LOST)
    _diagnostics.report(LOST)
    assert capsys.readouterr().err == f"otel_logging: 1 {LOST}\n"


def test_losses_are_on_the_next_span_as_often_as_on_stderr(
    clock: SimpleNamespace, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """At most once a minute; the rest with the worker's next look. Also where stderr takes none."""
    sender = Sender(make(tmp_path), None, timeout_s=1)
    _diagnostics.forget()
    processors.redact_secrets(None, "info", {"password": "x1"})
    sender.gather()
    _diagnostics.report(LOST)
    _diagnostics.report(LOST, 4)
    _diagnostics.report("headers not understood")
    assert _diagnostics.take_unrecorded() == {"otel_logging.lost": f"1 {LOST}"}
    assert _diagnostics.take_unrecorded() == {}
    clock.now = 60.0
    sender.next_housekeeping = 0.0  # by the real clock
    sender.gather()
    told = {"otel_logging.lost": f"4 {LOST}", "otel_logging.value.redacted": 1}
    assert _diagnostics.take_unrecorded() == told
    assert capsys.readouterr().err.endswith(f"otel_logging: 4 {LOST}\n")


def test_what_stderr_does_not_take_is_on_one_span(
    clock: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next span says it, though it is still to be written."""
    with monkeypatch.context() as closed:
        closed.setattr(sys, "stderr", Broken())
        _diagnostics.report(LOST)
    assert _diagnostics.take_unrecorded() == {"otel_logging.lost": f"1 {LOST}"}
    clock.now = 60.0
    _diagnostics.report(LOST)
    assert _diagnostics.take_unrecorded() == {"otel_logging.lost": f"1 {LOST}"}
    _diagnostics.report("lines dropped")
    _diagnostics.forget()
    assert _diagnostics.take_unrecorded() == {}


def test_a_new_set_up_counts_anew(capsys: pytest.CaptureFixture[str]) -> None:
    """``forget`` forgets counts, and when what was said."""
    _diagnostics.report(LOST, 2)
    _diagnostics.forget()
    _diagnostics.report(LOST, 1)
    assert capsys.readouterr().err == f"otel_logging: 2 {LOST}\notel_logging: 1 {LOST}\n"
    assert _diagnostics.counts == {LOST: 1}


class Broken(io.StringIO):
    def write(self, text: str) -> int:
        raise BrokenPipeError


class Unprintable:
    def __str__(self) -> str:
        raise RuntimeError("no")


@pytest.mark.parametrize("stderr", [None, Broken()])
def test_a_stderr_that_takes_nothing_is_no_trouble(
    stderr: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """None (a Windows service), or one that raises: it is counted all the same."""
    monkeypatch.setattr(sys, "stderr", stderr)
    _diagnostics.report(LOST)
    assert _diagnostics.counts[LOST] == 1


def test_a_closed_stderr_or_an_unprintable_detail_is_no_trouble(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Counted all the same."""
    _diagnostics.report("first", detail=Unprintable())
    closed = io.StringIO()
    closed.close()
    monkeypatch.setattr(sys, "stderr", closed)
    _diagnostics.report("second")
    assert _diagnostics.counts == {"first": 1, "second": 1}


def test_a_stderr_that_reports_again_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stderr whose write makes trouble of its own: counted, each kind said once."""

    class Recursive(io.StringIO):
        def write(self, text: str) -> int:
            _diagnostics.report(LOST)
            _diagnostics.report("found while speaking")
            return super().write(text)

    stderr = Recursive()
    monkeypatch.setattr(sys, "stderr", stderr)
    _diagnostics.report(LOST)
    assert _diagnostics.counts == {LOST: 3, "found while speaking": 2}
    assert stderr.getvalue() == (f"otel_logging: 1 {LOST}\notel_logging: 1 found while speaking\n")


def test_a_report_made_while_another_thread_writes_is_written_by_that_thread(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A thread never waits for another's write to stderr, and its trouble is said still."""
    entered, go_on = threading.Event(), threading.Event()

    class Slow(io.StringIO):
        def write(self, text: str) -> int:
            entered.set()
            assert go_on.wait(10)
            return super().write(text)

    stderr = Slow()
    monkeypatch.setattr(sys, "stderr", stderr)
    speaker = threading.Thread(target=_diagnostics.report, args=(LOST,))
    speaker.start()
    assert entered.wait(10)
    _diagnostics.report("of this thread")  # would hang if it waited
    go_on.set()
    speaker.join(10)
    assert stderr.getvalue() == f"otel_logging: 1 {LOST}\notel_logging: 1 of this thread\n"


def test_counts_are_exact_across_threads(capsys: pytest.CaptureFixture[str]) -> None:
    """Eight threads that switch as often as they can: nothing counted twice or lost."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        threads = [
            threading.Thread(target=lambda: [_diagnostics.report(LOST, 3) for _ in range(2000)])
            for _ in range(8)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert _diagnostics.counts[LOST] == 8 * 2000 * 3
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs POSIX timers")
def test_counts_are_exact_when_signal_handlers_report_too() -> None:
    """A handler runs in the middle of a report: nothing lost, nothing stuck."""
    script = """
import signal
from otel_logging import _diagnostics
fired = 0
def handler(*_):
    global fired
    fired += 1
    _diagnostics.report("k")
signal.signal(signal.SIGALRM, handler)
signal.setitimer(signal.ITIMER_REAL, 1e-4, 1e-4)
reported = 0
while fired < 500:
    _diagnostics.report("k")
    reported += 1
signal.setitimer(signal.ITIMER_REAL, 0)
print(_diagnostics.counts["k"] - fired - reported)
"""
    assert run(script) == "0\n"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_speaks_though_a_thread_of_its_parent_was_speaking() -> None:
    """What one thread holds during a fork is not held for ever in the child."""
    script = """
import os, sys, threading
from otel_logging import _diagnostics
entered, go_on = threading.Event(), threading.Event()
class Slow:
    def write(self, text):
        entered.set()
        go_on.wait()
sys.stderr = Slow()
speaker = threading.Thread(target=_diagnostics.report, args=("in the parent",))
speaker.start()
entered.wait()
child = os.fork()
if not child:
    sys.stderr = sys.stdout
    _diagnostics.report("in the child")
    sys.exit()
os.waitpid(child, 0)
go_on.set()
speaker.join()
sys.stderr = sys.__stderr__
"""
    assert run(script, traced=False) == "otel_logging: 1 in the child\n"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_speaks() -> None:
    """A fork in between changes nothing."""
    script = """
import os, sys
from otel_logging import _diagnostics
sys.stderr = sys.stdout
_diagnostics.report("in the parent")
sys.stdout.flush()
if not os.fork():
    _diagnostics.report("in the child", 2)
    sys.exit()
os.wait()
"""
    assert run(script) == "otel_logging: 1 in the parent\notel_logging: 2 in the child\n"
