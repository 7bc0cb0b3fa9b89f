"""Values that a place gives a name: members of an object, statements with values, tables, CSV.

In: a text, or a plain mapping. Out: the same with a marker for each value in the place of a
secret's name. Invariant: linear time, as in ``_secret_texts``. Deliberately absent: which names
those are (``_secret_names``), and names right before their values (``_secret_values``).
"""

import re
from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from typing import Any, Final

from otel_logging._secret_lookalikes import is_blank, is_credential, is_none, is_state
from otel_logging._secret_names import KindOf, words_in
from otel_logging._secret_texts import marker
from otel_logging._text import has_one, later

NEWLINE: Final = r"(?:\r?\n|(?:\\{1,4}r)?\\{1,4}n)"
#: Takes secrets out of a field's value, by the field's name.
_Field = Callable[[str, Any], Any]
_LONGEST: Final = 2048  # characters that are examined before a row

#: A statement's rows, or what a driver is given beside it: `[SQL: … SET password=?] [parameters:
#: ('x',)]`; the columns before them, or the names before places; a bracket, a comma, a literal.
_ROWS: Final = later(
    r"(?i:\)\s*values\s*|\b(?:param(?:eter)?s|args|bind(?:ing)?s)[\"']?[:=] ?(?=[(\[])"
    r"|\[(?:generated|cached) [\w. ]{1,40}\] |\bparameters: (?=\$1 = ))"
    r"((?:,? ?\$[0-9]{1,3} = (?:NULL|'(?:[^']|''){0,1024}'))+"
    r"|(?:,?\s{0,40}[(\[]{1,2}(?:[^()\[\]'\"]|'[^']{0,1024}'|\"[^\"]{0,1024}\"){0,2048}+[)\]])+)"
)
_COLUMNS: Final = later(r"(?i:\binsert\s+into\s+[^\s()]{1,128}\s*\(([^()]{1,2048})\)\s*values\s)")
_COMPARED: Final = later(
    r"([\w.]{1,64})[\"`\]]? ?(?:=|<>|~~?|(?i:like)) ?(?:\w{1,32}\()?(?:\?|%s|\$[0-9])"
)
_IN_ROW: Final = later(r"[(\[,]|(\\{0,7}['\"])((?:[^'\"\\]|''|\\(?!['\"]))*)\1")


def _columns(statement: str) -> list[str]:
    """Return the columns of a *statement* whose values stand beside it, in the values' order."""
    inserted = _COLUMNS.findall(statement + " ")
    columns = inserted[-1].split(",") if inserted else _COMPARED.findall(statement)
    return [column.strip('\\ "`[]\n') for column in columns]


def without_rows(text: str, kind_of: KindOf) -> str:
    """Return *text* without a statement's values for columns with a secret's name."""
    if not has_one(("alues", "ALUES", "aram", "PARAM", "args", "bind"), text):
        return text

    def masked(found: re.Match[str]) -> str:
        start = found.start(1)
        kinds = list(map(kind_of, _columns(text[max(start - _LONGEST, 0) : start])))
        place = 0

        def item(one: re.Match[str]) -> str:
            nonlocal place
            place = 0 if one[0] in "([" else place + 1 if one[0] == "," else place
            kind = kinds[place] if place < len(kinds) else None
            is_secret = kind is not None and one[2] and not is_blank(one[2])
            return one[1] + marker(str(kind)) + one[1] if is_secret else one[0]

        return text[found.start() : start] + _IN_ROW.sub(item, found[1])

    return _ROWS.sub(masked, text)


_LINE: Final = later(f"({NEWLINE})")
#: The rule below a table's head, and what the head has: a name of one word or some.
_RULE: Final = later(r"[-+|: =─┼│]*")
_HEAD: Final = later(
    r"(?:.{0,128}[\[({:=>])?[\s\\\"']{0,16}"
    r"[^\W\d][\w.-]{0,63}(?: [\w.-]{1,64}){0,3}[\s\\\"'\])}]{0,64}"
)
_AROUND: Final = " \"'\\[](){}"
#: A cell, perhaps quoted, and what is between it and the next.
_CELLS: Final = {
    **{sign: later(rf"((?:\"[^\"]*\"|[^\"{sign}]|\")*+)([{sign}]|$)") for sign in ",;\t|"},
    "  ": later("((?:[^ ]| (?! ))*+)( {2,}|$)"),
    "\\t": later(r"((?:[^\\]|\\(?!t))*+)(\\{1,4}t|$)"),
}


def without_columns(text: str, kind_of: KindOf) -> str:
    """Return *text* without a table's cells below a head with a secret's name."""
    if "\n" in text or "\\n" in text:
        for sign in _CELLS:
            if sign in text:
                text = _without_columns(text, sign, kind_of)
    return text


