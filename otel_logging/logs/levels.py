"""Levels of loggers: LOG_LEVEL's for lines, the application's own for its handlers.

In: the levels of set-up by logger name, and whatever ``setLevel`` is given, before
or after it. Out: loggers that let through what either of the two wants.
Invariant: the order of the two makes no difference, and a handler of the
application gets what it would get without us. Deliberately absent: the level of
a line, which is its logger's name's (``logger``).
"""

import logging
from collections.abc import Mapping
from typing import Any, Final

from otel_logging.logs import logger as loggers
from otel_logging.settings import LogSettings

_python: Any = logging  # whose method we replace
_set_level: Any = None  # what was there before us
#: The levels of set-up, by ``Logger.name``; empty: given back.
_ours: Final[dict[str, int]] = {}


class _Level(int):
    """The level that a logger has while ours counts too; *theirs* is the application's."""

    theirs: int

    def __new__(cls, level: int, theirs: int) -> "_Level":
        made = super().__new__(cls, level)
        made.theirs = theirs
        return made


def of(settings: LogSettings) -> dict[str, int]:
    """Return the levels of set-up by ``Logger.name``."""
    return {logging.root.name: settings.level, **settings.levels}


def held() -> dict[str, int]:
    """Return the levels that hold now, as ``hold`` takes them."""
    return dict(_ours)


def hold(levels: Mapping[str, int]) -> None:
    """Let *levels* count beside the application's. Scope: process."""
    global _set_level
    give_back()
    if _set_level is None:
        _set_level = logging.Logger.setLevel
        _python.Logger.setLevel = _set_both
    _ours.update(levels)
    for name in sorted(levels, key=lambda name: (name != logging.root.name, name)):  # parents first
        logger = logging.getLogger(name)
        logger.setLevel(logger.level)
    loggers.follow()


def give_back() -> None:
    """Let loggers have the application's levels alone."""
    while _ours:
        logger = logging.getLogger(_ours.popitem()[0])
        _set_level(logger, _theirs(logger))


def for_handlers(logger: logging.Logger) -> int:
    """Return the level from which the application's own levels let *logger*'s records through."""
    at: logging.Logger | None = logger
    while at is not None:
        theirs = _theirs(at)
        if theirs:
            return theirs
        at = at.parent
    return logging.NOTSET


def stricter(logger: logging.Logger) -> int:
    """Return the level that the application set on *logger* or the nearest of its parents.

    Only below those whose level set-up names: there ours counts.
    """
    at: logging.Logger | None = logger if _ours else None
    while at is not None and at.name not in _ours:
        if at.level:
            return at.level
        at = at.parent
    return logging.NOTSET


def _theirs(logger: logging.Logger) -> int:
    level = logger.level
    return level.theirs if isinstance(level, _Level) else level


def _set_both(self: logging.Logger, level: Any) -> None:
    """Set the application's level, as ``Logger.setLevel`` does; ours counts on."""
    _set_level(self, level)  # raises what it always does
    ours = _ours.get(self.name)
    if ours is not None:
        theirs = _theirs(self)
        both = min(ours, theirs)
        if theirs == logging.NOTSET and self.parent is not None:  # its parents' is meant
            both = ours if ours < self.parent.getEffectiveLevel() else logging.NOTSET
        _set_level(self, _Level(both, theirs))
    if _ours:
        loggers.follow()
