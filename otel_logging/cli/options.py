"""The options of the commands, and how their values are read."""

import functools
import os
import re
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import click

from otel_logging import _parse, settings
from otel_logging._text import visible
from otel_logging.settings import links
from otel_logging.spool import directories
from otel_logging.traces import sources
from otel_logging.traces.sources import Sources

ROWS: Final = 20  # of a table by default: a screenful
_UNITS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}

_Command = Callable[..., Any]


def seconds(given: str) -> float:
    """Read ``0.3``, ``300ms``, ``2s``."""
    return _duration(given, "0.3 is 0.3 seconds, so is 300ms", bare_unit="s")


def ago(given: str) -> float:
    """Read ``90s``, ``15m``, ``2h``, ``1d``."""
    return _duration(given, "say 90s, 15m, 2h or 1d", bare_unit="")


def _duration(given: str, advice: str, *, bare_unit: str) -> float:
    found = re.fullmatch(r"([0-9]{1,12}(?:\.[0-9]+)?|\.[0-9]+)(ms|[smhd])?", given.strip())
    unit = (found[2] or bare_unit) if found else ""
    if found is None or not unit:
        raise click.BadParameter(f"{given!r} is not a duration: {advice}")
    return float(found[1]) * _UNITS[unit]


def pair(given: str) -> tuple[str, str]:
    """Read ``key=value``."""
    key, equals, value = given.partition("=")
    if not key or not equals:
        raise click.BadParameter(f"{given!r} is not an attribute: say key=value")
    return key, value


spool_dir = click.option(
    "--spool-dir",
    type=click.Path(file_okay=False, path_type=Path),
    help="The local store is here, not where OTEL_LOGGING_SPOOL_DIR says.",
)
flag = functools.partial(click.option, is_flag=True)
as_json = flag("--json", "as_json", help="Print JSON, for programs.")


def of_places(command: _Command) -> _Command:
    """Add the options that say where the local store is; *command* is called with these
    ``Sources``.
    """

    @functools.wraps(command)
    def with_store(*, spool_dir: Path | None, all_users: bool, **given: Any) -> Any:
        store = _store(spool_dir, all_users=all_users)
        files = [each for each in store.places if each.is_file()]
        if files:
            raise click.ClickException(f"{visible(str(files[0]))} is a file, not a directory")
        return command(store=store, **given)

    all_users = flag("--all-users", help="Read the store of every user, as root does.")
    return spool_dir(all_users(with_store))


def _user() -> int:
    return os.geteuid() if sys.platform != "win32" else 1


def _store(spool_dir: Path | None, *, all_users: bool) -> Sources:
    """Return where the store is. A place that this user may not read is reported, and left out."""
    is_root = _user() == 0
    given = None if spool_dir is None else _parse.directory("--spool-dir", spool_dir)
    places = settings.spool_base() if given is None else [given]
    if all_users or (is_root and len(places) > 1):  # no directory is named
        others = (each for each in directories.bases_of_all() if not directories.is_missing(each))
        places = list(dict.fromkeys([*places, *others]))
    inside = [each for place in places for each in directories.listed(place) if each.is_dir()]
    may_not = [
        each
        for each in (*places, *inside)
        if not (directories.is_missing(each) or os.access(each, os.R_OK | os.X_OK))
    ]
    if may_not:
        listed = ", ".join(visible(str(each)) for each in may_not)
        click.echo(f"not read, since this user may not: {listed}", err=True)
    may = tuple(each for each in places if each not in may_not)
    return Sources(sources.LOCAL, may, of_others=all_users or is_root)


def of_sources(command: _Command) -> _Command:
    """Add the options that say what is read; *command* is called with the ``Sources``."""

    @of_places
    @functools.wraps(command)
    def with_sources(*, source: str | None, store: Sources, **given: Any) -> Any:
        asked = replace(store, which=source or sources.BOTH, jaeger_url=links.jaeger_url())
        return command(asked=asked, **given)

    return click.option(
        "--source",
        type=click.Choice([sources.LOCAL, sources.JAEGER]),
        help="Read only this one; by default both, if they answer.",
    )(with_sources)


def of_rows(command: _Command) -> _Command:
    """Add the options of the commands that list stages."""
    options = (
        click.option(
            "--limit",
            type=click.IntRange(min=1),
            metavar="N",
            help=f"At most N rows, the first ones; {ROWS} unless --json.",
        ),
        click.option(
            "--html",
            type=click.Path(dir_okay=False, writable=True, path_type=Path),
            metavar="FILE",
            help="Write the rows and the picture of each into one page; - is standard output.",
        ),
        flag("--follow", help="Go on, with new rows as they come."),
        click.option(
            "--where",
            type=pair,
            metavar="k=v",
            multiple=True,
            help="Only with this attribute, as room=lobby, on the stage, its root or below; "
            "several on one span.",
        ),
        click.option("--who", metavar="U", help="Only on behalf of this user, as --who user-456."),
        click.option(
            "--since", type=ago, metavar="15m", help="Only what ended since then: 2h, 1d."
        ),
    )
    return functools.reduce(lambda made, option: option(made), options, of_store(command))


def of_store(command: _Command) -> _Command:
    """Add the options of all commands that read spans."""
    service = click.option("--service", metavar="NAME", help="Only of this service.")
    return service(of_sources(as_json(command)))
