"""README's code blocks, for the test that runs them and for CI, which runs the long ones.

python3 tests/readme.py sh 0        prints the first shell block
"""

import re
import sys
from pathlib import Path

README = Path(__file__).parent.parent / "README.md"


def blocks(language: str, page: Path = README) -> list[str]:
    """Return the code blocks of *language*, in order."""
    return re.findall(rf"^```{language}\n(.*?)^```$", page.read_text("utf-8"), re.M | re.S)


if __name__ == "__main__":
    print(blocks(sys.argv[1])[int(sys.argv[2])])
