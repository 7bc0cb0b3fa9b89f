"""Quart: requests and handshakes have their route, and the task that takes a message out of the
connection's own queue works on it.

The spans are those of any ASGI application. Deliberately absent: where they are made (``asgi``).
"""

import asyncio
from typing import Any, Final

from opentelemetry import trace
from quart import asgi, has_request_context, request, websocket
from quart.signals import got_websocket_exception, request_started, websocket_started
from quart.wrappers import websocket as wrapper

from otel_logging import _names
from otel_logging.context import CURRENT
from otel_logging.integrations.asgi_message import asked
from otel_logging.integrations.replaced import Replaced
from otel_logging.tracing import record

#: The class that makes a connection's queue, and the attribute: from Quart 0.23 on, and before.
_owner: Any = getattr(wrapper, "Buffer", asgi.ASGIWebsocketConnection)
_QUEUE: Final = "_queue" if hasattr(wrapper, "Buffer") else "queue"


async def _on_start(_: object, **__: object) -> None:
    served: Any = request if has_request_context() else websocket
    if served.url_rule is not None:
        served.scope["path_template"] = served.root_path + served.url_rule.rule


async def _on_failure(_: object, exception: BaseException, **__: object) -> None:
    record(trace.get_current_span(), exception)


def _make(original: Any, self: Any, *args: Any, **options: Any) -> None:
    original(self, *args, **options)
    setattr(self, _QUEUE, _Messages())


class _Messages(asyncio.Queue[Any]):
    """A connection's own queue, which one task fills and another, the application's, empties."""

    def _put(self, item: Any) -> None:
        super()._put((item, CURRENT.get().get(_names.HELD)))

    async def get(self) -> Any:
        """Leave the message that came before, and work on the next one."""
        asked()
        item, held = await super().get()
        if held is not None:
            held.message.connection.enter(held)
        return item


_replaced = Replaced(
    (_owner.__module__, _owner.__name__, "__init__", _make),
    signals={
        request_started: _on_start,
        websocket_started: _on_start,
        got_websocket_exception: _on_failure,
    },
)
instrument, uninstrument = _replaced.instrument, _replaced.uninstrument
