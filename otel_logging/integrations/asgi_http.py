"""One HTTP request of an ASGI server: a span from its arrival to the last byte of its answer.

In: scope, and what application and server say to each other. Out: a stage of the kind server, by
OpenTelemetry's semantic conventions for HTTP. Invariant: what passes is unchanged, but for
headers of the answer. Deliberately absent: WebSockets (``asgi_websocket``).
"""

import sys
from collections.abc import Awaitable, Callable, Collection, MutableMapping
from typing import Any, Final

from otel_logging import _failures, _runtime
from otel_logging.integrations.arrival import arrived_ns
from otel_logging.integrations.http import Request, Scope, inbound

#: What may be the last that an application sends.
_ENDS: Final = tuple(f"http.response.{end}" for end in ("body", "pathsend", "zerocopysend"))
Event = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Event]]
Send = Callable[[Event], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]


def answered(event: Event, request: Request) -> Event:
    """Return *event*, which begins an answer, with the headers that name its trace."""
    headers = list(event.get("headers") or ())
    added = request.headers(bytes(name).decode("latin-1") for name, _ in headers)
    return {**event, "headers": headers + [(k.encode(), v.encode()) for k, v in added]}


async def serve(
    app: App, scope: Scope, receive: Receive, send: Send, quiet: Collection[str]
) -> None:
    """Serve one request."""
    with inbound(scope["headers"]) as links:
        came_ns = arrived_ns(getattr(receive, "__self__", None))
        request = _Request(scope, send, links, quiet, came_ns)
        try:
            await app(scope, receive, request.send)
        except BaseException as error:
            request.end(error)
            raise
        else:
            request.end(request.handled)
        finally:
            request.handled = None  # whose frames hold this one


def handled() -> BaseException | None:
    """Return what is handled while an answer of failure is sent, which may tell nobody of it."""
    error = sys.exception()
    return None if error is None or _failures.status_of(error) else error


class _Request(Request):
    """One request, and what is sent for it."""

    handled: BaseException | None = None

    def __init__(self, scope: Scope, send: Send, *options: Any) -> None:
        super().__init__(scope, *options)
        self._send = send

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
        await self._send(event)
        if kind in _ENDS and not event.get("more_body", False):
            self.is_complete, self.done_ns = True, _runtime.current.now_ns()
            if self.status < 500:  # else the exception is still to come
                self.end()
