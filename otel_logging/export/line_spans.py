"""Spans of lines alone: a page of one span's, and the lines outside any (`process log`).

In: lines. Out: spans that last a nanosecond. Deliberately absent: when they end (``pipeline``).
"""

from typing import Final

from otel_logging.export.span import Span

#: How long the lines outside any span are collected on one `process log` span.
PROCESS_LOG_S: Final = 60.0


class Page(Span):
    """A child span for the lines that their own span does not take."""

    is_of_lines = True


class ProcessLog(Span):
    """The root span of lines outside any: full, it ends, and the next line begins another.

    It lasts a nanosecond, like a page: a minute of lines is no work that took a minute, and
    would be found among what did by whoever searches for long spans.
    """

    is_of_lines = True

    def flush_events(self, time_ns: int) -> None:
        """End this one, or, if that is done, let a late line leave on a child span."""
        if self.is_recording():
            self.pipeline.end_process_log(self)
        else:
            super().flush_events(time_ns)
