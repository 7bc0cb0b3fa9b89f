"""Lines as a log collector sees them: strict JSON, one object a line."""

import json
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
