"""A service that handles messages as users of the package would write it; run as a child process.

    python -m tests.backends.chat MESSAGES [SECONDS]      sends over so many seconds

Its truth is the local store that it leaves, and these constants.
"""

import asyncio
import sys

from otel_logging import Observability, bind_context, get_logger, setup_observability, traced

USERS = ("ada", "ben", "carla")
SLOW_S = 1.0  # what a busy machine does not take by itself
STAGES = {"message", "transcribe", "answer", "archive"}

log = get_logger("chat")


def is_slow(number: int) -> bool:
    """Each seventh message is slow, none of them carla's."""
    return number % 7 == 3 and user(number) != "carla"


def user(number: int) -> str:
    return USERS[number % len(USERS)]


async def archive(number: int) -> None:
    """Go on after the message has ended: a child that outlives its parent."""
    with traced("archive"):
        await asyncio.sleep(0.02)
        log.debug("archived", number=number)


async def handle(number: int, later: asyncio.TaskGroup) -> None:
    with traced("message", root=True, kind="server", budget=SLOW_S / 2):
        bind_context(user_id=user(number), number=number)
        log.info("message received", words=number + 1, share=0.5, urgent=number % 2 == 0)
        with traced("transcribe"):
            await asyncio.sleep(SLOW_S if is_slow(number) else 0.01)
            log.warning("model was cold", seconds=0.01)
        later.create_task(archive(number))
        with traced("answer", tries=1):
            try:
                raise ValueError("no such order")
            except ValueError:
                log.exception("order not found", order=number)
        log.info("reply sent")


async def serve(messages: int, seconds: float) -> None:
    log.info("ready")
    async with asyncio.TaskGroup() as tasks:
        for number in range(messages):
            tasks.create_task(handle(number, tasks))
            await asyncio.sleep(seconds / messages)


def run(observability: Observability) -> None:
    messages, seconds = int(sys.argv[1]), float(sys.argv[2]) if len(sys.argv) > 2 else 0.1
    asyncio.run(serve(messages, seconds))
    # whoever listens has accepted it all, or it waits on disk
    print("delivered" if observability.force_flush(5) else "waiting", file=sys.stderr)


def bring() -> None:
    """Be the next process of the service: deliver what waits, record nothing."""
    with setup_observability() as observability:
        assert observability.force_flush(30)


if __name__ == "__main__":
    with setup_observability(log_level="debug") as running:
        run(running)
