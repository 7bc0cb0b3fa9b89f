"""Who is who: ids of traces and spans, and the resource of this process.

In: settings, random bits. Out: ids, a ``Resource``. Invariant: no two processes have the same.
"""

import os
import socket
import uuid
from typing import TYPE_CHECKING, Any

from opentelemetry.sdk.environment_variables import OTEL_EXPERIMENTAL_RESOURCE_DETECTORS
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.version import __version__
from opentelemetry.trace import SpanContext, TraceFlags, TraceState

from otel_logging import _names, _otlp, _runtime
from otel_logging.settings import Settings
from otel_logging.settings.variables import value_of

if TYPE_CHECKING:
    from otel_logging.binding import Bound


class LocalSpan:
    """What each span of ours has, recorded or not; its ``SpanContext`` is made on demand."""

    trace_id: int
    span_id: int
    trace_flags: int
    trace_state: TraceState | None = None
    #: The request's outermost span in this process; None: this span (else a cycle for the GC).
    otel_logging_entry: Any = None
    otel_logging_is_ours = True
    otel_logging_closed = otel_logging_passed = False
    otel_logging_bound: "Bound | None" = None
    otel_logging_budget: float | None = None
    #: What is measured of the span, if anything is (``lateness``).
    otel_logging_watched: Any = None
    #: For an entry span: how many spans are open in it, and when the last one ended.
    otel_logging_stages = otel_logging_last = 0
    _span_context: SpanContext | None = None

    def get_span_context(self) -> SpanContext:
        """Return the context; few spans are asked for it."""
        context = self._span_context
        if context is None:
            ids, flags = (self.trace_id, self.span_id), TraceFlags(self.trace_flags)
            context = self._span_context = SpanContext(
                *ids, is_remote=False, trace_flags=flags, trace_state=self.trace_state
            )
        return context

    @property
    def _context(self) -> SpanContext:
        return self.get_span_context()

    @_context.setter
    def _context(self, context: SpanContext) -> None:
        self.trace_id, self.span_id = context.trace_id, context.span_id
        self.trace_flags, self.trace_state = context.trace_flags, context.trace_state
        self._span_context = context


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
    # only to ask detectors that the user names: the SDK does that in threads, 1 ms of set-up
    make = Resource.create if value_of(OTEL_EXPERIMENTAL_RESOURCE_DETECTORS) else Resource
    return make(
        {
            "telemetry.sdk.language": "python",
            "telemetry.sdk.name": "opentelemetry",
            "telemetry.sdk.version": __version__,
            "host.name": socket.gethostname(),
            "deployment.environment.name": settings.environment,
            _names.WHO: list(settings.who),
            **_of_this_process(),
            **settings.resource,
        }
    )


def in_this_process(resource: Resource) -> Resource:
    """Return the parent's *resource* as that of a forked child.

    Not ``Resource.create``: it runs detectors in threads, and hangs in a fork's hook.
    """
    return resource.merge(Resource(_of_this_process()))


def _of_this_process() -> dict[str, str | int]:
    return {"service.instance.id": str(uuid.uuid4()), "process.pid": os.getpid()}


def encode_resource(resource: Resource) -> bytes:
    """Return *resource* as ``_otlp.resource`` encodes it."""
    return _otlp.resource(resource.attributes, resource.schema_url)
