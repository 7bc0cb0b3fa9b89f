"""Where spans go, and how.

In: variables, the argument *endpoint*. Out: an ``Exporter``. Deliberately absent: whether
its files and headers can be used (``export``).
"""

import base64
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Final
from urllib.parse import urlsplit

from otel_logging import _names, _parse
from otel_logging._errors import ConfigurationError, shown_url
from otel_logging.settings.variables import Variables, asked

_PORTS: Final = {"http/protobuf": 4318, "grpc": 4317}  # OpenTelemetry specification


@dataclass(frozen=True, slots=True)
class Exporter:
    """Where spans go, and how. *endpoint* is complete: nothing is appended to it. Its user and
    password are a header. The variables' names follow a prefix.
    """

    endpoint: str = field(default="http://localhost:4318/v1/traces", repr=False)
    protocol: str = asked(_parse.one_of(*_PORTS), "http/protobuf", "PROTOCOL")
    headers: tuple[tuple[str, str], ...] = asked(_parse.pairs, (), "HEADERS", repr=False)
    timeout_s: float = asked(_parse.seconds, 10.0, "TIMEOUT")  # OpenTelemetry specification
    gzip: bool = asked(_parse.choice({"none": False, "gzip": True}), False, "COMPRESSION")
    certificate: str | None = asked(_parse.file, None, "CERTIFICATE")
    client_key: str | None = asked(_parse.file, None, "CLIENT_KEY")
    client_certificate: str | None = asked(_parse.file, None, "CLIENT_CERTIFICATE")
    network: bool = True  # False: spans wait in the spool

    @property
    def shown(self) -> str:
        """The endpoint as it may be shown: its query may hold a key."""
        return shown_url(self.endpoint)


def load_exporter(variables: Variables, endpoint: str | None, *, test: bool) -> Exporter:
    """Return where spans go. Failure: raises ``ConfigurationError``."""
    # the variable for traces wins
    prefixes = (_names.OTLP_TRACES_PREFIX, _names.OTLP_PREFIX)
    exporter = Exporter(**variables.values(Exporter, {}, prefixes=prefixes))
    whole: Callable[[str, Any], str] = _url_with_path
    # OpenTelemetry specification: the variable for traces is taken as it is
    taken: Callable[[str, Any], str] = _parse.url
    if exporter.protocol == "grpc":
        whole = taken = _url_of_grpc
    if endpoint is not None:
        url = whole("endpoint", endpoint)
    else:
        url = whole("", f"http://localhost:{_PORTS[exporter.protocol]}")
        url = variables.read(whole, url, _names.OTLP_PREFIX + "ENDPOINT")
        url = variables.read(taken, url, _names.OTLP_TRACES_PREFIX + "ENDPOINT")
    headers, parts = exporter.headers, urlsplit(url)
    credentials = _parse.credentials_of(parts)
    if credentials != ":" and "authorization" not in {key.lower() for key, _ in headers}:
        encoded = base64.b64encode(f"{credentials}".encode()).decode()
        headers = (*headers, ("authorization", f"Basic {encoded}"))
    return replace(
        exporter,
        endpoint=parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl(),
        headers=headers,
        network=endpoint is not None or not test,
    )


def _url_with_path(name: str, value: object) -> str:
    parts = urlsplit(_parse.url(name, value))
    path = parts.path.rstrip("/").removesuffix("/v1/traces") + "/v1/traces"
    return parts._replace(path=path).geturl()


def _url_of_grpc(name: str, value: object) -> str:
    like = "a URL like http://localhost:4317"
    parts = urlsplit(_parse.url(name, value, like))
    if parts.path.strip("/") or parts.query:
        raise ConfigurationError(name, value, f"{like}: gRPC has no path and no query")
    return parts.geturl()
