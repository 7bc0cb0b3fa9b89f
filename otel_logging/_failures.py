"""Which exceptions are failures, and which are answers of a web framework, retries, cancellations.

In: an exception that leaves a stage. Out: whether it is a failure, and the HTTP status that it
answers with. Classes are known by their names, so that no library is imported. Exceptions of HTTP
clients have a status too, and are failures. Invariant: never raises.
"""

from contextlib import suppress
from typing import Any, Final

#: Names of classes, by the attribute that holds an instance's status, or by the fixed status.
#: Subclasses are treated as these.
_ANSWERS: Final[dict[str | int, str]] = {
    "status_code": (
        "bottle.HTTPResponse falcon.http_error.HTTPError falcon.http_status.HTTPStatus"
        " litestar.exceptions.http_exceptions.HTTPException ninja.errors.HttpError"
        " rest_framework.exceptions.APIException sanic.exceptions.SanicException"
        " starlette.exceptions.HTTPException tornado.web.HTTPError"
    ),
    "status": ("aiohttp.web_exceptions.HTTPException cherrypy._cperror.HTTPRedirect"),
    "code": (
        "cherrypy._cperror.HTTPError litestar.exceptions.websocket_exceptions.WebSocketException"
        " starlette.exceptions.WebSocketException pyramid.httpexceptions.HTTPException"
        " webob.exc.WSGIHTTPException werkzeug.exceptions.HTTPException"
    ),
    # the client has gone, the job runs again or has nothing to say, the command ends
    200: (
        "arq.worker.Retry arq.worker.RetryJob celery.exceptions.TaskPredicate"
        " channels.exceptions.AcceptConnection channels.exceptions.StopConsumer"
        " cherrypy._cperror.InternalRedirect click.exceptions.Abort click.exceptions.Exit"
        " django.core.exceptions.RequestAborted django.http.request.UnreadablePostError"
        " dramatiq.errors.Retry falcon.errors.WebSocketDisconnected"
        " gunicorn.asgi.protocol.ClientDisconnected huey.exceptions.CancelExecution"
        " huey.exceptions.RetryTask litestar.exceptions.websocket_exceptions.WebSocketDisconnect"
        " procrastinate.exceptions.JobAborted robyn.ws.WebSocketDisconnect"
        " sanic.exceptions.WebsocketClosed scrapy.exceptions.CloseSpider scrapy.exceptions.DropItem"
        " scrapy.exceptions.IgnoreRequest simple_websocket.errors.ConnectionClosed"
        " starlette.requests.ClientDisconnect starlette.websockets.WebSocketDisconnect"
        " starlette.websockets.WebSocketDisconnected"
        " taskiq.exceptions.NoResultError taskiq.exceptions.TaskRejectedError tornado.web.Finish"
        " tornado.websocket.WebSocketClosedError typer.exceptions.Abort typer.exceptions.Exit"
        " uvicorn.protocols.utils.ClientDisconnected websockets.exceptions.ConnectionClosedOK"
    ),
    400: (
        "django.core.exceptions.BadRequest django.core.exceptions.SuspiciousOperation"
        " django.http.multipartparser.MultiPartParserError"
        " fastapi.exceptions.WebSocketRequestValidationError"
        " starlette.authentication.AuthenticationError"
        " starlette.formparsers.MultiPartException"
    ),
    # a connection is refused
    403: (
        "channels.exceptions.DenyConnection django.core.exceptions.PermissionDenied"
        " socketio.exceptions.ConnectionRefusedError"
    ),
    404: "django.http.response.Http404",
    422: "fastapi.exceptions.RequestValidationError ninja.errors.ValidationError",
}
_STATUS: Final = {name: status for status, names in _ANSWERS.items() for name in names.split()}
#: Codes of a connection that is closed for a failure (RFC 6455, and Litestar's); in order.
CLOSED_FOR_FAILURE: Final = (1011, 4500)
_CLOSED: Final = {1000: 200, 1001: 200, **dict.fromkeys(CLOSED_FOR_FAILURE)}
_CANCELLED: Final = {
    *("asyncio.exceptions.CancelledError", "concurrent.futures._base.CancelledError"),
    *("greenlet.GreenletExit", "trio.Cancelled"),
}
#: Failures that ``except Exception`` does not catch.
_FAILURES: Final = {
    *("dramatiq.middleware.time_limit.TimeLimitExceeded", "eventlet.timeout.Timeout"),
    *("gevent.timeout.Timeout", "pyo3_runtime.PanicException"),
}


def full_name(kind: type) -> str:
    """Return the name of a class with its module."""
    return f"{kind.__module__}.{kind.__qualname__}"


def _names_of(error: BaseException) -> list[str]:
    return [full_name(kind) for kind in type(error).__mro__]


def status_of(error: BaseException) -> int | None:
    """Return the HTTP status that *error* answers with; None: it is a failure.

    A group answers with the highest status of its parts, if all of them are answers or
    cancellations.
    """
    with suppress(Exception):  # its attribute may raise; a part may be a failure
        if isinstance(error, BaseExceptionGroup):
            parts: Any = [status_of(each) for each in error.exceptions if is_failure(each)]
            return max(parts)  # type: ignore[no-any-return]
        known = next((_STATUS[name] for name in _names_of(error) if name in _STATUS), None)
        status: Any = getattr(error, known) if type(known) is str else known
        if status is None and known is not None:  # werkzeug's, around a response
            status = error.response.status_code  # type: ignore[attr-defined]
        if status is not None and int(status) >= 1000:  # how a connection is closed
            status = _CLOSED.get(int(status), 400)
        return None if status is None else int(status)
    return None


def is_no_failure(name: str) -> bool:
    """Say whether every exception of this class is an answer below 500, a cancellation, or the
    like. *name* is the class's full name.
    """
    return type(_STATUS.get(name)) is int or name in _CANCELLED


def is_one_of(error: BaseException, kinds: Any) -> bool:
    """Say whether *error* is of one of *kinds*, or a group whose failures all are."""
    if isinstance(error, BaseExceptionGroup) and not isinstance(error, kinds):
        return all(is_one_of(each, kinds) for each in error.exceptions if is_failure(each))
    return isinstance(error, kinds)


def is_cancelled(error: BaseException) -> bool:
    """Say whether *error* ends a task or greenlet from outside, or is a group of such."""
    if isinstance(error, BaseExceptionGroup):
        return all(map(is_cancelled, error.exceptions))
    return not _CANCELLED.isdisjoint(_names_of(error))


def is_failure(error: BaseException) -> bool:
    """Say whether *error*, which must not be an answer, is a failure; ``SystemExit`` is not."""
    if isinstance(error, BaseExceptionGroup):
        return any(map(is_failure, error.exceptions))
    names = _names_of(error)
    is_meant = isinstance(error, Exception) and _CANCELLED.isdisjoint(names)
    return is_meant or not _FAILURES.isdisjoint(names)
