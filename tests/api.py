"""The API page, made from the docstrings; ``tests/test_api.py`` holds docs/api.md equal to it.

python3 -m tests.api > docs/api.md
"""

import ast
import importlib
import inspect
import re
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Any, Final

import otel_logging

INTRODUCTION: Final = """# API

Made from the docstrings, by `python3 -m tests.api > docs/api.md`. What is under a heading without a
module is imported from `otel_logging`. Nothing here raises but `ConfigurationError`, where the text
says so, and what an application raises.
"""
#: Headings, in order, and the modules that they are about.
HEADINGS: Final = {
    "Set-up": ("observability", "_errors"),
    "Lines": ("logs.configure",),
    "Stages": ("tracing", "open_stage"),
    "On whose behalf": ("context", "propagation"),
    "Work that changes hands": ("handover",),
    "Why late": ("lateness.waiting",),
    "Secrets": ("_redact", "export.redacted"),
    "Job tags": ("jobs",),
}
#: Beside those of ``otel_logging``: module -> names, each under a heading of its own.
MORE: Final = {
    "open_stage": ("OpenStage",),
    "integrations.asgi": ("ObservabilityMiddleware", "instrument", "uninstrument"),
    "integrations.wsgi": ("WSGIObservabilityMiddleware",),
    "integrations.queues": ("instrument",),
    "processors": None,
    "testing": None,
}
#: What others make, and methods that are others' to call.
NOT_MADE: Final = ("Captured", "Observability", "OpenStage")
NOT_CALLED: Final = ("after_fork",)
_PACKAGE: Final = "otel_logging."


def _entries() -> Iterator[tuple[str, str, str]]:
    """Yield the heading, the module and the name of everything public."""
    headings = {module: name for name, modules in HEADINGS.items() for module in modules}
    found = [
        (getattr(otel_logging, name).__module__.removeprefix(_PACKAGE), name)
        for name in otel_logging.__all__
    ]
    for module, names in MORE.items():
        loaded: Any = importlib.import_module(_PACKAGE + module)
        values = {name: getattr(loaded, name) for name in names or loaded.__all__}
        public = [n for n, v in values.items() if inspect.isclass(v) or inspect.isroutine(v)]
        found += [(module, name) for name in public]
    order = [*headings, *MORE]
    for module, name in sorted(found, key=lambda each: (order.index(each[0]), each[1].lower())):
        yield headings.get(module, f"`{_PACKAGE}{module}`"), module, name


def _definitions(module: str, name: str) -> list[Any]:
    """Return what defines *name*: more than one where it is overloaded."""
    loaded: Any = importlib.import_module(_PACKAGE + module)
    defined_in: Any = inspect.getmodule(getattr(loaded, name))
    tree = ast.parse(Path(defined_in.__file__).read_text("utf-8"))
    return [node for node in tree.body if getattr(node, "name", None) == name]


def _call(node: Any, name: str) -> str:
    """Return how *name* is called, as its definition has it."""
    if isinstance(node, ast.ClassDef):
        makers = [each for each in node.body if getattr(each, "name", None) == "__init__"]
        is_made = makers and name not in NOT_MADE
        return f"{name}({_arguments(makers[0])})" if is_made else name
    returns = f" -> {ast.unparse(node.returns)}" if node.returns else ""
    return f"{name}({_arguments(node)}){returns}"


def _arguments(node: Any) -> str:
    text = ast.unparse(node.args)
    return re.sub(r"^self(, /)?(, )?", "", text)


def _text(node: Any) -> str:
    """Return the docstring of *node* as Markdown."""
    return re.sub(r"``(.*?)``", r"`\1`", ast.get_docstring(node) or "", flags=re.S)


def _described(module: str, name: str) -> Iterator[str]:
    nodes = _definitions(module, name)
    call = max((_call(node, name) for node in nodes), key=len)  # of several overloads
    node = nodes[-1]
    yield f"### {name}\n\n```python\n{call}\n```\n\n{_text(node)}\n"
    for each in node.body if isinstance(node, ast.ClassDef) else ():
        hidden = getattr(each, "name", "_")
        if hidden[0] != "_" and hidden not in NOT_CALLED and ast.get_docstring(each):
            is_value = "property" in map(ast.unparse, each.decorator_list)
            yield f"`.{each.name if is_value else _call(each, each.name)}`: {_text(each)}\n"


def page() -> str:
    """Return the whole page."""
    parts = [INTRODUCTION]
    for heading, entries in groupby(_entries(), key=lambda each: each[0]):
        parts.append(f"## {heading}\n")
        for _, module, name in entries:
            parts += _described(module, name)
    return "\n".join(parts)


if __name__ == "__main__":
    print(page(), end="")
