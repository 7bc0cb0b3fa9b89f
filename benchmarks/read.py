"""What ``otel-logging late`` and ``show`` cost over 100,000 spans of a local store, of any shape.

"single" and "plain" are traces of one stage, all late or none with a budget, "different" those with
a name and a user each. "tens" are 10,000 traces of ten; so are those with 20 "attributes" or
"forty", or with two "lines" a stage, of 50 services ("fleet"), and from segments that were
"merged"; of "services" five take part in each trace, of "clocks" a job that calls a service on a
machine whose clock is ahead. "pages" are ten traces with 20,000 lines
each, "events" one of siblings with five lines each. "chains" are a thousand stages deep each, of
"failures" every trace is one; of "names", "queries", "refused" and "slow" all but one are below one
stage, and each of the last two failed or was late; "calls" are 5,000 answers to one job elsewhere,
of nobody, "budgets" chains of which each stage has a budget, of nobody too, "orphans" one trace
without a stage's parent; "quiet" is a day of 60,000 messages, none of them late.
The stores are written first, each by a child process through the package itself. Each question is
a process of its own, imports included, as somebody types it; once with the local store alone, and
once beside a Jaeger that takes connections and never answers.

    python benchmarks/read.py            the table
    python benchmarks/read.py --json     {question: {wall_s, cpu_s, peak_mib, beside_hung_s}}
"""

import argparse
import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time

SPANS = 100_000
TURNS = (
    ("late",),
    ("late", "--json", "--over", "0.001"),
    ("late", "--who", "user-7"),
    ("late", "--where", "n=7"),
    ("failed",),
    ("show",),
)
PICTURES = (("late",), ("show",))
USUAL = (*PICTURES, ("failed",))
#: What is asked of traces of each shape.
SHAPES = {
    "turns": TURNS,
    "single": (
        *PICTURES,
        ("late", "--cause", "unknown"),
        *(("late", "--group", key) for key in ("stage", "who", "reason")),
        ("late", "--since", "1h", "--sort", "when"),
        ("late", "--over", "0.001", "--sort", "latency"),
        ("late", "--summary"),
        ("late", "--json"),
    ),
    "failures": (*USUAL, ("late", "--group", "reason")),
    **dict.fromkeys(("plain", "different", "tens", "attributes", "lines", "fleet"), USUAL),
    **dict.fromkeys(("merged", "services", "queries", "names", "refused", "slow"), USUAL),
    **dict.fromkeys(("forty", "pages", "events", "clocks"), USUAL),
    "deep": PICTURES,
    **dict.fromkeys(
        ("calls", "budgets", "orphans"),
        (*PICTURES, ("late", "--who", "user-7"), ("late", "--group", "who")),
    ),
    "chains": PICTURES,
    "quiet": PICTURES,
}
WRITE = """
import os
import sys
from contextlib import ExitStack, suppress
from itertools import count
from pathlib import Path
from otel_logging import bind_context, extract, get_logger, inject, setup_observability, traced
from otel_logging.spool.recorder import Recorder

log = get_logger("chat")
directory, shape, spans = sys.argv[1], sys.argv[2], int(sys.argv[3])
services = {"fleet": 50, "services": 5, "merged": 100, "clocks": 2}.get(shape, 1)
many = {f"attribute.{n}": f"value {n}" for n in range(40 if shape == "forty" else 20)}
headers = []


def tree(n, **values):
    with traced("message", root=True, budget=0.00005):
        bind_context(user_id=f"user-{n % 500}")
        for part in range(3):
            with traced("answer", **values):
                for step in ("load", "render"):
                    with traced(step, **values):
                        if shape == "lines":
                            log.info("begun", step=step)
                            log.info("done", step=step, part=part)


def write():
    if shape == "turns":
        for n in range(spans // 5):
            with traced("message", root=True, budget=0.0002):
                bind_context(user_id=f"user-{n % 500}")
                log.info("received", words=12)
                with traced("transcribe"), traced("load model"):
                    pass
                for stage in ("answer", "send"):
                    with traced(stage, n=n % 100):
                        log.info("done", stage=stage)
    elif shape in ("single", "plain"):
        for n in range(spans):
            budget = 0.000001 if shape == "single" else None
            with traced("message", root=True, budget=budget, user_id=f"user-{n % 500}"):
                pass
    elif shape == "different":
        for n in range(spans):
            with traced(f"message {n}", root=True, budget=0.000001, user_id=f"user-{n}"):
                pass
    elif shape == "failures":
        for n in range(spans // 2):
            with suppress(ValueError), traced("message", root=True, user_id=f"user-{n % 500}"):
                with traced("answer", budget=0.000001):
                    raise ValueError(f"no {n}")
    elif shape in ("calls", "orphans"):
        with traced("job"):
            inject(elsewhere := {})
        trace, flags = elsewhere["traceparent"][:36], elsewhere["traceparent"][-3:]
        inside = 19 if shape == "calls" else 0
        for n in range(1, spans // (1 + inside) + 1):
            with extract({"traceparent": f"{trace}{n:016x}{flags}"}):
                with traced("GET /item", budget=0.000001):
                    for _ in range(inside):
                        with traced("SELECT"):
                            pass
    elif shape in ("chains", "budgets"):
        for n in range(spans // 1000):
            with ExitStack() as chain:
                for depth in range(1000):
                    budget = 99.0 if shape == "budgets" else None if depth else 0.01
                    chain.enter_context(traced("step", n=depth, root=not depth, budget=budget))
    elif shape == "quiet":
        for n in range(spans * 6 // 10):
            with traced("message", root=True, budget=0.3):
                bind_context(user_id=f"user-{n % 500}")
                log.info("received", words=12)
    elif shape in ("refused", "slow"):
        with traced("message", root=True, user_id="ada"):
            for n in range(spans - 1):
                budget = 0.000001 if shape == "slow" else None
                with suppress(ValueError), traced(f"stage {n}", budget=budget):
                    if shape == "refused":
                        raise ValueError(f"no {n}")
    elif shape == "deep":
        with ExitStack() as open_:
            for n in range(spans):
                open_.enter_context(traced("step", n=n))
    elif shape == "services":
        for n in range(spans // 10):
            into = headers[n] if headers[n:] else {}
            with ExitStack() as sender:
                if into:
                    sender.enter_context(extract(into))
                with traced("call", budget=0.00001, user_id=f"user-{n % 500}"), traced("work"):
                    if not into:
                        inject(into)
                        headers.append(into)
    elif shape == "clocks" and not headers:
        with traced("job", root=True, budget=0.5, user_id="ada"):
            for n in range(spans // 2):
                with traced("call", kind="client"):
                    inject(into := {})
                headers.append(into)
    elif shape == "clocks":  # all of it when the job is over
        for into in headers:
            with extract(into), traced("serve", kind="server"):
                pass
    elif shape in ("tens", "attributes", "forty", "lines", "fleet", "merged"):
        for n in range(spans // services // 10):
            tree(n, **many if shape in ("attributes", "forty") else {})
    elif shape == "pages":
        for n in range(spans // 10_000):
            with traced("message", root=True, budget=0.00005, user_id=f"user-{n}"):
                for part in range(100):
                    with traced("answer"):
                        for number in range(200):
                            log.info("line", number=number, text="some words")
    elif shape == "events":
        with traced("message", root=True, budget=0.5):
            for n in range(spans - 1):
                with traced("SELECT", n=n, budget=99.0):
                    for number in range(5):
                        log.info("row read", number=number)
    else:
        with traced("message", root=True, budget=0.5):
            for n in range(spans - 1):
                with traced("SELECT" if shape == "queries" else f"stage {n}", n=n):
                    pass


for number in range(services):
    name = "chat-gateway" if shape == "merged" else f"chat-{number}"
    os.environ["OTEL_RESOURCE_ATTRIBUTES"] = f"host.name=host-{number}"
    with setup_observability(name, spool_dir=directory):
        write()
if shape == "merged":  # as the worker does it when all is delivered
    (place,) = Path(directory).iterdir()
    (place / "sent").mkdir(exist_ok=True)
    recorder = Recorder()
    for segment in place.glob("*-*/*.segment"):
        recorder.keep(segment)
"""
#: As an installed package has it: compiled once.
BYTECODE = {
    "PYTHONDONTWRITEBYTECODE": "",
    "PYTHONPYCACHEPREFIX": f"{tempfile.gettempdir()}/read-bytecode",
}
COMMAND = "from otel_logging.cli import main; main()"


