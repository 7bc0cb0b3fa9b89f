"""What is on a line: the same fields in the output and on the span.

The usual JSON line is rendered here too, for speed; any other one in ``render``. Invariant: every
field of a call is there, under its own name or with underscores behind it. Deliberately absent:
levels, and who calls (``logger``).
"""

import logging
import re
import sys
from collections.abc import Callable, Mapping
from functools import lru_cache, partial
from typing import Any, Final

from opentelemetry import trace
from structlog.contextvars import merge_contextvars
from structlog.processors import StackInfoRenderer

from otel_logging import _exceptions, _fields, _json, _names, _otlp, _runtime, processors
from otel_logging import context as bindings
from otel_logging._redact import Redaction
from otel_logging._text import later, rfc3339
from otel_logging._values import MAX_CHARACTERS, bounded, is_true
from otel_logging.background_tasks import here
from otel_logging.binding import CLOSED, STRUCTLOGS, encode_field, json_of, on_lines, remember
from otel_logging.logs import caller
from otel_logging.processors import EventDict, TracebackText

NAMES: Final = {10: "debug", 20: "info", 30: "warning", 40: "error", 50: "critical"}
#: A line of such a level tells of the exception that is being handled.
_TELLING: Final = frozenset({"warning", "error", "critical"})
#: Fields that a line sets itself; a call may have given them.
_GUARDED: Final = _fields.GUARDED - {_names.EVENT}
#: The beginning of a traceback in a message, by a formatter or the application.
TRACEBACK: Final = later(r"\s*(?:\+ Exception Group )?Traceback \(most recent call last\):")
#: In a traceback as text: what was raised, behind its last place.
_RAISED: Final = later(r"(?:.*\n[ \t][^\n]*\n|\A)([\w.<>]+)(?:: (.*))?\Z", re.DOTALL)
_render_stack: Final = StackInfoRenderer(additional_ignores=["otel_logging"])


def complete(logger: str, level: str, event_dict: EventDict, *, on_span: bool) -> EventDict:
    """Add everything that a line has beside its call, and make it an event of its span.

    A line about an exception, logged outside any span, gets the trace in which the exception
    was raised; if nothing is bound, it gets the whole context.
    """
    given, span = event_dict.pop("exc_info", None), trace.get_current_span()
    if getattr(span, CLOSED, False):
        span = here()
    if STRUCTLOGS:
        event_dict = merge_contextvars(None, level, event_dict)
    error, put = processors.exception_of(given), identify
    if error is not None and not span.get_span_context().is_valid:
        origin: Any = _exceptions.context_of(error)
        if origin is not None:
            span = origin.run(trace.get_current_span)
            is_unbound = not (bindings.bound() or bindings.current_job_tag())
            put = partial(origin.run, identify) if is_unbound else put
    if type(given) is TracebackText:
        raised = _RAISED.match(given)
        found = zip(_names.OF_EXCEPTIONS, raised.groups("") if raised else (), strict=False)
        event_dict = {**dict(found), **event_dict, _names.EXCEPTION: given}
    put(span, logger, level, event_dict, error)
    if _names.EXCEPTION in event_dict and type(event := event_dict.get(_names.EVENT)) is str:
        event_dict[_names.EVENT] = _without_traceback(event, event_dict[_names.EXCEPTION])
    logged = error
    if error is None and level in _TELLING and logger != _names.SCOPE:
        logged = sys.exc_info()[1]
    if logged is not None:
        _exceptions.mark_logged(logged)
    if "stack_info" in event_dict:
        asked = event_dict["stack_info"] = is_true(event_dict["stack_info"])
        if asked and _names.STACK in event_dict:
            _fields.put_aside(event_dict, _names.STACK, event_dict.pop(_names.STACK))
        _render_stack(None, "", event_dict)
    processors.hide_named(event_dict)
    stamp(span, event_dict)
    if on_span:
        processors.record_on(span, event_dict, error)
    return event_dict


def identify(
    span: trace.Span, logger: str, level: str, event_dict: EventDict, error: BaseException | None
) -> None:
    """Add the line's logger, its trace, what is bound, and what was raised."""
    processors.add_bound_context(None, level, event_dict)
    for key in _GUARDED.intersection(event_dict):
        if type(event_dict[key]) is not TracebackText:
            _fields.put_aside(event_dict, key, event_dict.pop(key))
    processors.add_job_tag(None, level, event_dict)
    processors.add_ids(span, event_dict)
    if error is not None:
        event_dict[_names.EXCEPTION] = processors.traceback_of(error)
        event_dict.update({**processors.described(error), **caller.where(error), **event_dict})
    event_dict[_names.LEVEL], event_dict[_names.LOGGER] = level, logger


