"""Real servers, set-up before and after them: each line of theirs is ours, once, with its trace."""

import importlib.util
import os
import re
import signal
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.receiver import Receiver
from tests.servers.page import GUNICORN_CONF, table
from tests.servers.running import Cell, Said, ask_all, asked, get, hang_up, run
from tests.servers.wiring import FAILING, user_of

pytestmark = pytest.mark.skipif(os.name != "posix", reason="servers that are ended by a signal")

_UVICORN = {"access": "uvicorn.access", "error": "uvicorn.error"}
_GUNICORN = {"access": "gunicorn.access", "error": "gunicorn.error", "teller": "shop"}
_WERKZEUG = {"access": "werkzeug", "error": "werkzeug", "end": signal.SIGINT, "teller": "shop"}
_HYPERCORN = {"access": "hypercorn.access", "error": "hypercorn.error"}
_ASGI, _WSGI = "tests.servers.asgi", "tests.servers.wsgi"
_DJANGO, _BARE = "tests.servers.django_app", "tests.servers.bare"
_RUN_UVICORN = f"uvicorn {_ASGI}:app --port 0"
_RUN_GUNICORN = "gunicorn -b 127.0.0.1:0 --access-logfile -"
_RUN_FLASK = f"flask --app {_WSGI} run --port 0"
_DJANGOS = {"teller": "django.request"}
_UVICORNS_OWN = r"(INFO|WARNING): +\S"
_GUNICORNS_OWN = r"\[[\d: +-]+\] \[\d+\] \[[A-Z]+\] \S"
_CONF = {"gunicorn.conf.py": GUNICORN_CONF}
_EVENTLET = "eventlet"
if importlib.util.find_spec("gunicorn.workers.geventlet") is None:  # from gunicorn 26 on
    _EVENTLET = "tests.servers.eventlet_worker.EventletWorker"
#: eventlet, and gunicorn 25 of its worker, warn that they are deprecated.
_DEPRECATED = {"PYTHONWARNINGS": "ignore"}

