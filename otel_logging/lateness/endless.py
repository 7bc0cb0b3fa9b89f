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
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import lru_cache
from threading import Event
from types import CodeType, FrameType, FunctionType, ModuleType
from typing import Any, Final
from weakref import WeakKeyDictionary

from otel_logging.lateness import where

#: Errors by which a task is stopped from outside. By any other a loop may be left when its work is
#: done: a queue that is empty, a connection to a model that is closed behind its answer.
_STOPS: Final = {"CancelledError", "KeyboardInterrupt", "SystemExit", "GeneratorExit"}
_BROAD: Final = {"Exception", "BaseException"}  # who catches these logs a failure
#: What catches an error without an ``except``, or ends what it is around.
_SWALLOWING: Final = re.compile(
    r"\bwith\b[^:]*\b(suppress|CancelScope|timeout|(timeout|move_on|fail)_\w+)\("
    r"|\breturn_exceptions="
)
#: What a loop calls to end what it is in, or takes from.
_ENDING: Final = re.compile(r"\b(cancel_scope\.cancel|\w*unsubscribe)$")
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
#: The last: a task, for which that is true, and that may be cancelled.
_ENDS, _YIELDS, _SUBSCRIBED, _NEVER, _JOINED = range(5)
_QUEUES, _FLAGS = (asyncio.Queue,), (bool, asyncio.Event, Event, property)
_DEEP: Final = 2  # ``app.state.hub.queue``
HOLDING: Final = (dict, defaultdict, list, set)
#: What leads nowhere.
_PLAIN: Final = frozenset({str, int, float, bool, bytes, type(None), FunctionType})
_MOST: Final = 1_000  # rooms, in a dictionary of them
_AWAITING: Final = inspect.CO_COROUTINE | inspect.CO_ASYNC_GENERATOR
_FUNCTIONS: Final = (ast.AsyncFunctionDef, ast.FunctionDef, ast.Lambda)


def is_endless(task: Any) -> bool:
    """Say whether *task* can be done by an error alone."""
    is_stuck = (inner := joined_by(task)) is not None and is_endless(inner)
    joined = _JOINED if getattr(task, "_fut_waiter", None) is inner else _NEVER
    return _cannot_return(task, _frames(task), joined if is_stuck else _ENDS)


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
    return None if is_limited else where.awaited(task, innermost)


def _cannot_return(task: Any, chain: list[FrameType], below: int) -> bool:
    """Say whether the last of *chain*, in which each awaits the one before, can never return.

    *below*: what the first awaits.
    """
    for frame in chain:
        code = frame.f_code
        if not code.co_flags & _AWAITING:
            continue
        linecache.lazycache(file := code.co_filename, frame.f_globals)  # it may be in an archive
        line: int | None = frame.f_lineno  # none in what Cython has made
        never = line is not None and _never_returns(code, line, below, _shared(task, frame))
        if code.co_qualname in _SUBSCRIPTIONS:
            below = _SUBSCRIBED
        elif never:  # who iterates over a generator may leave it
            is_left = code.co_flags & inspect.CO_ASYNC_GENERATOR and below < _NEVER
            below = _YIELDS if is_left else max(below, _NEVER)
        elif below >= _NEVER or code.co_name != "__anext__" or where.is_application(file):
            below = _ENDS  # else ``each``
    return below >= _NEVER and not _is_a_servers(reversed(chain))


def _is_a_servers(chain: Iterable[FrameType]) -> bool:
    """Say whether *chain*, outermost first, is of a server: ours calls the application in it."""
    files = (frame.f_code.co_filename for frame in chain)
    own = (each for each in files if where.is_application(each) or where.INTEGRATIONS in each)
    return where.INTEGRATIONS in next(own, "")


# ---------------------------------------------------------------- what everybody has

#: Of tasks, what ``_shared`` returned for code of theirs: it looks at all that modules have.
_known: "WeakKeyDictionary[Any, dict[CodeType, frozenset[str]]]" = WeakKeyDictionary()


