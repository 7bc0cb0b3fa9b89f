"""The stores of all users: what root and ``--all-users`` read, and what may not be read."""

import json
import os
import pwd
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from click.testing import Result

from otel_logging import cli, setup_observability, traced
from tests.commands import Runner
from tests.conftest import NOWHERE
from tests.programs import end, start
from tests.stored import TRACE, Planted, store

root = pytest.mark.skipif(
    getattr(os, "geteuid", lambda: 1)() != 0, reason="root gives directories away"
)
NOBODY = 65534
BELOW = Path("state", "otel_logging")  # a home, as XDG_STATE_HOME of the tests has it


def run(*arguments: str) -> Result:
    done = Runner().invoke(cli.main, list(arguments))
    assert done.exit_code == 0, done.output
    return done


def stages(*arguments: str) -> list[str]:
    return sorted(row["stage"] for row in json.loads(run("late", "--json", *arguments).stdout))


def planted(base: Path, name: str, number: int) -> Path:
    return store(base, Planted(number, 0, name, 0, 900, {"budget_s": 0.3}, trace=f"{number:032x}"))


def give_away(base: Path) -> None:
    for path in [base, *base.rglob("*")]:
        os.chown(path, NOBODY, NOBODY)


@pytest.fixture
def homes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Path]:
    """The homes of three users; ours is the first. The third has no store."""
    found = {"ours": Path.home(), "ada": tmp_path / "ada", "bob": tmp_path / "bob"}
    users = [SimpleNamespace(pw_dir=str(home)) for home in found.values()]
    monkeypatch.setattr(pwd, "getpwall", lambda: users)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    (tmp_path / "tmp" / "otel_logging-other").mkdir()  # a temporary spool
    planted(found["ours"] / BELOW, "own", 1)
    planted(found["ada"] / BELOW, "ada's", 2)
    planted(tmp_path / "tmp" / "otel_logging-4321", "homeless", 3)
    return found


@pytest.mark.parametrize("user", [0, 1000])
def test_root_reads_every_users_store_and_others_on_request(
    homes: dict[str, Path], monkeypatch: pytest.MonkeyPatch, user: int
) -> None:
    """In each home, and in the temporary directory; the directories are named."""
    own = os.geteuid()
    monkeypatch.setattr("otel_logging.cli.options._user", lambda: user)
    everyone = ["ada's", "homeless", "own"]
    assert stages() == (everyone if user == 0 else ["own"])
    assert stages("--all-users") == everyone
    shown = run("late", "--all-users").stdout
    assert str(homes["ours"] / BELOW) in shown or own
    assert str(homes["ada"] / BELOW) in shown
    assert str(homes["bob"]) not in shown
    for command in (["failed"], ["show", "--last"], ["spool"], ["now"]):
        run(*command, "--all-users")


