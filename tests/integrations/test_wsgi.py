"""Each request of a WSGI application is a trace, with no line of its code."""

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from http.client import HTTPConnection
from io import BytesIO, StringIO
from pathlib import Path
from typing import Any
from wsgiref.handlers import SimpleHandler

import flask
import opentelemetry.instrumentation  # noqa: F401 - as an application that uses it has
import pytest
from opentelemetry import trace
from opentelemetry.context import Context
from werkzeug.middleware.dispatcher import DispatcherMiddleware
from werkzeug.middleware.proxy_fix import ProxyFix
from werkzeug.serving import make_server
from werkzeug.test import Client, create_environ, run_wsgi_app

from otel_logging import bind_context, get_logger, setup_observability, traced
from otel_logging.context import CURRENT, SPAN, Standing, bound
from otel_logging.integrations import flask as flask_integration
from otel_logging.integrations import wsgi
from otel_logging.integrations.wsgi import WSGIObservabilityMiddleware
from otel_logging.testing import Captured, capture
from tests.receiver import Receiver

log = get_logger("shop")


@pytest.fixture
def run() -> Iterator[Captured]:
    flask_integration.instrument()
    flask_integration.instrument()
    with capture() as captured:
        yield captured
    flask_integration.uninstrument()
    flask_integration.uninstrument()


def shop() -> flask.Flask:
    app = flask.Flask("shop")

    @app.get("/orders/<int:number>")
    def order(number: int) -> str:
        bind_context(user_id=f"u{number}")
        log.info("paid")
        return "paid"

    @app.get("/stream")
    def stream() -> flask.Response:
        def pieces() -> Iterator[str]:
            for number in range(3):
                log.info("piece", number=number)
                yield str(number)

        return flask.Response(flask.stream_with_context(pieces()))

    @app.get("/broken")
    def broken() -> str:
        raise ValueError("no")

    @app.get("/health")
    def health() -> tuple[str, int]:
        return "", int(flask.request.args.get("status", 200))

    return app


def test_a_request_is_a_server_span_named_by_its_route(run: Captured) -> None:
    answer = Client(shop()).get(
        "/orders/7?token=x",
        headers={"User-Agent": "test", "X-Request-ID": "r-1", "Host": "shop.example:8080"},
        environ_base={"REMOTE_ADDR": "10.0.0.9", "REMOTE_PORT": "51000"},
        buffered=True,
    )
    span = run.span("GET /orders/<int:number>")
    attributes = span["attributes"]
    assert span["kind"] == "server"
    assert {key: value for key, value in attributes.items() if "." in key} == {
        "http.request.method": "GET",
        "http.route": "/orders/<int:number>",
        "http.response.status_code": 200,
        "url.path": "/orders/7",
        "url.scheme": "http",
        "server.address": "shop.example",
        "server.port": 8080,
        "client.address": "10.0.0.9",
        "client.port": 51000,
        "network.peer.address": "10.0.0.9",
        "network.peer.port": 51000,
        "network.protocol.version": "1.1",
        "user_agent.original": "test",
    }
    assert (attributes["user_id"], attributes["request_id"]) == ("u7", "r-1")
    (line,) = run.lines
    assert (line["trace_id"], line["user_id"]) == (span["trace_id"], "u7")
    assert answer.headers["x-trace-id"] == span["trace_id"]
    assert answer.headers["x-request-id"] == "r-1"
    assert span["trace_id"] in answer.headers["traceresponse"]


def test_a_streamed_body_is_in_the_request(run: Captured) -> None:
    assert Client(shop()).get("/stream", buffered=True).data == b"012"
    span = run.span("GET /stream")
    assert [line["trace_id"] for line in run.lines] == [span["trace_id"]] * 3
    assert "cancelled" not in span["attributes"]


def test_a_list_of_headers_that_an_application_keeps_stays_as_it_is(run: Captured) -> None:
    """Each answer names its own trace."""
    kept = [("Content-Type", "text/plain")]

    def application(_: Any, start_response: Any) -> list[bytes]:
        start_response("200 OK", kept)
        return [b"paid"]

    client = Client(WSGIObservabilityMiddleware(application))
    answers = [client.get("/a").headers["x-trace-id"] for _ in range(2)]
    assert answers == [span["trace_id"] for span in run.spans]
    assert len(kept) == 1


