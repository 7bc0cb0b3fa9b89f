"""A WSGI application of no framework; run as a program, by the server of its own that is named."""

import logging
import sys
from collections.abc import Callable, Iterable
from typing import Any

from tests.servers.wiring import endpoint, pieces, wire

if sys.argv[1:] == ["gevent"]:
    from gevent import monkey

    monkey.patch_all()
elif sys.argv[1:] == ["eventlet"]:
    import eventlet

    eventlet.monkey_patch()

wire()


def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    path = environ["PATH_INFO"]
    try:
        body = endpoint(path)
    except RuntimeError:
        if path.endswith("/raise"):
            raise
        logging.getLogger("shop").exception("failed")
        start_response("500 Internal Server Error", [("Content-Length", "0")])
        return [b""]
    start_response("200 OK", [])
    if path.startswith("/stream"):
        return (x.encode() for x in pieces(path))
    return [body[:1].encode(), body[1:].encode()]  # without a length: servers count it


def _wsgiref() -> None:
    from wsgiref.simple_server import WSGIRequestHandler, make_server

    class Handler(WSGIRequestHandler):
        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - its name
            logging.getLogger("access").info(format, *args)

    with make_server("127.0.0.1", 0, app, handler_class=Handler) as server:
        print(f"127.0.0.1:{server.server_port} ", file=sys.stderr, flush=True)
        server.serve_forever()


def _gevent() -> None:
    from gevent.pywsgi import WSGIServer

    server = WSGIServer(("127.0.0.1", 0), app, log=logging.getLogger("access"))
    server.start()
    print(f"127.0.0.1:{server.server_port} ", file=sys.stderr, flush=True)
    server.serve_forever()


def _eventlet() -> None:
    import eventlet
    import eventlet.wsgi

    listening = eventlet.listen(("127.0.0.1", 0))
    print(f"127.0.0.1:{listening.getsockname()[1]} ", file=sys.stderr, flush=True)
    eventlet.wsgi.server(listening, app, log=logging.getLogger("access"))


if __name__ == "__main__":
    {"eventlet": _eventlet, "wsgiref": _wsgiref, "gevent": _gevent}[sys.argv[1]]()
