"""A Flask application; run as a program, by ``app.run`` or by werkzeug's ``run_simple``."""

import sys
from typing import Any

from flask import Flask, request

from tests.servers.page import around_wsgi
from tests.servers.wiring import endpoint, wire

wire()

app = Flask("shop")


@app.route("/<path:_>")
def _endpoint(_: str) -> str:
    return endpoint(request.path)


_flask = app.wsgi_app


def _inner(environ: Any, start_response: Any) -> Any:
    if environ["PATH_INFO"].endswith("/raise"):  # what Flask itself would tell of
        endpoint(environ["PATH_INFO"])
    return _flask(environ, start_response)


_staged = around_wsgi()(_inner)


def _wsgi(environ: Any, start_response: Any) -> Any:
    is_around = environ["PATH_INFO"].startswith("/around")
    return (_staged if is_around else _inner)(environ, start_response)


app.wsgi_app = _wsgi  # type: ignore[method-assign]

if __name__ == "__main__":
    if sys.argv[1] == "flask":
        app.run(port=0)
    else:
        from werkzeug.serving import run_simple

        run_simple("127.0.0.1", 0, app)
