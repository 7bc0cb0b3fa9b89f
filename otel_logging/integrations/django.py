"""Django: each request is a trace, with the route as its name."""

from typing import Any

from django.core.handlers.base import BaseHandler  # type: ignore[import-untyped]
from django.core.handlers.wsgi import WSGIHandler  # type: ignore[import-untyped]

from otel_logging.integrations.replaced import Replaced
from otel_logging.integrations.wsgi import name_route, observed

_replaced = Replaced()


def instrument() -> None:
    """Observe every handler of WSGI, also those that are made already."""
    _replaced.put(WSGIHandler, "__call__", observed)
    _replaced.put(BaseHandler, "resolve_request", _resolving)


def uninstrument() -> None:
    """Leave handlers alone again."""
    _replaced.undo()


def _resolving(original: Any) -> Any:
    def resolve_request(self: BaseHandler, request: Any) -> Any:
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
