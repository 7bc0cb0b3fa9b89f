"""A smaller form of ``benchmarks/websocket.py load``."""

import pytest
from fastapi import FastAPI
from starlette.applications import Starlette

from tests.integrations.load import SHAPES, load
from tests.integrations.serving import SERVERS


@pytest.mark.alone
@pytest.mark.parametrize("server", SERVERS)
def test_latencies_are_what_the_clients_saw(server: str) -> None:
    """10 connections, 5 messages each; the shapes and frameworks in turn."""
    shape = list(SHAPES)[SERVERS.index(server)]
    kind = [FastAPI, Starlette][SERVERS.index(server) % 2]
    assert load(server, shape, kind, 10, 10, 0.9) < 0.005