@pytest.mark.parametrize("port", ["\xb2", "9" * 4301, "-1", "", "80x"])
def test_an_invalid_port_is_left_out(run: Captured, port: str) -> None:
    """The host is taken as it is then."""
    environ = {"SERVER_PORT": port, "REMOTE_PORT": port, "HTTP_HOST": f"shop:{port}"}
    answer = Client(shop()).get("/orders/7", environ_overrides=environ)
    attributes = run.span("GET /orders/<int:number>")["attributes"]
    assert answer.status_code == 200
    assert attributes["server.address"] == f"shop:{port}"
    assert not {"server.port", "client.port"} & {*attributes}


def test_a_client_that_goes_away_leaves_a_cancelled_span(run: Captured) -> None:
    body, _, _ = run_wsgi_app(shop(), create_environ("/stream"))
    next(iter(body))
    body.close()  # type: ignore[attr-defined]
    assert run.span("GET /stream")["attributes"]["cancelled"] is True


@pytest.mark.parametrize("path", ["/orders/7", "/unknown", "/stream"])
def test_in_flasks_test_client_a_request_ends_with_its_last_piece(run: Captured, path: str) -> None:
    """An answer that the test keeps is closed by nobody; what the test says then is no request's.

    One that is streamed, or has no body, ends once it has been read.
    """
    app = shop()
    app.add_url_rule("/empty", "empty", lambda: ("", 204))
    client = app.test_client()
    empty, answer = client.get("/empty"), client.get(path)
    assert empty.status_code == 204
    if path == "/stream":
        assert len(run.spans) == 1
        assert answer.data == b"012"
    log.info("the test's")
    statuses = [204, answer.status_code]
    assert "trace_id" not in run.line("the test's")
    answer.close()
    found = [span["attributes"] for span in run.spans]
    assert [each["http.response.status_code"] for each in found] == statuses
    assert not any("cancelled" in each for each in found)


def test_a_body_that_nobody_closes_ends_its_request(run: Captured) -> None:
    def start_response(*_: object) -> Callable[[bytes], object]:
        return lambda _: None

    body = shop()(create_environ("/stream"), start_response)
    next(iter(body))
    del body
    assert run.span("GET /stream")["attributes"]["cancelled"] is True


def test_a_failure_is_an_error(run: Captured) -> None:
    assert Client(shop()).get("/broken", buffered=True).status_code == 500
    span = run.span("GET /broken")
    assert (span["status"], span["attributes"]["http.response.status_code"]) == (
        "error",
        500,
    )
    assert span["attributes"]["error.type"] == "500"


def test_an_exception_that_leaves_the_application_is_an_error(run: Captured) -> None:
    app = shop()
    app.testing = True
    with pytest.raises(ValueError, match="no"):
        Client(app).get("/broken", buffered=True)
    span = run.span("GET /broken")
    assert span["attributes"]["error.type"] == "ValueError"
    assert span["attributes"]["http.response.status_code"] == 500
    assert [event["name"] for event in span["events"]].count("exception") <= 1


def test_a_quiet_path_leaves_a_span_only_where_it_fails(run: Captured) -> None:
    client = Client(shop())
    client.get("/health", buffered=True)
    client.get("/health?status=404", buffered=True)
    assert run.spans == []
    client.get("/health?status=503", buffered=True)
    assert run.span("GET /health")["status"] == "error"


def test_the_quiet_paths_of_an_application_hold_whatever_is_around_it(run: Captured) -> None:
    app = shop()
    app.wsgi_app = WSGIObservabilityMiddleware(app.wsgi_app, quiet=["/orders/1"])  # type: ignore[method-assign]
    wsgi.instrument()
    for number in (1, 2):
        environ = create_environ(f"/orders/{number}")
        SimpleHandler(BytesIO(), BytesIO(), StringIO(), environ, False, False).run(app)
        Client(app).get(f"/orders/{number}", buffered=True)
    wsgi.uninstrument()
    assert [span["attributes"]["url.path"] for span in run.spans] == ["/orders/2"] * 2


