"""What a program prints when it starts: nothing in production, in development what it did."""

import pytest

from tests.lines import parsed
from tests.programs import script

#: Asks for the banner as ``app.run()`` does, however flask came here.
SHOWN = """
import sys
from otel_logging import configure_logging
{steps}
import flask.cli
flask.cli.show_server_banner(False, "shop")
"""
SET_UP = "import flask; configure_logging()"


@pytest.mark.parametrize("steps", [SET_UP, f"{SET_UP}; {SET_UP}"])
def test_flasks_banner_in_production(steps: str) -> None:
    """It is not printed, where flask is imported before set-up."""
    assert script(SHOWN.format(steps=steps), ENVIRONMENT="production").stdout == b""


def test_flasks_banner_in_development() -> None:
    """It is what it was."""
    printed = script(SHOWN.format(steps=SET_UP), ENVIRONMENT="development").stdout
    assert printed == b" * Serving Flask app 'shop'\n * Debug mode: off\n"


def test_flask_without_a_banner() -> None:
    """A flask that prints in another way, or a module of that name, is left alone."""
    code = """
import sys, types
sys.modules["flask.cli"] = types.ModuleType("flask.cli")
from otel_logging import configure_logging, get_logger
configure_logging()
assert not hasattr(sys.modules["flask.cli"], "show_server_banner")
get_logger("shop").info("line")
"""
    (line,) = parsed(script(code, ENVIRONMENT="production").stdout)
    assert line["event"] == "line"
