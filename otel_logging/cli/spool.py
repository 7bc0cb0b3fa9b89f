"""``otel-logging spool``: what waits for a collector; exported or removed on request."""

import os
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final

import click
from rich.text import Text

from otel_logging._json import strict
from otel_logging._text import visible, volume
from otel_logging.cli import options
from otel_logging.cli.listing import print_array
from otel_logging.cli.options import flag, of_places
from otel_logging.spool import destinations, reading
from otel_logging.spool.destinations import Destination, Pile
from otel_logging.traces.draw import terminal
from otel_logging.traces.sources import Sources, named

_UNITS: Final = (("d", 86400), ("h", 3600), ("min", 60), ("s", 1))


@click.command()
@click.option("--service", metavar="NAME", help="Only this service's.")
@options.as_json
@click.option(
    "--export",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Write all spans there, waiting and sent ones, as OTLP in JSON, a request a line.",
)
@flag("--logs", help="With --export: log records, not spans.")
@flag("--purge", help="Remove what waits, and what was sent, for good.")
@flag("--yes", help="With --purge: do not ask.")
@flag(
    "--resend",
    "is_resent",
    help="Send what waits for an endpoint that its service no longer has to the one it has.",
)
@of_places
def spool(
    *,
    service: str | None,
    as_json: bool,
    export: Path | None,
    logs: bool,
    purge: bool,
    yes: bool,
    is_resent: bool,
    store: Sources,
) -> None:
    """List what waits on this machine; export, resend or remove it.

    For which collector, how much, and since when. Nothing is changed without --resend or --purge.
    """
    if (logs and export is None) or (yes and not purge):
        raise click.UsageError("--logs goes with --export, and --yes with --purge")
    if is_resent and (as_json or purge or export is not None):
        raise click.UsageError("--resend goes with none of --json, --export, --purge")
    asked = time.time()
    found = _of(service, store, is_aside=as_json or export is not None)
    if is_resent:
        _resend(found)
        return
    if export is not None:
        chosen = [each.path for each in found if each.is_of_logs is logs]
        count = _export(export, chosen, of_logs=logs, of_others=store.of_others)
        said = f"written: {export}, {count} request{'' if count == 1 else 's'}"
        click.echo(said, err=as_json or str(export) == "-")
    elsewhere = {each.path: now.endpoint for each, now in destinations.left_behind(found)}
    if as_json:
        print_array(_as_json(each, elsewhere) for each in found)
    elif export is None:
        terminal.show(
            terminal.console(), (line for each in found for line in _draw(each, elsewhere))
        )
    if purge and (ours := list(_only_ours(found))):
        waiting = sum(each.waiting.segments for each in ours)
        if not yes:
            click.confirm(f"Remove all? Segments not delivered: {waiting}.", abort=True, err=True)
        for each in ours:
            destinations.purge(each.path, oldest=asked)  # only what was shown, or exported


def _of(service: str | None, store: Sources, *, is_aside: bool) -> list[Destination]:
    """Return the destinations of *service*, or of all (None). If there is no such, say so."""
    every = [
        each
        for base in store.places
        for each in destinations.found(base, of_others=store.of_others)
    ]
    found = [each for each in every if service in (None, each.service)]
    if not (found or is_aside):
        click.echo(f"Nothing{f' of {service}' if every else ''} is in {named(store.places)}.")
    if not found and (names := sorted({each.service for each in every})):
        click.echo(f"known services: {visible(', '.join(names))}", err=is_aside)
    return found


def _only_ours(found: Iterable[Destination]) -> Iterator[Destination]:
    """Yield what belongs to this user. Only its owner may change what is another user's."""
    for each in found:
        if each.is_ours:
            yield each
        else:
            place = visible(str(each.path))
            click.echo(f"left alone, since it belongs to another user: {place}", err=True)


def _resend(found: list[Destination]) -> None:
    now = dict(destinations.left_behind(found))
    for each in _only_ours(now):
        count = destinations.resend(each, now[each])
        what = "1 segment now waits" if count == 1 else f"{count} segments now wait"
        click.echo(f"{visible(each.service)}: {what} for {visible(now[each].endpoint)}")
    if not now:
        click.echo("Nothing waits for an endpoint that its service no longer has.")


def _export(file: Path, paths: list[Path], *, of_logs: bool, of_others: bool) -> int:
    from otel_logging.traces import otlp_json  # protobuf's JSON, which no other command needs

    segments = (
        contents
        for base in dict.fromkeys(path.parent for path in paths)
        for contents in reading.read(base, of_logs=of_logs, of_others=of_others, only=paths)
    )
    count = 0
    try:
        anew = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
        fd = os.dup(1) if str(file) == "-" else os.open(file, anew, 0o600)
        with os.fdopen(fd, "w", encoding="utf-8") as out:
            for request in otlp_json.requests(segments, of_logs=of_logs):
                out.write(strict(request) + "\n")
                count += 1
    except OSError as error:
        raise click.ClickException(f"{file} cannot be written: {error}") from None
    return count


def _as_json(one: Destination, elsewhere: dict[Path, str]) -> dict[str, Any]:
    def pile(some: Pile) -> dict[str, Any]:
        age_s = None if some.oldest_s is None else max(time.time() - some.oldest_s, 0.0)
        return {"segments": some.segments, "bytes": some.size_bytes, "oldest_s": age_s}

    return {
        "service": one.service,
        "to": one.to or None,
        "service_sends_to": elsewhere.get(one.path),
        "signal": "logs" if one.is_of_logs else "traces",
        "path": str(one.path),
        "processes": one.processes,
        "hours": one.hours,
        "waiting": pile(one.waiting),
        "sent": pile(one.sent),
    }


def _draw(one: Destination, elsewhere: dict[Path, str]) -> Iterator[Text]:
    what = "log records" if one.is_of_logs else "spans"
    living = f"{one.processes or 'no'} process{'es' * (one.processes > 1)}"
    title = " · ".join(filter(None, (visible(one.service), what, visible(one.to), living)))
    yield Text(title, "bold")
    for word, some in (("wait", one.waiting), ("sent", one.sent)):
        if some.segments:
            yield Text(f"  {word}  {_said(some)}")
    if one.path in elsewhere:
        now = visible(elsewhere[one.path])
        moved = f"  its service sends to {now} now: --resend sends there what waits"
        yield Text(moved, "yellow", overflow="ignore")
    yield Text(f"  {visible(str(one.path))}", "dim", overflow="ignore")


def _said(some: Pile) -> str:
    age = max(time.time() - (some.oldest_s or 0.0), 1.0)
    unit, length = next(each for each in _UNITS if age >= each[1])
    said = f"{some.segments} segment{'' if some.segments == 1 else 's'}, {volume(some.size_bytes)}"
    return f"{said}, the oldest {age // length:.0f} {unit} old"
