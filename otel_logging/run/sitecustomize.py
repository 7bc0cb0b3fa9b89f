"""Set-up of a program that was started by ``otel-logging run``, before its first line.

Python imports this when it starts, since the directory is on PYTHONPATH; another ``sitecustomize``
behind it is imported as well.
"""

import sys
from importlib.machinery import PathFinder
from importlib.util import module_from_spec
from pathlib import Path

try:
    from otel_logging import setup_observability
except ImportError as error:  # another environment's Python
    sys.stderr.write(f"otel_logging: not set up in {sys.executable}: {error}\n")
else:
    setup_observability()

_others = [place for place in sys.path if place != str(Path(__file__).parent)]
if (_spec := PathFinder.find_spec("sitecustomize", _others)) and _spec.loader:
    _spec.loader.exec_module(module_from_spec(_spec))
