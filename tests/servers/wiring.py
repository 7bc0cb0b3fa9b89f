"""What the applications here have in common: their set-up, and what they do in a request.

STEPS in the environment is what happens, in that order, when the module of the
application is imported; default: ``setup``. WSGI: a request under ``/around`` has its
stage around all of the application, one under ``/inside`` in its endpoint alone. ASGI: there
is no stage but what set-up makes. Some requests raise.
"""

import logging
import logging.config
import os
import time
from contextlib import nullcontext

from otel_logging import bind_context, get_logger, setup_observability, traced

#: How the paths end of requests that raise.
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


def endpoint(path: str, *, is_staged: bool = True) -> str:
    is_staged = is_staged and path.startswith("/inside")
    with traced("request", root=True) if is_staged else nullcontext():
        bind_context(user_id=user_of(path))
        logging.getLogger("shop.plain").info("plain %s", path)
        get_logger("shop").info("structured", path=path)
        if path.endswith("/slow"):
            time.sleep(1.5)
        if path.endswith(FAILING):
            raise RuntimeError(f"cannot do {path}")
        return "done"