def _without_traceback(event: str, text: str) -> str:
    """Return *event* without a traceback that ends as *text* does."""
    last = text.rpartition("\n")[2]
    found, end = TRACEBACK.search(event), event.rfind(last) + len(last)
    if found and end > found.end():
        return f"{event[: found.start()]} {event[end:].lstrip()}".strip() or last
    return event.removesuffix(f"\n{last}")


def stamp(span: Any, event_dict: EventDict) -> None:
    """Add the time, by the span's own clock inside one of ours."""
    now_ns = getattr(span, "now_ns", _runtime.current.now_ns)()
    event_dict[_names.TIME_NS], event_dict[_names.TIMESTAMP] = now_ns, rfc3339(now_ns)


# ---------------------------------------------------------------- the usual line

_EVENT_TAG: Final = _otlp.EVENT_TAG
_current, _state, _job = bindings.get_current, bindings.state, bindings.current_job
_SPAN: Final = bindings.SPAN
_NOTHING: Final = (b"", b"")
_BEGIN: Final = f'{{"{_names.TIMESTAMP}":"'.encode()
#: Makes the line for a logger's name, a level, a message and fields; returns False, and has done
#: nothing, if the line is not usual.
Straight = Callable[[str, int, Any, Mapping[str, Any]], bool]


@lru_cache(4096)  # loggers, times five
def _around(logger: str, level: int) -> tuple[bytes, bytes, bytes] | None:
    """Return the JSON before and behind the message, and the same as attributes of an event."""
    if (name := NAMES.get(level)) is None:
        return None
    before, behind = {_names.LEVEL: name}, {_names.LOGGER: logger}
    encoded = _otlp.attributes(_EVENT_TAG, {**before, **behind})
    text = b'"' + json_of(before) + f',"{_names.EVENT}":'.encode()
    return text, json_of(behind), encoded


def _message(redaction: Redaction, event: str) -> tuple[bytes, bytes]:
    """Return the message in JSON, and as the name of an event."""
    text = redaction.text(event)
    found = _json.dumps(text), _otlp.name_of(text)
    if text == event:  # what was redacted is counted
        remember(redaction, event, len(event), found)
    return found


def never_straight(logger: str, level: int, event: Any, own: Mapping[str, Any]) -> bool:
    """Make no line: no line is usual."""
    return False


def straight_to(write: Callable[[bytes], None], limit: int) -> Straight:
    """Return the maker of the usual line: fields, bytes, span, write.

    Usual: a text and plain scalars, inside an open span of ours, to the process's own stdout.
    It runs no code of the application. It makes what ``complete`` makes, at a third of the cost.
    """

    def straight(logger: str, level: int, event: Any, own: Mapping[str, Any]) -> bool:
        if type(event) is not str or len(event) > MAX_CHARACTERS:
            return False
        runtime = _runtime.current
        redaction = runtime.redaction
        if sys.stdout is not sys.__stdout__ or runtime.record_sink is not None:
            return False
        if level >= logging.WARNING and sys.exc_info()[1] is not None:
            return False
        try:
            if STRUCTLOGS:
                own = merge_contextvars(None, "", {**own})
            span, around = _current().get(_SPAN), _around(logger, level)
            add_encoded = getattr(span, "add_encoded", None)
            if add_encoded is None or around is None or span.otel_logging_closed:
                return False
            state, tag, tagged = _state(), _job()[0], _NOTHING
            if redaction.who and redaction.says_who(event, own, state.values):
                return False
            fields, bound = on_lines(own) if own else _NOTHING, state.on_lines
            if fields is None or bound is None or not state.values.keys().isdisjoint(own):
                return False
            if tag is not None:
                event = event.removeprefix(f"[{tag}] ")
                tagged = redaction.encoded.get((tag,)) or encode_field(
                    redaction, _names.JOB_TAG, bounded(tag, _names.JOB_TAG), (tag,)
                )
            message = redaction.encoded.get(event) or _message(redaction, event)
            now_ns = span.now_ns()
            before, behind, placed = around
            at, more = rfc3339(now_ns).encode(), fields[0] + bound[0] + tagged[0]
            line = b"".join((_BEGIN, at, before, message[0], behind, more, span.line_end))
            more = fields[1] + bound[1] + tagged[1]
            encoded = _otlp.event_of(now_ns, message[1], more, placed)
            size = len(own) + len(state.values) + (tag is not None) + 2  # the level, the logger
            if len(line) > limit or not add_encoded(now_ns, encoded, size):
                return False
        except Exception:  # ``complete`` counts and reports it
            return False
        write(line)
        return True

    return straight
