"""What a secret is: by its name, by its looks. Every text, in linear time, once and for all."""

import json
import random
import time
from collections import namedtuple
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from typing import Any
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from otel_logging import ConfigurationError, Redaction, _json, _otlp, _runtime
from otel_logging._redact import DEFAULT, OFF
from otel_logging._values import bounded, field, plain
from otel_logging.binding import on_lines
from otel_logging.logs.configure import use
from tests import planted, planted_places
from tests.linear import is_done_within

PERSONAL = Redaction(personal=True, who=["user_id"], salt="s")
TEXTS = list(planted.texts())
VALUES = list(planted.values())
NEIGHBOURS = list(planted.neighbours())


def test_the_corpora_are_large_enough() -> None:
    """At least 300 of each."""
    assert min(len(TEXTS), len(VALUES), len(NEIGHBOURS)) >= 300


@pytest.mark.parametrize("written", [str, repr, quote])
def test_every_planted_text_loses_its_secret(written: Callable[[str], str]) -> None:
    """And keeps a marker, which echoes no part. Also as Python and a URL write the text."""
    left = []
    for secret, text in TEXTS:
        if written is quote and "%" in text:  # it would be encoded twice
            continue
        found = DEFAULT.text(written(text))
        if secret in found or written(secret) in found or "[redacted:" not in found:
            left.append((text, found))
    assert left == []


def test_every_planted_field_loses_its_secret() -> None:
    """Whatever shape its value has, and wherever the name stands."""
    left = []
    for secret, name, value in VALUES:
        found = DEFAULT.field(name, bounded(value))
        if secret in repr(found) or "[redacted:" not in repr(found):
            left.append((name, value, found))
    assert left == []


def test_no_neighbour_is_touched() -> None:
    """Neither a text, nor a value whose name only sounds like one."""
    assert [text for text in NEIGHBOURS if DEFAULT.text(text) != text] == []
    assert [key for key in planted.NEIGHBOUR_KEYS if DEFAULT.field(key, "abc") != "abc"] == []
    assert [text for text in NEIGHBOURS if DEFAULT.value({"a": [text]}) != {"a": [text]}] == []
    fields = [(name, bounded(value)) for name, value in planted_places.NEIGHBOUR_VALUES]
    assert [DEFAULT.field(name, value) for name, value in fields] == [value for _, value in fields]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("password", None),
        ("password", ""),
        ("secret", True),
        ("tokens", 512),
        ("prompt_tokens", "512"),
        ("active_sessions", 7),
        ("GET /api/session", 12.5),
        ("password_entropy", 45.2),
        ("token", "[redacted:bearer]"),
        ("password", "***"),
        ("number", 1764176278000000000),
        ("n", 4111111111111112),
    ],
)
def test_what_is_no_secret_under_such_a_name_stays(name: str, value: Any) -> None:
    """Nothing, a bool, a count, what has been taken out already."""
    assert DEFAULT.field(name, value) == value


_PLACEHOLDERS = """
    [REDACTED] REDACTED redacted *** **** ******** <redacted> [Filtered] xxxxx <hidden> {{token}}
    ${TOKEN} %s {token} [MASKED] XXXX ***REDACTED*** --redacted-- [secure] (removed) [Scrubbed]
    ${{secrets.TOKEN}} $TOKEN %TOKEN% [REDACTED_TOKEN] [redacted:password] <TOKEN> __REDACTED__
""".split()  # noqa: SIM905 - read as words
_PLACES = (
    "{name}=§",
    "{name}: §",
    '{{"{name}": "§"}}',
    "{{'{name}': ['§', '§']}}",
    "b'§'",
    "https://x/?a=1&{name}=§&b=1",
    "https://x/?sig=§",
    "https://x/?X-Goog-Signature=§&a=1",
    "postgres://bob:§@db/shop",
    "Authorization: Bearer §",
    "Set-Cookie: sid=§; Path=/; Max-Age=5; HttpOnly",
)


@pytest.mark.parametrize("placeholder", _PLACEHOLDERS)
def test_what_others_put_in_a_secret_s_place_stays(placeholder: str) -> None:
    """As a value, in a list, in a URL, in a header's line."""
    for name in ("password", "token", "authorization", "cookie", "http.request.header.x_api_key"):
        for value in (placeholder, [placeholder], {"a": [placeholder]}, f"b'{placeholder}'"):
            assert DEFAULT.field(name, value) == value
        for place in _PLACES:
            if placeholder in ("<redacted>", "<hidden>", "<TOKEN>") and "://" in place:
                continue  # no part of a URL
            text = place.format(name=name).replace("§", placeholder)
            assert DEFAULT.text(text) == text


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (["a"], ["@"]),
        (("a", "b"), ("@", "@")),
        ([["a"], {"b": "c"}], [["@"], {"b": "@"}]),
        ({"a": "b", "c": ["d", None, True, 5]}, {"a": "@", "c": ["@", None, True, "@"]}),
        ({"a1": "b", "a2": "c"}, {"@": "@", "@_": "@"}),
        ([""], [""]),
        ([], []),
        ({}, {}),
    ],
)
def test_a_list_or_a_mapping_under_a_secret_s_name_is_one_still(value: Any, expected: Any) -> None:
    """As who reads a header's values: each member is a marker."""
    mark = "[redacted:authorization]"

    def marked(each: Any) -> Any:
        if isinstance(each, dict):
            return {marked(name): marked(item) for name, item in each.items()}
        if isinstance(each, (list, tuple)):
            return type(each)(map(marked, each))
        return each.replace("@", mark) if isinstance(each, str) else each

    for name in ("authorization", "http.request.header.authorization"):
        assert DEFAULT.field(name, value) == marked(expected)
        assert DEFAULT.field(name, marked(expected)) == marked(expected)


def test_a_card_number_may_be_an_integer() -> None:
    """Its checksum and its issuer say so."""
    assert DEFAULT.value([4111111111111111, 5]) == ["[redacted:card]", 5]


