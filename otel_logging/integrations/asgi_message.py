"""One WebSocket message: its span, and who works on it.

In: when the message arrived, when the next one was asked for, when something was sent for it. Out:
a span from the first to the last of these times, or to the end of the last stage in it.
Deliberately absent: the connection (``connection``).
"""

from types import SimpleNamespace
from typing import Any, Final

from opentelemetry import context as otel_context
from opentelemetry.trace import StatusCode

from otel_logging import _names, _runtime, tracing
from otel_logging import context as bindings
from otel_logging._failures import CLOSED_FOR_FAILURE
from otel_logging.context import get_current, set_current

#: A message with no line and no stage leaves no span, unless it took so long.
SILENT_NS: Final = 10_000_000
#: Key of an OpenTelemetry context: what was current before a message.
BEFORE: Final = "otel_logging_before_message"


class Message:
    """One message, and its span.

    Without a time of arrival it is a stand-in: a task works on one of two messages, and nobody
    knows on which, so its work is the connection's.
    """

    __slots__ = (
        *("arrived_ns", "asked_ns", "bound", "connection", "handed", "is_over", "sent_ns", "span"),
        "taken_ns",
    )

    def __init__(self, connection: Any, arrived_ns: int | None = None) -> None:
        self.connection = connection
        #: None once a task has taken the message that has not received it.
        self.arrived_ns = arrived_ns
        self.asked_ns = self.sent_ns = 0
        self.is_over = arrived_ns is None
        self.span: Any = connection.standing
        #: An item for each piece of work that was handed over and is not done: see ``Waits``.
        self.handed: list[None] = []
        self.bound = connection.bound()

    def begin(self, arrived_ns: int, before: otel_context.Context) -> None:
        """Begin its span, in a context with no other; *before*: what is current for a task that
        leaves.
        """
        connection, stage = self.connection, self.connection.stage
        waited = {**connection.of_messages, _names.QUEUE_WAIT: self._waited_s(arrived_ns)}
        # the last two are attributes and start; to give them by name takes ten times as long
        stage.asked = tuple.__new__(type(stage.asked), (*stage.asked[:-2], waited, arrived_ns))
        if is_own := bindings.state() is connection.shared:  # else in a block of the application's
            bindings.restore(self.bound)
        self.span = tracing.start(stage, self.bound if is_own else None)
        self.span.otel_logging_outer = before
        self.span.otel_logging_token = None  # who works on it leaves it by itself, or stays
        self.bound = bindings.state()

    def _waited_s(self, arrived_ns: int) -> float:
        self.taken_ns = _runtime.current.now_ns()
        return max(self.taken_ns - arrived_ns, 0) // 1000 / 1e6

    def take(self, taker: Any) -> None:
        """Note that *taker* has the message that another task has received; until now the message
        waited.
        """
        if not self.is_over and self.arrived_ns is not None:
            self.span.set_attribute(_names.QUEUE_WAIT, self._waited_s(self.arrived_ns))
            self.arrived_ns, self.asked_ns = None, 0
            if (watch := _runtime.current.watch) is not None:
                watch.take(self.span, taker)

    def finish(self, error: BaseException | None = None, done_ns: int = 0) -> None:
        """End it at *done_ns*, or else when the last thing was done for it. Never raises."""
        if self.is_over:
            return
        self.is_over = True
        span, held = self.span, self.connection.held
        if self in held or not self.asked_ns:  # otherwise the task that asked has finished with it
            held.discard(self)
            done_ns = done_ns or max(self.asked_ns, self.sent_ns, getattr(span, "last_ns", 0))
        done_ns = done_ns or self.asked_ns
        if not done_ns or error is not None:
            done_ns = _runtime.current.now_ns()
        is_quick = done_ns - self.taken_ns < SILENT_NS and not self.sent_ns and error is None
        if is_quick and getattr(span, "is_silent", False) and _runtime.current.on_spans:
            self.connection.quiet += 1
        else:
            tracing.end(span, error, done_ns)


def fail(span: Any, code: int | None) -> None:
    """Mark *span* as failed without an exception: its connection was closed with *code*."""
    span.set_attribute(_names.ERROR_TYPE, str(code))
    span.set_status(StatusCode.ERROR)


class Held:
    """Is in the context of each task that works on a message. When no context has it any more, the
    message is over.
    """

    __slots__ = ("__weakref__", "message")

    def __init__(self, message: Message) -> None:
        self.message = message

    def __del__(self) -> None:
        self.message.finish()


def asked(latest: Message | None = None) -> None:
    """Leave the message that is current: this task is done with it, and asks for the next one.

    *latest*: which one that is, also where a generator that was left in ``detached`` hides it.
    """
    held: Any = get_current().get(_names.HELD)
    if held is None and latest is not None and not latest.asked_ns:
        held = SimpleNamespace(message=latest)
        around = {BEFORE: latest.span.otel_logging_outer, _names.HELD: held}
        set_current(otel_context.Context(around))
        bindings.restore(latest.bound)
    if held is not None:
        message = held.message
        message.asked_ns = message.asked_ns or _runtime.current.now_ns()  # a task may ask again
        message.connection.leave()
        del held  # now the message is over, unless another task works on it
        if not message.is_over and (watch := _runtime.current.watch) is not None:
            watch.leave(message.span)


def closes(connection: Any, code: int) -> None:
    """Note that the application closes *connection* with *code*; one of failure counts as 500."""
    if connection is not None and code in CLOSED_FOR_FAILURE:
        connection.has_failed = True
        held = get_current().get(_names.HELD)
        if held is not None and held.message.connection is connection:
            fail(held.message.span, code)
