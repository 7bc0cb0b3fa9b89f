"""What comes when the interpreter exits, after the package's own exit handler: nothing is lost
silently. The next start of the service delivers it.
"""

import json
import multiprocessing
import os
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from otel_logging import setup_observability
from tests.programs import python
from tests.receiver import Receiver, accept
from tests.spools import ROOT
from tests.test_delivery import in_turn

#: Exit handlers run in reverse order of registration: ``late`` is called after ours.
LATE = """
import atexit, builtins, logging, os, sys, threading, time
log = logging.getLogger("shop")
atexit.register(lambda: late())
from opentelemetry import trace
from otel_logging import setup_observability, traced
{before}
observability = setup_observability("shop")
log.info("normal")
{main}
def late():
    {late}
"""
LINES = 'log.info("late"); log.info("later")'
#: For 5 s, which the end takes at most.
SOON = "import otel_logging.observability; otel_logging.observability.EXIT_S = 1.0"


def script(late: str = LINES, *, main: str = "", before: str = "") -> str:
    return LATE.format(late=late, main=main, before=before)


class Shop:
    """A service that is started again and again on one spool."""

    def __init__(self, receiver: Receiver, spool_dir: Path) -> None:
        self.receiver = receiver
        self.spool_dir = spool_dir
        self.err = ""

    def run(self, source: str, **environment: str) -> list[str]:
        """Run *source* to its end, and return its lines, where they are JSON."""
        variables = {
            "PYTHONPATH": str(ROOT),
            "ENVIRONMENT": "production",
            "OTEL_EXPORTER_OTLP_ENDPOINT": self.receiver.endpoint,
            "OTEL_LOGGING_SPOOL_DIR": str(self.spool_dir),
        }
        done = python("-c", source, env={**os.environ, **variables, **environment})
        self.err = done.stderr
        assert done.returncode == 0, done.stderr
        lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
        return [json.loads(line)["event"] for line in lines]

    def start_next(self) -> None:
        """Start it in this process, and end it: what the one before has left is delivered."""
        with setup_observability(
            "shop",
            environment="production",
            endpoint=self.receiver.endpoint,
            spool_dir=self.spool_dir,
        ) as observability:
            assert observability.force_flush(60)

    def delivered(self) -> list[str]:
        """Return the lines at the receiver."""
        return [event.name for _, event in self.receiver.events]


@pytest.fixture
def shop(receiver: Receiver, tmp_path: Path) -> Shop:
    return Shop(receiver, tmp_path / "spool")


STAGES = """
    log.info("outside")
    if opened: opened.pop().__exit__(None, None, None)
    with traced("stage"):
        log.info("inside")
        with traced("inner"): log.info("further inside")
"""
SCHEDULER = """
from apscheduler.schedulers.background import BackgroundScheduler
scheduler = BackgroundScheduler()
atexit.register(scheduler.shutdown)
"""
FINALISER = """
class Last:
    def __del__(self, log=log): log.info("finaliser", extra={"of": "https://hooks.slack.com/T0/B1/Xy"})
builtins.last = Last()
"""
OTHERS = """
from opentelemetry.sdk.trace import TracerProvider
trace.set_tracer_provider(TracerProvider())
"""


@pytest.mark.parametrize(
    ("source", "last"),
    [
        (script(), "later"),
        (
            script(
                STAGES,
                main='opened = [traced("open")]; opened[0].__enter__(); log.info("held")',
            ),
            "further inside",
        ),
        (script(before=SCHEDULER, main="scheduler.start()"), "later"),
        (script(main=FINALISER), "finaliser"),
        (script(STAGES, main="opened = []", before=OTHERS), "further inside"),
        (script("[log.info(str(n)) for n in range(2_000)]"), "1999"),
    ],
    ids=["lines", "stages", "scheduler", "finaliser", "another SDK's provider", "many"],
)
def test_what_comes_after_our_exit_handler_is_delivered_by_the_next_start(
    shop: Shop, source: str, last: str
) -> None:
    """Handlers registered before the set-up, and finalisers: on disk at once, each line once."""
    said = shop.run(source)
    assert (said[-1], shop.err) == (last, "")
    assert "normal" in shop.delivered()
    assert last not in shop.delivered()
    assert list(shop.spool_dir.glob("*/*/*.open"))
    shop.start_next()
    assert Counter(shop.delivered()) == Counter(said)
    assert len({span.span_id for span in shop.receiver.spans}) == len(shop.receiver.spans)
    assert {path.parent.name for path in shop.spool_dir.rglob("*.*")} == {"sent"}


