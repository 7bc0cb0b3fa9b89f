"""``otel-logging``: ask the local store and Jaeger, in a terminal.

In: arguments. Out: text, or JSON by the contract of ``docs/commands.md``; exit
code 0, 1 if there is nothing to show, 2 for a wrong command line.
Invariant: nothing in a store is changed. Deliberately absent: reading,
judging and drawing, which ``traces`` does.
"""

import gc
import json
import re
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, TypeVar

import click
from rich.text import Text

from otel_logging import _names, settings
from otel_logging._errors import ConfigurationError
from otel_logging._text import visible
from otel_logging.settings import links
from otel_logging.traces import sources
from otel_logging.traces.draw import table, terminal, waterfall
from otel_logging.traces.jaeger import JaegerError
from otel_logging.traces.late import Question, there_is
from otel_logging.traces.late import late as late_stages
from otel_logging.traces.search import WHOLE_ID
from otel_logging.traces.sources import Answered, Sources
from otel_logging.traces.trace import Trace, by_trace
from otel_logging.traces.trace import last as last_of

_ROWS = 20  # of a table by default: a screenful
_NAMED = 5  # candidates for a prefix of several traces
_A_DAY: Final = " of the last 24 hours"  # as far back as Jaeger is read by default
_UNITS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}

_Command = TypeVar("_Command", bound=Callable[..., Any])


def _seconds(given: str) -> float:
    """Read ``0.3``, ``300ms``, ``2s``."""
    return _duration(given, "0.3 is 0.3 seconds, so is 300ms", bare_unit="s")


def _ago(given: str) -> float:
    """Read ``90s``, ``15m``, ``2h``, ``1d``."""
    return _duration(given, "say 90s, 15m, 2h or 1d", bare_unit="")


def _duration(given: str, advice: str, *, bare_unit: str) -> float:
    found = re.fullmatch(r"(\d+(?:\.\d+)?|\.\d+)(ms|[smhd])?", given.strip())
    unit = (found[2] or bare_unit) if found else ""
    if found is None or not unit:
        raise click.BadParameter(f"{given!r} is not a duration: {advice}")
    return float(found[1]) * _UNITS[unit]


def _pair(given: str) -> tuple[str, str]:
    """Read ``key=value``."""
    key, equals, value = given.partition("=")
    if not key or not equals:
        raise click.BadParameter(f"{given!r} is not an attribute: say key=value")
    return key, value


_spool_dir = click.option(
    "--spool-dir",
    type=click.Path(file_okay=False, path_type=Path),
    help="The local store is here, not where OTEL_LOGGING_SPOOL_DIR says.",
)


def _of_store(command: _Command) -> _Command:
    """Add the options of all commands that read the store."""
    for option in (
        click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs."),
        _spool_dir,
        click.option("--service", metavar="NAME", help="Only this service's stages."),
        click.option(
            "--source",
            type=click.Choice([sources.LOCAL, sources.JAEGER]),
            help="Read only this one; by default both, if they answer.",
        ),
    ):
        command = option(command)
    return command


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="otel-logging", prog_name="otel-logging")
def main() -> None:
    """Find out which user's message, at what moment, was handled late, and why."""


