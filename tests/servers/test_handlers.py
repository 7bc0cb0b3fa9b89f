"""What a server asks a logger about its handlers."""

from tests.programs import script

HAS_HANDLERS = """
import logging
from otel_logging import configure_logging, setup_observability
access = logging.getLogger("uvicorn.access")
assert not access.hasHandlers()
configure_logging()
assert access.hasHandlers()
access.propagate = False
assert not access.hasHandlers()
access.addHandler(logging.NullHandler())
assert access.hasHandlers()
access.handlers, access.propagate = [], True
setup_observability("shop", takeover=False)
assert not access.hasHandlers()
"""


def test_a_logger_that_leads_to_the_root_has_a_handler() -> None:
    """uvicorn asks, and makes access lines; after ``--no-access-log`` the answer is Python's."""
    script(HAS_HANDLERS, ENVIRONMENT="test")
