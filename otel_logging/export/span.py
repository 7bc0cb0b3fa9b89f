"""The span: what OpenTelemetry sees of a stage.

In: attributes, events and lines while it is open. Out: OTLP bytes when it ends.
Invariant: nothing that an open span is given is lost, whichever thread gives it and
whenever the span ends. A full page of events leaves at once as a child span, and so
does what arrives after the end. There is no lock, since a signal handler or
``__del__`` may log inside any of these methods. ``deque`` and ``list.pop``
are atomic: whoever appends, and then finds that the span has ended, takes the rest out.
Deliberately absent: where the bytes go (``pipeline``).
"""

import logging
import sys
from collections.abc import Iterable, Mapping
from typing import Any, Final

from opentelemetry import trace
from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, SpanContext, Status, StatusCode

from otel_logging import _diagnostics, _forks, _names, _otlp, background_tasks
from otel_logging import context as bindings
from otel_logging._exceptions import is_recorded, mark_recorded
from otel_logging._values import Plain, field, plain
from otel_logging.export.span_bytes import EVENT_BYTES, bounded, encode_line, encode_shown, frozen
from otel_logging.export.span_state import Readable
from otel_logging.lateness.stage import ended_below
from otel_logging.processors import described, traceback_of

#: The logger of the SDK's warnings about the use of a span, where users look for them.
_sdk_log: Final = logging.getLogger("opentelemetry.sdk.trace")

PAGE_EVENTS: Final = 500
PAGE_BYTES: Final = 64 << 10  # 500 ordinary lines; a viewer opens such a span at once
#: How long one `process log` span collects lines that are outside any span.
PROCESS_LOG_S: Final = 60.0


