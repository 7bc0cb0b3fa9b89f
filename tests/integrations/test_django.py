"""Django, with no line of the application's."""

import asyncio
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import django
import opentelemetry.instrumentation  # noqa: F401 - as an application that uses it has
import pytest
from channels import consumer
from channels.exceptions import StopConsumer
from django.conf import settings
from django.core.wsgi import get_wsgi_application
from django.http import HttpResponse
from django.test import override_settings
from django.urls import include, path, re_path
from werkzeug.test import Client

from otel_logging import bind_context, get_logger, setup_observability
from otel_logging.integrations import django as django_integration
from otel_logging.integrations.asgi import ObservabilityMiddleware
from otel_logging.integrations.wsgi import WSGIObservabilityMiddleware
from otel_logging.testing import Captured, capture
from tests.integrations.serving import PATIENCE_S, serving
from tests.programs import script

log = get_logger("shop")


def order(_: Any, number: int) -> HttpResponse:
    bind_context(user_id=f"u{number}")
    log.info("paid")
    return HttpResponse("paid")


def broken(_: Any) -> HttpResponse:
    raise ValueError("no")


urlpatterns = [
    path("orders/<int:number>/", order),
    path("shop/", include([path("broken", broken)])),
    re_path(r"^old/(?P<number>\d+)$", order),
]


@pytest.fixture
def run() -> Iterator[Captured]:
    if not settings.configured:
        settings.configure(ROOT_URLCONF=__name__, ALLOWED_HOSTS=["*"], LOGGING_CONFIG=None)
        django.setup()
    django_integration.instrument()
    django_integration.instrument()
    with capture() as captured, override_settings(ROOT_URLCONF=__name__):
        yield captured
    django_integration.uninstrument()


@pytest.mark.parametrize(
    ("url", "route", "status"),
    [
        ("/orders/7/", "/orders/<int:number>/", 200),
        ("/shop/broken", "/shop/broken", 500),
        ("/old/7", r"/old/(?P<number>\d+)$", 200),
    ],
)
def test_a_request_is_named_by_its_route(run: Captured, url: str, route: str, status: int) -> None:
    answer = Client(get_wsgi_application()).get(url, buffered=True)
    span = run.span(f"GET {route}")
    assert answer.status_code == span["attributes"]["http.response.status_code"] == status
    assert span["attributes"]["http.route"] == route
    assert {line["trace_id"] for line in run.lines} == {span["trace_id"]}
    assert span["status"] == ("error" if status == 500 else "unset")


def test_a_path_without_a_route_is_not_the_name(run: Captured) -> None:
    Client(get_wsgi_application()).get("/nothing", buffered=True)
    assert run.span("GET")["attributes"]["http.response.status_code"] == 404


def ask_asgi(around: Any = lambda app: app) -> dict[str, Any]:
    """Ask for an order; return the scope of the request."""
    from django.core.asgi import get_asgi_application

    scope = {
        "type": "http",
        "method": "GET",
        "path": "/orders/7/",
        "headers": [],
        "query_string": b"",
    }

    asked: list[dict[str, Any]] = [{"type": "http.request", "body": b""}]

    async def receive() -> dict[str, Any]:
        if not asked:
            await asyncio.Event().wait()
        return asked.pop()

    async def send(_: Any) -> None:
        pass

    asyncio.run(around(get_asgi_application())(scope, receive, send))
    return scope


def test_an_asgi_request_has_its_route_in_the_scope(run: Captured) -> None:
    assert ask_asgi()["path_template"] == "/orders/<int:number>/"


def test_a_request_by_asgi_alone_is_named_by_its_route(tmp_path: Path) -> None:
    """Such a server imports nothing of WSGI."""
    done = script(
        "import sys\n"
        "from otel_logging import setup_observability\n"
        "setup_observability('shop', environment='test', spool_dir=sys.argv[1])\n"
        "from django.core.handlers import asgi, base\n"
        "found = type(base.BaseHandler.resolve_request).__module__\n"
        "assert found == 'otel_logging.integrations.replaced'\n",
        tmp_path,
    )
    assert (done.returncode, done.stderr) == (0, b"")


