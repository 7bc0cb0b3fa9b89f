"""Not every exception is a failure of the stage that it leaves."""

import asyncio
import concurrent.futures
import gc
import json
import traceback
from contextlib import suppress
from typing import Any

import click
import gevent
import pytest
import werkzeug
from aiohttp import ClientResponseError, web
from celery.exceptions import Ignore, Reject, Retry
from django.core.exceptions import (
    BadRequest,
    DisallowedHost,
    DisallowedRedirect,
    PermissionDenied,
    RequestAborted,
    RequestDataTooBig,
)
from django.http import Http404, UnreadablePostError
from django.http.multipartparser import MultiPartParserError
from fastapi import HTTPException as FastApiException
from fastapi.exceptions import RequestValidationError
from greenlet import GreenletExit
from starlette.authentication import AuthenticationError
from starlette.exceptions import HTTPException as StarletteException
from starlette.exceptions import WebSocketException
from starlette.formparsers import MultiPartException
from starlette.requests import ClientDisconnect
from starlette.websockets import WebSocketDisconnect
from uvicorn.protocols import utils as uvicorn
from websockets.exceptions import ConnectionClosedError, ConnectionClosedOK
from werkzeug.exceptions import (
    BadGateway,
    BadRequestKeyError,
    HTTPException,
    NotFound,
    RequestEntityTooLarge,
)
from werkzeug.routing import RequestRedirect

from otel_logging import ConfigurationError, get_logger, setup_observability, traced
from otel_logging.testing import capture
from tests.receiver import Receiver

#: (status, number of events).
NOTHING, EVENT, FAILURE = ("unset", 0), ("unset", 1), ("error", 1)


def _like(name: str, base: Any = Exception, **attributes: Any) -> BaseException:
    """Return an exception like one of a framework that is not installed."""
    module, _, kind = name.rpartition(".")
    made = type(kind, (base,), {"__module__": module, "__qualname__": kind, **attributes})
    return type("Own", (made,), {"__module__": "shop"})()  # type: ignore[no-any-return]


