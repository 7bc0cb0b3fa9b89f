"""Ten jobs at once, thousands of runs, in a scheduler's threads and as tasks: their lines."""

from collections import Counter
from pathlib import Path
from typing import Any

from tests.lines import parsed
from tests.programs import good, python

RUNS = 3_500
BATCH = (
    5  # runs of a job that a scheduler's one makes: its list of jobs is slow beyond some thousand
)

#: Every run logs twice around whatever happens; its lines say whose they have to be.
COMMON = f"""
import asyncio, contextlib, logging, sys, threading
from datetime import UTC
from otel_logging import configure_logging, get_logger, tag_background_logger

RUNS, BATCH = {RUNS}, {BATCH}
configure_logging(environment="production", log_level="info")
standard, ours = logging.getLogger("shop.standard"), get_logger("shop.ours")

def say(name, n):
    standard.info("%s run %s", name, n)
    ours.info(f"{{name}} run {{n}} ours")
"""

IN_A_SCHEDULER = """
from apscheduler.executors.pool import ThreadPoolExecutor
from apscheduler.schedulers.background import BackgroundScheduler

def run(name, n):
    say(name, n)
    if n % 7 == 0:
        raise ValueError(f"{name} run {n} failed")
    if n % 7 == 1:
        half_way(name, n)

def half_way(name, n):
    @tag_background_logger(f"{name}_STEPS")
    def steps():
        standard.info("%s_STEPS run %s", name, n)
        yield
        raise AssertionError("closed before")
    opened = steps()
    next(opened)
    standard.info("%s run %s between", name, n)
    opened.close()

def batch(name, job, first):
    for n in range(first, first + BATCH):
        standard.info("nobody's %s %s before", name, n)
        try:
            job(name, n)
        except ValueError:
            if n == first + BATCH - 1:
                raise
            ours.exception(f"{name} run {n} caught")  # whose it was is known

jobs = [(name := f"JOB_{j}", tag_background_logger(name)(run)) for j in range(10)]
scheduler = BackgroundScheduler(timezone=UTC, executors={"default": ThreadPoolExecutor(10)})
scheduler.start(paused=True)
for first in range(0, RUNS // 10, BATCH):
    for name, job in jobs:
        scheduler.add_job(batch, args=[name, job, first], misfire_grace_time=None)

stop = threading.Event()
def foreign():
    n = 0
    while not stop.wait(0.001):
        standard.info("nobody's %s", n := n + 1)

beside = threading.Thread(target=foreign)
beside.start()
scheduler.resume()
while scheduler.get_jobs():  # the last is taken off when it is handed to a thread
    stop.wait(0.01)
scheduler.shutdown()  # waits for the threads
stop.set()
beside.join()
"""

AS_TASKS = """
async def run(name, n):
    say(name, n)
    await asyncio.sleep(0)
    standard.info("%s run %s later", name, n)
    if n % 7 == 0:
        raise ValueError(f"{name} run {n} failed")
    if n % 7 == 1:
        await asyncio.Event().wait()  # until it is cancelled

async def stream(name, n):
    say(name, n)
    yield
    standard.info("%s run %s later", name, n)
    yield

async def half_way(steps, name, n):
    async for _ in steps:
        standard.info("nobody's %s %s", name, n)
        if n % 2:
            break
    await steps.aclose()
    standard.info("nobody's %s %s after", name, n)

async def caller(task, name, n):
    with contextlib.suppress(ValueError, asyncio.CancelledError):
        await task
    standard.info("nobody's %s %s after", name, n)

async def main():
    jobs = [
        (name := f"JOB_{j}", tag_background_logger(name)(run), tag_background_logger(name)(stream))
        for j in range(10)
    ]
    tasks, hanging = [], []
    for n in range(RUNS // 10):
        for name, job, steps in jobs:
            if n % 7 == 2:
                tasks.append(asyncio.create_task(half_way(steps(name, n), name, n)))
                continue
            # in the calling task, or in one of its own
            running = job(name, n) if n % 7 != 1 else asyncio.create_task(job(name, n))
            if n % 7 == 1:
                hanging.append(running)
            tasks.append(asyncio.create_task(caller(running, name, n)))
    while sum(task.done() for task in tasks) < len(tasks) - len(hanging):
        await asyncio.sleep(0)
    for task in hanging:
        task.cancel()
    await asyncio.gather(*tasks)

asyncio.run(main())
"""


def lines_of(code: str, directory: Path) -> list[dict[str, Any]]:
    """Run *code*; of its lines each has the tag that it names, or none where it names none.

    They are in a file: of a pipe that is full, lines are lost after 100 ms.
    """
    with (directory / "lines").open("w+b") as written:
        good(python("-c", COMMON + code, stdout=written))
        written.seek(0)
        lines = parsed(written.read())
    wrong = [line for line in lines if line.get("job_tag") != tag_named_by(line)]
    assert wrong == []
    return lines


def tag_named_by(line: dict[str, Any]) -> str | None:
    text = line["event"]
    if "raised an exception" in text:  # the scheduler's line, with the job's own words
        text = line["exception"].rpartition("ValueError: ")[2]
    first = text.split()[0]
    return first if first.startswith("JOB_") else None


def is_last(n: int) -> bool:
    return n % BATCH == BATCH - 1


def test_in_a_scheduler_s_threads_no_line_has_a_tag_of_another(tmp_path: Path) -> None:
    """Those of its own in the same thread have none, but for the one of a failed run."""
    lines = lines_of(IN_A_SCHEDULER, tmp_path)
    events = Counter(line["event"] for line in lines)
    for job in range(10):
        for n in range(RUNS // 10):
            assert events[f"JOB_{job} run {n}"] == events[f"JOB_{job} run {n} ours"] == 1
            assert events[f"JOB_{job}_STEPS run {n}"] == (n % 7 == 1)
            assert events[f"JOB_{job} run {n} between"] == (n % 7 == 1)
            assert events[f"JOB_{job} run {n} caught"] == (n % 7 == 0 and not is_last(n))
            assert events[f"nobody's JOB_{job} {n} before"] == 1
    failures = 10 * sum(n % 7 == 0 and is_last(n) for n in range(RUNS // 10))
    said = [line["event"].partition(" (trigger")[2].rpartition('" ')[2] for line in lines]
    assert said.count("raised an exception") == failures
    assert said.count("executed successfully") == RUNS // BATCH - failures
    assert events["nobody's 1"] == 1


def test_as_tasks_no_line_has_a_tag_of_another(tmp_path: Path) -> None:
    """Cancelled, failed, closed half-way: whoever called has none afterwards."""
    events = Counter(line["event"] for line in lines_of(AS_TASKS, tmp_path))
    for job in range(10):
        for n in range(RUNS // 10):
            assert events[f"JOB_{job} run {n}"] == events[f"JOB_{job} run {n} ours"] == 1
            is_closed_before = n % 7 == 2 and n % 2 == 1
            assert events[f"JOB_{job} run {n} later"] == (not is_closed_before)
            assert events[f"nobody's JOB_{job} {n} after"] == 1
