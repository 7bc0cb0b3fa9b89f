"""Programs whose threads are greenlets: those of gevent and eventlet."""

import json
from dataclasses import dataclass
from typing import Any, Final

from tests.programs import child_environment, python

LIBRARIES: Final = ("gevent", "eventlet")

_BEGIN: Final = """
import gc, json, os, signal, sys, time, warnings
warnings.simplefilter("ignore")
LIBRARY = sys.argv[1]
result = {}

def patch():
    global spawn, sleep, join, in_hub
    if LIBRARY == "gevent":
        from gevent import monkey
        monkey.patch_all()
        import gevent
        spawn, sleep, join = gevent.spawn, gevent.sleep, gevent.joinall
        in_hub = lambda call: gevent.get_hub().loop.run_callback(call)
    else:
        import eventlet, eventlet.hubs
        eventlet.monkey_patch()
        spawn, sleep = eventlet.spawn, eventlet.sleep
        join = lambda started: [one.wait() for one in started]
        in_hub = lambda call: eventlet.hubs.get_hub().schedule_call_global(0, call)

def setup(**more):
    global handle
    from otel_logging import setup_observability
    settings = {"endpoint": sys.argv[2], "spool_dir": sys.argv[3], "environment": "production"}
    handle = setup_observability("green", **settings | more)

def end(name):
    from otel_logging import traced
    with traced(name, root=True):
        pass
"""
_END: Final = """
print(json.dumps(result), file=sys.stderr)
"""


@dataclass(frozen=True)
class Done:
    """What a program left: stdout, its result, and what else was on stderr."""

    out: bytes
    result: dict[str, Any]
    err: str


def run(library: str, code: str, *arguments: object, **variables: str) -> Done:
    """Run *code* to its good end: ``patch()`` replaces, ``setup()`` sets up, ``result`` is kept."""
    program = ("-c", _BEGIN + code + _END, library)
    anew = False if code.lstrip().startswith("setup()") else None
    ran = python(*program, *arguments, env=child_environment(**variables), text=False, anew=anew)
    err = ran.stderr.decode()
    assert ran.returncode == 0, err
    said, _, rest = err.rpartition("{")
    result, _, after = rest.partition("\n")
    return Done(ran.stdout, json.loads("{" + result), said + after)
