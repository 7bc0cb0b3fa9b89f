"""Levels of loggers: LOG_LEVEL's for lines, the application's own for its handlers.

Invariant: ``logger.level`` is the application's, and its handlers get what they would without us.
"""

import logging
from typing import Final

from otel_logging import _runtime

#: The level from which the application's own levels let a logger's records through: Python's.
for_handlers: Final = logging.Logger.getEffectiveLevel

#: Whether the application has set the root logger to WARNING, which is Python's default.
_is_warning_given = False


def note_root(before: int, level: int) -> None:
    """Remember whether the root logger, which had the level *before*, is set to WARNING.

    Code that only sets WARNING again, after another level, does not count.
    """
    global _is_warning_given
    _is_warning_given = before == level == logging.WARNING


def of_root() -> int:
    """Return the level of lines if LOG_LEVEL is unset."""
    level = logging.root.level
    is_given = _runtime.current.taken_over and (level != logging.WARNING or _is_warning_given)
    return level if is_given else logging.INFO


def nearest(logger: logging.Logger) -> tuple[logging.Logger | None, int]:
    """Return the nearest of *logger* and its parents that has a level, and the level that code gave
    it; zero if LOG_LEVEL or LOG_LEVELS sets its level, which counts then.
    """
    at: logging.Logger | None = logger
    ours = _runtime.current.taken_over
    while at is not None and at.name not in ours:
        if at.level:
            return at, at.level
        at = at.parent
    return at, logging.NOTSET


def lowest(logger: logging.Logger) -> int:
    """Return the lowest level of a record that is a line, or that a handler gets."""
    at, level = nearest(logger)
    if level or at is None:
        return level or for_handlers(logger)
    is_last = at.level or at.parent is None
    ours = _runtime.current.taken_over[at.name]
    return min(ours, for_handlers(logger) if is_last else lowest(at.parent or at))
