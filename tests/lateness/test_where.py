"""Where a stage stood: the application's own line, through whatever it waits in."""

import asyncio
import types
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from otel_logging import traced
from tests.conftest import Service

BUDGET_S = 0.1
WAITED_S = 0.25


async def stands_here() -> None:
    await asyncio.sleep(WAITED_S)


async def in_a_group() -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(stands_here())


async def in_wait() -> None:
    await asyncio.wait([asyncio.ensure_future(stands_here())])


async def shielded() -> None:
    await asyncio.shield(stands_here())


async def with_a_timeout() -> None:
    await asyncio.wait_for(stands_here(), 5)


async def gathered() -> None:
    await asyncio.gather(asyncio.sleep(0), stands_here())


async def deep(levels: int = 150) -> None:
    await (deep(levels - 1) if levels else stands_here())


async def shielded_in_a_group_with_a_timeout() -> None:
    async def inner() -> None:
        await asyncio.shield(in_a_group())

    await asyncio.wait_for(inner(), 5)


async def of_several_in_wait() -> None:
    tasks = [asyncio.ensure_future(stands_here()), asyncio.ensure_future(asyncio.sleep(WAITED_S))]
    await asyncio.wait(tasks)


def where(service: Service, work: Callable[[], Awaitable[Any]]) -> str:
    """Return where a late stage stood that did *work*."""

    async def main() -> None:
        with traced("turn", budget=BUDGET_S):
            await work()

    asyncio.run(main())
    return str(service.one("turn").attributes["late.where"])


@pytest.mark.parametrize(
    "work",
    [
        *(in_a_group, in_wait, shielded, with_a_timeout, gathered, deep),
        shielded_in_a_group_with_a_timeout,
    ],
)
def test_a_task_stands_where_what_it_waits_for_stands(
    service: Service, work: Callable[[], Awaitable[Any]]
) -> None:
    assert where(service, work).startswith("100 % stands_here (test_where.py:")


def test_of_several_that_it_waits_for_it_may_be_any(service: Service) -> None:
    """Then it stands where it waits itself."""
    assert where(service, of_several_in_wait).startswith("100 % of_several_in_wait (test_where.py:")


@pytest.mark.parametrize(
    ("file", "cause"),
    [
        ("site-packages/sqlthing/pool.py", "pool"),
        ("site-packages/driver/core.py", "lock"),
    ],
)
def test_what_a_library_waits_for_is_told_by_its_module(
    service: Service, file: str, cause: str
) -> None:
    """Not by a folder that it happens to be installed in."""
    module = types.ModuleType("library")
    text = "async def acquire(wait):\n    await wait()\n"
    exec(compile(text, f"/srv/carpool/{file}", "exec"), vars(module))
    where(service, lambda: module.acquire(lambda: asyncio.sleep(WAITED_S)))
    assert service.one("turn").attributes["late.cause"] == cause
