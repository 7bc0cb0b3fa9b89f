"""examples/trading as a user starts it: every line, whose it is, and what was changed for that."""

import difflib
import re
from collections import Counter, defaultdict
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.lines import ROOT
from tests.programs import MODULE, Program, ask
from tests.receiver import Receiver

EXAMPLES = ROOT / "examples"
LISTENS = r"http://127\.0\.0\.1:(\d+)"
SPEED = "480"  # the rebalancing, every 17 minutes, is every 2.1 s

#: What a job's lines begin with, and its tag.
JOBS = {
    "refresh_precision": ("precision cache: ", "PRECISION_CACHE"),
    "refresh_prices": ("price cache: ", "PRICE_CACHE"),
    "update_orders": ("orders: ", "ORDER_UPDATE"),
    "calculate_pnl": ("pnl: ", "PNL_CALC"),
    "summarise_day": ("daily summary: ", "DAILY_SUMMARY"),
    "rebalance": ("rebalancing: ", "AUTO_REBAL"),
    "calculate_performance": ("performance: ", "PERF_CALC"),
    "release_locks": ("locks: ", "LOCK_RELEASE"),
    "check_feeds": ("feeds: ", "WS_HEALTH"),
    "refresh_market": ("market: ", "MARKET_INFO"),
}
#: Lines of the modules that jobs and requests share.
SHARED = {
    r"order rebalancing-\d+ placed": "AUTO_REBAL",
    r"order web-\d+ placed": None,
    r"order \S+ filled": "ORDER_UPDATE",
    r"feed \w+ connected": "WS_HEALTH",
}
#: The line that each run of a job makes once.
ONCE = re.compile(
    r"precision cache|price cache|orders|pnl|daily summary: \d|rebalancing: progress 100"
    r"|performance|locks: \d|feeds: \d|market"
)


def expected_tag(event: str) -> str | None:
    """Return the tag that a line has to have, from what it says alone."""
    for start, tag in JOBS.values():
        if event.startswith(start):
            return tag
    for pattern, shared in SHARED.items():
        if re.match(pattern, event):
            return shared
    failed = re.match(r'Job "(\w+) .* raised an exception', event)
    return JOBS[failed[1]][1] if failed else None


def count(lines: list[bytes], text: bytes) -> int:
    return sum(text in line for line in lines)


def has_run_for_a_while(program: Program, workers: int) -> bool:
    """Say whether each job has run, the rebalancing twice, and orders met a refusal."""
    return (
        count(program.out, b"rebalancing: progress 100%") >= 2 * workers
        and count(program.out, b" trades, turnover ") >= workers
        and count(program.out, b"raised an exception") >= 1
    )


def use(port: int) -> dict[str, int]:
    """Be a client; return the requests made, as an access log has them, and their number."""
    order = {"symbol": "ETH", "quantity": 2, "limit": 9_999}
    assert ask(port, "POST", "/orders", order)[0] == 201
    assert ask(port, "POST", "/orders", {"symbol": "ETH"})[0] == 400
    assert ask(port, "POST", "/orders", order | {"symbol": "EEE"})[0] == 404
    for _ in range(5):
        assert ask(port, "GET", "/portfolio")[1]["equity"] > 0
    assert set(ask(port, "GET", "/prices")[1]) == {"BTC", "ETH", "SOL", "ADA", "XMR", "LTC"}
    return {"POST /orders": 3, "GET /portfolio": 5, "GET /prices": 1}


LOGS = ["--access-logfile", "-", "-c", "trading/gunicorn.conf.py"]
SERVERS = {  # what is started, how many processes run the jobs, and how many there are
    "flask run": (["flask", "--app", "trading", "run", "--port", "0"], 1, 1),
    "gunicorn": (["gunicorn", "-w", "2", "-b", "127.0.0.1:0", *LOGS, "trading:create_app()"], 2, 3),
}


@pytest.mark.parametrize("server", SERVERS)
def test_every_line_is_one_object_with_the_tag_of_its_job(server: str, receiver: Receiver) -> None:
    """Under both servers, theirs too; none doubled; each is at the receiver as well, once."""
    command, workers, processes = SERVERS[server]
    variables = {
        "ENVIRONMENT": "production",
        "TRADING_SPEED": SPEED,
        "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.endpoint,
    }
    with Program([*MODULE, *command], cwd=EXAMPLES, **variables) as program:
        port = int(program.wait_for_text(LISTENS)[1])
        program.wait_for(lambda p: count(p.out, b"feeds: ") >= workers)
        requests = use(port)
        program.wait_for(lambda p: has_run_for_a_while(p, workers))
        assert program.stop() == 0
        lines = program.lines()
        assert program.err == []

    assert [line for line in lines if line.get("job_tag") != expected_tag(line["event"])] == []
    tags = Counter(line["job_tag"] for line in lines if "job_tag" in line)
    assert set(tags) == {tag for _, tag in JOBS.values()}

    asked = Counter(
        found[1]
        for line in lines
        if line["logger"] in ("werkzeug", "gunicorn.access")
        and (found := re.search(r'"(\w+ \S+) HTTP', line["event"]))
    )
    assert asked == requests

    assert Counter((line["timestamp"], line["event"]) for line in lines) == at(receiver)
    assert len({span.resource["process.pid"] for span in receiver.spans}) == processes
    check_runs(receiver)


