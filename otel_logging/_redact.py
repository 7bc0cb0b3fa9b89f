"""Secrets, and personal data on request, taken out of text and plain data.

In: text, names of fields, plain data as ``_values.plain`` makes it. Out: the same, with
``[redacted:kind]`` where a secret stood, of which the marker echoes nothing. Invariant: pure
but for what it remembers, total, idempotent, in linear time: what repeats in a pattern is
bounded, or cannot begin again inside what it has passed. Deliberately absent: where values
come from, and bounds of their size (``_values``).
"""

import base64
import hashlib
import hmac
import ipaddress
import re
import secrets
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

_REMEMBERED: Final = 4096  # texts, and names; forgotten together
_REMEMBERED_CHARACTERS: Final = 256
_MARKER: Final = re.compile(r"\[redacted:[a-z-]{1,24}\]")


def _marker(kind: str) -> str:
    return f"[redacted:{kind}]"


# ---------------------------------------------------------------- names of fields


def _by_kind(kinds: Mapping[str, str]) -> dict[str, str]:
    return {word: kind for kind, words in kinds.items() for word in words.split()}


#: Words that name a secret, also where they are two (`api_key`), or end one (`dbpassword`).
_SECRET: Final = _by_kind(
    {
        "password": "password passwd passwort pwd pswd passphrase passcode",
        "secret": "secret mnemonic seedphrase recoverycode backupcode",
        "token": "token jwt bearer",
        "authorization": "authorization",
        "cookie": "cookie",
        "session": "sessionid sessid sessionkey connectsid",
        "credential": "credential cred connectionstring connstr",
        "csrf": "csrf xsrf",
        "signature": "amzsignature googsignature hubsignature xsignature webhooksignature"
        " stripesignature slacksignature requestsignature sharedaccesssignature",
        "otp": "otp totp otpcode mfacode verificationcode securitycode authcode pincode",
        "card": "cardnumber creditcard cvv cvc",
        "key": " ".join(
            f"{whose}key"
            for whose in (
                "api app application private secret access signing signature encryption decryption"
                " crypto master auth account storage shared hmac ssh rsa pgp gpg deploy service"
                " webhook license subscription functions client consumer server tls ssl aes jwt"
                " vault root security transaction merchant admin openai stripe anthropic sendgrid"
            ).split()
        ),
    }
)
#: Words that do so as a word of their own.
_ALONE: Final = _by_kind(
    {
        "password": "pass",
        "session": "session sess",
        "authorization": "auth oauth",
        "signature": "sig",
        "otp": "pin mfa",
        "personal": "ssn iban",
    }
)
#: What follows them in the name of something else: `session_count`, `token_type`.
_ABOUT: Final = frozenset(
    "active agent age alg algo algorithm arn at attempt attempts audience backend banner begin bucket budget"
    " by cache check checks class client column consent cost count counter counts country created"
    " date day days decision domain duration enabled end endpoint error errors event events exception"
    " exist exists exp expire expires expiration expiry factor factory failure failures field file"
    " flag flow for forgot form format from generator group handler hint host hour hours httponly id"
    " ids in index issuer kind label language latency left len length less level lifetime limit limits"
    " locale location lock log manager max message method methods metric metrics middleware min minute"
    " minutes missing mode module ms name names notice num number of offset ok on optional order outcome"
    " owner page parser path per plugin policies policy pool port position preference preferences"
    " present price progress protection protocol provider rate ratio reason ref reference refresh remaining"
    " request requests required requires reset response result retries retry role roles rule rules"
    " samesite santa scheme scope scopes score sec second seconds server service set since size start"
    " state stats status storage store strength success template time timeout times timestamp title"
    " to total ttl type types uid until updated uri url usage user username users uuid valid validator"
    " validity version window".split()
)
_STILL: Final = frozenset("decoded decrypted encoded encrypted hashed shared signed".split())
#: What comes before them where they are counted, or asked for.
_ASKED: Final = frozenset(
    "allow allows are avg can count disable enable has have is max mean min n need needs no num"
    " number public require requires should total use uses using was with without".split()
)
#: What is somewhere in each of their names, for a quick look.
_STEMS: Final = (
    *("pass", "token", "secret", "key", "auth", "cookie", "sess", "pwd", "cred", "sig", "pin", "otp"),
    *("csrf", "xsrf", "jwt", "bearer", "mfa", "cvv", "cvc", "card", "code", "pswd", "conn", "mnemonic"),
    *("seed", "sid", "ssn", "iban", "signature"),
)
_NO_PASS: Final = frozenset("band boarding by final first last low high one second single".split())
_WORD: Final = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")
_ENDS: Final = tuple(word for word in _SECRET if len(word) > 4 or word == "pwd")
_COMPOUND: Final = re.compile(r"(password|passwd)(.+)")


