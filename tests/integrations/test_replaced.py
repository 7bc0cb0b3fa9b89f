"""What takes the place of a library's method answers whatever it is asked as that one does."""

import asyncio
import inspect
from importlib import import_module
from typing import Any
from unittest.mock import MagicMock, create_autospec

import pytest
from fastapi import WebSocket

from otel_logging import _names
from otel_logging.integrations import asgi
from otel_logging.integrations.replaced import Replaced


def signature(of: Any) -> Any:
    """Return with which arguments a function is called; of a class in C nobody knows."""
    return None if inspect.isclass(of) else inspect.signature(of)


#: What importing changes for the whole process: twisted's loop, green threads.
_LEFT_OUT = ("daphne.server", "eventlet.wsgi")
_ASKED = (
    *(inspect.iscoroutinefunction, inspect.isgeneratorfunction, inspect.isasyncgenfunction),
    *(inspect.isfunction, inspect.isclass, signature),
    *(lambda it, name=name: getattr(it, name) for name in ("__name__", "__qualname__", "__doc__")),
    *(lambda it: it.__module__, asyncio.iscoroutinefunction),
)


def found(method: Any) -> Any:
    """Return what is there; None where this version of the library has none."""
    module, kind, name, _ = method
    try:
        owner: Any = None if module in _LEFT_OUT else import_module(module)
    except ImportError:
        return None
    return getattr(getattr(owner, kind, None) if kind else owner, name, None)


@pytest.mark.filterwarnings("ignore:websockets.legacy is deprecated")
@pytest.mark.filterwarnings("ignore:The `websockets` implementation is deprecated")
@pytest.mark.parametrize("name", sorted(set(_names.INTEGRATIONS) - {"clients"}))
def test_it_answers_as_what_it_replaces(name: str) -> None:
    module = import_module(f"otel_logging.integrations.{name}")
    all_of_it = [each for each in vars(module).values() if isinstance(each, Replaced)]
    methods = [each for one in all_of_it for each in one._methods]
    module.uninstrument()  # where another test has left it on
    before = [found(method) for method in methods]
    answers = [[ask(each) for ask in _ASKED] for each in before if each is not None]
    module.instrument()
    try:
        now = [found(method) for method in methods]
        assert [[ask(each) for ask in _ASKED] for each in now if each is not None] == answers
        assert all(one is not other for one, other in zip(before, now, strict=True) if one)
    finally:
        module.uninstrument()
    assert [found(method) for method in methods] == before


def test_a_handler_is_tested_with_a_mock_of_its_socket() -> None:
    async def handler(socket: WebSocket) -> str:
        return await socket.receive_text()

    asgi.instrument()
    try:
        for socket in (MagicMock(spec=WebSocket), create_autospec(WebSocket, instance=True)):
            socket.receive_text.return_value = "hi"
            assert asyncio.run(handler(socket)) == "hi"
        with pytest.raises(TypeError, match="unexpected"):
            socket.receive_text(patience=1)
    finally:
        asgi.uninstrument()
