"""The one set-up of a process, and that of logging alone: when it begins and ends.

In: arguments. Out: an ``Observability``, which holds all that must be ended. Invariant: one at a
time; set-up is idempotent, and works again after ``shutdown``. Deliberately absent: what is
started (``assembly``).
"""

import atexit
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from opentelemetry import trace

from otel_logging import _diagnostics, _forks, _names, _runtime
from otel_logging._errors import only_configuration_errors
from otel_logging._redact import Redaction
from otel_logging.integrations import registry
from otel_logging.lateness.budgets import Budgets
from otel_logging.logs import caller, configure, levels
from otel_logging.propagation import wrap_propagators
from otel_logging.settings import DEFAULT_SAMPLER, Settings, differences, load
from otel_logging.settings.logs import load_logs

if TYPE_CHECKING:
    from os import PathLike

    from otel_logging.export.delivery import Delivery
    from otel_logging.export.pipeline import Pipeline
    from otel_logging.export.records import Records
    from otel_logging.lateness.watch import Watch

#: Product requirement D9: exit within 5 s, whatever the collector does.
EXIT_S: Final = 5.0

_lock = threading.RLock()
#: Whether our exit handler is registered with multiprocessing; children inherit that.
_children_know = False


class Observability:
    """What ``setup_observability`` has started. A context manager: leaving it shuts down.

    Concurrency: any thread.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._before = _runtime.current  # what ``shutdown`` goes back to
        self._pipeline: Pipeline | None = None
        self._records: Records | None = None
        self._watch: Watch | None = None
        #: The worker of spans, and that of log records, if there are any.
        self._deliveries: list[Delivery] = []
        self._is_open = True
        self._left = 0
        frame, _ = caller.users_frame()
        self._place = f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno}"
        _forks.join(_forks.Step.EXIT, self)

    def _start(self) -> None:
        settings = self._settings
        if (take_settings := _runtime.current.take_settings) is not None:
            take_settings(settings)
        elif settings.traces or settings.log_exporter:
            from otel_logging import assembly

            self._pipeline, self._records, self._watch = assembly.start(settings, self._deliveries)
        configure.apply(settings)
        _runtime.change(
            budgets=Budgets(settings.budgets),
            propagate=settings.propagate,
            who=settings.who,
            trust_inbound=settings.trust_inbound,
        )
        # without tracing requests still begin with nothing bound; client spans are not needed
        registry.instrument(
            each for each in settings.instrument if settings.traces or each != "clients"
        )

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
        with _lock:
            if not self._is_open:
                return True
            self._is_open = False
            if _runtime.current.observability is self:
                self._disconnect()
        delivered = self._end(timeout, exiting=False)
        _diagnostics.say_rest()
        return delivered

    def _disconnect(self) -> None:
        """Make stages cost nothing again; lines stay on stdout."""
        registry.uninstrument()
        lines = _runtime.current
        _runtime.swap(
            replace(
                self._before,
                redaction=lines.redaction,
                logs=lines.logs,
                taken_over=lines.taken_over,
                application=lines.application,
            )
        )

    def _leave(self) -> None:
        """Do what ``shutdown`` does, when the interpreter exits, and stay connected.

        Exit handlers that were registered before the set-up, and finalisers, come
        after this: their spans and lines go to the spool at once, for the service's
        next start to deliver. Without a disk to wait on (a spool in memory or a
        temporary one) they are counted and reported as lost. Failure: never raises.
        """
        if not self._is_open:  # multiprocessing's finaliser has done it
            return
        self._is_open = False
        self._end(EXIT_S, exiting=True)
        _diagnostics.at_exit()

    def _end(self, timeout: float, *, exiting: bool) -> bool:
        _forks.check()
        deadline = time.monotonic() + timeout
        if self._watch is not None:
            self._watch.stop()
        if self._pipeline is not None:
            self._pipeline.is_exiting = exiting
            # a processor that never returns leaves half of the time for delivery
            self._pipeline.shut_processors_down(deadline - timeout / 2)
        done = [each.stop(deadline - time.monotonic()) for each in self._deliveries]
        if self._pipeline is not None:
            self._pipeline.leave_processors(deadline - timeout / 10)
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
        senders = [each.sender for each in self._deliveries]
        delivered = sum(each.delivered_segments for each in senders)
        parts = [
            state,
            f"spans ended: {0 if self._pipeline is None else self._pipeline.ended_spans}",
            f"segments: {delivered} delivered to {where}, {waiting} waiting",
            *(f"last failure: {each.last_failure}" for each in senders if each.last_failure),
        ]
        if _diagnostics.counts:
            parts.append(f"troubles: {dict(_diagnostics.counts)}")
        return f"<Observability {self.service_name} [{'; '.join(parts)}]>"


def configure_logging(
    *,
    environment: str | None = None,
    log_level: str | int | None = None,
    log_levels: str | Mapping[str, str | int] | None = None,
    redact: bool | Redaction | None = None,
) -> None:
    """Set logging up, without tracing: coloured lines in development, JSON in production.

    *environment* (variable ENVIRONMENT): development, test, or anything else, which
    is JSON; unset it is development on a terminal and production otherwise.
    *log_level* (LOG_LEVEL): a name in any case or a number; info. *log_levels*
    (LOG_LEVELS, ``shop=debug,shop.db=warning``): levels by logger name, which hold
    for the names below it too. *redact* (OTEL_LOGGING_REDACT): what is taken out of
    lines, a ``Redaction``; False: nothing. Variables are read from the environment, then from
    `.env` in the working directory.

    Lines of the standard library's loggers, warnings and uncaught exceptions are
    made and written in the same way, each once (``docs/logging.md``). The integrations
    (OTEL_LOGGING_INSTRUMENT) begin each request, message and job with nothing bound.

    Scope: process; calling it again configures anew, for loggers that exist too.
    Failure: raises ``ConfigurationError``.
    """
    given = {**locals()}
    with only_configuration_errors("configure_logging"), _lock:
        settings = load_logs(**given)
        configure.apply(settings)
        runtime = _runtime.current
        if runtime.observability is None and runtime.take_settings is None:
            registry.instrument(set(settings.instrument) - {"clients"})


def setup_observability(
    service_name: str | None = None,
    *,
    environment: str | None = None,
    log_level: str | int | None = None,
    endpoint: str | None = None,
    budgets: Mapping[str, float] | None = None,
    who: str | Sequence[str] | None = None,
    propagate: str | Sequence[str] | None = None,
    takeover: bool = True,
    redact: bool | Redaction | None = None,
    instrument: str | Sequence[str] | None = None,
    trust_inbound: bool | None = None,
    spool_dir: "str | PathLike[str] | None" = None,
) -> Observability:
    """Set logging and tracing up: every line knows its trace, every trace shows its lines.

    *endpoint*: the collector's OTLP address; while none answers, spans wait on disk, in
    *spool_dir*. *budgets*: seconds by stage name. *who*: the bound keys that say on whose behalf
    something runs; *propagate*: those that may go out as baggage. *instrument*: "auto", or names of
    integrations; *trust_inbound*: whether a request's trace is continued. *environment*,
    *log_level*, *takeover*, *redact*: as ``configure_logging``. Arguments win over variables;
    ``docs/configuration.md`` has all, and what differs under pytest and beside another SDK.

    Scope: process; a second call returns what the first one set up. Failure: raises
    ``ConfigurationError``, and nothing later does. Cost: 20 to 35 ms (measured), most of it
    for importing the SDK; OpenTelemetry's instrumentations of what is imported by then come on top.
    Opens one directory. Concurrency: any thread; a forked child goes on with parts of its own.
    """
    given = {**locals()}
    with only_configuration_errors("setup_observability"), _lock:
        defaults = setup_observability.__kwdefaults__ or {}
        settings = load(**given, beside=is_beside())
        return _set_up(settings, [k for k, v in given.items() if v != defaults.get(k)])


def is_beside() -> bool:
    """Return whether the tracer provider is another SDK's."""
    present = vars(trace).get("_TRACER_PROVIDER")
    return present is not None and not hasattr(present, "is_idle")


