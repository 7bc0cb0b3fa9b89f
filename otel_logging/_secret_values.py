"""Names with their values inside a text: pairs, headers, JSON, queries, options of commands.

In: a text, and what says of a name which kind of secret it holds. Out: the text with a marker for
each value of such a name. Invariant: linear time, as in ``_secret_texts``. Deliberately absent:
which names those are (``_secret_names``).
"""

import re
from collections.abc import Callable
from typing import Any, Final

from otel_logging._secret_names import words_in
from otel_logging._secret_texts import marker
from otel_logging._text import later

_QUOTE: Final = (
    r"""\\{0,15}["'`“”]|\\u002[27]|(?:%(?:25){0,3}5C){0,7}%(?:25){0,3}2[27]|&quot;|&#3[49];"""
)
_NAME: Final = (
    r"(?:(?<![\w.%\\-])|(?<=--)|(?<= -D)|(?<=\\[rnt])|(?<=\\u[0-9a-fA-F]{4})"
    r"|(?<=%[0-9A-F]{2})|(?<=%25[0-9A-F]{2}))(?P<name>[^\W\d][\w.-]{0,127}+"
    r"(?:(?:\[|%(?:25){0,3}5[Bb])[\w.-]{0,64}(?:\]|%(?:25){0,3}5[Dd])){0,3})"
)
#: A name, perhaps quoted, and the sign before its value.
_NAMED: Final = later(
    rf"{_NAME}(?:{_QUOTE})?(?:[^\S\r\n]|%20){{0,4}}"
    r"(?P<sign>=>|:=|==?|:(?!//)|%(?:25){0,3}3[ADad])(?:[ \t]|%20){0,8}"
)
#: Name and value as items of a pair, members of an object, an option, an element of XML.
_PAIR: Final = later(rf"(?<=[(\[])[bu]?(?:{_QUOTE}){_NAME}(?:{_QUOTE}), ?(?=[bu]?(?:{_QUOTE}))")
_MEMBERS: Final = later(
    rf"\b(?:[Nn]ame|[Kk]ey)(?:{_QUOTE})? ?[:=] ?(?:{_QUOTE}){_NAME}(?:{_QUOTE})[ ,]{{1,3}}"
    rf"(?:{_QUOTE})?[Vv]alue(?:{_QUOTE})? ?[:=] ?(?=[bu]?(?:{_QUOTE}))"
)
_FLAG: Final = later(rf"(?<![\w-])--?{_NAME[_NAME.index('(?P') :]}[ \t]{{1,4}}(?=[^\s-])")
_TAG: Final = later(rf"<{_NAME}(?:\s[^<>]{{0,128}})?>(?:<!\[CDATA\[)?(?=[^<\s])")
#: A name and what is too mixed for a word: `wrong password 'Xy12abcd'`. `OAuth2Session` is a word.
_SAID: Final = later(
    rf"{_NAME}(?: provided| given| is| was| used)?:? (?=\\{{0,7}}[\"'`]?"
    r"(?!\w{0,9}(?i:auth|http|sha|base|utf|ipv|md)[0-9])"
    r"(?=[A-Za-z_!@#$%^*+-]{0,63}[0-9])(?=[A-Z0-9_!@#$%^*+-]{0,63}[a-z])"
    r"(?=[a-z0-9_!@#$%^*+-]{0,63}[A-Z])"
    r"[\w!@#$%^*+-]{8,64}(?![\w(\[]))"
)
_OPENING: Final = later(rf"[bBurRf]{{0,2}}(\"\"\"|'''|{_QUOTE})")
#: Of a scalar in YAML: its type; and what says that it is the lines below, which are further in.
_TYPED: Final = later(r"!{1,2}[\w-]{1,64} +(?=\S)")
_NEWLINE: Final = r"(?:\r?\n|\\{1,4}n)"
_ENTRY: Final = later(
    rf"\bname: ?(?:{_QUOTE})?{_NAME}(?:{_QUOTE})?{_NEWLINE}\s{{1,40}}value: ?(?=\S)"
)
_BLOCK: Final = later(rf"(?:[|>][+-]?[0-9]?[+-]?)?[ \t]{{0,8}}{_NEWLINE}")
_BELOW: Final = later(
    rf"([ \t]{{1,64}})(?:- )?((?!{_NEWLINE})\S(?:(?!\\{{1,4}}n)[^\r\n\"])*)(?:{_NEWLINE}|(?=\")|$)"
    rf"|[ \t]*{_NEWLINE}"
)
_ENDS: Final = later(r"\s{0,8}(?:[,;}\])&]|$)|[\"']")
_LINE: Final = later(r"[^\n\r\\]*+(?:\\(?![rn])[^\n\r\\]*+)*")
_COOKIES: Final = later(r"[^\s;&\"']+(?:; ?[\w.%$-]+(?:=[^\s;\"']*)?)*")
_SCHEMES: Final = r"(?:bearer|basic|token|bot|apikey|api-key|negotiate|ntlm)(?: {1,4}|%20|\+)"
_WITH_SCHEME: Final = later(rf"{_SCHEMES}(?=\S)", re.IGNORECASE)
#: Of a header, whatever it is called.
_ANY_SCHEME: Final = later(r"[A-Za-z][\w-]{1,24} {1,4}(?=\D{0,200}[0-9])(?=[\w.~+/=:-]{8})")
_PARAMETERS: Final = later(r"[\w-]{2,24} [\w-]{1,24}=")
_CLOSES: Final = r"""(?=[\s,;)}\]>"'&]|\\{1,8}["']|$|["']?[\w.-]{1,40}["']?\s?[=:])"""
_VALUE: Final = later(
    rf"(?:[^\s&;,\"'`()\[\]{{}}<>\\%]|(?!<)[;,\"'`()\[\]{{}}>](?!{_CLOSES})|\\{{1,8}}[ ]"
    r"|\\{1,8}(?![rnt\"'\\])|%(?!(?:25){0,3}(?:26|3B|2C|22|27))|&(?![\w.%\[\]-]{1,64}=|amp;|quot;|#))+"
)
#: What is no secret: what has been taken out, placeholders.
_BLANK: Final = later(
    rf"(?:{_SCHEMES})?\[redacted:[a-z-]{{1,24}}\]|\$(?:\{{\w+\}}|[A-Z_]+|\([^()]*\))"
    r"|\{(?-i:[a-z_.]*|[A-Z_]*)\}|\{\{[^{}]*\}\}|[\[(<](?:filtered|redacted|hidden|masked|removed|secret)[\])>]|x{3,}"
    r"|%(?:\(\w+\))?[sdr]|<[\w.: -]*>|[\W_]*|none|null|nil|true|false|undefined"
    r"|basic|bearer|digest|oauth2?|anonymous|(?:self|settings|config|os|args|request)(?:\.[a-z_]+)+",
    re.IGNORECASE,
)
#: What is none behind a colon: the state of one, its type, the beginning of a sentence.
_STATES: Final = words_in(
    "a absent active an and any are bool by bytes can cannot could current default empty error "
    "failure for forbidden found from given has have hidden if in inactive incorrect int invalid "
    "is it its may mismatch missing must new no not of ok old on optional or our please present "
    "ready reset see sent set should str string success that the this to too unknown unset valid "
    "was we when will with wrong yes your secretstr secretbytes"
)
_TAKEN: Final = later(rf"(?:{_SCHEMES})?\[redacted:[a-z-]{{1,24}}\]", re.IGNORECASE)
_TEMPLATE: Final = later(
    r"\$\{\w+\}|\{(?:[a-z_.]*|[A-Z_]*)\}|\{\{[^{}]*\}\}|\$\([^()]*\)|%\(\w+\)s|<[\w -]+>"
)
_CLOSING: Final = {"“": "”"}
#: What makes one name of it and the word before.
_SECOND: Final = words_in("key keys code codes id number string phrase hash value")
_ENCLOSED: Final = {"(": ")", "[": "]", "{": "}"}
_LONGEST: Final = 8192  # of a value, in quotes or brackets


