"""uWSGI, whose workers are forked in C: what they end arrives while they run, each once."""

import os
import signal
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.lines import ROOT, parsed
from tests.programs import Program
from tests.receiver import Receiver
from tests.servers.page import table
from tests.servers.running import get
from tests.test_delivery import free_port

pytestmark = pytest.mark.skipif(os.name != "posix", reason="uWSGI is for POSIX")

REQUESTS = 30


def test_uwsgi_delivers_spans_as_the_page_says(tmp_path: Path) -> None:
    """The page says how it is started, and when spans arrive. All at once: each waits for long."""
    rows = table("started by")
    with ExitStack() as receivers, ThreadPoolExecutor() as servers:
        started = [(row, receivers.enter_context(Receiver()), tmp_path) for row in rows]
        list(servers.map(lambda each: _serve(*each), started))


def _serve(row: tuple[str, ...], receiver: Receiver, directory: Path) -> None:
    program, *options = row[0].strip("`").replace("app:app", "tests.servers.uwsgi:app").split()
    port = free_port()
    command = [Path(sys.executable).with_name(program), *options]
    command += ["--http-socket", f"127.0.0.1:{port}", "--need-app", "--die-on-term"]
    variables = {
        "ENVIRONMENT": "production",
        "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.endpoint,
        "OTEL_LOGGING_SPOOL_DIR": str(directory / f"spool {receiver.port}"),
        # it embeds an interpreter, which knows nothing of the virtual environment
        "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path[1:]]),
    }
    with Program(command, cwd=directory, **variables) as server:
        with ThreadPoolExecutor(4) as users:
            statuses = list(users.map(lambda n: get(port, f"/{n}"), range(REQUESTS)))
        assert statuses == [200] * REQUESTS
        assert row[1] == "while it runs"
        receiver.wait_for(lambda r: len(r.spans) >= REQUESTS, 30)
        assert server.process.poll() is None
        server.stop(signal.SIGTERM)
    said = server.said().splitlines(keepends=True)
    assert not [line for line in said if line.startswith("otel_logging")]
    assert sorted(str(span.attributes["number"]) for span in receiver.spans) == sorted(
        f"/{n}" for n in range(REQUESTS)
    )
    assert len({span.trace_id for span in receiver.spans}) == REQUESTS
    assert len(parsed("".join(line for line in said if line.startswith("{")))) == REQUESTS
