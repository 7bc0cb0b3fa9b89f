"""What ``otel-logging late`` costs over 100,000 spans of a local store.

The store is written first, by a child process through the package itself. Each question is a
process of its own, imports included, as somebody types it.

    python benchmarks/read.py            the table
    python benchmarks/read.py --json     {question: {wall_s, cpu_s, peak_mib}}
"""

import json
import os
import subprocess
import sys
import tempfile
import time

SPANS = 100_000
QUESTIONS = (
    ("late",),
    ("late", "--json", "--over", "0.001"),
    ("late", "--who", "user-7"),
    ("late", "--where", "n=7"),
    ("show",),
)
WRITE = """
import sys
from otel_logging import bind_context, get_logger, setup_observability, traced

log = get_logger("chat")
with setup_observability("chat-gateway", spool_dir=sys.argv[1]):
    for n in range(int(sys.argv[2]) // 5):
        with traced("message", root=True, budget=0.0002):
            bind_context(user_id=f"user-{n % 500}")
            log.info("received", words=12)
            with traced("transcribe"), traced("load model"):
                pass
            for stage in ("answer", "send"):
                with traced(stage, n=n % 100):
                    log.info("done", stage=stage)
"""
COMMAND = "from otel_logging.cli import main; main()"


def ask(directory: str, question: tuple[str, ...]) -> dict[str, float]:
    """Return what one command costs."""
    options = ("--source", "local", "--spool-dir", directory)
    began = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-c", COMMAND, *question, *options],
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


def main() -> None:
    with tempfile.TemporaryDirectory() as directory:
        unreachable = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1"}
        subprocess.run(
            [sys.executable, "-c", WRITE, directory, str(SPANS)],
            env={**os.environ, **unreachable},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            check=True,
        )
        found = {" ".join(question): ask(directory, question) for question in QUESTIONS}
    if "--json" in sys.argv:
        print(json.dumps(found))
        return
    print(f"{SPANS:,} spans{'wall s':>29}{'CPU s':>8}{'peak MiB':>10}")
    for question, cost in found.items():
        print(f"{question:34}{cost['wall_s']:>8}{cost['cpu_s']:>8}{cost['peak_mib']:>10}")


if __name__ == "__main__":
    main()
