"""One call, and what it promises: idempotent, again after shutdown, clear errors, nothing lost."""

import asyncio
import base64
import gc
import json
import os
import re
import signal
import sys
import tempfile
import weakref
from pathlib import Path
from subprocess import PIPE
from typing import Any

import pytest
from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.sdk.resources import Resource

from otel_logging import (
    ConfigurationError,
    Redaction,
    _diagnostics,
    bind_context,
    configure_logging,
    get_logger,
    setup_observability,
    traced,
)
from tests.conftest import Service
from tests.programs import Done, child_environment, end, good, python, start
from tests.receiver import Receiver, refuse
from tests.spools import ROOT

log = get_logger("shop")


def run(script: str, *arguments: object, **environment: str) -> Done:
    """Run *script* as somebody's program would be run, from a directory of its own."""
    env = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    return python("-c", script, *arguments, env=env)


def cli(*arguments: object) -> Any:
    """Run ``otel-logging … --json`` and return what it printed."""
    done = run("from otel_logging.cli import main; main()", *arguments, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


# ---------------------------------------------------------------- the set-up


def test_set_up_is_idempotent(service: Service, capsys: pytest.CaptureFixture[str]) -> None:
    """A second call returns the first one's; with other settings it says so on stderr."""
    same = setup_observability(
        "shop",
        environment="production",
        endpoint=service.receiver.endpoint,
        spool_dir=service.spool_dir,
    )
    assert same is service.observability
    assert "troubles" not in repr(same)
    assert setup_observability() is service.observability
    assert capsys.readouterr().err == ""
    other = setup_observability(
        "other", log_level="debug", endpoint="http://u:secret@localhost:1", who=["tenant"]
    )
    assert other is service.observability
    said = capsys.readouterr().err
    place = r" at conftest\.py:\d+$"
    assert re.search('service_name="other" ignored: set up as "shop"' + place, said, re.M)
    assert re.search('log_level="debug" ignored: set up as "info"' + place, said, re.M)
    assert re.search(r"who=\('tenant',\) ignored: set up as \('user_id',\)" + place, said, re.M)
    assert re.search('endpoint="http://localhost:1/v1/traces" ignored: set up as', said)
    assert "secret" not in said
    assert len(said.splitlines()) == 4


def test_what_a_second_set_up_ignores_is_said_once(
    service: Service, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each thing once, also at exit; as it is in effect: the root logger's level, in words."""
    redactions = {
        "False": False,
        "Redaction(...)": Redaction(patterns=["q"], personal=True, salt="hunter2"),
    }
    for shown, given in redactions.items():
        for _ in range(2):
            setup_observability(redact=given)
        said = capsys.readouterr().err.splitlines()
        place = f"{service.observability._place}"
        assert said == [f"otel_logging: redact={shown} ignored: set up as True at {place}"]
    setup_observability(redact=True, log_level=20)  # as it is
    setup_observability(log_level=15)
    (said_of_level,) = capsys.readouterr().err.splitlines()
    assert 'log_level="level 15" ignored: set up as "info" at ' in said_of_level
    _diagnostics.say_rest()
    assert capsys.readouterr().err == ""


def test_nothing_keeps_a_set_up_that_was_shut_down(receiver: Receiver, tmp_path: Path) -> None:
    """Though the lines that it has configured go on."""
    made = setup_observability(
        "shop", environment="production", endpoint=receiver.endpoint, spool_dir=tmp_path
    )
    kept = weakref.ref(made)
    made.shutdown()
    del made
    gc.collect()
    assert kept() is None


def test_set_up_works_again_after_shutdown(receiver: Receiver, tmp_path: Path) -> None:
    """Each set-up delivers its own; shutdown twice is once."""
    tracer = trace.get_tracer("theirs")
    for turn in range(3):
        service = Service(receiver, tmp_path)
        with traced(f"turn {turn}"), tracer.start_as_current_span("theirs"):
            log.info("line")
        assert service.observability.shutdown() is True
        assert service.observability.shutdown() is True
        with traced("between"), tracer.start_as_current_span("theirs"):
            log.info("line")
    assert sorted(s.name for s in receiver.spans) == [
        "theirs",
        "theirs",
        "theirs",
        "turn 0",
        "turn 1",
        "turn 2",
    ]


@pytest.mark.parametrize("detectors", ["", "process"])
def test_the_resource_has_what_the_sdk_knows(
    receiver: Receiver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, detectors: str
) -> None:
    """Its own attributes, and those of the detectors that OpenTelemetry's variable names."""
    monkeypatch.setenv("OTEL_EXPERIMENTAL_RESOURCE_DETECTORS", detectors)
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "team=a%20b")
    theirs = {**Resource.create({"service.name": "shop"}).attributes}
    assert ("process.runtime.name" in theirs) is bool(detectors)
    service = Service(receiver, tmp_path)
    with traced("x"):
        pass
    assert service.observability.shutdown()
    (span,) = receiver.spans
    for name, value in theirs.items():
        if name != "service.instance.id" and not name.startswith("process.command"):  # a list
            assert span.resource[name] == value


def test_it_is_a_context_manager_and_shows_what_it_did(receiver: Receiver, tmp_path: Path) -> None:
    """Leaving it shuts down; its repr tells a debugger the state."""
    with setup_observability("shop", endpoint=receiver.endpoint, spool_dir=tmp_path) as running:
        with traced("x"):
            pass
        assert running.service_name == "shop"
        assert running.force_flush(60)
        assert "[open; spans ended: 1; segments: 1 delivered" in repr(running)
    assert "[shut down; spans ended: 1" in repr(running)
    assert running.force_flush(60) is True


def test_what_ends_after_shutdown_is_counted(service: Service) -> None:
    """A stage that is open at shutdown cannot be kept: it is said, and nothing is raised."""
    with traced("open"):
        service.observability.shutdown()
        log.info("still on stdout")
    assert "'spans lost: they ended after shutdown'" in repr(service.observability)


def test_without_a_collector_everything_waits(tmp_path: Path) -> None:
    """Nothing answers: flush runs out of time, shutdown is quick, the segments are there."""
    running = setup_observability(
        "shop", environment="production", endpoint="http://127.0.0.1:9", spool_dir=tmp_path
    )
    with traced("x"):
        pass
    assert running.force_flush(0.5) is False
    assert "last failure: " in repr(running)
    assert "1 waiting" in repr(running)
    with traced("y"):
        pass
    assert "2 waiting" in repr(running)
    assert running.shutdown() is False
    assert "0 delivered to http://127.0.0.1:9/v1/traces, 2 waiting" in repr(running)
    assert len(list(tmp_path.glob("*/*/*.segment"))) == 2


@pytest.mark.parametrize("variable", ["OTEL_TRACES_EXPORTER", "OTEL_SDK_DISABLED"])
def test_tracing_can_be_left_out(
    variable: str, tmp_path: Path, monkeypatch: Any, capfd: Any
) -> None:
    """Then lines are lines, stages are nothing, and nothing is written."""
    monkeypatch.setenv(variable, "none" if variable.endswith("EXPORTER") else "true")
    spool = tmp_path / "spool"
    with setup_observability("shop", environment="production", spool_dir=spool) as running:
        with traced("x") as span:
            assert not span.is_recording()
            log.info("hello")
        assert running.force_flush(60) is True
        assert repr(running) == "<Observability shop [open, no tracing]>"
    assert json.loads(capfd.readouterr().out)["event"] == "hello"
    assert not spool.exists()


def test_under_test_there_is_no_network_and_no_spool_left(
    receiver: Receiver, monkeypatch: Any, tmp_path: Path
) -> None:
    """Under pytest the variables that would lead to production are not followed."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.endpoint)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    import tempfile

    monkeypatch.setattr(tempfile, "tempdir", None)
    with setup_observability("shop") as running:
        with traced("x"):
            pass
        assert running.force_flush(60) is True
        assert "delivered to nowhere" in repr(running)
        assert list(tmp_path.glob("otel_logging-*"))
    assert receiver.requests == []
    assert list(tmp_path.glob("otel_logging-*")) == []


def test_a_sampler_that_is_not_the_default_is_named_first(
    receiver: Receiver, tmp_path: Path, monkeypatch: Any, capfd: Any
) -> None:
    """Who misses a trace is told why by the first line."""
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "traceidratio")
    monkeypatch.setenv("OTEL_TRACES_SAMPLER_ARG", "0.5")
    Service(receiver, tmp_path).observability.shutdown()
    line = json.loads(capfd.readouterr().out.splitlines()[0])
    assert (line["sampler"], line["ratio"], line["logger"]) == ("traceidratio", 0.5, "otel_logging")


def _fails(error: Exception) -> Any:
    def fail(*_: Any, **__: Any) -> Any:
        raise error

    return fail


FAILURES = [OSError(24, "too many open files"), ValueError("a library's"), RuntimeError("no more")]


@pytest.mark.parametrize("error", FAILURES, ids=repr)
@pytest.mark.parametrize(
    "planted",
    [
        "otel_logging.spool.directories.open_ours",
        "pathlib.Path.mkdir",
        "ssl.create_default_context",
        "otel_logging.assembly.make_resource",
        "otel_logging.assembly.Pipeline",
        "otel_logging.assembly.Records",
        "otel_logging.logs.stdlib.take_over",
    ],
)
def test_set_up_raises_nothing_but_configuration_errors(
    planted: str,
    error: Exception,
    receiver: Receiver,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whatever goes wrong in it; what had begun has ended, and the next one is like a first one."""
    monkeypatch.setenv("OTEL_LOGS_EXPORTER", "otlp")
    with monkeypatch.context() as patched:
        patched.setattr(planted, _fails(error))
        with pytest.raises(ConfigurationError, match=re.escape(str(error))):
            setup_observability(
                "shop",
                environment="production",
                endpoint=receiver.endpoint.replace("http:", "https:"),
                spool_dir=tmp_path,
            )
    with traced("nowhere"):
        pass
    with setup_observability(
        "shop", environment="production", endpoint=receiver.endpoint, spool_dir=tmp_path
    ) as handle:
        with traced("here"):
            pass
        assert handle.force_flush(10)
    assert [span.name for span in receiver.spans] == ["here"]


def test_configure_logging_raises_nothing_but_configuration_errors(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As the whole set-up."""
    monkeypatch.setattr("otel_logging.logs.stdlib.take_over", _fails(ValueError("a library's")))
    with pytest.raises(ConfigurationError, match=r"configure_logging='ValueError'.*a library's"):
        configure_logging()


@pytest.mark.parametrize("name", ["a\0b", "a\ud800b", "x" * 5000])
def test_an_impossible_spool_directory_is_an_error_of_its_argument(
    name: str, tmp_path: Path
) -> None:
    """It is the argument that is wrong."""
    with pytest.raises(ConfigurationError, match=r"^spool_dir="):
        setup_observability("shop", environment="production", spool_dir=tmp_path / name)


def test_without_a_temporary_directory_a_test_s_spans_are_in_memory(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A set-up that asks for no directory needs none."""
    monkeypatch.setattr("tempfile.mkdtemp", _fails(OSError("no room")))
    with setup_observability("shop", environment="test"), traced("here"):
        pass
    assert "the spool is in memory alone" in capsys.readouterr().err


def test_a_spool_directory_that_cannot_be_written_is_an_error(
    tmp_path: Path, monkeypatch: Any
) -> None:
    """Where it was asked for, and nothing is left set up."""
    from opentelemetry import propagate

    theirs = propagate.get_global_textmap()
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigurationError, match=r"spool_dir=.*a directory that can be written"):
        setup_observability("shop", spool_dir=tmp_path / "file")
    monkeypatch.setenv("OTEL_LOGGING_SPOOL_DIR", str(tmp_path / "file"))
    with pytest.raises(ConfigurationError, match=r"OTEL_LOGGING_SPOOL_DIR=.*can be written"):
        setup_observability("shop")
    with traced("x") as span:
        assert not span.is_recording()
    assert propagate.get_global_textmap() is theirs


def _started() -> Any:
    return setup_observability("shop", endpoint="http://127.0.0.1:9", environment="production")


@pytest.mark.skipif(os.name != "posix", reason="modes, symbolic links")
def test_a_spool_directory_that_is_not_safe_is_not_used_and_reported(
    tmp_path: Path, monkeypatch: Any, capsys: Any
) -> None:
    """Where it was asked for it is an error, else there is another; nothing is written into it."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    state = tmp_path / "state"
    monkeypatch.setenv("XDG_STATE_HOME", str(state))
    base = state / "otel_logging"
    base.mkdir(parents=True)
    base.chmod(0o777)
    with pytest.raises(ConfigurationError, match=r"spool_dir=.*no sticky bit"):
        setup_observability("shop", spool_dir=base, endpoint="http://127.0.0.1:9")
    with _started(), traced("x"):
        pass
    assert "no sticky bit" in capsys.readouterr().err
    assert list(base.iterdir()) == []
    base.chmod(0o700)
    with _started():
        pass
    (made,) = base.iterdir()
    elsewhere = made.rename(tmp_path / "elsewhere")
    before = sorted(elsewhere.rglob("*"))
    made.symlink_to(elsewhere)
    with _started(), traced("y"):
        pass
    assert "a symbolic link" in capsys.readouterr().err
    assert sorted(elsewhere.rglob("*")) == before


def test_without_any_writable_place_spans_wait_in_memory(
    receiver: Receiver, tmp_path: Path, monkeypatch: Any, capsys: Any
) -> None:
    """Where none was asked for it is a warning, and delivery works."""
    import tempfile

    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "file"))
    with setup_observability("shop", environment="production", endpoint=receiver.endpoint) as o:
        with traced("x"):
            pass
        assert o.force_flush(60)
    assert [s.name for s in receiver.spans] == ["x"]
    assert "the spool is in memory alone" in capsys.readouterr().err


def test_a_home_that_cannot_be_written_falls_back(
    receiver: Receiver, tmp_path: Path, monkeypatch: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """The directory for temporary files holds the spool of a user without a home; that is said."""
    import tempfile

    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    setup_observability("shop", environment="production", endpoint=receiver.endpoint).shutdown()
    (found,) = tmp_path.glob("otel_logging-*/shop-*")
    said = capsys.readouterr().err
    assert f"otel_logging: the spool is in {found.parent}, since" in said
    assert "OTEL_LOGGING_SPOOL_DIR names another" in said


@pytest.mark.parametrize(("value", "headers"), [("b3", {"b3"}), ("tracecontext", {"traceparent"})])
def test_otel_propagators_chooses_the_headers(value: str, headers: set[str]) -> None:
    """OTEL_PROPAGATORS chooses the headers."""
    code = (
        "from otel_logging import inject, setup_observability, traced\n"
        "setup_observability('shop', environment='test')\n"
        "with traced('x'): print(*inject())"
    )
    done = python("-c", code, env=child_environment(OTEL_PROPAGATORS=value))
    assert set(good(done).stdout.split()) == headers


def test_a_propagator_that_is_not_installed_is_an_error() -> None:
    """In OpenTelemetry's words, and nothing is set up."""
    code = """
import sys, otel_logging
from opentelemetry import trace
try:
    otel_logging.setup_observability('shop', environment='test')
except otel_logging.ConfigurationError as error:
    print(error)
print(sys.excepthook is sys.__excepthook__, vars(trace)["_TRACER_PROVIDER"])
"""
    done = python("-c", code, env=child_environment(OTEL_PROPAGATORS="tracecontext,nonsense"))
    said, there = good(done).stdout.splitlines()
    assert said.startswith("OTEL_PROPAGATORS='tracecontext,nonsense': Propagator nonsense not")
    assert there == "True None"


def test_a_provider_without_span_processors_is_reported(tmp_path: Path) -> None:
    """Lines go on; stages are whatever that provider makes of them."""
    done = run(
        "import sys\n"
        "from opentelemetry import trace\n"
        "trace.set_tracer_provider(trace.NoOpTracerProvider())\n"
        "from otel_logging import *\n"
        "with setup_observability('shop', environment='production', spool_dir=sys.argv[1]):\n"
        "    with traced('x') as span:\n"
        "        get_logger('shop').info('hello')\n",
        tmp_path,
    )
    assert json.loads(done.stdout)["event"] == "hello"
    assert "nothing can be attached to the tracer provider that is set" in done.stderr
    assert done.returncode == 0


def test_lines_can_leave_as_log_records_instead(
    receiver: Receiver, tmp_path: Path, monkeypatch: Any
) -> None:
    """OTEL_LOGS_EXPORTER=otlp: every line a record with its trace, none an event of a span."""
    monkeypatch.setenv("OTEL_LOGS_EXPORTER", "otlp")
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "none")
    with setup_observability(
        "shop", environment="production", endpoint=receiver.endpoint, spool_dir=tmp_path
    ) as alone:
        log.info("without traces")
        assert alone.force_flush(60)
    assert [record.body for record in receiver.log_records] == ["without traces"]
    receiver.clear()
    monkeypatch.delenv("OTEL_TRACES_EXPORTER")
    service = Service(receiver, tmp_path)
    log.info("outside")
    with traced("x"):
        log.warning("inside", n=1)
    span = service.one("x")
    assert span.events == ()
    outside, inside = sorted(receiver.log_records, key=lambda r: r.body, reverse=True)
    assert (outside.body, outside.trace_id) == ("outside", None)
    assert (inside.body, inside.trace_id, inside.span_id) == (
        "inside",
        span.trace_id,
        span.span_id,
    )
    with pytest.raises(KeyError), traced("y"):  # noqa: PT012
        try:
            raise KeyError("k")
        except KeyError:
            log.exception("a record, and no event")
            raise
    assert [event.name for event in service.one("y").events] == ["exception"]
    assert service.observability.shutdown() is True
    log.info("afterwards")
    assert len(receiver.log_records) == 3


