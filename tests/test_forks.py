"""Children: of Python's fork, of forks in C that Python knows nothing of, and short ones."""

import os
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from otel_logging import _diagnostics, _forks, get_logger, traced
from tests.conftest import Service
from tests.receiver import Receiver
from tests.test_exit import Shop

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="POSIX")


@pytest.fixture
def shop(receiver: Receiver, tmp_path: Path) -> Shop:
    return Shop(receiver, tmp_path / "spool")


#: As uWSGI forks: no hook of Python is called, and the child goes on with the interpreter's lock.
#: The module is that of its master, in which no thread of ours runs: such a fork beside a thread
#: that waits for the interpreter leaves the child a lock that is never released.
FORK_IN_C = """
import ctypes, logging, os, sys, threading, time, types, warnings
uwsgi = sys.modules["uwsgi"] = types.ModuleType("uwsgi")
uwsgi.worker_id, uwsgi.has_threads, uwsgi.opt = lambda: 0, True, {}
warnings.simplefilter("ignore")  # fork beside threads, from Python 3.12 on
from otel_logging import get_logger, setup_observability, traced
fork_in_c = ctypes.PyDLL(None).fork
log = get_logger("shop")
"""


def names(receiver: Receiver) -> list[str]:
    return sorted(span.name for span in receiver.spans)


def test_children_forked_in_c_deliver_while_they_run(shop: Shop) -> None:
    """Each has ids, a resource, a worker and a place of its own; nothing is doubled."""
    shop.run(
        FORK_IN_C
        + """
observability = setup_observability("shop")
with traced("master"): pass
assert observability.force_flush(60)
children = []
for child in range(3):
    if (pid := fork_in_c()) == 0:
        threads = [threading.Thread(target=lambda: traced("first").__enter__().end())
                   for _ in range(4)]
        for thread in threads: thread.start()
        for thread in threads: thread.join()
        for number in range(20):
            with traced("request", root=True): log.info("inside")
        log.info("outside")
        assert observability.force_flush(20)
        assert len(observability._pipeline.spool.waiting()) == 0
        os._exit(0)
    children.append(pid)
with traced("master, afterwards"): pass
assert [os.waitpid(pid, 0)[1] for pid in children] == [0, 0, 0]
"""
    )
    spans = shop.receiver.spans
    expected = {"master": 1, "master, afterwards": 1, "first": 12, "request": 60, "process log": 3}
    assert Counter(span.name for span in spans) == expected
    assert Counter(shop.delivered()) == {"inside": 60, "outside": 3}
    assert len({span.span_id for span in spans}) == len(spans)
    assert len({span.trace_id for span in spans}) == len(spans)
    resources = {span.name: set[str]() for span in spans}
    for span in spans:
        resources[span.name].add(str(span.resource["process.pid"]))
    assert len(resources["request"]) == 3
    assert len(resources["master"] | resources["request"]) == 4


def test_what_is_open_at_a_fork_in_c_is_ended_by_the_parent_alone(shop: Shop) -> None:
    """And what the child logs on it is on a span of the child's, and lost by neither."""
    said = shop.run(
        FORK_IN_C
        + """
observability = setup_observability("shop")
log.info("outside, before")
with traced("open"):
    log.info("before")
    pid = fork_in_c()
    log.info("child" if pid == 0 else "parent")
log.info("outside, child" if pid == 0 else "outside, parent")
if pid == 0:
    assert observability.shutdown()
    os._exit(0)
assert os.waitpid(pid, 0)[1] == 0
"""
    )
    assert Counter(shop.delivered()) == Counter(said)
    assert names(shop.receiver) == ["log", "open", "process log", "process log"]


def test_a_child_forked_in_c_that_did_nothing_ends_nothing_of_its_parents(shop: Shop) -> None:
    """Its exit leaves the parent's place, and the connection that the parent has."""
    shop.run(
        FORK_IN_C
        + """
import atexit
observability = setup_observability("shop")
with traced("before"): pass
assert observability.force_flush(60)
with traced("waits"): pass
if (pid := fork_in_c()) == 0:
    atexit._run_exitfuncs()
    os._exit(0)
assert os.waitpid(pid, 0)[1] == 0
assert observability._pipeline.spool._held.own().exists()
with traced("after"): pass
"""
    )
    assert names(shop.receiver) == ["after", "before", "waits"]


def test_a_child_of_a_process_that_only_imported_us_keeps_its_place(shop: Shop) -> None:
    """The process id is another than at the import, and yet nothing was set up before the fork."""
    shop.run(
        """
import os
from otel_logging import setup_observability, traced
if (child := os.fork()) == 0:
    observability = setup_observability("shop")
    with traced("stage"): pass
    assert observability.force_flush(10)
    assert len(list(observability._pipeline.spool.base.glob("*/*/lock"))) == 1
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
"""
    )
    assert names(shop.receiver) == ["stage"]


