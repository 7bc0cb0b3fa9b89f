"""What one integration has replaced in other people's classes, modules and signals.

In: an owner, the name of an attribute, and its replacement, which gets the original as its first
argument. Out: the originals back in place, when asked. Invariant: an attribute is replaced once,
until it is put back.
"""

import sys
from collections.abc import Callable
from functools import partial, update_wrapper
from types import MethodType
from typing import Any

#: A module, its class or "", a name in it, and the function that gets the original and its
#: arguments.
Method = tuple[str, str, str, Callable[..., Any]]


def is_instrumented(library: str, kind: str) -> bool:
    """Return whether OpenTelemetry's instrumentation of *library*, its class *kind*, is active."""
    theirs = sys.modules.get(f"opentelemetry.instrumentation.{library}")
    active = getattr(getattr(theirs, kind, None), "_instance", None)  # to call it would make one
    return bool(active and active.is_instrumented_by_opentelemetry)


class Replaced:
    """What is replaced, of *methods*, and *signals* with their receivers.

    Concurrency: the caller holds set-up's lock.
    """

    def __init__(
        self, *methods: Method, signals: dict[Any, Callable[..., Any]] | None = None
    ) -> None:
        self._methods, self._signals = methods, signals or {}
        self._undo: dict[tuple[Any, ...], Callable[[], object]] = {}

    def instrument(self) -> None:
        """Replace each method that is imported by now.

        Failure: raises ``AttributeError`` where a module has no such class.
        """
        for module, kind, name, act in self._methods:
            found = sys.modules.get(module)
            is_half_imported = getattr(getattr(found, "__spec__", None), "_initializing", False)
            if found is None or (is_half_imported and not hasattr(found, kind)):
                continue
            owner = getattr(found, kind) if kind else found
            if (owner, name) not in self._undo and hasattr(owner, name):
                undo = partial(delattr, owner, name)  # it is inherited
                if name in vars(owner):
                    undo = partial(setattr, owner, name, vars(owner)[name])
                self._undo[owner, name] = undo
                is_of_class = isinstance(method := getattr(owner, name), MethodType)
                method = method.__func__ if is_of_class else method
                instead = update_wrapper(_Instead(act, method), method)
                setattr(owner, name, classmethod(instead) if is_of_class else instead)
        for signal, receiver in self._signals.items():
            signal.connect(receiver)
            self._undo[signal,] = partial(signal.disconnect, receiver)

    def uninstrument(self) -> None:
        """Put everything back."""
        while self._undo:
            self._undo.popitem()[1]()

    def __bool__(self) -> bool:
        return bool(self._undo)


class _Instead(partial[Any]):
    """A function that gets what it replaces as its first argument; a method if it is looked up on
    an object.

    It looks like what it replaces: its kind of function (uvicorn and ``unittest.mock`` ask), its
    type, its arguments. It is a partial, because to call one costs no further call in Python.
    """

    def __get__(self, instance: Any, _: Any = None) -> Any:
        return self if instance is None else MethodType(self, instance)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__wrapped__, name)

    @property
    def func(self) -> Any:
        """What it replaces, for code that looks into a partial."""
        return self.__wrapped__

    @property  # type: ignore[misc]  # of an object it can be set
    def __class__(self) -> Any:
        return type(self.__wrapped__)