# ---------------------------------------------------------------- what it must show

PRODUCTION = """
import sys
import tempfile
from otel_logging import bind_context, get_logger, setup_observability, traced

setup_observability("orders")
log = get_logger("orders.web")
log.info("starting", nan=float("nan"), odd=object(), text="line\\nbreak \\udc80")
for n in range(50):
    with traced("order", kind="server"):
        bind_context(user_id=f"user-{n}")
        log.info("received", n=n)
        with traced("charge"):
            log.warning("card declined", amount=12.5)
        try:
            raise LookupError("no stock")
        except LookupError:
            log.exception("failed")
"""


def test_a_script_in_production(receiver: Receiver, tmp_path: Path) -> None:
    """Every stdout line is strict JSON with its names, and the same ids reach the collector,
    though the script is over in no time and never flushes.
    """
    done = run(
        PRODUCTION,
        ENVIRONMENT="production",
        OTEL_EXPORTER_OTLP_ENDPOINT=receiver.endpoint,
        OTEL_LOGGING_SPOOL_DIR=str(tmp_path),
    )
    assert (done.returncode, done.stderr) == (0, "")

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    lines = [json.loads(line, parse_constant=refuse) for line in done.stdout.splitlines()]
    assert len(lines) == 151
    for line in lines:
        assert {"timestamp", "level", "event", "logger"} <= set(line)
    sent = {(s.trace_id, s.span_id): [e.name for e in s.events] for s in receiver.spans}
    for line in lines[1:]:
        assert line["event"] in sent[line["trace_id"], line["span_id"]]
        assert line["trace_flags"] in ("01", "03")  # the SDK's, by its version
    assert "trace_id" not in lines[0]
    times = {(s.span_id, e.name): e.time_ns for s in receiver.spans for e in s.events}
    microseconds = times[lines[1]["span_id"], "received"] // 1_000 % 1_000_000
    assert lines[1]["timestamp"].endswith(f".{microseconds:06d}Z")


