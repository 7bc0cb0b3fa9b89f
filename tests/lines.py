"""Lines as a log collector sees them: strict JSON, one object a line; and scripts of anyone's."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent


def _no_constant(name: str) -> Any:
    raise ValueError(f"not JSON: {name}")


def parsed(text: str | bytes) -> list[dict[str, Any]]:
    """Parse every line of *text* as strict JSON; there is nothing but lines."""
    text = text.decode() if isinstance(text, bytes) else text
    assert text == "" or text.endswith("\n")
    lines = [json.loads(line, parse_constant=_no_constant) for line in text.split("\n")[:-1]]
    assert all(type(line) is dict for line in lines)
    return lines


def child_environment(**variables: str) -> dict[str, str]:
    """Return the environment without what would configure the package, but with *variables*."""
    ours = ("OTEL_", "LOG_LEVEL", "ENVIRONMENT", "NO_COLOR", "FORCE_COLOR")
    kept = {k: v for k, v in os.environ.items() if not k.startswith(ours)}
    return {**kept, "PYTHONPATH": str(ROOT), **variables}


def script(code: str, *arguments: str, **variables: str) -> subprocess.CompletedProcess[bytes]:
    """Run *code* in a child process to its end, which must be a good one."""
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        env=child_environment(**variables),
        capture_output=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr.decode()
    return done
