"""stdout in every state: a line or a counted loss, never an exception, never a hang."""

import contextlib
import io
import json
import os
import pty
import select
import socket
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from subprocess import PIPE, Popen
from typing import Any

import pytest

from otel_logging import _diagnostics, configure_logging, get_logger
from otel_logging.logs.nesting import DEEPEST
from otel_logging.logs.stdout import LOST
from tests.lines import parsed
from tests.programs import child_environment, end, good, python, run, script, start

pytestmark = pytest.mark.skipif(os.name != "posix", reason="descriptors as POSIX has them")

SAID = b"otel_logging: 1 log lines lost: stdout takes none"


CLOCK = """
import time
from pathlib import Path
def clock():
    told = Path("/proc/thread-self/schedstat")
    return time.monotonic() - (int(told.read_text().split()[1]) / 1e9 if told.exists() else 0)
"""


def fair(code: str) -> str:
    """Return *code* with a clock that stands, on Linux, while its thread waits for a processor."""
    return CLOCK + code.replace("time.monotonic()", "clock()")


def child(code: str, **popen: Any) -> Popen[bytes]:
    variables = popen.pop("variables", {})
    env = child_environment(ENVIRONMENT="production", **variables)
    return start(sys.executable, "-c", code, env=env, text=False, bufsize=0, **popen)


def ended(process: Popen[bytes]) -> bytes:
    """Wait for a good end, and return what was said on stderr."""
    with process:
        assert process.stderr
        said = process.stderr.read()
    assert process.returncode == 0, said.decode()
    return said


# ---------------------------------------------------------------- closed, dead, full

COUNTS = """
import sys
from otel_logging import configure_logging, get_logger, _diagnostics
configure_logging()
log = get_logger("shop")
for number in range(100):
    log.info("line", number=number)
assert sum(_diagnostics.counts.values()) == 100, _diagnostics.counts
"""


def test_a_stdout_that_was_closed_from_the_start() -> None:
    """``>&-``: Python has none then; and whoever gets descriptor 1 next is left alone."""
    code = COUNTS.replace("log =", "f = open(sys.argv[1], 'w'); assert f.fileno() == 1\nlog =")
    path = os.devnull
    closing = ("/bin/sh", "-c", 'exec "$0" "$@" >&-', sys.executable, "-c", code, path)
    done = good(run(*closing, env=child_environment(ENVIRONMENT="production"), text=False))
    assert done.stderr.startswith(SAID + b" (there is none)\n")
    assert done.stderr.endswith(b"otel_logging: 99 log lines lost: stdout takes none\n")


def test_a_stdout_that_is_closed_later() -> None:
    """By ``os.close``: each line is a counted loss, said once a minute."""
    done = script(COUNTS.replace("for number", "import os; os.close(1)\nfor number"))
    assert done.stdout == b""
    assert done.stderr.count(b"log lines lost") == 2  # the first at once, the others at exit


def test_a_stdout_object_that_is_closed_leaves_the_descriptor() -> None:
    """Python keeps descriptor 1 open, and so lines still come out."""
    code = """
import sys
from otel_logging import configure_logging, get_logger
configure_logging(environment="production")
sys.stdout.close()
get_logger("shop").info("line")
"""
    (line,) = parsed(script(code).stdout)
    assert line["event"] == "line"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux has it")
def test_a_line_to_a_full_disk_is_reported_and_raises_nothing() -> None:
    """/dev/full: the application goes on."""
    with Path("/dev/full").open("wb") as full:
        said = ended(child(COUNTS, stdout=full))
    assert said.startswith(SAID + b" ([Errno 28]")


def test_a_disk_that_is_full_in_the_middle_of_a_line(tmp_path: Path) -> None:
    """The half line gets an end, so that the next one is whole."""
    code = """
import resource, signal, sys
from otel_logging import configure_logging, get_logger
configure_logging(environment="production")
log = get_logger("shop")
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (200, resource.RLIM_INFINITY))
log.info("first", text="x" * 500)
log.info("second")
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
log.info("third")
log.info("fourth")
"""
    path = tmp_path / "log"
    with path.open("wb") as file:
        said = ended(child(code, stdout=file))
    half, *whole = path.read_bytes().split(b"\n")
    assert len(half) == 200
    assert [line["event"] for line in parsed(b"\n".join(whole))] == ["third", "fourth"]
    assert b"File too large" in said


@pytest.mark.alone
def test_a_reader_that_has_died() -> None:
    """BrokenPipeError, and no signal: the application goes on."""
    read, write = os.pipe()
    os.close(read)
    said = ended(child(COUNTS, stdout=write))
    os.close(write)
    assert said.startswith(SAID + b" ([Errno 32]")


# ---------------------------------------------------------------- a reader that stops

STALLED = """
import os, sys, threading, time
OLDER_KERNEL
from otel_logging import configure_logging, get_logger, _diagnostics
configure_logging()
log = get_logger("shop")
stopped = threading.Event()

def work(number):
    while not stopped.is_set():
        began = time.monotonic()
        log.info("line", number=number, text="x" * 300)
        longest[number] = max(longest[number], time.monotonic() - began)
        lines[number] += 1

THREADS = 8
longest, lines = [0.0] * THREADS, [0] * THREADS
threads = [threading.Thread(target=work, args=(n,)) for n in range(THREADS)]
began = time.monotonic()
for thread in threads:
    thread.start()
while not any(_diagnostics.counts.values()):
    time.sleep(0.01)
waited = time.monotonic() - began
time.sleep(0.3)
stopped.set()
for thread in threads:
    thread.join(10)
    assert not thread.is_alive(), "blocked for ever"
lost = sum(_diagnostics.counts.values())
sys.stderr.write(f"\\nREPORT {waited} {max(longest)} {lost} {sum(lines)}\\n")
sys.stderr.flush()
sys.stdin.readline()
log.info("reads again")
"""
OLDER = "if hasattr(os, 'RWF_NOWAIT'): del os.RWF_NOWAIT"


