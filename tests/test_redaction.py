"""No planted secret leaves, on stdout, on the wire, on disk; and no neighbour is touched."""

import json
import logging
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog
from opentelemetry import trace
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.util.instrumentation import InstrumentationScope

from otel_logging import (
    ConfigurationError,
    Redaction,
    _diagnostics,
    bind_context,
    bound_context,
    clear_context,
    configure_logging,
    get_logger,
    processors,
    redacted,
    setup_observability,
    traced,
)
from otel_logging.cli import main
from tests import planted
from tests.commands import Runner
from tests.conftest import NOWHERE, Service
from tests.programs import child_environment, python
from tests.stored import TRACE, Planted, line, store

log = get_logger("shop")
#: Of all, which tests/test_redact.py has, a sixth: every shape of a value is among these, and this
#: is about the places.
VALUES = list(planted.values())[::6]
NEIGHBOURS = list(planted.neighbours())


def on_disk(directory: Path) -> bytes:
    return b"".join(path.read_bytes() for path in directory.rglob("*") if path.is_file())


def is_left(secret: str, text: str) -> bool:
    """Say whether *secret* is in *text*, as it is or as JSON has it."""
    in_json = json.dumps(secret)[1:-1]
    return secret in text or (in_json != secret and in_json in text)


def test_fields_messages_names_and_errors_lose_their_secrets(
    service: Service, capfd: pytest.CaptureFixture[str]
) -> None:
    """In every place of a span and a line; and what is no secret stays."""
    for secret, name, value in VALUES:
        text = value if type(value) is str and name == "note" else f"password={secret}"
        with traced(f"stage {name}"), bound_context(**{name: value}):
            log.info("of the call", **{f"my.{name}": value})
            log.warning("bound")
            logging.getLogger("other").warning(
                "taken over: %s", text, extra={"of_a_record": {name: value}}
            )
            trace.get_current_span().set_attribute(name, repr(value))
            log.info(text)
    log.error("in vain", exc_info=ValueError(f"api_key: {planted.NEEDLE}"))
    with pytest.raises(ValueError, match="password"), traced(f"a name with token={planted.NEEDLE}"):
        raise ValueError(f"password={planted.NEEDLE}")
    shown = repr(service.spans())
    out = capfd.readouterr().out
    disk = on_disk(service.spool_dir).decode(errors="replace")
    for place in (shown, out, disk):
        assert {
            secret for secret in {each[0] for each in VALUES} if is_left(secret, place)
        } == set()
        assert place.count("[redacted:") > 300


def test_harmless_neighbours_are_whole(service: Service, capfd: pytest.CaptureFixture[str]) -> None:
    """As a message, as a field and under a name that only sounds like a secret's."""
    names = planted.NEIGHBOUR_KEYS
    with traced("request"):
        for number, text in enumerate(NEIGHBOURS):
            log.info(text, **{names[number % len(names)] + "_": 1}, note=text, notes={"a": [text]})
    lines = [json.loads(line) for line in capfd.readouterr().out.splitlines()]
    assert [(line["event"], line["note"], line["notes"]["a"][0]) for line in lines] == [
        (text, text, text) for text in NEIGHBOURS
    ]
    names = {event.name for span in service.spans() for event in span.events}
    assert names == set(NEIGHBOURS)
    assert "[redacted:" not in repr(service.spans())


def test_of_a_secret_without_end_no_part_leaves(
    service: Service, capfd: pytest.CaptureFixture[str]
) -> None:
    """In a message, a field, a header of bytes, an exception's text and its traceback."""
    secret = "Q7zK" * 16_500
    with traced("login"):
        log.info(f"POST /saml/acs body SAMLResponse={secret}", body={"session": [secret]})
        log.info("sent", headers=[(b"authorization", f"token {secret}".encode())])
        try:
            raise ValueError(f"refused: token={secret}")
        except ValueError:
            log.exception("failed")
    for place in (capfd.readouterr().out, repr(service.spans())):
        assert "Q7zK" not in place
        assert place.count("[redacted:token]") >= 3


def test_a_name_that_is_a_text_with_a_secret_is_one_without_it(
    service: Service, capfd: pytest.CaptureFixture[str]
) -> None:
    """Of a field, of an attribute, of what is bound; in a usual line and in any other."""
    named: dict[str, Any] = {"password=x1Secret": 1}
    with traced("login", **named), bound_context(**named):
        for error in (None, ValueError("a")):
            log.info("of the call", exc_info=error, **named)
            log.info("bound", exc_info=error)
            logging.getLogger("other").warning("taken over", extra=named, exc_info=error)
        trace.get_current_span().set_attribute("token: x1Secret", 2)
    configure_logging(environment="development")
    log.info("on the console", **named)
    out = capfd.readouterr().out
    assert out.count("password=[redacted:password]") == 7
    disk = on_disk(service.spool_dir).decode(errors="replace")
    assert "x1Secret" not in out + disk + repr(service.spans())