def test_the_client_is_the_one_that_a_trusted_proxy_names(run: Captured) -> None:
    app = shop()
    app.wsgi_app = ProxyFix(app.wsgi_app)  # type: ignore[method-assign]
    headers = {"X-Forwarded-For": "203.0.113.9", "X-Forwarded-Proto": "https"}
    peer = {"REMOTE_ADDR": "10.0.0.1", "REMOTE_PORT": "4711"}
    Client(app).get("/orders/1", headers=headers, environ_overrides=peer, buffered=True)
    found = run.spans[0]["attributes"]
    assert (found["client.address"], found["url.scheme"]) == ("203.0.113.9", "https")
    assert (found["network.peer.address"], found["network.peer.port"]) == ("10.0.0.1", 4711)


def test_a_trace_that_comes_in_goes_on(run: Captured) -> None:
    trace_id = "0af7651916cd43dd8448eb211c80319c"
    headers = {"traceparent": f"00-{trace_id}-b7ad6b7169203331-01"}
    Client(shop()).get("/orders/1", headers=headers, buffered=True)
    assert run.spans[0]["trace_id"] == trace_id


def test_an_unknown_method_and_path_are_not_the_name(run: Captured) -> None:
    Client(shop()).open("/nothing/here", method="FROB", buffered=True)
    span = run.span("HTTP")
    assert span["attributes"]["http.request.method"] == "_OTHER"
    assert span["attributes"]["http.request.method_original"] == "FROB"
    assert "http.route" not in span["attributes"]


def test_middleware_around_and_applications_inside_are_one_request(run: Captured) -> None:
    app, inner = shop(), shop()
    app.wsgi_app = ProxyFix(DispatcherMiddleware(app.wsgi_app, {"/inner": inner}))  # type: ignore[method-assign]
    served = WSGIObservabilityMiddleware(app)
    Client(served).get("/inner/orders/1", buffered=True)
    (span,) = run.spans
    assert span["name"] == "GET /inner/orders/<int:number>"


def test_what_a_request_asks_of_its_own_path_is_a_request_of_its_own(run: Captured) -> None:
    """By another method; whom that binds is not its user."""
    app = shop()

    @app.post("/orders/<int:number>")
    def change(number: int) -> str:
        return Client(app).get(f"/orders/{number}", buffered=True).headers["x-trace-id"]

    inner = Client(app).post("/orders/7", buffered=True).text
    changed, asked = run.span("POST /orders/<int:number>"), run.span("GET /orders/<int:number>")
    assert inner == asked["trace_id"] != changed["trace_id"]
    assert [each["attributes"].get("user_id") for each in (changed, asked)] == [None, "u7"]


def test_requests_of_one_thread_have_nothing_of_each_other(run: Captured) -> None:
    """A body that is not closed before the next request included."""
    app = shop()
    kept = [run_wsgi_app(app, create_environ(f"/orders/{number}")) for number in range(3)]
    Client(app).get("/stream", buffered=True)
    assert [line.get("user_id") for line in run.lines] == ["u0", "u1", "u2", None, None, None]
    assert len({line["trace_id"] for line in run.lines}) == 4
    assert len(kept) == 3


def test_a_file_is_sent_by_the_server_itself(run: Captured) -> None:
    class Files:
        def __init__(self, file: Any) -> None:
            self.file, self.closed = file, False

        def close(self) -> None:
            self.closed = True

    files = Files(None)

    def app(environ: Any, start_response: Any) -> Iterable[bytes]:
        start_response("200 OK", [])
        return files  # type: ignore[return-value]

    environ = {**create_environ("/file"), "wsgi.file_wrapper": Files}
    body: Any = WSGIObservabilityMiddleware(app)(environ, lambda *_: None)
    assert body is files
    assert run.spans == []
    body.close()
    assert files.closed
    assert run.span("GET")["attributes"]["http.response.status_code"] == 200


def test_a_server_may_look_at_all_pieces_of_a_list_before_it_sends_them(run: Captured) -> None:
    """As eventlet's and gevent's do, for the length of the answer."""

    def app(_: Any, start_response: Any) -> list[bytes]:
        start_response("200 OK", [])
        return [b"one", b"three"]

    body: Any = WSGIObservabilityMiddleware(app)(create_environ("/"), lambda *_: None)
    with closing(body):
        assert [(piece, sum(map(len, body))) for piece in body] == [(b"one", 8), (b"three", 8)]
    (span,) = run.spans
    assert "cancelled" not in span["attributes"]