def test_a_handshake_of_channels_is_named_by_its_route(run: Captured) -> None:
    """Its routers give each application a scope of its own."""
    from channels.routing import URLRouter

    async def room(_: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.close"})

    nested = URLRouter([re_path(r"^old/(?P<name>\w+)$", room)])  # type: ignore[arg-type]
    routes = [path("rooms/<name>", room), path("shop/", nested)]  # type: ignore[arg-type]

    async def connect(to: str) -> None:
        async def receive() -> dict[str, Any]:
            return {"type": "websocket.connect"}

        async def send(_: Any) -> None:
            pass

        scope = {"type": "websocket", "path": to, "headers": []}
        await ObservabilityMiddleware(URLRouter(routes))(scope, receive, send)

    django_integration.instrument()
    with setup_observability("shop", instrument=("django",)):
        for each in ("/rooms/ann", "/shop/old/ann"):
            asyncio.run(connect(each))
        with pytest.raises(ValueError, match="No route found"):
            asyncio.run(connect("/nowhere"))
    names = [span["name"] for span in run.spans]
    assert names == ["WS /rooms/<name>", r"WS /shop/old/(?P<name>\w+)$", "WS"]


async def chat(_: Any, receive: Any, send: Any) -> None:
    """A consumer of Channels, to which its group says something after each message."""
    said: asyncio.Queue[dict[str, str]] = asyncio.Queue()

    async def dispatch(event: dict[str, str]) -> None:
        if event["type"] == "websocket.connect":
            await send({"type": "websocket.accept"})
            bind_context(user_id="ann")
        elif event["type"] == "websocket.receive":
            log.info("got", text=event["text"])
            said.put_nowait({"type": "chat.message"})
        elif event["type"] == "chat.message":
            await send({"type": "websocket.send", "text": "said"})
            until = time.monotonic() + PATIENCE_S
            while not receive.__self__.untaken and time.monotonic() < until:
                await asyncio.sleep(0.01)  # the next message comes meanwhile
        else:
            raise StopConsumer

    with suppress(StopConsumer):
        await consumer.await_many_dispatch([receive, said.get], dispatch)


def test_a_message_that_comes_amid_an_event_of_the_group_is_a_trace(run: Captured) -> None:
    with serving(chat) as seen:
        with seen.connect("/chat") as client:
            for text in "abc":
                client.send(text)
                assert client.recv() == "said"
        messages = seen.wait_for("message", 3)
    lines = [line for line in seen.lines if line["event"] == "got"]
    assert [line["trace_id"] for line in lines] == [span["trace_id"] for span in messages]
    assert [span["attributes"]["user_id"] for span in messages] == ["ann"] * 3


@pytest.fixture
def theirs(monkeypatch: pytest.MonkeyPatch) -> None:
    """OpenTelemetry's instrumentation of Django, as it is known to be active."""
    active = SimpleNamespace(is_instrumented_by_opentelemetry=True)
    module = SimpleNamespace(DjangoInstrumentor=SimpleNamespace(_instance=active))
    monkeypatch.setitem(sys.modules, "opentelemetry.instrumentation.django", module)


@pytest.mark.parametrize("around", [lambda app: app, WSGIObservabilityMiddleware])
def test_an_application_with_opentelemetrys_instrumentation_is_left_to_it(
    run: Captured, theirs: None, around: Any
) -> None:
    Client(around(get_wsgi_application())).get("/orders/7/", buffered=True)
    assert run.spans == []


def test_opentelemetrys_instrumentation_has_the_requests_of_asgi_too(
    run: Captured, theirs: None
) -> None:
    ask_asgi(ObservabilityMiddleware)
    assert run.spans == []


def test_uninstrumented_django_is_as_it_was() -> None:
    from django.core.handlers.wsgi import WSGIHandler

    assert WSGIHandler.__call__.__module__ == "django.core.handlers.wsgi"
    assert "django" in sys.modules