def _value(text: str, at: int, kind: str, sign: str, quote: str) -> tuple[int, int]:
    """Return where the value at *at* begins and ends; *quote*: what is before its name."""
    opening = _OPENING.match(text, at)
    if opening:
        mark, begin = opening.group(1), opening.end()
        mark = _CLOSING.get(mark, mark)
        end = text.find(mark, begin, begin + _LONGEST)
        while end >= 0 and (
            _is_escaped(text[begin:end][-16:], mark)
            or (text[end - 1] == "\\" and not _ENDS.match(text, end + len(mark)))  # of a `repr`
        ):
            end = text.find(mark, end + len(mark), begin + _LONGEST)
        if end >= 0 and not (kind == "cookie" and text.startswith(";", end + len(mark))):
            return begin, end
        at = begin
    elif typed := _TYPED.match(text, at):
        at = typed.end()
    if sign == ":" and (block := _BLOCK.match(text, at)):
        return _block(text, at, block.end())
    if template := _TEMPLATE.match(text, at):
        return at, template.end()
    quote = quote if quote in ("'", '"') else ""
    usual = _COOKIES if kind == "cookie" and sign != ":" else _VALUE
    if taken := _TAKEN.match(text, at):
        is_closed = quote and text.startswith(quote, taken.end())
        more = None if is_closed else usual.match(text, taken.end())
        return at, more.end() if more else taken.end()
    scheme = _WITH_SCHEME.match(text, at)
    if scheme is None and kind == "authorization" and sign == ":":
        scheme = _ANY_SCHEME.match(text, at)
    is_line = kind == "cookie" or (kind == "authorization" and _PARAMETERS.match(text, at))
    if is_line and sign == ":" and text[at : at + 1] not in _ENCLOSED:
        line = _LINE.match(text, at)
        last = len(text) if line is None else line.end()
        end = text.find(quote, at, last) if quote else -1
        while end > 0 and _is_escaped(text[at:end][-16:], quote):
            end = text.find(quote, end + 1, last)
        return at, last if end < 0 else end
    start = scheme.end() if scheme else at
    end = _end_of_enclosed(text, start)
    found = (_COOKIES if kind == "cookie" else _VALUE).match(text, end)
    end = found.end() if found else end
    while text[end : end + 1] == "(":  # of a call, as `SecretStr('…')`
        end = _end_of_enclosed(text, end)
        more = _VALUE.match(text, end)
        end = more.end() if more else end
    return at, end


