"""What secrets look like in a text, and the markers in their place.

In: texts. Out: the same with a marker for each secret that is known by its looks: issuers' tokens,
credentials of URLs and headers, private keys, numbers with a checksum. Invariant: linear
time; a pattern begins nowhere inside what it has passed, or what repeats in it is bounded.
Deliberately absent: what is a secret by its name (``_secret_values``).
"""

import base64
import re
from collections.abc import Iterator
from functools import partial, reduce
from itertools import accumulate
from typing import Any, Final

from otel_logging._secret_lookalikes import is_placeholder
from otel_logging._secret_names import by_kind, words_in
from otel_logging._text import ESCAPED, Begins, any_of, has_one, later


def marker(kind: str) -> str:
    """Return the marker for a secret of *kind*; it has no part of the secret."""
    return f"[redacted:{kind}]"


_B: Final = r"(?:\b(?<![\\-])|(?=[{$])(?<![\w\\-]))"
#: Beginnings of issuers' tokens; or a word that says "token", before a long part.
_ISSUED: Final = by_kind(
    {
        "aws": "FwoGZXIvYXdzE IQoJb3JpZ2lu",
        "google": r"AIza ya29\. GOCSPX- 1//0",
        "slack": "xox[a-z][.-] xapp-",
        "github": "gh[a-z]_(?=[A-Za-z0-9]{14}) github_pat_",
        "gitlab": "gl(?:[a-z]{1,4}t|oas)-(?=[A-Za-z0-9_.-]{16}) GR1348941",
        "anthropic": "sk-ant-",
        "openai": r"sk-(?=[\w-]{0,99}?(?:[A-Z]|[0-9][a-z0-9]{8}))",
        "stripe": "[sr]k_(?:live|test)_ whsec_",
        "azure": "[A-Za-z0-9]{3}[0-9]Q~",
        "token": "LTAI(?=[A-Za-z0-9]{16}) eyJrIjoi(?=[\\w+/=-]{40})"
        r" (?:AKID|dapi|EAA[A-Z](?![0-9A-F]{4}-|[0-9A-F]{28}\b)|AT[AC]TT3|ATBB|AKCp|EZ[AT]K|cio"
        "|(?:glsa|figd|NRII|sq0[a-z]{3}|hv[sbr]|sq[apu]|bk[a-z]{2}|pul|lsv2|rnd|fw|csk|tfp|nvapi|pa|md|sdk|CCIPAT|tskey|wandb)"
        "[_-])(?=[A-Za-z0-9_-]{20})"
        " (?:hf|gsk|r8|glc|ntn|sbp|npm|rubygems|pplx|xai|NRAK|PMAK|HRKU|AGE-SECRET-KEY|shp[a-z]{2}"
        "|sntr[a-z]{1,3}|xkeysib|xsmtpsib|do[opr]|dckr|key)[_-]"
        "(?=(?:[A-Za-z0-9]{1,8}[_-]){0,3}[A-Za-z0-9]{20})"
        r" hv[sbr]\. SG\.(?=[\w-]{16}) [MNO][\w-]{23,27}\.(?=[\w-]{6}\.) pypi-AgE fm[12]_ essu_"
        r" A3-(?=[A-Z0-9]{6}-) access-[a-z]{7,11}-(?=[0-9a-f]{8}-[0-9a-f]{4}-)"
        r" rzp_(?:live|test)_ pat[A-Za-z0-9]{14}\. dp\.[a-z]{2,5}\.(?=[\w.]{32}) WPL_AP[0-9]\."
        r" dt0[a-z][0-9]{2}\. [A-Za-z0-9]{14}\.atlasv1\."
        " (?:[A-Za-z0-9]{1,12}[_-]){0,3}(?:sk|rk|secret|tok|token|tkn|pat|api|apikey|live|priv"
        "|auth|pw)[_-](?=(?:[A-Za-z0-9]{1,8}[_-]){0,2}[A-Za-z0-9]{16})",
    }
)
#: Secrets with a shape as a whole.
_FORMS: Final = by_kind(
    {
        "jwt": r"(?:ey[JA]|ewo)[\w-]{5,}(?:\.[\w-]*){1,4} (?:sk|tk)\.eyJ[\w-]{16,}\.[\w-]{8,}",
        "twilio": r"(?:SK|AC)[0-9a-f]{32}(?![A-Za-z0-9])",
        "telegram": r"(?:bot)?[0-9]{8,10}:[\w-]{35}(?![\w-])",
        "azure": "[A-Za-z0-9+/]{86}==",
        "aws": "A(?:[KBS]I|CC)A[A-Z0-9]{16}(?![A-Za-z0-9])",
        "password-hash": r"(?:(?:argon2|bcrypt|pbkdf2|scrypt|access_token)[\w:]{0,24}"
        r"|\$(?:[0-9][abxy]?|g?y|apr1|argon2\w{1,2}|pbkdf2[\w-]{0,8}|scrypt))"
        r"(?:\$[^\s$\"']{1,64}){1,4}\$[\w./+=]{20,}"
        r" \{S?SHA[0-9]{0,3}\}[\w+/=]{20,}",
    }
)
_KINDS: Final = [*_FORMS.values(), *_ISSUED.values()]
#: Beginnings of ids that also mix letters and digits.
_ID: Final = (
    r"(?i:req|request|res|run|msg|message|thread|conv|asst|call|toolu|batch|file|step|job|task|span"
    r"|trace|evt|event|usr|user|org|proj|project|cus|sub|inv|ord|order|item|doc|img|uid|id)[_-]"
)
#: A token of any issuer: behind a short name, a long part, or several with dots.
_RANDOM: Final = Begins(
    _B,
    rf"(?:(?!sha\d|md5|{_ID})(?:[A-Za-z][A-Za-z0-9]{{0,14}}[_.-]){{1,3}}[\w-]{{30,}}(?:\.[\w-]{{20,}}){{0,4}}"
    r"|(?:[A-Za-z]\w{0,14}\.){1,3}[\w-]{8,}(?:\.[\w-]{20,}){1,4}|s\.[A-Za-z0-9]{24}(?![\w.-]))",
)
#: The words of an id before a token that nothing else begins like: `user-eyJ…`.
_BEFORE: Final = (
    r"(?:(?:[A-Za-z][A-Za-z0-9]{0,14}[_-]){1,3}?(?=ey[JA]|ewo|A[BCKS][CI]A|AC[0-9a-f]{32}|SK[0-9a-f]{32}"
    r"|gh[a-z]_|github_|gl[a-z]{2,5}-|xox|xapp-|[rs]k_(?:live|test)|whsec_|sk-ant|AIza|ya29|GOCSPX))?"
)
#: With the rest of the word: else a second pass would find something in it.
_TOKEN: Final = Begins(
    _B,
    rf"{_BEFORE}(?:(?:{'|'.join(f'({form})' for form in _FORMS)})[A-Za-z0-9]*"
    rf"|(?:{'|'.join(f'({begin})' for begin in _ISSUED)})[\w.~+/=-]{{10,}}(?<![.-]))",
)
_PEM: Final = later(
    r"-{4,5} ?BEGIN (?=[A-Z0-9 ]{0,40}PRIVATE KEY)(?:.*?-{4,5} ?END [A-Z0-9 ]{0,40}-{4,5}|.*)"
    r"|(?<=Private-Lines: ).+",  # of PuTTY
    re.DOTALL,
)
#: Between a command and its password; a second pass must not take more.
_NEAR: Final = r"(?:(?!\[redacted:password)[^\n|;&]){0,160}?"
#: What is a secret by its place: what it is and signs of it that are quick to look for (· is a
#: space), what may stand before it, and it. Of URLs' users; of users in commands, after
#: options that are another thing elsewhere, in statements; of files with a line for each host, of
#: servers' protocols; of URLs, what signs them, a code to log in by, and one that is a secret as a
#: whole; of JSON keys.
_PLACES: Final = r"""
=url-password @
(?<!http)(?<!https)(?<!ws)(?<!wss)://[^\s/?#@:"'<>\[]{0,128}:(?![0-9]{1,5}(?:[/?#\s"',]|$))
(?:(?!://)[^\s"'<>]){1,256}(?=@)
=url-password @
(?:://[^\s/?#@:"'<>\[]{0,128}|(?<![\w:/])//[\w.%-]{1,128}):(?![0-9]{1,5}(?:[/?#\s"']|$))
(?:[^\s"'<>/?#]+|[^\s"'<>@]{1,256})(?=@)
=url-password @
://(?=[^\s/@:]{0,99}[0-9])
[^\s/?#@:"'<>]{20,256}(?=@)
=password ·- '- "-
(?<![\w-])(?:-u<NEXT>?|--(?:proxy-)?user(?:=|<NEXT>))["']?[^\s:"'<-][^\s:]{0,64}:
\b(?:https?|xhs?|ab|curl)\b<OPTION>-(?:[aAU]|-auth)<NEXT>["']?[^\s:"'-][^\s:]{0,64}:
(?![a-z0-9:]{0,16}//|[0-9]{1,5}(?:[\s"']|$))(?:[^\s"']|["'](?=[^\s,)\]]))+
=password ·- '- "-
<OWN>-(?:[uU]|-user(?:name)?)<NEXT>["']?[^\s:"'-][^\s:"']{0,64}["']?(?:, ?| )["']?-p<NEXT><P>
\b(?:sshpass|twine|useradd|beeline|mongo\w{0,8}|<LOGIN>)<OPTION>-p(?:<NEXT>|=?["']?)
\b(?:mosquitto_\w{1,8}|ipmitool|p4|(?:un)?zip|sqlcmd|bcp|[io]sql)\b<OPTION>-P(?:<NEXT>|["']?)
\b(?:mysql\w{0,8}|mariadb\w{0,8}|7z[ar]?|(?:un)?rar)\b<OPTION>-h?p["']?
\b(?:redis-cli<OPTION>-a|snmp\w{2,10}<OPTION>-[cAX]|(?:ldap\w{3,10}|openssl|ssh-keygen)<OPTION>-[wkN])<NEXT>
\blftp\b<OPTION>-u<NEXT>["']?[^\s,"']{1,64},
\b(?:put-parameter|secret set)\b<OPTION>--(?:value|body)<NEXT>
\bhtpasswd -\w{0,6}b\w{0,6} \S{1,128} \S{1,64} ["']?
\b(?:smb|rpc)client\b<OPTION>-U ["']?[^\s%]{1,64}%["']?
[^\s"',-][^\s"']*
=password net·
(?:^|[\n>;&"'] ?|/c )net(?:\.exe)? (?:user \S{1,64}|use(?: \S{1,128}){1,2}) ["']?
(?=[^\s/"']{0,64}[0-9]|\S{1,64} /)[^\s"'/][^\s"']{0,64}
=password rabbitmqctl LOGIN login requirepass masterauth pw· SecureString AUTH PASSWORD IDENT ident
\b(?:rabbitmqctl (?:add_user|change_password) \S{1,64} ["']?
(?:machine\s{1,8}\S{1,128}|default)\s{1,40}login\s{1,8}\S{1,128}\s{1,40}password\s{1,8}
ConvertTo-SecureString(?: -String)? (?=["'])["']
(?:cargo|vault) login (?=[\w.+/-]{0,64}[0-9])
AUTH (?:PLAIN|LOGIN|XOAUTH2)[ ](?=\S{0,64}[a-z])(?=[\w+/=]{12})
PASSWORD(?: FOR [^\s=]{1,128} =)?\s{1,4}["'](?=[^"'\\]{1,256}["'])(?!%)
(?:IDENT|ident)(?i:ified(?: with \w{1,40})? by (?:password )?)(?:["'](?!%)|(?<=BY )(?=[A-Za-z])))
(?:^|[\n>:"'])(?:[ ]?[A-Za-z]{1,4}[0-9]{1,6} LOGIN (?!failed )\S{1,128} ["']?
\s{0,40}(?:requirepass|masterauth|(?:root)?bindpw|rootpw) (?!is |not )["']?
AUTH["'],? ?(?:["']\w{1,64}["'],? ?)?["'](?=[^"'\s]{1,256}["'])(?![A-Z]+["'])
\s?(?:redis(?:-cli)? )?AUTH (?:\w{1,64} )?(?=\S{0,64}[0-9]\S{0,256}\s*$))
(?:(?<=['"])[^"'\\\n]{1,256}(?=["'])|(?:[^\s"'\\]|\\(?![rn"'])){1,256})
=password (' ("
(?:[ct]Auth|Credentials?|[Pp]assword|pw_set|\blogin|\bauth)\((?:["'][^"'\s]{1,64}["'], ?){1,2}["']
[^"'\s]{1,256}(?=["'])
=otp your·
\b[Yy]our code(?: is|:) (?=[0-9]{4,8}\b)
\b[Uu]se (?=[0-9]{4,8} as your )
(?:(?<![\w-])|\b[A-Z]-)(?=[0-9]{4,8} is your (?:\w{1,20} ){0,3}(?:code|OTP|PIN)\b)
[0-9]{4,8}
=password :5 :*:
(?:^|(?<=[\s"']))[\w.*-]{1,128}:(?:5[0-9]{3}|\*):[\w*-]{1,64}:[\w.*-]{1,64}:
[^\s"'\\:]{1,256}(?=[\s"'\\]|$)
=token ::
::(?:add-mask|set-(?:output|env) name=[\w-]{0,64}(?i:token|secret|password|key)[\w-]{0,64})::
[^\s"']{4,1024}
=password @
(?<![\w/@\[])[\w.-]{1,64}:(?=[^\s:@"']{1,128}@tcp\()|jdbc:oracle:[a-z]{1,8}:[^\s/:@]{1,64}/
\b(?:sqlplus|impdp|expdp|sqlldr|connect)(?: -\w{1,8})? \w{1,64}/
[^\s@]{1,128}(?=@)
=signature ig= ature= v1= hmac=
[?&](?:[Ss]ig(?:nature)?|hmac)=|\bt=[0-9]{1,12},v1=
[^\s&"'<>]{1,1024}
=otp code= ticket= code' code" code\
[?&]ticket=(?=[SP]G?T-)
(?<![\w-])(?:state=[^\s&]{1,512}|grant_type=authorization_code)&(?:[^\s&]{1,256}&){0,6}code=
(?<![\w-])code=(?=[^\s&]{8,1024}&(?:[^\s&]{1,256}&){0,6}(?:state=|grant_type=authorization_code))
["']state["']: ?["'][^\s"']{1,512}["'],[^{}]{0,200}?["']code["']: ?["']<MIXED>
["']code["']: ?["']<MIXED>(?=[^\s"']{8,1024}["'],[^{}]{0,200}?["']state["']:)
(?:(?!&)[^\s"']){8,1024}
=key key= kty
\bkey=b?["'](?=[\w/+-]{0,64}[0-9])(?=[\w/+-]{0,64}[A-Z])(?=[\w/+-]{0,64}[a-z])
[?&]key=(?=[A-Za-z]{0,64}[0-9])(?=[0-9]{0,64}[a-zA-Z])|["'](?:dp?|dq|qi?|p|k)["']: ?["']
[\w-]{20,1024}
=webhook hooks /with/key/
hooks\.slack\.com/|/api/(?:v[0-9]+/)?webhooks/|/with/key/
[\w/-]{10,256}
=webhook hook
://(?:(?!hook)(?:[^\s"'<>:]|:[0-9])){0,128}+hook(?:[^\s"'<>:]|:[0-9]){0,128}[/=@]
(?=[\w-]{0,64}[0-9])[\w-]{16,256}
"""


