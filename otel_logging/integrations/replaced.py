"""What one integration has put in place of attributes of other people's classes and modules.

In: an owner, a name, and what makes the new attribute of the one that is there. Out: all as it was,
when asked. Invariant: an attribute is replaced once, until it is put back.
"""

import sys
from collections.abc import Callable
from typing import Any


class Replaced:
    """Attributes that are replaced. Concurrency: the caller holds set-up's lock."""

    def __init__(self) -> None:
        self._was: dict[tuple[Any, str], tuple[Any, ...]] = {}

    def put(self, owner: Any, name: str, make: Callable[[Any], Any]) -> None:
        """Put what *make* returns, given *name* of *owner*, in its place."""
        if (owner, name) not in self._was:
            self._was[owner, name] = (vars(owner)[name],) if name in vars(owner) else ()
            setattr(owner, name, make(getattr(owner, name, None)))

    def find(self, module: str, kind: str, name: str, make: Callable[[Any], Any]) -> None:
        """Do so for the class *kind* of *module*, or, without one, for that itself, where it is
        imported, and has *name*. Failure: raises ``AttributeError`` where it has no such class.
        """
        found = sys.modules.get(module)
        is_half_imported = getattr(getattr(found, "__spec__", None), "_initializing", False)
        if found is None or (is_half_imported and not hasattr(found, kind)):
            return
        owner = getattr(found, kind) if kind else found
        if hasattr(owner, name):
            self.put(owner, name, make)

    def undo(self) -> None:
        """Put everything back."""
        while self._was:
            (owner, name), was = self._was.popitem()
            if was:
                setattr(owner, name, *was)
            else:  # it was inherited
                delattr(owner, name)

    def __bool__(self) -> bool:
        return bool(self._was)
