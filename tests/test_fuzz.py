"""Foreign bytes: what reads them raises nothing, and shows nothing that a terminal would obey.

More of it: ``pytest --hypothesis-profile long --hypothesis-seed 1 tests/test_fuzz.py``, and 2, 3 …
"""

import contextlib
import json
import os
import re
import socket
from base64 import b64decode
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from google.protobuf.json_format import MessageToDict
from hypothesis import example, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from opentelemetry import context as otel_context
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from otel_logging import ConfigurationError, _otlp, cli, extract
from otel_logging.export.outcome import Client, Outcome
from otel_logging.settings import load
from otel_logging.spool.segment import frame, header
from otel_logging.traces.jaeger import Jaeger, JaegerError
from tests import rude
from tests.commands import Runner
from tests.jaeger import FakeJaeger
from tests.receiver import partial_success
from tests.rude import OK, Rude
from tests.stored import NOON, SCOPE, TRACE, Planted, line
from tests.test_transport import connect, request
from tests.test_transport_grpc import CODES, Collector
from tests.test_transport_grpc import connect as connect_grpc

#: Each of these asks a socket: fewer of them.
_asking = hypothesis_settings(max_examples=max(hypothesis_settings().max_examples // 5, 20))
_EVIL = ("\x1b[2J", "\r\n", "\0", "\ud800", "\u202e", "9" * 400, "-1", "NaN", "1e999", "é", "${A}")


def damaged(*valid: bytes) -> st.SearchStrategy[bytes]:
    """Return *valid* bytes with pieces of them cut out, doubled, replaced; or any bytes."""
    pieces = st.binary(max_size=8) | st.sampled_from(
        [each.encode(errors="replace") for each in _EVIL]
    )
    places = st.floats(0, 1)
    edits = st.lists(st.tuples(places, places, st.none() | pieces), max_size=4)

    def edited(data: bytes, edits: list[tuple[float, float, bytes | None]]) -> bytes:
        for one, two, piece in edits:
            begin, end = sorted((int(one * len(data)), int(two * len(data))))
            if piece is None:
                data = data[:end] + data[begin:]
            else:
                data = data[:begin] + piece + data[begin + min(end - begin, len(piece)) :]
        return data

    return st.builds(edited, st.sampled_from(valid), edits) | st.binary(max_size=200)


def replaced(valid: Any) -> st.SearchStrategy[Any]:
    """Return plain data like *valid*, with other values in some of its places."""
    other = st.recursive(
        st.none()
        | st.booleans()
        | st.integers(-(2**70), 2**70)
        | st.floats()
        | st.text(max_size=8)
        | st.sampled_from(_EVIL),
        lambda inner: (
            st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=4), inner, max_size=2)
        ),
        max_leaves=4,
    )

    def inside(value: Any) -> st.SearchStrategy[Any]:
        if isinstance(value, dict):
            same = st.fixed_dictionaries({key: inside(each) for key, each in value.items()})
        elif isinstance(value, list):
            same = st.tuples(*map(inside, value)).map(list)
        else:
            same = st.just(value)
        # most places stay: an answer that is wrong in all of them is refused at the first
        return st.integers(0, 15).flatmap(lambda n: same if n else other)

    return inside(valid)


SPANS = [
    Planted(
        1,
        0,
        "message",
        0,
        900,
        {"user_id": "u", "n": 7, "f": 0.5, "late": True, "list": ["a", 1], "budget_s": 0.3},
        [
            line(1, "hello"),
            (2, "exception", {"exception.type": "KeyError"}),
        ],
        [(TRACE, 5)],
        status=2,
        message="failed",
    ),
    Planted(2, 1, "charge", 10, 20, {"user_id": "u"}),
]
RESOURCE = _otlp.resource({"service.name": "shop", "otel_logging.who": ["user_id"]})
BODIES = [span.encoded(NOON) for span in SPANS]
RESULT = json.loads(
    json.dumps(
        {
            "result": MessageToDict(
                ExportTraceServiceRequest.FromString(_otlp.request(RESOURCE, SCOPE, BODIES))
            )
        }
    )
)


def ids_in_hex(value: Any) -> Any:
    """Return OTLP's own JSON: protobuf's has ids in base64."""
    if isinstance(value, dict):
        return {
            key: b64decode(each).hex() if key.endswith(("traceId", "panId")) else ids_in_hex(each)
            for key, each in value.items()
        }
    return [ids_in_hex(each) for each in value] if isinstance(value, list) else value


ANSWER = ids_in_hex(RESULT)


def all_commands_answer(*options: str) -> None:
    """Run each command that reads: it ends well, or with a sentence."""
    for command in (
        ["late", "--over", "0.01"],
        ["late", "--over", "0.01", "--json"],
        ["late", "--over", "0.01", "--summary"],
        ["failed"],
        ["failed", "--json"],
        ["show"],
        ["show", TRACE],
        ["show", "--json"],
    ):
        done = Runner().invoke(cli.main, [*command, *options])
        assert done.exit_code in (0, 1), (command, done.output)
        assert done.exception is None or isinstance(done.exception, SystemExit), command
        shown = done.stdout + done.stderr
        assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202e]", shown), (command, shown)
        if "--json" in command and done.exit_code == 0:
            json.loads(done.stdout, parse_constant=lambda name: pytest.fail(name))


