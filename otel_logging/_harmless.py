"""What is no secret though it stands where one would: placeholders, states, counts, source code.

In: a value, and what it was found under. Out: whether it stays. Invariant: linear time.
Deliberately absent: where it was found (``_secret_values``).
"""

import re
from collections.abc import Callable
from typing import Any, Final

from otel_logging._secret_names import words_in
from otel_logging._text import later

QUOTE: Final = (
    r"""\\{0,15}["'`“”]|\\u002[27]|(?:%(?:25){0,3}5C){0,7}%(?:25){0,3}2[27]|&quot;|&#3[49];"""
)
SCHEMES: Final = r"(?:bearer|basic|token|bot|apikey|api-key|negotiate|ntlm)(?: {1,4}|%20|\+)"
#: What is said of a value that does not do.
_SENTENCE: Final = (
    r"(?i:(?:this|your|the) \w+|ensure|string|value|field|is|must|can't|cannot|should|has)"
    r"(?i: (?:[a-z',().-]+|[0-9]{1,3})){2,24}"
)
#: What is no secret: what has been taken out, placeholders.
_BLANK: Final = later(
    rf"(?:{SCHEMES})?\[redacted:[a-z-]{{1,24}}\]|\$(?:\{{[\w.]+\}}|[A-Z_]+|[0-9]{{1,2}}|\([^()]*\))"
    r"|:[a-z_]+|\((?:sensitive|known|hidden|not) [a-z ]+\)"
    r"|\{(?-i:[a-z_.]*|[A-Z_]*)\}|\{\{[^{}]*\}\}|[\[(<](?:filtered|redacted|hidden|masked|removed|secret)[\])>]|x{3,}"
    r"|%(?:\(\w+\))?[sdr]|<(?:[a-z_.:-]*|[\w.:-]+ [\w.: -]*)>"
    r"|[\W_]*|none|null|nil|true|false|undefined"
    r"|basic|bearer|digest|oauth2?|anonymous"
    rf"|{_SENTENCE}",
    re.IGNORECASE,
)
#: What is none behind a colon: the state of one, its type, the beginning of a sentence.
_STATES: Final = words_in(
    "a absent active an and any are bool by bytes can cannot could current default empty error "
    "failure for forbidden found from given has have hidden if in inactive incorrect int invalid "
    "is it its may mismatch missing must new no not of ok old on optional or our please present "
    "ready reset see sent set should str string success that the this to too unknown unset valid "
    "was we when will with wrong yes your secretstr secretbytes text varchar char boolean uuid "
    "json open include omit same-origin google github ldap kerberos saml oidc"
)
#: In the source of a program: a call, or an item, without a literal that is a secret.
_CHAIN: Final = r"[A-Za-z_]{1,64}(?:\.[A-Za-z_]{1,64}){0,8}"
_ARGUMENTS: Final = r"(?:[A-Za-z_.,=* ]|(?<!\w)[0-9]{1,4}(?!\w)){0,128}+"
_CODE: Final = later(
    rf"(?:(?:await|new) )?{_CHAIN}(?:\({_ARGUMENTS}(?:\({_ARGUMENTS}\){_ARGUMENTS})?\)"
    r"|\[\w{0,9}\]|\[[\"'][\w.-]{1,64}[\"']\]|(?<=get)\w{0,24}\([\"']|(?<=getenv)\([\"'])"
    rf"(?=[\s.,;:)\]}}\"'\[]|$)|{_CHAIN}\.get\w{{0,24}}\([\"']"
)
_OWN: Final = later(r"(?:self|settings|config|os|args|request)(?:\.[A-Za-z_]{1,64}){1,8}")
_REFERENCE: Final = later(_CHAIN)
#: Of JSON's schemas, without a value; and a list of what is said.
_ABOUT: Final = later(
    r"\{(?=[^{}]*type[\"'\\]{1,9}: ?[\"'\\]{1,9}"
    r"(?:string|object|integer|number|boolean|array|null)\b)"
    r"(?!.*(?:default|examples?|const|enum|value)[\"'\\]).*"
    rf"|\[(?:(?:{QUOTE}){_SENTENCE}(?:{QUOTE})(?:, ?)?){{1,9}}\]",
    re.DOTALL,
)
_LONGEST: Final = 8192  # of a schema that is looked at
_PATH: Final = later(r"~?(?:/[a-z0-9_.-]{1,64}){2,16}")
_TYPES: Final = ("string", "object", "integer", "number", "boolean", "array", "null")


def is_blank(value: str, kind: str = "password") -> bool:
    """Say whether *value* is no secret: one that was taken out, a placeholder, a state."""
    if _BLANK.fullmatch(value) is not None:
        return True
    is_word = kind != "password" and len(value) > 3 and value.islower()
    is_state_or_path = value in _STATES or (value.isalpha() and value.endswith("ed"))
    return is_word and (is_state_or_path or _PATH.fullmatch(value) is not None)


def is_about(value: Any) -> bool:
    """Say whether *value* tells what a secret has to be, as JSON schemas do, or what is wrong."""
    if type(value) is str:
        is_whole = value[-1:] in ("}", "]") and len(value) < _LONGEST
        return is_whole and _ABOUT.fullmatch(value) is not None
    if type(value) is dict:
        has_any = any(key in value for key in ("default", "example", "const", "enum", "value"))
        return value.get("type") in _TYPES and not has_any
    is_list = type(value) is list
    return is_list and all(type(each) is str and " " in each and is_blank(each) for each in value)


def is_count(name: str, value: Any) -> bool:
    """Say whether *value* is how many there are (`tokens=512`), or too small a number."""
    is_number = type(value) in (int, float) or (type(value) is str and value.isdecimal())
    end = name[-5:].lower()
    is_plural = end[-1:] == "s" and (end[-2:] != "ss" or end == "pass")
    return is_number and (is_plural or len(str(value)) < 3)


def is_source(
    name: str, text: str, begin: int, end: int, kind_of: Callable[[str], str | None]
) -> bool:
    """Say whether a program's source goes on there: `token=token`, `password=self.get(x)`."""
    value = text[begin:end].rstrip("):;,]")
    last = re.split("[.-]", name)[-1].lstrip("_")
    if value in (last, last.upper()) or is_blank(value) or _OWN.fullmatch(value):
        return True
    if _CODE.match(text, begin):
        return True
    if not _REFERENCE.fullmatch(value):
        return False
    return ("." in value and any(map(kind_of, value.split(".")))) or (
        value.endswith(f"_{last}") and len(value) < len(last) + 12
    )


def is_state(name: str, value: str) -> bool:
    """Say whether *value* is no value of *name*, but its state, or its type."""
    word = re.split(r"[\[(]", value.rstrip(".!?"))[0].lower()
    ends = ("ed", "ing") if value[:1].isupper() else "ed"  # Creating...
    return value == name.title() or word in _STATES or (word.isalpha() and word.endswith(ends))
