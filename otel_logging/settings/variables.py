"""Where a setting comes from: an argument, then the environment, then `.env`, then its default.

In: descriptions of settings, the fields of a dataclass made by ``asked``. Out: their
values. Invariant: the only reader of ``os.environ`` in the package; `.env` is read in the
working directory alone, and never exported. Deliberately absent: what there is to set.
"""

import os
from collections.abc import Callable, Mapping
from dataclasses import field, fields
from pathlib import Path
from typing import Any, Final, TypeVar, cast

from otel_logging._errors import ConfigurationError
from otel_logging._text import later

_T = TypeVar("_T")
#: Variables that another SDK reads too.
_OTHERS: Final = later("OTEL_(?!LOGGING_)")


def asked(
    parse: Callable[[str, Any], Any], default: Any, *variables: str, argument: str = ""
) -> Any:
    """Describe a setting, a field of a dataclass.

    *parse* gets the name and the value: those of the argument (called like the field, or
    *argument*), or else of the first of *variables* that is set. *default*: a value, or a function
    that makes one.
    """
    make = default if callable(default) else lambda: default
    metadata = {"parse": parse, "variables": variables, "argument": argument}
    return field(default_factory=make, metadata=metadata)


class Record:
    """What the dataclasses of settings have in common: they are never changed.

    The methods that ``dataclass`` would write for each of them take 3 ms of set-up to compile.
    """

    def __init__(self, **values: Any) -> None:
        for each in fields(cast(Any, self)):
            if each.metadata and each.name not in values:
                values[each.name] = cast(Any, each).default_factory()
        vars(self).update(values)

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"{name} is a setting, which stays as it is")


class Variables:
    """The environment, and behind it `.env`. An empty value counts as unset."""

    def __init__(self, *, beside: bool = False) -> None:
        """Read `.env`. *beside*: beside another SDK, whose variables may have values of its own."""
        self._dotenv = _read_dotenv()
        self._is_beside = beside
        self.ignored: list[str] = []

    def get(self, name: str) -> str | None:
        """Return the value of a variable; None where it is unset."""
        return value_of(name) or (self._dotenv.get(name) or "").strip() or None

    def read(self, parse: Callable[[str, str], _T], default: _T, *names: str) -> _T:
        """Parse the first of *names* that is set: *parse* gets the name and the value."""
        for name in names:
            if (value := self.get(name)) is not None:
                try:
                    return parse(name, value)
                except ConfigurationError as error:
                    if not self._is_beside or not _OTHERS.match(name):
                        raise
                    # a list of exporters, or names that only OpenTelemetry's SDK for Python knows
                    ours = any(each.strip().startswith("otlp") for each in value.split(","))
                    self.ignored.append(f"{error}; ignored beside another SDK{', but otlp' * ours}")
                    default = parse(name, "otlp") if ours else default
        return default

    def values(
        self, kind: type, given: Mapping[str, Any], *, prefixes: tuple[str, ...] = ("",)
    ) -> dict[str, Any]:
        """Return the values of the fields of *kind* that ``asked`` describes.

        *given*: arguments by name; None is one that was not given. *prefixes*: of the
        variables, the first one wins. Failure: raises ``ConfigurationError``.
        """
        found = {}
        for each in fields(kind):
            if not (setting := each.metadata):
                continue
            parse, argument = setting["parse"], setting["argument"] or each.name
            if given.get(argument) is not None:
                found[each.name] = parse(argument, given[argument])
            else:
                names = [prefix + name for name in setting["variables"] for prefix in prefixes]
                default = cast(Any, each).default_factory()  # `asked` gives each one
                found[each.name] = self.read(parse, default, *names)
        return found


def _read_dotenv() -> Mapping[str, str | None]:
    path = Path(".env")
    # the working directory may be gone, or closed to us
    if not os.path.isfile(path):  # noqa: PTH113 - Path's raises
        return {}
    from dotenv import dotenv_values

    try:
        return dotenv_values(path, encoding="utf-8-sig")  # Windows' editors put a BOM first
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(".env", str(path), f"cannot be read: {error}") from error


# ---------------------------------------------------------------- for the commands


def value_of(name: str) -> str:
    """Return a variable of the environment alone; empty where it is unset."""
    return os.environ.get(name, "").strip()


def environment_with(**variables: str) -> dict[str, str]:
    """Return the environment with *variables*, for another program."""
    return {**os.environ, **variables}
