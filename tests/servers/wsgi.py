"""A Flask application; run as a program, by the server that is named."""

import sys
from typing import Any

from flask import Flask, Response, request

from tests.servers.wiring import endpoint, pieces, torn_down, wire

wire()

app = Flask("shop")


@app.route("/<path:_>")
def _endpoint(_: str) -> Any:
    done = endpoint(request.path)
    return Response(pieces(request.path)) if request.path.startswith("/stream") else done


@app.teardown_request
def _torn_down(_: object) -> None:
    torn_down(request.path)


_flask = app.wsgi_app


def _wsgi(environ: Any, start_response: Any) -> Any:
    if environ["PATH_INFO"].endswith("/raise"):  # what Flask itself would tell of
        endpoint(environ["PATH_INFO"])
    return _flask(environ, start_response)


app.wsgi_app = _wsgi  # type: ignore[method-assign]

if __name__ == "__main__":
    if sys.argv[1] == "flask":
        app.run(port=0)
    else:
        from werkzeug.serving import run_simple

        run_simple("127.0.0.1", 0, app)
