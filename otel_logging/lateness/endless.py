"""Whether a task can ever be done: one that cannot serves others, not the request that started it.

In: a task. Out: whether it stands in a loop that only an error leaves, as its source says; where
it takes from a queue of everybody's, a flag or the error may end the loop as well.
Invariant: a loop over items may end, as an answer that streams does, unless what yields them is
known not to; code without a source may end. Deliberately absent: what follows from it
(``background_tasks``).
"""

import ast
import asyncio
import inspect
import itertools
import linecache
import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import suppress
from functools import lru_cache
from threading import Event
from types import CodeType, FrameType, FunctionType, ModuleType
from typing import Any, Final
from weakref import WeakKeyDictionary

from otel_logging.lateness import where

#: Errors by which a task is stopped from outside. By any other a loop may be left when its work is
#: done: a queue that is empty, a connection to a model that is closed behind its answer.
_STOPS: Final = {"CancelledError", "KeyboardInterrupt", "SystemExit", "GeneratorExit"}
#: What catches an error without an ``except``, or ends what it is around.
_SWALLOWING: Final = re.compile(r"\b(suppress|CancelScope|timeout|(timeout|move_on|fail)_\w+)\(")
#: What yields as long as a subscription lasts: redis, broadcaster, aiokafka, aio-pika, psycopg,
#: aiomqtt.
_SUBSCRIPTIONS: Final = frozenset(
    {"PubSub.listen", "Subscriber.__aiter__", "AIOKafkaConsumer.__anext__"}
    | {"QueueIterator.__anext__", "AsyncConnection.notifies", "MessagesIterator.__anext__"}
)
#: A loop that never ends by itself: ``websockets`` connects anew for each step of the second.
_ENDLESS: Final = re.compile(r"while (True|[1-9]\d*):|async for \w+ in websockets\.connect\(")
#: Methods of a subscription or a socket by which a loop takes what others send.
_TAKING: Final = frozenset({"get_message", "recv", "receive", "getone", "next_msg"})
#: A loop's condition that is a flag, and whose; a queue, perhaps, from which something is taken.
_FLAG: Final = re.compile(r"\bwhile ((?:not )?([\w.]+)(?:\.is_set\(\))?):")
_QUEUE: Final = re.compile(r"(([\w.]+)\.get)\b")
#: What a frame awaits: what may end, what an endless generator or a subscription yields, for ever.
_ENDS, _YIELDS, _SUBSCRIBED, _NEVER = range(4)
_QUEUES, _FLAGS = (asyncio.Queue,), (bool, asyncio.Event, Event)
_DEEP: Final = 2  # ``app.state.hub.queue``
_AWAITING: Final = inspect.CO_COROUTINE | inspect.CO_ASYNC_GENERATOR
_FUNCTIONS: Final = (ast.AsyncFunctionDef, ast.FunctionDef, ast.Lambda)


def is_endless(task: Any) -> bool:
    """Say whether *task* can be done by an error alone."""
    is_stuck = (inner := joined_by(task)) is not None and is_endless(inner)
    return _cannot_return(task, _frames(task), _NEVER if is_stuck else _ENDS)


def _frames(task: Any) -> list[FrameType]:
    """Return the frames of *task*, innermost first, which is suspended or runs this."""
    coroutine = task.get_coro()
    if task is not asyncio.current_task():
        return [frame for _, frame in reversed(where.awaits(coroutine))]
    outermost = getattr(coroutine, "cr_frame", None)
    frames = where.outwards(sys._getframe())  # noqa: SLF001 - its own
    inner = itertools.takewhile(lambda frame: frame is not outermost, frames)
    return [] if outermost is None else [*inner, outermost]


def joined_by(task: Any) -> Any:
    """Return a task for whose end *task* waits, however long that takes; None: for no task's."""
    innermost = where.awaits(task.get_coro())[-1:]
    is_limited = any(f.f_code.co_name in ("wait", "_wait", "wait_for") for _, f in innermost)
    found = [] if is_limited else where.awaited(task, innermost)
    return found[0] if len(found) == 1 else None


