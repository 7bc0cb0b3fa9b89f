"""Decorators of any callable: of functions, coroutine functions, generators, methods.

In: a callable, and what to call before and after it. Out: a callable of the same kind with the
same metadata. Invariant: the body of a generator runs in a ``contextvars`` Context of its own, so
that what it opens between two yields stays open for it and is never seen by its consumer.
Deliberately absent: what surrounds the call.
"""

import functools
import inspect
import sys
import types
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from contextvars import Context, copy_context
from typing import Any, TypeVar, cast

#: The type of any callable.
F = TypeVar("F", bound=Callable[..., Any])
_Enter = Callable[[Any], Any]
_Leave = Callable[[Any, BaseException | None], object]
_InLine = Callable[[Any, Any], Any] | None


def wrap(function: F, enter: _Enter, leave: _Leave, of: Any, in_line: _InLine = None) -> F:
    """Return *function* so that each call runs between ``entered = enter(of)`` and
    ``leave(entered, error)``, neither of which may raise.

    Generators are inside from their first step until they are closed, and only
    while their own code runs. ``classmethod`` and ``staticmethod`` objects are
    wrapped around what they hold. *in_line*: returns a plain function, and *of*, with both calls
    written into it.
    """
    if isinstance(function, (classmethod, staticmethod)):
        return cast(F, type(function)(wrap(function.__func__, enter, leave, of, in_line)))
    wrapper: Any
    if (kind := _kind_of(function)) == "coroutine":

        async def wrapper(*args: Any, **kwargs: Any) -> Any:
            entered = enter(of)
            try:
                result = await function(*args, **kwargs)
            except BaseException as error:
                leave(entered, error)
                raise
            leave(entered, None)
            return result

    elif kind == "function" and in_line is not None:
        wrapper = in_line(function, of)
    elif kind == "function":

        def wrapper(*args: Any, **kwargs: Any) -> Any:
            entered = enter(of)
            try:
                result = function(*args, **kwargs)
            except BaseException as error:
                leave(entered, error)
                raise
            leave(entered, None)
            return result

    else:
        wrapper = wrap_in_context(function, copy_context, enter, leave, of)
    return _named(wrapper, function)


def _named(wrapper: Any, function: F) -> F:
    """Return *wrapper* with the metadata of *function*, which may be any callable."""
    functools.update_wrapper(wrapper, function)
    if isinstance(function, (types.FunctionType, types.MethodType)):
        return cast(F, wrapper)
    named: Any = function
    while isinstance(named, functools.partial):  # it may be a partial of a partial
        named = named.func
    qualified = getattr(named, "__qualname__", named.__class__.__qualname__)
    wrapper.__qualname__ = qualified
    wrapper.__name__ = getattr(named, "__name__", qualified.rpartition(".")[2])
    for name in dir(function):
        found = inspect.getattr_static(function, name, None)  # static: a property may do anything
        if not name.startswith("_") and (callable(found) or isinstance(found, classmethod)):
            setattr(wrapper, name, getattr(function, name))
    return cast(F, wrapper)


def wrap_in_context(
    function: F, begin: Callable[[], Context], enter: _Enter, leave: _Leave, of: Any = None
) -> F:
    """Return *function* so that each call, with every step of it, runs in ``begin()``, a Context,
    between *enter* and *leave* as ``wrap`` says.
    """
    inside = functools.partial(_Inside, begin, enter, leave, of)
    wrapper: Any
    if (kind := _kind_of(function)) == "coroutine":

        async def wrapper(*args: Any, **kwargs: Any) -> Any:
            with inside() as own:
                return await _within(own, own.run(function, *args, **kwargs))

    elif kind == "function":

        def wrapper(*args: Any, **kwargs: Any) -> Any:
            with inside() as own:
                return own.run(function, *args, **kwargs)

    elif kind == "generator":

        def wrapper(*args: Any, **kwargs: Any) -> Any:
            with inside() as own:
                return (yield from _stepped(own, own.run(function, *args, **kwargs)))

    else:
        wrapper = _async_generator(function, inside)
    return _named(wrapper, function)


def _async_generator(function: Any, inside: Callable[[], "_Inside"]) -> Any:
    async def wrapper(*args: Any, **kwargs: Any) -> Any:
        with inside() as own:
            steps = own.run(function, *args, **kwargs)
            step: Any = functools.partial(_first_step, steps)
            value: Any = None
            while True:
                try:
                    item = await _within(own, step(value))
                except StopAsyncIteration:
                    return
                finally:
                    value = None  # an exception must not hold the frame that it holds
                try:
                    value = yield item
                    step = steps.asend
                except GeneratorExit:
                    await _within(own, steps.aclose())
                    raise
                except BaseException as thrown:
                    step, value = steps.athrow, thrown

    return wrapper


def _first_step(steps: AsyncGenerator[Any, Any], _: None) -> Awaitable[Any]:
    """Begin the inner generator, unseen by the event loop, which knows the outer one.

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
    # an object is of the kind of its __call__
    for candidate in (function, type(function).__call__):
        if inspect.isasyncgenfunction(candidate):
            return "async generator"
        if inspect.isgeneratorfunction(candidate):
            return "generator"
        if inspect.iscoroutinefunction(candidate):
            return "coroutine"
    return "function"


class _Inside:
    """Between *enter* and *leave*, both called in ``begin()``, whoever runs the ``with`` block."""

    def __init__(self, begin: Callable[[], Context], enter: _Enter, leave: _Leave, of: Any) -> None:
        self._own, self._leave = begin(), leave
        self._entered = self._own.run(enter, of)

    def __enter__(self) -> Context:
        return self._own

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        self._own.run(self._leave, self._entered, error)


@types.coroutine
def _within(own: Context, awaitable: Awaitable[Any]) -> Generator[Any, Any, Any]:
    """Await *awaitable* with every step of it run inside the Context *own*."""
    return (yield from _stepped(own, awaitable.__await__()))


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
