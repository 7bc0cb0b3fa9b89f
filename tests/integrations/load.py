"""Many connections with planted delays, and a judgement of what they left."""

import asyncio
import json
import random
import statistics
import sys
import time

from websockets.asyncio.client import connect

from tests.integrations.serving import serving
from tests.integrations.test_websocket import SHAPES, app_of
from tests.programs import script

TALKING_S = 0.4  # at most, between two messages of a client
DELAY_S = 0.02  # at most, planted in each


async def _client(port: int, path: str, user: str, messages: int) -> dict[str, float]:
    """Send messages, some before the last one is answered; return the latency of each."""
    chance = random.Random(user)
    sent: dict[str, float] = {}
    seen: dict[str, float] = {}
    url = f"ws://127.0.0.1:{port}{path}?user={user}"
    async with connect(url, compression=None) as client:

        async def receive() -> None:
            while len(seen) < messages:
                text = str(await client.recv())
                seen[text] = time.perf_counter() - sent[text]

        receiving = asyncio.create_task(receive())
        for n in range(messages):
            text = json.dumps([user, n, round(chance.uniform(0, DELAY_S), 4)])
            sent[text] = time.perf_counter()
            await client.send(text)
            await asyncio.sleep(chance.uniform(0, TALKING_S))
        await receiving
    return seen


def talk() -> None:
    """Be all clients, in a process of their own: print the latency of each message of each."""
    port, path, connections, messages = sys.argv[1:]

    async def all_clients() -> list[dict[str, float]]:
        users = (f"u{n}" for n in range(int(connections)))
        clients = (_client(int(port), path, user, int(messages)) for user in users)
        return await asyncio.gather(*clients)

    print(json.dumps(asyncio.run(all_clients())))


def load(server: str, shape: str, kind: type, connections: int, messages: int) -> float:
    """Serve so many; return how far the median message is from what its client saw, seconds.

    Every message is a trace, every line and span its user's, and nothing of another message.
    """
    with serving(app_of(kind), server) as seen:
        arguments = (seen.port, f"/ws/{shape}", connections, messages)
        code = "from tests.integrations.load import talk; talk()"
        answers = json.loads(script(code, *map(str, arguments)).stdout)
        spans = seen.wait_for("message", connections * messages)
        lines = seen.lines
    latencies = {text: took for each in answers for text, took in each.items()}
    assert len({span["trace_id"] for span in spans}) == len(spans) == connections * messages
    orders = {span["trace_id"]: dict(span["attributes"])["order"] for span in spans}
    assert set(orders.values()) == set(latencies)
    handshakes = {s["trace_id"]: dict(s["attributes"]) for s in seen.named("WS /ws/{shape}")}
    for span in spans:
        user = json.loads(orders[span["trace_id"]])[0]
        assert dict(span["attributes"])["user_id"] == user
        assert handshakes[span["links"][0]["trace_id"]]["user_id"] == user
    of_messages = [line for line in lines if line["event"] in ("handling", "worked")]
    assert len(of_messages) == 2 * len(spans)
    for line in of_messages:
        assert line["order"] == orders[line["trace_id"]]
        assert line["user_id"] == json.loads(line["order"])[0]
    return statistics.median(
        abs(span["duration_s"] - latencies[orders[span["trace_id"]]]) for span in spans
    )


__all__ = ["SHAPES", "load"]
