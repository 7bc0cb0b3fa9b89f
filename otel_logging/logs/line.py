"""The one chain of processors that every line goes through.

In: an event dict with the message and the fields of the call. Out: a line on
stdout and an event on a span. Invariant: whatever a call is given, every field
of it is there, under its own name or with underscores behind it. Deliberately
absent: levels, and who calls (``logger``).
"""

import sys
import time
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any, Final, Protocol

import structlog
from opentelemetry import trace
from structlog.contextvars import merge_contextvars
from structlog.processors import CallsiteParameter, CallsiteParameterAdder, StackInfoRenderer

from otel_logging import _exceptions, _fields, _json, _names, _otlp, _runtime
from otel_logging import context as bindings
from otel_logging._values import MAX_CHARACTERS, is_true
from otel_logging.processors import (
    EventDict,
    add_bound_context,
    add_ids,
    add_job_tag,
    exception_of,
    record_on,
    traceback_of,
)


class Lines(Protocol):
    """Where the lines of one logger go."""

    name: str

    def head(self, level: int) -> tuple[str, bytes] | None:
        """Return what the lines of *level* begin with; None: a level without a name of its own."""

    def write(self, event_dict: EventDict) -> None:
        """Render and write a line."""

    def write_text(self, event_dict: EventDict) -> None:
        """Write a line whose message is what the application has rendered."""


#: Fields that a line says of itself; ``trace_id`` may be given by hand, ``event`` cannot.
_GUARDED: Final = (_names.RESERVED | {_names.TIME_NS}) - {_names.TRACE_ID, _names.EVENT}
_second: tuple[int, str] = (0, "")
_render_stack: Final = StackInfoRenderer(additional_ignores=["otel_logging"])


def _complete(logger: Lines, method_name: str, event_dict: EventDict) -> EventDict:
    """Add what was bound, the tag, trace ids, traceback, time, level, logger; tell the span.

    One processor, not five: each would look for the current span again. A line
    that tells of an exception, and is itself on nobody's behalf (a server's, a
    scheduler's, of a request that is over), is on behalf of whom it was raised for.
    Where something is bound, but there is no span, it is of that one's trace.
    """
    if "exc_info" not in event_dict:
        return _fill(logger, method_name, event_dict)
    error = exception_of(event_dict.pop("exc_info"))
    origin = None if error is None else _exceptions.context_of(error)
    if origin is None or trace.get_current_span().get_span_context().is_valid:
        return _fill(logger, method_name, event_dict, error)
    if bindings.is_unbound():
        return origin.run(_fill, logger, method_name, event_dict, error)
    return _fill(logger, method_name, event_dict, error, origin.run(trace.get_current_span))


def _fill(
    logger: Lines,
    method_name: str,
    event_dict: EventDict,
    error: BaseException | None = None,
    span: trace.Span | None = None,
) -> EventDict:
    add_bound_context(logger, method_name, event_dict)
    if not _GUARDED.isdisjoint(event_dict):
        for key in _GUARDED.intersection(event_dict):
            _fields.put_aside(event_dict, key, event_dict.pop(key))
    add_job_tag(logger, method_name, event_dict)
    span = span or trace.get_current_span()
    add_ids(span, event_dict)
    is_known = error is not None and _format_exception(span, event_dict, error)
    if "stack_info" in event_dict:
        _format_stack(event_dict)
    # by the span's own clock, inside one of ours
    _stamp(event_dict, getattr(span, "now_ns", _runtime.current.now_ns)())
    event_dict[_names.LEVEL] = method_name
    event_dict[_names.LOGGER] = logger.name
    record_on(span, event_dict, error, is_known=is_known)
    return event_dict


def _stamp(event_dict: EventDict, now_ns: int) -> None:
    event_dict[_names.TIME_NS] = now_ns
    event_dict[_names.TIMESTAMP] = _timestamp(now_ns)


def _timestamp(now_ns: int) -> str:
    global _second
    seconds, rest = divmod(now_ns, 1_000_000_000)
    known, text = _second
    if known != seconds:
        text = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))
        _second = (seconds, text)
    return f"{text}.{rest // 1000:06d}Z"


def _format_exception(span: trace.Span, event_dict: EventDict, error: BaseException) -> bool:
    """Add the traceback, and note that this line tells of it; say whether its trace did already."""
    event_dict[_names.EXCEPTION] = traceback_of(error)
    if not _runtime.current.on_spans:
        return False
    context = span.get_span_context()  # all that is asked of a span that is not ours
    trace_id = context.trace_id
    told = trace_id != 0 and _exceptions.is_recorded(error, trace_id)
    if context.trace_flags.sampled:
        _exceptions.mark_recorded(error, trace_id)
    return told


def _format_stack(event_dict: EventDict) -> None:
    asked = event_dict["stack_info"] = is_true(event_dict["stack_info"])
    if asked and _names.STACK in event_dict:
        _fields.put_aside(event_dict, _names.STACK, event_dict.pop(_names.STACK))
    _render_stack(None, "", event_dict)


_find_caller: Final[Any] = CallsiteParameterAdder(
    {CallsiteParameter.PATHNAME, CallsiteParameter.LINENO, CallsiteParameter.FUNC_NAME},
    additional_ignores=["otel_logging"],
)


def add_caller(logger: Lines, method_name: str, event_dict: EventDict) -> EventDict:
    """Add which line of code made this line; a log record has brought it along."""
    if _names.CODE_FILE not in event_dict:
        found = _find_caller(None, method_name, {})
        event_dict[_names.CODE_FILE] = found["pathname"]
        event_dict[_names.CODE_LINE] = found["lineno"]
        event_dict[_names.CODE_FUNCTION] = found["func_name"]
    return event_dict


