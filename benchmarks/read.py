"""What ``otel-logging late`` and ``show`` cost over 100,000 spans of a local store, of any shape.

"chains" are a thousand stages deep each, of "failures" every trace is one; of "refused" and "slow"
all but one are below one stage, and each failed or was late; "quiet" is a day of 60,000 messages,
none of them late.
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
#: What is asked of traces of each shape.
SHAPES = {
    "turns": TURNS,
    "single": (
        *PICTURES,
        ("late", "--cause", "unknown"),
        *(("late", "--group", key) for key in ("stage", "who", "reason")),
        ("late", "--summary"),
        ("late", "--json"),
    ),
    "failures": (("failed",), *PICTURES, ("late", "--group", "reason")),
    "queries": PICTURES,
    "names": PICTURES,
    "refused": (*PICTURES, ("failed",)),
    "slow": (*PICTURES, ("failed",)),
    "deep": PICTURES,
    "chains": PICTURES,
    "quiet": PICTURES,
}
WRITE = """
import sys
from contextlib import ExitStack, suppress
from otel_logging import bind_context, get_logger, setup_observability, traced

log = get_logger("chat")
directory, shape, spans = sys.argv[1], sys.argv[2], int(sys.argv[3])
with setup_observability("chat-gateway", spool_dir=directory), ExitStack() as open_:
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
    elif shape == "single":
        for n in range(spans):
            with traced("message", root=True, budget=0.000001, user_id=f"user-{n % 500}"):
                pass
    elif shape == "failures":
        for n in range(spans // 2):
            with suppress(ValueError), traced("message", root=True, user_id=f"user-{n % 500}"):
                with traced("answer", budget=0.000001):
                    raise ValueError(f"no {n}")
    elif shape == "chains":
        for n in range(spans // 1000):
            with ExitStack() as chain:
                for depth in range(1000):
                    budget = None if depth else 0.01
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
        for n in range(spans):
            open_.enter_context(traced("step", n=n))
    else:
        with traced("message", root=True, budget=0.5):
            for n in range(spans - 1):
                with traced("SELECT" if shape == "queries" else f"stage {n}", n=n):
                    pass
"""
COMMAND = "from otel_logging.cli import main; main()"


def ask(question: tuple[str, ...], directory: str, **variables: str) -> dict[str, float]:
    """Return what one command costs."""
    began = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-c", COMMAND, *question, "--spool-dir", directory],
        env={**os.environ, **variables},
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
    for shape, questions in SHAPES.items():
        with tempfile.TemporaryDirectory() as directory:
            unreachable = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1"}
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
