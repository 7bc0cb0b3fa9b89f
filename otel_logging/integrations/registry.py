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


def _waiting(library: str) -> list[str]:
    """Return the enabled integrations that *library* is for."""
    return [name for name in sorted(on) if library in _names.INTEGRATIONS[name]]


def _used() -> list[str]:
    """Return the enabled integrations of which a library is imported."""
    libraries = _names.INTEGRATIONS
    return [name for name in sorted(on) if not sys.modules.keys().isdisjoint(libraries[name])]


def described() -> dict[str, Any]:
    """Return the integrations in use, and the command that installs what is missing."""
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
        """Return the spec that the other finders have, with our loader before its own."""
        if not _waiting(library):
            return None
        others = [getattr(each, "find_spec", None) for each in sys.meta_path if each is not self]
        specs = (find(library, path, target) for find in others if find is not None)
        spec: Any = next((each for each in specs if each is not None), None)
        # a folder of that name without __init__.py has no loader: it is not the library
        if not hasattr(getattr(spec, "loader", None), "exec_module"):
            return None
        spec.loader = _Loader(spec)
        return spec  # type: ignore[no-any-return]  # of whichever finder


class _Loader:
    """Stands in for the loader of *spec* until the library is executed. Nothing is set on that
    loader: it may be a class, or one object for all modules of a zip file.
    """

    _theirs: Any = None  # a copy is asked for methods before its own is set

    def __init__(self, spec: Any) -> None:
        self._spec, self._theirs = spec, spec.loader

    def __getattr__(self, name: str) -> Any:
        return getattr(self._theirs, name)

    def exec_module(self, module: ModuleType) -> None:
        """Execute *module* with its own loader in place; then call ``instrument``."""
        library = self._spec.name
        self._spec.loader = module.__loader__ = self._theirs
        _loading.append(library)
        try:
            self._theirs.exec_module(module)
        except BaseException:
            sys.modules.pop(library, None)  # it is incomplete; what it has imported may be complete
            _loaded(library)
            sys.modules[library] = module  # Python takes it out, unless it was a reload
            raise
        _loaded(library)


def _loaded(library: str) -> None:
    _loading.remove(library)
    for name in _waiting(library):
        # otherwise when the outer import is complete, which imports this one
        if not any(each in _names.INTEGRATIONS[name] for each in _loading):
            _call(name, "instrument")


_FINDER: Final[Any] = _Finder()
