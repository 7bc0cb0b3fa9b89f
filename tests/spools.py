"""What the spool's tests share: numbered spans, and child processes that use a spool."""

import os
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from subprocess import PIPE
from types import FrameType
from typing import Any

from otel_logging import _otlp
from otel_logging.spool import reading
from otel_logging.spool.directories import OPEN, SEALED
from otel_logging.spool.queue import Spool
from otel_logging.spool.reading import Waiting
from otel_logging.spool.segment import Contents, parse_all
from tests.lines import ROOT as ROOT
from tests.programs import end, good, python, start

SCOPE = b"scope"
RESOURCE = b"resource"
NOW = 1_700_000_000
PATIENT_S = 10.0  # for an append, where the test is not about stalls: a test machine may be busy


def encoded(number: int, size: int = 0) -> bytes:
    """Return the bytes of a span named after *number*, *size* bytes longer than need be."""
    return _otlp.span(
        trace_id=trace_id(number),
        span_id=number + 1,
        parent_span_id=0,
        trace_state="x" * size,  # a name and a value would be shortened
        flags=1,
        name=f"span {number}",
        kind=1,
        start_ns=1,
        end_ns=2,
        values={},
        dropped=(0, 0, 0),
        events=(),
        links=(),
        status=0,
        message="",
    )


def trace_id(number: int) -> bytes:
    return number.to_bytes(16, "big")


def make(base: Path | None, name: str = "shop-1", **bounds: Any) -> Spool:
    return Spool(base, name, RESOURCE, **({"bytes_bound": 64 << 20, "hours": 24} | bounds))


def append(spool: Spool, *numbers: int, size: int = 0, scope: bytes = SCOPE) -> None:
    for number in numbers:
        spool.append(scope, trace_id(number), encoded(number, size))


def numbers(found: Iterable[Contents | Waiting | None]) -> list[int]:
    """Return the numbers of the spans in segments, in order, damaged ones failing the test."""
    result = []
    for item in found:
        contents = item.contents() if isinstance(item, Waiting) else item
        assert contents is not None
        assert not contents.damaged
        result += [int.from_bytes(identifier, "big") for identifier, _ in contents.spans]
    return result


def loaded(path: Path) -> list[Contents]:
    """Return the segments in the file at *path*, wherever it is by now."""
    return list(parse_all(reading.load(path) or b"", is_open=path.suffix == OPEN))


def on_disk(base: Path) -> list[int]:
    return sorted(numbers(reading.read(base)))


def deliver(
    spool: Spool, number: int, at: float, *, scope: bytes = b"scope", size: int = 0
) -> Path:
    """Deliver one span in a segment that was written *at*; return where it is."""
    append(spool, number, scope=scope, size=size)
    spool.seal()
    (segment,) = spool.waiting()
    assert segment.path is not None
    os.utime(segment.path, (at, at))
    spool.delivered(segment)
    return reading.sent(segment.path)


def sent(base: Path) -> list[Path]:
    return sorted(path for path in base.glob("*/sent/*") if path.suffix in (OPEN, SEALED))


def destination(base: Path) -> Path:
    return base / "shop-1"


def waiting(spool: Spool) -> list[int]:
    """Return the numbers of the spans that wait once everything is sealed."""
    spool.seal()
    return sorted(numbers(spool.waiting()))


def command(script: str, *arguments: object) -> list[str]:
    """Return how to run *script* in a child; it finds us as ``tests.spools``."""
    patient = f"from otel_logging.spool import queue; queue.SLOW_S = queue.ADOPT_S = {PATIENT_S}\n"
    return [sys.executable, "-W", "ignore", "-c", patient + script, *map(str, arguments)]


def run(script: str, *arguments: object, traced: bool = True) -> str:
    """Run *script* to its end, which must be a good one, and return what it printed.

    Without *traced* if it forks beside a running thread: that may hold coverage's
    lock, which is then held for ever in the child.
    """
    hidden = () if traced else ("COVERAGE_PROCESS_START", "COVERAGE_PROCESS_CONFIG")
    env = {key: value for key, value in os.environ.items() if key not in hidden}
    return str(good(python(*command(script, *arguments)[1:], env=env, cwd=ROOT)).stdout)


def at_call(name: str, act: Callable[[], object]) -> None:
    """Call *act* once when a function called *name* is about to run: what a signal handler may
    do there. Only in a child that is not traced.
    """

    def look(frame: FrameType, *_: object) -> None:
        if frame.f_code.co_name == name:
            sys.settrace(None)
            act()

    sys.settrace(look)


def places(base: Path) -> list[Path]:
    """Return the processes' directories, our own included."""
    return sorted(path.parent for path in base.glob("*/*/lock"))


def die(base: Path, *spans: int) -> None:
    """Leave behind what a process killed after these spans leaves."""
    run(
        "import os, sys; from pathlib import Path; from tests.spools import *\n"
        "append(make(Path(sys.argv[1])), *map(int, sys.argv[2:]))\n"
        "os._exit(0)",
        base,
        *spans,
    )


def together(script: str, *arguments: object) -> list[int]:
    """Run four of *script*, which says "ready" and waits for a line; return the numbers it prints
    afterwards, of all four.
    """
    children = [
        start(*command(script, *arguments), env=os.environ, cwd=ROOT, stdin=PIPE) for _ in range(4)
    ]
    for child in children:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
    for child in children:
        assert child.stdin is not None
        child.stdin.write("\n")
        child.stdin.flush()
    printed = [good(end(child)).stdout for child in children]
    return sorted(int(number) for text in printed for number in text.split())
