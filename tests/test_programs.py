"""The tests' child processes: one that is forked is as one that is started."""

import os
import sys
from subprocess import DEVNULL, PIPE
from typing import Any

import pytest

from tests.programs import MODULE, child_environment, end, good, python, start

PROGRAMS = {
    "what it is given": (
        "import sys; print(sys.argv, sys.path, sys.orig_argv[-2:], __name__, dir())\n"
        "import os; os.environ.pop('_', 0); print(sorted(os.environ.items()))\n"
        "print(os.listdir('/proc/self/fd'))\n"
        "print(os.getpid() == os.getsid(0), os.getcwd())"
    ),
    "streams": "import sys; print(input()); print(sys.stdout, sys.stdout.seekable(), sys.stderr)",
    "an exception": "def fail():\n    1 / 0\nfail()",
    "an exit code": "raise SystemExit(5)",
    "a reason": "raise SystemExit('why')",
    "Ctrl-C": "raise KeyboardInterrupt",
    "a signal": "import os; os.kill(os.getpid(), 9)",
    "the end": (
        "import atexit, threading, time\n"
        "atexit.register(print, 'after the thread')\n"
        "threading.Thread(target=lambda: time.sleep(0.05) or print('in a thread')).start()\n"
        "print('main')"
    ),
    "what is written at its end": (
        "import io, otel_logging, sys\n"
        "otel_logging.configure_logging(environment='production')\n"
        "sys.stdout = io.StringIO()\n"
        "otel_logging.get_logger('shop').info('line')\n"
        "sys.__stdout__.write('kept')"
    ),
    "a warning": "import warnings; warnings.warn('told')",
}


@pytest.mark.skipif(sys.platform != "linux", reason="all are started")
@pytest.mark.parametrize(
    ("program", "options", "warnings"),
    [(program, (), "") for program in PROGRAMS]
    + [(name, ("-X", "dev"), "") for name in ("what it is given", "an exception", "a warning")]
    + [("a warning", (), "ignore"), ("a warning", (), "error")],
)
def test_a_forked_process_is_as_one_that_is_started(
    program: str,
    options: tuple[str, ...],
    warnings: str,
    tmp_path: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What it has, what it says, and how it ends."""
    monkeypatch.chdir(tmp_path)
    # what measures coverage keeps the streams, and loses what is in them at the end
    for name in [each for each in os.environ if each.startswith(("COVERAGE_", "PYTHONUNB"))]:
        monkeypatch.delenv(name)
    command = (sys.executable, *options, "-c", PROGRAMS[program], "an argument")
    env = child_environment(PYTHONWARNINGS=warnings)
    popen: dict[str, Any] = {"stdin": PIPE, "start_new_session": True, "env": env}
    forked, started = (
        end(start(*command, anew=anew, **popen), "given\n") for anew in (False, True)
    )
    assert forked.returncode == started.returncode
    assert (forked.stdout, forked.stderr) == (started.stdout, started.stderr)


@pytest.mark.skipif(sys.platform != "linux", reason="all are started")
def test_a_forked_process_writes_a_file_as_one_that_is_started(tmp_path: Any) -> None:
    """Its streams know where they stand in it, and write at its end."""
    code = "import sys; print(sys.stdout.tell(), sys.stderr.seekable(), sys.stdin.read())"
    said = []
    for anew in (False, True):
        with (path := tmp_path / f"{anew}").open("w+") as file:
            print("before", file=file, flush=True)
            good(python("-c", code, stdin=DEVNULL, stdout=file, stderr=file, anew=anew))
        said.append(path.read_text())
    assert said == ["before\n7 True \n"] * 2


@pytest.mark.skipif(sys.platform != "linux", reason="all are started")
def test_a_module_is_run_as_python_runs_it(tmp_path: Any) -> None:
    (tmp_path / "shop.py").write_text(
        "import sys; print(sys.argv, sys.path, __spec__.name, __file__)"
    )
    forked, started = (
        end(start(*MODULE, "shop", "-c", cwd=tmp_path, anew=anew)) for anew in (False, True)
    )
    assert (forked.stdout, forked.stderr) == (started.stdout, started.stderr)
    assert "shop.py', '-c'" in forked.stdout


@pytest.mark.skipif(sys.platform != "linux", reason="all are started")
def test_a_forked_process_has_imported_what_a_set_up_imports_and_no_more(tmp_path: Any) -> None:
    """Whether a library is imported before or after the set-up is its script's to say."""
    imported = "import sys; print(*sys.modules)"
    set_up = "import otel_logging; otel_logging.setup_observability('shop'); " + imported
    variables = child_environment(ENVIRONMENT="production", OTEL_LOGGING_SPOOL_DIR=str(tmp_path))
    started = good(python("-c", set_up, env=variables, anew=True)).stdout.split()
    forked = good(python("-c", imported)).stdout.split()
    of_forking = {"ctypes", "ctypes._endian", "_ctypes", "tests", "tests.forking"}
    assert set(forked) - set(started) == of_forking - set(started)
