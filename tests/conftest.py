"""Fixtures of all tests, and a guard that keeps them out of the user's own directories."""

import gc
import itertools
import os
import re
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import structlog
from hypothesis import HealthCheck, settings
from hypothesis.strategies import text
from opentelemetry import context as otel_context
from structlog.contextvars import clear_contextvars

from otel_logging import Observability, _diagnostics, _runtime, clear_context, setup_observability
from otel_logging.context import CURRENT
from otel_logging.integrations import registry
from otel_logging.logs import configure
from tests.lines import parsed
from tests.programs import none_left
from tests.receiver import Receiver, Span

#: A port of loopback that nobody listens at.
NOWHERE = "http://127.0.0.1:1"

# servers of tests are on loopback, whatever proxy this machine has
os.environ["no_proxy"] = "127.0.0.1,localhost"

# a shell ignores it for what runs in its background; servers of tests are ended by it
signal.signal(signal.SIGINT, signal.default_int_handler)

# each worker, and hundreds of child processes, would compile tests and package anew
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

_numbers = itertools.count()

# nothing that is imported or collected is garbage: a quarter of the time would go into looking
gc.disable()

# a busy machine is no finding
_SLOW = [HealthCheck.too_slow]
# ./check draws hypothesis's own number; who has an evening asks for `--hypothesis-profile long`
for _profile, _examples in {"brief": 10, "check": 100, "long": 1_000}.items():
    settings.register_profile(
        _profile, deadline=None, suppress_health_check=_SLOW, max_examples=_examples
    )
settings.load_profile("brief")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Real programs are for who asks for them: they take minutes, a Docker engine among them."""
    parser.addoption(
        "--backends", action="store_true", help="run tests/backends and tests/compose as well"
    )


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A deadline that others on the machine were in the way of is kept the second time."""
    for item in items:
        if item.get_closest_marker("alone"):
            item.add_marker(pytest.mark.flaky(reruns=2, reruns_delay=1))


@pytest.hookimpl(wrapper=True)
def pytest_sessionstart(session: pytest.Session) -> Iterator[None]:
    """Several workers collect now: what hypothesis makes of all characters, and keeps, is made
    meanwhile, and once. Each would take most of a second for it.
    """
    yield
    if session.config.getoption("numprocesses", None) and _collects_all(session):
        text().validate()


def _collects_all(session: pytest.Session) -> bool:
    return [Path(each).resolve() for each in session.config.args] == [Path(__file__).parent]


def pytest_collection(session: pytest.Session) -> None:
    """Of several workers each begins with other files: what one has compiled the next one reads."""
    here, worker = Path(__file__).parent, getattr(session.config, "workerinput", None)
    if worker is None or not _collects_all(session):
        return
    files = sorted(here.rglob("test_*.py"))[int(worker["workerid"][2:]) :: worker["workercount"]]
    for path in files:
        with suppress(Exception, pytest.skip.Exception):  # pytest tells it, where it collects them
            import_module(".".join(path.relative_to(here.parent).with_suffix("").parts))


@pytest.hookimpl(wrapper=True)
def pytest_report_to_serializable() -> Iterator[Any]:
    """A failure with a lone surrogate in it is told, and does not end xdist's whole run."""
    return encodable((yield))


