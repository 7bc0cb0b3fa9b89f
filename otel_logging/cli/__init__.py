"""``otel-logging``: ask the local store and Jaeger, in a terminal.

Only ``spool --purge`` and ``spool --resend`` change anything in a store.
"""

import re
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any, Final

import click
from rich.text import Text

from otel_logging import _names
from otel_logging._errors import ConfigurationError
from otel_logging._json import strict
from otel_logging._text import visible
from otel_logging.cli import options
from otel_logging.cli.listing import (
    A_DAY,
    SCHEMA,
    Listing,
    Shown,
    footer,
    links_of,
    print_array,
    without_gc,
)
from otel_logging.cli.options import flag, of_places, of_rows, of_sources, of_store, seconds
from otel_logging.cli.spool import spool
from otel_logging.lateness.died import tables
from otel_logging.traces import groups
from otel_logging.traces.draw import now as draw_now
from otel_logging.traces.draw import table, terminal, waterfall
from otel_logging.traces.failed import failed as failed_traces
from otel_logging.traces.jaeger import JaegerError
from otel_logging.traces.late import CAUSES, SORTS, Answer, Question, Row, there_is
from otel_logging.traces.late import late as late_stages
from otel_logging.traces.search import WHOLE_ID
from otel_logging.traces.sources import Answered, Sources, named
from otel_logging.traces.span import Span
from otel_logging.traces.trace import Trace, by_trace
from otel_logging.traces.trace import last as last_of

#: What a command says whose packages are not installed by default.
_EXTRAS: Final = {"demo": "The demo needs", "mcp": "The tools need"}


def _error(said: str) -> click.ClickException:
    return click.ClickException(terminal.broken(said, sys.stderr))


class _Commands(click.Group):
    """Commands that say in words what was raised."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except (JaegerError, ConfigurationError) as error:
            raise _error(str(error)) from None
        except ModuleNotFoundError as error:
            if (extra := ctx.invoked_subcommand) not in _EXTRAS:
                raise
            message = f"{_EXTRAS[extra]} {error.name}: pip install 'otel-logging[{extra}]'"
            raise _error(message) from None


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="otel-logging", prog_name="otel-logging")
def main() -> None:
    """Find out which user's message, at what moment, was handled late, and why."""


@main.command()
@click.option(
    "--over",
    type=seconds,
    metavar="SECONDS",
    help="Late is what took longer, whatever its budget: 0.3, 300ms.",
)
@click.option(
    "--sort",
    type=click.Choice(list(SORTS)),
    default="late-by",
    show_default=True,
    help="What comes first: the largest, or the newest.",
)
@click.option(
    "--group", type=click.Choice(list(groups.KEYS)), help="One row for all that share it."
)
@click.option("--cause", help=f"Only what this made late: {', '.join(CAUSES)}, or a name of yours.")
@flag("--summary", help="A sentence for each cause: whom, how often, by how much.")
@flag("--fail", help="Exit with 1 if anything was late, or cannot be read.")
@of_rows
def late(
    *,
    over: float | None,
    cause: str | None,
    sort: str,
    group: str | None,
    summary: bool,
    fail: bool,
    **given: Any,
) -> None:
    """List the late stages, worst first.

    When, for whom, how late, and where the time went. A stage is late if it took longer than its
    budget. If nothing has a budget, the slowest stages are listed.
    """
    if given["html"] and (group or summary):
        raise click.UsageError("--html has rows, no --group or --summary of them")
    listing = Listing(**given)
    key = groups.KEYS[group] if group else groups.reason_key if summary else None

    def shown(found: Answered, answer: Answer[Any]) -> Shown:
        if key is None or not answer.rows:
            return listing.rows(table.draw, found, answer)
        every = groups.grouped(answer.rows, key)
        parts = every[: listing.most]
        draw = table.draw_summary if summary else partial(table.draw_groups, by=str(group))
        drawn = draw(answer, parts, found=len(every), width=listing.out.width)
        return drawn, (part.as_json() for part in parts)

    def ask(spans: list[Span], question: Question, *, limit: int | None) -> Answer[Row]:
        return late_stages(spans, question, limit=None if key else limit, sort=sort)

    found, answer = listing.run(listing.question(over, cause), ask, shown)
    is_late = answer.judged and answer.found > 0
    click.get_current_context().exit(fail and (is_late or found.is_damaged))


@main.command()
@of_rows
def failed(**given: Any) -> None:
    """List the failed traces, newest first.

    When, for whom, what was raised, and where.
    """
    listing = Listing(**given)
    listing.run(listing.question(), failed_traces, partial(listing.rows, table.draw_failed))


