"""Servers of aiohttp: each request is a trace, and each message of a WebSocket."""

from contextvars import ContextVar
from typing import Any, Final

from aiohttp import web

from otel_logging import _runtime
from otel_logging.context import unbound
from otel_logging.integrations.asgi_message import closes
from otel_logging.integrations.http import QUIET, Request, Scope, inbound
from otel_logging.integrations.replaced import Replaced
from otel_logging.integrations.websockets import OBSERVED, Handled, receiving, sending

_served: ContextVar["_Request | None"] = ContextVar("otel_logging.aiohttp", default=None)
_ENDS = (web.WSMsgType.CLOSE, web.WSMsgType.CLOSING, web.WSMsgType.CLOSED, web.WSMsgType.ERROR)


class _Request(Request):
    """One request, and the WebSocket that it became."""

    socket: Any = None

    def __init__(self, request: web.BaseRequest, *options: Any) -> None:
        self._request = request
        super().__init__(_scope_of(request), *options)

    def route(self) -> str | None:
        """Return its route, once a resource is found."""
        resource: Any = getattr(getattr(self._request, "match_info", None), "route", None)
        resource = getattr(resource, "resource", None)
        return None if resource is None else str(resource.canonical)

    async def close(self, error: BaseException | None) -> None:
        """End what is open on the WebSocket: its handler has returned, or raised *error*."""
        if self.socket is not None:
            connection = getattr(self.socket, OBSERVED)
            delattr(self.socket, OBSERVED)
            connection.code = self.socket.close_code
            await connection.close(error)


def _scope_of(request: web.BaseRequest) -> Scope:
    info: Any = getattr(request.transport, "get_extra_info", {}.get)  # it may have gone
    return {
        "method": request.method,
        "path": request.path,
        "scheme": request.scheme,
        "headers": [(name.lower(), value) for name, value in request.raw_headers],
        "http_version": f"{request.version.major}.{request.version.minor}",
        "server": info("sockname"),
        "client": info("peername"),
    }


def _handled(original: Any) -> Any:
    async def handle(self: Any, request: web.BaseRequest, *args: Any) -> Any:
        if _runtime.current.tracer is None or request.method == "UNKNOWN":  # what is no HTTP
            with unbound():
                return await original(self, request, *args)
        with inbound(request.raw_headers) as links:
            served = _Request(request, links, QUIET)
            _served.set(served)
            try:
                response, has_gone = result = await original(self, request, *args)
            except BaseException as error:
                await served.close(error)
                served.end(error)
                raise
            await served.close(None)
            served.status, served.is_complete = response.status, not has_gone
            served.end()
            return result

    return handle


def _prepared(original: Any) -> Any:
    async def prepare(self: Any, request: web.BaseRequest) -> Any:
        served = _served.get()
        if served is None or served.span is None or self.prepared:
            return await original(self, request)
        self.headers.extend(served.headers(self.headers))
        writer = await original(self, request)
        if isinstance(self, web.WebSocketResponse):
            served.socket = self
            connection = Handled(
                request,
                lambda: len(served.socket._reader._buffer),  # noqa: SLF001 - aiohttp has no other way
                lambda message: message.type in _ENDS,
            )
            connection.stand(served)
            connection.accept()
            setattr(self, OBSERVED, connection)
        return writer

    return prepare


def _closing(original: Any) -> Any:
    def close(self: Any, *, code: int = 1000, **options: Any) -> Any:
        closes(getattr(self, OBSERVED, None), code)
        return original(self, code=code, **options)

    return close


def _noting(kind: Any) -> Any:
    class WebSocketDataQueue(kind):  # type: ignore[misc]
        """What is received on a WebSocket, and when it came."""

        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **options)
            socket = getattr(_served.get(), "socket", None)
            self._connection: Handled | None = getattr(socket, OBSERVED, None)

        def feed_data(self, data: Any, size: int) -> None:
            """Take a message."""
            if self._connection is not None:
                self._connection.note()
            super().feed_data(data, size)

    return WebSocketDataQueue


_SOCKET: Final = "aiohttp.web_ws", "WebSocketResponse"
_replaced = Replaced(
    ("aiohttp.web_protocol", "RequestHandler", "_handle_request", _handled),
    ("aiohttp.web", "StreamResponse", "prepare", _prepared),
    (*_SOCKET, "receive", receiving),
    (*_SOCKET, "close", _closing),
    (*_SOCKET, "send_str", sending),
    (*_SOCKET, "send_bytes", sending),
    ("aiohttp.web_ws", "", "WebSocketDataQueue", _noting),
    ("aiohttp.web_ws", "", "FlowControlDataQueue", _noting),  # before aiohttp 3.11
)
instrument, uninstrument = _replaced.instrument, _replaced.uninstrument
