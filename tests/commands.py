"""click's runner, the same in every version: stdout and stderr apart, and ``output`` with both."""

import inspect
from typing import Any

from click.testing import CliRunner, Result

#: click before 8.2 keeps the two apart only when asked, and has no name for both then.
_IS_OLD = "mix_stderr" in inspect.signature(CliRunner).parameters


class _Both(Result):
    @property
    def output(self) -> str:
        return self.stdout + self.stderr


class Runner(CliRunner):
    def __init__(self) -> None:
        options: dict[str, Any] = {"mix_stderr": False} if _IS_OLD else {}
        super().__init__(**options)

    def invoke(self, *args: Any, **options: Any) -> Result:
        result = super().invoke(*args, **options)
        if _IS_OLD:
            result.__class__ = _Both
        return result
