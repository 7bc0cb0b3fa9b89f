"""What has to be true of a collector and Jaeger run from the shipped files, however they are run.

``tests/backends`` runs these against processes of this machine, ``tests/compose``
against the compose file, through its published ports: each with a fixture
``stack`` of its own.
"""

import json
import sys
import time
import urllib.request
import uuid
from collections import Counter
from pathlib import Path
from subprocess import Popen
from typing import Any

import pytest

from tests.backends import chat
from tests.backends.jaeger import Jaeger, Traces, stored, values
from tests.backends.stack import ROOT, Stack, answers, until
from tests.lines import parsed
from tests.programs import child_environment, end, good, start

DEMO = "chat-gateway"

PAGES = """
from opentelemetry import trace
import otel_logging

with otel_logging.setup_observability():
    log = otel_logging.get_logger("pages")
    with otel_logging.traced("long", root=True) as span:
        for n in range(1_100):
            log.info("line", n=n)
        log.info("ratio", sharpe=float("nan"), top=float("inf"))
    with trace.use_span(span):
        log.info("late")
    log.info("outside")
"""


class Service:
    """A process of the package's user, its store, and what Jaeger has of it."""

    def __init__(self, stack: Stack, spool_dir: Path, **variables: str) -> None:
        self.name = variables.pop("OTEL_SERVICE_NAME", f"chat-{uuid.uuid4().hex[:8]}")
        self.spool_dir = spool_dir
        self.jaeger = Jaeger(stack.addresses.jaeger)
        self._variables = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": stack.addresses.otlp_http,
            "OTEL_SERVICE_NAME": self.name,
            "OTEL_LOGGING_SPOOL_DIR": str(spool_dir),
            "ENVIRONMENT": "production",
            **variables,
        }

    def start(self, *command: str) -> Popen[bytes]:
        env = child_environment(**self._variables)
        return start(sys.executable, *command, cwd=ROOT, env=env, text=False)

    def finish(self, process: Popen[bytes]) -> tuple[bytes, str]:
        done = good(end(process, patience_s=120))
        return done.stdout, done.stderr.decode()

    def run(self, *command: str) -> tuple[bytes, str]:
        """Run a process to its end; return what it said."""
        return self.finish(self.start(*command))

    def handle(self, messages: int) -> tuple[bytes, str]:
        return self.run("-m", "tests.backends.chat", str(messages))

    def demo(self) -> Popen[bytes]:
        return self.start("-c", "from otel_logging.cli import main; main()", "demo")

    def stored(self) -> Traces:
        return stored(self.spool_dir)

    def messages(self) -> Traces:
        """Return the stored traces that are messages, not lines outside any."""
        return {
            trace_id: spans
            for trace_id, spans in self.stored().items()
            if any(span["name"] == "message" for span in spans)
        }

    def all_in_jaeger(self) -> Traces:
        """Wait until Jaeger has every stored span, then hold each field against the store's."""
        ours = self.stored()
        until(lambda: self.jaeger.missing(ours), lambda missing: not missing)
        for trace_id, spans in ours.items():
            assert self.jaeger.trace(trace_id) == spans
        return ours


@pytest.fixture
def service(stack: Stack, tmp_path: Path) -> Service:
    return Service(stack, tmp_path / "spool")


