"""No row is without a reason: of both examples, and of an application without a line of ours."""

import json
import os
import re
import socket
import sys
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from websockets.sync.client import connect

from otel_logging.cli import main
from otel_logging.traces.path import NOTHING
from tests.commands import Runner
from tests.lines import ROOT
from tests.programs import MODULE, Program, ask
from tests.test_examples_chat import talk
from tests.test_examples_trading import use

RUN = (sys.executable, "-c", "from otel_logging.cli import main; main()", "run")
PLAIN = """
import asyncio, logging, sqlite3, time
from fastapi import BackgroundTasks, Depends, FastAPI, WebSocket

app = FastAPI()
log = logging.getLogger("plain")

def database():
    with sqlite3.connect(":memory:", check_same_thread=False) as found:
        yield found

@app.get("/items/{number}")
def item(number: int, database=Depends(database)):
    time.sleep(0.02)
    return {"answer": 12 // database.execute("select ?", (number,)).fetchone()[0]}

@app.post("/letters")
async def letter(tasks: BackgroundTasks):
    tasks.add_task(time.sleep, 0.02)
    log.warning("a letter goes out")

@app.websocket("/rooms/{name}")
async def room(socket: WebSocket, name: str):
    await socket.accept()
    async for text in socket.iter_text():
        await asyncio.sleep(0.02)
        await socket.send_text(text.upper())
"""


def visit(port: int) -> None:
    for number in (1, 2, 0):
        assert ask(port, "GET", f"/items/{number}")[0] == (200 if number else 500)
    assert ask(port, "POST", "/letters")[0] == 200
    for name in ("tea", "coffee"):
        to_server = socket.create_connection(("127.0.0.1", port))
        with connect(f"ws://127.0.0.1:{port}/rooms/{name}", sock=to_server) as room:
            room.send("hello")
            assert room.recv() == "HELLO"


def answer(spool: Path, *arguments: str) -> Any:
    options = ["--json", "--source", "local", "--spool-dir", str(spool)]
    return json.loads(Runner().invoke(main, [*arguments, *options]).stdout)


@cache
def served(command: tuple[str, ...], visit: Callable[[int], object], enough: int) -> Path:
    """Start *command*, *visit* it, and return its store, of so many stages at least."""
    place = Path(tempfile.mkdtemp())
    (place / "plain.py").write_text(PLAIN)
    spool = place / "spool"
    with Program(
        command,
        cwd=ROOT / "examples",
        PYTHONPATH=os.pathsep.join(map(str, (ROOT, place))),
        OTEL_LOGGING_SPOOL_DIR=str(spool),
        OTEL_EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:1",
        TRADING_SPEED="480",
    ) as program:
        port = int(program.wait_for_text(r"http://127\.0\.0\.1:(\d+)")[1])
        visit(port)
        program.wait_for(lambda _: len(answer(spool, "late", "--over", "0.000001")) >= enough)
    return spool


UVICORN = ("uvicorn", "--port", "0")
OF_OTHERS = ((*RUN, *MODULE, *UVICORN, "plain:app"), visit, 8)


@pytest.mark.parametrize(
    ("command", "visit", "enough"),
    [
        OF_OTHERS,
        ((*MODULE, *UVICORN, "chat:app"), talk, 6),
        ((*MODULE, "flask", "--app", "trading", "run", "--port", "0"), use, 9),
    ],
    ids=["plain", "chat", "trading"],
)
def test_no_row_is_without_a_reason(
    command: tuple[str, ...], visit: Callable[[int], object], enough: int
) -> None:
    """It is that nothing was recorded only where nothing was, but the stage itself."""
    spool = served(command, visit, enough)
    rows = answer(spool, "late", "--over", "0.000001")
    assert all(row["reason"] and row["path"] for row in rows)
    for row in rows:
        if row["reason"] == NOTHING:
            span = answer(spool, "show", row["trace_id"])["spans"][0]
            lines = [each for each in span["events"] if each["name"] != "exception"]
            assert {each["attributes"]["logger"] for each in lines} <= {
                "uvicorn.access",
                "werkzeug",
            }


def test_rows_of_an_application_without_a_line_of_ours_can_be_told_apart() -> None:
    """Messages of two rooms by their path; a failure by its place, though a server's line about it
    comes after ours.
    """
    spool = served(*OF_OTHERS)
    rows = answer(spool, "late", "--over", "0.000001")
    messages = {row["trace_id"] for row in rows if row["stage"] == "message"}
    shown = [answer(spool, "show", each)["spans"][0]["attributes"] for each in messages]
    paths = [(each["http.route"], each["url.path"]) for each in shown]
    assert sorted(paths) == [("/rooms/{name}", "/rooms/coffee"), ("/rooms/{name}", "/rooms/tea")]
    (failure,) = answer(spool, "failed")
    assert failure["error"].startswith("ZeroDivisionError: ")
    assert re.fullmatch(r".*/plain\.py:15 item", failure["frame"])