def test_what_closing_a_body_raises_is_the_requests(run: Captured) -> None:
    class Body(list[bytes]):
        def close(self) -> None:
            raise OSError("gone")

    def app(environ: Any, start_response: Any) -> Iterable[bytes]:
        start_response("200 OK", [])
        return Body([b"x"])

    body: Any = WSGIObservabilityMiddleware(app)(create_environ("/"), lambda *_: None)
    with pytest.raises(OSError, match="gone"):
        body.close()
    assert run.span("GET")["attributes"]["error.type"] == "OSError"


@pytest.mark.parametrize("error", [ConnectionError(), StopIteration(), ConnectionError("no")])
@pytest.mark.parametrize("headers", [{"Upgrade": "websocket"}, {}])
def test_a_websocket_of_flasks_that_is_over_is_no_failure(
    run: Captured, headers: dict[str, str], error: Exception
) -> None:
    """flask-sock and Socket.IO answer by the socket, and have the server write no answer."""

    def app(environ: Any, start_response: Any) -> Iterable[bytes]:
        raise error

    with pytest.raises(type(error)):
        WSGIObservabilityMiddleware(app)(create_environ("/", headers=headers), lambda *_: None)
    is_over = bool(headers) and not error.args
    span = run.span("GET")
    status = span["attributes"]["http.response.status_code"]
    assert (span["status"], status) == (("unset", 101) if is_over else ("error", 500))


def test_what_iterating_a_body_raises_is_the_requests(run: Captured) -> None:
    def app(environ: Any, start_response: Any) -> Iterable[bytes]:
        start_response("200 OK", [])
        yield b"x"
        raise ValueError("no")

    body: Any = WSGIObservabilityMiddleware(app)(create_environ("/"), lambda *_: None)
    with pytest.raises(ValueError, match="no"):
        list(body)
    body.close()
    body.close()
    assert run.span("GET")["attributes"]["error.type"] == "ValueError"


def test_a_body_closed_in_another_thread_ends_its_request(run: Captured) -> None:
    def app(environ: Any, start_response: Any) -> Iterable[bytes]:
        start_response("200 OK", [])
        return [b"x"]

    body: Any = WSGIObservabilityMiddleware(app)(create_environ("/"), lambda *_: None)
    thread = threading.Thread(target=body.close)
    thread.start()
    thread.join()
    assert run.span("GET")


def test_before_set_up_nothing_is_observed() -> None:
    """But what is bound in a request ends with it, in a failed one too."""
    flask_integration.instrument()
    try:
        app = shop()
        app.config["PROPAGATE_EXCEPTIONS"] = True

        @app.get("/fails")
        def fails() -> str:
            bind_context(user_id=flask.request.headers["X-Request-ID"])
            raise ValueError("no")

        with pytest.raises(ValueError, match="no"):
            Client(app).get("/fails", headers={"X-Request-ID": "r-1"})
        assert bound() == {}
        assert "x-trace-id" not in Client(app).get("/orders/1", buffered=True).headers
        assert bound() == {}
    finally:
        flask_integration.uninstrument()


def test_a_server_is_observed_until_it_is_left_alone() -> None:
    """Whatever it serves, and what it says of a request when that has ended."""

    def app(environ: Any, start_response: Any) -> Iterable[bytes]:
        if environ["PATH_INFO"] == "/broken":
            raise ValueError("no")
        bind_context(user_id=environ["PATH_INFO"])
        start_response("200 OK", [])
        return [b"x"]

    def ask(path: str) -> int:
        with closing(HTTPConnection("127.0.0.1", server.server_port, timeout=20)) as connection:
            connection.request("GET", path)
            return connection.getresponse().status

    with capture(log_level="info") as captured, make_server("127.0.0.1", 0, app) as server:
        serving = threading.Thread(target=server.serve_forever, args=(0.01,))
        serving.start()
        wsgi.instrument()
        wsgi.instrument()
        assert [ask("/1"), ask("/2"), ask("/broken")] == [200, 200, 500]
        wsgi.uninstrument()
        wsgi.uninstrument()
        assert ask("/3") == 200
        server.shutdown()
        serving.join()
    assert [span["attributes"]["url.path"] for span in captured.spans] == ["/1", "/2", "/broken"]
    lines = [line for line in captured.lines if line["logger"] == "werkzeug"]
    first, second, access, error, last = lines
    assert (first["user_id"], second["user_id"]) == ("/1", "/2")
    assert "Error on request" in error["event"]
    owners = [line["trace_id"] for line in (first, second, access)]
    assert owners == [span["trace_id"] for span in captured.spans]
    assert error["trace_id"] == access["trace_id"]
    assert "trace_id" not in last


