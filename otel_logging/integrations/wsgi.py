"""WSGI: each request is a trace, from its arrival until its body is closed.

In: an application, whichever framework's, or whatever a server is given. Out: the same, observed.
Invariant: what passes is unchanged, but for headers of the answer. Deliberately absent: what a
framework knows of a request (``flask``, ``django``).
"""

from collections.abc import Callable, Collection, Iterable, Iterator
from contextvars import copy_context
from functools import partial
from typing import Any, Final

from opentelemetry.trace import INVALID_SPAN

from otel_logging import _names
from otel_logging._exceptions import context_of
from otel_logging.binding import has_ended
from otel_logging.context import CURRENT, SPAN, Here, entry_of
from otel_logging.integrations import http
from otel_logging.integrations.http import QUIET, Request, Scope, granian, inside, port_of, serve
from otel_logging.integrations.replaced import Replaced
from otel_logging.lateness.stage import value_of

Environ = dict[str, Any]
App = Callable[[Environ, Callable[..., Any]], Iterable[bytes]]

#: Key of an environ. Its value is our request; or the entry span, where an ASGI application has
#: the WSGI application mounted.
REQUEST: Final = "otel_logging.request"


def scope_of(environ: Environ) -> Scope:
    """Return the request as an ASGI scope."""
    headers = [
        (key[5:].replace("_", "-").lower().encode("latin-1"), value.encode("latin-1", "replace"))
        for key, value in environ.items()
        if key.startswith("HTTP_") and isinstance(value, str)
    ]
    path = (environ.get("SCRIPT_NAME", "") + environ.get("PATH_INFO", "")) or "/"
    return {
        "method": environ["REQUEST_METHOD"],
        # PEP 3333: bytes as latin-1, which are UTF-8
        "path": path.encode("latin-1", "replace").decode("utf-8", "replace"),
        "scheme": environ.get("wsgi.url_scheme", "http"),
        "headers": headers,
        "http_version": environ.get("SERVER_PROTOCOL", "").removeprefix("HTTP/") or None,
        "server": (environ.get("SERVER_NAME"), port_of(environ.get("SERVER_PORT"))),
        "client": (environ.get("REMOTE_ADDR"), port_of(environ.get("REMOTE_PORT"))),
    }


def _is_of_asgi(environ: Environ) -> bool:
    """Say whether an ASGI application has the request, and this one is mounted in it."""
    entry = entry_of(CURRENT.get().get(SPAN, INVALID_SPAN))
    scope, method = scope_of(environ), value_of(entry, "http.request.method_original")
    asked = method or value_of(entry, "http.request.method"), value_of(entry, "url.path")
    is_its = not has_ended(entry) and asked == (scope["method"], scope["path"])
    if is_its:
        environ[REQUEST] = entry
    return is_its


class WSGIObservabilityMiddleware:
    """Make a trace of each request of the WSGI application *app*.

    *quiet*: paths that leave no span unless they fail. It steps aside before set-up, and where
    another one, or OpenTelemetry's, is around already.

    Scope: what is served through it. Failure: what *app* raises, unchanged. Concurrency: any.
    """

    #: Whether a request stays current after its end, for what its server says then.
    stays = False

    def __init__(self, app: App, *, quiet: Collection[str] = QUIET) -> None:
        self.app = app
        self.options: dict[str, Any] = {"quiet": frozenset(quiet)}

    def __call__(self, environ: Environ, start_response: Callable[..., Any]) -> Iterable[bytes]:
        """Serve one request."""
        if REQUEST in environ or http.is_elsewhere(self.app) or _is_of_asgi(environ):
            return self.app(environ, start_response)
        return _Served(self, environ, start_response).call(self.app)


class _Served(Request):
    """One request that is being served: its context stays until its body is closed."""

    found: str | None = None
    #: The headers of its answer.
    answered: list[tuple[str, str]]

    def __init__(
        self, by: WSGIObservabilityMiddleware, environ: Environ, start_response: Callable[..., Any]
    ) -> None:
        self._environ, self._start_response, self._stays = environ, start_response, by.stays
        super().__init__(scope_of(environ), **by.options)
        environ[REQUEST] = self

    def route(self) -> str | None:
        """Return its route, once a framework has found it."""
        return self.found

    def call(self, app: App) -> Iterable[bytes]:
        """Call the application, and return its body."""
        try:
            body = app(self._environ, self._answer)
        except BaseException as error:
            # so a WebSocket of flask-sock's or Socket.IO's has its server write no answer
            is_socket = "HTTP_UPGRADE" in self._environ and not self.status
            if is_socket and repr(error) in ("ConnectionError()", "StopIteration()"):
                self.status, self.is_complete = 101, True
                self.close(None)
            else:
                self.close(error)
            raise
        files = self._environ.get("wsgi.file_wrapper")
        if isinstance(files, type) and isinstance(body, files):  # a server sends it as it is
            self.is_complete = True
            close = getattr(body, "close", None)
            body.close = lambda: self.close(None, close)  # type: ignore[attr-defined]
            return body
        is_tested = getattr(self._start_response, "__module__", "") == "werkzeug.test"
        of_plain = _Sized if hasattr(body, "__len__") else _Body
        return (_Kept if is_tested else of_plain)(body, self)

    def _answer(self, status: str, headers: Iterable[tuple[str, str]], *more: Any) -> Any:
        # a copy: the application's list may be a constant
        self.status, self.answered = int(status[:3]), list(headers)
        self.answered += self.headers(name for name, _ in self.answered)
        return self._start_response(status, self.answered, *more)

    def close(self, error: BaseException | None, close: Callable[[], object] | None = None) -> None:
        """End the request, once its body is closed; what closing raises is the request's."""
        try:
            if close is not None:
                close()
        except BaseException as failure:
            error = error or failure
            raise
        finally:
            if "werkzeug.proxy_fix.orig" in self._environ:
                self.scope = scope_of(self._environ)
            self.end(error)
            here = Here.now()
            self.leave()
            if self._stays:
                here.put_back()