def test_fields_of_a_usual_line_have_no_secrets() -> None:
    """Neither new ones, nor those that are remembered; and each has its own type."""
    fields: dict[str, Any] = {"note": "password=a", "n": 5, "big": 4111111111111111}
    fields |= {"token": "a", "pin": 123, "none": None, "ratio": 0.5}
    for redaction in (Redaction(), OFF, Redaction(personal=True, who=["n"], salt="s")):
        with redacted_by(redaction):
            for one in (1, 1.0, True, 1):  # which are one key of a dict
                shown = redaction.value({**fields, "one": one})
                text, attributes = on_lines({**fields, "one": one}) or (b"", b"")
                assert text == b"," + _json.dumps(shown)[1:-1]
                assert attributes == _otlp.attributes(_otlp.EVENT_TAG, shown)


@pytest.mark.parametrize("value", ["a" * 8193, 2**63, float("nan"), ["a"]])
def test_a_line_with_another_value_is_not_usual(value: Any) -> None:
    """It needs a closer look; so does one with a field that lines have themselves."""
    assert on_lines({"n": 5, "a": value}) is None
    assert on_lines({"level": 5}) is on_lines({"exc_info": True}) is None
    assert on_lines({"token": "abcd"}) is on_lines({"n": 1, "pin": 1234}) is None
    assert on_lines({"tokens": 12, "password": None}) is not None


def test_a_line_of_many_fields_takes_linear_time() -> None:
    """Ten thousand of them are one log call."""
    fields = {f"k{number}": "x" * 2000 for number in range(4000)}
    began = time.process_time()
    assert on_lines(fields) is None  # of the usual line each would copy those before it: 9 s
    assert time.process_time() - began < 1.0


def test_what_lines_hold_is_remembered_within_bounds() -> None:
    """Fields without end, and long ones, take no memory without end."""
    redaction = Redaction(keys=["house"])
    with redacted_by(redaction):
        for number in range(9000):
            on_lines({"key": f"text {number}"})
        on_lines({"key": "x" * 1000, "count": 1000})
    assert 0 < len(redaction.encoded) <= 4096
    assert max(len(value) for _, value in redaction.encoded) < 20


@contextmanager
def redacted_by(redaction: Redaction) -> Iterator[None]:
    """Take out what *redaction* says for the length of a block."""
    before = _runtime.current
    use(replace(before, redaction=redaction))
    try:
        yield
    finally:
        use(before)


def test_a_number_may_be_a_secret_though_one_of_its_name_is_none() -> None:
    """What is remembered of attributes with numbers is of those whose name says nothing."""
    for number, shown in ((0.25, 0.25), (4711.0, "[redacted:otp]"), (0.5, 0.5)):
        encoded = _otlp.attributes(_otlp.SPAN_TAG, {"pin": number, "n": number})
        read = _otlp.values_of(Span.FromString(encoded).attributes)
        assert read == {"pin": shown, "n": number}


def test_what_was_let_stand_is_taken_out_once_it_is_to_be() -> None:
    """Though it was remembered; a span whose attribute is remembered does not look at it."""
    given = {"password": "hunter2", "pin": 4711.0}
    hidden = {"password": "[redacted:password]", "pin": "[redacted:otp]"}
    for redaction, shown in ((OFF, given), (DEFAULT, hidden), (OFF, given)):
        with redacted_by(redaction):
            for _ in range(3):
                encoded = _otlp.attributes(_otlp.SPAN_TAG, given)
                assert _otlp.values_of(Span.FromString(encoded).attributes) == shown
            assert _otlp.is_known("password", "hunter2") == (redaction is OFF)


def test_what_is_remembered_is_bounded() -> None:
    """Names and texts without end take no memory without end, and are found anew."""
    redaction = Redaction()
    for number in range(9000):
        redaction.field(f"n{number}", f"text {number}")
    assert len(redaction.seen) <= 4096
    assert redaction._kind.cache_info().currsize <= 4096
    assert redaction.field("password", "a") == "[redacted:password]"