CELLS = [
    Cell("uvicorn", "`uvicorn app:app`", "after", _RUN_UVICORN, **_UVICORN),
    Cell(
        *("uvicorn", "`uvicorn app:app --reload`", "after", f"{_RUN_UVICORN} --reload"),
        supervisor=_UVICORNS_OWN,
        **_UVICORN,
    ),
    Cell(
        *("uvicorn", "`uvicorn app:app --reload --log-config logging.json`", "before"),
        f"{_RUN_UVICORN} --reload --log-config logging.json",
        **_UVICORN,
    ),
    Cell(
        *("uvicorn", "`uvicorn app:app --workers 2`", "after", f"{_RUN_UVICORN} --workers 2"),
        supervisor=_UVICORNS_OWN,
        processes=2,
        **_UVICORN,
    ),
    Cell(
        *("uvicorn", "`uvicorn app:app --workers 2 --log-config logging.json`", "before"),
        f"{_RUN_UVICORN} --workers 2 --log-config logging.json",
        processes=2,
        **_UVICORN,
    ),
    Cell("uvicorn", "`uvicorn.run(app)`", "before", f"{_ASGI} uvicorn", **_UVICORN),
    Cell(
        *("uvicorn", "`uvicorn.run(app, log_config=None)`", "before"),
        f"{_ASGI} uvicorn log_config",
        **_UVICORN,
    ),
    Cell(
        *("uvicorn", '`uvicorn.run("app:app", workers=2)`', "before", f"{_ASGI} uvicorn workers"),
        processes=2,
        **_UVICORN,
    ),
    Cell(
        *("gunicorn", "`gunicorn app:app`", "after", f"{_RUN_GUNICORN} {_WSGI}:app"),
        supervisor=_GUNICORNS_OWN,
        **_GUNICORN,
    ),
    Cell(
        *("gunicorn", "`gunicorn -k gthread app:app`", "after"),
        f"{_RUN_GUNICORN} -k gthread --threads 2 {_WSGI}:app",
        supervisor=_GUNICORNS_OWN,
        **_GUNICORN,
    ),
    Cell(
        *("gunicorn", "`gunicorn --preload app:app`", "after"),
        f"{_RUN_GUNICORN} --preload {_WSGI}:app",
        **_GUNICORN,
    ),
    Cell(
        *("gunicorn", "`gunicorn app:app`, gunicorn.conf.py", "before"),
        f"{_RUN_GUNICORN} {_WSGI}:app",
        files=_CONF,
        **_GUNICORN,
    ),
    Cell(
        *("gunicorn", "`gunicorn -k gthread --log-config-json logging.json app:app`", "before"),
        f"{_RUN_GUNICORN} -k gthread --threads 2 --log-config-json logging.json {_WSGI}:app",
        **_GUNICORN,
    ),
    Cell(
        *("gunicorn, gevent's worker", "`gunicorn -k gevent app:app`", "after"),
        f"{_RUN_GUNICORN} -k gevent {_WSGI}:app",
        supervisor=_GUNICORNS_OWN,
        **_GUNICORN,
    ),
    Cell(
        *("gunicorn, gevent's worker", "`gunicorn -k gevent --preload app:app`", "after"),
        f"{_RUN_GUNICORN} -k gevent --preload {_WSGI}:app",
        **_GUNICORN,
    ),
    Cell(
        *("gunicorn, gevent's worker", "`gunicorn -k gevent app:app`, gunicorn.conf.py", "before"),
        f"{_RUN_GUNICORN} -k gevent {_WSGI}:app",
        files=_CONF,
        **_GUNICORN,
    ),
    Cell(
        *("gunicorn, eventlet's worker", "`gunicorn -k eventlet app:app`", "after"),
        f"{_RUN_GUNICORN} -k {_EVENTLET} {_WSGI}:app",
        supervisor=_GUNICORNS_OWN,
        variables=_DEPRECATED,
        **_GUNICORN,
    ),
    Cell(
        *("gunicorn, eventlet's worker", "`gunicorn -k eventlet --preload app:app`", "after"),
        f"{_RUN_GUNICORN} -k {_EVENTLET} --preload {_WSGI}:app",
        variables=_DEPRECATED,
        **_GUNICORN,
    ),
    Cell(
        "gunicorn, eventlet's worker",
        "`gunicorn -k eventlet app:app`, gunicorn.conf.py",
        "before",
        f"{_RUN_GUNICORN} -k {_EVENTLET} {_WSGI}:app",
        files=_CONF,
        variables=_DEPRECATED,
        **_GUNICORN,
    ),
    Cell(
        *("gunicorn, uvicorn's worker", "`gunicorn -k uvicorn_worker.UvicornWorker app:app`"),
        "after",
        f"{_RUN_GUNICORN} -k uvicorn_worker.UvicornWorker {_ASGI}:app",
        supervisor=_GUNICORNS_OWN,
        **_UVICORN,
    ),
    Cell(
        "gunicorn, uvicorn's worker",
        "`gunicorn -k uvicorn_worker.UvicornWorker app:app`, gunicorn.conf.py",
        "before",
        f"{_RUN_GUNICORN} -k uvicorn_worker.UvicornWorker {_ASGI}:app",
        files=_CONF,
        **_UVICORN,
    ),
    Cell("werkzeug", "`flask run`", "after", _RUN_FLASK, **_WERKZEUG),
    Cell(
        *("werkzeug", "`flask run --reload`", "after", f"{_RUN_FLASK} --reload"),
        processes=2,
        **_WERKZEUG,
    ),
    Cell("werkzeug", "`app.run()`", "before", f"{_WSGI} flask", **_WERKZEUG),
    Cell("werkzeug", "`run_simple(...)`", "before", f"{_WSGI} run_simple", **_WERKZEUG),
    Cell(
        *("hypercorn", "`hypercorn app:app`", "after"),
        f"hypercorn -b 127.0.0.1:0 --access-logfile - {_ASGI}:app",
        **_HYPERCORN,
    ),
    Cell(
        "hypercorn", "`hypercorn.asyncio.serve(...)`", "before", f"{_ASGI} hypercorn", **_HYPERCORN
    ),
    Cell(
        *("waitress", "`waitress-serve app:app`", "after"),
        f"waitress --listen=127.0.0.1:0 {_WSGI}:app",
        access="",
        error="waitress",
        teller="shop",
    ),
    Cell(
        *("gunicorn, Django", "`gunicorn project.wsgi`", "after", f"{_RUN_GUNICORN} {_DJANGO}:app"),
        supervisor=_GUNICORNS_OWN,
        **_GUNICORN | _DJANGOS,
    ),
    Cell(
        *("waitress, Django", "`waitress-serve project.wsgi:application`", "after"),
        f"waitress --listen=127.0.0.1:0 {_DJANGO}:app",
        **{"access": "", "error": "waitress"} | _DJANGOS,
    ),
    Cell(
        *("uvicorn, Django", "`uvicorn project.asgi:application`", "after"),
        f"uvicorn {_DJANGO}:asgi --port 0",
        **_UVICORN | _DJANGOS,
    ),
    Cell(
        *("gunicorn, no framework", "`gunicorn -k gthread app:app`", "after"),
        f"{_RUN_GUNICORN} -k gthread --threads 4 --keep-alive 5 {_BARE}:app",
        supervisor=_GUNICORNS_OWN,
        **_GUNICORN,
    ),
    Cell(
        *("waitress, no framework", "`waitress-serve app:app`", "after"),
        f"waitress --listen=127.0.0.1:0 {_BARE}:app",
        access="",
        error="waitress",
        teller="shop",
    ),
]

