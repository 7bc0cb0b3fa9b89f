"""What the commands do alike: read the sources, and print what was found. Nothing is changed."""

import gc
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from json.encoder import encode_basestring_ascii
from pathlib import Path
from typing import Any, Final

import click
from rich.cells import cell_len
from rich.text import Text

from otel_logging._errors import ConfigurationError
from otel_logging._json import dumps
from otel_logging._text import later, visible
from otel_logging.cli.options import ROWS, Store
from otel_logging.settings import links
from otel_logging.traces import sources
from otel_logging.traces.draw import page, terminal
from otel_logging.traces.jaeger import JaegerError
from otel_logging.traces.late import Question, Row, there_is
from otel_logging.traces.sources import Answered, Sources

A_DAY: Final = " of the last 24 hours"  # as far back as Jaeger is read by default
_NOT_ASCII: Final = later(r"[^\x00-\x7e]+")
_EVERY_S = 1.0  # --follow


def sources_of(source: str | None, store: Store) -> Sources:
    """Return what is to be read. Failure: raises ``ConfigurationError``."""
    which = source or sources.BOTH
    return Sources(which, tuple(store.places), links.jaeger_url(), store.of_others)


@contextmanager
def opened(source: str | None, store: Store) -> Iterator[Sources]:
    """Yield what is to be read. What it raises becomes the command's error.

    Python's garbage collector is off until the command ends, and never sees what is there then: it
    would look through 100,000 spans again and again, also at exit, and none of them is garbage.
    """
    gc.disable()
    for each in (gc.enable, gc.freeze):  # the last one first
        click.get_current_context().call_on_close(each)
    try:
        yield sources_of(source, store)
    except (JaegerError, ConfigurationError) as error:
        raise click.ClickException(str(error)) from None


def links_of(found: Answered) -> terminal.Links:
    """Return the links to Jaeger of what was found."""
    return terminal.Links(found.link, are_taken=links.takes_links())


def footer(found: Answered, source: str | None, store: Store, width: int) -> Iterator[Text]:
    """Yield the lines that name the sources, and the directories of the local store; where they
    have no room in one, each directory has its own, whole: it is to be copied.
    """
    known = [] if source == sources.JAEGER else filter(Path.is_dir, store.places)
    paths = [visible(str(place)) for place in known]
    line = " · ".join([found.origin, *paths])
    yield Text()
    if cell_len(line) <= width:
        yield Text(line, "dim")
        return
    yield from terminal.wrapped(Text(found.origin, "dim"), width, 2)
    yield from (Text(path, "dim", overflow="ignore") for path in paths)


def nothing_in(found: Answered, source: str | None, store: Store, *, when: str) -> str:
    """Return that nothing is there, and where it was looked for."""
    if source == sources.JAEGER:
        return f"Nothing{when} that matches is in Jaeger: read {found.origin}."
    return (
        f"Nothing is recorded in {store} yet: a stage appears here when it ends, "
        "once setup_observability() was called in its process."
    )


@dataclass(slots=True)
class Shown:
    """An answer to be printed: drawn, as JSON, and what it is of."""

    drawn: Iterable[Text]
    as_json: Iterable[dict[str, Any]]
    rows: list[Row]
    looked_at: int


class Listing:
    """What ``late`` and ``failed`` do alike with what they were given."""

    def __init__(
        self,
        *,
        since: float | None,
        who: str | None,
        where: tuple[tuple[str, str], ...],
        limit: int | None,
        service: str | None,
        source: str | None,
        store: Store,
        as_json: bool,
        follow: bool,
        html: Path | None,
    ) -> None:
        if html is not None and (follow or as_json):
            raise click.UsageError("--html goes neither with --follow nor with --json")
        self.since_ns = 0 if since is None else time.time_ns() - int(since * 1e9)
        self.who, self.where, self.service = who, where, service
        self.limit = limit or (None if as_json else ROWS)
        self._source, self._store, self._page = source, store, html
        self._as_json, self._follow = as_json, follow
        self._out = terminal.console()
        self.width = self._out.width

    def run(self, question: Question, answered: Callable[[Answered, set[str]], Shown]) -> None:
        """Ask, and print the answer; with ``--follow`` again and again, each row once."""
        seen: set[str] = set()
        is_first = True
        while True:
            began = time.monotonic()
            with opened(self._source, self._store) as asked:
                found = asked.late(question)
            shown = answered(found, seen)
            if is_first or shown.rows:
                is_there = shown.rows or (shown.looked_at and question.cause is None)
                known = () if is_there else there_is(found.spans, question)
                self._print(found, shown, [visible(each) for each in known])
            if not self._follow:
                return
            seen.update(row.span.trace_id for row in shown.rows)
            is_first = False
            del found, shown
            gc.collect()
            time.sleep(max(_EVERY_S, time.monotonic() - began))

    def _print(self, found: Answered, shown: Shown, known: list[str]) -> None:
        """Print an answer; *known*: what there is, where nothing was of what was asked for."""
        if self._page is not None or self._as_json:
            for each in known:
                click.echo(each, err=True)
        if self._page is not None:
            title = next(iter(shown.drawn)).plain
            parts = page.draw(
                title, list(shown.as_json), [row.trace for row in shown.rows], found.origin
            )
            try:
                self._page.write_text("".join(parts), encoding="utf-8")
            except OSError as error:
                raise click.ClickException(f"{self._page} cannot be written: {error}") from None
            click.echo(f"written: {self._page}")
        elif self._as_json and self._follow:
            for row in shown.as_json:
                click.echo(strict(row))
        elif self._as_json:
            # row by row: 100,000 would be a gigabyte
            lines = ((",\n" if at else "\n") + strict(row) for at, row in enumerate(shown.as_json))
            sys.stdout.writelines(chain("[", lines, "\n]\n" if shown.rows else "]\n"))
            click.echo(found.origin, err=True)
        elif not found.spans:
            when = "" if self.since_ns else A_DAY
            click.echo(nothing_in(found, self._source, self._store, when=when))
        else:
            there = [line for each in known for line in terminal.wrapped(Text(each), self.width, 4)]
            rest = footer(found, self._source, self._store, self.width)
            terminal.show(self._out, [*shown.drawn, *there, *rest])


def strict(value: Any) -> str:
    """Return JSON that any program and any terminal takes."""
    # non-ASCII is escaped: any terminal's encoding can print it, and none obeys it
    text = dumps(value).decode()
    if text.isascii():
        return text
    return _NOT_ASCII.sub(lambda found: encode_basestring_ascii(found.group())[1:-1], text)
