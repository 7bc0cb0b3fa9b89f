"""Servers of aiohttp: each request is a trace, and each message of a WebSocket."""

from contextvars import ContextVar
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

from aiohttp import web, web_protocol

from otel_logging import _names, _runtime
from otel_logging.context import bind_context, unbound
from otel_logging.integrations.connection import Connection, sent
from otel_logging.integrations.http import QUIET, Request, Scope, added_headers, inbound
from otel_logging.integrations.websockets import next_message

_served: ContextVar["_Request | None"] = ContextVar("otel_logging.aiohttp", default=None)
_connections: "WeakKeyDictionary[web.WebSocketResponse, Connection]" = WeakKeyDictionary()
_replaced: dict[tuple[Any, str], Any] = {}
_ENDS = (web.WSMsgType.CLOSE, web.WSMsgType.CLOSING, web.WSMsgType.CLOSED, web.WSMsgType.ERROR)


def instrument() -> None:
    """Observe every server, also those that run already."""
    for owner, name, make in (
        (web_protocol.RequestHandler, "_handle_request", _handled),
        (web.StreamResponse, "prepare", _prepared),
        (web.WebSocketResponse, "receive", _received),
        (web.WebSocketResponse, "send_str", _sent),
        (web.WebSocketResponse, "send_bytes", _sent),
    ):
        if (owner, name) not in _replaced:
            _replaced[owner, name] = getattr(owner, name)
            setattr(owner, name, make(getattr(owner, name)))


def uninstrument() -> None:
    """Leave servers alone again."""
    while _replaced:
        (owner, name), was = _replaced.popitem()
        setattr(owner, name, was)


class _Request(Request):
    """One request, and the WebSocket that it became."""

    socket: web.WebSocketResponse | None = None

    async def close(self, error: BaseException | None) -> None:
        """End what is open on the WebSocket: its handler has returned, or raised *error*."""
        if self.socket is not None:
            connection = _connections.pop(self.socket)
            connection.code = self.socket.close_code
            await connection.close(error)


def _is_end(message: Any) -> bool:
    return message.type in _ENDS


def _scope_of(request: web.BaseRequest) -> Scope:
    transport = request.transport
    server: Any = transport.get_extra_info("sockname") if transport is not None else None
    client: Any = transport.get_extra_info("peername") if transport is not None else None
    return {
        "method": request.method,
        "path": request.path,
        "scheme": request.scheme,
        "headers": [(name.lower(), value) for name, value in request.raw_headers],
        "http_version": f"{request.version.major}.{request.version.minor}",
        "server": server[:2] if isinstance(server, tuple) else None,
        "client": client[:2] if isinstance(client, tuple) else None,
    }


def _route_of(request: web.BaseRequest) -> str | None:
    resource: Any = getattr(getattr(request, "match_info", None), "route", None)
    resource = getattr(resource, "resource", None)
    return None if resource is None else str(resource.canonical)


def _handled(original: Any) -> Any:
    async def handle(self: Any, request: web.BaseRequest, *args: Any) -> Any:
        if _runtime.current.tracer is None or request.method == "UNKNOWN":  # what is no HTTP
            with unbound():
                return await original(self, request, *args)
        scope = _scope_of(request)
        with inbound(scope) as links:
            served = _Request(scope, links)
            served.ask = partial(_route_of, request)
            if scope["path"] not in QUIET:
                served.begin()
            if served.request_id:
                bind_context(**{_names.REQUEST_ID: served.request_id})
            _served.set(served)
            try:
                response, has_gone = result = await original(self, request, *args)
            except BaseException as error:
                await served.close(error)
                served.end(error, _route_of(request))
                raise
            await served.close(None)
            served.status, served.is_complete = response.status, not has_gone
            served.end(None, _route_of(request))
            return result

    return handle


def _prepared(original: Any) -> Any:
    async def prepare(self: Any, request: web.BaseRequest) -> Any:
        served = _served.get()
        if served is None or served.span is None or self.prepared:
            return await original(self, request)
        for name, value in added_headers(served.span, served.request_id).items():
            self.headers.setdefault(name, value)
        writer = await original(self, request)
        if isinstance(self, web.WebSocketResponse):
            served.status, served.is_complete = 101, True
            route = _route_of(request)
            served.end(None, route)
            served.scope["path_template"] = route
            served.socket, connection = self, Connection(served.scope)
            connection.stand(served.span)
            connection.accept()
            _connections[self] = connection
        return writer

    return prepare


def _received(original: Any) -> Any:
    def receive(self: Any, *args: Any, **options: Any) -> Any:
        connection = _connections.get(self)
        if connection is None:
            return original(self, *args, **options)
        return next_message(connection, lambda: original(self, *args, **options), _is_end)

    return receive


def _sent(original: Any) -> Any:
    async def send(self: Any, *args: Any, **options: Any) -> Any:
        await original(self, *args, **options)
        sent()

    return send
