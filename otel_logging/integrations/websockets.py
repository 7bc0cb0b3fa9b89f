"""Servers made with the ``websockets`` library: a span of the handshake, and a trace a message.

Servers under asyncio (new and legacy) and in threads. A server that is built on the library
(uvicorn) is observed by ``asgi``.
"""

import sys
from collections.abc import Awaitable, Callable
from contextlib import suppress
from contextvars import copy_context
from functools import partial
from typing import Any, Final

from opentelemetry import context as otel_context

from otel_logging import _names, _runtime
from otel_logging import context as bindings
from otel_logging.binding import NOTHING, worker
from otel_logging.context import CURRENT
from otel_logging.integrations.arrival import arrived_ns
from otel_logging.integrations.asgi_message import closes
from otel_logging.integrations.connection import Connection, sent
from otel_logging.integrations.http import QUIET, Event, Scope
from otel_logging.integrations.replaced import Replaced

_INTERNAL_ERROR: Final = 1011  # how the library closes a connection whose handler has failed
#: More frames than that arrive together: the library reads no more.
_WAITING: Final = 128
#: Attribute of a connection: how its messages are observed.
OBSERVED: Final = "otel_logging_connection"
#: Attributes of a protocol: the connection whose handshake it answers, and since when; its context.
_ASKED, _CONTEXT = "otel_logging_asked", "otel_logging_context"


class Handled(Connection):
    """A connection of a library that keeps messages, in a form of its own, until it is asked."""

    def __init__(
        self, waiting: Callable[[], int], is_end: Callable[[Any], bool] = lambda _: False
    ) -> None:
        super().__init__()
        #: Arrival times of the latest messages; those that still wait are at the end.
        self._arrived: list[int] = []
        self._waiting, self._is_end = waiting, is_end

    def note(self, reader: Any) -> None:
        """Note that one comes to *reader*. Concurrency: another thread may ask at this moment."""
        self._arrived.append(arrived_ns(reader))
        del self._arrived[:-_WAITING]

    async def next_message(self, receive: Callable[[], Awaitable[Any]]) -> Any:
        """Return what *receive* has next."""

        async def take() -> tuple[Event, int]:
            message = await receive()
            kind = "websocket.disconnect" if self._is_end(message) else "websocket.receive"
            del self._arrived[: -self._waiting() - 1]
            came_ns = self._arrived.pop(0) if self._arrived else _runtime.current.now_ns()
            return {"type": kind, "message": message}, came_ns

        return (await self.next(take))["message"]


def _scope_of(connection: Any) -> Scope | None:
    request = getattr(connection, "request", connection)  # the legacy one is its request itself
    if not hasattr(request, "path"):  # it has sent none
        return None
    headers = request.request_headers if request is connection else request.headers
    addresses = {}
    with suppress(OSError):  # the client has gone
        addresses = {"server": connection.local_address, "client": connection.remote_address}
    return {
        **addresses,
        "type": "websocket",
        "path": request.path.partition("?")[0],
        "scheme": "ws",
        # the legacy one decodes what is no ASCII as surrogates
        "headers": [
            (k.lower().encode(), v.encode("latin-1", "surrogateescape"))
            for k, v in headers.raw_items()
        ],
        "http_version": "1.1",
    }


def _waiting_at(self: Any) -> int:
    kept = getattr(self, "recv_messages", self)  # the oldest one in threads keeps none
    frames = getattr(kept, "frames", getattr(kept, "messages", ()))
    return frames.qsize() if hasattr(frames, "qsize") else len(frames)


async def _handshake(original: Any, self: Any, *args: Any, **options: Any) -> Any:
    if _runtime.current.tracer is not None and not type(self).__module__.startswith("uvicorn."):
        setattr(_protocol_of(self), _ASKED, (self, _runtime.current.now_ns()))
    return await original(self, *args, **options)


def _protocol_of(connection: Any) -> Any:
    return getattr(connection, "protocol", connection)  # the legacy one is its protocol itself


def _answer(original: Any, self: Any, response: Any, *rest: Any) -> Any:
    """Answer a handshake: what is logged then, and of the connection's end, is the connection's."""
    of, began_ns = vars(self).pop(_ASKED, (None, 0))
    scope = of and _scope_of(of)
    status = int(getattr(response, "status_code", response))
    if not scope or (status < 500 and status != 101 and scope["path"] in QUIET):
        return original(self, response, *rest)
    connection = Handled(lambda: _waiting_at(of))
    connection.open(scope, began_ns)  # the task is this connection's alone
    setattr(self, _CONTEXT, copy_context())
    try:
        return original(self, response, *rest)
    finally:
        if status == 101:
            connection.accept()
            setattr(of, OBSERVED, connection)
            if hasattr(of, "ws_handler"):  # the legacy one tells nobody that this has failed
                of.ws_handler = partial(_run, of.ws_handler)
        else:
            connection.end_handshake(status)


