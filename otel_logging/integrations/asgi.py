"""ASGI: each HTTP request and each WebSocket message is a trace.

In: an application of any framework. Out: the same, observed. Invariant: a request for which
somebody else's instrumentation has a span is not observed. Deliberately absent: the trace of a
request (``http``) and of a connection (``asgi_websocket``).
"""

import asyncio
from collections.abc import Collection
from contextvars import Context, copy_context
from functools import partial
from typing import Any, Final
from weakref import WeakKeyDictionary

from opentelemetry import trace

from otel_logging import _names, _runtime, tracing
from otel_logging.binding import leave_structlogs
from otel_logging.context import Here, entry_of, unbound
from otel_logging.integrations import asgi_websocket, connection, http
from otel_logging.integrations.http import QUIET, App, Receive, Scope, Send
from otel_logging.integrations.replaced import Replaced

#: The most messages that are read before the application asks for them.
READ_AHEAD: Final = 32
#: The most seconds that uvicorn's end takes longer if no collector answers.
SHUTDOWN_S: Final = 1.0
#: Keys in a scope: a middleware of ours is around; its request, while that is served.
_SEEN: Final = "otel_logging"
#: The context that has no owner.
_NOWHERE: Final = Context().run(Here.now)


class ObservabilityMiddleware:
    """Make a trace of each HTTP request and of each WebSocket message of *app*.

    *read_ahead*: how many messages of a connection, and at most 1 MiB, may be read before the
    application asks for them; their lateness counts from there. 0: none. *quiet*: paths that leave
    no span unless they fail. It does nothing before set-up, inside another one, and where
    OpenTelemetry's instrumentation is active.

    Scope: what is served through it. Failure: what *app* raises, unchanged. Concurrency: any.
    """

    #: Whether a request stays current after its end, for what its server says then.
    stays = False

    def __init__(
        self, app: App, *, read_ahead: int = READ_AHEAD, quiet: Collection[str] = QUIET
    ) -> None:
        self.app, self._read_ahead, self._quiet = app, read_ahead, frozenset(quiet)
        self.options = {"read_ahead": read_ahead, "quiet": quiet}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, connection or lifespan."""
        kind, is_set_up = scope["type"], _runtime.current.tracer is not None
        if kind not in ("http", "websocket") or _SEEN in scope:
            await self.app(scope, receive, send)
            return
        scope[_SEEN] = is_set_up
        if not is_set_up:
            with unbound():
                await self.app(scope, receive, send)
            return
        scope["starlette.opentelemetry"] = True  # Starlette's own makes no second span
        if http.is_elsewhere(self.app):
            await self.app(scope, receive, send)
        elif kind == "http":
            with http.HttpRequest(scope, receive, send, self._quiet) as request:
                scope[_SEEN] = request
                try:
                    await self.app(scope, request.receive, request.send)
                finally:
                    scope[_SEEN] = True  # to keep it would be a circle of references
                    if self.stays or not request.status:  # its server still answers, or logs that
                        scope[_names.STANDING] = Here.now()
        else:
            await asgi_websocket.serve(self.app, scope, receive, send, self._read_ahead)


def _options_of(app: Any) -> dict[str, Any]:
    """Return the options that *app*, or an application inside it, was given by hand."""
    for each in http.inside(app):
        if type(each) is ObservabilityMiddleware:
            return each.options
        for known, options in _given.items():
            if known is each:
                return options
        for kind, *_, options in getattr(each, "user_middleware", ()):  # Starlette's
            if kind is ObservabilityMiddleware:
                return dict(options)
    return {}


class _OfServer(ObservabilityMiddleware):
    """What a server serves in the place of *app*."""

    def __init__(self, app: App) -> None:
        super().__init__(app, **_options_of(app))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request or connection, observed while the integration is on."""
        try:
            await (super().__call__ if _replaced else self.app)(scope, receive, send)
        finally:
            if scope["type"] == "http" and (here := scope.get(_names.STANDING)) is not None:
                here.put_back()


class _OfGunicorn(_OfServer):
    stays = True


# ---------------------------------------------------------------- put in place without a call

#: Applications that ``instrument`` was called with, and their options.
_given: "WeakKeyDictionary[Any, dict[str, Any]]" = WeakKeyDictionary()


def instrument(app: Any = None, /, **options: Any) -> Any:
    """Observe *app*; without one, every application of Starlette and FastAPI, and of the servers.

    *options* are those of ``ObservabilityMiddleware``. Returns what is to be served: *app* itself
    if its framework is Starlette or FastAPI. Scope: *app*, or the process. Failure: never
    raises of itself. Concurrency: before it is served.
    """
    if app is None:
        _replaced.instrument()
    elif any(each.__module__ == "starlette.applications" for each in type(app).__mro__):
        _given[app] = options
    else:
        return ObservabilityMiddleware(app, **options)
    _frameworks.instrument()
    return app