class Odd(NotFound):
    @property
    def code(self) -> int:  # type: ignore[override]
        raise RuntimeError("no code")


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (web.HTTPFound("/login"), NOTHING),
        (web.HTTPOk(), NOTHING),
        (web.HTTPNotFound(), EVENT),
        (web.HTTPBadGateway(), FAILURE),
        (RequestRedirect("/login"), NOTHING),
        (HTTPException(response=werkzeug.Response(status=303)), NOTHING),
        (HTTPException(), FAILURE),
        (NotFound(), EVENT),
        (Odd(), FAILURE),
        (BadGateway(), FAILURE),
        (StarletteException(307), NOTHING),
        (FastApiException(401), EVENT),
        (FastApiException(503), FAILURE),
        (RequestValidationError([]), EVENT),
        (Http404(), EVENT),
        (PermissionDenied(), EVENT),
        (Retry(), NOTHING),
        (Ignore(), NOTHING),
        (Reject(), NOTHING),
        (_like("tornado.web.Finish"), NOTHING),
        (_like("tornado.web.HTTPError", status_code=404), EVENT),
        (_like("pyramid.httpexceptions.HTTPException", code=302), NOTHING),
        (_like("falcon.http_error.HTTPError", status_code=500), FAILURE),
        (_like("arq.worker.Retry"), NOTHING),
        # an answer that this service got, not one that it gives
        (ClientResponseError(None, (), status=404), FAILURE),  # type: ignore[arg-type]
        (_like("httpx.HTTPStatusError", status_code=302), FAILURE),
        (KeyError("x"), FAILURE),
        (WebSocketDisconnect(1006), NOTHING),
        (_like("starlette.websockets.WebSocketDisconnected", RuntimeError), NOTHING),
        (WebSocketException(1000), NOTHING),
        (WebSocketException(1001), NOTHING),
        (WebSocketException(1008), EVENT),
        (WebSocketException(4404), EVENT),
        (WebSocketException(1011), FAILURE),
        (_like("litestar.exceptions.websocket_exceptions.WebSocketException", code=4500), FAILURE),
        (_like("litestar.exceptions.websocket_exceptions.WebSocketException", code=4401), EVENT),
        (ConnectionClosedOK(None, None), NOTHING),
        (ConnectionClosedError(None, None), FAILURE),
        (_like("huey.exceptions.RetryTask"), NOTHING),
        (_like("taskiq.exceptions.NoResultError"), NOTHING),
        (_like("scrapy.exceptions.DropItem"), NOTHING),
        (_like("cherrypy._cperror.InternalRedirect"), NOTHING),
        (_like("socketio.exceptions.ConnectionRefusedError"), EVENT),
        (_like("cherrypy._cperror.HTTPRedirect", status=303), NOTHING),
        # failures, though "except Exception" does not catch them
        (gevent.Timeout(1), FAILURE),
        (_like("dramatiq.middleware.time_limit.TimeLimitExceeded", BaseException), FAILURE),
        (BaseExceptionGroup("mixed", [ValueError(), asyncio.CancelledError()]), FAILURE),
        # clients that have gone, requests that cannot be read
        (ClientDisconnect(), NOTHING),
        (RequestAborted(), NOTHING),
        (UnreadablePostError(), NOTHING),
        (uvicorn.ClientDisconnected(), NOTHING),
        (_like("channels.exceptions.StopConsumer"), NOTHING),
        (_like("simple_websocket.errors.ConnectionClosed"), NOTHING),
        (MultiPartException("no boundary"), EVENT),
        (AuthenticationError(), EVENT),
        (MultiPartParserError(), EVENT),
        (BadRequest(), EVENT),
        (DisallowedHost(), EVENT),
        (RequestDataTooBig(), EVENT),
        (DisallowedRedirect(), EVENT),
        (BadRequestKeyError("q"), EVENT),
        (RequestEntityTooLarge(), EVENT),
        (web.HTTPRequestEntityTooLarge(1, 2), EVENT),
        (_like("ninja.errors.ValidationError"), EVENT),
        (click.exceptions.Exit(3), NOTHING),
        (click.Abort(), NOTHING),
        (_like("typer.exceptions.Exit"), NOTHING),  # its own, no longer click's
        (_like("sanic.exceptions.WebsocketClosed", status_code=500), NOTHING),
        (click.UsageError("no such option"), FAILURE),
        # groups answer as their parts do
        (ExceptionGroup("all", [Http404(), web.HTTPFound("/")]), EVENT),
        (ExceptionGroup("all", [WebSocketDisconnect(), ExceptionGroup("", [Retry()])]), NOTHING),
        (BaseExceptionGroup("", [NotFound(), asyncio.CancelledError()]), EVENT),
        (ExceptionGroup("", [BadGateway(), NotFound()]), FAILURE),
        (ExceptionGroup("mixed", [NotFound(), KeyError("x")]), FAILURE),
        (ExceptionGroup("", [KeyError("x")]), FAILURE),
        # of the service's own time limits
        (TimeoutError(), FAILURE),
        (concurrent.futures.TimeoutError(), FAILURE),
        (concurrent.futures.InvalidStateError(), FAILURE),
        # the ends of programs
        (KeyboardInterrupt(), NOTHING),
        (BaseExceptionGroup("", [SystemExit(1)]), NOTHING),
    ],
    ids=lambda given: type(given).__name__,
)
def test_an_exception_of_a_stage(error: BaseException, expected: tuple[str, int]) -> None:
    """Below 400 nothing, below 500 an event, and anything else is an error."""
    with capture() as seen, suppress(type(error)), traced("outer"), traced("stage"):
        raise error
    stage, outer = seen.span("stage"), seen.span("outer")
    assert (stage["status"], len(stage["events"])) == expected
    assert (outer["status"], outer["events"]) == (expected[0], [])


def test_a_logged_answer_is_a_line_all_the_same() -> None:
    with capture() as seen, suppress(NotFound), traced("stage"):
        try:
            raise NotFound
        except NotFound:
            get_logger("shop").exception("no such order")
            raise
    assert [event["name"] for event in seen.span("stage")["events"]] == ["no such order"]
    assert "NotFound" in seen.lines[0]["exception"]
    assert seen.span("stage")["status"] == "unset"


