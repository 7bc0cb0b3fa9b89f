"""Parsers of one value each, of a variable or an argument: they check and convert it.

In: the name to report, and the value: a variable's is a string, an argument's may be anything.
Out: the value in its type. Failure: every parser raises ``ConfigurationError``, which
says what is allowed. Deliberately absent: where the value comes from (``settings``).
"""

import logging
import math
import os
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, TypeVar
from urllib.parse import SplitResult, unquote, urlsplit

from otel_logging import _names
from otel_logging._errors import ConfigurationError
from otel_logging._redact import DEFAULT, OFF, Redaction

_T = TypeVar("_T")

_ENCODED: Final = (
    ", its user and password percent-encoded (/ is %2F, ? is %3F, @ is %40), without a colon in"
    " the user, control characters, or another @"
)
_CONTROLS: Final = "[\x00-\x1f\x7f-\x9f]"  # RFC 7617: in neither of them
_NUMBERS: Final = logging.getLevelNamesMapping()
_LEVELS: Final = {
    name.lower(): _NUMBERS[name] for name in sorted(_NUMBERS, key=_NUMBERS.__getitem__)
}


def _check(is_allowed: object, name: str, value: object, allowed: str) -> None:
    if not is_allowed:
        raise ConfigurationError(name, value, allowed)


# ---------------------------------------------------------------- numbers and choices


def level(name: str, value: object) -> int:
    """Return the number of a level: a name in any case, or a number."""
    given = str(value).strip().lower()
    is_number = re.fullmatch(r"[0-9]{1,9}", given)
    is_level = (given in _LEVELS or is_number) and type(value) is not bool
    allowed = f"a level is one of {', '.join(_LEVELS)}, or a number from 0"
    _check(is_level and isinstance(value, (str, int)), name, value, allowed)
    return int(given) if is_number else _LEVELS[given]


def seconds(name: str, value: object) -> float:
    """Return a positive, finite number of seconds."""
    number = _number(value)
    _check(math.isfinite(number) and number > 0, name, value, "a positive number of seconds")
    return number


def budget(name: str, value: object) -> float:
    """Return a budget that was given in code, in seconds; a string is rejected."""
    _check(not isinstance(value, str), name, value, "a positive number of seconds")
    return seconds(name, value)


def ratio(name: str, value: str) -> float:
    """Return a number, which should be from 0 to 1."""
    number = _number(value)
    _check(math.isfinite(number), name, value, "a number from 0 to 1, the ratio to keep")
    return number


def _number(value: Any) -> float:
    try:
        return math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        return math.nan


def count(least: int) -> Callable[[str, str], int]:
    """Return a parser of whole numbers from *least*."""

    def parse(name: str, value: str) -> int:
        is_count = re.fullmatch(r"[0-9]{1,18}", value) and int(value) >= least
        _check(is_count, name, value, f"a whole number from {least}")
        return int(value)

    return parse


def choice(values: Mapping[str, _T]) -> Callable[[str, str], _T]:
    """Return a parser of the keys of *values*, in any case."""

    def parse(name: str, value: str) -> _T:
        _check(value.lower() in values, name, value, "one of " + ", ".join(values))
        return values[value.lower()]

    return parse


def one_of(*choices: str) -> Callable[[str, str], str]:
    """Return a parser of *choices*, in any case."""
    return choice({each: each for each in choices})


true_or_false: Final = choice({"true": True, "false": False})


def flag(name: str, value: object) -> bool:
    """Return a bool given in code, or by a variable."""
    return value if isinstance(value, bool) else true_or_false(name, str(value))


def redaction(name: str, value: object) -> Redaction:
    """Return a ``Redaction``: for True the default one, for False one that takes nothing out."""
    return value if isinstance(value, Redaction) else DEFAULT if flag(name, value) else OFF


def pattern(name: str, value: str) -> tuple[Any, ...]:
    """Return a regular expression of secrets."""
    try:
        return Redaction(patterns=[value]).patterns
    except ConfigurationError as error:
        raise ConfigurationError(name, value, "a regular expression of no empty text") from error


# ---------------------------------------------------------------- names, pairs, mappings


def text(name: str, value: object) -> str:
    """Return a name that is not empty."""
    _check(isinstance(value, str) and value.strip(), name, value, "a name that is not empty")
    return str(value)


def environment(name: str, value: object) -> str:
    """Return the name of an environment, in lower case."""
    is_name = isinstance(value, str) and re.fullmatch(r"[\w.-]+", value)
    _check(is_name, name, value, "a name like development, production, test or staging")
    return str(value).lower()


def comma_list(_: str, value: str) -> tuple[str, ...]:
    """Return the parts of ``a,b``."""
    return tuple(part.strip() for part in value.split(",") if part.strip())


def line_exporters(name: str, value: str) -> frozenset[str]:
    """Return where lines go beside stdout, by ``otlp``, ``none`` or ``otlp,span``."""
    chosen = frozenset(part.lower() for part in comma_list(name, value))
    if chosen == {"none"}:  # of the exporters of log records, that is
        return frozenset({"span"})
    allowed = "one of otlp, none, or otlp,span for both ways"
    _check(chosen and chosen <= {"otlp", "span"}, name, value, allowed)
    return chosen