def _words(name: str) -> list[str]:
    """Return the words of a name in any style, in lower case and the singular, without digits."""
    found: list[str] = []
    for word in _WORD.findall(re.sub("%(?:25)*[0-9A-Fa-f]{2}", " ", name) if "%" in name else name):
        compound = _COMPOUND.fullmatch(word.lower())
        found += compound.groups() if compound else [word.lower()]
    return [w[:-1] if w[-1] == "s" and w[-2:] != "ss" and len(w) > 3 else w for w in found]


def _kind_of(words: list[str]) -> str | None:
    """Return which kind of secret *words* name; None: something else."""
    if not words or (len(words) > 1 and words[0] in _ASKED):
        return None
    before = ""
    kind, place = ("session", 0) if words == ["sid"] else (None, 0)
    for number, word in enumerate(words):
        one = _SECRET.get(before + word) or _SECRET.get(word) or _ALONE.get(word)
        if one is None and word.endswith(_ENDS):
            one = next(_SECRET[end] for end in _ENDS if word.endswith(end))
        if word == "pass" and before in _NO_PASS:
            one = None
        if one is not None:
            kind, place = one, number
        before = word
    for word in words[place + 1 :]:
        if word in _ABOUT or f"{word}s" in _ABOUT or (word.endswith(("ed", "ing")) and word not in _STILL):
            return None
    return kind


# ---------------------------------------------------------------- what a secret looks like

