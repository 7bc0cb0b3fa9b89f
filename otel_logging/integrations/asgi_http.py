"""One HTTP request of an ASGI server: a span from its arrival to the last byte of its answer.

In: scope, and what application and server say to each other. Out: a stage of the kind server, by
OpenTelemetry's semantic conventions for HTTP. Invariant: what passes is unchanged, but for
headers of the answer. Deliberately absent: WebSockets (``asgi_websocket``).
"""

import re
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from contextlib import contextmanager
from contextvars import copy_context
from typing import Any, Final

from opentelemetry import trace
from opentelemetry.trace import SpanContext, StatusCode

from otel_logging import _names, _runtime, tracing
from otel_logging.context import bind_context, detached, extract

Scope = MutableMapping[str, Any]
Event = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Event]]
Send = Callable[[Event], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

#: OpenTelemetry semantic conventions, HTTP: any other is "_OTHER".
_METHODS: Final = frozenset(
    "CONNECT DELETE GET HEAD OPTIONS PATCH POST PUT QUERY TRACE".split()  # noqa: SIM905
)
_REQUEST_ID: Final = re.compile(r"[!-~]{1,128}")


def headers_of(scope: Scope) -> dict[str, str]:
    """Return the headers by name in lower case; of several of a name the first."""
    return {k.decode("latin-1").lower(): v.decode("latin-1") for k, v in reversed(scope["headers"])}


def attributes_of(scope: Scope, headers: dict[str, str]) -> dict[str, Any]:
    """Return what a span of *scope* begins with. The query is left out: it may hold secrets."""
    host, _, port = headers.get("host", "").rpartition(":")
    if not (host and port.isdigit()):
        host, port = headers.get("host", ""), ""
    server, client = scope.get("server") or (None, None), scope.get("client") or (None, None)
    found = {
        "url.path": scope.get("path", ""),
        "url.scheme": scope.get("scheme", "http"),
        "server.address": host.strip("[]") or server[0],
        "server.port": int(port) if port else None if host else server[1],
        "client.address": client[0],
        "client.port": client[1],
        "network.peer.address": client[0],
        "network.peer.port": client[1],
        "network.protocol.version": scope.get("http_version"),
        "user_agent.original": headers.get("user-agent"),
    }
    return {name: value for name, value in found.items() if value is not None}


def route_of(scope: Scope) -> str | None:
    """Return the template of the route that a framework has found; None where it says none."""
    route = scope.get("route")
    path: Any = getattr(route, "path_format", None) or getattr(route, "path", None)
    if isinstance(path, str):  # Starlette, FastAPI
        root: str = scope.get("root_path", "").rstrip("/")
        return root or "/" if hasattr(route, "app") and hasattr(route, "routes") else root + path
    template = scope.get("path_template")
    if isinstance(template, str):  # Litestar
        return template
    if "endpoint" not in scope:
        return None
    given = {str(value): f"{{{name}}}" for name, value in scope.get("path_params", {}).items()}
    path = str(scope["path"])
    return "/".join(given.get(part, part) for part in path.split("/"))


@contextmanager
def inbound(scope: Scope) -> Iterator[tuple[SpanContext, ...]]:
    """Begin with nothing but what came in with a request; yield what it is to be linked to."""
    with detached():
        if _runtime.current.trust_inbound:
            with extract(scope["headers"]):
                yield ()
            return
        with extract(scope["headers"]):
            sender = trace.get_current_span().get_span_context()
        yield (sender,) if sender.is_valid else ()


def request_id_of(headers: dict[str, str]) -> str | None:
    """Return the id that the request came with, where it can be sent back."""
    given = headers.get("x-request-id", "")
    return given if _REQUEST_ID.fullmatch(given) else None


def answered(event: Event, span: trace.Span, request_id: str | None) -> Event:
    """Return *event*, which begins an answer, with the headers that name its trace."""
    context = span.get_span_context()
    trace_id = f"{context.trace_id:032x}"
    # W3C Trace Context, level 2: traceresponse
    value = f"00-{trace_id}-{context.span_id:016x}-{context.trace_flags:02x}"
    added = {b"traceresponse": value, b"x-trace-id": trace_id, b"x-request-id": request_id}
    headers = list(event.get("headers") or ())
    known = {bytes(name).lower() for name, _ in headers}
    headers += [(k, v.encode()) for k, v in added.items() if v and k not in known]
    return {**event, "headers": headers}


def name_route(span: Any, verb: str, scope: Scope) -> None:
    """Give *span* the name of its route, and the budget of that name."""
    route = route_of(scope)
    if route is None:
        return
    name = f"{verb} {route}"
    span.update_name(name)
    span.set_attribute("http.route", route)
    budget = _runtime.current.budgets.get(name)
    if budget is not None:
        span.set_attribute(_names.BUDGET, budget)
        span.otel_logging_budget = budget


async def serve(app: App, scope: Scope, receive: Receive, send: Send, *, is_quiet: bool) -> None:
    """Serve one request."""
    with inbound(scope) as links:
        request = _Request(scope, send, links)
        if not is_quiet:
            request.begin()
        if request.request_id:
            bind_context(**{_names.REQUEST_ID: request.request_id})
        try:
            await app(scope, receive, request.send)
        except BaseException as error:
            request.end(error)
            raise
        request.end(None)


class _Request:
    """One request, and its span once it has one."""

    span: Any = None
    status = 0
    has_ended = False
    is_complete = False
    trailers = False

    def __init__(self, scope: Scope, send: Send, links: tuple[SpanContext, ...]) -> None:
        self.scope = scope
        self._send = send
        self.began_ns = _runtime.current.now_ns()
        headers = headers_of(scope)
        self.request_id = request_id_of(headers)
        method = scope["method"]
        known = method in _METHODS
        self.verb = method if known else "HTTP"
        attributes = attributes_of(scope, headers)
        attributes["http.request.method"] = method if known else "_OTHER"
        if not known:
            attributes["http.request.method_original"] = method
        self.stage = tracing.traced(self.verb, kind="server", links=links, attributes=attributes)

    def begin(self, start_ns: int | None = None) -> None:
        """Open its span."""
        self.stage.start_ns = start_ns
        self.span = tracing.start(self.stage)

    async def send(self, event: Event) -> None:
        """Pass *event* on; the last one ends the span."""
        kind = event["type"]
        if kind == "http.response.start":
            self.status, self.trailers = event["status"], event.get("trailers", False)
            if self.span is not None:
                event = answered(event, self.span, self.request_id)
        await self._send(event)
        if kind == "http.response.trailers":
            self.is_complete = not event.get("more_trailers", False)
        elif kind in ("http.response.body", "http.response.zerocopysend"):
            self.is_complete = not (event.get("more_body", False) or self.trailers)
        else:
            self.is_complete = kind == "http.response.pathsend"
        if self.is_complete and self.status < 500:  # else the exception is still to come
            self.end(None)

    def end(self, error: BaseException | None) -> None:
        """End it, in its own context, where it stays current: a background task may go on."""
        if self.has_ended:
            return
        self.has_ended = True
        failed = self.status >= 500 or isinstance(error, Exception)
        if self.span is None:
            if not failed:
                return
            self.begin(self.began_ns)
        span = self.span
        name_route(span, self.verb, self.scope)
        status = self.status or (500 if error is not None else 0)
        if status:
            span.set_attribute("http.response.status_code", status)
        if failed:
            span.set_attribute("error.type", type(error).__qualname__ if error else str(status))
            span.set_status(StatusCode.ERROR)
        elif not self.is_complete:  # the client has gone
            span.set_attribute(_names.CANCELLED, True)  # noqa: FBT003 - an attribute's value
        copy_context().run(tracing.end, span, error)
