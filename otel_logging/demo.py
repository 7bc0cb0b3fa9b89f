"""A small chat service that answers some users late; it then shows which, and why.

No output is prepared, and nothing sleeps to be late. Every user's history is searched by the same
query, which compares each message with all others: one user has never deleted any. And a new
password is hashed on the event loop, which holds up the user who is being answered then.
"""

import asyncio
import contextlib
import hashlib
import math
import random
import shlex
import shutil
import socket
import sqlite3
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from pathlib import Path
from typing import Final

import click
import uvicorn
from rich.text import Text
from starlette.applications import Starlette
from starlette.routing import WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect
from websockets.asyncio.client import ClientConnection, connect

from otel_logging import bind_context, get_logger, handoff, setup_observability, taking, traced
from otel_logging._text import visible
from otel_logging.handover import Handoff
from otel_logging.settings import load, spool_base
from otel_logging.traces import local
from otel_logging.traces.draw import table, terminal, waterfall
from otel_logging.traces.late import Question, late

SERVICE: Final = "chat-gateway"
BUDGET_S: Final = 0.5  # a reply that takes longer feels slow in a chat
_NAMES: Final = "ada ben carla dmitri elif farah grace hugo ines jonas kira liam"
USERS: Final = tuple(_NAMES.split())
HOARDER: Final = "grace"  # the one who has never deleted a message
MESSAGES: Final = (
    "what do I keep coming back to?",
    "and what else did I ask about it?",
    "then please close it, thank you",
)
CAREFUL: Final = "hugo"  # the one who sets a new password
NEIGHBOUR: Final = "ines"  # the one who is being answered then
NEW_PASSWORD: Final = "/password"  # noqa: S105 - the command for one
_WORKERS: Final = 4

log = get_logger("chat")


# ---------------------------------------------------------------- the service


#: A message on its way to a worker: the user, the text, and where the answer goes.
Job = tuple[str, str, asyncio.Future[str]]


class ChatService:
    """Answers messages from each user's own history."""

    def __init__(self, history: "History") -> None:
        self.history = history
        self.jobs: asyncio.Queue[Handoff[Job]] = asyncio.Queue()

    def application(self) -> Starlette:
        """Return it as an ASGI application."""
        routes = [WebSocketRoute("/chat/{user_id}", self.chat)]
        return Starlette(routes=routes, lifespan=self.working)

    @contextlib.asynccontextmanager
    async def working(self, _: Starlette) -> AsyncIterator[None]:
        """Keep the workers running."""
        workers = [asyncio.create_task(self.work()) for _ in range(_WORKERS)]
        yield
        for worker in workers:
            worker.cancel()
        await asyncio.wait(workers)

    async def chat(self, websocket: WebSocket) -> None:
        """Serve one user's connection: each message is a trace of its own, by itself."""
        user_id = websocket.path_params["user_id"]
        await websocket.accept()
        log.info("connected", user_id=user_id)
        with contextlib.suppress(WebSocketDisconnect):
            async for text in websocket.iter_text():
                bind_context(user_id=user_id)
                log.info("message received", chars=len(text))
                if text == NEW_PASSWORD:
                    answer = self.history.set_password(user_id)
                else:
                    answer = await self.ask(user_id, text)
                with traced("reply"):
                    await websocket.send_text(answer)
                log.info("reply sent")

    async def ask(self, user_id: str, text: str) -> str:
        """Hand a message to the workers and wait for the answer."""
        answer: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        await self.jobs.put(handoff((user_id, text, answer)))
        return await answer

    async def work(self) -> None:
        """Answer messages of all users, each on behalf of the user who wrote it."""
        while True:
            handed = await self.jobs.get()
            user_id, text, answer = handed.item
            with taking(handed, name="answer"):
                try:
                    favourite = await asyncio.to_thread(self.search, user_id)
                    answer.set_result(f"{text} You wrote most about: {favourite}")
                except Exception as error:
                    answer.set_exception(error)

    @traced("search history")
    def search(self, user_id: str) -> str:
        """Return what *user_id* wrote about most. Blocks: to be called in a thread."""
        count = self.history.count(user_id)
        favourite = self.history.favourite(user_id)
        log.info("history searched", messages=count, compared=count * count)
        return favourite


