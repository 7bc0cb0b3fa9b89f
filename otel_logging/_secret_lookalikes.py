"""Values in the place of a secret that are not secret: placeholders, states, counts, source code.

In: a value, and the name under which it was found. Out: whether it stays. Invariant: linear time.
Deliberately absent: where it was found (``_secret_values``).
"""

import re
from typing import Any, Final

from otel_logging._secret_names import KindOf, is_else, words_in
from otel_logging._text import later

QUOTE: Final = r"""\\{0,15}["'`“”]|&quot;|&#3[49];"""
SCHEMES: Final = r"(?:bearer|basic|token|bot|apikey|api-key|negotiate|ntlm)(?: {1,4}|\+)"
#: What validators say of a wrong value.
_SENTENCE: Final = (
    r"(?i:(?:this|your|the) \w+|ensure|string|value|field|is|must|can't|cannot|should|has|invalid"
    r"|incorrect|expired|missing|enter|please|may|not)(?i: (?:[a-z',().-]+|[0-9]{1,3})){1,24}"
)
#: What other tools have put in a secret's place, or will replace by one.
_PLACEHOLDER: Final = (
    rf"(?i:(?:{SCHEMES})?[\W_]{{0,3}}"
    r"(?:redacted|filtered|masked|scrubbed|saniti[sz]ed|obfuscated|censored)"
    r"(?:[ _:-][a-z_' :-]{1,40})?[\W_]{0,3}|"
    r"[\[(<*]{1,3}(?:hidden|removed|omitted|secret|secure|sensitive|private)[\])>*]{1,3}"
    rf"|{SCHEMES}(?:\$?\{{\w+\}}|%s|)|\$(?:\{{[\w.]+\}}|[A-Z_]+|[0-9]{{1,2}}|\([^()]*\))"
    r"|:[a-z_]+|\((?:sensitive|known|hidden|not)(?: [a-z ]+)?\)|%[A-Z_]+%"
    r"|\{(?-i:[a-z_.]*|[A-Z_]*)\}|\$?\{\{[^{}]*\}\}|x{3,}|[\W_]*"
    r"|%(?:\(\w+\))?[sdr]|<(?:[a-z_.:-]*|[\w.:-]+ [\w.: -]*)>)"
)
_IS_PLACEHOLDER: Final = later(_PLACEHOLDER)
#: Values that are no secrets: placeholders, states, versions, times, sentences.
_BLANK: Final = later(
    rf"{_PLACEHOLDER}|v[0-9]{{1,3}}|none|null|nil|true|false|undefined|yes|no|on|off|ok"
    r"|[~^<>=v!]{0,3}[0-9]{1,5}(?:\.[0-9]{1,5}){1,3}(?:-?[a-z]{1,5}\.?[0-9]{0,3})?"
    rf"|[0-9]{{1,4}}/[0-9]{{1,4}}|[0-9]{{1,5}}(?:\.[0-9]{{1,3}})?[mnuµ]?s|basic|bearer|digest|oauth2?|anonymous|{_SENTENCE}"
    # a path, a file
    r"|(?-i:~?(?:(?:/(?:[A-Z]?[a-z_.-]{1,64}+[0-9]{0,4}[a-z_.-]{0,64}|[0-9]{1,4})){2,16}|/[a-z]{1,16})/?"
    r"|(?:[a-z0-9_-]{1,64}/){1,8}[a-z0-9_-]{1,64}\.[a-z]{2,4}"
    r"|[a-z0-9_-]{1,64}\.(?:pem|crt|cer|key|p12|pfx|jks|pub|json|ya?ml|txt|env|sql))",
    re.IGNORECASE,
)
#: Between the items of a list in a text, and around them; what a cookie has beside its value.
_BETWEEN: Final = later(rf"(?:{QUOTE}), ?b?(?:{QUOTE})|^(?:{QUOTE})|(?:{QUOTE})$")
_OF_COOKIE: Final = later(
    r"\s*(?:path|domain|expires|max-age|samesite)=.*|\s*(?:secure|httponly)", re.I
)
#: A chip's pin: `GPIO4`.
_PIN: Final = later("[A-Z]{1,4}_?[0-9]{1,2}")
#: Kinds of which any word may be a secret, except in prose.
ANY_WORD: Final = ("password", "secret")
#: Words behind a colon that are no secrets: a state, a type, the beginning of a sentence.
_STATES: Final = words_in(
    "a absent active an and any are bool boolean by bytes can cannot char could creation current "
    "default destruction empty error failure for forbidden found from github given google has "
    "have hidden if in inactive include incorrect inherit int invalid is it its json kerberos "
    "latest ldap line max maximum may min minimum mismatch missing modifications must new no not "
    "of oidc ok old omit on opaque open option optional or our password please present promise "
    "read ready reset same-origin saml secretbytes secretstr see sent set should size still str "
    "string success text that the this to too unknown unset uuid valid varchar vec via was we "
    "when will with write wrong yes your"
)
#: In the source of a program: a call, or an item, without a literal that is a secret.
_CHAIN: Final = r"[A-Za-z_]{1,64}(?:(?:\??\.|->|::)[A-Za-z_]{1,64}){0,8}"
_ARGUMENTS: Final = (
    r"(?:[A-Za-z_.,=*:$ ]|(?<!\w)[0-9]{1,4}(?!\w)|(?<=[a-z]=)[\"'][A-Z]{2}[0-9]{3}[\"']){0,128}+"
)
_CODE: Final = later(
    rf"(?:(?:await|new) )?\$?{_CHAIN}(?:\({_ARGUMENTS}(?:\({_ARGUMENTS}\){_ARGUMENTS})?\)"
    r"|\[(?:\w{0,9}|[A-Za-z_., |]{1,64}|[\"':][\w.-]{1,64}[\"']?)\]"
    r"|(?<=get)\w{0,24}\([\"']|(?<=getenv)\([\"'])(?=[\s.,;:)\]}\"'\[]|$)"
    rf"|{_CHAIN}\??\.(?:get|pop|split|partition|encode|decode)\w{{0,24}}\([\"']"
    rf"|\({_CHAIN}, {_CHAIN}\)|(?:input|prompt|env)\([\"']|[a-z_]{{1,64}}[0-9]{{1,3}}\(\)"
    rf"|(?=[A-Za-z]{{1,32}}[._]){_CHAIN}\((?=\s*$)"
    r"|(?:self|this|settings|config|os|args|req|request|ctx|process|data|module)"
    r"(?:\.[A-Za-z_]{1,64}){1,8}(?=[):;,\]]*(?:[\s&]|$))"
)
_REFERENCE: Final = later(_CHAIN)
#: Words and small numbers, or a day.
_WORDED: Final = later(
    r"(?=.*[^\W\d_]|20[0-9]{2}-[01][0-9]-[0-3][0-9])[\s_,.:'\u2019/&+-]*"
    r"(?:(?:[0-9]{1,4}|[^\W\d_][^\W\d_A-Z]{0,18}|[A-Z]{1,19})(?:[\s_,.:'\u2019/&+-]+|$))+",
    re.DOTALL,
)
#: Of JSON's schemas, without a value.
_ABOUT: Final = later(
    r"\{(?=[^{}]*type[\"'\\]{0,9}: ?[\"'\\]{0,9}"
    r"(?i:string|object|integer|number|boolean|array|null)\b)"
    r"(?!.*(?:default|examples?|const|enum|value)[\"'\\:]).*",
    re.DOTALL,
)