def test_names_of_a_mapping_are_texts_too() -> None:
    """Two of them that are secrets are two still."""
    token = planted.LOOKS[8]
    assert DEFAULT.value({token: 1, f"{token}x": 2}) == {
        "[redacted:github]": 1,
        "[redacted:github]_": 2,
    }


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Authorization: Bearer abc.def-123", "Authorization: Bearer [redacted:bearer]"),
        ("postgres://bob:x1@db/shop", "postgres://bob:[redacted:url-password]@db/shop"),
        ("IDENTIFIED BY 'x1';", "IDENTIFIED BY '[redacted:password]';"),
        ("<pwd><![CDATA[a<x1]]></pwd>", "<pwd><![CDATA[[redacted:password]]]></pwd>"),
        ("Database=a;Pwd=a x1;User ID=a", "Database=a;Pwd=[redacted:password];User ID=a"),
        ("Database=a;Password=x1 failed", "Database=a;Password=[redacted:password] failed"),
        (
            '{"b": "form-data; name=\\"pin\\"\\r\\n\\r\\nx1"}',
            '{"b": "form-data; name=\\"pin\\"\\r\\n\\r\\n[redacted:otp]"}',
        ),
        ("a=1&password=x1&b=2", "a=1&password=[redacted:password]&b=2"),
        ('{"api_key": "x1", "a": 1}', '{"api_key": "[redacted:key]", "a": 1}'),
        ('{"api_key": "x1", "session": 1.5}', '{"api_key": "[redacted:key]", "session": 1.5}'),
        (
            "{&quot;token&quot;: null, &quot;a&quot;: 1}",
            "{&quot;token&quot;: null, &quot;a&quot;: 1}",
        ),
        ("?a=1&amp;token=x1yZ&amp;b=2", "?a=1&amp;token=[redacted:token]&amp;b=2"),
        ("Server=a;Password=x1 y;b=2", "Server=a;Password=[redacted:password];b=2"),
        ("pay 4111 1111 1111 1111 now", "pay [redacted:card] now"),
        ("GB82 WEST 1234 5698 7654 32 was", "[redacted:iban] was"),
        ("token=(a", "token=[redacted:token]"),
        ("token='a", "token='[redacted:token]"),
        ("Basic !!!!!!!", "Basic !!!!!!!"),
        ("basic abcdefghi", "basic abcdefghi"),
        ("eyJhbGciOiJub25lIn0.abc1", "eyJhbGciOiJub25lIn0.abc1"),
        ("XX82 WEST 1234 5698 7654 32", "XX82 WEST 1234 5698 7654 32"),
        ("password: |\n  a1\n\n  b2\nhost: a", "password: |\n  [redacted:password]\nhost: a"),
        (" token:\n  - a1\n - b2", " token:\n  - [redacted:token]\n - b2"),
        ("errors:\n  password:\n    is too short", "errors:\n  password:\n    is too short"),
        (
            '["Authorization: Digest user=\\"bob\\", response=\\"a1\\"", "b"]',
            '["Authorization: [redacted:authorization]", "b"]',
        ),
        ("user%5Bpassword%5D=a1&b=2", "user%5Bpassword%5D=[redacted:password]&b=2"),
        ("mysql -u root -pa1 shop", "mysql -u root -p[redacted:password] shop"),
        ("docker run -u 1000:1000 -p 80:80", "docker run -u 1000:1000 -p 80:80"),
        ("PASSWORD 'a1' EXPIRE", "PASSWORD '[redacted:password]' EXPIRE"),
        ("Unexpected token 'utf8'", "Unexpected token 'utf8'"),
        ("your verification code is 481516", "your verification code is [redacted:otp]"),
        ("the security code is 1234567890", "the security code is 1234567890"),
        ("password reset to 12345678", "password reset to [redacted:password]"),
        ("AUTH PLAIN AGJvYgBwdw==\\r\\n (1)", "AUTH PLAIN [redacted:password]\\r\\n (1)"),
        ("key ACCAHODZDOC9IS0J8HT9 used", "key [redacted:aws] used"),
        ("AKIAHODZDOC9IS0J8HT9/20260101/s3", "[redacted:aws]/20260101/s3"),
        ("gloas-Ab12Cd34Ef56Gh78Ij90", "[redacted:gitlab]"),
        ("LTAIAb12Cd34Ef56Gh789", "[redacted:token]"),
        ("key_Ab12Cd34Ef56Gh78Ij90", "[redacted:token]"),
        (
            f"$argon2id$v=19$m=65536,t=3,p=4$Ab+2Cd/4Ef5$Gh78Ij90{'Ab12' * 6}",
            "[redacted:password-hash]",
        ),
        ("no password 'OAuth2Session' there", "no password 'OAuth2Session' there"),
        ("smtp_pass=12345678, passes=12345678", "smtp_pass=[redacted:password], passes=12345678"),
    ],
)
def test_what_stands_around_a_secret_stays(text: str, expected: str) -> None:
    """The marker says what it was."""
    assert DEFAULT.text(text) == expected


@pytest.mark.parametrize("word", ["unlocked", "default", "open", "required", "string", "expired"])
def test_any_word_may_be_a_password_but_in_prose(word: str) -> None:
    """As a field, in JSON, in what shows an object; behind a colon alone it is a state."""
    for name in ("password", "db_secret", "Passphrase"):
        mark = f"[redacted:{DEFAULT.kind(name)}]"
        assert DEFAULT.value({name: word}) == {name: mark}
        for text in (
            '{"§": "@"}',
            "{'§': '@'}",
            '{"a": "{\\"§\\":\\"@\\"}"}',
            "§: '@'",
            "U(§='@')",
        ):
            named = text.replace("§", name)
            assert DEFAULT.text(named.replace("@", word)) == named.replace("@", mark)
        for text in (f"{name}: {word}", f"the {name} {word}", f"{name} is {word} now"):
            assert DEFAULT.text(text) == text
    for text in ('{"token": "expired"}', '{"session": "closed"}', '{"password": null}'):
        assert DEFAULT.text(text) == text


@pytest.mark.parametrize(
    "name",
    [
        *("password_for_db", "passwordOfUser", "token_for_github", "secret-for-app", "pwdhash"),
        *("passwordHash", "pwhash", "passhash", "db_pass", "secretValue", "mysql_pwd"),
        *("pwdConfirm", "tokenhash", "pasword", "apiKeyForMaps"),
    ],
)
def test_words_around_a_secret_s_name_are_no_other_name(name: str) -> None:
    """Whose it is, and in which form."""
    assert DEFAULT.field(name, "x1") == f"[redacted:{DEFAULT.kind(name)}]"
    assert DEFAULT.text(f"a {name}=x1") == f"a {name}=[redacted:{DEFAULT.kind(name)}]"


@pytest.mark.parametrize(
    "name",
    [
        "password_for",
        "length_of_password",
        "reason_for_token",
        "password_reset_for_user",
        "pwdchanged",
        "tokens_of_prompt",
        "tokensForPrompt",
        "sessions_for_user",
    ],
)
def test_what_is_said_of_a_secret_is_none(name: str) -> None:
    """How many there are, whose is about them."""
    assert DEFAULT.field(name, 512) == 512
    assert DEFAULT.text(f"a {name}=512") == f"a {name}=512"


@pytest.mark.parametrize("start", ["EAAB", "EAAC", "AC12", "0012", "AD25"])
def test_a_uuid_is_no_token_in_any_case(start: str) -> None:
    """Though it begins as one that somebody issues; with hyphens and without."""
    for text in (f"{start}1234-ABCD-4ABC-9ABC-1234567890AB", f"{start}{'1A2B3C4D' * 3}5E6F"):
        for each in (
            text,
            text.lower(),
            f"id {text}, {text}.txt, x-{text}",
            {"id": text},
            f"?a={text}&b=1",
        ):
            assert PERSONAL.value(each) == each


