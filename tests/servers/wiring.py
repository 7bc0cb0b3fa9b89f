"""What the applications here have in common: their set-up, and what they do in a request.

STEPS in the environment is what happens, in that order, when the module of the
application is imported; default: ``setup``. There is no stage and no middleware but what set-up
makes. Some requests raise, some stream their body.
"""

import logging
import logging.config
import os
import time
from collections.abc import Iterator

from otel_logging import bind_context, get_logger, setup_observability

#: How the paths end of requests that raise: in an endpoint, and outside of the framework.
FAILING = ("/fail", "/raise")

_FORMATTED = {"class": "logging.StreamHandler", "formatter": "own"}
_CONSOLES = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"own": {"format": "OWN %(name)s %(message)s"}},
    "handlers": {
        "out": {**_FORMATTED, "stream": "ext://sys.stdout"},
        "err": {**_FORMATTED, "stream": "ext://sys.stderr"},
    },
    "root": {"level": "INFO", "handlers": ["out", "err"]},
    "loggers": {
        name: {"level": "INFO", "handlers": ["out"], "propagate": False}
        for name in ("shop", "uvicorn.access", "gunicorn.error", "werkzeug", "hypercorn.error")
    },
}
_STEPS = {
    "setup": lambda: setup_observability("shop"),
    "basicConfig": lambda: logging.basicConfig(level=logging.INFO),
    "dictConfig": lambda: logging.config.dictConfig(_CONSOLES),
}


def wire() -> None:
    for step in os.environ.get("STEPS", "setup").split():
        _STEPS[step]()


def user_of(path: str) -> str:
    return f"user of {path}"


def endpoint(path: str) -> str:
    bind_context(user_id=user_of(path))
    logging.getLogger("shop.plain").info("plain %s", path)
    get_logger("shop").info("structured", path=path)
    if path.endswith("/slow"):
        time.sleep(0.8)
    if path.endswith(FAILING):
        raise RuntimeError(f"cannot do {path}")
    return "done"


def pieces(path: str) -> Iterator[str]:
    """Yield a body piece by piece, and tell of each, and of the end."""
    try:
        for number in range(1_000 if "endless" in path else 2):
            get_logger("shop").info("piece", path=path, number=number)
            yield "x" * (200_000 if "endless" in path else 2_000)
    finally:
        get_logger("shop").info("body closed", path=path)


def torn_down(path: str) -> None:
    """What an application's own hook says, after the answer."""
    get_logger("shop").info("torn down", path=path)
