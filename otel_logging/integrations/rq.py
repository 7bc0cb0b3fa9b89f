"""RQ: a run of a job is a stage, in the trace of who enqueued it.

In: jobs that are made, whose ``meta`` takes headers along; workers that perform them. Out: a stage
of the kind consumer, in which RQ's own lines about the run are. Invariant: what is bound in a run
ends with it. Deliberately absent: the time in Redis, by two machines' clocks.
"""

from contextlib import suppress
from typing import Any, Final

from rq.worker import Worker

from otel_logging.binding import leave_structlogs
from otel_logging.integrations.replaced import Replaced
from otel_logging.propagation import extract, inject
from otel_logging.tracing import automatic

#: In a job's ``meta``: the headers of who enqueued it.
_HEADERS: Final = "otel_logging"
#: On a job that is performed: what it raised.
_ERROR: Final = "_otel_logging_error"


def _create(original: Any, *args: Any, **options: Any) -> Any:
    job = original(*args, **options)
    if headers := inject():
        job.meta = {**job.meta, _HEADERS: headers}
    return job


def _handle_exception(original: Any, self: Any, job: Any, *exc_info: Any) -> Any:
    vars(job)[_ERROR] = exc_info[1]
    return original(self, job, *exc_info)


def _perform(original: Any, self: Any, job: Any, *args: Any, **options: Any) -> Any:
    attributes = {
        "messaging.system": "rq",
        "messaging.operation.type": "process",
        "messaging.message.id": job.id,
        "messaging.destination.name": job.origin,
    }
    with extract(job.meta.get(_HEADERS) or {}):
        run = automatic(_name_of(job), kind="consumer", attributes=attributes).begin()
        try:
            return original(self, job, *args, **options)
        finally:  # RQ has logged what the job raised, and goes on
            leave_structlogs(run.span)
            run.end(vars(job).pop(_ERROR, None))


def _name_of(job: Any) -> str:
    with suppress(Exception):  # its data cannot be read: the run fails for that reason
        return str(job.func_name)
    return "unreadable job"


def _owner_of(name: str) -> type:
    return next(each for each in Worker.__mro__ if name in vars(each))


_replaced = Replaced(
    ("rq.job", "Job", "create", _create),
    *(
        (_owner_of(name).__module__, _owner_of(name).__name__, name, act)
        for name, act in {"handle_exception": _handle_exception, "perform_job": _perform}.items()
    ),
)
instrument, uninstrument = _replaced.instrument, _replaced.uninstrument