def test_names_patterns_and_exceptions_are_given() -> None:
    """In any style, as for the names that are known."""
    redaction = Redaction(["tenant code"], [r"ACME-\d{4}"], ["session_id"])
    assert redaction.value({"tenantCode": "a", "session-id": "b", "session": "c"}) == {
        "tenantCode": "[redacted:key]",
        "session-id": "b",
        "session": "[redacted:session]",
    }
    assert (
        redaction.text("x ACME-1234 tenant_code=a")
        == "x [redacted:pattern] tenant_code=[redacted:key]"
    )
    assert redaction == Redaction(["tenant code"], [r"ACME-\d{4}"], ["session_id"])
    assert len({redaction, Redaction(), DEFAULT}) == 2


@pytest.mark.parametrize(
    "given",
    [{"patterns": ["("]}, {"keys": "password"}, {"allow": "x"}]
    + [{"who": "user_id", "personal": each} for each in (True, False)],
)
def test_what_is_invalid_is_reported_when_it_is_made(given: dict[str, Any]) -> None:
    """Not by the first line."""
    with pytest.raises(ConfigurationError, match="Redaction: "):
        Redaction(**given)


def test_personal_data_goes_on_request() -> None:
    """Addresses and phone numbers; and the keys of ``who`` are hashed, to be searched for."""
    text = "bob@example.com at 10.0.0.1 or 2001:db8::1 called +1 415 555 2671 or (415) 555-2671"
    assert DEFAULT.text(text) == text
    assert PERSONAL.text(text) == (
        "[redacted:email] at [redacted:ip] or [redacted:ip]"
        " called [redacted:phone] or [redacted:phone]"
    )
    for harmless in ("at 12:30:01.5", "version 1.2.3", "999.1.2.3", "a@b", "2026-11-26", "5 + 12"):
        assert PERSONAL.text(harmless) == harmless
    for name in ("phone", "mobile", "user.phone_number", "homePhone", "TEL"):
        for number in ("4155552671", 4155552671, "415.555.2671"):
            assert PERSONAL.field(name, number) == "[redacted:phone]"
            assert DEFAULT.field(name, number) == number
    fields = {"phone_count": 1234567, "microphone": "1234567", "phone": "unknown", "no": 1234567}
    assert PERSONAL.value(fields) == fields
    hashed = PERSONAL.field("user_id", "u-42")
    assert hashed == PERSONAL.pseudonym("u-42") == PERSONAL.field("user_id", hashed) != "u-42"
    assert hashed != Redaction(personal=True, who=["user_id"]).field("user_id", "u-42")
    assert PERSONAL.field("user_id", None) is None
    assert Redaction(personal=True).for_who(["tenant"]).field("tenant", 5).startswith("who:")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("10.0.0.1:8080 refused", "[redacted:ip]:8080 refused"),
        ("peer=10.0.0.1:443.", "peer=[redacted:ip]:443."),
        ("http://10.1.2.3:80/x", "http://[redacted:ip]:80/x"),
        ("[2001:db8::1]:443", "[[redacted:ip]]:443"),
        ("version 1.2.3.4", "version 1.2.3.4"),
        ("sdk==1.2.3.4 v1.2.3.4 Lib/1.2.3.4", "sdk==1.2.3.4 v1.2.3.4 Lib/1.2.3.4"),
        ("foo-1.2.3.4.tar.gz 1.2.3.4-alpha", "foo-1.2.3.4.tar.gz 1.2.3.4-alpha"),
        ("a::b, std::vector, ::", "a::b, std::vector, ::"),
        ("1 234 567 8901 and 0150 123 456 78 9", "1 234 567 8901 and [redacted:phone]"),
        ("id 1764 176 278 0000 or 415 555 2671 22", "id 1764 176 278 0000 or 415 555 2671 22"),
    ],
)
def test_versions_and_long_numbers_are_no_personal_data(text: str, expected: str) -> None:
    """An address with a port is."""
    assert PERSONAL.text(text) == expected


@pytest.mark.parametrize(
    "number",
    [
        *("(030) 1234567", "+49 (0)30 1234567", "030/1234567", "030 / 123456", "030-1234567"),
        *("0049 30 1234567", "(040)1234567", "(+49) 30 123456", "0800 123 456", "06 12 34 56 78"),
        *("06.12.34.56.78", "+44 20 7946 0958", "(020) 7946 0958", "07700 900123"),
        *("+1-415-555-2671", "+41 44 668 18 00", "0171/12 34 567"),
    ],
)
def test_phone_numbers_are_written_in_many_ways(number: str) -> None:
    """With an area code in brackets, behind a slash, with what is left out from abroad."""
    for text in ("{}", "call {} now", "Tel.: {}, Fax", "tel={}", '{{"a": "{}"}}', "({})"):
        assert PERSONAL.text(text.format(number)) == text.format("[redacted:phone]")
    assert DEFAULT.text(number) == number


@pytest.mark.parametrize(
    "text",
    [
        *("01-02-2026", "01 02 2026", "01/02/2026", "2026-01-02 03:04:05"),
        *("27/Nov/2026:09:57:58 +0000", "+0200 2026-11", "0.5 1234567", "0;12345678"),
        *("$1 234 567.89", "007-12", "0 123 456", "v0.12.3456789", "01.02.2026 12:30"),
        *("0x1234567", "rows 0-1234567", "a(030)", "3/12345678", "00012345678", "10.20.30.40.50"),
        "(0) 1234567",
    ],
)
def test_dates_prices_versions_and_ids_are_no_phone_numbers(text: str) -> None:
    """However they are written."""
    assert PERSONAL.text(text) == text


@pytest.mark.parametrize("key", ["tenant code", "tenantCode", "TENANT_CODE", "tenantcode"])
@pytest.mark.parametrize("name", ["tenant_code", "tenantCode", "TENANTCODE", "my.tenant-code"])
def test_own_names_are_known_in_one_word_and_in_several(key: str, name: str) -> None:
    """In any style of either."""
    redaction = Redaction([key])
    assert redaction.field(name, "x1") == "[redacted:key]"
    assert redaction.text(f"{name}=x1 tenant=a") == f"{name}=[redacted:key] tenant=a"


