"""Where log half and trace half are put together.

In: settings. Out: an ``Observability``, which holds what has to be ended.
Invariant: one at a time in a process; set-up is idempotent, and works again
after ``shutdown``. Deliberately absent: any logic of the halves.
"""

import atexit
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from opentelemetry import trace

from otel_logging import _diagnostics, _forks, _names, _runtime, tracing
from otel_logging._errors import ConfigurationError, only_configuration_errors
from otel_logging.lateness.budgets import Budgets
from otel_logging.logs import configure
from otel_logging.settings import DEFAULT_SAMPLER, Settings, destination, load
from otel_logging.spool import directories
from otel_logging.spool.queue import Spool

if TYPE_CHECKING:
    from os import PathLike
    from pathlib import Path

    from opentelemetry.sdk.resources import Resource

    from otel_logging.export.delivery import Delivery
    from otel_logging.export.outcome import Client
    from otel_logging.export.pipeline import Pipeline
    from otel_logging.export.records import Records
    from otel_logging.lateness.watch import Watch
    from otel_logging.settings import Exporter

#: Product requirement D9: exit within 5 s, whatever the collector does.
EXIT_S: Final = 5.0

_lock = threading.RLock()
_current: "Observability | None" = None
#: Whether multiprocessing's children know of our exit handler; they inherit it.
_children_know = False
#: The other SDKs' providers that have a processor of ours, which they keep for good; by ``id``.
_attached: Final[set[int]] = set()

#: Takes the settings of a set-up while a test captures: nothing is started then.
_stand_in: Callable[[Settings], None] | None = None