def report_of(said: bytes) -> tuple[float, float, int, int]:
    (line,) = [line for line in said.decode().splitlines() if line.startswith("REPORT")]
    waited, longest, lost, lines = line.split()[1:]
    return float(waited), float(longest), int(lost), int(lines)


def read_all(read: int, *, until_end: bool) -> bytes:
    """Read what is there now, or all there will be."""
    found = b""
    os.set_blocking(read, until_end)
    with contextlib.suppress(OSError):  # nothing more now; or what a terminal says at its end
        while part := os.read(read, 1 << 16):
            found += part
    return found


@contextlib.contextmanager
def pipe() -> Iterator[tuple[int, int]]:
    ends = os.pipe()
    with os.fdopen(ends[0], "rb", buffering=0):
        yield ends


@contextlib.contextmanager
def sockets() -> Iterator[tuple[int, int]]:
    ours, theirs = socket.socketpair()
    yield ours.fileno(), theirs.detach()
    ours.close()


@contextlib.contextmanager
def terminal() -> Iterator[tuple[int, int]]:
    ends = pty.openpty()
    yield ends
    os.close(ends[0])


@pytest.mark.alone
@pytest.mark.parametrize(
    ("kind", "kernel"),
    [(pipe, "this"), (pipe, "older"), (sockets, "older"), (terminal, "this")],
)
def test_a_reader_that_stops_delays_once_and_then_loses_lines(kind: Any, kernel: str) -> None:
    """Its writers wait 100 ms together, once; then lines are dropped until it reads again."""
    code = STALLED.replace("OLDER_KERNEL", OLDER if kernel == "older" else "")
    with kind() as (read, write):
        process = child(fair(code), stdout=write, stdin=PIPE)
        os.close(write)
        assert process.stdin
        assert process.stderr
        said = b""
        while b"REPORT" not in said:
            said += process.stderr.readline() or pytest.fail(said.decode())
        found = read_all(read, until_end=False)
        process.stdin.write(b"go on\n")
        process.stdin.close()
        found += read_all(read, until_end=True)
        said += ended(process)
    waited, longest, lost, lines = report_of(said)
    assert waited < 2
    assert longest < 0.6  # 100 ms, and a busy machine
    assert lost > 100
    assert said.count(b"log lines lost") == 2  # at once, and the rest at exit
    if kind is terminal:  # it takes lines in parts
        found = b"".join(found.replace(b"\r", b"").splitlines(keepends=True)[-1:])
        assert [line["event"] for line in parsed(found)] == ["reads again"]
    else:
        events = [line["event"] for line in parsed(found)]
        assert events == ["line"] * (lines - lost) + ["reads again"]


#: A machine on which a thread waits for a processor wherever it reads the clock.
BUSY = """
import time, types
from otel_logging import _stream
_stream.time = types.SimpleNamespace(monotonic=lambda: time.sleep(0.1) or time.monotonic())
"""


@pytest.mark.parametrize("machine", ["", BUSY], ids=["this", "busy"])
def test_a_reader_that_is_slow_gets_every_line(machine: str) -> None:
    """As long as it reads at all, it is waited for."""
    code = f"""{machine}
from otel_logging import configure_logging, get_logger
configure_logging()
log = get_logger("shop")
for number in range(1000):
    log.info("line", number=number, text="x" * 500)
"""
    with pipe() as (read, write):
        process = child(code, stdout=write)
        os.close(write)
        found = b""
        while part := os.read(read, 8192):
            found += part
            time.sleep(0.005)
        assert ended(process) == b""
    assert [line["number"] for line in parsed(found)] == list(range(1000))


LONG = """
import os, sys, time
OLDER_KERNEL
from otel_logging import configure_logging, get_logger
configure_logging()
log = get_logger("shop")
began = time.monotonic()
log.info("long", **{f"text{n}": "x" * 8000 for n in range(30)})
sys.stderr.write(f"\\nREPORT {time.monotonic() - began}\\n")
sys.stderr.flush()
sys.stdin.readline()
log.info("next")
"""


@pytest.mark.alone
@pytest.mark.parametrize("is_slow", [False, True], ids=["stops", "is slow"])
@pytest.mark.parametrize("kernel", ["this", "older"])
def test_a_long_line_holds_its_caller_up_once(kernel: str, is_slow: bool) -> None:
    """With the bound raised, a line may be longer than the pipe: 100 ms, whether its reader stops
    in the middle of it or reads on, slowly; the next line begins anew, and is whole.
    """
    code = LONG.replace("OLDER_KERNEL", OLDER if kernel == "older" else "")
    variables = {"OTEL_LOGGING_LINE_BYTES": "1000000"}
    found = b""
    with pipe() as (read, write):
        process = child(fair(code), stdout=write, stdin=PIPE, variables=variables)
        os.close(write)
        assert process.stdin
        assert process.stderr
        while is_slow and not select.select([process.stderr], [], [], 0.05)[0]:
            found += os.read(read, 4096)  # 4 KiB every 50 ms
        while b"REPORT" not in (said := process.stderr.readline() or pytest.fail("it died")):
            pass
        assert float(said.split()[1]) < 0.6  # 100 ms, and a busy machine
        found += read_all(read, until_end=False)
        assert b"\n" not in found
        process.stdin.close()
        found += read_all(read, until_end=True)
        ended(process)
    half, whole = found.split(b"\n", 1)
    assert 1 << (16 if is_slow else 12) < len(half) < 240_000
    assert [line["event"] for line in parsed(whole)] == ["next"]