def _cpu_s(work: Callable[[str], object], user_id: str) -> float:
    before = time.thread_time()
    work(user_id)
    return time.thread_time() - before


class History:
    """What all users wrote before, in an SQLite file."""

    _TOPICS: Final = ("invoice", "delivery", "password", "refund", "meeting", "printer")

    def __init__(self, path: Path) -> None:
        self._path = path
        self.rounds = 10_000  # of a password's hash

    def set_password(self, user_id: str) -> str:
        """Keep the hash of a new password: slow on purpose, and called on the event loop."""
        kept = hashlib.pbkdf2_hmac("sha256", b"a new one", user_id.encode(), self.rounds)
        return f"Your password has changed: {kept.hex()[:4]}"

    def harden_until(self, seconds: float) -> None:
        """Use so many rounds for a password that it takes *seconds* of this machine's CPU."""
        took = 0.0
        while took < 0.1:  # measured too shortly, a round is slower: they would be too few
            self.rounds *= 2
            took = _cpu_s(self.set_password, "nobody")
        self.rounds = int(self.rounds * seconds / took)

    @contextlib.contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        with contextlib.closing(sqlite3.connect(self._path)) as database, database:
            yield database

    def write(self, user_id: str, count: int) -> None:
        """Add *count* messages of *user_id*."""
        topics = random.choices(self._TOPICS, k=count)  # noqa: S311 - small talk
        rows = [(user_id, topic, f"please look at last week's {topic} again") for topic in topics]
        with self._open() as database:
            database.execute("CREATE TABLE IF NOT EXISTS messages (user_id, topic, text)")
            database.execute("CREATE INDEX IF NOT EXISTS of_user ON messages (user_id)")
            database.executemany("INSERT INTO messages VALUES (?, ?, ?)", rows)

    def count(self, user_id: str) -> int:
        """Return how many messages *user_id* has."""
        with self._open() as database:
            query = "SELECT count(*) FROM messages WHERE user_id = ?"
            return int(database.execute(query, [user_id]).fetchone()[0])

    def favourite(self, user_id: str) -> str:
        """Return the message with the topic that most others name.

        It compares each with each: with twice the messages it takes four times as long.
        """
        with self._open() as database:
            query = """
                SELECT one.text FROM messages AS one
                JOIN messages AS other ON other.text LIKE '%' || one.topic || '%'
                WHERE one.user_id = ?1 AND other.user_id = ?1
                GROUP BY one.rowid ORDER BY count(*) DESC LIMIT 1
            """
            return str(database.execute(query, [user_id]).fetchone()[0])

    def grow_until(self, seconds: float, user_id: str) -> None:
        """Add messages of *user_id* until a search takes *seconds* of this machine's CPU."""
        took = 0.0
        while took < 0.1:  # a shorter time says little: Windows' clock ticks every 16 ms
            self.write(user_id, 100)
            took = _cpu_s(self.favourite, user_id)
        self.write(user_id, int(self.count(user_id) * (math.sqrt(seconds / took) - 1)))


# ---------------------------------------------------------------- the users


async def everybody(address: tuple[str, int]) -> None:
    """Be all users. They write side by side. Then one is being answered while another sets a new
    password. The user whose search is long asks last, so it is the same each time who waits.
    """
    async with contextlib.AsyncExitStack() as left:
        connections = dict[str, ClientConnection]()
        for user_id in USERS:
            # with its own socket no HTTP proxy of the environment is used
            to_server = left.enter_context(socket.create_connection(address))
            opening = connect(f"ws://localhost/chat/{user_id}", sock=to_server)
            connections[user_id] = await left.enter_async_context(opening)
        neighbour, careful = connections[NEIGHBOUR], connections[CAREFUL]
        async with asyncio.TaskGroup() as users:
            for user_id, connection in connections.items():
                texts = MESSAGES[:-1] if connection in (neighbour, careful) else MESSAGES
                if user_id != HOARDER:
                    users.create_task(talk(user_id, connection, texts))
        await neighbour.send(MESSAGES[-1])
        await asyncio.sleep(0)  # the next turn of the loop: before the answer
        await careful.send(NEW_PASSWORD)
        await asyncio.gather(neighbour.recv(), careful.recv())
        await talk(HOARDER, connections[HOARDER], MESSAGES[:1])