_B: Final = r"(?<![A-Za-z0-9_-])"
#: Issuers' tokens. Each has a digit somewhere: a name of words alone is none.
_ISSUED: Final = _by_kind(
    {
        "aws": r"(?:AKIA|ASIA|ABIA|ACCA)[A-Z0-9]{16}(?![A-Za-z0-9])",
        "google": r"AIza[\w-]{30,} ya29\.[\w.-]{20,} GOCSPX-[\w-]{20,} 1//0[\w-]{20,}",
        "slack": r"xox[a-z](?:\.xox[a-z])?-[\w-]{11,} xapp-[\w-]{10,}",
        "github": r"gh[a-z]_[A-Za-z0-9]{16,} github_pat_\w{16,}",
        "gitlab": r"gl[a-z]{2,6}-[\w.-]{16,}",
        "anthropic": r"sk-ant-[\w-]{9,}",
        "openai": r"sk-[\w-]{16,}",
        "stripe": r"[sr]k_(?:live|test)_\w{8,} whsec_[\w+/=]{16,}",
        "npm": r"npm_[A-Za-z0-9]{20,}",
        "pypi": r"pypi-[\w-]{16,}",
        "sendgrid": r"SG\.[\w-]{16,}\.[\w-]{16,}",
        "twilio": r"(?:SK|AC)[0-9a-f]{32}(?![A-Za-z0-9])",
        "telegram": r"[0-9]{8,10}:[A-Za-z0-9_-]{35}(?![\w-])",
        "discord": r"[MNO][\w-]{23,27}\.[\w-]{6}\.[\w-]{27,}",
        "jwt": r"eyJ[\w-]{5,}(?:\.[\w-]*){1,4}",
        "azure": r"[A-Za-z0-9]{3}[0-9]Q~[\w~.-]{30,} [A-Za-z0-9+/]{86}==",
        "token": r"(?:hf|gsk|r8|glsa|glc|figd|ntn|sbp|rubygems|dapi|pplx|xai|ATATT3|NRAK|PMAK|HRKU"
        r"|AGE-SECRET-KEY|shp[a-z]{2}|sntr[a-z]{1,2}|sq0[a-z]{3}|xkeysib|dop|doo|hv[sbr]|key|dckr"
        r"|EAA)[_.-]?(?:[A-Za-z0-9]{1,8}[_-]){0,3}[A-Za-z0-9]{20,}[\w-]*"
        r" (?:[A-Za-z0-9]{1,12}[_-]){0,3}(?:sk|rk|secret|tok|token|tkn|pat|api|apikey|live|priv|auth"
        r"|pw)[_-](?:[A-Za-z0-9]{1,8}[_-]){0,2}[A-Za-z0-9]{16,}[\w-]*",
    }
)
_KINDS: Final = list(_ISSUED.values())
_TOKEN: Final = re.compile(f"{_B}(?:{'|'.join(f'({each})' for each in _ISSUED)})", re.ASCII)
_PEM: Final = re.compile(
    r"-----BEGIN (?=[A-Z0-9 ]{0,40}PRIVATE KEY)(?:.*?-----END [A-Z0-9 ]{0,40}-----|.*)", re.DOTALL
)
_URL_USER: Final = re.compile(
    r"(://[^\s/?#@:\"'<>]{0,128}:)(?![0-9]{1,5}(?:[/?#\s\"']|$))(?:[^\s\"'<>/?#]{1,256}|[^\s\"'<>@]{1,256})@"
    r"|(://)(?=[^\s/@:]{0,99}[0-9])[^\s/?#@:\"'<>]{20,256}@"
)
_WEBHOOK: Final = re.compile(r"(hooks\.slack\.com/|/api/webhooks/)[\w/-]{10,256}")
_SCHEME: Final = re.compile(r"(?<![\w-])(bearer|basic)( {1,4}|%20|\+)([\w.~+/=-]{6,4096})", re.I | re.A)
_CARD: Final = re.compile(r"(?<![\w.-])[0-9](?:[ -]?[0-9]){12,18}(?![\w-])", re.ASCII)
#: By issuers' ranges: a time in ns or ms, and most ids, are none.
_ISSUER: Final = re.compile(
    r"4(?:\d{12}|\d{15})|(?:5[1-5]|2[2-7])\d{14}|3[47]\d{13}|3[0689]\d{12,14}|35\d{14}"
    r"|(?:6011|64[4-9]\d|65\d\d|62\d\d)\d{12,15}|(?:50|5[6-8]|6[0379])\d{14}"
)
_IBAN: Final = re.compile(r"(?<![A-Za-z0-9])[A-Z]{2}[0-9]{2}(?:[ -]?[A-Z0-9]){11,30}(?![a-z])", re.A)
#: Lengths by country (ISO 13616 registry).
_IBAN_LENGTH: Final = {
    country: int(length)
    for length, countries in (
        pair.split(":")
        for pair in (
            "15:NO 16:BE 18:DK,FI,FO,GL,NL 19:MK,SI 20:AT,BA,EE,KZ,LT,LU,XK 21:CH,HR,LI,LV"
            " 22:BG,BH,CR,DE,GB,GE,IE,ME,RS,VA 23:AE,GI,IL,IQ,OM,TL 24:AD,CZ,ES,MD,PK,RO,SA,SE,SK,TN,VG"
            " 25:LY,PT,ST 26:IS,TR 27:BI,DJ,FR,GR,IT,MC,MR,SM 28:AL,AZ,BY,CY,DO,GT,HU,LB,NI,PL,SV"
            " 29:BR,EG,PS,QA,UA 30:JO,KW,MU 31:MT,SC 32:LC 33:RU"
        ).split()
    )
    for country in countries.split(",")
}
_EMAIL: Final = re.compile(r"(?<![\w.+%-])[\w.+%-]{1,64}@[\w-]{1,63}(?:\.[\w-]{1,63}){1,8}")
_ADDRESS: Final = re.compile(
    r"(?<![\w.:])(?:[0-9]{1,3}(?:\.[0-9]{1,3}){3}|[0-9A-Fa-f]{0,4}(?::[0-9A-Fa-f]{0,4}){2,7})(?![\w:]|\.\d)"
)
_PHONE: Final = re.compile(
    r"(?<![\w.+-])(?:\+[0-9](?:[ ().-]{0,2}[0-9]){7,14}|\(?[0-9]{3}\)?[ .-][0-9]{3}[ .-][0-9]{4}"
    r"|0[0-9]{1,4}[ /-][0-9](?:[ -]?[0-9]){4,9})(?![\w-])"
)


