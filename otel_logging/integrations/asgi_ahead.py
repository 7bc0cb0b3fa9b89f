"""Messages of a connection, read and stamped when they arrive, before the application asks.

In: the server's ``receive``. Out: each message with its time. Invariant: at most so many, and
``AHEAD_BYTES``, beside the last one; then the server is not asked, and stops its client as it
does without us. Deliberately absent: what a message is (``asgi_websocket``).
"""

import asyncio
from contextvars import Context
from typing import Final

from otel_logging import _runtime
from otel_logging.integrations.arrival import arrived_ns
from otel_logging.integrations.asgi_http import Event, Receive

#: Bytes of messages that a connection reads ahead, at most, beside one message.
AHEAD_BYTES: Final = 1 << 20


class ReadAhead:
    """Reads messages when they arrive, in a task and a context of its own, and stamps them."""

    __slots__ = (
        "_bytes",
        "_most",
        "_reader",
        "_receive",
        "_room",
        "_task",
        "_waiting",
        "items",
        "saw_end",
    )

    def __init__(self, receive: Receive, most: int) -> None:
        self._receive = receive
        self._reader = getattr(receive, "__self__", None)
        self._most = most
        # lists: a deque takes 760 bytes for nothing
        self.items: list[tuple[Event | BaseException, int]] = []
        self._bytes = 0
        self._waiting: list[asyncio.Future[None]] = []
        self._room: asyncio.Future[None] | None = None
        #: Whether the end of the connection has been read.
        self.saw_end = False
        self._task = asyncio.get_running_loop().create_task(self._read(), context=Context())

    async def _read(self) -> None:
        while not self.saw_end:
            if len(self.items) >= self._most or self._bytes >= AHEAD_BYTES:
                self._room = asyncio.get_running_loop().create_future()
                await self._room
            event: Event | BaseException
            try:
                event = await self._receive()
                self.saw_end = event["type"] == "websocket.disconnect"
                self._bytes += _size(event)
            except Exception as error:
                event, self.saw_end = error, True
            self.items.append((event, arrived_ns(self._reader)))
            while self._waiting:
                _wake(self._waiting.pop(0))

    async def next(self) -> tuple[Event, int]:
        """Return the next one and when it arrived; after the end, what the server says."""
        while not self.items:
            if self.saw_end:
                return await self._receive(), _runtime.current.now_ns()
            waiter = asyncio.get_running_loop().create_future()
            if self._waiting:  # others were cancelled, in time-outs again and again
                self._waiting = [each for each in self._waiting if not each.done()]
            self._waiting.append(waiter)
            await waiter
        event, arrived_ns = self.items.pop(0)
        if isinstance(event, BaseException):
            raise event
        self._bytes -= _size(event)
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


def _size(event: Event) -> int:
    return len(event.get("text") or event.get("bytes") or "")
