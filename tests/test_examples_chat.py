"""examples/chat as a user starts it, under uvicorn, with WebSocket clients."""

import json
import re
import socket
from collections import Counter

from websockets.sync.client import ClientConnection, connect

from tests.lines import ROOT
from tests.programs import MODULE, Program, ask
from tests.receiver import Receiver

EXAMPLES = ROOT / "examples"
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
MESSAGES = ("is there any green tea?", "the green one is gone", "black tea then", "?!")


def joined(user_id: str, port: int) -> ClientConnection:
    # with a socket of our own no proxy of the environment comes between
    to_server = socket.create_connection(("127.0.0.1", port))
    return connect(f"ws://127.0.0.1:{port}/rooms/tea?user_id={user_id}", sock=to_server)


def talk(port: int) -> list[list[int]]:
    """Be two users in a room; return the numbers of the messages that were like each one."""
    alike = []
    with joined("ada", port) as ada, joined("ben", port) as ben:
        for n, text in enumerate(MESSAGES):
            (ada, ben)[n % 2].send(text)
            delivered = [json.loads(member.recv()) for member in (ada, ben)]
            assert delivered[0] == delivered[1]
            assert delivered[0]["text"] == text
            alike.append([other["number"] for other in delivered[0]["like"]])
    return alike


def test_every_line_is_one_object_with_its_message_s_trace(receiver: Receiver) -> None:
    """Those of a library with the standard logging too, and the access log's its request's."""
    with Program(
        [*MODULE, "uvicorn", "chat:app", "--port", "0"],
        cwd=EXAMPLES,
        ENVIRONMENT="production",
        OTEL_EXPORTER_OTLP_ENDPOINT=receiver.endpoint,
    ) as program:
        port = int(program.wait_for_text(r"running on http://127\.0\.0\.1:(\d+)")[1])
        assert talk(port) == [[], [1], [1], []]
        program.wait_for(lambda p: p.said().count('"event":"left"') == 2)
        headers = {"traceparent": f"00-{TRACE}-00f067aa0ba902b7-01"}
        status, found = ask(port, "GET", "/rooms/tea/messages?like=green", headers=headers)
        assert (status, [message["number"] for message in found]) == (200, [1, 2])
        assert ask(port, "GET", "/rooms/none/messages")[0] == 404
        program.stop()
        lines = program.lines()
        assert b"".join(program.err).strip() in (b"", b"Aborted!")  # older uvicorns, at Ctrl-C

    assert Counter(line["event"] for line in lines)["message delivered"] == len(MESSAGES)
    of_library = [line for line in lines if line["logger"] == "chat.rooms"]
    assert len(of_library) == 2 * len(MESSAGES) + 1 + 1  # a warning of the message without words

    traces = {span.trace_id: span for span in receiver.spans if span.name == "message"}
    assert [span.attributes["user_id"] for span in traces.values()] == ["ada", "ben", "ada", "ben"]
    for trace_id, span in traces.items():
        own = [line for line in lines if line.get("trace_id") == trace_id]
        assert len(own) == 5 if span is list(traces.values())[-1] else 4
        assert {line["user_id"] for line in own} == {span.attributes["user_id"]}

    access = {
        re.search(r'"\w+ (\S+) HTTP', line["event"])[1]: line  # type: ignore[index]
        for line in lines
        if line["logger"] == "uvicorn.access"
    }
    asked = access["/rooms/tea/messages?like=green"]
    assert asked["trace_id"] == TRACE
    unknown = next(line for line in lines if line["event"] == "no such room")
    assert access["/rooms/none/messages"]["trace_id"] == unknown["trace_id"]
    assert len(access) == sum(line["logger"] == "uvicorn.access" for line in lines) == 2