def test_ten_thousand_lines_of_two_hundred_tasks(service: Service, capfd: Any) -> None:
    """In open spans, in ended ones, outside any, 3,000 in one: each an event, once, under its
    own task's user.
    """

    async def task(number: int, ended: otel_context.Context) -> None:
        bind_context(user_id=f"user-{number}")
        for n in range(5):
            log.info("outside", id=f"{number}-outside-{n}")
            await asyncio.sleep(0)
        with traced("turn"):
            for n in range(20):
                log.info("inside", id=f"{number}-inside-{n}")
                with traced("step"):
                    await asyncio.sleep(0)
        token = otel_context.attach(ended)
        for n in range(10):
            log.info("ended", id=f"{number}-ended-{n}")
        otel_context.detach(token)

    async def main() -> None:
        with traced("ended"):
            ended = otel_context.get_current()
        await asyncio.gather(*(task(number, ended) for number in range(200)))
        with traced("many"):
            bind_context(user_id="user-many")
            for n in range(3_000):
                log.info("one of many", id=f"many-many-{n}")

    asyncio.run(main())
    assert service.observability.force_flush(30)
    events = [e for _, e in service.receiver.events]
    assert len(events) == 10_000
    assert len({e.attributes["id"] for e in events}) == 10_000
    for event in events:
        assert event.attributes["user_id"] == f"user-{event.attributes['id'].split('-')[0]}"
    for span in service.receiver.spans:
        if span.name == "turn":
            (user,) = {e.attributes["user_id"] for e in span.events}
            assert span.attributes["user_id"] == user
    assert len(capfd.readouterr().out.splitlines()) == 10_000


