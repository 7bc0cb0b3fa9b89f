"""Which names of fields hold secrets: by the words in them, in any case and style.

In: a name. Out: its words, and the kind of secret that they name. Deliberately absent: values.
"""

import re
import unicodedata
from collections.abc import Callable, Mapping
from typing import Final

#: Tells which kind of secret a name holds; None: none.
KindOf = Callable[[str], str | None]


def words_in(text: str) -> frozenset[str]:
    """Return the words of *text*."""
    return frozenset(text.split())


def by_kind(kinds: Mapping[str, str]) -> dict[str, str]:
    """Return each of the words of *kinds* with its kind."""
    return {word: kind for kind, words in kinds.items() for word in words.split()}


#: Words that name a secret, also where they are two (`api_key`), or end one (`dbpassword`).
_SECRET: Final = by_kind(
    {
        "password": "password pass pw psk passwd passwort kennwort pwd pswd passphrase passcode"
        " presharedkey pasword passwrd pswrd psswd psw passw pword"
        " senha motdepasse contrasena parola lozinka wachtwoord heslo haslo sifre salasana losenord"
        " adgangskode clavesecreta clavedeacceso jelszo passord geslo katasandi matkhau пароль"
        " парола κωδικοςπροσβασης סיסמה סיסמא كلمةالمرور كلمةالسر पासवर्ड รหัสผ่าน"
        " κωδικος 암호 口令 密码 密碼 パスワード 비밀번호 暗証番号",
        "secret": "secret mnemonic seedphrase recoverycode backupcode walletseed securityanswer"
        " codeverifier keymaterial keypem codicesegreto clesecrete",
        "token": "token jwt bearer idtokenhint samlresponse samlrequest samlassertion"
        " clientassertion ghpat githubpat gitlabpat",
        "authorization": "authorization auth oauth masterauth httpauth basicauth proxyauth",
        "cookie": "cookie aspxauth coreidentityapplication",
        "session": "session sess sessionid sessid sessionkey connectsid",
        "credential": "credential cred dsn connectionstring connstring connstr",
        "csrf": "csrf xsrf",
        "signature": "sig webhooksignature stripesignature slacksignature requestsignature"
        " sharedaccesssignature",
        "otp": "otp pin mfa totp otpcode mfacode verificationcode twofactorcode securitycode"
        " authcode pincode facode smscode timecode devicecode logincode accesscode unlockcode"
        " doorcode unlockpattern",
        "card": "pan cardnumber cardnum cardno ccnumber ccnum creditcard cvv cvc",
        "personal": "ssn iban socialsecurity socialsecuritynumber taxid taxidnumber",
        "key": " ".join(
            f"{whose}key"
            for whose in words_in(
                "api app application private priv secret access signing signature encryption "
                "decryption crypto master auth account storage shared hmac ssh rsa pgp gpg deploy "
                "service webhook license subscription function client consumer server tls ssl aes "
                "jwt vault root security transaction merchant admin openai stripe anthropic "
                "sendgrid activation product fernet cipher unseal unlock pem wrapping recovery "
                "role apollo sas"
            )
        ),
    }
)
#: Words that name a secret only as the whole name, or as the second of two words.
_WHOLE: Final = {"sid": "session", "authentication": "authorization", "assertion": "token"}
#: Words behind these that make it another thing's name: `session_count`, `token_type`.
_ABOUT: Final = words_in(
    "active age agent alg algo algorithm arn at attempt audience backend banner begin bucket "
    "budget by cache callback channel check class client column consent cost count counter "
    "country date day decision detail domain duration end endpoint error event exception exist "
    "exp expiration expire expiry factor factory failure field file fingerprint flag flow for "
    "forgot form format from generator go group handler hasher helper hint host hour httponly id "
    "identity ids in index issuer java js kind label language latency left len length less level "
    "lifetime limit locale location lock log manager max message method metric middleware min "
    "minute mode module ms name nonce notice num number of offset ok on optional order outcome "
    "owner page parser path per php plugin policies policy pool port position preference prefix "
    "present price progress protection protocol provider py rate ratio rb reason ref reference "
    "refresh request requires reset response result retries retry role rotation rule samesite "
    "scheme scope score sec second server service set since size source start state stats "
    "status stdin storage store strength success suffix template through time timeout timestamp "
    "title to total ts ttl type uid until uri url usage user username uuid valid validator "
    "validity version window symbol address room speaker affinity"
)
_STILL: Final = words_in("decoded decrypted encoded encrypted hashed seed shared signed string")
#: Words behind these for a secret's form: it stays a secret's name.
_FORMS: Final = _STILL | words_in("value text hash plain key base data code phrase word answer id")
#: Words before these if they are counted, or asked for.
_ASKED: Final = words_in(
    "allow allows are avg can count disable enable existing has have is max mean min n need needs "
    "no num number public require requires should total use uses using was with without"
)
#: Words before these that make it another thing's name: tokens of pages, of models, of calls that
#: may be repeated or given up; a ticket, or one of several rounds.
_OTHERS: Final = {
    "token": words_in(
        "page next eos bos pad unk mask sep cls stop special sync continuation cursor pagination "
        "resume start end first last unexpected mismatched cancel cancellation idempotency fencing"
    ),
    "pass": words_in("band boarding by final first last low high one second single test season"),
    "session": words_in("next"),
}
#: Each secret's name has one of these somewhere: for a quick check.
STEMS: Final = tuple(
    words_in(
        "pass pw psw ssw pasw token secret key auth cookie sess cred sig pin otp srf jwt bearer "
        "mfa cv card code conn mnemonic seed sid ssn iban senha motdepasse social tax unlock "
        "contras parola lozinka wachtw heslo haslo kennw sifre salasana senord jelsz geslo "
        "adgangs dsn psk hmac saml assertion verifier answer ccn cc_n gh_pat b_pat ghpat bpat "
        "sandi acceso segreto"
    )
)
#: In those with other letters; some words of two, and some with accents, begin so.
FOREIGN: Final = tuple(
    {word[:4] for word in _SECRET if not word.isascii()}
    | words_in("hasło şifre secrè khẩu πρόσβ προσβ مرور السر")
)
#: Keys that are not secret: of stores, of tables, on keyboards.
_NO_KEY: Final = words_in(
    "primary foreign public unique cache sort partition row hash map routing object s message "
    "redis kafka idempotency dedup index lookup translation i enter escape arrow hot meta "
    "registry group order search shard distribution host config setting option attr dict field "
    "data item"
)
#: Stems that name a secret inside words that are run together; and at their end. Not one pattern of
#: all: it takes 2 ms of set-up to compile.
_INSIDE: Final = tuple(word for word in _SECRET if word[0] > "\u3000")
_AT_END: Final = tuple(w for w in _SECRET if (len(w) > 4 and w != "session") or w == "pwd")
#: Whatever ends with `pass` is a password, whoever's it is (`dbpass`), but behind these.
_NO_PASSWORD: Final = words_in(
    "all band boarding by com encom final first high kom last low multi one over post pre render "
    "second shader single sur test tres two under"
)
_WORD: Final = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|(?:[^\W\d_A-Za-z]|[\u0900-\u0eff])+")
_NO_ACCENTS: Final = str.maketrans("łŁøØđĐı", "lLoOdDi")  # which have no other form
_COMPOUND: Final = re.compile(
    "(password|passwd|pwd)(.+)|(pass|pw|secret|token|cookie)(hash|value|text|plain|string)"
)
#: Words before the owner of a secret: `password_for_db`, `secret_of_user`.
_WHOSE: Final = ("for", "of")


