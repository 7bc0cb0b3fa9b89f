"""How a line and a stage grow dear: with their number, bound fields, threads, open stages around.

What is printed is the CPU time of the process for each, in microseconds, and its
ratio to the first of its row. A cost that does not grow has ratios near 1.

    python benchmarks/growth.py [--json]
"""

import argparse
import json
import os
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack, redirect_stdout
from pathlib import Path

import otel_logging

NUMBERS = (1, 10, 1_000, 100_000, 1_000_000)
FIELDS = (1, 5, 10, 25, 50)
THREADS = (1, 2, 4, 8)
OPEN = (1, 10, 100, 1_000, 10_000)
_MANY = 20_000  # lines or stages where their number is not what grows

report = os.fdopen(os.dup(1), "w")
_sink = os.open(os.devnull, os.O_WRONLY)
os.dup2(_sink, 1)
log = otel_logging.get_logger("shop")


def line() -> None:
    log.info("message handled", words=12)


def stage() -> None:
    with otel_logging.traced("stage"):
        pass


def cost_us(call: Callable[[], None], times: int, *, threads: int = 1) -> float:
    """Return the CPU time of one call of so many, in that many threads together."""

    def run() -> None:
        for _ in range(times // threads):
            call()

    # few calls are measured often, so that the clock's own steps do not count
    rounds = max(1, 200 // times)
    began = time.process_time_ns()
    for _ in range(rounds):
        if threads == 1:
            run()
            continue
        running = [threading.Thread(target=run) for _ in range(threads)]
        for thread in running:
            thread.start()
        for thread in running:
            thread.join()
    return (time.process_time_ns() - began) / rounds / times / 1000


def by_number(call: Callable[[], None], number: int) -> float:
    with otel_logging.traced("request"):
        return cost_us(call, number)


def by_fields(call: Callable[[], None], number: int) -> float:
    bound = {f"field_{n}": f"value {n}" for n in range(number)}
    with otel_logging.bound_context(**bound), otel_logging.traced("request"):
        return cost_us(call, _MANY)


def by_threads(call: Callable[[], None], number: int) -> float:
    return cost_us(call, _MANY, threads=number)


def by_open_stages(call: Callable[[], None], number: int) -> float:
    with ExitStack() as stages:
        for _ in range(number):
            stages.enter_context(otel_logging.traced("open"))
        return cost_us(call, _MANY)


ROWS = {
    "lines and stages": (by_number, NUMBERS),
    "bound fields": (by_fields, FIELDS),
    "threads": (by_threads, THREADS),
    "open stages around": (by_open_stages, OPEN),
}


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--json", action="store_true")
    with redirect_stdout(report):
        given = parser.parse_args()
    rows: dict[str, dict[int, float]] = {}
    with tempfile.TemporaryDirectory() as spool:
        observability = otel_logging.setup_observability(
            "growth",
            environment="production",
            endpoint="http://127.0.0.1:9",
            spool_dir=Path(spool),
        )
        for what, call in (("a line", line), ("a stage", stage)):
            cost_us(call, _MANY)  # warm
            for name, (measure, numbers) in ROWS.items():
                rows[f"{what} by {name}"] = {n: measure(call, n) for n in numbers}
        observability.shutdown(0.1)
    if given.json:
        report.write(json.dumps(rows, indent=2) + "\n")
        return
    for name, row in rows.items():
        first = next(iter(row.values()))
        report.write(f"{name}\n")
        for number, cost in row.items():
            report.write(f"{number:12,}{cost:10.2f} µs{cost / first:8.2f}x\n")


if __name__ == "__main__":
    main()
