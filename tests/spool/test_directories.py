"""The spool's directories: ours alone, and missed by nobody when removed."""

import contextlib
import errno
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from otel_logging import _diagnostics
from otel_logging.spool import directories, reading
from otel_logging.spool.process_dirs import write_file
from otel_logging.spool.queue import LOST_REMOVED, Spool
from otel_logging.spool.reading import Waiting
from otel_logging.spool.segment import UNREADABLE, header
from tests.spools import (
    append,
    die,
    loaded,
    make,
    numbers,
    on_disk,
    places,
    waiting,
)

posix = pytest.mark.skipif(not hasattr(os, "fork"), reason="POSIX")


def test_directories_and_files_are_the_user_s_alone(spool: Spool, base: Path) -> None:
    """0700 and 0600, whatever they were."""
    append(spool, 1)
    base.joinpath("open-1").mkdir(mode=0o777)
    base.joinpath("open-1").chmod(0o777)
    make(base, "open-1").close()
    for path in base.rglob("*"):
        assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path


@posix
def test_a_symbolic_link_is_not_followed(base: Path, tmp_path: Path) -> None:
    """In place of the destination or of ``sent/``: an error at set-up."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    base.mkdir()
    base.joinpath("shop-1").symlink_to(elsewhere)
    with pytest.raises(directories.UnsafeError, match="symbolic link"):
        make(base)
    base.joinpath("other-1").mkdir()
    base.joinpath("other-1", "sent").symlink_to(elsewhere)
    with pytest.raises(directories.UnsafeError, match="symbolic link"):
        make(base, "other-1")
    assert list(elsewhere.iterdir()) == []


@posix
def test_another_user_s_directory_is_not_used(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor is a name in /tmp that another user took first."""
    base.joinpath("shop-1").mkdir(parents=True)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    fallback = directories.fallback_base()
    fallback.mkdir()
    if os.geteuid() == 0:
        os.chown(base / "shop-1", 65534, 65534)
        os.chown(fallback, 65534, 65534)
    else:
        monkeypatch.setattr(os, "geteuid", lambda: 65534)
        fallback = directories.fallback_base()
        fallback.mkdir()
    with pytest.raises(PermissionError, match="another user"):
        make(base)
    with pytest.raises(PermissionError, match="another user"):
        make(fallback)
    assert list(fallback.iterdir()) == []


def test_an_unusable_base_raises_at_set_up(tmp_path: Path) -> None:
    """The one place where the spool raises."""
    tmp_path.joinpath("file").touch()
    with pytest.raises(OSError, match="file"):
        make(tmp_path / "file")


@contextlib.contextmanager
def no_descriptors() -> Iterator[None]:
    """No file can be opened meanwhile."""
    import resource

    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


@posix
def test_running_out_of_descriptors_leaves_nothing_half_made(spool: Spool, base: Path) -> None:
    """At set-up an error; later the spans wait in memory, and what waits on disk stays."""
    die(base, 1)
    spool.adopt()
    with no_descriptors():
        with pytest.raises(OSError, match="open files"):
            make(base, "other-1")
        append(spool, 2)
        spool.adopt()
        spool.prune()
        with pytest.raises(OSError, match="open files"):
            spool.waiting()
        assert spool.backlog() == 1  # what is in memory
    assert [path.name for path in base.joinpath("other-1").iterdir()] == ["sent"]
    assert waiting(spool) == [1, 2]


@settings(deadline=None)
@given(st.text(), st.text(), st.text())
def test_a_destination_is_a_safe_name_of_its_own(service: str, endpoint: str, other: str) -> None:
    """One path component, the same for the same three, different for others."""
    name = directories.destination(service, endpoint, "http/protobuf")
    assert name == directories.destination(service, endpoint, "http/protobuf")
    assert name.isascii()
    assert not set(name) & set('/\\:*?"<>|\0 ')
    assert not name.startswith(".")
    assert len(name) <= 61
    assert (name == directories.destination(service, other, "http/protobuf")) == (endpoint == other)
    assert directories.destination("\ud800", "", "")