def _placed() -> Iterator[tuple[str, list[str], Any]]:
    parts = {"<OPTION>": _NEAR + r"[\s\"']", "<NEXT>": "(?:(?: |[\"'], ?[\"'])[\"']?)"}
    parts["<OWN>"] = "(?<!exec )(?<!run )(?<!sudo )(?<! -it )(?<!exec', ')(?<!run', ')(?<![\\w-])"
    parts["<LOGIN>"] = "(?:docker|podman|az|oc|registry)[\"', \\\\]{1,9}login"
    parts["<P>"] = "(?![0-9:./]{1,32}(?:[\\s\"']|$))"
    mixed = "".join(f"(?=[\\w/.~-]{{0,64}}[{each}])" for each in ("0-9", "A-Z", "a-z"))
    parts["<MIXED>"] = rf"(?:(?=[0-9a-f]{{20}}\b)|{mixed})"
    # quotes are escaped inside another text, and end a secret with what escapes them
    parts |= {"[\"']": r"(?:\\{0,7}[\"'])", "[^\\s\"']": r"(?:(?!\\{1,7}[\"'])[^\s\"'])"}
    places = reduce(lambda text, part: text.replace(*part), parts.items(), _PLACES)
    for place in places.strip().split("\n="):
        first, *before, secret = place.split("\n")
        kind, *signs = first.lstrip("=").split()
        pattern = later(f"({'|'.join(before)})(?!\\[red)(?:{secret})")
        yield marker(kind), [sign.replace("·", " ") for sign in signs], pattern


