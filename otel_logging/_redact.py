"""Secrets, and personal data on request, taken out of text and plain data.

In: text, names of fields, plain data as ``_values.plain`` makes it. Out: the same, with
``[redacted:kind]`` in place of each secret. No part of the secret is in that marker. Invariant:
pure but for what it remembers, total, idempotent, in linear time. Deliberately absent: where
values come from, and bounds of their size (``_values``).
"""

import json
import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import suppress
from functools import lru_cache
from typing import Any, Final
from urllib.parse import quote, unquote

from otel_logging import _errors, _names, _secret_tables, _secret_texts
from otel_logging._errors import ConfigurationError
from otel_logging._personal import is_phone, without_personal
from otel_logging._secret_lookalikes import is_blank, is_credential, is_none
from otel_logging._secret_names import FOREIGN, STEMS, is_variable_of_key, kind_of, words_of
from otel_logging._secret_texts import ENCODED, LIKELY, PACKED, marker, unpacked
from otel_logging._secret_values import without_named
from otel_logging._text import any_of, has_one, later

_REMEMBERED: Final = 4096  # texts, and names, that are cached; all are dropped at once
_REMEMBERED_CHARACTERS: Final = 256
_PASSES: Final = 4  # over a text with a secret, until nothing changes
#: What our ids look like, whose digits may look like a card's; and a line's time, new each time.
_OURS: Final = {
    **dict.fromkeys(
        (_names.TRACE_ID, _names.SPAN_ID, "parent_span_id", "traceparent"), later("[0-9a-f-]*")
    ),
    _names.TIMESTAMP: later(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", re.ASCII),
}
#: OpenTelemetry's attribute, an id that is not secret.
_SESSION: Final = "session.id"
#: Private members of a JSON web key (RFC 7518).
_PRIVATE: Final = frozenset({"d", "p", "q", "dp", "dq", "qi", "k"})
_RANDOM_SALT: Final = os.urandom(16)
#: How many values had a secret, and how many were shortened (``_values``).
changed: Final = Counter({"redacted": 0, "shortened": 0})


#: Colours of a terminal; signs, slashes, and letters of keys as some write JSON.
_DRESS: Final = later(
    r"(?:\x1b|\\{1,4}(?:x1b|u001b|033|e))\[[0-9;]{0,16}[A-Za-z]"
    r"|(?<!\\)\\++(?:(?=/)|u(?P<sign>00[23][0-9A-Fa-f]"
    r"|(?!00[0189]|20|[Dd][89A-Fa-f])[0-9A-Fa-f]{4}(?=[\w\\.-]{0,128}[\"']\s{0,8}:)))"
)
_MARKED: Final = later(r"(\[redacted:[a-z-]{1,24}\])")


#: Signs of a name with its value, or of a secret that is known by its place.
_WORDS: Final = (
    *("pass", "token", "secret", "sess", "key ", " set ", " is ", "auth ", "login ", "pw "),
    *("ctl ", "net u", "lplus ", "ied by ", "code ", "pin ", "otp "),
)
_SIGNS: Final = ("=", ":", " -", "--", "%", "'", '"', "</", "lt;", "  ", "\t", "|", "\n")
_FOREIGN: Final = later(any_of(FOREIGN))
#: Cached by the tuple of stems, which each set-up has.
_pattern_of: Final = lru_cache(lambda stems: re.compile(any_of(stems)))
#: Marks a value of that type which cannot be examined.
_UNPRINTABLE: Final = "<unprintable {}>"


def _texts(name: str, given: Any, *also: type) -> tuple[str, ...]:
    """Return the strings of an argument of ``Redaction``; an item may be *also* of that type."""
    with suppress(TypeError):
        found = (None,) if isinstance(given, str) else tuple(given)
        if all(isinstance(each, (str, *also)) for each in found):
            return found
    raise ConfigurationError(f"Redaction: {name}", given, "a sequence of strings")


class Redaction:
    """What is taken out of lines, spans and log records before they leave.

    *keys*: further names whose values are secrets, in any style. *patterns*: further regular
    expressions of secrets; they run on every new text, so they have to be quick. *allow*: names
    whose values stay. *personal*: e-mail addresses, phone numbers and IP addresses too, and the
    ``who`` keys hashed with *salt*, a random one of this process where it is left out.
    Failure: raises ``ConfigurationError`` for an invalid pattern; nothing does later. Cost: a
    look-up for what was seen before, 2 µs for 40 new characters. Concurrency: any thread.
    """

    def __init__(
        self,
        keys: Iterable[str] = (),
        patterns: Iterable[str] = (),
        allow: Iterable[str] = (),
        *,
        personal: bool = False,
        salt: str = "",
        who: Iterable[str] = (),
    ) -> None:
        self.keys, self.allow = _texts("keys", keys), _texts("allow", allow)
        self.patterns = _texts("patterns", patterns, re.Pattern)
        if not isinstance(personal, bool):
            raise ConfigurationError("Redaction: personal", personal, "True or False")
        if not isinstance(salt, str):
            raise ConfigurationError("Redaction: salt", type(salt), "a string")
        who = frozenset(_texts("who", who))
        self.personal, self.who = personal, who if personal else frozenset()
        self._salt = salt.encode("utf-8", "backslashreplace") or _RANDOM_SALT
        self._given = (type(self), self.keys, self.patterns, self.allow, self.who, personal, salt)
        self._keys = {"".join(words_of(key)) for key in self.keys} - {""}
        self._allow = {" ".join(words_of(key)) for key in self.allow}
        try:
            self._patterns = [re.compile(each) for each in self.patterns]
        except re.error as error:
            allowed = f"regular expressions ({error})"
            raise ConfigurationError("Redaction: patterns", patterns, allowed) from error
        if any(each.search("") for each in self._patterns):
            allowed = "regular expressions that match no empty text"
            raise ConfigurationError("Redaction: patterns", patterns, allowed)
        is_plain = "".join(self.keys).isascii()  # others may be written without accents
        stems = (*STEMS, *{key[:3] for key in self._keys}) if is_plain else ("",)
        self._stems = _pattern_of(stems)
        #: Texts that were seen lately and have no secret, each as itself.
        self.seen: dict[str, str] = {}
        self._cleaned: dict[str, str] = {}  # texts with a secret, without it; counted
        #: Encoded messages and fields without secrets, for lines (``binding``).
        self.encoded: dict[Any, tuple[bytes, bytes]] = {}
        self._last = ("", "")
        self._kind = lru_cache(_REMEMBERED)(self._kind_of)

    def for_who(self, who: Iterable[str]) -> "Redaction":
        """Return this with *who*, the keys that say on whose behalf something runs."""
        _, *given, _, personal, salt = self._given
        return Redaction(*given, personal=True, salt=salt, who=who) if personal else self

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Redaction) and self._given == other._given

    def __hash__(self) -> int:
        return hash(self._given)

    def kind(self, name: str) -> str | None:
        """Return which kind of secret the field *name* holds; None: it holds something else."""
        return self._kind(name)

    def _kind_of(self, name: object) -> str | None:
        if not isinstance(name, str):
            return None
        words = words_of(_MARKED.sub(" ", name[:_REMEMBERED_CHARACTERS]))
        is_let = " ".join(words) in self._allow or name == _SESSION
        kind = None if is_let else kind_of(words)
        is_key = self._is_own(words) or (not is_let and is_variable_of_key(name, words))
        return kind or ("key" if is_key else None)

    def may_hide(self, names: Iterable[Any]) -> bool:
        """Say whether one of *names* is the name of a secret, or a ``who`` key."""
        return not self.who.isdisjoint(names) or any(map(self._kind, names))

    def says_who(self, event: str, *of: Mapping[str, Any]) -> bool:
        """Say whether the message *event* has a value of one of the ``who`` keys in the fields
        *of*.
        """
        found = (str(fields[name]) for fields in of for name in self.who if name in fields)
        return any(len(each) > 3 and each in event for each in found)  # as ``is_hidden``

    def _is_own(self, words: list[str]) -> bool:
        """Say whether *words* have one of the names that were given, which may be several words."""
        ends = tuple(key for key in self._keys if len(key) > 4)
        some = ("".join(words[at : at + n]) for at in range(len(words)) for n in range(1, 6))
        return bool(self._keys) and any(one in self._keys or one.endswith(ends) for one in some)

    # ---- plain data

    def field(self, name: str, value: Any) -> Any:
        """Return the plain *value* of the field *name* without its secrets.

        Never raises: a value that contains itself becomes ``<unprintable TypeName>``.
        """
        try:
            return self._field(name, value)
        except Exception:
            return _UNPRINTABLE.format(type(value).__name__)

    def value(self, value: Any) -> Any:
        """Return a plain *value* without secrets, as ``field`` does."""
        try:  # ``field`` would cost one more look-up for each key
            return self._value(value)
        except Exception:
            return _UNPRINTABLE.format(type(value).__name__)

    def _field(self, name: str, value: Any) -> Any:
        if self._kind(name) is not None:
            found = self.by_name(name, value)
            changed["redacted"] += found != value
            return found
        if self.personal and value is not None:
            if name in self.who:
                return self.pseudonym(value)
            if is_phone(name, value):
                return marker("phone")
        if type(value) is not str:
            return self._value(value)
        if name in _OURS and _OURS[name].fullmatch(value):  # any other is the application's
            return value
        known = self.seen.get(value)  # as ``text``, without the call
        return self._new(value) if known is None else known

    def by_name(self, name: str, value: Any) -> Any:
        """Return a plain *value* without what its *name* says is a secret. Does not count it."""
        kind = self._kind(name)
        if kind is None:
            return self.pseudonym(value) if value is not None and name in self.who else value
        if is_none(name, kind, value) and self._value(value) == value:
            return value  # a count, or a schema without a secret
        return self._masked(kind, value)

    def is_hidden(self, name: str, value: Any) -> bool:
        """Say whether *value* is a secret that is cut out of the message beside the field, too.

        It is longer than 3 characters: a shorter text is part of many words.
        """
        return len(str(value).strip()) > 3 and bool(self.by_name(name, value) != value)

    def _value(self, value: Any) -> Any:
        kind = type(value)
        if kind is str:
            return self.text(value)
        if kind is int and 10**11 < value < 10**19:
            text = self.text(str(value))
            return value if text.isdecimal() else text
        if kind is dict:
            return self._mapping(value)
        return self._sequence(value) if kind is list or kind is tuple else value

    def _sequence(self, value: Any) -> Any:
        arguments = _secret_tables.arguments(value, self.text)
        is_pair = _secret_tables.is_pair(value) and type(value[1]) in (str, int)
        if is_pair and not arguments and not str(value[1]).replace("_", "").isalpha():
            return self._pair(value)  # no list of names
        items = [*map(self._pair, arguments or value)]
        return type(value)(_secret_tables.without_pairs(items, self._kind))

    def _masked(self, kind: str, value: Any) -> Any:
        """Return *value*, of a field that holds secrets of *kind*, with a marker for each
        secret.
        """
        if type(value) in (list, tuple):
            return type(value)(self._masked(kind, each) for each in value)
        if type(value) is dict:
            return self._mapping(value, kind)
        is_nothing = not value or value is True or (type(value) is str and is_blank(value, kind))
        return value if is_nothing else marker(kind)

    def _mapping(self, values: dict[Any, Any], kind: str | None = None) -> dict[Any, Any]:
        found: dict[Any, Any] = {}
        for each, value in values.items():
            known = str(each)
            is_masked = kind and any(map(str.isdigit, known))
            text = name = marker(str(kind)) if is_masked else self.text(known)
            while text in found:  # two keys became the same marker
                text += "_" if text == name else str(len(found))
            name = "private_key" if name in _PRIVATE and "kty" in values else name
            found[each if text == known else text] = (  # a number stays one
                self._masked(kind, value) if kind else self._field(name, value)
            )
        if len(values) > 1 and not kind and all(type(each) is str for each in values):
            _secret_tables.without_members(found, self._kind, self._field)
            code = found.get("code") if "state" in found else None
            if code and is_credential("token", None, str(code)):  # of OAuth, not an error's
                found["code"] = self._masked("otp", code)
        return found

    def _pair(self, item: Any) -> Any:
        """Return an item of a list without secrets; it may be a pair of a name and its value."""
        if type(item) in (list, tuple) and _secret_tables.is_pair(item):
            name = self.text(item[0])
            return type(item)((name, self._field(name, item[1])))
        return self._value(item)

    def pseudonym(self, value: Any) -> str:
        """Return the hash that stands for *value*, always the same: to be searched for."""
        from hmac import digest  # imported here: with OpenSSL it takes a millisecond, once

        text = str(value)
        if re.fullmatch("who:[0-9a-f]{16}", text):
            return text
        keyed = digest(self._salt, text.encode("utf-8", "backslashreplace"), "sha256")
        return f"who:{keyed.hex()[:16]}"

    # ---- text

    def text(self, text: str) -> str:
        """Return *text* without secrets."""
        known = self.seen.get(text)
        return self._new(text) if known is None else known

    def _new(self, text: str) -> str:
        last = self._last  # a line and its event have one text; errors of one cause, too
        if len(text) > _REMEMBERED_CHARACTERS and text in last:
            return last[1]
        cleaned = self._cleaned.get(text) if self._cleaned else None
        if cleaned is not None:
            changed["redacted"] += 1
            return cleaned
        found, before, passes = self._once(text), text, 1
        if found != text:
            changed["redacted"] += 1
        while found != before and passes < _PASSES:  # a marker is text for the rules, too
            found, before, passes = self._once(found), found, passes + 1
        if len(text) > _REMEMBERED_CHARACTERS:
            self._last = (text, found)
        else:
            memory = self.seen if found == text else self._cleaned
            if len(memory) >= _REMEMBERED:
                memory.clear()
            memory[text] = found
        return found

    # in one piece: every call in it costs a twentieth of a line
    def _once(self, text: str, depth: int = 0) -> str:
        found, lower, is_words = text, text.lower(), text.replace(" ", "").isalnum()
        if not is_words and ("\\" in text or "\x1b" in text):
            bare = _DRESS.sub(lambda found: chr(int(found["sign"] or "0", 16)).strip("\0"), text)
            if bare != text and depth < _PASSES:  # one encoding may be inside another
                found = self._once(bare, depth + 1)
                return text if found == bare else found
        is_plain = lower.isascii()
        has_signs = (
            has_one(_WORDS, lower) or not is_plain or (not is_words and has_one(_SIGNS, text))
        )
        if has_signs:
            if "%" in text:
                found = ENCODED.sub(self._encoded, text)
            found = _secret_texts.without_schemes(found)
        if LIKELY.search(found):
            found = _secret_texts.without_numbers(found)
            if has_one(("ey", "ew", "W3"), found):
                found = PACKED.sub(self._packed, found)
        if "basic" in lower or "bearer" in lower:
            found = _secret_texts.SCHEME.sub(_secret_texts.scheme, found)
        if has_signs and (self._stems.search(lower) or (not is_plain and _FOREIGN.search(lower))):
            found = self._as_data(without_named(found, self._kind))
        elif not is_words and "\\u" in text:  # other letters, as JSON has them
            found = self._as_data(found)
        for pattern in self._patterns:
            parts = _MARKED.split(found)  # markers are not examined again
            parts[::2] = [pattern.sub(marker("pattern"), part) for part in parts[::2]]
            found = "".join(parts)
        if self.personal:
            found = without_personal(found)
        return found

    def _as_data(self, text: str) -> str:
        """Return *text*; if it is JSON, without values in the place of a secret in its data."""
        if text[:1] + text[-1:] not in ("{}", "[]"):
            return text
        try:
            data = json.loads(text)
            clean = self._value(data)
            return text if clean == data else json.dumps(clean, ensure_ascii=text.isascii())
        except (ValueError, RecursionError):
            return text

    def _packed(self, found: re.Match[str]) -> str:
        text = unpacked(found.group())
        return found.group() if self.text(text) == text else marker("base64")

    def _encoded(self, found: re.Match[str]) -> str:
        """Return a percent-encoded part of a text without what is a secret once it is decoded."""
        part = plain = clean = found.group()
        for _ in range(3):  # a URL inside a URL inside a URL
            plain, clean = unquote(plain), unquote(clean)
            if "%" in clean:  # a value does not end at a space that is still encoded
                clean = without_named(clean, self._kind)
        if ENCODED.search(plain):  # or it is no encoding
            return part
        clean = self.text(clean)
        return part if clean == plain else quote(clean, safe="[]:")


class _Off(Redaction):
    """Takes nothing out."""

    def _field(self, name: str, value: Any) -> Any:  # noqa: ARG002
        return value

    def _value(self, value: Any) -> Any:
        return value

    def text(self, text: str) -> str:
        return text

    by_name = _field


#: The default, and the one that takes nothing out.
DEFAULT: Final = Redaction()
OFF: Final = _Off()
_errors.without_secrets = DEFAULT.text