#: Servers that write the traceback of an exception to stderr, and no line.
PLAIN = [
    Cell(
        *(server, f"`{server}`", "before", f"{_BARE} {server}"),
        access="access",
        error="",
        teller="shop",
    )
    for server in ("wsgiref", "gevent", "eventlet")
]


def _named(started: str) -> Cell:
    return next(cell for cell in CELLS if cell.started == started)


#: The application's own console handlers, before set-up and after it; tests/test_takeover.py has
#: each of them with each order.
CONSOLES = [
    replace(_named(f"`{started}`"), variables={"STEPS": steps})
    for started, steps in (
        ("uvicorn app:app", "setup basicConfig"),
        ("flask run", "basicConfig setup"),
        ("flask run", "setup dictConfig"),
        ("gunicorn --preload app:app", "dictConfig setup"),
    )
]


#: Those whose clients hang up as well.
HUNG_UP = [
    _named(started)
    for started in (
        *("`run_simple(...)`", "`gunicorn --preload app:app`", "`gunicorn -k gthread app:app`"),
        *("`gunicorn -k gevent app:app`", "`gunicorn -k eventlet app:app`"),
        "`waitress-serve app:app`",
    )
]


@pytest.mark.parametrize("cell", [*CELLS, *CONSOLES], ids=str)
def test_each_line_of_a_server_is_there_once_with_its_trace(cell: Cell, tmp_path: Path) -> None:
    """Each line is ours and there once, an access or error line with its request's trace. Where
    clients hang up, their requests are ended as cancelled, and the next one has nothing of them.
    """
    said = run(cell, tmp_path, ask_and_hang_up if cell in HUNG_UP else ask_all)
    assert said.statuses == {p: 500 if p.endswith(FAILING) else 200 for p in cell.paths}
    _whose_are_they(cell, said)
    _nothing_is_doubled(cell, said)
    _what_is_on_stderr(cell, said)
    if cell in HUNG_UP:
        _what_was_hung_up(said)


def ask_and_hang_up(cell: Cell, port: int, wait_for: Callable[[str], Any]) -> dict[str, int]:
    statuses = ask_all(cell, port, wait_for)
    for n in range(20):
        hang_up(port, f"/stream/endless/{n}")
        wait_for(f'"/stream/endless/{n}".*body closed|body closed.*"/stream/endless/{n}"')
    get(port, "/health")
    get(port, "/after")
    wait_for("plain /after")
    return statuses


def _what_was_hung_up(said: Said) -> None:
    lines = [line for line in said.lines if "/stream/endless" in str(line.get("path", ""))]
    owners = {(line["path"], line["user_id"], line["trace_id"]) for line in lines}
    assert len(owners) == len({path for path, _, _ in owners}) == 20
    assert all(user == user_of(path) for path, user, _ in owners)
    (last,) = said.of("shop.plain", "^plain /after\n")
    assert last["trace_id"] not in {trace_id for *_, trace_id in owners}
    assert last["user_id"] == user_of("/after")


