"""A Starlette application; run as a program, by the server that is named."""

import asyncio
import sys

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from tests.servers.wiring import endpoint, wire

wire()


async def _endpoint(request: Request) -> PlainTextResponse:
    return PlainTextResponse(endpoint(request.url.path))


app = Starlette(routes=[Route("/{path:path}", _endpoint)])


def _uvicorn(*options: str) -> None:
    import uvicorn

    if options == ("workers",):
        uvicorn.run("tests.servers.asgi:app", port=0, workers=2)
    else:
        uvicorn.run(app, port=0, **dict.fromkeys(options))


def _hypercorn() -> None:
    import signal

    from hypercorn.asyncio import serve
    from hypercorn.config import Config

    config = Config.from_mapping(bind="127.0.0.1:0", accesslog="-")

    async def main() -> None:
        ended = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
        await serve(app, config, shutdown_trigger=ended.wait)

    asyncio.run(main())


if __name__ == "__main__":
    {"uvicorn": _uvicorn, "hypercorn": _hypercorn}[sys.argv[1]](*sys.argv[2:])
