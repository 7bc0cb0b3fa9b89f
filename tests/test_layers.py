"""The direction of the arrows, and the gates: who may touch what."""

import ast
import os
import sys
from functools import cache
from pathlib import Path

import pytest

import otel_logging
from tests.lines import ROOT
from tests.programs import python

PACKAGE = ROOT / "otel_logging"

#: Floors of docs/architecture.md, bottom first. A room imports only from floors below its own.
FLOORS = [
    {"_names", "_text", "_green", "_errors", "_secret_names"},
    {"_secret_lookalikes", "_stream"},
    {"_secret_texts"},
    {"_personal", "_secret_tables"},
    {"_secret_values"},
    {"_redact"},
    {"_runtime"},
    {"_diagnostics"},
    {"_sockets", "_values", "_links", "_fields", "_forks", "_exceptions", "_parse"},
    {"_failures"},
    {"_json", "_otlp", "_wrap"},
    {"_http"},
    {"spool"},
    {"settings"},
    {"binding"},
    {"context"},
    {"lateness", "tracers"},
    {"open_stage"},
    {"background_tasks"},
    {"propagation"},
    {"tracing", "jobs"},
    {"processors", "handover"},
    {"logs", "export"},
    {"assembly", "integrations"},
    {"observability"},
    {"_offered", "traces"},
    {"testing"},
    {"demo", "doctor", "mcp_server"},
    {"run"},
    {"cli"},
    {"__init__", "__main__"},
]
FLOOR_OF = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}

#: What may be imported, beside the standard library, and by whom.
GATES = {
    "opentelemetry.sdk": {"export"},
    "opentelemetry.proto": {"_otlp", "export", "traces"},
    "google": {"traces", "export"},
    "structlog": {"logs", "binding"},
    "loguru": {"integrations"},
    "orjson": {"_json"},
    "_interpreters": {"lateness"},
    "grpc": {"export"},
    "dotenv": {"settings"},
    "platformdirs": {"spool"},
    "aiohttp": {"integrations"},
    "celery": {"integrations"},
    "quart": {"integrations"},
    "rq": {"integrations"},
    "colorama": {"logs"},
    "django": {"integrations"},
    "flask": {"integrations"},
    "click": {"cli", "demo"},
    "rich": {"cli", "demo", "doctor", "traces"},
    "mcp": {"mcp_server"},
    "pydantic": {"mcp_server"},
    "typing_extensions": {"mcp_server"},
    "starlette": {"demo"},
    "uvicorn": {"demo"},
    "websockets": {"demo"},
    "opentelemetry": {
        *(
            "_exceptions",
            "context",
            "lateness",
            "propagation",
            "tracers",
            "tracing",
            "processors",
            "logs",
            "export",
            "assembly",
            "integrations",
            "observability",
            "testing",
            "handover",
            "open_stage",
            "background_tasks",
        ),
        "doctor",  # whose tracer provider there is
    },
}


#: The same inside the folders, file by file, and of folders in them. `__init__` without code is
#: on no floor.
FLOORS_INSIDE = {
    "settings": [{"variables"}, {"links", "exporter"}, {"logs"}, {"__init__"}],
    "doctor": [{"report"}, {"probe"}, {"checks"}],
    "traces": [
        {"attributes", "exceptions", "otlp_json"},
        {"span"},
        {"trace", "jaeger", "local"},
        {"path", "whose"},
        {"late"},
        {"failed"},
        {"groups"},
        {"search"},
        {"sources"},
        {"draw"},
    ],
    "traces/draw": [{"terminal"}, {"now", "outline", "table", "waterfall"}, {"page"}],
    "cli": [{"options"}, {"listing"}, {"spool"}, {"__init__"}],
    "logs": [
        {"call", "caller", "levels", "nesting", "stdout"},
        {"line"},
        {"handlers", "render"},
        {"logger"},
        {"bound", "uncaught"},
        {"stdlib"},
        {"configure"},
    ],
    "export": [
        {"ids", "outcome", "redacted", "span_bytes"},
        {"grpc", "http", "records", "sender", "span_state"},
        {"delivery", "span"},
        {"foreign", "metrics"},
        {"pipeline"},
        {"provider"},
    ],
    "integrations": [
        {"arrival", "replaced", "taken"},
        {
            "registry",
            "celery",
            "clients",
            "executors",
            "http",
            "loguru",
            "queues",
            "rq",
            "socketio",
        },
        {"asgi_message", "wsgi"},
        {"connection", "flask"},
        {"asgi_websocket", "django", "quart", "websockets"},
        {"aiohttp", "asgi"},
    ],
    "run": [{"__init__"}, {"sitecustomize"}],
    "lateness": [
        {"application", "budgets", "cpu", "verdict"},
        {"blackbox", "where"},
        {"everybodys"},
        {"endless"},
        {"died", "stage"},
        {"pauses", "waiting"},
        {"watchdog"},
        {"watch"},
    ],
    "spool": [
        {"open_file", "segment"},
        {"directories"},
        {"reading"},
        {"process_dirs"},
        {"destinations"},
        {"memory", "recorder"},
        {"queue"},
    ],
}
#: Files that import in circles: none.
CIRCLES: set[frozenset[str]] = set()


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text("utf-8"))


