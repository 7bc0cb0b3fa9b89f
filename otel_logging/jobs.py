"""Job tags: which background job something runs for.

In: a tag, a member of an application's ``BackgroundJobTag`` or a plain string.
Out: the tag on every line and span of the tagged function, whoever logs them.
Invariant: task-local, and restored however the function is left. Deliberately
absent: schedulers; the tag's way into a line is a processor like any other.
"""

import logging
import time
from collections.abc import Callable
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final, TypeVar

from otel_logging import _decorate
from otel_logging import context as bindings
from otel_logging.settings import ConfigurationError

_F = TypeVar("_F", bound=Callable[..., Any])


class BackgroundJobTag(StrEnum):
    """To be subclassed as an application's one list of job tags.

    It has no members, since an enum with members cannot be extended::

        class JobTag(BackgroundJobTag):
            PRICE_CACHE = "PRICE_CACHE"
    """


def current_job_tag() -> str | None:
    """Return the tag of the job that this runs for; None outside any. Cost: one look-up."""
    return bindings.job_tag.get()


class TaggedText(str):
    """``[TAG] message``, which knows its two parts: a line of ours has them in two fields."""

    __slots__ = ("message", "tag")

    tag: str
    message: str


def format_background_log(tag: str, message: str) -> str:
    """Return *message* as a tagged line has it: ``[TAG] message``.

    Failure: raises ``ConfigurationError`` for a tag that is no text.
    """
    return tagged_text(_text_of(tag), str(message))


def tagged_text(tag: str, message: str, shown: str | None = None) -> TaggedText:
    """Return *message* with its tag before it, which may be *shown* otherwise than it is."""
    text = TaggedText(f"[{tag if shown is None else shown}] {message}")
    text.tag, text.message = tag, message
    return text


def tag_background_logger(tag: str) -> Callable[[_F], _F]:
    """Decorate a function so that everything logged inside it carries *tag*.

    Works on any callable: functions of any signature, coroutine functions,
    methods, generators of both kinds (while their own code runs). Nested, the inner
    tag holds, then the outer one again. Scope: the task or thread that runs the
    function, and tasks it starts. Failure: raises ``ConfigurationError`` for a tag
    that is no text, when it decorates. Cost: under a microsecond a call.
    """
    text = _text_of(tag)
    return lambda function: _decorate.around(function, lambda: _Tagged(text))


def _text_of(tag: str) -> str:
    if not isinstance(tag, str) or not tag.strip() or not str(tag).isprintable():
        raise ConfigurationError("job tag", tag, "a text like PRICE_CACHE, or a BackgroundJobTag")
    return str(tag)


class _Tagged:
    __slots__ = ("_before", "_entered_ns", "_tag")

    def __init__(self, tag: str) -> None:
        self._tag = tag

    def __enter__(self) -> None:
        self._entered_ns = time.time_ns()
        self._before = bindings.job_tag.get()
        bindings.job_tag.set(self._tag)

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        bindings.note_origin(error, self._entered_ns)
        bindings.job_tag.set(self._before)


if TYPE_CHECKING:
    _Adapter = logging.LoggerAdapter[logging.Logger]
else:
    _Adapter = logging.LoggerAdapter

#: What an adapter has of its own; everything else is its logger's.
_OWN: Final = frozenset({"logger", "extra", "merge_extra"})


class TaggedLogger(_Adapter):
    """A drop-in around a ``logging.Logger`` that puts ``[TAG]`` before what a tagged job logs.

    ``app.logger = TaggedLogger(app.logger)``. Whatever else the logger has, it has:
    levels, handlers, filters, children, ``extra``, ``exc_info``, ``stack_info``,
    ``stacklevel``; file and line stay the caller's; without a tag the output is
    the plain logger's. Failure: raises what the plain logger would.
    """

    def __init__(self, logger: logging.Logger) -> None:
        """Wrap *logger*; one that is wrapped already is not wrapped twice."""
        super().__init__(logger.logger if isinstance(logger, TaggedLogger) else logger, None)

    def log(self, level: int, msg: Any, *args: Any, **kwargs: Any) -> None:
        """Log at *level*, tagged."""
        tag = bindings.job_tag.get()
        if tag is not None and self.isEnabledFor(level):
            msg = _with_tag(tag, msg, is_format=bool(args))
        # this frame is none of the caller's
        self.logger.log(
            level, msg, *args, **{**kwargs, "stacklevel": kwargs.get("stacklevel", 1) + 1}
        )

    fatal = _Adapter.critical  # which an adapter has not by itself

    def getChild(self, suffix: str) -> "TaggedLogger":  # noqa: N802 - logging's name
        """Return the logger's child, wrapped too."""
        return type(self)(self.logger.getChild(suffix))

    def __reduce__(self) -> tuple[Any, ...]:
        return (type(self), (self.logger,))

    def __getattr__(self, name: str) -> Any:
        return getattr(self.logger, name)

    def __setattr__(self, name: str, value: Any) -> None:
        if name in _OWN:
            object.__setattr__(self, name, value)
        else:
            setattr(self.logger, name, value)


def _with_tag(tag: str, message: Any, *, is_format: bool) -> Any:
    """Return *message* with *tag* before it; as it is, where it has one, or is no text at all."""
    if isinstance(message, TaggedText):
        return message
    try:
        text = str(message)
    except Exception:  # for the handlers to find out, as it is without a tag
        return message
    shown = tag.replace("%", "%%") if is_format else tag  # a tag may have a "%" in it
    return message if text.startswith(f"[{shown}] ") else tagged_text(tag, text, shown)