def test_children_that_are_set_up_after_the_fork_have_ids_of_their_own(shop: Shop) -> None:
    """As gunicorn's with --preload, where set-up is in a hook of the worker's."""
    shop.run(
        """
import os
from otel_logging import setup_observability, traced
children = []
for _ in range(3):
    if (pid := os.fork()) == 0:
        with setup_observability("shop") as observability:
            with traced("request"): pass
            assert observability.force_flush(10)
        os._exit(0)
    children.append(pid)
for pid in children: os.waitpid(pid, 0)
"""
    )
    spans = shop.receiver.spans
    assert names(shop.receiver) == ["request"] * 3
    assert len({span.trace_id for span in spans}) == len({span.span_id for span in spans}) == 3


def test_log_records_of_a_child_forked_in_c(shop: Shop) -> None:
    """OTEL_LOGS_EXPORTER=otlp: the spool and the worker are the child's own as well."""
    shop.run(
        FORK_IN_C
        + """
observability = setup_observability("shop")
log.info("parent")
assert observability.force_flush(60)
if (pid := fork_in_c()) == 0:
    log.info("child")
    assert observability.shutdown()
    os._exit(0)
assert os.waitpid(pid, 0)[1] == 0
""",
        OTEL_LOGS_EXPORTER="otlp",
        OTEL_TRACES_EXPORTER="none",
    )
    assert sorted(str(record.body) for record in shop.receiver.log_records) == ["child", "parent"]


@pytest.mark.parametrize("mark", [bytearray(1), _forks._ByProcessId()])  # and where no memory does
def test_a_failing_part_is_reported_and_the_others_follow(
    service: Service, monkeypatch: pytest.MonkeyPatch, mark: Any
) -> None:
    """Nothing is raised where a line or a stage finds out about the fork."""

    class Part:
        def after_fork(self) -> None:
            get_logger("shop").info("in the middle")
            raise RuntimeError("planted")

    part = Part()
    _forks.join(_forks.Step.SPOOL, part)
    with traced("before"):
        pass
    monkeypatch.setattr(_forks, "pid", 1)
    monkeypatch.setattr(_forks, "mark", mark)
    with traced("after"):
        pass
    assert _forks.pid == os.getpid()
    assert mark[0]
    # others' counts are of the watching thread, which a real child has not
    assert _diagnostics.counts["errors in a forked child"] == 1
    assert service.named("after")