WRAPPED = """
import io, os, sys, time
sys.stdout = eval(sys.argv[1])
from otel_logging import configure_logging, get_logger
configure_logging()
log = get_logger("shop")
print("printed", end="")
log.info("first")
longest = 0.0
for number in range(int(sys.argv[2])):
    began = time.monotonic()
    log.info("line", text="x" * 300)
    longest = max(longest, time.monotonic() - began)
sys.stderr.write(f"REPORT {longest}\\n")
"""
WRAPPERS = [
    "io.TextIOWrapper(open(1, 'wb', 0, closefd=False), write_through=True)",
    "io.TextIOWrapper(open(1, 'wb', closefd=False), encoding='utf-8')",
    "io.TextIOWrapper(sys.stdout.buffer, encoding='utf-8', line_buffering=True)",
    "io.TextIOWrapper(sys.stdout.detach(), encoding='utf-8', line_buffering=True)",
    "os.fdopen(os.dup(1), 'w', 1)",
    "os.fdopen(os.dup(1), 'w', encoding='latin-1')",
]


def wrapped(wrapper: str, lines: int, stdout: int) -> Popen[bytes]:
    env = child_environment(ENVIRONMENT="production")
    command = (sys.executable, "-c", fair(WRAPPED), wrapper, lines)
    return start(*command, env=env, text=False, stdout=stdout)


@pytest.mark.alone
@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_a_stdout_wrapped_once_more_whose_reader_stops(wrapper: str) -> None:
    """To write in another encoding, or at once: it is the same descriptor, and never blocks."""
    with pipe() as (read, write):
        process = wrapped(wrapper, 1000, write)
        os.close(write)
        try:
            _, said = process.communicate(timeout=30)
        finally:
            process.kill()
        found = read_all(read, until_end=True)
    (report,) = [line for line in said.splitlines() if line.startswith(b"REPORT")]
    assert float(report.split()[1]) < 0.6  # 100 ms, and a busy machine
    assert b"log lines lost" in said
    assert found.startswith(b"printed\n{")


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_a_stdout_wrapped_once_more_keeps_the_order(wrapper: str, tmp_path: Path) -> None:
    """What was printed before a line, and is not written yet, stands before it."""
    with (tmp_path / "log").open("wb") as file, wrapped(wrapper, 1, file.fileno()) as process:
        assert process.stderr
        assert process.stderr.read().startswith(b"REPORT")
    first, *rest = (tmp_path / "log").read_text().splitlines()
    assert first == "printed"
    assert [line[0] for line in rest] == ["{", "{"]


PRINTED = """
import io, sys
print("before", end="")
from otel_logging import configure_logging, get_logger
configure_logging()
configure_logging()
log = get_logger("shop")
log.info("first")
print("a", "b", end="")
log.info("second")
print("half", end="", flush=True)
log.info("third")
print("50 %", end="\\r")
sys.stdout.write("")
log.info("fourth")
sys.stdout.buffer.write(b"bytes")
sys.stdout.buffer.write(memoryview(b""))
log.info("of bytes")
sys.stdout = open(1, "w", closefd=False)
print("another", end="")
log.info("of another")
sys.stdout.flush()
sys.stdout = io.TextIOWrapper(sys.__stdout__.buffer)
print("a third", end="")
log.info("of a third")
for number in range(2000):
    print("row", number)
log.info("fifth")
log.info("sixth")
print("after")
"""


@pytest.mark.parametrize("to", ["pipe", "file"])
def test_what_was_printed_before_a_line_stands_before_it(to: str, tmp_path: Path) -> None:
    """And no line begins in the middle of what was printed without a newline."""
    with (tmp_path / "out").open("wb") as file:
        stdout: Any = file if to == "file" else PIPE
        env = child_environment(ENVIRONMENT="production", PYTHONUNBUFFERED="")
        done = end(start(sys.executable, "-c", PRINTED, env=env, text=False, stdout=stdout))
    out = (done.stdout or (tmp_path / "out").read_bytes()).decode()
    rows = [f"row {number}" for number in range(2000)]
    found = [json.loads(x)["event"] if x[:1] == "{" else x for x in out.split("\n")]
    expected = ["before", "first", "a b", "second", "half", "third", "50 %\r", "fourth"]
    expected += ["bytes", "of bytes", "another", "of another", "a third", "of a third"]
    assert found == [*expected, *rows, "fifth", "sixth", "after", ""]


KEPT = """
import fcntl, os, sys, time
from otel_logging import _diagnostics, configure_logging, get_logger
fcntl.fcntl(1, fcntl.F_SETPIPE_SZ, 4096)
configure_logging()
log = get_logger("shop")
if sys.argv[1] == "another":
    sys.stdout = open(1, "w", closefd=False)
sys.stdout.buffer.write(b"b" * 4001)
print("p" * 6000, end="")
began = time.monotonic()
for _ in range(3):
    log.info("lost")
sys.stderr.write(f"{time.monotonic() - began} {sum(_diagnostics.counts.values())}\\n")
sys.stdin.readline()
print("end")
log.info("last")
"""


