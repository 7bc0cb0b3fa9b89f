"""What everybody has: what a variable of a module of the application's leads to.

In: a frame, and names in it. Out: whether what they lead to is everybody's. Invariant: bounded, and
nothing is called that the application could have made.
"""

import asyncio
import gc
import inspect
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from itertools import chain
from types import FrameType, FunctionType, ModuleType
from typing import Any, Final

from otel_logging.lateness import where
from otel_logging.lateness.application import is_application

DEEP: Final = 2  # an attribute's attribute
HOLDING: Final = (dict, defaultdict, list, set)
#: What leads nowhere.
_PLAIN: Final = frozenset({str, int, float, bool, bytes, type(None), FunctionType})
_MOST: Final = 1_000  # rooms, in a dictionary of them
_CACHE: Final = type(lru_cache(id))  # a function that is in one

#: What ``found_from`` returned, of each module, in this look; None: there is no look.
_walked: dict[int, set[int]] | None = None


@contextmanager
def one_look() -> Iterator[None]:
    """Walk through what modules have once in a block, in which nothing else of this loop runs."""
    global _walked
    _walked = {}
    try:
        yield
    finally:
        _walked = None


def has(frame: FrameType, path: str, *kinds: type) -> bool:
    """Say whether a dotted *path* in *frame* is of one of *kinds*, and everybody's, or leads
    through what is: a global name, a variable of a module, a queue also an attribute of what is in
    one.
    """
    values = along(frame, path)
    if not issubclass(type(values[-1]), kinds):
        return False
    objects = {id(each) for each in values if where.attributes(each)}
    found = found_from(frame) if asyncio.Queue in kinds else map(id, _variables())
    return path.partition(".")[0] not in frame.f_locals or not objects.isdisjoint(found)


def along(frame: FrameType, path: str) -> list[Any]:
    """Return what a dotted *path* in *frame* leads through; None, where it leads to nothing."""
    name, *more = path.split(".")
    values = [frame.f_locals.get(name, frame.f_globals.get(name))]
    for each in more:
        of = values[-1]
        values.append(_attributes(of).get(each, inspect.getattr_static(of, each, None)))
    return values


def found_from(frame: FrameType) -> set[int]:
    """Return the ids of what modules of the application's have, that of *frame* one step more."""
    walked, key = {} if _walked is None else _walked, id(frame.f_globals)
    if key not in walked:
        near = reachable(frame.f_globals.values(), DEEP, _MOST)
        walked[key] = {id(each) for each in chain(reachable(_variables(), DEEP - 1, _MOST), near)}
    return walked[key]


def _variables() -> list[Any]:
    """Return what variables of the application's modules have."""
    modules = [vars(each) for each in list(sys.modules.values()) if type(each) is ModuleType]
    own = [each for each in modules if is_application(each.get("__file__") or "<frozen ")]
    return [value for each in own for value in list(each.values())]


def reachable(found: Iterable[Any], deep: int, most: int = 0) -> Iterator[Any]:
    """Yield what is *found*, and what that has as attributes, so many times; and what is in a
    dictionary, a list, a set or a cache of those, of no more than *most*.
    """
    there = {id(each): each for each in list(found) if type(each) not in _PLAIN}
    caches = [each for each in there.values() if type(each) is _CACHE]
    kept = gc.get_referents(*(each for each in caches if each.cache_info().currsize <= most))
    there |= {id(each): each for each in kept}
    for each in list(there.values()):
        if type(each) in HOLDING and len(each) <= most:
            inside = list(each.values() if isinstance(each, dict) else each)
            there |= {id(value): value for value in inside}
    yield from there.values()
    if deep:
        attributes = (list(_attributes(each).values()) for each in there.values())
        yield from reachable(chain.from_iterable(attributes), deep - 1, most)


def _attributes(of: Any) -> Mapping[str, Any]:
    attributes = {} if issubclass(type(of), ModuleType) else where.attributes(of)
    # Starlette's, or an application's
    state = where.attributes(attributes["state"]) if "state" in attributes else attributes
    held = state.get("_state")
    return {**attributes, **held} if type(held) is dict else attributes