def test_the_end_of_a_stage_finds_out_about_the_fork(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where nothing else was done in the child before."""
    mark = bytearray(1)
    with traced("stage"):
        monkeypatch.setattr(_forks, "pid", 1)
        monkeypatch.setattr(_forks, "mark", mark)
    assert (_forks.pid, mark[0]) == (os.getpid(), 1)
    assert service.named("stage")


SHORT = """
import os, random, sys, time, warnings
warnings.simplefilter("ignore")  # fork beside threads, from Python 3.12 on
from otel_logging import setup_observability, traced
observability = setup_observability("shop")
with traced("parent"): pass
assert observability.force_flush(60)
children = []
for child in range(60):
    if (pid := os.fork()) == 0:
        random.seed(child)
        for number in range(4):
            with traced(f"{child} {number}"): pass
            time.sleep(random.random() * 0.1)  # within its first second, on a busy machine too
        os._exit(0)
    children.append(pid)
    if len(children) > 6:
        os.waitpid(children.pop(0), 0)
for pid in children: os.waitpid(pid, 0)
{end}
"""


@pytest.mark.alone
@pytest.mark.parametrize(
    "end", ["assert observability.force_flush(40)", "os._exit(0)"], ids=["the parent", "the next"]
)
def test_short_children_leave_delivery_to_others(shop: Shop, end: str) -> None:
    """They end by ``os._exit`` wherever they are: all of their spans arrive, and none twice."""
    shop.run(SHORT.replace("{end}", end))
    if "force_flush" not in end:
        shop.start_next()
    expected = ["parent", *[f"{child} {number}" for child in range(60) for number in range(4)]]
    assert names(shop.receiver) == sorted(expected)


def test_a_short_child_that_flushes_sends_its_own_alone(shop: Shop) -> None:
    """What another left waits for the parent: this one may end in the midst of a delivery too."""
    shop.run("""
import os, warnings
warnings.simplefilter("ignore")  # fork beside threads, from Python 3.12 on
from otel_logging import setup_observability, traced
observability = setup_observability("shop")
with traced("parent"): pass
assert observability.force_flush(60)
for name in ("left", "asked"):
    if (pid := os.fork()) == 0:
        with traced(name): pass
        os._exit(0 if name == "left" or observability.force_flush(20) else 1)
    assert os.waitpid(pid, 0)[1] == 0
os._exit(0)
""")
    assert names(shop.receiver) == ["asked", "parent"]
    shop.start_next()
    assert names(shop.receiver) == ["asked", "left", "parent"]


def test_a_child_that_lives_delivers_by_itself(shop: Shop) -> None:
    """After a second; at once where it is asked to."""
    shop.run(
        """
import os, sys, time, warnings
warnings.simplefilter("ignore")
from otel_logging import setup_observability, traced
observability = setup_observability("shop")
began = time.monotonic()
if (pid := os.fork()) == 0:
    with traced("child"): pass
    while observability._deliveries[0].sender.delivered_segments == 0:
        assert time.monotonic() - began < 60
        time.sleep(0.01)
    assert time.monotonic() - began >= 0.9
    os._exit(0)
assert os.waitpid(pid, 0)[1] == 0
if (pid := os.fork()) == 0:
    with traced("asked"): pass
    assert observability.force_flush(60)
    os._exit(0)
assert os.waitpid(pid, 0)[1] == 0
os._exit(0)
"""
    )
    assert names(shop.receiver) == ["asked", "child"]


WITHOUT_THREADS = """
import sys, types
worker = [1]
sys.modules["uwsgi"] = types.SimpleNamespace(
    has_threads={threads}, opt={options}, worker_id=lambda: worker[0]
)
import os, threading, time
from otel_logging import setup_observability, traced
observability = setup_observability("shop")
with traced({name!r}): pass
time.sleep(0.7)  # what waits is sent after half a second
names = [thread.name for thread in threading.enumerate()]
print('{"event": "%s"}' % ("otel_logging delivery" in names), flush=True)
{end}
"""


def without_threads(name: str, end: str = "", threads: int = 0, options: str = "{}") -> str:
    parts = {"{name!r}": repr(name), "{end}": end, "{threads}": str(threads)}
    text = WITHOUT_THREADS
    for part, by in {**parts, "{options}": options}.items():
        text = text.replace(part, by)
    return text


def test_where_no_threads_run_spans_wait_on_disk(shop: Shop) -> None:
    """An older uWSGI without --enable-threads: reported once, delivered at exit or by the next."""
    said = shop.run(without_threads("killed", "os._exit(0)"))
    assert said == ["False"]
    assert shop.err.count("otel_logging:") == 1
    assert "uWSGI without --enable-threads" in shop.err
    assert names(shop.receiver) == []
    shop.run(without_threads("second", "os._exit(0)"))
    assert names(shop.receiver) == ["killed"]
    shop.run(without_threads("third"))
    assert names(shop.receiver) == ["killed", "second", "third"]


def test_uwsgi_forks_beside_no_thread_of_ours(shop: Shop) -> None:
    """At such a fork the interpreter's lock may be a thread's that the child does not have."""
    shop.run(
        FORK_IN_C
        + """
import types
worker = [0]
sys.modules["uwsgi"] = types.SimpleNamespace(has_threads=1, opt={}, worker_id=lambda: worker[0])
observability = setup_observability("shop")
with traced("loading"): pass
assert threading.active_count() == 1
if (pid := fork_in_c()) == 0:
    with traced("mule"): pass
    assert threading.active_count() == 2
    assert observability.shutdown()
    os._exit(0)
assert os.waitpid(pid, 0)[1] == 0
with traced("master"): pass
assert threading.active_count() == 1
worker[0] = 1  # where it forks none, this process is the worker
observability._pipeline.spool.seal()
with traced("worker"): pass
assert threading.active_count() == 3  # delivers, and watches
"""
    )
    assert names(shop.receiver) == ["loading", "master", "mule", "worker"]


@pytest.mark.parametrize(("threads", "options"), [(1, "{}"), (0, "{'gevent': b'100'}")])
def test_where_threads_run_they_deliver(shop: Shop, threads: int, options: str) -> None:
    """uWSGI with threads, or with a loop that waits for them."""
    assert shop.run(without_threads("span", threads=threads, options=options)) == ["True"]
    assert "uWSGI" not in shop.err
    assert names(shop.receiver) == ["span"]
    assert sys.modules.get("uwsgi") is None


def test_a_child_forked_while_a_thread_asks_for_an_id_asks_for_one_itself(shop: Shop) -> None:
    """What is not sampled makes its id when it is asked for it, and holds no lock meanwhile."""
    shop.run(
        """
import os, signal, sys, threading, warnings
from otel_logging import setup_observability, traced
warnings.simplefilter("ignore")  # fork beside threads, from Python 3.12 on
setup_observability("shop")
def ask(times):
    for _ in range(times):
        with traced("stage") as span:
            assert span.get_span_context().span_id == span.get_span_context().span_id
for _ in range(3):
    threading.Thread(target=ask, args=(1 << 30,), daemon=True).start()
for _ in range(20):
    if (child := os.fork()) == 0:
        signal.alarm(20)
        ask(1)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
os._exit(0)
""",
        OTEL_TRACES_SAMPLER="always_off",
    )
