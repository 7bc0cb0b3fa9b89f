"""The one error that set-up and the command line raise.

In: a variable or an argument, its value, what is allowed. Out: one sentence.
Invariant: no secret is in it. Deliberately absent: checking a value, and finding secrets.
"""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

#: A scheme, all to a query or fragment, the sign before that, and it.
_URL: Final = re.compile(r"((?:[A-Za-z][A-Za-z0-9+.-]*://)?)([^?#]*)([?#]?)(.*)", re.DOTALL)
_MOST_SHOWN: Final = 300  # characters of a value: a path; in all as many as a screen has
_NO_PORT: Final = re.compile(r"^((?:\[[0-9A-Fa-f:.]*\])?+[^:/]*):(?![0-9]*(?:/|$)).*", re.DOTALL)


#: Takes secrets out of a text: what ``_redact`` has for it, which raises the error below itself.
without_secrets: Callable[[str], str] = str


class ConfigurationError(ValueError):
    """A setting is invalid: names the variable, the value, what is allowed.

    Secrets, headers, and the user and query of a URL, are not shown.
    """

    def __init__(self, variable: str, value: object, allowed: str) -> None:
        shown = repr(value)
        if variable.lower().endswith(("endpoint", "url")) or "://" in shown:
            shown = repr(shown_url(value)) if isinstance(value, str) else shown_url(shown)
        shown = "…" if variable.endswith("HEADERS") else without_secrets(shown)
        if ": " in variable:  # a pair: its name may be a secret's
            shown = without_secrets(f"{variable}={shown}").removeprefix(f"{variable}=")
        if len(shown) > _MOST_SHOWN:
            shown = f"{shown[:_MOST_SHOWN]}…"
        said = f"{variable}={shown}: {without_secrets(allowed)}"
        super().__init__(said[: 5 * _MOST_SHOWN])


def shown_url(url: str) -> str:
    """Return *url* without user, password and query, even if it is no valid URL."""
    scheme, rest, sign, query = _URL.match(url).groups()  # type: ignore[union-attr]  # all fits
    if "@" in query:  # the ? or # may be part of a password
        return f"{scheme}…"
    _, at, address = rest.rpartition("@")
    # without an @, a password may stand in place of the port
    rest = f"…@{address}" if at else _NO_PORT.sub(lambda found: f"{found[1]}:…", rest)
    return scheme + rest + sign + "…" * bool(sign)


@contextmanager
def only_configuration_errors(doing: str) -> Iterator[None]:
    """Raise ``ConfigurationError`` for any other error of *doing*, the name of a function."""
    try:
        yield
    except ConfigurationError:
        raise
    except Exception as error:
        raise ConfigurationError(
            doing, type(error).__name__, f"set-up is not possible here ({error})"
        ) from error