@pytest.mark.skipif(sys.platform != "linux", reason="a pipe of one page")
@pytest.mark.parametrize("stream", ["one", "another"])
def test_what_was_printed_and_finds_no_room_holds_no_line_up(stream: str) -> None:
    """Nor does a line overtake it: it waits for its reader, whole, and comes before the next."""
    with pipe() as (read, write):
        env = child_environment(ENVIRONMENT="production", PYTHONUNBUFFERED="", PYTHONUTF8="1")
        command = (sys.executable, "-c", fair(KEPT), stream)
        process = start(*command, env=env, text=False, stdout=write, stdin=PIPE)
        os.close(write)
        assert process.stdin
        assert process.stderr
        assert b"its reader has stopped" in process.stderr.readline()
        took_s, lost = process.stderr.readline().split()
        process.stdin.write(b"go on\n")
        process.stdin.close()
        found = read_all(read, until_end=True).decode().splitlines()
        ended(process)
    assert float(took_s) < 0.6  # 100 ms, and a busy machine
    assert int(lost) == 3
    assert found[0] == "b" * 4001 + "p" * 6000 + "end"
    assert [json.loads(line)["event"] for line in found[1:]] == ["last"]


HELD = """
import fcntl, sys, threading, time
from otel_logging import _diagnostics, configure_logging, get_logger
from otel_logging._stream import Descriptor
fcntl.fcntl(1, fcntl.F_SETPIPE_SZ, 4096)
configure_logging()
threading.Thread(target=print, args=("x" * 100_000,), daemon=True).start()
write = sys.stdout.buffer.raw.write
while not write.busy:
    time.sleep(0.001)
Descriptor.has_room = lambda *_: True  # the reader has read a page, and the printing thread took it
began = time.monotonic()
for _ in range(3):
    get_logger("shop").info("lost")
sys.stderr.write(f"{time.monotonic() - began} {sum(_diagnostics.counts.values())}\\n")
sys.stderr.flush()
os._exit(0)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="a pipe of one page")
def test_a_thread_that_prints_to_a_reader_that_stopped_holds_no_line_up() -> None:
    """It holds the lock of Python's buffer meanwhile."""
    with pipe() as (_, write):
        env = child_environment(ENVIRONMENT="production", PYTHONUNBUFFERED="")
        command = (sys.executable, "-c", fair("import os" + HELD))
        process = start(*command, env=env, text=False, stdout=write)
        os.close(write)
        *_, report = ended(process).splitlines()
    took_s, lost = report.split()
    assert float(took_s) < 0.6  # 100 ms, and a busy machine
    assert int(lost) == 3


REDIRECTED = """
import os, sys
OLDER_KERNEL
from otel_logging import configure_logging, get_logger
configure_logging()
get_logger("shop").info("on a pipe")
fd = os.open(sys.argv[1], os.O_WRONLY | os.O_APPEND)
os.dup2(fd, 1)
get_logger("shop").info("first")
print("printed")
get_logger("shop").info("second")
"""


@pytest.mark.parametrize("kernel", ["this", "older"])
def test_a_file_that_a_daemon_puts_in_place_of_stdout(kernel: str, tmp_path: Path) -> None:
    """Later, by ``dup2``: what is in it stays there."""
    (tmp_path / "log").write_text("old\n")
    code = REDIRECTED.replace("OLDER_KERNEL", OLDER if kernel == "older" else "")
    (line,) = parsed(script(code, tmp_path / "log", ENVIRONMENT="production").stdout)
    assert line["event"] == "on a pipe"
    old, *rest = (tmp_path / "log").read_text().splitlines()
    found = [json.loads(x)["event"] if x[:1] == "{" else x for x in rest]
    assert (old, found) == ("old", ["first", "printed", "second"])


ON_STDERR = """
import sys
from otel_logging import configure_logging, get_logger
configure_logging()
configure_logging()
log = get_logger("shop")
sys.stderr.write("\\r 50 %")
log.info("first")
sys.stderr.write("\\r 60 %")
sys.stderr.flush()
log.info("second")
sys.stderr.write("\\r 70 %")
sys.stderr.flush()
print(" done")
log.info("third")
print("half", end="")
sys.stderr.write("whole\\n")
log.info("fourth")
log.info("fifth")
"""


@pytest.mark.parametrize("kind", [pipe, terminal])
def test_no_line_begins_in_the_middle_of_text_on_stderr(kind: Any) -> None:
    """A progress bar's, where both lead to the same place; on its own it is none of stdout's."""
    env = child_environment(ENVIRONMENT="production", PYTHONUNBUFFERED="")
    with kind() as (read, write):
        process = start(sys.executable, "-c", ON_STDERR, env=env, stdout=write, stderr=write)
        os.close(write)
        out = read_all(read, until_end=True).decode().replace("\r\n", "\n")
        end(process)
    found = [json.loads(x)["event"] if x[:1] == "{" else x for x in out.split("\n")]
    shown = ["\r 50 %", "first", "\r 60 %", "second", "\r 70 % done", "third"]
    assert found == [*shown, "whole", "half", "fourth", "fifth", ""]
    done = script(ON_STDERR, ENVIRONMENT="production", PYTHONUNBUFFERED="")
    assert done.stdout.count(b"\n") == 7


