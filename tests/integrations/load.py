"""Many connections with planted delays, and a judgement of what they left.

The server is a process of its own, and so are the clients; spans go to a real receiver.
"""

import json
import os
import statistics
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from starlette.applications import Starlette

from otel_logging import setup_observability
from tests.integrations.serving import running
from tests.integrations.talk import LATE_USER
from tests.integrations.test_websocket import SHAPES, app_of
from tests.lines import ROOT, parsed
from tests.programs import Program, script
from tests.receiver import Receiver

BUDGET_S = 0.3
PATIENCE_S = 180.0  # for a load of full size on a busy machine
_SERVE = "from tests.integrations.load import serve; serve()"
_TALK = "from tests.integrations.talk import talk; talk()"
_COMMAND = "from otel_logging.cli import main; main()"


def serve() -> None:
    """Be the server, until one is ended."""
    server, kind, lines = sys.argv[1:]
    kinds: dict[str, type] = {each.__name__: each for each in (FastAPI, Starlette)}
    os.dup2(os.open(lines, os.O_CREAT | os.O_WRONLY), 1)  # who reads a pipe may be too slow
    setup_observability("shop")
    with running(app_of(kinds[kind]), server) as port:
        print("listening at", port, file=sys.stderr, flush=True)
        threading.Event().wait()


@contextmanager
def _child(code: str, *arguments: object, **variables: str) -> Iterator[Program]:
    # uvicorn's oldest implementation of WebSockets warns
    command = [sys.executable, "-W", "ignore", "-c", code, *arguments]
    with Program(command, cwd=ROOT, **variables) as program:
        try:
            yield program
        finally:
            program.process.kill()


def load(
    server: str, shape: str, kind: type, connections: int, messages: int, late_s: float
) -> float:
    """Serve so many; return how far the median message is from what its client saw, seconds.

    One message is planted to take *late_s*. Every message is a trace, which arrives while its
    connection is open; every line and span is its user's, and has nothing of another message.
    """
    with tempfile.TemporaryDirectory() as spool, Receiver() as receiver:
        variables = {
            "ENVIRONMENT": "production",
            "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.endpoint,
            "OTEL_LOGGING_BUDGETS": f"message={BUDGET_S}",
            "OTEL_LOGGING_SPOOL_DIR": f"{spool}/spool",
        }
        printed = Path(spool, "lines")
        with _child(_SERVE, server, kind.__name__, printed, **variables) as serving:
            port = int(serving.wait_for_text(r"listening at (\d+)")[1])
            url = f"ws://127.0.0.1:{port}/ws/{shape}"
            with _child(_TALK, url, connections, messages, late_s) as clients:
                answers = json.loads(clients.wait_for(lambda talk: talk.out, PATIENCE_S)[0])
                latencies = {text: took for each in answers for text, took in each.items()}
                receiver.wait_for(lambda r: _messages(r) >= connections * messages, PATIENCE_S)
                assert "disconnect" not in {span.name for span in receiver.spans}
        off = _judge(receiver, parsed(printed.read_bytes()), latencies)
        _name_the_late_one(spool)
    return off


def _messages(receiver: Receiver) -> int:
    return sum(span.name == "message" for span in receiver.spans)


def _judge(receiver: Receiver, lines: list[dict[str, Any]], latencies: dict[str, float]) -> float:
    spans = [span for span in receiver.spans if span.name == "message"]
    assert len({span.trace_id for span in spans}) == len(spans) == len(latencies)
    orders = {span.trace_id: str(span.attributes["order"]) for span in spans}
    assert set(orders.values()) == set(latencies)
    handshakes = {s.trace_id: s.attributes for s in receiver.spans if s.name == "WS /ws/{shape}"}
    for span in spans:
        user = json.loads(orders[span.trace_id])[0]
        assert span.attributes["user_id"] == user
        assert handshakes[span.links[0].trace_id]["user_id"] == user
    of_messages = [line for line in lines if line["event"] in ("handling", "worked")]
    assert len(of_messages) == 2 * len(spans)
    for line in of_messages:
        assert line["order"] == orders[line["trace_id"]]
        assert line["user_id"] == json.loads(line["order"])[0]
    took = {span.trace_id: (span.end_ns - span.start_ns) / 1e9 for span in spans}
    return statistics.median(abs(took[each] - latencies[orders[each]]) for each in took)


def _name_the_late_one(spool: str) -> None:
    """``late`` has the planted user and stage as its first row, ``show`` its lines once."""
    source = ("--source", "local", "--spool-dir", f"{spool}/spool")
    row = json.loads(script(_COMMAND, "late", "--json", *source).stdout)[0]
    assert (row["stage"], row["who"]) == ("message", {"user_id": LATE_USER}), row
    shown = script(_COMMAND, "show", *source, row["trace_id"]).stdout.decode()
    assert [shown.count(f"info    {event}") for event in ("handling", "worked")] == [1, 1], shown


__all__ = ["SHAPES", "load"]
