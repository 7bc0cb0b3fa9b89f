"""Exceptions that are no failures: answers of a web framework, a retry, the end of a task.

In: an exception that leaves a stage. Out: the HTTP status that it answers with, or that it
cancels. By the names of its classes, so that no library is imported: clients' exceptions have a
status too, and are failures. Invariant: never raises.
"""

from contextlib import suppress
from typing import Any, Final

#: The attribute with the status, or the status itself, by a class and all below it.
_STATUS: Final[dict[str, str | int]] = {
    "aiohttp.web_exceptions.HTTPException": "status",
    "bottle.HTTPResponse": "status_code",
    "cherrypy._cperror.HTTPError": "code",
    "cherrypy._cperror.HTTPRedirect": "status",
    "django.core.exceptions.BadRequest": 400,
    "django.core.exceptions.PermissionDenied": 403,
    "django.core.exceptions.SuspiciousOperation": 400,
    "django.http.multipartparser.MultiPartParserError": 400,
    "django.http.response.Http404": 404,
    "falcon.http_error.HTTPError": "status_code",
    "falcon.http_status.HTTPStatus": "status_code",
    "fastapi.exceptions.RequestValidationError": 422,
    "fastapi.exceptions.WebSocketRequestValidationError": 400,
    "litestar.exceptions.http_exceptions.HTTPException": "status_code",
    "litestar.exceptions.websocket_exceptions.WebSocketException": 400,
    "ninja.errors.HttpError": "status_code",
    "ninja.errors.ValidationError": 422,
    "pyramid.httpexceptions.HTTPException": "code",
    "rest_framework.exceptions.APIException": "status_code",
    "sanic.exceptions.SanicException": "status_code",
    "starlette.authentication.AuthenticationError": 400,
    "starlette.exceptions.HTTPException": "status_code",
    "starlette.exceptions.WebSocketException": 400,
    "starlette.formparsers.MultiPartException": 400,
    "tornado.web.Finish": 200,
    "tornado.web.HTTPError": "status_code",
    "webob.exc.WSGIHTTPException": "code",
    "werkzeug.exceptions.HTTPException": "code",
    # not of HTTP: the client has gone, the job runs again or has nothing to say, the command ends
    "channels.exceptions.AcceptConnection": 200,
    "channels.exceptions.DenyConnection": 403,
    "channels.exceptions.StopConsumer": 200,
    "django.core.exceptions.RequestAborted": 200,
    "django.http.request.UnreadablePostError": 200,
    "falcon.errors.WebSocketDisconnected": 200,
    "gunicorn.asgi.protocol.ClientDisconnected": 200,
    "litestar.exceptions.websocket_exceptions.WebSocketDisconnect": 200,
    "simple_websocket.errors.ConnectionClosed": 200,
    "starlette.requests.ClientDisconnect": 200,
    "starlette.websockets.WebSocketDisconnect": 200,
    "tornado.websocket.WebSocketClosedError": 200,
    "uvicorn.protocols.utils.ClientDisconnected": 200,
    "websockets.exceptions.ConnectionClosedOK": 200,
    "arq.worker.Retry": 200,
    "celery.exceptions.TaskPredicate": 200,
    "click.exceptions.Abort": 200,
    "click.exceptions.Exit": 200,
    "dramatiq.errors.Retry": 200,
    "huey.exceptions.CancelExecution": 200,
    "huey.exceptions.RetryTask": 200,
}
_CANCELLED: Final = frozenset(
    {
        "asyncio.exceptions.CancelledError",
        "concurrent.futures._base.CancelledError",
        "greenlet.GreenletExit",
        "trio.Cancelled",
        "trio._core._exceptions.Cancelled",
    }
)


#: Failures for which no ``except Exception`` is meant.
_FAILURES: Final = frozenset(
    {"eventlet.timeout.Timeout", "gevent.timeout.Timeout", "pyo3_runtime.PanicException"}
)


def _names_of(error: BaseException) -> list[str]:
    return [f"{kind.__module__}.{kind.__qualname__}" for kind in type(error).__mro__]


def status_of(error: BaseException) -> int | None:
    """Return the HTTP status that *error* answers with; None: it is a failure.

    A group answers with the highest of its parts that are not cancelled, if each of these is one.
    """
    with suppress(Exception):  # an attribute of its own that raises, a part that is a failure
        if isinstance(error, BaseExceptionGroup):
            parts: Any = [status_of(each) for each in error.exceptions if is_failure(each)]
            return max(parts)  # type: ignore[no-any-return]
        known = next((_STATUS[name] for name in _names_of(error) if name in _STATUS), None)
        status: Any = getattr(error, known) if type(known) is str else known
        if status is None and known is not None:  # werkzeug's, around a response
            status = error.response.status_code  # type: ignore[attr-defined]
        return None if status is None else int(status)
    return None


def is_one_of(error: BaseException, kinds: Any) -> bool:
    """Say whether *error* is of one of *kinds*, or a group whose failures all are."""
    if isinstance(error, BaseExceptionGroup) and not isinstance(error, kinds):
        return all(is_one_of(each, kinds) for each in error.exceptions if is_failure(each))
    return isinstance(error, kinds)


def is_cancelled(error: BaseException) -> bool:
    """Say whether *error* is how a task or greenlet is ended from outside, or a group of these."""
    if isinstance(error, BaseExceptionGroup):
        return all(map(is_cancelled, error.exceptions))
    return not _CANCELLED.isdisjoint(_names_of(error))


def is_failure(error: BaseException) -> bool:
    """Say whether *error* is a failure if it is no answer: the end of a program is none."""
    if isinstance(error, BaseExceptionGroup):
        return any(map(is_failure, error.exceptions))
    names = _names_of(error)
    is_meant = isinstance(error, Exception) and _CANCELLED.isdisjoint(names)
    return is_meant or not _FAILURES.isdisjoint(names)