def test_what_a_finaliser_prints_at_the_very_end_is_written() -> None:
    """When modules have no names any more."""
    code = """
import builtins, sys
from otel_logging import configure_logging
configure_logging()
class Last:
    def __init__(self, out):
        self.out = out
    def __del__(self):
        self.out.write("last\\n")
builtins.last = Last(sys.stdout)
"""
    env = child_environment(PYTHONUNBUFFERED="")
    env.pop(
        "COVERAGE_PROCESS_CONFIG", None
    )  # coverage holds the streams until the process has gone
    assert python("-c", code, env=env).stdout == "last\n"


AT_ONCE = """
import sys, threading
from otel_logging import configure_logging, get_logger
configure_logging()
sys.setswitchinterval(1e-6)
def work():
    for _ in range(300):
        print("printed\\n", end="")  # else two writes, and Python lets others in between
        get_logger("shop").info("line")
threads = [threading.Thread(target=work) for _ in range(8)]
for thread in threads: thread.start()
for thread in threads: thread.join()
"""


def test_threads_that_print_and_log_at_once_lose_no_line() -> None:
    """What one has flushed is no text of another's."""
    env = child_environment(ENVIRONMENT="production", PYTHONUNBUFFERED="")
    done = end(start(sys.executable, "-c", AT_ONCE, env=env))
    assert done.stderr == ""
    assert Counter(x if x[:1] != "{" else "line" for x in done.stdout.split()) == {
        "printed": 2400,
        "line": 2400,
    }


TOGETHER = """
import threading
from otel_logging import _stream, configure_logging, get_logger
configure_logging()
_stream.PATIENCE_S = 60  # a busy machine's reader
def work(number):
    for _ in range(25):
        get_logger("shop").info("line", texts=[str(number) * 5000] * 2)
threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
for thread in threads: thread.start()
for thread in threads: thread.join()
"""


@pytest.mark.parametrize("kind", [pipe, sockets, terminal])
def test_no_line_is_torn_by_another_threads(kind: Any) -> None:
    """Not where one is taken in parts either: by a terminal, or as it is longer than a page."""
    with kind() as (read, write):
        variables = {"OTEL_LOGGING_LINE_BYTES": "100000"}
        process = child(TOGETHER, stdout=write, variables=variables)
        os.close(write)
        lines = parsed(read_all(read, until_end=True))
        assert ended(process) == b""
    assert len(lines) == 200
    assert all(len(set(line["texts"])) == 1 for line in lines)


FORKED = """
import os, sys, threading, time, warnings
from otel_logging import _stream, configure_logging, get_logger
configure_logging()
_stream.PATIENCE_S = 60
log = get_logger("shop")
log.info("first")
writing = threading.Thread(target=eval(sys.argv[1]), args=("x" * 9000,), daemon=True)
os.set_blocking(1, False)
try:
    while True: os.write(1, b"." * 512)
except BlockingIOError:
    os.set_blocking(1, True)
writing.start()
waits = lambda: sys._current_frames()[writing.ident].f_code.co_name == "has_room"
while not (sys.stdout.buffer.raw.write.busy or waits()):
    time.sleep(0.001)
warnings.simplefilter("ignore")  # Python's, of a fork beside threads
if os.fork():
    os._exit(0)
sys.stdin.readline()
log.info("whole")
sys.stdout = sys.__stdout__ = None  # Python would wait for the thread
"""


@pytest.mark.parametrize("writes", ["log.info", "print"])
def test_a_child_that_is_forked_while_a_thread_writes_has_its_lines(writes: str) -> None:
    """The thread is not there to release a line's turn, or the lock of Python's buffer."""
    with pipe() as (read, write):
        env = child_environment(ENVIRONMENT="production", PYTHONUNBUFFERED="")
        command, options = (sys.executable, "-c", FORKED, writes), {"text": False, "bufsize": 0}
        process = start(*command, env=env, stdout=write, stdin=PIPE, **options)
        os.close(write)
        assert process.stdin
        assert process.stderr
        assert process.wait(30) == 0
        read_all(read, until_end=False)
        process.stdin.close()
        found = read_all(read, until_end=True)
        ended(process)
    assert [line["event"] for line in parsed(found.lstrip())] == ["whole"]


def test_a_turn_that_never_ends_holds_one_line_up() -> None:
    """A fork in C, which Python does not know of, leaves the child one of a thread that is gone."""
    code = """
import threading
from otel_logging import _stream, configure_logging, get_logger
configure_logging()
_stream.PATIENCE_S = 0.001
log = get_logger("shop")
log.info("first")
gone = threading.Thread(target=_stream._turns[1].acquire)
gone.start()
gone.join()
log.info("second")
log.info("third")
"""
    lines = parsed(script(code, ENVIRONMENT="production").stdout)
    assert [line["event"] for line in lines] == ["first", "second", "third"]


TURN = """
import os, sys, threading, time
from otel_logging import _diagnostics, _stream, configure_logging, get_logger
read, write = os.pipe()
os.dup2(write, 1)
configure_logging()
log = get_logger("shop")
log.info("first")
turn, is_waiting = _stream._turns[1], threading.Event()
class Turn:
    release = turn.release
    def acquire(self, *waits):
        is_waiting.set()
        return turn.acquire(*waits)
_stream._turns[1] = Turn()
turn.acquire()
"""


