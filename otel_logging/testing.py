"""Spans and lines of a test as plain data, in one tree.

What would have been sent is captured: spans are read back from their OTLP bytes, and lines from the
JSON renderer. Nothing goes to disk or network, and afterwards the process is as before.
"""

import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import count
from typing import Any, Final

from opentelemetry.trace import SpanContext

from otel_logging import _names, _otlp, _parse, _runtime, observability
from otel_logging import context as bindings
from otel_logging.export import ids, pipeline, span_bytes
from otel_logging.export.span import Span
from otel_logging.integrations import registry
from otel_logging.logs.render import json_renderer
from otel_logging.settings import DEFAULT_SAMPLER, Settings, load
from otel_logging.spool.queue import Spool
from otel_logging.traces import span as reading
from otel_logging.traces.trace import is_line

__all__ = ["Captured", "capture"]

_FIXED_START_NS: Final = 946_684_800_000_000_000  # 2000-01-01T00:00:00Z
_FIXED_STEP_NS: Final = 1_000_000  # small, so that no ordinary budget is exceeded by counting

_render: Final = json_renderer(None)


@contextmanager
def capture(*, fixed: bool = False, log_level: str | int | None = None) -> Iterator["Captured"]:
    """Capture the spans and lines of a ``with`` block.

    *fixed*: ids count from 1, and the clock begins at 2000-01-01T00:00:00Z and
    goes on by a millisecond each time it is read, so that the whole of
    ``Captured.tree`` can be compared. *log_level*: lines from this level on; left
    out, those that set-up, or LOG_LEVEL and LOG_LEVELS, let through.

    The block begins on nobody's behalf: no current span, no job tag, nothing
    bound. It works with and without a set-up; one inside it is checked and takes
    effect, but opens no spool and sends nothing. Every trace that begins here is
    sampled. Lines go to stdout as well, as ever. Nested, the innermost block has
    it all. Afterwards everything is as before.

    Scope: process; blocks may be nested, not overlap. Failure: raises
    ``ConfigurationError``. Cost: some milliseconds a block; memory for all that it keeps.
    """
    level = None if log_level is None else _parse.level("log_level", log_level)
    runtime = _runtime.current
    settings = getattr(runtime.observability, "_settings", None)
    settings = settings or load(beside=observability.is_beside())
    kept = _Kept(replace(settings, sampler=DEFAULT_SAMPLER))
    is_alone = runtime.logs is None and not registry.on
    lines = {"listener": kept.take_line, "listens_from": level}
    clock_and_ids = _fixed(kept) if fixed else {}
    changes = {"take_settings": kept.take_settings, **lines, **clock_and_ids}
    with observability.standing_in(kept, **changes), bindings.detached():
        if is_alone and "loguru" in settings.instrument:  # whose records are lines in any case
            registry.instrument(("loguru",))
        yield Captured(kept)


# ---------------------------------------------------------------- what is kept


class _Kept(pipeline.Pipeline):
    """A pipeline that ends in lists. Lines that no open span takes stay events: a page or a
    ``process log`` would use up ids that the test counts.
    """

    def __init__(self, settings: Settings) -> None:
        self.spans: list[tuple[bytes, bytes]] = []  # resource, span
        self.pages: list[bytes] = []  # each a span that holds events of its parent
        self.lines: list[tuple[int, bytes]] = []  # ns since the epoch, JSON
        nowhere = Spool(None, "", b"", bytes_bound=0, hours=0)
        super().__init__(settings, ids.make_resource(settings), nowhere)

    def take_settings(self, settings: Settings) -> None:
        """Take over the settings of a set-up inside the block."""
        settings = replace(settings, sampler=DEFAULT_SAMPLER)
        self.follow(settings, ids.make_resource(settings))

    def take_line(self, event_dict: Mapping[str, Any]) -> None:
        """Keep a line."""
        self.lines.append((event_dict[_names.TIME_NS], _render(event_dict)))

    def append(self, scope: bytes, trace_id: bytes, encoded: bytes) -> None:  # noqa: ARG002
        """Keep an encoded span, also one that ends after the block."""
        self.spans.append((ids.encode_resource(self.resource), encoded))

    def _to_process_log(self, time_ns: int, name: str, fields: Mapping[str, Any]) -> None:
        self._keep_page(0, 0, [span_bytes.encode_line(self.limits, time_ns, name, fields)])

    def _log_span(
        self, parent: SpanContext, _time_ns: int, events: Sequence[bytes], _number: int
    ) -> None:
        self._keep_page(parent.trace_id, parent.span_id, events)

    def _keep_page(self, trace_id: int, span_id: int, events: Sequence[bytes]) -> None:
        trace_bytes = trace_id.to_bytes(16, "big")
        page = _otlp.span(trace_bytes, 0, span_id, "", 0, _names.LOG_SPAN, 1, 0, 0, {}, events)
        self.pages.append(page)


# ---------------------------------------------------------------- fixed clock and ids