async def talk(user_id: str, connection: ClientConnection, texts: Sequence[str]) -> None:
    """Be a user: type, send, wait for the reply; several times."""
    typing = random.Random(user_id)  # noqa: S311 - rhythm, not secrets
    for text in texts:
        await asyncio.sleep(typing.uniform(0.3, 2.0))
        await connection.send(text)
        await connection.recv()


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield  # Ctrl-C stays asyncio's, which cancels the users first


async def serve_everybody(history: History) -> None:
    """Serve all users at once, until the last one has left."""
    service = ChatService(history)
    server = _Server(uvicorn.Config(service.application(), log_config=None, log_level="warning"))
    with socket.create_server(("127.0.0.1", 0)) as listening:
        serving = asyncio.create_task(server.serve(sockets=[listening]))
        try:
            await everybody(listening.getsockname())
        finally:
            server.should_exit = True
            await serving


# ---------------------------------------------------------------- the demo


def run(*, environment: str | None = None, spool_dir: Path | None = None) -> None:
    """Run the service for about ten seconds, then show which messages were late, and why.

    Scope: process. Failure: raises ``ConfigurationError``. Blocks.
    """
    since_ns = time.time_ns()
    with (
        setup_observability(
            SERVICE, environment=environment, spool_dir=spool_dir, budgets={"message": BUDGET_S}
        ),
        tempfile.TemporaryDirectory(prefix="otel-logging-demo-") as directory,
    ):
        history = History(Path(directory) / "history.db")
        for user_id in USERS:
            history.write(user_id, 30)
        history.grow_until(2 * BUDGET_S, HOARDER)
        history.write(NEIGHBOUR, 300)  # some 20 ms
        history.harden_until(1.5 * BUDGET_S)
        asyncio.run(serve_everybody(history))
    show(since_ns, spool_dir)


def show(since_ns: int, spool_dir: Path | None) -> None:
    """Print what ``otel-logging late`` and ``show`` print about the service *since_ns*."""
    places = spool_base() if spool_dir is None else [spool_dir]
    spans, _ = local.read(places)
    answer = late(spans, Question(since_ns=since_ns, service=SERVICE))
    out = terminal.console()
    title, *lines = table.draw(answer, width=out.width)
    read = ["local store"], [visible(str(each)) for each in places if each.is_dir()]
    drawn = [terminal.titled(title, *read, out.width), *lines]
    click.echo()
    if not answer.rows:
        terminal.show(out, drawn)
        click.echo("Is a sampler at work, OTEL_SDK_DISABLED or ENVIRONMENT=test?")
        return
    # the picture first: the table is the answer, and stands on the screen at the end
    worst = answer.rows[0].trace
    terminal.show(out, [*waterfall.draw(worst, width=out.width), Text(), *drawn])
    option = "" if spool_dir is None else f" --spool-dir {shlex.quote(str(spool_dir))}"
    click.echo("\nLook further:")
    # its whole path, if it is not on the PATH: the virtual environment is not active
    called = sys.argv[0]
    is_elsewhere = called.endswith("otel-logging") and not shutil.which("otel-logging")
    command = shlex.quote(called) if is_elsewhere else "otel-logging"
    click.echo(f"  {command} late{option}")
    click.echo(f"  {command} show {worst.trace_id[:8]}{option}")
    click.echo(f"A collector at {load(SERVICE).exporter.shown} passes them on to Jaeger.")
    click.echo("Until one answers there, they wait on disk; the next run sends them.")
