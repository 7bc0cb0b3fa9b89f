"""What both ways of running the real programs have in common, and how to wait for them."""

import os
import shutil
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar

ROOT = Path(__file__).parent.parent.parent
_CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "otel-logging-backends"
#: Where tests/backends/install puts programs; read before a test's HOME is a temporary one.
CACHE = Path(os.environ.get("OTEL_LOGGING_BACKENDS") or _CACHE)

PATIENCE_S = 60.0  # a machine with two cores that does other things as well

Program = Literal["collector", "jaeger"]
_T = TypeVar("_T")


class MissingError(Exception):
    """What these tests need is not on this machine: they are skipped, and say so."""


@dataclass(frozen=True)
class Addresses:
    """Base URLs, all of loopback."""

    otlp_http: str
    otlp_grpc: str
    jaeger: str
    health: str  # of the collector
    metrics: str  # of the collector


class Stack(Protocol):
    """A collector and Jaeger, run from the shipped files."""

    addresses: Addresses

    def start(self, program: Program) -> None:
        """Start it, with the data it had, and wait until it is ready."""

    def stop(self, program: Program) -> None:
        """End it in good order."""

    def kill(self, program: Program) -> None:
        """Kill its process with signal 9, and wait until it has come back."""

    def log_files(self) -> list[str]:
        """Return the text of each file of log records."""


def built(pattern: str) -> Path:
    """Return the newest program in the cache that *pattern* names."""
    found = sorted(CACHE.glob(pattern), key=lambda path: path.stat().st_mtime)
    if not found:
        raise MissingError(f"no {pattern} in {CACHE}: run tests/backends/install")
    return found[-1]


def die_with_us(how: str) -> list[str]:
    """Return what to put before a command so that it gets signal *how* when this process dies."""
    return ["setpriv", "--pdeathsig", how] if shutil.which("setpriv") else []


def until(
    what: Callable[[], _T], good: Callable[[_T], Any] = bool, *, within_s: float = PATIENCE_S
) -> _T:
    """Ask *what* until the answer is *good*, and return it; fail with the last one."""
    end = time.monotonic() + within_s
    while not good(answer := what()):
        assert time.monotonic() < end, f"after {within_s} s still: {answer!r}"
        time.sleep(0.05)
    return answer


def answers(url: str) -> bool:
    """Whether *url* is answered with a success."""
    try:
        with urllib.request.urlopen(url, timeout=5) as response:
            return bool(response.status == 200)
    except (OSError, urllib.error.URLError):
        return False
