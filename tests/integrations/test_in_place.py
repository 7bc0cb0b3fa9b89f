"""When an integration is in place: whatever comes first, and not where it was not asked for."""

import zipfile
from pathlib import Path
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from otel_logging import ConfigurationError, setup_observability
from otel_logging.integrations import asgi
from otel_logging.testing import capture
from tests.integrations.serving import WEBSOCKETS, Seen, running
from tests.lines import parsed
from tests.programs import script

_CALL = """
import asyncio

def call(app, path="/orders/7", **scope):
    sent = []

    async def receive():
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(event):
        sent.append(event)

    scope |= {"type": "http", "method": "GET", "path": path, "headers": [], "query_string": b""}
    asyncio.run(app(scope, receive, send))
    return dict(sent[0]["headers"])
"""
_MAKE = {
    "starlette": (
        "from starlette.requests import Request\n"
        "from starlette.applications import Starlette\n"
        "from starlette.routing import Route\n"
        "from starlette.responses import PlainTextResponse\n"
        "async def order(request: Request):\n"
        '    get_logger("shop").info("order read")\n'
        '    return PlainTextResponse("ok")\n'
        'app = Starlette(routes=[Route("/orders/{id}", order)])\n'
    ),
    "fastapi": (
        "from fastapi import FastAPI\n"
        "app = FastAPI()\n"
        '@app.get("/orders/{id}")\n'
        "async def order(id: int):\n"
        '    get_logger("shop").info("order read")\n'
        '    return "ok"\n'
    ),
}
_LOGGER = "from otel_logging import get_logger, setup_observability\n"


def said(code: str, **variables: str) -> list[dict[str, Any]]:
    done = script(
        _CALL + _LOGGER + code,
        ENVIRONMENT="production",
        OTEL_TRACES_EXPORTER="otlp",
        OTEL_EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:9",
        **variables,
    )
    return [line for line in parsed(done.stdout) if line["logger"] == "shop"]


@pytest.mark.parametrize("is_first", [True, False], ids=["set-up first", "application first"])
def test_an_application_is_observed_whether_made_before_or_after_set_up(
    is_first: bool, tmp_path: Any
) -> None:
    code = ""
    for made in reversed(_MAKE.values()) if is_first else _MAKE.values():
        setup = 'service = setup_observability("shop")\n'
        code += setup + made if is_first else made + setup
        code += 'assert b"x-trace-id" in call(app)\nservice.shutdown()\n'
    lines = said(code, OTEL_LOGGING_SPOOL_DIR=str(tmp_path))
    assert [bool(line["trace_id"]) for line in lines] == [True] * len(_MAKE)


@pytest.mark.parametrize("framework", _MAKE)
def test_nothing_is_observed_that_was_not_asked_for(framework: str, tmp_path: Any) -> None:
    """By the argument, by the variable, and after shutdown."""
    off = 'assert b"x-trace-id" not in call(app)\n'
    by_argument, by_variable, after = said(
        f"import os\n{_MAKE[framework]}"
        f'service = setup_observability("shop", instrument=())\n{off}service.shutdown()\n'
        'os.environ["OTEL_LOGGING_INSTRUMENT"] = "none"\n'
        f'service = setup_observability("shop")\n{off}service.shutdown()\n'
        'del os.environ["OTEL_LOGGING_INSTRUMENT"]\n'
        f'setup_observability("shop").shutdown()\n{off}',
        OTEL_LOGGING_SPOOL_DIR=str(tmp_path),
    )
    assert framework == "fastapi" or "trace_id" not in by_argument
    assert "trace_id" not in after
    assert by_variable["event"] == "order read"


def test_one_application_may_be_given_by_hand(tmp_path: Any) -> None:
    code = (
        _MAKE["starlette"]
        + "from otel_logging.integrations.asgi import instrument\n"
        + 'other = Starlette(routes=[Route("/orders/{id}", order)])\n'
        + 'setup_observability("shop", instrument=())\n'
        + "assert instrument(app) is app\n"
        + 'assert b"x-trace-id" in call(app)\n'
        + 'assert b"x-trace-id" not in call(other)\n'
        + "async def plain(scope, receive, send):\n"
        + "    await other(scope, receive, send)\n"
        + 'assert b"x-trace-id" in call(instrument(plain, quiet=["/quiet"]))\n'
        + 'assert b"x-trace-id" not in call(instrument(plain, quiet=["/orders/7"]))\n'
        + "class Passing:  # around it, with its attributes\n"
        + "    __call__ = staticmethod(plain)\n"
        + "    def __getattr__(self, name):\n"
        + "        return getattr(other, name)\n"
        + 'assert b"x-trace-id" in call(instrument(Passing()))\n'
    )
    assert len(said(code, OTEL_LOGGING_SPOOL_DIR=str(tmp_path))) == 5


