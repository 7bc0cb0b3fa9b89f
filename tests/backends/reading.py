"""What has to be true of ``late``, ``show`` and ``doctor`` at a real Jaeger, however it is run.

As ``cases``: natively and through the compose file, each with its own ``stack``.
"""

import json
import time
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from otel_logging import _otlp
from otel_logging.export.http import OtlpHttp
from otel_logging.export.outcome import Outcome
from otel_logging.settings import Exporter
from otel_logging.traces import local, search
from otel_logging.traces.jaeger import Jaeger
from otel_logging.traces.late import Question, late
from otel_logging.traces.trace import by_trace
from tests.backends.cases import Service
from tests.backends.stack import Stack, until
from tests.stored import MS, SCOPE, Planted, store

COMMAND = ("-c", "from otel_logging.cli import main; main()")
USERS = 50


class Reader:
    """Traces of a service of their own, in a local store and in Jaeger."""

    def __init__(self, stack: Stack, place: Path) -> None:
        self.service = f"read-{uuid.uuid4().hex[:8]}"
        self.origin = time.time_ns() // MS * MS
        self.jaeger = Jaeger(stack.addresses.jaeger)
        self._place = place
        self._client = OtlpHttp(Exporter(endpoint=f"{stack.addresses.otlp_http}/v1/traces"))

    def plant(self, *spans: Planted) -> None:
        """Put *spans* into the local store, and send them; wait until Jaeger has each trace."""
        store(self._place, *spans, service=self.service, origin=self.origin)
        resource = _otlp.resource({"service.name": self.service, "otel_logging.who": ["user_id"]})
        for at in range(0, len(spans), 2000):
            encoded = [span.encoded(self.origin) for span in spans[at : at + 2000]]
            answer = self._client.send(_otlp.request(resource, SCOPE, encoded), 30)
            assert answer.outcome is Outcome.DELIVERED, answer
        self._client.reset()
        for trace_id in {span.trace for span in spans[-2000:]}:
            until(lambda trace_id=trace_id: self.jaeger.trace(trace_id))

    def here(self) -> list[Any]:
        return local.read([self._place])[0]

    def there(self, **question: Any) -> search.Found:
        return search.read(Jaeger(self.jaeger.url), self.asked(**question))

    def asked(self, **question: Any) -> Question:
        return Question(service=self.service, **question)


@pytest.fixture
def reader(stack: Stack, tmp_path: Path) -> Reader:
    return Reader(stack, tmp_path / "planted")


def trace_ids(count: int) -> list[str]:
    return [uuid.uuid4().hex for _ in range(count)]


def some() -> list[Planted]:
    """Values of all kinds, on the late stage, above it and below it."""
    one, two, three, four = trace_ids(4)
    return [
        Planted(1, 0, "message", -9000, -8000, {"user_id": "u-1", "budget_s": 0.5}, trace=one),
        Planted(2, 1, "answer", -9000, -8100, {"n": 7, "ok": True, "r": 0.5}, trace=one, status=2),
        Planted(1, 0, "message", -7000, -6900, {"user_id": "u-2", "budget_s": 0.5}, trace=two),
        Planted(2, 1, "for one", -7000, -6950, {"user_id": "u-1", "error": "yes"}, trace=two),
        Planted(1, 0, "job", -70_000, -2000, {"room": "hall", "n": "7", "tag": ["a"]}, trace=three),
        Planted(1, 0, "quick", -1000, -999, {"budget_s": 0.5, "n": 7.0, "no": False}, trace=four),
    ]


