"""Where spans and log records go, and how.

In: variables, the argument *endpoint*. Out: an ``Exporter``. Deliberately absent: whether
its files and headers can be used (``export``).
"""

import base64
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final
from urllib.parse import urlsplit

from otel_logging import _names, _parse
from otel_logging._errors import ConfigurationError, shown_url
from otel_logging.settings.variables import Record, Variables, asked

_PORTS: Final = {"http/protobuf": 4318, "grpc": 4317}  # OpenTelemetry specification


@dataclass(init=False, repr=False, eq=False)
class Exporter(Record):
    """Where the spans or the log records go, and how. *endpoint* is complete: nothing is appended
    to it. Its user and password are a header. A field's variable is a prefix (that of the signal,
    then the general one) and the name in ``asked``.
    """

    signal: str = "traces"  # or "logs"
    endpoint: str = "http://localhost:4318/v1/traces"
    protocol: str = asked(_parse.one_of(*_PORTS), "http/protobuf", "PROTOCOL")
    headers: tuple[tuple[str, str], ...] = asked(_parse.pairs, (), "HEADERS")
    timeout_s: float = asked(_parse.seconds, 10.0, "TIMEOUT")  # OpenTelemetry specification
    gzip: bool = asked(_parse.choice({"none": False, "gzip": True}), False, "COMPRESSION")
    certificate: str | None = asked(_parse.file, None, "CERTIFICATE")
    client_key: str | None = asked(_parse.file, None, "CLIENT_KEY")
    client_certificate: str | None = asked(_parse.file, None, "CLIENT_CERTIFICATE")
    network: bool = True  # False: they wait in the spool

    @property
    def shown(self) -> str:
        """The endpoint as it may be shown: its query may hold a key."""
        return shown_url(self.endpoint)


def load_exporter(
    variables: Variables, endpoint: str | None, *, test: bool, signal: str = "traces"
) -> Exporter:
    """Return where the *signal* goes. Failure: raises ``ConfigurationError``."""
    prefixes = _names.OTLP_PREFIXES[signal], _names.OTLP_PREFIX  # the signal's own variable wins
    exporter = Exporter(**variables.values(Exporter, {}, prefixes=prefixes), signal=signal)
    parse = partial(_url, signal, exporter.protocol)
    if endpoint is not None:
        url = parse("endpoint", endpoint)
    else:
        usual = parse("", f"http://localhost:{_PORTS[exporter.protocol]}")
        url = variables.read(parse, usual, *(prefix + "ENDPOINT" for prefix in prefixes))
    headers, parts = exporter.headers, urlsplit(url)
    credentials = _parse.credentials_of(parts)
    if credentials != ":" and "authorization" not in {key.lower() for key, _ in headers}:
        encoded = base64.b64encode(f"{credentials}".encode()).decode()
        headers = (*headers, ("authorization", f"Basic {encoded}"))
    url = parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
    network = endpoint is not None or not test
    return replace(exporter, endpoint=url, headers=headers, network=network)


def _url(signal: str, protocol: str, name: str, value: Any) -> str:
    """Return where the requests go: a base URL gets the signal's path."""
    like = f"a URL like http://localhost:{_PORTS[protocol]}"
    parts, is_grpc = urlsplit(_parse.url(name, value, like)), protocol == "grpc"
    path = parts.path.rstrip("/")
    if is_grpc and (path or parts.query):
        raise ConfigurationError(name, value, f"{like}: gRPC has no path and no query")
    if is_grpc or name == _names.OTLP_PREFIXES[signal] + "ENDPOINT":
        return parts.geturl()  # OpenTelemetry specification: it is taken as it is
    for known in _names.OTLP_PREFIXES:
        path = path.removesuffix(f"/v1/{known}")
    return parts._replace(path=f"{path}/v1/{signal}").geturl()