class Cases:
    """The assertions."""

    def test_a_request_is_there_whole_with_its_lines(self, service: Service) -> None:
        """Each stage, each line as an event in order with level and fields, and whose it was."""
        out, _ = service.handle(8)
        ours = service.all_in_jaeger()
        lines = Counter(
            (line.get("trace_id"), line.get("span_id"), line["event"], line["level"])
            for line in parsed(out)
        )
        told = Counter(
            (*_where(trace_id, span), name, attributes["level"])
            for trace_id in ours
            for span in service.jaeger.trace(trace_id)
            for _, name, attributes in span["events"]
            if "level" in attributes
        )
        assert told == lines
        assert told[None, None, "ready", "info"] == 1
        for trace_id in service.messages():
            _is_a_whole_message(service.jaeger.trace(trace_id))

    def test_a_search_finds_exactly_whose_messages_were_slow(self, service: Service) -> None:
        """By user and duration, all on one span; nobody else's, and no quick one."""
        service.handle(42)
        service.all_in_jaeger()
        messages = service.messages()
        number = {
            trace_id: next(s["attributes"]["number"] for s in spans if not s["parent_span_id"])
            for trace_id, spans in messages.items()
        }
        for user in chat.USERS:
            tags = {"user_id": user}
            found = service.jaeger.search(service.name, tags, min_duration_s=chat.SLOW_S)
            slow = {t for t, n in number.items() if chat.user(n) == user and chat.is_slow(n)}
            assert found == slow
            assert service.jaeger.search(service.name, tags) == {
                t for t, n in number.items() if chat.user(n) == user
            }
            assert bool(slow) == (user != "carla")
        assert service.jaeger.search(service.name, {"user_id": "nobody"}) == set()

    def test_no_span_has_a_warning_and_no_time_was_changed(self, service: Service) -> None:
        """Not even a stage that went on after its message had ended."""
        service.handle(8)
        ours = service.all_in_jaeger()
        assert sum(len(_outliving(spans)) for spans in ours.values())
        for trace_id, spans in ours.items():
            # where this API says it; all_in_jaeger has already found no attribute but ours
            told = service.jaeger.trace(trace_id)
            assert not any("@jaeger@warnings" in span["attributes"] for span in told)
            _is_shown_as_it_was(service.jaeger.shown(trace_id), spans)

    def test_pages_and_what_json_has_no_number_for(self, service: Service) -> None:
        """More lines than a stage holds, one after its end, a NaN: no warning, all found."""
        service.run("-c", PAGES)
        ours = service.all_in_jaeger()
        events = Counter(
            name
            for trace_id in ours
            for span in service.jaeger.trace(trace_id)
            for _, name, _ in span["events"]
        )
        assert events == {"line": 1_100, "ratio": 1, "late": 1, "outside": 1}
        for trace_id in ours:
            told = service.jaeger.trace(trace_id)
            assert not any("@jaeger@warnings" in span["attributes"] for span in told)
        assert service.jaeger.search(service.name, {"level": "info"}) == set(ours)

    def test_it_takes_grpc_as_well(self, stack: Stack, tmp_path: Path) -> None:
        """The other protocol, on the other port."""
        service = Service(
            stack,
            tmp_path / "spool",
            OTEL_EXPORTER_OTLP_PROTOCOL="grpc",
            OTEL_EXPORTER_OTLP_ENDPOINT=stack.addresses.otlp_grpc,
        )
        service.handle(2)
        assert len(service.all_in_jaeger()) >= 2

    def test_log_records_are_json_lines_on_disk(self, stack: Stack, tmp_path: Path) -> None:
        """Each line once, with its trace; where an application has chosen log records."""
        service = Service(stack, tmp_path / "spool", OTEL_LOGS_EXPORTER="otlp")
        out, _ = service.handle(3)
        # not those of the client that sends them
        lines = [line for line in parsed(out) if line["logger"] == "chat"]
        wanted = Counter((x["event"], x.get("trace_id", ""), x.get("span_id", "")) for x in lines)
        got = until(
            lambda: [
                record
                for text in stack.log_files()
                for record in _records(text)
                if (record["service"], record["logger"]) == (service.name, "chat")
            ],
            lambda got: len(got) >= len(lines),
        )
        assert (
            Counter((r["body"], r.get("traceId", ""), r.get("spanId", "")) for r in got) == wanted
        )
        (late,) = (r for r in got if r["body"] == "order not found" and r["order"] == 0)
        assert (late["severityText"].lower(), late["user_id"]) == ("error", "ada")
        # and nothing of them in the trace, where each would be twice
        for trace_id in service.all_in_jaeger():
            assert not any(span["events"] for span in service.jaeger.trace(trace_id))

    def test_secrets_are_masked_by_the_collector(self, stack: Stack, service: Service) -> None:
        """In keys and values, of resource, spans, events and log records; in messages as well."""
        trace_id = uuid.uuid4().hex
        _post(stack, "/v1/traces", _planted_trace(service.name, trace_id))
        _post(stack, "/v1/logs", _planted_logs(service.name, trace_id))
        (span,) = until(lambda: service.jaeger.trace(trace_id))
        records = until(
            lambda: [line for text in stack.log_files() for line in text.splitlines()],
            lambda lines: any(trace_id in line for line in lines),
        )
        kept = json.dumps(service.jaeger.shown(trace_id)) + "".join(
            line for line in records if trace_id in line
        )
        assert [secret for secret in SECRETS if secret in kept] == []
        # each value is there and masked, not dropped
        assert {k: span["attributes"][k] for k in BENIGN} == BENIGN
        assert span["attributes"]["password"] == "****"
        assert span["attributes"]["url"] == "postgres****db.example/shop"
        (event,) = span["events"]
        assert event[1] == "logging in with **** to shop"
        assert event[2] == {"x-api-key": "****", "level": "info"}
        assert span["name"] == "GET /login?****&page=2"

    @pytest.mark.parametrize("collector", ["first", "in the middle", "last"])
    def test_the_demo_needs_no_particular_order(
        self, stack: Stack, tmp_path: Path, collector: str
    ) -> None:
        """Whenever the collector comes, all that the demo recorded is in Jaeger, and once."""
        service = Service(stack, tmp_path / "spool", OTEL_SERVICE_NAME=DEMO)
        began_s = time.time()
        if collector != "first":
            stack.stop("collector")
        process = service.demo()
        if collector == "in the middle":
            until(service.messages)
            stack.start("collector")
        out, _ = service.finish(process)
        if collector == "last":
            stack.start("collector")
            # the next process of that service brings what waits
            service.run("-c", "import tests.backends.chat as c; c.bring()")
        ours = service.all_in_jaeger()
        # users and messages of the demo: one user has one, and one has a new password for them
        assert len(service.messages()) == 12 * 3 - 2
        for spans in service.messages().values():
            names = {span["name"] for span in spans} - {"event_loop.blocked"}
            assert names in ({"message", "reply"}, {"message", "answer", "search history", "reply"})
            (user,) = {span["attributes"]["user_id"] for span in spans}
            assert user
        # whose message was late is the same, asked of Jaeger and of the store
        ask = ("late", "--source", "local", "--json")  # Jaeger has other demos', too
        late, _ = service.run("-c", "from otel_logging.cli import main; main()", *ask)
        rows = json.loads(late)
        assert rows
        for row in rows:
            # the operation as well: lines outside any message name users, too
            found = service.jaeger.search(
                DEMO, row["who"], operation=row["stage"], min_duration_s=row["budget_s"]
            )
            same = {r["trace_id"] for r in rows if r["who"] == row["who"]}
            assert {t for t in found if t in ours} == same
        assert any(b"LATE" in line for line in out.splitlines())
        assert all(s["start_ns"] / 1e9 > began_s for spans in ours.values() for s in spans)

    def test_killed_under_load_nothing_is_lost(self, stack: Stack, service: Service) -> None:
        """Jaeger's process, then the collector's, by signal 9: every trace is there, once."""
        process = service.start("-m", "tests.backends.chat", "240", "8")
        for program in ("jaeger", "collector"):
            before = len(service.messages())
            until(lambda before=before: len(service.messages()) > before + 30)
            stack.kill(program)
        service.finish(process)
        ours = service.all_in_jaeger()
        assert len(service.messages()) == 240
        for trace_id, spans in ours.items():
            _is_shown_as_it_was(service.jaeger.shown(trace_id), spans)

    def test_what_was_accepted_outlives_the_collector(self, stack: Stack, service: Service) -> None:
        """Accepted while Jaeger was away, on disk when the collector was killed, then in Jaeger."""
        stack.stop("jaeger")
        try:
            _, said = service.handle(20)
            assert said.endswith("delivered\n")
            stack.kill("collector")
        finally:
            stack.start("jaeger")
        service.all_in_jaeger()
        assert len(service.messages()) == 20

    def test_jaeger_shows_no_traces_of_its_own(self, stack: Stack, service: Service) -> None:
        """What it answers is not traced into what it shows."""
        service.handle(1)
        service.all_in_jaeger()
        services = service.jaeger.services()
        assert service.name in services
        assert not any("jaeger" in name for name in services)

    def test_the_collector_says_how_it_is(self, stack: Stack, service: Service) -> None:
        """Ready by HTTP, and its own metrics."""
        service.handle(1)
        assert answers(stack.addresses.health)
        with urllib.request.urlopen(stack.addresses.metrics, timeout=10) as response:
            text = response.read().decode()
        assert "otelcol_receiver_accepted_spans" in text
        assert "otelcol_exporter_queue_size" in text


