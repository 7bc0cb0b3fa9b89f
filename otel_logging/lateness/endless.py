"""Whether a task can ever be done: one that cannot serves others, not the request that started it.

In: a task. Out: whether it stands in a loop that only an error leaves, as its source says.
Invariant: a loop over items may end, as an answer that streams does, unless what yields them is
known not to; code without a source may end. Deliberately absent: what follows from it
(``background_tasks``).
"""

import ast
import asyncio
import inspect
import linecache
import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import suppress
from functools import lru_cache
from itertools import takewhile
from types import CodeType, FrameType, ModuleType
from typing import Any, Final

from otel_logging.lateness.where import (
    INTEGRATIONS,
    attributes,
    awaited,
    awaits,
    is_application,
    outwards,
)

#: Errors by which a task is stopped from outside. By any other a loop may be left when its work is
#: done: a queue that is empty, a connection to a model that is closed behind its answer.
_STOPS: Final = {"CancelledError", "KeyboardInterrupt", "SystemExit", "GeneratorExit"}
#: What catches an error without an ``except``, or ends what it is around.
_SWALLOWING: Final = frozenset(
    {"suppress", "move_on_after", "move_on_at", "CancelScope"}
    | {"timeout", "timeout_at", "fail_after", "fail_at"}
)
#: What yields as long as a subscription lasts: redis, broadcaster, aiokafka, aio-pika, psycopg,
#: aiomqtt.
_SUBSCRIPTIONS: Final = frozenset(
    {"PubSub.listen", "Subscriber.__aiter__", "AIOKafkaConsumer.__anext__"}
    | {"QueueIterator.__anext__", "AsyncConnection.notifies", "MessagesIterator.__anext__"}
)
_DEEP: Final = 2  # ``app.state.queue``
_AWAITING: Final = inspect.CO_COROUTINE | inspect.CO_ASYNC_GENERATOR
_FUNCTIONS: Final = (ast.AsyncFunctionDef, ast.FunctionDef, ast.Lambda)


def is_endless(task: Any) -> bool:
    """Say whether *task*, which is suspended, can be done by an error alone."""
    chain = awaits(task.get_coro())
    inner = awaited(task, chain[-1:]) if _is_bound_to_it(chain) else None
    is_stuck = inner is not None and is_endless(inner)
    return _cannot_return([frame for _, frame in reversed(chain)], is_stuck=is_stuck)


def is_endless_here(task: Any) -> bool:
    """Say whether *task*, which runs this, can be done by an error alone."""
    outermost = getattr(task.get_coro(), "cr_frame", None)
    inner = takewhile(lambda frame: frame is not outermost, outwards(sys._getframe()))  # noqa: SLF001 - its own
    return outermost is not None and _cannot_return([*inner, outermost], is_stuck=False)


def _is_bound_to_it(chain: list[tuple[Any, FrameType]]) -> bool:
    """Say whether the last of *chain* waits for the end of tasks, however long that takes."""
    return bool(chain) and chain[-1][1].f_code.co_name not in ("wait", "_wait", "wait_for")


def _cannot_return(chain: list[FrameType], *, is_stuck: bool) -> bool:
    """Say whether the last of *chain*, in which each awaits the one before, can never return.

    *is_stuck*: what the first waits for cannot.
    """
    is_source = False
    for frame in chain:
        code = frame.f_code
        if not (code.co_flags & _AWAITING and frame.f_lineno):  # one of Cython's has no line
            continue
        linecache.lazycache(code.co_filename, frame.f_globals)  # it may be in an archive
        never = _never_returns(code, frame.f_lineno, is_source, is_stuck)
        is_source = is_source and code.co_name == "__anext__"  # of ``each``
        is_source = is_source or code.co_qualname in _SUBSCRIPTIONS
        if code.co_flags & inspect.CO_ASYNC_GENERATOR and not is_stuck:
            is_source = is_source or never  # who iterates over it may leave it
        else:
            is_stuck = never
    return is_stuck and not _is_a_servers(reversed(chain))


def _is_a_servers(chain: Iterable[FrameType]) -> bool:
    """Say whether *chain*, outermost first, is of a server: ours calls the application in it."""
    files = (frame.f_code.co_filename for frame in chain)
    first = next((each for each in files if is_application(each) or INTEGRATIONS in each), "")
    return INTEGRATIONS in first


def is_everybodys(task: Any) -> bool:
    """Say whether *task*, which is suspended, takes from a queue that a module's variable has, or
    an object's attribute that is in one: whoever puts items there, all of them are.
    """
    frames = [frame for _, frame in awaits(task.get_coro())]
    own = [frame for frame in frames if is_application(frame.f_code.co_filename)]
    queues = [queue for frame in own for queue in _taken_from(frame)]
    found = reachable(own[0].f_globals.values(), _DEEP) if queues else ()
    return any(each is queue for each in found for queue in queues)


