"""Django: each request is a trace, with the route as its name."""

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

from django.core.handlers.base import BaseHandler  # type: ignore[import-untyped]
from django.core.handlers.wsgi import WSGIHandler  # type: ignore[import-untyped]

from otel_logging.integrations.wsgi import WSGIObservabilityMiddleware, is_elsewhere, name_route

_replaced: dict[Any, tuple[str, Any]] = {}


def instrument() -> None:
    """Observe every handler of WSGI, also those that are made already."""
    for owner, name, ours in (
        (WSGIHandler, "__call__", _observed),
        (BaseHandler, "resolve_request", _resolved),
    ):
        if owner not in _replaced:
            _replaced[owner] = name, getattr(owner, name)
            setattr(owner, name, ours)


def uninstrument() -> None:
    """Leave handlers alone again."""
    while _replaced:
        owner, (name, was) = _replaced.popitem()
        setattr(owner, name, was)


def _observed(
    self: WSGIHandler, environ: dict[str, Any], start_response: Callable[..., Any]
) -> Iterable[bytes]:
    app: Any = partial(_replaced[WSGIHandler][1], self)
    if not is_elsewhere(self):
        app = WSGIObservabilityMiddleware(app)
    return app(environ, start_response)  # type: ignore[no-any-return]


def _resolved(self: BaseHandler, request: Any) -> Any:
    _, resolve = _replaced[BaseHandler]
    match = resolve(self, request)
    root = (request.META.get("SCRIPT_NAME") or "").rstrip("/")
    route = f"{root}/{request.resolver_match.route.lstrip('^/')}"
    scope = getattr(request, "scope", None)  # of an ASGI request
    if scope is None:
        name_route(request.META, route)
    else:
        scope["path_template"] = route
    return match