@main.command()
@click.option(
    "--over",
    type=_seconds,
    metavar="SECONDS",
    help="Late is what took longer, whatever its budget.",
)
@click.option("--since", type=_ago, metavar="15m", help="Only stages that ended since then.")
@click.option("--who", metavar="U", help="Only on behalf of this user, or whatever who= names.")
@click.option(
    "--where",
    type=_pair,
    metavar="k=v",
    multiple=True,
    help="Only with this attribute on the stage, its root or below; several on the same span.",
)
@click.option(
    "--limit",
    type=click.IntRange(min=1),
    metavar="N",
    help=f"At most N rows, the worst ones; {_ROWS} unless --json.",
)
@_of_store
def late(
    *,
    over: float | None,
    since: float | None,
    who: str | None,
    where: tuple[tuple[str, str], ...],
    limit: int | None,
    service: str | None,
    source: str | None,
    spool_dir: Path | None,
    as_json: bool,
) -> None:
    """List the late stages, worst first: when, for whom, how late, where the time went."""
    since_ns = 0 if since is None else time.time_ns() - int(since * 1e9)
    question = Question(over, since_ns, who, where, service)
    with _sources(source, spool_dir) as asked:
        found = asked.late(question)
    if as_json:
        rows = late_stages(found.spans, question, limit=limit).rows
        _print_json(row.as_json(found.link(row.span.trace_id, row.span.span_id)) for row in rows)
        click.echo(found.origin, err=True)
    elif not found.spans:
        when = _A_DAY if since is None else ""
        click.echo(_empty(found, source, spool_dir, when=when))
    else:
        answer = late_stages(found.spans, question, limit=limit or _ROWS)
        out = terminal.console()
        drawn = table.draw(answer, width=out.width, links=_links(found), narrowed=found.narrowed)
        known = (
            []
            if answer.looked_at
            else [Text(visible(each)) for each in there_is(found.spans, question)]
        )
        terminal.show(out, [*drawn, *known, *_footer(found)])


@main.command()
@click.argument("trace_id", required=False)
@click.option("--last", is_flag=True, help="The trace that ended last; so without TRACE_ID.")
@_of_store
def show(
    *,
    trace_id: str | None,
    last: bool,
    service: str | None,
    source: str | None,
    spool_dir: Path | None,
    as_json: bool,
) -> None:
    """Draw one trace: its stages, and their log lines inside them.

    TRACE_ID may be cut to its first digits, at least four.
    """
    if trace_id is not None and last:
        raise click.UsageError("say TRACE_ID or --last, not both")
    prefix = None if trace_id is None else _prefix(trace_id)
    with _sources(source, spool_dir) as asked:
        found = asked.last(service) if prefix is None else asked.trace(prefix)
    traces = by_trace(found.spans)
    if not traces:
        when = "" if prefix is not None and len(prefix) == WHOLE_ID else _A_DAY
        raise click.ClickException(_empty(found, source, spool_dir, when=when))
    trace = _newest(traces, service) if prefix is None else _one(traces, prefix, service)
    if as_json:
        spans = ",\n".join(_strict(span.as_json()) for span in trace.in_order)
        click.echo(f'{{"trace_id": "{trace.trace_id}", "spans": [\n{spans}\n]}}')
        click.echo(found.origin, err=True)
    else:
        out = terminal.console()
        drawn = waterfall.draw(trace, width=out.width, links=_links(found))
        terminal.show(out, [*drawn, *_footer(found)])


@main.command()
@click.option(
    "--environment",
    envvar=_names.ENVIRONMENT,
    default="development",
    show_default=True,
    metavar="NAME",
    help="As for any service: production prints JSON.",
)
@_spool_dir
def demo(*, environment: str, spool_dir: Path | None) -> None:
    """Run a small chat service for ten seconds, and find out who was answered late, and why."""
    try:
        from otel_logging.demo import run
    except ModuleNotFoundError as error:
        message = f"The demo needs {error.name}: pip install 'otel-logging[demo]'"
        raise click.ClickException(message) from None
    try:
        run(environment=environment, spool_dir=spool_dir)
    except ConfigurationError as error:
        raise click.ClickException(str(error)) from None