def test_a_late_line_outside_any_span_waits_for_no_other(shop: Shop) -> None:
    """Each is a `process log` span of its own, also when the clock is set back."""
    shop.run(
        script(
            'log.info("late"); log.handle(logging.makeLogRecord('
            '{"created": time.time() + 3600, "msg": "of the future", "levelno": 20}))'
        )
    )
    shop.start_next()
    spans = [(span.name, [event.name for event in span.events]) for span in shop.receiver.spans]
    names = ["late", "normal", "of the future"]
    assert sorted(spans) == [("process log", [name]) for name in names]


def test_daemon_threads_log_until_the_interpreter_stops_them(shop: Shop) -> None:
    """One may be stopped for good within a write: the finalisers' lines get around it."""
    threads = """
def work(number):
    while True:
        log.info(f"{number} {next(counts[number])}")
        time.sleep(0.001)
import itertools
counts = [itertools.count() for _ in range(4)]
for number in range(4):
    threading.Thread(target=work, args=(number,), daemon=True).start()
"""
    said = shop.run(script("time.sleep(0.2)", main=threads + FINALISER))
    assert (said[-1], shop.err) == ("finaliser", "")
    shop.start_next()
    delivered = Counter(shop.delivered())
    assert set(said) <= delivered.keys()
    assert set(delivered.values()) == {1}
    # each thread may have been stopped between its last line's way to the spool and to stdout
    assert len(delivered) - len(said) <= 4


def test_foreign_processors_hear_nothing_after_their_end(shop: Shop) -> None:
    """They would log about it, at each of these lines another one."""
    processor = """
from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter
provider = trace.get_tracer_provider()
provider.add_span_processor(BatchSpanProcessor(ConsoleSpanExporter(
    out=sys.stderr, formatter=lambda span: ",".join(e.name for e in span.events) + ";"
)))
"""
    assert shop.run(script(main=processor)) == ["normal", "late", "later"]
    assert shop.err == ""
    shop.start_next()
    assert sorted(shop.delivered()) == ["late", "later", "normal"]


ANSWERING = """
from opentelemetry.sdk.trace import SpanProcessor
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter
class Exporter(SpanExporter):
    def export(self, spans): raise ConnectionError("down")
theirs = logging.getLogger("theirs")
def log_it(processor, span, parent_context=None): theirs.warning("seen " + span.name)
def add(processor, span, parent_context=None): span.add_event("added to " + span.name)
def enrich(processor, span, parent_context=None): span.set_attribute("team", "x")
def flush(processor, span): theirs.warning("seen"); trace.get_tracer_provider().force_flush(1)
def answer(answering, *methods):
    return type("Answering", (SpanProcessor,), dict.fromkeys(methods, answering))()
trace.get_tracer_provider().add_span_processor({processor})
from otel_logging import traced
with traced("stage") as stage: log.info("inside")
stage.add_line(time.time_ns(), "after its end", {{}})
"""


