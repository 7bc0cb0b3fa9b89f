"""What a set-up starts: spools, the workers that empty them, and what leads to them.

In: settings. Out: parts that run. Invariant: imported by a set-up alone, since it brings the SDK.
Deliberately absent: when they end (``observability``).
"""

from functools import partial
from pathlib import Path
from typing import Any, Final

from opentelemetry import trace

from otel_logging import _diagnostics, _names, _runtime, tracers
from otel_logging._errors import ConfigurationError
from otel_logging.export import metrics
from otel_logging.export.delivery import Delivery
from otel_logging.export.foreign import AttachedProcessor, provider_sends_to
from otel_logging.export.ids import encode_resource, in_this_process, make_resource
from otel_logging.export.outcome import Client
from otel_logging.export.pipeline import Pipeline
from otel_logging.export.provider import TracerProvider
from otel_logging.export.records import Records
from otel_logging.lateness.died import report_died
from otel_logging.lateness.watch import Watch
from otel_logging.logs import uncaught
from otel_logging.logs.configure import get_logger
from otel_logging.settings import Exporter, Settings, destination
from otel_logging.spool import destinations, directories
from otel_logging.spool.process_dirs import in_use
from otel_logging.spool.queue import Spool

#: ``id`` of each other SDK's provider that has our processor, which it never gives back.
_attached: Final = set[int]()


def start(
    settings: Settings, deliveries: list[Delivery]
) -> tuple[Pipeline | None, Records | None, Watch | None]:
    """Start what *settings* ask for; each worker is in *deliveries* at once, to be ended if a later
    part fails. Failure: raises ``ConfigurationError``.
    """
    metrics.observe()
    resource = make_resource(settings)
    encoded = encode_resource(resource)
    pipeline: Pipeline | None = None
    records: Records | None = None
    watch: Watch | None = None
    changes: dict[str, Any] = {"failed": uncaught.of_stage}

    def add(exporter: Exporter) -> Delivery:
        client = make_client(exporter) if exporter.network else None
        spool = _open_spool(settings, exporter, encoded)
        delivery = Delivery(spool, client, timeout_s=exporter.timeout_s)
        spool.on_work = delivery.wake
        deliveries.append(delivery)
        return delivery

    if settings.traces:
        delivery = add(settings.exporter)
        pipeline = Pipeline(settings, resource, delivery.spool)
        pipeline.on_flush, delivery.before_round = delivery.flush, pipeline.roll
    if (exporter := settings.log_exporter) is not None:
        records = Records(
            settings.limits,
            add(exporter).spool,
            child_resource=lambda: pipeline.resource if pipeline else in_this_process(resource),
        )
        changes["sends_records"] = partial(provider_sends_to, exporter)
        changes["record_sink"] = records.emit
        changes["on_spans"] = settings.span_events
    if pipeline is not None:
        spool = delivery.spool
        spool.on_adopt = report_died
        place = lambda: (spool.directory(), spool.resource)  # noqa: E731 - of the open stages
        watch = Watch(settings.who, get_logger(_names.SCOPE).warning, place)
        connect(pipeline, watch=watch, **changes)
    else:
        _runtime.change(characters=settings.limits.longest, **changes)
    if settings.exporter.network and not all(each.has_threads for each in deliveries):
        _diagnostics.remark("uWSGI without --enable-threads: spans wait on disk until it ends")
    for delivery in deliveries:
        delivery.start()  # what a dead process left waits already
    return pipeline, records, watch


def make_client(exporter: Exporter) -> Client:
    """Return the client for the protocol. Failure: raises ``ConfigurationError``."""
    # each is imported only if needed: gRPC is an extra, and heavy
    if exporter.protocol == "grpc":
        from otel_logging.export.grpc import OtlpGrpc

        return OtlpGrpc(exporter)
    from otel_logging.export.http import OtlpHttp

    return OtlpHttp(exporter)


def _open_spool(settings: Settings, exporter: Exporter, resource: bytes) -> Spool:
    """Open the spool in the directory that was asked for, or nowhere; without one, in the first
    place that works.
    """
    name = destination(settings.service_name, exporter)
    make = partial(Spool, bytes_bound=settings.spool_bytes, hours=settings.spool_hours)
    given = settings.spool_dir
    finders = [directories.default_base, directories.fallback_base]
    if settings.temporary:
        finders = [directories.temporary_base]
    elif given is not None:
        finders = [lambda: given]
    failure: Exception | None = None
    for find in finders:
        try:
            spool = make(base := find(), name, resource)
            if find is directories.fallback_base:
                _diagnostics.remark(
                    f"the spool is in {base}, since the user's own directory cannot be used; "
                    f"{_names.SPOOL_DIR} names another",
                    detail=failure,
                )
            destinations.describe(base / name, exporter.shown, settings.spool_hours)
            _report_left_behind(base / name)
            return spool
        except Exception as error:
            failure = error
    if given is not None:
        allowed = f"a directory that can be written ({failure})"
        raise ConfigurationError(settings.spool_dir_named, str(given), allowed) from failure
    _diagnostics.remark("the spool is in memory alone: no directory is writable", detail=failure)
    return make(None, name, resource)


def _report_left_behind(ours: Path) -> None:
    """Report what waits for other endpoints that no process of this service sends to any more."""
    service = ours.name.removesuffix(directories.LOGS).rpartition("-")[0]
    for each in destinations.found(ours.parent, in_use(), service=service):
        if each.waiting.segments and not each.processes and each.path.suffix == ours.suffix:
            _diagnostics.remark(
                f"{directories.noun(ours)} wait for {each.endpoint}, to which this service sends no"
                " more: otel-logging spool --resend sends them to where it does"
            )


def connect(pipeline: Pipeline, **changes: Any) -> None:
    """Make OpenTelemetry's tracers lead to *pipeline*; *changes* to the runtime beside that.

    There are three cases: nobody has set a provider, or it is ours of an
    earlier set-up; it is an SDK's, which we attach to; it is something else.
    """
    present: Any = trace.get_tracer_provider()
    if isinstance(present, trace.ProxyTracerProvider):
        present = TracerProvider(pipeline)
        trace.set_tracer_provider(present)
    tracer: Any = None
    if hasattr(present, "add_span_processor"):
        tracer = present.get_tracer(_names.SCOPE)
        if not isinstance(present, TracerProvider):
            tracer = tracers.ForeignTracer(tracer)
            if id(present) not in _attached:
                _attached.add(id(present))
                present.add_span_processor(AttachedProcessor(present))
            pipeline.is_sent_by(present)  # called for its remark, if everything is sent twice
    else:
        _diagnostics.remark(
            "spans are not recorded: nothing can be attached to the tracer provider that is set",
            detail=type(present),
        )
    changes.update(tracer=tracer, pipeline=pipeline, line_sink=pipeline.line_sink)
    changes["characters"] = pipeline.limits.longest
    _runtime.change(**changes)