def test_what_a_server_serves_already_is_left_alone_as_well() -> None:
    """But for what was given by hand."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await PlainTextResponse("ok")(scope, receive, send)

    given = Starlette(routes=[Route("/", app)])
    asgi.instrument()
    asgi.instrument(given)
    bare = running(app, WEBSOCKETS[-1], lifespan="off")
    with capture() as captured, bare as port, running(given, WEBSOCKETS[-1]) as other:
        seen = [Seen(captured, each) for each in (port, other)]
        assert ["x-trace-id" in each.ask("/")[1] for each in seen] == [True, True]
        asgi.uninstrument()
        assert ["x-trace-id" in each.ask("/")[1] for each in seen] == [False, True]


def test_no_library_is_imported_for_it() -> None:
    script(
        "import sys\n"
        "from otel_logging import setup_observability\n"
        'setup_observability("shop")\n'
        'assert not {"starlette", "fastapi", "uvicorn", "hypercorn"} & set(sys.modules)\n'
        'assert "otel_logging.integrations.asgi" not in sys.modules\n',
        ENVIRONMENT="test",
    )


_SERVE = """
import asyncio, uvicorn
from starlette.applications import Starlette

async def main():
    server = uvicorn.Server(uvicorn.Config(Starlette(), port=0, log_config=None))
    serving = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.01)
    server.should_exit = True
    await serving

asyncio.run(main())
"""


def test_uvicorn_ends_as_usual_where_there_is_no_tracing(tmp_path: Path) -> None:
    variables = {"OTEL_TRACES_EXPORTER": "none", "OTEL_LOGGING_SPOOL_DIR": str(tmp_path)}
    done = script(_LOGGER + 'setup_observability("shop")\n' + _SERVE, **variables)
    assert done.stderr == b""


def test_libraries_that_are_imported_after_set_up_are_whole_when_they_are_observed() -> None:
    """Whichever module of theirs is looked at: none is left out."""
    done = script(
        "import importlib\n"
        "from otel_logging import _names, setup_observability\n"
        'setup_observability("shop")\n'
        "for libraries in _names.INTEGRATIONS.values():\n"
        "    for library in libraries:\n"
        "        try:\n"
        "            importlib.import_module(library)\n"
        "        except ImportError:\n"
        "            pass\n",
        ENVIRONMENT="test",
    )
    assert b"left out" not in done.stderr
    assert done.returncode == 0


def test_an_integration_that_fails_is_reported_and_left_out() -> None:
    """A library whose names have changed is no reason for an application not to start."""
    done = script(
        "import sys, types\n"
        "from otel_logging import setup_observability\n"
        'setup_observability("shop")\n'
        'sys.modules["hypercorn.app_wrappers"] = types.ModuleType("hypercorn.app_wrappers")\n'
        "import uvicorn\n",
        ENVIRONMENT="test",
    )
    assert b"the integration asgi is left out" in done.stderr


@pytest.mark.parametrize("given", ["flask?", ["asgi", 3], 7, "asgi,none"])
def test_a_name_that_is_unknown_is_an_error(given: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"instrument.*auto"):
        setup_observability("shop", instrument=given)


def test_opentelemetry_s_own_instrumentation_has_the_request(tmp_path: Any) -> None:
    """Around the application or inside it; then there is one server span, and it is not ours."""
    contrib = "from opentelemetry.instrumentation.asgi import OpenTelemetryMiddleware\n"
    setup = 'setup_observability("shop")\n'
    for wrapped in ("OpenTelemetryMiddleware(app)", "app"):
        inside = "app.add_middleware(OpenTelemetryMiddleware)\n" if wrapped == "app" else ""
        code = contrib + _MAKE["starlette"] + inside + setup
        code += f'assert b"x-trace-id" not in call({wrapped}, server=("shop", 80), scheme="http")\n'
        (line,) = said(code, OTEL_LOGGING_SPOOL_DIR=str(tmp_path))
        assert line["trace_id"]


_WITHOUT_SET_UP = """
import asyncio
import celery, fakeredis, rq, socketio, starlette.applications
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from otel_logging import bind_context, configure_logging, get_logger
from otel_logging.context import bound
from starlette.background import BackgroundTask

memory = InMemorySpanExporter()
trace.set_tracer_provider(TracerProvider())
trace.get_tracer_provider().add_span_processor(SimpleSpanProcessor(memory))
configure_logging()
shop = celery.Celery("shop", broker="memory://")
queue = rq.Queue(connection=fakeredis.FakeStrictRedis())
queue.enqueue("otel_logging.bind_context", user_id="bob")
worker = rq.SimpleWorker([queue], connection=queue.connection)
sockets = socketio.Server(async_mode="threading")

def work(*_):
    bind_context(user_id="bob")
    get_logger("shop").info("worked")

sockets.on("say")(work)
begin = {
    "celery": shop.task(work).apply,
    "rq": lambda: worker.work(burst=True),
    "socketio": lambda: sockets._trigger_event("say", "/", "sid", {}),
    "background": lambda: asyncio.run(BackgroundTask(work)()),
}
for name, each in begin.items():
    with trace.get_tracer("shop").start_as_current_span(name):
        each()
    assert not bound(), name