def pairs(name: str, value: str) -> tuple[tuple[str, str], ...]:
    """Return the pairs of ``k=v,k2=v2``, percent-encoded, as W3C Baggage has it."""
    found = []
    for item in filter(str.strip, value.split(",")):
        key, equals, rest = item.partition("=")
        _check(equals and key.strip(), name, value, "pairs like key=value,key2=value2")
        decoded = _decoded(key.strip()), _decoded(rest.strip())
        if decoded[0] is None or decoded[1] is None:
            raise ConfigurationError(name, value, "percent-encoded UTF-8, as in key=a%20b")
        found.append((decoded[0], decoded[1]))
    return tuple(found)


def _decoded(text: str) -> str | None:
    """Decode percent-encoded UTF-8; return None where it is not."""
    with suppress(UnicodeDecodeError):
        if not re.search("%(?![0-9A-Fa-f]{2})", text):
            return unquote(text, errors="strict")
    return None


def resource(name: str, value: str) -> Mapping[str, str]:
    """Return attributes of the resource."""
    return dict(pairs(name, value))


def levels(name: str, value: object) -> Mapping[str, int]:
    """Return levels by logger name, from a mapping or from pairs."""
    if not isinstance(value, (str, Mapping)):
        raise ConfigurationError(name, value, "levels by logger name, like shop=debug")
    given = value.items() if isinstance(value, Mapping) else pairs(name, value)
    return {text(name, logger): level(f"{name}: {logger}", each) for logger, each in given}


def budgets(name: str, value: object) -> Mapping[str, float]:
    """Return budgets in seconds by stage name, from a mapping or ``stage=0.5,chat *=0.4``."""
    if isinstance(value, str):
        pairs = [item.rpartition("=")[::2] for item in value.split(",")]
        stages = {stage.strip(): given for stage, given in pairs}
        # "a=1;b=2" does not mean a stage "a=1;b"
        is_odd = "" in stages or any(re.search(r"=\s*[\d.]+\s*;", stage) for stage in stages)
        _check(not is_odd, name, value, "pairs like utterance=0.5,chat *=0.4")
        _check(len(stages) == len(pairs), name, value, "each stage once")
        return {stage: seconds(f"{name}: {stage}", given) for stage, given in stages.items()}
    if not isinstance(value, Mapping):
        raise ConfigurationError(name, value, "seconds by stage name")
    return {text(name, stage): budget(f"{name}: {stage}", given) for stage, given in value.items()}


def names(name: str, value: object) -> tuple[str, ...]:
    """Return a sequence of names; a text is split at its commas."""
    if isinstance(value, (Sequence, set, frozenset)):
        given = comma_list(name, value) if isinstance(value, str) else tuple(value)
        if all(isinstance(each, str) and each for each in given):
            return given
    raise ConfigurationError(name, value, 'a sequence of names like ("user_id",)')


def integrations(name: str, value: object) -> tuple[str, ...]:
    """Return which integrations are on: "auto" is all of them, () or "none" is no one."""
    given = comma_list(name, value) if isinstance(value, str) else value
    chosen: Any = tuple(given) if isinstance(given, Sequence) else None
    if chosen == ("auto",):
        return tuple(_names.INTEGRATIONS)
    if chosen == ("none",):
        return ()
    is_known = chosen is not None and all(str(each) in _names.INTEGRATIONS for each in chosen)
    _check(is_known, name, value, f"auto, none, or names of {', '.join(_names.INTEGRATIONS)}")
    return tuple(chosen)


def baggage_keys(name: str, value: object) -> tuple[str, ...]:
    """Return a sequence of names that may be keys of W3C Baggage: tokens."""
    keys = names(name, value)
    are_tokens = all(re.fullmatch(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", key) for key in keys)
    _check(are_tokens, name, value, "names without spaces, commas or the like")
    return keys


# ---------------------------------------------------------------- files and URLs


def file(name: str, value: str) -> str:
    """Return the absolute path of a file that exists."""
    # Path's method raises for a name that is too long
    _check(os.path.isfile(value), name, value, "a file that exists")  # noqa: PTH113
    return str(Path(value).absolute())


def directory(name: str, value: Any) -> Path:
    """Return the absolute path of a directory, which need not exist."""
    # no path; no home; no working directory any more
    with suppress(TypeError, RuntimeError, OSError):
        if os.fspath(value).strip():
            return Path(value).expanduser().absolute()
    raise ConfigurationError(name, value, "a directory")


def url(name: str, value: object, like: str = "a URL like http://localhost:4318") -> str:
    """Return an http(s) URL; *like* says which are allowed."""
    # spaces, control characters and what is not ASCII cannot be sent
    given = value if isinstance(value, str) and re.fullmatch("[!-~]+", value) else ""
    try:
        parts = urlsplit(given)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        host, port = "", None
    is_url = host and "%" not in host and port != 0 and parts.scheme in ("http", "https")
    is_url = is_url and "@" not in parts.path + parts.query and credentials_of(parts) is not None
    _check(is_url, name, value, like + _ENCODED * ("@" in given))
    _check("#" not in given, name, value, f"{like}, without a fragment (#)")
    return parts.geturl()


def credentials_of(url: SplitResult) -> str | None:
    """Return user and password with a colon between them (RFC 7617); None where they are
    invalid.
    """
    encoded, _, encoded_password = url.netloc.rpartition("@")[0].partition(":")
    user, password = _decoded(encoded), _decoded(encoded_password)
    if user is None or password is None or ":" in user or re.search(_CONTROLS, user + password):
        return None
    return f"{user}:{password}"