def _cannot_return(task: Any, chain: list[FrameType], below: int) -> bool:
    """Say whether the last of *chain*, in which each awaits the one before, can never return.

    *below*: what the first awaits.
    """
    for frame in chain:
        code = frame.f_code
        if not code.co_flags & _AWAITING:
            continue
        linecache.lazycache(code.co_filename, frame.f_globals)  # it may be in an archive
        line: int | None = frame.f_lineno  # none in what Cython has made
        never = line is not None and _never_returns(code, line, below, _shared(task, frame))
        if code.co_qualname in _SUBSCRIPTIONS:
            below = _SUBSCRIBED
        elif never:  # who iterates over a generator may leave it
            is_left = code.co_flags & inspect.CO_ASYNC_GENERATOR and below != _NEVER
            below = _YIELDS if is_left else _NEVER
        elif code.co_name != "__anext__" or below == _NEVER:  # else ``each``
            below = _ENDS
    return below == _NEVER and not _is_a_servers(reversed(chain))


def _is_a_servers(chain: Iterable[FrameType]) -> bool:
    """Say whether *chain*, outermost first, is of a server: ours calls the application in it."""
    files = (frame.f_code.co_filename for frame in chain)
    first = next(
        (each for each in files if where.is_application(each) or where.INTEGRATIONS in each), ""
    )
    return where.INTEGRATIONS in first


# ---------------------------------------------------------------- what everybody has

#: Of tasks, what ``_shared`` returned for code of theirs: it looks at all that modules have.
_known: "WeakKeyDictionary[Any, dict[CodeType, frozenset[str]]]" = WeakKeyDictionary()


def is_everybodys(task: Any) -> bool:
    """Say whether *task* takes from a queue of everybody's: whoever puts items there, all of them
    are.
    """
    shared = (_shared(task, frame) for frame in _frames(task))
    return any(text.endswith(".get") for texts in shared for text in texts)


def _shared(task: Any, frame: FrameType) -> frozenset[str]:
    """Return texts in the source of *frame*, of *task*, that are about what everybody has.

    ``hub.queue.get`` of a queue, ``not self.stopped.is_set()`` of a flag that is its loop's
    condition; of any flag, where there is such a queue.
    """
    known = _known.setdefault(task, {})
    if (code := frame.f_code) not in known:
        source = _source(code) if where.is_application(code.co_filename) else ""
        found = {text for text, path in _QUEUE.findall(source) if _has(frame, path, _QUEUES)}
        for text, path in _FLAG.findall(source):
            changes = re.search(rf"\b{re.escape(path)}( = |\.set\(|\.clear\()", source)
            if not changes and _has(frame, path, _FLAGS, is_known=bool(found)):
                found.add(text)
        known[code] = frozenset(found)
    return known[code]


def _has(frame: FrameType, path: str, kinds: tuple[type, ...], *, is_known: bool = False) -> bool:
    """Say whether a dotted *path* in *frame* is of *kinds*, and everybody's: it leads through a
    global name, a variable of a module of the application's, or what is an attribute of one.
    """
    name, *more = path.split(".")
    values = [frame.f_locals.get(name, frame.f_globals.get(name))]
    for each in more:
        of = values[-1]
        values.append(_attributes(of).get(each, inspect.getattr_static(of, each, None)))
    if not issubclass(type(values[-1]), kinds):
        return False
    if is_known or name not in frame.f_locals:
        return True
    modules = [vars(each) for each in list(sys.modules.values()) if type(each) is ModuleType]
    own = [each for each in modules if where.is_application(each.get("__file__") or "<frozen ")]
    has = [v for each in own for v in list(each.values()) if type(v) is not FunctionType]
    found = itertools.chain(reachable(has, _DEEP - 1), reachable(frame.f_globals.values(), _DEEP))
    return not {id(each) for each in values if where.attributes(each)}.isdisjoint(map(id, found))


def reachable(found: Iterable[Any], deep: int) -> Iterator[Any]:
    """Yield what is *found*, and what that has as attributes, so many times."""
    yield from (found := list(found))
    if deep:
        yield from reachable((v for each in found for v in _attributes(each).values()), deep - 1)