LATER = """
import sys, time
from otel_logging import *

observability = setup_observability("orders", environment="production",
                                    endpoint=sys.argv[1], spool_dir=sys.argv[2])
log = get_logger("orders")
for n in range(20):
    with traced("order", budget=0.001):
        bind_context(user_id=f"user-{n}")
        log.info("received", n=n)
        with traced("charge"):
            time.sleep(0.002 if n % 4 == 0 else 0)
print("ready", flush=True)
sys.stdin.readline()
assert observability.force_flush(20)
"""


def test_a_receiver_that_comes_up_later_gets_everything_once(tmp_path: Path) -> None:
    """And ``late`` and ``show`` say before what they say after."""
    with Receiver() as first:
        port, endpoint = first.port, first.endpoint
    child = start(sys.executable, "-c", LATER, endpoint, tmp_path, stdin=PIPE)
    assert child.stdout is not None
    while "ready" not in child.stdout.readline():
        pass
    before = cli("late", "--spool-dir", tmp_path)
    assert len(before) >= 5
    picture = cli("show", before[0]["trace_id"], "--spool-dir", tmp_path)
    with Receiver(port) as receiver:
        good(end(child, "go\n"))
        spans = receiver.spans
    assert len(spans) == len({s.span_id for s in spans}) == 40
    assert sorted(
        e.attributes["n"] for s in spans for e in s.events if "n" in e.attributes
    ) == list(range(20))
    assert cli("late", "--spool-dir", tmp_path) == before
    assert cli("show", before[0]["trace_id"], "--spool-dir", tmp_path) == picture