@pytest.mark.parametrize("environment", ["production", "development"])
@pytest.mark.parametrize("is_logged", [True, False])
def test_a_failure_is_reported_alike(
    environment: str,
    is_logged: bool,
    receiver: Receiver,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """In JSON or on the console, on the span, in a log record; of one that nobody has logged a
    failure alone is a line.
    """
    monkeypatch.setenv("OTEL_LOGS_EXPORTER", "otlp,span")
    cases = [(web.HTTPFound, NOTHING), (NotFound, EVENT), (Retry, NOTHING), (KeyError, FAILURE)]
    with setup_observability("shop", environment=environment, endpoint=receiver.endpoint):
        for kind, _ in cases:
            with suppress(kind), traced(kind.__name__):
                try:
                    raise kind("/order")
                except kind:
                    if is_logged:
                        get_logger("shop").exception("order")
                    raise
    gc.collect()
    out, spans = capsys.readouterr().out, {span.name: span for span in receiver.spans}
    assert out.count("left its entry stage") == (not is_logged)
    records = [record for record in receiver.log_records if record.body == "order"]
    assert len(records) == len(cases) * is_logged
    for kind, (status, events) in cases:
        name = kind.__name__
        last = traceback.format_exception_only(kind("/order"))[-1].strip()
        span = spans[name]
        assert (span.status, len(span.events)) == (status, 1 if is_logged else events)
        for each in (*span.events, *(each for each in records if each.span_id == span.span_id)):
            found = each.attributes
            assert found["exception.type"].endswith(name)
            assert found.get("exception", found.get("exception.stacktrace")).endswith(last)
        shown = json.dumps(last)[1:-1] if environment == "production" else last
        assert out.count(shown) >= (is_logged or status == "error")


@pytest.mark.parametrize("expected", [LookupError, (OSError, KeyError)])
def test_what_a_stage_expects_is_no_failure_of_it(expected: Any) -> None:
    """As a block and as a decorator; a stage around it that does not expect it has failed."""

    @traced("function", expected=expected)
    def fail() -> None:
        raise KeyError("x")

    with capture() as seen:
        with suppress(KeyError):
            fail()
        with suppress(KeyError), traced("outer"), traced("inner", expected=expected):
            raise KeyError("x")
        with suppress(ValueError), traced("other", expected=expected):
            raise ValueError("y")
        ends = [KeyError("x"), BaseExceptionGroup("", [KeyError("y"), asyncio.CancelledError()])]
        with suppress(BaseExceptionGroup), traced("group", expected=expected):
            raise BaseExceptionGroup("tasks", ends)
        with suppress(ExceptionGroup), traced("mixed", expected=expected):
            raise ExceptionGroup("tasks", [KeyError("x"), ValueError("y")])
        with suppress(ExceptionGroup), traced("any group", expected=ExceptionGroup):
            raise ExceptionGroup("tasks", [KeyError("x")])
    found = {s["name"]: (s["status"], len(s["events"])) for s in seen.spans}
    quiet, failed = ("function", "inner", "group", "any group"), ("outer", "other", "mixed")
    assert found == {**dict.fromkeys(quiet, NOTHING), **dict.fromkeys(failed, FAILURE)}


@pytest.mark.parametrize("expected", ["KeyError", (KeyError, 1), KeyError("x"), int])
def test_only_exceptions_can_be_expected(expected: Any) -> None:
    with pytest.raises(ConfigurationError, match="traced: expected"):
        traced("s", expected=expected)


class Cancelled(BaseException):
    """trio's own: the library itself is not here, since eventlet cannot be imported beside it."""


Cancelled.__module__ = "trio"


def _by_trio() -> None:
    with suppress(Cancelled), traced("stage"):
        raise Cancelled


def _by_greenlet() -> None:
    with suppress(GreenletExit), traced("stage"):
        raise GreenletExit


def _by_asyncio() -> None:
    with suppress(asyncio.CancelledError), traced("stage"):
        raise asyncio.CancelledError


def _by_future() -> None:
    future: concurrent.futures.Future[None] = concurrent.futures.Future()
    future.cancel()
    with suppress(concurrent.futures.CancelledError), traced("stage"):
        future.result()


def _by_group() -> None:
    ends = [concurrent.futures.CancelledError(), asyncio.CancelledError()]
    with suppress(BaseExceptionGroup), traced("stage"):
        raise BaseExceptionGroup("two tasks", ends)


def _by_nursery() -> None:
    with suppress(BaseExceptionGroup), traced("stage"):
        raise BaseExceptionGroup("two tasks", [Cancelled(), BaseExceptionGroup("", [Cancelled()])])


_CANCELLING = [_by_trio, _by_greenlet, _by_asyncio, _by_future, _by_group, _by_nursery]


@pytest.mark.parametrize("cancel", _CANCELLING)
def test_a_cancelled_stage_is_marked(cancel: Any) -> None:
    with capture() as seen:
        cancel()
    stage = seen.span("stage")
    assert (stage["status"], stage["events"]) == ("unset", [])
    assert stage["attributes"] == {"cancelled": True}
