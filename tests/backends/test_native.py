"""The real programs, as processes of this machine."""

from pathlib import Path

import pytest

from tests.backends.cases import Cases, Service
from tests.backends.native import Native
from tests.backends.stack import Program
from tests.programs import good, run


class TestNative(Cases):
    """Everything that must be true, of processes of this machine."""


def test_a_full_queue_refuses_and_nothing_is_lost(native: Native, tmp_path: Path) -> None:
    """What the collector has no room for stays on the sender's disk, and comes later."""
    small = {"queue_size": 40_000, "batch": {"min_size": 10_000, "max_size": 20_000}}
    stack = Native(tmp_path / "native", small)
    service = Service(stack, tmp_path / "spool")
    try:
        stack.start("collector")
        for expected in ("delivered", "waiting"):
            _, said = service.handle(20)  # 25 kB
            assert said.endswith(f"{expected}\n")
        stack.start("jaeger")
        service.run("-c", "import tests.backends.chat as c; c.bring()")
        service.all_in_jaeger()
        assert len(service.messages()) == 40
    finally:
        stack.close()


@pytest.mark.parametrize("program", ["collector", "jaeger"])
def test_the_program_takes_the_shipped_file(native: Native, program: Program) -> None:
    """As it is, without the tests' ports."""
    name, _, shipped, _ = native.command(program, "validate")
    good(run(name, "validate", shipped, env=native.environment()))


@pytest.mark.parametrize("program", ["collector", "jaeger"])
def test_no_setting_is_old(native: Native, program: Program) -> None:
    """Nothing that the program reads is deprecated, an alias, or open to everyone."""
    said = native.output(program).lower().splitlines()
    words = ("deprecat", "alias", "0.0.0.0", "denial of service")
    assert [line for line in said if any(word in line for word in words)] == []
