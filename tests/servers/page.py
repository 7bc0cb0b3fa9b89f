"""What docs/servers.md says: its table and its files, which the tests run."""

import re
from typing import Final

from tests.lines import ROOT

PAGE: Final = (ROOT / "docs" / "servers.md").read_text("utf-8")


def blocks(language: str) -> list[str]:
    """Return the code blocks of *language*, in order."""
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.M | re.S)


def table(heading: str) -> list[tuple[str, ...]]:
    """Return the rows of the table whose first heading that is."""
    _, _, rest = PAGE.partition(f"\n| {heading} |")
    rows = rest.partition("\n\n")[0].splitlines()[2:]
    return [tuple(cell.strip() for cell in row[1:-1].split(" | ")) for row in rows]


(GUNICORN_CONF,) = blocks("python")
(LOGGING_JSON,) = blocks("json")
