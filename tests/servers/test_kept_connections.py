"""uvicorn's connections that are kept: each request, and each socket, begins with nothing bound.

uvicorn continues a connection in the context of whichever request it paused or resumed
reading in, or, where requests are sent ahead, in that of the one before.
"""

import asyncio
import base64
import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from structlog.contextvars import bind_contextvars
from uvicorn.protocols.http.h11_impl import H11Protocol

from otel_logging import bind_context, extract, get_logger, traced
from otel_logging.testing import Captured, capture
from tests.integrations import serving as observed

log: Any = get_logger("shop")
LARGE = b"x" * 3_000_000  # reading is paused, and resumed within the request


async def app(scope: Any, receive: Any, send: Any) -> None:
    """A service whose stage is around the application, as docs/servers.md has it."""
    if scope["type"] == "lifespan":
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})
        return
    headers = dict(scope["headers"])
    options = json.loads(headers.get(b"x-stage", b"{}"))
    with extract(scope["headers"]), traced("request", path=scope["path"], **options):
        if b"x-user" in headers:
            bind_context(user_id=headers[b"x-user"].decode())
            bind_contextvars(structlogs=headers[b"x-user"].decode())
        if scope["type"] == "websocket":
            await socket_of(receive, send)
            return
        while (await receive()).get("more_body", False):
            await asyncio.sleep(0)
        log.info("served", path=scope["path"])
        length = [(b"content-length", b"2")]
        await send({"type": "http.response.start", "status": 200, "headers": length})
        await send({"type": "http.response.body", "body": b"ok"})


async def socket_of(receive: Any, send: Any) -> None:
    await receive()
    await send({"type": "websocket.accept"})
    while (message := await receive())["type"] == "websocket.receive":
        with traced("message", root=True, kind="server"):
            log.info("message", path=message["text"])
            await send({"type": "websocket.send", "text": "ok"})


@contextmanager
def serving(http: str) -> Iterator[tuple[Captured, int]]:
    with (
        capture(log_level="info") as captured,
        observed.running(app, observed.WEBSOCKETS[0], http=http) as port,
    ):
        yield captured, port