@pytest.mark.parametrize("name", ["clé", "CLÉ", "cle", "cle_client", "masterCle"])
def test_own_names_are_known_with_accents_and_without(name: str) -> None:
    """Also inside a text; a longer word is another one."""
    redaction = Redaction(["clé"])
    assert redaction.text(f"{name}=x1, article=b") == f"{name}=[redacted:key], article=b"


@pytest.mark.parametrize("sign", [*",;:/\\|^~@#$%&=+*?!.-_()[]{}>", "%20", "$("])
def test_a_secret_with_signs_in_it_is_gone_as_a_whole(sign: str) -> None:
    """Wherever it stands; without quotes it ends where another field begins."""
    secret = f"Zebra{sign}Quark9"
    for text in (
        f"https://x/a?user=bob&password={quote(secret, safe='')}&n=1",
        f"user=bob&password={quote_plus(secret)}&n=1",
        repr({"user": "bob", "password": secret, "n": 1}),
        json.dumps({"body": json.dumps({"password": secret})}),
        f"cfg['password'] = {secret!r}",
        f"INSERT INTO users (name, password) VALUES ('bob', '{secret}')",
        str(["mysql", "--password", secret, "shop"]),
        f"user=bob password={secret} host=x",
        f"password={sign}Quark9 host=x" if sign not in "%&>" else f"password={secret}",
    ):
        found = DEFAULT.text(text)
        assert "Zebra" not in found
        assert "Quark" not in found
        assert ("n=1" in text) == ("n=1" in found)


@pytest.mark.parametrize(
    ("items", "expected"),
    [
        (["curl", "-u", "bob:x1"], ["curl", "-u", "bob:[redacted:password]"]),
        (("a", "--pin", "x1", 5, None), ("a", "--pin", "[redacted:otp]", 5, None)),
        (["a', 'b", "-x", "c"], ["a', 'b", "-x", "c"]),
        (["a', 'b", "--pin", "x1"], ["', 'a', 'b', '--pin', '[redacted:otp]', '"]),
        (["pin", "x1"], ["pin", "[redacted:otp]"]),
        (["pin", "token"], ["pin", "token"]),
        ([None, "x1"], [None, "x1"]),
        ([["a", "--pin", "x1"]], [["a", "--pin", "[redacted:otp]"]]),
        (["ls", "-la"], ["ls", "-la"]),
    ],
)
def test_the_arguments_of_a_command_are_looked_at_together(items: Any, expected: Any) -> None:
    """Each is an item still, unless an item looks like two."""
    assert DEFAULT.value(items) == expected


@cache
def long_secret(length: int) -> tuple[str, set[str]]:
    """Return one, and all of its parts."""
    letters = "abcdefghijkmnpqrstuvwxyzABCDEFGH23456789"
    secret = "".join(random.Random(length).choices(letters, k=length))
    return secret, {secret[at : at + 12] for at in range(length - 12)}


_LONG_SECRETS = [
    "POST /saml/acs body SAMLResponse={}&RelayState=x",
    '{{"user": "bob", "session": "{}", "rest": "a b"}}',
    '{{"note": "{{\\"refresh_token\\": \\"{}\\"}}"}}',
    "Cookie: sid={}; b=c\nHost: x",
    "Authorization: token {}",
    "sent bearer {} to the peer",
    "got eyJhbGciOiJIUzI1NiJ9.eyJ{}.abcd back",
    "<password>{}</password>",
    "run --token {} --quiet",
    "token%3D{}%26a%3D1",
]


@pytest.mark.parametrize("form", _LONG_SECRETS)
@pytest.mark.parametrize("length", [9_000, 66_000])
@pytest.mark.parametrize("before", [0, 32_700, 60_000])
def test_no_part_of_a_long_secret_stays(form: str, length: int, before: int) -> None:
    """Neither where its text is cut before it is looked at, nor where it is cut behind."""
    secret, parts = long_secret(length)
    found = plain(f"{'so ' * (before // 3)}{form.format(secret)} {'on ' * 20}")
    assert [found[at : at + 12] for at in range(len(found)) if found[at : at + 12] in parts] == []
    assert len(found) <= 8192
    assert "[redacted:" in found or "more]" in found
    assert found.endswith("on ")


def test_what_is_cut_says_how_much_is_left_out() -> None:
    """Words that the cut breaks go as a whole; a key of a mapping is cut as a value is."""
    assert plain("ab " * 40_000).count(" more]") == 1
    assert plain("pin=" + "a1" * 40_000 + " end") == "pin=[redacted:otp] …[47236 more]…  end"
    assert plain({"pin=" + "a1" * 200: 1}) == {"pin=[redacted:otp]": 1}
    words = "Zebra quark 9 " * 800
    assert (
        plain(f'{{"password": "{words}", "a": 1}}') == '{"password": "[redacted:password]", "a": 1}'
    )


def test_a_named_tuple_has_names() -> None:
    """One of them may be a secret's."""
    login = namedtuple("login", "user password")("bob", "x1Secret")
    assert plain([login]) == [{"user": "bob", "password": "[redacted:password]"}]
    assert field("a", login) == {"user": "bob", "password": "[redacted:password]"}


def test_colours_stay_where_there_is_no_secret() -> None:
    """A text with one loses them."""
    assert DEFAULT.text("\x1b[1mpin\x1b[0m=\x1b[31mx1\x1b[0m") == "pin=[redacted:otp]"
    assert DEFAULT.text("\x1b[1mn\x1b[0m=\x1b[31mx1\x1b[0m") == "\x1b[1mn\x1b[0m=\x1b[31mx1\x1b[0m"


def test_redact_false_takes_nothing_out() -> None:
    """``redact=False``."""
    for secret, name, value in VALUES[:50]:
        assert secret in repr(OFF.value({name: bounded(value)})) or isinstance(value, int)
    assert OFF.text("password=x") == "password=x"
    assert OFF.value(["x"]) == ["x"]


