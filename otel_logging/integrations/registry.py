"""Which integrations are on, and when: once their library is imported.

In: names of ``_names.INTEGRATIONS``. Each is a module beside this one with ``uninstrument()`` and
``instrument()``, which patches those of its libraries that are imported, and may be called again.
Out: calls of both. Invariant: no library is imported for it. An integration that fails is reported
and left out. Deliberately absent: any framework.
"""

import importlib
import sys
from collections.abc import Iterable, Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any, Final

from otel_logging import _diagnostics, _names

#: What is in place, or will be once its library is imported.
on: Final[set[str]] = set()
#: Libraries that are being imported, by any thread.
_loading: list[str] = []


def instrument(names: Iterable[str]) -> None:
    """Put *names* in place, and no others: now, if a library of theirs is imported, and whenever
    one is imported later.

    Scope: process. Failure: never raises. Concurrency: the caller holds set-up's lock.
    """
    wanted = set(names)
    _take_away(on - wanted)
    on.update(wanted)
    _look_out(is_wanted=bool(on))
    for name in _used():
        _call(name, "instrument")


def uninstrument() -> None:
    """Take away what ``instrument`` has put in place, except what makes lines: lines go on.

    Failure: never raises.
    """
    _look_out(is_wanted=False)
    _take_away(on - {"loguru"})


def _look_out(*, is_wanted: bool) -> None:
    """Notice which libraries are imported from here on, or leave imports alone."""
    if is_wanted and _FINDER not in sys.meta_path:
        sys.meta_path.insert(0, _FINDER)
    if not is_wanted and _FINDER in sys.meta_path:
        sys.meta_path.remove(_FINDER)


def _take_away(names: set[str]) -> None:
    for name in sorted(names):
        if f"{__package__}.{name}" in sys.modules:
            _call(name, "uninstrument")
    on.difference_update(names)


def _used() -> list[str]:
    """Return the enabled integrations of which a library is imported."""
    libraries = _names.INTEGRATIONS
    return [name for name in sorted(on) if not sys.modules.keys().isdisjoint(libraries[name])]


def described() -> dict[str, Any]:
    """Return what is on of what the application imports by now, and how to have the rest."""
    used = _used()
    described: dict[str, Any] = {"on": [e for e in used if e not in ("clients", "executors")]}
    if "clients" in used:
        clients: Any = importlib.import_module(f"{__package__}.clients")
        described["on"] += clients.on()
        if packages := clients.missing():
            described["more"] = " ".join(("pip install", *packages))
    return described


def _call(name: str, verb: str) -> None:
    try:
        module: Any = importlib.import_module(f"{__package__}.{name}")
        getattr(module, verb)()
    except Exception as error:
        _diagnostics.remark(f"the integration {name} is left out", detail=error)


class _Finder:
    """Calls ``instrument`` of an integration when a library of it has been imported."""

    def find_spec(
        self, library: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return the spec that the other finders have, with a loader that tells us."""
        waiting = [name for name in sorted(on) if library in _names.INTEGRATIONS[name]]
        if not waiting:
            return None
        others = [getattr(each, "find_spec", None) for each in sys.meta_path if each is not self]
        specs = (find(library, path, target) for find in others if find is not None)
        spec: Any = next((each for each in specs if each is not None), None)
        if spec is None:
            return None
        execute = spec.loader.exec_module

        def exec_module(module: ModuleType) -> None:
            _loading.append(library)
            try:
                execute(module)
            finally:
                _loading.remove(library)
            for name in waiting:
                # otherwise when the outer import is complete, which imports this one
                if not any(each in _names.INTEGRATIONS[name] for each in _loading):
                    _call(name, "instrument")

        spec.loader.exec_module = exec_module
        return spec  # type: ignore[no-any-return]  # of whichever finder


_FINDER: Final[Any] = _Finder()
