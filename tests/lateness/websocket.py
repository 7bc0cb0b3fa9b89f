"""A WebSocket connection without a server: what arrives is given, one message after another."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from otel_logging import bind_context
from otel_logging.integrations.asgi import ObservabilityMiddleware


def serve(
    *texts: str, take: Callable[[str], object], at_end: Callable[[], Awaitable[object]]
) -> None:
    """Serve a connection on which *texts* arrive, each for the user of that name, given to *take*;
    after *at_end* the other side has gone.
    """
    arriving = [{"type": "websocket.connect"}]
    arriving += [{"type": "websocket.receive", "text": text} for text in texts]

    async def receive() -> Any:
        if arriving:
            await asyncio.sleep(0.01)
            return arriving.pop(0)
        await at_end()
        return {"type": "websocket.disconnect"}

    async def send(event: Any) -> None:
        pass

    async def app(scope: Any, receive: Any, send: Any) -> None:
        assert (await receive())["type"] == "websocket.connect"
        await send({"type": "websocket.accept"})
        while (event := await receive())["type"] == "websocket.receive":
            bind_context(user_id=event["text"])
            take(event["text"])

    scope = {"type": "websocket", "path": "/", "headers": []}
    asyncio.run(ObservabilityMiddleware(app)(scope, receive, send))