_PIECES = (
    [text for _, text in TEXTS[::7]]
    + NEIGHBOURS[:60]
    + ["=", ": ", "\\", '"', "'", "%3D", "(", "{"]
)


@given(
    st.one_of(st.text(max_size=200), st.lists(st.sampled_from(_PIECES), max_size=6).map("".join))
)
@example("token=(token=(" * 700)
@example("password='a\\'")
@example("Pass=0()0")
@example("'COOKIE:A'0")
@example("sshpass -p0 -p0")
@example('COOKIE=A"0')
@example("COOKIE:A\\n")
@example(f"AIza{'0' * 32};ABEARER 000000Aa")
@example("TOKEN 0000000A:00 00000")
@example(f"dt0a00.{'0' * 24}.{'A' * 64}rk_test_00000000")
def test_redacting_twice_changes_nothing_more(text: str) -> None:
    """Idempotent and total, for any text, with and without personal data."""
    for redaction in (DEFAULT, PERSONAL):
        found = redaction.text(text)
        assert redaction.text(found) == found


_NAMES = [*("a", "tokens", "password", "user_id", "name", "value", "loc", "input", "kty", "d")]
_NAMES += [*("sessions", "phone", "auth", "pin=x1", "default", "type", "--pin", "x1", "unlocked")]
_STRINGS = st.sampled_from([*_NAMES, *_PIECES])
_FIELDS: Any = st.dictionaries(
    _STRINGS,
    st.recursive(
        st.one_of(_STRINGS, st.sampled_from([None, True, 512, 4111111111111111])),
        lambda inner: st.one_of(
            st.lists(inner, max_size=4),
            st.tuples(_STRINGS, inner),
            st.dictionaries(_STRINGS, inner, max_size=4),
        ),
        max_leaves=8,
    ),
    max_size=3,
)


@settings(max_examples=40)  # of thousands that were tried once
@given(_FIELDS)
@example({"tokens": ["token=abc"]})
@example({"a": ["--pin 1", 'form-data; name="pin"\r\n\r\n[redacted:otp]', "b"]})
@example({"pin=x1": "000"})
@example({"a": ("user_id", 4111111111111111)})
@example({"a": [("tokens", "A"), planted.LOOKS[-17]]})
@example({"a": (None, "--pin x1\\")})
def test_once_is_enough_for_nested_values_too(fields: dict[str, Any]) -> None:
    """Idempotent: what was left at first does not look like a secret without what was taken out."""
    for redaction in (DEFAULT, PERSONAL):
        found = redaction.value(fields)
        assert redaction.value(found) == found


_HOSTILE = [
    *("a", "a:", "a=", "password=", "password='", 'password="\\', "eyJ-", "eyJa.eyJa.", "://a:"),
    *("://", "1 ", "1", "4111-", "AB12 ", "bearer ", "Basic ", "<password>", "--password "),
    *("%3D", "\\", '\\"', "cookie: a;", "sk-", "token(", "token=(", "token={", "a.b-c_", "[a"),
    *("x[a]", '("a", ', "a@", "a.a@", "1.1.1.1", "1:", "+1 ", "%25", "&quot;", "xoxb-", "key_"),
    *("a_sk_", "authorization: ", "password=,,", "password=&a&a", "M" * 25 + "."),
    *("-----BEGIN RSA PRIVATE KEY-----", "://a:a", "GB82 WEST ", "sk_a1", "password%3D"),
    *("\u00e9", "0-", "a" * 15 + " ", "token=[", "pass ", "key:key:", "(('", "token='\n"),
    *("https://a/hook/a1b2", "mysql zip -p a", "PASSWORD 'a", "password is 'Aa1"),
    *("password: |\n  a", "secret:\n  - a1\n", "name: token\n  value: ", "Ab1_", "eyJ."),
    *("dp.pt.a.", "?code=aaaaaaaa&a&", "jdbc:oracle:thin:a/a", "authorization: Aa "),
    *('cookie: "a"; ', "Private-Lines: ", "пароль=", "password={{", "secret: !a "),
    *('password={"type": "string", ', "insert into t(password) values ('", "insert into t (a,"),
    *("password  a\n", "'loc': ('a', 'password') ", "\npassword\n  a input_value"),
    *('form-data; name="password"\nA', '<a name="password" ', "&lt;password&gt;", "\x1b[0m"),
    *("token=a.b.", "token=a(a,", 'password=["is ', "'--password', "),
    *("password=[", "password=['***', ", "Cookie: a=***; ", "[REDACTED", "a:b:1:", "${{", "$1 = "),
    *("net user a ", "net use a b ", "parameters: $1 = 'a', ", "password = f(", "key='aA1"),
    *("machine a login b password ", "a:5432:b:c:", '"AUTH" ', "IDENTIFIED BY "),
    *("name: token, value ", "postgres://a:b@c", 'password="[redacted:password]" -> "a" '),
    *("token=“a ", "authorization: token a1/", "authorization: Aa+", "de89", "4111.", "a$a"),
    *("AUTH a1 ", "sqlcmd -P a ", "password is set to ", "kty 'd': 'a1", "login a password a "),
    *("-u a -p a ", "http -a a:a ", "A1 LOGIN a ", "login('a', 'b', ", "?state=a&a&"),
    *("12345 is your a ", "name: /a/password ", "name='a' b='c' value=", "(030) ", "+49 (0)"),
    *("06 12 ", "password_for_", "**password:** ", "[cached since 1] ('a', ", "PWD={a};"),
    "Authorization: a b:",
]


