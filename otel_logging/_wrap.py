"""A ``with`` block as a decorator of any callable: function, coroutine, generator, method.

In: a callable, and a function that makes a fresh context manager a call. Out:
a callable of the same kind with the same metadata. Invariant: the body of a
generator runs in a ``contextvars`` Context of its own, so that what it opens
between two yields stays open for it and is never seen by whoever consumes it.
Deliberately absent: what the context manager does.
"""

import functools
import inspect
import sys
import types
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from contextlib import AbstractContextManager, nullcontext
from contextvars import Context, copy_context
from typing import Any, Final, TypeVar, cast

_F = TypeVar("_F", bound=Callable[..., Any])


def wrap(
    function: _F,
    enter: Callable[[Any], Any],
    leave: Callable[[Any, BaseException | None], object],
    of: Any,
    *,
    later: bool = False,
) -> _F:
    """Return *function* so that each call runs between ``entered = enter(of)`` and
    ``leave(entered, error)``, neither of which may raise.

    Generators are inside from their first step until they are closed, and only
    while their own code runs. ``classmethod`` and ``staticmethod`` objects are
    wrapped around what they hold. *later*: a coroutine or generator that a plain
    function returns is inside as well, entered and left on its own.
    """
    if isinstance(function, (classmethod, staticmethod)):
        return cast(_F, type(function)(wrap(function.__func__, enter, leave, of, later=later)))
    wrapper = _around(function, _kind_of(function), enter, leave, of, later=later)
    if not isinstance(function, (types.FunctionType, types.MethodType)):
        _put_on(wrapper, function)
    return wrapper


def wrap_in(function: _F, make: Callable[[], AbstractContextManager[Any]]) -> _F:
    """Return *function* so that each call runs inside ``with make():``."""
    return wrap(function, _enter, _leave, make)


def _enter(make: Callable[[], AbstractContextManager[Any]]) -> AbstractContextManager[Any]:
    manager = make()
    manager.__enter__()
    return manager


def _leave(manager: AbstractContextManager[Any], error: BaseException | None) -> None:
    kind = None if error is None else type(error)
    manager.__exit__(kind, error, None if error is None else error.__traceback__)


def _around(
    function: _F,
    kind: str,
    enter: Callable[[Any], Any],
    leave: Callable[[Any, BaseException | None], object],
    of: Any,
    *,
    later: bool = False,
) -> _F:
    if kind == "coroutine":

        @functools.wraps(function)
        async def coroutine(*args: Any, **kwargs: Any) -> Any:
            entered = enter(of)
            try:
                result = await function(*args, **kwargs)
            except BaseException as error:
                leave(entered, error)
                raise
            leave(entered, None)
            return result

        return cast(_F, coroutine)

    if kind == "function":

        @functools.wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            entered = enter(of)
            try:
                result = function(*args, **kwargs)
            except BaseException as error:
                leave(entered, error)
                raise
            leave(entered, None)
            return _result_around(result, enter, leave, of) if later else result

        return cast(_F, call)

    return _generator_around(function, kind, copy_context, lambda: _Between(enter, leave, of))


class _Between:
    """The same as a ``with`` block."""

    def __init__(self, enter: Any, leave: Any, of: Any) -> None:
        self._enter, self._leave, self._of = enter, leave, of

    def __enter__(self) -> None:
        self._entered = self._enter(self._of)

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        self._leave(self._entered, error)


#: What a call may return that is still to run; each has the name of what made it.
_LATER: Final[dict[type, str]] = {
    types.CoroutineType: "coroutine",
    types.GeneratorType: "generator",
    types.AsyncGeneratorType: "async generator",
}


def _result_around(result: Any, enter: Any, leave: Any, of: Any) -> Any:
    kind = _LATER.get(type(result))
    if kind == "coroutine" and inspect.getcoroutinestate(result) != inspect.CORO_CREATED:
        return result  # it runs for somebody already
    if kind == "generator" and _is_awaitable(result.gi_code):
        kind = "generator coroutine"
    if kind is None:
        return result
    outer: Any = _around(_Given(result), kind, enter, leave, of)()
    outer.__name__, outer.__qualname__ = result.__name__, result.__qualname__
    return outer


class _Given:
    """A function of what there is already."""

    __slots__ = ("_result",)

    def __init__(self, result: Any) -> None:
        self._result = result

    def __call__(self) -> Any:
        return self._result

    def __del__(self) -> None:
        # a coroutine that ended before its first step: Python is to complain of the outer one alone
        ours = sys.getrefcount(self._result) <= 2  # this object, and that call
        if ours and isinstance(self._result, types.CoroutineType):
            self._result.close()


def _put_on(wrapper: Any, function: Any) -> None:
    """Give *wrapper* what ``functools.wraps`` does not find on what is no function."""
    named = _unwrapped(function)
    qualified = getattr(named, "__qualname__", named.__class__.__qualname__)
    wrapper.__qualname__ = qualified
    wrapper.__name__ = getattr(named, "__name__", qualified.rpartition(".")[2])
    for name in dir(function):
        found = inspect.getattr_static(function, name, None)  # a property may do anything
        if not name.startswith("_") and (callable(found) or isinstance(found, classmethod)):
            setattr(wrapper, name, getattr(function, name))


