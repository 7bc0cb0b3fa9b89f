"""What is on a line: the same fields in the output and on the span.

Invariant: every field of a call is there, under its own name or with underscores behind it.
Deliberately absent: levels, and who calls (``logger``).
"""

import logging
import sys
import time
from collections.abc import Callable, Mapping
from functools import lru_cache, partial
from typing import Any, Final

import structlog
from opentelemetry import trace
from structlog.contextvars import merge_contextvars
from structlog.processors import StackInfoRenderer

from otel_logging import _exceptions, _fields, _json, _names, _otlp, _runtime
from otel_logging import context as bindings
from otel_logging._values import MAX_CHARACTERS, is_true
from otel_logging.logs import caller
from otel_logging.processors import (
    EventDict,
    TracebackText,
    add_bound_context,
    add_ids,
    add_job_tag,
    described,
    exception_of,
    record_on,
    traceback_of,
)

NAMES: Final = {10: "debug", 20: "info", 30: "warning", 40: "error", 50: "critical"}
#: Lines that tell of the exception that is handled meanwhile, in words of their own.
_TELLING: Final = frozenset({"warning", "error", "critical"})
#: Fields that a line sets itself; ``trace_id`` may be given by hand, ``event`` cannot.
_GUARDED: Final = (_names.RESERVED | {_names.TIME_NS}) - {_names.TRACE_ID, _names.EVENT}
#: structlog's register of what its functions bind: empty until one is called.
_BINDABLE: Final = getattr(structlog.contextvars, "_CONTEXT_VARS", {"unknown": None})
_render_stack: Final = StackInfoRenderer(additional_ignores=["otel_logging"])
_second: tuple[int, str] = (0, "")


def complete(logger: str, level: str, event_dict: EventDict, *, on_span: bool) -> EventDict:
    """Add everything that a line has beside its call, and make it an event of its span.

    A line about an exception that is logged outside any span gets the trace, and where
    nothing is bound the whole context, that the exception was raised in.
    """
    if _BINDABLE:
        event_dict = merge_contextvars(None, level, event_dict)
    given, span = event_dict.pop("exc_info", None), trace.get_current_span()
    error = exception_of(given)
    origin = None if error is None else _exceptions.context_of(error)
    context = None
    if origin is not None and not span.get_span_context().is_valid:
        context, span = (
            origin if bindings.is_unbound() else None,
            origin.run(trace.get_current_span),
        )
    if type(given) is TracebackText:
        event_dict[_names.EXCEPTION] = given
    fill = partial(_fill, span, logger, level, event_dict, error, on_span=on_span)
    return fill() if context is None else context.run(fill)


def _fill(
    span: trace.Span,
    logger: str,
    level: str,
    event_dict: EventDict,
    error: BaseException | None,
    *,
    on_span: bool,
) -> EventDict:
    identify(span, logger, level, event_dict, error)
    is_known = False
    told = error if error is not None or level not in _TELLING else sys.exc_info()[1]
    if told is not None:
        _exceptions.mark_told(told)
    if error is not None:
        is_known = on_span and _runtime.current.on_spans and _was_recorded(span, error)
    if "stack_info" in event_dict:
        asked = event_dict["stack_info"] = is_true(event_dict["stack_info"])
        if asked and _names.STACK in event_dict:
            _fields.put_aside(event_dict, _names.STACK, event_dict.pop(_names.STACK))
        _render_stack(None, "", event_dict)
    stamp(span, event_dict)
    if on_span:
        record_on(span, event_dict, error, is_known=is_known)
    return event_dict


def identify(
    span: trace.Span, logger: str, level: str, event_dict: EventDict, error: BaseException | None
) -> None:
    """Add whose line it is, and what was raised."""
    add_bound_context(None, level, event_dict)
    for key in _GUARDED.intersection(event_dict):
        if type(event_dict[key]) is not TracebackText:
            _fields.put_aside(event_dict, key, event_dict.pop(key))
    add_job_tag(None, level, event_dict)
    add_ids(span, event_dict)
    if error is not None:
        event_dict[_names.EXCEPTION] = traceback_of(error)
        event_dict.update({**described(error), **caller.where(error), **event_dict})
    event_dict[_names.LEVEL], event_dict[_names.LOGGER] = level, logger


def stamp(span: Any, event_dict: EventDict) -> None:
    """Add the time, by the span's own clock inside one of ours."""
    now_ns = getattr(span, "now_ns", _runtime.current.now_ns)()
    event_dict[_names.TIME_NS], event_dict[_names.TIMESTAMP] = now_ns, _timestamp(now_ns)


