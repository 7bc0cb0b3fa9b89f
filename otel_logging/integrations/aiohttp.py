"""Servers of aiohttp: each request is a trace, and each message of a WebSocket."""

from contextvars import ContextVar
from typing import Any, Final

from aiohttp import web, web_ws

from otel_logging import _runtime
from otel_logging.context import unbound
from otel_logging.integrations.arrival import arrived_ns
from otel_logging.integrations.asgi_message import closes
from otel_logging.integrations.http import QUIET, Request, Scope, handled
from otel_logging.integrations.replaced import Replaced
from otel_logging.integrations.websockets import OBSERVED, Handled, receive, send

_served: ContextVar["_Request | None"] = ContextVar("otel_logging.aiohttp", default=None)
#: What keeps the messages of a WebSocket: from aiohttp 3.11 on, and before.
_queue: Any = vars(web_ws).get("WebSocketDataQueue") or vars(web_ws)["FlowControlDataQueue"]
#: The module of OpenTelemetry's middleware.
_THEIRS: Final = "opentelemetry.instrumentation.aiohttp_server"
_ENDS = (web.WSMsgType.CLOSE, web.WSMsgType.CLOSING, web.WSMsgType.CLOSED, web.WSMsgType.ERROR)


class _Request(Request):
    """One request, and the WebSocket that it became."""

    socket: Any = None
    #: Whether its handler has failed because its client has gone.
    is_left = False

    def __init__(self, request: web.BaseRequest) -> None:
        self.request = request
        super().__init__(_scope_of(request), QUIET, arrived_ns(request))

    def route(self) -> str | None:
        """Return its route, once a resource is found."""
        route = getattr(getattr(self.request, "match_info", None), "route", None)
        return getattr(getattr(route, "resource", None), "canonical", None)

    def end(self, error: BaseException | None = None) -> None:
        """End it, and what is open on the WebSocket."""
        error = self.handled or error  # aiohttp's own, where an answer has begun
        if self.is_left:  # an answer of failure is for nobody
            error, self.status = None, self.status if self.status < 500 else 0
        if self.socket is not None:
            connection = vars(self.socket).pop(OBSERVED)
            connection.code = self.socket.close_code
            connection.close(error)
        super().end(error)


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


def _is_elsewhere(handler: Any) -> bool:
    """Say whether OpenTelemetry's instrumentation has the application whose method *handler* is."""
    application = getattr(handler, "__self__", None)
    return any(each.__module__ == _THEIRS for each in getattr(application, "middlewares", ()))


async def _handle(original: Any, self: Any, request: web.BaseRequest, *args: Any) -> Any:
    # what is no HTTP is "UNKNOWN"
    if _runtime.current.tracer is None or request.method == "UNKNOWN" or _is_elsewhere(args[-1]):
        with unbound():
            return await original(self, request, *args)
    with _Request(request) as served:
        _served.set(served)
        response, has_gone = result = await original(self, request, *args)
        served.status, served.is_complete = response.status, not has_gone
        return result


def _fail(original: Any, self: Any, request: web.BaseRequest, *args: Any, **named: Any) -> Any:
    served = _served.get()
    if served is not None and served.request is request:  # else of what is no HTTP
        error = handled()
        has_gone = request.transport is None or request.transport.is_closing()
        served.is_left = has_gone and isinstance(error, ConnectionError)
        served.handled = None if served.is_left else error
    return original(self, request, *args, **named)


async def _prepare(original: Any, self: Any, request: web.BaseRequest) -> Any:
    served = _served.get()
    if served is None or served.span is None or self.prepared:
        return await original(self, request)
    self.headers.extend(served.headers(self.headers))
    writer = await original(self, request)
    served.status = self.status
    if isinstance(self, web.WebSocketResponse):
        connection = Handled(
            lambda: len(served.socket._reader._buffer),  # noqa: SLF001 - aiohttp has no other way
            lambda message: message.type in _ENDS,
        )
        connection.stand(served)
        connection.accept()
        setattr(self, OBSERVED, connection)
        served.socket = self
    return writer


def _close(original: Any, self: Any, *, code: int = 1000, **options: Any) -> Any:
    closes(getattr(self, OBSERVED, None), code)
    return original(self, code=code, **options)


class _Messages(_queue):  # type: ignore[misc]  # one of two
    """What is received on a WebSocket, and when it came."""

    def __init__(self, _: Any, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        socket = getattr(_served.get(), "socket", None)
        self._connection: Handled | None = getattr(socket, OBSERVED, None)

    def feed_data(self, data: Any, size: int) -> None:
        """Take a message."""
        if self._connection is not None:
            self._connection.note(self._protocol)
        super().feed_data(data, size)


_SOCKET: Final = "aiohttp.web_ws", "WebSocketResponse"
_replaced = Replaced(
    ("aiohttp.web_protocol", "RequestHandler", "_handle_request", _handle),
    ("aiohttp.web_protocol", "RequestHandler", "handle_error", _fail),
    ("aiohttp.web", "StreamResponse", "prepare", _prepare),
    (*_SOCKET, "receive", receive),
    (*_SOCKET, "close", _close),
    (*_SOCKET, "send_str", send),
    (*_SOCKET, "send_bytes", send),
    ("aiohttp.web_ws", "", _queue.__name__, _Messages),
)
instrument, uninstrument = _replaced.instrument, _replaced.uninstrument
