"""One WebSocket connection, of whatever server: a trace a message, and one for the connection.

In: its handshake, when messages are asked for and come, what is sent, its end. Out: a span of the
handshake; one of each message, from its arrival to the last thing done for it; one of the end.
Invariant: what is bound on the connection holds for its messages, what is bound for one ends with
it. Deliberately absent: how a server receives and sends (``asgi_websocket``, ``websockets``).

How a message is found: a task that asks for messages itself has it in its context, and so has
every task and stage that begins there. Where the receiving ran in a task of its own (``wait_for``
before Python 3.12, Channels), the message becomes that of whoever first looks into it, or, where
that task itself has looked, what the connection stands for until the next one is asked for.
"""

import asyncio
import atexit
import functools
import sys
from collections.abc import Awaitable, Callable
from contextvars import Context, copy_context
from typing import Any, Final
from weakref import WeakSet, ref

from opentelemetry import context as otel_context

from otel_logging import _exceptions, _names, _runtime, tracing
from otel_logging import context as bindings
from otel_logging.binding import NOTHING, Bound, Shared, worker
from otel_logging.context import CURRENT, SPAN
from otel_logging.integrations.asgi_http import Event
from otel_logging.integrations.asgi_message import Held, Message, ReceivedEvent
from otel_logging.integrations.http import Request, Scope, inbound

#: Seconds after which a message is over that somebody holds and nobody works on: a connection of a
#: pool, or a timer, that was made in its context holds it for as long as that lives.
HELD_S: Final = 5.0

#: How frameworks and libraries say that the other side has gone.
_GONE: Final = frozenset(
    {"WebSocketDisconnect", "ClientDisconnected", "ConnectionClosedOK", "ConnectionClosedError"}
)

#: Key of an OpenTelemetry context: what was current before a message.
_BEFORE: Final = "otel_logging_before_message"


#: Connections with messages that somebody may still work on.
_connections: "WeakSet[Connection]" = WeakSet()


@functools.cache
def _finish_at_exit() -> None:
    atexit.register(finish_all)  # later than set-up's, so before it
    util = sys.modules.get("multiprocessing.util")
    if util is not None:  # pragma: no branch - a worker of hypercorn has it
        util.Finalize(None, finish_all, exitpriority=-99)  # set-up's is -100


def finish_all() -> None:
    """End every message that the next one was asked for. Never raises."""
    for connection in list(_connections):
        for message in list(connection.held):
            message.finish()


