"""One HTTP request of an ASGI server: a span from its arrival to the last byte of its answer.

In: scope, and what application and server say to each other. Out: a stage of the kind server, by
OpenTelemetry's semantic conventions for HTTP. Invariant: what passes is unchanged, but for
headers of the answer. Deliberately absent: WebSockets (``asgi_websocket``).
"""

from collections.abc import Awaitable, Callable, Collection, MutableMapping
from typing import Any

from opentelemetry import trace

from otel_logging import _runtime
from otel_logging.integrations.http import Request, Scope, added_headers, inbound

Event = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Event]]
Send = Callable[[Event], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]


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
    endpoint = scope.get("endpoint")
    if endpoint is None:
        return None
    mounted: str = scope.get("root_path", "").rstrip("/")
    if mounted and _is_app(getattr(endpoint, "func", endpoint)):
        return mounted  # by an older Starlette: files, say
    given = {str(value): f"{{{name}}}" for name, value in scope.get("path_params", {}).items()}
    path = str(scope["path"])
    return "/".join(given.get(part, part) for part in path.split("/"))


def _is_app(endpoint: Any) -> bool:
    """Say whether *endpoint* is an application (scope, receive, send): a view has a request."""
    if not hasattr(endpoint, "__name__"):
        return True
    count = getattr(getattr(endpoint, "__code__", None), "co_argcount", 0)
    return bool(count - hasattr(endpoint, "__self__") == 3)


def answered(event: Event, span: trace.Span, request_id: str | None) -> Event:
    """Return *event*, which begins an answer, with the headers that name its trace."""
    headers = list(event.get("headers") or ())
    known = {bytes(name).lower() for name, _ in headers}
    added = added_headers(span, request_id).items()
    headers += [(k.encode(), v.encode()) for k, v in added if k.encode() not in known]
    return {**event, "headers": headers}


async def serve(
    app: App, scope: Scope, receive: Receive, send: Send, quiet: Collection[str]
) -> None:
    """Serve one request."""
    with inbound(scope["headers"]) as links:
        request = _Request(scope, send, links, quiet)
        try:
            await app(scope, receive, request.send)
        except BaseException as error:
            request.end(error)
            raise
        request.end()


class _Request(Request):
    """One request, and what is sent for it."""

    trailers = False

    def __init__(self, scope: Scope, send: Send, *options: Any) -> None:
        super().__init__(scope, *options)
        self._send = send

    def route(self) -> str | None:
        """Return its route, once a framework has found it."""
        return route_of(self.scope)

    async def send(self, event: Event) -> None:
        """Pass *event* on; the last one ends the span."""
        kind = event["type"]
        if kind == "http.response.start":
            self.status, self.trailers = event["status"], event.get("trailers", False)
            if self.status >= 500 and self.span is None:
                self.begin(self.began_ns)  # a quiet path fails
            if self.span is not None:
                event = answered(event, self.span, self.request_id)
        await self._send(event)
        if kind == "http.response.trailers":
            self.is_complete = not event.get("more_trailers", False)
        elif kind in ("http.response.body", "http.response.zerocopysend"):
            self.is_complete = not (event.get("more_body", False) or self.trailers)
        else:
            self.is_complete = kind == "http.response.pathsend"
        if self.is_complete:
            self.done_ns = _runtime.current.now_ns()
            if self.status < 500:  # else the exception is still to come
                self.end()