def _issued(found: re.Match[str]) -> str:
    text = found.group()
    if not any(map(str.isdigit, text)) or found.lastindex is None:
        return text
    kind = _KINDS[found.lastindex - 1]
    return _marker(kind) if kind != "jwt" or text.count(".") > 1 else text


def _url_user(found: re.Match[str]) -> str:
    return f"{found.group(1) or found.group(2)}{_marker('url-password')}@"


def _scheme(found: re.Match[str]) -> str:
    name, given = found.group(1).lower(), found.group(3)
    if name == "basic":
        try:
            is_secret = b":" in base64.b64decode(given.rstrip("=") + "=" * (-len(given.rstrip("=")) % 4))
        except ValueError:
            is_secret = False
    else:
        is_secret = len(given) > 19 or any(map(str.isdigit, given)) or not given[1:].islower()
    return found.group(1) + found.group(2) + _marker(name) if is_secret else found.group()


def _card(found: re.Match[str]) -> str:
    digits = re.sub("[ -]", "", found.group())
    if not _ISSUER.fullmatch(digits):
        return found.group()
    doubled = "".join(str(2 * int(d)) if n % 2 else d for n, d in enumerate(reversed(digits)))
    return found.group() if sum(map(int, doubled)) % 10 else _marker("card")


def _iban(found: re.Match[str]) -> str:
    text = found.group()
    length, taken = _IBAN_LENGTH.get(text[:2], 0), 0
    for end, character in enumerate(text, 1):
        taken += character not in " -"
        if taken == length:
            break
    else:
        return text
    account, rest = re.sub("[ -]", "", text[:end]), text[end:]
    is_sum = int("".join(str(int(c, 36)) for c in account[4:] + account[:4])) % 97 == 1
    return text if rest[:1].isalnum() or not is_sum else _marker("iban") + rest


def _address(found: re.Match[str]) -> str:
    try:
        ipaddress.ip_address(found.group())
    except ValueError:
        return found.group()
    return _marker("ip")


# ---------------------------------------------------------------- names with values in a text

