"""OTLP over HTTP, on one kept connection.

Invariant: a request is done by its deadline, whatever the collector does:
drips its answer, reads nothing, says nothing. ``http.client`` speaks, over
sockets of ours: the timeouts of urllib3, requests and the standard library are
per socket operation, so that a byte now and then keeps a request alive for ever.
Nothing is followed (no redirects), nothing is asked but the endpoint (no proxies,
no `.netrc`), and at most 64 KiB of an answer are read: what we cut off counts as
answered, what the other end or the deadline cuts off does not. Deliberately absent:
a second try, also on a connection that broke (``delivery``).
"""

import contextlib
import gzip
import http.client
import re
import socket
import threading
import time
from email.utils import parsedate_to_datetime
from typing import Any, Final
from urllib.parse import urljoin, urlsplit

from otel_logging._errors import shown_url
from otel_logging._sockets import Socket
from otel_logging.export.transport import (
    ANSWER_BYTES,
    PAGE,
    Answer,
    Verdict,
    accepted,
    checked_headers,
    checked_tls,
    explained,
    failed,
    told,
)
from otel_logging.settings import Exporter

_GZIP_LEVEL: Final = 1  # OTLP shrinks to a sixth at level 1, and little more above
#: By a status, beside success, after which the same spans are not sent again as they are.
_FINAL: Final = {
    400: Verdict.REFUSED,
    413: Verdict.TOO_LARGE,
    422: Verdict.REFUSED,
}
_PAGE: Final = re.compile(rb"\s*<(!doctype html|html)\b", re.IGNORECASE)
_CONNECT_S: Final = 3.0  # for each address of the name: the next one may answer


