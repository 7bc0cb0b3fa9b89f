"""Whether a task runs for ever and serves others, or finishes the work that its request left.

In: a task. Out: whether it stands in a loop that has no end, as its source says, or waits for such
tasks; and whether it takes items there that are shared by everybody. Invariant: in doubt, or
without source, a task has an end. Deliberately absent: what follows from it (``background_tasks``).

A loop has no end where three things hold:

- it is ``while True``; or it iterates over a subscription, or over what such a loop yields; or its
  condition is a flag, and both the flag and what it takes are shared by everybody;
- no ``return``, ``raise`` or ``break`` in it leaves it;
- no block around it, in its function or in one that waits for that, has a time limit, is a context
  manager of the application's, or catches an error, which may be the end of an answer. To catch
  cancellation does not count; nor does ``except Exception`` around items shared by everybody.
"""

import ast
import asyncio
import inspect
import itertools
import linecache
import re
import sys
import threading
from collections.abc import Iterable
from contextlib import suppress
from functools import lru_cache
from types import CodeType, FrameType, FunctionType
from typing import Any, Final

from otel_logging.lateness import everybodys, where
from otel_logging.lateness.application import is_application

#: Errors by which a task is stopped from outside, and what catches all that fail.
_STOPS: Final = {"CancelledError", "KeyboardInterrupt", "SystemExit", "GeneratorExit"}
_BROAD: Final = {"Exception", "BaseException"}
#: What has a time limit, or catches an error without an ``except``.
_LIMITS: Final = frozenset(
    {"suppress", "timeout", "timeout_at", "move_on_after", "move_on_at", "fail_after", "fail_at"}
    | {"CancelScope", "Timeout", "ExitStack", "AsyncExitStack"}  # those may have one in them
)
#: What a loop calls to end what it is in, or takes from.
_ENDING: Final = "cancel_scope.cancel", "unsubscribe"
#: What waits for the next item of a subscription: redis, broadcaster, aiokafka, aio-pika, psycopg,
#: aiomqtt, nats.
_SUBSCRIPTIONS: Final = frozenset(
    {"PubSub.listen", "PubSub.get_message", "Subscriber.__aiter__", "AIOKafkaConsumer.__anext__"}
    | {"AIOKafkaConsumer.getone", "QueueIterator.__anext__", "AsyncConnection.notifies"}
    | {"MessagesIterator.__anext__", "Subscription.next_msg"}
)
_FLAGS: Final = bool, asyncio.Event, threading.Event
_FLAG: Final = re.compile(r"(?:not )?([\w.]+?)(?:\.is_set\(\))?")
_LOOPING: Final = re.compile(r"\s*(while|async\s+for)\b")
#: What a frame's caller gets: the frame may end; yields for ever; waits for a subscription; never
#: returns.
_ENDS, _YIELDS, _SUBSCRIBED, _NEVER = range(4)
_WAITING: Final = inspect.CO_COROUTINE | inspect.CO_ASYNC_GENERATOR
_FUNCTIONS: Final = (ast.AsyncFunctionDef, ast.FunctionDef, ast.Lambda)
_LOOPS: Final = (ast.While, ast.For, ast.AsyncFor)
_BLOCKS: Final = (*_LOOPS, ast.Try, ast.TryStar, ast.With, ast.AsyncWith)


def is_endless(task: Any, below: int = _ENDS) -> bool:
    """Say whether *task* stands in a loop that has no end; *below*: what it waits for."""
    for frame in frames(task):
        below = _of_frame(frame, below)
    return below == _NEVER


def waits_for_ever(task: Any) -> bool:
    """Say whether *task* goes on only behind tasks that all have no end."""
    _, awaited = where.awaited(task, where.awaits(task.get_coro()))
    goes_on = (is_endless(each) or waits_for_ever(each) for each in awaited)
    is_stopping = any(each.cancelling() for each in awaited)
    return bool(awaited) and not is_stopping and all(goes_on) and is_endless(task, _NEVER)


def is_everybodys(task: Any, *, is_beside: bool = False) -> bool:
    """Say whether *task* takes from a subscription or, in a loop, from a queue shared by everybody.
    Then all its items are shared, whoever puts them there.

    *is_beside*: its request has other work. Then a subscription counts only if a module's variable
    leads to it.
    """
    for frame in frames(task):
        if frame.f_code.co_qualname in _SUBSCRIPTIONS:
            its = id(where.variable(frame, "self"))
            return not is_beside or its in everybodys.found_from(frame)
        if _takes(frame, _around(frame)):
            return True
    return False


