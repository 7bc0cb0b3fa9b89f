"""Django: each request, and each handshake of Channels, is a trace with the route as its name."""

from typing import Any

from otel_logging.binding import worker
from otel_logging.integrations.connection import Connection
from otel_logging.integrations.replaced import Replaced
from otel_logging.integrations.wsgi import name_route, observe


def _resolve(original: Any, self: Any, request: Any) -> Any:
    match = original(self, request)
    root = (request.META.get("SCRIPT_NAME") or "").rstrip("/")
    route = f"{root}/{request.resolver_match.route.lstrip('^/')}"
    scope = getattr(request, "scope", None)  # of an ASGI request
    if scope is None:
        name_route(request.META, route)
    else:
        scope["path_template"] = route
    return match


async def _route(original: Any, self: Any, scope: Any, *given: Any) -> None:
    if scope["type"] == "websocket" and "path_remaining" not in scope:  # else inside another
        route = _route_of(self, scope["path"].removeprefix(scope.get("root_path", "")))
        if route is not None:
            scope["path_template"] = f"{scope.get('root_path', '')}/{route}"
    await original(self, scope, *given)


def _route_of(router: Any, path: str) -> str | None:
    for route in router.routes:
        if match := route.pattern.match(path.lstrip("/")):
            inner = hasattr(route.callback, "routes") and _route_of(route.callback, match[0])
            return f"{str(route.pattern).lstrip('^/')}{inner or ''}"
    return None


async def _await_many(original: Any, sources: Any, dispatch: Any) -> None:
    """Give a consumer of Channels its events. A message that comes while the consumer handles one
    of its group has no task that waits for it.
    """
    connection = getattr(sources[0], "__self__", None)

    async def dispatched(event: Any) -> None:
        if isinstance(connection, Connection) and event["type"].startswith("websocket."):
            connection.take(worker())
        await dispatch(event)

    await original(sources, dispatched)


_replaced = Replaced(
    ("channels.consumer", "", "await_many_dispatch", _await_many),
    ("channels.routing", "URLRouter", "__call__", _route),
    ("django.core.handlers.wsgi", "WSGIHandler", "__call__", observe),
    ("django.core.handlers.base", "BaseHandler", "resolve_request", _resolve),
)
instrument, uninstrument = _replaced.instrument, _replaced.uninstrument