def _where(trace_id: str, span: dict[str, Any]) -> tuple[str | None, str | None]:
    """Return the ids that a line has in its output; lines outside any span have a span here."""
    return (None, None) if span["name"] == "process log" else (trace_id, span["span_id"])


def _is_a_whole_message(spans: list[dict[str, Any]]) -> None:
    by_name = {span["name"]: span for span in spans}
    assert set(by_name) == chat.STAGES
    assert len(spans) == len(chat.STAGES)
    root = by_name["message"]
    number = root["attributes"]["number"]
    assert {span["attributes"]["user_id"] for span in spans} == {chat.user(number)}
    assert all(s["parent_span_id"] == root["span_id"] for s in spans if s is not root)
    told = sorted(event for span in spans for event in span["events"] if "level" in event[2])
    # "archived" may come anywhere; and that the message was late has a line as well
    told = [each for each in told if each[1] != "archived" and each[2]["logger"] != "otel_logging"]
    assert [(name, fields["level"]) for _, name, fields in told] == [
        ("message received", "info"),
        ("model was cold", "warning"),
        ("order not found", "error"),
        ("reply sent", "info"),
    ]
    (received, *_) = root["events"]
    wanted = {"words": number + 1, "share": 0.5, "urgent": number % 2 == 0}
    assert wanted.items() <= received[2].items()
    (failed,) = (e for e in by_name["answer"]["events"] if e[1] == "order not found")
    assert "ValueError: no such order" in str(failed[2])


