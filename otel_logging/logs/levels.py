"""Levels of loggers: LOG_LEVEL's for lines, the application's own for its handlers.

In: the levels of set-up by logger name. Out: loggers that let through what either they or the
application want. Invariant: ``logger.level`` is the application's, and a handler of its own gets
what it would get without us. Deliberately absent: the level of a line (``logger``).
"""

import logging
from collections.abc import Mapping
from typing import Any, Final

from otel_logging.logs import logger as loggers
from otel_logging.settings import LogSettings

_python: Any = logging  # whose methods we replace
#: What was there before us.
_set_level, _get_level = logging.Logger.setLevel, logging.Logger.getEffectiveLevel
#: The levels of set-up, by ``Logger.name``; empty: given back.
ours: Final[dict[str, int]] = {}


def of(settings: LogSettings) -> dict[str, int]:
    """Return the levels of set-up by ``Logger.name``."""
    return {logging.root.name: settings.level, **settings.levels}


def hold(levels: Mapping[str, int]) -> None:
    """Let *levels* count beside the application's; none of them: give back. Scope: process."""
    ours.clear()
    ours.update(levels)
    _python.Logger.setLevel, _python.Logger.getEffectiveLevel = _set_and_follow, _either
    logging.root.setLevel(logging.root.level)  # loggers forget what they remember of levels


def for_handlers(logger: logging.Logger) -> int:
    """Return the level from which the application's own levels let *logger*'s records through."""
    return _get_level(logger)


def stricter(logger: logging.Logger) -> int:
    """Return the level that the application set on *logger* or the nearest of its parents.

    Only below those whose level set-up names: there ours counts.
    """
    at: logging.Logger | None = logger if ours else None
    while at is not None and at.name not in ours:
        if at.level:
            return at.level
        at = at.parent
    return logging.NOTSET


def _either(self: logging.Logger) -> int:
    """Return the level from which a record is a line, or goes to a handler of the application."""
    at: logging.Logger | None = self
    while at is not None and at.name not in ours:
        if at.level:
            return at.level
        at = at.parent
    theirs = _get_level(self)
    if at is None:
        return theirs
    if at.level or at.parent is None:
        return min(ours[at.name], theirs)
    return min(ours[at.name], _either(at.parent))


def _set_and_follow(self: logging.Logger, level: Any) -> None:
    _set_level(self, level)  # raises what it always does
    loggers.follow()