@pytest.mark.parametrize(
    "end", ["", "; observability.shutdown()", "; observability.force_flush(5)"]
)
@pytest.mark.parametrize(
    "processor",
    [
        "SimpleSpanProcessor(Exporter())",
        "answer(log_it, 'on_start', '_on_ending', 'on_end')",
        "answer(add, 'on_start')",
        "answer(add, '_on_ending', 'on_end')",
        "answer(enrich, 'on_start')",
        "answer(flush, 'on_end')",
    ],
)
def test_processors_that_answer_each_span_end_with_it(shop: Shop, processor: str, end: str) -> None:
    """With a line, an event, an attribute, an error: it leaves, and is not shown once more."""
    said = shop.run(script(main=ANSWERING.format(processor=processor) + end[2:]))
    assert len(said) < 25
    assert not shop.err
    shop.start_next()
    delivered = shop.delivered()
    assert {"normal", "inside", "after its end"} <= set(delivered)
    assert len(delivered) < 40
    if "add" in processor:
        assert "added to stage" in delivered
    if "'on_start'" in processor and "log_it" not in processor:
        assert not [line for line in said if "ended span" in line]


HANGING = """
from opentelemetry.sdk.trace import SpanProcessor
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
def hang(*_): time.sleep(1000)
def say(*_): os.write(2, b"told ")
kinds = {
    "none": type("P", (SpanProcessor,), {"shutdown": say}),
    "shutdown": type("P", (SpanProcessor,), {"shutdown": hang}),
    "export": lambda: BatchSpanProcessor(type("E", (SpanExporter,), {"export": hang})()),
}
provider = trace.get_tracer_provider()
provider.add_span_processor(kinds[sys.argv[1]]())
provider.add_span_processor(type("P", (SpanProcessor,), {"shutdown": say})())
with traced("stage") as stage: pass
stage.add_line(time.time_ns(), "after its end", {})
"""


@pytest.mark.parametrize("what", ["shutdown", "export"])
@pytest.mark.parametrize("end", ["", "observability.shutdown(0.6)"])
def test_the_end_is_in_time_though_a_processor_never_returns(
    shop: Shop, what: str, end: str
) -> None:
    """It is reported; the others are told, and what ends after it is delivered."""
    began = time.monotonic()
    shop.run(script(main=HANGING.replace("sys.argv[1]", repr(what)) + end, before=SOON))
    assert time.monotonic() - began < 16
    assert "1 foreign span processors left behind: they do not return" in shop.err
    assert "told " in shop.err
    shop.start_next()
    assert {"normal", "after its end"} <= set(shop.delivered())


def test_without_a_thread_processors_are_still_shut_down(shop: Shop) -> None:
    no_threads = """
start = threading.Thread.start
def refuse(thread):
    if thread.name == "otel_logging processors": raise RuntimeError("no more threads")
    start(thread)
threading.Thread.start = refuse
"""
    shop.run(script(main=no_threads + HANGING.replace("sys.argv[1]", "'none'")))
    assert "failures to start a thread for the exit" in shop.err
    assert shop.err.count("told ") == 2
    shop.start_next()
    assert sorted(shop.delivered()) == ["after its end", "late", "later", "normal"]


@pytest.mark.parametrize("end", ["observability.shutdown()", "with observability: pass"])
def test_who_shuts_down_explicitly_has_ended_it(shop: Shop, end: str) -> None:
    """What is logged afterwards is on stdout, as ``shutdown`` says; nothing is lost before."""
    assert shop.run(script(main=end)) == ["normal", "late", "later"]
    assert shop.err == ""
    shop.start_next()
    assert shop.delivered() == ["normal"]
    assert {path.parent.name for path in shop.spool_dir.rglob("*.*")} == {"sent"}


def test_a_shutdown_after_it_has_nothing_to_do(shop: Shop) -> None:
    """Exit handlers of the application may call it once more, and set up: it stays as it is."""
    late = 'observability.shutdown(); setup_observability("shop"); log.info("late")'
    shop.run(script(late))
    shop.start_next()
    assert (sorted(shop.delivered()), shop.err) == (["late", "normal"], "")