def _without_columns(text: str, sign: str, kind_of: KindOf) -> str:
    lines, names = _LINE.split(text), [""]
    for number in range(0, len(lines), 2):
        cells = _CELLS[sign].findall(lines[number])
        if len(cells) > 1 and not cells[-2][1]:
            del cells[-1]
        if len(names) > 1 and len(cells) == len(names):
            parts = map(partial(_cell, kind_of, sign), names, cells)
            lines[number] = "".join(parts)
        elif not _RULE.fullmatch(lines[number]):
            heads = [re.split(r"[\[({:=>]", cell)[-1].strip(_AROUND) for cell, _ in cells]
            is_head = all(
                _HEAD.fullmatch(cell) or (sign == "|" and not head)
                for (cell, _), head in zip(cells, heads, strict=True)
            )
            names = heads if is_head and any(map(kind_of, heads)) else [""]
    return "".join(lines)


def _cell(kind_of: KindOf, between: str, name: str, cell: tuple[str, str]) -> str:
    text, sign = cell
    kind, value = kind_of(name), text.strip(_AROUND)
    if kind is None or is_none(name, kind, value) or is_state(name, value):
        return text + sign
    is_close = kind == "password" and (text[:1] != " " or between != ",")  # no sentence has it
    is_one = is_close or (any(map(str.isdigit, value)) and len(value) > 5 and " " not in value)
    return text.replace(value, marker(kind)) + sign if is_one else text + sign


# ---------------------------------------------------------------- plain data

#: Ends of the keys of a name and of its value: `Key`, `Value`.
_NAMES: Final = tuple(words_in("name key header field param parameter property attribute"))
_VALUES: Final = tuple(
    words_in("value val values content data default from to old new before after")
)


def without_members(found: dict[str, Any], kind_of: KindOf, field: _Field) -> None:
    """Take out of *found*, by *field*, members' values whose place has a secret's name."""
    seen = set()
    for name, said in list(found.items()):  # a name, its value: headers of archives
        last = name.lower()
        if type(said) is str and len(said) < 65 and (said := said.rpartition("/")[2]):
            is_name = last.endswith(_NAMES) or last in ("id", "k")
            ends = _VALUES if is_name else ("value", "val", "arg")
            kind = None if last.endswith(_VALUES) or last == "v" else kind_of(said)
            is_first = kind is not None and (kind, is_name) not in seen
            seen.add((kind, is_name))
            values = (n for n in found if n.lower().endswith(ends) or n == "v")
            for each in [*values] if is_first else ():
                # a label's may be a word of another kind
                if is_name or kind == "password" or any(map(str.isdigit, str(found[each]))):
                    found[each] = field(said, found[each])
    place = found.get("loc")  # pydantic's errors have one
    if place and type(place) in (list, tuple) and type(found.get("input")) is str:
        found["input"] = field(str(place[-1]), found["input"])
    if rows := [name for name, value in found.items() if type(value) in (list, tuple)]:
        names = _names_in(found, kind_of)
        for name in rows if names else ():
            found[name] = _row(names, found[name], field)


def is_pair(items: Sequence[Any]) -> bool:
    """Say whether *items* may be a name and its value: no choice and its label, nor one twice."""
    return len(items) == 2 and type(items[0]) is str and items[1] != items[0].title()


def arguments(items: Sequence[Any], without: Callable[[str], str]) -> list[Any]:
    """Return the *items* of a command *without* secrets; none of another list."""
    texts = [item if type(item) is str else "" for item in items]
    if not any(text[:1] == "-" != text[2:3] for text in texts):
        return []
    whole = "', '".join(["", *texts, ""])
    found = without(whole)
    parts = found.split("', '")[1:-1]
    if len(parts) != len(texts):  # an item has such signs itself, or a secret is in two items
        return [] if found == whole else [found]
    pairs = zip(items, parts, strict=True)
    return [part if type(item) is str else item for item, part in pairs]


def without_pairs(items: list[Any], kind_of: KindOf) -> list[Any]:
    """Return *items* without those behind a secret's name: `["Host", "a", "Cookie", "x1"]`."""
    for at, (name, item) in enumerate(pairwise(items), 1):
        if type(name) is type(item) is str and any(map(str.isdigit, item)) and len(name) < 65:
            kind = kind_of(name)
            if kind is not None and is_credential(kind, None, item):
                items[at] = marker(kind)
    return items


def _names_in(found: dict[str, Any], kind_of: KindOf) -> list[str]:
    """Return the names of columns that one of the members has, with a secret's among them."""
    for value in found.values():
        names = value
        if type(value) is str:
            names = _columns(value) if has_one(("?", "%s", "$"), value) else []
        are_names = type(names) in (list, tuple) and all(type(n) is str for n in names)
        if are_names and any(len(name) < 65 and kind_of(name) for name in names):
            return list(names)
    return []


def _row(names: list[str], row: Any, field: _Field) -> Any:
    """Return *row*, or the rows in it, without the values of columns with secrets' *names*."""
    if any(type(each) in (list, tuple) for each in row):
        return type(row)(_row(names, r, field) if type(r) in (list, tuple) else r for r in row)
    if len(row) != len(names) or list(row) == names:
        return row
    pairs = zip(names, row, strict=True)
    return type(row)(v if type(v) is str and is_state(n, v) else field(n, v) for n, v in pairs)