@main.command()
@click.option(
    "--wait",
    type=_seconds,
    default="15",
    metavar="SECONDS",
    show_default=True,
    help="How long the probe may take to Jaeger.",
)
@_spool_dir
def doctor(*, wait: float, spool_dir: Path | None) -> None:
    """Send a probe and read it back from Jaeger; say what is wrong on the way, and what to do.

    Start it as the service is started: same environment, same directory, same machine.
    """
    # here: it needs the SDK, which no other command does
    from otel_logging.doctor import report
    from otel_logging.doctor.checks import examine

    out = terminal.console()
    findings = []
    for finding in examine(spool_dir=spool_dir, patience_s=wait):
        findings.append(finding)
        terminal.show(out, report.draw(finding, width=out.width, encoding=out.encoding))
    terminal.show(out, report.result(findings))
    click.get_current_context().exit(report.problems(findings) > 0)


# ---------------------------------------------------------------- which trace


def _prefix(given: str) -> str:
    wanted = given.strip().lower()
    if not re.fullmatch("[0-9a-f]{4,32}", wanted):
        message = f"{given!r} is not a trace id: say 4 to 32 hexadecimal digits"
        raise click.BadParameter(message, param_hint="TRACE_ID")
    return wanted


def _newest(traces: dict[str, Trace], service: str | None) -> Trace:
    found = last_of(traces.values(), service=service)
    if found is None:
        spans = [span for trace in traces.values() for span in trace.spans.values()]
        if known := list(there_is(spans, Question(service=service))):
            raise click.ClickException(f"Nothing of {service}; {known[0]}.")
        of_service = f" of {service}" if service else ""
        raise click.ClickException(f"No stage{of_service} has ended yet; only log lines are there.")
    return found


def _one(traces: dict[str, Trace], prefix: str, service: str | None) -> Trace:
    found = [
        trace
        for trace_id, trace in traces.items()
        if trace_id.startswith(prefix)
        and any(service in (None, span.resource.service) for span in trace.spans.values())
    ]
    if not found:
        raise click.ClickException(f"No trace {prefix} among the {len(traces)} in the store.")
    if len(found) > 1:
        named = "".join(f"\n  {trace.trace_id}" for trace in found[:_NAMED])
        rest = f"\n  and {len(found) - _NAMED} more" if len(found) > _NAMED else ""
        raise click.ClickException(f"{len(found)} traces begin with {prefix}:{named}{rest}")
    return found[0]


# ---------------------------------------------------------------- the sources, and JSON


@contextmanager
def _sources(source: str | None, spool_dir: Path | None) -> Iterator[Sources]:
    """Yield what is to be read. What it raises becomes the command's error.

    Python's garbage collector is off until the command ends: it would look through 100,000
    spans again and again, and none of them is garbage.
    """
    gc.disable()
    click.get_current_context().call_on_close(gc.enable)
    try:
        url = links.jaeger_url()
        yield Sources(source or sources.BOTH, tuple(_places(spool_dir)), url)
    except (JaegerError, ConfigurationError) as error:
        raise click.ClickException(str(error)) from None


def _links(found: Answered) -> terminal.Links:
    return terminal.Links(found.link, are_taken=links.takes_links())


def _footer(found: Answered) -> list[Text]:
    return [Text(), Text(found.origin, "dim", overflow="ignore")]


def _places(spool_dir: Path | None) -> list[Path]:
    return settings.spool_base() if spool_dir is None else [spool_dir]


def _empty(found: Answered, source: str | None, spool_dir: Path | None, *, when: str) -> str:
    if source == sources.JAEGER:
        return f"Nothing{when} that matches is in Jaeger: read {found.origin}."
    places = " or ".join(str(place) for place in _places(spool_dir))
    return (
        f"Nothing is recorded in {places} yet: a stage appears here when it ends, "
        "once setup_observability() was called in its process."
    )


def _print_json(rows: Iterable[dict[str, Any]]) -> None:
    """Print an array, a row a line."""
    lines = ",\n".join(_strict(row) for row in rows)
    click.echo(f"[\n{lines}\n]" if lines else "[]")


def _strict(value: Any) -> str:
    # non-ASCII is escaped: any terminal's encoding can print it, and none obeys it
    return json.dumps(value, allow_nan=False)