def test_exit_is_in_time_though_the_collector_hangs(shop: Shop, tmp_path: Path) -> None:
    """Late lines wait for nothing: as long as without them."""
    shop.receiver.answer = in_turn(accept, shop.receiver.hang)
    end = tmp_path / "end"
    main = f'observability.force_flush(); log.info("held"); open({str(end)!r}, "w")'
    shop.run(script(main=main, before=SOON))
    assert time.time() - end.stat().st_mtime < 6  # the interpreter's own end included
    assert shop.delivered() == ["normal"]
    shop.start_next()
    assert sorted(shop.delivered()) == ["held", "late", "later", "normal"]


def test_a_temporary_spool_is_gone_by_then(shop: Shop, tmp_path: Path) -> None:
    """The environment ``test``: counted and said, and no directory is left."""
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    variables = {"TMPDIR": str(temporary), "OTEL_LOGGING_SPOOL_DIR": "", "ENVIRONMENT": "test"}
    shop.run(script(), **variables)
    assert shop.err.count("1 spans lost: they ended at exit, and no disk takes them") == 2
    assert list(temporary.iterdir()) == []


def test_without_any_writable_place_late_lines_are_counted(shop: Shop, tmp_path: Path) -> None:
    """A spool in memory alone ends with its process."""
    (tmp_path / "file").write_text("")
    nowhere = 'import tempfile; tempfile.tempdir = os.environ["XDG_STATE_HOME"]'
    variables = {"XDG_STATE_HOME": str(tmp_path / "file"), "OTEL_LOGGING_SPOOL_DIR": ""}
    shop.run(script(before=nowhere), **variables)
    assert shop.delivered() == ["normal"]
    assert shop.err.count("1 spans lost: they ended at exit, and no disk takes them") == 2
    assert "wait in memory" not in shop.err


@pytest.mark.skipif(
    not hasattr(os, "fork") or sys.version_info >= (3, 12), reason="no fork at exit"
)
def test_a_fork_in_an_exit_handler(shop: Shop) -> None:
    """Parent and child both leave their lines on disk; the child is no user of the parent's."""
    late = """
    child = os.fork()
    log.info("parent" if child else "child")
    if child: os.waitpid(child, 0)
"""
    said = shop.run(script(late))
    shop.start_next()
    assert Counter(shop.delivered()) == Counter(said)
    assert {"parent", "child"} <= set(said)


WORKERS = """
import atexit, logging, multiprocessing, sys
log = logging.getLogger("shop")
def late():
    log.info("late")

atexit.register(late)
from otel_logging import setup_observability
if sys.argv[1:] != ["late"]:
    setup_observability("shop")

def work():
    setup_observability("shop")
    log.info("child")

def work_and_end():
    with setup_observability("shop"):
        log.info("child")
    atexit.unregister(late)

if __name__ == "__main__":
    setup_observability("shop")
    context = multiprocessing.get_context("{method}")
    for target in (work, work, work_and_end):
        child = context.Process(target=target)
        child.start()
        child.join()
        assert child.exitcode == 0
    log.info("parent")
"""


@pytest.mark.parametrize("setup", ["", "late"], ids=["set up by all", "set up by each"])
@pytest.mark.parametrize("method", multiprocessing.get_all_start_methods())
def test_children_of_multiprocessing_exit_in_the_same_way(
    shop: Shop, tmp_path: Path, method: str, setup: str
) -> None:
    """Though some end in ``os._exit``: their lines outside any span are not lost with them."""
    program = tmp_path / "program.py"
    program.write_text(WORKERS.replace("{method}", method))
    argv = [str(program), *setup.split()]
    source = (
        f"import runpy, sys; sys.argv = {argv!r}; runpy.run_path(sys.argv[0], run_name='__main__')"
    )
    said = shop.run(source)
    assert (said.count("child"), said.count("parent")) == (3, 1)
    shop.start_next()
    assert Counter(shop.delivered()) == Counter(said)