async def _run(handler: Any, self: Any, *args: Any) -> None:
    try:
        await handler(self, *args)
    except Exception:
        _end(self, _INTERNAL_ERROR, "")
        raise


def _receive_eof(original: Any, self: Any) -> None:
    (getattr(self, _CONTEXT, None) or copy_context()).copy().run(original, self)


def _unregister(original: Any, self: Any, protocol: Any) -> None:
    """Log the end of a connection on its behalf, whatever its handler has left."""
    original(self, protocol)
    if (context := getattr(protocol, _CONTEXT, None)) is not None:
        context.run(bindings.Here.now).put_back()


async def _process_request(original: Any, self: Any, *args: Any) -> Any:
    """Let the library's own tasks log on behalf of the connection, which is ASGI's."""
    response = await original(self, *args)
    self.scope.get(_names.STANDING, bindings.Here.now()).put_back()
    return response


def _note(self: Any) -> None:
    connection: Handled | None = getattr(self, OBSERVED, None)
    if connection is not None:
        connection.note(self)


def _process_event(original: Any, self: Any, event: Any) -> None:
    if getattr(event, "opcode", 8) < 8:  # RFC 6455: a frame of a message
        _note(self)
    original(self, event)


async def _read_message(original: Any, self: Any) -> Any:
    message = await original(self)
    _note(self)
    return message


def receive(original: Any, self: Any, *args: Any, **options: Any) -> Any:
    """Receive by a library's method, so that messages begin and end."""
    connection: Handled | None = getattr(self, OBSERVED, None)
    if connection is None:
        return original(self, *args, **options)
    connection.announce()
    return connection.next_message(lambda: original(self, *args, **options))


async def send(original: Any, *args: Any, **options: Any) -> Any:
    """Send by a library's method: what is sent for a message is part of it."""
    result = await original(*args, **options)
    sent()
    return result


def _written(original: Any, *args: Any, **options: Any) -> Any:
    """Write by a library's method, which broadcasting uses, too."""
    result = original(*args, **options)
    sent()
    return result


async def _close(original: Any, self: Any, code: int = 1000, reason: str = "") -> Any:
    if sys.exception() is None:  # otherwise the exception decides
        closes(getattr(self, OBSERVED, None), code)
    _end(self, code, reason)
    return await original(self, code, reason)


def _end(self: Any, code: int, reason: str) -> None:
    connection: Handled | None = getattr(self, OBSERVED, None)
    # a server that ends closes its connections, before their handlers have ended
    if connection is not None and connection.task == worker():
        delattr(self, OBSERVED)
        protocol = _protocol_of(self)
        connection.code = protocol.close_code or code
        connection.reason = protocol.close_reason or reason
        error = connection.close(sys.exception() if code == _INTERNAL_ERROR else None)
        if error is not None:  # the library's line about it belongs to where it came from
            CURRENT.set(otel_context.Context())
            bindings.restore(NOTHING)


def _in_thread(act: Callable[..., Any], original: Any, *args: Any, **options: Any) -> Any:
    """Do *act* with a method that is no coroutine function: all that it awaits blocks."""

    async def later(*args: Any, **options: Any) -> Any:
        return original(*args, **options)

    try:
        act(later, *args, **options).send(None)
    except StopIteration as done:
        return done.value


_METHODS: Final[dict[str, Callable[..., Any]]] = {
    "handshake": _handshake,
    "read_message": _read_message,  # the legacy one's
    "recv": receive,
    "send": send,
    "close": _close,
}
_ASYNCIO, _LEGACY = "websockets.asyncio.server", "websockets.legacy.server"
_THREADS = "websockets.sync.server"
_replaced = Replaced(
    *((_ASYNCIO, "ServerConnection", *method) for method in _METHODS.items()),
    *((_LEGACY, "WebSocketServerProtocol", *method) for method in _METHODS.items()),
    *((_THREADS, "ServerConnection", k, partial(_in_thread, act)) for k, act in _METHODS.items()),
    ("websockets.server", "ServerProtocol", "send_response", _answer),
    ("websockets.server", "ServerProtocol", "receive_eof", _receive_eof),
    ("websockets.server", "ServerProtocol", "send_text", _written),
    ("websockets.server", "ServerProtocol", "send_binary", _written),
    (_LEGACY, "WebSocketServer", "unregister", _unregister),
    (_LEGACY, "WebSocketServerProtocol", "write_http_response", _answer),
    (_LEGACY, "WebSocketServerProtocol", "write_frame_sync", _written),
    (_names.UVICORNS, "WebSocketProtocol", "process_request", _process_request),
    *((each, "ServerConnection", "process_event", _process_event) for each in (_ASYNCIO, _THREADS)),
)
instrument, uninstrument = _replaced.instrument, _replaced.uninstrument