def test_the_default_spool_is_in_the_users_state_directory() -> None:
    """The user's state directory; a temporary one that can be removed."""
    assert Path.home() in directories.default_base().parents
    made = directories.temporary_base()
    made.rmdir()  # an empty directory
    assert directories.fallback_base().parent == Path(tempfile.gettempdir())


def test_a_directory_removed_while_running_costs_the_open_segments(
    spool: Spool, base: Path
) -> None:
    """They are counted; what comes next has a new place."""
    append(spool, 1)
    append(spool, 2, scope=b"other")
    shutil.rmtree(base)
    append(spool, 3)
    append(spool, 4, scope=b"third")
    assert waiting(spool) == [4]
    assert _diagnostics.counts == {LOST_REMOVED: 2}
    append(spool, 5)
    assert waiting(spool) == [4, 5]


def test_a_removed_flight_recorder_is_made_again(spool: Spool, base: Path) -> None:
    """A delivered segment leaves the queue, recorder or not; never delivered twice."""
    append(spool, 1)
    spool.seal()
    shutil.rmtree(base / "shop-1" / "sent")
    for segment in spool.waiting():
        spool.delivered(segment)
    assert spool.waiting() == []
    spool.prune()
    append(spool, 2)
    spool.seal()
    for segment in spool.waiting():
        spool.delivered(segment)
    assert on_disk(base) == [2]


@contextlib.contextmanager
def no_rights(place: Path) -> Iterator[None]:
    """Nothing in *place* can be renamed or removed meanwhile, by root neither."""
    if os.geteuid() == 0:
        os.seteuid(65534)
        try:
            yield
        finally:
            os.seteuid(0)
    else:
        place.chmod(0o500)
        yield
        place.chmod(0o700)


@posix
def test_a_delivered_segment_that_cannot_be_moved_is_not_delivered_again(
    spool: Spool, base: Path
) -> None:
    """On a disk that became read-only it stays where it is, out of the queue."""
    append(spool, 1)
    spool.seal()
    (segment,) = spool.waiting()
    with no_rights(places(base)[0]):
        spool.delivered(segment)
    assert segment.path is not None
    assert segment.path.exists()
    assert spool.waiting() == []


def test_what_is_no_segment_is_not_read(spool: Spool, base: Path, tmp_path: Path) -> None:
    """A directory, a link, a pipe that nobody writes to, a file that is called otherwise: silently,
    and at once; gone: nothing. Garbage that is called as a segment is a damaged one.
    """
    place = places(base)[0]
    (place / "1.segment").mkdir()
    (place / "2.segment").symlink_to(tmp_path / "elsewhere")
    (place / "3.txt").write_bytes(b"garbage")
    if hasattr(os, "mkfifo"):
        os.mkfifo(place / "4.segment")
    assert list(reading.read(base)) == []
    (place / "5.segment").write_bytes(b"garbage")
    assert list(reading.read(base)) == [UNREADABLE]
    assert len(spool.waiting()) >= 3
    assert all(segment.contents() == UNREADABLE for segment in spool.waiting())
    assert reading.load(place / "9.open") is None
    gone = Waiting("x", place / "9.segment").contents()
    assert gone.spans == []
    assert list(reading.read(tmp_path / "nowhere")) == []


