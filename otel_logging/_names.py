"""The log keys and span attributes that cross the package's border.

In: nothing. Out: constants. Invariant: a name of our own that a collector or a log store can see
is written here and nowhere else. Deliberately absent: logic; OpenTelemetry's names that one room
alone uses (``http.route``); a variable that only its setting names (``settings``).
"""

from typing import Final

# --- keys of a log line; the three trace fields follow OpenTelemetry's
# --- "Trace Context in non-OTLP Log Formats"
TIMESTAMP: Final = "timestamp"
LEVEL: Final = "level"
EVENT: Final = "event"
LOGGER: Final = "logger"
TRACE_ID: Final = "trace_id"
SPAN_ID: Final = "span_id"
TRACE_FLAGS: Final = "trace_flags"
JOB_TAG: Final = "job_tag"
EXCEPTION: Final = "exception"
# OpenTelemetry semantic conventions: exceptions, and where in the application's own code
EXCEPTION_TYPE: Final = "exception.type"
EXCEPTION_MESSAGE: Final = "exception.message"
EXCEPTION_WHERE: Final = "exception.where"
STACKTRACE: Final = "exception.stacktrace"
OF_EXCEPTIONS: Final = (EXCEPTION_TYPE, EXCEPTION_MESSAGE, EXCEPTION_WHERE)
STACK: Final = "stack"
REQUEST_ID: Final = "request_id"  # a trace_id bound by hand, while a span is active
FORMAT_ERROR: Final = "format_error"  # text: why "%"-arguments did not fit their message
FORMAT_ARGS: Final = "format_args"
# OpenTelemetry semantic conventions: code attributes
CODE_FILE: Final = "code.file.path"
CODE_LINE: Final = "code.line.number"
CODE_FUNCTION: Final = "code.function.name"
FIELDS_LEFT_OUT: Final = "fields_left_out"  # int: how many fields found no room on the line

#: A line's own fields; a user's field of that name gets a trailing underscore.
RESERVED: Final = frozenset(
    {TIMESTAMP, LEVEL, EVENT, LOGGER, TRACE_ID, SPAN_ID, TRACE_FLAGS, JOB_TAG, EXCEPTION}
)

#: Arguments of a call that structlog and the standard library read; they are no mere fields.
OF_CALLS: Final = frozenset(
    {"exc_info", "stack_info", "stacklevel", "positional_args", "_record", "_from_structlog"}
)

#: Key inside an event dict, between our own processors only: int, ns since the epoch.
TIME_NS: Final = "_time_ns"

# --- spans
SCOPE: Final = "otel_logging"  # instrumentation scope of our own spans
PROCESS_LOG: Final = "process log"  # root span that holds the lines outside any span
LOG_SPAN: Final = "log"  # child span of a nanosecond that holds lines its parent cannot
LOG_PAGE: Final = "log.page"  # int from 1, on a LOG_SPAN
BUDGET: Final = "budget_s"
QUEUE_WAIT: Final = "queue.wait_s"  # float: s from the handover until it was taken up
LATE: Final = "late"
LATE_BY: Final = "late.by_s"
LATE_CAUSE: Final = "late.cause"
LATE_DETAIL: Final = "late.detail"
LATE_CULPRIT: Final = "late.culprit"  # the work; with "." and a key of WHO: on whose behalf
LATE_SHARES: Final = "late.shares"  # JSON object: seconds by cause
LATE_WHERE: Final = "late.where"
LATE_WHY: Final = "late.why"  # a sentence
LOOP_BLOCKED: Final = "event_loop.blocked"  # a span
BLOCKED_STACK: Final = "blocked.stack"
PROCESS_DIED: Final = "process.died"
CANCELLED: Final = "cancelled"
MARK: Final = "mark."  # + name + "_s": float, from the start to a moment inside

# --- OpenTelemetry's instrumentations: library -> entry point
_OF_ONE_NAME: Final = (
    *("aiokafka", "aiopg", "anthropic", "asyncpg", "boto3sqs", "botocore", "cassandra", "chromadb"),
    *("cohere", "confluent_kafka", "elasticsearch", "groq", "httpx", "kafka", "langchain"),
    *("mistralai", "mysql", "ollama", "openai", "pika", "pinecone", "psycopg", "psycopg2"),
    *("pymemcache", "pymongo", "pymssql", "pymysql", "redis", "requests", "sqlalchemy", "sqlite3"),
    *("together", "transformers", "urllib3", "weaviate"),
)
CLIENTS: Final = {
    **{name: name for name in _OF_ONE_NAME},
    "MySQLdb": "mysqlclient",
    "aio_pika": "aio-pika",
    "aiohttp": "aiohttp-client",
    "boto3": "boto3",
    "google.genai": "google-genai",
    "grpc": "grpc_client",
    "grpc.aio": "grpc_aio_client",
    "qdrant_client": "qdrant",
    "tortoise": "tortoiseorm",
    "urllib.request": "urllib",
    "vertexai": "google_cloud_aiplatform",
}

