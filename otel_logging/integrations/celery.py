"""Celery: a run of a task is a stage, in the trace of who called ``delay``.

In: signals of Celery, of whoever sends a task and of the worker that runs it. Out: headers of the
message; a stage of the kind consumer, in which Celery's own lines about the run are. Invariant:
what is bound in a run ends with it. Where OpenTelemetry's instrumentation is active, spans and
headers are its own. Deliberately absent: the time in the broker, by two machines' clocks.
"""

import sys
from contextlib import ExitStack
from typing import Any, Final

from celery import signals

from otel_logging import context as bindings
from otel_logging.binding import leave_structlogs
from otel_logging.integrations.replaced import Replaced, is_instrumented
from otel_logging.propagation import extract, inject
from otel_logging.tracing import automatic

#: On the request of a run: what is open for it.
_OPEN: Final = "otel_logging"
_THEIRS: Final = "celery", "CeleryInstrumentor"


def _send(headers: dict[str, Any], **_: Any) -> None:
    if not is_instrumented(*_THEIRS):
        inject(headers)


def _begin(task: Any, task_id: str, **_: Any) -> None:
    request, run = task.request, ExitStack()
    if is_instrumented(*_THEIRS):
        run.callback(bindings.restore, bindings.state())
    else:
        # a task that ``apply`` runs at once has no headers: it stays in the trace of its caller
        run.enter_context(extract([(k, v) for k, v in vars(request).items() if type(v) is str]))
        attributes = {
            "messaging.system": "celery",
            "messaging.operation.type": "process",
            "messaging.message.id": task_id,
            "messaging.destination.name": (request.delivery_info or {}).get("routing_key") or "",
        }
        stage = automatic(task.name, kind="consumer", attributes=attributes, expected=task.throws)
        run.callback(leave_structlogs, run.enter_context(stage))
    setattr(request, _OPEN, run)


def _end(task: Any, retval: Any, state: Any, **_: Any) -> None:
    run: ExitStack | None = vars(task.request).pop(_OPEN, None)
    if run is None:
        return  # begun before set-up
    # without a state an exception goes through Celery as well
    error = sys.exception() if state is None else retval
    if isinstance(error, BaseException) and state != "SUCCESS":
        run.__exit__(type(error), error, error.__traceback__)
    else:
        run.close()


_replaced = Replaced(
    signals={
        signals.before_task_publish: _send,
        signals.task_prerun: _begin,
        signals.task_postrun: _end,
    }
)
instrument, uninstrument = _replaced.instrument, _replaced.uninstrument