def _fixed(kept: _Kept) -> dict[str, Any]:
    """Give *kept* a clock of its own; return that, and ids that count, for the runtime record.

    Spans that began before the block keep their own clock: a worker that ends one
    meanwhile takes no reading from the test.
    """
    readings = count(_FIXED_START_NS, _FIXED_STEP_NS)
    counts = {128: count(1), 64: count(1)}

    class FixedSpan(Span):
        def __init__(self, *args: Any) -> None:
            *parts, start_ns = args
            super().__init__(*(*parts, next(readings) if start_ns is None else start_ns))

        def now_ns(self) -> int:
            return next(readings)

    kept.span_type, kept.root_flags = FixedSpan, 0  # the flags: these ids are not random
    return {
        "watch": None,
        "now_ns": lambda: next(readings),
        "random_bits": lambda bits: next(counts[bits]),
    }


# ---------------------------------------------------------------- what is shown


class Captured:
    """What a block has logged and traced so far, as plain data; each reading a new copy.

    ``print`` draws the tree. Concurrency: any thread, also while the block runs.
    """

    def __init__(self, kept: _Kept) -> None:
        self._kept = kept

    @property
    def lines(self) -> list[dict[str, Any]]:
        """The lines in the order in which they were logged, as the JSON renderer has them."""
        return [json.loads(line) for _, line in list(self._kept.lines)]

    @property
    def spans(self) -> list[dict[str, Any]]:
        """The spans that have ended, by start: ``trace_id``, and what ``show --json`` has.

        Lines are among their ``events``, all of them, on however many pages they
        would have left.
        """
        ended = self._ended()
        events = self._events()  # also events of spans that have ended since
        return [
            {
                "trace_id": span.trace_id,
                **span.as_json(),
                "events": [event.as_json() for event in events[span.span_id]],
            }
            for span in ended
        ]

    @property
    def tree(self) -> list[dict[str, Any]]:
        """The same as one tree: ``inside`` each span its lines and the spans below it, by time.

        A span has ``inside`` in place of ``events``. A line is what ``lines`` has,
        an event that is no line what ``spans`` has. At the top is what is in no
        span, or in one that has not ended.
        """
        tree: list[dict[str, Any]] = []
        inside: dict[str, list[dict[str, Any]]] = {}
        parts: list[tuple[int, str, dict[str, Any]]] = []
        for span in self._ended():
            below = inside[span.span_id] = []
            node = {"trace_id": span.trace_id, **span.as_json(), "inside": below}
            del node["events"]
            parts.append((span.start_ns, span.parent_span_id, node))
        parts += self._lines_and_events()
        for _, parent, node in sorted(parts, key=lambda part: part[0]):
            inside.get(parent, tree).append(node)
        return tree

    def span(self, name: str) -> dict[str, Any]:
        """Return the one span of that name. Failure: ``LookupError``, listing what is there."""
        return _one(self.spans, "name", name)

    def line(self, event: str) -> dict[str, Any]:
        """Return the one line with that message. Failure: ``LookupError``, as ``span``."""
        return _one(self.lines, _names.EVENT, event)

    def __str__(self) -> str:
        from otel_logging.traces.draw.outline import draw

        return "\n".join(draw(self.tree))

    def __repr__(self) -> str:
        return f"<Captured [{len(self._kept.spans)} spans, {len(self._kept.lines)} lines]>"

    def _ended(self) -> list[reading.Span]:
        ended = [
            reading.from_bytes(encoded, reading.resource_from_bytes(resource))
            for resource, encoded in list(self._kept.spans)
        ]
        return sorted(ended, key=lambda span: (span.start_ns, -span.end_ns))

    def _events(self) -> dict[str, list[reading.Event]]:
        """Return the events by span id, "" for those in no span, each by time."""
        found: dict[str, list[reading.Event]] = defaultdict(list)
        for encoded in list(self._kept.pages):
            page = reading.from_bytes(encoded, reading.resource_from_bytes(b""))
            found[page.parent_span_id] += page.events
        for span in self._ended():
            found[span.span_id] += span.events
        return {
            span_id: sorted(filter(is_line, events), key=lambda event: event.time_ns)
            for span_id, events in found.items()
        }

    def _lines_and_events(self) -> Iterator[tuple[int, str, dict[str, Any]]]:
        """Yield each line and event with its time and its span's id; a line's own event is left
        out.
        """
        recorded = Counter[tuple[str, int]]()
        for time_ns, line in list(self._kept.lines):
            fields = json.loads(line)
            span_id = fields.get(_names.SPAN_ID, "")
            recorded[span_id, time_ns] += 1
            yield time_ns, span_id, fields
        for span_id, events in self._events().items():
            for event in events:
                recorded[span_id, event.time_ns] -= 1
                if recorded[span_id, event.time_ns] < 0:
                    yield event.time_ns, span_id, event.as_json()


def _one(found: list[dict[str, Any]], key: str, wanted: str) -> dict[str, Any]:
    fitting = [each for each in found if each[key] == wanted]
    if len(fitting) != 1:
        there = Counter(str(each[key]) for each in found)
        listed = ", ".join(f"{name!r} ({times})" for name, times in there.items())
        raise LookupError(f"{len(fitting)} with {key} {wanted!r}; there are: {listed or 'none'}")
    return fitting[0]