_QUOTE: Final = r"""\\{0,15}["'`]|\\u002[27]|%(?:25){0,3}2[27]|&quot;|&#3[49];"""
_NAME: Final = (
    r"(?:(?<![\w.%\\-])|(?<=\\[rnt])|(?<=\\u[0-9a-fA-F]{4})|(?<=%[0-9A-F]{2})|(?<=%25[0-9A-F]{2}))"
    r"(?P<name>[A-Za-z_][\w.-]{0,127}+(?:(?:\[|%(?:25){0,3}5[Bb])[\w.-]{0,64}(?:\]|%(?:25){0,3}5[Dd])){0,3})"
)
#: A name, perhaps quoted, and the sign before its value.
_NAMED: Final = re.compile(
    rf"{_NAME}(?:{_QUOTE})?[ \t]{{0,4}}(?P<sign>=>|:=|==?|:(?!//)|%(?:25){{0,3}}3[ADad])[ \t]{{0,8}}"
)
#: Name and value as the items of a pair, as an option of a command, as an element of XML.
_PAIR: Final = re.compile(rf"(?<=[(\[])[bu]?(?:{_QUOTE}){_NAME}(?:{_QUOTE}), ?(?=[bu]?(?:{_QUOTE}))")
_FLAG: Final = re.compile(rf"(?<![\w-])--?{_NAME[_NAME.index('(?P') :]}[ \t]{{1,4}}(?=[^\s-])")
_TAG: Final = re.compile(rf"<{_NAME}(?:\s[^<>]{{0,128}})?>(?=[^<\s])")
_OPENING: Final = re.compile(rf"[bBurRf]{{0,2}}({_QUOTE})")
_LINE: Final = re.compile(r"[^\n\r\\]*+(?:\\(?![rn])[^\n\r\\]*+)*")
_COOKIES: Final = re.compile(r"[^\s;&\"']+(?:; ?[\w.%$-]+(?:=[^\s;\"']*)?)*")
_SCHEMES: Final = r"(?:bearer|basic|token|bot|apikey|api-key|negotiate|ntlm)(?: {1,4}|%20|\+)"
_WITH_SCHEME: Final = re.compile(rf"{_SCHEMES}(?=\S)", re.IGNORECASE)
_PARAMETERS: Final = re.compile(r"[\w-]{2,24} [\w-]{1,24}=")
_CLOSES: Final = r"""(?=[\s,;)}\]>"'&]|$|["']?[\w.-]{1,40}["']?\s?[=:])"""
_VALUE: Final = re.compile(
    rf"(?:[^\s&;,\"'`()\[\]{{}}<>\\%]|(?!<)[;,\"'`()\[\]{{}}>](?!{_CLOSES})|\\(?![rnt\"'\\])"
    r"|%(?!(?:25){0,3}(?:26|3B|2C|22|27))|&(?![\w.%\[\]-]{1,64}=|amp;|quot;|#))+"
)
#: What is no secret: what has been taken out, placeholders.
_BLANK: Final = re.compile(
    rf"(?:{_SCHEMES})?\[redacted:[a-z-]{{1,24}}\]|\$(?:\{{\w+\}}|[A-Z_]+)|\{{\w*\}}"
    r"|%(?:\(\w+\))?[sdr]|<[\w -]*>|[\W_]*|(?i:none|null|nil|true|false|undefined)",
    re.IGNORECASE,
)
#: What is none behind a colon: the state of one, its type, the beginning of a sentence.
_STATES: Final = frozenset(
    "a absent accepted an and any are bool by bytes can cannot changed closed could created deleted"
    " denied disabled empty enabled ended error expired failed failure for forbidden found from"
    " granted has have if in incorrect int invalid is malformed mismatch missing must no not of ok on"
    " optional or present refreshed rejected required reset revoked set should started str string"
    " success the to too unauthorized unexpected unknown unset updated valid was when with wrong yes".split()
)
_TEMPLATE: Final = re.compile(r"\$\{\w+\}|\{\w*\}|%\(\w+\)s|<[\w -]+>")
_ENCLOSED: Final = {"(": ")", "[": "]", "{": "}"}
_LONGEST: Final = 8192  # of a value, in quotes or brackets


def _value(text: str, at: int, kind: str, sign: str, quote: str) -> tuple[int, int]:
    """Return where the value that stands at *at* begins and ends; *quote*: what is before its name."""
    opening = _OPENING.match(text, at)
    if opening:
        mark, begin = opening.group(1), opening.end()
        end = text.find(mark, begin, begin + _LONGEST)
        while end >= 0 and _is_escaped(text[begin:end][-16:], mark):
            end = text.find(mark, end + len(mark), begin + _LONGEST)
        if end >= 0:
            return begin, end
        at = begin
    if template := _TEMPLATE.match(text, at):
        return at, template.end()
    scheme = _WITH_SCHEME.match(text, at)
    if sign == ":" and (kind == "cookie" or (kind == "authorization" and _PARAMETERS.match(text, at))):
        found = _LINE.match(text, at)
        end = text.find(quote, at, found.end()) if found and quote else -1
        return at, end if end >= 0 or found is None else found.end()
    end = _end_of_enclosed(text, at)
    found = (_COOKIES if kind == "cookie" else _VALUE).match(text, scheme.end() if scheme else end)
    end = found.end() if found else max(end, scheme.end() if scheme else at)
    if text[end : end + 1] == "(":  # of a call, as `SecretStr('…')`
        end = _end_of_enclosed(text, end)
    return at, end


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


# ---------------------------------------------------------------- what is asked for