class HttpClient:
    """OTLP/HTTP with protobuf."""

    def __init__(self, exporter: Exporter) -> None:
        self._exporter = exporter
        parts = urlsplit(exporter.endpoint)
        self._tls = checked_tls(exporter)
        self._host = parts.hostname or ""
        self._port = parts.port or (80 if self._tls is None else 443)
        self._path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        self._gzip = exporter.gzip
        self._headers = {
            "user-agent": "otel-logging",
            **checked_headers(exporter),
            "content-type": "application/x-protobuf",
        }
        if self._gzip:
            self._headers["content-encoding"] = "gzip"
        self._socket: Socket | None = None
        self.reset()

    # ---- the connection

    def reset(self) -> None:
        """Begin anew. See ``Client``."""
        # the lock keeps an interrupt from a descriptor that is another file's meanwhile
        self._lock = threading.Lock()
        #: None after an interrupt, and after a reset another one: a request that began before may
        #: go on then, for where threads are green a forked child has those of its parent as well.
        self._life: object | None = object()
        self._drop(self._life)

    def _drop(self, life: object) -> None:
        if self._life not in (life, None):
            return
        with self._lock:
            dropped, self._socket = self._socket, None
            if dropped is not None:
                # not close(), which waits for readers: after a fork these are the parent's
                dropped.abandon()
        self._connection = http.client.HTTPConnection(self._host, self._port)
        self._connection.default_port = 80 if self._tls is None else 443

    def interrupt(self) -> None:
        """End what is under way. See ``Client``."""
        self._life = None
        with self._lock:
            if self._socket is not None and self._socket.is_ours():
                with contextlib.suppress(OSError):
                    self._socket.shutdown(socket.SHUT_RDWR)

    def _publish(self, made: Socket, life: object) -> Socket:
        """Let ``interrupt`` find *made*, unless it, or a reset, was there already."""
        with self._lock:
            if self._life is life is not None:
                self._socket = made
                return made
        made.close()
        raise InterruptedError("shut down")

    def _connect(self, deadline: float, life: object) -> Socket:
        """Return a connection; the kept one, if it is still there."""
        kept = self._socket
        if kept is not None and kept.is_ours() and kept.is_idle():
            return self._publish(kept, life)
        self._drop(life)
        failure = OSError("the collector's name has no address")
        addresses = socket.getaddrinfo(self._host, self._port, type=socket.SOCK_STREAM)
        for family, kind, protocol, _, address in addresses:
            made = self._publish(Socket(family, kind, protocol), life)
            try:
                self._open(made, address, deadline)
                return self._publish(made, life)
            except OSError as error:
                failure = error
                self._drop(life)
        raise failure

    def _open(self, made: Socket, address: Any, deadline: float) -> None:
        made.deadline = deadline
        made.connect(address, _CONNECT_S)
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self._tls is not None:
            made.secure(self._tls, self._host)

    # ---- a request

    def send(self, body: bytes, timeout_s: float) -> Answer:
        """Send *body*. See ``Client``."""
        return explained(self._send(body, time.monotonic() + timeout_s), self._exporter)

    def _send(self, body: bytes, deadline: float) -> Answer:
        life = self._life
        try:
            if self._gzip:
                body = gzip.compress(body, _GZIP_LEVEL)
            line = self._connect(deadline, life)
            line.deadline, line.allowance = deadline, ANSWER_BYTES
            self._connection.sock = line
            self._connection.request("POST", self._path, body, self._headers)
            response = self._connection.getresponse()
            if line.has_ended:  # which http.client takes for the end of the head
                raise ConnectionError("the answer was cut off")
        except Exception as error:
            self._drop(life)
            return failed(error)
        text, is_whole = b"", True
        try:
            text = response.read(ANSWER_BYTES)
        except Exception:
            is_whole = not line.allowance
        if line.has_ended and (response.chunked or response.length):
            is_whole = False
        if response.will_close or not response.isclosed():
            self._drop(life)
        return self._judge(response, text, is_whole=is_whole)

    def _judge(self, response: http.client.HTTPResponse, body: bytes, *, is_whole: bool) -> Answer:
        """Say what an HTTP answer means (OpenTelemetry protocol specification, OTLP/HTTP response).

        There are six cases: taken, perhaps in part; too large; bad data, which it
        never will take; one of these, but cut off, so that nobody knows; not now; and
        everything that is a mistake of the set-up (a redirect, a wrong path, no
        permission, a server of pages that says yes to all). The specification drops
        the last at once; somebody may mend it, so here they wait within the spool's bound.
        """
        status = response.status
        is_page = response.headers.get_content_type() == "text/html" or _PAGE.match(body)
        final = _FINAL.get(status, Verdict.DELIVERED if 200 <= status < 300 else None)
        text = f"HTTP {status} {response.reason}"
        if is_page and 200 <= status < 300:
            return Answer(Verdict.AGAIN, f"HTTP {status} with a page: no collector", code=PAGE)
        if final and not is_whole:
            return Answer(Verdict.AGAIN, f"{text}: the answer was cut off")
        if final is Verdict.DELIVERED:
            return accepted(body)
        text += " with a page" if is_page else f" {told(body)}"
        if location := 300 <= status < 400 and response.headers.get("Location"):
            text = f"HTTP {status} {response.reason} to {self._whole(location)}"
        return Answer(
            final or Verdict.AGAIN,
            told(text),
            after_s=_seconds(response.headers.get("Retry-After")),
            code=PAGE if is_page and status == 500 else str(status),
        )

    def _whole(self, location: str) -> str:
        """Return a redirect's address, which may be relative, as it may be shown."""
        with contextlib.suppress(ValueError):
            location = urljoin(self._exporter.endpoint, location)
        return shown_url(location)


def _seconds(retry_after: str | None) -> float | None:
    """Parse Retry-After: seconds, or a date."""
    with contextlib.suppress(ValueError, TypeError, OverflowError):
        text = (retry_after or "").strip()
        if text.isdecimal():
            return float(text)
        return max(parsedate_to_datetime(text).timestamp() - time.time(), 0.0)
    return None
