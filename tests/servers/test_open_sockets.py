"""A server that is ended while WebSockets are open: nothing hangs, nothing is lost."""

import os
import re
import signal
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest
from websockets.sync.client import connect

from tests.integrations.serving import SERVERS
from tests.programs import Program
from tests.receiver import Receiver, Span

pytestmark = pytest.mark.skipif(os.name != "posix", reason="servers that are ended by a signal")

APPLICATION = """
import asyncio, logging
from contextlib import asynccontextmanager
from starlette.applications import Starlette
from starlette.routing import WebSocketRoute

log = logging.getLogger("chat")

@asynccontextmanager
async def turn():
    yield

async def words(text):
    for word in text.split():
        yield word

async def fail(text):
    raise ValueError(text)

async def handle(websocket, text):
    log.warning("got %s", text)
    async with turn():
        async for word in words(text):  # left in the middle: a generator that is abandoned
            if word == "slow":
                await asyncio.sleep(600)
            break
    if text == "late":
        try:
            await asyncio.wait_for(asyncio.sleep(600), 0.01)
        except TimeoutError:
            log.warning("given up")
    if text == "group":
        try:
            async with asyncio.TaskGroup() as tasks:
                for name in ("first", "second"):
                    tasks.create_task(fail(name))
        except* ValueError as errors:
            log.warning("failed: %s", len(errors.exceptions))
    await websocket.send_text(text)

async def chat(websocket):
    await websocket.accept()
    async for text in websocket.iter_text():
        if text == "apart":  # which holds its message as long as the connection lasts
            task = asyncio.create_task(handle(websocket, text))
        else:
            await handle(websocket, text)

app = Starlette(routes=[WebSocketRoute("/chat", chat)])
"""
OTEL_LOGGING = "from otel_logging.cli import main; main()"
COMMANDS = {
    **{
        ws: f"uvicorn app:app --port 0 --ws {ws} --timeout-graceful-shutdown 0"
        for ws in SERVERS
        if ws != "hypercorn"
    },
    "hypercorn": "hypercorn -b 127.0.0.1:0 --graceful-timeout 1 app:app",
}
if sys.version_info >= (3, 12):
    del COMMANDS["hypercorn"]  # it waits for ever for a socket that is open, without us as well
MESSAGES = ("hello", "late", "group", "apart", "slow work")


@pytest.mark.parametrize("server", COMMANDS)
def test_a_server_ends_with_its_sockets_open(
    server: str, receiver: Receiver, tmp_path: Path
) -> None:
    """Each message is a trace, also the one that was cut off; so is the end of each connection."""
    (tmp_path / "app.py").write_text(APPLICATION, "utf-8")
    variables = {
        "ENVIRONMENT": "production",
        "HOME": str(tmp_path),
        "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.endpoint,
        "OTEL_LOGGING_SPOOL_DIR": str(tmp_path / "spool"),
        "PYTHONWARNINGS": "ignore",  # uvicorn's oldest implementation
    }
    command = [sys.executable, "-c", OTEL_LOGGING, "run", *COMMANDS[server].split()]
    with Program(command, cwd=tmp_path, **variables) as running, ExitStack() as stack:
        port = int(running.wait_for_text(r"127\.0\.0\.1:(\d+)\D")[1])
        url = f"ws://127.0.0.1:{port}/chat"
        clients = [stack.enter_context(connect(url)) for _ in MESSAGES]
        for client, text in zip(clients, MESSAGES, strict=True):
            client.send(text)
            if text != "slow work":
                assert client.recv() == text
        running.wait_for_text("got slow work")
        code = running.stop(signal.SIGTERM)
    assert not re.search("detach|destroyed|never retrieved|not watched|lost", running.said())
    assert code == (0 if server == "hypercorn" else -signal.SIGTERM)
    lines = [line for line in running.lines() if line["logger"] == "chat"]
    texts = {line["trace_id"]: line["event"] for line in lines if line["event"][:4] == "got "}
    assert sorted(texts.values()) == sorted(f"got {text}" for text in MESSAGES)
    spans = {texts[span.trace_id]: span for span in named("message", receiver)}
    assert sorted(spans) == sorted(texts.values())
    cut_off = spans.pop("got slow work")
    assert cut_off.attributes["cancelled"] is True
    assert {(span.parent_span_id, span.status) for span in spans.values()} == {(None, "unset")}
    assert len(named("disconnect", receiver)) == len(MESSAGES)
    told = {line["event"]: line["trace_id"] for line in lines if line["event"][:4] != "got "}
    assert told == {
        "given up": spans["got late"].trace_id,
        "failed: 2": spans["got group"].trace_id,
    }


def named(name: str, receiver: Receiver) -> list[Span]:
    return [span for span in receiver.spans if span.name == name]
