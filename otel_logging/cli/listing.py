"""What the commands share: they read the sources, and print what was found. Nothing is changed."""

import gc
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Final

import click
from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from otel_logging._json import strict
from otel_logging._text import visible
from otel_logging.cli.options import ROWS
from otel_logging.settings import links
from otel_logging.traces import sources
from otel_logging.traces.draw import page, terminal
from otel_logging.traces.late import Answer, Question, there_is, unknown_cause
from otel_logging.traces.sources import Answered, Sources

SCHEMA: Final = 2  # of what --json prints: raised where a key changes its meaning or goes
A_DAY: Final = " of the last 24 hours"  # as far back as Jaeger is read by default
_EVERY_S = 1.0  # --follow
_NO_EDGE = 10_000  # columns: a page's title is not cut


def without_gc() -> None:
    """Switch Python's garbage collector off until the command ends, and freeze all objects then.

    Otherwise it would scan 100,000 live spans again and again, also at exit.
    """
    gc.disable()
    for each in (gc.enable, gc.freeze):  # called in the reverse order
        click.get_current_context().call_on_close(each)


def links_of(found: Answered) -> terminal.Links:
    """Return the links into Jaeger for what was found."""
    return terminal.Links(found.link, are_taken=links.takes_links())


def footer(found: Answered, asked: Sources, width: int) -> Iterator[Text]:
    """Yield the lines that name the sources and the directories of the local store. If these do not
    fit into one line, each directory has its own line, uncut: it is to be copied.
    """
    line = asked.read(found)
    yield Text()
    if cell_len(line) <= width:
        yield Text(line, "dim")
        return
    yield from terminal.wrapped(Text(found.origin, "dim"), width, 2)
    yield from (Text(path, "dim", overflow="ignore") for path in asked.directories)


#: An answer as it is drawn, and its rows as JSON.
Shown = tuple[Iterable[Text], Iterable[dict[str, Any]]]


@dataclass(slots=True)
class Listing:
    """What ``late`` and ``failed`` share: they ask, and print the answer. Its fields are the
    options of both commands.
    """

    asked: Sources
    since: float | None
    who: str | None
    where: tuple[tuple[str, str], ...]
    service: str | None
    limit: int | None
    as_json: bool
    follow: bool
    html: Path | None
    out: Console = field(init=False)
    most: int | None = field(init=False)  # rows of an answer
    _is_titled: bool = field(init=False, default=False)

    def __post_init__(self) -> None:
        if self.html is not None and (self.follow or self.as_json):
            raise click.UsageError("--html goes neither with --follow nor with --json")
        self.out = terminal.console()
        self.most = self.limit or (None if self.as_json else ROWS)

    def question(self, over_s: float | None = None, cause: str | None = None) -> Question:
        """Return the question that the options ask."""
        since_ns = 0 if self.since is None else time.time_ns() - int(self.since * 1e9)
        return Question(over_s, since_ns, self.who, self.where, self.service, cause)

    def rows(
        self,
        draw: Callable[..., Iterable[Text]],
        found: Answered,
        answer: Answer[Any],
    ) -> Shown:
        """Return the rows of an answer as *draw* draws them, and as JSON."""
        drawn = draw(answer, width=self.out.width, links=links_of(found))
        return drawn, (row.as_json(found.link(*row.ids)) for row in answer.rows)

    def run(
        self,
        question: Question,
        ask: Callable[..., Answer[Any]],
        shown: Callable[[Answered, Answer[Any]], Shown],
    ) -> tuple[Answered, Answer[Any]]:
        """Ask, and print the answer; with ``--follow`` again and again, each row once."""
        without_gc()
        is_first = True
        while True:
            began = time.monotonic()
            found, answer = self.asked.answer(question, partial(ask, limit=self.most))
            if is_first or answer.rows:
                is_there = answer.rows or (answer.looked_at and question.cause is None)
                there = [] if is_there else [*map(visible, there_is(found.spans, question))]
                unknown = found.spans and not self.follow and unknown_cause(question, there)
                if unknown:
                    raise click.BadParameter(unknown, param_hint="--cause")
                self._print(found, answer, shown(found, answer), there)
            if not self.follow:
                return found, answer
            self.most = self.limit  # all rows that come from now on, unless --limit was given
            # including rows beyond the limit, which were reported as "n more"
            reported = question.without.union(map(answer.name, answer.every))
            question, is_first = replace(question, without=reported), False
            del found, answer
            gc.collect()
            time.sleep(max(_EVERY_S, time.monotonic() - began))

    def _print(self, found: Answered, answer: Answer[Any], shown: Shown, there: list[str]) -> None:
        """Print an answer; *there*: what there is instead of what was asked for."""
        drawn, rows = shown
        read = [] if self.asked.which == sources.JAEGER else ["local store"]
        read += ["Jaeger"] if found.jaeger else []
        places, width = self.asked.directories, self.out.width
        if self.html is not None or self.as_json:
            for each in there:
                click.echo(each, err=True)
        if self.html is not None:
            title = terminal.titled(next(iter(drawn)), read, places, _NO_EDGE)
            _write(self.html, page.draw(title.plain, answer, list(rows), found.origin))
        elif self.as_json and self.follow:
            for row in rows:
                click.echo(_object(row))
        elif self.as_json:
            print_array(rows)
            click.echo(self.asked.read(found), err=True)
        elif not found.spans:
            when = "" if self.since is not None else A_DAY
            click.echo(terminal.broken(self.asked.nothing(found, when), sys.stdout))
        else:
            title, *lines = drawn
            title = terminal.titled(title, read, places, width)
            lines += [line for each in there for line in terminal.wrapped(Text(each), width, 4)]
            blank, *named_ = footer(found, self.asked, width)
            if not self.follow:
                lines = [title, *lines, blank, *named_]
            elif not self._is_titled:  # what follows stands below the rows
                lines = [title, *named_, *lines]
            self._is_titled = True
            terminal.show(self.out, lines)


def _write(file: Path, text: str) -> None:
    try:
        with click.open_file(str(file), "w", encoding="utf-8") as out:
            out.write(text)
    except OSError as error:
        raise click.ClickException(f"{file} cannot be written: {error}") from None
    click.echo(f"written: {file}", err=str(file) == "-")


def print_array(rows: Iterable[dict[str, Any]]) -> None:
    """Print a JSON array, row by row: 100,000 at once would be a gigabyte."""
    before = "[\n"
    for row in rows:
        sys.stdout.write(before + _object(row))
        before = ",\n"
    sys.stdout.write("[]\n" if before == "[\n" else "\n]\n")


def _object(row: dict[str, Any]) -> str:
    return strict({"schema": SCHEMA, **row})