def test_the_console_shows_none_either(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In development, too; tracebacks included."""
    configure_logging(environment="development")
    log.error("cookie: a=x1Secret", apiKey="x1Secret", exc_info=ValueError("password=x1Secret"))
    out = capsys.readouterr().out
    assert "x1Secret" not in out
    assert out.count("[redacted:") >= 3


def test_what_is_asked_for_is_taken_out_beside_the_usual(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """``Redaction(...)`` in a call; ``redact=False`` takes nothing out."""
    configure_logging(environment="production", redact=Redaction(["tenant"], ["ACME-[0-9]+"]))
    log.info("ACME-12", tenant="a", token="b")
    configure_logging(environment="production", redact=False)
    log.info("token=b", token="b")
    with_keys, off = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert with_keys["event"] == "[redacted:pattern]"
    assert (with_keys["tenant"], with_keys["token"]) == ("[redacted:key]", "[redacted:token]")
    assert (off["event"], off["token"]) == ("token=b", "b")
    configure_logging(environment="production")


def test_variables_say_the_same(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """OTEL_LOGGING_REDACT and its like; those of users are hashed with the salt."""
    for name, value in {
        "KEYS": "tenant, plan",
        "PATTERN": "ACME-[0-9]+",
        "ALLOW": "session_id",
        "PERSONAL": "true",
        "SALT": "pepper",
    }.items():
        monkeypatch.setenv(f"OTEL_LOGGING_REDACT_{name}", value)
    configure_logging(environment="production")
    log.info("ACME-1 of bob@example.com", plan="a", session_id="b", user_id="u-1")
    monkeypatch.setenv("OTEL_LOGGING_REDACT", "false")
    configure_logging(environment="production")
    log.info("x", password="a")
    first, second = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert first["event"] == "[redacted:pattern] of [redacted:email]"
    assert (first["plan"], first["session_id"]) == ("[redacted:key]", "b")
    assert first["user_id"] == Redaction(personal=True, salt="pepper").pseudonym("u-1")
    assert second["password"] == "a"
    monkeypatch.undo()
    configure_logging(environment="production")


@pytest.mark.parametrize(
    ("variables", "redact", "said"),
    [
        ({"REDACT": "perhaps"}, None, "OTEL_LOGGING_REDACT='perhaps': "),
        ({"REDACT_PATTERN": "("}, None, r"OTEL_LOGGING_REDACT_PATTERN='\(': a regular"),
        ({"REDACT_PATTERN": "a*"}, None, r"OTEL_LOGGING_REDACT_PATTERN='a\*': a regular"),
        ({}, "yes", "redact='yes': "),
    ],
)
def test_what_is_invalid_is_an_error_of_the_set_up(
    variables: dict[str, str], redact: Any, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that names it."""
    for name, value in variables.items():
        monkeypatch.setenv(f"OTEL_LOGGING_{name}", value)
    with pytest.raises(ConfigurationError, match=f"^{said}"):
        configure_logging(redact=redact)


def test_what_is_open_has_neither_secrets_nor_users_on_disk(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """The table of open stages; nor has what is said of one that was late."""
    made = setup_observability(
        "shop",
        environment="production",
        endpoint=NOWHERE,
        spool_dir=tmp_path,
        redact=Redaction(personal=True, salt="s"),
        budgets={"turn *": 0.01},
    )
    for name in ("turn", "other"):  # with a budget, and without
        with traced(f"{name} token={planted.NEEDLE}"):
            bind_context(user_id="m-1")
            until = time.monotonic() + 5
            while f"{name} token=[redacted:token]".encode() not in on_disk(tmp_path):
                assert time.monotonic() < until
                time.sleep(0.01)
            assert b"user_id=who:" in on_disk(tmp_path)
            assert planted.NEEDLE.encode() not in on_disk(tmp_path)
            assert b"m-1" not in on_disk(tmp_path)
            time.sleep(0.02)  # over the budget
    made.shutdown(0.1)
    clear_context()
    configure_logging(environment="production")
    out = capfd.readouterr().out
    assert "'s turn token=[redacted:token] of" in out
    for place in (out.encode(), on_disk(tmp_path)):
        assert planted.NEEDLE.encode() not in place
        assert b"m-1" not in place


def test_a_set_up_takes_it_for_spans_and_their_users(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also the keys of ``who``, on disk as well; after ``shutdown`` lines have it still."""
    redaction = Redaction(personal=True, salt="s")
    made = setup_observability(
        "shop",
        environment="production",
        endpoint=NOWHERE,
        spool_dir=tmp_path,
        redact=redaction,
        who=["member"],
    )
    with traced("request"):
        bind_context(member="m-1")
        log.info("x", note="token=b")
    made.shutdown(0.1)
    clear_context()
    disk = on_disk(tmp_path)
    assert b"m-1" not in disk
    assert redaction.pseudonym("m-1").encode() in disk
    again = setup_observability("shop", environment="test", redact=False)
    with traced("request"):
        log.info("x", note="token=b")
    again.shutdown(0.1)
    configure_logging(environment="production")


def test_log_records_lose_theirs(
    receiver: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """OTEL_LOGS_EXPORTER=otlp: bodies, attributes, exceptions."""
    monkeypatch.setenv("OTEL_LOGS_EXPORTER", "otlp")
    with setup_observability(
        "shop", environment="production", endpoint=receiver.endpoint, spool_dir=tmp_path
    ) as made:
        log.error("password=x1Secret", apiKey="x1Secret", exc_info=ValueError("pwd: x1Secret"))
        log.info("y", nested={"token": "x1Secret"})
        assert made.force_flush(10)
        bodies = b"".join(request.body for request in receiver.requests)
    assert b"[redacted:" in bodies
    assert b"x1Secret" not in bodies + on_disk(tmp_path)


def test_foreign_spans_lose_theirs_on_the_way_to_the_spool(tmp_path: Path) -> None:
    """And `redacted` does it for an exporter or a processor of somebody else."""
    kept, shown = InMemorySpanExporter(), InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(redacted(kept)))
    provider.add_span_processor(redacted(SimpleSpanProcessor(shown)))
    link = trace.Link(trace.SpanContext(1, 2, is_remote=False), {"token": "x1Secret"})
    tracer = provider.get_tracer("x", attributes={"token": "x1Secret"})
    with tracer.start_as_current_span(
        "token=x1Secret", attributes={"password": "x1Secret", "n": [1, 2]}, links=[link]
    ) as span:
        span.add_event("secret: x1Secret", {"cookie": "x1Secret"})
        span.set_status(trace.StatusCode.ERROR, "pwd=x1Secret")
    assert provider.force_flush()
    for exporter in (kept, shown):
        (copy,) = exporter.get_finished_spans()
        assert "x1Secret" not in copy.to_json()
        assert copy.name == "token=[redacted:token]"
        assert copy.attributes == {"password": "[redacted:password]", "n": (1, 2)}
        assert copy.events[0].attributes == {"cookie": "[redacted:cookie]"}
        assert copy.context == span.get_span_context()
        assert copy.instrumentation_scope is not None
        assert copy.instrumentation_scope.attributes == {"token": "[redacted:token]"}
        assert copy.instrumentation_scope.name == "x"
    assert span.name == "token=x1Secret"  # type: ignore[attr-defined]  # the application's own


def test_a_redacted_processor_gets_on_ending() -> None:
    """The span is open still, so it gets the very one; one that wants no call gets none."""

    class Processor(SpanProcessor):
        def __init__(self) -> None:
            self.ending: list[Any] = []

        def _on_ending(self, span: Any) -> None:
            self.ending.append(span)

    class Bare:
        def on_start(self, span: Any, parent_context: Any = None) -> None: ...
        def on_end(self, span: Any) -> None: ...

    processor = Processor()
    for target in (redacted(processor), redacted(Bare())):
        target._on_ending("span")  # type: ignore[attr-defined]  # as SDKs from 1.31 on do
    assert processor.ending == ["span"]


def test_log_records_of_others_are_copied_too() -> None:
    """What is no span and no log record does not leave, and is reported."""

    class Record:
        def __init__(self) -> None:
            self.body, self.attributes = "token=x1Secret", {"pin": "x1Secret"}

    class Item:
        def __init__(self) -> None:
            self.log_record = Record()
            self.instrumentation_scope = InstrumentationScope("x", attributes={"pin": "x1Secret"})
            self.resource = Resource({"pin": "x1Secret"})

    class Exporter:
        def __init__(self) -> None:
            self.batches: list[Any] = []

        def export(self, batch: Any) -> None:
            self.batches.append(list(batch))

        def on_emit(self, item: Any) -> None:
            self.batches.append([item])

    exporter, item = Exporter(), Item()
    wrapped = redacted(exporter)
    wrapped.export([item, object()])
    wrapped.on_emit(item)
    assert wrapped.batches is exporter.batches
    for batch in exporter.batches:
        (copy,) = batch
        assert copy.log_record.body == "token=[redacted:token]"
        assert copy.log_record.attributes == {"pin": "[redacted:otp]"}
        assert copy.instrumentation_scope.attributes == {"pin": "[redacted:otp]"}
        assert copy.resource.attributes == {"pin": "[redacted:otp]"}
    assert item.log_record.body == "token=x1Secret"
    assert _diagnostics.counts["spans or log records left out: not redacted"] == 1
    _diagnostics.forget()


def test_the_processor_serves_alone_in_any_chain() -> None:
    """Without a set-up; what it does not touch is the very object."""
    kept = object()
    event_dict = {
        "event": "password=x1",
        "token": "x1",
        "kept": kept,
        "exc_info": True,
        "data": {"a": [{"cookie": "x1"}]},
    }
    found = processors.redact_secrets(None, "info", event_dict)
    assert found == {
        "event": "password=[redacted:password]",
        "token": "[redacted:token]",
        "kept": kept,
        "exc_info": True,
        "data": {"a": [{"cookie": "[redacted:cookie]"}]},
    }
    given = {1: "first", "event": "a x1Secret", "token": "x1Secret"}  # a name may be no text
    found = processors.redact_secrets(None, "info", given)
    assert found == {1: "first", "event": "a [redacted:token]", "token": "[redacted:token]"}
    structlog.configure(processors=[processors.redact_secrets, structlog.processors.JSONRenderer()])
    structlog.reset_defaults()


_PROGRAM = """
import sys, threading, warnings, logging, otel_logging
otel_logging.setup_observability("shop", environment="production", endpoint="http://127.0.0.1:9")
class Rude:
    def __del__(self): raise ValueError("token=x1Secret")
Rude()
warnings.warn("password=x1Secret")
thread = threading.Thread(target=lambda: int("api_key=x1Secret")); thread.start(); thread.join()
otel_logging.get_logger("x").info("%s", "cookie: a=x1Secret")
from otel_logging import _diagnostics
_diagnostics.report("something", detail="Authorization: Basic dXNlcjp4MVNlY3JldA==")
raise SystemError("pwd: x1Secret")
"""


def test_uncaught_exceptions_and_warnings_lose_their_secrets() -> None:
    """Uncaught exceptions, of threads and finalisers as well, warnings, our own reports."""
    done = python("-c", _PROGRAM, env=child_environment())
    assert "x1Secret" not in done.stdout + done.stderr
    assert "dXNlcjp4MVNlY3JldA" not in done.stderr
    assert done.stdout.count("[redacted:") >= 5
    assert "[redacted:" in done.stderr


def test_a_long_text_loses_its_secret_before_it_is_cut() -> None:
    """Of a secret in two parts none would be known; long values are cut in the middle."""
    text = "a" * 4090 + " password=" + "x1Secret" * 3000
    found = processors.redact_secrets(None, "info", {"event": text})
    assert "x1Secret" not in found["event"]


@pytest.mark.parametrize(
    "value",
    [
        {"a": {"b": {"c": {"d": {"e": {"f": {"password": "x1Secret"}}}}}}},
        [*({"id": n} for n in range(2_000)), {"password": "x1Secret"}],
        {"html": "x " * 6_000 + " password=x1Secret " + "y " * 6_000},
        ("a", [["x" * 9_000] * 300], {"token": "x1Secret"}),
    ],
    ids=["deep", "long", "a long text", "wide"],
)
def test_items_beyond_the_bounds_of_a_value_are_not_in_the_line(value: Any) -> None:
    """Nobody has looked at it."""
    found = processors.redact_secrets(None, "info", {"event": "e", "value": value})
    assert "x1Secret" not in str(found)


def test_a_named_secret_is_not_in_the_message_beside_its_field(
    service: Service, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Whoever formats it, in a span or outside; a short text is in many words."""
    loguru = pytest.importorskip("loguru").logger
    standard = logging.getLogger("shop.form")
    form: dict[str, Any] = {"user": "bob", "password": "hunter2Zq7x"}
    more = {**form, "token": "hunter2Zq7xLong", "pin": 12345, "cookie": "abc", "tokens": 5}

    def everything() -> None:
        loguru.info("login {user} {password}", **form)
        standard.info("login %(user)s %(password)s", form)
        log.info("login %(user)s %(password)s", form)
        standard.info("login %s %s", "bob", form["password"], extra=form)
        log.info("login bob hunter2Zq7x", **form)
        log.bind(**form).info("login %s %s", "bob", form["password"])
        with bound_context(**form):
            standard.info("login bob hunter2Zq7x")

    everything()
    with traced("login"):
        everything()
        log.info("hunter2Zq7xLong hunter2Zq7x 12345 abc", **more)
        log.info("%(token)s %(pin)s %(tokens)d %(cookie)s", more)
        log.info("%s", {"a": 1})
        log.info("%r", {"a": 1})
        log.info(("login", "bob"), **form)
        standard.info("%(pin)d", {"pin": 12345})
    out = capfd.readouterr().out
    events = [json.loads(line)["event"] for line in out.splitlines()]
    assert events[:14] == ["login bob [redacted:password]"] * 14
    rest = [
        "[redacted:token] [redacted:password] [redacted:otp] abc",
        "[redacted:token] [redacted:otp] 5 [redacted:cookie]",
        *["{'a': 1}"] * 2,
        ["login", "bob"],
        "%(pin)d",  # a marker is no number: its arguments stand in a field, by their names
    ]
    assert events[14:] == rest
    names = [event.name for event in service.one("login").events]
    assert names[:11] == [*events[:7], *rest[:4]]
    for secret in ("hunter2", "12345"):
        assert secret not in out
        assert secret.encode() not in on_disk(tmp_path)


def test_handlers_of_the_application_get_lines_of_ours_redacted(tmp_path: Path) -> None:
    """A file's handler, for instance: message and fields."""
    configure_logging(environment="production")
    path = tmp_path / "x.log"
    handler = logging.FileHandler(path)
    handler.setFormatter(logging.Formatter("%(message)s %(apiKey)s %(note)s"))
    logger = logging.getLogger("with.a.file")
    logger.addHandler(handler)
    try:
        fields = {"apiKey": "x1Secret", "note": "pwd=x1Secret"}
        get_logger("with.a.file").warning("password=x1Secret", **fields)
    finally:
        logger.removeHandler(handler)
        handler.close()
    assert path.read_text() == (
        "password=[redacted:password] [redacted:key] pwd=[redacted:password]\n"
    )


def test_the_commands_show_no_secret_that_somebody_else_wrote(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With ``redact=False``, or an earlier version, or another SDK; in every place they show."""
    secret = "pin=x1Secret"
    values = {"user_id": secret, "budget_s": 0.1, "pin": "x1Secret"}
    values |= dict.fromkeys(("late.cause", "late.culprit", "late.detail", "late.why"), secret)
    failure = f"Traceback (most recent call last):\n  File 'a.py', line 1, in f\nError: {secret}"
    lines = [line(1, secret, "error", exception=failure, pin="x1Secret")]
    span = Planted(1, 0, secret, 0, 400, values, lines, status=2, message=secret)
    configure_logging(redact=False)
    store(tmp_path, span, service=secret)
    configure_logging(redact=True)
    for command in ("late", "late --json", "failed", "failed --json", f"show {TRACE}"):
        asked = [*command.split(), "--source", "local", "--spool-dir", str(tmp_path)]
        shown = Runner().invoke(main, asked).output
        assert "x1Secret" not in shown, command
        assert "pin=[red" in shown, command


def test_what_is_open_is_shown_without_a_secret_of_a_process_that_writes_it(tmp_path: Path) -> None:
    """``now``; its table is read by other processes."""
    where = {"endpoint": NOWHERE, "spool_dir": tmp_path, "environment": "production"}
    made = setup_observability("shop", redact=False, budgets={"pin=x1Secret": 0.01}, **where)
    with traced("pin=x1Secret"):
        bind_context(user_id="pin=x1Secret")
        until = time.monotonic() + 5
        while b"user_id=pin=x1Secret" not in on_disk(tmp_path):
            assert time.monotonic() < until
            time.sleep(0.01)
        configure_logging(redact=True)
        shown = Runner().invoke(main, ["now", "--spool-dir", str(tmp_path)]).output
    made.shutdown(0.1)
    clear_context()
    assert "x1Secret" not in shown
    assert "user_id=pin=[redacted:otp]" in shown


@pytest.fixture(autouse=True)
def _usual_afterwards() -> Iterator[None]:
    yield
    configure_logging(environment="production", redact=True)
    sys.stdout.flush()