for span in memory.get_finished_spans():
    lines = [event.name for event in span.events if event.name == "worked"]
    print(span.name, span.attributes.get("user_id"), *lines)
"""


def test_with_logging_alone_no_integration_makes_spans_in_another_sdk() -> None:
    """The application's own span has what is bound and logged in it."""
    done = script(_WITHOUT_SET_UP, ENVIRONMENT="production")
    said = [line for line in done.stdout.decode().splitlines() if not line.startswith("{")]
    worked = ["socketio bob worked", "background bob worked"]
    assert said == ["celery bob worked", "rq bob", *worked]


def test_the_finder_is_gone_after_shutdown() -> None:
    script(
        "import sys\n"
        "from otel_logging import setup_observability\n"
        'setup_observability("shop").shutdown()\n'  # imports what may add a finder of its own
        "before = list(sys.meta_path)\n"
        'service = setup_observability("shop")\n'
        "assert sys.meta_path != before\n"
        "service.shutdown()\n"
        "assert sys.meta_path == before\n",
        ENVIRONMENT="test",
    )


def test_a_library_that_is_not_installed_is_not_found_as_ever() -> None:
    script(
        "from otel_logging import setup_observability\n"
        'setup_observability("shop")\n'
        "try:\n"
        "    import cassandra\n"
        "except ModuleNotFoundError as error:\n"
        '    assert error.name == "cassandra"\n'
        "else:\n"
        "    raise AssertionError\n",
        ENVIRONMENT="test",
    )


_IMPORTS = """
import copy, importlib, importlib.util, sys
from otel_logging import setup_observability
service = setup_observability("shop")
is_on = lambda: "opentelemetry.instrumentation.requests" in sys.modules
sys.path.insert(0, PLACE)
"""


@pytest.mark.parametrize(
    ("files", "code"),
    [
        pytest.param(
            {"cassandra/cassandra.conf": ""},
            "import cassandra\nassert cassandra.__file__ is None\n",
            id="a folder without __init__.py",
        ),
        pytest.param(
            {"cassandra.py": "import requests\nraise ImportError"},
            "try:\n    import cassandra\nexcept ImportError:\n    pass\n"
            'assert is_on()\nassert "cassandra" not in sys.modules\n',
            id="one that fails when it has imported another one",
        ),
        pytest.param(
            {"cassandra.py": "import sys\nif hasattr(sys, 'again'): raise ImportError"},
            "import cassandra\nsys.again = True\n"
            "try:\n    importlib.reload(cassandra)\nexcept ImportError:\n    pass\n"
            'assert sys.modules["cassandra"] is cassandra\n'
            "del sys.again\nassert importlib.reload(cassandra) is cassandra\n"
            "assert cassandra.__spec__.loader is cassandra.__loader__\n"
            "assert type(cassandra.__loader__).__module__ == '_frozen_importlib_external'\n",
            id="a reload that fails, and one that does not",
        ),
        pytest.param(
            {},
            'spec = importlib.util.find_spec("requests")\n'
            'assert copy.copy(spec.loader).get_filename("requests") == spec.origin\n'
            "spec.loader = importlib.util.LazyLoader(spec.loader)\n"
            "sys.modules[spec.name] = requests = importlib.util.module_from_spec(spec)\n"
            "spec.loader.exec_module(requests)\n"
            "assert not is_on()\nassert requests.get\nassert is_on()\n",
            id="a lazy loader",
        ),
        pytest.param(
            {},
            'spec = importlib.util.find_spec("requests")\n'
            "sys.modules[spec.name] = requests = importlib.util.module_from_spec(spec)\n"
            "service.shutdown()\nspec.loader.exec_module(requests)\nassert not is_on()\n",
            id="one that is found before shutdown and executed after it",
        ),
    ],
)
def test_a_library_is_imported_as_without_set_up(
    files: dict[str, str], code: str, tmp_path: Path
) -> None:
    """And it is observed, if it is the library and tracing is on."""
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    code = _IMPORTS.replace("PLACE", repr(str(tmp_path))) + code
    assert script(code, ENVIRONMENT="test").stderr == b""


def test_a_library_in_a_zip_file_leaves_its_neighbours_alone(tmp_path: Path) -> None:
    """One loader has all modules of the file."""
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as file:
        file.writestr("cassandra.py", "")
        file.writestr("neighbour.py", "")
    script(
        _IMPORTS.replace("PLACE", repr(str(tmp_path / "all.zip")))
        + "import cassandra, neighbour\n"
        + "assert cassandra.__loader__ is neighbour.__loader__ is cassandra.__spec__.loader\n"
        + 'assert "exec_module" not in vars(neighbour.__loader__)\n',
        ENVIRONMENT="test",
    )
