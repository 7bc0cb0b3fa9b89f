"""One WebSocket connection, of whatever server: a trace a message, and one for the connection.

In: its handshake, when messages are asked for and come, what is sent, its end. Out: a span of the
handshake; one of each message, from its arrival to the last thing done for it; one of the end.
Invariant: what is bound on the connection holds for its messages, what is bound for one ends with
it. Deliberately absent: how a server receives and sends (``asgi_websocket``, ``websockets``).

A message belongs to the context of the task that works on it, and of everything that begins there.

- A task receives, and works on the message: it leaves the message when it asks for the next one.
- A task of its own receives (``wait_for`` before Python 3.12, ``asyncio.wait``, ``gather``), and
  another task waits for it: that task has the message once the first has ended, and leaves it when
  it waits for the next one.
- A task of its own receives, and no task waits for it: the task that has started it has the message
  once it asks for the next one. If that cannot be seen, the message is unowned until then.
"""

import asyncio
import atexit
import functools
import sys
from collections.abc import Awaitable, Callable
from contextvars import Context
from types import SimpleNamespace
from typing import Any, Final
from weakref import WeakSet, ref

from opentelemetry import context as otel_context

from otel_logging import _exceptions, _names, _runtime, background_tasks, tracing
from otel_logging import context as bindings
from otel_logging.background_tasks import run_in
from otel_logging.binding import NOTHING, Bound, Shared, has_ended, worker
from otel_logging.context import SPAN, get_current, set_current
from otel_logging.integrations.asgi_message import BEFORE, Held, Message, asked, fail
from otel_logging.integrations.http import Event, Request, Scope
from otel_logging.integrations.taken import Item, first_at_end, waiter_of

#: Seconds after which a message is over if it is held but not worked on: a timer or a pool's
#: connection that was made in its context holds it as long as it lives. Also the seconds that a
#: task may work on a message after its connection's end.
HELD_S: Final = 2.0
_SWEEP_S: Final = 0.5
_LAYERS: Final = 8  # the most tasks of which each waits for the next
#: Seconds, after the next message is asked for, in which a task of the application may work on this
#: one. Then a task without an open stage may be a listener.
WORKED_ON_S: Final = 60.0

#: How frameworks and libraries say that the other side has gone.
_GONE: Final = frozenset(
    {"WebSocketDisconnect", "ClientDisconnected", "ConnectionClosedOK", "ConnectionClosedError"}
)

#: Connections with messages that somebody may still work on.
_connections: "WeakSet[Connection]" = WeakSet()


@functools.cache
def _finish_at_exit() -> None:
    atexit.register(finish_all)  # registered after set-up's, so it runs before that
    util = sys.modules.get("multiprocessing.util")
    if util is not None:  # pragma: no branch - a worker of hypercorn has it
        util.Finalize(None, finish_all, exitpriority=-99)  # set-up's is -100


def finish_all() -> None:
    """End every message after which the next one was asked for. Never raises."""
    for connection in list(_connections):
        for message in list(connection.held):
            message.finish()