KILLED = """
import os, signal, sys
from otel_logging import *

setup_observability("orders", environment="production", endpoint=sys.argv[1], spool_dir=sys.argv[2])
log = get_logger("orders")
for n in range(1_000):
    with traced("order", n=n):
        log.info("received", n=n)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="there is no signal 9 here")
def test_what_a_killed_process_ended_is_delivered_by_the_next(tmp_path: Path) -> None:
    """Nothing that had ended is lost by signal 9; the next start of the service brings it."""
    with Receiver() as first:
        port, endpoint = first.port, first.endpoint
    done = run(KILLED, endpoint, tmp_path)
    assert done.returncode == -signal.SIGKILL
    with Receiver(port) as receiver:
        script = KILLED.replace("range(1_000)", "range(0)").split("os.kill")[0]
        assert run(script, endpoint, tmp_path).returncode == 0
        receiver.wait_for(lambda r: len(r.spans) >= 1_000)
    assert sorted(s.attributes["n"] for s in receiver.spans) == list(range(1_000))
    assert sorted(e.attributes["n"] for _, e in receiver.events) == list(range(1_000))


def test_no_warning_is_raised_by_the_package_itself(tmp_path: Path) -> None:
    """Not at import, set-up, work or exit, with every warning an error."""
    with Receiver() as receiver:
        done = run(
            PRODUCTION,
            PYTHONWARNINGS="error",
            ENVIRONMENT="production",
            OTEL_EXPORTER_OTLP_ENDPOINT=receiver.endpoint,
            OTEL_LOGGING_SPOOL_DIR=str(tmp_path),
        )
    assert (done.returncode, done.stderr) == (0, "")


def test_logging_alone_needs_no_tracing(capfd: Any) -> None:
    """``configure_logging`` is enough for lines; stages are nothing then."""
    configure_logging(environment="production")
    with traced("x"):
        log.info("hello")
    line = json.loads(capfd.readouterr().out)
    assert set(line) == {"timestamp", "level", "event", "logger"}


@pytest.mark.parametrize("protocol", ["http/protobuf", "grpc"])
def test_a_password_is_sent_and_stays_nowhere(tmp_path: Path, protocol: str) -> None:
    """In no file, no name of one, no line and no repr; another one leaves the spool where it is."""
    from tests.test_transport_grpc import Collector

    script = """
