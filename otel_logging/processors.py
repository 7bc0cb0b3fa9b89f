"""structlog processors, each usable alone in anyone's chain.

Invariant: none of them raises, and each works with stock OpenTelemetry and no set-up of ours.
Deliberately absent: rendering (``logs``), and what a span of ours does with a line (``export``).
"""

import inspect
import logging
import re
import sys
import traceback
from collections.abc import MutableMapping
from typing import Any, Final

from opentelemetry import trace

from otel_logging import _diagnostics, _exceptions, _fields, _json, _names, _runtime
from otel_logging import context as bindings
from otel_logging._failures import full_name
from otel_logging._text import later
from otel_logging._values import MAX_CHARACTERS, as_text, bounded, plain
from otel_logging.jobs import TaggedText

__all__ = [
    "EventDict",
    "add_bound_context",
    "add_job_tag",
    "add_trace_context",
    "record_on_span",
    "redact_secrets",
]

#: Fields that are rendered later, or by somebody else.
_NOT_FIELDS: Final = frozenset({"exc_info", "stack_info", "_record", "_from_structlog"})

EventDict = MutableMapping[str, Any]

#: ECMA-48 SGR: colours that a library puts into its texts.
_COLORS: Final = later(r"\x1b\[[0-9;]*m")
#: By name: levels of another library for which ``logging`` has no name.
LEVELS: Final = {"SUCCESS": 25}

#: Fields of the span itself, and ``structlog.stdlib.ProcessorFormatter``'s own.
_NOT_ON_EVENTS: Final = {
    *(_names.EVENT, _names.TIMESTAMP, _names.TRACE_ID, _names.SPAN_ID, _names.TRACE_FLAGS),
    *(_names.TIME_NS, "_record", "_from_structlog"),
}


def add_bound_context(logger: Any, method_name: str, event_dict: EventDict) -> EventDict:
    """Add what ``bind_context`` bound; a field of the call itself wins."""
    for key, value in _fields.safe_names(bindings.bound()).items():
        event_dict.setdefault(key, value)
    return event_dict


def add_job_tag(logger: Any, method_name: str, event_dict: EventDict) -> EventDict:
    """Add ``job_tag``, inside a tagged job; a tag that the message begins with moves there."""
    event = event_dict.get(_names.EVENT)
    tag = bindings.current_job_tag()
    if type(event) is TaggedText:  # by type: a message may have a __class__ that raises
        tag, event_dict[_names.EVENT] = event.tag, event.message
    if tag is not None:
        event = event_dict.get(_names.EVENT)
        if type(event) is str:
            event_dict[_names.EVENT] = event.removeprefix(f"[{tag}] ")
        given = event_dict.get(_names.JOB_TAG)
        if given is not None and plain(given) != tag:  # plain: an array compares its items
            _fields.put_aside(event_dict, _names.JOB_TAG, given)
        event_dict[_names.JOB_TAG] = tag
    return event_dict


def add_trace_context(logger: Any, method_name: str, event_dict: EventDict) -> EventDict:
    """Add ``trace_id``, ``span_id`` and ``trace_flags`` of the current span, where there is one.

    A ``trace_id`` that the application gave stays where there is no span, and
    becomes ``request_id`` (``trace_id_``, if there is one already) where there
    is; a ``span_id`` or ``trace_flags`` of its own gets a trailing underscore.
    """
    return add_ids(trace.get_current_span(), event_dict)


def add_ids(span: trace.Span, event_dict: EventDict) -> EventDict:
    """Do what ``add_trace_context`` does, for *span*."""
    try:
        fields = getattr(span, "line_fields", None) or fields_of(span.get_span_context())
    except Exception as error:  # another SDK's span, or a mock
        _diagnostics.report("lines without their trace: a span did not say its ids", detail=error)
        return event_dict
    if fields and not event_dict.keys().isdisjoint(fields):
        if (given := event_dict.pop(_names.TRACE_ID, None)) is not None:
            _fields.put_request_id(event_dict, given)
        for key in fields.keys() & event_dict.keys():
            _fields.put_aside(event_dict, key, event_dict.pop(key))
    event_dict.update(fields)
    return event_dict