def test_a_line_that_waits_for_its_turn_gives_up_with_the_reader() -> None:
    """Which takes some now and then: each line before it may wait for its own patience."""
    code = f"""{TURN}
os.set_blocking(1, False)
try:
    while True: os.write(1, b"." * 512)
except BlockingIOError:
    pass
def work():
    began = time.monotonic()
    log.info("lost")
    print(time.monotonic() - began, sum(_diagnostics.counts.values()), file=sys.stderr)
waits = threading.Thread(target=work)
waits.start()
waits.join()
"""
    env = child_environment(ENVIRONMENT="production")
    *_, said = python("-c", code, env=env).stderr.splitlines()
    took_s, lost = said.split()
    assert (float(took_s) < 0.6, lost) == (True, "1")  # 100 ms, and a busy machine


def test_a_line_whose_turn_comes_behind_a_torn_one_begins_anew() -> None:
    code = f"""{TURN}
_stream.PATIENCE_S = 60
waits = threading.Thread(target=log.info, args=("whole",))
waits.start()
is_waiting.wait(30)
_stream.PATIENCE_S = 0.05
log.info("torn", **{{f"text{{n}}": "x" * 8000 for n in range(20)}})
found = os.read(read, 1 << 20)
turn.release()
waits.join()
found += os.read(read, 1 << 20)
sys.stderr.buffer.write(found)
"""
    variables = {"ENVIRONMENT": "production", "OTEL_LOGGING_LINE_BYTES": "262144"}
    said = python("-c", code, env=child_environment(**variables)).stderr
    first, torn, whole = [each for each in said.splitlines() if '"event"' in each]
    assert json.loads(first)["event"] == "first"
    assert '"torn"' in torn
    assert json.loads(whole)["event"] == "whole"


BOTH = """
import os, sys, time
if sys.argv[1] == "one": sys.stdout = sys.stderr
from otel_logging import _diagnostics, configure_logging, get_logger
configure_logging()
log = get_logger("shop")
longest = 0.0
for number in range(1000):
    began = time.monotonic()
    log.info("line", text="x" * 300)
    _diagnostics.report(f"planted {number % 3}")
    longest = max(longest, time.monotonic() - began)
os.write(int(sys.argv[2]), b"%f\\n" % longest)
sys.stdin.readline()
"""


@pytest.mark.alone
@pytest.mark.parametrize("reads_again", [True, False])
@pytest.mark.parametrize("streams", ["one", "two"])
def test_a_pipe_for_stdout_and_stderr_whose_reader_stops(streams: str, reads_again: bool) -> None:
    """``2>&1``: our report waits for nobody either, at exit too, and is written when it can be."""
    with pipe() as (read, write), pipe() as (told, tell):
        env = child_environment(ENVIRONMENT="production")
        command = (sys.executable, "-c", fair(BOTH), streams, tell)
        options = {"stdout": write, "stderr": write, "stdin": PIPE, "pass_fds": [tell]}
        process = start(*command, env=env, text=False, **options)
        for end in (write, tell):
            os.close(end)
        try:
            assert select.select([told], [], [], 30)[0], "blocked for ever"
            longest = float(os.read(told, 100))
            found = read_all(read, until_end=False) if reads_again else b""
            process.communicate(b"go on\n", timeout=30)
        finally:
            process.kill()
        found += read_all(read, until_end=True)
    assert longest < 0.6  # 100 ms, and a busy machine
    assert process.returncode == 0
    said = [line for line in found.splitlines() if line.startswith(b"otel_logging: ")]
    assert any(b"log lines lost" in line for line in said) == reads_again
    planted = [line.split() for line in said if b"planted" in line]
    assert not reads_again or sum(int(words[1]) for words in planted) == 1000


def test_a_stdout_made_anew_keeps_its_encoding_and_is_not_written_past_once_it_is_closed() -> None:
    """Nor gets a file that has its number then anything."""
    code = """
import os, sys
from otel_logging import _diagnostics, configure_logging, get_logger
configure_logging(environment="production")
log = get_logger("shop")
sys.stdout = os.fdopen(os.dup(1), "w", encoding="latin-1")
log.info("\xe4\u20ac")
fd = sys.stdout.fileno()
sys.stdout.close()
file = open(os.devnull, "wb")
assert file.fileno() == fd
log.info("lost")
assert sum(_diagnostics.counts.values()) == 1, _diagnostics.counts
sys.stdout = sys.__stdout__
"""
    done = python("-c", code, text=False, stderr=None)
    assert done.returncode == 0
    assert done.stdout.count(b"\n") == 1
    assert b'"\xe4\\u20ac"' in done.stdout


def test_a_stdout_wrapped_once_more_may_be_closed() -> None:
    """After its first line, which goes past it, the others do so too; else they are lost."""
    code = """
import io, sys
from otel_logging import _diagnostics, configure_logging, get_logger
configure_logging(environment="production")
log = get_logger("shop")
sys.stdout = io.TextIOWrapper(open(1, "wb", 0, closefd=False))
log.info("open")
sys.stdout.close()
log.info("closed")
assert not _diagnostics.counts, _diagnostics.counts
sys.stdout = io.TextIOWrapper(open(1, "wb", 0, closefd=False))
sys.stdout.close()
log.info("lost")
assert sum(_diagnostics.counts.values()) == 1, _diagnostics.counts
sys.stdout = sys.__stdout__
"""
    assert [line["event"] for line in parsed(script(code).stdout)] == ["open", "closed"]


