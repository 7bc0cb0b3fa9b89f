"""The clients of ``load``, in a process that imports nothing else."""

import asyncio
import json
import random
import sys
import time

from websockets.asyncio.client import connect

TALKING_S = 0.4  # at most, between two messages of a client
DELAY_S = 0.02  # at most, planted in each
LATE_USER = "u3"


async def _client(url: str, user: str, messages: int, late_s: float) -> dict[str, float]:
    """Send messages, some before the last one is answered; return the latency of each.

    The connection stays open.
    """
    chance = random.Random(user)
    sent: dict[str, float] = {}
    seen: dict[str, float] = {}
    # without pings of its own, which a busy machine does not answer in time
    client = await connect(f"{url}?user={user}", compression=None, ping_interval=None)

    async def receive() -> None:
        while len(seen) < messages:
            text = str(await client.recv())
            seen[text] = time.perf_counter() - sent[text]

    receiving = asyncio.create_task(receive())
    for n in range(messages):
        is_late = user == LATE_USER and n == messages // 2
        delay = late_s if is_late else round(chance.uniform(0, DELAY_S), 4)
        text = json.dumps([user, n, delay])
        sent[text] = time.perf_counter()
        await client.send(text)
        await asyncio.sleep(chance.uniform(0, TALKING_S))
    await receiving
    return seen


def talk() -> None:
    """Be all clients: print the latency of each message of each, and stay until one is ended."""
    url, connections, messages, late_s = sys.argv[1:]

    async def all_clients() -> None:
        users = (f"u{n}" for n in range(int(connections)))
        clients = (_client(url, user, int(messages), float(late_s)) for user in users)
        print(json.dumps(await asyncio.gather(*clients)), flush=True)
        await asyncio.Event().wait()

    asyncio.run(all_clients())