def _set_up(settings: Settings, given: Sequence[str]) -> Observability:
    current: Observability | None = _runtime.current.observability
    if current is not None:
        known = current._settings  # noqa: SLF001 - this module's own class
        if known.level is None:
            known = replace(known, level=levels.of_root())
        for difference in differences(settings, known, given):
            ignored = f"{difference} at {current._place}"  # noqa: SLF001
            if ignored not in _diagnostics.counts:  # said before
                _diagnostics.remark(ignored)
        return current
    wrap_propagators()
    _diagnostics.forget()
    made = Observability(settings)
    _runtime.change(observability=made)
    try:
        made._start()  # noqa: SLF001
    except BaseException:
        made.shutdown(0.0)
        raise
    atexit.unregister(_at_exit)  # of a set-up before
    atexit.register(_at_exit)
    _exit_with_multiprocessing()
    for remark in settings.remarks:
        _diagnostics.remark(remark)
    if settings.traces and settings.console and settings.environment != "test":
        described = registry.described()
        if any(described.values()):
            configure.get_logger(_names.SCOPE).info("instrumented", **described)
    if settings.traces and settings.sampler != DEFAULT_SAMPLER:
        configure.get_logger(_names.SCOPE).info(
            "requests are sampled", sampler=settings.sampler, ratio=settings.sampler_ratio
        )
    return made


def _at_exit() -> None:
    if (current := _runtime.current.observability) is not None:
        current._leave()  # noqa: SLF001 - this module's own class


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


# ---------------------------------------------------------------- while a test captures


@contextmanager
def standing_in(pipeline: "Pipeline", **changes: Any) -> Iterator[None]:
    """Make *pipeline* take every span and line of a ``with`` block, whatever is set up.

    *changes*: further ones to the runtime record. Afterwards all is as before, except that a tracer
    provider of ours stays if none was set: OpenTelemetry lets it be set once. Scope: process.
    Failure: raises ``ConfigurationError``.
    """
    from opentelemetry import propagate

    from otel_logging import assembly

    before, propagator = _runtime.current, propagate.get_global_textmap()
    outside, on = before.observability, {*registry.on}
    try:
        # no line: it would come whenever the test's exception goes, and its span has it
        no_others = dict.fromkeys(("observability", "record_sink", "sends_records", "failed"))
        assembly.connect(pipeline, on_spans=True, **no_others, **changes)
        with configure.while_captured():
            yield
    finally:
        if (inside := _runtime.current.observability) is not None:
            inside.shutdown()
        pipeline.is_open = False
        propagate.set_global_textmap(propagator)
        configure.use(before)
        registry.instrument(on)
        if outside is not None and not outside._is_open:  # noqa: SLF001 - this module's own class
            outside._disconnect()  # noqa: SLF001 - it was shut down meanwhile