def is_placeholder(value: str) -> bool:
    """Say whether *value* stands for a secret: one was taken out, or will be filled in."""
    return _IS_PLACEHOLDER.fullmatch(value) is not None


def is_blank(value: str, kind: str = "password") -> bool:
    """Say whether *value* is no secret: one that was taken out, a placeholder, a state."""
    if _BLANK.fullmatch(value):
        return True
    if value[:1] in ("[", "(", "b") and value[-1:] in "])\"'":  # a list, or bytes, in a text
        return all(map(_BLANK.fullmatch, _BETWEEN.split(value[1:-1])))
    if kind == "cookie" and "=" in value:
        given = [
            each.partition("=")[2] for each in value.split(";") if not _OF_COOKIE.fullmatch(each)
        ]
        return all(is_placeholder(each or "a") for each in given)
    if kind == "otp" and _PIN.fullmatch(value):
        return True
    if not value.isalpha() or kind in ANY_WORD:
        # a port, a status
        return value.isdecimal() and len(value) < {"authorization": 6, "token": 4}.get(kind, 0)
    is_state = len(value) > 2 and (value in _STATES or (value.islower() and value.endswith("ed")))
    return is_state or (kind in ("otp", "signature", "card") and len(value) < 12)


def is_of_else(name: str, kind: str, value: Any) -> bool:
    """Say whether *value* is only words, or a day, which no secret of that *kind* is: a session's
    id, or a cookie's value. The *name* has to be another thing's: `secret_ingredient`.
    """
    may_be = type(value) is str and kind in ("session", "cookie", "secret")
    return may_be and _WORDED.fullmatch(value) is not None and is_else(name)


def is_about(value: Any) -> bool:
    """Say whether *value* describes what a secret must be, as JSON schemas do, or what is wrong."""
    text = value if type(value) is str else repr(value)
    is_whole = text[-1:] in ("}", "]") and len(text) < 8192
    return is_whole and _ABOUT.fullmatch(text) is not None