@cache
def imports_of(path: Path) -> list[str]:
    """Return every module that *path* imports, wherever in the file."""
    found: list[str] = []
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            found += (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            found += (f"{node.module}.{name.name}" for name in node.names)
    return found


FILES = sorted(PACKAGE.rglob("*.py"))


def test_a_file_imports_only_from_floors_below_its_own() -> None:
    """The listing explains the architecture: arrows point down."""
    for path in FILES:
        mine = room_of(path)
        for name in imports_of(path):
            if name.startswith("otel_logging."):
                theirs = name.split(".")[1]
                if theirs not in FLOOR_OF:  # ``from otel_logging import traced``: the front door
                    assert mine in ("demo", "run"), f"{path}: {name}"
                    continue
                assert theirs == mine or FLOOR_OF[theirs] < FLOOR_OF[mine], f"{path}: {name}"


MODULES = {
    ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__"): path
    for path in FILES
}


def modules_of(path: Path) -> set[str]:
    """Return the files of the package that *path* imports, wherever in the file."""
    found = set()
    for name in imports_of(path):
        inside = name.removeprefix("otel_logging.")
        known = [part for part in (inside, inside.rpartition(".")[0]) if part in MODULES]
        found.update(known[:1] if inside != name else [])
    return found - {module for module, own in MODULES.items() if own == path}


def test_files_import_in_no_circle() -> None:
    """Nor inside a folder: whoever reads one file has the ones below it to read, and no other."""
    arrows = {module: modules_of(path) for module, path in MODULES.items()}

    def reached(start: str) -> set[str]:
        found: set[str] = set()
        left = [start]
        while left:
            new = arrows[left.pop()] - found
            found |= new
            left += new
        return found

    reaches = {module: reached(module) for module in arrows}
    circles = {
        frozenset(other for other in found if module in reaches[other])
        for module, found in reaches.items()
        if module in found
    }
    assert circles == CIRCLES


@pytest.mark.parametrize("folder", FLOORS_INSIDE)
def test_files_inside_a_folder_import_only_from_floors_below(folder: str) -> None:
    """Floors are files. Each file with code has its floor."""
    floors = FLOORS_INSIDE[folder]
    floor_of = {name: number for number, names in enumerate(floors) for name in names}
    here = [path for path in FILES if path.is_relative_to(PACKAGE / folder)]

    def name_in_folder(path: Path) -> str:
        return path.relative_to(PACKAGE / folder).parts[0].removesuffix(".py")

    with_code = {path for path in here if tree_of(path).body[1:]}
    assert {name_in_folder(path) for path in with_code} == set(floor_of)
    for path in with_code:
        mine = name_in_folder(path)
        for module in modules_of(path):
            if MODULES[module] in with_code and (theirs := name_in_folder(MODULES[module])) != mine:
                assert floor_of[theirs] < floor_of[mine], f"{path} imports {module}"


def test_what_comes_from_outside_comes_through_its_gate() -> None:
    """The SDK, a framework, a library: each has its room."""
    for path in FILES:
        for name in imports_of(path):
            top = name.split(".")[0]
            if top == "otel_logging" or top in sys.stdlib_module_names:
                continue
            gate = next((g for g in GATES if name == g or name.startswith(g + ".")), None)
            assert gate is not None, f"{path}: {name} has no gate"
            assert room_of(path) in GATES[gate], f"{path}: {name}"


def test_only_settings_reads_the_environment() -> None:
    """``os.environ`` and ``os.getenv`` are in one file."""
    for path in FILES:
        tree = tree_of(path)
        touched = {
            f"{node.value.id}.{node.attr}"
            for node in ast.walk(tree)
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)
        }
        touched.update(imports_of(path))
        found = {"os.environ", "os.getenv", "os.environb"} & touched
        assert not found or room_of(path) == "settings", f"{path}: {found}"