def is_everybodys(task: Any, *, or_subscribes: bool = False) -> bool:
    """Say whether *task* takes from a queue of everybody's: whoever puts items there, all of them
    are. *or_subscribes*: or from a subscription.
    """
    frames = _frames(task)
    subscribes = or_subscribes and any(f.f_code.co_qualname in _SUBSCRIPTIONS for f in frames)
    shared = (_shared(task, frame) for frame in frames)
    return subscribes or any(text.endswith(".get") for texts in shared for text in texts)


def _shared(task: Any, frame: FrameType) -> frozenset[str]:
    """Return texts in the source of *frame*, of *task*, that are about what everybody has.

    ``hub.queue.get`` of a queue, ``not self.stopped.is_set()`` of a flag that is its loop's
    condition; of any flag, where there is such a queue.
    """
    known = _known.setdefault(task, {})
    if (found := known.get(code := frame.f_code)) is None:
        source = _source(code) if where.is_application(code.co_filename) else ""
        queues, flags = {*_QUEUE.findall(source)}, {*_FLAG.findall(source)}
        there = {text for text, path in queues if _has(frame, path, _QUEUES)}
        for text, path in flags:
            changes = re.search(rf"\b{re.escape(path)}( = |\.set\(|\.clear\()", source)
            if not changes and _has(frame, path, _FLAGS, is_known=bool(there)):
                there.add(text)
        found = frozenset(there)
        names = {path.partition(".")[0] for _, path in queues | flags}
        if names <= {*frame.f_locals, *frame.f_globals}:  # else it has not come so far
            known[code] = found
    return found


def _has(frame: FrameType, path: str, kinds: tuple[type, ...], *, is_known: bool = False) -> bool:
    """Say whether a dotted *path* in *frame* is of *kinds*, and everybody's: it leads through a
    global name, a variable of a module of the application's, or what is an attribute of one; to a
    queue also through dictionaries, lists and sets.
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
    most = _MOST if kinds is _QUEUES else 0
    return not {id(e) for e in values if where.attributes(e)}.isdisjoint(everybodys(frame, most))


#: What ``everybodys`` returned, of each module, in this look; None: there is no look.
_walked: dict[tuple[int, int], set[int]] | None = None


@contextmanager
def one_look() -> Iterator[None]:
    """Walk through what modules have once in a block, in which nothing else of this loop runs."""
    global _walked
    _walked = {}
    try:
        yield
    finally:
        _walked = None


def everybodys(frame: FrameType, most: int = _MOST) -> set[int]:
    """Return the ids of what modules of the application's have, that of *frame* one step more."""
    walked, key = {} if _walked is None else _walked, (id(frame.f_globals), most)
    if key not in walked:
        modules = [vars(each) for each in list(sys.modules.values()) if type(each) is ModuleType]
        own = [each for each in modules if where.is_application(each.get("__file__") or "<frozen ")]
        has = [value for each in own for value in list(each.values())]
        near = reachable(frame.f_globals.values(), _DEEP, most)
        found = itertools.chain(reachable(has, _DEEP - 1, most), near)
        walked[key] = {id(each) for each in found}
    return walked[key]


def reachable(found: Iterable[Any], deep: int, most: int = 0) -> Iterator[Any]:
    """Yield what is *found*, and what that has as attributes, so many times; and what is in a
    dictionary, a list or a set of those, of no more than *most*.
    """
    there = {id(each): each for each in list(found) if type(each) not in _PLAIN}
    for each in list(there.values()):
        if type(each) in HOLDING and len(each) <= most:
            inside = list(each.values() if isinstance(each, dict) else each)
            there |= {id(value): value for value in inside}
    yield from there.values()
    if deep:
        has = (list(_attributes(each).values()) for each in there.values())
        yield from reachable(itertools.chain.from_iterable(has), deep - 1, most)


def _attributes(of: Any) -> Mapping[str, Any]:
    has = {} if issubclass(type(of), ModuleType) else where.attributes(of)
    # Starlette's, or an application's
    state = (where.attributes(has["state"]) if "state" in has else has).get("_state")
    return {**has, **state} if type(state) is dict else has


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
            if inside := getattr(loop, "body", None):
                del around[inside[0].lineno - 1 : loop.end_lineno]
            return is_everybodys or not _swallows(code.co_filename, "\n".join(around))
    return False