def at(receiver: Receiver) -> Counter[tuple[str, str]]:
    """Count what is at the receiver, by time and message, as lines have them."""
    epoch = datetime(1970, 1, 1, tzinfo=UTC)
    return Counter(
        (
            f"{epoch + timedelta(microseconds=event.time_ns // 1_000):%Y-%m-%dT%H:%M:%S.%fZ}",
            event.name,
        )
        for span in receiver.spans
        for event in span.events
    )


def check_runs(receiver: Receiver) -> None:
    """Each process's scheduler names each run once, and each run said once what it did."""
    began: defaultdict[str, list[str]] = defaultdict(list)
    said: Counter[str] = Counter()
    failed: Counter[str] = Counter()
    for span in receiver.spans:
        for event in span.events:
            run = re.match(r'Running job "(\w+) .*\(scheduled at (.*)\)', event.name)
            if run:
                began[run[1]].append(f"{span.resource['process.pid']} {run[2]}")
            elif error := re.match(r'Job "(\w+) .* raised an exception', event.name):
                failed[error[1]] += 1
            elif ONCE.match(event.name):
                said[str(event.attributes["job_tag"])] += 1
    for job, (_, tag) in JOBS.items():
        runs = began[job]
        assert len(set(runs)) == len(runs)
        assert (job, said[tag] + failed[job]) == (job, len(runs))


# ---------------------------------------------------------------- what was changed for that

MODULES = [p for p in (EXAMPLES / "trading").glob("*.py") if p.name != "gunicorn.conf.py"]


def before_the_change(diff: str, now: dict[str, list[str]]) -> dict[str, list[str]]:
    """Take *diff*, which only adds, off the files *now*; each line in it has to be there."""
    before: dict[str, list[str]] = {}
    name, at_line = "", 0
    for line in diff.splitlines(keepends=True):
        if line.startswith("+++ "):
            name = line.split("/")[-1].strip()
            before[name] = list(now[name])
        elif line.startswith("@@"):
            at_line = int(line.split("+")[1].split(",")[0]) - 1
        elif not line.startswith("--- "):
            assert line[0] in "+ "
            assert now[name][at_line] == line[1:]
            if line[0] == "+":
                before[name][at_line] = ""
            at_line += 1
    return {name: [line for line in lines if line] for name, lines in before.items()}


@pytest.fixture
def before(tmp_path: Path) -> Path:
    """The application as it was, in a directory of its own."""
    trading = tmp_path / "before" / "trading"
    trading.mkdir(parents=True)
    diff = (EXAMPLES / "trading" / "change.diff").read_text("utf-8")
    now = {path.name: path.read_text("utf-8").splitlines(keepends=True) for path in MODULES}
    for name, lines in (now | before_the_change(diff, now)).items():
        if lines:
            (trading / name).write_text("".join(lines), "utf-8")
    return trading


def test_the_change_is_one_call_and_a_decorator_a_job(before: Path) -> None:
    """Beside imports and the list of tags; no line that was there is another one now."""
    added: defaultdict[str, list[str]] = defaultdict(list)
    for path in MODULES:
        was = before / path.name
        old = was.read_text("utf-8").splitlines() if was.exists() else []
        for line in difflib.ndiff(old, path.read_text("utf-8").splitlines()):
            assert not line.startswith("-")
            if line.startswith("+"):
                added[path.name].append(line[2:])
    assert "otel_logging" not in "".join(p.read_text("utf-8") for p in before.iterdir())
    assert added.keys() == {"__init__.py", "jobs.py", "tags.py"}
    assert added["__init__.py"] == [
        "from otel_logging import setup_observability",
        '    setup_observability("trading")',
    ]
    imports, decorators = added["jobs.py"][:2], added["jobs.py"][2:]
    assert imports == [
        "from otel_logging import tag_background_logger",
        "from trading.tags import JobTag",
    ]
    assert sorted(decorators) == sorted(
        f"@tag_background_logger(JobTag.{tag})" for _, tag in JOBS.values()
    )


def test_before_the_decorators_the_application_runs_without_tags(before: Path) -> None:
    """The same messages, on stderr, without a tag."""
    command, *_ = SERVERS["flask run"]
    with Program([*MODULE, *command], cwd=before.parent, TRADING_SPEED=SPEED) as program:
        port = int(program.wait_for_text(LISTENS)[1])
        assert ask(port, "GET", "/portfolio")[0] == 200  # from here on Ctrl-C is the server's
        program.wait_for(lambda p: all(start in p.said() for start, _ in JOBS.values()))
        assert program.stop() == 0
        assert not re.search("[A-Z]_[A-Z]", program.said())
