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
        self._heads = [re.split("[*?]", name)[0] for name in patterns]
        self.get = lru_cache(_REMEMBERED)(self._find)  # type: ignore[method-assign, assignment]
        self.may_begin = lru_cache(_REMEMBERED)(self._may_begin)

    def _find(self, name: str) -> float | None:
        if name in self:
            return self[name]
        return next((budget for pattern, budget in self._patterns if pattern.fullmatch(name)), None)

    def _may_begin(self, start: str) -> bool:
        """Say whether a name that begins with *start* may have a budget."""
        may = any(start.startswith(head) for head in self._heads)
        return may or any(name.startswith(start) for name in self)


def _compiled(name: str) -> re.Pattern[str]:
    wild = {"*": ".*", "?": "."}
    return re.compile("".join(wild.get(c) or re.escape(c) for c in name), re.DOTALL)