_PLACED: Final = list(_placed())
_PLACE: Final = later(any_of(sign for _, signs, _ in _PLACED for sign in signs))
#: Bearer and basic credentials in a header.
SCHEME: Final = later(
    rf"(?:(?<![\w-])|{ESCAPED})"
    r"(bearer|basic)( {1,4}|\+)(?![a-z_]{2,32}=[^\s=])([\w.~+/=-]{4,})",
    re.I | re.A,
)
#: Between groups of digits: also no-break spaces and other dashes, and a space as a form or JSON
#: writes it.
_SPACES: Final = " .\u00a0\u2009\u202f\u2010-\u2013-"
_BETWEEN: Final = rf"(?:[\t_/+{_SPACES}]{{1,2}}|\\(?:u00a0|u202f|xa0|t))"
#: Digits in one group, or in several with the same sign between them.
_CARD: Final = Begins(
    r"(?=\d{4})(?:(?<![\w.+-])|(?<=[A-Za-z][_-])|(?<=%B))",
    rf"(?:\d{{13,19}}|\d{{4,12}}(?P<by>{_BETWEEN})(?:\d{{4,12}}(?P=by)){{0,6}}\d{{3,12}})(?![\w-])",
)
#: Where a group ends.
_GROUPS: Final = ({4, 8, 12, 16}, {4, 10}, {6})
#: Cards by issuers' ranges: a time in ns or ms, and most ids, are not in them.
_ISSUER: Final = later(
    r"4\d{12}(?:\d{3}){0,2}|(?:5[1-5]|2[2-7])\d{14}|3[47]\d{13}|3[0689]\d{12,14}|35\d{14}"
    r"|(?:6011|64[4-9]\d|65\d\d|62\d\d|81[0-6]\d|817[01])\d{12,15}|(?:50|5[6-8]|6[0379])\d{14}"
    r"|(?:5018|5020|5038|5893|6304|6759|676[1-3])\d{9,15}"
)
_IBAN: Final = Begins(
    r"(?:\b|(?<=_))",
    rf"(?:[A-Z]{{2}}[0-9]{{2}}(?:[{_SPACES}]?[A-Z0-9]){{11,30}}"
    rf"|[a-z]{{2}}[0-9]{{2}}(?:[{_SPACES}]?[a-z0-9]){{11,30}})"
    r"(?![a-z])",
)
#: Lengths, each with its countries (ISO 13616 registry). By the checksum alone, one of a hundred
#: ids that look like an IBAN is redacted.
_IBAN_LENGTH: Final = {
    country: int(each[:2])
    for each in words_in(
        "15NO 16BE 18DKFIFOGLNL 19MKSI 20ATBAEEKZLTLUXK 21CHHRLILV 22BGBHCRDEGBGEIEMERSVA "
        "23AEGIILIQOMTL 24ADCZESMDPKROSASESKTNVG 25LYPTST 26ISTR 27BIDJFRGRITMCMRSM "
        "28ALAZBYCYDOGTHULBNIPLSV 29BREGPSQAUA 30JOKWMU 31MTSC 32LC 33RU"
    )
    for country in re.findall("..", each[2:])
}