class Observability:
    """What ``setup_observability`` has started. A context manager: leaving it shuts down.

    Concurrency: any thread.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._pipeline: Pipeline | None = None
        self._records: Records | None = None
        self._watch: Watch | None = None
        #: The worker of spans, then that of log records, as far as there are any.
        self._deliveries: list[Delivery] = []
        self._is_open = True
        self._left = 0
        _forks.join(_forks.Step.EXIT, self)

    def after_fork(self) -> None:
        """Exit as ``_exit_with_multiprocessing`` says; its parts follow by themselves."""
        _exit_with_multiprocessing()

    @property
    def service_name(self) -> str:
        """The name under which the service is found."""
        return self._settings.service_name

    def force_flush(self, timeout: float = EXIT_S) -> bool:
        """Wait until everything that has ended by now is at the collector.

        Lines outside any span are brought too. *timeout* in seconds; returns
        False if it ran out: nothing is lost then, it waits in the spool. Blocks
        the calling thread. Failure: never raises.
        """
        if not self._is_open:
            return True
        deadline = time.monotonic() + timeout
        done = [each.flush(deadline - time.monotonic()) for each in self._deliveries]
        return all(done)

    def shutdown(self, timeout: float = EXIT_S) -> bool:
        """Bring what is there to the collector, and stop tracing; lines go on to stdout.

        Waits up to *timeout* seconds if the collector has answered this process
        before, and gives it one try of at most a second if not, or if it says no
        (a wrong key, a wrong path). What is left is
        delivered by the service's next start; then the result is False. A second
        call does nothing. Failure: never raises.
        """
        global _current
        with _lock:
            if not self._is_open:
                return True
            self._is_open = False
            if _current is self:
                _current = None
                atexit.unregister(_at_exit)
        _disconnect()
        delivered = self._end(timeout, exiting=False)
        _diagnostics.say_rest()
        return delivered

    def _leave(self, timeout: float) -> None:
        """Do what ``shutdown`` does, when the interpreter exits, and stay connected.

        Exit handlers that were registered before the set-up, and finalisers, come
        after this: their spans and lines go to the spool at once, for the service's
        next start to deliver. What has no disk to wait on (a spool in memory or a
        temporary one) is counted and reported. Failure: never raises.
        """
        if not self._is_open:  # done by multiprocessing's finaliser
            return
        self._is_open = False
        self._end(timeout, exiting=True)
        _diagnostics.at_exit()

    def _end(self, timeout: float, *, exiting: bool) -> bool:
        _forks.check()
        deadline = time.monotonic() + timeout
        if self._watch is not None:
            self._watch.stop()
        if self._pipeline is not None:
            self._pipeline.is_exiting = exiting
            self._pipeline.roll()
            self._pipeline.shut_processors_down()
        done = [each.stop(deadline - time.monotonic()) for each in self._deliveries]
        self._left = self._waiting()
        for part in (self._pipeline, self._records):
            if part is not None:
                part.is_open = exiting
        for delivery in self._deliveries:
            if self._settings.temporary:
                delivery.spool.remove()
            else:
                delivery.spool.close()
        return all(done)

    def _waiting(self) -> int:
        return sum(each.spool.backlog() for each in self._deliveries)

    def __enter__(self) -> "Observability":
        return self

    def __exit__(self, *error: object) -> None:
        self.shutdown()

    def __repr__(self) -> str:
        state = "open" if self._is_open else "shut down"
        if not self._deliveries:
            return f"<Observability {self.service_name} [{state}, no tracing]>"
        exporter = self._settings.exporter
        where = exporter.shown if exporter.network else "nowhere"
        waiting = self._waiting() if self._is_open else self._left
        delivered = sum(each.sender.delivered_segments for each in self._deliveries)
        parts = [
            state,
            f"spans ended: {0 if self._pipeline is None else self._pipeline.ended_spans}",
            f"segments: {delivered} delivered to {where}, {waiting} waiting",
        ]
        parts += [
            f"last failure: {each.sender.last_failure}"
            for each in self._deliveries
            if each.sender.last_failure
        ]
        if _diagnostics.counts:
            parts.append(f"troubles: {dict(_diagnostics.counts)}")
        return f"<Observability {self.service_name} [{'; '.join(parts)}]>"


def setup_observability(
    service_name: str | None = None,
    *,
    environment: str | None = None,
    log_level: str | int | None = None,
    endpoint: str | None = None,
    budgets: Mapping[str, float] | None = None,
    who: Sequence[str] = ("user_id",),
    propagate: Sequence[str] = (),
    takeover: bool = True,
    spool_dir: "str | PathLike[str] | None" = None,
) -> Observability:
    """Set logging and tracing up: every line knows its trace, every trace shows its lines.

    *service_name*: under which the service is found (OTEL_SERVICE_NAME).
    *environment*, *log_level*: as ``configure_logging``. *endpoint*: the
    collector's OTLP address (OTEL_EXPORTER_OTLP_ENDPOINT); while none answers,
    spans wait on disk, and ``otel-logging late`` and ``show`` read them there.
    *budgets*: seconds by stage name, for stages without a ``budget`` of their
    own. *who*: the bound keys that say on whose behalf something runs.
    *propagate*: the bound keys that may go out as baggage; none. *takeover*: as
    ``configure_logging``; False leaves other loggers alone. *spool_dir*: where
    spans wait (OTEL_LOGGING_SPOOL_DIR); the user's state directory.
    Arguments win over the environment, that over `.env` in the working
    directory; ``docs/configuration.md`` lists all variables.

    Where somebody has set an SDK tracer provider already, it stays, and its
    spans come along. In the environment ``test``, and under pytest, the spool is
    temporary, and without *endpoint* there is no network.

    Scope: process; a second call returns what the first one set up. Failure:
    raises ``ConfigurationError``, and nothing later does. Cost: imports the SDK,
    30 to 40 ms (measured); opens one directory. Concurrency: any thread; a forked child goes
    on with a spool and a worker of its own.
    """
    global _current
    with only_configuration_errors("setup_observability"), _lock:
        settings = load(
            service_name,
            environment=environment,
            log_level=log_level,
            endpoint=endpoint,
            budgets=budgets,
            who=who,
            propagate=propagate,
            takeover=takeover,
            spool_dir=spool_dir,
        )
        if _current is not None:
            if _current._settings != settings:  # noqa: SLF001 - this module's own class
                _diagnostics.remark(
                    "a set-up with other settings is ignored: call shutdown() before it"
                )
            return _current
        _diagnostics.forget()
        set_propagators(settings.propagators)
        made = Observability(settings)
        try:
            _connect_all(made, settings)
        except BaseException:
            made.shutdown(0.0)
            raise
        _current = made
        atexit.register(_at_exit)
        _exit_with_multiprocessing()
    for remark in settings.remarks:
        _diagnostics.remark(remark)
    if settings.traces and settings.sampler != DEFAULT_SAMPLER:
        configure.get_logger(_names.SCOPE).info(
            "requests are sampled", sampler=settings.sampler, ratio=settings.sampler_ratio
        )
    return made


def _connect_all(made: Observability, settings: Settings) -> None:
    if _stand_in is not None:
        _stand_in(settings)
    elif settings.traces or settings.log_exporter:
        _start(made, settings)
    configure.apply(settings.logs)
    budgets = Budgets(settings.budgets)
    _runtime.swap(replace(_runtime.current, budgets=budgets, propagate=settings.propagate))


def _at_exit() -> None:
    if _current is not None:
        _current._leave(EXIT_S)  # noqa: SLF001 - this module's own class


def _exit_with_multiprocessing() -> None:
    """Let ``_at_exit`` run in children of multiprocessing too, which may end in ``os._exit``.

    There are three cases: a child is forked from what is set up here; a child
    sets up while it imports its main module, before it forgets its finalisers; it
    sets up in the midst of its work.
    """
    global _children_know
    util: Any = sys.modules.get("multiprocessing.util")
    if util is None:
        return
    if not _children_know:
        _children_know = True
        util.register_after_fork(_at_exit, _finalise)
    if sys.modules["multiprocessing.process"].parent_process() is not None:
        _finalise(_at_exit)


def _finalise(at_exit: Callable[[], None]) -> None:
    util: Any = sys.modules["multiprocessing.util"]
    util.Finalize(None, at_exit, exitpriority=-100)  # after those of the application


def _start(made: Observability, settings: Settings) -> None:
    from otel_logging.export.ids import make_resource

    resource = make_resource(settings)
    if settings.traces:
        _start_tracing(made, settings, resource)
    if settings.log_exporter is not None:
        _start_records(made, settings, settings.log_exporter, resource)
    deliveries = made._deliveries  # noqa: SLF001 - this module's own class
    if settings.exporter.network and not all(each.has_threads for each in deliveries):
        _diagnostics.remark("uWSGI without --enable-threads: spans wait on disk until it ends")
    for delivery in deliveries:
        delivery.start()  # what a dead process left waits already


def _start_tracing(made: Observability, settings: Settings, resource: "Resource") -> None:
    from otel_logging.export.ids import encode_resource
    from otel_logging.export.line_spans import PROCESS_LOG_S
    from otel_logging.export.pipeline import Pipeline
    from otel_logging.lateness.died import report_died
    from otel_logging.lateness.watch import Watch

    exporter = settings.exporter
    client = make_client(exporter) if exporter.network else None
    spool = _open_spool(settings, exporter, encode_resource(resource))
    pipeline = Pipeline(settings, resource, spool)

    def before_round(is_flush: bool) -> None:  # noqa: FBT001 - as ``Delivery`` calls it
        pipeline.roll(older_than_s=0.0 if is_flush else PROCESS_LOG_S)

    made._pipeline = pipeline  # noqa: SLF001 - this module's own class
    delivery = _add_delivery(made, spool, client, exporter, before_round)
    pipeline.on_flush = delivery.flush
    spool.on_adopt = report_died
    made._watch = Watch(  # noqa: SLF001
        settings.who,
        configure.get_logger(_names.SCOPE).warning,
        lambda: (spool.directory(), encode_resource(pipeline.resource)),
    )
    connect(pipeline, watch=made._watch)  # noqa: SLF001


def _start_records(
    made: Observability, settings: Settings, exporter: "Exporter", resource: "Resource"
) -> None:
    from otel_logging.export.ids import encode_resource, in_this_process
    from otel_logging.export.records import Records

    pipeline = made._pipeline  # noqa: SLF001 - this module's own class
    client = make_client(exporter) if exporter.network else None
    spool = _open_spool(settings, exporter, encode_resource(resource))
    _add_delivery(made, spool, client, exporter, lambda _: None)
    records = made._records = Records(  # noqa: SLF001
        settings.limits,
        spool,
        child_resource=lambda: pipeline.resource if pipeline else in_this_process(resource),
    )
    _runtime.swap(
        replace(_runtime.current, record_sink=records.emit, on_spans=settings.span_events)
    )


def make_client(exporter: "Exporter") -> "Client":
    """Return the client for the protocol. Failure: raises ``ConfigurationError``."""
    # each where it is asked for: gRPC is an extra, and heavy
    if exporter.protocol == "grpc":
        from otel_logging.export.grpc import OtlpGrpc

        return OtlpGrpc(exporter)
    from otel_logging.export.http import OtlpHttp

    return OtlpHttp(exporter)


def _add_delivery(
    made: Observability,
    spool: Spool,
    client: "Client | None",
    exporter: "Exporter",
    before_round: Callable[[bool], None],
) -> "Delivery":
    from otel_logging.export.delivery import Delivery

    delivery = Delivery(spool, client, timeout_s=exporter.timeout_s, before_round=before_round)
    spool.on_work = delivery.wake
    made._deliveries.append(delivery)  # noqa: SLF001 - this module's own class
    return delivery


def _open_spool(settings: Settings, exporter: "Exporter", resource: bytes) -> Spool:
    """Open the spool: where it was asked for, or nothing; else where it can be."""
    name = destination(settings.service_name, exporter)
    given = settings.spool_dir
    places = (
        [directories.default_base, directories.fallback_base] if given is None else [lambda: given]
    )
    noun = "spans"
    if exporter.signal == "logs":
        noun = "log records"

    def opened(base: "Path | None") -> Spool:
        return Spool(
            base,
            name,
            resource,
            bytes_bound=settings.spool_bytes,
            hours=settings.spool_hours,
            noun=noun,
        )

    failure: Exception | None = None
    for find in [directories.temporary_base] if settings.temporary else places:
        try:
            return opened(find())
        except Exception as error:
            failure = error
            if given is None and isinstance(error, directories.UnsafeError):
                _diagnostics.remark("the spool directory is not used: it is not safe", detail=error)
    if given is not None:
        raise ConfigurationError(
            settings.spool_dir_named,
            str(given),
            f"a directory that can be written ({failure})",
        ) from failure
    _diagnostics.remark("the spool is in memory alone: no directory is writable", detail=failure)
    return opened(None)


def connect(pipeline: "Pipeline", **changes: Any) -> None:
    """Make OpenTelemetry's tracers lead to *pipeline*; *changes* to the runtime beside that.

    There are three cases: nobody has set a provider, or it is ours of an
    earlier set-up; it is an SDK's, which we attach to; it is something else.
    """
    from otel_logging.export.foreign import AttachedProcessor
    from otel_logging.export.provider import TracerProvider

    present: Any = trace.get_tracer_provider()
    if isinstance(present, trace.ProxyTracerProvider):
        present = TracerProvider(pipeline)
        trace.set_tracer_provider(present)
    tracer: Any = None
    if hasattr(present, "add_span_processor"):
        if not isinstance(present, TracerProvider) and id(present) not in _attached:
            _attached.add(id(present))
            present.add_span_processor(AttachedProcessor())
        tracer = present.get_tracer(_names.SCOPE)
        if not isinstance(present, TracerProvider):
            tracer = tracing.ForeignTracer(tracer)
    else:
        _diagnostics.remark(
            "spans are not recorded: nothing can be attached to the tracer provider that is set",
            detail=type(present),
        )
    changes.update(tracer=tracer, pipeline=pipeline, line_sink=pipeline.place)
    _runtime.swap(replace(_runtime.current, **changes))


def _disconnect() -> None:
    """Make stages cost nothing again; lines stay on stdout."""
    if _stand_in is None:
        _runtime.swap(_runtime.Runtime())
    else:  # a test captures until the end of its block
        _runtime.swap(replace(_runtime.current, budgets={}, propagate=()))


def set_propagators(names: tuple[str, ...] | None) -> None:
    """Set OpenTelemetry's global propagator to those of OTEL_PROPAGATORS.

    Failure: raises ``ConfigurationError`` for one that is not installed.
    """
    if names is None:
        return
    from importlib.metadata import entry_points

    found: list[Any] = []
    group = entry_points(group="opentelemetry_propagator")
    for name in names:
        if name == "none":
            continue
        if name not in group.names:
            raise ConfigurationError(
                _names.OTEL_PROPAGATORS, name, "of " + ", ".join(sorted({*group.names, "none"}))
            )
        found.append(group[name].load()())
    from opentelemetry.propagate import set_global_textmap
    from opentelemetry.propagators.composite import CompositePropagator

    set_global_textmap(CompositePropagator(found))


# ---------------------------------------------------------------- while a test captures


def settings_in_use() -> Settings | None:
    """Return what is set up; None where nothing is."""
    return None if _current is None else _current._settings  # noqa: SLF001 - this module's own class


@contextmanager
def standing_in(
    pipeline: "Pipeline", take: Callable[[Settings], None], **changes: Any
) -> Iterator[None]:
    """Make *pipeline* take every span and line of a ``with`` block, whatever is set up.

    A set-up inside the block has its settings checked, and *take* called with
    them; nothing is started. *changes* to the runtime beside that. Afterwards all is as
    before, but for a tracer provider of ours where there was none: OpenTelemetry lets it
    be set once. Scope: process.
    """
    global _current, _stand_in
    from opentelemetry import propagate

    current, outer, propagator = _current, _stand_in, propagate.get_global_textmap()
    runtime = _runtime.current
    _current, _stand_in = None, take
    try:
        connect(pipeline, record_sink=None, on_spans=True, **changes)
        yield
    finally:
        if _current is not None:
            _current.shutdown()
        pipeline.is_open = False
        _runtime.swap(runtime)
        propagate.set_global_textmap(propagator)
        _current, _stand_in = current, outer
        if current is None:
            pass
        elif current._is_open:  # noqa: SLF001 - this module's own class
            atexit.register(_at_exit)
        else:  # shut down meanwhile
            _current = None
            _disconnect()
