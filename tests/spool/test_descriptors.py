"""Descriptors that somebody else closes, and whose numbers are then those of other files."""

import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest

from otel_logging import _diagnostics
from otel_logging.spool import reading
from otel_logging.spool.open_file import check, is_held
from otel_logging.spool.queue import LOST_REMOVED, Spool
from tests.spools import append, die, make, numbers, on_disk, places, run, waiting

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="POSIX")


@contextmanager
def taken(*descriptors: int) -> Iterator[None]:
    """Close *descriptors*, as a daemon does, and give their numbers to files of an application.

    At the end nothing else is in those files, and they are open.
    """
    for fd in descriptors:
        with tempfile.TemporaryFile() as other:
            os.dup2(other.fileno(), fd, inheritable=False)
        os.write(fd, b"mine")
    yield
    for fd in descriptors:
        os.write(fd, b"!")
        assert os.pread(fd, 100, 0) == b"mine!"
        os.close(fd)


def segments_of(spool: Spool) -> list[int]:
    return [segment.fd for segment in spool._segments.values()]


def lock_of(spool: Spool) -> int:
    assert spool._held.lock is not None
    return spool._held.lock.fd


def test_numbers_that_are_other_files_now_are_left_alone(spool: Spool, base: Path) -> None:
    """Segments of two scopes and the lock: nothing is lost, written elsewhere, or closed."""
    append(spool, 1)
    append(spool, 2, scope=b"other")
    before = places(base)
    with taken(*segments_of(spool), lock_of(spool)):
        append(spool, 3)
        append(spool, 4, scope=b"other")
        spool.adopt()  # its own place of before
        assert waiting(spool) == [1, 2, 3, 4]
        assert len(places(base)) == 1  # what was in the one of before has moved
        assert places(base) != before
        spool.close()
    assert on_disk(base) == [1, 2, 3, 4]
    assert not _diagnostics.counts


@pytest.mark.parametrize("position", [0, 1, 1 << 30])
def test_another_file_at_any_position(spool: Spool, base: Path, position: int) -> None:
    """It is not taken for ours where it is as long as ours, or longer."""
    append(spool, 1)
    (fd,) = segments_of(spool)
    size = os.fstat(fd).st_size
    other = os.open(base / "data", os.O_RDWR | os.O_CREAT)
    os.truncate(other, size + position)
    os.lseek(other, size + position, os.SEEK_SET)
    os.dup2(other, fd, inheritable=False)
    append(spool, 2)
    spool.close()
    assert os.fstat(fd).st_size == size + position
    os.close(fd)
    assert on_disk(base) == [1, 2]
    os.close(other)


def test_descriptors_that_are_closed_and_are_no_files(spool: Spool, base: Path) -> None:
    """A socket, a pipe, a directory, or nothing at all has the number."""
    number = 0
    for other in [*os.pipe(), os.open("/", os.O_RDONLY), None]:
        append(spool, number := number + 1)
        (fd,) = segments_of(spool)
        if other is None:
            os.close(fd)
        else:
            os.dup2(other, fd, inheritable=False)
        append(spool, number := number + 1)
        if other is not None:
            os.close(fd)
            os.close(other)
        spool.seal()
    assert on_disk(base) == list(range(1, 9))


def test_a_place_whose_lock_is_gone_is_not_adopted_while_it_is_written_to(
    spool: Spool, base: Path
) -> None:
    """The lock alone was closed: nobody else takes the open segment, and a new place follows."""
    append(spool, 1)
    os.close(lock_of(spool))
    neighbour = make(base)
    neighbour.adopt()
    assert waiting(neighbour) == []
    append(spool, 2)
    spool.seal()
    assert spool.waiting() == []
    append(spool, 3)
    neighbour.adopt()
    assert waiting(neighbour) == [1, 2]
    assert waiting(spool) == [3]
    neighbour.close()


def test_what_was_adopted_is_left_to_a_neighbour_with_a_lost_lock(spool: Spool, base: Path) -> None:
    """No segment is sent by both."""
    die(base, 1)
    spool.adopt()
    assert waiting(spool) == [1]
    with taken(lock_of(spool)):
        neighbour = make(base)
        neighbour.adopt()
        assert waiting(spool) == []
        assert waiting(neighbour) == [1]
        spool.adopt()
        assert waiting(spool) == []
        neighbour.close()
        spool.adopt()
        assert waiting(spool) == [1]


def test_a_lock_that_is_closed_while_its_directory_is_emptied_is_left_alone(
    spool: Spool, base: Path
) -> None:
    """Its number may be another file's by then; what waits there is adopted all the same."""
    die(base, 1)
    with ExitStack() as stack:

        def close(process_dir: Path) -> None:
            lock = (process_dir / "lock").stat()
            for fd in range(3, 256):
                with suppress(OSError):
                    if os.path.samestat(os.fstat(fd), lock):
                        stack.enter_context(taken(fd))

        spool.on_adopt = close
        spool.adopt()
    assert waiting(spool) == [1]