def frames(task: Any) -> list[FrameType]:
    """Return the frames of *task*, which is suspended or runs this, that may wait; the innermost
    first.
    """
    waiting = [frame for _, frame in where.awaits(task.get_coro())]
    if task is not asyncio.current_task():
        return waiting[::-1]
    stack = where.outwards(sys._getframe())  # noqa: SLF001 - its own
    inner = itertools.takewhile(lambda frame: frame not in waiting[:1], stack)
    return [*(each for each in inner if each.f_code.co_flags & _WAITING), *waiting[:1]]


def _of_frame(frame: FrameType, below: int) -> int:
    """Return what the caller of *frame* gets; *below*: what *frame* gets itself."""
    code = frame.f_code
    if code.co_qualname in _SUBSCRIPTIONS:
        return _SUBSCRIBED
    is_own = is_application(code.co_filename)
    around = _around(frame, has_loop=not is_own or below != _NEVER)
    loops = (n for n, each in enumerate(around) if _has_no_end(each, frame, below))
    loop = next(loops, None)
    if loop is None and not is_own:
        has_limit = where.variable(frame, "timeout") is not None  # as of ``wait_for``
        passes_on = code.co_name == "__anext__" or (below == _NEVER and not has_limit)
        return below if passes_on else _ENDS  # the first: ``each``
    if loop is None and below != _NEVER:
        return _ENDS
    is_shared = below == _SUBSCRIBED or _takes(frame, around[loop:])
    passing = _STOPS | _BROAD if is_shared else _STOPS
    if any(_may_end(each, frame, passing) for each in around[:loop]):
        return _ENDS
    # whoever iterates over a generator may leave it
    is_left = code.co_flags & inspect.CO_ASYNC_GENERATOR and below != _NEVER
    return _YIELDS if is_left else _NEVER


def _has_no_end(block: Any, frame: FrameType, below: int) -> bool:
    """Say whether *block*, in which *frame* stands, is a loop without an end."""
    if isinstance(block, ast.AsyncFor):
        is_waiting = frame.f_lineno <= (block.iter.end_lineno or 0)
        goes_on = is_waiting and below in (_YIELDS, _SUBSCRIBED)
        goes_on = goes_on or ast.unparse(block.iter).startswith("websockets.connect(")
    elif isinstance(block, ast.While):
        goes_on = isinstance(block.test, ast.Constant) and bool(block.test.value)
        if not goes_on and (below == _SUBSCRIBED or _takes(frame, (block,))):
            flag = _taken(block)[1]
            goes_on = bool(flag) and everybodys.has(frame, flag, *_FLAGS)
    else:
        return False
    return goes_on and not _is_left(block)


def _takes(frame: FrameType, blocks: tuple[Any, ...]) -> bool:
    """Say whether a loop of *blocks*, in *frame*, takes from a queue shared by everybody."""
    queues = (each for loop in blocks if isinstance(loop, ast.While) for each in _taken(loop)[0])
    return any(everybodys.has(frame, each, asyncio.Queue) for each in queues)


def _may_end(block: Any, frame: FrameType, passing: set[str]) -> bool:
    """Say whether *block*, in which *frame* stands, can end the loop inside it and go on after it;
    errors in *passing* do not count.
    """
    is_tried = frame.f_lineno <= (block.body[-1].end_lineno or 0)
    handlers = getattr(block, "handlers", ()) if is_tried else ()
    made = (each.context_expr for each in getattr(block, "items", ()))
    is_caught = not all(_kinds(each) <= passing or _raises(each) for each in handlers)
    is_limited = any(_is_limit(each, frame, passing) for each in made)
    return is_caught or is_limited or _is_cancelled(block)


def _is_limit(made: ast.expr, frame: FrameType, passing: set[str]) -> bool:
    """Say whether a context manager has a time limit, or may catch errors that are not *passing*:
    one of the application's may.
    """
    name = ast.unparse(getattr(made, "func", made))
    by = everybodys.along(frame, name)[-1]
    kind = by if issubclass(type(by), type | FunctionType) else type(by)
    file = getattr(sys.modules.get(kind.__module__), "__file__", None) or "<frozen "
    errors = _names(getattr(made, "args", ()))  # which ``suppress`` is for
    names = {name.rpartition(".")[2], kind.__name__}
    is_limit = not names.isdisjoint(_LIMITS) and not (errors and errors <= passing)
    return is_limit or is_application(file)


# ---------------------------------------------------------------- what the source says