def _block(text: str, at: int, begin: int) -> tuple[int, int]:
    """Return where the lines from *begin* on begin and end that are further in than the line of
    *at*. Without a sign before them they have to be one word each, and no name of another value.
    """
    line = re.split(_NEWLINE, text[max(at - 256, 0) : at])[-1]
    depth = len(line) - len(line.lstrip(" \t"))
    is_marked, place, first, last = text[at] in "|>", begin, at, at
    while below := _BELOW.match(text, place):
        indent, words = below.groups()
        if indent is not None:
            if len(indent) <= depth or not (is_marked or _is_item(words)):
                break
            first, last = below.start(2) if last == at else first, below.end(2)
        place = below.end()
    return first, last


def _is_item(words: str) -> bool:
    return " " not in words and any(map(str.isdigit, words)) and words[-1] not in ":,{["


def _is_escaped(before: str, mark: str) -> bool:
    slashes = len(before) - len(before.rstrip("\\"))
    return mark[0] in "\\\"'" and bool(slashes % 2 if len(mark) == 1 else slashes)


def _end_of_enclosed(text: str, at: int) -> int:
    """Return where the brackets end that begin at *at*; *at*, where there are none.

    Of brackets that do not end, or too late, it is the text: it would take too long to look again.
    """
    begins = text[at : at + 1]
    depth, ends = 0, _ENCLOSED.get(begins, "")
    if not ends:
        return at
    for end in range(at, min(len(text), at + _LONGEST)):
        depth += (text[end] == begins) - (text[end] == ends)
        if depth == 0:
            return end + 1
    return len(text)


# ---------------------------------------------------------------- all of them


def without_named(text: str, kind_of: Callable[[str], str | None]) -> str:
    """Return *text* without the values of the names that have a kind."""
    if "=" in text or ":" in text or "%" in text:
        text = _replaced(text, _NAMED, kind_of)
    if "'," in text or '",' in text:
        text = _replaced(text, _PAIR, kind_of)
    if "alue" in text:
        text = _replaced(_replaced(text, _MEMBERS, kind_of), _ENTRY, kind_of)
    if " -" in text or "--" in text:
        text = _replaced(text, _FLAG, kind_of)
    text = _replaced(text, _SAID, kind_of)
    return _replaced(text, _TAG, kind_of) if "</" in text else text


def _replaced(text: str, named: re.Pattern[str], kind_of: Callable[[str], str | None]) -> str:
    parts: list[str] = []
    done = 0
    for found in named.finditer(text):
        name = found["name"]
        kind = kind_of(name)
        if kind is None and name.lower() in _SECOND:  # `API key: …`
            words = text[max(found.start("name") - 24, 0) : found.start("name")].split(" ")
            is_before = len(words) > 1 and not words[-1] and words[-2][-1:].isalnum()
            kind = kind_of(f"{words[-2]} {name}") if is_before else None
        if kind is None or found.start() < done:
            continue
        begin = found.end()
        if named is _TAG:
            close = "]]>" if text[begin - 1] == "[" else "<"
            end = max(text.find(close, begin, begin + _LONGEST), begin)
        else:
            sign = found["sign"] if named is _NAMED else ""
            begin, end = _value(text, begin, kind, sign, text[found.start() - 1 : found.start()])
            is_apart = sign == ":" and begin > found.start("sign") + 1
            if is_apart and _is_state(name, text[begin:end]):
                continue
        if not (is_blank(text[begin:end]) or is_count(name, text[begin:end])):
            parts += text[done:begin], marker(kind)
            done = end
    return "".join((*parts, text[done:])) if parts else text


def is_blank(value: str) -> bool:
    """Say whether *value* is no secret: one that was taken out, a placeholder."""
    return _BLANK.fullmatch(value) is not None


def is_count(name: str, value: Any) -> bool:
    """Say whether *value* is how many there are (`tokens=512`), or too small a number."""
    is_number = type(value) in (int, float) or (type(value) is str and value.isdecimal())
    end = name[-5:].lower()
    is_plural = end[-1:] == "s" and (end[-2:] != "ss" or end == "pass")
    return is_number and (is_plural or len(str(value)) < 3)


def _is_state(name: str, value: str) -> bool:
    """Say whether *value* is no value of *name*, but its state, or its type."""
    word = value.rstrip(".!?").partition("[")[0].lower()
    return value == name.title() or word in _STATES or (word.isalpha() and word.endswith("ed"))