class Connection:
    """One connection: what its application receives and sends."""

    is_connected = is_accepted = False
    over_ns = 0  # when the connection ended; 0: it is open
    messages = quiet = 0
    latest: Message | None = None
    last: Any = None  # the stage of its end
    code: int | None = None
    reason = ""
    #: Whether the application has closed the connection because of a failure.
    has_failed = False
    sweeper: Any = None
    #: A task that has asked for a message while the task that started it did something else.
    asking: Any = None
    #: The task that works on a message and has called what asks for the next one.
    _announced: Any = None
    #: Whether a task of its own receives for the application.
    _is_apart = False
    #: Holds the answered message while the next one is asked for.
    _answered: Held | None = None

    def __init__(self) -> None:
        self.of_messages: dict[str, Any] = {}
        #: Messages that are still held after the next one was asked for.
        self.held: set[Message] = set()
        #: The task of the application; a thread if the loop is not asyncio's.
        self.task: Any = worker()
        #: What tasks bring that have not ended; and what no task has taken yet, oldest first.
        self.brought: dict[Any, Item] = {}
        self.untaken: list[Any] = []

    def open(self, scope: Scope, began_ns: int | None = None) -> None:
        """Begin the handshake; from here on this task works on the connection."""
        self.stand(Request(scope, start_ns=began_ns))
        here = bindings.Here.now()
        self.handshake.leave()
        here.put_back()

    def stand(self, handshake: Request) -> None:
        """Let this task work on the connection, which begins with *handshake*, from here on."""
        self.handshake = handshake
        self.stage = tracing.traced("message", kind="server", links=(handshake.span,))
        self.standing = bindings.Standing(handshake.span, self.task)
        set_current(otel_context.Context({SPAN: self.standing}))
        # what came with the handshake, or was bound in its request, ends with the connection
        around = NOTHING.put(bindings.bound(), self.standing)
        self.shared = Shared({}, self.standing, around, None)
        bindings.restore(self.shared)
        self._as_bound: tuple[Any, Bound] = None, NOTHING

    def bound(self) -> Bound:
        """Return what is bound on the connection now; it is encoded once for all messages."""
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

    def announce(self) -> None:
        """Note that a task asks for the next message: it is done with the last one."""
        if not self._is_apart:  # no cost if the application's own task receives
            self._announced = self._announced or worker()
            return
        taker = self._taker()
        self.take(taker)
        if taker is worker():  # otherwise it was noted before
            self._announced = taker
            self._loosen()

    def take(self, taker: Any) -> None:
        """Let *taker* work on the oldest message that no task has taken."""
        if self.untaken:
            self._give(taker, self.untaken.pop(0))

    def _loosen(self) -> None:
        """Let an answered message end earlier than a time-out that starts here.

        A time-out keeps a copy of the context. The copy gets a stand-in, which does not hold it.
        """
        current = get_current()
        held = current.get(_names.HELD)
        if held is not None and held.message.sent_ns and held.message.connection is self:
            self._answered = held
            loose = {**current, _names.HELD: SimpleNamespace(message=held.message)}
            set_current(otel_context.Context(loose))

    async def next(self, take: Callable[[], Awaitable[tuple[Event, int]]]) -> Event:
        """Return the next event of *take*, which also returns its arrival. A message begins."""
        task = worker()
        is_apart = task is not self.task and type(task) is not int
        taker = self._taker() if is_apart else task
        asked(None if is_apart else self.latest)
        if self.last is not None or not self.is_connected:
            self.is_connected, self._announced = True, None
            return (await take())[0]
        asker = self._ask_apart(task, taker) if is_apart else None
        self._ask()
        event, arrived_ns = await take()
        held = None
        if event["type"] == "websocket.receive":
            self.messages += 1
            self.latest = message = Message(self, arrived_ns)
            around = self._around(held := Held(message), task)
            set_current(otel_context.Context(around))
            message.begin(arrived_ns, around[BEFORE])
        elif event["type"] == "websocket.disconnect" and self.is_accepted:
            self._disconnect(event, arrived_ns)
        else:  # or an extension's event
            return event
        if is_apart:
            self.asking = None
            self._bring(task, held, asker)
        return event

    def _ask(self) -> None:
        """Note that the receiver has finished with the message before."""
        latest, self.latest, self._announced = self.latest, None, None
        if self.asking is None:
            self._answered = None
        if latest is not None and not latest.is_over:
            latest.asked_ns = _runtime.current.now_ns()
            self.held.add(latest)
            if (watch := _runtime.current.watch) is not None:
                watch.leave(latest.span)
        if type(self.task) is not int and (self.held or not self.messages):
            asyncio.get_running_loop().call_soon(background_tasks.look, context=Context())
            if self.held and self.sweeper is None:
                _connections.add(self)
                _finish_at_exit()
                self._sweep_later()

    # ---- receiving in a task of its own

    def _taker(self) -> Any:
        """Return the task whose context, or a copy of it, this is, if that is known."""
        taken_by = get_current().get(_names.TAKER)
        return self.task if taken_by is None else taken_by()

    def _ask_apart(self, task: Any, taker: Any) -> tuple[Any, bool]:
        """Note that *task*, which *taker* started, asks; return *taker*, and whether it said so."""
        is_announced = self._announced is taker
        self._forget(task)
        self.asking, self._is_apart = task, True
        if not self.look():
            asyncio.get_running_loop().call_soon(self.look, context=Context())
        return taker, is_announced

    def look(self) -> bool:
        """Let the task that waits for the next message leave the last; return whether one waits."""
        task = asking = self.asking
        for _ in range(_LAYERS):  # pragma: no branch - a bound
            if (waits := waiter_of(task)) is None:
                break
            task = waits[0]
            self._forget(task)
            run_in(task, self.leave)
        if task is not asking:
            self.asking = self._answered = None
        return task is not asking

    def _bring(self, task: Any, held: Held | None, asker: Any) -> None:
        """Pass on what *task* has when it ends; at once, if the task that waited has given up."""
        waits = waiter_of(task, asker[0])
        if waits is not None and waits[1].done():
            self._give(waits[0], held)
            waits, asker = None, (task, True)
        self._forget(task)
        self.brought[task] = Item(held, asker, waits, not task._callbacks)  # noqa: SLF001 - as there
        first_at_end(task, self._pass_on)

    def _forget(self, task: Any) -> None:
        """Note that *task* no longer holds what it has brought."""
        if self.brought.pop(task, None) is not None:
            task.remove_done_callback(self._pass_on)

    def _pass_on(self, task: Any) -> None:
        """Give what *task*, which is done, has brought to its waiter. In the context of *task*."""
        item = self.brought.pop(task)
        self.leave()
        taker, is_announced = item.asked
        if self.over_ns:
            return
        if (waiter := item.waiter()) is not None:
            self._give(waiter, item.held)
            if waiter is not self.task:
                self._bring(waiter, item.held, (waiter, True))
        elif taker is not task:
            if item.is_for_starter:
                self.untaken.append(item.held)
            if not (item.is_for_starter and is_announced):
                run_in(taker, lambda: self._doubt(taker, item))

    def _give(self, taker: Any, held: Held | None) -> None:
        """Let the task *taker* work on the message of *held*; None: on the connection's end."""
        self._answered = None
        run_in(taker, self.leave if held is None else lambda: self.enter(held, taker))

    def _doubt(self, taker: Any, item: Item) -> None:
        """Note that *taker* works on one of two messages: it is unowned until it asks again."""
        if _names.HELD in get_current() or not item.is_for_starter:
            self.enter(Held(Message(self)), taker)

    def _sweep_later(self) -> None:
        loop = asyncio.get_running_loop()
        self.sweeper = loop.call_later(_SWEEP_S, self._sweep, context=Context())

    def _sweep(self) -> None:
        self.sweeper = None
        self.look()
        now_ns, at_work = _runtime.current.now_ns(), background_tasks.look()
        for message in list(self.held):
            span: Any = message.span
            last_ns = getattr(span, "otel_logging_last", 0)
            active_ns = max(message.asked_ns, message.sent_ns, last_ns)
            gone_s = (now_ns - (self.over_ns or message.asked_ns or now_ns)) / 1e9
            is_long_ago = gone_s > (HELD_S if self.over_ns else WORKED_ON_S)
            is_idle = not message.handed and now_ns - active_ns > HELD_S * 1e9
            is_left = is_long_ago or (is_idle and message.span not in at_work)
            if is_left and not getattr(span, "otel_logging_stages", 0):
                message.finish(done_ns=active_ns)  # it has lines alone: something goes on after it
        if self.held:
            self._sweep_later()

    def enter(self, held: Held, taker: Any = None) -> None:
        """Let this task, *taker*, work on a message from here on, and the tasks that it starts."""
        self.leave()
        bindings.restore(held.message.bound)
        taker = taker or worker()
        held.message.take(taker)
        around = {**self._around(held, taker), SPAN: held.message.span}
        set_current(otel_context.Context(around))

    def _around(self, held: Held, taker: Any) -> dict[str, Any]:
        """Return what is current in *taker*, beside the span, while it works on a message."""
        around = {BEFORE: get_current(), _names.HELD: held}
        if taker is not self.task and type(taker) is not int:
            around[_names.TAKER] = ref(taker)
        return around

    def leave(self) -> None:
        """Let this task work on no message from here on."""
        current = get_current()
        held = current.get(_names.HELD)
        if held is not None and held.message.connection is self:
            message, around, now = held.message, self.shared, bindings.state()
            set_current(current[BEFORE])
            if now is not message.bound or getattr(now, "around", None) is not self._as_bound[1]:
                # something was bound in it, or around it
                left = now.lasting(lambda owner: owner is message.span or has_ended(owner))
                is_usual = all(around.fields.get(key) is each for key, each in left.fields.items())
                around = around if is_usual else left
            bindings.restore(around)

    # ---- the end

    def _disconnect(self, event: Event | None, arrived_ns: int | None) -> None:
        """Begin the stage of the end; what the application still does is part of it."""
        if event is not None and self.code is None:
            self.code, self.reason = event.get("code", 1005), event.get("reason") or ""
        stage = tracing.traced("disconnect", attributes=self.of_messages)
        stage.asked = stage.asked._replace(start_ns=arrived_ns)
        self.last = tracing.start(stage)
        if event is None:  # a message that has noted an exception keeps it
            self.last.otel_logging_began = self.handshake.began
        self.standing.now = self.last

    def close(self, error: BaseException | None) -> BaseException | None:
        """End what is open: the application has returned, or raised *error*. Return its failure."""
        self.over_ns = _runtime.current.now_ns()
        raised, self.handshake.handled = error or self.handshake.handled, None
        error = None if type(raised).__name__ in _GONE else raised
        held = get_current().get(_names.HELD)
        if error is not None and held is not None and held.message.connection is self:
            held.message.finish(error)
        asked(self.latest)
        self.untaken.clear()
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
            # a server may log it, though it is no error
            _exceptions.remember_context(raised, self.handshake.began)
            if self.has_failed and error is None:
                fail(self.last, self.code)
            tracing.end(self.last, error)
        else:
            failed = 500 if self.code is None else 403  # what the server answers
            self.end_handshake(self.handshake.status or failed, error)
        self.standing.otel_logging_closed = True
        return error


def sent() -> None:
    """Note that something was sent for the message that is current."""
    held = get_current().get(_names.HELD)
    # a listener that this message has started sends to everybody for ever
    if held is not None and not held.message.connection.over_ns:
        held.message.sent_ns = _runtime.current.now_ns()
        # often sending is the last thing that is done for a message
        if (connection := held.message.connection).asking is not None:
            asyncio.get_running_loop().call_soon(connection.look, context=Context())
