"""Budgets by stage name: exact, or by a pattern with ``*`` and ``?``.

In: what was set. Out: the budget of a name, the most exact pattern's: that with the most letters
of its own. Deliberately absent: ``[``, which stands in names.
"""

import re
from collections.abc import Mapping
from typing import Final

_REMEMBERED: Final = 4096  # names; those of an application are few


class Budgets(dict[str, float]):
    """A mapping whose ``get`` finds patterns, too. Never raises."""

    def __init__(self, given: Mapping[str, float]) -> None:
        super().__init__(given)
        patterns = [name for name in given if "*" in name or "?" in name]
        patterns.sort(key=lambda name: len(name) - name.count("*") - name.count("?"), reverse=True)
        self._patterns = [(_compiled(name), given[name]) for name in patterns]
        self._found: dict[str, float | None] = {}
        self._heads = [re.split("[*?]", name)[0] for name in patterns]
        self._starts: dict[str, bool] = {}

    def get(self, name: str, default: float | None = None) -> float | None:  # type: ignore[override]
        """Return the budget of the stage *name*."""
        if name in self:
            return self[name]
        if not self._patterns:
            return default
        if name not in self._found:
            if len(self._found) >= _REMEMBERED:
                self._found.clear()
            fitting = (budget for pattern, budget in self._patterns if pattern.fullmatch(name))
            self._found[name] = next(fitting, default)
        return self._found[name]

    def may_begin(self, start: str) -> bool:
        """Say whether a name that begins with *start*, which is one of few, may have a budget."""
        if start not in self._starts:
            heads = [head for head in self._heads if start.startswith(head)]
            self._starts[start] = bool(heads) or any(name.startswith(start) for name in self)
        return self._starts[start]


def _compiled(name: str) -> re.Pattern[str]:
    wild = {"*": ".*", "?": "."}
    return re.compile("".join(wild.get(c) or re.escape(c) for c in name), re.DOTALL)