_LONG: Final = re.compile(r"[A-Za-z0-9_-]{16,}")
_HEX: Final = re.compile(r"[0-9a-f-]+")
_DIGITS: Final = re.compile(r"[0-9]{4}[ -]?[0-9]{4}[0-9 -]{4}")
_COUNTRY: Final = re.compile(r"[A-Z]{2}[0-9]{2}[ -]?[A-Z0-9]{4}")


class Redaction:
    """What is taken out of lines, spans and log records before they leave.

    *keys*: further names whose values are secrets, in any style. *patterns*: further regular
    expressions of secrets; they run on every new text, so they have to be quick. *allow*: names
    whose values stay. *personal*: e-mail addresses, phone numbers and IP addresses too, and the
    ``who`` keys hashed with *salt*, a random one of this process where it is left out.
    Failure: raises ``ValueError`` for an invalid pattern; later nothing does. Cost: a look-up for
    what was seen before. Concurrency: any thread.
    """

    is_on = True

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
        self.keys, self.patterns, self.allow = tuple(keys), tuple(patterns), tuple(allow)
        self.personal, self.who = personal, frozenset(who) if personal else frozenset()
        self._salt, self._given_salt = salt.encode() or secrets.token_bytes(16), salt
        self._keys = {" ".join(_words(key)) for key in self.keys}
        self._allow = {" ".join(_words(key)) for key in self.allow}
        self._patterns = [re.compile(each) for each in self.patterns]
        self._stems = (*_STEMS, *{word for key in self._keys for word in key.split()[:1]})
        self._texts: dict[str, str] = {}
        self._kinds: dict[str, str | None] = {}

    def for_who(self, who: Iterable[str]) -> "Redaction":
        """Return this with *who*, the keys that say on whose behalf something runs."""
        return Redaction(
            self.keys,
            self.patterns,
            self.allow,
            personal=self.personal,
            salt=self._given_salt,
            who=who,
        )

    # ---- names

    def kind(self, name: str) -> str | None:
        """Return which kind of secret the field *name* holds; None: it holds something else."""
        try:
            return self._kinds[name]
        except KeyError:
            words = _words(name[:_REMEMBERED_CHARACTERS])
            joined = " ".join(words)
            kind = None if joined in self._allow else _kind_of(words)
            if any(f" {key} " in f" {joined} " for key in self._keys):
                kind = "key"
            _remember(self._kinds, name, kind)
            return kind

    # ---- plain data

    def field(self, name: str, value: Any) -> Any:
        """Return the plain *value* of the field *name* without its secrets."""
        kind = self.kind(name)
        if kind is not None and value and type(value) is not bool and not _is_count(name, value):
            return value if type(value) is str and _BLANK.fullmatch(value) else _marker(kind)
        if name in self.who and value is not None:
            return self.pseudonym(value)
        if type(value) is str:
            known = self._texts.get(value)  # as ``text``, without the call
            return self._new(value) if known is None else known
        return self.value(value)

    def value(self, value: Any) -> Any:
        """Return a plain *value* without secrets."""
        kind = type(value)
        if kind is str:
            return self.text(value)
        if kind is int:
            if not 10**11 < value < 10**19:
                return value
            text = self.text(str(value))
            return value if text.isdecimal() else text
        if kind is dict:
            return self._mapping(value)
        if kind is list or kind is tuple:
            return kind(self._pair(item) for item in value)
        return value

    def fields(self, fields: Mapping[str, Any]) -> dict[str, Any]:
        """Return *fields*, plain data, without secrets."""
        return {name: self.field(name, value) for name, value in fields.items()}

    def _mapping(self, values: dict[str, Any]) -> dict[str, Any]:
        found = self.fields(values)
        for name, value in (("name", "value"), ("key", "value"), ("Name", "Value"), ("k", "v")):
            if value in found and type(values.get(name)) is str:  # as HTTP archives have headers
                found[value] = self.field(values[name], values[value])
        return found

    def _pair(self, item: Any) -> Any:
        """Return an item of a list, which may be a name and its value."""
        if type(item) in (list, tuple) and len(item) == 2 and type(item[0]) is str:
            return type(item)((self.text(item[0]), self.field(item[0], item[1])))
        return self.value(item)

    def pseudonym(self, value: Any) -> str:
        """Return what stands for *value*, the same for the same one: to be searched for."""
        text = str(value)
        if re.fullmatch("who:[0-9a-f]{16}", text):
            return text
        return f"who:{hmac.new(self._salt, text.encode(errors='replace'), hashlib.sha256).hexdigest()[:16]}"

    # ---- text

    def text(self, text: str) -> str:
        """Return *text* without secrets."""
        known = self._texts.get(text)
        return self._new(text) if known is None else known

    def _new(self, text: str) -> str:
        found = self._scan(text)
        if len(text) <= _REMEMBERED_CHARACTERS:
            _remember(self._texts, text, found)
        return found

    def _scan(self, text: str) -> str:
        lower = text.lower()
        if "private key" in lower:
            text = _PEM.sub(_marker("private-key"), text)
        if "://" in text:
            text = _WEBHOOK.sub(rf"\1{_marker('webhook')}", _URL_USER.sub(_url_user, text))
        for long in _LONG.findall(text):
            if not _HEX.fullmatch(long):
                text = _TOKEN.sub(_issued, text)
                break
        if "</" in text:
            text = self._named(text, _TAG)
        if "basic" in lower or "bearer" in lower:
            text = _SCHEME.sub(_scheme, text)
        if "=" in text or ":" in text or "--" in text or "%3" in text or "'," in text or '",' in text:
            for stem in self._stems:  # most texts have none, and need no closer look
                if stem in lower:
                    text = self._by_name(text)
                    break
        if _DIGITS.search(text):
            text = _CARD.sub(_card, text)
        if _COUNTRY.search(text):
            text = _IBAN.sub(_iban, text)
        for pattern in self._patterns:
            text = pattern.sub(_marker("pattern"), text)
        if self.personal:
            text = _EMAIL.sub(_marker("email"), text)
            text = _PHONE.sub(_marker("phone"), _ADDRESS.sub(_address, text))
        return text

    def _by_name(self, text: str) -> str:
        if "=" in text or ":" in text or "%3" in text:
            text = self._named(text, _NAMED)
        if "'," in text or '",' in text:
            text = self._named(text, _PAIR)
        if "--" in text:
            text = self._named(text, _FLAG)
        return text

    def _named(self, text: str, named: re.Pattern[str]) -> str:
        parts, done = [], 0
        for found in named.finditer(text):
            kind = self.kind(found["name"])
            if kind is None or found.start() < done:
                continue
            sign = found.groupdict().get("sign") or ""
            before = text[found.start() - 1 : found.start()]
            begin, end = _value(text, found.end(), kind, sign, before if before in "\"'" else "")
            value = text[begin:end]
            if named is _TAG:
                end = max(text.find("<", begin), begin)
                value = text[begin:end]
            if _BLANK.fullmatch(value) or _is_count(found["name"], value):
                continue
            if sign == ":" and begin > found.start("sign") + 1 and _is_state(found["name"], value):
                continue
            parts += text[done:begin], _marker(kind)
            done = end
        return "".join((*parts, text[done:])) if parts else text


class _Off(Redaction):
    """Takes nothing out."""

    is_on = False

    def kind(self, name: str) -> str | None:  # noqa: ARG002
        return None

    def field(self, name: str, value: Any) -> Any:  # noqa: ARG002
        return value

    value = text = fields = lambda self, given: given  # type: ignore[assignment]


def _is_count(name: str, value: Any) -> bool:
    """Say whether it is how many there are: `tokens=512`, `pass: 12`."""
    is_number = type(value) in (int, float) or (type(value) is str and value.isdecimal())
    return is_number and name[-1:] in "sS"


def _is_state(name: str, value: str) -> bool:
    """Say whether *value* is no value of *name*, but its state, or its type."""
    if value == name.title():
        return True
    return value.rstrip(".!?").partition("[")[0].lower() in _STATES


def _remember(memory: dict[str, Any], key: str, value: Any) -> None:
    if len(memory) >= _REMEMBERED:
        memory.clear()
    memory[key] = value


#: What is done where nothing else is asked for; and nothing at all.
DEFAULT: Final = Redaction()
OFF: Final = _Off()