@pytest.mark.parametrize("piece", _HOSTILE)
def test_a_hostile_text_takes_linear_time(piece: str) -> None:
    """60,000 characters of anything in a fraction of a second: more than that in no field."""
    text = piece * (60_000 // len(piece))
    redaction = Redaction(personal=True)
    assert is_done_within(2.0, redaction.text, text)  # measured: 0.35 s at most
    text = text[:6_000]
    once = DEFAULT.text(text)
    assert DEFAULT.text(once) == once
    assert len(redaction.text(text)) <= len(text) * 20


@pytest.mark.parametrize("name", ["trace_id", "span_id", "parent_span_id", "traceparent"])
def test_an_id_of_ours_is_no_card_whatever_its_digits(name: str) -> None:
    """One in some thousands passes a card's checksum."""
    assert DEFAULT.field(name, "4111111111111111") == "4111111111111111"
    assert DEFAULT.field("note", "4111111111111111") == "[redacted:card]"
    given = "Bearer abcDEF123456ghijk"  # by the application, or by a client of it
    assert DEFAULT.field(name, given) == DEFAULT.value({name: given})[name] == DEFAULT.text(given)
    assert given != DEFAULT.text(given)


def test_a_lines_own_time_is_no_secret_and_is_not_remembered() -> None:
    """It is another one each time, and a pattern of the application's does not cut it to pieces."""
    redaction = Redaction(patterns=[r"\d{4}-\d\d-\d\d"])
    for number in range(1000, 2000):
        time_of_line = f"2026-07-01T12:30:00.00{number}Z"
        assert redaction.field("timestamp", time_of_line) == time_of_line
    assert time_of_line not in redaction.seen
    for other in ("2026-07-01", "2026-07-01T12:30:00.001999Z or so"):  # a field of that name
        assert "[redacted:pattern]" in redaction.field("timestamp", other)
    assert DEFAULT.field("timestamp", "4111111111111111") == "[redacted:card]"


def test_what_is_encoded_too_often_is_left_as_it_is() -> None:
    """An address in one in another is looked into; no service has more."""
    text = "password=hunter2x"
    for _ in range(5):
        text = quote(text, safe="")
    assert DEFAULT.text(text) == text


def test_own_patterns_leave_what_was_taken_out() -> None:
    """A marker that a pattern matches is no secret; one that matches nothing is none either."""
    own = Redaction(patterns=[r"\b[a-z]{9}\b", "pattern"])
    once = own.text("id abcdefghi, password=x1Secret, a pattern")
    assert once == "id [redacted:pattern], password=[redacted:password], a [redacted:pattern]"
    assert own.text(once) == once
    with pytest.raises(ConfigurationError, match="match no empty text"):
        Redaction(patterns=["(?:ACME)?"])


@pytest.mark.parametrize(
    "secret",
    [
        "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",
        "ghp_iVjGpZNFtIedSlYZAGRvoAIwrJwYKoufDiPu",
        "sk_live_nbNEYaXsUoxvsibMkIIrSmLQ",
        "AKIAMUDFOZGLDAXDVHAL",
    ],
)
def test_an_issued_token_without_a_digit_is_no_name_of_words(secret: str) -> None:
    assert secret not in Redaction().text(f"took {secret} along")
    for name in ("hf_HuggingFaceTransformersModel", "key_SomeCamelCaseNameOfThing"):
        assert Redaction().text(f"took {name} along") == f"took {name} along"


@pytest.mark.parametrize(
    "number",
    ["4111111111111111", "4111 1111 1111 1111", "3782-822463-10005", "3056 930902 5904"],
)
def test_a_card_beside_another_number_is_one(number: str) -> None:
    for text in ("card {} 12/27", "order 42 {} of 3", "paid {} 25.00 EUR", "100 {}"):
        assert Redaction().text(text.format(number)) == text.format("[redacted:card]")
    assert Redaction().text("order 42 4111111111111112 of 3") == "order 42 4111111111111112 of 3"


def with_checksum(digits: str) -> str:
    """Return *digits* and the one that ends a card's number."""
    doubled = "".join(str(int(d) * (2 - n % 2)) for n, d in enumerate(reversed(digits)))
    return digits + str(-sum(map(int, doubled)) % 10)


@pytest.mark.parametrize("begin", ["4", "41", "6304", "6759", "5018", "6011", "62", "8100", "8171"])
def test_a_card_has_up_to_19_digits(begin: str) -> None:
    """As ISO 7812 and the issuers have it; an id of so many digits begins with others."""
    number = with_checksum((begin + "830274196502837465")[:18])
    groups = " ".join(number[at : at + 4] for at in range(0, 19, 4))
    for each in (number, groups):
        assert Redaction().text(f"paid by {each}") == "paid by [redacted:card]"
    wrong = number[:-1] + str((int(number[-1]) + 1) % 10)
    assert Redaction().value([int(number), int(wrong)]) == ["[redacted:card]", int(wrong)]


@pytest.mark.parametrize("begin", ["1", "2", "7", "80", "8172", "9", "175", "5", "6305"])
def test_an_id_of_19_digits_stays(begin: str) -> None:
    """A time in ns, a Snowflake, a number of a trace: one in ten has a card's checksum."""
    number = with_checksum((begin + "9302741965028374")[:18].ljust(18, "0"))
    assert Redaction().text(f"message {number} came") == f"message {number} came"


def test_a_key_of_json_may_be_escaped() -> None:
    """Another writer may escape any letter, and Python's each one that is not ASCII."""
    for text in (
        r'{"p\u0061ssword": "b1 c2", "name": "Jos\u00e9"}',
        r'{"\u0070assword": "b1 c2", "name": "Jos\u00e9"}',
        json.dumps({"пароль": "b1 c2", "name": "José"}),
        json.dumps({"contraseña": "b1 c2", "name": "José"}),
    ):
        for each in (text, json.dumps(text)):
            found = Redaction().text(each)
            assert "b1 c2" not in found
            assert "[redacted:password]" in found
            assert r"Jos\u00e9" in found.replace(r"\\", "\\")
    for text in (r'{"caf\u00e9": "b1 c2"}', r'{"n\u0061me": "b1 c2"}', r"C:\u0061ssets: a"):
        assert Redaction().text(text) == text


@pytest.mark.parametrize(
    ("token", "mark"),
    [
        ("eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.dozjgNryP4J3jVmNHl0w5N", "jwt"),
        ("AKIAIOSFODNN7EXAMPL1", "aws"),
        ("ghp_16C7e42F292c6912E7710c838347Ae178B4a", "github"),
        ("sk_live_16C7e42F292c6912E7710c83", "stripe"),
        ("4111111111111111", "card"),
    ],
)
@pytest.mark.parametrize("before", ["user-", "id_", "job-run-", "a-b_c-"])
def test_what_is_known_by_its_looks_is_so_behind_the_words_of_an_id(
    token: str, mark: str, before: str
) -> None:
    assert DEFAULT.text(f"{before}{token} there") == f"{before}[redacted:{mark}] there"
    for text in (f"{before}ghp_short", f"{before}AKIA", f"{before}eyJ_is_how_a_token_begins_1"):
        assert DEFAULT.text(text) == text


_CODE = "SplxlOBeZQQYbYS6WxSbIA"


@pytest.mark.parametrize(
    "given",
    [
        f"code={_CODE}&state=xyz",
        f"state=xyz&scope=a&code={_CODE}",
        f"QUERY_STRING='code={_CODE}&state=xyz'",
        {"query_string": f"state=xyz&code={_CODE}"},
        {"code": _CODE, "state": "xyz"},
        {"code": [_CODE], "state": ["xyz"]},
        str({"code": _CODE, "state": "xyz"}),
        json.dumps({"state": "xyz", "scope": "a", "code": _CODE}),
        json.dumps({"body": json.dumps({"code": _CODE, "state": "xyz"})}),
    ],
)
def test_a_code_to_log_in_by_is_known_by_the_state_beside_it(given: Any) -> None:
    """What is around it stays, as do codes of errors and of places."""
    found = DEFAULT.value(given)
    assert str(found) == str(given).replace(_CODE, "[redacted:otp]")
    for code in ("E401", "validation_error", "VALIDATION_ERROR_2", "SomethingBad", "MUC-2024"):
        for made in (dict, lambda **of: str(dict(**of)), lambda **of: json.dumps(of)):
            other = made(code=code, state="open 1A")
            assert DEFAULT.value(other) == other
    for text in ("code=E401&state=open", "code=E401 state=open", f"zipcode={_CODE[:8]}&state=BY"):
        assert DEFAULT.text(text) == text


@pytest.mark.parametrize(
    "written",
    ["b'\\xff§'", "\\u0000§", json.dumps(json.dumps("\0§")), "b'\\xe9\\x01\\xb2§'", "\\x1b§"],
)
def test_a_secret_s_name_begins_behind_the_escape_of_a_byte(written: str) -> None:
    for text in ("password=a1Zq7x", "api_key: a1Zq7x", "wrong password 'a1Zq7x'", "Bearer a1Zq7x"):
        found = DEFAULT.text(written.replace("§", text))
        assert "a1Zq7x" not in found
        assert found.startswith(written.partition("§")[0])


@pytest.mark.parametrize(
    ("number", "mark"),
    [
        ("4111 1111 1111 1111", "card"),
        ("DE89 3704 0044 0532 0130 00", "iban"),
        ("de89 3704 0044 0532 0130 00", "iban"),
        ("gb82 west 1234 5698 7654 32", "iban"),
    ],
)
@pytest.mark.parametrize("space", [" ", "\u00a0", "\u202f"])
def test_a_number_in_groups_is_known_whatever_is_between(
    number: str, mark: str, space: str
) -> None:
    for text in ("paid by {} today", "{}", "{}, 25.00 EUR"):
        assert DEFAULT.text(text.format(number.replace(" ", space))) == text.format(
            f"[redacted:{mark}]"
        )
    other = number.replace("32", "23").replace("4111", "4112")
    for text in (other.replace(" ", space), "id42 with the next 4 of 10", "ab12 cd34 ef56"):
        assert DEFAULT.text(text) == text


def test_a_card_s_stripe_loses_its_number() -> None:
    stripe = "%B4111111111111111^DOE/J^2512101?;4111111111111111=25121010000?"
    found = stripe.replace("4111111111111111", "[redacted:card]")
    assert DEFAULT.text(stripe) == found
    assert DEFAULT.text(f"read {stripe}") == f"read {found}"


def _cycle() -> dict[str, Any]:
    found: dict[str, Any] = {"password": "a1"}
    found |= {"a": [found], "b": found, "token": found, "tokens": found}
    return found


@pytest.mark.parametrize("value", [_cycle(), [[_cycle()]]], ids=["mapping", "list"])
def test_of_a_value_that_is_in_itself_only_the_type_is_left(value: Any) -> None:
    mark = f"<unprintable {type(value).__name__}>"
    assert [DEFAULT.value(value), DEFAULT.field("a", value)] == [mark, mark]
    assert DEFAULT.field("password", value) == mark


def test_a_value_of_any_depth_is_looked_at_or_left_out() -> None:
    deep: Any = {"password": "a1"}
    for _ in range(5000):
        deep = [deep]
    assert DEFAULT.value(deep) == DEFAULT.field("a", deep) == "<unprintable list>"


def test_a_mapping_keeps_its_numbers_as_keys_each_time() -> None:
    """Also when the text of one was seen before."""
    for _ in range(2):
        assert DEFAULT.value({int("70512"): "a"}) == {70512: "a"}


def test_a_mapping_keeps_keys_that_are_no_text() -> None:
    """And loses the secrets under them, and in them; also where their texts were seen before."""
    assert [DEFAULT.text(str(each)) for each in (int("1"), None)] == ["1", "None"]
    value = {1: "a", None: 2, ("a",): {2.5: "token=a1"}, b"password": "a1", b"token=a1": 3}
    assert DEFAULT.value(value) == {
        1: "a",
        None: 2,
        ("a",): {2.5: "token=[redacted:token]"},
        b"password": "[redacted:password]",
        "b'token=[redacted:token]'": 3,
    }
    assert DEFAULT.field("password", {1: "a"}) == {"[redacted:password]": "[redacted:password]"}
    assert OFF.value(value) is OFF.field("password", value) is value
