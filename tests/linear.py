"""Whether a text takes no longer than it may, without waiting for all of it."""

import time
from collections.abc import Callable


def is_done_within(most_s: float, call: Callable[[str], object], text: str) -> bool:
    """Say whether *call* takes at most *most_s* of the processor for *text*.

    An eighth of it tells so where 64 times as long, by which a square grows, would be within.
    """
    return _takes_s(call, text[: len(text) // 8]) * 64 < most_s or _takes_s(call, text) < most_s


def _takes_s(call: Callable[[str], object], text: str) -> float:
    began = time.thread_time()
    call(text)
    return time.thread_time() - began