def _timestamp(now_ns: int) -> str:
    global _second
    seconds, rest = divmod(now_ns, 1_000_000_000)
    known, text = _second
    if known != seconds:
        text = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))
        _second = (seconds, text)
    return f"{text}.{rest // 1000:06d}Z"


def _was_recorded(span: trace.Span, error: BaseException) -> bool:
    """Return whether this trace has the traceback of *error*; remember that it has it now."""
    context = span.get_span_context()  # all that is asked of a span that is not ours
    was_recorded = context.trace_id != 0 and _exceptions.is_recorded(error, context.trace_id)
    if context.trace_flags.sampled:
        _exceptions.mark_recorded(error, context.trace_id)
    return was_recorded


# ---------------------------------------------------------------- the usual line

_EVENT_TAG: Final = _otlp.EVENT_TAG
_NO_FIELDS: Final[dict[str, Any]] = {}
_UNTAGGED: Final[tuple[Mapping[str, str], bytes]] = ({}, b"")
_AT, _LEVEL, _EVENT, _LOGGER = _names.TIMESTAMP, _names.LEVEL, _names.EVENT, _names.LOGGER
#: A field of such a name makes a line unusual.
_NOT_USUAL: Final = _names.RESERVED | {_names.TIME_NS, *_names.OF_CALLS}
#: Makes the line of a logger's name, a level, a message and fields; False: it is not usual, and
#: nothing has been done.
Straight = Callable[[str, int, Any, Mapping[str, Any]], bool]


@lru_cache(4096)  # loggers, times five
def _head(logger: str, level: int) -> tuple[str, bytes] | None:
    """Return the name of *level*, and it with the *logger*'s as attributes of an event."""
    name = NAMES.get(level)
    encoded = _otlp.attributes(_EVENT_TAG, {_LEVEL: name, _LOGGER: logger})
    return None if name is None else (name, encoded)


@lru_cache(1024)  # a job has many lines
def _tagged(tag: str) -> tuple[Mapping[str, str], bytes]:
    """Return a job tag as a field, and as an attribute of an event."""
    return {_names.JOB_TAG: tag}, _otlp.attribute(_EVENT_TAG, _names.JOB_TAG, tag)


def never_straight(logger: str, level: int, event: Any, own: Mapping[str, Any]) -> bool:
    """Make no line: none is usual."""
    return False


def straight_to(write: Callable[[bytes], None], limit: int) -> Straight:
    """Return the maker of the usual line: fields, bytes, span, write.

    Usual: a text and plain scalars, inside an open span of ours, to the process's own stdout.
    It runs no code of the application, and makes what ``complete`` makes at a third of the cost.
    """
    current, span_key, dumps, encode = bindings.CURRENT, bindings.SPAN, _json.dumps, _otlp.scalars

    def straight(logger: str, level: int, event: Any, own: Mapping[str, Any]) -> bool:
        if type(event) is not str or len(event) > MAX_CHARACTERS:
            return False
        if sys.stdout is not sys.__stdout__ or _runtime.current.record_sink is not None:
            return False
        if level >= logging.WARNING and sys.exc_info()[1] is not None:
            return False
        try:
            redaction = _runtime.current.redaction
            if _BINDABLE:
                own = merge_contextvars(None, "", {**own})
            span, head = current.get().get(span_key), _head(logger, level)
            add_encoded = getattr(span, "add_encoded", None)
            if add_encoded is None or head is None or not _NOT_USUAL.isdisjoint(own):
                return False
            state, tag = bindings.state(), bindings.job.get().tag
            bound, bound_bytes = state.shown, state.line_bytes or b""
            shown = redaction.scalars(own, MAX_CHARACTERS) if own else _NO_FIELDS
            if shown is None or bound is None or not bound.keys().isdisjoint(shown):
                return False
            tagged, tag_bytes = _tagged(tag) if tag is not None else _UNTAGGED
            if event[:1] == "[" and tag is not None:
                event = event.removeprefix(f"[{tag}] ")
            now_ns, event = span.now_ns(), redaction.seen.get(event) or redaction.text(event)
            fields = {_AT: _timestamp(now_ns), _LEVEL: head[0], _EVENT: event, _LOGGER: logger}
            line = dumps({**fields, **shown, **bound, **tagged, **span.line_fields})
            own_bytes = encode(_EVENT_TAG, shown)
            encoded = _otlp.event_of(now_ns, event, own_bytes, bound_bytes, tag_bytes, head[1])
            size = len(shown) + len(bound) + len(tagged) + 2  # with the level and the logger
            if len(line) > limit or not add_encoded(now_ns, encoded, size):
                return False
        except Exception:  # ``complete`` counts and reports it
            return False
        write(line)
        return True

    return straight