#: The rest of a package's name behind "opentelemetry-instrumentation-", if it is not the entry
#: point.
PACKAGES: Final = {
    "boto3": "boto3sqs",
    "google_cloud_aiplatform": "vertexai",
    "grpc_aio_client": "grpc",
    "grpc_client": "grpc",
    "kafka": "kafka-python",
    "openai": "openai-v2",
}

#: uvicorn's WebSockets by the library ``websockets``.
UVICORNS: Final = "uvicorn.protocols.websockets.websockets_impl"
#: Where granian calls an application from.
GRANIAN: Final = ("granian.server.mp", "granian.server.mt", "granian.server.embed")
# --- integrations: name -> the modules whose import puts it in place
INTEGRATIONS: Final = {
    "aiohttp": ("aiohttp.web",),
    "asgi": (
        "starlette.applications",
        "fastapi.applications",
        "uvicorn.server",
        *(f"uvicorn.protocols.http.{each}_impl" for each in ("h11", "httptools", "zttp")),
        *("gunicorn.workers.gasgi", "hypercorn.app_wrappers"),
        *("litestar.background_tasks", "daphne.server", "sse_starlette.sse", *GRANIAN),
    ),
    "celery": ("celery.signals",),
    "clients": tuple(CLIENTS),
    "django": ("django.core.handlers.asgi", "django.core.handlers.wsgi", "channels.routing"),
    "executors": (
        *("threading", "concurrent.futures.thread", "concurrent.futures.process"),
        *("multiprocessing.pool", "apscheduler.schedulers.base"),
    ),
    "flask": ("flask",),
    "loguru": ("loguru",),
    "quart": ("quart",),
    "rq": ("rq.worker",),
    "socketio": ("socketio.server", "socketio.async_server"),
    "websockets": (*(f"websockets.{e}.server" for e in ("asyncio", "legacy", "sync")), UVICORNS),
    "wsgi": (
        *("eventlet.wsgi", "gevent.pywsgi", "gunicorn.workers.base"),
        *("gunicorn.workers.base_async", "gunicorn.workers.gthread", "gunicorn.workers.sync"),
        *("waitress.task", "werkzeug.serving", "wsgiref.handlers", *GRANIAN),
    ),
}

# --- an OpenTelemetry context
#: Key: what keeps a message open while somebody may work on it.
HELD: Final = "otel_logging_message"
#: Key: the task that has taken the message, if that is not the connection's own.
TAKER: Final = "otel_logging_taker"

# --- a scope of ASGI
#: Key: what is current and bound on a WebSocket's connection, or for a request without an answer.
STANDING: Final = "otel_logging.standing"

# --- a span that leaves after a loss
LOST: Final = "otel_logging.lost"  # how many of what, and why; "; " between kinds

# --- resource
DOCTOR: Final = "otel-logging-doctor"  # service.name of the doctor's probes: work for no user
WHO: Final = "otel_logging.who"  # list of the keys that say on whose behalf

# --- environment: what more than one room names; ``settings`` has the rest
ENVIRONMENT: Final = "ENVIRONMENT"
SPOOL_DIR: Final = "OTEL_LOGGING_SPOOL_DIR"
SPOOL_BYTES: Final = "OTEL_LOGGING_SPOOL_BYTES"
APPLICATION: Final = "OTEL_LOGGING_APPLICATION"
JAEGER_URL: Final = "OTEL_LOGGING_JAEGER_URL"
OTEL_SERVICE_NAME: Final = "OTEL_SERVICE_NAME"
OTEL_PROPAGATORS: Final = "OTEL_PROPAGATORS"
OTEL_LOGS_EXPORTER: Final = "OTEL_LOGS_EXPORTER"
OTEL_TRACES_SAMPLER: Final = "OTEL_TRACES_SAMPLER"
OTEL_TRACES_SAMPLER_ARG: Final = "OTEL_TRACES_SAMPLER_ARG"
OTLP_PREFIX: Final = "OTEL_EXPORTER_OTLP_"  # + ENDPOINT, PROTOCOL, HEADERS, ...
OTLP_PREFIXES: Final = {  # by signal: the same options, and these win
    "traces": "OTEL_EXPORTER_OTLP_TRACES_",
    "logs": "OTEL_EXPORTER_OTLP_LOGS_",
}
#: Metrics of an SDK about itself (semantic conventions), and their attributes.
SDK_METRIC: Final = "otel.sdk."
VALUE_METRIC: Final = "otel_logging.value."  # + redacted, shortened: ours
COMPONENT_TYPE: Final = "otel.component.type"
COMPONENT_NAME: Final = "otel.component.name"
ERROR_TYPE: Final = "error.type"