_CHANGE: Final = later("(?<=[a-z])[A-Z0-9]|(?<=[A-Z])[a-z0-9]|(?<=[0-9])[A-Za-z]")
_DIGITS: Final = later("[0-9]+")
#: Letters that are in no word: `aQbR`, `QRS`.
_SHUFFLED: Final = later("[A-Z][a-z](?=[A-Z])|[A-Z]{2}(?=[A-Z])")


def _issued(found: re.Match[str]) -> str:
    way = found.lastindex or 0  # each has its group
    kind, begin = _KINDS[way - 1], found.start(way)
    before, text = found.string[found.start() : begin], found.string[begin : found.end()]
    is_mixed = any(map(str.isdigit, text)) or len(_SHUFFLED.findall(text)) > 1
    if kind != "aws" and not is_mixed:  # it is a name made of words
        return found.group()
    is_whole = kind != "jwt" or text.count(".") > 1 or text[2] == "."
    # cut in its claims, or not
    return before + marker(kind) if is_whole or ".ey" in text else found.group()


def _random(found: re.Match[str]) -> str:
    """Take out a token with a part that is no name: letters of both cases and digits change there
    as often as by chance, and twice as often as in words put together.
    """
    text = found.group()
    parts = re.split("[._-]", text)
    if all(part in (part.lower(), part.upper()) for part in parts):  # a UUID behind a name
        return text
    for part in (*text.split("."), *parts):
        changes = len(_CHANGE.findall(part)) if len(part) > 15 else 0
        if changes > 0.4 * len(part) and len(_DIGITS.findall(part)) > 1:
            return marker("token")
    return text


