"""Celery: a run of a task is in the trace of who called ``delay``, with Celery's lines about it."""

import os
import re
import signal
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
from celery import Celery
from celery.exceptions import Ignore
from opentelemetry.instrumentation.celery import CeleryInstrumentor
from structlog.contextvars import bind_contextvars, get_contextvars

from otel_logging import (
    bind_context,
    get_logger,
    setup_observability,
    tag_background_logger,
    traced,
)
from otel_logging.context import bound
from otel_logging.testing import Captured, capture
from tests.programs import Program, child_environment, good, python
from tests.receiver import Receiver, Span

log: Any = get_logger("shop")

JOBS = """
import json, logging, os, time
from pathlib import Path

from celery import Celery
from kombu.transport import filesystem

def put(_, queue, payload, **__):  # Kombu's own writes where another process may read half of it
    name = f"{time.monotonic_ns()}_{os.getpid()}.{queue}.msg"
    Path(name).write_text(json.dumps(payload))
    Path(name).rename(Path("queue", name))

filesystem.Channel._put = put
app = Celery("shop", broker="filesystem://")
places = dict.fromkeys(("data_folder_in", "data_folder_out", "control_folder"), "queue")
app.conf.broker_transport_options = {**places, "polling_interval": 0.02}
log = logging.getLogger("shop")

@app.task
def price(number):
    log.warning("priced %s", number)
    notify.delay(number)

@app.task
def notify(number):
    log.warning("notified %s", number)

@app.task(bind=True, max_retries=2)
def flaky(self, number):
    log.warning("tried %s", number)
    if self.request.retries < 2:
        raise self.retry(countdown=0)

@app.task
def broken(number):
    raise ValueError(f"no price of {number}")
"""
WEB = """
import jobs
from otel_logging import bind_context, setup_observability, traced

setup_observability("web")
for number, task in enumerate((jobs.price, jobs.flaky, jobs.broken)):
    with traced("order", kind="server"):
        bind_context(user_id=f"u{number}", card="4111")
        task.delay(number)
jobs.price.delay(3)
"""
COMMAND = "from otel_logging.cli import main; main()"


@pytest.mark.skipif(os.name != "posix", reason="a worker that is ended by a signal")
@pytest.mark.parametrize("pool", ["solo", "prefork", "threads"])
def test_a_run_is_in_the_trace_of_who_sent_the_task(
    pool: str, receiver: Receiver, tmp_path: Path
) -> None:
    """From process to process: its lines, Celery's about it, tasks that it sends, and retries."""
    (tmp_path / "jobs.py").write_text(JOBS, "utf-8")
    (tmp_path / "queue").mkdir()
    variables = {
        "ENVIRONMENT": "production",
        "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.endpoint,
        "OTEL_LOGGING_PROPAGATE": "user_id",
        "OTEL_LOGGING_SPOOL_DIR": str(tmp_path / "spool"),
    }
    good(python("-c", WEB, env=child_environment(**variables), cwd=tmp_path))
    command = f"run celery -q -A jobs worker -P {pool} -c 2 --loglevel INFO"
    with Program(
        [sys.executable, "-c", COMMAND, *command.split()], cwd=tmp_path, **variables
    ) as worker:
        receiver.wait_for(lambda r: len(runs_in(r)) == 8, 30)
        worker.stop(signal.SIGKILL)  # its own end takes five seconds
    lines = worker.lines()
    orders = [span for span in receiver.spans if span.name == "order"]
    for number, order in enumerate([*orders, None]):
        runs = [span for span in runs_in(receiver) if of(span, lines) == str(number)]
        names = {"price": ["price", "notify"], "flaky": ["flaky"] * 3, "broken": ["broken"]}
        name = ("price", "flaky", "broken", "price")[number]
        runs.sort(key=lambda span: span.start_ns)
        assert [span.name for span in runs] == [f"jobs.{each}" for each in names[name]]
        for parent, span in zip([order, *runs], runs, strict=False):
            assert span.parent_span_id == (parent and parent.span_id)
            assert span.kind == "consumer"
            assert span.attributes["messaging.destination.name"] == "celery"
            assert span.status == ("error" if name == "broken" else "unset")
            assert span.attributes.get("user_id") == (order and f"u{number}")
            (end,) = [line for line in lines if line.get("span_id") == span.span_id][-1:]
            assert end["logger"] == "celery.app.trace"
            assert end.get("user_id") == (order and f"u{number}")
            assert end["trace_id"] == span.trace_id
        assert len({span.trace_id for span in runs}) == 1
    assert not [line for line in lines if "card" in line]