def test_lines_to_a_non_blocking_stdout_are_whole() -> None:
    """Somebody else's event loop made it so: it is waited for all the same."""
    code = """
import os
os.set_blocking(1, False)
from otel_logging import configure_logging, get_logger
configure_logging()
log = get_logger("shop")
for number in range(2000):
    log.info("line", number=number, text="x" * 500)
"""
    done = script(code, ENVIRONMENT="production")
    assert done.stderr == b""
    assert [line["number"] for line in parsed(done.stdout)] == list(range(2000))


# ---------------------------------------------------------------- one pipe, several processes

MANY = """
import sys
from otel_logging import configure_logging, get_logger
configure_logging()
log = get_logger("shop")
for number in range(10):
    try:
        1 / 0
    except ZeroDivisionError as error:
        for _ in range(10):
            error.add_note("n" * 500)
        log.exception("line", who=sys.argv[1], number=number, text="é" * 3000, words=[1] * 2000)
"""


def test_long_lines_of_several_processes_on_one_pipe() -> None:
    """Every one is whole, and of its own."""
    read, write = os.pipe()
    env = child_environment(ENVIRONMENT="production")
    children = [
        start(sys.executable, "-c", MANY, who, stdout=write, stderr=None, env=env)
        for who in range(4)
    ]
    os.close(write)
    found = read_all(read, until_end=True)
    os.close(read)
    assert [process.wait(30) for process in children] == [0] * 4
    lines = parsed(found)
    wanted = [(str(who), number) for who in range(4) for number in range(10)]
    assert sorted((line["who"], line["number"]) for line in lines) == wanted
    assert all("more]" in line["exception"] for line in lines)


def test_a_file_and_a_raised_bound_take_long_lines(tmp_path: Path) -> None:
    """The bound is one of pipes; and the setting raises it there."""
    code = MANY.replace("range(10)", "range(1)")
    with (tmp_path / "log").open("wb") as file:
        env = child_environment(ENVIRONMENT="production")
        good(python("-c", code, "me", env=env, stdout=file))
    in_file = (tmp_path / "log").read_bytes()
    on_pipe = script(code, "me", ENVIRONMENT="production", OTEL_LOGGING_LINE_BYTES="100000").stdout
    for written in (in_file, on_pipe):
        (line,) = parsed(written)
        assert line["text"] == "é" * 3000
    assert len(script(code, "me", ENVIRONMENT="production").stdout) <= 4096


# ---------------------------------------------------------------- stdout replaced


@pytest.fixture(autouse=True)
def in_production() -> None:
    configure_logging(environment="production")


def test_pytests_capture_gets_lines(capsys: pytest.CaptureFixture[str]) -> None:
    """As from ``print``."""
    get_logger("shop").info("line")
    (line,) = parsed(capsys.readouterr().out)
    assert line["event"] == "line"


def test_a_redirected_stdout_gets_lines() -> None:
    """For as long as it is redirected."""
    with contextlib.redirect_stdout(io.StringIO()) as stream:
        get_logger("shop").info("é日\ud800")
    (line,) = parsed(stream.getvalue())
    assert line["event"] == "é日\\ud800"


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252"])
def test_a_stdout_that_cannot_say_it_gets_an_escaped_line(encoding: str) -> None:
    """Flushed, so that a crash loses none."""
    raw = io.BytesIO()
    with contextlib.redirect_stdout(io.TextIOWrapper(raw, encoding=encoding, newline="\n")):
        get_logger("shop").info("日")
        written = raw.getvalue()
    assert json.loads(written.decode(encoding).replace("\\u", "\\\\u"))["event"] == "\\u65e5"


class Refusing(io.StringIO):
    """A stream that takes ASCII alone, and does not say so."""

    encoding = ""  # type: ignore[assignment]

    def write(self, text: str) -> int:
        text.encode("ascii")
        return super().write(text)


def test_a_stdout_that_does_not_say_what_it_can() -> None:
    """ASCII is understood everywhere."""
    with contextlib.redirect_stdout(Refusing()) as stream:
        get_logger("shop").info("é")
    assert "\\xe9" in stream.getvalue()


class Broken(io.StringIO):
    def write(self, text: str) -> int:
        raise OSError("broken")