def test_a_directory_that_is_named_is_read_alone(
    homes: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By root as well; other users' beside it on request."""
    named = planted(tmp_path / "named", "named", 4)
    assert stages("--spool-dir", str(named)) == ["named"]
    monkeypatch.setenv("OTEL_LOGGING_SPOOL_DIR", str(named))
    assert stages() == ["named"]
    assert stages("--all-users") == ["ada's", "homeless", "named", "own"]


@root
def test_a_directory_of_another_user_is_read_by_root(tmp_path: Path) -> None:
    """As a unit's StateDirectory is; also where that user's group may write. A link is not."""
    base = planted(tmp_path / "shop" / "spool", "theirs", 2)
    give_away(tmp_path / "shop")
    (tmp_path / "shop").chmod(0o775)
    assert stages("--spool-dir", str(base)) == ["theirs"]
    assert json.loads(run("spool", "--json", "--spool-dir", str(base)).stdout)
    (destination,) = base.iterdir()
    destination.rename(tmp_path / "elsewhere")
    destination.symlink_to(tmp_path / "elsewhere")
    assert stages("--spool-dir", str(base)) == []


@root
def test_what_belongs_to_another_user_is_not_changed(tmp_path: Path) -> None:
    """It is said: who removes or moves there as root can be led elsewhere by its owner."""
    place = ["--spool-dir", str(tmp_path)]
    for endpoint in (NOWHERE, "http://127.0.0.1:2"):
        with (
            setup_observability(
                "shop", environment="production", endpoint=endpoint, spool_dir=tmp_path
            ),
            traced("m"),
        ):
            pass
    shutil.copytree(next(tmp_path.iterdir()), tmp_path / "sh\x1bop-0123456789ab")
    give_away(tmp_path)
    for change in (["--purge", "--yes"], ["--resend"]):
        said = run("spool", *change, *place).stderr
        assert "left alone, since it belongs to another user" in said
        assert "\x1b" not in said
    waiting = [
        one["waiting"]["segments"] for one in json.loads(run("spool", "--json", *place).stdout)
    ]
    assert waiting == [1, 1, 1]


def test_a_directory_that_may_not_be_read_is_named(
    homes: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The others are read."""
    closed = str(homes["ada"] / BELOW)
    may = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: str(path) != closed and may(path, mode))
    shown = run("late", "--all-users", "--json")
    assert shown.stderr.startswith(f"not read, since this user may not: {closed}\n")
    assert sorted(row["stage"] for row in json.loads(shown.stdout)) == ["homeless", "own"]
    monkeypatch.setenv("OTEL_LOGGING_SPOOL_DIR", closed)
    monkeypatch.setattr(os, "geteuid", lambda: 1)  # root reads every user's
    assert run("late", "--source", "local").stdout == "Nothing was read.\n"


@pytest.fixture
def public() -> Iterator[Path]:
    """A directory that everybody may look into."""
    made = Path(tempfile.mkdtemp()).resolve()
    made.chmod(0o755)
    yield made
    shutil.rmtree(made)


@root
def test_what_may_not_be_read_is_said(public: Path) -> None:
    """A base, or what is in one; the rest is read."""
    closed = planted(public / "closed", "closed", 1)
    closed.chmod(0o700)
    shared = planted(public / "shared", "open", 2)
    (destination,) = shared.iterdir()
    for path in (shared, destination, *destination.rglob("*")):
        path.chmod(0o755)
    private = shared / "private-0123456789ab"
    private.mkdir(0o700)
    code = f"""
import os, shutil, sys
from otel_logging.cli import main
given, sys.stdout = sys.stdout, open(os.devnull, "w")
# imports what the user may not read
main(["late", "--all-users", "--spool-dir", {str(shared)!r}], standalone_mode=False)
sys.stdout = given
os.setgroups([]); os.setgid({NOBODY}); os.setuid({NOBODY})
main(sys.argv[1:])
"""

    def as_nobody(*arguments: object, named: Path | str = "") -> tuple[str, str]:
        # nobody cannot write what coverage measures
        env = {k: v for k, v in os.environ.items() if not k.startswith("COVERAGE_")}
        env |= {"OTEL_LOGGING_SPOOL_DIR": str(named), "TMPDIR": str(public)}
        child = start(sys.executable, "-c", code, *arguments, env=env)
        done = end(child)
        return done.stdout, done.stderr

    out, err = as_nobody("late", named=closed)
    assert err == f"not read, since this user may not: {closed}\n"
    assert out == "Nothing was read.\n"
    out, err = as_nobody(
        "late", "--json", "--all-users", "--source", "local", "--spool-dir", shared
    )
    assert f"{private}" in err
    assert [row["stage"] for row in json.loads(out)] == ["open"]
    _, err = as_nobody("late", "--json", "--spool-dir", shared)
    assert "belongs to another user" in err
    assert TRACE not in out


@pytest.mark.parametrize("spelled", [OSError, "~/state"])
def test_a_user_without_a_home(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spelled: object
) -> None:
    """As of a container: each command reads what is in the place of its store; doctor says so."""

    def nobody(_: int) -> None:
        raise KeyError

    monkeypatch.delenv("HOME")
    monkeypatch.delenv("XDG_STATE_HOME")
    monkeypatch.setattr(pwd, "getpwuid", nobody)
    if spelled == "~/state":  # as older releases of platformdirs do
        monkeypatch.setattr("platformdirs.user_state_path", lambda *_, **__: Path("~/state"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    for name in ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_LOGGING_JAEGER_URL"):
        monkeypatch.setenv(name, NOWHERE)
    monkeypatch.setenv("ENVIRONMENT", "production")
    fallback = tmp_path / "tmp" / f"otel_logging-{os.geteuid()}"
    with setup_observability("shop"), traced("homeless"):
        pass
    assert stages() == stages("--all-users") == ["homeless"]
    assert str(fallback) in run("spool").stdout
    assert run("now").stdout == "Nothing is open.\n"
    nowhere = run("now", "--spool-dir", "nowhere")
    assert nowhere.stdout == f"Nothing is open: there is no {Path('nowhere').absolute()}.\n"
    said = " ".join(Runner().invoke(cli.main, ["doctor", "--wait", "0.1"]).stdout.split())
    assert f"([Errno 2] this user has no home: '~'): {fallback} is used" in said
    assert list(tmp_path.glob("**/~")) == []


def test_a_relative_directory_is_shown_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is to be copied; and it is no other than that of the variable."""
    planted(tmp_path / "here", "own", 1)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OTEL_LOGGING_SPOOL_DIR", "here")
    monkeypatch.setenv("ENVIRONMENT", "production")
    for command in ("late", "spool"):
        assert str(tmp_path / "here") in run(command, "--spool-dir", "here").stdout
