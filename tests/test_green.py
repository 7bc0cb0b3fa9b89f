"""Under gevent and eventlet: lines, delivery, forks and exits, wherever they replace functions."""

import os
import time
from collections import Counter
from pathlib import Path

import pytest

from tests import rude
from tests.green import LIBRARIES, run
from tests.lines import parsed
from tests.receiver import Answer, Receiver, Request, accept, refuse
from tests.rude import Rude

pytestmark = [
    pytest.mark.skipif(os.name != "posix", reason="as they are run on POSIX"),
    pytest.mark.parametrize("library", LIBRARIES),
]

USERS = """
import logging

class Slow:  # a row of a database that is asked for its text, say
    def __str__(self):
        sleep(0.001)
        return "slow"
    __repr__ = __str__

def work(number):
    from otel_logging import bind_context, get_logger, tag_background_logger, traced
    @tag_background_logger(f"JOB_{number}")
    def job():
        get_logger("shop").info("line", number=number, value=Slow())
        logging.getLogger("plain").info("plain %s of %d", Slow(), number)
    with traced("request", root=True):
        bind_context(user_id=number)
        for _ in range(5):
            job()
            sleep(0)

join([spawn(work, number) for number in range(20)])
result["delivered"] = handle.force_flush(10)
join([spawn(work, number) for number in range(20, 40)])
"""


@pytest.mark.parametrize(
    "begin",
    [
        "patch(); setup()",
        "import otel_logging; patch(); setup()",
        "setup(); patch()",
        "setup(); end('before'); patch(); end('after')",
    ],
)
def test_greenlets_do_not_mix(library: str, begin: str, receiver: Receiver, tmp_path: Path) -> None:
    """They switch in the midst of their lines: each has its own user, trace and tag, and is there
    once, and so is each span.
    """
    done = run(library, begin + USERS, receiver.endpoint, tmp_path)
    assert done.result == {"delivered": True}
    assert "otel_logging:" not in done.err
    lines = [line for line in parsed(done.out) if line["logger"] in ("shop", "plain")]
    assert len(lines) == 400
    for line in lines:
        number = line.get("number", line["event"].split()[-1])
        assert (line["user_id"], line["job_tag"]) == (int(number), f"JOB_{number}")
    spans = [span for span in receiver.spans if span.name == "request"]
    assert sorted(span.attributes["user_id"] for span in spans) == list(range(40))
    trace_ids = {line["user_id"]: line["trace_id"] for line in lines}
    assert {span.attributes["user_id"]: span.trace_id for span in spans} == trace_ids
    assert [len(span.events) for span in spans] == [10] * 40


def test_spans_of_greenlets_are_delivered_over_tls(library: str, tmp_path: Path) -> None:
    """Neither library's sockets know of a deadline for all of a request; ours do."""
    certificates = rude.make_certificates(tmp_path)
    answers = rude.always(*[rude.OK] * 9)
    with Rude(answers, tls=certificates.server_context(), host="127.0.0.1") as collector:
        done = run(
            library,
            "patch(); setup(); end('a'); result['delivered'] = handle.force_flush(10)",
            collector.endpoint,
            tmp_path / "spool",
            OTEL_EXPORTER_OTLP_CERTIFICATE=str(certificates.authority),
        )
    assert done.result == {"delivered": True}
    assert done.err == ""


@pytest.mark.alone
@pytest.mark.parametrize(
    ("behave", "protocol"),
    [
        (rude.read_nothing, "http/protobuf"),
        (rude.drip_head, "http/protobuf"),
        (rude.read_nothing, "grpc"),
    ],
)
def test_a_collector_that_hangs_holds_nothing_up(
    library: str, behave: object, protocol: str, tmp_path: Path
) -> None:
    """Other greenlets go on, a flush and the exit end in time."""
    code = """
patch()
setup()
longest, going = 0.0, True
def tick():
    global longest
    last = time.monotonic()
    while going:
        sleep(0.01)
        longest, last = max(longest, time.monotonic() - last), time.monotonic()
ticking = spawn(tick)
for _ in range(20):
    end("x" * 40_000)
began = time.monotonic()
result["delivered"] = handle.force_flush(0.5)
going = False
join([ticking])
result.update(flushed=time.monotonic() - began, longest=longest, ended=time.time())
"""
    with Rude(behave) as collector:  # type: ignore[arg-type]
        endpoint = f"http://127.0.0.1:{collector.port}"
        done = run(library, code, endpoint, tmp_path, OTEL_EXPORTER_OTLP_PROTOCOL=protocol)
        ended = time.time()
    assert not done.result["delivered"]
    assert done.result["flushed"] < 2
    assert done.result["longest"] < 1
    assert ended - done.result["ended"] < 5.5
    assert done.err == ""