def fields_of(context: Any) -> dict[str, str]:
    """Return the three trace fields of a line inside the span of *context*; none if it is invalid.

    *context* may be a span of ours, which has the same three attributes.
    """
    if not (context.trace_id and context.span_id):
        return {}
    return {
        _names.TRACE_ID: f"{context.trace_id:032x}",
        _names.SPAN_ID: f"{context.span_id:016x}",
        _names.TRACE_FLAGS: f"{context.trace_flags:02x}",
    }


def record_on_span(logger: Any, method_name: str, event_dict: EventDict) -> EventDict:
    """Make the line an event of the current span: name = the message, attributes = the fields.

    Belongs before the renderer and after whatever adds fields, once on a line's way: of
    several ``ProcessorFormatter``s, in one. An ``exc_info`` that is not rendered yet stays in the
    line. With ``setup_observability`` every line finds a place, also where the span has ended, is
    full, or is missing; with stock OpenTelemetry a recording span's lines do, but for those that
    the span's own methods log. Failure: never raises; a lost line is counted and reported. Cost:
    with stock OpenTelemetry at most 0.1 s, where another thread holds the span.
    """
    if is_handled(event_dict.get("_record")):
        return event_dict
    fields = {**event_dict}
    if (error := exception_of(fields.pop("exc_info", None))) is not None:
        fields[_names.EXCEPTION] = traceback_of(error)
    record_on(trace.get_current_span(), fields, error)
    return event_dict


def redact_secrets(logger: Any, method_name: str, event_dict: EventDict) -> EventDict:
    """Take secrets out of the fields and the message, as was set up; before set-up, as by default.

    Belongs right before the renderer, behind what makes a text of an exception. With
    ``setup_observability`` or ``configure_logging`` every line has it done. Failure: never raises.
    """
    hide_named(event_dict)
    redaction = _runtime.current.redaction
    for key, value in [*event_dict.items()]:
        if key not in _NOT_FIELDS:
            kept = bounded(value)
            found = redaction.field(key, kept)
            # what is beyond the bounds of a list or a mapping was not examined
            is_many = type(kept) in (list, dict)
            has_any = found != (value if type(value) is str else kept) or "[redacted:" in str(kept)
            if has_any or is_many:
                event_dict[key] = found  # secrets are taken out of a long text before it is cut
    return event_dict


def hide_named(event_dict: EventDict) -> None:
    """Take out of the message the values of fields beside it whose names are secrets' names.

    With ``personal``, a user's value that is a word of its own is hashed there, as in its field.
    """
    if not _runtime.current.redaction.may_hide(event_dict):
        return
    found = (hidden(key, value) for key, value in event_dict.items() if key != _names.EVENT)
    secrets = [each for each in found if each and len(each[0]) > 3]  # as ``is_hidden``
    before = event = str(plain(event_dict.get(_names.EVENT))) if secrets else ""
    for each in sorted(secrets, key=lambda each: -len(each[0])):  # one may be in another
        who = rf"(?<!\w){re.escape(each[0])}(?!\w)" if each[1].startswith("who:") else ""
        event = re.sub(who, each[1], event) if who else event.replace(*each)
    if event != before:
        event_dict[_names.EVENT] = event


def hidden(key: Any, value: Any) -> tuple[str, str] | None:
    """Return the text of *value* and its replacement, if its name *key* says that it is a secret;
    else None.
    """
    redaction = _runtime.current.redaction
    if not issubclass(type(key), str) or (redaction.kind(key) is None and key not in redaction.who):
        return None
    kept = bounded(value, key)
    found = redaction.by_name(key, kept)
    return None if found == kept else (str(kept).strip(), str(found))


class _Handled(str):
    """The name of a record that is a line of ours: copies keep it, and what ``multiprocessing``
    sends to a process of the same application; any other, a log server, gets a text.
    """

    __slots__ = ()

    def __reduce__(self) -> tuple[Any, ...]:
        pickles = sys._getframe(1).f_globals.get("__name__")  # noqa: SLF001 - documented
        return (_Handled if pickles == "multiprocessing.reduction" else str, (str(self),))

    def __deepcopy__(self, _: Any) -> "_Handled":
        return self


def is_handled(record: Any) -> bool:
    """Say whether *record* was made a line of ours (``logs.stdlib``), or is too low for one."""
    return type(getattr(record, "name", None)) is _Handled


