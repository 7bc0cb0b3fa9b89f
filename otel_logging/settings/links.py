"""Where Jaeger is, and whether stdout is a terminal that takes links to it.

In: variables. Out: an address, facts. Deliberately absent: the links themselves (``_links``).
"""

import re
import sys
from typing import Final

from otel_logging import _names, _parse
from otel_logging._errors import ConfigurationError
from otel_logging.settings.variables import Variables

#: Terminals whose documentation says that they take hyperlinks (OSC 8); see docs/jaeger.md.
_LINKING_PROGRAMS: Final = frozenset({"iTerm.app", "WezTerm", "vscode", "ghostty"})
#: Set by terminals that take hyperlinks; inside tmux or screen, which may not, they are of the
#: terminal outside.
_WITH_HYPERLINKS: Final = ("WT_SESSION", "KITTY_WINDOW_ID", "KONSOLE_VERSION", "VTE_VERSION")
_MULTIPLEXERS: Final = ("TMUX", "STY")
_LIKE: Final = "a URL like http://localhost:16686, without a password or a query"


def jaeger_url(variables: Variables | None = None) -> str:
    """Return where Jaeger is asked. Failure: raises ``ConfigurationError``."""
    variables = variables or Variables()
    return variables.read(_parse_jaeger_url, "http://localhost:16686", _names.JAEGER_URL)


def _parse_jaeger_url(name: str, value: str) -> str:
    if re.search("[?@]", value):
        raise ConfigurationError(name, value, _LIKE)
    return _parse.url(name, value, _LIKE).rstrip("/")


def is_terminal() -> bool:
    """Whether stdout is a terminal."""
    try:
        return sys.stdout.isatty()
    except (AttributeError, ValueError, OSError):  # None, or closed
        return False


def takes_links(variables: Variables | None = None) -> bool:
    """Whether stdout is a terminal that is known to take hyperlinks, by the variables it sets."""
    get = (variables or Variables()).get
    if not is_terminal() or get("TERM") == "dumb":
        return False
    if (forced := get("FORCE_HYPERLINK")) is not None:
        return forced != "0"
    if any(map(get, _MULTIPLEXERS)):
        return False
    return any(map(get, _WITH_HYPERLINKS)) or get("TERM_PROGRAM") in _LINKING_PROGRAMS
