"""What a program prints where it starts, rather than logs: nothing of it, where that can be said.

In: nothing. Out: no banner of ``flask run`` and ``app.run()``, whether flask has been
imported yet or will be. Invariant: nothing is imported for it. Deliberately
absent: banners with a switch of their own, and those without any
(``docs/servers.md``).
"""

import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any, Final

_FLASK: Final = "flask.cli"


def silence() -> None:
    """Let nobody print on a stdout that is for machines. Scope: process.

    flask has no option for it; it looks the function up when it prints.
    """
    if _FLASK in sys.modules:
        _silence(sys.modules[_FLASK])
    elif _finder not in sys.meta_path:
        sys.meta_path.insert(0, _finder)


def _silence(module: Any) -> None:
    if hasattr(module, "show_server_banner"):
        module.show_server_banner = _no_banner


def _no_banner(*_: Any, **__: Any) -> None:
    """Say nothing: where it listens werkzeug logs."""


class _Finder(MetaPathFinder):
    """Sees flask being imported, and finds it where Python would."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != _FLASK:
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.loader is not None:  # pragma: no branch - it is a file
            loader: Any = spec.loader
            execute = loader.exec_module

            def execute_and_silence(module: ModuleType) -> None:
                execute(module)
                _silence(module)

            loader.exec_module = execute_and_silence
        return spec


_finder: Final = _Finder()