@pytest.mark.parametrize("stream", [Broken(), None, object()])
def test_a_stdout_that_fails_is_a_counted_loss(
    stream: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Said once a minute."""
    monkeypatch.setattr(sys, "stdout", stream)
    for _ in range(3):
        get_logger("shop").info("line")
    assert _diagnostics.counts[LOST] == 3
    assert capsys.readouterr().err.count("log lines lost") == 1


def test_a_stdout_that_logs_is_stopped(capsys: pytest.CaptureFixture[str]) -> None:
    """What writes to a logger must not be what the logger writes to; the stack is not filled."""
    depths: list[int] = []

    class Logs(io.StringIO):
        def write(self, text: str) -> int:
            depths.append(len(depths))
            get_logger("shop").info("again", text=text)
            return super().write(text)

    with contextlib.redirect_stdout(Logs()):
        get_logger("shop").info("line")
    assert len(depths) == DEEPEST
    assert sum(_diagnostics.counts.values()) == 1


def test_configured_while_there_is_no_descriptor(monkeypatch: pytest.MonkeyPatch) -> None:
    """Python's own stdout may be none, or a stream without one (an embedded interpreter)."""
    for stream in (None, io.StringIO()):
        monkeypatch.setattr(sys, "__stdout__", stream)
        monkeypatch.setattr(sys, "stdout", stream)
        configure_logging(environment="production")
        get_logger("shop").info("line")
    assert stream is not None
    assert parsed(stream.getvalue())[0]["event"] == "line"
    assert _diagnostics.counts[LOST] == 1


# ---------------------------------------------------------------- a stdout that logs

LOGGING_STDOUT = """
import logging, sys
from otel_logging import _diagnostics, configure_logging, get_logger
configure_logging(environment=sys.argv[1])
plain = logging.getLogger("redirected")

class Kept(logging.Handler):
    def emit(self, record):
        sys.stderr.write(f"KEPT {record.getMessage()}\\n")

class Quiet(logging.Logger):
    def isEnabledFor(self, level):
        return False

class HasLogger:  # as Celery's
    def __init__(self, logger):
        self.logger = logger
    def write(self, text):
        for line in text.rstrip("\\n").splitlines():
            self.logger.warning(line)
    def flush(self):
        pass

class LooksItUp:
    def write(self, text):
        for line in text.rstrip("\\n").splitlines():
            plain.warning("said: %s", line)
    def flush(self):
        pass

plain.addHandler(Kept())
sys.stdout = eval(sys.argv[2])
try:
    raise ValueError("two lines\\nof it")
except ValueError:
    get_logger("shop").exception("first")
logging.getLogger("shop.plain").warning("second")
print("printed")
assert not _diagnostics.counts, _diagnostics.counts
"""


@pytest.mark.parametrize(
    ("stream", "printed"),
    [
        ("HasLogger(plain)", ["printed"]),
        ("HasLogger(logging.LoggerAdapter(plain))", ["printed"]),
        ("HasLogger(Quiet('quiet'))", []),
        ("LooksItUp()", ["said: printed"]),
    ],
)
def test_a_stdout_that_logs_what_it_is_given(stream: str, printed: list[str]) -> None:
    """As Celery's does: lines go past it, each once; what is printed becomes a line."""
    done = script(LOGGING_STDOUT, "production", stream)
    lines = parsed(done.stdout)
    assert [line["event"] for line in lines] == ["first", "second", *printed]
    assert lines[0]["exception"].endswith("two lines\nof it")


def test_what_is_printed_to_a_stdout_that_logs_tears_no_line() -> None:
    code = LOGGING_STDOUT + "print('half', end='')\nlogging.getLogger('shop').warning('third')\n"
    text = script(code, "production", "LooksItUp()").stdout.decode()
    assert [line["event"] for line in parsed(text)][-2:] == ["said: half", "third"]


def test_a_stdout_that_logs_in_development() -> None:
    """A line of several lines comes back in parts; none of them becomes a line."""
    text = script(LOGGING_STDOUT, "development", "LooksItUp()", NO_COLOR="1").stdout.decode()
    assert text.count("first") == text.count("Traceback") == text.count("second") == 1
    assert text.count("said: ") == 1


def test_a_line_of_a_signal_handler_is_no_echo() -> None:
    """A handler that logs while ``sys.stdout`` is written to makes its own line."""
    code = """
import io, signal, sys
from otel_logging import configure_logging, get_logger
configure_logging(environment="production")
log = get_logger("shop")
signal.signal(signal.SIGUSR1, lambda *_: log.info("inside"))

class Interrupted(io.StringIO):
    def write(self, text):
        if "outside" in text:
            signal.raise_signal(signal.SIGUSR1)
        return super().write(text)

sys.stdout = Interrupted()
log.info("outside")
sys.__stdout__.write(sys.stdout.getvalue())
"""
    lines = parsed(script(code).stdout)
    assert [line["event"] for line in lines] == ["inside", "outside"]


# ---------------------------------------------------------------- a number that is another file's

CLOSED_ALL = """
import os
from otel_logging import _diagnostics, configure_logging, get_logger
configure_logging(environment="production")
log = get_logger("shop")
log.info("before")
os.closerange(0, 256)
files = [open(f"data{n}", "wb", buffering=0) for n in range(4)]
log.info("lost")
_diagnostics.report("planted")
for file in files: file.write(b"mine")
assert [open(f"data{n}", "rb").read() for n in range(4)] == [b"mine"] * 4
assert sorted(_diagnostics.counts.values()) == [1, 1], _diagnostics.counts
os.dup2(os.open("redirected", os.O_WRONLY | os.O_CREAT | os.O_APPEND), 1)
os.dup2(1, 2)
log.info("redirected")
_diagnostics.say_rest()
_diagnostics.report("said")
"""


@pytest.mark.skipif(os.name != "posix", reason="numbers of closed descriptors are reused")
def test_a_file_that_got_the_number_of_stdout_or_stderr_is_left_alone(tmp_path: Path) -> None:
    """A daemon closes everything: lines are lost and counted, until it redirects both."""
    done = python("-c", CLOSED_ALL, cwd=tmp_path, text=False, stderr=None)
    assert [line["event"] for line in parsed(done.stdout)] == ["before"]
    there = (tmp_path / "redirected").read_text().splitlines()
    assert parsed(there[0] + "\n")[0]["event"] == "redirected"
    lost = "1 log lines lost: stdout takes none"
    assert there[1:] == [f"otel_logging: {each}" for each in (lost, "1 planted", "1 said")]
    assert done.returncode == 0