def _swallows(file: str, around: str) -> bool:
    """Say whether what is *around* a loop may catch an error, be it by a block of *file*'s own."""
    lines = linecache.getlines(file) if where.is_application(file) else []
    names = "|".join(re.findall(r"\bwith (\w+)\(", around)) or "$"
    begins = [n for n, line in enumerate(lines) if re.search(rf"\b(def|class) ({names})\b", line)]
    own = "".join(line for n in begins for line in inspect.getblock(lines[n:]))
    return bool(_SWALLOWING.search(around + own) or re.search(r"\bexcept\b|__a?exit__", own))


def _assume(function: ast.AST, at: int, below: int, shared: frozenset[str]) -> bool:
    """Change *function*, which has reached the line *at*, to what it is by what is *shared*.

    A flag is true where its loop takes something. Where it takes from a queue of everybody's, and
    puts nothing back, an error that is caught, and that it does not raise, is no answer's end; nor
    is any error of a subscription. Where it waits for a task, whose cancellation it catches, that
    is an end. Return whether it takes from such a queue.
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
    for each in (each for each in ast.walk(function) if isinstance(each, ast.ExceptHandler)):
        is_a_failure = is_everybodys or (below == _SUBSCRIBED and _kinds(each) & _BROAD)
        if below == _JOINED or (is_a_failure and not raised):
            each.type = ast.Name("Exception" if below == _JOINED else "CancelledError")
    return is_everybodys


def _for_ever(node: Any, line: int, below: int) -> Any:
    """Return the statement in *node*, which has reached *line*, that never ends; None: all may."""
    cases = (each.body for each in getattr(node, "cases", ()))
    blocks = (getattr(node, name, ()) for name in ("body", "handlers", "orelse", "finalbody"))
    ahead = [[each for each in block if each.end_lineno >= line] for block in (*blocks, *cases)]
    here = next((block for block in ahead if block and block[0].lineno <= line), None)
    is_loop = isinstance(node, ast.AsyncFor) and line <= (node.iter.end_lineno or 0)
    if here is None or is_loop:  # it waits at its own line
        is_its = below and is_loop and not any(map(_has_way_out, node.body))
        return node if below >= _NEVER or is_its else None
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


def _has_way_out(node: ast.AST, within: frozenset[str] = frozenset()) -> bool:
    """Say whether *node*, in a block, may leave that block, and not by an error of others.

    *within*: what does not leave it: a ``break`` of a loop in it, and errors that are caught.
    """
    if isinstance(node, ast.Return | ast.Break):
        return type(node) is ast.Return or "break" not in within
    if isinstance(node, ast.Raise) and node.exc is not None:
        raised = ast.unparse(getattr(node.exc, "func", node.exc)).rpartition(".")[2]
        return within.isdisjoint({raised, *_BROAD})
    if isinstance(node, ast.Call) and _ENDING.search(ast.unparse(node.func)):
        return True
    if isinstance(node, _FUNCTIONS) or (isinstance(node, ast.ExceptHandler) and _is_a_stop(node)):
        return False
    body = getattr(node, "body", ()) if isinstance(node, ast.stmt) else ()
    looped = {"break"} if isinstance(node, ast.While | ast.For | ast.AsyncFor) else set()
    inside = within.union(looped, *map(_kinds, getattr(node, "handlers", ())))
    parts = ast.iter_child_nodes(node)
    return any(_has_way_out(each, inside if each in body else within) for each in parts)


def _kinds(handler: ast.ExceptHandler) -> set[str]:
    """Return the names of the errors that *handler* is for."""
    kinds = getattr(handler.type, "elts", [handler.type])
    return {ast.unparse(kind).rpartition(".")[2] if kind else "BaseException" for kind in kinds}


def _is_a_stop(handler: ast.ExceptHandler) -> bool:
    """Say whether *handler* is for errors alone by which a task is stopped."""
    return _kinds(handler) <= _STOPS


def _passes_on(handler: ast.ExceptHandler) -> bool:
    """Say whether an error that is no stop leaves *handler* as an error, if it is caught."""
    is_raised = isinstance(handler.body[-1], ast.Raise)
    return _is_a_stop(handler) or (is_raised and not any(map(_has_way_out, handler.body[:-1])))
