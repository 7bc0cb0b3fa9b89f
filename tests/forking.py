"""A process that has imported what each script imports, and forks itself for each.

In: over a socket, what to run, and its stdin, stdout and stderr. Out: a process as ``python -c``
and ``python -m`` make it, at a fifth of what the imports cost; its id, and how it ended.
``tests/programs.py`` decides which commands come here.
"""

import atexit
import ctypes
import gc
import io
import linecache
import os
import pickle
import select
import signal
import socket
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

IMPORTED = """
import asyncio, concurrent.futures.thread, otel_logging, structlog
import opentelemetry.propagate
import otel_logging.assembly, otel_logging.export.http
import otel_logging.export.provider, otel_logging.integrations.executors
"""


def serve() -> None:
    """Fork for each request on the socket that is stdin; return in the child when its script has
    ended well, and in the parent when nobody asks any more.
    """
    exec(IMPORTED, {})
    # no collection of a child, and three are at its end, copies all that is imported here
    gc.collect()
    gc.freeze()
    asked = socket.socket(fileno=os.dup(0))
    running: dict[int, tuple[int, int]] = {}
    while True:
        ready = select.select([asked, *running], [], [])[0]
        for ended in ready:
            if ended in running:
                process_id, teller = running.pop(ended)
                os.write(teller, os.waitpid(process_id, 0)[1].to_bytes(4, "big"))
                os.close(teller)
                os.close(ended)
        if asked in ready:
            message, descriptors, *_ = socket.recv_fds(asked, 1 << 20, 4)
            if not message:
                asked.close()
                return
            process_id = os.fork()
            if process_id == 0:
                asked.detach()
                _become(descriptors, **pickle.loads(message))
                return
            *streams, teller = descriptors
            os.write(teller, process_id.to_bytes(4, "big"))
            for stream in streams:
                os.close(stream)
            running[os.pidfd_open(process_id)] = process_id, teller


def _become(
    descriptors: list[int],
    *,
    command: list[str],
    environment: dict[str, str],
    directory: str,
    leads_session: bool,
) -> None:
    """Be the process of *command*, as Python's own start of it leaves it."""
    for number in range(3):
        os.dup2(descriptors[number], number)
    os.closerange(3, os.sysconf("SC_OPEN_MAX"))
    if leads_session:
        os.setsid()
    os.chdir(directory)
    os.environ.clear()
    os.environ.update(environment)
    time.tzset()
    for number, name in ((1, "stdout"), (2, "stderr")):
        _open(number, name)
    atexit.register(_write_what_is_left)
    sys.orig_argv[sys.orig_argv.index("-c") :] = command
    what, name, *arguments = command
    sys.argv[:] = [what, *arguments]
    if what == "-m":
        sys.path[0] = str(Path.cwd())
        name = f"import runpy; runpy._run_module_as_main({name!r})"
    _run(name)


def _open(number: int, name: str) -> None:
    """Make *name* of ``sys`` as Python's start does: whether it can be told its place, and what
    that is, depends on the file.
    """
    before = getattr(sys, name)
    binary: Any = open(  # noqa: SIM115
        number, "wb", 0 if before.write_through else -1, closefd=False
    )
    getattr(binary, "raw", binary).name = f"<{name}>"
    text: Any = io.TextIOWrapper(
        *(binary, before.encoding, before.errors, "\n"),
        line_buffering=before.line_buffering,
        write_through=before.write_through,
    )
    text.mode = "w"
    setattr(sys, name, text)
    setattr(sys, f"__{name}__", text)


def _write_what_is_left() -> None:
    """Do what the end of stdout does, which is none where what is frozen knows it."""
    with suppress(OSError, ValueError):
        sys.__stdout__.flush()


def _run(code: str) -> None:
    """Run *code* as ``python -c`` does: an exception's traceback begins in it."""
    main: Any = sys.modules["__main__"]
    for name in [name for name in vars(main) if not name.startswith("__")]:
        delattr(main, name)
    if hasattr(linecache, "_interactive_cache"):  # from Python 3.13 on tracebacks show this code
        linecache._register_code(compile(code, "<string>", "exec"), code, "<string>")
    elif "<string>" in linecache.cache:
        linecache.cache["<string>"] = len(code), None, code.splitlines(keepends=True), "<string>"
    if ctypes.pythonapi.PyRun_SimpleStringFlags(code.encode(), None) == 0:
        return
    if getattr(sys, "last_type", None) is KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        sys.excepthook = lambda *_: None
        raise KeyboardInterrupt
    sys.exit(1)
