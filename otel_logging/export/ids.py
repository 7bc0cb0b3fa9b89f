"""Who is who: ids of traces and spans, and the resource of this process.

In: settings, random bits. Out: ids, a ``Resource``. Invariant: no two processes have the same.
"""

import os
import socket
import uuid

from opentelemetry.sdk.resources import Resource

from otel_logging import _names, _otlp, _runtime
from otel_logging.settings import Settings


def new_trace_id() -> int:
    """Return a random trace id that is not 0."""
    return _runtime.current.random_bits(128) or 1


def new_span_id() -> int:
    """Return a random span id that is not 0."""
    return _runtime.current.random_bits(64) or 1


def make_resource(settings: Settings) -> Resource:
    """Return the resource of this very process.

    Without a host attribute Jaeger "corrects" the times of spans outside their parent.
    """
    return Resource.create(
        {
            "host.name": socket.gethostname(),
            "deployment.environment.name": settings.logs.environment,
            _names.WHO: list(settings.who),
            **of_this_process(),
            **settings.resource,
        }
    )


def of_this_process() -> dict[str, str | int]:
    """Return the attributes that no other process has."""
    return {"service.instance.id": str(uuid.uuid4()), "process.pid": os.getpid()}


def encode_resource(resource: Resource) -> bytes:
    """Return *resource* as ``_otlp.resource`` encodes it."""
    return _otlp.resource(resource.attributes, resource.schema_url)