def _place(mark: str, found: re.Match[str]) -> str:
    return found[0] if is_placeholder(found[0][len(found[1]) :]) else found[1] + mark


def scheme(found: re.Match[str]) -> str:
    """Return what ``SCHEME`` found, without the credential, if it is one."""
    name, given = found.group(1).lower(), found.group(3)
    if name == "basic":
        user = unpacked(given)
        is_secret = ":" in user and user.isprintable() and "\ufffd" not in user
    else:
        is_secret = len(given) > 19 or any(map(str.isdigit, given)) or not given[1:].islower()
        is_secret &= not is_placeholder(given)
    return found.group(1) + found.group(2) + marker(name) if is_secret else found.group()


def _card(found: re.Match[str]) -> str:
    groups = found[0].split(found["by"]) if found["by"] else [found[0]]
    for first in range(len(groups)):  # another number may be beside it
        for last in range(len(groups), first, -1):
            ends = {*accumulate(map(len, groups[first : last - 1]))}
            if any(map(ends.issubset, _GROUPS)) and _is_card("".join(groups[first:last])):
                return (found["by"] or "").join((*groups[:first], marker("card"), *groups[last:]))
    return found[0]


def _is_card(digits: str) -> bool:
    doubled = "".join(str(2 * int(d)) if n % 2 else d for n, d in enumerate(reversed(digits)))
    return _ISSUER.fullmatch(digits) is not None and sum(map(int, doubled)) % 10 == 0


