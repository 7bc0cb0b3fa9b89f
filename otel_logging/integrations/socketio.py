"""Socket.IO (python-socketio, Flask-SocketIO): an event is a stage, on behalf of its connection.

In: servers, of threads and of asyncio. Out: what handles an event, observed: a trace of its own,
or inside the message that brought it. Invariant: what is bound when a client connects holds for its
events; what is bound while one is handled ends with it.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any, Final

from otel_logging import _names
from otel_logging.context import CURRENT, bind_context, bound
from otel_logging.integrations.replaced import Replaced
from otel_logging.tracing import automatic

#: In a connection's environ: what was bound when it was made.
_BOUND: Final = "otel_logging.bound"


@contextmanager
def _handling(server: Any, event: str, namespace: str | None, environ: Any) -> Iterator[None]:
    namespace, bound_there = namespace or "/", (environ or {}).get(_BOUND, {})
    own = getattr(server.namespace_handlers.get(namespace), f"on_{event}", None)
    # a client may send any name
    is_known = own or event in server.handlers.get(namespace, ()) or event == "connect"
    name, fields = event if is_known else "event", {"socketio.namespace": namespace}
    is_in_message = _names.HELD in CURRENT.get()
    with automatic(name, kind="server", root=not is_in_message, attributes=fields):
        bind_context(**bound_there)
        yield
        if event == "connect":
            environ[_BOUND] = bound()


def _connecting(server: Any, connection: str, namespace: str | None, _: Any) -> Any:
    return _handling(server, "connect", namespace, server.environ[connection])


def _triggering(server: Any, event: str, namespace: str, sid: str, *_: Any) -> Any:
    if event == "connect":  # which may be tried with fewer arguments, for handlers of old
        return nullcontext()
    return _handling(server, event, namespace, server.get_environ(sid, namespace))


def _call(around: Callable[..., Any], original: Any, *args: Any) -> Any:
    with around(*args):
        return original(*args)


async def _await(around: Callable[..., Any], original: Any, *args: Any) -> Any:
    with around(*args):
        return await original(*args)


_SERVERS: Final = (_call, "server", "Server"), (_await, "async_server", "AsyncServer")
_replaced = Replaced(
    *(
        (f"socketio.{module}", kind, name, partial(act, around))
        for act, module, kind in _SERVERS
        for name, around in (("_handle_connect", _connecting), ("_trigger_event", _triggering))
    )
)
instrument, uninstrument = _replaced.instrument, _replaced.uninstrument
