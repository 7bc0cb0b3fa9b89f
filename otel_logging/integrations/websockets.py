"""Servers made with the ``websockets`` library: a span of the handshake, and a trace a message.

Its asyncio server, new and legacy. The servers that are made of it (uvicorn) are ASGI's.
"""

import sys
from collections.abc import Awaitable, Callable
from typing import Any

from opentelemetry import context as otel_context

from otel_logging import _runtime
from otel_logging import context as bindings
from otel_logging.binding import NOTHING
from otel_logging.context import CURRENT
from otel_logging.integrations.asgi_message import current_task
from otel_logging.integrations.connection import Connection, sent
from otel_logging.integrations.http import Scope, inbound

_MODULES = {
    "websockets.asyncio.server": "ServerConnection",
    "websockets.legacy.server": "WebSocketServerProtocol",
}
_INTERNAL_ERROR = 1011  # how the library closes a connection whose handler has failed
#: Attribute of a connection: how its messages are observed.
_OBSERVED = "otel_logging_connection"
_replaced: list[tuple[Any, str, Any]] = []


def instrument() -> None:
    """Observe every server, also those that run already."""
    for module, name in _MODULES.items():
        kind: Any = getattr(sys.modules.get(module), name, None)
        if kind is not None and not any(owner is kind for owner, _, _ in _replaced):
            for method in [each for each in _METHODS if hasattr(kind, each)]:
                _replaced.append((kind, method, vars(kind).get(method)))
                setattr(kind, method, _METHODS[method](getattr(kind, method)))


def uninstrument() -> None:
    """Leave servers alone again."""
    while _replaced:
        owner, name, was = _replaced.pop()
        if was is None:
            delattr(owner, name)
        else:
            setattr(owner, name, was)


async def next_message(
    connection: Connection,
    receive: Callable[[], Awaitable[Any]],
    is_end: Callable[[Any], bool] = lambda _: False,
) -> Any:
    """Return what *receive* has next on *connection*: a message of a library's own form."""

    async def event() -> dict[str, Any]:
        message = await receive()
        kind = "websocket.disconnect" if is_end(message) else "websocket.receive"
        return {"type": kind, "message": message}

    return (await connection.next(event))["message"]


def _scope_of(connection: Any) -> Scope:
    request = getattr(connection, "request", None)
    headers = request.headers if request is not None else connection.request_headers
    path = request.path if request is not None else connection.path
    return {
        "method": "GET",
        "path": path.partition("?")[0],
        "scheme": "ws",
        "headers": [(k.lower().encode(), v.encode("latin-1")) for k, v in headers.raw_items()],
        "http_version": "1.1",
        "server": (connection.local_address or (None, None))[:2],
        "client": (connection.remote_address or (None, None))[:2],
    }


def _handshake(original: Any) -> Any:
    async def handshake(self: Any, *args: Any, **options: Any) -> Any:
        began_ns = _runtime.current.now_ns()
        result = await original(self, *args, **options)
        if _runtime.current.tracer is not None and not type(self).__module__.startswith("uvicorn."):
            scope = _scope_of(self)
            connection = Connection(scope)
            with inbound(scope) as links:
                connection.open(links, began_ns)
                here = CURRENT.get(), bindings.state()
            connection.accept()
            CURRENT.set(here[0])  # the task is this connection's alone
            bindings.restore(here[1])
            setattr(self, _OBSERVED, connection)
        return result

    return handshake


def _recv(original: Any) -> Any:
    def recv(self: Any, *args: Any, **options: Any) -> Any:
        connection = getattr(self, _OBSERVED, None)
        if connection is None:
            return original(self, *args, **options)
        return next_message(connection, lambda: original(self, *args, **options))

    return recv


def _send(original: Any) -> Any:
    async def send(self: Any, *args: Any, **options: Any) -> Any:
        await original(self, *args, **options)
        sent()

    return send


def _close(original: Any) -> Any:
    async def close(self: Any, code: int = 1000, reason: str = "") -> Any:
        await _end(self, code, reason)
        return await original(self, code, reason)

    return close


def _handler(original: Any) -> Any:
    async def handler(self: Any) -> None:
        await original(self)
        await _end(self, _INTERNAL_ERROR, "")  # the legacy one's does not close it then

    return handler


async def _end(self: Any, code: int, reason: str) -> None:
    connection: Connection | None = getattr(self, _OBSERVED, None)
    # a server that ends closes its connections, before their handlers have ended
    if connection is not None and current_task() is connection.task:
        delattr(self, _OBSERVED)
        told = getattr(self, "protocol", self)  # the legacy one is its protocol itself
        connection.code = told.close_code or code
        connection.reason = told.close_reason or reason
        await connection.close(sys.exception() if code == _INTERNAL_ERROR else None)
        if code == _INTERNAL_ERROR:  # the library's line about it is of where it has come from
            CURRENT.set(otel_context.Context())
            bindings.restore(NOTHING)


_METHODS = {
    "handshake": _handshake,
    "recv": _recv,
    "send": _send,
    "close": _close,
    "handler": _handler,
}
