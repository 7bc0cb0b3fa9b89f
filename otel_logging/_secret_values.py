"""Names with their values inside a text: pairs, headers, JSON, queries, options of commands.

In: a text, and what says of a name which kind of secret it holds. Out: the text with a marker for
each value of such a name. Invariant: linear time, as in ``_secret_texts``. Deliberately absent:
which names those are (``_secret_names``).
"""

import re
from typing import Final

from otel_logging import _secret_names, _secret_tables
from otel_logging._secret_lookalikes import (
    ANY_WORD,
    QUOTE,
    is_blank,
    is_credential,
    is_none,
    is_source,
    is_state,
)
from otel_logging._secret_names import KindOf, words_in, words_of
from otel_logging._secret_tables import NEWLINE
from otel_logging._secret_texts import marker
from otel_logging._text import ESCAPED, has_one, later

_NAME: Final = (
    rf"(?:(?<![\w.\\])\.?|{ESCAPED})"
    r"(?P<name>[0-9]{0,2}[^\W\d][\w.\u0900-\u0eff-]{0,127}+"
    r"(?:(?:\[|%(?:25)*5[Bb])[\w.-]{0,64}(?:\]|%(?:25)*5[Dd])){0,3})"
)
_OPTION: Final = _NAME[_NAME.index("(?P") :]
#: A name, perhaps quoted, and the sign before its value.
_NAMED: Final = later(
    rf"{_NAME}(?:(?:{QUOTE})\]?|\](?= =>| ?= ?N?\\{{0,7}}')|\)(?==\()|\*{{1,2}})?"
    r"(?: (?:is|was|given|provided|used|received|created|generated|issued|entered)(?=:)"
    r"|(?<=[Kk]ey) [0-9]{1,2}(?=:))?[^\S\r\n]{0,40}"
    r"(?P<sign>=>|(?:->|→)(?= ?(?:[\"']|[^\s0-9]{0,64}[0-9]))|<-|[:?+]{1,2}=|!?==?=?|[\uff1a\uff1d]"
    r"|: ?(?:\w{5,8}\[)?(?:str|bytes|string)\]?(?: ?\| ?None)? ?=(?!=)"
    r"|:(?!//|:\S))(?:(?<=:)(?::(?=[ \t])|\*\* ))?"
    r"[ \t]{0,8}(?:(?<=[> ])(?:\s|\\{1,4}n){0,9}string\([0-9]{1,4}\) (?=\")"
    r"|(?<=: )(?:!{1,2}|&)[\w-]{1,64} +(?=\S))?"
)
#: A name with a colon that is one of a place, a host, an image, or the end of an address:
#: `arn:aws:…:secret:db`, `//auth:80`, `shop/auth:v1`, `session.mjs:3:1`, `"https://x/token": no`;
#: or of a key of Redis: `session:42:count`, `token:bucket:42`.
_ELSE: Final = later(
    r"..??(?:(?<=:)|(?<=[^\s\"'(]/))\w[\w.-]{0,128}:(?! )|./[\w.-]{1,64}[\"']: (?=\w)"
    r"|.{0,2}[\w/-]{1,64}\.[a-z]{1,5}:[0-9]{1,5}(?![\w.-])"
    r"|.{0,2}[\w-]{1,64}(?=[a-z_:-]{0,128}:[0-9])(?::[a-z_-]{1,32}|:[0-9][0-9.]{0,14}){2,8}(?![\w@$!#%.-])",
    re.DOTALL,
)
#: Name and value as items of a pair, members of an object, an option, an element of XML.
_PAIR: Final = later(
    rf"(?:(?<=[(\[])[bu]?|(?<=s:[0-9]:)|(?<=s:[0-9]{{2}}:)|(?P<next>(?<=[\"'],)|(?<=[\"'], )))"
    rf"(?:{QUOTE}){_NAME}(?:{QUOTE})"
    rf"(?:, ?|;s:[0-9]{{1,4}}:)(?=[bu]?(?:{QUOTE}))"
)
_GAP: Final = r"(?:[\s,&]|\\{1,4}[nr]){1,40}"
_OTHER: Final = rf"(?:{QUOTE})?\w{{1,16}}(?:{QUOTE})? ?[:=] ?(?:{QUOTE})?"
_LABEL: Final = (
    rf"(?:{QUOTE})? ?[:=] ?(?:{QUOTE})?(?:/(?:[\w-]{{1,64}}/){{0,8}})?{_OPTION}(?:{QUOTE})?{_GAP}"
)
_GIVES: Final = rf"(?:{QUOTE})? ?[:=] ?(?=[bu]?(?:{QUOTE})|[\w\[/$|>])"
_MEMBERS: Final = later(
    r"\b(?i:\w{0,12}(?:name|key)|header|field|param(?:eter)?|property|attribute|label|id|k)"
    rf"{_LABEL}(?:{_OTHER}\[redacted:[a-z-]{{1,24}}\](?:{QUOTE})?{_GAP})?(?:{_OTHER}\w{{1,32}}(?:{QUOTE})?{_GAP})??"
    rf"(?:{QUOTE})?(?i:\w{{0,12}}val(?:ue)?s?|v|content|data|default|input){_GIVES}"
)
#: Or another, right before it.
_TYPE: Final = later(rf"\b\w{{1,24}}{_LABEL}(?:{QUOTE})?(?i:value){_GIVES}")
#: The value before its name.
_BEFORE: Final = later(
    rf"\b(?i:value)(?:{QUOTE})? ?[:=] ?(?:{QUOTE})?"
    rf"(?P<given>[^\s\"'`,;&{{}}<>\\]{{1,256}})(?:{QUOTE})?"
    rf"(?:[\s,]|\\{{1,4}}[nr]){{1,40}}(?:{_OTHER}\w{{1,32}}(?:{QUOTE})?{_GAP})??(?:{QUOTE})?\w{{1,24}}"
    rf"(?:{QUOTE})? ?[:=] ?(?:{QUOTE})?{_OPTION}(?:{QUOTE}|(?![^\s,;/>]))"
)
_FLAG: Final = later(
    r"(?:(?<![\w-])--?|(?:\b(?i:(?:config(?:ure)?|secrets)\s+set(?: --secret)?|git config"
    r"|setenv|setx|(?:proxy_set|add)_header)\s|(?:^|\n)ENV ) {0,8}"
    rf"(?:\S{{0,128}}[:/])?){_OPTION}(?:(?:{QUOTE})?[ \t]{{1,4}}(?=[^\s-])(?![A-Z]+(?:[\s\]]|$))"
    rf"|(?:{QUOTE}),\s{{0,40}}[bu]?(?=(?:{QUOTE})[^\s\"'-])"
    rf"|, (?=[^\s\"'-][^\s,]{{0,200}}(?:[,\])]|$)))"
)
#: A tag whose own name says the name, an attribute of it, or its text:
#: `<property name="password">x`, `<key>password</key><string>x`.
_TAG: Final = later(
    rf"(?:(?P<says><(?:key|name)>|<[\w:-]{{1,64}}\s[^<>]{{0,128}}?\b(?i:name|key|id)=(?:{QUOTE}))"
    rf"|(?:<|&lt;)(?:[\w-]{{1,32}}:)?){_NAME}(?:(?:{QUOTE}|\s)[^<>]{{0,128}}?)?(?:>|&gt;|</(?:key|name)>)"
    r"(?(says)(?:\s{0,40}<[\w:]{1,40}(?:\s[^<>]{0,128})?>){0,2})(?P<data><!\[CDATA\[)?(?=[^<\s&])"
    r"(?P<given>(?(data)(?:[^]]|\](?!\]>))*+|(?:[^<&]|&(?!lt;))*+(?=[<&])))"
)
#: In a sentence, behind a name and what is said of it: a word in quotes, or without.
_SAID: Final = later(
    rf"{_NAME}(?: (?:is generated )?(?:for|of)(?: \S{{1,64}}){{1,4}}?(?: is:?|:)"
    r"|(?: (?i:is|was|es|est|ist|been|now|like|given|provided|used|eq|(?:re)?set"
    r"|changed|to|from|got|mismatch|[\u2013\u2014-])[:,]?){1,4}:?|(?P<more> [^\W\d]{1,16} ?:)|:?) "
    r"(?=\\{0,7}[\"'`](?P<quoted>[^\s\"'`\\]{6,64})\\{0,7}[\"'`](?![\w(\[])"
    r"|(?P<open>[(\[])?(?P<bare>[\w!@#$%^*+-]{4,128})(?(open)[)\]])(?![\w!@#$%^*+(\[/-]|:\S|\.\w))"
)
#: What is given to a function with such a name: `set_password("x")`, `SecretStr("x")`.
_CALL: Final = later(
    r"(?<![A-Za-z0-9])(?:(?:set|with|use|change|update|reset|check|verify)_?(?=[A-Za-z]))?"
    rf"(?P<name>(?i:password|passphrase|secret|api_?key|token)(?:Str|Bytes)?)\((?:value=)?(?=[bu]?(?:{QUOTE}))"
)
#: What pydantic was given, in the text of its error and in one of its ``errors()``.
_GIVEN: Final = later(
    rf"(?:^|{QUOTE}|(?<=: )|{NEWLINE}){_OPTION}(?:{NEWLINE} {{1,4}}|(?:{QUOTE}),?[)\]])"
    rf"(?:(?!{NEWLINE})[^\n]){{0,400}}?\binput(?:_value=|(?:{QUOTE}): ?)(?!\{{)"
)
#: Before the other value of a change: `password: "a" -> "b"`.
_THEN: Final = later(
    rf"(?:{QUOTE})? ?(?:(?:->|=>|→|[!=]==?|≠) ?(?=\S)"
    r"|(?:to|,? ?(?:but |and )?(?:got|was|not)|vs\.?) ?(?=\\{0,7}[\"']))"
)
#: Between two values of one name: what is in front of the next value.
_AND: Final = later(r", ?(?=[\w-]{6,64}(?:[\s,)\]\"']|$))(?=[\w-]{0,63}[0-9])")
#: A part of a form; a row of a table, or of columns.
_FORM: Final = later(
    rf"form-data;(?:(?!{NEWLINE})[^\n]){{0,99}}?\bname=(?:{QUOTE}){_NAME}(?:{QUOTE})"
    rf"(?:(?!{NEWLINE})[^\n]){{0,99}}(?:{NEWLINE}[A-Z](?:(?!{NEWLINE})[^\n]){{1,99}}){{0,3}}(?:{NEWLINE}){{2}}"
    r"(?P<given>(?:(?![\"'][,}\]])[^\n\r\\]|\\(?![rn]))*+)"  # in a list, it ends with its item
)
_CELL: Final = later(
    rf"(?:^|{NEWLINE}|(?<=[\"'])|(?<=: ))[ \t|│┃]{{0,80}}{_NAME}"
    r"(?: {1,40}[|│┃] {1,40}| {0,40}(?:\t|\\t)[ \t]{0,40}| {2,60})"
    rf"(?=[^\s|│┃=:\"'-]\S{{0,200}}?(?: {{2}}|[ \t]*(?:[|│┃\"']|\\?\t|{NEWLINE}|$)))"
)
_WORD: Final = later(r"(?:[^\W\d]|[.-])+")
_OPENING: Final = later(rf"[bBurRfN]{{0,2}}(\"\"\"|'''|{QUOTE})")
#: What says that a scalar in YAML is the lines below, which are further in.
_BLOCK: Final = later(rf"(?:[|>][+-]?[0-9]?[+-]?)?[ \t]{{0,8}}{NEWLINE}")
_BELOW: Final = later(
    rf"([ \t]{{0,64}})(?:- )?((?!{NEWLINE})\S(?:(?!\\{{1,4}}n)[^\r\n\"])*)(?:{NEWLINE}|(?=\")|$)"
    rf"|[ \t]*{NEWLINE}"
)
_ENDS: Final = later(r"\s{0,8}(?:[,;}\])&]|$)|[\"']")
#: A quote inside a literal of a statement, which is doubled there.
_DOUBLED: Final = later(r"(?<=\w)''(?=\w)")
#: The rest of a line, or of it what is before its quote.
_LINES: Final = {
    quote: later(rf"[^\n\r\\{quote}]*+(?:\\(?![rn]){quote and quote + '?'}[^\n\r\\{quote}]*+)*")
    for quote in ("", "'", '"')
}
_COOKIES: Final = later(r"[^\s;&\"']+(?<![])},])(?:; ?[\w.%$-]+(?:=[^\s;\"']*)?)*")
#: A word and the next, which may be a scheme and what it takes; perhaps there is no more.
_TWO: Final = later(
    r"(?P<scheme>[A-Za-z][\w-]{1,24})(?: {1,4}|\+)(?P<given>(?:[\w.~+/$%^@*#!-]|:(?!//)){4,}+=*)"
    r"(?=[\s\\\"'`,;)}\]&]|$)"
)
_SCHEMES: Final = words_in(
    "token key secret apikey api-key api_key session cookie auth basic bearer digest hmac password"
    " credential jwt oauth bot ntlm negotiate mac signature ssws aws"
)
_PARAMETERS: Final = later(r"[\w-]{2,24} [\w-]{1,24}=")
_CLOSES: Final = r"""(?=[\s,;)}\]>"'&]|\\{1,8}["']|$|["']?[\w.-]{1,40}["']?\s?[=:])"""
_VALUE: Final = later(
    r"(?:[a-z]{3,8} ){11,23}[a-z]{3,8}\b"  # of a wallet, of which there are twelve and more
    rf"|(?:[^\s&;,\"'`()\[\]{{}}<>\\]|(?!<)[;,\"'`()\[\]{{}}>](?!{_CLOSES})|\\{{1,8}}[ ]"
    r"|\\{1,8}(?![rnt\"'\\])|&(?![\w.%\[\]-]{1,64}=|amp;|quot;|#))+"
)
#: In a connection's string, where only a semicolon ends it.
_OF_STRING: Final = later(
    r"(?:[^\s;&\"'`<>\\]| (?=[^;=:\n\"']{1,64}[;\"'])|&(?![\w.%\[\]-]{1,64}=))+"
)
_TEMPLATE: Final = later(
    r"\$\{[\w.]+\}|\{(?:[a-z_.]*|[A-Z_]*)\}(?!\w)|\$?\{\{[^{}]*\}\}|\$\([^()]*\)|%\(\w+\)s"
    r"|<(?:[\w -]{1,64}|[^\s<>]{1,64})>"
)
#: What makes one name of it and the word before.
_SECOND: Final = words_in(
    "key keys code codes id number string phrase hash value word answer pass token"
    " passe acceso segreto secrète πρόσβασης sandi khẩu المرور السر"
)
#: Kinds that are no words; a sentence behind a colon, or the next of several names.
_MIXED: Final = words_in("authorization session token credential csrf key")
_PROSE: Final = later(r"(?:[A-Z]?[a-z]{1,32},? )?[A-Z]?[a-z]{1,32}(?: (?=\w)|:(?=\s))")
_ENCLOSED: Final = {"(": ")", "[": "]", "{": "}"}
_LONGEST: Final = 8192  # of a value in brackets, or in quotes that it has in it
_ENTITY: Final = later("&#?[a-z0-9]{1,6};$")  # of HTML: its `;` separates nothing
_FURTHEST: Final = 65_536  # where a quote's end is looked for
#: How often a text is looked at and not taken: a longer value is a secret then, for linear time.
_PATIENCE: Final = 8
_SHORT: Final = 256


