"""OpenTelemetry's own instrumentations of clients, databases and GenAI, where they are installed.

Each is put in place when its library is imported, whatever its version. Servers, brokers' workers
and log handlers are ours, and left out.
"""

import sys
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from importlib.util import find_spec
from typing import Any

from otel_logging import _diagnostics, _names

_on: dict[str, Any] = {}


@cache
def _installed() -> dict[str, EntryPoint]:
    if find_spec("opentelemetry.instrumentation") is None:
        return {}
    return {each.name: each for each in entry_points(group="opentelemetry_instrumentor")}


def instrument() -> None:
    """Put in place what is installed for the libraries that are imported by now."""
    for library, name in _names.CLIENTS.items():
        if library in sys.modules and name not in _on and name in _installed():
            try:
                found = _installed()[name].load()()
                if not found.is_instrumented_by_opentelemetry:  # by the application
                    _on[name] = found  # before: instrumenting may import the library's other parts
                    found.instrument()
            except Exception as error:
                _diagnostics.remark(f"the instrumentation of {library} is left out", detail=error)


def uninstrument() -> None:
    """Take off what ``instrument`` has put in place."""
    while _on:
        _on.popitem()[1].uninstrument()


def on() -> list[str]:
    """Return what is in place."""
    return sorted(_on)


def missing() -> list[str]:
    """Return the packages that would instrument what the application imports."""
    modules = sys.modules
    found = {
        f"opentelemetry-instrumentation-{_names.PACKAGES.get(name, name.replace('_', '-'))}"
        for library, name in _names.CLIENTS.items()
        if library in modules
        and name not in _installed()
        and library.partition(".")[0] not in sys.stdlib_module_names
        and not (library == "urllib3" and "requests" in modules)  # it is made of it
    }
    return sorted(found)
