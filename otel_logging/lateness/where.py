"""Where a thread or a task stands right now, and what it waits for.

In: a frame, or a task. Out: steps (code and line), innermost first, and a label of them: the
application's own frame, and in brackets the library's that it is in. Invariant: bounded, and
nothing is called that the application could have made. Deliberately absent: when to look.
"""

import asyncio
import gc
import os
import re
import selectors
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import Context
from itertools import chain, takewhile
from pathlib import Path
from types import CodeType, FrameType, FunctionType, GetSetDescriptorType, ModuleType
from typing import Any, Final
from weakref import ref

from otel_logging import _forks, _wrap
from otel_logging.lateness.application import DEMO, OURS, is_application
from otel_logging.lateness.verdict import DOWNSTREAM, LOCK, POOL

Step = tuple[CodeType, int]

DEPTH: Final = 40
SHOWN: Final = 3  # places in a sentence
_KEPT: Final = 8  # steps of a stack
#: Functions of libraries in which one waits for a lock or for a connection of a pool.
_ACQUIRING: Final = frozenset(
    {"acquire", "_acquire", "getconn", "get_connection", "_do_get", "wait_for_connection"}
    | {"_get_conn", "_wait_for_available_connection"}  # urllib3's, aiohttp's
)
#: What is a pool, or a lock, by a module's or a class's name: anyio's of threads is FastAPI's.
_POOLED: Final = re.compile("pool|connector|CapacityLimiter[.]", re.IGNORECASE)
_LOCKED: Final = re.compile("lock|semaphore", re.IGNORECASE)
#: SQLAlchemy's pool of an async engine waits in another greenlet, of which this alone is seen.
_GREENLET_S, _QUEUED = "greenlet_spawn", asyncio.Queue.get.__code__


@contextmanager
def frames() -> Iterator[dict[int, FrameType]]:
    """Give the innermost frame of each thread; none while an interpreter with a lock of its own
    runs beside, since Python would crash.

    Every stack of another thread is read within. Until 3.12 no garbage is collected meanwhile: amid
    a step outwards that may let the other thread go on, and what is read then is no frame any more.
    """
    with _forks.reading_stacks:  # a forked child has the collector as it was
        is_on = sys.version_info < (3, 12) and gc.isenabled()
        if is_on:  # pragma: no branch - by version
            gc.disable()
        found = {} if _is_beside_another() else sys._current_frames()  # noqa: SLF001 - the only one
        try:
            yield found
        finally:
            found.clear()  # it has who reads it, too, which would keep what all threads had
            if is_on:  # pragma: no branch - by version
                gc.enable()


def _is_beside_another() -> bool:  # pragma: no cover - by version
    if sys.version_info >= (3, 13):
        import _interpreters

        own, *_ = _interpreters.get_current()
        found = [each for each, *_ in _interpreters.list_all() if each != own]
        return any(_interpreters.get_config(each).gil == "own" for each in found)
    return False  # before it, there is no way to ask


def of_frame(frame: FrameType | None) -> list[Step]:
    """Return the steps of a thread's stack."""
    return _bounded(outwards(frame))


def outwards(frame: FrameType | None) -> Iterator[FrameType]:
    """Yield a stack's frames, innermost first."""
    while frame is not None:
        yield frame
        frame = frame.f_back


def _bounded(frames: Iterable[FrameType]) -> list[Step]:
    """Return the innermost steps, and however deep it is one of the application's; none of ours."""
    steps: list[Step] = []
    is_own = False
    for frame in frames:
        if frame.f_code.co_filename.startswith(OURS) and frame.f_code.co_filename != DEMO:
            continue
        is_own = is_own or is_application(frame.f_code.co_filename)
        if len(steps) < DEPTH or is_own:
            steps.append((frame.f_code, frame.f_lineno or frame.f_code.co_firstlineno))
        if is_own and len(steps) >= DEPTH:
            break
    return steps


def is_shared(frame: FrameType | None) -> bool:
    """Say whether tasks of trio share the thread with this stack: whose is current is not seen."""
    files = (each.f_code.co_filename for each in outwards(frame))
    return "trio" in sys.modules and any(file.endswith(_TRIO) for file in files)


def own_step(steps: list[Step]) -> Step | None:
    """Return the innermost step of the application, if there is one."""
    return next((step for step in steps if is_application(step[0].co_filename)), None)


def variable(frame: FrameType, name: str) -> Any:
    """Return a variable of a function's *frame*, which does not keep it. Else, until Python 3.13,
    it is freed when that frame is read next, in the midst of which its thread might go on.
    """
    found = (has := frame.f_locals).get(name)
    if type(has) is dict:  # pragma: no branch - by version
        has.clear()
    return found


