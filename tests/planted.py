"""Secrets planted in texts and fields, and harmless neighbours of them.

Every planted secret holds ``NEEDLE``, or is one by its looks and stands for itself.
"""

import hashlib
import random
import uuid
from collections.abc import Iterator
from typing import Any

from tests import planted_by_place, planted_lines, planted_more, planted_places

NEEDLE = "hunter2Xq"

#: Names in every style, of every kind.
KEYS = """
    password passwd pwd PASSWORD userPassword user.password db-password dbPassword DB_PASSWORD
    new_password password_confirmation passwordHash passphrase SSH_PASSPHRASE mysql_pwd PGPASSWORD
    userpassword smtp_pass secret client_secret clientSecret CLIENT-SECRET app.secret secret_value
    sharedSecret webhookSecret token access_token accessToken refresh-token ID_TOKEN authToken
    bearerToken csrfToken GITHUB_TOKEN x-auth-token bot.token tokenEncrypted authtoken
    csrfmiddlewaretoken authorization Authorization Proxy-Authorization proxy_authorization
    http.request.header.authorization cookie Cookie set-cookie Set_Cookie sessionCookie
    http.request.header.cookie cookies session session_id sessionId SESSIONID PHPSESSID JSESSIONID
    connect.sid user.session session-key api_key apiKey API_KEY x-api-key X-API-Key apikey
    stripe.api.key privateKey private_key PRIVATE-KEY private_key_pem access_key
    AWS_SECRET_ACCESS_KEY signing_key encryptionKey master-key ssh_key secret_key SECRET_KEY_BASE
    account_key credential credentials user_credentials dbCreds connection_string connectionString
    csrf xsrf X-CSRF-Token X-XSRF-TOKEN jwt auth basic_auth otp totp_code pin card_pin cvv
    card_number
""".split()  # noqa: SIM905 - read as words

#: Texts with a place for the value of a name.
TEXTS = (
    "{key}={value}",
    "failed: {key}: {value}, user bob",
    '{{"a": 1, "{key}": "{value}", "b": 2}}',
    '{{"body": "{{\\"{key}\\": \\"{value}\\"}}"}}',
    "{{'a': 1, '{key}': '{value}'}}",
    "https://example.com/a?page=2&{key}={value}&x=1",
    "next=%2Fa%3F{key}%3D{value}%26x%3D1",
    "%7B%22{key}%22%3A%22{value}%22%7D",
    "Host: a\r\n{key}: {value}\r\nAccept: */*",
    "GET / HTTP/1.1\\r\\n{key}: {value}\\r\\n",
    "Login(user='bob', {key}='{value}', n=1)",
    "run --user bob --{key} {value} --quiet",
    "<a><{key}>{value}</{key}></a>",
    "[('host', 'a'), ('{key}', '{value}')]",
    "export {key}='{value}'",
    "{key} = {value}",
    '[{{"name": "{key}", "value": "{value}"}}, {{"name": "Host", "value": "a"}}]',
    "curl -H '{key}: {value}' https://example.com",
    "user[{key}]={value}&commit=1",
)

_HEX = "0f3a9b2c4d5e6f708192a3b4c5d6e7f8"
_BODY = "aB3dE6gH9jK2mN5pQ8sT1vW4yZ7bC0eF3hJ6kM9n"
_PEM = "-----BEGIN {0}PRIVATE KEY-----\nMIIE{1}\n{1}\n-----END {0}PRIVATE KEY-----"

#: What is a secret by its looks.
LOOKS = (
    f"AKIA{_BODY.upper()[:16]}", f"ASIA{_BODY.upper()[:16]}",
    f"AIza{_BODY[:35]}", f"ya29.a0{_BODY}",
    f"GOCSPX-{_BODY[:28]}", f"xoxb-123456789012-{_BODY[:24]}",
    f"xoxp-1-2-3-{_HEX}", f"xapp-1-A1-2-{_HEX}",
    f"ghp_{_BODY[:36]}", f"gho_{_BODY[:36]}",
    f"ghs_{_BODY[:36]}", f"github_pat_{_BODY[:22]}_{_BODY}",
    f"glpat-{_BODY[:20]}", f"sk_live_{_BODY[:24]}",
    f"rk_test_{_BODY[:24]}", f"whsec_{_BODY[:32]}",
    f"sk-{_BODY}", f"sk-proj-{_BODY}",
    f"sk-ant-api03-{_BODY}", f"npm_{_BODY[:36]}", f"pypi-AgEIc{_BODY}",
    f"SG.{_BODY[:22]}.{_BODY}abc", f"SK{_HEX}", f"1234567890:AA{_BODY[:33]}", f"hf_{_BODY[:34]}",
    f"dckr_pat_{_BODY[:27]}", f"lin_api_{_BODY}", f"glsa_{_BODY[:32]}_1a2b3c4d", f"shpat_{_HEX}",
    f"dop_v1_{_HEX}{_HEX}", f"hvs.{_BODY}", f"gsk_{_BODY}", f"key-{_HEX}", f"dapi{_HEX}",
    "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTYifQ.dozjgNryP4J3jVmNHl0w5N", f"{_BODY}{_BODY}aBcDeF==",
    f"Bearer {_BODY}", f"bearer {_HEX}", "Basic dXNlcjpodW50ZXIy", "basic Ym9iOnNlY3JldHBhc3M=",
    _PEM.format("", _BODY), _PEM.format("RSA ", _BODY), _PEM.format("EC ", _BODY),
    _PEM.format("OPENSSH ", _BODY), _PEM.format("ENCRYPTED ", _BODY),
    "4111111111111111", "4111 1111 1111 1111", "5500-0000-0000-0004", "378282246310005",
    "3782 822463 10005", "6011111111111117", "3530111333300000",
    "GB82WEST12345698765432", "GB82 WEST 1234 5698 7654 32", "DE89370400440532013000",
    "FR1420041010050500013M02606", "NL91ABNA0417164300",
)  # fmt: skip

