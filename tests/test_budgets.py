"""How large each room may be: a room over its budget loses something, or docs/decisions.md argues.

A line of code is one with code on it: no docstring, no comment, no blank line.
"""

import ast
import io
import tokenize
from collections import Counter
from pathlib import Path

from tests.lines import ROOT

PACKAGE = ROOT / "otel_logging"
FILES = sorted(PACKAGE.rglob("*.py"))
FILE_LINES = 400  # physical
FUNCTION_LINES = 50  # physical, with its docstring, without decorators

#: Most lines of code of each room.
BUDGETS = {
    "__init__": 39,
    "__main__": 20,
    "_diagnostics": 108,
    "_errors": 37,
    "_exceptions": 142,
    "_failures": 90,
    "_fields": 28,
    "_forks": 70,
    "_green": 78,
    "_http": 162,
    "_json": 93,
    "_links": 4,
    "_names": 135,
    "_offered": 25,
    "_otlp": 243,
    "_parse": 167,
    "_personal": 34,
    "_redact": 293,
    "_runtime": 39,
    "_secret_lookalikes": 158,
    "_secret_names": 163,
    "_secret_tables": 146,
    "_secret_texts": 288,
    "_secret_values": 317,
    "_sockets": 119,
    "_stream": 156,
    "_text": 74,
    "_values": 199,
    "_wrap": 141,
    "assembly": 131,
    "background_tasks": 222,
    "binding": 231,
    "cli": 661,
    "context": 217,
    "demo": 220,
    "doctor": 285,
    "export": 2039,
    "handover": 135,
    "integrations": 2193,
    "jobs": 98,
    "lateness": 2145,
    "logs": 1567,
    "mcp_server": 212,
    "observability": 249,
    "open_stage": 82,
    "processors": 192,
    "propagation": 124,
    "run": 52,
    "settings": 345,
    "spool": 1019,
    "testing": 153,
    "tracers": 64,
    "traces": 2749,
    "tracing": 281,
}

#: Files above FILE_LINES, and functions above FUNCTION_LINES: they may only shrink.
LONG_FILES: dict[str, int] = {}
LONG_FUNCTIONS: dict[str, int] = {}

_NO_CODE = {
    *(tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT),
    *(tokenize.ENCODING, tokenize.ENDMARKER),
}


def code_lines(text: str) -> int:
    """Return how many lines of *text* have code on them."""
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in _NO_CODE:
            lines.update(range(token.start[0], token.end[0] + 1))
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, documented) and ast.get_docstring(node) is not None:
            docstring = node.body[0]
            lines -= set(range(docstring.lineno, (docstring.end_lineno or 0) + 1))
    return len(lines)


def functions(path: Path) -> dict[str, int]:
    """Return the physical lines of each function of *path*, without decorators."""
    found = {}
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            name = f"{path.relative_to(PACKAGE)}:{node.name}"
            found[name] = max(found.get(name, 0), (node.end_lineno or 0) - node.lineno + 1)
    return found


def test_code_lines_are_counted_without_docstrings_comments_and_blank_lines() -> None:
    """A string that is a value counts, over all its lines."""
    text = '"""Doc."""\n\n# why\nx = """a\nb"""  # why\n\n\ndef f():\n    """Doc\n\n    it."""\n'
    assert code_lines(text) == 3
    assert code_lines(text + "    return\n") == 4
    assert code_lines("x = (\n    1,\n)\n") == 3
    assert code_lines("") == 0


def test_each_room_keeps_to_its_budget() -> None:
    """A room is a file of the package, or a folder."""
    rooms: Counter[str] = Counter()
    for path in FILES:
        room = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        rooms[room] += code_lines(path.read_text("utf-8"))
    assert set(rooms) == set(BUDGETS), "a new room has a budget; one that is gone has none"
    over = {room: (lines, BUDGETS[room]) for room, lines in rooms.items() if lines > BUDGETS[room]}
    assert over == {}, "(lines, budget)"


def test_no_file_and_no_function_is_too_long() -> None:
    """Those that are too long already grow no further, and leave the list once they are short."""
    too_long = {}
    for path in FILES:
        name = str(path.relative_to(PACKAGE))
        lines = len(path.read_text("utf-8").splitlines())
        assert lines <= LONG_FILES.get(name, FILE_LINES), name
        too_long |= {
            each: lines for each, lines in functions(path).items() if lines > FUNCTION_LINES
        }
    assert set(too_long) == set(LONG_FUNCTIONS)
    assert all(lines <= LONG_FUNCTIONS[each] for each, lines in too_long.items())


def test_what_is_listed_as_too_long_is_too_long() -> None:
    """The lists only shrink."""
    lengths = {
        str(path.relative_to(PACKAGE)): len(path.read_text("utf-8").splitlines()) for path in FILES
    }
    assert [name for name in LONG_FILES if lengths.get(name, 0) <= FILE_LINES] == []
