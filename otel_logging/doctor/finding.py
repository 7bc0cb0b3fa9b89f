"""What a check has found.

In: sentences. Out: a ``Finding``. Deliberately absent: how it is drawn.
"""

from dataclasses import dataclass
from enum import Enum


class Mark(Enum):
    """How it is. Only PROBLEM makes the doctor's exit status 1."""

    GOOD = "good"
    NOTE = "note"  # to be known, and no reason why nothing arrives
    PROBLEM = "problem"


@dataclass(frozen=True, slots=True)
class Finding:
    """*said*: a plain sentence; *to_do*: what mends it, empty where nothing has to be."""

    mark: Mark
    said: str
    to_do: str = ""


def good(said: str) -> Finding:
    """Return that something is as it should be."""
    return Finding(Mark.GOOD, said)


def note(said: str, to_do: str = "") -> Finding:
    """Return what is worth knowing."""
    return Finding(Mark.NOTE, said, to_do)


def problem(said: str, to_do: str) -> Finding:
    """Return what keeps log lines from Jaeger."""
    return Finding(Mark.PROBLEM, said, to_do)
