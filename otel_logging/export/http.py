"""OTLP over HTTP, on one kept connection.

In: an encoded request and how long it may take. Out: an ``Answer``. At most 64 KiB of a response
are read. A response that we cut off there counts as an answer; one that the server or the deadline
cuts off does not. Deliberately absent: the connection (``_http``); a second try, even if the
connection broke (``delivery``).
"""

import contextlib
import re
import time
import zlib
from typing import Final
from urllib.parse import urljoin, urlsplit

from otel_logging._errors import shown_url
from otel_logging._http import HttpClient, Response
from otel_logging.export import outcome
from otel_logging.export.outcome import PAGE, Answer, Outcome, one_line
from otel_logging.settings import Exporter

_GZIP_LEVEL: Final = 1  # OTLP shrinks to a sixth at level 1, and little more above
_GZIP_WINDOW: Final = 31  # zlib: its largest window, with the head and the end of gzip
#: What to do by status, beside success, where the same spans are not sent again as they are.
_FINAL: Final = dict.fromkeys((400, 413, 422), Outcome.REFUSED)
_PROTOBUF: Final = "application/x-protobuf"
_PAGES: Final = frozenset({"text/html", "application/xhtml+xml"})
_PAGE: Final = rb"(?i)(\xef\xbb\xbf)?\s*<(!doctype html\b|html\b|!--)"  # compiled when one comes
_CONNECT_S: Final = 3.0  # for each address of the host: the next one may answer


class OtlpHttp(HttpClient):
    """OTLP/HTTP with protobuf."""

    def __init__(self, exporter: Exporter) -> None:
        self._exporter = exporter
        parts = urlsplit(exporter.endpoint)
        tls = outcome.checked_tls(exporter)
        super().__init__(exporter.endpoint, tls, most_bytes=outcome.ANSWER_BYTES)
        self._target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        self._headers = {
            "user-agent": "otel-logging",
            **outcome.checked_headers(exporter),
            "content-type": _PROTOBUF,
        }
        if exporter.gzip:
            self._headers["content-encoding"] = "gzip"

    def send(self, body: bytes, timeout_s: float) -> Answer:
        """Send *body*. See ``Client``."""
        deadline = time.monotonic() + timeout_s
        try:
            if self._exporter.gzip:
                packer = zlib.compressobj(_GZIP_LEVEL, wbits=_GZIP_WINDOW)
                body = packer.compress(body) + packer.flush()
            response = self.request(
                "POST", self._target, self._headers, body, deadline=deadline, connect_s=_CONNECT_S
            )
            answer = self._judge(response)
        except Exception as error:
            answer = outcome.failed(error)
        return outcome.explained(answer, self._exporter)

    def _judge(self, response: Response) -> Answer:
        """Say what an HTTP answer means (OpenTelemetry protocol specification, OTLP/HTTP response).

        Five cases: taken, perhaps in part; too large or bad data; one of these, but cut off, so the
        outcome is unknown; not now; a mistake of the set-up (a redirect, a wrong path, a page):
        the spans wait within the spool's bound, since somebody may mend it.
        """
        status, body = response.status, response.body
        kind = response.headers.get("content-type", "").partition(";")[0].strip().lower()
        is_page = kind in _PAGES or re.match(_PAGE, body)
        taken = 200 <= status < 300
        final = Outcome.DELIVERED if taken else _FINAL.get(status)
        text = one_line(f"HTTP {status} {response.reason}")
        if is_page and taken:
            return Answer(Outcome.AGAIN, f"HTTP {status} with a page: no collector", code=PAGE)
        if final and response.error is not None and not response.is_too_large:
            return Answer(Outcome.AGAIN, f"{text}: the answer was cut off")
        if taken:
            # declared as OTLP, or longer than we read, it is an OTLP answer, even if unreadable
            is_ours = kind == _PROTOBUF or response.is_too_large
            answer = outcome.accepted(body) or (Answer(Outcome.DELIVERED) if is_ours else None)
            text = one_line(f"HTTP {status} with something else than OTLP: {one_line(body)}")
            return answer or Answer(Outcome.AGAIN, text, code=PAGE)
        text += " with a page" if is_page else f" {one_line(body)}"
        if location := 300 <= status < 400 and response.headers.get("location"):
            with contextlib.suppress(ValueError):  # the location may be relative, or no address
                location = urljoin(self._exporter.endpoint, location)
            text = f"HTTP {status} {response.reason} to {shown_url(location)}"
        after = response.headers.get("retry-after", "")  # no collector sends a date
        return Answer(
            final or Outcome.AGAIN,
            one_line(text),
            after_s=float(after) if after.isdecimal() else None,
            code=PAGE if is_page and status == 500 else str(status),
        )
