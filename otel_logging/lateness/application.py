"""Which code is the application's own: what is not installed, and packages that are named.

In: the name of a file. Deliberately absent: the loggers of libraries (``logs.caller``).
"""

import os
import re
import sys
from functools import lru_cache
from pathlib import Path
from typing import Final

from otel_logging import _runtime

OURS: Final = f"{Path(__file__).parent.parent}{os.sep}"
DEMO: Final = f"{OURS}demo.py"  # an application like another
_LIBRARIES: Final = f"{Path(os.__file__).parent}{os.sep}", OURS  # Python's own modules, and ours
#: Where commands are installed, which have no ``.py`` at their end.
_COMMANDS: Final = f"{Path(sys.prefix, 'bin')}{os.sep}"
#: Installed, in a package; or in no file and typed by nobody: made by a library, as attrs does.
_THEIRS: Final = re.compile(
    r"[\\/](?:site|dist)-packages[\\/](\w*)|^<(?!stdin|console|doctest|\S*input)"
)


@lru_cache(maxsize=4096)
def is_application(file: str) -> bool:
    """Say whether code of *file* is the application's own, neither Python's nor of a library.

    A set-up that names other packages empties the cache.
    """
    if file == "<string>":  # SQLAlchemy and dataclasses make it; Python calls so what ``-c`` runs
        return sys.argv[:1] == ["-c"]
    if theirs := _THEIRS.search(file):
        return file == DEMO or theirs[1] in _runtime.current.application
    if file.startswith(_LIBRARIES):
        return file == DEMO
    return file.endswith(".py") or not file.startswith(_COMMANDS)
