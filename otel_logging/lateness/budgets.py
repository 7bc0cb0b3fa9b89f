"""Budgets by stage name: exact, or by a pattern with ``*`` and ``?``.

In: what was set. Out: the budget of a name, the most exact pattern's: that with the most letters
of its own. Deliberately absent: ``[``, which stands in names.
"""

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Final

_REMEMBERED: Final = 4096  # names; those of an application are few


class Budgets(dict[str, float]):
    """A mapping whose ``get`` finds patterns, too. Never raises."""

    def __init__(self, given: Mapping[str, float]) -> None:
        super().__init__(given)
        patterns = [name for name in given if "*" in name or "?" in name]
        patterns.sort(key=lambda name: len(name) - name.count("*") - name.count("?"), reverse=True)
        self._patterns = [(_compiled(name), given[name]) for name in patterns]
        self._heads = [(re.split("[*?]", name)[0], given[name]) for name in patterns]
        self.get = lru_cache(_REMEMBERED)(self._find)  # type: ignore[method-assign, assignment]
        self.least = lru_cache(_REMEMBERED)(self._least)

    def _find(self, name: str) -> float | None:
        if name in self:
            return self[name]
        return next((budget for pattern, budget in self._patterns if pattern.fullmatch(name)), None)

    def _least(self, start: str) -> float | None:
        """Return the least budget of the names that begin with *start*; None where they have
        none.
        """
        may = [budget for head, budget in self._heads if start.startswith(head)]
        may += [budget for name, budget in self.items() if name.startswith(start)]
        return min(may, default=None)


def _compiled(name: str) -> re.Pattern[str]:
    wild = {"*": ".*", "?": "."}
    return re.compile("".join(wild.get(c) or re.escape(c) for c in name), re.DOTALL)
