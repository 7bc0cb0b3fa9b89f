"""What an HTTP request is on a span, by OpenTelemetry's semantic conventions; for ASGI and WSGI.

In: a scope, as ASGI has it. Out: the stage of a request, from its arrival to its answer's end.
Invariant: what passes is unchanged, but for headers of the answer. Deliberately absent: WebSockets
(``asgi_websocket``), bodies of WSGI (``wsgi``).
"""

import re
import sys
from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator, MutableMapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import copy_context
from functools import reduce
from typing import Any, Final, Self

from opentelemetry import trace
from opentelemetry.trace import SpanContext, StatusCode

from otel_logging import _exceptions, _failures, _names, _runtime, background_tasks, tracing
from otel_logging.binding import has_ended
from otel_logging.context import Here, bind_context, detached, take_off, unbound
from otel_logging.integrations.arrival import arrived_ns
from otel_logging.integrations.replaced import is_instrumented
from otel_logging.lateness.stage import value_of
from otel_logging.propagation import extract

Scope = MutableMapping[str, Any]
Event = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Event]]
Send = Callable[[Event], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

#: OpenTelemetry semantic conventions, HTTP: any other is "_OTHER".
_METHODS: Final = frozenset(
    "CONNECT DELETE GET HEAD OPTIONS PATCH POST PUT QUERY TRACE".split()  # noqa: SIM905
)
#: Names of what a middleware, or a framework's application, is around.
_INSIDE: Final = ("middleware_stack", "app", "asgi_app", "wsgi_app", "inner", "application")
#: The module of a server's middleware that gives its application a copy of the scope.
_COPIES: Final = "hypercorn.middleware.proxy_fix"
#: Where OpenTelemetry's own instrumentations are, and the names of their scopes.
_CONTRIB: Final = "opentelemetry.instrumentation"
#: The modules of its middleware.
_THEIRS: Final = f"{_CONTRIB}.asgi", f"{_CONTRIB}.wsgi"
_FORWARDED: Final = ("client.address", "client.port", "url.scheme")
#: What may be the last that an application of ASGI sends.
_ENDS: Final = tuple(f"http.response.{end}" for end in ("body", "pathsend", "zerocopysend"))
#: Five ASCII digits at most: ``int`` takes other digits too, and raises for 4,301 of them.
_PORT: Final = re.compile(r"[0-9]{1,5}")
_LEFT: Final = nullcontext()
_REQUEST_ID: Final = re.compile(r"[!-~]{1,128}")
#: Paths that probes and browsers ask for all the time.
QUIET: Final = ("/health", "/healthz", "/livez", "/readyz", "/ping", "/metrics", "/favicon.ico")


def headers_of(scope: Scope) -> dict[str, str]:
    """Return the headers, names in lower case; of several with one name, the first."""
    return {k.decode("latin-1").lower(): v.decode("latin-1") for k, v in reversed(scope["headers"])}


def port_of(text: Any) -> int | None:
    """Return *text* as a port number; None if it is invalid."""
    return int(text) if _PORT.fullmatch(str(text)) else None


def attributes_of(scope: Scope, headers: dict[str, str]) -> dict[str, Any]:
    """Return what a span of *scope* begins with. The query is left out: it may hold secrets."""
    host, _, digits = headers.get("host", "").rpartition(":")
    port = port_of(digits) if host else None
    if port is None:
        host = headers.get("host", "")
    # a Unix socket's address is a string, and one of IPv6 has four parts
    addresses = [scope.get(name) for name in ("server", "client")]
    # a client's port is 0 if a proxy has named its address alone
    server, client = [
        each if isinstance(each, (tuple, list)) else (None,) * 2 for each in addresses
    ]
    found = {
        "url.path": scope.get("path", ""),
        "url.scheme": scope.get("scheme", "http"),
        "server.address": host.strip("[]") or server[0],
        "server.port": server[1] if not host else port,
        "client.address": client[0],
        "client.port": client[1] or None,
        "network.peer.address": client[0] if client[1] != 0 else None,
        "network.peer.port": client[1] or None,
        "network.protocol.version": scope.get("http_version"),
        "user_agent.original": headers.get("user-agent"),
    }
    return {name: value for name, value in found.items() if value is not None}


@contextmanager
def _inbound(headers: Any) -> Iterator[tuple[SpanContext, ...]]:
    """Begin with nothing but what came in with *headers*; yield what it is to be linked to."""
    if _runtime.current.tracer is None:  # the current span may be another SDK's
        with unbound():
            yield ()
        return
    with detached():
        with extract(headers):
            if _runtime.current.trust_inbound:
                yield ()
                return
            sender = trace.get_current_span().get_span_context()
        yield (sender,) if sender.is_valid else ()


def inside(app: Any) -> Iterator[Any]:
    """Yield *app*, and what is inside it, as far as each has it under a usual name."""
    for _ in range(100):  # pragma: no branch - a chain of middleware has an end
        yield app
        app = next((found for name in _INSIDE if (found := getattr(app, name, None))), None)
        if app is None:
            return


def is_elsewhere(app: Any) -> bool:
    """Say whether OpenTelemetry's instrumentation has *app*'s requests: around it or inside."""
    around: Any = trace.get_current_span()
    scope = getattr(around, "instrumentation_scope", None)
    is_theirs = scope is not None and scope.name.startswith(f"{_CONTRIB}.")
    if is_theirs and around.kind is trace.SpanKind.SERVER and not has_ended(around):
        return True
    if _CONTRIB not in sys.modules:
        return False
    for each in inside(app):
        module = type(each).__module__
        if module in _THEIRS or getattr(each, "_is_instrumented_by_opentelemetry", False):
            return True
        if module.startswith("django.") and is_instrumented("django", "DjangoInstrumentor"):
            return True
        if getattr(each, "middleware_stack", each) is None:  # Starlette makes it when it serves
            each.middleware_stack = each.build_middleware_stack()
    return False


def serve(
    kind: Callable[[Any], Any], place: str, original: Any, self: Any, *args: Any, **named: Any
) -> Any:
    """Call *original*, a server's method, with its application wrapped in *kind*, a middleware.

    *place*: the dotted name of the attribute of *self* that holds the application; "": it is the
    argument. It runs in a context of its own.
    """
    if place:
        *way, name = place.split(".")
        holder = reduce(getattr, way, self)
        while type(app := getattr(holder, name)).__module__ == _COPIES:
            holder, name = app, "app"  # inside it: what is found in a copy is not seen outside
        if type(app) is not kind:
            setattr(holder, name, kind(app))
    else:
        args = (kind(*args),)
    return copy_context().run(original, self, *args, **named)


def granian(kind: Callable[[Any], Any], original: Any, app: Any, *given: Any) -> Any:
    """Do the same for granian's *original*, which turns an application into what it serves."""
    run = original(kind(app), *given)
    return lambda *request: copy_context().run(run, *request)


def route_of(scope: Scope) -> str | None:
    """Return the template of the route that a framework has found; None where it says none."""
    route, effective = scope.get("route"), scope.get("fastapi", {}).get("effective_route_context")
    if getattr(effective, "original_route", None) is route is not None:
        route = effective  # where its router is included, FastAPI's own has no prefix
    path: Any = getattr(route, "path_format", None) or getattr(route, "path", None)
    if isinstance(path, str):  # Starlette, FastAPI
        root: str = scope.get("root_path", "").rstrip("/")
        return root or "/" if hasattr(route, "app") and hasattr(route, "routes") else root + path
    template = scope.get("path_template")
    if isinstance(template, str):  # Litestar
        return template
    endpoint = scope.get("endpoint")
    if endpoint is None:
        return None
    mounted: str = scope.get("root_path", "").rstrip("/")
    if mounted and not hasattr(getattr(endpoint, "func", endpoint), "__name__"):
        return mounted  # by an older Starlette: files, say
    given = {str(value): f"{{{name}}}" for name, value in scope.get("path_params", {}).items()}
    path = str(scope["path"])
    return "/".join(given.get(part, part) for part in path.split("/"))


class Request:
    """One request, or the handshake of a WebSocket, and its span once it has one."""

    span: Any = None
    status = 0
    done_ns: int | None = None
    has_ended = False
    is_complete = False
    #: What its framework handled when it began an answer of failure, and may not have reported.
    handled: BaseException | None = None

    def __init__(
        self, scope: Scope, quiet: Collection[str] = (), start_ns: int | None = None
    ) -> None:
        self.scope = scope
        self._inbound: AbstractContextManager[Any] = _inbound(scope["headers"])
        links = self._inbound.__enter__()
        self.began, self.began_ns = _exceptions.last, start_ns or _runtime.current.now_ns()
        headers = headers_of(scope)
        found = _REQUEST_ID.fullmatch(headers.get("x-request-id", ""))
        #: Its ``x-request-id``, if that can be sent back.
        self.request_id = None if found is None else found[0]
        is_socket, method = scope.get("type") == "websocket", scope.get("method", "GET")
        known = method in _METHODS
        self.verb = "WS" if is_socket else method if known else "HTTP"
        attributes = attributes_of(scope, headers)
        if is_socket:
            attributes["network.protocol.name"] = "websocket"
        attributes["http.request.method"] = method if known else "_OTHER"
        if not known:
            attributes["http.request.method_original"] = method
        self.stage = tracing.traced(self.verb, kind="server", links=links, attributes=attributes)
        self._from = scope.get("client"), scope.get("scheme")
        if scope.get("path", "").removeprefix(scope.get("root_path", "")) not in quiet:
            self.begin(start_ns)
        if self.request_id and _runtime.current.tracer is not None:
            bind_context(**{_names.REQUEST_ID: self.request_id})

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        self.end(error)
        self.leave()

    def leave(self) -> None:
        """Restore what was current and bound before it; a second call does nothing."""
        left, self._inbound = self._inbound, _LEFT  # a connection keeps its handshake
        left.__exit__(None, None, None)

    def route(self) -> str | None:
        """Return its route, once a framework has found it."""
        return route_of(self.scope)

    def begin(self, start_ns: int | None = None) -> None:
        """Open its span; none without tracing."""
        if _runtime.current.tracer is None:
            return
        self.stage.asked = self.stage.asked._replace(start_ns=start_ns)
        self.span = tracing.start(self.stage)
        if (watch := _runtime.current.watch) is not None and self.span is not trace.INVALID_SPAN:
            watch.expect(self.span, self.verb, self.route)  # and with it its name and budget

    def headers(self, known: Iterable[str]) -> list[tuple[str, str]]:
        """Return the headers of its answer that name its trace, but for those that are *known*."""
        if self.span is None:
            return []
        context, names = self.span.get_span_context(), {each.lower() for each in known}
        trace_id = f"{context.trace_id:032x}"
        # W3C Trace Context, level 2: traceresponse
        value = f"00-{trace_id}-{context.span_id:016x}-{context.trace_flags:02x}"
        added = {"traceresponse": value, "x-trace-id": trace_id, "x-request-id": self.request_id}
        return [(name, each) for name, each in added.items() if each and name not in names]

    def end(self, error: BaseException | None = None) -> None:
        """End it, in its own context, where it stays current: a background task may go on."""
        error, self.handled = error or self.handled, None  # whose frames hold this one
        if self.has_ended:  # by its answer, before a background task or a stream failed
            _exceptions.remember_context(error, self.began)
            return
        self.has_ended = True
        has_gone = error is not None and _failures.status_of(error) == 200  # an answer to nobody
        failed = not has_gone and (self.status >= 500 or isinstance(error, Exception))
        if self.span is None and failed:
            self.begin(self.began_ns)
        if (span := self.span) is None:
            _exceptions.remember_context(error, self.began)
            return
        name_route(span, self.verb, self.route())
        span.otel_logging_ask = None  # it holds the request: a circle
        if self._from != (self.scope.get("client"), self.scope.get("scheme")):
            known = attributes_of(self.scope, {})  # by now, from a proxy's headers
            for key in _FORWARDED:
                take_off(span, key)
                if key in known:
                    span.set_attribute(key, known[key])
        status = self.status or (500 if error is not None else 0)
        if status and not has_gone:
            span.set_attribute("http.response.status_code", status)
        if failed:
            why = type(error).__qualname__ if error else str(status)
            span.set_attribute(_names.ERROR_TYPE, why)
            span.set_status(StatusCode.ERROR)
        elif has_gone or not self.is_complete:  # the client has gone
            span.set_attribute(_names.CANCELLED, True)  # noqa: FBT003 - an attribute's value
        copy_context().run(tracing.end, span, error, self.done_ns, is_block=False)


class HttpRequest(Request):
    """One request, and what is sent for it."""

    #: Whether its application knows that its client has gone.
    is_left = False

    def __init__(self, scope: Scope, receive: Receive, send: Send, quiet: Collection[str]) -> None:
        super().__init__(scope, quiet, arrived_ns(receive))
        self._receive, self._send, self.here = receive, send, Here.now()

    async def receive(self) -> Event:
        """Return what its server has next."""
        event = await self._receive()
        self.is_left = self.is_left or event["type"] == "http.disconnect"
        return event

    async def send(self, event: Event) -> None:
        """Pass *event* on; the last one ends the span."""
        kind = event["type"]
        if kind == "http.response.start":
            self.status = event["status"]
            if self.status >= 500:
                self.handled = handled()
                if self.span is None:
                    self.begin(self.began_ns)  # a quiet path fails
            event = answered(event, self)
        is_complete = not self.is_left  # read before: after the answer every application knows it
        await self._send(event)
        if event.get("more_body", False):
            background_tasks.look()  # a stream is as long as a connection
        elif kind in _ENDS:
            self.is_complete, self.done_ns = is_complete, _runtime.current.now_ns()
            if self.status < 500:  # else the exception is still to come
                self.end()


def answered(event: Event, request: Request) -> Event:
    """Return *event*, which begins an answer, with the headers that name its trace."""
    headers = list(event.get("headers") or ())
    added = request.headers(bytes(name).decode("latin-1") for name, _ in headers)
    return {**event, "headers": headers + [(k.encode(), v.encode()) for k, v in added]}


def handled() -> BaseException | None:
    """Return what is handled while an answer of failure is sent, which may tell nobody of it."""
    error = sys.exception()
    return None if error is None or _failures.status_of(error) else error


def name_route(span: Any, verb: str, route: str | None) -> None:
    """Give *span* the name of its *route*, and the budget of that name."""
    if route is None or value_of(span, "http.route"):  # an application inside has found it
        return
    name = f"{verb} {route}"
    span.otel_logging_ask = None  # it is known now
    span.update_name(name)
    span.set_attribute("http.route", route)
    budget = _runtime.current.budgets.get(name)
    if budget is not None:
        span.set_attribute(_names.BUDGET, budget)
        span.otel_logging_budget = budget
    if (watch := _runtime.current.watch) is not None:
        watch.name(span, name)