#: Secrets of URLs: what must go, and the URL.
URLS = tuple(
    (NEEDLE, f"{scheme}://{user}:{NEEDLE}@{host}")
    for scheme in ("https", "postgres", "redis", "amqp", "mongodb+srv")
    for user, host in (("bob", "db.example.com/x"), ("", "10.0.0.1:6379/0"))
)


def texts() -> Iterator[tuple[str, str]]:
    """Yield each secret with a text that it is in: each kind of name in each kind of text."""
    for number, key in enumerate(KEYS):
        for text in (TEXTS[number % len(TEXTS)], TEXTS[(number * 7 + 3) % len(TEXTS)]):
            if " " not in key:
                yield NEEDLE, text.format(key=key, value=NEEDLE)
    for text in TEXTS:
        yield NEEDLE, text.format(key="password", value=NEEDLE)
        yield NEEDLE, text.format(key="x-api-key", value=NEEDLE)
    for look in LOOKS:
        secret = look.split("\n")[1] if "\n" in look else look.split(" ")[-1]
        secret = look if look[0].isdigit() or look[:2].isupper() else secret
        yield secret, look
        yield secret, f"it was {look} at noon"
        yield secret, f'["{look}"]'
    yield from URLS
    yield NEEDLE, f"Cookie: theme=dark; sid={NEEDLE}; b=1; c={NEEDLE}"
    yield NEEDLE, f"Set-Cookie: id={NEEDLE}; Path=/; HttpOnly\nDate: now"
    yield NEEDLE, f'Authorization: Digest username="bob", realm="x", response="{NEEDLE}"'
    yield NEEDLE, f"Authorization: AWS4-HMAC-SHA256 Credential=AB/1, Signature={NEEDLE}"
    yield NEEDLE, f"config: password=SecretStr('{NEEDLE}'), port=1"
    yield NEEDLE, f"session={{'id': '{NEEDLE}', 'more': {{'a': [1, '{NEEDLE}']}}}} next"
    yield NEEDLE, f"Server=db;User Id=sa;Password={NEEDLE};Database=x"
    yield NEEDLE, f"headers=[(b'host', b'a'), (b'authorization', b'{NEEDLE}')]"
    yield NEEDLE, f'password="a \\"quoted\\" {NEEDLE}", next'
    yield from planted_more.texts()
    for key in planted_places.KEYS:
        yield NEEDLE, f"{key}={NEEDLE}"
        yield NEEDLE, f'"{key}": "{NEEDLE}"'
    for text in planted_places.TEXTS + planted_lines.TEXTS + planted_by_place.TEXTS:
        yield NEEDLE, text.replace("§", NEEDLE)
    for at, scheme in enumerate(planted_places.SCHEMES):
        for number, secret in enumerate(planted_places.CREDENTIALS):
            header = planted_places.HEADERS[(at + 3 * number) % len(planted_places.HEADERS)]
            yield secret, header.replace("§", f"{scheme} {secret}")
    for text in planted_places.NAMED:
        for secret in planted_places.CREDENTIALS[:2]:
            yield secret, text.replace("§", secret)
    for number in ("4111.1111.1111.1111", "gb82west12345698765432"):
        yield number, f"paid by {number} today"
    for hashed in planted_places.HASHES:
        yield hashed, f"hash {hashed} of bob"


def values() -> Iterator[tuple[str, str, Any]]:
    """Yield secrets as a field: its name, and a value of every shape."""
    shapes = (
        lambda v: v, lambda v: [v], lambda v: (v, v), lambda v: {v}, lambda v: v.encode(),
        lambda v: {"a": v}, lambda v: 9007199254740993, lambda v: [{"x": [v]}],
    )  # fmt: skip
    for number, key in enumerate(KEYS + planted_more.KEYS + planted_places.KEYS):
        shape = shapes[number % len(shapes)]
        yield NEEDLE, key, shape(NEEDLE)
        nested = {"rows": [{"n": 1, key: NEEDLE}], key: [NEEDLE]}
        yield NEEDLE, "nested", nested
        yield NEEDLE, "pairs", [("host", "a"), (key, NEEDLE)]
        if key.isascii():  # bytes of other names are no text
            yield NEEDLE, "raw", ((b"host", b"a"), (key.encode(), NEEDLE.encode()))
        yield NEEDLE, "har", [{"name": key, "value": NEEDLE}]
    for name, value in planted_places.VALUES:
        yield NEEDLE, name, _with(NEEDLE, value)
    for secret, text in texts():
        yield secret, "note", text
        yield secret, "notes", {"a": [text]}