def self_of(code: CodeType, frame: FrameType | None) -> Any:
    """Return the object of which the method with this *code* is on a thread's stack, if it is."""
    running = (each for each in outwards(frame) if each.f_code is code)
    return next((variable(each, "self") for each in running), None)


def of_task(
    task: Any, threads: Mapping[int, Any], working: Sequence[int] = (),
    beside: Callable[[], Iterable[Any]] = tuple,
) -> tuple[list[Step], list[int], dict[Any, Any]]:  # fmt: skip
    """Return the steps of a task that is suspended, down to what it waits for: through the stack of
    a thread of *threads*, where it waits for that; those threads that it may wait for; and what it
    waits for, each with its task, weakly. *working*: the threads that work for it; *beside*: the
    tasks that have taken something of it.
    """
    frames: list[FrameType] = []
    needed, is_threads = dict[Any, Any](), False
    for _ in range(DEPTH):  # pragma: no branch - a bound
        coroutines = awaits(task.get_coro())
        if coroutines and asyncio.current_task(task.get_loop()) is task:
            frames += _above(coroutines[0][1], threads)
            break
        frames += [frame for _, frame in coroutines]
        future = getattr(task, "_fut_waiter", None) or task
        found = awaited(task, coroutines)[0] or _answering(coroutines)
        # an executor's future is behind it, or behind one of several
        behind = (e for e in chain.from_iterable(_hops(future)) if type(e) is FunctionType)
        is_threads = not found and any(each.__qualname__ == _CHAINED for each in behind)
        if not (found or is_threads):
            found = _to_answer(_answers_for(task, coroutines), beside)
        if not found:
            break
        needed[ref(future)] = ref(found)
        task = found
    frames.reverse()
    working = working if is_threads else ()
    thread = _thread_behind(frames[0], threads, working) if frames else 0
    there = of_frame(threads.get(thread))
    steps = [*(there if own_step(there) else []), *_bounded(frames)]
    return steps, [*working] or [thread], needed


def _above(frame: FrameType, threads: Mapping[int, Any]) -> list[FrameType]:
    """Return the frames of a task that runs, outermost first: that *frame*, in one of *threads*."""
    stacks = (list(outwards(top)) for top in threads.values())
    stack = next((each for each in stacks if frame in each), [frame])
    return stack[stack.index(frame) :: -1]


def _answering(coroutines: list[tuple[Any, FrameType]]) -> Any:
    """Return the task that Starlette leaves the answer to, while this one waits for a stream."""
    frames = (frame for _, frame in reversed(coroutines))
    librarys = takewhile(lambda frame: not is_application(frame.f_code.co_filename), frames)
    leaving = [frame for frame in librarys if _LEAVING.match(frame.f_code.co_qualname)]
    groups = (getattr(variable(frame, "task_group"), "_tasks", ()) for frame in leaving[::-1])
    tasks = (task for task in chain(*map(tuple, groups)) if not task.done())
    return next((task for task in tasks if not task.get_name().endswith(_CLOSING)), None)


def _answers_for(task: Any, coroutines: list[tuple[Any, FrameType]]) -> set[int]:
    """Return the ids of the bare futures that *task* waits for: ``wait_for`` has one inside."""
    waited = [getattr(task, "_fut_waiter", None), *gc.get_referents(*_holding(coroutines))]
    return {id(each) for each in waited if _is_bare(each)}


def _to_answer(answers: set[int], beside: Callable[[], Iterable[Any]]) -> Any:
    """Return the task *beside* that is to give one of the *answers*: it has that among what it has
    taken, and waits for none.
    """
    for task in beside() if answers else ():
        coroutines = awaits(task.get_coro())
        there = has = gc.get_referents(*(coroutine for coroutine, _ in coroutines))
        for _ in range(2):  # ``handed.item.answer``
            parts = gc.get_referents(*(each for each in has if type(each) not in _LARGE))
            small = (e for e in parts if type(e) is dict and len(e) < DEPTH)  # attributes, say
            has = [*parts, *chain(*(list(each.values()) for each in small))]
            there = [*there, *has]
        is_there = not answers.isdisjoint(map(id, there))
        if is_there and answers.isdisjoint(_answers_for(task, coroutines)):
            return task
    return None


def _thread_behind(frame: FrameType, threads: Mapping[int, Any], working: Sequence[int]) -> int:
    """Return the thread that is waited for: of anyio's own, or the one that works, or one of those
    that stand in the same function; else 0.
    """
    if frame.f_code.co_name == _ANYIO_S:  # Starlette's and FastAPI's functions that are sync
        return getattr(variable(frame, "worker"), "ident", None) or 0
    file = frame.f_code.co_filename
    if not (is_application(file) or file.endswith(_TO_THREAD)):
        return 0
    steps = ((each, own_step(of_frame(threads.get(each)))) for each in working)
    found = [*{step[0]: each for each, step in steps if step}.values()] or working
    return found[0] if len(found) == 1 else 0


