"""``otel-logging spool``: what waits for a collector; exported or removed on request."""

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import click
from rich.text import Text

from otel_logging import settings
from otel_logging._errors import ConfigurationError
from otel_logging._text import visible
from otel_logging.cli.listing import strict
from otel_logging.cli.options import spool_dir as spool_dir_option
from otel_logging.spool import destinations, reading
from otel_logging.spool.destinations import Destination, Pile
from otel_logging.spool.segment import parse_all
from otel_logging.traces.draw import terminal

_UNITS: Final = (("d", 86400), ("h", 3600), ("min", 60), ("s", 1))


@click.command()
@click.option("--service", metavar="NAME", help="Only this service's.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")
@click.option(
    "--export",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Write all spans there, waiting and sent ones, as OTLP in JSON, a request a line.",
)
@click.option("--logs", is_flag=True, help="With --export: log records, not spans.")
@click.option("--purge", is_flag=True, help="Remove what waits, and what was sent, for good.")
@click.option("--yes", is_flag=True, help="With --purge: do not ask.")
@spool_dir_option
def spool(
    *,
    service: str | None,
    as_json: bool,
    export: Path | None,
    logs: bool,
    purge: bool,
    yes: bool,
    spool_dir: Path | None,
) -> None:
    """List what waits on this machine: for which collector, how much, since when."""
    if (logs and export is None) or (yes and not purge):
        raise click.UsageError("--logs goes with --export, and --yes with --purge")
    try:
        bases = settings.spool_base() if spool_dir is None else [spool_dir]
    except ConfigurationError as error:
        raise click.ClickException(str(error)) from None
    found = [
        each
        for base in bases
        for each in destinations.found(base)
        if service in (None, each.service)
    ]
    if export is not None:
        chosen = [each.path for each in found if each.is_of_logs is logs]
        count = _export(export, chosen, of_logs=logs)
        click.echo(f"written: {export}, {count} request{'' if count == 1 else 's'}", err=as_json)
    if as_json:
        rows = ",\n".join(strict(_as_json(each)) for each in found)
        click.echo(f"[\n{rows}\n]" if rows else "[]")
    elif export is None:
        terminal.show(terminal.console(), (line for each in found for line in _draw(each)))
        if not found:
            click.echo(f"Nothing is in {' or '.join(visible(str(base)) for base in bases)}.")
    if purge and found:
        waiting = sum(each.waiting.segments for each in found)
        if not yes:
            click.confirm(f"Remove all? {waiting} were not delivered.", abort=True, err=True)
        for each in found:
            destinations.purge(each.path)


def _export(file: Path, paths: list[Path], *, of_logs: bool) -> int:
    from otel_logging.traces import otlp_json  # protobuf's JSON, which no other command needs

    segments = (
        contents
        for base in dict.fromkeys(path.parent for path in paths)
        for segment in reading.segments(base, of_logs=of_logs)
        if segment.parent.parent in paths
        for contents in parse_all(reading.load(segment) or b"")
    )
    count = 0
    try:
        fd = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(fd, "w", encoding="utf-8") as out:
            for request in otlp_json.requests(segments, of_logs=of_logs):
                out.write(strict(request) + "\n")
                count += 1
    except OSError as error:
        raise click.ClickException(f"{file} cannot be written: {error}") from None
    return count


def _as_json(one: Destination) -> dict[str, Any]:
    def pile(some: Pile) -> dict[str, Any]:
        age_s = None if some.oldest_s is None else max(time.time() - some.oldest_s, 0.0)
        return {"segments": some.segments, "bytes": some.size_bytes, "oldest_s": age_s}

    return {
        "service": one.service,
        "to": one.to or None,
        "signal": "logs" if one.is_of_logs else "traces",
        "path": str(one.path),
        "processes": one.processes,
        "hours": one.hours,
        "waiting": pile(one.waiting),
        "sent": pile(one.sent),
    }


def _draw(one: Destination) -> Iterator[Text]:
    what = "log records" if one.is_of_logs else "spans"
    living = "no process" if not one.processes else f"{one.processes} running"
    title = " · ".join(filter(None, (visible(one.service), what, visible(one.to), living)))
    yield Text(title, "bold")
    for word, some in (("wait", one.waiting), ("sent", one.sent)):
        if some.segments:
            yield Text(f"  {word}  {_said(some)}")
    yield Text(f"  {visible(str(one.path))}", "dim", overflow="ignore")


def _said(some: Pile) -> str:
    age = max(time.time() - (some.oldest_s or 0.0), 1.0)
    unit, length = next(each for each in _UNITS if age >= each[1])
    size = some.size_bytes
    shown = f"{size / 1e3:.1f} kB" if size < 100_000 else f"{size / 1e6:.1f} MB"
    plural = "" if some.segments == 1 else "s"
    return f"{some.segments} segment{plural}, {shown}, the oldest {age // length:.0f} {unit} old"