def test_a_fork_in_the_midst_of_a_request(library: str, tmp_path: Path) -> None:
    """Greenlets survive a fork: that of the parent's worker makes no request in the child."""

    def slowly(request: Request) -> Answer:
        if request.spans[0].name == "before":
            time.sleep(1)
        return accept(request)

    code = """
patch()
setup()
end("before")
sleep(0.8)  # its request is under way
child = os.fork()
end("child" if child == 0 else "parent")
result["delivered"] = handle.force_flush(10)
if child == 0:
    sleep(1)  # what the parent's worker would do here
    handle.shutdown()
    os._exit(not result["delivered"])
result["child"] = os.waitpid(child, 0)[1]
"""
    with Receiver() as receiver:
        receiver.answer = slowly
        done = run(library, code, receiver.endpoint, tmp_path)
        names = Counter(span.name for span in receiver.spans)
    assert done.result == {"delivered": True, "child": 0}
    assert names == {"before": 1, "parent": 1, "child": 1}
    assert done.err == ""


def test_a_set_up_before_the_fork_that_is_patched_after_it(
    library: str, receiver: Receiver, tmp_path: Path
) -> None:
    """As in ``gunicorn --preload -k gevent``: the worker of the child is green, and blocks none."""
    code = """
setup()
end("master")
child = os.fork()
if child == 0:
    patch()
    ticks = 0
    def tick():
        global ticks
        while True:
            sleep(0.01)
            ticks += 1
    spawn(tick)
    end("child")
    sleep(0.5)
    delivered = handle.force_flush(10)
    os._exit(not (delivered and ticks > 15))
result["child"] = os.waitpid(child, 0)[1]
"""
    done = run(library, code, receiver.endpoint, tmp_path)
    assert done.result == {"child": 0}
    assert Counter(span.name for span in receiver.spans) == {"master": 1, "child": 1}
    assert done.err == ""


def test_where_nothing_may_wait_nothing_is_raised(
    library: str, receiver: Receiver, tmp_path: Path
) -> None:
    """A signal handler often runs in the hub: what is not delivered there is on disk."""
    code = """
patch()
setup()
def ask():
    end("in the hub")
    try:
        result["delivered"] = handle.shutdown()
    except BaseException as error:
        result["raised"] = repr(error)
in_hub(ask)
while not result:
    sleep(0.01)
"""
    # one that takes it may have it by then, and its answer is not waited for
    receiver.answer = refuse(503)
    done = run(library, code, receiver.endpoint, tmp_path)
    receiver.answer = accept
    assert done.result == {"delivered": False}
    assert "waits for delivery that are not possible here" in done.err
    again = run(library, "setup(); handle.force_flush(10)", receiver.endpoint, tmp_path)
    assert again.err == ""
    assert [span.name for span in receiver.spans] == ["in the hub"]


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="Linux")
def test_nothing_of_theirs_is_in_the_worker_s_thread(
    library: str, receiver: Receiver, tmp_path: Path
) -> None:
    """A hub has descriptors: who closes all, and has others by their numbers, would lose those."""
    code = """
def polls():
    links = [os.path.realpath(f"/proc/self/fd/{each}") for each in os.listdir("/proc/self/fd")]
    return sum("eventpoll" in link for link in links)
patch()
sleep(0.01)
result["before"] = polls()
setup()
end("delivered")
result["delivered"] = handle.force_flush(10)
result["after"] = polls()
"""
    result = run(library, code, receiver.endpoint, tmp_path).result
    assert result["delivered"]
    assert result["after"] == result["before"] > 0


@pytest.mark.parametrize("older", ["", "del os.RWF_NOWAIT"])
def test_stdout_is_never_waited_for_in_a_hub(library: str, older: str) -> None:
    """Their ``os.write`` waits for ever for a reader that is gone, and cannot write to a device."""
    code = f"""
patch()
{older}
from otel_logging import _diagnostics, configure_logging, get_logger
def lost(stdout):
    os.dup2(stdout, 1)
    configure_logging(environment="production")
    for number in range(100):
        get_logger("shop").info("line", number=number)
    return sum(_diagnostics.counts.values())
result["device"] = lost(os.open("/dev/null", os.O_WRONLY))
ends = os.pipe()
os.close(ends[0])
result["pipe"] = lost(ends[1])
"""
    assert run(library, code).result == {"device": 0, "pipe": 100}


HANGING = """
patch()
setup()
from opentelemetry import trace
from opentelemetry.sdk.trace import SpanProcessor
processor = type("P", (SpanProcessor,), {"shutdown": lambda _: time.sleep(1000)})()
trace.get_tracer_provider().add_span_processor(processor)
end("stage")
began = time.monotonic()
handle.shutdown(0.5)
result["in time"] = time.monotonic() - began < 10
"""


def test_a_processor_that_never_returns_does_not_hold_up_the_end(
    library: str, receiver: Receiver, tmp_path: Path
) -> None:
    done = run(library, HANGING, receiver.endpoint, tmp_path)
    assert done.result == {"in time": True}
    assert "1 foreign span processors left behind" in done.err


def test_greenlets_log_records_are_delivered(
    library: str, receiver: Receiver, tmp_path: Path
) -> None:
    """Log records have a worker of their own."""
    code = """
patch()
setup()
from otel_logging import get_logger
def work(number):
    get_logger("shop").info("line", number=number)
join([spawn(work, number) for number in range(50)])
result["delivered"] = handle.force_flush(10)
get_logger("shop").info("line", number=50)
"""
    done = run(library, code, receiver.endpoint, tmp_path, OTEL_LOGS_EXPORTER="otlp")
    assert done.result == {"delivered": True}
    assert sorted(record.attributes["number"] for record in receiver.log_records) == list(range(51))