#: Variables that another file than their own changes. What a set-up decides is not among them: it
#: is in the runtime record.
CHANGED_BY_OTHERS = {
    "_errors.without_secrets",  # once, when redaction is imported: it raises that error itself
    "_redact.changed",  # counters
    "_diagnostics.counts",
    "open_stage.going_on",  # memories: tasks, spans of another SDK, levels of other libraries
    "export.foreign.twins",
    "processors.LEVELS",
    "logs.handlers.only_handlers",  # once: whether nobody else has replaced a method of logging
}
CHANGING = {"add", "append", "clear", "extend", "insert", "pop", "remove", "setdefault", "update"}


def changed_of_others(path: Path) -> set[str]:
    """Return the variables of other files that *path* assigns, or whose content it changes."""
    tree = tree_of(path)
    known = {
        name.asname or name.name: f"{node.module}.{name.name}".removeprefix("otel_logging.")
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith("otel_logging")
        for name in node.names
    }
    found = set()
    for node in ast.walk(tree):
        at = None
        if isinstance(node, ast.Attribute | ast.Subscript) and not isinstance(node.ctx, ast.Load):
            at = node if isinstance(node, ast.Attribute) else node.value
        elif isinstance(node, ast.Call) and getattr(node.func, "attr", None) in CHANGING:
            at = getattr(node.func, "value", None)
        first, _, rest = ast.unparse(at).partition(".") if at else ("", "", "")
        variable = f"{known.get(first)}.{rest}" if rest else known.get(first)
        if first in known and (known[first] in MODULES) is bool(rest):
            found.add(variable)
    return found


def test_a_file_changes_no_variable_of_another() -> None:
    """What is set up is in one record, which is replaced as a whole."""
    assert set().union(*map(changed_of_others, FILES)) == CHANGED_BY_OTHERS


def test_every_room_has_its_floor() -> None:
    """A new room is put on a floor; a room that is gone leaves none."""
    assert {room_of(path) for path in FILES} == set(FLOOR_OF)


def test_one_file_starts_the_child_processes_of_the_tests() -> None:
    """tests/programs.py; but for the Docker engine, whose processes are in a namespace."""
    starting = {
        path.name
        for path in (ROOT / "tests").rglob("*.py")
        if any(
            word in path.read_text("utf-8") for word in ("import " + "subprocess", "Popen" + "(")
        )
    }
    assert starting == {"programs.py", "engine.py"}


def test_the_public_names_are_there() -> None:
    """``__all__`` is what the package offers, in order."""
    assert otel_logging.__all__ == sorted(otel_logging.__all__, key=lambda n: (n.islower(), n))
    assert all(hasattr(otel_logging, name) for name in otel_logging.__all__)


def test_importing_loads_nothing_heavy(tmp_path: Path) -> None:
    """Beyond structlog and OpenTelemetry's API: no SDK, no protobuf, no client, no command line;
    and a set-up no large part of the standard library that OpenTelemetry's SDK does without.
    """
    script = (
        "import sys, orjson, structlog, opentelemetry.trace, opentelemetry.baggage\n"
        "before = set(sys.modules)\n"
        "import otel_logging\n"
        "assert set(otel_logging.__all__) <= set(dir(otel_logging))\n"  # a REPL completes them
        "assert 'otel_logging._offered' not in sys.modules\n"
        "otel_logging.traced\n"
        "print(*{name.split('.')[0] for name in set(sys.modules) - before})\n"
        "print(*[name for name in sys.modules if name.startswith('opentelemetry.')])\n"
        "import opentelemetry.sdk.trace\n"
        "before |= set(sys.modules)\n"
        "otel_logging.setup_observability(\n"
        "    'x', environment='production', endpoint='http://127.0.0.1:9', spool_dir=sys.argv[1]\n"
        ")\n"
        "print(*{name for name in set(sys.modules) - before})\n"
    )
    # what measures coverage imports as well
    env = {key: value for key, value in os.environ.items() if not key.startswith("COVERAGE_")}
    done = python("-c", script, str(tmp_path), env=env, cwd=ROOT, anew=True)
    loaded, opentelemetry, by_set_up = (set(line.split()) for line in done.stdout.splitlines())
    assert not {"email", "encodings.idna", "http", "ssl", "tempfile"} & by_set_up
    assert not {"hashlib", "secrets", "sysconfig"} & (loaded | by_set_up)
    stdlib = sys.stdlib_module_names
    assert {n for n in loaded if n not in stdlib} <= {"otel_logging", "orjson", "opentelemetry"}
    assert not {
        name
        for name in opentelemetry
        if name.startswith(("opentelemetry.sdk", "opentelemetry.exporter", "opentelemetry.proto"))
    }
