"""Flask: each request of every application is a trace, with the route as its name."""

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import flask

from otel_logging.integrations.wsgi import WSGIObservabilityMiddleware, is_elsewhere, name_route
from otel_logging.logs import configure

_call: Any = None


def instrument() -> None:
    """Observe every application, also those that are made already."""
    global _call
    if _call is None:
        _call = flask.Flask.__call__
        flask.Flask.__call__ = _observed  # type: ignore[method-assign]
        flask.request_started.connect(_on_request)
        configure.hide_banners()


def uninstrument() -> None:
    """Leave applications alone again."""
    global _call
    if _call is not None:
        flask.Flask.__call__, _call = _call, None  # type: ignore[method-assign]
        flask.request_started.disconnect(_on_request)


def _observed(
    self: flask.Flask, environ: dict[str, Any], start_response: Callable[..., Any]
) -> Iterable[bytes]:
    app: Any = partial(_call, self)
    if not is_elsewhere(self):
        app = WSGIObservabilityMiddleware(app)
    return app(environ, start_response)  # type: ignore[no-any-return]


def _on_request(_: object, **__: object) -> None:
    rule = flask.request.url_rule
    if rule is not None:
        name_route(flask.request.environ, flask.request.script_root + rule.rule)
