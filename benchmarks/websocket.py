"""What a WebSocket connection and a message cost, and whether what they record is true.

    python benchmarks/websocket.py          memory a connection, time a message
    python benchmarks/websocket.py load     50 connections of 200 messages, each server and shape
    python benchmarks/websocket.py hostile  clients that mean it ill, without us and with

*Memory*: what our middleware adds to an open connection. *Message*: received, two lines, and
answered, as a multiple of ``traced("message", root=True, kind="server")`` written by hand around
the same. *Load*: planted delays over real servers; every line and span has to be its user's, and
the median message's latency within 5 ms of what its client saw. *Hostile*: the most memory that
the server had, in MiB beyond what it began with.
"""

import argparse
import asyncio
import gc
import os
import statistics
import sys
import tempfile
import time
import traceback
import tracemalloc
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import otel_logging
from otel_logging.integrations.asgi import ObservabilityMiddleware

# stdout becomes a file, as it is for a service under a process manager
report = os.fdopen(os.dup(1), "w")
_sink = tempfile.TemporaryFile()  # noqa: SIM115 - for the life of the process
os.dup2(_sink.fileno(), 1)

log = otel_logging.get_logger("chat")
SCOPE: dict[str, Any] = {"type": "websocket", "path": "/ws", "headers": []}


async def _handle(send: Any) -> None:
    log.info("message received", words=12)
    log.info("message answered", words=12)
    await send({"type": "websocket.send", "text": "x"})


def _app(*, by_hand: bool) -> Any:
    async def app(_: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        otel_logging.bind_context(user_id="ada")
        while (await receive())["type"] == "websocket.receive":
            if by_hand:
                with otel_logging.traced("message", root=True, kind="server"):
                    await _handle(send)
            else:
                await _handle(send)

    return app


async def _talk(app: Any, messages: int) -> float:
    """Return the CPU seconds of so many messages, one after the other."""
    queue: asyncio.Queue[Any] = asyncio.Queue()
    answered = asyncio.Event()

    async def send(event: Any) -> None:
        if event["type"] == "websocket.send":
            answered.set()

    queue.put_nowait({"type": "websocket.connect"})
    serving = asyncio.create_task(app(dict(SCOPE), queue.get, send))
    began = time.process_time()
    for _ in range(messages):
        queue.put_nowait({"type": "websocket.receive", "text": "x"})
        await answered.wait()
        answered.clear()
    took = time.process_time() - began
    queue.put_nowait({"type": "websocket.disconnect", "code": 1000})
    await serving
    return took


async def message() -> float:
    """Return how often a message by hand one of ours costs."""
    by_hand, ours = _app(by_hand=True), ObservabilityMiddleware(_app(by_hand=False))
    ratios = []
    for _ in range(40):
        floor = await _talk(by_hand, 200)
        ratios.append(await _talk(ours, 200) / floor)
    return statistics.median(ratios)


async def memory(number: int = 500) -> float:
    """Return the bytes that ours adds to an open connection that waits for a message."""

    async def opened(app: Any) -> float:
        queues: list[asyncio.Queue[Any]] = [asyncio.Queue() for _ in range(number)]

        async def send(event: Any) -> None:
            pass

        gc.collect()
        tracemalloc.start()
        before = tracemalloc.get_traced_memory()[0]
        tasks = []
        for queue in queues:
            queue.put_nowait({"type": "websocket.connect"})
            tasks.append(asyncio.create_task(app(dict(SCOPE), queue.get, send)))
        await asyncio.sleep(0.5)
        gc.collect()
        used = tracemalloc.get_traced_memory()[0] - before
        tracemalloc.stop()
        for queue in queues:
            queue.put_nowait({"type": "websocket.disconnect", "code": 1000})
        await asyncio.gather(*tasks)
        return used / number

    app = _app(by_hand=False)
    await opened(ObservabilityMiddleware(app))  # whatever is made once
    return await opened(ObservabilityMiddleware(app)) - await opened(app)


def _load() -> None:
    from fastapi import FastAPI
    from starlette.applications import Starlette

    from tests.integrations.load import SHAPES, load
    from tests.integrations.serving import SERVERS

    for number, shape in enumerate(SHAPES):
        for server in SERVERS:
            kind = (FastAPI, Starlette)[(number + SERVERS.index(server)) % 2]
            try:
                found = f"{load(server, shape, kind, 50, 200, 5.0) * 1000:6.2f} ms"
            except AssertionError:
                found = "failed: " + " ".join(traceback.format_exc().split()[-40:])
            print(f"{server:18} {shape:10} {kind.__name__:10} {found}", file=report)
            report.flush()


def _hostile() -> None:
    from tests.integrations.hostile import SERVERS, abused

    for server in SERVERS:
        with tempfile.TemporaryDirectory() as directory:
            both = (abused(server, Path(directory), on, 100_000) for on in ("none", "auto"))
            for (name, without, saw), (_, ours, sees) in zip(*both, strict=True):
                same = "" if saw == sees else f"  {saw} is {sees}"
                print(f"{server:18} {name:32} {without:6.1f} {ours:6.1f}{same}", file=report)
                report.flush()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("part", nargs="?", choices=["load", "hostile"])
    with redirect_stdout(report):
        part = parser.parse_args().part
    if part == "load":
        _load()
    elif part == "hostile":
        _hostile()
    else:
        spool = tempfile.mkdtemp()
        with otel_logging.setup_observability(
            "bench", environment="production", endpoint="http://127.0.0.1:9", spool_dir=spool
        ):
            print(f"message   {asyncio.run(message()):8.2f} x by hand", file=report)
            print(f"memory    {asyncio.run(memory()):8.0f} bytes a connection", file=report)