def _around(frame: FrameType, *, has_loop: bool = True) -> tuple[Any, ...]:
    """Return the blocks of its function in which *frame* stands, the outermost first; where one of
    them *has_loop*: none, where there is no loop that may have no end.
    """
    linecache.lazycache(frame.f_code.co_filename, frame.f_globals)  # it may be in an archive
    return _blocks(frame.f_code, frame.f_lineno or 0, has_loop=has_loop)


@lru_cache(maxsize=1024)
def _blocks(code: CodeType, line: int, *, has_loop: bool) -> tuple[Any, ...]:
    before = linecache.getlines(code.co_filename)[code.co_firstlineno - 1 : line]
    if has_loop and not any(map(_LOOPING.match, before)):  # to parse a function takes milliseconds
        return ()
    return tuple(e for e in _parsed(code) if e.lineno <= line <= (e.end_lineno or 0))


@lru_cache(maxsize=1024)
def _parsed(code: CodeType) -> tuple[Any, ...]:
    with suppress(Exception):  # the source was generated, or has changed
        lines = inspect.getblock(linecache.getlines(code.co_filename)[code.co_firstlineno - 1 :])
        above = "if True:\n" if lines[0][0].isspace() else "\n"
        tree = ast.increment_lineno(ast.parse(above + "".join(lines)), code.co_firstlineno - 2)
        there = (each for each in ast.walk(tree) if isinstance(each, ast.AsyncFunctionDef))
        function = next(each for each in there if each.name == code.co_name)
        return tuple(each for each in ast.walk(function) if isinstance(each, _BLOCKS))
    return ()


@lru_cache(maxsize=1024)
def _taken(loop: ast.While) -> tuple[frozenset[str], str]:
    """Return what *loop* takes from by ``get``, and does not put back into; and the flag that is
    its condition, and that it does not change.
    """
    calls = {ast.unparse(each.func) for each in ast.walk(loop) if isinstance(each, ast.Call)}
    puts = {each.rpartition(".")[0] for each in calls if ".put" in each}
    parts = (part for each in loop.body for part in ast.walk(each))
    inside = {ast.unparse(each) for each in parts if isinstance(each, ast.Name | ast.Attribute)}
    found = _FLAG.fullmatch(ast.unparse(loop.test))
    flag = found[1] if found and found[1] not in inside else ""
    return frozenset(each[:-4] for each in calls if each.endswith(".get")) - puts, flag


@lru_cache(maxsize=1024)
def _is_cancelled(block: ast.stmt) -> bool:
    """Say whether *block* is a scope that is cancelled in it, by whatever function."""
    is_scope = isinstance(block, ast.With | ast.AsyncWith)
    return is_scope and "cancel_scope.cancel(" in ast.unparse(block)


@lru_cache(maxsize=1024)
def _is_left(loop: ast.While | ast.AsyncFor) -> bool:
    return any(map(_leaves, loop.body))


def _leaves(node: ast.AST, within: frozenset[str] = frozenset()) -> bool:
    """Say whether *node* may leave the loop that it is in, otherwise than by an error of others.

    *within*: what does not: a ``break`` of a loop in it, and errors that are caught.
    """
    if isinstance(node, ast.ExceptHandler) and _kinds(node) <= _STOPS:
        return False
    if isinstance(node, ast.Return | ast.Break):
        return type(node) is ast.Return or "break" not in within
    if isinstance(node, ast.Raise) and node.exc is not None:
        return within.isdisjoint(_BROAD | _names([getattr(node.exc, "func", node.exc)]))
    if isinstance(node, ast.Call) and ast.unparse(node.func).endswith(_ENDING):
        return True
    body = node.body if isinstance(node, _BLOCKS) else ()
    caught = set().union(*map(_kinds, getattr(node, "handlers", ())))
    inside = within | caught | ({"break"} if isinstance(node, _LOOPS) else set())
    parts = () if isinstance(node, _FUNCTIONS) else ast.iter_child_nodes(node)
    return any(_leaves(each, inside if each in body else within) for each in parts)


def _raises(handler: ast.ExceptHandler) -> bool:
    """Say whether *handler* always ends by raising."""
    *before, last = handler.body
    return isinstance(last, ast.Raise) and not any(map(_leaves, before))


def _kinds(handler: ast.ExceptHandler) -> set[str]:
    """Return the names of the errors that *handler* is for."""
    kinds = getattr(handler.type, "elts", [handler.type])
    return _names(kind or ast.Name("BaseException") for kind in kinds)


def _names(found: Iterable[ast.expr]) -> set[str]:
    """Return each of *found* without its module."""
    return {ast.unparse(each).rpartition(".")[2] for each in found}
