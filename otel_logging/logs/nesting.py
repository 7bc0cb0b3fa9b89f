"""Log calls inside log calls: how deep a thread is in them, and the limit."""

import logging
from contextlib import suppress
from typing import Any, Final

from otel_logging._green import OfThread

#: A signal handler or ``__del__`` may log inside a log call; a value whose ``__repr__`` logs
#: itself must not do so for ever.
DEEPEST: Final = 3

#: By thread: how many log calls are open.
_depths: Final = OfThread()
#: By thread: the record that handlers handle now, or the texts that another library's sink handles.
#: If these hand it on to one more library, it is a line already.
handed: Final = OfThread()


def inside() -> Any:
    """Return a ``with`` block that runs code of the application in a log call.

    Raises ``RecursionError`` where log calls inside log calls are too deep.
    """
    depth = _depths.mine() or 0
    if depth >= DEEPEST:
        raise RecursionError("a value, a handler or an output logs while it is logged")
    return _depths.doing(depth + 1)


def is_handed_on(record: Any) -> bool:
    """Say whether *record*, ``logging``'s or the text of another library's, is a line already."""
    given = handed.mine()
    with suppress(Exception):  # its arguments do not fit
        if type(given) is tuple:
            return isinstance(record, logging.LogRecord) and record.getMessage().strip() in given
        if given is not None:
            return isinstance(record, str) and given.getMessage() in record
    return False
