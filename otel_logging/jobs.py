"""Job tags: which background job something runs for.

Out: the tag on every line and span of the tagged function, whoever logs them. Invariant:
task-local, and restored however the function is left. Deliberately absent: schedulers.
"""

import logging
from collections.abc import Callable
from contextvars import Token
from enum import StrEnum
from functools import cache
from typing import Any, Self, cast

from otel_logging import _exceptions
from otel_logging import context as bindings
from otel_logging._errors import ConfigurationError
from otel_logging._text import visible
from otel_logging._values import as_text, plain
from otel_logging._wrap import F, wrap

#: The number of the last exception before a run of a job, the run, and the token that ends it.
_Entered = tuple[int, bindings.Job, Token[bindings.Job]]
_current, _set, _reset = bindings.job.get, bindings.job.set, bindings.job.reset


class BackgroundJobTag(StrEnum):
    """To be subclassed as an application's one list of job tags.

    It has no members, since an enum with members cannot be extended::

        class JobTag(BackgroundJobTag):
            PRICE_CACHE = "PRICE_CACHE"
    """


class TaggedText(str):
    """``[TAG] message``, which knows its two parts: a line of ours has them in two fields."""

    __slots__ = ("message", "tag")

    tag: str
    message: str


def format_background_log(tag: str, message: str) -> str:
    """Return *message* as a tagged line has it: ``[TAG] message``.

    Failure: never raises. A tag that ``tag_background_logger`` would refuse stands there
    as it is, with its control characters shown.
    """
    return tagged_text(visible(_text_of(tag)), as_text(message))


def tagged_text(tag: str, message: str, before: str | None = None) -> TaggedText:
    """Return *message* with *tag* in front of it; *before* is how that is written, if not usual."""
    text = TaggedText((before or f"[{tag}] ") + message)
    text.tag, text.message = tag, message
    return text


def tag_background_logger(tag: str) -> Callable[[F], F]:
    """Decorate a function so that everything logged inside it carries *tag*.

    Works on any callable: functions of any signature, coroutine functions, methods, generators of
    both kinds (while their own code runs). Nested, the inner tag holds, then the outer one again.
    Scope: the task or thread that runs the function, and tasks it starts. Failure: raises
    ``ConfigurationError`` for a tag that is no text, when it decorates. Cost: under a microsecond a
    call.
    """
    text = _text_of(tag)
    if not issubclass(type(tag), str) or not text.strip() or not text.isprintable():
        raise ConfigurationError("job tag", text, "a text like PRICE_CACHE, or a BackgroundJobTag")
    return lambda function: wrap(function, _begin, _end, text, _in_line)


def _text_of(tag: Any) -> str:
    # a member's value, also if its enum is not one of Python's string enums
    return str.__str__(tag) if issubclass(type(tag), str) else str(plain(tag))


def _begin(tag: str) -> _Entered:
    run: bindings.Job = [tag, None]
    return _exceptions.last, run, _set(run)


def _end(entered: _Entered, error: BaseException | None) -> None:
    began, run, token = entered
    if error is not None:
        _exceptions.remember_context(error, began)
    if (owner := run[1]) is not None:
        owner.otel_logging_closed = True
    try:
        _reset(token)
    except ValueError:  # a dropped coroutine is left where it is collected
        return
    if owner is not None:
        bindings.restore(bindings.state().lasting(lambda each: each is owner))


def _in_line(function: Any, tag: str) -> Any:
    """Return *function*, tagged, without a call of ``_begin`` and ``_end``: a third of the cost."""

    def wrapper(*args: Any, **kwargs: Any) -> Any:
        run: bindings.Job = [tag, None]
        began, token = _exceptions.last, _set(run)
        try:  # to pass on no keywords costs a tenth of the wrapper
            result = function(*args, **kwargs) if kwargs else function(*args)
        except BaseException as error:
            _end((began, run, token), error)
            raise
        if run[1] is None:
            _reset(token)
        else:
            _end((began, run, token), None)
        return result

    return wrapper


class TaggedLogger(logging.Logger):
    """A drop-in for a ``logging.Logger`` that puts ``[TAG]`` before what a tagged job logs.

    ``app.logger = TaggedLogger(app.logger)``. It is a logger of the same class,
    with the same state: whatever is read, set or called on it is the logger's.
    Records are tagged where they are made; without a tag they are the plain
    logger's. Failure: raises what the plain logger would, and
    ``ConfigurationError`` for what is no ``logging.Logger``.
    """

    #: The logger that is wrapped.
    logger: logging.Logger

    def __new__(cls, logger: logging.Logger) -> Self:
        """Wrap *logger*; one that is wrapped already is not wrapped twice."""
        if not isinstance(logger, logging.Logger):
            allowed = "a logging.Logger; adapters go around it"
            raise ConfigurationError("TaggedLogger", logger, allowed)
        logger = logger.logger if isinstance(logger, TaggedLogger) else logger
        self: Self = object.__new__(_like((cls, logger.__class__)))
        object.__setattr__(self, "__dict__", logger.__dict__)
        self.logger = logger
        return self

    def __init__(self, logger: logging.Logger) -> None:
        """Leave the state alone: it is the logger's."""

    def makeRecord(self, *args: Any, **kwargs: Any) -> logging.LogRecord:  # noqa: N802 - logging's
        """Make a record, tagged."""
        record = super().makeRecord(*args, **kwargs)
        if (tag := _current()[0]) is not None:
            record.msg = _with_tag(tag, record.msg, is_format=bool(record.args))
        return record

    def getChild(self, suffix: str) -> Self:  # noqa: N802 - logging's name
        """Return the logger's child, wrapped too."""
        kind: Any = type(self).__bases__[0]
        return cast(Self, kind(self.logger.getChild(suffix)))

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self).__bases__[0], (self.logger,)


@cache
def _like(kinds: tuple[Any, ...]) -> Any:
    """Return the class that inherits from both *kinds*, a wrapper and a logger."""
    return type(kinds[0].__name__, kinds, {"__slots__": ("logger",), "__module__": __name__})


def _with_tag(tag: str, message: Any, *, is_format: bool) -> Any:
    """Return *message* with *tag* before it; unchanged, where it has one or cannot be text."""
    if type(message) is TaggedText:  # by type: a message may have a __class__ that raises
        return message
    try:
        text = str(message)
    except Exception:  # for the handlers to find out, as it is without a tag
        return message
    before = f"[{tag}] "
    if is_format:
        before = before.replace("%", "%%")
    return message if text.startswith(before) else tagged_text(tag, text, before)