@main.command()
@click.argument("trace_id", required=False)
@click.option(
    "--last",
    type=click.IntRange(min=1),
    is_flag=False,
    flag_value=1,
    metavar="[N]",
    help="The N traces that ended last; the last one, also without TRACE_ID.",
)
@click.option("--who", metavar="U", help="Only traces on behalf of this user, as --who user-456.")
@flag("--all", "unfolded", help="Draw each stage, also many of one name.")
@flag("--stack", "stacks", help="Show each step down to where a late stage stood.")
@of_store
def show(
    *,
    trace_id: str | None,
    last: int | None,
    who: str | None,
    service: str | None,
    asked: Sources,
    as_json: bool,
    **looks: bool,
) -> None:
    """Draw one trace: its stages, and their log lines inside them.

    TRACE_ID may be cut to its first digits, at least four.
    """
    if trace_id is not None and (last is not None or who is not None):
        raise click.UsageError("say TRACE_ID, or --last and --who")
    without_gc()
    question = Question(who=who, service=service)
    prefix, number = "" if trace_id is None else _prefix(trace_id), last or 1
    if prefix:
        found = asked.trace(prefix)
    elif who is not None or number > 1:
        found = asked.late(question)
    else:
        found = asked.last(service)
    traces = by_trace(found.spans)
    if not traces:
        raise _error(asked.nothing(found, "" if len(prefix) == WHOLE_ID else A_DAY))
    chosen, none = _chosen(traces, question, prefix, number)
    if not chosen:
        known = there_is(found.spans, question)
        said = next((f"Nothing of {service or who}; {each}." for each in known), none)
        raise _error(f"{visible(said)}\n{asked.read(found)}")
    chosen = found.whole(chosen)
    if as_json:
        shown = [
            f'{{"schema": {SCHEMA}, "trace_id": "{trace.trace_id}", "spans": [\n'
            + ",\n".join(strict(span.as_json()) for span in trace.in_order)
            + "\n]}"
            for trace in chosen
        ]
        click.echo(shown[0] if number == 1 else "[\n" + ",\n".join(shown) + "\n]")
        click.echo(asked.read(found), err=True)
        return
    out = terminal.console()
    for trace in chosen:
        drawn = waterfall.draw(trace, width=out.width, links=links_of(found), **looks)
        terminal.show(out, [*drawn, *([Text()] if trace is not chosen[-1] else ())])
    terminal.show(out, footer(found, asked, out.width))


@main.command()
@click.option(
    "--environment",
    envvar=_names.ENVIRONMENT,
    default="development",
    show_default=True,
    metavar="NAME",
    help="As for any service: production prints JSON.",
)
@options.spool_dir
def demo(*, environment: str, spool_dir: Path | None) -> None:
    """Run a small chat service for ten seconds, and see why it is slow.

    Then late and show find out who was answered late. Nothing else has to run.
    """
    from otel_logging.demo import run

    run(environment=environment, spool_dir=spool_dir)


@main.command()
@click.option(
    "--wait",
    type=seconds,
    default="15",
    metavar="SECONDS",
    show_default=True,
    help="How long the probe may take to Jaeger.",
)
@options.spool_dir
def doctor(*, wait: float, spool_dir: Path | None) -> None:
    """Find out why nothing is in Jaeger, and what to do.

    It sends a probe to the collector and reads it back from Jaeger. It ends with 1 if there is a
    problem.

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


@main.command()
@of_sources
def mcp(*, asked: Sources) -> None:
    """Answer a coding agent, over stdin and stdout.

    late, failed and show are tools of the Model Context Protocol.
    """
    from otel_logging.mcp_server import serve

    serve(asked)


@main.command()
@flag("--stack", help="Show each step down to where a stage stands.")
@options.as_json
@of_places
def now(*, stack: bool, as_json: bool, store: Sources) -> None:
    """List what is open at this moment, in every process.

    Since when, for whom, and where it stands.
    """
    rows = draw_now.rows(tables(store.places), time.perf_counter_ns())
    if not rows:
        is_there = store.directories or not store.places
        where = "" if is_there else f": there is no {named(store.places)}"
        click.echo(f"Nothing is open{where}.", err=as_json)
    if as_json:
        print_array(map(draw_now.as_json, rows))
    else:
        out = terminal.console()
        terminal.show(out, draw_now.draw(rows, stack=stack, width=out.width))


@main.command(
    "run", context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False}
)
@click.option("--service", metavar="NAME", help="The service's name; by default the application's.")
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
def run_program(*, service: str | None, command: tuple[str, ...]) -> None:
    """Set a program up and start it, with no line of code.

    As setup_observability does it: otel-logging run uvicorn app:app

    Everything else is set by variables: docs/configuration.md. Python programs that it starts
    are set up too.
    """
    from otel_logging import run

    try:
        run.replace_process(command, service)
    except OSError as error:
        raise click.ClickException(f"{command[0]} is not started: {error.strerror}") from None


main.add_command(spool)


# ---------------------------------------------------------------- which trace


def _prefix(given: str) -> str:
    wanted = given.strip().lower()
    if not re.fullmatch("[0-9a-f]{4,32}", wanted):
        message = f"{given!r} is not a trace id: say 4 to 32 hexadecimal digits"
        raise click.BadParameter(message, param_hint="TRACE_ID")
    return wanted


def _chosen(
    traces: dict[str, Trace], asked: Question, prefix: str, number: int
) -> tuple[list[Trace], str]:
    """Return the trace whose id begins with *prefix*, or, without a prefix, the last ones; and what
    to say if no trace is found.
    """
    service, who = asked.service, asked.who
    if not prefix:
        of = (f" of {service}" if service else "") + (f" for {who}" if who else "")
        none = f"No stage{of} has ended yet; only log lines are there."
        return last_of(traces.values(), number, service=service, who=who), none
    found = [
        trace
        for trace_id, trace in traces.items()
        if trace_id.startswith(prefix)
        and any(service in (None, span.resource.service) for span in trace.spans.values())
    ]
    if len(found) > 1:
        named = "".join(f"\n  {trace.trace_id}" for trace in found)
        raise click.ClickException(f"{len(found)} traces begin with {prefix}:{named}")
    return found, f"No trace {prefix} among the {len(traces)} read."