_TYPE = [("Content-Type", "text/plain")]


@pytest.mark.parametrize("headers", [_TYPE, tuple(_TYPE), dict(_TYPE).items()])
@pytest.mark.parametrize("body", [list, iter])
def test_an_answer_of_wsgiref_names_its_trace(
    headers: Any, body: Callable[[Any], Iterable[bytes]]
) -> None:
    """Its answer names its own trace alone, and has the length that its body says."""
    before, answers = list(headers), []

    def app(_: Any, start_response: Any) -> Iterable[bytes]:
        start_response("200 OK", headers)
        return body([b"one"])

    wsgi.instrument()
    with capture() as captured:
        for _ in range(2):
            SimpleHandler(BytesIO(), out := BytesIO(), StringIO(), create_environ("/1")).run(app)
            answers.append(out.getvalue().decode().lower())
    wsgi.uninstrument()
    for span, answer in zip(captured.spans, answers, strict=True):
        assert span["attributes"]["url.path"] == "/1"
        assert answer.count("x-trace-id") == 1
        assert f"x-trace-id: {span['trace_id']}" in answer
        assert ("content-length: 3" in answer) == (body is list)
    assert list(headers) == before


class OpenTelemetryMiddleware:
    """As OpenTelemetry's: it is known by its module, and its span by its scope and kind."""

    __module__ = "opentelemetry.instrumentation.wsgi"

    def __init__(self, app: Any) -> None:
        self.wsgi = app

    def __call__(self, environ: Any, start_response: Any) -> Any:
        tracer = trace.get_tracer(self.__module__)
        with tracer.start_as_current_span("theirs", kind=trace.SpanKind.SERVER):
            return self.wsgi(environ, start_response)


def theirs_by_instrumentor(app: Any) -> Any:
    app._is_instrumented_by_opentelemetry = True  # as FlaskInstrumentor leaves it
    return app


def theirs_inside(app: Any) -> Any:
    app.wsgi_app = OpenTelemetryMiddleware(app.wsgi_app)
    return app


@pytest.mark.parametrize("around", [lambda app: app, WSGIObservabilityMiddleware])
@pytest.mark.parametrize(
    ("theirs", "spans"),
    [
        (theirs_by_instrumentor, []),
        (theirs_inside, ["theirs"]),
        (OpenTelemetryMiddleware, ["theirs"]),
    ],
)
def test_an_application_with_opentelemetrys_instrumentation_is_left_to_it(
    run: Captured, theirs: Any, spans: list[str], around: Any
) -> None:
    answer = Client(around(theirs(shop()))).get("/orders/7", buffered=True)
    assert "x-trace-id" not in answer.headers
    assert [span["name"] for span in run.spans] == spans


def test_a_budget_by_the_name_of_the_route_makes_a_request_late(
    receiver: Receiver, tmp_path: Path
) -> None:
    with setup_observability(
        "shop",
        endpoint=receiver.endpoint,
        spool_dir=tmp_path,
        budgets={"GET /orders/<int:number>": 0.000001},
    ) as observability:
        Client(shop()).get("/orders/7", buffered=True)
        assert observability.force_flush(10)
    (span,) = [span for span in receiver.spans if span.name.startswith("GET")]
    assert span.attributes["late"] is True
    assert "late.why" in span.attributes


def test_a_span_of_the_api_in_a_connection_is_in_what_that_stands_for() -> None:
    with capture() as run:
        with traced("message") as span:
            CURRENT.set(Context({SPAN: Standing(span)}))
            trace.get_tracer("t").start_span("call").end()
            CURRENT.set(Context({SPAN: span}))
        assert run.span("call")["parent_span_id"] == run.span("message")["span_id"]