def awaits(coroutine: Any) -> list[tuple[Any, FrameType]]:
    """Return the coroutines, each with its frame, that one has called, innermost last."""
    found: list[tuple[Any, FrameType]] = []
    for _ in range(_MOST_AWAITS):  # pragma: no branch - a bound
        kind = next((k for k in ("cr", "gi", "ag") if hasattr(coroutine, f"{k}_frame")), None)
        if kind is None:  # what ``__await__`` of a coroutine returns hides it
            inner = gc.get_referents(coroutine) if type(coroutine).__name__ in _HIDING else []
            coroutine = next((each for each in inner if type(each).__name__ in _AWAITED), None)
            if coroutine is None:
                break
            continue
        frame = getattr(coroutine, f"{kind}_frame")
        if frame is not None:  # pragma: no branch - it ends at this moment
            found.append((coroutine, frame))
        coroutine = getattr(coroutine, "gi_yieldfrom" if kind == "gi" else f"{kind}_await")
        if frame is not None and frame.f_code is _STEPPED:  # it yields by itself
            coroutine = variable(frame, "steps")
    return found


_TRIO: Final = f"{os.sep}trio{os.sep}_core{os.sep}_run.py"
_LEAVING: Final = re.compile(r"(BaseHTTPMiddleware|StreamingResponse)\.__call__(.*\.call_next)?$")
_CLOSING: Final = ".close_recv_stream_on_response_sent"  # of the oldest, which answers nothing
_ANYIO_S: Final = "run_sync_in_worker_thread"
#: Files of what waits for a thread: ``to_thread``, and what Django and Channels have for it.
_TO_THREAD: Final = f"{os.sep}asyncio{os.sep}threads.py", f"{os.sep}asgiref{os.sep}sync.py"
#: What asyncio tells of an executor's future that is cancelled.
_CHAINED: Final = "_chain_future.<locals>._call_check_cancel"
_HIDING: Final = frozenset(
    {"coroutine_wrapper", "async_generator_asend", "async_generator_athrow", "anext_awaitable"}
    | {"_RequestContextManager", "_BaseRequestContextManager"}  # aiohttp's
)
_AWAITED: Final = _HIDING | {"coroutine", "async_generator"}
_MOST_AWAITS: Final = 1_000
_STEPPED: Final = _wrap._stepped.__code__  # noqa: SLF001 - to be seen through, as no other is


def awaited(task: Any, coroutines: list[tuple[Any, FrameType]]) -> tuple[Any, list[Any]]:
    """Return the task that *task* waits for: of several that it needs the first that is not done;
    None, where it needs the first that will be. And all, which a function of asyncio's has.
    """
    future = getattr(task, "_fut_waiter", None)
    needed = _holding(coroutines) if _is_bare(future) else []
    for hop, there in enumerate(_hops(future, needed)):
        tasks = dict.fromkeys(e for e in there if isinstance(e, asyncio.Task) and e is not task)
        found = [each for each in tasks if not each.done()]
        if found:
            is_race = needed and variable(coroutines[-1][1], "return_when") == _FIRST
            is_one = hop == 0 or len(found) == 1 or (needed and not is_race)
            is_won = is_race and len(found) < len(tasks)  # it is about to go on
            return found[0] if is_one else None, [] if is_won else found
    return None, []


def _hops(future: Any, needed: Iterable[Any] = ()) -> Iterator[list[Any]]:
    """Yield *future*, or what it gathers, and what is *needed*; each time what that leads to."""
    there = [*(getattr(future, "_children", None) or [future]), *needed]
    for _ in range(_HOPS):
        there = [*there, *chain(*(list(each) for each in there if isinstance(each, _MANY)))]
        yield there
        groups = [e for e in there if (type(e).__module__, type(e).__name__) in _GROUPS]
        tasks = chain(*(tuple(group._tasks)[:1] for group in groups))  # noqa: SLF001
        kinds = ((e, isinstance(e, asyncio.Future) or type(e).__name__ in _HOLDING) for e in there)
        there = [*tasks, *gc.get_referents(*(each for each, leads_on in kinds if leads_on))]


def _is_bare(future: Any) -> bool:
    return isinstance(future, asyncio.Future) and not isinstance(future, asyncio.Task)


