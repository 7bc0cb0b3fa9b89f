"""Django: each request is a trace, with the route as its name."""

from typing import Any

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


_replaced = Replaced(
    ("django.core.handlers.wsgi", "WSGIHandler", "__call__", observed),
    ("django.core.handlers.base", "BaseHandler", "resolve_request", _resolving),
)
instrument, uninstrument = _replaced.instrument, _replaced.uninstrument