class ReadingCases:
    """The assertions."""

    def test_the_demos_late_message_is_read_back_the_same(
        self, stack: Stack, service: Service
    ) -> None:
        """From Jaeger as from the local store: the rows, with their links, and all of a trace."""
        service.finish(service.demo())
        service.all_in_jaeger()
        where = {"OTEL_LOGGING_JAEGER_URL": stack.addresses.jaeger}
        reading = Service(stack, service.spool_dir, OTEL_SERVICE_NAME=service.name, **where)

        def rows(source: str) -> Sequence[dict[str, Any]]:
            options = ("--source", source, "--service", "chat-gateway", "--json", "--since", "2m")
            out, said = reading.run(*COMMAND, "late", *options)
            assert source in said.lower()
            return json.loads(out)

        ours, theirs = rows("local"), rows("jaeger")
        known = {row["trace_id"] for row in ours}
        theirs = [row for row in theirs if row["trace_id"] in known]  # not of other demos
        assert ours
        for row in theirs:
            spans = list(dict.fromkeys((row["span_id"], row["path"][-1]["span_id"])))
            page, found = row.pop("link").split("?uiFind=")
            assert page == f"{stack.addresses.jaeger}/trace/{row['trace_id']}"
            assert found.split("%20")[: len(spans)] == spans
        assert theirs == [{k: v for k, v in row.items() if k != "link"} for row in ours]

        shown = [
            reading.run(*COMMAND, "show", ours[0]["trace_id"], "--json", "--source", source)[0]
            for source in ("local", "jaeger")
        ]
        assert json.loads(shown[0]) == json.loads(shown[1])

    @pytest.mark.parametrize(
        "question",
        [
            {},
            {"over_s": 0.9},
            {"over_s": 0.05, "who": "u-1"},
            {"who": "nobody"},
            {"who": "u-1", "where": (("n", "7"),)},
            {"where": (("room", "hall"),)},
            {"where": (("n", "7"),)},
            {"where": (("ok", "true"),)},
            {"where": (("no", "false"),)},
            {"where": (("n", "7.0"),)},
            {"where": (("r", "0.5"),)},
            {"where": (("n", "7"), ("ok", "true")), "over_s": 0.1},
            {"where": (("room", "hall"), ("n", "7"))},
            {"where": (("error", "yes"),)},
        ],
    )
    def test_the_rows_are_those_of_the_local_store(
        self, reader: Reader, question: dict[str, Any]
    ) -> None:
        """Whatever of the question Jaeger has answered itself."""
        reader.plant(*some())
        asked = reader.asked(**question)

        here, there = late(reader.here(), asked), late(reader.there(**question).spans, asked)

        assert [row.as_json() for row in there.rows] == [row.as_json() for row in here.rows]

    def test_what_ended_since_then_is_found_however_long_it_took(self, reader: Reader) -> None:
        """Jaeger searches by the start alone."""
        reader.plant(*some())
        question = {"since_ns": reader.origin - 2500 * MS, "over_s": 0.0001}

        rows = late(reader.there(**question).spans, reader.asked(**question)).rows

        assert {row.span.name for row in rows} == {"job", "quick"}

    def test_more_than_one_answer_holds_is_incomplete(self, reader: Reader) -> None:
        """Of ten thousand traces; but what was slow, and what is one user's, is there whole."""
        planted = [
            Planted(
                n + 1,
                0,
                "message",
                -n * 50,
                -n * 50 + (900 if n % 250 == 0 else 40),
                {"user_id": f"u-{n % USERS}"},
                trace=trace_id,
            )
            for n, trace_id in enumerate(trace_ids(10_000))
        ]
        reader.plant(*planted)

        found = reader.there()

        assert len(by_trace(found.spans)) == search.MOST_TRACES
        assert "ask for less" in found.incomplete
        wanted = {p.trace for p in planted if p.end - p.start > 500}
        until(lambda: {s.trace_id for s in reader.there(over_s=0.5).spans}, wanted.__eq__)
        wanted = {p.trace for p in planted if p.attributes["user_id"] == "u-7"}
        until(lambda: {s.trace_id for s in reader.there(who="u-7").spans}, wanted.__le__)
        hers = reader.there(who="u-7")
        rows = late(hers.spans, reader.asked(who="u-7")).rows
        assert {row.span.trace_id for row in rows} == wanted
        assert len(by_trace(hers.spans)) <= len(wanted) + 1  # and the newest, to learn whose
        assert hers.incomplete == ""

    def test_the_doctor_finds_nothing_wrong(self, stack: Stack, tmp_path: Path) -> None:
        """By either protocol."""
        for protocol, endpoint in (
            ("http/protobuf", stack.addresses.otlp_http),
            ("grpc", stack.addresses.otlp_grpc),
        ):
            service = Service(
                stack,
                tmp_path / "spool",
                OTEL_EXPORTER_OTLP_PROTOCOL=protocol,
                OTEL_EXPORTER_OTLP_ENDPOINT=endpoint,
                OTEL_LOGGING_JAEGER_URL=stack.addresses.jaeger,
                PYTHONIOENCODING="utf-8",
            )
            out, _ = service.run(*COMMAND, "doctor")
            assert "✓ The probe came back with its log line" in out.decode()

    def test_the_doctor_knows_a_real_port(self, stack: Stack, tmp_path: Path) -> None:
        """HTTP's given to gRPC, gRPC's given to HTTP, the collector's taken for Jaeger's."""
        for protocol, endpoint, said in (
            ("grpc", stack.addresses.otlp_http, "4317"),
            ("http/protobuf", stack.addresses.otlp_grpc, "4318"),
        ):
            service = Service(
                stack,
                tmp_path / "spool",
                OTEL_EXPORTER_OTLP_PROTOCOL=protocol,
                OTEL_EXPORTER_OTLP_ENDPOINT=endpoint,
                OTEL_LOGGING_JAEGER_URL=stack.addresses.otlp_http,
                COLUMNS="200",
            )
            process = service.start(*COMMAND, "doctor")
            out, _ = process.communicate(timeout=60)
            assert process.returncode == 1
            assert said in out.decode().partition("do: ")[2]
            assert "There is no Jaeger that can be asked" in out.decode()


__all__ = ["ReadingCases", "reader"]
