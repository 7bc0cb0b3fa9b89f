"""A Django application, with its own logging as it is by default."""

import os
from typing import Any

import django
from django.conf import settings
from django.core.asgi import get_asgi_application
from django.core.wsgi import get_wsgi_application
from django.http import HttpResponse, StreamingHttpResponse
from django.urls import re_path

from tests.servers.wiring import endpoint, pieces, wire

wire()


def _endpoint(request: Any) -> Any:
    done = endpoint(request.path)
    is_stream = request.path.startswith("/stream")
    return StreamingHttpResponse(pieces(request.path)) if is_stream else HttpResponse(done)


urlpatterns = [re_path("", _endpoint)]
settings.configure(ROOT_URLCONF=__name__, ALLOWED_HOSTS=["*"], SECRET_KEY=os.urandom(9).hex())
django.setup()
_django = get_wsgi_application()


def app(environ: Any, start_response: Any) -> Any:
    if environ["PATH_INFO"].endswith("/raise"):
        endpoint(environ["PATH_INFO"])
    return _django(environ, start_response)


asgi = get_asgi_application()