def test_a_segment_whose_descriptor_is_closed_and_file_removed_is_counted(
    spool: Spool, base: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A segment without descriptor and without name; what a neighbour has taken is not lost."""
    append(spool, 1)
    with taken(*segments_of(spool)):
        shutil.rmtree(places(base)[0])
        append(spool, 2)
        assert waiting(spool) == [2]
    assert _diagnostics.counts[LOST_REMOVED] == 1
    assert LOST_REMOVED in capsys.readouterr().err
    append(spool, 3)
    with taken(*segments_of(spool), lock_of(spool)):
        neighbour = make(base)
        neighbour.adopt()
        for segment in neighbour.waiting():
            neighbour.delivered(segment)
        append(spool, 4)
        neighbour.close()
    assert _diagnostics.counts[LOST_REMOVED] == 1
    assert on_disk(base) == [2, 3, 4]


def test_after_everything_is_closed_close_and_exit_close_nothing_else(base: Path) -> None:
    """A daemon closes all, opens its files, and ends: they are open until its end."""
    run(
        """
import os, sys; from pathlib import Path; from tests.spools import *
base = Path(sys.argv[1])
spool = make(base)
append(spool, 1)
os.closerange(3, 256)
files = [open(base / f"data{n}", "wb", buffering=0) for n in range(8)]
spool.close()
if (child := os.fork()) == 0:
    [file.write(b"!") for file in files]
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
append(spool, 2)
for file in files: file.write(b"?")
assert [(base / f"data{n}").read_bytes() for n in range(8)] == [b"!?"] * 8
for file in files: file.close()
""",
        base,
        traced=False,
    )
    assert on_disk(base) == [1, 2]


def test_a_child_leaves_alone_what_its_parent_no_longer_had(base: Path) -> None:
    """It closes what it inherits of the spool, not the file that has such a number."""
    run(
        """
import os, sys; from pathlib import Path; from tests.spools import *
base = Path(sys.argv[1])
spool = make(base)
append(spool, 1)
os.closerange(3, 256)
files = [open(base / f"data{n}", "wb", buffering=0) for n in range(8)]
if (child := os.fork()) == 0:
    append(spool, 2)
    [file.write(b"!") for file in files]
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
append(spool, 3)
assert [(base / f"data{n}").read_bytes() for n in range(8)] == [b"!"] * 8
""",
        base,
        traced=False,
    )
    assert on_disk(base) == [1, 2, 3]
    neighbour = make(base)
    neighbour.adopt()
    assert waiting(neighbour) == [1, 2, 3]
    neighbour.close()
    assert numbers(reading.read(base))


def test_of_a_whole_set_up_nothing_else_is_closed(base: Path) -> None:
    """Neither in a child, nor by shutdown: the table of open stages has a descriptor as well."""
    run(
        """
import os, sys; from pathlib import Path; from otel_logging import setup_observability, traced
base = Path(sys.argv[1])
running = setup_observability("shop", spool_dir=base / "spool", endpoint="http://127.0.0.1:9")
with traced("before"): pass
os.closerange(3, 256)
files = [open(base / f"data{n}", "wb", buffering=0) for n in range(16)]
if (child := os.fork()) == 0:
    with traced("in the child"): pass
    [file.write(b"!") for file in files]
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
running.shutdown()
for file in files: file.write(b"?")
assert [(base / f"data{n}").read_bytes() for n in range(16)] == [b"!?"] * 16
""",
        base,
        traced=False,
    )


def test_a_number_that_changes_hands_while_a_segment_is_read_is_not_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A daemon may close everything just then, and open files of its own."""
    (tmp_path / "segment").write_bytes(b"spans")
    numbers: list[int] = []
    with (tmp_path / "data").open("wb") as other:

        def read(fd: int, _: int) -> bytes:
            numbers.append(fd)
            os.dup2(other.fileno(), fd)
            return b""

        with monkeypatch.context() as patched:
            patched.setattr(os, "read", read)
            assert reading.content(tmp_path / "segment") == b""
        os.write(numbers[0], b"mine")
        os.close(numbers[0])
    assert (tmp_path / "data").read_bytes() == b"mine"


def test_a_missing_file_is_not_held(tmp_path: Path) -> None:
    """A segment may be sealed, and so have another name, between the list and the look."""
    assert not is_held(tmp_path / "000001.open")


def test_a_number_that_has_changed_hands_before_it_is_known_is_left_alone(tmp_path: Path) -> None:
    """Another thread may run as soon as a file is open, before its opener does."""
    (tmp_path / "segment").write_bytes(b"spans")
    with (tmp_path / "data").open("wb") as other:
        with pytest.raises(OSError, match=os.strerror(errno.EBADF)):
            check(other.fileno(), tmp_path / "segment")
        other.write(b"mine")
    assert (tmp_path / "data").read_bytes() == b"mine"
