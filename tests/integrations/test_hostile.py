"""A smaller form of ``benchmarks/websocket.py hostile``."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.integrations.hostile import SERVERS, abused

#: MiB: what is read ahead, a message of 10 MB beside it, the next one, which its server puts
#: together out of its pieces, and what a process varies by.
MORE_MIB = 1 + 10 + 2 * 10 + 8


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="memory as Linux tells it")
@pytest.mark.parametrize("server", SERVERS)
def test_hostile_clients_make_a_server_hold_little_more_than_without_us(
    server: str, tmp_path: Path
) -> None:
    """They are answered, stopped and forgotten as without us."""
    with ThreadPoolExecutor(2) as side_by_side:
        without, ours = side_by_side.map(
            lambda instrument: list(abused(server, tmp_path, instrument, 2_000)), ("none", "auto")
        )
    for (name, before, saw), (_, peak, sees) in zip(without, ours, strict=True):
        assert sees == saw, name
        assert saw is not False, name
        assert peak < before + MORE_MIB, name
