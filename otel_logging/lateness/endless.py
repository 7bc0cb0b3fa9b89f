"""Whether a task can ever be done: one that cannot serves others, not the request that started it.

In: a task. Out: whether, from where it stands, no way leads to a ``return`` but an error: read off
its bytecode. Invariant: a loop over items may end, as an answer that streams does, unless what
yields them is known not to. Deliberately absent: what follows from it (``outliving``).
"""

import asyncio
import dis
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
_STOPS: Final = re.compile("CancelledError|KeyboardInterrupt|SystemExit|GeneratorExit")
#: What catches an error without saying so in the bytecode, or ends what it is around.
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
_DEEP: Final = 3  # ``app.state.queue``
_LEAVES: Final = frozenset({"RETURN_VALUE", "RETURN_CONST"})
_LAST: Final = _LEAVES | {"RAISE_VARARGS", "RERAISE", "JUMP_FORWARD"}
_NAMES: Final = frozenset({"LOAD_GLOBAL", "LOAD_NAME", "LOAD_ATTR", "LOAD_DEREF", "LOAD_FAST"})
_JUMPS: Final = frozenset({*dis.hasjrel, *dis.hasjabs})


def is_endless(task: Any) -> bool:
    """Say whether *task*, which is suspended, can be done by an error alone."""
    chain = awaits(task.get_coro())
    if _is_a_servers(frame for _, frame in chain):
        return False
    inner = awaited(task, chain[-1:]) if _is_bound_to_it(chain) else None
    is_stuck, is_source = inner is not None and is_endless(inner), False
    for coroutine, frame in reversed(chain):
        never = _never_returns(frame, is_source=is_source, is_stuck=is_stuck)
        is_source = is_source and frame.f_code.co_name == "__anext__"  # of ``each``
        is_source = is_source or frame.f_code.co_qualname in _SUBSCRIPTIONS
        if hasattr(coroutine, "ag_frame") and not is_stuck:  # who iterates over it may leave it
            is_source = is_source or never
        else:
            is_stuck = never
    return is_stuck


def _is_bound_to_it(chain: list[tuple[Any, FrameType]]) -> bool:
    """Say whether the last of *chain* waits for the end of tasks, however long that takes."""
    return bool(chain) and chain[-1][1].f_code.co_name not in ("wait", "_wait", "wait_for")


def is_everybodys(task: Any) -> bool:
    """Say whether *task*, which is suspended, takes from a queue that a module's variable has, or
    an object's attribute that is in one: whoever puts items there, all of them are.
    """
    frames = [frame for _, frame in awaits(task.get_coro())]
    own = [frame for frame in frames if is_application(frame.f_code.co_filename)]
    queues = [queue for frame in own for queue in _taken_from(frame)]
    found = list(own[0].f_globals.values()) if queues else []
    for _ in range(_DEEP):
        if any(each is queue for each in found for queue in queues):
            return True
        found = [value for each in found for value in _attributes(each).values()]
    return False


def _attributes(of: Any) -> dict[str, Any]:
    has = {} if isinstance(of, ModuleType) else attributes(of)
    state = has.get("_state")  # Starlette's
    return {**has, **(state if type(state) is dict else {})}


def _taken_from(frame: FrameType) -> Iterator[Any]:
    """Yield the queues whose ``get`` is somewhere in the code of *frame*."""
    for name, *more in _gets(frame.f_code):
        value = frame.f_locals.get(name, frame.f_globals.get(name))
        for each in more:
            value = _attributes(value).get(each)
        if isinstance(value, asyncio.Queue):
            yield value


@lru_cache(maxsize=1024)
def _gets(code: CodeType) -> list[list[str]]:
    """Return of what *code* has ``get``: ``app.state.queue`` as a list."""
    found, path = list[list[str]](), list[str]()
    for step in dis.get_instructions(code):
        if step.opname in _NAMES - {"LOAD_ATTR"}:
            path = [step.argval]
        elif step.opname in ("LOAD_ATTR", "LOAD_METHOD"):
            found += [path] if step.argval == "get" and path else []
            path = [*path, step.argval] if path else []
        else:
            path = []
    return found


def is_endless_here(task: Any) -> bool:
    """Say whether *task*, which runs this, can be done by an error alone."""
    outermost, is_stuck = getattr(task.get_coro(), "cr_frame", None), False
    inner = takewhile(lambda frame: frame is not outermost, outwards(sys._getframe()))  # noqa: SLF001 - its own
    chain = [*inner, outermost] if outermost is not None else []
    for frame in chain:
        is_stuck = _never_returns(frame, is_stuck=is_stuck)
    return is_stuck and not _is_a_servers(reversed(chain))


def _is_a_servers(chain: Iterable[FrameType]) -> bool:
    """Say whether *chain*, outermost first, is of a server: ours calls the application in it."""
    files = (frame.f_code.co_filename for frame in chain)
    first = next((each for each in files if is_application(each) or INTEGRATIONS in each), "")
    return INTEGRATIONS in first


def _never_returns(frame: FrameType, *, is_source: bool = False, is_stuck: bool) -> bool:
    """Say whether no way leads from where *frame* is to a ``return``, but by an error.

    *is_source*: what it iterates over never ends. *is_stuck*: nor does what it waits for.
    """
    with suppress(Exception):
        return _has_no_way(frame.f_code, frame.f_lasti, is_source, is_stuck)
    return False  # pragma: no cover - Cython's has no bytecode


@lru_cache(maxsize=1024)
def _has_no_way(code: CodeType, at: int, is_source: bool, is_stuck: bool) -> bool:  # noqa: FBT001
    if not _SWALLOWING.isdisjoint(code.co_names):
        return False
    steps = list(dis.get_instructions(code))
    index = {step.offset: number for number, step in enumerate(steps)}
    code_of: Any = dis.Bytecode(code)  # what typeshed does not know
    handler_of = {
        number: index[each.target]
        for each in code_of.exception_entries
        for number, step in enumerate(steps)
        if each.start <= step.offset < each.end
    }
    ways, seen = [index.get(at, 0)], set[int]()
    for number in ways:
        step = steps[number]
        if step.opname in _LEAVES:
            return False
        if number in seen:
            continue
        if seen or not is_stuck:
            ways += [index[step.argval]] if step.opcode in _JUMPS else []
            if step.opname not in _LAST and not step.opname.startswith("JUMP_BACKWARD"):
                ways.append(number + 1)
        seen.add(number)
        while (number := handler_of.get(number, -1)) >= 0:
            ways += _caught(steps, index, number, is_source=is_source)
    return True


def _caught(
    steps: list[dis.Instruction], index: dict[int, int], at: int, *, is_source: bool
) -> Iterator[int]:
    """Yield where it goes on in the handler *at*, if an error that is no stop leads there."""
    if steps[at].opname == "END_ASYNC_FOR" and not is_source:
        yield at + 1
    named, is_asked = list[str](), False
    is_own = steps[at].opname == "PUSH_EXC_INFO"
    while is_own and steps[at].opname not in ("POP_EXCEPT", "RERAISE"):  # no ``except`` any more
        step, at = steps[at], at + 1
        is_asked = is_asked or step.opname in ("CHECK_EXC_MATCH", "CHECK_EG_MATCH")
        if step.opname in _NAMES and str(step.argval)[:1].isupper():
            named.append(step.argval)
        elif is_asked and step.opcode in _JUMPS:  # to the next ``except``
            if not (named and all(map(_STOPS.match, named))):
                yield at
            named, is_asked, at = [], False, index[step.argval]
