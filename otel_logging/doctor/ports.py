"""What is at the other end of a port: nothing, and why; or what it speaks.

In: a host and a port. Out: a word. Invariant: each question is over within
``PATIENCE_S``. Deliberately absent: what should be there.
"""

import contextlib
import socket
import ssl
from enum import Enum
from typing import Final

PATIENCE_S: Final = 3.0

#: RFC 9113: what a client of HTTP/2 begins with, and an empty SETTINGS frame.
_PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes((0, 0, 0, 4, 0, 0, 0, 0, 0))
_SETTINGS: Final = b"\x04"  # RFC 9113: type of the first frame of a server, at the fourth byte
_REQUEST: Final = b"GET / HTTP/1.1\r\nHost: doctor\r\nConnection: close\r\n\r\n"


class Speech(Enum):
    """What a port speaks."""

    TLS = "TLS"  # and does not say what is spoken over it
    TLS_HTTP_1 = "HTTP/1 over TLS"
    TLS_HTTP_2 = "HTTP/2 alone over TLS"
    TLS_BOTH = "HTTP/1 and HTTP/2 over TLS"
    HTTP_1 = "HTTP/1"
    HTTP_2 = "HTTP/2"
    OTHER = "other"

    @property
    def is_tls(self) -> bool:
        """Whether it begins with TLS."""
        return self.value.endswith("TLS")


#: By which protocols are taken of those offered by ALPN (RFC 7301), each offered alone: offered
#: both, servers of HTTP choose HTTP/2 as gRPC's do.
_OVER_TLS: Final = {
    (True, True): Speech.TLS_BOTH,
    (True, False): Speech.TLS_HTTP_1,
    (False, True): Speech.TLS_HTTP_2,
    (False, False): Speech.TLS,
}


def reach(host: str, port: int) -> str:
    """Return why nothing can be reached there, as a plain sentence; empty where it can."""
    try:
        _connect(host, port).close()
    except socket.gaierror as error:
        return f"The name {host} cannot be resolved here ({error.strerror})."
    except ConnectionRefusedError:
        return f"Nothing listens at {host}:{port}."
    except TimeoutError:
        return f"{host}:{port} does not answer: a firewall is in between, or the host is off."
    except OSError as error:
        return f"{host}:{port} cannot be reached ({error.strerror})."
    return ""


def speech(host: str, port: int) -> Speech:
    """Find out what is spoken there. Failure: never raises."""
    try:
        first, second = _takes(host, port, "http/1.1"), _takes(host, port, "h2")
    except OSError:
        first = second = None
    if first is not None or second is not None:
        return _OVER_TLS[bool(first), bool(second)]
    # not every server of HTTP/1 has a good answer to the first
    for question in (_PREFACE, _REQUEST):
        answer = _answer(host, port, question)
        if answer.startswith(b"HTTP/1"):
            return Speech.HTTP_1
        if answer[3:4] == _SETTINGS:
            return Speech.HTTP_2
    return Speech.OTHER


def _takes(host: str, port: int, protocol: str) -> bool | None:
    """Return whether *protocol* is taken over TLS; None where there is no TLS, or not for it.

    Failure: raises OSError where nothing is there that could be asked once more.
    """
    context = ssl.create_default_context()
    # whoever it is: nothing but this question is asked, and nothing is sent
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols([protocol])
    try:
        with (
            _connect(host, port) as opened,
            context.wrap_socket(opened, server_hostname=host) as secured,
        ):
            return secured.selected_alpn_protocol() == protocol
    except (ssl.SSLError, ConnectionError):
        return None


def _answer(host: str, port: int, question: bytes) -> bytes:
    """Return how the answer begins; nothing where there is none."""
    answer = b""
    with contextlib.suppress(OSError), _connect(host, port) as opened:
        opened.sendall(question)
        while len(answer) < len("HTTP/1") and (more := opened.recv(64)):
            answer += more
    return answer


def _connect(host: str, port: int) -> socket.socket:
    return socket.create_connection((host, port), timeout=PATIENCE_S)