def mark_handled(record: logging.LogRecord) -> None:
    """Mark *record* and its copies as handled, in a way that no formatter sees."""
    record.name = _Handled(record.name)


def without_colors(text: Any) -> str:
    """Return *text* without the colours that a library puts into it. Never raises."""
    return _COLORS.sub("", text if type(text) is str else str(plain(text)))


class TracebackText(str):
    """An ``exc_info`` that is only a text: its exception is in another process."""

    __slots__ = ()


def exception_of(given: Any) -> BaseException | None:
    """Return what ``exc_info=`` means: an exception, ``sys.exc_info()``, or the one being handled.

    An exception is asked for its type, never for its truth: it may have a ``__bool__``.
    Never raises: what has no truth is no exception.
    """
    try:
        if isinstance(given, tuple) and len(given) == 3:
            given = given[1] if isinstance(given[1], BaseException) else None
        if isinstance(given, BaseException):
            return given
        if type(given) is TracebackText:
            return None
        return sys.exc_info()[1] if given else None
    except Exception:
        return None


def traceback_of(error: BaseException) -> Any:
    """Return the traceback of *error* as text. Never raises."""
    try:
        return "".join(traceback.format_exception(error)).rstrip("\n")
    except Exception:  # its own code raises
        return plain(error)


def described(error: BaseException) -> dict[str, str]:
    """Return what an exception is, by OpenTelemetry's semantic conventions. Never raises."""
    kind = type(error)
    name = kind.__qualname__ if kind.__module__ == "builtins" else full_name(kind)
    message = str(plain(as_text(error)))
    return {_names.EXCEPTION_TYPE: name, _names.EXCEPTION_MESSAGE: message}


def record_on(
    span: trace.Span,
    event_dict: EventDict,
    error: BaseException | None = None,
    *,
    on_span: bool = True,
) -> None:
    """Do what ``record_on_span`` does, for *span*. A trace has a traceback once.

    Without *on_span* the line is a log record, if lines are, and no event.
    """
    runtime = _runtime.current
    try:
        time_ns = event_dict.get(_names.TIME_NS) or runtime.now_ns()
        name = event_dict.get(_names.EVENT)
        if type(name) is not str or len(name) > MAX_CHARACTERS:
            name = str(plain(name))
        fields = {k: v for k, v in event_dict.items() if k not in _NOT_ON_EVENTS}
        if runtime.record_sink is not None:
            runtime.record_sink(span, time_ns, name, fields, error)
        if not (on_span and runtime.on_spans):
            return
        if error is not None and _was_recorded(span, error):
            fields[_names.EXCEPTION] = plain(error)
        if (add_line := getattr(span, "add_line", None)) is not None:
            add_line(time_ns, name, fields)
        elif runtime.line_sink is not None:
            runtime.line_sink(span, time_ns, name, fields)
        elif not _is_busy(span) and span.is_recording():
            span.add_event(plain(name), _json.flat(fields), time_ns)
    except Exception as error:
        _diagnostics.report("log lines lost on their way to a span", detail=error)


def _was_recorded(span: trace.Span, error: BaseException) -> bool:
    """Return whether this trace has the traceback of *error*; remember that it has it now."""
    context = span.get_span_context()  # all that is asked of a span that is not ours
    was_recorded = context.is_valid and _exceptions.is_recorded(error, context.trace_id)
    if context.trace_flags.sampled:
        _exceptions.mark_recorded(error, context.trace_id)
    return was_recorded


#: How long another thread may hold a foreign span's lock until a line goes on without its event.
_BUSY_S: Final = 0.1


def _is_busy(span: trace.Span) -> bool:
    """Say whether a call of *span*, which is not ours, might never return.

    There are two cases: this line is made inside one of its methods, which may hold
    its lock (the SDK's warnings, ``__str__`` of a value, a signal handler); another
    thread holds the lock, and may wait for that of the handler that makes this line.
    """
    module = type(span).__module__
    for frame, _ in traceback.walk_stack(inspect.currentframe()):
        if frame.f_globals.get("__name__") == module and frame.f_locals.get("self") is span:
            return True
    if (lock := getattr(span, "_lock", None)) is None:  # the SDK's, in every version
        return False
    if not lock.acquire(timeout=_BUSY_S):
        _diagnostics.report("log lines without an event: another thread holds the span's lock")
        return True
    lock.release()
    return False
