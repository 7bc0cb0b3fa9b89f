"""``otel-logging run`` in front of real servers, of applications that know nothing of it."""

import importlib.util
import os
import re
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.programs import Program
from tests.receiver import Receiver
from tests.servers.running import get, wait_for_access

pytestmark = pytest.mark.skipif(os.name != "posix", reason="servers that are ended by a signal")

OTEL_LOGGING = "from otel_logging.cli import main; main()"

STARLETTE = """
import logging
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route

async def orders(request):
    logging.getLogger("shop").warning("asked %s", request.url.path)
    return PlainTextResponse("ok")

app = Starlette(routes=[Route("/orders/{id}", orders)])
"""
FLASK = """
import sys
from flask import Flask, request

app = Flask("shop")

@app.route("/orders/<id>")
def orders(id):
    app.logger.warning("asked %s", request.path)
    return "ok"

if __name__ == "__main__":
    app.run(port=0)
"""
BARE = """
import logging
from wsgiref.simple_server import make_server

def app(environ, start_response):
    logging.getLogger("shop").warning("asked %s", environ["PATH_INFO"])
    start_response("200 OK", [])
    return [b"ok"]
"""
BARE_ASGI = """
import logging

async def app(scope, receive, send):
    if scope["type"] == "http":
        logging.getLogger("shop").warning("asked %s", scope["path"])
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"ok"})
"""
#: command -> application, and where its access lines are.
COMMANDS = {
    "uvicorn app:app --port 0": (STARLETTE, "uvicorn.access"),
    "uvicorn app:app --port 0 --workers 2": (STARLETTE, "uvicorn.access"),
    "hypercorn -b 127.0.0.1:0 --access-logfile - app:app": (STARLETTE, "hypercorn.access"),
    "gunicorn -b 127.0.0.1:0 --access-logfile - app:app": (FLASK, "gunicorn.access"),
    "gunicorn -b 127.0.0.1:0 -k gthread --preload --access-logfile - app:app": (
        *(BARE, "gunicorn.access"),
    ),
    "gunicorn -b 127.0.0.1:0 -k gevent --access-logfile - app:app": (FLASK, "gunicorn.access"),
    "gunicorn -b 127.0.0.1:0 -k uvicorn_worker.UvicornWorker --access-logfile - app:app": (
        *(STARLETTE, "uvicorn.access"),
    ),
    "flask --app app run --port 0": (FLASK, "werkzeug"),
    "python app.py": (FLASK, "werkzeug"),
    "waitress-serve --listen=127.0.0.1:0 app:app": (BARE, ""),
}
if importlib.util.find_spec("gunicorn.asgi"):  # older ones have no such worker
    COMMANDS["gunicorn -b 127.0.0.1:0 -k asgi --access-logfile - app:app"] = (
        *(BARE_ASGI, "gunicorn.access"),
    )


def command_of(text: str) -> list[str]:
    return [sys.executable, "-c", OTEL_LOGGING, "run", *text.split()]


def variables_of(receiver: Receiver, directory: Path) -> dict[str, str]:
    return {
        "ENVIRONMENT": "production",
        "HOME": str(directory),
        "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.endpoint,
        "OTEL_LOGGING_SPOOL_DIR": str(directory / "spool"),
    }


def requests_in(receiver: Receiver) -> list[Any]:
    return [span for span in receiver.spans if "url.path" in span.attributes]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_line_of_a_request_has_its_trace(
    command: str, receiver: Receiver, tmp_path: Path
) -> None:
    """Also its access line; and its span arrives."""
    application, access = COMMANDS[command]
    (tmp_path / "app.py").write_text(application, "utf-8")
    paths = [f"/orders/{number}" for number in range(5)]
    with Program(command_of(command), cwd=tmp_path, **variables_of(receiver, tmp_path)) as server:
        port = int(server.wait_for_text(r"127\.0\.0\.1:(\d+)\D")[1])
        assert [get(port, path) for path in paths] == [200] * len(paths)
        for path in paths:
            server.wait_for_text(f"asked {path}")
            if access:
                wait_for_access(server.wait_for_text, path)
        receiver.wait_for(lambda r: len(requests_in(r)) == len(paths), 30)
        server.stop(signal.SIGTERM)
    spans = {str(span.attributes["url.path"]): span for span in requests_in(receiver)}
    assert sorted(spans) == paths
    for path in paths:
        lines = [line for line in server.lines() if re.search(rf"{path}\b", line["event"])]
        assert len(lines) == (2 if access else 1)
        assert {line["logger"] for line in lines} >= ({access} if access else set())
        assert {line.get("trace_id") for line in lines} == {spans[path].trace_id}
        assert spans[path].resource["service.name"] == "app"
