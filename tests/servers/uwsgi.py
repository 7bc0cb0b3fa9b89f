"""A WSGI application as uWSGI loads it: set up in the master, before it forks."""

import os
from collections.abc import Callable, Iterable
from typing import Any

from otel_logging import get_logger, setup_observability, traced

setup_observability("shop")
_log = get_logger("shop")


def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    """Answer with the id of the worker."""
    with traced("request", root=True, number=environ["PATH_INFO"]):
        _log.info("asked")
    start_response("200 OK", [])
    return [str(os.getpid()).encode()]
