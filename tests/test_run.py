"""``otel-logging run COMMAND``: a program that knows nothing of the package is set up."""

import json
import os
import sys
from pathlib import Path

import pytest

import otel_logging.run
from otel_logging import run
from otel_logging.run import service_of
from tests.programs import child_environment, python
from tests.receiver import Receiver

APPLICATION = """
import logging, sys
logging.getLogger("shop").info("paid %s", 3)
print(sys.argv[1:])
"""
COMMAND = "from otel_logging.cli import main; main()"


@pytest.mark.parametrize(
    ("command", "service"),
    [
        ("uvicorn app:app", "app"),
        ("uvicorn --port 80 shop.web:create() --factory", "shop.web"),
        ("gunicorn -w 2 shop.wsgi:application", "shop.wsgi"),
        ("flask --app hello run", "hello"),
        ("flask --app hello:create run", "hello"),
        ("celery -A proj worker", "proj"),
        ("python worker.py", "worker"),
        ("python -m shop.worker", "shop.worker"),
        ("python -m uvicorn app:app", "app"),
        ("python -m uvicorn shop.app:app --port 8000", "shop.app"),
        ("python -m flask --app shop run", "shop"),
        ("python -m celery -A shop worker", "shop"),
        ("gunicorn --bind localhost:8000 shop.wsgi:app", "shop.wsgi"),
        ("python jobs/nightly.py --fast", "nightly"),
        ("/usr/bin/my-server --port 80", "my-server"),
    ],
)
def test_a_service_is_called_after_its_application(command: str, service: str) -> None:
    assert service_of(command.split()) == service


def test_a_program_is_set_up_with_no_line_of_code(tmp_path: Path, receiver: Receiver) -> None:
    """Its own sitecustomize is imported too; its arguments and exit code are its own."""
    (tmp_path / "app.py").write_text(APPLICATION + "sys.exit(7)\n", "utf-8")
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text("print('theirs', flush=True)\n", "utf-8")
    variables = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.endpoint,
        "OTEL_LOGGING_SPOOL_DIR": str(tmp_path / "spool"),
        "ENVIRONMENT": "production",
    }
    environment = child_environment(**variables)
    environment["PYTHONPATH"] += f":{tmp_path / 'site'}"
    done = python(
        *("-c", COMMAND, "run", "--service", "till", sys.executable, "app.py", "--x"),
        env=environment,
        cwd=tmp_path,
    )
    assert (done.returncode, done.stderr) == (7, "")
    _, first, line, last = done.stdout.splitlines()  # the first is of the command itself
    assert (first, last) == ("theirs", "['--x']")
    assert json.loads(line)["event"] == "paid 3"
    (span,) = receiver.spans
    assert span.resource["service.name"] == "till"


INSTALLED = """
import logging
import time
import shoplib
from otel_logging import traced
def main():
    logging.getLogger(__name__).info("paid")
    logging.getLogger("shoplib").info("a library's")
    try:
        shoplib.fail()
    except ValueError:
        logging.getLogger("shopapp.worker").exception("not paid")
    with traced("waits", budget=0.05):
        time.sleep(0.1)
"""
SITE = {
    "shopapp/__init__.py": "",
    "shopapp/worker.py": INSTALLED + "if __name__ == '__main__': main()\n",
    "shoplib.py": "def fail(): raise ValueError('v')\n",
    "shopapp-1.dist-info/METADATA": "Name: shopapp\nVersion: 1\n",
    "shopapp-1.dist-info/entry_points.txt": "[console_scripts]\nshop-work = shopapp.worker:main\n",
    "bin/shop-work": f"#!{sys.executable}\nfrom shopapp.worker import main\nmain()\n",
}
#: Set up outside the package, as in a wsgi.py; by a process that spawn starts.
OUTSIDE = """
from otel_logging import configure_logging
from shopapp.worker import main
configure_logging()
main()
"""
SPAWNS = "from multiprocessing import get_context as c; from shopapp.worker import main; "
SPAWNS += "p = c('spawn').Process(target=main); p.start(); p.join()"


@pytest.mark.parametrize(
    ("command", "named"),
    [
        (("-c", COMMAND, "run", sys.executable, "-m", "shopapp.worker"), ""),
        (("-c", COMMAND, "run", "--service", "till", "shop-work"), ""),
        (("-c", COMMAND, "run", "--service", "till", sys.executable, "-c", SPAWNS), "shopapp"),
        (("-c", COMMAND, "run", sys.executable, "-c", SPAWNS, "shopapp:main"), ""),
        (("-c", OUTSIDE), "other, shopapp.worker"),
    ],
    ids=["a module", "its command", "named", "spawned", "set up outside"],
)
def test_an_installed_package_is_the_application(
    command: tuple[str, ...], named: str, tmp_path: Path
) -> None:
    """Where it is what is started, or named: its lines are shown, where it failed and stood."""
    site = tmp_path / "site-packages"
    for name, text in SITE.items():
        (site / name).parent.mkdir(parents=True, exist_ok=True)
        (site / name).write_text(text, "utf-8")
    (site / "bin" / "shop-work").chmod(0o755)
    environment = child_environment(
        OTEL_LOGGING_SPOOL_DIR=str(tmp_path / "spool"),
        OTEL_LOGGING_APPLICATION=named,
        ENVIRONMENT="production",
    )
    environment["PYTHONPATH"] += f":{site}"
    environment["PATH"] = f"{site / 'bin'}:{environment['PATH']}"
    done = python(*command, env=environment, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    paid, failed, *late = [json.loads(x) for x in done.stdout.splitlines() if x[:1] == "{"]
    assert (paid["event"], failed["event"]) == ("paid", "not paid")
    assert failed["exception.where"].endswith("worker.py:10 in main")
    stood = [] if OUTSIDE in command else ["main (worker.py:14)"]  # that one has no tracing
    assert [line["late.detail"] for line in late] == stood


def test_what_a_set_up_refuses_and_what_cannot_be_started_is_an_error(tmp_path: Path) -> None:
    for variables, command, wrong in (
        ({"LOG_LEVEL": "loud"}, "python", "LOG_LEVEL"),
        ({}, "no-such-program", "Error: no-such-program is not started: No such file"),
    ):
        environment = child_environment(OTEL_LOGGING_SPOOL_DIR=str(tmp_path), **variables)
        done = python("-c", COMMAND, "run", command, env=environment, cwd=tmp_path)
        assert (done.returncode, done.stdout) == (1, "")
        assert wrong in done.stderr
        assert "Traceback" not in done.stderr


def test_a_python_without_the_package_says_so() -> None:
    """A child of another environment inherits PYTHONPATH; it runs, and is not set up."""
    place = str(Path(otel_logging.run.__file__).with_name("sitecustomize.py"))
    code = "import runpy, sys; sys.modules['otel_logging'] = None; runpy.run_path(sys.argv[1])"
    done = python("-c", code, place, env=child_environment())
    assert (done.returncode, done.stdout) == (0, "")
    assert f"otel_logging: not set up in {sys.executable}: " in done.stderr


def test_a_service_that_has_a_name_keeps_it(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[tuple[str, list[str], dict[str, str]]] = []
    monkeypatch.setattr(os, "execvpe", lambda *given: started.append(given))
    for name in ("till", ""):
        monkeypatch.setenv("OTEL_SERVICE_NAME", name)
        run.replace_process(["python", "app.py"], None)
    assert [environment["OTEL_SERVICE_NAME"] for _, _, environment in started] == ["till", "app"]