class Span(Readable, trace.Span):  # type: ignore[misc]  # the SDK keeps a context
    """A recording span. Concurrency: any thread; a forked child never ends its parent's."""

    #: Whether it holds only lines: then no processor sees it.
    is_of_lines = False
    #: Whether its ``with`` block records an exception, and sets the status.
    on_exception = (True, True)
    _is_warning = False

    # ---- lines

    def add_line(self, time_ns: int, name: str, fields: Mapping[str, Any]) -> None:
        """Add a log line, or any event, to this span or a page of it."""
        self._add(time_ns, encode_line(self.pipeline.limits, time_ns, name, fields))

    def add_encoded(self, time_ns: int, encoded: bytes, attributes: int) -> bool:
        """Add an event that ``_otlp.event_of`` has encoded; *attributes*: their number.

        False if the limits forbid it: then nothing has been done.
        """
        if attributes > self.pipeline.encoded_attributes or len(encoded) > EVENT_BYTES:
            return False
        self._add(time_ns, encoded)
        return True

    def _add(self, time_ns: int, encoded: bytes) -> None:
        if not _forks.mark[0]:
            _forks.check()
        size = len(encoded)
        # a large event has a page of its own, so that all pages stay within their bound
        if self._end_time is not None or self._pid != _forks.pid or size >= PAGE_BYTES:
            self.pipeline.overflow(self, time_ns, [encoded])
            if self._end_time is not None:
                background_tasks.note_line(self)
            return
        events = self._encoded_events
        events.append(encoded)
        self._page_bytes += size
        if (
            self._page_bytes >= PAGE_BYTES
            or len(events) >= self.pipeline.page_events
            or self._end_time is not None  # the span ended meanwhile, perhaps without this event
        ):
            self.flush_events(time_ns)

    def flush_events(self, time_ns: int) -> None:
        """Let the events held so far leave on a child span."""
        page = self._take_events()
        if page:
            self.otel_logging_last = max(self.otel_logging_last, time_ns)
            self.pipeline.overflow(self, time_ns, page)

    def _take_events(self) -> list[bytes]:
        """Take the events that are there; other threads may take or add meanwhile."""
        self._page_bytes = 0
        waiting, taken = self._encoded_events, []
        while waiting:
            try:
                taken.append(waiting.pop())
            except IndexError:  # another thread took the last one
                break
        taken.reverse()
        return taken

    def become(self, span: ReadableSpan, events: Iterable[Event]) -> None:
        """Become a copy of another SDK's ended *span*, with *events* beside the lines of this
        one.
        """
        limits = self.pipeline.limits
        for event in events:
            self._add(event.timestamp, encode_shown(event, limits.value_length))
        self._instrumentation_scope = span.instrumentation_scope or InstrumentationScope("")
        self._name, self._kind, self._start_time = span.name, span.kind, span.start_time or 0
        kept, _ = bounded(span.attributes or {}, None, limits.span_value_length)  # bytes, too
        self._parent, self._attributes = span.parent, {**kept}
        self._links, self._status = span.links, span.status
        self.dropped_attributes, self.dropped_links = span.dropped_attributes, span.dropped_links
        self.lost_events = span.dropped_events
        self._end_time = max(span.end_time or 0, self._start_time + 1)  # as our own
        self._events_at_end = sorted(self._take_events(), key=_otlp.time_of)

    # ---- trace.Span

    def is_recording(self) -> bool:
        """Say whether it is open, in this process."""
        return self._end_time is None and self._pid == _forks.pid

    def _takes(self, call: str) -> bool:
        """Say whether the span is open; if it has ended, warn as the SDK does."""
        if self._end_time is not None:
            self._warn(f"Tried calling {call} on an ended span.")
        return self.is_recording()

    def _warn(self, message: str) -> None:
        if not self._is_warning:  # a handler of the warning may call this again
            self._is_warning = True
            try:
                _sdk_log.warning(message)
            finally:
                self._is_warning = False

    def begin_with(
        self, attributes: Mapping[str, Any] | None, links: Iterable[Link] | None
    ) -> None:
        """Set what is bound, a job's tag, and what is given."""
        bound, tag = bindings.state(), bindings.current_job()[0]
        if bound.values:
            if bound.is_plain and len(bound.values) < self.pipeline.shared_attributes:
                self._bound = bound
            else:
                self.set_attributes(bound.attributes)
        if tag is not None:
            self.set_attributes({_names.JOB_TAG: tag})
        if type(attributes) is Plain and len(bound.values) + 1 < self.pipeline.shared_attributes:
            self._own.update(attributes)  # of one: a budget
        elif attributes:
            self.set_attributes(attributes)
        if links is not None:
            self.add_links(links)

    def set_attribute(self, key: str, value: Any) -> None:
        """Set one attribute; after the end it is too late, and nothing happens."""
        self.set_attributes({key if type(key) is str else str(plain(key)): value})

    def set_attributes(self, attributes: Mapping[str, Any]) -> None:
        """Set *attributes*; their values are copied at once, as plain data."""
        if self._end_time is not None or self._pid != _forks.pid:
            self._takes("set_attributes")
            return
        if type(attributes) is not dict:
            attributes = as_mapping(attributes)
        limits, values = self.pipeline.limits, self._own
        most, length = limits.span_attributes, limits.span_value_length
        for key, value in attributes.items():
            name = key if type(key) is str else str(plain(key))
            kept = value if _otlp.is_known(name, value) else field(name, value)
            kind = type(kept)
            if kind is list or kind is dict or (length is not None and kind is str):
                kept = frozen(kept, length)
            if most is not None and self._is_full(most) and name not in self._attributes:
                self.dropped_attributes += 1
            elif name:
                values[name] = kept

    def _is_full(self, most: int) -> bool:
        bound = self._bound
        if len(self._own) + (0 if bound is None else len(bound.values)) < most:
            return False  # keys may be equal: they are not compared here
        return len(self._attributes) >= most

    def add_event(
        self, name: str, attributes: Mapping[str, Any] | None = None, timestamp: int | None = None
    ) -> None:
        """Add an event; *timestamp* in ns since the epoch."""
        self._takes("add_event")  # after the end it leaves on a child span
        time_ns = self.now_ns() if timestamp is None else self.as_ns(timestamp)
        self.add_line(time_ns, name, as_mapping(attributes))

    def add_link(self, context: SpanContext, attributes: Mapping[str, Any] | None = None) -> None:
        """Add a link while it is open."""
        if self._takes("add_link"):
            self.add_links([Link(context, attributes)])

    def update_name(self, name: str) -> None:
        """Change the name while it is open."""
        if self._takes("update_name"):
            self._name = name

    def set_status(self, status: Status | StatusCode, description: str | None = None) -> None:
        """Set the status; OK is final, and UNSET changes nothing."""
        if isinstance(status, StatusCode):
            if description is not None and not isinstance(description, str):
                description = str(plain(description))
            status = Status(status, description)
        elif description is not None:
            self._warn("Description ignored: a `Status` has one of its own.")
        if (
            self._takes("set_status")
            and isinstance(status, Status)
            and self._status.status_code is not StatusCode.OK
            and status.status_code is not StatusCode.UNSET
        ):
            self._status = status

    def record_exception(
        self,
        exception: BaseException,
        attributes: Mapping[str, Any] | None = None,
        timestamp: int | None = None,
        escaped: bool = False,  # noqa: FBT001, FBT002 - OpenTelemetry's signature
    ) -> None:
        """Add an event about *exception*; with its traceback, unless this trace has that already.

        OpenTelemetry's own ``use_span`` adds none then.
        """
        trace_id = self.trace_id
        is_known = is_recorded(exception, trace_id)
        caller = sys._getframe(1).f_globals  # noqa: SLF001 - documented
        if not self.is_recording() or (is_known and caller.get("__name__") == trace.__name__):
            return
        text = plain(exception) if is_known else traceback_of(exception)
        fields = {
            **described(exception),
            _names.STACKTRACE: text,
            "exception.escaped": str(plain(escaped)),
        }
        self.add_event("exception", {**fields, **as_mapping(attributes)}, timestamp)
        mark_recorded(exception, trace_id)

    def end(self, end_time: int | None = None) -> None:
        """End it: encoded and in the spool before this returns. A second call does nothing."""
        try:
            self._open.pop()
        except IndexError:
            if not self.is_of_lines:  # whoever finds a span of lines full ends it
                self._warn("Calling end() on an ended span.")
            return
        end_ns = self.now_ns() if end_time is None else self.as_ns(end_time)
        if not _forks.mark[0]:
            _forks.check()
        if self._pid != _forks.pid:  # the parent process ends it
            return
        # Jaeger would say of a span without length that its clock is wrong
        self._end_time = end_ns if end_ns > self._start_time else self._start_time + 1
        if (entry := self.otel_logging_entry) is not None:
            entry.otel_logging_stages -= 1
            entry.otel_logging_last = end_ns
        if self._encoded_events:
            self._events_at_end = self._take_events()
        around = self._parent_span
        if around is not None and around.otel_logging_watched:
            ended_below(around, self)
        pipeline = self.pipeline
        if pipeline.processors and not self.is_of_lines:
            pipeline.ended(self)
        else:
            pipeline.keep(self)

    def __exit__(self, kind: Any, error: BaseException | None, trace_back: Any) -> None:
        """End it, with *error* recorded."""
        if isinstance(error, Exception):
            is_recorded_here, sets_status = self.on_exception
            if is_recorded_here and not is_recorded(error, self.trace_id):
                self.record_exception(error, escaped=True)
            if sets_status:
                self.set_status(StatusCode.ERROR, plain(error))
        self.end()

    def __repr__(self) -> str:
        state = "open" if self._end_time is None else "ended"
        return f"<Span {self._name!r} {self.span_id:016x} [{state}]>"


def as_mapping(given: Any) -> Mapping[str, Any]:
    """Return the given attributes; anything but a mapping is counted and reported."""
    if isinstance(given, Mapping):
        return given
    if given is not None:
        _diagnostics.report("attributes lost: they are not a mapping", detail=type(given))
    return {}


# ---------------------------------------------------------------- spans of lines alone


class OfLines(Span):
    """A page: a child span with the lines that its parent cannot take. May end in a log call."""

    is_of_lines = True


class ProcessLog(OfLines):
    """The root span of lines outside any span. It ends when it is full; the next line begins
    another.

    It lasts a nanosecond, like a page: a minute of lines is no minute of work, and a search for
    long spans must not find it.
    """

    def flush_events(self, time_ns: int) -> None:
        """End this one, or, if that is done, let a late line leave on a child span."""
        if self.is_recording():
            self.pipeline.end_process_log(self)
        else:
            super().flush_events(time_ns)