def _value(text: str, at: int, kind: str, sign: str, quote: str) -> tuple[int, int]:
    """Return where the value at *at* begins and ends; *quote*: what is before its name."""
    opening = _OPENING.match(text, at)
    if opening:
        mark, begin = opening.group(1).replace("“", "”"), opening.end()
        end = text.find(mark, begin, begin + _FURTHEST)
        while 0 <= end < begin + _LONGEST and (
            _is_escaped(text[max(end - 16, begin) : end], mark)
            or (mark == "'" and (_DOUBLED.match(text, end) or _DOUBLED.match(text, end - 1)))
            or (text[end - 1] == "\\" and not _ENDS.match(text, end + len(mark)))  # of a `repr`
        ):
            end = text.find(mark, end + len(mark), begin + _FURTHEST)
        if end >= 0 and not (kind == "cookie" and text.startswith(";", end + len(mark))):
            return begin, end
        at = begin
    if sign in (":", "=") and (block := _BLOCK.match(text, at)):
        return _block(text, at, block.end(), kind)
    if template := _TEMPLATE.match(text, at):
        return at, template.end()
    is_of_string, quote = quote == ";", quote if quote in ("'", '"') else ""
    given = 0 if opening else _begin_of_credential(text, at, kind)
    is_line = kind == "cookie" or (kind == "authorization" and _PARAMETERS.match(text, at))
    if is_line and sign == ":" and text[at : at + 1] not in _ENCLOSED:
        return at, _after(_LINES[quote], text, at)
    value = _COOKIES if kind == "cookie" else _OF_STRING if is_of_string else _VALUE
    end = _after(value, text, _end_of_enclosed(text, given or at))
    while text[end - 1 : end].isalnum() and text[end : end + 1] in _ENCLOSED:  # `SecretStr('…')`
        end = _after(_VALUE, text, _end_of_enclosed(text, end))
    return at, end