def runs_in(receiver: Receiver) -> list[Span]:
    return [span for span in receiver.spans if span.name.startswith("jobs.")]


def of(span: Span, lines: list[dict[str, Any]]) -> str:
    """Return the number that the lines of *span* are about."""
    said = [line["event"] for line in lines if line.get("span_id") == span.span_id]
    found = [re.search(r"(?:priced|notified|tried|no price of) (\d)", each) for each in said]
    return next(each[1] for each in found if each)


# ---------------------------------------------------------------- in one process


@pytest.fixture
def app() -> Celery:
    """Tasks run where they are called."""
    app = Celery("shop", broker="memory://")
    app.conf.task_always_eager = True
    return app


def run(app: Celery, work: Any, **options: Any) -> Captured:
    task = app.task(work, shared=False, **options)
    with capture() as captured, setup_observability("shop"):
        with traced("request", kind="server"):
            bind_context(user_id="ada")
            task.delay()
            log.info("between")
        task.delay()
        assert bound() == {}
        assert get_contextvars().get("run", 1) == 1  # of the request, by structlog's own rules
    return captured


def test_a_run_where_it_was_called_is_a_stage_of_that_request(app: Celery) -> None:
    @tag_background_logger("PRICES")
    def price() -> None:
        bind_contextvars(run=get_contextvars().get("run", 0) + 1)
        log.info("priced")

    captured = run(app, price, name="price")
    request = captured.span("request")
    first, second = [span for span in captured.spans if span["name"] == "price"]
    assert first["parent_span_id"] == request["span_id"]
    assert second["parent_span_id"] is None
    mine, alone = [line for line in captured.lines if line["event"] == "priced"]
    assert (mine["user_id"], mine["job_tag"]) == ("ada", "PRICES")
    assert mine["trace_id"] == request["trace_id"]
    assert "user_id" not in alone
    assert captured.line("between")["span_id"] == request["span_id"]


@pytest.mark.parametrize(
    ("error", "status"),
    [(ValueError("no"), "error"), (KeyError("k"), "unset"), (Ignore(), "unset")],
)
@pytest.mark.parametrize("propagates", [False, True])
def test_how_a_run_ends(app: Celery, error: Exception, status: str, propagates: bool) -> None:
    """Also where its exception goes to the caller; not an error: what is expected of a task."""
    app.conf.task_eager_propagates = propagates

    def work() -> None:
        raise error

    task = app.task(work, name="work", shared=False, throws=(KeyError,))
    is_raised = propagates and not isinstance(error, Ignore)
    with capture() as captured, setup_observability("shop"):
        for _ in range(2):
            with pytest.raises(type(error)) if is_raised else nullcontext():
                task.delay()
        log.info("after")
    assert [span["status"] for span in captured.spans if span["name"] == "work"] == [status] * 2
    assert "trace_id" not in captured.line("after")


@pytest.fixture
def theirs() -> Iterator[None]:
    """OpenTelemetry's instrumentation of Celery, active."""
    instrumentation = CeleryInstrumentor()
    instrumentation.instrument()
    yield
    instrumentation.uninstrument()


def test_where_opentelemetrys_instrumentation_is_active_the_spans_are_its_own(
    app: Celery, theirs: None
) -> None:
    """What is bound in a run ends with it all the same."""

    def price() -> None:
        bind_context(user_id="bob")
        log.info("priced")

    captured = run(app, price, name="price")
    names = [span["name"] for span in captured.spans]
    assert (names.count("run/price"), names.count("price")) == (2, 0)
    assert captured.line("between")["user_id"] == "ada"


def test_where_opentelemetrys_instrumentation_is_active_the_headers_are_its_own(
    app: Celery, theirs: None
) -> None:
    app.conf.task_always_eager = False
    with capture() as captured, setup_observability("shop"), traced("request"):
        app.send_task("price")
    with app.connection_for_read() as connection:
        message = connection.SimpleQueue("celery").get(timeout=1)
    assert message.headers["traceparent"][36:52] == captured.span("apply_async/price")["span_id"]


def test_a_run_that_began_before_set_up_ends_as_it_would_without(app: Celery) -> None:
    def work() -> int:
        setup_observability("shop")
        log.info("worked")
        return 7

    with capture() as captured:
        assert app.task(work, name="work", shared=False).delay().get() == 7
    assert captured.line("worked")
    assert not [span for span in captured.spans if span["name"] == "work"]
