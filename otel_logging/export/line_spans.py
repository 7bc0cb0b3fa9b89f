"""Spans of lines alone: a page of one span's, and the lines outside any (`process log`).

In: lines. Out: spans that last a nanosecond. Deliberately absent: when they end (``pipeline``).
"""

from collections.abc import Callable
from typing import Any, Final

from otel_logging.export.span import Span

#: How long the lines outside any span are collected on one `process log` span.
PROCESS_LOG_S: Final = 60.0


class OfLines(Span):
    """One that may end inside a log call, and that processors are shown later.

    Itself it is a page: the child of a span that does not take its lines.
    """

    is_of_lines = True

    def show_start(self, started: Callable[[Span, Any], None]) -> None:
        """Be open once more for *started*, whose events leave on a page: it has left itself."""
        end_ns, self._end_time = self._end_time or 0, None
        try:
            started(self, None)
        finally:
            self._end_time = end_ns
            self._events_at_end = [*self._events_at_end, *self._encoded_events]
            self.flush_events(end_ns)


class ProcessLog(OfLines):
    """The root span of lines outside any: full, it ends, and the next line begins another.

    It lasts a nanosecond, like a page: a minute of lines is no work that took a minute, and
    would be found among what did by whoever searches for long spans.
    """

    def flush_events(self, time_ns: int) -> None:
        """End this one, or, if that is done, let a late line leave on a child span."""
        if self.is_recording():
            self.pipeline.end_process_log(self)
        else:
            super().flush_events(time_ns)