def words_of(name: str) -> list[str]:
    """Return the words of a name in any style, in lower case and the singular, without digits."""
    found: list[str] = []
    if "%" in name:
        name = re.sub("%(?:25)*[0-9A-Fa-f]{2}", " ", name)
    if not name.isascii():  # without accents
        name = name.translate(_NO_ACCENTS)
        bare = re.sub("[\u0300-\u036f]", "", unicodedata.normalize("NFD", name))
        name = unicodedata.normalize("NFC", bare)
    for word in _WORD.findall(name):
        compound = _COMPOUND.fullmatch(word.lower())
        found += filter(None, compound.groups()) if compound else [word.lower()]
    return [w[:-1] if w[-1] == "s" and w[-2:] != "ss" and len(w) > 3 else w for w in found]


def is_variable_of_key(name: str, words: list[str]) -> bool:
    """Say whether *name* is a variable that holds a key: `COSMOS_KEY`."""
    return name[1:].isupper() and words[-1:] == ["key"] and not _NO_KEY.issuperset(words[-2:-1])


def is_else(name: str) -> bool:
    """Say whether *name* is another thing's, by its last word or the word before: `secret_garden`,
    `jam_session`.
    """
    words = words_of(name)
    end = words[-1:]
    if end[0] in ("session", "cookie"):
        return len(words) > 1
    return kind_of(end) is None and _FORMS.isdisjoint(end) and not {*_WHOSE}.intersection(words)


def kind_of(words: list[str]) -> str | None:
    """Return the kind of secret that *words* name; None: none."""
    if not words or (len(words) > 1 and words[0] in _ASKED):
        return None
    before, first = "", ""
    kind, place = _WHOLE.get(words[-1]) if len(words) < 3 else None, 0
    for number, word in enumerate(words):
        # `length_of_password`, `boarding_pass`
        is_other = (before in _WHOSE and first in _ABOUT) or before in _OTHERS.get(word, ())
        one = None if is_other else _kind_at(word, before, first, words[0])
        if one is not None:
            kind, place = one, number
        first, before = before, word
    for word in words[place + 1 :]:
        if word in _WHOSE and word != before:
            return kind
        is_done = word.endswith(("ed", "ing")) and word not in _STILL
        if is_done or word in _ABOUT or f"{word}s" in _ABOUT:
            return None
    return kind


def _kind_at(word: str, before: str, first: str, begin: str) -> str | None:
    """Return which kind a name's *word* is, alone, or with those before; *begin*: the first one."""
    if word == "key" and before.endswith("api"):
        return word
    if word in ("signature", "hmac") and begin == "x":
        return word
    for each in (before + word, word, first + before + word):
        if each in _SECRET:
            return _SECRET[each]
    found = [w for w in _INSIDE if w in word]
    if word.endswith(_AT_END):  # nearly no word does, and all are looked for at once
        found += [w for w in _AT_END if word.endswith(w)]
    if found:
        return _SECRET[max(found, key=len)]
    is_short = word.endswith("pw") and len(word) > 3
    is_pass = word.endswith("pass") and len(word) > 5 and word[:-4] not in _NO_PASSWORD
    return "password" if is_short or is_pass else None