# ---------------------------------------------------------------- the local store


@pytest.fixture
def segment(tmp_path: Path) -> Path:
    """Where a segment waits that another process wrote."""
    place = tmp_path / "spool" / "shop-1" / "1-1"
    place.mkdir(parents=True, mode=0o700)
    return place / "000001.segment"


WHOLE = header(RESOURCE, SCOPE) + b"".join(frame(bytes.fromhex(TRACE), one) for one in BODIES)


def spool_of(segment: Path) -> tuple[str, ...]:
    return "--source", "local", "--spool-dir", str(segment.parent.parent.parent)


def test_a_damaged_segment_is_read_as_far_as_it_is_whole(segment: Path) -> None:
    """Cut, doubled, overwritten: the commands answer."""

    @given(damaged(WHOLE))
    def damage(data: bytes) -> None:
        segment.write_bytes(data)
        all_commands_answer(*spool_of(segment))

    damage()


def test_a_segment_of_another_writer_is_no_trouble(segment: Path) -> None:
    """Its checks are right, and what is in its frames is not OTLP, or strange."""
    evil = BODIES[1].replace(b"charge", b"\x1b[2J\xc2\x9b").replace(b"\x0a\x01u", b"\x0a\x01\x1b")
    evil = BODIES[0].replace(b"message", b"m\x1b[31m\r"), evil.replace(b"user_id", b"user\x1bid")

    @given(damaged(RESOURCE), damaged(SCOPE), st.lists(damaged(*BODIES), min_size=1, max_size=3))
    @example(RESOURCE, SCOPE, list(evil))
    def write(resource: bytes, scope: bytes, spans: list[bytes]) -> None:
        frames = b"".join(frame(bytes.fromhex(TRACE), one) for one in spans)
        segment.write_bytes(header(resource, scope) + frames)
        all_commands_answer(*spool_of(segment))

    write()


# ---------------------------------------------------------------- Jaeger


@pytest.fixture
def jaeger(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeJaeger]:
    with FakeJaeger() as running:
        monkeypatch.setenv("OTEL_LOGGING_JAEGER_URL", running.url)
        yield running


def answering(jaeger: FakeJaeger, body: bytes) -> None:
    """Let it answer *body*, whatever traces it is asked for."""
    services = json.dumps({"services": ["shop"]}).encode()
    jaeger.instead = lambda path: (
        200,
        "application/json",
        services if path.endswith("services") else body,
    )
    all_commands_answer("--source", "jaeger")


def test_strange_spans_of_jaeger_are_shown_or_left_out(jaeger: FakeJaeger) -> None:
    """Other types, numbers beyond all bounds, ids that are none."""

    @_asking
    @given(replaced(ANSWER))
    def answer(value: Any) -> None:
        answering(jaeger, json.dumps(value).encode())

    answer()


def test_damaged_answers_of_jaeger_are_a_sentence(jaeger: FakeJaeger) -> None:
    """JSON that breaks off, or no JSON; also of the list of services."""

    @_asking
    @given(damaged(json.dumps(ANSWER).encode(), b'{"services": ["shop"]}', b'{"services": null}'))
    def answer(body: bytes) -> None:
        answering(jaeger, body)
        jaeger.instead = lambda _: (200, "application/json", body)
        all_commands_answer("--source", "jaeger")

    answer()


