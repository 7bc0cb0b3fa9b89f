"""One WebSocket connection of an ASGI server.

In: scope, and what application and server say to each other. Out: a ``Connection``. Invariant: an
application sees what it would see without us, with at most so many messages read ahead.
Deliberately absent: what is a trace (``connection``), HTTP (``asgi_http``).
"""

import sys
from collections.abc import Awaitable
from typing import Any

from otel_logging import _runtime
from otel_logging._failures import CLOSED_FOR_FAILURE
from otel_logging.binding import worker
from otel_logging.context import Here
from otel_logging.integrations.asgi_ahead import ReadAhead
from otel_logging.integrations.asgi_http import App, Event, Receive, Send, answered, handled
from otel_logging.integrations.asgi_message import closes
from otel_logging.integrations.connection import Connection, sent
from otel_logging.integrations.http import Scope


async def serve(app: App, scope: Scope, receive: Receive, send: Send, read_ahead: int) -> None:
    """Serve one connection."""
    before = Here.now()
    connection = _Connection(receive, send, read_ahead)
    connection.open(scope)
    try:
        await app(scope, connection.receive, connection.send)
    except BaseException as error:
        await connection.close(error)
        raise
    else:
        await connection.close(None)
    finally:
        before.put_back()


class _Connection(Connection):
    """What passes between an application and its server."""

    ahead: ReadAhead | None = None
    _handled: BaseException | None = None

    def __init__(self, receive: Receive, send: Send, read_ahead: int) -> None:
        super().__init__()
        self._receive = receive
        self._send = send
        self._read_ahead = read_ahead

    async def send(self, event: Event) -> None:
        """Pass *event* on; what is sent for a message is part of it."""
        kind = event["type"]
        if kind == "websocket.accept" and not self.is_accepted:
            await self._send(answered(event, self.handshake))
            self.accept()
            self._look_ahead()
            return
        if kind == "websocket.close" and self.code is None:
            self.code, self.reason = event.get("code", 1000), event.get("reason") or ""
            self._handled = handled() if self.code in CLOSED_FOR_FAILURE else None
            if self._handled is None:
                closes(self, self.code)
        elif kind == "websocket.http.response.start":
            self.handshake.status = event["status"]
        try:
            await self._send(event)
        except RuntimeError as error:
            # a server's receive() has seen the end, which its application has not: without
            # us it would be told so by the server
            if self.ahead is None or not self.ahead.saw_end or self.last is not None:
                raise  # pragma: no cover - a server's own complaint
            raise _disconnected() from error
        if kind == "websocket.send":  # pragma: no branch - or an extension's event
            sent()

    def _look_ahead(self) -> None:
        if self.ahead is None and self._read_ahead and type(worker()) is not int:
            self.ahead = ReadAhead(self._receive, self._read_ahead)

    def receive(self) -> Awaitable[Event]:
        """Return what the server has next; a message begins."""
        self.announce()
        if self.is_connected and self.last is None:
            self._look_ahead()  # some ask while they accept
        return self.next(self._take if self.ahead is None else self.ahead.next)

    async def _take(self) -> tuple[Event, int]:
        return await self._receive(), _runtime.current.now_ns()

    async def close(self, error: BaseException | None) -> None:
        """End what is open: the application has returned, or raised *error*."""
        await super().close(error or self._handled)
        self._handled = None  # whose frames hold this one
        if self.ahead is not None:
            await self.ahead.stop()


def announcing(original: Any) -> Any:
    """Return Starlette's method that receives, so that its call says that something asks."""

    def receive(self: Any, *args: Any, **options: Any) -> Any:
        connection = getattr(getattr(self, "_receive", None), "__self__", None)
        if isinstance(connection, Connection):
            connection.announce()
        return original(self, *args, **options)

    return receive


def _disconnected() -> OSError:
    """Return what the server raises for a connection that has gone, or the like of it."""
    module: Any = sys.modules.get("uvicorn.protocols.utils")
    kind: Any = getattr(module, "ClientDisconnected", ConnectionError)
    return kind()  # type: ignore[no-any-return]
