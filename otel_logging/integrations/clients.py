"""OpenTelemetry's own instrumentations of clients, databases and GenAI, if they are installed.

Each is put in place when its library is imported, whatever its version. Those of servers, brokers'
workers and log handlers are left out, since we have our own.
"""

import re
import sys
from functools import cache
from importlib.metadata import EntryPoint, distributions, entry_points
from importlib.util import find_spec
from typing import Any, Final

from otel_logging import _diagnostics, _names

#: Packages of OpenTelemetry that need one exact version of its SDK.
_PINNED: Final = r"opentelemetry-(exporter-otlp|instrumentation-)"
_on: dict[str, Any] = {}


@cache
def _installed() -> dict[str, EntryPoint]:
    if find_spec("opentelemetry.instrumentation") is None:
        return {}
    return {each.name: each for each in entry_points(group="opentelemetry_instrumentor")}


def instrument() -> None:
    """Switch on the installed instrumentations of the libraries that are imported by now."""
    for library, name in _names.CLIENTS.items():
        if library in sys.modules and name not in _on and name in _installed():
            try:
                found = _installed()[name].load()()
                if not found.is_instrumented_by_opentelemetry:  # else the application has
                    _on[name] = found  # before: instrumenting may import the library's other parts
                    found.instrument()
                    if name == "sqlalchemy" and found.is_instrumented_by_opentelemetry:
                        _trace_engines()
            except Exception as error:
                _diagnostics.remark(f"the instrumentation of {library} is left out", detail=error)


def uninstrument() -> None:
    """Switch off what ``instrument`` has switched on."""
    while _on:
        found = _on.popitem()[1]
        if found.is_instrumented_by_opentelemetry:  # else it warns
            found.uninstrument()


@cache
def _trace_engines() -> None:
    """Trace each engine of SQLAlchemy from its first connection on. Its instrumentation replaces
    ``create_engine``, which the application may have imported before.
    """
    sqlalchemy: Any = sys.modules["sqlalchemy"]
    theirs: Any = sys.modules["opentelemetry.instrumentation.sqlalchemy.engine"]
    trace, is_traced = sqlalchemy.create_engine._self_wrapper, theirs._after_cur_exec  # noqa: SLF001

    def connected(connection: Any, *_: Any) -> None:
        engine = connection.engine
        while hasattr(engine, "_proxied"):  # a copy with other options: the engine itself is inside
            engine = engine._proxied  # noqa: SLF001
        has_it = sqlalchemy.event.contains(engine, "after_cursor_execute", is_traced)
        if "sqlalchemy" in on() and not has_it:
            trace(lambda: engine, None, (), {})

    sqlalchemy.event.listen(sqlalchemy.engine.Engine, "engine_connect", connected)


def on() -> list[str]:
    """Return what is on, without those that have refused their library's version, and said so."""
    return sorted(name for name, each in _on.items() if each.is_instrumented_by_opentelemetry)


def missing() -> list[str]:
    """Return the packages that are missing for libraries that the application imports.

    Installed ones are named too, since they pin each other's versions.
    """
    modules = sys.modules
    found = {
        f"opentelemetry-instrumentation-{_names.PACKAGES.get(name, name.replace('_', '-'))}"
        for library, name in _names.CLIENTS.items()
        if library in modules
        and name not in _installed()
        and library.partition(".")[0] not in sys.stdlib_module_names
        and not (library == "urllib3" and "requests" in modules)  # requests uses urllib3
    }
    if found:
        names = {each.name for each in distributions()}
        found |= {"opentelemetry-sdk", *filter(re.compile(_PINNED).match, names)}
    return sorted(found)
