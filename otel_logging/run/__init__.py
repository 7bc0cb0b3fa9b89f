"""``otel-logging run``: a program is set up with no line of code of its own.

In: a command. Out: the same command, with this directory on PYTHONPATH: Python imports the
``sitecustomize`` in it when it starts, also in the processes that the program starts.
"""

import os
import re
import shutil
import sys
from collections.abc import Sequence
from importlib.metadata import entry_points
from itertools import pairwise
from pathlib import Path
from typing import NoReturn

from otel_logging import _names, settings
from otel_logging.settings import variables

_APPLICATION = re.compile(r"([A-Za-z_][\w.]*):[A-Za-z_][\w.()]*")


def service_of(command: Sequence[str]) -> str:
    """Return a name for the service that *command* starts: the application's module.

    In the order of trust: an option, a ``module:name``, ``-m``, a file. With ``-m uvicorn`` there
    is one of the first two.
    """
    after = dict(reversed([*pairwise(command)]))  # of two options of one name the first
    is_named = any(map(_APPLICATION.fullmatch, command[1:]))
    for option in ("-A", "--app") if is_named else ("-A", "--app", "-m"):
        if option in after:
            return after[option].partition(":")[0]
    for word in command[1:]:
        if found := _APPLICATION.fullmatch(word):
            return found[1]
        if word.endswith(".py"):
            return Path(word).stem
    return Path(command[0]).stem


def replace_process(command: Sequence[str], service: str | None) -> NoReturn:
    """Become *command*, set up as *service*, OTEL_SERVICE_NAME, or after its application.

    Failure: raises ``ConfigurationError`` for what a set-up would refuse, and ``OSError``
    where the command cannot be started.
    """
    chosen, module = settings.load(service).service_name, service_of(command)
    if chosen == settings.nameless():
        chosen = module
    beside = Path(sys.executable).parent  # first: no other environment may have the package
    program = shutil.which(command[0], path=beside) or shutil.which(command[0]) or command[0]
    path = [str(Path(__file__).parent), variables.value_of("PYTHONPATH")]
    # the application's module, and that of a command which an installed package brings
    commands = entry_points(group="console_scripts", name=module)
    modules = ",".join([module, *(each.module for each in commands)])
    own = variables.Variables().get(_names.APPLICATION) or modules
    environment = variables.environment_with(
        PYTHONPATH=os.pathsep.join(filter(None, path)),
        **{_names.OTEL_SERVICE_NAME: chosen, _names.APPLICATION: own},
    )
    # Python finds its environment by the first argument
    os.execvpe(program, [program, *command[1:]], environment)  # noqa: S606 - by no shell
