"""Flask: each request of every application is a trace, with the route as its name."""

import flask

from otel_logging.integrations.replaced import Replaced
from otel_logging.integrations.wsgi import name_route, observed


def _on_request(_: object, **__: object) -> None:
    rule = flask.request.url_rule
    if rule is not None:
        name_route(flask.request.environ, flask.request.script_root + rule.rule)


_replaced = Replaced(
    ("flask", "Flask", "__call__", observed), signals={flask.request_started: _on_request}
)
instrument = _replaced.instrument
uninstrument = _replaced.uninstrument