def _holding(coroutines: list[tuple[Any, FrameType]]) -> list[Any]:
    """Return what has the tasks that the innermost coroutine waits for, if that is asyncio's: it
    itself, or what ``as_completed`` has made.
    """
    if [frame.f_code.co_name for _, frame in coroutines[-2:-1]] == ["_wait_for_one"]:
        near = gc.get_referents(*(coroutine for coroutine, _ in coroutines[-3:-1]))
        return [each for each in near if type(each).__name__ in _COMPLETING]
    codes = [(coroutine, frame.f_code) for coroutine, frame in coroutines[-1:]]
    is_group = [code.co_qualname == "TaskGroup.__aexit__" for _, code in codes]  # else the root
    return [c for c, code in codes if code.co_filename.startswith(_ASYNCIO) or any(is_group)]


_GROUPS: Final = {(m, "TaskGroup") for m in ("asyncio.taskgroups", "anyio._backends._asyncio")}
_MANY: Final = (tuple, set, list)
_LARGE: Final = (dict, set, list, type, ModuleType, FunctionType)
_FIRST: Final = asyncio.FIRST_COMPLETED  # of several: which that is, nobody knows
#: Types of what ``as_completed`` makes; from Python 3.13 on it is the second.
_COMPLETING: Final = frozenset({"generator", "_AsCompletedIterator"})
#: And of what else leads from a future, or from a coroutine of asyncio's, to a task.
_HOLDING: Final = _COMPLETING | {"coroutine", "function", "cell", "tuple", "set", "list"}
_HOPS: Final = 5
_ASYNCIO: Final = f"{Path(asyncio.__file__).parent}{os.sep}"
RUNNING: Final = asyncio.BaseEventLoop.run_forever.__code__
_CALLING: Final = asyncio.Handle._run.__code__  # noqa: SLF001 - it has what it runs in
_CALLBACKS: Final = f"{os.sep}events.py"  # what calls one: it is in C, and has no frame
_SELECTORS: Final = selectors.__file__


def is_idle(steps: list[Step]) -> bool:
    """Say whether a loop, in no task, stands in nothing but itself: it waits for events."""
    file = steps[0][0].co_filename if steps else _SELECTORS
    return file == _SELECTORS or (file.startswith(_ASYNCIO) and not file.endswith(_CALLBACKS))


def context_of(task: Any) -> Context:
    """Return the context that *task* runs in; before Python 3.12 the collector alone knows it."""
    if hasattr(task, "get_context"):  # pragma: no cover - Python 3.12
        found: Context = task.get_context()
        return found
    return next((e for e in gc.get_referents(task) if type(e) is Context), Context())


def context_in(frame: FrameType | None) -> Context:
    """Return the context of the callback that asyncio runs in the thread with this stack."""
    found: Context = getattr(self_of(_CALLING, frame), "_context", Context())
    return found


def attributes(of: Any) -> Mapping[str, Any]:
    """Return the attributes that *of* itself has, unless it says by code of its own which."""
    kinds = (vars(kind).get("__dict__") for kind in type(of).__mro__)
    found = next((each for each in kinds if each is not None), None)
    return found.__get__(of) if type(found) is GetSetDescriptorType else {}


def _shown(step: Step) -> str:
    code, line = step
    name = code.co_qualname.rpartition("<locals>.")[2]
    return f"{name} ({code.co_filename.rpartition('/')[2]}:{line})"


def label(steps: list[Step]) -> str:
    """Return the innermost place of the application, and the library's that it is in: where that
    waits for a lock or a pool, or makes a connection for that, else the innermost.
    """
    own = own_step(steps)
    if not steps or steps[0] is own:
        return _shown(own) if own else ""
    inside = _shown(waits_for(steps)[1] or steps[0])
    return f"{_shown(own)} [in {inside}]" if own else inside


def stack(steps: list[Step]) -> str:
    """Return the application's own steps, innermost first; without any, those of libraries."""
    own = [step for step in steps if is_application(step[0].co_filename)]
    return "\n".join(
        f"{code.co_qualname} ({code.co_filename}:{line})" for code, line in (own or steps)[:_KEPT]
    )


def waits_for(steps: list[Step]) -> tuple[str | None, Step | None]:
    """Return the cause of a wait that a library is known for, and the step of that; else None."""
    connects = None
    for step in takewhile(lambda step: not is_application(step[0].co_filename), steps):
        code = step[0]
        if code.co_name in _ACQUIRING:
            named = "/".join((*Path(code.co_filename).parts[-2:], code.co_qualname))
            if not _POOLED.search(named):
                return LOCK if _LOCKED.search(named) else None, step
            return (DOWNSTREAM, connects) if connects else (POOL, step)
        if code.co_name == _GREENLET_S and steps[0][0] is _QUEUED:
            return POOL, None
        connects = step if "connect" in code.co_name else connects
    return None, None