def _iban(found: re.Match[str]) -> str:
    text = found.group()
    length = _IBAN_LENGTH.get(text[:2].upper(), 0)
    end = next((n for n in range(len(text) + 1) if len(_solid(text[:n])) == length), 0)
    account, rest = _solid(text[:end]), text[end:]
    is_hash = _HASH.fullmatch(account) and not account[2:].isdecimal()
    if not (length and account) or is_hash or rest[:1].isalnum():
        return text
    number = int("".join(str(int(c, 36)) for c in account[4:] + account[:4]))
    return marker("iban") + rest if number % 97 == 1 else text


def _solid(text: str) -> str:
    return re.sub(f"[{_SPACES}]", "", text)


#: A percent-encoded part of a text, or of a query: a value, a name.
ENCODED: Final = later(r"(?<![^\s\"'<>&=?#])(?=[^\s\"'<>&=?#]*?%[0-9A-Fa-f]{2})[^\s\"'<>&=?#]+")

# ---------------------------------------------------------------- all of them

#: A sign of a card's or account's number, or an issued token: one pass shows that most texts have
#: no such sign. Between the groups of an IBAN any sign may stand here that is not ASCII: a set of
#: those that may takes 0.1 ms to compile.
LIKELY: Final = re.compile(
    rf"\b[\w-]{{4}}(?:(?<=[0-9])(?:(?<=[0-9]{{4}})([0-9\t_/+{_SPACES}]{{8,9}}[0-9]|\\[ux][0-9a]{{7}}|\\t[0-9]{{4}})"
    r"|(?<=[A-Z]{2}[0-9]{2})[^!-,/-\x9f]?[A-Z0-9]{4}"
    r"|(?<=[a-z]{2}[0-9]{2})[^!-,/-\x9f][a-z0-9]{4}[^!-,/-\x9f])"
    r"|(?=[\w-]{12})(?:(?<=[0-9a-f-]{4})[0-9a-f-]++()(?![\w-])|[\w-]+)|Q~)",
    re.ASCII,
)
_HASH: Final = later(r"[0-9a-fA-F]+")