class _Body:
    """The pieces of an answer; the last one is followed by the end of the request."""

    _is_open = True

    def __init__(self, body: Iterable[bytes], served: _Served) -> None:
        self._served, self._close = served, getattr(body, "close", None)
        self._body: Any = body
        self._error: BaseException | None = None
        self._pieces = iter(body)

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        return self._next(self._pieces)

    def _next(self, pieces: Iterator[bytes]) -> bytes:
        try:
            return next(pieces)
        except StopIteration:
            self._served.is_complete = True
            raise
        except BaseException as error:
            self._error = error
            raise

    def close(self) -> None:
        """End the request."""
        if self._is_open:
            self._is_open = False
            self._served.close(self._error, self._close)

    __del__ = close  # werkzeug does not close the body if the client has gone


class _Sized(_Body):
    """An answer that says how many pieces it has: of one, a server knows the length; eventlet's and
    gevent's look at all pieces before they send them.
    """

    def __len__(self) -> int:
        return len(self._body)

    def __iter__(self) -> Iterator[bytes]:
        return iter(partial(self._next, iter(self._body)), None)


class _Kept(_Body):
    """An answer in werkzeug's test client (Flask's), which closes none: the last piece ends it."""

    _length = 0

    def __next__(self) -> bytes:
        served = self._served
        try:
            piece = super().__next__()
            self._length += len(piece)
            named = {name.lower(): value for name, value in served.answered}
            served.is_complete = named.get("content-length") == str(self._length)
            return piece
        finally:
            if served.is_complete:
                served.close(None)


def name_route(environ: Environ, route: str) -> None:
    """Keep the *route* that a framework has found for the request of *environ*."""
    served = environ.get(REQUEST)
    if isinstance(served, _Served):
        served.found = route
        span, verb = served.span, served.verb
    else:
        span, verb = served, environ["REQUEST_METHOD"]
    if span is not None:
        http.name_route(span, verb, route)


def _options_of(app: Any) -> dict[str, Any]:
    """Return the options of our middleware, if *app* is one or has one inside."""
    found = (each for each in inside(app) if type(each) is WSGIObservabilityMiddleware)
    return next((each.options for each in found), {})


def observe(call: Any, self: Any, environ: Environ, start_response: Any) -> Iterable[bytes]:
    """Observe *call*, a framework's method of its applications."""
    app: Any = partial(call, self)
    app.app = self
    return WSGIObservabilityMiddleware(app, **_options_of(self))(environ, start_response)


# ---------------------------------------------------------------- servers


class _OfServer(WSGIObservabilityMiddleware):
    """What a server gets instead of its application: each request has a context of its own."""

    stays = True

    def __init__(self, app: App) -> None:
        super().__init__(app, **_options_of(app))

    def __call__(self, environ: Environ, start_response: Callable[..., Any]) -> Iterable[bytes]:
        """Serve one request."""
        return (super().__call__ if _replaced else self.app)(environ, start_response)


def _handle_error(original: Any, *args: Any) -> Any:
    return (context_of(args[-1]) or copy_context()).run(original, *args)


_GUNICORN: Final = {"sync": "SyncWorker", "gthread": "ThreadWorker", "base_async": "AsyncWorker"}
#: Wraps the application that a server's object has in the attribute of that name.
_serving: Final = partial(partial, serve, _OfServer)
_replaced = Replaced(
    *(
        (f"gunicorn.workers.{module}", kind, name, _serving("wsgi"))
        for module, kind in _GUNICORN.items()
        for name in ("handle_request", "handle_http2_request")
    ),
    ("gunicorn.workers.base", "Worker", "handle_error", _handle_error),  # which answers
    ("werkzeug.serving", "WSGIRequestHandler", "run_wsgi", _serving("server.app")),
    ("waitress.task", "WSGITask", "execute", _serving("channel.server.application")),
    ("gevent.pywsgi", "WSGIHandler", "handle_one_response", _serving("application")),
    ("eventlet.wsgi", "HttpProtocol", "handle_one_response", _serving("application")),
    ("wsgiref.handlers", "BaseHandler", "run", _serving("")),
    *((module, "", "_wsgi_call_wrap", partial(granian, _OfServer)) for module in _names.GRANIAN),
)
instrument, uninstrument = _replaced.instrument, _replaced.uninstrument
