"""Servers that are in no table: a bare application's requests are traces, each of its user."""

import http.client
import os
import signal
import socket
import sys
from pathlib import Path

import pytest

from tests.lines import parsed
from tests.programs import Program, script

pytestmark = pytest.mark.skipif(os.name != "posix", reason="servers that are ended by a signal")

SET_UP = """
from otel_logging import bind_context, get_logger, setup_observability
setup_observability("shop")
log = get_logger("shop")

def serve(path):
    log.info("begun", path=path)
    if path == "/alice":
        bind_context(user_id="alice")
    log.info("served", path=path)
"""
ASGI = """
async def app(scope, receive, send):
    if scope["type"] == "http":
        serve(scope["path"])
        length = [(b"content-length", b"2")]
        await send({"type": "http.response.start", "status": 200, "headers": length})
        await send({"type": "http.response.body", "body": b"ok"})
"""
WSGI = """
def app(environ, start_response):
    serve(environ["PATH_INFO"])
    start_response("200 OK", [("Content-Length", "2")])
    return [b"ok"]
"""
#: command -> application
COMMANDS = {
    "daphne -v 0 -b 127.0.0.1 -p {port} app:app": ASGI,
    "granian --interface asgi --host 127.0.0.1 --port {port} --no-ws app:app": ASGI,
    "granian --interface wsgi --blocking-threads 1 --host 127.0.0.1 --port {port} app:app": WSGI,
}


@pytest.mark.parametrize("command", COMMANDS)
def test_a_request_has_nothing_of_its_connection_s_earlier_one(
    command: str, tmp_path: Path
) -> None:
    """Each is a trace, which begins with nothing bound."""
    pytest.importorskip(command.split()[0])
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    (tmp_path / "app.py").write_text(SET_UP + COMMANDS[command], "utf-8")
    variables = {
        "ENVIRONMENT": "production",
        "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9",  # nobody there
        "OTEL_LOGGING_SPOOL_DIR": str(tmp_path / "spool"),
    }
    words = command.format(port=port).split()
    program = [Path(sys.executable).with_name(words[0]), *words[1:]]
    with Program(program, cwd=tmp_path, **variables) as server:
        server.wait_for(lambda _: _is_open(port))
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
        for path in ("/alice", "/nobody"):
            connection.request("GET", path)
            assert connection.getresponse().read() == b"ok"
        connection.close()
        server.stop(signal.SIGTERM)
        own = [line for line in server.out if line.startswith(b"{")]  # granian's master prints
        lines = [line for line in parsed(b"".join(own)) if line["logger"] == "shop"]
    assert [(line["event"], line["path"], line.get("user_id")) for line in lines] == [
        ("begun", "/alice", None),
        ("served", "/alice", "alice"),
        ("begun", "/nobody", None),
        ("served", "/nobody", None),
    ]
    assert len({line["trace_id"] for line in lines}) == 2


def _is_open(port: int) -> bool:
    with socket.socket() as asked:
        return asked.connect_ex(("127.0.0.1", port)) == 0


#: daphne's own brings twisted, which structlog imports, wherever it is installed: this is what it
#: does. With the real one: the test above.
CALLED = """
import asyncio, sys, types
from otel_logging import bind_context, get_logger, setup_observability

class Server:
    def __init__(self, application):
        self.application = application

    def create_application(self, protocol, scope):
        application = self.application(scope=scope, receive=None, send=None)
        self.connections[protocol]["application_instance"] = asyncio.ensure_future(application)

sys.modules["daphne.server"] = daphne = types.ModuleType("daphne.server")
daphne.Server = Server
import granian.server.mp as granian
setup_observability("shop", environment="production")
log = get_logger("shop")
SCOPE = {"type": "http", "method": "GET", "query_string": b"", "headers": [], "path": "/"}

async def app(scope, receive, send):
    bind_context(user_id=scope["user"])
    log.info("served")

def wsgi(environ, start_response):
    bind_context(user_id=environ["user"])
    log.info("served")
    return []

class Proto:
    receive = send = None
    def response_iter(self, status, headers, body):
        log.info("answered")
        list(body.inner)
        body.close()

async def main():
    server = Server(app)
    wrapped = granian._asgi_call_wrap(app, {}, {}, None)
    for user in ("first", "second"):
        server.connections = {server: {}}
        server.create_application(server, {**SCOPE, "user": user})
        await server.connections[server]["application_instance"]
        await wrapped({**SCOPE, "user": user}, Proto())
        log.info("between")

asyncio.run(main())
wrapped = granian._wsgi_call_wrap(wsgi, {}, None)
for user in ("first", "second"):
    wrapped(Proto(), {"REQUEST_METHOD": "GET", "PATH_INFO": "/", "user": user})
    log.info("between")
"""


def test_what_they_call_is_a_request_of_its_own() -> None:
    """As above, in one process."""
    pytest.importorskip("granian")
    lines = parsed(script(CALLED, OTEL_TRACES_EXPORTER="none").stdout)
    found = [(line["event"], line.get("user_id")) for line in lines]
    of_asgi = [[("served", user)] * 2 + [("between", None)] for user in ("first", "second")]
    of_wsgi = [
        [("served", user), ("answered", user), ("between", None)] for user in ("first", "second")
    ]
    assert found == [each for request in of_asgi + of_wsgi for each in request]
