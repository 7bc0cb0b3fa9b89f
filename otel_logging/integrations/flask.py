"""Flask: each request of every application is a trace, with the route as its name."""

import flask

from otel_logging.integrations.replaced import Replaced
from otel_logging.integrations.wsgi import name_route, observed
from otel_logging.logs import configure

_replaced = Replaced()


def instrument() -> None:
    """Observe every application, also those that are made already."""
    _replaced.put(flask.Flask, "__call__", observed)
    flask.request_started.connect(_on_request)
    configure.hide_banners()


def uninstrument() -> None:
    """Leave applications alone again."""
    _replaced.undo()
    flask.request_started.disconnect(_on_request)


def _on_request(_: object, **__: object) -> None:
    rule = flask.request.url_rule
    if rule is not None:
        name_route(flask.request.environ, flask.request.script_root + rule.rule)