def test_damaged_http_of_jaeger_is_an_error_of_jaeger() -> None:
    """The head, the lengths and the chunks, too."""
    with answering_anything() as (said, url):

        @_asking
        @given(damaged(*_HTTP))
        @example(b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n")
        @example(b"HTTP/1.1 200 OK\r\nContent-Length: 1, 2\r\n\r\n{}")
        @example(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n{}\r\n0\r\n\r\n")
        @example(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-2\r\n{}\r\n0\r\n\r\n")
        def answer(data: bytes) -> None:
            said.now = data
            with contextlib.suppress(JaegerError):
                Jaeger(url).services()

        answer()


# ---------------------------------------------------------------- collectors

_PARTIAL = partial_success(3, "no \x1b[2J room")(None)[2]  # type: ignore[arg-type]
_HTTP = (
    OK,
    b"HTTP/1.1 200 OK\r\nContent-Type: application/x-protobuf\r\nContent-Length: %d\r\n\r\n%s"
    % (len(_PARTIAL), _PARTIAL),
    b'HTTP/1.1 200 OK\r\nContent-Type: text/json\r\n\r\n{"partialSuccess": {"rejectedSpans": "2"}}',
    b"HTTP/1.1 503 Busy\r\nRetry-After: 3\r\nContent-Length: 0\r\n\r\n",
    b"HTTP/1.1 429 Busy\r\nRetry-After: 10\r\nContent-Length: 2\r\n\r\nno",
    b"HTTP/1.1 301 Moved\r\nLocation: //user:secret@elsewhere:99/\r\nContent-Length: 0\r\n\r\n",
    b"HTTP/1.1 400 Bad\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nbad\r\n0\r\n\r\n",
)


@contextlib.contextmanager
def answering_anything() -> Iterator[tuple[SimpleNamespace, str]]:
    """A server that answers what ``now`` holds, and its URL."""
    said = SimpleNamespace(now=b"")

    def behave(_: Rude, connection: socket.socket) -> None:
        rude.read_request(connection)
        connection.sendall(said.now)

    with Rude(behave) as server:
        yield said, f"http://127.0.0.1:{server.port}"


def is_answered(client: Client) -> Outcome:
    answer = client.send(request(1), 5)
    assert re.fullmatch(r"[^\x00-\x1f\x7f-\x9f\u2028\u2029]{0,300}", answer.detail)
    assert answer.rejected_spans >= 0
    assert answer.after_s is None or answer.after_s >= 0
    return answer.outcome


def test_damaged_answers_of_a_collector_are_answers() -> None:
    """Over HTTP: whatever the head or the body is. Only a 2xx acknowledges."""
    with answering_anything() as (said, url):
        client = connect(url)

        @_asking
        @given(damaged(*_HTTP))
        @example(b"HTTP/1.1 200 O\0\r\nContent-Length: 9\r\n\r\ncut off")
        def answer(data: bytes) -> None:
            said.now = data
            if is_answered(client) is Outcome.DELIVERED:
                assert re.match(
                    rb"\s*HTTP/\S*\s+(1\d\d\b.*\s*HTTP/\S*\s+)?2\d\d\b", data, re.DOTALL
                )
            client.reset()

        answer()


def test_statuses_of_grpc_are_answers() -> None:
    """Any code with any text; and messages that are none."""

    def abort(code: Any, details: str) -> Callable[[Any], bytes]:
        return lambda context: context.abort(code, details)

    codes = st.sampled_from([code for code in CODES if code is not CODES.OK])
    texts = st.text(max_size=40) | st.sampled_from(_EVIL[:3])
    with Collector() as collector:
        client = connect_grpc(collector.endpoint)

        @hypothesis_settings(_asking, max_examples=max(_asking.max_examples // 10, 20))
        @given(st.builds(abort, codes, texts) | damaged(_PARTIAL).map(lambda body: lambda _: body))
        def answer(behave: Callable[[Any], bytes]) -> None:
            collector.answer = behave
            is_answered(client)

        answer()


# ---------------------------------------------------------------- headers, .env

_CARRIED = (
    b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
    b"a=1,b=2,vendor@x=3",
    b"user_id=u,a=b;p=%20%ff",
)
_NAMES = st.sampled_from(["traceparent", "TraceState", "baggage", "x"]) | st.text(max_size=8)
_VALUES = damaged(*_CARRIED)


@given(
    st.dictionaries(_NAMES, _VALUES.map(lambda value: value.decode("latin-1")))
    | st.lists(st.tuples(_NAMES.map(lambda name: name.encode(errors="replace")), _VALUES))
    | st.lists(st.tuples(st.none() | _NAMES, st.none() | st.integers() | _VALUES))
    | st.none()
    | st.integers()
)
def test_any_headers_open_a_block(carrier: Any) -> None:
    """Nothing is raised, and afterwards the context is what it was."""
    before = otel_context.get_current()
    with extract(carrier):
        pass
    assert otel_context.get_current() == before


def test_any_dotenv_is_settings_or_an_error_of_configuration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bytes of no kind, lines of no kind, values beyond all bounds."""
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("OTEL_")]:
        monkeypatch.delenv(name)
    valid = (
        b"LOG_LEVEL=error\nLOG_LEVELS='a=debug,b=INFO'\nOTEL_SERVICE_NAME=shop\n",
        b"OTEL_EXPORTER_OTLP_ENDPOINT=http://[::1]:4318/a?b=c\nOTEL_EXPORTER_OTLP_TIMEOUT=10\n",
        b"OTEL_EXPORTER_OTLP_HEADERS=a=b,c=%20d\nOTEL_RESOURCE_ATTRIBUTES=a=b,c=d\n",
        b"OTEL_TRACES_SAMPLER=traceidratio\nOTEL_TRACES_SAMPLER_ARG=0.5\nOTEL_LOGS_EXPORTER=otlp\n",
        b"OTEL_LOGGING_SPOOL_BYTES=64MiB\nOTEL_LOGGING_SPOOL_HOURS=24\nOTEL_SDK_DISABLED=true\n",
        b"OTEL_SPAN_EVENT_COUNT_LIMIT=3\nOTEL_LOGGING_SPOOL_DIR=${HOME}/x\nOTEL_LOGGING_REDACT=no\n",
    )

    @given(damaged(*valid))
    def write(data: bytes) -> None:
        Path(".env").write_bytes(data)
        with contextlib.suppress(ConfigurationError):
            load()

    write()
