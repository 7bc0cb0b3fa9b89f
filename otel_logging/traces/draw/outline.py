"""A tree of plain spans and lines, indented: for a failing test's report.

Control characters are escaped.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from otel_logging import _names
from otel_logging._text import duration, visible
from otel_logging.traces import exceptions
from otel_logging.traces.draw.terminal import new_fields

#: Keys of a line that are no fields.
_OF_LINES: Final = frozenset(
    {_names.TIMESTAMP, _names.EVENT, _names.TRACE_ID, _names.SPAN_ID, _names.TRACE_FLAGS}
)


def draw(nodes: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Yield the tree line by line; fields that a span above has shown are not repeated.

    A loop, not a recursion: a recursive function that is traced makes a deep tree.
    """
    waiting = [(node, "", dict[str, Any]()) for node in reversed(nodes)]
    while waiting:
        node, lead, above = waiting.pop()
        # a field may have any other name
        is_line = _names.TIMESTAMP in node
        values = node if is_line else node["attributes"]
        message = str(node[_names.EVENT] if is_line else node["name"])
        own = {key: value for key, value in values.items() if key not in _OF_LINES}
        shown = f"  {new_fields(own, above)}".rstrip()
        if is_line or "inside" not in node:
            level = visible(str(values.get(_names.LEVEL, "event")))
            yield f"{lead}{level} {visible(message)}{shown}"
            if raised := exceptions.raised(message, values):
                yield f"{lead}  {visible(f'{raised.what}  {raised.where}'.rstrip())}"
            continue
        yield f"{lead}{visible(message)} {duration(node['duration_s'])}{_words(node)}{shown}"
        below = {**above, **own}
        waiting += [(inner, lead + "  ", below) for inner in reversed(node["inside"])]


def _words(span: Mapping[str, Any]) -> str:
    facts = {
        " ERROR": span["status"] == "error",
        " LATE": span["attributes"].get(_names.LATE) is True,
        " CANCELLED": span["attributes"].get(_names.CANCELLED) is True,
    }
    return "".join(word for word, holds in facts.items() if holds)