@pytest.mark.parametrize("cell", PLAIN, ids=str)
def test_a_server_of_a_library(cell: Cell, tmp_path: Path) -> None:
    """What it says of a request has the request's trace."""
    _whose_are_they(cell, run(cell, tmp_path))


def _whose_are_they(cell: Cell, said: Said) -> None:
    traces = set()
    for path in cell.paths:
        own = [*said.of("shop.plain", f"^plain {path}\n"), *said.of("shop", "")]
        own = [line for line in own if line.get("path", path) == path]
        own = [line for line in own if "exception" not in line]
        assert Counter(line["event"] for line in own) >= Counter(_events(cell, path))
        if cell.access:
            own += said.of(cell.access, asked(path))
            assert own[-1]["logger"] == cell.access
        if path.endswith(FAILING) and cell.error:
            teller = cell.error if path == "/raise" or not cell.teller else cell.teller
            own += said.of(teller, f"RuntimeError: cannot do {path}$")
            assert "RuntimeError" in own[-1].get("exception", own[-1]["event"])
        (owner,) = {(line.get("trace_id"), line.get("user_id")) for line in own}
        assert owner[0]
        assert owner[1] == user_of(path)
        traces.add(owner[0])
    assert len(traces) == len(cell.paths)


def _events(cell: Cell, path: str) -> list[str]:
    streamed = ["piece", "piece", "body closed"] if path.startswith("/stream") else []
    torn_down = ["torn down"] if _WSGI in cell.command and path != "/raise" else []
    return [f"plain {path}", "structured", *streamed, *torn_down]


def _nothing_is_doubled(cell: Cell, said: Said) -> None:
    keys = ("logger", "event", "path", "number")
    times = Counter(tuple(line.get(key) for key in keys) for line in said.lines)
    for (logger, event, *_), count in times.items():
        if event.startswith("An exception was thrown while monkey_patching"):
            continue  # of eventlet up to 0.40.3, for each lock that was there before its patch
        if logger == "waitress.queue":  # how many requests wait
            continue
        # the same words once a process, and once a failed request
        assert count <= max(cell.processes, 2 if logger == cell.error else 1), event
    assert not [line for line in said.lines if line["event"].startswith("OWN ")]


def _what_is_on_stderr(cell: Cell, said: Said) -> None:
    foreign = said.stderr.splitlines()
    assert bool(foreign) == (cell.supervisor is not None)
    for line in foreign:
        assert re.match(cell.supervisor or "$.", line)


@pytest.mark.parametrize("worker", ["gevent", "eventlet"])
@pytest.mark.parametrize("preload", ["", " --preload"])
def test_a_green_worker_that_is_stopped(
    worker: str, preload: str, receiver: Receiver, tmp_path: Path
) -> None:
    """It ends what it does: each request is answered, its line has its trace, its spans arrive."""
    answers: dict[str, Future[int]] = {}

    def ask(cell: Cell, port: int, wait_for: Callable[[str], Any]) -> dict[str, int]:
        for path in ("/0", "/1", "/slow"):
            answers[path] = users.submit(get, port, path)
            wait_for(f"plain {path}")
        return {}

    cell = _named(f"`gunicorn -k {worker}{preload} app:app`")
    variables = {**cell.variables, "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.endpoint}
    with ThreadPoolExecutor() as users:
        said = run(replace(cell, variables=variables), tmp_path, ask)
        assert {answer.result() for answer in answers.values()} == {200}
    (access,) = said.of(cell.access, asked("/slow"))
    requests = [span for span in receiver.spans if span.name == "GET /<path:_>"]
    assert {span.attributes["user_id"]: span.trace_id for span in requests} == {
        line["user_id"]: line["trace_id"] for line in said.of("shop.plain", "^plain ")
    }
    assert len(requests) == 3
    assert access["trace_id"] in {span.trace_id for span in requests}


# ---------------------------------------------------------------- the page


def test_the_page_lists_what_is_run() -> None:
    """Each row of the table is a cell of the matrix, and each cell a row."""
    where = {None: "", _UVICORNS_OWN: "supervisor", _GUNICORNS_OWN: "master"}
    rows = [(c.server, c.started, c.order, where[c.supervisor]) for c in CELLS]
    assert table("server") == rows
