"""Servers made with the ``websockets`` library: a span of the handshake, and a trace a message.

Its asyncio server, new and legacy. The servers that are made of it (uvicorn) are ASGI's.
"""

import sys
from collections.abc import Awaitable
from typing import Any

from otel_logging import _runtime, tracing
from otel_logging.handover import Turns
from otel_logging.integrations.http import Request, Scope, inbound

_MODULES = {
    "websockets.asyncio.server": "ServerConnection",
    "websockets.legacy.server": "WebSocketServerProtocol",
}
#: Attribute of a connection: how its messages are observed.
_MESSAGES = "otel_logging_messages"
_replaced: list[tuple[Any, str, Any]] = []


class Messages:
    """The messages of one connection: each is a trace, linked to the connection's span."""

    def __init__(self, span: Any, attributes: dict[str, Any]) -> None:
        self._turns = Turns("message")
        self._stage = tracing.traced(
            "message", root=True, kind="server", links=(span,), attributes=attributes
        )

    def receive(self, receiving: Awaitable[Any]) -> Awaitable[Any]:
        """Return what is *receiving* the next message, which begins a trace."""
        self._turns.ask()
        return self._begin(receiving)

    async def _begin(self, receiving: Awaitable[Any]) -> Any:
        message = await receiving
        self._turns.begin(self._stage)
        return message


def instrument() -> None:
    """Observe every server, also those that run already."""
    for module, name in _MODULES.items():
        kind: Any = getattr(sys.modules.get(module), name, None)
        if kind is not None and not any(owner is kind for owner, _, _ in _replaced):
            for method, make in (("handshake", _handshake), ("recv", _recv)):
                _replaced.append((kind, method, vars(kind).get(method)))
                setattr(kind, method, make(getattr(kind, method)))


def uninstrument() -> None:
    """Leave servers alone again."""
    while _replaced:
        owner, name, was = _replaced.pop()
        if was is None:
            delattr(owner, name)
        else:
            setattr(owner, name, was)


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
            with inbound(scope) as links:
                request = Request(scope, links, verb="WS")
                request.begin(began_ns)
                request.status, request.is_complete = 101, True
                request.end(None, None)
            setattr(self, _MESSAGES, Messages(request.span, {"url.path": scope["path"]}))
        return result

    return handshake


def _recv(original: Any) -> Any:
    def recv(self: Any, *args: Any, **options: Any) -> Any:
        messages = getattr(self, _MESSAGES, None)
        receiving = original(self, *args, **options)
        return receiving if messages is None else messages.receive(receiving)

    return recv