def without_schemes(text: str) -> str:
    """Return *text* without private keys, and without the credentials of URLs."""
    if "PRIVATE KEY" in text or "Private-Lines" in text:
        text = _PEM.sub(marker("private-key"), text)
    if _PLACE.search(text):
        for mark, signs, placed in _PLACED:
            if has_one(signs, text):
                text = placed.sub(partial(_place, mark), text)
    return text


def without_numbers(text: str) -> str:
    """Return *text* without issued tokens, cards' and accounts' numbers."""
    kinds = {at.lastindex for at in LIKELY.finditer(text)}  # 1: digits; 2: an id in hex digits
    if None in kinds:
        text = _IBAN.sub(_iban, _RANDOM.sub(_random, _TOKEN.sub(_issued, text)))
    return text if kinds == {2} else _CARD.sub(_card, text)


#: An object or a list of JSON in base64.
PACKED: Final = later(r"(?<![\w+/-])(?:ey|ew|W3)[\w+/-]{20,}={0,2}(?![\w.])", re.ASCII)


def unpacked(text: str) -> str:
    """Return the JSON that *text* has in base64."""
    solid = re.sub("[^A-Za-z0-9+/]", "", text.translate(str.maketrans("-_", "+/")))
    return base64.b64decode(solid[: len(solid) - (len(solid) % 4 == 1)] + "==").decode(
        "utf-8", "replace"
    )