def ask(question: tuple[str, ...], directory: str, **variables: str) -> dict[str, float]:
    """Return what one command costs."""
    began = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-c", COMMAND, *question, "--spool-dir", directory],
        env={**os.environ, **BYTECODE, **variables},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0, question
    return {
        "wall_s": round(time.perf_counter() - began, 2),
        "cpu_s": round(usage.ru_utime + usage.ru_stime, 2),
        "peak_mib": round(usage.ru_maxrss / 1024, 1),
    }


def hang() -> str:
    """Return the address of a server that takes every connection and says nothing."""
    server = socket.create_server(("127.0.0.1", 0))
    taken = []

    def take() -> None:
        while True:
            taken.append(server.accept())

    threading.Thread(target=take, daemon=True).start()
    return f"http://127.0.0.1:{server.getsockname()[1]}"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    found, hung = {}, hang()
    subprocess.run(
        [sys.executable, "-c", "import otel_logging.cli"],
        env={**os.environ, **BYTECODE},
        check=True,
    )
    for shape, questions in SHAPES.items():
        with tempfile.TemporaryDirectory() as directory:
            unreachable = {
                "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1",
                "OTEL_LOGGING_SPOOL_BYTES": str(1 << 30),
            }
            subprocess.run(
                [sys.executable, "-c", WRITE, directory, shape, str(SPANS)],
                env={**os.environ, **unreachable},
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                check=True,
            )
            for question in questions:
                cost = ask((*question, "--source", "local"), directory)
                beside = ask(question, directory, OTEL_LOGGING_JAEGER_URL=hung)
                found[f"{shape}: {' '.join(question)}"] = {
                    **cost,
                    "beside_hung_s": beside["wall_s"],
                }
    if given.json:
        print(json.dumps(found))
        return
    print(
        f"{SPANS:,} spans{'wall s':>31}{'CPU s':>8}{'peak MiB':>10}{'beside a hung Jaeger, s':>25}"
    )
    for question, cost in found.items():
        print(f"{question:36}{cost['wall_s']:>8}{cost['cpu_s']:>8}{cost['peak_mib']:>10}", end="")
        print(f"{cost['beside_hung_s']:>25}")


if __name__ == "__main__":
    main()