# ---------------------------------------------------------------- the usual line

_EVENT_TAG: Final = _otlp.EVENT_TAG
_TIMESTAMP, _LEVEL, _EVENT, _LOGGER = _names.TIMESTAMP, _names.LEVEL, _names.EVENT, _names.LOGGER
_JOB_TAG = _names.JOB_TAG


_NO_FIELDS: Final[dict[str, Any]] = {}
_UNTAGGED: Final[tuple[Mapping[str, str], bytes]] = ({}, b"")


@lru_cache(1024)  # a job has many lines
def _tagged(tag: str) -> tuple[Mapping[str, str], bytes]:
    """Return the field that a job tag is, and the attribute."""
    return {_JOB_TAG: tag}, _otlp.attribute(_EVENT_TAG, _JOB_TAG, tag)


#: A field of that name needs a closer look.
_NOT_USUAL: Final = _names.RESERVED | {_names.TIME_NS, *_names.OF_CALLS}
#: Makes a line of a logger, a level, a message and the fields of the call; False: it is not usual,
#: and nothing has been done.
Straight = Callable[[Any, int, Any, Mapping[str, Any]], bool]


def never_straight(lines: Lines, level: int, event: Any, own: Mapping[str, Any]) -> bool:
    """Say that no line is usual: what is configured needs the whole chain for each."""
    return False


def straight_to(write: Callable[[bytes], None], limit: int) -> Straight:
    """Return what makes the usual line: fields, bytes, span, write.

    Usual: a text and plain scalars, inside an open span of ours, to the process's own stdout. No
    code of the application's runs in it. It makes what ``STEPS`` make, at a third of the cost.
    """
    current, span_key, dumps, encode = bindings.CURRENT, bindings.SPAN, _json.dumps, _otlp.scalars

    def straight(lines: Lines, level: int, event: Any, own: Mapping[str, Any]) -> bool:
        if type(event) is not str or len(event) > MAX_CHARACTERS:
            return False
        if sys.stdout is not sys.__stdout__ or _runtime.current.record_sink is not None:
            return False
        try:
            redaction = _runtime.current.redaction
            if _BINDABLE:
                own = merge_contextvars(lines, "", {**own})
            span = current.get().get(span_key)
            add_encoded = getattr(span, "add_encoded", None)
            head = lines.head(level)
            if add_encoded is None or head is None or not _NOT_USUAL.isdisjoint(own):
                return False
            state, tag = bindings.state(), bindings.job.get().tag
            bound, bound_bytes = state.shown, state.line_bytes
            shown = redaction.scalars(own, MAX_CHARACTERS) if own else _NO_FIELDS
            if shown is None or bound is None or bound_bytes is None or bound.keys() & shown:
                return False
            tagged, tag_bytes = _UNTAGGED
            if tag is not None:
                tagged, tag_bytes = _tagged(tag)
                if event[:1] == "[" and event.startswith(f"[{tag}] "):
                    event = event[len(tag) + 3 :]
            now_ns, event = span.now_ns(), redaction.text(event)
            line = dumps(
                {
                    _TIMESTAMP: _timestamp(now_ns),
                    _LEVEL: head[0],
                    _EVENT: event,
                    _LOGGER: lines.name,
                    **shown,
                    **bound,
                    **tagged,
                    **span.line_fields,
                }
            )
            own_bytes = encode(_EVENT_TAG, shown)
            encoded = _otlp.event_of(now_ns, event, own_bytes, bound_bytes, tag_bytes, head[1])
            size = len(shown) + len(bound) + len(tagged) + 2  # with the level and the logger
            if len(line) > limit or not add_encoded(now_ns, encoded, size):
                return False
        except Exception:  # the whole chain counts and reports it
            return False
        write(line)
        return True

    return straight


def _write(logger: Lines, method_name: str, event_dict: EventDict) -> EventDict:
    logger.write(event_dict)
    return event_dict


#: structlog's register of what its functions bind: while it is empty there is nothing to look for.
_BINDABLE: Final = getattr(structlog.contextvars, "_CONTEXT_VARS", {"unknown": None})


def merge_bound(logger: Lines, method_name: str, event_dict: EventDict) -> EventDict:
    """Add what was bound by structlog's own functions."""
    return merge_contextvars(logger, method_name, event_dict) if _BINDABLE else event_dict


#: How a line is made: put on its span, and written.
STEPS: Final[list[Callable[..., EventDict]]] = [
    merge_bound,
    _complete,
    _write,
]


def describe(logger: Lines, method_name: str, event_dict: EventDict) -> EventDict:
    """Add to *event_dict* what a line has; put it on no span, and leave its exception alone."""
    add_bound_context(logger, method_name, merge_bound(logger, method_name, event_dict))
    add_job_tag(logger, method_name, event_dict)
    add_ids(trace.get_current_span(), event_dict)
    if "stack_info" in event_dict:
        _format_stack(event_dict)
    _stamp(event_dict, _runtime.current.now_ns())
    event_dict[_names.LEVEL] = method_name
    event_dict[_names.LOGGER] = logger.name
    return event_dict


def _write_text(logger: Lines, method_name: str, event_dict: EventDict) -> EventDict:
    logger.write_text(event_dict)
    return event_dict


#: The same, with parts left out: for the span alone, for handlers alone, and of a text that the
#: application has rendered, with and without an event of ours.
ON_SPAN: Final = (merge_bound, _complete)
UNWRITTEN: Final = (describe,)
TEXT: Final = (_complete, _write_text)
TEXT_WITHOUT_EVENT: Final = (describe, _write_text)
