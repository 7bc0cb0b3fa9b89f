"""One WebSocket connection of an ASGI server, whose messages are read when they arrive.

In: the scope, and what application and server say to each other. Out: a ``Connection``. Invariant:
an application sees what it would see without us. A bounded number of messages, and ``AHEAD_BYTES``
beside the last one, are read ahead. After that the server is not asked, and it holds its client up
as it would without us. Deliberately absent: what is a trace (``connection``), HTTP (``http``).
"""

import asyncio
import sys
from collections.abc import Awaitable
from contextvars import Context
from typing import Any, Final

from otel_logging import _names, _runtime
from otel_logging._failures import CLOSED_FOR_FAILURE
from otel_logging.binding import worker
from otel_logging.context import Here
from otel_logging.integrations.arrival import arrived_ns
from otel_logging.integrations.asgi_message import closes
from otel_logging.integrations.connection import Connection, sent
from otel_logging.integrations.http import App, Event, Receive, Scope, Send, answered, handled

#: Bytes of messages that a connection reads ahead, at most, beside one message.
AHEAD_BYTES: Final = 1 << 20


async def serve(app: App, scope: Scope, receive: Receive, send: Send, read_ahead: int) -> None:
    """Serve one connection."""
    before = Here.now()
    connection = _Connection(receive, send, read_ahead)
    connection.open(scope)
    scope[_names.STANDING] = Here.now()  # for lines that a server logs in a task of its own
    try:
        await app(scope, connection.receive, connection.send)
    except BaseException as error:
        connection.close(error)
        raise
    else:
        connection.close(None)
    finally:
        if connection.ahead is not None:
            await connection.ahead.stop()
        if connection.is_accepted:  # else its server still answers the handshake
            before.put_back()


class _ReadAhead:
    """Reads messages when they arrive, in a task and a context of its own, and stamps them."""

    __slots__ = "_bytes", "_items", "_most", "_receive", "_room", "_task", "_waiting", "saw_end"

    def __init__(self, receive: Receive, most: int) -> None:
        self._receive, self._most = receive, most
        # messages, each with its time and size; lists, since an empty deque takes 760 bytes
        self._items: list[tuple[Event | BaseException, int, int]] = []
        self._waiting: list[asyncio.Future[None]] = []
        self._bytes = 0
        self._room: asyncio.Future[None] | None = None
        #: Whether the end of the connection has been read.
        self.saw_end = False
        self._task = asyncio.get_running_loop().create_task(self._read(), context=Context())

    async def _read(self) -> None:
        while not self.saw_end:
            if len(self._items) >= self._most or self._bytes >= AHEAD_BYTES:
                self._room = asyncio.get_running_loop().create_future()
                await self._room
            event: Event | BaseException
            size = 0
            try:
                event = await self._receive()
                self.saw_end = event["type"] == "websocket.disconnect"
                self._bytes += (size := sys.getsizeof(event.get("text") or event.get("bytes")))
            except Exception as error:
                event, self.saw_end = error, True
            self._items.append((event, arrived_ns(self._receive), size))
            while self._waiting:
                _wake(self._waiting.pop(0))

    async def next(self) -> tuple[Event, int]:
        """Return the next message and when it arrived; after the end, what the server says."""
        while not self._items:
            if self.saw_end:
                return await self._receive(), _runtime.current.now_ns()
            waiter = asyncio.get_running_loop().create_future()
            if self._waiting:  # earlier calls were cancelled, by time-outs
                self._waiting = [each for each in self._waiting if not each.done()]
            self._waiting.append(waiter)
            await waiter
        event, arrived_ns, size = self._items.pop(0)
        if isinstance(event, BaseException):
            raise event
        self._bytes -= size
        if self._room is not None and self._bytes < AHEAD_BYTES:
            _wake(self._room)
        return event, arrived_ns

    async def stop(self) -> None:
        """Read no more."""
        if not self._task.done():
            self._task.cancel()
            await asyncio.wait((self._task,))


def _wake(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)


class _Connection(Connection):
    """What passes between an application and its server."""

    ahead: _ReadAhead | None = None

    def __init__(self, receive: Receive, send: Send, read_ahead: int) -> None:
        super().__init__()
        self._receive, self._send, self._read_ahead = receive, send, read_ahead

    async def send(self, event: Event) -> None:
        """Pass *event* on. What is sent for a message is part of that message."""
        kind = event["type"]
        if kind == "websocket.accept" and not self.is_accepted:
            await self._send(answered(event, self.handshake))
            self.accept()
            self._look_ahead()
            return
        if kind == "websocket.close" and self.code is None:
            self.code, self.reason = event.get("code", 1000), event.get("reason") or ""
            if self.code in CLOSED_FOR_FAILURE:
                self.handshake.handled = handled()
            if self.handshake.handled is None:
                closes(self, self.code)
        elif kind == "websocket.http.response.start":
            self.handshake.status = event["status"]
        try:
            await self._send(event)
        except RuntimeError as error:
            # a server's receive() has seen the end, which its application has not: without
            # us the server would say so
            if self.ahead is None or not self.ahead.saw_end or self.last is not None:
                raise  # pragma: no cover - a server's own complaint
            # what the server raises for a connection that has gone, or the like of it
            utils: Any = sys.modules.get("uvicorn.protocols.utils")
            raise getattr(utils, "ClientDisconnected", ConnectionError)() from error
        if kind == "websocket.send":  # pragma: no branch - or an extension's event
            sent()

    def _look_ahead(self) -> None:
        if self.ahead is None and self._read_ahead and type(worker()) is not int:
            self.ahead = _ReadAhead(self._receive, self._read_ahead)

    def receive(self) -> Awaitable[Event]:
        """Return what the server has next; a message begins."""
        self.announce()
        if self.ahead is None and self.is_connected and self.last is None:
            self._look_ahead()  # some applications ask while they accept
        return self.next(self._take if self.ahead is None else self.ahead.next)

    async def _take(self) -> tuple[Event, int]:
        return await self._receive(), _runtime.current.now_ns()


def announce(original: Any, self: Any, *args: Any, **options: Any) -> Any:
    """Receive by Starlette's method: a call shows that the application asks for a message."""
    connection = getattr(getattr(self, "_receive", None), "__self__", None)
    if isinstance(connection, Connection):
        connection.announce()
    return original(self, *args, **options)