def _after(pattern: re.Pattern[str], text: str, at: int) -> int:
    """Return where what *pattern* matches at *at* ends; *at*, where it matches nothing."""
    found = pattern.match(text, at)
    return found.end() if found else at


def _begin_of_credential(text: str, at: int, kind: str) -> int:
    """Return where the credential begins whose scheme is at *at*; 0 if there is no credential.

    A header's value is a scheme with one word (RFC 9110, 11.4); a sentence is about the scheme
    (`token refresh`). Elsewhere, or behind another scheme, it has to look like a credential.
    """
    two = _TWO.match(text, at)
    if two is None or is_state("", two["scheme"]):
        return 0
    given, has_digits = two["given"], any(map(str.isdigit, two["given"]))
    is_long = len(given) > (15 if has_digits else 19)
    is_mixed = len(given) > 7 and has_digits and not given.isdecimal()
    is_known, is_header = two["scheme"].lower() in _SCHEMES, kind == "authorization"
    if is_known and is_header:
        is_about = _secret_names.kind_of(["token", *words_of(given)]) is None
        is_one = not (given.isalpha() and (is_about or given.lower() in _SCHEMES))
    else:
        is_one = (is_known or is_header) and (is_long or is_mixed) and ":" not in given
    return two.start("given") if is_one and not is_blank(given, kind) else 0