def run_in_context(function: _F, begin: Callable[[], Context]) -> _F:
    """Return *function* so that each call, and every step of it, runs in ``begin()``."""
    kind = _kind_of(function)

    if kind == "coroutine":

        @functools.wraps(function)
        async def coroutine(*args: Any, **kwargs: Any) -> Any:
            own = begin()
            return await _Within(own, own.run(function, *args, **kwargs))

        return cast(_F, coroutine)

    if kind == "function":

        @functools.wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            return begin().run(function, *args, **kwargs)

        return cast(_F, call)

    return _generator_around(function, kind, begin, nullcontext)


def _generator_around(
    function: _F,
    kind: str,
    begin: Callable[[], Context],
    make: Callable[[], AbstractContextManager[Any]],
) -> _F:
    if kind != "async generator":

        @functools.wraps(function)
        def generator(*args: Any, **kwargs: Any) -> Any:
            own = begin()
            with _Entered(own, make()):
                return (yield from _stepped(own, own.run(function, *args, **kwargs)))

        # which marks it as one to be awaited
        return cast(_F, types.coroutine(generator) if kind == "generator coroutine" else generator)

    @functools.wraps(function)
    async def async_generator(*args: Any, **kwargs: Any) -> Any:
        own = begin()
        with _Entered(own, make()):
            steps = own.run(function, *args, **kwargs)
            step: Any = functools.partial(_first_step, steps)
            value: Any = None
            while True:
                try:
                    item = await _Within(own, step(value))
                except StopAsyncIteration:
                    return
                finally:
                    value = None  # an exception must not hold the frame that it holds
                try:
                    value = yield item
                    step = steps.asend
                except GeneratorExit:
                    await _Within(own, steps.aclose())
                    raise
                except BaseException as thrown:
                    step, value = steps.athrow, thrown

    return cast(_F, async_generator)


def _first_step(steps: AsyncGenerator[Any, Any], _: None) -> Awaitable[Any]:
    """Begin the inner generator unseen by the event loop, which knows the outer one.

    At its end a loop closes all generators that it knows, at once: the inner one
    would be closed by the loop while the outer one closes it, which is an error.
    """
    hooks = sys.get_asyncgen_hooks()
    sys.set_asyncgen_hooks(None, None)
    try:
        return steps.asend(None)
    finally:
        sys.set_asyncgen_hooks(*hooks)


def _kind_of(function: Callable[..., Any]) -> str:
    # an instance with a __call__ is of the kind of its __call__
    call = function if _is_function(function) else getattr(function, "__call__", function)  # noqa: B004
    for candidate in (function, call):
        if inspect.isasyncgenfunction(candidate):
            return "async generator"
        if inspect.isgeneratorfunction(candidate):
            code = _unwrapped(candidate).__code__
            return "generator coroutine" if _is_awaitable(code) else "generator"
        if inspect.iscoroutinefunction(candidate):
            return "coroutine"
    return "function"


def _unwrapped(function: Any) -> Any:
    """Return what a partial, of however many, is of."""
    while isinstance(function, functools.partial):
        function = function.func
    return function


def _is_awaitable(code: types.CodeType) -> bool:
    """Say whether a generator's *code* is a coroutine by ``types.coroutine``."""
    return bool(code.co_flags & inspect.CO_ITERABLE_COROUTINE)


def _is_function(function: object) -> bool:
    return inspect.isroutine(function) or inspect.isclass(function)


class _Entered:
    """A context manager entered and left inside *own*, whoever runs the ``with``."""

    def __init__(self, own: Context, manager: AbstractContextManager[Any]) -> None:
        self._own, self._manager = own, manager

    def __enter__(self) -> None:
        self._own.run(self._manager.__enter__)

    def __exit__(self, *error: Any) -> bool | None:
        return self._own.run(self._manager.__exit__, *error)


class _Within:
    """Await *awaitable* with every step of it run inside the Context *own*."""

    __slots__ = ("_awaitable", "_own")

    def __init__(self, own: Context, awaitable: Awaitable[Any]) -> None:
        self._own, self._awaitable = own, awaitable

    def __await__(self) -> Generator[Any, Any, Any]:
        return _stepped(self._own, self._awaitable.__await__())


def _stepped(own: Context, steps: Any) -> Generator[Any, Any, Any]:
    """Drive a generator, or a coroutine's steps, each step inside the Context *own*."""
    step, value = steps.send, None
    while True:
        try:
            item = own.run(step, value)
        except StopIteration as stop:
            return stop.value
        finally:
            value = None  # an exception must not hold the frame that it holds
        try:
            value = yield item
            step = steps.send
        except GeneratorExit:
            own.run(steps.close)
            raise
        except BaseException as thrown:
            step, value = steps.throw, thrown