def _attributes(of: Any) -> dict[str, Any]:
    has = {} if issubclass(type(of), ModuleType) else where.attributes(of)
    state = where.attributes(has.get("state", of)).get("_state")  # Starlette's, or an application's
    return {**has, **(state if type(state) is dict else {})}


# ---------------------------------------------------------------- loops, in the source


@lru_cache(maxsize=1024)
def _source(code: CodeType) -> str:
    """Return the source of a function, in a block where it is indented; "" where there is none."""
    with suppress(Exception):  # generated, or another by now
        lines = inspect.getblock(linecache.getlines(code.co_filename)[code.co_firstlineno - 1 :])
        return "".join(lines if lines[0][0].strip() else ["if True:\n", *lines])
    return ""


@lru_cache(maxsize=1024)
def _never_returns(code: CodeType, line: int, below: int, shared: frozenset[str]) -> bool:
    """Say whether code that stands at *line* can be left by an error alone, and catches none.

    *below*: what it awaits. *shared*: as ``_shared`` returns it.
    """
    with suppress(SyntaxError, StopIteration):  # there is no source of it
        tree = ast.parse(source := _source(code))
        there = (each for each in ast.walk(tree) if isinstance(each, ast.AsyncFunctionDef))
        function = next(each for each in there if each.name == code.co_name)
        at = line - code.co_firstlineno + 1 + source.startswith("if True:\n")
        at = max(at, function.body[0].lineno)  # it may not have begun
        is_everybodys = _assume(function, at, below, shared)
        if (loop := _for_ever(function, at, below)) is not None:
            around = source.splitlines()
            del around[loop.lineno - 1 : loop.end_lineno]
            return is_everybodys or not _SWALLOWING.search("\n".join(around))
    return False


def _assume(function: ast.AST, at: int, below: int, shared: frozenset[str]) -> bool:
    """Change *function*, which has reached the line *at*, to what it is by what is *shared*.

    A flag is true where its loop takes something. Where it takes from a queue of everybody's, and
    puts nothing back, an error that is caught is no answer's end; nor is one of a subscription.
    Return whether it takes from such a queue.
    """
    is_everybodys = False
    for loop in ast.walk(function) if shared else ():
        if not isinstance(loop, ast.While) or (loop.end_lineno or 0) < at:
            continue
        calls = {ast.unparse(each.func) for each in ast.walk(loop) if isinstance(each, ast.Call)}
        puts = {each.rpartition(".")[0] for each in calls if ".put" in each}
        is_shared = any(each.removesuffix(".get") not in puts for each in shared & calls)
        takes = is_shared or not _TAKING.isdisjoint(each.rpartition(".")[2] for each in calls)
        if takes and ast.unparse(loop.test) in shared:
            loop.test = ast.Constant(value=True)
        is_everybodys = is_everybodys or is_shared
    raised = [e for e in ast.walk(function) if isinstance(e, ast.Raise) and e.exc is not None]
    is_stopped = is_everybodys or (below == _SUBSCRIBED and not raised)
    for each in ast.walk(function) if is_stopped else ():
        if isinstance(each, ast.ExceptHandler):
            each.type = ast.Name("CancelledError")
    return is_everybodys


def _for_ever(node: Any, line: int, below: int) -> Any:
    """Return the statement in *node*, which has reached *line*, that never ends; None: all may."""
    blocks = (getattr(node, name, ()) for name in ("body", "handlers", "orelse", "finalbody"))
    ahead = [[each for each in block if each.end_lineno >= line] for block in blocks]
    here = next((block for block in ahead if block and block[0].lineno <= line), None)
    if here is None:  # it waits at its own line
        is_its = below and isinstance(node, ast.AsyncFor) and not any(map(_has_way_out, node.body))
        return node if below == _NEVER or is_its else None
    is_tried = isinstance(node, ast.Try | ast.TryStar) and here is ahead[0]
    if is_tried and not all(map(_passes_on, node.handlers)):
        return None
    for statement in here:
        goes_on = _ENDLESS.match(ast.unparse(statement))
        if goes_on and not any(map(_has_way_out, statement.body)):
            return statement
        if _has_way_out(statement):
            break
    return _for_ever(here[0], line, below)


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
