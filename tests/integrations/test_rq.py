"""RQ: a run of a job is in the trace of who enqueued it, with RQ's lines about it."""

import json
import os
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fakeredis import TcpFakeServer
from redis import Redis
from rq import Queue, SimpleWorker
from structlog.contextvars import bind_contextvars, get_contextvars

import otel_logging
from otel_logging import bind_context, get_logger, setup_observability, traced
from otel_logging.context import bound
from otel_logging.testing import capture
from tests.programs import child_environment, good, python
from tests.receiver import Receiver, Span

log: Any = get_logger("shop")

JOBS = """
import logging
import os

from redis import Redis
from rq import Queue

Redis.client_info = lambda _: {"addr": "here"}  # the fake server's answer is not whole
queue = Queue(connection=Redis(port=int(os.environ["PORT"])))
log = logging.getLogger("shop")

def price(number):
    log.warning("priced %s", number)
    queue.enqueue(notify, number)

def notify(number):
    log.warning("notified %s", number)

def broken(number):
    raise ValueError(f"no price of {number}")
"""
WEB = """
import jobs
from otel_logging import bind_context, setup_observability, traced

setup_observability("web")
for number, work in enumerate((jobs.price, jobs.broken)):
    with traced("order", kind="server"):
        bind_context(user_id=f"u{number}", card="4111")
        jobs.queue.enqueue(work, number)
jobs.queue.enqueue(jobs.price, 2)
"""
COMMAND = "from otel_logging.cli import main; main()"


@pytest.fixture
def port() -> Iterator[int]:
    """A Redis is served there."""
    server = TcpFakeServer(("127.0.0.1", 0))
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield server.server_address[1]
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def queue(port: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[Queue]:
    """Jobs are performed by a worker of this process."""
    monkeypatch.setattr(Redis, "client_info", lambda _: {"addr": "here"})
    with Redis(port=port) as redis:
        yield Queue(connection=redis)


def perform(queue: Queue) -> None:
    """Perform what is enqueued."""
    SimpleWorker([queue], connection=queue.connection).work(burst=True)


@pytest.mark.skipif(os.name != "posix", reason="a worker forks for each job")
def test_a_run_is_in_the_trace_of_who_enqueued_the_job(
    receiver: Receiver, port: int, tmp_path: Path
) -> None:
    """From process to process: its lines, RQ's about it, and jobs that it enqueues."""
    (tmp_path / "jobs.py").write_text(JOBS, "utf-8")
    variables = {
        "ENVIRONMENT": "production",
        "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.endpoint,
        "OTEL_LOGGING_PROPAGATE": "user_id",
        "OTEL_LOGGING_SPOOL_DIR": str(tmp_path / "spool"),
        "PORT": str(port),
    }
    environment = child_environment(**variables)
    good(python("-c", WEB, env=environment, cwd=tmp_path))
    command = f"run rq worker --burst -c jobs --url redis://127.0.0.1:{port}".split()
    worker = good(python("-c", COMMAND, *command, env=environment, cwd=tmp_path))
    lines = [json.loads(line) for line in worker.stdout.splitlines()]
    orders = {f"u{number}": span for number, span in enumerate(named(receiver, "order"))}
    runs = {name: named(receiver, f"jobs.{name}") for name in ("price", "notify", "broken")}
    assert [len(spans) for spans in runs.values()] == [2, 2, 1]
    for price, notify in zip(runs["price"], runs["notify"], strict=True):
        order = orders.get(price.attributes.get("user_id", ""))
        assert price.parent_span_id == (order and order.span_id)
        assert notify.parent_span_id == price.span_id
        assert notify.attributes.get("user_id") == price.attributes.get("user_id")
        said = [line["event"] for line in lines if line.get("span_id") == price.span_id]
        assert said[0] == f"priced {0 if order else 2}"
        assert "Job OK" in " ".join(said)
    (broken,) = runs["broken"]
    assert broken.parent_span_id == orders["u1"].span_id
    assert (broken.kind, broken.status) == ("consumer", "error")
    assert broken.attributes["messaging.destination.name"] == "default"
    (failure,) = [line for line in lines if line["level"] == "error"]
    assert (failure["span_id"], failure["user_id"]) == (broken.span_id, "u1")
    ours = str(Path(otel_logging.__file__).parent)
    assert ours not in failure["event"]  # no frame of ours in its traceback
    assert not [line for line in lines if "card" in line]


def named(receiver: Receiver, name: str) -> list[Span]:
    """Return the spans of *name*, in their order."""
    found = [span for span in receiver.spans if span.name == name]
    return sorted(found, key=lambda span: span.start_ns)


def test_what_a_run_binds_ends_with_it(queue: Queue) -> None:
    with capture() as captured, setup_observability("shop"):
        with traced("request", kind="server"):
            bind_context(user_id="ada")
            job = queue.enqueue(work, meta={"mine": 1})
        queue.enqueue(work)
        perform(queue)
        assert bound() == get_contextvars() == {}
    request = captured.span("request")
    first, second = [span for span in captured.spans if span["name"].endswith(".work")]
    assert (first["parent_span_id"], second["parent_span_id"]) == (request["span_id"], None)
    worked = [line for line in captured.lines if line["event"] == "worked"]
    assert [(line["run"], line["structlogs"]) for line in worked] == [(1, 1), (1, 1)]
    assert job.meta["mine"] == 1


def work() -> None:
    bind_context(run=bound().get("run", 0) + 1)
    bind_contextvars(structlogs=get_contextvars().get("structlogs", 0) + 1)
    log.info("worked")


def test_a_job_that_cannot_be_read_fails_as_without_us(queue: Queue) -> None:
    job = queue.enqueue(work)
    queue.connection.hset(job.key, "data", b"garbage")
    with capture() as captured, setup_observability("shop"):
        perform(queue)
    (span,) = [span for span in captured.spans if span["name"] == "unreadable job"]
    assert span["status"] == "error"
    assert queue.failed_job_registry.count == 1


def test_without_set_up_jobs_are_as_they_were(queue: Queue) -> None:
    setup_observability("shop", instrument=()).shutdown()
    job = queue.enqueue(work)
    perform(queue)
    assert job.meta == {}
    assert "otel_logging" not in sys.modules["rq.job"].Job.create.__func__.__module__
