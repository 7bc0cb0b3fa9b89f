"""What the answer of a collector means, and what both protocols share.

In: what was asked for, what was answered. Out: an ``Answer``. Each protocol has its
file: ``http``, ``grpc``. Deliberately absent: when to try again (``delivery``).
"""

import base64
import contextlib
import json
import re
from collections.abc import Iterator
from enum import Enum
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol
from urllib.parse import parse_qsl, quote, urlsplit

from otel_logging import _forks, _names, _text
from otel_logging._http import make_tls
from otel_logging.settings import ConfigurationError, Exporter
from otel_logging.spool.directories import NOUNS

if TYPE_CHECKING:
    import ssl

#: How much of an answer is read: a partial success, with its message, has a few hundred bytes.
ANSWER_BYTES: Final = 64 << 10
_SHOWN_CHARACTERS: Final = 300
_READ_CHARACTERS: Final = 4096  # of an answer's text, before keys are taken out and it is cut
_SECRET_CHARACTERS: Final = 3  # a shorter secret would be found in any text
_BINARY: Final = rb"[\x00-\x08\x0e-\x1f]"  # bytes that are in no text
_HEADER_NAME: Final = _text.later(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # RFC 9110: token
_HEADER_VALUE: Final = _text.later(r"[\x20-\x7e]*")  # what HTTP and gRPC both take


class Outcome(Enum):
    """What to do with the spans of a request."""

    DELIVERED = "delivered"
    AGAIN = "again"  # not now, or not until somebody has mended the set-up
    REFUSED = "refused"  # too large, or one span is bad: try the halves


class Answer(NamedTuple):
    """*answered*: there is a collector. *after_s*: when it wants to be asked again. *code*: HTTP's
    number, gRPC's name, or ``PAGE``. *mistake*: what is wrong with the set-up; *to_do*: what mends
    it; both are empty if the trouble may pass by itself.
    """

    outcome: Outcome
    detail: str = ""
    answered: bool = True
    after_s: float | None = None
    rejected_spans: int = 0
    code: str = ""
    mistake: str = ""
    to_do: str = ""

    @property
    def said(self) -> str:
        """The whole answer in one phrase."""
        return f"{self.mistake} ({self.detail}; {self.to_do})" if self.mistake else self.detail


class Client(Protocol):
    """Sends requests, one at a time, in one thread; any thread may call ``interrupt``."""

    def send(self, body: bytes, timeout_s: float) -> Answer:
        """Send an encoded request, of spans or of log records. Never raises.

        Takes at most *timeout_s*, whatever the collector does. Only the look-up of its name may
        take longer: as long as the system's resolver does.
        """

    def interrupt(self) -> None:
        """End the request that is under way, and every later one, until ``reset``.

        From any thread.
        """

    def reset(self) -> None:
        """Begin anew: drop the connection, which after a fork is the parent's."""


# ---------------------------------------------------------------- what was asked for


def checked_headers(exporter: Exporter) -> dict[str, str]:
    """Return the headers to send, names in lower case.

    Failure: raises ``ConfigurationError``, which does not show the value: it may be a key.
    """
    for name, value in exporter.headers:
        if not (_HEADER_NAME.fullmatch(name) and _HEADER_VALUE.fullmatch(value)):
            allowed = "names and values of headers, in ASCII"
            raise ConfigurationError(_names.OTLP_PREFIX + "HEADERS", name, allowed)
    return {name.lower(): value for name, value in exporter.headers}


def checked_tls(exporter: Exporter) -> "ssl.SSLContext | None":
    """Return the TLS context; None without TLS. Failure: raises ``ConfigurationError``."""
    if urlsplit(exporter.endpoint).scheme != "https":
        return None
    prefix, names = _names.OTLP_PREFIX, ("CERTIFICATE", exporter.certificate)
    try:
        context = make_tls(cafile=exporter.certificate)
        names = ("CLIENT_CERTIFICATE", exporter.client_certificate)
        if exporter.client_certificate is not None:
            # without a password OpenSSL would ask for it on the terminal, and wait
            context.load_cert_chain(
                exporter.client_certificate, exporter.client_key, password=lambda: b""
            )
    except OSError as error:  # ssl.SSLError is one
        allowed = f"a file in PEM format, its key without a password ({error})"
        raise ConfigurationError(prefix + names[0], names[1], allowed) from error
    if exporter.client_key is not None and exporter.client_certificate is None:
        needs = f"needs {prefix}CLIENT_CERTIFICATE"
        raise ConfigurationError(prefix + "CLIENT_KEY", exporter.client_key, needs)
    return context


# ---------------------------------------------------------------- what was answered


def accepted(body: bytes) -> Answer | None:
    """Return what an ExportTraceServiceResponse says, or that for logs, which has the same fields.
    It is protobuf, or the JSON that some servers answer to any request. None: *body* is something
    else.
    """
    if not body.strip():  # the usual case, without an import
        return Answer(Outcome.DELIVERED)
    with contextlib.suppress(Exception):
        if re.search(_BINARY, body):  # each field in protobuf begins with such a byte
            with _forks.importing:
                from opentelemetry.proto.collector.trace.v1 import trace_service_pb2

            read: Any = trace_service_pb2.ExportTraceServiceResponse.FromString(body)
            partial = read.partial_success
            rejected, message = partial.rejected_spans, partial.error_message
        else:
            response = json.loads(body)
            partial = response.pop("partialSuccess", None) or {}
            if response:
                return None
            rejected = partial.get("rejectedSpans") or partial.get("rejectedLogRecords") or 0
            message = partial.get("errorMessage") or ""
        rejected, message = max(int(rejected), 0), one_line(str(message))
        return Answer(Outcome.DELIVERED, message, rejected_spans=rejected)
    return None


def failed(error: BaseException) -> Answer:
    """Return the ``Answer`` for a request without a response: *error* was raised instead."""
    return Answer(Outcome.AGAIN, one_line(f"{type(error).__name__}: {error}"), answered=False)


def one_line(text: str | bytes) -> str:
    """Return what a collector says as one line, before keys are taken out of it and it is cut."""
    return _text.one_line(text, _READ_CHARACTERS)


# ---------------------------------------------------------------- what is wrong, and what mends it

_TAKES_NONE: Final = "the collector takes none of the {}; look at the collector's log"
#: The code of an answer that is a page for a browser.
PAGE: Final = "page"
_ENDPOINT: Final = _names.OTLP_PREFIX + "ENDPOINT"
#: Statuses of 4xx that pass by themselves; codes other than 4xx that do not.
_PASSING: Final = frozenset({"408", "425", "429"})
_LASTING: Final = frozenset({PAGE, "501", "505", "UNIMPLEMENTED"})
#: gRPC's statuses that must not be tried again, beside those that say what is wrong.
_FINAL: Final = frozenset(
    {"UNKNOWN", "NOT_FOUND", "ALREADY_EXISTS", "FAILED_PRECONDITION", "INTERNAL"}
)
#: Beginnings of the library's own words for such a status, if the answer broke off, or a gateway
#: gave it.
_BROKEN: Final = _text.later(
    r"gRPC (UNKNOWN|INTERNAL): (Received (http2 header with status: 5|RST_STREAM)|Stream removed)"
)
_NOT_ALLOWED: Final = frozenset(
    {"401", "402", "403", "407", "511", "UNAUTHENTICATED", "PERMISSION_DENIED"}
)
#: Beginnings of the libraries' words about a port that speaks something else: not HTTP; not gRPC.
_SPOKEN_OTHERWISE: Final = _text.later(
    r"NotHttpError"
    r"|gRPC UNAVAILABLE: .*(http1\.x server|Expected SETTINGS frame|Failed parsing HTTP/2"
    r"|selected ALPN property)"
    r"|gRPC (UNKNOWN|INTERNAL): (Received http2 header with status: [34]|No status received)"
)
_NO_TLS: Final = _text.later(".*(wrong.version.number|record.layer.failure)", re.IGNORECASE)
#: Go's and nginx's answer to plain HTTP.
_TLS_EXPECTED: Final = _text.later(".*(HTTPS server|to HTTPS port)", re.DOTALL)
_NO_NAME: Final = _text.later("gaierror|gRPC UNAVAILABLE: (errors resolving|DNS resolution failed)")
_UNTRUSTED: Final = _text.later(".*certificate.verify", re.IGNORECASE)


def explained(answer: Answer, exporter: Exporter) -> Answer:
    """Return *answer* with the mistake in the set-up, if there is one. Its detail is cut, and has
    no key or password of ours, which a collector may repeat.
    """
    mistake, _, to_do = _mistake(answer, exporter).partition("; ")
    detail = answer.detail
    for secret in sorted(_secrets(exporter), key=len, reverse=True):
        if len(secret) >= _SECRET_CHARACTERS:
            detail = detail.replace(secret, "…")
    return answer._replace(detail=detail[:_SHOWN_CHARACTERS], mistake=mistake, to_do=to_do)


def lasting(answer: Answer, noun: str) -> Answer:
    """Return *answer* with its mistake, after it was the same for long.

    An answer of the collector then is a mistake in the set-up. No answer at all is one only if the
    collector's host name is unknown.
    """
    if answer.mistake or not (answer.answered or _NO_NAME.match(answer.detail)):
        return answer
    wrong = f"the collector's name is unknown; set {_ENDPOINT} to where it is"
    mistake, _, to_do = (_TAKES_NONE.format(noun) if answer.answered else wrong).partition("; ")
    return answer._replace(mistake=mistake, to_do=to_do)


def _secrets(exporter: Exporter) -> Iterator[str]:
    query = urlsplit(exporter.endpoint).query
    values = [query, *(value for _, value in parse_qsl(query))]
    for _, value in exporter.headers:
        kind, _, token = value.rpartition(" ")
        values += [value, token]
        if kind.lower() == "basic":
            with contextlib.suppress(ValueError):
                values.append(base64.b64decode(token).decode().partition(":")[2])
    for value in values:
        yield from (value, quote(value), quote(value, safe=""))


def _mistake(answer: Answer, exporter: Exporter) -> str:
    """Return what is wrong with the set-up, and what mends it; empty if it may pass by itself.

    These sentences are the only ones: stderr, ``repr`` and the doctor say them.
    """
    code, detail, is_grpc = answer.code, answer.detail, exporter.protocol == "grpc"
    general, own = _names.OTLP_PREFIX, _names.OTLP_PREFIXES[exporter.signal]
    nothing = f"there is no OTLP at {exporter.shown}"
    port = "gRPC, usually 4317" if is_grpc else "HTTP, usually 4318"
    wrong_port = f"{nothing}; set {_ENDPOINT} to the collector's port for {port}"
    if answer.outcome is Outcome.DELIVERED:
        return ""
    if _TLS_EXPECTED.match(detail):
        return f"TLS is expected at {exporter.shown}; write https:// in {_ENDPOINT}"
    if _SPOKEN_OTHERWISE.match(detail):
        return wrong_port
    if answer.outcome is not Outcome.AGAIN or (code in _FINAL and not _BROKEN.match(detail)):
        return _TAKES_NONE.format(NOUNS[exporter.signal])
    if code in _NOT_ALLOWED:
        wanted = f"set {general}HEADERS to what it wants: name=value, such as an authorization"
        return f"the collector does not let us in; {wanted}"
    if code.startswith("3"):
        wanted = f"set {_ENDPOINT} to where it leads, if that is a collector"
        return f"the collector redirects what it is sent; {wanted}"
    # also a status that is never a final answer's
    if code in _LASTING or (code.isdecimal() and code[0] not in "25" and code not in _PASSING):
        appended = f"{_ENDPOINT} gets /v1/{exporter.signal} appended"
        path = f"{nothing}; correct the path: {appended}, {own}ENDPOINT is taken as it is"
        return wrong_port if is_grpc else path
    if not answer.answered and _NO_TLS.match(detail):
        return f"there is no TLS at {exporter.shown}; write http:// in {_ENDPOINT}"
    if not answer.answered and _UNTRUSTED.match(detail):
        wanted = f"set {general}CERTIFICATE to the file of the authority that signed it"
        return f"the collector's certificate is not trusted; {wanted}"
    return ""