class Connection:
    """One connection: what its application receives and sends."""

    is_connected = is_accepted = is_over = False
    messages = quiet = 0
    latest: Message | None = None
    #: The stage of its end.
    last: Any = None
    code: int | None = None
    reason = ""
    sweeper: Any = None
    #: Returns the task, other than the application's own, that has asked for messages last.
    _reader: Callable[[], Any] = staticmethod(lambda: None)

    def __init__(self) -> None:
        self.of_messages: dict[str, Any] = {}
        #: Messages that somebody holds after the next was asked for.
        self.held: set[Message] = set()
        #: The task of its application; where the loop is not asyncio's, a thread.
        self.task = worker()

    def open(self, scope: Scope, began_ns: int | None = None) -> None:
        """Begin the handshake; whatever is done in this task now is done on the connection."""
        with inbound(scope["headers"]) as links:
            self.stand(Request(scope, links, start_ns=began_ns))
            here = bindings.Here.now()
        here.put_back()

    def stand(self, handshake: Request) -> None:
        """Do on the connection, which begins with *handshake*, whatever is done from here on."""
        self.handshake = handshake
        self.stage = tracing.traced("message", kind="server", links=(handshake.span,))
        self.standing = bindings.Standing(handshake.span)
        CURRENT.set(otel_context.Context({SPAN: self.standing}))
        # what came with the handshake, or was bound in its request, ends with the connection
        around = NOTHING.put(bindings.bound(), self.standing)
        self.shared = Shared({}, self.standing, around, None)
        bindings.restore(self.shared)
        self._base = self.shared.own
        self._as_bound: tuple[Any, Bound] = None, NOTHING

    def bound(self) -> Bound:
        """Return what is bound on it, as it stands now: encoded once for all its messages."""
        if self._as_bound[0] is not self.shared.own:
            self._as_bound = self.shared.own, Bound(self.shared.fields)
        return self._as_bound[1]

    def accept(self) -> None:
        """End the handshake: messages come from here on."""
        self.end_handshake(101)
        self.is_connected = self.is_accepted = True

    def end_handshake(self, status: int, error: BaseException | None = None) -> None:
        """End the handshake."""
        self.handshake.status, self.handshake.is_complete = status, True
        self.handshake.end(error)
        route, path = self.handshake.route(), self.handshake.scope["path"]
        self.of_messages = {"http.route": route} if route else {}
        if route != path:  # what tells messages of two connections apart
            self.of_messages["url.path"] = path

    # ---- receiving

    async def next(self, take: Callable[[], Awaitable[tuple[Event, int]]]) -> Event:
        """Return what *take* has next, with when it arrived; a message begins."""
        if self.last is not None or not self.is_connected:
            self.is_connected = True
            return (await take())[0]
        self._ask()
        event, arrived_ns = await take()
        kind, task, held = event["type"], worker(), None
        is_reader = type(task) is int or task is self.task or task is self._reader()
        if kind == "websocket.receive":
            self.messages += 1
            if is_reader:
                before = CURRENT.get()
                self.latest = Message(self, arrived_ns)
                self._enter(Held(self.latest), before)
                return event
            self.latest = copy_context().run(Message, self, arrived_ns)
            held, self._reader = Held(self.latest), ref(task)
        elif kind == "websocket.disconnect" and self.is_accepted:
            self._disconnect(event, arrived_ns)
        else:  # or an extension's event
            return event
        if not is_reader:
            event = ReceivedEvent(event)
            event.taken = (self, held, task)
        return event

    def _ask(self) -> None:
        """Leave the message that came before: this task does no more for it."""
        latest, self.latest = self.latest, None
        if latest is not None and not latest.is_over:
            latest.asked_ns = _runtime.current.now_ns()
            self.held.add(latest)
            if (watch := _runtime.current.watch) is not None:
                watch.leave(latest.span)
        self.stand_for(None)
        if self.held and self.sweeper is None and type(self.task) is not int:
            _connections.add(self)
            _finish_at_exit()
            self._sweep_later()

    def _sweep_later(self) -> None:
        loop = asyncio.get_running_loop()
        self.sweeper = loop.call_later(HELD_S, self._sweep, context=Context())

    def _sweep(self) -> None:
        self.sweeper = None
        now_ns = _runtime.current.now_ns()
        for message in list(self.held):
            span = message.span
            active_ns = max(
                message.asked_ns, message.sent_ns, getattr(span, "otel_logging_last", 0)
            )
            is_idle = not getattr(span, "otel_logging_stages", 0)
            if is_idle and now_ns - active_ns > HELD_S * 1e9:
                message.finish(done_ns=active_ns)  # lines alone are of what goes on behind it
        if self.held:
            self._sweep_later()

    def enter(self, held: Held) -> None:
        """Work on a message, in this task from here on, and in those that it starts."""
        self.leave()
        bindings.restore(held.message.bound)
        self._enter(held, CURRENT.get())

    def _enter(self, held: Held, before: otel_context.Context) -> None:
        around = {_BEFORE: before, _names.HELD: held, SPAN: held.message.span}
        CURRENT.set(otel_context.Context(around))

    def enter_end(self) -> None:
        """Leave the last message, in this task: what it does from here on is part of the end."""
        self.leave()
        CURRENT.set(otel_context.Context({SPAN: self.last}))

    def leave(self) -> None:
        """Work on no message, in this task from here on."""
        current = CURRENT.get()
        held = current.get(_names.HELD)
        if held is not None and held.message.connection is self:
            message, around, now = held.message, self.shared, bindings.state()
            CURRENT.set(current[_BEFORE])
            if now is not message.bound or getattr(now, "around", None) is not self._as_bound[1]:
                # something was bound in it, or around it
                left = now.lasting(lambda owner: owner is message.span)
                is_usual = all(around.fields.get(key) is each for key, each in left.fields.items())
                around = around if is_usual else left
            bindings.restore(around)

    def stand_for(self, held: Held | None) -> None:
        """Let those who have no message in their context work on this one."""
        standing = self.standing
        if standing.held is not None:
            standing.now = self.handshake.span
            self.shared.replace(self._base)
        if held is not None:
            standing.now = held.message.span
            self._base = self.shared.own
        standing.held = held

    # ---- the end

    def _disconnect(self, event: Event | None, arrived_ns: int | None) -> None:
        """Begin the end; what an application still does is part of it."""
        if event is not None and self.code is None:
            self.code, self.reason = event.get("code", 1005), event.get("reason") or ""
        stage = tracing.traced("disconnect", attributes=self.of_messages)
        stage.start_ns = arrived_ns
        self.last = tracing.start(stage)
        if event is None:  # an exception stays the message's that has noted it
            self.last.otel_logging_began = self.handshake.began
        self.standing.now = self.last

    async def close(self, error: BaseException | None) -> None:
        """End what is open: the application has returned, or raised *error*."""
        self.is_over = True
        raised, error = error, None if type(error).__name__ in _GONE else error
        held = CURRENT.get().get(_names.HELD) or self.standing.held
        if error is not None and held is not None and held.message.connection is self:
            if held is self.standing.held:  # that and what it shares are soon the connection's
                bindings.restore(Bound(bindings.state().fields))
                self._enter(held, CURRENT.get())
            current = CURRENT.get()
            held.message.finish(error)
            CURRENT.set(current)  # which it has left
        asked()
        if self.is_accepted:
            self._ask()
            if self.last is None:
                self._disconnect(None, None)
            self.last.set_attributes(
                {
                    "websocket.close_code": 1006 if self.code is None else self.code,
                    "websocket.messages": self.messages,
                    "websocket.messages_quiet": self.quiet,
                    **({"websocket.close_reason": self.reason} if self.reason else {}),
                }
            )
            _exceptions.remember_context(
                raised, self.handshake.began
            )  # a server may log what is no error
            tracing.end(self.last, error)
        else:
            failed = 500 if self.code is None else 403  # what the server answers
            self.end_handshake(self.handshake.status or failed, error)
        self.standing.otel_logging_closed = True


def asked() -> None:
    """Leave the message that is current: this task is done with it, and asks for the next one."""
    held = CURRENT.get().get(_names.HELD)
    if held is not None:
        connection = held.message.connection
        if connection.latest is held.message:  # in a time-out it asks again and again
            held.message.asked_ns = _runtime.current.now_ns()
        connection.leave()


def sent() -> None:
    """Note that something was sent for the message that is current."""
    current = CURRENT.get()
    held = current.get(_names.HELD) or getattr(current.get(SPAN), "held", None)
    # a listener that a message has started sends to everybody, for ever
    if held is not None and not held.message.connection.is_over:
        held.message.sent_ns = _runtime.current.now_ns()