def request(path: str, body: bytes = b"", **headers: str) -> bytes:
    lines = [f"POST {path} HTTP/1.1", "host: shop", f"content-length: {len(body)}"]
    lines += [f"x-{name}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode() + body


def read_answers(connection: socket.socket, number: int) -> bytes:
    """Read until *number* answers are there, which each end in their body."""
    answer = b""
    while answer.count(b"\r\n\r\nok") < number:
        piece = connection.recv(65536)
        assert piece, answer
        answer += piece
    return answer


def users(captured: Captured) -> dict[str, Any]:
    """Return the user of each path, the same on its line and on its span."""
    found = {line["path"]: line.get("user_id") for line in captured.lines if "path" in line}
    for line in captured.lines:
        assert line.get("structlogs") == line.get("user_id") or "path" not in line
    for span in captured.spans:
        if span["name"] == "request":
            assert span["attributes"].get("user_id") == found[span["attributes"]["path"]]
            assert not span["parent_span_id"]
    return found


STAGES = ['{"root": true}', '{"kind": "server"}', '{"root": true, "kind": "server"}', "{}"]


@pytest.mark.parametrize("http", ["h11", "httptools"])
@pytest.mark.parametrize("stage", STAGES)
def test_requests_of_a_kept_connection(http: str, stage: str) -> None:
    """One after the other, after one whose large body had reading paused."""
    with (
        serving(http) as (captured, port),
        socket.create_connection(("127.0.0.1", port), timeout=20) as connection,
    ):
        for path, body, headers in (
            ("/upload", LARGE, {"user": "alice"}),
            ("/anonymous", b"", {}),
            ("/large-too", LARGE, {}),
            ("/bobs", b"", {"user": "bob"}),
            ("/anonymous-too", b"", {}),
        ):
            connection.sendall(request(path, body, stage=stage, **headers))
            read_answers(connection, 1)
    assert users(captured) == {
        "/upload": "alice",
        "/anonymous": None,
        "/large-too": None,
        "/bobs": "bob",
        "/anonymous-too": None,
    }
    assert len({line["trace_id"] for line in captured.lines if "path" in line}) == 5


@pytest.mark.parametrize("http", ["h11", "httptools"])
@pytest.mark.parametrize("stage", STAGES)
def test_requests_that_are_sent_ahead(http: str, stage: str) -> None:
    """HTTP pipelining: each is begun where the one before has sent its answer."""
    with (
        serving(http) as (captured, port),
        socket.create_connection(("127.0.0.1", port), timeout=20) as connection,
    ):
        ahead = [request("/alices", stage=stage, user="alice"), request("/first", stage=stage)]
        connection.sendall(b"".join([*ahead, request("/second", stage=stage)]))
        read_answers(connection, 3)
    assert users(captured) == {"/alices": "alice", "/first": None, "/second": None}


@pytest.mark.filterwarnings("ignore:remove second argument")  # of uvicorn's, in its oldest version
@pytest.mark.parametrize("http", ["h11", "httptools"])
def test_a_websocket_on_a_kept_connection(http: str) -> None:
    """It begins where a request has ended; its messages have its own user, and no other."""
    key = base64.b64encode(os.urandom(16)).decode()
    upgrade = (
        "GET /socket HTTP/1.1\r\nhost: shop\r\nupgrade: websocket\r\nconnection: upgrade\r\n"
        f"sec-websocket-key: {key}\r\nsec-websocket-version: 13\r\n\r\n"
    )
    masked = b"\x81\x84\0\0\0\0"  # a text of four characters, its mask zero
    with (
        serving(http) as (captured, port),
        socket.create_connection(("127.0.0.1", port), timeout=20) as connection,
    ):
        connection.sendall(request("/upload", LARGE, user="alice"))
        read_answers(connection, 1)
        connection.sendall(upgrade.encode())
        answer = b""
        while not answer.endswith(b"\r\n\r\n"):
            part = connection.recv(65536)
            assert part, answer
            answer += part
        assert answer.startswith(b"HTTP/1.1 101")
        connection.sendall(masked + b"said")
        assert connection.recv(4) == b"\x81\x02ok"
        connection.sendall(b"\x88\x80\0\0\0\0")
    assert {line["path"]: line.get("user_id") for line in captured.lines if "path" in line} == {
        "/upload": "alice",
        "said": None,
    }


SAID = {"Invalid HTTP request received.": b"NO HTTP\r\n\r\n"}
if hasattr(H11Protocol, "_unsupported_upgrade_warning"):  # else uvicorn says it of no `irc`
    SAID["Unsupported upgrade request."] = (
        b"GET /irc HTTP/1.1\r\nhost: shop\r\nconnection: upgrade, close\r\nupgrade: irc\r\n\r\n"
    )


@pytest.mark.parametrize("http", ["h11", "httptools"])
@pytest.mark.parametrize("said", SAID)
def test_what_uvicorn_says_of_the_next_request_is_of_nobody(http: str, said: str) -> None:
    """After one whose large body had reading paused, and sent ahead."""
    first = [request("/alices", body, user="alice") for body in (LARGE, b"")]
    with observed.serving(app, options={"http": http}) as seen:
        for sent in ([first[0], SAID[said]], [first[1] + SAID[said]]):
            with socket.create_connection(("127.0.0.1", seen.port), timeout=20) as connection:
                for each in sent:
                    connection.sendall(each)
                    answer = connection.recv(65536)
                while answer:
                    answer = connection.recv(65536)
    lines = [line for line in seen.lines if line["event"] == said]
    assert len(lines) == 2
    theirs = {"user_id", "trace_id", "span_id", "structlogs"}
    assert [line.keys() & theirs for line in lines] == [set()] * 2
    assert "alice" in {line.get("user_id") for line in seen.lines if "path" in line}
