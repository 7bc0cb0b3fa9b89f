"""Flask: each request of every application is a trace, with the route as its name."""

import flask

from otel_logging.integrations.replaced import Replaced
from otel_logging.integrations.wsgi import name_route, observe
from otel_logging.logs import configure


def _on_request(_: object, **__: object) -> None:
    rule = flask.request.url_rule
    if rule is not None:
        name_route(flask.request.environ, flask.request.script_root + rule.rule)


_replaced = Replaced(
    ("flask", "Flask", "__call__", observe), signals={flask.request_started: _on_request}
)
uninstrument = _replaced.uninstrument


def instrument() -> None:
    """Observe every application, also those that are made already."""
    _replaced.instrument()
    configure.hide_banners()
