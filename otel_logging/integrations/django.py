"""Django: each request, and each handshake of Channels, is a trace with the route as its name."""

from typing import Any

from otel_logging.binding import worker
from otel_logging.integrations.connection import Connection
from otel_logging.integrations.replaced import Replaced
from otel_logging.integrations.wsgi import name_route, observed


def _resolving(original: Any) -> Any:
    def resolve_request(self: Any, request: Any) -> Any:
        match = original(self, request)
        root = (request.META.get("SCRIPT_NAME") or "").rstrip("/")
        route = f"{root}/{request.resolver_match.route.lstrip('^/')}"
        scope = getattr(request, "scope", None)  # of an ASGI request
        if scope is None:
            name_route(request.META, route)
        else:
            scope["path_template"] = route
        return match

    return resolve_request


def _routing(original: Any) -> Any:
    async def __call__(self: Any, scope: Any, *given: Any) -> None:  # noqa: N807
        if scope["type"] == "websocket" and "path_remaining" not in scope:  # else inside another
            route = _route_of(self, scope["path"].removeprefix(scope.get("root_path", "")))
            if route is not None:
                scope["path_template"] = f"{scope.get('root_path', '')}/{route}"
        await original(self, scope, *given)

    return __call__


def _route_of(router: Any, path: str) -> str | None:
    for route in router.routes:
        if match := route.pattern.match(path.lstrip("/")):
            inner = hasattr(route.callback, "routes") and _route_of(route.callback, match[0])
            return f"{str(route.pattern).lstrip('^/')}{inner or ''}"
    return None


def _dispatching(original: Any) -> Any:
    """Return what gives a consumer of Channels its events: nobody waits for a message that came
    while it handled one of its group.
    """

    async def await_many_dispatch(sources: Any, dispatch: Any) -> None:
        connection = getattr(sources[0], "__self__", None)

        async def dispatched(event: Any) -> None:
            if isinstance(connection, Connection) and event["type"].startswith("websocket."):
                connection.take(worker())
            await dispatch(event)

        await original(sources, dispatched)

    return await_many_dispatch


_replaced = Replaced(
    ("channels.consumer", "", "await_many_dispatch", _dispatching),
    ("channels.routing", "URLRouter", "__call__", _routing),
    ("django.core.handlers.wsgi", "WSGIHandler", "__call__", observed),
    ("django.core.handlers.base", "BaseHandler", "resolve_request", _resolving),
)
instrument, uninstrument = _replaced.instrument, _replaced.uninstrument
