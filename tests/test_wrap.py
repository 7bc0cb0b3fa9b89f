"""A ``with`` block as a decorator: same kind of callable, same behaviour, all of the time."""

import asyncio
import contextlib
import contextvars
import functools
import gc
import inspect
import weakref
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Generator, Iterator
from types import TracebackType
from typing import Any

import pytest

from otel_logging import carry
from otel_logging._wrap import wrap, wrap_in_context

where: contextvars.ContextVar[str] = contextvars.ContextVar("where", default="outside")


class Inside:
    """A context manager that can be seen, and that notes how it was left."""

    def __init__(self) -> None:
        self.left: list[Any] = []

    def __enter__(self) -> None:
        where.set("inside")

    def __exit__(
        self, kind: Any, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert where.get() == "inside"
        where.set("outside")
        self.left.append(kind)


@pytest.fixture(autouse=True)
def manager() -> Inside:
    where.set("outside")
    return Inside()


def run_in_context(function: Any, begin: Any) -> Any:
    return wrap_in_context(function, begin, lambda _: None, lambda *_: None)


def decorated(manager: Inside, function: Any) -> Any:
    def leave(_: None, error: BaseException | None) -> None:
        manager.__exit__(error and type(error), error, None)

    return wrap(function, lambda _: manager.__enter__(), leave, None)


# ---------------------------------------------------------------- kinds and metadata


def plain_function(a: int, /, b: str = "b", *c: Any, d: Any, **e: Any) -> Any:
    """Its docstring."""
    return a, b, c, d, e


async def coroutine_function(a: int) -> str:
    return where.get()


def generator_function(a: int) -> Iterator[int]:
    yield a


async def async_generator_function(a: int) -> AsyncIterator[int]:
    yield a


@pytest.mark.parametrize(
    "function",
    [plain_function, coroutine_function, generator_function, async_generator_function],
)
@pytest.mark.parametrize("in_context", [False, True])
def test_kind_name_and_signature_stay(function: Any, *, in_context: bool) -> None:
    """Frameworks look at them."""
    if in_context:
        result = run_in_context(function, contextvars.copy_context)
    else:
        result = decorated(Inside(), function)
    assert result.__name__ == function.__name__
    assert result.__doc__ == function.__doc__
    assert inspect.signature(result) == inspect.signature(function)
    for kind in (
        inspect.iscoroutinefunction,
        inspect.isgeneratorfunction,
        inspect.isasyncgenfunction,
    ):
        assert kind(result) == kind(function)


def test_arguments_and_results_pass(manager: Inside) -> None:
    """Of every sort, whatever they are called."""
    result = decorated(manager, plain_function)(1, "2", 3, d=4, function=5, self=6)
    assert result == (1, "2", (3,), 4, {"function": 5, "self": 6})
    assert manager.left == [None]


def test_exceptions_pass_through_the_manager(manager: Inside) -> None:
    """It is told of them."""

    def fails() -> None:
        raise KeyError

    async def fails_later() -> None:
        await asyncio.sleep(0)
        raise LookupError

    with pytest.raises(KeyError):
        decorated(manager, fails)()
    with pytest.raises(LookupError):
        asyncio.run(decorated(manager, fails_later)())
    assert manager.left == [KeyError, LookupError]


def test_each_kind_of_method_can_be_decorated(manager: Inside) -> None:
    """The decorator may stand on either side of ``classmethod`` and ``staticmethod``."""
    decorate = functools.partial(decorated, manager)

    class Sorts(ABC):
        @decorate
        def method(self) -> str:
            return where.get()

        @decorate
        @classmethod
        def outer_class(cls) -> str:
            return where.get()

        @classmethod
        @decorate
        def inner_class(cls) -> str:
            return where.get()

        @decorate
        @staticmethod
        def outer_static() -> str:
            return where.get()

        @decorate
        @abstractmethod
        def to_be_done(self) -> None: ...

    class Whole(Sorts):
        def to_be_done(self) -> None: ...

    found = Whole()
    assert found.method() == found.outer_class() == found.inner_class() == "inside"
    assert found.outer_static() == "inside"
    assert inspect.isabstract(Sorts)


def test_callables_that_are_no_functions(manager: Inside) -> None:
    """Partials, bound methods, instances with an async ``__call__``, classes."""

    class Handler:
        async def __call__(self) -> str:
            return where.get()

        async def handle(self) -> str:
            return where.get()

    for target in (Handler(), Handler().handle, functools.partial(coroutine_function, 1)):
        result = decorated(manager, target)
        assert inspect.iscoroutinefunction(result)
        assert asyncio.run(result()) == "inside"
    assert isinstance(decorated(manager, Handler)(), Handler)


def test_what_is_no_function_keeps_its_name_and_its_methods(manager: Inside) -> None:
    """A scheduler shows the one; ``cache_clear`` is the other. A property is not looked at."""

    class Job:
        count = 3

        def __call__(self) -> str:
            return where.get()

        def stop(self) -> "Job":
            return self

        @classmethod
        def make(cls) -> "Job":
            return cls()

        @property
        def connection(self) -> None:
            raise AssertionError("opened")

    job = Job()
    result = decorated(manager, job)
    assert (result.__name__, result.__qualname__) == ("Job", Job.__qualname__)
    assert (result(), result.stop()) == ("inside", job)
    assert isinstance(result.make(), Job)
    assert not hasattr(result, "connection")
    twice = functools.partial(functools.partial(plain_function, 1), 2)
    assert decorated(manager, twice).__qualname__ == "plain_function"
    cached = functools.lru_cache(where.get)
    assert decorated(manager, cached).cache_clear == cached.cache_clear
    assert decorated(manager, [].append).__qualname__ == "list.append"
    carried = carry(job)
    assert (carried.__name__, carried.stop()) == ("Job", job)
    assert carry(twice).__qualname__ == "plain_function"


# ---------------------------------------------------------------- generators


def test_a_generator_is_inside_while_its_own_code_runs(manager: Inside) -> None:
    """From its first step until it is closed, and its consumer never is."""

    def numbers() -> Generator[Any, Any, str]:
        received = yield where.get()
        yield (where.get(), received)
        return "done"

    steps = decorated(manager, numbers)()
    where.set("consumer")
    assert next(steps) == "inside"
    assert where.get() == "consumer"
    assert steps.send("sent") == ("inside", "sent")
    with pytest.raises(StopIteration) as stop:
        next(steps)
    assert stop.value.value == "done"
    assert manager.left == [None]


def test_a_generator_that_is_never_begun_is_never_inside(manager: Inside) -> None:
    """Nor is one that is closed before its first step."""
    steps = decorated(manager, generator_function)(1)
    steps.close()
    assert manager.left == []


def test_what_a_generators_body_sets_stays_inside(manager: Inside) -> None:
    """From step to step, and after the end."""
    own = contextvars.ContextVar("own", default=0)

    def counting() -> Iterator[int]:
        while own.get() < 3:
            own.set(own.get() + 1)
            yield own.get()

    assert [(step, own.get()) for step in decorated(manager, counting)()] == [
        (1, 0),
        (2, 0),
        (3, 0),
    ]


def test_throwing_into_a_generator(manager: Inside) -> None:
    """It may catch it, and go on, or not."""

    def stubborn() -> Iterator[str]:
        try:
            yield "first"
        except KeyError:
            yield where.get()

    steps = decorated(manager, stubborn)()
    next(steps)
    assert steps.throw(KeyError("k")) == "inside"
    with pytest.raises(ZeroDivisionError):
        steps.throw(ZeroDivisionError)
    assert manager.left == [ZeroDivisionError]


def test_stop_iteration_inside_a_generator_is_an_error(manager: Inside) -> None:
    """As Python has it (PEP 479): thrown in or raised there."""

    def stops() -> Iterator[int]:
        yield 1
        raise StopIteration("mine")

    steps = decorated(manager, stops)()
    next(steps)
    with pytest.raises(RuntimeError, match="StopIteration"):
        next(steps)
    steps = decorated(manager, generator_function)(1)
    next(steps)
    with pytest.raises(RuntimeError, match="StopIteration"):
        steps.throw(StopIteration())


def test_closing_a_generator_half_way(manager: Inside) -> None:
    """Its ``finally`` runs inside; one that goes on is an error, as always."""
    seen: list[str] = []

    def tidy() -> Iterator[int]:
        try:
            yield 1
        finally:
            seen.append(where.get())

    def refuses() -> Iterator[int]:
        try:
            yield 1
        except GeneratorExit:
            yield 2

    steps = decorated(manager, tidy)()
    next(steps)
    steps.close()
    assert seen == ["inside"]
    assert manager.left == [GeneratorExit]
    steps = decorated(manager, refuses)()
    next(steps)
    with pytest.raises(RuntimeError, match="ignored GeneratorExit"):
        steps.close()


def test_delegating_to_a_decorated_generator(manager: Inside) -> None:
    """``yield from`` gets the return value."""

    def inner() -> Generator[int, None, str]:
        yield 1
        return "value"

    def outer() -> Iterator[Any]:
        result = yield from decorated(manager, inner)()
        yield result

    assert list(outer()) == [1, "value"]


def test_an_unfinished_generator_is_closed_with_its_last_reference(manager: Inside) -> None:
    """At once: nothing holds it but its consumer, also after an exception was thrown in."""

    def endless() -> Iterator[int]:
        while True:
            with contextlib.suppress(KeyError):
                yield 1

    gc.disable()
    try:
        steps = decorated(manager, endless)()
        next(steps)
        steps.throw(KeyError("k"))
        gone = weakref.ref(steps)
        del steps
        assert gone() is None
    finally:
        gc.enable()
    assert manager.left == [GeneratorExit]


# ---------------------------------------------------------------- async generators


def test_an_async_generator_is_inside_while_its_own_code_runs(manager: Inside) -> None:
    """Across its awaits; ``asend`` and ``athrow`` reach it."""

    async def numbers() -> Any:
        received = yield where.get()
        await asyncio.sleep(0)
        try:
            yield (where.get(), received)
        except KeyError:
            await asyncio.sleep(0)
            yield "caught " + where.get()

    async def main() -> None:
        steps = decorated(manager, numbers)()
        where.set("consumer")
        assert await anext(steps) == "inside"
        assert where.get() == "consumer"
        assert await steps.asend("sent") == ("inside", "sent")
        assert await steps.athrow(KeyError("k")) == "caught inside"
        assert [item async for item in steps] == []
        assert where.get() == "consumer"

    asyncio.run(main())
    assert manager.left == [None]


def test_exceptions_of_an_async_generator(manager: Inside) -> None:
    """Raised there or thrown in and not caught."""

    async def fails() -> AsyncIterator[int]:
        yield 1
        raise LookupError

    async def main() -> None:
        with pytest.raises(LookupError):
            async for _ in decorated(manager, fails)():
                pass
        steps = decorated(manager, async_generator_function)(1)
        await anext(steps)
        with pytest.raises(ZeroDivisionError):
            await steps.athrow(ZeroDivisionError())

    asyncio.run(main())
    assert manager.left == [LookupError, ZeroDivisionError]


async def tidy(seen: list[str]) -> AsyncIterator[int]:
    try:
        yield 1
        yield 2
    finally:
        await asyncio.sleep(0)
        seen.append(where.get())


def test_an_async_generator_closed_from_elsewhere(manager: Inside) -> None:
    """In another task, with a context of its own: the end runs inside all the same."""
    seen: list[str] = []

    async def main() -> None:
        steps = decorated(manager, tidy)(seen)
        await asyncio.create_task(anext(steps))
        where.set("who closes")
        await asyncio.create_task(steps.aclose())
        assert where.get() == "who closes"

    asyncio.run(main())
    assert seen == ["inside"]
    assert manager.left == [GeneratorExit]


def run_reporting(main: Any) -> list[dict[str, Any]]:
    """Run *main* and return what the event loop had to complain of."""
    reported: list[dict[str, Any]] = []
    with asyncio.Runner() as runner:
        runner.get_loop().set_exception_handler(lambda _, context: reported.append(context))
        runner.run(main())
    return reported


def test_an_async_generator_that_is_thrown_away(manager: Inside) -> None:
    """The event loop closes it, inside."""
    seen: list[str] = []

    async def main() -> None:
        steps = decorated(manager, tidy)(seen)
        await anext(steps)
        del steps
        gc.collect()
        while not seen:
            await asyncio.sleep(0)

    assert run_reporting(main) == []
    assert seen == ["inside"]


def test_an_async_generator_that_is_left_when_the_loop_ends(manager: Inside) -> None:
    """The loop closes it once: the inner generator is not closed beside the outer one."""
    seen: list[str] = []
    left: list[Any] = []

    async def main() -> None:
        left.append(decorated(manager, tidy)(seen))
        await anext(left[0])

    assert run_reporting(main) == []
    assert seen == ["inside"]
    assert manager.left == [GeneratorExit]


def test_a_cancelled_step_of_an_async_generator(manager: Inside) -> None:
    """The cancellation arrives where it awaits."""
    seen: list[str] = []

    async def waits() -> AsyncIterator[int]:
        try:
            await asyncio.Event().wait()
            yield 1
        except asyncio.CancelledError:
            seen.append(where.get())
            raise

    async def main() -> None:
        task = asyncio.ensure_future(anext(decorated(manager, waits)()))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    assert seen == ["inside"]
    assert manager.left == [asyncio.CancelledError]


# ---------------------------------------------------------------- inside a context


def test_every_step_runs_in_the_given_context() -> None:
    """A function, a coroutine with its awaits, its cancellation and its early end."""
    own = contextvars.copy_context()
    own.run(where.set, "own")
    seen: list[str] = []

    async def waits() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            seen.append(where.get())

    async def main() -> None:
        task = asyncio.create_task(run_in_context(waits, own.copy)())
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    assert run_in_context(where.get, own.copy)() == "own"
    asyncio.run(main())
    coroutine = run_in_context(coroutine_function, own.copy)(1)
    with pytest.raises(StopIteration, match="own"):
        coroutine.send(None)

    async def never_ends() -> None:
        await asyncio.sleep(0)
        await waits()

    early = run_in_context(never_ends, own.copy)()
    early.send(None)
    early.close()
    assert seen == ["own"]
    assert where.get() == "outside"