import sys
from otel_logging import setup_observability, traced
with setup_observability("shop", endpoint=sys.argv[1], environment="production") as running:
    with traced("turn"):
        pass
    running.force_flush(0.3)
    print(running, running._settings, file=sys.stderr)
"""
    spool = tmp_path / "spool"
    with Receiver() as receiver, Collector() as collector:
        receiver.answer = refuse(401, www_authenticate="Basic")
        at = receiver.endpoint if protocol == "http/protobuf" else collector.endpoint
        query = "?key=s3cret" if protocol == "http/protobuf" else ""
        for password in ("s3cret-1", "s3cret-2"):
            done = run(
                script,
                at.replace("//", f"//me:{password}@") + query,
                OTEL_EXPORTER_OTLP_PROTOCOL=protocol,
                OTEL_LOGGING_SPOOL_DIR=str(spool),
            )
            assert done.returncode == 0, done.stderr
            assert "[open; spans ended: 1" in done.stderr
            for text in ("s3cret", base64.b64encode(f"me:{password}".encode()).decode()):
                assert text not in done.stdout + done.stderr
                assert not [path for path in spool.rglob("*") if text in str(path)]
                files = [path for path in spool.rglob("*") if path.is_file()]
                assert not [path for path in files if text.encode() in path.read_bytes()]
        headers = [dict(came.headers) for came in receiver.requests] + collector.metadata
        assert [*{h["authorization"]: None for h in headers}] == [
            "Basic " + base64.b64encode(f"me:s3cret-{number}".encode()).decode()
            for number in (1, 2)
        ]
    assert len(list(spool.iterdir())) == 1


def test_its_repr_has_no_password(tmp_path: Path) -> None:
    """A debugger's screen is seen by many."""
    with setup_observability(
        "shop", endpoint="http://user:secret@127.0.0.1:9", spool_dir=tmp_path
    ) as running:
        assert "secret" not in repr(running)
        assert "http://127.0.0.1:9/v1/traces" in repr(running)