def _is_shown_as_it_was(shown: dict[str, Any], spans: list[dict[str, Any]]) -> None:
    """Hold what the UI is given against ours: no span twice, none warned of, none moved."""
    assert not shown["warnings"]
    assert not any(process.get("warnings") for process in shown["processes"].values())
    times = sorted((s["spanID"], s["startTime"], s["duration"]) for s in shown["spans"])
    assert times == sorted(
        (s["span_id"], s["start_ns"] // 1000, (s["end_ns"] - s["start_ns"]) // 1000) for s in spans
    )
    warned = {s["spanID"]: s["warnings"] for s in shown["spans"] if s["warnings"]}
    # Jaeger 2.13 knows hosts by the tag `ip` here, and by host.name in its other API: it then
    # cannot tell that both spans had one clock. Later versions know host.name everywhere.
    old = {
        span_id: warnings
        for span_id, warnings in warned.items()
        if span_id in _outliving(spans)
        and all("clock skew adjustment disabled" in warning for warning in warnings)
    }
    assert warned == old


def _outliving(spans: list[dict[str, Any]]) -> set[str]:
    """Return the ids of the spans that ended after their parent."""
    end_ns = {span["span_id"]: span["end_ns"] for span in spans}
    return {
        span["span_id"]
        for span in spans
        if span["end_ns"] > end_ns.get(span["parent_span_id"], span["end_ns"])
    }


# ---------------------------------------------------------------- planted secrets

CARD = "4111 1111 1111 1111"
SECRETS = (
    *("hunter2", "hunter3", "hunter4", "hunter5", "hunter6", "s3cr3t-cookie", CARD),
    *("4242424242424242", "AKIAABCDEFGHIJKLMNOP", "ghp_" + "a1" * 18, "sk-live-" + "Zz9" * 8),
    *("eyJhbGciOiJIUzI1NiJ9", "c2lnbmF0dXJlLW9m", "MIIEpAIBAAKCAQEA", "xoxb-123456789012"),
)
BENIGN: dict[str, Any] = {
    "max_tokens": 512,
    "token_count": "17",
    "note": "the secretary kept her password, no, the passport; basic authentication is off",
    "at": 1764108000000000,
    "at_ns": "1764108000123456789",
    "id": "4bf92f3577b34da6a3ce929d0e0e4736",
    "mail": "ada@example.com",
    "link": "https://example.com:8443/a:b@c",
}


def _wrapped(value: Any) -> dict[str, Any]:
    match value:
        case bool():
            return {"boolValue": value}
        case int():
            return {"intValue": str(value)}
        case dict():
            return {"kvlistValue": {"values": _pairs(value)}}
    return {"stringValue": value}


def _pairs(fields: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"key": key, "value": _wrapped(value)} for key, value in fields.items()]