#: Small numbers and states, in a list or by name; a language model's words, and how many.
_LIST: Final = (
    r"[\[({](?:(?:['\"]?[A-Za-z_]{1,32}+['\"]?[:=] ?)?"
    r"(?:(?i:true|false|none|null)|ITEM)(?:, ?|(?=[\])}])))*[\])}]"
)
_SMALL: Final = later(_LIST.replace("ITEM", "[0-9]{1,3}"))
_WORD: Final = r"['\"]?(?:[A-Za-z]{1,16}+|[0-9.]{1,9}+|\[redacted:[^]]{1,32}\])['\"]?"
_WORDS: Final = later(_LIST.replace("ITEM", _WORD))


#: Behind what is counted: `tokens_of_prompt`.
_WHOSE: Final = later("[_.-](?:for|of)[_.-]|(?<=[a-z])(?:For|Of)(?=[A-Z])")


def is_count(name: str, value: Any) -> bool:
    """Say whether *value* is a count (`tokens=512`), or a number too small for a secret."""
    end = _WHOSE.split(name)[0][-5:].lower()
    is_plural = end[-1:] == "s" and (end[-2:] != "ss" or (end == "pass" and len(str(value)) < 6))
    if str(value)[:1] in ("[", "{", "("):
        counted = _WORDS if end in ("okens", "sions") else _SMALL
        is_named = end == "okens" or str(value)[0] == "{"
        return is_named and counted.fullmatch(str(value)) is not None
    if type(value) is float and not value.is_integer():
        return True  # no secret has a fraction
    is_number = type(value) in (int, float) or re.sub("(?<=[0-9])[,_]", "", str(value)).isdecimal()
    return is_number and (is_plural or len(str(value)) < 3)


def is_source(name: str, text: str, at: slice, kind_of: KindOf) -> bool:
    """Say whether source code stands at *at* of *text*: `token=token`, `password=self.get(x)`."""
    value = text[at].rstrip("):;,]")
    last = re.split("[.-]", name)[-1].lstrip("_").lower()
    if (
        value.rstrip("0123456789") in (last, last.upper())
        or is_blank(value)
        or _CODE.match(text, at.start)
    ):
        return True
    if not _REFERENCE.fullmatch(value):
        return False
    return ("." in value and any(map(kind_of, value.split(".")))) or (
        value.endswith(f"_{last}") and len(value) < len(last) + 12
    )


def is_none(name: str, kind: str, value: Any, before: str = "") -> bool:
    """Say whether the *value* of a *name* is no secret of *kind*; *before*: the sign before."""
    is_text = type(value) is str and (before != ";" or value[:1] != "{")  # of ODBC
    is_else = (is_text and is_blank(value, kind)) or is_count(name, value) or is_about(value)
    return is_else or is_of_else(name, kind, value)


#: A word with digits in it: `OAuth2Session`. Below, a credential in hexadecimal digits.
_TERM: Final = later(
    r"\w{0,9}(?i:auth|http|sha|base|utf|ipv|md|pbkdf|argon|crypt|aes|user|id)[0-9]"
)
_HEX: Final = later(r"(?=.*[a-f])[0-9a-f]{16}|[0-9a-f]{20,64}|[0-9a-f]{128}|[0-9A-F]{32,128}")


def is_credential(kind: str, quoted: str | None, bare: str, *, is_stated: bool = False) -> bool:
    """Say whether a word behind a secret's name in a sentence is a secret, and not a part of the
    sentence. *is_stated*: the sentence says that it is the value (`is 1234`).
    """
    value = quoted or bare
    if _TERM.match(value):
        return False
    if value.isdecimal() and (kind == "otp" or (kind == "password" and is_stated)):
        return len(value) < 9
    if (quoted and kind == "password") or (kind != "session" and _HEX.fullmatch(value)):
        return True
    digit, *letters = (
        any(map(is_one, value)) for is_one in (str.isdigit, str.islower, str.isupper)
    )
    if kind in ("password", "otp") or (quoted and value.isalnum() and len(value) > 15):
        return digit and any(letters) and len(value) > 5
    return digit and all(letters) and len(value) > 7


def is_state(name: str, value: str) -> bool:
    """Say whether *value* is not the secret *name* itself, but its state or type."""
    word = re.split(r"[\[(<) ]", value.lstrip("&*").rstrip(".!?"))[0].lower()
    ends = ("ed", "ing") if value[:1].isupper() else "ed"  # Creating...
    is_test = name == "PASS" and word.startswith("test")
    is_said = is_test or word in _STATES or (word.isalpha() and word.endswith(ends))
    return is_said or value == re.split("[._-]", name)[-1].title()