def _block(text: str, at: int, begin: int, kind: str) -> tuple[int, int]:
    """Return where the lines from *begin* on begin and end that are further in than the line of
    *at*. Without a sign before them they have to be one word each, and no name of another value;
    one that is not further in has to look like a secret of *kind*.
    """
    line = re.split(NEWLINE, text[max(at - 256, 0) : at])[-1]
    depth = len(line) - len(line.lstrip(" \t"))
    is_marked, place, first, last = text[at] in "|>", begin, at, at
    while below := _BELOW.match(text, place):
        indent, words = below.groups()
        if indent is not None:
            is_item = re.fullmatch(r"(?=\D*\d)\S*[^\s:,{\[]", words)
            is_alone = is_item and last == at and is_credential(kind, None, words)
            if len(indent) <= depth and is_alone and not is_marked:
                return below.span(2)
            if len(indent) <= depth or not (is_marked or is_item):
                break
            first, last = below.start(2) if last == at else first, below.end(2)
        place = below.end()
    return first, last


def _is_escaped(before: str, mark: str) -> bool:
    slashes = len(before) - len(before.rstrip("\\"))
    return mark[0] in "\\\"'" and bool(slashes % 2 if len(mark) == 1 else slashes)


def _end_of_enclosed(text: str, at: int) -> int:
    """Return where the brackets end that begin at *at*; *at* without brackets.

    For brackets that never end, or end too late, it is the text's end: to look again is too slow.
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

#: Each with signs of it that are quick to look for: a text with a shape has one of them.
_SHAPES: Final = (
    (_NAMED, ("",)),
    (_PAIR, (",", ";s:")),
    (_MEMBERS, ("val", "VAL", "alue", "ontent", "ata", "efault", "nput", '"v"', "'v'", "v\\")),
    (_TYPE, ("value", "Value")),
    (_BEFORE, ("value", "Value")),
    (_FLAG, ("-", "set", "SET", "ENV", "config")),
    (_SAID, ("",)),
    (_CALL, ("(",)),
    (_GIVEN, ("input",)),
    (_FORM, ("form-data",)),
    (_CELL, ("  ", "\t", "\\t", "|", "│", "┃")),
    (_TAG, ("</", "&lt;/")),
)
#: Those that match a value as well.
_GIVES_ALL: Final = (_BEFORE, _FORM, _TAG)


def without_named(text: str, kind_of: KindOf) -> str:
    """Return *text* without the values of the names that have a kind."""
    for shape, signs in _SHAPES:
        if has_one(signs, text):
            text = _replaced(text, shape, kind_of)
    return _secret_tables.without_columns(_secret_tables.without_rows(text, kind_of), kind_of)


def _replaced(text: str, shape: re.Pattern[str], kind_of: KindOf) -> str:
    parts: list[str] = []
    done, patience = 0, _PATIENCE * len(text)
    for found in shape.finditer(text):
        kind = _kind(found, kind_of) if found.start() >= done else None
        if kind is None or (shape is _SAID and not _is_said(found, kind, kind_of)):
            continue
        before, sign = _around(found)
        if shape in _GIVES_ALL:
            begin, end = found.span("given")
        else:
            begin, end = _value(text, found.end(), kind, sign, before)
        if end - begin <= max(patience, _SHORT) and (
            is_none(found["name"], kind, text[begin:end], before)
            or (shape not in _GIVES_ALL and _is_other(shape, found, slice(begin, end), kind_of))
        ):
            patience -= end - begin
            continue
        parts += text[done:begin], marker(kind)
        done, is_plural = end, found["name"][-1:] in "sS"
        while then := _THEN.match(text, end) or (is_plural and _AND.match(text, end)):
            begin, end = _value(text, then.end(), kind, "", before)
            parts += text[done:begin], marker(kind)
            done = end
    return "".join((*parts, text[done:])) if parts else text


def _around(found: re.Match[str]) -> tuple[str, str]:
    """Return what is before the name that was *found*, and the sign behind it."""
    before = _ENTITY.sub("", found.string[max(found.start() - 7, 0) : found.start()])[-1:]
    return before, (found.groupdict().get("sign") or "").replace("\uff1a", ":")


def _is_other(shape: re.Pattern[str], found: re.Match[str], at: slice, kind_of: KindOf) -> bool:
    """Say whether *at* is no value of what was *found*: another name, a sentence, source."""
    name, kind, text = found["name"], str(_kind(found, kind_of)), found.string
    value, (before, sign) = text[at], _around(found)
    if shape is _NAMED and _ELSE.match(text, max(found.start() - 2, 0)):
        return True
    if shape is _PAIR and len(value) < 65 and _WORD.fullmatch(value) and kind_of(value):
        return True  # `["secrets", "tokens"]`
    is_quoted = text[at.start - 1] in "\"'`"
    is_next = shape is _PAIR and found["next"] is not None  # another item; or what is compared
    is_one_of = is_next or (sign[:1] == "!" and not is_quoted)
    if is_one_of and not is_credential(kind, None, value):
        return True
    is_apart = sign == ":" and at.start > found.start("sign") + 1
    is_literal = is_quoted and kind in ANY_WORD and shape in (_NAMED, _FLAG)
    may_be_prose = (is_apart or shape in (_CELL, _FLAG, _SAID)) and not is_literal
    if may_be_prose and is_state(name, value):
        return True
    if kind in _MIXED and sign == ":" and _PROSE.match(text, at.start):
        is_header = kind == "authorization" and _PARAMETERS.match(text, at.start)
        if not (is_header or _begin_of_credential(text, at.start, kind)):
            return True
    is_bare = not is_quoted and before not in ("?", "&")
    if is_bare and is_source(name, text, at, kind_of):
        return True
    is_mixed = any(map(str.isdigit, value)) or not is_bare
    # compared to another; in a list of what runs
    return not is_mixed and (sign[-2:] == "==" or (shape is _CELL and kind != "password"))


def _is_said(found: re.Match[str], kind: str, kind_of: KindOf) -> bool:
    """Say whether the word that a sentence has behind a name is the value of that."""
    quoted, bare = found["quoted"], found["bare"]
    if found["more"] and kind_of(f"{found['name']} {found['more']}") is None:
        return False  # `password reset: x1`
    if found["name"] in ("pass", "Pass"):  # a verb as well: the word has to look like a secret
        return is_credential("", None, quoted or bare)
    is_stated = found.group().endswith(("is ", "to ", ": "))
    return is_credential(kind, quoted, bare, is_stated=is_stated)


def _kind(found: re.Match[str], kind_of: KindOf) -> str | None:
    """Return the kind of the name that was *found*; its word before may be a part of it."""
    name, at = found["name"], found.start("name")
    kind, second = kind_of(name), name.lower()
    if second in _SECOND and (kind is None or second in ("pass", "token")):  # `API key: …`
        words = found.string[max(at - 24, 0) : at].split(" ")
        before = re.split(r"\W", words[-2])[-1] if len(words) > 1 and not words[-1] else ""
        if before:
            return kind_of(" ".join(["a", *words[-3:-2][: before in ("de", "di")], before, name]))
    return kind