def reachable(found: Iterable[Any], deep: int) -> Iterator[Any]:
    """Yield what is *found*, and what that has as attributes, so many times."""
    yield from (found := list(found))
    if deep:
        yield from reachable((v for each in found for v in _attributes(each).values()), deep - 1)


def _attributes(of: Any) -> dict[str, Any]:
    has = {} if isinstance(of, ModuleType) else attributes(of)
    state = has.get("_state")  # Starlette's
    return {**has, **(state if type(state) is dict else {})}


def _taken_from(frame: FrameType) -> Iterator[Any]:
    """Yield the queues whose ``get`` is somewhere in the source of *frame*."""
    for path in re.findall(r"([\w.]+)\.get\b", _source(frame.f_code)):
        name, *more = path.split(".")
        value = frame.f_locals.get(name, frame.f_globals.get(name))
        for each in more:
            value = _attributes(value).get(each)
        if isinstance(value, asyncio.Queue):
            yield value


# ---------------------------------------------------------------- loops, in the source


@lru_cache(maxsize=1024)
def _source(code: CodeType) -> str:
    """Return the source of a function, in a block where it is indented; "" where there is none."""
    with suppress(Exception):  # generated, or another by now
        lines = inspect.getblock(linecache.getlines(code.co_filename)[code.co_firstlineno - 1 :])
        return "".join(lines if lines[0][0].strip() else ["if True:\n", *lines])
    return ""


@lru_cache(maxsize=1024)
def _never_returns(code: CodeType, line: int, is_source: bool, is_stuck: bool) -> bool:  # noqa: FBT001
    """Say whether code that stands at *line* can be left by an error alone, and catches none.

    *is_source*: what it iterates over never ends. *is_stuck*: nor does what it waits for.
    """
    if not _SWALLOWING.isdisjoint(code.co_names):
        return False
    with suppress(SyntaxError):
        tree = ast.parse(source := _source(code))
        there = (each for each in ast.walk(tree) if isinstance(each, ast.AsyncFunctionDef))
        function = next((each for each in there if each.name == code.co_name), None)
        if function is not None:
            at = line - code.co_firstlineno + 1 + source.startswith("if True:\n")
            at = max(at, function.body[0].lineno)  # it may not have begun
            return _is_for_ever(function, at, is_source=is_source, is_stuck=is_stuck)
    return False


def _is_for_ever(node: Any, line: int, *, is_source: bool, is_stuck: bool) -> bool:
    """Say whether *node*, a statement that has reached *line*, never ends."""
    blocks = (getattr(node, name, ()) for name in ("body", "handlers", "orelse", "finalbody"))
    ahead = [[each for each in block if each.end_lineno >= line] for block in blocks]
    here = next((block for block in ahead if block and block[0].lineno <= line), None)
    if here is None:  # it waits at its own line
        is_left = isinstance(node, ast.AsyncFor) and any(map(_has_way_out, node.body))
        return is_stuck or (is_source and isinstance(node, ast.AsyncFor) and not is_left)
    is_tried = isinstance(node, ast.Try | ast.TryStar) and here is ahead[0]
    if is_tried and not all(map(_passes_on, node.handlers)):
        return False
    for statement in here:
        is_loop = isinstance(statement, ast.While) and isinstance(statement.test, ast.Constant)
        if is_loop and statement.test.value and not any(map(_has_way_out, statement.body)):
            return True
        if _has_way_out(statement):
            break
    return _is_for_ever(here[0], line, is_source=is_source, is_stuck=is_stuck)


def _has_way_out(node: ast.AST, *, is_inner: bool = False) -> bool:
    """Say whether *node*, in a block, may leave that block by a ``return`` or a ``break``.

    *is_inner*: a ``break`` leaves a loop within the block.
    """
    if isinstance(node, ast.Return) or (isinstance(node, ast.Break) and not is_inner):
        return True
    if isinstance(node, _FUNCTIONS) or (isinstance(node, ast.ExceptHandler) and _is_a_stop(node)):
        return False
    looped = node.body if isinstance(node, ast.While | ast.For | ast.AsyncFor) else []
    return any(
        _has_way_out(each, is_inner=is_inner or each in looped)
        for each in ast.iter_child_nodes(node)
    )


def _is_a_stop(handler: ast.ExceptHandler) -> bool:
    """Say whether *handler* is for errors alone by which a task is stopped."""
    kinds = getattr(handler.type, "elts", [handler.type])
    return all(kind and ast.unparse(kind).rpartition(".")[2] in _STOPS for kind in kinds)


def _passes_on(handler: ast.ExceptHandler) -> bool:
    """Say whether an error that is no stop leaves *handler* as an error, if it is caught."""
    is_raised = isinstance(handler.body[-1], ast.Raise)
    return _is_a_stop(handler) or (is_raised and not any(map(_has_way_out, handler.body)))