def test_what_cannot_be_read_for_now_is_not_taken_for_damaged(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a descriptor to be had it raises, and whoever delivers tries again."""
    append(spool, 1)
    spool.seal()
    (segment,) = spool.waiting()

    def no_descriptor(path: Path) -> bytes:
        raise OSError(errno.EMFILE, "too many open files", str(path))

    with monkeypatch.context() as patched:
        patched.setattr(reading, "content", no_descriptor)
        with pytest.raises(OSError, match="too many open files"):
            segment.contents()
    assert numbers([segment]) == [1]


def test_a_segment_that_moves_on_is_found_where_it_went(spool: Spool, base: Path) -> None:
    """Listed while open: read when sealed, read when delivered: a large one, which stays a file."""
    append(spool, 1, size=600_000)
    (listed,) = reading.segments(base)
    spool.seal()
    assert numbers(loaded(listed)) == [1]
    (sealed,) = reading.segments(base)
    spool.delivered(spool.waiting()[0])
    assert numbers(loaded(listed)) == numbers(loaded(sealed)) == [1]
    (sent,) = reading.segments(base)
    assert numbers(loaded(sent)) == [1]


def _open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_after_close_as_many_descriptors_are_open_as_before(base: Path) -> None:
    """Rotation, removal, adoption, close: as many are open as before."""
    if not Path("/proc/self/fd").exists():
        pytest.skip("needs /proc")
    before = _open_files()
    for number in range(3):
        die(base, number)
        spool = make(base)
        spool.adopt()
        append(spool, 10 + number)
        append(spool, 20 + number, scope=b"other")
        shutil.rmtree(places(base)[-1], ignore_errors=True)
        append(spool, 30 + number, scope=b"third")
        spool.seal()
        for segment in spool.waiting():
            spool.delivered(segment)
        spool.close()
    with pytest.raises(OSError, match=os.strerror(errno.ENAMETOOLONG)):
        make(base, "x" * 300)
    assert _open_files() == before


@posix
@pytest.mark.parametrize("umask", [0, 0o022, 0o077, 0o177, 0o277, 0o777])
def test_what_is_made_is_0700_whatever_the_umask(tmp_path: Path, umask: int) -> None:
    """The base, what is above it, the destination, ``sent/`` and the place."""
    base = tmp_path / "state" / "spool"
    before = os.umask(umask)
    try:
        spool = make(base)
        append(spool, 1)
        made = [base.parent, base, base / "shop-1", base / "shop-1" / "sent", *places(base)]
        assert {oct(path.stat().st_mode & 0o777) for path in made} == {"0o700"}
        files = [path for path in base.rglob("*") if path.is_file()]
        assert {path.suffix for path in files} == {"", ".open"}
        assert {oct(path.stat().st_mode & 0o777) for path in files} == {"0o600"}
        spool.close()
        write_file(base / "shop-1" / "sent" / "whole.segment", header(b"r", b"s"))
        files = list(base.rglob("*.segment"))
        assert {oct(path.stat().st_mode & 0o777) for path in files} == {"0o600"}
        directories.try_to_write(base, 1)
    finally:
        os.umask(before)
    assert on_disk(base) == [1]


@posix
def test_nothing_that_is_made_is_open_to_others_for_a_moment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each directory is private when it appears."""
    modes: list[int] = []
    make_one = Path.mkdir

    def observed(path: Path, *arguments: int) -> None:
        make_one(path, *arguments)
        modes.append(stat.S_IMODE(path.stat().st_mode))

    monkeypatch.setattr(Path, "mkdir", observed)
    before = os.umask(0)
    try:
        make(tmp_path / "state" / "spool").close()
    finally:
        os.umask(before)
    assert modes == [0o700] * 5


def unusable(base: Path) -> str:
    """Return why a base is used neither by a service nor by the doctor, nor read."""
    for use in (lambda: make(base), lambda: directories.try_to_write(base, 1)):
        with pytest.raises(directories.UnsafeError) as raised:
            use()
    _diagnostics.forget()
    assert reading.segments(base) == []
    assert list(_diagnostics.counts) == [reading.UNSAFE]
    return str(raised.value)


@posix
@pytest.mark.parametrize("linked", [False, True])
def test_a_base_below_a_directory_of_everybody_is_not_used(tmp_path: Path, linked: bool) -> None:
    """Who may write there may put another in its place, or in that of a link on its way."""
    shared = tmp_path / "shared"
    shared.joinpath("own", "spool").mkdir(parents=True)
    shared.chmod(0o777)
    base = shared / "own" / "spool"
    if linked:
        tmp_path.joinpath("link").symlink_to(base)
        base = tmp_path / "link"
    assert "no sticky bit" in unusable(base)
    missing = shared / "missing" / "spool"
    assert "no sticky bit" in unusable(missing)
    assert not missing.parent.exists()
    shared.chmod(0o1777)
    make(base).close()


root = pytest.mark.skipif(getattr(os, "geteuid", lambda: 1)() != 0, reason="root gives away")


@posix
@root
@pytest.mark.parametrize("below", ["", "own/spool"])
def test_a_base_that_another_may_rename_is_not_used(tmp_path: Path, below: str) -> None:
    """A group that we are in is trusted: it is given to share a volume. The owner of a sticky
    directory may rename all in it: so it is root or we, as with /tmp.
    """
    shared = tmp_path / "shared"
    base = shared / below
    base.mkdir(parents=True)
    for user, group, mode, problem in (
        (-1, -1, 0o770, ""),
        (-1, 54321, 0o770, "no sticky bit"),
        (-1, 54321, 0o1770, ""),
        (-1, 0, 0o1777, ""),
        (54321, -1, 0o1777, "belongs to another user"),
    ):
        os.chown(shared, user, group)
        shared.chmod(mode)
        if problem:
            assert problem in unusable(base)
        else:
            make(base).close()


@posix
@root
@pytest.mark.parametrize("mode", [0o700, 0o755])
def test_root_uses_another_user_s_directory_but_not_what_is_planted_in_it(
    base: Path, mode: int
) -> None:
    """Such as a volume: its owner may rename what is in it, and is not read."""
    base.mkdir()
    os.chown(base, 54321, 54321)
    base.chmod(mode)
    make(base).close()
    (made,) = base.iterdir()
    assert (made.stat().st_uid, made.stat().st_mode & 0o777) == (0, 0o700)
    made.rename(base / "moved")
    made.mkdir(0o700)
    os.chown(made, 54321, 54321)
    for use in (lambda: make(base), lambda: directories.try_to_write(base, 1, [made.name])):
        with pytest.raises(directories.UnsafeError, match="belongs to another user"):
            use()


@posix
@pytest.mark.parametrize("which", ["destination", "sent"])
def test_a_destination_that_is_a_link_is_not_read(base: Path, tmp_path: Path, which: str) -> None:
    """Nor does the doctor call it good."""
    spool = make(tmp_path / "elsewhere")
    append(spool, 1)
    spool.seal()
    for segment in spool.waiting():
        spool.delivered(segment)
    spool.close()
    planted = tmp_path / "elsewhere" / "shop-1"
    own = base / "shop-1"
    if which == "destination":
        base.mkdir()
        own.symlink_to(planted)
    else:
        own.mkdir(parents=True)
        own.joinpath("sent").symlink_to(planted / "sent")
    _diagnostics.forget()
    assert on_disk(base) == []
    assert list(_diagnostics.counts) == [reading.UNSAFE]
    with pytest.raises(directories.UnsafeError, match="symbolic link"):
        directories.try_to_write(base, 1, ["shop-1"])
    directories.try_to_write(base, 1, ["other-1"])
    assert on_disk(tmp_path / "elsewhere") == [1]


@posix
@pytest.mark.parametrize("mode", [0o777, 0o703, 0o2777])
def test_a_base_where_others_may_rename_what_is_ours_is_not_used(base: Path, mode: int) -> None:
    """Without the sticky bit they may put a directory of theirs in place of it."""
    base.mkdir()
    base.chmod(mode)
    for use in (lambda: make(base), lambda: directories.try_to_write(base, 1)):
        with pytest.raises(directories.UnsafeError, match="no sticky bit"):
            use()
    assert list(base.iterdir()) == []
    base.chmod(mode | 0o1000)
    spool = make(base)
    append(spool, 1)
    spool.close()
    assert on_disk(base) == [1]
    assert base.stat().st_mode & 0o7777 == mode | 0o1000


@posix
def test_a_base_that_becomes_unsafe_takes_no_new_place(
    spool: Spool, base: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is said, and spans wait in memory."""
    base.chmod(0o777)
    shutil.rmtree(places(base)[0])
    append(spool, 1)
    assert waiting(spool) == [1]
    assert "no sticky bit" in capsys.readouterr().err
    base.chmod(0o700)