def encodable(value: Any) -> Any:
    """Return *value* with its texts as UTF-8 can have them."""
    if isinstance(value, dict):
        return {encodable(key): encodable(of) for key, of in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(encodable(each) for each in value)
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    return value


def pytest_collection_finish() -> None:
    """Thousands of tests and all that they import are not garbage: no collection of a test's own
    looks through them, for a tenth of a second in the midst of what a test measures.
    """
    gc.collect()
    gc.freeze()
    gc.enable()


@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Where no test has failed nobody looks into their directories. pytest removes them three runs
    later, one after the other: a disk may take 2 ms for each of 25,000.
    """
    if session.testsfailed == 0:
        with ThreadPoolExecutor(16) as side_by_side:
            for each in session.config._tmp_path_factory.getbasetemp().iterdir():
                side_by_side.submit(shutil.rmtree, each, ignore_errors=True)


@pytest.fixture(scope="session")
def asked(request: pytest.FixtureRequest) -> None:
    """Skip what needs real programs, unless somebody has asked for it."""
    if not request.config.getoption("--backends"):
        pytest.skip("needs a real collector and Jaeger: tests/backends/install, then --backends")


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    """An OTLP/HTTP receiver that accepts everything until told otherwise."""
    with Receiver() as running:
        yield running


def leave_alone() -> None:
    """Leave hooks, and loggers other than ours, as they were before set-up."""
    configure.use(replace(_runtime.current, taken_over={}))


@pytest.fixture(autouse=True)
def _clean_slate() -> Iterator[None]:
    """What one test bound, reported, set up or took over is not there in the next."""
    _diagnostics.forget()
    with none_left():
        yield
    _runtime.swap(_runtime.Runtime(redaction=_runtime.current.redaction))
    registry.uninstrument()
    configure.use(_runtime.Runtime(redaction=_runtime.current.redaction))
    structlog.reset_defaults()
    clear_context()
    clear_contextvars()
    CURRENT.set(otel_context.Context())
    _diagnostics.forget()


@pytest.fixture(scope="module", autouse=True)
def _no_other_tests(request: pytest.FixtureRequest) -> Iterator[None]:
    """A file's tests are an application by themselves: what an application's modules have is looked
    through, and those of a hundred other files of tests would take most of the time.
    """
    others = {name for name in sys.modules if re.fullmatch(r"tests\.(\w+\.)*test_\w+", name)}
    taken = {name: sys.modules.pop(name) for name in others - {request.module.__name__}}
    yield
    sys.modules.update(taken)


@pytest.fixture(scope="session")
def _temporary() -> Iterator[str]:
    """A directory of this run alone; its name is short, for sockets that are in it."""
    with tempfile.TemporaryDirectory(prefix="tests-", ignore_cleanup_errors=True) as made:
        Path(made).chmod(0o711)  # some tests are another user for a while
        yield made


@pytest.fixture
def tmp_path(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory of the test's own; pytest's looks through those of all tests for its number."""
    name = re.sub(r"\W", "_", request.node.name)[:30]
    made = tmp_path_factory.getbasetemp() / f"{name}{next(_numbers)}"
    made.mkdir(mode=0o700)
    return made


@pytest.fixture(autouse=True)
def _no_place_of_the_user(
    _clean_slate: None,
    _temporary: str,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The user's spool directory is a temporary one, for child processes as well. Nor is the
    machine's temporary directory looked through, which root's commands do, and left things in.
    A home is made by who needs one.
    """
    home = tmp_path_factory.getbasetemp() / f"home{next(_numbers)}"
    monkeypatch.setattr(tempfile, "tempdir", _temporary)
    monkeypatch.setenv("TMPDIR", _temporary)
    for name in ("HOME", "USERPROFILE", "LOCALAPPDATA"):
        monkeypatch.setenv(name, str(home))
    monkeypatch.setenv("XDG_STATE_HOME", str(home / "state"))
    if os.name == "posix":  # root reads every user's
        import pwd

        monkeypatch.setattr(pwd, "getpwall", list)
    monkeypatch.setenv("OTEL_LOGGING_JAEGER_URL", NOWHERE)  # nor is theirs asked


@pytest.fixture
def in_utc(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Local time is UTC."""
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


Lines = Callable[[], list[dict[str, Any]]]


@pytest.fixture
def lines(capsys: pytest.CaptureFixture[str]) -> Lines:
    """Return the lines since it was called last; there is nothing else on stdout or stderr."""

    def read() -> list[dict[str, Any]]:
        captured = capsys.readouterr()
        assert captured.err == ""
        return parsed(captured.out)

    return read


class Service:
    """A set-up that delivers to *receiver*; what it delivered is asked for by name."""

    def __init__(self, receiver: Receiver, spool_dir: Path) -> None:
        self.receiver = receiver
        self.spool_dir = spool_dir
        self.observability: Observability = setup_observability(
            "shop", environment="production", endpoint=receiver.endpoint, spool_dir=spool_dir
        )

    def spans(self) -> list[Span]:
        """Return every span that has ended by now, from the receiver."""
        assert self.observability.force_flush(10)
        return self.receiver.spans

    def named(self, name: str) -> list[Span]:
        return [span for span in self.spans() if span.name == name]

    def one(self, name: str) -> Span:
        """Return the one span of that name; no other may have it."""
        (span,) = self.named(name)
        return span


@pytest.fixture
def service(receiver: Receiver, tmp_path: Path) -> Iterator[Service]:
    """The package set up, delivering to ``receiver``, shut down afterwards."""
    running = Service(receiver, tmp_path / "spool")
    yield running
    running.observability.shutdown()
    clear_context()