def _planted(service: str) -> tuple[dict[str, Any], dict[str, Any]]:
    resource = {"attributes": _pairs({"service.name": service, "db.password": "hunter2"})}
    fields = {
        "password": "hunter2",
        "http.request.header.cookie": "s3cr3t-cookie",
        "paid_with": f"card {CARD}, thanks",
        "number": 4242424242424242,
        "form": {"user": "ada", "password": "hunter3"},
        "url": "postgres://ada:hunter4@db.example/shop",
        "header": "Authorization: Bearer eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJhZGEifQ.c2lnbmF0dXJlLW9m",
        "keys": f"AKIAABCDEFGHIJKLMNOP and {'ghp_' + 'a1' * 18} and {'sk-live-' + 'Zz9' * 8}",
        "pem": "-----BEGIN RSA PRIVATE KEY-----\nMIIEpAIBAAKCAQEA\n-----END RSA PRIVATE KEY-----",
        "chat": "xoxb-123456789012",
        **BENIGN,
    }
    return resource, fields


def _planted_trace(service: str, trace_id: str) -> dict[str, Any]:
    resource, fields = _planted(service)
    now = time.time_ns()
    event = {
        "timeUnixNano": str(now + 1000),
        "name": "logging in with password=hunter5 to shop",
        "attributes": _pairs({"x-api-key": "hunter6", "level": "info"}),
    }
    span = {
        "traceId": trace_id,
        "spanId": trace_id[:16],
        "name": "GET /login?access_token=hunter6&page=2",
        "kind": 2,
        "startTimeUnixNano": str(now),
        "endTimeUnixNano": str(now + 2_000_000),
        "attributes": _pairs(fields),
        "events": [event],
        "status": {"code": 2, "message": "refused: api_key=hunter6"},
    }
    return {"resourceSpans": [{"resource": resource, "scopeSpans": [{"spans": [span]}]}]}


def _planted_logs(service: str, trace_id: str) -> dict[str, Any]:
    resource, fields = _planted(service)
    record = {
        "timeUnixNano": str(time.time_ns()),
        "traceId": trace_id,
        "spanId": trace_id[:16],
        "severityText": "INFO",
        "body": {"stringValue": "logging in with password=hunter5 to shop"},
        "attributes": _pairs(fields),
    }
    return {"resourceLogs": [{"resource": resource, "scopeLogs": [{"logRecords": [record]}]}]}


def _post(stack: Stack, path: str, body: dict[str, Any]) -> None:
    request = urllib.request.Request(
        stack.addresses.otlp_http + path,
        json.dumps(body).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=10) as response:
        assert response.status == 200


def _records(text: str) -> list[dict[str, Any]]:
    """Return the log records of a file of the collector, flat."""
    return [
        {
            **values(record.get("attributes", ())),
            **record,
            "body": record["body"]["stringValue"],
            "logger": scope.get("scope", {}).get("name"),
            "service": values(resource["resource"]["attributes"])["service.name"],
        }
        for line in text.splitlines()
        for resource in json.loads(line)["resourceLogs"]
        for scope in resource["scopeLogs"]
        for record in scope["logRecords"]
    ]