def uninstrument() -> None:
    """Take away what ``instrument`` has put in place, except around applications given to it."""
    connection.finish_all()
    if not _given:
        _frameworks.uninstrument()
    _replaced.uninstrument()


async def _framework_call(
    original: Any, self: Any, scope: Scope, receive: Receive, send: Send
) -> None:
    async def app(*given: Any) -> None:
        telemetry: Any = getattr(self, "_telemetry", None)
        is_its = isinstance(telemetry, dict) and telemetry.get("tracer_provider") is None
        if is_its and scope.get(_SEEN):
            # FastAPI's own spans (from 0.165 on) would double ours; its metrics and logs stay
            telemetry["tracing"] = False
        await original(self, *given)

    app.app = self  # type: ignore[attr-defined]
    observed: App = app
    if _SEEN not in scope and (_replaced or self in _given):
        observed = ObservabilityMiddleware(app, **_options_of(self))
    await observed(scope, receive, send)


async def _server_shutdown(original: Any, self: Any, *given: Any, **named: Any) -> None:
    """Deliver before uvicorn ends by the signal that ended it: no exit handler runs then."""
    await original(self, *given, **named)
    patience_s = 0.0 if self.force_exit else SHUTDOWN_S
    if cut_off := self.server_state.tasks:  # they are cancelled, and do not know it yet
        await asyncio.wait(cut_off, timeout=patience_s)
    connection.finish_all()
    if (pipeline := _runtime.current.pipeline) is not None:
        await asyncio.to_thread(pipeline.on_flush, patience_s)


def _for_connection(original: Any, *given: Any) -> None:
    """Call *original* outside the request: the connection's later work has no owner.

    The connection's reader, timers and next request begin in copies of this call's context.
    """

    def act() -> None:
        leave_structlogs(entry_of(trace.get_current_span()))
        _NOWHERE.put_back()
        original(*given)

    copy_context().run(act)


async def _access(original: Any, self: Any, scope: Scope, response: Any, *given: Any) -> None:
    """Let hypercorn's line about a request without an answer, whose client has gone, be its own."""
    request, before = scope.get(_SEEN), Here.now()
    if response is None and isinstance(request, http.HttpRequest):
        request.here.put_back()
    await original(self, scope, response, *given)
    before.put_back()


async def _stream_call(original: Any, self: Any, scope: Scope, *given: Any) -> None:
    """Record a failure on the request: ``BaseHTTPMiddleware`` would end the answer normally."""
    try:
        await original(self, scope, *given)
    except Exception as error:
        if isinstance(request := scope.get(_SEEN), http.HttpRequest):
            request.handled = error
        raise


async def _background_call(original: Any, self: Any) -> None:
    work = getattr(self, "func", None) or self.fn  # Litestar's
    work = getattr(work, "func", work)  # of a partial, or Litestar's for a thread
    name = getattr(work, "__qualname__", type(work).__qualname__)
    with tracing.automatic(f"background {name.rpartition('<locals>.')[2]}"):
        await original(self)


_frameworks = Replaced(
    ("fastapi.applications", "FastAPI", "__call__", _framework_call),
    ("starlette.applications", "Starlette", "__call__", _framework_call),
)
_HTTP: Final = "uvicorn.protocols.http."
#: Methods of servers, and the attribute that has their application.
_serving: Final = partial(partial, http.serve, _OfServer)
_replaced = Replaced(
    # an application that sets up while it is loaded is loaded by then, or has started by then
    ("uvicorn.server", "Server", "startup", _serving("config.loaded_app")),
    ("uvicorn.server", "Server", "main_loop", _serving("config.loaded_app")),
    ("uvicorn.server", "Server", "shutdown", _server_shutdown),
    (f"{_HTTP}flow_control", "FlowControl", "resume_reading", _for_connection),
    (f"{_HTTP}h11_impl", "H11Protocol", "on_response_complete", _for_connection),
    (f"{_HTTP}httptools_impl", "HttpToolsProtocol", "on_response_complete", _for_connection),
    (f"{_HTTP}zttp_impl", "ZttpProtocol", "on_response_complete", _for_connection),
    ("hypercorn.app_wrappers", "ASGIWrapper", "__call__", _serving("app")),
    ("hypercorn.logging", "Logger", "access", _access),
    ("gunicorn.workers.gasgi", "ASGIWorker", "run", partial(http.serve, _OfGunicorn, "asgi")),
    ("starlette.background", "BackgroundTask", "__call__", _background_call),
    ("starlette.responses", "StreamingResponse", "__call__", _stream_call),
    ("sse_starlette.sse", "EventSourceResponse", "__call__", _stream_call),
    *(
        ("starlette.websockets", "WebSocket", name, asgi_websocket.announce)
        for name in ("receive", "receive_text", "receive_bytes", "receive_json")
    ),
    ("litestar.background_tasks", "BackgroundTask", "__call__", _background_call),
    ("daphne.server", "Server", "create_application", _serving("application")),
    *((each, "", "_asgi_call_wrap", partial(http.granian, _OfServer)) for each in _names.GRANIAN),
)