def _with(secret: str, value: Any) -> Any:
    """Return *value*, of any depth, with *secret* in its place."""
    if isinstance(value, dict):
        return {name: _with(secret, item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_with(secret, item) for item in value)
    return value.replace("§", secret) if isinstance(value, str) else value


#: Names that hold no secret.
NEIGHBOUR_KEYS = """
    author authored_by authors coauthor authority authenticated session_count session_duration
    sessionCount session_timeout session_started tokens_used max_tokens maxTokens
    prompt_tokens_details token_count token_type token_limit tokens_remaining tokens_per_second
    token_expires_at access_token_expires_in tokenizer tokenized secretary secretariat secret_name
    secret_version passenger passage compass passed passing bypass passport pass_count first_pass
    boarding_pass password_length password_policy password_changed_at password_reset_requested
    password_strength password_attempts passwordless has_password is_secret needs_token
    cookie_consent cookie_domain cookie_banner cookiecutter authorization_status auth_method
    auth_provider auth0_domain oauth_provider credential_type api_key_id apikey_count key key_id
    keys primary_key foreign_key public_key cache_key sort_key partition_key routing_key
    idempotency_key keyboard keyword monkey turkey hotkey csrf_enabled jwt_issuer pinned pinning
    spinning opinion signature_valid design signed otp_enabled card_type user_id username
    account_id trace_id span_id http.request.method url.path db.system thread.id
    messaging.message.id gen_ai.token.type x-request-id content-type num_tokens
    secretKeyRotationDays session_store session_backend csrf_protection certificate fingerprint
    checksum classroom assessment
""".split()  # noqa: SIM905 - read as words
NEIGHBOUR_KEYS += planted_more.NEIGHBOUR_KEYS + planted_places.NEIGHBOUR_KEYS

NEIGHBOUR_TEXTS = """\
the author authored this, the secretary signed it
session_count=5 tokens_used=120 max_tokens=4096
Unexpected token: '}'
Unexpected token < in JSON at position 0
KeyError: 'password'
AuthenticationError: invalid credentials
password: required
Password must be at least 8 characters
the token is invalid, and the session is over
Token: expired
Authorization: missing
bearer token required
basic information about the user
Basic auth failed
GET /sessions/12 200
secret santa: anna
pass: 12, fail: 3
tokens: 512
prompt_tokens=100, completion_tokens=20
http://localhost:8080/path?email=a@b.c
https://example.com/login?next=/home
see https://docs.example.com/auth#tokens
12:30:01 user 5 logged in
2026-11-26T17:00:54.123456Z
api-6f8d9c7b5e-x2x9z restarted
sk-learn-contrib-something-long
pi_3MtwBwLkdIwHu7ix28a3tqPa
cus_NffrFeUfNV2Hib
arn:aws:iam::123456789012:role/service-role
sha512-z4PhNX7vuL3xVChQ1m2AB9Yg5AULVxXcg/SpIdNs6c5H0NE8XYXysP+DGNKHfuwvY7kxvUdBeoGlODJ6+SfaPg==
def login(user: str, password: str) -> None:
session: Session
key=abc
author=bob
password=None
password=***
token=${TOKEN}
token={token}
Access denied: not authorized
passenger: Bob
127.0.0.1:8080 ::1
bob@example.com called +1 415 555 2671
{"a": 1, "author": "bob"}
npm_config_registry
pypi-publish-workflow
password_reset_url=https://example.com/y
Bearer of bad news
X-Request-Id: abc123
DE89 3704 0044 0532 0130 01
4111 1111 1111 1112
0.4111111111111111
a == b, c != d, e -> f
C:\\Users\\bob\\notes.txt""".split("\n")  # noqa: SIM905 - as well


def neighbours() -> Iterator[str]:
    """Yield harmless texts, ids of every kind among them; the same ones each time."""
    yield from NEIGHBOUR_TEXTS
    yield from planted_more.neighbours()
    yield from planted_places.NEIGHBOUR_TEXTS + planted_lines.NEIGHBOUR_TEXTS
    yield from planted_by_place.NEIGHBOUR_TEXTS
    chance = random.Random(7)
    for number in range(60):
        yield str(uuid.UUID(int=chance.getrandbits(128)))
        yield f"commit {hashlib.sha1(bytes([number]), usedforsecurity=False).hexdigest()}"
        yield f"trace {chance.getrandbits(128):032x} span {chance.getrandbits(64):016x}"
        yield f"order {1_000_000_000_000_000 + chance.getrandbits(49)} was placed"
        yield str(1_764_176_278_000_000_000 + chance.getrandbits(60) % 10**15)
        yield f"sha256:{hashlib.sha256(bytes([number])).hexdigest()}"
